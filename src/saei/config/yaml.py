"""Reading and writing YAML: the one place where the text of a configuration becomes plain data, and back.

YAML as it is read here is plain data alone, and what is written in it is what it says. ``true`` and ``false`` are the
only truth values and numbers are decimal, as in YAML 1.2: ``no`` and ``1:30`` are text, and so is a date. A tag other
than those of plain data, a key that is no text, and a key that stands twice in a mapping are errors. Anchors, aliases
and ``<<`` are read. Size, depth, and what aliases expand to are limited, so that no text takes long.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from yaml.composer import Composer
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from yaml.parser import Parser
from yaml.reader import Reader
from yaml.resolver import BaseResolver
from yaml.scanner import Scanner

from saei.errors import ConfigError, shown

MAX_CHARACTERS = 200_000
MAX_DEPTH = 40
MAX_VALUES = 10_000
"""Values of a text, those that aliases repeat counted each time. A whole configuration has some two hundred."""

MAX_DIGITS = 100

_TAG = "tag:yaml.org,2002:"
_INTEGER = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(
    r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)
_TRUTH = {word: word.lower() == "true" for word in ("true", "True", "TRUE", "false", "False", "FALSE")}
_NULL = ("", "~", "null", "Null", "NULL")


class _Refused(Exception):  # noqa: N818  # the reason in a ConfigError, which knows the file
    """What plain YAML does not allow."""


_FAILURES = (_Refused, yaml.YAMLError, ValueError, OverflowError)
"""What reading raises; the last two come from escapes and directives with numbers that are none."""


def read_yaml(file: Path, *, quick: bool = False, until: str | None = None) -> dict[str, Any]:
    """Read a mapping from a YAML file; an empty file is an empty mapping.

    Args:
        file: The file.
        quick: Read it by libyaml where PyYAML has it, in a seventh of the time: for what ``write_yaml`` wrote, of which
            many files are read at once. The limits are the same, the words of errors are libyaml's.
        until: A key of the whole mapping that is not read, nor is what follows it.

    Raises:
        ConfigError: If the file is missing, not YAML or not a mapping.
    """
    try:
        with file.open("rb") as opened:
            content = opened.read(4 * MAX_CHARACTERS + 1)
        text = content.decode("utf-8-sig")
        if until is not None:
            text = text.partition(f"\n{until}:")[0]
        data = _parse(text, loader=_QuickLoader if quick else _Loader)
    except (OSError, *_FAILURES) as error:
        raise ConfigError(
            "A configuration has to be a readable YAML file.",
            reason=f"{file}: {reason_of(error)}.",
            remedy="Fix the file, or give another one.",
        ) from error
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(
            "A configuration file holds a mapping of sections.",
            reason=f"{file} holds a {type(data).__name__}.",
            remedy="For example `training: {steps: 40}`; docs/configuration.md has all sections.",
        )
    return data


def parse_value(text: str, option: str) -> Any:
    """Return the plain data of a value on the command line.

    Args:
        text: YAML.
        option: Names the value in errors, such as ``--set training.steps``.

    Raises:
        ConfigError: If it is not YAML.
    """
    try:
        return _parse(text)
    except _FAILURES as error:
        raise ConfigError(
            f"The value of {shown(option)} has to be YAML.",
            reason=f"Got '{shown(text)}': {reason_of(error)}.",
            remedy="Quote it for the shell, for example --set 'advantage={scale: none}'.",
        ) from error


def write_yaml(data: Any, *, flow: bool = False) -> str:
    """Return plain data as YAML, in its own order, which every reader of YAML reads back as the same data.

    Args:
        data: Mappings, lists, text, numbers, truth values and None.
        flow: In brackets on one line, as far as it fits.
    """
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, default_flow_style=flow, allow_unicode=True)


def reason_of(error: Exception) -> str:
    """Return what is wrong with a text or file, on one line and cut."""
    if isinstance(error, UnicodeDecodeError):
        return f"it is not UTF-8 at byte {error.start}"
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        problem = " ".join(filter(None, (error.context, error.problem)))
        return f"line {mark.line + 1}, column {mark.column + 1}: {shown(problem, 200)}"
    return shown(str(error).rstrip("."), 200)


def _parse(text: str, loader: type[Any] | None = None) -> Any:
    if len(text) > MAX_CHARACTERS:
        raise _Refused(f"it is longer than {MAX_CHARACTERS} characters")
    opened = (loader or _Loader)(text)
    try:
        node = opened.get_single_node()
    finally:
        opened.dispose()
    return None if node is None else _plain(node)


class _LimitedComposer(Composer):
    """Composes a text's nodes; within the limits, before anything is built from them."""

    def __init__(self) -> None:
        super().__init__()
        self._depth = 0
        self._values = 0
        self._anchored: dict[str, int] = {}
        """Values below each anchor that is complete."""

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        event: Any = self.peek_event()  # type: ignore[attr-defined]  # the parser's, which it is combined with
        anchor, alias = event.anchor, isinstance(event, yaml.AliasEvent)
        before = self._values
        self._values += 1
        if alias and anchor in self.anchors:
            if anchor not in self._anchored:
                raise _Refused(f"line {event.start_mark.line + 1}: '{shown(anchor)}' stands within itself")
            self._values = before + self._anchored[anchor]
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise _Refused(f"it is nested more than {MAX_DEPTH} deep")
        if self._values > MAX_VALUES:
            raise _Refused(f"it has more than {MAX_VALUES} values")
        node: Node | None = super().compose_node(parent, index)
        self._depth -= 1
        if anchor is not None and not alias:
            self._anchored[anchor] = self._values - before
        return node


class _Loader(Reader, Scanner, Parser, _LimitedComposer, BaseResolver):
    """Reads a text by Python alone, with its own words for what is wrong."""

    def __init__(self, text: str) -> None:
        Reader.__init__(self, text)
        Scanner.__init__(self)
        Parser.__init__(self)
        _LimitedComposer.__init__(self)
        BaseResolver.__init__(self)


for _name, _pattern, _first in (
    ("bool", re.compile("|".join(_TRUTH)), "tTfF"),
    ("null", re.compile("~|null|Null|NULL|"), ["~", "n", "N", ""]),
    ("int", _INTEGER, "-+0123456789"),
    ("float", _FLOAT, "-+.0123456789"),
    ("merge", re.compile("<<"), "<"),
):
    # fullmatch, since `match` takes a number for the beginning of a longer word.
    _Loader.add_implicit_resolver(_TAG + _name, re.compile(f"(?:{_pattern.pattern})$"), list(_first))

if yaml.__with_libyaml__:
    from yaml.cyaml import CParser  # type: ignore[attr-defined]  # public, but not declared so

    class _QuickLoader(_LimitedComposer, CParser, BaseResolver):
        """Reads a text by libyaml."""

        yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers

        def __init__(self, text: str) -> None:
            CParser.__init__(self, text)
            _LimitedComposer.__init__(self)
            BaseResolver.__init__(self)

else:
    _QuickLoader = _Loader  # type: ignore[assignment,misc]  # PyYAML without libyaml


class _Dumper(yaml.SafeDumper):
    """Quotes what this reader or one of YAML 1.1 would take for more than text."""


_Dumper.add_implicit_resolver(_TAG + "float", re.compile(f"(?:{_FLOAT.pattern})$"), list("-+.0123456789"))


def _plain(node: Node, depth: int = 0) -> Any:
    """Return a node's plain data; what an alias names is built anew for each.

    Raises:
        _Refused: If it is no plain data.
    """
    if depth > MAX_DEPTH:  # which aliases of aliases reach
        raise _Refused(f"it is nested more than {MAX_DEPTH} deep")
    kind = str(node.tag).removeprefix(_TAG)
    if isinstance(node, MappingNode) and kind == "map":
        return _mapping(node, depth)
    if isinstance(node, SequenceNode) and kind == "seq":
        return [_plain(item, depth + 1) for item in node.value]
    if isinstance(node, ScalarNode):
        return _scalar(node, kind)
    raise _Refused(f"line {_line(node)}: the tag {shown(str(node.tag))} is not read")


def _mapping(node: MappingNode, depth: int) -> dict[str, Any]:
    data: dict[str, Any] = {}
    merged: dict[str, Any] = {}
    for key_node, value_node in node.value:
        value = _plain(value_node, depth + 1)
        if key_node.tag == _TAG + "merge":
            for source in value if isinstance(value, list) else [value]:
                if not isinstance(source, dict):
                    raise _Refused(f"line {_line(key_node)}: `<<` takes a mapping")
                merged = {**source, **merged}  # of several, the first that has a key decides
            continue
        key = _plain(key_node, depth + 1)
        if not isinstance(key, str):
            raise _Refused(f"line {_line(key_node)}: a key has to be text, got {shown(repr(key))}")
        if key in data:
            raise _Refused(f"line {_line(key_node)}: '{shown(key)}' stands twice in one mapping")
        data[key] = value
    return {**merged, **data}


def _scalar(node: ScalarNode, kind: str) -> str | int | float | bool | None:
    text = str(node.value)
    if kind == "str":
        return text
    if kind == "null" and text in _NULL:
        return None
    if kind == "bool" and text in _TRUTH:
        return _TRUTH[text]
    if kind in ("int", "float") and len(text) > MAX_DIGITS:
        raise _Refused(f"line {_line(node)}: a number has at most {MAX_DIGITS} digits, got {shown(text)}")
    if kind == "int" and _INTEGER.fullmatch(text):
        return int(text)
    if kind == "float" and (_FLOAT.fullmatch(text) or _INTEGER.fullmatch(text)):
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    raise _Refused(f"line {_line(node)}: {shown(text)} is not a plain {shown(kind)}")


def _line(node: Node) -> int:
    return int(node.start_mark.line) + 1
