"""Drawing the final evaluation of a run from its last checkpoint, which is all that it takes of the training.

The problems are of the split `eval` and the same for all runs. No evaluation of the training looks at them: of a task
without end they are those from `FIRST` on, which no gate of a recipe reaches either, of another one those behind the
last problem of the run's own evaluations. Seeds are the same for all runs, too, whatever their own.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from saei.config.run import RunConfig
from saei.data.base import Task
from saei.engine import checkpoint
from saei.engine.setup import load_policy, start_processes
from saei.errors import ConfigError
from saei.evaluation.answers import AnswerSet, answer
from saei.evaluation.drawing import Perturbation
from saei.evaluation.robustness.conditions import Condition, ConditionIntervention, Kind
from saei.evaluation.robustness.fixed_set import FixedSet
from saei.evaluation.store import finite, model_settings
from saei.intake.stream import ViewStream
from saei.need import Need
from saei.objectives.kl import k3
from saei.policy import Policy
from saei.rewards.base import Reward
from saei.runtime.files import check_folder, disk_errors, write_whole
from saei.runtime.lock import FolderLock
from saei.runtime.processes import Processes
from saei.runtime.run_dir import RunDir
from saei.runtime.seeds import derive
from saei.studies.final.measures import against_base, by_problem, content_ids, measures, problem_result
from saei.studies.final.settings import FINAL, FinalSettings, UnderAttack
from saei.types import View

BASES = "finals"
"""Folder beside that of the runs, with what their bases measure."""

FIRST = 2**20
"""Of a task without end, the first problem."""

SEED = 60_913
"""Seed of all draws."""

ROWS = 1024
"""Responses that are decoded together, at least those to one problem."""

VIEWS = 32
"""Views that are attacked or scored together."""

DIVERGENCE_EXAMPLES, DIVERGENCE_RESPONSES = 32, 4
"""What the divergences from and to the base are estimated on."""

LOOK_S = 1.0
"""Seconds between two looks whether another process has evaluated the base."""

LOGP = Need("logp")

KINDS: Mapping[UnderAttack, Kind] = {
    "noise": "noise",
    "entropy-pgd": "entropy",
    "nll-pgd": "gold",
    "from-base": "gold",
}

T = TypeVar("T")


def check_problems(config: RunConfig, settings: FinalSettings) -> None:
    """Refuse a final evaluation for which too few problems are left.

    Raises:
        ConfigError: If the split is too small.
    """
    size, evaluated = config.task.build().size("eval"), _evaluated(config)
    if size is not None and evaluated + settings.examples > size:
        raise ConfigError(
            "A final evaluation takes problems that no evaluation of the run looks at.",
            reason=f"The split eval has {size}, evaluations look at {evaluated}, and {settings.examples} more are "
            "wanted.",
            remedy="Lower final.examples, evaluation.examples or evaluation.probe_examples.",
        )


def evaluate_run(run: RunDir, config: RunConfig, settings: FinalSettings) -> None:
    """Write the final evaluation of a run whose last checkpoint is there; the file is the last thing that is written.

    Args:
        run: The run.
        config: Its configuration.
        settings: What is measured.

    Raises:
        SaeiError: If checkpoint, base or data cannot be used, or another process writes into the run's folder.
    """
    sampling = config.sampling.model_copy(update={"temperature": 1.0, "top_p": 1.0, "top_k": None})
    config = config.model_copy(update={"sampling": sampling})
    template = config.template.build()
    trained = load_policy(config, template, checkpoint=checkpoint.latest(run.checkpoints))
    _, processes = start_processes(config, trained.device)
    processes.once(run.lock.acquire)
    try:
        base = load_policy(config, template)
        task, reward = config.task.build(), config.reward.build()
        drawing = _Drawing(config, settings, task, reward, processes, tuple(_problems(config, settings, task, trained)))
        folder = run.path.parent.with_name(BASES) / _base_digest(config, settings, task)
        of_base = drawing.cached(folder, base)
        start = time.perf_counter()
        result = drawing.evaluated(trained)
        result |= against_base(result, of_base)
        result["final/kl/to_base"] = drawing.divergence(trained, base)
        result["final/kl/from_base"] = drawing.divergence(base, trained)
        result |= drawing.under_attack(trained, base, result["problems"], folder)
        result["problems"]["base_right"] = of_base["problems"]["right"]
        result["final/seconds"] = time.perf_counter() - start
        processes.once(lambda: _write(run.path / FINAL, result))
    finally:
        run.lock.release()


@dataclass(frozen=True, eq=False, slots=True)
class _Drawing:
    """What is the same for every policy that is evaluated: problems, reward and draws."""

    config: RunConfig
    settings: FinalSettings
    task: Task
    reward: Reward
    processes: Processes
    views: Sequence[View]

    def evaluated(self, policy: Policy) -> dict[str, Any]:
        """Return a policy's measures, and its ``problems``."""
        content, share = content_ids(policy.tokenizer), self.processes.share(self.views)
        size = max(1, ROWS // self.settings.responses)
        results = []
        for start in range(0, len(share), size):
            answered = self._answer(policy, share[start : start + size], self.settings.responses, "responses")
            results += [problem_result(answers, self.task, content) for answers in answered]
        problems = self._of_all(results)
        return {**measures(problems), "problems": by_problem(problems)}

    def cached(self, folder: Path, base: Policy) -> dict[str, Any]:
        """Return the base's measures, evaluated by the first process that asks; the others wait for it."""
        file, lock = folder / FINAL, FolderLock(folder)
        try:
            if not self.processes.once(lambda: _exists_or_locked(file, lock)):
                result = self.evaluated(base)
                self.processes.once(lambda: _write(file, result))
        finally:
            lock.release()
        return self.processes.once(lambda: dict(json.loads(file.read_bytes())))

    def divergence(self, policy: Policy, other: Policy) -> float:
        """Return the estimated KL divergence from a policy to another, in nats per token of the first one's responses.

        It is the mean of Schulman's k3, as in ``view_divergence``.
        """
        total, tokens = 0.0, 0
        for views in self._blocks(DIVERGENCE_EXAMPLES):
            responses = [sets.responses for sets in self._answer(policy, views, DIVERGENCE_RESPONSES, "divergence")]
            for known, of_view in zip(other.statistics({LOGP}, views, responses), responses, strict=True):
                for logp_T, response in zip(known[LOGP], of_view, strict=True):
                    total += float(k3(logp_T[: len(response)] - response.behaviour_logp_T).double().sum())
                    tokens += len(response)
        return sum(self.processes.gather(total)) / max(1, self.processes.total(tokens))

    def under_attack(
        self, policy: Policy, base: Policy, problems: Mapping[str, Sequence[int]], folder: Path
    ) -> dict[str, float]:
        """Return a policy's accuracy under each perturbation, and its accuracy on the same problems without one."""
        settings = self.settings
        if not settings.under_attack:
            return {}
        right, responses = (problems[name][: settings.attacked_examples] for name in ("right", "responses"))
        accuracies = {"clean": sum(right) / sum(responses)}
        for name in settings.under_attack:
            perturb, grades = self._perturbation(name, policy, base, folder), []
            for views in self._blocks(settings.attacked_examples):
                answered = self._answer(policy, perturb(views), settings.attacked_responses, f"under {name}")
                grades += [grade.correct for answers in answered for grade in answers.grades]
            everywhere = self._of_all(grades)
            accuracies[name.removeprefix("from-")] = sum(everywhere) / len(everywhere)
        return {f"final/under/{name}": accuracy for name, accuracy in accuracies.items()}

    def _perturbation(self, name: UnderAttack, policy: Policy, base: Policy, folder: Path) -> Perturbation:
        on_base, radius = name == "from-base", self.settings.radius
        condition = Condition(KINDS[name], radius, self.config.model.path if on_base else "")
        perturb = ConditionIntervention(
            condition, base if on_base else policy, self.reward, self.config.sampling, derive(SEED, name)
        )
        return FixedSet(folder / condition.name, policy, base, perturb) if on_base else perturb

    def _blocks(self, examples: int) -> Sequence[Sequence[View]]:
        """Return this process's share of the first problems, in blocks."""
        share = self.processes.share(self.views[:examples])
        return [share[start : start + VIEWS] for start in range(0, len(share), VIEWS)]

    def _answer(self, policy: Policy, views: Sequence[View], responses: int, purpose: str) -> list[AnswerSet]:
        seed = derive(SEED, purpose)
        return answer(policy, self.reward, views, responses=responses, sampling=self.config.sampling, seed=seed)

    def _of_all(self, values: Sequence[T]) -> list[T]:
        """Return the values of all processes, in the order of the problems."""
        return [value for of_process in self.processes.gather(values) for value in of_process]


def _evaluated(config: RunConfig) -> int:
    """Return how many problems a run's own evaluations look at."""
    return max(config.evaluation.examples, config.evaluation.probe_examples)


def _problems(config: RunConfig, settings: FinalSettings, task: Task, policy: Policy) -> list[View]:
    """Return the views of the problems."""
    stream = ViewStream(
        task, policy, seed=config.seed, max_bad_share=config.training.max_bad_share, reward=config.reward.build()
    )
    if task.size("eval") is None:
        return stream.held_out(settings.examples, FIRST)
    return stream.held_out(settings.examples, stream.held_out(_evaluated(config))[-1].index + 1)


def _base_digest(config: RunConfig, settings: FinalSettings, task: Task) -> str:
    """Return what names the evaluation of a base: a hash of all that decides it."""
    decisive = {
        "model": model_settings(config.model),
        "task": task.pinned().model_dump(mode="json"),
        "data": task.fingerprint("eval"),
        "evaluated": _evaluated(config),
        **{name: getattr(config, name).model_dump(mode="json") for name in ("template", "reward", "sampling")},
        "plugins": [Path(name).read_text("utf-8") if Path(name).is_file() else name for name in config.plugins],
        "examples": settings.examples,
        "responses": settings.responses,
    }
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:16]


def _exists_or_locked(file: Path, lock: FolderLock) -> bool:
    """Return whether a file exists, in the end; if not, its folder is locked for writing it.

    Raises:
        ConfigError: If the folder is not writable.
    """
    check_folder(file.parent)
    while not file.is_file():
        try:
            lock.acquire()
        except ConfigError:
            time.sleep(LOOK_S)
            continue
        return file.is_file()  # it may have been written just before
    return True


def _write(file: Path, result: Mapping[str, Any]) -> None:
    with disk_errors("A final evaluation is written as a whole.", file, "Free some space; the same command goes on."):
        write_whole(file, json.dumps(finite(result), allow_nan=False) + "\n")
