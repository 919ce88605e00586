"""From a run's configuration to the arguments of TRL's ``GRPOConfig``; what TRL cannot do is refused by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from saei.config.control_probe import readers_of_control_probe
from saei.config.run import RunConfig
from saei.config.sections import EvaluationConfig, TrainingConfig
from saei.errors import ConfigError
from saei.integrations.vllm.engine import check_installed
from saei.objectives.advantages.group_relative import GroupRelative
from saei.objectives.clipped import ClippedSurrogate
from saei.objectives.kl import KL
from saei.policy.decoder import no_offsets
from saei.runtime.trackers import project_of
from saei.samplers.base import SamplingPlan

LOSSES: Mapping[str, Mapping[str, Any]] = {
    "grpo": {"loss_type": "grpo"},
    "dr-grpo": {"loss_type": "dr_grpo"},
    "dapo": {"loss_type": "dapo"},
    "gspo": {"loss_type": "grpo", "importance_sampling_level": "sequence"},
}
"""TRL's arguments for the policy losses that both know; the parity tests hold them equal."""


def grpo_arguments(config: RunConfig, *, folder: Path, processes: int, extra: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of ``GRPOConfig``.

    Args:
        config: The run's configuration.
        folder: Where TRL writes.
        processes: How many train together.
        extra: Arguments of TRL that saei's configuration knows nothing of, such as ``use_vllm`` or ``deepspeed``.

    Raises:
        ConfigError: Naming each field whose value TRL cannot follow, or an extra argument that a field governs.
    """
    refused = list(_refused(config, processes))
    if refused:
        raise ConfigError(
            "TRL's engine follows a part of the configuration.",
            reason="It cannot follow " + "; ".join(refused) + ".",
            remedy="Leave these at their defaults, or train with saei's own engine.",
        )
    check_offsets(config.sampler.build().plan(), use_vllm=bool(extra.get("use_vllm")))
    training, optimizer, objective = config.training, config.optimizer, config.objective
    assert isinstance(objective, ClippedSurrogate.Config)
    assert isinstance(objective.advantage, GroupRelative.Config)
    groups = training.prompts_per_step // processes
    micro_groups = training.micro_groups or groups
    kl = objective.terms[0] if objective.terms else None
    arguments: dict[str, Any] = {
        **LOSSES[objective.type],
        "output_dir": str(folder),
        "max_steps": training.steps * training.ppo_epochs,
        "num_iterations": training.ppo_epochs,
        "num_generations": _group_size(config),
        "per_device_train_batch_size": micro_groups * _group_size(config),
        "gradient_accumulation_steps": groups // micro_groups,
        "max_completion_length": config.sampling.max_new_tokens,
        "temperature": config.sampling.temperature,
        "epsilon": objective.clip_low,
        "epsilon_high": objective.clip_high,
        "scale_rewards": objective.advantage.scale,
        "mask_truncated_completions": objective.mask_truncated,
        "beta": kl.coefficient if isinstance(kl, KL.Config) else 0.0,
        "use_bias_correction_kl": isinstance(kl, KL.Config) and kl.bias_correction,
        "learning_rate": optimizer.lr,
        "weight_decay": optimizer.weight_decay,
        "adam_beta1": optimizer.betas[0],
        "adam_beta2": optimizer.betas[1],
        "max_grad_norm": optimizer.max_grad_norm,
        "lr_scheduler_type": "constant_with_warmup" if optimizer.schedule == "constant" else optimizer.schedule,
        "warmup_steps": optimizer.warmup_steps,
        "bf16": training.mixed_precision == "bf16",
        "fp16": training.mixed_precision == "fp16",
        "use_cpu": config.model.device == "cpu",
        "seed": config.seed % 2**32,  # transformers seeds numpy with it
        "save_strategy": "steps",
        "save_steps": config.output.checkpoint_every,
        "save_total_limit": config.output.keep_checkpoints,
        "logging_steps": 1,
        "report_to": list(config.output.trackers) or "none",
        "run_name": folder.parent.name,
        "project": project_of(config),
    }
    taken = sorted(arguments.keys() & extra.keys())
    if taken:
        raise ConfigError(
            "--trl sets what saei's configuration knows nothing of.",
            reason=f"It has fields of its own for {', '.join(taken)}.",
            remedy="Set these by --set.",
        )
    return arguments | dict(extra)


def check_arguments(args: Any) -> None:
    """Refuse what makes another distribution than the policy's, before vLLM is started.

    Args:
        args: TRL's ``GRPOConfig``.

    Raises:
        ConfigError: Naming the arguments, or if vLLM is wanted and not installed.
    """
    other = ("generation_kwargs", "min_p", "top_k", "vllm_structured_outputs_regex")
    named = [name for name in other if getattr(args, name)]
    named += [name for name in ("repetition_penalty", "top_p") if getattr(args, name) != 1]
    if named:
        raise ConfigError(
            "Training samples from the policy itself.",
            reason=f"Set: {', '.join(named)}.",
            remedy="Leave these out; temperature, length, banned tokens and seeds come from the run's configuration.",
        )
    if not args.use_vllm:
        return
    check_installed()
    if args.vllm_tensor_parallel_size > 1:
        raise ConfigError(
            "Each process draws its own groups, in a vLLM of its own.",
            reason=f"vllm_tensor_parallel_size is {args.vllm_tensor_parallel_size}; the attack needs the whole model "
            "in every process anyway.",
            remedy="Leave vllm_tensor_parallel_size at 1.",
        )


def check_offsets(plan: SamplingPlan, *, use_vllm: bool) -> None:
    """Refuse offsets on embeddings where TRL would have to know of them.

    Args:
        plan: What the sampler does.
        use_vllm: Whether TRL's vLLM draws.

    Raises:
        ConfigError: If responses are trained under views with an offset, or vLLM draws from these.
    """
    for arm in plan.arms:
        if arm.offsets and arm.update_on != "clean":
            raise ConfigError(
                "TRL's update reads prompts as tokens.",
                reason=f"With {arm.setting('update_on')} '{arm.update_on}' it would have to add an offset to their "
                "embeddings.",
                remedy=f"Set {arm.setting('update_on')} to clean, or move the question's tokens or the picture.",
            )
        if arm.offsets and use_vllm:
            raise no_offsets("TRL's vLLM", arm.setting("intervention.attack"))


def _group_size(config: RunConfig) -> int:
    size: int = config.sampler.build().group_size
    return size


def _refused(config: RunConfig, processes: int) -> Iterator[str]:
    """Yield each field that TRL cannot follow, with its value."""
    sampler, objective, training = config.sampler, config.objective, config.training
    plan = sampler.build().plan()
    for path, name in plan.needs_supply:
        yield f"{'.'.join(filter(None, ('sampler', path)))} '{name}'"
    for part in plan.own_loop_only:
        where = f"sampler.{part.path}" if part.path else f"sampler '{sampler.type}'"
        yield f"{where} ({part.reason})"
    for arm in plan.arms:
        if arm.beta:
            yield f"{arm.setting('beta')} {arm.beta}"
    if config.decoder.type != "native":
        yield f"decoder '{config.decoder.type}' (its own vLLM draws where TRL's use_vllm says so)"
    if objective.type not in LOSSES or not isinstance(objective, ClippedSurrogate.Config):
        yield f"objective '{objective.type}'"
        return
    terms = [term.type for term in objective.terms]
    if terms not in ([], ["kl"]):
        yield f"objective.terms {terms}"
    for arm in plan.arms if terms else ():
        if arm.update_on != "sampled":
            where = arm.setting("update_on")
            yield f"objective.terms {terms} with {where} '{arm.update_on}' (its KL takes no view weight)"
    if objective.token_selector is not None:
        yield "objective.token_selector"
    if objective.weights:
        yield f"objective.weights {[weight.type for weight in objective.weights]}"
    advantage = objective.advantage
    if not isinstance(advantage, GroupRelative.Config):
        yield f"objective.advantage '{advantage.type}' (TRL's are group-relative, one number per response)"
    elif advantage.baseline != "pooled":
        yield f"objective.advantage.baseline '{advantage.baseline}'"
    elif advantage.scale == "per-origin":
        yield "objective.advantage.scale 'per-origin'"
    if training.updates_per_batch != 1:
        yield f"training.updates_per_batch {training.updates_per_batch} (its minibatches would mix groups)"
    if training.replay is not None:
        yield "training.replay (it trains on the responses of the step alone)"
    groups = training.prompts_per_step // processes
    if training.prompts_per_step % processes:
        yield f"training.prompts_per_step {training.prompts_per_step} with {processes} processes"
    elif groups % (training.micro_groups or groups):
        yield f"training.micro_groups {training.micro_groups} of {groups} groups a process"
    if training.max_untouched != TrainingConfig().max_untouched:
        yield f"training.max_untouched {training.max_untouched} (it does not count groups without an image)"
    if config.output.keep_best is not None:
        yield "output.keep_best (it does not evaluate)"
    for reader in readers_of_control_probe(config):
        yield f"{reader} (it draws no control probe)"
    if config.evaluation != EvaluationConfig():
        yield "evaluation (it neither evaluates nor probes)"
