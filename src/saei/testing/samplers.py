"""The contract of samplers."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import reduce
from threading import Barrier
from typing import Any

import torch
from torch import Tensor

from saei.config.strategy import Strategy, StrategyConfig, observe_all, restore, state_of
from saei.policy import Policy
from saei.policy.pixels.space import to_image
from saei.policy.scoring import score_with
from saei.runtime.seeds import GroupSources
from saei.samplers.base import Sampler, StepContext, Supply
from saei.testing.rules import config_of, random_state_untouched, require
from saei.testing.slots import check_drops
from saei.types import CLEAN, Grade, Group, Response, ScoredGroup, View

TOLERANCE = 1e-3
"""Nats by which a token's log-probability may differ between sampling and scoring."""

PATIENCE = 60.0
"""Seconds that one of two processes waits for the other; longer waits mean that they ask for totals unequally often."""


def check_sampler(subject: Strategy | StrategyConfig, policy: Policy, views: Sequence[View]) -> None:
    """Hold a sampler to its contract.

    Args:
        subject: The sampler or its config.
        policy: A small policy in float32, to sample from.
        views: A few of its clean views, some without an image too.

    Raises:
        AssertionError: Naming the rule that is broken.
    """
    config = config_of(subject)
    sampler, name = config.build(), config.type
    require(isinstance(sampler, Sampler), name, "the config of a sampler builds a Sampler")
    _check_plan(sampler)
    views = [replace(view, index=place) for place, view in enumerate(views)]
    before = _state(policy)
    further: list[View] = []
    with random_state_untouched(name):
        groups = _draw(sampler, policy, views, further=further)
    _check_untouched(name, policy, before)
    looked_at = [*views, *further]
    require(len(groups) == len(looked_at), name, "there is one group per view, those of supply.more included")
    require(_draw(config.build(), policy, []) == [], name, "a process that is given no view draws no group")
    for view, group in zip(looked_at, groups, strict=True):
        _check_group(sampler, policy, view, group)
    _check_guard(sampler, policy, groups)
    require(_same(groups, _draw(config.build(), policy, views)), name, "the same arguments give the same groups")
    _check_sources(config, policy, views)
    _check_state(config, sampler, policy, views)


def _check_plan(sampler: Sampler) -> None:
    name, plan = sampler.name(), sampler.plan()
    require(bool(plan.arms) and plan.arms[0].origin == CLEAN, name, "its plan begins with the clean arm")
    sizes = all(type(arm.responses) is int and arm.responses > 0 and arm.views > 0 for arm in plan.arms)
    require(sizes, name, "each arm of its plan has responses and views")
    require(plan == sampler.plan(), name, "its plan is the same all the time")
    if all(arm.count for arm in plan.arms):
        settings = {"sampler": sampler.config.model_dump(mode="json")}
        for assignment in plan.settings_for(plan.group_size):
            path, value = assignment.split("=")
            there: Any = reduce(lambda section, word: section.get(word, {}), path.split("."), settings)
            require(there == int(value), name, "the settings that its plan names are its numbers of responses")


def _draw(
    sampler: Sampler,
    policy: Policy,
    views: Sequence[View],
    progress: float = 0.0,
    further: list[View] | None = None,
) -> list[Group]:
    """Draw groups; further views that the sampler requests repeat the given ones and are added to ``further``."""
    given = [] if further is None else further

    def more(n: int) -> list[View]:
        start = len(views) + len(given)
        fresh = [replace(views[place % len(views)], index=place) for place in range(start, start + n)]
        given.extend(fresh)
        return fresh

    return sampler.draw(views, StepContext(policy, progress, GroupSources(2)), Supply(_grade, more))


def _check_sources(config: StrategyConfig, policy: Policy, views: Sequence[View]) -> None:
    """Check that a group is the same whichever other groups its process draws."""
    together = _draw(config.build(), policy, views)
    if config.build().plan().pooled:
        rule = "what depends on the groups of other processes is computed from totals over processes"
        require(_same(together, _draw_in_processes(config, policy, views)), config.type, rule)
        return
    for view, group in zip(views, together, strict=False):
        alone = _draw(config.build(), policy, [view])[0]
        rule = "what belongs to a group is drawn from step.generators(views) or step.generator_of(view)"
        # Sums in another order may turn the sign of a gradient next to zero, seldom.
        require(_equal(group, alone, share=0.99), config.type, rule)


def _draw_in_processes(config: StrategyConfig, policy: Policy, views: Sequence[View]) -> list[Group]:
    """Return the groups that two processes draw, the first view in one of them and the others in the other."""
    shares, barrier, numbers = (views[:1], views[1:]), Barrier(2, timeout=PATIENCE), dict[int, float]()

    def in_process(rank: int) -> list[Group]:
        def total(number: Any) -> Any:
            numbers[rank] = number
            barrier.wait()
            result = sum(numbers.values())
            barrier.wait()
            return result

        supply = Supply(_grade, total=total)
        sampler: Sampler = config.build()
        return sampler.draw(shares[rank], StepContext(policy, 0.0, GroupSources(2)), supply)

    with ThreadPoolExecutor(2) as threads:
        drawn = list(threads.map(in_process, range(2)))
    return [group for groups in drawn for group in groups]


def _grade(view: View, responses: Sequence[Response]) -> list[Grade]:
    """Grade by the first token, so that some groups agree and others do not."""
    right = [int(response.ids_T[0]) % 2 == 0 if len(response) else False for response in responses]
    return [Grade(float(flag), flag) for flag in right]


def _check_group(sampler: Sampler, policy: Policy, view: View, group: Group) -> None:
    name = sampler.name()
    n = len(group.responses)
    require(n == sampler.plan().group_size, name, "a group has as many responses as planned")
    require(group.example is view.example and group.views[0] is view, name, "a group's first view is the one given")
    places = (group.sampled_from, group.updated_on)
    known = all(len(of_kind) == n and all(0 <= place < len(group.views) for place in of_kind) for of_kind in places)
    require(known, name, "each response is sampled from one of the group's views and updated on one")
    origins = [group.origin(number) == CLEAN for number in range(n)]
    require(origins == sorted(origins, reverse=True), name, "clean responses come first")
    weighed = len(group.view_weights) in (0, n)
    require(weighed, name, "there is one view weight per response, or none")
    trained = not group.untrained or all(
        0 <= untrained < max(1, len(response))
        for untrained, response in zip(group.untrained, group.responses, strict=False)
    )
    trained = trained and len(group.untrained) in (0, n)
    require(trained, name, "some tokens of each response are trained")
    if group.untouched:
        require(set(group.sampled_from) == {0}, name, "an untouched group draws from the clean view only")
    numbers = all(isinstance(value, float) and math.isfinite(value) for value in group.metrics.values())
    require(numbers, name, "a group's metrics are finite numbers")
    for other in group.views:
        _check_view(name, policy, view, other)
    _check_origin(name, policy, group)
    planned = [arm.origin for arm in sampler.plan().arms]
    require(all(view.origin in planned for view in group.views), name, "all origins are those of its plan")


def _check_view(name: str, policy: Policy, clean: View, view: View) -> None:
    require(view.index == clean.index, name, "all views of a group have its index")
    if view.example is clean.example:
        same = [canvas.shape for canvas in view.canvases] == [canvas.shape for canvas in clean.canvases]
        require(same, name, "all views of an example have canvases of the same sizes")
    else:
        same = (view.example.id, view.example.answer) == (clean.example.id, clean.example.answer)
        require(same, name, "a changed example keeps its id and its answer")
        made = policy.view(view.example, view.index)
        same = torch.equal(made.prompt_ids_P, view.prompt_ids_P) and len(made.canvases) == len(view.canvases)
        same = same and all(map(torch.equal, made.canvases, view.canvases))
        require(same, name, "the view of a changed example is the policy's own")
    stored = policy.pixels.canvases([to_image(canvas) for canvas in view.canvases])
    for canvas, again in zip(view.canvases, stored, strict=True):
        require(torch.equal(again.to(canvas), canvas), name, "a canvas is what the policy sees of its 8-bit picture")


def _check_origin(name: str, policy: Policy, group: Group) -> None:
    """Check each response's log-probabilities by scoring it under the view that it claims to come from."""
    claims = list(zip(group.sampled_from, (response.temperature for response in group.responses), strict=True))
    for number, temperature in dict.fromkeys(claims):
        claiming = [r for r, claim in zip(group.responses, claims, strict=True) if claim == (number, temperature)]
        distribution = policy.distribution
        drawn_from = distribution if temperature is None else replace(distribution, temperature=temperature)
        with torch.no_grad():
            view = group.views[number]
            ((scores, _),) = score_with(policy, [view], [claiming], {}, with_entropy=False, distribution=drawn_from)
        for row, response in zip(scores.logp_NT, claiming, strict=True):
            gap_T = row[: len(response)] - response.behaviour_logp_T
            near = not len(response) or float(gap_T.abs().max()) < TOLERANCE
            require(near, name, "a response has the log-probabilities of the view it says that it was drawn from")


def _check_guard(sampler: Sampler, policy: Policy, groups: Sequence[Group]) -> None:
    scored = [ScoredGroup(group, tuple(_grade(group.views[0], group.responses))) for group in groups]
    for given in (scored, scored[:1], []):
        dropped = sampler.guard(given, StepContext(policy, 0.0, GroupSources(2)), Supply(_grade))
        check_drops(sampler.name(), given, dropped)


def _check_state(config: StrategyConfig, sampler: Sampler, policy: Policy, views: Sequence[View]) -> None:
    """Check that a sampler restored from its state draws what the uninterrupted one draws."""
    observe_all(sampler, {"eval/accuracy": 0.5, "probe/entropy": 0.2})  # before the first step
    step = {"train/reward": 0.5, "train/entropy": 0.1, "train/clean/accuracy": 1.0}
    observe_all(sampler, step)
    observe_all(sampler, {**step, "eval/accuracy": 0.75, "probe/entropy": 0.1})
    file = io.BytesIO()
    torch.save(state_of(sampler), file)
    file.seek(0)
    restored: Any = config.build()
    restore(restored, torch.load(file, weights_only=True))
    ours, theirs = (_draw(each, policy, views, progress=1.0) for each in (sampler, restored))
    require(_same(ours, theirs), config.type, "a sampler restored from its state draws the same groups")


def _same(left: Sequence[Group], right: Sequence[Group]) -> bool:
    return len(left) == len(right) and all(map(_equal, left, right))


def _equal(left: Group, right: Group, *, share: float = 1.0) -> bool:
    """Return whether groups have the same responses to the same views, and this share of their pixels is equal."""
    ids = [[(each.ids_T.tolist(), each.temperature) for each in group.responses] for group in (left, right)]
    canvases = [[canvas for view in group.views for canvas in view.canvases] for group in (left, right)]
    return (
        ids[0] == ids[1]
        and (left.sampled_from, left.updated_on) == (right.sampled_from, right.updated_on)
        and len(canvases[0]) == len(canvases[1])
        and all(float((a == b).float().mean()) >= share for a, b in zip(*canvases, strict=True))
    )


def _state(policy: Policy) -> list[tuple[Tensor, Tensor | None, bool]]:
    return [
        (p.detach().clone(), None if p.grad is None else p.grad.clone(), p.requires_grad)
        for p in policy.module.parameters()
    ]


def _check_untouched(name: str, policy: Policy, before: Sequence[tuple[Tensor, Tensor | None, bool]]) -> None:
    require(not policy.model.training, name, "the model stays in eval mode")
    for (value, grad, needs), (old, old_grad, needed) in zip(_state(policy), before, strict=True):
        require(torch.equal(value, old), name, "parameters keep their values")
        same_grad = grad is None if old_grad is None else grad is not None and torch.equal(grad, old_grad)
        require(same_grad, name, "parameters keep their .grad")
        require(needs == needed, name, "parameters keep their requires_grad")
