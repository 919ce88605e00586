"""The parts of a vision-language model, found in the model itself: vision tower, projector, language model."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any, Literal, TypeAlias

from torch import nn

from saei.errors import ModelError

Part: TypeAlias = Literal["vision", "projector", "language"]

_PROJECTOR = re.compile(r"merger|projector|connector")
"""Names of projectors that are modules of the vision tower."""


def vision_tower(model: Any) -> nn.Module:
    """Return the vision encoder of a Hugging Face model.

    Raises:
        ModelError: If it has none that can be found.
    """
    tower = model.get_encoder("image")
    if tower is None or tower is model or tower is model.base_model:
        raise _not_found(model, "vision tower")
    return tower  # type: ignore[no-any-return]


def language_model(model: Any) -> nn.Module:
    """Return the text decoder of a Hugging Face model, without its output layer.

    Raises:
        ModelError: If it has none apart from the rest.
    """
    decoder = model.get_decoder()
    if decoder is None or decoder is model or decoder is model.base_model:
        raise _not_found(model, "language model")
    return decoder  # type: ignore[no-any-return]


def anatomy(model: Any) -> dict[str, Part]:
    """Return for each module of a model, by its name, the part that its own parameters belong to.

    The projector is whatever is in neither tower nor language model, and any module of the tower with a projector's
    name: LLaVA's stands beside the tower, Qwen's is the tower's last module.

    Raises:
        ModelError: If a part cannot be found.
    """
    names = {module: name for name, module in model.named_modules()}
    tower = names[vision_tower(model)]
    language = [names[module] for module in (language_model(model), model.get_output_embeddings()) if module in names]

    def part(name: str) -> Part:
        if any(_within(name, outer) for outer in language):
            return "language"
        return "vision" if _within(name, tower) and not _PROJECTOR.search(name[len(tower) :]) else "projector"

    return {name: part(name) for name in names.values()}


def freeze(model: Any, frozen: Collection[Part]) -> None:
    """Take the parameters of some parts out of training.

    Raises:
        ModelError: If the model has no parameters in such a part.
    """
    if not frozen:
        return
    part, met = anatomy(model), set()
    for name, module in model.named_modules():
        for parameter in module.parameters(recurse=False):
            if part[name] in frozen:
                met.add(part[name])
                parameter.requires_grad_(False)
    for missing in sorted(set(frozen) - met):
        raise _not_found(model, missing)


def _within(name: str, outer: str) -> bool:
    return name == outer or name.startswith(f"{outer}.")


def _not_found(model: Any, part: str) -> ModelError:
    return ModelError(
        "A part of the model has to be found to be frozen or adapted.",
        reason=f"{type(model).__name__} shows no {part}.",
        remedy="Leave it out of model.freeze; without model.freeze and model.lora the whole model is trained.",
    )
