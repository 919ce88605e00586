"""Interventions: selector, criterion, attack, strength, gate and guard, applied to clean groups."""

from saei.interventions.base import Criterion, Gate, Guard, Strength
from saei.interventions.intervention import Intervention, InterventionConfig
from saei.interventions.outcome import Outcome

__all__ = ["Criterion", "Gate", "Guard", "Intervention", "InterventionConfig", "Outcome", "Strength"]
