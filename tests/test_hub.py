"""Data sets of the hub: what is asked of it, what is recorded, and what happens without it. Nothing is fetched."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import pytest
import yaml
from PIL import Image

from runs import Quiet, tiny
from saei.config.sections import ModelConfig
from saei.data import hub
from saei.data.dataset import Dataset
from saei.data.hub import first_rows
from saei.data.presets.mathverse import MathVerse
from saei.engine import Trainer
from saei.errors import DataError, ModelError
from saei.policy.load import location

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LATER = "fedcba9876543210fedcba9876543210fedcba98"


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A hub that has one data set, and the calls of ``load_dataset`` that reach it."""
    calls: list[dict[str, Any]] = []
    rows = datasets.Dataset.from_list(
        [
            {"image": Image.new("RGB", (64, 64), (number, 0, 0)), "question": "How many?", "answer": str(number)}
            for number in range(5)
        ],
        features=datasets.Features(
            {"image": datasets.Image(), "question": datasets.Value("string"), "answer": datasets.Value("string")}
        ),
    )

    def load_dataset(path: str, name: str | None = None, **options: Any) -> Any:
        calls.append({"path": path, "name": name, **options})
        if options["split"] not in ("train", "testmini"):
            raise ValueError(f"Unknown split \"{options['split']}\". Should be one of ['train'].")
        return rows.to_iterable_dataset() if options.get("streaming") else rows

    class Api:
        newest = COMMIT

        def dataset_info(self, path: str, revision: str | None = None, timeout: float | None = None) -> Any:
            return huggingface_hub.hf_api.DatasetInfo(id=path, sha=revision or self.newest, tags=[])

    monkeypatch.setattr(hub, "hub_answers", lambda: True)
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return calls


def test_the_revision_is_pinned_and_the_same_for_both_splits(served: list[dict[str, Any]]) -> None:
    task = Dataset(Dataset.Config(path="some/set"))
    assert (task.size(), task.size("eval")) == (4, 1)
    assert {call["revision"] for call in served} == {COMMIT}
    assert task.pinned().model_dump()["revision"] == COMMIT
    assert task.example(0).images[0].size == (64, 64)
    asked = Dataset(Dataset.Config(path="some/set", revision=LATER))
    asked.size()
    assert served[-1]["revision"] == LATER


def test_a_run_records_the_revision_that_it_read(served: list[dict[str, Any]], tmp_path: Path) -> None:
    task = {"type": "dataset", "path": "some/set"}
    config = tiny(Path("builtin"), tmp_path, task=task, reward="accuracy-format")
    trainer = Trainer(config, display=Quiet())
    recorded = yaml.safe_load((trainer.run.path / "config.yaml").read_text())["config"]["task"]
    assert recorded["revision"] == COMMIT


def test_only_the_first_rows_are_fetched(served: list[dict[str, Any]]) -> None:
    task = Dataset(Dataset.Config(path="some/set", limit=3))
    assert task.size() + task.size("eval") == 3
    assert all(call["streaming"] for call in served)
    assert task.example(0).images[0].size == (64, 64)


def test_a_streamed_image_is_not_decoded(tmp_path: Path) -> None:
    seen = []

    def rows() -> Any:
        for number in range(100):
            seen.append(number)
            yield {"image": {"bytes": b"no image at all", "path": None}, "answer": number}

    features = datasets.Features({"image": datasets.Image(), "answer": datasets.Value("int64")})
    found = first_rows(datasets.IterableDataset.from_generator(rows, features=features), 3)
    assert (len(found), found[2]["answer"], found[0]["image"]["bytes"]) == (3, 2, b"no image at all")
    assert len(seen) < 10


def test_the_split_of_mathverse_is_its_configuration(served: list[dict[str, Any]]) -> None:
    with pytest.raises(DataError, match="needs the columns"):  # which the served set does not have
        MathVerse().size("eval")
    assert (served[-1]["name"], served[-1]["split"]) == ("testmini", "testmini")


def test_a_split_that_the_hub_does_not_have(served: list[dict[str, Any]]) -> None:
    with pytest.raises(DataError, match=r"has to be readable.*Unknown split \"nothing\".*no .*/some/set either"):
        Dataset(Dataset.Config(path="some/set", splits={"train": "nothing"})).size()


def test_a_revision_that_there_is_not(monkeypatch: pytest.MonkeyPatch, served: list[dict[str, Any]]) -> None:
    def load_dataset(path: str, name: str | None = None, **options: Any) -> Any:
        raise datasets.exceptions.DatasetNotFoundError(
            f"Revision '{options['revision']}' doesn't exist for dataset '{path}' on the Hub."
        )

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(DataError) as refused:
        Dataset(Dataset.Config(path="some/set", revision="v9")).size()
    assert "Revision 'v9' doesn't exist" in refused.value.reason
    assert refused.value.remedy.startswith("Correct task.revision")


@pytest.mark.parametrize("answer", [ConnectionError("no route"), TimeoutError()])
def test_without_the_hub_the_message_comes_fast(
    monkeypatch: pytest.MonkeyPatch, answer: Exception, tmp_path: Path
) -> None:
    class Session:
        def head(self, *arguments: object, **options: object) -> None:
            raise answer

    monkeypatch.setattr(huggingface_hub, "get_session", Session)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.chdir(tmp_path)
    attempts = retries(monkeypatch)
    with pytest.raises(DataError) as refused:
        Dataset(Dataset.Config(path="my_fotos")).size()
    assert "my_fotos" in refused.value.reason
    assert f"There is no {tmp_path / 'my_fotos'} either" in refused.value.reason
    assert attempts == []
    assert datasets.config.HF_HUB_OFFLINE is False


def retries(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return the pauses between retries that are asked for from now on."""
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", lambda seconds: pauses.append(seconds))
    return pauses


@pytest.mark.parametrize("online", [True, False])
@pytest.mark.parametrize(
    ("path", "reason", "remedy"),
    [
        ("builtin:lockin", "no built-in model 'builtin:lockin'", "Did you mean 'builtin:lock-in'?"),
        ("builtin:bars", "no built-in model 'builtin:bars'", "Known: builtin, builtin:lock-in"),
        ("my model", "no hub has an id like that", "Give `builtin`"),
        ("x:y", "no hub has an id like that", "Give `builtin`"),
        ("a--b/c", "no hub has an id like that", "Give `builtin`"),
        ("a" * 97, "no hub has an id like that", "Give `builtin`"),
        ("not-there", "hub cannot be reached", "Give `builtin`"),
    ],
)
def test_what_can_be_no_models_id(
    monkeypatch: pytest.MonkeyPatch, path: str, reason: str, remedy: str, online: bool
) -> None:
    """The hub's library would refuse most of these by a ``HFValidationError``; whether it is reached plays no part."""
    if online and reason.startswith("hub cannot"):
        pytest.skip("of an id that may exist")
    monkeypatch.setattr(location, "hub_answers", lambda: online)
    with pytest.raises(ModelError) as refused:
        location.locate(ModelConfig(path=path))
    assert reason in refused.value.reason
    assert remedy in refused.value.remedy


@pytest.mark.parametrize("path", ["my data:set", "a--b/c", "a" * 97])
def test_what_can_be_no_data_sets_id(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.setattr(hub, "hub_answers", lambda: False)
    with pytest.raises(DataError, match="has to be readable") as refused:
        Dataset(Dataset.Config(path=path)).size()
    assert f"There is no {Path(path).absolute()} either" in refused.value.reason
