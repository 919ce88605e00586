"""Which options of ``saei eval`` belong together, and reading those that are lists."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any, Literal, TypeAlias

import typer

from saei.errors import ConfigError

Mode: TypeAlias = Literal["compare", "saved", "quick"]
"""What the command does: compare saved evaluations, make one, or take a quick look that saves nothing."""

FOR_COMPARE = ("folders", "compare", "output", "as_json")
"""All options that --compare uses."""

FOR_ROBUST = ("radius", "base")
FOR_SAVED = ("batch",)


def check_options(ctx: typer.Context, mode: Mode, *, robust: bool) -> None:
    """Refuse options that were given and would not be used.

    Raises:
        ConfigError: Naming the option and what it belongs to.
    """
    # Not every release of typer has click's own enumeration of sources; its names are the same.
    given = [name for name in ctx.params if getattr(ctx.get_parameter_source(name), "name", "") == "COMMANDLINE"]
    for name in given:
        option = {"set_": "--set"}.get(name, "--" + name.replace("_", "-"))
        got = f"Got {option} {ctx.params[name]}."
        if mode == "compare":
            if name not in FOR_COMPARE and ctx.params["compare"]:
                raise ConfigError("--compare reads saved evaluations.", reason=got, remedy=f"Leave {option} out.")
        elif name in FOR_ROBUST and not robust:
            raise ConfigError(f"{option} belongs to --robust.", reason=got, remedy="Add --robust.")
        elif name in FOR_SAVED and mode == "quick":
            raise ConfigError(f"{option} belongs to an evaluation that is saved.", reason=got, remedy="Add --output.")
    if "benchmark" in given and "task" in given and mode == "saved":
        raise ConfigError(
            "--benchmark names the task.", reason=f"Got --task {ctx.params['task']}, too.", remedy="Leave one out."
        )


def check_truncation(decoding: Mapping[str, Any]) -> None:
    """Refuse --top-p and --top-k with greedy decoding, where they change nothing.

    Raises:
        ConfigError: If one was given.
    """
    for name, value in (
        ("--top-p", decoding["top_p"] if decoding["top_p"] < 1 else None),
        ("--top-k", decoding["top_k"]),
    ):
        if value is not None and not decoding["temperature"]:
            raise ConfigError(
                f"{name} restricts what is drawn, and greedy decoding draws nothing.",
                reason=f"{name} is {value}, the temperature 0.",
                remedy="Give --temperature 1, or leave it out.",
            )


def whole_numbers(text: str | None) -> tuple[int, ...]:
    """Return the numbers of ``1,2,4``.

    Raises:
        ConfigError: If it is something else.
    """
    try:
        return tuple(int(word) for word in (text or "").replace(",", " ").split())
    except ValueError as error:
        raise ConfigError(
            "--pass-at takes whole numbers.", reason=f"Got '{text}'.", remedy="For example --pass-at 1,2,4,8."
        ) from error


def fractions(text: str) -> tuple[Fraction, ...]:
    """Return the radii of ``2/255,4/255``.

    Raises:
        ConfigError: If it is something else.
    """
    try:
        return tuple(Fraction(word) for word in text.replace(",", " ").split())
    except (ValueError, ZeroDivisionError) as error:
        raise ConfigError(
            "--radius takes fractions.", reason=f"Got '{text}'.", remedy="For example --radius 2/255,8/255."
        ) from error
