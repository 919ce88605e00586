"""Where a model is computed: its device, and how many threads."""

from __future__ import annotations

from typing import Any

import torch

from saei.config.sections import ModelConfig
from saei.errors import ConfigError

SMALL = 10_000_000
"""Parameters below which operations are too short for several threads: waiting for each other costs more."""


def device_of(config: ModelConfig) -> str:
    """Return the device that a model is loaded onto.

    Raises:
        ConfigError: If this machine has no such device.
    """
    if config.device != "auto":
        kind, _, number = config.device.partition(":")
        module = torch.backends.mps if kind == "mps" else getattr(torch, kind, None)
        count = int(getattr(module, "device_count", lambda: 1)()) if module is not None and module.is_available() else 0
        if int(number or 0) >= count:
            raise ConfigError(
                "A model is loaded onto a device that this machine has.",
                reason=f"model.device is '{config.device}', and torch sees {count} of kind {kind}.",
                remedy="Leave model.device at auto, or install the build of torch that knows the device.",
            )
        return config.device
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def set_threads(config: ModelConfig, model: Any) -> None:
    """Compute with as many threads as the configuration says, or as the model is large enough for."""
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    elif sum(parameter.numel() for parameter in model.parameters()) < SMALL:
        torch.set_num_threads(1)
