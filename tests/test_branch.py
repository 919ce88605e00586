"""The sampler `branch`: CURE's cut at an uncertain token, and what of a branch is trained."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from groups import draw, draw_groups, spoken, token_logp
from runs import Checksum, Quiet, lines, registered, tiny, train
from saei.config.overrides import load_config
from saei.config.run import dump
from saei.config.sections import SamplingConfig
from saei.data.bars import Bars
from saei.data.templates import ThinkBoxed
from saei.errors import ConfigError
from saei.integrations.trl.arguments import grpo_arguments
from saei.objectives.dapo import DAPO
from saei.objectives.dr_grpo import DrGRPO
from saei.objectives.grpo import GRPO
from saei.objectives.kl import KL
from saei.policy import Policy
from saei.policy.load.weights import Parts
from saei.policy.native import Native
from saei.runtime.run_dir import RunDir
from saei.samplers.branch import Branch
from saei.testing import check_sampler
from saei.types import CLEAN, Example, Grade, Group, Response, ScoredGroup, TrainGroup, View
from test_update import update


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    with registered(Checksum):
        yield


def branch(**fields: Any) -> Branch:
    return Branch(Branch.Config.model_validate(fields))


def with_entropies(response: Response, entropies: Sequence[float]) -> Response:
    return replace(response, entropy_T=torch.tensor(entropies))


def cuts(sampler: Branch, policy: Policy, response: Response, times: int = 60) -> set[int]:
    source = torch.Generator().manual_seed(3)
    return {sampler.cut(policy, response, source).length for _ in range(times)}


def test_where_a_response_is_cut_by_hand(random_policy: Policy) -> None:
    """`let me read 7 bars <eos>`: the first token, the digit and the end are no candidates, however uncertain."""
    response = spoken(random_policy, "let me read 7 bars")
    words = [random_policy.tokenizer.decode(token).strip() for token in response.ids_T.tolist()]
    assert words[:5] == ["let", "me", "read", "7", "bars"]
    assert len(words) == 6
    response = with_entropies(response, [9.0, 0.3, 0.5, 8.0, 0.4, 7.0])
    assert cuts(branch(candidates=1), random_policy, response) == {2}
    assert cuts(branch(candidates=2), random_policy, response) == {2, 4}
    assert cuts(branch(candidates=20), random_policy, response) == {1, 2, 4}
    assert cuts(branch(candidates=1, min_characters=1), random_policy, response) == {3}
    level = with_entropies(response, [9.0, 0.5, 0.5, 8.0, 0.5, 7.0])
    assert cuts(branch(candidates=1), random_policy, level) == {1}  # ties by position
    cut = branch(candidates=1).cut(random_policy, response, torch.Generator())
    assert (cut.length, cut.entropy) == (2, 0.5)
    assert cuts(branch(), random_policy, spoken(random_policy, "let")) == {0}
    assert cuts(branch(), random_policy, spoken(random_policy, "", end=False)) == {0}


def test_the_uncertain_token_is_drawn_anew(random_policy: Policy, views: list[View]) -> None:
    """With one candidate the branches take over what stands before the most uncertain token, and not that token."""
    for group in draw_groups(branch(n=3, candidates=1, min_characters=0), random_policy, views):
        for response in group.responses[3:]:
            parent = group.responses[response.parent or 0]
            ended = int(parent.ids_T[-1]) in random_policy.eos_ids.tolist()
            entropies = parent.entropy_T[1 : len(parent) - ended]
            assert response.forced == 1 + int(entropies.argmax())


def test_a_group_by_hand(random_policy: Policy, views: list[View]) -> None:
    sampler = branch(n=2, branches=3, min_characters=0)
    groups = draw_groups(sampler, random_policy, views)
    for view, group in zip(views, groups, strict=True):
        assert [each.origin for each in group.views] == [CLEAN, "branched"]
        assert group.sampled_from == (0, 0, 1, 1, 1, 1, 1, 1)
        assert group.updated_on == (0,) * 8
        originals, branches = group.responses[:2], group.responses[2:]
        assert [response.parent for response in branches] == [0, 0, 0, 1, 1, 1]
        for response in branches:
            parent, k = originals[response.parent or 0], response.forced
            assert 0 < k < len(parent)
            assert torch.equal(response.ids_T[:k], parent.ids_T[:k])
            assert torch.equal(response.behaviour_logp_T[:k], parent.behaviour_logp_T[:k])
            own_T = token_logp(random_policy, view, response)
            torch.testing.assert_close(response.behaviour_logp_T, own_T, atol=1e-3, rtol=1e-3)
        # Branches of one response begin at the same place and go on in ways of their own.
        assert len({response.forced for response in branches[:3]}) == 1
        assert len({tuple(response.ids_T.tolist()) for response in branches[:3]}) > 1
        assert group.untrained == (0, 0, *(response.forced for response in branches))
        taken_over = sum(response.forced for response in branches) / sum(map(len, branches))
        assert group.metrics["taken_over"] == pytest.approx(taken_over)
        assert group.metrics["cut"] == 1
    kept = draw_groups(branch(n=2, branches=3, min_characters=0, train_prefix=True), random_policy, views)
    assert [group.untrained for group in kept] == [(), ()]
    assert [r.ids_T.tolist() for r in kept[0].responses] == [r.ids_T.tolist() for r in groups[0].responses]


@pytest.mark.parametrize(
    "fields", [{"branches": 2, "min_characters": 0}, {"min_characters": 1000}], ids=["cut", "whole"]
)
def test_variants_keep_the_contract(fields: dict[str, Any], random_policy: Policy, views: list[View]) -> None:
    text = random_policy.view(Example("t", "What is 1 + 2?", "3"))
    check_sampler(branch(n=2, **fields), random_policy, [*views, text])


def test_the_contract_catches_untrained_responses(
    random_policy: Policy, views: list[View], monkeypatch: pytest.MonkeyPatch
) -> None:
    draw_groups = Branch.draw

    def overdone(self: Branch, *arguments: Any) -> list[Group]:
        return [replace(each, untrained=tuple(map(len, each.responses))) for each in draw_groups(self, *arguments)]

    monkeypatch.setattr(Branch, "draw", overdone)
    with pytest.raises(AssertionError, match="some tokens of each response are trained"):
        check_sampler(branch(n=2), random_policy, views)


class Whole(Native):
    """Continues nothing."""

    takes_prefixes = False


def test_decoders_elsewhere_and_trl_are_refused(
    random_policy: Policy, views: list[View], model: Path, tmp_path: Path
) -> None:
    branch().check(random_policy, views[0])
    random_policy.decoder = Whole()
    with pytest.raises(ConfigError, match="Whole cannot"):
        branch().check(random_policy, views[0])
    run = {"training__steps": 1, "evaluation": {}, "sampler": {"type": "branch", "n": 2}}
    with pytest.raises(ConfigError, match=r"sampler\.train_prefix \(it trains every token"):
        grpo_arguments(tiny(model, tmp_path, **run), folder=tmp_path, processes=1, extra={})
    run["sampler"] = {"type": "branch", "n": 2, "train_prefix": True}
    assert grpo_arguments(tiny(model, tmp_path, **run), folder=tmp_path, processes=1, extra={})["num_generations"] == 4


def test_settings_by_which_nothing_is_ever_cut_are_refused(random_policy: Policy, views: list[View]) -> None:
    tokenizer = random_policy.tokenizer
    words = tokenizer.batch_decode([[n] for n in range(len(tokenizer))], skip_special_tokens=True)
    longest = max(len(word.strip()) for word in words)
    branch(min_characters=longest).check(random_policy, views)
    with pytest.raises(ConfigError, match=f"longest token of the model has {longest} characters"):
        branch(min_characters=longest + 1).check(random_policy, views)
    random_policy.sampling = SamplingConfig(max_new_tokens=1)
    with pytest.raises(ConfigError, match="max_new_tokens is 1"):
        branch().check(random_policy, views)


# --- what of a branch is trained -------------------------------------------------------------------------------------


@pytest.fixture
def policy(random_parts: Parts) -> Policy:
    """A policy whose weights may be moved."""
    parts = replace(random_parts, model=copy.deepcopy(random_parts.model))
    return Policy(parts, ThinkBoxed(), sampling=SamplingConfig(max_new_tokens=8))


UNTRAINED, ADVANTAGES = (0, 2, 1), (1.5, -0.5, -1.0)


def gradient(policy: Policy, view: View, responses: Sequence[Response], averaged: str) -> list[torch.Tensor]:
    """GRPO's gradient with ratio 1 over the tokens that are trained, one forward per response."""
    policy.model.zero_grad()
    sums, counts = [], []
    for response, untrained, advantage in zip(responses, UNTRAINED, ADVANTAGES, strict=True):
        logp_T = token_logp(policy, view, response)[untrained:]
        sums.append(-(advantage * logp_T).sum())
        counts.append(len(logp_T))
    if averaged == "response":
        loss = sum(value / count for value, count in zip(sums, counts, strict=True)) / len(sums)
    elif averaged == "token":
        loss = sum(sums) / sum(counts)
    else:
        loss = sum(sums) / (len(sums) * policy.sampling.max_new_tokens)
    return [
        torch.zeros_like(parameter) if each is None else each
        for parameter, each in zip(
            policy.module.parameters(),
            torch.autograd.grad(loss, list(policy.module.parameters()), allow_unused=True),
            strict=True,
        )
    ]


@pytest.mark.parametrize(
    ("objective", "averaged"),
    [(GRPO, "response"), (DAPO, "token"), (DrGRPO, "constant")],
    ids=["grpo", "dapo", "dr-grpo"],
)
@pytest.mark.parametrize("updates", [1, 2])
def test_what_was_taken_over_is_left_out_of_loss_and_means(
    policy: Policy, bars: Bars, objective: Any, averaged: str, updates: int
) -> None:
    view = policy.view(bars.example(0))
    (responses,) = draw(policy, [view], [3])
    group = Group(view.example, (view,), tuple(responses), (0,) * 3, (0,) * 3, untrained=UNTRAINED)
    train = TrainGroup(ScoredGroup(group, (Grade(0.0, False),) * 3), ADVANTAGES)
    _, (ours, *_) = update(policy, [train], objective=objective(), ppo_epochs=updates)
    for mine, theirs in zip(ours, gradient(policy, view, responses, averaged), strict=True):
        torch.testing.assert_close(mine, theirs, atol=2e-5, rtol=1e-3)
    whole = TrainGroup(ScoredGroup(replace(group, untrained=()), train.scored.grades), ADVANTAGES)
    _, (all_tokens, *_) = update(policy, [whole], objective=objective(), ppo_epochs=updates)
    assert max(float((a - b).abs().max()) for a, b in zip(ours, all_tokens, strict=True)) > 1e-3


@pytest.mark.parametrize("objective", [GRPO, DAPO])
def test_terms_leave_it_out_too(policy: Policy, bars: Bars, random_parts: Parts, objective: Any) -> None:
    """A KL penalty towards a policy that differs, on a group without advantage."""
    view = policy.view(bars.example(0))
    reference = Policy(random_parts, ThinkBoxed(), sampling=policy.sampling)
    with torch.no_grad():
        for parameter in policy.module.parameters():
            parameter.mul_(1.05)
    (responses,) = draw(policy, [view], [3])
    group = Group(view.example, (view,), tuple(responses), (0,) * 3, (0,) * 3, untrained=UNTRAINED)
    train = TrainGroup(ScoredGroup(group, (Grade(0.0, False),) * 3), (0.0,) * 3)
    penalized = objective(objective.Config(terms=(KL.Config(coefficient=2.0),)))
    metrics, _ = update(policy, [train], objective=penalized, reference=reference)
    k3 = []
    with torch.no_grad():
        for response, untrained in zip(responses, UNTRAINED, strict=True):
            d_T = (token_logp(reference, view, response) - token_logp(policy, view, response))[untrained:]
            k3.append(d_T.exp() - 1 - d_T)
    mean = torch.cat(k3).mean() if objective is DAPO else torch.stack([each.mean() for each in k3]).mean()
    assert metrics["loss"] == pytest.approx(2.0 * float(mean), rel=1e-3)


def test_what_is_kept_of_a_group_keeps_its_untrained_tokens() -> None:
    ids = torch.zeros(3, dtype=torch.long)
    response = Response(ids, "", torch.zeros(3), torch.zeros(3), truncated=False)
    example = Example("e", "q", "a")
    group = Group(
        example, (View(example, CLEAN, ids, ids[None]),), (response,) * 3, (0,) * 3, (0,) * 3, untrained=(0, 2, 1)
    )
    scored = ScoredGroup(group, (Grade(0.0, False),) * 3)
    assert scored.without({1: "late"}).group.untrained == (0, 1)


def test_a_run_stops_and_goes_on(model: Path, tmp_path: Path) -> None:
    sampler = {"type": "branch", "n": 2, "branches": 2, "min_characters": 1}
    whole = train(tiny(model, tmp_path, "whole", sampler=sampler, training__steps=5)).run.path
    logged = lines(whole)[1:]
    assert all(0 < line["train/intervention/taken_over"] < 1 for line in logged)
    assert all("train/branched/accuracy" in line for line in logged)
    train(tiny(model, tmp_path, "halves", sampler=sampler, training__steps=3))
    run, config = RunDir.open(tmp_path / "halves")
    longer = config.model_copy(update={"training": config.training.model_copy(update={"steps": 5})})
    train(longer, Quiet(), resume=run)
    assert lines(run.path)[-1] == logged[-1]


def test_the_command_line_reaches_it() -> None:
    config = load_config(assignments=["sampler=branch", "sampler.n=4", "sampler.branches=3"])
    assert config.sampler.build().group_size == 16
    assert dump(config)["sampler"]["train_prefix"] is False
