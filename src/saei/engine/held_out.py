"""What is measured between steps: sampled accuracy and the collapse probe, on held-out examples, clean view."""

from __future__ import annotations

from collections.abc import Sequence

from saei.config.run import RunConfig
from saei.config.sections import SamplingConfig
from saei.data.base import Task
from saei.evaluation.accuracy import accuracy_metrics
from saei.evaluation.answers import AnswerSet, answer
from saei.evaluation.held_out_answers import answers_of
from saei.evaluation.probe import probe_metrics
from saei.evaluation.records import ExampleAnswers
from saei.intake.stream import ViewStream
from saei.policy import Policy
from saei.rewards.base import Reward
from saei.runtime.processes import Processes
from saei.runtime.seeds import derive
from saei.types import View

PROBE_SEED = 20_512
"""Seed of the probe's draws: the same for every method and run, whatever the run's seed."""


class HeldOutEvaluation:
    """Evaluates a policy on the same held-out examples every time.

    Args:
        config: The run's configuration.
        policy: The policy.
        task: Tells, if it can, which strategy an answer follows, for the probe.
        reward: Grades answers.
        stream: Makes the views.
        processes: They share the examples; metrics cover all of them.

    Attributes:
        views: All views that it evaluates on.
        answers: Which responses to which examples were right at the last evaluation.

    Raises:
        DataError: If there are not enough usable examples.
    """

    def __init__(
        self,
        config: RunConfig,
        policy: Policy,
        *,
        task: Task,
        reward: Reward,
        stream: ViewStream,
        processes: Processes,
    ) -> None:
        self._config, self._policy, self._task, self._reward = config, policy, task, reward
        self._processes = processes
        views = stream.held_out(max(config.evaluation.examples, config.evaluation.probe_examples))
        self.views = views
        self.answers: list[ExampleAnswers] = []
        self._held_out, self._probe = views[: config.evaluation.examples], views[: config.evaluation.probe_examples]

    def is_due(self, step: int) -> bool:
        """Return whether there is an evaluation once this many steps are done."""
        return step % self._config.evaluation.every == 0 or step == self._config.training.steps

    def metrics(self, step: int) -> dict[str, float]:
        """Return ``eval/`` accuracy at the training temperature and ``probe/`` collapse at temperature 1.

        Args:
            step: Steps done.
        """
        config = self._config.evaluation
        sampling = self._config.sampling
        answered = self._answer(self._held_out, config.responses, sampling, derive(self._config.seed, "evaluate", step))
        at_temperature_1 = sampling.model_copy(update={"temperature": 1.0})
        probed = self._answer(self._probe, config.probe_responses, at_temperature_1, derive(PROBE_SEED, step))
        self.answers = answers_of(answered, self._task.reporting.cluster)
        accuracy = {f"eval/{name}": value for name, value in accuracy_metrics(answered).items()}
        return accuracy | {f"probe/{name}": value for name, value in probe_metrics(probed, self._task).items()}

    def _answer(self, views: Sequence[View], responses: int, sampling: SamplingConfig, seed: int) -> list[AnswerSet]:
        return answer(
            self._policy,
            self._reward,
            views,
            responses=responses,
            sampling=sampling,
            seed=seed,
            processes=self._processes,
        )
