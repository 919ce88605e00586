"""Write docs/sample.html anew: the page of a run of SaEI on lock-in, as `saei demo` trains it.

`python scripts/sample_page.py`, after `saei view` changed. A run takes a few minutes: `--keep FOLDER` leaves it there,
and `--run FOLDER` shows one that is there.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from pathlib import Path

from saei.cli.demo import SCENES
from saei.config.overrides import load_config
from saei.engine.trainer import Trainer
from saei.report.page import write_page

PAGE = Path(__file__).parents[1] / "docs" / "sample.html"
NAME = "saei-on-lock-in"
LARGEST = 3_000_000
"""Bytes of a page that is part of the documentation."""


def train(folder: Path, steps: int | None) -> Path:
    """Train the first run of SaEI of the demonstration on lock-in, and return its folder."""
    scene = next(scene for scene in SCENES if scene.task == "lock-in")
    sampler = next(sampler for label, sampler in scene.arms.items() if label.startswith("SaEI"))
    flags = {
        "task": {"type": scene.task},
        "sampler": dict(sampler),
        "training": {"steps": steps or scene.steps},
        "output": {"name": NAME},  # below runs/ of the folder: no path of this machine gets into the page
    }
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.chdir(folder):
        return Trainer(load_config(flags=[dict(scene.settings), flags])).train().absolute()


def main() -> None:
    """Train, unless a run is given, and write its page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--keep", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        run = options.run or train(options.keep or Path(scratch), options.steps)
        write_page([run], PAGE)
    size = PAGE.stat().st_size
    print(f"{PAGE}: {size / 1e6:.2f} MB")
    if size > LARGEST:
        raise SystemExit(f"The page has to be below {LARGEST / 1e6:.0f} MB.")


if __name__ == "__main__":
    main()
