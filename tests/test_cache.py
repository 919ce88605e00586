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
