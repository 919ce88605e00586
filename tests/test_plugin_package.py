"""Third-party packages, really installed: found, loaded, checked; doubled and broken ones say so."""

import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import pytest

pytestmark = pytest.mark.slow

PLUGIN = Path(__file__).parent / "plugin_package"


class Environment:
    """A virtual environment of its own that also sees the packages of the one that the tests run in."""

    def __init__(self, path: Path) -> None:
        venv.create(path, symlinks=True)
        self.python = path / "bin" / "python"
        (site,) = path.glob("lib/python*/site-packages")
        # addsitedir, not a plain path: the editable saei is itself a .pth file over there.
        development = sysconfig.get_path("purelib")
        (site / "development.pth").write_text(f"import site; site.addsitedir({development!r})\n")

    def install(self, package: Path) -> None:
        pip = [sys.executable, "-m", "pip", "--python", str(self.python), "install", "-qq", "--no-index"]
        subprocess.run([*pip, "--no-deps", "--no-build-isolation", str(package)], check=True)

    def run(self, code: str) -> str:
        done = subprocess.run([self.python, "-c", dedent(code)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment with the example plugin."""
    environment = Environment(tmp_path_factory.mktemp("plugin") / "venv")
    environment.install(PLUGIN)
    return environment


@pytest.fixture
def package(tmp_path: Path) -> Callable[[str, str, str], Path]:
    """Write a package of one module that claims one name of a selector."""

    def write(distribution: str, name: str, module_text: str) -> Path:
        folder, module = tmp_path / distribution, distribution.replace("-", "_")
        folder.mkdir()
        (folder / f"{module}.py").write_text(module_text)
        (folder / "pyproject.toml").write_text(
            dedent(f"""
            [build-system]
            requires = ["hatchling"]
            build-backend = "hatchling.build"

            [project]
            name = "{distribution}"
            version = "1.0.0"

            [project.entry-points."saei.selectors"]
            "{name}" = "{module}:Selector"

            [tool.hatch.build.targets.wheel]
            only-include = ["{module}.py"]
            """)
        )
        return folder

    return write


def test_installed_plugin_is_listed_without_importing_it(environment: Environment) -> None:
    listed = environment.run("""
        import sys
        from saei.config.registry import entries
        for kind in ("selector", "attack"):
            print(*(f"{entry.origin} {entry.name}" for entry in entries(kind)), sep="\\n")
        assert not {"torch", "saei_example_plugin"} & set(sys.modules)
    """)
    assert {
        "saei middle-third",
        "saei-example-plugin example/every-other",
        "saei pgd",
        "saei-example-plugin example/brighten",
    } <= set(listed.splitlines())


def test_installed_plugin_fits_the_configuration(environment: Environment) -> None:
    dumped = environment.run("""
        from saei.config.run import dump, validate
        selector = {"type": "example/every-other", "first": 1}
        config = validate({"sampler": {"intervention": {"selector": selector, "attack": "example/brighten"}}})
        assert validate(dump(config)) == config
        print(dump(config)["sampler"]["intervention"]["selector"]["first"], config.sampler.intervention.attack.step)
    """)
    assert dumped.split() == ["1", "2/255"]


def test_installed_plugin_keeps_the_contract(environment: Environment) -> None:
    environment.run("""
        from saei.config.registry import load
        from saei.testing import check_attack, check_selector
        check_selector(load("selector", "example/every-other")())
        check_attack(load("attack", "example/brighten")())
    """)


def test_two_distributions_that_claim_one_name_are_both_named(
    tmp_path: Path, package: Callable[[str, str, str], Path]
) -> None:
    environment = Environment(tmp_path / "venv")
    environment.install(PLUGIN)
    environment.install(package("saei-rival-plugin", "example/every-other", ""))
    message = environment.run("""
        from saei.errors import ConfigError
        from saei.config.registry import entries
        try:
            entries("selector")
        except ConfigError as error:
            print(error)
    """)
    assert "'example/every-other' is claimed by saei-example-plugin and saei-rival-plugin" in message


def test_broken_plugin_raises_from_its_cause(tmp_path: Path, package: Callable[[str, str, str], Path]) -> None:
    environment = Environment(tmp_path / "venv")
    environment.install(package("saei-broken-plugin", "broken/one", "import there_is_no_such_module"))
    message = environment.run("""
        from saei.errors import PluginLoadError
        from saei.config.registry import entries, load
        assert "broken/one" in {entry.name for entry in entries("selector")}
        try:
            load("selector", "broken/one")
        except PluginLoadError as error:
            print(error, repr(error.__cause__), sep="\\n")
    """)
    assert "saei_broken_plugin:Selector of saei-broken-plugin: " in message
    assert "line 1: ModuleNotFoundError" in message
    assert message.splitlines()[-1] == """ModuleNotFoundError("No module named 'there_is_no_such_module'")"""
