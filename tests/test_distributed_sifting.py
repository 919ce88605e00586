"""Several processes look at the data once, in the first of them, and leave out the same examples everywhere."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from runs import lines
from test_distributed import PLUGIN, SETTINGS, TORCHRUN, run, weights

NOTED = (
    PLUGIN
    + '''

from saei.errors import DataError

WORLD, RANK = os.environ.get("WORLD_SIZE", "1"), os.environ.get("RANK", "0")
os.environ["XDG_CACHE_HOME"] = f"remembered-{WORLD}-{RANK}"  # so that no process reads what another has found


@register
class Noted(Checksum):
    """Cannot read the answer "x", and leaves a note of which process asked about which example."""

    class Config(StrategyConfig):
        """No fields."""

        type: Literal["mine/noted"] = "mine/noted"

    def check(self, example):
        with Path(f"checked-{WORLD}-{RANK}.txt").open("a") as file:
            file.write(f"{example.id}\\n")
        if example.answer == "x":
            raise DataError("The gold answer has to be readable.", reason=f"Example {example.id} has x.")
'''
)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a plugin, twelve pictures of which one is broken, and an answer that cannot be read."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "mine.py").write_text(NOTED)
    data = tmp_path / "data"
    data.mkdir()
    random = np.random.default_rng(0)
    for number in range(12):
        Image.fromarray(random.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(data / f"{number}.png")
    (data / "7.png").write_bytes(b"no picture")
    rows = ["image,question,answer", *(f"{number}.png,How many?,{'x' if number == 4 else 3}" for number in range(12))]
    (data / "train.csv").write_text("\n".join(rows))
    (data / "test.csv").write_text("\n".join(rows[:4]))
    return tmp_path


def fresh(name: str) -> list[str]:
    settings = {path: value for path, value in SETTINGS.items() if "guard" not in path}
    settings |= {"reward.type": "mine/noted", "training.sift": "true", "training.max_bad_share": 0.2}
    words = [word for path, value in settings.items() for word in ("--set", f"{path}={value}")]
    return ["--plugin", "./mine.py", "--data", "data", "--steps", "3", "--name", name, *words]


def checked(home: Path, world: int, rank: int) -> list[str]:
    return (home / f"checked-{world}-{rank}.txt").read_text().split()


@pytest.mark.slow
@pytest.mark.timeout(1200)  # processes that load torch
def test_two_processes_sift_as_one_does(home: Path) -> None:
    for launcher, name in (((), "alone"), (TORCHRUN, "both")):
        run(home, launcher, *fresh(name))
    dropped = {name: (home / "runs" / name / "dropped.jsonl").read_text() for name in ("alone", "both")}
    assert dropped["both"] == dropped["alone"]
    assert [json.loads(line)["index"] for line in dropped["alone"].splitlines()] == [4, 7]

    everything = {f"train-{number}" for number in range(12) if number != 7}  # whose picture opens
    first, second = checked(home, 2, 0), checked(home, 2, 1)
    assert set(first[:11]) == everything  # in threads, so in any order
    assert second[0] == "train-0"  # the view that the sampler is checked with, and nothing before it
    assert "train-4" not in first[11:] + second

    ours, theirs = weights(home, "alone"), weights(home, "both")
    assert all(abs(values - theirs[name]).max() <= 1e-6 for name, values in ours.items())
    for one, two in zip(lines(home / "runs" / "alone"), lines(home / "runs" / "both"), strict=True):
        assert one == pytest.approx(two, rel=1e-4, abs=1e-5)
        assert one.get("train/bad_examples", 0) == two.get("train/bad_examples", 0)
