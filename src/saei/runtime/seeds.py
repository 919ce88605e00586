"""Seeds as a pure function of the run's seed and of their purpose: a resumed run draws what it would have drawn."""

from __future__ import annotations

import hashlib
import random

import numpy as np
import torch

from saei.types import View


def derive(seed: int, *purpose: object) -> int:
    """Return a 63-bit seed for a purpose, such as ``derive(0, "sample", step)``."""
    text = "/".join(map(str, (seed, *purpose)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


class GroupSources:
    """Sources of randomness of a step's groups, each by the index of its views: no group draws from another's.

    Args:
        seed: Seed of the run.
        *purpose: What is drawn, and in which step.
    """

    def __init__(self, seed: int, *purpose: object) -> None:
        self._seed, self._purpose = seed, purpose
        self._sources: dict[int, torch.Generator] = {}

    def __call__(self, view: View) -> torch.Generator:
        """Return the source of a view's group, which goes on where its last draw ended."""
        if view.index not in self._sources:
            seed = derive(self._seed, *self._purpose, view.index)
            self._sources[view.index] = torch.Generator().manual_seed(seed)
        return self._sources[view.index]


def seed_globals(seed: int) -> None:
    """Seed the global generators of Python, numpy and torch, for code that draws from them (dropout, rewards)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  # third-party rewards may draw from the global generator
    torch.manual_seed(seed)
