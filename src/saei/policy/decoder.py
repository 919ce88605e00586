"""Responses that another program draws: what such a decoder is asked, and how far it is from the policy.

A decoder elsewhere has its own processor, its own copy of the weights and its own sampling. Each of them can go wrong
without a sign: rewards and losses look as they always do. The difference between the decoder's log-probabilities and
the policy's own score of the same tokens shows all of it, so it is measured at every draw.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import count

import torch
from torch import Tensor

from saei.config.run import SamplingConfig
from saei.errors import ModelError, TrainingError
from saei.policy import Policy, Scores
from saei.policy.prefix import Grad, Prefix
from saei.types import Response, View


@dataclass(frozen=True, slots=True)
class Completion:
    """What a decoder drew.

    Attributes:
        ids: Token ids, the end-of-sequence token included when one was sampled.
        logps: Log-probability of each under the distribution it was drawn from, None where the decoder gives none.
    """

    ids: Sequence[int]
    logps: Sequence[float | None]


class Decoder(ABC):
    """Draws responses outside of the policy."""

    @abstractmethod
    def draw(
        self,
        policy: Policy,
        views: Sequence[View],
        counts: Sequence[int],
        sampling: SamplingConfig,
        seeds: Sequence[int],
    ) -> list[list[Completion]]:
        """Draw responses from the policy's distribution.

        Args:
            policy: The policy whose weights the decoder has.
            views: What it looks at.
            counts: How many responses each view gets.
            sampling: Temperature and length.
            seeds: For each view the seed of its responses, below ``2**62``.

        Raises:
            ModelError: If the decoder reads a prompt differently than the policy.
        """

    @abstractmethod
    def sync(self) -> None:
        """Forget what belongs to earlier weights; called before the first draw after the weights changed."""


class DecodedPrefix(Prefix):
    """Open views whose responses a decoder draws, and the policy scores for their entropies.

    Args:
        policy: The policy.
        views: What it looks at.
        grad: What scoring may be differentiated by.
        pixels: Canvases that replace the views' own.
        decoder: Draws the responses.
        on_draw: Called with the responses of each draw from the policy's own distribution, and with their scores.
    """

    def __init__(
        self,
        policy: Policy,
        views: Sequence[View],
        grad: Grad = "none",
        pixels: Sequence[Tensor] | None = None,
        *,
        decoder: Decoder,
        on_draw: Callable[[Sequence[Sequence[Response]], Sequence[Scores]], None],
    ) -> None:
        super().__init__(policy, views, grad, pixels)
        self._decoder = decoder
        self._on_draw = on_draw

    @torch.no_grad()
    def sample(
        self,
        counts: Sequence[int],
        *,
        generator: torch.Generator | Sequence[torch.Generator],
        sampling: SamplingConfig | None = None,
    ) -> list[list[Response]]:
        """Draw responses; the seed of each view's responses comes from ``generator``."""
        policy = self._policy
        views = [
            replace(view, canvases=tuple(canvases)) for view, canvases in zip(self._views, self._canvases, strict=True)
        ]
        completions = self._decoder.draw(
            policy, views, counts, sampling or policy.sampling, _seeds(generator, len(views))
        )
        responses = [[self._response(completion) for completion in drawn] for drawn in completions]
        scores = self.score(responses)
        if sampling is None:
            self._on_draw(responses, scores)
        return [
            [
                replace(response, entropy_T=entropy_T[: len(response)])
                for response, entropy_T in zip(drawn, score.entropies(), strict=True)
            ]
            for drawn, score in zip(responses, scores, strict=True)
        ]

    def _response(self, completion: Completion) -> Response:
        policy = self._policy
        ids_T = torch.tensor(completion.ids, dtype=torch.long, device=policy.device)
        logps = [torch.nan if logp is None else logp for logp in completion.logps]
        logp_T = torch.tensor(logps, dtype=torch.float32, device=policy.device)
        truncated = not len(ids_T) or not bool(torch.isin(ids_T[-1], policy.eos_ids))
        text = policy.tokenizer.decode(ids_T, skip_special_tokens=True)
        return Response(ids_T, text, logp_T, torch.zeros_like(logp_T), truncated)


@dataclass(frozen=True, slots=True)
class DecoderGap:
    """The difference between a decoder's log-probabilities and the policy's score of the same tokens, in nats.

    Attributes:
        median: Median of its absolute value. A few tokens differ much in half precision; half of them do not.
        largest: Its largest absolute value.
        tokens: How many tokens were compared.
    """

    median: float
    largest: float
    tokens: int


def decoder_gap(responses: Sequence[Sequence[Response]], scores: Sequence[Scores]) -> DecoderGap | None:
    """Compare the log-probabilities of responses with their scores; None if a decoder gave none.

    Args:
        responses: For each view its responses.
        scores: For each view the scores of these.
    """
    gaps = [
        (response.behaviour_logp_T - logp_T[: len(response)]).abs()
        for drawn, score in zip(responses, scores, strict=True)
        for response, logp_T in zip(drawn, score.logp_NT, strict=True)
    ]
    gap_M = torch.cat(gaps) if gaps else torch.zeros(0)
    gap_M = gap_M[~gap_M.isnan()]
    if not len(gap_M):
        return None
    return DecoderGap(float(gap_M.median()), float(gap_M.max()), len(gap_M))


def check_gap(gap: DecoderGap, limit: float) -> None:
    """Refuse responses of a decoder that draws from something else than the policy.

    Raises:
        TrainingError: If the median is above the limit.
    """
    if gap.median > limit:
        raise TrainingError(
            "A decoder has to draw from the policy that is trained.",
            reason=f"The median difference between its log-probabilities and the policy's own is {gap.median:.3g} nats "
            f"on {gap.tokens} tokens, training.max_decoder_gap is {limit:g}.",
            remedy="Likely causes: an update of the weights did not reach it, or not its cached prompts and pictures; "
            "its processor makes other pixels of a picture; its weights are of another type; its log-probabilities are "
            "those before temperature and banned tokens (vLLM: --logprobs-mode processed_logprobs). A larger limit "
            "helps only where half precision alone makes this difference.",
        )


def check_prompt(view: View, decoder_ids: Sequence[int]) -> None:
    """Hold the prompt that a decoder read against the view's.

    Raises:
        ModelError: If they differ.
    """
    policy_ids = view.prompt_ids_P.tolist()
    if list(decoder_ids) == policy_ids:
        return
    pairs = zip(count(), decoder_ids, policy_ids)
    first = next((place for place, theirs, ours in pairs if theirs != ours), min(len(decoder_ids), len(policy_ids)))
    raise ModelError(
        "A decoder and the policy have to read a prompt alike.",
        reason=f"Of example '{view.example.id}' the decoder made {len(decoder_ids)} tokens, the policy "
        f"{len(policy_ids)}; they differ from token {first} on.",
        remedy="The decoder reads tokenizer and processor from the model's folder: give it the files that the policy "
        "has, and leave out model.min_pixels and model.max_pixels. If they are the same, its code for this family "
        "reads pictures differently: train without it.",
    )


def _seeds(generator: torch.Generator | Sequence[torch.Generator], views: int) -> list[int]:
    generators = [generator] * views if isinstance(generator, torch.Generator) else generator
    return [int(torch.randint(2**62, (), generator=source)) for source in generators]
