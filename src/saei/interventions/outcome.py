"""What an intervention made of one group's view, and the right answer to a question that it changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from saei.attacks.base import Point
from saei.errors import ConfigError
from saei.interventions.context import Oracle
from saei.interventions.group_criterion import CriterionTokens
from saei.types import View, ViewRecord

UNANSWERABLE = "unanswerable"
"""Why a group is left alone whose changed question has no one clear answer."""


@dataclass(frozen=True, eq=False, slots=True)
class Outcome:
    """What became of one group.

    Attributes:
        view: The view to draw the remaining responses from: the clean one if the group was left alone.
        untouched: Why it was left alone: what the surfaces lack, such as ``no-image``; ``empty``, nothing to select;
            ``unanswerable``, the changed question; or what gate or control says. Else None.
        metrics: Entropy summary of the selection, the criterion where the attack began, how far it moved, of what is
            frozen in part how many values or tokens are not, ``answer_changed`` where it may ask something else, what
            the control logs, and where it is measured the criterion afterwards and the divergence of the views.
        record: How the view was made, None for the clean one.
        point: The moved blocks of the view, none for the clean one.
        tokens: What the attack's criterion was taken over, None for the clean view.
    """

    view: View
    untouched: str | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    record: ViewRecord | None = None
    point: Point = ()
    tokens: CriterionTokens | None = None


def with_its_answer(clean: View, moved: View, answer: Oracle | None) -> View | None:
    """Return a moved view whose example has the right answer to what it asks, None if there is none.

    Args:
        clean: The clean view.
        moved: The moved view, with an example that asks what its prompt asks.
        answer: The task's oracle; None if it has none, and an answer is taken to be kept.
    """
    if answer is None or moved.example.question == clean.example.question:
        return moved
    new_answer = answer(clean.example, moved.example.question)
    return None if new_answer is None else replace(moved, example=replace(moved.example, answer=new_answer))


def no_oracle(setting: str, holder: str) -> ConfigError:
    """Return the error of surfaces that need an oracle where there is none.

    Args:
        setting: Path of the surfaces.
        holder: What has none, such as ``the task 'table'``.
    """
    return ConfigError(
        "Only a task with an oracle knows which questions are answerable.",
        reason=f"{setting} restricts the questions that swaps may make, and {holder} has no oracle.",
        remedy="Set questions of the surface `tokens` to any, and name the words that carry the answer in protected.",
    )
