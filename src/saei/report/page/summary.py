"""What a run shows, in plain words: what was attacked, which tokens, what changed, what was said, and did it help."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from saei.report.page.folder import RunFolder, accuracy_interval, interventions, setting, type_name, value
from saei.report.page.html import coded, number, percent, plural, with_interval, without_folders
from saei.runtime.samples import GroupSample, ResponseSample

SELECTORS = {
    "middle-third": "the middle third of each response's tokens by entropy, the moderately uncertain ones",
    "all": "every token",
    "top-k": "the tokens of highest entropy",
    "bottom-k": "the tokens of lowest entropy",
    "random": "tokens at random",
}
"""What selectors choose, in words that need no reading elsewhere."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A question that a reader has, and what the run says to it."""

    question: str
    text: str


def summary(folder: RunFolder) -> list[Answer]:
    """Return what a run shows; sentences alone, which hold text of data and model."""
    groups = _last_held_out(folder) or [group for group in folder.groups if group.step == _last_step(folder)]
    return [
        Answer("What was attacked?", _attacked(folder)),
        *([Answer("Which tokens were chosen?", _chosen(folder, groups))] if interventions(folder.config) else []),
        *([Answer("What changed?", _moved(groups))] if _made(groups) else []),
        Answer("What did the policy say?", _said(groups)),
        Answer("Did it help?", _helped(folder)),
        Answer("How sure is that?", _sure(folder)),
    ]


def _last_step(folder: RunFolder) -> int:
    return folder.groups[-1].step if folder.groups else -1


def _last_held_out(folder: RunFolder) -> list[GroupSample]:
    held_out = [group for group in folder.groups if group.source == "held-out"]
    return [group for group in held_out if group.step == held_out[-1].step]


def _made(groups: Sequence[GroupSample]) -> bool:
    return any(len(group.views) > 1 for group in groups)


def _attacked(folder: RunFolder) -> str:
    task, model = type_name(setting(folder.config, "task")), setting(folder.config, "model.path")
    sampler = type_name(setting(folder.config, "sampler"))
    trained = f"The policy {without_folders(model)} was trained on the task {task}"
    attacks = interventions(folder.config)
    if not attacks:
        return f"{trained} by the sampler {sampler}, which attacks nothing: every response sees the picture as it is."
    parts = []
    for slots in attacks.values():
        attack = slots.get("attack")
        fields = attack if isinstance(attack, Mapping) else {}
        settings = [f"{name} {fields[name]}" for name in ("steps", "step", "radius") if fields.get(name) is not None]
        way = {"lower": "lower", "raise": "raise"}.get(str(fields.get("direction", "raise")), "change")
        surfaces = [type_name(each) for each in slots.get("surfaces") or ()]
        what = f" ({', '.join(surfaces)})" if surfaces else ""
        how = f" with {', '.join(settings)}" if settings else ""
        parts.append(
            f"The attack {type_name(attack)}{what}{how} changes what is shown to the policy. Its aim is to {way} the "
            f"{type_name(slots.get('criterion'))} of chosen tokens"
            + (f", under the control {type_name(slots['control'])}" if slots.get("control") else "")
        )
    counts = _counts(folder)
    return f"{trained}. {'; '.join(parts)}. {counts}"


def _counts(folder: RunFolder) -> str:
    if not folder.groups:
        return "The other responses of each group are drawn from what it made."
    group = folder.groups[-1]
    drawn = Counter(
        group.views[response.view].origin for response in group.responses if response.view < len(group.views)
    )
    of_each = " and ".join(f"{count} from the {origin} view" for origin, count in drawn.items())
    return f"A group has {plural(len(group.responses), 'response')}, {of_each}; all of them are trained on."


def _chosen(folder: RunFolder, groups: Sequence[GroupSample]) -> str:
    names = ", ".join(
        dict.fromkeys(type_name(slots.get("selector")) for slots in interventions(folder.config).values())
    )
    pieces: Counter[str] = Counter()
    chosen: list[float] = []
    others: list[float] = []
    for _, response, tokens in _looked_at(groups):
        for n, flag in enumerate(tokens.selected):
            if n < len(response.entropies):
                (chosen if flag else others).append(response.entropies[n])
                if flag and n < len(response.pieces):
                    pieces[response.pieces[n].strip()] += 1
    if not chosen:
        return f"Those that the selector {names} chooses; no single tokens were kept."
    often = ", ".join(f"“{piece}”" for piece, _ in pieces.most_common(6))
    every = f", that of the others {number(_mean(others))}" if others else ""
    meaning = f" ({SELECTORS[names]})" if names in SELECTORS else ""
    return (
        f"The selector {names}{meaning} chose {len(chosen)} of {len(chosen) + len(others)} tokens "
        f"({percent(len(chosen) / (len(chosen) + len(others)))}) in {_responses(groups)}, most often {often}. "
        f"Their mean entropy is {number(_mean(chosen))} nats per token{every}."
    )


def _responses(groups: Sequence[GroupSample]) -> str:
    """Return which responses the numbers are of."""
    count = len({(id(group), tokens.response) for group, _, tokens in _looked_at(groups)})
    which = f"{plural(len(groups), 'held-out example')}" if groups[0].source == "held-out" else "the last groups"
    return f"{plural(count, 'clean response')} to {which} at step {groups[0].step}"


def _moved(groups: Sequence[GroupSample]) -> str:
    sentences = []
    views = [view for group in groups for view in group.views[1:]]
    for surface in dict.fromkeys(name for view in views for name in view.distances):
        distances = [view.distances[surface] for view in views if surface in view.distances]
        largest, share = max(each.largest for each in distances), _mean([each.share for each in distances])
        if surface == "pixels":
            sentences.append(
                f"{percent(share)} of the picture's values moved, none by more than {number(largest)} of 255; "
                "the gallery enlarges the difference."
            )
        else:
            sentences.append(f"Of the surface {surface} {percent(share)} moved, at most by {number(largest)}.")
    reworded = [(group, view) for group in groups for view in group.views[1:] if view.question != group.question]
    if reworded:
        group, view = reworded[0]
        sentences.append(f"The question “{_short(group.question)}” became “{_short(view.question)}”.")
    before, after = [], []
    for _, response, tokens in _looked_at(groups):
        for n, flag in enumerate(tokens.selected):
            if flag and n < min(len(response.entropies), len(tokens.entropies)):
                before.append(response.entropies[n])
                after.append(tokens.entropies[n])
    if before:
        sentences.append(
            f"In {_responses(groups)} the mean entropy of the chosen tokens went from {number(_mean(before))} to "
            f"{number(_mean(after))} nats; “What the attack raised” has that of the groups trained on."
        )
    return " ".join(sentences) or "Nothing was kept of it."


def _said(groups: Sequence[GroupSample]) -> str:
    if not groups or not groups[0].responses:
        return "Nothing was kept of it."
    sentences = []
    for group in groups[:2]:
        said = [
            f"{_answers(responses)} to the {view.origin} view"
            for number_of_view, view in enumerate(group.views)
            if (responses := group.from_view(number_of_view))
        ]
        sentences.append(
            f"At step {group.step} the policy was asked “{_short(group.question)}” (the right answer: "
            f"“{_short(group.answer)}”). It answered {'; and '.join(said)}."
        )
    return " ".join(sentences)


def _answers(responses: Iterable[ResponseSample]) -> str:
    answers = Counter(response.extracted for response in responses)
    counts = [
        ("no answer" if answer is None else f"“{_short(answer, 24)}”", count)
        for answer, count in answers.most_common(5)
    ]
    return ", ".join(f"{answer} {'once' if count == 1 else f'{count} times'}" for answer, count in counts)


def _helped(folder: RunFolder) -> str:
    evaluated = folder.evaluated
    if len(evaluated) < 2:
        return "There are not two evaluations to compare yet."
    first, last = evaluated[0], evaluated[-1]
    sentences = [
        f"Accuracy on held-out examples went from {_accuracy(folder, first)} at step {first['step']} to "
        f"{_accuracy(folder, last)} at step {last['step']}."
    ]
    start, end = value(first, "probe/entropy"), value(last, "probe/entropy")
    if start is not None and end is not None:
        collapsed = next(
            (line["step"] for line in evaluated if (value(line, "probe/entropy") or 0.0) < start / 2), None
        )
        state = (
            f"it fell below half of its start at step {collapsed}, which counts as collapse; "
            "where accuracy rose at the same time, the policy may have become sure for good reason"
            if collapsed is not None
            else "it stayed above half of its start, so it did not collapse"
        )
        sentences.append(f"Entropy on the probe went from {number(start)} to {number(end)} nats per token: {state}.")
    sentences.append(
        "Whether the attack made that difference, this run alone cannot show: it has no arm without the attack."
        if interventions(folder.config)
        else "This is a run without an attack, such as others are compared with."
    )
    return " ".join(sentences)


def _sure(folder: RunFolder) -> str:
    examples, responses = (setting(folder.config, f"evaluation.{name}") for name in ("examples", "responses"))
    measured = f"{examples} of them with {responses} responses each" if examples and responses else "few or many"
    return coded(
        f"One run, one seed ({setting(folder.config, 'seed')}). In brackets is the 95 % interval over the examples, "
        f"{measured}: how well the accuracy of this very checkpoint is known. It does not say what another seed would "
        "give, which may differ by more. For a claim about the method compare several seeds with and without it: "
        "`saei view` takes two runs, `saei eval --compare` tests sets of them."
    )


def _accuracy(folder: RunFolder, line: Mapping[str, Any]) -> str:
    return with_interval(value(line, "eval/accuracy"), accuracy_interval(folder, line))


def _looked_at(groups: Iterable[GroupSample]) -> Iterable[tuple[GroupSample, ResponseSample, Any]]:
    for group in groups:
        for view in group.views[1:]:
            for tokens in view.tokens:
                if tokens.response < len(group.responses):
                    yield group, group.responses[tokens.response], tokens


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else float("nan")


def _short(text: str, most: int = 160) -> str:
    line = " ".join(text[: 4 * most].split())
    return line if len(line) <= most else line[: most - 1] + "…"
