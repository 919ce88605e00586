"""Safe file names for any text, files that are written whole or not at all, and errors of the disk."""

from __future__ import annotations

import hashlib
import json
import os
import re
import unicodedata
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from saei.errors import CheckpointError, ConfigError

RESERVED = re.compile(r"con|prn|aux|nul|com\d|lpt\d")
"""Names of devices on Windows, whatever the extension."""


def slug(text: str, width: int = 64) -> str:
    """Return a file name for any text: readable, safe on every file system, and different for different texts.

    A text of lower-case ASCII letters, digits, ``.``, ``_`` and ``-`` stays as it is. Any other loses its unsafe
    characters and gets the first 12 hex digits of its SHA-256 at its end. Case alone does not make names different,
    since some file systems ignore it.

    Args:
        text: Any text, such as the id of an example.
        width: Longest name, at least 16 characters.
    """
    safe = safe_name(text, 4 * width)
    stem = safe.lower().partition(".")[0]
    if (
        safe == text == text.lower()
        and 0 < len(safe) <= width
        and not RESERVED.fullmatch(stem)
        and not re.search(r"(^|-)[0-9a-f]{12}$", safe)  # it would look like a name with a digest
    ):
        return safe
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    return f"{safe[: width - 13].rstrip('-._')}-{digest}".lstrip("-")


def safe_name(text: str, width: int = 100) -> str:
    """Return the part of a text that is safe in a file name, for names that are unique by another part."""
    plain = unicodedata.normalize("NFKD", text[:width]).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9._-]+", "-", plain).strip("-._")[:width]


def write_whole(file: Path, content: str | bytes) -> None:
    """Write a file so that others see the old content or the new one, never a part.

    Raises:
        OSError: If the disk refuses; nothing is left beside the old file.
    """
    with replacing(file) as temporary:
        temporary.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """Yield the path of a file to write, which takes the place of ``file`` at the end and vanishes after an error."""
    # The name is unique, since two processes may write the same picture. It keeps the suffix, from which libraries
    # choose a format.
    temporary = file.with_name(f".{uuid.uuid4().hex}{file.suffix}")
    try:
        yield temporary
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def disk_errors(rule: str, path: Path, remedy: str) -> Iterator[None]:
    """Turn what the operating system refuses inside into an error with rule, reason and remedy.

    Raises:
        CheckpointError: For a disk that is full, a folder that is gone or not writable.
    """
    try:
        yield
    except OSError as error:
        reason = f"{path}: {error.strerror or error}."
        raise CheckpointError(rule, reason=reason, remedy=remedy) from error


def json_lines(content: bytes) -> Iterator[tuple[bytes, dict[str, Any] | None]]:
    """Yield each line that is not empty with the mapping that it holds, None for a line that is not a JSON mapping.

    Bytes are split, not text: a character may be cut off, and text has further line ends.
    """
    for line in content.split(b"\n"):
        if line.strip():
            try:
                value = json.loads(line)
            except (ValueError, RecursionError):  # cut off, overwritten, or brackets without end
                value = None
            yield line, value if isinstance(value, dict) else None


def read_jsonl(file: Path) -> list[dict[str, Any]]:
    """Return the lines of a file, none if it does not exist.

    Broken lines are left out, such as a last line that was cut off when its process died.
    """
    content = file.read_bytes() if file.exists() else b""
    return [value for _, value in json_lines(content) if value is not None]


def lines_from_end(file: Path, block: int = 1 << 16) -> Iterator[bytes]:
    """Yield the lines of a file from the last to the first, without their line feeds; none if there is no such file.

    The file is read in blocks from its end, so that the last lines of a long one cost little.
    """
    try:
        opened = file.open("rb")
    except FileNotFoundError:
        return
    with opened:
        place, rest = opened.seek(0, os.SEEK_END), b""
        while place:
            size = min(block, place)
            place = opened.seek(place - size)
            first, *lines = (opened.read(size) + rest).split(b"\n")
            yield from reversed(lines)
            rest = first
        yield rest


def check_folder(folder: Path) -> None:
    """Refuse a folder that cannot be written or made, without making it.

    Raises:
        ConfigError: Naming the folder or file that prevents it.
    """
    existing = next(place for place in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(place))
    if not existing.is_dir():
        reason = f"{existing} is not a folder"
    elif not os.access(existing, os.W_OK | os.X_OK):
        reason = f"{existing} cannot be written"
    else:
        return
    raise ConfigError(
        "Results are written into a folder.", reason=f"{reason}.", remedy="Give another --output, or set output.root."
    )
