"""Where the files of studies are."""

from __future__ import annotations

from pathlib import Path

from saei.errors import ConfigError, nearest, shown

SHIPPED = Path(__file__).parent / "shipped"
"""Studies that come with saei."""

TEMPLATE = Path(__file__).parent / "template.yaml"
"""What `saei study new` writes, with a name in place of ``NAME``."""


FILES = (".yaml", ".yml")


def shipped() -> dict[str, Path]:
    """Return the files of the studies that come with saei, by name."""
    return {file.stem: file for file in sorted(SHIPPED.glob("*.yaml"), key=lambda file: file.stem)}


def is_study(name: str) -> bool:
    """Return whether a name is that of a shipped study, or of a YAML file."""
    return name in shipped() or Path(name).suffix in FILES


def find(name: str) -> Path:
    """Return the file of a study.

    Args:
        name: Of a shipped study, or the path of a YAML file.

    Raises:
        ConfigError: If there is neither.
    """
    if name in shipped():
        return shipped()[name]
    file = Path(name).expanduser()
    if file.suffix in FILES:
        return file
    raise ConfigError(
        "A study is one that comes with saei, or a YAML file.",
        reason=f"There is no study '{shown(name)}'. {nearest(name, shipped())}",
        remedy="`saei study new NAME` writes a file to begin with.",
    )
