"""The criterion of several groups as a function of the point that an attack moves."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from saei.attacks.base import Point
from saei.entropy.selectors.base import Selector, TokenStats, checked_selection
from saei.interventions.base import Criterion
from saei.interventions.context import StepContext
from saei.interventions.point import OpenViews
from saei.need import Need
from saei.policy import Policy, Scores
from saei.policy.sampling import drawn_tokens
from saei.types import AttackTrace, Response, View

QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Of the selected entropies, which are logged."""


def token_stats(policy: Policy, view: View, responses: Sequence[Response], needs: Collection[Need]) -> TokenStats:
    """Return the statistics of a group's responses as selectors see them: the sampling pass's, and what they need.

    Args:
        policy: The policy that drew the responses.
        view: The clean view that they were drawn from.
        responses: The responses, one at least.
        needs: What the selector needs beyond the statistics of the sampling pass.
    """
    (statistics,) = policy.statistics(needs, [view], [responses], drawn=True) if needs else ({},)
    return TokenStats(
        entropy_NT=pad_sequence([response.entropy_T for response in responses], batch_first=True),
        logp_NT=pad_sequence([response.behaviour_logp_T for response in responses], batch_first=True),
        ids_NT=pad_sequence([response.ids_T for response in responses], batch_first=True),
        valid_NT=drawn_tokens(responses, responses[0].ids_T.device),
        statistics=statistics,
    )


@dataclass(frozen=True, eq=False, slots=True)
class Selection:
    """The tokens of one group that the criterion is taken over.

    Attributes:
        stats: The statistics that they were chosen by.
        selected_NT: bool; True on these tokens.
    """

    stats: TokenStats
    selected_NT: Tensor

    @property
    def empty(self) -> bool:
        """Whether there are none."""
        return not bool(self.selected_NT.any())


@dataclass(frozen=True, eq=False, slots=True)
class CriterionTokens:
    """What the criterion of one group is taken over.

    Attributes:
        view: The clean view.
        responses: Drawn from it, none of them empty.
        selection: The tokens, as chosen last.
        weight_NT: Factors of their values, None without any; see ``Criterion.draw_weights``.
        start: J where the attack began, None if the attack never asked for it.
    """

    view: View
    responses: Sequence[Response]
    selection: Selection
    weight_NT: Tensor | None = None
    start: float | None = None


class TokenChooser:
    """Chooses tokens for the groups of a step.

    Args:
        selector: Chooses them.
        step: The step.
    """

    def __init__(self, selector: Selector, step: StepContext) -> None:
        self._selector, self._step = selector, step

    def by_sampling(self, view: View, responses: Sequence[Response]) -> Selection:
        """Return the selection by the statistics of the sampling pass."""
        return self._chosen(view, token_stats(self._step.policy, view, responses, self._selector.needs))

    def by_scores(self, view: View, before: Selection, scores: Scores) -> Selection:
        """Return the selection by the scores of the responses at the attack's current point."""
        stats = replace(
            before.stats,
            entropy_NT=scores.entropies().detach(),
            logp_NT=scores.logp_NT.detach(),
            statistics={need: scores.statistics[need] for need in self.needs},
        )
        return self._chosen(view, stats)

    @property
    def needs(self) -> frozenset[Need]:
        """What it has to know besides entropies and log-probabilities."""
        return self._selector.needs

    def _chosen(self, view: View, stats: TokenStats) -> Selection:
        generator = self._step.generator_of(view)
        selected_NT = checked_selection(self._selector, stats, progress=self._step.progress, generator=generator)
        return Selection(stats, selected_NT)


class GroupCriterion:
    """J of several groups as a function of a point.

    Args:
        criterion: The value of each token.
        selector: The tokens that it is taken over.
        reselect: Choose them again at every point that the attack visits; otherwise the first choice stays.
        opened: The groups' clean views.
        responses: For each view the responses drawn from it, none of them empty.
        step: The step.
        measured: Whether the divergence from the clean views is asked for afterwards; then their hidden states are kept
            where the attack begins at them.

    Attributes:
        selections: For each group the tokens that it is taken over, as chosen last.
    """

    def __init__(
        self,
        criterion: Criterion,
        selector: Selector,
        *,
        reselect: bool,
        opened: OpenViews,
        responses: Sequence[Sequence[Response]],
        step: StepContext,
        measured: bool = False,
    ) -> None:
        self._measured = measured
        self._criterion, self._pooled, self._reselect = criterion, selector.pooled, reselect
        self._opened, self._responses, self._step = opened, responses, step
        self._chooser = TokenChooser(selector, step)
        pairs = zip(opened.views, responses, strict=True)
        self.selections = [self._chooser.by_sampling(view, drawn) for view, drawn in pairs]
        self._weights = [
            criterion.draw_weights(selection.stats.valid_NT, step.generator_of(view))
            for view, selection in zip(opened.views, self.selections, strict=True)
        ]
        self._start_J_B: Tensor | None = None
        self._signs: dict[int, tuple[float, float, float]] = {}
        self._gradients: dict[int, Tensor] = {}

    @torch.enable_grad()
    def __call__(self, point: Point, /, *, offsets: Mapping[int, Tensor] | None = None) -> Tensor:
        """Return ``J_B``, one value per group, differentiable in the point's blocks and in the offsets."""
        if self._step.traced and self._start_J_B is None:
            self._watch_gradient(point)
        scores = self._scores(point, offsets)
        if self._reselect:
            of_groups = zip(self._opened.views, self.selections, scores, strict=True)
            self.selections = [self._chooser.by_scores(*of_group) for of_group in of_groups]
        values = [
            self._criterion.value(of_group, selection.selected_NT, pooled=self._pooled, weight_NT=weight_NT)
            for of_group, selection, weight_NT in zip(scores, self.selections, self._weights, strict=True)
        ]
        J_B = torch.stack(values)
        if self._start_J_B is None:
            self._start_J_B = J_B.detach()
        return J_B

    def _scores(self, point: Point, offsets: Mapping[int, Tensor] | None) -> list[Scores]:
        """Return the scores of the responses at a point; with a frozen choice those of the selected tokens alone."""
        views, wrt = self._opened.at(point, offsets)
        return self._step.policy.score(
            views,
            self._responses,
            wrt=wrt,
            with_entropy=self._reselect,
            selected=None if self._reselect else [selection.selected_NT for selection in self.selections],
            needs=self._criterion.needs | (self._chooser.needs if self._reselect else frozenset()),
            clean=self._opened.views,
            at_clean=self._measured and self._start_J_B is None and all(map(torch.equal, point, self._opened.start)),
        )

    def tokens(self, number: int) -> CriterionTokens:
        """Return what the criterion of a group is taken over."""
        start = None if self._start_J_B is None else float(self._start_J_B[number])
        views, responses = self._opened.views, self._responses
        return CriterionTokens(views[number], responses[number], self.selections[number], self._weights[number], start)

    def metrics(self, number: int) -> dict[str, float]:
        """Return what is logged about a group: its selection and the criterion where the attack began."""
        selection = self.selections[number]
        metrics = selection_summary(selection.stats.entropy_NT, selection.selected_NT)
        if self._start_J_B is not None:
            metrics["criterion"] = float(self._start_J_B[number])
        return metrics

    def trace(self, number: int) -> AttackTrace | None:
        """Return the record of a group's attack, None unless the step is traced."""
        if not self._step.traced:
            return None
        signs: dict[str, list[tuple[float, float, float]]] = {}
        for place, shares in self._signs.items():
            if self._opened.space.examples[place] == number:
                signs.setdefault(self._opened.surface_of[place], []).append(shares)
        examples = self._opened.space.examples
        return AttackTrace(
            responses=tuple(self._responses[number]),
            selected_NT=self.selections[number].selected_NT.cpu(),
            gradient_signs={name: _mean_shares(of_blocks) for name, of_blocks in signs.items()},
            gradients=tuple(self._gradients[place] for place in sorted(self._gradients) if examples[place] == number),
        )

    def _watch_gradient(self, point: Point) -> None:
        """Note the signs of the gradient that the attack takes at the first point."""
        for place, block in enumerate(point):
            if block.requires_grad:
                block.register_hook(lambda gradient, place=place: self._note_signs(place, gradient))

    def _note_signs(self, place: int, gradient: Tensor) -> None:
        if place in self._signs:
            return
        signs = gradient.sign()
        negative, zero, positive = (float((signs == sign).float().mean()) for sign in (-1, 0, 1))
        self._signs[place] = negative, zero, positive
        if self._opened.surface_of[place] == "pixels":  # of other surfaces nobody could look at them
            self._gradients[place] = signs.detach().to("cpu", torch.int8)


def _mean_shares(shares: Sequence[tuple[float, float, float]]) -> tuple[float, float, float]:
    negative, zero, positive = (sum(values) / len(shares) for values in zip(*shares, strict=True))
    return negative, zero, positive


def selection_summary(entropy_NT: Tensor, selected_NT: Tensor) -> dict[str, float]:
    """Return the number of selected tokens, quantiles of their entropy in nats, and their effective number.

    The effective number is ``exp(-Σ q log q)`` with q the selected entropies divided by their sum: how many equally
    uncertain tokens would carry the criterion as evenly. A selection of near-deterministic tokens with one exception
    has an effective number near 1. Empty selections give 0 throughout. Source: original.
    """
    chosen = entropy_NT[selected_NT].double()
    names = [f"entropy_q{int(100 * q)}" for q in QUANTILES]
    if not len(chosen):
        return {"selected": 0.0, "effective_tokens": 0.0, **dict.fromkeys(names, 0.0)}
    quantiles = torch.quantile(chosen, torch.tensor(QUANTILES, dtype=torch.float64, device=chosen.device))
    share = chosen / chosen.sum().clamp_min(torch.finfo(torch.float64).tiny)
    effective = torch.special.entr(share).sum().exp() if float(chosen.sum()) > 0 else torch.zeros(())
    return {
        "selected": float(len(chosen)),
        "effective_tokens": float(effective),
        **dict(zip(names, quantiles.tolist(), strict=True)),
    }
