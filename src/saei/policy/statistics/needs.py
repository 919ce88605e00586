"""Checking needs when a run is built: one that nothing fills is refused."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from saei.config.registry import entries, load
from saei.config.strategy import StrategyConfig
from saei.errors import ConfigError, nearest
from saei.need import Need
from saei.policy.statistics.base import (
    DerivedStatistic,
    DivergenceStatistic,
    Statistic,
    TokenStatistic,
    ViewMaker,
)

VIEWS = ("own", "clean")
POLICIES = ("current", "old", "reference")


def statistic_of(need: Need) -> Statistic:
    """Return the statistic that a need names."""
    if isinstance(need.statistic, str):
        statistic: Statistic = load("statistic", need.statistic)()  # type: ignore[assignment]  # load checks the kind
    else:
        statistic = need.statistic.build()
    return statistic


def moves(need: Need) -> bool:
    """Return whether a need's values depend on the current policy's weights, so that an update changes them."""
    statistic = statistic_of(need)
    if isinstance(statistic, DerivedStatistic):
        return any(moves(part) for part in statistic.parts_of(need))
    if isinstance(statistic, TokenStatistic):
        return False
    return need.policy == "current" or isinstance(statistic, DivergenceStatistic)


def policies_of(need: Need) -> frozenset[str]:
    """Return the policies that compute a need's values, except for the current side of a divergence."""
    statistic = statistic_of(need)
    if isinstance(statistic, DerivedStatistic):
        return frozenset[str]().union(*(policies_of(part) for part in statistic.parts_of(need)))
    return frozenset() if isinstance(statistic, TokenStatistic) else frozenset({need.policy})


def check_needs(
    needs: Iterable[Need],
    asker: str,
    *,
    policies: Iterable[str] = POLICIES,
    grad: bool = True,
    other_views: bool = False,
) -> None:
    """Refuse needs that nothing fills.

    Args:
        needs: The needs.
        asker: The part that has them, for the message.
        policies: The policies that it has access to.
        grad: Whether its values may have a gradient.
        other_views: Whether they may have one under another view than the own, as in the update, where the parameters
            are differentiated. A point of an attack belongs to the own view.

    Raises:
        ConfigError: Naming the need, the part, and what is available.
    """
    for need in needs:
        problem, remedy = _problem(need, tuple(policies), grad, grad and other_views)
        if problem:
            raise ConfigError(f"{asker} needs what nothing fills.", reason=problem, remedy=remedy)


def _problem(need: Any, policies: tuple[str, ...], grad: bool, other_views: bool) -> tuple[str, str]:
    if not isinstance(need, Need):
        return f"It asks for {need!r}, which is no Need.", f'Write Need("{need}"), from saei.need.'
    names = {entry.name for entry in entries("statistic")}
    if isinstance(need.statistic, StrategyConfig):
        if need.statistic.strategy.kind != Statistic.kind:
            return f"'{need.name}' is a {need.statistic.strategy.kind}.", "Give the config of a statistic."
    elif need.statistic not in names:
        return f"There is no statistic '{need.statistic}'.", nearest(need.statistic, names)
    if need.policy not in policies:
        return f"It asks for {need}, and there is no {need.policy} policy.", nearest(need.policy, policies)
    if isinstance(need.view, StrategyConfig):
        if not isinstance(need.view.build(), ViewMaker):
            return f"'{need.view.type}' makes no views.", "Give the config of a class that has make_view(policy, view)."
    elif need.view not in VIEWS:
        return f"There is no view '{need.view}'.", nearest(str(need.view), VIEWS)
    statistic = statistic_of(need)
    if isinstance(statistic, DerivedStatistic):
        return _problem_of_parts(statistic, need, policies, grad, other_views)
    if need.grad and (not grad or isinstance(statistic, TokenStatistic)):
        return f"It asks for {need}, and nothing is differentiated there.", "Leave grad out."
    elsewhere = need.policy != "current" or need.view != "own"
    if isinstance(statistic, DivergenceStatistic):
        if not elsewhere:
            return f"It asks for {need}, which is 0: a divergence from itself.", "Name another view or policy."
        if need.grad != "both":
            return "", ""
    elif need.grad == "both":
        return f"It asks for {need}, which has one side.", "Set grad to True; both sides are those of a divergence."
    if need.grad and elsewhere and need.policy != "current":
        return (
            f"It asks for {need}, and the gradient is that of the current policy.",
            "Leave grad out, or ask for a divergence from that policy.",
        )
    if need.grad and elsewhere and not other_views:
        return (
            f"It asks for {need}, and the gradient is that of the current policy under the own view there.",
            "Leave grad out, or ask for a divergence from that view.",
        )
    return "", ""


def _problem_of_parts(
    statistic: DerivedStatistic, need: Need, policies: tuple[str, ...], grad: bool, other_views: bool
) -> tuple[str, str]:
    parts = statistic.parts_of(need)
    if len({replace(part, grad=False) for part in parts}) < len(parts):
        return f"It asks for {need}, which is made of the same thing twice.", "Name another view or policy."
    for part in parts:
        problem, remedy = _problem(part, policies, grad, other_views)
        if problem:
            return f"For {need}: {problem[0].lower()}{problem[1:]}", remedy
    return "", ""
