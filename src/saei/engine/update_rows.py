"""The rows of an update: which response stands in which, and all that the objective is given about them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from saei.errors import TrainingError
from saei.need import Need
from saei.objectives.base import Objective, ObjectiveInput
from saei.objectives.batch import Row, UpdateBatch, stack_rows
from saei.objectives.weights.base import Weight
from saei.policy import Policy
from saei.policy.sampling import drawn_tokens
from saei.types import Response, TrainGroup, View

OLD_LOGP = Need("logp", policy="old")
"""What the ratio of the policy loss is to."""


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
        statistics: What is needed of the old policy and the reference; ``OLD_LOGP`` where the ratio is to old ones.
    """

    group: TrainGroup
    rows: tuple[Row, ...]
    selected_NT: Tensor
    weight_NT: Tensor | None = None
    statistics: Mapping[Need, Tensor] = field(default_factory=dict)


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


def checked_values(objective: Objective, values: Mapping[str, Tensor], rows: int) -> Mapping[str, Tensor]:
    """Return what an objective prepared, if it is one number, or has one row per response.

    Raises:
        TrainingError: If it is not.
    """
    for name, value in values.items():
        if value.ndim and (value.ndim > 2 or len(value) != rows):
            raise TrainingError(
                "What an objective prepares is one number, or has one row per response of the update batch.",
                reason=f"'{objective.name()}' prepared '{name}' of {list(value.shape)} for {rows} responses.",
                remedy="Mend it; `saei.testing.check_objective` names the rule that it breaks.",
            )
    return values


def pick(values: Tensor, places: Mapping[tuple[int, int], int], rows: Sequence[Row], like_RT: Tensor) -> Tensor:
    """Return some rows of an update batch's tensor, cut or padded to the width of ``like_RT``, on its device."""
    picked = values[[places[row.index, row.response] for row in rows]].to(like_RT.device)
    return picked if picked.ndim == 1 else fit(picked, like_RT.shape[1])


def fit(values_RT: Tensor, width: int) -> Tensor:
    """Return values cut, or padded by 0, to a number of columns."""
    return pad(values_RT, (0, width - values_RT.shape[1]))


@dataclass(frozen=True, eq=False, slots=True)
class RowScores:
    """Log-probabilities with graph and what was needed besides, one row per row of a table; 0 on padding."""

    logp_RT: Tensor
    mask_RT: Tensor
    statistics: Mapping[Need, Tensor]


@dataclass(frozen=True, eq=False, slots=True)
class ByView:
    """The rows of some groups brought together by the view that they are trained under, as passes go.

    Attributes:
        views: Each view that some response is trained under, once.
        clean: The clean view of its group.
        responses: For each view its responses.
        back: For each row of the table its place in the order of the passes; None if that is the same.
    """

    views: tuple[View, ...]
    clean: tuple[View, ...]
    responses: tuple[tuple[Response, ...], ...]
    back: tuple[int, ...] | None

    @classmethod
    def of(cls, groups: Sequence[TrainGroup]) -> ByView:
        """Bring the rows of groups together; they are those of ``rows_of`` each group, one after the other."""
        views, clean, responses, order = [], [], [], []
        start = 0
        for group in (train.group for train in groups):
            for number, view in enumerate(group.views):
                numbers = [n for n, trained in enumerate(group.updated_on) if trained == number]
                if numbers:
                    views.append(view)
                    clean.append(group.views[0])
                    responses.append(tuple(group.responses[n] for n in numbers))
                    order += [start + n for n in numbers]
            start += len(group.responses)
        back = tuple(sorted(range(len(order)), key=order.__getitem__))
        in_order = back == tuple(range(len(order)))
        return cls(tuple(views), tuple(clean), tuple(responses), None if in_order else back)

    def rows(self, parts: Sequence[Tensor]) -> Tensor:
        """Return what passes gave for each view, ``[N, T]``, in the order of the table."""
        stacked_RT = stack_rows(parts)
        return stacked_RT if self.back is None else stacked_RT[list(self.back)]


def score_rows(policy: Policy, groups: Sequence[TrainGroup], needs: Collection[Need] = ()) -> RowScores:
    """Score every response of some groups under its update view, with gradient to the parameters.

    Args:
        policy: The policy that is trained.
        groups: The groups.
        needs: What is needed besides the log-probabilities.
    """
    by_view = ByView.of(groups)
    scores = policy.score(
        by_view.views, by_view.responses, wrt="parameters", with_entropy=False, needs=needs, clean=by_view.clean
    )
    return RowScores(
        by_view.rows([part.logp_NT for part in scores]),
        by_view.rows([part.mask_NT for part in scores]),
        {need: by_view.rows([part.statistics[need] for part in scores]) for need in needs},
    )


def row_statistics(policy: Policy, group: TrainGroup, needs: Collection[Need]) -> dict[Need, Tensor]:
    """Return what is needed of a group's responses under their update views, ``[N, T]`` each, without gradient."""
    by_view = ByView.of([group])
    found = policy.statistics(needs, by_view.views, by_view.responses, clean=by_view.clean, update=True)
    return {need: by_view.rows([part[need] for part in found]) for need in needs}


def look_ahead(policy: Policy, group: TrainGroup, needs: Collection[Need]) -> None:
    """Compute what of needs is of the old policy, before it moves."""
    by_view = ByView.of([group])
    policy.look_ahead(needs, by_view.views, by_view.responses, clean=by_view.clean)


def group_batch(train: TrainGroup, device: torch.device, statistics: Mapping[Need, Tensor]) -> UpdateBatch:
    """Return a group as objectives and weights see it: the sampling pass, and what they need besides.

    Args:
        train: The group.
        device: The policy's.
        statistics: One row per response, by need.
    """
    responses = train.group.responses
    mask_NT = valid_tokens(train, device)
    return UpdateBatch(
        rows=rows_of(train),
        ids_RT=pad_sequence([response.ids_T for response in responses], batch_first=True),
        mask_RT=mask_NT,
        behaviour_logp_RT=pad_sequence([response.behaviour_logp_T for response in responses], batch_first=True),
        behaviour_entropy_RT=pad_sequence([response.entropy_T for response in responses], batch_first=True),
        advantage_RT=advantages_of(train, mask_NT),
        truncated_R=torch.tensor([response.truncated for response in responses], device=device),
        drawn_RT=drawn_tokens(responses, device),
        statistics=statistics,
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

    def stacked(parts: Sequence[Tensor]) -> Tensor:
        return fit(stack_rows(parts), mask_RT.shape[1])

    weights_NT = [each.weight_NT for each in part if each.weight_NT is not None]
    constants = {need: stacked([each.statistics[need] for each in part]) for need in part[0].statistics}
    return ObjectiveInput(
        logp_RT=scores.logp_RT,
        old_logp_RT=scores.logp_RT.detach() if on_policy else constants[OLD_LOGP],
        behaviour_logp_RT=pad_sequence([response.behaviour_logp_T for response in responses], batch_first=True),
        mask_RT=mask_RT,
        selected_RT=stacked([each.selected_NT for each in part]) & mask_RT,
        advantage_RT=stack_rows([fit(advantages_of(each.group, each.selected_NT), mask_RT.shape[1]) for each in part]),
        truncated_R=column([response.truncated for response in responses], torch.bool),
        off_view_R=column(off_view, torch.bool),
        beta_R=column([weight.beta for weight in weights]),
        cap_R=column([weight.cap for weight in weights]),
        **counts,
        max_new_tokens=max_new_tokens,
        weight_RT=stacked(weights_NT) if weights_NT else None,
        prepared=prepared.of(rows, mask_RT),
        statistics={**constants, **scores.statistics},
    )


@torch.no_grad()
def weigh(weight: Weight, batch: UpdateBatch, *, progress: float, seed: int) -> Tensor:
    """Return a weight's factors, 0 on padding.

    Raises:
        TrainingError: If there is not one for each token, or one is negative or not finite.
    """
    weight_RT = weight.weigh(batch, progress=progress, generator=torch.Generator().manual_seed(seed))
    if weight_RT.shape != batch.mask_RT.shape:
        raise TrainingError(
            "A weight gives each token of a batch a number.",
            reason=f"'{weight.name()}' returned {list(weight_RT.shape)} for {list(batch.mask_RT.shape)}.",
            remedy="Mend it; `saei.testing.check_weight` names the rule that it breaks.",
        )
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
