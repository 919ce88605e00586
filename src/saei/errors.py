"""Errors a user can act on: each says the rule, the reason and the remedy; and how they show what was wrong."""

from __future__ import annotations

import difflib
import os
import sysconfig
import traceback
from collections.abc import Iterable

_OWN = os.path.dirname(os.path.abspath(__file__)) + os.sep
_INSTALLED = tuple(sysconfig.get_path(name) + os.sep for name in ("stdlib", "purelib", "platlib"))


class SaeiError(ValueError):
    """An error of the user's input or setting, never of a bug.

    The command line prints it without a traceback and leaves with exit code 2.

    Args:
        rule: What has to hold, as a sentence.
        reason: Why it does not hold here: the offending value and where it came from.
        remedy: What to do about it.
    """

    def __init__(self, rule: str, *, reason: str = "", remedy: str = "") -> None:
        self.rule = rule
        self.reason = reason
        self.remedy = remedy
        super().__init__(" ".join(part for part in (rule, reason, remedy) if part))

    def __reduce__(self) -> tuple[object, ...]:
        """Survive the way between processes, where exceptions are rebuilt from their arguments."""
        return (_rebuild, (type(self), self.rule, self.reason, self.remedy))


def _rebuild(cls: type[SaeiError], rule: str, reason: str, remedy: str) -> SaeiError:
    return cls(rule, reason=reason, remedy=remedy)


class ConfigError(SaeiError):
    """A configuration that cannot be run."""


class PluginLoadError(SaeiError):
    """A strategy or plugin that was asked for and could not be imported."""


class DataError(SaeiError):
    """An example, an image or a data set that cannot be used."""


class ModelError(SaeiError):
    """A model or processor that cannot be loaded or lacks what the method needs."""


class CheckpointError(SaeiError):
    """A run directory or checkpoint that cannot be read or continued."""


class TrainingError(SaeiError):
    """A training that cannot go on; what was computed up to the last checkpoint is kept."""


def cause_of(error: BaseException) -> str:
    """Return what other people's code raised, with the file and line of theirs that it came from.

    That is the innermost line outside of saei and of Python's own import machinery, and outside of installed packages
    where there is such a line: a reward function that gives numpy a bad array is at fault, not numpy.
    """
    frames = [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    theirs = [(file, line) for file, line in frames if not file.startswith(("<frozen", _OWN))]
    own = [place for place in theirs if not place[0].startswith(_INSTALLED)]
    places = own or theirs
    if isinstance(error, SyntaxError) and error.filename:
        places = [(error.filename, error.lineno or 0)]
    said = error.msg if isinstance(error, SyntaxError) else str(error)
    text = f"{type(error).__name__}: {shown(said, 300)}".rstrip(".: ")
    return f"{places[-1][0]}, line {places[-1][1]}: {text}" if places else text


def nearest(name: str, known: Iterable[str]) -> str:
    """Return "Did you mean 'x'? Known: a, b." for a name that is not among ``known``."""
    names = sorted(known)
    close = difflib.get_close_matches(name[:100], names, n=1)  # its time grows with the square of the length
    hint = f"Did you mean '{close[0]}'? " if close else ""
    return f"{hint}Known: {', '.join(names) or 'none'}."


def shown(text: str, width: int = 60) -> str:
    """Return a text for a message: on one line, printable, cut to ``width`` characters."""
    line = " ".join(text[: 4 * width].split())
    line = "".join(sign if sign.isprintable() else f"\\u{ord(sign):04x}" for sign in line)
    return line if len(line) <= width and len(text) <= 4 * width else line[: width - 1] + "…"
