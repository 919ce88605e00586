"""The contract of controls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from saei.attacks.base import Point
from saei.config.strategy import Strategy, StrategyConfig
from saei.interventions.context import StepContext, Supply
from saei.interventions.control import Change, Control, Substitute
from saei.interventions.point import OpenViews
from saei.interventions.surfaces import Pixels
from saei.policy import Policy
from saei.runtime.seeds import GroupSources
from saei.testing.rules import config_of, random_state_untouched, require
from saei.testing.slots import is_a_word
from saei.types import Grade, Response, View


def check_control(
    subject: Strategy | StrategyConfig,
    policy: Policy,
    views: Sequence[View],
) -> None:
    """Hold a control to its contract, on changes of pixels.

    Args:
        subject: The control or its config.
        policy: A small policy in float32.
        views: Its clean views, two or more of them with pictures; the others have nothing that could be changed.

    Raises:
        AssertionError: Naming the rule that is broken.
    """
    config = config_of(subject)
    control, name = config.build(), config.type
    require(isinstance(control, Control), name, "the config of a control builds a Control")
    require(bool(control.spaces), name, "it changes blocks of some space")
    require(all(map(is_a_word, control.reasons)), name, "its reasons are words")
    require("pixels" in control.spaces, name, "this suite has changes of pixels, and the control takes them")
    views = [replace(view, index=number) for number, view in enumerate(views) if view.canvases]
    assert len(views) > 1, "A control is checked on two views with pictures or more."
    drawn = StepContext(policy, 0.5, GroupSources(1)).sample(views, [2] * len(views))
    changes = [_change(policy, view, responses) for view, responses in zip(views, drawn, strict=True)]
    before = [[block.clone() for block in (*change.opened.start, *change.point)] for change in changes]
    with random_state_untouched(name):
        substitutes = _ask(config, policy, changes)
    after = [[*change.opened.start, *change.point] for change in changes]
    untouched = all(all(map(torch.equal, old, new)) for old, new in zip(before, after, strict=True))
    require(untouched, name, "views and changes are left as they were")
    require(len(substitutes) == len(changes), name, "each change has its substitute")
    for change, substitute in zip(changes, substitutes, strict=True):
        _check_substitute(control, change, substitute)
    again = _ask(config, policy, changes)
    same = all(map(_same, substitutes, again))
    require(same, name, "the same changes get the same substitutes")
    other_order = _ask(config, policy, changes[::-1])[::-1]
    require(all(map(_same, substitutes, other_order)), name, "the order of the groups does not matter")
    require(len(_ask(config, policy, [])) == 0, name, "a process may have no group")
    if not control.needs_supply:
        alone = [_ask(config, policy, [change])[0] for change in changes]
        require(all(map(_same, substitutes, alone)), name, "what asks no supply treats each group by itself")
    still = [replace(change, point=change.opened.start) for change in changes]
    moved = [substitute.point for substitute in _ask(config, policy, still)]
    stays = all(all(map(torch.equal, point, change.opened.start)) for point, change in zip(moved, still, strict=True))
    require(stays, name, "where no attack moved anything, nothing moves")


def _change(policy: Policy, view: View, responses: Sequence[Response]) -> Change:
    """Return a change by one grid step in some of the pixels."""
    opened = OpenViews([Pixels()], policy, [view], scale=1.0)
    generator = torch.Generator().manual_seed(view.index)
    signs = [torch.randint(-1, 2, start.shape, generator=generator).to(start) * 2 / 255 for start in opened.start]
    still = Change(opened, opened.start, responses)
    return replace(still, point=still.after(signs))


def _ask(config: StrategyConfig, policy: Policy, changes: Sequence[Change]) -> Sequence[Substitute]:
    control: Control = config.build()
    step = StepContext(policy, 0.5, GroupSources(2))
    return control.substitutes(list(changes), step, Supply(_no_grades))


def _no_grades(view: View, responses: Sequence[Response]) -> Sequence[Grade]:
    raise AssertionError("A control has no use for grades.")


def _check_substitute(control: Control, change: Change, substitute: Substitute) -> None:
    name = control.name()
    if substitute.untouched is not None:
        require(substitute.untouched in control.reasons, name, "it leaves groups alone for one of its reasons")
        return
    start: Point = change.opened.start
    require(len(substitute.point) == len(start), name, "a substitute has the view's blocks")
    for block, origin, space in zip(substitute.point, start, change.opened.space.blocks, strict=True):
        same = block.shape == origin.shape and block.dtype == origin.dtype
        require(same and not block.requires_grad, name, "a substitute has the view's shapes and types, detached")
        inside = bool((block.isfinite() & (block >= space.low) & (block <= space.high)).all())
        require(inside, name, "a substitute is finite and inside the bounds")
        if space.grid is not None:
            off = float((block / space.grid - (block / space.grid).round()).abs().max())
            require(off <= 1e-3, name, "a substitute is on the grid")
    require(all(map(_is_number, substitute.metrics.values())), name, "its metrics are finite numbers")


def _is_number(value: object) -> bool:
    return isinstance(value, float) and value - value == 0


def _same(left: Substitute, right: Substitute) -> bool:
    return left.untouched == right.untouched and all(map(torch.equal, left.point, right.point))
