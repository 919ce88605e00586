"""GSPO: one ratio per response instead of one per token."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor

from saei.objectives.clipped import ClippedSurrogate


class GSPO(ClippedSurrogate):
    """The clipped surrogate with the sequence's ratio, ``(p(response) / p_old(response)) ** (1 / length)``.

    A response is clipped as a whole. Only its selected tokens count: with a ``token_selector``, product and length are
    those of these tokens, as if the response consisted of them. The view weight is the sequence's as well,
    ``min(cap, exp(beta * mean gap of the selected tokens))``, one number per response, on the scale of the ratio; beta
    1 hence corrects the geometric mean of the tokens' gaps, not their product. Terms stay per token.

    Source: https://arxiv.org/abs/2507.18071, equations 5 to 7; token selection and view weight are original.
    """

    takes_token_advantages = False

    class Config(ClippedSurrogate.Config):
        """Fields of GSPO.

        Attributes:
            clip_low: How far the sequence's ratio may fall below 1 before the gradient of a negative advantage stops;
                the default is the paper's, since a mean over tokens moves far less than a token.
            clip_high: How far it may rise above 1 before the gradient of a positive advantage stops.
        """

        type: Literal["gspo"] = "gspo"
        clip_low: float = Field(default=3e-4, ge=0.0, le=1.0)
        clip_high: float = Field(default=4e-4, ge=0.0, le=1e6)

    config: Config

    def level(self, logs_RT: Tensor, selected_RT: Tensor) -> Tensor:
        """Return the mean over each response's selected tokens, at each of them."""
        mean_R = logs_RT.sum(dim=1) / selected_RT.sum(dim=1).clamp(min=1)
        return mean_R[:, None].expand_as(logs_RT)
