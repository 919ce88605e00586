"""Advantages that make no sense with the objective or the sampler beside them; refused before weights are loaded."""

from __future__ import annotations

from collections.abc import Mapping

from saei.errors import ConfigError
from saei.objectives.advantages.base import Advantage
from saei.objectives.advantages.group_relative import GroupRelative
from saei.objectives.advantages.pass_at_k import PassAtK
from saei.objectives.advantages.trust import Trust
from saei.objectives.advantages.vogue import Vogue
from saei.objectives.base import Objective
from saei.samplers.base import SamplingPlan


def chain_of(advantage: Advantage) -> Mapping[str, Advantage]:
    """Return an advantage and those that it shapes, from the outermost in, by the paths of their settings."""
    chain, path = {}, "objective.advantage"
    shaped: Advantage | None = advantage
    while shaped is not None:
        chain[path] = shaped
        shaped, path = shaped.shaped, f"{path}.of"
    return chain


def has_no_other(advantage: Advantage, plan: SamplingPlan) -> str | None:
    """Return whether each response is the only one of what it is compared within: ``group``, ``origin`` or None.

    Advantages are 0 then. Those of a group that an intervention leaves alone, all of one origin, need not be.
    """
    own = list(chain_of(advantage).values())[-1]
    if own.relative and plan.group_size == 1:
        return "group"
    within_origin = isinstance(own, GroupRelative) and own.config.baseline == "per-origin"
    return "origin" if within_origin and all(arm.responses == 1 for arm in plan.arms) else None


def check_advantage(objective: Objective, plan: SamplingPlan) -> None:
    """Refuse an advantage, or one that it shapes, that could not act, or not as it is meant to.

    Raises:
        ConfigError: Naming it and what would go.
    """
    _check_tokens(objective)
    for path, advantage in chain_of(objective.advantage).items():
        if isinstance(advantage, PassAtK) and advantage.config.k > plan.group_size:
            raise ConfigError(
                "The k responses of pass@k are responses of one group.",
                reason=f"{path}.k is {advantage.config.k}, and a group has {plan.group_size}.",
                remedy="Lower it, or let the sampler draw more.",
            )
        if isinstance(advantage, Trust | Vogue):
            _check_moved_views(advantage, plan)
        if isinstance(advantage, Trust):
            _check_levels(plan)
        if isinstance(advantage, Vogue):
            _check_bonus(path, advantage, plan)


def _check_tokens(objective: Objective) -> None:
    """Refuse advantages of tokens where the objective's ratio and clip are those of whole responses.

    Raises:
        ConfigError: If both are so.
    """
    advantage = objective.advantage
    if advantage.per_token and not objective.takes_token_advantages:
        raise ConfigError(
            "An objective that clips a response as a whole takes one advantage for a response.",
            reason=f"The advantage '{advantage.name()}' gives each token its own, and '{objective.name()}' has one "
            "ratio for all of them, which would be clipped for some tokens and not for others.",
            remedy="Take an objective with a ratio per token, such as grpo or dapo, or an advantage per response, such "
            "as grpo-s in place of gtpo.",
        )


def _check_moved_views(advantage: Advantage, plan: SamplingPlan) -> None:
    """Refuse an advantage that looks at how views were made where none are.

    Raises:
        ConfigError: If no arm has an intervention.
    """
    if not plan.intervening:
        raise ConfigError(
            f"The advantage '{advantage.name()}' looks at responses to noisy or otherwise moved pictures.",
            reason="The sampler draws from views that no intervention moved.",
            remedy="Take a sampler with an intervention: --sampler noisy, mixed or arms.",
        )


def _check_levels(plan: SamplingPlan) -> None:
    """Refuse levels in different units.

    Raises:
        ConfigError: If two arms have different attacks.
    """
    first, *others = plan.intervening
    for other in others:
        assert first.intervention is not None
        assert other.intervention is not None
        if other.intervention.attack != first.intervention.attack:
            raise ConfigError(
                "The advantage 'trust' compares the strengths with which views were made.",
                reason=f"'{first.origin}' and '{other.origin}' have different attacks, whose strengths have "
                "different units.",
                remedy="Give all arms one attack, and let their intervention.strength differ.",
            )


def _check_bonus(path: str, advantage: Vogue, plan: SamplingPlan) -> None:
    """Refuse a bonus in proportion to advantages that are always 0.

    Raises:
        ConfigError: If responses are compared with those of their origin, and each has none.
    """
    inner = advantage.of
    if not isinstance(inner, GroupRelative) or inner.config.baseline != "per-origin":
        return
    if all(arm.responses == 1 for arm in plan.intervening):
        raise ConfigError(
            "The bonus of 'vogue' is at most a share of the advantage that it raises.",
            reason=f"{path}.of.baseline is per-origin, and a group has one response of each origin but the clean one, "
            "which therefore has advantage 0.",
            remedy=f"Let the sampler draw more responses from each moved view, or set {path}.of.baseline to pooled.",
        )
