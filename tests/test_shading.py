"""Tokens and pictures for people to look at: what is joined is the text, what is enlarged is the change."""

from __future__ import annotations

import base64
import re
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from saei.policy.load.weights import Parts
from saei.report.pictures import data_uri, half_blocks
from saei.report.tokens import (
    CHANGES,
    ENTROPIES,
    FALLS,
    LETTERS,
    RISES,
    SHADES,
    change_shade,
    shade,
    token_pieces,
    visible,
)
from saei.runtime.pictures import difference


@pytest.mark.parametrize(
    "text", ["<think>so it is 8</think> \\boxed{8}", " two  spaces ", "naïve café", "日本語 🦊\n\nend", "a", "🦊🦊🦊🦊"]
)
def test_pieces_joined_are_the_text(random_parts: Parts, text: str) -> None:
    tokenizer = random_parts.tokenizer
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    pieces = token_pieces(tokenizer, ids)
    assert len(pieces) == len(ids)
    assert "".join(pieces) == tokenizer.decode(ids)


class Bytes:
    """A tokenizer whose tokens are single bytes."""

    def decode(self, ids: list[int], **_: object) -> str:
        return bytes(ids).decode(errors="replace")


def test_a_character_of_several_tokens_belongs_to_the_last() -> None:
    assert token_pieces(Bytes(), list("aé🦊z".encode())) == ["a", "", "é", "", "", "", "🦊", "z"]
    cut = list("aé🦊".encode())[:-1]
    assert "".join(token_pieces(Bytes(), cut)) == bytes(cut).decode(errors="replace")
    wrong = [97, 0xFF, 98]  # a byte that begins no character
    assert "".join(token_pieces(Bytes(), wrong)) == "a\N{REPLACEMENT CHARACTER}b"


def test_the_end_of_the_response_is_a_piece(random_parts: Parts) -> None:
    tokenizer = random_parts.tokenizer
    ids = [*tokenizer("so", add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    assert token_pieces(tokenizer, ids)[-1] == tokenizer.eos_token


def test_shades_rise_with_entropy_and_changes_have_two_directions() -> None:
    assert [shade(entropy) for entropy in (0.0, 0.049, *ENTROPIES, 9.0)] == [None, None, *SHADES, SHADES[-1]]
    assert [change_shade(-change) for change in CHANGES] == list(FALLS)
    assert [change_shade(change) for change in (0.0, 0.0009, *CHANGES, 9.0)] == [None, None, *RISES, RISES[-1]]


@pytest.mark.parametrize("colour", [*SHADES, *RISES, *FALLS])
def test_letters_read_on_every_shade(colour: str) -> None:
    """WCAG 2.2 wants a contrast of 4.5; this is its formula."""

    def luminance(text: str) -> float:
        values = [int(text[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    assert (luminance(colour) + 0.05) / (luminance(LETTERS) + 0.05) > 4.5


def test_nothing_in_a_piece_acts_on_a_terminal() -> None:
    assert visible("a\x1b[31m\0\u202e\nb") == "a\\u001b[31m\\u0000\\u202e⏎\nb"


def test_a_difference_is_enlarged_around_grey() -> None:
    before = Image.fromarray(np.array([[[10, 20, 30], [250, 5, 100]]], np.uint8))
    after = Image.fromarray(np.array([[[12, 19, 30], [255, 0, 100]]], np.uint8))
    assert np.asarray(difference(before, after)).tolist() == [[[192, 96, 128], [255, 0, 128]]]
    assert np.asarray(difference(before, after, times=1)).tolist() == [[[130, 127, 128], [133, 123, 128]]]


def test_a_picture_is_its_own_address() -> None:
    image = Image.fromarray(np.arange(12, dtype=np.uint8).reshape(2, 2, 3))
    kind, _, text = data_uri(image).partition(",")
    assert kind == "data:image/png;base64"
    assert np.asarray(Image.open(BytesIO(base64.b64decode(text)))).tolist() == np.asarray(image).tolist()


def test_half_blocks_are_two_pixels_above_one_another() -> None:
    image = Image.fromarray(np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 255]]], np.uint8))
    assert half_blocks(image, 2) == [[("#ff0000", "#0000ff"), ("#00ff00", "#ffffff")]]
    wide = half_blocks(Image.new("RGB", (300, 100), "#123456"), 30)
    assert (len(wide), {len(line) for line in wide}) == (5, {30})
    assert all(re.fullmatch("#123456", colour) for line in wide for both in line for colour in both)
