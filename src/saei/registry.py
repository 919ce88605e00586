"""Strategies: the base class, their configs, and how a name becomes a class.

A strategy is one class with its own frozen pydantic ``Config`` whose ``type: Literal["pgd"]`` is its name.
Names come from three places, looked up in this order: classes registered in this process (``@register``,
plugin files), then the entry points of installed distributions, saei's own among them.
Nothing here imports torch, and listing imports no strategy.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeAlias, TypeVar, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, SerializeAsAny, model_validator

from saei.errors import ConfigError, PluginLoadError, nearest

KINDS: Mapping[str, str] = {
    "selector": "saei.selectors",
    "attack": "saei.attacks",
    "sampler": "saei.samplers",
    "criterion": "saei.criteria",
    "objective": "saei.objectives",
    "term": "saei.terms",
    "strength": "saei.strengths",
    "gate": "saei.gates",
    "guard": "saei.guards",
    "reward": "saei.rewards",
    "task": "saei.tasks",
    "template": "saei.templates",
}
"""Each kind of strategy and its entry-point group."""


def _fraction(value: object) -> object:
    return Fraction(str(value)) if isinstance(value, float) and value == value else value


Frac = Annotated[Fraction, BeforeValidator(_fraction)]
"""An exact number, written ``2/255`` in files, on the command line and in dumps."""


class Section(BaseModel):
    """A frozen part of a configuration; unknown fields are errors.

    A strategy field given without its ``type`` means the field's default strategy, so that
    ``{"attack": {"steps": 3}}`` is three steps of the default attack.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    @model_validator(mode="before")
    @classmethod
    def _default_types(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        filled = dict(data)
        for name in cls.model_fields:
            value = filled.get(name)
            if strategy_kind(cls, name) and isinstance(value, Mapping) and "type" not in value:
                default = default_type(cls, name)
                if default is not None:
                    filled[name] = {"type": default, **value}
        return filled


StrategyClass: TypeAlias = "type[Strategy]"


class StrategyConfig(Section):
    """Base of every strategy's config; ``type`` is the strategy's registered name."""

    type: str

    strategy: ClassVar[StrategyClass]

    def build(self) -> Any:
        """Return a new strategy with this config."""
        return self.strategy(self)


class Strategy:
    """Base of every pluggable part; one abstract class per kind derives from it.

    To add one: derive from the kind's abstract class, give it a nested ``Config`` with a
    ``type: Literal["name"] = "name"``, implement the abstract method, and either decorate the class with
    ``@register`` or declare an entry point in the kind's group. The contract suite of ``saei.testing``
    then applies to it.
    """

    kind: ClassVar[str] = ""
    Config: ClassVar[type[StrategyConfig]] = StrategyConfig
    config: Any

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        own = cls.__dict__.get("Config")
        if own is None:
            return
        if not (isinstance(own, type) and issubclass(own, StrategyConfig)):
            raise TypeError(f"{cls.__qualname__}.Config must derive from saei's StrategyConfig.")
        if not own.model_config.get("frozen") or own.model_config.get("extra") != "forbid":
            raise TypeError(f"{cls.__qualname__}.Config must be frozen and forbid unknown fields.")
        annotation = own.model_fields["type"].annotation
        if annotation is str:  # an abstract class that only shares fields
            return
        names = get_args(annotation)
        if get_origin(annotation) is not Literal or len(names) != 1 or own.model_fields["type"].default != names[0]:
            raise TypeError(f'{cls.__qualname__}.Config needs `type: Literal["name"] = "name"`.')
        own.strategy = cls

    def __init__(self, config: StrategyConfig | None = None) -> None:
        if config is None:
            config = self.Config()  # type: ignore[call-arg]  # a named Config has its type as default
        if not isinstance(config, self.Config):
            raise TypeError(f"{type(self).__name__} takes a {self.Config.__qualname__}, got {config!r}.")
        self.config = config

    @classmethod
    def name(cls) -> str:
        """Return the name under which the strategy is registered."""
        return str(cls.Config.model_fields["type"].default)

    def observe(self, metrics: Mapping[str, float]) -> None:
        """Take note of a step's metrics; strategies with state override this."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state a checkpoint must keep; plain numbers, strings, lists and tensors."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""


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
    mine = _target(cls)
    others = [entry for entry in entries(cls.kind) if entry.name == key[1] and entry.target != mine]
    if others:
        raise _duplicate(cls.kind, key[1], {others[0].origin, cls.__module__}, [others[0].target, mine])
    _registered[key] = cls
    return cls


def entries(kind: str) -> list[Entry]:
    """Return all strategies of a kind, sorted by name, without importing any.

    Raises:
        ConfigError: If two distributions claim the same name.
    """
    found: dict[str, Entry] = {}
    for point in _points(kind):
        entry = Entry(kind, point.name, point.dist.name if point.dist else "unknown", point.value)
        other = found.setdefault(point.name, entry)
        if other.origin != entry.origin or other.target != entry.target:
            raise _duplicate(kind, entry.name, {other.origin, entry.origin}, [other.target, entry.target])
    for (registered_kind, name), cls in _registered.items():
        if registered_kind == kind:
            found[name] = Entry(kind, name, cls.__module__, _target(cls))
    return sorted(found.values(), key=lambda entry: entry.name)


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
        raise ConfigError(f"'{name}' is not a registered {kind}.", remedy=nearest(name, known))
    entry = known[name]
    point = EntryPoint(name=name, value=entry.target, group=KINDS[kind])
    try:
        cls = point.load()
    except Exception as error:
        raise PluginLoadError(
            f"The {kind} '{name}' has to be importable.",
            reason=f"{entry.target} of {entry.origin} raised {type(error).__name__}: {error}.",
            remedy=f"Mend or uninstall {entry.origin}.",
        ) from error
    if not (isinstance(cls, type) and issubclass(cls, Strategy) and cls.kind == kind and cls.name() == name):
        raise PluginLoadError(
            f"The entry point '{name}' of group {KINDS[kind]} has to be a {kind} whose Config names it '{name}'.",
            reason=f"{entry.target} of {entry.origin} is {cls!r}.",
            remedy=f"Correct the entry point of {entry.origin}.",
        )
    return cls


def load_plugin(plugin: str) -> None:
    """Import a local file (``./mine.py``) or a module, so that its ``@register`` lines run.

    Raises:
        PluginLoadError: If the file is missing or does not import, from the cause.
    """
    remedy = "Give the path of a Python file or the name of an importable module."
    try:
        if not plugin.endswith(".py"):
            importlib.import_module(plugin)
            return
        path = Path(plugin).expanduser().resolve()
        module_name = f"saei_plugin_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
        if module_name in sys.modules:
            return
        spec = importlib.util.spec_from_file_location(module_name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[module_name]
            raise
    except Exception as error:
        raise PluginLoadError(
            f"The plugin '{plugin}' has to be importable.",
            reason=f"{type(error).__name__}: {error}.",
            remedy=remedy,
        ) from error


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
            raise ValueError(f"A {kind} is a name or a mapping with `type`; got {value!r}. Known: {names}.")
        return load(kind, value["type"]).Config.model_validate(value)

    return validator


class Resolver(BeforeValidator):
    """The marker and validator of an open strategy field; knows the field's kind."""

    kind: str

    def __init__(self, kind: str, *, optional: bool = False) -> None:
        super().__init__(resolve(kind, optional=optional))
        object.__setattr__(self, "kind", kind)


SelectorField = Annotated[SerializeAsAny[StrategyConfig], Resolver("selector")]
OptionalSelectorField = Annotated[SerializeAsAny[StrategyConfig] | None, Resolver("selector", optional=True)]
AttackField = Annotated[SerializeAsAny[StrategyConfig], Resolver("attack")]
SamplerField = Annotated[SerializeAsAny[StrategyConfig], Resolver("sampler")]
CriterionField = Annotated[SerializeAsAny[StrategyConfig], Resolver("criterion")]
ObjectiveField = Annotated[SerializeAsAny[StrategyConfig], Resolver("objective")]
TermField = Annotated[SerializeAsAny[StrategyConfig], Resolver("term")]
StrengthField = Annotated[SerializeAsAny[StrategyConfig], Resolver("strength")]
GateField = Annotated[SerializeAsAny[StrategyConfig], Resolver("gate")]
GuardField = Annotated[SerializeAsAny[StrategyConfig], Resolver("guard")]
RewardField = Annotated[SerializeAsAny[StrategyConfig], Resolver("reward")]
TaskField = Annotated[SerializeAsAny[StrategyConfig], Resolver("task")]
TemplateField = Annotated[SerializeAsAny[StrategyConfig], Resolver("template")]


def strategy_kind(section: type[BaseModel], field: str) -> str | None:
    """Return the kind of an open strategy field, None for any other field."""
    for meta in section.model_fields[field].metadata:
        if isinstance(meta, Resolver):
            return meta.kind
    return None


def default_type(section: type[BaseModel], field: str) -> str | None:
    """Return the name of the default strategy of a field, None if it has none."""
    default = section.model_fields[field].get_default(call_default_factory=True)
    if isinstance(default, str):
        return default
    if isinstance(default, StrategyConfig):
        return default.type
    return str(default["type"]) if isinstance(default, Mapping) and "type" in default else None


def type_of(value: Any, default: str) -> str:
    """Return the strategy name that a strategy field's value asks for."""
    mapping = typed(value, default)
    return str(mapping["type"]) if mapping else default


def typed(value: Any, default: str | None) -> dict[str, Any] | None:
    """Return a strategy field's value as a mapping with its type, None where it is neither name nor mapping."""
    if isinstance(value, str):
        return {"type": value}
    if isinstance(value, StrategyConfig):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return dict(value) if "type" in value or default is None else {"type": default, **value}
    return None


def field_docs(config: type[BaseModel]) -> dict[str, str]:
    """Return what the ``Attributes`` sections of a config's docstrings say about its fields."""
    found: dict[str, str] = {}
    for cls in reversed(config.__mro__):
        name = None
        _, _, section = (inspect.getdoc(cls) or "").partition("Attributes:\n")
        for line in section.splitlines():
            start = re.match(r"    (\w+): (.*)", line)
            if start:
                name = start[1]
                found[name] = start[2]
            elif name and line.startswith("        "):
                found[name] += " " + line.strip()
            else:
                name = None
    return found


def _points(kind: str) -> list[EntryPoint]:
    if kind not in KINDS:
        raise ConfigError(f"'{kind}' is not a kind of strategy.", remedy=nearest(kind, KINDS))
    return list(entry_points(group=KINDS[kind]))


def _target(cls: type) -> str:
    return f"{cls.__module__}:{cls.__qualname__}"


def _duplicate(kind: str, name: str, origins: set[str], targets: list[str]) -> ConfigError:
    return ConfigError(
        f"A {kind} name belongs to one class.",
        reason=f"'{name}' is claimed by {' and '.join(sorted(origins))} ({' and '.join(targets)}).",
        remedy="Rename one (third-party names are written package/name) or uninstall one distribution.",
    )
