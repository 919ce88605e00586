"""The built-in model: its folder, its tokenizer, its recipe, and that its base leaves something to learn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer

from saei.builtin import General, build_tiny, builtin_path
from saei.builtin.batches import Demonstration, Tools, demonstration_batch
from saei.builtin.demonstrations import CLEAN, GUESSES, NOUNS, OPENINGS, VERBS, Manner, demonstrate
from saei.builtin.general import SLOPPY, TASKS, Phase, Schedule, draw
from saei.builtin.muon import orthogonalise
from saei.builtin.responses import grades, respond
from saei.builtin.vocabulary import SPECIAL, build_tokenizer
from saei.data.bars import Bars
from saei.data.digits import Digits
from saei.data.images import COLOURS
from saei.data.shapes import draw_shapes
from saei.rewards.accuracy_format import AccuracyFormat

UNKNOWN_TEXT = ["Hällo  wörld\t12.5%\n\n", " a  b ", "\\frac{1}{2} 漢字 🙂", "Wordlike words' looks", "-3 +4"]


@pytest.fixture(scope="module")
def tools() -> Tools:
    return Tools(
        AutoTokenizer.from_pretrained(builtin_path()), AutoImageProcessor.from_pretrained(builtin_path(), backend="pil")
    )


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return AutoModelForImageTextToText.from_pretrained(builtin_path(), dtype=torch.float32).eval()


def test_the_shipped_folder_is_small_and_of_a_real_class(model: torch.nn.Module) -> None:
    assert type(model).__name__ == "Qwen2_5_VLForConditionalGeneration"
    assert sum(param.numel() for param in model.parameters()) < 1_000_000
    assert (builtin_path() / "model.safetensors").stat().st_size <= 4 * 2**20
    assert (builtin_path() / "README.md").read_text().startswith("# ")


def test_text_goes_to_ids_and_back(tools: Tools) -> None:
    fresh = build_tokenizer()
    rng = np.random.default_rng(0)
    texts = list(UNKNOWN_TEXT)
    for task in TASKS:
        for _ in range(200):
            example = draw(task, rng)
            texts += [example.question, demonstrate(task, example, SLOPPY, rng)]
    for text in texts:
        ids = tools.tokenizer(text).input_ids
        assert tools.tokenizer.decode(ids) == text
        assert fresh(text).input_ids == ids


def test_every_word_of_prompts_and_responses_is_one_token(tools: Tools) -> None:
    rng = np.random.default_rng(1)
    spelled = {id for token, id in tools.tokenizer.get_vocab().items() if token.startswith("<0x")}
    assert len(spelled) == 256
    for task in TASKS:
        for _ in range(200):
            example = draw(task, rng)
            ids = tools.prompt(example) + tools.tokenizer(demonstrate(task, example, SLOPPY, rng)).input_ids
            assert not spelled & set(ids)
    lock_in = [*OPENINGS, *VERBS, *GUESSES, "at a glance", "step by step", "chart", "bars", *COLOURS]
    for phrase in lock_in:
        assert len(tools.tokenizer(phrase).input_ids) == len(phrase.split())


def test_special_tokens_are_all_known_as_special(tools: Tools) -> None:
    assert set(SPECIAL) <= set(tools.tokenizer.all_special_tokens)
    assert tools.tokenizer.eos_token == "<|im_end|>"
    assert tools.tokenizer.decode(tools.tokenizer("<think>").input_ids, skip_special_tokens=True) == "<think>"


def test_chat_template(tools: Tools) -> None:
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is red + blue?"}]}]
    text = tools.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == (
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>What is red + blue?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_a_64_pixel_image_passes_unscaled(tools: Tools) -> None:
    image = Bars().example(0).images[0]
    features = tools.image_processor(images=[image], return_tensors="pt")
    assert features["image_grid_thw"].tolist() == [[1, 4, 4]]
    first = features["pixel_values"][0].view(3, 2, 16, 16)
    expected = torch.from_numpy(np.asarray(image, dtype=np.float32)[:16, :16]).permute(2, 0, 1) / 255
    for copy in (0, 1):
        torch.testing.assert_close(first[:, copy], (expected - 0.5) / 0.125, rtol=0, atol=2e-5)
    assert features["pixel_values"].abs().max() <= 1.01


@pytest.mark.parametrize("task", ["bars", "digits"])
def test_sampled_accuracy_of_the_shipped_base(task: str, model: torch.nn.Module, tools: Tools) -> None:
    source = {"bars": Bars, "digits": Digits}[task]()
    examples = [source.example(index, "eval") for index in range(192)]
    found = grades(model, tools, examples, generator=torch.Generator().manual_seed(0))
    assert 0.35 <= np.mean([grade.correct for grade in found]) <= 0.65
    assert np.mean([grade.parts["format"] for grade in found]) >= 0.9
    texts = respond(model, tools, examples, generator=torch.Generator().manual_seed(0))
    ways = [source.strategy(example, text) for example, text in zip(examples, texts, strict=True)]
    assert min(ways.count("steps"), ways.count("glance")) >= 20


def test_greedy_responses_are_those_of_generate(model: torch.nn.Module, tools: Tools) -> None:
    example = Bars().example(0, "eval")
    ids = torch.tensor([tools.prompt(example)])
    generated = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        mm_token_type_ids=(ids == model.config.image_token_id).int(),
        **tools.pixels([example]),
        do_sample=False,
        max_new_tokens=48,
    )
    text = tools.tokenizer.decode(generated[0, ids.shape[1] :], skip_special_tokens=True)
    assert respond(model, tools, [example, example]) == [text, text]


def test_clean_demonstrations_are_right_and_wrong_glances_wrong() -> None:
    reward, rng = AccuracyFormat(), np.random.default_rng(0)
    blind = Manner(glance=1.0, glance_right=0.0)
    for task in TASKS:
        for example in [draw(task, rng) for _ in range(300)]:
            assert reward.grade(example, demonstrate(task, example, CLEAN, rng)).reward == 1.0
            assert not reward.grade(example, demonstrate(task, example, blind, rng)).correct


def test_sloppy_demonstrations_are_right_as_often_as_their_manner_says() -> None:
    reward, rng = AccuracyFormat(), np.random.default_rng(0)
    manner = Manner(variety=True, glance=0.5, glance_right=0.25, misread=0.125, unboxed=0.2)
    expected = (0.5 * 0.25 + 0.5 * 0.875) * 0.8  # with a single reading, where no misreading is right by luck
    examples = [draw_shapes(rng, "x") for _ in range(4000)]
    found = [reward.grade(example, demonstrate("shapes", example, manner, rng)).correct for example in examples]
    assert np.mean(found) == pytest.approx(expected, abs=0.03)  # four standard errors
    assert set(NOUNS) == {*TASKS, "lock-in"}


def test_shapes_answers_follow_from_the_picture() -> None:
    rng = np.random.default_rng(0)
    palette = np.array([*COLOURS.values(), (225, 225, 225)], dtype=float)
    for _ in range(100):
        example = draw_shapes(rng, "x")
        pixels = (np.asarray(example.images[0], dtype=float) - 127.5) * 4 + 127.5
        nearest = ((pixels[:, :, None] - palette) ** 2).sum(-1).argmin(-1)
        centre = {c: np.argwhere(nearest == i).mean(0) for i, c in enumerate(COLOURS) if (nearest == i).sum() > 60}
        first, second = (centre[name.split()[0]] for name in example.meta["names"])
        relation = example.meta["truth"]
        axis, sign = {"left": (1, -1), "right": (1, 1), "above": (0, -1), "below": (0, 1)}[relation]
        assert sign * (first[axis] - second[axis]) > 8
        asked = example.meta["asked"]
        assert asked in example.question
        assert example.answer == (relation if " or " in example.question else "yes" if asked == relation else "no")


def test_labels_cover_what_is_learnt_and_the_end(model: torch.nn.Module, tools: Tools) -> None:
    example = Bars().example(0)
    shown = [
        Demonstration(example, "\\boxed{1}"),
        Demonstration(example, "<think>I</think> \\boxed{1}"),
        Demonstration(example, "<think>I</think> \\boxed{1}", given="<think>I"),
    ]
    inputs, labels_RT = demonstration_batch(tools, model, shown)
    end = tools.tokenizer.eos_token_id
    spoken = [row[row >= 0].tolist() for row in labels_RT]
    learnt = ["\\boxed{1}", "<think>I</think> \\boxed{1}", "</think> \\boxed{1}"]
    assert [tools.tokenizer.decode(ids[:-1]) for ids in spoken] == learnt
    assert all(ids[-1] == end for ids in spoken)
    assert (inputs["input_ids"] == model.config.image_token_id).sum(1).tolist() == [16, 16, 16]
    last = inputs["input_ids"][-1]
    assert (last[labels_RT[-1] >= 0] == labels_RT[-1][labels_RT[-1] >= 0]).all()


def test_muon_orthogonalises() -> None:
    matrix = torch.randn(24, 60, generator=torch.Generator().manual_seed(0))
    for given in (matrix, matrix.T, 1e-3 * matrix):
        found = orthogonalise(given)
        left, _, right = torch.linalg.svd(given, full_matrices=False)
        values = torch.linalg.svdvals(found)
        assert values.min() > 0.4
        assert values.max() < 1.3
        torch.testing.assert_close(
            torch.nn.functional.cosine_similarity(found.flatten(), (left @ right).flatten(), dim=0),
            torch.tensor(1.0),
            rtol=0,
            atol=0.05,
        )


def test_the_recipe_is_deterministic_and_writes_a_plain_folder(tmp_path: Path) -> None:
    mix = (0.4, 0.4, 0.2)
    schedule = Schedule(clean=(Phase(1, (1, 0, 0)), Phase(1, mix)), sloppy=Phase(1, mix), batch=6)
    recipe = General(schedule, measured_examples=4)
    state, lines = torch.random.get_rng_state(), []
    first = build_tiny(tmp_path / "a", recipe, 3, progress=lines.append)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.rand(1)  # a seed's weights do not depend on what was drawn before
    build_tiny(tmp_path / "b", recipe, 3)
    assert not first.accepted
    assert lines
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("a", "b"))
    assert all(torch.equal(one[key], other[key]) for key in one)
    build_tiny(tmp_path / "c", recipe, 4)
    third = load_file(tmp_path / "c" / "model.safetensors")
    assert not all(torch.equal(one[key], third[key]) for key in one)
    AutoModelForImageTextToText.from_pretrained(tmp_path / "a")
    assert AutoTokenizer.from_pretrained(tmp_path / "a").chat_template
