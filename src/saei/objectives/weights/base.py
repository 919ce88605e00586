"""The weight seam: how much each token counts in the policy loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from saei.config.strategy import Strategy, StrategyConfig
from saei.need import Need
from saei.objectives.batch import UpdateBatch


class Weight(Strategy, ABC):
    """Gives each token's policy loss a factor; the factors of several weights are multiplied.

    To add one: derive, nest a ``Config``, implement ``weigh``. It is a pure function of its arguments: random choices
    use the generator that it is given. Terms are not weighed.
    """

    kind: ClassVar[str] = "weight"
    per_group: ClassVar[bool] = False
    """Whether ``weigh`` is given the groups one by one, once in a training step. Otherwise it is given each optimiser
    step's whole update batch, which several processes have to exchange first."""

    class Config(StrategyConfig):
        """Fields of every weight.

        Attributes:
            count_zeroed: Tokens of weight 0 still count in the denominators of the policy loss, so that the others do
                not weigh more. If false, the policy loss is that of the other tokens alone.
        """

        count_zeroed: bool = True

    config: Config

    @property
    def needs(self) -> frozenset[Need]:
        """Keys of ``batch.statistics`` that ``weigh`` reads; they have no gradient; ``UpdateBatch`` has their cost."""
        return frozenset()

    @abstractmethod
    def weigh(self, batch: UpdateBatch, *, progress: float, generator: torch.Generator) -> Tensor:
        """Return the weights ``[R, T]``, finite and not negative; values on padding are ignored.

        Args:
            batch: The update batch, or one group; called under ``no_grad``.
            progress: Share of the training done, in [0, 1].
            generator: Source of all randomness, on the CPU, seeded by step and optimiser step, or by step and group.
                Numbers drawn for rows in their order do not depend on the number of processes.
        """
