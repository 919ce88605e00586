"""A tiny Qwen2.5-VL that vLLM has kernels for, as a folder with its whole processor."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor
from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor
from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

from saei.builtin.vocabulary import build_tokenizer

WIDTH, HEADS = 128, 4
"""A head of 32: the built-in model's 24 is not among the sizes that vLLM has kernels for."""

PADDED = 64
"""Rows of the embedding without a token, as published checkpoints have them."""


def save_tiny_qwen(folder: Path) -> None:
    """Write a Qwen2.5-VL with random weights, far enough from uniform, and its whole processor."""
    tokenizer = build_tokenizer()
    ids = tokenizer.convert_tokens_to_ids
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer) + PADDED,
            "hidden_size": WIDTH,
            "intermediate_size": 256,
            "num_hidden_layers": 2,
            "num_attention_heads": HEADS,
            "num_key_value_heads": 2,
            "max_position_embeddings": 512,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [4, 6, 6]},
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            "tie_word_embeddings": False,
        },
        vision_config={
            "depth": 2,
            "hidden_size": WIDTH,
            "intermediate_size": 256,
            "num_heads": HEADS,
            "patch_size": 8,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": 64,
            "out_hidden_size": WIDTH,
            "fullatt_block_indexes": [1],
        },
        image_token_id=ids("<|image_pad|>"),
        video_token_id=ids("<|video_pad|>"),
        vision_start_token_id=ids("<|vision_start|>"),
        vision_end_token_id=ids("<|vision_end|>"),
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    model = Qwen2_5_VLForConditionalGeneration(config)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=1.5 * parameter[0].numel() ** -0.5)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    sizes = {"patch_size": 8, "temporal_patch_size": 2, "merge_size": 2}
    limits = {"size": {"shortest_edge": 32 * 32, "longest_edge": 256 * 256}}
    Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(**sizes, **limits),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(**sizes, **limits),
        chat_template=tokenizer.chat_template,
    ).save_pretrained(folder)
