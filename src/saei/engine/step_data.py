"""What belongs to one training step: its examples with their positions and sources of randomness."""

from __future__ import annotations

import torch

from saei.engine.seeding import derive
from saei.engine.stream import ViewStream
from saei.types import Example, Group, View


class StepData:
    """A step's examples.

    Args:
        stream: Where they come from.
        seed: Seed of the run.
        step: Steps done.
    """

    def __init__(self, stream: ViewStream, *, seed: int, step: int) -> None:
        self._stream = stream
        self._seed = seed
        self._step = step
        self._positions: dict[Example, int] = {}
        self._sources: dict[Example, torch.Generator] = {}

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
