"""Prefix once, responses many: what can be done with the views of one ``Policy.open``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from saei.config.run import SamplingConfig
from saei.policy.cache import make_room
from saei.policy.decoding import Draw, decode, uniforms
from saei.policy.module import Continuation, NextToken, Targets
from saei.policy.rows import (
    answer_arguments,
    lay_out,
    masks,
    position_argument,
    prompt_arguments,
    prompt_row,
    response_row,
    stack,
)
from saei.types import Response, View

if TYPE_CHECKING:
    from saei.policy.policy import Policy

Grad: TypeAlias = Literal["none", "pixels", "parameters"]
Result = TypeVar("Result")


@dataclass(frozen=True, eq=False, slots=True)
class Scores:
    """Teacher-forced statistics of one view's N responses, right-padded to the longest of them.

    Attributes:
        logp_NT: float32 log-probability of each token, 0 on padding and on tokens that were not selected.
        entropy_NT: float32 entropy in nats, 0 likewise; None if it was not asked for.
        mask_NT: bool, True on response tokens.
    """

    logp_NT: Tensor
    entropy_NT: Tensor | None
    mask_NT: Tensor

    def entropies(self) -> Tensor:
        """Return ``entropy_NT`` of scores that were asked for it."""
        assert self.entropy_NT is not None
        return self.entropy_NT


class Prefix:
    """The open views of a policy; a context manager that holds the gradient mode while it is open.

    Each scoring and sampling computes the prompts once for all of its responses and frees their cache at its end.

    Args:
        policy: The policy.
        views: What it looks at.
        grad: What scoring may be differentiated by.
        pixels: Canvases that replace the views' own, in order, possibly requiring a gradient.
    """

    def __init__(
        self, policy: Policy, views: Sequence[View], grad: Grad = "none", pixels: Sequence[Tensor] | None = None
    ) -> None:
        self._policy = policy
        self._views = tuple(views)
        self._grad = grad
        own = [canvas for view in views for canvas in view.canvases]
        self._canvases = _split(own if pixels is None else list(pixels), [len(view.canvases) for view in views])
        self._stack = ExitStack()

    def __enter__(self) -> Prefix:
        self._stack.enter_context(torch.set_grad_enabled(self._grad != "none"))
        if self._grad == "pixels":
            self._stack.enter_context(_no_sync(self._policy.module))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _in_passes(self, run: Callable[[Prefix, Sequence[int]], list[Result]]) -> list[Result]:
        """Run on all views together, or on those of one number of images at a time if rows feel each other's images.

        They do where a mask says which tokens look at which images: what it leaves out is not left out everywhere.
        """
        counts = [len(view.canvases) for view in self._views]
        masked = any(own.ndim > 2 for view in self._views for own in view.token_inputs.values())
        if not masked or len(set(counts)) == 1:
            return run(self, range(len(counts)))
        results: dict[int, Result] = {}
        for count in sorted(set(counts)):
            numbers = [number for number, own in enumerate(counts) if own == count]
            canvases = [canvas for number in numbers for canvas in self._canvases[number]]
            part = Prefix(self._policy, [self._views[number] for number in numbers], self._grad, canvases)
            results |= zip(numbers, run(part, numbers), strict=True)
        return [results[number] for number in range(len(counts))]

    def score(
        self,
        responses: Sequence[Sequence[Response]],
        *,
        with_entropy: bool = True,
        selected: Sequence[Tensor] | None = None,
    ) -> list[Scores]:
        """Score responses under their views.

        Args:
            responses: For each view its responses; all of them may be empty for a view.
            with_entropy: Whether entropies are wanted.
            selected: For each view ``[N, T]`` bool, the tokens to score; the others cost no head. None for all.
        """

        def run(part: Prefix, numbers: Sequence[int]) -> list[Scores]:
            chosen = None if selected is None else [selected[number] for number in numbers]
            return part._score([responses[number] for number in numbers], with_entropy, chosen)

        return self._in_passes(run)

    def _score(
        self, responses: Sequence[Sequence[Response]], with_entropy: bool, selected: Sequence[Tensor] | None
    ) -> list[Scores]:
        policy = self._policy
        ids = [[response.ids_T for response in own] for own in responses]
        if not any(len(ids_T) for own in ids for ids_T in own):
            return [_padded(own, None, torch.zeros(0) if with_entropy else None) for own in ids]
        layout = lay_out(self._views, ids, shared=policy.shared_prefix, left=policy.windowed)
        rows, answers = layout.rows, layout.answers
        inputs = {
            **prompt_arguments(rows),
            "use_cache": answers is not None,
            **policy.pixels.inputs([self._canvases[number] for number in layout.views]),
        }
        continuation = None
        if answers is not None:
            seen_RS = torch.cat([rows.valid_BS[layout.parent_R], answers.valid_BS], dim=1)
            continuation = Continuation(layout.parent_R, answer_arguments(answers, seen_RS))
        # `entropy.temperature` is the criterion's; an update trains the entropy of the policy as it samples.
        update = self._grad == "parameters"
        distribution = policy.distribution_of(policy.sampling) if update else policy.distribution
        source_M, target_M, keep_M = layout.source_M, layout.target_M, _flat(selected, ids)
        if keep_M is not None:
            source_M, target_M = source_M[keep_M], target_M[keep_M]
        targets = Targets(source_M, target_M, distribution, with_entropy, hidden_only=self._grad == "pixels")
        logp_M, entropy_M = policy.module(inputs, targets, continuation)
        if keep_M is not None:
            logp_M = _at(keep_M, logp_M)
            entropy_M = None if entropy_M is None else _at(keep_M, entropy_M)
        counts = [sum(map(len, own)) for own in ids]
        logps = logp_M.split(counts)
        entropies = entropy_M.split(counts) if entropy_M is not None else [None] * len(counts)
        return [_padded(own, logp, entropy) for own, logp, entropy in zip(ids, logps, entropies, strict=True)]

    @torch.no_grad()
    def sample(
        self,
        counts: Sequence[int],
        *,
        generator: torch.Generator | Sequence[torch.Generator],
        sampling: SamplingConfig | None = None,
    ) -> list[list[Response]]:
        """Draw responses: each view's prompt is computed once, and the responses of all views are decoded together.

        Args:
            counts: How many responses each view gets.
            generator: Source of all randomness, on the CPU; several, one per view, make the responses to a view
                independent of the views that it is opened with.
            sampling: How evaluation draws, with entropies before top-p and top-k; None draws from the policy as it
                is trained, with the entropies that its criterion uses.
        """

        def run(part: Prefix, numbers: Sequence[int]) -> list[list[Response]]:
            own = generator if isinstance(generator, torch.Generator) else [generator[number] for number in numbers]
            return part._sample([counts[number] for number in numbers], own, sampling)

        return self._in_passes(run)

    def _sample(
        self,
        counts: Sequence[int],
        generator: torch.Generator | Sequence[torch.Generator],
        sampling: SamplingConfig | None,
    ) -> list[list[Response]]:
        wanted = [number for number, count in enumerate(counts) if count > 0]
        if not wanted:
            return [[] for _ in counts]
        if not isinstance(generator, torch.Generator):
            generator = [generator[number] for number in wanted]
        draw = self._draw(wanted, [counts[number] for number in wanted], sampling, generator)
        policy = self._policy
        ids = [row[:length].cpu() for row, length in zip(draw.ids_RT, draw.length_R.tolist(), strict=True)]
        texts = policy.tokenizer.batch_decode(ids, skip_special_tokens=True)
        drawn = iter(
            Response(
                ids_T=ids_T.to(policy.device),
                text=text,
                behaviour_logp_T=draw.logp_RT[number, : len(ids_T)].clone(),
                entropy_T=draw.entropy_RT[number, : len(ids_T)].clone(),
                truncated=bool(draw.truncated_R[number]),
            )
            for number, (ids_T, text) in enumerate(zip(ids, texts, strict=True))
        )
        return [[next(drawn) for _ in range(count)] for count in counts]

    def _draw(
        self,
        wanted: list[int],
        counts: list[int],
        sampling: SamplingConfig | None,
        generator: torch.Generator | Sequence[torch.Generator],
    ) -> Draw:
        policy = self._policy
        views = [self._views[number] for number in wanted]
        canvases = [self._canvases[number] for number in wanted]
        expand_R = torch.repeat_interleave(torch.tensor(counts))
        if not policy.shared_prefix:
            views = [views[number] for number in expand_R.tolist()]
            canvases = [canvases[number] for number in expand_R.tolist()]
        # Prompts are padded on the left, so that every row's last column predicts its first response token.
        rows = stack([prompt_row(view) for view in views], left=True)
        first: NextToken = policy.module(
            {**prompt_arguments(rows), "use_cache": True, **policy.pixels.inputs(canvases)}
        )
        logits_RV, width = first.logits_BV, rows.ids_BS.shape[1]
        tokens = stack([response_row(view, view.prompt_ids_P[:1]) for view in views])  # stands for any token to come
        if policy.shared_prefix:
            expand_R = expand_R.to(policy.device)
            first.cache.batch_select_indices(expand_R)
            logits_RV, rows, tokens = logits_RV[expand_R], rows.select(expand_R), tokens.select(expand_R)
        make_room(first.cache)
        start_KR = rows.positions_KBS.amax(dim=(0, 2)).expand(rows.positions_KBS.shape[0], -1) + 1

        def step(ids_L: Tensor, rows_L: Tensor, cache: Any) -> NextToken:
            fed = cache.get_seq_length() - width
            result: NextToken = policy.module(
                {
                    "input_ids": ids_L[:, None],
                    "attention_mask": pad(rows.valid_BS[rows_L], (0, fed + 1), value=True),
                    "position_ids": position_argument((start_KR[:, rows_L] + fed)[..., None]),
                    **{name: own_RS[rows_L] for name, own_RS in masks(tokens).items()},
                    "past_key_values": cache,
                    "use_cache": True,
                }
            )
            return result

        return decode(
            logits_RV,
            first.cache,
            step,
            distribution=policy.distribution if sampling is None else policy.distribution_of(sampling),
            sampling=sampling or policy.sampling,
            eos_ids=policy.eos_ids,
            uniform=uniforms(generator, counts, (sampling or policy.sampling).max_new_tokens),
            drop_ended=policy.shared_prefix,  # what cannot share its cache cannot drop rows from it
        )


def _flat(selected: Sequence[Tensor] | None, ids: Sequence[Sequence[Tensor]]) -> Tensor | None:
    """Return which of all response tokens, in the order of a layout, are selected; None if there is no choice."""
    if selected is None:
        return None
    return torch.cat(
        [
            own_T[: len(ids_T)]
            for selected_NT, own in zip(selected, ids, strict=True)
            for own_T, ids_T in zip(selected_NT, own, strict=True)
        ]
    )


def _at(keep_M: Tensor, values_m: Tensor) -> Tensor:
    """Return the values at the places that are kept, 0 elsewhere."""
    return values_m.new_zeros(keep_M.shape).masked_scatter(keep_M, values_m)


def _padded(ids: Sequence[Tensor], logp_M: Tensor | None, entropy_M: Tensor | None) -> Scores:
    lengths = [len(ids_T) for ids_T in ids]
    width = max(lengths, default=0)

    def spread(values_M: Tensor) -> Tensor:
        return torch.stack([pad(part, (0, width - len(part))) for part in values_M.split(lengths)])

    device = ids[0].device if ids else None
    mask_NT = torch.arange(width, device=device)[None] < torch.tensor(lengths, device=device)[:, None]
    if logp_M is None or not ids:
        zeros = torch.zeros(len(ids), width, device=device)
        return Scores(zeros, None if entropy_M is None else zeros, mask_NT)
    return Scores(spread(logp_M), None if entropy_M is None else spread(entropy_M), mask_NT)


def _split(canvases: list[Tensor], counts: Sequence[int]) -> list[list[Tensor]]:
    rest = iter(canvases)
    return [[next(rest) for _ in range(count)] for count in counts]


def _no_sync(module: Any) -> AbstractContextManager[Any]:
    """Keep a distributed wrapper from expecting a backward pass through the parameters."""
    return module.no_sync() if hasattr(module, "no_sync") else nullcontext()
