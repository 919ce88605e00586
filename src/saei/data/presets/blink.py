"""BLINK (arXiv 2404.12390)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from saei.data.base import Reporting, Split
from saei.data.presets.base import BY_RULES, LONGEST, Preset, image_of
from saei.data.table_task import TableExample

IMAGES = ("image_1", "image_2", "image_3", "image_4")


class BLINK(Preset):
    """What people see at a glance, as multiple choices about one to four images; 14 configurations.

    Answers of the split ``test`` are hidden, so ``val`` is evaluated on.
    """

    class Config(Preset.Config):
        """Fields of ``blink``.

        Attributes:
            name: The configuration, such as ``Counting`` or ``Spatial_Relation``.
        """

        type: Literal["blink"] = "blink"
        path: str = "BLINK-Benchmark/BLINK"
        name: str = "Counting"
        splits: Mapping[Split, str] = {"eval": "val"}

    reporting = Reporting(by=("config",), agreement=BY_RULES, unlabelled=("test",), max_new_tokens=LONGEST)
    config: Config
    columns = (*IMAGES, "prompt", "choices", "answer")

    def convert(self, row: Mapping[str, Any]) -> TableExample:
        """Return the prompt, which has the options, the letter of the answer, and the images in their order."""
        letter = re.fullmatch(r"\(([A-Z])\)", row["answer"])
        if letter is None:
            raise ValueError(f"answer '{row['answer']}' is not a letter in brackets")
        images = [image for name in IMAGES for image in image_of(row[name])]
        meta = {"answer_type": "letter", "choices": tuple(row["choices"]), "config": self.config.name}
        return TableExample(row["prompt"], letter[1], images, meta=meta)
