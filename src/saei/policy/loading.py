"""Loading a policy's parts: model, tokenizer and image processor, from a folder or a hub."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch

from saei.config import BUILTIN, ModelConfig
from saei.errors import ModelError, SaeiError
from saei.policy.patches import use_patch_products
from saei.policy.processors import load_processor

SMALL = 10_000_000
"""Parameters below which operations are too short for several threads: waiting for each other costs more."""

HUB_TIMEOUT = 5.0
"""Seconds after which the hub counts as out of reach and only its local cache is asked."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What a policy is made of.

    Attributes:
        model: A Hugging Face image-text-to-text model, in eval mode: dropout is off, so that the
            distribution that is sampled is the one that is trained.
        tokenizer: Its tokenizer.
        image_processor: Its image processor.
        chat_template: The template of a conversation, None to use the tokenizer's own.
        notes: What the user should know about how the parts were found.
        processor: The processor that has them as parts, None to compose the model's own of them.
    """

    model: Any
    tokenizer: Any
    image_processor: Any
    chat_template: str | None = None
    notes: tuple[str, ...] = ()
    processor: Any = None


def load_parts(config: ModelConfig) -> Parts:
    """Load model, tokenizer and image processor.

    Where ``AutoProcessor`` fails because a part that images do not need, such as a video processor, is missing a
    package, the processor is composed of tokenizer and image processor, and ``notes`` say so.

    Raises:
        ModelError: If something that is needed does not load.
    """
    from transformers import AutoModelForImageTextToText
    from transformers.utils import logging

    path = _reachable(config)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        model, found = AutoModelForImageTextToText.from_pretrained(
            path,
            revision=config.revision,
            dtype=config.dtype,
            attn_implementation=config.attention,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    except Exception as error:
        raise _not_loadable(config, "an image-text-to-text model", error) from error
    _refuse_random_weights(config, found)
    device = config.device if config.device != "auto" else _best_device()
    model = model.to(device).eval()
    use_patch_products(model)
    _set_threads(config, model)
    if config.freeze_vision:
        vision_tower(model).requires_grad_(False)
    return _with_processors(config, path, model)


def _reachable(config: ModelConfig) -> str:
    """Return a folder, or a hub id if the hub answers; without it, the folder of the hub's local cache.

    Asked first, because transformers retries each file of a hub out of reach for a quarter of a minute.

    Raises:
        ModelError: If it is none of these.
    """
    from huggingface_hub import try_to_load_from_cache

    path = str(Path(model_path(config)).expanduser())
    if Path(path).is_dir():
        return path
    if path.startswith(("/", ".")) or path.count("/") > 1:
        raise _not_found(config, "there is no such folder")
    if _hub_answers():
        return path
    cached = try_to_load_from_cache(path, "config.json", revision=config.revision)
    if not isinstance(cached, str):
        raise _not_found(config, "there is no such folder, and the hub cannot be reached for a model of that id")
    return str(Path(cached).parent)


def _hub_answers() -> bool:
    from huggingface_hub import constants, get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=HUB_TIMEOUT)
    except Exception:  # whatever the transport raises, the hub is out of reach
        return False
    return True


def _refuse_random_weights(config: ModelConfig, found: Mapping[str, Any]) -> None:
    """Refuse a checkpoint whose weights do not fill the model: transformers draws the others at random."""
    mismatched = {f"{name} ({list(saved)} instead of {list(shape)})" for name, saved, shape in found["mismatched_keys"]}
    lacking = sorted(found["missing_keys"]) + sorted(mismatched)
    if lacking:
        raise ModelError(
            "The weights of a model have to fill it.",
            reason=f"'{config.path}' lacks {len(lacking)}, such as {lacking[0]}.",
            remedy="Give a complete checkpoint whose config.json belongs to its weights.",
        )


def _set_threads(config: ModelConfig, model: Any) -> None:
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    elif sum(parameter.numel() for parameter in model.parameters()) < SMALL:
        torch.set_num_threads(1)


def model_path(config: ModelConfig) -> str:
    """Return the folder or hub id of a model, ``builtin`` resolved."""
    return str(files("saei") / "builtin" / "tiny") if config.path == BUILTIN else config.path


def vision_tower(model: Any) -> Any:
    """Return the vision encoder of a model.

    Raises:
        ModelError: If it has none that can be found.
    """
    base = model.base_model
    for name in ("visual", "vision_tower", "vision_model"):
        tower = getattr(base, name, None)
        if tower is not None:
            return tower
    raise ModelError(
        "The vision tower has to be found to freeze it.",
        reason=f"{type(base).__name__} has none under a known name.",
        remedy="Set model.freeze_vision=false.",
    )


def _with_processors(config: ModelConfig, path: str, model: Any) -> Parts:
    limits = {
        name: value
        for name, value in (("min_pixels", config.min_pixels), ("max_pixels", config.max_pixels))
        if value is not None
    }
    try:
        processor, note = load_processor(path, config.revision, model.config, **limits)
    except SaeiError:
        raise
    except Exception as error:
        raise _not_loadable(config, "a tokenizer and an image processor", error) from error
    notes = (note,) if note else ()
    return Parts(model, processor.tokenizer, processor.image_processor, processor.chat_template, notes, processor)


def _best_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _not_found(config: ModelConfig, reason: str) -> ModelError:
    return ModelError(
        "model.path has to name a model.",
        reason=f"'{config.path}': {reason}.",
        remedy="Give `builtin`, a folder written by save_pretrained, or the id of a hub that can be reached.",
    )


def _not_loadable(config: ModelConfig, what: str, error: Exception) -> ModelError:
    first_line = str(error).strip().splitlines()[0] if str(error).strip() else ""
    return ModelError(
        f"model.path has to hold {what}.",
        reason=f"'{config.path}' raised {type(error).__name__}: {first_line}",
        remedy="Give `builtin`, a folder written by save_pretrained, or the id of a hub that can be reached.",
    )
