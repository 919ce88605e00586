"""Code of other people that fails: where it did is said, and what was trained is kept."""

from __future__ import annotations

import importlib
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from commands import Said
from models import tiny_folder
from runs import lines
from saei.config import registry
from saei.config.registry import load_plugin
from saei.errors import PluginLoadError, SaeiError, TrainingError
from saei.rewards.function import Function
from saei.types import Example

SIZES = (
    "evaluation.examples=2",
    "evaluation.responses=1",
    "evaluation.probe_examples=1",
    "evaluation.probe_responses=2",
    "evaluation.every=10",
    "evaluation.held_out_groups=0",
    "training.prompts_per_step=1",
    "training.steps=5",
    "sampling.max_new_tokens=6",
    "model.threads=1",
    "output.checkpoint_every=3",
    "optimizer.lr=0.001",
    "reward={type: function, path: rewards.py:reward}",
)
GOOD = """
def reward(example, text, *, truncated):
    return sum(map(ord, text)) % 6 / 5
"""
FAILING = """
calls = 0

def reward(example, text, *, truncated):
    global calls
    calls += 1
    if calls > {after}:
        {what}
    return sum(map(ord, text)) % 6 / 5
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder("Qwen2.5-VL", tmp_path_factory.mktemp("tiny"))


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(registry, "_registered", {})
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("saei_file_"):
            del sys.modules[name]


def write(text: str) -> None:
    """Write the reward; the next command is a process that has not read the one before."""
    Path("rewards.py").write_text(text)
    for name in list(sys.modules):
        if name.startswith("saei_file_rewards"):
            del sys.modules[name]
    importlib.invalidate_caches()


@pytest.fixture
def train(saei: Callable[..., Said], model: Path) -> Callable[..., Said]:
    def run(name: str, *arguments: str) -> Said:
        sizes = [word for size in SIZES for word in ("--set", size)]
        return saei("train", "--model", model, "--name", name, *sizes, *arguments)

    return run


def go_on(saei: Callable[..., Said], said: Said) -> Said:
    """Do what a message says, word for word."""
    (command,) = re.findall(r"^ +(saei train --resume .*)$", said.err, re.MULTILINE)
    return saei(*shlex.split(command)[1:])


WHOLE: list[dict[str, Any]] = []
"""The metrics of the run that never failed."""

RAISE, EXIT, NONSENSE = "raise ValueError('mine')", "import sys; sys.exit(3)", "return float('nan')"


@pytest.mark.parametrize(
    ("after", "step", "what"),
    [(0, 0, RAISE), (4, 0, EXIT), (30, 2, EXIT), (55, 4, NONSENSE), (65, 3, RAISE)],
    ids=["first evaluation", "first step", "2", "4", "last evaluation"],
)
def test_a_run_whose_reward_fails_goes_on_from_the_step_that_failed(
    train: Callable[..., Said], saei: Callable[..., Said], after: int, step: int, what: str
) -> None:
    """Four responses are graded in an evaluation and twelve in a step."""
    if not WHOLE:
        write(GOOD)
        assert train("whole").code == 0
        WHOLE.extend(lines(Path("runs/whole")))
    write(FAILING.format(after=after, what=what))
    said = train("failed")
    assert said.code == 2, said.err
    assert "Traceback" not in said.err
    assert "on example" in said.err
    if "nan" not in what:
        assert "rewards.py, line 8: " in said.err
    written = sorted(int(path.name[5:]) for path in Path("runs/failed/checkpoints").glob("step-*"))
    assert max(written, default=0) == step
    write(GOOD)
    again = go_on(saei, said)
    assert again.code == 0, again.err
    assert lines(Path("runs/failed")) == WHOLE


def test_a_run_whose_checkpoints_are_gone_is_not_begun_again(train: Callable[..., Said], saei: Any) -> None:
    write(GOOD)
    assert train("whole").code == 0
    for path in Path("runs/whole/checkpoints").glob("*/trainer.pt"):
        path.unlink()
    kept = Path("runs/whole/metrics.jsonl").read_text()
    said = saei("train", "--resume", "runs/whole", "--steps", 9)
    assert said.code == 2
    assert "did 5 steps: they were deleted" in said.err
    assert Path("runs/whole/metrics.jsonl").read_text() == kept


def test_a_sampler_that_calls_exit_ends_with_an_error_and_keeps_the_run(train: Callable[..., Said], saei: Any) -> None:
    Path("mine.py").write_text(
        "import sys\n"
        "from typing import Literal\n"
        "from saei.config.registry import register\n"
        "from saei.samplers.clean import Clean\n\n"
        "@register\n"
        "class Leaver(Clean):\n"
        "    class Config(Clean.Config):\n"
        "        type: Literal['leaver'] = 'leaver'\n\n"
        "    def draw(self, views, step, supply):\n"
        "        return super().draw(views, step, supply) if step.progress < 0.3 else sys.exit('enough')\n"
    )
    write(GOOD)
    said = train("one", "--plugin", "mine.py", "--sampler", "leaver")
    assert said.code == 2
    assert "mine.py, line 12: SystemExit: enough" in said.err
    assert [path.name for path in Path("runs/one/checkpoints").iterdir()] == ["step-000002"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x = 1\ny = 1 / 0\n", "line 2: ZeroDivisionError"),
        ("x = 1\nimport a_module_that_is_not_there\n", "line 2: ModuleNotFoundError"),
        ("x = 1\n\n\ny = = 2\n", "line 4: SyntaxError"),
        ("import sys\n\nsys.exit()\n", "line 3: SystemExit"),
        ("import json\n\njson.loads('{')\n", "line 3: JSONDecodeError"),
        ("def f():\n    raise KeyError('x')\n\nf()\n", "line 2: KeyError"),
    ],
)
def test_a_file_that_does_not_import_names_its_line(text: str, expected: str) -> None:
    Path("mine.py").write_text(text)
    for load in (lambda: load_plugin("./mine.py"), lambda: Function.Config(path="./mine.py:f").build()):
        with pytest.raises(PluginLoadError) as caught:
            load()
        assert f"{Path('mine.py').absolute()}, {expected}" in str(caught.value)
        assert caught.value.__cause__ is not None


def test_a_reward_that_gives_a_library_nonsense_names_its_own_line() -> None:
    write("import numpy\n\ndef reward(example, text, *, truncated):\n    return numpy.reshape([1, 2, 3], (2, 2))\n")
    with pytest.raises(TrainingError, match=r"rewards\.py, line 4: ValueError: cannot reshape"):
        Function.Config(path="rewards.py:reward").build().grade(Example("1", "What?", "1"), "text")


def test_what_a_run_of_trl_leaves_is_not_begun_again_by_our_engine(tmp_path: Path) -> None:
    from saei.config.overrides import load_config
    from saei.engine import checkpoint
    from saei.runtime.run_dir import RunDir

    config = load_config(flags=[{"output": {"root": str(tmp_path), "name": "one"}}])
    run = RunDir.create(config, engine="trl")
    with pytest.raises(SaeiError, match="trained by trl"):
        checkpoint.start_of(run, config)
    with pytest.raises(SaeiError) as caught:
        RunDir.check_new(config)
    assert "--resume" not in str(caught.value)


# Each remedy is tried in the state in which it is given.


@pytest.fixture
def stopped(train: Callable[..., Said]) -> Path:
    """A run that failed in its fifth step, with checkpoints of steps 3 and 4."""
    write(FAILING.format(after=55, what=RAISE))
    assert train("stopped").code == 2
    write(GOOD)
    return Path("runs/stopped")


def test_a_taken_name_goes_on_as_its_message_says(train: Callable[..., Said], saei: Any, stopped: Path) -> None:
    said = train("stopped")
    assert said.code == 2
    (command,) = re.findall(r"`(saei train --resume .*?)`", said.err)
    assert saei(*shlex.split(command)[1:]).code == 0
    complete = saei("train", "--resume", stopped)
    (steps,) = re.findall(r"for example (--steps \d+)", complete.err)
    assert saei("train", "--resume", stopped, *steps.split()).code == 0


def test_a_damaged_checkpoint_is_deleted_and_the_one_before_serves(saei: Any, stopped: Path) -> None:
    newest = stopped / "checkpoints" / "step-000004"
    (newest / "trainer.pt").write_bytes(b"damaged")
    said = saei("train", "--resume", stopped)
    assert said.code == 2
    assert "Delete this checkpoint; the run then goes on from the one before" in said.err
    shutil.rmtree(newest)
    assert saei("train", "--resume", stopped).code == 0


def test_a_new_run_begins_from_the_last_checkpoint_of_another(train: Callable[..., Said], stopped: Path) -> None:
    said = train("new", "--model", str(stopped / "checkpoints" / "step-000004"))
    assert said.code == 0, said.err


@pytest.mark.parametrize(
    "change",
    ["training.max_bad_share=0.5", "training.max_untouched=1", "model.device=cpu", "output.trackers=[]"],
)
def test_what_messages_ask_to_change_may_change_on_resume(saei: Any, stopped: Path, change: str) -> None:
    """Too many bad rows, too many without a picture, a device that is not here, a tracker that is not."""
    assert saei("train", "--resume", stopped, "--set", change).code == 0


def test_where_a_judge_is_reached_may_change_on_resume_but_not_whether_there_is_one(tmp_path: Path) -> None:
    from saei.cli.resume import resumed_run
    from saei.config.overrides import load_config
    from saei.runtime.run_dir import RunDir

    judge = {"url": "http://127.0.0.1:1/v1", "model": "m"}
    config = load_config(
        flags=[{"output": {"root": str(tmp_path), "name": "one"}, "reward": {"type": "r1v", "judge": judge}}]
    )
    run = RunDir.create(config)
    run.lock.release()
    _, moved = resumed_run(run.path, [], ["reward.judge.url=http://127.0.0.1:2/v1", "reward.judge.timeout=9"])
    assert moved.reward.judge.url == "http://127.0.0.1:2/v1"  # type: ignore[attr-defined]
    with pytest.raises(SaeiError, match=r"Changed: reward\.judge"):
        resumed_run(run.path, [], ["reward.judge=null"])
