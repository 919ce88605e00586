"""Objects of a Python program in place of names in a configuration: examples, a reward function, a loaded model."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from saei.config.run import RunConfig
from saei.config.sections import ModelConfig
from saei.data.base import Task
from saei.data.in_memory import Examples, InMemory
from saei.errors import ConfigError
from saei.policy.load.weights import Parts, parts_of
from saei.rewards.base import Reward
from saei.rewards.in_memory import InMemory as InMemoryReward
from saei.rewards.in_memory import RewardFunction

Model: TypeAlias = str | Path | tuple[Any, Any] | Parts
"""A model: its path or hub id, the model with its processor as transformers loads them, or a policy's parts."""


@dataclass(frozen=True, eq=False, slots=True)
class Objects:
    """What a program gave to ``Trainer``; None for what the configuration names.

    Attributes:
        task: The examples.
        reward: The reward.
        model: The model with its processor, or its parts.
    """

    task: Task | None = None
    reward: Reward | None = None
    model: tuple[Any, Any] | Parts | None = None

    def parts(self, config: ModelConfig) -> Parts | None:
        """Return the parts of the model, prepared for training; None where the configuration names it."""
        if isinstance(self.model, tuple):
            return parts_of(*self.model, config)
        return self.model

    def reference_parts(self, config: ModelConfig) -> Parts | None:
        """Return a copy of the model as it is now, for the reference policy; None where the configuration names it."""
        if not isinstance(self.model, tuple):
            return None
        model, processor = self.model
        return parts_of(copy.deepcopy(model), processor, config)


def take_objects(
    config: RunConfig,
    *,
    examples: Examples | None,
    eval_examples: Examples | None,
    reward: RewardFunction | Reward | None,
    model: Model | None,
    resumed: bool,
) -> tuple[RunConfig, Objects]:
    """Return a configuration that records the objects, and the objects.

    Raises:
        SaeiError: If one is of no form that is known, or a resumed run had others.
    """
    if eval_examples is not None and examples is None:
        raise ConfigError(
            "eval_examples go with examples.",
            reason="The configuration's task has examples of its own for evaluation.",
            remedy="Give examples, too.",
        )
    changes: dict[str, Any] = {}
    task = None if examples is None else InMemory.of(examples, eval_examples)
    if task is not None:
        before = getattr(config.task, "content", None)
        if resumed and before != task.config.content:
            raise ConfigError(
                "A resumed run keeps its examples.",
                reason="It had others." if before else f"It had the task '{config.task.type}'.",
                remedy="Give the same ones in the same order, or start a new run.",
            )
        changes["task"] = task.config
    given_reward = reward if reward is None or isinstance(reward, Reward) else InMemoryReward.of(reward)
    if given_reward is not None:
        changes["reward"] = given_reward.config
    if isinstance(model, str | Path):
        changes["model"] = ModelConfig.model_validate({**config.model.model_dump(), "path": str(model)})
        model = None
    elif isinstance(model, tuple):
        path = getattr(model[0], "name_or_path", "") if len(model) == 2 else ""
        changes["model"] = config.model.model_copy(update={"path": path or "in-memory", "revision": None})
    elif model is not None and not isinstance(model, Parts):
        raise ConfigError(
            "A model is given as a path, or together with its processor.",
            reason=f"Got a {type(model).__name__}.",
            remedy="Give model=(model, processor).",
        )
    return config.model_copy(update=changes), Objects(task, given_reward, model)
