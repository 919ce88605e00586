"""The warm start: supervised demonstrations with Muon on matrices and AdamW on the rest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from saei.builtin.batches import IGNORED, Demonstration, Tools, demonstration_batch
from saei.builtin.muon import Muon


class WarmStart:
    """The optimisers of one warm start.

    Args:
        model: The model that is trained.
        tools: Its tokenizer and image processor.
        muon_lr: Highest learning rate of the matrices.
        adamw_lr: Highest learning rate of everything else.
    """

    def __init__(self, model: Any, tools: Tools, *, muon_lr: float, adamw_lr: float) -> None:
        self.model, self.tools = model, tools
        matrices: list[Tensor] = []
        others: list[Tensor] = []
        for name, param in model.named_parameters():
            inside = param.ndim >= 2 and "embed_tokens" not in name
            (matrices if inside else others).append(param)
        self.optimisers = (
            Muon(matrices, lr=muon_lr),
            torch.optim.AdamW(others, lr=adamw_lr, weight_decay=0.0),
        )
        self.rates = (muon_lr, adamw_lr)

    def step(self, shown: Sequence[Demonstration], *, rate: float, weight_V: Tensor | None = None) -> float:
        """Train on one batch and return its weighted mean loss per learnt token, in nats.

        Args:
            shown: The demonstrations.
            rate: Factor on both learning rates.
            weight_V: Weight of each token of the vocabulary, None for the same.
        """
        inputs, labels_RT = demonstration_batch(self.tools, self.model, shown)
        learnt_RT = labels_RT[:, 1:] != IGNORED
        hidden = self.model.model(**inputs, use_cache=False).last_hidden_state[:, :-1][learnt_RT]
        loss = cross_entropy(self.model.lm_head(hidden), labels_RT[:, 1:][learnt_RT], weight=weight_V)
        loss.backward()
        for optimiser, highest in zip(self.optimisers, self.rates, strict=True):
            optimiser.param_groups[0]["lr"] = highest * rate
            optimiser.step()
            optimiser.zero_grad()
        return loss.item()


def weights(tokenizer: Any, tokens: Sequence[str], weight: float) -> Tensor:
    """Return ``[V]`` weights of a loss: ``weight`` for some tokens, as they stand in the text, 1 for the others."""
    ids = torch.tensor(tokenizer.convert_tokens_to_ids(list(tokens)))
    return torch.ones(len(tokenizer)).index_fill(0, ids, weight)
