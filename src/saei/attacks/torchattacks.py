"""The gradient attacks of the package torchattacks, on a criterion instead of a classifier."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fractions import Fraction
from typing import Any, Literal, Self

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from saei.attacks.ball import project, snap
from saei.attacks.base import Attack, BlockSpace, Point, PointCriterion, Space, check_lengths
from saei.attacks.gradient import example_gradients
from saei.config.strategy import Frac, StrategyConfig
from saei.errors import ConfigError, nearest

_SIGN: dict[str, Any] = {"eps": Fraction(8, 255), "alpha": Fraction(2, 255), "steps": 10}
_MOMENTUM = _SIGN | {"decay": Fraction(1)}
_VARIANCE = _MOMENTUM | {"N": 5, "beta": Fraction(3, 2)}

ALLOWED: Mapping[str, Mapping[str, Any]] = {
    "BIM": _SIGN,
    "FFGSM": {"eps": Fraction(8, 255), "alpha": Fraction(10, 255)},
    "FGSM": {"eps": Fraction(8, 255)},
    "MIFGSM": _MOMENTUM,
    "NIFGSM": _MOMENTUM,
    "PGD": _SIGN | {"random_start": True},
    "PGDL2": {"eps": Fraction(1), "alpha": Fraction(1, 5), "steps": 10, "random_start": True},
    "RFGSM": _SIGN,
    "SINIFGSM": _MOMENTUM | {"m": 5},
    "UPGD": _MOMENTUM | {"random_start": False},
    "VMIFGSM": _VARIANCE,
    "VNIFGSM": _VARIANCE,
}
"""The attacks that follow the gradient of the cross-entropy and nothing else; their fields and defaults."""

_DECISION = "it works on the decision of a classifier, and a criterion decides nothing"
_NEIGHBOURS = "it works on the neighbours of a pixel in one picture, and an example may have several"
_OWN_LOSS = "it follows a loss of its own and not the criterion"
_SMOOTHED = "it averages probabilities over noisy copies, and a criterion has none"
_SQUARE = "it makes pictures square, and a policy's may have any shape"
_UNGUIDED = "it asks no criterion; `noise` has random perturbations"
_WRAPPER = "it is not an attack by itself"

REFUSED: Mapping[str, str] = {
    **dict.fromkeys(("APGD", "APGDT", "AutoAttack", "CW", "DeepFool", "EADEN", "EADL1", "FAB"), _DECISION),
    **dict.fromkeys(("JSMA", "OnePixel", "Pixle", "SparseFool", "Square"), _DECISION),
    **dict.fromkeys(("PIFGSM", "PIFGSMPP"), _NEIGHBOURS),
    **dict.fromkeys(("Jitter", "SPSA", "TPGD"), _OWN_LOSS),
    **dict.fromkeys(("PGDRS", "PGDRSL2"), _SMOOTHED),
    **dict.fromkeys(("DIFGSM", "TIFGSM"), _SQUARE),
    **dict.fromkeys(("GN", "VANILA"), _UNGUIDED),
    **dict.fromkeys(("LGV", "MultiAttack"), _WRAPPER),
    "EOTPGD": "it averages over a model's randomness, and a policy has none: it is PGD at a multiple of its cost",
}
"""The other attacks of torchattacks, and why each cannot serve. Several would return the image without a word."""


class Torchattacks(Attack):
    """An attack of torchattacks (arXiv 2010.01950), such as ``MIFGSM``, that raises the criterion.

    What torchattacks takes for a classifier is the criterion's linear approximation around the image that it asks
    about, so that the gradient it finds is exactly that of the criterion, whatever the criterion's size or sign. Asked
    is always about a picture: within the bounds, and on the grid where there is one, as in saei's own attacks, with
    which its PGD agrees to the bit. Each example is attacked by itself; its blocks are one image to torchattacks. An
    example whose gradient vanishes stays as it is.
    """

    spaces = frozenset({"pixels"})
    jointly = False

    class Config(StrategyConfig):
        """Fields, named as torchattacks names them; null is its default, and an attack refuses what it has not.

        Attributes:
            name: ``BIM``, ``FFGSM``, ``FGSM``, ``MIFGSM``, ``NIFGSM``, ``PGD``, ``PGDL2``, ``RFGSM``, ``SINIFGSM``,
                ``UPGD``, ``VMIFGSM`` or ``VNIFGSM``.
            eps: Radius of the ball, in units of the [0, 1] pixel range.
            alpha: Length of a step, likewise.
            steps: Number of steps; 0 leaves the image as it is.
            decay: Share of the momentum that is kept from step to step.
            random_start: Begin at a random point of the ball.
            N: Neighbours from which the variance of the gradient is estimated.
            beta: Reach of these neighbours, in units of ``eps``.
            m: Scaled copies of the image over which the gradient is averaged.
            direction: Raise the criterion, or lower it as a control.
        """

        type: Literal["torchattacks"] = "torchattacks"
        name: str
        eps: Frac | None = Field(default=None, ge=0, le=10_000)
        alpha: Frac | None = Field(default=None, ge=0, le=10_000)
        steps: int | None = Field(default=None, ge=0, le=1000)
        decay: Frac | None = Field(default=None, ge=0, le=10)
        random_start: bool | None = None
        N: int | None = Field(default=None, ge=1, le=1000)
        beta: Frac | None = Field(default=None, ge=0, le=100)
        m: int | None = Field(default=None, ge=1, le=100)
        direction: Literal["raise", "lower"] = "raise"

        @field_validator("name")
        @classmethod
        def _can_serve(cls, name: str) -> str:
            if name in REFUSED:
                raise ValueError(
                    f"torchattacks' {name} cannot serve: {REFUSED[name]}. Those that can: {', '.join(ALLOWED)}."
                )
            if name not in ALLOWED:
                raise ValueError(f"'{name}' is not an attack of torchattacks. {nearest(name.upper(), ALLOWED)}")
            return name

        @model_validator(mode="after")
        def _has_fields(self) -> Self:
            defaults = ALLOWED[self.name]
            if self.name != "PGDL2":  # whose ball is an l2 one: its radius grows with the picture
                check_lengths("pixel", eps=self.eps, alpha=self.alpha)
            fields = type(self).model_fields.keys() - {"type", "name", "direction"}
            given = {name for name in fields if getattr(self, name) is not None}
            unknown = sorted(given - defaults.keys() - ({"steps"} if self.steps == 0 else set()))
            if unknown:
                raise ValueError(f"torchattacks' {self.name} has {', '.join(defaults)}, and no {', '.join(unknown)}.")
            return self

        def arguments(self) -> dict[str, Any]:
            """Return the attack's fields with torchattacks' defaults filled in."""
            defaults = ALLOWED[self.name]
            return {
                name: default if getattr(self, name) is None else getattr(self, name)
                for name, default in defaults.items()
            }

        @property
        def begins_at_clean(self) -> bool:
            """Whether the first gradient is that at the image; FFGSM and RFGSM always begin at random."""
            return self.name not in ("FFGSM", "RFGSM") and not self.arguments().get("random_start")

    config: Config

    def __init__(self, config: StrategyConfig | None = None) -> None:
        super().__init__(config)
        try:
            import torchattacks
        except ImportError as error:
            raise ConfigError(
                "The attack 'torchattacks' needs the package of that name.",
                reason=f"It does not import: {error}.",
                remedy="pip install 'saei[torchattacks]'; where its requirements do not fit your environment, "
                "pip install --no-deps 'torchattacks>=3.5.1', and scipy.",
            ) from error
        self._attack = getattr(torchattacks, self.config.name)
        self.ball = "l2" if self.config.name == "PGDL2" else "linf"

    def radius(self, block: BlockSpace) -> Tensor | float:
        """Return ``eps`` in the block's coordinates."""
        return block.length(self.config.arguments()["eps"], "pixel")

    def attack(
        self,
        criterion: PointCriterion,
        start: Point,
        *,
        space: Space,
        progress: float,
        generators: Sequence[torch.Generator],
    ) -> Point:
        """Return the moved point.

        Raises:
            ModelError: If the criterion has no gradient with respect to any block.
        """
        moved = [block.detach().clone() for block in start]
        if self.config.steps == 0:
            return tuple(moved)
        for example in sorted(set(space.examples)):
            numbers = [number for number, other in enumerate(space.examples) if other == example]
            blocks = self._example(numbers, criterion, start, space, generators[example])
            for number, block in zip(numbers, blocks, strict=True):
                moved[number] = block
        return tuple(moved)

    def _example(
        self, numbers: Sequence[int], criterion: PointCriterion, start: Point, space: Space, generator: torch.Generator
    ) -> Sequence[Tensor]:
        """Return the moved blocks of one example, the others being where they start."""
        blocks = [start[number].detach() for number in numbers]
        spaces = [space.blocks[number] for number in numbers]
        scale = spaces[0].scale
        if scale == 0:
            return blocks

        def seen(image: Tensor) -> list[Tensor]:
            """Return the picture next to an image that may lie off the grid and the bounds, as blocks."""
            parts = image.flatten().split([block.numel() for block in blocks])
            return [
                snap(project(part.view(x.shape).to(x), x, None, s), x, self.radius(s), s, self.ball)
                for part, x, s in zip(parts, blocks, spaces, strict=True)
            ]

        def gradient(image: Tensor) -> Tensor:
            if not bool(image.isfinite().all()):  # momentum divides a gradient by its size, and looks ahead by NaN
                return torch.zeros_like(image)
            point = list(start)
            for number, block in zip(numbers, seen(image), strict=True):
                point[number] = block
            gradients = example_gradients(criterion, tuple(point), space.examples)
            return _joined([_editable(gradients[number], space.blocks[number]) for number in numbers])

        attack = self._attack(_Linear(gradient), **self._arguments(scale))
        if self.config.direction == "lower":
            attack.set_mode_targeted_by_label(quiet=True)
        with torch.enable_grad(), _global_draws_from(generator):
            image = attack(_joined(blocks), torch.zeros(1, dtype=torch.int64)).detach()
        return seen(image)

    def _arguments(self, scale: float) -> dict[str, Any]:
        values = self.config.arguments()
        lengths = {name: float(values[name]) * scale for name in ("eps", "alpha") if name in values}
        return {name: float(x) if isinstance(x, Fraction) else x for name, x in values.items()} | lengths


class _Linear(nn.Module):
    """A classifier with two logits whose cross-entropy for label 0 has a given gradient at each image.

    The logits are ``[0, 2 (s - s₀)]``, s the product of image and gradient and s₀ its value: always [0, 0], where the
    softmax is a half, so that the factors cancel. Attacks that read no more than the gradient cannot tell the
    difference to the criterion.
    """

    def __init__(self, gradient: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self._gradient = gradient
        self.place = nn.Parameter(torch.empty(0), requires_grad=False)  # where torchattacks reads its device off

    def forward(self, image: Tensor) -> Tensor:
        """Return ``[1, 2]`` logits of an image ``[1, 1, 1, values]``."""
        s = (image * self._gradient(image.detach())).sum()
        return torch.stack([torch.zeros_like(s), 2 * (s - s.detach())])[None]


def _joined(blocks: Sequence[Tensor]) -> Tensor:
    """Return an example's blocks as one image on the CPU, where torchattacks' arithmetic and randomness take place."""
    return torch.cat([block.flatten().cpu() for block in blocks])[None, None, None]


def _editable(gradient: Tensor, space: BlockSpace) -> Tensor:
    return gradient if space.editable is None else gradient * space.editable


@contextmanager
def _global_draws_from(generator: torch.Generator) -> Iterator[None]:
    """Let torch's global CPU generator go on where another one is, and that one where the global one ends."""
    before = torch.get_rng_state()
    torch.set_rng_state(generator.get_state())
    try:
        yield
    finally:
        generator.set_state(torch.get_rng_state())
        torch.set_rng_state(before)
