"""ChartQA (arXiv 2203.10244)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from saei.data.base import Reporting, Split
from saei.data.presets.base import LONGEST, Preset, image_of
from saei.data.table_task import TableExample

WRITERS = ("human", "machine")
"""Who wrote a question, by the number of the label."""


class ChartQA(Preset):
    """Questions about charts, written by people or generated: 28,299, 1920 and 2500; numbers may be 5 % off."""

    class Config(Preset.Config):
        """Fields of ``chartqa``."""

        type: Literal["chartqa"] = "chartqa"
        path: str = "HuggingFaceM4/ChartQA"
        splits: Mapping[Split, str] = {"train": "train", "eval": "test"}

    reporting = Reporting(
        by=("source",),
        agreement="by rules, as ChartQA's relaxed accuracy; 50 is taken for 50% here, and several labels are a list",
        max_new_tokens=LONGEST,
    )
    config: Config
    columns = ("image", "query", "label", "human_or_machine")

    def convert(self, row: Mapping[str, Any]) -> TableExample:
        """Return question, answer and chart; an answer of several parts is one text in square brackets.

        Raises:
            ValueError: If there is not exactly one label: the data set has one per question, in a list.
        """
        labels = [row["label"]] if isinstance(row["label"], str) else row["label"]
        if len(labels) != 1:
            raise ValueError(f"{len(labels)} labels")
        answer = labels[0]
        several = answer.startswith("[") and answer.endswith("]") and "," in answer
        writer = row["human_or_machine"]
        source = writer if isinstance(writer, str) else WRITERS[writer]
        meta = {"answer_type": "list" if several else "relaxed", "source": source}
        return TableExample(row["query"], answer, image_of(row["image"]), meta=meta)
