"""How a strategy's name becomes its class.

Names come from three places, looked up in this order: classes registered in this process (``@register``,
plugin files), then the entry points of installed distributions, saei's own among them.
Nothing here imports torch, and listing imports no strategy.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import EntryPoint, PackageNotFoundError, entry_points, version
from pathlib import Path
from types import ModuleType
from typing import Annotated, TypeVar

from pydantic import BeforeValidator, SerializeAsAny

from saei.config.strategy import Open, Strategy, StrategyConfig
from saei.errors import ConfigError, PluginLoadError, cause_of, nearest, shown

KINDS: Mapping[str, str] = {
    "selector": "saei.selectors",
    "statistic": "saei.statistics",
    "attack": "saei.attacks",
    "sampler": "saei.samplers",
    "criterion": "saei.criteria",
    "control": "saei.controls",
    "decoder": "saei.decoders",
    "objective": "saei.objectives",
    "advantage": "saei.advantages",
    "weight": "saei.weights",
    "term": "saei.terms",
    "strength": "saei.strengths",
    "gate": "saei.gates",
    "guard": "saei.guards",
    "surface": "saei.surfaces",
    "reward": "saei.rewards",
    "task": "saei.tasks",
    "template": "saei.templates",
}
"""Each kind of strategy and its entry-point group."""


S = TypeVar("S", bound=type[Strategy])


@dataclass(frozen=True, slots=True)
class Entry:
    """One registered strategy, not yet imported.

    Attributes:
        kind: ``selector``, ``attack``, …
        name: The name it is configured by.
        origin: The distribution, or the module of a class registered in this process.
        target: ``module:Class``.
    """

    kind: str
    name: str
    origin: str
    target: str


_registered: dict[tuple[str, str], type[Strategy]] = {}


def register(cls: S) -> S:
    """Register a strategy class in this process, for notebooks and plugin files.

    Defining and registering the same class again, as a notebook does, replaces it.

    Raises:
        ConfigError: If another class already has the name.
    """
    if (
        cls.kind not in KINDS
        or "type" not in cls.Config.model_fields
        or cls.Config.model_fields["type"].annotation is str
    ):
        raise ConfigError(
            "Only a concrete strategy can be registered.",
            reason=f"{cls.__qualname__} has kind '{cls.kind}' and no named Config.",
            remedy='Derive from an abstract class of saei and nest a Config with `type: Literal["name"] = "name"`.',
        )
    key = (cls.kind, cls.name())
    target = _target(cls)
    others = [entry for entry in entries(cls.kind) if entry.name == key[1] and entry.target != target]
    if others:
        raise _duplicate(cls.kind, key[1], {others[0].origin, cls.__module__}, [others[0].target, target])
    _registered[key] = cls
    return cls


def entries(kind: str) -> list[Entry]:
    """Return all strategies of a kind, sorted by name, without importing any.

    Raises:
        ConfigError: If two distributions claim the same name.
    """
    by_name: dict[str, Entry] = {}
    for entry in _installed_entries(kind):
        other = by_name.setdefault(entry.name, entry)
        if other.origin != entry.origin or other.target != entry.target:
            raise _duplicate(kind, entry.name, {other.origin, entry.origin}, [other.target, entry.target])
    for (registered_kind, name), cls in _registered.items():
        if registered_kind == kind:
            by_name[name] = Entry(kind, name, cls.__module__, _target(cls))
    return sorted(by_name.values(), key=lambda entry: entry.name)


def load(kind: str, name: str) -> type[Strategy]:
    """Return the strategy class of a kind and name.

    Raises:
        ConfigError: If the name is unknown; the message has the nearest match and the list.
        PluginLoadError: If its module does not import, from the cause.
    """
    if (kind, name) in _registered:
        return _registered[kind, name]
    known = {entry.name: entry for entry in entries(kind)}
    if name not in known:
        raise ConfigError(f"'{shown(name)}' is not a registered {kind}.", remedy=nearest(name, known))
    entry = known[name]
    point = EntryPoint(name=name, value=entry.target, group=KINDS[kind])
    try:
        cls = point.load()
    except (Exception, SystemExit) as error:  # whatever the module does when it is imported
        raise PluginLoadError(
            f"The {kind} '{name}' has to be importable.",
            reason=f"{entry.target} of {entry.origin}: {cause_of(error)}.",
            remedy=f"Fix or uninstall {entry.origin}.",
        ) from error
    if not (isinstance(cls, type) and issubclass(cls, Strategy) and cls.kind == kind and cls.name() == name):
        raise PluginLoadError(
            f"The entry point '{name}' of group {KINDS[kind]} has to be a {kind} whose Config names it '{name}'.",
            reason=f"{entry.target} of {entry.origin} is {cls!r}.",
            remedy=f"Correct the entry point of {entry.origin}.",
        )
    return cls


def registered_here(kind: str, name: str) -> bool:
    """Return whether a strategy was registered in this process, by a plugin or a notebook."""
    return (kind, name) in _registered


def source_of(kind: str, name: str) -> tuple[str, str]:
    """Return the distribution that provides a strategy, and its version; "unknown" for what does not say."""
    origin = next((entry.origin for entry in _installed_entries(kind) if entry.name == name), "unknown")
    try:
        return origin, version(origin)
    except PackageNotFoundError:
        return origin, "unknown"


def load_plugin(plugin: str) -> None:
    """Import a local file (``./mine.py``) or a module, so that its ``@register`` lines run.

    Raises:
        PluginLoadError: If the file is missing or does not import, from the cause.
    """
    try:
        if not plugin.endswith(".py"):
            importlib.import_module(plugin)
            return
        load_file(Path(plugin))
    except (Exception, SystemExit) as error:  # whatever the file does when it is imported
        raise PluginLoadError(
            f"The plugin '{shown(plugin)}' has to be importable.",
            reason=f"{cause_of(error)}.",
            remedy="Fix that line, or give the path of a Python file or the name of an importable module.",
        ) from error


def load_file(file: Path) -> ModuleType:
    """Return the module of a Python file, which runs once in a process, as an imported module does.

    Raises:
        Exception: Whatever the file raises; the next call runs it anew.
    """
    path = Path(os.path.expanduser(file)).resolve()
    name = f"saei_file_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)  # dataclasses and pickles look for it there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def resolve(kind: str, *, optional: bool = False) -> Callable[[object], StrategyConfig | None]:
    """Return the validator that turns a name, a mapping with ``type`` or a config into the config of a kind."""

    def validator(value: object) -> StrategyConfig | None:
        if value is None and optional:
            return None
        if isinstance(value, Strategy):
            value = value.config
        if isinstance(value, StrategyConfig):
            if value.strategy.kind != kind:
                raise ValueError(f"'{value.type}' is a {value.strategy.kind}, not a {kind}.")
            return value
        if isinstance(value, str):
            value = {"type": value}
        if not isinstance(value, Mapping) or not isinstance(value.get("type"), str):
            names = ", ".join(entry.name for entry in entries(kind))
            article = "An" if kind[0] in "aeiou" else "A"
            raise ValueError(
                f"{article} {kind} is a name or a mapping with `type`; got {shown(repr(value))}. Known: {names}."
            )
        return load(kind, value["type"]).Config.model_validate(value)

    return validator


SelectorField = Annotated[SerializeAsAny[StrategyConfig], Open("selector"), BeforeValidator(resolve("selector"))]
OptionalSelectorField = Annotated[
    SerializeAsAny[StrategyConfig] | None, Open("selector"), BeforeValidator(resolve("selector", optional=True))
]
AttackField = Annotated[SerializeAsAny[StrategyConfig], Open("attack"), BeforeValidator(resolve("attack"))]
SamplerField = Annotated[SerializeAsAny[StrategyConfig], Open("sampler"), BeforeValidator(resolve("sampler"))]
DecoderField = Annotated[SerializeAsAny[StrategyConfig], Open("decoder"), BeforeValidator(resolve("decoder"))]
CriterionField = Annotated[SerializeAsAny[StrategyConfig], Open("criterion"), BeforeValidator(resolve("criterion"))]
ControlField = Annotated[
    SerializeAsAny[StrategyConfig] | None, Open("control"), BeforeValidator(resolve("control", optional=True))
]
ObjectiveField = Annotated[SerializeAsAny[StrategyConfig], Open("objective"), BeforeValidator(resolve("objective"))]
AdvantageField = Annotated[SerializeAsAny[StrategyConfig], Open("advantage"), BeforeValidator(resolve("advantage"))]
WeightField = Annotated[SerializeAsAny[StrategyConfig], Open("weight"), BeforeValidator(resolve("weight"))]
TermField = Annotated[SerializeAsAny[StrategyConfig], Open("term"), BeforeValidator(resolve("term"))]
StrengthField = Annotated[SerializeAsAny[StrategyConfig], Open("strength"), BeforeValidator(resolve("strength"))]
GateField = Annotated[SerializeAsAny[StrategyConfig], Open("gate"), BeforeValidator(resolve("gate"))]
OptionalGuardField = Annotated[
    SerializeAsAny[StrategyConfig] | None, Open("guard"), BeforeValidator(resolve("guard", optional=True))
]
GuardField = Annotated[SerializeAsAny[StrategyConfig], Open("guard"), BeforeValidator(resolve("guard"))]
SurfaceField = Annotated[SerializeAsAny[StrategyConfig], Open("surface"), BeforeValidator(resolve("surface"))]
RewardField = Annotated[SerializeAsAny[StrategyConfig], Open("reward"), BeforeValidator(resolve("reward"))]
TaskField = Annotated[SerializeAsAny[StrategyConfig], Open("task"), BeforeValidator(resolve("task"))]
TemplateField = Annotated[SerializeAsAny[StrategyConfig], Open("template"), BeforeValidator(resolve("template"))]


def _installed_entries(kind: str) -> Sequence[Entry]:
    if kind not in KINDS:
        raise ConfigError(f"'{shown(kind)}' is not a kind of strategy.", remedy=nearest(kind, KINDS))
    return _scan(kind, tuple((folder, _changed_at(folder)) for folder in sys.path))


@lru_cache(maxsize=4 * len(KINDS))
def _scan(kind: str, state: tuple[tuple[str, int], ...]) -> Sequence[Entry]:
    """Return a kind's entries of all installed distributions, whose files are all read for it.

    Args:
        kind: Of strategies.
        state: Where distributions are looked for, and when something was last installed there.
    """
    return [
        Entry(kind, point.name, point.dist.name if point.dist else "unknown", point.value)
        for point in entry_points(group=KINDS[kind])
    ]


def _changed_at(folder: str) -> int:
    try:
        return os.stat(folder or ".").st_mtime_ns
    except OSError:
        return 0


def _target(cls: type) -> str:
    return f"{cls.__module__}:{cls.__qualname__}"


def _duplicate(kind: str, name: str, origins: set[str], targets: list[str]) -> ConfigError:
    return ConfigError(
        f"A {kind} name belongs to one class.",
        reason=f"'{name}' is claimed by {' and '.join(sorted(origins))} ({' and '.join(targets)}).",
        remedy="Rename one (third-party names are written package/name) or uninstall one distribution.",
    )
