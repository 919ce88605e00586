"""Computing statistics in shared passes, and keeping them beside their responses."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from torch import Tensor

from saei.config.strategy import StrategyConfig
from saei.entropy.token_states import TokenStates
from saei.errors import TrainingError
from saei.need import Need
from saei.policy.module import Distribution
from saei.policy.scoring import Extra, score_with
from saei.policy.statistics.base import (
    DerivedStatistic,
    DistributionStatistic,
    DivergenceStatistic,
    Statistic,
    TokenStatistic,
)
from saei.policy.statistics.known import Key, States, forget_reference_states
from saei.policy.statistics.needs import statistic_of
from saei.types import Response, View

if TYPE_CHECKING:
    from saei.policy.policy import Policy

OWN = Need("logp")
"""The log-probabilities that every scoring pass of the current policy under the own views has."""


@dataclass(frozen=True, eq=False, slots=True)
class Subject:
    """The responses that something is asked about.

    Attributes:
        policy: The current policy.
        views: The own view of each entry of ``responses``.
        responses: For each view its responses.
        clean: The clean view of each view's group; None if the own views are clean.
        drawn: Whether the responses were drawn under their own views and the weights are the same since: then what the
            sampling pass found out is not computed again.
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
        """What statistics are taken of."""
        return self.policy.distribution_of(self.policy.sampling) if self.update else self.policy.distribution


class Filling:
    """Computes the values of needs and keeps them beside their responses.

    Args:
        subject: The responses.
        ahead: Whether the current policy is the old one of the update to come.
    """

    def __init__(self, subject: Subject, *, ahead: bool = False) -> None:
        self._subject = subject
        self._ahead = ahead or not subject.policy.updates
        self._statistics: dict[str, Statistic] = {States.name(): States()}
        self._targets: dict[str | StrategyConfig, Sequence[View]] = {"own": subject.views}
        self._targets["clean"] = subject.views if subject.clean is None else subject.clean

    def values(self, need: Need) -> list[list[Tensor]]:
        """Return a need's values for each view and response, ``[T]``; they have been computed."""
        subject, statistic = self._subject, self._statistic(need)
        if isinstance(statistic, DerivedStatistic):
            parts = [self.values(part) for part in statistic.parts_of(need)]
            return [
                [statistic.combine(*(part[number][n] for part in parts)) for n in range(len(responses))]
                for number, responses in enumerate(subject.responses)
            ]
        return [
            [subject.policy.known[response][self._key(need, number)] for response in responses]
            for number, responses in enumerate(subject.responses)
        ]

    def combined(self, need: Need, values: dict[Need, Tensor]) -> Tensor:
        """Return a need's values ``[N, T]`` from those of its leaves."""
        statistic = self._statistic(need)
        if isinstance(statistic, DerivedStatistic):
            return statistic.combine(*(self.combined(part, values) for part in statistic.parts_of(need)))
        return values[need]

    def leaves(self, need: Need) -> list[Need]:
        """Return the needs that a need is made of in the end."""
        statistic = self._statistic(need)
        if isinstance(statistic, DerivedStatistic):
            return [leaf for part in statistic.parts_of(need) for leaf in self.leaves(part)]
        return [need]

    def looks_at_own(self, leaf: Need) -> bool:
        """Return whether a leaf is about what the current policy makes of the own views."""
        statistic = self._statistic(leaf)
        if isinstance(statistic, TokenStatistic):
            return False
        return isinstance(statistic, DivergenceStatistic) or (leaf.policy == "current" and leaf.view == "own")

    def compute(self, needs: Iterable[Need]) -> None:
        """Compute what is not known yet."""
        missing = [leaf for need in needs for leaf in self.leaves(need) if not self._is_known(leaf)]
        for leaf in missing:
            statistic = self._statistic(leaf)
            if isinstance(statistic, TokenStatistic):
                marks = [statistic.of_tokens(self._subject.policy, responses) for responses in self._subject.responses]
                self._keep(leaf, marks)
        in_passes = [leaf for leaf in missing if not isinstance(self._statistic(leaf), TokenStatistic)]
        self.compute_other_sides(in_passes)
        passes: dict[Need, list[Need]] = defaultdict(list)
        for leaf in dict.fromkeys(in_passes):
            divergence = isinstance(self._statistic(leaf), DivergenceStatistic)
            passes[OWN if divergence else Need("logp", leaf.view, leaf.policy)].append(leaf)
        for looking, leaves in passes.items():
            self._pass(looking, leaves)

    def compute_other_sides(self, leaves: Iterable[Need]) -> None:
        """Compute the hidden states of the other side of each divergence."""
        divergences = [leaf for leaf in leaves if isinstance(self._statistic(leaf), DivergenceStatistic)]
        for states in dict.fromkeys(Need(States.name(), leaf.view, leaf.policy) for leaf in divergences):
            if not self._is_known(states):
                self._pass(states, [states])

    def forget_reference_states(self) -> None:
        """Drop the reference's hidden states, which an update needs once; an attack has no reference."""
        known = self._subject.policy.known
        responses = (response for of_view in self._subject.responses for response in of_view)
        forget_reference_states({response: known[response] for response in responses if response in known})

    def extra(self, leaf: Need) -> Extra:
        """Return a leaf as a scoring pass computes it on its way."""
        statistic = self._statistic(leaf)
        if isinstance(statistic, DistributionStatistic):
            measure = statistic.compute
            return Extra(lambda states, ids_M, distribution, _: measure(states, ids_M, distribution))
        assert isinstance(statistic, DivergenceStatistic)
        divergence = statistic.compute
        head = self._subject.policy.old_head if leaf.policy == "old" else self._policy(leaf).head

        def from_other_side(
            states: TokenStates, ids_M: Tensor, distribution: Distribution, other_Md: Tensor | None
        ) -> Tensor:
            assert other_Md is not None
            return divergence(states, TokenStates(other_Md, head, hidden_only=True), ids_M, distribution)

        return Extra(from_other_side, self.values(Need(States.name(), leaf.view, leaf.policy)))

    def _pass(self, looking: Need, leaves: Sequence[Need]) -> None:
        """Compute leaves in one scoring pass of a policy under a view.

        Raises:
            TrainingError: If they are of the old policy, whose weights are no longer there.
        """
        subject = self._subject
        if looking.policy == "old" and not self._ahead:
            raise TrainingError(
                "What is asked of the old policy is computed before the update moves it.",
                reason=f"{looking} is not known of these responses under these views.",
                remedy="Name it in the needs of who asks, or give `policy.look_ahead` the same views and responses.",
            )
        scored = score_with(
            self._policy(looking),
            self._target(looking),
            subject.responses,
            {leaf: self.extra(leaf) for leaf in leaves if leaf.statistic not in ("logp", "entropy")},
            with_entropy=any(leaf.statistic == "entropy" for leaf in leaves),
            distribution=subject.distribution,
        )
        for leaf in leaves:
            if leaf.statistic == "logp":
                values = [_rows(scores.logp_NT, scores.mask_NT) for scores, _ in scored]
            elif leaf.statistic == "entropy":
                values = [_rows(scores.entropies(), scores.mask_NT) for scores, _ in scored]
            else:
                values = [extras[leaf] for _, extras in scored]
            self._keep(leaf, values)

    def _is_known(self, leaf: Need) -> bool:
        """Return whether all responses have a leaf's values, which the sampling pass may have found out."""
        subject = self._subject
        at_draw = subject.drawn and leaf.policy == "current" and leaf.statistic in ("logp", "entropy")
        known = True
        for number, (responses, own, target) in enumerate(
            zip(subject.responses, subject.views, self._target(leaf), strict=True)
        ):
            key = self._key(leaf, number)
            for response in responses:
                values = subject.policy.known.setdefault(response, {})
                if at_draw and own is target and not response.forced:
                    values[key] = response.behaviour_logp_T if leaf.statistic == "logp" else response.entropy_T
                known = known and key in values
        return known

    def _keep(self, leaf: Need, values: Sequence[Sequence[Tensor]]) -> None:
        known = self._subject.policy.known
        for number, (responses, of_view) in enumerate(zip(self._subject.responses, values, strict=True)):
            key = self._key(leaf, number)
            for response, values_T in zip(responses, of_view, strict=True):
                known.setdefault(response, {})[key] = values_T

    def _key(self, leaf: Need, number: int) -> Hashable:
        """Return what a response's values are kept under; a statistic of tokens by its name alone."""
        statistic = self._statistic(leaf)
        if isinstance(statistic, TokenStatistic):
            return leaf.statistic
        own = self._subject.views[number] if isinstance(statistic, DivergenceStatistic) else None
        return Key(leaf.statistic, leaf.policy, own, self._target(leaf)[number], self._subject.update)

    def _statistic(self, need: Need) -> Statistic:
        if need.statistic not in self._statistics:
            self._statistics[need.statistic] = statistic_of(need)
        return self._statistics[need.statistic]

    def _target(self, need: Need) -> Sequence[View]:
        """Return the views that a need is about."""
        if need.view not in self._targets:
            assert isinstance(need.view, StrategyConfig)
            self._targets[need.view] = [self._made(need.view, own) for own in self._subject.views]
        return self._targets[need.view]

    def _made(self, config: StrategyConfig, own: View) -> View:
        """Return what a maker makes of a view: once, since what is known of a response goes by the view itself."""
        policy = self._subject.policy
        by_config = policy.made_views.setdefault(own, {})
        if config not in by_config:
            view = config.build().make_view(policy, own)
            # Its own value would keep the view in the table for ever; a copy is as good.
            by_config[config] = replace(view) if view is own else view
        return by_config[config]

    def _policy(self, need: Need) -> Policy:
        """Return the policy that looks; what is asked of the old one is asked before the update moves it."""
        if need.policy != "reference":
            return self._subject.policy
        reference = self._subject.policy.reference
        assert reference is not None, "a reference is needed, and there is none"
        return reference


def _rows(values_NT: Tensor, mask_NT: Tensor) -> list[Tensor]:
    return [values_T[:length] for values_T, length in zip(values_NT, mask_NT.sum(1).tolist(), strict=True)]
