"""A tiny policy of a real class with random weights, shared by the tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from commands import Saei, runner
from saei.builtin.architecture import build_image_processor, build_model
from saei.builtin.vocabulary import build_tokenizer
from saei.config.sections import SamplingConfig
from saei.data.bars import Bars
from saei.data.templates import ThinkBoxed
from saei.diagnostics.tiny import tiny_parts
from saei.diagnostics.zoo import FAMILIES
from saei.policy import Policy
from saei.policy.load.weights import Parts
from saei.types import View

torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _own_state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the user's key out of tests, and theirs out of the user's folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture
def saei(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Saei:
    """Run a command in this process."""
    return runner(monkeypatch, capsys)


@pytest.fixture(scope="session")
def random_parts() -> Parts:
    """Model parts with random weights, large enough that distributions are far from uniform."""
    tokenizer = build_tokenizer()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_model(tokenizer).eval()
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.08)
    return Parts(model, tokenizer, build_image_processor())


@pytest.fixture(scope="session")
def llava_parts() -> Parts:
    """The same of the LLaVA class: pixels as a picture, positions of one axis, a projector beside the tower."""
    return tiny_parts(FAMILIES["LLaVA"], spread=1.5)


@pytest.fixture
def random_policy(random_parts: Parts) -> Policy:
    return Policy(random_parts, ThinkBoxed(), sampling=SamplingConfig(max_new_tokens=12))


@pytest.fixture(scope="session")
def bars() -> Bars:
    return Bars()


@pytest.fixture
def views(random_policy: Policy, bars: Bars) -> list[View]:
    """The views of two examples of `bars`."""
    return [random_policy.view(bars.example(index), index) for index in range(2)]


@pytest.fixture(scope="session")
def model(random_parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder of random weights, with which no test does anything but read it."""
    folder = tmp_path_factory.mktemp("model")
    Policy(random_parts, ThinkBoxed()).save(folder)
    return folder
