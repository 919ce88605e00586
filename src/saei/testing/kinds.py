"""The contract of any strategy, by its kind; what a contract needs of a policy comes from the built-in model."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch

from saei.config.sections import ModelConfig, SamplingConfig
from saei.config.strategy import Strategy, StrategyConfig
from saei.data.bars import Bars
from saei.data.templates import ThinkBoxed
from saei.policy import Policy
from saei.testing.rules import config_of
from saei.types import Example, Response, View

TOKENS = 12
"""Longest response of the policy that strategies are checked with."""


def check_strategy(subject: Strategy | StrategyConfig) -> None:
    """Hold a strategy of any kind to the contract of its kind.

    A sampler, a surface, a control, a decoder and a statistic of tokens are checked with the built-in model, on two
    views with a picture and one without.

    Args:
        subject: The strategy or its config.

    Raises:
        AssertionError: Naming the strategy and the rule that is broken.
    """
    config = config_of(subject)
    check = contract_of(config.strategy.kind)
    assert check is not None, f"{config.type}: there is no contract of the kind '{config.strategy.kind}'."
    names = set(inspect.signature(check).parameters)
    given: dict[str, Any] = {}
    if names & {"policy", "views", "responses"}:
        policy, views = builtin_policy(), builtin_views()
        given = {"policy": policy, "views": views}
        if "responses" in names:
            given["responses"] = _responses(policy, views)
    check(subject, **{name: value for name, value in given.items() if name in names})


def contract_of(kind: str) -> Callable[..., None] | None:
    """Return the check of a kind of strategies, None if the suite has none."""
    check: Callable[..., None] | None = getattr(importlib.import_module("saei.testing"), f"check_{kind}", None)
    return check


@lru_cache(maxsize=1)
def builtin_policy() -> Policy:
    """Return the built-in model as a policy, the same object each time."""
    return Policy.load(ModelConfig(), ThinkBoxed(), sampling=SamplingConfig(max_new_tokens=TOKENS))


def builtin_views() -> list[View]:
    """Return clean views of the built-in policy: two of the task ``bars``, and one of a question without a picture."""
    policy, bars = builtin_policy(), Bars()
    examples = [bars.example(0), bars.example(1), Example("text", "What is 1 + 2?", "3")]
    return [policy.view(example, index=number) for number, example in enumerate(examples)]


@torch.no_grad()
def _responses(policy: Policy, views: Sequence[View]) -> Sequence[Response]:
    generators = [torch.Generator().manual_seed(number) for number in range(len(views))]
    drawn = policy.sample(views, [2] * len(views), generators=generators)
    return [response for responses in drawn for response in responses]
