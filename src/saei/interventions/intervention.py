"""The intervention: from clean views and their responses to views on which the policy explores more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from pydantic import Field
from torch import Tensor

from saei.attacks.base import Attack, BlockSpace, Point, Space
from saei.config.registry import AttackField, CriterionField, GateField, GuardField, SelectorField, StrengthField
from saei.config.strategy import Section, Strategy
from saei.entropy.selectors.base import Selector
from saei.entropy.selectors.summary import selection_summary
from saei.errors import ConfigError
from saei.interventions.base import Criterion, Gate, Guard, Strength
from saei.interventions.context import StepContext, Supply
from saei.interventions.originals import redrawing
from saei.interventions.stats import token_stats
from saei.policy import Policy
from saei.policy.pixels.space import GRID
from saei.policy.statistics.needs import check_needs
from saei.runtime.seeds import GroupSources
from saei.types import Response, View


class InterventionConfig(Section):
    """The slots of an intervention.

    Attributes:
        selector: Which tokens of the clean responses the criterion looks at.
        criterion: What the attack raises there.
        attack: How it moves the image.
        strength: Factor on steps and radii over training.
        gate: Which groups are attacked.
        guard: A last look at the scored groups.
        reselect: Choose the tokens anew from every image that the attack visits; else the choice is frozen.
        micro_groups: Groups attacked at once, None for all: fewer take less memory.
    """

    selector: SelectorField = "middle-third"  # type: ignore[assignment]  # names are resolved by the validator
    criterion: CriterionField = "entropy"  # type: ignore[assignment]
    attack: AttackField = "pgd"  # type: ignore[assignment]
    strength: StrengthField = "constant"  # type: ignore[assignment]
    gate: GateField = "always"  # type: ignore[assignment]
    guard: GuardField = "none"  # type: ignore[assignment]
    reselect: bool = False
    micro_groups: int | None = Field(default=None, ge=1, le=65_536)


@dataclass(frozen=True, eq=False, slots=True)
class Outcome:
    """What became of one group.

    Attributes:
        view: The view to draw the remaining responses from: the clean one if the group was left alone.
        untouched: Why it was left alone: ``no-image``, ``empty`` (nothing to select) or what the gate says; else None.
        metrics: Entropy summary of the selection, the criterion where the attack began, and how far it moved.
    """

    view: View
    untouched: str | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)


class Intervention:
    """Applies selector, criterion and attack to clean groups.

    Args:
        config: The slots.

    Raises:
        ConfigError: If the attack cannot move pixels, or nothing fills a need of selector, criterion, gate or guard.
    """

    def __init__(self, config: InterventionConfig | None = None) -> None:
        self.config = config or InterventionConfig()
        self.selector: Selector = self.config.selector.build()
        self.criterion: Criterion = self.config.criterion.build()
        self.attack: Attack = self.config.attack.build()
        self.strength: Strength = self.config.strength.build()
        self.gate: Gate = self.config.gate.build()
        self.guard: Guard = self.config.guard.build()
        for asker, grad in ((self.selector, False), (self.criterion, True), (self.gate, False), (self.guard, False)):
            check_needs(asker.needs, f"The {asker.kind} '{asker.name()}'", policies=("current",), grad=grad)
        if "pixels" not in self.attack.spaces:
            raise ConfigError(
                "An image intervention needs an attack on pixels.",
                reason=f"'{self.attack.name()}' works on {', '.join(sorted(self.attack.spaces))}.",
                remedy="Choose another attack; `saei list attack` has them.",
            )

    def parts(self) -> Mapping[str, Strategy]:
        """Return the slots by name."""
        return {name: getattr(self, name) for name in ("selector", "criterion", "attack", "strength", "gate", "guard")}

    def check(self, policy: Policy, view: View) -> None:
        """Attack one view along a response of one token, so that what cannot work is found before any long work.

        Raises:
            ModelError: If no gradient reaches the pixels.
        """
        if view.canvases:
            zero = torch.zeros(1, device=policy.device)
            response = Response(policy.eos_ids[:1], "", zero, zero, truncated=False)
            step = StepContext(policy, 0.0, GroupSources(0, "check"))
            self._attack([view], [[response]], step)

    def apply(
        self,
        views: Sequence[View],
        responses: Sequence[Sequence[Response]],
        step: StepContext,
        supply: Supply | None = None,
    ) -> list[Outcome]:
        """Return for each clean view the view that the remaining responses are drawn from.

        Args:
            views: One clean view per group.
            responses: For each view the responses drawn from it.
            step: The policy that drew them, and the circumstances.
            supply: What the gate may ask for; None where it asks for nothing.
        """
        return [outcomes[0] for outcomes in self.apply_repeatedly(views, responses, step, supply, times=1)]

    def apply_repeatedly(
        self,
        views: Sequence[View],
        responses: Sequence[Sequence[Response]],
        step: StepContext,
        supply: Supply | None,
        *,
        times: int,
    ) -> list[list[Outcome]]:
        """Return several outcomes for each clean view, a single one where further ones would be the same.

        They would be where the gate leaves the group alone, and where selector and attack drew nothing at random, which
        the group's source of randomness tells.

        Args:
            views: As for ``apply``, like the other arguments.
            responses: Likewise.
            step: Likewise.
            supply: Likewise.
            times: Most outcomes of each group.
        """
        reasons = self._reasons_to_leave_alone(views, responses, step, supply)
        outcomes = [[Outcome(view, reason)] if reason else [] for view, reason in zip(views, reasons, strict=True)]
        moving = [number for number, reason in enumerate(reasons) if reason is None]
        for _ in range(times):
            before = step.states([views[number] for number in moving])
            self._attack_in_batches(moving, views, responses, step, outcomes)
            after = step.states([views[number] for number in moving])
            moving = [number for number, old, new in zip(moving, before, after, strict=True) if old != new]
        return outcomes

    def _reasons_to_leave_alone(
        self,
        views: Sequence[View],
        responses: Sequence[Sequence[Response]],
        step: StepContext,
        supply: Supply | None,
    ) -> list[str | None]:
        reasons: list[str | None] = [
            "no-image" if not view.canvases else "empty" if not any(map(len, drawn)) else None
            for view, drawn in zip(views, responses, strict=True)
        ]
        movable = [number for number, reason in enumerate(reasons) if reason is None]
        # Asked also where there is none: what a gate asks of all processes, all of them have to answer.
        verdicts = self.gate.leave_alone(
            [views[number] for number in movable], [responses[number] for number in movable], step, supply
        )
        for number, reason in zip(movable, verdicts, strict=True):
            reasons[number] = reason
        return reasons

    def _attack_in_batches(
        self,
        numbers: Sequence[int],
        views: Sequence[View],
        responses: Sequence[Sequence[Response]],
        step: StepContext,
        outcomes: Sequence[list[Outcome]],
    ) -> None:
        """Attack some of the groups, ``micro_groups`` at once, and add to their outcomes."""
        size = self.config.micro_groups or max(1, len(numbers))
        if not self.attack.jointly:
            size = 1
        for start in range(0, len(numbers), size):
            batch = numbers[start : start + size]
            attacked = self._attack([views[n] for n in batch], [responses[n] for n in batch], step)
            for number, outcome in zip(batch, attacked, strict=True):
                outcomes[number].append(outcome)

    def _attack(
        self, views: Sequence[View], responses: Sequence[Sequence[Response]], step: StepContext
    ) -> list[Outcome]:
        # Empty responses have nothing to teach the criterion and are left out of it.
        spoken = [[response for response in own if len(response)] for own in responses]
        criterion = _GroupCriterion(self, views, spoken, step)
        point: Point = tuple(canvas for view in views for canvas in view.canvases)
        if any(bool(selected_NT.any()) for selected_NT in criterion.selected):
            point = self.attack.attack(
                criterion,
                point,
                space=self._space(views, step),
                progress=step.progress,
                generators=step.generators(views),
            )
        moved = iter(point)
        outcomes = []
        for number, view in enumerate(views):
            canvases = tuple(next(moved) for _ in view.canvases)
            if not bool(criterion.selected[number].any()):
                outcomes.append(Outcome(view, "empty"))
                continue
            moved_view = replace(view, origin=self.attack.origin, canvases=canvases)
            outcomes.append(Outcome(moved_view, metrics=criterion.metrics(number) | _distance(view, moved_view)))
        return outcomes

    def _space(self, views: Sequence[View], step: StepContext) -> Space:
        scale = self.strength.at(step.progress)
        blocks, examples = [], []
        for number, view in enumerate(views):
            pixels, images = step.policy.pixels, view.example.images
            std_C11 = pixels.map(*((canvas.shape[-2], canvas.shape[-1]) for canvas in view.canvases)).std_C11
            units: dict[str, float | Tensor] = {"pixel": 1.0, "normalised": std_C11.to(step.policy.device)}
            for place in range(len(view.canvases)):
                redraw = redrawing(pixels, images, place)
                blocks.append(BlockSpace(units=units, scale=scale, grid=GRID, redraw=redraw))
                examples.append(number)
        return Space("pixels", tuple(blocks), tuple(examples))


def _distance(view: View, moved: View) -> dict[str, float]:
    """Return the share of pixel values that moved and their largest change, in units of 1/255.

    A step that the grid rounds away moves nothing: a weak attack that is none is seen here.
    """
    changes = torch.cat([(b - a).abs().flatten() for a, b in zip(view.canvases, moved.canvases, strict=True)])
    return {"moved": float((changes > 0).float().mean()), "largest_change": float(changes.max()) / GRID}


class _GroupCriterion:
    """J of several groups as a function of their canvases; the selection is frozen unless the config reselects."""

    def __init__(
        self,
        intervention: Intervention,
        views: Sequence[View],
        responses: Sequence[Sequence[Response]],
        step: StepContext,
    ) -> None:
        self._intervention = intervention
        self._views = views
        self._responses = responses
        self._step = step
        self._stats = [
            token_stats(step.policy, view, own, intervention.selector.needs)
            for view, own in zip(views, responses, strict=True)
        ]
        self.selected = [self._select(number) for number in range(len(views))]
        self._start_J: Tensor | None = None

    @torch.enable_grad()
    def __call__(self, point: Point) -> Tensor:
        """Return ``J_B``, one value per group, differentiable in the point's blocks."""
        criterion, reselect = self._intervention.criterion, self._intervention.config.reselect
        scores = self._step.policy.score(
            self._views,
            self._responses,
            wrt={"pixels": point},
            with_entropy=reselect,
            selected=None if reselect else self.selected,
            needs=criterion.needs,
            clean=self._views,
        )
        values = []
        for number, own in enumerate(scores):
            if reselect and own.entropy_NT is not None:
                seen = replace(self._stats[number], entropy_NT=own.entropy_NT.detach(), logp_NT=own.logp_NT.detach())
                self._stats[number] = seen
                self.selected[number] = self._select(number)
            selected_NT = self.selected[number]
            values.append(criterion.value(own, selected_NT, pooled=self._intervention.selector.pooled))
        J_B = torch.stack(values)
        if self._start_J is None:
            self._start_J = J_B.detach()
        return J_B

    def metrics(self, number: int) -> dict[str, float]:
        """Return what is logged about a group: its selection and the criterion where the attack began."""
        found = selection_summary(self._stats[number].entropy_NT, self.selected[number])
        if self._start_J is not None:
            found["criterion"] = float(self._start_J[number])
        return found

    @torch.no_grad()
    def _select(self, number: int) -> Tensor:
        return self._intervention.selector.select(
            self._stats[number],
            progress=self._step.progress,
            generator=self._step.generator_of(self._views[number]),
        )
