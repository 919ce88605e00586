"""The benchmark scripts run at their smallest sizes and return what they promise; no test looks at a time."""

from __future__ import annotations

import base64
import importlib
import io
import json
import shutil
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from PIL import Image

from saei.config.registry import entries
from saei.data.bars import Bars
from saei.engine.setup import build_strategies
from saei.errors import SaeiError
from saei.policy.load.weights import Parts
from saei.report.compare import Curve
from saei.types import Example, View

SCRIPTS = Path(__file__).parent.parent / "benchmarks"
VIEWS = {"clean", "attack", "random signs"}


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module


def test_every_script_is_in_the_readme() -> None:
    readme = (SCRIPTS / "README.md").read_text()
    assert all(f"python benchmarks/{path.name}" in readme for path in SCRIPTS.glob("*.py"))


def test_scoring(script: Any, tmp_path: Path) -> None:
    file = tmp_path / "scoring.json"
    with torch.random.fork_rng():
        found = script("scoring").main(small_scoring({"--rounds": 1, "--json": file}))
    assert (found["image_tokens"], found["responses"], found["attacked"], found["response_tokens"]) == (16, 4, 2, 5)
    assert found["selected_tokens"] == 2 * 3
    assert found["largest_deviation"] < 2e-5  # the ways that are compared compute the same thing
    assert set(found["ratios"]) == set(script("scoring").RATIOS)
    assert json.loads(file.read_text()) == found


def test_preparing(script: Any, tmp_path: Path) -> None:
    file = tmp_path / "preparing.json"
    sizes = {"--images": 23, "--side": 70, "--max-pixels": 6000, "--workers": 2, "--json": file}
    found = script("preparing").main([str(word) for pair in sizes.items() for word in pair])
    assert (found["images"], found["image_tokens"], found["decodes_per_image"]) == (23, 16, 1.0)
    assert json.loads(file.read_text()) == found


def test_growth(script: Any, tmp_path: Path) -> None:
    plot, file = tmp_path / "growth.png", tmp_path / "growth.json"
    small = ["--responses", "2", "4", "--image-tokens", "16", "25", "--tokens-of-a-response", "3", "6"]
    small += ["--vocabulary", "2000", "2500", "--base", "2", "16", "3", "2000", "--rounds", "1"]
    growth = script("growth")
    found = growth.main([*small, "--png", str(plot), "--json", str(file)])
    for axis, points in found["points"].items():
        assert [point["sizes"] for point in points] == [found["base"], found["base"] | {axis: points[1]["sizes"][axis]}]
        assert all(point["seconds"].keys() == growth.LINES.keys() for point in points)
    first, last = found["points"]["responses"]
    for name, own in found["per_response"].items():
        assert own == pytest.approx((last["seconds"][name] - first["seconds"][name]) / 2)
    assert json.loads(file.read_text()) == found
    with Image.open(plot) as picture:
        assert picture.size == (810, 612)


def test_measuring(script: Any, tmp_path: Path) -> None:
    file = tmp_path / "measuring.json"
    sizes = {"--image-tokens": 4, "--tokens": 3, "--width": 128, "--rounds": 1, "--json": file}
    with torch.random.fork_rng():
        found = script("measuring").main([str(word) for pair in sizes.items() for word in pair])
    assert set(found["seconds"]) == {"measured", "not measured"}
    assert json.loads(file.read_text()) == found


def small_scoring(more: dict[str, Any]) -> list[str]:
    sizes = {"--side": 64, "--responses": 4, "--tokens": 5, **more}
    return [str(word) for pair in sizes.items() for word in pair]


def test_scoring_attacks_naively_with_the_same_gradient(script: Any) -> None:
    scoring = script("scoring")
    with torch.random.fork_rng():
        policy, model = scoring.build(96, 1, 5, None)
    view = policy.view(Bars().example(0))
    responses = scoring.draw_responses(policy, 2, 5)
    selected_NT = scoring.selected_by(responses)
    inputs = scoring.official_inputs(policy, view, responses)
    at_patches = scoring.naive_attack(policy, model, inputs, selected_NT)
    canvas = view.canvases[0].clone().requires_grad_()
    patches = policy.pixels.inputs([[canvas], [canvas]])["pixel_values"]
    (naive,) = torch.autograd.grad(patches, canvas, at_patches)
    (scores,) = policy.score([view], [responses], wrt={"pixels": [canvas]}, selected=[selected_NT])
    (own,) = torch.autograd.grad(scores.entropy_NT.sum() / selected_NT.sum(), canvas)
    torch.testing.assert_close(own, naive, rtol=1e-3, atol=1e-5 * float(naive.abs().max()))


@pytest.mark.slow
def test_scoring_measures_memory_in_processes_of_their_own(script: Any) -> None:
    with torch.random.fork_rng():
        found = script("scoring").main(
            [*small_scoring({"--rounds": 1, "--vocabulary": 20_000}), "--attack-only", "--memory"]
        )
    assert set(found["ratios"]) == {"attack_over_score", "attack_over_naive"}
    logits = 2 * 5 * 20_000 * 4
    assert all(size > logits for size in found["bytes"].values())


def test_attack_check(script: Any, random_parts: Parts, tmp_path: Path) -> None:
    folder, file = tmp_path / "model", tmp_path / "check.json"
    for part in (random_parts.model, random_parts.tokenizer, random_parts.image_processor):
        part.save_pretrained(folder)
    sizes = {"--model": folder, "--prompts": 3, "--fresh": 2, "--step": "1/255", "--task": "digits", "--json": file}
    found = script("attack_check").main([str(word) for pair in sizes.items() for word in pair])
    for part in ("attacked", "others"):
        assert set(found[part]) == VIEWS
        assert 0 <= found[part]["random signs"]["share_that_rises"] <= 1
    # A whole step along the gradient raises what it is the gradient of; signs drawn at random move it less.
    change = {view: found["attacked"][view]["change"]["mean"] for view in VIEWS - {"clean"}}
    assert change["attack"] > abs(change["random signs"])
    assert found["attacked"]["attack"]["share_that_rises"] == 1
    for metric, rows in found["fresh_responses"].items():
        assert set(rows) == VIEWS, metric
        for view in VIEWS - {"clean"}:
            own = rows[view]["difference"]
            assert own["mean"] == pytest.approx(rows[view]["mean"] - rows["clean"]["mean"], abs=1e-9)
            assert own["low"] <= own["mean"] <= own["high"]
    assert json.loads(file.read_text()) == found


@pytest.mark.slow
def test_text_attacks(script: Any, random_parts: Parts, tmp_path: Path) -> None:
    folder, file = tmp_path / "model", tmp_path / "check.json"
    for part in (random_parts.model, random_parts.tokenizer, random_parts.image_processor):
        part.save_pretrained(folder)
    sizes = {"--model": folder, "--prompts": 2, "--fresh": 2, "--batch": 2, "--json": file}
    found = script("text_attacks").main([str(word) for pair in sizes.items() for word in pair])
    rows = found["moved"]
    text = {"text-fgsm", "hotflip", "gcg", "joint", "random-swap", "paraphrase"}
    matched = {f"pgd on pixels, as {name}" for name in ("text-fgsm", "hotflip", "gcg")}
    swaps = {f"{name}, {way}" for name in ("hotflip", "gcg", "random-swap") for way in ("answerable", "answer-kept")}
    assert set(rows) == text | matched | swaps | {"neftune, as text-fgsm"}
    assert all((row["kl"] > 0) == (row["swapped"] > 0) for name, row in rows.items() if name in swaps)
    assert all(row["kl"] > 0 for name, row in rows.items() if name not in swaps)
    for name in swaps:
        says = rows[name]["oracle"]
        assert says is None or (says["unanswerable"] == 0 and (says["changed"] == 0 or name.endswith("answerable")))
        assert rows[name]["swapped"] == 1 or "random-swap" not in name
    assert rows["neftune, as text-fgsm"]["kl"] == pytest.approx(rows["text-fgsm"]["kl"], rel=0.1)
    for name in ("text-fgsm", "hotflip", "gcg"):  # the first follows the gradient, the others take what raises it
        assert rows[name]["rises"] == 1
        assert rows[name]["forced"]["low"] <= rows[name]["forced"]["mean"] <= rows[name]["forced"]["high"]
    for name in text:
        says = rows[name]["oracle"]
        assert (says is None) == (name in ("text-fgsm", "joint"))
        assert says is None or sum(says.values()) == pytest.approx(1)
    assert rows["paraphrase"]["oracle"] == {"kept": 1, "changed": 0, "unanswerable": 0}
    assert json.loads(file.read_text()) == found


def test_attack_pictures_are_of_attacks_on_pictures(script: Any) -> None:
    titles = [title for title, _ in script("attack_pictures").slots()]
    assert {"pgd", "patches", "best-of", "control: other-example"} <= set(titles)
    assert not {"hotflip", "text-pgd", "paraphrase", "joint", "neftune"} & set(titles)


def test_vs_trl(script: Any, tmp_path: Path) -> None:
    pytest.importorskip("trl")
    file = tmp_path / "vs_trl.json"
    small = ["--image-tokens", "4", "--tokens", "6", "--shortest", "2", "--rounds", "1", "--no-memory"]
    with torch.random.fork_rng():
        found = script("vs_trl").main([*small, "--json", str(file)])
    (size,) = found["sizes"]
    assert size["image_tokens"] == 4
    assert size["lengths"][0] == 2
    assert size["lengths"][-1] == 6
    # Both sides end their responses where they are told to.
    assert size["mean_lengths"] == pytest.approx(dict.fromkeys(("TRL", "saei"), sum(size["lengths"]) / 12))
    assert size["seconds"].keys() - size["ratios"].keys() == {"TRL, plain GRPO"}
    assert json.loads(file.read_text()) == found


def test_precision(script: Any, tmp_path: Path) -> None:
    file = tmp_path / "precision.json"
    found = script("precision").main(["--prompts", "3", "--batch", "2", "--json", str(file)])
    assert set(found["ways"]) == {"bfloat16 weights", "autocast to bfloat16"}
    for measures in found["ways"].values():
        assert set(measures) == {"selection overlap", "sign agreement", "gradient cosine"}
        # Another precision, so not all equal, but the same policy.
        assert all(0.8 < interval["mean"] <= 1 for interval in measures.values())
        assert measures["gradient cosine"]["mean"] < 1
    assert json.loads(file.read_text()) == found


def test_grading(script: Any, tmp_path: Path) -> None:
    file = tmp_path / "grading.json"
    found = script("grading").main(["--responses", "240", "--json", str(file)])
    assert found["responses"] == 240
    assert 0.4 < found["right"] < 0.9  # most of the ways to write an answer are right, and wrong ones are not
    assert 0 < found["by_algebra"] < 0.2
    assert json.loads(file.read_text()) == found


def test_startup(script: Any) -> None:
    assert set(script("startup").main(["--rounds", "1"])) == {"wall_seconds", "cpu_seconds"}


def test_collapse_reads_its_options(script: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        script("collapse").main(["--help"])
    assert left.value.code == 0
    assert "--seeds" in capsys.readouterr().out


@pytest.mark.slow
def test_rivals(script: Any, tmp_path: Path) -> None:
    rivals = script("rivals")
    updates = {entry.name for kind in ("objective", "advantage", "weight", "term") for entry in entries(kind)}
    others = {"grpo", "dr-grpo", "dapo", "gspo", "group-relative", "selected", "kl", "entropy-bonus"}
    assert set(rivals.ARMS) - {rivals.PLAIN, rivals.NOISY} == updates - others
    small = ["--arms", "GRPO", "clip-cov", "--seeds", "1", "--steps", "1", "--output", str(tmp_path / "runs")]
    settings = ["--set", "sampler.n=2", "--set", "sampling.max_new_tokens=4", "--set", "evaluation.probe_examples=1"]
    settings += ["--set", "evaluation.examples=1", "--set", "evaluation.probe_responses=2"]
    found = rivals.main([*small, *settings, "--json", str(tmp_path / "rivals.json")])
    assert found["arms"]["GRPO"]["touched"] is None
    [touched] = found["arms"]["clip-cov"]["touched"]
    assert 0 <= touched <= 1
    assert found["arms"]["clip-cov"]["responses"] == found["arms"]["GRPO"]["responses"] == [4 * 2]
    assert all(arm["idle"] == [] for arm in found["arms"].values())
    assert json.loads((tmp_path / "rivals.json").read_text()) == found
    shutil.rmtree(tmp_path / "runs" / "GRPO-0")  # what is complete is not repeated
    assert rivals.main([*small, *settings]) == found


def test_strategy_cost(script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "cost.json"
    sizes = {"--side": 28, "--prompts": 1, "--responses": 2, "--tokens": 3, "--rounds": 1, "--json": file}
    strategy_cost = script("strategy_cost")
    found = strategy_cost.main(["--kinds", "guard", "term", *(str(word) for pair in sizes.items() for word in pair)])
    assert set(found["ratios"]) == {"guard", "term"}
    assert {"kl", "entropy-bonus"} <= set(found["ratios"]["term"])
    assert all(cost > 0 for costs in found["ratios"].values() for cost in costs.values())
    assert json.loads(file.read_text()) == found
    assert strategy_cost.configuration("selector", "all").sampler.type == "mixed"
    assert strategy_cost.configuration("objective", "gspo").sampler.type == "clean"
    for name, sampler in (("trust", "mixed"), ("vogue", "mixed"), ("quantile", "clean")):
        build_strategies(strategy_cost.configuration("advantage", name))  # refused where it has nothing to look at
        assert strategy_cost.configuration("advantage", name).sampler.type == sampler
    assert strategy_cost.configuration("sampler", "arms").sampler.arms["adversarial"].n == 6
    monkeypatch.setattr(strategy_cost, "FIELDS", {})
    with pytest.raises(SaeiError, match="none for arms"):
        strategy_cost.configuration("sampler", "arms")


def test_start_pictures_show_text_as_text_and_numbers_in_their_place(script: Any, tmp_path: Path) -> None:
    pictures = script("start_pictures")
    example = Example("x", "<script>1 + 2?</script>", "3")
    clean, moved = (
        View(example, origin, torch.zeros(1, dtype=torch.int64), torch.zeros(1, 1), (torch.full((3, 4, 4), value),))
        for origin, value in (("clean", 100 / 255), ("adversarial", 102 / 255))
    )
    shown = pictures.Shown(
        clean=clean,
        view=moved,
        pieces=["<b>", " a", " " + "w" * 60],
        entropy_T=torch.tensor([0.0, 1.0, 0.64]),
        selected_T=torch.tensor([False, True, False]),
        rises=63,
        gain=0.161,
        counts=[pictures.Count("clean", 0.25, 0.0), pictures.Count("random", 0.5, 0.043)],
    )
    pictures.draw_intervention(shown, tmp_path / "i.svg", "4/255")
    root = ElementTree.parse(tmp_path / "i.svg").getroot()
    words = [each.text for each in root.iter() if each.tag.endswith("text")]
    assert "\u201c<script>1 + 2?</script>\u201d Right: 3." in words
    assert {"<b>", "a", "25%", "50%", "0.0%", "4.3%"} <= set(words)
    assert "Over 64 charts it rises on 63, by 16% on average." in words
    marks = [each for each in root.iter() if each.attrib.get("class") == "hot"]
    assert [mark.attrib.get("opacity") for mark in marks] == ["0.00", "0.45", None, "0.36"]  # one is underlined
    url = [each.attrib["href"] for each in root.iter() if each.tag.endswith("image")][2]
    difference = Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGB")
    assert abs(difference.getpixel((0, 0))[0] - (127.5 + 32)) <= 1  # type: ignore[index]  # 2/255 times 32, halved


def test_the_demos_curves_are_drawn_with_their_means(script: Any, tmp_path: Path) -> None:
    pictures = script("start_pictures")
    curves = [
        Curve(label, tuple({"step": s, "eval/accuracy": s / 20 * end, "probe/entropy": 0.3} for s in (0, 10, 20)))
        for label, ends in (("GRPO", (0.2, 0.8)), ("SaEI 4/255", (1.0, 1.0)))
        for end in ends
    ]
    pictures.draw_demo(curves, tmp_path / "d.svg")
    root = ElementTree.parse(tmp_path / "d.svg").getroot()
    paths = [(each.attrib["class"], each.attrib["d"]) for each in root.iter() if each.attrib.get("d", "").count("L")]
    assert [kind for kind, _ in paths] == ["run GRPO", "run GRPO", "line GRPO", "run SaEI", "run SaEI", "line SaEI"] * 3
    ends = [float(path.rpartition(" ")[2]) for _, path in paths[:3]]
    assert ends[2] == pytest.approx((ends[0] + ends[1]) / 2, abs=0.1)
    assert [each.text for each in root.iter() if each.tag.endswith("text")].count("step 20") == 3
