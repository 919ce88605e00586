"""A recipe: one choice of data set, size, method and hardware, and the file that it is written to."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

from saei.config.yaml import write_yaml
from saei.errors import ConfigError
from saei.recipes.rivals import RIVAL_COMMON, RIVALS, TASKS
from saei.recipes.values import (
    ASSUMED,
    COMMON,
    DATA,
    GRPO,
    HARDWARE,
    METHODS,
    OURS,
    PAPER,
    SIZES,
    SPECIFIC,
    ZERO_STAGE,
    Part,
    Value,
)

SECTIONS = (
    "model", "task", "template", "reward", "sampler", "selector", "criterion", "attack", "strength", "objective",
    "sampling", "optimizer", "training", "evaluation", "seed",
)  # fmt: skip
"""The order in the file."""

COMMENT_COLUMN = 44

HEAD = """\
# {name}: {title}.
#
# Each comment says whose the value is: the paper's (SaEI, arXiv 2512.10414), that of another project (NoisyRollout,
# EasyR1, MM-Eureka, or that of a rival), or ours. "Assumed" stands where the paper is silent. All other fields keep
# saei's defaults. {hardware}
#
# Start it with
#   {command}

"""

UNTRIED = "This project has not trained on such hardware yet: memory and time are estimates."
BUILT_IN = "The built-in model trains on a CPU, in minutes."


@dataclass(frozen=True, slots=True)
class Recipe:
    """One choice of each; the attributes are keys of ``DATA``, ``SIZES``, ``METHODS`` and ``HARDWARE``.

    That of a rival on a built-in task has ``data`` and ``method`` from ``TASKS`` and ``RIVALS``, and no other.
    """

    data: str
    size: str
    method: str
    hardware: str

    @property
    def built_in(self) -> bool:
        """Whether it is for the built-in model."""
        return self.data in TASKS

    @property
    def name(self) -> str:
        """Such as ``geometry3k-7b-saei``, with the hardware behind it where it is not eight GPUs."""
        return "-".join(filter(None, (self.data, self.size, self.method, self.hardware)))

    @property
    def title(self) -> str:
        """What it trains, in words."""
        if self.built_in:
            return f"{RIVALS[self.method].title} on {TASKS[self.data].title}, the built-in model"
        parts = (METHODS[self.method], DATA[self.data], SIZES[self.size], HARDWARE[self.hardware])
        return f"{parts[0].title} on {parts[1].title}, {parts[2].title}, {parts[3].title}"

    def command(self, file: str) -> str:
        """Return the command that trains a file of it: eight GPUs by TRL's loop with ZeRO."""
        if self.built_in or self.hardware == "lora":
            return f"saei train --config {file}"
        return (
            "accelerate launch --num_machines 1 --num_processes 8 --mixed_precision bf16 --use_deepspeed "
            f"--zero_stage {ZERO_STAGE[self.size]} -m saei.cli train --engine trl --config {file} --name {self.name}"
        )

    def values(self) -> Mapping[str, Value]:
        """Return what the file sets, by path, in the file's order; the narrower choice decides."""
        by_path: dict[str, Value] = {}
        for layer in self._layers():
            by_path |= {value.path: value for value in layer}
        return dict(sorted(by_path.items(), key=lambda item: SECTIONS.index(item[0].partition(".")[0])))

    def _layers(self) -> tuple[tuple[Value, ...], ...]:
        if self.built_in:
            return (RIVAL_COMMON, RIVALS[self.method].values, TASKS[self.data].values)
        method = METHODS[self.method].values
        has_objective = any(value.path == "objective.type" for value in method)
        return (
            SIZES[self.size].values,
            HARDWARE[self.hardware].values,
            COMMON,
            () if has_objective else GRPO,  # another objective may lack its fields
            method,
            DATA[self.data].values,
            SPECIFIC.get((self.data, self.method), ()),
        )

    def text(self, file: str) -> str:
        """Return the file's text, YAML with a comment behind each value.

        Args:
            file: The path that it is written to, for the command in its head.
        """
        tree: dict[str, Any] = {}
        for path, value in self.values().items():
            *sections, field = path.split(".")
            place = tree
            for section in sections:
                place = place.setdefault(section, {})
            place[field] = value
        hardware = BUILT_IN if self.built_in else UNTRIED
        head = HEAD.format(name=self.name, title=self.title, hardware=hardware, command=self.command(file))
        return head + "".join(f"{line}\n" for line in self._lines(tree))

    def _lines(self, tree: Mapping[str, Any], indent: str = "") -> Iterator[str]:
        for name, value in tree.items():
            if isinstance(value, Value):
                written = write_yaml(value.value, flow=True).split("\n")[0]
                yield f"{f'{indent}{name}: {written}':<{COMMENT_COLUMN}}  # {self._source(value)}"
            else:
                yield f"{indent}{name}:"
                yield from self._lines(value, indent + "  ")

    def _source(self, value: Value) -> str:
        """Return where a value comes from; in a recipe of SaEI a value of another project is an assumption."""
        known = value.source.startswith((PAPER, OURS, ASSUMED))
        return value.source if known or self.method != "saei" else f"{ASSUMED}: {value.source}"


def recipes() -> list[Recipe]:
    """Return all recipes, by data set and size; those of the built-in tasks last."""
    trained = [
        Recipe(*choice)
        for choice in product(DATA, SIZES, METHODS, HARDWARE)
        if choice[3] or not METHODS[choice[2]].own_loop_only
    ]
    return trained + [Recipe(task, "", rival, "") for task, rival in product(TASKS, RIVALS)]


def choices() -> list[str]:
    """Return the lines that say what recipes there are."""
    lines = ["A recipe is called DATA-MODEL-METHOD, with its hardware behind that.", ""]
    for axis, parts in (("DATA", DATA), ("MODEL", SIZES), ("METHOD", METHODS), ("hardware", HARDWARE)):
        lines += _choices_of(axis, parts)
    only = ", ".join(name for name, part in METHODS.items() if part.own_loop_only)
    lines += ["", f"{only}: with -lora alone.", "For the built-in model it is called TASK-RIVAL.", ""]
    for axis, parts in (("TASK", TASKS), ("RIVAL", RIVALS)):
        lines += _choices_of(axis, parts)
    return [*lines, "", f"Such as: saei init {Recipe(next(iter(DATA)), '7b', 'saei', 'lora').name}"]


def _choices_of(axis: str, parts: Mapping[str, Part]) -> Iterator[str]:
    for number, (name, part) in enumerate(parts.items()):
        shown = name if axis != "hardware" else f"-{name}" if name else "(nothing)"
        yield f"{'' if number else axis:<10}{shown:<18}{part.title}"


def find(name: str) -> Recipe:
    """Return the recipe of a name.

    Raises:
        ConfigError: If there is none.
    """
    known = {recipe.name: recipe for recipe in recipes()}
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"Did you mean '{close[0]}'? " if close else ""
        raise ConfigError(f"'{name}' is not a recipe.", remedy=f"{hint}`saei init` says what a name is made of.")
    return known[name]
