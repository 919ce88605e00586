"""The picture of several runs shows all of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.figure import Figure

from saei.report.compare import COLOURS, PANELS, Curve, plot


def test_every_run_is_drawn_and_every_label_named_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda self, file, **_: (drawn.append(self), Path(file).touch()))
    points = tuple({"step": step, **{metric: 0.1 * step for metric, _, _ in PANELS}} for step in (0, 1))
    curves = [Curve(label, points) for label in ("GRPO", "SaEI") for _ in range(len(COLOURS))]
    plot(curves, tmp_path / "x.png", "title")
    for axis in drawn[0].axes:
        assert len(axis.lines) == len(curves)
        assert {line.get_color() for line in axis.lines} == set(COLOURS[:2])
    legend = drawn[0].axes[0].get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["GRPO", "SaEI"]
