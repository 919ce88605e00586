"""The advantage seam: from the rewards of a group to one number per response, or per token."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, TypeAlias

from torch import Tensor

from saei.config.strategy import Strategy
from saei.types import ScoredGroup, TrainGroup

Advantages: TypeAlias = Sequence[float] | Sequence[Tensor]
"""One number per response, or one ``[T]`` tensor per response with a number for each of its tokens."""


class Advantage(Strategy, ABC):
    """Turns the rewards of a group into advantages, which the policy loss multiplies by.

    To add one: derive, nest a ``Config``, implement ``estimate``. It is a pure function of its arguments.
    """

    kind: ClassVar[str] = "advantage"

    @abstractmethod
    def estimate(self, scored: ScoredGroup, rewards: Sequence[float]) -> Advantages:
        """Return the advantages of one group's N responses.

        Args:
            scored: The group with its grades. Its responses carry the entropies (nats) and log-probabilities of the
                sampling pass, for advantages that differ between tokens.
            rewards: Rewards of all groups of the step, in all processes, in the order of the groups' indices.

        Returns:
            N numbers; or N tensors, the n-th of them ``[T]`` with one number per token of response n.
        """


def train_group(scored: ScoredGroup, advantage: Advantage, rewards: Sequence[float]) -> TrainGroup:
    """Return a group with its advantages.

    Args:
        scored: The group.
        advantage: How its rewards become advantages.
        rewards: Rewards of all groups of the step, in all processes.
    """
    values = advantage.estimate(scored, rewards)
    if not any(isinstance(value, Tensor) for value in values):
        return TrainGroup(scored, tuple(float(value) for value in values))
    per_token = tuple(value.detach().float() for value in values if isinstance(value, Tensor))
    assert len(per_token) == len(values), "advantages are per token for all responses of a group, or for none"
    means = tuple(float(value_T.mean()) if len(value_T) else 0.0 for value_T in per_token)
    return TrainGroup(scored, means, per_token)
