"""Scores, intervals and pass@k against enumeration, scipy and cases worked by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from itertools import combinations

import numpy as np
import pytest
from scipy.stats import binomtest, ttest_1samp

from saei.data.base import Reporting
from saei.data.presets.hallusionbench import HallusionBench
from saei.errors import ConfigError
from saei.evaluation.records import ExampleAnswers, Record, by_example, record
from saei.evaluation.statistics.comparison import Contrast, EvaluatedRun, RunSet, contrasts
from saei.evaluation.statistics.intervals import clustered_interval, detectable, holm, mcnemar, mean_interval, t_test_p
from saei.evaluation.statistics.pass_at import chosen_ks, pass_at
from saei.evaluation.statistics.scores import all_scores, share_interval
from saei.types import Example, Grade
from test_evaluation import said
from test_presets import hallusion_rows

REPORTING = HallusionBench.reporting


@pytest.mark.parametrize(("n", "right"), [(6, 0), (6, 1), (6, 3), (7, 5), (6, 6)])
def test_pass_at_k_is_the_share_of_all_choices(n: int, right: int) -> None:
    answers = [True] * right + [False] * (n - right)
    for k in range(1, n + 1):
        choices = list(combinations(answers, k))
        assert pass_at(k, n, right) == pytest.approx(sum(map(any, choices)) / len(choices), abs=1e-12)


def test_ks_go_up_to_half_of_the_responses() -> None:
    assert chosen_ks((), 1) == ()
    assert chosen_ks((), 128) == (1, 2, 4, 8, 16, 32, 64)
    assert chosen_ks((), 127) == (1, 2, 4, 8, 16, 32)
    assert chosen_ks((8, 3, 3), 16) == (3, 8)
    with pytest.raises(ConfigError, match=r"pass@9 of 16 responses.*--responses 18"):
        chosen_ks((1, 9), 16)
    with pytest.raises(ConfigError, match="pass@0"):
        chosen_ks((0, 1), 16)


def test_clustered_error_is_that_of_a_regression_on_a_constant() -> None:
    """The sandwich estimator with statsmodels' small-sample factor, written with matrices."""
    rng = np.random.default_rng(0)
    clusters = rng.integers(0, 9, 40)
    values = rng.normal(size=40) + clusters
    ones = np.ones((40, 1))
    bread = np.linalg.inv(ones.T @ ones)
    residuals = values - values.mean()
    meat = np.zeros((1, 1))
    for cluster in np.unique(clusters):
        score = ones[clusters == cluster].T @ residuals[clusters == cluster]
        meat += np.outer(score, score)
    count = len(np.unique(clusters))
    error = math.sqrt((bread @ meat @ bread).item() * count / (count - 1) * 39 / 39)
    found = clustered_interval(values.tolist(), clusters.tolist())
    assert found.mean == pytest.approx(values.mean())
    # t of 8 degrees of freedom
    assert found.high - found.mean == pytest.approx(2.306004 * error, rel=1e-6)


def test_clustered_intervals_by_hand() -> None:
    # Two clusters of two: deviations add up to -1 and 1, variance 2/1 * 2 / 16, error 1/2, t(1) = 12.7062.
    found = clustered_interval([0.0, 0.0, 1.0, 1.0], ["a", "a", "b", "b"])
    assert (found.low, found.high) == pytest.approx((0.5 - 6.3531, 0.5 + 6.3531), abs=1e-4)
    values = [0.1, 0.5, 0.4]
    assert clustered_interval(values, [1, 2, 3]).high == pytest.approx(mean_interval(values).high)
    assert clustered_interval([1.0, 0.0], [1, 1]).high == math.inf
    assert math.isnan(clustered_interval([], []).mean)


def test_t_test_from_an_interval() -> None:
    values = np.random.default_rng(1).normal(0.3, 1, 12).tolist()
    assert t_test_p(mean_interval(values), 12) == pytest.approx(ttest_1samp(values, 0).pvalue, rel=1e-9)
    assert (t_test_p(mean_interval([0.0, 0.0]), 2), t_test_p(mean_interval([1.0, 1.0]), 2)) == (1.0, 0.0)
    assert t_test_p(mean_interval([3.0]), 1) == 1.0


def test_detectable_difference() -> None:
    # 16 pairs: (2.1314 + 0.8662) standard errors.
    values = np.random.default_rng(2).normal(size=16).tolist()
    error = float(np.std(values, ddof=1)) / 4
    assert detectable(mean_interval(values), 16) == pytest.approx((2.13145 + 0.86624) * error, rel=1e-4)
    # Two values: quantiles of the Cauchy distribution, 12.7062 and tan(.3 pi) = 1.3764, times an error of 1/2.
    assert detectable(mean_interval([0.0, 1.0]), 2) == pytest.approx((12.7062 + 1.3764) / 2, rel=1e-4)
    assert detectable(mean_interval([1.0]), 1) == math.inf


def test_holm_by_hand() -> None:
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.9, 0.6]) == [1.0, 1.0]


def test_which_interval() -> None:
    alone = [None, None, None, None]
    exact = binomtest(3, 4).proportion_ci(0.95)
    found, method, count = share_interval([1.0, 1.0, 0.0, 1.0], alone)
    assert (found.low, found.high, method, count) == (exact.low, exact.high, "exact binomial", 4)
    assert share_interval([1.0, 0.5, 0.0, 1.0], alone)[1] == "Student's t"
    _, method, count = share_interval([1.0, 0.0, 0.0, 1.0], ["a", "a", "b", None])
    assert (method, count) == ("cluster-robust t", 3)
    # All right in two clusters: as sure as two right answers, not as four.
    found, method, count = share_interval([1.0] * 4, ["a", "a", "b", "b"])
    assert (found.low, method, count) == (binomtest(2, 2).proportion_ci(0.95).low, "exact binomial", 2)


def one(number: int, correct: Sequence[int], **fields: object) -> ExampleAnswers:
    known = {"groups": {}, "together": {}, "cluster": None, "approximate": False}
    return ExampleAnswers(number, tuple(map(bool, correct)), **(known | fields))  # type: ignore[arg-type]


def test_scores_by_hand() -> None:
    """Two figures with two questions each; figure 0 of a supplement is in no figure group."""
    rows = [
        one(0, [1, 1], groups={"kind": ["a"], "skills": ["x", "y"]}, together={"fAcc": "f1", "qAcc": "q1"}),
        one(1, [1, 0], groups={"kind": ["a"], "skills": ["y"]}, together={"fAcc": "f1", "qAcc": "q2"}),
        one(2, [1, 0], groups={"kind": ["b"]}, together={"fAcc": "f2", "qAcc": "q1"}),
        one(3, [0, 0], groups={"kind": ["b"]}, together={"fAcc": None, "qAcc": "q2"}, approximate=True),
    ]
    found = {(s.name, s.by, s.group): s for s in all_scores(rows, "aAcc", (1,))}
    values = {key: score.interval.mean for key, score in found.items()}
    assert values == pytest.approx(
        {
            ("aAcc", "", ""): 4 / 8,
            ("fAcc", "", ""): (1 / 2 + 1 / 2) / 2,  # f1 in the first response; f2 in the first
            ("qAcc", "", ""): (1 / 2 + 0) / 2,  # q1 in the first; q2 never
            ("pass@1", "", ""): 4 / 8,
            ("aAcc", "kind", "a"): 3 / 4,
            ("aAcc", "kind", "b"): 1 / 4,
            ("aAcc", "skills", "x"): 1.0,
            ("aAcc", "skills", "y"): 3 / 4,
        }
    )
    counts = {key: score.count for key, score in found.items()}
    assert (counts["fAcc", "", ""], counts["qAcc", "", ""], counts["aAcc", "skills", "y"]) == (2, 2, 2)
    marked = {key for key, score in found.items() if score.approximate}
    assert marked == {("aAcc", "", ""), ("qAcc", "", ""), ("pass@1", "", ""), ("aAcc", "kind", "b")}


def test_all_of_hallusionbench() -> None:
    """951 rows of the real keys: 346 figures, 455 questions over all figures; one wrong answer costs one of each."""
    rows = hallusion_rows()
    answers = [
        record(
            number, 0, Example(str(number), "?", "yes", meta=row), said("", [], []), Grade(0.0, number != 7), REPORTING
        )
        for number, row in enumerate(rows)
    ]
    found = {score.name: score for score in all_scores(by_example(answers), "aAcc") if not score.by}
    counts = {name: score.count for name, score in found.items()}
    assert counts == {"aAcc": 951, "fAcc": 346, "qAcc": 455}
    wrong = {name: (1 - score.interval.mean) * score.count for name, score in found.items()}
    assert wrong == pytest.approx({"aAcc": 1, "fAcc": 1, "qAcc": 1})
    sets = len({(row["category"], row["subcategory"], row["set_id"]) for row in rows})
    assert {score.clusters for score in found.values()} == {sets}


def test_no_figure_at_all() -> None:
    (_, figures) = all_scores([one(0, [1], together={"fAcc": None})], "aAcc")
    assert (figures.count, math.isnan(figures.interval.mean)) == (0, True)


def test_records_are_grouped_by_example() -> None:
    reporting = Reporting(
        by=("kind", "skills", "level"),
        together={"fAcc": lambda meta: (meta["set"], meta["kind"]), "none": lambda meta: None},
        cluster=("set",),
        approximate=lambda meta: meta["set"] == 3,
    )
    example = Example("e", "?", "7", meta={"kind": "a", "skills": ("x", "y"), "set": 3})
    lines: list[Record] = []
    for n, (text, right) in enumerate([("8", False), ("7", True)]):
        grade = Grade(float(right), right, {"accuracy": float(right)}, text, "why")
        lines.append(record(5, n, example, said(text, [-1.0, -1.0], [0.0, 0.0]), grade, reporting))
    assert (lines[1].text, lines[1].gold, lines[1].answer, lines[1].reason, lines[1].tokens) == (
        "7",
        "7",
        "7",
        "why",
        2,
    )
    (found,) = by_example(reversed(lines))
    assert found.correct == (False, True)
    assert found.groups == {"kind": ["a"], "skills": ["x", "y"]}
    assert found.together == {"fAcc": "3 / a", "none": None}
    assert (found.cluster, found.approximate, found.correct_count, found.accuracy) == ("3", True, 1, 0.5)


def run(base: str, shares: Sequence[int], name: str = "run") -> EvaluatedRun:
    return EvaluatedRun(name, base, [one(number, [share]) for number, share in enumerate(shares)])


def test_methods_are_compared_over_bases() -> None:
    plain = RunSet("plain", [run(f"b{n}", [0, 0, 0, 1]) for n in range(6)] + [run("only", [0, 0, 0, 0])])
    # Two seeds from each base are one difference.
    seeds = {f"b{n}": ([1, 1, 0, 1], [1, 1, 0, 0]) for n in range(5)} | {"b5": ([1, 1, 0, 1], [1, 1, 1, 1])}
    other = RunSet("other", [run(base, shares) for base, own in seeds.items() for shares in own])
    per_base = [(3 / 4 + 2 / 4) / 2 - 1 / 4] * 5 + [(3 / 4 + 1) / 2 - 1 / 4]
    (found,) = contrasts(plain, [other])
    expected = ttest_1samp(per_base, 0).confidence_interval(0.95)
    assert (found.difference.low, found.difference.high) == pytest.approx((expected.low, expected.high))
    assert (found.unit, found.count, found.p, found.unpaired) == ("base", 6, 2 / 64, ("only",))
    first, second = contrasts(plain, [other, plain])
    assert (first.adjusted, second.adjusted, second.p) == (4 / 64, 1.0, 1.0)


def test_seeds_of_one_base_are_no_replication() -> None:
    one_base = RunSet("seeds", [run("b", [0, 1]), run("b", [1, 1])])
    with pytest.raises(ConfigError, match="have 1 in common, b: seeds from one base repeat its luck"):
        contrasts(one_base, [one_base])


def test_two_policies_are_compared_by_example() -> None:
    before, after = [0, 0, 0, 0, 1, 1, 0], [1, 1, 1, 1, 1, 0, 0]
    (found,) = contrasts(RunSet("a", [run("x", before)]), [RunSet("b", [run("y", after)])])
    assert (found.unit, found.count, found.accuracies) == ("example", 7, pytest.approx((2 / 7, 5 / 7)))
    assert (found.test, found.p) == ("exact McNemar", pytest.approx(2 * (5 + 1) / 32))  # 4 of 5 discordant
    (same,) = contrasts(RunSet("a", [run("x", before)]), [RunSet("a", [run("x", before)])])
    # None of 7 differs: if more than 41 % did, that would happen in less than 2.5 %.
    bound = binomtest(0, 7).proportion_ci(0.95).high
    assert (same.p, same.difference.low, same.difference.high) == (1.0, -bound, bound)
    (better,) = contrasts(RunSet("a", [run("x", [0] * 7)]), [RunSet("b", [run("y", [1] * 7)])])
    # All of 7 changed, all for the better: each share is at least 59 %.
    assert (better.difference.low, better.difference.high) == (pytest.approx((1 - 2 * bound) * (1 - bound)), 1.0)
    assert better.p == 2 / 2**7


def by_example_answers(
    before: Sequence[Sequence[int]], after: Sequence[Sequence[int]], clusters: Sequence[str] = ()
) -> Contrast:
    """Compare two policies by the answers to each example."""
    run_sets = [
        RunSet(
            name, [EvaluatedRun(name, "x", [one(n, own, cluster=clusters[n] if clusters else None) for n, own in it])]
        )
        for name, it in (("a", list(enumerate(before))), ("b", list(enumerate(after))))
    ]
    (found,) = contrasts(run_sets[0], run_sets[1:])
    return found


def test_equal_differences_have_the_p_of_their_interval_whatever_the_sign() -> None:
    wrong, half, right = (0, 0), (1, 0), (1, 1)
    for lower, upper, same in ((wrong, right, 1.0), (wrong, half, 0.5), (half, half, 0.0)):
        for count in (2, 5, 6, 9, 20):
            up, down = (
                by_example_answers([lower] * count, [upper] * count),
                by_example_answers([upper] * count, [lower] * count),
            )
            assert up.p == down.p == pytest.approx(min(1, 2 * (1 + same) ** -count))
            assert (up.difference.low, up.difference.high) == pytest.approx(
                (-down.difference.high, -down.difference.low)
            )
            assert up.detectable == pytest.approx(down.detectable)
            assert up.detectable > 0
            assert (up.p < 0.05) == (up.difference.low > 0)
    # One mean difference in every cluster is no spread either.
    found = by_example_answers([wrong, half] * 9, [half, right] * 9, [str(n // 2) for n in range(18)])
    assert (found.test, found.count, found.p) == ("exact binomial", 18, pytest.approx(2 * 1.5**-9))


def test_p_and_interval_never_contradict_each_other() -> None:
    """One answer each, several, clusters; few and many examples, of which hardly any or nearly all changed."""
    rng = np.random.default_rng(0)
    tests = set()
    for draw in range(200):
        count, answers = int(rng.integers(2, 40)), int(rng.integers(1, 4))
        chances = rng.beta(0.5, 0.5, 2)
        before, after = (rng.binomial(1, chance, (count, answers)).tolist() for chance in chances)
        clusters = [str(n // 3) for n in range(count)] if draw % 3 == 0 else ()
        found = by_example_answers(before, after, clusters)
        interval = found.difference
        tests.add(found.test)
        assert interval.low <= interval.mean <= interval.high
        assert (found.p < 0.05) == (interval.low > 0 or interval.high < 0), (before, after, found)
        back = by_example_answers(after, before, clusters)
        assert (back.p, back.difference.low) == pytest.approx((found.p, -interval.high))
    assert tests == {"exact McNemar", "exact binomial", "Student's t", "cluster-robust t"}


def test_the_interval_of_mcnemars_test_covers_what_it_says() -> None:
    """With few changes Student's interval covers a third of the time."""
    rng = np.random.default_rng(0)
    interval = cache(lambda better, worse, count: mcnemar(better, worse, count)[0])
    for count, changed, wins in ((10, 0.1, 0.8), (20, 0.5, 0.6), (40, 0.05, 0.9)):
        truth, covered = changed * (2 * wins - 1), 0
        for _ in range(300):
            n = int(rng.binomial(count, changed))
            better = int(rng.binomial(n, wins))
            covered += interval(better, n - better, count).low <= truth <= interval(better, n - better, count).high
        assert covered >= 0.95 * 300


def test_clustered_examples_have_a_clustered_test() -> None:
    """Forty copies of two problems say no more than the two."""
    before = EvaluatedRun("a", "x", [one(n, [0], cluster=str(n % 2)) for n in range(40)])
    after = EvaluatedRun("b", "x", [one(n, [n % 2], cluster=str(n % 2)) for n in range(40)])
    (found,) = contrasts(RunSet("a", [before]), [RunSet("b", [after])])
    assert (found.test, found.p) == ("cluster-robust t", pytest.approx(0.5))  # t = 1 at one degree of freedom
