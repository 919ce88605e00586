"""Where the question's own text stands in a prompt, for every family: attacks on text may move nothing else.

The conversation is rendered twice, once with probes in place of the question's parts, which shows where the parts
stand. The tokenizer's offsets then tell which tokens they are, and these stand in the expanded prompt in the same order
as before its image placeholders were expanded. What other tokens spell there is decided here, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor

from saei.data.markers import MARKER
from saei.types import Example, Question, View

if TYPE_CHECKING:
    from saei.data.base import Template
    from saei.policy.prompts import Prompts

Span: TypeAlias = tuple[int, int]
"""Characters from the first to before the second."""

_PROBE = "saeiquestion"


def find_question(prompts: Prompts, template: Template, example: Example, ids_P: Tensor) -> Question | None:
    """Return where an example's question stands in its prompt.

    None if that cannot be told: the tokenizer has no offsets, or a template changes or refuses the question's text.

    Args:
        prompts: Renders and tokenizes conversations.
        template: Makes them of examples.
        example: The example.
        ids_P: Its prompt, image placeholders expanded.
    """
    parts = _parts(example.question)
    rendered = prompts.text(template.messages(example))
    with_probe = replace(example, question=_with_probes(example.question, parts))
    try:
        rendered_probes = prompts.text(template.messages(with_probe))
    except Exception:  # a template may refuse whatever is no question of its task
        return None
    spans = _spans(rendered, rendered_probes, [end - start for start, end in parts])
    encoded = prompts.encode(rendered)
    if spans is None or encoded is None:
        return None
    ids, offsets = encoded
    ids_p, places, characters = ids_P.tolist(), list[int](), list[Span]()
    # From the right, so that of equal runs of tokens each finds its own: as many of them stand behind it.
    for (start, end), (first_character, _) in reversed(list(zip(spans, parts, strict=True))):
        inside = [place for place, (first, last) in enumerate(offsets) if start <= first < last <= end]
        if not inside:
            continue
        place = _expanded_place(ids, ids_p, inside)
        if place is None:
            return None
        ids, ids_p = ids[: inside[0]], ids_p[:place]
        shift = first_character - start
        places = [place + token - inside[0] for token in inside] + places
        characters = [(offsets[token][0] + shift, offsets[token][1] + shift) for token in inside] + characters
    if not places:
        return None
    return Question(torch.tensor(places, dtype=torch.long, device=ids_P.device), tuple(characters))


def with_question_ids(prompts: Prompts, template: Template, view: View, ids_Q: Tensor) -> View | None:
    """Return the view of a question with other tokens; see ``Policy.with_question_ids``."""
    question = view.question
    assert question is not None
    before_Q = view.prompt_ids_P[question.places_Q]
    if torch.equal(before_Q, ids_Q):
        return view
    text = question_text(prompts, view, ids_Q)
    if text is None or text.count(MARKER) != view.example.question.count(MARKER) or prompts.has_special_token(text):
        return None
    # What is protected was marked in the question that it was.
    example = replace(view.example, question=text, wordings=(), protected=())
    old, new = (prompts.unexpanded(template.messages(each)) for each in (view.example, example))
    swaps = [(a, b) for a, b in zip(before_Q.tolist(), ids_Q.tolist(), strict=True) if a != b]
    if len(old) != len(new) or [(a, b) for a, b in zip(old, new, strict=True) if a != b] != swaps:
        return None
    ids_P = view.prompt_ids_P.index_copy(0, question.places_Q, ids_Q)
    new_question = find_question(prompts, template, example, ids_P)
    if new_question is None or not torch.equal(new_question.places_Q, question.places_Q):
        return None
    return replace(view, example=example, prompt_ids_P=ids_P, question=new_question)


def question_text(prompts: Prompts, view: View, ids_Q: Tensor) -> str | None:
    """Return what tokens spell in the question's place; see ``Policy.question_text``."""
    question = view.question
    assert question is not None
    before_Q = view.prompt_ids_P[question.places_Q]
    return _respelt(prompts, view.example.question, question, before_Q.tolist(), ids_Q.tolist())


def _respelt(
    prompts: Prompts, text: str, question: Question, before: Sequence[int], after: Sequence[int]
) -> str | None:
    """Return a question's text with other tokens in place of its own, None if these are no text there."""
    places = question.places_Q.tolist()
    runs = [0, *(n for n in range(1, len(places)) if places[n] != places[n - 1] + 1), len(places)]
    for first, end in reversed(list(pairwise(runs))):
        start, stop = question.spans[first][0], question.spans[end - 1][1]
        old, new = (prompts.decode(ids[first:end]) for ids in (before, after))
        lead = old[: len(old) - (stop - start)]  # the space before its first word, which is not of the question
        if old != lead + text[start:stop] or not new.startswith(lead):
            return None
        text = text[:start] + new[len(lead) :] + text[stop:]
    return text


def _parts(question: str) -> list[Span]:
    """Return the spans of a question's text between its image markers, without the white space around them."""
    parts, start = [], 0
    for text in question.split(MARKER):
        stripped = text.strip()
        if stripped:
            first = start + text.index(stripped)
            parts.append((first, first + len(stripped)))
        start += len(text) + len(MARKER)
    return parts


def _with_probes(question: str, parts: Sequence[Span]) -> str:
    """Return a question with a probe in place of each part."""
    for start, end in reversed(parts):
        question = question[:start] + _PROBE + question[end:]
    return question


def _spans(rendered: str, with_probes: str, lengths: Sequence[int]) -> list[Span] | None:
    """Return where parts of these lengths stand in a conversation, None if what is around them differs."""
    around = with_probes.split(_PROBE)
    if len(around) != len(lengths) + 1:
        return None
    spans, place = [], 0
    for text, length in zip(around, [*lengths, 0], strict=True):
        if not rendered.startswith(text, place):
            return None
        place += len(text)
        spans.append((place, place + length))
        place += length
    return spans[:-1] if place == len(rendered) else None


def _expanded_place(ids: Sequence[int], expanded: Sequence[int], inside: Sequence[int]) -> int | None:
    """Return where the run of tokens at the places ``inside`` begins in the expanded prompt, None if it is not there.

    Of several equal runs it is the one with as many behind it.
    """
    run = list(ids[inside[0] : inside[-1] + 1])
    behind = len([place for place in _places_of(run, ids) if place > inside[0]])
    places = _places_of(run, expanded)
    return places[-1 - behind] if len(places) > behind else None


def _places_of(run: Sequence[int], ids: Sequence[int]) -> list[int]:
    width, first = len(run), run[0]
    starts = (place for place in range(len(ids) - width + 1) if ids[place] == first)
    return [place for place in starts if list(ids[place : place + width]) == list(run)]
