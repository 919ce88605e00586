"""Rewards of answers between ``<answer>`` tags, in the conventions of two projects."""

from __future__ import annotations

from typing import Literal

from saei.rewards.accuracy import Accuracy
from saei.rewards.base import Weight
from saei.rewards.extraction import last_tagged, thinks_and_answers_once, thinks_then_answers


class R1V(Accuracy):
    r"""Half for a right answer between ``<answer>`` tags, half for the form: EasyR1's ``r1v``.

    Form: the whole response matches ``<think>.*?</think>\s*<answer>.*?</answer>``.
    """

    class Config(Accuracy.Config):
        """Fields of ``r1v``."""

        type: Literal["r1v"] = "r1v"
        accuracy: Weight = 0.5
        format: Weight = 0.5

    config: Config

    def final_answer(self, text: str) -> str | None:
        """Return the text between the last answer tags."""
        return last_tagged(text)

    def well_formed(self, text: str) -> bool:
        """Return whether the response thinks, answers and says nothing else."""
        return thinks_then_answers(text)


class MMEureka(Accuracy):
    r"""1 for a right answer between ``<answer>`` tags and 0.5 for the form: MM-Eureka (arXiv 2503.07365).

    Form: ``<think>.+</think>\s*<answer>.+</answer>``, each tag once, anything around. A gold answer that cannot be
    read is an error here and earns nothing; MM-Eureka gives 1 for it.
    """

    class Config(Accuracy.Config):
        """Fields of ``mm-eureka``."""

        type: Literal["mm-eureka"] = "mm-eureka"
        accuracy: Weight = 1.0
        format: Weight = 0.5

    config: Config

    def final_answer(self, text: str) -> str | None:
        """Return the text between the last answer tags."""
        return last_tagged(text)

    def well_formed(self, text: str) -> bool:
        """Return whether the response thinks once and then answers once."""
        return thinks_and_answers_once(text)
