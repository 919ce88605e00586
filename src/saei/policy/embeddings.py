"""The embedding layer as attacks on text see it: what it gives for every token, and how far tokens lie apart."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from saei.policy.policy import Policy

CHUNK = 8192
"""Tokens whose embeddings are in memory at once as float32."""

MEASURED = 1024
"""Tokens whose distances are measured, evenly spread over the vocabulary."""


class Embeddings:
    """Embeddings of a policy's tokens. Lengths are those of the current weights, so that a resumed run has the same.

    Args:
        policy: The policy.
    """

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._measured: dict[str, tuple[int, float]] = {}

    @torch.no_grad()
    def scores(self, vectors_Qd: Tensor) -> Tensor:
        """Return the products of float32 vectors with the embeddings of all tokens as they are now, ``[Q, V]``."""
        layer = self._policy.model.get_input_embeddings()
        ids_V = torch.arange(len(self.texts), device=self._policy.device)
        return torch.cat([vectors_Qd @ layer(ids_v).float().T for ids_v in ids_V.split(CHUNK)], dim=1)

    @property
    def size(self) -> int:
        """Features of an embedding."""
        return int(self._policy.model.get_input_embeddings()(self._policy.eos_ids[:1]).shape[1])

    @property
    def rms(self) -> float:
        """Root mean square of the features."""
        return self._length("rms", lambda sample_Md: sample_Md.pow(2).mean().sqrt())

    @property
    def distance(self) -> float:
        """Median Euclidean distance between two tokens."""
        return self._length("distance", _median_distance)

    def _length(self, name: str, measure: Callable[[Tensor], Tensor]) -> float:
        """Return a length, measured once until the weights change."""
        updates = self._policy.updates
        if self._measured.get(name, (-1, 0.0))[0] != updates:
            self._measured[name] = (updates, float(measure(self._sample())))
        return self._measured[name][1]

    @cached_property
    def texts(self) -> list[str]:
        """The text of every token that the policy may draw, as it stands behind another one; empty for the rest.

        Some tokenizers leave the space out that a text begins with, hence the token before it.
        """
        tokenizer, banned_V = self._policy.tokenizer, self._policy.distribution.banned_V
        assert banned_V is not None
        banned = banned_V.tolist()
        before: list[int] = tokenizer("a", add_special_tokens=False)["input_ids"][-1:]
        numbers = range(min(len(tokenizer), len(banned)))
        options = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
        lead, *texts = tokenizer.batch_decode([before, *([*before, number] for number in numbers)], **options)
        texts += [""] * (len(banned) - len(texts))
        return [
            text.removeprefix(lead) if text.startswith(lead) and not never else ""
            for text, never in zip(texts, banned, strict=True)
        ]

    @torch.no_grad()
    def _sample(self) -> Tensor:
        """float32 embeddings of some tokens that may be drawn, ``[M, d]``."""
        assert self._policy.distribution.banned_V is not None
        ids_M = (~self._policy.distribution.banned_V).nonzero()[:, 0]
        if len(ids_M) > MEASURED:
            ids_M = ids_M[torch.linspace(0, len(ids_M) - 1, MEASURED).round().long().to(ids_M.device)]
        embeddings_Md: Tensor = self._policy.model.get_input_embeddings()(ids_M)
        return embeddings_Md.float()


def _median_distance(sample_Md: Tensor) -> Tensor:
    distances_MM = torch.cdist(sample_Md, sample_Md)
    return distances_MM[torch.ones_like(distances_MM, dtype=torch.bool).triu(1)].median()
