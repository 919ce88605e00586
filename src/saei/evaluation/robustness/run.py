"""A benchmark under several conditions: how much of the clean accuracy is left on noisy and on attacked pictures."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from saei.config.run import RunConfig
from saei.config.sections import ModelConfig, SamplingConfig
from saei.errors import ConfigError
from saei.evaluation.benchmark import Benchmark, EvaluationRequest
from saei.evaluation.drawing import Perturbation
from saei.evaluation.records import by_example
from saei.evaluation.robustness.conditions import STEPS, Condition, ConditionIntervention, conditions
from saei.evaluation.robustness.fixed_set import FixedSet
from saei.evaluation.statistics.comparison import EvaluatedRun, RunSet, contrasts
from saei.evaluation.store import CONDITIONS, EvaluationDir, finite, model_settings
from saei.policy import Policy
from saei.runtime.files import disk_errors, write_whole

NOTE = (
    "An attack that raises entropy says how a policy takes what it was trained with or without, not how robust it is: "
    "read it beside the attack on the gold answer. An attack on this policy itself is the harder one, and each policy "
    "gets another; one on a base is the same pictures for all."
)


@dataclass(frozen=True, slots=True)
class RobustnessSettings:
    """Which conditions a robustness evaluation has.

    Attributes:
        radii: Largest changes of a pixel value, of the [0, 1] range.
        base: A model that is attacked once for all policies; None for white-box attacks alone.

    Raises:
        ConfigError: If there is no radius, or one is not above 0.
    """

    radii: tuple[Fraction, ...] = (Fraction(2, 255), Fraction(4, 255), Fraction(8, 255))
    base: str | None = None

    def __post_init__(self) -> None:
        if not self.radii or min(self.radii) <= 0:
            got = ", ".join(map(str, self.radii)) or "none"
            raise ConfigError("Radii are above 0.", reason=f"Got {got}.", remedy="For example --radius 4/255.")


def run_robust(
    config: RunConfig,
    sampling: SamplingConfig,
    request: EvaluationRequest,
    robustness: RobustnessSettings,
    *,
    on_progress: Callable[[int, int], None],
    note: Callable[[str], None],
) -> dict[str, Any]:
    """Evaluate under each condition, in a folder of its own below the evaluation's, and return accuracies and losses.

    Args:
        config: Model, task, template and reward.
        sampling: How responses are drawn.
        request: How many examples and responses, and where the answers go.
        robustness: Which conditions.
        on_progress: Called with how many of how many examples of a condition are done.
        note: Called with each text that the user should read.

    Raises:
        SaeiError: If data or a model cannot be used, or a folder belongs to another evaluation.
    """
    benchmark = Benchmark(config, sampling, request)
    for text in benchmark.task.notes():
        note(text)
    root = request.output or benchmark.folder.with_name(f"{benchmark.folder.name}-robust")
    policy = benchmark.load()
    base = _base(benchmark, robustness.base) if robustness.base else None
    evaluated, notes = [], dict[str, None]()  # most notes are the same under each condition
    for condition in conditions(robustness.radii, robustness.base):
        folder = EvaluationDir(root / condition.name)
        condition_settings = _settings(condition, config, base)
        folder.begin({**benchmark.settings, "condition": condition_settings})
        with folder.lock:
            note(f"{condition.name}: {folder.path}")
            attacked = base.policy if base and condition.base else policy
            perturb: Perturbation = ConditionIntervention(condition, attacked, benchmark.reward, sampling, request.seed)
            if condition.base:
                perturb = FixedSet(_shared_folder(condition, benchmark, condition_settings), policy, attacked, perturb)
            notes |= dict.fromkeys(
                benchmark.evaluate(folder, policy, perturb=perturb, on_progress=on_progress)["notes"]
            )
        evaluated.append((condition, EvaluatedRun(condition.name, "", by_example(folder.records()))))
    run_sets = [RunSet(condition.name, [run]) for condition, run in evaluated]
    result = {
        "clean": evaluated[0][1].accuracy,
        "approximate": any(run.approximate for run in evaluated[0][1].examples),
        "conditions": [
            {"radius": str(condition.radius), **asdict(contrast), "accuracy": contrast.accuracies[1]}
            for (condition, _), contrast in zip(evaluated[1:], contrasts(run_sets[0], run_sets[1:]), strict=True)
        ],
        "attack": f"PGD, {STEPS} steps of a quarter of the radius, no random start",
        "agreement": benchmark.task.reporting.agreement,
        "notes": [NOTE, *notes],
        "settings": benchmark.settings,
        "folder": str(root),
    }
    with disk_errors(
        "The conditions of an evaluation end in one result.", root / CONDITIONS, "Free some space, repeat."
    ):
        write_whole(root / CONDITIONS, json.dumps(finite(result), indent=2))
    return result


@dataclass(frozen=True, eq=False, slots=True)
class _Base:
    """The model that is attacked once, and whose attacked pictures all policies see."""

    model: ModelConfig
    policy: Policy


def _base(benchmark: Benchmark, path: str) -> _Base:
    """Return the base, loaded in the precision and with the picture sizes of the evaluated model."""
    model = benchmark.config.model.model_copy(update={"path": path, "revision": None})
    return _Base(model, benchmark.load(model))


def _settings(condition: Condition, config: RunConfig, base: _Base | None) -> dict[str, Any]:
    """Return everything that decides what the pictures are, except the benchmark."""
    return {
        "kind": condition.kind,
        "radius": str(condition.radius),
        "steps": STEPS,
        "base": model_settings(base.model) if base and condition.base else None,
        # An attack's greedy responses have this length, and its entropies are of this distribution.
        "sampling": config.sampling.model_dump(mode="json"),
        "entropy": config.entropy.model_dump(mode="json"),
    }


def _shared_folder(condition: Condition, benchmark: Benchmark, condition_settings: Mapping[str, Any]) -> Path:
    """Return the folder of the attacked pictures, shared by all evaluations that would make the same ones."""
    parts = [benchmark.settings[name] for name in ("task", "data", "template", "reward")] + [condition_settings]
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
    return benchmark.config.output.root / "attacked" / f"{condition.name}-{digest}"
