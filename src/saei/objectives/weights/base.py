"""The weight seam: how much each token counts in the policy loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from saei.config.strategy import Strategy, StrategyConfig
from saei.need import Need
from saei.objectives.batch import UpdateBatch


class Weight(Strategy, ABC):
    """Gives each token's policy loss a factor; the factors of several weights are multiplied.

    To add one: derive, nest a ``Config``, implement ``weigh``. It is a pure function of its arguments: random choices
    use the generator that it is given. Terms are not weighed. Of every weight the share and the number of the tokens
    that it touched are logged, those whose weight is not 1: ``train/NAME/touched`` and ``train/NAME/touched_tokens``.
    """

    kind: ClassVar[str] = "weight"
    per_group: ClassVar[bool] = False
    """Whether ``weigh`` is given the groups one by one, once in a training step. Otherwise it is given each optimiser
    step's whole update batch, which several processes have to exchange first."""
    off_policy_only: ClassVar[bool] = False
    """Whether it weighs every token 1 where the current policy is the old one: it needs several updates per batch."""

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

    def metrics(self, batch: UpdateBatch) -> Mapping[str, Tensor]:
        """Return what else is logged about a batch, under the weight's name; called after ``weigh``, with its batch.

        Returns:
            One value per response, ``[R]``, by name, in the form of ``Loss.metrics``.
        """
        return {}
