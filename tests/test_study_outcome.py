"""What a study's records decide: against scipy, cases worked by hand, and what a page may not show too early."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import permutation_test, ttest_rel

from saei.cli import main as cli
from saei.errors import ConfigError
from saei.evaluation.statistics.intervals import Interval, holm
from saei.studies.execution import Execution, StudyPlaces
from saei.studies.final.settings import FINAL
from saei.studies.headlines import headline_answers
from saei.studies.outcome import Outcome, outcome_of
from saei.studies.page import headline_table, page
from saei.studies.plan import StudyRun
from saei.studies.record import MOST_BYTES, folder_of, record, recorded_final, recorded_metrics, thinned
from saei.studies.sentences import checked, decided, escaped, missing, number, verdict
from saei.studies.statistics.contrasts import compare
from saei.studies.study import read
from test_study import CONTENT, written

ARMS = {
    "GRPO": {"sampler": "clean"},
    "SaEI": {"attack": {"step": "2/255"}},
    "noise": {"sampler": {"type": "mixed", "intervention": {"attack": "noise"}}},
}
BASES = {"models": [f"base-{number}" for number in range(6)]}
ESCAPE = {"metric": "eval/accuracy", "threshold": 0.7}

Line = Mapping[str, Any]


def contrast(arm: str, against: str = "GRPO", measure: str = "eval/accuracy", **changes: Any) -> dict[str, Any]:
    return {**CONTENT["contrasts"][0], "arm": arm, "against": against, "measure": measure, **changes}


def study(folder: Path, **changes: Any) -> Execution:
    file = written(folder, **{"arms": ARMS, "bases": BASES, "seeds": 1, **changes})
    return Execution(read(file), StudyPlaces(folder / "runs", folder / "kept"))


def recorded(execution: Execution, lines_of: Callable[[StudyRun], Sequence[Line]], *, leave_out: int = 0) -> Execution:
    """Write records as if all runs but the last few had been done."""
    runs = execution.runs()
    for run in runs[: len(runs) - leave_out]:
        folder = folder_of(run, execution.places.keep)
        folder.mkdir(parents=True)
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines_of(run)))
    return execution


def ending(values: Mapping[str, Sequence[float]], measure: str = "eval/accuracy") -> Callable[[StudyRun], list[Line]]:
    """Return metrics of runs that begin at 0 and end at a value for each arm and base."""

    def lines(run: StudyRun) -> list[Line]:
        return [{"step": 0, measure: 0.0}, {"step": 4, measure: values[run.arm][int(run.base.label[5:])]}]

    return lines


VALUES = {
    "GRPO": [0.50, 0.52, 0.41, 0.60, 0.55, 0.47],
    "SaEI": [0.60, 0.61, 0.53, 0.72, 0.63, 0.56],
    "noise": [0.48, 0.60, 0.35, 0.66, 0.50, 0.55],
}


def test_contrasts_are_those_of_the_records(tmp_path: Path) -> None:
    declared = [contrast("SaEI"), contrast("SaEI", "noise")]
    outcome = outcome_of(recorded(study(tmp_path, contrasts=declared), ending(VALUES)), reasons=())
    expected = []
    for decision, (arm, against) in zip(outcome.decisions, [("SaEI", "GRPO"), ("SaEI", "noise")], strict=True):
        result, differences = decision.result, np.subtract(VALUES[arm], VALUES[against])
        assert result.differences == pytest.approx(differences)
        for interval, confidence in ((result.interval, 0.95), (result.joint, 0.975)):
            ends = ttest_rel(VALUES[arm], VALUES[against]).confidence_interval(confidence)
            assert (interval.low, interval.high) == pytest.approx((ends.low, ends.high))
        flips = permutation_test((differences,), np.mean, permutation_type="samples", n_resamples=np.inf)
        assert result.p == pytest.approx(flips.pvalue)
        expected.append(result.p)
    assert [each.result.adjusted for each in outcome.decisions] == pytest.approx(holm(expected))
    # 2 / 64 twice is above .05: so few bases cannot decide two contrasts.
    assert [each.verdict for each in outcome.decisions] == ["undecided", "undecided"]
    (alone,) = outcome_of(study(tmp_path, contrasts=declared[:1]), reasons=()).decisions
    assert (alone.verdict, alone.result.adjusted) == ("differs", 2 / 64)
    assert verdict(alone) == "Differs: SaEI is higher."
    assert decided(alone, 1).startswith(
        "SaEI - GRPO in eval/accuracy: mean +0.100 over 6 bases, 95 % interval +0.082 to +0.118; p 0.031 by exact sign "
        "flips, 0.031 after Holm."
    )


def test_all_else_is_exploratory(tmp_path: Path) -> None:
    outcome = outcome_of(recorded(study(tmp_path), ending(VALUES)), reasons=())
    assert [(each.arm, each.against, each.verdict) for each in outcome.exploratory] == [
        ("noise", "GRPO", "exploratory"),
        ("SaEI", "noise", "exploratory"),
    ]
    assert outcome.exploratory[0].differences == pytest.approx(np.subtract(VALUES["noise"], VALUES["GRPO"]))
    assert outcome.means["noise"] == [pytest.approx(np.mean(VALUES["noise"]))]
    # A study that is exploratory decides nothing, however clear its difference is.
    (decision,) = outcome_of(study(tmp_path)).decisions
    assert (decision.verdict, decision.result.adjusted) == ("exploratory", 2 / 64)
    assert verdict(decision) == "Not confirmatory: the study is exploratory."


def test_the_joint_interval_widens_with_the_number_of_contrasts(tmp_path: Path) -> None:
    """Differences of .006 ± .018: within ± .03 at 95 %, and no more once three contrasts are to hold at once."""
    differences = [0.024, -0.012, 0.024, -0.012, 0.024, -0.012]
    values = {"GRPO": [0.5] * 6, "SaEI": [0.5 + each for each in differences], "noise": VALUES["noise"]}
    (alone,) = outcome_of(recorded(study(tmp_path), ending(values)), reasons=()).decisions
    assert alone.verdict == "equal within the margin"
    three = [contrast("SaEI"), contrast("noise"), contrast("SaEI", "noise")]
    first, *_ = outcome_of(study(tmp_path, contrasts=three), reasons=()).decisions
    assert first.result.interval == alone.result.interval
    assert first.result.interval.high < 0.03 < first.result.joint.high
    assert first.verdict == "undecided"


def test_escapes_by_hand(tmp_path: Path) -> None:
    """SaEI reaches .7 at steps 2, 2, 4, 2, 4 and never; one run falls back, which makes no difference."""
    curves = {
        "GRPO": [[0, 0.2, 0.2]] * 4 + [[0, 0.2, 0.8]] * 2,
        "SaEI": [[0, 0.8, 0.9], [0, 0.7, 0.1], [0, 0.6, 0.7], [0, 0.9, 0.9], [0, 0.1, 0.9], [0, 0.1, 0.69]],
        "noise": [[0.9, 0.2, 0.2]] * 6,
    }

    def lines(run: StudyRun) -> list[Line]:
        values = curves[run.arm][int(run.base.label[5:])]
        return [{"step": step, "eval/accuracy": value} for step, value in zip((0, 2, 4), values, strict=True)]

    declared = [contrast("SaEI", measure="escape/time", smallest_effect=1, margin=0.5)]
    outcome = outcome_of(recorded(study(tmp_path, escape=ESCAPE, contrasts=declared), lines), reasons=())
    grpo, saei, noise = outcome.arms
    assert outcome.measures == ("escape/time", "escape/share")
    assert [each.means["escape/time"].mean for each in outcome.arms] == pytest.approx(
        [4, (2 + 2 + 4 + 2 + 4 + 4) / 6, 0]
    )
    assert [each.means["escape/share"].mean for each in outcome.arms] == pytest.approx([2 / 6, 5 / 6, 1])
    assert outcome.decisions[0].result.differences == (-2, -2, 0, -2, 0, 0)
    assert saei.escapes is not None
    assert saei.escapes.restricted_mean == pytest.approx(3)
    assert (saei.escapes.steps, saei.escapes.locked) == ((2, 4), pytest.approx((1 / 2, 1 / 6)))
    assert escaped(saei) == "5 of 6 runs escaped (0.359 to 0.996), after 3.000 of 4 steps on average"
    # All of the horizon is the most that two times can differ by.
    assert noise.means["escape/time"] == Interval(0, 0, 0)
    exploratory = {(each.arm, each.against, each.measure): each for each in outcome.exploratory}
    assert exploratory["noise", "GRPO", "escape/time"].interval.high == pytest.approx(-4 + 8 * (1 - 0.025 ** (1 / 6)))
    assert set(exploratory) == {
        ("noise", "GRPO", "escape/time"),
        ("SaEI", "noise", "escape/time"),
        ("SaEI", "GRPO", "escape/share"),
        ("noise", "GRPO", "escape/share"),
    }
    assert grpo.bases == 6


def with_metric(values: Mapping[str, Sequence[float | None]]) -> Callable[[StudyRun], list[Line]]:
    def lines(run: StudyRun) -> list[Line]:
        line, rose = ending(VALUES)(run)[-1], values[run.arm]
        steps = [{"step": n + 1, **({} if each is None else {"train/rose": each})} for n, each in enumerate(rose)]
        return [*steps, line]

    return lines


def test_no_contrast_with_an_arm_that_fails_its_check_is_confirmatory(tmp_path: Path) -> None:
    checks = {"SaEI": {"metric": "train/rose", "at_least": 0.8}, "noise": [{"metric": "train/rose", "at_most": 0.5}]}
    declared = [contrast("SaEI"), contrast("noise")]
    execution = study(tmp_path, checks=checks, contrasts=declared)
    recorded(execution, with_metric({"GRPO": [], "SaEI": [0.9, None, 0.6], "noise": [0.4, 0.6]}))
    outcome = outcome_of(execution, reasons=())
    _, saei, noise = outcome.arms
    assert [each.passed for each in saei.checks + noise.checks] == [False, True]
    assert saei.checks[0].mean == pytest.approx(0.75)  # the step without it is left out
    assert checked(saei.checks[0]) == "train/rose is 0.750, declared at least 0.8: failed"
    assert checked(noise.checks[0]) == "train/rose is 0.500, declared at most 0.5: passed"
    first, second = outcome.decisions
    assert (first.verdict, second.verdict) == ("exploratory", "undecided")
    assert verdict(first) == "Not confirmatory: SaEI did not do what its name says."
    # It was declared, so it still costs the other one its share of Holm's correction.
    assert second.result.adjusted == max(second.result.p, 2 * 2 / 64)
    text = page(execution, outcome)
    assert "train/rose is 0.750, declared at least 0.8: failed" in text


def test_metrics_of_training_are_means_over_steps(tmp_path: Path) -> None:
    execution = study(tmp_path, measures=["train/rose"])
    recorded(execution, with_metric({"GRPO": [], "SaEI": [0.9, None, 0.6], "noise": [0.4, math.nan]}))
    outcome = outcome_of(execution, reasons=())
    assert [means[1] for means in outcome.means.values()] == [None, pytest.approx(0.75), pytest.approx(0.4)]


def test_what_was_not_measured_fails(tmp_path: Path) -> None:
    execution = study(tmp_path, checks={"SaEI": {"metric": "train/rose", "at_least": 0.8}})
    outcome = outcome_of(recorded(execution, ending(VALUES)), reasons=())
    assert checked(outcome.arms[1].checks[0]) == "train/rose was not measured, declared at least 0.8: failed"
    assert outcome.decisions[0].verdict == "exploratory"


def evaluated(execution: Execution, values: Mapping[str, Sequence[float]], measure: str) -> None:
    for run in execution.runs():
        final = {measure: values[run.arm][int(run.base.label[5:])], "problems": {"counts": [1, 2]}}
        (folder_of(run, execution.places.keep) / FINAL).write_text(json.dumps(final))


def test_the_final_evaluation_is_measured_and_all_of_it_is_shown(tmp_path: Path) -> None:
    execution = study(tmp_path, contrasts=[contrast("SaEI", measure="final/pass@16")], final={})
    recorded(execution, ending({arm: [0.1] * 6 for arm in ARMS}))
    evaluated(execution, VALUES, "final/pass@16")
    outcome = outcome_of(execution, reasons=())
    assert outcome.decisions[0].result.differences == pytest.approx(np.subtract(VALUES["SaEI"], VALUES["GRPO"]))
    other = outcome_of(study(tmp_path, final={}), reasons=())
    assert other.measures == ("eval/accuracy", "final/pass@16")
    assert other.means["SaEI"] == pytest.approx([0.1, np.mean(VALUES["SaEI"])])
    assert {each.measure for each in other.exploratory} == {"eval/accuracy"}  # it is shown, and not compared


def finished(folder: Path, lines: Sequence[Line], final: bytes | None) -> Path:
    folder.mkdir()
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if final is not None:
        (folder / FINAL).write_bytes(final)
    return folder


@pytest.mark.parametrize("problems", [0, 800, 1600, 40_000])
def test_a_record_with_its_final_evaluation_is_small(tmp_path: Path, problems: int) -> None:
    execution = study(tmp_path)
    run = execution.runs()[0]
    wide = {f"train/{number}": 0.123456 for number in range(60)}
    lines = [{"step": step, **wide, **({"eval/accuracy": 0.5} if step % 8 == 0 else {})} for step in range(161)]
    final = json.dumps({"final/accuracy": 0.25, "problems": ["12 / 128"] * problems}).encode()
    kept = record(run, finished(tmp_path / "run", lines, final), execution.places.keep)
    sizes = {file.name: file.stat().st_size for file in kept.iterdir()}
    assert set(sizes) == {"config.yaml", "metrics.jsonl", FINAL}
    assert MOST_BYTES / 2 < sum(sizes.values()) <= MOST_BYTES
    again = recorded_final(run, execution.places.keep)
    assert again["final/accuracy"] == 0.25
    assert ("problems" in again) == (problems < 40_000)
    evaluations = [line for line in recorded_metrics(run, execution.places.keep) if "eval/accuracy" in line]
    assert [line["step"] for line in evaluations] == list(range(0, 161, 8))


def test_a_run_without_a_final_evaluation_has_none_in_its_record(tmp_path: Path) -> None:
    execution = study(tmp_path)
    run = execution.runs()[0]
    kept = record(run, finished(tmp_path / "run", [{"step": 0, "eval/accuracy": 0.5}], None), execution.places.keep)
    assert sorted(file.name for file in kept.iterdir()) == ["config.yaml", "metrics.jsonl"]
    assert recorded_final(run, execution.places.keep) == {}


def test_evaluations_are_shortened_before_one_is_left_out() -> None:
    """An arm that logs more has no coarser times to escape: all evaluations stay, some without the step's metrics."""
    wide = {f"train/{number}": 0.123456 for number in range(130)}
    lines = [{"step": step, **wide, "eval/accuracy": 0.5, "probe/entropy": 0.25} for step in range(0, 161, 8)]
    kept = [json.loads(line) for line in thinned(lines).splitlines()]
    assert [line["step"] for line in kept] == list(range(0, 161, 8))
    assert all(line["eval/accuracy"] == 0.5 and line["probe/entropy"] == 0.25 for line in kept)
    whole = [line["step"] for line in kept if "train/0" in line]
    assert (whole[0], whole[-1]) == (0, 160)
    assert 2 < len(whole) < len(kept)
    asked = [json.loads(line) for line in thinned(lines, names={"train/7"}).splitlines()]
    assert [line["train/7"] for line in asked] == [0.123456] * len(lines)
    assert sum("train/8" in line for line in asked) < len(asked)


def test_entropy_is_also_compared_at_matched_accuracy(tmp_path: Path) -> None:
    """SaEI has learnt half as much and has .1 nats more at each accuracy; noise has no accuracy in common."""
    paths = {
        "GRPO": [(0.2, 1.0), (0.6, 0.6), (1.0, 0.2)],
        "SaEI": [(0.2, 1.1), (0.4, 0.9), (0.6, 0.7)],
        "noise": [(0.1, 1.0), (0.1, 0.9), (0.15, 0.8)],
    }

    def lines(run: StudyRun) -> list[Line]:
        return [{"step": n, "eval/accuracy": a, "probe/entropy": e} for n, (a, e) in enumerate(paths[run.arm])]

    outcome = outcome_of(recorded(study(tmp_path), lines), reasons=())
    matched = [each for each in outcome.exploratory if each.measure == "matched/entropy"]
    assert [(each.arm, each.against) for each in matched] == [("SaEI", "GRPO")]
    assert matched[0].differences == pytest.approx([0.1] * 6)


def test_several_seeds_show_how_they_scatter(tmp_path: Path) -> None:
    """Bases .0 and .2, seeds ± .01 about them, no interaction: the variance between seeds is 2 × .01² / 1."""

    def lines(run: StudyRun) -> list[Line]:
        value = 0.4 + 0.2 * int(run.base.label[5:]) + (0.01 if run.repeat else -0.01)
        return [{"step": 4, "eval/accuracy": value}]

    execution = recorded(study(tmp_path, seeds=2, bases={"models": ["a", "b"]}), lines)
    outcome = outcome_of(execution, reasons=())
    components = outcome.variance["eval/accuracy"]
    assert components.between_seeds.variance == pytest.approx(2e-4)
    assert components.between_bases.mean_square == pytest.approx(3 * 2 * 2 * 0.1**2)
    assert outcome.decisions[0].result.differences == pytest.approx((0, 0))
    assert "## Variance" in page(execution, outcome)
    assert outcome_of(study(tmp_path), reasons=()).variance == {}


def test_values_that_are_not_finite_leave_their_base_unpaired_and_named(tmp_path: Path) -> None:
    values = {**VALUES, "SaEI": [math.nan, *VALUES["SaEI"][1:]]}
    outcome = outcome_of(recorded(study(tmp_path), ending(values)), reasons=())
    assert len(outcome.decisions[0].result.bases) == 5
    assert missing(outcome)[-1] == "SaEI - GRPO in eval/accuracy: only one arm has base 0."


def test_headline_answers_are_adjusted_over_all_declared_ones(tmp_path: Path) -> None:
    """p is 2/64 in two studies that were run; with two that were not, Holm's first factor is four, not two."""
    studies = []
    for number_of, done in enumerate((True, True, False, False)):
        folder = tmp_path / str(number_of)
        folder.mkdir()
        execution = study(
            folder, name=f"study-{number_of}", contrasts=[contrast("SaEI", headline=True), contrast("noise")]
        )
        if done:
            recorded(execution, ending(VALUES))
        studies.append((execution.read.study, outcome_of(execution, reasons=())))
    answers = headline_answers(studies)
    assert [each.study.name for each in answers] == [f"study-{number_of}" for number_of in range(4)]
    p = 2 / 64
    assert [each.decision.result.headline for each in answers if each.decision] == [4 * p, 4 * p]
    alone = headline_answers(studies[:1])[0].decision
    assert alone is not None
    assert (alone.result.headline, alone.result.adjusted) == (p, 2 * p)
    rows = headline_table(answers).splitlines()[2:]
    assert [row.rsplit("| ", 1)[1] for row in rows[2:]] == ["Not run. |"] * 2
    assert "| 0.062 | 0.12 | Decides nothing" in rows[0]
    assert headline_table(headline_answers([])) == "No study that comes with saei declares one."


def test_a_page_shows_no_outcome_before_every_run_has_ended(tmp_path: Path) -> None:
    execution = study(tmp_path)
    assert "**Verdict.** Not run." in page(execution, outcome_of(execution))
    recorded(execution, ending(VALUES), leave_out=1)
    outcome = outcome_of(execution)
    text = page(execution, outcome)
    assert "**Verdict.** 17 of 18 runs are recorded." in text
    assert "every run of every declared base has ended" in text
    assert not any(f"{value:.3f}" in text for values in VALUES.values() for value in values)
    assert (outcome.arms, outcome.decisions, outcome.exploratory) == ((), (), ())


def test_a_page_begins_with_question_and_verdict_and_has_what_decides_it(tmp_path: Path) -> None:
    execution = recorded(study(tmp_path, escape=ESCAPE), ending(VALUES))
    execution.ledger.add("finished", run="x", arm="GRPO", base="base-0", repeat=0, seed=0, seconds=7200.0)
    text = page(execution, outcome_of(execution, reasons=()))
    head = text.split("## ")[0].split("\n\n")
    assert head[:4] == [
        "# mine",
        "**Question.** Does it?",
        "**Refuted if.** It does not.",
        "**Verdict.** SaEI - GRPO: Differs: SaEI is higher.",
    ]
    assert head[4] == "**Standing.** Declared before its runs."
    titles = [line[3:] for line in text.splitlines() if line.startswith("## ")]
    assert titles == [
        "Settings",
        "Arms",
        "Bases",
        "Primary contrasts",
        "Each arm",
        "Exploratory",
        "How to repeat it",
    ]
    assert "| SaEI | `{attack: {step: 2/255}}` |  |" in text
    assert "| base 3 | +0.120 |" in text
    assert "| eval/accuracy | 0.508 (0.440 to 0.577) |" in text
    assert "- SaEI: 1 of 6 runs escaped" in text
    assert "| eval/accuracy | noise | GRPO | +0.015 |" in text
    assert "The finished runs took 2.0 CPU-hours." in text
    assert "0 bases rejected by their gate before any run." in text


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    def call(word: str, *words: str) -> tuple[int, str]:
        places = [str(tmp_path / "mine.yaml"), "--output", str(tmp_path / "runs"), "--keep", str(tmp_path / "kept")]
        monkeypatch.setattr(sys, "argv", ["saei", "study", word, *places, *words])
        monkeypatch.setenv("COLUMNS", "80")
        with pytest.raises(SystemExit) as left:
            cli()
        return int(left.value.code or 0), capfd.readouterr().out

    return call


def test_show_prints_the_outcome_on_80_columns_and_as_json(
    tmp_path: Path, command: Callable[..., tuple[int, str]]
) -> None:
    execution = recorded(study(tmp_path, escape=ESCAPE), ending(VALUES))
    code, said = command("show")
    assert code == 0
    table = said[said.index("measure") : said.index("GRPO: 0 of 6")].splitlines()
    assert max(map(len, table)) <= 80
    assert table[1].split() == ["eval/accuracy", "0.508", "0.608", "0.523"]
    assert "SaEI - GRPO in eval/accuracy: mean +0.100 over 6 bases" in said
    code, said = command("show", "--json")
    told = json.loads(said)
    assert told["complete"]
    assert told["study"]["name"] == "mine"
    (decision,) = told["decisions"]
    (expected,) = compare(
        {run.key: {"eval/accuracy": VALUES[run.key.arm][int(run.key.base[5:])]} for run in _keys(execution)},
        execution.read.study.contrasts,
    )
    assert decision["result"]["interval"]["low"] == pytest.approx(expected.interval.low)
    assert (decision["verdict"], told["reasons"]) == ("exploratory", ["it is not frozen (`saei study freeze`)"])


def _keys(execution: Execution) -> Sequence[Any]:
    from saei.studies.measures import read_recorded

    return read_recorded(execution.runs(), execution.places.keep, None)


def test_json_shows_no_outcome_before_every_run_has_ended(
    tmp_path: Path, command: Callable[..., tuple[int, str]]
) -> None:
    recorded(study(tmp_path), ending(VALUES), leave_out=1)
    told = json.loads(command("show", "--json")[1])
    assert (told["complete"], told["recorded"], told["arms"], told["decisions"]) == (False, 17, [], [])


def test_the_page_is_written_beside_what_is_kept(tmp_path: Path, command: Callable[..., tuple[int, str]]) -> None:
    execution = recorded(study(tmp_path), ending(VALUES))
    code, said = command("page")
    assert (code, said) == (0, f"Wrote {tmp_path / 'kept.md'}.\n")
    assert (tmp_path / "kept.md").read_text() == page(execution, outcome_of(execution))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"contrasts": [contrast("SaEI", measure="escape/time")]}, "Give `escape` with a threshold"),
        ({"contrasts": [contrast("SaEI", measure="escape/pace")], "escape": ESCAPE}, "measure"),
        ({"measures": ["escape/share"]}, "Give `escape` with a threshold"),
        ({"measures": ["accuracy"]}, "measures"),
        ({"measures": ["final/pass@16"]}, "Add `final: {}`"),
        ({"escape": {"metric": "train/accuracy", "threshold": 0.7}}, "escape.metric"),
        ({"checks": {"SAEI": {"metric": "train/rose", "at_least": 0.8}}}, "`checks` names declared arms"),
        ({"checks": {"SaEI": {"metric": "train/rose"}}}, "A check has a bound"),
        ({"checks": {"SaEI": {"metric": "eval/accuracy", "at_least": 0.8}}}, "checks.SaEI.0.metric"),
        ({"contrasts": [contrast("SaEI", headline=True), contrast("noise", headline=True)]}, "one headline answer"),
        (
            {"arms": {**ARMS, "noise": {**ARMS["noise"], "evaluation": {"every": 4}}}, "escape": ESCAPE},
            "'GRPO' has 4 steps and is evaluated every 2, 'noise' 4 and 4",
        ),
    ],
)
def test_what_a_study_declares_of_its_outcome_is_checked(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        study(tmp_path, **changes)
    assert words in str(caught.value), caught.value
    assert caught.value.remedy


def test_an_arm_with_more_steps_is_followed_up_to_those_of_the_others(tmp_path: Path) -> None:
    """It escapes at step 6 of 8, which the others' horizon of 4 does not see."""
    longer = {**ARMS, "longer": {"sampler": "clean", "training": {"steps": 8}}}
    execution = study(tmp_path, arms=longer, unequal={"longer": "as SaEI's time buys"}, escape=ESCAPE)

    def lines(run: StudyRun) -> list[Line]:
        steps = range(0, run.planned.config.training.steps + 1, 2)
        return [{"step": step, "eval/accuracy": 0.8 if step >= 6 else 0.1} for step in steps]

    outcome: Outcome = outcome_of(recorded(execution, lines), reasons=())
    assert [each.means["escape/time"].mean for each in outcome.arms] == [4, 4, 4, 4]
    assert [each.means["escape/share"].mean for each in outcome.arms] == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("value", "sign", "text"),
    [
        (0.05, False, "0.050"),
        (0.05, True, "+0.050"),
        (-42.25, True, "-42.2"),
        (None, False, "none"),
        (math.inf, True, "unbounded"),
        (math.nan, False, "none"),
    ],
)
def test_numbers_in_words(value: float | None, sign: bool, text: str) -> None:
    assert number(value, sign=sign) == text
