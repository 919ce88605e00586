"""What a strategy is: a class with its own frozen config, and the sections of a configuration that hold one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Any, ClassVar, Literal, TypeAlias, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationInfo, field_validator, model_validator

from saei.errors import shown

_FRACTION = re.compile(r"[-+]?(?:\d{1,20}/\d{1,20}|(?:\d{1,20}\.?\d{0,20}|\.\d{1,20})(?:[eE][-+]?\d{1,2})?)")
"""The texts that are read as fractions. Python's own parser takes hours for an exponent of nine digits."""


def fraction(value: object) -> Fraction:
    """Return the exact number that a text such as ``2/255`` or ``0.05``, or a number, stands for.

    Raises:
        ValueError: If it is none.
    """
    if isinstance(value, Fraction):
        return value
    text = str(value).strip()
    if isinstance(value, str | int | float) and _FRACTION.fullmatch(text):
        with suppress(ZeroDivisionError):
            return Fraction(text)
    raise ValueError(f"A fraction is a number such as 2/255 or 0.05; got {shown(repr(value))}")


Frac = Annotated[Fraction, BeforeValidator(fraction)]
"""An exact number, written ``2/255`` in files, on the command line and in dumps."""


STRATEGY_KIND = "x-saei-kind"
"""Key of a field's JSON Schema that names the kind of strategies that it holds."""


@dataclass(frozen=True, slots=True)
class Open:
    """Marks a field of a section as holding any strategy of a kind."""

    kind: str

    def __get_pydantic_json_schema__(self, core_schema: Any, handler: Any) -> dict[str, Any]:
        """Return the field's JSON Schema with the kind, for `saei schema`, which knows what is registered."""
        return {**handler(core_schema), STRATEGY_KIND: self.kind}


class Section(BaseModel):
    """A frozen part of a configuration; unknown fields are errors.

    Numbers are finite, and truth values are no numbers.

    A mapping for a section or strategy is laid over the field's default, so that ``{"attack": {"steps": 3}}`` is
    three steps of the default attack, and a strategy whose section has defaults of its own keeps the others.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    needs_consent: ClassVar[bool] = False
    """Whether the section names code or a server; a folder of another user may use it only with the user's consent."""

    @model_validator(mode="before")
    @classmethod
    def _over_defaults(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        filled = dict(data)
        for name, field in cls.model_fields.items():
            value, default = filled.get(name), field.get_default(call_default_factory=True)
            if isinstance(value, Mapping) and isinstance(default, Section):
                filled[name] = _lay_over(default, value)
            elif isinstance(value, Mapping) and strategy_kind(cls, name) and isinstance(default, str):
                filled[name] = {"type": default, **value}
        return filled

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse ``true`` where a number is due, which pydantic takes for 1."""
        values = value if isinstance(value, list | tuple) else (value,)
        if any(isinstance(each, bool) for each in values):
            assert info.field_name is not None
            if not _takes_truth(cls.model_fields[info.field_name].annotation):
                raise ValueError(f"Neither true nor false can stand here; got {shown(repr(value))}")
        return value


StrategyClass: TypeAlias = "type[Strategy]"


class StrategyConfig(Section):
    """Base of every strategy's config; ``type`` is the strategy's registered name."""

    type: str

    strategy: ClassVar[StrategyClass]

    def build(self) -> Any:
        """Return a new strategy with this config."""
        return self.strategy(self)

    @property
    def steers_entropy(self) -> bool:
        """Whether the strategy holds the policy's entropy at a level, so that a run's is no evidence against collapse.

        What reads the control probe does; others override this. A bonus of a fixed size does not.
        """
        return bool(self.strategy.reads_control_probe)

    @classmethod
    def placed(cls, above: Mapping[str, Any], below: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return what a layer of a configuration sets, where it belongs; most strategies leave it as it is.

        Args:
            above: The layer's fields.
            below: Those of the layers below it.
        """
        return above


class Strategy:
    """Base of every pluggable part; one abstract class per kind derives from it.

    To add one: derive from the kind's abstract class, give it a nested ``Config`` with a
    ``type: Literal["name"] = "name"``, implement the abstract method, and either decorate the class with
    ``@register`` or declare an entry point in the kind's group. The contract suite of ``saei.testing``
    then applies to it.
    """

    kind: ClassVar[str] = ""
    reads_control_probe: ClassVar[bool] = False
    """Whether it steers the training by the control probe: it then sees no evaluation, see ``observe``."""
    Config: ClassVar[type[StrategyConfig]] = StrategyConfig
    config: Any

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "Config" not in cls.__dict__:
            return
        config = cls.Config
        # A named Config may be left behind; the fields of the abstract one are read by the abstract class.
        bases = [base for base in cls.__mro__[1:] if issubclass(base, Strategy)]
        parent = next(base.Config for base in bases if base.Config.model_fields["type"].annotation is str)
        if not (isinstance(config, type) and issubclass(config, parent)):
            raise TypeError(f"{cls.__qualname__}.Config must derive from {parent.__qualname__}, whose fields are read.")
        if "strategy" in config.__dict__ and config.strategy is not cls:
            raise TypeError(
                f"{cls.__qualname__}.Config must be a class of its own, not {config.strategy.__qualname__}'s."
            )
        if not config.model_config.get("frozen") or config.model_config.get("extra") != "forbid":
            raise TypeError(f"{cls.__qualname__}.Config must be frozen and forbid unknown fields.")
        annotation = config.model_fields["type"].annotation
        if annotation is str:  # an abstract class that only shares fields
            return
        names = get_args(annotation)
        if get_origin(annotation) is not Literal or len(names) != 1 or config.model_fields["type"].default != names[0]:
            raise TypeError(f'{cls.__qualname__}.Config needs `type: Literal["name"] = "name"`.')
        config.strategy = cls

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

    def parts(self) -> Mapping[str, Strategy]:
        """Return the strategies that this one is made of; they are observed, saved and restored with it."""
        return {}

    def observe(self, metrics: Mapping[str, float]) -> None:
        """Take note of metrics; strategies with state override this.

        Called before the first step with the evaluation's (``eval/…``, ``probe/…``), and after each step with those of
        the step (``train/…``) and of the evaluation that follows it, if one does. A checkpoint is written afterwards,
        so that a resumed run has seen the same. Times are left out: they differ from run to run. Several processes see
        the same numbers. A strategy with ``reads_control_probe`` sees the control probe (``control/…``) in place of the
        evaluations, since what a strategy steers by is no evidence of what it achieves. Inside TRL there are
        ``train/…`` alone, as far as TRL logs them, and no checkpoint keeps a state.

        Args:
            metrics: By full names, as in the run's ``metrics.jsonl``.
        """

    def state_dict(self) -> dict[str, Any]:
        """Return the state a checkpoint must keep; plain numbers, strings, lists and tensors."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""


def observe_all(strategy: Strategy, metrics: Mapping[str, float]) -> None:
    """Pass metrics to a strategy and all of its parts, to each those that it may see; see ``Strategy.observe``."""
    families = ("train/", "control/") if strategy.reads_control_probe else ("train/", "eval/", "probe/")
    strategy.observe({name: value for name, value in metrics.items() if name.startswith(families)})
    for part in strategy.parts().values():
        observe_all(part, metrics)


def state_of(strategy: Strategy) -> dict[str, Any]:
    """Return the state of a strategy and all of its parts."""
    return {"own": strategy.state_dict(), "parts": {name: state_of(part) for name, part in strategy.parts().items()}}


def restore(strategy: Strategy, state: Mapping[str, Any]) -> None:
    """Restore what ``state_of`` returned."""
    strategy.load_state_dict(state["own"])
    for name, part in strategy.parts().items():
        if name in state["parts"]:  # an older version may have had no such part, and hence no state of it
            restore(part, state["parts"][name])


def _takes_truth(annotation: Any) -> bool:
    """Return whether a field of this type may hold a truth value, in a list or a union too."""
    return annotation in (bool, Any, object) or any(_takes_truth(each) for each in get_args(annotation))


def _lay_over(default: Section, value: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a mapping with the default's values where it has none; another ``type`` shares nothing with it."""
    if isinstance(default, StrategyConfig) and value.get("type", default.type) != default.type:
        return value
    filled: dict[str, Any] = {name: getattr(default, name) for name in type(default).model_fields}
    for name, field_value in value.items():
        old = filled.get(name)
        filled[name] = (
            _lay_over(old, field_value)
            if isinstance(field_value, Mapping) and isinstance(old, Section)
            else field_value
        )
    return filled


def strategy_kind(section: type[BaseModel], field: str) -> str | None:
    """Return the kind of an open strategy field, None for any other field."""
    for meta in section.model_fields[field].metadata:
        if isinstance(meta, Open):
            return meta.kind
    return None
