"""Seeds as a pure function of the run's seed and of their purpose: a resumed run draws what it would have drawn."""

from __future__ import annotations

import hashlib
import random

import numpy as np
import torch


def derive(seed: int, *purpose: object) -> int:
    """Return a 63-bit seed for a purpose, such as ``derive(0, "sample", step)``."""
    text = "/".join(map(str, (seed, *purpose)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def seed_globals(seed: int) -> None:
    """Seed the global generators of Python, numpy and torch, for code that draws from them (dropout, rewards)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  # third-party rewards may draw from the global generator
    torch.manual_seed(seed)
