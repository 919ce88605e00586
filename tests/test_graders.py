"""The typed graders against answers labelled by hand, beside math-verify; hostile and unreadable answers."""

from __future__ import annotations

import contextlib
import json
import logging
import random
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from math_verify import parse, verify

from saei.data.bars import Bars
from saei.data.digits import Digits
from saei.errors import DataError
from saei.rewards.accuracy_format import AccuracyFormat
from saei.rewards.graders.answer_types import answer_key, infer_type
from saei.rewards.graders.base import ANSWER_TYPES
from saei.rewards.graders.grading import GRADERS, check_gold, grade_answers
from saei.rewards.graders.normalize import normalize
from saei.types import Example

HERE = Path(__file__).parent
TABLE: dict[str, list[list[Any]]] = yaml.safe_load((HERE / "graded_answers.yaml").read_text(encoding="utf-8"))
OTHERS: list[dict[str, Any]] = yaml.safe_load((HERE / "graded_answers_others.yaml").read_text(encoding="utf-8"))
BOTH_WAYS: list[dict[str, Any]] = yaml.safe_load((HERE / "graded_answers_both_ways.yaml").read_text(encoding="utf-8"))
ROWS = [(kind, *row[:3], row[3] if len(row) > 3 else {}) for kind, rows in TABLE.items() for row in rows]
TOWERS = ("9**9**9", "9^{9^{9}}")


def example(gold: str, kind: str | None = None, **meta: Any) -> Example:
    return Example("x", "?", gold, meta=meta | ({"answer_type": kind} if kind else {}))


def test_the_table_is_of_every_type_and_large_enough() -> None:
    assert set(TABLE) == set(GRADERS) == set(ANSWER_TYPES)
    assert len(ROWS) >= 200
    assert all({label for _, _, label, *_ in rows} == {"right", "wrong"} for rows in TABLE.values())


def test_every_label_of_the_table() -> None:
    pairs = [(example(gold, kind, **meta), answer) for kind, gold, answer, _, meta in ROWS]
    for one, _ in pairs:
        check_gold(one)
    verdicts = grade_answers(pairs)
    disagreed = [
        (*row, verdict.reason)
        for row, verdict in zip(ROWS, verdicts, strict=True)
        if verdict.correct != (row[3] == "right")
    ]
    assert disagreed == []
    assert all(verdict.reason.isprintable() and len(verdict.reason) < 200 for verdict in verdicts)


def test_a_type_grades_alike_whether_it_is_told_or_inferred() -> None:
    """Every labelled pair runs twice; of the table of types the rows whose type the gold answer looks like."""
    labelled = [(gold, answer, label, {}) for group in BOTH_WAYS for gold, answer, label in group["pairs"]]
    labelled += [
        (gold, answer, label, meta)
        for kind, gold, answer, label, meta in ROWS
        if infer_type(gold, tuple(meta.get("choices", ()))) == kind
    ]
    assert len(labelled) >= 650
    assert all(group["why"].strip() for group in BOTH_WAYS)
    pairs = []
    for gold, answer, _, meta in labelled:
        for kind in (None, infer_type(gold, tuple(meta.get("choices", ())))):
            pairs.append((example(gold, kind, **meta), answer))
            check_gold(pairs[-1][0])
    verdicts = grade_answers(pairs)
    disagreed = [
        (one.answer, answer, one.meta.get("answer_type", "inferred"), verdict.reason, label)
        for (one, answer), verdict, label in zip(
            pairs, verdicts, [row[2] for row in labelled for _ in range(2)], strict=True
        )
        if verdict.correct != (label == "right")
    ]
    assert disagreed == []


def test_where_math_verify_disagrees_is_explained() -> None:
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    explained = {
        (kind, gold, answer) for group in OTHERS for kind, gold, answer, who in group["cases"] if "math-verify" in who
    }
    found = set()
    for kind, gold, answer, label, _ in ROWS:
        if answer not in TOWERS:
            read = [parse(text, parsing_timeout=None) for text in (f"${gold}$", f"\\boxed{{{answer}}}")]
            if verify(*read, timeout_seconds=None) != (label == "right"):
                found.add((kind, gold, answer))
    assert found == explained
    assert all(group["why"].strip() and group["right"] in ("table", "either") for group in OTHERS)
    known = {row[:3] for row in ROWS}
    assert all(tuple(case[:3]) in known for group in OTHERS for case in group["cases"])


@pytest.mark.parametrize(
    ("gold", "kind"),
    [
        ("C", "letter"),
        ("(B)", "letter"),
        ("Yes", "yes-no"),
        ("false", "yes-no"),
        ("145", "integer"),
        ("145°", "integer"),
        ("1,000", "integer"),
        ("12 cm", "integer"),
        ("x = 5", "integer"),
        ("13.9", "number"),
        ("5.0", "number"),
        ("3/4", "number"),
        ("8\\sqrt{3}", "number"),
        ("50%", "number"),
        ("[1, 2]", "list"),
        ("1, 2", "list"),
        ("(1, 2)", "expression"),
        ("x+1", "expression"),
        ("\\frac{a}{b}", "expression"),
        ("x", "expression"),
        ("red", "text"),
        ("left of", "text"),
    ],
)
def test_a_type_that_is_not_told_is_inferred(gold: str, kind: str) -> None:
    assert infer_type(gold) == kind
    assert answer_key(example(gold)).type == kind


def test_options_decide_the_inferred_type() -> None:
    assert infer_type("40", ("30", "40")) == "choice"
    assert infer_type("B", ("30", "40")) == "letter"
    assert infer_type("B", ("A", "B")) == "choice"


@pytest.mark.parametrize(
    ("gold", "meta", "said"),
    [
        ("5", {"answer_type": "nummer"}, "Did you mean 'number'"),
        ("", {"answer_type": "text"}, "it is empty"),
        ("40", {"answer_type": "letter"}, "not a single letter"),
        ("D", {"answer_type": "letter", "choices": ("1", "2")}, "no option has this letter"),
        ("45", {"answer_type": "choice", "choices": ("30", "40")}, "none of the options"),
        ("45", {"answer_type": "choice"}, "none of the options"),
        ("maybe", {"answer_type": "yes-no"}, "neither yes nor no"),
        ("5.5", {"answer_type": "integer"}, "not a whole number"),
        ("five", {"answer_type": "number"}, "not a number"),
        ("\\frac{", {"answer_type": "expression"}, "cannot be read"),
        ("see the picture", {"answer_type": "expression"}, "words, not an expression"),
        ("()", {"answer_type": "list"}, "no items"),
        ("1.5", {"answer_type": "number", "precision": "one"}, "`precision`"),
        ("1.5", {"answer_type": "number", "tolerance": -1}, "`tolerance`"),
        ("1.5", {"answer_type": "number", "precision": 10**400}, "`precision`"),
        ("1.5", {"choices": 5}, "`choices`"),
        ("1.5", {"choices": "ABC"}, "`choices`"),
        ("1", {"answer_type": "choice", "choices": ["1"] * 101}, "over 100 options"),
        ("1", {"answer_type": "choice", "choices": ["1", "1" * 2001]}, "over 2000 characters"),
        ("1" * 2001, {"answer_type": "integer"}, "longer than 2000 characters"),
    ],
)
def test_a_gold_answer_that_cannot_be_read_is_an_error_and_never_right(gold: str, meta: Any, said: str) -> None:
    one = Example("row 7", "?", gold, meta=meta)
    with pytest.raises(DataError, match=said) as error:
        check_gold(one)
    assert "row 7" in error.value.reason
    assert error.value.remedy
    assert not grade_answers([(one, gold or "x")])[0].correct


def test_built_in_gold_answers_are_read_without_algebra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saei.rewards.graders.workers.Workers._send", None)
    for task in (Bars(), Digits(), Bars(Bars.Config(level=3)), Digits(Digits.Config(level=3))):
        for index in range(40):
            one = task.example(index)
            check_gold(one)
            assert answer_key(one).type in ("integer", "text")
            assert grade_answers([(one, one.answer)])[0].correct


HOSTILE = (
    "(" * 100_000,
    "{" * 100_000,
    "[(" * 40 + "1" + ")]" * 40,
    "$" * 100_000,
    "$" * 1999,
    "\\text{" * 300 + "}" * 300,
    "\\frac{" * 300,
    "\\sqrt" * 300 + "2",
    "-" * 1999 + "5",
    "9" * 100_000,
    "9" * 1999,
    "1," * 999,
    "1 " * 999,
    "A" * 1999,
    " " * 100_000,
    "\x00\x1b[31m\x07\ud800",
    "<script>alert(1)</script>",
    "yes " * 499,
    "9**9**9**9",
    "10^{10^{10}}",
    "1e999",
    "1e-999999999",
    "\\frac{1}{0}",
    "0^{-1}",
    "0^0",
    "\\sqrt[0]{2}",
    "(-1)^{1/2}",
    "2^{1/13}",
    "2^{4096}",
    "\u202e\u200b5",
)


@pytest.mark.parametrize("kind", [None, *ANSWER_TYPES])
def test_hostile_answers_are_wrong_at_once_and_printable(kind: str | None) -> None:
    meta = {"choices": ("7", "8")} if kind in ("choice", "letter") else {}
    gold = {"letter": "A", "yes-no": "Yes", "text": "seven", "list": "[7, 8]", "expression": "x+7"}.get(kind or "", "7")
    start = time.process_time()
    verdicts = grade_answers([(example(gold, kind, **meta), answer) for answer in HOSTILE])
    assert time.process_time() - start < 5  # a hundred times what it takes: nothing is worse than linear
    assert not any(verdict.correct for verdict in verdicts)
    for verdict in verdicts:
        assert verdict.reason
        assert verdict.reason.isprintable()
        assert json.loads(json.dumps(verdict.reason)) == verdict.reason


WRAPPERS = (
    ("\\text{", "}"),
    ("\\boxed{", "}"),
    ("\\boxed{\\text{The answer is ", ".}}"),
    ("the answer is: ", "."),
    ("$", "$"),
    ("\\(", "\\)"),
    ("**", "**"),
    ("(", ")"),
    ("{", "}"),
    ("\\sqrt{", "}"),
)


@pytest.mark.parametrize(("opening", "closing"), WRAPPERS)
def test_wrappers_in_wrappers_take_linear_time(opening: str, closing: str) -> None:
    """Peeling a layer off by copying the rest took 60 CPU seconds for the first."""
    start = time.process_time()
    normalize(opening * 10_000 + "5" + closing * 10_000)
    assert time.process_time() - start < 2


def test_a_gold_answer_of_any_length_is_checked_at_once() -> None:
    start = time.process_time()
    for kind in (None, *ANSWER_TYPES):
        one = example("\\text{" * 3000 + "5" + "}" * 3000, kind)
        if kind in (None, "text"):
            check_gold(one)
        else:
            with pytest.raises(DataError, match=r"longer than 2000 characters|not a single letter|none of the options"):
                check_gold(one)
        assert not grade_answers([(one, "5")])[0].correct
        assert grade_answers([(one, one.answer)])[0].correct == (kind in (None, "text"))
    assert time.process_time() - start < 0.5


ATOMS = (
    *("\\text{", "\\frac{", "\\sqrt", "\\sqrt[", "]", "{", "}", "(", ")", "[", "$", "\\(", "\\]", "**", "*", "`", "|"),
    *("9**9**9", "9^{9^{9}}", "1e999", "1" * 50, "1,000", "1 1/2", "3.14", "12", "\x00", "\ud800", "\u202e", "\ufdfa"),
    *(
        "½",
        "²",
        "°",
        "°C",
        "€",
        "%",
        " percent",
        " and ",
        " or ",
        ",",
        ";",
        "=",
        "≈",
        "<",
        "\\le",
        "\\pi",
        "cm",
        " m/s ",
    ),
    *("\\mathrm{~m}", "x", "AB", "cat", "A", "B. ", "yes", "the answer is ", "+", "-", "/", "^", "_", "!", "\\infty"),
    *(
        "\\begin{pmatrix}",
        "\\int_0^1",
        "\u0301\u0323",
        "٣",
        "。",
        "\uff08",
        " ",
        "\n",
        "\\,",
        "{,}",
        "sqrt(",
        "per",
        "squared",
    ),
)
PLAIN = (
    "5",
    "1/2",
    "8\\sqrt{3}",
    "25\\pi",
    "x^2+1",
    "(1,2)",
    "1, 2",
    "A",
    "Yes",
    "a cat",
    "28%",
    "30°C",
    "$12",
    "y=2x",
)


def hostile(chance: random.Random) -> str:
    """Return a few atoms, a thousand of one, a nest of two, or an ordinary answer with one in its middle."""
    a, b, shape = chance.choice(ATOMS), chance.choice(ATOMS), chance.random()
    if shape < 0.5:
        return "".join(chance.choices(ATOMS, k=chance.randint(1, 40)))
    if shape < 0.6:
        return a * chance.choice((10, 400, 20_000))
    if shape < 0.7:
        return a * 1000 + "5" + b * 1000
    gold = chance.choice(PLAIN)
    place = chance.randint(0, len(gold))
    return gold[:place] + a + gold[place:]


def test_no_gold_answer_and_no_response_escapes(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the main process; the limits of algebra have their tests beside its workers."""
    monkeypatch.setattr("saei.rewards.graders.workers.Workers._send", lambda self, message: (True, "not asked"))
    chance = random.Random(0)
    reward = AccuracyFormat()
    start = time.process_time()
    for _ in range(1500):
        meta: dict[str, Any] = {"answer_type": kind} if (kind := chance.choice((None, *ANSWER_TYPES))) else {}
        if chance.random() < 0.2:
            meta |= {"choices": [hostile(chance), "5"], "unit": hostile(chance)}
        one = example(hostile(chance) if chance.random() < 0.5 else chance.choice(PLAIN), **meta)
        with contextlib.suppress(DataError):
            check_gold(one)
        grade = reward.grade(one, f"<think></think> \\boxed{{{hostile(chance)}}}")
        assert grade.reason.isprintable()
        assert len(grade.reason) < 250
    assert time.process_time() - start < 30
