"""Killed and interrupted runs of the command line, in processes of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from runs import lines
from saei.data.templates import ThinkBoxed
from saei.engine import checkpoint
from saei.policy import Policy
from saei.policy.load.weights import Parts

pytestmark = pytest.mark.slow

STEPS = 8
PLUGIN = '''
from typing import Literal

from saei.config.registry import register
from saei.rewards.base import Reward
from saei.config.strategy import StrategyConfig
from saei.types import Grade


@register
class Checksum(Reward):
    """Grades random text by the sum of its characters."""

    class Config(StrategyConfig):
        """No fields."""

        type: Literal["mine/checksum"] = "mine/checksum"

    def grade(self, example, text, *, truncated=False):
        rest = sum(map(ord, text)) % 6
        return Grade(rest / 5, rest < 2, {}, str(rest))
'''
SETTINGS = {
    "reward.type": "mine/checksum",
    "model.device": "cpu",
    "sampler.n_clean": 2,
    "sampler.n_adversarial": 2,
    "sampling.max_new_tokens": 8,
    "training.prompts_per_step": 2,
    "optimizer.lr": 1e-3,
    "optimizer.schedule": "linear",
    "evaluation.every": 4,
    "evaluation.examples": 2,
    "evaluation.responses": 2,
    "evaluation.probe_examples": 2,
    "evaluation.probe_responses": 2,
    "output.checkpoint_every": 2,
}


@pytest.fixture(scope="module")
def home(random_parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with a model of random weights and a plugin file."""
    folder = tmp_path_factory.mktemp("home")
    Policy(random_parts, ThinkBoxed()).save(folder / "model")
    (folder / "mine.py").write_text(PLUGIN)
    return folder


def saei(home: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "saei.cli", *arguments],
        cwd=home,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )


def start(home: Path, name: str) -> subprocess.Popen[str]:
    settings = [word for path, value in SETTINGS.items() for word in ("--set", f"{path}={value}")]
    return saei(
        home, "train", "--model", "model", "--plugin", "./mine.py", "--steps", str(STEPS), "--name", name, *settings
    )


def finished(process: subprocess.Popen[str], code: int = 0) -> str:
    _, said = process.communicate(timeout=240)
    assert process.returncode == code, said
    return said


def wait_for(run: Path, step: int, process: subprocess.Popen[str]) -> None:
    """Wait until a run has written a step; half-written lines are not there yet."""
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and process.poll() is None:
        if (run / "config.yaml").exists() and len(lines(run)) > step:
            return
        time.sleep(0.01)
    raise AssertionError(f"{run} did not reach step {step}.")


@pytest.fixture(scope="module")
def whole(home: Path) -> Path:
    """A run that nobody disturbed."""
    finished(start(home, "whole"))
    run = home / "runs" / "whole"
    assert [line["step"] for line in lines(run)] == list(range(STEPS + 1))
    return run


def same_weights(left: Path, right: Path) -> bool:
    files = [checkpoint.latest(run / "checkpoints") / "model.safetensors" for run in (left, right)]
    return files[0].read_bytes() == files[1].read_bytes()


def test_a_killed_run_goes_on_as_if_it_had_not_been(home: Path, whole: Path) -> None:
    run = home / "runs" / "killed"
    process = start(home, "killed")
    wait_for(run, 3, process)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    died_at = len(lines(run)) - 1
    assert 3 <= died_at < STEPS
    assert checkpoint.complete_in(run / "checkpoints")
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "train/lo')  # what a death while writing leaves behind
    finished(saei(home, "train", "--resume", "runs/killed"))
    assert lines(run) == lines(whole)
    assert same_weights(run, whole)
    assert all(json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines())


def test_an_interrupted_run_says_how_to_go_on_and_goes_on(home: Path, whole: Path) -> None:
    run = home / "runs" / "interrupted"
    process = start(home, "interrupted")
    wait_for(run, 1, process)
    process.send_signal(signal.SIGINT)
    said = finished(process, 130)
    done = len(lines(run)) - 1
    assert checkpoint.latest(run / "checkpoints").name == f"step-{done:06d}"
    assert f"Stopped after step {done} of {STEPS}." in said
    assert "saei train --resume runs/interrupted" in said
    assert "Traceback" not in said
    finished(saei(home, "train", "--resume", "runs/interrupted"))
    assert lines(run) == lines(whole)
    assert same_weights(run, whole)


def test_a_second_interrupt_stops_at_once(home: Path) -> None:
    run = home / "runs" / "twice"
    process = start(home, "twice")
    wait_for(run, 3, process)  # the checkpoint of step 2 is there by then
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    while "Interrupt again to stop at once" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    said = finished(process, 130)
    assert "saei train --resume runs/twice" in said
    assert "Traceback" not in said
    assert lines(run)[-1]["step"] < STEPS


def test_changed_fields_are_refused_with_exit_code_2(home: Path, whole: Path) -> None:
    said = finished(saei(home, "train", "--resume", "runs/whole", "--seed", "3", "--set", "optimizer.lr=1"), 2)
    assert "Changed: optimizer.lr, seed." in said
    assert "Traceback" not in said
