"""A few groups of an evaluation step, kept to be looked at."""

from __future__ import annotations

from collections.abc import Sequence

from saei.engine.rundir import RunDir
from saei.policy.pixels import to_image
from saei.types import ScoredGroup


def keep_samples(run: RunDir, step: int, scored: Sequence[ScoredGroup], *, images: int) -> None:
    """Add the responses of a few groups to ``samples.jsonl`` and their views to ``images/`` as PNG.

    Args:
        run: The run.
        step: Steps done.
        scored: The groups of the step.
        images: Groups whose views are drawn; one that was left alone has nothing to show beside its clean view.
    """
    kept = scored[: max(1, images)]
    run.append_samples(step, [(one.group, one.rewards) for one in kept])
    folder = run.path / "images"
    for one in kept[:images]:
        if len(one.group.views) == 1:
            continue
        folder.mkdir(exist_ok=True)
        for number, view in enumerate(one.group.views):
            place = f"{one.group.index}-{one.group.example.id}"  # one example may be in a step twice
            name = f"step-{step:06d}-{place}-{number}-{view.origin}".replace("/", "_")
            for image, canvas in enumerate(view.canvases):
                to_image(canvas).save(folder / f"{name}-{image}.png")
