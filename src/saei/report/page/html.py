"""From values to HTML. Whatever is written on a page goes through here and is text, unless this package made it."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from saei.errors import printable
from saei.report.tokens import CHANGES, ENTROPIES, FALLS, LETTERS, RISES, SHADES

if TYPE_CHECKING:
    from saei.evaluation.statistics.intervals import Interval

LONGEST = 20_000
"""Characters of one text that a page shows."""


def text(value: Any) -> Any:
    """Return a value as a page shows it: no sign of it acts, and it is not endless; what is markup stays so.

    It is what the templates do with every value before they escape it.
    """
    if isinstance(value, Markup):
        return value
    if value is None:
        return ""
    if isinstance(value, float):
        return number(value)
    return printable(value, LONGEST) if isinstance(value, str) else value


def coded(value: str) -> Markup:
    """Return a sentence as markup in which what stands between backticks is code."""
    return Markup(re.sub("`([^`]+)`", r"<code>\1</code>", str(escape(text(value)))))


def number(value: float | None, digits: int = 3) -> str:
    """Return a number with so many significant digits, ``none`` for none."""
    if value is None or not math.isfinite(value):
        return "none"
    return f"{value:.{digits}g}" if abs(value) < 10**digits else f"{value:.0f}"


def escaped(value: str) -> Markup:
    """Return a text as markup that shows it."""
    return escape(text(value))


def with_interval(value: float | None, interval: Interval | None) -> str:
    """Return a number with the ends of its 95 % interval, a share's: ``0.6 (0.5 to 0.7)``."""
    ends = "" if interval is None else f" ({number(max(0.0, interval.low))} to {number(min(1.0, interval.high))})"
    return number(value) + ends


def without_folders(value: Any) -> Any:
    """Return a path of this machine as one that says the same elsewhere: ``saei/checkpoints/step-000160``, or its name.

    Args:
        value: A setting; one that is no absolute path stays as it is.
    """
    if not isinstance(value, str) or not value.startswith(("/", "~")):
        return value
    parts = Path(value).parts
    start = parts.index("checkpoints") - 1 if "checkpoints" in parts[2:] else len(parts) - 1
    return "/".join(parts[start:])


def percent(value: float | None) -> str:
    """Return a share in percent."""
    return "none" if value is None or not math.isfinite(value) else f"{100 * value:.0f} %"


def plural(count: int, noun: str) -> str:
    """Return a count with its noun: ``1 response``, ``2 responses``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def moved_question(before: str, after: str) -> Markup:
    """Return a question with what is new in it marked."""
    from difflib import SequenceMatcher

    old, new = before[:4000].split(), after[:4000].split()
    parts = []
    for what, _, _, start, end in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        words = escaped(" ".join(new[start:end]))
        if words:
            parts.append(words if what == "equal" else Markup("<mark>{}</mark>").format(words))
    return Markup(" ").join(parts)


def render(template: str, **values: Any) -> str:
    """Return the page of a template.

    Args:
        template: Its file in ``templates/``.
        **values: What it shows.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=text,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "number": number, "coded": coded}
    environment.globals |= {"plural": plural, "moved_question": moved_question}
    environment.globals |= {"entropies": ENTROPIES, "changes": CHANGES, "letters": LETTERS}
    environment.globals |= {"token_colours": {"h": SHADES, "u": RISES, "d": FALLS}}
    page = environment.get_template(template).render(**values)
    return page.encode("utf-8", "replace").decode("utf-8")
