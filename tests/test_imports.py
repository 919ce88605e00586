"""What starting the command line costs: the modules on its path load no heavy library."""

import importlib.util
import pkgutil
import subprocess
import sys

import pytest

import saei

LIGHT = [
    "saei.errors",
    "saei.types",
    "saei.config.strategy",
    "saei.config.registry",
    "saei.config.run",
    "saei.config.explain",
    "saei.config.overrides",
    "saei.cli",
]
HEAVY = {"torch", "transformers", "accelerate", "datasets", "sklearn", "scipy", "matplotlib"}


def heavy_modules_after(code: str) -> set[str]:
    """Run code in a fresh interpreter and return the heavy modules that it left imported."""
    script = f"{code}\nimport sys\nprint('loaded:', *sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.rsplit("loaded:", 1)[1].split())


def light_modules() -> list[str]:
    """Return the modules of the start-up path, every command's file among them."""
    cli = importlib.util.find_spec("saei.cli")
    assert cli is not None
    commands = pkgutil.iter_modules(cli.submodule_search_locations or [])
    return [*LIGHT, *(f"saei.cli.{command.name}" for command in commands if command.name != "__main__")]


@pytest.mark.parametrize("module", light_modules())
def test_start_up_modules_import_no_heavy_library(module: str) -> None:
    assert heavy_modules_after(f"import {module}") == set()


def test_help_imports_no_heavy_library() -> None:
    run_help = "import sys\nfrom saei.cli import main\nsys.argv = ['saei', '--help']\n"
    caught = "try:\n    main()\nexcept SystemExit as done:\n    assert not done.code, done.code"
    assert heavy_modules_after(run_help + caught) == set()


def test_listing_strategies_imports_no_heavy_library() -> None:
    listing = "from saei.config.registry import KINDS, entries\nassert all(entries(kind) for kind in KINDS)"
    assert heavy_modules_after(listing) == set()


def test_a_heavy_import_is_noticed() -> None:
    assert "torch" in heavy_modules_after("import saei.entropy.selectors.base")
    assert saei.__version__
