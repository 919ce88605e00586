"""What an attack has changed: the criterion after it, and how far the moved view is from the clean one.

N responses of a group, T tokens of the longest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from saei.interventions.base import Criterion
from saei.interventions.context import StepContext
from saei.interventions.group_criterion import CriterionTokens, Selection, TokenChooser
from saei.interventions.outcome import Outcome
from saei.need import Need
from saei.policy import Scores
from saei.policy.scoring import padded
from saei.types import Response, View

LOGP, ENTROPY, FROM_CLEAN = Need("logp"), Need("entropy"), Need("kl", view="clean")


def measured(
    criterion: Criterion,
    outcomes: Sequence[Outcome],
    step: StepContext,
    *,
    at_once: int | None,
    pooled: bool,
    chooser: TokenChooser | None,
) -> list[Outcome]:
    """Return outcomes with what their attacks have changed among their metrics; those left alone as they are.

    Args:
        criterion: Whose J it is.
        outcomes: One per group.
        step: The step.
        at_once: Groups measured together, None for all.
        pooled: See ``Criterion.value``.
        chooser: See ``measure``.
    """
    attacked = [number for number, outcome in enumerate(outcomes) if outcome.tokens is not None]
    complete = list(outcomes)
    size = at_once or max(1, len(attacked))
    for start in range(0, len(attacked), size):
        batch = attacked[start : start + size]
        measurements = measure(
            criterion,
            [tokens for number in batch if (tokens := outcomes[number].tokens) is not None],
            [outcomes[number].view for number in batch],
            step,
            pooled=pooled,
            chooser=chooser,
        )
        for number, (metrics, entropy_NT) in zip(batch, measurements, strict=True):
            complete[number] = _with(outcomes[number], metrics, entropy_NT)
    step.policy.forget_states()
    return complete


def _with(outcome: Outcome, metrics: Mapping[str, float], entropy_NT: Tensor | None) -> Outcome:
    """Return an outcome with what was measured; the entropies go to the trace of its attack.

    ``criterion_rose`` is 1 if J is higher after the attack, else 0: its mean is the share of groups in which it rose.
    """
    record, together = outcome.record, {**outcome.metrics, **metrics}
    together["criterion_rose"] = float(together["criterion_after"] > together["criterion"])
    if entropy_NT is not None and record is not None and record.trace is not None:
        record = replace(record, trace=replace(record.trace, entropy_NT=entropy_NT.cpu()))
    return replace(outcome, metrics=together, record=record)


@torch.no_grad()
def measure(
    criterion: Criterion,
    groups: Sequence[CriterionTokens],
    moved: Sequence[View],
    step: StepContext,
    *,
    pooled: bool,
    chooser: TokenChooser | None,
) -> list[tuple[dict[str, float], Tensor | None]]:
    """Return for each group ``criterion`` and ``criterion_after``, J before and after, and ``view_kl``.

    Of a step that is recorded for people to look at, the entropies ``[N, T]`` under the moved views come with them.

    ``view_kl`` is ``KL(moved‖clean)`` over the whole vocabulary in nats, a mean over all tokens of the clean responses.
    J and the divergence come from one pass under the moved views. The clean side of the divergence costs another,
    unless the attack has kept its hidden states; to forget them is up to the caller. In the end nothing is drawn from
    the groups' sources of randomness, so that a run goes on as if not measured.

    Args:
        criterion: Whose J it is.
        groups: What it is taken over.
        moved: For each the view that its responses are drawn from.
        step: The step.
        pooled: See ``Criterion.value``.
        chooser: Chooses the tokens under the moved view, where they are chosen again at every point; else None.
    """
    policy, clean = step.policy, [group.view for group in groups]
    responses = [group.responses for group in groups]
    constant = {need: replace(need, grad=False) for need in criterion.needs}
    needs = {*constant.values(), LOGP, FROM_CLEAN, *(chooser.needs if chooser else ())}
    if chooser is not None or step.traced:
        needs.add(ENTROPY)

    def value(group: CriterionTokens, selection: Selection, known: dict[Need, Tensor]) -> float:
        statistics = {need: known[same] for need, same in constant.items()}
        scores = Scores(known[LOGP], None, _mask(group.responses), statistics)
        J = criterion.value(scores, selection.selected_NT, pooled=pooled, weight_NT=group.weight_NT)
        return float(J)

    metrics: list[dict[str, float]] = []
    entropies: list[Tensor | None] = []
    for group, view, known in zip(groups, moved, policy.statistics(needs, moved, responses, clean=clean), strict=True):
        selection = group.selection
        if chooser is not None:
            scores = Scores(known[LOGP], known[ENTROPY], _mask(group.responses), known)
            generator = step.generator_of(view)
            state = generator.get_state()
            selection = chooser.by_scores(group.view, selection, scores)
            generator.set_state(state)
        tokens = sum(map(len, group.responses))
        entropies.append(known[ENTROPY] if step.traced else None)
        metrics.append(
            {
                "criterion_after": value(group, selection, known),
                "view_kl": float(known[FROM_CLEAN].sum()) / tokens,
            }
        )
    unasked = [number for number, group in enumerate(groups) if group.start is None]
    if unasked:
        before = policy.statistics(
            {*constant.values(), LOGP},
            [clean[number] for number in unasked],
            [responses[number] for number in unasked],
            drawn=True,
        )
        for number, known in zip(unasked, before, strict=True):
            metrics[number]["criterion"] = value(groups[number], groups[number].selection, known)
    return list(zip(metrics, entropies, strict=True))


def _mask(responses: Sequence[Response]) -> Tensor:
    """Return the bool mask ``[N, T]`` of responses' tokens."""
    return padded([torch.ones_like(response.ids_T, dtype=torch.bool) for response in responses])
