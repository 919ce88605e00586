"""Tiny models of the families that saei is tested with: real classes, random weights, some ten thousand parameters.

Each goes through its family's real processor class. Only sizes are invented, and the tokenizer, whose words are those
of the built-in model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from tokenizers import AddedToken
from torch import nn
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedTokenizerFast
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING
from transformers.utils import is_torchvision_available

from saei.builtin.vocabulary import END, PAD, build_tokenizer
from saei.policy.loading import Parts
from saei.policy.processors import compose

SPREAD = 1.5
"""Standard deviation of weights times the root of their inputs: distributions far from uniform and far from certain."""

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% for part in message.content %}{% if part.type == 'image' %}PLACEHOLDER{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

Ids = Callable[[str], int]


@dataclass(frozen=True, slots=True)
class Family:
    """How a tiny model of a family is built.

    Attributes:
        model_type: Its type in a configuration.
        placeholder: What its chat template writes for an image.
        tokens: Special tokens by the attribute that its processor knows them by; those without are numbered.
        config: From the ids of tokens to the fields of its configuration.
        image_processor: Fields of its image processor.
        settings: Fields of its processor.
    """

    model_type: str
    placeholder: str
    tokens: Mapping[str, str]
    config: Callable[[Ids], Mapping[str, Any]]
    image_processor: Mapping[str, Any]
    settings: Mapping[str, Any] = field(default_factory=dict)


_TEXT = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "bos_token_id": None,
}
_TOWER = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}


def _qwen(**vision: Any) -> Callable[[Ids], dict[str, Any]]:
    def config(ids: Ids) -> dict[str, Any]:
        rope = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [2, 1, 1]}
        return {
            "text_config": {**_TEXT, "rope_parameters": rope},
            "vision_config": {
                "depth": 2,
                "hidden_size": 32,
                "num_heads": 2,
                "patch_size": 8,
                "out_hidden_size": 32,
                **vision,
            },
            "image_token_id": ids("<|image_pad|>"),
            "video_token_id": ids("<|video_pad|>"),
            "vision_start_token_id": ids("<|vision_start|>"),
            "vision_end_token_id": ids("<|vision_end|>"),
        }

    return config


def _llava(ids: Ids) -> dict[str, Any]:
    return {
        "text_config": {"model_type": "llama", **_TEXT},
        "vision_config": {"model_type": "clip_vision_model", **_TOWER, "image_size": 64, "patch_size": 16},
        "image_token_index": ids("<image>"),
    }


_QWEN_TOKENS = {"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"}
_QWEN_PIXELS = {"size": {"shortest_edge": 16**2, "longest_edge": 64**2}, "patch_size": 8}

FAMILIES: Mapping[str, Family] = {
    "qwen2_5_vl": Family(
        "qwen2_5_vl",
        "<|vision_start|><|image_pad|><|vision_end|>",
        _QWEN_TOKENS,
        _qwen(out_hidden_size=32, intermediate_size=48, window_size=32, fullatt_block_indexes=[1]),
        _QWEN_PIXELS,
    ),
    "llava": Family(
        "llava",
        "<image>",
        {"image_token": "<image>"},
        _llava,
        {"size": {"shortest_edge": 64}, "crop_size": {"height": 64, "width": 64}},
        {"patch_size": 16, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1},
    ),
}


def tiny_parts(name: str, seed: int = 0) -> Parts:
    """Return the parts of a tiny policy of a family.

    Args:
        name: A key of ``FAMILIES``.
        seed: Seed of the weights.
    """
    family = FAMILIES[name]
    tokenizer = _tokenizer(family)
    fields = {"model_type": family.model_type, **family.config(tokenizer.convert_tokens_to_ids)}
    fields["text_config"] = {
        **fields["text_config"],
        "vocab_size": len(tokenizer),
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = AutoConfig.for_model(**fields)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForImageTextToText.from_config(config).eval()
        for parameter in model.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=SPREAD * parameter[0].numel() ** -0.5)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    image_processor = IMAGE_PROCESSOR_MAPPING[type(config)][_backend()](**family.image_processor)
    processor = compose(config, tokenizer, image_processor, settings=family.settings)
    return Parts(model, tokenizer, image_processor, tokenizer.chat_template, processor=processor)


def _backend() -> str:
    return "torchvision" if is_torchvision_available() else "pil"


def _tokenizer(family: Family) -> PreTrainedTokenizerFast:
    backend = build_tokenizer().backend_tokenizer
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in family.tokens.values()])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        eos_token=END,
        unk_token="<unk>",
        extra_special_tokens=dict(family.tokens),
        chat_template=TEMPLATE.replace("PLACEHOLDER", family.placeholder),
        clean_up_tokenization_spaces=False,
    )
