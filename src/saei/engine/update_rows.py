"""The rows of an update: the responses of a group, one row each, and what the policy computes about them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from saei.need import Need
from saei.objectives.batch import Row, UpdateBatch, stack_rows
from saei.objectives.weights.base import Weight
from saei.policy import Policy
from saei.policy.sampling import drawn_tokens
from saei.types import Response, TrainGroup, View

OLD_LOGP = Need("logp", policy="old")
"""The denominator of the policy ratio."""

REPLAYED = "replayed"
"""In the place of the origin of a response that was drawn in an earlier step."""


@dataclass(frozen=True, eq=False, slots=True)
class GroupRows:
    """A group's rows, and what is the same in every micro-batch that they are part of.

    Attributes:
        group: The group.
        rows: One per response, in the order of the group's responses; all tensors have the same order.
        mask_NT: bool, True on response tokens, but for those that the group leaves untrained.
        selected_NT: bool, the tokens that the policy loss uses.
        weight_NT: Product of the weights, None without any.
        statistics: What is needed of the old policy and the reference. ``OLD_LOGP`` is there unless the current policy
            is the old one.
        metrics: What is logged about the weights: one value per response, ``[N]``, by name.
    """

    group: TrainGroup
    rows: tuple[Row, ...]
    mask_NT: Tensor
    selected_NT: Tensor
    weight_NT: Tensor | None = None
    statistics: Mapping[Need, Tensor] = field(default_factory=dict)
    metrics: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, group: TrainGroup, device: torch.device) -> GroupRows:
        """Return a group's rows before any weight, where the loss uses every token that is trained."""
        rows = tuple(Row(group.group.index, n, view) for n, view in enumerate(group.group.updated_on))
        lengths_N = torch.tensor([len(response) for response in group.group.responses], device=device)
        places_T = torch.arange(int(lengths_N.max()), device=device)
        mask_NT = places_T < lengths_N[:, None]
        if group.group.untrained:
            mask_NT &= places_T >= torch.tensor(group.group.untrained, device=device)[:, None]
        return cls(group, rows, mask_NT, selected_NT=mask_NT)

    @property
    def responses(self) -> tuple[Response, ...]:
        """The response of each row."""
        return self.group.group.responses

    @property
    def origins(self) -> list[str]:
        """For each row the origin of the view that its response was drawn from, or ``REPLAYED``."""
        if self.group.old_logp is not None:
            return [REPLAYED] * len(self.rows)
        return [self.group.group.origin(row.response) for row in self.rows]

    @property
    def as_drawn(self) -> bool:
        """Whether every response was drawn in this step, from the view that it is trained under."""
        group = self.group.group
        return self.group.old_logp is None and tuple(group.updated_on) == tuple(group.sampled_from)

    @property
    def pictured(self) -> list[bool]:
        """For each row whether the view that it is trained under has a picture."""
        return [bool(self.group.group.views[row.view].canvases) for row in self.rows]

    def advantages(self) -> Tensor:
        """Return the advantage of each token, float32 ``[N, T]``, 0 on padding."""
        if self.group.token_advantages is not None:
            advantage_NT = pad_sequence(list(self.group.token_advantages), batch_first=True).to(self.mask_NT.device)
            return torch.where(self.mask_NT, fit(advantage_NT, self.mask_NT.shape[1]), 0.0)
        advantage_N = torch.tensor(self.group.advantages, dtype=torch.float32, device=self.mask_NT.device)
        return torch.where(self.mask_NT, advantage_N[:, None], 0.0)

    def look_ahead(self, policy: Policy, needs: Collection[Need]) -> None:
        """Have the policy compute what is needed of the old policy, before it moves."""
        by_view = RowsByView.of([self.group])
        policy.look_ahead(needs, by_view.views, by_view.responses, clean=by_view.clean)

    def compute(self, policy: Policy, needs: Collection[Need], *, drawn: bool = False) -> dict[Need, Tensor]:
        """Return statistics of the responses under their update views, ``[N, T]`` each, without gradient.

        The old log-probabilities of a replayed group are those that came with it.

        Args:
            policy: The policy.
            needs: The statistics.
            drawn: Whether the policy itself drew the responses, as it is now; then values of the sampling pass are
                used where they are those of the update view.
        """
        by_view, stored = RowsByView.of([self.group]), dict[Need, Tensor]()
        if self.group.old_logp is not None and OLD_LOGP in needs:
            stored = {OLD_LOGP: pad_sequence(list(self.group.old_logp), batch_first=True)}
            needs = [need for need in needs if need != OLD_LOGP]
        statistics = policy.statistics(
            needs,
            by_view.views,
            by_view.responses,
            clean=by_view.clean,
            drawn=drawn and self.as_drawn,
            update=True,
        )
        return {need: by_view.in_row_order([of_view[need] for of_view in statistics]) for need in needs} | stored

    def weighted(self, weight: Weight, weight_NT: Tensor, metrics: Mapping[str, Tensor]) -> GroupRows:
        """Return the rows with the factors of one more weight, and what is logged about it."""
        selected_NT = self.selected_NT if weight.config.count_zeroed else self.selected_NT & (weight_NT != 0)
        product_NT = weight_NT if self.weight_NT is None else self.weight_NT * weight_NT
        metrics = {**self.metrics, **metrics}
        return replace(self, selected_NT=selected_NT, weight_NT=product_NT, metrics=metrics)

    def used(self) -> Tensor:
        """Return the tokens that the weights leave to the policy loss, bool ``[N, T]``."""
        return self.mask_NT if self.weight_NT is None else self.mask_NT & (self.weight_NT != 0)

    def as_batch(self, statistics: Mapping[Need, Tensor]) -> UpdateBatch:
        """Return the group as objectives and weights see it before the loss.

        Args:
            statistics: What they need, ``[N, T]`` each.
        """
        responses, device = self.responses, self.mask_NT.device
        return UpdateBatch(
            rows=self.rows,
            ids_RT=pad_sequence([response.ids_T for response in responses], batch_first=True),
            mask_RT=self.mask_NT,
            behaviour_logp_RT=pad_sequence([response.behaviour_logp_T for response in responses], batch_first=True),
            behaviour_entropy_RT=pad_sequence([response.entropy_T for response in responses], batch_first=True),
            advantage_RT=self.advantages(),
            truncated_R=torch.tensor([response.truncated for response in responses], device=device),
            drawn_RT=drawn_tokens(responses, device),
            pictured_R=torch.tensor(self.pictured, device=device),
            zeroed_RT=torch.zeros_like(self.mask_NT) if self.weight_NT is None else self.weight_NT == 0,
            statistics=statistics,
        )


def fit(values_RT: Tensor, width: int) -> Tensor:
    """Return values cut, or padded by 0, to a number of columns."""
    return pad(values_RT, (0, width - values_RT.shape[1]))


@dataclass(frozen=True, slots=True)
class BatchCounts:
    """What the means over an update batch divide by; ``ObjectiveInput`` explains the fields.

    Responses that were dropped from a group count as its others do: of their tokens the same share is selected.

    Example:
        ``BatchCounts(n_responses=24, n_tokens=410, n_selected=138)``: two groups of 12, of whose tokens the selector
        kept a third.
    """

    n_responses: int = 0
    n_tokens: int = 0
    n_selected: int = 0

    @classmethod
    def of(cls, batch: Sequence[GroupRows], *, mask_truncated: bool) -> BatchCounts:
        """Count some groups.

        Args:
            batch: The groups.
            mask_truncated: Whether the loss leaves out truncated responses, whose tokens do not count then.
        """

        def used(response: Response) -> bool:
            return not (mask_truncated and response.truncated)

        counts = []
        for rows in batch:
            dropped = rows.group.group.dropped
            used_rows = [n for n, each in enumerate(rows.responses) if used(each)]
            n_tokens = int(rows.mask_NT[used_rows].sum())
            n_dropped = sum(len(each) for each in dropped if used(each))
            n_selected = int(rows.selected_NT[used_rows].sum())
            # Which tokens of theirs a selector would have chosen is not known; where there is none, it is all of them.
            n_selected += round(n_dropped * (n_selected / n_tokens if n_tokens else 1))
            counts.append(cls(len(rows.responses) + len(dropped), n_tokens + n_dropped, n_selected))
        return cls.total(counts)

    @classmethod
    def total(cls, parts: Iterable[BatchCounts]) -> BatchCounts:
        """Return the sum of several counts."""
        parts = list(parts)
        return cls(
            n_responses=sum(part.n_responses for part in parts),
            n_tokens=sum(part.n_tokens for part in parts),
            n_selected=sum(part.n_selected for part in parts),
        )


@dataclass(frozen=True, eq=False, slots=True)
class RowScores:
    """The current policy's log-probabilities, with graph, and statistics: ``[R, T]`` each, 0 on padding."""

    logp_RT: Tensor
    mask_RT: Tensor
    statistics: Mapping[Need, Tensor]

    @classmethod
    def of(cls, policy: Policy, batch: Sequence[GroupRows], needs: Collection[Need]) -> RowScores:
        """Score every response of some groups under its update view, with gradient to the parameters.

        Args:
            policy: The policy that is trained.
            batch: The groups.
            needs: The statistics, beyond log-probabilities, that are computed in the same pass.
        """
        by_view = RowsByView.of([rows.group for rows in batch])
        scores = policy.score(
            by_view.views, by_view.responses, wrt="parameters", with_entropy=False, needs=needs, clean=by_view.clean
        )
        return cls(
            by_view.in_row_order([of_view.logp_NT for of_view in scores]),
            by_view.in_row_order([of_view.mask_NT for of_view in scores]),
            {need: by_view.in_row_order([of_view.statistics[need] for of_view in scores]) for need in needs},
        )


@dataclass(frozen=True, eq=False, slots=True)
class RowsByView:
    """The rows of some groups, sorted by update view: a pass of the policy takes each view with all its responses.

    Attributes:
        views: Each view that some response is trained under, once.
        clean: For each of them the clean view of its group.
        responses: For each of them its responses.
        places: For each row its place among the responses of all views.
    """

    views: tuple[View, ...]
    clean: tuple[View, ...]
    responses: tuple[tuple[Response, ...], ...]
    places: tuple[int, ...]

    @classmethod
    def of(cls, groups: Sequence[TrainGroup]) -> RowsByView:
        """Sort the rows of some groups, which are those of one group after the other."""
        views, clean, responses, row_numbers = [], [], [], []
        first_row = 0
        for group in (train.group for train in groups):
            for view_number, view in enumerate(group.views):
                numbers = [n for n, update_view in enumerate(group.updated_on) if update_view == view_number]
                if numbers:
                    views.append(view)
                    clean.append(group.views[0])
                    responses.append(tuple(group.responses[n] for n in numbers))
                    row_numbers += [first_row + n for n in numbers]
            first_row += len(group.responses)
        places = sorted(range(len(row_numbers)), key=row_numbers.__getitem__)
        return cls(tuple(views), tuple(clean), tuple(responses), tuple(places))

    def in_row_order(self, of_views: Sequence[Tensor]) -> Tensor:
        """Return what a pass gave for each view, ``[N, T]``, as one tensor in the order of the rows."""
        by_view_RT = stack_rows(of_views)
        sorted_already = self.places == tuple(range(len(self.places)))
        return by_view_RT if sorted_already else by_view_RT[list(self.places)]
