"""The one module that a run hands to ``accelerator.prepare``: every pass of the policy enters through its forward."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from saei.entropy.token_entropy import token_statistics
from saei.entropy.token_states import TokenStates
from saei.policy.backbone import Readout, hidden_states


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


Measure: TypeAlias = Callable[[TokenStates, Tensor, Distribution], Tensor]
"""``measure(states, ids_M, distribution)``: one number, or one row of numbers, per token."""


@dataclass(frozen=True, eq=False, slots=True)
class Continuation:
    """Rows that continue from the cache of others: for each the row that it continues, and its own arguments."""

    parent_R: Tensor
    inputs: Mapping[str, Any]


@dataclass(frozen=True, eq=False, slots=True)
class Targets:
    """Tokens to score: places of the hidden states that predict them, their ids, and the distribution.

    Places count through the hidden states of all rows, flat, those of a continuation last. ``hidden_only`` is True if
    the head needs no gradient. ``measures`` are further functions of the distributions, by name. ``states_M`` are
    places whose hidden states are returned, None for none.
    """

    source_M: Tensor
    target_M: Tensor
    distribution: Distribution
    with_entropy: bool
    hidden_only: bool = False
    measures: Mapping[Hashable, Measure] = field(default_factory=dict)
    states_M: Tensor | None = None


@dataclass(frozen=True, eq=False, slots=True)
class TokenScores:
    """Statistics of M scored tokens, float32, in nats.

    Attributes:
        logp_M: Log-probabilities.
        entropy_M: Entropies, None if they were not requested.
        measured: What each further measure returned, by its name.
        states_Md: Hidden states at the places that were asked for, without gradient.
    """

    logp_M: Tensor
    entropy_M: Tensor | None
    measured: Mapping[Hashable, Tensor] = field(default_factory=dict)
    states_Md: Tensor | None = None


@dataclass(frozen=True, eq=False, slots=True)
class NextToken:
    """Float32 logits of the next token of each row, and the cache to continue from."""

    logits_BV: Tensor
    cache: Any


class PolicyModule(nn.Module):
    """Wraps a Hugging Face model.

    Args:
        model: An image-text-to-text model with output embeddings.
        readout: The function from the values of its output layer to logits.
    """

    def __init__(self, model: Any, readout: Readout) -> None:
        super().__init__()
        self.model = model
        self.readout = readout

    def forward(
        self, inputs: Mapping[str, Any] | None, targets: Targets | None = None, continuation: Continuation | None = None
    ) -> TokenScores | NextToken | Tensor:
        """Score tokens, or without targets return the next token's logits.

        Args:
            inputs: Arguments of the base model's forward; None returns a zero that depends on every trained parameter,
                for a backward pass in which processes add up their gradients.
            targets: What to score.
            continuation: Rows to score that continue those of ``inputs``, which then need ``use_cache``.

        Returns:
            ``TokenScores`` or ``NextToken``.
        """
        if inputs is None:
            firsts = [p.flatten()[0] for p in self.model.parameters() if p.requires_grad]
            return 0.0 * torch.stack([first.float() for first in firsts]).sum()
        hidden_BSd, cache = hidden_states(self.model, **inputs)
        if targets is None:
            return NextToken(self.head()(hidden_BSd[:, -1]).float(), cache)
        hidden_Md = hidden_BSd.flatten(0, 1)
        if continuation is not None:
            _fork(cache, hidden_BSd.shape[0], continuation.parent_R)
            rest_RTd, _ = hidden_states(self.model, **continuation.inputs, past_key_values=cache, use_cache=True)
            hidden_Md = torch.cat([hidden_Md, rest_RTd.flatten(0, 1)])
        distribution = targets.distribution
        states_Md = None if targets.states_M is None else hidden_Md.detach().index_select(0, targets.states_M)
        hidden_Md = hidden_Md.index_select(0, targets.source_M)
        logp_M, entropy_M = token_statistics(
            hidden_Md,
            targets.target_M,
            self.head(),
            temperature=distribution.temperature,
            banned_V=distribution.banned_V,
            entropy_temperature=distribution.entropy_temperature,
            with_entropy=targets.with_entropy,
            hidden_only=targets.hidden_only,
        )
        states = TokenStates(hidden_Md, self.head(), targets.hidden_only)
        measured = {name: measure(states, targets.target_M, distribution) for name, measure in targets.measures.items()}
        return TokenScores(logp_M, entropy_M, measured, states_Md)

    def head(self, layer: nn.Module | None = None) -> Callable[[Tensor], Tensor]:
        """Return the function from hidden states to logits: the output layer itself if possible, which can be fused.

        Args:
            layer: An output layer in place of the model's.
        """
        layer = layer or self.model.get_output_embeddings()
        readout = self.readout
        return layer if readout == Readout() else lambda hidden: readout(layer(hidden))


def _fork(cache: Any, rows: int, parent_R: Tensor) -> None:
    """Turn a cache of some rows into one of a row for each entry of ``parent_R``, which is sorted."""
    counts = set(torch.bincount(parent_R, minlength=rows).tolist())
    if len(counts) == 1:
        cache.batch_repeat_interleave(counts.pop())  # its backward pass is a sum, that of an index a slow scatter
    else:
        cache.batch_select_indices(parent_R)
