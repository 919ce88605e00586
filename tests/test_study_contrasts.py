"""Contrasts of a study against scipy, statsmodels and cases worked by hand, and what simulations say of their unit."""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import dataclass

import numpy as np
import pytest
from scipy.stats import binomtest, permutation_test, ttest_rel
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower
from statsmodels.stats.weightstats import ttost_paired

from saei.evaluation.statistics.intervals import Interval, mean_interval
from saei.studies.statistics.contrasts import ContrastResult, RunKey, by_base, compare, headlines, sign_flip_test
from saei.studies.statistics.power import detectable_effect


@dataclass(frozen=True)
class Declared:
    arm: str
    against: str
    measure: str = "eval/accuracy"
    smallest_effect: float = 0.05
    margin: float = 0.03


SAEI = Declared("saei", "grpo")


def table_of(**arms: list[float]) -> dict[RunKey, dict[str, float]]:
    """Return a table with one run of each arm on each base."""
    return {
        RunKey(arm, f"base-{number:02}", 0): {"eval/accuracy": value}
        for arm, values in arms.items()
        for number, value in enumerate(values)
    }


def contrast(differences: list[float], declared: Declared = SAEI, **options: object) -> ContrastResult:
    """Return the only primary contrast of arms with these differences."""
    (found,) = compare(table_of(grpo=[0.0] * len(differences), saei=differences), [declared], **options)
    return found


def test_equals_the_paired_tests_of_scipy_and_statsmodels() -> None:
    rng = np.random.default_rng(0)
    arms = {name: rng.uniform(0.2, 0.8, 9).tolist() for name in ("grpo", "saei", "noise", "lower")}
    declared = [Declared("saei", "grpo"), Declared("noise", "grpo"), Declared("saei", "lower")]
    found = compare(table_of(**arms), declared)
    for one, result in zip(declared, found, strict=True):
        expected = ttest_rel(arms[one.arm], arms[one.against])
        ends = expected.confidence_interval(0.95)
        assert (result.interval.low, result.interval.high) == pytest.approx((ends.low, ends.high), rel=1e-9)
        assert result.t_p == pytest.approx(expected.pvalue, rel=1e-9)
        differences = np.subtract(arms[one.arm], arms[one.against])
        flips = permutation_test((differences,), np.mean, permutation_type="samples", n_resamples=np.inf)
        assert result.p == pytest.approx(flips.pvalue, abs=1e-12)
        assert result.means == pytest.approx((np.mean(arms[one.against]), np.mean(arms[one.arm])))
        sd = differences.std(ddof=1)
        power = (
            TTestPower().power(result.detectable[0] / sd, 9, 0.05),
            TTestPower().power(result.detectable[1] / sd, 9, 0.05 / 3),
        )
        assert power == pytest.approx((0.8, 0.8), abs=1e-6)
    assert [result.adjusted for result in found] == pytest.approx(
        multipletests([result.p for result in found], method="holm")[1]
    )


def test_three_bases_by_hand() -> None:
    """Differences .02, .05, -.01: mean .02, sd .03, t(.975, 2) = 4.3027; |sum| reaches .06 in 4 of 8 patterns."""
    (found,) = compare(table_of(grpo=[0.60, 0.62, 0.61], saei=[0.62, 0.67, 0.60]), [SAEI])
    half = 4.30265 * 0.03 / math.sqrt(3)
    assert found.differences == pytest.approx((0.02, 0.05, -0.01))
    assert (found.interval.low, found.interval.high) == pytest.approx((0.02 - half, 0.02 + half), rel=1e-5)
    assert (found.p, found.test, found.verdict) == (0.5, "exact sign flips", "undecided")
    assert found.t_p == pytest.approx(0.3675, abs=5e-5)
    assert found.detectable == pytest.approx((0.0979, 0.0979), abs=5e-5)


@pytest.mark.parametrize(("count", "alone", "first_of_three"), [(8, 1.16, 1.45), (12, 0.89, 1.08), (20, 0.66, 0.78)])
def test_detectable_effects(count: int, alone: float, first_of_three: float) -> None:
    assert round(detectable_effect(1, count), 2) == alone
    assert round(detectable_effect(1, count, hypotheses=3), 2) == first_of_three
    assert detectable_effect(0.2, count) == pytest.approx(
        0.2 * TTestPower().solve_power(nobs=count, alpha=0.05, power=0.8), rel=1e-5
    )


def test_one_base_detects_nothing() -> None:
    assert detectable_effect(1, 1) == math.inf
    assert contrast([0.5]).detectable == (math.inf, math.inf)


@pytest.mark.parametrize(
    ("differences", "verdict"),
    [
        ([0.09, 0.11, 0.10, 0.12, 0.08, 0.10], "differs"),
        ([-0.09, -0.11, -0.10, -0.12, -0.08, -0.10], "differs"),
        ([0.01, -0.01, 0.00, 0.01, -0.01, 0.00], "equal within the margin"),
        ([0.010, 0.012, 0.008, 0.011, 0.009, 0.010], "equal within the margin"),  # though it excludes 0
        ([0.20, -0.20, 0.10, -0.10, 0.05, 0.00], "undecided"),
        ([0.02, 0.06, -0.01, 0.03, 0.04, -0.02], "undecided"),
        ([0.01, 0.01, 0.01, 0.01, 0.01, 0.90], "undecided"),  # p = 2/64, but the interval includes 0
        ([0.09, 0.11, 0.10, 0.12, 0.08], "undecided"),  # five bases cannot reach p < .05 by sign flips
    ],
)
def test_verdicts(differences: list[float], verdict: str) -> None:
    found = contrast(differences)
    assert found.verdict == verdict
    # Within the margin are exactly those that both one-sided t-tests at 2.5 % reject.
    two_one_sided = ttost_paired(np.array(differences), np.zeros(len(differences)), -0.03, 0.03)[0]
    assert (verdict == "equal within the margin") == (two_one_sided < 0.025)


def test_an_interval_that_excludes_0_needs_its_adjusted_p() -> None:
    """p = 4/64 once Holm doubles it, and 2/64 alone."""
    strong, weak = [0.09, 0.11, 0.10, 0.12, 0.08, 0.10], [0.20, -0.20, 0.10, -0.10, 0.05, 0.00]
    table = table_of(grpo=[0.0] * 6, saei=strong, noise=weak)
    (alone,) = compare(table, [SAEI])
    first, second = compare(table, [SAEI, Declared("noise", "grpo")])
    assert (alone.adjusted, alone.verdict) == (2 / 64, "differs")
    assert (first.adjusted, first.verdict, second.verdict) == (4 / 64, "undecided", "undecided")
    assert first.interval == alone.interval
    assert alone.detectable[0] == alone.detectable[1] == first.detectable[0] < first.detectable[1]


def test_exploratory_contrasts_decide_nothing_and_cost_nothing() -> None:
    strong = [0.09, 0.11, 0.10, 0.12, 0.08, 0.10]
    table = table_of(grpo=[0.0] * 6, saei=strong, noise=strong)
    primary, exploratory = compare(table, [SAEI], [Declared("noise", "grpo")])
    assert (primary.adjusted, primary.verdict) == (2 / 64, "differs")
    assert (exploratory.p, exploratory.adjusted, exploratory.verdict) == (2 / 64, None, "exploratory")


def test_headline_answers_are_adjusted_once_more() -> None:
    found = headlines([contrast([0.1 + 0.001 * n for n in range(count)]) for count in (6, 7, 12, 12)])
    p = [2 / 64, 2 / 128, 2 / 4096, 2 / 4096]
    assert [result.headline for result in found] == pytest.approx(multipletests(p, method="holm")[1])
    assert [result.verdict for result in found] == ["differs"] * 4
    two = headlines([contrast([0.1 + 0.001 * n for n in range(6)])] * 2)
    assert [(result.adjusted, result.headline, result.verdict) for result in two] == [(2 / 64, 4 / 64, "undecided")] * 2


def test_what_could_be_found() -> None:
    narrow, wide = contrast([0.01, -0.01] * 6), contrast([0.2, -0.2] * 6)
    assert (narrow.can_find, wide.can_find) == (True, False)


def test_the_base_is_the_unit() -> None:
    """Seeds are averaged, bases of one arm only are named, and the order of the table makes no difference."""
    table = {
        RunKey("saei", "b", 0): {"eval/accuracy": 0.1},
        RunKey("saei", "b", 1): {"eval/accuracy": 0.2},
        RunKey("saei", "b", 2): {"eval/accuracy": 0.3},  # whose sum depends on the order, by rounding
        RunKey("saei", "a", 0): {"eval/accuracy": 0.4},
        RunKey("saei", "d", 0): {"eval/other": 0.4},
        RunKey("grpo", "b", 0): {"eval/accuracy": 0.4},
        RunKey("grpo", "a", 0): {"eval/accuracy": 0.3},
        RunKey("grpo", "c", 0): {"eval/accuracy": 0.3},
        RunKey("grpo", "d", 0): {"eval/accuracy": 0.3},
    }
    (found,) = compare(table, [SAEI])
    assert (found.bases, found.unpaired) == (("a", "b"), ("c", "d"))
    assert found.differences == pytest.approx((0.1, -0.2))
    assert by_base(table, "saei", "eval/accuracy") == pytest.approx({"a": 0.4, "b": 0.2})
    for seed in range(5):
        keys = list(table)
        random.Random(seed).shuffle(keys)
        assert compare({key: table[key] for key in keys}, [SAEI]) == [found]


def test_no_common_base() -> None:
    (found,) = compare({RunKey("saei", "a", 0): {"eval/accuracy": 0.4}}, [SAEI])
    assert math.isnan(found.interval.mean)
    assert (found.bases, found.unpaired, found.p, found.verdict) == ((), ("a",), 1.0, "undecided")


def test_equal_differences_leave_the_unseen_bases_open() -> None:
    """Twenty runs that never escaped in both arms: up to 16.8 % of bases may differ by the whole horizon."""
    times = Declared("saei", "grpo", smallest_effect=30, margin=20)
    found = contrast([0.0] * 20, times, largest={"eval/accuracy": 160.0})
    share = 1 - 0.025 ** (1 / 20)
    assert (found.interval.low, found.interval.high) == pytest.approx((-160 * share, 160 * share))
    assert (found.verdict, found.p, found.t_p, found.detectable) == ("undecided", 1.0, 1.0, (math.inf, math.inf))
    unbounded = contrast([0.0] * 20, times)
    assert unbounded.interval == Interval(0.0, -math.inf, math.inf)


def test_impossible_values() -> None:
    with pytest.raises(ValueError, match="at most 1"):
        contrast([0.2, 1.5], largest={"eval/accuracy": 1.0})
    with pytest.raises(ValueError, match="finite"):
        contrast([0.2, math.nan])


def test_many_bases_draw_their_sign_patterns() -> None:
    """Differences of equal size are a binomial test: 17 of 24 positive."""
    p, test = sign_flip_test([1.0] * 17 + [-1.0] * 7)
    assert p == pytest.approx(binomtest(17, 24).pvalue, abs=4 * math.sqrt(0.06 / 99_999))
    assert test == "99999 drawn sign flips"
    assert sign_flip_test([1.0] * 17 + [-1.0] * 7)[0] == p
    assert sign_flip_test([1.0] * 40)[0] == 1 / 100_000  # never 0
    assert sign_flip_test([1.0] * 20) == (2 / 2**20, "exact sign flips")


def test_sign_flips_tie_though_sums_round() -> None:
    """Of .1, .2, -.3 all sums reach 0; of .3, .1, .2 and their negatives the patterns are counted in whole numbers."""
    assert sign_flip_test([0.1, 0.2, -0.3])[0] == 1.0
    whole = [3, 1, 2, -3, 7]
    sums = [
        abs(sum(s * v for s, v in zip(signs, whole, strict=True))) for signs in itertools.product((1, -1), repeat=5)
    ]
    expected = sum(value >= abs(sum(whole)) for value in sums) / 32
    assert sign_flip_test([value / 10 for value in whole])[0] == expected


def test_pooling_runs_finds_what_is_not_there() -> None:
    """Bases scatter in their difference as much as seeds do. The true difference is 0; a good test finds one in 5 %.

    4 bases × 4 seeds bootstrapped as 16 runs find one far too often, base means under Student's t do not.
    """
    rng = np.random.default_rng(0)
    draws, bases, seeds = 1000, 4, 4
    values = rng.normal(size=(draws, bases, 1)) + rng.normal(size=(draws, bases, seeds))
    pooled = values.reshape(draws, 16)
    weights = rng.multinomial(16, [1 / 16] * 16, size=1000) / 16
    low, high = np.quantile(pooled @ weights.T, [0.025, 0.975], axis=1)
    bootstrap = np.mean((low > 0) | (high < 0))
    intervals = [mean_interval(means) for means in values.mean(2).tolist()]
    student = np.mean([interval.low > 0 or interval.high < 0 for interval in intervals])
    assert bootstrap > 0.2
    assert 0.03 < student < 0.07
