"""One update of three groups, in one process or in two, and the gradients of each of its optimiser steps."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from groups import cut, draw
from saei.config.sections import OptimizerConfig, SamplingConfig, TrainingConfig
from saei.data.bars import Bars
from saei.data.templates import ThinkBoxed
from saei.engine.schedule import Schedule
from saei.engine.update import Updater
from saei.objectives.base import Objective
from saei.policy import Policy
from saei.policy.load.weights import Parts
from saei.runtime.processes import Processes
from saei.runtime.stopwatch import Stopwatch
from saei.types import ADVERSARIAL, Grade, Group, ScoredGroup, TrainGroup

INDICES = (11, 4, 7)
LENGTHS = ((8, 3, 5), (1, 6, 2), (4, 7, 3))
ADVANTAGES = ((1.5, -0.5, -1.0), (-0.75, 0.5, 1.0), (0.25, -1.25, 2.0))


def policy_of(random_parts: Parts) -> Policy:
    parts = replace(random_parts, model=copy.deepcopy(random_parts.model))
    return Policy(parts, ThinkBoxed(), sampling=SamplingConfig(max_new_tokens=8, temperature=0.9))


def three_groups(policy: Policy, bars: Bars) -> list[TrainGroup]:
    """Three groups of three responses from two views each; those drawn from the clean view are trained on the other."""
    made = []
    for number, (index, lengths) in enumerate(zip(INDICES, LENGTHS, strict=True)):
        clean = policy.view(bars.example(number), index)
        views = (clean, replace(clean, origin=ADVERSARIAL, canvases=(1 - clean.canvases[0],)))
        first, second = draw(policy, list(views), [1, 2], seed=number)
        responses = [cut(each, n, truncated=n > 6) for each, n in zip((*first, *second), lengths, strict=True)]
        group = Group(clean.example, views, tuple(responses), sampled_from=(0, 1, 1), updated_on=(1, 0, 1))
        made.append(TrainGroup(ScoredGroup(group, (Grade(0.0, False),) * 3), ADVANTAGES[number]))
    return made


class Kept(torch.optim.SGD):
    """Stochastic gradient descent that keeps each step's gradients."""

    def __init__(self, parameters: Any, lr: float) -> None:
        super().__init__(parameters, lr=lr)
        self.gradients: list[list[Tensor]] = []

    def step(self, closure: Any = None) -> None:
        own = self.param_groups[0]["params"]
        self.gradients.append([torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in own])
        super().step(closure)


def update(
    policy: Policy,
    groups: list[TrainGroup],
    objective: Objective,
    *,
    lr: float = 0.0,
    processes: Processes | None = None,
    stopwatch: Stopwatch | None = None,
    **training: Any,
) -> tuple[dict[str, float], list[list[Tensor]]]:
    optimizer = Kept([p for p in policy.module.parameters() if p.requires_grad], lr)
    config = TrainingConfig(**training)
    updater = Updater(
        policy,
        objective,
        optimizer=optimizer,
        schedule=Schedule(optimizer, OptimizerConfig(), config),
        accelerator=Accelerator(cpu=True),
        config=config,
        max_grad_norm=1e9,
        reference=None,
        seed=0,
        processes=processes,
    )
    phase = (stopwatch or Stopwatch()).phase
    return updater.run(groups, step=3, progress=0.25, phase=phase).metrics, optimizer.gradients


class Together(Processes):
    """One of two processes that are threads here; what they tell each other goes through a list."""

    def __init__(self, rank: int, barrier: threading.Barrier, told: list[Any]) -> None:
        super().__init__(2, rank)
        self._barrier, self._told = barrier, told

    def gather(self, value: Any) -> list[Any]:
        self._told[self.rank] = value
        self._barrier.wait(60)
        values = list(self._told)
        self._barrier.wait(60)
        return values

    def alone(self, module: Any) -> Any:
        return nullcontext()

    def add_up_gradients(self, accelerator: Any, module: Any, parameters: Any) -> None:
        own = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in parameters]
        for parameter, *grads in zip(parameters, *self.gather(own), strict=True):
            parameter.grad = torch.stack(grads).mean(0)


def in_two(
    policy: Policy, shares: list[list[TrainGroup]], objective: Callable[[], Objective], **training: Any
) -> list[tuple[dict[str, float], list[list[Tensor]]]]:
    """Update in two processes, the first of which has the first share of the groups."""
    barrier, told = threading.Barrier(2), [None, None]
    results: list[Any] = [None, None]

    def work(rank: int) -> None:
        parts = replace(policy.parts, model=copy.deepcopy(policy.model))
        mine = Policy(parts, ThinkBoxed(), sampling=policy.sampling)
        try:
            results[rank] = update(mine, shares[rank], objective(), processes=Together(rank, barrier, told), **training)
        except BaseException as error:
            results[rank] = error
            barrier.abort()

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


def assert_same_gradients(ours: list[Tensor], expected: list[Tensor]) -> None:
    largest = max(float(each.abs().max()) for each in expected)
    assert largest > 1e-3
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a, b, atol=2e-5 * largest, rtol=0)
