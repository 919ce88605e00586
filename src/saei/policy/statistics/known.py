"""What is known of a response: the keys that its values are kept under, and when they are forgotten."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from saei.config.strategy import StrategyConfig
from saei.entropy.token_states import TokenStates
from saei.need import WhichPolicy
from saei.policy.module import Distribution
from saei.policy.statistics.base import DistributionStatistic
from saei.types import Response, View


class States(DistributionStatistic):
    """The hidden states that predict a response's tokens, ``[T, d]``: the other side of a divergence."""

    class Config(StrategyConfig):
        """No fields."""

        type: Literal["saei/states"] = "saei/states"

    def of_distribution(self, logp_mV: Tensor, ids_m: Tensor) -> Tensor:
        """Raise, since there are none of a distribution alone."""
        raise AssertionError("States are no function of the distribution.")

    def compute(self, states: TokenStates, ids_M: Tensor, distribution: Distribution) -> Tensor:
        """Return the states themselves."""
        return states.hidden_Md


@dataclass(frozen=True, slots=True)
class Key:
    """What a response's values are kept under: the statistic, and who looked at the response under what.

    Attributes:
        statistic: Its name.
        policy: Who looked.
        own: The response's own view, for a divergence from the current policy under it; else None.
        target: The view.
        update: Whether it is of the distribution that the update trains.
    """

    statistic: str
    policy: WhichPolicy
    own: View | None
    target: View
    update: bool

    @property
    def moves(self) -> bool:
        """Whether the current policy's weights are in it."""
        return self.policy == "current" or self.own is not None

    @property
    def is_state(self) -> bool:
        """Whether it is hidden states."""
        return self.statistic == States.name()


def forget_states(known: Mapping[Response, dict[Hashable, Tensor]]) -> None:
    """Drop the current policy's hidden states, which are large; the old one's are needed until the update is over."""
    _forget(known, lambda key: key.is_state and key.policy == "current")


def forget_reference_states(known: Mapping[Response, dict[Hashable, Tensor]]) -> None:
    """Drop the reference's hidden states."""
    _forget(known, lambda key: key.is_state and key.policy == "reference")


def forget_old(known: Mapping[Response, dict[Hashable, Tensor]]) -> None:
    """Drop what the old policy said, or is compared with."""
    _forget(known, lambda key: key.policy == "old")


def forget_current(known: Mapping[Response, dict[Hashable, Tensor]]) -> None:
    """Drop what depends on the current policy's weights; what the old one and the reference said stays."""
    _forget(known, lambda key: key.moves)


def _forget(known: Mapping[Response, dict[Hashable, Tensor]], drops: Callable[[Key], bool]) -> None:
    for values in known.values():
        for key in [key for key in values if isinstance(key, Key) and drops(key)]:
            del values[key]
