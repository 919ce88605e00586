"""The official processor of a model, if necessary without the parts that images do not need.

A processor's video or sound parts need packages that images do not. Without them the processor as a whole does not
load, although its own code, which expands a picture's placeholder in the prompt, would run.
"""

from __future__ import annotations

import importlib
import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from saei.errors import ModelError


def load_processor(path: str, revision: str | None, config: Any, **limits: int) -> tuple[Any, str | None]:
    """Load the processor of a folder or a hub id.

    Args:
        path: The folder or hub id.
        revision: Hub revision.
        config: The model's configuration, which decides the class.
        limits: Settings of the image processor that take precedence over the checkpoint's.

    Returns:
        The processor, and a note to the user if it had to be composed from its parts.

    Raises:
        Exception: Whatever transformers raises, if tokenizer, image processor or the processor's class do not load.
    """
    from transformers import AutoImageProcessor, AutoProcessor, AutoTokenizer, ProcessorMixin

    try:
        processor = AutoProcessor.from_pretrained(path, revision=revision, trust_remote_code=False, **limits)
        if hasattr(processor, "image_processor") and hasattr(processor, "tokenizer"):
            return processor, None
        why = f"it gives a {type(processor).__name__}"
    except Exception as error:  # a missing package shows in many ways
        why = type(error).__name__
    tokenizer = AutoTokenizer.from_pretrained(path, revision=revision, trust_remote_code=False)
    image_processor = AutoImageProcessor.from_pretrained(path, revision=revision, trust_remote_code=False, **limits)
    settings, _ = ProcessorMixin.get_processor_dict(path, revision=revision)
    return compose(config, tokenizer, image_processor, settings.pop("chat_template", None), settings), (
        f"AutoProcessor does not load here ({why}); the processor was composed of tokenizer and image processor alone, "
        "which is all that images need."
    )


def has_limits(image_processor: Any) -> bool:
    """Return whether an image processor has a smallest and a largest area of pictures by these names."""
    known = getattr(type(image_processor), "valid_kwargs", None)
    return {"min_pixels", "max_pixels"} <= set(getattr(known, "__annotations__", ()))


def check_limits(image_processor: Any, min_pixels: int | None, max_pixels: int | None) -> None:
    """Check that limits which were set go with those of the checkpoint, of a processor that has such limits.

    Raises:
        ModelError: If no picture could keep them.
    """
    limits = {
        "smallest": (min_pixels, image_processor.size.shortest_edge),
        "largest": (max_pixels, image_processor.size.longest_edge),
    }
    side = image_processor.patch_size * image_processor.merge_size
    (_, least), (_, most) = limits.values()
    if least > most:
        name, value, other = (
            ("max_pixels", max_pixels, "smallest") if max_pixels is not None else ("min_pixels", min_pixels, "largest")
        )
        number = least if other == "smallest" else most
        raise ModelError(
            "The smallest area of a picture is at most the largest.",
            reason=f"model.{name} is {value}, the {other} area is the checkpoint's {number}.",
            remedy=f"Set model.{'min_pixels' if name == 'max_pixels' else 'max_pixels'}, too, or change model.{name}.",
        )
    if max_pixels is not None and max_pixels < side * side:
        raise ModelError(
            "The largest area of a picture has to hold a patch.",
            reason=f"model.max_pixels is {max_pixels}, the least that the processor makes {side} x {side}.",
            remedy=f"Set model.max_pixels to {side * side} or more.",
        )


def compose(
    config: Any,
    tokenizer: Any,
    image_processor: Any,
    chat_template: str | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Any:
    """Return a processor of a model's own processor class that has no parts but these.

    Args:
        config: The model's configuration, which decides the class.
        tokenizer: Its tokenizer.
        image_processor: Its image processor.
        chat_template: Template of a conversation, None for the tokenizer's own.
        settings: The processor's own settings, such as the number of tokens of an image.

    Raises:
        ModelError: If there is no such class or it needs more than that.
    """
    cls = _processor_class(config)

    def check(self: Any, part: str, value: Any) -> Any:
        return None if value is None else cls.check_argument_for_proper_class(self, part, value)

    parts: dict[str, Any] = dict.fromkeys(cls.get_attributes())
    parts |= {"tokenizer": tokenizer, "image_processor": image_processor}
    known = inspect.signature(cls.__init__).parameters
    options = {name: value for name, value in (settings or {}).items() if name in known and name not in parts}

    def save(self: Any, folder: str | Path, **settings: Any) -> None:
        if _is_whole(self):
            cls.save_pretrained(self, folder, **settings)
        else:
            save_processor(self, Path(folder))

    # Of the same name, so that what is saved names the class that transformers has.
    own_methods = {"check_argument_for_proper_class": check, "save_pretrained": save, "__module__": cls.__module__}
    composed = type(cls.__name__, (cls,), own_methods)
    try:
        return composed(**parts, **options, chat_template=chat_template or tokenizer.chat_template)
    except Exception as error:  # each class has its own ways to miss something
        raise _no_processor(config, f"{cls.__name__} raised {type(error).__name__}: {error}") from error


def save_processor(processor: Any, folder: Path) -> None:
    """Write a processor, also one composed of parts, so that the Auto classes of transformers load it."""
    if _is_whole(processor):
        processor.save_pretrained(folder)
        return
    folder.mkdir(parents=True, exist_ok=True)
    processor.tokenizer.save_pretrained(folder)
    processor.image_processor.save_pretrained(folder)
    if isinstance(processor.chat_template, str):
        (folder / "chat_template.jinja").write_text(processor.chat_template, encoding="utf-8")
    known = set(inspect.signature(type(processor).__init__).parameters) - {"chat_template"}
    settings = {
        name: value for name, value in vars(processor).items() if name in known and isinstance(value, str | int | float)
    }
    settings["processor_class"] = type(processor).__name__
    (folder / "processor_config.json").write_text(
        json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8"
    )


def _is_whole(processor: Any) -> bool:
    return all(getattr(processor, part, None) is not None for part in processor.get_attributes())


def _processor_class(config: Any) -> Any:
    """Return the class of a model's processor.

    It is imported from the module that defines it: transformers exports a dummy where a class lacks packages.

    Raises:
        ModelError: If there is none, or a package that its file imports is missing.
    """
    from transformers.models.auto.configuration_auto import model_type_to_module_name
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING, PROCESSOR_MAPPING_NAMES

    name = PROCESSOR_MAPPING_NAMES.get(config.model_type)
    if name is None:
        if type(config) in PROCESSOR_MAPPING:
            return PROCESSOR_MAPPING[type(config)]
        raise _no_processor(config, "transformers has none")
    sharing = [config.model_type, *(other for other, its in PROCESSOR_MAPPING_NAMES.items() if its == name)]
    missing = "its file"
    for module in dict.fromkeys(model_type_to_module_name(model_type) for model_type in sharing):
        try:
            imported = importlib.import_module(f"transformers.models.{module}.processing_{module}")
        except ModuleNotFoundError as error:
            if error.name and not error.name.startswith("transformers."):
                missing = error.name
            continue
        if hasattr(imported, name):
            return getattr(imported, name)
    raise _no_processor(config, f"{name} needs {missing}")


def _no_processor(config: Any, reason: str) -> ModelError:
    return ModelError(
        "A policy needs its model's processor, which knows what becomes of a picture in the prompt.",
        reason=f"There is none here for '{config.model_type}': {reason}.",
        remedy="Install what is missing, such as torchvision, or use a model whose processor transformers has.",
    )
