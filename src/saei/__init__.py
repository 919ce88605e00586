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
    from saei.errors import SaeiError
    from saei.policy import Policy

__version__ = "0.1.0"
__all__ = ["Policy", "RunConfig", "SaeiError", "Trainer", "register"]

_HOMES = {
    "Policy": "saei.policy",
    "RunConfig": "saei.config.run",
    "SaeiError": "saei.errors",
    "Trainer": "saei.engine",
    "register": "saei.config.registry",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'saei' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)
