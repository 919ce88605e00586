"""Pages: what they say of a run, and that no text on them is more than text."""

from __future__ import annotations

import base64
import io
import json
import re
import shlex
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from commands import Saei
from run_folders import HOSTILE, LONG_LINE, evaluation_folder, group, picture, run_folder
from saei.config.changes import changes
from saei.config.overrides import load_config
from saei.config.run import dump
from saei.errors import ConfigError
from saei.report.page import write_page
from saei.report.page.curves import smoothed
from saei.report.page.pictures import Album
from saei.report.page.tokens import TokenPainter
from saei.runtime.pictures import directions
from saei.runtime.run_dir import RunDir
from saei.runtime.sample_files import sample_file, write_samples

VOID = {"meta", "link", "img", "br", "hr", "input"}
ALLOWED = {
    "a", "bdi", "body", "caption", "code", "dd", "details", "div", "dl", "dt", "figcaption", "figure", "h1", "h2", "h3",
    "h4", "head", "header", "html", "img", "li", "link", "main", "mark", "meta", "nav", "p", "pre", "section", "span",
    "strong", "style", "summary", "table", "tbody", "td", "th", "thead", "title", "tr", "ul",
    "svg", "g", "path", "defs", "use", "text", "clippath", "rect",
}  # fmt: skip
"""Elements that a page is made of; nothing that runs or loads."""


class Page(HTMLParser):
    """Reads a page as a browser's parser would, and keeps what it is made of."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.open: list[str] = []
        self.text = ""
        self.texts_by_class: dict[str, str] = {}
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1] == tag, f"</{tag}> ends <{self.open[-1]}> in line {self.getpos()[0]}"
        self.open.pop()
        self.text += " " * (tag in ("td", "th", "p", "li", "dd", "dt"))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data


def page_of(*folders: Path, tmp_path: Path) -> tuple[str, Page]:
    html = write_page(folders, tmp_path / "page.html").read_text(encoding="utf-8")
    page = Page(html)
    assert page.open == []
    return html, page


def check_harmless(html: str, page: Page) -> None:
    assert set(page.tags) <= ALLOWED, set(page.tags) - ALLOWED
    for tag, name, value in page.attributes:
        assert not name.startswith("on"), (tag, name)
        if name in ("href", "src", "xlink:href"):
            assert value.startswith(("#", "data:")), (tag, name, value)
        if name in ("style", "d", "points"):
            assert "url(" not in value.replace("url(#", ""), value
    outside = re.sub(r"http://www\.w3\.org/\S+?\"", "", html)
    assert "http:" not in outside
    assert "https:" not in outside
    assert re.search(r"[\0-\x08\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", html) is None
    assert "default-src 'none'" in html


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, ...]]:
    root = tmp_path_factory.mktemp("hostile")
    run, other = (run_folder(root / name, text=HOSTILE) for name in ("run", "other"))
    first, second = (
        evaluation_folder(root / name, text=HOSTILE, right=right) for name, right in (("first", 2), ("second", 5))
    )
    return {"run": (run,), "runs": (run, other), "evaluation": (first,), "evaluations": (first, second)}


@pytest.mark.parametrize("kind", ["run", "runs", "evaluation", "evaluations"])
def test_hostile_text_stays_text(folders: dict[str, tuple[Path, ...]], kind: str, tmp_path: Path) -> None:
    html, page = page_of(*folders[kind], tmp_path=tmp_path)
    check_harmless(html, page)
    assert "<script>document.title" in page.text  # it is there to be read
    assert "{{ 7 * 7 }}" in page.text
    assert "\\u001b[31m" in page.text


def test_a_line_without_end_leaves_a_page(tmp_path: Path) -> None:
    run = run_folder(tmp_path / "run", text=LONG_LINE)
    html, page = page_of(run, tmp_path=tmp_path)
    check_harmless(html, page)
    assert len(html) < 3_000_000
    evaluation = evaluation_folder(tmp_path / "evaluation", text=LONG_LINE)
    html, page = page_of(evaluation, tmp_path=tmp_path)
    check_harmless(html, page)
    assert len(html) < 1_000_000
    assert "(cut, of 100000 characters)" in page.text


def test_a_page_answers_what_a_reader_asks(tmp_path: Path) -> None:
    run = run_folder(tmp_path / "run")
    _, page = page_of(run, tmp_path=tmp_path)
    text = " ".join(page.text.split())
    for said in (
        "4 steps of 4",
        "The attack pgd with steps 1, step 2/255",
        "2 from the clean view and 2 from the adversarial view",
        # Two groups of two clean responses of six tokens, of which the first and the fourth are chosen.
        "The selector middle-third (the middle third of each response's tokens by entropy, the moderately uncertain "
        "ones) chose 8 of 24 tokens (33 %) in 4 clean responses to 2 held-out examples at step 4",
        "100 % of the picture's values moved, none by more than 2 of 255",
        "It answered “it is 3” 2 times to the clean view; and “4” 2 times to the adversarial view.",
        "Accuracy on held-out examples went from 0.2 (0.1 to 0.3) at step 0 to 0.6 (0.5 to 0.7) at step 4",
        # 1.0 at the start; 0.6, then 0.2.
        "it fell below half of its start at step 4, which counts as collapse",
        "One run, one seed (0)",
        "scaled at 1 step",
        "dropped at 1 step",
        "24 responses were drawn to be looked at",
    ):
        assert said in text, said
    assert "closed at" not in text


def test_the_title_says_task_and_method(tmp_path: Path) -> None:
    html, _ = page_of(run_folder(tmp_path / "first", task="lock-in"), tmp_path=tmp_path)
    title = "first: lock-in, mixed (middle-third + pgd), grpo"
    assert f"<title>{title}" in html
    assert f'<h1><bdi class="data">{title}</bdi></h1>' in html
    two = [run_folder(tmp_path / name, sampler="clean") for name in ("a", "b")]
    assert "<title>a (bars, clean, grpo) and b (bars, clean, grpo)" in page_of(*two, tmp_path=tmp_path)[0]


def test_long_curves_are_smoothed_and_say_so(tmp_path: Path) -> None:
    """The running mean against NumPy's convolution, where the whole window lies within the curve."""
    ys = np.random.default_rng(0).random(100)
    smooth = np.array(smoothed(list(enumerate(ys)), 5))
    assert smooth[:, 0].tolist() == list(range(100))
    assert smooth[2:-2, 1] == pytest.approx(np.convolve(ys, np.ones(5) / 5, "valid"))
    assert smooth[[0, -1], 1] == pytest.approx(ys[[0, -1]])
    assert smooth[1, 1] == pytest.approx(ys[:3].mean())
    said = "Smoothed, a mean over 5 values; the faint line has the values themselves."
    html, _ = page_of(run_folder(tmp_path / "long", steps=100), tmp_path=tmp_path)
    reward, accuracy = (html.partition(f'aria-label="{name}"')[2].partition("</section>")[0] for name in CURVES)
    assert said in reward
    assert said not in accuracy  # 51 evaluations
    assert said not in page_of(run_folder(tmp_path / "short"), tmp_path=tmp_path)[0]


CURVES = ("Reward in training", "Accuracy")


def test_marks_stand_at_their_steps(tmp_path: Path) -> None:
    from saei.report.page.folder import read_folder
    from saei.report.page.run import _marks

    folder = read_folder(run_folder(tmp_path / "run"))
    marks = _marks(folder)
    assert marks is not None
    assert [(name, count) for name, count, _ in marks.counts] == [("dropped", 1), ("scaled", 1)]


def test_the_difference_is_enlarged_around_grey() -> None:
    sample = group(0, "held-out", 0)
    album = Album()
    figures = album.moved(*sample.views)
    assert [figure.caption for figure in figures] == [
        "adversarial",
        "difference, enlarged 32 times",
        "where the first gradient pointed: orange brighter, blue darker",
    ]
    content = base64.b64decode(figures[1].url.partition(",")[2])
    values = np.array(Image.open(io.BytesIO(content)))
    assert set(values.ravel().tolist()) == {128 + 32 * 2}
    shown = np.array(Image.open(io.BytesIO(base64.b64decode(figures[0].url.partition(",")[2]))))
    assert (shown == np.array(Image.open(io.BytesIO(picture(0, 2))))).all()


def test_where_a_gradient_pointed_has_colours_that_no_difference_has() -> None:
    """Pixels whose three signs are all positive, all negative, all zero, and two against one."""
    signs = np.array([[[255, 255, 255], [0, 0, 0], [128, 128, 128], [255, 255, 0]]], dtype=np.uint8)
    up, down, zero, mixed = np.asarray(directions(Image.fromarray(signs)).convert("RGB"))[0].tolist()
    assert up[0] > 180 > 120 > up[2]  # orange
    assert down[2] > 140 > 60 > down[0]  # blue
    assert min(zero) > 230
    assert all(u < m < z for u, m, z in zip(up, mixed, zero, strict=True))


def test_pictures_without_room_and_damaged_ones_are_counted() -> None:
    sample = group(0, "held-out", 0)
    album = Album(most=10)
    assert album.clean(sample.views[0]) == []
    assert (album.left_out, album.damaged) == (1, 0)
    from dataclasses import replace

    assert album.clean(replace(sample.views[0], pictures=(b"\x89PNG damaged",))) == []
    assert (album.left_out, album.damaged) == (1, 1)


def test_tokens_are_shaded_underlined_and_changed() -> None:
    """Entropies 0.01, 0.3 and 3 nats, of which the second is chosen and the attack moves by +0.1 and -0.02."""
    from dataclasses import replace

    from saei.runtime.samples import AttackedTokens

    sample = group(0, "held-out", 0, tokens=3)
    response = replace(sample.responses[0], pieces=("a", "<b>", "c"), entropies=(0.01, 0.3, 3.0), logps=(-1.0,) * 3)
    tokens = (AttackedTokens(0, (False, True, False), (0.01, 0.4, 2.98)),)
    views = (sample.views[0], replace(sample.views[1], tokens=tokens))
    shown = TokenPainter().show(replace(sample, responses=(response,), views=views), 0)
    assert re.findall(r'class="([^"]*)"', shown.tokens) == ["h0", "h2 c", "h6"]
    assert shown.changes is not None
    assert re.findall(r'class="([^"]*)"', shown.changes) == ["d0", "u3 c", "d2"]
    assert 'title="entropy 0.3 to 0.4 nats">&lt;b&gt;</span>' in shown.changes
    assert shown.change == pytest.approx(0.1)
    assert shown.chosen == "<b>"
    rows = re.findall(r"<tr>.*?</tr>", shown.numbers)
    assert re.sub("<[^>]*>", " ", rows[1]).split() == ["&lt;b&gt;", "0.3", "0.4", "-1", "yes"]
    assert len(rows) == 3
    full = TokenPainter(most=5).show(replace(sample, responses=(response,), views=views), 0)
    assert ("span" in full.tokens, full.note) == (False, "Tokens are left out: the page is full.")


@pytest.mark.parametrize(
    "assignments",
    [
        [],
        ["sampler=noisy", "sampler.update_on=clean", "seed=3", "optimizer.lr=0.001"],
        ["sampler.intervention.attack.type=fgsm", "sampler.intervention.attack.step=4/255", "task=lock-in"],
        ["sampler=arms", "sampler.arms.low.n=3", "sampler.arms.low.intervention.selector=top-k"],
        [
            "reward=soft-overlong",
            "reward.longest=40",
            "reward.buffer=8",
            "output.trackers=[tensorboard]",
            "evaluation.every=7",
        ],
    ],
)
def test_the_command_repeats_the_run(tmp_path: Path, assignments: list[str]) -> None:
    from saei.report.page.folder import read_folder
    from saei.report.page.settings import changed_settings, command

    where = [f"output.root={tmp_path}", "output.name=run"]
    try:
        config = load_config(assignments=[*assignments, *where])
    except ConfigError as error:
        pytest.fail(str(error))
    run = RunDir.create(config)
    run.lock.release()
    folder = read_folder(run.path)
    words = shlex.split(command(folder, changed_settings(folder)).replace("\\\n", ""))
    assert words[:2] == ["saei", "train"]
    again = load_config(assignments=[*(word for word in words[2:] if word != "--set"), *where])
    assert dump(again) == dump(config)


def test_changes_are_those_from_the_chosen_strategies_defaults() -> None:
    config = dump(load_config(assignments=["sampler=noisy", "sampler.n_clean=3", "seed=2"]))
    found = {change.path: (change.value, change.default) for change in changes(config)}
    assert found == {"sampler.type": ("noisy", "mixed"), "sampler.n_clean": ("3", "6"), "seed": ("2", "0")}


def text_of(*folders: Path, tmp_path: Path) -> str:
    html, page = page_of(*folders, tmp_path=tmp_path)
    check_harmless(html, page)
    return " ".join(page.text.split())


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    run = run_folder(tmp_path / "run")
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "tra')
    sample_file(run, 2).write_bytes(b"damaged")
    text = text_of(run, tmp_path=tmp_path)
    assert "1 line of metrics.jsonl is damaged" in text
    assert "Samples could not be read: samples/step-000002.parquet" in text
    assert "What is missing or damaged" in text
    assert "Accuracy on held-out examples went from" in text
    lines = (run / "metrics.jsonl").read_text().splitlines()[:3]
    (run / "metrics.jsonl").write_text("\n".join(lines))
    assert "The run has done 2 of 4 steps" in text_of(run, tmp_path=tmp_path)
    (run / "metrics.jsonl").unlink()
    assert "There are no metrics" in text_of(run, tmp_path=tmp_path)
    (run / "config.yaml").write_text("config: [")
    assert "The configuration could not be read" in text_of(run, tmp_path=tmp_path)


def test_an_evaluation_that_is_not_complete_is_shown(tmp_path: Path) -> None:
    folder = evaluation_folder(tmp_path / "evaluation")
    assert "25 % of its answers are right" in text_of(folder, tmp_path=tmp_path)
    (folder / "result.json").unlink()
    with (folder / "answers.jsonl").open("a") as file:
        file.write('{"number": 9')
    text = text_of(folder, tmp_path=tmp_path)
    assert "the evaluation is being written" in text
    assert "25 % of its answers are right" in text
    (folder / "answers.jsonl").write_text('{"number": 9}\n')
    assert "The answers could not be read" in text_of(folder, tmp_path=tmp_path)


def test_two_evaluations_are_tested_against_each_other(tmp_path: Path) -> None:
    """Answers 0 and 1 are right in the first, 0 to 4 in the second."""
    first = evaluation_folder(tmp_path / "first", right=2, model="one")
    second = evaluation_folder(tmp_path / "second", right=5, model="two")
    text = text_of(first, second, tmp_path=tmp_path)
    assert "3 became right and 0 became wrong" in text
    assert "a difference of 0.375" in text
    assert "model.path one two" in text


def test_two_runs_show_what_differs(tmp_path: Path) -> None:
    run, plain = run_folder(tmp_path / "run"), run_folder(tmp_path / "plain", sampler="clean", seed=1)
    text = text_of(run, plain, tmp_path=tmp_path)
    assert (
        "run attacks: pgd moves the criterion entropy of the tokens that middle-third chooses. "
        "Its accuracy went 0.2 → 0.6 (0.5 to 0.7)"
    ) in text
    assert "plain attacks nothing" in text
    assert "seed 0 1" in text
    assert "(seeds 0, 1)" in text


def test_two_runs_show_how_far_apart_they_are(tmp_path: Path) -> None:
    """Accuracies 0.6 and 0.9 with half intervals of t(63) · 0.05 and t(63) · 0.02, from SciPy."""
    from scipy.stats import t

    run = run_folder(tmp_path / "run", evaluation={"examples": 64})
    plain = run_folder(tmp_path / "plain", sampler="clean", evaluation={"examples": 64})
    text = text_of(run, with_metrics(plain, accuracy=0.9, accuracy_se=0.02), tmp_path=tmp_path)
    half = float(t.ppf(0.975, 63)) * (0.05**2 + 0.02**2) ** 0.5
    expected = f"plain is 0.3 above that of run, with a 95 % interval of the difference from {0.3 - half:.3g} to"
    assert expected in text
    assert "It does not hold 0." in text
    assert "one paired by example" in text


def test_two_runs_are_paired_by_the_examples_that_both_answered(tmp_path: Path, saei: Saei) -> None:
    """The interval is SciPy's of the paired t-test; the third example of the first run has no partner."""
    from scipy.stats import ttest_rel

    right = {"run": ["1000", "1100", "1111", "1000"], "plain": ["1100", "1111", "0000", "1100"]}
    numbers = {"run": [0, 1, 2, 3], "plain": [0, 1, 9, 3]}
    runs = [run_folder(tmp_path / "run"), run_folder(tmp_path / "plain", sampler="clean")]
    for run in runs:
        line = {"step": 4, "numbers": numbers[run.name], "correct": right[run.name], "clusters": [None] * 4}
        others = [{**line, "step": step, "correct": ["0000"] * 4} for step in (0, 2)]
        lines = "".join(json.dumps(each) + "\n" for each in [*others, line])
        (run / "held_out.jsonl").write_text(lines + '{"step": 4, "numb')  # a process died while it wrote
    before, after = ([right[name][n].count("1") / 4 for n in (0, 1, 3)] for name in ("run", "plain"))
    interval = ttest_rel(after, before).confidence_interval(0.95)
    text = text_of(*runs, tmp_path=tmp_path)
    assert f"plain is {1 / 3:.3g} above that of run" in text
    assert f"from {interval.low:.3g} to {interval.high:.3g}" in text
    assert "It is paired by the 3 examples that both answered (Student's t)." in text
    said = " ".join(saei("runs", *runs, "--compare", "--sort", "run", "--reverse").out.split())
    assert f"+0.333, 95 % interval {interval.low:+.3f} to {interval.high:+.3f}, paired by 3 examples" in said

    other_task = run_folder(tmp_path / "other", sampler="clean", task={"type": "bars", "shift": "rotated"})
    (other_task / "held_out.jsonl").write_bytes((runs[1] / "held_out.jsonl").read_bytes())
    assert "The settings of their tasks differ, so this interval" in text_of(runs[0], other_task, tmp_path=tmp_path)
    (runs[1] / "held_out.jsonl").write_text('{"step": 4, "numbers": [0], "correct": ["1"]}')
    assert "Not both runs kept which held-out examples" in text_of(*runs, tmp_path=tmp_path)
    assert "not paired by example. Not both runs kept" in " ".join(saei("runs", *runs, "--compare").out.split())


def test_settings_that_differ_are_those_of_the_list_of_runs(tmp_path: Path, saei: Saei) -> None:
    run, plain = run_folder(tmp_path / "run"), run_folder(tmp_path / "plain", sampler="clean", seed=1)
    text = text_of(run, plain, tmp_path=tmp_path).partition("Settings that differ")[2]
    settings = text[text.index("setting run plain") :]
    listed = json.loads(saei("runs", run, plain, "--compare", "--json").out)[0]["differs"]
    assert "sampler.type mixed clean" in settings
    for path in listed:
        assert path.rpartition(".")[2] in settings
    assert "sampler.intervention.attack" not in settings
    assert "attack.step" not in settings
    assert re.search(r"\d+ more fields of strategies that only one of the two has are left out", settings)


def test_two_runs_have_one_curve_each_of_groups_that_teach_nothing(tmp_path: Path) -> None:
    runs = [run_folder(tmp_path / name) for name in ("one", "two")]
    for run in runs:
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        lines = [line | {"probe/all_right": 0.1} if "probe/zero_variance" in line else line for line in lines]
        (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    html, _ = page_of(*runs, tmp_path=tmp_path)
    said = html.partition('aria-label="Groups that teach nothing, ')[2].partition('"')[0]
    assert said.endswith("one: from 0.1 to 0.1. two: from 0.1 to 0.1.")
    html, _ = page_of(runs[0], tmp_path=tmp_path)
    assert "all right: from 0.1" in html


def test_responses_sampled_begin_at_none(tmp_path: Path) -> None:
    """As in the curves of `saei plot`: the evaluation before the first step has seen no response."""
    from saei.report.compare import BUDGET, read_curve

    run, other = run_folder(tmp_path / "run"), run_folder(tmp_path / "other")
    budgets = [point[BUDGET] for point in read_curve("run", run).points]
    assert (budgets[0], budgets[-1]) == (0, 384)
    assert "responses sampled 0 → 384 0 → 384" in text_of(run, other, tmp_path=tmp_path)


def test_the_step_of_what_two_runs_say_is_named(tmp_path: Path) -> None:
    run, other = run_folder(tmp_path / "run"), run_folder(tmp_path / "other")
    sample_file(run, 4).write_bytes(b"damaged")
    text = text_of(run, other, tmp_path=tmp_path)
    assert "run, at step 2 " in text
    assert "other, at step 4 " in text


def test_a_page_is_written_in_sentences(tmp_path: Path) -> None:
    run, evaluation = run_folder(tmp_path / "run"), evaluation_folder(tmp_path / "once", responses=1)
    text = text_of(evaluation, tmp_path=tmp_path)
    assert "answered 4 examples of the task bars, once each," in text
    assert "2 times each" in text_of(evaluation_folder(tmp_path / "twice"), tmp_path=tmp_path)
    html, page = page_of(run, tmp_path=tmp_path)
    assert "`" not in page.text
    assert "<code>saei eval --compare</code>" in html


def test_first_and_last_values_are_of_steps_at_which_a_number_was_taken() -> None:
    from saei.report.page.run import _first_and_last

    lines: list[dict[str, float]] = [{"step": step, "often": float(step)} for step in range(40)]
    lines[10]["rare"], lines[20]["rare"], lines[39]["rare"] = 3.0, 5.0, 7.0
    assert _first_and_last(lines, "often") == (1.5, 37.5)
    assert _first_and_last(lines, "rare") == (3.0, 7.0)
    assert _first_and_last(lines, "never") == (None, None)


def test_what_is_compared_is_drawn_of_the_same_steps(tmp_path: Path) -> None:
    from dataclasses import replace

    from saei.report.page.curves import draw_panel
    from saei.report.page.folder import read_folder
    from saei.report.page.panels import Panel

    lines = [{"step": 1, "before": 1.0}, {"step": 2, "before": 2.0, "after": 3.0}, {"step": 3, "before": 4.0}]
    folder = replace(read_folder(run_folder(tmp_path / "run")), lines=tuple(lines))
    panel = Panel("J", "nats", "", {"before": "before", "after": "after"}, together=True)
    assert draw_panel(panel, [folder]).rows == [("2", "2", "3")]
    assert len(draw_panel(replace(panel, together=False), [folder]).rows) == 3


@pytest.mark.parametrize("kind", ["run", "runs", "evaluation", "evaluations"])
def test_a_page_needs_no_torch(folders: dict[str, tuple[Path, ...]], kind: str, tmp_path: Path) -> None:
    arguments = ["view", *map(str, folders[kind]), "-o", str(tmp_path / "page.html")]
    code = f"""
import sys
from saei.cli import app
app({arguments!r}, standalone_mode=False)
print("loaded:", *({{"torch", "transformers"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.rsplit("loaded:", 1)[1].split() == []
    assert (tmp_path / "page.html").is_file()


def test_an_evaluation_shows_no_path_of_the_machine(tmp_path: Path) -> None:
    folders = [
        evaluation_folder(tmp_path / name, model=f"/home/someone/runs/saei/checkpoints/step-00000{name}", right=n)
        for n, name in enumerate("12", start=2)
    ]
    text = text_of(folders[0], tmp_path=tmp_path)
    assert "The policy saei/checkpoints/step-000001 answered" in text
    assert "model.path saei/checkpoints/step-000001 " in text
    assert "someone" not in text
    assert "someone" not in text_of(*folders, tmp_path=tmp_path)


def test_tokens_numbers_are_in_a_table_below_each_response(tmp_path: Path) -> None:
    """Reached without pointing at a token; tokens themselves are no stops for the keyboard."""
    html, page = page_of(run_folder(tmp_path / "run"), tmp_path=tmp_path)
    with_entropies = html.count('<p class="tokens"><span class="h')
    assert 0 < html.count("<summary>Numbers of each token</summary>") == with_entropies
    assert page.tags["details"] > with_entropies
    assert "<span tabindex" not in html


def test_long_responses_leave_the_page_below_8_megabytes(tmp_path: Path) -> None:
    from dataclasses import replace

    run = run_folder(tmp_path / "run")
    rng = np.random.default_rng(0)
    noise = io.BytesIO()
    Image.fromarray(rng.integers(0, 255, (256, 256, 3), dtype=np.uint8)).save(noise, "PNG")
    for step in (0, 2, 4):
        groups = []
        for n in range(8):
            sample = group(step, "held-out", n, tokens=600)
            views = tuple(replace(view, pictures=(noise.getvalue(),)) for view in sample.views)
            groups.append(replace(sample, views=views, responses=sample.responses[:2] * 12))
        write_samples(run, step, groups)
    html, _ = page_of(run, tmp_path=tmp_path)
    assert len(html.encode()) < 8_000_000
    assert "Tokens are left out: the page is full." in html


def test_what_cannot_be_shown_is_refused(saei: Saei, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, evaluation = run_folder(tmp_path / "run"), evaluation_folder(tmp_path / "evaluation")
    for folders, reason in (
        ((tmp_path,), "has neither"),
        ((run, evaluation), "is a run"),
        ((run, run, run), "Got 3 folders"),
    ):
        said = saei("view", *folders)
        assert (said.code, reason in said.err) == (2, True), said.err
    said = saei("view", run)
    assert said.code == 0, said.err
    assert (run / "view.html").is_file()
    said = saei("view", run, "-o", run / "config.yaml" / "page.html")
    assert (said.code, "A page is written into one file" in said.err) == (2, True), said.err


def test_two_runs_of_one_name_are_told_apart_in_the_curves(tmp_path: Path) -> None:
    folders = [run_folder(tmp_path / arm / "run") for arm in ("plain", "attacked")]
    html, _ = page_of(*folders, tmp_path=tmp_path)
    assert "plain/run: from 0.2 to 0.6. attacked/run: from 0.2 to 0.6." in html


def test_runs_of_different_tasks_are_said_not_to_compare(tmp_path: Path) -> None:
    bars, digits = run_folder(tmp_path / "bars"), run_folder(tmp_path / "digits", task="digits")
    assert "different tasks (bars, digits)" in text_of(bars, digits, tmp_path=tmp_path)
    assert "different tasks" not in text_of(bars, run_folder(tmp_path / "other"), tmp_path=tmp_path)


def test_a_folder_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="There is no folder"):
        write_page([tmp_path / "nothing"])


def test_curves_of_few_steps_have_whole_steps(tmp_path: Path) -> None:
    html, _ = page_of(run_folder(tmp_path / "run"), tmp_path=tmp_path)
    curve = html.partition('aria-label="Accuracy, share right')[2].partition("training step</text>")[0]
    ticks = re.findall(r"text-anchor: middle[^>]*>([^<]*)</text>", curve)
    assert ticks
    assert all("." not in tick for tick in ticks), ticks


def with_metrics(run: Path, **metrics: float) -> Path:
    """The run with these metrics at each of its evaluations."""
    named = {f"eval/{name}": value for name, value in metrics.items()}
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    lines = [line | named if "eval/accuracy" in line else line for line in lines]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run


def test_equal_examples_are_no_certainty(tmp_path: Path) -> None:
    """Of 64 examples that are all right the standard error is 0; the exact interval begins at 0.025 ** (1 / 64)."""
    run = with_metrics(run_folder(tmp_path / "run", evaluation={"examples": 64}), accuracy=1.0, accuracy_se=0.0)
    assert f"{0.025 ** (1 / 64):.3g}" == "0.944"
    html, page = page_of(run, tmp_path=tmp_path)
    assert "to 1 (0.944 to 1) at step 4" in " ".join(page.text.split())
    curve = html.partition('aria-label="Accuracy, share right')[2].partition("</svg>")[0]
    assert curve.count("fill-opacity: 0.15") == 1
    assert "± 0" not in page.text
    other = run_folder(tmp_path / "run2")
    assert "1 → 1 (0.944 to 1)" in text_of(run, other, tmp_path=tmp_path)


def test_the_interval_is_that_of_an_evaluation(tmp_path: Path) -> None:
    """From the standard error alone comes what `saei eval` computes from the answers."""
    from saei.evaluation.statistics.intervals import share_interval_from_error
    from saei.evaluation.statistics.scores import share_interval

    for values, responses in (([0.25, 0.5, 1.0, 0.0], 4), ([1.0, 0.0, 1.0, 1.0], 1), ([1.0] * 5, 4), ([0.0] * 5, 4)):
        error = float(np.std(values, ddof=1)) / len(values) ** 0.5
        found = share_interval_from_error(float(np.mean(values)), error, len(values), responses)
        expected, _, _ = share_interval(values, [None] * len(values))
        assert found is not None
        assert (found.mean, found.low, found.high) == pytest.approx((expected.mean, expected.low, expected.high))
    assert share_interval_from_error(0.5, 0.0, 8, 2) is None


def test_the_legend_names_lines_and_not_their_bands(tmp_path: Path) -> None:
    html, _ = page_of(run_folder(tmp_path / "first"), run_folder(tmp_path / "second"), tmp_path=tmp_path)
    curve = html.partition('aria-label="Accuracy, share right')[2].partition("</svg>")[0]
    assert curve.count("fill-opacity: 0.15") == 2  # a band of each
