"""The configurations of a study's arms: resolved, and refused where they could not be run or compared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saei.config.overrides import combine, command_line, merge, nested
from saei.config.registry import load_plugin
from saei.config.run import RunConfig, validate
from saei.engine.combinations import check_combinations, idle_parts
from saei.engine.setup import Strategies
from saei.engine.update import check_update
from saei.errors import ConfigError, shown
from saei.studies.runs import configuration_hash

if TYPE_CHECKING:
    from saei.studies.study import Study

QUICK: Mapping[str, Any] = {
    "training": {"steps": 3, "prompts_per_step": 2},
    "evaluation": {"every": 2, "examples": 4, "responses": 2, "probe_examples": 2, "probe_responses": 2},
    "control": {"every": 1},
}
"""Laid over the settings of a study for ``--quick``."""


def training_responses(config: RunConfig) -> int:
    """Return how many responses a run samples for training."""
    return int(config.training.steps * config.training.prompts_per_step * config.sampler.build().plan().group_size)


def resolved_arm(study: Study, arm: str, file: Path, quick: bool, assignments: Iterable[str]) -> RunConfig:
    """Return the configuration of an arm, checked as far as that needs no weights and no data.

    Raises:
        ConfigError: Naming the arm.
    """
    plugins = [str((file.parent / name).resolve()) if name.endswith(".py") else name for name in study.plugins]
    layers: list[Mapping[str, Any]] = [study.settings, study.arms[arm]]
    if quick:
        layers += [QUICK, study.quick]
    try:
        for plugin in plugins:
            load_plugin(plugin)
        resolved: dict[str, Any] = {}
        for layer in layers:
            written = combine([nested(key, value) for key, value in layer.items()], where=str(file))
            resolved = merge(RunConfig, resolved, written)
        resolved = merge(RunConfig, resolved, command_line((), assignments))
        if plugins:
            resolved["plugins"] = plugins
        config = validate(resolved)
        strategies = Strategies(
            task=config.task.build(),
            template=config.template.build(),
            reward=config.reward.build(),
            sampler=config.sampler.build(),
            objective=config.objective.build(),
        )
        check_update(strategies.objective)
        check_combinations(config, strategies)
    except ConfigError as error:
        raise ConfigError(
            f"Every arm of a study has to be a run: {error.rule}",
            reason=" ".join(filter(None, (f"It is the arm '{shown(arm)}' of {file}.", error.reason))),
            remedy=error.remedy,
        ) from error
    idle = idle_parts(config)
    if idle:
        raise ConfigError(
            "Every part of an arm has to act, or the arm is not what its name says.",
            reason=f"In the arm '{shown(arm)}' of {file}, {', '.join(idle)} cannot: a step has one update.",
            remedy="Set training.updates_per_batch or training.ppo_epochs to 2 in every arm, or leave the part out.",
        )
    return config


def check_different(configs: Mapping[str, RunConfig], file: Path) -> None:
    """Refuse two arms that are the same runs.

    Raises:
        ConfigError: Naming them.
    """
    arms: dict[str, str] = {}
    for arm, config in configs.items():
        twin = arms.setdefault(configuration_hash(config), arm)
        if twin != arm:
            raise ConfigError(
                "The arms of a study have different configurations.",
                reason=f"'{shown(twin)}' and '{shown(arm)}' of {file} have the same.",
                remedy="Leave one out, or see whether a setting is misplaced or equals its default.",
            )


def check_budget(study: Study, configs: Mapping[str, RunConfig], *, changed: bool) -> None:
    """Refuse arms that sample another number of responses than the study's budget.

    Raises:
        ConfigError: Naming arm and number.
    """
    for arm, config in configs.items():
        responses = training_responses(config)
        if responses != study.budget.responses and arm not in study.unequal and not changed:
            raise ConfigError(
                "The arms of a study sample equal numbers of responses.",
                reason=f"A run of '{shown(arm)}' samples {responses} for training; budget.responses is "
                f"{study.budget.responses}.",
                remedy="Change training.steps, training.prompts_per_step or the sampler, or give the arm's reason "
                "under `unequal`.",
            )


def check_escape(study: Study, configs: Mapping[str, RunConfig]) -> None:
    """Refuse arms whose times to escape could not be compared: they need the same steps and evaluations.

    Raises:
        ConfigError: Naming two arms that differ.
    """
    seen = {
        arm: (config.training.steps, config.evaluation.every)
        for arm, config in configs.items()
        if arm not in study.unequal
    }
    first = next(iter(seen), None)
    for arm, steps in seen.items():
        if first is not None and steps != seen[first]:
            raise ConfigError(
                "Times to escape are compared over the same steps, evaluated at the same ones.",
                reason=f"'{shown(first)}' has {seen[first][0]} steps and is evaluated every {seen[first][1]}, "
                f"'{shown(arm)}' {steps[0]} and {steps[1]}.",
                remedy="Give all arms the same training.steps and evaluation.every, or leave `escape` out.",
            )
