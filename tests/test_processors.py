"""Processors composed of parts, and what is found out about models: logits, pixels' type, caches, refusals."""

from __future__ import annotations

import copy
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoModelForImageTextToText, CLIPConfig

from commands import Saei
from saei.config.sections import ModelConfig, SamplingConfig
from saei.data import open_image
from saei.data.templates import ThinkBoxed
from saei.diagnostics.tiny import tiny_parts
from saei.diagnostics.zoo import FAMILIES, Family
from saei.errors import ModelError
from saei.policy import Policy, scoring
from saei.policy.backbone import Readout, find_readout, pixel_dtype
from saei.policy.load.processors import compose, load_processor, save_processor
from saei.policy.load.weights import Parts, load_parts
from saei.types import Example

PICTURE = Image.new("RGB", (64, 64), "red")


@pytest.fixture(scope="module")
def qwen() -> Parts:
    return tiny_parts(FAMILIES["Qwen2.5-VL"])


@pytest.fixture(scope="module")
def internvl() -> Parts:
    return tiny_parts(FAMILIES["InternVL"])


def changed(parts: Parts, **methods: Any) -> Parts:
    """The same with a model whose class has other methods."""
    model = copy.deepcopy(parts.model)
    model.__class__ = type(type(model).__name__, (type(model),), methods)
    return replace(parts, model=model)


def test_a_composed_processor_does_what_its_class_does(internvl: Parts) -> None:
    assert type(internvl.processor).__name__ == "InternVLProcessor"
    assert internvl.processor.video_processor is None
    text = "<IMG_CONTEXT> red?"
    ids = internvl.processor(text=[text], images=[[PICTURE]], return_tensors="pt")["input_ids"][0]
    # 4 tokens for each of 4 tiles and the small copy, between <img> and </img>.
    assert internvl.tokenizer.decode(ids) == "<img>" + "<IMG_CONTEXT>" * 20 + "</img> red?"


def test_a_composed_processor_is_saved_with_its_settings(internvl: Parts, tmp_path: Path) -> None:
    save_processor(internvl.processor, tmp_path)
    internvl.model.config.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "processor_config.json").read_text())
    assert saved == {"image_seq_length": 4, "processor_class": "InternVLProcessor"}
    loaded, note = load_processor(str(tmp_path), None, internvl.model.config)
    assert note is not None
    assert "composed of tokenizer and image processor" in note
    assert loaded.image_seq_length == 4
    assert loaded.chat_template == internvl.tokenizer.chat_template
    ours, theirs = (
        one(text=["<IMG_CONTEXT>"], images=[[PICTURE]], return_tensors="pt") for one in (internvl.processor, loaded)
    )
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_limits_reach_the_image_processor(qwen: Parts, tmp_path: Path) -> None:
    save_processor(qwen.processor, tmp_path)
    qwen.model.config.save_pretrained(tmp_path)
    loaded, _ = load_processor(str(tmp_path), None, qwen.model.config, max_pixels=1024, min_pixels=1024)
    assert loaded.image_processor(images=[PICTURE], return_tensors="pt")["image_grid_thw"].prod() * 64 == 1024


def test_a_model_without_a_processor_class_is_refused(qwen: Parts) -> None:
    with pytest.raises(ModelError, match=r"none here for 'clip_vision_model': transformers has none"):
        compose(CLIPConfig().vision_config, qwen.tokenizer, qwen.image_processor)


def test_a_missing_package_is_named(qwen: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    config = copy.deepcopy(qwen.model.config)
    config.model_type = "mistral3"
    monkeypatch.delitem(sys.modules, "transformers.models.pixtral.processing_pixtral", raising=False)
    with pytest.raises(ModelError, match=r"PixtralProcessor needs torchvision"):
        compose(config, qwen.tokenizer, qwen.image_processor)


def test_a_processor_that_misses_a_setting_is_refused() -> None:
    family = FAMILIES["LLaVA"]
    bare = Family(family.config, family.image_processor, family.tokens, family.placeholder)
    with pytest.raises(ModelError, match=r"LlavaProcessor raised TypeError: unsupported operand"):
        Policy(tiny_parts(bare), ThinkBoxed())


def test_a_processor_of_another_model_is_refused(internvl: Parts) -> None:
    family = FAMILIES["InternVL"]
    wrong = Family(family.config, family.image_processor, family.tokens, family.placeholder, {"image_seq_length": 5})
    with pytest.raises(ModelError, match="tokens: 25, features: 20"):
        Policy(tiny_parts(wrong), ThinkBoxed())


@pytest.mark.parametrize(
    ("fields", "change", "readout"),
    [
        ({}, lambda logits: logits, Readout()),
        ({"logits_scaling": 4.0}, lambda logits: logits / 4, Readout(0.25)),
        ({"logits_scaling": 4.0}, lambda logits: logits * 4, Readout(4.0)),
        ({"logit_scale": 0.25}, lambda logits: logits, Readout()),
        ({"final_logit_softcapping": 3.0}, lambda logits: 3 * torch.tanh(logits / 3), Readout(1.0, 3.0)),
        ({"final_logit_softcapping": 3.0}, lambda logits: logits, Readout()),
        (
            {"final_logit_softcapping": 3.0, "output_multiplier": 0.5},
            lambda logits: 3 * torch.tanh(logits / 6),
            Readout(0.5, 3.0),
        ),
    ],
)
def test_what_happens_to_logits_is_found_out(
    qwen: Parts, fields: dict[str, float], change: Any, readout: Readout
) -> None:
    def forward(self: Any, *arguments: Any, **inputs: Any) -> Any:
        output = type(qwen.model).forward(self, *arguments, **inputs)
        output.logits = change(output.logits)
        return output

    model = changed(qwen, forward=forward).model
    for name, value in fields.items():
        setattr(model.config.text_config, name, value)
    assert find_readout(model, 5) == readout


def test_logits_that_nothing_explains_are_refused(qwen: Parts) -> None:
    def forward(self: Any, *arguments: Any, **inputs: Any) -> Any:
        output = type(qwen.model).forward(self, *arguments, **inputs)
        output.logits = output.logits**3
        return output

    with pytest.raises(ModelError, match="does more to them than its output layer"):
        Policy(changed(qwen, forward=forward), ThinkBoxed())


def test_half_precision_pixels_only_where_the_model_insists(qwen: Parts) -> None:
    def forward(self: Any, *arguments: Any, pixel_values: Tensor | None = None, **inputs: Any) -> Any:
        if pixel_values is not None and pixel_values.dtype != self.dtype:
            raise RuntimeError("expected m1 and m2 to have the same dtype")
        return type(qwen.model).forward(self, *arguments, pixel_values=pixel_values, **inputs)

    inputs = Policy(qwen, ThinkBoxed())._prompts.example
    for parts, expected in ((qwen, None), (changed(qwen, forward=forward), torch.bfloat16)):
        assert pixel_dtype(parts.model, inputs) is None
        half = copy.deepcopy(parts.model).bfloat16()
        assert pixel_dtype(half, inputs) == expected


def test_a_cache_that_loses_its_place_is_noticed(qwen: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    going_on = scoring.answer_arguments

    def late(answers: Any, seen_RS: Tensor) -> dict[str, Any]:
        arguments = going_on(answers, seen_RS)
        return arguments | {"position_ids": arguments["position_ids"] + 3}

    monkeypatch.setattr(scoring, "answer_arguments", late)
    policy = Policy(qwen, ThinkBoxed())
    assert not policy.shared_prefix
    assert policy.not_shared is not None
    assert policy.not_shared.startswith("log-probabilities of responses that go on from a cache are off by")


def test_a_cache_without_gradient_is_noticed(qwen: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.cache_utils import DynamicLayer

    repeat = DynamicLayer.batch_repeat_interleave

    def detached(self: Any, repeats: int) -> None:
        repeat(self, repeats)
        self.keys = self.keys.detach()

    monkeypatch.setattr(DynamicLayer, "batch_repeat_interleave", detached)
    policy = Policy(qwen, ThinkBoxed())
    assert (policy.not_shared or "").startswith("gradients of responses that go on from a cache are off by")
    assert Policy(qwen, ThinkBoxed(), shared_prefix=False).not_shared == "model.shared_prefix is false"


def test_too_little_memory_is_not_taken_for_a_property_of_the_model(
    qwen: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.cache_utils import DynamicLayer

    def full(*arguments: Any, **named: Any) -> Any:
        raise torch.OutOfMemoryError("out of memory")

    inputs = Policy(qwen, ThinkBoxed())._prompts.example
    with pytest.raises(torch.OutOfMemoryError):
        pixel_dtype(changed(qwen, forward=full).model, inputs)
    monkeypatch.setattr(DynamicLayer, "batch_repeat_interleave", full)
    with pytest.raises(torch.OutOfMemoryError):
        Policy(qwen, ThinkBoxed())


OUT_OF_MEMORY = [
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: not enough memory: you tried to allocate"),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: type(error).__name__)
def test_too_little_memory_is_blamed_on_no_file_and_no_model(
    qwen: Parts, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception
) -> None:
    def full(*arguments: Any, **named: Any) -> Any:
        raise error

    picture = Image.new("RGB", (64, 64))
    picture.save(tmp_path / "a.png")
    pixels = Policy(qwen, ThinkBoxed()).pixels
    monkeypatch.setattr(pixels, "map", full)
    with pytest.raises(type(error)):
        pixels.canvases([picture])
    monkeypatch.setattr(AutoModelForImageTextToText, "from_pretrained", full)
    with pytest.raises(type(error)):
        load_parts(ModelConfig(device="cpu"))
    monkeypatch.setattr(open_image, "to_rgb", full)
    with pytest.raises(type(error)):
        open_image.open_image(str(tmp_path / "a.png"), [tmp_path], 10**6, where="row 1")


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: type(error).__name__)
def test_the_command_line_says_what_makes_a_step_smaller(
    saei: Saei, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def full(*arguments: Any, **named: Any) -> Any:
        raise error

    monkeypatch.setattr(Policy, "load", full)
    left = saei("eval", "--examples", "1")
    assert left.code == 2
    assert "has to fit into memory" in left.err
    assert "training.micro_groups" in left.err


def test_other_errors_are_no_lack_of_memory(saei: Saei, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: Any, **named: Any) -> Any:
        raise RuntimeError("shapes differ")

    monkeypatch.setattr(Policy, "load", broken)
    with pytest.raises(RuntimeError, match="shapes differ"):
        saei("eval", "--examples", "1")


def test_the_beginning_of_a_sequence_is_added_once() -> None:
    parts = tiny_parts(FAMILIES["Qwen2.5-VL"])
    tokenizer = parts.tokenizer
    tokenizer.add_special_tokens({"bos_token": "<unk>"})
    calls = []
    inner = type(parts.processor).__call__

    def call(self: Any, *arguments: Any, **options: Any) -> Any:
        calls.append(options.get("add_special_tokens"))
        return inner(self, *arguments, **options)

    parts.processor.__class__ = type("Watched", (type(parts.processor),), {"__call__": call})
    example = Example("e", "red?", "1")
    for begins, expected in ((False, None), (True, False)):
        if begins:
            tokenizer.chat_template = parts.processor.chat_template = "<unk>" + tokenizer.chat_template
        Policy(parts, ThinkBoxed(), sampling=SamplingConfig(max_new_tokens=3)).view(example)
        assert calls[-1] is expected


def test_a_quantised_checkpoint_is_refused(qwen: Parts, tmp_path: Path) -> None:
    Policy(qwen, ThinkBoxed()).save(tmp_path)
    file = tmp_path / "config.json"
    config = json.loads(file.read_text()) | {"quantization_config": {"quant_method": "gptq", "bits": 4}}
    file.write_text(json.dumps(config))
    with pytest.raises(ModelError, match="quantised by gptq"):
        Policy.load(ModelConfig(path=str(tmp_path), device="cpu"), ThinkBoxed())
