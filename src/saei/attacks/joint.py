"""Several surfaces moved in one attack, such as a picture and the text of its question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from saei.attacks.base import Attack, BlockSpace, Point, PointCriterion, Space, with_others_at
from saei.config.registry import AttackField
from saei.config.strategy import Strategy, StrategyConfig
from saei.errors import ConfigError


class Joint(Attack):
    """One attack for each kind of surface, one after the other; each sees what those before it have moved.

    Every block stays in the ball of its own attack. VILLA (arXiv 2006.06195) moves either the picture or the text in a
    pass; both in one are ours.
    """

    class Config(StrategyConfig):
        """Fields.

        Attributes:
            of: For each space, such as ``pixels``, the attack that moves its surfaces, in this order.
        """

        type: Literal["joint"] = "joint"
        of: Mapping[str, AttackField] = Field(
            default={"pixels": "pgd", "embeddings": "text-pgd"},  # type: ignore[dict-item]  # resolved by the validator
            min_length=1,
            max_length=8,
        )

    config: Config

    def __init__(self, config: StrategyConfig | None = None) -> None:
        super().__init__(config)
        self._attacks: dict[str, Attack] = {space: attack.build() for space, attack in self.config.of.items()}
        for space, attack in self._attacks.items():
            if space not in attack.spaces:
                raise ConfigError(
                    "Each space of a joint attack has an attack that is made for it.",
                    reason=f"'{attack.name()}' moves in {', '.join(sorted(attack.spaces))}, not {space}.",
                    remedy="Choose another attack for it; `saei list attack` has them.",
                )
        if "wording" in self._attacks and list(self._attacks)[-1] != "wording":
            raise ConfigError(
                "In a joint attack a new wording comes last.",
                reason="It is drawn without a look at the policy, and an attack after it would see the old question.",
                remedy="Put wording behind the others.",
            )
        self.spaces = frozenset(self._attacks)
        self.moves = tuple(self._attacks)  # the built-in surfaces have the names of their spaces
        self.jointly = all(attack.jointly for attack in self._attacks.values())
        balls = {attack.ball for attack in self._attacks.values()}
        self.ball = balls.pop() if len(balls) == 1 else "none"

    def parts(self) -> Mapping[str, Strategy]:
        """Return its attacks by space."""
        return dict(self._attacks)

    def radius(self, block: BlockSpace) -> Tensor | float | None:
        """Return the radius of the block's own attack, None where the attacks have no ball in common."""
        return None if self.ball == "none" else self._attacks[block.name].radius(block)

    def attack(
        self,
        criterion: PointCriterion,
        start: Point,
        *,
        space: Space,
        progress: float,
        generators: Sequence[torch.Generator],
    ) -> Point:
        """Return the point with each surface moved by its attack."""
        point = tuple(block.detach() for block in start)
        for name, attack in self._attacks.items():
            numbers = [number for number, block in enumerate(space.blocks) if block.name == name]
            if not numbers:
                continue
            moved = attack.attack(
                _WithOthers(criterion, point, numbers),
                tuple(point[number] for number in numbers),
                space=Space(
                    tuple(space.blocks[number] for number in numbers),
                    tuple(space.examples[number] for number in numbers),
                ),
                progress=progress,
                generators=generators,
            )
            point = with_others_at(point, numbers, moved)
        return point


class _WithOthers:
    """The criterion as a function of some blocks of a point, the others where they are.

    Args:
        criterion: Of all blocks.
        point: All blocks.
        numbers: Of those that are moved.
    """

    def __init__(self, criterion: PointCriterion, point: Point, numbers: Sequence[int]) -> None:
        self._criterion, self._point, self._numbers = criterion, point, numbers

    def __call__(self, point: Point, /, *, offsets: Mapping[int, Tensor] | None = None) -> Tensor:
        """Return ``J_B`` with these blocks at ``point``."""
        whole = with_others_at(self._point, self._numbers, point)
        if not offsets:
            return self._criterion(whole)
        return self._criterion(whole, offsets={self._numbers[number]: offset for number, offset in offsets.items()})
