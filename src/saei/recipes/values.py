"""The values of the recipes and where they come from; each stands here once.

The paper (SaEI, arXiv 2512.10414) leaves most settings open. NoisyRollout (arXiv 2504.13055) draws as many responses,
so its scripts stand in; a value that does so is called assumed in the recipes of SaEI. What is EasyR1's is from its
examples, what is MM-Eureka's from its paper (arXiv 2503.07365).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

PAPER, OURS, ASSUMED = "the paper", "ours", "assumed"
BOTH = "NoisyRollout and EasyR1"


@dataclass(frozen=True, slots=True)
class Value:
    """A field of a run's configuration.

    Attributes:
        path: Dotted; its first word may be an alias, such as ``attack``.
        value: What YAML holds.
        source: The comment: the paper, a project, ours, or assumed, and what else there is to say.
    """

    path: str
    value: Any
    source: str


@dataclass(frozen=True, slots=True)
class Part:
    """One of the choices that a recipe is made of.

    Attributes:
        title: As recipes are listed.
        values: What it sets.
        own_loop_only: Whether it is a method that TRL's loop does not have, and so not for eight GPUs.
    """

    title: str
    values: tuple[Value, ...]
    own_loop_only: bool = False


GRPO: tuple[Value, ...] = (
    Value("objective.type", "grpo", "the paper, NoisyRollout, EasyR1"),
    Value("objective.clip_low", 0.2, "NoisyRollout"),
    Value("objective.clip_high", 0.2, "NoisyRollout; EasyR1 0.3"),
)

KL_COV: tuple[Value, ...] = (
    Value("objective.type", "kl-cov", "KL-Cov (arXiv 2505.22617): no clip"),
    Value("objective.share", "1/500", "KL-Cov: of its 7B models; verl's default is 1/5000"),
    Value("objective.coefficient", 1.0, "KL-Cov: of its 7B models; verl's default is 0.1"),
    Value("objective.terms", [], "ours: no second means of keeping entropy up"),
    Value("training.updates_per_batch", 4, "ours: its penalty has no gradient with one update per batch"),
)

DATA: Mapping[str, Part] = {
    "geometry3k": Part(
        "Geometry3K",
        (
            Value("task.type", "geometry3k", "the paper; EasyR1's copy of it"),
            Value("training.steps", 240, f"{BOTH}: the updates of their 15 epochs"),
        ),
    ),
    "mmk12": Part(
        "MMK12",
        (
            Value("task.type", "mmk12", "assumed: the paper names MM-Eureka, whose training set this is"),
            Value("training.steps", 1220, "MM-Eureka: 10 epochs of 15,616"),
        ),
    ),
    "clevr-count": Part(
        "CLEVR-count",
        (
            Value("task.type", "clevr-count", "ours: training outside mathematics, as in EasyR1"),
            Value("template.type", "think-answer", "EasyR1: the form; the wording is ours"),
            Value("reward.type", "r1v", "EasyR1: 0.5 accuracy, 0.5 format"),
            Value("training.steps", 547, "ours: one epoch of 70,000; EasyR1 makes 15"),
        ),
    ),
    "chartqa": Part(
        "ChartQA",
        (
            Value("task.type", "chartqa", "ours: training outside mathematics"),
            Value("training.steps", 221, "ours: one epoch of 28,299"),
        ),
    ),
}

SIZES: Mapping[str, Part] = {
    "3b": Part(
        "Qwen2.5-VL-3B", (Value("model.path", "Qwen/Qwen2.5-VL-3B-Instruct", "EasyR1; the paper's size is not known"),)
    ),
    "7b": Part(
        "Qwen2.5-VL-7B", (Value("model.path", "Qwen/Qwen2.5-VL-7B-Instruct", f"{BOTH}; the paper's size is not known"),)
    ),
}

METHODS: Mapping[str, Part] = {
    "saei": Part(
        "SaEI",
        (
            Value("sampler.type", "mixed", PAPER),
            Value("sampler.n_clean", 6, PAPER),
            Value("sampler.n_adversarial", 6, PAPER),
            Value("sampler.update_on", "sampled", "assumed: each response under the view that it was drawn from"),
            Value("selector.type", "middle-third", "the paper: the highest and lowest third are dropped"),
            Value("selector.scope", "response", "assumed: ranked in each response, not in the group"),
            Value("criterion.type", "entropy", PAPER),
            Value("attack.type", "pgd", PAPER),
            Value("attack.steps", 1, PAPER),
            Value("attack.step", "2/255", "the paper: 2/255 or 3/255; a positive step raises entropy"),
            Value("attack.radius", None, "assumed: no radius is given, so that of the step"),
            Value("attack.step_space", "pixel", "assumed: of the [0, 1] range, not of normalised pixels"),
            Value("strength.type", "constant", "assumed"),
        ),
    ),
    "grpo-12": Part(
        "GRPO-12",
        (
            Value("sampler.type", "clean", "NoisyRollout's baseline"),
            Value("sampler.n", 12, "NoisyRollout's baseline: as many as 6 + 6"),
        ),
    ),
    "noisyrollout": Part(
        "NoisyRollout",
        (
            Value("sampler.type", "noisy", "NoisyRollout"),
            Value("sampler.n_clean", 6, "NoisyRollout"),
            Value("sampler.n_adversarial", 6, "NoisyRollout"),
            Value("sampler.update_on", "clean", "NoisyRollout"),
            Value("attack.type", "diffusion-noise", "NoisyRollout"),
            Value("attack.t0", 500, "ours: NoisyRollout suggests 400 to 500"),
            Value("strength.type", "sigmoid", "NoisyRollout"),
            Value("strength.coef", 30, "ours: NoisyRollout's for Geometry3K"),
            Value("strength.mid", "2/3", "ours: NoisyRollout's for Geometry3K"),
        ),
    ),
    "kl-cov": Part(
        "KL-Cov",
        (
            Value("sampler.type", "clean", "ours: it acts in the update"),
            Value("sampler.n", 12, "ours: as many as 6 + 6"),
            *KL_COV,
        ),
        own_loop_only=True,
    ),
}

SPECIFIC: Mapping[tuple[str, str], tuple[Value, ...]] = {
    ("geometry3k", "noisyrollout"): (
        Value("attack.t0", 500, "NoisyRollout"),
        Value("strength.coef", 30, "NoisyRollout"),
        Value("strength.mid", "2/3", "NoisyRollout: step 40 of 60"),
    ),
    ("mmk12", "noisyrollout"): (
        Value("attack.t0", 450, "NoisyRollout, for its part of K12"),
        Value("strength.coef", 60, "NoisyRollout, for its part of K12"),
        Value("strength.mid", "2/3", "ours: NoisyRollout has step 40 of a number that it does not give"),
    ),
}
"""What a method sets on one data set."""

COMMON: tuple[Value, ...] = (
    Value("model.min_pixels", 262_144, BOTH),
    Value("model.max_pixels", 1_000_000, "NoisyRollout; EasyR1 4,194,304"),
    Value("template.type", "think-boxed", f"{BOTH}: the form; the wording is ours"),
    Value("reward.type", "accuracy-format", f"{BOTH}: 0.9 accuracy, 0.1 format"),
    Value("sampling.temperature", 1.0, BOTH),
    Value("sampling.max_prompt_tokens", 2048, BOTH),
    Value("sampling.max_new_tokens", 2048, BOTH),
    Value("optimizer.weight_decay", 0.01, BOTH),
    Value("optimizer.max_grad_norm", 1.0, BOTH),
    Value("optimizer.schedule", "constant", BOTH),
    Value("optimizer.warmup_steps", 0, BOTH),
    Value("training.micro_groups", 1, "ours: the memory of one group"),
    Value("seed", 0, "ours"),
)

HARDWARE: Mapping[str, Part] = {
    "": Part(
        "full, eight GPUs",
        (
            Value("model.dtype", "float32", "ours: steps of 1e-6 vanish in bfloat16 weights"),
            Value("model.freeze", ["vision", "projector"], "NoisyRollout; EasyR1 trains them"),
            Value("objective.terms", [], "NoisyRollout: no KL; TRL lacks its entropy bonus of 0.001"),
            Value("optimizer.lr", 1e-6, BOTH),
            Value("training.prompts_per_step", 128, f"{BOTH}: their update batch; here drawn anew for each update"),
            Value("training.mixed_precision", "bf16", "ours"),
        ),
    ),
    "lora": Part(
        "LoRA, one GPU",
        (
            Value("model.dtype", "bfloat16", "ours: frozen weights; the adapters are float32"),
            Value("model.gradient_checkpointing", ["vision", "language"], BOTH),
            Value("model.lora.rank", 64, "EasyR1's LoRA example"),
            Value("model.lora.alpha", 64, "EasyR1's LoRA example"),
            Value("objective.terms", ["entropy-bonus"], "NoisyRollout: no KL, 0.001 times the entropy"),
            Value("optimizer.lr", 1e-5, "EasyR1's LoRA example"),
            Value("training.prompts_per_step", 16, f"ours, for time; {BOTH} update on 128"),
            Value("evaluation.every", 20, "ours"),
        ),
    ),
}

ZERO_STAGE: Mapping[str, int] = {"3b": 2, "7b": 3}
"""How far DeepSpeed spreads a model over eight GPUs."""
