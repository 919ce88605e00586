"""Distributions at tokens, kept as hidden states, and functions of them in chunks.

M tokens, m of a chunk of them, d hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear
from torch.utils.checkpoint import checkpoint

from saei.entropy.fused import FLOOR, as_the_layer, at_hidden, float32_at_least, is_plain_linear
from saei.entropy.token_entropy import CHUNK_ELEMENTS


@dataclass(frozen=True, eq=False, slots=True)
class TokenStates:
    """A policy's distribution at each of M tokens: hidden states, and the head that maps them to logits.

    Attributes:
        hidden_Md: The hidden states that predict the tokens.
        head: Maps ``[m, d]`` hidden states to ``[m, V]`` logits.
        hidden_only: Whether the head's gradient is not needed.
    """

    hidden_Md: Tensor
    head: Callable[[Tensor], Tensor]
    hidden_only: bool = False

    @property
    def differentiated(self) -> bool:
        """Whether a gradient reaches the hidden states or the head."""
        return torch.is_grad_enabled() and (self.hidden_Md.requires_grad or self._head_is_trained)

    def logits(self, hidden_md: Tensor) -> Tensor:
        """Return the logits of a chunk of the hidden states; those of constant ones train no head either."""
        constant = self.hidden_only and not self.hidden_Md.requires_grad
        with torch.no_grad() if constant else nullcontext():
            return self.head(hidden_md)

    @property
    def fusible(self) -> bool:
        """Whether the head is a plain product that gets no gradient."""
        return isinstance(self.head, nn.Linear) and is_plain_linear(self.head) and not self._head_is_trained

    @property
    def _head_is_trained(self) -> bool:
        if self.hidden_only:
            return False
        if not isinstance(self.head, nn.Module):  # a function may refer to trained parameters
            return self.hidden_Md.requires_grad
        return any(parameter.requires_grad for parameter in self.head.parameters())


def chunk_rows(states: TokenStates, banned_V: Tensor | None, chunk_elements: int) -> int:
    """Return how many rows of logits are held at once."""
    width = banned_V.shape[0] if banned_V is not None else int(states.head(states.hidden_Md[:1].detach()).shape[-1])
    return max(1, chunk_elements // width)


def per_token(
    function: Callable[..., Tensor],
    *sides: TokenStates,
    ids_M: Tensor,
    temperature: float = 1.0,
    banned_V: Tensor | None = None,
    chunk_elements: int = CHUNK_ELEMENTS,
) -> Tensor:
    """Return one number per token of one or more distributions at it, ``[M]``, differentiable in all of them.

    Args:
        function: ``function(*logp_mV, ids_m)`` of float32 log-probabilities, one ``[m, V]`` tensor per side, returns
            ``[m]``. Banned ids have -1e9, so that 0 · log 0 is 0 and not NaN.
        *sides: The distributions.
        ids_M: int64, the tokens.
        temperature: Divides the logits.
        banned_V: bool, ids of probability 0.
        chunk_elements: Logits of one side that are held at once.
    """
    rows = chunk_rows(sides[0], banned_V, chunk_elements) if len(ids_M) else 1

    def chunk(ids_m: Tensor, *hidden_of_sides: Tensor) -> Tensor:
        logs = [
            _log_probabilities(side.logits(hidden_md), temperature, banned_V)
            for side, hidden_md in zip(sides, hidden_of_sides, strict=True)
        ]
        return function(*logs, ids_m)

    again = len(ids_M) > rows and any(side.differentiated for side in sides)
    parts = [
        checkpoint(chunk, *part, use_reentrant=False) if again else chunk(*part)
        for part in zip(ids_M.split(rows), *(side.hidden_Md.split(rows) for side in sides), strict=True)
    ]
    return torch.cat(parts)


def fused_per_token(
    function: Callable[[Tensor, Tensor], Tensor],
    states: TokenStates,
    *,
    ids_M: Tensor,
    temperature: float = 1.0,
    banned_V: Tensor | None = None,
    chunk_elements: int = CHUNK_ELEMENTS,
) -> Tensor:
    """Return what ``per_token`` returns for one distribution and a differentiable function, with less work.

    Where the head is plain and gets no gradient, the gradient at the hidden states is computed while the logits exist,
    as for entropies: the head is multiplied twice and not three times. A token's value has to depend on that token's
    distribution alone.

    Args:
        function: As for ``per_token``, like the other arguments; its values have a gradient.
        states: Likewise.
        ids_M: Likewise.
        temperature: Likewise.
        banned_V: Likewise.
        chunk_elements: Likewise.
    """
    if not (len(ids_M) and states.fusible and states.differentiated):
        return per_token(
            function,
            states,
            ids_M=ids_M,
            temperature=temperature,
            banned_V=banned_V,
            chunk_elements=chunk_elements,
        )
    assert isinstance(states.head, nn.Linear)
    hidden_Md, weight_Vd, bias_V = as_the_layer(states.hidden_Md, states.head)
    rows = chunk_rows(states, banned_V, chunk_elements)
    with torch.autocast(hidden_Md.device.type, enabled=False):
        values_M: Tensor = _FusedFunction.apply(  # type: ignore[no-untyped-call]  # torch has no types for it
            hidden_Md, ids_M, weight_Vd, bias_V, function, temperature, banned_V, rows
        )
    return values_M


class _FusedFunction(torch.autograd.Function):
    """A function of each token's distribution, which keeps its slopes at the hidden states."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_Md: Tensor,
        ids_M: Tensor,
        weight_Vd: Tensor,
        bias_V: Tensor | None,
        function: Callable[[Tensor, Tensor], Tensor],
        temperature: float,
        banned_V: Tensor | None,
        rows: int,
    ) -> Tensor:
        values, slopes = [], []
        for hidden_md, ids_m in zip(hidden_Md.split(rows), ids_M.split(rows), strict=True):
            logits_mV = linear(hidden_md, weight_Vd, bias_V)
            with torch.enable_grad():
                logits_mV = logits_mV.detach().requires_grad_()
                values_m = function(_log_probabilities(logits_mV, temperature, banned_V), ids_m)
                # One token's value has no slope at another's logits, so the slopes of the sum are those of each.
                (slope_mV,) = torch.autograd.grad(values_m.sum(), logits_mV)
            values.append(values_m.detach())
            slopes.append(at_hidden(slope_mV, weight_Vd))
        ctx.dtype = hidden_Md.dtype
        ctx.save_for_backward(torch.cat(slopes))
        return torch.cat(values)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_M: Tensor) -> tuple[Tensor | None, ...]:
        (slope_Md,) = ctx.saved_tensors
        return (grad_M[:, None] * slope_Md).to(ctx.dtype), None, None, None, None, None, None, None


def _log_probabilities(logits_mV: Tensor, temperature: float, banned_V: Tensor | None) -> Tensor:
    """Return log-probabilities in float32 at least, -1e9 for banned ids."""
    logits_mV = float32_at_least(logits_mV)
    if banned_V is not None:
        logits_mV = logits_mV.masked_fill(banned_V, FLOOR)
    return (logits_mV / temperature).log_softmax(-1)
