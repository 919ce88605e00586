"""Needs: what fills them against the model's own forward, how often passes are made, and what is refused."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any, Literal

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, kl_divergence

from groups import draw, official_inputs
from saei.config import registry
from saei.config.registry import register
from saei.config.run import EntropyConfig, ModelConfig, SamplingConfig
from saei.config.strategy import StrategyConfig
from saei.data.bars import Bars
from saei.data.templates import ThinkBoxed
from saei.errors import ConfigError, TrainingError
from saei.need import Need
from saei.policy import Policy
from saei.policy.load.weights import Parts
from saei.policy.statistics.base import DerivedStatistic, DistributionStatistic, DivergenceStatistic, TokenStatistic
from saei.policy.statistics.needs import check_needs, policies_of
from saei.testing import check_statistic, registered
from saei.types import Response, View

LOGP, ENTROPY, EOS, TEMPLATE = (Need(name) for name in ("logp", "entropy", "eos", "template"))
FROM_CLEAN = Need("kl", view="clean")


@pytest.fixture(scope="module", params=["qwen", "llava"])
def random_parts(request: pytest.FixtureRequest, random_parts: Parts, llava_parts: Parts) -> Parts:
    return {"qwen": random_parts, "llava": llava_parts}[request.param]


@pytest.fixture
def clean(random_policy: Policy, bars: Bars) -> list[View]:
    return [random_policy.view(bars.example(n)) for n in range(2)]


@pytest.fixture
def moved(clean: list[View]) -> list[View]:
    """The same views with other pictures."""
    return [replace(view, origin="moved", canvases=(1 - view.canvases[0],)) for view in clean]


@pytest.fixture
def responses(random_policy: Policy, moved: list[View]) -> list[list[Response]]:
    return draw(random_policy, moved, [3, 2])


def distribution(policy: Policy, view: View, response: Response) -> Categorical:
    """The policy's distribution at each token by the model's own forward on the official processor, in float64."""
    with torch.no_grad():
        logits = policy.model(**official_inputs(policy, view, response.ids_T)).logits
    banned_V = policy.distribution.banned_V
    assert banned_V is not None
    kept = logits[0, len(view.prompt_ids_P) - 1 : -1].double() / policy.sampling.temperature
    return Categorical(logits=kept.masked_fill(banned_V, -1e9))


class Passes:
    """Counts a policy's scoring passes."""

    def __init__(self, policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        module = policy.module

        def counted(inputs: Any, targets: Any = None, *rest: Any) -> Any:
            self.count += targets is not None
            return module(inputs, targets, *rest)

        monkeypatch.setattr(policy, "module", counted)

    def since(self) -> int:
        count, self.count = self.count, 0
        return count


@pytest.mark.parametrize("shared", [True, False])
def test_values_are_the_models_own(
    random_policy: Policy, clean: list[View], moved: list[View], responses: list[list[Response]], shared: bool
) -> None:
    random_policy.shared_prefix = shared
    needs = [LOGP, Need("logp", view="clean"), Need("entropy", view="clean"), FROM_CLEAN, Need("kl-k3", view="clean")]
    found = random_policy.statistics(needs, moved, responses, clean=clean)
    for number, of_view in enumerate(found):
        for n, response in enumerate(responses[number]):
            p, q = (distribution(random_policy, view, response) for view in (moved[number], clean[number]))
            logp_T, logq_T = p.log_prob(response.ids_T), q.log_prob(response.ids_T)
            expected = [logp_T, logq_T, q.entropy(), kl_divergence(p, q), (logq_T - logp_T).expm1() - logq_T + logp_T]
            for need, expected_T in zip(needs, expected, strict=True):
                values_T = of_view[need][n]
                # An error of a log-probability grows with k3's exponential.
                torch.testing.assert_close(values_T[: len(response)].double(), expected_T, atol=3e-5, rtol=1e-5)
                assert not values_T[len(response) :].any()
            assert float(of_view[FROM_CLEAN][n].max()) > 1e-4
            assert not of_view[FROM_CLEAN].requires_grad


def test_what_the_sampling_pass_found_out_costs_no_pass(
    random_policy: Policy, clean: list[View], moved: list[View], responses: list[list[Response]], monkeypatch: Any
) -> None:
    passes = Passes(random_policy, monkeypatch)
    needs = [LOGP, ENTROPY, EOS, TEMPLATE]
    drawn = random_policy.statistics(needs, moved, responses, clean=clean, drawn=True)
    assert passes.since() == 0
    for of_view, own in zip(drawn, responses, strict=True):
        for n, response in enumerate(own):
            assert torch.equal(of_view[LOGP][n, : len(response)], response.behaviour_logp_T)
            assert torch.equal(of_view[ENTROPY][n, : len(response)], response.entropy_T)
    random_policy.known.clear()
    random_policy.statistics([LOGP], clean, responses, drawn=False)
    assert passes.since() == 1
    continued = [[replace(response, forced=1) for response in own] for own in responses]  # from somewhere else
    random_policy.statistics([LOGP], moved, continued, drawn=True)
    assert passes.since() == 1


def test_everything_is_computed_once_until_the_weights_change(
    random_policy: Policy, clean: list[View], moved: list[View], responses: list[list[Response]], monkeypatch: Any
) -> None:
    passes = Passes(random_policy, monkeypatch)
    first = random_policy.statistics([Need("logp", view="clean"), FROM_CLEAN], moved, responses, clean=clean)
    assert passes.since() == 3  # the clean side's states, the clean view's scores, the divergence
    again = random_policy.statistics([FROM_CLEAN, Need("kl-k3", view="clean")], moved, responses, clean=clean)
    assert passes.since() == 1  # the own log-probabilities of the estimate
    assert torch.equal(first[0][FROM_CLEAN], again[0][FROM_CLEAN])
    random_policy.statistics([FROM_CLEAN], moved, responses, clean=clean)
    assert passes.since() == 0
    random_policy.weights_changed()
    random_policy.statistics([FROM_CLEAN], moved, responses, clean=clean)
    assert passes.since() == 2
    assert len(random_policy.known) == sum(map(len, responses))
    del first, again
    responses.clear()
    assert not len(random_policy.known)  # what is known of a response goes with it


def test_one_pass_serves_several_needs(
    random_policy: Policy, clean: list[View], moved: list[View], responses: list[list[Response]], monkeypatch: Any
) -> None:
    passes = Passes(random_policy, monkeypatch)
    needs = [Need("logp", view="clean"), Need("entropy", view="clean"), EOS]
    random_policy.statistics(needs, moved, responses, clean=clean)
    assert passes.since() == 1


@pytest.fixture
def reference(random_policy: Policy, random_parts: Parts) -> Policy:
    """Another policy of the same family."""
    parts = replace(random_parts, model=copy.deepcopy(random_parts.model))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in parts.model.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    other = Policy.around(parts, ModelConfig(), ThinkBoxed(), sampling=random_policy.sampling)
    random_policy.reference = other
    return other


def test_the_reference_looks_with_its_own_weights(
    random_policy: Policy, reference: Policy, moved: list[View], responses: list[list[Response]]
) -> None:
    needs = [Need("logp", policy="reference"), Need("kl", policy="reference")]
    (found, _) = random_policy.statistics(needs, moved, responses, update=True)
    for n, response in enumerate(responses[0]):
        p, q = (distribution(policy, moved[0], response) for policy in (random_policy, reference))
        for need, expected_T in zip(needs, (q.log_prob(response.ids_T), kl_divergence(p, q)), strict=True):
            assert float((found[need][n, : len(response)].double() - expected_T).abs().max()) < 3e-5


def test_the_gradient_of_a_divergence_reaches_the_parameters(
    random_policy: Policy, reference: Policy, moved: list[View], responses: list[list[Response]]
) -> None:
    """Against the model's own forward and torch.distributions, by the output layer and an embedding."""
    need = Need("kl", policy="reference", grad=True)
    scores = random_policy.score(moved[:1], responses[:1], wrt="parameters", with_entropy=False, needs=[need])
    kl_NT = scores[0].statistics[need]
    weights = [random_policy.model.get_output_embeddings().weight, random_policy.model.get_input_embeddings().weight]
    ours = torch.autograd.grad(kl_NT.sum(), weights, allow_unused=True)
    banned_V = random_policy.distribution.banned_V
    assert banned_V is not None
    total = torch.zeros((), dtype=torch.float64)
    for response in responses[0]:
        sides = []
        for policy in (random_policy, reference):
            logits = policy.model(**official_inputs(policy, moved[0], response.ids_T)).logits
            kept = logits[0, len(moved[0].prompt_ids_P) - 1 : -1].double() / policy.sampling.temperature
            sides.append(Categorical(logits=kept.masked_fill(banned_V, -1e9)))
        total = total + kl_divergence(*sides).sum()
    assert float(kl_NT.detach().sum()) == pytest.approx(float(total.detach()), rel=1e-4)
    theirs = torch.autograd.grad(total, weights, allow_unused=True)
    for mine, expected in zip(ours, theirs, strict=True):
        assert mine is not None
        assert expected is not None
        torch.testing.assert_close(mine, expected, atol=1e-4 * float(expected.abs().max()), rtol=1e-3)
    assert all(p.grad is None for p in reference.model.parameters())


@pytest.mark.parametrize("shared", [True, False])
def test_the_gradient_of_a_divergence_reaches_the_pixels(
    random_policy: Policy, clean: list[View], moved: list[View], responses: list[list[Response]], shared: bool
) -> None:
    """Along the gradient of selected tokens: finite differences of the divergences' own values."""
    random_policy.shared_prefix = shared
    need = Need("kl", view="clean", grad=True)
    selected = [torch.arange(max(map(len, own)))[None].expand(len(own), -1) % 2 == 0 for own in responses]
    random_policy.model.double()
    try:
        start = [view.canvases[0].double() for view in moved]
        views = [[replace(v, canvases=tuple(c.double() for c in v.canvases)) for v in own] for own in (clean, moved)]

        def total(point: list[Tensor]) -> Tensor:
            scores = random_policy.score(
                views[1], responses, wrt={"pixels": point}, needs=[need], clean=views[0], selected=selected
            )
            for own, chosen_NT in zip(scores, selected, strict=True):
                assert not own.statistics[need][~chosen_NT].any()
            return torch.stack([own.statistics[need].sum() for own in scores]).sum()

        point = [canvas.clone().requires_grad_() for canvas in start]
        gradient = torch.autograd.grad(total(point), point)
        direction = [own.sign() for own in gradient]
        step = 1e-4
        ends = [
            float(total([c + sign * step * d for c, d in zip(start, direction, strict=True)]).detach())
            for sign in (1, -1)
        ]
        along = sum(float((g * d).sum()) for g, d in zip(gradient, direction, strict=True))
        assert along == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=2e-2)
    finally:
        random_policy.model.float()


def test_needs_with_gradient_share_the_pass_of_the_log_probabilities(
    random_policy: Policy, reference: Policy, moved: list[View], responses: list[list[Response]], monkeypatch: Any
) -> None:
    passes = Passes(random_policy, monkeypatch)
    needs = [
        Need("entropy", grad=True),
        Need("kl", policy="reference", grad=True),
        Need("kl-k3", policy="reference", grad=True),
        EOS,
    ]
    scores = random_policy.score(moved, responses, wrt="parameters", needs=needs)
    assert passes.since() == 1
    for own in scores:
        assert own.statistics.keys() == set(needs)
        entropy, kl, k3, eos = (own.statistics[need] for need in needs)
        assert torch.equal(entropy, own.entropies())
        assert (kl.requires_grad, k3.requires_grad, eos.dtype) == (True, True, torch.bool)
        for values in (entropy, kl, k3, eos):
            assert not values[~own.mask_NT].any()


def test_the_update_takes_entropies_of_the_policy_as_it_samples(
    random_parts: Parts, moved: list[View], responses: list[list[Response]]
) -> None:
    policy = Policy(
        random_parts, ThinkBoxed(), sampling=SamplingConfig(temperature=0.8), entropy=EntropyConfig(temperature=0.5)
    )
    found = [policy.statistics([ENTROPY], moved, responses, update=update)[0][ENTROPY] for update in (False, True)]
    response = responses[0][0]
    for entropy_NT, temperature in zip(found, (0.5, 0.8), strict=True):
        p = distribution(policy, moved[0], response)
        expected_T = Categorical(logits=p.logits * 0.8 / temperature).entropy()
        assert float((entropy_NT[0, : len(response)].double() - expected_T).abs().max()) < 3e-5


def test_the_update_does_not_take_the_sampling_passs_entropies_at_the_temperature_of_the_criterion(
    random_parts: Parts, moved: list[View]
) -> None:
    policy = Policy(
        random_parts, ThinkBoxed(), sampling=SamplingConfig(temperature=0.8), entropy=EntropyConfig(temperature=0.5)
    )
    response = draw(policy, moved, [3, 2])[0][0]
    for update, temperature in ((False, 0.5), (True, 0.8)):
        (found,) = policy.statistics([ENTROPY], moved[:1], [[response]], drawn=True, update=update)
        p = distribution(policy, moved[0], response)
        expected_T = Categorical(logits=p.logits * 0.8 / temperature).entropy()
        assert float((found[ENTROPY][0].double() - expected_T).abs().max()) < 3e-5


# Statistics of others.


class Margin(DistributionStatistic):
    """Probability of the likeliest token less that of the second."""

    class Config(StrategyConfig):
        type: Literal["test/margin"] = "test/margin"

    def of_distribution(self, logp_mV: Tensor, ids_m: Tensor) -> Tensor:
        top_m2 = logp_mV.topk(2, dim=-1).values.exp()
        return top_m2[:, 0] - top_m2[:, 1]


class TotalVariation(DivergenceStatistic):
    class Config(StrategyConfig):
        type: Literal["test/total-variation"] = "test/total-variation"

    def of_two(self, logp_mV: Tensor, logq_mV: Tensor, ids_m: Tensor) -> Tensor:
        return 0.5 * (logp_mV.exp() - logq_mV.exp()).abs().sum(-1)


class Surprise(DerivedStatistic):
    class Config(StrategyConfig):
        type: Literal["test/surprise"] = "test/surprise"

    def parts_of(self, need: Need) -> tuple[Need, ...]:
        return replace(need, statistic="logp"), replace(need, statistic="entropy")

    def combine(self, *values_T: Tensor) -> Tensor:
        logp_T, entropy_T = values_T
        return -logp_T - entropy_T


class AboveReference(DerivedStatistic):
    """The part that is asked of the reference is not named by the need."""

    class Config(StrategyConfig):
        type: Literal["test/above-reference"] = "test/above-reference"

    def parts_of(self, need: Need) -> tuple[Need, ...]:
        return replace(need, statistic="logp"), Need("test/surprise", policy="reference")

    def combine(self, *values_T: Tensor) -> Tensor:
        logp_T, surprise_T = values_T
        return logp_T - surprise_T


class Place(TokenStatistic):
    class Config(StrategyConfig):
        type: Literal["test/place"] = "test/place"

    def of_tokens(self, policy: Policy, responses: Any) -> list[Tensor]:
        return [torch.arange(len(response), dtype=torch.float32) for response in responses]


@pytest.fixture
def others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))
    for cls in (Margin, TotalVariation, Surprise, AboveReference, Place):
        register(cls)


@pytest.mark.usefixtures("others")
def test_statistics_of_others_are_filled_alike(
    random_policy: Policy, clean: list[View], moved: list[View], responses: list[list[Response]], monkeypatch: Any
) -> None:
    passes = Passes(random_policy, monkeypatch)
    margin, place = Need("test/margin"), Need("test/place")
    surprise, variation = Need("test/surprise", view="clean"), Need("test/total-variation", view="clean")
    needs = [margin, variation, surprise, place]
    check_needs(needs, "A test", grad=False)
    (found, _) = random_policy.statistics(needs, moved, responses, clean=clean)
    assert passes.since() == 3  # states and scores of the clean view, one pass of the own
    for n, response in enumerate(responses[0]):
        p, q = (distribution(random_policy, view, response) for view in (moved[0], clean[0]))
        top = p.probs.topk(2, dim=-1).values
        expected = {
            margin: top[:, 0] - top[:, 1],
            variation: 0.5 * (p.probs - q.probs).abs().sum(-1),
            surprise: -q.log_prob(response.ids_T) - q.entropy(),
            place: torch.arange(len(response)).double(),
        }
        for need, expected_T in expected.items():
            assert float((found[need][n, : len(response)].double() - expected_T).abs().max()) < 3e-5, need
    with_grad = [replace(need, grad=True) for need in (margin, variation)]
    scores = random_policy.score(moved, responses, wrt="parameters", needs=with_grad, clean=clean)
    for need in with_grad:
        torch.testing.assert_close(
            scores[0].statistics[need].detach(), found[replace(need, grad=False)], atol=1e-5, rtol=0
        )
        assert scores[0].statistics[need].requires_grad


@pytest.mark.parametrize("some", [True, False], ids=["selected", "all"])
def test_what_a_criterion_needs_without_gradient_is_of_the_moved_view_too(
    random_policy: Policy, clean: list[View], moved: list[View], responses: list[list[Response]], some: bool
) -> None:
    needs = [LOGP, ENTROPY, FROM_CLEAN, EOS, Need("kl-k3", view="clean"), Need("logp", view="clean")]
    expected = random_policy.statistics(needs, moved, responses, clean=clean)
    widths = [max(map(len, own)) for own in responses]
    chosen = [(torch.arange(T) % 2 == 0)[None].repeat(len(own), 1) for own, T in zip(responses, widths, strict=True)]
    point = {"pixels": [view.canvases[0].clone().requires_grad_() for view in moved]}
    with_grad = Need("entropy", grad=True)
    scored = random_policy.score(
        clean, responses, wrt=point, needs=[*needs, with_grad], clean=clean, selected=chosen if some else None
    )
    for own, values, chosen_NT in zip(scored, expected, chosen, strict=True):
        for need in needs:
            expected_NT = values[need].masked_fill(~chosen_NT, 0) if some else values[need]
            torch.testing.assert_close(own.statistics[need], expected_NT, atol=3e-5, rtol=1e-5)
            assert not own.statistics[need].requires_grad
        assert own.statistics[with_grad].requires_grad


class Darker(TokenStatistic):
    """No statistic at heart: a strategy whose class makes views."""

    class Config(StrategyConfig):
        type: Literal["test/darker"] = "test/darker"
        factor: float = 0.5

    def of_tokens(self, policy: Policy, responses: Any) -> list[Tensor]:
        raise NotImplementedError

    def make_view(self, policy: Policy, view: View) -> View:
        return replace(view, canvases=tuple(torch.round(c * self.config.factor * 255) / 255 for c in view.canvases))


def test_a_view_may_be_made(random_policy: Policy, moved: list[View], responses: list[list[Response]]) -> None:
    need = Need("logp", view=Darker.Config(factor=0.25))
    check_needs([need], "A test")
    assert hash(need) == hash(Need("logp", view=Darker.Config(factor=0.25)))
    found = random_policy.statistics([need], moved, responses)
    dark = [Darker(Darker.Config(factor=0.25)).make_view(random_policy, view) for view in moved]
    for of_view, score in zip(found, random_policy.score(dark, responses), strict=True):
        torch.testing.assert_close(of_view[need], score.logp_NT)


def stepped(policy: Policy) -> None:
    """Move the weights of a policy, as an optimiser step does."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    policy.weights_changed()


@pytest.fixture
def own_policy(random_parts: Parts, random_policy: Policy) -> Policy:
    """The same policy with weights of its own, which may be moved."""
    parts = replace(random_parts, model=copy.deepcopy(random_parts.model))
    return Policy.around(parts, ModelConfig(), ThinkBoxed(), sampling=random_policy.sampling)


def test_a_divergence_from_the_old_policy_under_a_made_view_outlasts_its_weights(
    own_policy: Policy, random_policy: Policy, moved: list[View], responses: list[list[Response]]
) -> None:
    need = Need("kl", view=Darker.Config(), policy="old", grad=True)
    own_policy.look_ahead([need], moved, responses)
    stepped(own_policy)
    scored = own_policy.score(moved, responses, wrt="parameters", needs=[need])
    for view, own, of_view in zip(moved, responses, scored, strict=True):
        dark = Darker(Darker.Config()).make_view(own_policy, view)
        for n, response in enumerate(own):
            p, q = distribution(own_policy, view, response), distribution(random_policy, dark, response)
            values_T = of_view.statistics[need][n, : len(response)].detach().double()
            assert float((values_T - kl_divergence(p, q)).abs().max()) < 3e-5
    moved.clear()
    del view, of_view, scored
    own_policy.known.clear()
    assert not len(own_policy.made_views)  # what was made of a view goes with it


def test_a_maker_that_changes_nothing_keeps_no_view_alive(
    random_policy: Policy, moved: list[View], responses: list[list[Response]], monkeypatch: Any
) -> None:
    monkeypatch.setattr(Darker, "make_view", lambda self, policy, view: view)
    random_policy.statistics([Need("logp", view=Darker.Config())], moved, responses)
    assert len(random_policy.made_views) == 2
    random_policy.known.clear()
    moved.clear()
    assert not len(random_policy.made_views)


@pytest.mark.parametrize("need", [Need("logp", policy="old"), Need("kl", policy="old")], ids=str)
def test_what_the_old_policy_was_not_asked_before_an_update_is_refused(
    own_policy: Policy, moved: list[View], responses: list[list[Response]], need: Need
) -> None:
    own_policy.look_ahead([need], moved, responses)
    stepped(own_policy)
    own_policy.statistics([need], moved, responses, update=True)
    others = [replace(view) for view in moved]
    with pytest.raises(TrainingError, match="before the update moves it"):
        own_policy.statistics([need], others, responses, update=True)


@pytest.mark.usefixtures("others")
def test_a_need_is_of_the_policies_that_its_parts_are_of() -> None:
    assert policies_of(Need("test/above-reference")) == {"current", "reference"}
    assert policies_of(Need("kl-k3", policy="old", grad=True)) == {"current", "old"}
    assert policies_of(Need("kl", policy="reference")) == {"reference"}
    assert policies_of(EOS) == set()


# What is refused.


@pytest.mark.parametrize(
    ("need", "said", "remedy"),
    [
        (Need("entrpy"), "no statistic 'entrpy'", "entropy"),
        ("eos", "'eos', which is no Need", 'Need("eos")'),
        (Need("logp", view="clear"), "no view 'clear'", "clean"),  # type: ignore[arg-type]
        (Need("logp", policy="old-one"), "there is no old-one policy", "old"),  # type: ignore[arg-type]
        (Need("logp", view=ThinkBoxed.Config()), "'think-boxed' makes no views", "make_view"),
        (Need("eos", grad=True), "nothing is differentiated there", "Leave grad out"),
        (Need("logp", view="clean", grad=True), "the gradient is that of the current policy", "divergence"),
        (Need("logp", policy="reference", grad=True), "the gradient is that of the current policy", "divergence"),
        (Need("kl"), "a divergence from itself", "another view or policy"),
        (Need("kl-k3"), "made of the same thing twice", "another view or policy"),
    ],
    ids=str,
)
def test_what_nothing_fills_is_refused(need: Any, said: str, remedy: str) -> None:
    with pytest.raises(ConfigError, match="The selector 'mine' needs what nothing fills") as refused:
        check_needs([EOS, need], "The selector 'mine'")
    assert said in refused.value.reason
    assert remedy in refused.value.remedy


def test_who_has_no_reference_and_no_gradient_gets_none() -> None:
    asked = {"policies": ("current",), "grad": False}
    check_needs([ENTROPY, FROM_CLEAN, EOS], "A gate", **asked)  # type: ignore[arg-type]
    with pytest.raises(ConfigError) as refused:
        check_needs([Need("kl-k3", policy="reference")], "A gate", **asked)  # type: ignore[arg-type]
    assert "there is no reference policy" in refused.value.reason
    with pytest.raises(ConfigError, match="A gate needs") as refused:
        check_needs([Need("entropy", grad=True)], "A gate", **asked)  # type: ignore[arg-type]
    assert "nothing is differentiated" in refused.value.reason


# The contract.


@pytest.mark.parametrize("config", registered("statistic"), ids=lambda config: config.type)
def test_every_statistic_keeps_the_contract(
    config: Any, random_policy: Policy, responses: list[list[Response]]
) -> None:
    check_statistic(config, random_policy, responses[0])


@pytest.mark.parametrize("statistic", [Margin(), TotalVariation(), Surprise(), Place()], ids=lambda each: each.name())
def test_sound_statistics_keep_the_contract(
    statistic: Any, random_policy: Policy, responses: list[list[Response]]
) -> None:
    check_statistic(statistic, random_policy, responses[0])


@pytest.mark.parametrize(
    ("function", "rule"),
    [
        (lambda logp_mV, ids_m: logp_mV, "one value per token"),
        (lambda logp_mV, ids_m: logp_mV.sum(-1) / 0, "values are finite"),
        (lambda logp_mV, ids_m: (logp_mV.exp() * (logp_mV < -1e8) / 0).sum(-1), "values are finite"),
        (lambda logp_mV, ids_m: logp_mV.max(-1).values - logp_mV.max(), "does not depend on the others"),
        (lambda logp_mV, ids_m: logp_mV.exp().sum(-1) + torch.rand(()), "global random state"),
        (lambda logp_mV, ids_m: logp_mV.exp().sub(logp_mV.exp()).pow(0.5).sum(-1), "gradients are finite"),
    ],
)
def test_broken_statistics_are_caught(function: Any, rule: str) -> None:
    class Broken(DistributionStatistic):
        class Config(StrategyConfig):
            type: Literal["test/broken"] = "test/broken"

        def of_distribution(self, logp_mV: Tensor, ids_m: Tensor) -> Tensor:
            return function(logp_mV, ids_m)

    with pytest.raises(AssertionError, match=rule):
        check_statistic(Broken())


def test_broken_derived_and_token_statistics_are_caught(random_policy: Policy, responses: list[list[Response]]) -> None:
    class Cyclic(Surprise):
        class Config(StrategyConfig):
            type: Literal["test/cyclic"] = "test/cyclic"

        def parts_of(self, need: Need) -> tuple[Need, ...]:
            return (need,)

    class Short(Place):
        class Config(StrategyConfig):
            type: Literal["test/short"] = "test/short"

        def of_tokens(self, policy: Policy, responses: Any) -> list[Tensor]:
            return [torch.zeros(1) for _ in responses]

    with pytest.raises(AssertionError, match="something fills its needs"):
        check_statistic(Cyclic())
    with pytest.raises(AssertionError, match="one value per token"):
        check_statistic(Short(), random_policy, responses[0])
    with pytest.raises(AssertionError, match="builds a Statistic"):
        check_statistic(ThinkBoxed())
