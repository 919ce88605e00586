"""Computing statistics of responses in as few passes as possible, those that are known excepted.

All needs of one policy under one view share a pass. A divergence is computed in the pass of the current policy under
the own view; the hidden states of its other side are computed before. Values with gradient under another view come from
a pass of that view whose graph is kept.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

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
        leaf: leaf if leaf.grad else replace(leaf, grad=True)
        for leaves in leaves_of.values()
        for leaf in leaves
        if leaf.grad or (at_point and _depends_on_own_views(known, leaf))
    }

    # Needs made of such leaves are put together at the end; all else is known before the pass, without gradient.
    combined = {need for need in needs if need.grad or not in_pass.keys().isdisjoint(leaves_of[need])}
    constant_leaves = {leaf for need in combined for leaf in leaves_of[need] if leaf not in in_pass}
    constants = compute_statistics([*(need for need in needs if need not in combined), *constant_leaves], subject)

    # A leaf under another view comes from a pass of that view. Of a divergence the other side is computed first, so
    # that the pass has both distributions at hand, a chunk of tokens at a time.
    elsewhere = {leaf for leaf in in_pass.values() if _under_another_view(known, leaf)}
    leaves = set(in_pass.values()) - elsewhere
    with torch.no_grad():
        _compute_other_sides(known, [leaf for leaf in leaves if leaf.grad != "both"])
    other_sides = {leaf: _other_side(leaf) for leaf in leaves if leaf.grad == "both"}
    values_elsewhere = _score_elsewhere(known, {*elsewhere, *other_sides.values()}, wrt=wrt, selected=selected)
    constants_of = {leaf: values_elsewhere[other] for leaf, other in other_sides.items()}

    # The pass of the current policy under the own views.
    scored = score_with(
        subject.policy,
        subject.views,
        subject.responses,
        _extras(known, leaves, constants_of),
        wrt=wrt,
        with_entropy=with_entropy or any(leaf.statistic == "entropy" for leaf in leaves),
        selected=selected,
        with_states=at_clean,
    )
    known.forget_reference_states()
    if at_clean:
        known.keep(Need(STATES, view="clean"), [extras[STATES] for _, extras in scored])

    # For each view its leaves, from wherever they were computed, and of them its needs.
    results = []
    for number, (scores, extras) in enumerate(scored):
        values = dict(constants[number])
        for leaf, with_grad in in_pass.items():
            if leaf in elsewhere:
                values_NT = padded(values_elsewhere[leaf][number])
            elif leaf.statistic in _OF_EVERY_PASS:
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


def _under_another_view(known: KnownStatistics, leaf: Need) -> bool:
    """Return whether a leaf with gradient is of the distributions under another view than the own."""
    return leaf.view != "own" and isinstance(known.statistic(leaf), DistributionStatistic)


def _other_side(divergence: Need) -> Need:
    """Return the need for the hidden states of the other side of a divergence that has a gradient on both."""
    return Need(States.name(), divergence.view, divergence.policy, grad=True)


def _score_elsewhere(
    known: KnownStatistics,
    leaves: Iterable[Need],
    *,
    wrt: WithRespectTo,
    selected: Sequence[Tensor] | None,
) -> dict[Need, list[list[Tensor]]]:
    """Return the values with gradient of leaves under other views, ``[T, ...]`` for each view and response.

    Each view costs a pass, which its responses share as they do under their own views.
    """
    by_view: dict[Any, list[Need]] = defaultdict(list)
    for leaf in leaves:
        by_view[leaf.view].append(leaf)
    assert not by_view or wrt == "parameters", "a point belongs to the own views"
    values: dict[Need, list[list[Tensor]]] = {}
    for of_view in by_view.values():
        values |= _scored_leaves(known, of_view[0], of_view, wrt=wrt, selected=selected)
    return values


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
    for leaf, values in _scored_leaves(known, need, leaves).items():
        known.keep(leaf, values)


def _scored_leaves(
    known: KnownStatistics,
    need: Need,
    leaves: Sequence[Need],
    *,
    wrt: WithRespectTo = None,
    selected: Sequence[Tensor] | None = None,
) -> dict[Need, list[list[Tensor]]]:
    """Return leaves from one scoring pass, by the policy and under the views that a need names.

    Args:
        known: What is known.
        need: Names the policy and the views.
        leaves: What the pass computes.
        wrt: What it is differentiated by.
        selected: The tokens that are scored, None for all.

    Returns:
        By leaf ``[T, ...]`` for each view and response.
    """
    subject = known.subject
    scored = score_with(
        known.policy(need),
        known.views(need),
        subject.responses,
        _extras(known, leaves),
        wrt=wrt,
        with_entropy=any(leaf.statistic == "entropy" for leaf in leaves),
        selected=selected,
        distribution=subject.distribution,
    )
    values = {}
    for leaf in leaves:
        if leaf.statistic == "logp":
            values[leaf] = [_unpadded(scores.logp_NT, scores.mask_NT) for scores, _ in scored]
        elif leaf.statistic == "entropy":
            values[leaf] = [_unpadded(scores.entropies(), scores.mask_NT) for scores, _ in scored]
        else:
            values[leaf] = [extras[leaf] for _, extras in scored]
    return values


def _extras(
    known: KnownStatistics,
    leaves: Iterable[Need],
    other_sides: Mapping[Need, Sequence[Sequence[Tensor]]] | None = None,
) -> dict[Hashable, Extra]:
    """Return the extras of a scoring pass that computes some leaves.

    Args:
        known: What is known, the other sides of divergences included.
        leaves: The leaves.
        other_sides: The hidden states, with gradient, of the other sides of divergences that are not known.
    """
    other_sides = other_sides or {}
    return {leaf: _extra(known, leaf, other_sides) for leaf in leaves if leaf.statistic not in _OF_EVERY_PASS}


def _extra(known: KnownStatistics, leaf: Need, other_sides: Mapping[Need, Sequence[Sequence[Tensor]]]) -> Extra:
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
        q = TokenStates(other_Md, head, hidden_only=leaf not in other_sides)
        return divergence(states, q, ids_M, distribution)

    if leaf in other_sides:
        return Extra(from_other_side, other_sides[leaf])
    return Extra(from_other_side, known.values(Need(States.name(), leaf.view, leaf.policy)))


def _unpadded(values_NT: Tensor, mask_NT: Tensor) -> list[Tensor]:
    return [values_T[:length] for values_T, length in zip(values_NT, mask_NT.sum(1).tolist(), strict=True)]
