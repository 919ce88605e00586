"""Rescues: groups that only responses from other views than the clean one solve, against as many further clean ones.

A response from an attacked view is one more try, so that it solves something now and then proves nothing. Further tries
from the clean view are what it is compared with.
"""

from __future__ import annotations

from collections.abc import Sequence

from saei.config.run import RunConfig
from saei.engine.grader import StepGrader
from saei.policy import Policy
from saei.rewards.base import Reward
from saei.runtime.processes import Processes
from saei.runtime.seeds import GroupSources, globals_kept
from saei.types import CLEAN, ScoredGroup


class Rescues:
    """Counts the groups of a step whose clean responses are all wrong, and which of the others solves them.

    Further clean responses have seeds of their own, are not trained on and cost no budget; nothing that steers the
    training is told of them.

    Args:
        config: The run's configuration.
        policy: The policy.
        reward: Grades the further responses.
        processes: Those that share the groups; metrics cover all of them.
    """

    def __init__(self, config: RunConfig, policy: Policy, reward: Reward, processes: Processes) -> None:
        self._config, self._policy, self._reward, self._processes = config, policy, reward, processes

    def metrics(self, step: int, scored: Sequence[ScoredGroup], *, evaluated: bool) -> dict[str, float]:
        """Return how many groups there are to be rescued, and the share that is; empty where all views are clean.

        Names: ``rescues`` is the share of ``rescues/groups`` that a response from another view solves,
        ``rescues/clean`` the share that as many further clean responses solve. Without such groups there are no shares.

        Args:
            step: Steps done before this one.
            scored: This process's groups, with all of their responses.
            evaluated: Whether an evaluation follows the step.
        """
        mixed = [group for group in scored if _others(group)]
        if not self._processes.total(len(mixed)):
            return {}
        unsolved = [group for group in mixed if not _solved(group, clean=True)]
        groups = self._processes.total(len(unsolved))
        metrics = {"rescues/groups": float(groups)}
        if groups:
            rescued = self._processes.total(sum(_solved(group, clean=False) for group in unsolved))
            metrics["rescues"] = rescued / groups
            when = self._config.evaluation.rescues
            if when == "always" or (when == "evaluated-steps" and evaluated):
                metrics["rescues/clean"] = self._processes.total(self._solved_again(step, unsolved)) / groups
        return {f"intervention/{name}": value for name, value in metrics.items()}

    def _solved_again(self, step: int, unsolved: Sequence[ScoredGroup]) -> int:
        """Return how many groups further clean responses solve, as many as a group has from other views."""
        if not unsolved:
            return 0
        views = [scored.group.views[0] for scored in unsolved]
        sources = GroupSources(self._config.seed, "rescues", step)
        watching, self._policy.on_decoded = self._policy.on_decoded, None  # the gap is that of the training
        try:
            with globals_kept():
                drawn = self._policy.sample(
                    views, [len(_others(group)) for group in unsolved], generators=[sources(view) for view in views]
                )
                grader = StepGrader(self._reward)
                grades = [grader(view, responses) for view, responses in zip(views, drawn, strict=True)]
        finally:
            self._policy.on_decoded = watching
        return sum(any(grade.correct for grade in of_group) for of_group in grades)


def _others(scored: ScoredGroup) -> list[int]:
    """Return the numbers of a group's responses that were drawn from other views than the clean one."""
    group = scored.group
    return [n for n in range(len(group.responses)) if group.origin(n) != CLEAN]


def _solved(scored: ScoredGroup, *, clean: bool) -> bool:
    """Return whether a response from the clean view is right, or one from another view."""
    group = scored.group
    return any(grade.correct for n, grade in enumerate(scored.grades) if (group.origin(n) == CLEAN) is clean)
