"""The ``dataset`` task on small local files, good and bad."""

from __future__ import annotations

import csv
import json
import os
import pickle
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas
import pytest
from PIL import Image

from saei.data.base import Split
from saei.data.dataset import Dataset
from saei.errors import DataError, SaeiError

PIXELS = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    data = tmp_path / "data"
    data.mkdir()
    Image.fromarray(PIXELS).save(data / "a.png")
    return data


def picture(path: Path, number: int) -> None:
    """Write a picture that no other number has."""
    Image.fromarray(PIXELS + np.uint8(number)).save(path)


def write(folder: Path, *rows: dict[str, Any]) -> str:
    path = folder / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return str(path)


def row(**changes: Any) -> dict[str, Any]:
    return {"images": ["a.png"], "problem": "<image>How many?", "answer": 3} | changes


def task(path: object, **fields: Any) -> Dataset:
    """A task whose rows are all for training, in their order, unless told otherwise."""
    return Dataset(Dataset.Config(path=str(path), **{"splits": {"train": "train"}} | fields))


def test_a_row_becomes_an_example(folder: Path) -> None:
    data = task(write(folder, row(), row(problem="Two <image2> of <image>?", images=["a.png", "a.png"])))
    assert data.size() == 2
    first, second = data.example(0), data.example(1)
    assert (first.question, first.answer, first.id) == ("How many?", "3", "train-0")
    np.testing.assert_array_equal(np.asarray(first.images[0]), PIXELS)
    assert len(second.images) == 2
    assert second.question == "Two <image> of <image>?"
    assert data.example(5).id == "train-1"


def test_columns_can_be_named(folder: Path) -> None:
    path = write(folder, {"q": "?", "a": "x", "picture": "a.png", "n": 7})
    columns = {"images": "picture", "question": "q", "answer": "a", "id": "n"}
    example = task(path, columns=columns).example(0)
    assert (example.id, example.answer, len(example.images)) == ("7", "x", 1)


@pytest.mark.parametrize("listed", [True, False])
def test_images_inside_a_parquet_file(folder: Path, listed: bool) -> None:
    picture = Image.fromarray(PIXELS)
    feature = datasets.List(datasets.Image()) if listed else datasets.Image()
    text = datasets.Value("string")
    table = datasets.Dataset.from_dict(
        {"images": [[picture] if listed else picture], "problem": ["?"], "answer": ["1"]},
        features=datasets.Features({"images": feature, "problem": text, "answer": text}),
    )
    table.to_parquet(folder / "rows.parquet")
    example = task(str(folder / "rows.parquet")).example(0)
    np.testing.assert_array_equal(np.asarray(example.images[0]), PIXELS)


def test_csv_without_images(folder: Path) -> None:
    (folder / "rows.csv").write_text("problem,answer\n1 + 1?,2\n")
    example = task(str(folder / "rows.csv"), columns={"images": None}).example(0)
    assert (example.question, example.answer, example.images) == ("1 + 1?", "2", ())


CELLS = ["007", "NA", "None", "1.50", "true", "1,5", "-3"]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_every_cell_of_a_csv_file_is_the_text_it_is(folder: Path, separator: str) -> None:
    with (folder / "rows.csv").open("w", encoding="utf-8-sig", newline="") as file:  # as spreadsheets write it
        writer = csv.writer(file, delimiter=separator)
        writer.writerows([["image", "question", "answer"], *(["a.png", "one; two, three?", cell] for cell in CELLS)])
    data = task(folder / "rows.csv")
    assert [data.example(index).answer for index in range(len(CELLS))] == CELLS
    assert data.example(0).question == "one; two, three?"


def test_answers_may_be_numbers(folder: Path) -> None:
    answers = [3, 2.5, "four", [7], -1, 2.0]
    data = task(write(folder, *(row(answer=answer) for answer in answers)))
    assert [data.example(index).answer for index in range(6)] == ["3", "2.5", "four", "7", "-1", "2"]
    table = pandas.DataFrame({"images": ["a.png"] * 2, "problem": ["?"] * 2, "answer": [3, None]})
    table.to_parquet(folder / "rows.parquet")  # where one missing number made the column a float's
    data = task(folder / "rows.parquet")
    assert data.example(0).answer == "3"
    with pytest.raises(DataError, match="'answer' is empty in row 1"):
        data.example(1)


@pytest.mark.parametrize("answer", [[1, 2], [], {"a": 1}])
def test_an_answer_of_the_wrong_type_names_the_row(folder: Path, answer: object) -> None:
    data = task(write(folder, row(answer=answer)))
    with pytest.raises(DataError, match=r"text or numbers.*'answer' holds a .* in row 0"):
        data.example(0)


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (("images", "problem", "answer"), ("images", "problem", "answer")),
        (("file_name", "question", "label"), ("file_name", "question", "label")),
        (("Photo", "Prompt", "Ground Truth"), ("Photo", "Prompt", "Ground Truth")),
        (("answer", "solution", "path", "image", "query", "question"), ("image", "question", "answer")),
    ],
)
def test_columns_are_found_by_their_names(folder: Path, names: Sequence[str], found: Sequence[str]) -> None:
    rows = folder / "rows.csv"
    rows.write_text(",".join(names) + "\n" + ",".join("a.png" if name == found[0] else f"of {name}" for name in names))
    data = task(rows)
    example = data.example(0)
    assert (example.question, example.answer, len(example.images)) == (f"of {found[1]}", f"of {found[2]}", 1)
    assert data.notes() == [f"{rows}: images from '{found[0]}', question from '{found[1]}', answer from '{found[2]}'."]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ("image,question,label,solution", "--set task.columns.answer=label, or --set task.columns.answer=solution."),
        ("image,question,result", "Name them: --set task.columns.answer=result."),
        ("vista,question,answer", "--set task.columns.images=vista, or --set task.columns.images=null for text alone."),
        ("a,b,c", "columns.images=NAME, or --set task.columns.images=null for text alone; --set task.columns.question"),
    ],
)
def test_columns_that_are_not_obvious(folder: Path, names: str, said: str) -> None:
    (folder / "rows.csv").write_text(f"{names}\n{names}\n")
    with pytest.raises(DataError) as refused:
        task(folder / "rows.csv").size()
    assert said in refused.value.remedy
    assert f"has the columns {names.replace(',', ', ')}." in refused.value.reason


def test_ids_are_unique(folder: Path) -> None:
    path = write(folder, row(n=1), row(n=2), row(n=1))
    with pytest.raises(DataError, match=r"Ids are unique. 1 comes again in row 2.*column 'n'"):
        task(path, columns={"id": "n"}).size()


def answers(data: Dataset, split: Split) -> list[str]:
    return [data.example(index, split).answer for index in range(data.size(split))]


def test_a_folder_has_the_splits_of_its_file_names(folder: Path) -> None:
    (folder / "train.jsonl").write_text(json.dumps(row(answer="t")))
    (folder / "test.jsonl").write_text(json.dumps(row(answer="e")))
    data = Dataset(Dataset.Config(path=str(folder)))
    assert (answers(data, "train"), answers(data, "eval")) == (["t"], ["e"])
    (folder / "test.jsonl").rename(folder / "val.jsonl")
    assert answers(Dataset(Dataset.Config(path=str(folder))), "eval") == ["e"]


def test_a_folder_of_split_folders(folder: Path) -> None:
    for split, answer in (("train", "t"), ("test", "e")):
        (folder / split / "images").mkdir(parents=True)
        shutil.copy(folder / "a.png", folder / split / "images" / "b.png")
        rows = f"file_name,question,answer\nimages/b.png,?,{answer}\na.png,?,{answer}\n"
        (folder / split / "metadata.csv").write_text(rows)
        (folder / split / "notes.csv").write_text("nothing of interest\n")
    data = Dataset(Dataset.Config(path=str(folder)))
    assert (answers(data, "train"), answers(data, "eval")) == (["t", "t"], ["e", "e"])


def test_a_folder_with_several_tables_of_no_known_name(folder: Path) -> None:
    for name in ("one.csv", "two.jsonl"):
        (folder / name).write_text("")
    with pytest.raises(DataError, match=r"has to be clear.*has one.csv, two.jsonl; none is called 'train'"):
        task(folder).size()
    (folder / "two.jsonl").write_text(json.dumps(row(answer="named")))
    assert task(folder, splits={"train": "two"}).example(0).answer == "named"


def test_a_folder_of_images_without_a_table(folder: Path) -> None:
    with pytest.raises(DataError, match=r"needs a table.*metadata\.csv with the columns"):
        task(folder).size()


def test_a_copy_of_a_hub_data_set(folder: Path) -> None:
    (folder / "data").mkdir()
    for split, shard in (("train", "0-of-00002"), ("train", "1-of-00002"), ("test", "0-of-00001-725687bf7a18d64b")):
        rows = datasets.Dataset.from_list([{"problem": f"{split} {shard[0]}", "answer": "1"}])
        rows.to_parquet(folder / "data" / f"{split}-0000{shard}.parquet")
    data = Dataset(Dataset.Config(path=str(folder), columns={"images": None}))
    assert [data.example(index).question for index in range(data.size())] == ["train 0", "train 1"]
    assert [data.example(index, "eval").question for index in range(data.size("eval"))] == ["test 0"]
    limited = Dataset(Dataset.Config(path=str(folder), columns={"images": None}, limit=1))
    assert (limited.size(), limited.size("eval")) == (1, 1)


@pytest.mark.parametrize(("rows", "share", "kept"), [(20, 0.2, 4), (20, 0.5, 10), (3, 0.2, 1), (2, 0.9, 1)])
def test_rows_are_held_out_where_there_is_one_table(folder: Path, rows: int, share: float, kept: int) -> None:
    for number in range(rows):
        picture(folder / f"{number}.png", number)
    path = write(folder, *(row(images=[f"{number}.png"], answer=number) for number in range(rows)))
    data = Dataset(Dataset.Config(path=path, held_out=share))
    train, evaluation = answers(data, "train"), answers(data, "eval")
    assert len(evaluation) == kept
    assert sorted(map(int, train + evaluation)) == list(range(rows))
    assert f"{kept} of the {rows} rows of {path} are held out" in data.notes()[-1]
    again = Dataset(Dataset.Config(path=path, held_out=share))
    assert (answers(again, "eval"), answers(again, "train")) == (evaluation, train)  # in either order of asking
    if rows == 20:
        assert answers(Dataset(Dataset.Config(path=path, held_out=share, seed=1)), "eval") != evaluation
        assert data.example(0, "eval").id == f"train-{evaluation[0]}"


def test_questions_about_one_photo_are_not_divided(folder: Path) -> None:
    for number in range(5):
        picture(folder / f"{number}.png", number)
    path = write(folder, *(row(images=[f"{number % 5}.png"], answer=number % 5) for number in range(30)))
    for seed in range(5):
        data = Dataset(Dataset.Config(path=path, seed=seed))
        train, evaluation = answers(data, "train"), answers(data, "eval")
        assert (len(train), len(evaluation)) == (24, 6)
        assert not {*train} & {*evaluation}


def test_evaluation_on_rows_that_are_trained_on_is_refused(folder: Path) -> None:
    path = write(folder, row(), row(problem="And here?"))
    with pytest.raises(DataError, match=r"not trained on.*photos cannot be divided"):
        Dataset(Dataset.Config(path=path)).size("eval")
    with pytest.raises(DataError, match=r"not trained on.*held_out is 0"):
        Dataset(Dataset.Config(path=path, held_out=0)).size("eval")
    assert Dataset(Dataset.Config(path=path)).size("train") == 2


def test_all_rows_of_a_file_are_for_evaluation_where_none_is_for_training(folder: Path) -> None:
    path = write(folder, row(), row(problem="And here?"))
    for place in (path, str(folder)):
        data = Dataset(Dataset.Config(path=place, splits={"eval": "test"}))
        assert (data.size("eval"), data.splits()) == (2, ["eval"])
        with pytest.raises(DataError, match="split 'train'"):
            data.size("train")


def test_a_relative_path_becomes_absolute(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(folder, row())
    monkeypatch.chdir(folder.parent)
    for path in ("data", "./data", "data/rows.jsonl"):
        assert Dataset.Config(path=path).path == str(folder.parent / Path(path))
    assert Dataset.Config(path="gone.jsonl").path == str(folder.parent / "gone.jsonl")
    assert Dataset.Config(path="owner/name").path == "owner/name"


@pytest.mark.parametrize(
    ("name", "text"),
    [("a.jsonl", ""), ("a.json", "[]"), ("a.jsonl", "\n"), ("a.csv", ""), ("a.csv", "images,problem,answer\n")],
)
def test_an_empty_data_set(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text)
    with pytest.raises(DataError, match="at least one row"):
        task(str(folder / name)).size()


def test_a_missing_column_names_those_there_are(folder: Path) -> None:
    path = write(folder, {"images": ["a.png"], "question": "?", "answer": "1"})
    with pytest.raises(DataError, match=r"columns images, question, answer\. There is no column 'problem'"):
        task(path, columns={"question": "problem"}).size()


def damaged(folder: Path, name: str) -> Path:
    """Write a table as an interrupted download, or another mishap, leaves it."""
    file = folder / name
    rows = [row(answer=number) for number in range(5)]
    if file.suffix == ".parquet":
        datasets.Dataset.from_list(rows).to_parquet(file)
        whole = file.read_bytes()
        pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
        file.write_bytes(pointer if name.startswith("pointer") else whole[: len(whole) // 2])
    elif file.suffix == ".csv":
        file.write_bytes("images,problem,answer\na.png,Wie groß?,3\n".encode("latin-1"))
    elif name.startswith("page"):
        file.write_text("<!DOCTYPE html><title>404</title>")
    else:
        text = "\n".join(map(json.dumps, rows)) if file.suffix == ".jsonl" else json.dumps(rows)
        file.write_text(text[:-20])
    return file


@pytest.mark.parametrize(
    ("name", "reason", "remedy"),
    [
        ("cut.parquet", "its end is missing", "Copy or fetch it again"),
        ("pointer.parquet", "a pointer of Git LFS", "git lfs pull"),
        ("cut.json", "it is no JSON (Unterminated string", "a bracket behind the last"),
        ("page.json", "it is a web page", "Fetch the file itself"),
    ],
)
def test_a_damaged_table_says_what_is_wrong(folder: Path, name: str, reason: str, remedy: str) -> None:
    with pytest.raises(DataError) as refused:
        task(str(damaged(folder, name))).size()
    assert str(folder / name) in refused.value.reason
    assert reason in refused.value.reason
    assert remedy in refused.value.remedy
    assert not refused.value.reason.endswith("..")


@pytest.mark.parametrize(("name", "row", "said"), [("cut.jsonl", 4, "is no JSON"), ("latin.csv", 0, "is not UTF-8")])
def test_a_damaged_row_says_what_is_wrong(folder: Path, name: str, row: int, said: str) -> None:
    data = task(damaged(folder, name))
    assert data.size() == row + 1
    with pytest.raises(DataError, match=rf"Row {row} of .*{name} {said}"):
        data.example(row)


def test_nothing_is_unpickled(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(folder / "sprung"),)

    for name in ("rows.pkl", "rows.parquet", "rows.jsonl"):
        (folder / name).write_bytes(pickle.dumps([Trap()]))
        with pytest.raises(DataError, match="readable"):
            task(str(folder / name)).size()
    (folder / "trap.png").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(DataError, match="has to open"):
        task(write(folder, row(images=["trap.png"]))).example(0)
    assert not (folder / "sprung").exists()


@pytest.mark.parametrize("name", ["missing.jsonl", "a.png", f"{'long' * 100}.csv"])
def test_data_that_cannot_be_read(folder: Path, name: str) -> None:
    with pytest.raises(DataError, match="readable"):
        task(str(folder / name)).size()


@pytest.mark.parametrize(
    ("column", "cell"),
    [("answer", ""), ("answer", "  "), ("answer", None), ("problem", ""), ("problem", "<image> "), ("images", "")],
)
def test_an_empty_cell_names_the_row(folder: Path, column: str, cell: str | None) -> None:
    data = task(write(folder, row(images="a.png"), row(images="a.png") | {column: cell}))
    data.example(0)
    with pytest.raises(DataError, match=f"'{column}' is empty in row 1"):
        data.example(1)


@pytest.mark.parametrize("cell", [[], None])
def test_a_row_may_be_text_alone(folder: Path, cell: object) -> None:
    assert task(write(folder, row(images=cell, problem="What is 1 + 1?"), row())).example(0).images == ()


def test_a_split_that_is_not_mapped(folder: Path) -> None:
    with pytest.raises(SaeiError, match="split 'eval'"):
        task(write(folder, row()), splits={"train": "train"}).size("eval")
