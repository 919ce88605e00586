"""What is measured between steps, and the strategies that take note of it."""

from __future__ import annotations

from collections.abc import Mapping

from saei.config.strategy import Strategy, observe_all
from saei.engine.control_probe import ControlProbe
from saei.engine.held_out import HeldOutEvaluation
from saei.engine.state import RunState
from saei.runtime.stopwatch import Stopwatch


class Measurements:
    """Evaluates, reads the control probe, and passes all metrics on to the strategies with state.

    Args:
        evaluation: On held-out examples.
        control_probe: The control probe, None where no strategy reads it.
        strategies: Strategies with state, by name.
        state: How far the run is. The control probe's responses count in its budget.
        stopwatch: Measures how long it takes.
    """

    def __init__(
        self,
        evaluation: HeldOutEvaluation,
        control_probe: ControlProbe | None,
        *,
        strategies: Mapping[str, Strategy],
        state: RunState,
        stopwatch: Stopwatch,
    ) -> None:
        self._evaluation, self._control_probe = evaluation, control_probe
        self._strategies, self._state, self._stopwatch = strategies, state, stopwatch

    def is_due(self, step: int) -> bool:
        """Return whether there is an evaluation once this many steps are done."""
        return self._evaluation.is_due(step)

    def before_training(self) -> dict[str, float]:
        """Evaluate the policy that training begins with, and return the metrics, the control probe's included."""
        metrics = self._evaluate() | self.read_control_probe()
        self._observe(metrics)
        if responses := metrics.get("control/responses"):  # they count, though no step has drawn them
            metrics |= {"train/sampled_responses": responses, "train/budget": float(self._state.budget)}
        return metrics

    def after_step(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Return a step's metrics with those of the evaluation that follows it, if one is due.

        Args:
            metrics: The step's, by full names.
        """
        measured = {**metrics, **(self._evaluate() if self.is_due(self._state.step) else {})}
        self._observe(measured)
        return measured

    def read_control_probe(self) -> dict[str, float]:
        """Return the metrics of the control probe, if a strategy reads it and it is due; its responses cost budget."""
        if self._control_probe is None or not self._control_probe.is_due(self._state.step):
            return {}
        with self._stopwatch.phase("control"):
            metrics = self._control_probe.metrics(self._state.step)
        self._state.budget += int(metrics["control/responses"])
        return metrics

    def _evaluate(self) -> dict[str, float]:
        with self._stopwatch.phase("evaluate"):
            return self._evaluation.metrics(self._state.step)

    def _observe(self, metrics: Mapping[str, float]) -> None:
        for strategy in self._strategies.values():
            observe_all(strategy, metrics)
