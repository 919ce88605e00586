"""saei: keep vision-language policies exploring while they learn by reinforcement.

The names below load on first use, so that ``import saei`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from saei.config.registry import register
    from saei.config.run import RunConfig
    from saei.engine import Trainer
    from saei.engine.callbacks import TrainerCallback
    from saei.errors import SaeiError
    from saei.interventions.single import attack
    from saei.policy import Policy
    from saei.report.run_tables import read_run
    from saei.types import Example

__version__ = "0.1.0"
__all__ = [
    "Example",
    "Policy",
    "RunConfig",
    "SaeiError",
    "Trainer",
    "TrainerCallback",
    "attack",
    "read_run",
    "register",
]

_HOMES = {
    "Example": "saei.types",
    "Policy": "saei.policy",
    "RunConfig": "saei.config.run",
    "SaeiError": "saei.errors",
    "Trainer": "saei.engine",
    "TrainerCallback": "saei.engine.callbacks",
    "attack": "saei.interventions.single",
    "read_run": "saei.report.run_tables",
    "register": "saei.config.registry",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'saei' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
