"""Folders of runs and evaluations that nobody trained, with the text that they are given."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from saei.config.run import RunConfig, validate
from saei.evaluation.store import EvaluationDir
from saei.runtime.run_dir import RunDir
from saei.runtime.sample_files import write_samples
from saei.runtime.samples import AttackedTokens, GroupSample, ResponseSample, ViewSample
from saei.types import Distance

HOSTILE = (
    "<script>document.title = 'owned'</script><img src=x onerror=\"document.title='owned'\">"
    "<style>*{display:none}</style>{{ 7 * 7 }}\x1b[31m\x1b]0;owned\x07\0\u202egnp.exe\u2066"
)
LONG_LINE = "y" * 100_000


def picture(seed: int = 0, change: int = 0, side: int = 16) -> bytes:
    values = np.random.default_rng(seed).integers(10, 240, (side, side, 3))
    stream = io.BytesIO()
    Image.fromarray((values + change).astype(np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def group(step: int, source: Any, number: int, text: str = "it is 3", tokens: int = 6, **changes: Any) -> GroupSample:
    """A group of two clean and two adversarial responses; the attack looked at the clean ones."""
    rng = np.random.default_rng(number)
    entropies = tuple(rng.random(tokens).tolist())
    selected = tuple(n % 3 == 0 for n in range(tokens))
    response = ResponseSample(
        0,
        0,
        text,
        ids=tuple(range(tokens)),
        pieces=(text, *(f" t{n}" for n in range(tokens - 1))),
        entropies=entropies,
        logps=(-0.5,) * tokens,
        reward=1.0,
        correct=True,
        parts={"accuracy": 1.0},
        extracted=text[:100],
        reason=text[:100],
        advantage=0.7,
        entropy=sum(entropies) / tokens,
    )
    moved = ResponseSample(1, 1, text, reward=0.0, correct=False, extracted="4", dropped=text[:40])
    attacked = tuple(
        AttackedTokens(n, selected, tuple(value + 0.1 * (index % 2) for index, value in enumerate(entropies)))
        for n in range(2)
    )
    views = (
        ViewSample("clean", changes.get("question", "How many red bars?"), "3", (picture(number),)),
        ViewSample(
            "adversarial",
            changes.get("moved_question", "How many blue bars?"),
            "3",
            (picture(number, 2),),
            seed=5,
            strength=1.0,
            distances={"pixels": Distance(1.0, 2.0)},
            gradient_signs={"pixels": (0.5, 0.0, 0.5)},
            gradients=(picture(number + 9),),
            tokens=attacked,
        ),
    )
    example = changes.get("example", f"{source}-{number}")
    return GroupSample(step, source, number, example, None, views, (response, response, moved, moved))


def run_folder(path: Path, *, text: str = "it is 3", steps: int = 4, **changes: Any) -> Path:
    """A run of which every text that a model or data could have written is this one."""
    data = {"training": {"steps": steps}, "output": {"root": str(path.parent), "name": path.name}, **changes}
    config: RunConfig = validate(data)
    run = RunDir.create(config)
    for step in range(steps + 1):
        line: dict[str, Any] = {"step": step}
        if step:
            line |= {f"train/{origin}/{name}": 0.5 for origin in ("clean", "adversarial") for name in NAMES}
            line |= {"train/reward": 0.4, "train/loss": 0.1, "train/grad_norm": 2.0 if step == 2 else 0.5}
            line |= {"train/dropped": float(step == 3), "train/untouched": 0.0, "train/truncated": 0.0}
            line |= {"train/budget": 96.0 * step, "time/sample": 2.0, "time/update": 1.0}
        if step % 2 == 0:
            line |= {"eval/accuracy": 0.2 + 0.1 * step, "eval/accuracy_se": 0.05, "probe/entropy": 1.0 - 0.2 * step}
            line |= {"probe/zero_variance": 0.1, "train/view_kl/adversarial": 0.01, "samples/responses": 8.0}
            samples = [group(step, "held-out", n, text, question=text, example=text + str(n)) for n in range(2)]
            write_samples(run.path, step, [*samples, group(step, "training", 0, text, moved_question=text)])
        run.append(line)
    run.lock.release()
    return run.path


NAMES = ("reward", "accuracy", "length", "truncated", "entropy")


def evaluation_folder(
    path: Path, *, text: str = "it is 3", right: int = 2, model: str = "one", responses: int = 2
) -> Path:
    """A complete evaluation of four examples with two answers each, the first of which are right."""
    path.mkdir(parents=True)
    settings = {
        "task": {"type": "bars"}, "split": "eval", "source": None, "data": "x",
        "examples": 4, "responses": responses, "seed": 0,
        "sampling": {"temperature": 1.0, "top_p": 1.0, "top_k": None}, "template": {"type": "think-boxed"},
        "reward": {"type": "accuracy-format"}, "model": {"path": model, "base": model}, "plugins": [],
    }  # fmt: skip
    (path / "settings.json").write_text(json.dumps(settings))
    lines = [
        {
            "number": number, "response": n, "example": f"{text[:50]}{number}", "gold": text, "text": text,
            "answer": text, "correct": 2 * number + n < right, "reason": text, "reward": 0.5, "parts": {},
            "tokens": 3, "truncated": False, "groups": {"kind": [text[:30]]},
        }
        for number in range(4) for n in range(responses)
    ]  # fmt: skip
    (path / "answers.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    EvaluationDir(path).finish({"notes": [text], "settings": settings, "versions": {"saei": text[:40]}})
    return path
