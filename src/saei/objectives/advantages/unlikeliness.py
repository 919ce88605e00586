"""An advantage of rewards that are lower for likely right answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, Self

from pydantic import Field, model_validator

from saei.objectives.advantages.base import Advantages
from saei.objectives.advantages.group_relative import GroupRelative
from saei.objectives.advantages.shaping import ShapingAdvantage
from saei.types import ScoredGroup


class Unlikeliness(ShapingAdvantage):
    """Another advantage, of rewards that right answers lose a share of: the more, the likelier they were.

    The reward of a right answer is multiplied by ``1 - beta * rank / N``. The rank, 1 to N, is that among all N
    responses of the group by the log-probability of the whole response under the distribution that it was drawn from,
    ascending; of equally likely ones the earlier has the lower rank. So the likeliest right answer earns least, and
    where all answers are right the group still has advantages.

    Source: https://arxiv.org/abs/2506.02355.
    """

    class Config(ShapingAdvantage.Config):
        """Fields.

        Attributes:
            of: The advantage of the new rewards.
            beta: The share of its reward that a right answer loses if it is the likeliest of its group.
        """

        type: Literal["unlikeliness"] = "unlikeliness"
        beta: float = Field(default=0.25, ge=0.0, le=1.0)

        @model_validator(mode="after")
        def _knows_its_scale(self) -> Self:
            if isinstance(self.of, GroupRelative.Config) and self.of.scale == "batch":
                raise ValueError(
                    "The scale of the new rewards is that of their own group: of the other groups of a step only the "
                    "rewards as they were given are known, and of.scale is batch. Set it to group, per-origin or none."
                )
            return self

    config: Config

    @property
    def mixes_origins(self) -> bool:
        """True: the ranks are those of all responses of a group, whatever view they were drawn from."""
        return True

    def estimate(self, scored: ScoredGroup, rewards: Sequence[float]) -> Advantages:
        """Return the other advantage of the new rewards."""
        return self.of.estimate(self.rewarded(scored), rewards)

    def rewarded(self, scored: ScoredGroup) -> ScoredGroup:
        """Return the group with the new rewards."""
        logps = [float(response.behaviour_logp_T.double().sum()) for response in scored.group.responses]
        ascending = sorted(range(len(logps)), key=logps.__getitem__)
        share_of_rank = {n: rank / len(logps) for rank, n in enumerate(ascending, start=1)}
        grades = tuple(
            replace(grade, reward=grade.reward * (1 - self.config.beta * share_of_rank[n])) if grade.correct else grade
            for n, grade in enumerate(scored.grades)
        )
        return replace(scored, grades=grades)
