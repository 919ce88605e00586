"""Checking every example of a split before a long job starts: in parallel, and cached."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from saei.data.base import Split, Task
from saei.errors import ConfigError, DataError
from saei.intake.inspect import LongPromptError, inspect_example
from saei.intake.reports import DROPPED, ExampleReport
from saei.policy import Policy
from saei.rewards.base import Reward
from saei.runtime.files import disk_errors, write_whole

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "saei" / "sifted"
MOST_WORKERS = 16


def scan(
    task: Task,
    policy: Policy,
    split: Split,
    *,
    reward: Reward | None = None,
    indices: Sequence[int] | None = None,
    workers: int | None = None,
    cache: Path | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[ExampleReport]:
    """Check examples of a finite split, in threads: decoding and tokenizing release Python's lock.

    Args:
        task: Where examples come from.
        policy: Makes the views.
        split: Which split.
        reward: Checks that an example's gold answer can be read; None accepts every example.
        indices: Which examples; None for all.
        workers: Threads; None for one per core.
        cache: A folder that caches the result for as long as data, processor and reward stay the same; None to check
            always.
        on_progress: Called with how many of how many are done.

    Raises:
        DataError: If the split cannot be read.
    """
    size = task.size(split)
    assert size is not None or indices is not None, "a task without end has no last example"
    numbers = list(range(size or 0)) if indices is None else list(indices)
    file = None if cache is None else cache / f"{_key(task, policy, split, numbers, reward)}.json"
    if file is not None and file.is_file():
        return [ExampleReport(**row) for row in json.loads(file.read_text(encoding="utf-8"))]
    reports = []
    with ThreadPoolExecutor(workers or min(MOST_WORKERS, os.cpu_count() or 1)) as threads:
        for report in threads.map(lambda index: _look(task, policy, index, split, reward), numbers):
            reports.append(report)
            on_progress(len(reports), len(numbers))
    if file is not None:
        _write(file, reports)
    return reports


def check_end(task: Task) -> None:
    """Check that a task's training examples can all be inspected.

    Raises:
        ConfigError: If they have no end.
    """
    if task.size("train") is None:
        raise ConfigError(
            "training.sift looks at every example before training.",
            reason=f"'{task.name()}' makes its examples, without end.",
            remedy="Leave training.sift out: nothing is wrong with examples that are made.",
        )


@dataclass(frozen=True, eq=False, slots=True)
class ScanResult:
    """The reports on all examples of a split."""

    split: Split
    reports: Sequence[ExampleReport]

    @property
    def dropped(self) -> list[ExampleReport]:
        """Those that are left out."""
        return [report for report in self.reports if report.rule]

    def note(self) -> str:
        """Return how many were left out, and why."""
        why = " ".join(f"{count}: {rule}" for rule, count in self.rules().most_common())
        summary = f"{len(self.dropped)} of {len(self.reports)} {self.split} examples are left out"
        return f"{summary}, listed in {DROPPED}. {why}" if why else f"{summary}."

    def rules(self) -> Counter[str]:
        """Return how many examples break each rule."""
        return Counter(report.rule for report in self.dropped)

    def check(self) -> None:
        """Check that an example is left.

        Raises:
            DataError: If none can be used.
        """
        if len(self.dropped) == len(self.reports):
            raise DataError(
                "Some examples have to be usable.",
                reason=f"None of {len(self.reports)} is; the first: {self.dropped[0].report}",
                remedy="Mend them, or name other columns.",
            )

    def write(self, folder: Path) -> None:
        """Write a line for each example that is left out.

        Raises:
            CheckpointError: If the disk refuses.
        """
        lines = [json.dumps({"split": self.split, **asdict(report)}) + "\n" for report in self.dropped]
        with disk_errors("A run lists what it leaves out.", folder / DROPPED, "Free some space and start anew."):
            write_whole(folder / DROPPED, "".join(lines))


def left_out(index: int, error: DataError) -> ExampleReport:
    """Return the report on an example that cannot be used."""
    if isinstance(error, LongPromptError):
        return ExampleReport(index, error.tokens, error.rule, str(error), too_long=True)
    return ExampleReport(index, rule=error.rule, report=str(error))


def _look(task: Task, policy: Policy, index: int, split: Split, reward: Reward | None) -> ExampleReport:
    try:
        return ExampleReport(index, tokens=len(inspect_example(task, policy, index, split, reward=reward).prompt_ids_P))
    except DataError as error:
        return left_out(index, error)


def _key(task: Task, policy: Policy, split: Split, numbers: Sequence[int], reward: Reward | None) -> str:
    """Return a name that changes with whatever the result depends on."""
    parts: dict[str, Any] = {
        "data": task.fingerprint(split),
        "split": split,
        "reward": None if reward is None else reward.config.model_dump(mode="json"),
        "chosen": [len(numbers), hashlib.sha256(repr(numbers).encode()).hexdigest()],
        "template": policy.template.config.model_dump(mode="json"),
        "chat_template": policy.parts.chat_template or policy.tokenizer.chat_template,
        "tokenizer": hashlib.sha256(repr(sorted(policy.tokenizer.get_vocab().items())).encode()).hexdigest(),
        "image_processor": policy.parts.image_processor.to_dict(),
        "limits": [policy.sampling.max_prompt_tokens, policy.sampling.max_new_tokens, *policy.pixels.limits],
        "context": getattr(policy.model.config.get_text_config(), "max_position_embeddings", None),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def _write(file: Path, reports: Sequence[ExampleReport]) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, json.dumps([asdict(report) for report in reports]))
    except OSError:  # a cache that cannot be written only costs time
        return
