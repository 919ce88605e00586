"""Rival terms and VPPO in the update: gradients by one forward per response, in micro-batches and in two processes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import Tensor

from groups import cut, draw, own_forward
from saei.config.sections import SamplingConfig
from saei.data.bars import Bars
from saei.data.templates import ThinkBoxed
from saei.objectives.adaptive_entropy import AdaptiveEntropy
from saei.objectives.clamped_entropy import ClampedEntropy
from saei.objectives.grpo import GRPO
from saei.objectives.nucleus_entropy import NucleusEntropy
from saei.objectives.papo import PAPO
from saei.objectives.roma import ROMA
from saei.objectives.weights.vppo import VPPO
from saei.policy import Policy
from saei.policy.load.weights import Parts
from saei.types import Example, Grade, Group, ScoredGroup, TrainGroup, View
from saei.views import BlackPatches, Blur, GaussianNoise, LowResolution
from test_update_batch import assert_same_gradients, in_two, update

LENGTHS = ((7, 3, 5), (1, 6, 2), (4, 7, 3))
CORRECT = ((True, False, True), (False, True, False), (True, True, False))
ADVANTAGES = ((1.5, -0.5, -1.0), (-0.75, 0.5, 1.0), (0.25, -1.25, 2.0))
PATCHES = BlackPatches.Config(patch=16, probability=Fraction(3, 5))
DEGRADED = (Blur.Config(), LowResolution.Config(factor=8))


@pytest.fixture(params=["undecided", "confident"])
def policy(request: pytest.FixtureRequest, random_parts: Parts) -> Policy:
    """One with random weights, and one whose output layer is so large that most tokens are all but certain."""
    model = copy.deepcopy(random_parts.model)
    if request.param == "confident":
        with torch.no_grad():
            model.get_output_embeddings().weight.mul_(4.0)
    parts = replace(random_parts, model=model)
    return Policy(parts, ThinkBoxed(), sampling=SamplingConfig(max_new_tokens=8, temperature=0.9))


def grouped(view: View, responses: list[Any], number: int, advantages: bool = True) -> TrainGroup:
    count = len(responses)
    group = Group(view.example, (view,), tuple(responses), sampled_from=(0,) * count, updated_on=(0,) * count)
    grades = tuple(Grade(float(right), right) for right in CORRECT[number][:count])
    return TrainGroup(ScoredGroup(group, grades), ADVANTAGES[number][:count] if advantages else (0.0,) * count)


def made(policy: Policy, bars: Bars, *, advantages: bool = False, text_only: bool = False) -> list[TrainGroup]:
    """Three groups of three responses to clean views; without advantages the gradient is that of the term alone."""
    views = [policy.view(bars.example(n), index) for n, index in enumerate((11, 4, 7))]
    if text_only:
        views[1] = policy.view(Example("t", "What is 1 + 2?", "3"), 4)
    drawn = draw(policy, views, [3, 3, 3], seed=2)
    return [
        grouped(view, [cut(r, n) for r, n in zip(of_view, LENGTHS[number], strict=True)], number, advantages)
        for number, (view, of_view) in enumerate(zip(views, drawn, strict=True))
    ]


def with_terms(*terms: Any, **config: Any) -> GRPO:
    return GRPO(GRPO.Config(terms=terms, **config))


def rows_of(groups: list[TrainGroup]) -> list[tuple[View, Any, float, bool]]:
    return [
        (group.group.views[0], response, advantage, grade.correct)
        for group in groups
        for response, advantage, grade in zip(group.group.responses, group.advantages, group.scored.grades, strict=True)
    ]


def gradients(policy: Policy, loss: Tensor) -> list[Tensor]:
    parameters = [p for p in policy.module.parameters() if p.requires_grad]
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]


def at(logp_TV: Tensor, response: Any) -> Tensor:
    return logp_TV.gather(-1, response.ids_T[:, None])[:, 0]


def k3(d: Tensor) -> Tensor:
    return d.exp() - d - 1


def entropy(p: Tensor) -> Tensor:
    q = p / p.sum(-1, keepdim=True)
    return -(q * q.clamp_min(1e-30).log()).sum(-1)


def masked(policy: Policy, view: View, change: Any = PATCHES) -> View:
    return change.build().make_view(policy, view)


# --- by hand --------------------------------------------------------------------------------------------------------


def papo_loss(config: PAPO.Config) -> Callable[[Policy, list[TrainGroup]], Tensor]:
    def loss(policy: Policy, groups: list[TrainGroup]) -> Tensor:
        rows, total = rows_of(groups), torch.zeros(())
        for view, response, _, _ in rows:
            own_TV = own_forward(policy, view, response)
            other_TV = own_forward(policy, masked(policy, view), response)
            other_TV = other_TV if config.recompute else other_TV.detach()
            own_T, other_T = at(own_TV, response), at(other_TV, response)
            kl_T = k3(other_T - own_T)
            if config.estimate == "full":
                kl_T = (own_TV.exp() * (own_TV - other_TV)).sum(-1)
            parts = -config.coefficient * kl_T - config.own_entropy * own_T - config.masked_entropy * other_T
            total = total + parts.mean() / len(rows)
        return total

    return loss


def clamped_loss(policy: Policy, groups: list[TrainGroup]) -> Tensor:
    rows, total = rows_of(groups), torch.zeros(())
    for view, response, _, _ in rows:
        p_TV = own_forward(policy, view, response).exp()
        kept = p_TV.shape[-1] - int(p_TV.shape[-1] * Fraction(99, 100))
        total = total - 0.5 * entropy(p_TV.sort(-1).values[:, -kept:]).mean() / len(rows)
    return total


def nucleus_loss(policy: Policy, groups: list[TrainGroup]) -> Tensor:
    means = []
    for view, response, _, _ in rows_of(groups):
        p_TV = own_forward(policy, view, response).exp()
        values = []
        for p_V in p_TV.sort(-1, descending=True).values:
            size = next(n for n in range(1, len(p_V) + 1) if float(p_V[:n].sum().detach()) >= 0.95)
            values.append(entropy(p_V[None, :size])[0])
        entropies_T = torch.stack(values)
        above = entropies_T.detach() > torch.quantile(entropies_T.detach(), 0.5)
        if bool(above.any()):
            means.append(entropies_T[above].mean())
    return 0.5 * (torch.stack(means).mean() - 2.0) ** 2


def roma_loss(policy: Policy, groups: list[TrainGroup]) -> Tensor:
    """With one view the random choice of the policy gradient's is none; the worst is by token."""
    rows, total = rows_of(groups), torch.zeros(())
    for view, response, _, right in rows:
        if not right:
            continue
        own_T = at(own_forward(policy, view, response), response).detach()
        degraded = [at(own_forward(policy, masked(policy, view, each), response), response) for each in DEGRADED]
        worst_T = torch.stack([k3(each - own_T) for each in degraded]).max(dim=0).values
        total = total + 0.5 * worst_T.mean() / len(rows)
    return total


BY_HAND: dict[str, tuple[Callable[[], Any], Callable[[Policy, list[TrainGroup]], Tensor]]] = {}
for _estimate in ("k3", "full"):
    for _recompute in (False, True):
        _config = PAPO.Config(
            estimate=_estimate,  # type: ignore[arg-type]
            recompute=_recompute,
            coefficient=0.5,
            own_entropy=0.1,
            masked_entropy=0.2,
            patch=16,
            **({"cap": None} if _estimate == "k3" else {}),  # type: ignore[arg-type]
        )
        BY_HAND[f"papo {_estimate} {_recompute}"] = (_config.build, papo_loss(_config))
BY_HAND["clamped"] = (
    ClampedEntropy.Config(coefficient=0.5, clamp=Fraction(99, 100), adaptive=False).build,
    clamped_loss,
)
BY_HAND["roma"] = (ROMA.Config(views=DEGRADED, coefficient=0.5, auxiliary=0.0).build, roma_loss)


def anchored() -> NucleusEntropy:
    term = NucleusEntropy(NucleusEntropy.Config(coefficient=0.5, p=Fraction(19, 20), quantile=Fraction(1, 2)))
    term.anchor = 2.0
    return term


BY_HAND["nucleus"] = (anchored, nucleus_loss)


def objective_of(build: Callable[[], Any]) -> GRPO:
    objective = with_terms()
    objective.terms = (build(),)
    return objective


@pytest.mark.parametrize("name", BY_HAND)
def test_the_gradient_is_that_of_plain_forwards(policy: Policy, bars: Bars, name: str) -> None:
    build, by_hand = BY_HAND[name]
    groups = made(policy, bars)
    loss = by_hand(policy, groups)
    expected = gradients(policy, loss)
    metrics, (ours,) = update(policy, groups, objective_of(build))
    assert metrics["loss"] == pytest.approx(float(loss.detach()), rel=1e-3, abs=1e-5)
    assert_same_gradients(ours, expected)
    _, (parts,) = update(policy, groups, objective_of(build), micro_groups=1)
    assert_same_gradients(parts, ours)


def test_the_auxiliary_gradient_of_roma(policy: Policy, bars: Bars) -> None:
    """Advantage times log-probability under the degraded view, of right responses, and the policy loss beside it."""
    groups = made(policy, bars, advantages=True)
    view_change = GaussianNoise.Config()
    total, rows = torch.zeros(()), rows_of(groups)
    for view, response, advantage, right in rows:
        total = total - advantage * at(own_forward(policy, view, response), response).mean() / len(rows)
        if right:
            degraded_T = at(own_forward(policy, masked(policy, view, view_change), response), response)
            total = total - 0.5 * advantage * degraded_T.mean() / len(rows)
    expected = gradients(policy, total)
    roma = ROMA.Config(views=(view_change,), coefficient=0.0, auxiliary=0.5)
    _, (ours,) = update(policy, groups, with_terms(roma))
    assert_same_gradients(ours, expected)


def test_the_weight_of_vppo_in_the_update(policy: Policy, bars: Bars) -> None:
    groups, patches = made(policy, bars, advantages=True), BlackPatches.Config(patch=16)
    rows, scores = rows_of(groups), []
    for view, response, _, _ in rows:
        with torch.no_grad():
            pair = [at(own_forward(policy, each, response), response) for each in (view, masked(policy, view, patches))]
        scores.append(k3(pair[1] - pair[0]).clamp(0, 10))
    means = torch.stack([each.mean() for each in scores])
    shares = (means - means.min()) / (means.max() - means.min())
    factors = 0.9 + shares * 0.1 / shares.mean()
    assert float(factors.mean()) == pytest.approx(1.0)
    total = torch.zeros(())
    for (view, response, advantage, _), score_T, factor in zip(rows, scores, factors, strict=True):
        kept = torch.zeros(len(response))
        kept[score_T.argsort(descending=True, stable=True)[: -(-len(response) * 2 // 5)]] = factor
        logp_T = at(own_forward(policy, view, response), response)
        total = total - advantage * (kept * logp_T).mean() / len(rows)
    expected = gradients(policy, total)
    for training in ({}, {"micro_groups": 1}):
        _, (ours,) = update(policy, groups, with_terms(weights=(VPPO.Config(patch=16),)), **training)
        assert_same_gradients(ours, expected)


# --- however the update is cut into parts ---------------------------------------------------------------------------

PARTS: dict[str, Mapping[str, Any]] = {
    "adaptive-entropy": {"terms": ({"type": "adaptive-entropy", "start": 0.5, "max": 1.0, "target": 20.0},)},
    "nucleus-entropy": {"terms": ({"type": "nucleus-entropy", "coefficient": 0.5, "quantile": "1/2"},)},
    "papo": {"terms": ({"type": "papo", "recompute": True, "estimate": "full", "coefficient": 0.5},)},
    "roma": {"terms": ({"type": "roma", "auxiliary": 0.5},)},
    "vppo": {"weights": ({"type": "vppo", "count_zeroed": False},)},
}


@pytest.fixture
def undecided(random_parts: Parts) -> Policy:
    parts = replace(random_parts, model=copy.deepcopy(random_parts.model))
    return Policy(parts, ThinkBoxed(), sampling=SamplingConfig(max_new_tokens=8, temperature=0.9))


@pytest.mark.parametrize("share", [2, 3], ids=["two and one", "all and none"])
@pytest.mark.parametrize("name", PARTS)
def test_two_processes_see_what_one_sees(undecided: Policy, bars: Bars, name: str, share: int) -> None:
    """Over two epochs of two optimiser steps, in micro-batches of one group, with a text-only group."""
    groups = sorted(made(undecided, bars, advantages=True, text_only=True), key=lambda each: each.group.index)
    training = {"ppo_epochs": 2, "updates_per_batch": 2, "prompts_per_step": 3}
    built: list[GRPO] = []

    def objective() -> GRPO:
        built.append(GRPO(GRPO.Config.model_validate(PARTS[name])))
        return built[-1]

    start = copy.deepcopy(undecided.module.state_dict())
    metrics, expected = update(undecided, groups, objective(), lr=0.001, **training)
    undecided.module.load_state_dict(start)
    (left, left_gradients), (right, _) = in_two(
        undecided, [groups[:share], groups[share:]], objective, lr=0.001, micro_groups=1, **training
    )
    assert left == right == pytest.approx(metrics, rel=1e-3, abs=1e-5)
    moving = 0
    for ours, theirs in zip(left_gradients, expected, strict=True):
        if any(bool(gradient.any()) for gradient in theirs):
            assert_same_gradients(ours, theirs)
            moving += 1
        else:  # the text-only group alone, which has weight 0
            assert not any(bool(gradient.any()) for gradient in ours)
    assert moving >= 2
    states = [[term.state_dict() for term in each.terms] for each in built]
    assert states[0] == states[1] == states[2] or name == "nucleus-entropy"
    if name == "nucleus-entropy":
        assert states[1] == states[2]
        assert states[0][0]["anchor"] == pytest.approx(states[1][0]["anchor"], rel=1e-5)
    assert ("left_out/no-image" in metrics) == (name in ("papo", "roma", "vppo"))
    if "left_out/no-image" in metrics:
        assert metrics["left_out/no-image"] == pytest.approx(1 / 3)


def test_the_coefficient_moves_once_in_a_step(undecided: Policy, bars: Bars) -> None:
    groups = made(undecided, bars)
    drawn = torch.cat([r.entropy_T for each in groups for r in each.group.responses])
    objective = with_terms(AdaptiveEntropy.Config(target=20.0, start=0.001))
    training = {"ppo_epochs": 2, "updates_per_batch": 3, "prompts_per_step": 3}
    metrics, steps = update(undecided, groups, objective, **training)
    assert len(steps) == 6
    (term,) = objective.terms
    assert term.applied == pytest.approx(0.0011)  # type: ignore[attr-defined]
    assert metrics["adaptive-entropy/coefficient"] == pytest.approx(0.0011)
    assert metrics["adaptive-entropy/drawn_entropy"] == pytest.approx(float(drawn.mean()), rel=1e-5)
    replayed = [replace(each, old_logp=tuple(torch.zeros(len(r)) for r in each.group.responses)) for each in groups]
    update(undecided, replayed, objective, **training)
    assert term.applied == pytest.approx(0.0011)  # type: ignore[attr-defined]  # nothing was drawn
    update(undecided, [*groups[:1], *replayed[1:]], objective, **training)
    assert term.applied == pytest.approx(0.0012)  # type: ignore[attr-defined]
    first = torch.cat([r.entropy_T for r in groups[0].group.responses])
    assert term.state_dict()["drawn_entropy"] == pytest.approx(float(first.mean()), rel=1e-5)


def test_a_text_only_group_has_no_gradient_from_changed_pictures(undecided: Policy, bars: Bars) -> None:
    groups = made(undecided, bars, text_only=True)
    papo = PAPO.Config(recompute=True, coefficient=0.5)
    _, (ours,) = update(undecided, groups, with_terms(papo))
    parameters = [p for p in undecided.module.parameters() if p.requires_grad]
    alone, counts = [torch.zeros_like(p) for p in parameters], (0, 2)
    for number in counts:
        _, (part,) = update(undecided, [groups[number]], with_terms(papo))
        alone = [a + b / 3 for a, b in zip(alone, part, strict=True)]
    assert_same_gradients(ours, alone)
