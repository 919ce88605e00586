"""Accuracy, the collapse probe and the metrics of training groups, by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import pytest
import torch

from groups import draw, own_forward, token_logp
from runs import Checksum
from saei.config.sections import EntropyConfig, SamplingConfig
from saei.data.bars import Bars
from saei.data.base import Split, Task
from saei.data.templates import ThinkBoxed
from saei.engine.metrics import group_metrics, view_divergence
from saei.evaluation.accuracy import accuracy_metrics
from saei.evaluation.answers import AnswerSet, answer
from saei.evaluation.metrics import answer_entropy, distinct_answers
from saei.evaluation.probe import probe_metrics
from saei.policy import Policy
from saei.policy.load.weights import Parts
from saei.types import ADVERSARIAL, CLEAN, Example, Grade, Group, Response, ScoredGroup, View

EXAMPLE = Example("e", "What is red?", "3")


def said(text: str, logp: Sequence[float], entropy: Sequence[float], *, truncated: bool = False) -> Response:
    ids_T = torch.arange(len(logp))
    return Response(ids_T, text, torch.tensor(logp), torch.tensor(entropy), truncated)


def seen(origin: str) -> View:
    return View(EXAMPLE, origin, torch.zeros(1, dtype=torch.long), torch.zeros(1, 1, dtype=torch.long))


class Ways(Task):
    class Config(Task.Config):
        type: Literal["ways"] = "ways"

    def example(self, index: int, split: Split = "train") -> Example:
        return EXAMPLE

    def strategy(self, example: Example, text: str) -> str | None:
        return {"a": "careful", "b": "glance"}.get(text)


ANSWERED = [
    AnswerSet(
        seen(CLEAN),
        (said("a", [-1.0, -2.0], [0.5, 1.5]), said("b", [-4.0], [2.0]), said("?", [-1.0], [0.0], truncated=True)),
        (Grade(1.0, True, answer="3"), Grade(0.9, True, answer="3"), Grade(0.2, True, answer="3.0")),
    ),
    AnswerSet(
        seen(CLEAN),
        (said("a", [-3.0], [1.0]), said("a", [-1.0], [1.0]), said("b", [0.0], [1.0])),
        (Grade(0.0, False), Grade(0.0, False, answer="1"), Grade(1.0, True, answer="3")),
    ),
    AnswerSet(
        seen(CLEAN),
        (said("a", [-1.0], [0.0]), said("a", [-1.0], [0.0]), said("b", [-1.0], [0.0])),
        (Grade(0.0, False), Grade(0.1, False), Grade(0.0, False)),
    ),
]


def test_probe_by_hand() -> None:
    found = probe_metrics(ANSWERED, Ways())
    third = math.log(3) / 3 + 2 / 3 * math.log(1.5)  # two alike and one other
    assert found == pytest.approx(
        {
            "entropy": (0.5 + 1.5 + 2.0 + 0.0 + 3 * 1.0) / 10,  # per token
            "nll": (3.0 + 4.0 + 1.0 + 3.0 + 1.0 + 0.0 + 3.0) / 9,  # per response
            "answer_entropy": (third + math.log(3) + 0.0) / 3,
            "distinct_answers": (2 + 3 + 1) / 3,  # no answer is one
            "all_right": 1 / 3,
            "all_wrong": 1 / 3,
            "zero_variance": 2 / 3,
            "strategy/careful": 5 / 9,
            "strategy/glance": 3 / 9,
        }
    )


def test_accuracy_by_hand() -> None:
    found = accuracy_metrics(ANSWERED)
    per_example = torch.tensor([1.0, 1 / 3, 0.0])
    assert found == pytest.approx(
        {
            "accuracy": float(per_example.mean()),
            "accuracy_se": float(per_example.std(correction=1)) / math.sqrt(3),
            "reward": (1.0 + 0.9 + 0.2 + 1.0 + 0.1) / 9,
            "length": 10 / 9,
            "truncated": 1 / 9,
        }
    )


def test_answers_of_nobody_are_one_answer() -> None:
    nobody = [Grade(0.0, False)] * 4
    assert (distinct_answers(nobody), answer_entropy(nobody)) == (1, 0.0)


def test_group_metrics_by_hand() -> None:
    def scored(correct: Sequence[bool], untouched: str | None = None, **metrics: float) -> ScoredGroup:
        responses = (
            said("", [0.0, 0.0], [1.0, 2.0]),
            said("", [0.0], [0.0]),
            said("", [0.0, 0.0, 0.0], [3.0, 4.0, 5.0], truncated=True),
        )
        places = (0, 0, 0) if untouched else (0, 0, 1)
        views = (seen(CLEAN),) if untouched else (seen(CLEAN), seen(ADVERSARIAL))
        group = Group(EXAMPLE, views, responses, places, places, untouched=untouched, metrics=metrics)
        # Rewards differ even where accuracy does not.
        grades = tuple(Grade(right + 0.1 * n, right) for n, right in enumerate(correct))
        return ScoredGroup(group, grades)

    found = group_metrics(
        [
            scored([True, True, True], selected=4.0),
            scored([False, False, False], "varies"),
            scored([True, False, False], selected=2.0),
            scored([False, False, False], "empty"),
        ]
    )
    assert found["reward"] == pytest.approx((4 + 4 * 0.3) / 12)
    assert found["clean/accuracy"] == pytest.approx(3 / 10)
    assert found["adversarial/accuracy"] == pytest.approx(1 / 2)
    assert found["adversarial/reward"] == pytest.approx((1.2 + 0.2) / 2)
    assert found["adversarial/length"] == 3.0
    assert found["adversarial/entropy"] == 4.0
    assert found["clean/truncated"] == pytest.approx(2 / 10)
    assert (found["all_right"], found["all_wrong"], found["zero_variance"]) == (0.25, 0.5, 0.75)
    assert (found["untouched"], found["untouched/varies"], found["untouched/empty"]) == (0.5, 0.25, 0.25)
    assert found["intervention/selected"] == 3.0


def test_view_divergence_by_brute_force(random_policy: Policy, bars: Bars) -> None:
    groups = []
    for index in range(2):
        clean = random_policy.view(bars.example(index))
        other = replace(clean, origin=ADVERSARIAL, canvases=tuple(1 - canvas for canvas in clean.canvases))
        own = draw(random_policy, [clean, other], [1, 2])
        places = (0, 1, 1)
        groups.append(Group(clean.example, (clean, other), (*own[0], *own[1]), places, places))
    values = []
    with torch.no_grad():
        for group in groups:
            for response in group.responses[1:]:
                here, there = (token_logp(random_policy, view, response) for view in group.views)
                values.append((here - there).exp() - 1 - (here - there))
    expected = float(torch.cat(values).mean())
    assert expected > 1e-2
    assert view_divergence(random_policy, groups) == {"view_kl/adversarial": pytest.approx(expected, rel=1e-3)}
    untouched = [replace(group, views=group.views[:1], sampled_from=(0, 0, 0)) for group in groups]
    assert view_divergence(random_policy, untouched) == {}


def test_a_small_view_divergence_keeps_its_digits(random_policy: Policy, bars: Bars) -> None:
    clean = random_policy.view(bars.example(0))
    other = replace(clean, origin=ADVERSARIAL)
    ((response,),) = draw(random_policy, [clean], [1])
    (score,) = random_policy.score([clean], [[response]], with_entropy=False)
    moved = replace(response, behaviour_logp_T=score.logp_NT[0] + 1e-4)
    d_T = (moved.behaviour_logp_T - score.logp_NT[0]).double()
    group = Group(clean.example, (clean, other), (moved,), (1,), (1,))
    expected = float((torch.expm1(-d_T) + d_T).mean())
    assert view_divergence(random_policy, [group]) == {"view_kl/adversarial": pytest.approx(expected, rel=1e-3)}


def test_fresh_answers_do_not_depend_on_the_training_distribution(random_parts: Parts, bars: Bars) -> None:
    """Entropies of the probe are those of the distribution it draws from, whatever the criterion looks at."""
    found: list[list[AnswerSet]] = []
    for sampling, entropy in (
        (SamplingConfig(max_new_tokens=6), EntropyConfig()),
        (SamplingConfig(max_new_tokens=6), EntropyConfig(temperature=3.0)),
        (SamplingConfig(max_new_tokens=6, temperature=0.5), EntropyConfig()),
    ):
        policy = Policy(random_parts, ThinkBoxed(), sampling=sampling, entropy=entropy)
        views = [policy.view(bars.example(i, "eval")) for i in range(3)]
        one: Any = sampling.model_copy(update={"temperature": 1.0})
        found.append(answer(policy, Checksum(), views, responses=2, sampling=one, seed=5))
    for own in found[1:]:
        assert probe_metrics(own, bars) == probe_metrics(found[0], bars)
    plain = Policy(random_parts, ThinkBoxed(), sampling=SamplingConfig(max_new_tokens=6))
    for one in found[0]:
        assert len(one.responses) == len(one.grades) == 2
        for response, grade in zip(one.responses, one.grades, strict=True):
            assert grade.answer == Checksum().grade(EXAMPLE, response.text).answer
            logp_TV = own_forward(plain, one.view, response).detach()
            expected = torch.distributions.Categorical(logits=logp_TV).entropy()
            torch.testing.assert_close(response.entropy_T, expected, atol=5e-5, rtol=0)


def test_the_criterion_keeps_its_own_entropy_temperature(random_parts: Parts, bars: Bars) -> None:
    policy = Policy(
        random_parts,
        ThinkBoxed(),
        sampling=SamplingConfig(max_new_tokens=6),
        entropy=EntropyConfig(temperature=3.0),
    )
    view = policy.view(bars.example(0))
    ((response,),) = draw(policy, [view], [1])
    logits_TV = own_forward(policy, view, response).detach() / 3.0
    banned_V = policy.distribution.banned_V
    expected = torch.distributions.Categorical(logits=logits_TV.masked_fill(banned_V, -1e9)).entropy()
    torch.testing.assert_close(response.entropy_T, expected, atol=5e-5, rtol=0)
