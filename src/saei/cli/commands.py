"""Commands as typer makes them, with flags shown as flags: they take no value, so their help names no type of one."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand, TyperGroup

from saei.cli.options import FLAG


class Command(TyperCommand):
    """A command; ``--help`` is shown without ``<bool>`` behind it."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters, ``--help`` among them."""
        return _without_types(super().get_params(ctx))


class Group(TyperGroup):
    """A group of commands; ``--help`` and what typer adds for completion are shown without ``<bool>`` behind them."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters, ``--help`` among them."""
        return _without_types(super().get_params(ctx))


def _without_types(parameters: list[Any]) -> list[Any]:
    for parameter in parameters:
        if getattr(parameter, "is_flag", False) and parameter.metavar is None:
            parameter.metavar = FLAG
    return parameters
