r"""Graders of answers in words: a letter, yes or no, the text of an option, any text."""

from __future__ import annotations

import re
from collections.abc import Mapping
from fractions import Fraction

from saei.errors import shown
from saei.rewards.graders.base import AnswerKey, Verdict
from saei.rewards.graders.exact import same
from saei.rewards.graders.normalize import normalize, plain_words
from saei.rewards.graders.value import parse_number

POLARITY: Mapping[str, bool] = {"yes": True, "true": True, "no": False, "false": False}
MAX_TEXT = 2000  # characters; longer texts have to be the same up to white space and case
MAX_NUMBER = 64  # characters; longer strings are compared as text only
_NUMBER = re.compile(r"[+-]?(?:\d{1,3}(?:,\d{3})+(?:\.\d*)?|\d+(?:\.\d*)?|\.\d+)(?:/\d+)?", re.ASCII)
_TEXT_COMMAND = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mbox)\s*\{([^{}]*)\}")
_BESIDE_SIGN = re.compile(r"\s*([^\w\s])\s*")
_LETTER = re.compile(
    r"(?:(?:option|choice)\s+)?(?:\((?P<round>[A-Za-z])\)|\[(?P<square>[A-Za-z])\]|(?P<bare>[A-Za-z]))"
    r"(?:\s*(?P<mark>[.:),-])|\s*$|\s+)\s*(?P<rest>.*)",
    re.IGNORECASE | re.DOTALL,
)
_SEVERAL = re.compile(r"(?:\b(?:and|or|nor|but|maybe|not)\b|[&/,;\s.:)(\[\]*-]|\b[A-Z]\b)+", re.IGNORECASE)
_ANOTHER_WORD = re.compile(r"(?:and|or|nor|but|not|maybe|perhaps)\b|[&/]", re.IGNORECASE)  # (A) or the second
_ANOTHER = re.compile(r"(?:^|[\s,;&/])(?:[(\[][A-Z][)\]]|[A-Z]\s*(?:[.:)](?=\s|$)|-\s))")  # A: 1, B: 2


def letter(answer: str, key: AnswerKey) -> Verdict:
    """A letter, alone or before its option: ``C``, ``(c)``, ``C. 40``, ``Option C``; or, with choices, its text."""
    gold = letter_of(key.gold)
    assert gold is not None, "checked when the example was read"
    if key.choices:
        return _chosen(answer, key, ord(gold) - ord("A"))
    given = letter_of(answer)
    if given is None:
        return Verdict(False, f"no single letter in '{shown(answer)}'")
    return Verdict(given == gold, f"letter {given}")


def choice(answer: str, key: AnswerKey) -> Verdict:
    """The text of an option, or its letter: the answer has to mean the option that the gold answer is the text of."""
    place = place_of(key.gold, key.choices)
    assert place is not None, "checked when the example was read"
    return _chosen(answer, key, place)


def yes_no(answer: str, key: AnswerKey) -> Verdict:
    """Yes or no, also true or false: the first word, unless the other one follows."""
    gold = polarity_of(key.gold)
    given = polarity_of(answer)
    if given is None:
        return Verdict(False, f"neither yes nor no: '{shown(answer)}'")
    return Verdict(given == gold, "yes" if given else "no")


def text(answer: str, key: AnswerKey) -> Verdict:
    """The same text up to case, white space, Markdown and a full stop, or the same rational number."""
    correct = same_answer(answer.casefold(), key.gold.casefold()) or same_words(answer, key.gold)
    return Verdict(correct, "the same text" if correct else f"another text: '{shown(answer)}'")


def same_words(given: str, gold: str) -> bool:
    """Return whether two answers have the same words and signs, ignoring the space around signs."""
    if max(len(given), len(gold)) > MAX_TEXT:
        return False
    given, gold = (_BESIDE_SIGN.sub(r"\1", plain_words(normalize(text))) for text in (given, gold))
    return bool(gold) and given == gold


def same_answer(given: str, gold: str) -> bool:
    """Return whether two answers are the same text up to white space, or the same rational number."""
    given, gold = " ".join(given.split()), " ".join(gold.split())
    if given == gold:
        return bool(gold)
    number = _number(gold)
    return number is not None and _number(given) == number


def letter_of(answer: str) -> str | None:
    """Return the one letter that an answer gives, None if it gives none or several."""
    match = _lettered(answer)
    if match is None:
        return None
    rest, letter = match["rest"], match["round"] or match["square"] or match["bare"]
    if rest and not match["mark"] and letter == match["bare"]:
        return None  # "a cat" names no option
    if _SEVERAL.fullmatch(rest) or _names_another(rest, upper=letter.isupper()):
        return None  # "A, C", "A: 1, B: 2" and "(A) and (B)" name two
    if match["mark"] in (",", "-") and re.search(r"\b[B-Z]\b", rest):
        return None  # "A, because B is wrong" is no choice yet
    return str(letter).upper()


def _names_another(rest: str, *, upper: bool) -> bool:
    """Return whether what follows a letter goes on to another option."""
    return bool(_ANOTHER_WORD.match(rest) or _ANOTHER.search(rest if upper else rest.upper()))


def _lettered(answer: str) -> re.Match[str] | None:
    return _LETTER.fullmatch(_TEXT_COMMAND.sub(r"\1", normalize(answer)).strip(" .*{}"))


def polarity_of(answer: str) -> bool | None:
    """Return True for yes, False for no, None for neither or both."""
    words = plain_words(_TEXT_COMMAND.sub(r"\1", normalize(answer)).replace("*", ""))
    if words in ("1", "0"):
        return words == "1"
    first = re.match(r"(yes|no|true|false)(?:$|\s*[.,;:!\-(])", words)
    if first is None:
        return None
    answers = {POLARITY[word] for word in re.findall(r"\b(?:yes|no|true|false)\b", words)}
    return POLARITY[first[1]] if len(answers) == 1 else None


def place_of(answer: str, choices: tuple[str, ...]) -> int | None:
    """Return which option an answer is the text of; None for none."""
    options = [_option(option) for option in choices]
    given = _option(answer)
    if given in options:
        return options.index(given)
    number = parse_number(answer)
    if number is None:
        return None
    for place, option in enumerate(choices):
        value = parse_number(option)
        if value is not None and same(value.number, number.number):
            return place
    return None


def _chosen(answer: str, key: AnswerKey, gold: int) -> Verdict:
    """Grade by which option an answer means: by its text, else by its letter, and not by both against each other."""
    place = place_of(answer, key.choices)
    if place is not None:  # options may have the same text twice
        correct = place == gold or _option(key.choices[place]) == _option(key.choices[gold])
        return Verdict(correct, f"the text of option {_name(place)}")
    given = letter_of(answer)
    if given is None or ord(given) - ord("A") >= len(key.choices):
        return Verdict(False, f"none of the options: '{shown(answer)}'")
    place = ord(given) - ord("A")
    match = _lettered(answer)
    beside = place_of(match["rest"], key.choices) if match and match["rest"] else None
    if beside is not None and _option(key.choices[beside]) != _option(key.choices[place]):
        return Verdict(False, f"letter {given} with the text of option {_name(beside)}")
    return Verdict(place == gold, f"letter {given}")


def _option(text: str) -> str:
    return plain_words(normalize(text))


def _name(place: int) -> str:
    return chr(ord("A") + place) if place < 26 else str(place + 1)


def _number(text: str) -> Fraction | None:
    if len(text) > MAX_NUMBER or not _NUMBER.fullmatch(text):
        return None
    numerator, _, denominator = text.replace(",", "").partition("/")
    if denominator and int(denominator) == 0:
        return None
    return Fraction(numerator) / Fraction(denominator or 1)
