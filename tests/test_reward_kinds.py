"""Conventions, sums, length, functions: against the published patterns and formulas, and by hand."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from saei.builtin.vocabulary import LARGEST_NUMBER, SIGNS, WORDS
from saei.config.run import validate
from saei.config.sections import SamplingConfig
from saei.engine.setup import build_strategies
from saei.errors import ConfigError, DataError, PluginLoadError, TrainingError
from saei.intake.stream import ViewStream
from saei.policy import Policy
from saei.rewards.accuracy_format import AccuracyFormat
from saei.rewards.base import Attempt, Reward
from saei.rewards.extraction import last_boxed, last_tagged, thinks_and_answers_once, thinks_then_answers, well_formed
from saei.rewards.function import Function
from saei.rewards.graders.words import same_answer
from saei.rewards.overlong import SoftOverlong
from saei.rewards.sum import Sum
from saei.rewards.tagged import R1V, MMEureka
from saei.types import CLEAN, Example, Grade, View

R1V_FORM = re.compile(r"<think>.*?</think>\s*<answer>.*?</answer>", re.DOTALL)
EUREKA_FORM = re.compile(r"<think>.+?</think>\s*<answer>.+?</answer>", re.DOTALL)
TAGS = ("<think>", "</think>", "<answer>", "</answer>")
TAGGED = "<think>3 + 2 = 5</think> <answer>5</answer>"
BOXED = "<think>3 + 2 = 5</think> \\boxed{5}"


def example(answer: str = "5", **meta: Any) -> Example:
    return Example("x", "?", answer, meta=meta)


# --- conventions -----------------------------------------------------------------------------------------------------


def test_forms_are_the_published_patterns() -> None:
    pieces = [*TAGS, " ", "a"]
    checked = set()
    for length in range(7):
        for choice in itertools.product(pieces, repeat=length):
            text = "".join(choice)
            assert thinks_and_answers_once("a" + text) == thinks_and_answers_once(text)
            whole = R1V_FORM.fullmatch(text) is not None
            assert thinks_then_answers(text) == whole, text
            once = all(text.count(tag) == 1 for tag in TAGS) and EUREKA_FORM.search(text) is not None
            assert thinks_and_answers_once(text) == once, text
            checked.add((whole, once))
    assert checked == {(True, True), (True, False), (False, False)}


@pytest.mark.parametrize(
    ("reward", "text", "expected"),
    [
        (AccuracyFormat(), BOXED, 1.0),
        (AccuracyFormat(), "\\boxed{5}", 0.9),
        (AccuracyFormat(), TAGGED, 0.0),
        (R1V(), TAGGED, 1.0),
        (R1V(), "<answer>5</answer>", 0.5),
        (R1V(), TAGGED.replace("<answer>5", "<answer>4"), 0.5),
        (R1V(), "Well. " + TAGGED, 0.5),  # nothing may stand around the form, as it may in MM-Eureka's
        (R1V(), BOXED, 0.0),
        (MMEureka(), TAGGED, 1.5),
        (MMEureka(), "Well. " + TAGGED + " So there.", 1.5),
        (MMEureka(), "<answer>5</answer>", 1.0),
        (MMEureka(), TAGGED.replace("<answer>5", "<answer>4"), 0.5),
        (MMEureka(), TAGGED + TAGGED, 1.0),
        (MMEureka(), "5", 0.0),
    ],
)
def test_presets_weigh_as_their_projects_do(reward: Reward, text: str, expected: float) -> None:
    assert reward.grade(example(), text).reward == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<answer> 5 </answer>", "5"),
        ("<answer>4</answer> no, <answer>5</answer>", "5"),
        ("<answer>It is \\boxed{5}.</answer>", "5"),
        ("<answer><answer>5</answer>", "5"),
        ("<answer>5", None),
        ("5</answer>", None),
        ("</answer>5<answer>", None),
        ("<answer></answer>", ""),
    ],
)
def test_the_last_answer_tags_are_read(text: str, answer: str | None) -> None:
    assert last_tagged(text) == answer


def test_a_grade_says_why() -> None:
    reward = AccuracyFormat()
    texts = (BOXED, "\\boxed{6}", "5", "\\boxed{}", "\\boxed{\x1b[31m\n}")
    reasons = [reward.grade(example(), text).reason for text in texts]
    assert reasons == [
        "the same text",
        "another number: 6",
        "no final answer",
        "an empty answer",
        "no number: '\\u001b[31m'",
    ]


# --- the built-in tasks ----------------------------------------------------------------------------------------------


def test_rewards_of_built_in_tasks_are_those_of_the_plain_comparison() -> None:
    """Every answer of one or two words of the built-in model's vocabulary, to gold answers of its tasks."""
    numbers = [str(number) for number in (*range(13), 55, LARGEST_NUMBER)]
    pieces = [*WORDS, *numbers, *(sign for sign in SIGNS if sign not in ("\\boxed{", "}"))]
    seconds = ["", *pieces, *(f" {piece}" for piece in pieces)]
    reward = AccuracyFormat()
    for gold in ("5", "12", "red", "-3"):
        attempts = [
            Attempt(example(gold), f"<think>so</think> \\boxed{{{first}{second}}}")
            for first, second in itertools.product([*pieces, "-3", "1,2", "1 2", "5."], seconds)
        ]
        for attempt, grade in zip(attempts, reward.grade_all(attempts), strict=True):
            answer = last_boxed(attempt.text)
            # A stop or comma behind says nothing; nor do a colon around words, and a + or = before a number.
            if gold == "red":
                plain = (answer or "").strip(" .,:")
            else:
                plain = re.sub(r"^[=+] ?|(?<=^-) |(?<![ .,]) ?[.,]$", "", answer or "")
            right = same_answer(plain, gold)
            assert grade.correct == right, (gold, answer)
            assert grade.reward == 0.9 * right + 0.1 * well_formed(attempt.text)


# --- batches and gold answers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("reward", [AccuracyFormat(), R1V(), MMEureka()], ids=lambda reward: reward.name())
def test_together_is_one_by_one(reward: Reward) -> None:
    golds = ("5", "x^2+2x+1", "C", "red")
    answers = ("5", "(x+1)^2", "1+x^2+2x", "C. 5", "red", "x+")
    texts = [text for answer in answers for text in (f"<answer>{answer}</answer>", f"\\boxed{{{answer}}}")]
    attempts = [Attempt(example(gold), text) for gold in golds for text in texts]
    together = reward.grade_all(attempts)
    assert sum(grade.correct for grade in together) == 5
    for attempt, grade in zip(attempts, together, strict=True):
        alone = reward.grade(attempt.example, attempt.text)
        assert (alone.reward, alone.correct, alone.answer, alone.reason) == (
            grade.reward,
            grade.correct,
            grade.answer,
            grade.reason,
        )


class _Golds:
    """A task of text-only examples with these gold answers."""

    def __init__(self, *golds: str) -> None:
        self._golds = golds

    def size(self, split: str) -> int:
        return len(self._golds)

    def name(self) -> str:
        return "golds"

    def example(self, index: int, split: str) -> Example:
        return example(self._golds[index], answer_type="integer")

    def wordings(self, example: Example) -> tuple[str, ...]:
        return ()


def test_unreadable_gold_answers_are_found_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    class Viewer:
        sampling = SamplingConfig()

        def view(self, one: Example, index: int) -> View:
            return View(one, CLEAN, torch.zeros(1), torch.zeros(1, 1), index=index)

    def stream(*golds: str, share: float) -> ViewStream:
        task: Any = _Golds(*golds)
        policy: Policy = Viewer()  # type: ignore[assignment]
        return ViewStream(task, policy, seed=0, max_bad_share=share, reward=AccuracyFormat())

    with pytest.raises(DataError, match=r"2 of 3 are unusable.*'five'"):
        stream("5", "five", "six", share=0.5).preflight()
    tolerant = stream("5", "five", "6", share=0.5)
    tolerant.preflight()
    assert "not a number" in tolerant.unreported()[0]
    assert {view.example.answer for view in tolerant.take(8)} == {"5", "6"}


# --- length ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("length", "penalty"), [(0, 0.0), (80, 0.0), (81, -0.05), (90, -0.5), (100, -1.0), (101, -1.0), (5000, -1.0)]
)
def test_overlong_penalty(length: int, penalty: float) -> None:
    reward = SoftOverlong(SoftOverlong.Config(longest=100, buffer=20))
    grade = reward.grade_all([Attempt(example(), "text", length=length)])[0]
    assert grade.reward == pytest.approx(penalty, abs=1e-12)
    expected = 0.0 if length <= 80 else (80 - length) / 20 if length <= 100 else -1.0  # equation 13 of the paper
    assert grade.reward == pytest.approx(expected, abs=1e-12)
    assert not grade.correct


def test_overlong_without_a_length() -> None:
    reward = SoftOverlong(SoftOverlong.Config(longest=100, buffer=20))
    assert reward.grade(example(), "text").reward == 0
    assert reward.grade(example(), "text", truncated=True).reward == -1
    with pytest.raises(ValidationError, match="20 tokens of 10"):
        SoftOverlong.Config(longest=10, buffer=20)


@pytest.mark.parametrize(("free", "refused"), [(7, False), (8, True)])
def test_a_penalty_that_no_response_reaches_is_refused(free: int, refused: bool) -> None:
    """Responses of at most 8 tokens, and a penalty above `free` tokens."""
    penalty = {"type": "soft-overlong", "longest": free + 4, "buffer": 4}
    config = validate(
        {"reward": {"type": "sum", "of": ["accuracy-format", penalty]}, "sampling": {"max_new_tokens": 8}}
    )
    if refused:
        with pytest.raises(ConfigError, match=r"begins above 8 tokens.*max_new_tokens is 8"):
            build_strategies(config)
    else:
        build_strategies(config)


# --- sums ------------------------------------------------------------------------------------------------------------


def test_a_sum_adds_weighted_rewards_and_keeps_their_parts() -> None:
    config = Sum.Config.model_validate(
        {"of": ["accuracy-format", {"type": "soft-overlong", "longest": 100, "buffer": 20}], "weights": [1, 0.5]}
    )
    reward = config.build()
    grade = reward.grade_all([Attempt(example(), BOXED, length=90)])[0]
    assert grade.reward == pytest.approx(1.0 - 0.25, abs=1e-12)
    assert (grade.correct, grade.answer) == (True, "5")
    assert grade.parts == {"accuracy": 1.0, "format": 1.0, "overlong": -0.5}
    assert grade.reason == "the same text; 90 tokens"
    assert Sum.Config.model_validate(config.model_dump(mode="json")) == config


def test_parts_of_one_name_are_told_apart() -> None:
    reward = Sum.Config.model_validate({"of": ["accuracy-format", "r1v"]}).build()
    grade = reward.grade(example(), "<think>5</think><answer>\\boxed{5}</answer>")
    assert grade.reward == pytest.approx(2.0, abs=1e-12)
    assert set(grade.parts) == {
        f"{name}/{part}" for name in ("accuracy-format", "r1v") for part in ("accuracy", "format")
    }
    with pytest.raises(DataError):
        reward.check(example("five", answer_type="number"))


def test_a_sum_has_one_weight_each() -> None:
    with pytest.raises(ValidationError, match="2 rewards, 1 weights"):
        Sum.Config.model_validate({"of": ["accuracy-format", "r1v"], "weights": [1]})
    with pytest.raises(ValidationError):
        Sum.Config.model_validate({"of": []})


# --- functions -------------------------------------------------------------------------------------------------------

FUNCTIONS = """
from __future__ import annotations

from dataclasses import dataclass

from saei.types import Grade

@dataclass
class Limits:  # which looks for its module among the imported ones
    short: int = 10

def brevity(example, text, *, truncated):
    return 1.0 if len(text) < Limits().short else 0.25

def graded(example, text, *, truncated):
    return Grade(2.0, text == example.answer, {"own": 1.0}, text, "compared")

def failing(example, text, *, truncated):
    return 1 / len(text)

def infinite(example, text, *, truncated):
    return float("inf")

number = 5
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(FUNCTIONS)
    return tmp_path / "mine.py"


def test_a_function_of_a_file_or_module_is_a_reward(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = Function.Config(path="./mine.py:brevity")
    assert config.path == f"{file}:brevity"  # a resumed run finds it from any folder
    short, long = (config.build().grade(example(), text) for text in ("short", "a longer text"))
    assert (short.reward, short.correct, long.reward, long.correct) == (1.0, True, 0.25, False)
    graded: Grade = Function.Config(path=f"{file}:graded").build().grade(example(), "5")
    assert (graded.reward, graded.correct, graded.reason) == (2.0, True, "compared")
    monkeypatch.syspath_prepend(str(file.parent))
    assert Function.Config(path="mine:brevity", correct_from=0.2).build().grade(example(), "a longer text").correct


@pytest.mark.parametrize(("name", "said"), [("failing", "ZeroDivisionError"), ("infinite", "the reward is inf")])
def test_what_a_function_raises_stops_the_run_with_the_case(file: Path, name: str, said: str) -> None:
    with pytest.raises(TrainingError, match=said) as error:
        Function.Config(path=f"{file}:{name}").build().grade(example(), "")
    assert "example x" in error.value.reason
    assert error.value.__cause__ is not None


@pytest.mark.parametrize("path", ["mine.py:absent", "mine.py:number", "absent.py:brevity", "no.such.module:f"])
def test_a_function_that_is_not_there_is_an_error(file: Path, path: str) -> None:
    with pytest.raises(PluginLoadError, match="importable"):
        Function.Config(path=path).build()


@pytest.mark.parametrize("path", ["mine", "mine:", ":f", "mine.py:not a name"])
def test_a_function_is_named_by_module_and_name(path: str) -> None:
    with pytest.raises(ValidationError, match="module:function"):
        Function.Config(path=path)
