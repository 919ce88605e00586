"""What attacks share that run another one."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from saei.attacks.base import Attack, BlockSpace
from saei.config.registry import AttackField
from saei.config.strategy import Strategy, StrategyConfig


class Wrapper(Attack):
    """Runs another attack, in whose spaces and ball it stays. To add one, implement ``attack``."""

    class Config(StrategyConfig):
        """Fields of every wrapper.

        Attributes:
            of: The attack that is run.
        """

        of: AttackField = "pgd"  # type: ignore[assignment]  # names are resolved by the validator

    config: Config

    def __init__(self, config: StrategyConfig | None = None) -> None:
        super().__init__(config)
        self.of: Attack = self.config.of.build()
        self.spaces = self.of.spaces
        self.moves = self.of.moves
        self.origin = self.of.origin
        self.jointly = self.of.jointly
        self.ball = self.of.ball

    @property
    def lowers(self) -> bool:
        """Whether the other attack lowers the criterion."""
        return self.of.lowers

    def radius(self, block: BlockSpace) -> Tensor | float | None:
        """Return the other attack's radius."""
        return self.of.radius(block)

    def parts(self) -> Mapping[str, Strategy]:
        """Return the other attack."""
        return {"of": self.of}
