"""Advantages that change another one, which they hold in a field."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping

import torch
from torch import Tensor

from saei.config.registry import AdvantageField
from saei.config.strategy import Strategy, StrategyConfig
from saei.need import Need
from saei.objectives.advantages.base import Advantage
from saei.types import Response


class ShapingAdvantage(Advantage, ABC):
    """Changes another advantage, so that every baseline and scale stays available. To add one, implement ``estimate``.

    Its ``estimate`` asks ``self.of`` for the other one's.
    """

    class Config(StrategyConfig):
        """Fields of every advantage that changes another.

        Attributes:
            of: The advantage that is changed.
        """

        of: AdvantageField = "group-relative"  # type: ignore[assignment]  # names are resolved by the validator

    config: Config

    def __init__(self, config: StrategyConfig | None = None) -> None:
        super().__init__(config)
        self.of: Advantage = self.config.of.build()

    def parts(self) -> Mapping[str, Strategy]:
        """Return the other advantage."""
        return {"of": self.of}

    @property
    def needs(self) -> frozenset[Need]:
        """What the other one needs."""
        return self.of.needs

    @property
    def per_token(self) -> bool:
        """Whether the other one differs between tokens."""
        return self.of.per_token

    @property
    def shaped(self) -> Advantage:
        """The other advantage."""
        return self.of

    @property
    def mixes_origins(self) -> bool:
        """Whether the other one compares responses of different origins."""
        return self.of.mixes_origins


def at_tokens(value: float | Tensor, response: Response) -> Tensor:
    """Return a response's advantage at each of its tokens, float32 ``[T]``."""
    if isinstance(value, Tensor):
        return value
    return torch.full_like(response.entropy_T, value, dtype=torch.float32)
