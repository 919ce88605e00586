"""Evaluating a policy on a benchmark: settings, the run over its examples, and the result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from saei.config.run import RunConfig
from saei.config.sections import ModelConfig, SamplingConfig
from saei.data.base import Task
from saei.data.table_task import TableTask
from saei.errors import ConfigError, DataError
from saei.evaluation.drawing import Evaluator, Perturbation, Plan
from saei.evaluation.metrics import mean
from saei.evaluation.records import Record, by_example
from saei.evaluation.statistics.pass_at import RULE, chosen_ks
from saei.evaluation.statistics.scores import Score, all_scores
from saei.evaluation.store import EvaluationDir, default_dir, model_settings
from saei.intake.reports import DROPPED
from saei.policy import Policy
from saei.runtime.provenance import versions

GENERATED = 128
"""Examples of a task without end that are evaluated if no number is given."""


@dataclass(frozen=True, slots=True)
class EvaluationRequest:
    """How many examples and responses an evaluation takes, and where its answers go.

    Attributes:
        examples: How many of the first examples; None for all.
        responses: Responses to each.
        seed: Seed of the draws.
        batch: Responses drawn together.
        pass_at: The k of pass@k; empty for powers of two.
        output: Folder; None for one named after the settings.
    """

    examples: int | None = None
    responses: int = 1
    seed: int = 0
    batch: int = 64
    pass_at: tuple[int, ...] = ()
    output: Path | None = None


class Benchmark:
    """One benchmark and one policy, before anything is answered.

    Args:
        config: Model, task, template and reward.
        sampling: How responses are drawn.
        request: How many examples and responses, and where the answers go.

    Raises:
        SaeiError: If the data cannot be used, or options do not fit each other.

    Attributes:
        task: The benchmark.
        settings: Everything that decides what is answered and how it is graded.
        reward: Grades the responses.
    """

    def __init__(self, config: RunConfig, sampling: SamplingConfig, request: EvaluationRequest) -> None:
        self._ks = chosen_ks(request.pass_at, request.responses)
        check_draws(request.responses, sampling.temperature)
        self.config, self.sampling, self._request = config, sampling, request
        self.task = config.task.build()
        self.reward = config.reward.build()
        size = self.task.size("eval")
        count = min(request.examples or size, size) if size is not None else request.examples or GENERATED
        self._plan = Plan(count, request.responses, request.seed, request.batch)
        self.settings = _settings(config, sampling, self.task, self._plan)

    @property
    def folder(self) -> Path:
        """The folder asked for, or one named after the settings."""
        return self._request.output or default_dir(self.settings, self.config.output.root)

    def load(self, model: ModelConfig | None = None) -> Policy:
        """Return the policy, or that of another model in its place.

        Raises:
            ModelError: If it does not load.
        """
        config = self.config
        return Policy.load(
            model or config.model, config.template.build(), sampling=config.sampling, entropy=config.entropy
        )

    def evaluate(
        self,
        folder: EvaluationDir,
        policy: Policy,
        *,
        perturb: Perturbation = list,
        on_progress: Callable[[int, int], None],
    ) -> dict[str, Any]:
        """Draw and grade the answers that the folder lacks, and write and return the result.

        Args:
            folder: The evaluation's folder, after its ``begin``.
            policy: The policy.
            perturb: Turns clean views into those that the policy gets.
            on_progress: Called with how many of how many examples are done.

        Raises:
            DataError: If too many examples cannot be used.
        """
        evaluator = Evaluator(
            policy,
            self.task,
            self.reward,
            self.sampling,
            self._plan,
            folder,
            max_bad_share=self.config.training.max_bad_share,
            perturb=perturb,
        )
        spent = evaluator.run(on_progress)
        records, left_out = folder.records(), folder.left_out()
        if not records:
            raise DataError(
                "Evaluation needs at least one usable example.",
                reason=f"None of {self._plan.examples} is; the first: {left_out[0].report}",
                remedy="Fix the data, or choose another split.",
            )
        if spent["answers"] == 0 and folder.complete:  # it was answered before; only scores are taken anew
            spent = folder.result()["time"]
        reporting = self.task.reporting
        result = {
            "scores": [_plain(record) for record in all_scores(by_example(records), reporting.score, self._ks)],
            "agreement": reporting.agreement,
            "notes": _notes(records, self._ks, len(left_out)),
            "examples": len({record.number for record in records}),
            "answers": len(records),
            "left_out": len(left_out),
            "length": mean([float(record.tokens) for record in records]),
            "truncated": mean([float(record.truncated) for record in records]),
            "unreadable": mean([float(record.answer is None) for record in records]),
            "time": spent,
            "versions": versions(),
            "commit": getattr(policy.model.config, "_commit_hash", None),
            "settings": folder.settings(),
        }
        folder.finish(result)
        return result


def run_benchmark(
    config: RunConfig,
    sampling: SamplingConfig,
    request: EvaluationRequest,
    *,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    note: Callable[[str], None] = lambda text: None,
) -> EvaluationDir:
    """Evaluate, or go on with an evaluation of the same settings, and return its folder with the result in it.

    Args:
        config: Model, task, template and reward.
        sampling: How responses are drawn.
        request: How many examples and responses, and where the answers go.
        on_progress: Called with how many of how many examples are done.
        note: Called with each text that the user should read.

    Raises:
        SaeiError: If data or model cannot be used, or the folder belongs to another evaluation.
    """
    benchmark = Benchmark(config, sampling, request)
    for text in benchmark.task.notes():
        note(text)
    folder = EvaluationDir(benchmark.folder)
    folder.check(benchmark.settings)
    policy = benchmark.load()  # before the folder is made: it could never be completed if the policy does not load
    folder.begin(benchmark.settings)
    with folder.lock:
        note(f"Answers: {folder.path}")
        benchmark.evaluate(folder, policy, on_progress=on_progress)
    return folder


def check_draws(responses: int, temperature: float) -> None:
    """Refuse several greedy responses to an example.

    Raises:
        ConfigError: If there are.
    """
    if responses > 1 and temperature == 0:
        raise ConfigError(
            "Several responses to an example need random sampling.",
            reason=f"--responses is {responses} at temperature 0.",
            remedy="Give --temperature 1, or --responses 1.",
        )


def _settings(config: RunConfig, sampling: SamplingConfig, task: Task, plan: Plan) -> dict[str, Any]:
    """Return everything that decides what is answered and how it is graded, as plain data."""
    table = task if isinstance(task, TableTask) else None
    return {
        "task": task.pinned().model_dump(mode="json"),
        "split": (table and table.source_split("eval")) or "eval",
        "source": table and table.source("eval"),
        "data": task.fingerprint("eval"),
        "examples": plan.examples,
        "responses": plan.responses,
        "seed": plan.seed,
        "sampling": sampling.model_dump(mode="json"),
        "template": config.template.model_dump(mode="json"),
        "reward": config.reward.model_dump(mode="json"),
        "model": model_settings(config.model),
        "plugins": list(config.plugins),
    }


def _notes(records: Sequence[Record], ks: Sequence[int], left_out: int) -> list[str]:
    notes = []
    if ks:
        notes.append(f"pass@k is unbiased, and takes {RULE}.")
    if any(record.approximate for record in records):
        notes.append("Scores marked ~ are approximate.")
    if any(record.parts.get("judged") for record in records):
        notes.append("A judge model decided on some answers; their lines have the part `judged`.")
    unavailable = sum(bool(record.parts.get("judge_unavailable")) for record in records)
    if unavailable:
        notes.append(f"The judge gave no opinion on {unavailable} answers, which count as wrong; `reason` says why.")
    if left_out:
        notes.append(f"{left_out} examples could not be used and are in no score; {DROPPED} says why.")
    return notes


def _plain(score: Score) -> dict[str, Any]:
    """Return a score as plain data, the interval flattened."""
    data = asdict(score)
    interval = data.pop("interval")
    named = {"name": data.pop("name"), "value": interval["mean"], "low": interval["low"], "high": interval["high"]}
    return named | data
