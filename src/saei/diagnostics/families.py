"""What the library makes of a model: its pixels, their gradient, the shared prefix, and how exact each is."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from saei.config import SamplingConfig
from saei.data.templates import ThinkBoxed
from saei.diagnostics.tiny import tiny_parts
from saei.diagnostics.zoo import FAMILIES
from saei.policy import Policy
from saei.types import Example, Response, View

TOKENS, COUNTS = 6, (2, 3)
_STEPS = (3e-4, 1e-4, 3e-5, 1e-5, 3e-6)
"""Steps of finite differences, in units of the [0, 1] pixel range."""


@dataclass(frozen=True, slots=True)
class Examination:
    """What was found out about a policy on two examples with one picture each.

    Attributes:
        layout: Shape of its pixel inputs for one picture, and the names of what goes with them.
        canvas: What an attack changes: ``resized`` if it is the processor's own resized picture, else ``original``.
        rounds: Whether the way from the canvas to the model rounds, so that its gradient is a straight-through one.
        gradient: Relative deviation of the pixel gradient from finite differences.
        not_shared: Why responses do not go on from their prompt's cache, None if they do.
        deviation: Largest deviation of the shared from the plain way: of log-probabilities in nats, and of gradients
            relative to the largest; None if there is no shared one.
    """

    layout: str
    canvas: str
    rounds: bool
    gradient: float
    not_shared: str | None
    deviation: float | None

    @property
    def cells(self) -> list[str]:
        """The cells of its row in a table, behind the name."""
        return [
            self.layout,
            self.canvas,
            "rounds" if self.rounds else "exact",
            f"{self.gradient:.0e}",
            "yes" if self.not_shared is None else f"no: {self.not_shared}",
            "" if self.deviation is None else f"{self.deviation:.0e}",
        ]


def examine(policy: Policy) -> Examination:
    """Find out how a policy sees and shares; its model is float64 for a moment, so it should be a small one."""
    examples = [
        Example("wide", "What is red?", "", (_picture(90, 130),)),
        Example("tall", "What is red, and how many more than blue?", "", (_picture(70, 33),)),
    ]
    views = [policy.view(example) for example in examples]
    with policy.open(views) as prefix:
        responses = prefix.sample(COUNTS, generator=torch.Generator().manual_seed(0))
    (canvas,) = views[0].canvases
    pixels = policy.pixels.map((canvas.shape[-2], canvas.shape[-1]))
    original = canvas.shape[-2:] == (examples[0].images[0].height, examples[0].images[0].width)
    return Examination(
        layout=" + ".join([f"`{list(pixels.shape)}`", *(f"`{name}`" for name in sorted(pixels.extras))]),
        canvas="original" if original else "resized",
        rounds=pixels.rounds,
        gradient=_gradient_deviation(policy, views[0], responses[0]),
        not_shared=policy.not_shared,
        deviation=None if policy.not_shared else _shared_deviation(policy, views, responses),
    )


def examine_families() -> Iterator[tuple[str, Examination | None]]:
    """Examine a tiny policy of each family; None where its processor needs a package that is missing."""
    for name, family in FAMILIES.items():
        if family.missing:
            yield name, None
        else:
            policy = Policy(tiny_parts(family), ThinkBoxed(), sampling=SamplingConfig(max_new_tokens=TOKENS))
            yield name, examine(policy)


def family_table() -> str:
    """Return the table of families in Markdown."""
    lines = [
        "| family | pixel inputs of one picture | canvas | its way | gradient off by | shared prefix | off by |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, found in examine_families():
        cells = [f"needs {', '.join(FAMILIES[name].missing)}", *[""] * 5] if found is None else found.cells
        lines.append(f"| {' | '.join([name, *cells])} |")
    return "\n".join(lines)


def slope(value: Callable[[float], float]) -> float:
    """Return a derivative at 0 by central differences, of several steps the one that the next agrees with best.

    Large steps feel the curvature, small ones the float32 in which some models norm and attend whatever their type.
    """
    found = [(value(step) - value(-step)) / (2 * step) for step in _STEPS]
    return min(itertools.pairwise(found), key=lambda pair: abs(pair[0] - pair[1]))[1]


def _gradient_deviation(policy: Policy, view: View, responses: list[Response]) -> float:
    """Compare along the gradient's own signs on a random half of the pixels, where its size is felt most."""
    before = policy.model.dtype
    policy.model.double()
    try:
        start = [canvas.double() for canvas in view.canvases]

        def total(point: list[Tensor]) -> Tensor:
            with policy.open([view], grad="pixels", pixels=point) as prefix:
                return prefix.score([responses], with_entropy=False)[0].logp_NT.sum()

        point = [canvas.clone().requires_grad_() for canvas in start]
        gradient = torch.autograd.grad(total(point), point)
        rng = np.random.default_rng(0)
        along = [g.sign().where(g != 0, 1.0) * torch.from_numpy(rng.random(g.shape) < 0.5).to(g) for g in gradient]
        ours = sum(float((g * direction).sum()) for g, direction in zip(gradient, along, strict=True))

        def value(step: float) -> float:
            moved = [canvas + step * direction for canvas, direction in zip(start, along, strict=True)]
            return float(total(moved).detach())

        expected = slope(value)
        return abs(ours - expected) / abs(expected)
    finally:
        policy.model.to(before)


def _shared_deviation(policy: Policy, views: list[View], responses: list[list[Response]]) -> float:
    found = []
    try:
        for shared in (True, False):
            policy.shared_prefix = shared
            point = [canvas.clone().requires_grad_() for view in views for canvas in view.canvases]
            with policy.open(views, grad="pixels", pixels=point) as prefix:
                logp_M = torch.cat([own.logp_NT.flatten() for own in prefix.score(responses, with_entropy=False)])
            gradient = torch.cat([own.flatten() for own in torch.autograd.grad(logp_M.sum(), point)])
            found.append((logp_M.detach(), gradient / gradient.abs().max()))
    finally:
        policy.shared_prefix = True
    return max(float((ours - plain).abs().max()) for ours, plain in zip(*found, strict=True))


def _picture(height: int, width: int) -> Image.Image:
    values = np.random.default_rng(height).integers(64, 192, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


if __name__ == "__main__":
    print(family_table())
