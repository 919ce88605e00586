"""The point of an attack: the blocks of all surfaces that it moves, for all views that are attacked together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from saei.attacks.base import Point, Space, with_others_at
from saei.interventions.base import Opening, Surface
from saei.interventions.context import Oracle
from saei.policy import Policy
from saei.types import Distance, View


class OpenViews:
    """Views whose surfaces an attack moves.

    Args:
        surfaces: What it moves, in this order.
        policy: Sees the views.
        views: Clean views.
        scale: Factor on every step and radius.
        oracle: The task's, by which a surface may restrict where its blocks go; None for none.
    """

    def __init__(
        self,
        surfaces: Sequence[Surface],
        policy: Policy,
        views: Sequence[View],
        *,
        scale: float,
        oracle: Oracle | None = None,
    ) -> None:
        self.surfaces = surfaces
        self.scale = scale
        self._openings: list[Opening] = [surface.open(policy, views, scale=scale) for surface in surfaces]
        if oracle is not None:
            pairs = zip(surfaces, self._openings, strict=True)
            self._openings = [surface.restricted(policy, views, opening, oracle) for surface, opening in pairs]
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

    def at(
        self, point: Point, offsets: Mapping[int, Tensor] | None = None
    ) -> tuple[list[View], dict[str, Sequence[Tensor]]]:
        """Return what the policy scores at a point: the views, and what scores are differentiated by.

        Args:
            point: The blocks.
            offsets: By the number of a block of token ids what is added to their embeddings.
        """
        views, wrt = list(self.views), dict[str, Sequence[Tensor]]()
        for surface, opening, blocks in self._parts(point):
            numbers = list(dict.fromkeys(opening.examples))
            of_surface, blocks_by_name = surface.at([views[number] for number in numbers], blocks)
            views = list(with_others_at(views, numbers, of_surface))
            wrt |= blocks_by_name
        if offsets:
            views, wrt["embeddings"] = self._with_offsets(views, offsets, wrt.get("embeddings", ()))
        return views, wrt

    def _with_offsets(
        self, views: Sequence[View], offsets: Mapping[int, Tensor], embeddings: Sequence[Tensor]
    ) -> tuple[list[View], list[Tensor]]:
        """Return the views and what their embeddings are moved by: these offsets, and those that they have already."""
        present = [number for number, view in enumerate(views) if view.offset_Qd is not None and embeddings]
        by_view = dict(zip(present, embeddings, strict=True))
        for block, offset_Qd in offsets.items():
            number = self.space.examples[block]
            by_view[number] = by_view[number] + offset_Qd if number in by_view else offset_Qd
        moved = list(views)
        for number, offset_Qd in by_view.items():
            moved[number] = replace(views[number], offset_Qd=offset_Qd.detach())
        return moved, [by_view[number] for number in sorted(by_view)]

    def moved(self, policy: Policy, point: Point, origin: str) -> list[View]:
        """Return the views at a point.

        Args:
            policy: Sees the views.
            point: The blocks.
            origin: Of these views.
        """
        views = list(self.views)
        for surface, opening, blocks in self._parts(point):
            numbers = list(dict.fromkeys(opening.examples))
            of_surface = surface.moved(policy, [views[number] for number in numbers], blocks)
            views = list(with_others_at(views, numbers, of_surface))
        return [replace(view, origin=origin) for view in views]

    def distances(self, point: Point) -> list[dict[str, Distance]]:
        """Return for each view how far each of its surfaces has moved."""
        distances: list[dict[str, Distance]] = [{} for _ in self.views]
        for surface, opening, blocks in self._parts(point):
            for number in dict.fromkeys(opening.examples):
                places = [place for place, example in enumerate(opening.examples) if example == number]
                distances[number][surface.name()] = surface.distance(
                    [opening.blocks[place] for place in places],
                    [blocks[place] for place in places],
                    [opening.spaces[place] for place in places],
                )
        return distances

    def metrics(self, number: int, distances: Mapping[str, Distance]) -> dict[str, float]:
        """Return how far a view has moved, and of what is frozen in part how many values or tokens are not.

        Those of several surfaces have the surface's name before them.

        Args:
            number: Of the view.
            distances: How far each of its surfaces has moved.
        """
        metrics: dict[str, float] = {}
        names = [surface.name() for surface in self.surfaces]
        prefixes = {name: f"{name}/" if len(names) > 1 else "" for name in names}
        for name, distance in distances.items():
            metrics[f"{prefixes[name]}moved"] = distance.share
            metrics[f"{prefixes[name]}largest_change"] = distance.largest
        for name, space, example in zip(self.surface_of, self.space.blocks, self.space.examples, strict=True):
            if example == number and space.editable is not None:
                key = f"{prefixes[name]}editable"
                metrics[key] = metrics.get(key, 0.0) + float(space.editable.sum())
        return metrics

    def _parts(self, point: Point) -> Iterator[tuple[Surface, Opening, Sequence[Tensor]]]:
        """Yield each surface with its blocks."""
        end = 0
        for surface, opening in zip(self.surfaces, self._openings, strict=True):
            start, end = end, end + len(opening.blocks)
            yield surface, opening, point[start:end]
