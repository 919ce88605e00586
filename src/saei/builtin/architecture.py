"""The built-in model's architecture: a real Qwen2.5-VL of 0.8 million parameters, and its image processor."""

from __future__ import annotations

from torch.nn import init
from transformers import PreTrainedTokenizerFast, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from saei.data.images import CONTRAST, SIDE

WIDTH = 96
HEADS = 4
MLP = 256
LAYERS = 4
PATCH = 16
IMAGE_TOKENS = (SIDE // PATCH) ** 2
ROPE_THETA = 10_000.0
ROPE_SECTIONS = [1] * (WIDTH // HEADS // 2)
"""Time, height and width take turns over the rotary pairs. With Qwen's three blocks, height and width would
get the slow rotations only, which cannot tell the rows and columns of a 4 x 4 grid apart."""
MAX_POSITIONS = 1024
MAX_SIDE = 4 * SIDE  # larger images are scaled down to this many pixels


def build_model(tokenizer: PreTrainedTokenizerFast) -> Qwen2_5_VLForConditionalGeneration:
    """Return the model with random weights from torch's global generator, float32 and on the CPU."""
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": WIDTH,
            "intermediate_size": MLP,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS,
            "num_key_value_heads": HEADS,
            "max_position_embeddings": MAX_POSITIONS,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": ROPE_THETA,
                "mrope_section": ROPE_SECTIONS,
            },
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            "tie_word_embeddings": True,
        },
        vision_config={
            "depth": 1,
            "hidden_size": WIDTH,
            "intermediate_size": MLP,
            "num_heads": HEADS,
            "patch_size": PATCH,
            "spatial_merge_size": 1,
            "temporal_patch_size": 2,
            "window_size": MAX_SIDE,
            "out_hidden_size": WIDTH,
            "fullatt_block_indexes": [0],
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<|image_pad|>"),
        video_token_id=tokenizer.convert_tokens_to_ids("<|video_pad|>"),
        vision_start_token_id=tokenizer.convert_tokens_to_ids("<|vision_start|>"),
        vision_end_token_id=tokenizer.convert_tokens_to_ids("<|vision_end|>"),
        tie_word_embeddings=True,
    )
    model = Qwen2_5_VLForConditionalGeneration(config)
    for name, param in model.named_parameters():  # transformers' 0.02 suits models ten times as wide
        if "embed_tokens" in name:
            init.normal_(param, std=WIDTH**-0.5)
        elif param.ndim >= 2:
            init.normal_(param, std=0.7 * param[0].numel() ** -0.5)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model


def build_image_processor() -> Qwen2VLImageProcessorPil:
    """Return the image processor: 64 x 64 pixels pass unscaled, low contrast is stretched to [-1, 1]."""
    return Qwen2VLImageProcessorPil(
        size={"shortest_edge": SIDE**2, "longest_edge": MAX_SIDE**2},
        image_mean=[0.5] * 3,
        image_std=[CONTRAST / 2] * 3,
        patch_size=PATCH,
        temporal_patch_size=2,
        merge_size=1,
    )
