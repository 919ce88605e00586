"""Attacks beyond FGSM and PGD, each by a case that its nearest sibling gets wrong, and against what others wrote."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest
import scipy.stats
import torch
import torchattacks
from PIL import Image, ImageEnhance
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from saei.attacks.augmentations import Brightness, Crop, PatchMask, Rotation, rotated
from saei.attacks.ball import project, snap
from saei.attacks.base import Attack, BlockSpace, Point, Space
from saei.attacks.best_of import BestOf
from saei.attacks.diffusion import DiffusionNoise
from saei.attacks.fgsm import FGSM
from saei.attacks.gradient import GradientAttack
from saei.attacks.momentum import Momentum
from saei.attacks.noise import Noise
from saei.attacks.patches import Patches
from saei.attacks.pgd import PGD
from saei.attacks.pgd_l2 import PGDL2
from saei.attacks.repeat import Repeat
from saei.attacks.result import check_result
from saei.config.registry import load
from saei.config.strategy import StrategyConfig
from saei.errors import ConfigError, TrainingError
from saei.testing import check_attack

GRID = 1 / 255
FREE = BlockSpace()
PIXEL = BlockSpace(grid=GRID)
Criterion = Callable[[Point], Tensor]


def levels(*values: float) -> Tensor:
    """One row of pixels of these 8-bit values."""
    return torch.tensor(values).reshape(1, 1, -1) / 255


def in_levels(block: Tensor) -> list[float]:
    return [round(value, 3) for value in (block * 255).flatten().tolist()]


def run(
    config: StrategyConfig, start: Point, criterion: Any, block: BlockSpace = FREE, *, seeds: Any = None
) -> list[Tensor]:
    """Attack blocks, each an example of its own."""
    attack: Attack = config.build()
    return list(
        attack.attack(
            criterion,
            start,
            space=Space((block,) * len(start), tuple(range(len(start)))),
            progress=0.0,
            generators=[torch.Generator().manual_seed(seed) for seed in seeds or range(len(start))],
        )
    )


def scripted(*gradients: tuple[float, ...]) -> Criterion:
    """A criterion whose gradient at its n-th call is the n-th of these."""
    calls = itertools.count()

    def criterion(point: Point) -> Tensor:
        return (torch.tensor(gradients[next(calls)]).reshape(point[0].shape) * point[0]).sum()[None]

    return criterion


def uphill(*slopes: Tensor) -> Criterion:
    return lambda point: torch.stack([(slope * x).sum() for slope, x in zip(slopes, point, strict=True)])


def asks_nothing(point: Point) -> Tensor:
    raise AssertionError("asked for the criterion")


OTHERS: list[StrategyConfig] = [
    Momentum.Config(steps=3, decay="1/2", step="3/510", radius="6/255", random_start=True, direction="lower"),
    PGDL2.Config(steps=3, step="30/255", radius="50/255", random_start=True, step_space="normalised"),
    PGDL2.Config(steps=2, direction="lower", radius=None),
    PGD.Config(steps=3, schedule="linear"),
    PGD.Config(steps=3, schedule="cosine", random_start=True),
    PGD.Config(steps=3, schedule="inverse-sqrt", step_space="normalised"),
    Patches.Config(of=Noise.Config(), by="random", size=2, share="1/2"),
    Patches.Config(of=PGDL2.Config(step=1, steps=1), by="least", size=3),
    Repeat.Config(of=Noise.Config(distribution="uniform"), times=3),
    Repeat.Config(of=DiffusionNoise.Config(t0=20)),
    BestOf.Config(of=PGD.Config(steps=2, random_start=True, direction="lower"), draws=3),
    BestOf.Config(of=Repeat.Config(of=Patches.Config(of=Noise.Config(), by="random", size=2))),
    Brightness.Config(range=1),
    Rotation.Config(degrees=180.0),
    Crop.Config(least="1/100"),
    PatchMask.Config(size=2, level="1/3"),
]


@pytest.mark.parametrize("config", OTHERS, ids=str)
def test_contract_away_from_the_defaults(config: StrategyConfig) -> None:
    check_attack(config)


class TestSchedule:
    def visited(self, schedule: str) -> list[float]:
        seen: list[float] = []

        def criterion(point: Point) -> Tensor:
            seen.append(float(point[0].detach()) * 255)
            return point[0].sum()[None]

        (moved,) = run(PGD.Config(steps=4, step="4/255", schedule=schedule), (levels(0),), criterion)
        return [*seen, float(moved) * 255]

    @pytest.mark.parametrize(
        ("schedule", "places"),
        [
            ("constant", [0, 4, 8, 12, 16]),
            ("linear", [0, 4, 7, 9, 10]),
            ("cosine", [0, 4, 4 + 2 + math.sqrt(2), 8 + math.sqrt(2), 10]),
            ("inverse-sqrt", [0, 4, 4 + 4 / math.sqrt(2), 4 + 4 / math.sqrt(2) + 4 / math.sqrt(3), 11.1378]),
        ],
    )
    def test_by_hand(self, schedule: str, places: list[float]) -> None:
        assert self.visited(schedule) == pytest.approx(places, abs=1e-4)

    def test_steps_that_decrease_come_to_rest_where_equal_ones_swing(self) -> None:
        """From 3.5 below the peak, steps of 4: .5, -3.5, .5, -3.5 and, as 4, 3, 2, 1: .5, -2.5, -.5, .5."""
        peak = 103.5 / 255
        criterion: Criterion = lambda point: -((point[0] - peak) ** 2).sum()[None]  # noqa: E731
        ends = {}
        for schedule in ("constant", "linear"):
            (moved,) = run(PGD.Config(steps=4, step="4/255", schedule=schedule), (levels(100),), criterion)
            ends[schedule] = in_levels(moved - peak)
        assert ends == {"constant": [-3.5], "linear": [0.5]}

    def test_one_step_has_no_schedule(self) -> None:
        with pytest.raises(ValidationError, match="fgsm has one"):
            FGSM.Config(schedule="linear")
        for attack in (PGD, PGDL2, Momentum):
            with pytest.raises(ValidationError, match=r"after the first one, and .* makes 1"):
                attack.Config(schedule="linear", steps=1)
            assert attack.Config(schedule="linear", steps=2).steps == 2

    def test_wrappers_do_more_than_the_attack_itself(self) -> None:
        for config in ({"type": "best-of", "draws": 1}, {"type": "repeat", "times": 1}):
            with pytest.raises(ValidationError, match="greater than or equal to 2"):
                load("attack", str(config["type"])).Config.model_validate(config)


@pytest.fixture
def classifier() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.GELU(), nn.Flatten(), nn.Linear(8 * 4 * 5, 3)).eval()


@pytest.fixture
def images() -> Tensor:
    torch.manual_seed(1)
    images = torch.rand(3, 3, 6, 7)
    images[:, :, 0] = 0.0
    images[:, :, 1] = 1.0
    return images


LABELS = torch.tensor([0, 2, 1])


def loss(classifier: nn.Module, labels: Tensor = LABELS) -> Criterion:
    return lambda point: cross_entropy(classifier(torch.stack(point)), labels, reduction="none")


class TestMomentum:
    # Sizes: 4, 1, 1 with mean 2 and 30, 15, 15 with mean 20. Normalised: 2, .5, .5 and -1.5, -.75, .75.
    gradients = ((4.0, 1.0, 1.0), (-30.0, -15.0, 15.0))

    @pytest.mark.parametrize(
        ("config", "expected"),
        [
            (Momentum.Config(step="2/255", steps=2), [104, 100, 104]),  # sums .5, -.25, 1.25
            (Momentum.Config(step="2/255", steps=2, decay="1/2"), [100, 100, 104]),  # -.5, -.5, 1
            (Momentum.Config(step="2/255", steps=2, decay="8/5"), [104, 104, 104]),  # 1.7, .05, 1.55
            (Momentum.Config(step="2/255", steps=2, direction="lower"), [96, 100, 96]),
            (PGD.Config(step="2/255", steps=2), [100, 100, 104]),  # what the gradients alone do
        ],
        ids=str,
    )
    def test_by_hand(self, config: StrategyConfig, expected: list[float]) -> None:
        (moved,) = run(config, (levels(100, 100, 100),), scripted(*self.gradients))
        assert in_levels(moved) == expected

    def test_the_size_is_that_of_all_pictures_of_an_example(self) -> None:
        """Two pictures of one value each; each by itself would have the size 1 and stand still at the second step."""
        gradients = iter([((4.0,), (1.0,)), ((-5.0,), (-20.0,))])  # over 2.5 and 12.5: 1.6, .4 and -.4, -1.6

        def criterion(point: Point) -> Tensor:
            slopes = next(gradients)
            return sum(float(s[0]) * x.sum() for s, x in zip(slopes, point, strict=True))[None]  # type: ignore[index]

        start = (levels(100), levels(100))
        moved = (
            Momentum.Config(step="2/255", steps=2)
            .build()
            .attack(criterion, start, space=Space((FREE, FREE), (0, 0)), progress=0.0, generators=[torch.Generator()])
        )
        assert [in_levels(block) for block in moved] == [[104], [100]]

    def test_what_is_not_editable_has_no_size(self) -> None:
        """Without the third value the sizes are 2.5 and 22.5: 1.6 - 1.33 > 0 and .4 - .67 < 0."""
        block = replace(FREE, editable=torch.tensor([True, True, False]))
        gradients = ((4.0, 1.0, 1e6), (-30.0, -15.0, 15.0))
        (moved,) = run(Momentum.Config(step="2/255", steps=2), (levels(100, 100, 100),), scripted(*gradients), block)
        assert in_levels(moved) == [104, 100, 100]

    def test_a_vanished_gradient_leaves_the_momentum(self) -> None:
        gradients = ((1.0, -3.0), (0.0, 0.0))
        (moved,) = run(Momentum.Config(step="2/255", steps=2), (levels(100, 100),), scripted(*gradients))
        assert in_levels(moved) == [104, 96]
        (moved,) = run(Momentum.Config(step="2/255", steps=2), (levels(100, 100),), scripted(*gradients[::-1]))
        assert in_levels(moved) == [102, 98]

    @pytest.mark.parametrize("decay", ["1", "1/2", "0"])
    @pytest.mark.parametrize("steps", [1, 3, 10])
    @pytest.mark.parametrize("direction", ["raise", "lower"])
    def test_torchattacks_to_the_bit(
        self, classifier: nn.Module, images: Tensor, steps: int, decay: str, direction: Any
    ) -> None:
        config = Momentum.Config(step="3/255", radius="8/255", steps=steps, decay=decay, direction=direction)
        attack = torchattacks.MIFGSM(classifier, eps=8 / 255, alpha=3 / 255, steps=steps, decay=float(config.decay))
        if direction == "lower":
            attack.set_mode_targeted_by_label(quiet=True)
        theirs = attack(images, LABELS)
        assert torch.equal(torch.stack(run(config, tuple(images), loss(classifier))), theirs)

    def test_without_decay_it_is_pgd(self, classifier: nn.Module, images: Tensor) -> None:
        same = [Momentum.Config(step="3/255", steps=4, decay=0), PGD.Config(step="3/255", steps=4)]
        ours, pgd = (run(config, tuple(images), loss(classifier)) for config in same)
        assert all(map(torch.equal, ours, pgd))
        other = run(Momentum.Config(step="3/255", steps=4), tuple(images), loss(classifier))
        assert not all(map(torch.equal, ours, other))

    def test_the_defaults_are_the_papers(self) -> None:
        """16/255 in ten steps, decay 1."""
        attack = Momentum()
        assert (attack.radius(FREE), attack.steps, attack.config.decay) == (pytest.approx(16 / 255), 10, 1)


class TestPGDL2:
    slope = torch.tensor([3.0, 4.0]).reshape(1, 1, 2)

    @pytest.mark.parametrize(
        ("config", "length"),
        [
            (PGDL2.Config(step="0.1", radius="0.25", steps=2), 0.2),
            (PGDL2.Config(step="0.1", radius="0.25", steps=3), 0.25),
            (PGDL2.Config(step="0.1", radius=None, steps=3), 0.3),
            (PGDL2.Config(step="0.1", radius="0.25", steps=3, direction="lower"), -0.25),
        ],
        ids=str,
    )
    def test_by_hand(self, config: StrategyConfig, length: float) -> None:
        (moved,) = run(config, (torch.full((1, 1, 2), 0.5),), uphill(self.slope))
        torch.testing.assert_close(moved, 0.5 + length * self.slope / 5)

    def test_strength_and_units_scale_the_ball(self) -> None:
        """In units of 2 and 1 the slopes are 6 and 4, and a unit of the first is 2 long."""
        slope = torch.tensor([3.0, 4.0]).reshape(2, 1, 1)
        block = BlockSpace(units={"normalised": torch.tensor([2.0, 1.0]).reshape(2, 1, 1)}, scale=0.5)
        config = PGDL2.Config(step="0.1", radius=1, steps=2, step_space="normalised")
        (moved,) = run(config, (torch.full((2, 1, 1), 0.5),), uphill(slope), block)
        expected = 2 * 0.05 * torch.tensor([2 * 6.0, 4.0]) / math.hypot(6, 4)
        torch.testing.assert_close((moved - 0.5).flatten(), expected)

    @pytest.mark.parametrize("size", [1e-30, 1e30])
    def test_neither_small_nor_large_gradients_matter(self, size: float) -> None:
        (moved,) = run(PGDL2.Config(step="0.1", steps=1), (torch.full((1, 1, 2), 0.5),), uphill(size * self.slope))
        torch.testing.assert_close(moved, 0.5 + 0.1 * self.slope / 5)

    def test_what_is_not_editable_takes_no_length(self) -> None:
        block = replace(FREE, editable=torch.tensor([True, False]))
        (moved,) = run(PGDL2.Config(step="0.1", steps=1), (torch.full((1, 1, 2), 0.5),), uphill(self.slope), block)
        torch.testing.assert_close(moved.flatten(), torch.tensor([0.6, 0.5]))

    @pytest.mark.parametrize("random_start", [False, True])
    @pytest.mark.parametrize("steps", [1, 3, 10])
    def test_torchattacks_up_to_rounding(
        self, classifier: nn.Module, images: Tensor, steps: int, random_start: bool
    ) -> None:
        """One picture at a time, since its generator is our example's; the two divide in another order."""
        config = PGDL2.Config(step="0.3", radius="0.8", steps=steps, random_start=random_start)
        for image, label in zip(images, LABELS, strict=True):
            attack = torchattacks.PGDL2(classifier, eps=0.8, alpha=0.3, steps=steps, random_start=random_start)
            torch.manual_seed(5)
            theirs = attack(image[None], label[None])
            (ours,) = run(config, (image,), loss(classifier, label[None]), seeds=[5])
            torch.testing.assert_close(ours, theirs[0], rtol=0, atol=2e-6)
            assert float((ours - image).norm()) > 0.2

    def test_random_starts_have_all_lengths(self) -> None:
        config = PGDL2.Config(step=0, radius="1/2", steps=1, random_start=True)
        start = torch.full((1, 20, 20), 0.5)
        lengths = [float((run(config, (start,), uphill(start), seeds=[s])[0] - start).norm()) for s in range(200)]
        assert scipy.stats.kstest(lengths, "uniform", args=(0, 0.5)).pvalue > 0.01

    def test_a_length_may_exceed_the_range_of_one_value(self) -> None:
        assert PGDL2.Config(step=5, radius=40).build().radius(FREE) == 40
        with pytest.raises(ValidationError):
            PGDL2.Config(step=10_001)


def test_the_grid_takes_from_an_l2_ball_what_fits() -> None:
    """The values nearest to their grid point go there, as many as the ball holds; the next one would leave it."""
    generator = torch.Generator().manual_seed(0)
    partly = 0
    for _ in range(100):
        start = torch.randint(20, 236, (1, 3, 4), generator=generator) / 255
        radius = (1 + 8 * float(torch.rand((), generator=generator))) / 255
        block = project(start + 3 / 255 * torch.randn(1, 3, 4, generator=generator), start, radius, PIXEL, "l2")
        ours = ((snap(block, start, radius, PIXEL, "l2") - start) * 255).round().flatten().double()
        moved = ((block - start) * 255).flatten().double()
        order = sorted(range(12), key=lambda n: abs(float(moved[n]) - round(float(moved[n]))))
        candidates = []
        for count in range(13):
            point = moved.trunc()
            point[order[:count]] = moved[order[:count]].round()
            candidates.append(point)
        fitting = [point for point in candidates if float(point.norm()) <= radius * 255 * (1 + 1e-6)]
        # Values that no rounding distinguishes may stand in the order on either side.
        assert torch.equal(ours, max(fitting, key=lambda point: float(point.norm())))
        partly += not torch.equal(ours, moved.round()) and not torch.equal(ours, moved.trunc())
    assert partly > 30


class TestPatches:
    """Two rows of three patches of side 2, and columns and rows that are left over."""

    slope = torch.tensor([[1.0, 5.0, 2.0], [6.0, 3.0, 4.0]]).repeat_interleave(2, 0).repeat_interleave(2, 1)[None]
    start = torch.full((1, 4, 6), 100 / 255)

    def moved_patches(self, config: StrategyConfig, **fields: Any) -> Tensor:
        block = replace(PIXEL, **fields)
        (moved,) = run(config, (self.start,), uphill(-self.slope), block)
        change = ((moved - self.start) * 255).round()
        assert set(change.unique().tolist()) <= {0.0, -2.0}
        return (change != 0).reshape(2, 2, 3, 2).permute(0, 2, 1, 3).flatten(2)

    @pytest.mark.parametrize(
        ("by", "share", "expected"),
        [
            ("most", "1/3", [[0, 1, 0], [1, 0, 0]]),
            ("least", "1/3", [[1, 0, 1], [0, 0, 0]]),
            ("most", "1/2", [[0, 1, 0], [1, 0, 1]]),
            ("most", "1/1000", [[0, 0, 0], [1, 0, 0]]),
            ("least", "1", [[1, 1, 1], [1, 1, 1]]),
        ],
    )
    def test_by_hand(self, by: Any, share: str, expected: list[list[int]]) -> None:
        moved = self.moved_patches(Patches.Config(size=2, by=by, share=share))
        assert torch.equal(moved.all(-1), moved.any(-1))
        assert moved.all(-1).int().tolist() == expected

    def test_random_ones_are_the_generators(self) -> None:
        counts = torch.zeros(6)
        for seed in range(300):
            config = Patches.Config(size=2, by="random", share="1/3", of=Noise.Config())
            (moved,) = run(config, (self.start,), asks_nothing, PIXEL, seeds=[seed])
            patches = (moved != self.start).reshape(2, 2, 3, 2).permute(0, 2, 1, 3).flatten(2).all(-1).flatten()
            assert int(patches.sum()) == 2
            counts += patches
        assert scipy.stats.chisquare(counts.numpy()).pvalue > 0.01

    def test_a_narrow_patch_counts_by_its_mean(self) -> None:
        """Three columns in patches of two: the last one is half as wide and, by its sum, would come second."""
        slope = torch.tensor([[3.0, 3.0, 5.0]] * 2)[None]
        (moved,) = run(Patches.Config(size=2, share="1/2"), (torch.full((1, 2, 3), 0.4),), uphill(slope))
        assert (moved != 0.4).int().tolist() == [[[0, 0, 1]] * 2]

    def test_colours_count_together(self) -> None:
        slope = torch.tensor([[[4.0, 0.0]], [[-3.0, 5.0]]])  # sizes 7 and 5
        (moved,) = run(Patches.Config(size=1, share="1/2"), (torch.full((2, 1, 2), 0.4),), uphill(slope))
        assert ((moved - 0.4) * 255).round().tolist() == [[[2, 0]], [[-2, 0]]]

    def test_only_what_is_editable_is_chosen(self) -> None:
        editable = torch.ones(4, 6, dtype=torch.bool)
        editable[2:, :2] = False  # the steepest patch
        editable[0, 0] = False  # a quarter of the flattest
        moved = self.moved_patches(Patches.Config(size=2, share="1/5"), editable=editable)
        assert moved.any(-1).int().tolist() == [[0, 1, 0], [0, 0, 0]]
        moved = self.moved_patches(Patches.Config(size=2, share="1/5", by="least"), editable=editable)
        assert moved.int().tolist()[0][0] == [0, 1, 1, 1]

    def test_a_gradient_that_cannot_be_followed_does_not_count(self) -> None:
        slope = torch.tensor([[[9.0, 1.0, 2.0, 3.0]]])
        block = replace(FREE, editable=torch.tensor([False, True, True, True]))
        (moved,) = run(Patches.Config(size=2, share="1/2"), (torch.full((1, 1, 4), 0.4),), uphill(slope), block)
        assert (moved != 0.4).int().tolist() == [[[0, 0, 1, 1]]]

    def test_what_moves_no_pixels_has_no_patches(self) -> None:
        class Elsewhere(Noise):
            spaces = frozenset({"embeddings"})

            class Config(Noise.Config):
                type: Literal["elsewhere"] = "elsewhere"  # type: ignore[assignment]

        with pytest.raises(ConfigError, match="parts of a picture"):
            Patches.Config(of=Elsewhere.Config()).build()


class TestRepeat:
    def test_each_run_ends_on_the_grid_and_has_its_own_ball(self) -> None:
        """Steps of 1.4 levels add up to 4.2 in one run; each of three runs is rounded to 1."""
        inner = PGD.Config(step="14/2550", steps=1)
        assert in_levels(run(PGD.Config(step="14/2550", steps=3), (levels(100),), uphill(levels(1)), PIXEL)[0]) == [104]
        assert in_levels(run(Repeat.Config(of=inner, times=3), (levels(100),), uphill(levels(1)), PIXEL)[0]) == [103]
        inner = PGD.Config(step="2/255", steps=2, radius="3/255")
        (moved,) = run(Repeat.Config(of=inner, times=4), (levels(100),), uphill(levels(1)), PIXEL)
        assert in_levels(moved) == [112]

    def test_runs_draw_on(self) -> None:
        config = Repeat.Config(of=Noise.Config(radius="3/255"), times=2)
        (moved,) = run(config, (levels(*[100] * 400),), asks_nothing, PIXEL)
        assert scipy.stats.chisquare([in_levels(moved).count(n) for n in (94, 100, 106)], [100, 200, 100]).pvalue > 0.01

    def test_the_original_is_changed_once(self) -> None:
        calls = []

        def redraw(change: Callable[[Tensor], Tensor]) -> Tensor:
            calls.append(change)
            return change(levels(200, 200))

        config = Repeat.Config(of=DiffusionNoise.Config(t0=10), times=3)
        (moved,) = run(config, (levels(100, 100),), asks_nothing, replace(PIXEL, redraw=redraw))
        assert len(calls) == 1
        assert (moved * 255 > 150).all()


class TestBestOf:
    start = (levels(100, 100, 100), levels(50, 60, 70))
    slopes = (torch.tensor([1.0, -2.0, 4.0]).reshape(1, 1, 3), torch.tensor([3.0, 1.0, -1.0]).reshape(1, 1, 3))

    @pytest.mark.parametrize("direction", ["raise", "lower"])
    def test_against_all_draws(self, direction: Any) -> None:
        inner = PGD.Config(step=0, steps=1, radius="9/255", random_start=True, direction=direction)
        generators = [torch.Generator().manual_seed(seed) for seed in range(2)]
        space = Space((PIXEL,) * 2, (0, 1))
        draws = [
            inner.build().attack(uphill(*self.slopes), self.start, space=space, progress=0.0, generators=generators)
            for _ in range(5)
        ]
        values = torch.stack([uphill(*self.slopes)(point) for point in draws])
        best = (values if direction == "raise" else -values).argmax(0).tolist()
        assert len(set(best)) == 2  # each example has its own
        ours = run(BestOf.Config(of=inner, draws=5), self.start, uphill(*self.slopes), PIXEL)
        assert [in_levels(block) for block in ours] == [in_levels(draws[n][e]) for e, n in enumerate(best)]

    def test_what_is_no_number_loses(self) -> None:
        calls = itertools.count()

        def criterion(point: Point) -> Tensor:
            n = next(calls)
            return torch.tensor([math.nan if n != 2 else -7.0, float(n)])

        inner = Noise.Config(radius="9/255", distribution="uniform")
        ours = run(BestOf.Config(of=inner, draws=4), self.start, criterion, PIXEL)
        generators = [torch.Generator().manual_seed(seed) for seed in range(2)]
        space = Space((PIXEL,) * 2, (0, 1))
        draws = [
            inner.build().attack(asks_nothing, self.start, space=space, progress=0.0, generators=generators)
            for _ in range(4)
        ]
        assert torch.equal(ours[0], draws[2][0])
        assert torch.equal(ours[1], draws[3][1])

    def test_what_draws_nothing_runs_once(self) -> None:
        calls = []

        def criterion(point: Point) -> Tensor:
            calls.append(point)
            return uphill(*self.slopes)(point)

        moved = run(BestOf.Config(of=PGD.Config(steps=3), draws=10), self.start, criterion, PIXEL)
        assert len(calls) == 3
        assert all(map(torch.equal, moved, run(PGD.Config(steps=3), self.start, criterion, PIXEL)))


def picture(height: int = 24, width: int = 36) -> Tensor:
    """A smooth picture in three colours, on the grid."""
    y, x = torch.meshgrid(torch.linspace(0, 3, height), torch.linspace(0, 4, width), indexing="ij")
    smooth = torch.stack([torch.sin(x + y), torch.cos(2 * x - y), torch.sin(y) * torch.cos(x)]) * 0.45 + 0.5
    return (smooth * 255).round() / 255


def as_pil(block: Tensor) -> Image.Image:
    return Image.fromarray((block * 255).round().byte().permute(1, 2, 0).numpy())


def from_pil(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


class TestAugmentations:
    def test_brightness_is_pillows(self) -> None:
        start = picture()
        factors = set()
        for seed in range(20):
            (moved,) = run(Brightness.Config(range="1/2"), (start,), asks_nothing, PIXEL, seeds=[seed])
            factor = 1 + 0.5 * (
                2 * float(torch.rand((), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)) - 1
            )
            theirs = from_pil(ImageEnhance.Brightness(as_pil(start)).enhance(factor))
            assert float((moved - theirs).abs().max()) <= 1.01 / 255  # Pillow cuts off where we round
            factors.add(round(factor, 2))
        assert max(factors) > 1.3
        assert min(factors) < 0.7

    @pytest.mark.parametrize("strength", [0.5, 1.0])
    def test_the_strength_scales_the_range(self, strength: float) -> None:
        block = replace(FREE, scale=strength)
        start = torch.full((3, 1, 1), 0.5)
        config = Brightness.Config(range="1/2")
        factors = [float(run(config, (start,), asks_nothing, block, seeds=[s])[0][0]) / 0.5 for s in range(300)]
        assert scipy.stats.kstest(factors, "uniform", args=(1 - strength / 2, strength)).pvalue > 0.01

    @pytest.mark.parametrize("degrees", [-140.0, -17.0, 8.5, 90.0])
    def test_rotation_is_pillows(self, degrees: float) -> None:
        start = picture()
        theirs = from_pil(as_pil(start).rotate(degrees, Image.Resampling.BILINEAR))
        y, x = torch.meshgrid(torch.arange(24) - 11.5, torch.arange(36) - 17.5, indexing="ij")
        inside = (x**2 + y**2).sqrt() < 10  # Pillow fills the corners with black
        assert float((rotated(start, degrees) - theirs).abs()[:, inside].max()) <= 1.5 / 255

    def test_a_quarter_turn_of_a_square(self) -> None:
        square = torch.rand(3, 7, 7, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(rotated(square, 90.0), torch.rot90(square, 1, (-2, -1)), rtol=0, atol=1e-5)

    def test_angles_are_uniform_either_way(self) -> None:
        """The angle is read off a disc's mark: a ramp along x turns into cos·x + sin·y."""
        ramp = (torch.arange(41.0) - 20).expand(3, 41, 41) / 200 + 0.5
        found = []
        for seed in range(200):
            (moved,) = run(Rotation.Config(degrees=40.0), (ramp,), asks_nothing, replace(FREE, scale=0.5), seeds=[seed])
            along_x = float(moved[0, 20, 22] - moved[0, 20, 18])
            along_y = float(moved[0, 18, 20] - moved[0, 22, 20])
            found.append(math.degrees(math.atan2(along_y, along_x)))
        assert scipy.stats.kstest(found, "uniform", args=(-20, 40)).pvalue > 0.01

    def test_a_crop_is_pillows(self) -> None:
        start = picture()
        sizes = set()
        for seed in range(20):
            generator = torch.Generator().manual_seed(seed)
            area, down, right = (float(torch.rand((), generator=generator, dtype=torch.float64)) for _ in range(3))
            side = math.sqrt(1 - 0.75 * area)
            rows, columns = round(24 * side), round(36 * side)
            top, left = int(down * (25 - rows)), int(right * (37 - columns))
            part = as_pil(start).crop((left, top, left + columns, top + rows))
            theirs = from_pil(part.resize((36, 24), Image.Resampling.BILINEAR))
            (moved,) = run(Crop.Config(least="1/4"), (start,), asks_nothing, PIXEL, seeds=[seed])
            assert float((moved - theirs).abs().max()) <= 1.01 / 255
            sizes.add(rows)
        assert len(sizes) > 6

    def test_masks_cover_whole_patches_with_their_probability(self) -> None:
        start = torch.full((3, 30, 45), 0.5)
        covered = 0
        for seed in range(60):
            config = PatchMask.Config(probability="4/5", size=10, level="1/5")
            (moved,) = run(config, (start,), asks_nothing, replace(FREE, scale=0.5), seeds=[seed])
            for top, left in itertools.product(range(0, 30, 10), range(0, 45, 10)):
                values = moved[:, top : top + 10, left : left + 10].unique().tolist()
                assert values in ([0.5], [pytest.approx(0.2)])
                covered += values != [0.5]
        assert scipy.stats.binomtest(covered, 60 * 15, 0.4).pvalue > 0.01

    def test_papos_mask_is_the_default(self) -> None:
        config = PatchMask.Config()
        assert (float(config.probability), config.size, config.level) == (0.6, 14, 0)

    def test_siblings_differ(self) -> None:
        """Each of them, by its default, on the same picture and draws."""
        kinds = (Brightness, Rotation, Crop, PatchMask, Noise, DiffusionNoise)
        results = [run(kind.Config(), (picture(),), asks_nothing, PIXEL)[0] for kind in kinds]
        for left, right in itertools.combinations(results, 2):
            assert float((left != right).float().mean()) > 0.3


class TestResult:
    """A result is checked where it is used, whoever made it."""

    start = (levels(100, 100), levels(0, 255))
    space = Space((PIXEL, replace(PIXEL, editable=torch.tensor([True, False]))), (0, 1))

    def refused(self, attack: Attack, *moved: Tensor) -> str:
        with pytest.raises(TrainingError) as caught:
            check_result(attack, self.start, moved, self.space)
        assert f"'{attack.name()}'" in caught.value.rule
        assert "saei.testing.check_attack" in caught.value.remedy
        return caught.value.reason

    def test_what_is_right_passes(self) -> None:
        for config in (PGD.Config(steps=3, schedule="linear"), PGDL2.Config(), Noise.Config(distribution="gaussian")):
            moved = config.build().attack(
                uphill(*(torch.ones_like(x) for x in self.start)),
                self.start,
                space=self.space,
                progress=0.0,
                generators=[torch.Generator()] * 2,
            )
            check_result(config.build(), self.start, moved, self.space)

    def test_what_is_wrong_is_named(self) -> None:
        right = levels(0, 255)
        assert "block 0 of 2 moves a value by 0.01176" in self.refused(PGD(), levels(103, 100), right)
        assert "times the radius of its l2 ball" in self.refused(
            PGDL2.Config(step="1/255", radius="4/255").build(), levels(103, 103), right
        )
        assert "not finite" in self.refused(PGD(), levels(math.nan, 100), right)
        assert "off the grid" in self.refused(PGD(), levels(100.5, 100), right)
        assert "block 1 of 2 leaves the bounds" in self.refused(PGD(), self.start[0], levels(-1, 255))
        assert "not editable" in self.refused(PGD(), self.start[0], levels(0, 254))
        assert "1 blocks for 2" in self.refused(PGD(), right)
        assert "has shape (1, 1, 3)" in self.refused(PGD(), levels(1, 2, 3), right)
        assert "torch.float64" in self.refused(PGD(), self.start[0].double(), right)


@pytest.mark.parametrize("name", ["patches", "repeat", "best-of"])
def test_wrappers_take_after_what_they_wrap(name: str) -> None:
    config = load("attack", name).Config.model_validate({"of": {"type": "diffusion-noise", "t0": 3}})
    wrapper = config.build()
    assert (wrapper.origin, wrapper.ball, wrapper.radius(FREE), wrapper.jointly) == ("noisy", "none", None, True)
    assert wrapper.spaces == {"pixels"}
    assert wrapper.parts() == {"of": wrapper.of}
    lowering = load("attack", name).Config.model_validate({"of": {"type": "pgd", "direction": "lower"}}).build()
    assert lowering.lowers
    assert not wrapper.lowers
    assert (
        not load("attack", name).Config.model_validate({"of": {"type": "torchattacks", "name": "PGD"}}).build().jointly
    )


def test_gradient_attacks_share_one_loop() -> None:
    assert all(cls.attack is GradientAttack.attack for cls in (FGSM, PGD, PGDL2, Momentum))
