"""A quick look at a policy: accuracy and the collapse probe on a few held-out examples, nothing written."""

from __future__ import annotations

from collections.abc import Callable

from saei.config.run import RunConfig
from saei.config.sections import SamplingConfig
from saei.data.base import check_data
from saei.evaluation.accuracy import accuracy_metrics
from saei.evaluation.answers import answer
from saei.evaluation.probe import probe_metrics
from saei.intake.stream import ViewStream
from saei.policy import Policy


def measure(
    config: RunConfig,
    sampling: SamplingConfig,
    *,
    examples: int,
    responses: int,
    seed: int,
    note: Callable[[str], None] = lambda text: None,
) -> tuple[int, dict[str, float]]:
    """Return the number of examples there were, and accuracy and probe metrics of the policy that a run names.

    The probe is defined at temperature 1 over the full vocabulary, and left out for other ``sampling``.
    """
    task, reward, template = config.task.build(), config.reward.build(), config.template.build()
    check_data(task, ("eval",))
    policy = Policy.load(config.model, template, sampling=config.sampling, entropy=config.entropy)
    stream = ViewStream(task, policy, seed=config.seed, max_bad_share=config.training.max_bad_share, reward=reward)
    views = stream.held_out(examples)
    for report in (*task.notes(), *stream.unreported()):
        note(report)
    answered = answer(policy, reward, views, responses=responses, sampling=sampling, seed=seed)
    found = accuracy_metrics(answered)
    if sampling.temperature == 1 and sampling.top_p == 1 and sampling.top_k is None:
        found |= probe_metrics(answered, task)
    return len(views), found
