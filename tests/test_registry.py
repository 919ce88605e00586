"""Names become classes: entry points of real distributions on the path, registered classes, plugin files."""

import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Literal

import pytest
from pydantic import ValidationError

from saei.config import registry
from saei.config.registry import (
    AttackField,
    OptionalSelectorField,
    SamplerField,
    SelectorField,
    entries,
    load,
    load_plugin,
    register,
)
from saei.config.strategy import Frac, Section, Strategy, StrategyConfig
from saei.errors import ConfigError, PluginLoadError


class Toy(Strategy):
    kind = "selector"

    class Config(StrategyConfig):
        type: Literal["toy"] = "toy"
        count: int = 1


class Push(Strategy):
    kind = "attack"

    class Config(StrategyConfig):
        type: Literal["push"] = "push"
        step: Frac = Fraction(2, 255)
        steps: int = 1


class Draw(Strategy):
    kind = "sampler"

    class Config(StrategyConfig):
        type: Literal["draw"] = "draw"
        attack: AttackField = "push"  # type: ignore[assignment]


class Run(Section):
    selector: SelectorField = "toy"  # type: ignore[assignment]
    attack: AttackField = "push"  # type: ignore[assignment]
    sampler: SamplerField = "draw"  # type: ignore[assignment]


@pytest.fixture(autouse=True)
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    classes = {("selector", "toy"): Toy, ("attack", "push"): Push, ("sampler", "draw"): Draw}
    monkeypatch.setattr(registry, "_registered", classes)


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Put a distribution with some lines of selector entry points, and its modules, on the path."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(name: str, points: str, **modules: str) -> None:
        info = tmp_path / f"{name.replace('-', '_')}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[saei.selectors]\n{points}\n")
        for module, text in modules.items():
            (tmp_path / f"{module}.py").write_text(text)

    return write


def names(kind: str) -> list[str]:
    return [entry.name for entry in entries(kind)]


def make_toy(default: int) -> type[Strategy]:
    """Define a class of the same module and qualified name each time, as running a cell again does."""

    class Again(Strategy):
        kind = "selector"

        class Config(StrategyConfig):
            type: Literal["again"] = "again"
            count: int = default

    return Again


# Looking up


def test_unknown_name_answers_with_the_nearest_and_the_list() -> None:
    with pytest.raises(ConfigError, match=r"'toi' is not a registered selector.*Did you mean 'toy'\?.*band.*toy"):
        load("selector", "toi")


def test_unknown_kind_answers_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'selector'"):
        entries("selektor")


def test_entry_points_are_listed_without_importing(install: Callable[..., None]) -> None:
    install("listed", "listed/one = never_imported_here:One", never_imported_here="raise RuntimeError('imported')")
    entry = next(entry for entry in entries("selector") if entry.name == "listed/one")
    assert (entry.origin, entry.target) == ("listed", "never_imported_here:One")
    assert "never_imported_here" not in sys.modules


def test_broken_entry_point_raises_from_its_cause(install: Callable[..., None]) -> None:
    install("broken", "broken/one = broken_here:One", broken_here="import there_is_no_such_module")
    with pytest.raises(
        PluginLoadError, match=r"broken_here:One of broken: .*broken_here.py, line 1: ModuleNotFoundError"
    ) as caught:
        load("selector", "broken/one")
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)


def test_entry_point_must_be_a_class_of_its_kind_and_name(install: Callable[..., None]) -> None:
    install("mislabelled", f"other/name = {__name__}:Toy\npush = {__name__}:Push")
    for name in ("other/name", "push"):
        with pytest.raises(PluginLoadError, match=f"'{name}' of group saei.selectors has to be a selector"):
            load("selector", name)


def test_two_distributions_with_one_name_raise_naming_both(install: Callable[..., None]) -> None:
    install("first-dist", "same/name = one_module:One")
    install("second-dist", "same/name = other_module:Other")
    with pytest.raises(ConfigError, match="'same/name' is claimed by first-dist and second-dist"):
        entries("selector")


def test_the_same_pair_twice_is_one(install: Callable[..., None]) -> None:
    install("twice", "twice/one = module:One\ntwice/one = module:One")
    assert names("selector").count("twice/one") == 1


# Registering


def test_register_again_replaces() -> None:
    register(make_toy(1))
    register(make_toy(2))
    assert load("selector", "again")().config.count == 2
    assert names("selector").count("again") == 1


def test_register_refuses_a_name_that_another_class_has() -> None:
    class Other(Strategy):
        kind = "selector"

        class Config(StrategyConfig):
            type: Literal["toy"] = "toy"

    with pytest.raises(ConfigError, match=r"'toy' is claimed by .*test_registry:Toy and .*Other"):
        register(Other)
    assert load("selector", "toy") is Toy


def test_register_refuses_the_name_of_an_installed_strategy(install: Callable[..., None]) -> None:
    install("owner", "again = owner_module:Again")
    with pytest.raises(ConfigError, match="'again' is claimed by owner and"):
        register(make_toy(1))


def test_register_refuses_an_abstract_class() -> None:
    class Abstract(Strategy):
        kind = "selector"

    with pytest.raises(ConfigError, match="Only a concrete strategy"):
        register(Abstract)


# Defining


def test_config_must_be_a_strategy_config() -> None:
    with pytest.raises(TypeError, match="must derive from StrategyConfig"):

        class Plain(Strategy):
            class Config:  # type: ignore[assignment]
                type: Literal["plain"] = "plain"


@pytest.mark.parametrize("setting", [{"frozen": False}, {"extra": "ignore"}])
def test_config_must_be_frozen_and_closed(setting: dict[str, object]) -> None:
    with pytest.raises(TypeError, match="must be frozen and forbid unknown fields"):

        class Loose(Strategy):
            class Config(StrategyConfig):
                model_config = setting  # type: ignore[assignment]
                type: Literal["loose"] = "loose"


@pytest.mark.parametrize(
    ("annotation", "default"),
    [(Literal["a"], "b"), (Literal["a", "b"], "a"), (Literal["a"], ...), (int, 1)],
)
def test_config_must_have_one_name_as_its_default(annotation: object, default: object) -> None:
    fields = {"__annotations__": {"type": annotation}, "__module__": __name__}
    config = type("Config", (StrategyConfig,), fields if default is ... else fields | {"type": default})
    with pytest.raises(TypeError, match=r'needs `type: Literal\["name"\] = "name"`'):
        type("Misnamed", (Strategy,), {"Config": config})


def test_strategy_takes_only_its_own_config() -> None:
    assert Toy().config.count == 1
    assert Toy(Toy.Config(count=3)).config.count == 3
    with pytest.raises(TypeError, match=r"Toy takes a Toy\.Config"):
        Toy(Push.Config())
    with pytest.raises(ValidationError, match="frozen"):
        Toy().config.count = 2


# Fields of a configuration


def test_a_name_is_short_for_its_type() -> None:
    assert Run.model_validate({"selector": "toy"}).selector == Toy.Config()
    assert Run().selector == Toy.Config()
    assert isinstance(Run().selector.build(), Toy)


def test_a_strategy_or_its_config_may_stand_in_a_field() -> None:
    config = Toy.Config(count=4)
    assert Run(selector=config).selector is config
    assert Run(selector=Toy(config)).selector is config  # type: ignore[arg-type]


def test_a_field_refuses_another_kind() -> None:
    with pytest.raises(ValidationError, match=r"'push' is an? attack, not a selector"):
        Run(selector=Push.Config())


def test_an_optional_field_may_be_none_and_a_plain_one_may_not() -> None:
    class Optional(Section):
        selector: OptionalSelectorField = None

    assert Optional().selector is None
    assert Optional.model_validate({"selector": "toy"}).selector == Toy.Config()
    with pytest.raises(ValidationError, match="A selector is a name or a mapping with `type`"):
        Run.model_validate({"selector": None})


def test_dump_keeps_the_fields_of_a_class_that_the_section_does_not_know() -> None:
    run = Run.model_validate({"selector": {"type": "toy", "count": 7}, "attack": {"step": "3/255"}})
    dump = run.model_dump(mode="json")
    assert dump["selector"] == {"type": "toy", "count": 7}
    assert dump["attack"] == {"type": "push", "step": "1/85", "steps": 1}
    assert dump["sampler"]["attack"]["steps"] == 1
    assert Run.model_validate(dump) == run


def test_a_mapping_without_type_means_the_default_strategy() -> None:
    run = Run.model_validate({"attack": {"steps": 3}, "sampler": {"attack": {"steps": 4}}})
    assert run.attack == Push.Config(steps=3)
    assert run.sampler == Draw.Config(attack=Push.Config(steps=4))


@pytest.mark.parametrize(
    ("data", "location"),
    [
        ({"attack": {"steps": "many"}}, ("attack", "steps")),
        ({"attack": {"type": "push", "stepz": 1}}, ("attack", "stepz")),
        ({"sampler": {"type": "draw", "attack": {"type": "push", "steps": "many"}}}, ("sampler", "attack", "steps")),
        ({"sampler": {"attack": "pish"}}, ("sampler", "attack")),
    ],
)
def test_errors_keep_their_full_location(data: dict[str, object], location: tuple[str, ...]) -> None:
    with pytest.raises(ValidationError) as caught:
        Run.model_validate(data)
    assert [error["loc"] for error in caught.value.errors()] == [location]


def test_fractions_are_exact() -> None:
    assert Push.Config.model_validate({"step": "2/255"}).step == Fraction(2, 255)
    assert Push.Config.model_validate({"step": 0.1}).step == Fraction(1, 10)
    assert Push.Config.model_validate_json('{"step": "2/255"}').model_dump(mode="json")["step"] == "2/255"
    with pytest.raises(ValidationError):
        Push.Config.model_validate({"step": float("nan")})


# Plugin files


PLUGIN = """
from typing import Literal
from saei.config.registry import register
from saei.config.strategy import Strategy, StrategyConfig

@register
class Local(Strategy):
    kind = "selector"

    class Config(StrategyConfig):
        type: Literal["local"] = "local"
"""


def test_a_plugin_file_is_loaded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text(PLUGIN + "print('imported')")
    monkeypatch.chdir(tmp_path)
    load_plugin("./mine.py")
    first = load("selector", "local")
    load_plugin(str(tmp_path / "mine.py"))
    assert load("selector", "local") is first


def test_files_of_one_name_are_two_plugins(tmp_path: Path) -> None:
    for folder, name in (("a", "local-a"), ("b", "local-b")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.py").write_text(PLUGIN.replace('"local"', f'"{name}"'))
        load_plugin(str(tmp_path / folder / "mine.py"))
    assert {"local-a", "local-b"} <= set(names("selector"))


def test_a_missing_plugin_file_raises(tmp_path: Path) -> None:
    with pytest.raises(PluginLoadError, match="FileNotFoundError"):
        load_plugin(str(tmp_path / "none.py"))


def test_a_broken_plugin_raises_from_its_cause_and_loads_once_mended(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("1 / 0")
    with pytest.raises(PluginLoadError, match="ZeroDivisionError") as caught:
        load_plugin(str(path))
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    path.write_text(PLUGIN)
    load_plugin(str(path))
    assert "local" in names("selector")


def test_a_config_has_the_fields_of_its_parent() -> None:
    from saei.entropy.selectors.base import Selector

    with pytest.raises(TypeError, match=r"must derive from Selector\.Config"):

        class Bare(Selector):
            class Config(StrategyConfig):
                type: Literal["bare"] = "bare"

            def select(self, stats, *, progress, generator):
                return stats.valid_NT


def test_a_config_belongs_to_one_strategy() -> None:
    from saei.attacks.pgd import PGD

    with pytest.raises(TypeError, match="not PGD's"):

        class Copy(PGD):
            Config = PGD.Config

    assert PGD.Config.strategy is PGD


def test_a_sections_own_defaults_survive_a_partial_override() -> None:
    from saei.config.overrides import merge
    from saei.config.strategy import Section
    from saei.interventions import InterventionConfig

    class Holder(Section):
        intervention: InterventionConfig = InterventionConfig(attack={"type": "pgd", "steps": 5}, gate="zero-variance")

    for given in ({"strength": {"value": 0.5}}, {"attack": {"step": "1/255"}}):
        direct = Holder.model_validate({"intervention": given}).intervention
        layered = Holder.model_validate(merge(Holder, {}, {"intervention": given})).intervention
        assert direct == layered
        assert direct.gate.type == "zero-variance"
        assert direct.attack.steps == 5
    other = Holder.model_validate({"intervention": {"attack": {"type": "fgsm"}}}).intervention
    assert other.attack.type == "fgsm"
    assert other.gate.type == "zero-variance"
