"""Consent: the code and the servers that a run's folder names are used only where this user started the run.

A run's ``config.yaml`` names Python files, modules, reward functions and judge servers. Whoever wrote the file chose
them, so reading a stranger's run could run a stranger's code. A user's own runs are recognised by a signature: an HMAC
of each such name under a key that never leaves the user's state folder. Anything without one takes ``--trust``.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from saei.config.registry import KINDS, entries
from saei.config.run import RunConfig
from saei.config.strategy import Section
from saei.errors import ConfigError

KEY_BYTES = 32


def sign(config: RunConfig) -> list[str]:
    """Return one signature for each plugin, function and server that a configuration names.

    Without a state folder that can be written nothing is signed, and the run will need ``--trust`` to be read.
    """
    names = [*map(_plugin, config.plugins), *section_names(config)]
    key = _key(create=True) if names else None
    return [] if key is None else [_signature(key, name) for name in names]


def check(names: Iterable[str], signatures: Iterable[str], *, folder: Path, trust: bool) -> None:
    """Refuse what this user has neither started nor trusted.

    Args:
        names: What would be imported or called, as ``needs_plugins`` and ``section_names`` name it.
        signatures: What the run's folder holds of ``sign``.
        folder: The run's folder.
        trust: The user trusts the folder.

    Raises:
        ConfigError: Naming what is neither.
    """
    if trust:
        return
    # As bytes, since text is compared only if it is ASCII, and a stranger may have written anything.
    key, held = _key(create=False), [str(signature).encode() for signature in signatures]
    strange = [
        name
        for name in names
        if key is None or not any(hmac.compare_digest(_signature(key, name).encode(), each) for each in held)
    ]
    if strange:
        raise ConfigError(
            "Code and servers that a run names are used only where you started the run, or say that you trust it.",
            reason=f"{folder} names {'; '.join(strange)}, and was not started by this user on this machine.",
            remedy="Read what it names. If you trust it, add --trust (from Python: trust=True).",
        )


def needs_plugins(data: Mapping[str, Any]) -> bool:
    """Return whether plain data has a strategy that nothing installed or imported registers, but a plugin may."""
    known = {entry.name for kind in KINDS for entry in entries(kind)}
    return any(name not in known for name in _types(data))


def plugin_names(plugins: Iterable[str]) -> list[str]:
    """Return plugins as ``check`` takes them."""
    return [_plugin(plugin) for plugin in plugins]


def section_names(value: object) -> list[str]:
    """Return the sections of a configuration that run a function or call a server, as ``check`` takes them."""
    return [
        f"{type(section).__qualname__} {json.dumps(section.model_dump(mode='json'), sort_keys=True)}"
        for section in _sections(value)
        if section.needs_consent
    ]


def _plugin(name: str) -> str:
    return f"the plugin {name}"


def _types(value: object) -> Iterator[str]:
    if isinstance(value, Mapping):
        if isinstance(value.get("type"), str):
            yield value["type"]
        for item in value.values():
            yield from _types(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _types(item)


def _sections(value: object) -> Iterator[Section]:
    if isinstance(value, Section):
        yield value
    if isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _sections(getattr(value, name))
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _sections(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _sections(item)


def _signature(key: bytes, name: str) -> str:
    return hmac.new(key, name.encode(), hashlib.sha256).hexdigest()


def _key(*, create: bool) -> bytes | None:
    """Return this user's key, None where there is none and none can be kept."""
    with suppress(OSError, RuntimeError):  # no home, or none that can be written
        state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
        file = Path(state) / "saei" / "key"
        if create:
            file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with suppress(FileExistsError):
                # Complete before it has its name, since another process may read it at once.
                temporary = file.with_name(f"key.{os.getpid()}")
                with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as handle:
                    handle.write(secrets.token_bytes(KEY_BYTES))
                try:
                    os.link(temporary, file)
                finally:
                    temporary.unlink()
        key = file.read_bytes()
        if len(key) == KEY_BYTES:
            return key
    return None
