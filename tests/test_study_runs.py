"""Many runs as one job: known by their configuration, each a process, gone on with after any kill."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from runs import Checksum, lines, registered, tiny, train
from saei.config.run import RunConfig
from saei.console import screen
from saei.data.templates import ThinkBoxed
from saei.engine import checkpoint
from saei.errors import ConfigError
from saei.policy import Policy
from saei.policy.load.weights import Parts
from saei.runtime.lock import FolderLock
from saei.studies.display import RunsDisplay, left_s
from saei.studies.process import REFUSED, main
from saei.studies.runs import LOG, PlannedRun, command, configuration_hash, is_complete, last_words, prepare
from saei.studies.scheduler import RunStatus, State, plan, run_all
from test_kill_resume import PLUGIN

FAKE = '''
"""Stands in for a run's process: a line of metrics every few ms, a checkpoint on SIGINT or at the end."""
import json, os, signal, sys, time
from pathlib import Path
import yaml

folder = Path(sys.argv[-1])
config = yaml.safe_load((folder / "config.yaml").read_text())["config"]
steps = config["training"]["steps"]
stop = []
signal.signal(signal.SIGINT, lambda *_: stop.append(1))
print("began", os.environ.get("CUDA_VISIBLE_DEVICES", "-"), time.time(), flush=True)
(folder / "ready").touch()
metrics = folder / "metrics.jsonl"
done = len(metrics.read_text().splitlines()) if metrics.exists() else 0
while done < steps and not stop:
    if config["seed"] == 13:
        sys.exit("no luck with 13")
    time.sleep(float(os.environ.get("FAKE_STEP_S", "0.01")))
    done += 1
    with metrics.open("a") as stream:
        stream.write(json.dumps({"step": done, "eval/accuracy": done / 100}) + "\\n")
saved = folder / "checkpoints" / f"step-{done:06d}"
saved.mkdir(parents=True, exist_ok=True)
(saved / "training_state.pt").touch()
print("ended", "-", time.time(), flush=True)
sys.exit(130 if stop and done < steps else 0)
'''


@pytest.fixture(scope="module")
def model(random_parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    Policy(random_parts, ThinkBoxed()).save(folder)
    return folder


@pytest.fixture
def fake(tmp_path: Path) -> Sequence[str]:
    """A launcher of processes that pretend to train."""
    file = tmp_path / "fake.py"
    file.write_text(FAKE.replace("training_state.pt", checkpoint.STATE))
    return sys.executable, str(file)


def planned(root: Path, seed: int = 0, **changes: Any) -> PlannedRun:
    changes.setdefault("reward", "accuracy-format")
    return PlannedRun(f"seed {seed}", tiny(Path("model"), root, f"run-{seed}", seed=seed, **changes))


def output_changed(config: RunConfig, **changes: Any) -> RunConfig:
    return config.model_copy(update={"output": config.output.model_copy(update=changes)})


def test_the_hash_is_of_what_decides_the_results(tmp_path: Path) -> None:
    config = planned(tmp_path).config
    same = output_changed(config, name="other", root=tmp_path / "elsewhere", checkpoint_every=1)
    assert configuration_hash(same) == configuration_hash(config)
    for changes in ({"seed": 1}, {"training__steps": 4}, {"optimizer__lr": 1e-4}, {"sampler": "clean"}):
        assert configuration_hash(planned(tmp_path, **{"seed": 0, **changes}).config) != configuration_hash(config)
    plugin = tmp_path / "mine.py"
    hashes = set()
    for text in ("a = 1", "a = 2", "a = 1"):
        plugin.write_text(text)
        hashes.add(configuration_hash(config.model_copy(update={"plugins": (str(plugin),)})))
    assert len(hashes) == 2


def test_complete_runs_are_used_again_by_configuration(tmp_path: Path, fake: Sequence[str]) -> None:
    first = plan([planned(tmp_path, 0), planned(tmp_path, 1)])
    run_all(first, jobs=2, launcher=fake)
    assert [status.state for status in first] == [State.complete] * 2
    assert [status.step for status in first] == [3, 3]
    again = plan([planned(tmp_path, 0), planned(tmp_path, 1, training__steps=5)])
    assert [status.already for status in again] == [True, False]
    assert again[0].folder == first[0].folder
    # The folder of that name holds a run of another configuration, which stays what it is.
    assert again[1].folder.name == f"run-1-{configuration_hash(again[1].planned.config)[:8]}"
    run_all(again, jobs=2, launcher=fake)
    assert [status.state for status in again] == [State.complete] * 2
    assert (first[0].folder / LOG).read_text().count("began") == 1
    assert (first[1].folder / LOG).read_text().count("began") == 1
    third = plan([planned(tmp_path, 1, training__steps=5)])
    assert third[0].already
    assert third[0].folder == again[1].folder


def test_a_run_without_a_checkpoint_begins_again_and_another_process_is_left_alone(tmp_path: Path) -> None:
    run = planned(tmp_path)
    folder = prepare(run)
    (folder / "metrics.jsonl").write_text('{"step": 1}\n')
    (folder / "images").mkdir()
    (folder / LOG).write_text("of the first")
    assert prepare(run) == folder
    assert {entry.name for entry in folder.iterdir()} == {"checkpoints", "config.yaml", "configuration.json", LOG}
    lock = FolderLock(folder)
    owner = json.dumps({"host": "elsewhere", "process": 1, "since": "now", "token": "x"})
    (folder / "lock").write_text(owner)
    with pytest.raises(ConfigError, match="one writer at a time"):
        prepare(run)
    assert (folder / "config.yaml").exists()
    assert not lock.held


def test_a_failed_run_is_told_and_keeps_no_other_from_its_end(tmp_path: Path, fake: Sequence[str]) -> None:
    statuses = plan([planned(tmp_path, 13), planned(tmp_path, 1)])
    run_all(statuses, jobs=1, launcher=fake)
    assert [status.state for status in statuses] == [State.failed, State.complete]
    assert last_words(statuses[0].folder).endswith("no luck with 13")


def test_as_many_run_at_a_time_as_jobs_each_on_its_device(tmp_path: Path, fake: Sequence[str]) -> None:
    statuses = plan([planned(tmp_path, seed, training__steps=10) for seed in range(5)])
    most = 0

    def count(statuses: Sequence[RunStatus]) -> None:
        nonlocal most
        most = max(most, sum(status.state is State.running for status in statuses))

    run_all(statuses, jobs=2, launcher=fake, devices=("4", "7"), on_change=count)
    assert most == 2
    words = [(status.folder / LOG).read_text().split() for status in statuses]
    spans = {device: [] for device in ("4", "7")}  # type: dict[str, list[tuple[float, float]]]
    for began, device, since, ended, _, until in words:
        assert (began, ended) == ("began", "ended")
        spans[device].append((float(since), float(until)))
    assert sum(map(len, spans.values())) == 5
    for of_device in spans.values():
        assert of_device
        for (_, until), (since, _) in zip(sorted(of_device), sorted(of_device)[1:], strict=False):
            assert until < since


def test_an_interrupt_stops_all_after_their_step_and_the_next_call_goes_on(
    tmp_path: Path, fake: Sequence[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    statuses = plan([planned(tmp_path, seed, training__steps=400) for seed in range(3)])
    stopped: list[int] = []

    def interrupt(statuses: Sequence[RunStatus]) -> None:
        if not stopped and all((status.folder / "ready").exists() for status in statuses[:2]):
            os.kill(os.getpid(), signal.SIGINT)

    run_all(statuses, jobs=2, launcher=fake, on_change=interrupt, on_stop=lambda: stopped.append(1))
    assert stopped == [1]
    assert [status.state for status in statuses] == [State.stopped, State.stopped, State.waiting]
    assert all(checkpoint.complete_in(status.folder / "checkpoints") for status in statuses[:2])
    assert "began" not in last_words(statuses[2].folder)
    monkeypatch.setenv("FAKE_STEP_S", "0")
    again = plan([status.planned for status in statuses])
    assert again[0].step > 0
    run_all(again, jobs=2, launcher=fake)
    assert [status.state for status in again] == [State.complete] * 3
    assert [line["step"] for line in lines(again[0].folder)] == list(range(1, 401))


def test_a_second_interrupt_ends_the_processes_at_once(tmp_path: Path, fake: Sequence[str]) -> None:
    statuses = plan([planned(tmp_path, training__steps=10**6)])
    stubborn = (fake[0], str(tmp_path / "stubborn.py"))
    Path(stubborn[1]).write_text(Path(fake[1]).read_text().replace("stop.append(1)", "None"))

    def interrupt(statuses: Sequence[RunStatus]) -> None:
        if (statuses[0].folder / "ready").exists():
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run_all(statuses, jobs=1, launcher=stubborn, on_change=interrupt)
    size = (statuses[0].folder / "metrics.jsonl").stat().st_size
    time.sleep(0.3)
    assert (statuses[0].folder / "metrics.jsonl").stat().st_size == size


def test_a_process_begins_goes_on_and_finds_its_run_complete(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with registered(Checksum):
        whole = train(tiny(model, tmp_path, "whole", training__steps=4, output__checkpoint_every=2)).run.path
        run = PlannedRun("x", tiny(model, tmp_path, "x", training__steps=4, output__checkpoint_every=2))
        folder = prepare(run)
        assert command(folder)[1:] == ["-m", "saei.studies.process", str(folder)]
        assert main(folder) == 0
        assert lines(folder) == lines(whole)
        assert is_complete(folder, 4)
        capsys.readouterr()
        assert main(folder) == 0
        assert "Complete already" in capsys.readouterr().err
        (folder / "config.yaml").write_text("format: 1")
        assert main(folder) == REFUSED
    assert "has no section" in capsys.readouterr().err


def test_the_table_tells_how_far_all_runs_are(tmp_path: Path) -> None:
    runs = [planned(tmp_path, seed, training__steps=10) for seed in range(3)]
    statuses = [RunStatus(run, tmp_path / str(number)) for number, run in enumerate(runs)]
    page = screen(file=io.StringIO(), width=60)
    display = RunsDisplay(2, page)
    with display.open(statuses):
        pass
    assert display.summary() == "0 of 3 runs complete"
    statuses[0].state, statuses[0].step = State.complete, 10
    statuses[1].state, statuses[1].step = State.running, 4
    assert "known once" in display.summary()
    statuses[0].timed_steps, statuses[0].timed_s = 9, 18.0
    statuses[1].timed_steps, statuses[1].timed_s = 3, 6.0
    statuses[1].evaluation = {"eval/accuracy": 0.256}
    assert left_s(statuses, jobs=1) == pytest.approx(2 * (6 + 10))
    assert left_s(statuses, jobs=2) == pytest.approx(2 * 10)  # the last run has nobody beside it for a while
    page.file = io.StringIO()
    page.print(display.panel())
    shown = page.file.getvalue().splitlines()
    assert [line.split() for line in shown[1:4]] == [
        ["seed", "0", "10/10", "complete"],
        ["seed", "1", "4/10", "0.26", "running"],
        ["seed", "2", "0/10", "waiting"],
    ]
    assert shown[4] == "1 of 3 runs complete, about 20 s left"


def test_only_new_lines_are_read_and_lines_that_were_dropped_are_forgotten(tmp_path: Path) -> None:
    status = RunStatus(planned(tmp_path), tmp_path)
    status.look()
    assert status.step == 0
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 1, "eval/accuracy": 0.5}\n{"step": 2}\n{"step": 3, "eval/accu')
    status.look()
    assert (status.step, status.evaluation["eval/accuracy"]) == (2, 0.5)
    with file.open("a") as stream:
        stream.write('racy": 0.75}\n')
    status.look()
    assert (status.step, status.evaluation["eval/accuracy"]) == (3, 0.75)
    file.write_text('{"step": 1, "eval/accuracy": 0.5}\n')
    status.look()
    assert (status.step, status.evaluation["eval/accuracy"]) == (1, 0.5)


@pytest.mark.slow
def test_runs_that_are_killed_with_their_parent_end_as_if_nobody_had(model: Path, tmp_path: Path) -> None:
    plugin = tmp_path / "mine.py"
    plugin.write_text(PLUGIN)
    job = tmp_path / "job.py"
    job.write_text(
        "import sys\nfrom pathlib import Path\nsys.path.insert(0, sys.argv[1])\n"
        "from runs import tiny\nfrom saei.config.registry import load_plugin\n"
        "from saei.studies.runs import PlannedRun\nfrom saei.studies.scheduler import plan, run_all\n"
        f"load_plugin({str(plugin)!r})\n"
        "runs = [PlannedRun(str(seed), tiny(Path(sys.argv[2]), Path(sys.argv[3]), str(seed), seed=seed,"
        f" reward='mine/checksum', plugins=[{str(plugin)!r}], training__steps=6, output__checkpoint_every=2))"
        " for seed in (0, 1)]\n"
        "statuses = plan(runs)\nrun_all(statuses, jobs=2)\n"
        "sys.exit(any(status.state != 'complete' for status in statuses))\n"
    )

    def start(root: Path) -> subprocess.Popen[bytes]:
        words = [sys.executable, str(job), str(Path(__file__).parent), str(model), str(root)]
        return subprocess.Popen(words, env={**os.environ, "OMP_NUM_THREADS": "1"})

    assert start(tmp_path / "whole").wait(300) == 0
    process = start(tmp_path / "killed")
    metrics = tmp_path / "killed" / "0" / "metrics.jsonl"
    while process.poll() is None and not (metrics.exists() and metrics.read_text().count("\n") >= 4):
        time.sleep(0.05)
    assert process.poll() is None, "it was too fast to be killed"
    process.kill()
    process.wait()
    if sys.platform == "linux":
        time.sleep(1)
        at_the_kill = metrics.read_bytes()
        time.sleep(3)
        assert metrics.read_bytes() == at_the_kill  # the run ended with the process that had started it
    assert start(tmp_path / "killed").wait(300) == 0
    for seed in ("0", "1"):
        assert lines(tmp_path / "killed" / seed) == lines(tmp_path / "whole" / seed)
