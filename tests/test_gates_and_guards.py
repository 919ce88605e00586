"""Gates and guards by hand, what the loss divides by, and runs with each of them."""

from __future__ import annotations

import itertools
import math
import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from groups import cut, draw, own_forward
from runs import Checksum, Quiet, lines, registered, tiny, train
from saei.config.run import RunConfig
from saei.config.strategy import Strategy, state_of
from saei.data.bars import Bars
from saei.engine.update_rows import BatchCounts, GroupRows
from saei.interventions import Intervention
from saei.interventions.context import StepContext, Supply
from saei.interventions.gates import AllRight, AllWrong, EntropyFloor
from saei.interventions.guards.accuracy_gap import AccuracyGap
from saei.interventions.guards.answer_kept import AnswerKept
from saei.interventions.guards.none import NoGuard
from saei.interventions.guards.random_drop import RandomDrop
from saei.interventions.guards.view_kl import ViewKL
from saei.objectives.dapo import DAPO
from saei.objectives.dr_grpo import DrGRPO
from saei.objectives.grpo import GRPO
from saei.policy import Policy
from saei.runtime.interrupt import Interrupted
from saei.runtime.run_dir import RunDir
from saei.runtime.seeds import GroupSources
from saei.types import Example, Grade, Group, Response, ScoredGroup, TrainGroup, View

EXAMPLE = Example("e", "What is 1 + 1?", "2")
IDS = torch.tensor([1, 2])


def response(entropy: Sequence[float] = (1.0, 1.0)) -> Response:
    entropy_T = torch.tensor(entropy)
    return Response(torch.arange(len(entropy_T)), "", torch.zeros(len(entropy_T)), entropy_T, truncated=False)


def view(origin: str = "clean", index: int = 0) -> View:
    return View(EXAMPLE, origin, IDS, IDS[None], index=index)


def scored(index: int, /, **answers: str) -> ScoredGroup:
    """A group whose responses by origin give one-letter answers, ``-`` for none; 2 is right, and so is T, for two."""
    origins = list(answers)
    letters = [(place, letter) for place, word in enumerate(answers.values()) for letter in word]
    sampled_from = tuple(place for place, _ in letters)
    group = Group(
        EXAMPLE,
        tuple(view(origin, index) for origin in origins),
        tuple(response() for _ in letters),
        sampled_from,
        sampled_from,
    )
    grades = [
        Grade(float(letter in "2T"), letter in "2T", answer=None if letter == "-" else letter) for _, letter in letters
    ]
    return ScoredGroup(group, tuple(grades))


def step(seed: int = 0) -> StepContext:
    policy: Any = None
    return StepContext(policy, 0.5, GroupSources(seed, "guard"))


NOTHING = Supply(grade=lambda view, responses: [])


# Gates


def test_the_floor_by_hand() -> None:
    """Means of all tokens: .2 and .3, where the means of the responses are .3 and .25."""
    groups = [[response([0.1, 0.1, 0.1]), response([0.5])], [response([0.4, 0.4, 0.4, 0.2, 0.1]), response([])]]
    groups.append([response([0.0, 0.9]), response([0.0, 0.0])])
    views = [view(index=number) for number in range(3)]

    def verdicts(**fields: Any) -> list[str | None]:
        config = EntropyFloor.Config.model_validate(fields)
        return list(config.build().leave_alone(views, groups, step(), None))

    assert verdicts(floor=0.25) == [None, "above-floor", None]
    assert verdicts(floor=0.3) == [None, "above-floor", None]
    assert verdicts(floor=0.31) == [None, None, None]
    # The two most uncertain tokens of each response: (.1 + .1 + .5) / 3, .4, .9 / 4.
    top = {"type": "top-k", "count": 2}
    assert verdicts(floor=0.3, selector=top) == [None, "above-floor", None]
    assert verdicts(floor=0.23, selector=top) == ["above-floor", "above-floor", None]
    assert not EntropyFloor.needs_supply


def test_gates_of_accuracy_by_hand() -> None:
    right = [(True, True), (True, False), (False, False)]
    views = [view(index=number) for number in range(3)]
    supply = Supply(grade=lambda each, _: [Grade(0.3 * n, flag) for n, flag in enumerate(right[each.index])])
    drawn = [[response(), response()]] * 3
    assert AllWrong().leave_alone(views, drawn, step(), supply) == ["all-right", "varies", None]
    assert AllRight().leave_alone(views, drawn, step(), supply) == [None, "varies", "all-wrong"]
    assert set(AllWrong.reasons) == {"all-right", "varies"}
    assert set(AllRight.reasons) == {"all-wrong", "varies"}


# Guards


def test_the_divergence_of_views_decides_by_origin(random_policy: Policy, bars: Bars) -> None:
    """By the textbook's sum over the vocabulary: tokens of both views of an origin together."""
    groups, expected = [], []
    for index in range(2):
        clean = random_policy.view(bars.example(index), index)
        (canvas,) = clean.canvases
        views = [clean]
        for number, (origin, size) in enumerate((("a", 2), ("a", 40), ("b", 12))):
            generator = torch.Generator().manual_seed(10 * index + number)
            noise = torch.randint(-size, size + 1, canvas.shape, generator=generator) / 255
            views.append(replace(clean, origin=origin, canvases=((canvas + noise).clamp(0, 1),)))
        drawn = draw(random_policy, views, [1, 1, 2, 2], seed=index)
        drawn[1] = [cut(drawn[1][0], 2)]
        drawn[2][1] = cut(drawn[2][1], 5)
        sampled_from = (0, 1, 2, 2, 3, 3)
        responses = tuple(each for own in drawn for each in own)
        groups.append(
            ScoredGroup(
                Group(clean.example, tuple(views), responses, sampled_from, sampled_from), (Grade(0.0, False),) * 6
            )
        )
        by_origin: dict[str, list[torch.Tensor]] = {}
        for each, source in zip(responses[1:], sampled_from[1:], strict=True):
            p_TV = own_forward(random_policy, views[source], each).detach().double().log_softmax(-1)
            q_TV = own_forward(random_policy, clean, each).detach().double().log_softmax(-1)
            by_origin.setdefault(views[source].origin, []).append((p_TV.exp() * (p_TV - q_TV)).sum(-1))
        expected.append({origin: float(torch.cat(parts).mean()) for origin, parts in by_origin.items()})
    context = StepContext(random_policy, 0.0, GroupSources(0))
    guard = ViewKL()
    for found, right in zip(guard.divergences(groups, context), expected, strict=True):
        assert found == pytest.approx(right, rel=1e-3)
    values = sorted(value for by_origin in expected for value in by_origin.values())
    for limit in (values[0] * 0.9, *((low + high) / 2 for low, high in itertools.pairwise(values))):
        numbers = {"a": (1, 2, 3), "b": (4, 5)}
        drops = ViewKL(ViewKL.Config(limit=limit)).drop(groups, context, NOTHING)
        assert drops == [
            {n: "view-kl" for origin, value in by_origin.items() if value > limit for n in numbers[origin]}
            for by_origin in expected
        ]
    assert not any(values.ndim > 1 for known in random_policy.known.values() for values in known.values())


def test_the_gap_is_a_running_estimate_by_hand() -> None:
    """Half-life two groups: a step of two groups halves what was known."""
    config = AccuracyGap.Config(limit=0.3, half_life=2, min_groups=2)
    guard = AccuracyGap(config)
    ones = [scored(0, clean="22", adversarial="13"), scored(1, clean="21", adversarial="11"), scored(2, clean="22")]
    assert guard.drop(ones, step(), NOTHING) == [{}, {}, {}]  # the gap is .75, and it was not known before the step
    # Known: 2 groups, 0 of 4 right, clean 3 of 4. The group without the origin counts nowhere.
    assert guard.state_dict() == {"adversarial": [2, 0.0, 4.0, 3.0, 4.0]}
    others = [scored(3, clean="22", adversarial="22"), scored(4, clean="22", adversarial="2T")]
    assert guard.drop(others, step(), NOTHING) == [dict.fromkeys((2, 3), "accuracy-gap")] * 2
    # Halved, plus 4 of 4 and 4 of 4: 4 of 6 against 5.5 of 6, a gap of .25.
    assert guard.state_dict() == {"adversarial": [4, 4.0, 6.0, 5.5, 6.0]}
    resumed = AccuracyGap(config)
    resumed.load_state_dict(guard.state_dict())
    for each in (guard, resumed):
        assert each.drop(ones, step(), NOTHING) == [{}, {}, {}]
    assert resumed.state_dict() == guard.state_dict()


def test_few_groups_are_no_estimate() -> None:
    guard = AccuracyGap(AccuracyGap.Config(limit=0.1, half_life=100, min_groups=3))
    for drops in ({}, {}, {}, {1: "accuracy-gap"}):
        assert guard.drop([scored(0, clean="2", adversarial="1")], step(), NOTHING) == [drops]


def test_the_gap_is_of_all_processes_and_by_origin() -> None:
    """Two processes see half of the groups each, one of them no group of origin b; both end where one does."""
    halves = [
        [scored(0, clean="22", a="21", b="11")],
        [scored(1, clean="21", a="22")],
    ]
    alone = AccuracyGap()
    alone.drop([*halves[0], *halves[1]], step(), NOTHING)
    assert set(alone.state_dict()) == {"a", "b"}
    gathered: list[Any] = []

    def note(value: Any) -> list[Any]:
        gathered.append(value)
        return [value]

    for half in halves:
        AccuracyGap().drop(half, step(), replace(NOTHING, gather=note))
    assert len(gathered) == 2
    for half in (*halves, []):
        guard = AccuracyGap()
        guard.drop(half, step(), replace(NOTHING, gather=lambda value: gathered))
        assert guard.state_dict() == alone.state_dict()


@pytest.mark.parametrize(
    ("clean", "adversarial", "majority", "gold"),
    [
        ("221", "331", True, True),  # neither the clean majority's answer nor the right one
        ("221", "332", False, False),
        ("113", "311", False, False),  # the majority is wrong and kept; no clean response is right
        ("112", "222", True, False),  # the majority's wrong answer is lost, and the right one is kept
        ("112", "111", False, True),
        ("1133", "345", False, False),  # either of two equally frequent ones
        ("1133", "245", True, False),
        ("2T1", "T33", False, False),  # two spellings of the right answer are one
        ("2T11", "133", False, True),
        ("---", "345", False, False),  # the clean responses say nothing
        ("--1", "345", True, False),  # what cannot be read does not vote
        ("111", "---", True, False),
    ],
)
def test_the_answer_that_is_kept_by_hand(clean: str, adversarial: str, majority: bool, gold: bool) -> None:
    group = scored(0, clean=clean, adversarial=adversarial, other=clean)
    numbers = range(len(clean), len(clean) + len(adversarial))
    for answer, lost in (("majority", majority), ("gold", gold)):
        guard = AnswerKept(AnswerKept.Config.model_validate({"answer": answer}))
        assert guard.drop([group], step(), NOTHING) == [dict.fromkeys(numbers, "answer-lost") if lost else {}]


def test_without_a_guard_nothing_is_dropped() -> None:
    """Of groups that others would drop: the answer is lost, and of forty some are dropped by chance."""
    groups = [scored(number, clean="22", a="11") for number in range(40)]
    assert NoGuard().drop(groups, step(), NOTHING) == [{}] * 40
    assert AnswerKept().drop(groups, step(), NOTHING) == [{2: "answer-lost", 3: "answer-lost"}] * 40
    assert any(RandomDrop().drop(groups, step(), NOTHING))
    assert Intervention().config.guard == NoGuard.Config()


def test_a_random_share_of_origins_is_dropped() -> None:
    """Each origin of each group for itself, from the group's own source; the clean responses never."""
    groups = [scored(number, clean="12", a="12", b="12") for number in range(400)]
    guard = RandomDrop(RandomDrop.Config(share=0.3))
    drops = guard.drop(groups, step(), NOTHING)
    of_origins = {"a": {2, 3}, "b": {4, 5}}
    lost = {origin: [numbers <= of_group.keys() for of_group in drops] for origin, numbers in of_origins.items()}
    for of_origin in lost.values():
        assert sum(of_origin) / 400 == pytest.approx(0.3, abs=4 * math.sqrt(0.3 * 0.7 / 400))
    both = sum(map(all, zip(*lost.values(), strict=True))) / 400
    assert both == pytest.approx(0.09, abs=4 * math.sqrt(0.09 * 0.91 / 400))
    assert all(len(of_group) in (0, 2, 4) and not of_group.keys() & {0, 1} for of_group in drops)
    assert guard.drop(groups[200:], step(), NOTHING) == drops[200:]
    assert guard.drop(groups, step(1), NOTHING) != drops


def test_as_many_origins_are_dropped_as_by_another_guard() -> None:
    """In numbers by origin and step, over all processes, whichever process has the groups."""
    lost, same = {"clean": "22", "a": "11", "b": "22"}, {"clean": "22", "a": "22", "b": "21"}
    groups = [scored(number, **(lost if number % 3 == 0 else same)) for number in range(12)]
    groups += [scored(number, clean="22") for number in range(12, 42)]  # left alone, with nothing to drop
    config = RandomDrop.Config.model_validate({"like": "answer-kept"})
    drops = RandomDrop(config).drop(groups, step(), NOTHING)
    assert [sum(n in of_group for of_group in drops) for n in range(6)] == [0, 0, 4, 4, 0, 0]
    assert {reason for of_group in drops for reason in of_group.values()} == {"random"}
    chosen = {number for number, of_group in enumerate(drops) if of_group}
    assert chosen != {0, 3, 6, 9}
    others = RandomDrop(config).drop(groups, step(1), NOTHING)
    assert {number for number, of_group in enumerate(others) if of_group} != chosen

    parts: list[Any] = []
    halves = [groups[:5], groups[5:]]
    for half in halves:
        RandomDrop(config).drop(half, step(), replace(NOTHING, gather=lambda value: parts.append(value) or [value]))
    of_halves = [RandomDrop(config).drop(half, step(), replace(NOTHING, gather=lambda _: parts)) for half in halves]
    assert [*of_halves[0], *of_halves[1]] == drops


def test_groups_that_lose_everything_lose_it_together() -> None:
    def whole(self: Any, scored: Any, *rest: Any) -> Any:
        pairs = zip(scored, original(self, scored, *rest), strict=True)
        return [each.all_dropped("x") if drops else {} for each, drops in pairs]

    original = AnswerKept.drop
    config = RandomDrop.Config.model_validate({"like": "answer-kept"})
    groups = [scored(number, clean="22", a="11" if number < 3 else "22") for number in range(9)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AnswerKept, "drop", whole)
        drops = RandomDrop(config).drop(groups, step(), NOTHING)
    assert sorted(map(len, drops)) == [0] * 6 + [4] * 3


def test_the_matched_guard_is_a_part() -> None:
    """Its state is saved with the control's, and it is asked in every step."""
    gap = {"type": "accuracy-gap", "half_life": 4, "min_groups": 1}
    guard: Strategy = RandomDrop(RandomDrop.Config.model_validate({"like": gap}))
    assert isinstance(guard, RandomDrop)
    guard.drop([scored(0, clean="22", adversarial="11")], step(), NOTHING)
    assert state_of(guard)["parts"]["like"]["own"] == {"adversarial": [1, 0.0, 2.0, 2.0, 2.0]}
    groups = [scored(number, clean="22", adversarial="22") for number in range(3)]
    assert guard.drop(groups, step(), NOTHING) == [{2: "random", 3: "random"}] * 3
    assert RandomDrop(RandomDrop.Config.model_validate({"like": "view-kl"})).needs == ViewKL().needs
    for useless in ({"like": "none"}, {"share": 0}):
        with pytest.raises(ValueError, match=r"drops nothing to be matched|greater than 0"):
            RandomDrop.Config.model_validate(useless)
    with pytest.raises(ValueError, match="greater than 0"):
        EntropyFloor.Config.model_validate({"floor": 0})
    with pytest.raises(ValueError, match="share would have no effect"):
        RandomDrop.Config.model_validate({"like": "view-kl", "share": 0.25})


# What the loss divides by


def test_what_is_dropped_is_remembered_by_its_group() -> None:
    group = scored(0, clean="22", adversarial="11")
    left = group.without({1: "a", 2: "b"})
    assert left.group.dropped == (group.group.responses[1], group.group.responses[2])
    assert left.without({0: "c"}).group.dropped == (*left.group.dropped, group.group.responses[0])
    assert group.without({}).group.dropped == ()


def test_counts_of_a_batch_by_hand() -> None:
    """Lengths 3 and 5 are left, 4 and a truncated 6 were dropped; a selector kept 4 of the 8 tokens that are left."""

    def of_length(length: int, *, truncated: bool = False) -> Response:
        return replace(response([0.0] * length), truncated=truncated)

    responses = (of_length(3), of_length(4), of_length(5), of_length(6, truncated=True))
    group = Group(EXAMPLE, (view(),), responses, (0,) * 4, (0,) * 4)
    left = ScoredGroup(group, (Grade(0.0, False),) * 4).without({1: "x", 3: "x"})
    rows = GroupRows.of(TrainGroup(left, (1.0, -1.0)), torch.device("cpu"))
    assert BatchCounts.of([rows], mask_truncated=False) == BatchCounts(4, 18, 18)
    assert BatchCounts.of([rows], mask_truncated=True) == BatchCounts(4, 12, 12)
    half_NT = rows.mask_NT & (torch.arange(5) % 2 == 0) & (torch.arange(2)[:, None] > -1)
    half_NT[1, 4] = False
    chosen = replace(rows, selected_NT=half_NT)
    assert int(half_NT.sum()) == 4
    assert BatchCounts.of([chosen], mask_truncated=False) == BatchCounts(4, 18, 9)


@pytest.mark.parametrize(
    ("objective", "expected"),
    [
        # Advantages 2 and -1 at lengths 2 and 4; lengths 6 and 3 were drawn and dropped. Ratios are 1.
        (GRPO(), -(2.0 - 1.0) / 4),
        (DAPO(), -(2 * 2.0 - 4 * 1.0) / (2 + 4 + 6 + 3)),
        (DrGRPO(), -(2 * 2.0 - 4 * 1.0) / (4 * 12)),
        (DAPO(DAPO.Config(mask_truncated=True)), None),
    ],
    ids=lambda value: type(value).__name__,
)
def test_dropped_responses_stay_in_what_the_loss_divides_by(
    random_policy: Policy, bars: Bars, objective: Any, expected: float | None
) -> None:
    from test_update import update

    clean = random_policy.view(bars.example(0))
    (drawn,) = draw(random_policy, [clean], [4])
    assert all(len(each) >= 6 for each in drawn)
    responses = tuple(cut(each, length, truncated=False) for each, length in zip(drawn, (2, 6, 4, 3), strict=True))
    group = ScoredGroup(Group(clean.example, (clean,), responses, (0,) * 4, (0,) * 4), (Grade(0.0, False),) * 4)
    advantages = (2.0, -1.0) if expected is not None else (2.0, 1.0)
    left = TrainGroup(group.without({1: "x", 3: "x"}), advantages)
    metrics, (gradient,) = update(random_policy, [left], objective=objective)
    assert metrics["loss"] == pytest.approx(-(2 * 2.0 + 4 * 1.0) / 15 if expected is None else expected, abs=1e-6)
    # All of them drawn, with advantage 0 for the two: the same loss, and the same gradient.
    whole = TrainGroup(group, (advantages[0], 0.0, advantages[1], 0.0))
    same, (same_gradient,) = update(random_policy, [whole], objective=objective)
    assert same["loss"] == pytest.approx(metrics["loss"], abs=1e-6)
    largest = max(float(each.abs().max()) for each in gradient)
    assert largest > 1e-3
    for ours, other in zip(gradient, same_gradient, strict=True):
        torch.testing.assert_close(ours, other, atol=2e-5 * largest, rtol=0)


# Runs


def stop_at(step: int) -> Quiet:
    return Quiet({step: lambda: os.kill(os.getpid(), signal.SIGINT)})


@pytest.fixture(autouse=True)
def _checksum() -> Iterator[None]:
    with registered(Checksum):
        yield


def configured(model: Path, root: Path, name: str, /, **slots: Any) -> RunConfig:
    """Five steps with an intervention."""
    changes = {"sampler__intervention": slots, "training__steps": 5, "output__checkpoint_every": 5}
    return tiny(model, root, name, **changes)


GAP = {"type": "accuracy-gap", "limit": 0.05, "half_life": 3, "min_groups": 1}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("slots", "drops"),
    [
        ({"guard": {"type": "view-kl", "limit": 1e-4}}, "view-kl"),
        ({"guard": GAP}, "accuracy-gap"),
        ({"guard": "answer-kept"}, "answer-lost"),
        ({"guard": {"type": "random-drop", "share": 0.5}}, "random"),
        ({"guard": {"type": "random-drop", "like": GAP}}, "random"),
        ({"gate": {"type": "entropy-floor", "floor": 3.0}}, None),
        ({"gate": "all-wrong"}, None),
        ({"gate": "all-right"}, None),
    ],
    ids=str,
)
def test_a_run_that_is_interrupted_goes_on_as_if_it_were_not(
    model: Path, tmp_path: Path, slots: dict[str, Any], drops: str | None
) -> None:
    whole = train(configured(model, tmp_path, "whole", **slots)).run.path
    with pytest.raises(Interrupted):
        train(configured(model, tmp_path, "halves", **slots), stop_at(3))
    run, config = RunDir.open(tmp_path / "halves")
    train(config, resume=run)
    assert lines(whole) == lines(run.path)
    if drops is None:
        assert {line["train/untouched"] for line in lines(whole)[1:]} != {0.0}
    else:
        shares = [line[f"train/dropped/{drops}"] for line in lines(whole)[1:]]
        assert any(0 < share <= 1 / 2 for share in shares)
        assert {line["train/budget"] - 8 * line["step"] for line in lines(whole)[1:]} == {0}


def test_a_control_drops_as_much_in_every_step(model: Path, tmp_path: Path) -> None:
    """As the guard did in the same state: of a step's groups as many lose the origin."""
    shares = {}
    for name, guard in (("guard", GAP), ("control", {"type": "random-drop", "like": GAP})):
        run = train(configured(model, tmp_path, name, guard=guard)).run.path
        shares[name] = [line["train/dropped"] for line in lines(run)[1:]]
    first = next(step for step, share in enumerate(shares["guard"]) if share)
    assert shares["guard"][: first + 1] == shares["control"][: first + 1]


@pytest.mark.parametrize(
    "slots",
    [
        {"criterion": "random-direction"},
        {"criterion": {"type": "top-k-entropy", "k": 5}},
        {"criterion": "kl", "attack": {"type": "pgd", "random_start": True}, "measure": "always"},
    ],
    ids=str,
)
def test_a_run_with_each_criterion_goes_on(model: Path, tmp_path: Path, slots: dict[str, Any]) -> None:
    whole = train(configured(model, tmp_path, "whole", **slots)).run.path
    with pytest.raises(Interrupted):
        train(configured(model, tmp_path, "halves", **slots), stop_at(3))
    run, config = RunDir.open(tmp_path / "halves")
    train(config, resume=run)
    assert lines(whole) == lines(run.path)
    measured = ["train/intervention/criterion_after" in line for line in lines(whole)[1:]]
    assert measured == ([True] * 5 if "measure" in slots else [False, True, False, True, True])


def test_measuring_leaves_a_run_as_it_is(model: Path, tmp_path: Path) -> None:
    runs = [lines(train(configured(model, tmp_path, when, measure=when)).run.path) for when in ("always", "never")]
    added = {f"train/intervention/{name}" for name in ("criterion_after", "criterion_rose", "view_kl")}
    assert [{name: value for name, value in line.items() if name not in added} for line in runs[0]] == runs[1]
    assert [added <= line.keys() for line in runs[0]] == [False] + [True] * 5
