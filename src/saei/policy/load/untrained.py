"""Models without their weights: an outline that takes no memory, or random weights, with fewer layers if wanted.

So a model can be sized and inspected before its weights are there, and where they would not fit.
"""

from __future__ import annotations

import copy
import itertools
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from saei.config.sections import ModelConfig

SPREAD = 1.0
"""Standard deviation of weights times the root of their inputs: neither blind to the picture nor chaotic."""

META = "meta"
"""torch's device of tensors with a shape and a type but no values."""


@dataclass(frozen=True, slots=True)
class Untrained:
    """How a model is made of its configuration alone.

    Attributes:
        layers: Number of the language model's first layers that are built; None for all. All else is whole.
    """

    layers: int | None = None


def build(config: Any, model: ModelConfig, device: str, untrained: Untrained) -> Any:
    """Return a model of a Hugging Face configuration: random weights, on the meta device none.

    Raises:
        Exception: Whatever transformers raises, if the configuration is none of an image-text-to-text model.
    """
    from transformers import AutoModelForImageTextToText

    if untrained.layers is not None:
        config = cut(config, untrained.layers)
    dtype = weight_dtype(config) if model.dtype == "auto" else getattr(torch, model.dtype)
    with torch.random.fork_rng(), torch.device(device):
        torch.manual_seed(0)
        built = AutoModelForImageTextToText.from_config(config, dtype=dtype, attn_implementation=model.attention)
        if device != META:
            scatter(built)
    return built


@torch.no_grad()
def scatter(model: nn.Module, spread: float = SPREAD) -> None:
    """Draw a model's weights anew, so that none are zero: some projectors and gates begin closed.

    Args:
        model: Changed in place, with torch's global generator.
        spread: Standard deviation of weights times the root of their inputs.
    """
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=spread * parameter[0].numel() ** -0.5)
        elif not parameter.any():
            nn.init.constant_(parameter, 0.5)


def weight_dtype(config: Any) -> torch.dtype:
    """Return the type of a checkpoint's weights, float32 where its configuration names none."""
    dtype = getattr(config, "dtype", None) or getattr(config.get_text_config(), "dtype", None) or torch.float32
    return getattr(torch, dtype) if isinstance(dtype, str) else dtype


def depth(config: Any) -> int:
    """Return the number of layers of a configuration's language model."""
    return int(config.get_text_config().num_hidden_layers)


def period(config: Any) -> int:
    """Return after how many layers the language model repeats itself: 1 where all its layers are alike."""
    text, layers = config.get_text_config(), depth(config)
    fields: list[list[Any]] = []  # those that have a value for each layer
    for name, value in vars(text).items():
        if _numbers_layers(name, value, layers):
            fields.append([layer in value for layer in range(layers)])
        elif isinstance(value, list) and len(value) == layers and value != list(range(layers)):
            fields.append(value)
    kinds = [tuple(field[layer] for field in fields) for layer in range(layers)]
    return next(p for p in range(1, layers + 1) if all(kinds[i] == kinds[i - p] for i in range(p, layers)))


def cut(config: Any, layers: int) -> Any:
    """Return a copy of a configuration whose language model has only its first ``layers`` layers."""
    short = copy.deepcopy(config)
    text, whole = short.get_text_config(), depth(config)
    for name, value in list(vars(text).items()):
        if _numbers_layers(name, value, whole):
            setattr(text, name, [number for number in value if number < layers])
        elif isinstance(value, list) and len(value) == whole:
            setattr(text, name, value[:layers])
    text.num_hidden_layers = layers
    return short


def _numbers_layers(name: str, value: Any, layers: int) -> bool:
    """Whether a field lists some of the layers by their numbers, such as those with cross attention."""
    return (
        ("layer" in name or "idx" in name)
        and isinstance(value, list)
        and 0 < len(value) < layers
        and all(type(number) is int for number in value)
        and all(a < b for a, b in itertools.pairwise(value))
    )
