"""ScienceQA (arXiv 2209.09513)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from saei.data.base import Reporting
from saei.data.presets.base import BY_RULES, LONGEST, Preset, image_of, letter, with_options
from saei.data.table_task import TableExample


class ScienceQA(Preset):
    """Multiple choices of school science, half of them with an image: 12,700, 4200 and 4200."""

    class Config(Preset.Config):
        """Fields of ``scienceqa``."""

        type: Literal["scienceqa"] = "scienceqa"
        path: str = "derek-thomas/ScienceQA"

    reporting = Reporting(by=("subject", "context", "grade"), agreement=BY_RULES, max_new_tokens=LONGEST)
    config: Config
    columns = ("image", "question", "choices", "answer", "hint")

    def convert(self, row: Mapping[str, Any]) -> TableExample:
        """Return question, the letter of the answer and the image, if there is one; the hint comes first."""
        choices = tuple(row["choices"])
        question = f"{row['hint']}\n{row['question']}" if row["hint"] else row["question"]
        meta = {"answer_type": "letter", "choices": choices}
        meta |= {name: row[name] for name in ("subject", "topic", "category", "grade", "task") if row.get(name)}
        images = image_of(row["image"])
        meta["context"] = "image" if images else "text"
        answer = letter(row["answer"], len(choices))
        return TableExample(with_options(question, choices), answer, images, meta=meta)
