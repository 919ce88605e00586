"""The one module that a run hands to ``accelerator.prepare``: every pass of the policy enters through its forward."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from saei.entropy.token_entropy import token_statistics


@dataclass(frozen=True, eq=False, slots=True)
class Distribution:
    """One definition of the policy, used for sampling and for every log-probability: logits / τ, banned ids at -inf.

    Attributes:
        temperature: τ of log-probabilities.
        entropy_temperature: τ of the entropies, None for the same.
        banned_V: bool, ids that are never sampled: special tokens other than end-of-sequence, image tokens.
    """

    temperature: float
    entropy_temperature: float | None
    banned_V: Tensor | None


@dataclass(frozen=True, eq=False, slots=True)
class Targets:
    """Tokens to score: flat positions of the hidden states that predict them, their ids, and the distribution."""

    source_M: Tensor
    target_M: Tensor
    distribution: Distribution
    with_entropy: bool


@dataclass(frozen=True, eq=False, slots=True)
class NextToken:
    """Float32 logits of the next token of each row, and the cache to go on from."""

    logits_BV: Tensor
    cache: Any


class PolicyModule(nn.Module):
    """Wraps a Hugging Face model.

    Args:
        model: An image-text-to-text model with output embeddings.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, inputs: Mapping[str, Any], targets: Targets | None = None
    ) -> tuple[Tensor, Tensor | None] | NextToken:
        """Score tokens, or without targets return the next token's logits.

        Args:
            inputs: Arguments of the base model's forward.
            targets: What to score.

        Returns:
            ``(logp_M, entropy_M or None)`` in float32 nats, or ``NextToken``.
        """
        output = self.model.base_model(**inputs, return_dict=True)
        head = self.model.get_output_embeddings()
        if targets is None:
            return NextToken(head(output.last_hidden_state[:, -1]).float(), output.past_key_values)
        distribution = targets.distribution
        statistics: tuple[Tensor, Tensor | None] = token_statistics(
            output.last_hidden_state.flatten(0, 1)[targets.source_M],
            targets.target_M,
            head,
            temperature=distribution.temperature,
            banned_V=distribution.banned_V,
            entropy_temperature=distribution.entropy_temperature,
            with_entropy=targets.with_entropy,
        )
        return statistics
