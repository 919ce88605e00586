"""The Kullback-Leibler divergence over the whole vocabulary at each token, without a tensor of tokens × vocabulary.

Both distributions are given as hidden states and the way from them to logits, which is how they are kept: M·d numbers
each. Logits are made in chunks of rows. With δ_v = log q_v - log p_v,

    KL(p‖q) = Σ_v p_v · (exp δ_v - 1 - δ_v),

which is the textbook's Σ p (log p - log q), since Σ (q - p) = 0. No term is negative, so none cancels another, and an
error of a normaliser, which shifts all δ equally, has only a second-order effect. Near p = q the textbook's form has no
correct digits in float32. The slopes at the logits, τ the temperature, are

    ∂KL/∂z_p = p · (m - δ) / τ  with m = Σ_v p_v δ_v,      ∂KL/∂z_q = (q - p) / τ.

As with entropies, the gradient at the hidden states is computed while the logits exist, unless a head is trained.

M tokens, m of a chunk of them, d hidden size, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear
from torch.utils.checkpoint import checkpoint

from saei.entropy.fused import FLOOR, as_the_layer, at_hidden, float32_at_least
from saei.entropy.token_entropy import CHUNK_ELEMENTS
from saei.entropy.token_states import TokenStates, chunk_rows

_SMALL = 1.0
"""|δ| below which the difference q - p is taken as p · expm1 δ, which keeps its digits; above, expm1 may overflow."""


def token_kl(
    p: TokenStates,
    q: TokenStates,
    *,
    temperature: float = 1.0,
    banned_V: Tensor | None = None,
    chunk_elements: int = CHUNK_ELEMENTS,
) -> Tensor:
    """Return ``KL(p‖q)`` at each token, ``[M]`` float32 (float64 of float64 logits), in nats, 0 or more.

    Gradients reach the hidden states of both sides, and the heads where they are trained.

    Args:
        p: The distribution that the divergence is taken over.
        q: The one that it is taken from.
        temperature: Divides the logits of both.
        banned_V: bool, ids of probability 0 in both; they add nothing.
        chunk_elements: Logits of one side that are held at once.
    """
    if not len(p.hidden_Md):
        return p.hidden_Md.new_zeros(0, dtype=torch.promote_types(p.hidden_Md.dtype, torch.float32))
    rows = chunk_rows(p, banned_V, chunk_elements)
    if p.differentiated or q.differentiated:
        if p.fusible and q.fusible:
            return _fused(p, q, temperature, banned_V, rows)
        again = len(p.hidden_Md) > rows  # one chunk needs no second computation: its logits fit anyway
    else:
        again = False

    def chunk(p_md: Tensor, q_md: Tensor) -> Tensor:
        logits = [float32_at_least(side.logits(hidden_md)) for side, hidden_md in ((p, p_md), (q, q_md))]
        kl_m: Tensor = _LogitsKL.apply(*logits, temperature, banned_V)  # type: ignore[no-untyped-call]  # torch has none
        return kl_m

    return torch.cat(
        [
            checkpoint(chunk, *pair, use_reentrant=False) if again else chunk(*pair)
            for pair in zip(p.hidden_Md.split(rows), q.hidden_Md.split(rows), strict=True)
        ]
    )


def _fused(p: TokenStates, q: TokenStates, temperature: float, banned_V: Tensor | None, rows: int) -> Tensor:
    arguments: list[Tensor | None] = []
    for side in (p, q):
        assert isinstance(side.head, nn.Linear)
        arguments += as_the_layer(side.hidden_Md, side.head)
    with torch.autocast(p.hidden_Md.device.type, enabled=False):
        kl_M: Tensor = _FusedKL.apply(*arguments, temperature, banned_V, rows)  # type: ignore[no-untyped-call]
    return kl_M


def _divergence(
    p_logits_mV: Tensor,
    q_logits_mV: Tensor,
    temperature: float,
    banned_V: Tensor | None,
    *,
    slope_p: bool,
    slope_q: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Return ``[m]`` divergences and those slopes ``[m, V]`` at the logits that are wanted."""
    if banned_V is not None:
        p_logits_mV = p_logits_mV.masked_fill(banned_V, FLOOR)
        q_logits_mV = q_logits_mV.masked_fill(banned_V, FLOOR)
    logp_mV, logq_mV = (logits_mV.div(temperature).log_softmax(-1) for logits_mV in (p_logits_mV, q_logits_mV))
    p_mV = logp_mV.exp()
    delta_mV = logq_mV - logp_mV
    # q - p. Where δ is small it is p · expm1 δ; where it is large, expm1 may overflow, and nothing cancels.
    small_mV = delta_mV.abs() < _SMALL
    more_mV = torch.where(small_mV, p_mV * delta_mV.clamp(-_SMALL, _SMALL).expm1(), logq_mV.exp() - p_mV)
    terms_mV = p_mV * delta_mV
    kl_m = (more_mV - terms_mV).sum(-1)
    slopes: list[Tensor | None] = [None, None]
    if slope_p:
        slopes[0] = (p_mV * terms_mV.sum(-1, keepdim=True) - terms_mV).div_(temperature)
    if slope_q:
        slopes[1] = more_mV.div_(temperature)
    return kl_m, slopes[0], slopes[1]


class _LogitsKL(torch.autograd.Function):
    """The divergence of logits, which keeps the slopes at them: for a chunk whose head is differentiated."""

    @staticmethod
    def forward(
        ctx: Any, p_logits_mV: Tensor, q_logits_mV: Tensor, temperature: float, banned_V: Tensor | None
    ) -> Tensor:
        wanted = {"slope_p": ctx.needs_input_grad[0], "slope_q": ctx.needs_input_grad[1]}
        kl_m, slope_p_mV, slope_q_mV = _divergence(p_logits_mV, q_logits_mV, temperature, banned_V, **wanted)
        ctx.save_for_backward(slope_p_mV, slope_q_mV)
        return kl_m

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_m: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        p_mV, q_mV = (None if slope_mV is None else grad_m[:, None] * slope_mV for slope_mV in ctx.saved_tensors)
        return p_mV, q_mV, None, None


class _FusedKL(torch.autograd.Function):
    """The divergence of hidden states under plain heads, which keeps the slopes at the hidden states."""

    @staticmethod
    def forward(
        ctx: Any,
        p_Md: Tensor,
        p_weight_Vd: Tensor,
        p_bias_V: Tensor | None,
        q_Md: Tensor,
        q_weight_Vd: Tensor,
        q_bias_V: Tensor | None,
        temperature: float,
        banned_V: Tensor | None,
        rows: int,
    ) -> Tensor:
        wanted = {"slope_p": ctx.needs_input_grad[0], "slope_q": ctx.needs_input_grad[3]}
        parts: list[Tensor] = []
        slopes_p: list[Tensor] = []
        slopes_q: list[Tensor] = []
        for p_md, q_md in zip(p_Md.split(rows), q_Md.split(rows), strict=True):
            kl_m, slope_p_mV, slope_q_mV = _divergence(
                float32_at_least(linear(p_md, p_weight_Vd, p_bias_V)),
                float32_at_least(linear(q_md, q_weight_Vd, q_bias_V)),
                temperature,
                banned_V,
                **wanted,
            )
            parts.append(kl_m)
            if slope_p_mV is not None:
                slopes_p.append(at_hidden(slope_p_mV, p_weight_Vd))
            if slope_q_mV is not None:
                slopes_q.append(at_hidden(slope_q_mV, q_weight_Vd))
        ctx.dtypes = p_Md.dtype, q_Md.dtype
        ctx.save_for_backward(*(torch.cat(slopes) if slopes else None for slopes in (slopes_p, slopes_q)))
        return torch.cat(parts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_M: Tensor) -> tuple[Tensor | None, ...]:
        p_Md, q_Md = (
            None if slope_Md is None else (grad_M[:, None] * slope_Md).to(dtype)
            for slope_Md, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        )
        return p_Md, None, None, q_Md, None, None, None, None, None
