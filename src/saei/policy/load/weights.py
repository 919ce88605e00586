"""Loading a policy's parts: model, tokenizer and image processor, from a folder or a hub."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from saei.config.sections import ModelConfig
from saei.errors import ModelError, SaeiError, out_of_memory
from saei.policy.load.adapters import SavedAdapter, load_adapter, merge_adapter, new_adapter
from saei.policy.load.checkpointing import checkpoint_layers
from saei.policy.load.device import device_of, set_threads
from saei.policy.load.location import locate, model_path
from saei.policy.load.parts import freeze
from saei.policy.load.patches import use_patch_products
from saei.policy.load.processors import check_limits, has_limits, load_processor
from saei.policy.load.untrained import META, Untrained, build
from saei.runtime.checksums import verify_checksums


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
        adapter: peft's wrapper of the model, whose linear layers have adapters in them; None without.
    """

    model: Any
    tokenizer: Any
    image_processor: Any
    chat_template: str | None = None
    notes: tuple[str, ...] = ()
    processor: Any = None
    adapter: Any = None


def load_parts(config: ModelConfig, untrained: Untrained | None = None) -> Parts:
    """Load model, tokenizer and image processor, and put adapters into the model if the configuration wants them.

    Where ``AutoProcessor`` fails because a part that images do not need, such as a video processor, is missing a
    package, the processor is composed of tokenizer and image processor, which ``notes`` report.

    Args:
        config: Which model, and what of it is trained.
        untrained: How the model is made without its weights; None loads them.

    Raises:
        ModelError: If something that is needed does not load.
        CheckpointError: If a checkpoint's files are not those that were written.
    """
    from transformers.utils import logging

    adapter_config = config  # where it names an adapter, `locate` returns the base model's
    config, path, saved = locate(config)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    _refuse_quantised(config, path)
    device = device_of(config)
    if untrained is None:
        for folder in {path} if saved is None else {path, saved.path}:
            verify_checksums(Path(folder), _of_a_model)
        model = _trained(config, path).to(device)
        model, adapter = _adapted(adapter_config, model, saved, path)
    else:
        model = _built(config, path, device, untrained)
        adapter = _prepared(config, model)
    model.eval()
    use_patch_products(model)
    checkpoint_layers(model, config.gradient_checkpointing)
    set_threads(config, model)
    return replace(_with_processors(config, path, model), adapter=adapter)


def parts_of(model: Any, processor: Any, config: ModelConfig) -> Parts:
    """Return the parts of a model that is loaded already, prepared for training as the configuration says.

    Type, device and attention are the model's own, except that a device other than ``auto`` is kept to.

    Args:
        model: A Hugging Face image-text-to-text model, changed in place.
        processor: Its processor.
        config: What of it is trained.

    Raises:
        ModelError: If it cannot be trained.
    """
    lacking = [name for name in ("tokenizer", "image_processor") if getattr(processor, name, None) is None]
    if lacking or not hasattr(model, "get_output_embeddings"):
        wrong = f"a {type(processor).__name__} without {lacking[0]}" if lacking else f"a {type(model).__name__}"
        raise ModelError(
            "A model is given with its processor: model=(model, processor).",
            reason=f"Got {wrong}.",
            remedy="Load them by AutoModelForImageTextToText and AutoProcessor.",
        )
    if getattr(model, "is_quantized", False):
        raise _quantised("The model", model.config.to_dict().get("quantization_config") or {})
    if config.device != "auto":
        model.to(device_of(config))
    if config.lora is None:
        model.requires_grad_(True)
    adapter = _prepared(config, model)
    model.eval()
    use_patch_products(model)
    checkpoint_layers(model, config.gradient_checkpointing)
    set_threads(config, model)
    template = getattr(processor, "chat_template", None) or getattr(processor.tokenizer, "chat_template", None)
    return Parts(
        model=model,
        tokenizer=processor.tokenizer,
        image_processor=processor.image_processor,
        chat_template=template,
        processor=processor,
        adapter=adapter,
    )


def load_outline(config: ModelConfig, untrained: Untrained | None = None) -> Any:
    """Return the model on the meta device: shapes, types, and what of it is trained, in no memory.

    Args:
        config: Which model, and what of it is trained.
        untrained: How much of the model; None for all.

    Raises:
        ModelError: If there is no such model or it cannot be trained as the configuration says.
    """
    config, path, _ = locate(config)
    _refuse_quantised(config, path)
    model = _built(config, path, META, untrained or Untrained())
    _prepared(config, model)
    return model


def _of_a_model(name: str) -> bool:
    """Return whether a model is read from a file; a trainer's state, which may be larger, is checked where it is."""
    return not name.endswith(".pt")


def _trained(config: ModelConfig, path: str) -> Any:
    from transformers import AutoModelForImageTextToText

    try:
        model, loading_info = AutoModelForImageTextToText.from_pretrained(
            path,
            revision=config.revision,
            trust_remote_code=False,
            dtype=config.dtype,
            attn_implementation=config.attention,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    except Exception as error:  # the model's own class, file formats and the hub raise errors of all kinds
        if out_of_memory(error):
            raise
        raise _not_loadable(config, "an image-text-to-text model", error) from error
    _refuse_random_weights(config, loading_info)
    return model


def _built(config: ModelConfig, path: str, device: str, untrained: Untrained) -> Any:
    from transformers import AutoConfig

    try:
        settings = AutoConfig.from_pretrained(path, revision=config.revision, trust_remote_code=False)
        return build(settings, config, device, untrained)
    except Exception as error:  # each configuration has its own ways to be none
        if out_of_memory(error):
            raise
        raise _not_loadable(config, "the configuration of an image-text-to-text model", error) from error


def _prepared(config: ModelConfig, model: Any) -> Any:
    """Put fresh adapters into an untrained model or freeze parts of it; return peft's wrapper, None without."""
    if config.lora is not None:
        return new_adapter(model, config.lora, base=config.path, revision=config.revision)
    freeze(model, config.freeze)
    return None


def _adapted(config: ModelConfig, model: Any, saved: SavedAdapter | None, path: str) -> tuple[Any, Any]:
    """Return the model and peft's wrapper of it, None where its own weights are trained, but for the frozen parts."""
    if config.lora is not None:
        if saved is not None:
            return model, load_adapter(model, saved, config.lora)
        base = str(Path(path).resolve()) if os.path.isdir(os.path.expanduser(model_path(config))) else config.path
        return model, new_adapter(model, config.lora, base=base, revision=config.revision)
    if saved is not None:
        model = merge_adapter(model, saved)
        model.requires_grad_(True)
    freeze(model, config.freeze)
    return model, None


def _refuse_quantised(config: ModelConfig, path: str) -> None:
    """Refuse a checkpoint of quantised weights: they have no gradient, and no small step fits between two of them."""
    from transformers import PreTrainedConfig

    settings, _ = PreTrainedConfig.get_config_dict(path, revision=config.revision)
    quantised = settings.get("quantization_config")
    if quantised:
        raise _quantised(f"'{config.path}'", quantised)


def _quantised(what: str, settings: Mapping[str, Any]) -> ModelError:
    return ModelError(
        "The weights of a policy have to be floating-point numbers.",
        reason=f"{what} is quantised by {settings.get('quant_method', 'an unknown method')}.",
        remedy="Give the checkpoint that it was made from; model.dtype=bfloat16 and model.lora save memory.",
    )


def _refuse_random_weights(config: ModelConfig, loading_info: Mapping[str, Any]) -> None:
    """Refuse a checkpoint whose weights do not fill the model: transformers draws the others at random."""
    mismatched = [
        f"{name} ({list(saved)} instead of {list(shape)})" for name, saved, shape in loading_info["mismatched_keys"]
    ]
    lacking = sorted(loading_info["missing_keys"]) + sorted(set(mismatched))
    if lacking:
        raise ModelError(
            "The weights of a model have to fill it.",
            reason=f"'{config.path}' lacks {len(lacking)}, such as {lacking[0]}.",
            remedy="Give a complete checkpoint whose config.json belongs to its weights.",
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
    except Exception as error:  # tokenizers and image processors have their own ways to be damaged
        if out_of_memory(error):
            raise
        raise _not_loadable(config, "a tokenizer and an image processor", error) from error
    if limits and has_limits(processor.image_processor):
        check_limits(processor.image_processor, config.min_pixels, config.max_pixels)
    notes = (note,) if note else ()
    return Parts(
        model=model,
        tokenizer=processor.tokenizer,
        image_processor=processor.image_processor,
        chat_template=processor.chat_template,
        notes=notes,
        processor=processor,
    )


def _not_loadable(config: ModelConfig, what: str, error: Exception) -> ModelError:
    text = str(error).strip()
    if "trust_remote_code" in text:
        return ModelError(
            "saei runs no code that a model's folder brings.",
            reason=f"'{config.path}' has a model class of its own.",
            remedy="Give a model whose class is part of transformers.",
        )
    first_line = text.splitlines()[0] if text else ""
    return ModelError(
        f"model.path has to hold {what}.",
        reason=f"'{config.path}' raised {type(error).__name__}: {first_line}",
        remedy="Give `builtin`, a folder written by save_pretrained, or the id of a hub that can be reached.",
    )
