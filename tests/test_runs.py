"""`saei runs`: what it says of a run is what its files say; it deletes what is named, and nothing else."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from commands import Saei
from saei.config.run import validate
from saei.config.yaml import read_yaml, write_yaml
from saei.console import screen
from saei.report.run_disk import costs, delete
from saei.report.run_filter import matching, ordered
from saei.report.run_list import RunSummary, find_runs, summarise
from saei.report.run_settings import differing
from saei.runtime.files import lines_from_end
from saei.runtime.lock import FolderLock, is_written
from saei.runtime.run_dir import RunDir


def make(root: Path, name: str, *, done: int = 2, **sections: Any) -> Path:
    """Write a run of two steps without training it, of which some are done."""
    config = {"training": {"steps": 2}, "output": {"root": str(root), "name": name}, **sections}
    run = RunDir.create(validate(config))
    for step in range(done + 1):
        evaluated = {"eval/accuracy": 0.25 + step / 4, "probe/entropy": 0.5 - step / 8} if step % 2 == 0 else {}
        run.append({"step": step, "train/reward": 0.1, **evaluated})
    run.lock.release()
    return run.path


def summary(path: Path) -> RunSummary:
    return summarise(path, path.name)


@pytest.fixture
def three(tmp_path: Path) -> Path:
    make(tmp_path, "plain", sampler="clean", done=1)
    make(tmp_path, "saei", sampler={"type": "mixed", "intervention": {"attack": {"type": "pgd", "step": "4/255"}}})
    make(tmp_path, "other", sampler={"type": "mixed", "intervention": {"attack": "fgsm", "selector": "top-k"}})
    return tmp_path


def test_what_is_listed_is_what_the_files_say(three: Path) -> None:
    run = summary(three / "saei")
    columns = [run.column(name) for name in ("run", "model", "task", "sampler", "attack", "selector", "steps", "state")]
    assert columns == ["saei", "builtin", "bars", "mixed", "pgd", "middle-third", 2, "finished"]
    assert (run.accuracy, run.entropy) == (0.75, 0.25)  # of the evaluation at step 2
    assert run.size == sum(file.stat().st_size for file in (three / "saei").rglob("*") if file.is_file())
    cut = summary(three / "plain")
    assert (cut.step, cut.steps, cut.accuracy, cut.state) == (1, 2, 0.25, "interrupted")  # none at step 1
    assert (cut.column("attack"), cut.column("selector")) == (None, None)


def test_arms_have_the_attacks_of_all_their_interventions(tmp_path: Path) -> None:
    arms = {
        f"arm{number}": {"n": 2, "intervention": {"attack": name, "selector": "all"}}
        for number, name in enumerate(("pgd", "noise", "pgd"))
    }
    run = make(tmp_path, "arms", sampler={"type": "arms", "arms": arms})
    assert summary(run).column("attack") == "pgd + noise"
    assert summary(run).column("selector") == "all"


def test_a_run_that_is_written_is_running(three: Path) -> None:
    lock = FolderLock(three / "plain")
    with lock:
        assert is_written(three / "plain")
        assert summary(three / "plain").state == "running"
    assert not is_written(three / "plain")
    (three / "plain" / "lock").write_text("half of a")  # damaged, but fresh: its writer may be anywhere
    assert summary(three / "plain").state == "running"
    os.utime(three / "plain" / "lock", (0, 0))
    assert summary(three / "plain").state == "interrupted"


def test_the_start_is_that_of_the_run_and_not_of_its_last_resume(three: Path) -> None:
    path = three / "saei"
    began = read_yaml(path / "config.yaml")["started"]
    assert abs((datetime.now().astimezone() - datetime.fromisoformat(began)).total_seconds()) < 600
    record = read_yaml(path / "config.yaml") | {"started": "2026-01-02T03:04:05+00:00"}
    (path / "config.yaml").write_text(write_yaml(record))
    run, config = RunDir.open(path)
    run.record(config)
    assert read_yaml(path / "config.yaml")["started"] == "2026-01-02T03:04:05+00:00"
    assert summary(path).started == datetime.fromisoformat("2026-01-02T03:04:05+00:00")


def test_damaged_and_hostile_runs_are_named_and_the_others_listed(three: Path, saei: Saei) -> None:
    (three / "plain" / "config.yaml").write_text("{not: [yaml")
    (three / "other" / "config.yaml").write_text("config: 3\n")
    with (three / "saei" / "metrics.jsonl").open("ab") as file:
        file.write(b'\n[1, 2]\n{"step": "x"}\n' + b"\xff\0" * 40 + b'\n{"step": 3, "eval/acc')
    evil = three / "evil\x1b[31m"
    evil.mkdir()
    (evil / "config.yaml").write_bytes((three / "saei" / "config.yaml").read_bytes())
    said = saei("runs", three)
    assert said.code == 0
    assert "\x1b" not in said.out
    assert "evil\\u001b[31m" in said.out
    assert "2/2     0.750    0.250" in said.out
    assert "plain" in said.out
    assert "has no section `config`" in said.err
    assert said.out.count("damaged") == 2


def test_runs_are_found_below_and_none_within_a_run(tmp_path: Path, saei: Saei) -> None:
    run = make(tmp_path / "demo" / "bars", "saei")
    (run / "checkpoints" / "step-000002").mkdir(parents=True)
    (run / "checkpoints" / "config.yaml").touch()
    assert find_runs([tmp_path]) == [(run, os.path.join("demo", "bars", "saei"))]
    assert find_runs([run, tmp_path]) == [(run, "saei")]
    missing = saei("runs", tmp_path / "runz")
    assert (missing.code, "There is no folder" in missing.err) == (2, True)
    assert "No run in" in saei("runs", run / "checkpoints" / "step-000002").out


@pytest.mark.parametrize(
    ("condition", "names"),
    [
        ("sampler=mixed", {"saei", "other"}),
        ("sampler!=mixed", {"plain"}),
        ("attack.step=4/255", {"saei"}),
        ("attack=f*", {"other"}),
        ("accuracy>0.5", {"saei", "other"}),
        ("accuracy <= 0.25", {"plain"}),
        ("training.steps>=3", set()),
        ("state=interrupted", {"plain"}),
        ("selector=top-k", {"other"}),
        ("sampler.intervention.reselect=false", {"saei", "other"}),
        ("model.lora=null", {"plain", "saei", "other"}),
        ("started>2020", {"plain", "saei", "other"}),
    ],
)
def test_conditions(three: Path, condition: str, names: set[str]) -> None:
    runs = [summarise(path, name) for path, name in find_runs([three])]
    assert {run.name for run in matching(runs, [condition])} == names


def test_conditions_that_mean_nothing_are_refused(three: Path, saei: Saei) -> None:
    said = saei("runs", three, "--where", "finished")
    assert (said.code, "a field, a sign and a value" in said.err) == (2, True)
    said = saei("runs", three, "--where", "acuracy>0.5")
    assert (said.code, "Did you mean 'accuracy'?" in said.err) == (2, True)
    assert "Did you mean 'optimizer.lr'?" in saei("runs", three, "--sort", "optimiser.lr").err


def test_order_is_by_number_or_text_and_what_has_none_is_last(three: Path) -> None:
    runs = [summarise(path, name) for path, name in find_runs([three])]
    assert [run.accuracy for run in ordered(runs, "accuracy")] == [0.25, 0.75, 0.75]
    assert [run.name for run in ordered(runs, "attack")] == ["other", "saei", "plain"]
    assert [run.name for run in ordered(runs, "attack", reverse=True)] == ["saei", "other", "plain"]


def test_configurations_differ_where_the_user_made_them_differ(tmp_path: Path, saei: Saei) -> None:
    make(tmp_path, "a", seed=1)
    make(tmp_path, "b", seed=2, sampler={"type": "mixed", "intervention": {"attack": {"type": "pgd", "step": "4/255"}}})
    make(tmp_path, "c", seed=1, sampler="clean", model={"lora": {"rank": 4}})
    runs = [summarise(path, name) for path, name in find_runs([tmp_path])]
    assert set(differing(runs[:2])) == {"seed", "sampler.intervention.attack.step"}
    assert set(differing(runs)) == {"seed", "sampler.intervention.attack.step", "sampler.type", "model.lora"}
    assert differing(runs[:1]) == []
    said = saei("runs", tmp_path, "--compare").out
    assert "attack.step   2/255  4/255" in said
    assert "more fields belong to strategies that only some of them have" in said


def test_json_has_everything(three: Path, saei: Saei) -> None:
    rows = json.loads(saei("runs", three, "--json", "--sizes", "--compare", "--sort", "run").out)
    assert [row["run"] for row in rows] == ["other", "plain", "saei"]
    row = rows[2]
    assert (row["steps"], row["of"], row["accuracy"], row["state"]) == (2, 2, 0.75, "finished")
    assert row["differs"]["sampler.intervention.attack.type"] == "pgd"
    assert row["config"]["sampler.intervention.attack.step"] == "4/255"
    assert sum(row["sizes"].values()) == row["size"]


def with_checkpoints(root: Path, best: int | None = None) -> Path:
    run = make(root, "run")
    for step in (1, 2, 3):
        folder = run / "checkpoints" / f"step-{step:06d}"
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(b"x" * 1000 * step)
        if step < 3:  # the last was cut off
            (folder / "trainer.pt").write_bytes(b"y" * 10)
    if best:
        (run / "best.json").write_text(json.dumps({"checkpoint": f"checkpoints/step-{best:06d}"}))
    (run / "images").mkdir()
    (run / "images" / "a.png").write_bytes(b"z" * 70)
    (run / "samples.jsonl").write_bytes(b"{}")
    return run


def test_costs_by_what_they_are_for(tmp_path: Path) -> None:
    run = with_checkpoints(tmp_path)
    sizes = costs(run)
    assert (sizes["newest checkpoint"], sizes["old-checkpoints"], sizes["samples"]) == (2010, 4010, 72)
    assert sum(sizes.values()) == summary(run).size


def left(run: Path) -> set[str]:
    return {path.name for path in (run / "checkpoints").iterdir()}


def test_only_what_is_named_is_deleted(tmp_path: Path) -> None:
    run, other = with_checkpoints(tmp_path / "a", best=1), with_checkpoints(tmp_path / "b")
    assert delete(run, "old-checkpoints") == 3000
    assert left(run) == {"step-000001", "step-000002"}  # the best and the newest that is whole
    assert delete(run, "samples") == 72
    assert {path.name for path in run.iterdir()} == {"config.yaml", "metrics.jsonl", "checkpoints", "best.json"}
    delete(run, "checkpoints")
    assert left(run) == set()
    delete(run, "run")
    assert not list((tmp_path / "a").iterdir())
    assert left(other) == {"step-000001", "step-000002", "step-000003"}


def test_deleting_follows_no_link_and_stops_where_a_process_writes(tmp_path: Path) -> None:
    run = with_checkpoints(tmp_path / "a")
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "weights").write_bytes(b"1")
    (run / "checkpoints" / "step-000000").symlink_to(precious)
    (run / "images" / "link").symlink_to(precious)
    delete(run, "old-checkpoints")
    delete(run, "samples")
    assert (precious / "weights").read_bytes() == b"1"
    linked = tmp_path / "linked"
    linked.symlink_to(run)
    with pytest.raises(Exception, match="is a link"):
        delete(linked, "run")
    writer = subprocess.Popen(
        [sys.executable, "-c", f"from pathlib import Path\nfrom saei.runtime.lock import FolderLock\n"
         f"lock = FolderLock(Path({str(run)!r}))\nlock.acquire()\nprint('held', flush=True)\ninput()"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert writer.stdout is not None
    assert writer.stdout.readline() == b"held\n"
    with pytest.raises(Exception, match="one writer at a time"):
        delete(run, "run")
    writer.communicate(b"\n")
    assert (run / "config.yaml").exists()


def test_it_asks_first(tmp_path: Path, saei: Saei, monkeypatch: pytest.MonkeyPatch) -> None:
    run = with_checkpoints(tmp_path)
    for arguments, words in (
        (("--delete", "run"), "Only runs that are named"),
        ((tmp_path, "--delete", "run", "--yes"), "is no run"),
        ((run, "--delete", "everything"), "Known: checkpoints, old-checkpoints, run, samples"),
        ((run, "--delete", "run", "--where", "state=finished", "--yes"), "Only runs that are named"),
        ((run, "--delete", "run"), "Add --yes"),
    ):
        said = saei("runs", *arguments)
        assert (said.code, words in said.err) == (2, True), said
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("typer.confirm", lambda *_, **__: False)
    assert "Nothing was deleted" in saei("runs", run, "--delete", "run").out
    assert left(run) == {"step-000001", "step-000002", "step-000003"}
    said = saei("runs", run, "--delete", "old-checkpoints", "--yes").out
    assert "step-000001" in said
    assert "Freed 4.0 KB." in said
    assert left(run) == {"step-000002"}


@pytest.mark.parametrize("block", [1, 2, 7, 1 << 16])
def test_lines_come_from_the_end(tmp_path: Path, block: int) -> None:
    file = tmp_path / "x"
    for content in (b"", b"a", b"\n", b"a\n", b"one\n\nthree\nlast, cut", "é\n日本\n".encode()):
        file.write_bytes(content)
        expected = list(reversed(content.split(b"\n")))
        assert list(lines_from_end(file, block)) == expected
    assert list(lines_from_end(tmp_path / "none")) == []


QUICK: list[Mapping[str, Any]] = [
    {"a": {"b": [1, 2.5, None, True, "true", "1:30", "no", "2026-01-01", "", "x: y", "- z", "#", "é\u2028\x07"]}},
    {"long": "word " * 100, "lines": "a\n\n  b\n", "empty": {}, "list": []},
]


@pytest.mark.parametrize("data", QUICK)
def test_what_is_read_quickly_is_what_was_written(tmp_path: Path, data: Mapping[str, Any]) -> None:
    (tmp_path / "x.yaml").write_text(write_yaml(data), encoding="utf-8")
    assert read_yaml(tmp_path / "x.yaml", quick=True) == read_yaml(tmp_path / "x.yaml") == data
    (tmp_path / "x.yaml").write_text(write_yaml({**data, "versions": {"a": 1}, "z": 2}), encoding="utf-8")
    assert read_yaml(tmp_path / "x.yaml", quick=True, until="versions") == data


@pytest.mark.parametrize("text", ["[" * 100_000, "a: &a [*a]", "a: 1\na: 2", "x: " + "&" * 300_000, "a: !!python/x 1"])
def test_quick_reading_has_the_same_limits(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(ValueError, match="readable YAML"):
        read_yaml(tmp_path / "x.yaml", quick=True)


def test_listing_imports_no_heavy_library(three: Path) -> None:
    script = (
        f"import sys\nfrom saei.cli import main\nsys.argv = ['saei', 'runs', {str(three)!r}, '--sizes', '--compare']\n"
        "try:\n    main()\nexcept SystemExit as done:\n    assert not done.code\n"
        "assert not {'torch', 'transformers', 'numpy', 'pandas', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize("arguments", [(), ("--sizes",), ("--compare",)])
def test_a_narrow_terminal_cuts_nothing(
    three: Path, saei: Saei, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    """On 60 columns; a model's long name makes the line above the table longer than that."""
    module = sys.modules["saei.cli.runs"]

    def narrow(**options: Any) -> Console:
        return screen(**{"force_terminal": True, "width": 60, "color_system": None} | options)

    monkeypatch.setattr(module, "screen", narrow)
    make(three, "a-run-with-a-long-name-of-its-own-and-seed-1")
    said = saei("runs", three, *arguments)
    assert said.code == 0, said.err
    assert max(map(len, said.out.splitlines())) <= 60
    assert "…" not in said.out
    if arguments == ("--sizes",):
        assert re.search(r"old-\s*\n.*checkpoints", said.out)
