"""Where a model is: a folder, a hub's id or its local cache, and for an adapter the model that it belongs to."""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import Path

from saei.config.sections import BUILTIN, BUILTIN_LOCK_IN, BUILTIN_MAZE, ModelConfig
from saei.data.hub import hub_answers
from saei.errors import ModelError, nearest, shown
from saei.policy.load.adapters import SavedAdapter, saved_adapter

BUILTIN_FOLDERS = {BUILTIN: "tiny", BUILTIN_LOCK_IN: "tiny_lock_in", BUILTIN_MAZE: "tiny_maze"}
"""Folders of the models that ship with the package, below ``saei/builtin``."""


def model_path(config: ModelConfig) -> str:
    """Return the folder or hub id of a model, built-in ones resolved."""
    folder = BUILTIN_FOLDERS.get(config.path)
    return config.path if folder is None else str(files("saei") / "builtin" / folder)


def locate(config: ModelConfig) -> tuple[ModelConfig, str, SavedAdapter | None]:
    """Return the model itself with its folder or hub id, and the adapter if the configuration names one.

    Raises:
        ModelError: If there is no such model, or it has no such revision.
    """
    path = _reachable(config)
    if config.revision is not None and Path(model_path(config)).expanduser().is_dir():
        raise ModelError(
            "A revision is one of a hub's model.",
            reason=f"model.revision is '{config.revision}', and '{config.path}' is on this machine.",
            remedy="Leave model.revision out, or set it to null.",
        )
    saved = saved_adapter(path, config.revision)
    if saved is None:
        return config, path, None
    base = config.model_copy(update={"path": saved.base, "revision": saved.base_revision})
    base_path = _base_of(saved, base)
    if saved_adapter(base_path, base.revision) is not None:
        raise ModelError(
            "An adapter belongs to a model, not to another adapter.",
            reason=f"{saved.path}/adapter_config.json names '{saved.base}', which is one itself.",
            remedy="Merge that one into its model with peft's merge_and_unload, save the model, and name it there.",
        )
    return base, base_path, saved


def has_weights(config: ModelConfig) -> bool:
    """Return whether a model's weights are on this machine: in its folder, or in the hub's local cache.

    Raises:
        ModelError: If there is no such model.
    """
    from huggingface_hub import try_to_load_from_cache

    path = _reachable(config)
    if Path(path).is_dir():
        return any(file.suffix in (".safetensors", ".bin") for file in Path(path).iterdir())
    names = ("model.safetensors", "model.safetensors.index.json", "adapter_model.safetensors")
    return any(isinstance(try_to_load_from_cache(path, name, revision=config.revision), str) for name in names)


def _reachable(config: ModelConfig) -> str:
    """Return a folder, or a hub id if the hub answers; without it, the folder of the hub's local cache.

    Asked first, because transformers retries each file of a hub out of reach for a quarter of a minute.

    Raises:
        ModelError: If it is none of these.
    """
    from huggingface_hub import try_to_load_from_cache

    path = os.path.expanduser(model_path(config))
    if os.path.isdir(path):
        return path
    if path.startswith(("/", ".")) or path.count("/") > 1:
        raise _not_found(config, "there is no such folder")
    _check_id(config, path)
    if hub_answers():
        return path
    cached = try_to_load_from_cache(path, "config.json", revision=config.revision)
    if not isinstance(cached, str):
        raise _not_found(config, "there is no such folder, and the hub cannot be reached for a model of that id")
    return str(Path(cached).parent)


def _check_id(config: ModelConfig, path: str) -> None:
    """Refuse what can be no hub's id, before the hub's library does so in its own words.

    Raises:
        ModelError: With the nearest built-in model where one was meant.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # public, but not declared so

    if path.partition(":")[0] == BUILTIN:
        raise ModelError(
            "model.path has to name a model.",
            reason=f"There is no built-in model '{shown(config.path)}'.",
            remedy=nearest(path, BUILTIN_FOLDERS),
        )
    try:
        validate_repo_id(path)
    except HFValidationError as error:
        raise _not_found(config, "there is no such folder, and no hub has an id like that") from error


def _base_of(saved: SavedAdapter, config: ModelConfig) -> str:
    try:
        return _reachable(config)
    except ModelError as error:
        raise ModelError(
            "An adapter needs the model that it belongs to.",
            reason=error.reason,
            remedy=f"Correct base_model_name_or_path in {saved.path}/adapter_config.json.",
        ) from error


def _not_found(config: ModelConfig, reason: str) -> ModelError:
    return ModelError(
        "model.path has to name a model.",
        reason=f"'{config.path}': {reason}.",
        remedy="Give `builtin`, a folder written by save_pretrained, or the id of a hub that can be reached.",
    )
