"""The update against a brute-force GRPO gradient: one forward per response by the model itself, summed by hand."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor
from transformers import get_scheduler

from groups import cut, draw, own_forward, token_logp
from saei.config.sections import OptimizerConfig, SamplingConfig, TrainingConfig
from saei.config.strategy import StrategyConfig
from saei.data.bars import Bars
from saei.data.templates import ThinkBoxed
from saei.engine.schedule import Schedule
from saei.engine.update import Updater
from saei.errors import TrainingError
from saei.need import Need
from saei.objectives.base import Loss, ObjectiveInput, Term
from saei.objectives.clipped import ClippedSurrogate
from saei.objectives.dapo import DAPO
from saei.objectives.dr_grpo import DrGRPO
from saei.objectives.grpo import GRPO
from saei.objectives.gspo import GSPO
from saei.policy import Policy
from saei.policy.load.parts import vision_tower
from saei.policy.load.weights import Parts
from saei.types import ADVERSARIAL, Example, Grade, Group, ScoredGroup, TrainGroup, View, ViewWeight

LENGTHS = ((8, 3), (1, 6), (4, 2), (7, 5))
ADVANTAGES = ((1.5, -0.5, -1.0, 0.25), (-0.75, 0.5, 1.0, -1.25))


@pytest.fixture(scope="module", params=["qwen", "llava"])
def random_parts(request: pytest.FixtureRequest, random_parts: Parts, llava_parts: Parts) -> Parts:
    return {"qwen": random_parts, "llava": llava_parts}[request.param]


@pytest.fixture
def policy(random_parts: Parts) -> Policy:
    """A policy whose weights may be moved."""
    parts = replace(random_parts, model=copy.deepcopy(random_parts.model))
    return Policy(parts, ThinkBoxed(), sampling=SamplingConfig(max_new_tokens=8, temperature=0.9))


def adversarial(view: View) -> View:
    noise = torch.randint(-16, 17, view.canvases[0].shape, generator=torch.Generator().manual_seed(0)) / 255
    return replace(view, origin=ADVERSARIAL, canvases=((view.canvases[0] + noise).clamp(0, 1),))


@pytest.fixture
def make(policy: Policy, bars: Bars) -> Callable[..., list[TrainGroup]]:
    """Two groups of two clean and two adversarial responses of several lengths, the long ones truncated."""

    def made(update_on: str = "sampled", beta: float = 0.0, cap: float = 2.0) -> list[TrainGroup]:
        clean = [policy.view(bars.example(i)) for i in range(2)]
        clean_views = [replace(view, index=3 * number) for number, view in enumerate(clean)]
        views = [view for one in clean_views for view in (one, adversarial(one))]
        drawn = [
            [cut(response, length, truncated=length > 4) for response, length in zip(own, lengths, strict=True)]
            for own, lengths in zip(draw(policy, views, [2, 2, 2, 2]), LENGTHS, strict=True)
        ]
        updated_on = {
            "sampled": (0, 0, 1, 1),
            "clean": (0, 0, 0, 0),
            "perturbed": (1, 1, 1, 1),
            "crossed": (1, 0, 1, 0),
        }
        groups = []
        for number, view in enumerate(clean_views):
            group = Group(
                example=view.example,
                views=tuple(views[2 * number : 2 * number + 2]),
                responses=(*drawn[2 * number], *drawn[2 * number + 1]),
                sampled_from=(0, 0, 1, 1),
                updated_on=updated_on[update_on],
                view_weights=(ViewWeight(beta, cap),) * 4,
            )
            groups.append(TrainGroup(ScoredGroup(group, (Grade(0.0, False),) * 4), ADVANTAGES[number]))
        return groups

    return made


class Recorder(torch.optim.SGD):
    """Stochastic gradient descent that keeps each step's gradients."""

    def __init__(self, parameters: Any, lr: float) -> None:
        super().__init__(parameters, lr=lr)
        self.gradients: list[list[Tensor]] = []
        self.rates: list[float] = []

    def step(self, closure: Any = None) -> None:
        self.rates.append(self.param_groups[0]["lr"])
        own = self.param_groups[0]["params"]
        self.gradients.append([torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in own])
        super().step(closure)


class Watched(GRPO):
    """GRPO that keeps its inputs."""

    def __init__(self, config: Any = None) -> None:
        super().__init__(config)
        self.inputs: list[ObjectiveInput] = []

    def loss(self, inputs: ObjectiveInput) -> Loss:
        self.inputs.append(inputs)
        return super().loss(inputs)


def update(
    policy: Policy,
    groups: list[TrainGroup],
    *,
    lr: float = 0.0,
    max_grad_norm: float = 1e9,
    objective: ClippedSurrogate | None = None,
    reference: Policy | None = None,
    **training: Any,
) -> tuple[dict[str, float], list[list[Tensor]]]:
    optimizer = Recorder([p for p in policy.module.parameters() if p.requires_grad], lr)
    updater = Updater(
        policy,
        objective or GRPO(),
        optimizer=optimizer,
        schedule=Schedule(optimizer, OptimizerConfig(), TrainingConfig(**training)),
        accelerator=Accelerator(cpu=True),
        config=TrainingConfig(**training),
        max_grad_norm=max_grad_norm,
        reference=reference,
        seed=0,
    )
    return updater.run(groups, step=0, progress=0.0).metrics, optimizer.gradients


def weights_by_hand(policy: Policy, group: Group, n: int) -> Tensor:
    """``min(cap, exp(beta (old - behaviour)))`` where the update's view is not the response's own."""
    response = group.responses[n]
    if group.updated_on[n] == group.sampled_from[n]:
        return torch.ones(len(response))
    with torch.no_grad():
        old_T = token_logp(policy, group.views[group.updated_on[n]], response)
        drawn_T = token_logp(policy, group.views[group.sampled_from[n]], response)
    weight = group.view_weight(n)
    return (weight.beta * (old_T - drawn_T)).exp().clamp_max(weight.cap)


def brute_force(
    policy: Policy, groups: list[TrainGroup], keep: Callable[[Any], list[int]] | None = None
) -> list[Tensor]:
    """The gradient of GRPO's loss at ratio 1: ``-mean_n mean_t w A grad log p``."""
    parameters = [p for p in policy.module.parameters() if p.requires_grad]
    total = [torch.zeros_like(p) for p in parameters]
    count = sum(len(one.advantages) for one in groups)
    for one in groups:
        for n, (response, advantage) in enumerate(zip(one.group.responses, one.advantages, strict=True)):
            logp_T = token_logp(policy, one.group.views[one.group.updated_on[n]], response)
            kept = list(range(len(response))) if keep is None else keep(response)
            weight_T = weights_by_hand(policy, one.group, n)
            loss = -advantage * (weight_T * logp_T)[kept].mean() / count
            found = torch.autograd.grad(loss, parameters, allow_unused=True)
            total = [a if b is None else a + b for a, b in zip(total, found, strict=True)]
    return total


def assert_same_gradient(ours: list[Tensor], expected: list[Tensor], tolerance: float = 2e-5) -> None:
    largest = max(float(one.abs().max()) for one in expected)
    assert largest > 1e-3
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a, b, atol=tolerance * largest, rtol=0)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("update_on", ["sampled", "clean", "perturbed", "crossed"])
def test_gradient_equals_brute_force(
    policy: Policy, make: Callable[..., list[TrainGroup]], update_on: str, shared: bool
) -> None:
    policy.shared_prefix = shared
    groups = make(update_on)
    metrics, (ours,) = update(policy, groups)
    assert_same_gradient(ours, brute_force(policy, groups))
    assert metrics["ratio_mean"] == metrics["ratio_max"] == 1.0
    assert metrics["clip_share"] == 0.0
    everything = [advantage for own in ADVANTAGES for advantage in own]
    assert metrics["loss"] == pytest.approx(-sum(everything) / len(everything), abs=1e-6)
    norm = torch.cat([gradient.flatten() for gradient in ours]).double().norm()
    assert metrics["grad_norm"] == pytest.approx(float(norm), rel=1e-5)


@pytest.mark.parametrize("update_on", ["clean", "perturbed", "sampled"])
@pytest.mark.parametrize("beta", [0.5, 1.0])
def test_view_weight(policy: Policy, make: Callable[..., list[TrainGroup]], update_on: str, beta: float) -> None:
    groups = make(update_on, beta=beta, cap=1.2)
    metrics, (ours,) = update(policy, groups)
    assert_same_gradient(ours, brute_force(policy, groups))
    by_hand = [weights_by_hand(policy, one.group, n) for one in groups for n in range(4)]
    mean = float(torch.stack([weight_T.mean() for weight_T in by_hand]).mean())
    assert metrics["view_weight"] == pytest.approx(mean, abs=1e-5)
    unmoved = {"clean": "clean", "perturbed": ADVERSARIAL, "sampled": "clean"}[update_on]
    assert metrics[f"{unmoved}/view_weight"] == 1.0
    moved = update_on != "sampled"
    assert (float((torch.cat(by_hand) - 1).abs().max()) > 1e-2) is moved


def test_gradients_are_clipped_to_the_norm(policy: Policy, make: Callable[..., list[TrainGroup]]) -> None:
    groups = make()
    metrics, (ours,) = update(policy, groups, max_grad_norm=1e-3)
    assert float(torch.cat([gradient.flatten() for gradient in ours]).norm()) == pytest.approx(1e-3, rel=1e-3)
    assert metrics["grad_norm"] > 1e-2


@pytest.mark.parametrize("mask_truncated", [False, True])
def test_micro_groups_make_the_same_step(
    policy: Policy, make: Callable[..., list[TrainGroup]], mask_truncated: bool
) -> None:
    groups = make("clean", beta=1.0)
    # Groups of unequal size, so that a mean of means would be seen.
    first = groups[0].group
    small = replace(first, responses=first.responses[1:3], sampled_from=(0, 1), updated_on=(0, 0))
    groups[0] = TrainGroup(ScoredGroup(small, groups[0].scored.grades[:2]), ADVANTAGES[0][:2])
    start = copy.deepcopy(policy.module.state_dict())
    ends = []
    for micro_groups in (None, 1):
        policy.module.load_state_dict(start)
        objective = GRPO(GRPO.Config(mask_truncated=mask_truncated))
        metrics, _ = update(policy, groups, lr=0.1, micro_groups=micro_groups, objective=objective)
        ends.append((metrics, copy.deepcopy(policy.module.state_dict())))
    (whole, whole_weights), (parts, parts_weights) = ends
    assert parts == pytest.approx(whole, abs=1e-5)
    largest = max(float((whole_weights[name] - start[name]).abs().max()) for name in start)
    assert largest > 1e-3
    for name, weight in whole_weights.items():
        torch.testing.assert_close(parts_weights[name], weight, atol=1e-6, rtol=0)


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_the_schedule_is_the_one_that_transformers_steps_through(schedule: Any) -> None:
    def optimizer() -> torch.optim.SGD:
        return torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)

    training = TrainingConfig(steps=3, prompts_per_step=5, updates_per_batch=3, ppo_epochs=2)  # six updates a step
    ours, theirs = optimizer(), optimizer()
    planned = Schedule(ours, OptimizerConfig(schedule=schedule, warmup_steps=4), training)
    name = "constant_with_warmup" if schedule == "constant" else schedule
    stepped = get_scheduler(name, theirs, num_warmup_steps=4, num_training_steps=18)
    for step in range(3):
        for update in range(6):
            rate = planned.begin(step, update)
            assert rate == ours.param_groups[0]["lr"] == theirs.param_groups[0]["lr"]
            theirs.step()
            stepped.step()


def test_each_update_of_a_step_has_its_own_rate(policy: Policy, make: Callable[..., list[TrainGroup]]) -> None:
    training = TrainingConfig(steps=2, prompts_per_step=2, updates_per_batch=2)
    optimizer = Recorder([p for p in policy.module.parameters() if p.requires_grad], lr=1.0)
    updater = Updater(
        policy,
        GRPO(),
        optimizer=optimizer,
        schedule=Schedule(optimizer, OptimizerConfig(schedule="linear"), training),
        accelerator=Accelerator(cpu=True),
        config=training,
        max_grad_norm=1e-9,
        reference=None,
        seed=0,
    )
    groups = make()
    updater.run(groups[:1], step=0, progress=0.0)  # one group was dropped
    updater.run(groups, step=1, progress=0.5)
    assert optimizer.rates == [1.0, 0.5, 0.25]


def test_later_minibatches_use_the_policy_before_the_step(
    policy: Policy, make: Callable[..., list[TrainGroup]]
) -> None:
    groups = make("clean")
    with torch.no_grad():
        old = {
            response.ids_T.tolist().__repr__(): token_logp(policy, one.group.views[0], response)
            for one in groups
            for response in one.group.responses
        }
    objective = Watched()
    metrics, gradients = update(
        policy, groups, lr=0.05, objective=objective, ppo_epochs=2, updates_per_batch=2, prompts_per_step=2
    )
    assert len(gradients) == len(objective.inputs) == 4
    seen = {tuple(inputs.advantage_RT[:, 0].tolist()) for inputs in objective.inputs[:2]}
    assert seen == set(ADVANTAGES)  # each epoch sees each group once
    for number, inputs in enumerate(objective.inputs):
        assert inputs.n_responses == 4
        group = groups[ADVANTAGES.index(tuple(inputs.advantage_RT[:, 0].tolist()))].group
        for n, response in enumerate(group.responses):
            length = len(response)
            expected_T = old[response.ids_T.tolist().__repr__()]
            torch.testing.assert_close(inputs.old_logp_RT[n, :length], expected_T, atol=5e-5, rtol=0)
        gap = float((inputs.logp_RT.detach() - inputs.old_logp_RT).abs().max())
        assert gap < 1e-4 if number == 0 else gap > 1e-2
    assert metrics["ratio_max"] > 1.01


@pytest.mark.parametrize("training", [{"ppo_epochs": 2}, {"updates_per_batch": 2}], ids=["epochs", "parts"])
def test_a_second_optimiser_step_is_off_policy_whatever_brings_it(
    policy: Policy, make: Callable[..., list[TrainGroup]], training: dict[str, Any]
) -> None:
    groups = make()
    with torch.no_grad():
        old = {
            one.advantages: [
                token_logp(policy, one.group.views[view], response)
                for response, view in zip(one.group.responses, one.group.updated_on, strict=True)
            ]
            for one in groups
        }
    objective = Watched()
    metrics, gradients = update(policy, groups, lr=0.05, objective=objective, prompts_per_step=2, **training)
    assert len(gradients) == len(objective.inputs) == 2
    later = objective.inputs[1]
    expected = [logp_T for own in later.advantage_RT[:, 0].reshape(-1, 4).tolist() for logp_T in old[tuple(own)]]
    for own_T, logp_T in zip(later.old_logp_RT, expected, strict=True):
        torch.testing.assert_close(own_T[: len(logp_T)], logp_T, atol=5e-5, rtol=0)
    assert float((later.logp_RT.detach() - later.old_logp_RT).abs().max()) > 1e-3
    assert metrics["ratio_max"] > 1.001


def test_rows_stay_with_their_responses(policy: Policy, make: Callable[..., list[TrainGroup]]) -> None:
    """Under crossed update views the passes go view by view; every row has to find back to its place."""
    groups = make("crossed")
    objective = Watched()
    update(policy, groups, objective=objective, ppo_epochs=2)
    inputs = objective.inputs[0]
    rows = [(one, n) for one in groups for n in range(4)]
    assert inputs.advantage_RT[:, 0].tolist() == [one.advantages[n] for one, n in rows]
    assert inputs.off_view_R.tolist() == [one.group.sampled_from[n] != (1, 0, 1, 0)[n] for one, n in rows]
    for row, (one, n) in enumerate(rows):
        response, length = one.group.responses[n], len(one.group.responses[n])
        assert inputs.mask_RT[row].sum() == length
        assert torch.equal(inputs.behaviour_logp_RT[row, :length], response.behaviour_logp_T)
        assert bool(inputs.truncated_R[row]) == response.truncated
        with torch.no_grad():
            expected_T = token_logp(policy, one.group.views[one.group.updated_on[n]], response)
        for logp_RT in (inputs.logp_RT, inputs.old_logp_RT):
            torch.testing.assert_close(logp_RT[row, :length].detach(), expected_T, atol=5e-5, rtol=0)


def test_reference_and_entropy_terms(
    policy: Policy, random_parts: Parts, make: Callable[..., list[TrainGroup]]
) -> None:
    other = copy.deepcopy(random_parts.model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.02)
    reference = Policy(replace(random_parts, model=other), ThinkBoxed(), sampling=policy.sampling)
    groups = make("perturbed")
    objective = GRPO(GRPO.Config.model_validate({"terms": ["kl", {"type": "entropy-bonus", "coefficient": 0.5}]}))
    metrics, _ = update(policy, groups, objective=objective, reference=reference)
    k3, entropy = [], []
    with torch.no_grad():
        for one in groups:
            for n, response in enumerate(one.group.responses):
                view = one.group.views[1]
                gap_T = token_logp(reference, view, response) - token_logp(policy, view, response)
                full = replace(one.group, view_weights=(ViewWeight(1.0, 2.0),) * 4)
                k3.append((weights_by_hand(policy, full, n) * (gap_T.exp() - 1 - gap_T)).mean())
                distribution = torch.distributions.Categorical(logits=own_forward(policy, view, response))
                entropy.append(distribution.entropy().mean())
    kl, bonus = float(torch.stack(k3).mean()), float(torch.stack(entropy).mean())
    assert kl > 1e-3
    assert metrics["kl/mean"] == pytest.approx(kl, rel=1e-3)
    assert metrics["entropy-bonus/mean"] == pytest.approx(bonus, rel=1e-4)
    mean_advantage = sum(a for own in ADVANTAGES for a in own) / 8
    assert metrics["loss"] == pytest.approx(-mean_advantage + 0.01 * kl - 0.5 * bonus, abs=1e-4)


@pytest.mark.parametrize("micro_groups", [None, 1])
def test_a_full_divergence_from_the_reference_equals_brute_force(
    policy: Policy, random_parts: Parts, make: Callable[..., list[TrainGroup]], micro_groups: int | None
) -> None:
    """Value and gradient, with torch.distributions on the models' own forward, and no weight off the view."""
    other = copy.deepcopy(random_parts.model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.02)
    reference = Policy(replace(random_parts, model=other), ThinkBoxed(), sampling=policy.sampling)
    groups = [replace(one, advantages=(0.0,) * len(one.advantages)) for one in make("perturbed")]
    term = {"type": "kl", "estimate": "full", "coefficient": 1.0}
    objective = GRPO(GRPO.Config.model_validate({"terms": [term]}))
    metrics, (ours,) = update(policy, groups, objective=objective, reference=reference, micro_groups=micro_groups)
    means = []
    for one in groups:
        for response in one.group.responses:
            logs = [own_forward(each, one.group.views[1], response) for each in (policy, reference)]
            p, q = torch.distributions.Categorical(logits=logs[0]), torch.distributions.Categorical(logits=logs[1])
            means.append(torch.distributions.kl_divergence(p, q).mean())
    expected = torch.stack(means).mean()
    assert float(expected.detach()) > 1e-3
    assert metrics["kl/mean"] == pytest.approx(float(expected.detach()), rel=1e-3)
    parameters = [p for p in policy.module.parameters() if p.requires_grad]
    found = torch.autograd.grad(expected, parameters, allow_unused=True)
    assert_same_gradient(
        ours, [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]
    )


def test_the_old_policys_distributions_outlast_its_weights(
    policy: Policy, make: Callable[..., list[TrainGroup]]
) -> None:
    """A divergence from the old policy: 0 at the first optimiser step, from the same old one at the second."""
    need = Need("kl", policy="old", grad=True)
    seen: list[Tensor] = []
    models: list[Any] = []

    class Near(Term):
        class Config(StrategyConfig):
            type: Literal["test/near"] = "test/near"

        @property
        def needs(self) -> frozenset[Need]:
            return frozenset({need})

        def loss(self, inputs: ObjectiveInput, aggregate: Any) -> Loss:
            seen.append(inputs.statistics[need].detach())
            models.append(copy.deepcopy(policy.parts.model))
            return Loss(aggregate(inputs.statistics[need]))

    groups = make("crossed")
    objective = GRPO()
    objective.terms = (Near(),)
    update(policy, groups, objective=objective, lr=0.05, ppo_epochs=2)
    assert all(values.ndim == 1 for known in policy.known.values() for values in known.values())  # no hidden states
    with pytest.raises(AssertionError, match="no head was kept"):
        _ = policy.old_head
    first, second = seen
    assert float(first.max()) < 1e-6
    old, now = (Policy(replace(policy.parts, model=model), ThinkBoxed(), sampling=policy.sampling) for model in models)
    rows = [(one.group, n) for one in groups for n in range(4)]
    for (group, n), values_T in zip(rows, second, strict=True):
        view, response = group.views[group.updated_on[n]], group.responses[n]
        with torch.no_grad():
            p, q = (torch.distributions.Categorical(logits=own_forward(each, view, response)) for each in (now, old))
        expected_T = torch.distributions.kl_divergence(p, q)
        torch.testing.assert_close(values_T[: len(response)], expected_T, atol=1e-4, rtol=1e-2)
    assert float(second.max()) > 1e-2


def test_token_selector_restricts_the_loss(policy: Policy, make: Callable[..., list[TrainGroup]]) -> None:
    groups = make("crossed")
    selector: Any = {"type": "top-k", "count": 2}
    objective = GRPO(GRPO.Config.model_validate({"token_selector": selector}))
    _, (ours,) = update(policy, groups, objective=objective, micro_groups=1)

    def top_two(response: Any) -> list[int]:
        return response.entropy_T.topk(min(2, len(response))).indices.tolist()

    assert_same_gradient(ours, brute_force(policy, groups, keep=top_two))


@pytest.mark.parametrize("update_on", ["sampled", "perturbed"])
def test_a_token_selector_by_the_picture_looks_at_the_update_view(
    policy: Policy, make: Callable[..., list[TrainGroup]], update_on: str
) -> None:
    groups = make(update_on)
    before = copy.deepcopy(policy.parts.model)
    reference = Policy(replace(policy.parts, model=before), ThinkBoxed(), sampling=policy.sampling)
    places = {
        id(response): train.group.views[train.group.updated_on[n]]
        for train in groups
        for n, response in enumerate(train.group.responses)
    }

    @torch.no_grad()
    def most_dependent(response: Any) -> list[int]:
        view = places[id(response)]
        grey = replace(view, canvases=tuple(torch.full_like(canvas, 128 / 255) for canvas in view.canvases))
        p, q = (torch.distributions.Categorical(logits=own_forward(reference, each, response)) for each in (view, grey))
        return torch.distributions.kl_divergence(p, q).topk(math.ceil(len(response) / 2)).indices.tolist()

    objective = GRPO(GRPO.Config.model_validate({"token_selector": {"type": "visual", "share": "1/2"}}))
    metrics, (ours,) = update(policy, groups, objective=objective, micro_groups=1)
    assert_same_gradient(ours, brute_force(reference, groups, keep=most_dependent))
    assert metrics["left_out/no-image"] == 0


@pytest.mark.parametrize("selector", ["visual", {"type": "not", "of": ["visual-logp"]}], ids=str)
def test_a_token_selector_by_the_picture_leaves_groups_without_one_out(
    policy: Policy, make: Callable[..., list[TrainGroup]], selector: Any
) -> None:
    (shown, _), text_only = make("clean"), policy.view(Example("t", "What is 1 + 2?", "3"), 9)
    (responses,) = draw(policy, [text_only], [4])
    group = replace(shown.group, views=(text_only,), responses=tuple(responses), sampled_from=(0,) * 4)
    blind = replace(shown, scored=replace(shown.scored, group=group))
    objective = Watched(GRPO.Config.model_validate({"token_selector": selector}))
    metrics, (both,) = update(policy, [shown, blind], objective=objective)
    assert metrics["left_out/no-image"] == 0.5
    (inputs,) = objective.inputs
    assert inputs.selected_RT[:4].any()
    assert not inputs.selected_RT[4:].any()
    assert all(bool(gradient.isfinite().all()) for gradient in both)


def test_given_tokens_are_never_selected(policy: Policy, make: Callable[..., list[TrainGroup]]) -> None:
    def given(train: TrainGroup) -> TrainGroup:
        responses = tuple(replace(response, forced=min(2, len(response) - 1)) for response in train.group.responses)
        return replace(train, scored=replace(train.scored, group=replace(train.group, responses=responses)))

    groups = [given(train) for train in make("crossed")]
    objective = GRPO(GRPO.Config.model_validate({"token_selector": {"type": "top-k", "count": 2}}))
    _, (ours,) = update(policy, groups, objective=objective, micro_groups=1)

    def top_two(response: Any) -> list[int]:
        drawn_T = response.entropy_T[response.forced :]
        return (response.forced + drawn_T.topk(min(2, len(drawn_T))).indices).tolist()

    assert_same_gradient(ours, brute_force(policy, groups, keep=top_two))


def test_token_selection_does_not_depend_on_micro_batches(
    policy: Policy, make: Callable[..., list[TrainGroup]]
) -> None:
    groups, selector = make(), {"type": "random", "lo": 0, "hi": "1/3"}
    objective = GRPO(GRPO.Config.model_validate({"token_selector": selector}))
    (whole,) = update(policy, groups, objective=objective)[1]
    (parts,) = update(policy, groups, objective=objective, micro_groups=1)[1]
    assert_same_gradient(parts, whole)


@pytest.mark.parametrize("mask_truncated", [False, True])
@pytest.mark.parametrize("selected", [None, 2])
def test_global_counts(
    policy: Policy, make: Callable[..., list[TrainGroup]], selected: int | None, mask_truncated: bool
) -> None:
    groups = make("crossed")
    selector = None if selected is None else {"type": "top-k", "count": selected}
    objective = Watched(GRPO.Config.model_validate({"token_selector": selector, "mask_truncated": mask_truncated}))
    update(policy, groups, objective=objective, micro_groups=1)
    responses = [response for one in groups for response in one.group.responses]
    kept = [len(response) for response in responses if not (mask_truncated and response.truncated)]
    assert 0 < sum(kept) < sum(map(len, responses)) or not mask_truncated
    for inputs in objective.inputs:
        assert inputs.n_responses == 8
        assert inputs.n_tokens == sum(kept)
        assert inputs.n_selected == sum(min(length, selected or length) for length in kept)
        assert inputs.max_new_tokens == 8


@pytest.mark.parametrize("objective", [DAPO, DrGRPO, GSPO])
def test_micro_groups_make_the_same_step_under_every_objective(
    policy: Policy, make: Callable[..., list[TrainGroup]], objective: type[ClippedSurrogate]
) -> None:
    groups = make("crossed")
    config = {"token_selector": {"type": "top-k", "share": "1/2"}, "terms": ["entropy-bonus"], "mask_truncated": True}
    loss = objective(objective.Config.model_validate(config))
    whole, (expected,) = update(policy, groups, objective=loss)
    parts, (gradient,) = update(policy, groups, objective=loss, micro_groups=1)
    assert parts["loss"] == pytest.approx(whole["loss"], rel=1e-5)
    assert_same_gradient(gradient, expected)


def test_a_gradient_that_is_not_finite_stops_before_the_step(
    policy: Policy, make: Callable[..., list[TrainGroup]]
) -> None:
    groups = make()
    groups[1] = replace(groups[1], advantages=(math.nan, 0.0, 0.0, 0.0))
    before = [parameter.detach().clone() for parameter in policy.module.parameters()]
    with pytest.raises(TrainingError, match="have to be finite"):
        update(policy, groups, lr=0.1)
    assert all(map(torch.equal, before, policy.module.parameters()))


@pytest.mark.parametrize("frozen", [True, False])
def test_a_frozen_vision_tower_stays(policy: Policy, make: Callable[..., list[TrainGroup]], frozen: bool) -> None:
    tower = vision_tower(policy.model)
    tower.requires_grad_(not frozen)
    inside = {name for name, p in policy.model.named_parameters() if any(p is own for own in tower.parameters())}
    before = {name: parameter.detach().clone() for name, parameter in policy.model.named_parameters()}
    update(policy, make(), lr=0.1)
    moved = {name for name, p in policy.model.named_parameters() if not torch.equal(p, before[name])}
    assert any("language_model" in name for name in moved)
    assert bool(inside & moved) is not frozen


def test_metrics_are_apart_by_origin(policy: Policy, make: Callable[..., list[TrainGroup]]) -> None:
    metrics, _ = update(policy, make("clean", beta=1.0, cap=1e9))
    for name in ("ratio_mean", "ratio_max", "clip_share", "view_weight"):
        apart = [metrics[f"{origin}/{name}"] for origin in ("clean", ADVERSARIAL)]
        together = max(apart) if name.endswith("_max") else sum(apart) / 2  # as many of each
        assert metrics[name] == pytest.approx(together)
    assert set(metrics) >= {"loss", "grad_norm"}
