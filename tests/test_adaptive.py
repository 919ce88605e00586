"""The selector by Otsu's thresholds against every pair of cuts, in exact arithmetic."""

from __future__ import annotations

from fractions import Fraction
from itertools import combinations
from typing import Any

import pytest
import torch
from torch import Tensor

from saei.entropy.selectors import adaptive
from saei.entropy.selectors.adaptive import Adaptive, otsu_classes
from saei.entropy.selectors.base import TokenStats
from saei.testing import check_selector


def between(values: list[Fraction], low: Fraction, high: Fraction) -> Fraction:
    """The variance between the classes up to ``low``, up to ``high`` and above, times the number of values."""
    mean = sum(values) / len(values)
    classes = [[v for v in values if v <= low], [v for v in values if low < v <= high], [v for v in values if v > high]]
    return sum((len(own) * (sum(own) / len(own) - mean) ** 2 for own in classes), Fraction(0))


def brute_force(tensor: Tensor) -> list[int]:
    """The classes of the best pair of cuts, the lowest of equally good ones."""
    values = [Fraction(v) for v in tensor.tolist()]
    pairs = list(combinations(sorted(set(values))[:-1], 2))
    low, high = max(pairs, key=lambda pair: between(values, *pair))  # the first of equals
    return [(v > low) + (v > high) for v in values]


def stats(*rows: list[float]) -> TokenStats:
    longest = max(map(len, rows))
    entropy_NT = torch.tensor([row + [9.0] * (longest - len(row)) for row in rows])
    valid_NT = torch.tensor([[True] * len(row) + [False] * (longest - len(row)) for row in rows])
    return TokenStats(entropy_NT, -entropy_NT, torch.zeros_like(entropy_NT).long(), valid_NT)


def kept(given: TokenStats, **fields: Any) -> list[list[int]]:
    mask_NT = Adaptive(Adaptive.Config(**fields)).select(given, progress=0.0, generator=torch.Generator())
    return [row.nonzero()[:, 0].tolist() for row in mask_NT]


@pytest.mark.parametrize("rows", [1, 7, 256])
@pytest.mark.parametrize("seed", range(6))
def test_the_best_of_all_pairs_of_cuts(seed: int, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adaptive, "_ROWS", rows)
    generator = torch.Generator().manual_seed(seed)
    for length in (3, 4, 9, 40):
        values = torch.rand(length, generator=generator) ** 3 * 2
        for own in (values, (values * 8).round() / 8):  # without and with ties
            if len(own.unique()) >= 3:
                classes = otsu_classes(own)
                assert classes is not None
                assert classes.tolist() == brute_force(own)
                assert set(classes.tolist()) == {0, 1, 2}


def test_three_clusters_by_hand() -> None:
    given = stats([0.0, 2.0, 0.1, 0.9, 0.0, 1.0, 2.1, 0.05, 1.1, 0.0])
    assert kept(given) == [[3, 5, 8]]
    assert kept(given, keep=("low",)) == [[0, 2, 4, 7, 9]]
    assert kept(given, keep=("high", "middle")) == [[1, 3, 5, 6, 8]]


@pytest.mark.parametrize("rows", [1, 256])
def test_equally_good_cuts_and_equal_entropies(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adaptive, "_ROWS", rows)
    # 0 | 1 | 2 3 and 0 1 | 2 | 3 and 0 | 1 2 | 3 leave the same variance within: the lowest cuts are taken.
    assert kept(stats([3.0, 2.0, 1.0, 0.0])) == [[2]]
    assert kept(stats([1.0, 0.0, 1.0, 5.0, 1.0])) == [[0, 2, 4]]


def test_fewer_than_three_entropies_are_kept_whole() -> None:
    given = stats([], [0.3], [0.3, 0.3, 0.3], [0.0, 0.7, 0.0, 0.7])
    for keep in (("middle",), ("low",), ("high",)):
        assert kept(given, keep=keep) == [[], [0], [0, 1, 2], [0, 1, 2, 3]]


@pytest.mark.parametrize("keep", [("low",), ("low", "high"), ("middle", "high")])
def test_other_classes_keep_the_contract(keep: tuple[str, ...]) -> None:
    check_selector(Adaptive.Config.model_validate({"keep": keep}))


def test_something_has_to_be_kept() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Adaptive.Config(keep=())
