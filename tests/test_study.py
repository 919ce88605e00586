"""Studies: what a file may declare, the plan worked by hand, freezing, claims, the ledger and records."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from saei.builtin import LockIn
from saei.cli import main as cli
from saei.config.run import validate
from saei.engine import checkpoint
from saei.errors import ConfigError, SaeiError
from saei.studies import freeze as freezing
from saei.studies.arms import training_responses
from saei.studies.bases import build_all, build_command
from saei.studies.build import main
from saei.studies.catalogue import shipped
from saei.studies.claims import Claims
from saei.studies.display import RunsDisplay
from saei.studies.execution import Execution, StudyPlaces
from saei.studies.freeze import exploratory, freeze, read_frozen
from saei.studies.ledger import Ledger
from saei.studies.outcome import outcome_of
from saei.studies.plan import Base, cpu_hours, derived_seed, plan_runs
from saei.studies.record import MOST_BYTES, RESERVED_BYTES, thinned
from saei.studies.scheduler import State, run_all
from saei.studies.sentences import decided, missing
from saei.studies.study import read
from test_study_runs import FAKE

CONTENT: dict[str, Any] = {
    "name": "mine",
    "question": "Does it?",
    "refuted_by": "It does not.",
    "settings": {
        "task": "bars",
        "training": {"steps": 4, "prompts_per_step": 2},
        "evaluation": {"every": 2, "examples": 2, "responses": 2, "probe_examples": 2, "probe_responses": 2},
    },
    "arms": {"GRPO": {"sampler": "clean"}, "SaEI": {"attack": {"step": "2/255"}}},
    "bases": {"models": ["builtin", "builtin:lock-in"]},
    "seeds": 2,
    "budget": {"responses": 96, "cpu_hours": 1},
    "contrasts": [
        {"arm": "SaEI", "against": "GRPO", "measure": "eval/accuracy", "smallest_effect": 0.05, "margin": 0.03}
    ],
}


def written(folder: Path, **changes: Any) -> Path:
    """Return the file of a study with some fields changed, ``a__b`` for one of a section; None leaves a field out."""
    content = json.loads(json.dumps(CONTENT))
    for path, value in changes.items():
        section, _, field = path.partition("__")
        holder, name = (content[section], field) if field else (content, section)
        if value is None:
            del holder[name]
        else:
            holder[name] = value
    file = folder / "mine.yaml"
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    return file


def opened(folder: Path, **changes: Any) -> Execution:
    file = written(folder, **changes)
    return Execution(read(file), StudyPlaces(folder / "runs", folder / "kept"))


@pytest.fixture
def fake(tmp_path: Path) -> Sequence[str]:
    """A launcher of processes that pretend to train."""
    file = tmp_path / "fake.py"
    file.write_text(FAKE.replace("training_state.pt", checkpoint.STATE))
    return sys.executable, str(file)


def do(execution: Execution, launcher: Sequence[str], jobs: int = 2, **options: Any) -> list[State]:
    with execution.open(execution.runs()) as (statuses, hooks):
        run_all(statuses, jobs=jobs, launcher=launcher, hooks=hooks, **options)
    return [status.state for status in statuses]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"question": None}, "question: This field is required"),
        ({"question": ""}, "question"),
        ({"refuted_by": None}, "refuted_by: This field is required"),
        ({"name": "My Study"}, "lower-case letters"),
        ({"colour": "red"}, "colour: There is no such field"),
        ({"arms": {}}, "arms"),
        ({"arms__SaEI": {"attack": {"steep": 1}}}, "the arm 'SaEI'.*|steep"),
        ({"arms__SaEI": {"sampler": "clean"}}, "'GRPO' and 'SaEI' of .* have the same"),
        ({"arms__SaEI": {"objective": "sapo"}}, "objective 'sapo' cannot"),
        ({"arms__SaEI": {"sampler": {"type": "mixed", "n_clean": 7}}}, "'SaEI' samples 104 .* is 96"),
        (
            {
                "arms__SaEI": {"sampler": {"type": "mixed", "intervention": {"control": "other-example"}}},
                "settings__training": {"steps": 8, "prompts_per_step": 1},
            },
            "needs two groups in a step",
        ),
        ({"bases": {}}, "either `models`, or a `recipe`"),
        ({"bases": {"models": ["builtin"], "recipe": "general", "count": 2}}, "either `models`, or a `recipe`"),
        ({"bases": {"recipe": "general"}}, "either `models`, or a `recipe`"),
        ({"bases": {"recipe": "lokc-in", "count": 2}}, "Did you mean 'lock-in'"),
        ({"bases": {"models": ["builtin", "builtin"]}}, "each is named once"),
        ({"contrasts": [CONTENT["contrasts"][0]] * 4}, "contrasts: .*at most 3"),
        ({"contrasts": [{**CONTENT["contrasts"][0], "arm": "SAEI"}]}, "Did you mean 'SaEI'"),
        ({"contrasts": [{**CONTENT["contrasts"][0], "arm": "GRPO"}]}, "has 'GRPO' twice"),
        ({"contrasts": [{**CONTENT["contrasts"][0], "margin": 0}]}, "margin"),
        ({"contrasts": [{**CONTENT["contrasts"][0], "measure": "accuracy"}]}, "measure"),
        ({"unequal": {"SaEI": "by time"}}, "declared unequal"),
        ({"unequal": {"SAEI": "by time"}}, "`unequal` names declared arms"),
    ],
)
def test_a_study_that_could_decide_nothing_is_refused_when_it_is_read(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        read(written(tmp_path, **changes))
    assert re.search(words.split("|")[0], str(caught.value), re.DOTALL), caught.value
    assert caught.value.remedy


def test_a_study_is_read_with_each_arms_configuration(tmp_path: Path) -> None:
    file = written(tmp_path)
    study = read(file)
    assert study.configs["GRPO"] == validate({**CONTENT["settings"], "sampler": "clean"})
    assert study.configs["SaEI"].model_dump()["sampler"]["intervention"]["attack"]["step"] == "2/255"
    assert [training_responses(config) for config in study.configs.values()] == [96, 96]
    changed = read(file, assignments=["optimizer.lr=1e-4"])
    assert {config.optimizer.lr for config in changed.configs.values()} == {1e-4}
    longer = {"GRPO": {"sampler": "clean"}, "SaEI": {"attack": {"step": "2/255"}}}
    longer["GRPO x 2"] = {"sampler": {"type": "clean", "n": 24}}
    assert set(read(written(tmp_path, arms=longer, unequal={"GRPO x 2": "as SaEI's time buys"})).configs) == set(longer)
    with pytest.raises(ConfigError, match=r"samples 192 .* is 96"):
        read(written(tmp_path, arms=longer))


@pytest.mark.parametrize("name", sorted(shipped()))
def test_shipped_studies_are_whole_and_fit_their_budget(name: str) -> None:
    study = read(shipped()[name])
    assert study.study.name == name
    quick = read(shipped()[name], quick=True)
    assert {config.training.steps for config in quick.configs.values()} == {3}


def test_the_plan_is_every_arm_on_every_base_with_every_seed(tmp_path: Path) -> None:
    study = read(written(tmp_path))
    runs = plan_runs(study, tmp_path, "unfrozen")
    assert [(run.arm, run.base.path, run.repeat) for run in runs] == [
        ("GRPO", "builtin", 0),
        ("SaEI", "builtin", 0),
        ("GRPO", "builtin", 1),
        ("SaEI", "builtin", 1),
        ("GRPO", "builtin:lock-in", 0),
        ("SaEI", "builtin:lock-in", 0),
        ("GRPO", "builtin:lock-in", 1),
        ("SaEI", "builtin:lock-in", 1),
    ]
    seeds = [run.planned.config.seed for run in runs]
    assert seeds[0::2] == seeds[1::2]  # arms are compared on equal seeds
    assert len(set(seeds)) == 4
    assert seeds[0] == derived_seed("unfrozen", "run", 0, 0)
    assert [run.planned.config.model.path for run in runs[3:5]] == ["builtin", "builtin:lock-in"]
    assert len({run.identity for run in runs}) == 8
    assert runs[0].planned.folder == tmp_path / "runs" / runs[0].identity
    frozen = plan_runs(study, tmp_path, "0" * 40)
    assert not {run.identity for run in runs} & {run.identity for run in frozen}
    # 4 steps x 2 prompts x 12 responses, and 3 evaluations of 2 x 2 + 2 x 2
    assert runs[0].planned.responses == 4 * 2 * 12 + 3 * 8


def test_a_run_is_the_same_wherever_its_base_lies(tmp_path: Path) -> None:
    study = read(written(tmp_path, bases={"recipe": "general", "count": 2}))
    here, there = (plan_runs(study, tmp_path / name, "unfrozen") for name in ("here", "there"))
    assert [run.identity for run in here] == [run.identity for run in there]
    assert here[0].planned.config.model.path != there[0].planned.config.model.path


def test_a_recipe_that_is_changed_makes_other_bases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    execution = opened(tmp_path, bases={"recipe": "lock-in", "count": 1})
    faded = execution.bases()[0]
    monkeypatch.setattr("saei.studies.plan.MODEL_RECIPES", {"lock-in": lambda: LockIn("crisp")})
    crisp = execution.bases()[0]
    assert crisp.seed == faded.seed
    assert crisp.path != faded.path
    assert crisp.known_as != faded.known_as


def build(base: Base, accepted: bool) -> None:
    Path(base.path).mkdir(parents=True)
    (Path(base.path) / "recipe.json").write_text(json.dumps({"gate": {"accepted": accepted}}))


def test_a_base_that_the_gate_rejects_is_replaced_by_the_next_candidate(tmp_path: Path) -> None:
    execution = opened(tmp_path, bases={"recipe": "general", "count": 3})
    first = execution.bases()
    assert [base.label for base in first] == ["base 0", "base 1", "base 2"]
    assert [base.accepted for base in first] == [None] * 3
    build(first[0], True)
    build(first[1], False)
    assert [base.label for base in execution.bases()] == ["base 0", "base 2", "base 3"]
    seed = derived_seed("unfrozen", "base general", 3)
    assert execution.bases()[2].seed == seed
    assert execution.bases()[2].path.endswith(f"-{seed}")


def test_bases_are_built_until_enough_are_accepted_and_the_ledger_has_all(tmp_path: Path) -> None:
    execution = opened(tmp_path, bases={"recipe": "general", "count": 2})
    rejected = execution.bases()[1].path

    def command(base: Base) -> list[str]:
        accepted = base.path != rejected
        code = "import json, pathlib, sys; f = pathlib.Path(sys.argv[1]); f.mkdir(); " + (
            f"(f / 'recipe.json').write_text(json.dumps({{'gate': {{'accepted': {accepted}}}}}))"
        )
        return [sys.executable, "-c", code, base.path]

    Path(rejected).mkdir(parents=True)  # left by a process that was killed
    said: list[str] = []
    claims = Claims(tmp_path / "claims")
    options: dict[str, Any] = {"jobs": 2, "claims": claims, "ledger": execution.ledger, "say": said.append}
    assert build_all(execution.bases, command=command, **options)
    assert [base.accepted for base in execution.bases()] == [True, True]
    events = [(line["event"], line["base"]) for line in execution.ledger.lines()]
    assert sorted(event for event, _ in events) == ["accepted", "accepted", "rejected"]
    assert [base.rpartition(":")[2] for event, base in events if event == "rejected"] == [rejected.rpartition("-")[2]]
    wanted = [Base("x", str(tmp_path / "x"), "built:general:1", "general", 1)]
    with pytest.raises(SaeiError, match="needs its bases"):
        build_all(lambda: wanted, command=lambda base: [sys.executable, "-c", ""], **options)


def test_a_run_alone_refuses_a_base_that_was_rejected(tmp_path: Path) -> None:
    execution = opened(tmp_path, bases={"recipe": "general", "count": 1})
    base = execution.bases()[0]
    build(base, False)
    with pytest.raises(ConfigError, match="is rejected, and the next candidate"):
        execution.build_bases(jobs=1, say=lambda text: None, only=base)


def test_a_bases_process_builds_by_its_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = Base("x", str(tmp_path / "x"), "built:lock-in:7", "lock-in", 7)
    words = build_command(base)
    assert words[1:3] == ["-m", "saei.studies.build"]
    built: list[tuple[Path, str, int]] = []
    monkeypatch.setattr(
        "saei.builtin.build_tiny",
        lambda folder, recipe, seed, progress: built.append((folder, recipe.settings()["recipe"], seed)),
    )
    main(Path(words[3]), words[4], int(words[5]))
    assert built == [(tmp_path / "x", "lock-in", 7)]


def test_all_runs_are_done_recorded_and_not_repeated(tmp_path: Path, fake: Sequence[str]) -> None:
    execution = opened(tmp_path)
    assert not outcome_of(execution).complete
    assert do(execution, fake) == [State.complete] * 8
    assert execution.left() == []
    events = [line["event"] for line in execution.ledger.lines()]
    assert sorted(events) == ["finished"] * 8 + ["started"] * 8
    outcome = outcome_of(execution)
    assert outcome.complete
    assert outcome.means == {"GRPO": [0.04], "SaEI": [0.04]}  # the fake's accuracy is a hundredth of its steps
    (decision,) = outcome.decisions
    assert decided(decision, 1).startswith("SaEI - GRPO in eval/accuracy: mean +0.000 over 2 bases")
    # Two equal differences tell nothing of other bases: up to 84 % of them may differ by all of the range.
    assert decision.result.interval.high == pytest.approx(1 - 0.025 ** (1 / 2))
    again = opened(tmp_path)
    assert do(again, ("false",)) == [State.complete] * 8
    assert len(again.ledger.lines()) == 16
    # Another machine, with the records alone.
    elsewhere = Execution(execution.read, StudyPlaces(tmp_path / "elsewhere", tmp_path / "kept"))
    assert do(elsewhere, ("false",)) == [State.complete] * 8
    # Another study in the same folder takes the runs, and records them as its own.
    other = Execution(execution.read, StudyPlaces(tmp_path / "runs", tmp_path / "other"))
    assert do(other, ("false",)) == [State.complete] * 8
    assert [(line["event"], line["reused"]) for line in other.ledger.lines()] == [("finished", True)] * 8


def test_a_record_names_no_path_and_is_small(tmp_path: Path, fake: Sequence[str]) -> None:
    execution = opened(tmp_path, bases={"recipe": "general", "count": 1})
    build(execution.bases()[0], True)
    do(execution, fake)
    files = [file for file in (tmp_path / "kept" / "runs").rglob("*") if file.is_file()]
    assert len(files) == 2 * 4
    assert not any(str(tmp_path) in file.read_text() for file in files)
    assert str(tmp_path) not in execution.ledger.file.read_text()


def test_metrics_are_thinned_evaluations_first() -> None:
    most = MOST_BYTES - RESERVED_BYTES
    short = [{"step": 0, "eval/accuracy": 1 / 3}, {"step": 1, "train/loss": 0.5}, {"step": 2, "eval/accuracy": 0.5}]
    assert [json.loads(line) for line in thinned(short).splitlines()] == [
        {"step": 0, "eval/accuracy": 0.333333},
        {"step": 1, "train/loss": 0.5},
        {"step": 2, "eval/accuracy": 0.5},
    ]
    wide = {f"train/{number}": 0.123456 for number in range(130)}
    long = [{"step": step, **wide, **({"eval/accuracy": 0.5} if step % 10 == 0 else {})} for step in range(101)]
    text = thinned(long)
    kept = [json.loads(line)["step"] for line in text.splitlines()]
    assert len(text) <= most
    assert set(range(0, 101, 10)) <= set(kept)
    huge = [{**line, "eval/accuracy": 0.5} for line in long]
    steps = [json.loads(line)["step"] for line in thinned(huge).splitlines()]
    assert len(thinned(huge)) <= most
    assert (steps[0], steps[-1]) == (0, 100)
    assert len(steps) > 5


def test_a_failed_arm_is_noted_and_keeps_no_other_from_its_end(
    tmp_path: Path, fake: Sequence[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    execution = opened(tmp_path, seeds=1)
    broken = Path(fake[1])
    broken.write_text(broken.read_text().replace('config["seed"] == 13', 'config["sampler"]["type"] == "mixed"'))
    states = do(execution, fake)
    assert states == [State.complete, State.failed] * 2
    events = [(line["event"], line["arm"]) for line in execution.ledger.lines() if line["event"] != "started"]
    assert sorted(events) == [("failed", "SaEI")] * 2 + [("finished", "GRPO")] * 2
    outcome = outcome_of(execution)
    assert (outcome.recorded, outcome.failed, outcome.complete) == (2, 2, True)
    assert [decided(decision, 1) for decision in outcome.decisions] == [
        "SaEI - GRPO in eval/accuracy: no base has both."
    ]
    assert [(each.arm, each.failed) for each in outcome.arms] == [("GRPO", ()), ("SaEI", ("base 0", "base 1"))]
    assert "SaEI failed on base 0, base 1." in missing(outcome)


def test_nothing_of_the_arms_is_shown_before_all_bases_are_done(
    tmp_path: Path, fake: Sequence[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    execution = opened(tmp_path, seeds=1)
    display = RunsDisplay(1, outcomes=False)
    runs = execution.runs()
    with execution.open(runs[:3]) as (statuses, hooks), display.open(statuses):
        run_all(statuses, jobs=1, launcher=fake, hooks=hooks, on_change=display.change)
    outcome = outcome_of(execution)
    assert (outcome.recorded, outcome.runs, outcome.complete) == (3, 4, False)
    assert outcome.means == {}
    assert (outcome.arms, outcome.decisions, outcome.exploratory, outcome.variance) == ((), (), (), {})
    monkeypatch.setattr(
        sys, "argv", ["saei", "study", "show", str(execution.read.file), "--output", str(tmp_path / "runs"),
                      "--keep", str(tmp_path / "kept")]
    )  # fmt: skip
    with pytest.raises(SystemExit):
        cli()
    shown = "".join(capsys.readouterr())
    assert "3 of 4 runs are recorded" in shown
    assert "GRPO, base 0, step 4/4" in shown
    assert "0.04" not in shown  # the fake's accuracy


def test_an_interrupt_is_noted_and_the_next_call_ends_the_study(
    tmp_path: Path, fake: Sequence[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    execution = opened(tmp_path, settings__training={"steps": 400, "prompts_per_step": 2}, budget={"responses": 9600})
    stopped: list[int] = []

    def interrupt(statuses: Any) -> None:
        if not stopped and sum((status.folder / "ready").exists() for status in statuses) == 2:
            os.kill(os.getpid(), signal.SIGINT)

    states = do(execution, fake, on_change=interrupt, on_stop=lambda: stopped.append(1))
    assert states == [State.stopped] * 2 + [State.waiting] * 6
    events = [line["event"] for line in execution.ledger.lines()]
    assert events == ["started", "started", "aborted", "aborted"]
    assert not outcome_of(execution).complete
    monkeypatch.setenv("FAKE_STEP_S", "0")
    assert do(execution, fake) == [State.complete] * 8
    resumed = [line for line in execution.ledger.lines()[4:] if line["event"] == "started"]
    assert [line["step"] > 0 for line in resumed[:2]] == [True, True]


JOB = """
import sys
from pathlib import Path
from saei.studies.execution import Execution, StudyPlaces
from saei.studies.scheduler import run_all
from saei.studies.study import read

here = Path(sys.argv[1])
execution = Execution(read(here / "mine.yaml"), StudyPlaces(here / "runs", here / "kept"))
with execution.open(execution.runs()) as (statuses, hooks):
    run_all(statuses, jobs=2, launcher=(sys.executable, str(here / "fake.py")), hooks=hooks)
sys.exit(any(status.state != "complete" for status in statuses))
"""


def job(folder: Path, **environment: str) -> subprocess.Popen[bytes]:
    file = folder / "job.py"
    file.write_text(JOB)
    return subprocess.Popen([sys.executable, str(file), str(folder)], env={**os.environ, **environment})


def test_two_processes_share_a_folder_and_a_killed_one_is_replaced(tmp_path: Path, fake: Sequence[str]) -> None:
    execution = opened(tmp_path)
    ending = "from saei.studies.process import end_with_parent\nend_with_parent()\n"
    Path(fake[1]).write_text(ending + Path(fake[1]).read_text())
    slow = job(tmp_path, FAKE_STEP_S="600")
    while len(execution.ledger.lines()) < 2:
        assert slow.poll() is None
        time.sleep(0.05)
    # It holds two of the eight; this process does the other six, and waits for them.
    seen: list[list[State]] = []

    def look(statuses: Any) -> None:
        seen.append([status.state for status in statuses])
        if [state for state in seen[-1] if state is not State.complete] == [State.elsewhere] * 2:
            slow.kill()
            slow.wait()

    assert do(execution, fake, on_change=look) == [State.complete] * 8
    assert sum(state is State.elsewhere for state in seen[0]) == 2
    starts = [line["run"] for line in execution.ledger.lines() if line["event"] == "started"]
    assert len(starts) == 10
    assert len(set(starts)) == 8
    assert sum(line["event"] == "finished" for line in execution.ledger.lines()) == 8


def test_no_run_is_done_twice_by_two_processes(tmp_path: Path, fake: Sequence[str]) -> None:
    execution = opened(tmp_path)
    both = [job(tmp_path, FAKE_STEP_S="0.1") for _ in range(2)]
    assert [process.wait(120) for process in both] == [0, 0]
    lines = execution.ledger.lines()
    assert sorted(line["event"] for line in lines) == ["finished"] * 8 + ["started"] * 8
    assert len({line["run"] for line in lines}) == 8


def test_the_time_of_what_is_left_is_that_of_equal_arms(tmp_path: Path) -> None:
    runs = plan_runs(read(written(tmp_path)), tmp_path, "unfrozen")
    responses = runs[0].planned.responses
    assert cpu_hours(runs, []) is None
    lines = [{"arm": "GRPO", "seconds": 2.0 * responses, "responses": responses}]
    assert cpu_hours(runs, lines) == pytest.approx(8 * 2 * responses / 3600)
    lines.append({"arm": "SaEI", "seconds": 6.0 * responses, "responses": responses})
    assert cpu_hours(runs, lines) == pytest.approx((4 * 2 + 4 * 6) * responses / 3600)


def git(folder: Path, *words: str) -> str:
    command = ["git", "-C", str(folder), "-c", "user.name=x", "-c", "user.email=x@x", *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_seeds_come_from_the_commit_that_froze_it_and_changes_are_found(tmp_path: Path) -> None:
    keep, ledger = tmp_path / "kept", Ledger(tmp_path / "kept", tmp_path / "lock")
    file = written(tmp_path)
    with pytest.raises(ConfigError, match="in no commit"):
        freeze(read(file), keep, ledger)
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "mine.yaml")
    git(tmp_path, "commit", "-qm", "a study")
    assert exploratory(read(file), keep, ledger) == ["it is not frozen (`saei study freeze`)"]
    content = file.read_text()
    file.write_text(content + "# changed\n")
    with pytest.raises(ConfigError, match=r"Not committed: mine.yaml"):
        freeze(read(file), keep, ledger)
    file.write_text(content)
    ledger.add("started", run="tuning", frozen=None, dirty=True)  # before the freeze, on other seeds
    frozen = freeze(read(file), keep, ledger)
    assert frozen.commit == git(tmp_path, "rev-parse", "HEAD")
    assert read_frozen(keep) == frozen
    assert exploratory(read(file), keep, ledger) == []
    execution = Execution(read(file), StudyPlaces(tmp_path / "runs", keep))
    assert execution.runs()[0].planned.config.seed == derived_seed(frozen.commit, "run", 0, 0)
    assert exploratory(read(file, assignments=["optimizer.lr=1e-4"]), keep, ledger) == [
        "--set changed what the file declares"
    ]
    file.write_text(content.replace("0.03", "0.01"))
    assert exploratory(read(file), keep, ledger) == ["its file has changed since it was frozen"]
    git(tmp_path, "commit", "-qam", "a smaller margin")
    assert exploratory(read(file), keep, ledger) == ["its file has changed since it was frozen"]
    file.write_text(content)
    fair = {"run": "x", "frozen": frozen.commit, "study_sha256": frozen.sha256, "dirty": False}
    ledger.add("started", **fair)
    assert exploratory(read(file), keep, ledger) == []
    ledger.add("started", **{**fair, "dirty": True})
    assert exploratory(read(file), keep, ledger) == ["a run was started with changes that no commit holds"]
    with pytest.raises(ConfigError, match="an earlier freeze"):
        freeze(read(file), keep, ledger)


def test_a_run_with_a_changed_file_is_found_after_the_file_is_put_back(tmp_path: Path) -> None:
    keep, ledger = tmp_path / "kept", Ledger(tmp_path / "kept", tmp_path / "lock")
    file = written(tmp_path)
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "mine.yaml")
    git(tmp_path, "commit", "-qm", "a study")
    frozen = freeze(read(file), keep, ledger)
    ledger.add("started", run="x", frozen=frozen.commit, study_sha256="another", dirty=False)
    assert exploratory(read(file), keep, ledger) == ["a run was started under another freeze or with a changed file"]


def test_code_of_the_same_repository_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What decides may not change after the freeze, whatever else may change is told by the starts of runs."""
    code = tmp_path / "code"
    files = ("builtin/gate.py", "studies/statistics/contrasts.py", "studies/outcome.py", "engine/trainer.py")
    for name in files:
        (code / name).parent.mkdir(parents=True, exist_ok=True)
        (code / name).write_text("FLOOR = 0.8\n")
    monkeypatch.setattr(freezing, "CODE", code)
    keep, ledger = tmp_path / "kept", Ledger(tmp_path / "kept", tmp_path / "lock")
    file = written(tmp_path)
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "mine.yaml", "code")
    git(tmp_path, "commit", "-qm", "a study")
    freeze(read(file), keep, ledger)
    changed = ["the gate or the statistics have changed since it was frozen"]
    for name in files:
        (code / name).write_text("FLOOR = 0.7\n")
        assert exploratory(read(file), keep, ledger) == (changed if name != "engine/trainer.py" else [])
        assert exploratory(read(file), keep, ledger, deciding=False) == []
        git(tmp_path, "commit", "-qam", "a lower gate")
        assert exploratory(read(file), keep, ledger) == (changed if name != "engine/trainer.py" else [])
        (code / name).write_text("FLOOR = 0.8\n")
        assert exploratory(read(file), keep, ledger) == []
    (code / "builtin" / "new.py").write_text("")
    assert exploratory(read(file), keep, ledger) == changed
    with pytest.raises(ConfigError, match=r"Not committed: .*builtin/new.py"):
        freeze(read(file), keep, ledger)


def test_a_study_goes_on_from_a_worktree_while_its_code_moves_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake: Sequence[str]
) -> None:
    main, frozen = tmp_path / "main", tmp_path / "frozen"
    for name in ("builtin/gate.py", "engine/trainer.py", "cli/study.py"):
        (main / "code" / name).parent.mkdir(parents=True)
        (main / "code" / name).write_text("A = 1\n")
    file = written(main, seeds=1)
    git(main, "init", "-q")
    git(main, "add", ".")
    git(main, "commit", "-qm", "a study")
    monkeypatch.setattr(freezing, "CODE", main / "code")
    places = StudyPlaces(tmp_path / "runs", main / "docs" / "mine")
    commit = freeze(read(file), places.keep, places.ledger).commit
    git(main, "worktree", "add", "-q", "--detach", str(frozen), commit)
    (main / "code" / "engine" / "trainer.py").write_text("A = 2\n")
    git(main, "commit", "-qam", "another trainer")
    newest = git(main, "rev-parse", "HEAD")

    def some(folder: Path, runs: slice) -> Execution:
        """Do some runs with the code of a worktree, and return the study as it has it."""
        monkeypatch.setattr(freezing, "CODE", folder / "code")
        execution = Execution(read(folder / "mine.yaml"), places)
        with execution.open(execution.runs()[runs]) as (statuses, hooks):
            run_all(statuses, jobs=1, launcher=fake, hooks=hooks)
        return execution

    assert some(frozen, slice(1)).exploratory() == []
    assert [path.name for path in (places.keep / "runs").iterdir()] == [some(frozen, slice(0)).runs()[0].identity]
    assert {line["commit"] for line in places.ledger.lines() if line["event"] == "started"} == {commit}
    assert not git(frozen, "status", "--porcelain")  # what it wrote is in the other checkout
    # The file of one worktree and the code of the other: the commit is that of the code.
    monkeypatch.setattr(freezing, "CODE", frozen / "code")
    assert freezing.revision(file) == commit
    assert some(main, slice(0)).exploratory() == []
    # A part of the code that no run imports may have changed, the trainer may not.
    git(main, "checkout", "-q", "--detach", commit)
    (main / "code" / "cli" / "study.py").write_text("A = 2\n")
    git(main, "commit", "-qam", "another command")
    assert some(main, slice(1, 2)).exploratory() == []
    git(main, "checkout", "-q", newest)
    assert some(main, slice(2, 3)).exploratory() == ["a run was made by other code than that of the commit"]
    (main / "code" / "engine" / "trainer.py").write_text("A = 3\n")
    assert some(main, slice(3, 4)).exploratory() == [
        "a run was started with changes that no commit holds",
        "a run was made by other code than that of the commit",
    ]


def test_a_run_that_was_taken_over_counts_by_how_it_was_started(tmp_path: Path, fake: Sequence[str]) -> None:
    file = written(tmp_path, seeds=1)
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "mine.yaml")
    git(tmp_path, "commit", "-qm", "a study")
    commit = git(tmp_path, "rev-parse", "HEAD")
    studies = [StudyPlaces(tmp_path / "runs", tmp_path / name) for name in ("one", "two", "three", "four")]
    for places in studies:
        freeze(read(file), places.keep, places.ledger)
    do(Execution(read(file), studies[0]), fake)
    assert exploratory(read(file), studies[0].keep, studies[0].ledger) == []
    do(Execution(read(file), studies[1]), ("false",))
    assert [line["starts"] for line in studies[1].ledger.lines()] == [[{"commit": commit, "dirty": False}]] * 4
    assert exploratory(read(file), studies[1].keep, studies[1].ledger) == []
    starts = sorted((tmp_path / "runs" / "runs").glob("*/starts.jsonl"))
    starts[0].write_text(json.dumps({"commit": commit, "dirty": True}) + "\n")
    do(Execution(read(file), studies[2]), ("false",))
    dirty = "a run was started with changes that no commit holds"
    assert exploratory(read(file), studies[2].keep, studies[2].ledger) == [dirty]
    starts[1].unlink()
    do(Execution(read(file), studies[3]), ("false",))
    nobody = "a run was taken from elsewhere, and nobody noted how it was started"
    assert exploratory(read(file), studies[3].keep, studies[3].ledger) == [nobody, dirty]


def test_records_of_a_frozen_study_stay_its_own_when_configurations_get_another_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake: Sequence[str]
) -> None:
    """Also the bases' verdicts, on a machine that has built none and whose recipe has another version."""
    file = written(tmp_path, seeds=1, bases={"recipe": "lock-in", "count": 2})
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "mine.yaml")
    git(tmp_path, "commit", "-qm", "a study")
    places = StudyPlaces(tmp_path / "runs", tmp_path / "kept")
    freeze(read(file), places.keep, places.ledger)
    execution = Execution(read(file), places)
    first = execution.tried_bases()
    build(first[0], False)
    build(first[1], True)
    build(execution.bases()[1], True)
    assert execution.build_bases(jobs=1, say=lambda text: None)  # built for another study: only noted
    assert [line["event"] for line in execution.ledger.lines()] == ["rejected", "accepted", "accepted"]
    do(execution, fake)
    labels = ["base 1", "base 2"]
    elsewhere = StudyPlaces(tmp_path / "elsewhere", tmp_path / "kept")
    monkeypatch.setattr("saei.studies.plan.MODEL_RECIPES", {"lock-in": lambda: LockIn("crisp")})
    monkeypatch.setattr("saei.studies.plan.configuration_hash", lambda config, final: "0" * 64)
    moved_on = Execution(read(file), elsewhere)
    assert [base.label for base in moved_on.bases()] == labels
    assert moved_on.left() == []
    assert outcome_of(moved_on, reasons=()).rejected == ("base 0",)
    assert moved_on.build_bases(jobs=1, say=lambda text: None)  # nothing is left that would need one
    assert not (tmp_path / "elsewhere" / "bases").exists()
    # With another file the ledger says nothing of these runs.
    changed = Execution(read(file, assignments=["optimizer.lr=1e-4"]), elsewhere)
    assert len(changed.left()) == 4
    assert [base.label for base in changed.bases()] == ["base 0", "base 1"]


def test_the_ledger_only_grows_also_with_several_writers(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from saei.studies.ledger import Ledger\n"
        "ledger = Ledger(Path(sys.argv[1]), Path(sys.argv[1]) / 'lock')\n"
        "for number in range(20): ledger.add('started', run=sys.argv[2], number=number)\n"
    )
    writers = [subprocess.Popen([sys.executable, "-c", program, str(tmp_path), name]) for name in "ab"]
    assert [writer.wait(120) for writer in writers] == [0, 0]
    lines = Ledger(tmp_path, tmp_path / "lock").lines()
    assert len((tmp_path / "ledger.jsonl").read_bytes().splitlines()) == len(lines) == 40
    for name in "ab":
        assert [line["number"] for line in lines if line["run"] == name] == list(range(20))


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    def call(*words: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["saei", "study", *words])
        with pytest.raises(SystemExit) as left:
            cli()
        return int(left.value.code or 0), "".join(capfd.readouterr())

    return call


def test_list_new_and_dry_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Callable[..., tuple[int, str]]
) -> None:
    monkeypatch.chdir(tmp_path)
    code, said = command("list")
    assert code == 0
    assert all(name in said for name in shipped())
    assert command("new", "fresh")[0] == 0
    assert read(Path("fresh.yaml")).study.name == "fresh"
    code, said = command("new", "fresh")
    assert code == 2
    assert "A new study is a new file" in said
    code, said = command("run", "fresh.yaml", "--dry-run")
    assert code == 0
    assert said.count("to do") >= 24
    assert "CPU-hours are unknown" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fresh.yaml"]  # a dry run writes nothing
    code, said = command("show", "colapse")
    assert code == 2
    assert "Did you mean 'collapse'" in said


def test_one_command_per_run_does_that_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake: Sequence[str], command: Callable[..., tuple[int, str]]
) -> None:
    monkeypatch.chdir(tmp_path)
    file = written(tmp_path, seeds=1)
    options = ("--output", str(tmp_path / "runs"), "--keep", str(tmp_path / "kept"))
    code, said = command("run", str(file), "--list-jobs", "--launcher", shlex.join(fake), *options)
    assert code == 0
    commands = [shlex.split(line) for line in said.splitlines()]
    assert len(commands) == 4
    execution = Execution(read(file), StudyPlaces(tmp_path / "runs", tmp_path / "kept"))
    left = [run.identity for run in execution.left()]
    for words in commands[:1]:
        subprocess.run(words, check=True, timeout=120, capture_output=True)
    assert [run.identity for run in execution.left()] == left[1:]
    assert len(command("run", str(file), "--list-jobs", *options)[1].splitlines()) == 3
    code, said = command("run", str(file), "--only", "0" * 16, *options)
    assert code == 2
    assert "--only takes the hash" in said
