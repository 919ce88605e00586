"""Docstrings as Markdown, for a terminal to render: saei's own are nearly so, those of others of any style."""

from __future__ import annotations

import inspect
import re
from textwrap import dedent, indent

_DIRECTIVE = re.compile(r"^\.\. (?:code-block|code|sourcecode)::[ ]*(\w*)\n((?:[ ]*\n|[ ]+.*(?:\n|$))*)", re.MULTILINE)
_LITERAL = re.compile(r"(?<=\S)::\n\n((?:[ ]*\n|[ ]{2,}.*(?:\n|$))+)")
_ADMONITION = re.compile(r"^\.\. (note|warning|tip|important)::[ ]*(.*\n(?:[ ]*\n|[ ]+.*(?:\n|$))*)", re.MULTILINE)
_ROLE = re.compile(r":(?:[a-z]+:)*[a-z]+:`~?([^`<]+?)(?: <[^>]*>)?`")
_LINK = re.compile(r"`([^`<]+?) <([^>]+)>`__?")
_SECTIONS = "Args|Attributes|Examples?|Keyword Args|Notes?|Raises|References|Returns|See Also|Warnings?|Yields"
_SECTION = re.compile(rf"^({_SECTIONS}):\n((?:[ ]*\n|[ ]+.*(?:\n|$))+)", re.MULTILINE)
_ITEM = re.compile(r"^(\*{0,2}\w+)(?: \([^)]*\))?:[ ]", re.MULTILINE)


def as_markdown(documented: object) -> str:
    """Return what a docstring says before and beside its fields, as Markdown.

    reStructuredText's code blocks, roles, links and notes become Markdown's, and Google's sections paragraphs with a
    title. ``Attributes`` is left out: a config's fields are listed apart.
    """
    text = inspect.getdoc(documented) or ""
    text = _DIRECTIVE.sub(lambda found: _fenced(found[2], found[1]), text)
    text = _LITERAL.sub(lambda found: ":\n\n" + _fenced(found[1]), text)
    text = _ADMONITION.sub(lambda found: f"**{found[1].capitalize()}:** {dedent(found[2]).strip()}\n\n", text)
    text = _ROLE.sub(r"`\1`", text)
    text = _LINK.sub(r"[\1](\2)", text)
    text = _SECTION.sub(_section, text)
    return text.strip()


def _fenced(block: str, language: str = "") -> str:
    return f"```{language}\n{dedent(block).strip()}\n```\n\n"


def _section(found: re.Match[str]) -> str:
    """Return a section's title and text; each of its items, if it has any, is one of a list."""
    if found[1] == "Attributes":
        return ""
    body = dedent(found[2]).strip()
    if _ITEM.match(body):
        items = re.split(r"\n(?=\S)", body)
        body = "\n".join("- " + indent(re.sub(r"\n\s*", "\n", item), "  ").strip() for item in items)
    return f"**{found[1]}:**\n\n{body}\n\n"
