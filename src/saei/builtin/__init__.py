"""The built-in models: tiny vision-language models that learn on a CPU, and their recipes."""

from pathlib import Path

from saei.builtin.general import General
from saei.builtin.lock_in import COUPLINGS, LockIn
from saei.builtin.maze import Maze
from saei.builtin.recipe import ModelRecipe, ModelReport, build_tiny
from saei.config.sections import BUILTIN, ModelConfig
from saei.policy.load.location import model_path

__all__ = ["COUPLINGS", "General", "LockIn", "Maze", "ModelRecipe", "ModelReport", "build_tiny", "builtin_path"]


def builtin_path(name: str = BUILTIN) -> Path:
    """Return the folder of a built-in model, which the Auto classes of transformers load."""
    return Path(model_path(ModelConfig(path=name)))
