"""The whole update batch: what weights and ``prepare`` see of it, in one process and in two."""

from __future__ import annotations

import copy
import math
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from fractions import Fraction
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from groups import cut, own_forward, token_logp
from saei.config.sections import TrainingConfig
from saei.data.bars import Bars
from saei.engine.update import Updater
from saei.errors import TrainingError
from saei.need import Need
from saei.objectives.base import Loss, Objective, ObjectiveInput
from saei.objectives.batch import Row, UpdateBatch, join
from saei.objectives.grpo import GRPO
from saei.objectives.weights.base import Weight
from saei.policy import Policy
from saei.policy.load.weights import Parts
from saei.types import TrainGroup
from updates import ADVANTAGES, INDICES, Together, assert_same_gradients, in_two, policy_of, three_groups, update


@pytest.fixture
def policy(random_parts: Parts) -> Policy:
    return policy_of(random_parts)


@pytest.fixture
def groups(policy: Policy, bars: Bars) -> list[TrainGroup]:
    return three_groups(policy, bars)


class PerResponse(Weight):
    """Gives each response a number, where tokens have one."""

    class Config(Weight.Config):
        """No fields."""

        type: Literal["mine/per-response"] = "mine/per-response"

    config: Config

    def weigh(self, batch: UpdateBatch, *, progress: float, generator: torch.Generator) -> Tensor:
        return torch.ones(batch.mask_RT.shape[:1])


class Short(GRPO):
    """Prepares a row less than there are responses."""

    class Config(GRPO.Config):
        """No fields of its own."""

        type: Literal["mine/short"] = "mine/short"  # type: ignore[assignment]

    config: Config

    def prepare(self, batch: UpdateBatch, *, progress: float, generator: torch.Generator) -> Mapping[str, Tensor]:
        return {"threshold": torch.zeros(len(batch.rows) - 1)}


class Lottery(Weight):
    """A random half of the tokens whose sampling entropy is above the batch's median; notes the batches it saw."""

    class Config(Weight.Config):
        type: Literal["test/lottery"] = "test/lottery"

    def __init__(self, config: Any = None, needs: frozenset[Need] = frozenset()) -> None:
        super().__init__(config)
        self.needed = needs
        self.seen: list[UpdateBatch] = []

    @property
    def needs(self) -> frozenset[Need]:
        return self.needed

    def weigh(self, batch: UpdateBatch, *, progress: float, generator: torch.Generator) -> Tensor:
        assert progress == 0.25
        self.seen.append(batch)
        high_RT = batch.mask_RT & (batch.behaviour_entropy_RT > batch.behaviour_entropy_RT[batch.mask_RT].median())
        weight_RT = torch.zeros_like(batch.behaviour_entropy_RT)
        weight_RT[high_RT] = (torch.rand(int(high_RT.sum()), generator=generator) < 0.5).float()
        return weight_RT


class Whole(GRPO):
    """GRPO whose advantages are divided by the batch's spread and multiplied by the response's rank in length."""

    class Config(GRPO.Config):
        type: Literal["test/whole"] = "test/whole"  # type: ignore[assignment]

    def __init__(self, config: Any = None) -> None:
        super().__init__(config)
        self.inputs: list[ObjectiveInput] = []
        self.drawn: list[float] = []

    def prepare(self, batch: UpdateBatch, *, progress: float, generator: torch.Generator) -> Mapping[str, Tensor]:
        self.drawn.append(float(torch.rand((), generator=generator)))
        lengths_R = batch.mask_RT.sum(1)
        return {
            "spread": batch.advantage_RT[:, 0].std(),
            "rank": (lengths_R[:, None] > lengths_R).sum(1).float(),
            "entropy": batch.behaviour_entropy_RT,
        }

    def loss(self, inputs: ObjectiveInput) -> Loss:
        self.inputs.append(inputs)
        rank_R = inputs.prepared["rank"] / inputs.prepared["spread"]
        return super().loss(replace(inputs, advantage_RT=inputs.advantage_RT * rank_R[:, None]))


def with_weight(weight: Weight, objective: Objective | None = None) -> Any:
    objective = objective or GRPO()
    objective.weights["weight 0"] = weight
    return objective


def by_hand(
    policy: Policy, groups: list[TrainGroup], factor: Callable[[int, int], Tensor], *, count_zeroed: bool = True
) -> list[Tensor]:
    """``-mean_n mean_t weight A grad log p`` with the factor (weight times advantage) of each group and response."""
    parameters = [p for p in policy.module.parameters() if p.requires_grad]
    total = [torch.zeros_like(p) for p in parameters]
    for number, each in enumerate(groups):
        for n, response in enumerate(each.group.responses):
            logp_T = token_logp(policy, each.group.views[each.group.updated_on[n]], response)
            factor_T = factor(number, n)
            count = len(response) if count_zeroed else max(1, int((factor_T != 0).sum()))
            loss = -(factor_T * logp_T).sum() / count / (3 * len(groups))
            found = torch.autograd.grad(loss, parameters, allow_unused=True)
            total = [a if b is None else a + b for a, b in zip(total, found, strict=True)]
    return total


def test_advantages_per_token(policy: Policy, groups: list[TrainGroup]) -> None:
    generator = torch.Generator().manual_seed(5)
    groups = [
        replace(each, token_advantages=tuple(torch.randn(len(r), generator=generator) for r in each.group.responses))
        for each in groups
    ]
    groups[1] = replace(groups[1], token_advantages=None)  # groups of both kinds in one batch

    def factor(number: int, n: int) -> Tensor:
        per_token = groups[number].token_advantages
        response = groups[number].group.responses[n]
        return torch.full((len(response),), ADVANTAGES[number][n]) if per_token is None else per_token[n]

    _, (ours,) = update(policy, groups, GRPO())
    assert_same_gradients(ours, by_hand(policy, groups, factor))
    _, (parts,) = update(policy, groups, GRPO(), micro_groups=1)
    assert_same_gradients(parts, ours)


@pytest.mark.parametrize("count_zeroed", [True, False])
def test_weights_over_the_batch(policy: Policy, groups: list[TrainGroup], count_zeroed: bool) -> None:
    weight = Lottery(Lottery.Config(count_zeroed=count_zeroed))
    metrics, (ours,) = update(policy, groups, with_weight(weight), micro_groups=1)
    (batch,) = weight.seen
    weight_RT = Lottery().weigh(batch, progress=0.25, generator=drawn_from("weight 0", 0))
    assert 0 < weight_RT.sum() < batch.mask_RT.sum() / 2
    rows = {(row.index, row.response): place for place, row in enumerate(batch.rows)}

    def factor(number: int, n: int) -> Tensor:
        length = len(groups[number].group.responses[n])
        return ADVANTAGES[number][n] * weight_RT[rows[INDICES[number], n], :length]

    assert_same_gradients(ours, by_hand(policy, groups, factor, count_zeroed=count_zeroed))
    lengths_R = batch.mask_RT.sum(1)
    assert metrics["token_weight"] == pytest.approx(float((weight_RT.sum(1) / lengths_R).mean()))


def drawn_from(name: str, update_number: int) -> torch.Generator:
    from saei.runtime.seeds import derive

    return torch.Generator().manual_seed(derive(0, name, 3, update_number))


def test_the_update_batch_has_every_response_in_its_row(policy: Policy, groups: list[TrainGroup]) -> None:
    weight = Lottery(needs=frozenset({Need("eos")}))
    update(policy, groups, with_weight(weight))
    (batch,) = weight.seen
    assert [(row.index, row.response, row.view) for row in batch.rows] == [
        (index, n, (1, 0, 1)[n]) for index in sorted(INDICES) for n in range(3)
    ]
    of_index = dict(zip(INDICES, groups, strict=True))
    for place, row in enumerate(batch.rows):
        response, length = of_index[row.index].group.responses[row.response], int(batch.mask_RT[place].sum())
        assert length == len(response)
        assert torch.equal(batch.ids_RT[place, :length], response.ids_T)
        assert torch.equal(batch.behaviour_logp_RT[place, :length], response.behaviour_logp_T)
        assert torch.equal(batch.behaviour_entropy_RT[place, :length], response.entropy_T)
        assert torch.equal(batch.statistics[Need("eos")][place, :length], torch.isin(response.ids_T, policy.eos_ids))
        assert batch.advantage_RT[place, 0] == of_index[row.index].advantages[row.response]
        assert bool(batch.truncated_R[place]) == response.truncated
    assert batch.statistics.keys() == {Need("eos")}


def test_what_an_update_batch_leaves_out(policy: Policy, groups: list[TrainGroup]) -> None:
    weight = Lottery()
    update(policy, groups, with_weight(weight, GRPO(GRPO.Config(mask_truncated=True))))
    (batch,) = weight.seen
    assert int(batch.truncated_R.sum()) == 2
    assert torch.equal(batch.mask_RT.any(1), ~batch.truncated_R)


def test_current_values_are_those_before_each_optimiser_step(policy: Policy, groups: list[TrainGroup]) -> None:
    old, now, entropy = Need("logp", policy="old"), Need("logp"), Need("entropy")
    weight = Lottery(needs=frozenset({old, now, entropy}))
    before = copy.deepcopy(policy.module.state_dict())
    update(policy, groups, with_weight(weight), lr=0.05, ppo_epochs=2)
    first, second = weight.seen
    assert torch.equal(first.statistics[old], first.statistics[now])
    assert torch.equal(first.statistics[old], second.statistics[old])
    assert float((second.statistics[now] - second.statistics[old]).abs().max()) > 1e-2
    policy.module.load_state_dict(before)
    update(policy, groups, with_weight(Lottery()), lr=0.05)  # the first of the two
    of_index = dict(zip(INDICES, groups, strict=True))
    for place, row in enumerate(second.rows):
        group = of_index[row.index].group
        with torch.no_grad():
            logits = own_forward(policy, group.views[row.view], group.responses[row.response])
        length = len(logits)
        logp_T = token_logp(policy, group.views[row.view], group.responses[row.response]).detach()
        torch.testing.assert_close(second.statistics[now][place, :length], logp_T, atol=1e-3, rtol=0)
        entropy_T = torch.distributions.Categorical(logits=logits).entropy()
        torch.testing.assert_close(second.statistics[entropy][place, :length], entropy_T, atol=1e-3, rtol=0)


def test_nobody_pays_for_what_nobody_asks(policy: Policy, groups: list[TrainGroup]) -> None:
    class Counting(Together):
        def __init__(self) -> None:
            super().__init__(0, threading.Barrier(1), [None])
            self.count, self.batches = 1, 0

        def gather(self, value: Any) -> list[Any]:
            self.batches += isinstance(value, UpdateBatch)
            return [value]

    for objective, expected in ((GRPO(), 0), (with_weight(Lottery()), 1), (Whole(), 1)):
        processes = Counting()
        update(policy, groups, objective, processes=processes)
        assert processes.batches == expected


@pytest.mark.parametrize("share", [2, 3], ids=["two and one", "all and none"])
@pytest.mark.parametrize("kind", ["weight", "prepare", "selector"])
def test_two_processes_see_what_one_sees(policy: Policy, groups: list[TrainGroup], kind: str, share: int) -> None:
    made: list[Objective] = []

    def objective() -> Objective:
        config = {"token_selector": {"type": "random", "lo": 0, "hi": "1/2"}} if kind == "selector" else {}
        built: Objective = Whole() if kind == "prepare" else GRPO(GRPO.Config.model_validate(config))
        made.append(with_weight(Lottery(Lottery.Config(count_zeroed=False)), built) if kind == "weight" else built)
        return made[-1]

    training = {"ppo_epochs": 2, "updates_per_batch": 2, "prompts_per_step": 3, "micro_groups": 1}
    start = copy.deepcopy(policy.module.state_dict())
    metrics, gradients = update(policy, groups, objective(), lr=0.001, **training)
    policy.module.load_state_dict(start)
    ordered = sorted(groups, key=lambda each: each.group.index)
    (left, left_gradients), (right, _) = in_two(
        policy, [ordered[:share], ordered[share:]], objective, lr=0.001, **training
    )
    assert left == right == pytest.approx(metrics, rel=1e-4, abs=1e-6)
    assert len(gradients) == 4
    for ours, expected in zip(left_gradients, gradients, strict=True):
        assert_same_gradients(ours, expected)
    if kind == "weight":
        alone, first, second = (next(iter(each.weights.values())).seen for each in made)  # type: ignore[attr-defined]
        for one, two, three in zip(alone, first, second, strict=True):
            assert one.rows == two.rows == three.rows
            assert torch.equal(one.behaviour_entropy_RT, two.behaviour_entropy_RT)
    if kind == "prepare":
        assert made[0].drawn == made[1].drawn == made[2].drawn  # type: ignore[attr-defined]
        assert len(set(made[0].drawn)) == 4  # type: ignore[attr-defined]


def test_what_is_prepared_comes_to_the_rows_it_is_about(policy: Policy, groups: list[TrainGroup]) -> None:
    objective = Whole()
    update(policy, groups, objective, micro_groups=2)
    ordered = sorted(groups, key=lambda each: each.group.index)
    lengths = [len(r) for each in groups for r in each.group.responses]
    spread = torch.tensor([a for own in ADVANTAGES for a in own]).std()
    for inputs, part in zip(objective.inputs, (ordered[:2], ordered[2:]), strict=True):
        assert float(inputs.prepared["spread"]) == pytest.approx(float(spread))
        responses = [r for each in part for r in each.group.responses]
        assert inputs.prepared["rank"].tolist() == [sum(len(r) > length for length in lengths) for r in responses]
        assert inputs.prepared["entropy"].shape == inputs.mask_RT.shape
        for entropy_T, response in zip(inputs.prepared["entropy"], responses, strict=True):
            assert torch.equal(entropy_T[: len(response)], response.entropy_T)


@pytest.mark.parametrize("value", [-0.5, math.nan, math.inf])
def test_an_impossible_weight_stops_the_run(policy: Policy, groups: list[TrainGroup], value: float) -> None:
    class Impossible(Weight):
        class Config(Weight.Config):
            type: Literal["test/impossible"] = "test/impossible"

        def weigh(self, batch: UpdateBatch, *, progress: float, generator: torch.Generator) -> Tensor:
            return torch.full_like(batch.advantage_RT, value)

    with pytest.raises(TrainingError, match="finite number, 0 or more") as refused:
        update(policy, groups, with_weight(Impossible()))
    assert "test/impossible" in (refused.value.reason or "")


def test_batches_join_in_the_order_of_index_and_response() -> None:
    def batch(rows: list[Row], width: int) -> UpdateBatch:
        values_RT = torch.tensor([[10.0 * row.index + row.response] * width for row in rows])
        return UpdateBatch(
            tuple(rows), values_RT.long(), values_RT > 0, values_RT, values_RT, values_RT, values_RT[:, 0] > 30,
            values_RT > 50,
            statistics={Need("eos"): values_RT},
        )  # fmt: skip

    joined = join([batch([Row(5, 0, 0), Row(5, 1, 1)], 2), batch([Row(2, 0, 0), Row(9, 0, 0)], 3)])
    assert [(row.index, row.response) for row in joined.rows] == [(2, 0), (5, 0), (5, 1), (9, 0)]
    for values_RT in (joined.behaviour_logp_RT, joined.statistics[Need("eos")]):
        assert values_RT.tolist() == [[20] * 3, [50, 50, 0], [51, 51, 0], [90] * 3]
    assert joined.truncated_R.tolist() == [False, True, True, True]
    assert joined.drawn_RT.tolist() == [[False] * 3, [False] * 3, [True, True, False], [True] * 3]


@pytest.mark.parametrize(
    ("groups", "parts", "sizes"),
    [
        (8, 1, [8]),
        (8, 4, [2, 2, 2, 2]),
        (5, 3, [2, 2, 1]),
        (7, 3, [3, 2, 2]),
        (2, 3, [1, 1]),
        (1, 4, [1]),
        (2, 5, [1, 1]),
        (7, 5, [2, 2, 1, 1, 1]),
        (3, 2, [2, 1]),
    ],
)
def test_groups_are_split_into_nearly_equal_parts(policy: Policy, groups: int, parts: int, sizes: list[int]) -> None:
    training = TrainingConfig(prompts_per_step=8, updates_per_batch=parts, ppo_epochs=3)
    updater = Updater(
        policy, GRPO(), optimizer=None, schedule=None, accelerator=None, config=training,  # type: ignore[arg-type]
        max_grad_norm=1.0, reference=None, seed=0,
    )  # fmt: skip
    indices = [10 * index for index in range(groups)]
    plan = updater._plan(indices, step=0)
    orders = []
    for epoch in range(3):
        part_of = {number - epoch * parts: part for number, part in plan if number // parts == epoch}
        assert list(part_of) == list(range(len(sizes)))  # the last ones are empty
        assert [len(part) for part in part_of.values()] == sizes
        assert sorted(index for part in part_of.values() for index in part) == indices
        assert all(part == sorted(part) for part in part_of.values())
        orders.append(tuple(map(tuple, part_of.values())))
    assert len(set(orders)) > 1 or groups < 3 or parts == 1
    assert plan == updater._plan(indices, step=0)
    assert Fraction(len(plan), 3) == len(sizes)


def test_a_weight_or_a_preparation_of_another_shape_is_refused(policy: Policy, groups: list[TrainGroup]) -> None:
    with pytest.raises(TrainingError, match=r"'mine/per-response' returned \[9\] for \[9, 8\]"):
        update(policy, groups, GRPO(GRPO.Config(weights=(PerResponse.Config(),))))
    with pytest.raises(TrainingError, match=r"'mine/short' prepared 'threshold' of \[8\] for 9 responses"):
        update(policy, groups, Short())


def test_a_batch_without_a_token_has_no_gradient(policy: Policy, groups: list[TrainGroup]) -> None:
    empty = tuple(cut(response, 0, truncated=True) for response in groups[0].group.responses)
    group = replace(groups[0].group, responses=empty)
    train = replace(groups[0], scored=replace(groups[0].scored, group=group))
    ((*gradients,),) = update(policy, [train], GRPO())[1]
    assert not any(bool(gradient.any()) for gradient in gradients)
