"""From answers to verdicts: each by the grader of its type, in one batch, so that workers share what needs algebra."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

from saei.errors import DataError, shown
from saei.rewards.graders import quantities, words
from saei.rewards.graders.answer_types import answer_key
from saei.rewards.graders.base import MAX_LENGTH, AlgebraQuestion, AnswerKey, AnswerType, Verdict, bad_gold_error
from saei.rewards.graders.expressions import expression, unfit_for_algebra
from saei.rewards.graders.lists import grade_list, split_items
from saei.rewards.graders.normalize import normalize
from saei.rewards.graders.plans import plan, plan_problem
from saei.rewards.graders.workers import TIME_LIMIT_S, workers
from saei.types import Example

MAX_OPTIONS = 100

GRADERS: Mapping[str, Callable[[str, AnswerKey], Verdict | AlgebraQuestion]] = {
    "letter": words.letter,
    "yes-no": words.yes_no,
    "integer": quantities.integer,
    "number": quantities.number,
    "relaxed": quantities.relaxed,
    "expression": expression,
    "list": grade_list,
    "choice": words.choice,
    "plan": plan,
    "text": words.text,
}
"""The grader of each type of answer."""


def grade_answers(pairs: Sequence[tuple[Example, str | None]], *, time_limit_s: float = TIME_LIMIT_S) -> list[Verdict]:
    """Return the verdict on each answer; one that is None could not be found in its response.

    Args:
        pairs: Examples and the final answers to them.
        time_limit_s: CPU seconds of algebra for one answer.

    Raises:
        TrainingError: If algebra is needed and its workers cannot be started.
    """
    outcomes = [_without_algebra(example, answer) for example, answer in pairs]
    questions = [outcome for outcome in outcomes if isinstance(outcome, AlgebraQuestion)]
    verdicts = iter(workers.compare(questions, time_limit_s) if questions else ())
    return [next(verdicts) if isinstance(outcome, AlgebraQuestion) else outcome for outcome in outcomes]


def check_gold(example: Example) -> None:
    """Check that the gold answer can be read as what its type asks for.

    Raises:
        DataError: If it cannot: an answer could then never be graded.
    """
    key = answer_key(example)
    problem = _gold_problem(key)
    if problem:
        how = "inferred from it" if key.inferred else "as the example says"
        raise bad_gold_error(
            example,
            f"The gold answer has to be readable as the type '{key.type}', {how}: {problem}.",
            "Correct the row, or give it another `answer_type`; `text` takes any answer.",
            f"'{shown(example.answer)}'"
            + (f" and the options {shown(str([text[:60] for text in key.choices[:26]]), 200)}" if key.choices else ""),
        )


def answer_type(example: Example) -> AnswerType | None:
    """Return the type of answer that an example asks for; None if its gold answer cannot be read as one."""
    try:
        key = answer_key(example)
    except DataError:
        return None
    return None if _gold_problem(key) else key.type


def _without_algebra(example: Example, answer: str | None) -> Verdict | AlgebraQuestion:
    if answer is None:
        return Verdict(False, "no final answer")
    if answer_type(example) is None:
        return Verdict(False, "the gold answer cannot be read")
    key = answer_key(example)
    if not answer.strip():
        return Verdict(False, "an empty answer")
    # No shortcut may be laxer than the grader, which compares more than digits; the same text is always right.
    if answer.split() == key.gold.split():
        return Verdict(True, "the same text")
    if len(answer) > MAX_LENGTH:
        return Verdict(False, f"longer than {MAX_LENGTH} characters")
    return GRADERS[key.type](answer, key)


@lru_cache(maxsize=8192)
def _gold_problem(key: AnswerKey) -> str:
    """Return what is wrong with a gold answer, an empty text if nothing is."""
    gold = key.gold
    if not gold.strip():
        return "it is empty"
    if len(key.choices) > MAX_OPTIONS or any(len(choice) > MAX_LENGTH for choice in key.choices):
        return f"there are over {MAX_OPTIONS} options, or one of over {MAX_LENGTH} characters"
    if len(gold) > MAX_LENGTH:
        return "" if key.type == "text" else f"it is longer than {MAX_LENGTH} characters"
    if key.type == "letter":
        letter = words.letter_of(gold)
        if letter is None:
            return "it is not a single letter"
        return "no option has this letter" if key.choices and ord(letter) - ord("A") >= len(key.choices) else ""
    if key.type == "choice":
        return "" if words.place_of(gold, key.choices) is not None else "it is none of the options' texts"
    if key.type == "yes-no":
        return "" if words.polarity_of(gold) is not None else "it is neither yes nor no"
    if key.type in ("integer", "number"):
        quantity = quantities.parse_quantity(gold)
        if quantity is None:
            return "it is not a number"
        whole = quantity.value.rational and quantity.value.number == int(quantity.value.number)
        return "it is not a whole number" if key.type == "integer" and not whole else ""
    if key.type == "plan":
        return plan_problem(key)
    if key.type == "list":
        return "" if split_items(normalize(gold)) else "it has no items"
    if key.type == "expression" and quantities.parse_quantity(gold) is None:
        normalized = normalize(gold)
        return unfit_for_algebra(normalized) or workers.unreadable(normalized)
    return ""
