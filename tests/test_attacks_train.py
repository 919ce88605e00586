"""Every attack and every control that is listed: five steps by the command line, saved, and resumed to the same run."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import datasets
import pytest

from commands import Said
from runs import lines
from saei.config import registry
from saei.config.registry import entries

SMALL = (
    "evaluation.examples=1",
    "evaluation.responses=1",
    "evaluation.probe_examples=1",
    "evaluation.probe_responses=2",
    "training.prompts_per_step=2",
    "sampling.max_new_tokens=6",
    "sampler.n_clean=2",
    "sampler.n_adversarial=2",
    "output.checkpoint_every=3",
    "optimizer.lr=1e-3",
    "model.threads=1",
)
ANSWERABLE = ["sampler.intervention.surfaces=[{type: tokens, questions: answerable}]"]
OWN_GOLDS = ["objective.advantage.baseline=per-origin", *ANSWERABLE]
FIELDS = {
    "attack torchattacks": ["attack.name=MIFGSM", "attack.steps=2"],
    **{f"attack {name}": OWN_GOLDS for name in ("hotflip", "gcg", "random-swap")},
}
"""What has no default, and what attacks on tokens need with an oracle."""
LISTED = [f"{kind} {entry.name}" for kind in ("attack", "control") for entry in entries(kind) if entry.origin == "saei"]
FAST = ("attack patches", "control other-example")
"""Two for every day; the others take some seconds each."""


@pytest.fixture(autouse=True)
def _own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_registered", {})
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def test_all_are_listed(saei: Callable[..., Said]) -> None:
    assert len(LISTED) >= 17
    for kind in ("attack", "control"):
        listed = saei("list", kind).out
        assert all(f" {name} " in listed.replace("\n", " ") for name in (n.split()[1] for n in LISTED if kind in n))


@pytest.mark.parametrize(
    "what", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in LISTED]
)
def test_five_steps_saved_and_resumed(what: str, saei: Callable[..., Said], tmp_path: Path) -> None:
    kind, name = what.split()
    chosen = "attack.type" if kind == "attack" else "sampler.intervention.control"
    settings = [f"{chosen}={name}", *FIELDS.get(what, ()), *SMALL]
    said = saei("train", "--steps", 5, "--name", "whole", *(word for each in settings for word in ("--set", each)))
    assert said.code == 0, said.err
    whole, resumed = tmp_path / "runs" / "whole", tmp_path / "runs" / "resumed"
    steps = lines(whole)
    assert [line["step"] for line in steps] == list(range(6))
    moved = "train/intervention/pixels/moved" if name == "joint" else "train/intervention/moved"
    assert (
        any(line[moved] > 0 for line in steps[1:])
        if name in ("hotflip", "gcg")
        else all(line[moved] > 0 for line in steps[1:])
    )
    shutil.copytree(whole, resumed)
    shutil.rmtree(resumed / "checkpoints" / "step-000005")
    said = saei("train", "--resume", resumed)
    assert said.code == 0, said.err
    assert lines(resumed) == steps
    weights = [run / "checkpoints" / "step-000005" / "model.safetensors" for run in (whole, resumed)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
