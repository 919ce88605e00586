"""Where values of a configuration stand, what belongs there, and what somebody may write there instead."""

from __future__ import annotations

import copy
import datetime
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from saei.config.aliases import ALIASES
from saei.config.fields import section_of
from saei.config.registry import entries, load
from saei.config.run import RunConfig
from saei.config.strategy import Open
from saei.config.yaml import write_yaml

DEEPEST = 6
"""Strategies within strategies; `dynamic` has another sampler within, which a file may call `dynamic` again."""

TEXTS = (
    "", " ", "\n", "\t", "-", ".", "..", "/", "\\", "~", "0", "-0", "+1", "1.", ".5", "1e5", "1e400", "1e999999999", "1/0",
    "0/0", "-1/3", "2/255", "1/999999999999999999999999", "0x10", "0b1", "1_000", "1:30", "2001-99-99", "2001-01-01", "yes",
    "no", "on", "off", "true", "True", "null", "None", ".nan", ".inf", "-.inf", "NaN", "inf", "9" * 5000, "x" * 5000,
    "\0", "a\0b", "a\nb", "\x1b[31mred\x1b[0m", "\x1b]0;title\x07", "\u202egnp.exe", "\u2028", "\ufeff", "\ud800", "😀" * 70,
    "é" * 300, "٣", "½", "²", "<image>", "<|image_pad|>", "[bold]", "[/nothing]", "{}", "[]", "{", "*a", "&a", "!!python/name:os.x",
    "%s", "%n", "${HOME}", "$(true)", "`x`", "../../etc/passwd", "/dev/null", "/dev/zero", "file:///etc/passwd", "http://127.0.0.1:1/v1",
    "con", "a" * 300, "runs", "builtin", "cpu", "cuda", "cuda:99", "cpu:-1", "auto", "sampling", "middle-third", "pgd", "entropy",
    "bars", "dataset", "sum", "dynamic", "no-such-strategy", "package/name", "./none.py", "none.py", "type", "tensorboard",
)  # fmt: skip

NUMBERS = (
    0, 1, -1, 2, 3, 7, 255, 2**31, 2**63, -(2**63), 2**64, 10**18, 10**100, -(10**30), 0.0, -0.0, 0.1, 0.5, 1.0, 1.5, -0.5, 1e-9, 1e-320,
    5e-324, 1e308, -1e308, math.nan, math.inf, -math.inf, 0.1 + 0.2, math.nextafter(1.0, 2.0), math.nextafter(0.0, -1.0),
)  # fmt: skip


def deep(depth: int, *, key: str | None = "a") -> Any:
    """Return mappings in mappings, or lists in lists."""
    value: Any = 1
    for _ in range(depth):
        value = [value] if key is None else {key: value}
    return value


CONTAINERS = (
    [], {}, [[]], [{}], [None], {"": 1}, {"type": None}, {"type": 3}, {"type": []}, {"type": {}}, {"type": ""}, {"type": "pgd"},
    {"type": "no-such"}, {"type": "\x1b[2J"}, {"type": "mixed", "intervention": {"attack": {"type": "pgd", "attack": {}}}},
    {"\x1b[31m": 1}, {"a.b": 1}, {"a" * 500: 1}, [1] * 1000, [[1, 2], [3]], {str(n): n for n in range(500)}, ["kl", "kl"],
    [{"type": "kl", "coefficient": math.nan}], deep(30), deep(30, key="type"), deep(200), deep(60, key=None), [deep(10)],
    {"of": {"of": {"of": "mixed"}}}, {"type": "sum", "of": [{"type": "sum", "of": []}]}, {"train": "a", "eval": 3}, {"model": "x"},
)  # fmt: skip

FOREIGN = (b"x", b"\xff", bytearray(b"x"), {1: 2}, {None: 1}, {("a",): 1}, set("a"), 1j, Decimal("NaN"), Decimal("1"), Fraction(1, 3),
           Path("x"), datetime.date(2001, 1, 1), object(), int, range(3), (x for x in ()), Ellipsis)  # fmt: skip
"""What no file holds but a caller may pass."""

plain: SearchStrategy[Any] = st.one_of(
    st.sampled_from(TEXTS),
    st.sampled_from(NUMBERS),
    st.sampled_from((None, True, False)),
    st.sampled_from(CONTAINERS),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.recursive(
        st.sampled_from((*TEXTS, *NUMBERS, None, True)),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(TEXTS), inner, max_size=3),
        max_leaves=6,
    ),
)
"""What may stand in a file in place of a value."""


@dataclass(frozen=True)
class Place:
    """A field of a configuration.

    Attributes:
        path: Dotted.
        types: The names that strategies above it need to have, by the path of their type.
        annotation: The field's type.
        metadata: Its bounds.
    """

    path: str
    types: Mapping[str, str]
    annotation: Any
    metadata: tuple[Any, ...]


@lru_cache
def places() -> list[Place]:
    """Return every field of every section and of every registered strategy."""
    return list(_below(RunConfig, "", {}, 0))


def _below(section: type[BaseModel], prefix: str, types: Mapping[str, str], depth: int) -> Iterable[Place]:
    for name, field in section.model_fields.items():
        path = f"{prefix}{name}"
        yield Place(path, types, field.annotation, tuple(field.metadata))
        kind = _kind(field.metadata)
        inner = section_of(field.annotation)
        if kind is not None and depth < 3:
            for entry in entries(kind):
                config = load(kind, entry.name).Config
                yield from _below(config, f"{path}.", {**types, f"{path}.type": entry.name}, depth + 1)
        elif inner is not None and kind is None:
            yield from _below(inner, f"{path}.", types, depth)


def _kind(metadata: Iterable[Any]) -> str | None:
    return next((meta.kind for meta in metadata if isinstance(meta, Open)), None)


def fitting(annotation: Any, metadata: Iterable[Any] = (), depth: int = 0) -> SearchStrategy[Any]:
    """Return what belongs into a field of a type, its bounds among it."""
    metadata = tuple(metadata)
    kind = _kind(metadata)
    if kind is not None:
        some = strategies_of(kind, depth + 1)
        return st.none() | some if NoneType in get_args(annotation) else some
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        extra = [
            bound for meta in arguments[1:] for bound in (meta.metadata if isinstance(meta, FieldInfo) else [meta])
        ]
        return fitting(arguments[0], (*metadata, *extra), depth)
    if origin in (Union, UnionType):
        return st.one_of(*(st.none() if each is NoneType else fitting(each, metadata, depth) for each in arguments))
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin is tuple:
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return st.lists(fitting(arguments[0], (), depth), max_size=2)
        return st.tuples(*(fitting(each, (), depth) for each in arguments)).map(list)
    if origin is not None:
        return st.just({}) | st.just({"train": "train"}) | st.just({"train": "train", "eval": "test"})
    if annotation is bool:
        return st.booleans()
    if annotation is int:
        low, high = _bounds(metadata, -5, 10**6)
        values = [low, low + 1, high, *(number for number in (0, 1, 2, 3, 5) if low <= number <= high)]
        return st.sampled_from(list(map(math.ceil, values)))
    if annotation is float:
        low, high = _bounds(metadata, -1.0, 10.0)
        usual = (0.0, 1e-3, 0.2, 0.5, 0.9, 1.0, 2.0)
        return st.sampled_from([low, high, *(number for number in usual if low <= number <= high)])
    if annotation is Fraction:
        return st.sampled_from(("0", "1", "1/3", "2/3", "2/255", "8/255", "0.05", 0.5, 1))
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return sections(annotation, depth)
    return st.sampled_from(("train", "image", "question", "answer", "auto", "cpu", "q_proj", "PGD", "FGSM", "x"))


def _bounds(metadata: Iterable[Any], low: float, high: float) -> tuple[Any, Any]:
    for meta in metadata:
        low = next((getattr(meta, name) for name in ("ge", "gt") if getattr(meta, name, None) is not None), low)
        high = next((getattr(meta, name) for name in ("le", "lt") if getattr(meta, name, None) is not None), high)
    return low, high


@st.composite
def sections(draw: Any, section: type[BaseModel], depth: int = 0, *, most: int = 4) -> dict[str, Any]:
    """Return some fields of a section with values that belong there."""
    names = [name for name in section.model_fields if name != "type"]
    chosen = draw(st.lists(st.sampled_from(names), max_size=most, unique=True)) if names and depth < DEEPEST else []
    fields = section.model_fields
    return {name: draw(fitting(fields[name].annotation, fields[name].metadata, depth + 1)) for name in chosen}


@st.composite
def strategies_of(draw: Any, kind: str, depth: int = 0) -> Any:
    """Return a registered strategy of a kind: its name, or a mapping with some of its fields."""
    name = draw(st.sampled_from([entry.name for entry in entries(kind)]))
    if draw(st.booleans()):
        return name
    return {"type": name, **draw(sections(load(kind, name).Config, depth, most=2))}


values: SearchStrategy[Any] = plain


@st.composite
def settings_of_one_place(draw: Any) -> list[tuple[str, Any]]:
    """Return paths and values: some place, the strategies that it stands in, and what is written there."""
    place = draw(st.sampled_from(places()))
    right = fitting(place.annotation, place.metadata)
    value = draw(st.one_of(values, values, right))
    path = place.path
    if draw(st.integers(0, 19)) == 0:
        path += draw(st.sampled_from((".", ".x", ".type", "..", ".0", " ", ".\x1b[31m", "." + "a" * 400, ".a" * 60)))
    types = list(place.types.items()) if draw(st.integers(0, 4)) else []
    return [*types, (_aliased(path) if draw(st.booleans()) else path, value)]


def _aliased(path: str) -> str:
    for alias, whole in ALIASES.items():
        if path == whole or path.startswith(f"{whole}."):
            return alias + path[len(whole) :]
    return path


@st.composite
def assignments(draw: Any) -> list[str]:
    """Return values of ``--set``."""
    told = [pair for each in draw(st.lists(settings_of_one_place(), min_size=1, max_size=3)) for pair in each]
    texts = [f"{path}={_text(value)}" for path, value in told]
    if draw(st.integers(0, 9)) == 0:
        texts.append(draw(st.sampled_from(TEXTS) | st.sampled_from(YAML) | st.text(max_size=30)))
    return texts


def _text(value: Any) -> str:
    """Return a value as somebody would write it behind an equals sign, text as it is."""
    return value if isinstance(value, str) else write_yaml(value, flow=True).removesuffix("\n...\n").rstrip("\n")


@st.composite
def mappings(draw: Any, *, foreign: bool = False) -> dict[str, Any]:
    """Return a nested configuration with up to three values that do not belong where they stand."""
    data = draw(sections(RunConfig, most=5))
    strange = values | st.sampled_from(FOREIGN) if foreign else values
    for _ in range(draw(st.integers(0, 3))):
        place = draw(st.sampled_from(places()))
        pairs = [*place.types.items(), (place.path, draw(strange))]
        for path, value in pairs:
            # A copy, since the next pair may be put into this one; not of what cannot be copied.
            _put(data, path.split("."), copy.deepcopy(value) if isinstance(value, dict | list) else value)
    return data


def _put(data: dict[str, Any], words: list[str], value: Any) -> None:
    for word in words[:-1]:
        inner = data.get(word)
        data[word] = inner = {"type": inner} if isinstance(inner, str) else inner if isinstance(inner, dict) else {}
        data = inner
    data[words[-1]] = value


BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [{','.join(['*' + chr(97 + n)] * 9)}]\n" for n in range(12)
)
YAML = (
    BOMB, "a: &a [*a]", "a: &a {b: *a}", "<<: 3", "<<: [1]", "<<: {a: 1}", "a: 1\na: 2", "? [1]\n: 2", "1: 2", "null: 1", "? x",
    "[" * 500, "{" * 500, "- " * 500, "a: " * 500, "[" * 100_000, "!!python/object/apply:os.system [true]", "!!binary x", "!!set {a}", "!x y",
    "!!int x", "!!float .", "!!timestamp x", "!!null x", "%YAML 9.9\n---\na: 1", "%TAG ! x\n---\n", "--- 1\n--- 2", "a: 2001-99-99", "a: " + "9" * 5000, "a: 1e" + "9" * 300,
    "\t", "a:\n\tb: 1", "a: |\n  x", "a: >-\n  x\n y", "a: 'x", 'a: "\\x"', 'a: "\\ud800"', 'a: "\\U99999999"', "a: b: c", "*x", "&x", "@", "`", "a: @x", "training: {steps: 0x10}",
    "training: {steps: 1_000}", "training: {steps: 1:30}", "training: [steps]", "- a", "x", "3", "null", "", "\0", "\x07", "\ufeffa: 1", "seed: " + "1" * 150_000, "a" * 250_000,
    "plugins: [3]", "plugins: {}", "plugins: x", "plugins: ['']", "attack: {}\nsampler: clean", "attack: x\nsampler: {intervention: {attack: y}}", "sampler.n: 3", "attack.steps: 3\nattack: pgd",
)  # fmt: skip


@st.composite
def yaml_files(draw: Any) -> bytes:
    """Return the content of a configuration file: a damaged one, an odd one, or YAML of odd values."""
    kind = draw(st.integers(0, 5))
    if kind == 0:
        return draw(st.sampled_from(YAML)).encode("utf-8", "surrogatepass")
    if kind == 1:
        return draw(st.binary(max_size=200)) + draw(st.sampled_from(YAML)).encode("utf-8", "surrogatepass")[:500]
    content = write_yaml(draw(mappings())).encode("utf-8", "surrogatepass")
    return content if kind < 4 else draw(damaged(content))


@st.composite
def damaged(draw: Any, content: bytes, *, most: int = 4) -> bytes:
    """Return a file's content with bytes changed, lost, doubled or moved."""
    raw = bytearray(content)
    for _ in range(draw(st.integers(1, most))):
        at = draw(st.integers(0, max(0, len(raw) - 1)))
        length = draw(st.sampled_from((1, 1, 2, 4, 16, 64, 1000)))
        match draw(st.integers(0, 5)):
            case 0 if raw:
                raw[at] ^= 1 << draw(st.integers(0, 7))
            case 1:
                del raw[at : at + length]
            case 2:
                raw[at:at] = draw(st.binary(min_size=1, max_size=length))
            case 3:
                raw[at:at] = raw[at : at + length] * draw(st.sampled_from((1, 2, 50)))
            case 4:
                raw[at : at + length] = draw(st.sampled_from((b"\0", b"\xff", b"\x7f"))) * length
            case 5:
                del raw[at:]
    return bytes(raw)
