"""The page that leads from an empty folder to a training run is followed to the letter."""

from __future__ import annotations

import os
import re
import subprocess
import sysconfig
import venv
from pathlib import Path

import pytest

from saei.config.registry import KINDS
from saei.runtime.run_dir import RunDir

PAGE = (Path(__file__).parents[1] / "docs" / "extending" / "index.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(bash|diff)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
OFFLINE = "--no-index --no-deps --no-build-isolation"


@pytest.fixture
def shell(tmp_path: Path) -> dict[str, str]:
    """The variables of a shell in an environment of its own, which also sees the packages of this one."""
    folder = tmp_path / "venv"
    venv.create(folder, symlinks=True, with_pip=False)
    (site,) = folder.glob("lib/python*/site-packages")
    # addsitedir, not a plain path: the editable saei is itself a .pth file over there.
    (site / "development.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    for command, module in (("saei", "saei.cli"), ("pytest", "pytest"), ("pip", "pip")):
        script = folder / "bin" / command
        script.write_text(f'#!/bin/sh\nexec "{folder}/bin/python" -m {module} "$@"\n')
        script.chmod(0o755)
    return os.environ | {"PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"}


def run(command: str, shell: dict[str, str], folder: Path, **options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-euc", command], env=shell, cwd=folder, capture_output=True, text=True, check=False, **options
    )


@pytest.mark.slow
def test_the_steps_of_the_page_lead_from_an_empty_folder_to_a_run(tmp_path: Path, shell: dict[str, str]) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    kinds = [kind for kind, _ in BLOCKS]
    assert kinds == ["bash", "diff", "bash", "bash"]
    for kind, text in BLOCKS:
        if kind == "diff":
            done = run("patch -p0", shell, folder, input=text)
        else:
            done = run(text.replace("pip install", f"pip install {OFFLINE}"), shell, folder)
        assert done.returncode == 0, (text, done.stdout, done.stderr)
    (run_folder,) = (folder / "runs").iterdir()
    record, _ = RunDir(run_folder).read()
    assert record["sampler"]["intervention"]["selector"]["type"] == "lab/every-other"
    assert len((run_folder / "metrics.jsonl").read_text().splitlines()) >= 3
    listed = run("saei list selector", shell, folder)
    assert re.search(r"lab/every-other +lab\b", listed.stdout)
    assert re.search(r"distribution: lab\n +version: 0\.1\.0", (run_folder / "config.yaml").read_text())

    class_file = folder / "lab/src/lab/every_other.py"
    wrong = re.search(r"columns from the end, `(.*?)` in place\s+of `rank_NT`", PAGE)
    assert wrong
    class_file.write_text(re.sub(r"rank_NT = .*", f"rank_NT = {wrong[1]}", class_file.read_text()))
    checked = run("saei check ./lab", shell, folder)
    assert checked.returncode == 1
    said = re.search(r"```text\n(lab/every-other: .*)\n```", PAGE)
    assert said
    assert said[1] in checked.stderr


def test_the_page_names_every_kind_with_its_group() -> None:
    rows = re.findall(r"^\| \[(\w+)\]\((\w+)\.md\) \| .* \| `(.*)` \|$", PAGE, re.MULTILINE)
    assert {kind: group for kind, page, group in rows if kind == page} == dict(KINDS)
