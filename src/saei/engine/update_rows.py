"""The rows of an update: which response stands in which, and all that the objective is given about them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from saei.errors import TrainingError
from saei.interventions.stats import token_stats
from saei.objectives.base import ObjectiveInput
from saei.objectives.batch import Row, UpdateBatch, stack_rows
from saei.objectives.weights.base import Weight
from saei.policy import Policy
from saei.types import TrainGroup


def rows_of(group: TrainGroup) -> tuple[Row, ...]:
    """Return the rows of a group's responses, in the order of their numbers."""
    return tuple(Row(group.group.index, number, view) for number, view in enumerate(group.group.updated_on))


@dataclass(frozen=True, eq=False, slots=True)
class GroupRows:
    """A group's rows, and what stays the same about them in whatever micro-batch they are scored.

    Attributes:
        group: The group.
        rows: One per response, in the order of their numbers; so are all tensors.
        selected_NT: bool, the tokens that the policy loss uses.
        weight_NT: Product of the weights, None without any.
        old_logp_NT: The old policy's log-probabilities; None where the update needs none but the current ones.
        reference_logp_NT: The reference's; None where no term needs them.
    """

    group: TrainGroup
    rows: tuple[Row, ...]
    selected_NT: Tensor
    weight_NT: Tensor | None = None
    old_logp_NT: Tensor | None = None
    reference_logp_NT: Tensor | None = None


@dataclass(frozen=True, eq=False, slots=True)
class Prepared:
    """What the objective made of the whole update batch, to be handed out by row.

    Attributes:
        values: Scalars, and tensors with one row per response of the batch.
        places: Where the row of an index and a response's number stands.
    """

    values: Mapping[str, Tensor] = field(default_factory=dict)
    places: Mapping[tuple[int, int], int] = field(default_factory=dict)

    def of(self, rows: Sequence[Row], like_RT: Tensor) -> dict[str, Tensor]:
        """Return the values of some rows, in the width and on the device of ``like_RT``."""
        return {
            name: value.to(like_RT.device) if value.ndim == 0 else pick(value, self.places, rows, like_RT)
            for name, value in self.values.items()
        }


def pick(values: Tensor, places: Mapping[tuple[int, int], int], rows: Sequence[Row], like_RT: Tensor) -> Tensor:
    """Return some rows of an update batch's tensor, cut or padded to the width of ``like_RT``, on its device."""
    found = values[[places[row.index, row.response] for row in rows]].to(like_RT.device)
    return found if found.ndim == 1 else fit(found, like_RT.shape[1])


def fit(values_RT: Tensor, width: int) -> Tensor:
    """Return values cut, or padded by 0, to a number of columns."""
    return pad(values_RT, (0, width - values_RT.shape[1]))


@dataclass(frozen=True, eq=False, slots=True)
class RowScores:
    """Log-probabilities, and entropies if they were asked for, one row per row of a table; 0 on padding."""

    logp_RT: Tensor
    mask_RT: Tensor
    entropy_RT: Tensor | None


def score_rows(
    policy: Policy, groups: Sequence[TrainGroup], *, grad: bool = False, with_entropy: bool = False
) -> RowScores:
    """Score every response of some groups under its update view, by the policy's passes over whole views.

    The rows are those of ``rows_of`` each group, one group after the other. A view is computed once for all responses
    that are trained under it, and not at all if there are none.
    """
    rows = [row for group in groups for row in rows_of(group)]
    of_index = {group.group.index: group.group for group in groups}
    position = {index: number for number, index in enumerate(of_index)}

    # The passes go view by view, so the rows of a view are brought together ...
    by_view = sorted(range(len(rows)), key=lambda place: (position[rows[place].index], rows[place].view, place))
    views, responses = [], []
    for (index, view), places in itertools.groupby(by_view, key=lambda place: (rows[place].index, rows[place].view)):
        views.append(of_index[index].views[view])
        responses.append([of_index[index].responses[rows[place].response] for place in places])
    scores = policy.score(views, responses, wrt="parameters" if grad else None, with_entropy=with_entropy)

    # ... and what they return is put back into the table's order.
    back = sorted(range(len(rows)), key=by_view.__getitem__)

    def in_order(parts: Sequence[Tensor]) -> Tensor:
        stacked_RT = stack_rows(parts)
        return stacked_RT if back == list(range(len(rows))) else stacked_RT[back]

    return RowScores(
        in_order([part.logp_NT for part in scores]),
        in_order([part.mask_NT for part in scores]),
        in_order([part.entropies() for part in scores]) if with_entropy else None,
    )


def group_batch(policy: Policy, train: TrainGroup, needs: frozenset[str] = frozenset()) -> UpdateBatch:
    """Return a group as objectives and weights see it, from the sampling pass alone.

    Args:
        policy: For what ``needs`` names.
        train: The group.
        needs: Keys of ``UpdateBatch.extra``.
    """
    responses = train.group.responses
    stats = token_stats(policy, train.group.views[0], responses, needs)
    return UpdateBatch(
        rows=rows_of(train),
        ids_RT=stats.ids_NT,
        mask_RT=stats.valid_NT,
        behaviour_logp_RT=stats.logp_NT,
        behaviour_entropy_RT=stats.entropy_NT,
        advantage_RT=advantages_of(train, stats.valid_NT),
        truncated_R=torch.tensor([response.truncated for response in responses], device=policy.device),
        extra=stats.extra,
    )


def advantages_of(train: TrainGroup, mask_NT: Tensor) -> Tensor:
    """Return a group's advantages per token, float32 ``[N, T]``, 0 on padding."""
    if train.token_advantages is not None:
        per_token_NT = pad_sequence(list(train.token_advantages), batch_first=True).to(mask_NT.device)
        return torch.where(mask_NT, fit(per_token_NT, mask_NT.shape[1]), 0.0)
    per_response_N = torch.tensor(train.advantages, dtype=torch.float32, device=mask_NT.device)
    return torch.where(mask_NT, per_response_N[:, None], 0.0)


def valid_tokens(train: TrainGroup, device: torch.device) -> Tensor:
    """Return the bool mask ``[N, T]`` of a group's response tokens."""
    lengths_N = torch.tensor([len(response) for response in train.group.responses], device=device)
    return torch.arange(int(lengths_N.max()), device=device)[None] < lengths_N[:, None]


def objective_input(
    part: Sequence[GroupRows],
    scores: RowScores,
    *,
    counts: Mapping[str, float],
    max_new_tokens: int,
    prepared: Prepared,
    on_policy: bool,
) -> ObjectiveInput:
    """Return a micro-batch as the objective sees it.

    Args:
        part: Whole groups.
        scores: The current policy's, one row per row of the groups.
        counts: Counts of the whole update batch by field.
        max_new_tokens: Longest response that sampling allows.
        prepared: What the objective made of the update batch.
        on_policy: The current policy is the old one: its own log-probabilities, detached, stand for the old ones.
    """
    mask_RT, device = scores.mask_RT, scores.mask_RT.device
    groups, rows = [each.group.group for each in part], [row for each in part for row in each.rows]
    responses = [response for group in groups for response in group.responses]
    off_view = [
        seen != drawn for group in groups for seen, drawn in zip(group.updated_on, group.sampled_from, strict=True)
    ]
    weights = [group.view_weight(n) for group in groups for n in range(len(group.responses))]

    def column(values: Sequence[float | bool], dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.tensor(values, dtype=dtype, device=device)

    def constant(name: str) -> Tensor | None:
        parts = [value for each in part if (value := getattr(each, name)) is not None]
        return fit(stack_rows(parts), mask_RT.shape[1]) if parts else None

    old_logp_RT = None if on_policy else constant("old_logp_NT")
    selected_RT = constant("selected_NT")
    assert selected_RT is not None
    return ObjectiveInput(
        logp_RT=scores.logp_RT,
        old_logp_RT=scores.logp_RT.detach() if old_logp_RT is None else old_logp_RT,
        behaviour_logp_RT=pad_sequence([response.behaviour_logp_T for response in responses], batch_first=True),
        mask_RT=mask_RT,
        selected_RT=selected_RT & mask_RT,
        advantage_RT=stack_rows([fit(advantages_of(each.group, each.selected_NT), mask_RT.shape[1]) for each in part]),
        truncated_R=column([response.truncated for response in responses], torch.bool),
        off_view_R=column(off_view, torch.bool),
        beta_R=column([weight.beta for weight in weights]),
        cap_R=column([weight.cap for weight in weights]),
        **counts,
        max_new_tokens=max_new_tokens,
        entropy_RT=scores.entropy_RT,
        reference_logp_RT=constant("reference_logp_NT"),
        weight_RT=constant("weight_NT"),
        prepared=prepared.of(rows, mask_RT),
    )


@torch.no_grad()
def weigh(weight: Weight, batch: UpdateBatch, *, progress: float, seed: int) -> Tensor:
    """Return a weight's factors, 0 on padding.

    Raises:
        TrainingError: If one is negative or not finite.
    """
    weight_RT = weight.weigh(batch, progress=progress, generator=torch.Generator().manual_seed(seed))
    weight_RT = torch.where(batch.mask_RT, weight_RT.to(batch.mask_RT.device), 0.0)
    if not bool((weight_RT.isfinite() & (weight_RT >= 0)).all()):
        raise TrainingError(
            "The weight of a token is a finite number, 0 or more.",
            reason=f"'{weight.name()}' gave one from {float(weight_RT.min())} to {float(weight_RT.max())}.",
            remedy="Mend it; `saei.testing.check_weight` names the rule that it breaks.",
        )
    return weight_RT


def weighed(rows: GroupRows, weight: Weight, weight_NT: Tensor) -> GroupRows:
    """Return a group's rows with the factors of one weight more."""
    selected_NT = rows.selected_NT if weight.config.count_zeroed else rows.selected_NT & (weight_NT != 0)
    product_NT = weight_NT if rows.weight_NT is None else rows.weight_NT * weight_NT
    return replace(rows, selected_NT=selected_NT, weight_NT=product_NT)
