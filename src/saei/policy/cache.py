"""A cache that decoding grows in place: its tensors keep room for tokens to come."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer

_ROOM = 64
"""Tokens that new memory has room for: only one step in as many copies the cache."""


class RoomyLayer(DynamicLayer):  # type: ignore[misc]  # transformers has no types
    """Grows as its base class does; not for gradients, since it writes into tensors that it has handed out.

    To other code ``keys`` and ``values`` are as before; here they are the first rows and columns of a larger memory.
    When other code replaces them, the next token allocates new memory.

    Args:
        layer: The layer to continue from.
    """

    def __init__(self, layer: DynamicLayer) -> None:
        super().__init__()
        self.__dict__.update(layer.__dict__)
        self._memory: dict[str, Tensor] = {}
        self._spare: dict[str, Tensor] = {}

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Add tokens ``[R, heads, new, d]`` and return the keys and values of all."""
        return self._grown("keys", key_states), self._grown("values", value_states)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some rows, in this order; a row may be kept several times."""
        for name in ("keys", "values"):
            setattr(self, name, self._selected(name, indices))

    def _selected(self, name: str, indices: Tensor) -> Tensor:
        old_RHSd: Tensor = getattr(self, name)
        rows, length = len(indices), old_RHSd.shape[2]
        memory = self._spare.pop(name, None)
        if memory is None or memory.shape[0] < rows or memory.shape[2] <= length:
            on_cpu = old_RHSd.device.type == "cpu"
            # On a CPU memory takes no space before it is written, and fresh memory is slow to write.
            shape = ((1 + on_cpu) * rows, old_RHSd.shape[1], length + _ROOM, old_RHSd.shape[3])
            memory = old_RHSd.new_empty(shape)
        selected = memory[:rows, :, :length]
        torch.index_select(old_RHSd, 0, indices, out=selected)
        if old_RHSd.device.type == "cpu" and name in self._memory:
            self._spare[name] = self._memory[name]
        self._memory[name] = memory
        return selected

    def _grown(self, name: str, new_RHsd: Tensor) -> Tensor:
        old_RHSd: Tensor = getattr(self, name)
        length = old_RHSd.shape[2]
        end = length + new_RHsd.shape[2]
        memory, rows = self._memory.get(name), old_RHSd.shape[0]
        if memory is None or memory.data_ptr() != old_RHSd.data_ptr() or end > memory.shape[2]:
            room = new_RHsd.new_empty(*new_RHsd.shape[:2], new_RHsd.shape[2] + _ROOM, new_RHsd.shape[3])
            memory = self._memory[name] = torch.cat([old_RHSd, room], dim=2)
        memory[:rows, :, length:end] = new_RHsd
        grown = memory[:rows, :, :end]
        setattr(self, name, grown)
        return grown


def make_room(cache: Any) -> None:
    """Let the layers of a cache grow in place where they would copy their whole content with each token.

    Others, such as those of sliding windows and linear attention, are left unchanged.
    """
    layers = getattr(cache, "layers", [])
    for number, layer in enumerate(layers):
        if type(layer) is DynamicLayer and layer.is_initialized:
            layers[number] = RoomyLayer(layer)
