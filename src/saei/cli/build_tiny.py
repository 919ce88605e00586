"""``saei build-tiny``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def build_tiny(
    output: Annotated[Path, typer.Argument(help="Folder to write the model to.")],
    seed: Annotated[int, typer.Option(help="Seed of weights, data and order.")] = 0,
) -> None:
    """Train a built-in model from nothing with its seeded recipe, and say whether it passes the gate."""
    from saei.builtin import build_tiny as build
    from saei.errors import SaeiError

    if output.exists() and any(output.iterdir()):
        raise SaeiError("build-tiny writes a new folder.", reason=f"{output} is not empty.", remedy="Give another.")
    report = build(output, seed, progress=lambda text: print(text, file=sys.stderr, flush=True))
    print(report)
