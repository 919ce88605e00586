"""Gradient checkpointing: layers keep only their inputs and are computed again in the backward pass.

transformers' own checkpointing removes a layer's cache, and with it the prefix that responses share. Here a layer that
is computed again starts from the cache as it was before that layer: keys and values are kept, nothing else.
"""

from __future__ import annotations

from collections.abc import Collection
from copy import copy
from types import MethodType
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from saei.errors import ModelError
from saei.policy.load.parts import Part, anatomy


def checkpoint_layers(model: Any, parts: Collection[Part]) -> None:
    """Let the layers of some parts of a model be computed again in backward passes, in place.

    Raises:
        ModelError: If the model has no such layers in such a part.
    """
    if not parts:
        return
    part = anatomy(model)
    layers = {name: module for name, module in model.named_modules() if _is_layer(module) and part[name] in parts}
    for missing in sorted(set(parts) - {part[name] for name in layers}):
        raise ModelError(
            "Gradient checkpointing needs a model whose layers can be found.",
            reason=f"None were found in the {missing} part of {type(model).__name__}.",
            remedy=f"Leave '{missing}' out of model.gradient_checkpointing.",
        )
    for name, layer in layers.items():
        if not any(name.startswith(f"{other}.") for other in layers):
            layer.forward = MethodType(_checkpointed, layer)  # a method, so that a copy of the model calls its own


def _is_layer(module: nn.Module) -> bool:
    from transformers.modeling_layers import GradientCheckpointingLayer

    return isinstance(module, GradientCheckpointingLayer)


def _checkpointed(layer: Any, *arguments: Any, **named: Any) -> Any:
    """Replace a layer's forward."""
    from transformers import Cache

    forward = type(layer).forward
    if not torch.is_grad_enabled():
        return forward(layer, *arguments, **named)
    caches = {name: value for name, value in named.items() if isinstance(value, Cache)}
    before = {name: _branch(cache) for name, cache in caches.items()}
    first: list[dict[str, Any]] = []

    def run(*arguments: Any) -> Any:
        after = {name: _branch(cache) for name, cache in before.items()}
        result = forward(layer, *arguments, **{**named, **after})
        if not first:
            first.append(after)
        return result

    result = checkpoint(run, *arguments, use_reentrant=False, preserve_rng_state=False)  # nothing random in eval mode
    for name, cache in caches.items():
        cache.layers[:] = first[0][name].layers
    return result


def _branch(cache: Any) -> Any:
    """Return a cache that continues from another's state without changing it; tensors are shared."""
    branch = copy(cache)
    branch.layers = [copy(layer) for layer in cache.layers]
    return branch
