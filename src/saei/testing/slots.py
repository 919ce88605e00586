"""The contracts of an intervention's small slots: strengths, gates and guards."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from saei.config.strategy import Strategy, StrategyConfig
from saei.interventions.base import Gate, Guard, Strength
from saei.interventions.context import StepContext, Supply
from saei.runtime.seeds import GroupSources
from saei.testing.rules import config_of, random_state_untouched, require
from saei.types import CLEAN, Example, Grade, Group, Response, ScoredGroup, View

RIGHT = ((True,) * 4, (True, False, True, False), (False,) * 4)
"""Which responses of each of three groups are right."""


def check_strength(subject: Strategy | StrategyConfig) -> None:
    """Check a strength: a finite factor of 0 or more at every share of the training, whatever is observed.

    It may follow the training and the control probe, never an evaluation, and goes on from its state.

    Raises:
        AssertionError: Naming the rule that is broken.
    """
    config = config_of(subject)
    strength = config.build()
    require(isinstance(strength, Strength), config.type, "the config of a strength builds a Strength")
    with random_state_untouched(config.type):
        factors, state = _steered(strength, {})
    require(all(math.isfinite(f) and f >= 0 for f in factors), config.type, "a strength is finite and not negative")
    for evaluated in ({"eval/accuracy": 0.9, "probe/entropy": 0.05}, {"eval/accuracy": 0.1, "probe/entropy": 2.0}):
        others, other_state = _steered(config.build(), evaluated)
        same = (others, repr(other_state)) == (factors, repr(state))
        require(same, config.type, "a strength reads no evaluation and no outcome probe")
    restored: Strength = config.build()
    restored.load_state_dict(state)
    same = (restored.at(1.0), restored.metrics()) == (strength.at(1.0), strength.metrics())
    require(same, config.type, "a strength restored from its state goes on as it was")


def _steered(strength: Strength, evaluated: Mapping[str, float]) -> tuple[list[float], Mapping[str, Any]]:
    """Return a strength's factors over a training whose entropy falls and rises again, and its last state.

    Args:
        strength: A new strength.
        evaluated: Metrics of the evaluation after each step.
    """
    factors = []
    for step in range(11):
        control = {"control/entropy": 0.1 + 0.02 * (step - 6) ** 2, "control/progress": step / 10}
        strength.observe({**({"train/reward": 0.5} if step else {}), **control, **evaluated})
        factors.append(strength.at(step / 10))
    return factors, strength.state_dict()


def check_gate(subject: Strategy | StrategyConfig) -> None:
    """Check a gate: for each group None or a reason, the same for the same responses.

    Raises:
        AssertionError: Naming the rule that is broken.
    """
    config = config_of(subject)
    require(isinstance(config.build(), Gate), config.type, "the config of a gate builds a Gate")
    view, responses = _drawn()
    views = [replace(view, index=number) for number in range(len(RIGHT))]
    with random_state_untouched(config.type):
        verdicts = [config.build().leave_alone(views, [responses] * len(views), _step(), _supply()) for _ in range(2)]
        of_none = config.build().leave_alone([], [], _step(), _supply())
    require(all(len(each) == len(views) for each in verdicts), config.type, "a gate says something of each group")
    named = all(reason is None or is_a_word(reason) for reason in verdicts[0])
    require(named, config.type, "a gate says None or a reason in a word")
    require(list(verdicts[0]) == list(verdicts[1]), config.type, "the same responses get the same answer")
    require(len(of_none) == 0, config.type, "a process may have no group")


def check_guard(subject: Strategy | StrategyConfig) -> None:
    """Check a guard: for each group the numbers of responses that it drops, each with a reason.

    Raises:
        AssertionError: Naming the rule that is broken.
    """
    config = config_of(subject)
    require(isinstance(config.build(), Guard), config.type, "the config of a guard builds a Guard")
    view, responses = _drawn()
    places = (0,) * len(responses)
    scored = [
        ScoredGroup(Group(view.example, (replace(view, index=number),), responses, places, places), _grades(right))
        for number, right in enumerate(RIGHT)
    ]
    for given in (scored, []):
        with random_state_untouched(config.type):
            dropped = config.build().drop(given, _step(), _supply())
        check_drops(config.type, given, dropped)


def check_drops(name: str, scored: Sequence[ScoredGroup], dropped: Sequence[Mapping[int, str]]) -> None:
    """Check what a guard or sampler drops.

    Raises:
        AssertionError: Naming the rule that is broken.
    """
    require(len(dropped) == len(scored), name, "a guard says something of each group")
    for group, drops in zip(scored, dropped, strict=True):
        valid = all(type(n) is int and 0 <= n < len(group.grades) for n in drops)
        require(valid, name, "a guard drops responses by their numbers")
        require(all(map(is_a_word, drops.values())), name, "a guard gives each drop a reason in a word")


def is_a_word(reason: object) -> bool:
    """Return whether a reason can be a part of a metric's name."""
    return isinstance(reason, str) and re.fullmatch(r"[\w.-]{1,60}", reason) is not None


def _drawn() -> tuple[View, tuple[Response, ...]]:
    view = View(Example("e", "q", "a"), CLEAN, torch.zeros(1, dtype=torch.long), torch.zeros(1, 1, dtype=torch.long))
    ids_T = torch.arange(3)
    return view, tuple(
        Response(ids_T, "x", -torch.ones(3), torch.ones(3), truncated=truncated) for truncated in (False, True) * 2
    )


def _grades(right: tuple[bool, ...]) -> tuple[Grade, ...]:
    return tuple(Grade(float(flag), flag, answer=str(flag)) for flag in right)


def _step() -> StepContext:
    policy: Any = None  # a gate or guard that needs the policy is checked as a part of its sampler
    return StepContext(policy, 0.5, GroupSources(2))


def _supply() -> Supply:
    return Supply(lambda view, responses: _grades(RIGHT[view.index]))
