"""No command ignores a ``--set``: what it does not read it refuses, before anything is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from commands import Saei
from saei.cli.reads import ASK, BENCH, DATA, DOCTOR, EVALUATION, INSPECT, QUICK_LOOK, ROBUSTNESS, Reads
from saei.errors import ConfigError

ONE_QUESTION = ("builtin", "none", "How many?")
COMMANDS = {
    "eval": ("eval",),
    "eval that is saved": ("eval", "--benchmark", "bars", "--examples", 1),
    "eval --robust": ("eval", "--robust", "--examples", 1),
    "ask": ("ask", *ONE_QUESTION),
    "inspect": ("inspect", *ONE_QUESTION[1:]),
    "data": ("data", "preview"),
    "data floor": ("data", "floor"),
    "bench": ("bench",),
    "doctor": ("doctor",),
}


@pytest.fixture
def nothing_loads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def load(*_: object, **__: object) -> None:
        pytest.fail("weights were loaded")

    monkeypatch.setattr("saei.policy.policy.load_parts", load)
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("nothing_loads")
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_refuses_what_it_does_not_read(command: str, saei: Saei) -> None:
    said = saei(*COMMANDS[command], "--set", "evaluation.examples=7")
    assert said.code == 2
    assert "sets evaluation.examples, which it does not read" in said.err


@pytest.mark.parametrize(
    ("reads", "assignment", "said"),
    [
        (QUICK_LOOK, "evaluation.examples=7", "Use --examples."),
        (QUICK_LOOK, "sampling.temperature=0.5", "Use --temperature."),
        (QUICK_LOOK, "sampling={max_new_tokens: 5, top_k: 3}", "Use --top-k."),
        (QUICK_LOOK, "output.root=elsewhere", "Leave it out."),
        (QUICK_LOOK, "attack.steps=3", "sets sampler.intervention.attack.steps"),
        (QUICK_LOOK, "evaluation={}", "sets evaluation, which"),
        (EVALUATION, "entropy.temperature=1", "sets entropy.temperature"),
        (ROBUSTNESS, "attack=fgsm", "sets sampler.intervention.attack"),
        (DATA, "training.max_bad_share=1", "sets training.max_bad_share"),
        (ASK, "attack=fgsm", "sets sampler.intervention.attack"),
        (ASK, "sampling.max_prompt_tokens=9", "sets sampling.max_prompt_tokens"),
        (INSPECT, "gate=disagreement", "sets sampler.intervention.gate"),
        (INSPECT, "sampler.n=4", "sets sampler.n"),
        (BENCH, "sampling.max_new_tokens=9", "Use --tokens."),
        (DOCTOR, "training.steps=9", "Leave it out."),
        (DOCTOR, "output.trackers=[wandb]", "sets output.trackers"),
    ],
)
def test_the_setting_is_named_and_its_option(reads: Reads, assignment: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        reads.check([assignment])
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("reads", "assignment"),
    [
        (QUICK_LOOK, "reward=accuracy"),
        (QUICK_LOOK, "task={type: bars}"),
        (QUICK_LOOK, "plugins=[mine.py]"),
        (EVALUATION, "output.root=elsewhere"),
        (ROBUSTNESS, "entropy.temperature=1"),
        (ASK, "sampling.temperature=0.5"),
        (INSPECT, "sampler=noisy"),
        (INSPECT, "attack={type: pgd, steps: 3}"),
        (INSPECT, "strength.start=0.5"),
        (BENCH, "advantage.baseline=per-origin"),
        (DOCTOR, "sampling.max_new_tokens=9"),
    ],
)
def test_what_is_read_is_accepted(reads: Reads, assignment: str) -> None:
    reads.check([assignment])
