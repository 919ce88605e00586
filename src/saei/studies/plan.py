"""From a study to its runs: every arm on every base with every seed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any

from saei.builtin import General, LockIn, Maze, ModelRecipe
from saei.builtin.recipe import RECIPE_FILE
from saei.config.run import RunConfig
from saei.errors import ConfigError
from saei.studies.final.settings import FinalSettings
from saei.studies.freeze import UNFROZEN, Frozen
from saei.studies.runs import PlannedRun, configuration_hash
from saei.studies.study import OTHER_COUPLINGS, RECIPES, StudyFile

MODEL_RECIPES: Mapping[str, Callable[[], ModelRecipe]] = {"general": General, "lock-in": LockIn, "maze": Maze} | {
    f"lock-in-{coupling}": partial(LockIn, coupling) for coupling in OTHER_COUPLINGS
}
MOST_REJECTED = 4
"""Candidates of a recipe that may be rejected for each that is wanted; beyond, the recipe is at fault."""

IDENTITY_DIGITS = 16
"""Hex digits of a run's hash that name its folder."""


@dataclass(frozen=True, slots=True)
class Base:
    """A model that reinforcement starts from.

    Attributes:
        label: What people call it.
        path: Its folder or hub id.
        known_as: What stands for its path in the identity of a run, since the folder may be another on each machine.
        recipe: What it is built by, None for a model that is there.
        seed: The seed that it is built from.
        noted: Whether the gate of its recipe accepted it by the study's ledger, wherever it was built; None if that has
            no line of it.
    """

    label: str
    path: str
    known_as: str
    recipe: str | None = None
    seed: int = 0
    noted: bool | None = None

    @property
    def accepted(self) -> bool | None:
        """Whether the gate of its recipe accepts it, None while nobody has built it."""
        return self.built if self.noted is None else self.noted

    @property
    def built(self) -> bool | None:
        """What the gate said of the model that is here, None while there is none."""
        if self.recipe is None:
            return True
        try:
            return bool(json.loads((Path(self.path) / RECIPE_FILE).read_bytes())["gate"]["accepted"])
        except (OSError, ValueError, KeyError, TypeError):
            return None


@dataclass(frozen=True, slots=True)
class StudyRun:
    """A run of a study.

    Attributes:
        arm: Its arm.
        base: What it starts from.
        repeat: Which of the seeds on this base, from 0.
        planned: The run.
        finished_as: The hash that it has in the ledger of a frozen study. Code that has moved on, with a field or a
            default more, gives its configuration another one.
    """

    arm: str
    base: Base
    repeat: int
    planned: PlannedRun
    finished_as: str | None = None

    @property
    def identity(self) -> str:
        """The hash that it is known by, cut to what names its folder."""
        return self.finished_as or self.planned.identity[:IDENTITY_DIGITS]


def lineage(known_as: str) -> str:
    """Return what a base is known as without the version of its recipe.

    Example:
        >>> lineage("built:lock-in:5bce98f7:1469352644")
        'built:lock-in:1469352644'
    """
    words = known_as.split(":")
    return ":".join((*words[:2], *words[3:])) if words[0] == "built" and len(words) == 4 else known_as


def derived_seed(origin: str, purpose: str, *numbers: int) -> int:
    """Return a seed of 31 bits that follows from a commit and nothing else.

    Args:
        origin: The hash of the commit that froze the study.
        purpose: What it seeds.
        numbers: Which of several.
    """
    words = " ".join((origin, purpose, *map(str, numbers)))
    return int.from_bytes(hashlib.sha256(words.encode()).digest()[:4], "big") >> 1


def origin_of(read: StudyFile, frozen: Frozen | None) -> str:
    """Return what the seeds of a study derive from."""
    return "quick" if read.quick else frozen.commit if frozen else UNFROZEN


def candidates(recipe: str, root: Path, origin: str, noted: Mapping[str, bool]) -> Iterator[Base]:
    """Yield the bases of a recipe in the order in which they are tried, without end."""
    settings = json.dumps(MODEL_RECIPES[recipe]().settings(), sort_keys=True, default=str)
    version = hashlib.sha256(settings.encode()).hexdigest()[:8]  # a recipe that is changed makes other bases
    for number in count():
        seed = derived_seed(origin, f"base {recipe}", number)
        folder = root / "bases" / f"{recipe}-{version}-{seed}"
        known_as = f"built:{recipe}:{version}:{seed}"
        yield Base(
            f"base {number}", str(folder), known_as, recipe, seed, noted.get(known_as, noted.get(lineage(known_as)))
        )


def tried_bases(read: StudyFile, root: Path, origin: str, noted: Mapping[str, bool]) -> list[Base]:
    """Return the bases of a study with the rejected ones among them, in the order in which they are tried.

    Args:
        read: The study.
        root: Folder of all studies' runs and bases.
        origin: What seeds derive from.
        noted: Of bases by what they are known as, or by their lineage, whether the gate accepted them by the study's
            ledger.

    Raises:
        ConfigError: If the gate rejects most bases of the recipe.
    """
    bases = read.study.bases
    if read.quick:
        path = RECIPES[bases.recipe] if bases.recipe else bases.models[0]
        return [Base("base 0", path, path)]
    if bases.recipe is None:
        return [Base(f"base {number}", path, path) for number, path in enumerate(bases.models)]
    tried: list[Base] = []
    chosen = 0
    for base in candidates(bases.recipe, root, origin, noted):
        if len(tried) - chosen > MOST_REJECTED * bases.number:
            raise ConfigError(
                "A recipe yields bases that its gate accepts.",
                reason=f"It rejected {len(tried) - chosen} of '{bases.recipe}', and accepted {chosen}.",
                remedy="Mend the recipe, or choose another.",
            )
        tried.append(base)
        chosen += base.accepted is not False
        if chosen == bases.number:
            break
    return tried


def plan_runs(read: StudyFile, root: Path, origin: str, bases: Sequence[Base] | None = None) -> list[StudyRun]:
    """Return the runs of a study, base by base, so that whole bases are done first.

    Args:
        read: The study.
        root: Folder of all studies' runs and bases. Runs of equal configurations are one folder there, whichever
            studies ask for them.
        origin: What seeds derive from.
        bases: The study's; by default those that are not rejected, of what is built in ``root``.
    """
    if bases is None:
        bases = [base for base in tried_bases(read, root, origin, {}) if base.accepted is not False]
    runs = []
    for number, base in enumerate(bases):
        for repeat in range(1 if read.quick else read.study.seeds):
            seed = derived_seed(origin, "run", number, repeat)  # the same for all arms, which are compared pairwise
            for arm, config in read.configs.items():
                runs.append(_run(arm, base, repeat, seed, config, read.final, root))
    return runs


def _run(
    arm: str, base: Base, repeat: int, seed: int, config: RunConfig, final: FinalSettings | None, root: Path
) -> StudyRun:
    def on(path: str) -> RunConfig:
        return config.model_copy(update={"seed": seed, "model": config.model.model_copy(update={"path": path})})

    known_as = configuration_hash(on(base.known_as), final)
    output = config.output.model_copy(
        update={"root": root / "runs", "name": known_as[:IDENTITY_DIGITS], "keep_checkpoints": 1}
    )
    label = f"{arm}, {base.label}" + (f", seed {repeat}" if repeat else "")
    planned = PlannedRun(label, on(base.path).model_copy(update={"output": output}), known_as, final)
    return StudyRun(arm, base, repeat, planned)


def cpu_hours(runs: Sequence[StudyRun], ledger_lines: Sequence[dict[str, Any]]) -> float | None:
    """Return about how many CPU-hours runs take, None where no run with times was finished.

    A run takes as long as the finished ones of its arm, and else as long as its responses took in other arms.

    Args:
        runs: The runs that are not done.
        ledger_lines: Of runs that were finished: seconds, responses and arm.
    """
    timed = [line for line in ledger_lines if line.get("seconds") and line.get("responses")]
    if not timed:
        return None
    of_all = median(line["seconds"] / line["responses"] for line in timed)
    seconds = 0.0
    for run in runs:
        of_arm = [line["seconds"] / line["responses"] for line in timed if line.get("arm") == run.arm]
        seconds += run.planned.responses * (median(of_arm) if of_arm else of_all)
    return seconds / 3600
