"""Rivals in micro-batches, in two processes, and through whole runs that are stopped and resumed."""

from __future__ import annotations

import copy
import math
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from runs import Checksum, Quiet, lines, registered, tiny, train
from saei.config import registry
from saei.data.bars import Bars
from saei.data.templates import ThinkBoxed
from saei.engine import checkpoint
from saei.objectives.base import Objective
from saei.policy import Policy
from saei.policy.load.weights import Parts
from saei.runtime.interrupt import Interrupted
from saei.runtime.run_dir import RunDir
from saei.types import Grade
from updates import ADVANTAGES, assert_same_gradients, in_two, policy_of, three_groups, update

PATCHES = {"patch": 4, "probability": "1/2"}
WHOLE_BATCH: dict[str, dict[str, Any]] = {
    "kl-cov": {"type": "kl-cov", "share": "1/5", "coefficient": 0.7},
    "clip-cov": {"type": "dapo", "clip_high": 0.2, "weights": [{"type": "clip-cov", "share": "1/9", "low": 0.1}]},
    "forking-tokens": {"type": "cispo", "weights": [{"type": "forking-tokens", "share": "1/2"}]},
    "steer": {"type": "dapo", "weights": [{"type": "steer", "smallest": 0.5}]},
    "vppo": {"type": "dapo", "weights": [{"type": "vppo", "scale_min": 0.5, **PATCHES}]},
    "nucleus-entropy": {"type": "grpo", "terms": [{"type": "nucleus-entropy", "coefficient": 5.0, "p": "2/5"}]},
    "adaptive-entropy": {
        "type": "grpo",
        "terms": [{"type": "adaptive-entropy", "target": 9.0, "delta": 0.5, "max": 1}],
    },
    "roma": {"type": "grpo", "terms": [{"type": "roma", "coefficient": 0.5, "auxiliary": 0.5}]},
}
"""What looks at the whole update batch, or draws at random for it."""


def configured(config: dict[str, Any]) -> Objective:
    built: Objective = registry.load("objective", config["type"]).Config.model_validate(config).build()
    return built


@pytest.mark.parametrize("name", WHOLE_BATCH)
def test_micro_batches_and_processes_change_nothing(random_parts: Parts, bars: Bars, name: str) -> None:
    """In two optimiser steps in each of two epochs, of two groups and of one."""
    policy, config = policy_of(random_parts), WHOLE_BATCH[name]
    groups = [
        replace(each, scored=replace(each.scored, grades=tuple(Grade(a, correct=a > 0) for a in ADVANTAGES[number])))
        for number, each in enumerate(three_groups(policy, bars))
    ]
    start = copy.deepcopy(policy.module.state_dict())
    training = {"ppo_epochs": 2, "updates_per_batch": 2, "prompts_per_step": 3}

    def updated(**how: Any) -> Any:
        policy.module.load_state_dict(start)
        policy.weights_changed()
        return update(policy, groups, configured(config), lr=0.01, **training, **how)

    metrics, gradients = updated()
    for micro_groups in (1, 2):
        parts_metrics, parts = updated(micro_groups=micro_groups)
        assert parts_metrics == pytest.approx(metrics, rel=1e-3, abs=1e-5)
        for ours, expected in zip(parts, gradients, strict=True):
            assert_same_gradients(ours, expected)
    policy.module.load_state_dict(start)
    policy.weights_changed()
    ordered = sorted(groups, key=lambda each: each.group.index)
    (left, left_gradients), (right, _) = in_two(
        policy, [ordered[:1], ordered[1:]], lambda: configured(config), lr=0.01, micro_groups=1, **training
    )
    assert left == right == pytest.approx(metrics, rel=1e-3, abs=1e-5)
    for ours, expected in zip(left_gradients, gradients, strict=True):
        assert_same_gradients(ours, expected)


# --- Whole runs

ADVANTAGE = {"entropy-shaped": {}, "quantile": {}, "pass-at-k": {}, "grpo-passk": {}, "unlikeliness": {}, "gtpo": {}}
ADVANTAGE |= {"grpo-s": {}, "trust": {}, "vogue": {}}
WEIGHT = {"clip-cov": {"low": 0.01}, "forking-tokens": {}, "steer": {}, "vppo": PATCHES}
TERM = {"adaptive-entropy": {"target": 9.0, "delta": 0.01}, "clamped-entropy": {}, "nucleus-entropy": {}}
TERM |= {"papo": PATCHES, "roma": {}, "sampled-entropy": {}}
OBJECTIVE: dict[str, dict[str, Any]] = {
    **{name: {"type": "grpo", "advantage": {"type": name, **own}} for name, own in ADVANTAGE.items()},
    **{name: {"type": "dapo", "clip_high": 0.2, "weights": [{"type": name, **own}]} for name, own in WEIGHT.items()},
    **{name: {"type": "grpo", "terms": [{"type": name, **own}]} for name, own in TERM.items()},
    **{name: {"type": name} for name in ("cispo", "sapo", "kl-cov")},
}
SEVERAL: dict[str, dict[str, Any]] = {
    "token advantages, all weights": {
        "type": "dapo",
        "clip_high": 0.2,
        "advantage": {"type": "entropy-shaped", "of": {"type": "gtpo"}},
        "weights": [{"type": name, **own} for name, own in WEIGHT.items()],
    },
    "all terms": {
        "type": "kl-cov",
        "advantage": {"type": "vogue", "of": {"type": "unlikeliness"}},
        "terms": [{"type": name, **own} for name, own in TERM.items()],
    },
}
TRAINING = {"steps": 3, "prompts_per_step": 2, "ppo_epochs": 2, "updates_per_batch": 2}


@pytest.fixture(scope="module")
def model(random_parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    Policy(random_parts, ThinkBoxed()).save(folder)
    return folder


@pytest.fixture(autouse=True)
def checksum() -> Iterator[None]:
    with registered(Checksum):
        yield


def weights_of(run: Path) -> dict[str, Tensor]:
    return load_file(checkpoint.latest(run / "checkpoints") / "model.safetensors")


def assert_trains_and_resumes(model: Path, tmp_path: Path, objective: dict[str, Any]) -> None:
    """A run that is stopped and resumed is the run that was never stopped, bit for bit."""
    changes = {"objective": objective, "training": TRAINING, "optimizer__lr": 3e-3, "evaluation__every": 3}
    whole = train(tiny(model, tmp_path, "whole", **changes)).run.path
    with pytest.raises(Interrupted):
        train(
            tiny(model, tmp_path, "halves", **changes), Quiet({2: lambda: os.kill(os.getpid(), signal.SIGINT)})
        )  # fmt: skip
    run, config = RunDir.open(tmp_path / "halves")
    train(config, resume=run)
    assert lines(tmp_path / "halves") == lines(whole)
    ours, theirs = weights_of(tmp_path / "halves"), weights_of(whole)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert all(math.isfinite(line["train/loss"]) for line in lines(whole)[1:])


@pytest.mark.slow
@pytest.mark.parametrize("name", OBJECTIVE)
def test_a_run_resumes_bit_for_bit(model: Path, tmp_path: Path, name: str) -> None:
    assert_trains_and_resumes(model, tmp_path, OBJECTIVE[name])


@pytest.mark.parametrize("name", SEVERAL)
def test_a_run_with_several_rivals_resumes_bit_for_bit(model: Path, tmp_path: Path, name: str) -> None:
    assert_trains_and_resumes(model, tmp_path, SEVERAL[name])
