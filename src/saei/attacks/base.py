"""The attack seam: moving a point inside a ball to change a criterion. An attack never sees a model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import ClassVar, Literal, Protocol, TypeAlias, TypeVar

import torch
from torch import Tensor

from saei.config.strategy import Strategy
from saei.errors import ConfigError
from saei.types import ADVERSARIAL

T = TypeVar("T")

Point: TypeAlias = tuple[Tensor, ...]
"""Blocks, each one tensor of one example: ``[C, H, W]`` pixels, ``[Q, d]`` embedding offsets or int64 ``[Q]`` ids."""

Ball: TypeAlias = Literal["linf", "l2", "none"]

StepSpace: TypeAlias = Literal["pixel", "normalised", "rms", "distance", "neftune"]
"""What steps and radii are counted in: a key of ``BlockSpace.units``."""

LONGEST: Mapping[StepSpace, int] = {"pixel": 1, "normalised": 20, "rms": 1000, "distance": 1000, "neftune": 1000}
"""Longest sensible step and radius. The pixel range is 1; a model divides it by .05 at the least."""


class PointCriterion(Protocol):
    """Maps a point to ``J_B``, one differentiable value per example."""

    def __call__(self, point: Point, /, *, offsets: Mapping[int, Tensor] = ...) -> Tensor:
        """Return ``J_B``.

        Args:
            point: The blocks.
            offsets: For blocks of ids, by their number, what is added to their embeddings, ``[Q, d]``: ids have no
                gradient, these have. Only attacks in the space ``tokens`` give them.
        """


@dataclass(frozen=True, eq=False, slots=True)
class TokenSpace:
    """Which tokens a text may have.

    Attributes:
        size: Features of an embedding.
        scores: From float32 ``[Q, d]`` to its products with the embeddings of all tokens, ``[Q, V]``; the table itself
            is large, and never wanted whole.
        kind_V: int64, tokens that may stand for each other have the same number, such as those that begin a word; -1
            for those that are never taken.
        legal: Tells of int64 ``[Q]`` whether decoding these tokens and encoding the text gives them again, and whether
            the text is one that may be asked.
    """

    size: int
    scores: Callable[[Tensor], Tensor]
    kind_V: Tensor
    legal: Callable[[Tensor], bool]


@dataclass(frozen=True, eq=False, slots=True)
class BlockSpace:
    """Where one block may go.

    Attributes:
        name: Of the space: ``pixels``, ``embeddings``, ``tokens``; attacks declare which they can serve.
        low: Smallest legal value, a number or a tensor that broadcasts to the block.
        high: Largest legal value.
        units: Size of one unit of step and radius in the block's coordinates, by ``step_space``:
            ``pixel`` is the [0, 1] range itself, ``normalised`` the model's per-channel standard deviation; those of
            embeddings are told by the surface ``embeddings``.
        scale: Factor on every step and radius, the intervention's strength.
        grid: Spacing of legal values, None for a continuous block; 1/255 for 8-bit pixels.
        editable: bool tensor that broadcasts to the block, None where everything may move.
        redraw: Applies a change to the picture that the block was made from, float32 ``[C, h, w]`` on the 8-bit grid
            at its own resolution, and returns the block that the changed picture makes; None where there is none.
        tokens: Of a block of ids which they may be.
    """

    name: str = "pixels"
    low: float | Tensor = 0.0
    high: float | Tensor = 1.0
    units: Mapping[str, float | Tensor] = field(default_factory=lambda: {"pixel": 1.0})
    scale: float = 1.0
    grid: float | None = None
    editable: Tensor | None = None
    redraw: Callable[[Callable[[Tensor], Tensor]], Tensor] | None = None
    tokens: TokenSpace | None = None

    def length(self, value: Fraction, unit: str) -> float | Tensor:
        """Return a step or radius in the block's coordinates, the strength included.

        Raises:
            ConfigError: If the block has no unit of that name.
        """
        if unit not in self.units:
            raise ConfigError(
                f"Steps and radii in '{unit}' units need a block that has them.",
                reason=f"This block has {', '.join(sorted(self.units))}.",
                remedy="Set the attack's step_space to one of these.",
            )
        return float(value) * self.units[unit] * self.scale


@dataclass(frozen=True, eq=False, slots=True)
class Space:
    """The spaces of a point's blocks.

    Attributes:
        blocks: One per block of the point, of one name or of several.
        examples: For each block the index in ``J_B`` of the example that it belongs to.
    """

    blocks: tuple[BlockSpace, ...]
    examples: tuple[int, ...]


def with_others_at(items: Sequence[T], numbers: Sequence[int], others: Sequence[T]) -> tuple[T, ...]:
    """Return items, such as the blocks of a point, with others in the places of these numbers."""
    by_number = dict(zip(numbers, others, strict=True))
    return tuple(by_number.get(number, item) for number, item in enumerate(items))


def check_lengths(step_space: StepSpace, **lengths: Fraction | None) -> None:
    """Check that steps and radii stay within a sensible range, for validators of configs.

    Raises:
        ValueError: If one does not.
    """
    for name, length in lengths.items():
        if length is not None and length > LONGEST[step_space]:
            most = f"{LONGEST[step_space]} in {step_space} units"
            if step_space in ("pixel", "normalised"):
                raise ValueError(
                    f"A {name} of {length} leaves the range of all pictures, which is {most}. Steps are fractions of "
                    "it, such as 2/255"
                )
            raise ValueError(f"A {name} of {length} is longer than any sensible one, which is {most}")


class Attack(Strategy, ABC):
    """Moves a point.

    To add one: derive, nest a ``Config``, declare ``spaces`` and ``ball``, implement ``attack``. The contract
    suite then holds it to its declaration: inside the ball and the bounds, on the grid, independent per example in
    what it does and draws, the identity for zero steps, no trace left on the model behind the criterion.
    """

    kind: ClassVar[str] = "attack"
    # Set on the class, or on the instance where the configuration decides.
    spaces: frozenset[str]
    """Names of the spaces that the attack can move in: ``pixels``, ``embeddings``, ``tokens``."""
    moves: tuple[str, ...] = ("pixels",)
    """Names of the surfaces that it moves unless ``intervention.surfaces`` names others."""
    origin: str = ADVERSARIAL
    """Origin of the views that the attack makes."""
    jointly: bool = True
    """Whether a call of the criterion serves all examples. If not, the intervention attacks one group at a time."""
    ball: Ball = "linf"
    """The ball that the result lies in, around the start; ``none`` where what it moves has no distance to keep."""

    @property
    def lowers(self) -> bool:
        """Whether the attack lowers the criterion, as its config's ``direction`` says, if it has one."""
        return bool(getattr(self.config, "direction", "raise") == "lower")

    @abstractmethod
    def attack(
        self,
        criterion: PointCriterion,
        start: Point,
        *,
        space: Space,
        progress: float,
        generators: Sequence[torch.Generator],
    ) -> Point:
        """Return the moved point, detached, with blocks of the start's shapes and dtypes.

        Args:
            criterion: What to raise (or lower); called with blocks that may require a gradient.
            start: The clean point; never written to.
            space: Bounds, units, grid and editable masks of the blocks.
            progress: Share of the training done, in [0, 1].
            generators: Sources of all randomness, on the CPU: one for each example, by its index in ``J_B``. What is
                drawn for a block comes from its example's, in the order of the blocks.
        """

    def radius(self, block: BlockSpace) -> Tensor | float | None:
        """Return the radius of the ball around a block's start in the block's coordinates, None if unbounded."""
        return None
