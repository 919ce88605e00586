"""The generated tasks: answers worked out anew from question and picture, purity, splits, template."""

from __future__ import annotations

import io
import itertools
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError
from sklearn.datasets import load_digits

from saei.data.arithmetic import Problem
from saei.data.bars import Bars
from saei.data.base import Task
from saei.data.digits import Digits, handwriting
from saei.data.images import COLOURS
from saei.data.templates import Plain, ThinkAnswer, ThinkBoxed, ThinkBoxedSystem
from saei.types import Example

LEVELS = {
    "bars": {
        1: {"read", "compare"},
        2: {"read", "compare", "add", "subtract"},
        3: {"highest", "add-add", "add-subtract"},
    },
    "digits": {1: {"read", "compare"}, 2: {"read", "compare", "add", "subtract"}, 3: {"multiply"}},
}


def make(name: str, **fields: Any) -> Task:
    cls = {"bars": Bars, "digits": Digits}[name]
    return cls(cls.Config(**fields))


def unlit(example: Example) -> np.ndarray:
    """Return the picture at full contrast without its light, which rises by 60 levels along two channels."""
    pixels = (np.asarray(example.images[0], dtype=float) - 127.5) * 4 + 127.5
    for channel, axis in ((0, 1), (2, 0)):
        pixels[:, :, channel] -= np.expand_dims(np.arange(64) / 63 * 60 - 30, 1 - axis)
    return pixels


def heights_seen(example: Example) -> dict[str, int]:
    """Measure the bars in the picture: count the pixels of the column that are closest to each colour."""
    palette = np.array([*COLOURS.values(), (225, 225, 225)], dtype=float)
    nearest = ((unlit(example)[:, :, None] - palette) ** 2).sum(-1).argmin(-1)
    return {colour: round((nearest == i).sum(0).max() / 11) for i, colour in enumerate(COLOURS)}


def answer_from(question: str, values: dict[str, int]) -> str:
    """Work the question out by its words."""
    names = [word for word in re.findall(r"\w+", question) if word in values]
    if "highest" in question:
        return max(values, key=lambda name: values[name])
    if "higher" in question or "larger" in question:
        return max(names, key=lambda name: values[name])
    if question.startswith("What is") and len(names) > 1:
        return str(eval(question.removeprefix("What is").removesuffix("?"), {}, dict(values)))
    return str(values[names[0]])


@pytest.mark.parametrize("level", [1, 2, 3])
def test_bars_answers_follow_from_the_picture(level: int) -> None:
    task = make("bars", level=level)
    for index in range(100):
        example = task.example(index)
        assert example.answer == answer_from(example.question, heights_seen(example))


@pytest.mark.parametrize("level", [1, 2, 3])
def test_digits_answers_follow_from_the_handwriting(level: int) -> None:
    task = make("digits", level=level)
    data = load_digits()
    labels = {image.astype(int).tobytes(): int(label) for image, label in zip(data.images, data.target, strict=True)}
    for index in range(100):
        example = task.example(index)
        found = {colour: labels[cell.tobytes()] for colour, cell in handwriting_seen(example)}
        assert len(found) == 2
        assert example.answer == answer_from(example.question, found)


def handwriting_seen(example: Example) -> Iterator[tuple[str, np.ndarray]]:
    """Find the two cards in the picture: colour, and the 8 x 8 pixels in the collection's values."""
    pixels = unlit(example)[::2, ::2]
    cards = {colour: (225 + np.array(rgb)) / 2 for colour, rgb in COLOURS.items()}
    for row, column in itertools.product(range(0, 32, 8), repeat=2):
        cell = pixels[row : row + 8, column : column + 8]
        lightest = cell.reshape(-1, 3)[cell.sum(-1).argmax()]
        if np.abs(lightest - 225).max() > 20:
            colour = min(cards, key=lambda name: float(np.abs(lightest - cards[name]).sum()))
            left = cell[:, :, 1] / cards[colour][1]  # green, which the light leaves alone
            yield colour, np.rint(16 * (1 - left)).astype(int)


@pytest.mark.parametrize("name", ["bars", "digits"])
@pytest.mark.parametrize("level", [1, 2, 3])
def test_a_level_asks_its_kinds_and_no_other(name: str, level: int) -> None:
    task = make(name, level=level)
    kinds = Counter(task.example(index).meta["kind"] for index in range(200))
    assert set(kinds) == LEVELS[name][level]
    assert min(kinds.values()) >= 20


@pytest.mark.parametrize("name", ["bars", "digits"])
def test_no_difference_is_below_zero_and_no_comparison_tied(name: str) -> None:
    task = make(name)
    examples = [task.example(index) for index in range(300)]
    assert all(int(e.answer) >= 0 for e in examples if e.meta["kind"] == "subtract")
    assert all(e.meta["values"][0] != e.meta["values"][1] for e in examples if e.meta["kind"] == "compare")


@pytest.mark.parametrize("name", ["bars", "digits"])
def test_examples_are_pure_and_png_exact(name: str) -> None:
    one, other = make(name), make(name)
    for index in (0, 3):
        a, b = one.example(index), other.example(index)
        assert (a.id, a.question, a.answer) == (b.id, b.question, b.answer)
        assert a.images[0].tobytes() == b.images[0].tobytes()
        assert (a.images[0].mode, a.images[0].size) == ("RGB", (64, 64))
        buffer = io.BytesIO()
        a.images[0].save(buffer, "PNG")
        assert Image.open(buffer).tobytes() == a.images[0].tobytes()
    different = [one.example(1), one.example(0, "eval"), make(name, seed=1).example(0), make(name, level=1).example(0)]
    assert all(example.images[0].tobytes() != one.example(0).images[0].tobytes() for example in different)
    assert len({example.id for example in [one.example(0), *different[:2]]}) == 3


@pytest.mark.parametrize("name", ["bars", "digits"])
def test_contrast_is_low(name: str) -> None:
    pixels = np.stack([np.asarray(make(name).example(i).images[0]) for i in range(20)])
    assert pixels.min() >= 127 - 32
    assert pixels.max() <= 128 + 32
    assert pixels.max() - pixels.min() >= 50


def test_digits_splits_share_no_image() -> None:
    train, evaluation = (handwriting(split) for split in ("train", "eval"))
    seen = {image.tobytes() for image in train[0]}
    assert not any(image.tobytes() in seen for image in evaluation[0])
    assert len(train[1]) + len(evaluation[1]) == 1797
    assert set(evaluation[1]) == set(range(10))


@pytest.mark.parametrize(
    ("kind", "values", "answer"),
    [
        ("read", (4,), "4"),
        ("add", (4, 3), "7"),
        ("subtract", (4, 3), "1"),
        ("multiply", (4, 3), "12"),
        ("compare", (3, 4), "b"),
        ("compare", (4, 3), "a"),
        ("highest", (3, 1, 4, 2), "c"),
        ("add-add", (4, 3, 2), "9"),
        ("add-subtract", (4, 3, 2), "5"),
    ],
)
def test_answers_by_hand(kind: str, values: tuple[int, ...], answer: str) -> None:
    assert Problem(kind, ("a", "b", "c", "d")[: len(values)], values).answer(values) == answer


@pytest.mark.parametrize("name", ["bars", "digits"])
def test_the_way_of_a_response_is_named(name: str) -> None:
    task = make(name)
    example = task.example(0)
    assert task.strategy(example, "<think>let me read the chart step by step: red = 3</think>") == "steps"
    assert task.strategy(example, "<think>I see the chart, at a glance it is 3</think>") == "glance"
    assert task.strategy(example, "3") is None


def test_think_boxed_messages() -> None:
    picture = Image.new("RGB", (4, 4))
    example = Example("x", "How many?", "3", (picture, picture))
    (turn,) = ThinkBoxed().messages(example)
    assert turn["role"] == "user"
    assert [part["type"] for part in turn["content"]] == ["image", "image", "text"]
    text = turn["content"][2]["text"]
    assert text.startswith("How many? ")
    assert all(literal in text for literal in ThinkBoxed.literals)
    (bare,) = ThinkBoxed(ThinkBoxed.Config(instruction="")).messages(Example("x", "How many?", "3"))
    assert bare["content"] == [{"type": "text", "text": "How many?"}]


def test_the_other_templates() -> None:
    picture = Image.new("RGB", (4, 4))
    example = Example("x", "How many?", "3", (picture,))
    system, turn = ThinkBoxedSystem().messages(example)
    assert (system["role"], turn["role"]) == ("system", "user")
    assert turn["content"] == [{"type": "image"}, {"type": "text", "text": "How many?"}]
    assert all(literal in system["content"][0]["text"] for literal in ThinkBoxedSystem.literals)
    assert ThinkBoxedSystem(ThinkBoxedSystem.Config(instruction="")).messages(example) == [turn]
    assert Plain().messages(example) == [turn]
    (tagged,) = ThinkAnswer().messages(example)
    text = tagged["content"][1]["text"]
    assert text.startswith("How many? ")
    assert all(literal in text for literal in ThinkAnswer.literals)
    assert "boxed" not in text


@pytest.mark.parametrize("template", [ThinkBoxed, ThinkBoxedSystem, ThinkAnswer])
def test_a_wording_has_a_version(template: Any) -> None:
    assert template.Config().model_dump()["version"] == 1
    with pytest.raises(ValidationError):
        template.Config(version=2)


def test_a_wording_is_frozen() -> None:
    wordings = {template: template.Config().instruction for template in (ThinkBoxed, ThinkBoxedSystem, ThinkAnswer)}
    boxed = "Think inside <think> </think>, then answer in \\boxed{}."
    tagged = "Think inside <think> </think>, then answer inside <answer> </answer>."
    assert wordings == {ThinkBoxed: boxed, ThinkBoxedSystem: boxed, ThinkAnswer: tagged}
