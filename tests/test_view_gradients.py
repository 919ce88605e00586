"""Gradients of the current policy under another view than a response's own: against one forward per response."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from torch import Tensor

from groups import draw, own_forward
from saei.config.sections import SamplingConfig
from saei.data.bars import Bars
from saei.data.templates import ThinkBoxed
from saei.errors import ConfigError
from saei.need import Need
from saei.policy import Policy
from saei.policy.load.checkpointing import checkpoint_layers
from saei.policy.load.weights import Parts
from saei.policy.statistics.distributions import TopKEntropy
from saei.policy.statistics.needs import check_needs
from saei.types import Response, View
from saei.views import BlackPatches

MASKED = BlackPatches.Config(patch=16, probability=Fraction(3, 5))
NEEDS = {
    "logp": Need("logp", view=MASKED, grad=True),
    "entropy": Need("entropy", view="clean", grad=True),
    "top-k entropy": Need(TopKEntropy.Config(k=4), view=MASKED, grad=True),
    "kl of both sides": Need("kl", view=MASKED, grad="both"),
    "kl of one side": Need("kl", view=MASKED, grad=True),
    "k3 of both sides": Need("kl-k3", view="clean", grad="both"),
    "k3 of one side": Need("kl-k3", view="clean", grad=True),
}


@pytest.fixture(scope="module", params=["qwen", "llava"])
def random_parts(request: pytest.FixtureRequest, random_parts: Parts, llava_parts: Parts) -> Parts:
    return {"qwen": random_parts, "llava": llava_parts}[request.param]


@pytest.fixture
def policy(random_parts: Parts) -> Policy:
    parts = replace(random_parts, model=copy.deepcopy(random_parts.model))
    return Policy(parts, ThinkBoxed(), sampling=SamplingConfig(max_new_tokens=6, temperature=0.9))


@pytest.fixture
def clean(policy: Policy, bars: Bars) -> list[View]:
    return [policy.view(bars.example(n), n) for n in range(2)]


@pytest.fixture
def own(clean: list[View]) -> list[View]:
    return [replace(view, origin="moved", canvases=(1 - view.canvases[0],)) for view in clean]


@pytest.fixture
def responses(policy: Policy, own: list[View]) -> list[list[Response]]:
    return draw(policy, own, [2, 1])


def by_hand(name: str, logp_TV: Tensor, other_TV: Tensor, ids_T: Tensor) -> Tensor:
    """The statistic of one response, from its distributions under its own view and under the other one."""
    at_T = logp_TV.gather(-1, ids_T[:, None])[:, 0]
    other_T = other_TV.gather(-1, ids_T[:, None])[:, 0]
    if name == "logp":
        return other_T
    if name == "entropy":
        return -(other_TV.exp() * other_TV).sum(-1)
    if name == "top-k entropy":
        likeliest = other_TV.topk(4).values.exp()
        share = likeliest / likeliest.sum(-1, keepdim=True)
        return -(share * share.log()).sum(-1)
    if name.endswith("one side"):
        other_T, other_TV = other_T.detach(), other_TV.detach()
    if name.startswith("kl"):
        return (logp_TV.exp() * (logp_TV - other_TV)).sum(-1)
    return (other_T - at_T).exp() - (other_T - at_T) - 1


def gradients(policy: Policy, value: Tensor) -> list[Tensor]:
    parameters = [p for p in policy.module.parameters() if p.requires_grad]
    found = torch.autograd.grad(value, parameters, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]


def assert_same(ours: list[Tensor], expected: list[Tensor]) -> None:
    largest = max(float(each.abs().max()) for each in expected)
    assert largest > 1e-3
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a, b, atol=3e-5 * largest, rtol=0)


def weights_of(responses: list[list[Response]]) -> list[list[Tensor]]:
    """A different factor for each token, so that no token stands in for another."""
    generator = torch.Generator().manual_seed(7)
    return [[torch.randn(len(r), generator=generator) for r in of_view] for of_view in responses]


def score(policy: Policy, need: Need, own: list[View], clean: list[View], responses: list[list[Response]]) -> Tensor:
    scores = policy.score(own, responses, wrt="parameters", with_entropy=False, needs=[need], clean=clean)
    total = torch.zeros(())
    for of_view, factors in zip(scores, weights_of(responses), strict=True):
        for values_T, factor_T in zip(of_view.statistics[need], factors, strict=True):
            total = total + (values_T[: len(factor_T)] * factor_T).sum()
    return total


def expected(
    policy: Policy, name: str, own: list[View], clean: list[View], responses: list[list[Response]]
) -> tuple[Tensor, list[Tensor]]:
    total = torch.zeros(())
    for own_view, clean_view, drawn, factors in zip(own, clean, responses, weights_of(responses), strict=True):
        other = clean_view if NEEDS[name].view == "clean" else MASKED.build().make_view(policy, own_view)
        for response, factor_T in zip(drawn, factors, strict=True):
            pair = (own_forward(policy, view, response) for view in (own_view, other))
            total = total + (by_hand(name, *pair, response.ids_T) * factor_T).sum()
    return total.detach(), gradients(policy, total)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("name", NEEDS)
def test_the_gradient_is_that_of_plain_forwards(
    policy: Policy, own: list[View], clean: list[View], responses: list[list[Response]], name: str, shared: bool
) -> None:
    policy.shared_prefix = shared
    ours = score(policy, NEEDS[name], own, clean, responses)
    value, slopes = expected(policy, name, own, clean, responses)
    torch.testing.assert_close(ours.detach(), value, atol=2e-4, rtol=1e-4)
    assert_same(gradients(policy, ours), slopes)


@pytest.mark.parametrize("name", ["logp", "kl of both sides"])
def test_layers_that_are_computed_again_have_the_same_gradient(
    policy: Policy, own: list[View], clean: list[View], responses: list[list[Response]], name: str
) -> None:
    _, slopes = expected(policy, name, own, clean, responses)
    checkpoint_layers(policy.model, ("language", "vision"))
    assert_same(gradients(policy, score(policy, NEEDS[name], own, clean, responses)), slopes)


def test_each_view_costs_one_pass_and_no_gradient_none_more(
    policy: Policy, own: list[View], clean: list[View], responses: list[list[Response]], monkeypatch: pytest.MonkeyPatch
) -> None:
    module, count = policy.module, [0]

    def counted(*arguments: object) -> object:
        count[0] += 1
        return module(*arguments)

    monkeypatch.setattr(policy, "module", counted)
    both = [NEEDS["logp"], NEEDS["kl of both sides"], NEEDS["top-k entropy"]]
    policy.score(own, responses, wrt="parameters", with_entropy=False, needs=both, clean=clean)
    assert count == [2]  # the masked view with everything about it, and the own one
    clean_too = [*both, NEEDS["entropy"], NEEDS["k3 of both sides"]]
    policy.score(own, responses, wrt="parameters", with_entropy=False, needs=clean_too, clean=clean)
    assert count == [2 + 3]


REFUSED: dict[str, tuple[Need, str]] = {
    "reference": (Need("logp", policy="reference", grad=True), "the gradient is that of the current policy"),
    "old": (Need("entropy", view="clean", policy="old", grad=True), "the gradient is that of the current policy"),
    "both of an old one": (Need("kl", policy="old", grad="both"), "the gradient is that of the current policy"),
    "both of a reference": (Need("kl-k3", policy="reference", grad="both"), "the current policy"),
    "both of one": (Need("entropy", view="clean", grad="both"), "which has one side"),
    "a token": (Need("eos", view="clean", grad=True), "nothing is differentiated"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_gradient_is_refused(case: str) -> None:
    need, reason = REFUSED[case]
    with pytest.raises(ConfigError) as refused:
        check_needs([need], "A term", other_views=True)
    assert reason in str(refused.value.reason)


@pytest.mark.parametrize("name", [name for name in NEEDS if not name.endswith("one side")])
def test_an_attack_has_no_gradient_under_another_view(name: str) -> None:
    check_needs([NEEDS[name]], "A term", other_views=True)
    with pytest.raises(ConfigError) as refused:
        check_needs([NEEDS[name]], "A criterion")
    assert "under the own view there" in str(refused.value.reason)


def test_a_need_says_which_sides_have_a_gradient() -> None:
    said: Callable[[Need], str] = str
    assert said(NEEDS["kl of both sides"]).endswith("with gradient on both sides)")
    assert said(NEEDS["kl of one side"]).endswith("current policy, with gradient)")
