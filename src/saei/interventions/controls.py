"""Controls: the change's own values elsewhere, another example's change, noise of equal effect."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import interpolate

from saei.attacks.base import BlockSpace, Point
from saei.config.strategy import Frac, StrategyConfig
from saei.interventions.context import StepContext, Supply
from saei.interventions.control import Change, Control, Substitute
from saei.need import Need

FROM_CLEAN = Need("kl", view="clean")

LARGEST_RATIO = 256
"""Largest noise that is tried, in units of the attack's change: the smallest change of a picture becomes all of it."""


class ShuffledSigns(Control):
    """Lets the values of a change change places at random: as many, as large, without direction. Source: original.

    A change of 0 is a value like others. Values change places within a colour channel (or a token's embedding), among
    those with the same room to the bounds as far as the largest change reaches. So none is cut off, and the norm and
    the number of moved values stay what they were, also where most of a picture is black or white.
    """

    spaces: ClassVar[frozenset[str]] = frozenset({"pixels", "embeddings"})

    class Config(StrategyConfig):
        """No fields."""

        type: Literal["shuffled-signs"] = "shuffled-signs"

    config: Config

    def substitutes(self, changes: Sequence[Change], step: StepContext, supply: Supply | None) -> list[Substitute]:
        """Return each change with its values shuffled."""
        return [Substitute(change.after(self._shuffled(change, step))) for change in changes]

    @staticmethod
    def _shuffled(change: Change, step: StepContext) -> list[Tensor]:
        generator = step.generator_of(change.view)
        blocks = zip(change.differences, change.opened.start, change.opened.space.blocks, strict=True)
        return [shuffled(difference, start, space, generator) for difference, start, space in blocks]


class OtherExample(Control):
    """Applies the change of the step's next group instead: as structured, of another picture. Source: original.

    The next group is that by index among all that were attacked in any process, the first one after the last. Its
    change is resized by nearest neighbour, so that its values stay what they were; of several pictures each takes that
    of the same number, over again where the other group has fewer. What would leave the bounds is cut off. A group
    without another one is left alone.
    """

    spaces: ClassVar[frozenset[str]] = frozenset({"pixels"})
    needs_supply: ClassVar[bool] = True
    needs_others: ClassVar[bool] = True
    reasons: ClassVar[tuple[str, ...]] = ("no-other-example",)

    class Config(StrategyConfig):
        """No fields."""

        type: Literal["other-example"] = "other-example"

    config: Config

    def substitutes(self, changes: Sequence[Change], step: StepContext, supply: Supply | None) -> list[Substitute]:
        """Return for each change the next group's."""
        here = {change.view.index: [difference.cpu() for difference in change.differences] for change in changes}
        everywhere: dict[int, list[Tensor]] = {}
        for of_process in supply.gather(here) if supply else [here]:
            everywhere |= of_process
        return [self._of_next(change, everywhere) for change in changes]

    def _of_next(self, change: Change, everywhere: dict[int, list[Tensor]]) -> Substitute:
        others = sorted(index for index in everywhere if index != change.view.index)
        if not others:
            return Substitute(change.opened.start, untouched=self.reasons[0])
        following = next((index for index in others if index > change.view.index), others[0])
        differences = everywhere[following]
        resized: list[Tensor] = [
            interpolate(differences[number % len(differences)][None], start.shape[-2:], mode="nearest-exact")[0]
            for number, start in enumerate(change.opened.start)
        ]
        return Substitute(
            change.after([other.to(start) for other, start in zip(resized, change.opened.start, strict=True)])
        )


class MatchedNoise(Control):
    """Uniform noise that moves the policy as far as the attack does: noise of equal effect. Source: original.

    Its radius is found by bisection, so that the mean over the clean responses' tokens of KL(noisy view ‖ clean view)
    is that of the attack. The noise is drawn once and only scaled, every block in proportion to the attack's largest
    change there, and rounded to the grid. Logged for each group: ``attack_kl`` and ``control_kl`` in nats per token,
    and ``noise_ratio``, the noise's radius in units of the attack's largest change. A group for which no radius fits is
    left alone: an attack may move a policy further than any noise does.
    """

    spaces: ClassVar[frozenset[str]] = frozenset({"pixels", "embeddings"})
    reasons: ClassVar[tuple[str, ...]] = ("no-match",)

    class Config(StrategyConfig):
        """Fields.

        Attributes:
            tolerance: Largest distance between the two divergences, relative to the attack's, at which the search
                ends; ours.
            trials: Most radii that are tried, each of which costs a scoring of the clean responses; ours.
        """

        type: Literal["matched-noise"] = "matched-noise"
        tolerance: Frac = Field(default=Fraction(1, 20), gt=0, le=1)
        trials: int = Field(default=16, ge=1, le=100)

    config: Config

    def substitutes(self, changes: Sequence[Change], step: StepContext, supply: Supply | None) -> list[Substitute]:
        """Return noise in place of each change."""
        results = [self._noise(change, step) for change in changes]
        step.policy.forget_states()  # the clean side of the divergences
        return results

    def _noise(self, change: Change, step: StepContext) -> Substitute:
        generator = step.generator_of(change.view)
        largest = [difference.abs().max() for difference in change.differences]
        unit = [
            size * (2 * torch.rand(start.shape, generator=generator, dtype=start.dtype) - 1).to(start.device)
            for size, start in zip(largest, change.opened.start, strict=True)
        ]
        target = mean_kl(change, change.point, step)
        if target <= 0:
            return self._substitute(change.opened.start, target, 0.0, 0.0)
        too_weak, too_strong, ratio = 0.0, None, 1.0
        for _ in range(self.config.trials):
            point = change.after([ratio * noise for noise in unit])
            kl = mean_kl(change, point, step)
            if abs(kl - target) <= self.config.tolerance * target:
                return self._substitute(point, target, kl, ratio)
            if kl < target:
                too_weak = ratio
            else:
                too_strong = ratio
            ratio = 2 * ratio if too_strong is None else (too_weak + too_strong) / 2
            if ratio > LARGEST_RATIO:
                break
        return Substitute(change.opened.start, untouched=self.reasons[0])

    @staticmethod
    def _substitute(point: Point, target: float, kl: float, ratio: float) -> Substitute:
        return Substitute(point, metrics={"attack_kl": target, "control_kl": kl, "noise_ratio": ratio})


@torch.no_grad()
def mean_kl(change: Change, point: Point, step: StepContext) -> float:
    """Return the mean over the clean responses' tokens of KL(view at a point ‖ clean view), in nats."""
    views, wrt = change.opened.at(point)
    (scores,) = step.policy.score(
        views, [change.responses], wrt=wrt, with_entropy=False, needs={FROM_CLEAN}, clean=change.opened.views
    )
    return float(scores.statistics[FROM_CLEAN].sum() / scores.mask_NT.sum())


def shuffled(difference: Tensor, start: Tensor, space: BlockSpace, generator: torch.Generator) -> Tensor:
    """Return a block's difference with its values in other places; see ``ShuffledSigns``.

    Args:
        difference: How far each value was moved.
        start: From where.
        space: Bounds, grid and editable mask.
        generator: Source of randomness, on the CPU.
    """
    reach = difference.abs().max()
    rows = torch.arange(len(start), device=start.device).reshape(-1, *[1] * (start.ndim - 1)).expand_as(start)
    kind = rows.flatten()
    for room in (start - space.low, space.high - start):
        bounded = torch.minimum(room, reach)
        if space.grid is not None:
            bounded = (bounded / space.grid).round()
        kind = _paired(kind, bounded.flatten())
    if space.editable is not None:
        kind = _paired(kind, space.editable.expand_as(start).flatten())
    drawn = torch.randperm(kind.numel(), generator=generator).to(kind.device)
    # Both orders go through the kinds one after the other, the second at random within each.
    places = torch.sort(kind, stable=True).indices
    sources = drawn[torch.sort(kind[drawn], stable=True).indices]
    values = difference.flatten()
    moved = torch.empty_like(values)
    moved[places] = values[sources]
    return moved.reshape(difference.shape)


def _paired(kind: Tensor, value: Tensor) -> Tensor:
    """Return numbers that are equal exactly where both are."""
    numbers: Tensor = torch.unique(value, return_inverse=True)[1]
    return kind * (int(numbers.max()) + 1) + numbers
