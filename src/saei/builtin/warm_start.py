"""The warm start: supervised demonstrations with Muon on matrices and AdamW on the rest."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from saei.builtin.batches import IGNORED, Tools, demonstration_batch
from saei.builtin.demonstrations import CLEAN, Manner, content_words, demonstrate
from saei.builtin.muon import Muon
from saei.builtin.shapes import draw_shapes
from saei.data.bars import draw_chart
from saei.data.digits import draw_pair
from saei.types import Example

TASKS = ("bars", "digits", "shapes")
SHARES = (0.5, 0.35, 0.15)
LEVELS = {"bars": (0.15, 0.35, 0.5), "digits": (0.2, 0.7, 0.1)}
"""How often each level is shown; the third of bars has the most readings to an image."""
CONTENT_WEIGHT = 4.0  # of words that say what was seen, against 1 for wording


@dataclass(frozen=True, slots=True)
class Schedule:
    """How the warm start goes.

    Attributes:
        clean_steps: Steps with clean demonstrations.
        sloppy_steps: Steps with sloppy ones, after the clean.
        batch: Demonstrations a step.
        muon_lr: Learning rate of the matrices, before the decay.
        adamw_lr: Learning rate of everything else, before the decay.
    """

    clean_steps: int = 900
    sloppy_steps: int = 250
    batch: int = 32
    muon_lr: float = 0.018
    adamw_lr: float = 3e-3

    @property
    def steps(self) -> int:
        """All steps."""
        return self.clean_steps + self.sloppy_steps

    def factor(self, step: int) -> float:
        """Return the factor on the learning rates: a short rise, then a cosine down to a tenth."""
        rise = min(1.0, (step + 1) / 20)
        return rise * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * step / self.steps)))


def draw(task: str, rng: np.random.Generator) -> Example:
    """Draw one training example of a task at a random level."""
    if task == "shapes":
        return draw_shapes(rng, "shapes")
    level = 1 + int(rng.choice(3, p=LEVELS[task]))
    return draw_chart(rng, level, "bars") if task == "bars" else draw_pair(rng, level, "train", "digits")


class WarmStart:
    """The optimisers and the stream of demonstrations of one warm start."""

    def __init__(self, model: Any, tools: Tools, schedule: Schedule, rng: np.random.Generator) -> None:
        self.model, self.tools, self.schedule, self.rng = model, tools, schedule, rng
        matrices: list[Tensor] = []
        others: list[Tensor] = []
        for name, param in model.named_parameters():
            inside = param.ndim >= 2 and "embed_tokens" not in name
            (matrices if inside else others).append(param)
        self.optimisers = (
            Muon(matrices, lr=schedule.muon_lr),
            torch.optim.AdamW(others, lr=schedule.adamw_lr, weight_decay=0.0),
        )
        content = tools.tokenizer.convert_tokens_to_ids(content_words())
        self.weight_V = torch.ones(len(tools.tokenizer)).index_fill(0, torch.tensor(content), CONTENT_WEIGHT)
        self.rates = (schedule.muon_lr, schedule.adamw_lr)

    def run(self, first: int, last: int, manner: Manner, progress: Callable[[int, float], None]) -> None:
        """Train steps ``first`` to ``last - 1`` on demonstrations of one manner."""
        for step in range(first, last):
            progress(step, self.step(step, manner))

    def step(self, step: int, manner: Manner = CLEAN) -> float:
        """Train on one batch and return its weighted mean loss per response token, in nats."""
        tasks = self.rng.choice(TASKS, size=self.schedule.batch, p=SHARES)
        examples = [draw(task, self.rng) for task in tasks]
        responses = [
            demonstrate(task, example, manner, self.rng) for task, example in zip(tasks, examples, strict=True)
        ]
        inputs, labels_RT = demonstration_batch(self.tools, self.model, examples, responses)
        spoken_RT = labels_RT[:, 1:] != IGNORED
        hidden = self.model.model(**inputs, use_cache=False).last_hidden_state[:, :-1][spoken_RT]
        loss = cross_entropy(self.model.lm_head(hidden), labels_RT[:, 1:][spoken_RT], weight=self.weight_V)
        loss.backward()
        for optimiser, rate in zip(self.optimisers, self.rates, strict=True):
            optimiser.param_groups[0]["lr"] = rate * self.schedule.factor(step)
            optimiser.step()
            optimiser.zero_grad()
        return loss.item()
