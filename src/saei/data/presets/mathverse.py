"""MathVerse (arXiv 2403.14624)."""

from __future__ import annotations

import string
from collections.abc import Mapping
from typing import Any, Literal

from saei.data.base import Reporting, Split
from saei.data.presets.base import LONGEST, Preset, image_of, inline_options
from saei.data.table_task import TableExample

VISION_ONLY = "Vision Only"
IN_THE_PICTURE = "Answer the question in the image."
WITH_A_LETTER = "Answer with the letter of the option."


class MathVerse(Preset):
    """788 problems, each in versions that move what is told from the text into the diagram: 3940 questions.

    Letters are graded by rules exactly; free-form answers only approximately, as MathVerse's own scores come from a
    judge model.
    """

    class Config(Preset.Config):
        """Fields of ``mathverse``.

        Attributes:
            name: The configuration, which is also the name of its one split: with diagrams, or the text alone.
        """

        type: Literal["mathverse"] = "mathverse"
        path: str = "AI4Math/MathVerse"
        name: Literal["testmini", "testmini_text_only"] = "testmini"
        splits: Mapping[Split, str] = {"eval": "testmini"}

    reporting = Reporting(
        by=("version", "question_type", "subject"),
        cluster=("problem",),
        agreement="letters by rules; free-form answers approximately, since the official scores come from a model",
        approximate=lambda meta: meta["question_type"] != "multi-choice",
        split_field="name",
        max_new_tokens=LONGEST,
    )
    config: Config
    columns = ("sample_index", "problem_index", "problem_version", "question", "image", "answer", "question_type")
    id_column = "sample_index"

    def source_split(self, split: Split) -> str | None:
        """Return the configuration's name, which is that of its split."""
        return self.config.name if split == "eval" else None

    def convert(self, row: Mapping[str, Any]) -> TableExample:
        """Return question, answer and diagram; text alone has an empty image.

        The version Vision Only has no question but the one in its image, which MathVerse's own queries ask for in
        words; as they do, a multiple choice asks for the letter.
        """
        version = row["problem_version"]
        question = row["question"] or (IN_THE_PICTURE if version == VISION_ONLY else "")
        meta = {"version": version, "problem": row["problem_index"], "question_type": row["question_type"]}
        if row["question_type"] == "multi-choice":
            meta["answer_type"] = "letter"
            options = inline_options(row.get("question_for_eval") or question)
            if row["answer"] in string.ascii_uppercase[: len(options)]:
                meta["choices"] = options
            question = f"{question} {WITH_A_LETTER}" if version == VISION_ONLY else f"{question}\n{WITH_A_LETTER}"
        meta |= {name: value for name, value in (row.get("metadata") or {}).items() if value is not None}
        return TableExample(question, row["answer"], image_of(row["image"]), meta=meta)
