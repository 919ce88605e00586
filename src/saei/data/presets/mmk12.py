"""The mathematics of MM-Eureka (arXiv 2503.07365): its training set, and its test file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from saei.data.base import Reporting, Split
from saei.data.presets.base import BY_RULES, LONGEST, Preset, image_of, inline_options
from saei.data.table_task import TableExample


class MMK12(Preset):
    """K-12 problems with figures: 15,616 to fill in, 2000 multiple choices in four subjects to evaluate on."""

    class Config(Preset.Config):
        """Fields of ``mmk12``."""

        type: Literal["mmk12"] = "mmk12"
        path: str = "FanqingM/MMK12"

    reporting = Reporting(by=("subject",), agreement=BY_RULES, max_new_tokens=LONGEST)
    config: Config
    columns = ("id", "question", "answer", "subject", "image")
    id_column = "id"

    def convert(self, row: Mapping[str, Any]) -> TableExample:
        """Return question, answer and figure; a letter is graded as one only where the question lists options."""
        meta = {"subject": row["subject"], **_choice(row["question"], row["answer"])}
        return TableExample(row["question"], row["answer"], image_of(row["image"]), meta=meta)


class K12(Preset):
    """The 500 problems of MM-Eureka's file ``k12.json``, with image paths; the paper's test may be this or MMK12's."""

    class Config(Preset.Config):
        """Fields of ``mm-eureka-k12``.

        Attributes:
            path: The file, beside the folder of its images.
        """

        type: Literal["mm-eureka-k12"] = "mm-eureka-k12"
        path: str
        splits: Mapping[Split, str] = {"eval": "test"}

    config: Config
    columns = ("id", "question", "answer", "image_path")
    id_column = "id"

    def convert(self, row: Mapping[str, Any]) -> TableExample:
        """Return question, answer and figure."""
        meta = _choice(row["question"], row["answer"])
        return TableExample(row["question"], row["answer"], image_of(row["image_path"]), meta=meta)


def _choice(question: str, answer: str) -> dict[str, Any]:
    options = inline_options(question)
    lettered = bool(options) and re.fullmatch(r"\s*\(?[A-Z]\)?\.?\s*", answer) is not None
    return {"answer_type": "letter", "choices": options} if lettered else {}
