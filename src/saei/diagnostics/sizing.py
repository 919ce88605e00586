"""Memory of training: that of weights from their shapes, that of a pass from the tensors that autograd saves."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

GB = 10**9


def gigabytes(size: int) -> str:
    """Return a number of bytes in GB, with three decimals below 1 GB."""
    return f"{size / GB:.1f}" if size >= GB else f"{size / GB:.3f}"


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes that training needs; temporaries within one operation and the libraries themselves come on top.

    Attributes:
        weights: The model's weights, adapters included.
        gradients: Gradients of the trained parameters.
        optimizer: AdamW's two moments of the trained parameters.
        reference: A second model, if the objective needs one.
        activations: Tensors saved for the backward pass of the largest pass of a step, or the cache of sampling.
    """

    weights: int
    gradients: int
    optimizer: int
    reference: int = 0
    activations: int = 0

    @property
    def total(self) -> int:
        """The sum of all parts."""
        return sum(getattr(self, part.name) for part in fields(self))


def memory_of(model: nn.Module, *, reference: bool = False) -> Memory:
    """Return the memory of a model's weights and their training, from shapes and types; meta tensors suffice.

    Args:
        model: The model; its trained parameters require a gradient.
        reference: Whether a second model is kept as the reference.
    """
    weights, trained = 0, 0
    for parameter in model.parameters():
        size = parameter.numel() * parameter.element_size()
        weights += size
        trained += size * parameter.requires_grad
    return Memory(weights, trained, 2 * trained, weights if reference else 0)


def saved_tensor_bytes(work: Callable[[], object], model: nn.Module) -> int:
    """Return how many bytes autograd saves until some work starts its first backward pass, or ends.

    The model's own tensors do not count. Storages are counted, so that views of one tensor count once. The tensors are
    counted but not saved, so the work may need more memory than there is.
    """
    model_storages = {tensor.untyped_storage()._cdata for tensor in (*model.parameters(), *model.buffers())}
    saved: dict[int, tuple[StorageWeakRef, int]] = {}  # the reference keeps the id from being reused

    def pack(tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage._cdata not in model_storages:
            saved[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())

    def unpack(packed: None) -> Tensor:
        raise _BackwardError

    try:
        with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
            work()
    except _BackwardError:
        pass
    return sum(size for _, size in saved.values())


class _BackwardError(Exception):
    """A backward pass begins; the tensors it needs were counted, not saved."""


def available_bytes(device: torch.device) -> int | None:
    """Return how much memory is free for training on a device; None where it cannot be measured."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type != "cpu" or sys.platform != "linux":
        return None
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return min([1024 * int(lines["MemAvailable"].split()[0]), *_container_limits()])


def peak_bytes(work: Callable[[], Any], device: torch.device) -> int | None:
    """Return the peak memory in use during some work, including what was in use before; None where unknown.

    On an accelerator it is the memory of tensors, on a CPU the resident set of the process.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        work()
        torch.cuda.synchronize(device)
        return int(torch.cuda.max_memory_allocated(device))
    watched = _peak_is_reset() if device.type == "cpu" else False
    work()
    return _resident_peak() if watched else None


def _container_limits() -> list[int]:
    """Return the memory left under a container's limit, an empty list where there is no limit."""
    limit, used = (Path("/sys/fs/cgroup") / name for name in ("memory.max", "memory.current"))
    try:
        return [max(0, int(limit.read_text()) - int(used.read_text()))]
    except (OSError, ValueError):  # no such files, or no limit
        return []


def _peak_is_reset() -> bool:
    """Reset the peak of the resident set, and return whether the system allows it."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _resident_peak() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
