"""Prompt templates: how an example becomes chat messages.

The wording decides what a policy answers, so a wording never changes under its name and version: a new one gets the
next ``version``, and a recorded run keeps its own.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from saei.config.strategy import StrategyConfig
from saei.data.base import Template
from saei.data.markers import split_text
from saei.types import Example

INSTRUCTION = "Think inside <think> </think>, then answer in \\boxed{}."
TAGGED_INSTRUCTION = "Think inside <think> </think>, then answer inside <answer> </answer>."

BOXED = ("<think>", "</think>", "\\boxed{", "}")
TAGGED = ("<think>", "</think>", "<answer>", "</answer>")


class Instructed(Template, ABC):
    """A template with an instruction on the form of the response."""

    class Config(StrategyConfig):
        """Fields of every template with an instruction.

        Attributes:
            version: The wording, by number.
            instruction: Replaces the wording; empty for the question alone.
        """

        version: Literal[1] = 1
        instruction: str

    config: Config


class ThinkBoxed(Instructed):
    r"""One user turn: the images, the question, and the wish for ``<think>…</think>`` and ``\boxed{…}``."""

    class Config(Instructed.Config):
        """Fields of ``think-boxed``."""

        type: Literal["think-boxed"] = "think-boxed"
        instruction: str = INSTRUCTION

    literals: ClassVar[tuple[str, ...]] = BOXED
    config: Config

    def messages(self, example: Example) -> list[Mapping[str, Any]]:
        """Return the user turn; the instruction follows the question after a space."""
        return [user_turn(example, f"{example.question} {self.config.instruction}".rstrip())]


class ThinkBoxedSystem(Instructed):
    r"""The wish for ``<think>…</think>`` and ``\boxed{…}`` as a system turn, then images and question alone."""

    class Config(Instructed.Config):
        """Fields of ``think-boxed-system``."""

        type: Literal["think-boxed-system"] = "think-boxed-system"
        instruction: str = INSTRUCTION

    literals: ClassVar[tuple[str, ...]] = BOXED
    config: Config

    def messages(self, example: Example) -> list[Mapping[str, Any]]:
        """Return the system turn, unless the instruction is empty, and the user turn."""
        instruction = self.config.instruction
        system = [{"role": "system", "content": [{"type": "text", "text": instruction}]}] if instruction else []
        return [*system, user_turn(example, example.question)]


class ThinkAnswer(Instructed):
    """One user turn: the images, the question, and the wish for ``<think>…</think>`` and ``<answer>…</answer>``."""

    class Config(Instructed.Config):
        """Fields of ``think-answer``."""

        type: Literal["think-answer"] = "think-answer"
        instruction: str = TAGGED_INSTRUCTION

    literals: ClassVar[tuple[str, ...]] = TAGGED
    config: Config

    def messages(self, example: Example) -> list[Mapping[str, Any]]:
        """Return the user turn; the instruction follows the question after a space."""
        return [user_turn(example, f"{example.question} {self.config.instruction}".rstrip())]


class Plain(Template):
    """One user turn: the images and the question, and nothing said about the form of the response."""

    class Config(StrategyConfig):
        """Fields of ``plain``."""

        type: Literal["plain"] = "plain"

    config: Config

    def messages(self, example: Example) -> list[Mapping[str, Any]]:
        """Return the user turn."""
        return [user_turn(example, example.question)]


def user_turn(example: Example, text: str) -> Mapping[str, Any]:
    """Return a user's turn of a text with the images of an example where its markers are, the others in front.

    Raises:
        DataError: If there are more markers than images.
    """
    parts = split_text(text, len(example.images))
    content = [{"type": "image"} if part is None else {"type": "text", "text": part} for part in parts]
    return {"role": "user", "content": content}
