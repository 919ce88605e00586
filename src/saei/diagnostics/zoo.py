"""The families that saei is tested with, as tiny models: real classes whose sizes alone are invented.

The file is long because it is a table: each family is one entry of ``FAMILIES``, and most lines are fields of its
configuration as transformers names them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, TypeAlias

Fields: TypeAlias = Mapping[str, Any]
Ids: TypeAlias = Callable[[str], int]
"""From a token to its id."""


@dataclass(frozen=True, slots=True)
class Family:
    """How a tiny model of a family is made.

    Attributes:
        config: From the ids of tokens to the fields of its configuration, ``model_type`` among them.
        image_processor: Fields of its image processor.
        tokens: Its special tokens, by the attribute of the tokenizer that its processor looks for.
        placeholder: What its chat template writes for an image.
        processor: Fields of its processor.
        needs: Packages that its processor needs.
    """

    config: Callable[[Ids], Fields]
    image_processor: Fields
    tokens: Mapping[str, str]
    placeholder: str
    processor: Fields = field(default_factory=dict)
    needs: tuple[str, ...] = ()

    @property
    def missing(self) -> tuple[str, ...]:
        """The packages that it needs and that are missing."""
        return tuple(name for name in self.needs if find_spec(name) is None)


SIDE = 32
"""Height and width of the picture, or the tile, that a vision tower of fixed size looks at."""

PATCH = 8

TEXT: Fields = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
}
TOWER: Fields = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": SIDE,
    "patch_size": PATCH,
}


def _qwen(model_type: str, *, text: Fields | None = None, **vision: Any) -> Callable[[Ids], Fields]:
    rope = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [2, 1, 1]}
    return lambda ids: {
        "model_type": model_type,
        "text_config": {**TEXT, "rope_parameters": rope, **(text or {})},
        "vision_config": {"depth": 2, "hidden_size": 32, "num_heads": 2, "patch_size": PATCH, **vision},
        "image_token_id": ids("<|image_pad|>"),
        "video_token_id": ids("<|video_pad|>"),
        "vision_start_token_id": ids("<|vision_start|>"),
        "vision_end_token_id": ids("<|vision_end|>"),
    }


def _glm4v(ids: Ids) -> Fields:
    rope = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [2, 1, 1], "partial_rotary_factor": 1.0}
    return {
        "model_type": "glm4v",
        "text_config": {**TEXT, "rope_parameters": rope},
        "vision_config": {
            "depth": 2,
            "hidden_size": 32,
            "num_heads": 2,
            "patch_size": PATCH,
            "image_size": 64,
            "intermediate_size": 48,
            "out_hidden_size": 32,
        },
        "image_token_id": ids("<|image|>"),
        "video_token_id": ids("<|video|>"),
        "image_start_token_id": ids("<|begin_of_image|>"),
        "image_end_token_id": ids("<|end_of_image|>"),
        "video_start_token_id": ids("<|begin_of_video|>"),
        "video_end_token_id": ids("<|end_of_video|>"),
    }


def _llava(model_type: str, tower: str, **rest: Any) -> Callable[[Ids], Fields]:
    vision = {**TOWER, "vision_use_head": False} if tower.startswith("siglip") else TOWER
    return lambda ids: {
        "model_type": model_type,
        "text_config": {**TEXT, "model_type": "llama"},
        "vision_config": {**vision, "model_type": tower},
        "image_token_index": ids("<image>"),
        **rest,
    }


def _internvl(ids: Ids) -> Fields:
    return {
        "model_type": "internvl",
        "text_config": {**TEXT, "model_type": "qwen2"},
        "vision_config": {**TOWER, "image_size": [SIDE, SIDE], "patch_size": [PATCH, PATCH]},
        "image_token_id": ids("<IMG_CONTEXT>"),
        "image_seq_length": 4,
    }


def _idefics3(model_type: str) -> Callable[[Ids], Fields]:
    return lambda ids: {
        "model_type": model_type,
        "text_config": {**TEXT, "model_type": "llama"},
        "vision_config": TOWER,
        "image_token_id": ids("<image>"),
        "scale_factor": 2,
    }


def _gemma3(ids: Ids) -> Fields:
    return {
        "model_type": "gemma3",
        "text_config": {**TEXT, "sliding_window": 24, "layer_types": ["sliding_attention", "full_attention"]},
        "vision_config": {**TOWER, "model_type": "siglip_vision_model", "vision_use_head": False},
        "mm_tokens_per_image": 4,
        "boi_token_index": ids("<start_of_image>"),
        "eoi_token_index": ids("<end_of_image>"),
        "image_token_index": ids("<image_soft_token>"),
    }


def _gemma4(ids: Ids) -> Fields:
    return {
        "model_type": "gemma4",
        "text_config": {
            **TEXT,
            "sliding_window": 24,
            "layer_types": ["sliding_attention", "full_attention"],
            "global_head_dim": 16,
            "vocab_size_per_layer_input": 2048,
            "hidden_size_per_layer_input": 8,
            "final_logit_softcapping": 5.0,
            "use_bidirectional_attention": "vision",
        },
        "vision_config": {
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "patch_size": PATCH,
            "pooling_kernel_size": 2,
            "position_embedding_size": 512,
        },
        "audio_config": None,
        "boi_token_id": ids("<|image>"),
        "eoi_token_id": ids("<image|>"),
        "image_token_id": ids("<|image|>"),
        "video_token_id": ids("<|video|>"),
        "audio_token_id": ids("<|audio|>"),
    }


def _paligemma(ids: Ids) -> Fields:
    return {
        "model_type": "paligemma",
        "text_config": {**TEXT, "model_type": "gemma"},
        "vision_config": {**TOWER, "model_type": "siglip_vision_model", "vision_use_head": False},
        "projection_dim": 32,
        "hidden_size": 32,
        "image_token_index": ids("<image>"),
    }


def _mistral3(ids: Ids) -> Fields:
    return {
        "model_type": "mistral3",
        "text_config": {**TEXT, "model_type": "mistral", "sliding_window": None},
        "vision_config": {**TOWER, "model_type": "pixtral", "image_size": 64, "head_dim": 16},
        "image_token_index": ids("[IMG]"),
        "spatial_merge_size": 2,
    }


def _mllama(ids: Ids) -> Fields:
    text = {name: value for name, value in TEXT.items() if name != "head_dim"}
    return {
        "model_type": "mllama",
        "text_config": {**text, "num_hidden_layers": 3, "cross_attention_layers": [1]},
        "vision_config": {
            **{name: value for name, value in TOWER.items() if name != "num_attention_heads"},
            "attention_heads": 2,
            "num_global_layers": 1,
            "intermediate_layers_indices": [0],
            "vision_output_dim": 64,
        },
        "image_token_index": ids("<|image|>"),
    }


def _llama4(ids: Ids) -> Fields:
    return {
        "model_type": "llama4",
        "text_config": {
            **TEXT,
            "intermediate_size_mlp": 48,
            "num_local_experts": 2,
            "no_rope_layers": [1, 0],
            "attention_chunk_size": 24,
        },
        "vision_config": {
            **TOWER,
            "projector_input_dim": 32,
            "projector_output_dim": 32,
            "vision_output_dim": 32,
            "intermediate_size": 128,
        },
        "boi_token_index": ids("<|image_start|>"),
        "eoi_token_index": ids("<|image_end|>"),
        "image_token_index": ids("<|patch|>"),
    }


def _lfm2_vl(ids: Ids) -> Fields:
    return {
        "model_type": "lfm2_vl",
        "text_config": {
            **TEXT,
            "model_type": "lfm2",
            "layer_types": ["conv", "full_attention"],
            "block_auto_adjust_ff_dim": False,
        },
        "vision_config": {
            **{name: value for name, value in TOWER.items() if name != "image_size"},
            "model_type": "siglip2_vision_model",
            "num_patches": 16,
            "vision_use_head": False,
        },
        "image_token_id": ids("<image>"),
        "projector_hidden_size": 32,
        "downsample_factor": 2,
    }


def _named(*tokens: str) -> dict[str, str]:
    """Return the special tokens that no processor reads from an attribute."""
    return {f"token_{token.strip('<|>')}": token for token in tokens}


_QWEN_TOKENS = {"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"}
_QWEN_PLACEHOLDER = "<|vision_start|><|image_pad|><|vision_end|>"
_QWEN_PIXELS = {"size": {"shortest_edge": 16**2, "longest_edge": 64**2}, "patch_size": PATCH}
_QWEN3_PIXELS = _QWEN_PIXELS | {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
_SQUARE = {"size": {"height": SIDE, "width": SIDE}}
_CLIP = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}
_PINPOINTS = [[SIDE, 2 * SIDE], [2 * SIDE, SIDE], [2 * SIDE, 2 * SIDE]]
_SPLIT_TOKENS = {
    "image_token": "<image>",
    "fake_image_token": "<fake_token_around_image>",
    "global_image_token": "<global-img>",
    "end_of_utterance_token": "<end_of_utterance>",
    **_named(*(f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5))),
}
_SPLIT_PIXELS = {"size": {"longest_edge": 2 * SIDE}, "max_image_size": {"longest_edge": SIDE}}

FAMILIES: Mapping[str, Family] = {
    "Qwen2-VL": Family(_qwen("qwen2_vl", embed_dim=32, mlp_ratio=2), _QWEN_PIXELS, _QWEN_TOKENS, _QWEN_PLACEHOLDER),
    "Qwen2.5-VL": Family(
        _qwen("qwen2_5_vl", out_hidden_size=32, intermediate_size=48, window_size=32, fullatt_block_indexes=[1]),
        _QWEN_PIXELS,
        _QWEN_TOKENS,
        _QWEN_PLACEHOLDER,
    ),
    "Qwen3-VL": Family(
        _qwen(
            "qwen3_vl",
            out_hidden_size=32,
            intermediate_size=48,
            num_position_embeddings=64,
            deepstack_visual_indexes=[0],
        ),
        _QWEN3_PIXELS,
        _QWEN_TOKENS,
        _QWEN_PLACEHOLDER,
    ),
    "Qwen3.5": Family(
        _qwen(
            "qwen3_5",
            text={
                "layer_types": ["linear_attention", "full_attention"],
                "linear_key_head_dim": 8,
                "linear_value_head_dim": 8,
                "linear_num_key_heads": 2,
                "linear_num_value_heads": 4,
                "partial_rotary_factor": 1.0,
            },
            out_hidden_size=32,
            intermediate_size=48,
            num_position_embeddings=64,
        ),
        _QWEN3_PIXELS,
        _QWEN_TOKENS,
        _QWEN_PLACEHOLDER,
    ),
    "GLM-4V": Family(
        _glm4v,
        _QWEN_PIXELS,
        {
            "image_token": "<|image|>",
            "video_token": "<|video|>",
            **_named("<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>"),
        },
        "<|begin_of_image|><|image|><|end_of_image|>",
    ),
    "LLaVA": Family(
        _llava("llava", "clip_vision_model"),
        _CLIP,
        {"image_token": "<image>"},
        "<image>",
        {"patch_size": PATCH, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1},
    ),
    "LLaVA-Next": Family(
        _llava("llava_next", "clip_vision_model", image_grid_pinpoints=_PINPOINTS),
        {**_CLIP, "image_grid_pinpoints": _PINPOINTS},
        {"image_token": "<image>"},
        "<image>",
        {"patch_size": PATCH, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1},
    ),
    "LLaVA-OneVision": Family(
        _llava("llava_onevision", "siglip_vision_model", image_grid_pinpoints=_PINPOINTS),
        {**_SQUARE, "image_grid_pinpoints": _PINPOINTS},
        {"image_token": "<image>", "video_token": "<video>"},
        "<image>",
        {"num_image_tokens": (SIDE // PATCH) ** 2, "vision_feature_select_strategy": "full"},
    ),
    "InternVL": Family(
        _internvl,
        {**_SQUARE, "max_patches": 4},
        {
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        },
        "<IMG_CONTEXT>",
        {"image_seq_length": 4},
    ),
    "Idefics3": Family(_idefics3("idefics3"), _SPLIT_PIXELS, _SPLIT_TOKENS, "<image>", {"image_seq_len": 4}),
    "SmolVLM": Family(
        _idefics3("smolvlm"), _SPLIT_PIXELS, _SPLIT_TOKENS, "<image>", {"image_seq_len": 4}, needs=("num2words",)
    ),
    "Gemma3": Family(
        _gemma3,
        _SQUARE,
        {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"},
        "<start_of_image>",
        {"image_seq_length": 4},
    ),
    "Gemma4": Family(
        _gemma4,
        {"patch_size": PATCH, "max_soft_tokens": 70, "pooling_kernel_size": 2},
        {
            "boi_token": "<|image>",
            "eoi_token": "<image|>",
            "image_token": "<|image|>",
            "boa_token": "<|audio>",
            "eoa_token": "<audio|>",
            "audio_token": "<|audio|>",
            "video_token": "<|video|>",
        },
        "<|image|>",
    ),
    "PaliGemma": Family(
        _paligemma,
        {**_SQUARE, "image_seq_length": (SIDE // PATCH) ** 2},
        {"image_token": "<image>", "bos_token": "<bos>"},
        "<image>",
    ),
    "Mllama": Family(
        _mllama,
        _SQUARE,
        {"image_token": "<|image|>", "bos_token": "<|begin_of_text|>", "python_token": "<|python_tag|>"},
        "<|image|>",
    ),
    "Mistral3": Family(
        _mistral3,
        {"size": {"longest_edge": 64}, "patch_size": PATCH},
        {"image_token": "[IMG]", **_named("[IMG_BREAK]", "[IMG_END]")},
        "[IMG]",
        {"patch_size": PATCH, "spatial_merge_size": 2},
        needs=("torchvision",),
    ),
    "Llama4": Family(
        _llama4,
        {**_SQUARE, "max_patches": 4},
        _named(
            "<|image|>",
            "<|image_start|>",
            "<|image_end|>",
            "<|patch|>",
            "<|tile_x_separator|>",
            "<|tile_y_separator|>",
        ),
        "<|image|>",
        {"patch_size": PATCH},
        needs=("torchvision",),
    ),
    "LFM2-VL": Family(
        _lfm2_vl,
        {
            "encoder_patch_size": PATCH,
            "tile_size": SIDE,
            "max_num_patches": 64,
            "min_image_tokens": 2,
            "max_image_tokens": 8,
            "min_tiles": 2,
            "max_tiles": 4,
        },
        {
            "image_token": "<image>",
            "image_start_token": "<|image_start|>",
            "image_end_token": "<|image_end|>",
            "image_thumbnail_token": "<|img_thumbnail|>",
            **_named(*(f"<|img_row_{row}_col_{column}|>" for row in range(1, 5) for column in range(1, 5))),
        },
        "<image>",
        needs=("torchvision",),
    ),
}
