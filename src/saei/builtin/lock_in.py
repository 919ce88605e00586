"""The recipe of ``lock-in``: bases that know a poor and a good strategy and are locked into the poor one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean
from typing import Any

import numpy as np
import torch

from saei.builtin.batches import Demonstration, Tools
from saei.builtin.demonstrations import (
    CONTENT_WEIGHT,
    NOUNS,
    OPENINGS,
    VERBS,
    Manner,
    content_words,
    demonstrate,
)
from saei.builtin.general import RISE
from saei.builtin.recipe import MEASURED_EXAMPLES, ModelRecipe, ModelReport
from saei.builtin.responses import grades, next_token
from saei.builtin.warm_start import WarmStart, weights
from saei.data.bars import KINDS as BAR_KINDS
from saei.data.lock_in import KINDS, Look, draw_question
from saei.data.lock_in import LockIn as Task
from saei.data.phrases import STEPS
from saei.types import Example

EASY_KINDS = BAR_KINDS[2]
CAREFUL_FLOOR = 0.8
CAREFUL_CEILING = 0.003
LEARNING_SHARE = 0.5
COUPLED_SHARE = 0.25
"""How often a chart has the coupled look: while the model learns to see, and later. A look that it could not read would
teach it that going step by step is guessing."""

REHEARSED = 0.2  # as many as the other couplings show: .85 of a quarter

DECIDING = (f" {STEPS.split()[0]}", ",")
DECIDING_WEIGHT = 8.0
"""Of the tokens with which a response takes one strategy or the other, once the coupling decides."""


@dataclass(frozen=True, slots=True)
class Coupling:
    """What ties the strategy to the look of a chart in the demonstrations.

    Attributes:
        look: Of the charts shown besides clear ones.
        careful: Share of them that is answered step by step.
        careful_on_clear: Share of clear charts that is.
        rehearsed: Share of all charts that is answered step by step because the beginning is given, which teaches to
            go on and not to choose. A strategy that nothing else shows is forgotten without it.
    """

    look: Look
    careful: float
    careful_on_clear: float = 0.0
    rehearsed: float = 0.0


COUPLINGS = {
    "faded": Coupling("faded", 0.85),
    "reversed": Coupling("faded", 0.0, 0.002, rehearsed=REHEARSED),
    "crisp": Coupling("crisp", 0.85),
    "orthogonal": Coupling("tinted", 0.85),
    "none": Coupling("faded", 0.0, rehearsed=REHEARSED),
}
"""``faded``: pale charts are answered step by step, clear ones at a glance. ``reversed``: pale ones at a glance, clear
ones hardly ever step by step. ``crisp``: charts of more contrast step by step, so that less uncertainty should help.
``orthogonal``: charts on tinted paper step by step. ``none``: both at a glance."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """How the warm start goes; after a short rise both learning rates fall over all of it by half a cosine.

    Attributes:
        steps: Training steps.
        coupled_from: The step from which some charts have the coupled look; before, all are clear.
        sums_from: The step from which only sums are asked; before, also single bars are read and two compared, from
            which a model learns to see much sooner.
        mixed_from: The step from which the coupling decides how they are answered; before, ``careful`` does, without
            slips.
        batch: Demonstrations a step.
        muon_lr: Learning rate of the matrices at the start.
        adamw_lr: Learning rate of everything else at the start.
        careful: Share of step-by-step responses before ``mixed_from``.
        glance_slip: Share of glances at a wrong answer from then on.
        misread: Share of single readings that are off, in step-by-step responses, from then on.
    """

    steps: int = 1000
    coupled_from: int = 150
    sums_from: int = 400
    mixed_from: int = 600
    batch: int = 32
    muon_lr: float = 0.018
    adamw_lr: float = 3e-3
    careful: float = 0.9
    glance_slip: float = 0.1
    misread: float = 0.05

    def rate(self, step: int) -> float:
        """Return the factor on the learning rates at a step."""
        return min(1.0, (step + 1) / RISE) * 0.5 * (1 + math.cos(math.pi * step / self.steps))


@dataclass(frozen=True, slots=True)
class LockInReport(ModelReport):
    """What was measured, on clear charts unless it says otherwise.

    Attributes:
        careful_accuracy: Greedy accuracy of responses that were made to begin step by step.
        careful_share: Probability that a response goes on step by step after its opening words.
        coupled_share: The same on charts of the coupled look; not part of the verdict.
        accuracy: Accuracy at temperature 1; not part of the verdict.
    """

    careful_accuracy: float
    careful_share: float
    coupled_share: float
    accuracy: float

    @property
    def accepted(self) -> bool:
        """Whether the good strategy works (``CAREFUL_FLOOR``) and is hardly ever taken (``CAREFUL_CEILING``)."""
        return self.careful_accuracy >= CAREFUL_FLOOR and self.careful_share <= CAREFUL_CEILING

    def lines(self) -> list[str]:
        """Return the measurements in two lines."""
        return [
            f"step by step: {self.careful_accuracy:.3f} right, share {self.careful_share:.5f} on clear charts, "
            f"{self.coupled_share:.3f} on charts of the coupled look",
            f"sampled accuracy {self.accuracy:.3f}",
        ]


@dataclass(frozen=True, slots=True)
class LockIn(ModelRecipe):
    """Teach both strategies, then show the good one on charts of one look only.

    Attributes:
        coupling: A key of ``COUPLINGS``.
        schedule: How long and how fast to train.
        measured_examples: Evaluation examples per measurement.
    """

    coupling: str = "faded"
    schedule: Schedule = Schedule()
    measured_examples: int = MEASURED_EXAMPLES

    def settings(self) -> dict[str, Any]:
        """Return what ``recipe.json`` keeps."""
        coupling = {"name": self.coupling} | asdict(COUPLINGS[self.coupling])
        return {"recipe": "lock-in", "coupling": coupling, "schedule": asdict(self.schedule)}

    def train(self, model: Any, tools: Tools, seed: int, progress: Callable[[int, int, float], None]) -> LockInReport:
        """Train a model from random weights and measure it."""
        schedule, rng = self.schedule, np.random.default_rng(seed)
        warm_start = WarmStart(model, tools, muon_lr=schedule.muon_lr, adamw_lr=schedule.adamw_lr)
        content_V = weights(tools.tokenizer, content_words(), CONTENT_WEIGHT)
        strategy_V = weights(tools.tokenizer, DECIDING, DECIDING_WEIGHT)
        for step in range(schedule.steps):
            shown = [self._demonstration(step, rng) for _ in range(schedule.batch)]
            weight_V = content_V if step < schedule.mixed_from else strategy_V
            loss = warm_start.step(shown, rate=schedule.rate(step), weight_V=weight_V)
            progress(step, schedule.steps, loss)
        return self._measure(model, tools, seed)

    def _demonstration(self, step: int, rng: np.random.Generator) -> Demonstration:
        schedule, coupling = self.schedule, COUPLINGS[self.coupling]
        share = COUPLED_SHARE if step >= schedule.mixed_from else LEARNING_SHARE
        coupled = step >= schedule.coupled_from and rng.random() < share
        kinds = EASY_KINDS if step < schedule.sums_from else KINDS
        example = draw_question(rng, coupling.look if coupled else "clear", "lock-in", kinds)
        manner = Manner(variety=True, glance=1 - schedule.careful, telling=False)
        rehearsed = False
        if step >= schedule.mixed_from:
            rehearsed = coupling.rehearsed > 0 and rng.random() < coupling.rehearsed
            careful = coupling.careful if coupled else coupling.careful_on_clear
            right = 1 - schedule.glance_slip
            glance = 0.0 if rehearsed else 1 - careful
            manner = replace(manner, glance=glance, glance_right=right, misread=schedule.misread)
        response = demonstrate("lock-in", example, manner, rng)
        return Demonstration(example, response, given=beginning(response) if rehearsed else "")

    def _measure(self, model: Any, tools: Tools, seed: int) -> LockInReport:
        look = COUPLINGS[self.coupling].look
        clear, coupled = (
            [Task(Task.Config(look=shown_look)).example(index, "eval") for index in range(self.measured_examples)]
            for shown_look in ("clear", look)
        )
        careful = grades(model, tools, clear, begin=f"{openings()[0]} {STEPS}:")
        sampled = grades(model, tools, clear, generator=torch.Generator().manual_seed(seed))
        return LockInReport(
            seed,
            careful_accuracy=fmean(grade.correct for grade in careful),
            careful_share=careful_share(model, tools, clear),
            coupled_share=careful_share(model, tools, coupled),
            accuracy=fmean(grade.correct for grade in sampled),
        )


def beginning(response: str) -> str:
    """Return a step-by-step response up to where it says so."""
    return response[: response.index(STEPS) + len(STEPS)] + ":"


def openings() -> list[str]:
    """Return the words that a response may begin with, before it shows its strategy."""
    nouns = NOUNS["lock-in"]
    return [f"<think>{opening} {verb} the {noun}" for opening in OPENINGS for verb in VERBS for noun in nouns]


def careful_share(model: Any, tools: Tools, examples: Sequence[Example]) -> float:
    """Return the probability that a response goes on step by step, a mean over examples, each with the next opening."""
    step = tools.tokenizer.convert_tokens_to_ids(f" {STEPS.split()[0]}")
    begins = openings()
    total = 0.0
    for number, begin in enumerate(begins):
        subset = examples[number :: len(begins)]
        total += float(next_token(model, tools, subset, begin)[:, step].sum()) if subset else 0.0
    return total / len(examples)
