"""Twenty photos of one's own, by the real command, on the built-in model."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import yaml
from PIL import Image, ImageDraw

from commands import Saei
from saei.data.dataset import Dataset
from saei.intake import scan as scan_module

SMALL = (
    "training.prompts_per_step=3",
    "sampler.n_clean=2",
    "sampler.n_adversarial=2",
    "sampling.max_new_tokens=8",
    "evaluation.responses=1",
    "evaluation.probe_responses=2",
    "model.threads=1",
)


@pytest.fixture(autouse=True)
def _own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def train(saei: Saei) -> Callable[..., tuple[int, list[str]]]:
    """Run ``saei train`` and return its exit code and what it said, line by line."""

    def run(*arguments: object) -> tuple[int, list[str]]:
        code, _, said = saei("train", *arguments)
        return code, said.splitlines()

    return run


def photo(path: Path, number: int) -> None:
    """A photo taken with the camera turned: the picture lies on its side, and EXIF says so."""
    image = Image.new("RGB", (800, 600), (200, 200, 200))
    draw = ImageDraw.Draw(image)
    for bar in range(number % 4 + 1):
        draw.rectangle((100 * bar + 20, 100, 100 * bar + 80, 400), fill=(200, 30, 30))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(path, quality=80, exif=exif)


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """Twenty good photos, and a broken one, a missing one and one without an answer among them."""
    folder = tmp_path / "my album"
    (folder / "Zürich 2024").mkdir(parents=True)
    rows: list[tuple[str, str, str]] = []
    for number in range(20):
        name = f"Zürich 2024/photo {number}.jpg"
        photo(folder / name, number)
        rows.append((name, "How many bars are red?", str(number % 4 + 1)))
    whole = (folder / rows[0][0]).read_bytes()
    (folder / "broken.jpg").write_bytes(whole[: len(whole) // 2])
    rows.insert(3, ("broken.jpg", "How many bars are red?", "1"))
    rows.insert(11, ("gone.jpg", "How many bars are red?", "2"))
    rows.insert(22, ("Zürich 2024/photo 5.jpg", "How many bars are red?", ""))
    with (folder / "metadata.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("file_name", "question", "answer"), *rows])
    return folder


def metrics(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_an_album_trains_and_its_bad_rows_are_named_once_and_skipped(
    train: Callable[..., tuple[int, list[str]]], album: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = [word for size in SMALL for word in ("--set", size)]
    code, said = train("--data", album.name, "--steps", 8, "--name", "own", *sizes)  # 24 prompts: more than an epoch
    assert code == 0, said
    skipped = [line for line in said if "is skipped" in line]
    reasons = {3: "'broken.jpg'): OSError: image file is truncated", 11: "no file 'gone.jpg'", 22: "'answer' is empty"}
    for row, reason in reasons.items():
        (line,) = [line for line in skipped if f"row {row} of {album / 'metadata.csv'}" in line]
        assert reason in line
    assert len(skipped) == 3
    table = album / "metadata.csv"
    assert f"{table}: images from 'file_name', question from 'question', answer from 'answer'." in said
    assert any("5 of the 23 rows" in line and "not trained on" in line for line in said)
    assert [line["step"] for line in metrics(Path("runs/own"))] == [*range(9)]

    recorded = yaml.safe_load(Path("runs/own/config.yaml").read_text())["config"]["task"]["path"]
    assert recorded == str(album)
    own = Path("runs/own").absolute()
    (album.parent / "elsewhere").mkdir()
    monkeypatch.chdir(album.parent / "elsewhere")
    code, said = train("--resume", own, "--steps", 9)
    assert code == 0, said
    assert [line["step"] for line in metrics(own)] == [*range(10)]


def test_photos_are_seen_upright(album: Path) -> None:
    task = Dataset(Dataset.Config(path=str(album)))
    pixels = np.asarray(task.example(0).images[0])
    assert pixels.shape == (800, 600, 3)
    red = (pixels[..., 0] > 150) & (pixels[..., 1] < 100)
    assert np.ptp(np.nonzero(red)[1]) == pytest.approx(300, abs=3)  # the bars stand on the disk and lie in the picture


def test_too_many_bad_rows_of_a_few_are_refused(train: Callable[..., tuple[int, list[str]]], album: Path) -> None:
    for name in [f"Zürich 2024/photo {number}.jpg" for number in range(10)]:
        (album / name).write_bytes(b"")
    code, said = train("--data", album)
    assert code == 2
    assert any("training.max_bad_share" in line for line in said)
    assert any("of 18 at most 6 may not be" in line for line in said)


def test_the_album_is_looked_at_before_training(
    saei: Saei, album: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan_module, "CACHE", tmp_path / "sifted")
    code, out, said = saei("data", "preview", "--data", album, "--rows", 2)
    assert code == 0, said
    assert out.count("image 600 x 800, seen as ") == 2
    assert out.count("<|vision_end|>How many bars are red? Think inside <think>") == 2
    assert "images from 'file_name'" in out
    assert "Looked at 18 train examples." in out
    code, out, said = saei("data", "check", "--data", album, "--list")
    assert code == 0, said
    assert ("Looked at 18 train" in out, "Looked at 5 eval" in out) == (True, True)
    for row in (3, 11, 22):
        assert out.count(f"row {row} of {album}") == 1
    assert len(list((tmp_path / "sifted").iterdir())) == 2


def test_a_mapping_that_cannot_work_is_refused_before_a_model_loads(saei: Saei, album: Path) -> None:
    for command in ("preview", "check"):
        columns = ("--set", "task.columns.answer=result")
        code, out, said = saei("data", command, "--data", album, "--model", "nobody/nothing", *columns)
        assert (code, out) == (2, "")
        assert "--set task.columns.answer=answer" in said
        assert "Loading" not in said
