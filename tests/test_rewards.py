r"""The accuracy-format reward: hand-worked grades, the published pattern as reference, hostile text."""

from __future__ import annotations

import itertools
import re
import time

import pytest

from saei.rewards.accuracy_format import AccuracyFormat
from saei.rewards.extraction import last_boxed, well_formed
from saei.rewards.graders.words import same_answer
from saei.types import Example

GOOD = "<think>3 + 2 = 5</think> \\boxed{5}"
PUBLISHED = re.compile(r"<think>.*</think>.*\\boxed{.*}.*", re.DOTALL)


def example(answer: str = "5") -> Example:
    return Example("x", "?", answer)


@pytest.mark.parametrize(
    ("text", "reward", "correct", "answer"),
    [
        (GOOD, 1.0, True, "5"),
        ("\\boxed{5}", 0.9, True, "5"),
        ("<think>3 + 2</think> \\boxed{4}", 0.1, False, "4"),
        ("<think>3 + 2</think> 5", 0.0, False, None),
        ("<think>\\boxed{5}</think> \\boxed{6}", 0.1, False, "6"),
        ("", 0.0, False, None),
    ],
)
def test_hand_worked_grades(text: str, reward: float, correct: bool, answer: str | None) -> None:
    grade = AccuracyFormat().grade(example(), text)
    assert grade.reward == pytest.approx(reward, abs=1e-12)
    assert (grade.correct, grade.answer) == (correct, answer)


def test_weights_are_configurable() -> None:
    reward = AccuracyFormat(AccuracyFormat.Config(accuracy=0.5, format=0.5))
    assert reward.grade(example(), GOOD).reward == 1.0
    assert reward.grade(example(), "\\boxed{5}").reward == 0.5


def test_form_is_the_published_pattern() -> None:
    parts = ["<think>", "</think>", "\\boxed{", "}", "\n"]
    checked = set()
    for length in range(7):
        for choice in itertools.product(parts, repeat=length):
            text = "".join(choice)
            expected = PUBLISHED.fullmatch(text) is not None
            assert well_formed(text) == expected, text
            checked.add(expected)
    assert checked == {True, False}


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("\\boxed{1} and \\boxed{2}", "2"),
        ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("\\boxed{ \\{1, 2\\} }", "\\{1, 2\\}"),
        ("\\boxed{}", ""),
        ("\\boxed{5", None),
        ("\\boxed{1} \\boxed{2", None),
        ("boxed{5}", None),
    ],
)
def test_the_last_box_is_read_with_its_braces(text: str, answer: str | None) -> None:
    assert last_boxed(text) == answer


@pytest.mark.parametrize(
    ("given", "gold", "same"),
    [
        ("5", "5", True),
        (" left  of", "left of", True),
        ("5.0", "5", True),
        ("+5", "5", True),
        ("0.5", "1/2", True),
        ("2/4", "0.5", True),
        ("1,000", "1000", True),
        ("-3", "3", False),
        ("1/0", "0", False),
        ("1/0", "1/0", True),
        ("5", "left", False),
        ("", "", False),
        ("nan", "0", False),
        ("inf", "0", False),
        ("1e3", "1000", False),
        ("\u0665", "5", False),
    ],
)
def test_answers_are_compared_as_text_and_as_numbers(given: str, gold: str, same: bool) -> None:
    assert same_answer(given, gold) is same


@pytest.mark.parametrize(
    "text",
    [
        "{" * 100_000,
        "\\boxed{" * 15_000,
        "\\boxed{" + "{}" * 50_000,
        "\\boxed{" + "9" * 100_000 + "}",
        "\\boxed{" + "1/" * 50_000 + "}",
        "<think>" * 10_000 + "</think>" * 10_000,
        "<think>" + "</think>\\boxed{" * 8_000,
        "\\" * 100_000,
        "\x00\ud800" * 1000,
    ],
    ids=lambda text: ascii(text[:20]),
)
def test_hostile_text_is_graded_at_once(text: str) -> None:
    start = time.process_time()
    grade = AccuracyFormat().grade(example(), text)
    assert time.process_time() - start < 0.5
    assert not grade.correct
