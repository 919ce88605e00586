"""Looking at every example: each image once, remembered, and what is left out is listed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image, ImageFile

from runs import Checksum, Quiet, registered, tiny
from saei.config.sections import SamplingConfig
from saei.data.dataset import Dataset
from saei.data.templates import Plain, ThinkBoxed
from saei.engine import Trainer
from saei.errors import DataError
from saei.intake import scan as scan_module
from saei.intake.preview import preview, preview_examples
from saei.intake.scan import ScanResult, scan
from saei.intake.stream import ViewStream
from saei.policy import Policy
from saei.policy.load.weights import Parts
from saei.rewards.accuracy_format import AccuracyFormat

LONG = "How many of the bars are as high as the highest of the other bars in the image?"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(scan_module, "CACHE", tmp_path / "sifted")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve questions about twelve pictures: a broken one, and three long questions."""
    data = tmp_path / "data"
    data.mkdir()
    random = np.random.default_rng(0)
    rows = ["image,question,answer"]
    for number in range(12):
        Image.fromarray(random.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(data / f"{number}.png")
        rows.append(f"{number}.png,{LONG if number % 4 == 1 else 'How many?'},3")
    (data / "7.png").write_bytes(b"no picture")
    (data / "train.csv").write_text("\n".join(rows))
    (data / "test.csv").write_text("\n".join(rows[:4]))
    return data


def task(folder: Path) -> Dataset:
    return Dataset(Dataset.Config(path=str(folder)))


def limited(parts: Parts, limit: int | None) -> Policy:
    return Policy(parts, ThinkBoxed(), sampling=SamplingConfig(max_new_tokens=8, max_prompt_tokens=limit))


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The modes of the pictures whose pixels were decoded from now on."""
    modes: list[str] = []
    decoder = Image._getdecoder

    def counted(*arguments: object, **options: object) -> object:
        if arguments[1] == "zip":  # a PNG's pixels; "raw" ones come from arrays
            modes.append(str(arguments[0]))
        return decoder(*arguments, **options)

    monkeypatch.setattr(ImageFile.Image, "_getdecoder", counted)
    return modes


def test_each_image_is_decoded_once(folder: Path, random_parts: Parts, decoded: list[str]) -> None:
    found = scan(task(folder), limited(random_parts, None), "train", workers=3)
    assert len(decoded) == 11
    assert [one.index for one in found] == list(range(12))
    assert [one.index for one in found if one.rule] == [7]


def test_what_is_shown_is_decoded_once(folder: Path, random_parts: Parts, decoded: list[str]) -> None:
    policy, reward = limited(random_parts, None), AccuracyFormat()
    shown, found = preview_examples(task(folder), policy, "train", reward=reward, indices=range(5, 12), count=3)
    assert [one.id for one in shown] == ["train-5", "train-6", "train-8"]
    assert [one.index for one in found.reports] == list(range(5, 12))
    assert [one.index for one in found.dropped] == [7]
    assert len(decoded) == 6


def test_a_run_that_sifts_decodes_each_image_once_before_its_first_step(
    folder: Path, tmp_path: Path, decoded: list[str]
) -> None:
    with registered(Checksum):
        config = tiny(
            Path("builtin"),
            tmp_path,
            task={"type": "dataset", "path": str(folder)},
            training__sift=True,
            evaluation__examples=2,
            evaluation__probe_examples=3,
        )
        Trainer(config, display=Quiet())
    assert len(decoded) == 11 + 3 + 1  # to train on, to evaluate on, and the view that the sampler is checked with


def unreadable(folder: Path) -> Path:
    """Let the answer of one row of whole numbers be one that no response can be compared with."""
    file = folder / "train.csv"
    rows = file.read_text().splitlines()
    rows[4] = rows[4].removesuffix("3") + "\\frac{1"
    file.write_text("\n".join(rows))
    return folder


def test_an_unreadable_gold_answer_is_left_out(folder: Path, random_parts: Parts, tmp_path: Path) -> None:
    policy, cache, reward = limited(random_parts, None), tmp_path / "sifted", AccuracyFormat()
    data = task(unreadable(folder))
    found = scan(data, policy, "train", reward=reward, cache=cache)
    assert [one.index for one in found if one.rule] == [3, 7]
    assert (found[3].tokens, found[3].too_long) == (None, False)
    assert "gold answer has to be readable" in found[3].rule
    assert [one.index for one in scan(data, policy, "train", cache=cache) if one.rule] == [7]  # another question
    rules = ScanResult("train", found).rules()
    assert sorted(rules.values()) == [1, 1]

    stream = ViewStream(data, policy, seed=0, max_bad_share=0.2, reward=reward)
    stream.admit("train", found)
    stream.preflight()
    assert not {"train-3", "train-7"} & {view.example.id for view in stream.take(20)}


def test_what_is_too_long_is_no_mistake(folder: Path, random_parts: Parts) -> None:
    lengths = [one.tokens for one in scan(task(folder), limited(random_parts, None), "train")]
    short, long = lengths[0], lengths[1]
    assert short is not None
    assert long is not None
    assert short < long
    policy = limited(random_parts, long - 1)
    found = scan(task(folder), policy, "train")
    assert [(one.index, one.tokens, one.too_long) for one in found if one.rule] == [
        (1, long, True), (5, long, True), (7, None, False), (9, long, True),
    ]  # fmt: skip
    assert [one.index for one in scan(task(folder), limited(random_parts, long), "train") if one.rule] == [7]
    sifted = ScanResult("train", found)
    assert sifted.note().startswith(
        "4 of 12 train examples are left out, listed in dropped.jsonl. 3: A prompt may have"
    )

    stream = ViewStream(task(folder), policy, seed=0, max_bad_share=0.01)
    with pytest.raises(DataError, match=r"1 of 12 are unusable"):  # the three long ones are not among them
        stream.preflight()
    tolerant = ViewStream(task(folder), policy, seed=0, max_bad_share=0.1)
    tolerant.preflight()
    seen = {view.example.id for view in tolerant.take(16)}
    assert seen == {f"train-{number}" for number in (0, 2, 3, 4, 6, 8, 10, 11)}
    assert (tolerant.too_long, len(tolerant.unreported())) == (3, 1)


def test_nothing_short_enough_is_said(folder: Path, random_parts: Parts) -> None:
    (folder / "train.csv").write_text("image,question,answer\n1.png,How many?,3\n2.png,How many?,3\n")
    policy = limited(random_parts, 5)
    with pytest.raises(DataError, match=r"short enough.*None of 2 has at most 5 tokens"):
        ViewStream(task(folder), policy, seed=0, max_bad_share=1.0).preflight()
    with pytest.raises(DataError, match="Some examples have to be usable"):
        ScanResult("train", scan(task(folder), policy, "train")).check()


def replaced(folder: Path) -> None:
    file = folder / "7.png"
    Image.new("RGB", (64, 64)).save(file)


def touched(folder: Path) -> None:
    state = (folder / "3.png").stat()
    os.utime(folder / "3.png", ns=(state.st_atime_ns, state.st_mtime_ns + 1))


def rewritten(folder: Path) -> None:
    file = folder / "train.csv"
    file.write_text(file.read_text().replace("How many?", "How many are there?"))


def test_what_was_found_is_remembered(folder: Path, random_parts: Parts, tmp_path: Path, decoded: list[str]) -> None:
    policy, cache = limited(random_parts, None), tmp_path / "sifted"
    first = scan(task(folder), policy, "train", cache=cache)
    decoded.clear()
    assert scan(task(folder), policy, "train", cache=cache) == first
    assert decoded == []


@pytest.mark.parametrize("change", [replaced, touched, rewritten])
def test_what_was_found_is_forgotten_when_the_data_changes(
    folder: Path, random_parts: Parts, tmp_path: Path, decoded: list[str], change: Callable[[Path], None]
) -> None:
    policy, cache = limited(random_parts, None), tmp_path / "sifted"
    scan(task(folder), policy, "train", cache=cache)
    decoded.clear()
    change(folder)
    found = scan(task(folder), policy, "train", cache=cache)
    assert len(decoded) >= 11
    assert any(one.rule for one in found) is (change is not replaced)


def test_what_was_found_is_forgotten_for_another_prompt(folder: Path, random_parts: Parts, tmp_path: Path) -> None:
    cache = tmp_path / "sifted"
    for policy in (limited(random_parts, None), limited(random_parts, 9), Policy(random_parts, Plain())):
        scan(task(folder), policy, "train", cache=cache)
    scan(task(folder), limited(random_parts, None), "eval", cache=cache)
    assert len(list(cache.iterdir())) == 4


def test_a_run_that_sifts_lists_what_it_leaves_out(folder: Path, tmp_path: Path) -> None:
    data = {"type": "dataset", "path": str(folder)}
    display = Quiet()
    with registered(Checksum):
        config = tiny(Path("builtin"), tmp_path, task=data, training__sift=True, training__steps=1)
        trainer = Trainer(config, display=display)
        trainer.train()
    (line,) = [json.loads(line) for line in (trainer.run.path / "dropped.jsonl").read_text().splitlines()]
    assert (line["split"], line["index"], line["too_long"]) == ("train", 7, False)
    assert "row 7" in line["report"]
    (note,) = [note for note in display.notes if "left out" in note]
    assert note == "1 of 12 train examples are left out, listed in dropped.jsonl. 1: Every image has to open."
    assert not any("train example 7" in note for note in display.notes)  # it is in the list


def test_the_prompt_is_shown_as_the_model_gets_it(folder: Path, random_parts: Parts) -> None:
    policy = limited(random_parts, None)
    view = policy.view(task(folder).example(0))
    seen = preview(policy, view)
    assert seen.images == (((64, 64), (64, 64)),)
    assert seen.tokens == len(view.prompt_ids_P)
    assert "<|vision_start|><|image_pad|> x 16<|vision_end|>How many? Think inside" in seen.prompt
    assert seen.prompt.endswith("<|im_start|>assistant\n")
