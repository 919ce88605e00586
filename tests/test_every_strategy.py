"""Every listed strategy has a contract, trains five steps by the command line, and survives save and resume.

Selectors, attacks and controls do so in test_selector_runs.py and test_attacks_train.py.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import datasets
import pytest
import yaml

from commands import Saei
from runs import Checksum, lines, registered
from saei.config.registry import KINDS, entries, load
from saei.testing.kinds import contract_of

OTHER_MODULES = ("selector", "attack", "control")
WITHOUT_A_SETTING = ("statistic",)
"""Kinds that no setting names: selectors, criteria and terms ask for statistics."""

PLACES = {
    "sampler": "sampler.type",
    "criterion": "sampler.intervention.criterion",
    "strength": "sampler.intervention.strength",
    "gate": "sampler.intervention.gate",
    "guard": "sampler.intervention.guard",
    "surface": "sampler.intervention.surfaces",
    "objective": "objective.type",
    "advantage": "objective.advantage",
    "weight": "objective.weights",
    "term": "objective.terms",
    "reward": "reward",
    "task": "task",
    "template": "template",
    "decoder": "decoder",
}
LISTS = ("surface", "weight", "term")
"""Kinds whose setting takes several."""

ELSEWHERE = {
    "reward function": "it is the user's code: test_reward_kinds.py",
    "reward in-memory": "it has no command line: test_python_objects.py",
    "task in-memory": "it has no command line: test_python_objects.py",
    "decoder vllm": "it needs vLLM: with_vllm/",
    **{
        f"task {entry.name}": "its data lie on a hub: test_presets.py"
        for entry in entries("task")
        if load("task", entry.name).fetches
    },
}
"""Strategies that cannot be trained here by the command line, and the tests that they have instead."""

HALVES = {"n_clean": 2, "n_adversarial": 2}
FIELDS: dict[str, dict[str, Any]] = {
    "sampler arms": {"sampler": {"n_clean": 2, "arms": {"adversarial": {"n": 2}}}},
    "sampler augment": {"sampler": {"n": 2}},
    "sampler branch": {"sampler": {"n": 2}},
    "sampler clean": {"sampler": {"n": 4}},
    "sampler dynamic": {"sampler": {"of": {"type": "mixed", **HALVES}, "max_rounds": 2}},
    "sampler tempered": {"sampler": {"n_clean": 2, "n_tempered": 2, "temperature": 2}},
    "criterion kl": {"sampler.intervention.attack": {"type": "pgd", "random_start": True}},
    "strength thermostat": {"control": {"every": 2, "examples": 1, "responses": 1}},
    "surface embeddings": {"sampler.intervention.attack": "text-pgd"},
    "surface tokens": {
        "sampler.intervention.attack": "random-swap",
        "sampler.intervention.surfaces": [{"type": "tokens", "questions": "answerable"}],
        "objective.advantage": {"baseline": "per-origin"},
    },
    "surface wording": {"sampler.intervention.attack": "paraphrase"},
    "term kl": {"objective.terms": [{"type": "kl", "coefficient": 0.1}]},
    "reward soft-overlong": {"reward": {"longest": 6, "buffer": 4}},
    "reward sum": {"reward": {"of": ["accuracy-format", "checksum"]}},
}
"""What has no default, or is too long for a test."""

FAST = ("guard accuracy-gap", "term kl")
"""One whose state goes on, and one with a second policy."""


def ours(kind: str) -> list[str]:
    return [f"{kind} {entry.name}" for entry in entries(kind) if entry.origin == "saei"]


LISTED = [what for kind in PLACES for what in ours(kind) if what not in ELSEWHERE]


def settings(what: str, model: Path, root: Path) -> dict[str, Any]:
    """A run of five steps with a strategy in its place."""
    kind, name = what.split()
    config: dict[str, Any] = {
        "model": {"path": str(model), "device": "cpu"},
        "task": "bars",
        "reward": "checksum",
        "sampler": {"type": "mixed", **HALVES} if kind != "sampler" else HALVES if name in ("mixed", "noisy") else {},
        "sampling": {"max_new_tokens": 6},
        "optimizer": {"lr": 1e-3},
        "training": {"steps": 5, "prompts_per_step": 2},
        "evaluation": {"every": 5, "examples": 1, "responses": 1, "probe_examples": 1, "probe_responses": 2},
        "output": {"root": str(root), "name": "whole", "checkpoint_every": 3},
    }
    chosen = {PLACES[kind]: [name] if kind in LISTS else name}
    for path, value in (*chosen.items(), *FIELDS.get(what, {}).items()):
        *sections, field = path.split(".")
        section = config
        for each in sections:
            section = section.setdefault(each, {})
        typed = {"type": name, **value} if path == PLACES[kind] and isinstance(value, dict) else value
        section[field] = {**section[field], **typed} if isinstance(section.get(field), dict) else typed
    if kind == "task" and name == "dataset":
        rows = [{"question": f"What is {n} + 1?", "answer": str(n + 1)} for n in range(8)]
        for split in ("train", "test"):
            (root / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
        config["task"] = {"type": "dataset", "path": str(root), "columns": {"images": None}}
        config["sampler"] = {"type": "clean", "n": 4}
    return config


def test_every_kind_has_a_contract_and_a_place() -> None:
    assert set(KINDS) == {*PLACES, *OTHER_MODULES, *WITHOUT_A_SETTING}
    assert all(contract_of(kind) is not None for kind in KINDS)


def test_what_is_named_here_is_listed() -> None:
    known = {what for kind in PLACES for what in ours(kind)}
    assert {*FIELDS, *ELSEWHERE, *FAST} <= known | {"decoder vllm"}


@pytest.mark.parametrize("kind", KINDS)
def test_all_are_listed_by_the_command(kind: str, saei: Saei) -> None:
    words = saei("list", kind).out.split()
    assert {what.split()[1] for what in ours(kind)} <= set(words)


@pytest.mark.parametrize(
    "what", [what if what in FAST else pytest.param(what, marks=pytest.mark.slow) for what in LISTED]
)
def test_five_steps_saved_and_resumed(
    what: str, saei: Saei, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    whole, resumed, file = tmp_path / "whole", tmp_path / "resumed", tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(settings(what, model, tmp_path)))
    with registered(Checksum):
        said = saei("train", "--config", file)
        assert said.code == 0, said.err
        shutil.copytree(whole, resumed)
        shutil.rmtree(resumed / "checkpoints" / "step-000005")
        said = saei("train", "--resume", resumed)
        assert said.code == 0, said.err
    steps = lines(whole)
    assert [line["step"] for line in steps] == list(range(6))
    assert lines(resumed) == steps
    folders = (whole / "checkpoints" / "step-000005", resumed / "checkpoints" / "step-000005", model)
    sums = [hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest() for folder in folders]
    assert sums[0] == sums[1]
    # Random text earns the same of every reward but `checksum`, and then there is no gradient.
    assert (sums[0] != sums[2]) or what.startswith("reward ")
    assert what.split()[1] in (whole / "config.yaml").read_text()
