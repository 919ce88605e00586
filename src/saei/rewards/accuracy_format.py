r"""The field's standard reward: a right ``\boxed{}`` answer, and a little for the asked form."""

from __future__ import annotations

from typing import Literal

from saei.rewards.accuracy import Accuracy
from saei.rewards.base import Weight
from saei.rewards.extraction import last_boxed, well_formed


class AccuracyFormat(Accuracy):
    r"""A weighted sum of accuracy and form: EasyR1's convention.

    Accuracy: the last ``\boxed{}`` holds the gold answer, by the grader of its type.
    Form: the whole response matches ``<think>.*</think>.*\boxed{.*}.*``.
    Source: EasyR1's maths reward, with the weights of NoisyRollout (arXiv 2504.13055).
    """

    class Config(Accuracy.Config):
        """Fields of ``accuracy-format``."""

        type: Literal["accuracy-format"] = "accuracy-format"
        accuracy: Weight = 0.9
        format: Weight = 0.1

    config: Config

    def final_answer(self, text: str) -> str | None:
        """Return the content of the last box."""
        return last_boxed(text)

    def well_formed(self, text: str) -> bool:
        """Return whether the response thinks and then has a box."""
        return well_formed(text)
