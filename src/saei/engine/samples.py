"""Samples: a few groups of an evaluation step, written for people to look at."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from saei.policy.pixels.space import to_image
from saei.runtime.files import replacing, slug
from saei.runtime.run_dir import RunDir
from saei.types import ScoredGroup

IMAGES = "images"
NAME = re.compile(r"step-(\d+)-(\d+)-(.+)-(\d+)-([^-]+)-(\d+)\.png")


@dataclass(frozen=True, order=True, slots=True)
class Picture:
    """One picture of a view, as its file's name describes it.

    Attributes:
        step: Steps done.
        group: Which of the step's groups.
        example: The example's id, as a name.
        view: Which of the group's views; the first is the clean one.
        origin: Where the view comes from, as a name.
        place: Which of the view's pictures.
    """

    step: int
    group: int
    example: str
    view: int
    origin: str
    place: int

    @property
    def name(self) -> str:
        """The name of its file."""
        where = f"step-{self.step:06d}-{self.group}-{self.example}"
        return f"{where}-{self.view}-{self.origin}-{self.place}.png"


def keep_samples(run: RunDir, step: int, scored: Sequence[ScoredGroup], *, images: int) -> None:
    """Write the responses of a few groups to ``samples.jsonl``, and their views.

    How the views were made goes to ``views.jsonl``, their pictures to ``images/`` as PNG.

    Args:
        run: The run.
        step: Steps done.
        scored: The groups of the step.
        images: Number of groups whose pictures are written; one that was left alone has none but its clean view's, and
            is passed over.

    Raises:
        OSError: If the disk refuses.
    """
    sampled = scored[: max(1, images)]
    run.append_samples(step, [(each.group, each.rewards) for each in sampled])
    run.append_views(step, [each.group for each in sampled])
    folder = run.path / IMAGES
    for number, group in enumerate(each.group for each in sampled[:images]):
        if len(group.views) == 1:
            continue
        folder.mkdir(exist_ok=True)
        for view_number, view in enumerate(group.views):
            origin = slug(view.origin).replace("-", "_")  # hyphens separate the parts of the name
            for place, canvas in enumerate(view.canvases):
                picture = Picture(step, number, slug(group.example.id), view_number, origin, place)
                with replacing(folder / picture.name) as temporary:
                    to_image(canvas).save(temporary)


def last_pictures(run: Path) -> dict[Picture, Path]:
    """Return the pictures of the first group of the last evaluation step, in order of view and place."""
    files = {}
    for file in (run / IMAGES).glob("step-*.png"):
        parts = NAME.fullmatch(file.name)
        if parts:
            step, group, example, view, origin, place = parts.groups()
            files[Picture(int(step), int(group), example, int(view), origin, int(place))] = file
    last = max((picture.step for picture in files), default=0)
    first = min((picture.group for picture in files if picture.step == last), default=0)
    return {picture: files[picture] for picture in sorted(files) if (picture.step, picture.group) == (last, first)}
