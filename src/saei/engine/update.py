"""The update: from train groups to optimiser steps."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from saei.config.run import TrainingConfig
from saei.engine.metrics import joined
from saei.engine.schedule import Schedule
from saei.entropy.selectors.base import Selector
from saei.errors import TrainingError
from saei.evaluation.metrics import mean
from saei.interventions.stats import token_stats
from saei.objectives.base import Objective, ObjectiveInput
from saei.policy import Policy, Scores
from saei.runtime.processes import Processes
from saei.runtime.seeds import GroupSources, derive
from saei.types import TrainGroup


class Updater:
    """Turns the groups of a step into optimiser steps; PPO minibatches are whole groups.

    Args:
        policy: The policy that is trained.
        objective: Its loss.
        optimizer: Prepared by the accelerator.
        schedule: Sets the learning rate of each optimiser step.
        accelerator: Accelerate's.
        config: Epochs, minibatches, micro-batches.
        max_grad_norm: Gradients are clipped to this norm.
        reference: The reference policy, for terms that need it.
        seed: Seed of the order of minibatches.
        processes: The processes that train together; counts, minibatches and metrics are those of all.

    Attributes:
        updates: Optimiser steps begun since this was made.
    """

    def __init__(
        self,
        policy: Policy,
        objective: Objective,
        *,
        optimizer: Any,
        schedule: Schedule,
        accelerator: Any,
        config: TrainingConfig,
        max_grad_norm: float,
        reference: Policy | None,
        seed: int,
        processes: Processes | None = None,
    ) -> None:
        self._policy = policy
        self._objective = objective
        self._optimizer = optimizer
        self._schedule = schedule
        self.updates = 0
        self._accelerator = accelerator
        self._config = config
        self._max_grad_norm = max_grad_norm
        self._reference = reference
        self._seed = seed
        self._processes = processes or Processes()

    def run(self, groups: Sequence[TrainGroup], *, step: int, progress: float) -> dict[str, float]:
        """Train on a step's groups and return metrics: loss, gradient norm, the objective's metrics by origin.

        Args:
            groups: This process's groups, of which there may be none; all processes together need one. Each has an
                index of its own, by which the groups of all processes are put in the order that they have in one.
            step: Steps done.
            progress: Share of the training done, in [0, 1].

        Raises:
            TrainingError: If a gradient is not finite; the parameters are those before the optimiser step.
        """
        indices = [one.group.index for one in groups]
        everywhere = sorted(index for part in self._processes.gather(indices) for index in part)
        assert len(set(everywhere)) == len(everywhere), "two groups of a step have one index"
        size = self._config.minibatch_groups or len(everywhere)
        on_policy = self._config.ppo_epochs == 1 and size >= len(everywhere)
        prepared = self._prepare(groups, on_policy=on_policy, step=step, progress=progress)
        by_index = dict(zip(indices, prepared, strict=True))
        log = _Log()
        for epoch in range(self._config.ppo_epochs):
            seed = derive(self._seed, "minibatches", step, epoch)
            order = torch.randperm(len(everywhere), generator=torch.Generator().manual_seed(seed)).tolist()
            for start in range(0, len(everywhere), size):
                minibatch = [everywhere[i] for i in sorted(order[start : start + size])]
                self._schedule.begin(step, log.steps)
                self._optimiser_step([by_index[index] for index in minibatch if index in by_index], log)
        return log.summary(self._processes)

    def _prepare(self, groups: Sequence[TrainGroup], *, on_policy: bool, step: int, progress: float) -> list[_Prepared]:
        """Compute what stays the same however the groups are cut into minibatches and micro-batches."""
        sources = GroupSources(self._seed, "token-selector", step)
        prepared = []
        for group in groups:
            selected_NT = self._select(group, progress, sources(group.group.views[0]))
            # The first minibatch sees the old policy itself; later ones see a policy that has moved.
            old_logp_NT = None if on_policy else self._score(self._policy, group)
            reference_logp_NT = None
            if "reference" in self._objective.needs:
                assert self._reference is not None
                reference_logp_NT = self._score(self._reference, group)
            prepared.append(_Prepared(group, selected_NT, old_logp_NT, reference_logp_NT))
        return prepared

    def _optimiser_step(self, batch: Sequence[_Prepared], log: _Log) -> None:
        counts = self._counts(batch)
        size = self._config.micro_groups or max(1, len(batch))
        loss = 0.0
        for start in range(0, len(batch), size):
            part = batch[start : start + size]
            with self._processes.alone(self._policy.module):
                result = self._objective.loss(self._inputs(part, counts))
                # Counts are those of all processes, so gradients are to be summed; their mean is taken.
                self._accelerator.backward(result.value * self._processes.count, inputs=self._parameters())
            loss += float(result.value.detach())
            log.add([group.group.origin(n) for group, n in _rows([one.group for one in part])], result.metrics)
        self._processes.add_up_gradients(self._accelerator, self._policy.module, self._parameters())
        norm = float(self._accelerator.clip_grad_norm_(self._parameters(), self._max_grad_norm))
        if not math.isfinite(norm) and self._config.mixed_precision != "fp16":  # fp16's scaler skips such steps itself
            raise TrainingError(
                "Gradients have to be finite.",
                reason=f"Their norm is {norm}, the loss {loss}.",
                remedy="Start a new run with a lower optimizer.lr, or in float32: from this one's last checkpoint "
                "(--model), if it has one.",
            )
        self.updates += 1  # counted before: a step that fails half-way has changed weights
        self._optimizer.step()
        self._optimizer.zero_grad()
        log.step(loss, norm)

    def _parameters(self) -> list[Tensor]:
        return [parameter for parameter in self._policy.module.parameters() if parameter.requires_grad]

    def _counts(self, batch: Sequence[_Prepared]) -> dict[str, float]:
        """Return the global counts of ``ObjectiveInput`` by field."""
        masked = self._objective.config.mask_truncated
        n_responses = n_tokens = n_selected = 0
        for one in batch:
            responses = [group.group.responses[n] for group, n in _rows([one.group])]
            kept = [n for n, response in enumerate(responses) if not (masked and response.truncated)]
            n_responses += len(responses)
            own = sum(len(responses[n]) for n in kept)
            n_tokens += own
            n_selected += own if one.selected_NT is None else int(one.selected_NT[kept].sum())
        own_counts = self._processes.gather((n_responses, n_tokens, n_selected))
        n_responses, n_tokens, n_selected = (sum(numbers) for numbers in zip(*own_counts, strict=True))
        return {
            "n_responses": float(n_responses),
            "n_tokens": float(max(1, n_tokens)),
            "n_selected": float(max(1, n_selected)),
        }

    def _inputs(self, batch: Sequence[_Prepared], counts: Mapping[str, float]) -> ObjectiveInput:
        groups, needs = [one.group for one in batch], self._objective.needs
        scores = _score_groups(self._policy, groups, grad=True, with_entropy="entropy" in needs)
        logp_RT, mask_RT = _stack([own.logp_NT for own in scores]), _stack([own.mask_NT for own in scores])
        device, rows = logp_RT.device, list(_rows(groups))
        weights = [group.group.view_weight for group, _ in rows]

        def column(values: Sequence[float | bool], dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.tensor(values, dtype=dtype, device=device)

        def constant(parts: Sequence[Tensor | None]) -> Tensor | None:
            present = [part for part in parts if part is not None]
            return fit(_stack(present), mask_RT) if present else None

        def fit(values_RT: Tensor, like_RT: Tensor) -> Tensor:
            return pad(values_RT, (0, like_RT.shape[1] - values_RT.shape[1]))

        old_logp_RT = constant([one.old_logp_NT for one in batch])
        selected_RT = constant([one.selected_NT for one in batch])
        return ObjectiveInput(
            logp_RT=logp_RT,
            old_logp_RT=logp_RT.detach() if old_logp_RT is None else old_logp_RT,
            behaviour_logp_RT=_stack([group.group.responses[n].behaviour_logp_T[None] for group, n in rows]),
            mask_RT=mask_RT,
            selected_RT=mask_RT if selected_RT is None else selected_RT & mask_RT,
            advantage_R=column([group.advantages[n] for group, n in rows]),
            truncated_R=column([group.group.responses[n].truncated for group, n in rows], torch.bool),
            off_view_R=column([g.group.updated_on[n] != g.group.sampled_from[n] for g, n in rows], torch.bool),
            beta_R=column([weight.beta for weight in weights]),
            cap_R=column([weight.cap for weight in weights]),
            **counts,
            max_new_tokens=self._policy.sampling.max_new_tokens,
            entropy_RT=_stack([own.entropies() for own in scores]) if "entropy" in needs else None,
            reference_logp_RT=constant([one.reference_logp_NT for one in batch]),
        )

    def _select(self, group: TrainGroup, progress: float, generator: torch.Generator) -> Tensor | None:
        """Return the tokens of the policy loss, chosen by the entropies of the sampling pass; None for all."""
        selector: Selector | None = self._objective.token_selector
        if selector is None:
            return None
        stats = token_stats(self._policy, group.group.views[0], group.group.responses, selector.needs)
        mask_NT = selector.select(stats, progress=progress, generator=generator)
        return mask_NT[[n for _, n in _rows([group])]]

    def _score(self, policy: Policy, group: TrainGroup) -> Tensor:
        return _stack([own.logp_NT for own in _score_groups(policy, [group], grad=False, with_entropy=False)])


@dataclass(frozen=True, eq=False, slots=True)
class _Prepared:
    """A group and the constants of its update, rows in the order of ``_rows``; None where they are not needed."""

    group: TrainGroup
    selected_NT: Tensor | None
    old_logp_NT: Tensor | None
    reference_logp_NT: Tensor | None


def _score_groups(policy: Policy, groups: Sequence[TrainGroup], *, grad: bool, with_entropy: bool) -> list[Scores]:
    """Score every response under its update view; views without responses to train are not opened."""
    views, responses = [], []
    for group in groups:
        for number, view in enumerate(group.group.views):
            own = [r for r, where in zip(group.group.responses, group.group.updated_on, strict=True) if where == number]
            if own:
                views.append(view)
                responses.append(own)
    return policy.score(views, responses, wrt="parameters" if grad else None, with_entropy=with_entropy)


def _rows(groups: Sequence[TrainGroup]) -> Iterator[tuple[TrainGroup, int]]:
    """Yield group and response number of each row, in the order in which ``_score_groups`` returns them."""
    for group in groups:
        for view in range(len(group.group.views)):
            yield from ((group, n) for n, where in enumerate(group.group.updated_on) if where == view)


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

    @property
    def steps(self) -> int:
        """Optimiser steps done."""
        return len(self._losses)

    def step(self, loss: float, norm: float) -> None:
        self._losses.append(loss)
        self._norms.append(norm)

    def summary(self, processes: Processes) -> dict[str, float]:
        losses = [sum(shares) for shares in zip(*processes.gather(self._losses), strict=True)]
        found = {"loss": sum(losses) / len(losses), "grad_norm": sum(self._norms) / len(self._norms)}
        parts = processes.gather(self._values)
        for name in dict.fromkeys(name for part in parts for name in part):
            by_origin = joined([part.get(name, {}) for part in parts])
            reduce = max if name.endswith("_max") else mean
            found[name] = reduce([value for values in by_origin.values() for value in values])
            found |= {f"{origin}/{name}": reduce(values) for origin, values in by_origin.items()}
        return found
