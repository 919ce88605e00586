"""The rows of a data set, as TRL gives them to a trainer, as examples: numbered, one per group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from datasets import Dataset, IterableDataset

from saei.config.strategy import StrategyConfig
from saei.data.base import Template
from saei.errors import ConfigError
from saei.types import Example

PLACE = "saei_index"
"""Field of the numbered rows with each one's number, which is the index of the row's views."""


class GivenMessages(Template):
    """The messages that the data set holds."""

    class Config(StrategyConfig):
        """No fields."""

        type: Literal["given"] = "given"

    config: Config

    def messages(self, example: Example) -> list[Mapping[str, Any]]:
        """Return them, pictures as placeholders; of an example that is not a conversation, its question."""
        question = {"role": "user", "content": [{"type": "text", "text": example.question}]}
        return list(example.meta.get("messages", [question]))


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


def example_of(number: int, prompt: Sequence[Mapping[str, Any]]) -> Example:
    """Return a conversation of TRL's as an example."""
    pictures, messages = [], []
    for message in prompt:
        parts = message["content"]
        if isinstance(parts, str):
            parts = [{"type": "text", "text": parts}]
        pictures += [part["image"] for part in parts if part["type"] == "image"]
        content = [{"type": "image"} if part["type"] == "image" else part for part in parts]
        messages.append({"role": message["role"], "content": content})
    return Example(str(number), "", "", tuple(pictures), {"messages": messages})


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
