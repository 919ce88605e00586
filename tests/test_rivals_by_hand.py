"""The brute-force rivals against numbers worked by hand from the papers' formulas, each to six digits."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.distributions import Categorical, kl_divergence

import rivals_by_hand as by_hand


def one_response(logp: list[float], old: list[float], advantage: list[float]) -> by_hand.Batch:
    """A response whose tokens have given log-probabilities; of two ids, the first is always drawn."""
    logp_T = torch.tensor(logp, dtype=torch.float64)
    logits_TV = torch.stack([logp_T, (-logp_T.exp()).log1p()], dim=-1)
    return by_hand.Batch(
        logits_RTV=logits_TV[None].requires_grad_(),
        ids_RT=torch.zeros(1, len(logp), dtype=torch.long),
        mask_RT=torch.ones(1, len(logp), dtype=torch.bool),
        old_logp_RT=torch.tensor([old], dtype=torch.float64),
        advantage_RT=torch.tensor([advantage], dtype=torch.float64),
    )


def in_views(batch: by_hand.Batch, *others: by_hand.Batch) -> by_hand.Batch:
    return replace(batch, other_logits_VIEWS_RTV=tuple(other.logits_RTV for other in others))


@pytest.fixture
def five() -> by_hand.Batch:
    return one_response(
        logp=[-0.1, -2.0, -0.5, -0.2, -3.0],
        old=[-0.2, -1.8, -0.5, -0.4, -2.5],
        advantage=[1.0, 1.0, 1.0, -1.0, -1.0],
    )


def numbers(values: by_hand.Values) -> list[float]:
    return [value.item() for value in values.values()]


def approx(*expected: float) -> object:
    return pytest.approx(expected, abs=5e-7)


def test_kl_cov_adds_the_divergence_at_the_highest_covariance(five):
    assert list(by_hand.covariances(five).values()) == approx(0.848, -0.672, 0.528, -1.152, 2.208)
    losses = numbers(by_hand.kl_cov(five, share=0.3, coefficient=1.0))
    assert losses == approx(-1.105171, -0.818731, -1.0, 1.221403, 1.106531)


def test_the_candidates_of_clip_cov_lie_strictly_between_the_bounds(five):
    assert by_hand.clip_cov_candidates(five, low=0.2, high=5.0) == {(0, 0), (0, 2), (0, 4)}
    # The last one's ratio is .61 and its advantage negative: PPO has cut it.
    assert by_hand.clip_cov_candidates(five, low=0.2, high=5.0, clip=(0.2, 0.2)) == {(0, 0), (0, 2)}
    assert by_hand.clip_cov_candidates(five, low=0.848 + 1e-9, high=2.0) == set()


def test_cispo_weighs_the_log_probability_by_a_clipped_ratio(five):
    losses = by_hand.cispo(five, low=0.2, high=0.28)
    gradient_V = torch.autograd.grad(sum(losses.values()), five.logits_RTV)[0][0]
    weights = [-loss.item() / five.logp(token).item() for token, loss in losses.items()]
    assert weights == approx(1.105171, 0.818731, 1.0, -1.221403, -0.8)
    # d log p / d logit of the token itself is 1 - p, and the clipped ratio has no gradient.
    expected = [-w * (1 - five.logp(token).exp().item()) for w, token in zip(weights, losses, strict=True)]
    assert gradient_V[:, 0].tolist() == pytest.approx(expected)
    opened = by_hand.cispo(five, low=None, high=0.28)
    assert -opened[0, 4].item() / five.logp((0, 4)).item() == pytest.approx(-0.606531, abs=5e-7)


def test_sapo_has_the_gradient_of_the_ratio_at_ratio_one():
    batch = one_response(logp=[-1.0, -2.0], old=[-1.0, -2.0], advantage=[2.0, -3.0])
    losses = by_hand.sapo(batch, positive=1.0, negative=1.05)
    assert numbers(losses) == pytest.approx([-2.0 * 2.0, 3.0 * 2.0 / 1.05])
    (gradient,) = torch.autograd.grad(sum(losses.values()), batch.logits_RTV)
    plain = sum(-batch.advantage_RT[token] * batch.ratio(token) for token in batch.tokens())
    torch.testing.assert_close(gradient, torch.autograd.grad(plain, batch.logits_RTV)[0])


def test_steer_gives_the_largest_change_the_least_weight():
    weights = by_hand.steer(
        pi=[0.5, 0.9, 0.2], old=[0.5, 0.9, 0.2], entropy=[0.8, 0.3, 1.6], advantage=[1.0, 1.0, -1.0], lowest=0.8
    )
    assert weights == approx(0.8, 0.921922, 0.968957)
    # The authors' floor of .02 is below the largest change of .053426, and acts where changes are smaller.
    assert by_hand.steer([0.5], [0.5], [0.7], [1.0], lowest=0.8, floor=0.02) == approx(0.8 ** (0.5 * 0.0068528 / 0.02))


def test_forking_tokens_are_the_top_of_the_batch_or_of_each_response():
    entropy = {(0, 0): 0.1, (0, 1): 0.9, (0, 2): 0.3, (1, 0): 0.8, (1, 1): 0.7, (1, 2): 0.2}
    assert by_hand.forking_in_batch(entropy, 0.5) == {(0, 1), (1, 0), (1, 1)}
    assert by_hand.forking_in_response(entropy, 1 / 3) == {(0, 1), (1, 0)}
    assert by_hand.forking_in_batch(entropy, 0.2) == {(0, 1), (1, 0)}  # the ceiling of 1.2
    assert by_hand.above_quantile(entropy, 0.5) == {(0, 1), (1, 0)}


def test_vppo_keeps_the_most_sensitive_tokens_and_scales_responses_to_a_mean_of_one():
    sensitivity = {(0, 0): 0.0, (0, 1): 0.2, (1, 0): 0.5, (1, 1): 0.1, (2, 0): 0.4}
    # Means .1, .3, .4; scaled 0, 2/3, 1; the mean of .9 + s x is 1 where s = .1 / (5/9) = .18.
    expected = {(0, 0): 0.0, (0, 1): 0.9, (1, 0): 1.02, (1, 1): 0.0, (2, 0): 1.08}
    assert by_hand.vppo(sensitivity, share=0.4, lowest=0.9) == pytest.approx(expected, abs=1e-6)
    assert by_hand.k3(-1.0, -2.0) == pytest.approx(0.367879, abs=5e-7)


def test_entropy_shapes_advantages_up_to_a_share_of_themselves():
    assert by_hand.entropy_shaped(1.2, [0.1, 2.0, 0.7], 0.4, 2) == approx(1.24, 1.8, 1.48)
    assert by_hand.entropy_shaped(-0.5, [0.3, 1.5], 0.4, 2) == approx(-0.38, -0.25)


@pytest.mark.parametrize(("rewards", "expected"), [([0, 0, 0, 1], 0), ([0, 1, 1, 1], 1)])
@pytest.mark.parametrize("interpolated", [False, True])
def test_the_quantile_is_failure_on_hard_groups_and_success_on_easy_ones(rewards, expected, interpolated):
    if interpolated:
        torch_quantile = float(torch.quantile(torch.tensor(rewards, dtype=torch.float64), 0.4))
        assert by_hand.quantile_baseline(rewards, 0.4, interpolated=True) == pytest.approx(torch_quantile)
    else:
        assert by_hand.quantile_baseline(rewards, 0.4, interpolated=False) == expected


def test_the_two_quantiles_differ_at_seven_right_of_twelve():
    rewards = [0.0] * 5 + [1.0] * 7
    assert by_hand.quantile_baseline(rewards, 0.4, interpolated=True) == pytest.approx(0.4)
    assert by_hand.quantile_baseline(rewards, 0.4, interpolated=False) == 0.0


def test_pass_at_k():
    assert by_hand.pass_at_k([True] * 2 + [False] * 4, k=3) == approx(0.5, 0.5, *[-0.25] * 4)
    assert by_hand.pass_at_k([True] + [False] * 7, k=4) == approx(1.0, *[-0.142857] * 7)
    assert by_hand.pass_at_k([False] * 4, k=2) == by_hand.pass_at_k([True] * 4, k=2) == [0.0] * 4


def test_grpo_passk_rewards_the_lead_of_the_best():
    assert by_hand.grpo_passk([0.1, 1.0, 0.4, 0.4], scaled=False) == approx(0.0, 0.6, 0.0, 0.0)
    assert by_hand.grpo_passk([1.0, 1.0, 0.0], scaled=False) == [0.0, 0.0, 0.0]


def test_a_likelier_right_answer_earns_less():
    rewards = by_hand.unlikeliness([1, 1, 0, 1], [True, True, False, True], [-3.0, -9.0, -5.0, -1.0], beta=0.25)
    assert rewards == approx(0.8125, 0.9375, 0.0, 0.75)


def test_token_rewards_share_out_among_the_responses_that_still_run():
    entropy, right = [[3.0, 1.0], [1.0], [4.0, 1.0], [1.0, 4.0]], [True, True, False, False]
    rewards = by_hand.gtpo_rewards([1, 1, 0, 0], right, entropy, base=1.0, bonus=0.1, floor=0.0)
    # Right: .1 · 2 · 3/4; alone at the second token .1 · 1 · 1. Wrong: 1/4 of 5/4 at the first token.
    expected = [[1.15, 1.1], [1.05], [-1.04, -1.16], [-1.16, -1.04]]
    assert [row == pytest.approx(own) for row, own in zip(rewards, expected, strict=True)] == [True] * 4
    means = by_hand.grpo_s_rewards([1, 1, 0, 0], right, entropy, base=1.0, bonus=0.1, floor=0.0)
    assert means == approx(1.133333, 1.066667, -1.1, -1.1)
    apart = by_hand.normalised_rows([[1.0, 3.0], [2.0], [5.0, 5.0]], [1, 1, 0])
    assert apart == [pytest.approx([-1.0, 1.0], abs=2e-4), [0.0], [0.0, 0.0]]


def test_trust_moves_from_the_rewards_to_the_prior_where_rewards_agree():
    noise = [0.0, 0.3, 0.6, 0.9]
    by_noise = by_hand.normalised([1 - level for level in noise])
    assert by_hand.trust([1.0, 1.0, 1.0, 1.0], noise, alpha=0.01, observation=0.1) == pytest.approx(by_noise, abs=3e-4)
    # σ² = 1/3, P = .029126, K = .225564: (.866, .866, -.866, -.866) and (1.162, .387, -.387, -1.162) fused.
    posterior = [0.932532, 0.757899, -0.757899, -0.932532]
    scaled = by_hand.normalised(posterior)
    assert by_hand.trust([1.0, 1.0, 0.0, 0.0], noise, alpha=0.01, observation=0.1) == pytest.approx(scaled, abs=3e-4)


def test_vogue_adds_the_mean_of_both_divergences():
    p, q = torch.tensor([0.5, 0.5], dtype=torch.float64).log(), torch.tensor([0.8, 0.2], dtype=torch.float64).log()
    assert float(by_hand.symmetric_kl(p, q)) == pytest.approx(0.207944, abs=5e-7)
    assert by_hand.vogue(-1.0, [0.207944, 0.9], alpha=1.0, beta=2.0) == approx(-0.792056, -0.5)


def test_the_adaptive_coefficient_rises_below_its_target_and_acts_only_there():
    measured = [0.3, 0.19, 0.1, 0.15, 0.25, 0.05]
    series = by_hand.adaptive_coefficients(measured, target=0.2, delta=1e-4, highest=5e-3)
    assert [value for value, _ in series] == approx(0.0, 0.0001, 0.0002, 0.0003, 0.0002, 0.0003)
    assert [applied for _, applied in series] == approx(0.0, 0.0001, 0.0002, 0.0003, 0.0, 0.0003)
    assert by_hand.adaptive_coefficients([0.1] * 9, 0.2, 0.3, 0.5)[-1] == (0.5, 0.5)
    falling = by_hand.adaptive_coefficients([0.3, 0.3], lambda step: 0.4 - 0.2 * step, 0.1, 1.0)
    assert falling == [(0.1, 0.1), (0.0, 0.0)]


def test_clamped_and_nucleus_entropy_renormalise_what_they_keep():
    logits_V = torch.tensor([0.5, 0.25, 0.15, 0.1], dtype=torch.float64).log()
    assert by_hand.clamped_ids(logits_V, 0.3) == [0, 1, 2]
    assert by_hand.nucleus_ids(logits_V, 0.8, 10, crossing=True) == [0, 1, 2]
    assert by_hand.nucleus_ids(logits_V, 0.8, 10, crossing=False) == [0, 1]
    assert by_hand.nucleus_ids(logits_V, 0.8, 1, crossing=True) == [0]
    # (1/2, 1/4, 3/20) of 9/10.
    assert float(by_hand.entropy_of(logits_V, [0, 1, 2])) == pytest.approx(0.980990, abs=5e-7)
    assert float(by_hand.entropy_of(logits_V, [0, 1])) == pytest.approx(0.636514, abs=5e-7)
    assert float(by_hand.entropy_of(logits_V, [])) == 0.0


def test_papo_raises_the_divergence_from_the_masked_image():
    batch = one_response(logp=[-1.0, -0.5], old=[-1.0, -0.5], advantage=[1.0, 1.0])
    masked = one_response(logp=[-2.0, -0.5], old=[-1.0, -0.5], advantage=[1.0, 1.0])
    looked_at = in_views(batch, masked)
    assert [by_hand.papo_at(looked_at, token).item() for token in batch.tokens()] == approx(0.367879, 0.0)
    assert by_hand.papo_at(looked_at, (0, 0), 0.2).item() == pytest.approx(0.2)


def test_roma_takes_the_worst_view_of_right_responses():
    batch = one_response(logp=[-1.0, -0.5], old=[-1.0, -0.5], advantage=[2.0, 2.0])
    degraded = [one_response(logp=logp, old=[0.0] * 2, advantage=[0.0] * 2) for logp in ([-2.0, -0.5], [-1.0, -3.0])]
    looked_at = in_views(batch, *degraded)
    settings = {"divergence": 1.0, "policy_gradient": 0.0, "auxiliary": {0: 0}, "clean_gradient": False}
    # d is -1 and 0 in the first view, 0 and -2.5 in the second: e^-1 and e^-2.5 + 1.5.
    values = by_hand.roma(looked_at, [True], worst_of="token", **settings)
    assert numbers(values) == approx(0.367879, 1.582085)
    values = by_hand.roma(looked_at, [True], worst_of="response", **settings)
    assert numbers(values) == approx(0.0, 1.582085)
    values = by_hand.roma(
        looked_at, [True], divergence=0.0, policy_gradient=0.5, auxiliary={0: 1}, worst_of="token", clean_gradient=False
    )
    assert numbers(values) == approx(1.0, 3.0)
    assert numbers(by_hand.roma(looked_at, [False], worst_of="token", **settings)) == [0.0, 0.0]


def test_the_full_divergence_is_that_of_torch():
    batch = one_response(logp=[-1.0, -0.5], old=[-1.0, -0.5], advantage=[1.0, 1.0])
    other = one_response(logp=[-2.0, -0.1], old=[-1.0, -0.5], advantage=[1.0, 1.0])
    ours = [by_hand.full_kl(in_views(batch, other), token, 0, other_fixed=True).item() for token in batch.tokens()]
    expected = kl_divergence(Categorical(logits=batch.logits_RTV[0]), Categorical(logits=other.logits_RTV[0]))
    assert ours == pytest.approx(expected.tolist(), abs=1e-12)


def test_the_means_over_tokens_and_responses_differ_by_length():
    values = {(0, 0): torch.tensor(1.0), (0, 1): torch.tensor(3.0), (2, 0): torch.tensor(6.0)}
    assert float(by_hand.by_token(values)) == pytest.approx(10 / 3)
    assert float(by_hand.by_response(values, 4)) == pytest.approx((2 + 6) / 4)
