"""A third party's package with one strategy, its contract and a case worked by hand.

The files are templates beside this module, in which ``string.Template`` fills in the names: ``strategies/KIND`` is the
class, ``tests/KIND`` its test. Each is a strategy that works as it is, so that its author changes one thing at a time.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from string import Template
from typing import Self

from saei.config.registry import KINDS, entries
from saei.errors import ConfigError, nearest, shown

LONGEST = 45
LONGEST_NAME = 24
"""Characters of ``package/name`` and of the name alone; with more, lines of the files would be longer than 120."""

USES: Mapping[str, str] = {
    "selector": "saei train --selector {name}",
    "statistic": 'saei show {name}        # a strategy asks for it by Need("{name}")',
    "attack": "saei train --attack {name}",
    "sampler": "saei train --sampler {name}",
    "criterion": "saei train --set criterion={name}",
    "control": "saei train --set intervention.control={name}",
    "decoder": "saei train --set decoder={name}",
    "objective": "saei train --objective {name}",
    "advantage": "saei train --set advantage={name}",
    "weight": "saei train --set 'objective.weights=[{name}]'",
    "term": "saei train --set 'objective.terms=[{name}]'",
    "strength": "saei train --set strength={name}",
    "gate": "saei train --set gate={name}",
    "guard": "saei train --set guard={name}",
    "surface": "saei train --set 'intervention.surfaces=[{name}]'",
    "reward": "saei train --set reward={name}",
    "task": "saei train --task {name}",
    "template": "saei train --set template={name}",
}
"""The command that uses a strategy of a kind."""

_NAME = re.compile(r"([a-z][a-z0-9]*(?:-[a-z0-9]+)*/)?[a-z][a-z0-9]*(?:-[a-z0-9]+)*")


@dataclass(frozen=True, slots=True)
class NewPackage:
    """The names of a package and of its strategy.

    Attributes:
        kind: Of the strategy.
        package: The distribution: ``lab``.
        name: The strategy, as it is configured: ``lab/every-other``.

    Example:
        ``NewPackage.of("selector", "lab/every-other")`` has the class ``lab.every_other:EveryOther``;
        ``NewPackage.of("selector", "every-other")`` the package ``saei-every-other``.
    """

    kind: str
    package: str
    name: str

    @classmethod
    def of(cls, kind: str, name: str) -> Self:
        """Return the package for a strategy, if nothing else has its names.

        Args:
            kind: Of the strategy.
            name: ``package/name``, or a name alone, whose package is then ``saei-name``.

        Raises:
            ConfigError: If there is no such kind, or a name is no name or taken.
        """
        if kind not in USES:
            raise ConfigError(f"'{shown(kind)}' is not a kind of strategy.", remedy=nearest(kind, USES))
        if not _NAME.fullmatch(name):
            raise ConfigError(
                "A new strategy is named package/name, in small letters, digits and hyphens.",
                reason=f"Got '{shown(name)}'.",
                remedy=f"For example `saei new {kind} lab/sharp`, or `saei new {kind} sharp`.",
            )
        package, _, short = name.rpartition("/")
        package = package or f"saei-{short}"
        made = cls(kind, package, f"{package}/{short}")
        made._check()
        return made

    @property
    def module(self) -> str:
        """The package that Python imports: ``lab``."""
        return self.package.replace("-", "_")

    @property
    def file(self) -> str:
        """The module of the strategy: ``every_other``."""
        return self.name.rpartition("/")[2].replace("-", "_")

    @property
    def class_name(self) -> str:
        """The class: ``EveryOther``; with its kind behind it where the files use that word for something else."""
        word = "".join(part.capitalize() for part in self.file.split("_"))
        texts = [_text("strategies", f"{self.kind}.py.txt"), _text("tests", f"{self.kind}.py.txt")]
        taken = keyword.iskeyword(word) or any(re.search(rf"\b{word}\b", text) for text in texts)
        return word + self.kind.capitalize() if taken else word

    @property
    def use(self) -> str:
        """The command that uses the strategy."""
        return USES[self.kind].format(name=self.name)

    def files(self) -> dict[str, str]:
        """Return the text of each file by its path in the package's folder."""
        names = {
            "kind": self.kind,
            "group": KINDS[self.kind],
            "package": self.package,
            "module": self.module,
            "file": self.file,
            "name": self.name,
            "Class": self.class_name,
            "use": self.use,
        }
        templates = {
            "pyproject.toml": _text("pyproject.toml.txt"),
            "README.md": _text("README.md.txt"),
            f"src/{self.module}/__init__.py": _text("__init__.py.txt"),
            f"src/{self.module}/{self.file}.py": _text("strategies", f"{self.kind}.py.txt"),
            f"tests/test_{self.file}.py": _text("tests", f"{self.kind}.py.txt"),
        }
        return {path: Template(text).substitute(names) for path, text in templates.items()}

    def _check(self) -> None:
        if len(self.name) > LONGEST or len(self.file) > LONGEST_NAME:
            raise ConfigError(
                f"A name has at most {LONGEST_NAME} characters, and {LONGEST} with its package and the stroke.",
                reason=f"'{shown(self.name, 2 * LONGEST)}' has {len(self.file)} and {len(self.name)}.",
                remedy="Shorten it; a name without a package stands twice: saei-name/name.",
            )
        for word in (self.module, self.file):
            if keyword.iskeyword(word):
                raise ConfigError(
                    "Python has to be able to import the package and its files.",
                    reason=f"'{word}' is a word of the language.",
                    remedy="Choose another name.",
                )
        if find_spec(self.module) is not None:
            raise ConfigError(
                "A new package has a name of its own.",
                reason=f"There is a module '{self.module}' here already.",
                remedy="Choose another name before the stroke. If that package is yours, add a file and a line of its "
                "pyproject.toml to it.",
            )
        for entry in entries(self.kind):
            if entry.name == self.name:
                raise ConfigError(
                    f"A {self.kind} name belongs to one class.",
                    reason=f"'{self.name}' is {entry.target} of {entry.origin}.",
                    remedy="Choose another name.",
                )


def write(package: NewPackage, folder: Path) -> list[Path]:
    """Write a package into a new folder and return its files.

    Raises:
        ConfigError: If the folder exists or cannot be written.
    """
    try:
        folder.mkdir(parents=True)
        paths = []
        for name, text in package.files().items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            paths.append(path)
    except FileExistsError as error:
        raise ConfigError(
            "A new package gets a new folder.", reason=f"{folder} exists.", remedy="Give another one with --into."
        ) from error
    except OSError as error:
        raise ConfigError(
            "A new package gets a new folder.",
            reason=f"{error.filename or folder}: {error.strerror}.",
            remedy="Give another one with --into.",
        ) from error
    return paths


def _text(*path: str) -> str:
    return files("saei.scaffold").joinpath(*path).read_text(encoding="utf-8")
