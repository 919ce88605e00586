"""The slots of an intervention, as they are configured, and the combinations that are refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Self

from pydantic import Field, model_validator

from saei.config.registry import (
    AttackField,
    ControlField,
    CriterionField,
    GateField,
    GuardField,
    SelectorField,
    StrengthField,
    SurfaceField,
)
from saei.config.strategy import Section, StrategyConfig
from saei.interventions.base import Criterion


class InterventionConfig(Section):
    """The slots of an intervention.

    Attributes:
        selector: Which tokens of the clean responses the criterion looks at.
        criterion: What the attack raises there.
        surfaces: What of the view the attack moves; None for what it is made for first, such as ``pixels``. A view that
            lacks all of these is left alone, and one without a picture where selector or criterion compare it with a
            view whose pictures are changed.
        attack: How it moves them.
        control: What stands in for what the attack did, to tell what of it matters; None for nothing.
        strength: Factor on steps and radii over training.
        gate: Which groups are attacked.
        guard: Which responses of scored groups are not trained on.
        reselect: Choose the tokens again from every image that the attack visits; otherwise the first choice stays.
        micro_groups: Groups attacked at once, None for all: fewer take less memory.
        measure: When the criterion after the attack and the KL divergence between the views are logged, for a scoring
            pass of the clean responses without gradient (two, if the attack does not begin at the clean view): at
            ``evaluated-steps`` alone, which costs the other steps nothing, ``always`` or ``never``. Inside TRL no step
            is an evaluated one.
    """

    selector: SelectorField = "middle-third"  # type: ignore[assignment]  # names are resolved by the validator
    criterion: CriterionField = "entropy"  # type: ignore[assignment]
    surfaces: tuple[SurfaceField, ...] | None = Field(default=None, min_length=1)
    attack: AttackField = "pgd"  # type: ignore[assignment]
    control: ControlField = None
    strength: StrengthField = "constant"  # type: ignore[assignment]
    gate: GateField = "always"  # type: ignore[assignment]
    guard: GuardField = "none"  # type: ignore[assignment]
    reselect: bool = False
    micro_groups: int | None = Field(default=None, ge=1, le=65_536)
    measure: Literal["always", "evaluated-steps", "never"] = "evaluated-steps"

    @model_validator(mode="after")
    def _has_a_gradient(self) -> Self:
        """Refuse an attack that begins where its criterion has no gradient."""
        criterion: type[Criterion] = self.criterion.strategy  # type: ignore[assignment]  # the field's kind is checked
        if criterion.least_at_clean and _begins_at_clean(self.attack):
            raise ValueError(
                f"An attack on the criterion '{self.criterion.type}' begins at random, since at the clean view that "
                f"criterion is at its minimum and has no gradient. The attack '{self.attack.type}' begins at the clean "
                "view. Give the attack a random start where it has one (random_start), or choose another criterion."
            )
        return self

    @model_validator(mode="after")
    def _something_to_scale(self) -> Self:
        """Refuse a strength, or a control, of an attack that moves nothing; such an attack alone is the clean arm."""
        if not _moves_nothing(self.attack):
            return self
        if self.strength.type != "constant":
            raise ValueError(
                f"The strength '{self.strength.type}' scales steps or swaps, and the attack '{self.attack.type}' moves "
                "nothing: their number or length is 0. Raise it, or choose the strength `constant`."
            )
        if self.control is not None:
            raise ValueError(
                f"The control '{self.control.type}' stands in for what an attack did, and the attack "
                f"'{self.attack.type}' moves nothing: the number or length of its steps or swaps is 0. Raise it, or "
                "leave the control out."
            )
        return self


def _begins_at_clean(attack: StrategyConfig) -> bool:
    """Return whether an attack's first gradient is that at the clean view; of one that runs others, the first one's."""
    inner = _inner(attack)
    return bool(getattr(attack, "begins_at_clean", False)) or bool(inner and _begins_at_clean(inner[0]))


def _moves_nothing(attack: StrategyConfig) -> bool:
    """Return whether an attack has no step, no length or no swap; of one that runs others, whether none has."""
    inner = _inner(attack)
    lengths = (getattr(attack, name, None) for name in ("steps", "step", "radius", "swaps"))
    return all(map(_moves_nothing, inner)) if inner else 0 in lengths


def _inner(attack: StrategyConfig) -> list[StrategyConfig]:
    """Return the attacks that an attack runs, as ``of`` names them."""
    of = getattr(attack, "of", None)
    return [of] if isinstance(of, StrategyConfig) else list(of.values()) if isinstance(of, Mapping) else []
