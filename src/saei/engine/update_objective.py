"""What an update gives to the objective and its weights, and what it takes from them, checked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from saei.engine.update_rows import OLD_LOGP, BatchCounts, GroupRows, RowScores, fit
from saei.errors import TrainingError
from saei.objectives.aggregation import per_response
from saei.objectives.base import Objective, ObjectiveInput, Term, term_prefix
from saei.objectives.batch import Row, UpdateBatch, stack_rows
from saei.objectives.weights.base import Weight
from saei.runtime.seeds import derive

USED_TOKENS = "used_tokens"
"""The metric of how many tokens the weights together leave to the policy loss; there is none without weights."""


@torch.no_grad()
def weigh(
    weight: Weight, batch: UpdateBatch, *, label: str, progress: float, seed: int
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return a weight's factors, 0 on padding, and what is logged about them: ``[R]`` by names that begin with a label.

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
    metrics = {f"{label}/{name}": value_R.to(weight_RT.device) for name, value_R in weight.metrics(batch).items()}
    return weight_RT, touched(label, weight_RT, batch.mask_RT) | metrics


def labels(weights: Mapping[str, Weight]) -> dict[str, str]:
    """Return the name that each of an objective's weights is logged under, a second one of a kind with its number."""
    counts: Counter[str] = Counter()
    of_weights = {}
    for key, weight in weights.items():
        name = key if key == "token-selector" else weight.name()
        counts[name] += 1
        of_weights[key] = name if counts[name] == 1 else f"{name}-{counts[name]}"
    return of_weights


def touched(label: str, weight_RT: Tensor, mask_RT: Tensor) -> dict[str, Tensor]:
    """Return for each response the share and the number of the tokens that a weight changes the loss of."""
    touched_RT = ((weight_RT != 1) & mask_RT).float()
    return {
        f"{label}/touched": per_response(touched_RT, mask_RT),
        f"{label}/touched_tokens": touched_RT.sum(dim=1),
    }


@dataclass(frozen=True, slots=True)
class RowPlaces:
    """Where each response stands in an update batch, by the index of its group and its number there."""

    places: Mapping[tuple[int, int], int]

    @classmethod
    def of(cls, batch: UpdateBatch) -> RowPlaces:
        """Number the rows of a batch."""
        return cls({(row.index, row.response): place for place, row in enumerate(batch.rows)})

    def pick(self, values: Tensor, rows: Sequence[Row], like_RT: Tensor) -> Tensor:
        """Return some rows of a tensor over the batch, cut or padded to the width of ``like_RT``, on its device."""
        picked = values[[self.places[row.index, row.response] for row in rows]].to(like_RT.device)
        return picked if picked.ndim == 1 else fit(picked, like_RT.shape[1])

    def weighted(self, rows: GroupRows, weight: Weight, weight_RT: Tensor, metrics: Mapping[str, Tensor]) -> GroupRows:
        """Return a group's rows with the factors that a weight gave to the batch, and what is logged about them."""
        own = {name: self.pick(values_R, rows.rows, rows.mask_NT) for name, values_R in metrics.items()}
        return rows.weighted(weight, self.pick(weight_RT, rows.rows, rows.mask_NT), own)


@dataclass(frozen=True, eq=False, slots=True)
class Prepared:
    """What the objective and its terms made of the whole update batch; each micro-batch gets the values of its rows.

    Attributes:
        values: Scalars, and tensors with one row per response of the batch.
        places: Where the batch has each response.
    """

    values: Mapping[str, Tensor] = field(default_factory=dict)
    places: RowPlaces = field(default=RowPlaces({}))

    @classmethod
    def by(cls, objective: Objective, batch: UpdateBatch, *, progress: float, seed: int) -> Prepared:
        """Let an objective and its terms look at an update batch.

        Raises:
            TrainingError: If something that they return is neither one number nor one row per response.
        """

        def prepared(part: Objective | Term, part_batch: UpdateBatch, *seeded_by: str) -> Mapping[str, Tensor]:
            generator = torch.Generator().manual_seed(derive(seed, *seeded_by) if seeded_by else seed)
            values = part.prepare(part_batch, progress=progress, generator=generator)
            for name, value in values.items():
                if value.ndim and (value.ndim > 2 or len(value) != len(batch.rows)):
                    raise TrainingError(
                        "What is prepared of an update batch is one number, or has one row per response of it.",
                        reason=f"'{part.name()}' prepared '{name}' of {list(value.shape)} for {len(batch.rows)} "
                        "responses.",
                        remedy=f"Mend it; `saei.testing.check_{part.kind}` names the rule that it breaks.",
                    )
            return values

        values = dict(prepared(objective, batch))
        for number, term in enumerate(objective.terms):
            if term.prepares:
                of_term = prepared(term, batch.only_pictured() if term.needs_picture else batch, f"term {number}")
                values |= {term_prefix(number) + name: value for name, value in of_term.items()}
        return cls(values, RowPlaces.of(batch))

    def of(self, rows: Sequence[Row], like_RT: Tensor) -> dict[str, Tensor]:
        """Return the values of some rows, in the width and on the device of ``like_RT``."""
        return {
            name: value.to(like_RT.device) if value.ndim == 0 else self.places.pick(value, rows, like_RT)
            for name, value in self.values.items()
        }


def objective_input(
    micro_batch: Sequence[GroupRows],
    scores: RowScores,
    *,
    counts: BatchCounts,
    max_new_tokens: int,
    prepared: Prepared,
    on_policy: bool,
) -> ObjectiveInput:
    """Return a micro-batch as the objective sees it.

    Args:
        micro_batch: Whole groups.
        scores: The current policy's, in the order of the groups' rows.
        counts: Those of the whole update batch.
        max_new_tokens: Longest response that sampling allows.
        prepared: What the objective made of the update batch.
        on_policy: The current policy is the old one: its own log-probabilities, detached, stand for the old ones,
            except those of replayed responses.
    """
    device = scores.mask_RT.device
    groups = [each.group.group for each in micro_batch]
    responses = [response for each in micro_batch for response in each.responses]
    off_view = [
        update_view != drawn_from
        for group in groups
        for update_view, drawn_from in zip(group.updated_on, group.sampled_from, strict=True)
    ]
    view_weights = [group.view_weight(n) for group in groups for n in range(len(group.responses))]

    def column(values: Sequence[float | bool], dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.tensor(values, dtype=dtype, device=device)

    def stacked(of_groups: Sequence[Tensor]) -> Tensor:
        return fit(stack_rows(of_groups), scores.mask_RT.shape[1])

    mask_RT = stacked([each.mask_NT for each in micro_batch]) & scores.mask_RT
    selected_RT = stacked([each.selected_NT for each in micro_batch]) & mask_RT
    weights_NT = [each.weight_NT for each in micro_batch if each.weight_NT is not None]
    constants = {need: stacked([each.statistics[need] for each in micro_batch]) for need in micro_batch[0].statistics}
    return ObjectiveInput(
        logp_RT=scores.logp_RT,
        old_logp_RT=stacked(_old_logps(micro_batch, scores.logp_RT.detach())) if on_policy else constants[OLD_LOGP],
        behaviour_logp_RT=pad_sequence([response.behaviour_logp_T for response in responses], batch_first=True),
        mask_RT=mask_RT,
        selected_RT=selected_RT,
        advantage_RT=torch.where(selected_RT, stacked([each.advantages() for each in micro_batch]), 0.0),
        truncated_R=column([response.truncated for response in responses], torch.bool),
        off_view_R=column(off_view, torch.bool),
        beta_R=column([weight.beta for weight in view_weights]),
        cap_R=column([weight.cap for weight in view_weights]),
        n_responses=float(counts.n_responses),
        n_tokens=float(max(1, counts.n_tokens)),
        n_selected=float(max(1, counts.n_selected)),
        max_new_tokens=max_new_tokens,
        weight_RT=stacked(weights_NT) if weights_NT else None,
        correct_R=column([grade.correct for each in micro_batch for grade in each.group.scored.grades], torch.bool),
        clean_R=column([view == 0 for group in groups for view in group.sampled_from], torch.bool),
        pictured_R=column([pictured for each in micro_batch for pictured in each.pictured], torch.bool),
        prepared=prepared.of([row for each in micro_batch for row in each.rows], mask_RT),
        statistics={**constants, **scores.statistics},
    )


def weight_metrics(micro_batch: Sequence[GroupRows], *, mask_truncated: bool) -> dict[str, Tensor]:
    """Return what is logged about the weights of a micro-batch, ``[R]`` by name; NaN for responses left out."""
    names = micro_batch[0].metrics
    stacked = {name: torch.cat([each.metrics[name] for each in micro_batch]) for name in names}
    used = [each.used() for each in micro_batch if each.weight_NT is not None]
    if used:
        masks = [each.mask_NT for each in micro_batch]
        stacked["used"] = torch.cat([per_response(*of_group) for of_group in zip(used, masks, strict=True)])
        stacked[USED_TOKENS] = torch.cat([used_NT.sum(dim=1).float() for used_NT in used])
    if not mask_truncated or not stacked:
        return stacked
    truncated = [response.truncated for each in micro_batch for response in each.responses]
    return {
        name: values_R.masked_fill(torch.tensor(truncated, device=values_R.device), torch.nan)
        for name, values_R in stacked.items()
    }


def _old_logps(micro_batch: Sequence[GroupRows], current_RT: Tensor) -> list[Tensor]:
    """Return for each group the log-probabilities of the policy as it is now, or those that it came with."""
    of_groups = current_RT.split([len(each.rows) for each in micro_batch])
    return [
        current_NT if each.group.old_logp is None else pad_sequence(list(each.group.old_logp), batch_first=True)
        for each, current_NT in zip(micro_batch, of_groups, strict=True)
    ]
