"""The process of one base: `python -m saei.studies.build FOLDER RECIPE SEED` builds it, accepted or not."""

from __future__ import annotations

import sys
from pathlib import Path

from saei.studies.process import end_with_parent


def main(folder: Path, recipe: str, seed: int) -> None:
    """Build a base in an empty folder; its ``recipe.json``, written last, says whether the gate accepts it."""
    end_with_parent()
    from saei.builtin import build_tiny
    from saei.console import say
    from saei.runtime.lock import FolderLock
    from saei.studies.plan import MODEL_RECIPES

    with FolderLock(folder):
        say(build_tiny(folder, MODEL_RECIPES[recipe](), seed, progress=say))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
