"""Every listed selector trains through the command line, where the attack and the update ask it, and resumes."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from commands import Saei
from runs import Checksum, lines, registered
from saei.config.registry import entries
from saei.engine import checkpoint

SELECTORS: dict[str, Any] = {
    entry.name: entry.name for entry in entries("selector") if entry.name not in ("and", "or", "not")
} | {
    "threshold": {"type": "threshold", "lo": 0.5, "hi": None},  # a policy of random weights is uncertain of all it says
    "and": {"type": "and", "of": [{"type": "top-k", "share": "3/4"}, {"type": "not", "of": ["position"]}]},
    "or": {"type": "or", "of": ["random", {"type": "visual", "share": "1/5"}]},
    "not": {"type": "not", "of": ["k-means"]},
}

FAST = ("scheduled", "or")
"""Where the most is at work: one that goes by the progress, and one that draws and looks at another view."""


def config(selector: Any, model: Path, root: Path) -> dict[str, Any]:
    return {
        "model": {"path": str(model), "device": "cpu"},
        "task": "bars",
        "reward": "checksum",
        "sampler": {"type": "mixed", "n_clean": 2, "n_adversarial": 2, "intervention": {"selector": selector}},
        "objective": {"type": "grpo", "token_selector": selector},
        "sampling": {"max_new_tokens": 6},
        "optimizer": {"lr": 1e-3},
        "training": {"steps": 5, "prompts_per_step": 1},
        "evaluation": {"every": 5, "examples": 1, "responses": 1, "probe_examples": 1, "probe_responses": 2},
        "output": {"root": str(root), "name": "whole", "checkpoint_every": 3},
    }


@pytest.mark.parametrize(
    "name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in SELECTORS]
)
def test_five_steps_and_the_rest_of_them_again(name: str, saei: Saei, model: Path, tmp_path: Path) -> None:
    whole, again = tmp_path / "whole", tmp_path / "again"
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(config(SELECTORS[name], model, tmp_path)))
    with registered(Checksum):
        said = saei("train", "--config", file)
        assert said.code == 0, said.err
        shutil.copytree(whole, again)
        shutil.rmtree(again / "checkpoints" / "step-000005")
        said = saei("train", "--resume", again)
        assert said.code == 0, said.err
    steps = lines(whole)
    assert [line["step"] for line in steps] == list(range(6))
    assert lines(again) == steps
    assert all(line["train/intervention/selected"] > 0 for line in steps[1:] if not line["train/untouched"])
    assert any(not line["train/untouched"] for line in steps[1:])
    first, second = (load_file(checkpoint.latest(run / "checkpoints") / "model.safetensors") for run in (whole, again))
    assert all(torch.equal(weight, second[key]) for key, weight in first.items())
    start = load_file(model / "model.safetensors")
    assert any(not torch.equal(weight, start[key]) for key, weight in first.items())
