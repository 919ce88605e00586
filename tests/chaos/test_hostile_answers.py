"""Golds and answers that nobody would write: each is graded or refused, and none takes long."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterator, Sequence
from itertools import islice

import pytest
from cases import LONGEST_S, SEED, Tried, acting, readable, size
from hostile import TEXTS

from saei.errors import DataError
from saei.rewards.accuracy_format import AccuracyFormat
from saei.rewards.base import Attempt, Reward
from saei.rewards.graders.base import ANSWER_TYPES
from saei.rewards.overlong import SoftOverlong
from saei.rewards.tagged import R1V, MMEureka
from saei.types import Example

PIECES = (
    "1", "2", "-3", "0", "12", "1,000", "3.14", ".5", "1/2", "007", "x", "y", "a cat", "A", "(B)", "C.", "yes", "π", "°", "%", "$",
    "cm", "m^2", "km/h", "€", "+", "-", "*", "/", "^", "**", "=", "≈", "<", ">", "\\le", "\\neq", "!", ",", ";", ":", "(", ")", "[", "]", "{", "}", "|",
    "\\frac{", "\\frac{1}{2}", "\\frac12", "\\sqrt{", "\\sqrt[3]{", "\\left(", "\\right)", "\\boxed{", "\\text{", "\\mathbf{", "\\begin{pmatrix}",
    "\\end{pmatrix}", "\\\\", "&", "\\int_0^1", "\\sum_{n=1}^{99999}", "\\lim_{x\\to 0}", "\\log", "\\sin", "\\infty", "\\pi", "e", "i", "\\cdot", "\\times",
    "\\cup", "\\in", "\\{", "\\}", "$$", "\\(", "\\)", "<answer>", "</answer>", "<think>", "</think>", "**", "`", "\n", "\t", " ", "\\", "_", "'", '"',
    "factorial", "9**9**9", "9^{9^{9}}", "10!!", "1e999", "2^{2^{2^{2}}}", "\u200b", "\u202e", "\x00", "\x1b[31m", "𝟏", "²", "½", "٣", "，", "−", "\ud800", "é",
)  # fmt: skip


def nested(open_: str, inner: str, close: str, times: int) -> str:
    return open_ * times + inner + close * times


HUGE = (
    nested("\\boxed{", "1", "}", 5000), nested("(", "1", ")", 5000), nested("{", "1", "}", 20_000), nested("\\frac{1}{", "2", "}", 3000),
    nested("\\sqrt{", "2", "}", 3000), nested("\\text{", "cat", "}", 3000), nested("**", "1", "**", 10_000), nested("$", "1", "$", 10_000),
    nested("\\left(", "1", "\\right)", 3000), "(" * 20_000, "}" * 20_000, "\\boxed{" * 20_000, "<answer>" * 20_000, "9" * 100_000, "9," * 50_000,
    "1+" * 20_000 + "1", "x^" * 5000 + "2", "a " * 50_000, "\\" * 50_000, "1/" * 20_000 + "1", "." * 50_000, "-" * 50_000 + "1", " " * 200_000, "\n" * 100_000,
    "é" * 50_000, "=" * 50_000, "1 = " * 20_000, ", ".join(map(str, range(20_000))), "A, B, " * 10_000, "1e" + "9" * 1000, "9" * 400 + "!", "1" * 5000 + "." + "1" * 5000,
    "\\frac{" + "1" * 3000 + "}{" + "7" * 3000 + "}", "&".join("1" * 3000), "10 km " * 5000, "$" * 30_000, "`" * 30_000, "1\u0301" * 10_000, "%" * 20_000,
    "x=" + "x+" * 3000 + "1", "\\int" * 3000, "\\sum_{" * 3000, "[0," * 3000, "7 < " * 8000 + "9", "not " * 20_000, "🤖" * 20_000,
)  # fmt: skip

WRAPPERS = (
    "{}",
    "\\boxed{{{}}}",
    "<think>x</think><answer>{}</answer>",
    "<think>x</think>\\boxed{{{}}}",
    "So: {}\n\\boxed{{{}}}",
    "**{}**",
    "Answer: {}",
)


def texts(chance: random.Random) -> Iterator[str]:
    """Return texts: pieces of answers thrown together, and now and then one that is huge or odd."""
    while True:
        kind = chance.random()
        if kind < 0.05:
            yield chance.choice(HUGE)
        elif kind < 0.15:
            yield chance.choice(TEXTS)
        else:
            yield "".join(chance.choice(PIECES) for _ in range(chance.choice((1, 2, 3, 5, 8, 30))))


REWARDS: dict[str, Reward] = {
    "accuracy-format": AccuracyFormat(), "r1v": R1V(), "mm-eureka": MMEureka(), "soft-overlong": SoftOverlong(SoftOverlong.Config(longest=100, buffer=20))
}  # fmt: skip


def example(gold: str, kind: str | None) -> Example:
    return Example("x", "How many?", gold, meta={} if kind is None else {"answer_type": kind})


def graded(reward: Reward, attempts: Sequence[Attempt], tried: Tried) -> None:
    begun = time.monotonic()
    grades = reward.grade_all(attempts)
    assert time.monotonic() - begun < LONGEST_S * max(1, len(attempts) / 4), attempts
    for grade in grades:
        assert math.isfinite(grade.reward)
        assert len(grade.reason) < 2000
        assert not acting(grade.reason), repr(grade.reason)
        tried("answers graded")


@pytest.mark.parametrize("name", REWARDS)
@pytest.mark.parametrize("number", range(size(1, 5)))
def test_answers(name: str, number: int, tried: Tried) -> None:
    chance = random.Random(f"{SEED} {name} {number}")
    source = texts(chance)
    for _ in range(size(12, 60)):
        gold = chance.choice(("1", "1/2", "a red cube", "x+1", "B", "3 cm", "1, 2", "(0, 1]", "yes"))
        kind = chance.choice((None, None, *ANSWER_TYPES))
        answers = [
            chance.choice(WRAPPERS).replace("{}", text).replace("{{", "{").replace("}}", "}")
            for text in islice(source, 4)
        ]
        attempts = [Attempt(example(gold, kind), text, chance.random() < 0.5, len(text)) for text in answers]
        graded(REWARDS[name], attempts, tried)


@pytest.mark.parametrize("number", range(size(1, 5)))
def test_golds(number: int, tried: Tried) -> None:
    chance = random.Random(f"{SEED} golds {number}")
    reward = REWARDS["accuracy-format"]
    for gold in islice(texts(chance), size(50, 400)):
        one = example(gold, chance.choice((None, None, *ANSWER_TYPES, "no such type")))
        begun = time.monotonic()
        try:
            reward.check(one)
        except DataError as error:
            readable(error)
            tried("golds: refused")
        else:
            tried("golds: read")
        assert time.monotonic() - begun < LONGEST_S, repr(gold[:200])
        graded(reward, [Attempt(one, f"\\boxed{{{gold}}}"), Attempt(one, "\\boxed{1}")], tried)


@pytest.mark.parametrize("huge", range(len(HUGE)))
def test_what_is_huge(huge: int, tried: Tried) -> None:
    text = HUGE[huge]
    for kind in (None, *ANSWER_TYPES) if size(0, 1) else (None,):
        one = example(text, kind)
        begun = time.monotonic()
        try:
            REWARDS["accuracy-format"].check(one)
        except DataError as error:
            readable(error)
        assert time.monotonic() - begun < LONGEST_S
        for gold, answer in ((text, text), (text, "1"), ("1", text)):
            graded(REWARDS["accuracy-format"], [Attempt(example(gold, kind), f"\\boxed{{{answer}}}")], tried)
