"""What the user should know: before training starts, and when it has ended."""

from __future__ import annotations

from saei.config.control_probe import steering_parts
from saei.config.run import RunConfig
from saei.data.base import Task
from saei.engine.advantage_combinations import has_no_other
from saei.engine.best import Best
from saei.engine.combinations import idle_parts
from saei.engine.setup import Data
from saei.intake.stream import ViewStream
from saei.policy import Policy
from saei.policy.load.location import BUILTIN_FOLDERS
from saei.runtime.run_dir import RunDir

LARGE = 50_000_000
"""Parameters of a model for which the default learning rate, made for the built-in models, is far too high."""

TINY_LR = 1e-4
"""Learning rates from here on were probably left at that default."""


def opening_notes(config: RunConfig, task: Task, policy: Policy, data: Data) -> list[str]:
    """Return what the user should know before training starts."""
    notes = list(policy.parts.notes) if config.model.path not in BUILTIN_FOLDERS else []
    notes += task.notes()
    if data.scanned is not None:
        notes.append(data.scanned.note())
    notes += [
        f"The entropy of this run is steered (by the {part}): it is no evidence against collapse."
        for part in steering_parts(config)
    ]
    notes += [
        f"The {part} cannot act with one optimiser step per batch, in which the policy is still the old one: raise "
        "training.updates_per_batch or training.ppo_epochs."
        for part in idle_parts(config)
    ]
    objective, sampler = config.objective.build(), config.sampler.build()
    lonely = has_no_other(objective.advantage, sampler.plan())
    if lonely is not None:
        notes.append(
            f"The advantage '{objective.advantage.name()}' compares a response with others of its {lonely}, which has "
            "one: advantages are 0, and the policy learns from terms alone. Let the sampler draw more responses."
        )
    size = sum(parameter.numel() for parameter in policy.model.parameters() if parameter.requires_grad)
    if size > LARGE and config.optimizer.lr >= TINY_LR:
        notes.append(
            f"optimizer.lr={config.optimizer.lr:g} suits the built-in model; {size / 1e6:.0f} million "
            "parameters are usually trained at about 1e-6: --set optimizer.lr=1e-6."
        )
    return notes + data.stream.unreported()


def closing_notes(config: RunConfig, best: Best, run: RunDir, stream: ViewStream) -> list[str]:
    """Return what the user should know when training has ended."""
    notes = []
    if best.step is not None:
        notes.append(f"Best checkpoint, by {config.output.keep_best}: {best.checkpoint(run)}")
    if stream.bad:
        notes.append(f"Unusable examples were met and skipped {stream.bad} times.")
    if stream.too_long:
        notes.append(f"{stream.too_long} examples were left out for the length of their prompts.")
    return notes
