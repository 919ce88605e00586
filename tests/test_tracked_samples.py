"""Samples in trackers: TensorBoard's files and an offline record of Weights & Biases hold those of the run's folder."""

from __future__ import annotations

import importlib
import importlib.util
import io
import json
import os
import signal
import struct
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader
from tensorboard.plugin_util import markdown_to_safe_html

from runs import Checksum, Quiet, registered, tiny, train
from saei.errors import printable
from saei.runtime.interrupt import Interrupted
from saei.runtime.run_dir import RunDir
from saei.runtime.samples import AttackedTokens, GroupSample, ResponseSample, ViewSample
from saei.runtime.tracked_samples import COLUMNS, MOST, SIDE, markdown, pictures, rows

HOSTILE = [
    "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "a | b || c \\| d",
    "**bold** _em_ `code` [link](http://x.example) ![p](http://x.example/p.png) # no heading &lt; &#60;",
    "| a | b |\n|---|---|\n```\nfenced\n```",
    "\x1b[31mred\x1b[0m \x00 \u202eright to left \ud800",
    "x" * 100_000,
]


class Table(HTMLParser):
    """The cells of the one table of a page, each a text, and whatever tags are in it."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.tags: set[str] = set()
        self._inside = False
        self.feed(html)

    def handle_starttag(self, tag: str, _: Any) -> None:
        self.tags.add(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self._inside = True
        elif tag == "br":
            self.rows[-1][-1] += "\n"

    def handle_endtag(self, tag: str) -> None:
        self._inside = self._inside and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.rows[-1][-1] += data


def png(values: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.asarray(values, np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def opened(content: bytes) -> Any:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"), np.int64)


def enlarged(before: bytes, after: bytes) -> Any:
    return np.clip(128 + 32 * (opened(after) - opened(before)), 0, 255)


def killed_and_resumed(model: Path, root: Path, tracker: str) -> Path:
    """A run that got to step 2, but to no checkpoint after that of step 1, and went on from there."""
    with registered(Checksum):
        config = tiny(model, root, output__trackers=[tracker], output__checkpoint_every=1, output__keep_checkpoints=9)
        with pytest.raises(Interrupted):
            train(config, Quiet({2: lambda: os.kill(os.getpid(), signal.SIGINT)}))
        (root / "run" / "checkpoints" / "step-000002" / "trainer.pt").unlink()
        run, config = RunDir.open(root / "run")
        display = Quiet()
        train(config, display, resume=run)
    assert not [note for note in display.notes if "tracker" in note]
    return root / "run"


def groups_of(run: Path) -> list[GroupSample]:
    groups, problems = RunDir(run).samples()
    assert groups
    assert not problems
    return groups


def group(text: str, *views: ViewSample, **response: Any) -> GroupSample:
    views = views or (ViewSample("clean", "?", "8"),)
    return GroupSample(0, "training", 0, "a", None, views, (ResponseSample(0, 0, text, **response),))


@pytest.mark.parametrize("text", HOSTILE, ids=["html", "bars", "markdown", "lines", "control", "long"])
def test_text_stays_text_in_tensorboards_own_renderer(text: str) -> None:
    table = Table(markdown_to_safe_html(markdown([COLUMNS, *rows(group(text))])))
    heading, (*cells,) = table.rows
    assert heading == list(COLUMNS)
    assert cells[COLUMNS.index("response")] == printable(text, MOST)
    assert len(cells) == len(COLUMNS)
    assert table.tags <= {"table", "thead", "tbody", "tr", "th", "td", "br"}
    json.dumps(rows(group(text))).encode()


def test_a_row_names_the_tokens_that_an_attack_looked_at() -> None:
    views = (
        ViewSample("clean", "How many?", "8"),
        ViewSample("low", "How much?", "8", tokens=(AttackedTokens(0, (True, False, False)),)),
        ViewSample(
            "high", "How much?", "8", tokens=(AttackedTokens(0, (False, False, True)), AttackedTokens(1, (True,)))
        ),
    )
    (row,) = rows(group("so 8!", *views, pieces=("so", " 8", "!"), reward=0.5, correct=True))
    assert dict(zip(COLUMNS, row, strict=True)) == {
        "group": "training-0",
        "example": "a",
        "view": "clean",
        "question": "How many?",
        "answer": "8",
        "response": "so 8!",
        "attacked tokens": "so · !",
        "reward": 0.5,
        "correct": True,
        "advantage": None,
        "entropy": None,
        "truncated": False,
    }


def test_several_pictures_are_one_and_large_ones_get_smaller() -> None:
    clean = np.full((4, 2, 3), 10), np.full((2, 3, 3), 200)
    moved = np.full((4, 2, 3), 12), np.full((2, 3, 3), 199)
    views = [ViewSample(name, "?", "", tuple(map(png, each))) for name, each in (("clean", clean), ("moved", moved))]
    (first, no_change), (second, change) = pictures(group("", *views))
    assert no_change is None
    row = np.full((4, 5, 3), 255)
    row[:, :2], row[:2, 2:] = 10, 200
    assert np.array_equal(np.asarray(first), row)
    row[:, :2], row[:2, 2:] = 12, 199
    assert np.array_equal(np.asarray(second), row)
    row[:, :2], row[:2, 2:] = 128 + 64, 128 - 32
    assert np.array_equal(np.asarray(change), row)

    flat = np.full((SIDE, 2 * SIDE, 3), 100)
    signs = flat + np.where(np.indices(flat.shape).sum(0) % 2, 1, -1)
    views = [ViewSample("clean", "?", "", (png(flat),)), ViewSample("moved", "?", "", (png(signs),))]
    (first, _), (_, change) = pictures(group("", *views))
    assert first is not None
    assert change is not None
    assert first.size == change.size == (SIDE, SIDE // 2)
    assert set(np.unique(change)) == {128 - 32, 128 + 32}


def test_pictures_of_other_sizes_or_none_have_no_difference() -> None:
    clean = ViewSample("clean", "?", "", (png(np.zeros((2, 2, 3))),))
    others = ViewSample("crop", "?", "", (png(np.zeros((1, 2, 3))),)), ViewSample("words", "!", "")
    assert [(bool(one), bool(two)) for one, two in pictures(group("", clean, *others))] == [
        (True, False),
        (True, False),
        (False, False),
    ]


def test_tensorboard_holds_the_samples_of_a_resumed_run_once(model: Path, tmp_path: Path) -> None:
    run = killed_and_resumed(model, tmp_path, "tensorboard")
    texts: dict[tuple[str, int], str] = {}
    images: dict[tuple[str, int], bytes] = {}
    for file in sorted((run / "tensorboard").glob("events.out.tfevents.*")):
        for event in LegacyEventFileLoader(str(file)).Load():
            for value in event.summary.value:
                kept, content = texts, value.tensor.string_val[0].decode() if value.tensor.string_val else ""
                if value.HasField("image"):
                    kept, content = images, value.image.encoded_image_string  # type: ignore[assignment]
                if content:
                    assert (value.tag, event.step) not in kept
                    kept[value.tag, event.step] = content
    of_texts, of_images = set(), set()
    for each in groups_of(run):
        tag = f"samples/{each.source}-{each.number}"
        of_texts.add((f"{tag}/text_summary", each.step))
        heading, *body = Table(markdown_to_safe_html(texts[f"{tag}/text_summary", each.step])).rows
        shown = [dict(zip(heading, row, strict=True)) for row in body]
        # Markdown drops spaces at the ends of a cell.
        assert [row["response"] for row in shown] == [
            printable(response.text).strip(" ") for response in each.responses
        ]
        assert [row["view"] for row in shown] == [each.views[response.view].origin for response in each.responses]
        assert {row["question"] for row in shown} == {each.question}
        assert [row["reward"] for row in shown] == [f"{response.reward:.3g}" for response in each.responses]
        clean, moved = each.views
        for name, expected in (
            ("0-clean", opened(clean.pictures[0])),
            ("1-adversarial", opened(moved.pictures[0])),
            ("1-adversarial-difference-x32", enlarged(clean.pictures[0], moved.pictures[0])),
        ):
            of_images.add((f"{tag}/{name}", each.step))
            assert np.array_equal(opened(images[f"{tag}/{name}", each.step]), expected)
    assert of_texts == {key for key in texts if key[0].startswith("samples/")}
    assert of_images == set(images)
    assert {step for _, step in of_images} == {0, 2, 3}


def records(file: Path) -> Iterator[Any]:
    """Yield the records of a file of Weights & Biases: LevelDB's log after seven bytes, protocol buffers in it."""
    from wandb.proto import wandb_internal_pb2

    block, data, place, parts = 32_768, file.read_bytes(), 7, b""
    while place < len(data):
        room = block - place % block
        if room < 7:  # less than a header: padding
            place += room
            continue
        _, length, kind = struct.unpack_from("<IHB", data, place)
        parts += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            yield wandb_internal_pb2.Record.FromString(parts)
            parts = b""


@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="wandb is an extra")
def test_an_offline_record_of_wandb_holds_a_resumed_run(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WANDB_PROJECT", "WANDB_RUN_ID", "WANDB_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    run = killed_and_resumed(model, tmp_path, "wandb")
    importlib.import_module("wandb").teardown()  # ends the process that writes, after which its files are whole
    ids, names, config = set(), set(), {}
    steps, tables = [], []
    for file in sorted((run / "wandb").glob("offline-run-*/*.wandb")):
        for record in records(file):
            if record.HasField("run"):
                ids.add(record.run.run_id)
                names.add((record.run.project, record.run.display_name))
            for item in record.config.update:
                config[item.key] = json.loads(item.value_json)
            if record.HasField("history"):
                steps.append(record.history.step.num)
            if record.HasField("artifact"):
                tables.append({each.path: Path(each.local_path) for each in record.artifact.manifest.contents})
    assert ids == {json.loads((run / "trackers.json").read_text())["id"]}
    assert names == {("saei", "run")}
    assert config["sampler.intervention.attack.step"] == "2/255"
    assert steps == [0, 1, 2, 3]

    groups = groups_of(run)
    for step, contents in zip((0, 2, 3), tables, strict=True):
        table = json.loads(contents["samples.table.json"].read_text())
        shown = iter([dict(zip(table["columns"], row, strict=True)) for row in table["data"]])
        for each in groups:
            if each.step != step:
                continue
            for response in each.responses:
                row, view = next(shown), each.views[response.view]
                assert row["response"] == printable(response.text)
                assert (row["view"], row["question"]) == (view.origin, each.question)
                assert row["reward"] == pytest.approx(response.reward)
                picture = contents[row["picture"]["path"]]
                assert picture.is_relative_to(run)
                assert np.array_equal(opened(picture.read_bytes()), opened(view.pictures[0]))
                if response.view == 0:
                    assert row["difference x 32"] is None
                else:
                    difference = contents[row["difference x 32"]["path"]].read_bytes()
                    expected = enlarged(each.views[0].pictures[0], view.pictures[0])
                    assert np.array_equal(opened(difference), expected)
        assert next(shown, None) is None
