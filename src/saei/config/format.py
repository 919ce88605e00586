"""The format of a run's recorded configuration: which fields of older runs no longer exist.

A run's ``config.yaml`` has the number of its format; runs of 0.1, which have none, are of format 1. Whoever removes or
renames a field adds it to ``REMOVED`` and, if the last release wrote the field, raises ``FORMAT``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from saei.errors import CheckpointError, shown

FORMAT = 2
"""The format that is written. Runs of this and of earlier formats are read."""


class Removed(NamedTuple):
    """A field that no longer exists.

    Attributes:
        instead: What took its place: one or two sentences.
        carried: From what the field held, and the record's whole configuration, to the path and value of the field
            that says the same now; None where nothing does.
    """

    instead: str
    carried: Callable[[Any, Mapping[str, Any]], tuple[str, Any]] | None = None


def _updates_per_batch(minibatch_groups: Any, config: Mapping[str, Any]) -> tuple[str, Any]:
    return "training.updates_per_batch", -(-config["training"]["prompts_per_step"] // minibatch_groups)


REMOVED: Mapping[str, Removed] = {
    "training.minibatch_groups": Removed(
        "training.updates_per_batch says into how many optimiser steps a step's groups are split.", _updates_per_batch
    ),
    "training.seed_per": Removed("Every group draws from a source of randomness of its own, as `group` had it."),
}
"""Removed fields by path."""


def without_removed(record: Mapping[str, Any], *, where: str) -> tuple[dict[str, Any], list[str]]:
    """Return the configuration of a run's record without fields that no longer exist, and a note for each of them.

    Only records of older formats lose fields; in others they are as wrong as in a user's own file.

    Args:
        record: The content of ``config.yaml``, whose section ``config`` is a mapping.
        where: Names the run in notes and errors.

    Raises:
        CheckpointError: If a later version of saei wrote the record, or it is damaged.
    """
    config, number = dict(record["config"]), record.get("format", 1)
    if type(number) is not int or not 1 <= number <= FORMAT:
        raise CheckpointError(
            f"This version of saei reads runs of formats 1 to {FORMAT}.",
            reason=f"{where} has format {shown(repr(number))}.",
            remedy="Read it with the version of saei that wrote it, or a later one: `versions` in its config.yaml.",
        )
    notes: list[str] = []
    if number < FORMAT:
        for path, removed in REMOVED.items():
            config, value = _without(config, path.split("."))
            if value is None or value is _ABSENT:
                continue
            note = (
                f"{where} is of an older saei and sets {path} to {shown(repr(value))}, which is gone: {removed.instead}"
            )
            if removed.carried is not None:
                try:
                    new_path, new_value = removed.carried(value, config)
                except (KeyError, TypeError, ValueError, ArithmeticError) as error:
                    raise CheckpointError(
                        f"What {path} held has a new place, which follows from it and the fields beside it.",
                        reason=f"In {where} it is {shown(repr(value))}, and the record is damaged: {error!r}.",
                        remedy="Restore its config.yaml from a copy, or write what the run was started with.",
                    ) from error
                config = _with(config, new_path.split("."), new_value)
                note += f" Here it is {shown(repr(new_value))}."
            notes.append(note)
    return config, notes


_ABSENT = object()


def _without(section: dict[str, Any], path: list[str]) -> tuple[dict[str, Any], Any]:
    """Return a copy of nested mappings without the field at a path, and what that field held."""
    name, *rest = path
    if name not in section:
        return section, _ABSENT
    if not rest:
        return {key: value for key, value in section.items() if key != name}, section[name]
    if not isinstance(section[name], dict):
        return section, _ABSENT
    inner, value = _without(section[name], rest)
    return {**section, name: inner}, value


def _with(section: Mapping[str, Any], path: list[str], value: Any) -> dict[str, Any]:
    """Return a copy of nested mappings with another value at a path."""
    name, *rest = path
    return {**section, name: _with(section[name], rest, value) if rest else value}
