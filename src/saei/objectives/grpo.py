"""GRPO: the clipped policy loss, averaged per response."""

from __future__ import annotations

from typing import Literal

from saei.objectives.clipped import ClippedSurrogate


class GRPO(ClippedSurrogate):
    """PPO's clipped surrogate on group advantages, a mean over responses of the mean over their tokens.

    Source: https://arxiv.org/abs/2402.03300.
    """

    class Config(ClippedSurrogate.Config):
        """The clip range is symmetric by default."""

        type: Literal["grpo"] = "grpo"

    config: Config
