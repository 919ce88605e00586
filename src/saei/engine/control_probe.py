"""The control probe: the policy's entropy on examples of the training split, for strategies that steer by it.

What a strategy steers by is no evidence of what it achieves. So this probe shares no example and no draw with the
evaluations, and the strategies that read it see no evaluation: ``observe_all`` keeps the two apart.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

from saei.config.run import RunConfig
from saei.evaluation.answers import VIEWS_PER_BATCH
from saei.intake.stream import ViewStream
from saei.policy import Policy
from saei.runtime.processes import Processes
from saei.runtime.seeds import GroupSources, derive
from saei.types import View

SEED = 41_777
"""Seed of the probe's draws and of its examples: the same for every method and run, whatever the run's seed."""


class ControlProbe:
    """Fresh responses to the clean view of the same training examples every time.

    The examples are drawn at random from a finite training split and are trained on like all others, so that a run
    with a thermostat trains on the examples of the run without one. Of a task without end they are examples that no
    run reaches.

    Args:
        config: The run's configuration.
        policy: The policy.
        stream: Makes the views.
        held_out: The views that the run evaluates on; an example that looks like one of them is passed over.
        processes: They share the examples; metrics cover all of them.

    Raises:
        DataError: If no example is left.
    """

    def __init__(
        self, config: RunConfig, policy: Policy, *, stream: ViewStream, held_out: Sequence[View], processes: Processes
    ) -> None:
        self._config, self._policy, self._processes = config, policy, processes
        evaluated = set(map(_content, held_out))
        self._views = stream.apart(
            config.control.examples,
            seed=derive(SEED, "examples"),
            usable=lambda view: _content(view) not in evaluated,
        )

    def is_due(self, step: int) -> bool:
        """Return whether the probe is read once this many steps are done; after the last there is nothing to steer."""
        return step % self._config.control.every == 0 and step < self._config.training.steps

    def metrics(self, step: int) -> dict[str, float]:
        """Return mean token entropy in nats, the share of the training done, and how many responses were drawn.

        Args:
            step: Steps done.
        """
        sampling = self._config.sampling.model_copy(update={"temperature": 1.0})
        sources, count = GroupSources(SEED, "draw", step), self._config.control.responses
        share = self._processes.share(self._views)
        sums: list[tuple[float, int]] = []
        for start in range(0, len(share), VIEWS_PER_BATCH):
            batch = share[start : start + VIEWS_PER_BATCH]
            generators = [sources(view) for view in batch]
            drawn = self._policy.sample(batch, [count] * len(batch), sampling=sampling, generators=generators)
            sums += [(float(response.entropy_T.sum()), len(response)) for of_view in drawn for response in of_view]
        everywhere = [each for of_process in self._processes.gather(sums) for each in of_process]
        # An exact sum, so that it does not depend on how many processes there are.
        entropy = math.fsum(total for total, _ in everywhere) / max(1, sum(length for _, length in everywhere))
        return {
            "control/entropy": entropy,
            "control/progress": step / self._config.training.steps,
            "control/responses": float(len(everywhere)),
        }


def _content(view: View) -> Hashable:
    """Return what the policy sees of an example: equal views are one example, whatever their names."""
    canvases = tuple(canvas.cpu().numpy().tobytes() for canvas in view.canvases)
    return tuple(view.prompt_ids_P.tolist()), canvases
