"""The cache that decoding grows holds what the cache of transformers would."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from saei.data.bars import Bars
from saei.policy import Policy, native
from saei.policy.cache import RoomyLayer, make_room
from saei.policy.decoding import _Branches


def some(tokens: int, rows: int = 3) -> tuple[Tensor, Tensor]:
    return torch.randn(rows, 2, tokens, 4), torch.randn(rows, 2, tokens, 4)


def test_holds_what_transformers_would() -> None:
    generator = torch.manual_seed(0)
    theirs, ours = DynamicCache(), DynamicCache()
    for layer in range(2):
        prompt = some(5)
        for cache in (theirs, ours):
            cache.update(*prompt, layer)
    make_room(ours)
    rows = 3
    for step in range(150):  # more than there is room for at once
        tokens = 2 if step == 70 else 1
        if step in (20, 80):
            keep = torch.randperm(rows, generator=generator)[: rows - 1]
            rows -= 1
            theirs.batch_select_indices(keep)
            ours.batch_select_indices(keep)
        for layer in range(2):
            new = some(tokens, rows)
            both = zip(ours.update(*new, layer), theirs.update(*new, layer), strict=True)
            assert all(torch.equal(one, other) for one, other in both)
        assert ours.get_seq_length() == theirs.get_seq_length()
    assert all(type(layer) is RoomyLayer for layer in ours.layers)


def test_most_tokens_copy_nothing() -> None:
    layer = DynamicLayer()
    layer.update(*some(5))
    roomy = RoomyLayer(layer)
    places = [tuple(part.data_ptr() for part in roomy.update(*some(1))) for _ in range(200)]
    assert len(set(places)) == 4  # 200 tokens, 1 and room for 64 more at a time


def test_prompt_and_rows_of_others_are_not_written_over() -> None:
    layer = DynamicLayer()
    prompt = layer.update(*some(5))
    before = [part.clone() for part in prompt]
    first, second = RoomyLayer(layer), RoomyLayer(layer)
    ones, twos = first.update(*some(1)), second.update(*some(1))
    assert all(torch.equal(part, own) for part, own in zip(prompt, before, strict=True))
    assert not any(torch.equal(one, two) for one, two in zip(ones, twos, strict=True))


def test_other_layers_stay_what_they_are() -> None:
    window, unused = DynamicSlidingWindowLayer(4), DynamicLayer()
    window.update(*some(3))
    cache = SimpleNamespace(layers=[window, unused])
    make_room(cache)
    assert cache.layers == [window, unused]
    make_room(SimpleNamespace())  # a cache that is not made of layers


def test_sampling_makes_room(random_policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    caches, decode = [], native.decode

    def watched(first_RV: Tensor, cache: Any, *rest: Any, **options: Any) -> Any:
        caches.append(cache)
        return decode(first_RV, cache, *rest, **options)

    monkeypatch.setattr(native, "decode", watched)
    random_policy.sample([random_policy.view(Bars().example(0))], [2], generators=[torch.Generator().manual_seed(0)])
    assert {type(layer) for layer in caches[0].layers} == {RoomyLayer}


def test_rows_are_selected_as_by_the_layer_it_continues(monkeypatch: pytest.MonkeyPatch) -> None:
    """Selections and tokens in turn, so that old memory is used again, or is too small for rows or tokens."""
    monkeypatch.setattr("saei.policy.cache._ROOM", 3)
    plain = DynamicLayer()
    plain.update(*some(5))
    roomy, rows = RoomyLayer(plain), 3
    generator = torch.Generator().manual_seed(0)
    for turn in range(30):
        new = (torch.randn(rows, 2, 1, 4, generator=generator), torch.randn(rows, 2, 1, 4, generator=generator))
        for ours, theirs in zip(roomy.update(*new), plain.update(*new), strict=True):
            assert torch.equal(ours, theirs)
        if turn % 3 != 2:
            count = int(torch.randint(1, 9, (), generator=generator))
            chosen = torch.randint(0, rows, (count,), generator=generator)
            roomy.batch_select_indices(chosen)
            plain.batch_select_indices(chosen)
            rows = count
            assert torch.equal(roomy.keys, plain.keys)
            assert torch.equal(roomy.values, plain.values)


def test_equal_rows_are_computed_once_and_draw_what_each_would(
    random_policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    views = [random_policy.view(Bars().example(number)) for number in range(3)]
    counts, fed, decode = [40, 1, 25], [0], native.decode

    def drawn() -> list[Any]:
        generators = [torch.Generator().manual_seed(number) for number in range(3)]
        # A low temperature, so that rows stay equal for long.
        sampling = random_policy.sampling.model_copy(update={"temperature": 0.1})
        sampled = random_policy.sample(views, counts, generators=generators, sampling=sampling)
        return [response for of_view in sampled for response in of_view]

    def counting(first_EV: Tensor, cache: Any, step: Any, **options: Any) -> Any:
        def counted(ids_E: Tensor, rows_E: Tensor, cache: Any) -> Any:
            fed[-1] += len(ids_E)
            return step(ids_E, rows_E, cache)

        return decode(first_EV, cache, counted, **options)

    def one_by_one(first_EV: Tensor, cache: Any, step: Any, *, entry_R: Tensor, **options: Any) -> Any:
        cache.batch_select_indices(entry_R)
        return counting(first_EV[entry_R], cache, step, **options)

    monkeypatch.setattr(native, "decode", counting)
    together = drawn()
    fed.append(0)
    monkeypatch.setattr(native, "decode", one_by_one)
    apart = drawn()
    assert [response.text for response in together] == [response.text for response in apart]
    for ours, theirs in zip(together, apart, strict=True):
        torch.testing.assert_close(ours.behaviour_logp_T, theirs.behaviour_logp_T, atol=2e-5, rtol=0)
        torch.testing.assert_close(ours.entropy_T, theirs.entropy_T, atol=2e-5, rtol=0)
    assert fed[0] < 0.6 * fed[1]


def test_branches_of_a_case_worked_by_hand() -> None:
    branches = _Branches.of(torch.tensor([7, 5, 7, 5]), torch.tensor([0, 0, 0, 1]))
    assert branches.ids_E.tolist() == [5, 7, 5]
    assert branches.parent_E.tolist() == [0, 0, 1]
    assert branches.entry_L.tolist() == [1, 0, 1, 2]
    assert branches.row_E.tolist() in ([1, 0, 3], [1, 2, 3])
