"""Attacks: a quadratic worked by hand, balls and grids against brute force, and what must not happen."""

import itertools
import math
from fractions import Fraction
from typing import Literal

import pytest
import scipy.stats
import torch
from pydantic import ValidationError

from saei.attacks.ball import project, snap
from saei.attacks.base import BlockSpace, Space
from saei.attacks.diffusion import DiffusionNoise
from saei.attacks.fgsm import FGSM
from saei.attacks.gradient import GradientAttack
from saei.attacks.noise import Noise
from saei.attacks.pgd import PGD
from saei.errors import ConfigError, ModelError

GRID = 1 / 255
BELOW = 1 - 3e-7
"""Leaves a number an ulp or a few of float32 below itself."""
FREE = BlockSpace()
PIXEL = BlockSpace(grid=GRID)


def levels(*values):
    """Return one row of pixels of these 8-bit values, as a picture becomes numbers."""
    return torch.tensor(values, dtype=torch.uint8).reshape(1, 1, -1).float() / 255


def towards(*peaks):
    """Return the criterion -(x - peak)², peaks in 8-bit values, one block per example."""
    return lambda point: torch.stack([-((x - p / 255) ** 2).sum() for x, p in zip(point, peaks, strict=True)])


def run(config, start, criterion, block=FREE, *, seed=0, examples=None):
    attack = config.build()
    return attack.attack(
        criterion,
        start,
        space=Space((block,) * len(start), examples or tuple(range(len(start)))),
        progress=0.0,
        generators=[torch.Generator().manual_seed(seed)] * len(start),
    )


def in_levels(block):
    return [round(value, 3) for value in (block * 255).flatten().tolist()]


class TestQuadratic:
    start = levels(100, 120, 110, 0, 255)
    peak = torch.tensor([110.0, 110.0, 110.0, -5.0, 260.0])

    @pytest.mark.parametrize(
        ("config", "expected"),
        [
            (FGSM.Config(), [102, 118, 110, 0, 255]),
            (FGSM.Config(step="4/255"), [104, 116, 110, 0, 255]),
            (FGSM.Config(direction="lower"), [98, 122, 110, 2, 253]),
            (PGD.Config(), [102, 118, 110, 0, 255]),
            (PGD.Config(steps=3), [106, 114, 110, 0, 255]),
            (PGD.Config(steps=3, radius="5/255"), [105, 115, 110, 0, 255]),
            (PGD.Config(steps=3, direction="lower", radius="5/255"), [95, 125, 110, 5, 250]),
            # Four sixths beyond the peak and back again: 106, 112, 106.
            (PGD.Config(step="6/255", steps=3), [106, 114, 110, 0, 255]),
            (PGD.Config(steps=0, radius="5/255", random_start=True), [100, 120, 110, 0, 255]),
        ],
        ids=str,
    )
    def test_by_hand(self, config, expected):
        (moved,) = run(config, (self.start,), towards(self.peak), PIXEL)
        assert in_levels(moved) == expected

    def test_a_step_beyond_the_radius_is_projected_and_warned_of_once(self):
        config = FGSM.Config(step="10/255", radius="4/255")
        with pytest.warns(UserWarning, match="step of 2/51 leaves the ball of radius 4/255") as caught:
            (moved,) = run(config, (self.start,), towards(self.peak), PIXEL)
        assert len(caught) == 1
        assert in_levels(moved) == [104, 116, 110, 0, 255]

    @pytest.mark.filterwarnings("error")
    def test_no_warning_without_reason(self):
        for config in (FGSM.Config(step="4/255", radius="4/255"), PGD.Config(radius="1/255", steps=0), PGD.Config()):
            config.build()

    def test_strength_scales_step_and_radius(self):
        block = BlockSpace(grid=GRID, scale=1.5)
        (moved,) = run(PGD.Config(step="2/255", steps=3, radius="4/255"), (self.start,), towards(self.peak), block)
        assert in_levels(moved) == [106, 114, 110, 0, 255]  # 3, 3 in the ball of 6 and not 3, 3, 3

    def test_a_step_in_normalised_pixels_is_longer_where_the_spread_is(self):
        block = BlockSpace(units={"pixel": 1.0, "normalised": torch.tensor([0.5, 1.0, 2.0])[:, None, None]}, grid=GRID)
        start = levels(100).expand(3, 1, 2)
        (moved,) = run(PGD.Config(step_space="normalised", steps=2), (start,), towards(200), block)
        assert in_levels(moved) == [102, 102, 104, 104, 108, 108]
        (noisy,) = run(Noise.Config(step_space="normalised"), (start,), None, block)
        assert in_levels((noisy - start).abs()) == [1, 1, 2, 2, 4, 4]

    def test_a_whole_number_of_grid_steps_survives_float32(self):
        block = BlockSpace(units={"normalised": torch.tensor([0.39])}, grid=GRID)
        config = FGSM.Config(step="200/255", step_space="normalised")  # 78 levels, 77.99999 as a product of float32
        (moved,) = run(config, (levels(100),), towards(255), block)
        assert in_levels(moved) == [178]

    def test_what_is_not_editable_keeps_its_bits(self):
        start = torch.rand(1, 1, 5, generator=torch.Generator().manual_seed(0)) * 1e-3 + 0.5
        editable = torch.tensor([True, False, True, False, False])
        block = BlockSpace(editable=editable)
        for config in (PGD.Config(random_start=True, steps=3), Noise.Config(distribution="gaussian")):
            (moved,) = run(config, (start,), towards(250), block)
            assert torch.equal(moved != start, editable.expand(1, 1, 5))

    def test_steps_shorter_than_the_grid_add_up(self):
        seen = []

        def criterion(point):
            seen.append(in_levels(point[0].detach()))
            return towards(200)(point)

        (moved,) = run(PGD.Config(step="2/765", steps=4), (levels(100),), criterion, PIXEL)
        assert in_levels(moved) == [102]  # 8/3 of a level is inside the ball, 3 levels are not
        assert seen == [[100], [101], [101], [102]]

    def test_the_grid_is_that_of_pictures(self):
        start = levels(*range(20, 236))
        (moved,) = run(PGD.Config(step="5/255"), (start,), towards(128), PIXEL)
        assert torch.equal(moved, (moved * 255).round().to(torch.uint8).float() / 255)


class TestRandomStart:
    def test_draws_from_the_generator_uniformly_in_the_ball(self):
        start = torch.full((1, 50, 50), 0.5)
        config = PGD.Config(step=0, radius="8/255", random_start=True)
        moved = [run(config, (start,), towards(0), seed=seed)[0] for seed in (0, 0, 1)]
        assert torch.equal(moved[0], moved[1])
        assert not torch.equal(moved[0], moved[2])
        radius = 8 / 255
        drawn = (moved[0] - start).flatten().double().numpy()
        assert scipy.stats.kstest(drawn, "uniform", args=(-radius, 2 * radius)).pvalue > 0.01

    @pytest.mark.parametrize("strength", [0.25, 0.0])
    def test_the_strength_scales_the_ball_that_it_draws_from(self, strength):
        start = torch.full((1, 50, 50), 0.5)
        block = BlockSpace(units={"normalised": 0.5}, scale=strength)
        config = PGD.Config(step=0, radius="16/255", random_start=True, step_space="normalised")
        (moved,) = run(config, (start,), towards(0), block)
        radius = 16 / 255 * 0.5 * strength
        drawn = (moved - start).flatten().double().numpy()
        if strength:
            assert scipy.stats.kstest(drawn, "uniform", args=(-radius, 2 * radius)).pvalue > 0.01
        else:
            assert torch.equal(moved, start)

    def test_fast_adversarial_start_with_a_step_beyond_the_radius(self):
        start = torch.full((1, 50, 50), 0.5)
        with pytest.warns(UserWarning, match="leaves the ball"):
            (moved,) = run(
                FGSM.Config(step="10/255", radius="8/255", random_start=True), (start,), towards(255), seed=3
            )
        change = (moved - start) * 255
        assert change.max() == pytest.approx(8, abs=1e-4)
        assert change.min() == pytest.approx(2, abs=0.1)  # from the far side ten levels up
        assert ((change > 2) & (change < 7.99)).float().mean() == pytest.approx(6 / 16, abs=0.05)


class L2Descent(GradientAttack):
    """Normalised gradient steps in an l2 ball, as anyone might derive it."""

    class Config(GradientAttack.Config):
        type: Literal["test/l2"] = "test/l2"

    ball = "l2"
    steps = 3

    def normalise(self, gradient):
        return gradient / gradient.norm()


class TestBalls:
    def test_another_geometry_is_two_lines(self):
        slope = torch.tensor([[3.0, 4.0]])
        (moved,) = run(
            L2Descent.Config(step="0.1", radius="0.25"),
            (torch.full((1, 2), 0.5),),
            lambda p: (slope * p[0]).sum()[None],
        )
        torch.testing.assert_close(moved, 0.5 + 0.25 * slope / 5)

    @pytest.mark.parametrize("radius", [0.0, 0.3, 1.0, 5.0])
    def test_l2_projection_is_renorm(self, radius):
        generator = torch.Generator().manual_seed(0)
        start, block = torch.rand(3, 4, 5, generator=generator), torch.rand(3, 4, 5, generator=generator)
        block[0, 0] = start[0, 0]
        ours = project(block, start, radius, BlockSpace(low=-torch.inf, high=torch.inf), "l2")
        theirs = start + torch.renorm((block - start).reshape(1, -1), 2, 0, radius).reshape(start.shape)
        torch.testing.assert_close(ours, theirs)
        if radius == 0:
            assert torch.equal(ours, start)

    @pytest.mark.parametrize("scale", [0.3, 1.0, 1.6, 2.5, 7.0])
    def test_rounding_against_all_grid_points(self, scale):
        """In the cube each value goes to the nearest of the grid points that ball and bounds allow."""
        generator = torch.Generator().manual_seed(0)
        start = (torch.randint(0, 11, (300,), generator=generator)) / 10
        low, high = torch.linspace(0.01, 0.3, 300), torch.linspace(0.55, 1.0, 300)
        space, radius = BlockSpace(low=low, high=high, grid=1 / 10), scale / 10
        start = start.clamp(0.3, 0.5)
        block = project(start + 0.5 * torch.randn(300, generator=generator), start, radius, space)
        ours = snap(block, start, radius, space)
        for x, origin, bottom, top, own in zip(*(t.double() for t in (block, start, low, high, ours)), strict=True):
            legal = [k / 10 for k in range(11) if bottom - 1e-6 <= k / 10 <= top + 1e-6]
            points = [point for point in legal if abs(point - origin) <= radius + 1e-6]
            assert min(abs(point - own) for point in points) < 1e-6
            assert abs(own - x) <= min(abs(point - x) for point in points) + 1e-6

    def test_rounding_never_leaves_the_l2_ball(self):
        generator = torch.Generator().manual_seed(0)
        rounded = 0
        for _ in range(200):
            start = torch.randint(0, 256, (3, 2, 2), generator=generator) / 255
            radius = 5 * float(torch.rand((), generator=generator)) / 255
            block = project(start + 0.02 * torch.randn(3, 2, 2, generator=generator), start, radius, PIXEL, "l2")
            ours = snap(block, start, radius, PIXEL, "l2")
            assert (ours - start).norm() <= radius + 1e-6
            assert torch.equal(ours, (ours * 255).round().to(torch.uint8).float() / 255)
            rounded += bool((start + ((block - start) * 255).round() / 255 - start).norm() > radius + 1e-6)
        assert rounded > 20  # plain rounding would have left it

    @pytest.mark.parametrize(
        ("space", "radius"),
        [
            (PIXEL, torch.tensor(80 * GRID * BELOW)),
            (BlockSpace(grid=GRID, high=180 * GRID * BELOW), None),
            (BlockSpace(grid=GRID, low=torch.tensor(20 * GRID / BELOW)), None),
        ],
        ids=["ball", "high", "low"],
    )
    @pytest.mark.parametrize("short", [0.3, 0.0])
    def test_a_border_that_float32_left_beside_the_grid_is_on_it(self, space, radius, short):
        """What is nearest to the border's grid point goes there, from near the border as from exactly on it."""
        start = levels(100).flatten()
        target = 20 + short if isinstance(space.low, torch.Tensor) else 180 - short
        block = project(torch.full((1,), target * GRID), start, radius, space)
        assert in_levels(snap(block, start, radius, space)) == [round(target)]

    def test_a_value_on_the_grid_stays_where_another_leaves_the_l2_ball(self):
        # Rounded, the second value would leave the ball, so both go towards the start; the first is on the grid.
        change = torch.tensor([3.0, 3.6]) / 255
        radius = float(change.norm())
        for a, b in itertools.product(range(0, 250, 7), repeat=2):
            start = levels(a, b).flatten()
            block = project(start + change, start, radius, PIXEL, "l2")
            assert in_levels(snap(block, start, radius, PIXEL, "l2")) == [a + 3, b + 3]

    def test_rounding_reaches_the_l2_sphere(self):
        change = torch.tensor([3.0, 4.0]) / 255
        for a, b in itertools.product(range(0, 250, 7), repeat=2):
            start = levels(a, b).flatten()
            ours = snap(project(start + 2 * change, start, 5 / 255, PIXEL, "l2"), start, 5 / 255, PIXEL, "l2")
            assert in_levels(ours) == [a + 3, b + 4]

    def test_values_that_do_not_move_keep_their_bits(self):
        start = torch.arange(256) * (1 / 255)  # many an ulp beside a picture's values
        editable = torch.arange(256) % 2 == 0
        (moved,) = run(PGD.Config(), (start,), towards(128), BlockSpace(grid=GRID, editable=editable))
        assert torch.equal(moved[~editable], start[~editable])
        assert (moved[~editable] != levels(*range(256)).flatten()[~editable]).any()

    def test_without_a_ball_only_the_bounds_hold(self):
        block = torch.tensor([-1.0, 0.3, 7.0])
        assert project(block, torch.full((3,), 0.5), None, FREE, "none").tolist() == pytest.approx([0.0, 0.3, 1.0])
        low = BlockSpace(low=torch.tensor([0.2, 0.4, 0.2]), high=0.9)
        assert project(block, torch.full((3,), 0.5), None, low).tolist() == pytest.approx([0.2, 0.4, 0.9])

    def test_borders_of_another_type_leave_the_blocks_type(self):
        low, high = torch.full((3,), 0.2).double(), torch.full((3,), 0.6).double()
        block = project(torch.tensor([-1.0, 0.3, 7.0]), torch.full((3,), 0.5), None, BlockSpace(low=low, high=high))
        assert block.dtype == torch.float32
        assert block.tolist() == pytest.approx([0.2, 0.3, 0.6])


@pytest.mark.parametrize(
    "config",
    [
        PGD.Config(step=0, radius="8/255", random_start=True),
        Noise.Config(distribution="uniform"),
        Noise.Config(distribution="gaussian"),
        DiffusionNoise.Config(),
    ],
    ids=["random start", "uniform", "gaussian", "diffusion"],
)
def test_draws_are_of_the_blocks_type(config, monkeypatch):
    drawn = []
    for name in ("rand", "randn", "empty"):
        make = getattr(torch, name)
        monkeypatch.setattr(torch, name, lambda *a, _make=make, **k: drawn.append(k["dtype"]) or _make(*a, **k))
    (moved,) = run(config, (torch.full((1, 2, 2), 0.5, dtype=torch.float64),), towards(0))
    assert moved.dtype == torch.float64
    assert set(drawn) == {torch.float64}


class TestGradients:
    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    def test_an_example_with_a_broken_gradient_stays(self, value):
        def criterion(point):
            good, broken, partner = (x.sum() for x in point)
            return torch.stack([good, broken * value + partner])

        start = (levels(9, 9), levels(50, 60), levels(70, 80))
        moved = run(PGD.Config(steps=2), start, criterion, PIXEL, examples=(0, 1, 1))
        assert [in_levels(block) for block in moved] == [[13, 13], [50, 60], [70, 80]]

    def test_a_value_without_gradient_is_an_error_of_the_model(self):
        weight = torch.ones((), requires_grad=True)
        for criterion in (lambda point: point[0].detach().sum()[None], lambda point: (weight * 3)[None]):
            with pytest.raises(ModelError) as caught:
                run(PGD.Config(), (levels(1, 2),), criterion, PIXEL)
            assert all((caught.value.rule, caught.value.reason, caught.value.remedy))
        assert weight.grad is None

    def test_a_block_that_the_criterion_ignores_stays(self):
        moved = run(PGD.Config(), (levels(9), levels(9)), lambda p: p[0].sum()[None], PIXEL, examples=(0, 0))
        assert [in_levels(block) for block in moved] == [[11], [9]]

    def test_works_where_gradients_are_off(self):
        with torch.no_grad():
            (moved,) = run(FGSM.Config(), (levels(9),), towards(200), PIXEL)
        assert in_levels(moved) == [11]

    def test_an_unknown_unit_is_an_error_of_the_configuration(self):
        with pytest.raises(ConfigError, match="'normalised' units"):
            run(FGSM.Config(step_space="normalised"), (levels(9),), towards(200), PIXEL)


class TestNoise:
    start = torch.full((3, 60, 60), 128 / 255)

    def change(self, block=FREE, **fields):
        def criterion(point):
            raise AssertionError("noise asks nothing")

        (moved,) = run(Noise.Config(radius="8/255", **fields), (self.start,), criterion, block)
        return ((moved - self.start) * 255 / 8).flatten().double()

    def test_signs_are_as_far_as_a_step(self):
        change = self.change(distribution="signs")
        assert change.abs().numpy() == pytest.approx(1.0, abs=1e-4)
        assert scipy.stats.binomtest(int((change > 0).sum()), len(change)).pvalue > 0.01
        assert torch.equal(change, self.change())

    def test_uniform(self):
        assert scipy.stats.kstest(self.change(distribution="uniform").numpy(), "uniform", args=(-1, 2)).pvalue > 0.01

    def test_gaussian_is_bounded_by_nothing_but_the_bounds(self):
        change = self.change(distribution="gaussian")
        assert scipy.stats.kstest(change.numpy(), "norm").pvalue > 0.01
        gaussian = Noise.Config(distribution="gaussian").build()
        assert (gaussian.ball, gaussian.radius(FREE)) == ("none", None)
        (moved,) = run(Noise.Config(distribution="gaussian", radius=1), (self.start,), None)
        assert (moved.min(), moved.max()) == (0, 1)

    def test_distributions_differ_on_the_grid_too(self):
        found = [self.change(PIXEL, distribution=name) * 8 for name in ("signs", "uniform", "gaussian")]
        assert [len(change.round().unique()) for change in found[:2]] == [2, 17]
        assert len(found[2].round().unique()) > 40
        for one, other in itertools.combinations(found, 2):
            assert not torch.equal(one, other)


def test_declarations():
    assert FGSM().radius(FREE) == PGD().radius(FREE) == Noise().radius(FREE) == float(Fraction(2, 255))
    assert PGD.Config(steps=4).build().radius(BlockSpace(scale=0.5)) == pytest.approx(4 / 255)
    assert PGD.Config(steps=4, radius="3/255").build().radius(FREE) == float(Fraction(3, 255))
    assert (FGSM.origin, PGD.origin, Noise.origin) == ("adversarial", "adversarial", "noisy")


@pytest.mark.parametrize(
    ("config", "fields"),
    [
        (PGD.Config, {"steps": -1}),
        (PGD.Config, {"step": "-2/255"}),
        (PGD.Config, {"direction": "up"}),
        (FGSM.Config, {"steps": 2}),
        (FGSM.Config, {"radius": "-1/255"}),
        (Noise.Config, {"distribution": "laplace"}),
        (Noise.Config, {"radius": "-1/255"}),
    ],
)
def test_impossible_fields_are_refused(config, fields):
    with pytest.raises(ValidationError):
        config(**fields)
