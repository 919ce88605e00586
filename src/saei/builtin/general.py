"""The recipe of the built-in model: bars, digits and shapes, first carefully, then sloppily."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

import numpy as np
import torch

from saei.builtin.batches import Demonstration, Tools
from saei.builtin.demonstrations import CLEAN, CONTENT_WEIGHT, Manner, content_words, demonstrate
from saei.builtin.recipe import MEASURED_EXAMPLES, ModelRecipe, ModelReport
from saei.builtin.responses import grades
from saei.builtin.warm_start import WarmStart, weights
from saei.data.bars import Bars, draw_chart
from saei.data.base import Task
from saei.data.digits import Digits, draw_pair
from saei.data.shapes import draw_shapes
from saei.types import Example

TASKS = ("bars", "digits", "shapes")
LEVELS = {"bars": (0.2, 0.5, 0.3), "digits": (0.2, 0.7, 0.1)}
"""How often each level is shown."""
RISE = 20  # steps over which the learning rates rise
LEVEL_SHARE = 0.75  # of the clean steps, before the learning rates fall

SLOPPY = Manner(variety=True, glance=0.45, glance_right=0.4, misread=0.10, unboxed=0.03)
CLEAN_FLOOR = 0.85
SAMPLED_RANGE = (0.40, 0.60)


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

    def rate(self, step: int) -> float:
        """Return the factor on the learning rates at a step."""
        if step >= self.clean_steps:
            done = (step - self.clean_steps) / self.sloppy.steps
            return self.sloppy_start + done * (self.sloppy_end - self.sloppy_start)
        level = LEVEL_SHARE * self.clean_steps
        fallen = max(0.0, (step - level) / (self.clean_steps - level))
        return min(1.0, (step + 1) / RISE) * (1 + fallen * (self.clean_end - 1))


@dataclass(frozen=True, slots=True)
class GeneralReport(ModelReport):
    """What was measured.

    Attributes:
        clean_accuracy: By task, greedy accuracy after the clean part.
        sampled_accuracy: By task, accuracy at temperature 1 at the end.
        sampled_format: By task, share of well-formed responses at temperature 1 at the end.
    """

    clean_accuracy: dict[str, float]
    sampled_accuracy: dict[str, float]
    sampled_format: dict[str, float]

    @property
    def accepted(self) -> bool:
        """Whether all clean accuracies reach ``CLEAN_FLOOR`` and all sampled ones lie in ``SAMPLED_RANGE``."""
        low, high = SAMPLED_RANGE
        return all(value >= CLEAN_FLOOR for value in self.clean_accuracy.values()) and all(
            low <= value <= high for value in self.sampled_accuracy.values()
        )

    def lines(self) -> list[str]:
        """Return the measurements, a line per task."""
        return [
            f"{task}: clean greedy {self.clean_accuracy[task]:.3f}, sampled {sampled:.3f}, "
            f"well formed {self.sampled_format[task]:.3f}"
            for task, sampled in self.sampled_accuracy.items()
        ]


@dataclass(frozen=True, slots=True)
class General(ModelRecipe):
    """The shipped model's recipe.

    Attributes:
        schedule: How long and how fast to train.
        measured_examples: Evaluation examples per task and measurement.
    """

    schedule: Schedule = Schedule()
    measured_examples: int = MEASURED_EXAMPLES

    def settings(self) -> dict[str, Any]:
        """Return what ``recipe.json`` keeps."""
        return {"recipe": "general", "schedule": asdict(self.schedule), "sloppy": asdict(SLOPPY)}

    def train(self, model: Any, tools: Tools, seed: int, progress: Callable[[int, int, float], None]) -> GeneralReport:
        """Train a model from random weights and measure it."""
        schedule, rng = self.schedule, np.random.default_rng(seed)
        warm_start = WarmStart(model, tools, muon_lr=schedule.muon_lr, adamw_lr=schedule.adamw_lr)
        content_V = weights(tools.tokenizer, content_words(), CONTENT_WEIGHT)
        sources: dict[str, Task] = {"bars": Bars(), "digits": Digits()}
        held_out = {
            name: [task.example(index, "eval") for index in range(self.measured_examples)]
            for name, task in sources.items()
        }

        def run(start: int, phase: Phase, manner: Manner) -> None:
            for step in range(start, start + phase.steps):
                tasks = rng.choice(TASKS, size=schedule.batch, p=phase.shares)
                examples = [draw(task, rng) for task in tasks]
                shown = [
                    Demonstration(example, demonstrate(task, example, manner, rng))
                    for task, example in zip(tasks, examples, strict=True)
                ]
                weight_V = content_V if manner is CLEAN else None
                loss = warm_start.step(shown, rate=schedule.rate(step), weight_V=weight_V)
                progress(step, schedule.steps, loss)

        start = 0
        for phase in schedule.clean:
            run(start, phase, CLEAN)
            start += phase.steps
        clean = {name: fmean(grade.correct for grade in grades(model, tools, held_out[name])) for name in sources}
        run(start, schedule.sloppy, SLOPPY)
        generator = torch.Generator().manual_seed(seed)
        sampled = {name: grades(model, tools, held_out[name], generator=generator) for name in sources}
        return GeneralReport(
            seed,
            clean,
            {name: fmean(grade.correct for grade in graded) for name, graded in sampled.items()},
            {name: fmean(grade.parts["format"] for grade in graded) for name, graded in sampled.items()},
        )


def draw(task: str, rng: np.random.Generator) -> Example:
    """Draw one training example of a task at a random level."""
    if task == "shapes":
        return draw_shapes(rng, "shapes")
    level = 1 + int(rng.choice(3, p=LEVELS[task]))
    return draw_chart(rng, level, "bars") if task == "bars" else draw_pair(rng, level, "train", "digits")
