"""What belongs to one training step: its examples with their positions, sources of randomness and grades."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from saei.engine.seeding import derive
from saei.engine.stream import ViewStream
from saei.rewards.base import Reward
from saei.types import Example, Grade, Group, Response, View


class StepData:
    """A step's examples.

    Args:
        stream: Where they come from.
        reward: Grades the responses to them.
        seed: Seed of the run.
        step: Steps done.
    """

    def __init__(self, stream: ViewStream, reward: Reward, *, seed: int, step: int) -> None:
        self._stream = stream
        self._reward = reward
        self._seed = seed
        self._step = step
        self._positions: dict[Example, int] = {}
        self._sources: dict[Example, torch.Generator] = {}
        self._grades: dict[Response, Grade] = {}

    def take(self, n: int) -> list[View]:
        """Move on in the examples by ``n`` and return this process's views of them."""
        taken = self._stream.take_numbered(n)
        self._positions |= {view.example: position for position, view in taken}
        return [view for _, view in taken]

    def position(self, group: Group) -> int:
        """Return the position of a group's example, in the order of the whole run."""
        return self._positions[group.example]

    def source(self, view: View) -> torch.Generator:
        """Return the source of randomness of the view's group, which no other group draws from."""
        example = view.example
        if example not in self._sources:
            seed = derive(self._seed, "sample", self._step, self._positions[example])
            self._sources[example] = torch.Generator().manual_seed(seed)
        return self._sources[example]

    def grade(self, view: View, responses: Sequence[Response]) -> Sequence[Grade]:
        """Return the grades of responses, each graded once."""
        for one in responses:
            if one not in self._grades:
                self._grades[one] = self._reward.grade(view.example, one.text, truncated=one.truncated)
        return [self._grades[one] for one in responses]
