"""What ``saei train --resume`` may change about a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from saei.config.run import RunConfig
    from saei.runtime.run_dir import RunDir

MAY_CHANGE = (
    "training.steps",
    "training.max_untouched",
    "training.max_empty_steps",
    "training.max_bad_share",
    "model.device",
    "output.checkpoint_every",
    "output.keep_checkpoints",
    "output.keep_best",
    "output.trackers",
    *(f"reward.judge.{name}" for name in ("url", "key_variable", "timeout", "retries", "parallel", "max_failures")),
)
"""Settings about where and how long a run goes on and what it stores; others would make it another experiment."""


def resumed_run(
    folder: Path, flags: Sequence[Mapping[str, Any]], assignments: Sequence[str], *, trust: bool = False
) -> tuple[RunDir, RunConfig]:
    """Return a run and its configuration with the requested changes, as far as they are allowed.

    Raises:
        ConfigError: If another field would change, or the run is complete.
        CheckpointError: If the folder is no run, or the checkpoints of one that had some are gone.
    """
    from saei.config.overrides import changed, command_line, merge
    from saei.config.run import RunConfig, dump, validate
    from saei.engine import checkpoint
    from saei.errors import ConfigError
    from saei.runtime.run_dir import RunDir

    run, config = RunDir.open(folder, trust=trust)
    changed_config = validate(merge(RunConfig, dump(config), command_line(flags, assignments)))
    different = changed(dump(config), dump(changed_config))
    refused = [path for path in different if path not in MAY_CHANGE]
    if refused:
        raise ConfigError(
            f"A resumed run keeps its configuration; only {', '.join(MAY_CHANGE)} may change.",
            reason=f"Changed: {', '.join(refused)}.",
            remedy="Leave these out, or start a new run.",
        )
    start = checkpoint.start_of(run, config)
    done = 0 if start is None else checkpoint.step_of(start)
    if done >= changed_config.training.steps:
        raise ConfigError(
            "A run that goes on has steps left.",
            reason=f"{folder} has done {done} of {changed_config.training.steps}.",
            remedy=f"Train on with --steps, for example --steps {2 * done}.",
        )
    return run, changed_config
