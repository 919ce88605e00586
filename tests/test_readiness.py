"""What needs no weights is refused before any weights load."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from commands import Said
from models import tiny_folder
from saei.config import registry
from saei.policy.load import weights as loading

PLUGIN = """
from typing import Literal
from saei.need import Need
from saei.entropy.selectors.base import Selector
from saei.objectives.grpo import GRPO
from saei.config.registry import register

@register
class Psychic(Selector):
    needs = frozenset({Need("thoughts")})
    class Config(Selector.Config):
        type: Literal["psychic"] = "psychic"
    def select(self, stats, *, progress, generator):
        return stats.valid_NT

@register
class Greedy(GRPO):
    needs = frozenset({Need("more")})
    class Config(GRPO.Config):
        type: Literal["greedy"] = "greedy"
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder("Qwen2.5-VL", tmp_path_factory.mktemp("tiny"))


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working folder with data, and weights that must not be read."""

    def weights(*_: object) -> None:
        raise AssertionError("weights are read")

    monkeypatch.setattr(loading, "_trained", weights)
    monkeypatch.setattr(registry, "_registered", {})
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (56, 56)).save("0.png")
    row = {"images": ["0.png"], "problem": "How many?", "answer": "1"}
    for name, split in (("good", "train"), ("good", "test"), ("other", "train")):
        Path(name).mkdir(exist_ok=True)
        Image.new("RGB", (56, 56)).save(f"{name}/0.png")
        Path(name, f"{split}.jsonl").write_text(json.dumps(row))
    Path("bare.jsonl").write_text(json.dumps({"images": ["0.png"], "problem": "How many?"}))
    Path("mine.py").write_text(PLUGIN)
    Path("broken.py").write_text("def reward(example, text, *, truncated):\n    return 1 +\n")
    Path("file").write_text("no folder")
    Path("kept").mkdir()
    Path("kept/settings.json").write_text(json.dumps({"task": {"type": "digits"}}))


NO_DATA: tuple[Any, ...] = (("--data", "nothing.jsonl"), "There is no")
NO_COLUMN: tuple[Any, ...] = (("--data", "bare.jsonl"), "columns.answer")
NO_EVALUATION: tuple[Any, ...] = (("--data", "other"), "rows that are not trained on")
NO_REWARD: tuple[Any, ...] = (("--set", "reward={type: function, path: broken.py:reward}"), "broken.py, line 2")
NO_FUNCTION: tuple[Any, ...] = (("--set", "reward={type: function, path: mine.py:nothing}"), "'nothing'")
NO_DEVICE: tuple[Any, ...] = (("--set", "model.device=xpu:7"), "this machine has")
NO_PLUGIN: tuple[Any, ...] = (("--plugin", "broken.py"), "broken.py, line 2")

CASES = [
    *(
        (("train",), *case)
        for case in (
            NO_DATA,
            NO_COLUMN,
            NO_EVALUATION,
            NO_REWARD,
            NO_FUNCTION,
            NO_DEVICE,
            NO_PLUGIN,
            (("--plugin", "mine.py", "--selector", "psychic"), "'thoughts'"),
            (("--plugin", "mine.py", "--objective", "greedy"), "'more'"),
            (("--output", "file"), "file is no folder"),
            (("--output", "file/runs"), "file is no folder"),
        )
    ),
    *(
        (("train", "--engine", "trl", "--sampler", "clean", "--set", "evaluation={}"), *case)
        for case in (NO_DATA, NO_COLUMN, NO_REWARD, NO_DEVICE, NO_PLUGIN, (("--output", "file"), "file is no folder"))
    ),
    *((("eval",), *case) for case in (NO_DATA, NO_COLUMN, NO_REWARD, NO_DEVICE, NO_PLUGIN)),
    *(
        (("eval", "--benchmark", "bars"), *case)
        for case in (
            NO_REWARD,
            NO_DEVICE,
            (("--output", "file"), "file is no folder"),
            (("--output", "kept"), "settings of before"),
        )
    ),
    *((("data", "preview"), *case) for case in (NO_DATA, NO_COLUMN, NO_REWARD, NO_DEVICE)),
    *((("data", "check", "--data", "good"), *case) for case in (NO_REWARD, NO_DEVICE)),
]


@pytest.mark.parametrize(
    ("command", "arguments", "expected"), CASES, ids=[f"{' '.join(case[0])[:20]}: {case[2]}" for case in CASES]
)
def test_what_needs_no_weights_is_refused_before_any_load(
    saei: Callable[..., Said], model: Path, command: tuple[str, ...], arguments: tuple[str, ...], expected: str
) -> None:
    if "trl" in command:
        pytest.importorskip("trl")
    said = saei(*command, "--model", model, *arguments)
    assert said.code == 2, said.err
    assert expected in said.err
    assert "Traceback" not in said.err
    assert not Path("runs").exists()


def test_what_is_all_right_reads_weights(saei: Callable[..., Said], model: Path) -> None:
    with pytest.raises(AssertionError, match="weights are read"):
        saei("train", "--model", model, "--data", "good")
