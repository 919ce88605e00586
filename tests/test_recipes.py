"""Every shipped recipe: its file is what it says, all of it resolves, and it trains two steps of a tiny model."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pytest
import yaml

from models import tiny_folder
from runs import Quiet
from saei.cli import init
from saei.config.overrides import load_config, nested
from saei.config.run import RunConfig
from saei.engine import Trainer
from saei.engine.combinations import idle_parts
from saei.errors import ConfigError
from saei.integrations.trl.arguments import grpo_arguments
from saei.recipes import Recipe, find, recipes
from test_presets import CHART, MMK12, OLD_GEOMETRY, picture, write

ALL = recipes()
PUBLISHED = [recipe for recipe in ALL if not recipe.built_in]
PROJECTS = ("NoisyRollout", "EasyR1", "MM-Eureka")
RIVAL_PAPERS = (
    "KL-Cov", "Clip-Cov", "Forking tokens", "VPPO", "Entropy advantage", "Pass@k training", "Skywork-OR1", "PAPO",
)  # fmt: skip
SAMPLES: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]] = {
    "geometry3k": (OLD_GEOMETRY, {"images": [picture()], "problem": "<image>Find $x$.", "answer": "2 \\sqrt { 221 }"}),
    "mmk12": (MMK12, {"question": "<image>The area is ___.", "answer": "6", "subject": "math", "image": picture()}),
    "clevr-count": (OLD_GEOMETRY, {"images": [picture()], "problem": "<image>How many items?", "answer": "5"}),
    "chartqa": (CHART, {"image": picture(), "query": "What is it?", "label": ["14"], "human_or_machine": 0}),
}
"""For each data set the schema and a row of it."""
SMALL = (
    "model.min_pixels=4096",
    "model.max_pixels=4096",
    "training.steps=2",
    "training.prompts_per_step=2",
    "sampling.max_new_tokens=4",
    "evaluation.examples=1",
    "evaluation.responses=1",
    "evaluation.probe_examples=1",
    "evaluation.probe_responses=2",
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder("Qwen2.5-VL", tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("samples")
    for data, (features, row) in SAMPLES.items():
        for split in ("train", "test"):
            rows = [dict(row) | ({"id": str(number)} if "id" in features else {}) for number in range(3)]
            write(folder / data, split, features, *rows)
    return folder


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def read(recipe: Recipe, folder: Path, *assignments: str) -> RunConfig:
    file = folder / f"{recipe.name}.yaml"
    file.write_text(recipe.text(str(file)))
    return load_config(file=file, assignments=assignments)


def test_there_is_one_for_each_choice() -> None:
    names = [recipe.name for recipe in ALL]
    assert len(set(names)) == 4 * 2 * 3 * 2 + 4 * 2 + 2 * 9
    assert {"geometry3k-7b-saei", "clevr-count-3b-grpo-12-lora", "chartqa-7b-noisyrollout"} < set(names)
    assert {"geometry3k-7b-kl-cov-lora", "geometry3k-7b-noisyrollout-lora"} < set(names)
    assert {"bars-kl-cov", "bars-entropy-shaped", "digits-papo", "bars-forking-tokens"} < set(names)
    assert "geometry3k-7b-kl-cov" not in names  # it would run in TRL, which does not have it
    assert [find(name) for name in names] == ALL


@pytest.mark.parametrize("recipe", ALL, ids=lambda recipe: recipe.name)
def test_a_file_resolves_to_its_values(recipe: Recipe, tmp_path: Path) -> None:
    config = read(recipe, tmp_path)
    for kind in ("task", "template", "reward", "sampler", "objective"):
        getattr(config, kind).build()
    assert config.sampler.build().group_size == 12
    dumped = config.model_dump(mode="json")
    for path, value in recipe.values().items():
        found, left = dumped, nested(path, value.value)
        while isinstance(left, dict):
            ((field, left),) = left.items()
            found = found[field]
        assert found == value.value or listed(found, value.value), path
    written = yaml.safe_load(recipe.text("x.yaml"))
    assert sum(map(leaves, written.values())) == len(recipe.values())


def listed(found: list[dict[str, Any]], written: list[Any]) -> bool:
    """Whether strategies are those that are written, by name or with some of their fields."""
    fields = [{"type": each} if isinstance(each, str) else each for each in written]
    assert len(found) == len(fields)
    return all(one[name] == value for one, own in zip(found, fields, strict=True) for name, value in own.items())


def leaves(tree: Any) -> int:
    return sum(map(leaves, tree.values())) if isinstance(tree, dict) else 1


@pytest.mark.parametrize("recipe", ALL, ids=lambda recipe: recipe.name)
def test_each_value_says_whose_it_is(recipe: Recipe) -> None:
    lines = [line for line in recipe.text("x.yaml").splitlines() if re.match(r" *\w+: ", line)]
    assert len(lines) == len(recipe.values())
    own = ("the paper", "ours", "assumed")
    known = own if recipe.method == "saei" else (*own, *PROJECTS, *RIVAL_PAPERS)
    for line in lines:
        assert line.partition("  # ")[2].startswith(known), line
    assert all(len(line) <= 140 for line in lines)


def test_only_the_paper_s_own_values_are_called_so() -> None:
    """The settings that the paper gives; whatever else is called the paper's would be a claim."""
    given = {
        "task.type", "sampler.type", "sampler.n_clean", "sampler.n_adversarial", "selector.type", "criterion.type",
        "attack.type", "attack.steps", "attack.step", "objective.type",
    }  # fmt: skip
    for recipe in ALL:
        text = recipe.text("x.yaml")
        claimed = {path for path, value in recipe.values().items() if value.source.startswith("the paper")}
        assert claimed <= given
        assert text.count("  # the paper") == len(claimed)


def test_methods_differ_in_the_sampler_alone() -> None:
    parts = ("sampler", "selector", "criterion", "attack", "strength")
    found: dict[tuple[str, ...], set[str]] = {}
    for recipe in (one for one in PUBLISHED if one.method != "kl-cov"):
        rest = {path: one.value for path, one in recipe.values().items() if path.partition(".")[0] not in parts}
        found.setdefault((recipe.data, recipe.size, recipe.hardware), set()).add(repr(sorted(rest.items())))
    assert all(len(settings) == 1 for settings in found.values())


def test_rivals_differ_in_the_objective_alone(tmp_path: Path) -> None:
    """And in the updates that it needs, which all have on the built-in tasks."""
    for recipe in ALL:
        if not recipe.built_in and recipe.method != "kl-cov":
            continue
        ours, plain = read(recipe, tmp_path), read(replace(recipe, method="grpo-12"), tmp_path)
        assert (ours.objective == plain.objective) == (recipe.method == "grpo-12")
        changed = {"objective": plain.objective}
        if not recipe.built_in:
            changed["training"] = ours.training.model_copy(update={"updates_per_batch": 1})
        assert ours.model_copy(update=changed) == plain


@pytest.mark.parametrize("recipe", ALL, ids=lambda recipe: recipe.name)
def test_no_part_of_it_is_idle(recipe: Recipe, tmp_path: Path) -> None:
    config = read(recipe, tmp_path)
    assert idle_parts(config) == []
    if recipe.built_in or recipe.method == "kl-cov":
        assert config.training.updates_per_batch >= 4


def test_a_part_would_be_idle_with_a_single_update(tmp_path: Path) -> None:
    for name in ("bars-kl-cov", "geometry3k-7b-kl-cov-lora"):
        assert idle_parts(read(find(name), tmp_path, "training.updates_per_batch=1")) == ["objective 'kl-cov'"]


@pytest.mark.parametrize("recipe", [one for one in PUBLISHED if not one.hardware], ids=lambda recipe: recipe.name)
def test_trl_takes_the_recipes_of_eight_gpus(recipe: Recipe, tmp_path: Path) -> None:
    arguments = grpo_arguments(read(recipe, tmp_path), folder=tmp_path, processes=8, extra={})
    assert (arguments["num_generations"], arguments["max_steps"]) == (12, recipe.values()["training.steps"].value)
    per_update = arguments["per_device_train_batch_size"] * arguments["gradient_accumulation_steps"] * 8
    assert per_update == 128 * 12


def test_its_command_is_parsed_by_launcher_and_saei(tmp_path: Path) -> None:
    from accelerate.commands.launch import launch_command_parser
    from typer.main import get_command

    from saei.cli import app

    commands = get_command(app).commands  # type: ignore[attr-defined]  # a group
    assert "init" in commands
    train = commands["train"]
    for recipe in ALL:
        program, *words = shlex.split(recipe.command("x.yaml"))
        if not recipe.hardware and not recipe.built_in:
            parsed = launch_command_parser().parse_args(words[1:])
            assert (program, words[0], parsed.training_script) == ("accelerate", "launch", "saei.cli")
            assert (parsed.num_processes, parsed.use_deepspeed) == (8, True)
            words = parsed.training_script_args
        assert words[0] == "train"
        context = train.make_context("train", words[1:])
        assert context.params["config"] == Path("x.yaml")


@pytest.mark.parametrize(
    "recipe",
    [pytest.param(one, marks=pytest.mark.slow) if one.size == "7b" or one.data == "digits" else one for one in ALL],
    ids=lambda recipe: recipe.name,
)
def test_it_trains_two_steps(recipe: Recipe, model: Path, samples: Path, tmp_path: Path) -> None:
    parts = ("n_clean", "n_adversarial") if recipe.method in ("saei", "noisyrollout") else ("n",)
    few = [f"sampler.{part}={4 // len(parts)}" for part in parts]
    places = [f"model.path={model}", "model.device=cpu"]
    if not recipe.built_in:
        places.append(f"task.path={samples / recipe.data}")
    small = [*SMALL, f"training.updates_per_batch={min(2, read(recipe, tmp_path).training.updates_per_batch)}"]
    config = read(recipe, tmp_path, *small, *few, *places, f"output.root={tmp_path}", "output.name=run")
    trainer = Trainer(config, display=Quiet())
    run = trainer.train()
    assert (trainer.step, trainer.budget) == (2, 2 * 2 * 4)
    assert (run / "checkpoints" / "step-000002").is_dir()


@pytest.mark.parametrize("name", [f"geometry3k-3b-{method}" for method in ("saei", "grpo-12", "noisyrollout")])
def test_those_of_eight_gpus_train_inside_trl(name: str, model: Path, samples: Path, tmp_path: Path) -> None:
    """In one process and without ZeRO; every other setting is the recipe's."""
    pytest.importorskip("trl")
    from saei.integrations.trl.run import TRLRun

    recipe = find(name)
    parts = ("n",) if recipe.method == "grpo-12" else ("n_clean", "n_adversarial")
    few = [f"sampler.{part}={4 // len(parts)}" for part in parts]
    places = [f"model.path={model}", "model.device=cpu", f"task.path={samples / recipe.data}"]
    small = [one for one in SMALL if not one.startswith("evaluation")]
    config = read(recipe, tmp_path, *small, *few, *places, f"output.root={tmp_path}", "output.name=run")
    run = TRLRun(config, {})
    run.train()
    assert run.trainer.state.global_step == 2
    trained = {one for one, parameter in run.trainer.model.named_parameters() if parameter.requires_grad}
    assert trained
    assert not any("visual" in one for one in trained)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_init_lists_and_writes(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    init.init()
    listed = capsys.readouterr().out
    assert max(map(len, listed.splitlines())) <= 80
    words = {word.removeprefix("-") for word in listed.split()}
    assert {
        part for recipe in ALL for part in (recipe.data, recipe.size, recipe.method, recipe.hardware or "full,") if part
    } <= words
    assert listed.split()[-1] in {recipe.name for recipe in ALL}
    init.init("geometry3k-7b-saei-lora")
    said = capsys.readouterr().out
    assert "saei train --config geometry3k-7b-saei-lora.yaml" in said
    assert load_config(file=here / "geometry3k-7b-saei-lora.yaml").model.lora is not None
    init.init("chartqa-3b-grpo-12", Path("my.yaml"))
    assert "--config my.yaml" in (here / "my.yaml").read_text()


@pytest.mark.parametrize(
    ("recipe", "file", "said"),
    [
        ("geometry3k-7b-sae", None, "Did you mean 'geometry3k-7b-saei'"),
        ("foo", None, "'foo' is not a recipe"),
        ("geometry3k-7b-saei", "mine.yaml", "mine.yaml exists"),
        ("geometry3k-7b-saei", "no/such/folder.yaml", "No such file"),
    ],
)
def test_what_init_refuses(here: Path, recipe: str, file: str | None, said: str) -> None:
    (here / "mine.yaml").write_text("seed: 1\n")
    with pytest.raises(ConfigError, match=said):
        init.init(recipe, None if file is None else Path(file))
    assert (here / "mine.yaml").read_text() == "seed: 1\n"
