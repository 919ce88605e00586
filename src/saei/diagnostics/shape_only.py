"""Passes without arithmetic: tensors have their true shapes and types, and all results of weights are zeros.

What autograd keeps for a backward pass depends on shapes alone. Where only that is asked, weights are neither drawn nor
read, and the system gives no memory to pages that nothing touches: so a model passes that is larger than the machine.
What does not come from weights, such as masks and sizes of pictures, is computed as ever. Source: original.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

_DRAWN = frozenset({"normal_", "uniform_", "erfinv_"})
"""Operations that fill weights with random numbers."""


class ShapeOnlyMode(TorchDispatchMode):
    """While it is entered, random weights and what is computed from them have shapes and no values; on the CPU."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch has no types for it
        self._storages: dict[int, StorageWeakRef] = {}  # the reference keeps the id from being reused

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Return an operation's result, or zeros of its shape."""
        kwargs = dict(kwargs or {})
        name = func._schema.name.partition("::")[2]
        tensors = [tensor for tensor in tree_leaves((args, kwargs)) if isinstance(tensor, Tensor)]
        if func.is_view or not (
            name in _DRAWN or any(tensor.untyped_storage()._cdata in self._storages for tensor in tensors)
        ):
            return func(*args, **kwargs)
        if name.endswith("_"):  # in place
            self._mark(args[0])
            return args[0]
        shapes = None if func._schema.is_mutable else _shapes(func, args, kwargs)
        if shapes is None or not all(
            tensor.is_floating_point() for tensor in tree_leaves(shapes) if isinstance(tensor, Tensor)
        ):
            return func(*args, **kwargs)
        return tree_map_only(Tensor, lambda tensor: self._mark(_zeros(tensor)), shapes)

    def _mark(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        self._storages[storage._cdata] = StorageWeakRef(storage)
        return tensor


def _shapes(func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Return an operation's result on the meta device, None if it needs more than shapes."""
    args, kwargs = tree_map_only(Tensor, lambda tensor: tensor.to("meta"), (args, kwargs))
    if "device" in kwargs:
        kwargs = {**kwargs, "device": torch.device("meta")}
    try:
        return func(*args, **kwargs)
    except (NotImplementedError, RuntimeError):
        return None


def _zeros(shape: Tensor) -> Tensor:
    """Return zeros that take no memory until they are written: large arrays of numpy are such, torch's are not."""
    length = 1 + sum((size - 1) * stride for size, stride in zip(shape.shape, shape.stride(), strict=True))
    room = torch.from_numpy(np.zeros(length * shape.element_size() if shape.numel() else 0, np.uint8))
    return room.view(shape.dtype).as_strided(shape.shape, shape.stride())
