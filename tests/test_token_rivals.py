"""Objectives and weights that choose or weigh tokens to keep entropy up: cases worked by hand, and whole updates."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from groups import token_logp
from saei.config.run import validate
from saei.data.bars import Bars
from saei.engine.combinations import idle_parts
from saei.engine.notes import opening_notes
from saei.engine.setup import build_strategies
from saei.errors import ConfigError
from saei.need import Need
from saei.objectives.base import Loss, Objective, ObjectiveInput
from saei.objectives.batch import Row, UpdateBatch
from saei.objectives.cispo import CISPO
from saei.objectives.covariance import covariance
from saei.objectives.grpo import GRPO
from saei.objectives.kl_cov import KLCov
from saei.objectives.sapo import SAPO
from saei.objectives.weights.base import Weight
from saei.objectives.weights.clip_cov import ClipCov
from saei.objectives.weights.forking_tokens import ForkingTokens
from saei.objectives.weights.selected import Selected
from saei.objectives.weights.steer import LEAST_PROBABILITY, Steer
from saei.policy import Policy
from saei.policy.load.weights import Parts
from saei.runtime.stopwatch import Stopwatch
from saei.types import ADVERSARIAL, CLEAN, TrainGroup
from updates import assert_same_gradients, in_two, policy_of, three_groups, update

LOGP, OLD_LOGP, ENTROPY = Need("logp"), Need("logp", policy="old"), Need("entropy")

ADVANTAGE = (1.0, 1.0, 1.0, -1.0, -1.0)
NEW = (-0.1, -2.0, -0.5, -0.2, -3.0)
OLD = (-0.2, -1.8, -0.5, -0.4, -2.5)
COVARIANCE = (0.848, -0.672, 0.528, -1.152, 2.208)
"""Of these five tokens, by hand: the means are 0.2 and -1.16."""


def row(values: Sequence[float]) -> Tensor:
    return torch.tensor([values])


def batch_of(
    advantage: Tensor, mask: Tensor | None = None, *, entropy: Tensor | None = None, **statistics: Tensor
) -> UpdateBatch:
    """Return an update batch, one response of a group of its own in each row."""
    mask = torch.ones_like(advantage, dtype=torch.bool) if mask is None else mask
    needs = {"logp": LOGP, "old": OLD_LOGP, "entropy_now": ENTROPY}
    return UpdateBatch(
        rows=tuple(Row(index, 0, 0) for index in range(len(mask))),
        ids_RT=mask.long(),
        mask_RT=mask,
        behaviour_logp_RT=torch.zeros_like(advantage),
        behaviour_entropy_RT=torch.zeros_like(advantage) if entropy is None else entropy,
        advantage_RT=advantage,
        truncated_R=torch.zeros(len(mask), dtype=torch.bool),
        drawn_RT=mask,
        statistics={needs[name]: value for name, value in statistics.items()},
    )


def five(**changes: Tensor) -> UpdateBatch:
    return batch_of(row(ADVANTAGE), **{"logp": row(NEW), "old": row(OLD), **changes})


def inputs_of(objective: Objective, batch: UpdateBatch | None = None, **changes: Any) -> ObjectiveInput:
    """Return the five tokens as the loss sees them, with what the objective prepared of their batch."""
    batch = five() if batch is None else batch
    one = torch.ones(1)
    inputs = ObjectiveInput(
        logp_RT=batch.statistics[LOGP].clone().requires_grad_(),
        old_logp_RT=batch.statistics[OLD_LOGP],
        behaviour_logp_RT=batch.statistics[OLD_LOGP],
        mask_RT=batch.mask_RT,
        selected_RT=batch.mask_RT,
        advantage_RT=batch.advantage_RT,
        truncated_R=batch.truncated_R,
        off_view_R=torch.tensor([False]),
        beta_R=0 * one,
        cap_R=2 * one,
        n_responses=1.0,
        n_tokens=5.0,
        n_selected=5.0,
        max_new_tokens=5,
        prepared=objective.prepare(batch, progress=0.0, generator=torch.Generator()),
    )
    return replace(inputs, **changes)


def token_losses(objective: Objective, inputs: ObjectiveInput) -> list[float]:
    """Return the loss of each token, by selecting it alone; a mean over the selected tokens is then its own."""
    tokens = 1 if isinstance(objective, SAPO) else 5
    places = torch.arange(inputs.mask_RT.shape[1])
    return [
        tokens * objective.policy_loss(replace(inputs, selected_RT=inputs.mask_RT & (places == place))).value.item()
        for place in places
    ]


def slopes(loss: Callable[[ObjectiveInput], Loss], inputs: ObjectiveInput) -> list[float]:
    """Return minus the gradient of 5 times the loss at each token."""
    (gradient_RT,) = torch.autograd.grad(loss(inputs).value, inputs.logp_RT)
    return (-5 * gradient_RT[0]).tolist()


def weigh(weight: Weight, batch: UpdateBatch, seed: int = 0) -> Tensor:
    return weight.weigh(batch, progress=0.0, generator=torch.Generator().manual_seed(seed))


def near(values: Sequence[float]) -> Any:
    return pytest.approx(values, abs=1e-6)


# --- covariance ------------------------------------------------------------------------------------------------------


def test_the_covariance_of_five_tokens() -> None:
    found = covariance(row(ADVANTAGE), row(NEW), torch.ones(1, 5, dtype=torch.bool))
    assert found[0].tolist() == near(COVARIANCE)


def test_padding_has_no_part_in_the_covariance() -> None:
    mask = torch.tensor([[True, True, True, False], [True, True, False, False]])
    advantage, logp = torch.full((2, 4), 9.0), torch.full((2, 4), math.nan)
    advantage[mask], logp[mask] = torch.tensor(ADVANTAGE), torch.tensor(NEW)
    found = covariance(advantage, logp, mask)
    assert found[mask].tolist() == near(COVARIANCE)
    assert not found[~mask].any()


def test_equal_advantages_have_no_covariance() -> None:
    """Not even a rounding error's, which would choose tokens."""
    advantage = torch.full((1, 7), 0.1)
    logp = torch.linspace(-3, 0, 7)[None]
    assert not covariance(advantage, logp, torch.ones(1, 7, dtype=torch.bool)).any()


# --- KL-Cov ----------------------------------------------------------------------------------------------------------


def test_kl_cov_by_hand() -> None:
    objective = KLCov(KLCov.Config(share=Fraction(3, 10), coefficient=1.0))
    inputs = inputs_of(objective)
    assert inputs.prepared["penalised"].tolist() == [[0, 0, 0, 0, 1]]
    assert token_losses(objective, inputs) == near([-1.105171, -0.818731, -1.0, 1.221403, 1.106531])
    metrics = objective.loss(inputs).metrics
    assert [metrics[name].tolist() for name in ("penalised_tokens", "clip_share")] == [[1.0], [0.0]]
    assert metrics["penalised"].tolist() == pytest.approx([0.2])


def test_the_penalty_pulls_a_token_back_to_the_old_policy() -> None:
    inputs = inputs_of(KLCov(KLCov.Config(share=Fraction(1))))
    objective = KLCov(KLCov.Config(share=Fraction(1), coefficient=2.0))
    # The gradient of |logp - old| is the sign of the difference, 0 where there is none.
    expected = [math.exp(0.1) - 2, math.exp(-0.2) + 2, 1.0, -math.exp(0.2) - 2, -math.exp(-0.5) + 2]
    assert slopes(objective.loss, inputs) == near(expected)


def test_on_the_old_policy_kl_cov_is_the_plain_policy_gradient() -> None:
    objective = KLCov(KLCov.Config(share=Fraction(1), coefficient=50.0))
    inputs = inputs_of(objective, old_logp_RT=row(NEW))
    assert slopes(objective.loss, inputs) == near(ADVANTAGE)


def test_a_penalty_that_cannot_act_does_not_count() -> None:
    objective = KLCov(KLCov.Config(share=Fraction(1)))
    old = row((*OLD[:2], NEW[2], *OLD[3:]))  # of equal probability at one token
    assert objective.loss(inputs_of(objective, old_logp_RT=old)).metrics["penalised_tokens"].tolist() == [4]
    assert objective.loss(inputs_of(objective, old_logp_RT=row(NEW))).metrics["penalised_tokens"].tolist() == [0]


def test_objectives_count_the_tokens_whose_gradient_they_change() -> None:
    for objective, count in ((SAPO(), 4), (CISPO(CISPO.Config(clip_low=0.15, clip_high=0.2)), 3)):
        metrics = objective.loss(inputs_of(objective)).metrics
        assert metrics["touched_tokens"].tolist() == [count]
        assert metrics["touched"].tolist() == pytest.approx([count / 5])


def test_nothing_is_penalised_where_all_advantages_are_equal() -> None:
    batch = replace(five(), advantage_RT=torch.full((1, 5), 0.3))
    prepared = KLCov().prepare(batch, progress=0.0, generator=torch.Generator())
    assert not prepared["penalised"].any()


@pytest.mark.parametrize(("share", "chosen"), [("1/500", [4]), ("2/5", [0, 4]), ("0.59", [0, 4]), ("3/5", [0, 2, 4])])
def test_the_share_of_kl_cov_is_rounded_down_to_one_token_at_least(share: str, chosen: list[int]) -> None:
    objective = KLCov(KLCov.Config(share=share))  # type: ignore[arg-type]  # read as a fraction
    prepared = objective.prepare(five(), progress=0.0, generator=torch.Generator())
    assert prepared["penalised"][0].nonzero()[:, 0].tolist() == chosen


def test_of_equal_covariances_the_first_is_penalised() -> None:
    batch = batch_of(torch.tensor([[1.0, 1.0], [-1.0, -1.0]]), logp=torch.tensor([[-1.0, -1.0], [-3.0, -3.0]]))
    prepared = KLCov().prepare(batch, progress=0.0, generator=torch.Generator())
    assert prepared["penalised"].tolist() == [[1, 0], [0, 0]]


def test_kl_cov_chooses_among_the_tokens_that_weights_leave() -> None:
    """Without the last token the means are 0.5 and -0.7, and the covariances 0.3, -0.65, 0.1 and -0.75."""
    batch = five().weighted(row([1.0, 0.5, 1.0, 1.0, 0.0]))
    prepared = KLCov().prepare(batch, progress=0.0, generator=torch.Generator())
    assert prepared["penalised"].tolist() == [[1, 0, 0, 0, 0]]
    prepared = KLCov(KLCov.Config(share=Fraction(1))).prepare(batch, progress=0.0, generator=torch.Generator())
    assert prepared["penalised"].tolist() == [[1, 1, 1, 1, 0]]


@pytest.mark.parametrize(
    "objective", [KLCov(KLCov.Config(share=Fraction(3, 10))), CISPO(), SAPO()], ids=lambda objective: objective.name()
)
def test_the_view_weight_multiplies_the_whole_loss(objective: Objective) -> None:
    """KL-Cov's penalty, too. Drawn with twice the old probability, each token weighs a half."""
    gap = {"behaviour_logp_RT": row(OLD) + math.log(2), "beta_R": torch.ones(1), "off_view_R": torch.tensor([True])}
    whole, half = token_losses(objective, inputs_of(objective)), token_losses(objective, inputs_of(objective, **gap))
    assert half == near([value / 2 for value in whole])


# --- CISPO and SAPO --------------------------------------------------------------------------------------------------


def test_cispo_by_hand() -> None:
    objective = CISPO(CISPO.Config(clip_low=0.2, clip_high=0.28))
    inputs = inputs_of(objective)
    expected = [1.105171, 0.818731, 1.0, -1.221403, -0.8]
    assert slopes(objective.loss, inputs) == near(expected)
    assert token_losses(objective, inputs) == near([-w * logp for w, logp in zip(expected, NEW, strict=True)])
    assert objective.loss(inputs).metrics["clip_share"].tolist() == pytest.approx([0.2])


def test_cispo_leaves_the_lower_side_open_and_keeps_the_gradient_of_clipped_tokens() -> None:
    inputs = inputs_of(CISPO(), old_logp_RT=row((-3.0, -1.0, -0.5, -3.0, -2.5)))
    # Ratios exp(2.9) = 18.2 and exp(2.8) = 16.4 count as 5, exp(-1) and exp(-0.5) as they are.
    expected = [5.0, math.exp(-1.0), 1.0, -5.0, -math.exp(-0.5)]
    assert slopes(CISPO().loss, inputs) == near(expected)


def test_sapo_by_hand() -> None:
    inputs = inputs_of(SAPO())
    taus = [1.0, 1.0, 1.0, 1.05, 1.05]
    ratios = [math.exp(new - old) for new, old in zip(NEW, OLD, strict=True)]
    opened = [1 / (1 + math.exp(-tau * (ratio - 1))) for tau, ratio in zip(taus, ratios, strict=True)]
    gates = [4 / tau * share for tau, share in zip(taus, opened, strict=True)]
    assert token_losses(SAPO(), inputs) == near([-gate * a for gate, a in zip(gates, ADVANTAGE, strict=True)])
    slope = [4 * share * (1 - share) * r * a for share, r, a in zip(opened, ratios, ADVANTAGE, strict=True)]
    assert slopes(SAPO().loss, inputs) == near(slope)


def test_sapo_takes_the_temperature_of_a_token_by_the_sign_of_its_advantage() -> None:
    objective = SAPO(SAPO.Config(tau_positive=3.0, tau_negative=7.0))
    batch = five(old=row(NEW))
    losses = token_losses(objective, inputs_of(objective, batch))
    assert losses == near([-2 / 3] * 3 + [2 / 7] * 2)


def test_sapo_is_a_mean_of_means_and_the_others_are_one_over_all_tokens() -> None:
    mask = torch.tensor([[True, True, True], [True, False, False]])
    advantage = torch.tensor([[1.0] * 3, [1.0, 0.0, 0.0]])
    zeros = torch.zeros(2, 3)
    batch = batch_of(advantage, mask, logp=zeros, old=zeros)
    many = {"n_responses": 2.0, "n_tokens": 4.0, "n_selected": 4.0}
    rows = {name: torch.zeros(2) for name in ("beta_R", "cap_R")}
    for objective, expected in ((SAPO(), [1 / 6, 1 / 2]), (CISPO(), [1 / 4] * 2), (KLCov(), [1 / 4] * 2)):
        inputs = inputs_of(objective, batch, **many, **rows, off_view_R=torch.tensor([False] * 2))
        (gradient_RT,) = torch.autograd.grad(objective.loss(inputs).value, inputs.logp_RT)
        assert (-gradient_RT[:, 0]).tolist() == near(expected), objective


# --- Clip-Cov --------------------------------------------------------------------------------------------------------


def test_the_candidates_of_clip_cov_by_hand() -> None:
    # The PPO clip cuts token 4, of ratio 0.61 and a negative advantage; without the exclusion it is a candidate.
    wide = ClipCov(ClipCov.Config(low=0.2, high=5.0, clip_low=0.5, share=Fraction(1)))
    assert weigh(wide, five()).tolist() == [[0, 1, 0, 1, 0]]
    cut = ClipCov(ClipCov.Config(low=0.2, high=5.0, clip_low=0.2, share=Fraction(1)))
    assert weigh(cut, five()).tolist() == [[0, 1, 0, 1, 1]]
    paper = ClipCov(ClipCov.Config(low=0.2, high=5.0, clip_low=0.2, share=Fraction(1), exclude_clipped=False))
    assert weigh(paper, five()).tolist() == [[0, 1, 0, 1, 0]]
    assert {name: value.tolist() for name, value in cut.metrics(five()).items()} == {
        "candidates": near([0.4]),
        "candidates_tokens": [2.0],
    }


def test_a_covariance_above_the_upper_bound_is_no_candidate() -> None:
    # Token 4, of 2.208, is above it; 0.848 and 0.528 are not.
    narrow = ClipCov(ClipCov.Config(low=0.2, high=2.0, share=Fraction(1), exclude_clipped=False))
    assert weigh(narrow, five()).tolist() == [[0, 1, 0, 1, 1]]


def test_a_token_without_an_advantage_is_not_cut() -> None:
    """Covariances 1, 0.5 and 0; the clip cuts the first, of ratio 1.65, and nothing of the second, of ratio 0.61."""
    weight = ClipCov(ClipCov.Config(low=0.2, high=9.0, share=Fraction(1)))
    batch = batch_of(row((3.0, 0.0, 0.0)), logp=row((-0.5, -1.5, -1.0)), old=row((-1.0, -1.0, -1.0)))
    assert weigh(weight, batch).tolist() == [[1, 0, 1]]


def test_only_a_clip_that_acts_excludes_a_candidate() -> None:
    """A ratio above the range with a negative advantage, or below it with a positive one, keeps its gradient."""
    weight = ClipCov(ClipCov.Config(low=-9.0, high=9.0, share=Fraction(1)))
    batch = batch_of(
        torch.tensor([[1.0, 1.0, -1.0, -1.0]]),
        logp=torch.tensor([[-0.5, -1.5, -0.5, -1.5]]),
        old=torch.tensor([[-1.0, -1.0, -1.0, -1.0]]),
    )
    assert weigh(weight, batch).tolist() == [[1, 0, 0, 1]]


def test_clip_cov_draws_among_its_candidates() -> None:
    config = ClipCov.Config(low=0.2, high=5.0, exclude_clipped=False)
    draws = {tuple(weigh(ClipCov(config), five(), seed)[0].tolist()) for seed in range(40)}
    assert draws == {(0, 1, 1, 1, 1), (1, 1, 0, 1, 1), (1, 1, 1, 1, 0)}
    floor = ClipCov(ClipCov.Config(low=0.2, high=5.0, exclude_clipped=False, at_least_one=False))
    assert weigh(floor, five()).tolist() == [[1, 1, 1, 1, 1]]
    two = ClipCov(ClipCov.Config(low=0.2, high=5.0, exclude_clipped=False, share=Fraction(2, 5)))
    assert {float(weigh(two, five(), seed).sum()) for seed in range(5)} == {3.0}


def test_clip_cov_without_a_candidate_leaves_all_tokens() -> None:
    weight = ClipCov(ClipCov.Config(low=3.0, high=5.0))
    assert weigh(weight, five()).tolist() == [[1] * 5]
    assert weight.metrics(five())["candidates_tokens"].tolist() == [0.0]


def test_clip_cov_draws_among_the_tokens_that_weights_before_it_leave() -> None:
    weight = ClipCov(ClipCov.Config(low=0.05, high=5.0, exclude_clipped=False, share=Fraction(1)))
    assert weigh(weight, five()).tolist() == [[0, 1, 0, 1, 0]]
    left = five().weighted(row([0.0, 1.0, 1.0, 1.0, 1.0])).weighted(row([1.0, 1.0, 1.0, 1.0, 0.0]))
    # The means of the other three are 1/3 and -0.9: their covariances are -0.733, 0.267 and -0.933.
    assert weigh(weight, left).tolist() == [[1, 1, 0, 1, 1]]
    assert weight.metrics(left)["candidates_tokens"].tolist() == [1.0]
    half = ClipCov(ClipCov.Config(low=-5.0, high=5.0, exclude_clipped=False, share=Fraction(1, 2)))
    assert weigh(half, left).sum() == 4  # int(3 / 2) of the three that are left


def test_bounds_without_anything_between_are_refused() -> None:
    with pytest.raises(ValidationError, match="Nothing lies between low=5 and high=5"):
        ClipCov.Config(low=5.0, high=5.0)


# --- forking tokens and STEER ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scope", "share", "kept"),
    [
        ("batch", "1/5", [[0, 0, 0, 0, 1], [0, 1, 0, 0, 0]]),  # ceil(8 / 5) of all
        ("response", "1/5", [[0, 0, 0, 0, 1], [0, 1, 0, 0, 0]]),
        ("batch", "1/2", [[0, 0, 0, 1, 1], [1, 1, 0, 0, 0]]),
        ("response", "1/2", [[0, 0, 1, 1, 1], [1, 1, 0, 0, 0]]),
        ("batch", "1/8", [[0, 0, 0, 0, 0], [0, 1, 0, 0, 0]]),
        ("response", "1/8", [[0, 0, 0, 0, 1], [0, 1, 0, 0, 0]]),
    ],
)
def test_forking_tokens_by_hand(scope: Any, share: str, kept: list[list[int]]) -> None:
    entropy = torch.tensor([[0.1, 0.2, 0.3, 0.4, 0.7], [0.6, 0.9, 0.35, 7.0, 7.0]])
    mask = torch.tensor([[True] * 5, [True, True, True, False, False]])
    weight = ForkingTokens(ForkingTokens.Config(scope=scope, share=share))  # type: ignore[arg-type]
    assert weigh(weight, batch_of(torch.zeros(2, 5), mask, entropy=entropy)).tolist() == kept


def test_selected_by_hand() -> None:
    """The middle three of five and the middle one of three, by rank in each response; without a forced token, two."""
    entropy = torch.tensor([[0.1, 0.2, 0.3, 0.4, 0.7], [0.6, 0.9, 0.35, 7.0, 7.0]])
    mask = torch.tensor([[True] * 5, [True, True, True, False, False]])
    batch = batch_of(torch.zeros(2, 5), mask, entropy=entropy)
    assert weigh(Selected(), batch).tolist() == [[0, 1, 1, 1, 0], [1, 0, 0, 0, 0]]
    drawn = mask & torch.tensor([[False] + [True] * 4, [True] * 5])
    assert weigh(Selected(), replace(batch, drawn_RT=drawn)).tolist() == [[0, 0, 1, 1, 0], [1, 0, 0, 0, 0]]
    over_both = Selected(Selected.Config.model_validate({"selector": {"type": "top-k", "count": 3, "scope": "group"}}))
    assert weigh(over_both, batch).tolist() == [[0, 0, 0, 0, 1], [1, 1, 0, 0, 0]]


def test_which_weights_leave_zeroed_tokens_in_the_mean() -> None:
    """As the papers' codes do, and as `token_selector` does."""
    counted = {
        weight.type: weight.count_zeroed for weight in (ClipCov.Config(), ForkingTokens.Config(), Selected.Config())
    }
    assert counted == {"clip-cov": True, "forking-tokens": False, "selected": False}


def test_forced_tokens_are_not_kept() -> None:
    batch = batch_of(torch.zeros(1, 4), entropy=row((9.0, 1.0, 2.0, 3.0)))
    batch = replace(batch, drawn_RT=torch.tensor([[False, True, True, True]]))
    assert weigh(ForkingTokens(ForkingTokens.Config(share=Fraction(1, 3))), batch).tolist() == [[0, 0, 0, 1]]


def steer_batch(**changes: Any) -> UpdateBatch:
    logp = row((0.5, 0.9, 0.2)).log()
    return batch_of(
        row((1.0, 1.0, -1.0)), **{"logp": logp, "old": logp, "entropy_now": row((0.8, 0.3, 1.6)), **changes}
    )


def test_steer_by_hand() -> None:
    # omega is 0.053426, 0.019464 and 0.00755; the largest gets 0.8.
    assert weigh(Steer(), steer_batch())[0].tolist() == near([0.8, 0.921922, 0.968957])


def test_steer_divides_by_the_old_probability() -> None:
    batch = steer_batch(old=row((1.0, 0.45, 0.2)).log())
    omegas = [0.053426 / 2, 0.019464 * 2, 0.00755]
    expected = [0.8 ** (omega / max(omegas)) for omega in omegas]
    assert weigh(Steer(), batch)[0].tolist() == pytest.approx(expected, abs=1e-5)


def test_small_changes_of_the_entropy_are_hardly_weighed_down() -> None:
    batch = replace(steer_batch(), advantage_RT=row((0.1, 0.1, -0.1)))
    expected = [0.8 ** (omega / 10 / 0.02) for omega in (0.053426, 0.019464, 0.00755)]
    assert weigh(Steer(), batch)[0].tolist() == pytest.approx(expected, abs=1e-5)


def test_steer_stays_within_its_bounds_at_impossible_and_certain_tokens() -> None:
    sure = row((-200.0, 0.0, -1.0))
    weights = weigh(Steer(), steer_batch(logp=sure, old=sure))
    assert weights.isfinite().all()
    assert 0.8 - 1e-6 <= float(weights.min()) < float(weights.max()) <= 1.0
    # The first counts as of probability LEAST, now and before, so that its omega is log LEAST + 0.8.
    omegas = [abs(math.log(LEAST_PROBABILITY) + 0.8), 0.0, (1 - math.exp(-1)) * 0.6]
    assert weights[0].tolist() == pytest.approx([0.8 ** (omega / omegas[0]) for omega in omegas], abs=1e-5)


def test_steer_takes_no_old_probability_for_smaller_than_the_least() -> None:
    half, old = row((0.5, 0.5, 0.5)).log(), row((-30.0, -60.0, math.log(0.5)))
    weights = weigh(Steer(), steer_batch(logp=half, old=old, entropy_now=row((0.8, 0.8, 0.8))))
    assert weights[0].tolist() == near([0.8, 0.8, 1.0])


def test_what_stands_on_padding_is_no_change_of_the_entropy() -> None:
    batch = steer_batch(entropy_now=row((0.8, 0.3, 1e6)))
    batch = replace(batch, mask_RT=torch.tensor([[True, True, False]]))
    assert weigh(Steer(), batch)[0, :2].tolist() == near([0.8, 0.921922])


@pytest.mark.parametrize("name", ["clip_low", "clip_high"])
def test_a_clip_that_excludes_nothing_is_refused(name: str) -> None:
    ClipCov.Config.model_validate({name: 0.3})
    ClipCov.Config.model_validate({name: 0.2, "exclude_clipped": False})
    with pytest.raises(ValidationError, match=f"{name} says what the clip has cut"):
        ClipCov.Config.model_validate({name: 0.3, "exclude_clipped": False})


# --- whole updates ---------------------------------------------------------------------------------------------------


@pytest.fixture
def policy(random_parts: Parts) -> Policy:
    return policy_of(random_parts)


@pytest.fixture
def groups(policy: Policy, bars: Bars) -> list[TrainGroup]:
    return three_groups(policy, bars)


def as_drawn(groups: Sequence[TrainGroup]) -> list[TrainGroup]:
    """Return the groups with every response trained under the view that it was drawn from."""
    made = []
    for each in groups:
        group = replace(each.group, updated_on=each.group.sampled_from)
        made.append(replace(each, scored=replace(each.scored, group=group)))
    return made


PARTS: dict[str, dict[str, Any]] = {
    "kl-cov": {"type": "kl-cov", "share": "1/5"},
    "clip-cov": {"type": "grpo", "weights": [{"type": "clip-cov", "share": "1/8", "low": 0.05, "high": 50.0}]},
    "forking-tokens": {"type": "cispo", "weights": ["forking-tokens"]},
    "forking-tokens of responses": {"type": "sapo", "weights": [{"type": "forking-tokens", "scope": "response"}]},
    "steer": {"type": "grpo", "weights": ["steer"]},
    "several": {"type": "cispo", "weights": ["steer", "forking-tokens", {"type": "steer", "smallest": 0.5}]},
}


def objective_of(part: str) -> Objective:
    objective: Objective = validate({"objective": PARTS[part]}).objective.build()
    return objective


@pytest.mark.parametrize(("part", "share"), [*((part, 2) for part in PARTS), ("kl-cov", 3), ("clip-cov", 3)])
def test_two_processes_and_any_micro_batches_choose_what_one_does(
    random_parts: Parts, bars: Bars, part: str, share: int
) -> None:
    training = {"ppo_epochs": 2, "updates_per_batch": 2, "prompts_per_step": 3}
    results = []
    for micro_groups in (None, 1):
        policy = policy_of(random_parts)
        groups = three_groups(policy, bars)
        results.append(update(policy, groups, objective_of(part), lr=0.005, micro_groups=micro_groups, **training))
    policy = policy_of(random_parts)
    groups = sorted(three_groups(policy, bars), key=lambda each: each.group.index)
    shares = [groups[:share], groups[share:]]
    (left, gradients), (right, _) = in_two(
        policy, shares, lambda: objective_of(part), lr=0.005, micro_groups=1, **training
    )
    (metrics, expected), (in_parts, gradients_in_parts) = results
    for ours in (in_parts, left, right):
        assert ours == pytest.approx(metrics, rel=2e-4, abs=1e-5, nan_ok=True)
    assert len(expected) == 4
    for step, of_step in enumerate(expected):
        assert_same_gradients(gradients[step], of_step)
        assert_same_gradients(gradients_in_parts[step], of_step)
    names = {"kl-cov": "penalised_tokens", "several": "steer-2/touched_tokens"}
    assert metrics[names.get(part, f"{part.split()[0]}/touched_tokens")] > 0


def test_kl_cov_chooses_from_the_whole_batch_by_hand(policy: Policy, groups: list[TrainGroup]) -> None:
    """The gradient of a second update, whose ratios are not 1, against one that is summed token by token."""
    config = KLCov.Config(share=Fraction(1, 10), coefficient=0.7)
    start = copy.deepcopy(policy.module.state_dict())
    _, (_, ours) = update(policy, groups, KLCov(config), lr=0.02, ppo_epochs=2)

    def scores() -> list[tuple[float, Tensor]]:
        return [
            (each.advantages[n], token_logp(policy, each.group.views[each.group.updated_on[n]], response))
            for each in sorted(groups, key=lambda each: each.group.index)
            for n, response in enumerate(each.group.responses)
        ]

    policy.module.load_state_dict(start)
    old = torch.cat([logp_T.detach() for _, logp_T in scores()])
    update(policy, groups, KLCov(config), lr=0.02)  # the first of the two
    scored = scores()
    logp = torch.cat([logp_T for _, logp_T in scored])
    advantage = torch.cat([torch.full((len(logp_T),), a) for a, logp_T in scored])
    product = (advantage - advantage.mean()) * (logp.detach() - logp.detach().mean())
    count = len(logp) // 10
    assert count > 1
    penalised = product >= product.sort(descending=True).values[count - 1]
    loss = (-(logp - old).exp() * advantage + 0.7 * penalised * (logp - old).abs()).mean()
    parameters = [p for p in policy.module.parameters() if p.requires_grad]
    expected = torch.autograd.grad(loss, parameters, allow_unused=True)
    filled = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, expected, strict=True)]
    assert_same_gradients(ours, filled)


def test_kl_cov_penalises_tokens_that_the_loss_uses(policy: Policy, groups: list[TrainGroup]) -> None:
    """In the second update, since at ratio 1 no penalty acts: all that the selector left, or the one that it says."""
    for share, fewest in (("1", 3), ("1/500", 1)):
        config = {"token_selector": "middle-third", "share": share}
        objective = KLCov(KLCov.Config.model_validate(config))
        metrics, _ = update(policy, groups, objective, lr=0.02, updates_per_batch=2, prompts_per_step=3)
        assert metrics["penalised_tokens"] >= fewest
        assert share != "1/500" or metrics["penalised_tokens"] == 1


def test_clip_cov_leaves_tokens_alone_that_another_weight_zeroed(policy: Policy, groups: list[TrainGroup]) -> None:
    """Both in weights over the batch, and after one over each group; the zeroed tokens still count in the mean."""
    cov = {"type": "clip-cov", "share": "1", "low": -50.0, "high": 50.0, "count_zeroed": True}
    fork = {"type": "forking-tokens", "share": "1/2", "count_zeroed": True}
    chosen = {"type": "selected", "selector": "middle-third", "count_zeroed": True}
    tokens = sum(len(response) for each in groups for response in each.group.responses)
    for other in (fork, chosen):
        metrics, _ = update(policy, groups, GRPO(GRPO.Config.model_validate({"weights": [other, cov]})))
        left = tokens - metrics[f"{other['type']}/touched_tokens"]
        assert 0 < left < tokens
        assert metrics["clip-cov/candidates_tokens"] == metrics["clip-cov/touched_tokens"] == left


def test_the_touched_tokens_of_a_weight_are_logged_by_origin(policy: Policy, groups: list[TrainGroup]) -> None:
    config = {"weights": [{"type": "forking-tokens", "scope": "response", "share": "1/2"}]}
    metrics, _ = update(policy, groups, GRPO(GRPO.Config.model_validate(config)), ppo_epochs=2)
    lengths = [[len(response) for response in each.group.responses] for each in groups]
    left_out = [[length - math.ceil(length / 2) for length in each] for each in lengths]
    shares = [[n / length for n, length in zip(*pair, strict=True)] for pair in zip(left_out, lengths, strict=True)]
    assert metrics["forking-tokens/touched_tokens"] == 2 * sum(map(sum, left_out))  # in each of the two updates
    assert metrics[f"{CLEAN}/forking-tokens/touched_tokens"] == 2 * sum(each[0] for each in left_out)
    assert metrics[f"{CLEAN}/forking-tokens/touched"] == pytest.approx(sum(each[0] for each in shares) / 3)
    adversarial = sum(sum(each[1:]) for each in shares) / 6
    assert metrics[f"{ADVERSARIAL}/forking-tokens/touched"] == pytest.approx(adversarial)


def test_left_out_responses_have_no_touched_tokens(policy: Policy, groups: list[TrainGroup]) -> None:
    selector = {"type": "random", "lo": 0, "hi": "1/2"}
    weights = {"weights": ["forking-tokens"], "token_selector": selector}
    whole, masked = (
        update(policy, groups, GRPO(GRPO.Config.model_validate({**weights, "mask_truncated": masked})))[0]
        for masked in (False, True)
    )
    truncated = [r for each in groups for r in each.group.responses if r.truncated]
    assert truncated
    kept = sum(len(r) for each in groups for r in each.group.responses) - sum(map(len, truncated))
    assert masked["forking-tokens/touched_tokens"] == kept - math.ceil(kept / 5)
    by_selector = "token-selector/touched_tokens"
    assert whole[by_selector] - masked[by_selector] == sum(len(r) - math.ceil(len(r) / 2) for r in truncated)


class Passes:
    """Counts the passes of a policy by whether they had a gradient."""

    def __init__(self, policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
        self.without = 0
        forward = policy.module.forward

        def counted(*args: Any, **kwargs: Any) -> Any:
            self.without += not torch.is_grad_enabled()
            return forward(*args, **kwargs)

        monkeypatch.setattr(policy.module, "forward", counted)


@pytest.mark.parametrize(
    ("trained_as_drawn", "training", "more"),
    [
        (True, {}, 0),  # the sampling pass will do
        (False, {}, 3),  # one for each group
        (True, {"ppo_epochs": 2}, 3),  # the first epoch's is that of the old policy
        (False, {"ppo_epochs": 3}, 6),
    ],
)
@pytest.mark.parametrize("part", ["kl-cov", "clip-cov", "steer"])
def test_current_values_cost_no_pass_where_they_are_known(
    policy: Policy,
    groups: list[TrainGroup],
    monkeypatch: pytest.MonkeyPatch,
    part: str,
    trained_as_drawn: bool,
    training: dict[str, int],
    more: int,
) -> None:
    groups = as_drawn(groups) if trained_as_drawn else groups
    counts = []
    for objective in (GRPO(), objective_of(part)):
        passes = Passes(policy, monkeypatch)
        update(policy, groups, objective, **training)
        counts.append(passes.without)
        monkeypatch.undo()
    assert counts[1] - counts[0] == more


def test_the_values_of_the_sampling_pass_are_those_of_a_scoring_pass(policy: Policy, groups: list[TrainGroup]) -> None:
    class Seen(Steer):
        def weigh(self, batch: UpdateBatch, **kwargs: Any) -> Tensor:
            batches.append(batch)
            return super().weigh(batch, **kwargs)

    batches: list[UpdateBatch] = []
    for training in ({}, {"ppo_epochs": 2}):
        objective = GRPO()
        objective.weights["weight 0"] = Seen()
        update(policy, as_drawn(groups), objective, **training)
    drawn, scored = batches[0], batches[1]
    assert torch.equal(drawn.statistics[LOGP], drawn.behaviour_logp_RT)
    assert torch.equal(drawn.statistics[ENTROPY], drawn.behaviour_entropy_RT)
    for need in (LOGP, OLD_LOGP, ENTROPY):
        torch.testing.assert_close(drawn.statistics[need], scored.statistics[need], atol=1e-4, rtol=0)


@pytest.mark.parametrize("part", ["kl-cov", "steer", None])
def test_the_time_before_the_loss_is_told_where_there_is_something_to_prepare(
    policy: Policy, groups: list[TrainGroup], part: str | None
) -> None:
    stopwatch = Stopwatch()
    update(policy, groups, objective_of(part) if part else GRPO(), stopwatch=stopwatch)
    assert {name for name, seconds in stopwatch.read().items() if seconds > 0} == ({"time/prepare"} if part else set())


# --- a run whose parts cannot act, and those that are refused --------------------------------------------------------


def run_with(objective: Any, **training: Any) -> Any:
    return validate({"objective": objective, "training": {"prompts_per_step": 4, **training}})


@pytest.mark.parametrize("name", ["kl-cov", "cispo", "sapo"])
def test_an_objective_that_cannot_act_is_named(name: str) -> None:
    assert idle_parts(run_with(name)) == [f"objective '{name}'"]
    assert idle_parts(run_with(name, updates_per_batch=2)) == []
    assert idle_parts(run_with(name, ppo_epochs=2)) == []
    assert idle_parts(run_with(name, replay={})) == []


def test_what_acts_with_one_update_is_not_named() -> None:
    weights = ["clip-cov", "steer", "forking-tokens"]
    for name in ("grpo", "dapo", "dr-grpo", "gspo"):
        assert idle_parts(run_with({"type": name, "weights": weights, "terms": ["kl"]})) == []


def test_a_run_says_at_its_start_what_cannot_act() -> None:
    policy: Any = SimpleNamespace(parts=SimpleNamespace(notes=[]), model=torch.nn.Linear(1, 1))
    data: Any = SimpleNamespace(scanned=None, stream=SimpleNamespace(unreported=list))
    task: Any = SimpleNamespace(notes=list)
    assert opening_notes(run_with("sapo", updates_per_batch=2), task, policy, data) == []
    (note,) = opening_notes(run_with("sapo"), task, policy, data)
    assert note.startswith("The objective 'sapo' cannot act with one optimiser step per batch")


@pytest.mark.parametrize(
    ("term", "steers"),
    [
        ("adaptive-entropy", True),
        ("clamped-entropy", True),
        ({"type": "clamped-entropy", "adaptive": False}, False),
        ("nucleus-entropy", True),
        ({"type": "nucleus-entropy", "anchored": False}, False),
        ("entropy-bonus", False),
        ("sampled-entropy", False),
    ],
)
def test_a_run_says_at_its_start_that_its_entropy_is_steered(term: Any, steers: bool) -> None:
    policy: Any = SimpleNamespace(parts=SimpleNamespace(notes=[]), model=torch.nn.Linear(1, 1))
    data: Any = SimpleNamespace(scanned=None, stream=SimpleNamespace(unreported=list))
    task: Any = SimpleNamespace(notes=list)
    notes = opening_notes(run_with({"type": "grpo", "terms": [term]}), task, policy, data)
    name = term if isinstance(term, str) else term["type"]
    steered = f"The entropy of this run is steered (by the term '{name}'): it is no evidence against collapse."
    assert notes == [steered] * steers


def check(objective: Any, *, sampler: Any = "clean", **training: Any) -> None:
    build_strategies(validate({"objective": objective, "sampler": sampler, "training": training}))


@pytest.mark.parametrize("objective", ["kl-cov", {"type": "grpo", "weights": ["clip-cov"]}])
def test_a_covariance_within_one_response_is_refused(objective: Any) -> None:
    one = {"type": "clean", "n": 1}
    check(objective, sampler=one, prompts_per_step=2)
    with pytest.raises(ConfigError, match="is one over several responses") as refused:
        check(objective, sampler=one, prompts_per_step=3, updates_per_batch=2)
    assert "training.updates_per_batch 2" in (refused.value.reason or "")
    # Of three prompts in two updates one update has two responses.
    assert "the smallest update batch is one response" in (refused.value.reason or "")
    check(objective, sampler=one, prompts_per_step=4, updates_per_batch=2)
    check("grpo", sampler=one, prompts_per_step=1)


def test_clip_cov_has_to_know_the_clip() -> None:
    def clip_cov(objective: str, **fields: Any) -> dict[str, Any]:
        return {"type": objective, "weights": [{"type": "clip-cov", **fields}]}

    several = {"ppo_epochs": 2}
    check(clip_cov("grpo"), **several)
    check(clip_cov("dapo"))  # nothing is clipped yet in the only update
    check(clip_cov("dapo", clip_high=0.28), **several)
    check(clip_cov("gspo", exclude_clipped=False), **several)
    with pytest.raises(ConfigError, match="has to know the clip") as refused:
        check(clip_cov("dapo"), **several)
    assert refused.value.remedy == "Give the weight clip_low: 0.2, clip_high: 0.28."
    for objective in ("gspo", "kl-cov", "cispo", "sapo"):
        with pytest.raises(ConfigError, match="has to know the clip"):
            check(clip_cov(objective), **several)
