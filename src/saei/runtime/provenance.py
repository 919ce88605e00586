"""What a run was made with: versions, the distribution of every part, the commit of the working folder."""

from __future__ import annotations

import hashlib
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from saei.config.registry import registered_here, source_of
from saei.config.run import RunConfig
from saei.config.strategy import Section, StrategyConfig

RECORDED = (
    "saei", "torch", "transformers", "accelerate", "numpy",
    "datasets", "math-verify", "peft", "pillow", "pyarrow", "safetensors", "tokenizers", "torchattacks", "trl", "vllm",
)  # fmt: skip
"""Distributions whose versions are recorded, where they are installed."""


def provenance(config: RunConfig) -> dict[str, Any]:
    """Return what ``config.yaml`` records beside the configuration, as plain data."""
    return {"versions": versions(), "parts": dict(_parts(config)), "git": git_revision()}


def versions() -> dict[str, str]:
    """Return the versions of Python and of the distributions that decide results."""
    recorded = {"python": platform.python_version()}
    for name in RECORDED:
        try:
            recorded[name] = version(name)
        except PackageNotFoundError:
            continue
    return recorded


def git_revision() -> str | None:
    """Return the commit of the working folder, None outside of a checkout."""
    try:
        git = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return git.stdout.strip() or None


def _parts(value: Any, path: str = "") -> Iterator[tuple[str, dict[str, str]]]:
    """Yield every strategy of a configuration: its dotted path, its name and where its code is from."""
    if isinstance(value, StrategyConfig) and value.strategy.kind:  # view makers are of no kind, and are saei's own
        yield path, {"name": value.type, **_source(value)}
    if isinstance(value, Section):
        for name in type(value).model_fields:
            yield from _parts(getattr(value, name), f"{path}.{name}" if path else name)
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _parts(inner, f"{path}.{name}")
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield from _parts(inner, f"{path}.{number}")


def _source(config: StrategyConfig) -> dict[str, str]:
    """Return distribution and version of a strategy; of one that a file registered, the file and its SHA-256."""
    kind = config.strategy.kind
    if not registered_here(kind, config.type):
        distribution, its_version = source_of(kind, config.type)
        return {"distribution": distribution, "version": its_version}
    module = config.strategy.__module__
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None or not Path(file).is_file():  # a notebook's class
        return {"module": module}
    return {"file": file, "sha256": hashlib.sha256(Path(file).read_bytes()).hexdigest()}
