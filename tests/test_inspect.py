"""`saei ask` and `saei inspect`: they show what the policy computes, and no text of a model acts on a screen."""

from __future__ import annotations

import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

import saei
from commands import Saei
from saei.data.bars import Bars
from saei.report.inspection import Answer, Inspection, Token, inspect
from saei.report.inspection_files import write
from saei.report.inspection_screen import show
from saei.report.page.inspection import inspection_page
from saei.report.tokens import CHANGES, ENTROPIES, FALLS, RISES, SHADES

HOSTILE = ("<script>alert(1)</script>", "\x1b[31mred\x1b]0;title\x07", "nul\0", "\u202eright to left", "x" * 100_000)


@pytest.fixture(scope="module")
def chart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("pictures") / "chart.png"
    Bars().example(0).images[0].save(file)
    return file


@pytest.fixture(scope="module")
def policy() -> saei.Policy:
    return saei.Policy.load("builtin")


QUESTION = Bars().example(0).question


def test_what_is_shown_is_what_the_policy_computes(policy: saei.Policy, chart: Path) -> None:
    slots = {"attack": {"type": "pgd", "step": "4/255"}, "selector": "top-k"}
    look = inspect(policy, str(chart), QUESTION, responses=3, seed=1, slots=slots, settings={})
    result = saei.attack(policy, str(chart), QUESTION, responses=3, seed=1, **slots)
    assert [answer.text for answer in look.answers] == [response.text for response in result.responses]
    assert look.criterion == (result.criterion_before, result.criterion_after)
    assert np.array_equal(np.asarray(look.perturbed[0]), np.asarray(result.images[0]))
    # The criterion, anew from the tokens that are shown: the mean over responses of the mean over selected tokens.
    for name, expected in (("entropy", look.criterion[0]), ("moved", look.criterion[1])):
        means = [np.mean([getattr(t, name) for t in answer.tokens if t.selected]) for answer in look.answers]
        assert np.mean(means) == pytest.approx(expected, rel=1e-4)
    # Both entropies, anew from the scores of the text under the pictures that are shown.
    for answer in look.answers:
        text = answer.text
        for name, image in (("entropy", look.clean[0]), ("moved", look.perturbed[0])):
            score = policy.score_text(image, QUESTION, text)
            if len(score.tokens) == len(answer.tokens):  # a text may be made of other tokens
                assert [getattr(t, name) for t in answer.tokens] == pytest.approx(score.entropy_T.tolist(), abs=1e-4)
                assert "".join(t.piece for t in answer.tokens).startswith(text)


def test_an_empty_response_is_shown_as_that(policy: saei.Policy, chart: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = policy.sample

    def with_an_empty_one(*arguments: object, **options: object) -> object:
        (responses,) = drawn(*arguments, **options)  # type: ignore[arg-type]
        empty = responses[0]
        fields = {"ids_T": empty.ids_T[:0], "behaviour_logp_T": empty.behaviour_logp_T[:0]}
        none = type(empty)(text="", entropy_T=empty.entropy_T[:0], truncated=True, **fields)
        return [[none, *responses[1:]]]

    monkeypatch.setattr(policy, "sample", with_an_empty_one)
    look = inspect(policy, str(chart), QUESTION, responses=3, seed=1, slots={}, settings={})
    assert [len(answer.tokens) > 0 for answer in look.answers] == [False, True, True]
    assert all(any(token.selected for token in answer.tokens) for answer in look.answers[1:])
    assert "(empty)" in printed(look, colour=False)
    assert "(empty)" in inspection_page(look)


def hostile() -> Inspection:
    picture = Image.new("RGB", (8, 8), "#808080")
    tokens = [Token(text, 0.5 * n, n % 2 == 0, 0.5) for n, text in enumerate(HOSTILE)]
    answers = tuple(Answer(token.piece, (token,), False) for token in tokens)
    everything = Answer("".join(HOSTILE), tuple(tokens), True)
    settings = {"model": HOSTILE[0] + HOSTILE[1]}
    return Inspection(
        "".join(HOSTILE), HOSTILE[0], settings, (picture,), (picture,), (*answers, everything), answers,
        (0.1, 0.2), 0.3, {"pixels": (1.0, 2.0)},
    )  # fmt: skip


def printed(look: Inspection, *, colour: bool, width: int = 80) -> str:
    from saei.console import screen

    out = io.StringIO()
    options = {"color_system": "truecolor", "force_terminal": True} if colour else {"force_terminal": False}
    console: Console = screen(file=out, width=width, **options, _environ={})
    show(console, look)
    return out.getvalue()


@pytest.mark.parametrize("width", [40, 80, 140])
def test_hostile_text_acts_on_no_terminal(width: int) -> None:
    text = printed(hostile(), colour=False, width=width)
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]", text)
    assert len(text) < 60_000
    coloured = printed(hostile(), colour=True, width=width)
    rest = re.sub(r"\x1b\[[0-9;]*m", "", coloured)  # the styles of saei's own, and nothing else
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]", rest)
    assert "▀" in coloured
    assert "▀" not in text


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "action", "srcset")]


def test_hostile_text_stays_text_on_the_page() -> None:
    text = inspection_page(hostile())
    parser = Tags()
    parser.feed(text)
    assert "script" not in parser.tags
    assert parser.links
    assert all(link.startswith(("data:image/png;base64,", "#")) or link == "data:," for link in parser.links)
    assert "&lt;script&gt;alert(1)" in text
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]", text)


def test_hostile_text_is_drawn(tmp_path: Path) -> None:
    write(hostile(), tmp_path / "x.png")
    with Image.open(tmp_path / "x.png") as picture:
        assert picture.height < 6000


def test_selected_tokens_are_underlined_and_in_plain_text_in_brackets() -> None:
    picture = Image.new("RGB", (4, 4))
    tokens = (
        Token("so ", 0.0),
        Token("it ", 2.0, True, 2.0),
        Token("is", 1.0, True, 1.5),
        Token(" 8", 0.0, False, 0.0),
    )
    answer = Answer("so it is 8", tokens, False)
    look = Inspection("?", "?", {}, (picture,), (picture,), (answer,), (answer,), (1.5, 1.75), 0.0, {})
    assert " 1  0.750 → 0.875  so ⟦it is⟧ 8" in printed(look, colour=False)
    coloured = printed(look, colour=True)
    assert re.search(r"\x1b\[4;38;2;21;25;29;48;2;250;149;102mit ", coloured)  # underlined, of 1.5 to 2.5 nats
    assert "so it is 8" in re.sub(r"\x1b\[[0-9;]*m", "", coloured)
    html = inspection_page(look)
    assert '<span class="h5 c" title="entropy 2 nats, chosen">it </span>' in html
    assert '<span class="h0" title="entropy 0 nats">so </span>' in html
    assert '<span class="u4 c" title="entropy 1 to 1.5 nats">is</span>' in html


def test_an_inspection_is_a_page_like_the_others() -> None:
    """The same frame, and one table of colours for terminal, picture and page."""
    html = inspection_page(hostile())
    assert '<a class="skip" href="#main">' in html
    assert "@media print" in html
    assert set(re.findall(r"<th\b( scope)?", html)) == {" scope"}
    rules = dict(re.findall(r"\.([hud]\d) \{ background: (#\w+);", html))
    expected = {f"{kind}{n}": each for kind, all_ in zip("hud", (SHADES, RISES, FALLS), strict=True)
                for n, each in enumerate(all_, 1)}  # fmt: skip
    assert rules == expected
    for limit in (*ENTROPIES, *CHANGES):
        assert f"{limit:g}" in html.partition('class="legend')[2].partition("</p>")[0]


def test_inspect_prints_and_writes(chart: Path, tmp_path: Path, saei: Saei) -> None:
    files = [tmp_path / "look.png", tmp_path / "look.html"]
    said = saei("inspect", chart, QUESTION, "-k", 2, "--attack", "fgsm", *(w for file in files for w in ("-o", file)))
    assert said.code == 0, said.err
    assert "attack    fgsm, step 2/255" in said.out
    assert re.search(r"Criterion J 0\.\d{4} → 0\.\d{4}", said.out)
    assert len(np.unique(np.asarray(Image.open(files[0]).convert("RGB")).reshape(-1, 3), axis=0)) > 50
    assert "difference, enlarged 32 times" in files[1].read_text(encoding="utf-8")


def test_a_question_without_a_picture_is_shown_with_the_words_that_moved(tmp_path: Path, saei: Saei) -> None:
    said = saei(
        "inspect", "none", "What is red + yellow?", "-k", 2, "--attack", "random-swap", "-o", tmp_path / "x.png"
    )
    assert said.code == 0, said.err
    assert re.search("^Perturbed: .+", said.out, re.MULTILINE)
    assert "▀" not in said.out
    assert (tmp_path / "x.png").exists()


def test_inspect_as_json_and_what_it_refuses(chart: Path, tmp_path: Path, saei: Saei) -> None:
    data = json.loads(saei("inspect", chart, QUESTION, "-k", 2, "--set", "attack.step=8/255", "--json").out)
    assert data["distances"]["pixels"]["largest"] == pytest.approx(8, abs=1e-4)  # of 1/255
    assert len(data["answers"]) == len(data["perturbed_answers"]) == 2
    assert any(token["selected"] for token in data["answers"][0]["tokens"])
    for arguments, words in (
        ((chart, QUESTION, "-o", tmp_path / "x.gif"), "End its name in one of .png"),
        ((tmp_path / "none.png", QUESTION), "none.png"),
        (("none", QUESTION), "no-image"),
        ((chart, QUESTION, "--attack", "pdg"), "Did you mean 'pgd'?"),
    ):
        said = saei("inspect", *arguments)
        assert (said.code, words in said.err) == (2, True), said


def test_ask_says_what_the_policy_answers(policy: saei.Policy, chart: Path, saei: Saei) -> None:
    expected = policy.ask(str(chart), QUESTION, responses=2, seed=3)
    data = json.loads(saei("ask", "builtin", chart, QUESTION, "-k", 2, "--seed", 3, "--json").out)
    for response, row in zip(expected, data["responses"], strict=True):
        assert (row["text"], row["ids"]) == (response.text, response.ids_T.tolist())
        assert torch.tensor(row["entropies"]).tolist() == response.entropy_T.tolist()
        assert "".join(row["pieces"]).startswith(response.text)
    said = saei("ask", "builtin", chart, QUESTION, "--temperature", 0, "--max-new-tokens", 4)
    assert "1: 4 tokens" in said.out
    assert "cut off by the length limit" in said.out
    assert saei("ask", "builtin", "none", QUESTION).code == 0
