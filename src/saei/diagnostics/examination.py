"""How the library handles a model: its pixels, their gradient, the shared prefix, and the accuracy of each."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from saei.attacks.base import Point
from saei.attacks.gradient import example_gradients
from saei.errors import ModelError
from saei.policy import Policy
from saei.types import Example, Response, View

TOKENS, COUNTS = 6, (2, 3)
STEPS: Mapping[torch.dtype, tuple[float, ...]] = {
    torch.float64: (3e-4, 1e-4, 3e-5, 1e-5, 3e-6),
    torch.float32: (1.8e-3, 1e-3, 6e-4, 3e-4),
}
"""Steps of finite differences by the model's type, in units of the [0, 1] pixel range. They stay below half of 1/255,
from which a processor that rounds would see another picture."""


@dataclass(frozen=True, slots=True)
class Examination:
    """Measurements of a policy on two examples with one picture each.

    Attributes:
        layout: Shape of the pixel inputs for one picture, and the names of the inputs that go with them.
        canvas: What an attack changes: ``resized`` for the processor's own resized picture, else ``original``.
        rounds: Whether processing rounds the canvas, so that its gradient is a straight-through estimate.
        gradient: Relative deviation of the pixel gradient from finite differences.
        not_shared: Why responses do not continue from their prompt's cache; None if they do.
        deviation: Largest deviation between shared and plain computation: of log-probabilities in nats, and of
            gradients relative to the largest one; None if nothing is shared.
    """

    layout: str
    canvas: str
    rounds: bool
    gradient: float
    not_shared: str | None
    deviation: float | None

    @property
    def cells(self) -> list[str]:
        """The cells of its row in a table, after the name."""
        return [
            self.layout,
            self.canvas,
            "rounds" if self.rounds else "exact",
            f"{self.gradient:.0e}",
            "yes" if self.not_shared is None else f"no: {self.not_shared}",
            "" if self.deviation is None else f"{self.deviation:.0e}",
        ]


def examine(policy: Policy, precision: torch.dtype = torch.float64) -> Examination:
    """Examine how a policy sees pictures and shares prompts.

    Args:
        policy: The policy.
        precision: Type of its weights while gradients are compared: float64, or float32 for a model that would be too
            large in float64.

    Raises:
        ModelError: If no gradient reaches the pixels, or nothing depends on them.
    """
    examples = [
        Example("wide", "What is red?", "", (_picture(90, 130),)),
        Example("tall", "What is red, and how many more than blue?", "", (_picture(70, 33),)),
    ]
    views = [policy.view(example) for example in examples]
    short = policy.sampling.model_copy(update={"max_new_tokens": TOKENS})
    sources = [torch.Generator().manual_seed(number) for number in range(len(views))]
    responses = policy.sample(views, COUNTS, generators=sources, sampling=short)
    (canvas,) = views[0].canvases
    pixels = policy.pixels.map((canvas.shape[-2], canvas.shape[-1]))
    original = canvas.shape[-2:] == (examples[0].images[0].height, examples[0].images[0].width)
    return Examination(
        layout=" + ".join([f"`{list(pixels.shape)}`", *(f"`{name}`" for name in sorted(pixels.extras))]),
        canvas="original" if original else "resized",
        rounds=pixels.rounds,
        gradient=_gradient_deviation(policy, views[0], responses[0], precision),
        not_shared=policy.not_shared,
        deviation=None if policy.not_shared else _shared_deviation(policy, views, responses),
    )


def slope(value: Callable[[float], float], steps: tuple[float, ...] = STEPS[torch.float64]) -> float:
    """Return a derivative at 0 by central differences, for the step whose result agrees best with that of the next.

    Large steps suffer from curvature, small ones from float32, in which some models compute norms and attention
    whatever their type.
    """
    derivatives = [(value(step) - value(-step)) / (2 * step) for step in steps]
    return min(itertools.pairwise(derivatives), key=lambda pair: abs(pair[0] - pair[1]))[1]


@contextmanager
def weights_in(model: Any, precision: torch.dtype) -> Iterator[None]:
    """Convert a model's floating-point tensors to another type inside the context; each gets its old type back.

    The type has to be at least as precise as theirs, so that no value changes.
    """
    tensors = [tensor for tensor in (*model.parameters(), *model.buffers()) if tensor.is_floating_point()]
    before = [tensor.dtype for tensor in tensors]
    try:
        for tensor in tensors:
            tensor.data = tensor.data.to(precision)
        yield
    finally:
        for tensor, dtype in zip(tensors, before, strict=True):
            tensor.data = tensor.data.to(dtype)


def _gradient_deviation(policy: Policy, view: View, responses: list[Response], precision: torch.dtype) -> float:
    """Compare along the signs of the gradient on a random half of the pixels, where the slope is steep."""
    with weights_in(policy.model, precision):
        start = tuple(canvas.to(precision) for canvas in view.canvases)

        def total(point: Point) -> Tensor:
            (scores,) = policy.score([view], [responses], wrt={"pixels": point}, with_entropy=False)
            return scores.logp_NT.sum()[None]

        gradient = example_gradients(total, start, (0,) * len(start))
        if not any(bool(gradient_of_canvas.any()) for gradient_of_canvas in gradient):
            raise ModelError(
                "What a policy says has to depend on the pixels.",
                reason="Their gradient is zero everywhere.",
                remedy="Look for a projector or a gate whose weights are all zero: it lets no picture through.",
            )
        rng = np.random.default_rng(0)
        directions = [g.sign().where(g != 0, 1.0) * torch.from_numpy(rng.random(g.shape) < 0.5).to(g) for g in gradient]
        ours = sum(float((g * direction).sum()) for g, direction in zip(gradient, directions, strict=True))

        def value(step: float) -> float:
            moved = tuple(canvas + step * direction for canvas, direction in zip(start, directions, strict=True))
            return float(total(moved).detach())

        expected = slope(value, STEPS[precision])
        return abs(ours - expected) / abs(expected) if expected else float("inf")


def _shared_deviation(policy: Policy, views: list[View], responses: list[list[Response]]) -> float:
    results = []
    try:
        for shared in (True, False):
            policy.shared_prefix = shared
            point = [canvas.clone().requires_grad_() for view in views for canvas in view.canvases]
            scores = policy.score(views, responses, wrt={"pixels": point}, with_entropy=False)
            logp_M = torch.cat([score.logp_NT.flatten() for score in scores])
            gradient = torch.cat([grad.flatten() for grad in torch.autograd.grad(logp_M.sum(), point)])
            results.append((logp_M.detach(), gradient / gradient.abs().max()))
    finally:
        policy.shared_prefix = True
    return max(float((ours - plain).abs().max()) for ours, plain in zip(*results, strict=True))


def _picture(height: int, width: int) -> Image.Image:
    values = np.random.default_rng(height).integers(64, 192, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)
