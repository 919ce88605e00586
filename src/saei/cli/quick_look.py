"""The quick look of ``saei eval``: accuracy and the collapse probe on a few held-out examples, nothing written."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from saei.cli.loading import loading
from saei.cli.result import show_quick_look
from saei.config.run import RunConfig
from saei.config.sections import SamplingConfig


def quick_look(
    config: RunConfig,
    decoding: Mapping[str, Any],
    *,
    examples: int,
    responses: int,
    seed: int,
    note: Callable[[str], None],
    as_json: bool,
) -> None:
    """Measure a policy and print the metrics.

    Args:
        config: Model, task, template and reward.
        decoding: Temperature, top-p and top-k.
        examples: Most examples to measure on.
        responses: Responses to each example.
        seed: Seed of the draws.
        note: Called with each text that the user should read.
        as_json: Print JSON in place of tables.

    Raises:
        SaeiError: If data or model cannot be used.
    """
    sampling = config.sampling.model_copy(update=decoding)
    example_count, metrics = measure(config, sampling, examples=examples, responses=responses, seed=seed, note=note)
    report: dict[str, Any] = {
        "model": config.model.path,
        "task": config.task.model_dump(mode="json"),
        "split": "eval",
        "examples": example_count,
        "responses": responses,
        **decoding,
        "seed": seed,
    }
    if as_json:
        print(json.dumps(report | {"metrics": metrics}, indent=2))
    else:
        show_quick_look(report, metrics)


def measure(
    config: RunConfig,
    sampling: SamplingConfig,
    *,
    examples: int,
    responses: int,
    seed: int,
    note: Callable[[str], None] = lambda text: None,
) -> tuple[int, dict[str, float]]:
    """Measure the policy that a configuration names, without writing anything.

    The collapse probe is defined at temperature 1 over the full vocabulary, and left out for other ``sampling``.

    Args:
        config: Model, task, template and reward.
        sampling: How responses are drawn.
        examples: Most examples to measure on.
        responses: Responses to each example.
        seed: Seed of the draws.
        note: Called with each text that the user should read.

    Returns:
        The number of examples that there were, and the metrics: accuracy, and the probe's where it is defined.

    Raises:
        SaeiError: If data or model cannot be used.
    """
    from saei.data.base import check_data
    from saei.evaluation.accuracy import accuracy_metrics
    from saei.evaluation.answers import answer
    from saei.evaluation.probe import probe_metrics
    from saei.intake.stream import ViewStream
    from saei.policy import Policy

    task, reward, template = config.task.build(), config.reward.build(), config.template.build()
    check_data(task, ("eval",))
    with loading(config):
        policy = Policy.load(config.model, template, sampling=config.sampling, entropy=config.entropy)
    stream = ViewStream(task, policy, seed=config.seed, max_bad_share=config.training.max_bad_share, reward=reward)
    views = stream.held_out(examples)
    for report in (*task.notes(), *stream.unreported()):
        note(report)
    answer_sets = answer(policy, reward, views, responses=responses, sampling=sampling, seed=seed)
    metrics = accuracy_metrics(answer_sets)
    if sampling.temperature == 1 and sampling.top_p == 1 and sampling.top_k is None:
        metrics |= probe_metrics(answer_sets, task)
    return len(views), metrics
