"""The ids that end a response, and those that are never drawn."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from saei.errors import ModelError
from saei.policy.load.weights import Parts


def end_ids(parts: Parts) -> Tensor:
    """Return every id that the model's generation config or the tokenizer names as an end of sequence."""
    ids = getattr(parts.model.generation_config, "eos_token_id", None)
    ids = [ids] if isinstance(ids, int) else list(ids or [])
    if parts.tokenizer.eos_token_id is not None:
        ids.append(parts.tokenizer.eos_token_id)
    if not ids:
        raise ModelError(
            "A policy needs an end-of-sequence token.",
            reason="Neither the generation config nor the tokenizer names one.",
            remedy="Set eos_token_id in generation_config.json.",
        )
    return torch.tensor(sorted(set(ids)))


def banned_ids(parts: Parts, processor: Any, eos_ids: Tensor) -> Tensor:
    """Return the mask of ids that must not be sampled: special tokens but the ends, and ids without a token.

    A generated image token would ask for an image that is not there.
    """
    size = parts.model.get_output_embeddings().weight.shape[0]
    banned_V = torch.zeros(size, dtype=torch.bool)
    banned_V[len(parts.tokenizer) :] = True
    special = {number for number, token in parts.tokenizer.added_tokens_decoder.items() if token.special}
    special |= {*parts.tokenizer.all_special_ids, parts.model.config.image_token_id, *processor.image_token_ids}
    special.discard(None)
    banned_V[[number for number in special if number < size]] = True
    banned_V[eos_ids.cpu()] = False
    return banned_V
