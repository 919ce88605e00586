"""The trainer: the same seed gives the same run, a resumed run is the one that was never stopped."""

from __future__ import annotations

import json
import math
import os
import resource
import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from runs import Checksum, Quiet, lines, registered, tiny, train
from saei.cli.resume import resumed_run
from saei.config.run import dump
from saei.config.strategy import StrategyConfig, restore, state_of
from saei.data.base import Split, Task
from saei.engine import Trainer, checkpoint, limits
from saei.errors import CheckpointError, ConfigError, DataError, ModelError
from saei.intake.stream import ViewStream
from saei.interventions.base import Guard, Strength
from saei.need import Need
from saei.objectives.base import Aggregate, Loss, ObjectiveInput, Term
from saei.objectives.entropy_bonus import EntropyBonus
from saei.objectives.grpo import GRPO
from saei.policy import Policy
from saei.policy.statistics.base import DerivedStatistic
from saei.runtime.checksums import CHECKSUMS
from saei.runtime.interrupt import Interrupted, StopRequest
from saei.runtime.run_dir import RunDir
from saei.types import Drops, Example, ScoredGroup


class Small(Task):
    """Seven examples, of which some are broken; three to evaluate on."""

    class Config(Task.Config):
        type: Literal["small"] = "small"
        broken: tuple[int, ...] = ()
        examples: int | None = 7
        held_out: int | None = 3
        broken_held_out: bool = False

    def example(self, index: int, split: Split = "train") -> Example:
        config: Any = self.config
        if index in config.broken if split == "train" else config.broken_held_out:
            raise DataError("An example needs a picture.", reason=f"number {index} has none.")
        shade = 20 * index + (5 if split == "eval" else 0)
        return Example(f"{split}-{index}", "What is red?", "3", (Image.new("RGB", (64, 64), (shade, 90, 200)),))

    def size(self, split: Split = "train") -> int | None:
        config: Any = self.config
        size: int | None = config.examples if split == "train" else config.held_out
        return size


class Texts(Small):
    """Of the examples some have no picture."""

    class Config(Small.Config):
        type: Literal["texts"] = "texts"  # type: ignore[assignment]
        texts: tuple[int, ...] = ()

    def example(self, index: int, split: Split = "train") -> Example:
        config: Any = self.config
        example = super().example(index, split)
        return replace(example, images=()) if split == "train" and index in config.texts else example


class Remembered(Small):
    """Makes each example once and returns the same object ever after."""

    class Config(Small.Config):
        type: Literal["remembered"] = "remembered"  # type: ignore[assignment]

    def __init__(self, config: Any = None) -> None:
        super().__init__(config)
        self._made: dict[tuple[Split, int], Example] = {}

    def example(self, index: int, split: Split = "train") -> Example:
        if (split, index) not in self._made:
            self._made[split, index] = super().example(index, split)
        return self._made[split, index]


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    with registered(Checksum, Small, Texts, Remembered):
        yield


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(checkpoint.latest(run / "checkpoints") / "model.safetensors")


def assert_same_run(left: Path, right: Path) -> None:
    ours, theirs = lines(left), lines(right)
    assert [line["step"] for line in ours] == list(range(len(ours)))
    assert ours == theirs
    a, b = weights(left), weights(right)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert RunDir(left).samples() == RunDir(right).samples()


def stop_at(step: int) -> Quiet:
    return Quiet({step: lambda: os.kill(os.getpid(), signal.SIGINT)})


def test_the_probe_is_taken_at_temperature_one_whatever_the_training(model: Path, tmp_path: Path) -> None:
    evaluations = []
    for temperature in (0.4, 1.0):
        config = tiny(model, tmp_path, str(temperature), sampling__temperature=temperature, training__steps=1)
        evaluations.append(lines(train(config).run.path)[0])
    cold, warm = ({name: line[name] for name in line if name.startswith("probe/")} for line in evaluations)
    assert cold == warm
    assert cold["probe/entropy"] > 0
    other = [{name: line[name] for name in line if name.startswith("eval/")} for line in evaluations]
    assert other[0] != other[1]  # the evaluation follows the policy's own temperature


def test_an_evaluation_by_hand_is_that_of_the_run_and_leaves_nothing(model: Path, tmp_path: Path) -> None:
    trainer = train(tiny(model, tmp_path, training__steps=2))
    written = lines(trainer.run.path)
    last = {name: value for name, value in written[-1].items() if name.startswith(("eval/", "probe/"))}
    assert trainer.evaluate() == last != {}
    assert (lines(trainer.run.path), trainer.step) == (written, 2)


def test_the_same_seed_gives_the_same_run(model: Path, tmp_path: Path) -> None:
    first, again, other = (
        train(tiny(model, tmp_path, name, seed=seed)).run.path
        for name, seed in (("first", 1), ("again", 1), ("other", 2))
    )
    assert_same_run(first, again)
    mine, others = lines(first), lines(other)
    assert [line["step"] for line in mine] == [0, 1, 2, 3]
    assert mine[1]["train/loss"] != others[1]["train/loss"]
    assert mine[0]["probe/entropy"] == others[0]["probe/entropy"]  # the probe is the same for every seed
    assert mine[0]["eval/reward"] != others[0]["eval/reward"]
    start = load_file(model / "model.safetensors")
    assert any(not torch.equal(start[name], weight) for name, weight in weights(first).items())
    assert list((first / "samples").glob("step-*.parquet"))


SCHEDULED: dict[str, Any] = {
    "training": {"steps": 6, "prompts_per_step": 2, "ppo_epochs": 2, "updates_per_batch": 2},
    "optimizer": {"lr": 3e-3, "schedule": "cosine", "warmup_steps": 3, "weight_decay": 0.1},
    "task": "small",
}


def test_a_resumed_run_is_the_run_that_was_never_stopped(model: Path, tmp_path: Path) -> None:
    whole = train(tiny(model, tmp_path, "whole", **SCHEDULED)).run.path
    config = tiny(model, tmp_path, "halves", **SCHEDULED)
    with pytest.raises(Interrupted, match="after step 4 of 6"):
        train(config, stop_at(4))  # there is one of step 3 as well
    halves = tmp_path / "halves"
    assert [path.name for path in checkpoint.complete_in(halves / "checkpoints")] == ["step-000003", "step-000004"]
    run, read = RunDir.open(halves)
    assert read == config
    # A process that died after its last checkpoint leaves a step too many, and half a line.
    with (halves / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 5, "train/loss": 77.0}) + "\n" + '{"step": 6, "tra')
    train(read, resume=run)
    assert_same_run(whole, halves)
    rates = [line["train/lr"] for line in lines(whole)[1:]]
    assert len(set(rates)) == 6


def test_a_finished_run_goes_on_with_more_steps(model: Path, tmp_path: Path) -> None:
    whole = train(tiny(model, tmp_path, "whole", training__steps=4, evaluation__every=1)).run.path
    short = train(tiny(model, tmp_path, "short", training__steps=2, evaluation__every=1)).run.path
    run, config = RunDir.open(short)
    longer = config.model_copy(update={"training": config.training.model_copy(update={"steps": 4})})
    train(longer, resume=run)
    assert_same_run(whole, short)
    assert RunDir.open(short)[1].training.steps == 4  # so that a further --resume knows how far to go
    assert "versions" in yaml.safe_load((short / "config.yaml").read_text())


def test_resume_refuses_changed_fields_by_name(model: Path, tmp_path: Path) -> None:
    train(tiny(model, tmp_path, training__steps=1))
    with pytest.raises(ConfigError) as raised:
        resumed_run(tmp_path / "run", [], ["optimizer.lr=0.5", "sampler.n_clean=3", "seed=4", "training.steps=9"])
    assert "Changed: optimizer.lr, sampler.n_clean, seed." in raised.value.reason
    _, config = resumed_run(tmp_path / "run", [], ["training.steps=9", "output.checkpoint_every=1"])
    assert (config.training.steps, config.output.checkpoint_every) == (9, 1)


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="folder of a run"):
        RunDir.open(tmp_path)
    with pytest.raises(CheckpointError, match="ended before its first"):
        checkpoint.latest(tmp_path)


def test_a_second_run_of_a_name_is_refused(model: Path, tmp_path: Path) -> None:
    RunDir.create(tiny(model, tmp_path))
    with pytest.raises(ConfigError, match="--resume"):
        RunDir.create(tiny(model, tmp_path))


def test_a_checkpoint_is_a_plain_hugging_face_folder(model: Path, tmp_path: Path) -> None:
    from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer

    trainer = train(tiny(model, tmp_path, training__steps=1))
    folder = checkpoint.latest(trainer.run.checkpoints)
    loaded: Any = AutoModelForImageTextToText.from_pretrained(folder).eval()
    tokenizer, processor = AutoTokenizer.from_pretrained(folder), AutoImageProcessor.from_pretrained(folder)
    example = trainer.task.example(0)
    view = trainer.policy.view(example)
    pixels = processor(images=list(example.images), return_tensors="pt")
    torch.testing.assert_close(pixels["pixel_values"], trainer.policy.pixels.inputs([view.canvases])["pixel_values"])
    ids = view.prompt_ids_P[None]
    inputs = {"input_ids": ids, "mm_token_type_ids": (ids == loaded.config.image_token_id).int(), **pixels}
    with torch.no_grad():
        ours, theirs = (own(**inputs).logits for own in (trainer.policy.model, loaded))
    # Patch embeddings are matrix products here, which rounds in another order.
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=0)
    assert tokenizer.decode(ids[0]) == trainer.policy.tokenizer.decode(ids[0])


# Interrupts


def test_the_first_signal_asks_and_the_second_stops() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with StopRequest() as stop:
        assert not stop.requested
        signal.raise_signal(signal.SIGTERM)
        assert stop.requested
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_an_interrupt_at_the_last_step_is_no_interrupt(model: Path, tmp_path: Path) -> None:
    run = train(tiny(model, tmp_path, training__steps=1), stop_at(1)).run
    assert checkpoint.latest(run.checkpoints).name == "step-000001"


# Checkpoints and the disk


@pytest.fixture
def full_disk() -> Iterator[Any]:
    """No file may grow beyond a size."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(size: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))

    yield fill
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("victim", ["weights", "state"])
def test_a_full_disk_leaves_older_checkpoints_alone(
    random_policy: Policy, tmp_path: Path, full_disk: Any, victim: str
) -> None:
    state = {"step": 1, "optimizer": torch.zeros(3_000_000) if victim == "state" else torch.zeros(1)}
    older = checkpoint.save(tmp_path, 1, random_policy, {"step": 1}, keep=1)
    before = {file.name: file.read_bytes() for file in older.iterdir()}
    full_disk(100_000 if victim == "weights" else 8_000_000)
    with pytest.raises(CheckpointError, match="fit on the disk") as raised:
        checkpoint.save(tmp_path, 2, random_policy, state, keep=1)
    full_disk(resource.RLIM_INFINITY)
    assert "step-000002" in raised.value.reason
    assert "MB are free there" in raised.value.reason
    assert checkpoint.complete_in(tmp_path) == [older]
    assert {file.name: file.read_bytes() for file in older.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == [older.name]
    newer = checkpoint.save(tmp_path, 2, random_policy, state, keep=1)
    assert checkpoint.complete_in(tmp_path) == [newer]


def test_a_checkpoint_cut_off_before_its_renaming_is_none(
    random_policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = checkpoint.save(tmp_path, 1, random_policy, {"step": 1}, keep=2)

    def die(source: Any, target: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", die)
        with pytest.raises(KeyboardInterrupt):
            checkpoint.save(tmp_path, 2, random_policy, {"step": 2}, keep=2)
    assert checkpoint.latest(tmp_path) == older
    newer = checkpoint.save(tmp_path, 2, random_policy, {"step": 2}, keep=2)
    assert checkpoint.complete_in(tmp_path) == [older, newer]
    assert checkpoint.load_state(newer) == {"step": 2}


def test_a_damaged_state_is_named(random_policy: Policy, tmp_path: Path) -> None:
    folder = checkpoint.save(tmp_path, 1, random_policy, {"step": 1}, keep=1)
    (folder / checkpoint.STATE).write_bytes(b"nothing of use")
    with pytest.raises(CheckpointError, match=r"trainer\.pt differs .* the one before"):
        checkpoint.load_state(folder)
    (folder / CHECKSUMS).unlink()
    with pytest.raises(CheckpointError, match=r"(?s)has to be readable.* the one before"):
        checkpoint.load_state(folder)


def test_a_checkpoint_of_another_model_is_refused(model: Path, tmp_path: Path) -> None:
    run = train(tiny(model, tmp_path, training__steps=1)).run
    frozen = tiny(model, tmp_path, training__steps=2, model__freeze=["vision"])
    with pytest.raises(CheckpointError, match="belong to the model"):
        Trainer(frozen, resume=run, display=Quiet())


# Bad input


def test_bad_examples_are_named_counted_and_skipped(model: Path, tmp_path: Path) -> None:
    task = {"type": "small", "broken": [2], "examples": 20}
    display = Quiet()
    trainer = train(tiny(model, tmp_path, task=task, training__steps=12, evaluation__every=12), display)
    assert [note for note in display.notes if "skipped:" in note] == [
        "train example 2 is skipped: An example needs a picture. number 2 has none."
    ]
    assert trainer.stream.bad == 1
    assert trainer.stream.position == 25
    assert lines(trainer.run.path)[-1]["train/bad_examples"] == 1.0


def stream(policy: Policy, **task: Any) -> ViewStream:
    return ViewStream(Small(Small.Config(**task)), policy, seed=0, max_bad_share=0.1)


def test_a_bad_example_found_late_is_reported_once(random_policy: Policy) -> None:
    views = stream(random_policy, examples=100, broken=(90,))
    views.preflight()
    assert views.unreported() == []
    views.take(99)
    assert [report[:30] for report in views.unreported()] == ["train example 90 is skipped: A"]
    views.take(99)
    assert views.bad == 2
    assert views.unreported() == []


def test_too_many_bad_examples_are_refused(random_policy: Policy) -> None:
    with pytest.raises(DataError, match=r"7 of 64 are unusable; the first: train example 1 is skipped"):
        stream(random_policy, examples=None, broken=tuple(range(1, 8))).preflight()
    stream(random_policy, examples=None, broken=tuple(range(1, 7))).preflight()
    late = stream(random_policy, examples=None, broken=tuple(range(64, 200)))
    late.preflight()
    with pytest.raises(DataError, match="of 72 are unusable"):
        late.take(100)


def test_a_small_data_set_may_have_a_few_bad_examples(random_policy: Policy) -> None:
    views = stream(random_policy, examples=23, broken=(3, 11, 22))
    views.preflight()
    assert len(views.take(200)) == 200  # ten epochs, in which three bad examples are still three
    assert len(views.unreported()) == 3
    stream(random_policy, examples=8, broken=(1, 2, 3, 4)).preflight()
    with pytest.raises(DataError, match=r"of 8 at most 4 may not be. 5 of 8"):
        stream(random_policy, examples=8, broken=(1, 2, 3, 4, 5)).preflight()
    with pytest.raises(DataError, match=r"of 23 at most 6 may not be. 7 of 23"):
        stream(random_policy, examples=23, broken=tuple(range(1, 8))).preflight()
    large = stream(random_policy, examples=200, broken=tuple(range(64, 74)))  # all of them met late
    large.preflight()
    large.take(400)


def test_tasks_without_a_usable_example_are_refused(random_policy: Policy, model: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="at least one training example"):
        Trainer(tiny(model, tmp_path, task={"type": "small", "examples": 0}), display=Quiet())
    with pytest.raises(DataError, match="at least one usable example"):
        Trainer(tiny(model, tmp_path, task={"type": "small", "held_out": 0}), display=Quiet())
    assert not (tmp_path / "run").exists()
    for held_out in (3, None):  # a task without end must not be searched without end
        with pytest.raises(DataError, match="usable"):
            stream(random_policy, held_out=held_out, broken_held_out=True).held_out(2)
    tolerant = ViewStream(Small(Small.Config(broken=tuple(range(7)))), random_policy, seed=0, max_bad_share=1.0)
    with pytest.raises(DataError, match="7 of 7"):
        tolerant.preflight()


def test_the_stream_is_a_new_permutation_each_epoch(random_policy: Policy) -> None:
    views = stream(random_policy)
    ids = [view.example.id for view in views.take(21)]
    epochs = [ids[:7], ids[7:14], ids[14:]]
    everything = {f"train-{index}" for index in range(7)}
    assert all(set(epoch) == everything for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    again = stream(random_policy)
    again.load_state_dict({"position": 9, "bad": 0})
    assert [view.example.id for view in again.take(5)] == ids[9:14]
    other = ViewStream(Small(), random_policy, seed=1, max_bad_share=0.1)
    assert [view.example.id for view in other.take(7)] != ids[:7]
    assert [view.example.id for view in views.held_out(2, start=1)] == ["eval-1", "eval-2"]


# A run on disk


@pytest.mark.parametrize(
    "changes",
    [
        {"training__updates_per_batch": 4},
        {"sampler": {"type": "dynamic", "of": "clean"}},
    ],
)
def test_one_example_object_twice_in_a_step_is_two_groups(model: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    """Four groups a step of a data set of two: what is a step's own is found by position, never by object."""
    runs = []
    for name in ("small", "remembered"):
        task = {"type": name, "examples": 2, "held_out": 1}
        config = tiny(
            model, tmp_path, name, task=task, training__prompts_per_step=4, evaluation__adversarial_images=4, **changes
        )
        runs.append(train(config).run.path)
    assert_same_run(*runs)
    views = [view for group in RunDir(runs[0]).samples()[0] if group.source == "training" for view in group.views]
    if "sampler" not in changes:
        assert sum(len(view.pictures) for view in views) == 2 * 4 * 2  # steps with an evaluation, groups, views


def test_views_carry_their_position(random_policy: Policy) -> None:
    """The position counts on over epochs and over what cannot be used."""
    task = Small(Small.Config(examples=3, broken=(1,)))
    stream = ViewStream(task, random_policy, seed=0, max_bad_share=1.0)
    views = stream.take(3) + stream.take(2)
    order = [stream._index(position) for position in range(9)]
    expected = [position for position, index in enumerate(order) if index != 1][:5]
    assert [view.index for view in views] == expected
    assert [view.example.id for view in views] == [f"train-{order[position]}" for position in expected]
    assert [view.index for view in stream.held_out(2, start=1)] == [1, 2]


def test_numbers_that_json_lacks_become_null(model: Path, tmp_path: Path) -> None:
    run = RunDir.create(tiny(model, tmp_path))
    run.append({"step": 1, "a": math.nan, "b": math.inf, "c": 0.1 + 0.2, "d": "é\u2028"})
    assert run.metrics() == [{"step": 1, "a": None, "b": None, "c": 0.1 + 0.2, "d": "é\u2028"}]
    assert "NaN" not in (run.path / "metrics.jsonl").read_text()
    record = yaml.safe_load((run.path / "config.yaml").read_text())
    assert record["config"] == dump(tiny(model, tmp_path))
    assert record["versions"]["torch"] == torch.__version__


def test_global_generators_are_seeded_by_the_step(model: Path, tmp_path: Path) -> None:
    """A reward that draws from a global generator resumes like everything else."""

    class Moody(Checksum):
        class Config(Checksum.Config):
            type: Literal["moody"] = "moody"  # type: ignore[assignment]

        def grade(self, example: Example, text: str, *, truncated: bool = False) -> Any:
            from dataclasses import replace

            grade = super().grade(example, text, truncated=truncated)
            return replace(grade, reward=grade.reward + float(np.random.rand()) + float(torch.rand(1)))  # noqa: NPY002

    with registered(Moody):
        changes: dict[str, Any] = {"reward": "moody", "training__steps": 2, "evaluation__every": 9}
        whole = train(tiny(model, tmp_path, "whole", **changes)).run.path
        with pytest.raises(Interrupted):
            train(tiny(model, tmp_path, "halves", **changes), stop_at(1))
        run, config = RunDir.open(tmp_path / "halves")
        torch.manual_seed(99)
        train(config, resume=run)
        for ours, theirs in zip(lines(whole)[1:], lines(run.path)[1:], strict=True):
            assert {k: v for k, v in ours.items() if "train" in k} == {k: v for k, v in theirs.items() if "train" in k}


def test_strategies_see_the_share_of_the_training_done(model: Path, tmp_path: Path) -> None:
    class Ramp(Strength):
        seen: ClassVar[list[float]] = []

        class Config(StrategyConfig):
            type: Literal["ramp"] = "ramp"

        def at(self, progress: float) -> float:
            self.seen.append(progress)
            return progress

    with registered(Ramp):
        changes: dict[str, Any] = {"training__steps": 4, "evaluation__held_out_groups": 0}
        train(tiny(model, tmp_path, sampler__intervention={"strength": "ramp"}, **changes))
    assert Ramp.seen[0] == 0.0  # the check before training
    assert Ramp.seen[1:] == [0.0, 0.25, 0.5, 0.75]


def test_the_reference_is_the_model_that_the_run_began_with(model: Path, tmp_path: Path) -> None:
    objective = {"type": "grpo", "terms": [{"type": "kl", "coefficient": 0.1}]}
    changes: dict[str, Any] = {"objective": objective, "training__steps": 2, "optimizer__lr": 1e-2}
    whole = train(tiny(model, tmp_path, "whole", **changes)).run.path
    with pytest.raises(Interrupted):
        train(tiny(model, tmp_path, "halves", **changes), stop_at(1))
    run, config = RunDir.open(tmp_path / "halves")
    train(config, resume=run)
    assert_same_run(whole, run.path)
    first, second = (line["train/kl/mean"] for line in lines(whole)[1:])
    assert first == pytest.approx(0.0, abs=1e-6)
    assert second > 1e-4


def test_a_part_of_a_need_may_be_the_references(model: Path, tmp_path: Path) -> None:
    class AboveReference(DerivedStatistic):
        class Config(StrategyConfig):
            type: Literal["test/above-reference"] = "test/above-reference"

        def parts_of(self, need: Need) -> tuple[Need, ...]:
            return Need("logp", grad=need.grad), Need("logp", policy="reference")

        def combine(self, *values_T: Tensor) -> Tensor:
            return values_T[0] - values_T[1]

    class Above(Term):
        class Config(StrategyConfig):
            type: Literal["test/above"] = "test/above"

        @property
        def needs(self) -> frozenset[Need]:
            return frozenset({Need("test/above-reference", grad=True)})

        def loss(self, inputs: ObjectiveInput, aggregate: Any) -> Loss:
            return Loss(aggregate(inputs.statistics[Need("test/above-reference", grad=True)]))

    with registered(AboveReference), registered(Above):
        trainer = Trainer(tiny(model, tmp_path, objective={"type": "grpo", "terms": ["test/above"]}))
    assert trainer.policy.reference is not None


def test_a_state_that_could_not_be_read_back_is_refused(model: Path, tmp_path: Path) -> None:
    trainer = train(tiny(model, tmp_path, training__steps=1))
    trainer.sampler.state_dict = lambda: {"share": [1.0, object()]}  # type: ignore[method-assign]
    before = checkpoint.complete_in(trainer.run.checkpoints)
    with pytest.raises(CheckpointError, match=r"state\.sampler\.own\.share\.1 is a object"):
        trainer.save()
    assert checkpoint.complete_in(trainer.run.checkpoints) == before


def test_a_model_without_pixel_gradient_is_refused_before_training(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from saei.policy.pixels.map import PixelMap

    through = PixelMap.__call__
    monkeypatch.setattr(PixelMap, "__call__", lambda self, canvases: through(self, [one.detach() for one in canvases]))
    with pytest.raises(ModelError, match="depends differentiably"):
        Trainer(tiny(model, tmp_path))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_dropped_groups_are_counted_and_not_trained_on(model: Path, tmp_path: Path, share: float) -> None:
    class Dropping(Guard):
        class Config(StrategyConfig):
            type: Literal["dropping"] = "dropping"

        def drop(self, scored: Sequence[ScoredGroup], step: Any, supply: Any) -> list[Drops]:
            dropped = [one.all_dropped("every") for one in scored]
            return dropped if share == 1.0 else [{} if n % 2 else drops for n, drops in enumerate(dropped)]

    with registered(Dropping):
        changes: dict[str, Any] = {"sampler__intervention": {"guard": "dropping"}, "training__steps": 1}
        trainer = train(tiny(model, tmp_path, **changes))
    line = lines(trainer.run.path)[1]
    assert line["train/dropped"] == line["train/dropped/every"] == share
    assert ("train/loss" in line) == (share < 1)
    unmoved = load_file(model / "model.safetensors")
    moved = load_file(checkpoint.latest(trainer.run.checkpoints) / "model.safetensors")
    assert all(torch.equal(unmoved[name], moved[name]) for name in unmoved) == (share == 1)


@pytest.mark.parametrize(("kept", "updates_per_batch", "ppo_epochs"), [(1, 2, 1), (0, 2, 1), (1, 1, 2), (2, 2, 2)])
def test_the_learning_rate_follows_the_plan_whatever_is_dropped(
    model: Path, tmp_path: Path, kept: int, updates_per_batch: int, ppo_epochs: int
) -> None:
    """Of two groups a step some are kept; the rate falls to zero over the planned steps."""

    class Dropping(Guard):
        class Config(StrategyConfig):
            type: Literal["dropping"] = "dropping"

        def drop(self, scored: Sequence[ScoredGroup], step: Any, supply: Any) -> list[Drops]:
            return [{} if n < kept else one.all_dropped("late") for n, one in enumerate(scored)]

    changes: dict[str, Any] = {"sampler__intervention": {"guard": "dropping"}, "optimizer__schedule": "linear"}
    changes |= {"training__updates_per_batch": updates_per_batch, "training__ppo_epochs": ppo_epochs}
    with registered(Dropping):
        trainer = train(tiny(model, tmp_path, **changes))
    rates = [line["train/lr"] for line in lines(trainer.run.path)[1:]]
    assert rates == pytest.approx([1e-3 * 2 / 3, 1e-3 / 3, 0.0], abs=1e-12)


class Thermostat(EntropyBonus):
    """A bonus as large as the probe's entropy was small when it was last measured; remembers what it was shown."""

    class Config(EntropyBonus.Config):
        type: Literal["thermostat"] = "thermostat"  # type: ignore[assignment]

    def __init__(self, config: Any = None) -> None:
        super().__init__(config)
        self.factor = 0.0
        self.seen: list[list[str]] = []

    def observe(self, metrics: Mapping[str, float]) -> None:
        self.seen.append(sorted({name.split("/")[0] for name in metrics}))
        if "probe/entropy" in metrics:
            self.factor = 1 / (0.1 + metrics["probe/entropy"]) + metrics.get("train/reward", 0.0)

    def state_dict(self) -> dict[str, Any]:
        return {"factor": self.factor, "seen": self.seen}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.factor, self.seen = state["factor"], list(state["seen"])

    def loss(self, inputs: ObjectiveInput, aggregate: Aggregate) -> Loss:
        bonus = super().loss(inputs, aggregate)
        return Loss(self.factor * bonus.value, bonus.metrics)


def test_strategies_see_each_step_and_the_evaluation_that_follows_it(model: Path, tmp_path: Path) -> None:
    """Also the evaluation before the first step; a checkpoint has what was seen, and a resumed run goes on from it."""
    changes: dict[str, Any] = {"objective": {"type": "grpo", "terms": ["thermostat"]}, "evaluation__every": 2}
    changes |= {"training__steps": 4, "output__checkpoint_every": 4}
    with registered(Thermostat):
        whole = train(tiny(model, tmp_path, "whole", **changes))
        alone, evaluated = ["train"], ["eval", "probe", "train"]
        assert whole.objective.terms[0].seen == [["eval", "probe"], alone, evaluated, alone, evaluated]  # type: ignore[attr-defined]
        state = checkpoint.load_state(checkpoint.latest(whole.run.checkpoints))
        assert state["objective"]["parts"]["term 0"]["own"]["seen"][-1] == evaluated
        with pytest.raises(Interrupted, match="after step 2 of 4"):
            train(tiny(model, tmp_path, "halves", **changes), stop_at(2))
        run, config = RunDir.open(tmp_path / "halves")
        assert train(config, resume=run).objective.terms[0].seen == whole.objective.terms[0].seen  # type: ignore[attr-defined]
        assert_same_run(whole.run.path, tmp_path / "halves")


def test_an_older_checkpoint_knows_no_newer_parts() -> None:
    objective = GRPO()
    state = state_of(objective)
    del state["parts"]["advantage"]
    restore(objective, state)


def test_precision_and_trackers_are_each_runs_own(model: Path, tmp_path: Path) -> None:
    train(tiny(model, tmp_path, "full", training__steps=1))
    half = tiny(
        model, tmp_path, "half", training__steps=1, training__mixed_precision="bf16", output__trackers=["tensorboard"]
    )
    run = train(half).run.path
    assert all(value is not None for value in lines(run)[1].values())
    assert list((run / "tensorboard").glob("events.out.tfevents.*"))


def test_a_run_stops_where_too_few_examples_have_a_picture(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of seven examples four have none: 57 %, which is seen over the first whole epoch of seven."""
    monkeypatch.setattr(limits, "FEW", 14)
    changes: dict[str, Any] = {"task": {"type": "texts", "texts": (0, 2, 4, 6)}, "training__prompts_per_step": 7}
    changes |= {"training__steps": 5, "evaluation__every": 9}
    with pytest.raises(DataError, match="At most 50% of the examples may have no image") as stopped:
        train(tiny(model, tmp_path, "half", **changes))
    assert "8 of 14 had none" in (stopped.value.reason or "")
    assert [line["step"] for line in lines(tmp_path / "half")][-1] == 2
    assert checkpoint.step_of(checkpoint.latest(tmp_path / "half" / "checkpoints")) == 2
    whole = train(tiny(model, tmp_path, "whole", training__max_untouched=0.6, **changes)).run
    assert all(line["train/untouched/no-image"] == pytest.approx(4 / 7) for line in lines(whole.path)[1:])
    run, config = RunDir.open(tmp_path / "half")
    training = config.training.model_copy(update={"max_untouched": 0.6})
    resumed = train(config.model_copy(update={"training": training}), resume=run).run
    assert lines(resumed.path) == lines(whole.path)
    counted = [checkpoint.load_state(checkpoint.latest(one.checkpoints))["nothing_to_move"] for one in (whole, resumed)]
    assert counted[0] == counted[1] == {"groups": 35, "unmovable": 20, "reasons": ["no-image"]}
    clean = train(tiny(model, tmp_path, "clean", sampler={"type": "clean", "n": 4}, **changes)).run
    assert lines(clean.path)[-1]["step"] == 5
