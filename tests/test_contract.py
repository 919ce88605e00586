"""The contract suite passes over everything registered, and catches strategies that break it."""

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
import torch

from saei.attacks.ball import project, snap
from saei.attacks.base import Attack
from saei.attacks.fgsm import FGSM
from saei.attacks.gradient import GradientAttack
from saei.attacks.noise import Noise
from saei.attacks.pgd import PGD
from saei.config import registry
from saei.config.registry import StrategyConfig, load, register
from saei.entropy.selectors.band import Band, MiddleThird
from saei.entropy.selectors.base import Selector
from saei.entropy.selectors.random import Random
from saei.entropy.selectors.topk import TopK
from saei.need import Need
from saei.testing import check_attack, check_selector, registered

CHECKS: dict[str, Callable] = {"selector": check_selector, "attack": check_attack}
DEFAULTS = [(kind, config) for kind in CHECKS for config in registered(kind)]
OTHERS = [
    ("selector", MiddleThird.Config(scope="group", exclude=("eos", "template"))),
    ("selector", Band.Config(lo="2/3", hi=1)),
    ("selector", TopK.Config(count=2)),
    ("selector", TopK.Config(share="1/5", scope="group")),
    ("selector", Random.Config(lo=0, hi="2/3", exclude=("eos",))),
    ("attack", FGSM.Config(step="3/255", radius="2/255", random_start=True)),
    ("attack", PGD.Config(steps=0)),
    ("attack", PGD.Config(steps=3, step="5/510", radius="7/510", random_start=True)),
    ("attack", PGD.Config(steps=4, direction="lower", step_space="normalised")),
    ("attack", Noise.Config(distribution="uniform", step_space="normalised")),
    ("attack", Noise.Config(distribution="gaussian", radius="20/255")),
]


@pytest.mark.parametrize(("kind", "config"), DEFAULTS + OTHERS, ids=str)
def test_everything_registered_keeps_the_contract(kind, config):
    CHECKS[kind](config)


def test_a_strategy_is_checked_like_its_config():
    check_selector(MiddleThird())
    check_attack(PGD())


def test_the_wrong_kind_is_refused():
    with pytest.raises(AssertionError, match="builds a Selector"):
        check_selector(PGD())
    with pytest.raises(AssertionError, match="builds an Attack"):
        check_attack(MiddleThird())
    with pytest.raises(AssertionError, match="neither a strategy nor its config"):
        check_attack("pgd")


def test_registered_are_all_that_have_a_default(monkeypatch):
    monkeypatch.setattr(registry, "_registered", {})

    @register
    class Mine(Selector):
        class Config(Selector.Config):
            type: Literal["test/mine"] = "test/mine"

        def select(self, stats, *, progress, generator):
            return self.candidates(stats)

    assert Mine.Config() in registered("selector")
    assert {config.type for config in registered("selector")} >= {"middle-third", "band", "top-k", "all", "random"}
    assert {config.type for config in registered("attack")} >= {"pgd", "fgsm", "noise"}
    left_out = {entry.name for entry in registry.entries("task")} - {config.type for config in registered("task")}
    for cls in (load("task", name) for name in left_out):
        assert any(field.is_required() for field in cls.Config.model_fields.values()) or cls.fetches


# --- selectors that break one rule each -----------------------------------------------------------------------------


def selector(select, **attributes):
    """Return the config of a selector with this ``select(self, stats, generator)``."""

    class Broken(Selector):
        class Config(Selector.Config):
            type: Literal["test/broken"] = "test/broken"

        def select(self, stats, *, progress, generator):
            return select(self, stats, generator)

    for name, value in attributes.items():
        setattr(Broken, name, value)
    return Broken.Config()


def honest(self, stats, generator=None):
    return MiddleThird.Config(exclude=self.config.exclude).build().select(stats, progress=0.0, generator=generator)


def writes(self, stats, generator):
    mask_NT = honest(self, stats)
    stats.entropy_NT.add_(1)
    return mask_NT


def draws_globally(self, stats, generator):
    torch.rand(())
    return honest(self, stats)


def draws_from_numpy(self, stats, generator):
    np.random.rand()  # noqa: NPY002
    return honest(self, stats)


def draws_from_python(self, stats, generator):
    random.random()
    return honest(self, stats)


def remembers(self, stats, generator):
    type(self).calls = getattr(type(self), "calls", 0) + 1
    return honest(self, stats) if type(self).calls % 2 else self.candidates(stats)


def noise_per_place(self, stats, generator):
    """Draws for padding too, so that the width of the batch decides what each token gets."""
    return self.candidates(stats) & (torch.rand(stats.valid_NT.shape, generator=generator) < 0.5)


def above_the_group(self, stats, generator):
    candidates_NT = self.candidates(stats)
    mean = stats.entropy_NT[candidates_NT].mean()
    return candidates_NT & (stats.entropy_NT >= mean)


def above_the_padded_mean(self, stats, generator):
    return self.candidates(stats) & (stats.entropy_NT >= stats.entropy_NT.mean(1, keepdim=True))


def ignores_exclude(self, stats, generator):
    return MiddleThird().select(stats, progress=0.0, generator=generator)


def undeclared(self, stats, generator):
    return self.candidates(stats) & ~stats.statistics[Need("eos")]


def full_precision_only(self, stats, generator):
    return (
        self.candidates(stats) & (stats.entropy_NT.half() == stats.entropy_NT) & (stats.entropy_NT.element_size() == 4)
    )


SELECTORS = {
    "valid tokens": (selector(lambda self, stats, generator: torch.ones_like(stats.valid_NT)), "only valid tokens"),
    "bool": (selector(lambda self, stats, generator: honest(self, stats).float()), "the mask is bool"),
    "shape": (selector(lambda self, stats, generator: honest(self, stats)[:, :-1]), "shape of the statistics"),
    "writes": (selector(writes), "left as they were"),
    "torch": (selector(draws_globally), "global random state"),
    "numpy": (selector(draws_from_numpy), "global random state"),
    "python": (selector(draws_from_python), "global random state"),
    "memory": (selector(remembers), "the same arguments give the same mask"),
    "draws for padding": (selector(noise_per_place), "what stands on padding"),
    "padded mean": (selector(above_the_padded_mean), "what stands on padding"),
    "whole group": (selector(above_the_group), "whatever the other responses are"),
    "exclude": (selector(ignores_exclude), r"exclude: \[eos\]"),
    "undeclared need": (selector(undeclared), "its needs declare"),
    "half precision": (selector(full_precision_only), "half precision"),
    "nothing": (selector(lambda self, stats, generator: torch.zeros_like(stats.valid_NT)), "some tokens"),
}


def test_the_honest_selectors_pass():
    check_selector(selector(honest))
    check_selector(selector(above_the_group, pooled=True))
    check_selector(selector(undeclared, needs=frozenset({Need("eos"), Need("template")})))


@pytest.mark.parametrize(("config", "rule"), SELECTORS.values(), ids=SELECTORS)
def test_a_broken_selector_is_caught(config, rule):
    with pytest.raises(AssertionError, match=f"test/broken: the rule is broken that .*{rule}"):
        check_selector(config)


# --- attacks that break one rule each --------------------------------------------------------------------------------


def attack(move, **attributes):
    """Return the config of an attack with this ``move(criterion, start, space, generators)``."""

    class Broken(Attack):
        class Config(StrategyConfig):
            type: Literal["test/broken"] = "test/broken"

        spaces = frozenset({"pixels", "embeddings"})

        def radius(self, block):
            return 2 / 255 * block.scale

        def attack(self, criterion, start, *, space, progress, generators):
            return move(criterion, start, space, generators)

    for name, value in attributes.items():
        setattr(Broken, name, value)
    return Broken.Config()


def sign_step(criterion, start, space, generators=()):
    return PGD().attack(criterion, start, space=space, progress=0.0, generators=generators)


def but(**fields):
    """Return a sign step in a space that differs in some fields from the one that was asked for."""

    def move(criterion, start, space, generators):
        blocks = tuple(replace(block, **{k: f(block) for k, f in fields.items()}) for block in space.blocks)
        return sign_step(criterion, start, replace(space, blocks=blocks))

    return move


def after(step):
    """Return a sign step after which something else is done."""

    def move(criterion, start, space, generators):
        moved = sign_step(criterion, start, space)
        return step(criterion, start, moved, generators) or moved

    return move


def backward(criterion, start, moved, generators):
    leaves = [block.clone().requires_grad_() for block in start]
    criterion(leaves).sum().backward()


def freezes(criterion, start, moved, generators):
    criterion.requires_grad_(False)


def learns(criterion, start, moved, generators):
    criterion.slopes[0].data.add_(1)


def evaluates(criterion, start, moved, generators):
    criterion.eval()


def writes_start(criterion, start, moved, generators):
    start[0].add_(0.25 / 255)


def asks_gradients_of_start(criterion, start, moved, generators):
    start[0].requires_grad_()


def draws(criterion, start, moved, generators):
    torch.rand(())


def leaves_gradients_off(criterion, start, moved, generators):
    torch.set_grad_enabled(False)


def largest_over_all(criterion, start, space, generators):
    """Steps in proportion to the gradient, measured by the steepest of all blocks."""
    leaves = [block.clone().requires_grad_() for block in start]
    gradients = torch.autograd.grad(criterion(leaves).sum(), leaves)
    largest = max(gradient.abs().max() for gradient in gradients)
    moved = []
    for x, gradient, block in zip(start, gradients, space.blocks, strict=True):
        radius = 2 / 255 * block.scale
        moved.append(snap(project(x + radius * gradient / largest, x, radius, block), x, radius, block))
    return tuple(moved)


def whole_batch_noise(criterion, start, space, generators):
    """Draws one number for each value of all blocks at once, in an order that the later blocks decide."""
    sizes = [block.numel() for block in start]
    drawn = torch.rand(sum(sizes), generator=generators[0]).flip(0).split(sizes)
    moved = []
    for x, u, block in zip(start, drawn, space.blocks, strict=True):
        radius = 2 / 255 * block.scale
        moved.append(snap(project(x + radius * (2 * u.reshape(x.shape) - 1), x, radius, block), x, radius, block))
    return tuple(moved)


def one_source_for_all(criterion, start, space, generators):
    """Draws example by example, all of them from the first one's source."""
    noise, first = Noise.Config(distribution="uniform").build(), generators[:1] * 3
    return noise.attack(criterion, start, space=space, progress=0.0, generators=first)


def forgets_seed(criterion, start, space, generators):
    other = torch.Generator()
    other.seed()
    return (
        Noise.Config(distribution="uniform")
        .build()
        .attack(criterion, start, space=space, progress=0.0, generators=[other] * 3)
    )


class Stubborn(GradientAttack):
    """Always raises, whatever the direction, and takes one step where it is told to take none."""

    class Config(GradientAttack.Config):
        type: Literal["test/broken"] = "test/broken"

    steps = 1

    def attack(self, criterion, start, **rest):
        return PGD().attack(criterion, start, **rest)


class Restless(Stubborn):
    class Config(GradientAttack.Config):
        type: Literal["test/broken"] = "test/broken"
        steps: int = 1


class OutOfL2(GradientAttack):
    """Projects onto the cube and declares the l2 ball."""

    class Config(GradientAttack.Config):
        type: Literal["test/broken"] = "test/broken"

    ball = "l2"
    steps = 1

    def attack(self, criterion, start, **rest):
        return PGD().attack(criterion, start, **rest)


def on_pixels(move, **attributes):
    return attack(move, spaces=frozenset({"pixels"}), **attributes)


ATTACKS = {
    "ball": (attack(but(scale=lambda block: 2 * block.scale)), "inside the declared linf ball"),
    "l2 ball": (OutOfL2.Config(), "inside the declared l2 ball"),
    "bounds": (on_pixels(but(low=lambda _: -1.0, high=lambda _: 2.0)), "inside the bounds"),
    "grid": (on_pixels(but(grid=lambda _: None, scale=lambda block: 0.8 * block.scale)), "on the grid"),
    "editable": (attack(but(editable=lambda _: None)), "not editable keeps its bits"),
    "no radius": (attack(sign_step, radius=lambda self, block: None), "exactly if it declares a ball"),
    "radius without a ball": (attack(sign_step, ball="none"), "exactly if it declares a ball"),
    "unknown ball": (attack(sign_step, ball="l1"), "linf, l2 or none"),
    "no space": (attack(sign_step, spaces=frozenset()), "spaces are some of"),
    "unknown space": (attack(sign_step, spaces=frozenset({"tokens of gold"})), "spaces are some of"),
    "blocks": (attack(lambda c, start, space, g: sign_step(c, start, space)[:-1]), "blocks, shapes and dtypes"),
    "dtype": (attack(lambda c, s, space, g: tuple(x.double() for x in sign_step(c, s, space))), "shapes and dtypes"),
    "graph": (attack(after(lambda c, s, moved, g: tuple(x.requires_grad_() for x in moved))), "detached"),
    "nan": (attack(after(lambda c, s, moved, g: tuple(x * torch.nan for x in moved))), "finite"),
    "strength": (attack(but(scale=lambda block: block.scale or 0.1)), "at strength 0 nothing moves"),
    "steps": (Restless.Config(), "steps: 0 is the identity"),
    "direction": (Stubborn.Config(), "ends above direction: lower"),
    "start": (attack(after(writes_start)), "start is not written to"),
    "start's requires_grad": (attack(after(asks_gradients_of_start)), "start is not written to"),
    ".grad": (attack(after(backward)), r"keep their \.grad"),
    "requires_grad": (attack(after(freezes)), "keep their requires_grad"),
    "parameters": (attack(after(learns)), "keep their values"),
    "modes": (attack(after(evaluates)), "train or eval mode"),
    "gradients off": (attack(after(leaves_gradients_off)), "as enabled afterwards"),
    "global randomness": (attack(after(draws)), "global random state"),
    "own randomness": (attack(forgets_seed), "the same arguments give the same result"),
    "shared scale": (attack(largest_over_all), "does not depend on the other examples"),
    "shared source": (attack(one_source_for_all), "does not depend on the other examples"),
    "shared draw": (attack(whole_batch_noise), "does not depend on the other examples"),
}


def test_the_honest_attack_passes():
    check_attack(attack(sign_step))


@pytest.mark.parametrize(("config", "rule"), ATTACKS.values(), ids=ATTACKS)
def test_a_broken_attack_is_caught(config, rule):
    try:
        with pytest.raises(AssertionError, match=f"test/broken: the rule is broken that .*{rule}"):
            check_attack(config)
    finally:
        torch.set_grad_enabled(True)
