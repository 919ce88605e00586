"""Showing text on the terminal: the one place through which all that is no JSON goes.

What is shown holds text from outside: data, paths, names, model output. It is shown as text alone: what would act on
the terminal is spelled, and nothing in it is markup.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from saei.errors import printable

if TYPE_CHECKING:
    from rich.console import Console


def say(text: object = "", *, error: bool = False) -> None:
    """Print a text as a line.

    Args:
        text: What is printed.
        error: Print to standard error, where all goes that is no result.
    """
    print(printable(str(text)), file=sys.stderr if error else sys.stdout, flush=True)


def screen(**options: Any) -> Console:
    """Return a console of rich for tables, in which strings are text and never markup.

    Args:
        options: Further arguments of rich's ``Console``.
    """
    from rich.console import Console
    from rich.text import Text

    class Screen(Console):
        def render_str(self, text: str, **options: Any) -> Text:
            return super().render_str(printable(text), **options)

    return Screen(highlight=False, markup=False, emoji=False, **options)
