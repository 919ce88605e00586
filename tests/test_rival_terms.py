"""Terms of rival methods, their statistics and the weight of VPPO, on numbers worked by hand."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from functools import partial
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.distributions import Categorical

from saei.config.registry import load
from saei.need import Need
from saei.objectives.adaptive_entropy import AdaptiveEntropy
from saei.objectives.aggregation import response_mean
from saei.objectives.base import ObjectiveInput
from saei.objectives.batch import Row, UpdateBatch
from saei.objectives.clamped_entropy import ClampedEntropy
from saei.objectives.entropy_bonus import EntropyBonus
from saei.objectives.grpo import GRPO
from saei.objectives.kl import KL
from saei.objectives.nucleus_entropy import NucleusEntropy
from saei.objectives.papo import PAPO
from saei.objectives.roma import ROMA
from saei.objectives.sampled_entropy import SampledEntropy
from saei.objectives.weights.vppo import OLD_LOGP, VPPO
from saei.policy.statistics.distributions import TopKEntropy
from saei.policy.statistics.restricted_entropies import ClampedEntropy as ClampedStatistic
from saei.policy.statistics.restricted_entropies import NucleusEntropy as NucleusStatistic
from saei.testing import check_statistic, check_term, check_weight
from saei.views import Blank, Blur


def batch_of(
    entropy: list[list[float]], statistics: Mapping[Need, Tensor] | None = None, *, given: int = 0
) -> UpdateBatch:
    """An update batch with these sampling entropies; the first ``given`` tokens of each response were not drawn."""
    width = max(map(len, entropy))
    entropy_RT = torch.tensor([[*row, *[9.0] * (width - len(row))] for row in entropy])
    mask_RT = torch.arange(width) < torch.tensor([len(row) for row in entropy])[:, None]
    return UpdateBatch(
        rows=tuple(Row(3, n, 0) for n in range(len(entropy))),
        ids_RT=torch.zeros_like(entropy_RT).long(),
        mask_RT=mask_RT,
        behaviour_logp_RT=torch.zeros_like(entropy_RT),
        behaviour_entropy_RT=entropy_RT,
        advantage_RT=torch.ones_like(entropy_RT),
        truncated_R=torch.zeros(len(entropy)).bool(),
        drawn_RT=mask_RT & (torch.arange(width) >= given),
        statistics=statistics or {},
    )


def inputs_of(
    logp: Tensor, statistics: Mapping[Need, Tensor], *, mask: Tensor | None = None, **fields: Any
) -> ObjectiveInput:
    mask_RT = torch.ones_like(logp).bool() if mask is None else mask
    rows = len(logp)
    values: dict[str, Any] = {
        "logp_RT": logp,
        "old_logp_RT": logp.detach(),
        "behaviour_logp_RT": logp.detach(),
        "mask_RT": mask_RT,
        "selected_RT": mask_RT,
        "advantage_RT": torch.zeros_like(logp),
        "truncated_R": torch.zeros(rows).bool(),
        "off_view_R": torch.zeros(rows).bool(),
        "beta_R": torch.zeros(rows),
        "cap_R": torch.ones(rows),
        "n_responses": float(rows),
        "n_tokens": float(mask_RT.sum()),
        "n_selected": float(mask_RT.sum()),
        "max_new_tokens": 8,
        "statistics": statistics,
    }
    return ObjectiveInput(**values | fields)


def value_of(term: Any, inputs: ObjectiveInput) -> Any:
    return term.loss(inputs, partial(response_mean, inputs=inputs))


# --- adaptive-entropy -----------------------------------------------------------------------------------------------

CASE = [
    (0.3, 0.0, 0.0),
    (0.19, 0.0001, 0.0001),
    (0.1, 0.0002, 0.0002),
    (0.15, 0.0003, 0.0003),
    (0.25, 0.0002, 0.0),
    (0.05, 0.0003, 0.0003),
]
"""Entropy of what a step draws, the coefficient after it, and the one that is applied in it."""


def test_the_coefficient_moves_before_it_is_applied() -> None:
    term = AdaptiveEntropy(AdaptiveEntropy.Config(target=0.2, delta=0.0001, max=0.005))
    entropy_RT = torch.tensor([[2.0, 1.0]]).requires_grad_()
    for drawn, coefficient, applied in CASE:
        term.begin_step(batch_of([[drawn - 0.04, drawn], [drawn + 0.04]]), progress=0.5)
        assert term.state_dict()["coefficient"] == pytest.approx(coefficient, abs=1e-9)
        assert term.applied == pytest.approx(applied, abs=1e-9)
        inputs = inputs_of(torch.zeros(1, 2), {Need("entropy", grad=True): entropy_RT})
        result = value_of(term, inputs)
        assert float(result.value) == pytest.approx(-applied * 1.5, abs=1e-9)
        assert float(result.metrics["coefficient"]) == pytest.approx(applied, abs=1e-9)
        assert float(result.metrics["drawn_entropy"]) == pytest.approx(drawn, rel=1e-6)
        assert float(result.metrics["touched"]) == (applied > 0)
        assert float(result.metrics["touched_tokens"]) == 2 * (applied > 0)


def test_the_drawn_entropy_is_a_mean_over_drawn_tokens() -> None:
    """(.1 + .2 + .1) / 3, where the mean over responses is .125; tokens that were given do not count."""
    term = AdaptiveEntropy()
    term.begin_step(batch_of([[0.1, 0.2], [0.1]]), progress=0.0)
    assert term.state_dict()["drawn_entropy"] == pytest.approx(0.4 / 3)
    term.begin_step(batch_of([[9.0, 0.2], [9.0, 0.1, 0.1]], given=1), progress=0.0)
    assert term.state_dict()["drawn_entropy"] == pytest.approx(0.4 / 3)
    assert term.applied == pytest.approx(0.0002)


def test_a_target_may_follow_a_schedule_and_the_coefficient_has_limits() -> None:
    term = AdaptiveEntropy(AdaptiveEntropy.Config(target=((0.0, 0.6), (1.0, 0.2)), delta=0.4, max=1.0, start=0.3))
    progress_entropy_applied = [
        (0.0, 0.5, 0.7),
        (0.25, 0.49, 1.0),
        (0.5, 0.39, 1.0),
        (0.75, 0.3, 0.0),
        (1.0, 0.19, 1.0),
    ]
    for progress, entropy, applied in progress_entropy_applied:
        term.begin_step(batch_of([[entropy]]), progress=progress)
        assert term.applied == pytest.approx(applied)
    with pytest.raises(ValidationError, match=r"starts at 0\.3, above max, 0\.1"):
        AdaptiveEntropy.Config(start=0.3, max=0.1)
    with pytest.raises(ValidationError, match="rises from each to the next"):
        AdaptiveEntropy.Config(target=((0.5, 0.6), (0.5, 0.2)))


def test_an_entropy_at_the_target_is_not_below_it() -> None:
    term = AdaptiveEntropy(AdaptiveEntropy.Config(target=0.5, delta=0.25, max=1.0, start=0.5))
    for entropy, coefficient, applied in ((0.5, 0.25, 0.0), (0.25, 0.5, 0.5)):
        term.begin_step(batch_of([[entropy]]), progress=0.0)
        assert (term.state_dict()["coefficient"], term.applied) == (coefficient, applied)


def test_its_state_goes_on() -> None:
    term, other = AdaptiveEntropy(), AdaptiveEntropy()
    for drawn in (0.1, 0.1, 0.3, 0.15):
        term.begin_step(batch_of([[drawn]]), progress=0.0)
    other.load_state_dict(term.state_dict())
    assert (other.state_dict(), other.applied) == (term.state_dict(), term.applied)
    assert term.applied == pytest.approx(0.0002)


# --- entropies over a part of the vocabulary ------------------------------------------------------------------------

P = torch.tensor([[0.4, 0.3, 0.15, 0.1, 0.05], [0.85, 0.06, 0.05, 0.03, 0.01]])


def entropy_of_part(p: list[float]) -> float:
    total = sum(p)
    return -sum(each / total * math.log(each / total) for each in p)


def entropies(statistic: Any, p_mV: Tensor = P) -> list[float]:
    return statistic.of_distribution(p_mV.log(), torch.zeros(len(p_mV)).long()).tolist()


def test_the_clamped_entropy_leaves_out_the_least_likely() -> None:
    """floor(5 · .3) = 1 is left out, floor(5 · .4) = 2, and of a clamp of 0 none."""
    for clamp, kept in ((Fraction(3, 10), 4), (Fraction(2, 5), 3), (Fraction(0), 5)):
        expected = [entropy_of_part(sorted(row.tolist())[-kept:]) for row in P]
        assert entropies(ClampedStatistic(ClampedStatistic.Config(clamp=clamp))) == pytest.approx(expected, abs=1e-6)
    shuffled = P[:, [3, 0, 4, 2, 1]]
    assert entropies(ClampedStatistic(), shuffled) == pytest.approx(entropies(ClampedStatistic()), abs=1e-6)


def test_equally_likely_tokens_at_the_border_count_as_some_of_them() -> None:
    """Of three tokens with p .1 one is left out; which one makes no difference to the entropy."""
    p = torch.tensor([[0.1, 0.5, 0.1, 0.2, 0.1]])
    assert entropies(ClampedStatistic(), p) == pytest.approx([entropy_of_part([0.5, 0.2, 0.1, 0.1])], abs=1e-6)
    logits = p.log().requires_grad_()
    values = ClampedStatistic().of_distribution(logits.log_softmax(-1), torch.zeros(1).long())
    (slope,) = torch.autograd.grad(values.sum(), logits)
    assert slope[0, 0] == slope[0, 2] == slope[0, 4]
    assert float(slope.sum()) == pytest.approx(0.0, abs=1e-6)


def test_the_nucleus_has_the_token_that_reaches_its_share() -> None:
    """.4 + .3 = .7 is no share of .8: the third token belongs to it. In the second row the first token has it alone."""
    assert entropies(NucleusStatistic()) == pytest.approx([entropy_of_part([0.4, 0.3, 0.15]), 0.0], abs=1e-6)
    outside = NucleusStatistic(NucleusStatistic.Config(crossing=False))
    assert entropies(outside) == pytest.approx([entropy_of_part([0.4, 0.3]), 0.0], abs=1e-6)
    two = NucleusStatistic(NucleusStatistic.Config(p=Fraction(1), k=2))
    assert entropies(two) == pytest.approx([entropy_of_part([0.4, 0.3]), entropy_of_part([0.85, 0.06])], abs=1e-6)
    sibling = TopKEntropy(TopKEntropy.Config(k=3))
    assert entropies(sibling)[1] > 0.1


def test_a_nucleus_of_many_tokens_is_found() -> None:
    even = torch.full((2, 1000), 1e-3)
    even[1, :2] = torch.tensor([0.501, 0.5])
    even[1] /= even[1].sum()
    ours = entropies(NucleusStatistic(NucleusStatistic.Config(p=Fraction(1, 2))), even)
    assert ours[0] == pytest.approx(math.log(500), abs=1e-2)
    assert ours[1] == pytest.approx(entropy_of_part([0.501, 0.5]), abs=1e-2)
    assert entropies(NucleusStatistic(NucleusStatistic.Config(p=Fraction(1, 2), k=300)), even)[0] == pytest.approx(
        math.log(300), abs=1e-4
    )


def slow_part(statistic: Any, p_V: Tensor) -> Tensor:
    """Which tokens belong, by a loop over the sorted vocabulary in float64."""
    order = p_V.argsort(descending=True).tolist()
    if isinstance(statistic, ClampedStatistic):
        return torch.tensor(order[: len(order) - int(len(order) * statistic.config.clamp)])
    kept, total = [], 0.0
    for token in order:
        if total >= float(statistic.config.p):
            break
        kept.append(token)
        total += float(p_V[token])
    return torch.tensor(kept)


@pytest.mark.parametrize("scale", [1.0, 6.0, 14.0], ids=["undecided", "decided", "confident"])
@pytest.mark.parametrize(
    "statistic",
    [ClampedStatistic(), NucleusStatistic(NucleusStatistic.Config(p=Fraction(9999, 10000)))],
    ids=lambda each: each.name(),
)
def test_values_and_slopes_in_float32_are_those_of_float64(statistic: Any, scale: float) -> None:
    generator = torch.Generator().manual_seed(1)
    logits = scale * torch.randn(12, 40, dtype=torch.float64, generator=generator)
    logits[:, -3:] = -1e9  # banned
    ours = logits.float().requires_grad_()
    values = statistic.of_distribution(ours.log_softmax(-1), torch.zeros(12).long())
    (slopes,) = torch.autograd.grad(values.sum(), ours)
    for row, value, slope in zip(logits, values, slopes, strict=True):
        exact = row.clone().requires_grad_()
        part = slow_part(statistic, row.softmax(-1))
        expected = Categorical(logits=exact[part]).entropy()
        (expected_slope,) = torch.autograd.grad(expected, exact)
        assert float(value) == pytest.approx(float(expected), rel=1e-4, abs=3e-7)
        largest = float(expected_slope.abs().max())
        torch.testing.assert_close(slope.double(), expected_slope, atol=2e-3 * largest + 3e-7, rtol=0)


def test_the_bonus_is_the_mean_clamped_entropy() -> None:
    term = ClampedEntropy(ClampedEntropy.Config(coefficient=2e-3, clamp=Fraction(1, 4)))
    assert term.entropy == Need(ClampedStatistic.Config(clamp=Fraction(1, 4)), grad=True)
    mask_RT = torch.tensor([[True, True], [True, False]])
    entropy_RT = torch.tensor([[0.1, 0.5], [0.9, 7.0]]).requires_grad_()
    result = value_of(term, inputs_of(torch.zeros(2, 2), {term.entropy: entropy_RT}, mask=mask_RT))
    assert float(result.value) == pytest.approx(-2e-3 * (0.3 + 0.9) / 2)
    (slope_RT,) = torch.autograd.grad(result.value, entropy_RT)
    torch.testing.assert_close(slope_RT, -2e-3 * torch.tensor([[0.25, 0.25], [0.5, 0.0]]))


@pytest.mark.parametrize(
    ("name", "value"),
    [("low", 0.1), ("high", 0.5), ("rate", 0.1), ("least", 1e-4), ("most", 0.1), ("warm_up", 3)],
)
def test_a_fixed_coefficient_has_no_bounds(name: str, value: float) -> None:
    ClampedEntropy.Config.model_validate({"coefficient": 1e-3, name: value})
    default = ClampedEntropy.Config.model_fields[name].default
    ClampedEntropy.Config.model_validate({"adaptive": False, name: default})
    with pytest.raises(ValidationError, match=f"{name} is of an adaptive coefficient"):
        ClampedEntropy.Config.model_validate({"adaptive": False, name: value})


def test_an_adaptive_coefficient_moves_after_the_step_by_what_is_beyond_its_bounds() -> None:
    """rate .01: below .05 by .03, within, above .23 by .27, and then at its lower limit."""
    config = ClampedEntropy.Config(coefficient=2e-3, rate=0.01, least=1e-3, most=3e-3, warm_up=1)
    term = ClampedEntropy(config)
    seen = [(0.02, 2e-3), (0.02, 2.3e-3), (0.1, 2.3e-3), (0.5, 1e-3), (0.04, 1.1e-3)]
    for entropy, coefficient in seen:
        term.observe({"train/clamped-entropy/mean": entropy, "train/reward": 1.0})
        assert term.coefficient == pytest.approx(coefficient)
    term.observe({"train/reward": 1.0})  # nothing was trained on
    other = ClampedEntropy(config)
    other.load_state_dict(term.state_dict())
    assert other.state_dict() == term.state_dict() == {"coefficient": pytest.approx(1.1e-3), "steps": 5}
    fixed = ClampedEntropy(ClampedEntropy.Config(adaptive=False))
    fixed.observe({"train/clamped-entropy/mean": 3.0})
    assert fixed.coefficient == 2e-4
    with pytest.raises(ValidationError, match="between least and most"):
        ClampedEntropy.Config(coefficient=0.1)
    with pytest.raises(ValidationError, match="Put low below it"):
        ClampedEntropy.Config(low=0.5)


# --- nucleus-entropy ------------------------------------------------------------------------------------------------

NUCLEUS = [[0.1, 0.2, 0.9, 0.3, 0.4, 0.0], [0.5, 0.7], [0.0, 0.0]]
"""Quantiles .8: .4 of the first response, so .9 alone is above it; .66 of the second; 0 of the third, none above."""


def test_the_most_uncertain_tokens_are_held_at_their_first_entropy() -> None:
    term = NucleusEntropy(NucleusEntropy.Config(coefficient=0.5))
    (need,) = term.batch_needs
    assert need == Need(NucleusStatistic.Config(), grad=False)
    batch = batch_of(NUCLEUS)
    entropy_RT = torch.zeros(batch.mask_RT.shape)
    for n, row in enumerate(NUCLEUS):
        entropy_RT[n, : len(row)] = torch.tensor(row)

    def prepared(entropy_RT: Tensor) -> Any:
        seen = batch_of(NUCLEUS, {need: entropy_RT})
        return term.prepare(seen, progress=0.0, generator=torch.Generator())

    first = prepared(entropy_RT)
    assert first["counts"].nonzero().tolist() == [[0, 2], [1, 1]]
    assert term.anchor == pytest.approx((0.9 + 0.7) / 2)
    now_RT = (2 * entropy_RT).requires_grad_()
    inputs = inputs_of(
        torch.zeros_like(now_RT), {term.entropy: now_RT}, mask=batch.mask_RT, prepared=prepared(now_RT.detach())
    )
    result = value_of(term, inputs)
    assert float(result.value) == pytest.approx(0.5 * (1.6 - 0.8) ** 2)
    (slope_RT,) = torch.autograd.grad(result.value, now_RT)
    expected_RT = torch.zeros_like(slope_RT)
    expected_RT[0, 2] = expected_RT[1, 1] = 0.5 * 2 * (1.6 - 0.8) / 2
    torch.testing.assert_close(slope_RT, expected_RT)
    assert result.metrics["touched"].tolist() == pytest.approx([1 / 6, 1 / 2, 0])
    assert result.metrics["anchor"].tolist() == pytest.approx([0.8] * 3)
    other = NucleusEntropy()
    other.load_state_dict(term.state_dict())
    assert other.anchor == term.anchor


def test_without_an_anchor_it_is_a_bonus_on_the_most_uncertain_tokens() -> None:
    term = NucleusEntropy(NucleusEntropy.Config(coefficient=0.5, anchored=False))
    assert not term.batch_needs
    assert not term.prepares
    batch = batch_of(NUCLEUS)
    entropy_RT = torch.zeros(batch.mask_RT.shape)
    for n, row in enumerate(NUCLEUS):
        entropy_RT[n, : len(row)] = torch.tensor(row)
    entropy_RT.requires_grad_()
    result = value_of(term, inputs_of(torch.zeros(3, 6), {term.entropy: entropy_RT}, mask=batch.mask_RT))
    assert float(result.value) == pytest.approx(-0.5 * (0.9 + 0.7) / 3)
    (slope_RT,) = torch.autograd.grad(result.value, entropy_RT)
    assert slope_RT.nonzero().tolist() == [[0, 2], [1, 1]]


# --- papo -----------------------------------------------------------------------------------------------------------


def test_papo_by_hand() -> None:
    """d = log .2 - log .4 at one token and log .6 - log .3 at the other: k3 of .5 - 1 + log 2 and 2 - 1 - log 2."""
    logp_RT = torch.tensor([[math.log(0.4), math.log(0.3)]]).requires_grad_()
    masked_RT = torch.tensor([[math.log(0.2), math.log(0.6)]]).requires_grad_()
    k3 = [0.5 - 1 + math.log(2), 2 - 1 - math.log(2)]
    own, masked = (-math.log(0.4) - math.log(0.3)) / 2, (-math.log(0.2) - math.log(0.6)) / 2
    config = {"coefficient": 0.5, "own_entropy": 0.25, "masked_entropy": 0.125}
    slope_own = [(-0.5 * (1 - 0.5) - 0.25) / 2, (-0.5 * (1 - 2) - 0.25) / 2]
    slope_masked = [(-0.5 * (0.5 - 1) - 0.125) / 2, (-0.5 * (2 - 1) - 0.125) / 2]
    for recompute in (False, True):
        term = PAPO(PAPO.Config(recompute=recompute, **config))
        given_RT = masked_RT if recompute else masked_RT.detach()
        result = value_of(term, inputs_of(logp_RT, {term.masked_logp: given_RT}))
        assert float(result.value) == pytest.approx(-0.5 * sum(k3) / 2 + 0.25 * own + 0.125 * masked)
        slopes = torch.autograd.grad(result.value, (logp_RT, masked_RT), allow_unused=True)
        assert slopes[0].tolist() == [pytest.approx(slope_own)]
        assert (slopes[1] is None) is not recompute
        if recompute:
            assert slopes[1].tolist() == [pytest.approx(slope_masked)]
        metrics = {name: float(value) for name, value in result.metrics.items()}
        assert metrics == pytest.approx(
            {"mean": sum(k3) / 2, "own_entropy": own, "masked_entropy": masked, "touched": 1, "touched_tokens": 2}
        )


def off_view(logp_RT: Tensor) -> dict[str, Tensor]:
    """Rows that were drawn from another view, where each token was twice as likely: the weight of beta 1 is a half."""
    rows = len(logp_RT)
    return {"behaviour_logp_RT": logp_RT.detach() + math.log(2), "off_view_R": torch.ones(rows).bool()}


def test_papo_weighs_the_estimate_of_other_views_and_not_the_entropies() -> None:
    term = PAPO(PAPO.Config(coefficient=0.5, own_entropy=0.25, masked_entropy=0.125))
    logp_RT, masked_RT = torch.tensor([[math.log(0.4)]]), torch.tensor([[math.log(0.2)]])
    k3, own, masked = 0.5 - 1 + math.log(2), -math.log(0.4), -math.log(0.2)
    result = value_of(term, inputs_of(logp_RT, {term.masked_logp: masked_RT}, **off_view(logp_RT)))
    assert float(result.value) == pytest.approx(-0.5 * k3 / 2 + 0.25 * own + 0.125 * masked)


def test_the_forms_of_papo_need_different_things() -> None:
    masked = load("term", "papo")().masked_logp.view  # type: ignore[attr-defined]
    assert (masked.patch, masked.probability) == (14, Fraction(3, 5))
    forms = {
        ("k3", False): {Need("logp", masked, "old")},
        ("k3", True): {Need("logp", masked, grad=True)},
        ("full", False): {Need("kl", masked, "old", grad=True), Need("logp", masked, "old")},
        ("full", True): {Need("kl", masked, grad="both"), Need("logp", masked, grad=True)},
    }
    for (estimate, recompute), needs in forms.items():
        assert PAPO(PAPO.Config(estimate=estimate, recompute=recompute)).needs == needs  # type: ignore[arg-type]
    assert PAPO(PAPO.Config(estimate="full", masked_entropy=0)).needs == {Need("kl", masked, "old", grad=True)}


def test_papo_does_not_drive_a_token_beyond_the_cap() -> None:
    term = PAPO(PAPO.Config(coefficient=1.0, own_entropy=0, masked_entropy=0))
    logp_RT = torch.tensor([[-90.0, -1.0]]).requires_grad_()
    result = value_of(term, inputs_of(logp_RT, {term.masked_logp: torch.tensor([[-0.1, -2.0]])}))
    assert float(result.value) == pytest.approx(-(10 + math.exp(-1)) / 2)
    (slope_RT,) = torch.autograd.grad(result.value, logp_RT)
    assert slope_RT.tolist() == [pytest.approx([0.0, -(1 - math.exp(-1)) / 2])]
    assert float(result.metrics["touched"]) == 0.5


@pytest.mark.parametrize("cap", [5.0, None])
def test_a_cap_that_cuts_off_nothing_is_refused(cap: float | None) -> None:
    PAPO.Config(cap=cap)
    PAPO.Config(estimate="full", cap=10.0)  # the default, which a written configuration has
    with pytest.raises(ValidationError, match="cap cuts off the k3 estimate, and estimate is full"):
        PAPO.Config(estimate="full", cap=cap)


def test_the_sampled_entropy_is_a_penalty() -> None:
    logp_RT = torch.tensor([[-1.0, -3.0]]).requires_grad_()
    result = value_of(SampledEntropy(), inputs_of(logp_RT, {}))
    assert float(result.value) == pytest.approx(0.06 * 2)
    assert torch.autograd.grad(result.value, logp_RT)[0].tolist() == [pytest.approx([-0.03, -0.03])]


@pytest.mark.parametrize("kind", [SampledEntropy, EntropyBonus, KL])
def test_a_term_counts_the_tokens_that_it_acts_on(kind: Any) -> None:
    logp_RT = torch.tensor([[-1.0, -2.0], [-1.0, 0.0]])
    mask_RT = torch.tensor([[True, True], [True, False]])
    for coefficient, counts in ((0.5, [2, 1]), (0.0, [0, 0])):
        term = kind(kind.Config(coefficient=coefficient))
        statistics = {need: logp_RT.abs() for need in term.needs}
        metrics = value_of(term, inputs_of(logp_RT, statistics, mask=mask_RT)).metrics
        assert metrics["touched_tokens"].tolist() == counts


# --- roma -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("clean_gradient", [False, True])
@pytest.mark.parametrize("worst", ["token", "response"])
def test_roma_by_hand(worst: Any, clean_gradient: bool) -> None:
    """log π(degraded) is lower by log 2 at a token under one view, by log 3 under the other; the second is wrong."""
    views = (Blur.Config(), Blank.Config())
    config = ROMA.Config(views=views, coefficient=0.5, auxiliary=0.25, worst=worst, clean_gradient=clean_gradient)
    term = ROMA(config)
    clean_RT = torch.tensor([[-1.0, -2.0], [-1.0, -1.0]]).requires_grad_()
    d = torch.tensor([[[-math.log(2), 0.0], [-3.0, -3.0]], [[0.0, -math.log(3)], [-3.0, -3.0]]])
    degraded = [(clean_RT.detach() + each).requires_grad_() for each in d]
    statistics = dict(zip(term.degraded, degraded, strict=True))
    advantage_RT = torch.tensor([[2.0, 2.0], [-2.0, -2.0]])
    inputs = inputs_of(
        clean_RT,
        statistics,
        advantage_RT=advantage_RT,
        correct_R=torch.tensor([True, False]),
        prepared={"view": torch.tensor([1, 0])},
    )
    result = value_of(term, inputs)
    first, second = 0.5 - 1 + math.log(2), 1 / 3 - 1 + math.log(3)
    divergence = (first + second) / 2 if worst == "token" else second / 2
    gain = 2.0 * (-1.0 + -2.0 - math.log(3)) / 2
    assert float(result.value) == pytest.approx((0.5 * divergence - 0.25 * gain) / 2)
    slopes = torch.autograd.grad(result.value, [*degraded, clean_RT], allow_unused=True)
    of_first = 0.5 * (0.5 - 1) / 4 if worst == "token" else 0.0
    torch.testing.assert_close(slopes[0], torch.tensor([[of_first, 0.0], [0.0, 0.0]]))
    pull = -0.25 * 2.0 / 4
    torch.testing.assert_close(slopes[1], torch.tensor([[pull, pull + 0.5 * (1 / 3 - 1) / 4], [0.0, 0.0]]))
    assert (slopes[2] is None) is not clean_gradient
    if clean_gradient:
        torch.testing.assert_close(slopes[2], torch.tensor([[-of_first, -0.5 * (1 / 3 - 1) / 4], [0.0, 0.0]]))
    assert result.metrics["touched"].tolist() == [1, 0]
    assert float(result.metrics["mean"][0]) == pytest.approx(divergence)


def test_roma_holds_on_to_responses_to_clean_views_and_weighs_the_estimate_of_other_ones() -> None:
    """Both are right, and lower by log 2 under the degraded view; the second was drawn from another view than clean."""
    term = ROMA(ROMA.Config(views=(Blur.Config(),), coefficient=0.5, auxiliary=0.25))
    logp_RT = torch.full((2, 1), -1.0)
    inputs = inputs_of(
        logp_RT,
        {term.degraded[0]: logp_RT - math.log(2)},
        advantage_RT=torch.tensor([[2.0], [3.0]]),
        correct_R=torch.tensor([True, True]),
        clean_R=torch.tensor([True, False]),
        prepared={"view": torch.tensor([0, 0])},
    )
    divergence, gain = 0.5 - 1 + math.log(2), -2.0 * (1 + math.log(2))
    result = value_of(term, inputs)
    assert float(result.value) == pytest.approx((0.5 * divergence - 0.25 * gain) / 2)
    assert result.metrics["touched"].tolist() == [1, 0]
    result = value_of(term, replace(inputs, **off_view(logp_RT)))
    assert float(result.value) == pytest.approx((0.5 * divergence / 2 - 0.25 * gain) / 2)


def test_the_view_of_the_policy_gradient_is_drawn_for_each_response() -> None:
    term = ROMA()
    batch = batch_of([[0.1]] * 60)
    drawn = term.prepare(batch, progress=0.0, generator=torch.Generator().manual_seed(1))["view"]
    assert sorted(drawn.unique().tolist()) == [0, 1, 2]
    again = term.prepare(batch, progress=0.0, generator=torch.Generator().manual_seed(1))["view"]
    assert torch.equal(drawn, again)


def test_degraded_views_are_named_or_described() -> None:
    views = ROMA.Config.model_validate({"views": ["blur", {"type": "compression", "quality": 30}]}).views
    assert [view.model_dump() for view in views] == [
        {"type": "blur", "sigma": 2.0},
        {"type": "compression", "quality": 30},
    ]
    with pytest.raises(ValidationError, match=r"no change of pictures 'blurr'.*Did you mean 'blur'"):
        ROMA.Config.model_validate({"views": ["blurr"]})
    with pytest.raises(ValidationError, match="changes no pictures"):
        ROMA.Config(views=(ROMA.Config(),))
    again = ROMA.Config.model_validate(ROMA.Config(views=views).model_dump(mode="json"))
    assert again.views == views


# --- vppo -----------------------------------------------------------------------------------------------------------


def test_vppo_by_hand() -> None:
    """Sensitivities of log-ratios a are exp(-a) - 1 + a; ceil(.4 · 5) = 2 of five tokens and 1 of two count.

    The means are .2, .8 and .5, so n is 0, 1, .5, and the factors are .9, 1.1, 1.0.
    """
    weight = VPPO()
    sensitivity = [[0.1, 0.4, 0.0, 0.3, 0.2], [0.6, 1.0], [0.0, 1.0]]

    def ratio(k3: float) -> float:
        low, high = 0.0, 20.0
        for _ in range(200):
            middle = (low + high) / 2
            low, high = (middle, high) if math.expm1(-middle) + middle < k3 else (low, middle)
        return low

    mask_RT = batch_of(sensitivity).mask_RT
    old_RT, masked_RT = torch.full(mask_RT.shape, -1.0), torch.full(mask_RT.shape, 5.0)
    for n, row in enumerate(sensitivity):
        for t, value in enumerate(row):
            masked_RT[n, t] = -1.0 - ratio(value)
    statistics = {OLD_LOGP: old_RT, weight.masked_logp: masked_RT}
    batch = batch_of(sensitivity, statistics)
    weight_RT = weight.weigh(batch, progress=0.0, generator=torch.Generator())
    expected = torch.tensor([[0, 0.9, 0, 0.9, 0], [0, 1.1, 0, 0, 0], [0, 1.0, 0, 0, 0]])
    torch.testing.assert_close(weight_RT, expected, atol=1e-5, rtol=0)
    assert weight.metrics(batch)["kept_tokens"].tolist() == [2, 1, 1]
    assert weight.metrics(batch)["kept"].tolist() == pytest.approx([2 / 5, 1 / 2, 1 / 2])
    plain = VPPO(VPPO.Config(scale_min=1.0)).weigh(batch, progress=0.0, generator=torch.Generator())
    assert set(plain.unique().tolist()) == {0.0, 1.0}
    assert weight.config.count_zeroed
    view = weight.masked_logp.view
    assert (view.type, view.patch, view.probability) == ("black-patches", 14, Fraction(1, 2))  # type: ignore[union-attr]


def test_vppo_counts_a_sensitivity_beyond_the_cap_as_the_cap() -> None:
    """exp(d) - 1 - d is 142.4 at 5 and 16.1 at 3, both beyond 10: n is 1, 1, 0, and .9 + n · .1 / (2 / 3) is 1.05."""
    weight = VPPO()
    zeros = torch.zeros(3, 1)
    batch = batch_of([[1.0]] * 3, {OLD_LOGP: zeros, weight.masked_logp: torch.tensor([[5.0], [3.0], [0.0]])})
    weight_RT = weight.weigh(batch, progress=0.0, generator=torch.Generator())
    assert weight_RT[:, 0].tolist() == pytest.approx([1.05, 1.05, 0.9])


def test_vppo_without_a_difference_between_responses_has_no_factor() -> None:
    weight = VPPO()
    zeros = torch.zeros(2, 3)
    batch = batch_of([[0.1] * 3] * 2, {OLD_LOGP: zeros, weight.masked_logp: zeros - 1.0})
    weight_RT = weight.weigh(batch, progress=0.0, generator=torch.Generator())
    assert weight_RT.tolist() == [[1, 1, 0], [1, 1, 0]]  # of equal ones the earlier


# --- the contracts --------------------------------------------------------------------------------------------------

FORMS: dict[str, Any] = {
    "papo, recomputed": PAPO.Config(recompute=True),
    "papo, full": PAPO.Config(estimate="full"),
    "papo, full and recomputed": PAPO.Config(estimate="full", recompute=True),
    "papo, no cap": PAPO.Config(cap=None),
    "roma, worst of a response": ROMA.Config(worst="response", clean_gradient=True),
    "siren, no anchor": NucleusEntropy.Config(anchored=False),
    "aent, fixed": ClampedEntropy.Config(adaptive=False),
    "adaptive, on from the start": AdaptiveEntropy.Config(start=1e-3, target=5.0),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_keeps_the_contract(form: str) -> None:
    check_term(FORMS[form])


def test_weight_and_statistics_keep_the_contract() -> None:
    check_weight(VPPO(VPPO.Config(count_zeroed=False)))
    check_statistic(ClampedStatistic(ClampedStatistic.Config(clamp=Fraction(0))))
    check_statistic(NucleusStatistic(NucleusStatistic.Config(crossing=False)))


def test_terms_get_what_they_prepared_and_only_that() -> None:
    """Two terms that prepare have values of their own, though the names are the same."""
    terms = (NucleusEntropy.Config(), NucleusEntropy.Config(p=Fraction(1, 2)))
    objective = GRPO(GRPO.Config(terms=terms))
    objective.terms[0].anchor, objective.terms[1].anchor = 1.0, 2.0  # type: ignore[attr-defined]
    entropy_RT = torch.tensor([[0.5, 3.0]]).requires_grad_()
    statistics = {term.entropy: entropy_RT for term in objective.terms}  # type: ignore[attr-defined]
    counts = torch.tensor([[False, True]])
    prepared = {}
    for number, mean in enumerate((3.0, 5.0)):
        own = {"mean": torch.tensor(mean), "responses": torch.tensor(1), "counts": counts}
        prepared |= {f"term {number}/{name}": value for name, value in own.items()}
    result = objective.loss(inputs_of(torch.zeros(1, 2), statistics, prepared=prepared))
    assert float(result.value) == pytest.approx(0.005 * ((3 - 1) ** 2 + (5 - 2) ** 2))


def test_a_second_term_of_a_kind_has_metrics_of_its_own_and_follows_them() -> None:
    clamps = (Fraction(1, 4), Fraction(1, 2))
    terms = tuple(ClampedEntropy.Config(coefficient=2e-3, rate=0.01, clamp=clamp) for clamp in clamps)
    objective = GRPO(GRPO.Config(terms=terms))
    statistics = {term.entropy: torch.tensor([[mean]]) for term, mean in zip(objective.terms, (0.02, 0.1), strict=True)}  # type: ignore[attr-defined]
    metrics = objective.loss(inputs_of(torch.zeros(1, 1), statistics)).metrics
    means = {name: float(value_R) for name, value_R in metrics.items() if name.endswith("/mean")}
    assert means == pytest.approx({"clamped-entropy/mean": 0.02, "clamped-entropy-2/mean": 0.1})
    for term in objective.terms:
        term.observe({f"train/{name}": value for name, value in means.items()})
    coefficients = [term.coefficient for term in objective.terms]  # type: ignore[attr-defined]
    assert coefficients == pytest.approx([2e-3 + 0.01 * 0.03, 2e-3])  # .02 is below its bound, .1 within


def test_responses_without_a_picture_are_left_out_of_terms_that_change_pictures() -> None:
    objective = GRPO(GRPO.Config(terms=(PAPO.Config(recompute=True), SampledEntropy.Config())))
    papo = objective.terms[0]
    logp_RT = torch.tensor([[-1.0], [-2.0]]).requires_grad_()
    masked_RT = torch.tensor([[-3.0], [-2.0]]).requires_grad_()
    statistics = {papo.masked_logp: masked_RT}  # type: ignore[attr-defined]
    inputs = inputs_of(logp_RT, statistics, pictured_R=torch.tensor([True, False]))
    result = objective.loss(inputs)
    (slope_RT,) = torch.autograd.grad(result.value, masked_RT)
    assert slope_RT[0] != 0
    assert slope_RT[1] == 0
    assert result.metrics["papo/touched"].isnan().tolist() == [False, True]
    assert result.metrics["sampled-entropy/mean"].tolist() == [1.0, 2.0]
