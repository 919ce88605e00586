"""One attack on the pictures of one question, without a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL.Image import Image
from pydantic import ValidationError
from torch import Tensor

from saei.config.explain import explain
from saei.errors import ConfigError, DataError
from saei.interventions.context import StepContext
from saei.interventions.group_criterion import CriterionTokens
from saei.interventions.intervention import Intervention
from saei.interventions.intervention_config import InterventionConfig
from saei.policy import Policy
from saei.policy.ask import Pictures, example_of
from saei.policy.pixels.space import to_image
from saei.runtime.seeds import GroupSources
from saei.types import Distance, Response, View


@dataclass(frozen=True, eq=False, slots=True)
class AttackResult:
    """What an attack did.

    Attributes:
        clean: The view that it began with.
        view: The view that it made; ``policy.sample`` draws from it.
        images: Its pictures, at the resolution that the policy sees.
        responses: The clean responses over whose tokens the criterion was taken.
        selected: For each of them bool ``[T]``, on the CPU: the tokens that were chosen; none of an empty response.
        criterion_before: The criterion J where the attack began, in nats.
        criterion_after: J on the pictures that it made, rounded to 8 bits.
        view_kl: ``KL(moved‖clean)`` over the whole vocabulary in nats, a mean over all tokens of the clean responses.
        distances: How far each surface has moved.
    """

    clean: View
    view: View
    images: tuple[Image, ...]
    responses: tuple[Response, ...]
    selected: tuple[Tensor, ...]
    criterion_before: float
    criterion_after: float
    view_kl: float
    distances: Mapping[str, Distance]


def attack(
    policy: Policy, image: Pictures, question: str, *, responses: int = 6, seed: int = 0, **slots: Any
) -> AttackResult:
    """Draw responses to a question, and move its pictures so that the criterion over their tokens rises.

    It is what the sampler ``mixed`` does with each example, with the same defaults: the mean entropy of the middle
    third of the tokens, and one step of 2/255.

    Args:
        policy: Answers and is attacked.
        image: A picture (PIL, bytes or a path), or several.
        question: The question about them.
        responses: Clean responses that the criterion is taken over.
        seed: Seed of all that is drawn.
        slots: Fields of ``sampler.intervention``, such as ``attack={"type": "pgd", "step": "4/255"}``,
            ``selector="all"`` or ``criterion="nll"``.

    Raises:
        ConfigError: If there is no such slot or strategy, or it needs the groups of a run or a task's oracle.
        DataError: If a picture cannot be opened, or there is nothing to move.
    """
    intervention = Intervention(_config({**slots, "measure": "always"}))
    if intervention.gate.needs_supply:
        raise ConfigError(
            "A single attack has no graded groups.",
            reason=f"The gate '{intervention.gate.name()}' looks at these.",
            remedy="Leave gate out.",
        )
    clean = policy.view(example_of(image, question))
    step = StepContext(policy, 0.0, GroupSources(seed, "attack"))
    (drawn,) = step.sample([clean], [responses])
    (outcome,) = intervention.apply([clean], [drawn], step)
    record = outcome.record
    if outcome.untouched or record is None:
        raise DataError(
            "An attack needs something to move, and a token to look at.",
            reason=f"The question was left alone: {outcome.untouched}.",
            remedy="See the reason: `no-image` wants a picture, `empty` a policy that answers; a gate or control that "
            "needs other groups wants a run.",
        )
    return AttackResult(
        clean=clean,
        view=outcome.view,
        images=tuple(map(to_image, outcome.view.canvases)),
        responses=tuple(drawn),
        selected=_selected(drawn, outcome.tokens),
        criterion_before=outcome.metrics["criterion"],
        criterion_after=outcome.metrics["criterion_after"],
        view_kl=outcome.metrics["view_kl"],
        distances=record.distances,
    )


def _selected(drawn: Sequence[Response], tokens: CriterionTokens | None) -> tuple[Tensor, ...]:
    """Return the chosen tokens of each response; the criterion is taken over those that are not empty."""
    assert tokens is not None, "what was attacked has a criterion"
    rows = iter(tokens.selection.selected_NT.cpu())
    return tuple(
        next(rows)[: len(response)] if len(response) else torch.zeros(0, dtype=torch.bool) for response in drawn
    )


def _config(slots: Mapping[str, Any]) -> InterventionConfig:
    """Return the configuration of an intervention.

    Raises:
        ConfigError: With one line per slot that is wrong.
    """
    try:
        return InterventionConfig.model_validate(slots)
    except ValidationError as error:
        raise explain(InterventionConfig, slots, error.errors()) from error
