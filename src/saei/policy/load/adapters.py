"""LoRA through peft: adapters are put into the model in place, so that every pass through it sees them.

The model keeps its own class and attributes; peft's wrapper is kept beside it for what peft does: saving and loading
adapters, and switching them off.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from saei.config.sections import LoraConfig
from saei.config.yaml import write_yaml
from saei.errors import ModelError
from saei.policy.load.parts import anatomy


@dataclass(frozen=True, slots=True)
class SavedAdapter:
    """A folder or hub id that holds an adapter instead of a model.

    Attributes:
        path: The folder or hub id.
        revision: Its hub revision.
        base: The model that it belongs to, a folder or a hub id.
        base_revision: That model's hub revision.
    """

    path: str
    revision: str | None
    base: str
    base_revision: str | None


def saved_adapter(path: str, revision: str | None) -> SavedAdapter | None:
    """Return what is known about an adapter from its own configuration, None if ``path`` holds none.

    Raises:
        ModelError: If that does not name the model that the adapter belongs to.
    """
    from transformers.utils.peft_utils import find_adapter_config_file

    file = find_adapter_config_file(path, revision=revision)
    if file is None:
        return None
    settings = json.loads(Path(file).read_text(encoding="utf-8"))
    base = settings.get("base_model_name_or_path")
    if not base:
        raise ModelError(
            "An adapter has to name the model that it belongs to.",
            reason=f"{file} has no base_model_name_or_path.",
            remedy="Write the model's folder or hub id there.",
        )
    return SavedAdapter(path, revision, base, settings.get("revision"))


def new_adapter(model: Any, config: LoraConfig, *, base: str, revision: str | None) -> Any:
    """Put fresh adapters into a model, the only part of it that is trained, and return peft's wrapper.

    At first they add nothing: of an adapter's two matrices one is zero, the other drawn from torch's global generator.

    Args:
        model: A Hugging Face model, changed in place.
        config: Rank, scale and places.
        base: Folder or hub id that the saved adapter will name as its model.
        revision: Its hub revision.

    Raises:
        ModelError: If peft is missing or there is no such layer.
    """
    peft = _peft()
    layers = linear_layers(model, config)
    wrapper = _wrap(model, peft.LoraConfig(r=config.rank, lora_alpha=config.alpha, target_modules=layers))
    settings = wrapper.peft_config[wrapper.active_adapter]
    settings.base_model_name_or_path, settings.revision = base, revision
    return wrapper


def load_adapter(model: Any, saved: SavedAdapter, config: LoraConfig) -> Any:
    """Put a saved adapter into its model to continue its training, and return peft's wrapper.

    Raises:
        ModelError: If peft is missing, the adapter is of other settings, or its weights do not fill it.
    """
    peft = _peft()
    layers = set(linear_layers(model, config))
    settings = peft.PeftConfig.from_pretrained(saved.path, revision=saved.revision)
    settings.inference_mode = False
    wrapper = _wrap(model, settings)
    saved_values = {"rank": getattr(settings, "r", None), "alpha": getattr(settings, "lora_alpha", None)}
    different = [f"{name} {value}" for name, value in saved_values.items() if value != getattr(config, name)]
    if set(getattr(wrapper.base_model, "targeted_module_names", ())) != layers:
        different.append("other layers")
    if different:
        raise ModelError(
            "An adapter is trained on with its own settings.",
            reason=f"'{saved.path}' has {', '.join(different)}.",
            remedy="Set model.lora like the adapter, or leave it out to merge the adapter into the weights.",
        )
    _fill(wrapper, saved)
    return wrapper


def merge_adapter(model: Any, saved: SavedAdapter) -> Any:
    """Return a model with a saved adapter added to its weights.

    Raises:
        ModelError: If peft is missing, the adapter cannot be merged, or its weights do not fill it.
    """
    peft = _peft()
    try:
        wrapper = _wrap(model, peft.PeftConfig.from_pretrained(saved.path, revision=saved.revision))
        _fill(wrapper, saved)
        return wrapper.merge_and_unload()
    except (AttributeError, TypeError, ValueError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(
            "An adapter has to fit its model to be merged into it.",
            reason=f"'{saved.path}' raised {type(error).__name__}: {error}.",
            remedy="Give an adapter of low rank, or the model that it belongs to.",
        ) from error


def save_adapter(wrapper: Any, folder: Path) -> None:
    """Write an adapter as peft's folder: ``adapter_config.json``, ``adapter_model.safetensors`` and a model card.

    ``adapter_config.json`` names the base as a hub id or an absolute path: whoever loads an adapter takes a relative
    one from the folder that the program runs in. The card, which is there to be published, has no path.
    """
    # Embeddings are not adapted; by default peft queries the hub whether their size has changed.
    wrapper.save_pretrained(folder, save_embedding_layers=False)
    base = str(wrapper.peft_config[wrapper.active_adapter].base_model_name_or_path)
    (folder / "README.md").write_text(_card(None if Path(base).is_absolute() else base), encoding="utf-8")


def _card(base: str | None) -> str:
    """Return an adapter's model card; peft's own names the base by its path and has a form to be filled in."""
    data: dict[str, Any] = {} if base is None else {"base_model": base}
    data |= {"library_name": "peft", "pipeline_tag": "image-text-to-text", "tags": ["lora", "saei"]}
    belongs = "the model that `adapter_config.json` names" if base is None else f"`{base}`"
    return f"---\n{write_yaml(data)}---\n\nA low-rank adapter of {belongs}, trained by reinforcement learning.\n"


def linear_layers(model: Any, config: LoraConfig) -> list[str]:
    """Return the names of the linear layers that get an adapter.

    Layers are searched by part, since names alone would match a vision tower's ``q_proj``, too. The output layer gets
    none: with tied embeddings it is not a layer of its own. Nor does a layer that does more than multiply, such as a
    router of experts, which peft takes for a linear layer.

    Raises:
        ModelError: If a name of ``target_modules`` is found nowhere, or there is no linear layer at all.
    """
    parts = {"language", "vision", "projector"} if config.vision else {"language"}
    part, head = anatomy(model), model.get_output_embeddings()
    candidates = [
        name
        for name, module in model.named_modules()
        if _is_linear(module) and module is not head and part[name] in parts
    ]
    wanted = config.target_modules
    unknown = [end for end in wanted or () if not any(_ends_with(name, end) for name in candidates)]
    if unknown or not candidates:
        last = sorted({name.rpartition(".")[2] for name in candidates})
        raise ModelError(
            "Each of model.lora.target_modules has to name a linear layer.",
            reason=f"Not found: {', '.join(unknown) or 'any'}. Known: {', '.join(last) or 'none'}.",
            remedy="Name some of these; with model.lora.vision=true also those of vision tower and projector.",
        )
    return [name for name in candidates if wanted is None or any(_ends_with(name, end) for end in wanted)]


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) and type(module).forward is nn.Linear.forward


class SwitchedOff:
    """A module's passes with its adapters switched off: the frozen model below them.

    Args:
        wrapper: peft's wrapper.
        module: What passes enter through.
    """

    def __init__(self, wrapper: Any, module: Any) -> None:
        self._wrapper = wrapper
        self._module = module

    def __call__(self, *arguments: Any) -> Any:
        """Return the module's result."""
        with self._wrapper.disable_adapter():
            return self._module(*arguments)

    def around(self, part: Any) -> Any:
        """Return a part of the module with the adapters in it switched off; itself if it has none."""
        if not any("lora" in name for name, _ in getattr(part, "named_parameters", list)()):
            return part

        def switched_off(*arguments: Any) -> Any:
            with self._wrapper.disable_adapter():
                return part(*arguments)

        return switched_off


def _ends_with(name: str, end: str) -> bool:
    return name == end or name.endswith(f".{end}")


def _wrap(model: Any, config: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # about peft's calls of transformers, not the user's
        return _peft().get_peft_model(model, config)


def _fill(wrapper: Any, saved: SavedAdapter) -> None:
    """Load an adapter's weights; peft itself keeps random ones where some are missing."""
    device = str(next(wrapper.parameters()).device)
    try:
        result = wrapper.load_adapter(
            saved.path, wrapper.active_adapter, is_trainable=True, torch_device=device, revision=saved.revision
        )
    except Exception as error:  # each kind of damage raises its own
        first_line = str(error).strip().partition("\n")[0]
        raise _not_filled(f"'{saved.path}' raised {type(error).__name__}: {first_line}") from error
    lacking: Mapping[str, list[str]] = {"lacks": result.missing_keys, "has no place for": result.unexpected_keys}
    for what, keys in lacking.items():
        if keys:
            raise _not_filled(f"'{saved.path}' {what} {len(keys)}, such as {keys[0]}.")


def _not_filled(reason: str) -> ModelError:
    return ModelError(
        "The weights of an adapter have to fill it.",
        reason=reason,
        remedy="Give a complete adapter whose adapter_config.json belongs to its weights.",
    )


def _peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise ModelError(
            "LoRA goes through peft.",
            reason=f"It does not import: {error}.",
            remedy="pip install 'saei[peft]'",
        ) from error
    return peft
