"""From a recipe and a seed to a base: random weights, warm start, measurement, folder."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

from saei.builtin.architecture import build_image_processor, build_model
from saei.builtin.batches import Tools
from saei.builtin.vocabulary import build_tokenizer

MEASURED_EXAMPLES = 256
RECIPE_FILE = "recipe.json"

REPORT_EVERY = 50  # steps


@dataclass(frozen=True, slots=True)
class ModelReport(ABC):
    """What was measured on a base alone, before any reinforcement, and whether it is accepted.

    Attributes:
        seed: The seed of weights and demonstrations.
    """

    seed: int

    @property
    @abstractmethod
    def accepted(self) -> bool:
        """Whether the base is one that reinforcement can work on."""

    @abstractmethod
    def lines(self) -> list[str]:
        """Return the measurements in words."""

    def __str__(self) -> str:
        verdict = f"Seed {self.seed} is {'accepted' if self.accepted else 'rejected'}."
        return "\n".join([verdict, *(f"  {line}" for line in self.lines())])


class ModelRecipe(ABC):
    """How a tiny model is warm-started. To add one, implement both methods and name it in ``saei build-tiny``."""

    words: ClassVar[tuple[str, ...]] = ()
    """Words of its tasks that the built-in model has no tokens for."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Return what ``recipe.json`` keeps: the recipe's name and all that decides its result besides the seed."""

    @abstractmethod
    def train(self, model: Any, tools: Tools, seed: int, progress: Callable[[int, int, float], None]) -> ModelReport:
        """Train a model from random weights and measure it.

        Args:
            model: With random weights of the seed.
            tools: Its tokenizer and image processor.
            seed: Of every demonstration.
            progress: Called with each step, the number of steps, and the step's loss in nats a token.
        """


def build_tiny(
    output: Path, recipe: ModelRecipe, seed: int = 0, *, progress: Callable[[str], None] | None = None
) -> ModelReport:
    """Build a base from a seed and save it, accepted or not, as a plain model folder.

    The same seed gives the same weights on the same machine. One thread is used; it takes some five minutes.

    Args:
        output: Folder for model, tokenizer, image processor and ``recipe.json``.
        recipe: How the base is made.
        seed: Of the random weights and of every demonstration.
        progress: Given a line of text now and then.
    """

    def report(step: int, steps: int, loss: float) -> None:
        if progress is not None and step % REPORT_EVERY == 0:
            progress(f"step {step} of {steps}, loss {loss:.3f} nats a token")

    with _reproducible(seed):
        tools = Tools(build_tokenizer(recipe.words), build_image_processor())
        model = build_model(tools.tokenizer)
        measured = recipe.train(model, tools, seed, report)
    for part in (model, tools.tokenizer, tools.image_processor):
        part.save_pretrained(output)
    record = {"gate": asdict(measured) | {"accepted": measured.accepted}} | recipe.settings()
    (output / RECIPE_FILE).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return measured


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
