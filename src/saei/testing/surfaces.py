"""The contract of surfaces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from saei.config.strategy import Strategy, StrategyConfig
from saei.interventions.base import Surface
from saei.policy import Policy
from saei.testing.rules import config_of, random_state_untouched, require
from saei.testing.slots import is_a_word
from saei.types import Response, View


def check_surface(subject: Strategy | StrategyConfig, policy: Policy, views: Sequence[View]) -> None:
    """Hold a surface to its contract.

    Args:
        subject: The surface or its config.
        policy: A small policy in float32.
        views: A few of its clean views, some of which lack the surface, and one of which has it.

    Raises:
        AssertionError: Naming the rule that is broken.
    """
    config = config_of(subject)
    surface, name = config.build(), config.type
    require(isinstance(surface, Surface), name, "the config of a surface builds a Surface")
    reasons = [surface.lacks(view) for view in views]
    require(all(reason is None or is_a_word(reason) for reason in reasons), name, "it says None or a reason in a word")
    require(None in reasons, name, "some view has the surface")
    with random_state_untouched(name):
        opening = surface.open(policy, views, scale=0.5)
    sizes = {len(opening.blocks), len(opening.spaces), len(opening.examples)}
    require(len(sizes) == 1, name, "each block has a space and an example")
    require(list(opening.examples) == sorted(opening.examples), name, "blocks stand in the order of the views")
    having = {number for number, reason in enumerate(reasons) if reason is None}
    require(set(opening.examples) == having, name, "a view has blocks exactly if it has the surface")
    named = all(space.name == surface.space and space.scale == 0.5 for space in opening.spaces)
    require(named, name, "each block is in the surface's space, with the scale that was asked for")
    _check_start(surface, policy, views)
    for block, space in zip(opening.blocks, opening.spaces, strict=True):
        bounded = bool(((block >= space.low) & (block <= space.high)).all())
        require(bounded, name, "a view's own blocks are within their bounds")


def _check_start(surface: Surface, policy: Policy, views: Sequence[View]) -> None:
    """Check that at the blocks it opens, no view is changed yet."""
    name = surface.name()
    opening = surface.open(policy, views, scale=1.0)
    with_surface = [view for view in views if surface.lacks(view) is None]
    for view, moved_view in zip(with_surface, surface.moved(policy, with_surface, opening.blocks), strict=True):
        same_example = view.example is moved_view.example and view.index == moved_view.index
        require(same_example and view.origin == moved_view.origin, name, "moving keeps example, index and origin")
        tensors = [(view.prompt_ids_P, moved_view.prompt_ids_P), *zip(view.canvases, moved_view.canvases, strict=True)]
        require(all(torch.equal(a, b) for a, b in tensors), name, "views moved to where they are stay as they are")
    ids = policy.eos_ids[:1]
    zero = torch.zeros(1, device=policy.device)
    response = Response(ids, "", zero, zero, truncated=False)
    having = [replace(view) for view in views if surface.lacks(view) is None]
    opened = surface.open(policy, having, scale=1.0)
    at, wrt = surface.at(having, opened.blocks)
    moved = policy.score(at, [[response]] * len(having), wrt=wrt or None, with_entropy=False)
    clean = policy.score(having, [[response]] * len(having), with_entropy=False)
    near = all(torch.allclose(a.logp_NT, b.logp_NT, atol=1e-4) for a, b in zip(moved, clean, strict=True))
    require(near, name, "the policy scores views at their own blocks as it scores the views")
    for number in range(len(having)):
        places = [place for place, example in enumerate(opened.examples) if example == number]
        blocks = [opened.blocks[place] for place in places]
        distance = surface.distance(blocks, blocks, [opened.spaces[place] for place in places])
        require(distance.share == 0 and distance.largest == 0, name, "what has not moved is at distance 0")
