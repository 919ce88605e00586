"""Time and size of `saei view` for a run of 1,000 steps with 12 evaluations, which this makes up.

    .venv/bin/python benchmarks/page.py                            # pictures and responses as the built-in model's
    .venv/bin/python benchmarks/page.py --side 448 --tokens 400    # as those of a small real model

The page is made in a process of its own, as the command does. With ``--keep FOLDER`` the run stays there.
"""

from __future__ import annotations

import argparse
import io
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from saei.config.run import validate
from saei.runtime.run_dir import RunDir
from saei.runtime.sample_files import sample_files
from saei.runtime.samples import AttackedTokens, GroupSample, ResponseSample, ViewSample
from saei.types import Distance

STEPS, EVALUATIONS = 1000, 12


def png(values: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(values.astype(np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def group(step: int, source: str, number: int, side: int, tokens: int) -> GroupSample:
    rng = np.random.default_rng((step, number, len(source)))
    responses = []
    for n in range(12):
        entropies = rng.exponential(0.3, tokens)
        pieces = tuple(
            f" {word}" for word in rng.choice(["step", "bars", "the", "green", "is", "3", "+", "so"], tokens)
        )
        responses.append(
            ResponseSample(
                n // 6,
                n // 6,
                "".join(pieces),
                tuple(range(tokens)),
                pieces,
                tuple(entropies.tolist()),
                tuple((-entropies).tolist()),
                reward=float(n % 2),
                correct=bool(n % 2),
                parts={"accuracy": float(n % 2), "format": 1.0},
                extracted=str(n % 4),
                reason="another number: 2",
                advantage=0.5,
                entropy=float(entropies.mean()),
            )
        )
    smooth = np.repeat(np.repeat(rng.integers(20, 230, (8, 8, 3)), side // 8, 0), side // 8, 1)
    signs = rng.integers(0, 2, smooth.shape)
    looked_at = tuple(
        AttackedTokens(n, tuple(bool(n % 3) for n in range(tokens)), tuple(rng.exponential(0.3, tokens).tolist()))
        for n in range(6)
    )
    moved = ViewSample(
        "adversarial",
        "How many?",
        "3",
        (png(smooth + 4 * signs - 2),),
        1,
        1.0,
        {"pixels": Distance(1.0, 2.0)},
        {"pixels": (0.5, 0.0, 0.5)},
        (png(255 * signs),),
        looked_at,
    )
    views = (ViewSample("clean", "How many?", "3", (png(smooth),)), moved)
    return GroupSample(step, source, number, f"{source}-{number}", None, views, tuple(responses))  # type: ignore[arg-type]


def make(root: Path, side: int, tokens: int) -> Path:
    run = RunDir.create(validate({"output": {"root": str(root), "name": "run"}, "training": {"steps": STEPS}}))
    evaluated = {round(n * STEPS / (EVALUATIONS - 1)) for n in range(EVALUATIONS)}
    rng = np.random.default_rng(0)
    names = [
        f"train/{origin}/{name}"
        for origin in ("clean", "adversarial")
        for name in ("reward", "accuracy", "length", "truncated", "entropy", "clip_share")
    ]
    for step in range(STEPS + 1):
        line: dict[str, float] = {"step": step, "time/sample": 2.0, "time/update": 3.0}
        if step:
            line |= dict(zip(names, rng.random(len(names)).tolist(), strict=True))
            line |= {"train/reward": rng.random(), "train/loss": 0.0, "train/grad_norm": 2 * rng.random()}
            line |= {"train/intervention/criterion": rng.random(), "train/intervention/criterion_after": rng.random()}
        if step in evaluated:
            line |= {"eval/accuracy": rng.random(), "eval/accuracy_se": 0.05, "probe/entropy": rng.random()}
            line |= {"probe/zero_variance": 0.2, "probe/all_right": 0.1, "probe/all_wrong": 0.1}
            line |= {"probe/distinct_answers": 3.0, "train/view_kl/adversarial": rng.random()}
            held_out = [group(step, "held-out", n, side, tokens) for n in range(2)]
            run.write_samples(step, [*held_out, *(group(step, "training", n, side, tokens) for n in range(2))])
        run.append(line)
    run.lock.release()
    return run.path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=35)
    parser.add_argument("--keep", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        run = make(options.keep or Path(scratch), options.side, options.tokens)
        samples = sum(file.stat().st_size for file in sample_files(run).values())
        saei = [str(Path(sys.executable).with_name("saei")), "view", str(run)]
        start = time.perf_counter()
        subprocess.run(saei, check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - start
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        page = (run / "view.html").stat().st_size
    print(f"samples of {EVALUATIONS} evaluations: {samples / 1e6:.2f} MB")
    print(f"page: {page / 1e6:.2f} MB in {seconds:.1f} s, {children.ru_utime + children.ru_stime:.1f} s of one core")


if __name__ == "__main__":
    main()
