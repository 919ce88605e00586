"""A real vLLM inside TRL's trainer: one engine for all tests, around a tiny model that vLLM knows.

Run by ``make test-vllm``, in an environment of its own. The folder's name is not ``vllm``: beside the other tests it
would be found as the package.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# vLLM reads these when it is imported: one process, whose weights can be reached, and a small cache.
os.environ |= {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "TRL_EXPERIMENTAL_SILENCE": "1",
}

import pytest
from colocated import FIGURES, Engine
from tiny_qwen import save_tiny_qwen

from saei.config.run import RunConfig
from saei.types import Group


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model's folder."""
    folder = tmp_path_factory.mktemp("qwen")
    save_tiny_qwen(folder)
    return folder


@pytest.fixture(scope="session")
def shared_run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The one run, and in it the one engine."""
    import vllm._custom_ops as ops

    ops._supports_onednn = False  # oneDNN packs float32 weights on a CPU, and what is packed takes no update

    from saei.integrations.trl.run import TRLRun

    config = RunConfig.model_validate(
        {
            "model": {"path": str(folder), "device": "cpu", "threads": 1},
            "sampler": {"type": "mixed", "n_clean": 2, "n_adversarial": 2},
            "sampling": {"max_new_tokens": 24},
            "training": {"steps": 2, "prompts_per_step": 2},
            "optimizer": {"lr": 1e-2},
            "output": {"root": str(tmp_path_factory.mktemp("runs")), "name": "run"},
        }
    )
    extra = {"use_vllm": True, "vllm_mode": "colocate", "vllm_max_model_length": 256}
    return TRLRun(config, {**extra, "disable_tqdm": True, "gradient_checkpointing": False})


@pytest.fixture
def engine(shared_run: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """The engine with the weights that it began with, watched."""
    trainer = shared_run.trainer
    engine = Engine(trainer, [], [])
    sample, generate = trainer._sampler.draw, trainer.vllm_generation.llm.generate

    def watched_draw(views: Any, ctx: Any) -> list[Group]:
        groups = sample(views, ctx)
        engine.groups.extend(groups)
        return groups

    def watched_generate(*args: Any, **kwargs: Any) -> Any:
        outputs = generate(*args, **kwargs)
        engine.prompts.extend(list(output.prompt_token_ids) for output in outputs)
        return outputs

    monkeypatch.setattr(trainer._sampler, "draw", watched_draw)
    monkeypatch.setattr(trainer.vllm_generation.llm, "generate", watched_generate)
    monkeypatch.setattr(trainer.state, "global_step", 0)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer._last_loaded_step = -1
    yield engine
    trainer.model.load_state_dict(before)
    trainer._last_loaded_step = -1


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the figures."""
    terminalreporter.section("figures")
    for name, figure in FIGURES.items():
        terminalreporter.write_line(f"{name}: {figure}")
