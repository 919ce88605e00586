"""The selector whose borders follow the response."""

from __future__ import annotations

from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from saei.entropy.selectors.base import Selector, TokenStats

CLASSES = ("low", "middle", "high")

_ROWS = 256
"""Lower cuts that are tried at once, each with all upper ones."""


class Adaptive(Selector):
    """Split a response's token entropies into three classes by Otsu's thresholds, and keep the middle one.

    The two cuts are those of the largest variance between the classes (Otsu 1979), over all pairs of cuts; of
    equally good pairs the lower cuts are taken. Equal entropies are never separated, every class has a token, and a
    response with fewer than three different entropies is kept whole, since it has no three classes. Where the middle
    third keeps a fixed share of a response, this keeps what lies between its settled and its undecided tokens, be it
    one token or most of them. Source: original.
    """

    class Config(Selector.Config):
        """Fields.

        Attributes:
            keep: Classes that are kept, of ``low``, ``middle`` and ``high``.
        """

        type: Literal["adaptive"] = "adaptive"
        keep: tuple[Literal["low", "middle", "high"], ...] = Field(default=("middle",), min_length=1)

        @model_validator(mode="after")
        def _keeps_some(self) -> Self:
            if len(set(self.keep)) < len(self.keep) or len(self.keep) == len(CLASSES):
                raise ValueError(
                    f"adaptive keeps one or two of its classes, each named once; got keep={list(self.keep)}. For all "
                    "tokens take the selector `all`."
                )
            return self

    config: Config

    def select(self, stats: TokenStats, *, progress: float, generator: torch.Generator) -> Tensor:
        """Return the mask of the kept classes."""
        mask_NT = self.candidates(stats).clone()
        numbers = torch.tensor([CLASSES.index(name) for name in self.config.keep])
        for mask_T, entropy_T in zip(mask_NT, stats.entropy_NT, strict=True):
            classes = otsu_classes(entropy_T[mask_T])
            if classes is not None:
                mask_T[mask_T.clone()] = torch.isin(classes, numbers).to(mask_T.device)
        return mask_NT


def otsu_classes(values: Tensor) -> Tensor | None:
    """Return the class 0, 1 or 2 of each value on the CPU, None for fewer than three different values.

    With n values and a sum of s in a class, and their mean at 0, the variance between classes is the sum of ``s² / n``
    but for a constant.
    """
    distinct, number, count = values.detach().double().cpu().unique(return_inverse=True, return_counts=True)
    if len(distinct) < 3:
        return None
    centred = distinct - (distinct * count).sum() / count.sum()
    n, s = count.double().cumsum(0), (centred * count).cumsum(0)
    upper = torch.arange(1, len(distinct) - 1)
    best, cuts = -1.0, (0, 1)
    for lower in torch.arange(len(distinct) - 2).split(_ROWS):
        i, j = lower[:, None], upper[None]
        between = s[i] ** 2 / n[i] + (s[j] - s[i]) ** 2 / (n[j] - n[i]) + (s[-1] - s[j]) ** 2 / (n[-1] - n[j])
        between = between.masked_fill(j <= i, -1.0)
        place = int(between.argmax())
        if float(between.flatten()[place]) > best:
            best = float(between.flatten()[place])
            cuts = int(lower[place // len(upper)]), int(upper[place % len(upper)])
    classes: Tensor = (number > cuts[0]).long() + (number > cuts[1]).long()
    return classes
