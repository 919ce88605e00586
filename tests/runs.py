"""Tiny runs for tests: a model folder, a configuration, and a reward that varies with random text."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from saei.config import registry
from saei.config.run import RunConfig, validate
from saei.config.strategy import StrategyConfig
from saei.engine import Trainer
from saei.rewards.base import Reward
from saei.runtime.run_dir import RunDir
from saei.types import Example, Grade


class Checksum(Reward):
    """Grades by the sum of the characters, so that random responses differ; every third is right."""

    class Config(StrategyConfig):
        type: Literal["checksum"] = "checksum"

    def grade(self, example: Example, text: str, *, truncated: bool = False) -> Grade:
        rest = sum(map(ord, text)) % 6
        return Grade(rest / 5, rest < 2, {}, str(rest))


@contextmanager
def registered(*classes: Any) -> Iterator[None]:
    """Strategies that are registered while a test runs."""
    before = dict(registry._registered)
    for cls in classes:
        registry.register(cls)
    try:
        yield
    finally:
        registry._registered.clear()
        registry._registered.update(before)


class Quiet:
    """A display that keeps what it is told, and may do something at a step."""

    def __init__(self, at: dict[int, Any] | None = None) -> None:
        self.notes: list[str] = []
        self._at = at or {}

    @contextmanager
    def open(self, config: RunConfig, run: Path) -> Iterator[None]:
        yield

    def phase(self, name: str | None) -> None:
        pass

    def step(self, step: int, metrics: Any) -> None:
        if step in self._at:
            self._at[step]()

    def note(self, text: str) -> None:
        self.notes.append(text)


def tiny(model: Path, root: Path, name: str = "run", /, **changes: Any) -> RunConfig:
    """A run of three steps of two groups of four responses of at most eight tokens."""
    data: dict[str, Any] = {
        "model": {"path": str(model), "device": "cpu"},
        "task": "bars",
        "reward": "checksum",
        "sampler": {"type": "mixed", "n_clean": 2, "n_adversarial": 2},
        "sampling": {"max_new_tokens": 8},
        "optimizer": {"lr": 1e-3},
        "training": {"steps": 3, "prompts_per_step": 2},
        "evaluation": {"every": 2, "examples": 2, "responses": 2, "probe_examples": 2, "probe_responses": 3},
        "output": {"root": str(root), "name": name, "checkpoint_every": 3},
    }
    for path, value in changes.items():
        section, _, field = path.partition("__")
        if field:
            data.setdefault(section, {})[field] = value
        else:
            data[section] = value
    return validate(data)


def train(config: RunConfig, display: Quiet | None = None, resume: RunDir | None = None) -> Trainer:
    trainer = Trainer(config, resume=resume, display=display or Quiet())
    trainer.train()
    return trainer


def lines(run: Path) -> list[dict[str, Any]]:
    """The metrics of a run without its times."""
    return [
        {name: value for name, value in line.items() if not name.startswith("time/")} for line in RunDir(run).metrics()
    ]
