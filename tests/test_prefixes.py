"""Responses that begin with given tokens: what follows is what would have followed them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from saei.config.sections import SamplingConfig
from saei.data.bars import Bars
from saei.errors import ConfigError
from saei.policy import Policy
from saei.policy.load.weights import Parts
from saei.types import Response, ResponsePrefix, View

LIMIT = 12


@pytest.fixture(scope="module", params=["qwen", "llava"])
def random_parts(request: pytest.FixtureRequest, random_parts: Parts, llava_parts: Parts) -> Parts:
    return {"qwen": random_parts, "llava": llava_parts}[request.param]


@pytest.fixture
def policy(random_policy: Policy) -> Policy:
    random_policy.sampling = SamplingConfig(max_new_tokens=LIMIT)
    return random_policy


@pytest.fixture
def views(policy: Policy, bars: Bars) -> list[View]:
    return [policy.view(replace(bars.example(n), question="What is red?" * (n + 1))) for n in range(2)]


def sources(seed: int = 0) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed + number) for number in range(2)]


def same(ours: Response, theirs: Response) -> bool:
    values: Sequence[tuple[Tensor, Tensor]] = (
        (ours.ids_T, theirs.ids_T),
        (ours.behaviour_logp_T, theirs.behaviour_logp_T),
        (ours.entropy_T, theirs.entropy_T),
    )
    return all(torch.equal(*pair) for pair in values) and (ours.text, ours.truncated) == (theirs.text, theirs.truncated)


@pytest.mark.parametrize("shared", [True, False])
def test_a_response_goes_on_from_its_own_beginning_as_it_did(policy: Policy, views: list[View], shared: bool) -> None:
    """Every length of a prefix in one call, the same uniform numbers for what is left."""
    policy.shared_prefix = shared
    counts = [LIMIT + 2, 3]
    drawn = policy.sample(views, counts, generators=sources())
    lengths = [[min(n, len(one)) for n, one in enumerate(own)] for own in drawn]
    prefixes = [
        [one.prefix(length, n) for n, (one, length) in enumerate(zip(own, cut, strict=True))]
        for own, cut in zip(drawn, lengths, strict=True)
    ]
    assert len({length for cut in lengths for length in cut}) > 6
    again = policy.sample(views, counts, generators=sources(), prefixes=prefixes)
    for own, others, cut in zip(drawn, again, lengths, strict=True):
        for n, (one, other, length) in enumerate(zip(own, others, cut, strict=True)):
            assert same(one, other)
            assert (other.parent, other.forced) == (n, length)


def test_an_empty_prefix_is_no_prefix(policy: Policy, views: list[View]) -> None:
    plain = policy.sample(views, [3, 2], generators=sources())
    empty = ResponsePrefix(torch.empty(0, dtype=torch.long), torch.empty(0), torch.empty(0))
    for prefixes in ([[None] * 3, [None] * 2], [[empty] * 3, [empty, None]]):
        drawn = policy.sample(views, [3, 2], generators=sources(), prefixes=prefixes)
        for own, others in zip(plain, drawn, strict=True):
            assert all(same(*pair) for pair in zip(own, others, strict=True))
            assert all((one.parent, one.forced) == (None, 0) for one in others)


def test_given_tokens_keep_what_is_known_of_them_and_drawn_ones_are_the_policys(
    policy: Policy, views: list[View]
) -> None:
    """Tokens that are forced onto another view, whose policy would not have drawn them."""
    (parents, _) = policy.sample(views, [4, 0], generators=sources())
    parent = max(parents, key=len)
    number, given = parents.index(parent), 4
    prefixes = [[], [parent.prefix(given, number), None]]
    (_, (forced, free)) = policy.sample(views, [0, 2], generators=sources(7), prefixes=prefixes)
    assert forced.ids_T[:given].tolist() == parent.ids_T[:given].tolist()
    assert torch.equal(forced.behaviour_logp_T[:given], parent.behaviour_logp_T[:given])
    assert torch.equal(forced.entropy_T[:given], parent.entropy_T[:given])
    assert (forced.parent, forced.forced, free.parent, free.forced) == (number, given, None, 0)
    assert forced.text == policy.tokenizer.decode(forced.ids_T, skip_special_tokens=True)
    (scores,) = policy.score(views[1:], [[forced]])
    assert len(forced) > given
    for of_draw, of_score in ((forced.behaviour_logp_T, scores.logp_NT), (forced.entropy_T, scores.entropies())):
        torch.testing.assert_close(of_draw[given:], of_score[0, given:], atol=2e-5, rtol=0)
        assert not torch.allclose(of_draw[:given], of_score[0, :given], atol=1e-3)


def prefix_of(policy: Policy, ids: Sequence[int]) -> ResponsePrefix:
    zeros_K = torch.zeros(len(ids))
    return ResponsePrefix(torch.tensor(ids, dtype=torch.long), zeros_K, zeros_K)


def test_given_tokens_count_towards_the_longest_response(policy: Policy, views: list[View]) -> None:
    policy.never_end()
    word = int((~policy.distribution.banned_V).nonzero()[5])  # type: ignore[operator]
    lengths = [0, 1, LIMIT - 1, LIMIT]
    prefixes = [[prefix_of(policy, [word] * length) for length in lengths], []]
    (drawn, _) = policy.sample(views, [4, 0], generators=sources(), prefixes=prefixes)
    assert [len(one) for one in drawn] == [LIMIT] * 4
    assert all(one.truncated for one in drawn)
    assert drawn[-1].ids_T.tolist() == [word] * LIMIT


def test_nothing_follows_a_given_end(policy: Policy, views: list[View]) -> None:
    word = int((~policy.distribution.banned_V).nonzero()[5])  # type: ignore[operator]
    end = int(policy.eos_ids[0])
    ended = [word, word, end]
    (drawn, _) = policy.sample(
        views, [3, 0], generators=sources(), prefixes=[[prefix_of(policy, ended), None, prefix_of(policy, [end])], []]
    )
    assert (drawn[0].ids_T.tolist(), drawn[0].truncated) == (ended, False)
    assert (drawn[2].ids_T.tolist(), drawn[2].truncated, drawn[2].text) == ([end], False, "")
    (alone, _) = policy.sample(views, [3, 0], generators=sources())
    assert drawn[1].ids_T.tolist() == alone[1].ids_T.tolist()  # one row's draws are its own, whoever has ended


def test_greedy_continuations_are_those_of_the_longer_prompt(policy: Policy, views: list[View]) -> None:
    """By hand: the same tokens as a whole scored, each drawn one the likeliest after those before it."""
    greedy = SamplingConfig(temperature=0, max_new_tokens=LIMIT)
    word = int((~policy.distribution.banned_V).nonzero()[5])  # type: ignore[operator]
    (_, (drawn,)) = policy.sample(
        views, [0, 1], generators=sources(), sampling=greedy, prefixes=[[], [prefix_of(policy, [word] * 3)]]
    )
    alternatives = (~policy.distribution.banned_V).nonzero()[:, 0]  # type: ignore[operator]
    for place in range(3, len(drawn)):
        rivals = [
            replace(drawn, ids_T=torch.cat([drawn.ids_T[:place], id_[None]]), behaviour_logp_T=drawn.behaviour_logp_T)
            for id_ in alternatives
        ]
        (scores,) = policy.score(views[1:], [rivals], with_entropy=False)
        assert int(alternatives[scores.logp_NT[:, place].argmax()]) == int(drawn.ids_T[place])


def test_prefixes_that_begin_no_response_are_refused(policy: Policy, views: list[View]) -> None:
    end = int(policy.eos_ids[0])
    cases: list[tuple[list[int], str]] = [([end, 5], "follows the end"), ([5] * (LIMIT + 1), "longest response")]
    for ids, rule in cases:
        with pytest.raises(ConfigError, match=rule):
            policy.sample(views, [1, 0], generators=sources(), prefixes=[[prefix_of(policy, ids)], []])
    word, image = int((~policy.distribution.banned_V).nonzero()[5]), policy.model.config.image_token_id  # type: ignore[operator]
    size = policy.model.get_output_embeddings().weight.shape[0]
    for wrong in (image, size, -1):
        with pytest.raises(ConfigError, match="tokens that can be drawn") as refused:
            policy.sample(views, [1, 0], generators=sources(), prefixes=[[prefix_of(policy, [word, wrong, end])], []])
        assert f"[{wrong}]" in refused.value.reason
    with pytest.raises(ConfigError, match="for each view and each of its responses"):
        policy.sample(views, [1, 0], generators=sources(), prefixes=[[None, None], []])
