"""The cost of the shared prefix, the attack and a whole step on a user's model, as ratios measured in one run."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saei.config.overrides import assigned
from saei.config.run import RunConfig
from saei.diagnostics.cost import Workload, peak_growth, ratio, retain_freed_memory, time_in_turns
from saei.diagnostics.synthetic import draw_responses, step_config
from saei.engine import Trainer
from saei.errors import ConfigError
from saei.interventions import Intervention
from saei.interventions.context import StepContext, Supply, answer_kept
from saei.policy import Policy
from saei.runtime.seeds import GroupSources
from saei.samplers.base import Sampler
from saei.samplers.clean import Clean
from saei.types import Grade, Response, View

SCORE = "score half of the responses, one row each"
NAIVE_ATTACK = "attack along them, one row each"
ATTACK = "attack along them, shared prefix"
PLAIN = "score all + backward, one row each"
SHARED = "score all + backward, shared prefix"
PLAIN_STEP = "training step, plain GRPO"
SAEI_STEP = "training step, SaEI"

RATIOS = {
    "attack_over_score": (ATTACK, SCORE),
    "attack_over_naive": (ATTACK, NAIVE_ATTACK),
    "shared_over_plain": (SHARED, PLAIN),
    "saei_step_over_plain_step": (SAEI_STEP, PLAIN_STEP),
}
"""Name, numerator and denominator of each ratio."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """The sizes of a benchmark.

    Attributes:
        side: Side of the square picture, in pixels.
        prompts: Prompts of a training step.
        responses: Responses to each prompt; half of them are attacked, or adversarial in SaEI's step.
        tokens: Tokens of every response.
        rounds: Number of rounds; every workload runs once in each.
    """

    side: int = 256
    prompts: int = 2
    responses: int = 12
    tokens: int = 64
    rounds: int = 5


def bench(config: RunConfig, sizes: Sizes) -> dict[str, Any]:
    """Measure a model on synthetic examples, whatever the run's task, reward and sizes.

    Responses have exactly the given length, since the end-of-sequence token is banned. Seconds are process CPU time for
    a model on a CPU, else wall time; bytes are the growth of memory at its peak, None where it cannot be measured.

    Args:
        config: Names the model and the intervention.
        sizes: The sizes of the benchmark.

    Raises:
        SaeiError: If the model or the configuration cannot be used.
    """
    plan = config.sampler.build().plan()
    if plan.rounds > 1 or len(plan.intervening) != 1 or sizes.responses < 2:
        raise ConfigError(
            "The benchmark needs a sampler with one intervention that draws once a step, and two responses at least.",
            reason=f"The sampler is '{config.sampler.type}', with {sizes.responses} responses.",
            remedy="Choose the sampler `mixed`.",
        )
    retain_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            step_config(config, side=sizes.side, prompts=sizes.prompts, tokens=sizes.tokens, folder=Path(folder))
        )
        policy = trainer.policy
        policy.never_end()
        view = policy.view(trainer.task.example(0))
        responses = draw_responses(policy, sizes.responses, sizes.tokens)
        mixed = assigned(config, plan.settings_for(sizes.responses)).sampler
        workloads = passes(policy, view, responses, Intervention(plan.intervening[0].intervention))
        workloads |= step_workloads(
            trainer, {PLAIN_STEP: Clean(Clean.Config(n=sizes.responses)), SAEI_STEP: mixed.build()}
        )
        if not policy.shared_prefix:
            workloads = {name: workload for name, workload in workloads.items() if name not in (ATTACK, SHARED)}
        # Memory first: it is measured in forked processes, and a fork has to happen before any backward pass.
        memory = {name: peak_growth(workload, policy.device) for name, workload in workloads.items()}
        seconds = time_in_turns(workloads, sizes.rounds, policy.device)
    return {
        **setting_of(config, policy, view, sizes),
        "seconds": {name: statistics.median(values) for name, values in seconds.items()},
        "peak_bytes": memory,
        "ratios": {
            name: ratio(seconds[over], seconds[under])
            for name, (over, under) in RATIOS.items()
            if over in seconds and under in seconds
        },
    }


def setting_of(config: RunConfig, policy: Policy, view: View, sizes: Sizes) -> dict[str, Any]:
    """Return what a benchmark was made with."""
    return {
        "model": config.model.path,
        "parameters": sum(parameter.numel() for parameter in policy.model.parameters()),
        "device": str(policy.device),
        "dtype": str(policy.model.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "prompt_tokens": len(view.prompt_ids_P),
        "image_tokens": policy.image_tokens(view),
        **asdict(sizes),
        "torch": torch.__version__,
    }


def passes(
    policy: Policy, view: View, responses: Sequence[Response], intervention: Intervention
) -> dict[str, Workload]:
    """Return the passes of a step by name; half of the responses are attacked."""
    half = responses[: len(responses) // 2]

    def attack(shared: bool) -> None:
        with shared_prefix(policy, shared):
            step = StepContext(policy, 0.0, GroupSources(0, "bench"), answer=answer_kept)
            intervention.apply([view], [half], step, Supply(_no_grades))

    def update(shared: bool) -> None:
        with shared_prefix(policy, shared):
            policy.model.zero_grad()
            logp(policy, view, responses).mean().backward()

    def score() -> None:
        with shared_prefix(policy, False):
            policy.score([view], [half], with_entropy=False)

    return {
        SCORE: score,
        NAIVE_ATTACK: partial(attack, shared=False),
        ATTACK: partial(attack, shared=True),
        PLAIN: partial(update, shared=False),
        SHARED: partial(update, shared=True),
    }


def logp(policy: Policy, view: View, responses: Sequence[Response]) -> Tensor:
    """Return log-probabilities ``[N, T]`` with gradient to the parameters."""
    return policy.score([view], [responses], wrt="parameters", with_entropy=False)[0].logp_NT


@contextmanager
def shared_prefix(policy: Policy, shared: bool) -> Iterator[None]:
    """Have the policy score with a shared prefix or with one row per response."""
    before = policy.shared_prefix
    policy.shared_prefix = shared
    try:
        yield
    finally:
        policy.shared_prefix = before


def step_workloads(trainer: Trainer, samplers: dict[str, Sampler]) -> dict[str, Workload]:
    """Return whole training steps of one trainer, one workload per sampler."""

    def step(sampler: Sampler) -> None:
        trainer.sampler = sampler
        trainer.train_step()

    return {name: partial(step, sampler) for name, sampler in samplers.items()}


def _no_grades(view: View, responses: Sequence[Response]) -> Sequence[Grade]:
    return [Grade(0.0, False) for _ in responses]
