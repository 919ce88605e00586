"""Rules and helpers that the checks of all kinds share."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import numpy as np
import torch

from saei.config.registry import entries, load
from saei.config.strategy import Strategy, StrategyConfig
from saei.errors import ConfigError
from saei.need import Need
from saei.policy.statistics.needs import POLICIES, check_needs


def registered(kind: str) -> list[StrategyConfig]:
    """Return the default config of every registered strategy of a kind, saei's and others', sorted by name.

    Strategies whose config has a field without default are left out: they have no default to check; so are tasks
    that read from a hub.

    Raises:
        ConfigError: If two distributions claim the same name.
        PluginLoadError: If a strategy does not import.
    """
    configs = [load(kind, entry.name).Config for entry in entries(kind)]
    return [
        config.model_validate({})
        for config in configs
        if not any(field.is_required() for field in config.model_fields.values())
        and not getattr(config.strategy, "fetches", False)
    ]


def require_filled(
    needs: Iterable[Need],
    name: str,
    *,
    policies: Iterable[str] = POLICIES,
    grad: bool = True,
    other_views: bool = False,
) -> None:
    """Require that something fills needs.

    Raises:
        AssertionError: Naming the rule and the need.
    """
    try:
        check_needs(needs, name, policies=policies, grad=grad, other_views=other_views)
    except ConfigError as error:
        raise AssertionError(f"{name}: the rule is broken that something fills its needs. {error.reason}") from error


def require_read(needs: Iterable[Need], name: str, compute_without: Callable[[Need], object]) -> None:
    """Require that a strategy reads each of its needs: where one is missing, it has to fail.

    Args:
        needs: What the strategy declares.
        name: Name of the strategy.
        compute_without: Runs the strategy on an input that lacks the given need.

    Raises:
        AssertionError: Naming the need that is not read.
    """
    for need in needs:
        try:
            compute_without(need)
        except Exception:  # whatever the strategy raises where something is missing
            continue
        raise AssertionError(f"{name}: what it declares as a need, it reads; without {need} it did not fail.")


@contextmanager
def only_needs_read(name: str) -> Iterator[None]:
    """Require that what runs inside looks up no statistic that it did not declare as a need."""
    try:
        yield
    except KeyError as error:
        raise AssertionError(f"{name}: the rule is broken that it reads only what its needs declare.") from error


def config_of(subject: Strategy | StrategyConfig) -> StrategyConfig:
    """Return the config of a strategy, or the config itself."""
    config = subject.config if isinstance(subject, Strategy) else subject
    assert isinstance(config, StrategyConfig), f"{subject!r} is neither a strategy nor its config."
    return config


def changed(config: StrategyConfig, **fields: object) -> StrategyConfig:
    """Return a validated copy of a config with other values in some fields."""
    return type(config).model_validate(config.model_dump() | fields)


def require(holds: bool, name: str, rule: str) -> None:
    """Raise an ``AssertionError`` that names the strategy and the rule, unless the rule holds."""
    if not holds:
        raise AssertionError(f"{name}: the rule is broken that {rule}.")


@contextmanager
def random_state_untouched(name: str) -> Iterator[None]:
    """Require that what runs inside draws from no global random generator."""
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()  # noqa: NPY002
    yield
    after = torch.get_rng_state(), random.getstate(), np.random.get_state()  # noqa: NPY002
    same = torch.equal(before[0], after[0]) and before[1] == after[1] and repr(before[2]) == repr(after[2])
    require(same, name, "random choices come from the given generator; the global random state is left alone")


def seeded() -> torch.Generator:
    """Return a new generator for a strategy to draw from, always in the same state."""
    return torch.Generator().manual_seed(2)
