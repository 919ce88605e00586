"""Seeds as a pure function of the run's seed and a purpose, so that a resumed run draws as an uninterrupted one."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from saei.types import View


def derive(seed: int, *purpose: object) -> int:
    """Return a 63-bit seed for a purpose, such as ``derive(0, "sample", step)``."""
    text = "/".join(map(str, (seed, *purpose)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


class GroupSources:
    """Random generators of a step's groups, one per index of views, so that no group affects another's draws.

    Args:
        seed: Seed of the run.
        *purpose: Name of what is drawn, and the step.
    """

    def __init__(self, seed: int, *purpose: object) -> None:
        self._seed, self._purpose = seed, purpose
        self._sources: dict[int, torch.Generator] = {}

    def __call__(self, view: View) -> torch.Generator:
        """Return the generator of a view's group; it continues from its last draw."""
        if view.index not in self._sources:
            seed = derive(self._seed, *self._purpose, view.index)
            self._sources[view.index] = torch.Generator().manual_seed(seed)
        return self._sources[view.index]


def seed_globals(seed: int) -> None:
    """Seed the global generators of Python, numpy and torch, for code that draws from them (dropout, rewards)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  # third-party rewards may draw from the global generator
    torch.manual_seed(seed)


@contextmanager
def globals_kept() -> Iterator[None]:
    """Give the global generators of Python, numpy and torch back as they were, whatever draws from them inside."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002  # as above
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002  # as above
