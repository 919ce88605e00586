"""The processes of a run: how they share groups, exchange values and add up gradients."""

from __future__ import annotations

import gc
import os
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from saei.config.run import RunConfig
from saei.errors import ConfigError, SaeiError

T = TypeVar("T")
N = TypeVar("N", int, float)

PATIENCE = timedelta(minutes=30)
"""How long a process waits for the others. Responses and rewards take unequal time; NCCL's own 10 minutes are short."""


class Processes:
    """The processes of a run, of which this is one; with one process every method is trivial.

    ``gather``, ``total``, ``any``, ``once`` and ``add_up_gradients`` are collective: every process has to call them,
    equally often and in the same order. So every condition on such a call must have the same value everywhere.

    Args:
        count: Number of processes.
        rank: Number of this one; 0 writes the run's folder.
    """

    def __init__(self, count: int = 1, rank: int = 0) -> None:
        self.count = count
        self.rank = rank
        self._reduced = False

    @property
    def main(self) -> bool:
        """Whether this process writes and shows."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """Return this process's part; the parts of all, in order of rank, are the whole and differ by one at most."""
        start, end = (len(items) * rank // self.count for rank in (self.rank, self.rank + 1))
        return items[start:end]

    def gather(self, value: T) -> list[T]:
        """Return every process's value, in order of rank; tensors have to be on the CPU."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        dist.all_gather_object(values, value)
        return values

    def total(self, number: N) -> N:
        """Return the sum of every process's number."""
        return sum(self.gather(number))

    def any(self, flag: bool) -> bool:
        """Return whether the flag is true in any process."""
        return any(self.gather(flag))

    def once(self, work: Callable[[], T]) -> T:
        """Do some work in the first process and return its result in all; the others wait for it.

        The first process gets the object itself, the others a copy.

        Raises:
            SaeiError: Everywhere, what the work raised.
        """
        if self.count == 1:
            return work()
        result: Any = None
        if self.main:
            try:
                result = work()
            except SaeiError as error:
                result = error
        outcome = self.gather(result)[0]
        if isinstance(outcome, SaeiError):
            raise outcome
        return result if self.main else outcome  # type: ignore[no-any-return]  # it went through a pickle

    def alone(self, module: Any) -> AbstractContextManager[Any]:
        """Return a context in which backward passes through a prepared module wait for no other process."""
        return module.no_sync() if self.count > 1 else nullcontext()

    def add_up_gradients(self, accelerator: Any, module: Any, parameters: Sequence[Tensor]) -> None:
        """Give every process the mean over processes of the gradients that each has accumulated by itself.

        The wrapper of ``accelerator.prepare`` reduces in a backward pass that reaches every parameter, and each
        process has to make the same number of them, however many groups it has. So all work is done by itself, and
        one pass of value zero through all parameters follows, also where a process has no group.
        """
        if self.count == 1:
            return
        used = self.gather([parameter.grad is not None for parameter in parameters])
        accelerator.backward(module(None), inputs=list(parameters))
        for parameter, *flags in zip(parameters, *used, strict=True):
            if not any(flags):  # as in one process, the optimiser skips parameters that no loss depended on
                parameter.grad = None
        if not self._reduced:
            # The first pass with gradient after the first reduction sorts the wrapper's buckets anew: a collective
            # call, which processes without a group of their own would never make. So all make it here.
            with self.alone(module):
                module(None)
            self._reduced = True


def claim_device() -> None:
    """Make this process's own accelerator the current one, before a model is loaded onto it."""
    if "LOCAL_RANK" in os.environ and torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))


def launch_options() -> dict[str, Any]:
    """Return what the accelerator has to know for several processes; alone it makes no difference."""
    from accelerate import DistributedDataParallelKwargs, InitProcessGroupKwargs

    # Buffers are constants here, and to send them would make every forward pass wait for the other processes. torch
    # has a new name for the option, accelerate not yet.
    warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
    wrapper = DistributedDataParallelKwargs(broadcast_buffers=False)
    return {
        "kwargs_handlers": [wrapper, InitProcessGroupKwargs(timeout=PATIENCE)],
    }


def processes_of(accelerator: Any, config: RunConfig) -> Processes:
    """Return the processes that a run was launched in.

    Raises:
        ConfigError: If the engine cannot run in these processes.
    """
    from accelerate.utils import DistributedType

    count = accelerator.num_processes
    kind = accelerator.distributed_type
    if kind not in (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU):
        raise ConfigError(
            "saei's own engine keeps a whole model in each process.",
            reason=f"It was launched for {kind.value}. Processes that share one model's weights have to make the same "
            "passes at the same time, and their groups differ in the length of responses and in which are attacked.",
            remedy="Use torchrun or accelerate launch --multi_gpu; model.lora and model.freeze save memory.",
        )
    if count > config.training.prompts_per_step:
        raise ConfigError(
            "Each process takes one group of a step at least.",
            reason=f"training.prompts_per_step is {config.training.prompts_per_step}; {count} processes were launched.",
            remedy="Raise training.prompts_per_step or launch fewer.",
        )
    if count > 1 and ":" in config.model.device:
        raise ConfigError(
            "Each process takes a device of its own.",
            reason=f"model.device is '{config.model.device}', and {count} processes were launched.",
            remedy="Leave model.device at auto.",
        )
    return Processes(count, accelerator.process_index)


def destroy_process_group() -> None:
    """End the process group of several processes; nothing may hold a prepared module any more.

    Threads of the process group need the interpreter's lock to free the tensors of their last messages. A group that a
    wrapped module holds last is freed under that lock and waits for them for ever; threads of one that is left to the
    interpreter's end find the lock gone and abort. Destroyed here, after the wrappers, it is freed without the lock.
    """
    if dist.is_available() and dist.is_initialized():
        gc.collect()  # wrapper and hooks refer to each other
        dist.destroy_process_group()
