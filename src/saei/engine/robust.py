"""A benchmark under several conditions: how much of the clean accuracy is left on noisy and on attacked pictures."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from saei.config import ModelConfig, RunConfig, SamplingConfig
from saei.engine.answering import Move
from saei.engine.benchmark import Asked, Benchmark
from saei.engine.conditions import STEPS, Condition, Eyes, FixedSet, conditions
from saei.engine.evaluation_dir import EvaluationDir, finite, model_settings
from saei.errors import ConfigError
from saei.evaluation.comparison import Evaluated, Side, contrasts
from saei.evaluation.records import items
from saei.policy import Policy

RESULT = "robust.json"
NOTE = (
    "An attack that raises entropy says how a policy takes what it was trained with or without, not how robust it is: "
    "read it beside the attack on the gold answer. An attack on this policy itself is the harder one, and each policy "
    "gets another; one on a base is the same pictures for all."
)


@dataclass(frozen=True, slots=True)
class Harm:
    """What asks for conditions.

    Attributes:
        radii: Largest changes of a pixel value, of the [0, 1] range.
        base: A model that is attacked once for all policies; None for white-box attacks alone.
    """

    radii: tuple[Fraction, ...] = (Fraction(2, 255), Fraction(4, 255), Fraction(8, 255))
    base: str | None = None


def run_robust(
    config: RunConfig,
    sampling: SamplingConfig,
    asked: Asked,
    harm: Harm,
    *,
    told: Callable[[int, int], None],
    note: Callable[[str], None],
) -> dict[str, Any]:
    """Evaluate under each condition, in a folder of its own below the evaluation's, and return accuracies and losses.

    Args:
        config: Model, task, template and reward.
        sampling: How responses are drawn.
        asked: What to do.
        harm: Which conditions.
        told: Is told how many of how many examples of a condition are done.
        note: Is told what the user should know.

    Raises:
        SaeiError: If data or a model cannot be used, or a folder belongs to another evaluation.
    """
    if not harm.radii or min(harm.radii) <= 0:
        raise ConfigError("Radii are above 0.", reason=f"Got {harm.radii}.", remedy="For example --radius 4/255.")
    benchmark = Benchmark(config, sampling, asked)
    home = asked.output or benchmark.folder.with_name(f"{benchmark.folder.name}-robust")
    policy = benchmark.load()
    found = []
    for condition in conditions(harm.radii, harm.base):
        folder = EvaluationDir(home / condition.name)
        folder.begin({**benchmark.settings, "condition": _settings(condition)})
        note(f"{condition.name}: {folder.path}")
        benchmark.evaluate(folder, policy, move=_move(condition, benchmark, policy, asked.seed), told=told)
        found.append((condition, Evaluated(condition.name, "", items(folder.records()))))
    sides = [Side(condition.name, [one]) for condition, one in found]
    result = {
        "clean": found[0][1].accuracy,
        "conditions": [
            {"radius": str(condition.radius), **asdict(contrast), "accuracy": contrast.accuracy[1]}
            for (condition, _), contrast in zip(found[1:], contrasts(sides[0], sides[1:]), strict=True)
        ],
        "attack": f"PGD, {STEPS} steps of a quarter of the radius, no random start",
        "note": NOTE,
        "settings": benchmark.settings,
        "folder": str(home),
    }
    (home / RESULT).write_text(json.dumps(finite(result), indent=2), encoding="utf-8")
    return result


def _settings(condition: Condition) -> dict[str, Any]:
    attacked = model_settings(ModelConfig(path=condition.base)) if condition.base else None
    return {"kind": condition.kind, "radius": str(condition.radius), "steps": STEPS, "base": attacked}


def _move(condition: Condition, benchmark: Benchmark, policy: Policy, seed: int) -> Move:
    def eyes(attacked: Policy) -> Eyes:
        return Eyes(condition, attacked, benchmark.reward, benchmark.sampling, seed)

    if not condition.base:
        return eyes(policy)

    def make() -> tuple[Policy, Eyes]:
        base = benchmark.load(benchmark.config.model.model_copy(update={"path": condition.base, "revision": None}))
        return base, eyes(base)

    settings = benchmark.settings
    known = [settings[name] for name in ("task", "data", "template", "reward")] + [_settings(condition)]
    digest = hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:16]
    root: Path = benchmark.config.output.root
    return FixedSet(root / "attacked" / f"{condition.name}-{digest}", policy, make)
