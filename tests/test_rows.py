"""Model rows against cases worked by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from saei.data.bars import Bars
from saei.policy import Policy
from saei.policy.rows import lay_out
from saei.types import Example, Response, View


def view(ids: list[int], positions: list[int]) -> View:
    return View(Example("e", "q", "a"), "clean", torch.tensor(ids), torch.tensor([positions]))


def test_shared_rows_by_hand() -> None:
    # The prompt's rotary positions end at 5 although it has two tokens, as after an image.
    long, short = view([7, 8], [0, 5]), view([9], [0])
    responses = [[torch.tensor([1, 2, 3]), torch.tensor([4])], [torch.tensor([5, 6])]]
    layout = lay_out([long, short], responses, shared=True)
    assert layout.rows.ids_BS.tolist() == [[7, 8], [9, 0]]
    assert layout.rows.positions_KBS.tolist() == [[[0, 5], [0, 0]]]
    assert layout.rows.valid_BS.int().tolist() == [[1, 1], [1, 0]]
    assert layout.answers is not None
    assert layout.answers.ids_BS.tolist() == [[1, 2], [5, 0]]  # last tokens predict nothing
    assert layout.answers.positions_KBS.tolist() == [[[6, 7], [1, 0]]]
    assert layout.answers.valid_BS.int().tolist() == [[1, 1], [1, 0]]
    assert layout.parent_R.tolist() == [0, 1]
    # Places 0 to 3 are the prompts', 4 to 7 the answers'; first tokens come from the prompt's last one.
    assert layout.source_M.tolist() == [1, 4, 5, 1, 2, 6]
    assert layout.target_M.tolist() == [1, 2, 3, 4, 5, 6]


def test_shared_rows_padded_on_the_left_by_hand() -> None:
    """So that no padding comes between a prompt and what goes on from it, where layers look at a window of columns."""
    long, short = view([7, 8], [0, 5]), view([9], [0])
    layout = lay_out([long, short], [[torch.tensor([1, 2])], [torch.tensor([5, 6])]], shared=True, left=True)
    assert layout.rows.ids_BS.tolist() == [[7, 8], [0, 9]]
    assert layout.rows.positions_KBS.tolist() == [[[0, 5], [0, 0]]]
    assert layout.rows.valid_BS.int().tolist() == [[1, 1], [0, 1]]
    assert layout.answers is not None
    assert layout.answers.ids_BS.tolist() == [[1], [5]]
    assert layout.answers.positions_KBS.tolist() == [[[6], [1]]]
    assert layout.source_M.tolist() == [1, 4, 3, 5]


@pytest.mark.parametrize("left", [False, True])
def test_token_inputs_follow_their_tokens(left: bool) -> None:
    """Types by hand, the last for the response; a mask over images, of which a text has none and another has two."""
    two = torch.ones(3, 2, 4, dtype=torch.long)
    typed = replace(view([7, 8], [0, 1]), token_inputs={"types": torch.tensor([3, 4, 9]), "mask": two})
    short = replace(view([5], [0]), token_inputs={"types": torch.tensor([2, 9])})
    layout = lay_out([typed, short], [[torch.tensor([1, 2])], [torch.tensor([6, 6])]], shared=True, left=left)
    assert layout.rows.token_inputs["types"].tolist() == [[3, 4], [0, 2] if left else [2, 0]]
    assert layout.answers is not None
    assert layout.answers.token_inputs["types"].tolist() == [[9], [9]]
    assert layout.rows.token_inputs["mask"].sum((2, 3)).tolist() == [[8, 8], [0, 0]]
    assert layout.answers.token_inputs["mask"].sum((2, 3)).tolist() == [[8], [0]]
    plain = lay_out([typed, short], [[torch.tensor([1, 2])], [torch.tensor([6])]], shared=False)
    assert plain.rows.token_inputs["types"].tolist() == [[3, 4, 9], [2, 0, 0]]


def test_single_tokens_need_the_prompt_only() -> None:
    layout = lay_out([view([7, 8], [0, 1])], [[torch.tensor([1]), torch.tensor([2])]], shared=True)
    assert layout.answers is None
    assert layout.source_M.tolist() == [1, 1]


def test_views_without_tokens_take_no_row() -> None:
    views = [view([7], [0]), view([8], [0]), view([9], [0])]
    empty = torch.zeros(0, dtype=torch.long)
    for shared in (True, False):
        layout = lay_out(views, [[], [empty], [empty, torch.tensor([1, 2])]], shared=shared)
        assert layout.views == (2,)
        assert layout.rows.ids_BS.shape[0] == 1
        assert layout.target_M.tolist() == [1, 2]


def test_plain_rows_are_one_per_response() -> None:
    layout = lay_out([view([7, 8], [0, 5])], [[torch.tensor([1, 2]), torch.tensor([3])]], shared=False)
    assert layout.rows.ids_BS.tolist() == [[7, 8, 1], [7, 8, 0]]
    assert layout.rows.positions_KBS.tolist() == [[[0, 5, 6], [0, 5, 0]]]
    assert layout.rows.valid_BS.int().tolist() == [[1, 1, 1], [1, 1, 0]]
    assert layout.source_M.tolist() == [1, 2, 4]
    assert layout.answers is None
    assert len(layout.views) == 2


@pytest.mark.parametrize("lengths", [[[3, 5], [4, 2]], [[3, 5, 1], [4]]])
def test_rows_that_go_on_have_the_gradients_of_the_plain_ones(
    random_policy: Policy, bars: Bars, lengths: list[list[int]]
) -> None:
    """Equal numbers of rows a view, and unequal ones: the cache is forked in different ways."""
    views = [random_policy.view(bars.example(i)) for i in range(2)]
    ids = torch.arange(40, 52)
    responses = [
        [Response(ids[n + number : 2 * n + number], "", ids[:0], ids[:0], truncated=True) for n in own]
        for number, own in enumerate(lengths)
    ]
    found = []
    for shared in (True, False):
        random_policy.shared_prefix = shared
        scores = random_policy.score(views, responses, wrt="parameters", with_entropy=False)
        logp = torch.cat([own.logp_NT[own.mask_NT] for own in scores])
        loss = (logp * torch.linspace(-1, 2, len(logp))).sum()
        found.append([logp.detach(), *torch.autograd.grad(loss, list(random_policy.module.parameters()))])
    for mine, expected in zip(*found, strict=True):
        torch.testing.assert_close(mine, expected, atol=2e-5 * float(expected.abs().max()), rtol=0)
