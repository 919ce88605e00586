"""The training loop: groups in, a better policy out; checkpoints, metrics and display."""

from saei.engine.trainer import Trainer

__all__ = ["Trainer"]
