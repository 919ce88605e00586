"""Dynamic sampling: what is redrawn, what is dropped, what is counted, and that it resumes."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from safetensors.torch import load_file

from runs import Checksum, Quiet, lines, registered, tiny, train
from saei.config.overrides import load_config
from saei.config.run import validate
from saei.config.strategy import StrategyConfig, state_of
from saei.data.bars import Bars
from saei.engine import checkpoint
from saei.engine.display import title
from saei.engine.limits import EmptySteps
from saei.engine.setup import build_strategies
from saei.errors import ConfigError, TrainingError
from saei.interventions.base import Guard
from saei.interventions.gates import ZeroVariance
from saei.policy import Policy
from saei.rewards.base import Reward
from saei.rewards.sum import Sum
from saei.runtime.interrupt import Interrupted
from saei.runtime.run_dir import RunDir
from saei.runtime.seeds import GroupSources
from saei.samplers.base import StepContext, Supply
from saei.samplers.clean import Clean
from saei.samplers.dynamic import Dynamic
from saei.samplers.mixed import Mixed
from saei.testing import check_sampler
from saei.types import Example, Grade, Response, ScoredGroup, View

ASKED: list[tuple[str, str]] = []
"""Every grading of a run, as (example, text)."""


class Picky(Reward):
    """All responses to two of three examples are right, those to the others by chance."""

    class Config(StrategyConfig):
        type: Literal["picky"] = "picky"
        every: int = 3

    def grade(self, example: Example, text: str, *, truncated: bool = False) -> Grade:
        ASKED.append((example.id, text))
        every: int = self.config.every
        number = int(example.id.rsplit("-", 1)[1])
        return Grade(len(text) / 50, number % every > 0 or sum(map(ord, text)) % 2 == 0)


class LastOut(Guard):
    """Drops the last response."""

    class Config(StrategyConfig):
        type: Literal["last-out"] = "last-out"

    def drop(self, scored: Sequence[ScoredGroup], step: StepContext, supply: Supply) -> list[dict[int, str]]:
        return [{len(one.grades) - 1: "last"} for one in scored]


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    with registered(Checksum, Picky, LastOut):
        yield


class Stream:
    """Views A, B, C, … of which those in capitals vary; keeps how many were asked for."""

    def __init__(self, policy: Policy, names: str) -> None:
        self.policy = policy
        self.left = list(names)
        self.asked: list[int] = []

    def take(self, n: int) -> list[View]:
        names, self.left = self.left[:n], self.left[n:]
        return [self.policy.view(Example(name, "What is 1 + 2?", "3")) for name in names]

    def more(self, n: int) -> list[View]:
        self.asked.append(n)
        return self.take(n)

    def step(self) -> tuple[StepContext, Supply]:
        return StepContext(self.policy, 0.0, GroupSources(0)), Supply(grade, self.more)


def grade(view: View, responses: Sequence[Response]) -> list[Grade]:
    varies = view.example.id.isupper()
    return [Grade(n / 10, not varies or n == 0) for n in range(len(responses))]  # rewards always differ


def dynamic(of: Any = None, **fields: Any) -> Dynamic:
    return Dynamic(Dynamic.Config(of=of or Clean.Config(n=2), **fields))


def drawn(stream: Stream, sampler: Dynamic, first: int = 3) -> tuple[str, str]:
    """Return the examples of all groups, and of those that the guard keeps."""
    step, supply = stream.step()
    groups = sampler.draw(stream.take(first), step, supply)
    scored = [ScoredGroup(group, tuple(grade(group.views[0], group.responses))) for group in groups]
    dropped = sampler.guard(scored, step, supply)
    kept = [one for one, drops in zip(scored, dropped, strict=True) if one.without(drops).grades]
    return "".join(group.example.id for group in groups), "".join(one.group.example.id for one in kept)


@pytest.mark.parametrize(
    ("names", "rounds", "asked", "groups", "kept"),
    [
        ("ABCDEF", 10, [], "ABC", "ABC"),
        ("aBcDeFGHI", 10, [2, 1], "aBcDeF", "BDF"),
        ("abcdEFGH", 10, [3, 1], "abcdEFG", "EFG"),
        ("aBcdefGHI", 3, [2, 2], "aBcdefG", "BG"),  # the rounds are over
        ("aBcDefG", 1, [], "aBc", "B"),
        ("abcd", 10, [3, 3], "abcd", ""),  # the examples are over
    ],
)
def test_rounds_by_hand(
    random_policy: Policy, names: str, rounds: int, asked: list[int], groups: str, kept: str
) -> None:
    stream = Stream(random_policy, names)
    assert drawn(stream, dynamic(max_rounds=rounds)) == (groups, kept)
    assert stream.asked == asked


def test_under_a_graded_reward_groups_vary_in_the_reward(random_policy: Policy) -> None:
    """Of three groups, all of them wrong, the rewards of two are equal."""
    rewards = {"a": (0.2, 0.2), "b": (0.2, 0.3), "c": (0.5, 0.5)}

    def graded(view: View, responses: Sequence[Response]) -> list[Grade]:
        return [Grade(reward, False) for reward in rewards[view.example.id]]

    sampler = dynamic(max_rounds=1)
    for is_graded, kept in ((True, "b"), (False, "")):
        stream = Stream(random_policy, "abc")
        step, supply = stream.step()[0], Supply(graded, stream.more, graded=is_graded)
        groups = sampler.draw(stream.take(3), step, supply)
        scored = [ScoredGroup(group, tuple(graded(group.views[0], group.responses))) for group in groups]
        dropped = sampler.guard(scored, step, supply)
        assert "".join(one.group.example.id for one, drops in zip(scored, dropped, strict=True) if not drops) == kept
        assert all(drops == dict.fromkeys(range(2), "no-variance") for drops in dropped if drops)
        reasons = ZeroVariance().leave_alone(
            [group.views[0] for group in groups], [group.responses for group in groups], step, supply
        )
        assert reasons == ["varies" if group.example.id == kept else None for group in groups]


class Rough(Picky):
    """Never right, but nearer or farther."""

    graded = True

    class Config(StrategyConfig):
        type: Literal["rough"] = "rough"

    def grade(self, example: Example, text: str, *, truncated: bool = False) -> Grade:
        return Grade(len(text) / 50, False, {"length": len(text) / 50})


def test_a_run_with_a_graded_reward_trains_and_logs_its_variance(model: Path, tmp_path: Path) -> None:
    with registered(Checksum, Rough):
        sampler = {"type": "dynamic", "of": {"type": "clean", "n": 4}, "max_rounds": 1}
        run = train(tiny(model, tmp_path, reward="rough", sampler=sampler)).run.path
    trained = lines(run)[1:]
    assert all(line["train/dropped"] < 1 and line["train/all_wrong"] == 1 for line in trained)
    assert all(line["train/zero_variance"] == line["train/dropped"] for line in trained)
    assert all(line["train/reward_std"] > 0 for line in trained)
    assert all(line["train/parts/length"] == pytest.approx(line["train/reward"]) for line in trained)


def test_a_sum_is_graded_as_its_first_reward_is() -> None:
    with registered(Checksum, Picky, Rough):
        both = [
            Sum.Config.model_validate({"of": names}).build().graded
            for names in (["rough", "picky"], ["picky", "rough"])
        ]
    assert both == [True, False]


def test_the_inner_sampler_is_asked_for_everything_else(random_policy: Policy, bars: Bars) -> None:
    slots = {"gate": "zero-variance", "guard": "last-out"}
    sampler = dynamic(Mixed.Config.model_validate({"n_clean": 2, "n_adversarial": 3, "intervention": slots}))
    assert sampler.plan().group_size == 5
    assert state_of(sampler)["parts"]["of"]["parts"].keys() == state_of(sampler.of)["parts"].keys() != set()
    stream = Stream(random_policy, "A")
    (group,) = sampler.draw(stream.take(1), *stream.step())
    scored = ScoredGroup(group, tuple(grade(group.views[0], group.responses)))
    assert sampler.guard([scored], *stream.step()) == [{4: "last"}]
    check_sampler(sampler, random_policy, [random_policy.view(bars.example(i)) for i in range(2)])


def test_the_inner_guard_sees_groups_without_variance(random_policy: Policy, bars: Bars) -> None:
    """Else a gap would be that of the groups that vary."""
    slots = {"guard": {"type": "accuracy-gap", "min_groups": 1}}
    sampler = dynamic(Mixed.Config.model_validate({"n_clean": 2, "n_adversarial": 2, "intervention": slots}))
    stream = Stream(random_policy, "AB")
    step, supply = stream.step()
    groups = sampler.of.draw([random_policy.view(bars.example(n), n) for n in range(2)], step, supply)
    right, wrong = Grade(1.0, True), Grade(0.0, False)
    scored = [ScoredGroup(groups[0], (right,) * 4), ScoredGroup(groups[1], (right, right, right, wrong))]
    supply = Supply(grade, stream.more)
    assert sampler.guard(scored, step, supply) == [dict.fromkeys(range(4), "no-variance"), {}]
    (counts,) = sampler.of.arms[0].intervention.guard.state_dict().values()  # type: ignore[attr-defined]
    assert counts == [2, 3, 4, 4, 4]


def test_a_control_by_other_groups_needs_them_together() -> None:
    slots = {"control": "other-example"}
    with pytest.raises(ConfigError, match="draws in rounds"):
        dynamic(Mixed.Config.model_validate({"intervention": slots}))
    alone = {"sampler": {"type": "mixed", "intervention": slots}, "training": {"prompts_per_step": 1}}
    with pytest.raises(ConfigError, match="two groups in a step"):
        build_strategies(validate(alone))
    build_strategies(validate({**alone, "training": {"prompts_per_step": 2}}))


def test_the_inner_sampler_is_checked_before_training(random_policy: Policy, bars: Bars) -> None:
    seen: list[View] = []
    sampler = dynamic()
    sampler.of.check = lambda policy, view: seen.append(view)  # type: ignore[method-assign]
    view = random_policy.view(bars.example(0))
    sampler.check(random_policy, view)
    assert seen == [view]


def test_the_configuration_reaches_the_inner_sampler() -> None:
    config = load_config(
        assignments=["sampler=dynamic", "sampler.of=mixed", "sampler.of.intervention.attack.step=4/255"]
    ).sampler
    assert isinstance(config, Dynamic.Config)
    assert isinstance(config.of, Mixed.Config)
    assert config.of.model_dump(mode="json")["intervention"]["attack"]["step"] == "4/255"
    assert Dynamic.Config.model_validate(config.model_dump(mode="json")) == config


SETTING: dict[str, Any] = {
    "reward": "picky",
    "sampler": {"type": "dynamic", "of": {"type": "mixed", "n_clean": 2, "n_adversarial": 2}},
    "training": {"steps": 4, "prompts_per_step": 2},
}


def test_a_run_counts_what_it_sampled_and_trains_on_full_batches(model: Path, tmp_path: Path) -> None:
    run = train(tiny(model, tmp_path, **SETTING)).run.path
    budget = 0.0
    for line in lines(run)[1:]:
        groups = line["train/sampled_responses"] / 4
        budget += line["train/sampled_responses"]
        assert line["train/budget"] == budget
        assert line["train/dropped"] == pytest.approx(1 - 2 / groups)
        assert line["train/zero_variance"] == pytest.approx(line["train/dropped"])  # of all groups
    assert budget > 4 * 2 * 4
    assert checkpoint.load_state(checkpoint.latest(run / "checkpoints"))["stream"]["position"] == budget / 4


def test_every_sampler_counts(model: Path, tmp_path: Path) -> None:
    run = train(tiny(model, tmp_path, training__steps=2)).run.path
    assert [(line["train/sampled_responses"], line["train/budget"]) for line in lines(run)[1:]] == [(8, 8), (8, 16)]


def test_no_response_is_graded_twice(model: Path, tmp_path: Path) -> None:
    ASKED.clear()
    run = train(
        tiny(
            model,
            tmp_path,
            **SETTING,
            evaluation={"every": 9, "examples": 1, "responses": 1, "probe_examples": 1, "probe_responses": 1}
            | {"held_out_groups": 0},
        )
    ).run.path
    evaluated = 2 * 2  # one example and one probe example, before and after
    assert len(ASKED) == lines(run)[-1]["train/budget"] + evaluated


def test_a_step_without_a_group_left_trains_on_nothing(model: Path, tmp_path: Path) -> None:
    setting = SETTING | {"reward": {"type": "picky", "every": 10**9}, "training": {"steps": 1, "prompts_per_step": 2}}
    sampler = {"type": "dynamic", "of": {"type": "clean", "n": 2}, "max_rounds": 3}
    trainer = train(tiny(model, tmp_path, **(setting | {"sampler": sampler})))
    line = lines(trainer.run.path)[1]
    assert (line["train/sampled_responses"], line["train/dropped"]) == (3 * 2 * 2, 1.0)
    assert "train/loss" not in line


def test_several_steps_without_a_group_stop_the_run_and_it_goes_on(model: Path, tmp_path: Path) -> None:
    setting = SETTING | {"reward": {"type": "picky", "every": 10**9}}
    setting["sampler"] = {"type": "dynamic", "of": {"type": "clean", "n": 2}, "max_rounds": 1}
    setting["training"] = {"steps": 9, "prompts_per_step": 2, "max_empty_steps": 3}
    display = Quiet()
    with pytest.raises(TrainingError, match="last 3 steps were dropped"):
        train(tiny(model, tmp_path, **setting), display)
    assert [note for note in display.notes if "nothing to train on" in note] == [
        f"Step {step} had nothing to train on: all of its groups were dropped." for step in (1, 2, 3)
    ]
    run, config = RunDir.open(tmp_path / "run")
    assert checkpoint.step_of(checkpoint.latest(run.checkpoints)) == 3
    more = config.model_copy(update={"training": config.training.model_copy(update={"max_empty_steps": 5})})
    with pytest.raises(TrainingError, match="last 5 steps were dropped"):
        train(more, resume=run)


def test_steps_without_a_group_count_in_a_row() -> None:
    steps = EmptySteps(2)
    for step, empty in enumerate([True, False, True, False, True]):
        steps.count(step, empty=empty)
        assert steps.problem() is None
    steps.count(5, empty=True)
    assert isinstance(steps.problem(), TrainingError)


def test_a_resumed_run_is_the_run_that_was_never_stopped(model: Path, tmp_path: Path) -> None:
    whole = train(tiny(model, tmp_path, "whole", **SETTING)).run.path
    stop = Quiet({2: lambda: os.kill(os.getpid(), signal.SIGINT)})
    with pytest.raises(Interrupted, match="after step 2 of 4"):
        train(tiny(model, tmp_path, "halves", **SETTING), stop)
    run, config = RunDir.open(tmp_path / "halves")
    train(config, resume=run)
    assert lines(whole) == lines(run.path)
    ours, theirs = (
        load_file(checkpoint.latest(own / "checkpoints") / "model.safetensors") for own in (whole, run.path)
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert RunDir(whole).samples() == RunDir(run.path).samples()


def test_an_intervention_of_the_other_sampler_is_found() -> None:
    config = load_config(assignments=["sampler=dynamic", "sampler.of=mixed", "sampler.of.intervention.attack=fgsm"])
    assert "Sampler dynamic (middle-third + fgsm)" in title(config)
    assert "Sampler dynamic, objective" in title(load_config(assignments=["sampler=dynamic"]))
    assert config.sampler.model_dump().keys() == {"type", "of", "max_rounds"}
    with pytest.raises(ConfigError, match=r"stands at `sampler\.of\.intervention`"):
        load_config(assignments=["sampler=dynamic", "sampler.of=mixed", "attack=fgsm"])
