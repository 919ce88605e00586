"""Samples: whole groups, of fixed held-out examples and of the training, written for people to look at."""

from __future__ import annotations

import copy
import io
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image

from saei.config.run import RunConfig
from saei.config.strategy import restore, state_of
from saei.data.base import Task
from saei.engine.grader import StepGrader
from saei.interventions.context import StepContext, Supply
from saei.policy import Policy
from saei.policy.pixels.space import to_image
from saei.rewards.base import Reward
from saei.runtime.samples import AttackedTokens, GroupSample, ResponseSample, Source, ViewSample
from saei.runtime.seeds import GroupSources, derive, seed_globals
from saei.samplers.base import Sampler
from saei.types import Drops, Group, Response, ScoredGroup, TrainGroup, View, ViewRecord


class HeldOutGroups:
    """Draws groups of the same held-out examples between steps, as the sampler draws them in training.

    Each draw has the same seeds, so that what differs between two evaluations is the policy. The sampler is a second
    one that takes over the state of the run's own and gives none back: nothing that steers the training is told of
    these groups.

    Args:
        config: The run's configuration.
        policy: The policy.
        sampler: The run's own.
        reward: Grades the responses.
        task: Its oracle answers changed questions.
        views: The examples' clean views.
    """

    def __init__(
        self,
        config: RunConfig,
        policy: Policy,
        *,
        sampler: Sampler,
        reward: Reward,
        task: Task,
        views: Sequence[View],
    ) -> None:
        self._config, self._policy, self._reward = config, policy, reward
        self._trained_with, self._views = sampler, views
        self._answer = task.answer if task.oracle else None
        self._sampler: Sampler | None = None

    def draw(self, step: int) -> list[ScoredGroup]:
        """Return the groups with their grades, none if none are due; all else stays as it was.

        Args:
            step: Steps done.
        """
        evaluation, training = self._config.evaluation, self._config.training
        due = step // evaluation.every % evaluation.held_out_every == 0 or step == training.steps
        if not self._views or not due:
            return []
        if self._sampler is None:
            self._sampler = self._config.sampler.build()
        restore(self._sampler, copy.deepcopy(state_of(self._trained_with)))
        seed_globals(derive(self._config.seed, "globals", "samples"))
        grader = StepGrader(self._reward)
        context = StepContext(
            policy=self._policy,
            progress=step / training.steps,
            sources=GroupSources(self._config.seed, "samples"),
            traced=True,
            answer=self._answer,
        )
        watching, self._policy.on_decoded = self._policy.on_decoded, None  # the gap is that of the training
        try:
            supply = Supply(grade=grader, graded=self._reward.graded)
            return grader.score(self._sampler.draw(self._views, context, supply)[: len(self._views)])
        finally:
            self._policy.on_decoded = watching


def training_samples(
    step: int,
    scored: Sequence[ScoredGroup],
    dropped: Sequence[Drops],
    trained: Sequence[TrainGroup],
    *,
    tokenizer: Any,
    pictures: int,
) -> list[GroupSample]:
    """Return the first groups of a step with their advantages.

    Args:
        step: Steps done after it.
        scored: This process's groups.
        dropped: For each of them what is not trained on.
        trained: Those of which something is, in the same order.
        tokenizer: Tells what the tokens are.
        pictures: Number of groups that are returned with their pictures; of none one is returned without.
    """
    remaining = iter(trained)
    samples = []
    for number, (group, drops) in enumerate(zip(scored, dropped, strict=True)):
        left = [n for n in range(len(group.grades)) if n not in drops]
        advantages = dict(zip(left, next(remaining).advantages, strict=True)) if left else {}
        if number < max(1, pictures):
            sample = group_sample(step, "training", number, group, tokenizer=tokenizer, pictures=number < pictures)
            responses = tuple(
                replace(response, advantage=advantages.get(n), dropped=drops.get(n))
                for n, response in enumerate(sample.responses)
            )
            samples.append(replace(sample, responses=responses))
    return samples


def group_sample(
    step: int, source: Source, number: int, scored: ScoredGroup, *, tokenizer: Any, pictures: bool = True
) -> GroupSample:
    """Return what is kept of a group.

    Args:
        step: Steps done.
        source: Where the example is from.
        number: The group's number among those of that source.
        scored: The group and its grades.
        tokenizer: Tells what the tokens are.
        pictures: Whether its pictures are kept.
    """
    group = scored.group
    records: Sequence[ViewRecord | None] = [None, *group.records]
    if len(records) != len(group.views):  # views that no intervention made
        records = [None] * len(group.views)
    views = [
        _view_sample(group, view, record, pictures=pictures) for view, record in zip(group.views, records, strict=True)
    ]
    responses = [
        ResponseSample(
            view=group.sampled_from[n],
            update_view=group.updated_on[n],
            text=response.text,
            ids=tuple(response.ids_T.tolist()),
            pieces=tuple(token_pieces(tokenizer, response.ids_T.tolist())),
            entropies=tuple(response.entropy_T.tolist()),
            logps=tuple(response.behaviour_logp_T.tolist()),
            truncated=response.truncated,
            reward=grade.reward,
            correct=grade.correct,
            parts=dict(grade.parts),
            extracted=grade.answer,
            reason=grade.reason,
            entropy=float(response.entropy_T.mean()) if len(response) else None,
        )
        for n, (response, grade) in enumerate(zip(group.responses, scored.grades, strict=True))
    ]
    return GroupSample(step, source, number, group.example.id, group.untouched, tuple(views), tuple(responses))


def _view_sample(group: Group, view: View, record: ViewRecord | None, *, pictures: bool) -> ViewSample:
    trace = None if record is None else record.trace
    return ViewSample(
        origin=view.origin,
        question=view.example.question,
        answer=view.example.answer,
        pictures=tuple(png(to_image(canvas)) for canvas in view.canvases) if pictures else (),
        seed=None if record is None else record.seed,
        strength=None if record is None else record.strength,
        distances={} if record is None else dict(record.distances),
        gradient_signs={} if trace is None else dict(trace.gradient_signs),
        gradients=tuple(map(_signs_png, trace.gradients)) if trace is not None and pictures else (),
        tokens=() if record is None else _attacked_tokens(group.responses, record),
    )


def _attacked_tokens(responses: Sequence[Response], record: ViewRecord) -> tuple[AttackedTokens, ...]:
    """Return what the attack looked at; a response that the group has no more is left out."""
    trace = record.trace
    if trace is None:
        return ()
    numbers = {id(response): n for n, response in enumerate(responses)}
    tokens = []
    for row, response in enumerate(trace.responses):
        n, length = numbers.get(id(response)), len(response)
        if n is not None:
            entropies = () if trace.entropy_NT is None else trace.entropy_NT[row, :length].tolist()
            tokens.append(AttackedTokens(n, tuple(trace.selected_NT[row, :length].tolist()), tuple(entropies)))
    return tuple(tokens)


def token_pieces(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """Return the text of each token, which together are the decoded whole, unless its bytes are no text.

    A character of several tokens counts as the last one's. Tokens are decoded behind the one before them, since
    tokenizers may treat the first one in another way.
    """

    def decoded(first: int, end: int) -> str:
        return str(tokenizer.decode(ids[first:end], skip_special_tokens=False, clean_up_tokenization_spaces=False))

    pieces: list[str] = []
    before = done = 0  # where the tokens of the last piece begin, and where they end
    for end in range(1, len(ids) + 1):
        text = decoded(before, end)
        if text.endswith("\N{REPLACEMENT CHARACTER}") and end < len(ids):  # the next token may complete it
            pieces.append("")
            continue
        pieces.append(text[len(decoded(before, done)) :])
        before, done = done, end
    return pieces


def png(picture: Image.Image) -> bytes:
    """Return a picture as PNG."""
    stream = io.BytesIO()
    picture.save(stream, format="PNG")
    return stream.getvalue()


def _signs_png(signs_CHW: torch.Tensor) -> bytes:
    """Return the signs of a gradient as a picture: 0 for negative, 128 for zero, 255 for positive."""
    levels_HWC = np.array([0, 128, 255], dtype=np.uint8)[signs_CHW.permute(1, 2, 0).numpy() + 1]
    return png(Image.fromarray(levels_HWC if levels_HWC.shape[2] == 3 else levels_HWC[..., 0]))
