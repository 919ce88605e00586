"""A run of ``saei train --engine trl``: model, examples, reward and records, trained by TRL."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate import PartialState
from datasets import Dataset, Features, Image, List, Value
from transformers import TrainerCallback

from saei.config.run import RunConfig, dump
from saei.config.strategy import observe_all
from saei.data.base import Template
from saei.engine.display import PlainDisplay
from saei.engine.notes import opening_notes
from saei.engine.setup import Strategies, build_strategies, check_output, load_policy, open_data
from saei.errors import ConfigError
from saei.intake.stream import ViewStream
from saei.integrations.trl.arguments import grpo_arguments
from saei.integrations.trl.rows import RowFormat, pictures_of
from saei.integrations.trl.samples import GroupRecorder
from saei.integrations.trl.trainer import GRPOConfig, SaeiGRPOTrainer
from saei.integrations.vllm.engine import check_installed
from saei.rewards.base import Attempt, Reward
from saei.runtime.processes import Processes
from saei.runtime.run_dir import RunDir
from saei.runtime.trackers import project_of
from saei.types import Example

FEATURES = {
    "prompt": [{"role": Value("string"), "content": [{"type": Value("string"), "text": Value("string")}]}],
    "images": List(Image()),
    "example": Value("string"),
}


class TRLRun:
    """A run that TRL trains.

    The folder has ``config.yaml``, ``metrics.jsonl`` with TRL's names and saei's for the same numbers, ``samples/``,
    and TRL's checkpoints, each a model folder.

    Args:
        config: The run's configuration.
        extra: Further arguments of TRL's ``GRPOConfig``.

    Raises:
        SaeiError: For whatever in configuration, model or data cannot work, before any long work.
    """

    def __init__(self, config: RunConfig, extra: Mapping[str, Any]) -> None:
        state = PartialState(cpu=config.model.device == "cpu")
        if state.num_processes > 1 and config.output.name is None:
            raise ConfigError(
                "Processes that train together write into one folder.",
                reason=f"{state.num_processes} were launched, and the run has no name.",
                remedy="Give --name.",
            )
        # Whatever can be refused is refused before a model is loaded or a folder made.
        check_output(config)
        grpo_arguments(config, folder=Path(), processes=state.num_processes, extra=extra)
        if extra.get("use_vllm"):
            check_installed()
        strategies = build_strategies(config, splits=("train",))
        policy = load_policy(config, strategies.template)
        processes = Processes(state.num_processes, state.process_index)
        data = open_data(config, strategies, policy, processes, shared=False)
        config = config.model_copy(update={"task": strategies.task.pinned()})
        self.run = processes.once(lambda: RunDir.create(config, engine="trl"))
        self._config = config
        arguments = grpo_arguments(config, folder=self.run.checkpoints, processes=state.num_processes, extra=extra)
        with state.main_process_first():
            examples = _dataset(data.stream, strategies.template, config, self.run.path / "examples")
        self._notes = opening_notes(config, strategies.task, policy, data)
        scanned = data.scanned
        if scanned is not None:
            processes.once(lambda: scanned.write(self.run.path))
        parts = policy.parts
        recorder = None
        if processes.main:
            recorder = GroupRecorder(
                self.run,
                config.evaluation,
                steps=config.training.steps,
                tokenizer=policy.tokenizer,
                on_note=PlainDisplay().note,
            )
        self.trainer = SaeiGRPOTrainer(
            sampler=strategies.sampler,
            parts=parts,
            model_config=config.model,
            entropy=config.entropy,
            rows=_format(strategies),
            max_decoder_gap=config.training.max_decoder_gap,
            model=parts.adapter or parts.model,
            reward_funcs=_reward(strategies.reward, set(policy.eos_ids.tolist()), recorder),
            recorder=recorder,
            args=GRPOConfig(**arguments),
            train_dataset=examples,
            processing_class=policy.processor,
            callbacks=[_Record(self.run, strategies)],
        )

    def train(self) -> Path:
        """Train, and return the run's folder."""
        if self.trainer.accelerator.is_main_process:
            for note in self._notes:
                PlainDisplay().note(note)
        # transformers' own trackers read these from the environment; a user's settings take precedence.
        os.environ.setdefault("WANDB_PROJECT", project_of(self._config))
        os.environ.setdefault("WANDB_DIR", str(self.run.path))
        os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(self.run.path / "tensorboard"))
        try:
            self.trainer.train()
        finally:
            self.run.lock.release()
        return self.run.path


def _dataset(stream: ViewStream, template: Template, config: RunConfig, cache: Path) -> Dataset:
    """Return the examples of all steps in the stream's order; unusable ones are left out."""

    def rows() -> Iterator[dict[str, Any]]:
        for _ in range(config.training.steps * config.training.prompts_per_step):
            example = stream.take(1)[0].example
            yield {
                "prompt": [_parts(message) for message in template.messages(example)],
                "images": list(example.images),
                **_columns(example),
            }

    # Without a fingerprint datasets hashes `rows` and all that it refers to: the model's weights, in every process.
    fingerprint = hashlib.sha256(json.dumps(dump(config), sort_keys=True).encode()).hexdigest()[:16]
    return Dataset.from_generator(rows, features=Features(FEATURES), cache_dir=str(cache), fingerprint=fingerprint)


def _columns(example: Example) -> dict[str, str]:
    """Return what a row says of an example, but for its pictures."""
    texts = [example.id, example.question, example.answer, dict(example.meta)]
    return {"example": json.dumps([*texts, example.protected, example.wordings])}


def _example(text: str, pictures: Sequence[Any]) -> Example:
    """Return the example that a row's column ``example`` tells of."""
    name, question, answer, meta, protected, wordings = json.loads(text)
    spans = tuple((start, end) for start, end in protected)
    return Example(name, question, answer, tuple(pictures), meta, spans, tuple(wordings))


def _format(strategies: Strategies) -> RowFormat:
    """Return how rows are the task's examples."""

    def example(number: int, prompt: Sequence[Mapping[str, Any]], row: Mapping[str, Any]) -> Example:
        return _example(row["example"], pictures_of(prompt))

    answer = strategies.task.answer if strategies.task.oracle else None
    return RowFormat(strategies.template, example, _columns, answer)


def _parts(message: Mapping[str, Any]) -> dict[str, Any]:
    """Return a message whose content is a list of parts of one form, by which TRL places the pictures."""
    content = message["content"]
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    parts = [{"type": part["type"], "text": part.get("text")} for part in content]
    return {"role": message["role"], "content": parts}


def _reward(reward: Reward, eos_ids: set[int], recorder: GroupRecorder | None) -> Callable[..., list[float]]:
    def graded(
        completions: Sequence[Any],
        completion_ids: Sequence[Sequence[int]],
        example: Sequence[str],
        images: Sequence[Any],
        log_metric: Callable[[str, float], None],
        **_: Any,
    ) -> list[float]:
        attempts = []
        for completion, ids, text, pictures in zip(completions, completion_ids, example, images, strict=True):
            truncated = not ids or ids[-1] not in eos_ids
            attempts.append(Attempt(_example(text, pictures or ()), completion[0]["content"], truncated, len(ids)))
        grades = reward.grade_all(attempts)
        if recorder is not None:
            recorder.graded(grades)
        for grade in grades:
            log_metric("saei/accuracy", float(grade.correct))
        return [grade.reward for grade in grades]

    graded.__name__ = reward.name()
    return graded


SAME = {
    "reward": "reward",
    "loss": "loss",
    "grad_norm": "grad_norm",
    "learning_rate": "lr",
    "entropy": "entropy",
    "frac_reward_zero_std": "zero_variance",
    "completions/mean_length": "length",
    "completions/clipped_ratio": "truncated",
    "saei/accuracy": "accuracy",
    "saei/untouched": "untouched",
    "saei/decoder_gap": "decoder_gap",
    "saei/decoder_gap_max": "decoder_gap_max",
}
"""Names of TRL's metrics and the names that saei's own engine has for the same."""


def observed(logs: Mapping[str, Any]) -> dict[str, float]:
    """Return what TRL logged about a training step, by the full names that strategies see in saei's own engine.

    What is reported of an intervention is ``train/intervention/<name>``; what saei has no name for is left out, and so
    are the numbers of TRL's own evaluation.
    """
    metrics = {}
    for name, value in logs.items():
        if name.startswith("eval_") or not isinstance(value, int | float):
            continue
        if name in SAME:
            metrics[f"train/{SAME[name]}"] = float(value)
        elif name.startswith("saei/"):
            metrics[f"train/intervention/{name.removeprefix('saei/')}"] = float(value)
    return metrics


class _Record(TrainerCallback):  # type: ignore[misc]  # transformers has no types
    """Writes what TRL logs into the run's metrics, and shows it to the strategies with state."""

    def __init__(self, run: RunDir, strategies: Strategies) -> None:
        self._run, self._stateful = run, strategies.stateful

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **_: Any) -> None:
        if state.is_world_process_zero and logs:
            self._run.append({"step": state.global_step, **logs, **observed(logs)})
        metrics = observed(logs or {})
        if metrics:
            for strategy in self._stateful.values():
                observe_all(strategy, metrics)
