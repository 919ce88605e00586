"""Replay: what is kept of earlier steps, what is drawn of it, and how it is trained on."""

from __future__ import annotations

import copy
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Barrier
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from groups import draw, token_logp
from runs import Checksum, Quiet, lines, registered, tiny, train
from saei.config.overrides import load_config
from saei.config.run import validate
from saei.config.sections import ReplayConfig, SamplingConfig
from saei.config.strategy import StrategyConfig
from saei.data.bars import Bars
from saei.data.templates import ThinkBoxed
from saei.engine import checkpoint
from saei.engine.replay import Replay
from saei.engine.replay_group import KeptGroup
from saei.engine.setup import build_strategies
from saei.engine.update import Updater, UpdateResult
from saei.engine.update_rows import BatchCounts, GroupRows
from saei.errors import ConfigError
from saei.integrations.trl.arguments import grpo_arguments
from saei.policy import Policy
from saei.policy.load.weights import Parts
from saei.rewards.base import Reward
from saei.runtime.processes import Processes
from saei.runtime.run_dir import RunDir
from saei.types import CLEAN, Example, Grade, Group, Response, ScoredGroup, TrainGroup, View, ViewWeight
from test_update import adversarial, update

CPU = torch.device("cpu")


class Never(Reward):
    """Grades everything alike, but for the first steps' examples by the sum of their characters."""

    class Config(StrategyConfig):
        type: Literal["dries-up"] = "dries-up"

    def grade(self, example: Example, text: str, *, truncated: bool = False) -> Grade:
        number = int(example.id.rsplit("-", 1)[1])
        return Checksum().grade(example, text) if number < 4 else Grade(0.0, False)


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    with registered(Checksum, Never):
        yield


def hand_made(index: int, advantages: Sequence[float]) -> TrainGroup:
    """A group of responses of one token, their number."""
    ids = torch.zeros(1, dtype=torch.long)
    view = View(Example(f"e-{index}", "q", "a"), CLEAN, ids, ids[None], index=index)
    zero = torch.zeros(1)
    n = len(advantages)
    responses = tuple(Response(torch.tensor([k]), "", zero, zero, truncated=False) for k in range(n))
    group = Group(view.example, (view,), responses, (0,) * n, (0,) * n)
    return TrainGroup(ScoredGroup(group, (Grade(0.0, False),) * n), tuple(advantages))


def logps(*groups: TrainGroup) -> dict[tuple[int, int], Tensor]:
    return {(group.group.index, n): torch.tensor([-float(n)]) for group in groups for n in range(len(group.advantages))}


def replay(planned: int = 8, processes: Processes | None = None, **config: Any) -> Replay:
    settings = ReplayConfig(**config)
    return Replay(settings, planned=planned, seed=0, device=CPU, processes=processes or Processes())


def drawn(groups: Sequence[TrainGroup]) -> list[tuple[int, int]]:
    """The index of the group and the original number of each response."""
    return [(each.group.index, int(response.ids_T)) for each in groups for response in each.group.responses]


FIRST, SECOND = hand_made(3, (0.0, 1.5, -0.5, 0.0)), hand_made(5, (0.0, 0.0, 0.25, 0.0))
NOTHING = [hand_made(8, (0.0,) * 4), hand_made(9, (0.0,) * 4)]


def filled(**config: Any) -> Replay:
    ours = replay(**config)
    ours.keep([FIRST], logps(FIRST), step=0)
    ours.keep([SECOND], logps(SECOND), step=2)
    return ours


def test_what_has_an_advantage_is_kept_and_fills_up_a_step() -> None:
    ours = filled(fill=1.0)
    groups = ours.draw(NOTHING, step=4)
    assert drawn(groups) == [(3, 1), (3, 2), (5, 2)]
    assert [group.advantages for group in groups] == [(1.5, -0.5), (0.25,)]
    assert [[float(logp) for logp in group.old_logp or ()] for group in groups] == [[-1.0, -2.0], [-2.0]]
    assert ours.metrics(8) == {"replay/share": 3 / 11, "replay/age": (4 + 4 + 2) / 3, "replay/kept": 3.0}


@pytest.mark.parametrize(
    ("fill", "teaching", "wanted"), [(0.5, 0, 3), (0.5, 2, 2), (0.5, 4, 0), (0.25, 1, 1), (1.0, 6, 2)]
)
def test_no_more_is_drawn_than_is_missing(fill: float, teaching: int, wanted: int) -> None:
    """Of 8 responses a share has to teach; some do by themselves, and 3 are kept."""
    fresh = [hand_made(8, (1.0,) * teaching + (0.0,) * (8 - teaching))]
    ours = filled(fill=fill)
    assert len(drawn(ours.draw(fresh, step=4))) == wanted == ours.drawn


def test_large_advantages_are_drawn_more_often() -> None:
    counts: dict[float, Counter[tuple[int, int]]] = {}
    for alpha in (0.0, 1.0, 2.0):
        ours, counts[alpha] = filled(fill=0.125, alpha=alpha), Counter()
        for step in range(3, 1203):
            counts[alpha].update(drawn(ours.draw(NOTHING, step)))
    for alpha, counted in counts.items():
        weights = [advantage**alpha for advantage in (1.5, 0.5, 0.25)]
        for entry, weight in zip([(3, 1), (3, 2), (5, 2)], weights, strict=True):
            share = weight / sum(weights)
            assert counted[entry] == pytest.approx(1200 * share, abs=4 * (1200 * share * (1 - share)) ** 0.5)


def test_a_power_that_no_number_holds_is_no_error() -> None:
    ours = replay(fill=0.25, alpha=100.0)
    fresh = hand_made(1, (1e-9, 2e-9, 1e-12, 0.0))
    ours.keep([fresh], logps(fresh), step=0)
    assert sorted(drawn(ours.draw(NOTHING, step=1))) == [(1, 0), (1, 1)]


def test_the_oldest_make_room() -> None:
    ours = filled(fill=1.0, capacity=2)
    assert drawn(ours.draw(NOTHING, step=4)) == [(3, 2), (5, 2)]
    third = hand_made(7, (2.0, 2.0, 0.0, 0.0))
    ours.keep([third], logps(third), step=4)
    assert drawn(ours.draw(NOTHING, step=5)) == [(7, 0), (7, 1)]
    assert ours.metrics(8)["replay/kept"] == 2


def test_what_was_not_trained_on_is_not_kept() -> None:
    ours = replay(fill=1.0)
    ours.keep([FIRST], {(3, 2): torch.tensor([-2.0])}, step=0)
    assert drawn(ours.draw(NOTHING, step=1)) == [(3, 2)]


def test_without_a_configuration_nothing_happens() -> None:
    ours = Replay(None, planned=8, seed=0, device=CPU, processes=Processes())
    ours.keep([FIRST], logps(FIRST), step=0)
    assert (ours.draw(NOTHING, step=1), ours.metrics(8), ours.state(), ours.drawn) == ([], {}, [], 0)


class Threads(Processes):
    """Two processes of one program."""

    def __init__(self, rank: int, barrier: Barrier, values: dict[int, Any]) -> None:
        super().__init__(2, rank)
        self._barrier, self._values = barrier, values

    def gather(self, value: Any) -> list[Any]:
        self._values[self.rank] = value
        self._barrier.wait()
        gathered = [self._values[rank] for rank in range(2)]
        self._barrier.wait()
        return gathered


def test_two_processes_keep_and_draw_what_one_does() -> None:
    barrier, values = Barrier(2, timeout=60), dict[int, Any]()
    third = hand_made(4, (0.75, 0.0, 0.0, -0.75))

    def work(rank: int) -> tuple[list[list[tuple[int, int]]], list[Any], dict[str, float]]:
        ours = replay(fill=0.5, capacity=4, processes=Threads(rank, barrier, values))
        for step, groups in enumerate(([FIRST, third], [SECOND])):
            own = groups[rank : rank + 1]
            ours.keep(own, logps(*own), step)
        fresh = [hand_made(8, (1.0, -1.0, 0.0, 0.0)), hand_made(9, (0.0,) * 4)][rank : rank + 1]
        return [drawn(ours.draw(fresh, step)) for step in range(3, 9)], ours.state(), ours.metrics(4)

    with ThreadPoolExecutor(2) as threads:
        (left, state, metrics), (right, other_state, other_metrics) = threads.map(work, range(2))
    alone = replay(fill=0.5, capacity=4)
    for step, groups in enumerate(([FIRST, third], [SECOND])):
        alone.keep(groups, logps(*groups), step)
    fresh = [hand_made(8, (1.0, -1.0, 0.0, 0.0)), hand_made(9, (0.0,) * 4)]
    whole = [drawn(alone.draw(fresh, step)) for step in range(3, 9)]
    assert [sorted([*ours, *theirs]) for ours, theirs in zip(left, right, strict=True)] == whole
    assert all(left) or all(right) or any(ours and theirs for ours, theirs in zip(left, right, strict=True))
    assert all(len(each) == 2 for each in whole)
    assert len({tuple(each) for each in whole}) > 1
    assert metrics == other_metrics == alone.metrics(8)
    assert [each["index"] for each in state] == [each["index"] for each in other_state] == [3, 4, 5]
    assert [each["advantages"] for each in state] == [each["advantages"] for each in alone.state()]
    one, two = (replay(processes=Processes(2, rank)) for rank in range(2))
    one.load(state)
    two.load(state)
    assert (sorted(one._kept), sorted(two._kept)) == ([3], [4, 5])


# --- what a kept group keeps -----------------------------------------------------------------------------------------


@pytest.fixture
def policy(random_parts: Parts) -> Policy:
    """A policy whose weights may be moved."""
    parts = replace(random_parts, model=copy.deepcopy(random_parts.model))
    return Policy(parts, ThinkBoxed(), sampling=SamplingConfig(max_new_tokens=8, temperature=0.9))


@pytest.fixture
def group(policy: Policy, bars: Bars) -> TrainGroup:
    """Two clean responses and two to a noisy view, of which one view is not trained under."""
    clean = policy.view(bars.example(0), 3)
    moved = adversarial(clean)
    moved = replace(moved, canvases=tuple((canvas * 255).round() / 255 for canvas in moved.canvases))
    views = [clean, moved, replace(moved, origin="noisy")]
    responses = [response for of_view in draw(policy, views, [2, 1, 1]) for response in of_view]
    responses[1] = replace(responses[1], parent=0, forced=1, temperature=1.5)
    made = Group(
        example=clean.example,
        views=tuple(views),
        responses=tuple(responses),
        sampled_from=(0, 0, 1, 2),
        updated_on=(0, 0, 1, 0),
        view_weights=(ViewWeight(), ViewWeight(), ViewWeight(0.5, 3.0), ViewWeight(1.0, 2.0)),
        untrained=(0, 1, 0, 0),
    )
    grades = (Grade(1.0, True), Grade(0.1, False), Grade(0.0, False), Grade(0.5, False))
    of_tokens = tuple(torch.linspace(-1, 1, len(response)) for response in responses)
    return TrainGroup(ScoredGroup(made, grades), (1.5, -0.5, -1.0, 0.25), of_tokens)


def stored(kept: KeptGroup) -> KeptGroup:
    """A group that was written to a checkpoint and read again."""
    file = io.BytesIO()
    checkpoint._check_plain(kept.plain(), "replay")
    torch.save(kept.plain(), file)
    file.seek(0)
    return KeptGroup.from_plain(torch.load(file, weights_only=True))


def test_a_group_comes_back_bit_for_bit(group: TrainGroup) -> None:
    old = [torch.rand(len(response)) for response in group.group.responses]
    kept = stored(KeptGroup.of(7, group, old))
    assert (kept.step, kept.index) == (7, 3)
    canvases = [canvas for view in kept.train.group.views for canvas in view.canvases]
    assert [canvas.dtype for canvas in canvases] == [torch.uint8] * 2  # the third view's is not needed
    back = kept.restored(CPU)
    assert all(map(torch.equal, back.old_logp or (), old))
    assert all(map(torch.equal, back.token_advantages or (), group.token_advantages or ()))
    assert (back.advantages, back.scored.rewards) == (group.advantages, group.scored.rewards)
    assert back.scored.grades[0].correct
    for name in ("sampled_from", "updated_on", "untrained"):
        assert getattr(back.group, name) == getattr(group.group, name)
    assert [(w.beta, w.cap) for w in back.group.view_weights] == [(w.beta, w.cap) for w in group.group.view_weights]
    for view, other in zip(back.group.views, group.group.views, strict=True):
        assert (view.origin, view.index) == (other.origin, other.index)
        assert torch.equal(view.prompt_ids_P, other.prompt_ids_P)
        assert torch.equal(view.positions_KP, other.positions_KP)
        assert view.token_inputs.keys() == other.token_inputs.keys()
        assert all(map(torch.equal, view.token_inputs.values(), other.token_inputs.values()))
        assert not view.example.images
    for view, other in zip(back.group.views[:2], group.group.views[:2], strict=True):
        assert torch.equal(view.canvases[0], other.canvases[0])
    for response, other_response in zip(back.group.responses, group.group.responses, strict=True):
        for name in ("ids_T", "behaviour_logp_T", "entropy_T"):
            assert torch.equal(getattr(response, name), getattr(other_response, name))
        for name in ("text", "truncated", "parent", "forced", "temperature"):
            assert getattr(response, name) == getattr(other_response, name)


def test_some_of_a_group_keep_what_is_theirs(group: TrainGroup) -> None:
    old = [torch.full((len(response),), float(n)) for n, response in enumerate(group.group.responses)]
    back = KeptGroup.of(7, group, old).keep([1, 2]).restored(CPU)
    assert back.advantages == (-0.5, -1.0)
    assert [float(logp[0]) for logp in back.old_logp or ()] == [1.0, 2.0]
    assert [len(values) for values in back.token_advantages or ()] == [len(r) for r in group.group.responses[1:3]]
    assert back.group.untrained == (1, 0)
    assert back.group.responses[0].parent is None


def test_what_is_replayed_counts_alone(group: TrainGroup) -> None:
    """Neither what had no advantage, nor what is not drawn, nor what a guard dropped counts again."""
    guarded = replace(
        group, scored=replace(group.scored, group=replace(group.group, dropped=(group.group.responses[0],)))
    )
    old = [torch.zeros(len(response)) for response in group.group.responses]
    kept = KeptGroup.of(7, guarded, old).keep([1, 2])
    assert BatchCounts.of([GroupRows.of(kept.restored(CPU), CPU)], mask_truncated=False).n_responses == 2
    assert kept.restored(CPU).group.dropped == () == KeptGroup.from_plain(kept.plain()).train.group.dropped

    ours = replay(fill=1.0)
    ours.keep([FIRST], logps(FIRST), step=0)
    (drawn_group,) = ours.draw(NOTHING, step=4)
    assert len(drawn_group.group.responses) == 2
    assert not drawn_group.group.dropped


@pytest.mark.parametrize("name", ["kl", "papo"])
def test_a_divergence_estimated_by_drawn_tokens_is_refused(name: str) -> None:
    def check(estimate: str, **training: Any) -> None:
        term = {"type": name, "estimate": estimate}
        build_strategies(validate({"objective": {"type": "grpo", "terms": [term]}, "training": training}))

    check("k3")
    check("full", replay={})
    with pytest.raises(ConfigError, match="an older policy drew"):
        check("k3", replay={})


@pytest.mark.parametrize("part", [{"weights": ["vppo"]}, {"terms": ["roma"]}])
def test_a_comparison_of_two_views_is_refused(part: dict[str, list[str]]) -> None:
    """A replayed response's own log-probabilities are those of its first use, the changed picture's are not."""

    def check(**training: Any) -> None:
        build_strategies(validate({"objective": {"type": "grpo", **part}, "training": training}))

    check()
    with pytest.raises(ConfigError, match="an older policy drew") as refused:
        check(replay={})
    assert refused.value.remedy == "Leave one of the two out."


# --- how it is trained on --------------------------------------------------------------------------------------------


def clipped_loss(policy: Policy, group: TrainGroup, old: Sequence[Tensor]) -> Tensor:
    """GRPO's loss of a group by hand, one forward per response."""
    losses = []
    for n, (response, advantage) in enumerate(zip(group.group.responses, group.advantages, strict=True)):
        ratio_T = (token_logp(policy, group.group.views[group.group.updated_on[n]], response) - old[n]).exp()
        losses.append(-torch.minimum(ratio_T * advantage, ratio_T.clamp(0.8, 1.2) * advantage).mean())
    return torch.stack(losses).sum()


@pytest.mark.parametrize("epochs", [1, 2])
def test_the_ratio_is_to_the_policy_of_the_first_use(policy: Policy, bars: Bars, epochs: int) -> None:
    """Beside a fresh group, whose ratio is 1 at the first optimiser step, in one pass and in the gradient by hand."""
    views = [policy.view(bars.example(i), i) for i in (4, 9)]
    (kept, fresh) = draw(policy, views, [3, 3])
    grades, advantages = (Grade(0.0, False),) * 3, (1.5, -0.5, -1.0)
    groups = [
        TrainGroup(ScoredGroup(Group(view.example, (view,), tuple(own), (0,) * 3, (0,) * 3), grades), advantages)
        for view, own in zip(views, (kept, fresh), strict=True)
    ]
    with torch.no_grad():
        now = [[token_logp(policy, view, r) for r in own] for view, own in zip(views, (kept, fresh), strict=True)]
    shifts = [torch.linspace(-0.4, 0.5, len(response)) for response in kept]
    old = [logp + shift for logp, shift in zip(now[0], shifts, strict=True)]
    groups[0] = replace(groups[0], old_logp=tuple(old))
    metrics, (ours, *_) = update(policy, groups, ppo_epochs=epochs)
    policy.model.zero_grad()
    loss = (clipped_loss(policy, groups[0], old) + clipped_loss(policy, groups[1], now[1])) / 6
    theirs = torch.autograd.grad(loss, list(policy.module.parameters()), allow_unused=True)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, torch.zeros_like(mine) if other is None else other, atol=2e-5, rtol=1e-3)
    assert metrics["replayed/ratio_mean"] == pytest.approx(
        float(torch.stack([(-shift).exp().mean() for shift in shifts]).mean()), rel=1e-3
    )
    assert metrics["clean/ratio_mean"] == pytest.approx(1, abs=1e-5)
    assert metrics["replayed/clip_share"] > 0 == metrics["clean/clip_share"]


@pytest.mark.parametrize("epochs", [1, 2])
def test_the_update_notes_the_old_policy(
    policy: Policy, bars: Bars, epochs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = policy.view(bars.example(0), 5)
    (responses,) = draw(policy, [view], [3])
    made = Group(view.example, (view,), tuple(responses), (0,) * 3, (0,) * 3)
    train_group = TrainGroup(ScoredGroup(made, (Grade(0.0, False),) * 3), (1.5, -0.5, -1.0))
    with torch.no_grad():
        before = [token_logp(policy, view, response) for response in responses]
    results: list[UpdateResult] = []
    run = Updater.run

    def watched(self: Any, *arguments: Any, **rest: Any) -> UpdateResult:
        results.append(run(self, *arguments, **rest))
        return results[-1]

    monkeypatch.setattr(Updater, "run", watched)
    update(policy, [train_group], lr=0.5, ppo_epochs=epochs, replay=ReplayConfig())
    assert results[0].old_logp.keys() == {(5, 0), (5, 1), (5, 2)}
    for n, logp_T in enumerate(before):
        torch.testing.assert_close(results[0].old_logp[5, n], logp_T, atol=1e-4, rtol=1e-4)
    with torch.no_grad():
        assert float((token_logp(policy, view, responses[0]) - before[0]).abs().max()) > 0.01
    update(policy, [replace(train_group, old_logp=tuple(before))], replay=ReplayConfig())
    assert not results[1].old_logp  # what is replayed keeps what it has
    update(policy, [train_group])
    assert not results[2].old_logp


SETTING: dict[str, Any] = {
    "reward": "dries-up",
    "sampler": {"type": "mixed", "n_clean": 2, "n_adversarial": 2, "update_on": "clean"},
    "training": {"steps": 5, "prompts_per_step": 2, "replay": {"fill": 0.5}},
}


def test_a_run_replays_stops_and_goes_on(model: Path, tmp_path: Path) -> None:
    """From its third step on no reward differs: what is trained on then are the responses of the first two."""
    whole = train(tiny(model, tmp_path, "whole", **SETTING)).run.path
    logged = lines(whole)[1:]
    assert [line["train/sampled_responses"] for line in logged] == [8] * 5
    assert logged[-1]["train/budget"] == 40
    assert logged[1]["train/replay/kept"] >= 4
    assert logged[0]["train/replay/share"] == 0 == logged[0]["train/replay/age"]
    for line in logged[2:]:
        assert line["train/reward_std"] == 0
        assert line["train/replay/share"] == pytest.approx(4 / 12)
        assert line["train/grad_norm"] > 0
        assert line["train/clean/ratio_mean"] == pytest.approx(1, abs=1e-5)
        assert abs(line["train/replayed/ratio_mean"] - 1) > 1e-4
    ages = [line["train/replay/age"] for line in logged[2:]]
    assert 1 <= ages[0] <= 2
    assert 3 <= ages[2] <= 4
    train(tiny(model, tmp_path, "halves", **{**SETTING, "training": {**SETTING["training"], "steps": 3}}))
    run, config = RunDir.open(tmp_path / "halves")
    longer = config.model_copy(update={"training": config.training.model_copy(update={"steps": 5})})
    train(longer, Quiet(), resume=run)
    assert lines(run.path)[-1] == logged[-1]
    states = [checkpoint.load_state(checkpoint.latest(own / "checkpoints"))["replay"] for own in (whole, run.path)]
    assert checkpoint._same(*states)
    assert states[0]


def test_a_step_whose_groups_were_all_dropped_is_filled_up(model: Path, tmp_path: Path) -> None:
    sampler = {"type": "dynamic", "of": {"type": "clean", "n": 4}, "max_rounds": 1}
    logged = lines(train(tiny(model, tmp_path, **{**SETTING, "sampler": sampler})).run.path)[1:]
    assert logged[3]["train/dropped"] == 1
    assert logged[3]["train/replay/share"] == 1
    assert logged[3]["train/grad_norm"] > 0


def test_the_command_line_reaches_it_and_trl_refuses_it(model: Path, tmp_path: Path) -> None:
    assert load_config(assignments=["training.steps=2"]).training.replay is None
    config = load_config(assignments=["training.replay.alpha=2"])
    assert config.training.replay == ReplayConfig(alpha=2.0)
    training = {"steps": 1, "prompts_per_step": 2, "replay": {}}
    with pytest.raises(ConfigError, match=r"training\.replay"):
        grpo_arguments(tiny(model, tmp_path, evaluation={}, training=training), folder=tmp_path, processes=1, extra={})
