"""Selectors: cases worked by hand that tell siblings apart, brute force over many groups, and the summary."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch.distributions import Categorical

from saei.entropy.selectors.all import All
from saei.entropy.selectors.band import Band, MiddleThird
from saei.entropy.selectors.base import TokenStats
from saei.entropy.selectors.random import Random
from saei.entropy.selectors.topk import TopK
from saei.interventions.group_criterion import selection_summary
from saei.need import Need

ROW = (0.5, 0.1, 0.9, 0.3, 0.7, 0.2)  # ranks 3 0 5 2 4 1


def stats_of(rows, **extra):
    width = max(map(len, rows))
    valid_NT = torch.tensor([[t < len(row) for t in range(width)] for row in rows])
    entropy_NT = torch.tensor([[*row, *[0.0] * (width - len(row))] for row in rows], dtype=torch.float32)
    extra = {Need(name): torch.tensor(mask) for name, mask in extra.items()}
    return TokenStats(entropy_NT, -entropy_NT, torch.zeros_like(valid_NT, dtype=torch.int64), valid_NT, extra)


def chosen(config, rows, *, seed=0, **extra):
    """Return the selected positions of each response."""
    generator = torch.Generator().manual_seed(seed)
    mask_NT = config.build().select(stats_of(rows, **extra), progress=0.0, generator=generator)
    return [row.nonzero().flatten().tolist() for row in mask_NT]


BY_HAND = {
    "middle-third": (MiddleThird.Config(), [0, 3]),
    "band": (Band.Config(lo="1/6", hi="3/6"), [3, 5]),
    "top third": (TopK.Config(), [2, 4]),
    "top count": (TopK.Config(count=3), [0, 2, 4]),
    "top share": (TopK.Config(share="1/2"), [0, 2, 4]),
    "all": (All.Config(), [0, 1, 2, 3, 4, 5]),
    "random": (Random.Config(), None),
}


@pytest.mark.parametrize(("config", "positions"), BY_HAND.values(), ids=BY_HAND)
def test_by_hand(config, positions):
    if positions is not None:
        assert chosen(config, [ROW]) == [positions]


def test_siblings_differ_by_hand():
    default = {
        name: chosen(config, [ROW]) for name, (config, _) in BY_HAND.items() if name not in ("top share", "random")
    }
    assert len({str(positions) for positions in default.values()}) == len(default)
    # Chance chooses other tokens from seed to seed, everyone else the same.
    assert len({str(chosen(Random.Config(), [ROW], seed=seed)) for seed in range(40)}) > 10
    assert chosen(TopK.Config(count=2), [ROW, ROW[:4]]) == [[2, 4], [0, 2]]
    assert chosen(TopK.Config(share="1/2"), [ROW, ROW[:4]]) == [[0, 2, 4], [0, 2]]


def test_middle_third_drops_a_third_rounded_down_at_each_end():
    kept = [len(chosen(MiddleThird.Config(), [list(range(length))])[0]) for length in range(1, 13)]
    assert kept == [length - 2 * (length // 3) for length in range(1, 13)]
    assert kept[:6] == [1, 2, 1, 2, 3, 2]


def test_middle_third_is_the_band_between_the_thirds():
    rows = torch.rand(5, 17, generator=torch.Generator().manual_seed(0)).tolist()
    assert (
        chosen(MiddleThird.Config(), rows)
        == chosen(Band.Config(lo="1/3", hi="2/3"), rows)
        == chosen(Band.Config(), rows)
    )


def test_ties_are_broken_by_position():
    equal = [0.25] * 6
    assert chosen(MiddleThird.Config(), [equal]) == [[2, 3]]
    assert chosen(Band.Config(lo=0, hi="1/2"), [equal]) == [[0, 1, 2]]
    assert chosen(TopK.Config(count=2), [equal]) == [[4, 5]]


def brute_force(rows, allowed, keep, scope):
    """Rank with sorted() and keep the ranks that ``keep`` names for a number of candidates."""
    places = [[(n, t) for t in range(len(row)) if allowed[n][t]] for n, row in enumerate(rows)]
    if scope == "group":
        places = [[place for of_response in places for place in of_response]]
    selected = [[] for _ in rows]
    for competing in places:
        ranked = sorted(competing, key=lambda place: (rows[place[0]][place[1]], place))
        for rank in keep(len(ranked)):
            n, t = ranked[rank]
            selected[n].append(t)
    return [sorted(positions) for positions in selected]


def between(lo, hi):
    return lambda length: range(math.floor(length * Fraction(lo)), math.ceil(length * Fraction(hi)))


RANKED = {
    "middle-third": (MiddleThird.Config, {}, between("1/3", "2/3")),
    "band": (Band.Config, {"lo": "0.07", "hi": "0.55"}, between("0.07", "0.55")),
    "lowest": (Band.Config, {"lo": 0, "hi": "1/5"}, between(0, "1/5")),
    "highest": (Band.Config, {"lo": "4/5", "hi": 1}, between("4/5", 1)),
    "top fifth": (TopK.Config, {"share": "1/5"}, between("4/5", 1)),
    "top 4": (TopK.Config, {"count": 4}, lambda length: range(max(0, length - 4), length)),
}


@pytest.mark.parametrize("scope", ["response", "group"])
@pytest.mark.parametrize(("config", "fields", "keep"), RANKED.values(), ids=RANKED)
def test_brute_force(config, fields, keep, scope):
    generator = torch.Generator().manual_seed(0)
    for _ in range(30):
        lengths = torch.randint(0, 12, (4,), generator=generator).tolist()
        rows = [(torch.randint(0, 6, (length,), generator=generator) / 8).tolist() for length in [*lengths, 11]]
        excluded = torch.rand(5, 11, generator=generator) < 0.2
        expected = brute_force(rows, (~excluded).tolist(), keep, scope)
        config_ = config(scope=scope, exclude=("template",), **fields)
        assert chosen(config_, rows, template=excluded.tolist()) == expected


def test_group_scope_may_leave_a_response_without_a_token():
    rows = [[0.1, 0.2, 0.3], [1.1, 1.2, 1.3], [2.1, 2.2, 2.3]]
    assert chosen(MiddleThird.Config(), rows) == [[1], [1], [1]]
    assert chosen(MiddleThird.Config(scope="group"), rows) == [[], [0, 1, 2], []]
    assert chosen(TopK.Config(count=2, scope="group"), rows) == [[], [], [1, 2]]
    for config in (MiddleThird.Config, Band.Config, TopK.Config, Random.Config):
        assert config(scope="group").build().pooled
        assert not config().build().pooled
    assert not All().pooled


def test_excluded_tokens_are_not_counted():
    eos = [[False] * 5 + [True]]
    assert chosen(MiddleThird.Config(exclude=("eos",)), [ROW], eos=eos) == [
        [0, 3, 4]
    ]  # of ranks 2 0 4 1 3, the middle three
    assert chosen(All.Config(exclude=("eos",)), [ROW], eos=eos) == [[0, 1, 2, 3, 4]]
    assert MiddleThird.Config(exclude=("eos", "template")).build().needs == {Need("eos"), Need("template")}


def test_fractions_are_exact():
    row = [list(range(100))]
    assert 100 * 0.07 > 7  # so that ceil would keep eight
    assert len(chosen(TopK.Config(share=0.07), row)[0]) == 7
    long = [list(range(4096))]  # the numerator of 0.333… times 4096 needs more than 64 bits
    assert len(chosen(TopK.Config(share=0.3333333333333333), long)[0]) == 1366


def test_random_keeps_as_many_as_the_band_and_is_uniform():
    rows = [[0.0] * length for length in (0, 1, 2, 4, 5, 9)]
    for fields in ({}, {"lo": "1/2", "hi": "1"}):
        sizes = [[*map(len, chosen(config(**fields), rows))] for config in (Random.Config, Band.Config)]
        assert sizes[0] == sizes[1]
    group = chosen(Random.Config(scope="group"), rows)
    assert sum(map(len, group)) == sum(map(len, chosen(Band.Config(scope="group"), rows))) == 7
    generator = torch.Generator().manual_seed(0)
    stats, selector = stats_of([ROW] * 3000), Random()
    share_T = selector.select(stats, progress=0.0, generator=generator).float().mean(0)
    assert (share_T - 1 / 3).abs().max() < 4 * math.sqrt(2 / 9 / 3000)  # four standard errors


@pytest.mark.parametrize(
    ("config", "fields"),
    [
        (Band.Config, {"lo": "2/3", "hi": "1/3"}),
        (Band.Config, {"lo": "1/3", "hi": "1/3"}),
        (Band.Config, {"lo": "-1/3"}),
        (Band.Config, {"hi": "4/3"}),
        (TopK.Config, {"count": 3, "share": "1/3"}),
        (TopK.Config, {"count": 0}),
        (TopK.Config, {"share": 0}),
        (Random.Config, {"hi": "4/3"}),
        (MiddleThird.Config, {"scope": "batch"}),
        (MiddleThird.Config, {"lo": "1/4"}),
    ],
)
def test_impossible_fields_are_refused(config, fields):
    with pytest.raises(ValidationError):
        config(**fields)


class TestSummary:
    def test_against_numpy_and_a_categorical(self):
        entropy_NT = torch.rand(4, 9, generator=torch.Generator().manual_seed(0))
        selected_NT = entropy_NT > 0.4
        values = entropy_NT[selected_NT].double()
        summary = selection_summary(entropy_NT, selected_NT)
        assert summary["selected"] == len(values)
        assert summary["effective_tokens"] == pytest.approx(Categorical(probs=values).perplexity().item(), rel=1e-12)
        for percent in (0, 25, 50, 75, 100):
            expected = np.quantile(values.numpy(), percent / 100)
            assert summary[f"entropy_q{percent}"] == pytest.approx(expected, rel=1e-12)
        assert all(type(number) is float for number in summary.values())

    @pytest.mark.parametrize(
        ("values", "effective"), [([0.5] * 4, 4.0), ([3.0, 0.0, 0.0], 1.0), ([0.0, 0.0], 0.0)], ids=str
    )
    def test_effective_number_by_hand(self, values, effective):
        entropy_NT = torch.tensor([values])
        assert selection_summary(entropy_NT, entropy_NT >= 0)["effective_tokens"] == pytest.approx(effective)

    def test_of_nothing(self):
        assert set(selection_summary(torch.ones(2, 3), torch.zeros(2, 3, dtype=torch.bool)).values()) == {0.0}
