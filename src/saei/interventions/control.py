"""The seam of controls: what stands in for an attack's change, to tell what of it matters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

from torch import Tensor

from saei.attacks.ball import project, snap
from saei.attacks.base import Point
from saei.attacks.result import check_result
from saei.config.strategy import Strategy
from saei.interventions.context import StepContext, Supply
from saei.interventions.outcome import Outcome
from saei.interventions.point import OpenViews
from saei.types import Response, View


@dataclass(frozen=True, eq=False, slots=True)
class Change:
    """What an attack did to one view.

    Attributes:
        opened: The clean view alone, with what of it is moved.
        point: Where the attack ended.
        responses: The view's responses, none of them empty.
    """

    opened: OpenViews
    point: Point
    responses: Sequence[Response]

    @property
    def view(self) -> View:
        """The clean view."""
        return self.opened.views[0]

    @property
    def differences(self) -> tuple[Tensor, ...]:
        """How far each value has moved."""
        return tuple(moved - start for moved, start in zip(self.point, self.opened.start, strict=True))

    def after(self, differences: Sequence[Tensor]) -> Point:
        """Return the point that other differences lead to, within the bounds and on the grid."""
        return tuple(
            snap(project(start + difference, start, None, space), start, None, space)
            for start, difference, space in zip(self.opened.start, differences, self.opened.space.blocks, strict=True)
        )


@dataclass(frozen=True, eq=False, slots=True)
class Substitute:
    """What stands in for an attack's change of one view.

    Attributes:
        point: Where the view goes instead.
        untouched: In a word, why nothing can stand in: then the group is left alone. None elsewhere.
        metrics: What is logged about it.
    """

    point: Point
    untouched: str | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)


class Control(Strategy, ABC):
    """Puts something in the place of what an attack did to a view: as large, but without what is to be tested.

    The responses are then drawn from the view that it makes. Whatever gate, selector, criterion and attack do, they do
    as without it. To add one, declare ``spaces`` and implement ``substitutes``.
    """

    kind: ClassVar[str] = "control"
    origin: ClassVar[str] = "control"
    """Origin of the views that it makes."""
    spaces: ClassVar[frozenset[str]]
    """Names of the spaces whose blocks it can change: ``pixels``, ``embeddings``."""
    needs_supply: ClassVar[bool] = False
    """Whether it asks ``Supply``, which TRL has not."""
    needs_others: ClassVar[bool] = False
    """Whether it can do nothing for a group that is attacked alone."""
    reasons: ClassVar[tuple[str, ...]] = ()
    """Why it may leave groups alone, so that metrics count it at every step, 0 included."""

    @abstractmethod
    def substitutes(self, changes: Sequence[Change], step: StepContext, supply: Supply | None) -> Sequence[Substitute]:
        """Return what stands in for each change.

        Called once in every process for all groups that were attacked together, of which a process may have none.

        Args:
            changes: What the attack did.
            step: The policy and the circumstances; what is drawn for a change comes from its view's generator.
            supply: ``supply.gather`` has the other processes' groups; None where there is none, if ``needs_supply`` is
                False.
        """


def substituted(
    control: Control, outcome: Outcome, change: Change, substitute: Substitute, step: StepContext
) -> Outcome:
    """Return the outcome of an attack with a substitute for its change.

    Raises:
        TrainingError: If the substitute breaks the contract, with the control's name.
    """
    if substitute.untouched is not None:
        return Outcome(change.view, substitute.untouched)
    check_result(control, change.opened.start, substitute.point, change.opened.space)
    (view,) = change.opened.moved(step.policy, substitute.point, control.origin)
    (distances,) = change.opened.distances(substitute.point)
    assert outcome.record is not None
    return replace(
        outcome,
        view=view,
        point=substitute.point,
        metrics={**outcome.metrics, **change.opened.metrics(0, distances), **substitute.metrics},
        record=replace(outcome.record, distances=distances),
    )


def under_control(
    control: Control,
    attacked: Mapping[int, Outcome],
    opened: Mapping[int, OpenViews],
    responses: Sequence[Sequence[Response]],
    step: StepContext,
    supply: Supply | None,
) -> dict[int, Outcome]:
    """Return the outcomes of attacks with something else in the place of what these did; collective.

    Args:
        control: What stands in.
        attacked: Outcomes by the group's number.
        opened: Each clean view that was moved, alone, by that number.
        responses: Clean responses of all groups.
        step: The policy and the circumstances.
        supply: See ``Control.substitutes``.
    """
    changes = {
        number: Change(alone, attacked[number].point, [response for response in responses[number] if len(response)])
        for number, alone in opened.items()
    }
    substitutes = control.substitutes(list(changes.values()), step, supply)
    return dict(attacked) | {
        number: substituted(control, attacked[number], change, substitute, step)
        for (number, change), substitute in zip(changes.items(), substitutes, strict=True)
    }
