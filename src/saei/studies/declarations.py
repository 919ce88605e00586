"""What a study declares of its outcome before there is one: contrasts, checks, and what counts as an escape."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, PositiveFloat, model_validator

from saei.config.strategy import Section

ESCAPE_TIME, ESCAPE_SHARE = "escape/time", "escape/share"

Measure = Annotated[str, Field(pattern=rf"^((eval|probe|final|train)/\S+|{ESCAPE_TIME}|{ESCAPE_SHARE})$")]
"""What is measured of a whole run."""


class Contrast(Section):
    """A declared difference of two arms, taken base by base.

    Attributes:
        arm: The arm of which the other is subtracted.
        against: The arm that is subtracted.
        measure: ``eval/…`` or ``probe/…``, a metric of the evaluation after the last step; ``final/…``, one of the
            final evaluation; ``train/…``, the mean of one over the steps that have it; ``escape/time`` in steps, or
            ``escape/share``.
        smallest_effect: The smallest difference that would matter.
        margin: Two arms count as equal if the whole interval of their difference lies within plus and minus this.
        headline: Whether it is the study's answer to one of the questions of ``docs/studies/index.md``, whose p values
            are adjusted once more, together.
    """

    arm: str
    against: str
    measure: Measure
    smallest_effect: PositiveFloat
    margin: PositiveFloat
    headline: bool = False


class Check(Section):
    """What an arm has to do to be what its name says, as a mean over its runs' steps.

    Attributes:
        metric: A metric of training steps, such as ``train/intervention/criterion_rose``, the share of the attacked
            groups in which the criterion is higher after the attack. Steps without it are left out.
        at_least: The lowest mean that will do.
        at_most: The highest.
    """

    metric: str = Field(pattern=r"^train/\S+$")
    at_least: float | None = None
    at_most: float | None = None

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if self.at_least is None and self.at_most is None:
            raise ValueError("A check has a bound. Give `at_least`, `at_most` or both")
        return self


class EscapeRule(Section):
    """When a run counts as escaped from where it started: at its first evaluation that reaches the threshold.

    Attributes:
        metric: Of the evaluations, ``eval/…`` or ``probe/…``.
        threshold: What counts as escaped.
    """

    metric: str = Field("eval/accuracy", pattern=r"^(eval|probe)/\S+$")
    threshold: float
