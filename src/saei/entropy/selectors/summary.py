"""What is logged about a selection."""

from __future__ import annotations

import torch
from torch import Tensor

QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)


def selection_summary(entropy_NT: Tensor, selected_NT: Tensor) -> dict[str, float]:
    """Return the number of selected tokens, quantiles of their entropy in nats, and their effective number.

    The effective number is ``exp(-Σ q log q)`` with q the selected entropies divided by their sum: how many equally
    uncertain tokens would carry the criterion as evenly. A selection of near-deterministic tokens with one exception
    has an effective number near 1. Empty selections give 0 throughout. Source: original.
    """
    chosen = entropy_NT[selected_NT].double()
    names = [f"entropy_q{int(100 * q)}" for q in QUANTILES]
    if not len(chosen):
        return {"selected": 0.0, "effective_tokens": 0.0, **dict.fromkeys(names, 0.0)}
    quantiles = torch.quantile(chosen, torch.tensor(QUANTILES, dtype=torch.float64, device=chosen.device))
    share = chosen / chosen.sum().clamp_min(torch.finfo(torch.float64).tiny)
    effective = torch.special.entr(share).sum().exp() if float(chosen.sum()) > 0 else torch.zeros(())
    return {
        "selected": float(len(chosen)),
        "effective_tokens": float(effective),
        **dict(zip(names, quantiles.tolist(), strict=True)),
    }
