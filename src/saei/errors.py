"""Errors a user can act on: each says the rule, the reason and the remedy; and how text from outside is shown."""

from __future__ import annotations

import difflib
import os
import re
import sysconfig
import traceback
from collections.abc import Iterable

_OWN = os.path.dirname(os.path.abspath(__file__)) + os.sep
_INSTALLED = tuple(sysconfig.get_path(name) + os.sep for name in ("stdlib", "purelib", "platlib"))

_MOST = 20_000
"""Characters of a text that are shown."""

# All controls but the line feed; marks, overrides and isolates of writing direction; separators of lines; invisible
# signs but for the joiners, which scripts and emoji need; surrogates, which no stream encodes.
_ACTING = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff"
    "\ufeff\ufff9-\ufffb\U000e0000-\U000e0fff]"
)


class SaeiError(ValueError):
    """An error of the user's input or setting, never of a bug.

    The command line prints it without a traceback and leaves with exit code 2.

    Args:
        rule: What has to hold, as a sentence.
        reason: Why it does not hold here: the offending value and where it came from.
        remedy: What to do about it.
    """

    def __init__(self, rule: str, *, reason: str = "", remedy: str = "") -> None:
        self.rule, self.reason, self.remedy = map(printable, (rule, reason, remedy))
        super().__init__(" ".join(part for part in (self.rule, self.reason, self.remedy) if part))

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
    not_installed = [place for place in theirs if not place[0].startswith(_INSTALLED)]
    places = not_installed or theirs
    if isinstance(error, SyntaxError) and error.filename:
        places = [(error.filename, error.lineno or 0)]
    said = error.msg if isinstance(error, SyntaxError) else str(error)
    text = f"{type(error).__name__}: {shown(said, 300)}".rstrip(".: ")
    return f"{places[-1][0]}, line {places[-1][1]}: {text}" if places else text


def out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory ran out, of the machine or of an accelerator.

    It says nothing about the model, the file or the code that was at work: nobody may be blamed for it.
    """
    if isinstance(error, MemoryError):
        return True
    # torch's own class by its name, since nothing here imports torch; its allocator for CPUs raises a plain error.
    names = {cls.__name__ for cls in type(error).__mro__}
    return "OutOfMemoryError" in names or ("RuntimeError" in names and "not enough memory" in str(error))


def nearest(name: str, known: Iterable[str]) -> str:
    """Return "Did you mean 'x'? Known: a, b." for a name that is not among ``known``.

    Of several that are as near, one with the same letters is meant; ``forks`` is also near to ``entropix/forks``.
    """
    names = sorted(known)
    forms = {each.rpartition("/")[2]: each for each in names} | {each: each for each in names}
    typed = name[:100]  # the time of the search grows with the square of the length
    close = difflib.get_close_matches(typed, forms, n=5)
    best = next((form for form in close if sorted(form) == sorted(typed)), close[0] if close else "")
    hint = f"Did you mean '{forms[best]}'? " if best else ""
    return f"{hint}Known: {', '.join(names) or 'none'}."


def printable(text: str, most: int = _MOST) -> str:
    """Return a text from outside as it may be shown: nothing in it acts on a terminal, and it is not endless.

    Args:
        text: Data, a path, a name, what a model or a library said; with its line feeds.
        most: Characters that are shown.
    """
    line = text[:most].replace("\r\n", "\n").replace("\t", "    ")
    line = _ACTING.sub(lambda sign: _spelled(sign[0]), line)
    if len(text) <= most and len(line) <= most:
        return line
    note = f" … (cut, of {len(text)} characters)"
    return line[: max(0, most - len(note))] + note


def shown(text: str, width: int = 60) -> str:
    """Return a text for a message: as ``printable``, on one line and cut to ``width`` characters."""
    line = " ".join(printable(text[: 4 * width].expandtabs()).split())
    return line if len(line) <= width and len(text) <= 4 * width else line[: width - 1] + "…"


def _spelled(sign: str) -> str:
    return f"\\u{ord(sign):04x}" if ord(sign) < 0x10000 else f"\\U{ord(sign):08x}"
