"""Known statistics of responses: their keys, how they are kept, and when they are forgotten.

Values without gradient are kept in ``Policy.known`` until the weights that they depend on change, so that each
statistic of a response is computed once.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from torch import Tensor

from saei.config.strategy import StrategyConfig
from saei.entropy.token_states import TokenStates
from saei.need import Need, WhichPolicy
from saei.policy.module import Distribution
from saei.policy.statistics.base import (
    DerivedStatistic,
    DistributionStatistic,
    DivergenceStatistic,
    Statistic,
    TokenStatistic,
)
from saei.policy.statistics.needs import statistic_of
from saei.types import Response, View

if TYPE_CHECKING:
    from saei.policy.policy import Policy


class States(DistributionStatistic):
    """The hidden states that predict a response's tokens, ``[T, d]``: the other side of a divergence."""

    class Config(StrategyConfig):
        """No fields."""

        type: Literal["saei/states"] = "saei/states"

    def of_distribution(self, logp_mV: Tensor, ids_m: Tensor) -> Tensor:
        """Raise: a distribution alone has no hidden states."""
        raise AssertionError("States are no function of the distribution.")

    def compute(self, states: TokenStates, ids_M: Tensor, distribution: Distribution) -> Tensor:
        """Return the states themselves."""
        return states.hidden_Md


@dataclass(frozen=True, slots=True)
class Key:
    """The key of a response's values: the statistic, the policy, and the views.

    Attributes:
        statistic: Its name, or its config.
        policy: The need's policy.
        own_view: The response's own view, for a divergence from the current policy under it; else None.
        target: The need's view.
        update: Whether the values are of the distribution that the update trains.
    """

    statistic: str | StrategyConfig
    policy: WhichPolicy
    own_view: View | None
    target: View
    update: bool

    @property
    def moves(self) -> bool:
        """Whether the values depend on the current policy's weights."""
        return self.policy == "current" or self.own_view is not None

    @property
    def is_state(self) -> bool:
        """Whether the values are hidden states."""
        return self.statistic == States.name()


@dataclass(frozen=True, eq=False, slots=True)
class Subject:
    """The responses whose statistics are needed.

    Attributes:
        policy: The current policy.
        views: The own view of each entry of ``responses``.
        responses: For each view its responses.
        clean: The clean view of each view's group; None if the own views are clean.
        drawn: Whether the responses were drawn under their own views by the current weights; then the values of the
            sampling pass are used.
        update: Whether distributions are those that the update trains; else entropies are the criterion's.
    """

    policy: Policy
    views: Sequence[View]
    responses: Sequence[Sequence[Response]]
    clean: Sequence[View] | None = None
    drawn: bool = False
    update: bool = False

    @property
    def distribution(self) -> Distribution:
        """The distribution that statistics are computed of."""
        return self.policy.distribution_of(self.policy.sampling) if self.update else self.policy.distribution


class KnownStatistics:
    """The known statistics of some responses, by need.

    A need for a derived statistic is made of others; those that it is made of in the end are its leaves. Only leaves
    have values of their own beside the responses.

    Args:
        subject: The responses.
    """

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self._statistics: dict[str | StrategyConfig, Statistic] = {States.name(): States()}
        self._views: dict[str | StrategyConfig, Sequence[View]] = {"own": subject.views}
        self._views["clean"] = subject.views if subject.clean is None else subject.clean

    def statistic(self, need: Need) -> Statistic:
        """Return the statistic that a need names."""
        if need.statistic not in self._statistics:
            self._statistics[need.statistic] = statistic_of(need)
        return self._statistics[need.statistic]

    def views(self, need: Need) -> Sequence[View]:
        """Return the views that a need names, one for each of the responses' own."""
        if need.view not in self._views:
            assert isinstance(need.view, StrategyConfig)
            self._views[need.view] = [_made_view(self.subject.policy, need.view, view) for view in self.subject.views]
        return self._views[need.view]

    def policy(self, need: Need) -> Policy:
        """Return the policy that a need names; the old one is the current one until an update changes it."""
        if need.policy != "reference":
            return self.subject.policy
        reference = self.subject.policy.reference
        assert reference is not None, "a reference is needed, and there is none"
        return reference

    def leaves(self, need: Need) -> list[Need]:
        """Return the needs that a need is made of in the end, itself if it is made of no others."""
        statistic = self.statistic(need)
        if isinstance(statistic, DerivedStatistic):
            return [leaf for part in statistic.parts_of(need) for leaf in self.leaves(part)]
        return [need]

    def combine(self, need: Need, values: Mapping[Need, Tensor]) -> Tensor:
        """Return a need's values ``[N, T]`` from those of its leaves."""
        statistic = self.statistic(need)
        if isinstance(statistic, DerivedStatistic):
            return statistic.combine(*(self.combine(part, values) for part in statistic.parts_of(need)))
        return values[need]

    def values(self, need: Need) -> list[list[Tensor]]:
        """Return a need's values ``[T]`` for each view and response; all of its leaves are known."""
        statistic, known = self.statistic(need), self.subject.policy.known
        if isinstance(statistic, DerivedStatistic):
            parts = [self.values(part) for part in statistic.parts_of(need)]
            return [
                [statistic.combine(*(part[number][place] for part in parts)) for place in range(len(responses))]
                for number, responses in enumerate(self.subject.responses)
            ]
        return [
            [known[response][self._key(need, number)] for response in responses]
            for number, responses in enumerate(self.subject.responses)
        ]

    def has(self, leaf: Need) -> bool:
        """Return whether a leaf's values are known of all responses."""
        known = self.subject.policy.known
        return all(
            self._key(leaf, number) in known.get(response, ())
            for number, responses in enumerate(self.subject.responses)
            for response in responses
        )

    def keep(self, leaf: Need, values: Sequence[Sequence[Tensor]]) -> None:
        """Keep a leaf's values ``[T]`` for each view and response."""
        known = self.subject.policy.known
        for number, (responses, of_view) in enumerate(zip(self.subject.responses, values, strict=True)):
            key = self._key(leaf, number)
            for response, values_T in zip(responses, of_view, strict=True):
                known.setdefault(response, {})[key] = values_T

    def keep_drawn(self, leaf: Need) -> None:
        """Keep what the sampling pass computed of a leaf.

        A response with forced tokens is left out: theirs are the values of its parent, perhaps of another view. So is
        one that was drawn at another temperature than the policy's: its values are not the policy's. Entropies at the
        criterion's temperature are not those of the distribution that the update trains.
        """
        subject = self.subject
        if not subject.drawn or leaf.policy != "current" or leaf.statistic not in ("logp", "entropy"):
            return
        sampled = subject.policy.distribution
        same_entropies = sampled.entropy_temperature in (None, sampled.temperature)
        if leaf.statistic == "entropy" and subject.update and not same_entropies:
            return
        for number, (own_view, target) in enumerate(zip(subject.views, self.views(leaf), strict=True)):
            if own_view is not target:
                continue
            key = self._key(leaf, number)
            for response in subject.responses[number]:
                if not response.forced and response.temperature is None:
                    values_T = response.behaviour_logp_T if leaf.statistic == "logp" else response.entropy_T
                    subject.policy.known.setdefault(response, {})[key] = values_T

    def keep_old(self, leaf: Need) -> None:
        """Keep the current policy's values of a leaf of the old one, which it still is."""
        current = replace(leaf, policy="current")
        if leaf.policy == "old" and self.has(current):
            self.keep(leaf, self.values(current))

    def forget_reference_states(self) -> None:
        """Drop the reference's hidden states, which an update needs once; an attack has no reference."""
        known = self.subject.policy.known
        responses = [response for of_view in self.subject.responses for response in of_view if response in known]
        _forget(
            {response: known[response] for response in responses},
            lambda key: key.is_state and key.policy == "reference",
        )

    def _key(self, leaf: Need, number: int) -> Hashable:
        """Return the key of a leaf under a view; of a statistic of tokens its name alone."""
        statistic = self.statistic(leaf)
        if isinstance(statistic, TokenStatistic):
            return leaf.statistic
        own_view = self.subject.views[number] if isinstance(statistic, DivergenceStatistic) else None
        return Key(leaf.statistic, leaf.policy, own_view, self.views(leaf)[number], self.subject.update)


def _made_view(policy: Policy, config: StrategyConfig, source: View) -> View:
    """Return what a view maker makes of a view; made once, since keys hold the view itself."""
    by_config = policy.made_views.setdefault(source, {})
    if config not in by_config:
        view = config.build().make_view(policy, source)
        # A table whose value is its own weak key never drops the entry; a copy of the view does as well.
        by_config[config] = replace(view) if view is source else view
    return by_config[config]


def forget_states(known: Mapping[Response, dict[Hashable, Tensor]]) -> None:
    """Drop the current policy's hidden states, which are large; the old one's are needed until the update is over."""
    _forget(known, lambda key: key.is_state and key.policy == "current")


def forget_old(known: Mapping[Response, dict[Hashable, Tensor]]) -> None:
    """Drop the values of the old policy, and divergences from it."""
    _forget(known, lambda key: key.policy == "old")


def forget_current(known: Mapping[Response, dict[Hashable, Tensor]]) -> None:
    """Drop what depends on the current policy's weights; values of the old policy and the reference stay."""
    _forget(known, lambda key: key.moves)


def _forget(known: Mapping[Response, dict[Hashable, Tensor]], drops: Callable[[Key], bool]) -> None:
    for values in known.values():
        for key in [key for key in values if isinstance(key, Key) and drops(key)]:
            del values[key]
