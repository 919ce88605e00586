"""The contracts of an intervention's small slots: strengths, gates and guards."""

from __future__ import annotations

import math
from typing import Any

import torch

from saei.config.strategy import Strategy, StrategyConfig
from saei.interventions.base import Gate, Guard, Strength
from saei.interventions.context import SamplingContext
from saei.runtime.seeds import GroupSources
from saei.testing.rules import config_of, random_state_untouched, require
from saei.types import CLEAN, Example, Grade, Group, Response, ScoredGroup, View


def check_strength(subject: Strategy | StrategyConfig) -> None:
    """Check a strength: a finite factor of 0 or more at every share of the training.

    Raises:
        AssertionError: Naming the rule that is broken.
    """
    config = config_of(subject)
    strength = config.build()
    require(isinstance(strength, Strength), config.type, "the config of a strength builds a Strength")
    with random_state_untouched(config.type):
        factors = [strength.at(step / 10) for step in range(11)]
    require(all(math.isfinite(f) and f >= 0 for f in factors), config.type, "a strength is finite and not negative")


def check_gate(subject: Strategy | StrategyConfig) -> None:
    """Check a gate: a yes or no that the same responses get again.

    Raises:
        AssertionError: Naming the rule that is broken.
    """
    config = config_of(subject)
    require(isinstance(config.build(), Gate), config.type, "the config of a gate builds a Gate")
    view, responses = _drawn()
    for right in ((True,) * 4, (True, False, True, False)):
        with random_state_untouched(config.type):
            answers = [config.build().opens(view, responses, _context(right)) for _ in range(2)]
        require(all(type(answer) is bool for answer in answers), config.type, "a gate answers True or False")
        require(answers[0] == answers[1], config.type, "the same responses get the same answer")


def check_guard(subject: Strategy | StrategyConfig) -> None:
    """Check a guard: it returns None or a group of the same example with one grade per response.

    Raises:
        AssertionError: Naming the rule that is broken.
    """
    config = config_of(subject)
    guard = config.build()
    require(isinstance(guard, Guard), config.type, "the config of a guard builds a Guard")
    view, responses = _drawn()
    places = (0,) * len(responses)
    for right in ((True,) * 4, (True, False, True, False)):
        scored = ScoredGroup(Group(view.example, (view,), responses, places, places), _grades(right))
        with random_state_untouched(config.type):
            kept = guard.inspect(scored, _context(right))
        if kept is not None:
            group = kept.group
            lengths = {len(kept.grades), len(group.responses), len(group.sampled_from), len(group.updated_on)}
            whole = group.example is view.example and len(lengths) == 1
            require(whole, config.type, "a guard returns a group of the same example with one grade per response")


def _drawn() -> tuple[View, tuple[Response, ...]]:
    view = View(Example("e", "q", "a"), CLEAN, torch.zeros(1, dtype=torch.long), torch.zeros(1, 1, dtype=torch.long))
    ids_T = torch.arange(3)
    return view, tuple(
        Response(ids_T, "x", -torch.ones(3), torch.ones(3), truncated=truncated) for truncated in (False, True) * 2
    )


def _grades(right: tuple[bool, ...]) -> tuple[Grade, ...]:
    return tuple(Grade(float(flag), flag, answer=str(flag)) for flag in right)


def _context(right: tuple[bool, ...]) -> SamplingContext:
    policy: Any = None  # what these slots see of a policy here; one that asks it is checked within its sampler
    return SamplingContext(policy, lambda view, responses: _grades(right), 0.5, GroupSources(2))
