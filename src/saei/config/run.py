"""A run's configuration as a whole, from plain data and back.

Strategies are open fields: nothing here knows one by more than its name, and nothing here imports torch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Self

from pydantic import Field, ValidationError, model_validator

from saei.config.control_probe import ControlProbeConfig, readers_of_control_probe
from saei.config.explain import explain
from saei.config.registry import (
    DecoderField,
    ObjectiveField,
    RewardField,
    SamplerField,
    TaskField,
    TemplateField,
    load_plugin,
)
from saei.config.sections import (
    EntropyConfig,
    EvaluationConfig,
    ModelConfig,
    OptimizerConfig,
    OutputConfig,
    SamplingConfig,
    TrainingConfig,
)
from saei.config.strategy import Section, strategy_kind
from saei.config.yaml import MAX_DEPTH
from saei.errors import ConfigError, PluginLoadError, shown

_UNWRITABLE = re.compile("[\\0\ud800-\udfff]")


class RunConfig(Section):
    """All of a run. Equal configurations on equal machines give equal runs.

    Attributes:
        model: Which policy is trained.
        task: Where examples come from.
        template: How an example becomes a prompt.
        reward: How a response is graded.
        sampler: How many responses are drawn from which views; holds the intervention.
        decoder: Who draws the responses.
        objective: The policy loss, its terms and its advantages.
        sampling: How responses are drawn.
        entropy: Which distribution the criterion's entropy is taken of.
        optimizer: AdamW and its schedule.
        training: How long and in which portions.
        evaluation: What is measured while training.
        control: What strategies that steer the training read in its place.
        output: Where the run writes.
        seed: Seed of everything random in the run; the task has its own.
        plugins: Python files or modules with strategies, imported before anything is looked up. A file's relative
            paths start at its folder.
    """

    model: ModelConfig = ModelConfig()
    task: TaskField = "bars"  # type: ignore[assignment]  # names are resolved by the validator
    template: TemplateField = "think-boxed"  # type: ignore[assignment]
    reward: RewardField = "accuracy-format"  # type: ignore[assignment]
    sampler: SamplerField = "mixed"  # type: ignore[assignment]
    decoder: DecoderField = "native"  # type: ignore[assignment]
    objective: ObjectiveField = "grpo"  # type: ignore[assignment]
    sampling: SamplingConfig = SamplingConfig()
    entropy: EntropyConfig = EntropyConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    control: ControlProbeConfig = ControlProbeConfig()
    output: OutputConfig = OutputConfig()
    seed: int = Field(default=0, ge=0, lt=2**63)
    plugins: tuple[str, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _import_plugins(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and isinstance(data.get("plugins"), list | tuple):
            for plugin in data["plugins"]:
                load_plugin(str(plugin))
        return data

    @model_validator(mode="after")
    def _on_policy(self) -> Self:
        if self.sampling.temperature == 0 or self.sampling.top_p < 1 or self.sampling.top_k is not None:
            raise ValueError(
                "Training samples from the policy itself: temperature above 0, no top_p, no top_k. "
                "The log-probabilities of the update assume that distribution. "
                "Set top_p, top_k and greedy decoding for `saei eval` only."
            )
        return self

    @model_validator(mode="after")
    def _control_probe_while_training(self) -> Self:
        readers = readers_of_control_probe(self)
        if readers and self.control.every >= self.training.steps:
            raise ValueError(
                f"The {readers[0]} steers by the control probe, which has to be read while the run trains: "
                f"control.every is {self.control.every}, training.steps {self.training.steps}. Lower control.every, "
                "or train for more steps."
            )
        return self


SECTIONS: Mapping[str, type[Section]] = {
    name: field.annotation
    for name, field in RunConfig.model_fields.items()
    if strategy_kind(RunConfig, name) is None
    and isinstance(field.annotation, type)
    and issubclass(field.annotation, Section)
}
"""The sections of a run's configuration that are no strategies."""


def validate(data: Mapping[str, Any]) -> RunConfig:
    """Return the run configuration of plain data.

    Raises:
        ConfigError: With one line per field that is wrong.
        PluginLoadError: If a strategy or plugin that was asked for does not import.
    """
    _check_text(data)
    try:
        return RunConfig.model_validate(data)
    except ValidationError as error:
        problems = error.errors()
        for item in problems:
            cause = item.get("ctx", {}).get("error")
            if isinstance(cause, PluginLoadError):
                raise cause from cause.__cause__
        raise explain(RunConfig, data, problems) from error


def _check_text(data: Any, path: str = "", depth: int = 0) -> None:
    """Refuse text that no file could be named by or hold, and data that no file could hold for its depth.

    Raises:
        ConfigError: If a text has a NUL character or half of a surrogate pair, as bytes that are no UTF-8 become, or
            data is nested too deeply, such as a mapping within itself.
    """
    if depth > MAX_DEPTH:
        raise ConfigError(
            f"A configuration is nested at most {MAX_DEPTH} deep.",
            reason=f"{shown(path)} goes deeper.",
            remedy="See whether a mapping or list stands within itself.",
        )
    if isinstance(data, Mapping):
        for name, value in data.items():
            _check_text(name, path, depth + 1)
            _check_text(value, f"{path}.{name}" if path else str(name), depth + 1)
    elif isinstance(data, list | tuple):
        for value in data:
            _check_text(value, path, depth + 1)
    elif isinstance(data, str) and _UNWRITABLE.search(data):
        raise ConfigError(
            "Text in a configuration is UTF-8 without NUL characters.",
            reason=f"{path or 'A key'} is {shown(data)}.",
            remedy="Write it with other characters.",
        )


def dump(config: RunConfig) -> dict[str, Any]:
    """Return a configuration as plain data that ``validate`` reads back to an equal one."""
    return config.model_dump(mode="json")
