"""Recipes for the built-in model and tasks: one of each family of rivals that act in the update, and plain GRPO.

They train on a CPU in minutes and differ in the rival alone, each with four updates per batch.
"""

from __future__ import annotations

from collections.abc import Mapping

from saei.recipes.values import KL_COV, Part, Value

TASKS: Mapping[str, Part] = {
    "bars": Part("bar charts", (Value("task.type", "bars", "ours"),)),
    "digits": Part("handwritten digits", (Value("task.type", "digits", "ours"),)),
}

RIVAL_COMMON: tuple[Value, ...] = (
    Value("model.path", "builtin", "ours: comes with saei"),
    Value("reward.type", "accuracy-format", "NoisyRollout and EasyR1: 0.9 accuracy, 0.1 format"),
    Value("sampler.type", "clean", "ours: rivals of the update; any other sampler goes with them"),
    Value("sampler.n", 12, "ours: as many as SaEI's 6 + 6"),
    Value("objective.type", "grpo", "ours: what rivals are compared with"),
    Value("optimizer.lr", 3e-4, "ours: for the built-in model"),
    Value("training.steps", 80, "ours"),
    Value("training.prompts_per_step", 8, "ours"),
    Value("training.updates_per_batch", 4, "ours: half of the rivals cannot act with one"),
    Value("seed", 0, "ours"),
)

RIVALS: Mapping[str, Part] = {
    "grpo-12": Part("plain GRPO", ()),
    "kl-cov": Part("KL-Cov", KL_COV),
    "clip-cov": Part(
        "Clip-Cov",
        (
            Value("objective.clip_low", 0.2, "Clip-Cov (arXiv 2505.22617): PPO's clip stays; the width is ours"),
            Value("objective.clip_high", 0.2, "Clip-Cov, likewise"),
            Value(
                "objective.weights",
                [{"type": "clip-cov", "share": "1/5000", "low": 1.0, "high": 5.0}],
                "Clip-Cov: share and bounds of paper and code",
            ),
        ),
    ),
    "forking-tokens": Part(
        "forking tokens",
        (
            Value(
                "objective.weights",
                [{"type": "forking-tokens", "share": "1/5", "scope": "batch"}],
                "Forking tokens (arXiv 2506.01939): the top fifth of the batch",
            ),
        ),
    ),
    "vppo": Part(
        "VPPO",
        (
            Value(
                "objective.weights",
                [{"type": "vppo", "share": "2/5", "scale_min": 0.9}],
                "VPPO (arXiv 2510.09285): its share and least factor",
            ),
            Value(
                "objective.terms", [{"type": "sampled-entropy", "coefficient": 0.06}], "VPPO: its penalty on entropy"
            ),
        ),
    ),
    "entropy-shaped": Part(
        "entropy in the advantage",
        (
            Value("objective.advantage.type", "entropy-shaped", "Entropy advantage (arXiv 2506.14758)"),
            Value("objective.advantage.alpha", 0.4, "Entropy advantage"),
            Value("objective.advantage.kappa", 2.0, "Entropy advantage"),
        ),
    ),
    "pass-at-k": Part(
        "pass@k training",
        (
            Value("objective.advantage.type", "pass-at-k", "Pass@k training (arXiv 2508.10751)"),
            Value("objective.advantage.k", 4, "ours"),
        ),
    ),
    "adaptive-entropy": Part(
        "an entropy bonus that adapts",
        (
            Value(
                "objective.terms",
                [{"type": "adaptive-entropy", "target": 0.2, "delta": 1e-4, "max": 5e-3, "start": 0.0}],
                "Skywork-OR1 (arXiv 2505.22312): all four numbers",
            ),
        ),
    ),
    "papo": Part(
        "PAPO",
        (
            Value(
                "objective.terms",
                [{"type": "papo", "coefficient": 0.01, "own_entropy": 0.03, "masked_entropy": 0.03}],
                "PAPO (arXiv 2507.06448): without a reference KL",
            ),
        ),
    ),
}
"""Objectives, weights, advantages and terms; ``grpo-12`` is what they are compared with."""
