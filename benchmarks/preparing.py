"""What preparing a data set costs: how often each image is decoded, and CPU time per image, by part."""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFile
from rich.console import Console
from rich.table import Table

from saei.config.sections import ModelConfig, SamplingConfig
from saei.data.dataset import Dataset
from saei.data.templates import ThinkBoxed
from saei.intake.scan import scan
from saei.policy import Policy
from saei.policy.load.weights import load_parts
from saei.rewards.accuracy_format import AccuracyFormat

DIFFERENT = 20
"""Different pictures; the others are copies under other names, which cost the same to decode."""
CONTEXT = 1_000_000  # tokens: no prompt is too long


def write_data(folder: Path, images: int, side: int) -> None:
    """Write a folder of JPEG pictures of gradients and noise, with a table of questions."""
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 200, side)
    for number in range(min(DIFFERENT, images)):
        blocks = np.kron(rng.integers(0, 40, (side // 8 + 1, side // 8 + 1, 3)), np.ones((8, 8, 1)))[:side, :side]
        pixels = np.roll(ramp, 7 * number)[None, :, None] + blocks + rng.normal(0, 4, (side, side, 3))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{number}.jpg", quality=90)
    for number in range(DIFFERENT, images):
        shutil.copy(folder / f"{number % DIFFERENT}.jpg", folder / f"{number}.jpg")
    rows = [f"{number}.jpg,What is red + yellow?,{number % 9}" for number in range(images)]
    (folder / "train.csv").write_text("\n".join(["image,question,answer", *rows]) + "\n")


@contextmanager
def counted() -> Iterator[list[str]]:
    """Count the pictures whose pixels are decoded."""
    found: list[str] = []
    decoder = Image._getdecoder

    def counting(*arguments: Any, **options: Any) -> Any:
        if arguments[1] == "jpeg":
            found.append(arguments[1])
        return decoder(*arguments, **options)

    ImageFile.Image._getdecoder = counting
    try:
        yield found
    finally:
        ImageFile.Image._getdecoder = decoder


def timed(work: Callable[[], Any]) -> tuple[float, float]:
    """Return seconds of CPU time, of all threads, and of wall time."""
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    return time.process_time() - cpu, time.perf_counter() - wall


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--side", type=int, default=1000, help="of a picture, in pixels")
    parser.add_argument("--max-pixels", type=int, default=1_000_000, help="model.max_pixels")
    parser.add_argument("--workers", type=int, default=None, help="threads; one per core without")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    parts = load_parts(ModelConfig(max_pixels=options.max_pixels, device="cpu"))
    parts.model.config.get_text_config().max_position_embeddings = CONTEXT
    policy = Policy(parts, ThinkBoxed(), sampling=SamplingConfig())
    with tempfile.TemporaryDirectory() as name:
        write_data(Path(name), options.images, options.side)
        task = Dataset(Dataset.Config(path=name, splits={"train": "train"}))
        view = policy.view(task.example(0))  # what becomes of pictures of a size is found out once
        with counted() as decoded:
            cpu, wall = timed(lambda: scan(task, policy, "train", reward=AccuracyFormat(), workers=options.workers))
        opened, _ = timed(lambda: [task.example(index) for index in range(min(100, options.images))])
    found = {
        "images": options.images,
        "side": options.side,
        "image_tokens": policy.image_tokens(view),
        "decodes_per_image": len(decoded) / options.images,
        "cpu_ms_per_image": 1000 * cpu / options.images,
        "wall_ms_per_image": 1000 * wall / options.images,
        "cpu_ms_to_open_one": 1000 * opened / min(100, options.images),
    }
    table = Table("measure", "value", box=None, padding=(0, 2, 0, 0))
    for label, value in found.items():
        table.add_row(label.replace("_", " "), f"{value:.2f}" if isinstance(value, float) else str(value))
    Console(highlight=False).print(table)
    if options.json:
        options.json.write_text(json.dumps(found))
    return found


if __name__ == "__main__":
    main()
