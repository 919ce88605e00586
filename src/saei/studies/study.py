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
from saei.config.run import RunConfig
from saei.config.sections import BUILTIN, BUILTIN_LOCK_IN, BUILTIN_MAZE
from saei.config.strategy import Section
from saei.config.yaml import read_yaml
from saei.errors import ConfigError, nearest, shown
from saei.runtime.files import slug
from saei.studies.arms import check_budget, check_different, check_escape, resolved_arm
from saei.studies.declarations import ESCAPE_SHARE, ESCAPE_TIME, Check, Contrast, EscapeRule, Measure
from saei.studies.final.settings import FinalSettings

MOST_CONTRASTS = 3
"""Primary contrasts of a study; each further one would widen the others' intervals."""

OTHER_COUPLINGS = tuple(name for name in COUPLINGS if name != LockIn().coupling)

RECIPES = {"general": BUILTIN, "lock-in": BUILTIN_LOCK_IN, "maze": BUILTIN_MAZE} | {
    f"lock-in-{coupling}": BUILTIN_LOCK_IN for coupling in OTHER_COUPLINGS
}
"""Recipes of tiny bases, and the built-in model that stands for a base of each in ``--quick``; ``lock-in-reversed`` is
the recipe ``lock-in`` with another coupling."""

Sentence = Annotated[str, Field(min_length=1)]


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
        measures: Further measures, shown beside those of the contrasts and always exploratory.
        checks: What an arm has to do to be what its name says. No contrast with one that fails is confirmatory.
        escape: When a run counts as escaped, for outcomes with two humps. It gives ``escape/time``, the steps to the
            escape or to the last step, and ``escape/share``.
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
    measures: tuple[Measure, ...] = ()
    checks: dict[str, tuple[Check, ...]] = Field(default_factory=dict)
    escape: EscapeRule | None = None
    final: FinalSettings | None = None
    quick: dict[str, Any] = Field(default_factory=dict)
    plugins: tuple[str, ...] = ()

    @field_validator("name")
    @classmethod
    def _names_a_folder(cls, name: str) -> str:
        if slug(name) != name:
            raise ValueError("A study's name is made of lower-case letters, digits, '.', '_' and '-'")
        return name

    @field_validator("checks", mode="before")
    @classmethod
    def _single_check(cls, checks: Any) -> Any:
        """Take a single check of an arm without the list around it."""
        if not isinstance(checks, Mapping):
            return checks
        return {arm: (check,) if isinstance(check, Mapping) else check for arm, check in checks.items()}

    @property
    def all_measures(self) -> tuple[str, ...]:
        """The measures of the contrasts, the further ones, and those of an escape."""
        declared = (*(contrast.measure for contrast in self.contrasts), *self.measures)
        escape = (ESCAPE_TIME, ESCAPE_SHARE) if self.escape else ()
        return tuple(dict.fromkeys((*declared, *escape))) or ("eval/accuracy",)

    @property
    def metrics(self) -> frozenset[str]:
        """The names of all that is asked of a run: measures, checks, and the metric of an escape."""
        checked = [check.metric for checks in self.checks.values() for check in checks]
        return frozenset((*self.all_measures, *checked, *([self.escape.metric] if self.escape else [])))

    @model_validator(mode="after")
    def _measures_are_taken(self) -> Self:
        if self.escape is None and any(measure.startswith("escape/") for measure in self.all_measures):
            raise ValueError("`escape/` measures need to know what an escape is. Give `escape` with a threshold")
        if sum(contrast.headline for contrast in self.contrasts) > 1:
            raise ValueError("A study gives one headline answer. Set `headline` of one contrast")
        return self

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
        for field, arms in (("unequal", self.unequal), ("checks", self.checks)):
            for arm in arms:
                if arm not in self.arms:
                    raise ValueError(f"`{field}` names declared arms. {nearest(arm, self.arms)}")
        return self

    @model_validator(mode="after")
    def _final_measures_are_taken(self) -> Self:
        for measure in self.all_measures:
            if measure.startswith("final/") and self.final is None:
                raise ValueError(
                    f"A contrast takes a measure that its runs take, and '{shown(measure)}' is one of the final "
                    "evaluation. Add `final: {}`"
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
    configs = {arm: resolved_arm(study, arm, file, quick, changes) for arm in study.arms}
    check_different(configs, file)
    if not quick:
        check_budget(study, configs, changed=bool(changes))
    if study.escape is not None:
        check_escape(study, configs)
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
