"""The sampler `tempered`: responses at another temperature, given or matched in KL."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributions import Categorical, kl_divergence

from groups import draw_groups, own_forward, sources
from runs import Checksum, Quiet, lines, registered, tiny, train
from saei.config.overrides import load_config
from saei.config.sections import SamplingConfig
from saei.data.bars import Bars
from saei.data.templates import ThinkBoxed
from saei.engine import checkpoint
from saei.engine.metrics import view_divergence
from saei.errors import ConfigError
from saei.need import Need
from saei.policy import Policy
from saei.policy.load.weights import Parts
from saei.runtime.run_dir import RunDir
from saei.samplers.mixed import Mixed
from saei.samplers.temperature import TemperatureDivergence
from saei.samplers.tempered import MatchedKL, Tempered, matched_temperature
from saei.testing import check_sampler
from saei.types import CLEAN, Example, Response, View

LOGP = Need("logp")
TARGET: dict[str, Any] = {"match": "kl", "target": 0.05}


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    with registered(Checksum):
        yield


@pytest.fixture(params=[1.0, 0.7], ids=["at 1", "at 0.7"])
def policy(random_parts: Parts, request: pytest.FixtureRequest) -> Policy:
    """A policy with a temperature of its own."""
    return Policy(random_parts, ThinkBoxed(), sampling=SamplingConfig(temperature=request.param, max_new_tokens=8))


@pytest.fixture
def views(policy: Policy, bars: Bars) -> list[View]:
    return [policy.view(bars.example(i), i) for i in range(2)]


def tempered(**fields: Any) -> Tempered:
    return Tempered(Tempered.Config.model_validate({"n_clean": 2, "n_tempered": 3, "temperature": TARGET, **fields}))


def at(policy: Policy, view: View, response: Response, temperature: float) -> Categorical:
    """The distribution at each token at a temperature, from the model's own forward."""
    with torch.no_grad():
        logp_TV = own_forward(policy, view, response)
    return Categorical(logits=(logp_TV * policy.sampling.temperature / temperature).clamp_min(-1e9))


def test_a_response_carries_the_distribution_that_it_was_drawn_from(policy: Policy, views: list[View]) -> None:
    (drawn, none) = policy.sample(views, [3, 0], generators=sources(2), temperature=2.5)
    assert not none
    for response in drawn:
        hot = at(policy, views[0], response, 2.5)
        assert response.temperature == 2.5
        torch.testing.assert_close(response.behaviour_logp_T, hot.log_prob(response.ids_T), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(response.entropy_T, hot.entropy(), atol=1e-3, rtol=1e-3)
    # What was drawn elsewhere does not stand for the policy's own values.
    (statistics,) = policy.statistics({LOGP}, views[:1], [drawn], drawn=True)
    for response, logp_T in zip(drawn, statistics[LOGP], strict=True):
        own = at(policy, views[0], response, policy.sampling.temperature).log_prob(response.ids_T)
        torch.testing.assert_close(logp_T[: len(response)], own, atol=1e-4, rtol=1e-4)
        assert float((own - response.behaviour_logp_T).abs().max()) > 0.01


def test_the_divergence_is_that_of_torch(policy: Policy, views: list[View]) -> None:
    responses = policy.sample(views, [2, 3], generators=sources(2))
    divergence = TemperatureDivergence(policy, views, responses, lambda number: number)
    assert divergence.own_temperature == policy.sampling.temperature
    for temperature in (0.5, 1.3, 4.0):
        per_token = [
            kl_divergence(
                at(policy, view, response, temperature), at(policy, view, response, policy.sampling.temperature)
            )
            for view, drawn in zip(views, responses, strict=True)
            for response in drawn
        ]
        assert divergence.at(temperature) == pytest.approx(float(torch.cat(per_token).mean()), rel=1e-3, abs=1e-6)
    assert divergence.at(policy.sampling.temperature) == pytest.approx(0, abs=1e-7)


class Straight:
    """A divergence that is 0.1 for each degree above the own temperature 1."""

    own_temperature = 1.0

    def at(self, temperature: float) -> float:
        return 0.1 * (temperature - 1)


@pytest.mark.parametrize(
    ("target", "largest", "temperature", "reached"),
    [(0.05, 10.0, 1.5, 0.05), (0.7, 10.0, 8.0, 0.7), (3.0, 4.0, 4.0, 0.3)],
)
def test_halving_finds_the_temperature(target: float, largest: float, temperature: float, reached: float) -> None:
    found = matched_temperature(Straight(), target, largest)  # type: ignore[arg-type]  # has what is used of it
    assert found == (pytest.approx(temperature, abs=2e-3), pytest.approx(reached, abs=2e-4))


def test_one_temperature_serves_the_step_and_is_logged(policy: Policy, views: list[View]) -> None:
    groups = draw_groups(tempered(beta=0.5, weight_cap=3.0), policy, views)
    (temperature,) = {group.metrics["temperature"] for group in groups}
    assert temperature > policy.sampling.temperature + 0.01
    assert groups[0].metrics["temperature_kl"] == pytest.approx(0.05, abs=1e-3)
    clean = [group.responses[:2] for group in groups]
    both = TemperatureDivergence(policy, views, clean, lambda number: number)
    assert both.at(temperature) == pytest.approx(0.05, abs=5e-4)
    of_each = [
        TemperatureDivergence(policy, [view], [own], lambda n: n) for view, own in zip(views, clean, strict=True)
    ]
    alone = [matched_temperature(divergence, 0.05, 10.0)[0] for divergence in of_each]
    assert min(alone) < temperature < max(alone)
    for view, group in zip(views, groups, strict=True):
        assert [each.origin for each in group.views] == [CLEAN, "tempered"]
        assert group.views[1].canvases is view.canvases
        assert [response.temperature for response in group.responses] == [None, None, *[temperature] * 3]
        assert (group.sampled_from, group.updated_on) == ((0, 0, 1, 1, 1), (0, 0, 0, 0, 0))
        assert [(group.view_weight(n).beta, group.view_weight(n).cap) for n in (1, 2)] == [(0.0, 2.0), (0.5, 3.0)]


def test_the_target_is_that_of_an_intervention(policy: Policy, views: list[View]) -> None:
    """The same seeds give the same clean responses and attack, so that `mixed` shows what has to be matched."""
    text = policy.view(Example("t", "What is 1 + 2?", "3"), 2)  # left alone: its tokens count, and add no divergence
    attack = {"attack": {"type": "pgd", "step": "1/255"}}
    attacked = draw_groups(Mixed(Mixed.Config.model_validate({"n_clean": 2, "intervention": attack})), policy, views)
    nats, tokens = 0.0, 0
    groups = draw_groups(tempered(temperature={"intervention": attack}), policy, [*views, text])
    for group in attacked:
        for response in group.responses[:2]:
            clean, moved = (at(policy, view, response, policy.sampling.temperature) for view in group.views)
            nats += float(kl_divergence(moved, clean).sum())
    for group in groups:
        tokens += sum(map(len, group.responses[:2]))
    assert nats / tokens > 1e-5
    metrics = groups[0].metrics
    assert metrics["target_kl"] == pytest.approx(nats / tokens, rel=1e-3)
    assert metrics["kl_ratio"] == pytest.approx(metrics["temperature_kl"] / metrics["target_kl"])
    assert metrics["kl_ratio"] == pytest.approx(1, abs=0.02)


def test_the_divergence_of_a_step_is_that_from_the_policy(policy: Policy, views: list[View]) -> None:
    """Were the tempered responses taken for the policy's own, it would be 0."""
    groups = draw_groups(tempered(n_tempered=20, temperature=1.6 * policy.sampling.temperature), policy, views)
    k3 = []
    for group in groups:
        for response in group.responses[2:]:
            own = at(policy, group.views[0], response, policy.sampling.temperature).log_prob(response.ids_T)
            hot = at(policy, group.views[0], response, response.temperature or 0.0).log_prob(response.ids_T)
            k3.append((own - hot).exp() - 1 - (own - hot))
    expected = float(torch.cat(k3).mean())
    assert expected > 0.01
    assert view_divergence(policy, groups) == {"view_kl/tempered": pytest.approx(expected, rel=1e-3)}


def test_contract(policy: Policy, views: list[View]) -> None:
    views = [*views, policy.view(Example("t", "What is 1 + 2?", "3"))]
    for temperature in (TARGET, {"intervention": {"attack": {"step": "32/255"}}}, 0.4, 3.0):
        check_sampler(tempered(temperature=temperature), policy, views)


def test_the_contract_catches_a_temperature_of_this_process_alone(
    policy: Policy, views: list[View], monkeypatch: pytest.MonkeyPatch
) -> None:
    def alone(policy: Any, views: Any, responses: Any, total: Any) -> Any:
        return TemperatureDivergence(policy, views, responses, lambda number: number)

    monkeypatch.setattr("saei.samplers.tempered.TemperatureDivergence", alone)
    with pytest.raises(AssertionError, match="totals over processes"):
        check_sampler(tempered(), policy, views)


def test_the_contract_catches_a_temperature_that_is_not_named(
    policy: Policy, views: list[View], monkeypatch: pytest.MonkeyPatch
) -> None:
    sample = policy.sample

    def silent(*arguments: Any, **rest: Any) -> Any:
        drawn = sample(*arguments, **rest)
        return [[replace(response, temperature=None) for response in of_view] for of_view in drawn]

    monkeypatch.setattr(policy, "sample", silent)
    with pytest.raises(AssertionError, match="drawn from"):
        check_sampler(tempered(temperature=2.0), policy, views)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"temperature": 0}, r"from 0\.001 to 100"),
        ({"temperature": {"target": 0}}, "greater than 0"),
        ({"temperature": {"match": "tv", "target": 1}}, "'kl'"),
        ({"temperature": {"match": "kl"}}, "Give `target` or `intervention`"),
        ({"temperature": {"target": 1, "intervention": {}}}, "Give `target` or `intervention`"),
        ({"temperature": {"intervention": {"guard": "view-kl"}}}, "none is drawn from the views"),
        ({"weight_cap": 3.0, "temperature": 2.0}, "where beta is 0"),
        ({}, "required"),
    ],
)
def test_what_cannot_be_drawn_is_refused(fields: dict[str, Any], words: str) -> None:
    from saei.config.run import validate

    with pytest.raises(ConfigError, match=words):
        validate({"sampler": {"type": "tempered", **fields}})


def test_a_search_needs_room(policy: Policy, views: list[View]) -> None:
    with pytest.raises(ConfigError, match=r"max_temperature 0\.7"):
        tempered(temperature={"target": 0.01, "max_temperature": 0.7}).check(policy, views[0])
    tempered().check(policy, views[0])


def test_the_policys_own_temperature_is_refused(policy: Policy, views: list[View]) -> None:
    own = policy.sampling.temperature
    with pytest.raises(ConfigError, match=rf"sampler\.temperature are both {own:g}"):
        tempered(temperature=own).check(policy, views)
    tempered(temperature=own + 0.01).check(policy, views)


def test_an_intervention_that_changes_words_is_not_matched() -> None:
    with pytest.raises(ConfigError, match="'hotflip' changes its words"):
        tempered(temperature={"intervention": {"attack": "hotflip"}})


def test_the_command_line_reaches_both_forms() -> None:
    number = load_config(assignments=["sampler=tempered", "sampler.temperature=1.5"]).sampler
    matched = load_config(assignments=["sampler=tempered", "sampler.temperature.target=0.012"]).sampler
    assert isinstance(number, Tempered.Config)
    assert isinstance(matched, Tempered.Config)
    assert number.temperature == 1.5
    assert matched.temperature == MatchedKL(target=0.012)
    assert [bool(config.build().plan().own_loop_only) for config in (number, matched)] == [False, True]


def test_a_run_stops_and_goes_on(model: Path, tmp_path: Path) -> None:
    sampler = {"type": "tempered", "n_clean": 2, "n_tempered": 2, "temperature": TARGET, "beta": 1.0}
    whole = train(tiny(model, tmp_path, "whole", sampler=sampler, training__steps=5)).run.path
    logged = lines(whole)[1:]
    assert len(logged) == 5
    assert all(line["train/intervention/temperature_kl"] == pytest.approx(0.05, abs=2e-3) for line in logged)
    assert all(line["train/tempered/ratio_mean"] == pytest.approx(1, abs=1e-5) for line in logged)
    assert all(line["train/tempered/view_weight"] != 1 == line["train/clean/view_weight"] for line in logged)
    train(tiny(model, tmp_path, "halves", sampler=sampler, training__steps=3))
    run, config = RunDir.open(tmp_path / "halves")
    longer = config.model_copy(update={"training": config.training.model_copy(update={"steps": 5})})
    train(longer, Quiet(), resume=run)
    assert lines(run.path)[-1] == logged[-1]
    assert checkpoint.step_of(checkpoint.latest(run.checkpoints)) == 5
