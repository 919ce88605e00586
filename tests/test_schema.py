"""The JSON Schema of a configuration takes what saei takes and refuses what is misspelt, as jsonschema reads it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import pytest
from jsonschema import Draft202012Validator

from commands import Saei
from saei.config import registry
from saei.config.aliases import ALIASES
from saei.config.overrides import combine, nested
from saei.config.registry import KINDS, entries, load, register
from saei.config.run import RunConfig, dump, validate
from saei.config.schema import json_schema
from saei.config.strategy import StrategyConfig
from saei.config.yaml import read_yaml
from saei.entropy.selectors.base import Selector
from saei.errors import ConfigError
from saei.recipes import recipes
from saei.testing import registered

OPEN = (
    *("selector", "attack", "sampler", "criterion", "decoder", "objective", "advantage"),
    *("strength", "gate", "guard", "reward", "task", "template"),
)
"""Kinds whose field has their name, or an alias of it."""

NESTED = {"control": "intervention.control"}
"""Kinds whose field is found by a longer path: ``control`` alone is the control probe."""

LISTS = {"weight": "objective.weights", "term": "objective.terms", "surface": "intervention.surfaces"}


@pytest.fixture(scope="module")
def validator() -> Draft202012Validator:
    schema = json_schema()
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


@pytest.mark.parametrize("recipe", recipes(), ids=lambda recipe: recipe.name)
def test_every_recipe_is_valid(recipe: Any, validator: Draft202012Validator, tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(recipe.text(str(file)))
    assert list(validator.iter_errors(read_yaml(file))) == []


def test_the_whole_default_configuration_is_valid(validator: Draft202012Validator) -> None:
    assert list(validator.iter_errors(dump(RunConfig()))) == []


def at(kind: str, value: Any) -> dict[str, Any]:
    """A configuration with a strategy, in a place for its kind."""
    return nested(LISTS[kind], [value]) if kind in LISTS else nested(NESTED.get(kind, kind), value)


@pytest.mark.parametrize("kind", [*OPEN, *NESTED, *LISTS])
def test_every_strategy_is_valid_by_name_and_with_its_fields(kind: str, validator: Draft202012Validator) -> None:
    for entry in entries(kind):
        assert list(validator.iter_errors(at(kind, entry.name))) == []
    for config in registered(kind):
        assert list(validator.iter_errors(at(kind, config.model_dump(mode="json")))) == []


def test_every_kind_that_a_configuration_holds_is_tried() -> None:
    assert {*OPEN, *NESTED, *LISTS} == {*KINDS} - {"statistic"}


@pytest.mark.parametrize(
    "data",
    [
        {"trainig": {"steps": 3}},
        {"training": {"stepss": 3}},
        {"training": {"steps": "many"}},
        {"attack": {"stpe": "2/255"}},
        {"attack": {"type": "fgsm", "steps": 3}},
        {"sampler": {"intervention": {"attack": {"type": "pgd", "stpe": "2/255"}}}},
        {"sampler": {"type": "arms", "arms": {"a": {"n": 1, "intervention": {"atack": "pgd"}}}}},
        {"sampler": "mixd"},
        {"selector": "pgd"},
        {"objective": {"terms": ["kll"]}},
        {"objective": {"token_selector": "kl"}},
        {"model": {"lora": {"rang": 8}}},
        {"attak.step": "2/255"},
    ],
    ids=json.dumps,
)
def test_what_saei_refuses_is_refused(data: dict[str, Any], validator: Draft202012Validator) -> None:
    assert list(validator.iter_errors(data)) != []
    settings = combine([nested(key, value) for key, value in data.items()], where="it")
    with pytest.raises(ConfigError):
        validate(settings)


@pytest.mark.parametrize(
    "data",
    [
        {"attack": {"step": "4/255", "steps": 3}},
        {"attack": {"step": 0.01}},
        {"attack.step": "3/255"},
        {"sampler": {"type": "noisy", "intervention": {"attack": {"t0": 400}}}},
        {"sampler": {"type": "arms", "arms": {"a": {"n": 1, "intervention": {"attack": "pgd"}}}}},
        {"objective": {"token_selector": None, "terms": ["kl", {"type": "kl", "coefficient": 0.1}]}},
        {"intervention": {"reselect": True}},
        {"model": {"lora": {"rank": 8}}},
    ],
    ids=json.dumps,
)
def test_what_saei_takes_is_valid(data: dict[str, Any], validator: Draft202012Validator) -> None:
    assert list(validator.iter_errors(data)) == []
    validate(combine([nested(key, value) for key, value in data.items()], where="it"))


def test_fields_say_what_their_docstrings_say(validator: Draft202012Validator) -> None:
    schema = validator.schema
    pgd = schema["$defs"]["attack.pgd"]
    assert pgd["description"].startswith("Several signed steps inside a ball")
    assert pgd["properties"]["steps"]["description"] == "Number of steps; 0 leaves the image as it is."
    assert schema["$defs"]["TrainingConfig"]["properties"]["steps"]["description"]
    assert set(ALIASES) <= set(schema["properties"])
    names = {load("attack", entry.name).name() for entry in entries("attack")}
    assert set(schema["$defs"]["attack"]["anyOf"][0]["enum"]) == names


def test_a_third_partys_strategy_is_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_registered", {})

    @register
    class Mine(Selector):
        """Mine."""

        class Config(Selector.Config):
            type: Literal["lab/mine"] = "lab/mine"
            share: float = 0.5

        def select(self, stats, *, progress, generator):  # type: ignore[no-untyped-def]
            return self.candidates(stats)

    assert issubclass(Mine.Config, StrategyConfig)
    validator = Draft202012Validator(json_schema())
    assert list(validator.iter_errors({"selector": {"type": "lab/mine", "share": 0.25}})) == []
    assert list(validator.iter_errors({"selector": {"type": "lab/mine", "shares": 0.25}})) != []


def test_the_command_prints_it_or_writes_it(saei: Saei, tmp_path: Path) -> None:
    printed = json.loads(saei("schema").out)
    said = saei("schema", "--output", tmp_path / "saei.schema.json")
    assert said.code == 0
    assert f"# yaml-language-server: $schema={tmp_path}/saei.schema.json" in said.out
    assert json.loads((tmp_path / "saei.schema.json").read_text()) == printed == json_schema()
    refused = saei("schema", "--output", tmp_path / "no" / "file.json")
    assert refused.code == 2
    assert "Give another path" in refused.err
