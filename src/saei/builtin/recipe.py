"""The recipe of the built-in model: random weights, warm start, gate, folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean

import numpy as np
import torch

from saei.builtin.architecture import build_image_processor, build_model
from saei.builtin.batches import Tools
from saei.builtin.demonstrations import Manner
from saei.builtin.gate import grades
from saei.builtin.vocabulary import build_tokenizer
from saei.builtin.warm_start import Schedule, WarmStart
from saei.data.bars import Bars
from saei.data.base import Task
from saei.data.digits import Digits

SLOPPY = Manner(variety=True, glance=0.45, glance_right=0.4, misread=0.10, unboxed=0.03)
CLEAN_FLOOR = 0.85
SAMPLED_RANGE = (0.40, 0.60)
GATE_EXAMPLES = 256
RECIPE_FILE = "recipe.json"

REPORT_EVERY = 50  # steps


@dataclass(frozen=True, slots=True)
class GateReport:
    """What the gate measured, on the base alone.

    Attributes:
        seed: The seed of weights and demonstrations.
        clean_accuracy: By task, greedy accuracy after the clean part.
        sampled_accuracy: By task, accuracy at temperature 1 at the end.
        sampled_format: By task, share of well-formed responses at temperature 1 at the end.
    """

    seed: int
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

    def __str__(self) -> str:
        verdict = "accepted" if self.accepted else "rejected"
        lines = [
            f"  {task}: clean greedy {self.clean_accuracy[task]:.3f}, sampled {sampled:.3f}, "
            f"well formed {self.sampled_format[task]:.3f}"
            for task, sampled in self.sampled_accuracy.items()
        ]
        return "\n".join([f"Seed {self.seed} is {verdict}.", *lines])


def builtin_path() -> Path:
    """Return the folder of the built-in model, which the Auto classes of transformers load."""
    return Path(__file__).parent / "tiny"


def build_tiny(
    output: Path,
    seed: int = 0,
    *,
    schedule: Schedule | None = None,
    gate_examples: int = GATE_EXAMPLES,
    progress: Callable[[str], None] | None = None,
) -> GateReport:
    """Build a base from a seed and save it, accepted or not, as a plain model folder.

    The same seed gives the same weights on the same machine. One thread is used; with the default
    schedule it takes some five minutes.

    Args:
        output: Folder for model, tokenizer, image processor and ``recipe.json``.
        seed: Of the random weights and of every demonstration.
        schedule: How long and how fast to train; the default is the shipped model's.
        gate_examples: Evaluation examples per task and measurement.
        progress: Given a line of text now and then.
    """
    schedule = schedule or Schedule()
    with _reproducible(seed):
        tools = Tools(build_tokenizer(), build_image_processor())
        model = build_model(tools.tokenizer)
        warm_start = WarmStart(model, tools, schedule, np.random.default_rng(seed))
        tasks: dict[str, Task] = {"bars": Bars(), "digits": Digits()}
        examples = {
            name: [task.example(index, "eval") for index in range(gate_examples)] for name, task in tasks.items()
        }

        def report(step: int, loss: float) -> None:
            if progress is not None and step % REPORT_EVERY == 0:
                progress(f"step {step} of {schedule.steps}, loss {loss:.3f} nats a token")

        warm_start.clean(report)
        clean = {name: fmean(grade.correct for grade in grades(model, tools, examples[name])) for name in tasks}
        warm_start.sloppy(SLOPPY, report)
        generator = torch.Generator().manual_seed(seed)
        sampled = {name: grades(model, tools, examples[name], generator=generator) for name in tasks}
    gate = GateReport(
        seed,
        clean,
        {name: fmean(grade.correct for grade in found) for name, found in sampled.items()},
        {name: fmean(grade.parts["format"] for grade in found) for name, found in sampled.items()},
    )
    for part in (model, tools.tokenizer, tools.image_processor):
        part.save_pretrained(output)
    recipe = {
        "gate": asdict(gate) | {"accepted": gate.accepted},
        "schedule": asdict(schedule),
        "sloppy": asdict(SLOPPY),
    }
    (output / RECIPE_FILE).write_text(json.dumps(recipe, indent=2) + "\n", encoding="utf-8")
    return gate


@contextmanager
def _reproducible(seed: int) -> Iterator[None]:
    """Seed torch and use one thread, and leave both as they were."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(threads)
