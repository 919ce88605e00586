"""What advantages need of the policy, what is logged about them, and what they do not go together with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch.distributions import Categorical, kl_divergence

from groups import draw, own_forward
from runs import Checksum, Quiet, lines, registered, tiny, train
from saei.builtin import BUILTIN
from saei.config.run import validate
from saei.config.strategy import StrategyConfig
from saei.data.bars import Bars
from saei.engine.advantages import advantage_metrics, with_statistics
from saei.engine.setup import build_strategies
from saei.errors import ConfigError
from saei.need import Need
from saei.objectives.advantages.base import Advantage, Advantages, train_group
from saei.objectives.advantages.entropy_shaped import EntropyShaped
from saei.objectives.advantages.vogue import DIVERGENCE
from saei.policy import Policy
from saei.runtime.processes import Processes
from saei.runtime.run_dir import RunDir
from saei.types import Grade, Group, Response, ScoredGroup

MODEL = Path(str(BUILTIN))


@pytest.fixture(autouse=True)
def _reward() -> Iterator[None]:
    with registered(Checksum):
        yield


@pytest.fixture
def scored(random_policy: Policy, bars: Bars) -> ScoredGroup:
    """Two responses from each of two views of a picture, in turn, which are all trained under the clean one."""
    clean = random_policy.view(bars.example(0), 4)
    views = (clean, replace(clean, origin="noisy", canvases=(1 - clean.canvases[0],)))
    (first, third), (second, fourth) = draw(random_policy, list(views), [2, 2])
    group = Group(clean.example, views, (first, second, third, fourth), (0, 1, 0, 1), updated_on=(0,) * 4)
    return ScoredGroup(group, tuple(Grade(reward, reward > 0.5) for reward in (1.0, 0.0, 0.1, 0.9)))


def brute_force(policy: Policy, group: Group, n: int) -> list[float]:
    response = group.responses[n]
    p, q = (Categorical(logits=own_forward(policy, view, response)) for view in (group.views[1], group.views[0]))
    divergences: list[float] = ((kl_divergence(p, q) + kl_divergence(q, p)) / 2).tolist()
    return divergences


def test_the_own_view_is_the_one_that_a_response_was_drawn_from(random_policy: Policy, scored: ScoredGroup) -> None:
    entropy = Need("entropy")
    found = with_statistics(scored, {DIVERGENCE, entropy}, random_policy)
    longest = max(map(len, scored.group.responses))
    for n, response in enumerate(scored.group.responses):
        divergence_T, entropy_T = found.statistics[DIVERGENCE][n], found.statistics[entropy][n]
        assert divergence_T.shape == entropy_T.shape == (longest,)
        assert not divergence_T[len(response) :].any()
        expected = (
            brute_force(random_policy, scored.group, n) if scored.group.sampled_from[n] else [0.0] * len(response)
        )
        assert divergence_T[: len(response)].tolist() == pytest.approx(expected, rel=1e-3, abs=1e-5)
        assert torch.equal(entropy_T[: len(response)], response.entropy_T)  # the sampling pass's own
    assert float(found.statistics[DIVERGENCE].max()) > 0.01


def test_the_clean_views_divergence_from_itself_costs_no_pass(
    random_policy: Policy, scored: ScoredGroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    statistics = random_policy.statistics

    def watched(needs: Any, views: Any, *rest: Any, **more: Any) -> Any:
        asked.extend(view.origin for view in views for _ in needs)
        return statistics(needs, views, *rest, **more)

    monkeypatch.setattr(random_policy, "statistics", watched)
    with_statistics(scored, {DIVERGENCE}, random_policy)
    assert asked == ["noisy"]


def test_a_part_of_a_group_keeps_its_statistics(random_policy: Policy, scored: ScoredGroup) -> None:
    whole = with_statistics(scored, {DIVERGENCE}, random_policy)
    part = whole.without({0: "x", 1: "x"})
    assert torch.equal(part.statistics[DIVERGENCE], whole.statistics[DIVERGENCE][2:])
    assert with_statistics(scored, (), random_policy) is scored


class Asks(Advantage):
    """The mean over a response's tokens of what it needs."""

    class Config(StrategyConfig):
        type: Literal["mine/asks"] = "mine/asks"
        statistic: str = "logp"
        policy: Literal["current", "old", "reference"] = "current"

    config: Config

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Need(self.config.statistic, policy=self.config.policy)})

    def estimate(self, scored: ScoredGroup, rewards: Sequence[float]) -> Advantages:
        (need,) = self.needs
        return [float(values_T.mean()) for values_T in scored.statistics[need]]


def built(advantage: object, objective: str = "grpo", sampler: object = "mixed") -> None:
    build_strategies(
        validate({"objective": {"type": objective, "advantage": advantage}, "sampler": sampler, "task": "bars"})
    )


@pytest.mark.parametrize(
    ("fields", "reason"), [({"statistic": "thoughts"}, "thoughts"), ({"policy": "old"}, "no old policy")]
)
def test_what_nothing_computes_is_refused_when_a_run_is_built(fields: dict[str, str], reason: str) -> None:
    with registered(Asks), pytest.raises(ConfigError, match=r"The advantage 'mine/asks'") as refused:
        built({"type": "mine/asks", **fields})
    assert reason in str(refused.value)


def test_an_advantage_may_ask_about_the_reference(tmp_path: Path) -> None:
    asks = {"type": "mine/asks", "policy": "reference"}
    with registered(Asks):
        trainer = train(tiny(MODEL, tmp_path, objective={"type": "grpo", "advantage": asks}, training__steps=1))
    assert trainer.policy.reference is not None
    assert lines(tmp_path / "run")[1]["train/advantage/nonzero"] == 1.0


VOGUE = {"type": "grpo", "advantage": {"type": "vogue", "of": {"baseline": "pooled"}}}


def test_a_run_with_needs_resumes_exactly(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"objective": VOGUE, "evaluation__every": 1, "evaluation__held_out_groups": 0}
    whole = lines(train(tiny(MODEL, tmp_path, "whole", **settings)).run.path)
    short = train(tiny(MODEL, tmp_path, "short", **settings, training__steps=1)).run
    _, config = RunDir.open(short.path)
    train(config.model_copy(update={"training": config.training.model_copy(update={"steps": 3})}), Quiet(), short)
    assert lines(short.path) == whole
    assert [line["train/clean/advantage/shaped"] for line in whole[1:]] == [0.0] * 3
    assert max(line["train/adversarial/advantage/shaped"] for line in whole[1:]) > 0.3


def test_what_an_advantage_does_is_counted(random_policy: Policy, scored: ScoredGroup) -> None:
    """Four responses of 4 tokens, the first two alike; one token in four has no entropy to raise an advantage by."""

    def response(entropies: list[float]) -> Response:
        zeros = torch.zeros(4)
        return Response(zeros.long(), "", zeros, torch.tensor(entropies), truncated=False)

    half = response([0.0, 1.0, 1.0, 1.0])
    group = replace(scored.group, responses=(half, half, response([0.0] * 4), half))
    grades = tuple(Grade(reward, correct=False) for reward in (0.5, 0.5, 1.0, 0.0))
    part = ScoredGroup(group, grades)
    advantage = EntropyShaped(EntropyShaped.Config(of={"scale": "none"}))
    metrics = advantage_metrics([train_group(part, advantage, part.rewards)], advantage, part.rewards, Processes())
    # .5 is the mean: the first two responses have advantage 0, and a share of 0 is nothing.
    assert metrics == {
        "advantage/nonzero": 0.5,
        "clean/advantage/nonzero": 0.5,
        "noisy/advantage/nonzero": 0.5,
        "advantage/shaped": 3 / 16,
        "clean/advantage/shaped": 0.0,
        "noisy/advantage/shaped": 3 / 8,
    }


ARMS = {
    "type": "arms",
    "arms": {"a": {"n": 2, "intervention": {"attack": "noise"}}, "b": {"n": 2, "intervention": {"attack": "pgd"}}},
}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (("gtpo", "gspo"), r"'gtpo' gives each token its own.*grpo-s in place of gtpo"),
        ((({"type": "unlikeliness", "of": "entropy-shaped"}), "gspo"), "'unlikeliness' gives each token its own"),
        (({"type": "vogue", "level": "token"}, "gspo"), "'vogue' gives each token its own"),
        (({"type": "pass-at-k", "k": 13},), r"objective\.advantage\.k is 13, and a group has 12"),
        (({"type": "unlikeliness", "of": {"type": "pass-at-k", "k": 13}},), r"objective\.advantage\.of\.k is 13"),
        (("trust", "grpo", "clean"), "no intervention moved"),
        (("vogue", "grpo", {"type": "dynamic", "of": "clean"}), "no intervention moved"),
        (("vogue", "grpo", {"type": "mixed", "n_adversarial": 1}), r"of\.baseline is per-origin"),
        (("trust", "grpo", ARMS), "'a' and 'b' have different attacks"),
        (("quantile", "dr-grpo"), r"by default advantage\.scale is group"),
        (("entropy-shaped", "dr-grpo"), r"by default advantage\.of\.scale is group"),
        (("vogue", "dr-grpo"), r"by default advantage\.of\.scale is per-origin"),
        (("gtpo", "dr-grpo"), r"by default advantage\.normalise is together"),
        (("grpo-s", "dr-grpo"), r"by default advantage\.normalise is together"),
        (({"type": "unlikeliness", "of": "grpo-s"}, "dr-grpo"), r"by default advantage\.of\.normalise is together"),
    ],
)
def test_what_does_not_go_together_is_refused(settings: tuple[Any, ...], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        built(*settings)


@pytest.mark.parametrize(
    "settings",
    [
        ("grpo-s", "gspo"),
        ("vogue", "gspo"),
        ({"type": "pass-at-k", "k": 12},),
        ("trust", "grpo", "noisy"),
        ("trust", "grpo", {"type": "dynamic", "of": "mixed"}),
        ({"type": "vogue", "of": {"baseline": "pooled"}}, "grpo", {"type": "mixed", "n_adversarial": 1}),
        ({"type": "gtpo", "normalise": "together"}, "dr-grpo"),
        ({"type": "grpo-s", "normalise": "none"}, "dr-grpo"),
        ("pass-at-k", "dr-grpo"),
        ("grpo-passk", "dr-grpo"),
        ({"type": "quantile", "scale": "group"}, "dr-grpo"),
        ({"type": "entropy-shaped", "of": {"scale": "none"}}, "dr-grpo"),
    ],
)
def test_what_goes_together_is_built(settings: tuple[Any, ...]) -> None:
    built(*settings)
