"""The update: from train groups to optimiser steps."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from saei.config import TrainingConfig
from saei.engine.seeding import derive
from saei.entropy.base import Selector
from saei.interventions.stats import token_stats
from saei.objectives.base import Objective, ObjectiveInput
from saei.policy import Policy, Scores
from saei.types import TrainGroup


class Updater:
    """Turns the groups of a step into optimiser steps; PPO minibatches are whole groups.

    Args:
        policy: The policy that is trained.
        objective: Its loss.
        optimizer: Prepared by the accelerator.
        scheduler: Advanced once per optimiser step.
        accelerator: Accelerate's.
        config: Epochs, minibatches, micro-batches.
        max_grad_norm: Gradients are clipped to this norm.
        reference: The reference policy, for terms that need it.
        seed: Seed of the order of minibatches.
    """

    def __init__(
        self,
        policy: Policy,
        objective: Objective,
        *,
        optimizer: Any,
        scheduler: Any,
        accelerator: Any,
        config: TrainingConfig,
        max_grad_norm: float,
        reference: Policy | None,
        seed: int,
    ) -> None:
        self._policy = policy
        self._objective = objective
        self._optimizer = optimizer
        self._scheduler = scheduler
        self._accelerator = accelerator
        self._config = config
        self._max_grad_norm = max_grad_norm
        self._reference = reference
        self._seed = seed
        selector = objective.config.token_selector
        self._token_selector: Selector | None = selector.build() if selector else None

    def run(self, groups: Sequence[TrainGroup], *, step: int, progress: float) -> dict[str, float]:
        """Train on a step's groups and return metrics: loss, gradient norm, the objective's metrics by origin."""
        size = self._config.minibatch_groups or len(groups)
        on_policy = self._config.ppo_epochs == 1 and size >= len(groups)
        # Minibatches after the first see a policy that has moved: the old one is scored before.
        old = None if on_policy else [self._score(self._policy, [group]) for group in groups]
        log = _Log()
        for epoch in range(self._config.ppo_epochs):
            seed = derive(self._seed, "minibatches", step, epoch)
            order = torch.randperm(len(groups), generator=torch.Generator().manual_seed(seed)).tolist()
            for start in range(0, len(groups), size):
                chosen = sorted(order[start : start + size])
                self._optimiser_step(
                    [groups[i] for i in chosen], None if old is None else [old[i] for i in chosen], progress, step, log
                )
        return log.summary()

    def _optimiser_step(
        self,
        groups: Sequence[TrainGroup],
        old: Sequence[Tensor] | None,
        progress: float,
        step: int,
        log: _Log,
    ) -> None:
        counts = [(len(group.advantages), self._kept_tokens(group)) for group in groups]
        n_responses, n_tokens = float(sum(n for n, _ in counts)), float(max(1, sum(t for _, t in counts)))
        size = self._config.micro_groups or len(groups)
        loss = 0.0
        for start in range(0, len(groups), size):
            part = groups[start : start + size]
            old_logp_RT = None if old is None else _stack(old[start : start + size])
            inputs = self._inputs(part, old_logp_RT, n_responses, n_tokens, progress, step)
            result = self._objective.loss(inputs)
            self._accelerator.backward(result.value, inputs=self._parameters())
            loss += float(result.value.detach())
            origins = [group.group.origin(n) for group, n in _rows(part)]
            log.add(origins, result.metrics)
        norm = self._accelerator.clip_grad_norm_(self._parameters(), self._max_grad_norm)
        self._optimizer.step()
        self._scheduler.step()
        self._optimizer.zero_grad()
        log.step(loss, float(norm))

    def _parameters(self) -> list[Tensor]:
        return [parameter for parameter in self._policy.module.parameters() if parameter.requires_grad]

    def _kept_tokens(self, group: TrainGroup) -> int:
        masked = self._objective.config.mask_truncated
        return sum(len(response) for response in group.group.responses if not (masked and response.truncated))

    def _inputs(
        self,
        groups: Sequence[TrainGroup],
        old_logp_RT: Tensor | None,
        n_responses: float,
        n_tokens: float,
        progress: float,
        step: int,
    ) -> ObjectiveInput:
        needs = self._objective.needs
        scores = _score_groups(self._policy, groups, grad=True, with_entropy="entropy" in needs)
        logp_RT = _stack([own.logp_NT for own in scores])
        device, rows = logp_RT.device, list(_rows(groups))
        mask_RT = _stack([own.mask_NT for own in scores])
        weights = [group.group.view_weight for group, _ in rows]

        def column(values: Sequence[float | bool], dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.tensor(values, dtype=dtype, device=device)

        return ObjectiveInput(
            logp_RT=logp_RT,
            old_logp_RT=logp_RT.detach() if old_logp_RT is None else old_logp_RT,
            behaviour_logp_RT=_stack([group.group.responses[n].behaviour_logp_T[None] for group, n in rows]),
            mask_RT=mask_RT,
            selected_RT=self._select(groups, mask_RT, progress, step),
            advantage_R=column([group.advantages[n] for group, n in rows]),
            truncated_R=column([group.group.responses[n].truncated for group, n in rows], torch.bool),
            off_view_R=column([g.group.updated_on[n] != g.group.sampled_from[n] for g, n in rows], torch.bool),
            beta_R=column([weight.beta for weight in weights]),
            cap_R=column([weight.cap for weight in weights]),
            n_responses=n_responses,
            n_tokens=n_tokens,
            entropy_RT=_stack([_entropy(own) for own in scores]) if "entropy" in needs else None,
            reference_logp_RT=self._reference_logp(groups) if "reference" in needs else None,
        )

    def _select(self, groups: Sequence[TrainGroup], mask_RT: Tensor, progress: float, step: int) -> Tensor:
        """Return the tokens of the policy loss, chosen per group by the entropies of the sampling pass."""
        if self._token_selector is None:
            return mask_RT
        generator = torch.Generator().manual_seed(derive(self._seed, "token-selector", step))
        parts = []
        for group in groups:
            stats = token_stats(self._policy, group.group.responses, self._token_selector.needs)
            mask_NT = self._token_selector.select(stats, progress=progress, generator=generator)
            parts.append(mask_NT[[n for _, n in _rows([group])]])
        return pad(_stack(parts), (0, mask_RT.shape[1] - _stack(parts).shape[1])) & mask_RT

    def _score(self, policy: Policy, groups: Sequence[TrainGroup]) -> Tensor:
        return _stack([own.logp_NT for own in _score_groups(policy, groups, grad=False, with_entropy=False)])

    def _reference_logp(self, groups: Sequence[TrainGroup]) -> Tensor:
        assert self._reference is not None
        return self._score(self._reference, groups)


def _score_groups(policy: Policy, groups: Sequence[TrainGroup], *, grad: bool, with_entropy: bool) -> list[Scores]:
    """Score every response under its update view; views without responses to train are not opened."""
    views, responses = [], []
    for group in groups:
        for number, view in enumerate(group.group.views):
            own = [r for r, where in zip(group.group.responses, group.group.updated_on, strict=True) if where == number]
            if own:
                views.append(view)
                responses.append(own)
    with policy.open(views, grad="parameters" if grad else "none") as prefix:
        return prefix.score(responses, with_entropy=with_entropy)


def _rows(groups: Sequence[TrainGroup]) -> Iterator[tuple[TrainGroup, int]]:
    """Yield group and response number of each row, in the order in which ``_score_groups`` returns them."""
    for group in groups:
        for view in range(len(group.group.views)):
            yield from ((group, n) for n, where in enumerate(group.group.updated_on) if where == view)


def _entropy(scores: Scores) -> Tensor:
    assert scores.entropy_NT is not None
    return scores.entropy_NT


def _stack(parts: Sequence[Tensor]) -> Tensor:
    """Concatenate ``[N, T]`` tensors of several lengths along N, right-padded."""
    width = max(part.shape[1] for part in parts)
    return torch.cat([pad(part, (0, width - part.shape[1])) for part in parts])


class _Log:
    """Collects the objective's values per response and the numbers of each optimiser step."""

    def __init__(self) -> None:
        self._values: dict[str, dict[str, list[float]]] = {}
        self._losses: list[float] = []
        self._norms: list[float] = []

    def add(self, origins: Sequence[str], metrics: Mapping[str, Tensor]) -> None:
        for name, values_R in metrics.items():
            for origin, value in zip(origins, values_R.tolist(), strict=True):
                if not math.isnan(value):  # a response that the loss leaves out
                    self._values.setdefault(name, {}).setdefault(origin, []).append(value)

    def step(self, loss: float, norm: float) -> None:
        self._losses.append(loss)
        self._norms.append(norm)

    def summary(self) -> dict[str, float]:
        found = {
            "loss": sum(self._losses) / len(self._losses),
            "grad_norm": sum(self._norms) / len(self._norms),
        }
        for name, by_origin in self._values.items():
            reduce = max if name.endswith("_max") else _mean
            found[name] = reduce([value for values in by_origin.values() for value in values])
            found |= {f"{origin}/{name}": reduce(values) for origin, values in by_origin.items()}
        return found


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
