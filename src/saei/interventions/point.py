"""The point of an attack: the blocks of all surfaces that it moves, for all views that are attacked together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from torch import Tensor

from saei.attacks.base import Point, Space
from saei.interventions.base import Opening, Surface
from saei.policy import Policy
from saei.types import Distance, View


class OpenViews:
    """Views whose surfaces an attack moves.

    Args:
        surfaces: What it moves, in this order.
        policy: Sees the views.
        views: Clean views.
        scale: Factor on every step and radius.
    """

    def __init__(self, surfaces: Sequence[Surface], policy: Policy, views: Sequence[View], *, scale: float) -> None:
        self.surfaces = surfaces
        self._openings: list[Opening] = [surface.open(policy, views, scale=scale) for surface in surfaces]
        self.views = views
        self.start: Point = tuple(block for opening in self._openings for block in opening.blocks)
        self.space = Space(
            tuple(space for opening in self._openings for space in opening.spaces),
            tuple(example for opening in self._openings for example in opening.examples),
        )

        self.surface_of = tuple(
            surface.name() for surface, opening in zip(surfaces, self._openings, strict=True) for _ in opening.blocks
        )
        """For each block the name of its surface."""

    def at(self, point: Point) -> tuple[list[View], dict[str, Sequence[Tensor]]]:
        """Return what the policy scores at a point: the views, and what scores are differentiated by."""
        views, wrt = list(self.views), dict[str, Sequence[Tensor]]()
        for surface, _, blocks in self._parts(point):
            views, of_surface = surface.at(views, blocks)
            wrt |= of_surface
        return views, wrt

    def moved(self, point: Point, origin: str) -> list[View]:
        """Return the views at a point.

        Args:
            point: The blocks.
            origin: Of these views.
        """
        views = list(self.views)
        for surface, _, blocks in self._parts(point):
            views = surface.moved(views, blocks)
        return [replace(view, origin=origin) for view in views]

    def distances(self, point: Point) -> list[dict[str, Distance]]:
        """Return for each view how far each of its surfaces has moved."""
        distances: list[dict[str, Distance]] = [{} for _ in self.views]
        for surface, opening, blocks in self._parts(point):
            for number in dict.fromkeys(opening.examples):
                places = [place for place, example in enumerate(opening.examples) if example == number]
                start, moved = [opening.blocks[place] for place in places], [blocks[place] for place in places]
                distances[number][surface.name()] = surface.distance(start, moved)
        return distances

    def _parts(self, point: Point) -> Iterator[tuple[Surface, Opening, Sequence[Tensor]]]:
        """Yield each surface with its blocks."""
        end = 0
        for surface, opening in zip(self.surfaces, self._openings, strict=True):
            start, end = end, end + len(opening.blocks)
            yield surface, opening, point[start:end]
