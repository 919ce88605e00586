"""From views and responses to model rows: the shared way packs a view's prompt and all of its responses into one row.

In a packed row every response sees the prompt and itself: a block mask hides the other responses, and explicit
positions let each start right after the prompt. The logits are those of one row per response. The plain way,
one row per response under an ordinary causal mask, is the reference and the fallback.

B rows, S columns of a row, M scored tokens of all rows; K rotary position axes. Source: original.
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
    """Model rows and where in them each response token is predicted.

    Attributes:
        input_ids_BS: int64, right-padded.
        positions_KBS: int64 rotary positions.
        attention: bool, ``[B, 1, S, S]`` block mask (True = may attend) of the shared way, or the ``[B, S]``
            padding mask of the plain way.
        views: The view of each row, whose pixels the row needs.
        source_M: int64, flat ``B * S`` position whose hidden state predicts each token.
        target_M: int64, the token.
    """

    input_ids_BS: Tensor
    positions_KBS: Tensor
    attention: Tensor
    views: tuple[View, ...]
    source_M: Tensor
    target_M: Tensor


def pack(views: Sequence[View], responses: Sequence[Sequence[Tensor]], *, shared: bool) -> Rows:
    """Lay out the responses of several views; tokens are ordered by view, response and position.

    Args:
        views: One per entry of ``responses``.
        responses: For each view the int64 ids of its responses.
        shared: One row per view, or one row per response.
    """
    if not shared:
        pairs = [(view, [ids_T]) for view, own in zip(views, responses, strict=True) for ids_T in own]
    else:
        pairs = [(view, list(own)) for view, own in zip(views, responses, strict=True)]
    rows = [_row(view, own) for view, own in pairs]
    width = max(row.ids_S.shape[0] for row in rows)
    segments_BS = _pad([row.segments_S for row in rows], width, -1)
    attention = _block_mask(segments_BS) if shared else segments_BS >= 0
    return Rows(
        input_ids_BS=_pad([row.ids_S for row in rows], width, 0),
        positions_KBS=_pad([row.positions_KS for row in rows], width, 0),
        attention=attention,
        views=tuple(view for view, _ in pairs),
        source_M=torch.cat([row.source_M + number * width for number, row in enumerate(rows)]),
        target_M=torch.cat([row.target_M for row in rows]),
    )


@dataclass(frozen=True, eq=False, slots=True)
class _Row:
    ids_S: Tensor
    positions_KS: Tensor
    segments_S: Tensor
    source_M: Tensor
    target_M: Tensor


def _row(view: View, responses: Sequence[Tensor]) -> _Row:
    """Lay out one row; a response's last token predicts nothing and is left out of the input."""
    prompt_length = view.prompt_ids_P.shape[0]
    start = int(view.positions_KP.max()) + 1
    ids, positions, segments = [view.prompt_ids_P], [view.positions_KP], [torch.zeros_like(view.prompt_ids_P)]
    sources, column = [], prompt_length
    for number, ids_T in enumerate(responses, start=1):
        fed = ids_T[:-1]
        length = fed.shape[0]
        ids.append(fed)
        positions.append(torch.arange(start, start + length, device=fed.device).expand(view.positions_KP.shape[0], -1))
        segments.append(torch.full_like(fed, number))
        if ids_T.shape[0]:
            first = torch.tensor([prompt_length - 1], device=fed.device)
            sources.append(torch.cat([first, torch.arange(column, column + length, device=fed.device)]))
        column += length
    empty = view.prompt_ids_P.new_zeros(0)
    return _Row(
        torch.cat(ids),
        torch.cat(positions, dim=1),
        torch.cat(segments),
        torch.cat(sources) if sources else empty,
        torch.cat(list(responses)) if responses else empty,
    )


def _pad(rows: Sequence[Tensor], width: int, value: int) -> Tensor:
    """Stack ``[..., S]`` rows of several lengths along a new axis before the last, right-padded."""
    return torch.stack([pad(row, (0, width - row.shape[-1]), value=value) for row in rows], dim=-2)


def _block_mask(segments_BS: Tensor) -> Tensor:
    """Return who may attend to whom: earlier columns of the prompt (segment 0) or of the own segment.

    Nothing attends to padding but padding to itself, since a row of the mask without any True gives NaN.
    """
    width = segments_BS.shape[1]
    causal_SS = torch.ones(width, width, dtype=torch.bool, device=segments_BS.device).tril()
    keys_B1S, queries_BS1 = segments_BS[:, None, :], segments_BS[:, :, None]
    visible = causal_SS & (keys_B1S >= 0) & ((keys_B1S == 0) | (keys_B1S == queries_BS1))
    visible |= torch.eye(width, dtype=torch.bool, device=segments_BS.device)
    return visible[:, None]
