"""Packed rows against a case worked by hand."""

from __future__ import annotations

import torch

from saei.policy.packing import pack
from saei.types import Example, View


def view(ids: list[int], positions: list[int]) -> View:
    return View(Example("e", "q", "a"), "clean", torch.tensor(ids), torch.tensor([positions]))


def test_shared_row_by_hand() -> None:
    # The prompt's rotary positions end at 5 although it has two tokens, as after an image.
    rows = pack([view([7, 8], [0, 5])], [[torch.tensor([1, 2, 3]), torch.tensor([4])]], shared=True)
    assert rows.input_ids_BS.tolist() == [[7, 8, 1, 2]]  # last tokens predict nothing
    assert rows.positions_KBS.tolist() == [[[0, 5, 6, 7]]]
    assert rows.source_M.tolist() == [1, 2, 3, 1]  # both responses start from the prompt's last token
    assert rows.target_M.tolist() == [1, 2, 3, 4]


def test_block_mask_by_hand() -> None:
    rows = pack([view([7], [0])], [[torch.tensor([1, 2, 9]), torch.tensor([3, 4, 9])]], shared=True)
    assert rows.attention[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 0, 0, 1, 0],  # the second response does not see the first
        [1, 0, 0, 1, 1],
    ]


def test_nothing_sees_padding_but_itself() -> None:
    long, short = view([7, 7, 7], [0, 1, 2]), view([8], [0])
    rows = pack([long, short], [[torch.tensor([1])], [torch.tensor([2])]], shared=True)
    # Every row of the mask needs a True: a softmax over nothing is NaN.
    assert rows.attention[1, 0].int().tolist() == [[1, 0, 0], [1, 1, 0], [1, 0, 1]]
    assert rows.source_M.tolist() == [2, 3]


def test_plain_rows_are_one_per_response() -> None:
    rows = pack([view([7, 8], [0, 1])], [[torch.tensor([1, 2]), torch.tensor([3])]], shared=False)
    assert rows.input_ids_BS.tolist() == [[7, 8, 1], [7, 8, 0]]
    assert rows.attention.int().tolist() == [[1, 1, 1], [1, 1, 0]]
    assert rows.source_M.tolist() == [1, 2, 4]
    assert len(rows.views) == 2
