"""Measuring cost: the time of workloads that take turns, and the growth of memory over one call."""

from __future__ import annotations

import ctypes
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

Workload = Callable[[], object]

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_TOP_PAD = 64 * 2**20


def retain_freed_memory() -> bool:
    """Tell glibc's allocator to keep freed memory, and return whether this system has that allocator.

    Without it every large tensor costs a page fault per page each time it is made. Of two workloads the one with the
    larger tensors would then pay for the allocator, not for its arithmetic.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another libc, or Windows, where CDLL(None) fails
        return False
    return all(mallopt(option, value) for option, value in _RETAIN)


_RETAIN = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1), (_M_TOP_PAD, _TOP_PAD))


def seconds_of(workload: Workload, device: torch.device) -> float:
    """Return how long one call takes: process CPU time on a CPU, else wall time until the accelerator is done."""
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    start = clock()
    workload()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock() - start


def time_in_turns(workloads: Mapping[str, Workload], rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Return the seconds of every workload in each round, after one round of warm-up."""
    seconds: dict[str, list[float]] = {name: [] for name in workloads}
    for number in range(rounds + 1):
        for name, workload in workloads.items():
            spent = seconds_of(workload, device)
            if number:
                seconds[name].append(spent)
    return seconds


def ratio(over: list[float], under: list[float]) -> float:
    """Return the median over rounds of one workload's seconds by another's."""
    return statistics.median(a / b for a, b in zip(over, under, strict=True))


def peak_growth(workload: Workload, device: torch.device) -> int | None:
    """Return by how many bytes memory grows at its peak while a workload runs once; None where it cannot be measured.

    On an accelerator it is the memory of tensors. On a CPU it is the resident set of a process that is forked for the
    call, so that memory freed by earlier calls is not reused. Call it before any backward pass of this process: a fork
    does not copy the threads of autograd.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        workload()
        return torch.cuda.max_memory_allocated(device) - before
    if device.type != "cpu" or sys.platform != "linux":
        return None
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            ctypes.CDLL(None).malloc_trim(0)
            Path("/proc/self/clear_refs").write_text("5")  # otherwise the peak is that of the parent process
            before = _kilobytes("VmRSS")
            workload()
            os.write(send, str(_kilobytes("VmHWM") - before).encode())
        finally:
            os._exit(0)
    os.close(send)
    with os.fdopen(receive) as answer:
        grown = answer.read()
    os.waitpid(child, 0)
    return 1024 * int(grown) if grown else None


def _kilobytes(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))
