"""From views and responses to model rows.

The shared way computes a view's prompt as one row, and every response continues from its cache in a row of its own.
Explicit positions place each response right after the prompt, so the logits equal those of the plain way: one row per
response, prompt included. The plain way is the reference and the fallback.

B rows, S columns of a row, R rows of responses, M scored tokens of all rows; K rotary position axes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from saei.policy.backbone import OFFSET, Offset
from saei.types import View


@dataclass(frozen=True, eq=False, slots=True)
class Rows:
    """Padded model rows; padding on the right lets every column see at least itself.

    Attributes:
        ids_BS: int64.
        positions_KBS: int64 rotary positions.
        valid_BS: bool, False on padding.
        token_inputs: The model's further inputs of one value per token, ``[B, S, ...]`` by name.
        offset: What is added to the embeddings of some tokens, None for nothing.
    """

    ids_BS: Tensor
    positions_KBS: Tensor
    valid_BS: Tensor
    token_inputs: Mapping[str, Tensor] = field(default_factory=dict)
    offset: Offset | None = None

    def select(self, number_R: Tensor) -> Rows:
        """Return the rows of these numbers, whose embeddings were computed before, hence without offsets."""
        inputs = {name: values_BS[number_R] for name, values_BS in self.token_inputs.items()}
        return Rows(self.ids_BS[number_R], self.positions_KBS[:, number_R], self.valid_BS[number_R], inputs)


@dataclass(frozen=True, eq=False, slots=True)
class Layout:
    """Model rows and where in them each response token is predicted.

    Attributes:
        rows: Prompts; in the plain way, prompts with a response each.
        views: For each of ``rows`` the number of its view, whose pixels the row needs.
        answers: Rows that continue from the cache of ``rows``, None if there are none.
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


def lay_out(
    views: Sequence[View], responses: Sequence[Sequence[Tensor]], *, shared: bool, left: bool = False
) -> Layout:
    """Lay out the responses of several views; tokens are ordered by view, response and position.

    A response's last token predicts nothing and is left out of the input; views without tokens to score take no row.

    Args:
        views: One per entry of ``responses``.
        responses: For each view the int64 ids of its responses; at least one of all is not empty.
        shared: Lay out one row per view and one per response that continues it; otherwise one row per response with
            its prompt.
        left: Pad shared prompts on the left, so that no padding comes between a prompt and its responses.
    """
    numbers = [number for number, view_ids in enumerate(responses) if any(len(ids_T) for ids_T in view_ids)]
    ids_by_view = [(views[number], [ids_T for ids_T in responses[number] if len(ids_T)]) for number in numbers]
    target_M = torch.cat([ids_T for _, view_ids in ids_by_view for ids_T in view_ids])
    return _shared(numbers, ids_by_view, target_M, left) if shared else _plain(numbers, ids_by_view, target_M)


def _shared(
    numbers: Sequence[int], ids_by_view: Sequence[tuple[View, list[Tensor]]], target_M: Tensor, left: bool
) -> Layout:
    rows = stack([prompt_row(view) for view, _ in ids_by_view], left=left)
    width, device = rows.ids_BS.shape[1], target_M.device
    # A response of one token needs no row: the last hidden state of its prompt predicts it.
    answer_rows = [
        (parent, response_row(view, ids_T[:-1]))
        for parent, (view, view_ids) in enumerate(ids_by_view)
        for ids_T in view_ids
        if len(ids_T) > 1
    ]
    answers = stack([row for _, row in answer_rows]) if answer_rows else None
    sources, answer_start = [], rows.ids_BS.numel()
    for parent, (view, view_ids) in enumerate(ids_by_view):
        prompt_end = parent * width + (width if left else len(view.prompt_ids_P)) - 1
        for ids_T in view_ids:
            sources.append(torch.tensor([prompt_end], device=device))
            if answers is not None and len(ids_T) > 1:
                sources.append(torch.arange(answer_start, answer_start + len(ids_T) - 1, device=device))
                answer_start += answers.ids_BS.shape[1]
    return Layout(
        rows=rows,
        views=tuple(numbers),
        answers=answers,
        parent_R=torch.tensor([parent for parent, _ in answer_rows], dtype=torch.long, device=device),
        source_M=torch.cat(sources),
        target_M=target_M,
    )


def _plain(numbers: Sequence[int], ids_by_view: Sequence[tuple[View, list[Tensor]]], target_M: Tensor) -> Layout:
    pairs = [(view, ids_T) for view, view_ids in ids_by_view for ids_T in view_ids]
    rows = stack([_joined(prompt_row(view), response_row(view, ids_T[:-1])) for view, ids_T in pairs])
    width, device = rows.ids_BS.shape[1], target_M.device
    starts = [number * width + len(view.prompt_ids_P) - 1 for number, (view, _) in enumerate(pairs)]
    return Layout(
        rows=rows,
        views=tuple(number for number, (_, view_ids) in zip(numbers, ids_by_view, strict=True) for _ in view_ids),
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


@dataclass(frozen=True, eq=False, slots=True)
class Row:
    """Tokens in a row, without padding: ids ``[S]``, positions ``[K, S]``, token inputs ``[S, ...]``.

    ``offset`` is what is added to the embeddings of some of them: their places, and ``[places, d]``.
    """

    ids_S: Tensor
    positions_KS: Tensor
    token_inputs: Mapping[str, Tensor]
    offset: tuple[Tensor, Tensor] | None = None


def prompt_row(view: View) -> Row:
    """Return the row of a view's prompt."""
    offset = None
    if view.offset_Qd is not None:
        assert view.question is not None, "only the question's embeddings have an offset"
        offset = (view.question.places_Q, view.offset_Qd)
    inputs = {name: values[:-1] for name, values in view.token_inputs.items()}
    return Row(view.prompt_ids_P, view.positions_KP, inputs, offset)


def response_row(view: View, ids_T: Tensor) -> Row:
    """Return the row of what follows a view's prompt."""
    start = int(view.positions_KP.max()) + 1
    positions = torch.arange(start, start + len(ids_T), device=ids_T.device)
    inputs = {name: values[-1:].expand(len(ids_T), *values.shape[1:]) for name, values in view.token_inputs.items()}
    return Row(ids_T, positions.expand(view.positions_KP.shape[0], -1), inputs)


def _joined(first: Row, second: Row) -> Row:
    return Row(
        torch.cat([first.ids_S, second.ids_S]),
        torch.cat([first.positions_KS, second.positions_KS], dim=1),
        {name: torch.cat([values_S, second.token_inputs[name]]) for name, values_S in first.token_inputs.items()},
        first.offset,
    )


def stack(rows: Sequence[Row], *, left: bool = False) -> Rows:
    """Stack rows, padded to the longest.

    A row that lacks a token input of the others gets zeros: a text without images has no mask over them.

    Args:
        rows: The rows.
        left: Pad on the left, so that all rows end in the last column.
    """
    lengths = [len(row.ids_S) for row in rows]
    width = max(lengths)
    places = [slice(width - length, width) if left else slice(0, length) for length in lengths]

    def spread(parts: Sequence[Tensor | None]) -> Tensor:
        """Pad ``[S, ...]`` tensors with zeros to ``[B, S, ...]``; None gives a row of zeros."""
        given = [part for part in parts if part is not None]
        shape = [max(sizes) for sizes in zip(*(part.shape[1:] for part in given), strict=True)]
        spread_BS = given[0].new_zeros(len(parts), width, *shape)
        for row, place, part in zip(spread_BS, places, parts, strict=True):
            if part is not None:
                row[(place, *map(slice, part.shape[1:]))] = part
        return spread_BS

    names = dict.fromkeys(name for row in rows for name in row.token_inputs)
    positions_BSK = spread([row.positions_KS.T for row in rows])
    return Rows(
        ids_BS=spread([row.ids_S for row in rows]),
        positions_KBS=positions_BSK.permute(2, 0, 1),
        valid_BS=spread([torch.ones_like(row.ids_S, dtype=torch.bool) for row in rows]),
        token_inputs={name: spread([row.token_inputs.get(name) for row in rows]) for name in names},
        offset=_offset(rows, places),
    )


def _offset(rows: Sequence[Row], places: Sequence[slice]) -> Offset | None:
    """Return the offsets of all rows, each of which begins at its place; None if there are none."""
    given = [(number, row.offset) for number, row in enumerate(rows) if row.offset is not None]
    if not given:
        return None
    return Offset(
        torch.cat([torch.full_like(places_K, number) for number, (places_K, _) in given]),
        torch.cat([places_K + places[number].start for number, (places_K, _) in given]),
        torch.cat([values_Kd for _, (_, values_Kd) in given]),
    )


def prompt_arguments(rows: Rows) -> dict[str, Any]:
    """Return the model's arguments for rows that begin with a prompt."""
    return {
        "input_ids": rows.ids_BS,
        "attention_mask": rows.valid_BS,
        "position_ids": position_argument(rows.positions_KBS),
        **rows.token_inputs,
        **({} if rows.offset is None else {OFFSET: rows.offset}),
    }


def answer_arguments(answers: Rows, seen_RS: Tensor) -> dict[str, Any]:
    """Return the model's arguments for rows that continue from a cache."""
    return {
        "input_ids": answers.ids_BS,
        "attention_mask": seen_RS,
        "position_ids": position_argument(answers.positions_KBS),
        **masks(answers),
    }


def masks(rows: Rows) -> dict[str, Tensor]:
    """Return the token inputs that a response needs: masks over images; token types belong to the prompt alone."""
    return {name: values_BS for name, values_BS in rows.token_inputs.items() if values_BS.ndim > 2}


def position_argument(positions_KBS: Tensor) -> Tensor:
    """Return positions in the shape that models take: ``[B, S]`` for one axis, ``[3, B, S]`` for three."""
    return positions_KBS[0] if positions_KBS.shape[0] == 1 else positions_KBS
