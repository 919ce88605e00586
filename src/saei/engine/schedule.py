"""The learning rate, as a function of the optimiser steps that were planned, not of those that were made."""

from __future__ import annotations

from typing import Any

from saei.config.sections import OptimizerConfig, TrainingConfig


class Schedule:
    """The learning rate of each optimiser step of a run.

    It follows the plan: if a training step makes fewer optimiser steps, because groups were dropped or because fp16's
    scaler skipped one, the rates of later training steps stay the same.

    Args:
        optimizer: Its parameter groups get the rates.
        config: Rate, warm-up and shape.
        training: Training steps, and the optimiser steps planned in each.
    """

    def __init__(self, optimizer: Any, config: OptimizerConfig, training: TrainingConfig) -> None:
        from transformers import get_scheduler

        self._planned = training.ppo_epochs * training.updates_per_batch
        self._optimizer = optimizer
        self._scheduler: Any = get_scheduler(
            config.schedule if config.schedule != "constant" else "constant_with_warmup",
            optimizer,
            num_warmup_steps=config.warmup_steps,
            num_training_steps=training.steps * self._planned,
        )

    def begin(self, step: int, update: int = 0) -> float:
        """Set the rate of an optimiser step, and return it.

        Args:
            step: Training steps done.
            update: Number of the optimiser step in this training step, as planned.
        """
        done = step * self._planned + update
        rates = [
            base * factor(done)
            for base, factor in zip(self._scheduler.base_lrs, self._scheduler.lr_lambdas, strict=True)
        ]
        for group, rate in zip(self._optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        return float(rates[0])
