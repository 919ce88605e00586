"""A study whose scheduler is killed at random, with all its runs, ends with the table of one that nobody disturbed."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from contextlib import suppress
from glob import glob
from pathlib import Path
from typing import Any

import pytest
import yaml

from runs import lines
from saei.config.yaml import read_yaml
from saei.data.templates import ThinkBoxed
from saei.policy import Policy
from saei.policy.load.weights import Parts
from saei.studies.execution import Execution, StudyPlaces
from saei.studies.outcome import Outcome, outcome_of
from saei.studies.process import END_WITH_PARENT, STOPPED
from saei.studies.study import read
from test_kill_resume import PLUGIN

KILLS = 10
STUDY: dict[str, Any] = {
    "name": "killed",
    "question": "Does it end as if nobody had killed it?",
    "refuted_by": "Another table.",
    "settings": {
        "task": "bars",
        "reward": "mine/checksum",
        "model": {"device": "cpu"},
        "sampling": {"max_new_tokens": 8},
        "optimizer": {"lr": 1e-3},
        "training": {"steps": 12, "prompts_per_step": 2},
        "evaluation": {"every": 4, "examples": 2, "responses": 2, "probe_examples": 2, "probe_responses": 2},
        "output": {"checkpoint_every": 2},
    },
    "arms": {
        "GRPO": {"sampler": {"type": "clean", "n": 4}},
        "SaEI": {"sampler": {"type": "mixed", "n_clean": 2, "n_adversarial": 2, "intervention": {"measure": "always"}}},
    },
    "bases": {"models": ["model"]},
    "budget": {"responses": 96},
    "contrasts": [
        {"arm": "SaEI", "against": "GRPO", "measure": "final/accuracy", "smallest_effect": 0.05, "margin": 0.03}
    ],
    "checks": {"SaEI": {"metric": "train/intervention/criterion_rose", "at_least": 0.8}},
    "escape": {"metric": "eval/accuracy", "threshold": 0.5},
    "final": {"examples": 2, "responses": 8},
    "plugins": ["mine.py"],
}
JOB = """
import sys
from pathlib import Path
from saei.studies.execution import Execution, StudyPlaces
from saei.studies.scheduler import run_all
from saei.studies.study import read

here = Path(sys.argv[1])
execution = Execution(read(Path("study.yaml")), StudyPlaces(here / "runs", here / "kept"))
with execution.open(execution.runs()) as (statuses, hooks):
    run_all(statuses, jobs=1, hooks=hooks)
sys.exit(any(status.state != "complete" for status in statuses))
"""


@pytest.fixture(scope="module")
def home(random_parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    Policy(random_parts, ThinkBoxed()).save(folder / "model")
    (folder / "mine.py").write_text(PLUGIN)
    (folder / "study.yaml").write_text(yaml.safe_dump(STUDY, sort_keys=False))
    (folder / "job.py").write_text(JOB)
    return folder


def begun(home: Path, name: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen([sys.executable, "job.py", str(home / name)], cwd=home, env=environment)


def progress(folder: Path) -> int:
    """Return how much has been written: lines of the ledger and of the runs' metrics, checkpoints, evaluations."""
    counted = len(glob(f"{folder}/runs/runs/*/checkpoints/*")) + len(glob(f"{folder}/runs/runs/*/final.json"))
    for name in glob(f"{folder}/kept/ledger.jsonl") + glob(f"{folder}/runs/runs/*/metrics.jsonl"):
        with suppress(FileNotFoundError):  # a run that begins again
            counted += Path(name).read_bytes().count(b"\n")
    return counted


def outcome(home: Path, name: str) -> tuple[Execution, Outcome]:
    places = StudyPlaces(home / name / "runs", home / name / "kept")
    execution = Execution(read(home / "study.yaml"), places)
    return execution, outcome_of(execution)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere runs outlive their scheduler, and are waited for")
def test_a_study_that_is_killed_ten_times_ends_with_the_same_table(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert begun(home, "whole").wait(600) == 0
    chance, moments = random.Random(0), []
    for _ in range(KILLS):
        process, before = begun(home, "killed"), progress(home / "killed")
        # Some after a few things were written, some while processes are starting.
        few, until = chance.choice([0, 0, 2, 3, 4]), time.monotonic() + 300
        while process.poll() is None and progress(home / "killed") - before < few and time.monotonic() < until:
            time.sleep(0.02)
        time.sleep(chance.uniform(0, 0.3 if few else 4))
        assert process.poll() is None, "it was complete before it could be killed ten times"
        process.kill()
        process.wait()
        moments.append(progress(home / "killed"))
    assert begun(home, "killed").wait(600) == 0
    assert len(set(moments)) > KILLS / 2  # they hit it at different moments

    monkeypatch.chdir(home)
    (whole, expected), (killed, found) = (outcome(home, name) for name in ("whole", "killed"))
    assert expected.complete
    assert found.measures == expected.measures
    cost = found.measures.index("final/seconds")
    for arm in expected.means:
        assert [*found.means[arm]][:cost] == [*expected.means[arm]][:cost]
        assert [*found.means[arm]][cost + 1 :] == [*expected.means[arm]][cost + 1 :]
    assert found.decisions == expected.decisions
    assert [arm.checks for arm in found.arms] == [arm.checks for arm in expected.arms]
    assert [arm.escapes for arm in found.arms] == [arm.escapes for arm in expected.arms]
    for run, other in zip(whole.runs(), killed.runs(), strict=True):
        assert lines(run.planned.folder) == lines(other.planned.folder)
        configs = [read_yaml(each.places.keep / "runs" / run.identity / "config.yaml") for each in (whole, killed)]
        assert configs[0] == configs[1]
    events = [line["event"] for line in killed.ledger.lines()]
    assert events.count("finished") == len(whole.runs())
    assert events.count("failed") == 0
    assert json.loads((home / "killed" / "kept" / "ledger.jsonl").read_text().splitlines()[0])["event"] == "started"


@pytest.mark.skipif(sys.platform != "linux", reason="nobody kills the orphan there")
@pytest.mark.parametrize(("machine", "code"), [("this", STOPPED), ("another", 0)])
def test_a_process_whose_scheduler_is_gone_before_it_could_ask_ends_at_once(machine: str, code: int) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    program = (
        "import os, socket; from saei.studies.process import END_WITH_PARENT, end_with_parent\n"
        f"name = socket.gethostname() if {machine!r} == 'this' else 'another'\n"
        f"os.environ[END_WITH_PARENT] = f'{{name}} {dead.pid}'\nend_with_parent()\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != END_WITH_PARENT}
    assert subprocess.run([sys.executable, "-c", program], env=environment, check=False).returncode == code
