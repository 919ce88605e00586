"""Reads tables, one path a line, and writes one line on each: what a file in a binary format does, it does here."""

from __future__ import annotations

import json
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import datasets

from saei.data.dataset import Dataset
from saei.errors import DataError, SaeiError


def outcome(path: Path) -> dict[str, Any]:
    """Return how many rows could be used and not, why the table could not be read, or the traceback of a bug."""
    begun = time.process_time()
    good, errors = 0, []
    try:
        try:
            data = Dataset(Dataset.Config.model_validate({"path": str(path), "splits": {"train": "train"}}))
            for index in range(min(data.size() or 0, 50)):
                try:
                    data.example(index)
                    good += 1
                except DataError as error:
                    errors.append(str(error))
        except SaeiError as error:
            errors.append(str(error))
    except Exception:
        return {"bug": traceback.format_exc()[-3000:]}
    return {"good": good, "errors": errors, "seconds": time.process_time() - begun}


def main() -> None:
    """Answer line by line."""
    datasets.config.HF_DATASETS_CACHE = Path(sys.argv[1])
    for line in sys.stdin:
        print(json.dumps(outcome(Path(line.strip()))), flush=True)


if __name__ == "__main__":
    main()
