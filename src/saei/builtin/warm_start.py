"""The warm start: supervised demonstrations with Muon on matrices and AdamW on the rest."""

from __future__ import annotations

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
LEVELS = {"bars": (0.2, 0.5, 0.3), "digits": (0.2, 0.7, 0.1)}
"""How often each level is shown."""
CONTENT_WEIGHT = 4.0
"""Of words that say what was seen, against 1 for wording, in the clean phases. The sloppy phase weighs all the
same: there the model has to learn how often each word comes, or its samples are littered with numbers."""
RISE = 20  # steps over which the learning rates rise
LEVEL_SHARE = 0.75  # of the clean steps, before the learning rates fall


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of the warm start.

    Attributes:
        steps: How many.
        shares: How often ``bars``, ``digits`` and ``shapes`` are shown.
    """

    steps: int
    shares: tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Schedule:
    """How the warm start goes.

    Attributes:
        clean: Phases with clean demonstrations. One task after the other: a model that has learnt to see
            bars learns the rest soon, one that is shown everything at once learns to see much later.
        sloppy: The phase with sloppy demonstrations at the end.
        batch: Demonstrations a step.
        muon_lr: Highest learning rate of the matrices.
        adamw_lr: Highest learning rate of everything else.
        clean_end: Factor on both learning rates at the end of the clean phases.
        sloppy_start: The same at the start of the sloppy phase, from where it falls to ``sloppy_end``.
        sloppy_end: The same at the end.
    """

    clean: tuple[Phase, ...] = (
        Phase(250, (1.0, 0.0, 0.0)),
        Phase(300, (0.25, 0.75, 0.0)),
        Phase(250, (0.42, 0.42, 0.16)),
    )
    sloppy: Phase = Phase(200, (0.42, 0.42, 0.16))
    batch: int = 32
    muon_lr: float = 0.018
    adamw_lr: float = 3e-3
    clean_end: float = 0.1
    sloppy_start: float = 0.4
    sloppy_end: float = 0.03

    @property
    def clean_steps(self) -> int:
        """Steps of the clean phases."""
        return sum(phase.steps for phase in self.clean)

    @property
    def steps(self) -> int:
        """All steps."""
        return self.clean_steps + self.sloppy.steps

    def factor(self, step: int) -> float:
        """Return the factor on the learning rates at a step."""
        if step >= self.clean_steps:
            done = (step - self.clean_steps) / self.sloppy.steps
            return self.sloppy_start + done * (self.sloppy_end - self.sloppy_start)
        level = LEVEL_SHARE * self.clean_steps
        fallen = max(0.0, (step - level) / (self.clean_steps - level))
        return min(1.0, (step + 1) / RISE) * (1 + fallen * (self.clean_end - 1))


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

    def clean(self, progress: Callable[[int, float], None]) -> None:
        """Train on the clean phases; ``progress`` is called with each step and its loss."""
        step = 0
        for phase in self.schedule.clean:
            for _ in range(phase.steps):
                progress(step, self.step(step, phase, CLEAN))
                step += 1

    def sloppy(self, manner: Manner, progress: Callable[[int, float], None]) -> None:
        """Train on the sloppy phase, after the clean ones."""
        for step in range(self.schedule.clean_steps, self.schedule.steps):
            progress(step, self.step(step, self.schedule.sloppy, manner))

    def step(self, step: int, phase: Phase, manner: Manner) -> float:
        """Train on one batch and return its weighted mean loss per response token, in nats."""
        tasks = self.rng.choice(TASKS, size=self.schedule.batch, p=phase.shares)
        examples = [draw(task, self.rng) for task in tasks]
        responses = [
            demonstrate(task, example, manner, self.rng) for task, example in zip(tasks, examples, strict=True)
        ]
        inputs, labels_RT = demonstration_batch(self.tools, self.model, examples, responses)
        spoken_RT = labels_RT[:, 1:] != IGNORED
        hidden = self.model.model(**inputs, use_cache=False).last_hidden_state[:, :-1][spoken_RT]
        weight_V = self.weight_V if manner is CLEAN else None
        loss = cross_entropy(self.model.lm_head(hidden), labels_RT[:, 1:][spoken_RT], weight=weight_V)
        loss.backward()
        for optimiser, rate in zip(self.optimisers, self.rates, strict=True):
            optimiser.param_groups[0]["lr"] = rate * self.schedule.factor(step)
            optimiser.step()
            optimiser.zero_grad()
        return loss.item()
