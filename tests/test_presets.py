"""Each known data set on small local files of exactly its schema, traps included."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import datasets
import pytest
from datasets import ClassLabel, Features, List, Value
from PIL import Image

from saei.config import registry
from saei.data.presets.base import inline_options
from saei.data.presets.hallusionbench import HallusionBench, figure_group, question_group
from saei.data.table_task import TableTask
from saei.errors import DataError
from saei.testing import check_task
from saei.types import Example

TEXT, NUMBER, PICTURE = Value("string"), Value("int64"), datasets.Image()


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def picture(colour: str = "red") -> dict[str, Any]:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6), colour).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def write(folder: Path, split: str, features: Mapping[str, Any], *rows: Mapping[str, Any]) -> Path:
    """Write a split as the hub has it."""
    folder.mkdir(parents=True, exist_ok=True)
    table = datasets.Dataset.from_list([dict(row) for row in rows], features=Features(features))
    table.to_parquet(folder / f"{split}-00000-of-00001.parquet")
    return folder


def task(name: str, path: Path, **fields: Any) -> TableTask:
    config = registry.load("task", name).Config.model_validate({"path": str(path), **fields})
    check_task(config)  # among others: both splits where there are both
    built = config.build()
    assert isinstance(built, TableTask)
    return built


def evaluation(preset: str, path: Path, **fields: Any) -> list[Example]:
    built = registry.load("task", preset).Config.model_validate({"path": str(path), **fields}).build()
    return [built.example(index, "eval") for index in range(built.size("eval"))]


def refused(preset: str, path: Path, match: str) -> None:
    with pytest.raises(DataError, match=match):
        evaluation(preset, path)


OLD_GEOMETRY = {"images": List(PICTURE), "problem": TEXT, "answer": TEXT}
NEW_GEOMETRY = {**OLD_GEOMETRY, "id": TEXT, "choices": List(TEXT), "ground_truth": TEXT}


@pytest.mark.parametrize("new", [False, True])
def test_geometry3k_in_both_revisions(tmp_path: Path, new: bool) -> None:
    row: dict[str, Any] = {"images": [picture()], "problem": "<image>Find $x$.", "answer": "2 \\sqrt { 221 }"}
    more = {"id": "geo_7", "choices": ["3", "2 \\sqrt { 221 }"], "ground_truth": "B"} if new else {}
    features = NEW_GEOMETRY if new else OLD_GEOMETRY
    for split in ("train", "validation", "test"):
        write(tmp_path / "data", split, features, row | more)
    built = task("geometry3k", tmp_path)
    for split in ("train", "eval"):
        example = built.example(0, split)
        assert (example.question, example.answer) == ("Find $x$.", "2 \\sqrt { 221 }")
        assert [image.size for image in example.images] == [(8, 6)]
        assert "choices" not in example.meta  # they were not shown, so a letter is no answer
        assert "answer_type" not in example.meta  # of any kind, where clevr-count has integers alone
        assert example.id == ("geo_7" if new else {"train": "train-0", "eval": "test-0"}[split])


def test_clevr_count(tmp_path: Path) -> None:
    row = {"images": [picture()], "problem": "<image>How many items are there?", "answer": "5"}
    for split in ("train", "test"):
        write(tmp_path, split, OLD_GEOMETRY, row)
    example = task("clevr-count", tmp_path).example(0, "eval")
    assert (example.question, example.answer) == ("How many items are there?", "5")
    assert example.meta == {"answer_type": "integer"}


MMK12 = {"id": TEXT, "question": TEXT, "answer": TEXT, "subject": TEXT, "image": PICTURE}
ASKED = "<image>\nWhich one moves?\nA. the left (A)\nB. the right\nC. both\nD. none"


def test_mmk12_fills_in_and_chooses(tmp_path: Path) -> None:
    row = {"id": "1", "subject": "physics", "image": picture()}
    write(
        tmp_path,
        "train",
        MMK12,
        row | {"question": "<image>The area is ___.", "answer": "6"},
        row | {"id": "2", "question": "Which point is it?", "answer": "A"},  # the name of a point, not of an option
    )
    write(tmp_path, "test", MMK12, row | {"question": ASKED, "answer": "B"})
    built = task("mmk12", tmp_path)
    assert [dict(built.example(index).meta) for index in (0, 1)] == [{"subject": "physics"}] * 2
    example = built.example(0, "eval")
    assert example.question == ASKED.removeprefix("<image>\n")
    assert example.answer == "B"
    choices = ("the left (A)", "the right", "both", "none")
    assert example.meta == {"subject": "physics", "answer_type": "letter", "choices": choices}
    assert example.id == "1"


@pytest.mark.parametrize(
    ("question", "options"),
    [
        ("Q?\nA. 3\nB. 4", ("3", "4")),
        ("Q?\n(A) 3 m\n(B) 4 m\n(C) 5 m", ("3 m", "4 m", "5 m")),
        ("A: is it?\nB: or not?", ("is it?", "or not?")),
        ("A. Point A lies on B.", ()),
        ("Q?\nB. 3\nA. 4", ()),
        ("Find A. Then B.", ()),
    ],
)
def test_options_in_the_question(question: str, options: tuple[str, ...]) -> None:
    assert inline_options(question) == options


def test_k12_file_of_mm_eureka(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    Image.new("RGB", (8, 6)).save(tmp_path / "images" / "0.png")
    rows = [
        {"id": 0, "question": "<image>\nHow long?", "answer": "$\\frac{3}{2}$", "image_path": "images/0.png"},
        {"id": 1, "question": ASKED, "answer": "B", "image_path": "images/0.png"},
    ]
    file = tmp_path / "k12.json"
    file.write_text(json.dumps(rows, indent=1))
    first, second = evaluation("mm-eureka-k12", file)
    assert (first.id, first.question, first.answer, first.meta) == ("0", "How long?", "$\\frac{3}{2}$", {})
    assert second.meta["answer_type"] == "letter"
    assert [image.size for image in (*first.images, *second.images)] == [(8, 6)] * 2


METADATA = {
    "category": TEXT, "context": TEXT, "grade": TEXT, "img_height": NUMBER, "img_width": NUMBER, "language": TEXT,
    "skills": List(TEXT), "source": TEXT, "split": TEXT, "task": TEXT,
}  # fmt: skip
VISTA = {
    "pid": TEXT, "question": TEXT, "image": TEXT, "decoded_image": PICTURE, "choices": List(TEXT), "unit": TEXT,
    "precision": Value("float64"), "answer": TEXT, "question_type": TEXT, "answer_type": TEXT, "metadata": METADATA,
    "query": TEXT,
}  # fmt: skip


def vista(pid: int, **changes: Any) -> dict[str, Any]:
    metadata = {
        "category": "math-targeted-vqa", "context": "bar chart", "grade": "daily life", "img_height": 6, "img_width": 8,
        "language": "english", "skills": ["arithmetic reasoning", "statistical reasoning"], "source": "PlotQA",
        "split": "testmini", "task": "figure question answering",
    }  # fmt: skip
    row = {
        "pid": str(pid), "question": "How much?", "image": f"images/{pid}.jpg", "decoded_image": picture(),
        "choices": None, "unit": None, "precision": None, "answer": "7", "question_type": "free_form",
        "answer_type": "integer", "metadata": metadata, "query": "Hint: … at the end.\nQuestion: How much?",
    }  # fmt: skip
    return row | changes


def test_mathvista(tmp_path: Path) -> None:
    choices = ["Yes", "No"]
    write(
        tmp_path / "data",
        "testmini",
        VISTA,
        vista(1),
        vista(2, answer_type="float", precision=1.0, answer="1.2", unit="$"),
        vista(3, question_type="multi_choice", answer_type="text", choices=choices, answer="No"),
        vista(4, answer_type="list", answer="[1, 2]"),
        vista(5, answer_type="float", precision=2.0, answer="0.25"),
    )
    whole, number, choice, list_, fine = evaluation("mathvista", tmp_path)
    assert (whole.id, whole.question, whole.answer) == ("1", "How much? Answer with a whole number.", "7")
    assert whole.meta["task"] == "figure question answering"
    assert whole.meta["skills"] == ("arithmetic reasoning", "statistical reasoning")
    assert number.question == "How much? (Unit: $) Answer with a number with one decimal."
    assert (number.meta["answer_type"], number.meta["precision"], number.meta["unit"]) == ("number", 1, "$")
    assert type(number.meta["precision"]) is int
    assert fine.question.endswith("2 decimals.")
    assert (choice.question, choice.answer) == ("How much?\n(A) Yes\n(B) No", "No")
    assert (choice.meta["answer_type"], choice.meta["choices"]) == ("choice", ("Yes", "No"))
    assert (list_.meta["answer_type"], list_.answer) == ("list", "[1, 2]")
    assert whole.images[0].size == (8, 6)


def test_mathvista_without_decoded_images_and_without_labels(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "images" / "1.jpg")
    features = {name: feature for name, feature in VISTA.items() if name != "decoded_image"}
    write(tmp_path, "testmini", features, {name: vista(1)[name] for name in features})
    assert evaluation("mathvista", tmp_path)[0].images[0].size == (4, 4)
    write(tmp_path, "test", VISTA, vista(9, answer=""))
    with pytest.raises(DataError, match=r"'answer' is empty in row 0"):
        evaluation("mathvista", tmp_path, splits={"eval": "test"})


VERSE = {
    "sample_index": TEXT, "problem_index": TEXT, "problem_version": TEXT, "question": TEXT, "image": PICTURE,
    "answer": TEXT, "question_type": TEXT, "query_wo": TEXT, "query_cot": TEXT, "question_for_eval": TEXT,
    "metadata": {"split": TEXT, "source": TEXT, "subject": TEXT, "subfield": TEXT},
}  # fmt: skip


def verse(index: int, version: str, **changes: Any) -> dict[str, Any]:
    row = {
        "sample_index": str(index), "problem_index": "1", "problem_version": version, "image": picture(),
        "question": "Find the angle.\nChoices:\nA:35°\nB:55°", "answer": "B", "question_type": "multi-choice",
        "query_wo": "…", "query_cot": "…", "question_for_eval": "",
        "metadata": {"split": "testmini", "source": "GeoQA", "subject": "Plane Geometry", "subfield": "Angle"},
    }  # fmt: skip
    return row | changes


def test_mathverse(tmp_path: Path) -> None:
    free = {"question_type": "free-form", "answer": "55°"}
    rows = [
        verse(1, "Text Dominant"),
        verse(2, "Vision Only", question="", question_for_eval="Find the angle.\nChoices:\nA:35°\nB:55°"),
        verse(3, "Text Lite", **free),
        verse(4, "Vision Only", question="", **free),
        verse(5, "Text Lite", answer="C"),  # of an option that was not found
    ]
    write(tmp_path, "testmini", VERSE, *rows)
    text = verse(6, "Text Only", image="")
    write(tmp_path, "testmini_text_only", VERSE | {"image": TEXT}, text)
    first, drawn, written, drawn_free, unlisted = evaluation("mathverse", tmp_path)
    asked = "Find the angle.\nChoices:\nA:35°\nB:55°\nAnswer with the letter of the option."
    assert first.question == asked
    assert first.meta == {
        "version": "Text Dominant", "problem": "1", "question_type": "multi-choice", "answer_type": "letter",
        "choices": ("35°", "55°"), "split": "testmini", "source": "GeoQA", "subject": "Plane Geometry",
        "subfield": "Angle",
    }  # fmt: skip
    assert drawn.question == "Answer the question in the image. Answer with the letter of the option."
    assert drawn.meta["choices"] == ("35°", "55°")
    assert (written.question, drawn_free.question) == (asked.rpartition("\n")[0], "Answer the question in the image.")
    assert "answer_type" not in written.meta
    assert "choices" not in unlisted.meta
    (alone,) = evaluation("mathverse", tmp_path, name="testmini_text_only")
    assert (alone.images, alone.meta["version"], alone.id) == ((), "Text Only", "6")


def test_mathverse_of_the_card_alone(tmp_path: Path) -> None:
    """Without the column that repeats the question where it is drawn."""
    features = {name: feature for name, feature in VERSE.items() if name != "question_for_eval"}
    write(tmp_path, "testmini", features, {name: verse(1, "Vision Only", question="")[name] for name in features})
    (drawn,) = evaluation("mathverse", tmp_path)
    assert drawn.question.startswith("Answer the question in the image.")
    assert "choices" not in drawn.meta


VISION = {
    "id": TEXT, "question": TEXT, "options": List(TEXT), "image": TEXT, "decoded_image": PICTURE, "answer": TEXT,
    "solution": TEXT, "level": NUMBER, "subject": TEXT,
}  # fmt: skip


def test_mathvision(tmp_path: Path) -> None:
    row = {
        "id": "4", "question": "Which part fits?\n<image1>", "options": [], "image": "images/4.jpg", "answer": "12",
        "decoded_image": picture(), "solution": None, "level": 3, "subject": "counting",
    }  # fmt: skip
    write(
        tmp_path,
        "test",
        VISION,
        row,
        row | {"id": "5", "options": list("ABCDE"), "answer": "E", "question": "<image1> <image1> Which?\n<image1>"},
        row | {"id": "6", "options": ["$3$", "$4$"], "answer": "B"},
    )
    free, drawn, listed = evaluation("mathvision", tmp_path)
    assert (free.question, free.answer) == ("Which part fits?\n<image>", "12")
    assert free.meta == {"subject": "counting", "level": 3}
    assert (drawn.question, drawn.answer, len(drawn.images)) == ("Which?", "E", 1)
    assert drawn.meta == {"subject": "counting", "level": 3, "answer_type": "letter"}
    assert listed.question == "Which part fits?\n<image>\n(A) $3$\n(B) $4$"
    assert listed.meta["choices"] == ("$3$", "$4$")


HALLUSION = {
    "category": TEXT, "subcategory": TEXT, "visual_input": TEXT, "set_id": TEXT, "figure_id": TEXT, "sample_note": TEXT,
    "question_id": TEXT, "question": TEXT, "gt_answer_details": TEXT, "gt_answer": TEXT, "filename": TEXT,
    "image": PICTURE,
}  # fmt: skip


def hallusion_rows() -> list[dict[str, str]]:
    """951 questions in 346 figures and 455 questions over all, of which the categories share 14 and 26 by number."""

    def grids(category: str, subcategory: str, sets: range, figures: int, questions: int) -> Iterator[dict[str, str]]:
        for numbers in product(sets, range(1, figures + 1), range(questions)):
            keys = zip(("set_id", "figure_id", "question_id"), map(str, numbers), strict=True)
            yield {"category": category, "subcategory": subcategory, **dict(keys)}

    rows: list[dict[str, str]] = []
    for category in ("VD", "VS"):  # together 104 rows, 28 figures, 52 questions
        rows += [*grids(category, "map", range(5), 2, 4), *grids(category, "map", range(5, 7), 2, 3)]
    rows += grids("VD", "illusion", range(85), 2, 3)  # 510 rows, 170 figures, 255 questions
    rows += grids("VS", "chart", range(53), 2, 2)  # 212 rows, 106 figures, 106 questions
    rows += grids("VS", "table", range(14), 3, 3)  # 126 rows, 42 figures, 42 questions
    return rows[:-1]  # a figure that is not asked everything


def test_hallusionbench(tmp_path: Path) -> None:
    row = {
        "category": "VS", "subcategory": "map", "visual_input": "1", "set_id": "0", "figure_id": "1",
        "sample_note": "", "question_id": "0", "question": "Is it larger?", "gt_answer_details": "", "gt_answer": "1",
        "filename": "./a.png", "image": picture(),
    }  # fmt: skip
    write(tmp_path / "data", "image", HALLUSION, row, row | {"question_id": "1", "gt_answer": "0"})
    unseen = row | {"image": None, "visual_input": "0", "figure_id": "0"}
    write(tmp_path / "data", "non_image", HALLUSION, unseen)
    yes, no = evaluation("hallusionbench", tmp_path)
    assert (yes.question, yes.answer, no.answer) == ("Is it larger?", "yes", "no")
    assert yes.meta == {
        "answer_type": "yes-no", "category": "VS", "subcategory": "map", "set_id": "0", "figure_id": "1",
        "question_id": "0", "visual_input": "1",
    }  # fmt: skip
    (blind,) = evaluation("hallusionbench", tmp_path, splits={"eval": "non_image"})
    assert (blind.images, figure_group(blind.meta), question_group(blind.meta)) == ((), None, ("VS", "map", "0", "0"))
    write(tmp_path / "data", "image", HALLUSION, row | {"gt_answer": "2"})
    refused("hallusionbench", tmp_path, r"has what its card says.*KeyError: '2'")


WRITERS = ClassLabel(names=["human", "machine"])
CHART = {"image": PICTURE, "query": TEXT, "label": List(TEXT), "human_or_machine": WRITERS}


def test_chartqa(tmp_path: Path) -> None:
    row = {"image": picture(), "query": "What is the value?", "label": ["14"], "human_or_machine": 0}
    for split in ("train", "val"):
        write(tmp_path, split, CHART, row)
    write(tmp_path, "test", CHART, row, row | {"label": ["[Peru, Chile]"], "human_or_machine": 1})
    one, two = evaluation("chartqa", tmp_path)
    assert (one.question, one.answer) == ("What is the value?", "14")
    assert one.meta == {"answer_type": "relaxed", "source": "human"}
    assert two.answer == "[Peru, Chile]"
    assert two.meta == {"answer_type": "list", "source": "machine"}
    write(tmp_path, "test", CHART, row | {"label": ["[1]"]})
    assert evaluation("chartqa", tmp_path)[0].meta["answer_type"] == "relaxed"
    write(tmp_path, "test", CHART, row | {"label": ["Peru", "Chile"]})
    refused("chartqa", tmp_path, r"has what its card says.*ValueError: 2 labels")


SCIENCE = {
    "image": PICTURE, "question": TEXT, "choices": List(TEXT), "answer": Value("int8"), "hint": TEXT, "task": TEXT,
    "grade": TEXT, "subject": TEXT, "topic": TEXT, "category": TEXT, "skill": TEXT, "lecture": TEXT, "solution": TEXT,
}  # fmt: skip


def test_scienceqa(tmp_path: Path) -> None:
    row = {
        "image": None, "question": "Which is it?", "choices": ["a mammal", "a bird"], "answer": 1, "hint": "",
        "task": "closed choice", "grade": "grade2", "subject": "natural science", "topic": "biology", "skill": "",
        "category": "Animals", "lecture": "", "solution": "",
    }  # fmt: skip
    write(tmp_path, "train", SCIENCE, row)
    write(tmp_path, "test", SCIENCE, row, row | {"image": picture(), "hint": "Look.", "answer": 0})
    text, seen = evaluation("scienceqa", tmp_path)
    assert (text.question, text.answer, text.images) == ("Which is it?\n(A) a mammal\n(B) a bird", "B", ())
    assert (seen.question, seen.answer, len(seen.images)) == ("Look.\nWhich is it?\n(A) a mammal\n(B) a bird", "A", 1)
    assert seen.meta["choices"] == ("a mammal", "a bird")
    assert (seen.meta["answer_type"], seen.meta["subject"], seen.meta["grade"]) == (
        "letter", "natural science", "grade2",
    )  # fmt: skip
    write(tmp_path, "test", SCIENCE, row | {"answer": 2})
    refused("scienceqa", tmp_path, r"row 0 of .*option 2 of 2")


BLINK = {
    "idx": TEXT, "question": TEXT, "sub_task": TEXT, **{f"image_{n}": PICTURE for n in range(1, 5)},
    "choices": List(TEXT), "answer": TEXT, "prompt": TEXT, "explanation": TEXT,
}  # fmt: skip


def test_blink(tmp_path: Path) -> None:
    row = {
        "idx": "val_Jigsaw_1", "question": "Which?", "sub_task": "Jigsaw", "image_1": picture(), "image_2": picture(),
        "image_3": None, "image_4": None, "choices": ["the second", "the third"], "answer": "(B)",
        "prompt": "Which piece fits? Select from:\n(A) the second\n(B) the third", "explanation": "",
    }  # fmt: skip
    write(tmp_path / "Jigsaw", "val", BLINK, row)
    write(tmp_path / "Jigsaw", "test", BLINK, row | {"answer": "hidden"})
    (example,) = evaluation("blink", tmp_path, name="Jigsaw")
    assert (example.question, example.answer, len(example.images)) == (row["prompt"], "B", 2)
    assert example.meta == {"answer_type": "letter", "choices": ("the second", "the third"), "config": "Jigsaw"}
    with pytest.raises(DataError, match="'hidden' is not a letter"):
        evaluation("blink", tmp_path, name="Jigsaw", splits={"eval": "test"})


def test_groups_of_hallusionbench() -> None:
    rows = hallusion_rows()
    assert len(rows) == len({tuple(row.values()) for row in rows}) == 951
    assert len({figure_group(row) for row in rows}) == 346
    assert len({question_group(row) for row in rows}) == 455
    without = [{**row, "category": ""} for row in rows]
    assert len({figure_group(row) for row in without}) == 332
    assert len({question_group(row) for row in without}) == 429


def test_a_file_of_another_schema(tmp_path: Path) -> None:
    yesterday = {"image": PICTURE, "question": TEXT, "label": List(TEXT)}
    write(tmp_path, "test", yesterday, {"image": None, "question": "?", "label": []})
    refused(
        "chartqa", tmp_path, "needs the columns image, query.*has no query, human_or_machine; it has image, question"
    )


def test_repeated_ids_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "testmini", VISTA, vista(1), vista(2), vista(1))
    refused("mathvista", tmp_path, "Ids are unique. '1' comes again in row 2")


def test_a_benchmark_is_not_trained_on(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="split 'train' must be mapped"):
        HallusionBench(HallusionBench.Config(path=str(tmp_path))).size("train")
