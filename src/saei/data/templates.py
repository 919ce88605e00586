"""Prompt templates: how an example becomes a chat message."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from saei.data.base import Template
from saei.strategy import StrategyConfig
from saei.types import Example

INSTRUCTION = "Think inside <think> </think>, then answer in \\boxed{}."


class ThinkBoxed(Template):
    r"""One user turn: the images, the question, and the wish for ``<think>…</think>`` and ``\boxed{…}``."""

    class Config(StrategyConfig):
        """Fields of ``think-boxed``.

        Attributes:
            instruction: Follows the question after a space; empty for the question alone.
        """

        type: Literal["think-boxed"] = "think-boxed"
        instruction: str = INSTRUCTION

    literals: ClassVar[tuple[str, ...]] = ("<think>", "</think>", "\\boxed{", "}")
    config: Config

    def messages(self, example: Example) -> list[Mapping[str, Any]]:
        """Return the user turn; images come before the text."""
        text = f"{example.question} {self.config.instruction}".rstrip()
        images: list[Mapping[str, Any]] = [{"type": "image"} for _ in example.images]
        return [{"role": "user", "content": [*images, {"type": "text", "text": text}]}]
