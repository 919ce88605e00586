"""Which settings a command reads. ``--set`` of any other is refused, since it would change nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Reads:
    """The settings that a command reads.

    Attributes:
        command: As it is typed.
        paths: Sections and fields, with all that is below them.
        options: Fields below these paths that it does not read, with the option that it reads in their place, if any.

    Example:
        Reads("saei ask", ("model", "template", "sampling"), {"seed": "--seed"})
    """

    command: str
    paths: tuple[str, ...]
    options: Mapping[str, str | None]

    def check(self, assignments: Sequence[str]) -> None:
        """Refuse assignments of what the command does not read.

        Raises:
            ConfigError: Naming the setting, and the option that sets it if there is one.
        """
        from saei.config.overrides import parse_assignment
        from saei.errors import ConfigError, shown

        for assignment in assignments:
            for path in _leaves(parse_assignment(assignment)):
                option = self.options.get(path)
                if path not in self.options and any(_within(path, read) for read in (*self.paths, "plugins")):
                    continue
                raise ConfigError(
                    f"--set changes what {self.command} reads: {', '.join(self.paths)}.",
                    reason=f"--set {shown(assignment)} sets {shown(path)}, which it does not read.",
                    remedy=f"Use {option}." if option else "Leave it out.",
                )


def _leaves(settings: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield the dotted path of each value."""
    for name, value in settings.items():
        path = f"{prefix}{name}"
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{path}.")
        else:
            yield path


def _within(path: str, read: str) -> bool:
    """Return whether a path is one that is read or below it; a strategy's name is short for its ``type``."""
    return path == read or path.startswith(f"{read}.") or f"{path}.type" == read


_ASKED = ("model", "task", "template", "reward", "sampling.max_new_tokens", "sampling.max_prompt_tokens")
_DRAWN = {"sampling.temperature": "--temperature", "sampling.top_p": "--top-p", "sampling.top_k": "--top-k"}
_EVALUATED = {**_DRAWN, "evaluation.examples": "--examples", "evaluation.responses": "--responses", "seed": "--seed"}

QUICK_LOOK = Reads("a quick look by saei eval", (*_ASKED, "training.max_bad_share"), _EVALUATED)
EVALUATION = Reads("saei eval", (*QUICK_LOOK.paths, "output.root"), _EVALUATED)
ROBUSTNESS = Reads("saei eval --robust", (*EVALUATION.paths, "entropy"), _EVALUATED)
FLOOR = Reads("saei data floor", ("task",), {"evaluation.examples": "--examples"})
DATA = Reads("saei data", _ASKED, {})

_ONE_QUESTION = ("model", "template", "sampling.temperature", "sampling.max_new_tokens", "entropy")
_INTERVENTION = ("surfaces", "selector", "criterion", "attack", "control", "strength")
ASK = Reads("saei ask", _ONE_QUESTION, {"seed": "--seed"})
INSPECT = Reads(
    "saei inspect",
    (*_ONE_QUESTION, "sampler.type", *(f"sampler.intervention.{name}" for name in _INTERVENTION)),
    {"seed": "--seed"},
)

_TRAINED = ("model", "template", "sampler", "decoder", "objective", "sampling", "entropy", "optimizer", "training")
BENCH = Reads(
    "saei bench",
    (*_TRAINED, "seed"),
    {"sampling.max_new_tokens": "--tokens", "training.prompts_per_step": "--prompts", "training.steps": "--rounds"},
)
DOCTOR = Reads("saei doctor", (*_TRAINED, "seed"), {"training.steps": None})
