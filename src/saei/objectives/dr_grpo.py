"""Dr. GRPO: the clipped policy loss without GRPO's normalisation by length and by standard deviation."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator
from torch import Tensor

from saei.config.registry import AdvantageField
from saei.objectives.advantages.base import Advantage
from saei.objectives.advantages.group_relative import GroupRelative
from saei.objectives.aggregation import constant_length_mean
from saei.objectives.base import ObjectiveInput
from saei.objectives.clipped import ClippedSurrogate


class DrGRPO(ClippedSurrogate):
    """GRPO with a constant in place of each response's length, and advantages that are not scaled.

    A mean per response lets a token of a long response weigh less than one of a short response, so that wrong answers
    grow long; a division by the standard deviation favours questions that are nearly always or nearly never solved.
    The constant is ``sampling.max_new_tokens``.

    Source: https://arxiv.org/abs/2503.20783.
    """

    class Config(ClippedSurrogate.Config):
        """Advantages are differences to the group's mean; ``advantage.scale`` brings the division back.

        Another advantage that divides by a spread because a setting of its own says so, and could do without, has to
        be given that setting: ``scale`` of ``quantile``, ``normalise`` of ``gtpo``. ``pass-at-k`` and ``trust`` always
        divide.

        Attributes:
            advantage: How rewards become the advantages of the policy loss; here ``scale`` is ``none``.
        """

        type: Literal["dr-grpo"] = "dr-grpo"
        advantage: AdvantageField = GroupRelative.Config(scale="none")

        @model_validator(mode="after")
        def _knows_its_scale(self) -> Self:
            """Refuse an advantage that would bring back by a default the division that it could do without."""
            if isinstance(self.advantage, GroupRelative.Config):
                return self
            path, given = "advantage", True
            advantage: Advantage | None = self.advantage.build()
            while advantage is not None:
                fields: set[str] = advantage.config.model_fields_set if given else set()
                setting = advantage.optional_spread
                if setting is not None and setting not in fields:
                    value = getattr(advantage.config, setting)
                    raise ValueError(
                        "Dr. GRPO does not divide advantages by a standard deviation, and by default "
                        f"{path}.{setting} is {value}. Set it to none, or to {value} if that is meant."
                    )
                path, given = f"{path}.of", "of" in fields
                advantage = advantage.shaped
            return self

    config: Config

    def aggregate(self, values_RT: Tensor, inputs: ObjectiveInput) -> Tensor:
        """Return the sum over tokens, divided by responses times the longest length allowed."""
        return constant_length_mean(values_RT, inputs)
