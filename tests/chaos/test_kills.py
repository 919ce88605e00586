"""Training, evaluation and demonstration, killed at their file operations and at random moments, and gone on with."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cases import SEED, size
from PIL import Image

from runs import lines
from saei.data.templates import ThinkBoxed
from saei.engine import checkpoint
from saei.evaluation.store import EvaluationDir
from saei.policy import Policy
from saei.policy.load.weights import Parts
from saei.runtime.checksums import verify_checksums
from saei.runtime.run_dir import RunDir
from test_kill_resume import PLUGIN

STEPS = 6
TINY = {
    "model.device": "cpu",
    "sampling.max_new_tokens": 8,
    "training.prompts_per_step": 2,
    "optimizer.lr": 1e-3,
    "evaluation.examples": 2,
    "evaluation.responses": 2,
    "evaluation.probe_examples": 2,
    "evaluation.probe_responses": 2,
}
GROUP = {"sampler.n_clean": 2, "sampler.n_adversarial": 2}
PATIENCE_S = 120.0
"""For a whole command: a hang, not a slow machine."""


@dataclass(frozen=True)
class Ended:
    """How a command ended: 0, its exit code, or -1 where it was killed."""

    code: int
    said: str
    operations: list[str]


class Host:
    """The process that forks commands, and the folder that they run in."""

    def __init__(self, home: Path) -> None:
        self.home = home
        environment = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "COLUMNS": "200"}
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("host.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )
        assert "threads" in self._read()

    def run(
        self, arguments: Sequence[object], *, watched: Path, kill_at: int | None = None, delay_s: float = 0.0
    ) -> Ended:
        said = self.home / "said"
        operations = self.home / "said.operations"
        operations.unlink(missing_ok=True)
        order: dict[str, Any] = {
            "arguments": list(map(str, arguments)),
            "home": str(self.home),
            "watched": str(self.home / watched),
            "said": str(said),
            "kill_at": kill_at,
            "delay_s": delay_s,
        }
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        reply = json.loads(self._read())
        assert reply["seconds"] < PATIENCE_S
        code = -1 if os.WIFSIGNALED(reply["status"]) else os.WEXITSTATUS(reply["status"])
        text = said.read_text(encoding="utf-8", errors="replace")
        assert "Traceback" not in text, text
        return Ended(code, text, json.loads(operations.read_text()) if operations.exists() else [])

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def end(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture(scope="module")
def host(random_parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    home = tmp_path_factory.mktemp("home")
    Policy(random_parts, ThinkBoxed()).save(home / "model")
    (home / "mine.py").write_text(PLUGIN)
    one = Host(home)
    yield one
    one.end()


def settings(values: dict[str, Any]) -> list[str]:
    return [word for path, value in values.items() for word in ("--set", f"{path}={value}")]


class Job:
    """A command, how it goes on after a kill, and what has to be there in the end."""

    def start(self, name: str) -> list[str]:
        """Return the command that begins it in the folder ``name``."""
        raise NotImplementedError

    def again(self, home: Path, name: str) -> list[str] | None:
        """Return the command that goes on, None where nothing is left to be done."""
        return self.start(name)

    def tear(self, folder: Path, chance: random.Random) -> None:
        """Leave behind what a process may that dies in the middle of a line."""

    def check_left(self, folder: Path) -> None:
        """Check what a kill left."""

    def check(self, folder: Path, whole: Path) -> None:
        """Compare what there is in the end with the job that nobody disturbed."""
        raise NotImplementedError


class Training(Job):
    def start(self, name: str) -> list[str]:
        own = {"reward.type": "mine/checksum", "evaluation.every": 3, "output.checkpoint_every": 2}
        run = ["--steps", str(STEPS), "--output", str(Path(name).parent), "--name", Path(name).name]
        return ["train", "--model", "model", "--plugin", "./mine.py", *run, *settings({**TINY, **GROUP, **own})]

    def again(self, home: Path, name: str) -> list[str] | None:
        if not (home / name / "config.yaml").exists():
            return self.start(name)
        found = checkpoint.complete_in(home / name / "checkpoints")
        return None if found and checkpoint.step_of(found[-1]) == STEPS else ["train", "--resume", name]

    def tear(self, folder: Path, chance: random.Random) -> None:
        if (folder / "metrics.jsonl").exists():
            tear(folder / "metrics.jsonl", chance)

    def check_left(self, folder: Path) -> None:
        for each in checkpoint.complete_in(folder / "checkpoints"):
            verify_checksums(each)

    def check(self, folder: Path, whole: Path) -> None:
        assert [line["step"] for line in lines(folder)] == list(range(STEPS + 1))
        assert lines(folder) == lines(whole)
        assert RunDir(folder).samples() == RunDir(whole).samples()
        assert weights(folder) == weights(whole)


class Evaluation(Job):
    def start(self, name: str) -> list[str]:
        drawn = ["--benchmark", "bars", "--examples", "12", "--responses", "2", "--batch", "6", "--output", name]
        own = {"reward.type": "mine/checksum", "model.device": "cpu", "sampling.max_new_tokens": 8}
        return ["eval", "--model", "model", "--plugin", "./mine.py", *drawn, *settings(own)]

    def tear(self, folder: Path, chance: random.Random) -> None:
        file = folder / "answers.jsonl"
        if file.exists() and len(EvaluationDir(folder).records()) < 24:  # behind the last answer nobody writes
            tear(file, chance)

    def check(self, folder: Path, whole: Path) -> None:
        answers, right = EvaluationDir(folder).records(), EvaluationDir(whole).records()
        assert sorted((one.number, one.response) for one in answers) == [(n, r) for n in range(12) for r in range(2)]
        assert sorted(map(repr, answers)) == sorted(map(repr, right))
        results = [EvaluationDir(each).result() for each in (folder, whole)]
        assert results[0] | {"time": None} == results[1] | {"time": None}
        raw = (folder / "answers.jsonl").read_bytes()
        assert raw.count(b"\n") == len(answers) == len(raw.splitlines())


class Demonstration(Job):
    def start(self, name: str) -> list[str]:
        own = {"reward.type": "mine/checksum", "plugins": "[./mine.py]", "model.path": "model"}
        often = {"evaluation.every": 1, "output.checkpoint_every": 1}
        return ["demo", "--steps", "2", "--seeds", "1", "--output", name, *settings({**TINY, **own, **often})]

    def check(self, folder: Path, whole: Path) -> None:
        for run in sorted(path.name for path in whole.iterdir() if path.is_dir()):
            assert lines(folder / run) == lines(whole / run)
            assert weights(folder / run) == weights(whole / run)
        (picture,) = folder.glob("demo-*.png")
        with Image.open(picture) as image:
            image.load()


JOBS: dict[str, Job] = {"training": Training(), "evaluation": Evaluation(), "demonstration": Demonstration()}


def tear(file: Path, chance: random.Random) -> None:
    """Write the beginning of a line behind the last whole one."""
    whole = file.read_bytes()
    last = whole.splitlines()[-1] if whole.strip() else b'{"step": 1}'
    if whole.endswith(b"\n") or not whole:
        file.write_bytes(whole + last[: chance.randrange(len(last))])


def weights(run: Path) -> bytes:
    return (checkpoint.latest(run / "checkpoints") / "model.safetensors").read_bytes()


Places = Callable[[str], bool]

PLACES: dict[str, Places] = {
    "checkpoint's write": lambda said: ".tmp" in said and not said.startswith("rename"),
    "checkpoint's rename": lambda said: said.startswith("rename") and "step-" in said,
    "checkpoint's deletion": lambda said: said.startswith("delete") and ("/" not in said or ".old" in said),
    "lines and pictures": lambda said: any(word in said for word in ("metrics", "samples", "images", "answers", "png")),
    "settings and lock": lambda said: any(word in said for word in (".yaml", ".json ", "lock", "settings", "mkdir")),
}
"""Where a command is killed, by the operation that is next."""


@pytest.fixture(scope="module")
def whole(host: Host) -> Callable[[str], tuple[Path, list[str]]]:
    """Return the folder of a job that nobody disturbed, and its operations."""
    done: dict[str, tuple[Path, list[str]]] = {}

    def of(name: str) -> tuple[Path, list[str]]:
        if name not in done:
            folder = Path("whole") / name
            ended = host.run(JOBS[name].start(str(folder)), watched=folder)
            assert ended.code == 0, ended.said
            JOBS[name].check(host.home / folder, host.home / folder)
            done[name] = host.home / folder, ended.operations
        return done[name]

    return of


CASES = [
    (name, number)
    for name, count in (
        ("training", size(8, 100)),
        ("evaluation", size(4, 40)),
        ("demonstration", size(1, 14)),
    )
    for number in range(count)
]


@pytest.mark.parametrize(("name", "number"), CASES)
def test_a_killed_job_goes_on_as_if_it_had_not_been(
    host: Host, whole: Callable[[str], tuple[Path, list[str]]], tried: Any, name: str, number: int
) -> None:
    job, (right, operations) = JOBS[name], whole(name)
    chance = random.Random(f"{SEED} {name} {number}")
    folder = Path("killed") / f"{name}-{number}"
    places = [(place, found) for place, is_there in PLACES.items() if (found := where(operations, is_there))]
    place, numbers = (*places, ("random moment", range(len(operations))))[number % (len(places) + 1)]
    delay_s = chance.uniform(0.001, 0.3) if place == "random moment" else chance.choice((0.0, 0.0, 0.002, 0.01))
    command: list[str] | None = job.start(str(folder))
    kill_at: int | None = chance.choice(numbers)
    kills = 0
    while command is not None:
        ended = host.run(command, watched=folder, kill_at=kill_at, delay_s=delay_s)
        if ended.code != -1:
            assert ended.code == 0, ended.said
            break
        kills += 1
        tried(f"kills of {name}: {place}")
        job.check_left(host.home / folder)
        if chance.random() < 0.5:
            job.tear(host.home / folder, chance)
        command = job.again(host.home, str(folder))
        # What goes on is killed, too, once or twice.
        place, delay_s = "while it goes on", chance.choice((0.0, 0.01))
        kill_at = chance.randrange(len(operations)) if kills <= chance.randrange(3) else None
    job.check(host.home / folder, right)
    shutil.rmtree(host.home / folder)


def where(operations: Sequence[str], is_there: Places) -> list[int]:
    return [number for number, operation in enumerate(operations) if is_there(operation)]
