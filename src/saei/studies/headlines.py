"""The headline answers of several studies, their p values adjusted together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from saei.studies.declarations import Contrast
from saei.studies.outcome import Decision, Outcome
from saei.studies.statistics.contrasts import headlines
from saei.studies.study import Study


@dataclass(frozen=True, slots=True)
class Headline:
    """A study's answer to one of the questions.

    Attributes:
        study: Its file.
        contrast: The one that is declared as headline.
        outcome: How far the study is.
        decision: What it decides with p values adjusted over all headline answers; None before its runs have ended.
    """

    study: Study
    contrast: Contrast
    outcome: Outcome
    decision: Decision | None


def headline_answers(studies: Sequence[tuple[Study, Outcome]]) -> list[Headline]:
    """Return the headline answers of studies, adjusted over all that declare one, run or not.

    Args:
        studies: Each with how far it is.
    """
    declared = [
        (study, contrast, outcome) for study, outcome in studies for contrast in study.contrasts if contrast.headline
    ]
    known = {
        study.name: decision for study, _, outcome in declared for decision in outcome.decisions if decision.headline
    }
    adjusted = headlines([decision.result for decision in known.values()], missing=len(declared) - len(known))
    decisions = {
        name: replace(decision, result=result) for (name, decision), result in zip(known.items(), adjusted, strict=True)
    }
    return [Headline(study, contrast, outcome, decisions.get(study.name)) for study, contrast, outcome in declared]
