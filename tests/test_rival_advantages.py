"""Advantages of rival methods: cases worked by hand, each of which the most similar strategy would fail."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import Tensor

from saei.config.registry import load
from saei.config.strategy import StrategyConfig
from saei.objectives.advantages.base import Advantage
from saei.objectives.advantages.unlikeliness import Unlikeliness
from saei.objectives.advantages.vogue import DIVERGENCE
from saei.types import Example, Grade, Group, Response, ScoredGroup, View, ViewRecord

PLAIN = {"type": "group-relative", "scale": "none"}


def build(name: str, **fields: Any) -> Advantage:
    config: StrategyConfig = load("advantage", name).Config.model_validate(fields)
    built: Advantage = config.build()
    return built


def group(
    rewards: Sequence[float],
    *,
    right: Sequence[bool] | None = None,
    entropies: Sequence[Sequence[float]] | None = None,
    logps: Sequence[float] | None = None,
    views: Sequence[int] | None = None,
    levels: Sequence[float] = (0.5,),
) -> ScoredGroup:
    """A group with these rewards; an answer is right if it earns more than half, and has two tokens if nothing is said.

    A log-probability is the whole response's. ``views`` says which view each response is from, ``levels`` how strongly
    the views but the first were moved.
    """
    n = len(rewards)
    entropies = entropies or [(0.5, 1.5)] * n
    logps = logps or [-1.0] * n
    responses = tuple(
        Response(
            torch.zeros(len(values), dtype=torch.long),
            "",
            torch.full((len(values),), logp / max(1, len(values))),
            torch.tensor(values),
            truncated=False,
        )
        for values, logp in zip(entropies, logps, strict=True)
    )
    example, nothing = Example("0", "", ""), torch.zeros(1, 0, dtype=torch.long)
    made = tuple(View(example, f"view {number}", nothing[0], nothing) for number in range(1 + len(levels)))
    drawn = tuple(views or (0,) * n)
    records = tuple(ViewRecord(seed=0, strength=level, distances={}) for level in levels)
    right = [reward > 0.5 for reward in rewards] if right is None else right
    grades = tuple(Grade(reward, correct=bool(each)) for reward, each in zip(rewards, right, strict=True))
    return ScoredGroup(Group(example, made, responses, drawn, drawn, records=records), grades)


def of(advantage: Advantage, scored: ScoredGroup) -> list[Any]:
    """The advantages, those of tokens as lists."""
    values = advantage.estimate(scored, scored.rewards)
    return [value.tolist() if isinstance(value, Tensor) else value for value in values]


# --- entropy-shaped


def test_entropy_shaped_by_hand() -> None:
    class Given(Advantage):
        def estimate(self, scored: ScoredGroup, rewards: Sequence[float]) -> list[float]:
            return [1.2, -0.5]

    shaped = build("entropy-shaped")
    shaped.of = Given.__new__(Given)  # type: ignore[attr-defined]
    entropies = [[0.1, 2.0, 0.7], [0.3, 1.5]]
    high, low = of(shaped, group([1.0, 0.0], entropies=entropies))
    assert high == pytest.approx([1.24, 1.8, 1.48], abs=1e-6)
    assert low == pytest.approx([-0.38, -0.25], abs=1e-6)


def test_entropy_shaped_changes_an_advantage_per_token_too() -> None:
    inner = build("entropy-shaped", of=PLAIN)
    twice = build("entropy-shaped", of={"type": "entropy-shaped", "of": PLAIN})
    scored = group([1.0, 0.0], entropies=[[0.5, 0.0], [0.25, 4.0]])
    assert of(inner, scored) == [pytest.approx([0.7, 0.5]), pytest.approx([-0.4, -0.25])]
    assert of(twice, scored) == [pytest.approx([0.9, 0.5]), pytest.approx([-0.3, -0.125])]


# --- quantile


@pytest.mark.parametrize("method", ["interpolated", "order-statistic"])
def test_the_quantile_by_hand(method: str) -> None:
    quantile = build("quantile", method=method, scale="none")
    assert of(quantile, group([0, 0, 0, 1])) == [0, 0, 0, 1]  # a hard group reinforces its success alone
    assert of(quantile, group([0, 1, 1, 1])) == [-1, 0, 0, 0]  # an easy one punishes its failure alone


def test_the_two_quantiles_differ() -> None:
    seven_of_twelve = group([1] * 7 + [0] * 5)
    interpolated = of(build("quantile", scale="none"), seven_of_twelve)
    assert interpolated == pytest.approx([0.6] * 7 + [-0.4] * 5, abs=1e-12)
    assert of(build("quantile", scale="none", method="order-statistic"), seven_of_twelve) == [1] * 7 + [0] * 5


@pytest.mark.parametrize("share", ["0", "1/3", "2/5", "1/2", "9/10", "1"])
def test_the_interpolated_quantile_is_torchs(share: str) -> None:
    for right in range(8):
        correct = torch.tensor([1.0] * right + [0.0] * (7 - right), dtype=torch.float64)
        expected = correct - torch.quantile(correct, float(Fraction(share)))
        found = of(build("quantile", quantile=share, scale="none"), group(correct.tolist()))
        assert found == pytest.approx(expected.tolist(), abs=1e-12)


def test_the_order_statistic_takes_the_share_exactly() -> None:
    """7/100 of a hundred is seven of them; in floating point it is more, and the eighth would be taken."""
    scored = group([0] * 7 + [1] * 93)
    found = of(build("quantile", quantile="7/100", method="order-statistic", scale="none"), scored)
    assert found == [0] * 7 + [1] * 93


def test_the_quantile_looks_at_correctness_and_is_scaled() -> None:
    scored = group([0.1, 0.0, 0.1, 1.0])
    spread = statistics.stdev([0, 0, 0, 1]) + 1e-4
    assert of(build("quantile"), scored) == pytest.approx([0, 0, 0, 1 / spread], abs=1e-12)
    assert of(build("quantile"), group([0.1, 0.0, 0.1])) == [0, 0, 0]


# --- pass-at-k, grpo-passk


@pytest.mark.parametrize(
    ("n", "right", "k", "of_right", "of_wrong"), [(6, 2, 3, 0.5, -0.25), (8, 1, 4, 1.0, -0.142857)]
)
def test_pass_at_k_by_hand(n: int, right: int, k: int, of_right: float, of_wrong: float) -> None:
    found = of(build("pass-at-k", k=k), group([1.0] * right + [0.1] * (n - right)))
    assert found == pytest.approx([of_right] * right + [of_wrong] * (n - right), abs=1e-6)


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_pass_at_k_is_a_mean_over_all_sets(k: int) -> None:
    rewards = [1.0, 0.0, 0.1, 0.9, 0.0]
    sets = list(itertools.combinations(range(len(rewards)), k))
    success = {chosen: float(any(rewards[n] > 0.5 for n in chosen)) for chosen in sets}
    mean, spread = statistics.fmean(success.values()), statistics.pstdev(success.values())
    expected = [
        statistics.fmean((success[chosen] - mean) / spread for chosen in sets if n in chosen) if spread else 0.0
        for n in range(len(rewards))
    ]
    assert of(build("pass-at-k", k=k), group(rewards)) == pytest.approx(expected, abs=1e-12)


def test_pass_at_k_of_a_group_that_a_guard_left_too_small() -> None:
    assert of(build("pass-at-k", k=4), group([1.0, 0.0, 0.0])) == [0, 0, 0]


def test_grpo_passk_by_hand() -> None:
    assert of(build("grpo-passk"), group([0.1, 1.0, 0.4, 0.4])) == pytest.approx([0, 0.6, 0, 0], abs=1e-12)
    assert of(build("grpo-passk"), group([1.0, 0.1, 1.0])) == [0, 0, 0]
    assert of(build("grpo-passk"), group([0.7])) == [0]
    scaled = of(build("grpo-passk", scale="group"), group([0.1, 1.0, 0.4, 0.4]))
    assert scaled == pytest.approx([0, 0.6 / (statistics.stdev([0.1, 1.0, 0.4, 0.4]) + 1e-4), 0, 0], abs=1e-12)


# --- unlikeliness


def test_unlikeliness_by_hand() -> None:
    scored = group([1.0, 1.0, 0.0, 1.0], logps=[-3.0, -9.0, -5.0, -1.0])
    unlikeliness = build("unlikeliness", of=PLAIN)
    assert isinstance(unlikeliness, Unlikeliness)
    assert unlikeliness.rewarded(scored).rewards == (0.8125, 0.9375, 0.0, 0.75)
    assert of(unlikeliness, scored) == pytest.approx([0.1875, 0.3125, -0.625, 0.125], abs=1e-12)


def test_unlikeliness_ranks_whole_responses_and_keeps_a_reward_for_the_format() -> None:
    # Per token the first is the likelier: -0.5 against -1; as a whole it is the less likely: -3 against -2.
    scored = group([0.9, 1.0, 0.1], entropies=[[1.0] * 6, [1.0] * 2, [1.0]], logps=[-3.0, -2.0, -50.0])
    unlikeliness = build("unlikeliness", beta=0.3)
    assert isinstance(unlikeliness, Unlikeliness)
    assert unlikeliness.rewarded(scored).rewards == pytest.approx((0.9 * 0.8, 1.0 * 0.7, 0.1), abs=1e-12)


def test_unlikeliness_teaches_where_all_are_right() -> None:
    found = of(build("unlikeliness"), group([1.0, 1.0, 1.0], logps=[-2.0, -1.0, -3.0]))
    assert found[2] > found[0] > found[1]


def test_unlikeliness_ranks_across_origins() -> None:
    apart = {"baseline": "per-origin", "scale": "none"}
    assert not build("group-relative", **apart).mixes_origins
    assert build("unlikeliness", of=apart).mixes_origins


def test_unlikeliness_does_not_know_the_scale_of_a_step() -> None:
    with pytest.raises(ValueError, match=r"of\.scale is batch"):
        build("unlikeliness", of={"scale": "batch"})


# --- gtpo, grpo-s

ENTROPIES = [[0.1, 0.6], [0.3], [0.5, 0.0005, 1.0], [0.25]]
"""Two right answers with two tokens and one, two wrong ones with three and one."""


def test_gtpo_by_hand() -> None:
    scored = group([1.0, 0.9, 0.1, 0.0], entropies=ENTROPIES)
    right, short_right, wrong, short_wrong = of(build("gtpo", normalise="none"), scored)
    # At the first position two right answers have tokens, 2 · .1 / .4 = .5; at the second one alone, 1 · .6 / .6.
    assert right == pytest.approx([1.0 + 0.1 * 0.5, 1.0 + 0.1 * 1.0], abs=1e-6)
    assert short_right == pytest.approx([0.9 + 0.1 * 1.5], abs=1e-6)
    # 1/.5 = 2 and 1/.25 = 4: shares of 2 · 2/6 and 2 · 4/6.
    assert wrong == pytest.approx([-1.0 - 0.1 * 2 / 3, -1.1, -1.1], abs=1e-6)
    assert short_wrong == pytest.approx([-1.0 - 0.1 * 4 / 3], abs=1e-6)


def test_gtpo_has_a_floor_under_small_entropies() -> None:
    scored = group([1.0, 0.0, 0.0], entropies=[[0.5], [0.0], [0.006]])
    [_, [certain], [less]] = of(build("gtpo", normalise="none"), scored)
    # 1/.002 = 500 and 1/.006 = 166.7: shares of 2 · 3/4 and 2 · 1/4; without a floor the first would be all of it.
    assert (certain, less) == pytest.approx((-1.15, -1.05), abs=1e-6)


def test_gtpo_normalises_over_all_tokens_of_the_group_or_of_a_side() -> None:
    scored = group([1.0, 0.9, 0.1, 0.0], entropies=ENTROPIES)
    rewards = of(build("gtpo", normalise="none"), scored)
    flat = list(itertools.chain(*rewards))
    mean, spread = statistics.fmean(flat), statistics.stdev(flat) + 1e-4
    together = of(build("gtpo"), scored)
    assert list(itertools.chain(*together)) == pytest.approx([(each - mean) / spread for each in flat], abs=1e-5)
    apart = of(build("gtpo", normalise="apart"), scored)
    for side in (slice(0, 2), slice(2, 4)):
        values = list(itertools.chain(*rewards[side]))
        mean, spread = statistics.fmean(values), statistics.stdev(values) + 1e-4
        expected = [(each - mean) / spread for each in values]
        assert list(itertools.chain(*apart[side])) == pytest.approx(expected, abs=1e-4)


def test_grpo_s_by_hand() -> None:
    scored = group([1.0, 0.9, 0.1, 0.0], entropies=[[0.1, 0.5], [0.1], [0.5, 0.25, 0.75], [0.25]])
    # Means .3, .1, .5, .25: shares of 2 · .3/.4 and 2 · .1/.4; 1/.5 = 2 and 1/.25 = 4 give 2 · 2/6 and 2 · 4/6.
    expected = [1.0 + 0.1 * 1.5, 0.9 + 0.1 * 0.5, -1.0 - 0.1 * 2 / 3, -1.0 - 0.1 * 4 / 3]
    assert of(build("grpo-s", normalise="none"), scored) == pytest.approx(expected, abs=1e-6)
    mean, spread = statistics.fmean(expected), statistics.stdev(expected) + 1e-4
    assert of(build("grpo-s"), scored) == pytest.approx([(each - mean) / spread for each in expected], abs=1e-5)


@pytest.mark.parametrize("name", ["gtpo", "grpo-s"])
@pytest.mark.parametrize("rewards", [[1.0, 0.9], [0.1, 0.0]])
def test_entropies_alone_teach_nothing(name: str, rewards: list[float]) -> None:
    found = of(build(name), group(rewards, entropies=[[0.1, 2.0], [0.3]]))
    assert found == ([[0.0, 0.0], [0.0]] if name == "gtpo" else [0.0, 0.0])


# --- trust


def test_trust_by_hand() -> None:
    """Four responses of levels 0, .3, .6 and .9; the noisiest is right by luck."""
    scored = group([1.0, 0.0, 0.0, 1.0], views=(0, 1, 2, 3), levels=(0.3, 0.6, 0.9))
    spread = statistics.stdev([1.0, 0.0, 0.0, 1.0])
    observed = [0.5 / (spread + 1e-4) * sign for sign in (1, -1, -1, 1)]
    level_spread = statistics.stdev([0.0, 0.3, 0.6, 0.9]) + 1e-4
    prior = [each / level_spread for each in (0.45, 0.15, -0.15, -0.45)]
    variance = 0.01 / (spread**2 + 0.01)
    weight = variance / (variance + 0.1)
    posterior = [z + weight * (p - z) for z, p in zip(observed, prior, strict=True)]
    mean, posterior_spread = statistics.fmean(posterior), statistics.stdev(posterior) + 1e-4
    expected = [(each - mean) / posterior_spread for each in posterior]
    assert weight == pytest.approx(0.2256, abs=5e-5)
    found = of(build("trust"), scored)
    assert found == pytest.approx(expected, abs=1e-12)
    assert found[0] > found[3] > found[1] > found[2]


def test_trust_prefers_cleaner_views_where_rewards_tell_nothing() -> None:
    found = of(build("trust"), group([1.0] * 4, views=(0, 1, 2, 3), levels=(0.3, 0.6, 0.9)))
    assert found == sorted(found, reverse=True)
    assert found[0] > 1
    assert of(build("trust"), group([1.0] * 3, levels=(0.3,))) == [0, 0, 0]


def test_trust_believes_the_rewards_of_one_view() -> None:
    scored = group([1.0, 0.0, 0.4], levels=())
    assert of(build("trust"), scored) == pytest.approx(of(build("group-relative"), scored), abs=1e-3)


# --- vogue


def diverging(scored: ScoredGroup, divergence_NT: list[list[float]]) -> ScoredGroup:
    return ScoredGroup(scored.group, scored.grades, {DIVERGENCE: torch.tensor(divergence_NT)})


def test_vogue_by_hand() -> None:
    entropies = [[0.1, 0.1], [0.1, 0.1], [0.1, 0.1], [0.1]]
    scored = group([1.0, 0.0, 1.0, 0.0], entropies=entropies, views=(0, 0, 1, 1))
    scored = diverging(scored, [[9.0, 9.0], [9.0, 9.0], [0.1, 0.2], [3.0, 0.0]])
    # Differences to the origin's mean are ±.5; a mean divergence of .15 adds as much, one of 3 half of the advantage.
    plain = {"of": {"scale": "none"}}
    assert of(build("vogue", **plain), scored) == pytest.approx([0.5, -0.5, 0.65, -0.25], abs=1e-6)
    assert of(build("vogue", alpha=0.5, kappa=5.0, **plain), scored) == pytest.approx(
        [0.5, -0.5, 0.575, -0.4], abs=1e-6
    )
    per_token = of(build("vogue", level="token", **plain), scored)
    assert per_token == [[0.5, 0.5], [-0.5, -0.5], pytest.approx([0.6, 0.7]), pytest.approx([-0.25])]


def test_a_divergence_that_rounding_brings_below_zero_counts_as_zero() -> None:
    """The mean of 0 and .2, where -.1 would take a half of it away."""
    scored = diverging(group([1.0, 0.0], views=(1, 1)), [[-0.1, 0.2], [-0.1, -0.1]])
    assert of(build("vogue", of={"scale": "none"}), scored) == pytest.approx([0.6, -0.5], abs=1e-6)
    per_token = of(build("vogue", of={"scale": "none"}, level="token"), scored)
    assert per_token == [pytest.approx([0.5, 0.7]), pytest.approx([-0.5, -0.5])]


def test_vogue_compares_within_an_origin_by_default() -> None:
    scored = diverging(group([1.0, 1.0, 0.0, 0.0], views=(0, 0, 1, 1)), [[1.0, 1.0]] * 4)
    assert of(build("vogue"), scored) == [0, 0, 0, 0]
    pooled = of(build("vogue", of={"baseline": "pooled", "scale": "none"}), scored)
    assert pooled == pytest.approx([0.5, 0.5, -0.25, -0.25], abs=1e-6)


def test_vogue_raises_an_advantage_per_token() -> None:
    scored = diverging(group([1.0, 0.0], entropies=[[0.5, 0.0], [0.25]], views=(1, 1)), [[0.2, 0.0], [0.1, 0.0]])
    shaped = build("vogue", of={"type": "entropy-shaped", "of": PLAIN})
    assert of(shaped, scored) == [pytest.approx([0.8, 0.6]), pytest.approx([-0.3])]
