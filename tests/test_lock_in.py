"""The task ``lock-in``: its looks, the demonstrations that couple them to a strategy, its gate, its control."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer

from saei.attacks.base import BlockSpace, Space
from saei.builtin import COUPLINGS, LockIn, build_tiny, builtin_path
from saei.builtin.batches import Tools
from saei.builtin.lock_in import (
    CAREFUL_CEILING,
    CAREFUL_FLOOR,
    DECIDING,
    DECIDING_WEIGHT,
    LockInReport,
    Schedule,
    careful_share,
    openings,
)
from saei.builtin.responses import next_token, respond
from saei.builtin.vocabulary import build_tokenizer
from saei.builtin.warm_start import weights
from saei.config.registry import load, load_plugin
from saei.data.images import CONTRAST, blank, to_image
from saei.data.lock_in import LOOKS
from saei.data.lock_in import LockIn as Task
from saei.data.phrases import GLANCE, STEPS, strategy_of
from saei.rewards.accuracy_format import AccuracyFormat

PLUGIN = Path(__file__).parent.parent / "benchmarks" / "strategies" / "faded_copy.py"
PAPER = np.asarray(to_image(blank()), dtype=float)


def picture(look: str, index: int) -> np.ndarray:
    return np.asarray(Task(Task.Config(look=look)).example(index).images[0], dtype=float)


def test_looks_differ_in_nothing_but_the_picture() -> None:
    for index in range(20):
        clear, *others = (Task(Task.Config(look=look)).example(index) for look in LOOKS)
        for other in others:
            assert (other.question, other.answer) == (clear.question, clear.answer)
            assert other.images[0].tobytes() != clear.images[0].tobytes()
            assert other.id != clear.id


def test_questions_are_sums_of_two_or_three() -> None:
    examples = [Task().example(index) for index in range(200)]
    assert {example.meta["kind"] for example in examples} == {"add", "subtract", "add-add", "add-subtract"}
    for example in examples:
        heights = dict(zip(example.meta["names"], example.meta["values"], strict=True))
        asked = example.question.removeprefix("What is ").removesuffix("?")
        assert example.answer == str(eval(asked, {}, heights))


def test_looks_measured_in_the_picture() -> None:
    for index in range(20):
        away = {look: np.abs(picture(look, index) - PAPER).max(axis=2) for look in LOOKS}
        bars = away["clear"] > 20  # of 8-bit grey levels; the grain reaches some 6
        kept = away["faded"][bars].mean() / away["clear"][bars].mean()
        assert 0.12 <= kept <= 0.42  # .15 to .35, and what the grain adds
        crisp, clear = picture("crisp", index) - 127.5, picture("clear", index) - 127.5
        assert 1.25 <= (crisp * clear).sum() / (clear**2).sum() <= 1.65
        tint = (picture("tinted", index) - picture("clear", index))[~bars].mean(axis=0)
        assert tint == pytest.approx([-60 * CONTRAST, -25 * CONTRAST, 0], abs=0.6)


@pytest.mark.parametrize("name", COUPLINGS)
def test_demonstrations_follow_the_coupling(name: str) -> None:
    recipe, reward = LockIn(name), AccuracyFormat()
    coupling, rng = COUPLINGS[name], np.random.default_rng(0)
    seen: dict[tuple[bool, str | None], int] = {}
    right = []
    rehearsed = 0
    for _ in range(4000):
        shown = recipe._demonstration(recipe.schedule.mixed_from, rng)
        if shown.given:
            rehearsed += 1
            assert strategy_of(shown.response) == "steps"
            assert shown.given in {f"{opening} {STEPS}:" for opening in openings()}
            assert shown.response.startswith(shown.given)
            continue
        example, response = shown.example, shown.response
        key = (example.meta["look"] != "clear", strategy_of(response))
        seen[key] = seen.get(key, 0) + 1
        if key[1] == "glance":
            right.append(reward.grade(example, response).correct)
    coupled = seen.get((True, "steps"), 0) + seen.get((True, "glance"), 0)
    assert rehearsed / 4000 == pytest.approx(coupling.rehearsed, abs=0.025)  # four standard errors
    assert coupled == pytest.approx(1000 * (1 - coupling.rehearsed), abs=110)
    assert seen.get((True, "steps"), 0) / coupled == pytest.approx(coupling.careful, abs=0.05)
    assert seen.get((False, "steps"), 0) / (4000 - rehearsed - coupled) == pytest.approx(
        coupling.careful_on_clear, abs=0.004
    )
    assert np.mean(right) == pytest.approx(0.9, abs=0.025)
    early = [recipe._demonstration(0, rng) for _ in range(500)]
    assert not any(shown.given for shown in early)
    assert {shown.example.meta["look"] for shown in early} == {"clear"}
    assert np.mean([strategy_of(shown.response) == "steps" for shown in early]) == pytest.approx(0.9, abs=0.05)
    assert all(reward.grade(shown.example, shown.response).correct for shown in early)
    assert {shown.example.meta["kind"] for shown in early} == {"read", "compare", "add", "subtract"}
    middle = [recipe._demonstration(recipe.schedule.sums_from, rng).example for _ in range(500)]
    assert np.mean([example.meta["look"] != "clear" for example in middle]) == pytest.approx(0.5, abs=0.09)
    assert "read" not in {example.meta["kind"] for example in middle}


def test_the_deciding_tokens_weigh_more() -> None:
    tokenizer = build_tokenizer()
    weight_V = weights(tokenizer, DECIDING, DECIDING_WEIGHT)
    texts = [f"{openings()[0]} {STEPS}: red = 3", f"{openings()[0]}, {GLANCE} it is 3"]
    heavy = [[tokenizer.decode(id) for id in tokenizer(text).input_ids if weight_V[id] > 1] for text in texts]
    assert heavy == [[" step", " step"], [","]]
    assert weight_V.unique().tolist() == [1.0, DECIDING_WEIGHT]


def test_the_opening_tells_nothing() -> None:
    rng = np.random.default_rng(1)
    texts = [LockIn("faded")._demonstration(700, rng).response for _ in range(6000)]
    for way in ("steps", "glance"):
        own = [text for text in texts if strategy_of(text) == way]
        counts = [sum(text.startswith(opening) for text in own) for opening in openings()]
        assert sum(counts) == len(own)
        expected = len(own) / len(counts)
        assert (np.array(counts) - expected) ** 2 / expected == pytest.approx(0, abs=16)  # four standard errors


def test_gate() -> None:
    good = LockInReport(7, careful_accuracy=CAREFUL_FLOOR, careful_share=CAREFUL_CEILING, coupled_share=0, accuracy=0)
    assert good.accepted
    assert str(good).startswith("Seed 7 is accepted.")
    assert not LockInReport(7, CAREFUL_FLOOR - 1e-3, 0, 1, 1).accepted
    assert not LockInReport(7, 1, CAREFUL_CEILING + 1e-4, 1, 1).accepted


@pytest.fixture(scope="module")
def base() -> tuple[torch.nn.Module, Tools]:
    folder = builtin_path("builtin:lock-in")
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    return model, Tools(
        AutoTokenizer.from_pretrained(folder), AutoImageProcessor.from_pretrained(folder, backend="pil")
    )


def test_the_shipped_base_is_locked_in(base: tuple[torch.nn.Module, Tools]) -> None:
    clear, faded = ([Task(Task.Config(look=look)).example(i, "eval") for i in range(90)] for look in ("clear", "faded"))
    assert careful_share(*base, clear) <= CAREFUL_CEILING
    assert careful_share(*base, faded) >= 0.7
    generator = torch.Generator().manual_seed(0)
    texts = respond(*base, clear, generator=generator)
    reward = AccuracyFormat()
    assert np.mean([reward.grade(e, t).correct for e, t in zip(clear, texts, strict=True)]) <= 0.35
    begun = respond(*base, clear, begin=f"{openings()[0]} step by step:")
    assert np.mean([reward.grade(e, t).correct for e, t in zip(clear, begun, strict=True)]) >= 0.75
    recipe = json.loads((builtin_path("builtin:lock-in") / "recipe.json").read_text())
    assert recipe["gate"]["accepted"]
    assert recipe["coupling"]["name"] == "faded"


def test_next_token_is_the_models_own(base: tuple[torch.nn.Module, Tools]) -> None:
    model, tools = base
    examples = [Task().example(i) for i in range(3)]
    found = next_token(model, tools, examples, openings()[4])
    for example, probability_V in zip(examples, found, strict=True):
        ids = torch.tensor([tools.prompt(example) + tools.tokenizer(openings()[4]).input_ids])
        types = (ids == model.config.image_token_id).int()
        logits = model(input_ids=ids, mm_token_type_ids=types, **tools.pixels([example])).logits
        torch.testing.assert_close(probability_V, logits[0, -1].softmax(-1), rtol=1e-4, atol=1e-6)


def test_the_recipe_writes_a_plain_folder(tmp_path: Path) -> None:
    schedule = Schedule(steps=3, coupled_from=1, mixed_from=2, batch=4)
    gate = build_tiny(tmp_path / "a", LockIn("reversed", schedule, measured_examples=20), 5)
    assert not gate.accepted
    kept = json.loads((tmp_path / "a" / "recipe.json").read_text())
    assert kept["recipe"] == "lock-in"
    coupling = {"name": "reversed", "look": "faded", "careful": 0.0, "careful_on_clear": 0.002, "rehearsed": 0.2}
    assert kept["coupling"] == coupling
    assert kept["gate"]["seed"] == 5
    AutoModelForImageTextToText.from_pretrained(tmp_path / "a")


def test_the_faded_copy_is_a_faded_chart() -> None:
    load_plugin(str(PLUGIN))
    attack = load("attack", "benchmarks/faded-copy")()
    canvas = torch.from_numpy(picture("clear", 3)).permute(2, 0, 1).float() / 255
    space = Space((BlockSpace(grid=1 / 255),), (0,))
    (faded,) = attack.attack(
        lambda point: point[0].sum()[None],
        (canvas,),
        space=space,
        progress=0.0,
        generators=[torch.Generator().manual_seed(0)],
    )
    torch.testing.assert_close(faded * 255, (faded * 255).round(), rtol=0, atol=1e-4)
    away = (faded * 255).permute(1, 2, 0).double().numpy() - PAPER
    clear = picture("clear", 3) - PAPER
    bars = np.abs(clear).max(axis=2) > 20
    assert (away[bars] * clear[bars]).sum() / (clear[bars] ** 2).sum() == pytest.approx(0.25, abs=0.02)
    assert away[~bars].std() == pytest.approx(clear[~bars].std(), rel=0.1)  # the grain of the paper
