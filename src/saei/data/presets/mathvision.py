"""MathVision (arXiv 2402.14804)."""

from __future__ import annotations

import string
from collections.abc import Mapping
from typing import Any, Literal

from saei.data.base import Reporting, Split
from saei.data.presets.base import BY_RULES, LONGEST, Preset, image_of, with_options
from saei.data.table_task import TableExample


class MathVision(Preset):
    """3040 competition problems (``test``; ``testmini`` has 304), in 16 subjects and 5 levels.

    Answers were corrected upstream: pin ``revision`` before comparing scores.
    """

    class Config(Preset.Config):
        """Fields of ``mathvision``."""

        type: Literal["mathvision"] = "mathvision"
        path: str = "MathLLMs/MathVision"
        splits: Mapping[Split, str] = {"eval": "test"}

    reporting = Reporting(by=("subject", "level"), agreement=BY_RULES, max_new_tokens=LONGEST)
    config: Config
    columns = ("id", "question", "options", "image", "answer", "level", "subject")
    id_column = "id"

    def convert(self, row: Mapping[str, Any]) -> TableExample:
        """Return question, answer and picture; options that only name letters are drawn in the picture."""
        options = tuple(map(str, row["options"] or ()))
        meta: dict[str, Any] = {"subject": row["subject"], "level": row["level"]}
        question = row["question"]
        if options:
            meta["answer_type"] = "letter"
            if options != tuple(string.ascii_uppercase[: len(options)]):
                meta["choices"] = options
                question = with_options(question, options)
        return TableExample(question, row["answer"], image_of(row.get("decoded_image"), row["image"]), meta=meta)
