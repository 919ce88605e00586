"""The decoder seam: who draws the responses, and how far an external decoder is from the policy.

An external decoder has its own processor, its own copy of the weights and its own sampling. Each of them can go wrong
silently, while rewards and losses look as usual. The difference between the decoder's log-probabilities and
the policy's own score of the same tokens shows all of it, so it is measured at every draw.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from saei.config.sections import SamplingConfig
from saei.config.strategy import Strategy
from saei.errors import ConfigError, ModelError, TrainingError
from saei.policy.module import Distribution
from saei.policy.scoring import Scores
from saei.runtime.processes import Processes
from saei.types import Response, ResponsePrefix, View

if TYPE_CHECKING:
    from saei.policy.policy import Policy


@dataclass(frozen=True, eq=False, slots=True)
class DrawRequest:
    """The responses that a decoder is to draw.

    Attributes:
        views: What the policy sees.
        counts: How many responses each view gets, 0 or more.
        sampling: Temperature, length limit and, for evaluation only, top-p, top-k and greedy decoding.
        distribution: The distribution of log-probabilities and entropies, with the ids that must not be drawn.
        generators: One source of randomness per view, on the CPU.
        prefixes: For each view and each of its responses the tokens that it begins with, None for a response without;
            None if no response has any.
    """

    views: Sequence[View]
    counts: Sequence[int]
    sampling: SamplingConfig
    distribution: Distribution
    generators: Sequence[torch.Generator]
    prefixes: Sequence[Sequence[ResponsePrefix | None]] | None = None

    def seeds(self) -> list[int]:
        """Take from each view's source a seed below ``2**62``, for decoders with their own random numbers."""
        return [int(torch.randint(2**62, (), generator=source)) for source in self.generators]


@dataclass(frozen=True, eq=False, slots=True)
class Completion:
    """What a decoder drew.

    Attributes:
        ids: Token ids, those of a prefix and the end-of-sequence token included when one was sampled.
        logp_T: float32 log-probability of each under the distribution it was drawn from, NaN where there is none.
        entropy_T: float32 entropy of that distribution at each, in nats; None leaves it to the policy's own score.
    """

    ids: Sequence[int]
    logp_T: Tensor
    entropy_T: Tensor | None = None


class Decoder(Strategy, ABC):
    """Draws the responses of a policy. To add one, implement ``draw``, and ``sync`` if it holds weights or caches.

    An external decoder gives no entropies. The policy then scores its responses in one pass, and compares the decoder's
    log-probabilities with its own.
    """

    kind: ClassVar[str] = "decoder"
    takes_prefixes: ClassVar[bool] = False
    """Whether it continues given tokens (``DrawRequest.prefixes``)."""
    takes_offsets: ClassVar[bool] = False
    """Whether it draws from views with an offset on embeddings (``View.offset_Qd``), which no tokens stand for."""

    @abstractmethod
    def draw(self, policy: Policy, request: DrawRequest) -> list[list[Completion]]:
        """Draw for each view its responses from the policy's distribution.

        Args:
            policy: The policy whose weights the decoder has.
            request: The views, how many responses each gets, and how they are drawn; called under ``no_grad``.

        Raises:
            ModelError: If the decoder reads a prompt differently than the policy.
        """

    def sync(self, policy: Policy) -> None:
        """Take over the policy's weights and drop what was computed with earlier ones.

        It is called before the first draw after the weights changed.
        """


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
    """Compare the log-probabilities of drawn tokens with their scores; None if a decoder gave none.

    Args:
        responses: For each view its responses.
        scores: For each view the scores of these.
    """
    gaps = [
        (response.behaviour_logp_T - logp_T[: len(response)]).abs()[response.forced :]
        for drawn, score in zip(responses, scores, strict=True)
        for response, logp_T in zip(drawn, score.logp_NT, strict=True)
    ]
    gap_M = torch.cat(gaps) if gaps else torch.zeros(0)
    gap_M = gap_M[~gap_M.isnan()]
    if not len(gap_M):
        return None
    return DecoderGap(float(gap_M.median()), float(gap_M.max()), len(gap_M))


def check_gap(gap: DecoderGap, limit: float) -> None:
    """Refuse responses that were drawn from a distribution other than the policy's.

    Raises:
        TrainingError: If the median is above the limit.
    """
    if gap.median > limit:
        raise TrainingError(
            "A decoder must sample from the policy that is trained.",
            reason=f"The median difference between its log-probabilities and the policy's own is {gap.median:.3g} nats "
            f"on {gap.tokens} tokens, training.max_decoder_gap is {limit:g}.",
            remedy="Likely causes: updated weights did not reach it, or it kept cached prompts and pictures; its "
            "processor produces different pixels; its weights have another dtype; its log-probabilities are those "
            "before temperature and banned tokens (vLLM: --logprobs-mode processed_logprobs). A larger limit "
            "helps only where half precision alone makes this difference.",
        )


def no_offsets(decoder: str, attack: str = "intervention.attack") -> ConfigError:
    """Return why a decoder draws from no view with an offset on embeddings.

    Args:
        decoder: Its name.
        attack: The setting that makes such views.
    """
    return ConfigError(
        "A decoder elsewhere reads a prompt as text, and an offset on the embeddings of its tokens is none.",
        reason=f"The decoder is '{decoder}'.",
        remedy=f"Draw with the decoder `native`, or move the question's tokens ({attack}=hotflip) or the picture.",
    )


class DecoderGaps:
    """Records how far an external decoder is from the policy, and stops the run when that is too far.

    Args:
        limit: Largest median difference of one draw, in nats.
    """

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._gaps: list[DecoderGap] = []

    def __call__(self, responses: Sequence[Sequence[Response]], scores: Sequence[Scores]) -> None:
        """Compare a draw with its scores.

        Raises:
            TrainingError: If they are too far apart.
        """
        gap = decoder_gap(responses, scores)
        if gap is not None:
            self._gaps.append(gap)
            check_gap(gap, self._limit)

    def metrics(self, processes: Processes) -> dict[str, float]:
        """Return the mean of the draws' medians and the largest gap since the last call, of all processes."""
        gaps = [gap for part in processes.gather(self._gaps) for gap in part]
        self._gaps = []
        if not gaps:
            return {}
        return {
            "decoder_gap": sum(gap.median for gap in gaps) / len(gaps),
            "decoder_gap_max": max(gap.largest for gap in gaps),
        }


def check_prompt(view: View, decoder_ids: Sequence[int]) -> None:
    """Check that a decoder read the same prompt as the policy.

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
