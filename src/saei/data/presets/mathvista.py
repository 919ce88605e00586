"""MathVista (arXiv 2310.02255)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from saei.data.base import Reporting, Split
from saei.data.presets.base import LONGEST, Preset, image_of, with_options
from saei.data.table_task import TableExample

KINDS = {"text": "text", "integer": "integer", "float": "number", "list": "list"}
"""From MathVista's types of answers to those of the graders."""


class MathVista(Preset):
    """Mathematics in pictures of many kinds: 1000 questions with labels (``testmini``); ``test`` has none.

    The question is asked with its unit, its options, or the form that its answer has; MathVista's own ``query`` asks
    for an answer "at the end", which a prompt template says otherwise.
    """

    class Config(Preset.Config):
        """Fields of ``mathvista``."""

        type: Literal["mathvista"] = "mathvista"
        path: str = "AI4Math/MathVista"
        splits: Mapping[Split, str] = {"eval": "testmini"}

    reporting = Reporting(
        by=("task", "skills", "answer_type"),
        agreement="by rules, on the final answer; the official evaluation lets a model find it in the response, and "
        "takes the option nearest in spelling",
        unlabelled=("test",),
        max_new_tokens=LONGEST,
    )
    config: Config
    columns = ("pid", "question", "image", "answer", "question_type", "answer_type", "choices", "precision", "metadata")
    id_column = "pid"

    def convert(self, row: Mapping[str, Any]) -> TableExample:
        """Return question, answer and picture; of a multiple choice, the answer is the text of the right option."""
        metadata = row["metadata"]
        meta: dict[str, Any] = {"answer_type": KINDS[row["answer_type"]]}
        unit, precision = row.get("unit"), row["precision"]
        question = f"{row['question']} (Unit: {unit})" if unit else row["question"]
        if row["question_type"] == "multi_choice":
            meta |= {"answer_type": "choice", "choices": tuple(map(str, row["choices"]))}
            question = with_options(question, meta["choices"])
        else:
            if meta["answer_type"] == "number" and precision is not None:
                meta["precision"] = int(precision)  # which the data has as a float
            question += _form(meta)
        if unit:
            meta["unit"] = unit
        meta |= {"task": metadata["task"], "skills": tuple(metadata["skills"])}
        meta |= {name: metadata[name] for name in ("category", "context", "grade", "source") if name in metadata}
        return TableExample(question, row["answer"], image_of(row.get("decoded_image"), row["image"]), meta=meta)


def _form(meta: Mapping[str, Any]) -> str:
    """Return a sentence on the form of the answer, which a free-form question leaves open."""
    if meta["answer_type"] == "integer":
        return " Answer with a whole number."
    if meta["answer_type"] == "list":
        return " Answer with a list, such as [1, 2, 3]."
    if "precision" in meta:
        decimals = "one decimal" if meta["precision"] == 1 else f"{meta['precision']} decimals"
        return f" Answer with a number with {decimals}."
    return ""
