"""HallusionBench (arXiv 2310.14566), and the groups that its scores are taken over."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, Literal

from saei.data.base import Reporting, Split
from saei.data.presets.base import LONGEST, Preset, image_of
from saei.data.table_task import TableExample

ANSWERS = {"1": "yes", "0": "no"}
KEYS = ("category", "subcategory", "set_id", "figure_id", "question_id")
VISUAL_SUPPLEMENT = "VS"


def figure_group(meta: Mapping[str, Any]) -> Hashable | None:
    """Return the group of all questions about one figure (fAcc), None for a question that is in none.

    A supplement question without its figure (figure 0) stays out of fAcc. The category belongs to the key: sets of
    both categories have the same numbers.
    """
    if meta["category"] == VISUAL_SUPPLEMENT and meta["figure_id"] == "0":
        return None
    return tuple(meta[key] for key in ("category", "subcategory", "set_id", "figure_id"))


def question_group(meta: Mapping[str, Any]) -> Hashable:
    """Return the group of one question about all figures of its set (qAcc)."""
    return tuple(meta[key] for key in ("category", "subcategory", "set_id", "question_id"))


class HallusionBench(Preset):
    """Yes-or-no questions about figures and their altered copies: 951 with an image, 178 without (``non_image``)."""

    class Config(Preset.Config):
        """Fields of ``hallusionbench``."""

        type: Literal["hallusionbench"] = "hallusionbench"
        path: str = "lmms-lab/HallusionBench"
        splits: Mapping[Split, str] = {"eval": "image"}

    reporting = Reporting(
        score="aAcc",
        by=("category", "subcategory"),
        together={"fAcc": figure_group, "qAcc": question_group},
        cluster=("category", "subcategory", "set_id"),
        agreement="by rules, on a yes or no; the official evaluation lets a model read the response, and counts "
        "`unclear` as right for a supplement question without its figure (figure 0), which is wrong here",
        max_new_tokens=LONGEST,
    )
    config: Config
    columns = (*KEYS, "visual_input", "question", "gt_answer", "image")

    def convert(self, row: Mapping[str, Any]) -> TableExample:
        """Return question, yes or no, and the figure, if there is one."""
        meta = {"answer_type": "yes-no", **{key: str(row[key]) for key in (*KEYS, "visual_input")}}
        return TableExample(row["question"], ANSWERS[str(row["gt_answer"])], image_of(row["image"]), meta=meta)
