"""The page of a study, written from its file, its ledger and its records."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from saei.config.yaml import write_yaml
from saei.evaluation.statistics.intervals import Interval
from saei.studies.catalogue import shipped
from saei.studies.execution import Execution
from saei.studies.headlines import Headline
from saei.studies.ledger import FINISHED
from saei.studies.outcome import Outcome
from saei.studies.sentences import (
    HIDDEN,
    checked,
    decided,
    escaped,
    missing,
    number,
    p_value,
    progress,
    span,
    standing,
    verdict,
)
from saei.studies.statistics.contrasts import ContrastResult
from saei.studies.study import Study


def page(execution: Execution, outcome: Outcome) -> str:
    """Return a study's page as Markdown.

    Args:
        execution: The study.
        outcome: What came of it so far.
    """
    study = execution.read.study
    command = study.name if study.name in shipped() else shlex.quote(execution.read.file.name)
    parts = [
        f"# {study.name}",
        f"**Question.** {study.question}",
        f"**Refuted if.** {study.refuted_by}",
        f"**Verdict.** {_verdict(outcome)}",
        f"**Standing.** {standing(outcome.reasons)}",
        f"This page is written by `saei study page {command}`. [Studies](index.md) says what the words mean.",
        "## Settings",
        _yaml(study.settings),
        *_evaluation(study),
        *_arms(study, outcome),
        *_bases(execution, outcome),
        *_contrasts(study, outcome),
    ]
    if outcome.complete:
        parts += [*_measured(outcome), *_exploratory(outcome), *_variance(outcome)]
    parts += _repeat(execution, command)
    return "\n\n".join(parts) + "\n"


def headline_table(headlines: Sequence[Headline]) -> str:
    """Return the headline answers of several studies as a table, p values adjusted over all of them."""
    if not headlines:
        return "No study that comes with saei declares one."
    rows = []
    for each in headlines:
        contrast, decision = each.contrast, each.decision
        compared = f"{contrast.arm} - {contrast.against} in {contrast.measure}"
        numbers = ["", "", ""]
        if decision is not None:
            result = decision.result
            numbers = [
                f"{number(result.interval.mean, sign=True)} ({span(result.interval)})",
                p_value(result.adjusted),
                p_value(result.headline),
            ]
        said = verdict(decision) if decision is not None else progress(each.outcome)
        rows.append([f"[{each.study.name}]({each.study.name}.md)", compared, *numbers, said])
    return _table(["study", "contrast", "difference (95 %)", "p, Holm", "p, all headlines", "verdict"], rows)


def _verdict(outcome: Outcome) -> str:
    if not outcome.complete:
        return progress(outcome)
    return " ".join(f"{each.result.arm} - {each.result.against}: {verdict(each)}" for each in outcome.decisions) or (
        "The study declares no contrast."
    )


def _evaluation(study: Study) -> list[str]:
    """Return what is measured beside the evaluations of training."""
    sentences = []
    if study.final is not None:
        under_attack = f", and under {', '.join(study.final.under_attack)}" if study.final.under_attack else ""
        sentences.append(
            f"After its last step each run is evaluated on {study.final.examples} further problems with "
            f"{study.final.responses} responses to each{under_attack}."
        )
    if study.escape is not None:
        rule = study.escape
        sentences.append(f"A run escapes at its first evaluation with `{rule.metric}` of {rule.threshold:g} or more.")
    return [" ".join(sentences)] if sentences else []


def _arms(study: Study, outcome: Outcome) -> list[str]:
    results = {each.arm: each for each in outcome.arms}
    rows = []
    for arm, settings in study.arms.items():
        added = f"`{write_yaml(settings, flow=True).strip()}`" if settings else "nothing"
        notes = [f"Unequal: {study.unequal[arm]}"] if arm in study.unequal else []
        if arm in results:
            notes += [checked(check) for check in results[arm].checks]
        else:
            notes += [f"`{check.metric}` is checked" for check in study.checks.get(arm, ())]
        rows.append([arm, added, "; ".join(notes)])
    return ["## Arms", _table(["arm", "sets in addition", "notes"], rows)]


def _bases(execution: Execution, outcome: Outcome) -> list[str]:
    study = execution.read.study
    origin = f"built by the recipe `{study.bases.recipe}`" if study.bases.recipe else ", ".join(study.bases.models)
    seconds = sum(line.get("seconds") or 0.0 for line in execution.ledger.lines() if line["event"] == FINISHED)
    spent = f" The finished runs took {seconds / 3600:.1f} CPU-hours." if seconds else ""
    budget = f", and {study.budget.cpu_hours:g} CPU-hours for all" if study.budget.cpu_hours else ""
    paragraphs = [
        f"{study.bases.number} bases, {origin}; {study.seeds} run{'s' if study.seeds > 1 else ''} of each arm on each. "
        f"Budget: {study.budget.responses} training responses a run{budget}.{spent}"
    ]
    if outcome.recorded:
        paragraphs += missing(outcome)
    return ["## Bases", "\n\n".join(paragraphs)]


def _contrasts(study: Study, outcome: Outcome) -> list[str]:
    if not study.contrasts:
        return []
    if not outcome.complete:
        rows = [
            [each.arm, each.against, each.measure, f"{each.smallest_effect:g}", f"{each.margin:g}"]
            for each in study.contrasts
        ]
        declared = _table(["arm", "against", "measure", "smallest effect", "margin"], rows)
        return ["## Primary contrasts", declared, *([HIDDEN] if outcome.recorded else [])]
    told = "\n".join(f"- {decided(each, len(outcome.decisions))}" for each in outcome.decisions)
    by_base = _table(
        ["base", *(f"{each.result.arm} - {each.result.against}" for each in outcome.decisions)],
        _differences([each.result for each in outcome.decisions]),
    )
    return ["## Primary contrasts", told, "The difference on each base:", by_base]


def _differences(results: Sequence[ContrastResult]) -> list[list[str]]:
    of_bases = [dict(zip(result.bases, result.differences, strict=True)) for result in results]
    bases = dict.fromkeys(base for each in of_bases for base in each)
    return [[base, *(number(each.get(base), sign=True) for each in of_bases)] for base in bases]


def _measured(outcome: Outcome) -> list[str]:
    rows = [[name, *(_mean(each.means.get(name)) for each in outcome.arms)] for name in outcome.measures]
    table = _table(["measure", *(each.arm for each in outcome.arms)], rows)
    escapes = [f"- {each.arm}: {escaped(each)}" for each in outcome.arms if escaped(each)]
    told = ["Escapes, with exact intervals and Kaplan-Meier's restricted mean:", "\n".join(escapes)] if escapes else []
    return ["## Each arm", "The mean over bases, with its 95 % interval.", table, *told]


def _mean(interval: Interval | None) -> str:
    return "none" if interval is None else f"{number(interval.mean)} ({span(interval, sign=False)})"


def _exploratory(outcome: Outcome) -> list[str]:
    if not outcome.exploratory:
        return []
    rows = [
        [
            each.measure,
            each.arm,
            each.against,
            number(each.interval.mean, sign=True),
            span(each.interval),
            p_value(each.p),
            str(len(each.bases)),
        ]
        for each in outcome.exploratory
    ]
    said = (
        "Nobody declared these. Their intervals and p values are not adjusted, so that some exclude 0 by chance. They "
        "decide nothing."
    )
    head = ["measure", "arm", "against", "difference", "95 % interval", "p", "bases"]
    return ["## Exploratory", said, _table(head, rows)]


def _variance(outcome: Outcome) -> list[str]:
    rows = [
        [
            measure,
            number(each.between_bases.sd),
            number(each.arm_by_base.sd),
            number(each.between_seeds.sd),
            f"{number(each.difference_sd().mean)} ({span(each.difference_sd(), sign=False)})",
        ]
        for measure, each in outcome.variance.items()
    ]
    if not rows:
        return []
    head = ["measure", "between bases", "arm by base", "between seeds", "difference of two arms on a base"]
    return ["## Variance", "Standard deviations by source.", _table(head, rows)]


def _repeat(execution: Execution, command: str) -> list[str]:
    frozen = execution.frozen
    if frozen is None:
        words = ("run", "--dry-run"), ("run", "--jobs 2"), ("page", "")
        lines = [f"saei study {word} {command} {option}".rstrip() for word, option in words]
        return ["## How to repeat it", _code("bash", "\n".join(lines))]
    name = execution.read.study.name
    told = (
        f"It is frozen at commit `{frozen.commit}`, and its runs are made by the code of that commit. The frozen seeds "
        "without the records do all runs again:"
    )
    again = [
        f"git worktree add ../{name} {frozen.commit}",
        f"mkdir ../{name}/again && cp docs/studies/{name}/frozen.json ../{name}/again/",
        f"cd ../{name} && make install",
        f"saei study run {command} --keep again --jobs 2",
        f"saei study show {command} --keep again",
    ]
    return ["## How to repeat it", told, _code("bash", "\n".join(again))]


def _yaml(content: object) -> str:
    return _code("yaml", write_yaml(content).strip())


def _code(language: str, text: str) -> str:
    return f"```{language}\n{text}\n```"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    cells = [
        [cell.replace("|", "\\|").replace("\n", " ") for cell in line] for line in (head, ["---"] * len(head), *rows)
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)
