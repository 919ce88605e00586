"""Criteria by hand and by the model's own forward, and what is measured after an attack."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from groups import draw, no_grades, own_forward
from saei.entropy.token_states import TokenStates, fused_per_token, per_token
from saei.errors import ConfigError
from saei.interventions import Intervention, InterventionConfig, Outcome
from saei.interventions.context import StepContext, Supply
from saei.interventions.criteria import NLL, RandomDirection
from saei.interventions.guards import NoGuard
from saei.need import Need
from saei.policy import Policy, Scores
from saei.policy.pixels.space import GRID
from saei.policy.statistics.distributions import Entropy as EntropyStatistic
from saei.policy.statistics.distributions import LogProbability, TopKEntropy
from saei.policy.statistics.needs import check_needs
from saei.runtime.seeds import GroupSources
from saei.testing import check_criterion, check_statistic
from saei.types import Response, View

UNSEEDED = torch.Generator()
FROM_RANDOM = {"type": "pgd", "steps": 2, "random_start": True, "radius": "4/255"}


@pytest.fixture
def responses(random_policy: Policy, views: list[View]) -> list[list[Response]]:
    return draw(random_policy, views, [3, 2])


def apply(
    policy: Policy, views: list[View], responses: list[list[Response]], *, traced: bool = False, **slots: Any
) -> list[Outcome]:
    step = StepContext(policy, 0.0, GroupSources(0), traced=traced)
    config = InterventionConfig.model_validate(slots)
    return Intervention(config).apply(views, responses, step, Supply(no_grades))


def middle(response: Response) -> list[int]:
    """The positions of a response's middle third, found by sorting."""
    entropies, length = response.entropy_T.tolist(), len(response)
    return sorted(range(length), key=lambda t: (entropies[t], t))[length // 3 : length - length // 3]


def top_entropy(logp_TV: Tensor, k: int) -> Tensor:
    probs = logp_TV.exp().sort(dim=-1, descending=True).values[:, :k]
    return torch.distributions.Categorical(probs=probs).entropy()


def brute_kl(policy: Policy, response: Response, moved: View, clean: View, canvas: Tensor | None = None) -> Tensor:
    """``KL(moved‖clean)`` at each token by the textbook's sum, in float64."""
    p_TV = own_forward(policy, moved, response, canvas).double().log_softmax(-1)
    q_TV = own_forward(policy, clean, response).double().log_softmax(-1).detach()
    return (p_TV.exp() * (p_TV - q_TV)).sum(-1)


# By hand


def test_the_entropy_and_the_log_probability_of_a_token_by_hand() -> None:
    logp_mV = torch.tensor([[0.5, 0.25, 0.25], [0.5, 0.25, 0.25]]).log()
    ids_m = torch.tensor([0, 2])
    torch.testing.assert_close(EntropyStatistic().of_distribution(logp_mV, ids_m), torch.full((2,), 1.5 * math.log(2)))
    of_tokens = LogProbability().of_distribution(logp_mV, ids_m)
    torch.testing.assert_close(of_tokens, torch.tensor([-math.log(2), -math.log(4)]))


def test_the_entropy_of_the_likeliest_tokens_by_hand() -> None:
    logp_mV = torch.tensor([[0.125, 0.5, 0.125, 0.25], [0.25, 0.25, 0.25, 0.25]]).log()
    two = TopKEntropy(TopKEntropy.Config(k=2)).of_distribution(logp_mV, torch.zeros(2).long())
    of_thirds = -(2 / 3 * math.log(2 / 3) + 1 / 3 * math.log(1 / 3))
    torch.testing.assert_close(two, torch.tensor([of_thirds, math.log(2)]))
    everything = TopKEntropy(TopKEntropy.Config(k=9)).of_distribution(logp_mV, torch.zeros(2).long())
    torch.testing.assert_close(everything, EntropyStatistic().of_distribution(logp_mV, torch.zeros(2).long()))
    for k in (2, 3, 9):
        check_statistic(TopKEntropy.Config(k=k))


@pytest.mark.parametrize("banned", [False, True])
@pytest.mark.parametrize("chunk_elements", [1, 2**23])
def test_a_fused_function_has_the_gradient_of_autograd(banned: bool, chunk_elements: int) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden_Md = torch.randn(7, 5, generator=generator, dtype=torch.float64)
    head = nn.Linear(5, 11).double()
    grad_M = torch.randn(7, generator=generator, dtype=torch.float64)
    banned_V = torch.arange(11) == 3 if banned else None
    results = []
    for way in (fused_per_token, per_token):
        leaf = hidden_Md.clone().requires_grad_()
        values_M = way(
            TopKEntropy(TopKEntropy.Config(k=4)).of_distribution,
            TokenStates(leaf, head, hidden_only=True),
            ids_M=torch.zeros(7).long(),
            temperature=0.7,
            banned_V=banned_V,
            chunk_elements=chunk_elements,
        )
        results.append((values_M.detach(), torch.autograd.grad(values_M, leaf, grad_M)[0]))
    torch.testing.assert_close(*results)
    logits_MV = head(hidden_Md).detach() / 0.7
    if banned:
        logits_MV[:, 3] = -torch.inf
    torch.testing.assert_close(results[0][0], top_entropy(logits_MV.log_softmax(-1), 4))


def test_a_fused_function_multiplies_the_head_twice() -> None:
    """Once forward, in chunks, and once for the gradient; nothing is left for the backward pass."""
    rows: list[int] = []

    def function(logp_mV: Tensor, ids_m: Tensor) -> Tensor:
        rows.append(len(logp_mV))
        return logp_mV.square().sum(-1)

    hidden_Md = torch.randn(6, 5).requires_grad_()
    states = TokenStates(hidden_Md, nn.Linear(5, 11), hidden_only=True)
    values_M = fused_per_token(function, states, ids_M=torch.zeros(6).long(), chunk_elements=22)
    assert rows == [2, 2, 2]
    values_M.sum().backward()
    assert rows == [2, 2, 2]
    assert hidden_Md.grad is not None


def test_a_random_direction_by_hand() -> None:
    logp_NT = torch.tensor([[-0.5, -4.0, -1.0], [-2.0, -3.0, 0.0]])
    mask_NT = torch.tensor([[True, True, True], [True, True, False]])
    scores = Scores(logp_NT, None, mask_NT)
    weight_NT = torch.tensor([[2.0, -1.0, 0.5], [3.0, 9.0, 9.0]])
    selected_NT = torch.tensor([[False, True, True], [True, False, False]])
    for pooled in (False, True):
        J = RandomDirection().value(scores, selected_NT, pooled=pooled, weight_NT=weight_NT)
        assert float(J) == pytest.approx(4.0 - 0.5 - 6.0)
        weighted = NLL().value(scores, selected_NT, pooled=pooled, weight_NT=weight_NT)
        assert float(weighted) == pytest.approx((-4.0 + 0.5 + 6.0) / 3 if pooled else ((-4.0 + 0.5) / 2 + 6.0) / 2)


def test_each_draw_is_another_direction() -> None:
    mask_NT, generator = torch.ones(200, 200, dtype=torch.bool), torch.Generator().manual_seed(0)
    first, second = (RandomDirection().draw_weights(mask_NT, generator) for _ in range(2))
    assert not torch.equal(first, second)
    assert torch.equal(first, RandomDirection().draw_weights(mask_NT, torch.Generator().manual_seed(0)))
    assert float(first.mean()) == pytest.approx(0, abs=0.02)
    assert float(first.std()) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(
    ("draw_weights", "rule"),
    [
        (lambda self, mask_NT, generator: torch.randn(mask_NT.shape), "global random state"),
        (lambda self, mask_NT, generator: torch.ones(len(mask_NT), 1), "one finite weight per token"),
        (lambda self, mask_NT, generator: torch.randn(mask_NT.shape, generator=UNSEEDED), "the same generator"),
    ],
)
def test_the_contract_catches_weights_from_elsewhere(
    draw_weights: Any, rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_criterion(RandomDirection())
    monkeypatch.setattr(RandomDirection, "draw_weights", draw_weights)
    with pytest.raises(AssertionError, match=rule):
        check_criterion(RandomDirection())


# Attacks


def naive(policy: Policy, kind: str, view: View, drawn: list[Response], canvas: Tensor, weight_NT: Tensor) -> Tensor:
    """J by one forward per response."""
    means, total = [], torch.zeros(())
    for response, weight_T in zip(drawn, weight_NT, strict=True):
        places = middle(response)
        logp_TV = own_forward(policy, view, response, canvas)
        if kind == "top-k-entropy":
            means.append(top_entropy(logp_TV, 3)[places].mean())
        else:
            logp_T = logp_TV.gather(-1, response.ids_T[:, None])[:, 0]
            total = total + (logp_T * weight_T[: len(response)])[places].sum()
    return torch.stack(means).mean() if means else total


@pytest.mark.parametrize("kind", ["top-k-entropy", "random-direction"])
def test_attacks_equal_naive_ones(
    random_policy: Policy, views: list[View], responses: list[list[Response]], kind: str
) -> None:
    """Two steps, between which a random direction stays the same."""
    chosen = {"type": kind, **({"k": 3} if kind == "top-k-entropy" else {})}
    attack = {"type": "pgd", "steps": 2, "step": "2/255"}
    outcomes = apply(random_policy, views, responses, criterion=chosen, attack=attack, measure="always")
    sources = GroupSources(0)
    for view, drawn, outcome in zip(views, responses, outcomes, strict=True):
        weight_NT = torch.randn(len(drawn), max(map(len, drawn)), generator=sources(view))
        (clean,) = view.canvases
        canvas, gradients = clean, []
        for _ in range(2):
            point = canvas.detach().clone().requires_grad_()
            J = naive(random_policy, kind, view, drawn, point, weight_NT)
            if not gradients:
                assert outcome.metrics["criterion"] == pytest.approx(float(J.detach()), abs=1e-4)
            gradients.append(torch.autograd.grad(J, point)[0])
            canvas = ((canvas + 2 * GRID * gradients[-1].sign()).clamp(0, 1) * 255).round() / 255
        certain = torch.stack([each.abs() > 1e-3 * each.abs().max() for each in gradients]).all(0)
        assert float(certain.float().mean()) > 0.9
        (moved,) = outcome.view.canvases
        assert float((moved[certain] - canvas[certain]).abs().max()) < 1e-6
        with torch.no_grad():
            after = naive(random_policy, kind, view, drawn, moved, weight_NT)
        assert outcome.metrics["criterion_after"] == pytest.approx(float(after), abs=1e-4)


def test_views_of_several_random_directions_differ(random_policy: Policy, views: list[View]) -> None:
    (drawn,) = draw(random_policy, views[:1], [2])
    step = StepContext(random_policy, 0.0, GroupSources(0))
    for kind, count in (("random-direction", 3), ("entropy", 1)):
        intervention = Intervention(InterventionConfig.model_validate({"criterion": kind}))
        (outcomes,) = intervention.apply_repeatedly(views[:1], [drawn], step, Supply(no_grades), times=3)
        assert len({outcome.view.canvases[0].numpy().tobytes() for outcome in outcomes}) == len(outcomes) == count


def test_an_attack_on_the_divergence_raises_it(
    random_policy: Policy, views: list[View], responses: list[list[Response]]
) -> None:
    """J is the divergence of the moved view from the clean one on the selected tokens, by the textbook's sum."""
    found = {}
    for direction in ("raise", "lower"):
        outcomes = apply(
            random_policy,
            views,
            responses,
            criterion="kl",
            attack={**FROM_RANDOM, "direction": direction},
            measure="always",
        )
        for view, drawn, outcome in zip(views, responses, outcomes, strict=True):
            divergences = [brute_kl(random_policy, each, outcome.view, view).detach() for each in drawn]
            J = sum(float(kl[middle(each)].mean()) for each, kl in zip(drawn, divergences, strict=True)) / len(drawn)
            assert outcome.metrics["criterion_after"] == pytest.approx(J, rel=1e-3)
            assert outcome.metrics["view_kl"] == pytest.approx(float(torch.cat(divergences).mean()), rel=1e-3)
        found[direction] = sum(outcome.metrics["criterion_after"] for outcome in outcomes)
    assert found["raise"] > 1.5 * found["lower"] > 0


@pytest.mark.parametrize(
    ("attack", "named"),
    [
        ("pgd", "'pgd'"),
        ({"type": "pgd", "steps": 3}, "'pgd'"),
        ("fgsm", "'fgsm'"),
        ({"type": "torchattacks", "name": "MIFGSM"}, "'torchattacks'"),
        ({"type": "torchattacks", "name": "PGD", "random_start": False}, "'torchattacks'"),
    ],
)
def test_a_divergence_from_where_it_is_least_is_refused(attack: Any, named: str) -> None:
    with pytest.raises(ValueError, match=f"no gradient. The attack {named} begins at the clean view. Give the attack"):
        InterventionConfig.model_validate({"criterion": "kl", "attack": attack})
    InterventionConfig.model_validate({"criterion": "nll", "attack": attack})


@pytest.mark.parametrize(
    "attack", ["noise", {"type": "fgsm", "random_start": True}, {"type": "torchattacks", "name": "RFGSM"}]
)
def test_a_divergence_from_elsewhere_is_taken(attack: Any) -> None:
    InterventionConfig.model_validate({"criterion": "kl", "attack": attack})


# What is measured


@pytest.mark.parametrize("attack", ["pgd", "noise"])
def test_the_criterion_before_and_after(
    random_policy: Policy, views: list[View], responses: list[list[Response]], attack: str
) -> None:
    """Also of an attack that never asks for it; the divergence over all tokens, not over the selected ones alone."""
    outcomes = apply(random_policy, views, responses, attack=attack, measure="always")
    for view, drawn, outcome in zip(views, responses, outcomes, strict=True):
        for name, looked_at in (("criterion", view), ("criterion_after", outcome.view)):
            means = []
            for response in drawn:
                logp_TV = own_forward(random_policy, looked_at, response).detach()
                means.append(torch.distributions.Categorical(logits=logp_TV).entropy()[middle(response)].mean())
            assert outcome.metrics[name] == pytest.approx(float(torch.stack(means).mean()), abs=2e-5)
        divergences = [brute_kl(random_policy, each, outcome.view, view).detach() for each in drawn]
        assert outcome.metrics["view_kl"] == pytest.approx(float(torch.cat(divergences).mean()), rel=1e-3)


def test_raising_and_lowering_show_in_the_share_of_groups_in_which_the_criterion_rose(
    random_policy: Policy, views: list[View], responses: list[list[Response]]
) -> None:
    """By J itself, before and after, of each group: the mean over groups is what a study's checks read."""
    shares = {}
    for direction in ("raise", "lower"):
        attack = {"type": "pgd", "steps": 4, "direction": direction}
        outcomes = apply(random_policy, views, responses, attack=attack, measure="always")
        rose = [outcome.metrics["criterion_after"] > outcome.metrics["criterion"] for outcome in outcomes]
        assert [outcome.metrics["criterion_rose"] for outcome in outcomes] == [float(each) for each in rose]
        shares[direction] = sum(rose) / len(rose)
    assert shares == {"raise": 1.0, "lower": 0.0}


@pytest.mark.parametrize(
    ("when", "traced", "measured"),
    [
        ("always", False, True),
        ("evaluated-steps", False, False),
        ("evaluated-steps", True, True),
        ("never", True, False),
    ],
)
def test_when_it_is_measured(
    random_policy: Policy, views: list[View], responses: list[list[Response]], when: str, traced: bool, measured: bool
) -> None:
    for outcome in apply(random_policy, views, responses, measure=when, traced=traced):
        assert ("criterion_after" in outcome.metrics) == ("view_kl" in outcome.metrics) == measured
        assert ("criterion_rose" in outcome.metrics) == measured
        assert "criterion" in outcome.metrics


def test_measuring_is_off_by_default_where_nobody_looks() -> None:
    assert InterventionConfig().measure == "evaluated-steps"


@pytest.mark.parametrize("micro_groups", [None, 1])
def test_measuring_changes_nothing(
    random_policy: Policy, views: list[View], responses: list[list[Response]], micro_groups: int | None
) -> None:
    """Not the views, not what is drawn afterwards, even where tokens are chosen at random at every point."""
    results = []
    for when in ("always", "never"):
        step = StepContext(random_policy, 0.0, GroupSources(0))
        slots = {
            "selector": {"type": "random", "exclude": ["eos"]},
            "reselect": True,
            "attack": FROM_RANDOM,
            "measure": when,
        }
        config = InterventionConfig.model_validate({**slots, "micro_groups": micro_groups})
        outcomes = Intervention(config).apply(views, responses, step, Supply(no_grades))
        results.append(([outcome.view.canvases[0] for outcome in outcomes], step.states(views), outcomes))
    (measured, states, outcomes), (plain, plain_states, plain_outcomes) = results
    assert all(map(torch.equal, measured, plain))
    assert states == plain_states
    for outcome, other in zip(outcomes, plain_outcomes, strict=True):
        assert outcome.metrics == {
            **other.metrics,
            "criterion_after": outcome.metrics["criterion_after"],
            "view_kl": outcome.metrics["view_kl"],
            "criterion_rose": outcome.metrics["criterion_rose"],
        }
    assert not any(values.ndim > 1 for known in random_policy.known.values() for values in known.values())


@pytest.mark.parametrize(
    ("slots", "passes"),
    [
        ({"measure": "never"}, 1),
        ({"measure": "always"}, 2),  # the attack's own pass has the hidden states of the clean side
        ({"measure": "always", "attack": {"type": "pgd", "steps": 3}}, 4),
        ({"measure": "always", "attack": {"type": "pgd", "random_start": True}}, 3),
        ({"measure": "always", "attack": {"type": "pgd", "random_start": True}, "criterion": "kl"}, 3),
        ({"measure": "always", "attack": "noise"}, 2),
        ({"measure": "always", "criterion": "top-k-entropy"}, 2),
    ],
    ids=str,
)
def test_measuring_costs_one_pass_more(
    random_policy: Policy, views: list[View], responses: list[list[Response]], slots: dict[str, Any], passes: int
) -> None:
    """And one for the clean side where the attack never was there."""
    forwards: list[int] = []
    handle = random_policy.module.register_forward_hook(lambda *_: forwards.append(1))
    try:
        apply(random_policy, views, responses, **slots)
    finally:
        handle.remove()
    assert len(forwards) == passes


# Needs with settings


def test_a_need_may_have_settings(random_policy: Policy, views: list[View], responses: list[list[Response]]) -> None:
    needs = [Need(TopKEntropy.Config(k=k)) for k in (2, 5)]
    check_needs(needs, "The test")
    assert str(needs[1]) == "top-k-entropy {'k': 5} (own view, current policy)"
    for drawn, known in zip(responses, random_policy.statistics(needs, views, responses), strict=True):
        (view,) = [view for view, other in zip(views, responses, strict=True) if other is drawn]
        for need, k in zip(needs, (2, 5), strict=True):
            expected = top_entropy(own_forward(random_policy, view, drawn[0]).detach(), k)
            torch.testing.assert_close(known[need][0, : len(drawn[0])], expected, atol=5e-5, rtol=0)
    with pytest.raises(ConfigError, match="'none' is a guard"):
        check_needs([Need(NoGuard.Config())], "The test")
