"""What a changed question asks of a generated picture, and other wordings of a question.

A text attack swaps words, and what comes out may ask the same, ask something else, or ask nothing. The tasks decide by
a grammar: the sentences that the generator writes, their opposites (``lower``, ``smaller``) and other usual wordings,
with every word in its place. What may change within it:

- Case, spaces, commas and closing marks are free.
- Words that only hold the sentence together may be any of their class: ``what`` and ``which``, ``is`` and ``are``,
  ``the``, ``a`` and ``an``. Broken English with one possible meaning keeps that meaning: ``What are the red digit?``
- Words with a meaning may be any that fit the place: a synonym asks the same (``tall`` for ``high``), another name,
  sign or direction asks something else.

Any other text is unanswerable, even if a person could guess what was meant: a reward against a guess would be noise of
our own making. So single swaps reach all three outcomes: of ``How high is the red bar?`` the word ``tall`` keeps the
answer, ``blue`` changes it where the bars differ, and ``think`` leaves none. Source: original.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from saei.data.arithmetic import SIGNS, Problem

WHAT = "(?:what|which)"
IS = "(?:is|are)"
THE = "(?:the|a|an)"
SIGN_WORDS = {"+": "plus", "-": "minus", "*": "times"}

_TOKENS = re.compile(r"[a-z]+|[0-9]+|[^\sa-z0-9,]")


@dataclass(frozen=True, slots=True)
class NumberWords:
    """The words in which a task asks for named numbers.

    Attributes:
        noun: What has a number, such as ``bar``.
        picture: What the picture may be called.
        read: Patterns of questions for one number, with ``{item}`` for a named one such as ``the red bar``, and
            ``{name}`` for the name alone.
        more: Comparatives for the larger one.
        most: Superlatives for the largest one.
        less: Comparatives for the smaller one.
        least: Superlatives for the smallest one.
        read_wordings: Other questions for one number, with ``{name}``. These and the first word or two of the tuples
            above are known to the built-in model.
    """

    noun: str
    picture: tuple[str, ...]
    read: tuple[str, ...]
    more: tuple[str, ...]
    most: tuple[str, ...]
    less: tuple[str, ...]
    least: tuple[str, ...]
    read_wordings: tuple[str, ...]


# All bars of a chart are equally wide, so the larger one is the higher one.
BAR_WORDS = NumberWords(
    noun="bar",
    picture=("chart", "image", "picture"),
    read=(f"how (?:high|tall|large) {IS} {{item}}", f"{{item}} {IS} how (?:high|tall|large)"),
    more=("higher", "larger", "taller"),
    most=("highest", "largest", "tallest"),
    less=("smaller", "lower", "shorter"),
    least=("smallest", "lowest", "shortest"),
    read_wordings=(
        "How tall is the {name} bar?",
        "The {name} bar is how high?",
        "How high is the {name} bar in the chart?",
    ),
)

# Not "higher": a digit that lies higher up in the picture is not the larger one.
DIGIT_WORDS = NumberWords(
    noun="digit",
    picture=("image", "picture"),
    read=(f"{WHAT} {IS} (?:{THE} )?{{name}} digits?", f"{WHAT} digits? {IS} {{item}}"),
    more=("larger", "greater", "bigger"),
    most=("largest", "greatest", "biggest"),
    less=("smaller", "less"),
    least=("smallest",),
    read_wordings=(
        "Which digit is {name}?",
        "What digit is the {name} digit?",
        "What is the {name} digit in the image?",
    ),
)


def words_of(question: str) -> str:
    """Return the words and signs of a question in lower case, each after a space, without commas and closing marks."""
    return " ".join(_TOKENS.findall(question.lower().rstrip(" ?.!\n")))


def without_place(words: str, pictures: Sequence[str]) -> str:
    """Return words without a closing ``in the picture``, by any of its names."""
    return re.sub(rf" in {THE} {any_of(pictures)}$", "", words)


def any_of(words: Sequence[str]) -> str:
    """Return a pattern for one of some words."""
    return f"(?:{'|'.join(map(re.escape, words))})"


def answer_about_numbers(
    question: str, numbers: Mapping[str, int], words: NumberWords, *, more_in_picture: bool = False
) -> str | None:
    """Return the answer to a question about named numbers, None where it has no one clear answer.

    Unanswerable are, besides sentences outside of the grammar: names that are not among the numbers, comparisons with a
    tie, and calculations with a result below zero, which the generator never asks for and has taught nobody to write.
    Products go before sums.

    Args:
        question: Any text.
        numbers: Number by name.
        words: The words in which the task asks.
        more_in_picture: Whether the picture shows more things that may have the smallest number, never the largest.
    """
    text = without_place(words_of(question), words.picture)
    noun, name = f"{words.noun}s?", any_of(tuple(numbers))
    item = rf"(?:{THE} )?{name}(?: {noun})?"
    sign = any_of((*SIGN_WORDS, *SIGN_WORDS.values()))
    names = re.findall(rf"\b{name}\b", text)
    values = list(map(numbers.__getitem__, names))

    def asks(*patterns: str) -> bool:
        return any(re.fullmatch(pattern, text) for pattern in patterns)

    if asks(*(pattern.format(item=item, name=name) for pattern in words.read)):
        return str(values[0])
    if asks(rf"{WHAT} {IS} {item}(?: {sign} {item})+"):
        return _not_below_zero(_calculate(values, re.findall(rf" ({sign})(?= )", text)))
    if asks(rf"{WHAT} {IS} {THE} sum of {item}(?: {item})* and {item}"):
        return str(sum(values))
    if asks(rf"{WHAT} {IS} {THE} difference between {item} and {item}"):
        return str(abs(values[0] - values[1]))
    for comparatives, superlatives, best in ((words.more, words.most, max), (words.less, words.least, min)):
        degree = rf"(?:{THE} )?{any_of((*comparatives, *superlatives))}"
        if asks(rf"{WHAT} (?:{noun} )?{IS} {degree} {item} or {item}", rf"{IS} {item} or {item} {degree}"):
            return _single(numbers, names, best(values))
        if asks(rf"{WHAT} (?:{noun} )?{IS} (?:{THE} )?{any_of(superlatives)}(?: {noun})?"):
            known = not (more_in_picture and best is min)
            return _single(numbers, tuple(numbers), best(numbers.values())) if known else None
    return None


def _calculate(values: Sequence[int], signs: Sequence[str]) -> int:
    terms = [values[0]]
    for sign, value in zip(signs, values[1:], strict=True):
        if sign in ("*", "times"):
            terms[-1] *= value
        else:
            terms.append(value if sign in ("+", "plus") else -value)
    return sum(terms)


def _not_below_zero(result: int) -> str | None:
    return None if result < 0 else str(result)


def _single(numbers: Mapping[str, int], names: Sequence[str], value: int) -> str | None:
    """Return the only one of some names with a value, None if there are several."""
    winners = [name for name in names if numbers[name] == value]
    return winners[0] if len(winners) == 1 else None


def number_wordings(problem: Problem, words: NumberWords) -> tuple[str, ...]:
    """Return other questions with a problem's meaning, in words that the built-in model knows."""
    noun, names, more = words.noun, problem.names, words.more[0]
    if problem.kind == "read":
        return tuple(wording.format(name=names[0]) for wording in words.read_wordings)
    if problem.kind == "compare":
        return (
            f"Which {noun} is {more}, {names[1]} or {names[0]}?",
            f"Which is {more}, the {names[0]} {noun} or the {names[1]} {noun}?",
            f"Is the {names[0]} {noun} or the {names[1]} {noun} {more}?",
        )
    if problem.kind == "highest":
        highest, largest = words.most[:2]
        return f"Which {noun} is the {highest}?", f"What is the {highest} {noun}?", f"Which {noun} is {largest}?"
    spelled = problem.expression
    for sign, word in SIGN_WORDS.items():
        spelled = spelled.replace(sign, word)
    signs = SIGNS[problem.kind]
    wordings = [f"What is {spelled}?"]
    if signs[0] != "-":  # the first two change places
        swapped = Problem(problem.kind, (names[1], names[0], *names[2:]), problem.values)
        wordings.append(f"What is {swapped.expression}?")
    if set(signs) == {"+"}:
        wordings.append(f"What is the sum of {', '.join(names[:-1])} and {names[-1]}?")
    if signs == ("-",):
        wordings.append(f"What is the difference between {names[0]} and {names[1]}?")
    return tuple(wordings)
