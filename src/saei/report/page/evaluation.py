"""The page of an evaluation, and of two."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saei.config.changes import as_text, flat
from saei.errors import CheckpointError, SaeiError, shown
from saei.evaluation.records import Record, by_example
from saei.evaluation.statistics.scores import all_scores
from saei.evaluation.store import CONDITIONS, RESULT, SETTINGS, EvaluationDir
from saei.report.page.html import number, percent, plural, render, without_folders

MOST_EXAMPLES = 300
"""Examples on a page, and of each so many answers."""

MOST_ANSWERS = 8
LONGEST = 4_000


@dataclass(frozen=True, slots=True)
class EvaluationFolder:
    """What there is of an evaluation.

    Attributes:
        path: Its folder.
        settings: Which policy answers what.
        result: Its result; empty while it is not complete.
        records: The answers that can be read.
        missing: What is not there or could not be read, in sentences.
    """

    path: Path
    settings: Mapping[str, Any]
    result: Mapping[str, Any]
    records: Sequence[Record]
    missing: tuple[str, ...]

    @property
    def name(self) -> str:
        """Its name."""
        return self.path.resolve().name


def is_evaluation(path: Path) -> bool:
    """Return whether a folder holds an evaluation, or one under several conditions."""
    return (path / SETTINGS).is_file() or (path / CONDITIONS).is_file()


def read_evaluation(path: Path) -> EvaluationFolder:
    """Return what there is of an evaluation."""
    folder, missing = EvaluationDir(path), []
    settings, result, records = {}, {}, []
    try:
        settings = folder.settings()
    except CheckpointError as error:
        missing.append(f"The settings could not be read: {shown(error.reason, 200)}")
    try:
        result = folder.result()
    except CheckpointError:
        missing.append(
            f"There is no {RESULT}: the evaluation is being written, or was stopped. Scores are preliminary."
        )
    try:
        records = folder.records()
    except (SaeiError, OSError) as error:
        reason = error.reason if isinstance(error, SaeiError) else str(error)
        missing.append(f"The answers could not be read: {shown(reason, 200)}")
    return EvaluationFolder(path, settings, result, records, tuple(missing))


@dataclass(frozen=True, slots=True)
class ExampleWithAnswers:
    """An example with its answers."""

    example: str
    gold: str
    correct: int
    answers: list[Record]
    more: int


def evaluation_page(path: Path) -> str:
    """Return the page of an evaluation; of one under several conditions, that of the clean pictures with theirs."""
    conditions = _conditions(path)
    folder = read_evaluation(path if (path / SETTINGS).is_file() else path / "clean")
    examples = _examples(folder.records)
    missing = list(folder.missing)
    if len(examples) > MOST_EXAMPLES:
        missing.append(f"Of {len(examples)} examples the first {MOST_EXAMPLES} are shown.")
    scores = [_plain(score) for score in all_scores(by_example(folder.records), "accuracy")] if folder.records else []
    return render(
        "evaluation.html",
        title=path.resolve().name,
        missing=missing,
        summary=_summary(folder, scores),
        scores=folder.result.get("scores") or scores,
        notes=[str(note) for note in folder.result.get("notes") or ()],
        conditions=conditions,
        examples=examples[:MOST_EXAMPLES],
        settings=[(name, as_text(without_folders(value))) for name, value in flat(folder.settings).items()],
        versions=dict(folder.result.get("versions") or {}),
        longest=LONGEST,
    )


def _plain(score: Any) -> dict[str, Any]:
    interval = score.interval
    low_high = {"value": interval.mean, "low": interval.low, "high": interval.high}
    return {"name": score.name, "by": score.by, "group": score.group, "count": score.count, **low_high}


def _summary(folder: EvaluationFolder, scores: Sequence[Mapping[str, Any]]) -> list[str]:
    if not scores:
        return ["There is no answer to look at."]
    first = scores[0]
    sampling = folder.settings.get("sampling") or {}
    model = folder.settings.get("model") or {}
    task = folder.settings.get("task") or {}
    responses = folder.settings.get("responses", "?")
    truncated = sum(record.truncated for record in folder.records) / len(folder.records)
    unread = sum(record.answer is None for record in folder.records) / len(folder.records)
    policy = without_folders(model.get("path", "?"))
    return [
        f"The policy {policy} answered {plural(int(first['count']), 'example')} of the "
        f"task {task.get('type', '?')}, {'once' if responses == 1 else f'{responses} times'} each, at temperature "
        f"{number(sampling.get('temperature'))}.",
        f"{percent(first['value'])} of its answers are right, with a 95 % interval over the examples from "
        f"{percent(first['low'])} to {percent(first['high'])}. {percent(truncated)} were cut off, and from "
        f"{percent(unread)} no answer could be read.",
        "The interval says how well this policy is known on examples like these. It does not say what another seed of "
        "the training would give.",
    ]


def _examples(records: Sequence[Record]) -> list[ExampleWithAnswers]:
    by_number: dict[int, list[Record]] = {}
    for record in records:
        by_number.setdefault(record.number, []).append(record)
    examples = []
    for _, answers in sorted(by_number.items()):
        first = answers[0]
        right = sum(answer.correct for answer in answers)
        more = max(0, len(answers) - MOST_ANSWERS)
        examples.append(ExampleWithAnswers(first.example, first.gold, right, answers[:MOST_ANSWERS], more))
    return examples


def _conditions(path: Path) -> list[dict[str, Any]]:
    """Return accuracy and loss under each condition, none of an evaluation of clean pictures alone."""
    try:
        result = json.loads((path / CONDITIONS).read_bytes())
        rows = [{"name": "clean", "accuracy": result["clean"], "mean": None, "low": None, "high": None}]
        for each in result["conditions"]:
            change = each["difference"]
            rows.append({"name": each["name"], "accuracy": each["accuracy"], **change})
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return rows


def evaluations_page(paths: Sequence[Path]) -> str:
    """Return the page of two evaluations."""
    first, second = (read_evaluation(path) for path in paths)
    missing = [f"{folder.name}: {sentence}" for folder in (first, second) for sentence in folder.missing]
    theirs = {(record.number, record.response): record for record in second.records}
    differ = [
        (record, theirs[record.number, record.response])
        for record in first.records
        if (record.number, record.response) in theirs
        and record.correct != theirs[record.number, record.response].correct
    ]
    ours, others = flat(first.settings), flat(second.settings)
    return render(
        "evaluations.html",
        title=f"{first.name} and {second.name}",
        names=(first.name, second.name),
        missing=missing,
        contrast=_contrast(first, second, missing),
        differ=differ[:MOST_EXAMPLES],
        gained=sum(after.correct for _, after in differ),
        lost=sum(before.correct for before, _ in differ),
        settings=[
            (name, *(as_text(without_folders(each.get(name))) for each in (ours, others)))
            for name in dict.fromkeys((*ours, *others))
            if ours.get(name) != others.get(name)
        ],
        longest=LONGEST,
    )


def _contrast(first: EvaluationFolder, second: EvaluationFolder, missing: list[str]) -> Any:
    """Return the second against the first, None if they cannot be compared."""
    from saei.evaluation.statistics.comparison import contrasts
    from saei.evaluation.statistics.run_sets import read_run_sets

    try:
        (reference, *others), _ = read_run_sets([str(first.path), str(second.path)])
        return contrasts(reference, others)[0]
    except SaeiError as error:
        missing.append(f"The two cannot be tested against each other: {shown(f'{error.rule} {error.reason}', 300)}")
        return None
