"""Changed questions: the oracle's answers against the picture, other wordings, and what single swaps of words reach."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from saei.builtin import builtin_path
from saei.builtin.vocabulary import WORDS, build_tokenizer
from saei.config.registry import load
from saei.config.sections import BUILTIN, BUILTIN_LOCK_IN
from saei.data.arithmetic import ARITY
from saei.data.base import Task
from saei.data.dataset import Dataset
from saei.data.images import COLOURS
from saei.data.lock_in import LockIn, draw_question
from saei.types import Example
from test_tasks import handwriting_seen, heights_seen, unlit

GENERATED: list[tuple[str, dict[str, Any]]] = [
    *(("bars", {"level": level}) for level in (1, 2, 3)),
    *(("digits", {"level": level}) for level in (1, 2, 3)),
    ("lock-in", {}),
    ("shapes", {}),
]


def make(name: str, **fields: Any) -> Any:
    cls = load("task", name)
    return cls(cls.Config(**fields))


def examples(name: str, count: int, **fields: Any) -> Iterator[tuple[Task, Example]]:
    task = make(name, **fields)
    for index in range(count):
        yield task, task.example(index)


def with_meta(example: Example, **changes: Any) -> Example:
    return replace(example, meta={**example.meta, **changes})


def digits_seen(example: Example) -> dict[str, int]:
    from sklearn.datasets import load_digits

    data = load_digits()
    labels = {image.astype(int).tobytes(): int(label) for image, label in zip(data.images, data.target, strict=True)}
    return {colour: labels[cell.tobytes()] for colour, cell in handwriting_seen(example)}


def winner(values: dict[str, int], names: tuple[str, ...], sign: int) -> str | None:
    ranked = sorted(names, key=lambda name: sign * values[name])
    return None if len(names) > 1 and values[ranked[0]] == values[ranked[1]] else ranked[0]


@pytest.mark.parametrize(("name", "seen"), [("bars", heights_seen), ("lock-in", heights_seen), ("digits", digits_seen)])
def test_every_question_about_numbers_is_answered_from_the_picture(name: str, seen: Any) -> None:
    noun, higher, lower = ("digit", "larger", "smaller") if name == "digits" else ("bar", "higher", "lower")
    for task, example in examples(name, 12):
        values = seen(example)
        for first, second in itertools.product(COLOURS, repeat=2):
            pictured = first in values and second in values
            for sign, degree in ((-1, higher), (1, lower)):
                expected = winner(values, (first, second), sign) if pictured else None
                assert task.answer(example, f"Which {noun} is {degree}, {first} or {second}?") == expected
            for sign in "+-*":
                text = f"{first} {sign} {second}"
                total = eval(text, {}, values) if pictured else -1
                assert task.answer(example, f"What is {text}?") == (None if total < 0 else str(total))
            gap = str(abs(values[first] - values[second])) if pictured else None
            assert task.answer(example, f"What is the difference between {first} and {second}?") == gap
        for names in itertools.product(values, repeat=3):
            for signs in itertools.product("+-*", repeat=2):
                text = f"{names[0]} {signs[0]} {names[1]} {signs[1]} {names[2]}"
                total = eval(text, {}, values)
                assert task.answer(example, f"What is {text}?") == (None if total < 0 else str(total))
        for colour in COLOURS:
            question = f"What is the {colour} digit?" if name == "digits" else f"How high is the {colour} bar?"
            assert task.answer(example, question) == (str(values[colour]) if colour in values else None)
        highest, lowest = ("largest", "smallest") if name == "digits" else ("highest", "lowest")
        assert task.answer(example, f"Which {noun} is {highest}?") == winner(values, tuple(values), -1)
        assert task.answer(example, f"Which {noun} is {lowest}?") == winner(values, tuple(values), 1)


def test_every_question_about_places_is_answered_from_the_picture() -> None:
    palette = np.array([*COLOURS.values(), (225, 225, 225)], dtype=float)
    answers = set()
    for task, example in examples("shapes", 60):
        nearest = ((unlit(example)[:, :, None] - palette) ** 2).sum(-1).argmin(-1)
        centre = {c: np.argwhere(nearest == i).mean(0) for i, c in enumerate(COLOURS) if (nearest == i).sum() > 60}
        for first, second in itertools.permutations(example.meta["names"]):
            down, right = centre[first.split()[0]] - centre[second.split()[0]]
            for (low, high), apart in ((("left", "right"), right), (("above", "below"), down)):
                truth = None if abs(apart) < 8 else low if apart < 0 else high
                for relation in (low, high):
                    of = " of" if low == "left" else ""
                    expected = None if truth is None else "yes" if truth == relation else "no"
                    assert task.answer(example, f"Is the {first} {relation}{of} the {second}?") == expected
                    answers.add((expected, truth))
                assert task.answer(example, f"Is the {first} {low} or {high} of the {second}?") == truth
        first, second = example.meta["names"]
        assert task.answer(example, f"Is the {first} left of the {first}?") is None
        assert task.answer(example, f"Is the {first} left of the purple circle?") is None
        assert task.answer(example, f"Is the {first} left or below the {second}?") is None
    assert len(answers) == 9  # yes and no for each of four directions, and neither


@pytest.mark.parametrize(("name", "fields"), GENERATED, ids=str)
def test_wordings_are_other_words_for_the_same(name: str, fields: dict[str, Any]) -> None:
    """Whatever the picture were, a wording would have the answer of the question itself."""
    rng = np.random.default_rng(0)
    for task, example in examples(name, 60, **fields):
        wordings = task.wordings(example)
        assert len(wordings) >= 2
        assert len({example.question, *wordings}) == 1 + len(wordings)
        for _ in range(8):
            if name == "shapes":
                cells = {shape: tuple(rng.integers(4, size=2).tolist()) for shape in example.meta["names"]}
                other = with_meta(example, cells=cells)
            else:
                numbers = {key: int(rng.integers(10)) for key in example.meta["quantities"]}
                other = with_meta(example, quantities=numbers)
            answer = task.answer(other, example.question)
            for wording in wordings:  # of a difference below zero there is no question
                assert answer is None or task.answer(other, wording) == answer


def test_every_kind_of_question_has_wordings() -> None:
    for kind in ARITY:
        example = draw_question(np.random.default_rng(2), "clear", "x", (kind,))
        assert LockIn().answer(example, example.question) == example.answer
        assert len(LockIn().wordings(example)) >= 2


def test_wordings_worked_out_by_hand() -> None:
    def of(kind: str, *names: str) -> tuple[str, ...]:
        meta = {"kind": kind, "names": names, "values": tuple(range(len(names)))}
        return make("bars").wordings(Example("x", "?", "?", meta=meta))

    assert of("add-subtract", "red", "blue", "green") == (
        "What is red plus blue minus green?",
        "What is blue + red - green?",
    )
    assert of("add-add", "red", "blue", "green")[2] == "What is the sum of red, blue and green?"
    assert of("subtract", "red", "blue") == ("What is red minus blue?", "What is the difference between red and blue?")
    assert of("compare", "red", "blue")[0] == "Which bar is higher, blue or red?"


@pytest.mark.parametrize(("name", "fields"), GENERATED, ids=str)
@pytest.mark.parametrize("model", [BUILTIN, BUILTIN_LOCK_IN])
def test_the_built_in_models_know_every_word_of_the_wordings(name: str, fields: dict[str, Any], model: str) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(builtin_path(model))
    unknown = {id for token, id in tokenizer.get_vocab().items() if token.startswith("<0x")} | {tokenizer.unk_token_id}
    assert len(unknown) == 257
    for task, example in examples(name, 60, **fields):
        for wording in task.wordings(example):
            ids = tokenizer(wording).input_ids
            assert not unknown & set(ids)
            assert ids == build_tokenizer()(wording).input_ids
            assert tokenizer.decode(ids) == wording


BARS = {"red": 5, "green": 1, "blue": 3, "yellow": 3}
DIGITS = {"red": 7, "blue": 0}
SHAPES = {"red circle": (0, 2), "blue square": (3, 2)}


@pytest.mark.parametrize(
    ("name", "question", "answer"),
    [
        ("bars", "How high is the red bar?", "5"),
        ("bars", "  how HIGH is the red bar", "5"),
        ("bars", "How tall are a red bars?!", "5"),
        ("bars", "The red bar is how high?", "5"),
        ("bars", "How high is the red bar in the chart?", "5"),
        ("bars", "How think is the red bar?", None),
        ("bars", "How high is the red digit?", None),
        ("bars", "How high is the purple bar?", None),
        ("bars", "How high is the bar?", None),
        ("bars", "high is the red bar?", None),
        ("bars", "How high is the red bar? How high is the blue bar?", None),
        ("bars", "What is the red bar?", None),
        ("bars", "Which bar is higher, red or green?", "red"),
        ("bars", "Which bar is smaller, red or green?", "green"),
        ("bars", "Which bar is highest, green or blue?", "blue"),
        ("bars", "Which bar is higher, red and green?", None),
        ("bars", "Which bar is higher, blue or yellow?", None),
        ("bars", "Which bar is higher, red or red?", None),
        ("bars", "Which bar is highest?", "red"),
        ("bars", "What is the tallest bar in the image?", "red"),
        ("bars", "Which bar is smallest?", "green"),
        ("bars", "Which bar is higher?", None),
        ("bars", "What is red + green?", "6"),
        ("bars", "Which is red+green", "6"),
        ("bars", "What is red plus green - blue?", "3"),
        ("bars", "What is red - blue * green?", "2"),
        ("bars", "What is red * red?", "25"),
        ("bars", "What is green - red?", None),
        ("bars", "What is green - red + red?", "1"),
        ("bars", "What is red + + green?", None),
        ("bars", "What is red green?", None),
        ("bars", "What is red + 3?", None),
        ("bars", "What is red?", None),
        ("bars", "What is the sum of red, green and blue?", "9"),
        ("bars", "What is the difference between green and red?", "4"),
        ("digits", "What is the red digit?", "7"),
        ("digits", "Which digit is blue?", "0"),
        ("digits", "What is the green digit?", None),
        ("digits", "Which digit is smaller, red or blue?", "blue"),
        ("digits", "Which digit is higher, red or blue?", None),
        ("digits", "What is red * blue in the image?", "0"),
        ("digits", "How high is the red digit?", None),
        ("shapes", "Is the red circle left of the blue square?", "yes"),
        ("shapes", "Is the red circle right of the blue square?", "no"),
        ("shapes", "Is the red circle at the left of the blue square in the image?", "yes"),
        ("shapes", "The blue square is right of the red circle, yes or no?", "yes"),
        ("shapes", "Is the red circle above of the blue square?", None),
        ("shapes", "Is the red square left of the blue square?", None),
        ("shapes", "Is the red circle not left of the blue square?", None),
        ("shapes", "Where is the red circle, right of or left of the blue square?", "left"),
        ("shapes", "Is the red circle left or left of the blue square?", None),
        ("shapes", "", None),
    ],
)
def test_questions_worked_out_by_hand(name: str, question: str, answer: str | None) -> None:
    meta = {"bars": {"quantities": BARS}, "digits": {"quantities": DIGITS}, "shapes": {"cells": SHAPES}}[name]
    assert make(name).answer(Example("x", "?", "?", meta=meta), question) == answer


@pytest.mark.parametrize(
    ("name", "fields", "kind"),
    [
        *(("bars", {"level": 2}, kind) for kind in ("read", "compare", "add", "subtract")),
        *(("bars", {"level": 3}, kind) for kind in ("highest", "add-add", "add-subtract")),
        *(("digits", {"level": 2}, kind) for kind in ("read", "compare", "add", "subtract")),
        ("digits", {"level": 3}, "multiply"),
        ("shapes", {}, "check"),
    ],
    ids=str,
)
def test_single_swaps_keep_change_and_end_the_question(name: str, fields: dict[str, Any], kind: str) -> None:
    """Words of the built-in vocabulary alone; a question `choose` of shapes cannot be changed by one word."""
    reached = set()
    for task, example in examples(name, 40, **fields):
        if example.meta["kind"] != kind:
            continue
        words = example.question.rstrip("?").split(" ")
        for place, word in itertools.product(range(len(words)), [*WORDS, "+", "-", "*"]):
            if word != words[place]:
                swapped = task.answer(example, " ".join([*words[:place], word, *words[place + 1 :]]) + "?")
                reached.add("unanswerable" if swapped is None else swapped == example.answer)
    assert reached == {True, False, "unanswerable"}


def test_bars_that_are_never_asked_about() -> None:
    task = make("bars", shift="more-bars", level=3)
    for index in range(20):
        example = task.example(index)
        assert set(example.meta["quantities"]) == set(COLOURS)
        assert task.answer(example, "How high is the purple bar?") is None
        assert task.answer(example, "Which bar is lowest?") is None
        plain = make("bars", level=3)
        for question in ("Which bar is highest?", "Which bar is lower, red or blue?", "What is red + blue?"):
            assert task.answer(example, question) == plain.answer(plain.example(index), question)


@pytest.mark.parametrize(("name", "fields"), GENERATED, ids=str)
def test_an_example_that_was_json_is_understood(name: str, fields: dict[str, Any]) -> None:
    for task, example in examples(name, 10, **fields):
        back = replace(example, meta=json.loads(json.dumps(dict(example.meta))))
        assert task.answer(back, example.question) == example.answer
        assert task.wordings(back) == task.wordings(example)


def test_tables_have_no_oracle(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"question": "2 + 2?", "answer": "4"}\n' * 2)
    task = Dataset(Dataset.Config(path=str(tmp_path / "train.jsonl")))
    example = Example("x", "2 + 2?", "4")
    assert not task.oracle
    assert task.wordings(example) == ()
    assert example.protected == ()
    with pytest.raises(NotImplementedError, match="dataset has no oracle"):
        task.answer(example, "2 + 3?")
