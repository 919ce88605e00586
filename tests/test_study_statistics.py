"""Escapes, variance components, coverage and votes of a study against statsmodels, brute force and cases by hand."""

from __future__ import annotations

import doctest
import importlib
import itertools
import math
from collections import Counter

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from scipy.stats import chi2, hypergeom, sem
from sklearn.calibration import calibration_curve
from statsmodels.duration.survfunc import SurvfuncRight
from statsmodels.stats.anova import anova_lm
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint

from saei.errors import SaeiError
from saei.studies.statistics.contrasts import RunKey
from saei.studies.statistics.coverage import gained_and_lost, rarefied
from saei.studies.statistics.escapes import Escape, escape_curve, first_escape
from saei.studies.statistics.matched import AccuracyCurve, matched_difference
from saei.studies.statistics.power import detectable_effect
from saei.studies.statistics.variance import VarianceComponents, variance_components
from saei.studies.statistics.votes import Confidence, calibration_error, confidence, majority_at


@pytest.mark.parametrize("module", ["coverage", "power", "votes"])
def test_examples_of_docstrings(module: str) -> None:
    found = doctest.testmod(importlib.import_module(f"saei.studies.statistics.{module}"))
    assert (found.failed, found.attempted) == (0, 1)


# Escapes


def test_escapes_by_hand() -> None:
    """Four runs to a horizon of 160: at 40, at 100, cut short at 60, never.

    The curve is 1 up to 40, 3/4 up to 100, and 3/8 from there, where one of the two that are left escapes.
    """
    found = escape_curve([Escape(160, False), Escape(40, True), Escape(60, False), Escape(100, True)], horizon=160)
    assert found.steps == (40, 100)
    assert found.locked == pytest.approx((3 / 4, 3 / 8))
    assert found.restricted_mean == pytest.approx(40 + 60 * 3 / 4 + 60 * 3 / 8)
    later = 60 * 3 / 4 + 60 * 3 / 8, 60 * 3 / 8
    variance = later[0] ** 2 * 1 / (4 * 3) + later[1] ** 2 * 1 / (2 * 1)
    assert found.error == pytest.approx(math.sqrt(variance * 4 / 3))
    assert (found.runs, found.cut_short) == (4, 1)
    low, high = proportion_confint(2, 3, method="beta")
    assert (found.escaped.mean, found.escaped.low, found.escaped.high) == pytest.approx((2 / 3, low, high))


@pytest.mark.parametrize("seed", range(4))
def test_equals_the_survival_function_of_statsmodels(seed: int) -> None:
    """The error too: the variance of the area is the double integral of the curve's covariances."""
    rng, horizon = np.random.default_rng(seed), 40
    steps, escaped = rng.integers(1, 60, 25), rng.random(25) < 0.6
    steps[0], escaped[0] = 60, False
    oracle = SurvfuncRight(steps, escaped)
    height, greenwood = np.ones(horizon), np.zeros(horizon)  # [step, step + 1)
    for time, share, error in zip(oracle.surv_times, oracle.surv_prob, oracle.surv_prob_se, strict=True):
        if time < horizon:
            height[int(time) :], greenwood[int(time) :] = share, (error / share) ** 2
    earlier = np.minimum.outer(np.arange(horizon), np.arange(horizon))
    variance = (np.outer(height, height) * greenwood[earlier]).sum()

    runs = [Escape(float(step), bool(escape)) for step, escape in zip(steps, escaped, strict=True)]
    found = escape_curve(runs, horizon)
    assert found.restricted_mean == pytest.approx(height.sum())
    assert found.error == pytest.approx(math.sqrt(variance * 25 / 24))
    assert found.locked == pytest.approx(
        [height[int(step)] if step < horizon else found.locked[-1] for step in found.steps]
    )
    assert found.cut_short == np.sum(~escaped & (steps < horizon)) > 0


def test_without_runs_cut_short_it_is_a_mean() -> None:
    rng = np.random.default_rng(1)
    runs = [Escape(float(step), True) for step in rng.integers(1, 300, 12)]
    times = [run.restricted_time(160) for run in runs]
    assert times == [min(run.step, 160) for run in runs]
    assert 0 < times.count(160) < 12
    found = escape_curve(runs, 160)
    assert (found.restricted_mean, found.error) == pytest.approx((np.mean(times), sem(times)))
    assert found.escaped.mean == (12 - times.count(160)) / 12


def test_the_horizon() -> None:
    assert Escape(160, True).within(160) == Escape(160, True)
    assert Escape(170, True).within(160) == Escape(160, False)
    assert (Escape(160, False).restricted_time(160), Escape(150, False).restricted_time(160)) == (160, None)
    nobody = escape_curve([Escape(200, False)] * 20, 160)
    assert (nobody.restricted_mean, nobody.error, nobody.steps) == (160, 0, ())
    assert nobody.escaped.high == pytest.approx(1 - 0.025 ** (1 / 20))
    assert math.isnan(escape_curve([Escape(200, False)], 160).error)
    # Once all have escaped the curve is 0, however far the horizon is.
    assert escape_curve([Escape(20, True), Escape(10, False), Escape(40, True)], 160).restricted_mean == 20 + 20 / 2


@pytest.mark.parametrize("runs", [[], [Escape(20, True), Escape(100, False)], [Escape(100, True), Escape(100, False)]])
def test_no_mean_beyond_the_last_run(runs: list[Escape]) -> None:
    with pytest.raises(SaeiError, match="horizon is 160"):
        escape_curve(runs, 160)
    if runs:
        escape_curve(runs, 100)


def test_first_escape() -> None:
    assert first_escape([0, 20, 40, 60], [0.2, 0.7, 0.6, 0.8], 0.7) == Escape(20, True)
    assert first_escape([0, 20, 40], [0.2, 0.3, 0.6], 0.7) == Escape(40, False)


# Variance components


def pilot(
    arms: int, bases: int, seeds: int, of_bases: float, of_interaction: float, of_seeds: float, generator: int
) -> dict[RunKey, dict[str, float]]:
    rng = np.random.default_rng(generator)
    base_B = rng.normal(0, of_bases, bases)
    interaction_AB = rng.normal(0, of_interaction, (arms, bases))
    return {
        RunKey(f"arm-{arm}", f"base-{base}", seed): {
            "accuracy": 0.1 * arm + base_B[base] + interaction_AB[arm, base] + rng.normal(0, of_seeds)
        }
        for arm, base, seed in itertools.product(range(arms), range(bases), range(seeds))
    }


def frame(table: dict[RunKey, dict[str, float]]) -> pd.DataFrame:
    return pd.DataFrame([{**key._asdict(), **measures, "all": 1} for key, measures in table.items()])


@pytest.mark.parametrize("sizes", [(2, 4, 3), (3, 5, 2)])
def test_mean_squares_are_those_of_statsmodels(sizes: tuple[int, int, int]) -> None:
    table = pilot(*sizes, 0.1, 0.05, 0.04, generator=0)
    expected = anova_lm(smf.ols("accuracy ~ C(arm) * C(base)", frame(table)).fit())
    found = variance_components(table, "accuracy")
    for component, row in (
        (found.between_bases, "C(base)"),
        (found.arm_by_base, "C(arm):C(base)"),
        (found.between_seeds, "Residual"),
    ):
        assert component.mean_square == pytest.approx(expected.loc[row, "mean_sq"])
        assert component.freedom == expected.loc[row, "df"]


def test_components_are_those_of_restricted_maximum_likelihood() -> None:
    table = pilot(2, 8, 3, 10, 6, 4, generator=3)
    model = smf.mixedlm(
        "accuracy ~ C(arm)",
        frame(table),
        groups="all",
        vc_formula={"base": "0 + C(base)", "cell": "0 + C(base):C(arm)"},
    )
    fit = model.fit(reml=True)
    expected = dict(zip(model.exog_vc.names, fit.vcomp, strict=True))
    found = variance_components(table, "accuracy")
    assert found.between_bases.variance == pytest.approx(expected["base"], rel=1e-3)
    assert found.arm_by_base.variance == pytest.approx(expected["cell"], rel=1e-3)
    assert found.between_seeds.variance == pytest.approx(fit.scale, rel=1e-3)
    assert found.between_bases.sd == pytest.approx(math.sqrt(expected["base"]), rel=1e-3)


def test_the_scatter_of_differences() -> None:
    """With the pilot's three seeds it is that of the differences of base means, with its exact interval."""
    table = pilot(2, 4, 3, 0.5, 0.05, 0.04, generator=1)
    found = variance_components(table, "accuracy")
    data = frame(table).groupby(["arm", "base"])["accuracy"].mean().unstack()
    differences = (data.loc["arm-1"] - data.loc["arm-0"]).to_numpy()
    sd = differences.std(ddof=1)
    same = found.difference_sd(seeds=3)
    ends = [math.sqrt(3 * sd**2 / quantile) for quantile in chi2.ppf([0.975, 0.025], 3)]
    assert (same.mean, same.low, same.high) == pytest.approx((sd, *ends))

    one = found.difference_sd()
    assert one.mean**2 == pytest.approx(2 * (found.arm_by_base.variance + found.between_seeds.variance))
    assert one.low < one.mean < one.high
    many = found.difference_sd(seeds=12)
    assert many.mean**2 == pytest.approx(2 * (found.arm_by_base.variance + found.between_seeds.variance / 12))
    assert math.isnan(many.low)
    assert math.isnan(many.high)
    assert found.detectable(12, seeds=3, hypotheses=3) == pytest.approx(detectable_effect(sd, 12, 3))


def test_the_interval_of_a_sum_of_mean_squares_covers() -> None:
    """The sd of one-seed differences is sqrt(2 (.05² + .04²)); its 95 % interval misses it in 1 of 20 pilots."""
    truth = math.sqrt(2 * (0.05**2 + 0.04**2))
    intervals = [
        variance_components(pilot(2, 4, 3, 0.1, 0.05, 0.04, generator), "accuracy").difference_sd()
        for generator in range(400)
    ]
    assert 0.92 < np.mean([interval.low < truth < interval.high for interval in intervals]) < 0.98


def test_components_below_zero_and_at_zero() -> None:
    """Cells with equal means: the interaction is estimated below 0. Equal values throughout: all is 0."""
    table = {
        RunKey(arm, base, seed): {"accuracy": 0.5 + 0.1 * seed, "constant": 1.0}
        for arm, base, seed in itertools.product("AB", "xyz", range(2))
    }
    found = variance_components(table, "accuracy")
    assert found.between_seeds.variance == pytest.approx(0.1**2 / 2)
    assert found.arm_by_base.variance == pytest.approx(-found.between_seeds.variance / 2)
    assert found.arm_by_base.sd == 0
    constant = variance_components(table, "constant")
    assert (constant.difference_sd().mean, constant.difference_sd().high) == (0, math.inf)


def test_pilots_are_balanced() -> None:
    table = pilot(2, 3, 2, 0.1, 0.1, 0.1, generator=0)
    assert isinstance(variance_components(table, "accuracy"), VarianceComponents)
    for wrong in (
        dict(list(table.items())[1:]),
        {key: value for key, value in table.items() if key.seed == 0},
        {key: value for key, value in table.items() if key.arm == "arm-0"},
        {key: value for key, value in table.items() if key.base == "base-0"},
        {},
    ):
        with pytest.raises(SaeiError, match="two or more of each"):
            variance_components(wrong, "accuracy")


# Coverage


@pytest.mark.parametrize(("counts", "total"), [([3, 2, 1], 6), ([3, 2, 1], 8), ([1, 1], 5), ([], 4)])
def test_rarefied_solutions_are_a_mean_over_all_choices(counts: list[int], total: int) -> None:
    responses = [label for label, count in enumerate(counts) for _ in range(count)] + [None] * (total - sum(counts))
    for draws in range(total + 1):
        choices = list(itertools.combinations(responses, draws))
        expected = np.mean([len(set(choice) - {None}) for choice in choices])
        assert rarefied(counts, draws, total) == pytest.approx(expected)
    assert rarefied(counts, total, total) == len(counts)


def test_rarefied_among_many() -> None:
    """128 responses reduced to 16: a solution is missing with the hypergeometric probability of 0."""
    counts = [40, 9, 3, 1]
    expected = sum(1 - hypergeom(128, count, 16).pmf(0) for count in counts)
    assert rarefied(counts, 16, 128) == pytest.approx(expected)
    assert rarefied(counts, 16) > rarefied(counts, 16, 128)
    for draws, total in ((54, None), (1, 52), (-1, None)):
        with pytest.raises(ValueError, match="draws"):
            rarefied(counts, draws, total)


def test_problems_gained_and_lost() -> None:
    base = [0, 0, 0, 0, 0, 4, 4, 1, 0, 2]
    trained = [1, 2, 1, 3, 0, 4, 0, 1, 9, 1]
    found = gained_and_lost(base, trained)
    assert (found.gained, found.lost, found.both, found.neither) == (5, 1, 3, 1)
    assert found.p == pytest.approx(mcnemar([[3, 1], [5, 1]], exact=True).pvalue)
    assert found.difference.mean == pytest.approx(0.4)
    twice = gained_and_lost(base, trained, least=2)
    assert (twice.gained, twice.lost, twice.both, twice.neither) == (3, 2, 1, 4)
    assert gained_and_lost([0], [0]).p == 1.0


# Votes


def brute_force_majority(k: int, counts: list[int], right: list[bool]) -> float:
    responses = [label for label, count in enumerate(counts) for _ in range(count)]
    shares = []
    for choice in itertools.combinations(responses, k):
        votes = Counter(choice)
        top = [label for label, count in votes.items() if count == max(votes.values())]
        shares.append(sum(right[label] for label in top) / len(top))
    return float(np.mean(shares))


@pytest.mark.parametrize(
    ("counts", "right"),
    [
        ([5, 3, 2], [True, False, False]),
        ([2, 3, 3, 1], [True, False, False, False]),
        ([2, 2, 2, 2, 2], [False, True, False, True, False]),  # two right answers
        ([1] * 8, [True] + [False] * 7),
        ([4, 4], [False, False]),
        ([6], [True]),
        ([0, 4, 3], [True, True, False]),
    ],
)
def test_majority_votes_are_a_mean_over_all_choices(counts: list[int], right: list[bool]) -> None:
    for k in range(1, sum(counts) + 1):
        assert majority_at(k, counts, right) == pytest.approx(brute_force_majority(k, counts, right), abs=1e-12)


def test_majority_votes_of_many_responses() -> None:
    """All 128 vote: the most frequent answer wins. One votes: the accuracy. With two answers it is hypergeometric."""
    counts, right = [40, 38, 30, 20], [False, True, False, False]
    assert majority_at(128, counts, right) == 0
    assert majority_at(1, counts, right) == pytest.approx(38 / 128)
    two = hypergeom(128, 70, 33)
    assert majority_at(33, [70, 58], [True, False]) == pytest.approx(two.sf(16), rel=1e-12)
    for k in (0, 129):
        with pytest.raises(ValueError, match="votes of 128"):
            majority_at(k, counts, right)


def test_confidence() -> None:
    assert confidence([10, 4, 2], [True, False, False]) == Confidence(10 / 16, 1.0)
    assert confidence([2, 5, 5], [False, True, False]) == Confidence(5 / 12, 0.5)


def test_calibration_equals_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    shares = rng.integers(1, 17, 200) / 16 - 1e-3  # off the edges of bins, which scikit-learn gives to the upper one
    right = rng.random(200) < shares**2
    actual, said = calibration_curve(right, shares, n_bins=10)
    counts = np.histogram(shares, bins=np.linspace(0, 1, 11))[0]
    expected = np.sum(counts[counts > 0] * np.abs(actual - said)) / 200
    found = calibration_error([Confidence(float(share), float(yes)) for share, yes in zip(shares, right, strict=True)])
    assert found == pytest.approx(expected)
    assert found > 0.05


def test_calibration_by_hand() -> None:
    """.3 and .25 share a bin, as does what comes to .3 by rounding; 1 is in the last one."""
    problems = [Confidence(0.3, 0.0), Confidence(0.25, 1.0), Confidence(1.0, 1.0), Confidence(0.95, 0.0)]
    assert calibration_error(problems) == pytest.approx((abs(0.55 - 1) + abs(1.95 - 1)) / 4)
    assert calibration_error([Confidence(0.1 + 0.2, 0.0), Confidence(0.25, 1.0)]) == pytest.approx(0.45 / 2)
    assert calibration_error(problems, bins=1) == pytest.approx(abs(2.5 - 2) / 4)


# Entropy at matched accuracy


def test_entropy_at_an_accuracy() -> None:
    curve = AccuracyCurve([0.2, 0.5, 0.4, 0.5, 0.7], [0.9, 0.6, 0.55, 0.3, 0.1])
    assert curve.at(0.2) == 0.9
    assert curve.at(0.3) == pytest.approx(0.8)
    assert curve.at(0.5) == pytest.approx(0.6)  # the first time, not the second
    assert curve.at(0.6) == pytest.approx(0.2)
    assert curve.at(0.7) == pytest.approx(0.1)
    assert (curve.at(0.1), curve.at(0.71)) == (None, None)


def test_a_slower_run_has_no_more_entropy_at_matched_accuracy() -> None:
    """Half as fast along the same line: more entropy at each step, none at any accuracy."""
    steps = np.arange(9)
    fast = AccuracyCurve((0.2 + 0.08 * steps).tolist(), (1.0 - 0.1 * steps).tolist())
    slow = AccuracyCurve((0.2 + 0.04 * steps).tolist(), (1.0 - 0.05 * steps).tolist())
    assert matched_difference(slow, fast) == pytest.approx(0, abs=1e-12)
    higher = AccuracyCurve(slow.accuracies, [value + 0.25 for value in slow.values])
    assert matched_difference(higher, fast) == pytest.approx(0.25)
    assert matched_difference(fast, higher) == pytest.approx(-0.25)
    # From .3 to .52, where the gap goes from 0 to .22 in proportion, the mean is .11.
    steeper = AccuracyCurve([0.3, 0.7], [fast.at(0.3), fast.at(0.3) - 1.25 * 0.4 - 0.4])
    assert matched_difference(slow, steeper) == pytest.approx(0.11)


def test_runs_without_a_common_accuracy() -> None:
    low, high = AccuracyCurve([0.1, 0.3], [1.0, 0.5]), AccuracyCurve([0.4, 0.6], [1.0, 0.5])
    assert matched_difference(low, high) is None
    touching = AccuracyCurve([0.3, 0.6], [0.9, 0.5])
    assert matched_difference(touching, low) == pytest.approx(0.4)
