"""Configurations that somebody may write: each is one that runs, or an error that says what is wrong with it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import hostile
import pytest
import torch
from cases import SEED, InTime, Tried, readable, size
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from models import tiny_folder
from runs import Checksum, Quiet, registered
from saei.config.overrides import load_config
from saei.config.run import RunConfig, dump, validate
from saei.config.yaml import read_yaml, write_yaml
from saei.engine import Trainer
from saei.errors import SaeiError

SOON_S = 1.0
"""CPU seconds in which a configuration is read."""


def chunk(number: int, examples: int) -> Callable[[Any], Any]:
    """Return a decorator: these examples from the suite's seed, nothing remembered between runs, failures made small."""

    def decorate(test: Any) -> Any:
        quiet = settings(
            max_examples=examples,
            deadline=None,
            database=None,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
        )
        return seed(SEED * 1000 + number)(quiet(test))

    return decorate


def outcome(read: Callable[[], RunConfig], tried: Tried, kind: str) -> None:
    """Check that something reads as a configuration that can be written and read again, or is refused as it should."""
    begun = time.process_time()
    try:
        config = read()
    except SaeiError as error:
        readable(error)
        tried(f"configurations as {kind}: refused")
    else:
        assert validate(dump(config)) == config
        tried(f"configurations as {kind}: read")
    assert time.process_time() - begun < SOON_S


CHUNK = size(120, 1000)


@pytest.mark.parametrize("number", range(size(1, 8)))
def test_assignments(number: int, tried: Tried) -> None:
    @chunk(number, CHUNK)
    @given(hostile.assignments())
    def check(assigned: list[str]) -> None:
        outcome(lambda: load_config(assignments=assigned), tried, "assignments")

    check()


@pytest.mark.parametrize("number", range(size(1, 7)))
def test_files(number: int, tried: Tried, tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"

    @chunk(number, CHUNK)
    @given(hostile.yaml_files())
    def check(content: bytes) -> None:
        file.write_bytes(content)
        outcome(lambda: load_config(file=file), tried, "files")

    check()


@pytest.mark.parametrize("number", range(size(1, 7)))
def test_mappings(number: int, tried: Tried) -> None:
    @chunk(number, CHUNK)
    @given(hostile.mappings(foreign=True), st.booleans())
    def check(data: dict[str, Any], as_flags: bool) -> None:
        outcome(lambda: load_config(flags=[data]) if as_flags else validate(data), tried, "mappings")

    check()


def test_what_is_written_is_read_back(tried: Tried, tmp_path: Path) -> None:
    file = tmp_path / "data.yaml"

    @chunk(0, CHUNK)
    @given(hostile.mappings())
    def check(data: dict[str, Any]) -> None:
        file.write_text(write_yaml(data), encoding="utf-8", errors="surrogatepass")
        try:
            again = read_yaml(file)
        except SaeiError as error:
            readable(error)
        else:
            assert repr(again) == repr(data)
            tried("data written and read back")

    check()


# --- one step of what is read ----------------------------------------------------------------------------------------

SMALL: Mapping[str, tuple[str, ...]] = {
    "1": ("training.steps", "training.ppo_epochs", "evaluation.every", "evaluation.examples", "evaluation.responses"),
    "2": (
        "training.prompts_per_step", "training.updates_per_batch", "evaluation.probe_examples", "evaluation.probe_responses",
        "sampler.n", "sampler.n_clean", "sampler.n_adversarial", "sampler.views", "sampler.max_rounds", "sampler.of.n",
        "sampler.of.n_clean", "sampler.of.n_adversarial", "sampler.of.views", "sampler.intervention.attack.steps",
        "sampler.of.intervention.attack.steps", "sampler.intervention.attack.N", "sampler.intervention.attack.m",
    ),
    "6": ("sampling.max_new_tokens",),
    "8": ("task.limit", "model.lora.rank", "model.threads"),
}  # fmt: skip
"""The most that a number may be in these tests, so that a step takes no time: what is large has had its test when read."""


def shortened(data: dict[str, Any], root: Path, model: Path) -> dict[str, Any]:
    """Return a resolved configuration in which nothing takes long, on a model of random weights."""
    for most, paths in SMALL.items():
        for path in paths:
            *above, name = path.split(".")
            section: Any = data
            for word in above:
                section = section.get(word) if isinstance(section, dict) else None
            if isinstance(section, dict) and isinstance(section.get(name), int):
                section[name] = min(section[name], int(most))
    data["model"] |= {"path": str(model), "revision": None, "device": "cpu"}
    data["output"] |= {"root": str(root), "name": "run", "trackers": []}
    data["reward"] = data["reward"] if data["reward"]["type"] != "function" else "checksum"
    return data


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return [tiny_folder(family, tmp_path_factory.mktemp("model")) for family in ("Qwen2.5-VL", "LLaVA")]


@pytest.fixture(autouse=True)
def _checksum() -> Iterator[None]:
    with registered(Checksum):
        yield


@pytest.mark.parametrize("number", range(size(1, 16)))
def test_one_step(
    number: int, tried: Tried, in_time: InTime, folders: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    @chunk(number, size(16, 45))
    @given(hostile.sections(RunConfig, most=6), st.sampled_from(folders), st.booleans())
    def check(data: dict[str, Any], model: Path, generated: bool) -> None:
        if generated and data.get("task") is not None:
            data.pop("task")
        folder = tmp_path_factory.mktemp("runs")
        try:
            config = validate(shortened(dump(validate(data)), folder, model))
        except SaeiError as error:
            readable(error)
            tried("one step: refused when read")
            return
        with in_time():
            try:
                trainer = Trainer(config, display=Quiet())
                trainer.train()
            except SaeiError as error:
                readable(error)
                tried("one step: refused when built or run")
                return
        assert trainer.step == config.training.steps
        assert all(torch.isfinite(each).all() for each in trainer.policy.model.parameters())
        tried("one step: done")

    check()
