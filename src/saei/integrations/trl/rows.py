"""The rows of a data set, as TRL gives them to a trainer, as examples: numbered, one per group."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from datasets import Dataset, IterableDataset

from saei.config.strategy import StrategyConfig
from saei.data.base import Template
from saei.errors import ConfigError
from saei.types import Example

PLACE = "saei_index"
"""Field of the numbered rows with each one's number, which is the index of the row's views."""


class GivenMessages(Template):
    """The messages that the data set holds; an example with another question has it in place of theirs."""

    class Config(StrategyConfig):
        """No fields."""

        type: Literal["given"] = "given"

    config: Config

    def messages(self, example: Example) -> list[Mapping[str, Any]]:
        """Return them, pictures as placeholders; of an example that is not a conversation, its question."""
        question = {"type": "text", "text": example.question}
        messages = list(example.meta.get("messages", [{"role": "user", "content": [question]}]))
        place = _place_of_question(messages)
        if place is not None:
            number, part = place
            content = list(messages[number]["content"])
            content[part] = question
            messages[number] = {**messages[number], "content": content}
        return messages


def _place_of_question(messages: Sequence[Mapping[str, Any]]) -> tuple[int, int] | None:
    """Return which part of which message is the question: the only text of the last user turn; None if it has more."""
    turns = [number for number, message in enumerate(messages) if message["role"] == "user"]
    content = messages[turns[-1]]["content"] if turns else ()
    texts = [part for part, of_turn in enumerate(content) if of_turn["type"] == "text"]
    return (turns[-1], texts[0]) if len(texts) == 1 else None


class NumberedRows:
    """A data set whose rows have their numbers.

    A column would do the same, but `datasets` gives one to a shuffled data set by writing all of its rows, pictures
    too, to its cache.

    Args:
        rows: The data set.
    """

    def __init__(self, rows: Dataset) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> dict[str, Any]:
        return {**self.rows[number], PLACE: number}


def numbered(rows: Any) -> Any:
    """Return a data set, or several by name, with the number of each row.

    One of another library, and one with the field ``PLACE``, is returned as it is.
    """
    if isinstance(rows, Mapping):
        return {name: numbered(data_set) for name, data_set in rows.items()}
    if isinstance(rows, Dataset | IterableDataset) and PLACE in (rows.column_names or ()):
        return rows
    if isinstance(rows, Dataset):
        return NumberedRows(rows)
    if isinstance(rows, IterableDataset):
        return rows.map(lambda row, number: {PLACE: number}, with_indices=True)
    return rows


@dataclass(frozen=True, slots=True)
class RowFormat:
    """How the rows of a data set are examples.

    Attributes:
        template: How an example is asked: as its row's prompt says.
        example: ``example(number, prompt, row)`` is a row's example; the prompt has the pictures.
        columns: What a row says of an example, for rewards to read: of one that asks something else than its row does,
            in place of what the row has. By the names of the columns.
        answer: ``answer(example, question)`` is the right answer to a changed question, as in ``StepContext``.
    """

    template: Template
    example: Callable[[int, Sequence[Mapping[str, Any]], Mapping[str, Any]], Example]
    columns: Callable[[Example], Mapping[str, Any]]
    answer: Callable[[Example, str], str | None] | None = None


def example_of(number: int, prompt: Sequence[Mapping[str, Any]], row: Mapping[str, Any] | None = None) -> Example:
    """Return a conversation of TRL's as an example; its question is the only text of the last user turn."""
    messages = []
    for message in prompt:
        parts = message["content"]
        if isinstance(parts, str):
            parts = [{"type": "text", "text": parts}]
        content = [{"type": "image"} if part["type"] == "image" else part for part in parts]
        messages.append({"role": message["role"], "content": content})
    place = _place_of_question(messages)
    question = "" if place is None else messages[place[0]]["content"][place[1]]["text"]
    return Example(str(number), question, "", pictures_of(prompt), {"messages": messages})


def pictures_of(prompt: Sequence[Mapping[str, Any]]) -> tuple[Any, ...]:
    """Return the pictures of a conversation of TRL's, in order."""
    contents = [message["content"] for message in prompt if not isinstance(message["content"], str)]
    return tuple(part["image"] for content in contents for part in content if part["type"] == "image")


CONVERSATIONS = RowFormat(GivenMessages(), example_of, columns=lambda example: {})
"""Rows that have a conversation and nothing that saei knows of."""


def one_per_group(prompts: Sequence[Any], size: int) -> list[Any]:
    """Return each group's prompt.

    Raises:
        ConfigError: If this process was not given whole groups.
    """
    groups = [prompts[start : start + size] for start in range(0, len(prompts), size)]
    if any(len(group) < size or any(prompt != group[0] for prompt in group) for group in groups):
        raise ConfigError(
            "Every process draws and attacks whole groups.",
            reason=f"The {len(prompts)} prompts of this one are not groups of {size}.",
            remedy=f"Make per_device_train_batch_size x steps_per_generation a multiple of {size}.",
        )
    return [group[0] for group in groups]
