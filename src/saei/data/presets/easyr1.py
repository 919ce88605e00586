"""Data sets in the layout of EasyR1: a list of images, a problem that begins with their markers, an answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from saei.data.base import Split
from saei.data.presets.base import Preset
from saei.data.table_task import TableExample


class Geometry3K(Preset):
    """Geometry problems with diagrams (arXiv 2105.04165) as free-form questions: 2101, 300 and 601 of them.

    Both known revisions are read; the options and letters of the newer one are not shown to the policy, since the
    problem is not asked as a multiple choice.
    """

    class Config(Preset.Config):
        """Fields of ``geometry3k``."""

        type: Literal["geometry3k"] = "geometry3k"
        path: str = "hiyouga/geometry3k"

    config: Config
    columns = ("images", "problem", "answer")
    id_column = "id"

    def convert(self, row: Mapping[str, Any]) -> TableExample:
        """Return problem, answer and diagrams."""
        return TableExample(row["problem"], row["answer"], row["images"])


class CLEVRCount(Preset):
    """Count the objects in rendered scenes: 70,000 to train on, 200 to evaluate on."""

    class Config(Preset.Config):
        """Fields of ``clevr-count``."""

        type: Literal["clevr-count"] = "clevr-count"
        path: str = "BUAADreamer/clevr_count_70k"
        splits: Mapping[Split, str] = {"train": "train", "eval": "test"}

    config: Config
    columns = ("images", "problem", "answer")

    def convert(self, row: Mapping[str, Any]) -> TableExample:
        """Return problem, number and scene."""
        return TableExample(row["problem"], row["answer"], row["images"], meta={"answer_type": "integer"})
