"""Distributions at tokens, kept as hidden states, and functions of them in chunks.

M tokens, m of a chunk of them, d hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from saei.entropy.fused import FLOOR, is_plain_linear
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
        logs = []
        for side, hidden_md in zip(sides, hidden_of_sides, strict=True):
            logits_mV = side.head(hidden_md)
            logits_mV = logits_mV.to(torch.promote_types(logits_mV.dtype, torch.float32))
            if banned_V is not None:
                logits_mV = logits_mV.masked_fill(banned_V, FLOOR)
            logs.append((logits_mV / temperature).log_softmax(-1))
        return function(*logs, ids_m)

    again = len(ids_M) > rows and any(side.differentiated for side in sides)
    parts = [
        checkpoint(chunk, *part, use_reentrant=False) if again else chunk(*part)
        for part in zip(ids_M.split(rows), *(side.hidden_Md.split(rows) for side in sides), strict=True)
    ]
    return torch.cat(parts)
