"""Token entropy and log-probabilities, in nats and float32, without a tensor of tokens × vocabulary.

M tokens, d hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from saei.entropy.fused import FLOOR, Kernel, float32_at_least, fused_statistics, is_plain_linear

CHUNK_ELEMENTS = 2**23
"""Logits held at once: 32 MiB in float32. With fewer, a large head would be read from memory for only a few rows."""


def token_entropy(logits: Tensor, *, chunk_elements: int = CHUNK_ELEMENTS) -> Tensor:
    """Return ``H = -Σ_v p_v log p_v`` of ``[..., V]`` logits as ``[...]`` float32 (float64 of float64), in nats.

    Differentiable; -inf logits have probability 0. The form with log-probabilities is accurate at low entropy, where
    ``logsumexp - Σ p z`` loses its digits.
    """
    rows = max(1, chunk_elements // logits.shape[-1])
    flat = logits.reshape(-1, logits.shape[-1])
    if flat.shape[0] <= rows:
        return _entropy(flat).reshape(logits.shape[:-1])
    return torch.cat([_entropy(part) for part in flat.split(rows)]).reshape(logits.shape[:-1])


def token_statistics(
    hidden_Md: Tensor,
    ids_M: Tensor,
    head: Callable[[Tensor], Tensor],
    *,
    temperature: float = 1.0,
    banned_V: Tensor | None = None,
    entropy_temperature: float | None = None,
    with_entropy: bool = True,
    hidden_only: bool = False,
    chunk_elements: int = CHUNK_ELEMENTS,
) -> tuple[Tensor, Tensor | None]:
    """Return log-probabilities of ids and entropies under ``softmax(head(hidden) / temperature)``.

    Logits are made in chunks of rows, so that no ``[M, V]`` tensor ever exists at once. Gradients reach the hidden
    states and the head. A plain linear head that gets none is fused with the statistics; any other has its logits made
    again in the backward pass: with the product for the head's own gradient nothing would be saved.

    Args:
        hidden_Md: Hidden states that predict the tokens.
        ids_M: int64 ids.
        head: Maps ``[m, d]`` hidden states to ``[m, V]`` logits.
        temperature: Divides the logits.
        banned_V: bool, ids of probability 0.
        entropy_temperature: Temperature of the entropy, None for the same.
        with_entropy: Whether entropies are wanted.
        hidden_only: Whether the head's gradient is not needed and, with entropies, that of the log-probabilities
            neither, as in an attack.
        chunk_elements: Logits held at once.

    Returns:
        ``logp_M`` and ``entropy_M`` (None if not wanted), float32 (float64 of float64 logits), nats.
    """

    def chunk(hidden_md: Tensor, ids_m: Tensor) -> tuple[Tensor, Tensor | None]:
        logits_mV = float32_at_least(head(hidden_md))
        if banned_V is not None:
            logits_mV = logits_mV.masked_fill(banned_V, -torch.inf)
        logp_mV = (logits_mV / temperature).log_softmax(-1)
        logp_m = logp_mV.gather(-1, ids_m[:, None])[:, 0]
        if not with_entropy:
            return logp_m, None
        if entropy_temperature is not None and entropy_temperature != temperature:
            logp_mV = (logits_mV / entropy_temperature).log_softmax(-1)
        return logp_m, entropy_of(logp_mV, logp_mV.exp())

    width = banned_V.shape[0] if banned_V is not None else int(head(hidden_Md[:1].detach()).shape[-1])
    rows = max(1, chunk_elements // width)
    if (
        isinstance(head, nn.Linear)
        and is_plain_linear(head)
        and torch.is_grad_enabled()
        and hidden_Md.requires_grad
        and (hidden_only or not any(parameter.requires_grad for parameter in head.parameters()))
    ):
        of_entropy = temperature if entropy_temperature is None else entropy_temperature
        kernel = Kernel(temperature, of_entropy, banned_V, with_entropy, rows)
        wanted = {"entropy"} if with_entropy else {"logp"}
        return fused_statistics(
            hidden_Md, ids_M, head, kernel, differentiated=wanted if hidden_only else wanted | {"logp"}
        )
    # One chunk needs no second computation: its logits fit anyway.
    again = torch.is_grad_enabled() and len(ids_M) > rows
    parts = [
        checkpoint(chunk, hidden, ids, use_reentrant=False) if again else chunk(hidden, ids)
        for hidden, ids in zip(hidden_Md.split(rows), ids_M.split(rows), strict=True)
    ]
    logp_M = torch.cat([logp for logp, _ in parts])
    return logp_M, torch.cat([entropy for _, entropy in parts if entropy is not None]) if with_entropy else None


def entropy_of(logp_MV: Tensor, p_MV: Tensor) -> Tensor:
    """Return the entropies ``[M]`` of log-probabilities, which may be -inf, and their exponentials."""
    return (p_MV * -logp_MV.clamp_min(FLOOR)).sum(-1)


def _entropy(logits_MV: Tensor) -> Tensor:
    logp_MV = float32_at_least(logits_MV).log_softmax(-1)
    return entropy_of(logp_MV, logp_MV.exp())
