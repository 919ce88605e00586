"""Trainer with objects in place of names: examples, a reward function, a loaded model."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from PIL import Image

from commands import Saei
from models import tiny_folder
from runs import Quiet, lines, tiny
from saei.config.sections import ModelConfig
from saei.data.bars import Bars
from saei.data.in_memory import InMemory
from saei.diagnostics.tiny import tiny_parts
from saei.diagnostics.zoo import FAMILIES
from saei.engine import Trainer, checkpoint
from saei.errors import ConfigError, DataError, ModelError, TrainingError
from saei.policy.load.weights import load_parts
from saei.rewards.base import Attempt
from saei.rewards.in_memory import InMemory as InMemoryReward
from saei.runtime.run_dir import RunDir
from saei.types import Example, Grade


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder("Qwen2.5-VL", tmp_path_factory.mktemp("model"))


def checksum(text: str) -> float:
    """Rewards of random text that differ."""
    return sum(map(ord, text)) % 6 / 5


EXAMPLES = [Bars().example(number) for number in range(10)]
ROWS = [{"image": each.images[0], "question": each.question, "answer": each.answer} for each in EXAMPLES]


def in_memory(model: Path, root: Path, name: str = "run", /, **changes: Any) -> Any:
    return tiny(model, root, name, reward="accuracy-format", **changes)


def test_all_forms_of_examples_train_alike(model: Path, tmp_path: Path) -> None:
    """Rows, a data set and Example objects of the same content; also with a table of evaluation of their own."""
    features = {"image": datasets.Image(), "question": datasets.Value("string"), "answer": datasets.Value("string")}
    forms = {"rows": ROWS, "table": datasets.Dataset.from_list(ROWS, features=datasets.Features(features))}
    forms["objects"] = EXAMPLES  # type: ignore[assignment]
    for name, examples in forms.items():
        trainer = Trainer(
            in_memory(model, tmp_path, name),
            examples=examples[:8] if isinstance(examples, list) else examples.select(range(8)),
            eval_examples=examples[8:] if isinstance(examples, list) else examples.select(range(8, 10)),
            reward=checksum,
            display=Quiet(),
        )
        trainer.train()
        assert trainer.task.size("train") == 8
        assert [view.example.question for view in trainer._evaluation.views] == [e.question for e in EXAMPLES[8:]]
    runs = [lines(tmp_path / name) for name in forms]
    assert runs[0] == runs[1] == runs[2]
    assert len({line["train/reward"] for line in runs[0][1:]}) > 1


def test_examples_keep_their_meta_and_are_held_out(model: Path, tmp_path: Path) -> None:
    trainer = Trainer(in_memory(model, tmp_path), examples=EXAMPLES, reward=checksum, display=Quiet())
    task = trainer.task
    sizes = task.size("train"), task.size("eval")
    assert (sum(sizes), sizes[1] > 0) == (10, True)
    ids = [
        task.example(number, split).id
        for split, size in zip(("train", "eval"), sizes, strict=True)
        for number in range(size)
    ]  # type: ignore[arg-type]
    assert sorted(ids) == sorted(example.id for example in EXAMPLES)
    first = task.example(0)
    (original,) = (example for example in EXAMPLES if example.id == first.id)
    assert first.meta == original.meta != {}
    assert first.images[0].tobytes() == original.images[0].tobytes()
    assert any("held out" in note for note in task.notes())


def test_a_resumed_run_needs_the_same_objects(model: Path, tmp_path: Path, saei: Saei) -> None:
    whole = Trainer(in_memory(model, tmp_path, "whole"), examples=ROWS, reward=checksum, display=Quiet())
    whole.train()
    config = in_memory(model, tmp_path, "halves", training__steps=2)
    Trainer(config, examples=ROWS, reward=checksum, display=Quiet()).train()
    run, config = RunDir.open(tmp_path / "halves")
    assert config.task.type == config.reward.type == "in-memory"
    assert config.reward.name == "checksum"  # type: ignore[attr-defined]
    longer = config.model_copy(update={"training": config.training.model_copy(update={"steps": 3})})
    other = [*ROWS[:-1], {**ROWS[-1], "image": Image.new("RGB", (64, 64))}]
    for examples in (other, ROWS[:-1], ROWS[::-1]):
        with pytest.raises(ConfigError, match="A resumed run keeps its examples"):
            Trainer(longer, resume=run, examples=examples, reward=checksum, display=Quiet())
    with pytest.raises(ConfigError, match="reward of this run is a function of a Python program"):
        Trainer(longer, resume=run, examples=ROWS, display=Quiet())
    with pytest.raises(ConfigError, match="examples of this run are objects of a Python program"):
        Trainer(longer, resume=run, reward=checksum, display=Quiet())
    run.lock.release()
    trained = str(checkpoint.latest(run.checkpoints))
    evaluation = ("eval", "--model", trained, "--examples", "2", "--task", "bars", "--set", "sampling.max_new_tokens=4")
    assert "--set reward=accuracy-format" in saei(*evaluation).err
    assert saei(*evaluation, "--set", "reward=accuracy-format").code == 0
    said = saei("train", "--resume", str(run.path), "--steps", "3")
    assert (said.code, "objects of a Python program" in said.err) == (2, True)
    Trainer(longer, resume=run, examples=ROWS, reward=checksum, display=Quiet()).train()
    assert lines(tmp_path / "halves")[-1]["train/loss"] == lines(tmp_path / "whole")[-1]["train/loss"]


def test_a_resumed_run_of_a_task_takes_no_examples(model: Path, tmp_path: Path) -> None:
    Trainer(in_memory(model, tmp_path, training__steps=1), display=Quiet()).train()
    run, config = RunDir.open(tmp_path / "run")
    with pytest.raises(ConfigError, match="It had the task 'bars'"):
        Trainer(config, resume=run, examples=ROWS, display=Quiet())


@pytest.mark.parametrize(
    ("examples", "said"),
    [
        ([], "There are no examples"),
        ([1, 2], "Number 0 is a int"),
        ([EXAMPLES[0], ROWS[0]], "Number 0 is a Example"),
        ([{"picture": ROWS[0]["image"], "answer": "3"}], "question"),
        (datasets.DatasetDict({"train": datasets.Dataset.from_list([{"question": "?"}])}), "such as examples=data"),
        (datasets.Dataset.from_list([{"question": "?"}]).to_iterable_dataset(), "of a stream take a part"),
    ],
)
def test_other_examples_are_refused(model: Path, tmp_path: Path, examples: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        Trainer(in_memory(model, tmp_path), examples=examples, display=Quiet())
    assert not (tmp_path / "run").exists()


def test_evaluation_alone_is_refused(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="eval_examples go with examples"):
        Trainer(in_memory(model, tmp_path), eval_examples=ROWS, display=Quiet())


ATTEMPT = Attempt(Example("e", "How high?", "7"), "it is 7", truncated=True, length=4)


@pytest.mark.parametrize(
    ("function", "reward"),
    [
        (lambda text: float("7" in text), 1.0),
        (lambda answer, text: 0.5 * (answer in text), 0.5),
        (lambda attempt: len(attempt.text) / 100, 0.07),
        (lambda example, text, *, truncated: 0.25 * truncated + (example.id == "e"), 1.25),
        (lambda question, length, bonus=2.0: bonus * length + question.count("?"), 9.0),
        (lambda text, **rest: float(len(rest)), 0.0),
        (lambda text: Grade(0.3, True, {}, "seven"), 0.3),
    ],
)
def test_a_function_is_given_what_it_names(function: Any, reward: float) -> None:
    (grade,) = InMemoryReward.of(function).grade_all([ATTEMPT])
    assert grade.reward == pytest.approx(reward)
    assert grade.correct is (reward >= 1 or grade.answer == "seven")


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda t: 1.0, "it takes t.*Name its parameters from these: attempt, text"),
        (lambda texts, answer: 1.0, "it takes texts"),
        (lambda *texts: 1.0, r"it takes \*texts"),
        (lambda text, /: 1.0, "it takes text"),
        (max, "parameters are not known"),
    ],
)
def test_a_function_that_names_something_else_is_refused(function: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        InMemoryReward.of(function)


@pytest.mark.parametrize("function", [lambda text: 1 / 0, lambda text: float("nan"), lambda text: "good"])
def test_a_function_that_fails_stops_the_run(function: Any) -> None:
    with pytest.raises(TrainingError, match=r"finite number or a Grade.*<lambda>.*on example e"):
        InMemoryReward.of(function).grade_all([ATTEMPT])


def test_a_loaded_model_trains_like_its_folder(model: Path, tmp_path: Path) -> None:
    """Also with a KL penalty, whose reference is the model as it was given."""
    objective = {"type": "grpo", "terms": [{"type": "kl", "coefficient": 0.5}]}
    changes: dict[str, Any] = {"objective": objective, "optimizer__lr": 3e-3}
    Trainer(in_memory(model, tmp_path, "folder", **changes), reward=checksum, display=Quiet()).train()
    parts = load_parts(ModelConfig(path=str(model), device="cpu"))
    given, processor = parts.model, parts.processor
    given.requires_grad_(False)  # whatever was done with it before
    before = copy.deepcopy(given.state_dict())
    config = in_memory(Path("nowhere"), tmp_path, "objects", **changes)
    trainer = Trainer(config, reward=checksum, model=(given, processor), display=Quiet())
    trainer.train()
    assert trainer.policy.model is given
    assert any(not torch.equal(before[name], values) for name, values in given.state_dict().items())
    assert lines(tmp_path / "folder") == lines(tmp_path / "objects")
    assert any(line.get("train/kl/mean", 0) > 0 for line in lines(tmp_path / "objects"))
    path = tmp_path / "path"
    other = Trainer(in_memory(Path("nowhere"), path), reward=checksum, model=model, display=Quiet())
    assert other.config.model.path == str(model)


def test_a_loaded_model_is_frozen_and_adapted_as_the_configuration_says(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    for name, settings in (("frozen", {"freeze": ["vision"]}), ("lora", {"lora": {"rank": 2}})):
        parts = load_parts(ModelConfig(path=str(model), device="cpu"))
        config = in_memory(model, tmp_path, name, model={"path": str(model), "device": "cpu", **settings})
        trainer = Trainer(config, reward=checksum, model=(parts.model, parts.processor), display=Quiet())
        loaded = load_parts(config.model).model
        trained, expected = (
            {name for name, value in each.named_parameters() if value.requires_grad}
            for each in (trainer.policy.model, loaded)
        )
        assert trained == expected
        assert 0 < len(trained) < len(list(loaded.named_parameters()))


def test_a_resumed_run_takes_the_checkpoints_weights(model: Path, tmp_path: Path) -> None:
    """Not those of the model that it is given again."""

    def parts() -> tuple[Any, Any]:
        loaded = load_parts(ModelConfig(path=str(model), device="cpu"))
        return loaded.model, loaded.processor

    config = in_memory(model, tmp_path, training__steps=2)
    trained = Trainer(config, reward=checksum, model=parts(), display=Quiet())
    trained.train()
    run, config = RunDir.open(tmp_path / "run")
    longer = config.model_copy(update={"training": config.training.model_copy(update={"steps": 3})})
    resumed = Trainer(longer, resume=run, reward=checksum, model=parts(), display=Quiet())
    ours, theirs = resumed.policy.model.state_dict(), trained.policy.model.state_dict()
    assert all(torch.equal(values, theirs[name]) for name, values in ours.items())


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ((object(), object()), ModelError, "Got a object without tokenizer"),
        (object(), ConfigError, "Got a object"),
        ("builtin:bars", ModelError, "no built-in model"),
    ],
)
def test_other_models_are_refused(tmp_path: Path, given: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        Trainer(in_memory(Path("builtin"), tmp_path), model=given, display=Quiet())


def test_a_tokenizer_is_no_processor(tmp_path: Path) -> None:
    parts = tiny_parts(FAMILIES["Qwen2.5-VL"])
    with pytest.raises(ModelError, match="without tokenizer"):
        Trainer(in_memory(Path("builtin"), tmp_path), model=(parts.model, parts.tokenizer), display=Quiet())


def test_contents_are_told_apart() -> None:
    contents = {InMemory.of(examples).config.content for examples in (ROWS, EXAMPLES, ROWS[1:], ROWS[::-1])}
    assert len(contents) == 4
    assert InMemory.of(ROWS).config == InMemory.of([dict(row) for row in ROWS]).config
    assert InMemory.of(ROWS, ROWS[:1]).config != InMemory.of(ROWS).config
