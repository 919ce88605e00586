"""The built-in model: a tiny vision-language model that learns on a CPU, and its recipe."""

from saei.builtin.recipe import GateReport, build_tiny, builtin_path

__all__ = ["GateReport", "build_tiny", "builtin_path"]
