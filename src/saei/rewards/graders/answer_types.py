"""The type of answer that an example requires: as it declares, or inferred from its gold answer."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from saei.errors import nearest, shown
from saei.rewards.graders.base import ANSWER_TYPES, MAX_LENGTH, AnswerKey, AnswerType, bad_gold_error
from saei.rewards.graders.chains import is_equation
from saei.rewards.graders.lists import split_items
from saei.rewards.graders.mathematics import is_mathematics, is_written_number
from saei.rewards.graders.normalize import normalize, plain_words
from saei.rewards.graders.quantities import parse_quantity
from saei.rewards.graders.units import split_unit
from saei.rewards.graders.words import POLARITY
from saei.types import Example

_LETTER = re.compile(r"[(\[]?[A-Z][)\]]?[.):]?")


def answer_key(example: Example) -> AnswerKey:
    """Return what an answer to an example is compared with.

    Raises:
        DataError: If the example's ``meta`` describes the answer in an invalid way.
    """
    meta = example.meta
    options = meta.get("choices")
    if isinstance(options, str) or not isinstance(options, Iterable | None):
        raise bad_gold_error(
            example, "`choices` has to be a list of options.", "Correct the row.", f"choices {shown(repr(options))}"
        )
    choices = tuple(str(choice) for choice in options or ())
    type_ = meta.get("answer_type")
    if type_ is not None and type_ not in ANSWER_TYPES:
        raise bad_gold_error(
            example,
            "`answer_type` has to be a known type of answer.",
            nearest(str(type_)[:60], ANSWER_TYPES),
            shown(repr(type_)),
        )
    unit = meta.get("unit")
    rows = meta.get("map", ()) if type_ == "plan" else ()
    if isinstance(rows, str) or not isinstance(rows, Iterable):
        raise bad_gold_error(
            example, "`map` has to be a list of rows.", "Correct the row.", f"the map {shown(repr(rows))}"
        )
    return AnswerKey(
        type_ or infer_type(example.answer, choices),
        example.answer,
        inferred=type_ is None,
        choices=choices,
        precision=None if meta.get("precision") is None else int(_number(example, "precision")),
        unit=str(unit).strip() or None if unit is not None else None,
        tolerance=None if meta.get("tolerance") is None else _number(example, "tolerance"),
        map=tuple(map(str, rows)),
    )


@lru_cache(maxsize=8192)
def infer_type(gold: str, choices: tuple[str, ...] = ()) -> AnswerType:
    r"""Return the type of answer that a gold answer looks like; the first rule that fits.

    1. One of the ``choices``: ``choice``.
    2. A capital letter alone, also ``(B)`` or ``B.``: ``letter``.
    3. Yes, no, true or false: ``yes-no``.
    4. A whole number, with a unit or ``x =`` or without: ``integer``. Another written number (``13.9``, ``3/4``,
       ``8\sqrt{3}``, ``50%``): ``number``. Days, ranges and scores (``2019-05-01``, ``3-2``) are none.
    5. In square brackets, or several numbers or capital letters between commas: ``list``.
    6. As a whole an expression that someone would write: ``expression``.
    7. Anything else: ``text``.
    """
    if len(gold) > MAX_LENGTH:
        return "text"
    normalized = normalize(gold)
    if choices and any(plain_words(normalized) == plain_words(normalize(choice[:MAX_LENGTH])) for choice in choices):
        return "choice"
    if _LETTER.fullmatch(normalized):
        return "letter"
    if plain_words(normalized) in POLARITY:
        return "yes-no"
    quantity = parse_quantity(gold) if is_written_number(normalized) and not is_equation(normalized) else None
    if quantity is not None:
        value = quantity.value
        whole = value.rational and value.number == int(value.number) and value.decimals is None and not value.percent
        return "integer" if whole else "number"
    parts = split_items(normalized)
    if normalized.startswith("[") and normalized.endswith("]") and parts:
        return "list"
    if (
        len(parts) > 1
        and normalized[0] not in "([{\\"
        and all(parse_quantity(part) or _LETTER.fullmatch(part) for part in parts)
    ):
        return "list"
    return "expression" if is_mathematics(split_unit(normalized)[0]) else "text"


def _number(example: Example, name: str) -> float:
    value: Any = example.meta[name]
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = -1.0
    if not 0 <= number < 1000:
        raise bad_gold_error(
            example, f"`{name}` has to be a number from 0 on.", "Correct the row.", f"{name} {shown(repr(value))}"
        )
    return number
