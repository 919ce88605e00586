"""From views and responses to model rows.

The shared way computes a view's prompt as one row, and every response goes on from its cache in a row of its own.
Explicit positions let each start right after the prompt, so the logits are those of the plain way: one row per response
that holds the prompt, too. The plain way is the reference and the fallback.

B rows, S columns of a row, R rows of responses, M scored tokens of all rows; K rotary position axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from saei.types import View


@dataclass(frozen=True, eq=False, slots=True)
class Rows:
    """Right-padded model rows; padding on the right lets every column see at least itself.

    Attributes:
        ids_BS: int64.
        positions_KBS: int64 rotary positions.
        valid_BS: bool, False on padding.
    """

    ids_BS: Tensor
    positions_KBS: Tensor
    valid_BS: Tensor


@dataclass(frozen=True, eq=False, slots=True)
class Layout:
    """Model rows and where in them each response token is predicted.

    Attributes:
        rows: Prompts, or in the plain way prompts with a response.
        views: For each of ``rows`` the number of its view, whose pixels the row needs.
        answers: Rows that go on from the cache of ``rows``, None if there are none.
        parent_R: int64, for each row of ``answers`` its row of ``rows``.
        source_M: int64, for each token the place of the hidden state that predicts it, in those of ``rows`` and then
            those of ``answers``, flat.
        target_M: int64, the token.
    """

    rows: Rows
    views: tuple[int, ...]
    answers: Rows | None
    parent_R: Tensor
    source_M: Tensor
    target_M: Tensor


def lay_out(views: Sequence[View], responses: Sequence[Sequence[Tensor]], *, shared: bool) -> Layout:
    """Lay out the responses of several views; tokens are ordered by view, response and position.

    A response's last token predicts nothing and is left out of the input; views without tokens to score take no row.

    Args:
        views: One per entry of ``responses``.
        responses: For each view the int64 ids of its responses; at least one of all is not empty.
        shared: One row per view and what each response adds to it, or one row per response.
    """
    numbers = [number for number, own in enumerate(responses) if any(len(ids_T) for ids_T in own)]
    spoken = [(views[number], [ids_T for ids_T in responses[number] if len(ids_T)]) for number in numbers]
    target_M = torch.cat([ids_T for _, own in spoken for ids_T in own])
    return (_shared if shared else _plain)(numbers, spoken, target_M)


def _shared(numbers: Sequence[int], spoken: Sequence[tuple[View, list[Tensor]]], target_M: Tensor) -> Layout:
    rows = _rows([(view.prompt_ids_P, view.positions_KP) for view, _ in spoken])
    width, device = rows.ids_BS.shape[1], target_M.device
    going_on = [
        (parent, (ids_T[:-1], _after(view, len(ids_T) - 1)))
        for parent, (view, own) in enumerate(spoken)
        for ids_T in own
        if len(ids_T) > 1
    ]
    answers = _rows([row for _, row in going_on]) if going_on else None
    sources, place = [], rows.ids_BS.numel()
    for parent, (view, own) in enumerate(spoken):
        last = parent * width + len(view.prompt_ids_P) - 1
        for ids_T in own:
            sources.append(torch.tensor([last], device=device))
            if answers is not None and len(ids_T) > 1:
                sources.append(torch.arange(place, place + len(ids_T) - 1, device=device))
                place += answers.ids_BS.shape[1]
    return Layout(
        rows=rows,
        views=tuple(numbers),
        answers=answers,
        parent_R=torch.tensor([parent for parent, _ in going_on], dtype=torch.long, device=device),
        source_M=torch.cat(sources),
        target_M=target_M,
    )


def _plain(numbers: Sequence[int], spoken: Sequence[tuple[View, list[Tensor]]], target_M: Tensor) -> Layout:
    pairs = [(view, ids_T) for view, own in spoken for ids_T in own]
    rows = _rows(
        [
            (
                torch.cat([view.prompt_ids_P, ids_T[:-1]]),
                torch.cat([view.positions_KP, _after(view, len(ids_T) - 1)], dim=1),
            )
            for view, ids_T in pairs
        ]
    )
    width, device = rows.ids_BS.shape[1], target_M.device
    starts = [number * width + len(view.prompt_ids_P) - 1 for number, (view, _) in enumerate(pairs)]
    return Layout(
        rows=rows,
        views=tuple(number for number, (_, own) in zip(numbers, spoken, strict=True) for _ in own),
        answers=None,
        parent_R=target_M.new_zeros(0),
        source_M=torch.cat(
            [
                torch.arange(start, start + len(ids_T), device=device)
                for start, (_, ids_T) in zip(starts, pairs, strict=True)
            ]
        ),
        target_M=target_M,
    )


def _after(view: View, length: int) -> Tensor:
    """Return the rotary positions ``[K, length]`` of what follows a prompt."""
    start = int(view.positions_KP.max()) + 1
    positions = torch.arange(start, start + length, device=view.positions_KP.device)
    return positions.expand(view.positions_KP.shape[0], -1)


def _rows(rows: Sequence[tuple[Tensor, Tensor]]) -> Rows:
    """Stack rows of ids ``[S]`` and positions ``[K, S]``, right-padded to the longest."""
    width = max(len(ids_S) for ids_S, _ in rows)
    lengths = torch.tensor([len(ids_S) for ids_S, _ in rows], device=rows[0][0].device)
    return Rows(
        ids_BS=torch.stack([pad(ids_S, (0, width - len(ids_S))) for ids_S, _ in rows]),
        positions_KBS=torch.stack([pad(own, (0, width - own.shape[1])) for _, own in rows], dim=1),
        valid_BS=torch.arange(width, device=lengths.device) < lengths[:, None],
    )
