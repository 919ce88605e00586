"""The embedding layer as attacks on text see it: what it gives for every token, and how far tokens lie apart."""

from __future__ import annotations

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
    """Embeddings of a policy's tokens. Lengths are of the weights as they are when they are first asked for.

    Args:
        policy: The policy.
    """

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    @torch.no_grad()
    def scores(self, vectors_Qd: Tensor) -> Tensor:
        """Return the products of float32 vectors with the embeddings of all tokens as they are now, ``[Q, V]``."""
        layer = self._policy.model.get_input_embeddings()
        ids_V = torch.arange(len(self.texts), device=self._policy.device)
        return torch.cat([vectors_Qd @ layer(ids_v).float().T for ids_v in ids_V.split(CHUNK)], dim=1)

    @property
    def size(self) -> int:
        """Features of an embedding."""
        return self._sample.shape[1]

    @cached_property
    def rms(self) -> float:
        """Root mean square of the features."""
        return float(self._sample.pow(2).mean().sqrt())

    @cached_property
    def distance(self) -> float:
        """Median Euclidean distance between two tokens."""
        distances_MM = torch.cdist(self._sample, self._sample)
        upper = torch.ones_like(distances_MM, dtype=torch.bool).triu(1)
        return float(distances_MM[upper].median())

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

    @cached_property
    def _sample(self) -> Tensor:
        """float32 embeddings of some tokens that may be drawn, ``[M, d]``."""
        assert self._policy.distribution.banned_V is not None
        ids_M = (~self._policy.distribution.banned_V).nonzero()[:, 0]
        if len(ids_M) > MEASURED:
            ids_M = ids_M[torch.linspace(0, len(ids_M) - 1, MEASURED).round().long().to(ids_M.device)]
        with torch.no_grad():
            embeddings_Md: Tensor = self._policy.model.get_input_embeddings()(ids_M)
        return embeddings_Md.float()
