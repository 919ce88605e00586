"""Guards: which responses of scored groups are not trained on."""

from saei.interventions.guards.none import NoGuard

__all__ = ["NoGuard"]
