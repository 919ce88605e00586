"""Which views go through the model together."""

from __future__ import annotations

from collections.abc import Sequence

from saei.types import View


def passes(views: Sequence[View]) -> list[list[int]]:
    """Return the numbers of the views that share each pass.

    All views share one, but for models with a mask of which token may look at which image (Llama 3.2 Vision). A batch
    has as many image slots as the prompt with the most images, and a token that may look at no image attends to all
    slots alike, the empty ones included. A view's values would change with its neighbours, so only views with equally
    many images go together there.
    """
    if not views:
        return []
    masked = any(values.ndim > 2 for view in views for values in view.token_inputs.values())
    if not masked:
        return [list(range(len(views)))]
    image_counts = [len(view.canvases) for view in views]
    return [
        [number for number, count in enumerate(image_counts) if count == images] for images in sorted(set(image_counts))
    ]
