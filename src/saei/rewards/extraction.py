r"""Extracting a response's final answer and checking its form, in linear time."""

from __future__ import annotations

import re

from saei.rewards.graders.normalize import closing_brace

BOX = "\\boxed{"
_TURN = re.compile(r"</think>\s*<answer>")


def last_boxed(text: str) -> str | None:
    r"""Return the content of the last ``\boxed{...}``, braces balanced; None without a closed one after it."""
    start = text.rfind(BOX)
    if start < 0:
        return None
    begin = start + len(BOX)
    end = closing_brace(text, begin)
    return None if end is None else text[begin:end].strip()


def last_tagged(text: str) -> str | None:
    r"""Return the content of the last ``<answer>…</answer>``, or of the last box in it; None without one."""
    end = text.rfind("</answer>")
    start = text.rfind("<answer>", 0, end) if end >= 0 else -1
    if start < 0:
        return None
    content = text[start + len("<answer>") : end].strip()
    boxed = last_boxed(content)
    return content if boxed is None else boxed


def well_formed(text: str) -> bool:
    r"""Return whether the text matches ``<think>.*</think>.*\boxed{.*}.*`` as a whole.

    The pattern holds exactly if its literals occur in this order, the first at the very start: taking the
    earliest place for each leaves the most room for the next.
    """
    if not text.startswith("<think>"):
        return False
    place = len("<think>")
    for literal in ("</think>", BOX, "}"):
        start = text.find(literal, place)
        if start < 0:
            return False
        place = start + len(literal)
    return True


def thinks_then_answers(text: str) -> bool:
    r"""Return whether the text matches ``<think>.*?</think>\s*<answer>.*?</answer>`` as a whole."""
    if not (text.startswith("<think>") and text.endswith("</answer>")):
        return False
    turn = _TURN.search(text, len("<think>"))
    return turn is not None and turn.end() <= len(text) - len("</answer>")


def thinks_and_answers_once(text: str) -> bool:
    r"""Return whether each tag of ``<think>.+</think>\s*<answer>.+</answer>`` stands there once, in this order.

    Text before and behind is allowed; neither part may be empty.
    """
    tags = ("<think>", "</think>", "<answer>", "</answer>")
    if any(text.count(tag) != 1 for tag in tags):
        return False
    opened, closed, answer, end = (text.index(tag) for tag in tags)
    turn = _TURN.match(text, closed)
    return opened + len(tags[0]) < closed and turn is not None and turn.end() == answer + len(tags[2]) < end
