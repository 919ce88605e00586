"""The file of a study: what is asked, what would refute it, and which runs are to decide."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, PositiveFloat, PositiveInt, ValidationError, field_validator, model_validator

from saei.builtin import COUPLINGS, LockIn
from saei.config.explain import MOST_LINES
from saei.config.overrides import combine, command_line, merge, nested
from saei.config.registry import load_plugin
from saei.config.run import RunConfig, validate
from saei.config.sections import BUILTIN, BUILTIN_LOCK_IN, BUILTIN_MAZE
from saei.config.strategy import Section
from saei.config.yaml import read_yaml
from saei.engine.combinations import check_combinations, idle_parts
from saei.engine.setup import Strategies
from saei.engine.update import check_update
from saei.errors import ConfigError, nearest, shown
from saei.runtime.files import slug
from saei.studies.final.settings import FinalSettings
from saei.studies.runs import configuration_hash

MOST_CONTRASTS = 3
"""Primary contrasts of a study; each further one would widen the others' intervals."""

OTHER_COUPLINGS = tuple(name for name in COUPLINGS if name != LockIn().coupling)

RECIPES = {"general": BUILTIN, "lock-in": BUILTIN_LOCK_IN, "maze": BUILTIN_MAZE} | {
    f"lock-in-{coupling}": BUILTIN_LOCK_IN for coupling in OTHER_COUPLINGS
}
"""Recipes of tiny bases, and the built-in model that stands for a base of each in ``--quick``; ``lock-in-reversed`` is
the recipe ``lock-in`` with another coupling."""

Sentence = Annotated[str, Field(min_length=1)]

QUICK: Mapping[str, Any] = {
    "training": {"steps": 3, "prompts_per_step": 2},
    "evaluation": {"every": 2, "examples": 4, "responses": 2, "probe_examples": 2, "probe_responses": 2},
    "control": {"every": 1},
}
"""Laid over the settings of a study for ``--quick``."""


class Bases(Section):
    """The models that reinforcement starts from: the unit of replication. Either those named, or those built.

    Attributes:
        models: Local folders or hub ids.
        recipe: Builds tiny models from seeds, as ``saei build-tiny`` does; those that its gate rejects are replaced by
            the next seed and counted.
        count: How many accepted bases of the recipe.
    """

    models: tuple[str, ...] = ()
    recipe: str | None = None
    count: PositiveInt | None = None

    @field_validator("recipe")
    @classmethod
    def _known(cls, recipe: str | None) -> str | None:
        if recipe is not None and recipe not in RECIPES:
            raise ValueError(f"There is no recipe {shown(repr(recipe))}. {nearest(recipe, RECIPES)}")
        return recipe

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if bool(self.models) == (self.recipe is not None) or (self.recipe is None) != (self.count is None):
            raise ValueError("Bases are either `models`, or a `recipe` and a `count`. Give one of the two")
        if len(set(self.models)) < len(self.models):
            raise ValueError("The base is the unit of replication, so each is named once. Leave out the repeated one")
        return self

    @property
    def number(self) -> int:
        """How many there are."""
        return self.count or len(self.models)


class Budget(Section):
    """What the arms may cost.

    Attributes:
        responses: Responses that each run samples for training. Arms are compared at equal numbers of them.
        cpu_hours: About how long all runs may take together; ``--dry-run`` compares it with its estimate.
    """

    responses: PositiveInt
    cpu_hours: PositiveFloat | None = None


class Contrast(Section):
    """A declared difference of two arms, taken base by base.

    Attributes:
        arm: The arm of which the other is subtracted.
        against: The arm that is subtracted.
        measure: A metric of the evaluation after the last step, such as ``eval/accuracy``.
        smallest_effect: The smallest difference that would matter.
        margin: Two arms count as equal if the whole interval of their difference lies within plus and minus this.
    """

    arm: str
    against: str
    measure: str = Field(pattern=r"^(eval|probe)/\S+$")
    smallest_effect: PositiveFloat
    margin: PositiveFloat


class Study(Section):
    """A study, as its file declares it.

    Attributes:
        name: Names its folders.
        question: What it asks.
        refuted_by: Which result would refute the expected answer.
        settings: The configuration that all arms share, as a file of ``saei train`` has it.
        arms: What each arm sets in addition, by its name.
        unequal: Arms whose runs sample another number of responses than the budget, each with the reason. No contrast
            takes one.
        bases: The models that reinforcement starts from.
        seeds: Runs of each arm on each base.
        budget: What the arms may cost.
        contrasts: The primary contrasts, at most three; whatever else is compared is exploratory.
        final: What is measured of each trained policy after the last step of its run; None for nothing.
        quick: What ``--quick`` sets in addition to few steps and examples.
        plugins: Python files or modules with strategies; a file's path starts at the study's folder.
    """

    name: str
    question: Sentence
    refuted_by: Sentence
    settings: dict[str, Any]
    arms: dict[str, dict[str, Any]] = Field(min_length=1)
    unequal: dict[str, Sentence] = Field(default_factory=dict)
    bases: Bases
    seeds: PositiveInt = 1
    budget: Budget
    contrasts: tuple[Contrast, ...] = Field(max_length=MOST_CONTRASTS)
    final: FinalSettings | None = None
    quick: dict[str, Any] = Field(default_factory=dict)
    plugins: tuple[str, ...] = ()

    @field_validator("name")
    @classmethod
    def _names_a_folder(cls, name: str) -> str:
        if slug(name) != name:
            raise ValueError("A study's name is made of lower-case letters, digits, '.', '_' and '-'")
        return name

    @model_validator(mode="after")
    def _arms_exist(self) -> Self:
        for contrast in self.contrasts:
            for arm in (contrast.arm, contrast.against):
                if arm not in self.arms:
                    raise ValueError(
                        f"A contrast takes declared arms. {shown(repr(arm))} is none of them. {nearest(arm, self.arms)}"
                    )
                if arm in self.unequal:
                    raise ValueError(
                        f"A primary contrast compares arms at equal numbers of sampled responses, and '{arm}' is "
                        "declared unequal. Compare it as exploratory, outside of `contrasts`"
                    )
            if contrast.arm == contrast.against:
                raise ValueError(f"A contrast takes two arms, and this one has '{contrast.arm}' twice")
        for arm in self.unequal:
            if arm not in self.arms:
                raise ValueError(f"`unequal` names declared arms. {nearest(arm, self.arms)}")
        return self

    @model_validator(mode="after")
    def _final_measures_are_taken(self) -> Self:
        for contrast in self.contrasts:
            if contrast.measure.startswith("final/") and self.final is None:
                raise ValueError(
                    f"A contrast takes a measure that its runs take, and '{shown(contrast.measure)}' is one of the "
                    "final evaluation. Add `final: {}`"
                )
        return self


@dataclass(frozen=True, slots=True)
class StudyFile:
    """A study, the file it was read from, and the configuration of each arm.

    Attributes:
        study: What the file declares.
        file: Where it is.
        sha256: Of its content.
        configs: The resolved configuration of each arm, before base and seed are set.
        quick: Whether they are those of ``--quick``.
        assignments: What ``--set`` changed in them.
    """

    study: Study
    file: Path
    sha256: str
    configs: Mapping[str, RunConfig]
    quick: bool = False
    assignments: tuple[str, ...] = ()

    @property
    def final(self) -> FinalSettings | None:
        """The final evaluation of each run, with few problems in ``--quick``; None where there is none."""
        final = self.study.final
        return final.quick() if final is not None and self.quick else final


def read(file: Path, *, quick: bool = False, assignments: Iterable[str] = ()) -> StudyFile:
    """Read a study, resolve each arm's configuration, and refuse what could not be run or compared.

    Args:
        file: The YAML file.
        quick: With the few steps of ``--quick``; budgets are then not compared.
        assignments: ``--set``, over the settings of every arm.

    Raises:
        ConfigError: Naming the field or the arm, with what is wrong.
        PluginLoadError: If a plugin does not import.
    """
    data = read_yaml(file)
    try:
        study = Study.model_validate(data)
    except ValidationError as error:
        problems = "\n".join(f"{_path(item['loc'])}: {_problem(item)}" for item in error.errors()[:MOST_LINES])
        raise ConfigError(
            "The file of a study has to declare a study that can be run.",
            reason=f"{file}:\n{problems}",
            remedy="`saei study new NAME` writes a file that has all fields.",
        ) from error
    changes = tuple(assignments)
    configs = {arm: _arm(study, arm, file, quick, changes) for arm in study.arms}
    _check_different(configs, file)
    if not quick:
        _check_budget(study, configs, changed=bool(changes))
    return StudyFile(study, file, hashlib.sha256(file.read_bytes()).hexdigest(), configs, quick, changes)


def _path(location: tuple[int | str, ...]) -> str:
    return shown(".".join(map(str, location))) or "the whole"


def _problem(item: Any) -> str:
    """Return what is wrong with a field."""
    if item["type"] == "extra_forbidden":
        known = nearest(str(item["loc"][-1]), Study.model_fields) if len(item["loc"]) == 1 else ""
        return f"There is no such field. {known}".rstrip()
    if item["type"] == "missing":
        return "This field is required."
    message = str(item["msg"]).removeprefix("Value error, ").rstrip(".")
    return f"{message}." if item["type"] == "value_error" else f"{message}. Got {shown(repr(item['input']))}."


def training_responses(config: RunConfig) -> int:
    """Return how many responses a run samples for training."""
    return int(config.training.steps * config.training.prompts_per_step * config.sampler.build().plan().group_size)


def _arm(study: Study, arm: str, file: Path, quick: bool, assignments: Iterable[str]) -> RunConfig:
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


def _check_different(configs: Mapping[str, RunConfig], file: Path) -> None:
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


def _check_budget(study: Study, configs: Mapping[str, RunConfig], *, changed: bool) -> None:
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
