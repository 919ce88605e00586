"""Shifted pictures: the questions stay, the answers follow from the new pictures, and each shift does what it says."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any, get_args

import numpy as np
import pytest
from PIL import Image, ImageFilter
from scipy import ndimage
from sklearn.datasets import load_digits

from saei.data import bars, digits, shapes
from saei.data.base import Task
from saei.data.images import COLOURS
from saei.data.shifts import SHADES
from saei.testing import check_task
from saei.types import Example
from test_tasks import answer_from, unlit

TASKS: Mapping[str, Any] = {"bars": bars.Bars, "digits": digits.Digits, "shapes": shapes.Shapes}
SHIFTS = {"bars": bars.Shift, "digits": digits.Shift, "shapes": shapes.Shift}
ALL = [(task, shift) for task, kinds in SHIFTS.items() for shift in get_args(kinds)]
PAPER = (225, 225, 225)


def make(task: str, **fields: Any) -> Task:
    cls = TASKS[task]
    built: Task = cls(cls.Config(**fields))
    return built


def examples(task: str, shift: str, count: int = 60, **fields: Any) -> list[Example]:
    built = make(task, shift=shift, **fields)
    return [built.example(index, "eval") for index in range(count)]


def nearest(pixels: np.ndarray, colours: Mapping[str, tuple[int, int, int]]) -> np.ndarray:
    """Return for each pixel the number of the closest colour; paper is the last."""
    palette = np.array([*colours.values(), PAPER], dtype=float)
    return ((pixels[:, :, None] - palette) ** 2).sum(-1).argmin(-1)


def heights(pixels: np.ndarray, colours: Mapping[str, tuple[int, int, int]] = COLOURS) -> dict[str, int]:
    found = nearest(pixels, colours)
    return {colour: round((found == i).sum(0).max() / 11) for i, colour in enumerate(colours)}


@pytest.mark.parametrize(("task", "shift"), ALL)
def test_a_shift_changes_the_picture_alone(task: str, shift: str) -> None:
    check_task(make(task, shift=shift).config)
    for plain, shifted in zip(examples(task, "none", 20), examples(task, shift, 20), strict=True):
        assert (plain.question, plain.answer, plain.meta) == (shifted.question, shifted.answer, shifted.meta)
        if shift != "none":
            assert plain.id != shifted.id
        changed = plain.images[0].tobytes() != shifted.images[0].tobytes()
        # Two circles stay as they are, however they are turned.
        turned = shift != "rotated" or task != "shapes" or "square" in plain.question or "triangle" in plain.question
        assert changed is (shift != "none" and turned)
        assert shifted.images[0].size == (64, 64)


@pytest.mark.parametrize("level", [1, 2, 3])
def test_bars_in_other_shades(level: int) -> None:
    for example in examples("bars", "colours", level=level):
        assert answer_from(example.question, heights(unlit(example), SHADES)) == example.answer
        both = {**COLOURS, **{f"other {name}": shade for name, shade in SHADES.items()}}
        seen = set(nearest(unlit(example), both).ravel().tolist())
        assert len(seen & set(range(4, 8))) == 4
        assert not seen & set(range(4))


@pytest.mark.parametrize("level", [1, 2, 3])
def test_more_bars_than_are_asked_about(level: int) -> None:
    for example in examples("bars", "more-bars", level=level):
        seen = heights(unlit(example), {**COLOURS, **bars.MORE})
        assert len(seen) == 6
        assert min(seen.values()) >= 1
        assert answer_from(example.question, seen) == example.answer
        assert max(seen[name] for name in bars.MORE) <= max(seen[name] for name in COLOURS)


def test_bars_that_grow_to_the_right() -> None:
    for example in examples("bars", "rotated"):
        turned_back = np.rot90(unlit(example))
        assert answer_from(example.question, heights(turned_back)) == example.answer
        assert (nearest(turned_back, COLOURS)[-3] < 4).sum() >= 40  # they stand on the ground


@pytest.mark.parametrize(("task", "added"), [("bars", 40 - 6), ("digits", 40), ("shapes", 40 - 6)])
def test_noise_is_of_forty_grey_levels(task: str, added: int) -> None:
    found = []
    for plain, shifted in zip(examples(task, "none", 40), examples(task, "noisy", 40), strict=True):
        quiet, loud = unlit(plain), unlit(shifted)
        # Green in green shapes, or in half-dark ink: far enough from black and white, which cut the noise off.
        inside = (quiet[:, :, 1] > 110) & (quiet[:, :, 1] < 150) if task == "digits" else nearest(quiet, COLOURS) == 1
        found.append((loud - quiet)[:, :, 1][inside])
    assert np.std(np.concatenate(found)) == pytest.approx(added, rel=0.05)


def test_noisy_bars_can_still_be_read() -> None:
    for example in examples("bars", "noisy"):
        smooth = Image.fromarray(unlit(example).clip(0, 255).astype(np.uint8)).filter(ImageFilter.BoxBlur(2))
        assert answer_from(example.question, heights(np.asarray(smooth, dtype=float))) == example.answer


def cards(example: Example, colours: Mapping[str, tuple[int, int, int]] = COLOURS) -> Iterator[tuple[str, np.ndarray]]:
    """Find the cards in a picture: colour, and the ink as a share, ``[16, 16]``."""
    pixels = unlit(example)
    mixed = {colour: (225 + np.array(rgb)) / 2 for colour, rgb in colours.items()}
    for top, left in itertools.product(range(0, 64, 16), repeat=2):
        cell = pixels[top : top + 16, left : left + 16]
        lightest = cell.reshape(-1, 3)[cell.sum(-1).argmax()]
        if np.abs(lightest - 225).max() > 20:
            colour = min(mixed, key=lambda name: float(np.abs(lightest - mixed[name]).sum()))
            yield colour, 1 - cell[:, :, 1] / mixed[colour][1]  # green, which the light leaves alone


def test_digits_on_other_cards_are_those_kept_for_evaluation() -> None:
    data = load_digits()
    known = {image.astype(int).tobytes(): number for number, image in enumerate(data.images)}
    for example in examples("digits", "colours"):
        found = {name: known[np.rint(16 * ink[::2, ::2]).astype(int).tobytes()] for name, ink in cards(example, SHADES)}
        assert len(found) == 2
        assert all(number % 4 == 0 for number in found.values())
        values = {name: int(data.target[number]) for name, number in found.items()}
        assert answer_from(example.question, values) == example.answer


def both(shift: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Return the ink of the same digits, as it is and shifted."""
    for plain, shifted in zip(examples("digits", "none", 20), examples("digits", shift, 20), strict=True):
        after = dict(cards(shifted))
        for name, ink in cards(plain):
            yield ink, after[name]


def test_digits_are_turned_by_fifteen_to_thirty_degrees() -> None:
    found = []
    for ink, turned in both("rotated"):
        angles = range(-45, 46)
        errors = [float(((ndimage.rotate(ink, a, reshape=False, order=1) - turned) ** 2).sum()) for a in angles]
        found.append(angles[int(np.argmin(errors))])
    assert all(12 <= abs(angle) <= 33 for angle in found), found
    assert min(found) < 0 < max(found)


def test_handwriting_is_slanted_and_thicker() -> None:
    slants = []
    for ink, written in both("handwriting"):
        assert written.sum() > 1.1 * ink.sum()
        slants.append(slope(ink) - slope(written))
    assert 0.2 < np.median(np.abs(slants)) < 0.55
    assert min(slants) < 0 < max(slants)


def slope(ink: np.ndarray) -> float:
    """Return by how much the ink moves to the side from row to row."""
    rows = [row for row in range(16) if ink[row].sum() > 0.5]
    return float(np.polyfit(rows, [float(ink[row] @ np.arange(16) / ink[row].sum()) for row in rows], 1)[0])


def places(example: Example, colours: Mapping[str, tuple[int, int, int]]) -> dict[str, tuple[float, float]]:
    """Return where the shapes are, by their colours: across and down."""
    smooth = Image.fromarray(unlit(example).clip(0, 255).astype(np.uint8)).filter(ImageFilter.BoxBlur(2))
    found = nearest(np.asarray(smooth, dtype=float), colours)
    names = list(colours)
    centres = {}
    for colour in (name.split()[0] for name in example.meta["names"]):
        down, across = np.nonzero(found == names.index(colour))
        centres[colour] = (float(np.median(across)), float(np.median(down)))
    return centres


@pytest.mark.parametrize("shift", get_args(shapes.Shift))
def test_relations_follow_from_the_picture(shift: str) -> None:
    kinds = set()
    for example in examples("shapes", shift, 100):
        at = places(example, SHADES if shift == "colours" else COLOURS)
        (x, y), (other_x, other_y) = (at[name.split()[0]] for name in example.meta["names"])
        true = {"left": x < other_x, "right": x > other_x, "above": y < other_y, "below": y > other_y}
        words = [word for word in true if word in example.question]
        answer = next(word for word in words if true[word]) if len(words) == 2 else ("no", "yes")[true[words[0]]]
        assert answer == example.answer
        kinds.add((len(words), example.answer))
    assert kinds == {(1, "yes"), (1, "no"), *((2, relation) for relation in shapes.RELATIONS)}


def test_squares_are_turned() -> None:
    def fullness(example: Example) -> float:
        """Return the share of its bounding box that the first shape fills."""
        found = nearest(unlit(example), COLOURS) == list(COLOURS).index(example.meta["names"][0].split()[0])
        down, across = np.nonzero(ndimage.binary_opening(found))
        return float(found.sum() / (np.ptp(down) + 1) / (np.ptp(across) + 1))

    straight, turned = (examples("shapes", shift) for shift in ("none", "rotated"))
    pairs = [pair for pair in zip(straight, turned, strict=True) if pair[0].meta["names"][0].endswith("square")]
    assert len(pairs) > 10
    assert all(fullness(plain) > 0.95 and fullness(shifted) < 0.85 for plain, shifted in pairs)


def test_the_way_of_a_response_is_named() -> None:
    task = make("shapes")
    assert task.strategy(task.example(0), "<think>I see the image, at a glance it is above</think>") == "glance"
