"""Attacks on text as functions of points: cases by hand that fail if the nearest sibling takes an attack's place."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction

import pytest
import torch
from torch import Tensor

from saei.attacks.base import Attack, BlockSpace, Point, Space, TokenSpace
from saei.attacks.fgsm import FGSM
from saei.attacks.joint import Joint
from saei.attacks.paraphrase import Paraphrase
from saei.attacks.text import NEFTune, TextFGSM, TextPGD
from saei.attacks.tokens import GCG, MOST_CHECKS, HotFlip, RandomSwap
from saei.errors import ConfigError, ModelError

V, D = 9, 4
TABLE = torch.randn(V, D, generator=torch.Generator().manual_seed(1))
KINDS = torch.tensor([0, 0, 0, 0, 0, 1, 1, 1, -1])
"""Tokens 0 to 4 may stand for each other, and 5 to 7; 8 is never written."""

START = torch.tensor([0, 5, 3])


def token_block(*, editable: list[bool] | None = None, scale: float = 1.0, illegal: tuple[int, ...] = ()) -> BlockSpace:
    """A text of these tokens, which may not have some of them."""
    tokens = TokenSpace(
        D, lambda vectors_Qd: vectors_Qd @ TABLE.T, KINDS, lambda ids_Q: not set(ids_Q.tolist()) & set(illegal)
    )
    mask = None if editable is None else torch.tensor(editable)
    return BlockSpace("tokens", low=0, high=V - 1, units={}, scale=scale, editable=mask, tokens=tokens)


class OfEmbeddings:
    """J of one text: slopes times embeddings, and a bend that the gradient at the start does not know."""

    def __init__(self, bend: float = 0.0) -> None:
        self.slope_Qd = torch.randn(len(START), D, generator=torch.Generator().manual_seed(2))
        self.bend, self.calls = bend, 0

    def __call__(self, point: Point, /, *, offsets: Mapping[int, Tensor] | None = None) -> Tensor:
        self.calls += 1
        embeddings_Qd = TABLE[point[0]] + (0 if offsets is None else offsets[0])
        change_Qd = embeddings_Qd - TABLE[START]
        return ((self.slope_Qd * embeddings_Qd).sum() - self.bend * change_Qd.pow(2).sum())[None]


def moved(attack: Attack, criterion: OfEmbeddings, block: BlockSpace, seed: int = 0) -> list[int]:
    sources = [torch.Generator().manual_seed(seed)]
    (ids_Q,) = attack.attack(criterion, (START,), space=Space((block,), (0,)), progress=0.0, generators=sources)
    ids: list[int] = ids_Q.tolist()
    return ids


def swaps(editable: tuple[bool, ...] = (True,) * 3, illegal: tuple[int, ...] = ()) -> list[list[int]]:
    """All texts with one token swapped for another of its kind, by a loop."""
    texts = []
    for place, token in ((place, token) for place in range(3) for token in range(V)):
        own = int(START[place])
        if editable[place] and token != own and KINDS[token] == KINDS[own] and token not in illegal:
            texts.append([*START[:place].tolist(), token, *START[place + 1 :].tolist()])
    return texts


def best(criterion: OfEmbeddings, texts: list[list[int]], *, lower: bool = False) -> list[int]:
    values = [float(criterion((torch.tensor(text),))) for text in texts]
    return texts[values.index(min(values) if lower else max(values))]


@pytest.mark.parametrize("illegal", [(), (6, 2)])
@pytest.mark.parametrize("editable", [(True, True, True), (False, True, False), (True, False, True)])
@pytest.mark.parametrize("direction", ["raise", "lower"])
def test_the_first_proposal_is_the_best_swap_of_a_linear_criterion(
    illegal: tuple[int, ...], editable: tuple[bool, ...], direction: str
) -> None:
    attack = HotFlip.Config.model_validate({"width": 1, "direction": direction}).build()
    block = token_block(editable=list(editable), illegal=illegal)
    expected = best(OfEmbeddings(), swaps(editable, illegal), lower=direction == "lower")
    before, after = (float(OfEmbeddings()((torch.tensor(ids),))) for ids in (START.tolist(), expected))
    better = after < before if direction == "lower" else after > before
    assert moved(attack, OfEmbeddings(), block) == (expected if better else START.tolist())


@pytest.mark.parametrize("attack", [HotFlip.Config(width=64), GCG.Config(width=64)])
@pytest.mark.parametrize("bend", [0.05, -0.3, 5.0])
def test_exact_values_choose_among_the_proposals(attack: HotFlip.Config | GCG.Config, bend: float) -> None:
    """With a bend the best swap is not the first proposal; where none raises the criterion, the text stays."""
    criterion = OfEmbeddings(bend)
    expected = best(OfEmbeddings(bend), [START.tolist(), *swaps()])
    assert moved(attack.build(), criterion, token_block()) == expected
    assert criterion.calls == 1 + len(swaps())
    assert (expected == START.tolist()) == (bend == 5.0)
    first = moved(HotFlip.Config(width=1).build(), OfEmbeddings(), token_block())
    assert (expected == first) == (bend == 0.05)


def test_several_swaps_are_made_one_after_the_other_and_scaled_by_the_strength() -> None:
    attack = HotFlip.Config(width=64, swaps=4).build()

    def swapped(scale: float) -> int:
        return int((torch.tensor(moved(attack, OfEmbeddings(), token_block(scale=scale))) != START).sum())

    assert [swapped(scale) for scale in (0.0, 0.25, 0.5, 1.0)] == [0, 1, 2, 3]
    text = START.tolist()
    for place in range(3):  # linear: each place has its own best token
        alike = [token for token in range(V) if KINDS[token] == KINDS[text[place]]]
        text = best(OfEmbeddings(), [[*text[:place], token, *text[place + 1 :]] for token in alike])
    assert moved(attack, OfEmbeddings(), token_block()) == text


def test_gcg_draws_among_the_best_of_each_place_and_hotflip_takes_the_best_of_all() -> None:
    """One token of each place is left to draw from, and one draw."""
    alone = [best(OfEmbeddings(), [text for text in swaps() if text[place] != START[place]]) for place in range(3)]
    raising = [text for text in alone if best(OfEmbeddings(), [START.tolist(), text]) == text]
    gcg, hotflip = GCG.Config(top_k=1, width=1).build(), HotFlip.Config(width=1).build()
    drawn = {tuple(moved(gcg, OfEmbeddings(), token_block(), seed)) for seed in range(40)}
    assert drawn - {tuple(START.tolist())} == set(map(tuple, raising))
    assert len(raising) >= 2
    assert {tuple(moved(hotflip, OfEmbeddings(), token_block(), seed)) for seed in range(40)} == {
        tuple(best(OfEmbeddings(), swaps()))
    }


def test_random_swaps_are_uniform_over_places_and_tokens_and_ask_nothing() -> None:
    criterion, counts = OfEmbeddings(), dict.fromkeys(map(tuple, swaps(illegal=(4,))), 0)
    for seed in range(900):
        counts[tuple(moved(RandomSwap(), criterion, token_block(illegal=(4,)), seed))] += 1
    assert criterion.calls == 0
    by_place = [[n for text, n in counts.items() if text[place] != START[place]] for place in range(3)]
    assert [len(each) for each in by_place] == [3, 2, 3]
    # A place is drawn, then a token; an illegal swap is drawn anew, place and all: a quarter of those at two places.
    expected = [3 / 4, 1, 3 / 4]
    for each, share in zip(by_place, expected, strict=True):
        assert sum(each) == pytest.approx(900 * share / sum(expected), abs=60)
        assert max(each) - min(each) < 60


def test_a_text_without_a_legal_swap_stays() -> None:
    block = token_block(illegal=tuple(token for token in range(V) if token not in START))
    for attack in (RandomSwap(), HotFlip(), GCG()):
        ids = moved(attack, OfEmbeddings(), block)
        assert ids in ([0, 5, 3], [3, 5, 3], [0, 5, 0])  # 0 and 3 may stand for each other
    frozen = token_block(editable=[False] * 3)
    for attack in (RandomSwap(), HotFlip(), GCG()):
        assert moved(attack, OfEmbeddings(), frozen) == START.tolist()


@pytest.mark.parametrize("attack", [RandomSwap(), HotFlip(), GCG(GCG.Config(top_k=4096))], ids=lambda each: each.name())
@pytest.mark.parametrize("n_tokens", [1300, 5000])
def test_every_swap_is_checked_once_up_to_a_bound(attack: Attack, n_tokens: int) -> None:
    """Of three places' swaps a single one is legal: it is made wherever there are no more than may be checked."""
    table_Vd = torch.randn(n_tokens, D, generator=torch.Generator().manual_seed(4))
    rare, checked = [0, 1, n_tokens - 1], list[tuple[int, ...]]()

    def legal(ids_Q: Tensor) -> bool:
        checked.append(tuple(ids_Q.tolist()))
        return ids_Q.tolist() == rare

    def criterion(point: Point, /, *, offsets: Mapping[int, Tensor] | None = None) -> Tensor:
        (ids_Q,) = point
        embeddings_Qd = table_Vd[ids_Q] + (0 if offsets is None else offsets[0])
        return embeddings_Qd.sum()[None] + 100 * float(ids_Q.tolist() == rare)

    tokens = TokenSpace(D, lambda vectors_Qd: vectors_Qd @ table_Vd.T, torch.zeros(n_tokens, dtype=torch.long), legal)
    space = Space((BlockSpace("tokens", low=0, high=n_tokens - 1, units={}, tokens=tokens),), (0,))
    start = (torch.tensor([0, 1, 2]),)
    sources = [torch.Generator().manual_seed(0)]
    (ids_Q,) = attack.attack(criterion, start, space=space, progress=0.0, generators=sources)
    assert len(set(checked)) == len(checked) <= MOST_CHECKS
    exhausted = 3 * (n_tokens - 1) <= MOST_CHECKS
    assert exhausted == (n_tokens == 1300) == (rare in [list(text) for text in checked])
    assert ids_Q.tolist() == (rare if exhausted else [0, 1, 2])
    assert exhausted or len(checked) == MOST_CHECKS


def test_tokens_without_a_gradient_are_refused() -> None:
    def constant(point: Point, /, *, offsets: Mapping[int, Tensor] | None = None) -> Tensor:
        return torch.zeros(1)

    with pytest.raises(ModelError, match="No gradient reached it"):
        HotFlip().attack(
            constant, (START,), space=Space((token_block(),), (0,)), progress=0.0, generators=[torch.Generator()]
        )


# Offsets


def embedding_block(**fields: object) -> BlockSpace:
    units: dict[str, float | Tensor] = {"rms": 0.5, "distance": 0.25, "neftune": 1 / math.sqrt(12)}
    return BlockSpace("embeddings", low=-torch.inf, high=torch.inf, units=units, **fields)  # type: ignore[arg-type]


def offset_of(attack: Attack, block: BlockSpace, seed: int = 0) -> Tensor:
    slope_Qd = torch.tensor([[1.0, -2.0, 0.0, 3.0]]).expand(3, 4)
    (offset_Qd,) = attack.attack(
        lambda point, **_: (slope_Qd * point[0]).sum()[None],
        (torch.zeros(3, 4),),
        space=Space((block,), (0,)),
        progress=0.0,
        generators=[torch.Generator().manual_seed(seed)],
    )
    return offset_Qd


def test_a_signed_step_is_counted_in_the_embeddings_root_mean_square() -> None:
    signs = torch.tensor([[1.0, -1.0, 0.0, 1.0]]).expand(3, 4)
    editable = torch.tensor([[True], [False], [True]])
    assert torch.equal(offset_of(TextFGSM(), embedding_block()), 0.05 * signs)
    assert torch.equal(offset_of(TextFGSM(), embedding_block(editable=editable)), 0.05 * signs * editable)
    by_distance = TextFGSM.Config(step=Fraction(1, 10), step_space="distance").build()
    assert torch.equal(offset_of(by_distance, embedding_block()), 0.025 * signs)
    with pytest.raises(ConfigError, match="'pixel' units"):
        offset_of(FGSM(), embedding_block())


def test_several_steps_stay_in_the_ball() -> None:
    attack = TextPGD.Config(steps=3, step=Fraction(1, 10), radius=Fraction(1, 5)).build()
    signs = torch.tensor([[1.0, -1.0, 0.0, 1.0]]).expand(3, 4)
    torch.testing.assert_close(offset_of(attack, embedding_block()), 0.1 * signs)
    torch.testing.assert_close(offset_of(TextPGD.Config(steps=2).build(), embedding_block()), 0.1 * signs)
    torch.testing.assert_close(offset_of(TextFGSM(), embedding_block()), 0.05 * signs)


def test_freelbs_start_has_its_own_size() -> None:
    """U(-1, 1) · .16 / √(Q d), which a step of length 0 leaves as it is."""
    start = TextPGD.Config(random_start=True, start=Fraction(4, 25), step=Fraction(0), radius=Fraction(1)).build()
    values = torch.cat([offset_of(start, embedding_block(), seed) for seed in range(200)])
    assert float(values.abs().max()) == pytest.approx(0.16 / math.sqrt(12), rel=0.01)
    assert float(values.std()) == pytest.approx(0.16 / math.sqrt(12 * 3), rel=0.05)
    ball = TextPGD.Config(random_start=True, step=Fraction(0), radius=Fraction(1)).build()
    values = torch.cat([offset_of(ball, embedding_block(), seed) for seed in range(200)])
    assert float(values.abs().max()) == pytest.approx(0.5, rel=0.01)
    with pytest.raises(ValueError, match="random_start: true"):
        TextPGD.Config(start=Fraction(4, 25))


def test_neftune_is_uniform_over_the_question() -> None:
    values = torch.cat([offset_of(NEFTune(), embedding_block(), seed) for seed in range(200)])
    assert float(values.abs().max()) == pytest.approx(5 / math.sqrt(12), rel=0.01)
    assert float(values.std()) == pytest.approx(5 / math.sqrt(12 * 3), rel=0.05)
    assert abs(float(values.mean())) < 0.05
    assert NEFTune().origin == "noisy"


# Several surfaces, and wordings


def joint_point(attack: Attack) -> Point:
    """J = (x - 1/2) y, with x a pixel a little above 1/2 and y an offset of -1: once x has moved, y pays to fall."""
    x, y = torch.full((1, 1, 1), 128 / 255), torch.full((1, 1), -1.0)
    space = Space((BlockSpace(grid=1 / 255), embedding_block()), (0, 0))
    return attack.attack(
        lambda point, **_: ((point[0] - 0.5).sum() * point[1].sum())[None],
        (x, y),
        space=space,
        progress=0.0,
        generators=[torch.Generator()],
    )


def test_each_surface_has_its_attack_and_its_ball_and_sees_what_moved_before() -> None:
    pixels, offset = joint_point(Joint())
    assert float(pixels) == pytest.approx(126 / 255)  # two levels, down: y is negative
    assert float(offset) == pytest.approx(-1.05)  # a tenth of the unit, down: x is below 1/2 by now
    other = Joint.Config.model_validate({"of": {"embeddings": "text-pgd", "pixels": "pgd"}}).build()
    pixels, offset = joint_point(other)
    assert (float(pixels), float(offset)) == (pytest.approx(126 / 255), pytest.approx(-0.95))
    assert Joint().moves == ("pixels", "embeddings")


def test_joint_refuses_an_attack_that_is_not_made_for_its_surface() -> None:
    with pytest.raises(ConfigError, match="'hotflip' moves in tokens, not pixels"):
        Joint.Config.model_validate({"of": {"pixels": "hotflip"}}).build()


def test_offsets_of_tokens_find_their_block_behind_other_blocks() -> None:
    """Joint's criterion of the second surface alone is that of the whole point."""
    asked: list[tuple[int, list[int]]] = []
    linear = OfEmbeddings()

    def criterion(point: Point, /, *, offsets: Mapping[int, Tensor] | None = None) -> Tensor:
        asked.append((len(point), [] if offsets is None else list(offsets)))
        return linear(point[1:], offsets=None if offsets is None else {0: offsets[1]}) + point[0].sum()

    joint = Joint.Config.model_validate({"of": {"pixels": "pgd", "tokens": {"type": "hotflip", "width": 64}}}).build()
    pixels, ids_Q = joint.attack(
        criterion,
        (torch.full((1, 2, 2), 0.5), START),
        space=Space((BlockSpace(), token_block()), (0, 0)),
        progress=0.0,
        generators=[torch.Generator()],
    )
    torch.testing.assert_close(pixels, torch.full((1, 2, 2), 0.5 + 2 / 255))
    assert ids_Q.tolist() == best(OfEmbeddings(), swaps())
    assert asked[0] == (2, [])
    assert asked[1] == (2, [1])


def test_a_paraphrase_is_another_wording_at_random() -> None:
    block = BlockSpace("wording", low=0, high=3, units={})

    def drawn(seed: int, scale: float = 1.0) -> int:
        space = Space((BlockSpace("wording", low=0, high=3, units={}, scale=scale),), (0,))
        sources = [torch.Generator().manual_seed(seed)]
        start = (torch.zeros(1, dtype=torch.long),)
        (number,) = Paraphrase().attack(OfEmbeddings(), start, space=space, progress=0.0, generators=sources)
        return int(number)

    counts = [[drawn(seed) for seed in range(300)].count(number) for number in range(4)]
    assert counts[0] == 0
    assert all(count == pytest.approx(100, abs=30) for count in counts[1:])
    assert drawn(0, scale=0.0) == 0
    assert Paraphrase().radius(block) is None
