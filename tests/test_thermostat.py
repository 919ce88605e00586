"""The thermostat and the control probe that it reads."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from models import tiny_folder
from runs import Checksum, Quiet, lines, registered, tiny, train
from saei.config.control_probe import readers_of_control_probe
from saei.config.overrides import load_config
from saei.config.sections import SamplingConfig
from saei.config.strategy import StrategyConfig, observe_all
from saei.data.bars import Bars
from saei.data.base import Split
from saei.engine import Trainer, checkpoint, control_probe
from saei.engine.control_probe import ControlProbe
from saei.errors import ConfigError, DataError, TrainingError
from saei.interventions.base import Strength
from saei.interventions.thermostat import Thermostat
from saei.policy import Policy
from saei.report.compare import read_curve
from saei.runtime.interrupt import Interrupted
from saei.runtime.processes import Processes
from saei.runtime.run_dir import RunDir
from saei.types import Example

HOLD = {"type": "thermostat", "gain": 0.4, "high": 1.25}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder("Qwen2.5-VL", tmp_path_factory.mktemp("model"))


@pytest.fixture(autouse=True)
def _reward() -> Any:
    with registered(Checksum):
        yield


def steered(model: Path, root: Path, name: str, strength: Mapping[str, Any] = HOLD, **changes: Any) -> Any:
    sampler = {"type": "mixed", "n_clean": 2, "n_adversarial": 2, "intervention": {"strength": strength}}
    changes = {"training__steps": 5, "output__checkpoint_every": 5, **changes}
    return tiny(model, root, name, sampler=sampler, control={"every": 2, "examples": 3, "responses": 2}, **changes)


def reading(entropy: float, progress: float, *, step: bool = True) -> dict[str, float]:
    return {"control/entropy": entropy, "control/progress": progress} | ({"train/reward": 0.5} if step else {})


def test_the_rule_by_hand() -> None:
    """Target .8 of .5 nats: .4. Entropies .5, .3, .1 and 1.2 are errors of -.25, .25, .75 and -2 of it."""
    strength = Thermostat(Thermostat.Config(target=0.8, gain=0.5, start=1.0, low=0.25, high=1.25))
    strength.observe(reading(0.5, 0.0, step=False))
    assert strength.at(0.0) == pytest.approx(1 - 0.125)
    strength.observe(reading(0.3, 0.25))
    assert strength.at(0.25) == pytest.approx(1.0)
    strength.observe({"train/reward": 0.5})  # a step without a reading
    assert strength.at(0.3) == pytest.approx(1.0)
    strength.observe(reading(0.1, 0.5))
    assert strength.at(0.5) == 1.25  # 1.375, clipped
    # The limit is left at once: what is clipped is the sum itself.
    strength.observe(reading(1.2, 0.75))
    assert strength.at(0.75) == pytest.approx(0.25)


def test_the_share_of_steps_at_a_limit() -> None:
    """Steps 1 and 2 had a strength inside, steps 3 and 4 one at a limit; the fifth is the present one."""
    strength = Thermostat(Thermostat.Config(target=0.5, unit="nats", gain=0.5, low=0.5, high=1.5))
    strength.observe(reading(0.5, 0.0, step=False))
    assert strength.metrics() == {"strength_at_limit": 0.0}
    for entropy, strength_at in ((0.5, 1.0), (0.0, 1.5), (2.0, 0.5), (0.5, 0.5)):
        strength.observe(reading(entropy, 0.2))
        assert strength.at(0.2) == strength_at
    assert strength.metrics() == {"strength_at_limit": 3 / 5}
    strength.observe(reading(0.4, 0.9))
    assert strength.metrics() == {"strength_at_limit": 3 / 6}


def test_a_schedule_is_straight_between_its_points() -> None:
    config = Thermostat.Config(target=((0.2, 1.0), (0.6, 0.5), (1.0, 0.4)), unit="nats", gain=0.5)
    strength = Thermostat(config)
    levels = {0.0: 1.0, 0.2: 1.0, 0.3: 0.875, 0.6: 0.5, 0.9: 0.425, 1.0: 0.4}
    assert {progress: pytest.approx(strength.target(progress)) for progress in levels} == levels
    early = Thermostat(config.model_copy(update={"target": ((0.2, 1.0), (0.6, 0.5))}))
    assert early.target(0.9) == 0.5
    strength.observe(reading(0.7, 0.3, step=False))  # a fifth of .875 is missing
    assert strength.at(0.3) == pytest.approx(1.0 + 0.5 * 0.2)


def test_a_state_is_the_whole_memory() -> None:
    whole, halves = Thermostat(), Thermostat()
    first, second = [reading(0.5, 0.0, step=False), reading(0.2, 0.2)], [reading(0.3, 0.4), reading(0.6, 0.6)]
    for metrics in (*first, *second):
        whole.observe(metrics)
    for metrics in first:
        halves.observe(metrics)
    resumed = Thermostat()
    resumed.load_state_dict(halves.state_dict())
    for metrics in second:
        resumed.observe(metrics)
    assert (resumed.at(1.0), resumed.metrics()) == (whole.at(1.0), whole.metrics())
    assert resumed.state_dict() == whole.state_dict() != halves.state_dict()


def test_no_entropy_has_no_share() -> None:
    with pytest.raises(TrainingError, match=r"0\.0e\+00 nats per token.*unit=nats"):
        Thermostat().observe(reading(0.0, 0.0, step=False))
    Thermostat(Thermostat.Config(unit="nats", target=0.3)).observe(reading(0.0, 0.0, step=False))


class Listener(Strength):
    """Notes the families of metrics that it is shown."""

    class Config(StrategyConfig):
        type: Literal["listener"] = "listener"

    def __init__(self, config: Any = None) -> None:
        super().__init__(config)
        self.seen: list[str] = []

    def at(self, progress: float) -> float:
        return 1.0

    def observe(self, metrics: Mapping[str, float]) -> None:
        self.seen += metrics


class SteeringListener(Listener):
    """The same of one that steers."""

    class Config(Listener.Config):
        type: Literal["steering-listener"] = "steering-listener"  # type: ignore[assignment]

    reads_control_probe = True


def test_what_steers_sees_no_evaluation_and_the_others_no_control_probe() -> None:
    metrics = {"train/reward": 0.1, "eval/accuracy": 0.2, "probe/entropy": 0.3, "control/entropy": 0.4}
    plain, steering = Listener(), SteeringListener()
    for listener in (plain, steering):
        observe_all(listener, metrics)
    assert plain.seen == ["train/reward", "eval/accuracy", "probe/entropy"]
    assert steering.seen == ["train/reward", "control/entropy"]


def test_a_run_follows_its_control_probe(model: Path, tmp_path: Path) -> None:
    """Every number of the run by the rule: readings after steps 0, 2 and 4 of 5, and none after the last."""
    display = Quiet()
    trainer = train(steered(model, tmp_path, "run", output__keep_checkpoints=1), display)
    written = lines(trainer.run.path)
    readings = {line["step"]: line["control/entropy"] for line in written if "control/entropy" in line}
    assert list(readings) == [0, 2, 4]
    assert {line["control/progress"] for line in written if "control/progress" in line} == {0.0, 0.4, 0.8}
    assert all(0 < entropy < math.log(10_000) for entropy in readings.values())
    expected, strength, before = [], 1.0, readings[0]
    for step in range(5):
        if step in readings:
            strength = min(1.25, max(0.0, strength + 0.4 * (1 - readings[step] / before)))
        expected.append(strength)
    assert [line["train/intervention/strength"] for line in written[1:]] == pytest.approx(expected, abs=1e-12)
    assert len(set(expected)) > 1, "nothing was steered"
    assert [line["train/intervention/strength_at_limit"] for line in written[1:]] == [0.0] * 5
    # Three examples of two responses each cost budget; two groups of four are a step's own.
    assert [line.get("control/responses") for line in written] == [6.0, None, 6.0, None, 6.0, None]
    assert [line["train/sampled_responses"] for line in written[1:]] == [8.0, 14.0, 8.0, 14.0, 8.0]
    assert [line["train/budget"] for line in written[1:]] == [14.0, 28.0, 36.0, 50.0, 58.0]
    assert sum(line.get("train/sampled_responses", 0.0) for line in written) == 58.0
    assert any("steered" in note and "no evidence against collapse" in note for note in display.notes)
    curve = read_curve("SaEI", trainer.run.path)
    assert curve.label == "SaEI (entropy steered)"
    assert [point["step"] for point in curve.points] == [0, 2, 4, 5]


def test_other_runs_say_nothing_of_it(model: Path, tmp_path: Path) -> None:
    display = Quiet()
    run = train(steered(model, tmp_path, "run", {"type": "constant"}, training__steps=1), display).run
    assert read_curve("SaEI", run.path).label == "SaEI"
    assert not any("steered" in note for note in display.notes)
    assert not any("control" in name for line in lines(run.path) for name in line)
    assert [line.get("train/intervention/strength") for line in lines(run.path)] == [None, 1.0]


def test_the_reading_is_the_mean_token_entropy(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all tokens of fresh responses at temperature 1, whatever the training's own temperature is."""
    config = steered(model, tmp_path, "run", sampling__temperature=0.7)
    trainer = Trainer(config, display=Quiet())
    drawn: list[Any] = []
    sample = Policy.sample

    def watched(self: Policy, views: Any, counts: Any, **options: Any) -> Any:
        responses = sample(self, views, counts, **options)
        drawn.extend((view, response) for view, of_view in zip(views, responses, strict=True) for response in of_view)
        return responses

    monkeypatch.setattr(Policy, "sample", watched)
    probe = trainer._control_probe
    assert probe is not None
    measured = probe.metrics(0)["control/entropy"]
    assert len(drawn) == 6
    at_1 = Policy(trainer.policy.parts, trainer.policy.template, sampling=SamplingConfig(max_new_tokens=8))
    scores = at_1.score([view for view, _ in drawn], [[response] for _, response in drawn])
    entropies = torch.cat([each.entropies()[0] for each in scores])
    assert len(entropies) == sum(len(response) for _, response in drawn)
    assert measured == pytest.approx(float(entropies.mean()), rel=1e-4)
    assert probe.metrics(0) == probe.metrics(0) != probe.metrics(2)
    # After the last of five steps there is nothing to steer.
    assert [step for step in range(7) if probe.is_due(step)] == [0, 2, 4]
    probe._config = config.model_copy(update={"training": config.training.model_copy(update={"steps": 4})})
    assert [step for step in range(7) if probe.is_due(step)] == [0, 2]


class Recurring(Bars):
    """Six examples, of which evaluation has the first three again under other names."""

    class Config(Bars.Config):
        type: Literal["recurring"] = "recurring"  # type: ignore[assignment]
        again: int = 3

    def example(self, index: int, split: Split = "train") -> Example:
        example = super().example(index, "train")
        return Example(f"{split}-{index}", example.question, example.answer, example.images, example.meta)

    def size(self, split: Split = "train") -> int:
        return 6 if split == "train" else self.config.again  # type: ignore[attr-defined]


def test_no_example_is_evaluated_and_steered_by(model: Path, tmp_path: Path) -> None:
    with registered(Recurring):
        small = {"control": {"every": 2, "examples": 6}, "evaluation": {"examples": 6, "probe_examples": 3}}
        sampler = {"type": "mixed", "intervention": {"strength": "thermostat"}}
        for again, left in ((3, {3, 4, 5}), (5, {5})):
            config = tiny(model, tmp_path, task={"type": "recurring", "again": again}, sampler=sampler, **small)
            probe = Trainer(config.model_copy(), display=Quiet())._control_probe
            RunDir(tmp_path / "run").path.rename(tmp_path / f"run-{again}")
            assert probe is not None
            assert {view.index for view in probe._views} == left
        with pytest.raises(DataError, match="Every training example of 'recurring' is also one of evaluation"):
            Trainer(tiny(model, tmp_path, task={"type": "recurring", "again": 6}, sampler=sampler, **small))


def test_examples_are_apart_from_the_stream(model: Path, tmp_path: Path) -> None:
    """A run with a thermostat trains on the examples of the run without one, and an endless task's are out of reach."""
    with_it = Trainer(steered(model, tmp_path, "a"), display=Quiet())
    without = Trainer(steered(model, tmp_path, "b", "constant"), display=Quiet())  # type: ignore[arg-type]
    assert without._control_probe is None
    assert with_it.stream.position == without.stream.position == 0
    taken = [[view.example.id for view in each.stream.take(4)] for each in (with_it, without)]
    assert taken[0] == taken[1]
    assert with_it._control_probe is not None
    assert min(view.index for view in with_it._control_probe._views) >= 2**40
    other_seed = Trainer(steered(model, tmp_path, "c", seed=7), display=Quiet())
    assert other_seed._control_probe is not None
    assert [v.example.id for v in other_seed._control_probe._views] == [
        v.example.id for v in with_it._control_probe._views
    ]


def test_a_resumed_run_is_the_run_that_was_never_stopped(model: Path, tmp_path: Path) -> None:
    import os
    import signal

    whole = train(steered(model, tmp_path, "whole"))
    stop = Quiet({3: lambda: os.kill(os.getpid(), signal.SIGINT)})
    with pytest.raises(Interrupted, match="after step 3 of 5"):
        train(steered(model, tmp_path, "halves"), stop)
    run, config = RunDir.open(tmp_path / "halves")
    state = checkpoint.load_state(checkpoint.latest(run.checkpoints))["sampler"]["parts"]["strength"]["own"]
    assert (state["steps"], state["steps_at_limit"]) == (3, 0)
    assert state["entropy_before"] == lines(run.path)[0]["control/entropy"]
    train(config, resume=run)
    assert lines(whole.run.path) == lines(tmp_path / "halves")


def test_processes_read_what_one_does(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each process draws for its share; the entropy comes from the sums of both."""
    trainer = Trainer(steered(model, tmp_path, "run"), display=Quiet())
    alone = trainer._control_probe
    assert alone is not None
    shares: list[Any] = []

    class Second(Processes):
        """The second of two; what the first would send was drawn before."""

        def gather(self, value: Any) -> list[Any]:
            shares.append(value)
            return [*shares[:-1], value]

    halves = []
    for rank in (0, 1):
        probe = ControlProbe(
            trainer.config,
            trainer.policy,
            stream=trainer.stream,
            held_out=trainer._evaluation.views,
            processes=Second(2, rank),
        )
        halves.append(probe.metrics(2))
    assert list(map(len, shares)) == [2, 4]
    assert halves[1]["control/responses"] == 6
    assert halves[1]["control/entropy"] == pytest.approx(alone.metrics(2)["control/entropy"], rel=1e-5)
    assert halves[0]["control/entropy"] != halves[1]["control/entropy"]
    assert control_probe.SEED != 20_512  # the outcome probe's


@pytest.mark.parametrize(
    ("assignments", "said"),
    [
        (["strength=thermostat", "control.every=80"], "control.every is 80, training.steps 80"),
        (["strength=thermostat", "training.steps=5"], "The strength 'thermostat' steers by the control probe"),
        (["strength=thermostat", "attack=pgd", "attack.steps=0"], "'pgd' moves nothing"),
        (["strength=thermostat", "attack=pgd", "attack.step=0"], "'pgd' moves nothing"),
        (["strength=thermostat", "attack=hotflip", "attack.swaps=0"], "'hotflip' moves nothing"),
        (["strength=thermostat", "attack=repeat", "attack.of={type: pgd, steps: 0}"], "'repeat' moves nothing"),
        (["strength=thermostat", "sampler=clean"], "sampler"),
        (["strength=thermostat", "strength.start=5"], "low is 0, start 5, high 4"),
        (["strength=thermostat", "strength.high=1", "strength.low=1"], "high above low"),
        (["strength=thermostat", "strength.target=[[0, 1], [0, 0.5]]"], "rises from each to the next.*Got 0, 0"),
        (["strength=thermostat", "strength.target=[[0.5, 1], [0.1, 0.5]]"], "Got 0.5, 0.1"),
        (["strength=thermostat", "strength.target=[[0, 1]]"], "target"),
        (["strength=thermostat", "strength.target=[[0, 1], [1.5, 1]]"], "target"),
        (["strength=thermostat", "strength.target=0"], "target"),
    ],
)
def test_what_cannot_steer_is_refused_when_it_is_read(assignments: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_config(assignments=assignments)


def test_readers_are_found_wherever_they_are() -> None:
    arms = {"type": "arms", "arms": {"far": {"intervention": {"strength": "thermostat"}}}}
    config = load_config(flags=[{"sampler": {"type": "dynamic", "of": arms}}])
    assert readers_of_control_probe(config) == ["strength 'thermostat'"]
    assert readers_of_control_probe(load_config()) == []


def test_trl_refuses_it() -> None:
    pytest.importorskip("trl")
    from saei.integrations.trl.arguments import grpo_arguments

    config = load_config(assignments=["strength=thermostat"])
    with pytest.raises(ConfigError, match="strength 'thermostat' \\(it draws no control probe\\)"):
        grpo_arguments(config, folder=Path(), processes=1, extra={})
