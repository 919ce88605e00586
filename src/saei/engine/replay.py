"""Replay: responses of earlier steps that fill up a step whose own ones have little to teach."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from saei.config.sections import ReplayConfig
from saei.engine.replay_group import KeptGroup
from saei.runtime.processes import Processes
from saei.runtime.seeds import derive
from saei.types import TrainGroup


@dataclass(frozen=True, order=True, slots=True)
class _Entry:
    """A kept response of some process.

    Attributes:
        index: Index of its group.
        number: Its number among the group's kept responses.
        step: The step that drew it.
        advantage: The absolute value.
    """

    index: int
    number: int
    step: int
    advantage: float


class Replay:
    """Keeps the responses that had an advantage, and draws some of them when a step has few such responses.

    It stands between advantages and update. What it draws keeps the advantage and the old policy's log-probabilities of
    its first use, so that the ratio of the policy loss, and its clip, measure how far the policy has moved since. It
    counts as updates and never as samples. Every process keeps the responses that it drew itself. All of them see one
    table of what is kept and draw from it alike, so that results do not depend on how many there are.

    Source: https://arxiv.org/abs/2504.08837 (Selective Sample Replay of VL-Rethinker) and its code: responses with an
    advantage up to half a batch, drawn in proportion to the absolute advantage. The paper replays earlier steps'
    responses, its code repeats the step's own; this follows the paper. Ours: a response is drawn at most once in a
    step, none of the step's own ones is left out, and ``capacity``.

    Args:
        config: How much is kept and drawn; None for no replay.
        planned: Responses that a step plans, over all processes.
        seed: The run's.
        device: Where updates are computed.
        processes: Those that train together.
    """

    def __init__(
        self, config: ReplayConfig | None, *, planned: int, seed: int, device: torch.device, processes: Processes
    ) -> None:
        self._config, self._planned, self._seed = config, planned, seed
        self._device, self._processes = device, processes
        self._kept: dict[int, KeptGroup] = {}
        self.drawn = 0
        """Responses that were drawn in the last step, over all processes."""
        self._ages: list[int] = []

    def draw(self, fresh: Sequence[TrainGroup], step: int) -> list[TrainGroup]:
        """Return the kept groups of this process that the step is filled up with; collective.

        Args:
            fresh: This process's groups of the step.
            step: Steps done.
        """
        self.drawn, self._ages = 0, []
        if self._config is None:
            return []
        teaching = self._processes.total(sum(advantage != 0 for group in fresh for advantage in group.advantages))
        table = self._table()
        wanted = min(len(table), int(self._config.fill * self._planned) - teaching)
        if wanted <= 0:
            return []
        generator = torch.Generator().manual_seed(derive(self._seed, "replay", step))
        chosen = [table[place] for place in _places(table, wanted, self._config.alpha, generator)]
        self.drawn, self._ages = wanted, [step - entry.step for entry in chosen]
        numbers_by_index: dict[int, list[int]] = {}
        for entry in sorted(chosen):
            if entry.index in self._kept:
                numbers_by_index.setdefault(entry.index, []).append(entry.number)
        return [self._kept[index].keep(numbers).restored(self._device) for index, numbers in numbers_by_index.items()]

    def keep(self, fresh: Sequence[TrainGroup], old_logp: Mapping[tuple[int, int], Tensor], step: int) -> None:
        """Keep the responses of a step that have an advantage, and drop the oldest beyond the capacity; collective.

        Args:
            fresh: This process's groups of the step, which were trained on.
            old_logp: By group and response the old policy's log-probabilities; responses without any are not kept.
            step: Steps done when they were drawn.
        """
        if self._config is None:
            return
        for train in fresh:
            index = train.group.index
            numbers = [
                n
                for n, (advantage, response) in enumerate(zip(train.advantages, train.group.responses, strict=True))
                if advantage != 0 and len(response) and (index, n) in old_logp
            ]
            if numbers:
                logps = [old_logp[index, n] for n in numbers]
                self._kept[index] = KeptGroup.of(step, train.keep(numbers), logps)
        table = self._table()
        dropped: dict[int, int] = {}
        # The table is in the order of groups and their responses, so that a group loses its first ones.
        for entry in table[: max(0, len(table) - self._config.capacity)]:
            dropped[entry.index] = entry.number + 1
        for index, first in dropped.items():
            group = self._kept.pop(index, None)
            if group is not None and first < len(group.train.advantages):
                self._kept[index] = group.keep(range(first, len(group.train.advantages)))
        self._kept = dict(sorted(self._kept.items()))

    def metrics(self, trained: int) -> dict[str, float]:
        """Return how many responses are kept, and the share and the mean age in steps of those drawn last; collective.

        Args:
            trained: This process's responses of the step that were trained on, without the replayed ones.
        """
        if self._config is None:
            return {}
        kept = self._processes.total(sum(len(each.train.advantages) for each in self._kept.values()))
        trained = self._processes.total(trained) + self.drawn
        return {
            "replay/share": self.drawn / max(1, trained),
            "replay/age": sum(self._ages) / max(1, len(self._ages)),
            "replay/kept": float(kept),
        }

    def state(self) -> list[dict[str, Any]]:
        """Return what all processes keep, as plain data, in the order of the groups' indices; collective."""
        everything = [each for part in self._processes.gather(list(self._kept.values())) for each in part]
        return [each.plain() for each in sorted(everything, key=lambda each: each.index)]

    def load(self, state: Sequence[Mapping[str, Any]]) -> None:
        """Take this process's share of what ``state`` returned, in however many processes that was."""
        kept = [KeptGroup.from_plain(each) for each in self._processes.share(state)]
        self._kept = {each.index: each for each in kept}

    def _table(self) -> list[_Entry]:
        """Return an entry for each response that some process keeps, the oldest first; collective."""
        own = [
            _Entry(index, number, each.step, abs(advantage))
            for index, each in self._kept.items()
            for number, advantage in enumerate(each.train.advantages)
        ]
        return sorted(entry for part in self._processes.gather(own) for entry in part)


def _places(table: Sequence[_Entry], wanted: int, alpha: float, generator: torch.Generator) -> list[int]:
    """Draw places of a table without replacement, each with a probability in proportion to ``advantage ** alpha``.

    The largest of the log-weights plus Gumbel noise are such a draw, whatever the power does to the weights' range
    (https://arxiv.org/abs/1903.06059).
    """
    log_weights = alpha * torch.tensor([entry.advantage for entry in table], dtype=torch.float64).log()
    uniform = torch.rand(len(table), generator=generator, dtype=torch.float64)
    return (log_weights - (-uniform.log()).log()).topk(wanted).indices.tolist()
