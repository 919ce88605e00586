"""Advantages: hand-worked cases, edge cases, and what the pooled baseline does to the gradient."""

import itertools
import statistics
from dataclasses import replace
from typing import Literal

import pytest
import torch
from torch.distributions import Categorical, kl_divergence

from saei.config.strategy import StrategyConfig
from saei.errors import TrainingError
from saei.objectives.advantages.base import Advantage, train_group
from saei.objectives.advantages.group_relative import GroupRelative
from saei.objectives.base import ObjectiveInput
from saei.objectives.grpo import GRPO
from saei.types import Example, Grade, Group, Response, ScoredGroup, View

BASELINES = ["pooled", "per-origin", "leave-one-out"]
SCALES = ["group", "per-origin", "batch", "none"]


def scored(clean, adversarial=()):
    """Return a group with these rewards, clean responses first."""
    example = Example(id="0", question="", answer="")
    nothing = torch.zeros(1, 0, dtype=torch.long)
    views = tuple(View(example, origin, nothing[0], nothing) for origin in ("clean", "adversarial"))
    group = Group(
        example,
        views,
        responses=(),
        sampled_from=(0,) * len(clean) + (1,) * len(adversarial),
        updated_on=(0,) * (len(clean) + len(adversarial)),
    )
    return ScoredGroup(group, tuple(Grade(reward, correct=reward > 0.5) for reward in (*clean, *adversarial)))


def of(groups, baseline, scale):
    return [list(group.advantages) for group in trained(groups, GroupRelative.Config(baseline=baseline, scale=scale))]


def trained(groups, config):
    rewards = [reward for group in groups for reward in group.rewards]
    return [train_group(group, config.build(), rewards) for group in groups]


@pytest.mark.parametrize(
    ("baseline", "expected"),
    [
        ("pooled", [2.0, -2.0, 3.0, -1.0, -2.0]),  # mean 2
        ("per-origin", [2.0, -2.0, 3.0, -1.0, -2.0]),  # means 2 and 2
        ("leave-one-out", [2.5, -2.5, 3.75, -1.25, -2.5]),  # means of the others 1.5, 2.5, 1.25, 2.25, 2.5
    ],
)
def test_baselines_by_hand_where_the_origins_agree(baseline, expected):
    assert of([scored([4.0, 0.0], [5.0, 1.0, 0.0])], baseline, "none") == [pytest.approx(expected, abs=1e-15)]


@pytest.mark.parametrize(
    ("baseline", "expected"),
    [
        ("pooled", [2.0, 0.0, -1.0, -1.0]),  # mean 2
        ("per-origin", [1.0, -1.0, 0.0, 0.0]),  # means 3 and 1
        ("leave-one-out", [8 / 3, 0.0, -4 / 3, -4 / 3]),  # means of the others 4/3, 2, 7/3, 7/3
    ],
)
def test_baselines_by_hand_where_the_origins_differ(baseline, expected):
    assert of([scored([4.0, 2.0], [1.0, 1.0])], baseline, "none") == [pytest.approx(expected, abs=1e-15)]


def test_scales_by_hand():
    groups = [scored([4.0, 0.0], [3.0, 1.0]), scored([8.0, 8.0], [8.0, 0.0])]
    first, second = groups
    deviation = statistics.stdev
    clean, adversarial = deviation([4.0, 0.0]) + 1e-4, deviation([3.0, 1.0]) + 1e-4
    whole = deviation([*first.rewards, *second.rewards]) + 1e-4
    expected = {
        "none": [2.0, -2.0, 1.0, -1.0],
        "group": [x / (deviation(first.rewards) + 1e-4) for x in (2.0, -2.0, 1.0, -1.0)],
        "per-origin": [2.0 / clean, -2.0 / clean, 1.0 / adversarial, -1.0 / adversarial],
        "batch": [x / whole for x in (2.0, -2.0, 1.0, -1.0)],
    }
    for scale, row in expected.items():
        assert of(groups, "pooled", scale)[0] == pytest.approx(row, abs=1e-14), scale


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("baseline", BASELINES)
def test_equal_rewards_have_advantage_exactly_zero(baseline, scale):
    # 0.9 and 0.1 are no binary fractions: a plain mean of them is off by a rounding, which 1e-4 would magnify.
    rows = of([scored([0.9] * 6, [0.9] * 5), scored([0.1] * 3), scored([0.7], [0.7])], baseline, scale)
    assert rows == [[0.0] * 11, [0.0] * 3, [0.0] * 2]


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("baseline", BASELINES)
def test_a_group_of_one_response_has_advantage_zero(baseline, scale):
    assert of([scored([0.3])], baseline, scale) == [[0.0]]


def test_a_response_alone_of_its_origin():
    group = scored([1.0, 0.0, 0.0], [1.0])
    assert of([group], "per-origin", "none")[0][3] == 0.0
    assert of([group], "pooled", "none")[0][3] == 0.5
    assert of([group], "pooled", "per-origin")[0][3] == 0.5 / (statistics.stdev(group.rewards) + 1e-4)


def test_an_origin_without_spread_is_scaled_by_the_group():
    # The plain standard deviation of three times 0.1 is not 0 but a rounding.
    group = scored([0.9, 0.9, 0.9], [0.1, 0.1, 0.1])
    expected = 0.4 / (statistics.stdev(group.rewards) + 1e-4)
    assert of([group], "pooled", "per-origin") == [pytest.approx([expected] * 3 + [-expected] * 3, abs=1e-14)]


def test_groups_keep_their_order_and_their_scores():
    groups = [scored([1.0, 0.0]), scored([0.0, 1.0, 1.0])]
    assert [train.scored for train in trained(groups, GroupRelative.Config())] == groups


CLEAN_LOGITS = torch.tensor([0.4, -0.3, 0.9], dtype=torch.float64)
ADVERSARIAL = Categorical(logits=torch.tensor([-0.5, 0.8, 0.1], dtype=torch.float64))


def expected_gradient(reward, n_clean, n_adversarial, baseline):
    """Return the exact expectation of minus GRPO's gradient at its first update, by enumerating all draws.

    The policy is one softmax over three one-token responses; ``reward(origin, response)`` is what they earn.
    """
    logits = CLEAN_LOGITS.clone().requires_grad_()
    clean = Categorical(logits=logits)
    old = clean.logits.detach()
    objective = GRPO.Config(advantage=GroupRelative.Config(baseline=baseline, scale="none")).build()
    n = n_clean + n_adversarial
    origins = ["clean"] * n_clean + ["adversarial"] * n_adversarial
    expectation = torch.zeros((), dtype=torch.float64)
    for draw in itertools.product(range(3), repeat=n):
        responses = torch.tensor(draw)
        rewards = [reward(origin, response) for origin, response in zip(origins, draw, strict=True)]
        [group] = trained([scored(rewards[:n_clean], rewards[n_clean:])], objective.config.advantage)
        behaviour = torch.cat([old[responses[:n_clean]], ADVERSARIAL.logits[responses[n_clean:]]])
        mask = torch.ones(n, 1, dtype=torch.bool)
        loss = objective.loss(
            ObjectiveInput(
                logp_RT=clean.log_prob(responses)[:, None],
                old_logp_RT=old[responses][:, None],
                behaviour_logp_RT=behaviour[:, None],
                mask_RT=mask,
                selected_RT=mask,
                advantage_RT=torch.tensor(group.advantages, dtype=torch.float64)[:, None],
                truncated_R=torch.zeros(n, dtype=torch.bool),
                off_view_R=torch.tensor([origin != "clean" for origin in origins]),
                beta_R=torch.zeros(n, dtype=torch.float64),
                cap_R=torch.full((n,), 2.0, dtype=torch.float64),
                n_responses=n,
                n_tokens=n,
                n_selected=n,
                max_new_tokens=1,
            )
        )
        expectation = expectation + behaviour.sum().exp() * loss.value
    return -torch.autograd.grad(expectation, logits)[0]


def exact_parts(reward):
    """Return G_c, C_a, Δ and the gradient of KL(π_adv || π_clean) with respect to the clean policy."""
    logits = CLEAN_LOGITS.clone().requires_grad_()
    clean = Categorical(logits=logits)
    [kl_gradient] = torch.autograd.grad(kl_divergence(ADVERSARIAL, clean), logits, retain_graph=True)
    clean_rewards = torch.tensor([reward("clean", v) for v in range(3)], dtype=torch.float64)
    adversarial_rewards = torch.tensor([reward("adversarial", v) for v in range(3)], dtype=torch.float64)
    clean_mean = (clean.probs.detach() * clean_rewards).sum()
    adversarial_mean = (ADVERSARIAL.probs * adversarial_rewards).sum()
    clean_part = (clean.probs.detach() * (clean_rewards - clean_mean) * clean.logits).sum()
    adversarial_part = (ADVERSARIAL.probs * (adversarial_rewards - adversarial_mean) * clean.logits).sum()
    return (
        torch.autograd.grad(clean_part, logits, retain_graph=True)[0],
        torch.autograd.grad(adversarial_part, logits)[0],
        clean_mean - adversarial_mean,
        kl_gradient,
    )


SIZES = [(2, 2), (3, 3), (3, 1), (1, 2)]


def response_reward(origin, response):
    return [1.0, 0.1, 0.4][response] if origin == "clean" else [0.2, 0.9, -0.3][response]


def origin_reward(origin, response):
    return 0.8 if origin == "clean" else 0.3


@pytest.mark.parametrize(("n_clean", "n_adversarial"), SIZES)
@pytest.mark.parametrize("reward", [response_reward, origin_reward])
def test_the_pooled_baseline_pushes_away_from_the_adversarial_view(reward, n_clean, n_adversarial):
    """The identity, for an update on the clean view and no scaling.

    Let n_c responses be drawn from π_c (clean) and n_a from π_a (adversarial), N = n_c + n_a, and write
    s(y) = ∇log π_c(y), μ for the mean rewards of the origins, Δ = μ_c - μ_a. At the first update the ratio is 1,
    and the ascent direction is g = (1/N) Σ_i (r_i - b_i) s(y_i). Two expectations matter: E_c[s] = 0, and
    S = E_a[s] = -∇KL(π_a || π_c), the gradient taken with respect to π_c only.

    The pooled mean contains r_i itself. For a clean response the other rewards are independent of s(y_i), whose
    mean is 0, so only the own reward counts: E[(r_i - r̄) s_i] = (1 - 1/N) G_c with G_c = Cov_c(r, s). For an
    adversarial one, with M = E_a[r s] = C_a + μ_a S and C_a = Cov_a(r, s):

        E[(r_i - r̄) s_i] = M - (M + (n_a - 1) μ_a S + n_c μ_c S) / N
                         = (1 - 1/N) C_a + (n_c / N) (μ_a - μ_c) S
                         = (1 - 1/N) C_a + (n_c / N) Δ ∇KL(π_a || π_c).

    With n_c = n_a each adversarial response thus adds (Δ/2) ∇KL, exactly, at any n; the mean over the group adds
    (n_a / N) of it, (Δ/4) ∇KL. If the clean view earns more, ascent raises the KL: the policy moves away from
    what the adversarial view made likely, whether or not the reward depends on the response.
    A baseline per origin leaves (1 - 1/n_c) G_c and (1 - 1/n_a) C_a and nothing else. Leaving one out is the
    pooled difference times N / (N - 1), term by term.
    """
    n = n_clean + n_adversarial
    clean_part, adversarial_part, delta, kl_gradient = exact_parts(reward)
    pooled = expected_gradient(reward, n_clean, n_adversarial, "pooled")
    covariances = (1 - 1 / n) * (n_clean * clean_part + n_adversarial * adversarial_part) / n
    extra = n_adversarial / n * (n_clean / n) * delta * kl_gradient
    assert extra.abs().max() > 1e-3
    torch.testing.assert_close(pooled, covariances + extra, rtol=1e-12, atol=1e-14)
    if n_clean == n_adversarial:
        torch.testing.assert_close(n / n_adversarial * extra, delta / 2 * kl_gradient, rtol=1e-12, atol=1e-14)

    per_origin = expected_gradient(reward, n_clean, n_adversarial, "per-origin")
    remaining = ((n_clean - 1) * clean_part + (n_adversarial - 1) * adversarial_part) / n
    torch.testing.assert_close(per_origin, remaining, rtol=1e-12, atol=1e-14)
    leave_one_out = expected_gradient(reward, n_clean, n_adversarial, "leave-one-out")
    torch.testing.assert_close(leave_one_out, n / (n - 1) * pooled, rtol=1e-12, atol=1e-14)


def test_rewards_that_ignore_the_response_teach_nothing_per_origin():
    assert expected_gradient(origin_reward, 2, 2, "per-origin").abs().max() == 0.0
    assert expected_gradient(origin_reward, 2, 2, "pooled").abs().max() > 1e-3


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([0.5], "1 for 2 responses"),
        ([0.5, torch.zeros(3)], "1 per token"),
        ([torch.zeros(3), torch.zeros(4)], r"\[4\] for a response of 3 tokens"),
    ],
)
def test_a_wrong_number_of_advantages_is_refused(values, reason):
    class Wrong(Advantage):
        class Config(StrategyConfig):
            type: Literal["mine/wrong"] = "mine/wrong"

        config: Config

        def estimate(self, scored, rewards):
            return values

    numbers = torch.zeros(3)
    responses = (Response(torch.zeros(3, dtype=torch.long), "", numbers, numbers, truncated=False),) * 2
    pair = scored([1.0, 0.0])
    pair = ScoredGroup(replace(pair.group, responses=responses), pair.grades)
    with pytest.raises(TrainingError, match=reason):
        train_group(pair, Wrong(), [1.0, 0.0])
