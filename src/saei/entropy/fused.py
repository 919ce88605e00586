"""Token statistics of a linear head whose weights get no gradient; the forward pass computes the gradient, too.

The gradient of a token's statistic with respect to its hidden state needs nothing but that token's logits. So it is
computed while the logits exist, and the backward pass only scales it. The head is multiplied twice, once forward and
once backward, where a checkpoint multiplies it three times, and what is saved is as large as the hidden states.

M tokens, m of a chunk of them, d hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

FLOOR = -1e9
"""Stands for the logit or log-probability of banned ids, so that 0 · log 0 is 0 and not NaN."""


def is_plain_linear(head: object) -> bool:
    """Return whether calling the head is a product with its weight and nothing else.

    Adapters, quantised and parametrised layers are other classes or have other weights; hooks and a replaced
    ``forward`` may do anything.
    """
    return (
        type(head) is nn.Linear
        and type(head.weight) is nn.Parameter
        and "forward" not in vars(head)
        and not (head._forward_hooks or head._forward_pre_hooks or head._backward_hooks or head._backward_pre_hooks)
    )


def fused_statistics(
    hidden_Md: Tensor, ids_M: Tensor, head: nn.Linear, kernel: Kernel, *, differentiated: Set[str]
) -> tuple[Tensor, Tensor | None]:
    """Return log-probabilities of ids and entropies; the gradient reaches the hidden states and not the head.

    Args:
        hidden_Md: Hidden states that predict the tokens.
        ids_M: int64 ids.
        head: A plain linear layer.
        kernel: The distribution.
        differentiated: Which of ``logp`` and ``entropy`` will be differentiated. The other may be, too, but its
            logits are computed again then.

    Returns:
        ``logp_M`` and ``entropy_M`` (None if not wanted) in nats.
    """
    hidden_Md, weight_Vd, bias_V = as_the_layer(hidden_Md, head)
    with torch.autocast(hidden_Md.device.type, enabled=False):
        statistics: tuple[Tensor, Tensor | None] = _Fused.apply(  # type: ignore[no-untyped-call]  # torch has no types for it
            hidden_Md, ids_M, weight_Vd, bias_V, kernel, tuple(sorted(differentiated))
        )
    return statistics


def as_the_layer(hidden_Md: Tensor, head: nn.Linear) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return hidden states, weight and bias in the type in which the layer would multiply them; the head is detached.

    Under autocast a Function has to see to this itself: its backward pass runs outside of the context.
    """
    weight_Vd, bias_V = head.weight.detach(), None if head.bias is None else head.bias.detach()
    device = hidden_Md.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        hidden_Md, weight_Vd = hidden_Md.to(dtype), weight_Vd.to(dtype)
        bias_V = None if bias_V is None else bias_V.to(dtype)
    return hidden_Md, weight_Vd, bias_V


def float32_at_least(logits: Tensor) -> Tensor:
    """Return logits in float32 at least: in half precision entropies near the uniform distribution are worthless."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


@dataclass(frozen=True, eq=False, slots=True)
class Kernel:
    """Statistics under ``softmax(logits / temperature)`` and their slopes, in chunks of rows.

    Attributes:
        temperature: Divides the logits.
        entropy_temperature: The same for the entropies.
        banned_V: bool, ids of probability 0; None for none.
        with_entropy: Whether entropies are wanted.
        rows: Rows of a chunk.
    """

    temperature: float
    entropy_temperature: float
    banned_V: Tensor | None
    with_entropy: bool
    rows: int

    def __call__(
        self, hidden_Md: Tensor, ids_M: Tensor, weight_Vd: Tensor, bias_V: Tensor | None, slopes_of: Set[str]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return ``[M]`` statistics by name, and for those in ``slopes_of`` their gradients ``[M, d]``."""
        chunks = zip(hidden_Md.split(self.rows), ids_M.split(self.rows), strict=True)
        parts = [self._chunk(hidden_md, ids_m, weight_Vd, bias_V, slopes_of) for hidden_md, ids_m in chunks]
        statistics, slopes = ([part[which] for part in parts] for which in (0, 1))
        return _joined(statistics), _joined(slopes)

    def _chunk(
        self, hidden_md: Tensor, ids_m: Tensor, weight_Vd: Tensor, bias_V: Tensor | None, slopes_of: Set[str]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        logits_mV = linear(hidden_md, weight_Vd, bias_V)
        logits_mV = float32_at_least(logits_mV)
        if self.banned_V is not None:
            logits_mV.masked_fill_(self.banned_V, FLOOR)
        logp_mV = entropy_logp_mV = _log_softmax(logits_mV, self.temperature)
        if self.with_entropy and self.entropy_temperature != self.temperature:
            entropy_logp_mV = _log_softmax(logits_mV, self.entropy_temperature)
        logp_m = logp_mV.gather(-1, ids_m[:, None])[:, 0]
        if self.banned_V is not None:
            logp_m.masked_fill_(self.banned_V[ids_m], -torch.inf)
        statistics, slopes = {"logp": logp_m}, {}
        # From here on the buffers are overwritten: their values are needed only once.
        p_mV = torch.exp(logp_mV, out=logits_mV)
        if "logp" in slopes_of:
            ids_m1 = ids_m[:, None]
            drawn_m1 = p_mV.gather(-1, ids_m1)
            # The slope at the drawn id is 1 - p. As the sum of the other ids' p it keeps its digits where p is near 1.
            rest_m1 = p_mV.scatter_(-1, ids_m1, 0.0).sum(-1, keepdim=True)
            if self.banned_V is not None:
                rest_m1.masked_fill_(self.banned_V[ids_m1], 0.0)
            slopes["logp"] = at_hidden(p_mV.scatter_(-1, ids_m1, -rest_m1), weight_Vd) / -self.temperature
            p_mV.scatter_(-1, ids_m1, drawn_m1)
        if self.with_entropy:
            if entropy_logp_mV is not logp_mV:
                p_mV = torch.exp(entropy_logp_mV, out=p_mV)
            terms_mV = entropy_logp_mV.mul_(p_mV)
            entropy_m = 0.0 - terms_mV.sum(-1)  # a difference, since a negated zero is -0.0
            statistics["entropy"] = entropy_m
            if "entropy" in slopes_of:
                slope_mV = terms_mV.addcmul_(p_mV, entropy_m[:, None])
                slopes["entropy"] = at_hidden(slope_mV, weight_Vd) / -self.entropy_temperature
        return statistics, slopes


class _Fused(torch.autograd.Function):
    """Saves the slopes of the forward pass, and the hidden states in case others are needed."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_Md: Tensor,
        ids_M: Tensor,
        weight_Vd: Tensor,
        bias_V: Tensor | None,
        kernel: Kernel,
        foreseen: tuple[str, ...],
    ) -> tuple[Tensor, Tensor | None]:
        statistics, slopes = kernel(hidden_Md, ids_M, weight_Vd, bias_V, frozenset(foreseen))
        ctx.kernel, ctx.foreseen = kernel, foreseen
        ctx.save_for_backward(hidden_Md, ids_M, weight_Vd, bias_V, *(slopes[name] for name in foreseen))
        ctx.set_materialize_grads(False)
        return statistics["logp"], statistics.get("entropy")

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_logp_M: Tensor | None, grad_entropy_M: Tensor | None
    ) -> tuple[Tensor | None, None, None, None, None, None]:
        hidden_Md, ids_M, weight_Vd, bias_V, *saved = ctx.saved_tensors
        slopes = dict(zip(ctx.foreseen, saved, strict=True))
        given = {"logp": grad_logp_M, "entropy": grad_entropy_M}
        wanted = {name: grad_M for name, grad_M in given.items() if grad_M is not None}
        if missing := wanted.keys() - slopes.keys():
            slopes |= ctx.kernel(hidden_Md, ids_M, weight_Vd, bias_V, missing)[1]
        # Added up before the cast, since the two may cancel.
        terms = [grad_M[:, None] * slopes[name] for name, grad_M in wanted.items()]
        grad_Md = sum(terms[1:], start=terms[0]).to(hidden_Md.dtype) if terms else None
        return grad_Md, None, None, None, None, None


def at_hidden(slope_mV: Tensor, weight_Vd: Tensor) -> Tensor:
    """Return slopes at the hidden states from those at the logits, by a product in the head's own type.

    Differences are taken before: of a slope that is made from rounded parts nothing would be left at a confident token.
    float16 has no numbers below 6e-8, which is what such a token's slopes are: its rows are multiplied at length 1, and
    the product returns to its own length in float32.
    """
    if weight_Vd.dtype != torch.float16:
        return slope_mV.to(weight_Vd.dtype) @ weight_Vd
    length_m1: Tensor = torch.linalg.vector_norm(slope_mV, dim=-1, keepdim=True)
    length_m1.clamp_min_(torch.finfo(slope_mV.dtype).tiny)  # a slope of zero stays zero
    return length_m1 * ((slope_mV / length_m1).to(weight_Vd.dtype) @ weight_Vd)


def _log_softmax(logits_mV: Tensor, temperature: float) -> Tensor:
    return (logits_mV if temperature == 1 else logits_mV / temperature).log_softmax(-1)


def _joined(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
