"""What a study measures of each trained policy."""

from __future__ import annotations

from fractions import Fraction
from typing import Literal, Self, TypeAlias

from pydantic import Field, PositiveInt

from saei.config.strategy import Frac, Section

UnderAttack: TypeAlias = Literal["noise", "entropy-pgd", "nll-pgd", "from-base"]
"""A way to perturb the pictures that a trained policy is shown."""

FINAL = "final.json"
"""What a run measured in the end, in its folder."""

QUICK = {"examples": 4, "responses": 32, "attacked_examples": 2, "attacked_responses": 2}
"""Laid over the settings for ``--quick``: still enough responses for pass@16."""


class FinalSettings(Section):
    """The evaluation of a study's runs after their last step, at temperature 1 on problems seen by nothing before.

    Attributes:
        examples: Problems.
        responses: Responses to each; pass@k needs 2k of them.
        under_attack: Perturbations under which the trained policy's accuracy is taken, to see whether it resists or
            only hides its gradient: ``noise`` is random signs, ``entropy-pgd`` and ``nll-pgd`` attack the policy
            itself, ``from-base`` shows pictures on which nll-PGD attacked the base, the same ones to all arms.
        radius: Largest change of a pixel value there, of the [0, 1] range.
        attacked_examples: Problems under each perturbation, the first of all.
        attacked_responses: Responses to each of them.
    """

    examples: PositiveInt = 128
    responses: PositiveInt = 128
    under_attack: tuple[UnderAttack, ...] = ()
    radius: Frac = Field(default=Fraction(8, 255), gt=0, le=1)
    attacked_examples: PositiveInt = 64
    attacked_responses: PositiveInt = 8

    def quick(self) -> Self:
        """Return the settings for ``--quick``."""
        return self.model_copy(update={name: min(value, getattr(self, name)) for name, value in QUICK.items()})

    @property
    def drawn(self) -> int:
        """Responses that are drawn for it: how much work it is."""
        attacked = min(self.attacked_examples, self.examples) * self.attacked_responses
        return self.examples * self.responses + len(self.under_attack) * attacked
