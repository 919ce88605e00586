"""``saei build-tiny``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def build_tiny(
    output: Annotated[Path, typer.Argument(metavar="FOLDER", help="New folder for the model.")],
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Seed of weights, data and order.")] = 0,
) -> None:
    """Build a tiny model from nothing, minutes on one CPU core, and say whether it passes the built-in one's gate."""
    from saei.errors import ConfigError

    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ConfigError(
            "build-tiny writes a new folder.",
            reason=f"{output} exists and is not an empty folder.",
            remedy="Give another, or remove it.",
        )
    from saei.builtin import build_tiny as build

    print(build(output, seed, progress=lambda text: print(text, file=sys.stderr, flush=True)))
    print(f"Train it with:\n  saei train --model {output}")
