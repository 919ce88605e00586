"""The contracts of the small strategies, and that each breach is caught."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import pytest

from saei.config.strategy import StrategyConfig
from saei.data.bars import Bars
from saei.data.base import Task
from saei.data.templates import ThinkBoxed
from saei.interventions.base import Gate, Guard, Strength
from saei.interventions.thermostat import Thermostat
from saei.rewards.accuracy_format import AccuracyFormat
from saei.testing import (
    check_gate,
    check_guard,
    check_reward,
    check_strength,
    check_task,
    check_template,
    registered,
)

CHECKS: dict[str, Callable[[Any], None]] = {
    "gate": check_gate,
    "guard": check_guard,
    "reward": check_reward,
    "strength": check_strength,
    "task": check_task,
    "template": check_template,
}


@pytest.mark.parametrize(
    ("kind", "config"), [(kind, config) for kind in CHECKS for config in registered(kind)], ids=str
)
def test_everything_registered_keeps_the_contract(kind: str, config: StrategyConfig) -> None:
    CHECKS[kind](config)


def broken(base: type, method: str, function: Callable[..., Any]) -> Any:
    """A strategy of a kind with one method replaced."""
    fields = {"__annotations__": {"type": Literal["broken"]}, "type": "broken", "__module__": __name__}
    config = type("Config", (base.Config,), fields)  # type: ignore[attr-defined]
    return type("Broken", (base,), {"Config": config, method: function})()


def asks(*parts: dict[str, str]) -> Callable[..., Any]:
    """A template's messages that are always these."""
    return lambda self, example: [{"role": "user", "content": list(parts)}]


def follows(name: str) -> Callable[..., None]:
    """A strength's observation that is also of an evaluation."""

    def observe(self: Any, metrics: Any) -> None:
        Thermostat.observe(self, {**metrics, "control/entropy": metrics.get(name, metrics["control/entropy"])})

    return observe


SAID: list[str | None] = []


def forgets_what_it_said(self: Any, views: Any, *_: Any) -> list[str | None]:
    SAID.append(None)
    return [None if len(SAID) % 2 else "no"] * len(views)


@pytest.mark.parametrize(
    ("check", "base", "method", "function", "rule"),
    [
        (check_strength, Strength, "at", lambda self, progress: 0.5 - progress, "not negative"),
        (check_strength, Strength, "at", lambda self, progress: float("nan"), "not negative"),
        (check_strength, Thermostat, "observe", follows("probe/entropy"), "no outcome probe"),
        (check_strength, Thermostat, "observe", follows("eval/accuracy"), "no evaluation"),
        (check_strength, Thermostat, "load_state_dict", lambda self, state: None, "restored from its state"),
        (check_gate, Gate, "leave_alone", lambda self, views, *_: [True] * len(views), "None or a reason in a word"),
        (check_gate, Gate, "leave_alone", lambda self, views, *_: ["a b"] * len(views), "None or a reason in a word"),
        (check_gate, Gate, "leave_alone", lambda self, views, *_: [None], "says something of each group"),
        (check_gate, Gate, "leave_alone", lambda self, views, *_: [None] * max(1, len(views)), "may have no group"),
        (check_gate, Gate, "leave_alone", forgets_what_it_said, "get the same answer"),
        (
            check_gate,
            Gate,
            "leave_alone",
            lambda self, views, *_: [None if random.random() < 2 else "no"] * len(views),
            "global random state",
        ),
        (check_guard, Guard, "drop", lambda self, scored, *_: [{4: "last"} for _ in scored], "by their numbers"),
        (check_guard, Guard, "drop", lambda self, scored, *_: [{0: ""} for _ in scored], "a reason in a word"),
        (check_guard, Guard, "drop", lambda self, scored, *_: [{}], "says something of each group"),
        (check_reward, AccuracyFormat, "grade", lambda self, example, text, truncated=False: 1 / 0, "never raises"),
        (
            check_reward,
            AccuracyFormat,
            "grade_all",
            lambda self, attempts: AccuracyFormat().grade_all(attempts)[::-1],
            "together as one by one",
        ),
        (
            check_template,
            ThinkBoxed,
            "messages",
            lambda self, example: [{"role": "user", "content": "Hm?"}],
            "question",
        ),
        (
            check_template,
            ThinkBoxed,
            "messages",
            lambda self, example: [
                {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Which one?"}]}
            ],
            "one image per image",
        ),
        (
            check_template,
            ThinkBoxed,
            "messages",
            lambda self, example: [
                {
                    "role": "user",
                    "content": [
                        *[{"type": "image"}] * len(example.images),
                        {"type": "text", "text": example.question},
                    ],
                }
            ],
            "images stand at their markers",
        ),
    ],
)
def test_a_breach_is_caught(check: Any, base: type, method: str, function: Any, rule: str) -> None:
    with pytest.raises(AssertionError, match=rule):
        check(broken(base, method, function))


def protected(*span: int) -> Callable[..., Any]:
    """A task's examples with a protected span."""
    return lambda self, index, split="train": replace(Bars.example(self, index, split), protected=(span,))


ANSWERS = iter(range(10**6))


@pytest.mark.parametrize(
    ("method", "value", "rule"),
    [
        ("example", protected(3, 3), "protected spans"),
        ("example", protected(0, 99), "protected spans"),
        ("example", protected(-1, 3), "protected spans"),
        ("wordings", lambda self, example: (example.question,), "wordings differ from the question"),
        ("wordings", lambda self, example: ("What?", "What?"), "wordings differ from the question"),
        ("wordings", lambda self, example: ("",), "wordings differ from the question"),
        ("wordings", lambda self, example: (f"{next(ANSWERS)}?",), "same wordings"),
        ("wordings", lambda self, example: ("What is red + red + red?",), "wordings keep the answer"),
        ("oracle", False, "exactly if it implements"),
        ("answer", Task.answer, "exactly if it implements"),
        ("answer", lambda self, example, question: "7", "answers a question as its example"),
        (
            "answer",
            lambda self, example, question: Bars.answer(self, example, question) or str(next(ANSWERS)),
            "same question has the same answer",
        ),
        (
            "answer",
            lambda self, example, question: Bars.answer(self, example, question) or "",
            "same answer, not an empty one",
        ),
        (
            "answer",
            lambda self, example, question: Bars.answer(self, example, question) or str(int(question)),
            "an oracle never raises",
        ),
    ],
)
def test_breaches_of_what_a_task_knows_of_its_questions_are_caught(method: str, value: Any, rule: str) -> None:
    with pytest.raises(AssertionError, match=rule):
        check_task(broken(Bars, method, value))


@pytest.mark.parametrize(
    ("method", "value", "rule"),
    [
        ("best_solutions", lambda self, example: (example.answer, example.answer), "differ from each other"),
        ("best_solutions", lambda self, example: ("another",), "gold answer gives one of the best"),
        ("solution", lambda self, example, answer: None, "gold answer gives one of the best"),
        ("guesses", lambda self, example, rng: {"counter": str(next(ANSWERS))}, "same source gives the same guesses"),
        ("guesses", lambda self, example, rng: {str(rng.random()): "1"}, "every draw has the same guessers"),
    ],
)
def test_breaches_of_what_a_task_knows_of_solutions_are_caught(method: str, value: Any, rule: str) -> None:
    with pytest.raises(AssertionError, match=rule):
        check_task(broken(Bars, method, value))


def test_breaches_of_tasks_are_caught() -> None:
    def drifting(self: Any, index: int, split: Any = "train") -> Any:
        self.calls = getattr(self, "calls", 0) + 1
        return replace(Bars.example(self, index, split), question=str(self.calls))

    with pytest.raises(AssertionError, match="same split and index"):
        check_task(broken(Bars, "example", drifting))
    with pytest.raises(AssertionError, match="unique"):
        check_task(broken(Bars, "example", lambda self, index, split="train": Bars.example(self, 0, split)))
    with pytest.raises(AssertionError, match="not empty"):
        check_task(
            broken(Bars, "example", lambda self, i, split="train": replace(Bars.example(self, i, split), answer=""))
        )
