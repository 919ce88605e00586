"""DAPO's policy loss: a mean over all tokens, clipped higher above than below."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor

from saei.objectives.aggregation import token_mean
from saei.objectives.base import ObjectiveInput
from saei.objectives.clipped import ClippedSurrogate


class DAPO(ClippedSurrogate):
    """PPO's clipped surrogate as one mean over the tokens of the update batch, with room for unlikely tokens to rise.

    Of the paper's four techniques these are the two of the loss; redrawing groups without variance is a sampler's
    matter, shaping the reward of overlong responses a reward's.

    Source: https://arxiv.org/abs/2503.14476, sections 3.1 and 3.3.
    """

    class Config(ClippedSurrogate.Config):
        """The clip range is the paper's; the higher bound acts only with several updates per batch."""

        type: Literal["dapo"] = "dapo"
        clip_high: float = Field(default=0.28, ge=0.0, le=1e6)

    config: Config

    def aggregate(self, values_RT: Tensor, inputs: ObjectiveInput) -> Tensor:
        """Return the mean over the selected tokens of the update batch."""
        return token_mean(values_RT, inputs)
