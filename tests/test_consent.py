"""Reading a run's folder: whose code runs, when it takes the user's word, and what is not loaded at all."""

from __future__ import annotations

import json
import os
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from commands import Saei
from models import tiny_folder
from runs import Checksum, registered, tiny, train
from saei.config import consent, registry
from saei.errors import ConfigError, ModelError
from saei.policy import Policy
from saei.runtime.run_dir import RunDir

SELECTOR = """
from pathlib import Path
from typing import Literal
from saei.entropy.selectors.base import Selector
from saei.config.registry import register

Path(__file__).with_suffix(".ran").touch()

@register
class Stranger(Selector):
    class Config(Selector.Config):
        type: Literal["stranger"] = "stranger"

    def select(self, stats, *, progress, generator):
        return self.candidates(stats)
"""
REWARD = """
from pathlib import Path

Path(__file__).with_suffix(".ran").touch()

def reward(example, text, *, truncated):
    return float(len(text) % 2)
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder("Qwen2.5-VL", tmp_path_factory.mktemp("tiny"))


@pytest.fixture(autouse=True)
def _registry() -> Iterator[None]:
    with registered(Checksum):
        yield


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    file = tmp_path / "selector.py"
    file.write_text(SELECTOR)
    return file


def trained(model: Path, root: Path, **changes: Any) -> Path:
    return train(tiny(model, root, training__steps=1, **changes)).run.path


def forget(*files: Path) -> None:
    """Make a plugin as one that this process never imported."""
    registry._registered.pop(("selector", "stranger"), None)
    for name in [name for name in sys.modules if name.startswith("saei_file_")]:
        del sys.modules[name]
    for file in files:
        file.with_suffix(".ran").unlink(missing_ok=True)


@pytest.fixture
def another_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Go on as a user with another key."""
    return lambda: monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another"))


@pytest.fixture
def with_selector(model: Path, plugin: Path, tmp_path: Path) -> Path:
    sampler = {"type": "mixed", "n_clean": 2, "n_adversarial": 2, "intervention": {"selector": "stranger"}}
    run = trained(model, tmp_path / "runs", plugins=[str(plugin)], sampler=sampler)
    forget(plugin)
    return run


@pytest.fixture
def reward(tmp_path: Path) -> Path:
    file = tmp_path / "reward.py"
    file.write_text(REWARD)
    return file


@pytest.fixture
def with_reward(model: Path, reward: Path, tmp_path: Path) -> Path:
    run = trained(model, tmp_path / "runs", reward={"type": "function", "path": f"{reward}:reward"})
    forget(reward)
    return run


LOOK = ("--examples", "2", "--responses", "2", "--set", "sampling.max_new_tokens=4", "--json")


def test_an_evaluation_imports_no_plugin_of_the_sampler(with_selector: Path, plugin: Path, saei: Saei) -> None:
    plugin.unlink()  # as on a machine without it
    for arguments in (LOOK, ("--benchmark", "bars", *LOOK)):
        assert saei("eval", "--model", with_selector, *arguments).code == 0


def test_a_strangers_selector_does_not_run(
    with_selector: Path, plugin: Path, saei: Saei, another_user: Callable[[], None]
) -> None:
    ran = plugin.with_suffix(".ran")
    another_user()
    assert saei("eval", "--model", with_selector, *LOOK).code == 0
    assert saei("data", "preview", "--model", with_selector).code == 0
    for arguments in (
        ("doctor", with_selector),
        ("bench", "--model", with_selector),
        ("train", "--resume", with_selector),
    ):
        left = saei(*arguments)
        assert left.code == 2
        assert f"names the plugin {plugin}" in left.err
        assert "--trust" in left.err
    assert not ran.exists()
    with pytest.raises(ConfigError, match="names the plugin"):
        RunDir.open(with_selector)
    assert RunDir.open(with_selector, trust=True)[1].plugins == (str(plugin),)
    assert ran.exists()


def test_the_user_who_started_a_run_is_not_asked(with_selector: Path, plugin: Path, saei: Saei) -> None:
    moved = shutil.move(with_selector, with_selector.with_name("moved"))
    assert saei("train", "--resume", moved, "--steps", "2", "--plain").code == 0
    assert plugin.with_suffix(".ran").exists()


def test_a_strangers_reward_runs_on_the_users_word_alone(
    with_reward: Path, reward: Path, saei: Saei, another_user: Callable[[], None]
) -> None:
    ran = reward.with_suffix(".ran")
    another_user()
    for command in (("eval", "--model"), ("eval", "--benchmark", "bars", "--model"), ("data", "check", "--model")):
        left = saei(*command, with_reward)
        assert (left.code, ran.exists()) == (2, False)
        assert f'"path": "{reward}:reward"' in left.err
    left = saei("eval", "--model", with_reward, "--trust", *LOOK)
    assert (left.code, ran.exists()) == (0, True)


def test_another_reward_in_its_place_needs_no_word(
    with_reward: Path, reward: Path, saei: Saei, another_user: Callable[[], None]
) -> None:
    another_user()
    assert saei("eval", "--model", with_reward, "--set", "reward.type=accuracy-format", *LOOK).code == 0
    assert not reward.with_suffix(".ran").exists()


def test_naming_the_plugin_oneself_is_a_word(
    with_selector: Path, plugin: Path, saei: Saei, another_user: Callable[[], None]
) -> None:
    another_user()
    arguments = ("--side", "64", "--prompts", "1", "--tokens", "4")
    assert saei("doctor", with_selector, "--plugin", plugin, *arguments).code == 0


def test_a_signed_run_that_names_more_than_it_did_is_a_strangers(with_reward: Path, reward: Path, saei: Saei) -> None:
    assert saei("eval", "--model", with_reward, *LOOK).code == 0
    other = reward.with_name("other.py")
    other.write_text(REWARD)
    file = with_reward / "config.yaml"
    file.write_text(file.read_text().replace("reward.py:reward", "other.py:reward"))
    assert saei("eval", "--model", with_reward, *LOOK).code == 2
    assert not other.with_suffix(".ran").exists()


def test_a_strangers_judge_is_not_asked(
    model: Path, tmp_path: Path, saei: Saei, another_user: Callable[[], None]
) -> None:
    """Its URL and the environment variable with a key are the stranger's choice."""
    run = trained(model, tmp_path / "runs")
    file = run / "config.yaml"
    record = yaml.safe_load(file.read_text())
    judge = {"url": "http://127.0.0.1:9/v1", "model": "m", "key_variable": "AWS_SECRET_ACCESS_KEY"}
    record["config"]["reward"] = {"type": "accuracy-format", "judge": judge}
    file.write_text(yaml.safe_dump(record))
    another_user()
    left = saei("eval", "--model", run, *LOOK)
    assert left.code == 2
    assert "AWS_SECRET_ACCESS_KEY" in left.err
    assert "--trust" in left.err


def test_the_key_is_the_users_alone_and_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    config = tiny(tmp_path, tmp_path, reward={"type": "function", "path": "some.module:name"})
    first = consent.sign(config)
    assert first == consent.sign(config)
    file = tmp_path / "state" / "saei" / "key"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert os.listdir(file.parent) == ["key"]
    assert file.read_bytes() != first[0].encode()


def test_without_a_folder_for_the_key_a_run_is_not_signed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    assert consent.sign(tiny(tmp_path, tmp_path, reward={"type": "function", "path": "some.module:name"})) == []


def test_code_that_a_model_brings_does_not_run(model: Path, tmp_path: Path) -> None:
    """Said explicitly: asked at a terminal, a user might say yes."""
    folder = tmp_path / "own-code"
    shutil.copytree(model, folder)
    settings = json.loads((folder / "config.json").read_text())
    settings["model_type"] = "mine"
    settings["auto_map"] = {"AutoConfig": "mine.Config", "AutoModelForImageTextToText": "mine.Model"}
    (folder / "config.json").write_text(json.dumps(settings))
    (folder / "mine.py").write_text("from pathlib import Path\nPath(__file__).with_suffix('.ran').touch()\n")
    config = tiny(folder, tmp_path)
    with pytest.raises(ModelError, match="runs no code that a model's folder brings"):
        Policy.load(config.model, config.template.build(), sampling=config.sampling, entropy=config.entropy)
    assert not list(tmp_path.rglob("*.ran"))
