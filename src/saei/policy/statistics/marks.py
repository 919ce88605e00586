"""Statistics of the tokens themselves: marks of those that belong to the frame of a response."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from saei.config.strategy import StrategyConfig
from saei.policy.statistics.base import TokenStatistic
from saei.types import Response

if TYPE_CHECKING:
    from saei.policy.policy import Policy


class EndOfSequence(TokenStatistic):
    """bool, True on tokens that end a response."""

    class Config(StrategyConfig):
        """No fields."""

        type: Literal["eos"] = "eos"

    config: Config

    def of_tokens(self, policy: Policy, responses: Sequence[Response]) -> list[Tensor]:
        """Return the marks."""
        return [torch.isin(response.ids_T, policy.eos_ids) for response in responses]


class TemplateLiteral(TokenStatistic):
    """bool, True on tokens that overlap one of the prompt template's literals in the decoded text."""

    class Config(StrategyConfig):
        """No fields."""

        type: Literal["template"] = "template"

    config: Config

    def of_tokens(self, policy: Policy, responses: Sequence[Response]) -> list[Tensor]:
        """Return the marks."""
        return [self._marks(policy, response.ids_T.tolist()) for response in responses]

    def _marks(self, policy: Policy, ids: list[int]) -> Tensor:
        beginnings = [ids[:end] for end in range(len(ids) + 1)]
        texts = policy.tokenizer.batch_decode(beginnings, skip_special_tokens=True)
        inside = _literal_characters(texts[-1], policy.template.literals)
        marks = [any(inside[start:end]) for start, end in itertools.pairwise(map(len, texts))]
        return torch.tensor(marks, dtype=torch.bool, device=policy.device)


def _literal_characters(text: str, literals: Sequence[str]) -> list[bool]:
    inside = [False] * len(text)
    for literal in literals:
        start = text.find(literal)
        while start >= 0:
            inside[start : start + len(literal)] = [True] * len(literal)
            start = text.find(literal, start + len(literal))
    return inside
