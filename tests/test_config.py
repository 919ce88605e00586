"""The layers of a configuration, its round trip, and what it says when something is wrong."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import yaml

from saei.config import registry
from saei.config.overrides import changed, load_config, nested
from saei.config.run import RunConfig, dump, validate
from saei.errors import ConfigError, PluginLoadError, SaeiError

PLUGIN = """
from typing import Literal
from saei.entropy.selectors.base import Selector
from saei.config.registry import register
from fractions import Fraction
from saei.config.strategy import Frac

@register
class Mine(Selector):
    class Config(Selector.Config):
        type: Literal["mine"] = "mine"
        share: Frac = Fraction(1, 3)
        words: tuple[str, ...] = ()

    def select(self, stats, *, progress, generator):
        return stats.valid_NT
"""


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_registered", {})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "run.yaml"


def written(file: Path, content: Any) -> Path:
    file.write_text(yaml.safe_dump(content))
    return file


def intervention(config: RunConfig) -> Any:
    return config.sampler.intervention  # type: ignore[attr-defined]


def said(*assignments: str, **layers: Any) -> str:
    with pytest.raises(SaeiError) as caught:
        load_config(assignments=assignments, **layers)
    return str(caught.value)


def test_each_layer_lies_over_the_one_before(file: Path) -> None:
    assert load_config().seed == 0
    written(file, {"seed": 1, "training": {"steps": 7, "ppo_epochs": 2}})
    assert load_config(file=file).seed == 1
    config = load_config(file=file, flags=[{"seed": 2, "training": {"steps": 8}}])
    assert (config.seed, config.training.steps, config.training.ppo_epochs) == (2, 8, 2)
    assert load_config(file=file, flags=[{"seed": 2}], assignments=["seed=3", "seed=4"]).seed == 4


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("attack.step=4/255", "attack.step", Fraction(4, 255)),
        ("selector.scope=group", "selector.scope", "group"),
        ("gate=zero-variance", "gate.type", "zero-variance"),
        ("intervention.reselect=true", "reselect", True),
        ("sampler.intervention.attack.steps=3", "attack.steps", 3),
    ],
)
def test_aliases_in_set_and_in_files(file: Path, text: str, path: str, value: object) -> None:
    name, _, plain = text.partition("=")
    first, _, rest = name.partition(".")
    in_file = {first: {rest: yaml.safe_load(plain)} if rest else plain}
    if "." in rest:
        in_file = {"sampler": {"intervention": {"attack": {"steps": 3}}}}
    for config in (load_config(assignments=[text]), load_config(file=written(file, in_file))):
        found = intervention(config)
        for word in path.split("."):
            found = getattr(found, word)
        assert found == value


def test_an_alias_reaches_into_the_section_that_the_file_sets_below_it(file: Path) -> None:
    written(file, {"attack": {"steps": 3}, "sampler": {"type": "mixed", "n_clean": 2}})
    config = load_config(file=file)
    assert (config.sampler.n_clean, intervention(config).attack.steps) == (2, 3)  # type: ignore[attr-defined]


def test_the_same_type_keeps_its_fields_and_another_replaces_them(file: Path) -> None:
    written(file, {"attack": {"type": "pgd", "steps": 3, "step": "1/255"}})
    same = intervention(load_config(file=file, flags=[{"sampler": {"intervention": {"attack": {"type": "pgd"}}}}]))
    assert (same.attack.steps, same.attack.step) == (3, Fraction(1, 255))
    other = intervention(load_config(file=file, assignments=["attack=fgsm"]))
    assert (other.attack.type, other.attack.step) == ("fgsm", Fraction(2, 255))


def test_a_type_that_a_default_implies_is_the_same_type(file: Path) -> None:
    written(file, {"attack": {"steps": 3}})
    assert intervention(load_config(file=file, assignments=["attack.type=pgd"])).attack.steps == 3
    assert intervention(load_config(file=file, assignments=["attack.random_start=true"])).attack.steps == 3
    assert intervention(load_config(assignments=["sampler.n_clean=2", "attack.steps=5"])).attack.steps == 5


@pytest.mark.parametrize(
    ("assignments", "said"),
    [
        (["attack.steps=3", "attack.type=fgsm"], "sampler.intervention.attack.steps: There is no such field"),
        (["attack.steps=3", "attack=fgsm"], "sampler.intervention.attack.steps: There is no such field"),
        (["selector.share=1/5", "sampler.type=clean"], "sampler.intervention: There is no such field"),
        (["attack.steps=3", "sampler=clean"], "sampler.intervention: There is no such field"),
        (["model.lora.rank=4", "model.lora=null"], "model.lora .*model.lora.rank"),
        (["optimizer.betas=[0.5, 0.5]", "optimizer.betas.x=3"], "optimizer.betas .*optimizer.betas.x"),
    ],
)
def test_no_assignment_drops_another_whatever_their_order(assignments: list[str], said: str) -> None:
    for order in (assignments, assignments[::-1]):
        with pytest.raises(ConfigError, match=said):
            load_config(assignments=order)


def test_assignments_mean_the_same_in_any_order() -> None:
    assignments = ["attack.step=4/255", "attack.type=fgsm", "selector.share=1/5", "selector=top-k", "seed=3"]
    first, last = load_config(assignments=assignments), load_config(assignments=assignments[::-1])
    assert first == last
    assert intervention(first).attack.step == Fraction(4, 255)
    assert intervention(first).selector.share == Fraction(1, 5)
    task: Any = load_config(
        assignments=["task.type=dataset", "task.path=x", "task.columns={answer: a}", "task.columns.question=q"]
    ).task
    assert (task.columns.answer, task.columns.question) == ("a", "q")
    assert load_config(assignments=["seed=1", "seed=2"]).seed == 2


def test_no_flag_is_dropped_by_an_assignment() -> None:
    with pytest.raises(ConfigError, match=r"sampler\.intervention: There is no such field"):
        load_config(flags=[nested("selector.type", "top-k")], assignments=["sampler=clean"])
    config = load_config(flags=[nested("attack.type", "fgsm")], assignments=["attack.type=pgd"])
    assert intervention(config).attack.type == "pgd"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("attack: fgsm\nsampler: {intervention: {attack: {steps: 2}}}", "attack.steps: There is no such field"),
        ("attack.steps: 2\nattack: fgsm", "attack.steps: There is no such field"),
        ("attack: {steps: 2}\nsampler: {intervention: {attack: {steps: 3}}}", "sampler.intervention.attack.steps is"),
    ],
)
def test_a_file_sets_each_field_once(file: Path, text: str, said: str) -> None:
    file.write_text(text)
    with pytest.raises(ConfigError, match=said):
        load_config(file=file)


def test_a_name_is_short_for_its_type() -> None:
    assert validate({"sampler": "clean"}) == validate({"sampler": {"type": "clean"}})
    assert load_config(assignments=["sampler=clean"]) == load_config(flags=[{"sampler": {"type": "clean"}}])
    assert load_config(assignments=["objective.terms=[kl]"]).objective.terms[0].type == "kl"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("given", "step"),
    [("2/255", Fraction(2, 255)), (0.1, Fraction(1, 10)), (1, Fraction(1)), ("0.05", Fraction(1, 20))],
)
def test_fractions_are_exact_and_dumped_as_they_are_written(file: Path, given: object, step: Fraction) -> None:
    config = load_config(file=written(file, {"attack": {"step": given}}))
    assert intervention(config).attack.step == step
    assert dump(config)["sampler"]["intervention"]["attack"]["step"] == str(step)


def test_a_dump_reads_back_as_the_same_configuration() -> None:
    config = load_config(assignments=["attack.step=3/255", "selector=top-k", "selector.count=4", "task=digits"])
    assert validate(yaml.safe_load(yaml.safe_dump(dump(config)))) == config
    assert config != load_config()


def test_a_plugins_own_fields_survive_the_round_trip(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(PLUGIN)
    config = load_config(
        plugins=[str(tmp_path / "mine.py")], assignments=["selector=mine", "selector.share=2/7", "selector.words=[a]"]
    )
    plain = dump(config)
    assert plain["sampler"]["intervention"]["selector"]["share"] == "2/7"
    assert plain["plugins"] == [str(tmp_path / "mine.py")]
    assert validate(plain) == config
    assert intervention(validate(plain)).selector.words == ("a",)


def test_a_files_plugins_are_found_beside_it(file: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(PLUGIN)
    config = load_config(file=written(file, {"plugins": ["./mine.py"], "selector": {"type": "mine", "words": ["b"]}}))
    assert config.plugins == (str(tmp_path / "mine.py"),)
    assert intervention(config).selector.words == ("b",)


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("trainin.steps=1", ["trainin: ", "no such field", "'training'", "optimizer"]),
        ("training.step=1", ["training.step: ", "no such field", "'steps'", "ppo_epochs", "saei show training"]),
        ("attack.stepz=1", ["sampler.intervention.attack.stepz: ", "'step'", "radius", "saei show pgd"]),
        ("objective.terms=[{type: kl, cofficient: 1}]", ["objective.terms.0.cofficient", "'coefficient'", "show kl"]),
        (
            "attack=pdg",
            [
                "sampler.intervention.attack: ",
                "'pdg'",
                "Did you mean 'pgd'?",
                "noise, paraphrase, patch-mask, patches, pgd, pgd-l2",
            ],
        ),
        ("objective.terms=[nope]", ["objective.terms.0: ", "'nope'", "entropy-bonus, kl"]),
        ("training.steps=many", ["training.steps: ", "valid integer", "'many'", "saei show training"]),
        ("training.steps=0", ["training.steps: ", "greater than or equal to 1", "Got 0"]),
        ("attack.step=1/0", ["sampler.intervention.attack.step: ", "fraction", "'1/0'"]),
        ("entropy.temperature=warm", ["entropy.temperature: ", "'sampling'", "valid number", "'warm'"]),
        (
            "gate=5",
            [
                "sampler.intervention.gate: ",
                "A gate is a name or a mapping",
                "5",
                "all-right, all-wrong, always, entropy-floor, zero-variance",
            ],
        ),
        ("optimizer.betas=[1]", ["optimizer.betas.1: ", "required"]),
        ("plugins=3", ["plugins: ", "valid tuple", "3"]),
        ("objective.token_selector.exclude=", ["objective.token_selector: ", "a mapping with `type`", "middle-third"]),
        ("task=dataset", ["task.path: ", "required", "saei show dataset"]),
        ("seed", ["PATH=VALUE", "'seed'", "--set attack.steps=2"]),
        ("=3", ["PATH=VALUE", "'=3'"]),
        ("seed={", ["--set seed", "YAML", "'{'"]),
    ],
)
def test_a_mistake_is_named_with_path_rule_value_and_remedy(assignment: str, expected: list[str]) -> None:
    message = said(assignment)
    for part in expected:
        assert part in message
    assert "configuration:" not in message


def test_all_mistakes_are_told_at_once() -> None:
    message = said("seed=-1", "training.steps=0")
    assert "seed: " in message
    assert "training.steps: " in message


def test_clean_sampling_has_no_intervention(file: Path) -> None:
    rule = "Only samplers that intervene have an `intervention`"
    assert rule in said("sampler=clean", "attack=fgsm")
    file.write_text("attack: fgsm\nsampler: clean\n")  # in whatever order
    assert rule in said(file=file)


@pytest.mark.parametrize("assignment", ["top_p=0.9", "top_k=5", "temperature=0"])
def test_training_samples_from_the_policy_itself(assignment: str) -> None:
    message = said(f"sampling.{assignment}")
    assert "temperature above 0, no top_p, no top_k" in message
    assert "saei eval" in message


@pytest.mark.parametrize(
    "ask",
    [
        lambda plugin: load_config(file=written(plugin.with_name("run.yaml"), {"plugins": [plugin.name]})),
        lambda plugin: load_config(plugins=[str(plugin)]),
        lambda plugin: validate({"plugins": [str(plugin)]}),
    ],
    ids=["file", "flag", "validate"],
)
def test_a_plugin_that_does_not_import_raises_from_its_cause(ask: Callable[[Path], object], tmp_path: Path) -> None:
    plugin = tmp_path / "broken.py"
    plugin.write_text("import a_module_that_is_not_there")
    with pytest.raises(PluginLoadError, match=r"broken\.py") as caught:
        ask(plugin)
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("a: [1", "readable YAML"),
        ("- 1\n- 2", "holds a list"),
        ("three", "holds a str"),
        (b"\xff\xfe", "readable YAML"),
    ],
)
def test_files_that_are_no_configuration(file: Path, content: str | bytes, expected: str) -> None:
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    message = said(file=file)
    assert expected in message
    assert str(file) in message


def test_a_missing_and_an_empty_file(file: Path) -> None:
    assert "readable YAML" in said(file=file)
    file.write_text("")
    assert load_config(file=file) == load_config()


def test_changed_fields_are_named_by_path() -> None:
    before, after = dump(load_config()), dump(load_config(assignments=["seed=1", "attack.steps=2"]))
    assert changed(before, after) == ["sampler.intervention.attack.steps", "seed"]
    with pytest.raises(ConfigError):
        validate({"nothing": 1})
