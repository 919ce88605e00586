"""Examples, rewards, responses and steps whose size is chosen and whose content does not matter."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from pydantic import Field

from saei.config.control_probe import ControlProbeConfig
from saei.config.run import RunConfig
from saei.config.sections import EvaluationConfig, OutputConfig
from saei.config.strategy import StrategyConfig
from saei.data.base import Split, Task
from saei.policy import Policy
from saei.rewards.base import Reward
from saei.types import Example, Grade, Response

_MANY = 10**6
"""Steps of a run, so that neither evaluation nor checkpoint falls into a step that is timed."""


class NoiseTask(Task):
    """Questions about square pictures of random pixels. It is not registered: nothing can be learnt from it."""

    class Config(Task.Config):
        """Fields.

        Attributes:
            side: Of the picture, in pixels.
        """

        type: Literal["noise-pictures"] = "noise-pictures"
        side: int = Field(default=256, ge=1, le=16_384)

    config: Config

    def example(self, index: int, split: Split = "train") -> Example:
        """Return a question whose picture is a pure function of seed, split and index."""
        random = np.random.default_rng([self.config.seed, split == "eval", index])
        pixels = random.integers(0, 256, (self.config.side, self.config.side, 3), dtype=np.uint8)
        return Example(f"{split}-{index}", "What is red + yellow?", "3", (Image.fromarray(pixels),))


class AnyQuestionTask(NoiseTask):
    """The same with an oracle to which every question has the answer of the first, for attacks that ask one."""

    oracle = True

    class Config(NoiseTask.Config):
        """No fields of its own."""

        type: Literal["any-question"] = "any-question"  # type: ignore[assignment]  # another name is the point

    def answer(self, example: Example, question: str) -> str:
        """Return the example's own answer."""
        return example.answer


class Coin(Reward):
    """Right or wrong by a checksum of the text, so that a group of several responses has both. Not registered."""

    class Config(StrategyConfig):
        """No fields."""

        type: Literal["coin"] = "coin"

    config: Config

    def grade(self, example: Example, text: str, *, truncated: bool = False) -> Grade:
        """Return a grade of 1 or 0."""
        right = zlib.crc32(text.encode()) % 2 == 1
        return Grade(float(right), right)


def draw_responses(policy: Policy, count: int, tokens: int) -> list[Response]:
    """Return responses of random tokens, all of one length, with random entropies to select by."""
    generator = torch.Generator().manual_seed(0)
    assert policy.distribution.banned_V is not None
    allowed = (~policy.distribution.banned_V).nonzero()[:, 0].cpu()
    ids_NT = allowed[torch.randint(len(allowed), (count, tokens), generator=generator)].to(policy.device)
    entropy_NT = torch.rand(count, tokens, generator=generator).to(policy.device)
    zeros_T = torch.zeros(tokens, device=policy.device)
    return [
        Response(ids_T, "", zeros_T, entropy_T, truncated=True)
        for ids_T, entropy_T in zip(ids_NT, entropy_NT, strict=True)
    ]


def step_config(config: RunConfig, *, side: int, prompts: int, tokens: int, folder: Path) -> RunConfig:
    """Return a configuration whose steps do nothing but train, on synthetic examples."""
    with_oracle = any(arm.needs_oracle for arm in config.sampler.build().plan().intervening)
    task = AnyQuestionTask.Config(side=side) if with_oracle else NoiseTask.Config(side=side)
    return config.model_copy(
        update={
            "task": task,
            "reward": Coin.Config(),
            "sampling": config.sampling.model_copy(update={"max_new_tokens": tokens}),
            "training": config.training.model_copy(update={"steps": _MANY, "prompts_per_step": prompts}),
            "control": ControlProbeConfig(every=_MANY, examples=1),
            "evaluation": EvaluationConfig(every=_MANY, examples=1, probe_examples=1),
            "output": OutputConfig(root=folder, name=f"{side}-{tokens}"),
        }
    )
