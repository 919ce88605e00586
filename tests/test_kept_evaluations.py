"""Kept evaluations: every benchmark offline, going on after a kill, hostile answers, what is refused, and comparing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pytest
from PIL import Image

from commands import Saei, Said
from models import tiny_folder
from runs import Checksum, registered
from saei.cli.compare import show_contrasts
from saei.data.table_task import TableTask
from saei.errors import CheckpointError
from saei.evaluation import drawing
from saei.evaluation.statistics.comparison import Contrast
from saei.evaluation.statistics.intervals import Interval
from saei.evaluation.statistics.run_sets import read_run_sets
from saei.evaluation.store import EvaluationDir, base_of
from saei.policy import Policy
from saei.types import Response, View
from test_presets import (
    ASKED,
    BLINK,
    CHART,
    HALLUSION,
    MMK12,
    OLD_GEOMETRY,
    SCIENCE,
    VERSE,
    VISION,
    VISTA,
    picture,
    verse,
    vista,
    write,
)  # fmt: skip

SHORT = ("--set", "sampling.max_new_tokens=6", "--set", "model.device=cpu", "--set", "model.threads=1")


@pytest.fixture(autouse=True)
def _own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setenv("COLUMNS", "200")
    with registered(Checksum):
        yield


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder("Qwen2.5-VL", tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def saei(saei: Saei, model: Path) -> Saei:
    """Run ``saei eval``; short responses of the tiny model."""

    def run(*arguments: object, short: bool = True) -> Said:
        return saei("eval", *(("--model", model, *SHORT) if short else ()), *arguments)

    return run


def refused(said: Said, *expected: str) -> None:
    assert said.code == 2, (said.out, said.err)
    assert "Traceback" not in said.err
    for part in expected:
        assert part in said.err


def scores(folder: Path) -> dict[tuple[str, str, str], Mapping[str, Any]]:
    found = EvaluationDir(folder).result()["scores"]
    return {(score["name"], score["by"], score["group"]): score for score in found}


GEOMETRY = {"images": [picture()], "problem": "<image>Find $x$.", "answer": "5"}
K12_ROW = {"id": "1", "question": ASKED, "answer": "B", "subject": "physics", "image": picture()}
VISION_ROW = {
    "id": "4", "question": "How many?\n<image1>", "options": [], "image": "images/4.jpg", "answer": "12",
    "decoded_image": picture(), "solution": None, "level": 3, "subject": "counting",
}  # fmt: skip
HALLUSION_ROW = {
    "category": "VS", "subcategory": "map", "visual_input": "1", "set_id": "0", "figure_id": "1", "sample_note": "",
    "question_id": "0", "question": "Is it larger?", "gt_answer_details": "", "gt_answer": "1", "filename": "./a.png",
    "image": picture(),
}  # fmt: skip
CHART_ROW = {"image": picture(), "query": "What is the value?", "label": ["14"], "human_or_machine": 0}
SCIENCE_ROW = {
    "image": None, "question": "Which is it?", "choices": ["a mammal", "a bird"], "answer": 1, "hint": "",
    "task": "closed choice", "grade": "grade2", "subject": "natural science", "topic": "biology", "skill": "",
    "category": "Animals", "lecture": "", "solution": "",
}  # fmt: skip
BLINK_ROW = {
    "idx": "val_Counting_1", "question": "Which?", "sub_task": "Counting", "image_1": picture(), "image_2": picture(),
    "image_3": None, "image_4": None, "choices": ["two", "three"], "answer": "(B)",
    "prompt": "How many? Select from:\n(A) two\n(B) three", "explanation": "",
}  # fmt: skip

BENCHMARKS: dict[str, tuple[str, Mapping[str, Any], list[Mapping[str, Any]], set[tuple[str, str, str]]]] = {
    "geometry3k": ("test", OLD_GEOMETRY, [GEOMETRY] * 2, {("accuracy", "", "")}),
    "clevr-count": ("test", OLD_GEOMETRY, [GEOMETRY], {("accuracy", "", "")}),
    "mmk12": (
        "test",
        MMK12,
        [K12_ROW, K12_ROW | {"id": "2", "subject": "math"}],
        {("accuracy", "", ""), ("accuracy", "subject", "physics"), ("accuracy", "subject", "math")},
    ),
    "mathvista": (
        "testmini",
        VISTA,
        [vista(1), vista(2)],
        {
            ("accuracy", "", ""),
            ("accuracy", "task", "figure question answering"),
            ("accuracy", "skills", "arithmetic reasoning"),
            ("accuracy", "skills", "statistical reasoning"),
            ("accuracy", "answer_type", "integer"),
        },
    ),
    "mathverse": (
        "testmini",
        VERSE,
        [verse(1, "Text Lite"), verse(2, "Vision Only", question_type="free-form", answer="55")],
        {
            ("accuracy", "", ""),
            ("accuracy", "version", "Text Lite"),
            ("accuracy", "version", "Vision Only"),
            ("accuracy", "question_type", "multi-choice"),
            ("accuracy", "question_type", "free-form"),
            ("accuracy", "subject", "Plane Geometry"),
        },
    ),
    "mathvision": (
        "test",
        VISION,
        [VISION_ROW],
        {("accuracy", "", ""), ("accuracy", "subject", "counting"), ("accuracy", "level", "3")},
    ),
    "hallusionbench": (
        "image",
        HALLUSION,
        [HALLUSION_ROW, HALLUSION_ROW | {"question_id": "1", "gt_answer": "0"}],
        {
            ("aAcc", "", ""),
            ("fAcc", "", ""),
            ("qAcc", "", ""),
            ("aAcc", "category", "VS"),
            ("aAcc", "subcategory", "map"),
        },
    ),
    "chartqa": (
        "test",
        CHART,
        [CHART_ROW, CHART_ROW | {"human_or_machine": 1}],
        {("accuracy", "", ""), ("accuracy", "source", "human"), ("accuracy", "source", "machine")},
    ),
    "scienceqa": (
        "test",
        SCIENCE,
        [SCIENCE_ROW, SCIENCE_ROW | {"image": picture()}],
        {
            ("accuracy", "", ""),
            ("accuracy", "subject", "natural science"),
            ("accuracy", "context", "text"),
            ("accuracy", "context", "image"),
            ("accuracy", "grade", "grade2"),
        },
    ),
    "blink": ("val", BLINK, [BLINK_ROW], {("accuracy", "", ""), ("accuracy", "config", "Counting")}),
}


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_from_a_local_copy(saei: Saei, tmp_path: Path, name: str) -> None:
    split, features, rows, expected = BENCHMARKS[name]
    write(tmp_path / "data", split, features, *rows)
    said = saei("--benchmark", name, "--data", tmp_path / "data", "--output", "out")
    assert said.code == 0, said.err
    assert set(scores(Path("out"))) == expected
    result = EvaluationDir(Path("out")).result()
    assert (result["examples"], result["settings"]["split"]) == (len(rows), split)
    assert f"Graded {result['agreement']}." in said.out
    assert result["settings"]["source"] == str(tmp_path / "data" / f"{split}-00000-of-00001.parquet")
    assert "greedy" in said.out
    assert 0 < result["time"]["busy"] < 1


def test_mm_eureka(saei: Saei, tmp_path: Path) -> None:
    Image.new("RGB", (8, 6)).save(tmp_path / "0.png")
    rows = [{"id": 0, "question": "<image>\nHow long?", "answer": "3", "image_path": "0.png"}]
    (tmp_path / "k12.json").write_text(json.dumps(rows))
    assert saei("--benchmark", "mm-eureka", "--data", tmp_path / "k12.json", "--output", "out").code == 0
    assert set(scores(Path("out"))) == {("accuracy", "", "")}


def test_free_form_answers_are_approximate_and_problems_are_clusters(saei: Saei, tmp_path: Path) -> None:
    _, features, rows, _ = BENCHMARKS["mathverse"]
    write(tmp_path / "data", "testmini", features, *rows)
    said = saei("--benchmark", "mathverse", "--data", tmp_path / "data", "--output", "out")
    found = scores(Path("out"))
    marked = {key[2] for key, score in found.items() if score["approximate"]}
    assert marked == {"", "Vision Only", "free-form", "Plane Geometry"}
    assert found["accuracy", "", ""]["clusters"] == 1  # two versions of one problem
    assert "Scores marked ~ are approximate" in said.out
    alone = verse(4, "Text Only", image="")
    write(tmp_path / "data", "testmini_text_only", features | {"image": datasets.Value("string")}, alone)
    saei("--benchmark", "mathverse", "--data", tmp_path / "data", "--split", "testmini_text_only", "--output", "text")
    assert ("accuracy", "version", "Text Only") in scores(Path("text"))


def cut(folder: Path, *, lines: int) -> None:
    """Leave only the first lines, and half of the next, as a process that was killed while it wrote."""
    file = folder / "answers.jsonl"
    whole = file.read_text().splitlines(keepends=True)
    file.write_text("".join(whole[:lines]) + whole[lines][:20])
    (folder / "result.json").unlink()


SIZES = ("--benchmark", "bars", "--examples", 5, "--responses", 3, "--batch", 6, "--set", "reward=checksum")


def without_time(result: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in result.items() if name != "time"}


@pytest.mark.parametrize("lines", [0, 4, 6, 14])
def test_a_killed_evaluation_goes_on_to_the_same_answers(
    saei: Saei, monkeypatch: pytest.MonkeyPatch, lines: int
) -> None:
    saei(*SIZES, "--output", "out")
    folder = EvaluationDir(Path("out"))
    answers, result = folder.records(), folder.result()
    assert len(answers) == 15
    assert len({one.text for one in answers if one.number == 0}) == 3
    assert 0 < result["scores"][0]["value"] < 1
    cut(folder.path, lines=lines)
    drawn: list[int] = []
    sample = Policy.sample

    def counting(self: Policy, views: list[View], counts: list[int], **options: Any) -> list[list[Response]]:
        drawn.extend(counts)
        return sample(self, views, counts, **options)

    monkeypatch.setattr(Policy, "sample", counting)
    assert saei(*SIZES, "--output", "out").code == 0
    assert folder.records() == answers
    assert without_time(folder.result()) == without_time(result)
    assert sum(drawn) == 15 - lines // 6 * 6  # whole batches of two examples are kept


def test_an_interrupt_keeps_what_was_answered(saei: Saei, monkeypatch: pytest.MonkeyPatch) -> None:
    sample, calls = Policy.sample, iter(range(9))

    def interrupted(self: Policy, views: list[View], counts: list[int], **options: Any) -> list[list[Response]]:
        if next(calls) == 2:
            raise KeyboardInterrupt
        return sample(self, views, counts, **options)

    monkeypatch.setattr(Policy, "sample", interrupted)
    said = saei(*SIZES, "--output", "out")
    assert (said.code, "the same command goes on" in said.err) == (130, True)
    folder = EvaluationDir(Path("out"))
    assert (len(folder.records()), folder.complete) == (12, False)
    assert saei(*SIZES, "--output", "out").code == 0
    assert (len(folder.records()), folder.complete) == (15, True)


def test_answers_do_not_depend_on_the_batch(saei: Saei, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "RESPONSES_PER_ROUND", 2)
    found = []
    for batch in (1, 4, 64):
        saei(*SIZES, "--batch", batch, "--output", f"out{batch}")
        answers = EvaluationDir(Path(f"out{batch}")).records()
        found.append(
            [(one.number, one.response, one.text) for one in sorted(answers, key=lambda a: (a.number, a.response))]
        )
    assert found[0] == found[1] == found[2]


def test_examples_and_rounds_have_draws_of_their_own(
    saei: Saei, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drawing, "RESPONSES_PER_ROUND", 1)
    write(tmp_path / "data", "test", OLD_GEOMETRY, GEOMETRY, GEOMETRY)
    saei("--benchmark", "geometry3k", "--data", tmp_path / "data", "--responses", 3, "--output", "out")
    texts = [one.text for one in EvaluationDir(Path("out")).records()]
    assert len(set(texts)) == 6


def test_a_complete_evaluation_is_shown_again(saei: Saei) -> None:
    first = saei(*SIZES)
    (folder,) = Path("runs/eval").iterdir()
    before = (folder / "answers.jsonl").read_bytes()
    again = saei(*SIZES, "--json")
    assert (folder / "answers.jsonl").read_bytes() == before
    assert json.loads(again.out) == EvaluationDir(folder).result()
    assert "pass@1" in first.out
    saei(*SIZES, "--seed", 1)
    assert len(list(Path("runs/eval").iterdir())) == 2


def test_examples_that_cannot_be_used_are_listed_and_not_looked_at_twice(saei: Saei, tmp_path: Path) -> None:
    rows = [GEOMETRY, GEOMETRY | {"answer": ""}, GEOMETRY]
    write(tmp_path / "data", "test", OLD_GEOMETRY, *rows)
    command = ("--benchmark", "geometry3k", "--data", tmp_path / "data", "--batch", 1, "--output", "out")
    said = saei(*command)
    assert "1 examples could not be used" in said.out
    folder = EvaluationDir(Path("out"))
    assert [one.index for one in folder.left_out()] == [1]
    assert [one.number for one in folder.records()] == [0, 2]
    written = (folder.path / "answers.jsonl").stat().st_mtime_ns
    saei(*command)
    assert (folder.path / "answers.jsonl").stat().st_mtime_ns == written
    cut(folder.path, lines=1)
    saei(*command)
    assert [one.index for one in folder.left_out()] == [1]
    assert [one.number for one in folder.records()] == [0, 2]


HOSTILE = ("\x1b[31m\x00\x07", "a\nb\u2028c\x85d", "\ud800 lone", "[bold red]<script>x</script>", "\\boxed{" * 20000)


def test_hostile_answers_and_labels(saei: Saei, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    label = "\x1b[31m[/nothing] maths"
    rows = [K12_ROW | {"id": str(n), "subject": label} for n in range(len(HOSTILE))]
    write(tmp_path / "data", "test", MMK12, *rows)
    sample = Policy.sample

    def hostile(self: Policy, views: list[View], counts: list[int], **options: Any) -> list[list[Response]]:
        drawn = sample(self, views, counts, **options)
        return [[replace(own[0], text=text)] for own, text in zip(drawn, HOSTILE, strict=True)]

    monkeypatch.setattr(Policy, "sample", hostile)
    said = saei("--benchmark", "mmk12", "--data", tmp_path / "data", "--output", "out")
    assert said.code == 0, said.err
    assert "[/nothing] maths" in said.out
    assert "\x1b" not in said.out
    folder = EvaluationDir(Path("out"))
    assert (folder.path / "answers.jsonl").read_bytes().count(b"\n") == len(HOSTILE)
    assert tuple(one.text for one in folder.records()) == HOSTILE
    assert not any(one.correct for one in folder.records())


def test_what_is_refused(saei: Saei, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused(saei("--benchmark", "mathvisto"), "Did you mean 'mathvista'?")
    refused(saei("--benchmark", "mathvista", "--split", "test"), "split test of mathvista are not public")
    refused(saei("--benchmark", "bars", "--split", "train"), "'bars' makes its examples")
    refused(saei("--benchmark", "bars", "--pass-at", "1,many"), "whole numbers", "1,many")
    refused(saei("--benchmark", "bars", "--responses", 4, "--pass-at", "4"), "n >= 2k", "--responses 8")
    refused(saei("--benchmark", "bars", "--responses", 4, "--temperature", 0), "need random sampling")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    refused(saei("--benchmark", "mathvision"), "MathLLMs/MathVision", "has to be readable")
    write(tmp_path / "old", "test", {"question": datasets.Value("string")}, {"question": "?"})
    refused(saei("--benchmark", "chartqa", "--data", tmp_path / "old"), "needs the columns image, query")
    write(tmp_path / "bare", "testmini", VISTA, *(vista(n, answer="") for n in range(3)))
    refused(saei("--benchmark", "mathvista", "--data", tmp_path / "bare"), "'answer' is empty in row 0")
    assert saei(*SIZES, "--output", "out").code == 0
    refused(saei(*SIZES, "--seed", 3, "--output", "out", "--responses", 2), "out has other responses, seed.")
    refused(saei("runs/a", short=False), "Folders are arguments of --compare")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--benchmark", "bars", "--task", "digits"), "--benchmark names the task"),
        (("--batch", 8), "--batch belongs to an evaluation that is saved"),
        (("--radius", "1/255"), "--radius belongs to --robust"),
        (("--base", "builtin", "--output", "out"), "--base belongs to --robust"),
        (("--compare", "a", "b", "--benchmark", "bars"), "Got --benchmark bars"),
        (("--compare", "a", "b", "--robust"), "Got --robust"),
        (("--compare", "a", "b", "--model", "builtin"), "Got --model builtin"),
        (("--compare", "a", "b", "--set", "task=bars"), "Got --set"),
        (("--responses", 4, "--temperature", 0), "need random sampling"),
    ],
)
def test_no_option_is_ignored(saei: Saei, arguments: tuple[object, ...], said: str) -> None:
    found = saei(*arguments, short=False)
    refused(found, said)
    assert "Loading" not in found.err


def test_a_policy_that_does_not_load_leaves_no_folder(saei: Saei) -> None:
    assert saei("--benchmark", "bars", "--model", "./mistyped").code == 2
    assert not Path("runs").exists()


def test_pass_at_k_without_naming_a_benchmark(saei: Saei) -> None:
    said = saei("--examples", 3, "--responses", 8, "--pass-at", "1,4", "--set", "reward=checksum")
    assert said.code == 0, said.err
    (folder,) = Path("runs/eval").iterdir()
    found = scores(folder)
    by_hand = [one.correct for one in EvaluationDir(folder).records()]
    assert found["pass@1", "", ""]["value"] == pytest.approx(sum(by_hand) / len(by_hand))
    assert found["pass@4", "", ""]["value"] > found["pass@1", "", ""]["value"]


def test_base_of_a_run(tmp_path: Path, saei: Saei) -> None:
    first, second = tmp_path / "runs" / "a", tmp_path / "runs" / "b"
    checkpoint = first / "checkpoints" / "step-000002"
    for run, path in ((first, "builtin:lock-in"), (second, str(checkpoint))):
        (run / "checkpoints" / "step-000002").mkdir(parents=True)
        (run / "config.yaml").write_text(json.dumps({"config": {"model": {"path": path}}}))
    assert base_of(str(second / "checkpoints" / "step-000002")) == "builtin:lock-in"
    assert base_of("Qwen/Qwen2.5-VL-3B-Instruct") == "Qwen/Qwen2.5-VL-3B-Instruct"


def test_comparing_two_policies_and_sets(saei: Saei, model: Path) -> None:
    names = ("grpo-a", "grpo-b", "saei-a", "saei-b")
    for name in names:
        assert saei(*SIZES, "--seed", len(name) + ord(name[0]), "--output", f"kept/{name}").code == 0
        file = Path("kept") / name / "settings.json"  # as if trained from two bases
        file.write_text(file.read_text().replace(f'"base": "{model}"', f'"base": "base-{name[-1]}"'))
    two = saei("--compare", "kept/grpo-a", "kept/saei-a", short=False)
    assert two.code == 0, two.err
    assert "concerns these two checkpoints, not the methods" in two.out
    lines = two.out.splitlines()
    assert lines[0] == "Against kept/grpo-a:"
    assert lines[2].split()[0] == "saei-a"  # without the folder that both are in
    assert Path("runs/compare/pass-at-k.png").read_bytes().startswith(b"\x89PNG")
    sets = saei("--compare", "kept/grpo-*", "kept/saei-*", "--output", "c", "--json", short=False)
    found = json.loads(sets.out)
    assert found == json.loads(Path("c/comparison.json").read_text())
    (contrast,) = found["contrasts"]
    mean = {
        name: scores(Path("kept") / name)["accuracy", "", ""]["value"]
        for name in ("grpo-a", "grpo-b", "saei-a", "saei-b")
    }
    expected = (mean["saei-a"] + mean["saei-b"] - mean["grpo-a"] - mean["grpo-b"]) / 2
    assert (contrast["unit"], contrast["count"]) == ("base", 2)
    assert contrast["difference"]["mean"] == pytest.approx(expected)
    for name in names:
        shutil.copytree(Path("kept") / name, Path("trained") / name / "eval")
    nested = json.loads(saei("--compare", "trained/grpo-*/eval", "trained/saei-*/eval", "--json", short=False).out)
    assert nested["contrasts"][0]["difference"] == contrast["difference"]
    first, second = nested["runs"].values()
    assert list(first) == ["trained/grpo-a/eval", "trained/grpo-b/eval"]
    assert [accuracy for _, accuracy in second.values()] == pytest.approx([mean["saei-a"], mean["saei-b"]])
    other = Path("trained/saei-a/eval/settings.json")
    other.write_text(json.dumps(json.loads(other.read_text()) | {"plugins": ["mine.py"]}))
    compared = saei("--compare", "trained/grpo-a/eval", "trained/saei-a/eval", short=False)
    refused(compared, "trained/saei-a/eval has other plugins than the first")
    refused(saei("--compare", "kept/grpo-a", "kept/grpo-a", short=False), "'kept/grpo-a' is given twice")
    saei(*SIZES, "--responses", 2, "--output", "kept/other")
    refused(
        saei("--compare", "kept/grpo-a", "kept/other", short=False), "kept/other has other responses than the first"
    )
    refused(saei("--compare", "kept/grpo-a", "kept/none-*", short=False), "'kept/none-*' matches 0 paths")
    refused(saei("--compare", "kept/grpo-a", short=False), "two folders or patterns or more")
    (Path("kept") / "saei-a" / "result.json").unlink()
    refused(saei("--compare", "kept/grpo-a", "kept/saei-a", short=False), "the same command goes on")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("settings.json", "[1]", "not a mapping but list"),
        ("settings.json", "[" * 100_000, "RecursionError"),
        ("settings.json", '{"task": 3}', "does not"),
        ("settings.json", '{"model": {"path": 5}}', "does not"),
        ("result.json", "5", "not a mapping but int"),
        ("answers.jsonl", '{"zzz": 1}', "unexpected keyword argument 'zzz'"),
        ("dropped.jsonl", '{"zzz": 1}', "unexpected keyword argument 'zzz'"),
    ],
)
def test_a_damaged_folder_is_named(tmp_path: Path, name: str, content: str, said: str) -> None:
    (tmp_path / "settings.json").write_text('{"model": {"base": "b"}}')
    (tmp_path / "result.json").write_text("{}")
    (tmp_path / name).write_text(content)

    def read() -> None:
        read_run_sets([str(tmp_path), f"{tmp_path}/"])
        EvaluationDir(tmp_path).left_out()

    with pytest.raises(CheckpointError) as raised:
        read()
    assert str(tmp_path / name) in raised.value.reason
    assert said in raised.value.reason


def test_a_comparison_fits_80_columns(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    name = "runs/eval/saei-*"
    one = Contrast(
        name, "base", 12, (0.512, 0.634), Interval(0.122, -0.011, 0.255), 0.00123, "exact sign flips", 0.00246, 0.1
    )
    show_contrasts("runs/eval/grpo-*", [one], {})
    shown = capsys.readouterr().out.splitlines()
    header, row = shown[1:3]
    assert header.split() == ["runs", "accuracy", "difference,", "95", "%", "interval", "p", "Holm"]
    assert row.split()[0] == "saei-*"  # without the folder that all are in
    assert row.split()[-2:] == ["0.00123", "0.00246"]
    assert max(len(header), len(row)) <= 80
    assert "exact sign flips over 12 bases" in shown[3]


def test_robust_prints_each_condition(saei: Saei) -> None:
    said = saei("--robust", "--examples", 1, "--radius", "3/255", "--output", "out", "--set", "reward=checksum")
    assert said.code == 0, said.err
    for name in ("clean", "noise-3", "entropy-3", "gold-3"):
        assert name in said.out
        assert EvaluationDir(Path("out") / name).complete
    for radius, rule in (("three", "--radius takes fractions"), ("0", "Radii are above 0")):
        wrong = saei("--robust", "--radius", radius)
        refused(wrong, rule, f"Got {radius!r}" if radius == "three" else "Got 0")
        assert "Loading" not in wrong.err
    refused(saei("--base", "builtin"), "--base belongs to --robust")


def test_a_run_as_base_is_its_newest_checkpoint(saei: Saei, model: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "run" / "checkpoints" / "step-000002"
    shutil.copytree(model, checkpoint)
    (checkpoint / "trainer.pt").touch()
    (tmp_path / "run" / "config.yaml").write_text(json.dumps({"config": {"model": {"path": "builtin"}}}))
    options = ("--examples", 1, "--radius", "3/255", "--output", "out", "--set", "reward=checksum")
    said = saei("--robust", "--base", "run", *options)
    assert said.code == 0, said.err
    settings = EvaluationDir(Path("out/gold-3-base")).settings()
    assert settings["condition"]["base"]["path"] == str(checkpoint)


def test_robust_says_what_an_evaluation_says(saei: Saei, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, features, rows, _ = BENCHMARKS["mathverse"]
    write(tmp_path / "data", "testmini", features, *rows, verse(9, "Vision Only", answer=""))
    monkeypatch.setattr(TableTask, "notes", lambda self: ["Columns were found."])
    said = saei("--robust", "--benchmark", "mathverse", "--data", tmp_path / "data", "--radius", "3/255")
    assert said.code == 0, said.err
    assert said.err.count("Columns were found.") == 1
    assert said.out.count("~") == 5  # clean, three conditions, and the note
    for text in ("Graded letters by rules", "Scores marked ~ are approximate", "1 examples could not be used"):
        assert said.out.count(text) == 1


@pytest.mark.slow
def test_a_process_that_is_killed(model: Path, saei: Saei) -> None:
    command = ("--benchmark", "bars", "--examples", 600, "--responses", 2, "--batch", 8, "--temperature", 1.0)
    saei(*command, "--output", "whole")
    arguments = [sys.executable, "-m", "saei.cli", "eval", "--model", model, *SHORT, *command, "--output", "killed"]
    process = subprocess.Popen(list(map(str, arguments)), env={**os.environ, "OMP_NUM_THREADS": "1"})
    killed = EvaluationDir(Path("killed"))
    deadline = time.monotonic() + 120
    while len(killed.records()) < 40:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not killed.complete
    saei(*command, "--output", "killed")
    assert killed.records() == EvaluationDir(Path("whole")).records()
    assert without_time(killed.result()) == without_time(EvaluationDir(Path("whole")).result())
