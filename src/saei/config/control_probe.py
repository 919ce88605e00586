"""What steers the policy's entropy, and the control probe: what of it such strategies may read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, Field

from saei.config.sections import MOST_STEPS
from saei.config.strategy import Section, StrategyConfig


class ControlProbeConfig(Section):
    """The control probe, which is drawn only if a strategy of the run reads it, such as the strength ``thermostat``.

    Its examples are of the ``train`` split and none of them is evaluated. All numbers are ours.

    Attributes:
        every: Steps between two readings; the first comes before training.
        examples: Examples of the control probe, the same throughout the run.
        responses: Fresh responses per example to its clean view, at temperature 1. They count in ``train/budget``.
    """

    every: int = Field(default=5, ge=1, le=MOST_STEPS)
    examples: int = Field(default=16, ge=1, le=1_000_000)
    responses: int = Field(default=4, ge=1, le=4096)


def readers_of_control_probe(config: BaseModel) -> list[str]:
    """Return kind and name of each strategy in a configuration that reads the control probe."""
    strategies = (part.strategy for part in _strategy_configs(config))
    return [f"{strategy.kind} '{strategy.name()}'" for strategy in strategies if strategy.reads_control_probe]


def steering_parts(config: BaseModel) -> list[str]:
    """Return kind and name of each strategy in a configuration that steers the policy's entropy."""
    strategies = (part for part in _strategy_configs(config) if part.steers_entropy)
    return [f"{part.strategy.kind} '{part.strategy.name()}'" for part in strategies]


def _strategy_configs(value: Any) -> Iterator[StrategyConfig]:
    """Yield every strategy's config in a configuration, however deep it lies."""
    if isinstance(value, BaseModel):
        if isinstance(value, StrategyConfig):
            yield value
        for name in type(value).model_fields:
            yield from _strategy_configs(getattr(value, name))
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _strategy_configs(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _strategy_configs(item)
