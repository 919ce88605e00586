"""What a run says to its user: at its start that nothing is compared, and of weights that leave no token in common."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest
import torch

from runs import Checksum, Quiet, lines, registered, tiny, train
from saei.config.registry import entries, load
from saei.config.run import validate
from saei.config.strategy import StrategyConfig
from saei.engine.notes import opening_notes
from saei.objectives.advantages.base import Advantage
from saei.types import ScoredGroup

ONE = {"type": "clean", "n": 1}
ONE_OF_EACH = {"type": "mixed", "n_clean": 1, "n_adversarial": 1}
PER_ORIGIN = {"type": "group-relative", "baseline": "per-origin"}


def alone_in(advantage: Any, sampler: Any) -> str | None:
    """What a run says that a response is alone in, at its start; None if it says nothing."""
    policy: Any = SimpleNamespace(parts=SimpleNamespace(notes=[]), model=torch.nn.Linear(1, 1))
    data: Any = SimpleNamespace(scanned=None, stream=SimpleNamespace(unreported=list))
    task: Any = SimpleNamespace(notes=list)
    config = validate({"objective": {"type": "grpo", "advantage": advantage}, "sampler": sampler})
    notes = opening_notes(config, task, policy, data)
    if not notes:
        return None
    (note,) = notes
    found = re.search(r"^The advantage '[\w-]+' compares a response with others of its (\w+), which has one: ", note)
    return found[1] if found else note


@pytest.mark.parametrize(
    ("advantage", "sampler", "said"),
    [
        ("group-relative", ONE, "group"),
        ({"type": "entropy-shaped", "of": "quantile"}, ONE, "group"),
        ("grpo-s", {"type": "dynamic", "of": ONE}, "group"),
        ("group-relative", {"type": "clean", "n": 2}, None),
        ("group-relative", ONE_OF_EACH, None),
        (PER_ORIGIN, ONE_OF_EACH, "origin"),
        ({"type": "unlikeliness", "of": PER_ORIGIN}, ONE_OF_EACH, "origin"),
        (PER_ORIGIN, {**ONE_OF_EACH, "n_clean": 2}, None),
    ],
    ids=str,
)
def test_a_run_says_at_its_start_that_nothing_is_compared(advantage: Any, sampler: Any, said: str | None) -> None:
    assert alone_in(advantage, sampler) == said


class Absolute(Advantage):
    """The reward itself, with nothing that it is compared to."""

    class Config(StrategyConfig):
        type: Literal["test/absolute"] = "test/absolute"

    def estimate(self, scored: ScoredGroup, rewards: Sequence[float]) -> Sequence[float]:
        return scored.rewards


def test_an_advantage_that_compares_nothing_may_have_one_response() -> None:
    with registered(Absolute):
        assert alone_in("test/absolute", ONE) is None
        assert alone_in({"type": "entropy-shaped", "of": "test/absolute"}, ONE) is None


def test_every_advantage_of_ours_compares_or_shapes_another() -> None:
    for entry in entries("advantage"):
        if entry.origin == "saei":
            advantage: Any = load("advantage", entry.name)()
            assert advantage.relative == (advantage.shaped is None), entry.name


def count(kind: str, count: int = 1) -> dict[str, Any]:
    return {"type": "selected", "selector": {"type": kind, "count": count}}


NOTHING = {"type": "selected", "selector": {"type": "threshold", "lo": 50, "hi": None}}
OF_GROUP = {"type": "selected", "selector": {"type": "top-k", "count": 1, "scope": "group"}}


@pytest.mark.parametrize(
    ("weights", "used", "told"),
    [
        ([count("bottom-k"), count("top-k")], 0, "weights selected, selected-2 keep none in common"),
        ([count("bottom-k")], 8, None),  # one of each of two groups' four responses
        ([OF_GROUP], 2, None),  # one of each group, not of the batch
        ([NOTHING], 0, "weight selected keeps none"),
    ],
    ids=["apart", "one", "of the group", "none"],
)
def test_a_run_tells_once_that_its_weights_leave_no_token(
    weights: list[Any], used: int, told: str | None, model: Path, tmp_path: Path
) -> None:
    display = Quiet()
    changes: dict[str, Any] = {
        "objective": {"type": "grpo", "weights": weights},
        "training": {"steps": 2, "prompts_per_step": 2},
    }
    with registered(Checksum):
        run = train(tiny(model, tmp_path, **changes), display).run.path
    steps = lines(run)[1:]
    assert [step["train/used_tokens"] for step in steps] == [used, used]
    assert all((step["train/used"] == 0) == (used == 0) for step in steps)
    notes = [note for note in display.notes if "no token for the policy loss" in note]
    expected = f"Step 1 had no token for the policy loss: the {told}. In such steps the policy learns from terms alone."
    assert notes == ([expected] if told else [])


def test_without_weights_there_is_nothing_to_tell(model: Path, tmp_path: Path) -> None:
    with registered(Checksum):
        run = train(tiny(model, tmp_path, training={"steps": 1, "prompts_per_step": 2})).run.path
    assert "train/used_tokens" not in lines(run)[1]
