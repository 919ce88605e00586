"""Filling needs: each statistic of a response is computed once, in as few passes as possible.

What was computed without gradient is kept beside its response until the weights change. Passes are shared: one per
policy and view, with all that is asked of it. A divergence is computed in the pass of the current policy under the own
view, with the hidden states of the other side at hand.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from saei.need import Need
from saei.policy.scoring import Scores, WithRespectTo, score_with
from saei.policy.statistics.filling import Filling, Subject
from saei.policy.statistics.needs import moves


@torch.no_grad()
def fill(needs: Iterable[Need], subject: Subject) -> list[dict[Need, Tensor]]:
    """Return for each view its needs' values without gradient, ``[N, T]``, 0 or False on padding."""
    needs = list(needs)
    filling = Filling(subject)
    filling.compute(needs)
    values = {need: filling.values(need) for need in needs}
    return [
        {need: _padded(of_views[number]) for need, of_views in values.items()} for number in range(len(subject.views))
    ]


@torch.no_grad()
def look_ahead(needs: Iterable[Need], subject: Subject) -> None:
    """Compute what of needs is of the old policy, which is the current one now, and keep it beside the responses."""
    filling = Filling(subject, ahead=True)
    old = [leaf for need in needs for leaf in filling.leaves(need) if leaf.policy == "old"]
    filling.compute(leaf for leaf in old if not moves(leaf))
    if any(moves(leaf) for leaf in old):  # a divergence: its other side are hidden states of now under the head of now
        subject.policy.keep_head()
    filling.compute_other_sides(leaf for leaf in old if moves(leaf))


def score_needs(
    needs: Collection[Need],
    subject: Subject,
    *,
    wrt: WithRespectTo,
    with_entropy: bool,
    selected: Sequence[Tensor] | None,
) -> list[Scores]:
    """Score responses in one pass with what is needed of them, see ``Policy.score``."""
    filling = Filling(subject)
    at_point = isinstance(wrt, Mapping)
    leaves_of = {need: filling.leaves(need) for need in needs}
    # At a point the own views are elsewhere than the subject's: what looks at them is computed in the pass itself, also
    # where its gradient is not wanted.
    in_pass = {
        leaf: replace(leaf, grad=True)
        for leaves in leaves_of.values()
        for leaf in leaves
        if leaf.grad or (at_point and filling.looks_at_own(leaf))
    }
    combined = {need for need in needs if need.grad or not in_pass.keys().isdisjoint(leaves_of[need])}
    around = {leaf for need in combined for leaf in leaves_of[need] if leaf not in in_pass}
    constants = fill([*(need for need in needs if need not in combined), *around], subject)
    leaves = set(in_pass.values())
    with torch.no_grad():
        filling.compute_other_sides(leaves)
    scored = score_with(
        subject.policy,
        subject.views,
        subject.responses,
        {leaf: filling.extra(leaf) for leaf in leaves if leaf.statistic not in ("logp", "entropy")},
        wrt=wrt,
        with_entropy=with_entropy or any(leaf.statistic == "entropy" for leaf in leaves),
        selected=selected,
    )
    filling.forget_reference_states()
    results = []
    for number, (scores, extras) in enumerate(scored):
        values = dict(constants[number])
        for leaf, with_grad in in_pass.items():
            if leaf.statistic in ("logp", "entropy"):
                values_NT = scores.logp_NT if leaf.statistic == "logp" else scores.entropies()
            else:
                values_NT = _padded(extras[with_grad])
            values[leaf] = values_NT if leaf.grad else values_NT.detach()
        counted_NT = scores.mask_NT
        if selected is not None:
            counted_NT = counted_NT & selected[number][:, : counted_NT.shape[1]]
        statistics = {
            need: torch.where(counted_NT, filling.combined(need, values), 0.0)
            if need in combined
            else values[need].masked_fill(~counted_NT, 0)
            for need in needs
        }
        results.append(Scores(scores.logp_NT, scores.entropy_NT, scores.mask_NT, statistics))
    return results


def _padded(values: Sequence[Tensor]) -> Tensor:
    return pad_sequence(list(values), batch_first=True) if values else torch.zeros(0, 0)
