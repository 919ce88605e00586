"""Selectors and criteria that are functions: strategies like any other."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from saei.config import registry
from saei.config.registry import entries, load, register
from saei.config.run import dump, validate
from saei.entropy.selectors.base import Selector, TokenStats
from saei.entropy.selectors.function import selector
from saei.interventions.base import Criterion
from saei.interventions.function import criterion
from saei.need import Need
from saei.policy import Scores
from saei.testing import check_criterion, check_selector

ENTROPY = Need("entropy", grad=True)


@selector("test/undecided")
def undecided(stats: TokenStats, candidates_NT: Tensor) -> Tensor:
    """Tokens with more than a third of a nat of entropy."""
    return stats.entropy_NT > 1 / 3


@criterion("test/twice", needs={ENTROPY})
def twice(scores: Scores) -> Tensor:
    """Twice the entropy."""
    return 2 * scores.statistics[ENTROPY]


def test_they_keep_their_contracts() -> None:
    check_criterion(twice())
    check_selector(undecided())


def test_a_selector_is_cut_to_its_candidates() -> None:
    entropy_NT = torch.tensor([[0.3, 0.5, 3.0, 9.0]])
    valid_NT = torch.tensor([[True, True, True, False]])
    ends_NT = torch.tensor([[False, False, True, False]])
    stats = TokenStats(entropy_NT, entropy_NT, torch.zeros(1, 4).long(), valid_NT, {Need("eos"): ends_NT})
    for exclude, expected in (((), [False, True, True, False]), (("eos",), [False, True, False, False])):
        chosen = undecided(undecided.Config(exclude=exclude))
        assert chosen.select(stats, progress=0.0, generator=torch.Generator()).tolist() == [expected]


def test_a_criterion_needs_what_it_declares() -> None:
    entropy_NT = torch.tensor([[1.0, 3.0]], requires_grad=True)
    scores = Scores(torch.zeros(1, 2), None, torch.ones(1, 2, dtype=torch.bool), {ENTROPY: entropy_NT})
    J = twice().value(scores, scores.mask_NT, pooled=False)
    assert J.item() == 4.0
    assert torch.autograd.grad(J, entropy_NT)[0].tolist() == [[1.0, 1.0]]
    assert twice().needs == {ENTROPY}


def test_they_are_registered_configured_and_documented(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_registered", {})
    register(undecided)
    register(twice)
    assert issubclass(undecided, Selector)
    assert issubclass(twice, Criterion)
    (entry,) = [entry for entry in entries("selector") if entry.name == "test/undecided"]
    assert entry.target == f"{__name__}:undecided"
    assert load("criterion", "test/twice") is twice
    assert twice.__doc__ == "Twice the entropy."
    chosen = {"selector": {"type": "test/undecided", "exclude": ["eos"]}, "criterion": "test/twice"}
    config = validate({"sampler": {"intervention": chosen}})
    assert config.sampler.intervention.selector == undecided.Config(exclude=("eos",))
    assert validate(dump(config)) == config
