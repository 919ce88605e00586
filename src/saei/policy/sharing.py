"""Whether several responses can continue from the cache of one prompt: tried on a few tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from saei.errors import out_of_memory
from saei.types import Example, Response, View

if TYPE_CHECKING:
    from saei.policy.policy import Policy

_ANSWERS = (4, 2, 3)
"""Lengths in tokens of the responses that are tried, to a question without a picture."""

_TOLERANCE = 1e-4
"""Largest deviation from the plain way, relative to the largest value."""

_HALF_TOLERANCE = 0.3
"""The same in half precision, whose rounding alone was measured at up to 0.1; a wrong cache deviates by more."""


def why_not_shared(policy: Policy) -> str | None:
    """Return why responses cannot go on from their prompt's cache, None if they can.

    Log-probabilities and the gradient by the prompt's embeddings are compared with those of the plain way.
    """
    banned_V = policy.distribution.banned_V
    assert banned_V is not None
    free = (~banned_V).nonzero()[:, 0]
    ids = free[torch.arange(sum(_ANSWERS), device=free.device) * 7 % len(free)]
    responses = [Response(ids_T, "", ids_T, ids_T, truncated=True) for ids_T in ids.split(_ANSWERS)]
    view = policy.view(Example("probe", "?", ""))
    plain = _try(policy, view, responses, shared=False)
    try:
        shared = _try(policy, view, responses, shared=True)
    except Exception as error:  # caches that cannot do it raise errors of all kinds
        if out_of_memory(error):
            raise
        return f"its cache cannot be handed on ({type(error).__name__}: {str(error).strip().splitlines()[0]})"
    allowed = _TOLERANCE if policy.model.dtype.itemsize >= 4 else _HALF_TOLERANCE
    for what, ours, reference in zip(("log-probabilities", "gradients"), shared, plain, strict=True):
        deviation = float((ours - reference).abs().max() / reference.abs().max())
        if not deviation <= allowed:
            return f"{what} of responses that go on from a cache are off by {deviation:.1g}"
    return None


def _try(policy: Policy, view: View, responses: Sequence[Response], *, shared: bool) -> tuple[Tensor, Tensor]:
    """Return log-probabilities, and their gradient by the embeddings of the prompt ``[P, d]``."""
    embedded: list[Tensor] = []

    def watch(module: Any, arguments: Any, output: Tensor) -> Tensor:
        embedded.append(output.detach().requires_grad_())
        return embedded[-1]

    handle = policy.model.get_input_embeddings().register_forward_hook(watch)
    before, policy.shared_prefix = policy.shared_prefix, shared
    try:
        (scores,) = policy.score([view], [responses], wrt="parameters", with_entropy=False)
        (gradient_BSd,) = torch.autograd.grad(scores.logp_NT.sum(), embedded[:1])
    finally:
        handle.remove()
        policy.shared_prefix = before
    return scores.logp_NT.detach(), gradient_BSd[:, : len(view.prompt_ids_P)].sum(0)
