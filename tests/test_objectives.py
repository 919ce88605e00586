"""Objectives and terms: hand-worked cases, the view weight, and the contract with a breach of each rule."""

import math
from dataclasses import replace
from typing import ClassVar, Literal

import pytest
import torch
from pydantic import ValidationError
from torch.distributions import Categorical, kl_divergence

from saei.config.strategy import StrategyConfig
from saei.need import Need
from saei.objectives.aggregation import per_response, response_mean
from saei.objectives.base import Loss, Objective, ObjectiveInput, Term
from saei.objectives.dapo import DAPO
from saei.objectives.dr_grpo import DrGRPO
from saei.objectives.entropy_bonus import ENTROPY, EntropyBonus
from saei.objectives.grpo import GRPO
from saei.objectives.gspo import GSPO
from saei.objectives.kl import DIVERGENCE, KL, REFERENCE_LOGP
from saei.objectives.view_weight import view_weight
from saei.testing import check_objective, check_term, registered


def f64(values):
    return torch.tensor(values, dtype=torch.float64)


def inputs_of(ratio_RT, advantages, **changes):
    """Return a batch of one-view responses whose ratios to the old policy are these; None is padding."""
    width = max(map(len, ratio_RT))
    rows = [[*row, *[None] * (width - len(row))] for row in ratio_RT]
    mask_RT = torch.tensor([[ratio is not None for ratio in row] for row in rows])
    log_ratio_RT = f64([[0.0 if r is None else math.log(r) for r in row] for row in rows])
    old_RT = torch.full_like(log_ratio_RT, -3.0)
    inputs = ObjectiveInput(
        logp_RT=(old_RT + log_ratio_RT).requires_grad_(),
        old_logp_RT=old_RT,
        behaviour_logp_RT=old_RT,
        mask_RT=mask_RT,
        selected_RT=mask_RT,
        advantage_RT=f64(advantages)[:, None].expand(mask_RT.shape),
        truncated_R=torch.zeros(len(rows), dtype=torch.bool),
        off_view_R=torch.zeros(len(rows), dtype=torch.bool),
        beta_R=torch.zeros(len(rows)).double(),
        cap_R=torch.full((len(rows),), 2.0).double(),
        n_responses=len(rows),
        n_tokens=int(mask_RT.sum()),
        n_selected=int(mask_RT.sum()),
        max_new_tokens=4,
    )
    return replace(inputs, **changes)


def alone(term):
    """Return the loss of a term beside GRPO's policy loss."""
    return lambda inputs: term.loss(inputs, lambda values_RT: response_mean(values_RT, everywhere(inputs)))


def everywhere(inputs):
    return replace(inputs, selected_RT=inputs.mask_RT, n_selected=inputs.n_tokens)


def gradient(loss, inputs):
    return torch.autograd.grad(loss(inputs).value, inputs.logp_RT)[0]


def close(actual, expected):
    torch.testing.assert_close(actual, f64(expected), rtol=1e-14, atol=1e-15, equal_nan=True)


class TestGRPO:
    def test_clip_by_hand(self):
        inputs = inputs_of([[1.1, 1.5, 0.5], [1.5, 0.5]], [2.0, -1.0])
        loss = GRPO.Config(clip_low=0.2, clip_high=0.3).build().loss(inputs)
        # Positive advantage: min(r, 1.3) * 2 = 2.2, 2.6, 1.0. Negative: -max(r, 0.8) = -1.5, -0.8.
        close(loss.value, -((2.2 + 2.6 + 1.0) / 3 + (-1.5 - 0.8) / 2) / 2)
        close(loss.metrics["ratio_mean"], [3.1 / 3, 1.0])
        close(loss.metrics["ratio_max"], [1.5, 1.5])
        assert loss.metrics["clip_share"].tolist() == pytest.approx([1 / 3, 1 / 2])
        assert loss.metrics["view_weight"].tolist() == [1.0, 1.0]

    def test_gradient_by_hand_is_cut_where_the_clip_binds(self):
        inputs = inputs_of([[1.1, 1.5, 0.5], [1.5, 0.5]], [2.0, -1.0])
        expected = [[-2 * 1.1 / 6, 0.0, -2 * 0.5 / 6], [1.5 / 4, 0.0, 0.0]]
        close(gradient(GRPO().loss, inputs), expected)

    def test_each_response_counts_once_whatever_its_length(self):
        # A mean over tokens would give -(3 - 1) / 4; a sum over tokens per response -(3 - 1) / 2.
        close(GRPO().loss(inputs_of([[1.0] * 3, [1.0]], [1.0, -1.0])).value, 0.0)

    def test_the_denominator_is_the_number_of_selected_tokens(self):
        inputs = inputs_of([[1.1, 0.9, 1.0], [1.0, 1.1]], [1.0, 3.0])
        selected_RT = torch.tensor([[True, True, False], [False, False, False]])
        loss = GRPO().loss(replace(inputs, selected_RT=selected_RT))
        close(loss.value, -((1.1 + 0.9) / 2) / 2)
        close(loss.metrics["ratio_mean"], [1.0, math.nan])
        close(loss.metrics["ratio_max"], [1.1, math.nan])

    def test_the_global_count_divides_the_micro_batch(self):
        close(GRPO().loss(inputs_of([[1.0]], [1.0], n_responses=8)).value, -1 / 8)

    def test_the_ratio_is_to_the_old_policy_not_to_the_behaviour(self):
        inputs = inputs_of([[1.0, 1.0]], [1.0], behaviour_logp_RT=torch.full((1, 2), -9.0).double())
        close(GRPO().loss(inputs).metrics["ratio_mean"], [1.0])

    def test_the_view_weight_multiplies_the_clipped_loss(self):
        # old/behaviour = 3, weight min(2, sqrt(3)); the clip knows nothing of it.
        behaviour_RT = f64([[-3.0 - math.log(3.0)] * 2])
        inputs = inputs_of(
            [[1.1, 1.5]],
            [1.0],
            behaviour_logp_RT=behaviour_RT,
            off_view_R=torch.tensor([True]),
            beta_R=f64([0.5]),
        )
        close(GRPO().loss(inputs).value, -math.sqrt(3.0) * (1.1 + 1.2) / 2)
        close(gradient(GRPO().loss, inputs), [[-math.sqrt(3.0) * 1.1 / 2, 0.0]])

    def test_masked_truncated_responses_leave_loss_and_terms_but_not_the_count(self):
        inputs = inputs_of(
            [[1.0, 1.0], [1.1]],
            [1.0, 1.0],
            truncated_R=torch.tensor([True, False]),
            statistics={ENTROPY: f64([[5.0, 5.0], [3.0, 9.0]])},
        )
        bonus = {"type": "entropy-bonus", "coefficient": 0.1}
        kept = GRPO.Config(terms=(bonus,)).build().loss(inputs)
        close(kept.value, -(1.0 + 1.1) / 2 - 0.1 * (5.0 + 3.0) / 2)
        masked = GRPO.Config(terms=(bonus,), mask_truncated=True).build().loss(inputs)
        close(masked.value, -1.1 / 2 - 0.1 * 3.0 / 2)
        close(masked.metrics["entropy-bonus/mean"], [math.nan, 3.0])

    def test_anything_may_stand_on_padding(self):
        inputs = inputs_of(
            [[1.0, 1.0], [1.0]],
            [1.0, 1.0],
            off_view_R=torch.tensor([True, True]),
            beta_R=f64([1.0, 1.0]),
        )
        names = ("logp_RT", "old_logp_RT", "behaviour_logp_RT")
        wild = {name: torch.where(inputs.mask_RT, getattr(inputs, name).detach(), math.nan) for name in names}
        wild["logp_RT"].requires_grad_()
        statistics = {
            ENTROPY: torch.where(inputs.mask_RT, f64(2.0), math.inf),
            REFERENCE_LOGP: torch.where(inputs.mask_RT, f64(-3.0), math.nan),
            DIVERGENCE: torch.where(inputs.mask_RT, f64(0.5), math.nan),
        }
        kl = ("kl", {"type": "kl", "bias_correction": True}, {"type": "kl", "estimate": "full"})
        objective = GRPO.Config(terms=(*kl, "entropy-bonus")).build()
        loss = objective.loss(replace(inputs, **wild, statistics=statistics))
        close(loss.value, -1.0 - 0.001 * 2.0 + 0.01 * 0.5)
        assert all(values_R.isfinite().all() for values_R in loss.metrics.values())
        close(torch.autograd.grad(loss.value, wild["logp_RT"])[0], [[-0.25, -0.25], [-0.5, 0.0]])

    def test_padding_is_not_the_largest_ratio(self):
        close(GRPO().loss(inputs_of([[0.5], [0.6, 0.7]], [1.0, 1.0])).metrics["ratio_max"], [0.5, 0.7])

    @pytest.mark.parametrize("fields", [{"clip_low": -0.1}, {"clip_low": 1.1}, {"clip_high": -0.1}])
    def test_impossible_clip_ranges_are_refused(self, fields):
        with pytest.raises(ValidationError, match=next(iter(fields))):
            GRPO.Config(**fields)


class TestWeights:
    """Ratios of 1.1 and 0.9 with weights 2 and 1/2, and a third token of weight 0, beside a plain response."""

    def inputs(self, *, count_zeroed):
        inputs = inputs_of([[1.1, 0.9, 1.0], [1.0, 1.2]], [1.0, -1.0])
        weight_RT = f64([[2.0, 0.5, 0.0], [1.0, 1.0, 0.0]])
        selected_RT = inputs.mask_RT if count_zeroed else inputs.mask_RT & (weight_RT != 0)
        return replace(inputs, weight_RT=weight_RT, selected_RT=selected_RT, n_selected=float(selected_RT.sum()))

    @pytest.mark.parametrize(("count_zeroed", "tokens"), [(True, 3), (False, 2)])
    def test_a_mean_per_response(self, count_zeroed, tokens):
        loss = GRPO().loss(self.inputs(count_zeroed=count_zeroed))
        close(loss.value, -((2 * 1.1 + 0.9 / 2) / tokens - (1.0 + 1.2) / 2) / 2)
        close(loss.metrics["token_weight"], [2.5 / 3, 1.0])

    @pytest.mark.parametrize(("count_zeroed", "tokens"), [(True, 5), (False, 4)])
    def test_a_mean_over_tokens(self, count_zeroed, tokens):
        close(DAPO().loss(self.inputs(count_zeroed=count_zeroed)).value, -(2.2 + 0.45 - 2.2) / tokens)

    @pytest.mark.parametrize("count_zeroed", [True, False])
    def test_a_constant_length(self, count_zeroed):
        close(DrGRPO().loss(self.inputs(count_zeroed=count_zeroed)).value, -(2.2 + 0.45 - 2.2) / 8)

    def test_a_ratio_of_the_response(self):
        # The zeroed token is part of the response as long as it counts: its ratio is in the geometric mean.
        objective = GSPO.Config(clip_low=0.9, clip_high=9.0).build()
        counted = (1.1 * 0.9 * 1.0) ** (1 / 3) * 2.5 / 3
        left_out = (1.1 * 0.9) ** (1 / 2) * 2.5 / 2
        other = -(1.2 ** (1 / 2))
        for count_zeroed, mean in ((True, counted), (False, left_out)):
            close(objective.loss(self.inputs(count_zeroed=count_zeroed)).value, -(mean + other) / 2)

    def test_terms_are_not_weighed(self):
        inputs = replace(self.inputs(count_zeroed=False), statistics={ENTROPY: f64([[1.0, 2.0, 3.0], [4.0, 6.0, 9.0]])})
        bonus = GRPO.Config(terms=({"type": "entropy-bonus", "coefficient": 0.1},)).build()
        close(bonus.loss(inputs).value - GRPO().loss(inputs).value, -0.1 * (2.0 + 5.0) / 2)

    def test_several_are_multiplied_and_the_selector_is_one_of_them(self):
        objective = GRPO.Config(token_selector="top-k", weights=("selected", {"type": "selected"})).build()
        assert list(objective.weights) == ["token-selector", "weight 0", "weight 1"]
        assert set(objective.parts()) == {"advantage", "token_selector", "weight 0", "weight 1"}


def test_advantages_per_token_by_hand():
    inputs = inputs_of([[1.1, 0.5], [1.0, 1.0]], [0.0, 0.0], advantage_RT=f64([[2.0, -1.0], [0.0, 3.0]]))
    # min(1.1 * 2, 1.2 * 2) = 2.2, min(-0.5, -0.8) = -0.8, 0 and 3.
    close(GRPO().loss(inputs).value, -((2.2 - 0.8) / 2 + 3.0 / 2) / 2)


class TestDrGRPO:
    def test_by_hand(self):
        inputs = inputs_of([[1.1, 1.5, 0.5], [1.5, 0.5]], [2.0, -1.0])
        # Clipped gains 2.2, 2.4, 1.0 and -1.5, -0.8; two responses of at most four tokens.
        close(DrGRPO().loss(inputs).value, -(2.2 + 2.4 + 1.0 - 1.5 - 0.8) / 8)
        close(gradient(DrGRPO().loss, inputs), [[-2.2 / 8, 0.0, -1.0 / 8], [1.5 / 8, 0.0, 0.0]])

    def test_selection_does_not_change_the_denominator(self):
        inputs = inputs_of([[1.0, 1.0], [1.0]], [1.0, 1.0])
        selected_RT = torch.tensor([[True, False], [True, False]])
        close(DrGRPO().loss(replace(inputs, selected_RT=selected_RT, n_selected=2.0)).value, -2 / 8)

    def test_advantages_are_not_scaled_unless_asked(self):
        assert DrGRPO.Config().advantage.scale == "none"
        assert DrGRPO.Config.model_validate({"advantage": {"baseline": "leave-one-out"}}).advantage.scale == "none"
        assert DrGRPO.Config.model_validate({"advantage": {"scale": "group"}}).advantage.scale == "group"


class TestDAPO:
    def test_by_hand(self):
        inputs = inputs_of([[1.1, 1.5, 0.5], [1.5, 0.5]], [2.0, -1.0])
        # min(r, 1.28) * 2 = 2.2, 2.56, 1.0 and -max(r, 0.8) = -1.5, -0.8: one mean over five tokens.
        close(DAPO().loss(inputs).value, -(2.2 + 2.56 + 1.0 - 1.5 - 0.8) / 5)
        close(gradient(DAPO().loss, inputs), [[-2.2 / 5, 0.0, -1.0 / 5], [1.5 / 5, 0.0, 0.0]])

    def test_the_denominator_is_the_selection_of_the_update_batch(self):
        inputs = inputs_of([[1.0, 1.0], [1.0]], [1.0, 1.0])
        selected_RT = torch.tensor([[True, False], [True, False]])
        close(DAPO().loss(replace(inputs, selected_RT=selected_RT, n_selected=8.0)).value, -2 / 8)


class TestGSPO:
    def test_the_ratio_is_the_geometric_mean(self):
        inputs = inputs_of([[8.0, 0.5, 2.0], [0.5, 0.5]], [2.0, -1.0])
        loss = GSPO.Config(clip_low=0.2, clip_high=1.5).build().loss(inputs)
        # Cube root of 8, not clipped; 0.5 is below 0.8.
        close(loss.value, -(2.0 * 2.0 - 0.8) / 2)
        close(loss.metrics["ratio_mean"], [2.0, 0.5])
        close(loss.metrics["ratio_max"], [2.0, 0.5])
        assert loss.metrics["clip_share"].tolist() == [0.0, 1.0]

    def test_a_response_is_clipped_as_a_whole_and_its_tokens_share_its_gradient(self):
        inputs = inputs_of([[8.0, 0.5, 2.0], [0.5, 0.5]], [2.0, -1.0])
        objective = GSPO.Config(clip_low=0.2, clip_high=1.5).build()
        close(gradient(objective.loss, inputs), [[-2.0 * 2.0 / 3 / 2] * 3, [0.0, 0.0, 0.0]])

    def test_the_selected_tokens_are_the_response(self):
        inputs = inputs_of([[1.21, 1.0, 99.0], [1.0]], [1.0, 1.0])
        selected_RT = torch.tensor([[True, True, False], [False, False, False]])
        objective = GSPO.Config(clip_high=1.0).build()
        chosen = replace(inputs, selected_RT=selected_RT, n_selected=2.0)
        close(objective.loss(chosen).value, -1.1 / 2)
        close(gradient(objective.loss, chosen), [[-1.1 / 4, -1.1 / 4, 0.0], [0.0, 0.0, 0.0]])

    def test_the_view_weight_is_of_the_sequence(self):
        # Gaps log 4 and 0: their mean is log 2; token by token the weights would be 2 and 1.
        inputs = inputs_of(
            [[1.0, 1.0]],
            [1.0],
            behaviour_logp_RT=f64([[-3.0 - math.log(4.0), -3.0]]),
            off_view_R=torch.tensor([True]),
            beta_R=f64([0.5]),
        )
        loss = GSPO().loss(inputs)
        close(loss.value, -math.sqrt(2.0))
        close(loss.metrics["view_weight"], [math.sqrt(2.0)])


@pytest.mark.parametrize(
    ("objective", "entropy"),
    [(GRPO, (2.0 + 4.0) / 2), (GSPO, (2.0 + 4.0) / 2), (DAPO, 10.0 / 4), (DrGRPO, 10.0 / 8)],
)
def test_terms_weigh_tokens_as_the_objective_does_and_cover_them_all(objective, entropy):
    """The policy loss is left with nothing; the bonus still sees all four tokens of the two responses."""
    inputs = inputs_of([[1.0] * 3, [1.0]], [1.0, 1.0], statistics={ENTROPY: f64([[1.0, 2.0, 3.0], [4.0, 9.0, 9.0]])})
    inputs = replace(inputs, selected_RT=torch.zeros_like(inputs.mask_RT), n_selected=1.0)
    bonus = {"type": "entropy-bonus", "coefficient": 0.1}
    close(objective.Config(terms=(bonus,)).build().loss(inputs).value, -0.1 * entropy)


class TestViewWeight:
    def weight(self, gap, *, beta=1.0, cap=2.0, off_view=True):
        inputs = inputs_of(
            [[1.0]],
            [1.0],
            behaviour_logp_RT=f64([[-3.0 - gap]]),
            off_view_R=torch.tensor([off_view]),
            cap_R=f64([cap]),
        )
        return view_weight(inputs, f64([beta])).item()

    def test_by_hand(self):
        assert self.weight(math.log(1.5)) == pytest.approx(1.5, rel=1e-15)
        assert self.weight(math.log(1.5), beta=2.0, cap=9.0) == pytest.approx(2.25, rel=1e-15)
        assert self.weight(math.log(0.25), beta=0.5) == pytest.approx(0.5, rel=1e-15)
        assert self.weight(math.log(7.0)) == 2.0

    def test_is_exactly_one_on_the_own_view_and_without_beta(self):
        assert self.weight(-0.3, off_view=False) == 1.0
        assert self.weight(-0.3, beta=0.0) == 1.0
        assert self.weight(-0.3, beta=0.0, cap=0.5) == 1.0

    def test_has_no_gradient(self):
        inputs = inputs_of([[1.5]], [1.0], off_view_R=torch.tensor([True]))
        inputs = replace(inputs, old_logp_RT=inputs.logp_RT)
        assert not view_weight(inputs, torch.ones(1).double()).requires_grad

    def test_full_correction_makes_the_loss_unbiased_for_the_update_view(self):
        """E_behaviour[w f] = E_update[f] for any f, which is what beta = 1 without a binding cap promises."""
        behaviour, update = Categorical(logits=torch.randn(5).double()), Categorical(logits=torch.randn(5).double())
        advantages = torch.randn(5).double()
        inputs = inputs_of(
            [[1.0]] * 5,
            advantages.tolist(),
            off_view_R=torch.ones(5, dtype=torch.bool),
            beta_R=torch.ones(5).double(),
            cap_R=torch.full((5,), 1e6).double(),
            logp_RT=update.logits[:, None],
            old_logp_RT=update.logits[:, None],
            behaviour_logp_RT=behaviour.logits[:, None],
        )
        expectation = sum(
            behaviour.probs[v] * GRPO().loss(one_row(inputs, v)).value * inputs.n_responses for v in range(5)
        )
        torch.testing.assert_close(expectation, -(update.probs * advantages).sum(), rtol=1e-12, atol=1e-14)


def one_row(inputs, row):
    names = [name for name in ObjectiveInput.__slots__ if isinstance(getattr(inputs, name), torch.Tensor)]
    statistics = {need: values[row : row + 1] for need, values in inputs.statistics.items()}
    return replace(inputs, **{name: getattr(inputs, name)[row : row + 1] for name in names}, statistics=statistics)


class TestKL:
    def test_k3_by_hand(self):
        # reference / policy = 2 and 1/2: k3 = 2 - log 2 - 1 and 1/2 + log 2 - 1; their mean is 1/4.
        reference_RT = f64([[-3 + math.log(2.0), -3 - math.log(2.0)]])
        inputs = inputs_of([[1.0, 1.0]], [1.0], statistics={REFERENCE_LOGP: reference_RT})
        loss = alone(KL.Config(coefficient=0.4).build())(inputs)
        close(loss.value, 0.4 * 0.25)
        close(loss.metrics["mean"], [0.25])
        close(gradient(alone(KL.Config(coefficient=0.4).build()), inputs), [[0.2 * (1 - 2.0), 0.2 * (1 - 0.5)]])

    def test_k3_of_nearly_equal_policies_keeps_its_digits(self):
        # k3 is d² / 2 for small d: 5e-9, where float32 has no number between 1 and 1 + 1e-7.
        reference_RT = f64([[-3 + 2**-13, -3 - 2**-14]])
        inputs = inputs_of([[1.0, 1.0]], [1.0], statistics={REFERENCE_LOGP: reference_RT})
        fields = ("logp_RT", "old_logp_RT", "behaviour_logp_RT")
        narrow = replace(
            inputs,
            **{name: getattr(inputs, name).detach().float() for name in fields},
            statistics={REFERENCE_LOGP: reference_RT.float()},
        )
        exact, ours = (alone(KL())(one).metrics["mean"].double() for one in (inputs, narrow))
        assert 0 < exact < 1e-8
        torch.testing.assert_close(ours, exact, rtol=1e-3, atol=0)

    def test_covers_all_response_tokens_not_only_the_selected(self):
        reference_RT = f64([[-3 + math.log(2.0), -3 - math.log(2.0)]])
        inputs = inputs_of([[1.0, 1.0]], [1.0], statistics={REFERENCE_LOGP: reference_RT})
        close(alone(KL())(replace(inputs, selected_RT=torch.tensor([[True, False]]))).value, 0.01 * 0.25)

    def test_bias_correction_multiplies_by_the_ratio(self):
        reference_RT = f64([[-3 + math.log(2.0) + math.log(1.5)]])
        inputs = inputs_of([[1.5]], [1.0], statistics={REFERENCE_LOGP: reference_RT})
        loss = alone(KL.Config(coefficient=1.0, bias_correction=True).build())
        k3 = 1.0 - math.log(2.0)
        close(loss(inputs).value, 1.5 * k3)
        close(gradient(loss, inputs), [[1.5 * k3 + 1.5 * (1 - 2.0)]])

    @pytest.mark.parametrize("beta", [0.0, 1.0])
    def test_is_the_divergence_under_the_update_view_wherever_the_token_came_from(self, beta):
        generator = torch.Generator().manual_seed(0)
        update, behaviour, reference = (
            Categorical(logits=torch.randn(6, generator=generator).double()) for _ in range(3)
        )
        inputs = inputs_of(
            [[1.0]] * 6,
            [1.0] * 6,
            logp_RT=update.logits[:, None],
            old_logp_RT=update.logits[:, None],
            behaviour_logp_RT=behaviour.logits[:, None],
            statistics={REFERENCE_LOGP: reference.logits[:, None]},
            off_view_R=torch.ones(6, dtype=torch.bool),
            beta_R=torch.full((6,), beta).double(),
            cap_R=torch.full((6,), 1e6).double(),
        )
        estimate_V = alone(KL())(inputs).metrics["mean"]
        expected = kl_divergence(update, reference)
        torch.testing.assert_close((behaviour.probs * estimate_V).sum(), expected, rtol=1e-12, atol=1e-14)
        own_view = alone(KL())(replace(inputs, off_view_R=torch.zeros(6, dtype=torch.bool))).metrics["mean"]
        torch.testing.assert_close((update.probs * own_view).sum(), expected, rtol=1e-12, atol=1e-14)

    def test_the_full_divergence_needs_no_weight(self):
        divergence_RT = f64([[0.5, 1.5], [3.0, 9.0]]).requires_grad_()
        inputs = inputs_of(
            [[1.0, 1.0], [1.0]],
            [0.0, 0.0],
            statistics={DIVERGENCE: divergence_RT},
            behaviour_logp_RT=f64([[-1.0, -1.0], [-9.0, 0.0]]),
            off_view_R=torch.tensor([True, False]),
        )
        loss = alone(KL.Config(coefficient=0.4, estimate="full").build())(inputs)
        close(loss.value, 0.4 * (1.0 + 3.0) / 2)
        close(loss.metrics["mean"], [1.0, 3.0])
        [slope] = torch.autograd.grad(loss.value, divergence_RT)
        close(slope, [[0.1, 0.1], [0.2, 0.0]])


class TestEntropyBonus:
    def test_by_hand(self):
        entropy_RT = f64([[1.0, 2.0, 3.0], [4.0, 100.0, 100.0]]).requires_grad_()
        inputs = inputs_of([[1.0] * 3, [1.0]], [0.0, 0.0], statistics={ENTROPY: entropy_RT})
        loss = alone(EntropyBonus.Config(coefficient=0.5).build())(inputs)
        close(loss.value, -0.5 * (2.0 + 4.0) / 2)
        close(loss.metrics["mean"], [2.0, 4.0])
        [slope] = torch.autograd.grad(loss.value, entropy_RT)
        close(slope, [[-0.25 / 3] * 3, [-0.25, 0.0, 0.0]])


def test_an_objective_needs_what_its_terms_need():
    assert GRPO().needs == frozenset()
    assert GRPO.Config(terms=("kl", "entropy-bonus")).build().needs == {REFERENCE_LOGP, ENTROPY}


@pytest.mark.parametrize("config", registered("objective"), ids=lambda config: config.type)
def test_every_objective_keeps_the_contract(config):
    check_objective(config)
    check_objective(type(config)(terms=("kl", "entropy-bonus")))


@pytest.mark.parametrize("config", registered("term"), ids=lambda config: config.type)
def test_every_term_keeps_the_contract(config):
    check_term(config)


def test_a_corrected_kl_keeps_the_contract():
    check_term(KL.Config(bias_correction=True))


def test_a_full_kl_keeps_the_contract():
    check_term(KL.Config(estimate="full"))
    with pytest.raises(ValidationError, match="bias_correction mends the k3 estimate"):
        KL.Config(estimate="full", bias_correction=True)


class Draft(Objective):
    """A sound objective; each breach below spoils one thing of it."""

    class Config(Objective.Config):
        type: Literal["test/draft"] = "test/draft"
        breach: str = ""

    config: Config
    calls: ClassVar[int] = 0

    @property
    def needs(self):
        declared = {"declares too much": {ENTROPY}, "declares the unknown": {Need("logits")}}
        return super().needs | declared.get(self.config.breach, set())

    def policy_loss(self, inputs):
        breach = self.config.breach
        log_ratio_RT = inputs.logp_RT - inputs.old_logp_RT
        gain_RT = torch.where(inputs.selected_RT, log_ratio_RT, 0.0).exp() * inputs.advantage_RT
        value = response_mean(-gain_RT, inputs)
        metrics_R = per_response(gain_RT.detach(), inputs.selected_RT)
        Draft.calls += 1
        if breach == "reads undeclared":
            value = value + 0 * inputs.statistics[ENTROPY].sum()
        elif breach == "per row":
            value = -gain_RT.sum(dim=1)
        elif breach == "infinite":
            value = value + torch.tensor(math.inf)
        elif breach == "infinite gradient":
            value = value + (inputs.logp_RT.detach() - inputs.logp_RT)[0, 0].clamp(min=0).sqrt()
        elif breach == "no gradient":
            value = value.detach()
        elif breach == "padding":
            value = value + inputs.logp_RT.mean()
        elif breach == "padding value":
            value = value + inputs.old_logp_RT.sum()
        elif breach == "local count":
            value = value * inputs.n_responses / len(inputs.mask_RT)
        elif breach == "stateful":
            value = value * (1 + 0.01 * Draft.calls)
        elif breach == "random":
            value = value + 0 * torch.rand(())
        elif breach == "writes":
            inputs.old_logp_RT.add_(1.0)
        elif breach == "scalar metric":
            metrics_R = metrics_R.mean()
        elif breach == "attached metric":
            metrics_R = (gain_RT * inputs.selected_RT).sum(dim=1)
        elif breach == "infinite metric":
            metrics_R = metrics_R + math.inf
        elif breach == "all tokens":
            value = response_mean(-log_ratio_RT.where(inputs.mask_RT, 0.0).exp(), everywhere(inputs))
        elif breach == "without advantage":
            value = value + 0.01 * response_mean(torch.where(inputs.selected_RT, log_ratio_RT, 0.0), inputs)
        elif breach == "sign":
            value = -value
        elif breach == "ignores weights":
            value = response_mean(-gain_RT, replace(inputs, weight_RT=None))
        return Loss(value, {"gain": metrics_R})

    def loss(self, inputs):
        if self.config.breach == "ignores mask_truncated":
            return self.policy_loss(inputs)
        return super().loss(inputs)


def test_the_sound_draft_keeps_the_contract():
    check_objective(Draft.Config())


@pytest.mark.parametrize(
    ("breach", "rule"),
    [
        ("declares too much", "what it declares as a need, it reads"),
        ("declares the unknown", "something fills its needs"),
        ("reads undeclared", "reads only inputs that its needs declare"),
        ("per row", "the loss is a scalar"),
        ("infinite", "the loss is finite"),
        ("infinite gradient", "gradients are finite"),
        ("no gradient", "a gradient reaches"),
        ("padding", "padding has no gradient"),
        ("padding value", "what stands on padding"),
        ("local count", "micro-batches add up"),
        ("stateful", "the same inputs give the same loss"),
        ("random", "the global random state"),
        ("writes", "the inputs are left as they were"),
        ("scalar metric", "'gain' has one value per response"),
        ("attached metric", "'gain' is detached"),
        ("infinite metric", "'gain' is finite or NaN"),
        ("all tokens", "the policy loss uses selected tokens only"),
        ("without advantage", "without advantages"),
        ("sign", "lowers the policy loss"),
        ("ignores weights", "proportional to the weights"),
        ("ignores mask_truncated", "with mask_truncated"),
    ],
)
def test_each_breach_of_the_contract_is_named(breach, rule):
    with pytest.raises(AssertionError, match=rule):
        check_objective(Draft.Config(breach=breach))


class Careless(Term):
    """A term that forgets to declare what it reads."""

    class Config(StrategyConfig):
        type: Literal["test/careless"] = "test/careless"

    def loss(self, inputs, aggregate):
        return Loss(-aggregate(inputs.statistics[ENTROPY]))


def test_a_careless_term_is_named():
    with pytest.raises(AssertionError, match="test/careless: it reads only inputs that its needs declare"):
        check_term(Careless.Config())
