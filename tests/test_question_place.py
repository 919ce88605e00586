"""What of a question may change: frozen words in every kind of question, and swaps of a real subword vocabulary."""

from __future__ import annotations

import re
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from saei.builtin.architecture import build_image_processor, build_model
from saei.builtin.vocabulary import CHAT_TEMPLATE, END, IMAGE, PAD, SPECIAL, START, VIDEO, VISION_END, VISION_START
from saei.config.sections import SamplingConfig
from saei.data.bars import Bars
from saei.data.templates import ThinkBoxed
from saei.interventions.editable import NEGATIONS, editable_places, word_spans, writable, writes_frozen
from saei.interventions.text_surfaces import Tokens
from saei.policy import Policy
from saei.policy.embeddings import Embeddings
from saei.policy.load.weights import Parts
from saei.types import Example, Question, View

PIECES = re.compile(r"[\u4e00-\u9fff\u3040-\u30ff]|[\w\u0900-\u097f]+|[^\w\s]")


def editable(text: str, protected: tuple[str, ...] = (), spans: tuple[tuple[int, int], ...] = ()) -> list[str]:
    """The pieces of a question that may change, one token each."""
    pieces = [match.span() for match in PIECES.finditer(text)]
    question = Question(torch.arange(len(pieces)), tuple(pieces))
    ids = torch.zeros(len(pieces), dtype=torch.long)
    view = View(Example("e", text, "a", protected=spans), "clean", ids, ids[None], question=question)
    places = editable_places(view, protected)
    return [text[start:end] for (start, end), free in zip(pieces, places, strict=True) if free]


@pytest.mark.parametrize(
    ("text", "free"),
    [
        ("Which bar is not red?", "Which bar is red"),
        ("Isn't the bar higher than NEVER?", "the bar higher than"),
        ("Which one can\u2019t be without red", "Which be red"),
        ("What is red + 2 - yellow?", "What is red yellow"),
        ("What is two plus red?", "What is red"),
        ("Is R2D2 or B52 red_blue?", "Is or"),
        ("Find x so that $x^2 + ab = 3$ holds.", "Find x so that holds"),
        ("$$ab$$ is what?", "is what"),
        (r"Solve \(f(x) = ab\) and \[cd\] now", "Solve and now"),
        (r"Find \frac{ab}{cd} or \boxed{red}", "Find or"),
        (r"See \begin{align}ab &= cd\end{align} here", "See here"),
        ("Which?\nA. red bar\nB. blue bar", "Which"),
        ("Which?\n(1) red bar\n2) blue bar", "Which"),
        ("Which is it? (A) red (B) blue", "Which is it"),
        ("Which is it: a) red b) blue", "Which is it"),
        ("Choose!\nChoices: left, right", "Choose"),
        ("Which of them, <image> or <image>, is darker?", "Which of them or is darker"),
        ("这不是红色", "这 是 红 色"),
        ("赤い棒ではない", "赤 い 棒 で は"),
        ("Это не красный", "Это красный"),
        ("यह लाल नहीं है", "यह लाल है"),
        ("Das ist KEIN Balken", "Das ist Balken"),
        ("", ""),
    ],
)
def test_what_changes_the_task_is_frozen(text: str, free: str) -> None:
    assert editable(text) == free.split()


def test_protected_names_and_spans_are_frozen() -> None:
    text = "Is the Eiffel Tower in Paris or in Rome?"
    assert editable(text, ("eiffel tower", "ROME")) == ["Is", "the", "in", "Paris", "or", "in"]
    assert editable(text, ("Par",)) == editable(text)  # names are whole words
    assert editable(text, spans=((8, 11), (23, 24))) == ["Is", "the", "Tower", "in", "or", "in", "Rome"]
    assert editable("红色和蓝色", ("蓝色",)) == ["红", "色", "和"]


@pytest.mark.parametrize(
    ("text", "may"),
    [(" red", True), ("ed", True), ("लाल", True), ("红", True)]
    + [
        (text, False)
        for text in (" not", "No", " 3", "x2", "", " ", "red,", "<image>", " two", "नहीं", "\ufffd", "\u0301")
    ],
)
def test_only_words_that_are_not_frozen_are_written(text: str, may: bool) -> None:
    assert writable(text) == may
    assert not writable(text, (text.strip(),))


@pytest.mark.parametrize(
    ("text", "words"),
    [("Isn't it l'eau?", ["Isn't", "it", "l'eau"]), ("हिन्दी है", ["हिन्दी", "है"]), ("不好 a1", ["不", "好", "a1"])],
)
def test_words_hold_their_marks_and_apostrophes(text: str, words: list[str]) -> None:
    assert [text[start:end] for start, end in word_spans(text)] == words


# A byte-level BPE vocabulary

SENTENCES = [
    "What is the red bar? How high is the yellow bar in the chart? Which bar is higher, blue or green?",
    "The answer is the height of the bar. Think inside, then answer. The heights are high and higher, red and redder.",
    "the there then these where here other another mother brother bothering",
] * 20


@pytest.fixture(scope="module")
def bpe_policy() -> Policy:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)  # as Qwen's: spaces belong to the word behind
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(SENTENCES, trainers.BpeTrainer(vocab_size=340, initial_alphabet=alphabet))
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        extra_special_tokens={
            "image_token": IMAGE,
            "video_token": VIDEO,
            "vision_bos_token": VISION_START,
            "vision_eos_token": VISION_END,
            "turn_token": START,
        },
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_model(fast).eval()
    return Policy(Parts(model, fast, build_image_processor()), ThinkBoxed(), sampling=SamplingConfig(max_new_tokens=4))


def swap(ids_Q: torch.Tensor, place: int, token: int) -> torch.Tensor:
    swapped_Q = ids_Q.clone()
    swapped_Q[place] = token
    return swapped_Q


def test_subwords_are_found_with_their_spaces(bpe_policy: Policy) -> None:
    view = bpe_policy.view(Bars().example(2))
    assert view.question is not None
    ids_Q = view.prompt_ids_P[view.question.places_Q]
    pieces = [bpe_policy.tokenizer.decode([token]) for token in ids_Q.tolist()]
    assert "".join(pieces) == view.example.question
    assert len(pieces) > len(view.example.question.split())  # some words have several tokens
    for piece, (start, end) in zip(pieces, view.question.spans, strict=True):
        assert piece == view.example.question[start:end]


def test_every_swap_of_subwords_is_the_view_of_its_text_or_not_taken(bpe_policy: Policy) -> None:
    """All tokens at two places, inside of a word and at its start: they are encoded again as they are, or refused."""
    view = bpe_policy.view(replace(Bars().example(2), question="Where is the mother here?"))
    assert view.question is not None
    ids_Q = view.prompt_ids_P[view.question.places_Q]
    outcomes = {"taken": 0, "merged": 0}
    for place in (1, len(ids_Q) - 2):
        for token in range(int(bpe_policy.distribution.banned_V.shape[0])):  # type: ignore[union-attr]
            if token == int(ids_Q[place]) or bpe_policy.distribution.banned_V[token]:  # type: ignore[index]
                continue
            swapped_Q = swap(ids_Q, place, token)
            text = bpe_policy.tokenizer.decode(swapped_Q)
            swapped = bpe_policy.with_question_ids(view, swapped_Q)
            again = bpe_policy.tokenizer(text, add_special_tokens=False)["input_ids"]
            if swapped is None:
                assert again != swapped_Q.tolist() or "\ufffd" in text or text != text.strip() or END in text
                outcomes["merged"] += 1
                continue
            assert again == swapped_Q.tolist()
            assert swapped.example.question == text
            assert torch.equal(swapped.prompt_ids_P, bpe_policy.view(swapped.example).prompt_ids_P)
            outcomes["taken"] += 1
    assert min(outcomes.values()) > 50, outcomes


def test_no_swap_writes_a_negation_of_several_tokens(bpe_policy: Policy) -> None:
    """``nit`` has three tokens, and so have ``not`` and ``nut``; one of them turns the sentence around."""
    view = bpe_policy.view(replace(Bars().example(2), question="Is the nit red?"))
    assert view.question is not None
    ids_Q = view.prompt_ids_P[view.question.places_Q]
    ids = {letter: bpe_policy.tokenizer(letter, add_special_tokens=False)["input_ids"][0] for letter in "iou"}
    place = ids_Q.tolist().index(ids["i"])
    (block,) = Tokens().open(bpe_policy, [view], scale=1.0).spaces
    assert block.tokens is not None
    assert bool(block.editable[place])  # type: ignore[index]
    for letter, legal in (("u", True), ("o", False)):
        swapped_Q = swap(ids_Q, place, ids[letter])
        swapped = bpe_policy.with_question_ids(view, swapped_Q)
        assert swapped is not None
        assert swapped.example.question == f"Is the n{letter}t red?"
        assert block.tokens.legal(swapped_Q) is legal
        assert writes_frozen(view, swapped) is not legal
        assert writes_frozen(view, swapped, ("nut",))
    assert "not" in NEGATIONS


def test_tokens_fit_where_both_begin_a_word_or_both_do_not(bpe_policy: Policy) -> None:
    view = bpe_policy.view(Bars().example(2))
    (block,) = Tokens(Tokens.Config(protected=("bar",))).open(bpe_policy, [view], scale=1.0).spaces
    assert block.tokens is not None
    kinds: dict[int, set[bool]] = {}
    for token, kind in enumerate(block.tokens.kind_V.tolist()):
        text = bpe_policy.tokenizer.decode([token])
        kinds.setdefault(kind, set()).add(text.startswith(" "))
        assert (kind >= 0) <= (text.strip().isalpha() and text.strip() != "bar")
    assert kinds[0] == {False}
    assert kinds[1] == {True}


def test_texts_keep_the_spaces_that_a_tokenizer_leaves_out_in_front() -> None:
    """SentencePiece's way: alone a token has no space in front, behind another one it has."""
    tokenizer = Tokenizer(
        models.Unigram([("<unk>", -9.0), ("\u2581red", -1.0), ("red", -2.0), ("a", -2.0), ("\u2581", -3.0)], 0)
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    fast: Any = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")
    assert fast.decode([1]) == "red"
    banned_V = torch.tensor([True, False, False, False, False, False])
    policy: Any = SimpleNamespace(tokenizer=fast, distribution=SimpleNamespace(banned_V=banned_V))
    assert Embeddings(policy).texts == ["", " red", "red", "a", " ", ""]  # the last one has a row and no token
