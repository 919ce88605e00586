"""Tiny models of several classes with random weights, as folders that transformers loads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from saei.builtin.architecture import build_image_processor, build_model
from saei.builtin.vocabulary import build_tokenizer


def _qwen2_5_vl(tokenizer: Any) -> tuple[Any, Any]:
    return build_model(tokenizer), build_image_processor()


def _llava(tokenizer: Any) -> tuple[Any, Any]:
    from transformers import CLIPImageProcessorPil, CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaProcessor
    from transformers import LlavaForConditionalGeneration as Llava

    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=3,
            num_attention_heads=2,
            image_size=64,
            patch_size=16,
        ),
        text_config=LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=48,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=512,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        ),
        image_token_index=tokenizer.convert_tokens_to_ids("<|image_pad|>"),
    )
    model = Llava(config)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    processor = LlavaProcessor(
        CLIPImageProcessorPil(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64}),
        tokenizer,
        patch_size=16,
        vision_feature_select_strategy="default",
        chat_template=tokenizer.chat_template,
        image_token="<|image_pad|>",
        num_additional_image_tokens=1,
    )
    return model, processor


BUILDERS: dict[str, Callable[[Any], tuple[Any, Any]]] = {"qwen2_5_vl": _qwen2_5_vl, "llava": _llava}
"""From a tokenizer to a model with random weights and what prepares its images."""


def tiny_folder(family: str, folder: Path) -> Path:
    """Save a tiny model of a class, of weights large enough that distributions are far from uniform."""
    tokenizer = build_tokenizer()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, processor = BUILDERS[family](tokenizer)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.08)
    for part in (model, tokenizer, processor):
        part.save_pretrained(folder)
    return folder
