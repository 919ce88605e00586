"""The command line as a user meets it: what works, and what is said when something does not."""

from __future__ import annotations

import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from commands import Said
from saei.builtin.architecture import build_image_processor
from saei.config import registry
from saei.config.registry import Entry
from saei.data.bars import Bars
from saei.policy.load.weights import Parts

SMALL = (
    "evaluation.examples=2",
    "evaluation.responses=1",
    "evaluation.probe_examples=1",
    "evaluation.probe_responses=2",
    "training.prompts_per_step=1",
    "sampling.max_new_tokens=6",
    "model.threads=1",
)
PLUGIN = """
from typing import Literal
from saei.entropy.selectors.base import Selector
from saei.config.registry import register

@register
class Mine(Selector):
    class Config(Selector.Config):
        type: Literal["mine"] = "mine"

    def select(self, stats, *, progress, generator):
        return stats.valid_NT
"""


@pytest.fixture(autouse=True)
def _own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_registered", {})
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setenv("COLUMNS", "300")


@pytest.fixture(scope="session")
def model(random_parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder of random weights."""
    folder = tmp_path_factory.mktemp("model")
    random_parts.model.save_pretrained(folder)
    random_parts.tokenizer.save_pretrained(folder)
    build_image_processor().save_pretrained(folder)
    return folder


@pytest.fixture
def train(saei: Callable[..., Said], model: Path) -> Callable[..., Said]:
    """Train two tiny steps of a random model."""

    def run(*arguments: object, small: bool = True) -> Said:
        sizes = [word for size in SMALL for word in ("--set", size)] if small else []
        return saei("train", "--model", model, "--steps", 2, *sizes, *arguments)

    return run


@pytest.fixture(scope="session")
def finished(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps, by the real command in a process of its own."""
    folder = tmp_path_factory.mktemp("runs") / "done"
    sizes = [word for size in SMALL for word in ("--set", size)]
    command = [sys.executable, "-m", "saei.cli", "train", "--model", str(model), "--steps", "2", *sizes]
    done = subprocess.run(
        [*command, "--output", str(folder.parent), "--name", folder.name], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return folder


def metrics(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def write_data(folder: Path, n: int = 3, *extra: dict[str, Any]) -> Path:
    """Write a jsonl beside its images."""
    (folder / "images").mkdir(parents=True)
    rows = []
    for index in range(n):
        example = Bars().example(index)
        example.images[0].save(folder / "images" / f"{index}.png")
        rows.append({"images": [f"images/{index}.png"], "problem": example.question, "answer": example.answer})
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in [*rows, *extra]))
    return file


def refused(said: Said, *expected: str) -> None:
    """Check for exit code 2 and one message without a traceback, before any training."""
    assert said.code == 2, said
    for part in expected:
        assert part in said.err
    assert "Traceback" not in said.err
    assert "Writing to" not in said.err
    assert said.out == ""


def test_training_says_what_it_does_and_leaves_a_run(finished: Path) -> None:
    assert [line["step"] for line in metrics(finished)] == [0, 1, 2]
    assert (finished / "checkpoints" / "step-000002" / "model.safetensors").is_file()
    assert "config" in (finished / "config.yaml").read_text()


@pytest.mark.parametrize(
    ("arguments", "title"),
    [
        (("--sampler", "clean"), "Sampler clean, objective grpo"),
        (("--selector", "top-k", "--attack", "fgsm", "--set", "selector.count=2"), "mixed (top-k + fgsm)"),
        (("--set", "task.type=digits", "--sampler", "clean"), "on digits"),
    ],
)
def test_strategies_by_flag(train: Callable[..., Said], arguments: tuple[str, ...], title: str) -> None:
    said = train(*arguments, "--output", "runs", "--name", "one")
    assert said.code == 0, said.err
    assert title in said.err
    assert "step    2/2" in said.err
    assert "Done: runs/one" in said.err


def test_a_plugin_file_trains_and_resumes_from_elsewhere(
    train: Callable[..., Said], saei: Callable[..., Said], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("mine.py").write_text(PLUGIN)
    said = train("--plugin", "./mine.py", "--selector", "mine", "--name", "one")
    assert said.code == 0, said.err
    assert "mixed (mine + pgd)" in said.err
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    said = saei("train", "--resume", tmp_path / "runs" / "one", "--steps", 3)
    assert said.code == 0, said.err
    assert [line["step"] for line in metrics(tmp_path / "runs" / "one")] == [0, 1, 2, 3]


def test_data_by_file_and_by_folder_with_a_bad_row_named_and_counted(train: Callable[..., Said]) -> None:
    file = write_data(Path("data"), 3, {"images": ["images/nothing.png"], "problem": "What?", "answer": "1"})
    shares = ("--set", "training.max_bad_share=0.5", "--sampler", "clean", "--set", "sampler.n=2")
    for name, path in (("file", file), ("folder", file.parent)):
        said = train("--data", path, "--name", name, "--steps", 4, *shares)
        assert said.code == 0, said.err
        assert f"row 3 of {file.absolute()}" in said.err
        assert "nothing.png" in said.err
        skipped = metrics(Path("runs") / name)[-1]["train/bad_examples"]
        assert skipped >= 1  # the four steps go once through the rows and on
        assert f"skipped {skipped:.0f} times" in said.err


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and has no pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", b""), (b"IEND", b""))
    parts = (
        struct.pack(">I", len(body)) + tag + body + struct.pack(">I", zlib.crc32(tag + body)) for tag, body in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda file: (file.parent / "images" / "0.png").write_bytes(b"no image"), ("image has to open", "row 0")),
        (lambda file: (file.parent / "images" / "0.png").write_bytes(png_header(60_000, 60_000)), ("pixels", "row 0")),
        (lambda file: file.write_text(""), ("at least one row", "rows.jsonl")),
        (
            lambda file: file.write_text(file.read_text().replace("answer", "result")),
            ("columns.answer=result", "images, problem, result"),
        ),
        (lambda file: file.unlink(), ("has to be readable", "rows.jsonl")),
    ],
    ids=["does not open", "enormous", "empty", "missing column", "missing file"],
)
def test_bad_data(train: Callable[..., Said], spoil: Callable[[Path], object], expected: tuple[str, ...]) -> None:
    file = write_data(Path("data"), 2)
    spoil(file)
    refused(train("--data", file), *expected)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--selector", "midle-third"), ("'midle-third'", "Did you mean 'middle-third'?", "top-k")),
        (("--set", "attack.steps=many"), ("sampler.intervention.attack.steps", "valid integer", "saei show pgd")),
        (("--sampler", "clean", "--attack", "fgsm"), ("Only samplers that intervene",)),
        (("--config", "nothing.yaml"), ("readable YAML", "nothing.yaml")),
        (("--plugin", "./nothing.py"), ("nothing.py", "importable")),
        (("--resume", "nothing"), ("folder of a run", "nothing/config.yaml")),
        (("--data", "x.jsonl", "--task", "bars"), ("--data is read by the task dataset",)),
        (("--steps", "some"), ("--steps", "integer")),
    ],
)
def test_bad_arguments(train: Callable[..., Said], arguments: tuple[str, ...], expected: tuple[str, ...]) -> None:
    refused(train(*arguments), *expected)


@pytest.mark.parametrize("path", ["./nothing", "nobody/nothing"])
def test_a_model_that_is_not_there_fails_fast(saei: Callable[..., Said], path: str) -> None:
    started = time.monotonic()
    refused(saei("train", "--model", path), "model.path", "there is no such folder", "save_pretrained")
    assert time.monotonic() - started < 8


def test_a_folder_that_is_no_model(saei: Callable[..., Said], tmp_path: Path) -> None:
    refused(saei("train", "--model", tmp_path), "model.path has to hold", str(tmp_path))


@pytest.mark.parametrize("missing", [True, False])
def test_weights_that_do_not_fill_the_model(
    saei: Callable[..., Said], model: Path, tmp_path: Path, missing: bool
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if name.endswith("gate_proj.weight"))
    weights.pop(name) if missing else weights.update({name: torch.zeros(3, 5)})
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    refused(saei("train", "--model", folder), "weights of a model have to fill it", "gate_proj", "complete checkpoint")


def test_a_taken_name_is_refused_before_the_model_loads(saei: Callable[..., Said], finished: Path) -> None:
    said = saei("train", "--model", "nobody/nothing", "--output", finished.parent, "--name", finished.name)
    refused(said, "folder of its own", "--resume", "--name")


def test_resuming_trains_on_and_keeps_the_configuration(
    saei: Callable[..., Said], finished: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    refused(saei("train", "--resume", run), "steps left", "2 of 2", "--steps 4")
    refused(saei("train", "--resume", run, "--steps", 4, "--seed", 3), "may change", "Changed: seed.")
    refused(saei("train", "--resume", run, "--steps", 4, "--attack", "fgsm"), "Changed: sampler.intervention.attack")
    refused(saei("train", "--resume", run, "--config", "x.yaml"), "--config was given")
    assert saei("train", "--resume", run, "--steps", 3).code == 0
    assert metrics(run)[:3] == metrics(finished)
    assert metrics(run)[3]["step"] == 3
    refused(saei("train", "--resume", run), "3 of 3")  # the new number of steps is the run's own now


def test_a_checkpoint_of_another_model(saei: Callable[..., Said], finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    checkpoint = run / "checkpoints" / "step-000002"
    state = torch.load(checkpoint / "trainer.pt", weights_only=True)
    for moments in state["optimizer"]["state"].values():
        moments["exp_avg"] = torch.zeros(3)
    torch.save(state, checkpoint / "trainer.pt")
    refused(saei("train", "--resume", run, "--steps", 3), "have to be those that were written", "trainer.pt differs")
    (checkpoint / "checksums.json").unlink()
    refused(saei("train", "--resume", run, "--steps", 3), "has to belong to the model", str(checkpoint))
    (checkpoint / "trainer.pt").write_bytes(b"damaged")
    refused(saei("train", "--resume", run, "--steps", 3), "trainer.pt has to be readable")
    shutil.rmtree(checkpoint)
    refused(saei("train", "--resume", run, "--steps", 3), "newest checkpoint", "they were deleted")


def test_list_and_its_json(saei: Callable[..., Said]) -> None:
    said = saei("list")
    assert said.code == 0
    assert "middle-third" in said.out
    rows = json.loads(saei("list", "attack", "--json").out)
    names = [row["name"] for row in rows if row["kind"] == "attack"]
    assert len(names) == len(rows)
    assert names == sorted({"diffusion-noise", "fgsm", "noise", "pgd"} | set(names))
    refused(saei("list", "atack"), "'atack' is not a kind", "'attack'")


def test_list_check_names_the_broken(saei: Callable[..., Said], monkeypatch: pytest.MonkeyPatch) -> None:
    assert saei("list", "--check").code == 0
    entries = registry._installed_entries
    broken = Entry("attack", "ghost", "nobody", "not_there:Ghost")
    monkeypatch.setattr(
        registry, "_installed_entries", lambda kind: [*entries(kind), *([broken] if kind == "attack" else [])]
    )
    assert saei("list").code == 0
    said = saei("list", "--check")
    assert said.code == 2
    assert "broken" in said.out
    assert "not_there" in said.err
    assert [row["name"] for row in json.loads(saei("list", "--check", "--json").out) if row["error"]] == ["ghost"]


def test_show(saei: Callable[..., Said]) -> None:
    said = saei("show", "pgd")
    assert said.code == 0
    for part in ("pgd  attack", "step_space", "2/255", "Number of steps"):
        assert part in said.out
    assert "prompts_per_step" in saei("show", "training").out
    assert "intervention.attack" in saei("show", "mixed").out
    both = saei("show", "entropy").out
    assert "section of the configuration" in both
    assert "entropy  criterion" in both
    refused(saei("show", "pdg"), "'pdg'", "Did you mean 'pgd'?")


def test_eval_of_a_run_a_checkpoint_and_a_folder(saei: Callable[..., Said], finished: Path, model: Path) -> None:
    checkpoint = finished / "checkpoints" / "step-000002"
    sizes = ("--examples", 2, "--responses", 2)
    found = json.loads(saei("eval", "--model", finished, *sizes, "--json").out)
    assert found["model"] == str(checkpoint)
    assert (found["task"]["type"], found["split"], found["examples"], found["responses"]) == ("bars", "eval", 2, 2)
    assert found["metrics"]["length"] <= 6  # the run's own limit, not the default of 48
    assert json.loads(saei("eval", "--model", checkpoint, *sizes, "--json").out) == found
    assert "nll" in found["metrics"]
    for other in (("--temperature", "0", "--responses", 1), ("--top-p", "0.5"), ("--top-k", "3")):
        narrow = json.loads(saei("eval", "--model", checkpoint, *sizes, *other, "--json").out)["metrics"]
        assert "accuracy" in narrow
        assert "nll" not in narrow  # the probe is defined at temperature 1 over the full vocabulary
    said = saei(
        "eval",
        "--model",
        model,
        "--examples",
        2,
        "--task",
        "digits",
        "--responses",
        1,
        "--temperature",
        1,
        "--top-k",
        5,
    )
    assert said.code == 0
    assert "2 examples of digits (eval split, clean view)" in said.out
    assert "temperature 1.0, top_k 5" in said.out
    refused(saei("eval", "--model", model, "--task", "bar"), "Did you mean 'bars'?")


def test_build_tiny_writes_only_new_folders(saei: Callable[..., Said], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    refused(saei("build-tiny", tmp_path), "new folder", str(tmp_path))
    refused(saei("build-tiny", tmp_path / "file"), "new folder")


def test_the_demo_goes_on_and_shows_all_runs(saei: Callable[..., Said], model: Path) -> None:
    sizes = [word for size in (*SMALL, f"model.path={model}") for word in ("--set", size)]
    clean, killed = Path("demo/bars-clean-steps1-seed0"), Path("demo/bars-mixed-steps1-seed0")
    killed.mkdir(parents=True)
    (killed / "config.yaml").write_text("of a run that was killed before its first checkpoint")
    said = saei("demo", "--output", "demo", "--steps", 1, "--seeds", 1, *sizes)
    assert said.code == 0, said.err
    assert "Run 4 of 4 is complete: lock-in, SaEI 4/255, seed 0, step 1/1" in said.err
    picture = Image.open("demo/demo-steps1-seeds1-seed0.png")
    assert (said.out.count("→"), picture.format) == (12, "PNG")
    assert "of 1" in said.out.split("Escaped on lock-in")[1]
    assert [line["step"] for line in metrics(killed)] == [0, 1]
    assert {path.name for path in Path("demo").glob("lock-in-*")} == {
        "lock-in-clean-steps1-seed0",
        "lock-in-mixed-steps1-seed0",
    }
    before = (clean / "metrics.jsonl").stat().st_mtime_ns
    again = saei("demo", "--output", "demo", "--steps", 1, "--seeds", 1, *sizes)
    assert again.err.count("Complete already") == 4
    assert (clean / "metrics.jsonl").stat().st_mtime_ns == before


def test_the_demo_draws_three_seeds_of_each_arm_on_lock_in(
    saei: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    from saei.studies import scheduler
    from saei.studies.scheduler import RunStatus

    asked: list[str] = []

    def none_is_run(statuses: Sequence[RunStatus], **_: Any) -> None:
        asked.extend(status.planned.label for status in statuses)

    monkeypatch.setattr(scheduler, "run_all", none_is_run)
    said = saei("demo", "--output", "demo", "--seed", 4)
    assert asked == [
        "bars, GRPO, seed 4",
        "bars, SaEI 2/255, seed 4",
        *(f"lock-in, {arm}, seed {seed}" for seed in (4, 5, 6) for arm in ("GRPO", "SaEI 4/255")),
    ]
    assert (said.code, "the same command again" in said.err) == (130, True)


def test_a_run_of_the_demo_that_fails_is_named_with_its_last_words(
    saei: Callable[..., Said], model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(model, "model")
    (Path("model") / "model.safetensors").write_bytes(b"damaged")
    said = saei("demo", "--output", "demo", "--steps", 1, "--seeds", 1, "--set", "model.path=model")
    refused(said, "bars, GRPO, seed 0 did not", "demo/bars-clean-steps1-seed0/log.txt ends")


def test_an_interrupt_finishes_the_step_and_says_how_to_go_on(model: Path, tmp_path: Path) -> None:
    sizes = [word for size in SMALL for word in ("--set", size)]
    command = [sys.executable, "-m", "saei.cli", "train", "--model", str(model), "--steps", "1000", "--name", "one"]
    process = subprocess.Popen(
        [*command, *sizes], stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert process.stderr is not None
    seen = ""
    while "step    0/1000" not in seen:
        line = process.stderr.readline()
        assert line, seen
        seen += line
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=60)
    assert process.returncode == 130, rest
    assert "Stopping after this step" in rest
    assert "saei train --resume runs/one" in rest
    assert len(list((tmp_path / "runs" / "one" / "checkpoints").glob("step-*"))) == 1
