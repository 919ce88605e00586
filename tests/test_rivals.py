"""Each update-side rival, as the library has it, against its brute force: the loss and the gradients of all parameters.

The update makes two optimiser steps on groups of ragged lengths, some truncated, some with a part that is not trained,
some trained under another view than they were drawn from. At the second step ratios are not 1.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

import rivals_by_hand as by_hand
from groups import cut, draw, own_forward
from rivals_by_hand import Batch, Numbers, Token, Values
from saei.config import registry
from saei.config.sections import SamplingConfig
from saei.data.bars import Bars
from saei.data.templates import ThinkBoxed
from saei.engine.advantages import with_statistics
from saei.objectives.adaptive_entropy import AdaptiveEntropy
from saei.objectives.advantages.base import train_group
from saei.objectives.base import Objective
from saei.objectives.batch import Row, UpdateBatch
from saei.policy import Policy
from saei.policy.load.weights import Parts
from saei.types import ADVERSARIAL, Grade, Group, ScoredGroup, TrainGroup, View, ViewRecord, ViewWeight
from saei.views import BlackPatches, Blank
from updates import assert_same_gradients, update

INDICES = (11, 4, 7)
LENGTHS = ((8, 3, 5, 4), (1, 6, 2, 7), (4, 7, 3, 5))
UNTRAINED = ((0, 0, 2, 0), (0, 1, 0, 0), (1, 0, 0, 0))
REWARDS = ((1.0, 0.1, 0.9, 0.0), (0.9, 0.0, 0.1, 0.1), (1.0, 0.9, 0.0, 1.0))
LR = 0.05


@pytest.fixture
def policy(random_parts: Parts) -> Policy:
    parts = replace(random_parts, model=copy.deepcopy(random_parts.model))
    return Policy(parts, ThinkBoxed(), sampling=SamplingConfig(max_new_tokens=8, temperature=0.9))


@pytest.fixture
def scored(policy: Policy, bars: Bars) -> list[ScoredGroup]:
    """Three groups of four responses from three views each; some are trained under another view."""
    made = []
    for number, (index, lengths) in enumerate(zip(INDICES, LENGTHS, strict=True)):
        clean = policy.view(bars.example(number), index)
        inverted, darker = 1 - clean.canvases[0], clean.canvases[0] / 2
        views = (clean, *(replace(clean, origin=ADVERSARIAL, canvases=(canvas,)) for canvas in (inverted, darker)))
        drawn = [response for own in draw(policy, list(views), [2, 1, 1], seed=number) for response in own]
        responses = [cut(each, n, truncated=n > 6) for each, n in zip(drawn, lengths, strict=True)]
        group = Group(
            clean.example,
            views,
            tuple(responses),
            sampled_from=(0, 0, 1, 2),
            updated_on=(1, 0, 0, 2),
            view_weights=(ViewWeight(beta=0.5, cap=1.2),) * 4,
            untrained=UNTRAINED[number],
            records=(ViewRecord(0, 0.9, {}), ViewRecord(0, 0.3, {})),
        )
        grades = tuple(Grade(reward, correct=reward > 0.5) for reward in REWARDS[number])
        made.append(ScoredGroup(group, grades))
    return made


@dataclass(frozen=True, eq=False)
class Seen:
    """What a brute force sees of an update batch: its numbers, and where they come from.

    Attributes:
        batch: Rows by the group's index and the response's number.
        rows: Group and number of the response in each row.
        n_responses: Responses.
        groups: In the order of their indices.
    """

    batch: Batch
    rows: Sequence[tuple[TrainGroup, int]]
    n_responses: int
    groups: Sequence[TrainGroup]

    def lengths(self) -> dict[int, int]:
        return {r: int(self.batch.mask_RT[r].sum()) for r in range(len(self.rows))}

    def loss(self, values: Values, mean: str) -> Tensor:
        """The mean of what a policy loss says of each token, times the weight of the gap between its two views."""
        weighed = {}
        for token, value in values.items():
            group, n = self.rows[token[0]][0].group, self.rows[token[0]][1]
            weight = 1.0
            if group.sampled_from[n] != group.updated_on[n]:
                view_weight = group.view_weight(n)
                gap = self.batch.old_logp_RT[token].item() - group.responses[n].behaviour_logp_T[token[1]].item()
                weight = min(view_weight.cap, math.exp(view_weight.beta * gap))
            weighed[token] = weight * value
        return by_hand.by_token(weighed) if mean == "token" else by_hand.by_response(weighed, self.n_responses)

    def sampled_entropy(self) -> Numbers:
        """Entropy of each token when it was drawn."""
        return {
            (r, t): self.rows[r][0].group.responses[self.rows[r][1]].entropy_T[t].item() for r, t in self.batch.tokens()
        }


def logits_of(policy: Policy, group: Group, n: int, change: Callable[[View], View] | None = None) -> Tensor:
    view = group.update_view(n)
    return own_forward(policy, change(view) if change else view, group.responses[n]).double()


def see(policy: Policy, groups: Sequence[TrainGroup], old: Tensor | None = None, *, mask_truncated: bool = False,
        changes: Sequence[Callable[[View], View]] = ()) -> Seen:  # fmt: skip
    """Look at all responses of some groups with the model's own forward, one row at a time."""
    ordered = sorted(groups, key=lambda each: each.group.index)
    rows = [(each, n) for each in ordered for n in range(len(each.group.responses))]

    def padded(values: Sequence[Tensor]) -> Tensor:
        return pad_sequence(list(values), batch_first=True)

    def of_view(change: Callable[[View], View] | None) -> Tensor:
        return padded([logits_of(policy, each.group, n, change) for each, n in rows])

    masks, advantages = [], []
    for each, n in rows:
        response = each.group.responses[n]
        places = torch.arange(len(response))
        trained = places >= (each.group.untrained[n] if each.group.untrained else 0)
        masks.append(trained & ~torch.tensor(mask_truncated and response.truncated))
        if each.token_advantages is None:
            advantages.append(torch.full((len(response),), each.advantages[n], dtype=torch.float64))
        else:
            advantages.append(each.token_advantages[n].double())
    ids_RT, logits_RTV = padded([each.group.responses[n].ids_T for each, n in rows]), of_view(None)
    if old is None:
        old = logits_RTV.detach().log_softmax(-1).gather(-1, ids_RT[..., None])[..., 0]
    others = tuple(of_view(change) for change in changes)
    batch = Batch(logits_RTV, ids_RT, padded(masks), old, padded(advantages), others)
    return Seen(batch, rows, len(rows), ordered)


def configured(config: dict[str, Any]) -> Objective:
    built: Objective = registry.load("objective", config["type"]).Config.model_validate(config).build()
    return built


def assert_equal_by_hand(
    policy: Policy,
    groups: Sequence[TrainGroup],
    objective: Objective | dict[str, Any],
    loss: Callable[[Seen, Seen], Tensor],
    *,
    changes: Sequence[Callable[[View], View]] = (),
    least: float = 1.2,
) -> dict[str, float]:
    """Two optimiser steps on one batch: value and parameter gradients of both equal the brute force's.

    Args:
        policy: Whose weights are moved.
        groups: The batch.
        objective: The library's, or its configuration.
        loss: The brute force's, of what it sees now and what it saw before the first step.
        changes: Other views that the brute force sees.
        least: What the largest ratio of the second step is above.
    """
    objective = objective if isinstance(objective, Objective) else configured(objective)
    start = copy.deepcopy(policy.module.state_dict())
    metrics, gradients = update(policy, list(groups), objective, lr=LR, ppo_epochs=2)
    policy.module.load_state_dict(start)
    policy.weights_changed()
    parameters = [p for p in policy.module.parameters() if p.requires_grad]
    values, first, mask_truncated = [], None, objective.config.mask_truncated
    for ours in gradients:
        old = None if first is None else first.batch.old_logp_RT
        seen = see(policy, groups, old, mask_truncated=mask_truncated, changes=changes)
        first = first or seen
        value = loss(seen, first)
        values.append(value.item())
        by_parameter = torch.autograd.grad(value, parameters, allow_unused=True)
        expected = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, by_parameter, strict=True)]
        assert_same_gradients(ours, expected)
        with torch.no_grad():
            for parameter, gradient in zip(parameters, ours, strict=True):
                parameter -= LR * gradient
        policy.weights_changed()
    assert len(values) == 2
    assert metrics["loss"] == pytest.approx(sum(values) / 2, rel=1e-4, abs=2e-6)
    ratios = [seen.batch.ratio(token).item() for token in seen.batch.tokens()]
    assert max(ratios) > least
    assert min(ratios) < 1 / least
    return metrics


def grpo_groups(scored: Sequence[ScoredGroup], advantage: dict[str, Any] | None = None) -> list[TrainGroup]:
    objective = configured({"type": "grpo", **({"advantage": advantage} if advantage else {})})
    rewards = [reward for each in scored for reward in each.rewards]
    return [train_group(each, objective.advantage, rewards) for each in scored]


@pytest.mark.parametrize("mask_truncated", [False, True])
@pytest.mark.parametrize("name", ["grpo", "dapo"])
def test_the_brute_force_sees_what_the_update_sees(policy, scored, name, mask_truncated):
    def loss(seen: Seen, first: Seen) -> Tensor:
        return seen.loss(by_hand.clipped(seen.batch, 0.2, 0.28), "token" if name == "dapo" else "response")

    config = {"type": name, "clip_high": 0.28, "mask_truncated": mask_truncated}
    metrics = assert_equal_by_hand(policy, grpo_groups(scored), config, loss)
    assert 0.02 < metrics["clip_share"] < 0.5
    assert metrics["view_weight"] != 1


# --- Objectives

OBJECTIVES: dict[str, tuple[dict[str, Any], Callable[[Batch], Values], str]] = {
    "cispo": ({"type": "cispo", "clip_high": 0.15}, partial(by_hand.cispo, low=None, high=0.15), "token"),
    "cispo, both sides": (
        {"type": "cispo", "clip_low": 0.1, "clip_high": 0.15},
        partial(by_hand.cispo, low=0.1, high=0.15),
        "token",
    ),
    "sapo": (
        {"type": "sapo", "tau_positive": 1.5, "tau_negative": 2.5},
        partial(by_hand.sapo, positive=1.5, negative=2.5),
        "response",
    ),
    "kl-cov": (
        {"type": "kl-cov", "share": "3/20", "coefficient": 0.7},
        partial(by_hand.kl_cov, share=0.15, coefficient=0.7),
        "token",
    ),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_objectives(policy, scored, name):
    config, token_losses, mean = OBJECTIVES[name]
    mask_truncated = name == "kl-cov"  # whose statistics of the batch the truncated responses are not in
    counts, plain_differs = [], []

    def loss(seen: Seen, first: Seen) -> Tensor:
        value = seen.loss(token_losses(seen.batch), mean)
        plain = seen.loss(by_hand.clipped(seen.batch, 0.2, 0.2), mean)
        plain_differs.append(abs(plain.item() - value.item()) > 1e-3)
        counts.append(max(1, int(0.15 * len(list(seen.batch.tokens())))))
        return value

    metrics = assert_equal_by_hand(policy, grpo_groups(scored), {**config, "mask_truncated": mask_truncated}, loss)
    assert plain_differs[-1]
    if name == "kl-cov":
        assert metrics["penalised_tokens"] == sum(counts[1:])  # at the ratio 1 of the first update none acts


# --- Weights


class Watched:
    """A weight's answers, as it gave them."""

    def __init__(self, objective: Objective) -> None:
        self.answers: list[tuple[UpdateBatch, Tensor]] = []
        [self.weight] = objective.weights.values()
        self._weigh = self.weight.weigh
        self.weight.weigh = self  # type: ignore[method-assign]

    def __call__(self, batch: UpdateBatch, **arguments: Any) -> Tensor:
        weight_RT = self._weigh(batch, **arguments)
        self.answers.append((batch, weight_RT))
        return weight_RT


def by_weight(
    seen: Seen, weights: Mapping[Token, float], mean: str, *, count_zeroed: bool, high: float = 0.2
) -> Tensor:
    """The clipped loss times weights, a mean over all tokens or over those that are not 0."""
    losses = {token: weights[token] * value for token, value in by_hand.clipped(seen.batch, 0.2, 0.2).items()}
    if not count_zeroed:
        losses = {token: value for token, value in losses.items() if weights[token]}
    return seen.loss(losses, mean)


@pytest.mark.parametrize("exclude_clipped", [True, False])
def test_clip_cov(policy, scored, exclude_clipped):
    """Which of the candidates are drawn is the library's choice; all else follows from it."""
    weight = {"type": "clip-cov", "share": "1/12", "low": 0.2, "high": 2.5, "exclude_clipped": exclude_clipped}
    objective = configured({"type": "dapo", "clip_high": 0.2, "weights": [weight]})
    watched, steps, cut = Watched(objective), [], []

    def loss(seen: Seen, first: Seen) -> Tensor:
        _, weight_RT = watched.answers[len(steps)]
        clip = (0.2, 0.2) if exclude_clipped else None
        candidates = by_hand.clip_cov_candidates(seen.batch, 0.2, 2.5, clip)
        tokens = list(seen.batch.tokens())
        left_out = {token for token in tokens if weight_RT[token] == 0}
        assert left_out <= candidates
        assert len(left_out) == min(len(candidates), max(1, int(len(tokens) / 12)))
        assert len(left_out) < len(candidates)
        assert all(weight_RT[token] == 1 for token in set(tokens) - left_out)
        steps.append(len(candidates))
        cut.append(candidates & by_hand.cut_by_clip(seen.batch, 0.2, 0.2))
        return by_weight(seen, {token: float(token not in left_out) for token in tokens}, "token", count_zeroed=True)

    metrics = assert_equal_by_hand(policy, grpo_groups(scored), objective, loss)
    assert metrics["clip-cov/touched_tokens"] == 8
    assert metrics["clip-cov/candidates_tokens"] == sum(steps)
    assert bool(cut[1]) != exclude_clipped


@pytest.mark.parametrize("count_zeroed", [False, True])
@pytest.mark.parametrize("mean", ["token", "response"])
@pytest.mark.parametrize("scope", ["batch", "response"])
def test_forking_tokens(policy, scored, scope, mean, count_zeroed):
    weight = {"type": "forking-tokens", "share": "3/10", "scope": scope, "count_zeroed": count_zeroed}
    config = {"type": "dapo" if mean == "token" else "grpo", "clip_high": 0.2, "weights": [weight]}

    def loss(seen: Seen, first: Seen) -> Tensor:
        keep = by_hand.forking_in_batch if scope == "batch" else by_hand.forking_in_response
        kept = keep(seen.sampled_entropy(), 0.3)
        weights = {token: float(token in kept) for token in seen.batch.tokens()}
        return by_weight(seen, weights, mean, count_zeroed=count_zeroed)

    assert_equal_by_hand(policy, grpo_groups(scored), config, loss, least=1.05)


@pytest.mark.parametrize("floor", [0.02, 2.0])
def test_steer(policy, scored, floor):
    """The second floor is above the largest change of the first step, so that no weight reaches .6 there."""
    lowest = []
    config = {"type": "dapo", "clip_high": 0.2, "weights": [{"type": "steer", "smallest": 0.6, "floor": floor}]}

    def loss(seen: Seen, first: Seen) -> Tensor:
        batch, tokens = seen.batch, list(seen.batch.tokens())
        weights = by_hand.steer(
            [batch.logp(token).exp().item() for token in tokens],
            [batch.old_logp_RT[token].exp().item() for token in tokens],
            [batch.entropy(token).item() for token in tokens],
            [batch.advantage_RT[token].item() for token in tokens],
            lowest=0.6,
            floor=floor,
        )
        lowest.append(min(weights))
        return by_weight(seen, dict(zip(tokens, weights, strict=True)), "token", count_zeroed=True)

    assert_equal_by_hand(policy, grpo_groups(scored), config, loss)
    assert (lowest[0] == pytest.approx(0.6)) == (floor < 1)


@pytest.mark.parametrize("count_zeroed", [True, False])
def test_vppo(policy, scored, count_zeroed):
    weight = {"type": "vppo", "share": "1/3", "scale_min": 0.7, "cap": 1.0, "patch": 4, "probability": "1/2"}
    config = {"type": "dapo", "clip_high": 0.2, "weights": [{**weight, "count_zeroed": count_zeroed}]}
    patches = BlackPatches(BlackPatches.Config(patch=4, probability=Fraction(1, 2)))

    def loss(seen: Seen, first: Seen) -> Tensor:
        tokens = list(seen.batch.tokens())
        k3 = {token: by_hand.k3(first.batch.logp(token).item(), first.batch.logp(token, 0).item()) for token in tokens}
        assert max(k3.values()) > 1.0
        sensitivity = {token: min(value, 1.0) for token, value in k3.items()}
        weights = by_hand.vppo(sensitivity, 1 / 3, 0.7)
        return by_weight(seen, weights, "token", count_zeroed=count_zeroed)

    changes = [partial(patches.make_view, policy)]
    assert_equal_by_hand(policy, grpo_groups(scored), config, loss, changes=changes)


# --- Advantages


def whole_entropies(group: Group) -> list[list[float]]:
    return [response.entropy_T.tolist() for response in group.responses]


def for_every_token(values: Sequence[float], group: Group) -> list[list[float]]:
    return [[value] * len(response) for value, response in zip(values, group.responses, strict=True)]


def entropy_shaped(scored: ScoredGroup) -> list[list[float]]:
    plain = by_hand.normalised(scored.rewards)
    entropies = whole_entropies(scored.group)
    return [by_hand.entropy_shaped(a, own, 0.3, 1.5) for a, own in zip(plain, entropies, strict=True)]


def quantile(scored: ScoredGroup, *, interpolated: bool, scaled: bool) -> list[list[float]]:
    right = [float(grade.correct) for grade in scored.grades]
    baseline = by_hand.quantile_baseline(right, 0.4, interpolated=interpolated)
    mean = sum(right) / len(right)
    spread = math.sqrt(sum((each - mean) ** 2 for each in right) / (len(right) - 1)) + 1e-4
    return for_every_token([(each - baseline) / (spread if scaled else 1) for each in right], scored.group)


def pass_at_k(scored: ScoredGroup) -> list[list[float]]:
    return for_every_token(by_hand.pass_at_k([grade.correct for grade in scored.grades], 3), scored.group)


def grpo_passk(scored: ScoredGroup, *, scaled: bool) -> list[list[float]]:
    return for_every_token(by_hand.grpo_passk(scored.rewards, scaled=scaled, epsilon=1e-4), scored.group)


def unlikeliness(scored: ScoredGroup) -> list[list[float]]:
    logp = [float(response.behaviour_logp_T.double().sum()) for response in scored.group.responses]
    right = [grade.correct for grade in scored.grades]
    return for_every_token(
        by_hand.normalised(by_hand.unlikeliness(scored.rewards, right, logp, 0.5)), scored.group
    )  # fmt: skip


def gtpo(scored: ScoredGroup, *, normalise: str) -> list[list[float]]:
    right = [grade.correct for grade in scored.grades]
    settings = {"base": 0.9, "bonus": 0.3, "floor": 0.01}
    rows = by_hand.gtpo_rewards(scored.rewards, right, whole_entropies(scored.group), **settings)
    kinds = {"together": [0] * len(right), "apart": right}
    return rows if normalise == "none" else by_hand.normalised_rows(rows, kinds[normalise])


def grpo_s(scored: ScoredGroup) -> list[list[float]]:
    right = [grade.correct for grade in scored.grades]
    settings = {"base": 0.9, "bonus": 0.3, "floor": 0.01}
    rewards = by_hand.grpo_s_rewards(scored.rewards, right, whole_entropies(scored.group), **settings)
    return for_every_token(by_hand.normalised(rewards), scored.group)


def trust(scored: ScoredGroup) -> list[list[float]]:
    strengths = [0.0, *(record.strength for record in scored.group.records)]
    noise = [strengths[view] for view in scored.group.sampled_from]
    return for_every_token(by_hand.trust(scored.rewards, noise, 0.05, 0.3), scored.group)


ENTROPIES = {"outcome_weight": 0.9, "entropy_weight": 0.3, "entropy_floor": 0.01}
ADVANTAGES: dict[str, tuple[dict[str, Any], Callable[[ScoredGroup], list[list[float]]]]] = {
    "entropy-shaped": ({"type": "entropy-shaped", "alpha": 0.3, "kappa": 1.5}, entropy_shaped),
    "quantile": ({"type": "quantile"}, partial(quantile, interpolated=True, scaled=True)),
    "quantile of the theory": (
        {"type": "quantile", "method": "order-statistic", "scale": "none"},
        partial(quantile, interpolated=False, scaled=False),
    ),
    "pass-at-k": ({"type": "pass-at-k", "k": 3}, pass_at_k),
    "grpo-passk": ({"type": "grpo-passk"}, partial(grpo_passk, scaled=False)),
    "grpo-passk, scaled": ({"type": "grpo-passk", "scale": "group"}, partial(grpo_passk, scaled=True)),
    "unlikeliness": ({"type": "unlikeliness", "beta": 0.5}, unlikeliness),
    "gtpo": ({"type": "gtpo", **ENTROPIES}, partial(gtpo, normalise="together")),
    "gtpo, apart": ({"type": "gtpo", **ENTROPIES, "normalise": "apart"}, partial(gtpo, normalise="apart")),
    "gtpo, plain": ({"type": "gtpo", **ENTROPIES, "normalise": "none"}, partial(gtpo, normalise="none")),
    "grpo-s": ({"type": "grpo-s", **ENTROPIES}, grpo_s),
    "trust": ({"type": "trust", "alpha": 0.05, "reward_variance": 0.3}, trust),
}


def with_hand_advantages(seen: Seen, of_group: Callable[[ScoredGroup], list[list[float]]]) -> Seen:
    by_group = {each.group.index: of_group(each.scored) for each in seen.groups}
    advantage_RT = torch.zeros_like(seen.batch.advantage_RT)
    for r, (each, n) in enumerate(seen.rows):
        own = by_group[each.group.index][n]
        advantage_RT[r, : len(own)] = torch.tensor(own, dtype=torch.float64)
    return replace(seen, batch=replace(seen.batch, advantage_RT=advantage_RT))


@pytest.mark.parametrize("name", ADVANTAGES)
def test_advantages(policy, scored, name):
    config, of_group = ADVANTAGES[name]
    groups = grpo_groups(scored, config)
    differs = False
    for each, plain in zip(groups, grpo_groups(scored), strict=True):
        for n, expected in enumerate(of_group(each.scored)):
            assert each.at_tokens(n).tolist() == pytest.approx(expected, rel=1e-5, abs=1e-6)
            differs |= each.at_tokens(n).tolist() != pytest.approx(plain.at_tokens(n).tolist(), rel=1e-2)
    assert differs

    def loss(seen: Seen, first: Seen) -> Tensor:
        return seen.loss(by_hand.clipped(with_hand_advantages(seen, of_group).batch, 0.2, 0.2), "response")

    assert_equal_by_hand(policy, groups, {"type": "grpo", "advantage": config}, loss)


@pytest.mark.parametrize("level", ["response", "token"])
def test_vogue(policy, scored, level):
    """The own view is the one that a response was drawn from; responses to the clean picture keep their advantage."""
    config = {
        "type": "vogue",
        "alpha": 0.2,
        "kappa": 1.5,
        "level": level,
        "of": {"baseline": "pooled", "scale": "group"},
    }
    objective = configured({"type": "grpo", "advantage": config})
    rewards = [reward for each in scored for reward in each.rewards]
    raised = 0
    for each in scored:
        looked_at = with_statistics(each, objective.advantage.needs, policy)
        ours = train_group(looked_at, objective.advantage, rewards)
        for n, plain in enumerate(by_hand.normalised(each.rewards)):
            response, divergences = each.group.responses[n], []
            if each.group.sampled_from[n] != 0:
                with torch.no_grad():
                    views = (each.group.views[each.group.sampled_from[n]], each.group.views[0])
                    noisy_TV, clean_TV = (own_forward(policy, view, response).double() for view in views)
                    pairs = zip(noisy_TV, clean_TV, strict=True)
                    divergences = [by_hand.symmetric_kl(p_V, q_V).item() for p_V, q_V in pairs]
                if level == "response":
                    divergences = [sum(divergences) / len(divergences)] * len(divergences)
                raised += sum(0.2 * u < abs(plain) / 1.5 for u in divergences)
            expected = by_hand.vogue(plain, divergences or [0.0] * len(response), 0.2, 1.5)
            assert ours.at_tokens(n).tolist() == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert raised > 3


# --- Terms


def entropies_of(seen: Seen, entropy: Callable[[Tensor], Tensor]) -> Values:
    """What a function says of the logits of each token."""
    return {token: entropy(seen.batch.logits_RTV[token]) for token in seen.batch.tokens()}


def plain_loss(seen: Seen, mean: str) -> Tensor:
    return seen.loss(by_hand.clipped(seen.batch, 0.2, 0.2), mean)


def mean_of(seen: Seen, values: Values, mean: str) -> Tensor:
    """A term is no matter of the view weight."""
    return by_hand.by_token(values) if mean == "token" else by_hand.by_response(values, seen.n_responses)


@pytest.mark.parametrize("target", [9.0, 0.1])
def test_adaptive_entropy(policy, scored, target):
    """Both optimiser steps of a training step have the coefficient that its draws lead to."""
    term = {"type": "adaptive-entropy", "target": target, "delta": 0.25, "start": 0.5, "max": 0.7}

    def loss(seen: Seen, first: Seen) -> Tensor:
        drawn = list(seen.sampled_entropy().values())
        series = by_hand.adaptive_coefficients([sum(drawn) / len(drawn)], target, 0.25, 0.7, start=0.5)
        assert series == [(0.7, 0.7) if target == 9.0 else (0.25, 0.0)]
        entropies = {token: seen.batch.entropy(token) for token in seen.batch.tokens()}
        return plain_loss(seen, "response") - series[0][1] * mean_of(seen, entropies, "response")

    assert_equal_by_hand(policy, grpo_groups(scored), {"type": "grpo", "terms": [term]}, loss)


def test_the_adaptive_coefficient_over_steps():
    """Here the coefficient that a step applies follows from what that same step drew, as in the paper's formula.

    Skywork-OR1's code and TRL measure the entropy when a step ends, so that it acts in the next one.
    """
    falling = [[0.0, 0.3], [0.5, 0.3], [1.0, 0.1]]
    term = AdaptiveEntropy.Config(target=falling, delta=0.01, max=0.03).build()
    generator = torch.Generator().manual_seed(0)
    measured = (0.4 * torch.rand(24, generator=generator, dtype=torch.float64)).tolist()
    applied = []
    for step, entropy in enumerate(measured):
        one_RT = torch.full((1, 2), entropy)
        mask_RT = torch.ones(1, 2, dtype=torch.bool)
        batch = UpdateBatch(
            (Row(0, 0, 0),), one_RT.long(), mask_RT, one_RT, one_RT, one_RT, mask_RT[:, 0], mask_RT
        )  # fmt: skip
        term.begin_step(batch, progress=step / len(measured))
        state = term.state_dict()
        applied.append(state["coefficient"] * state["below"])
    expected = by_hand.adaptive_coefficients(
        measured, lambda step: 0.3 - 0.4 * max(0.0, step / len(measured) - 0.5), 0.01, 0.03
    )
    assert applied == pytest.approx([own for _, own in expected], abs=1e-7)
    assert {round(value, 2) for value in applied} >= {0.0, 0.01, 0.02, 0.03}


@pytest.mark.parametrize("mean", ["token", "response"])
def test_clamped_entropy(policy, scored, mean):
    term = {"type": "clamped-entropy", "coefficient": 0.6, "clamp": "9/10", "adaptive": False}
    config = {"type": "dapo" if mean == "token" else "grpo", "clip_high": 0.2, "terms": [term]}

    def loss(seen: Seen, first: Seen) -> Tensor:
        def entropy(logits_V: Tensor) -> Tensor:
            return by_hand.entropy_of(logits_V, by_hand.clamped_ids(logits_V, 0.9))

        return plain_loss(seen, mean) - 0.6 * mean_of(seen, entropies_of(seen, entropy), mean)

    assert_equal_by_hand(policy, grpo_groups(scored), config, loss)


@pytest.mark.parametrize("crossing", [True, False])
@pytest.mark.parametrize("anchored", [True, False])
def test_nucleus_entropy(policy, scored, anchored, crossing):
    term = {"type": "nucleus-entropy", "coefficient": 20.0, "p": "2/5", "crossing": crossing}
    config = {"type": "grpo", "terms": [{**term, "quantile": "3/5", "anchored": anchored}]}
    changes = []

    def nuclei(seen: Seen) -> Tensor:
        def entropy(logits_V: Tensor) -> Tensor:
            return by_hand.entropy_of(logits_V, by_hand.nucleus_ids(logits_V, 0.4, 10000, crossing=crossing))

        entropies = entropies_of(seen, entropy)
        kept = by_hand.above_quantile({token: value.item() for token, value in entropies.items()}, 0.6)
        counted = {token: entropies[token] for token in kept}
        some = {r for r, _ in counted}
        assert len(some) < seen.n_responses
        return by_hand.by_response(counted, len(some) if anchored else seen.n_responses)

    def loss(seen: Seen, first: Seen) -> Tensor:
        change = nuclei(seen) - nuclei(first).detach()
        changes.append(change.item())
        extra = change**2 if anchored else -nuclei(seen)
        return plain_loss(seen, "response") + 20.0 * extra

    assert_equal_by_hand(policy, grpo_groups(scored), config, loss)
    assert abs(changes[1]) > 1e-3


def off_view_weight(seen: Seen, token: Token) -> float:
    """The weight that makes the k3 estimate one of tokens drawn from the policy under the update view."""
    of_row, n = seen.rows[token[0]]
    group = of_row.group
    if group.sampled_from[n] == group.updated_on[n]:
        return 1.0
    gap = seen.batch.old_logp_RT[token].item() - group.responses[n].behaviour_logp_T[token[1]].item()
    return min(group.view_weight(n).cap, math.exp(gap))


@pytest.mark.parametrize("estimate", ["k3", "full"])
@pytest.mark.parametrize("recompute", [False, True])
def test_papo(policy, scored, recompute, estimate):
    """Not recomputed, the masked picture's side is the old policy's and has no gradient; recomputed, it has both."""
    term = {"type": "papo", "coefficient": 0.3, "estimate": estimate, "recompute": recompute}
    term |= {"cap": 0.6} if estimate == "k3" else {}
    term |= {"own_entropy": 0.2, "masked_entropy": 0.1, "patch": 4, "probability": "1/2"}
    patches = BlackPatches(BlackPatches.Config(patch=4, probability=Fraction(1, 2)))
    cut_off = []

    def loss(seen: Seen, first: Seen) -> Tensor:
        masked = seen if recompute else first
        others = masked.batch.other_logits_VIEWS_RTV
        batch = replace(seen.batch, other_logits_VIEWS_RTV=others if recompute else (others[0].detach(),))
        total = {}
        for token in batch.tokens():
            if estimate == "full":
                divergence = by_hand.full_kl(batch, token, 0, other_fixed=not recompute)
            else:
                divergence = by_hand.papo_at(batch, token, 0.6) * off_view_weight(seen, token)
                cut_off.append(by_hand.papo_at(batch, token, math.inf).item() > 0.6)
            total[token] = -0.3 * divergence - 0.2 * batch.logp(token) - 0.1 * batch.logp(token, 0)
        return plain_loss(seen, "response") + mean_of(seen, total, "response")

    changes = [partial(patches.make_view, policy)]
    assert_equal_by_hand(policy, grpo_groups(scored), {"type": "grpo", "terms": [term]}, loss, changes=changes)
    assert estimate == "full" or 0 < sum(cut_off) < len(cut_off)


@pytest.mark.parametrize("clean_gradient", [False, True])
@pytest.mark.parametrize("worst", ["token", "response"])
def test_roma(policy, scored, worst, clean_gradient):
    """Which degraded view a response's auxiliary gradient looks at is drawn by the library; all else follows."""
    views = [{"type": "blank"}, {"type": "black-patches", "patch": 4, "probability": "1/2"}]
    term = {"type": "roma", "coefficient": 0.3, "auxiliary": 0.4, "worst": worst, "clean_gradient": clean_gradient}
    objective = configured({"type": "grpo", "terms": [{**term, "views": views}]})
    [roma] = objective.terms
    prepared, prepare = [], roma.prepare

    def watched(*arguments: Any, **named: Any) -> Any:
        prepared.append(prepare(*arguments, **named))
        return prepared[-1]

    roma.prepare = watched  # type: ignore[method-assign]
    steps = []

    def loss(seen: Seen, first: Seen) -> Tensor:
        [drawn_R] = prepared[len(steps)].values()
        steps.append(drawn_R)
        right = [each.scored.grades[n].correct and each.group.sampled_from[n] == 0 for each, n in seen.rows]

        def part(divergence: float, policy_gradient: float) -> Values:
            return by_hand.roma(
                seen.batch,
                right,
                divergence=divergence,
                policy_gradient=policy_gradient,
                auxiliary={r: int(view) for r, view in enumerate(drawn_R.tolist())},
                worst_of=worst,
                clean_gradient=clean_gradient,
            )

        divergences, gains = part(0.3, 0.0), part(0.0, 0.4)
        values = {token: off_view_weight(seen, token) * divergences[token] + gains[token] for token in gains}
        return plain_loss(seen, "response") + mean_of(seen, values, "response")

    changes = [
        partial(Blank().make_view, policy),
        partial(BlackPatches(BlackPatches.Config(patch=4, probability=Fraction(1, 2))).make_view, policy),
    ]
    assert_equal_by_hand(policy, grpo_groups(scored), objective, loss, changes=changes)
    assert {int(view) for drawn_R in steps for view in drawn_R} == {0, 1}
