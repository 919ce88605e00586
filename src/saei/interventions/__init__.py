"""Interventions: selector, criterion, attack, control, strength, gate and guard, applied to clean groups."""

from saei.interventions.base import Criterion, Gate, Guard, Strength
from saei.interventions.control import Control
from saei.interventions.intervention import Intervention
from saei.interventions.intervention_config import InterventionConfig
from saei.interventions.outcome import Outcome

__all__ = ["Control", "Criterion", "Gate", "Guard", "Intervention", "InterventionConfig", "Outcome", "Strength"]
