"""Computing statistics of responses in as few passes as possible, those that are known excepted.

All needs of one policy under one view share a pass. A divergence is computed in the pass of the current policy under
the own view; the hidden states of its other side are computed before.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from saei.entropy.token_states import TokenStates
from saei.errors import TrainingError
from saei.need import Need
from saei.policy.module import Distribution
from saei.policy.scoring import STATES, Extra, Scores, WithRespectTo, padded, score_with
from saei.policy.statistics.base import DistributionStatistic, DivergenceStatistic, TokenStatistic
from saei.policy.statistics.known import KnownStatistics, States, Subject
from saei.policy.statistics.needs import moves

_OWN_PASS = Need("logp")
"""Stands for the pass of the current policy under the own views."""

_OF_EVERY_PASS = ("logp", "entropy")
"""Statistics that a scoring pass computes by itself; others are its extras."""


@torch.no_grad()
def compute_statistics(needs: Iterable[Need], subject: Subject) -> list[dict[Need, Tensor]]:
    """Return for each view its needs' values without gradient, ``[N, T]``, 0 or False on padding."""
    needs = list(needs)
    known = KnownStatistics(subject)
    _compute(known, needs)
    values = {need: known.values(need) for need in needs}
    return [
        {need: padded(of_views[number]) for need, of_views in values.items()} for number in range(len(subject.views))
    ]


@torch.no_grad()
def look_ahead(needs: Iterable[Need], subject: Subject) -> None:
    """Compute what the needs ask of the old policy while it still is the current one."""
    known = KnownStatistics(subject)
    old = [leaf for need in needs for leaf in known.leaves(need) if leaf.policy == "old"]
    _compute(known, [leaf for leaf in old if not moves(leaf)], ahead=True)
    # A divergence from the old policy will be computed in the update, from the old hidden states by the old head.
    divergences = [leaf for leaf in old if moves(leaf)]
    if divergences:
        subject.policy.keep_head()
    _compute_other_sides(known, divergences, ahead=True)


def score_needs(
    needs: Collection[Need],
    subject: Subject,
    *,
    wrt: WithRespectTo,
    with_entropy: bool,
    selected: Sequence[Tensor] | None,
    at_clean: bool = False,
) -> list[Scores]:
    """Score responses in one pass together with their needs; see ``Policy.score``."""
    known = KnownStatistics(subject)
    at_point = isinstance(wrt, Mapping)
    leaves_of = {need: known.leaves(need) for need in needs}
    # A point moves the own views, so the known values of what depends on them do not hold there: the pass itself
    # computes it, even where no gradient is wanted.
    in_pass = {
        leaf: replace(leaf, grad=True)
        for leaves in leaves_of.values()
        for leaf in leaves
        if leaf.grad or (at_point and _depends_on_own_views(known, leaf))
    }
    combined = {need for need in needs if need.grad or not in_pass.keys().isdisjoint(leaves_of[need])}
    constant_leaves = {leaf for need in combined for leaf in leaves_of[need] if leaf not in in_pass}
    constants = compute_statistics([*(need for need in needs if need not in combined), *constant_leaves], subject)
    leaves = set(in_pass.values())
    with torch.no_grad():
        _compute_other_sides(known, leaves)
    scored = score_with(
        subject.policy,
        subject.views,
        subject.responses,
        _extras(known, leaves),
        wrt=wrt,
        with_entropy=with_entropy or any(leaf.statistic == "entropy" for leaf in leaves),
        selected=selected,
        with_states=at_clean,
    )
    known.forget_reference_states()
    if at_clean:
        known.keep(Need(STATES, view="clean"), [extras[STATES] for _, extras in scored])
    results = []
    for number, (scores, extras) in enumerate(scored):
        values = dict(constants[number])
        for leaf, with_grad in in_pass.items():
            if leaf.statistic in _OF_EVERY_PASS:
                values_NT = scores.logp_NT if leaf.statistic == "logp" else scores.entropies()
            else:
                values_NT = padded(extras[with_grad])
            values[leaf] = values_NT if leaf.grad else values_NT.detach()
        counted_NT = scores.mask_NT
        if selected is not None:
            counted_NT = counted_NT & selected[number][:, : counted_NT.shape[1]]
        statistics = {
            need: torch.where(counted_NT, known.combine(need, values), 0.0)
            if need in combined
            else values[need].masked_fill(~counted_NT, 0)
            for need in needs
        }
        results.append(Scores(scores.logp_NT, scores.entropy_NT, scores.mask_NT, statistics))
    return results


def _depends_on_own_views(known: KnownStatistics, leaf: Need) -> bool:
    """Return whether the current policy's distribution under the own views is in a leaf's values."""
    statistic = known.statistic(leaf)
    if isinstance(statistic, TokenStatistic):
        return False
    return isinstance(statistic, DivergenceStatistic) or (leaf.policy == "current" and leaf.view == "own")


def _compute(known: KnownStatistics, needs: Iterable[Need], *, ahead: bool = False) -> None:
    """Compute and keep what is not known yet.

    Args:
        known: What is known.
        needs: What is to be known.
        ahead: Whether the current policy is the old one of the update to come.
    """
    leaves = list(dict.fromkeys(leaf for need in needs for leaf in known.leaves(need)))
    for leaf in leaves:
        known.keep_drawn(leaf)
        if ahead and not known.has(leaf):
            known.keep_old(leaf)
    passes: dict[Need, list[Need]] = defaultdict(list)
    for leaf in leaves:
        if known.has(leaf):
            continue
        statistic, subject = known.statistic(leaf), known.subject
        if isinstance(statistic, TokenStatistic):
            known.keep(leaf, [statistic.of_tokens(subject.policy, responses) for responses in subject.responses])
        elif isinstance(statistic, DivergenceStatistic):
            passes[_OWN_PASS].append(leaf)
        else:
            passes[Need("logp", leaf.view, leaf.policy)].append(leaf)
    _compute_other_sides(known, [leaf for leaves in passes.values() for leaf in leaves], ahead=ahead)
    for need, leaves in passes.items():
        _compute_in_pass(known, need, leaves, ahead=ahead)


def _compute_other_sides(known: KnownStatistics, leaves: Iterable[Need], *, ahead: bool = False) -> None:
    """Compute and keep the hidden states of the other side of each divergence."""
    divergences = [leaf for leaf in leaves if isinstance(known.statistic(leaf), DivergenceStatistic)]
    for states in dict.fromkeys(Need(States.name(), leaf.view, leaf.policy) for leaf in divergences):
        if not known.has(states):
            _compute_in_pass(known, states, [states], ahead=ahead)


def _compute_in_pass(known: KnownStatistics, need: Need, leaves: Sequence[Need], *, ahead: bool) -> None:
    """Compute and keep leaves in one scoring pass, by the policy and under the views that a need names.

    Raises:
        TrainingError: If the policy is the old one and an update has changed its weights.
    """
    subject = known.subject
    if need.policy == "old" and subject.policy.updates and not ahead:
        raise TrainingError(
            "What is asked of the old policy is computed before the update moves it.",
            reason=f"{need} is not known of these responses under these views.",
            remedy="Name it in the needs of who asks, or give `policy.look_ahead` the same views and responses.",
        )
    scored = score_with(
        known.policy(need),
        known.views(need),
        subject.responses,
        _extras(known, leaves),
        with_entropy=any(leaf.statistic == "entropy" for leaf in leaves),
        distribution=subject.distribution,
    )
    for leaf in leaves:
        if leaf.statistic == "logp":
            values = [_unpadded(scores.logp_NT, scores.mask_NT) for scores, _ in scored]
        elif leaf.statistic == "entropy":
            values = [_unpadded(scores.entropies(), scores.mask_NT) for scores, _ in scored]
        else:
            values = [extras[leaf] for _, extras in scored]
        known.keep(leaf, values)


def _extras(known: KnownStatistics, leaves: Iterable[Need]) -> dict[Hashable, Extra]:
    """Return the extras of a scoring pass that computes some leaves."""
    return {leaf: _extra(known, leaf) for leaf in leaves if leaf.statistic not in _OF_EVERY_PASS}


def _extra(known: KnownStatistics, leaf: Need) -> Extra:
    statistic = known.statistic(leaf)
    if isinstance(statistic, DistributionStatistic):
        measure = statistic.compute
        return Extra(lambda states, ids_M, distribution, _: measure(states, ids_M, distribution))
    assert isinstance(statistic, DivergenceStatistic)
    divergence = statistic.compute
    head = known.subject.policy.old_head if leaf.policy == "old" else known.policy(leaf).head

    def from_other_side(
        states: TokenStates, ids_M: Tensor, distribution: Distribution, other_Md: Tensor | None
    ) -> Tensor:
        assert other_Md is not None
        return divergence(states, TokenStates(other_Md, head, hidden_only=True), ids_M, distribution)

    return Extra(from_other_side, known.values(Need(States.name(), leaf.view, leaf.policy)))


def _unpadded(values_NT: Tensor, mask_NT: Tensor) -> list[Tensor]:
    return [values_T[:length] for values_T, length in zip(values_NT, mask_NT.sum(1).tolist(), strict=True)]
