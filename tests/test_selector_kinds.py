"""Selectors of all kinds: each by hand beside the siblings it is closest to, and against references where there are."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from sklearn.cluster import KMeans as Reference
from torch import Tensor

from runs import registered as registering
from saei.config.registry import entries, load, register, resolve
from saei.config.strategy import StrategyConfig
from saei.entropy.selectors.all import All
from saei.entropy.selectors.band import Band, MiddleThird
from saei.entropy.selectors.base import Selector, TokenStats, checked_selection
from saei.entropy.selectors.composition import And, Not, Or
from saei.entropy.selectors.entropy_visual import EntropyVisual
from saei.entropy.selectors.function import selector
from saei.entropy.selectors.kmeans import KMeans, clusters
from saei.entropy.selectors.mass import Mass
from saei.entropy.selectors.position import Position
from saei.entropy.selectors.random import Random
from saei.entropy.selectors.topk import TopK
from saei.entropy.selectors.visual import Visual
from saei.entropy.selectors.visual_logp import VisualLogp
from saei.errors import ConfigError, TrainingError
from saei.need import Need
from saei.testing import check_selector

EIGHTHS = (4, 1, 8, 2, 6, 3)
"""Entropies of six tokens in 1/8 nat: ranks 3 0 5 1 4 2."""

SURPRISE = (0, 0, 0, 40, 40, 0)
SENSITIVITY = {Visual().divergence: (1, 9, 3, 8, 0.5, 3), VisualLogp().divergence: (7, 1, 1, 0, 9, 8)}


def config(given: Any) -> StrategyConfig:
    resolved = resolve("selector")(given)
    assert resolved is not None
    return resolved


def stats(
    *rows: tuple[float, ...], surprise: tuple[float, ...] = SURPRISE, excluded: tuple[int, ...] = ()
) -> TokenStats:
    """Statistics of responses with these entropies in 1/8 nat; what else there is, is the same in every response."""
    width = max(map(len, rows))

    def padded(values: tuple[float, ...], length: int) -> list[float]:
        return [*values, *[0.0] * length][: min(len(values), length)] + [99.0] * (width - min(len(values), length))

    def alike(values: tuple[float, ...]) -> Tensor:
        return torch.tensor([padded(values[: len(row)], len(row)) for row in rows]) / 16

    marks = torch.tensor([[t in excluded for t in range(width)] for _ in rows])
    return TokenStats(
        entropy_NT=torch.tensor([padded(row, len(row)) for row in rows]) / 8,
        logp_NT=-alike(surprise),
        ids_NT=torch.zeros(len(rows), width, dtype=torch.int64),
        valid_NT=torch.tensor([[t < len(row) for t in range(width)] for row in rows]),
        statistics={Need("template"): marks} | {need: alike(values) for need, values in SENSITIVITY.items()},
    )


def chosen(given: Any, of: TokenStats, *, progress: float = 0.5, seed: int = 0) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    mask_NT = checked_selection(config(given).build(), of, progress=progress, generator=generator)
    return [row.nonzero().flatten().tolist() for row in mask_NT]


BY_HAND: dict[str, tuple[Any, list[int]]] = {
    "bottom-k": ("bottom-k", [1, 3]),
    "bottom-k count": ({"type": "bottom-k", "count": 3}, [1, 3, 5]),
    "bottom-k share": ({"type": "bottom-k", "share": "2/3"}, [0, 1, 3, 5]),
    # Widths 1 2 3 4 6 8 of 24: from 8 to 16 reach the one that ends at 10 and the one that ends at 16.
    "mass": ("mass", [0, 4]),
    "mass bounds": ({"type": "mass", "lo": "1/8", "hi": "5/12"}, [0, 5]),
    # Halfway from [1/3, 2/3) to [2/3, 1): ranks 3 and 4 of [1/2, 5/6).
    "scheduled": ("scheduled", [0, 4]),
    "scheduled bounds": (
        {"type": "scheduled", "start_lo": 0, "start_hi": "1/3", "end_lo": "1/3", "end_hi": 1},
        [0, 3, 5],
    ),  # [1/6, 2/3): ranks 1 to 3
    "threshold": ({"type": "threshold", "lo": 0.25, "hi": 0.75}, [0, 3, 5]),
    "threshold, open": ({"type": "threshold", "lo": 0.75, "hi": None}, [2, 4]),
    "position": ("position", [2, 3]),
    "position bounds": ({"type": "position", "lo": 0, "hi": "1/4"}, [0, 1]),
    # By surprise 3 and 4 are far from the others, whose entropies split into the three low ones and 2.
    "k-means": ("k-means", [3, 4]),
    "k-means, lowest": ({"type": "k-means", "keep": [0]}, [0, 1, 5]),
    "k-means by entropy": ({"type": "k-means", "features": ["entropy"]}, [0, 5]),
    "visual": ({"type": "visual", "share": "1/2"}, [1, 3, 5]),
    "visual, default share": ("visual", [1, 3, 5]),
    "visual-logp": ({"type": "visual-logp", "share": "1/3"}, [4, 5]),
    "entropy-visual": ({"type": "entropy-visual", "share": "1/2"}, [2, 3, 5]),  # products 4 9 24 16 3 9
    "and": ({"type": "and", "of": ["middle-third", "position"]}, []),
    "and of three": ({"type": "and", "of": ["visual", {"type": "not", "of": ["position"]}, "all"]}, [1, 5]),
    "or": ({"type": "or", "of": ["middle-third", "position"]}, [0, 2, 3, 5]),
    "not": ({"type": "not", "of": ["position"]}, [0, 1, 4, 5]),
}

SIBLINGS = {
    "bottom-k": ["top-k", {"type": "band", "lo": 0, "hi": "1/2"}],
    "mass": ["middle-third", "band", "top-k"],
    "scheduled": ["band", "top-k"],
    "threshold": ["middle-third", "mass"],
    "position": ["middle-third", "band", "all"],
    "k-means": ["adaptive", "middle-third"],
    "visual": ["entropy-visual", "visual-logp", "top-k"],
    "visual-logp": [{"type": "visual", "share": "1/3"}, {"type": "entropy-visual", "share": "1/3"}],
    "entropy-visual": [{"type": "visual", "share": "1/2"}, {"type": "top-k", "share": "1/2"}],
    "and": [{"type": "or", "of": ["middle-third", "position"]}, "middle-third", "position"],
    "or": [{"type": "and", "of": ["middle-third", "position"]}, "middle-third", "position"],
    "not": ["position", "all"],
}


@pytest.mark.parametrize(("given", "positions"), BY_HAND.values(), ids=BY_HAND)
def test_by_hand(given: Any, positions: list[int]) -> None:
    assert chosen(given, stats(EIGHTHS)) == [positions]


@pytest.mark.parametrize("name", SIBLINGS)
def test_the_case_by_hand_tells_siblings_apart(name: str) -> None:
    for sibling in SIBLINGS[name]:
        assert chosen(sibling, stats(EIGHTHS)) != [BY_HAND[name][1]], sibling


def test_every_selector_has_a_case_by_hand() -> None:
    elsewhere = {"middle-third", "band", "top-k", "all", "random", "adaptive"}
    assert {entry.name for entry in entries("selector") if "/" not in entry.name} == SIBLINGS.keys() | elsewhere


def test_excluded_tokens_take_no_rank() -> None:
    """Without tokens 0 and 4 the entropies are 1 8 2 3, the places 1 2 3 5."""
    of = stats(EIGHTHS, excluded=(0, 4))

    def left(name: str, **fields: Any) -> list[int]:
        (positions,) = chosen({"type": name, "exclude": ["template"], **fields}, of)
        return positions

    assert left("bottom-k") == [1, 3]
    assert left("mass") == [2, 5]  # widths 1 2 3 8 of 14: from 4 2/3 to 9 1/3 reach those that end at 6 and at 14
    assert left("position") == [2, 3]
    assert left("position", lo="1/2", hi=1) == [3, 5]
    assert left("visual", share="1/4") == [1]
    assert left("visual-logp", share="1/4") == [5]
    assert left("not", of=["position"]) == [1, 5]


def test_one_token() -> None:
    assert [chosen(name, stats((4,))) for name in ("bottom-k", "mass", "scheduled", "position", "k-means")] == [
        [[0]]
    ] * 5
    assert [chosen(name, stats((4,))) for name in ("visual", "visual-logp", "entropy-visual", "threshold")] == [
        [[0]]
    ] * 4
    assert chosen("mass", stats((0,))) == [[]]


def test_a_divergence_below_0_is_rounding() -> None:
    """Both tokens count as not depending on the picture, and of equal scores the later is the higher."""
    of = stats((1, 8))
    of = replace(of, statistics={Visual().divergence: torch.tensor([[-1e-7, -1e-7]])})
    assert chosen({"type": "entropy-visual", "share": "1/2"}, of) == [[1]]


def test_scope_group() -> None:
    """Of both responses together the ranks are 0 to 8, the widths 1 1 2 2 3 3 4 6 8 of 30."""
    of = stats(EIGHTHS, (2, 1, 3))
    assert chosen({"type": "bottom-k", "scope": "group"}, of) == [[1, 3], [1]]
    assert chosen({"type": "mass", "scope": "group"}, of) == [[0, 4], [2]]
    assert chosen({"type": "scheduled", "scope": "group"}, of, progress=0.0) == [[5], [0, 2]]
    assert chosen({"type": "visual", "scope": "group", "share": "2/9"}, of) == [[1], [1]]
    for name in ("bottom-k", "mass", "scheduled", "visual", "visual-logp", "entropy-visual"):
        assert config({"type": name, "scope": "group"}).build().pooled
        assert not config(name).build().pooled


def mass_by_fractions(entropies: list[Fraction], lo: Fraction, hi: Fraction) -> list[int]:
    """The definition, token by token, in exact arithmetic."""
    total, left, kept = sum(entropies), Fraction(0), []
    for t in sorted(range(len(entropies)), key=lambda t: (entropies[t], t)):
        right = left + entropies[t]
        if max(left, total * lo) < min(right, total * hi):
            kept.append(t)
        left = right
    return sorted(kept)


@pytest.mark.parametrize(("lo", "hi"), [("1/3", "2/3"), ("0.07", "0.55"), (0, "1/5"), ("4/5", 1)])
def test_mass_against_exact_arithmetic(lo: Any, hi: Any) -> None:
    random = np.random.default_rng(0)
    for _ in range(40):
        row = tuple(random.integers(0, 9, random.integers(1, 12)).tolist())
        expected = mass_by_fractions([Fraction(value, 8) for value in row], Fraction(lo), Fraction(hi))
        assert chosen({"type": "mass", "lo": lo, "hi": hi}, stats(row)) == [expected]


def test_mass_of_equal_entropies_is_the_band() -> None:
    for length in range(1, 20):
        assert chosen("mass", stats((3,) * length)) == chosen("band", stats((3,) * length))


def test_the_band_moves_with_training() -> None:
    of = stats(tuple(range(12)))
    at = [chosen("scheduled", of, progress=step / 6)[0] for step in range(7)]
    assert at[0] == chosen("band", of)[0] == list(range(4, 8))
    assert at[-1] == chosen("top-k", of)[0] == list(range(8, 12))
    # Bounds 6/18 + step/18 of twelve tokens: (2 step + 12) / 3, exactly at every third step.
    assert [(kept[0], kept[-1] + 1) for kept in at] == [(4, 8), (4, 9), (5, 10), (6, 10), (6, 11), (7, 12), (8, 12)]


def test_progress_is_taken_as_the_share_of_steps_that_it_is() -> None:
    """A float beside the share would move a bound across a whole number of tokens."""
    fields = {"start_lo": 0, "start_hi": "1/2", "end_lo": "1/2", "end_hi": 1}
    for steps in (3, 7, 49):
        for step in range(steps):
            length = 2 * steps  # lo * length is the whole number `step`
            positions = chosen({"type": "scheduled", **fields}, stats(tuple(range(length))), progress=step / steps)[0]
            assert positions == list(range(step, step + steps))


@pytest.mark.parametrize("k", [2, 3, 5])
@pytest.mark.parametrize("equal", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_clusters_are_a_fixed_point_of_scikit_learn_and_as_good(seed: int, equal: bool, k: int) -> None:
    random = np.random.default_rng(seed)
    points = np.abs(random.normal(size=(40, 2))) ** 3
    if equal:  # half of all points are one of three
        points[20:] = points[random.integers(0, 3, 20)]
    number = clusters(torch.tensor(points), k)
    assert number is not None
    mine = number.numpy()
    centres = np.stack([points[mine == each].mean(0) for each in range(k)])
    assert list(centres[:, 0]) == sorted(centres[:, 0])
    settled = Reference(k, init=centres, n_init=1, algorithm="lloyd", tol=0).fit(points)
    assert (settled.labels_ == mine).all()
    drawn = [Reference(k, n_init=1, init="random", random_state=each, tol=0).fit(points).inertia_ for each in range(20)]
    assert settled.inertia_ <= np.median(drawn) + 1e-12  # no worse than what chance mostly finds


def test_equal_points_stay_together_and_few_are_kept_whole() -> None:
    assert chosen({"type": "k-means", "k": 2, "keep": [1]}, stats((1, 1, 5, 5, 1), surprise=(0,) * 5)) == [[2, 3]]
    assert chosen("k-means", stats((), (3,), (1, 1, 5), surprise=(0,) * 3)) == [[], [0], [0, 1, 2]]
    assert clusters(torch.tensor([[0.0], [1.0]]), 3) is None


# --- compositions ---------------------------------------------------------------------------------------------------


def test_operators_are_the_compositions_of_files() -> None:
    middle, window = MiddleThird(), Position(Position.Config(lo=0, hi="1/2"))
    written = {
        "type": "and",
        "of": ["middle-third", {"type": "not", "of": [{"type": "position", "lo": 0, "hi": "1/2"}]}],
    }
    assert (middle & ~window).config == config(written)
    assert (middle | window).config == Or.Config(of=(middle.config, window.config))
    assert isinstance(middle & window, And)
    assert isinstance(~middle, Not)
    assert chosen(middle & ~window, stats(EIGHTHS)) == [[5]]


def test_compositions_against_sets() -> None:
    random = np.random.default_rng(0)
    of = stats(*(tuple(random.integers(0, 9, length).tolist()) for length in (1, 6, 4, 6)), excluded=(1,))
    a, b = MiddleThird(MiddleThird.Config(exclude=("template",))), TopK(TopK.Config(share="1/2"))
    sets = [[set(row) for row in chosen(each, of)] for each in (a, b, All())]

    def rows(given: Selector) -> list[set[int]]:
        return [set(row) for row in chosen(given, of)]

    assert rows(a & b) == [x & y for x, y in zip(*sets[:2], strict=True)]
    assert rows(a | b) == [x | y for x, y in zip(*sets[:2], strict=True)]
    assert rows(~a) == [whole - x for x, whole in zip(sets[0], sets[2], strict=True)]
    assert rows(~(a & b)) == rows(~a | ~b)
    only = And(And.Config(of=(a.config, b.config), exclude=("template",)))
    assert rows(only) == [(x & y) - {1} for x, y in zip(*sets[:2], strict=True)]


def test_parts_share_what_they_need_and_are_observed() -> None:
    both = Visual(Visual.Config(exclude=("eos",))) & ~VisualLogp()
    assert both.needs == {Need("eos"), Visual().divergence, VisualLogp().divergence}
    assert [part.name() for part in both.parts().values()] == ["visual", "not"]
    assert not both.pooled
    assert (Visual() | TopK(TopK.Config(scope="group"))).pooled


def test_parts_draw_apart_and_again_at_the_next_call() -> None:
    half = Random.Config(lo=0, hi="1/2")
    of, both = stats(tuple(range(40))), And.Config(of=(half, half)).build()
    assert 0 < len(chosen(both, of)[0]) < 20  # they do not draw the same numbers
    generator = torch.Generator().manual_seed(0)
    twice = [both.select(of, progress=0.0, generator=generator) for _ in range(2)]
    assert not torch.equal(*twice)
    still = torch.Generator().manual_seed(0)
    (MiddleThird() & Position()).select(of, progress=0.0, generator=still)
    assert torch.equal(still.get_state(), torch.Generator().manual_seed(0).get_state())  # nothing was drawn


COMPOSED = [
    And.Config(of=(Band.Config(hi=1), Position.Config(lo=0))),
    Or.Config(of=(Random.Config(), Visual.Config(), Random.Config(lo=0, hi="1/4")), exclude=("eos",)),
    Not.Config(of=(KMeans.Config(k=2, keep=(0,)),)),
    Not.Config(of=(Mass.Config(scope="group"),)),
    Or.Config(of=(And.Config(of=(Random.Config(hi=1), TopK.Config())), Not.Config(of=(EntropyVisual.Config(),)))),
]


@pytest.mark.parametrize("composed", COMPOSED, ids=str)
def test_compositions_keep_the_contract(composed: StrategyConfig) -> None:
    check_selector(composed)


# --- functions ------------------------------------------------------------------------------------------------------


@pytest.fixture
def _registry() -> Iterator[None]:
    with registering():
        yield


@pytest.mark.usefixtures("_registry")
def test_a_function_is_a_selector() -> None:
    @register
    @selector("test/surprising")
    def surprising(given: TokenStats, candidates_NT: Tensor) -> Tensor:
        """The tokens that the policy was surprised by."""
        return given.logp_NT < -1.0

    assert load("selector", "test/surprising") is surprising
    assert surprising.__doc__ == "The tokens that the policy was surprised by."
    assert surprising.__module__ == __name__
    check_selector(surprising())
    assert chosen("test/surprising", stats(EIGHTHS)) == [[3, 4]]
    assert chosen({"type": "test/surprising", "exclude": ["template"]}, stats(EIGHTHS, excluded=(3,))) == [[4]]
    assert chosen(surprising() & ~MiddleThird(), stats(EIGHTHS)) == [[3, 4]]


@pytest.mark.usefixtures("_registry")
def test_a_function_that_returns_no_mask_is_stopped() -> None:
    @register
    @selector("test/entropies")
    def entropies(given: TokenStats, candidates_NT: Tensor) -> Tensor:
        return given.entropy_NT[:1]

    with pytest.raises(TrainingError, match=r"'test/entropies' returned torch.float32 \[1, 6\] for tokens \[2, 6\]"):
        chosen(entropies(), stats(EIGHTHS, EIGHTHS))


@pytest.mark.usefixtures("_registry")
def test_a_function_says_what_it_needs() -> None:
    need = Visual().divergence

    @register
    @selector("test/blind", needs=[need])
    def blind(given: TokenStats, candidates_NT: Tensor) -> Tensor:
        assert not bool(candidates_NT[:, 0].any())
        return given.statistics[need] < 4 / 16

    chosen_here = {"type": "test/blind", "exclude": ["template"]}
    assert config(chosen_here).build().needs == {need, Need("template")}
    assert chosen(chosen_here, stats(EIGHTHS, excluded=(0,))) == [[2, 4, 5]]

    with pytest.raises(ConfigError, match="'test/blind' is claimed by"):

        @register
        @selector("test/blind")
        def other(given: TokenStats, candidates_NT: Tensor) -> Tensor:
            return given.valid_NT


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"type": "bottom-k", "count": 2, "share": "1/2"}, "bottom-k takes a count or a share"),
        ({"type": "mass", "lo": "2/3", "hi": "1/3"}, "needs lo < hi"),
        ({"type": "position", "lo": "1/2", "hi": "1/2"}, "needs lo < hi"),
        ({"type": "scheduled", "end_lo": "1/3", "end_hi": "2/3"}, "has to move"),
        ({"type": "scheduled", "start_lo": "2/3"}, "needs lo < hi"),
        ({"type": "scheduled", "end_hi": "1/2"}, "needs lo < hi"),
        ({"type": "threshold", "lo": 1.0}, "needs lo < hi"),
        ({"type": "threshold", "lo": 0, "hi": None}, "Use `all`"),
        ({"type": "threshold", "lo": -0.5}, "greater than or equal to 0"),
        ({"type": "k-means", "keep": [3]}, "some of its clusters 0 to 2"),
        ({"type": "k-means", "k": 2, "keep": [0, 1]}, "not all"),
        ({"type": "k-means", "keep": [1, 1]}, "each once in keep"),
        ({"type": "k-means", "features": ["entropy", "entropy"]}, "each once in features"),
        ({"type": "adaptive", "keep": ["low", "middle", "high"]}, "For all tokens take the selector `all`"),
        ({"type": "adaptive", "keep": ["low", "low"]}, "one or two of its classes, each named once"),
        ({"type": "and", "of": ["visual", "top-k", "visual"]}, "`visual` stands twice in `and`"),
        ({"type": "or", "of": ["visual", "visual"]}, "`visual` stands twice in `or`"),
        ({"type": "k-means", "k": 1, "keep": [0]}, "greater than or equal to 2"),
        ({"type": "visual", "share": 0}, "greater than 0"),
        ({"type": "visual", "grey": 256}, "less than or equal to 255"),
        ({"type": "visual-logp", "probability": "3/2"}, "less than or equal to 1"),
        ("and", "Field required"),
        ({"type": "and", "of": ["all"]}, "two selectors or more; got 1"),
        ({"type": "or", "of": []}, "two selectors or more; got 0"),
        ({"type": "not", "of": ["top-k", "random"]}, "takes one selector; got 2"),
        ({"type": "not", "of": ["all"]}, "keeps no token"),
        ({"type": "and", "of": ["visual", {"type": "not", "of": ["visual"]}]}, "keeps no token"),
        ({"type": "or", "of": [{"type": "not", "of": ["visual"]}, "visual"]}, "keeps every token"),
        ({"type": "or", "of": ["visul", "all"]}, "Did you mean 'visual'"),
        ({"type": "or", "of": ["pgd", "all"]}, "not a registered selector"),
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused(given: Any, said: str) -> None:
    with pytest.raises((ValidationError, ConfigError), match=said):
        config(given)


def test_an_exclusion_and_chance_are_no_contradictions() -> None:
    config({"type": "not", "of": [{"type": "all", "exclude": ["eos"]}]})
    config({"type": "and", "of": ["random", {"type": "not", "of": ["random"]}]})


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (lambda of: torch.ones_like(of.valid_NT), "'test/broken' marked 2 that are padding"),
        (lambda of: of.valid_NT.float(), r"'test/broken' returned torch.float32 \[2, 6\] for tokens \[2, 6\]"),
        (lambda of: of.valid_NT[:1], r"'test/broken' returned torch.bool \[1, 6\] for tokens \[2, 6\]"),
        (lambda of: [True], "'test/broken' returned list for tokens"),
    ],
)
@pytest.mark.usefixtures("_registry")
def test_a_selector_that_breaks_its_contract_is_stopped(broken: Any, said: str) -> None:
    class Broken(MiddleThird):
        class Config(MiddleThird.Config):
            type: Literal["test/broken"] = "test/broken"  # type: ignore[assignment]

        def select(self, of: TokenStats, *, progress: float, generator: torch.Generator) -> Any:
            return broken(of)

    for stopped in (Broken(), Or(Or.Config.model_construct(of=(Broken.Config(), All.Config())))):
        with pytest.raises(TrainingError, match=said) as raised:
            checked_selection(stopped, stats(EIGHTHS, (1, 2, 3, 4)), progress=0.0, generator=torch.Generator())
        assert "check_selector" in raised.value.remedy


def test_bounds_of_a_moving_band_stay_in_order() -> None:
    moving = config({"type": "scheduled", "start_lo": "1/2", "start_hi": 1, "end_lo": 0, "end_hi": "1/100"})
    sizes = [len(chosen(moving, stats(tuple(range(100))), progress=p / 20)[0]) for p in range(21)]
    assert all(after <= before for before, after in pairwise(sizes))
    assert (sizes[0], sizes[-1]) == (50, 1)


# --- the page -------------------------------------------------------------------------------------------------------


def test_the_page_lists_every_selector_and_its_example_runs() -> None:
    page = (Path(__file__).parents[1] / "docs" / "selectors.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    assert {name for row in rows for name in re.findall("`([^`]+)`", row)} == {
        entry.name for entry in entries("selector") if "/" not in entry.name
    }
    (example,) = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    exec(compile(example, "selectors.md", "exec"), {})  # a page of our own
