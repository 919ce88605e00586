"""``saei bench`` at its smallest sizes; no test looks at a time."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

from commands import Saei
from saei.config.run import RunConfig
from saei.diagnostics.bench import ATTACK, RATIOS, SCORE, SHARED, Sizes, bench, shared_prefix
from saei.diagnostics.bench_update import OTHER as UPDATE
from saei.diagnostics.bench_update import PLAIN as PLAIN_UPDATE
from saei.diagnostics.cost import peak_growth, ratio
from saei.diagnostics.synthetic import NoiseTask
from saei.errors import ConfigError

CPU = torch.device("cpu")
SMALL = ["--side", "64", "--prompts", "1", "--responses", "4", "--tokens", "5", "--rounds", "1"]


def test_the_command_measures_every_way() -> None:
    command = [sys.executable, "-m", "saei.cli", "bench", *SMALL, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["image_tokens"], found["responses"], found["tokens"], found["prompts"]) == (16, 4, 5, 1)
    assert found["ratios"].keys() == RATIOS.keys()
    assert found["seconds"].keys() == found["peak_bytes"].keys() == {name for pair in RATIOS.values() for name in pair}
    if sys.platform == "linux":
        assert all(found["peak_bytes"].values())


def test_without_a_shared_prefix_there_is_nothing_to_compare(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saei.diagnostics.bench.peak_growth", lambda way, device: None)
    monkeypatch.setattr("saei.diagnostics.bench.retain_freed_memory", lambda: True)
    config = RunConfig.model_validate({"model": {"shared_prefix": False, "device": "cpu", "threads": 1}})
    found = bench(config, Sizes(side=64, prompts=1, responses=2, tokens=3, rounds=1))
    assert {ATTACK, SHARED}.isdisjoint(found["seconds"])
    assert SCORE in found["seconds"]
    assert found["ratios"].keys() == {"saei_step_over_plain_step"}


def test_a_sampler_without_intervention_is_refused() -> None:
    with pytest.raises(ConfigError, match="sampler is 'clean'"):
        bench(RunConfig.model_validate({"sampler": "clean"}), Sizes())


def test_the_update_of_an_objective_is_measured_against_plain_grpo(saei: Saei) -> None:
    small = [*SMALL, "--set", "model.device=cpu"]
    table = saei("bench", *small, "--objective", "sapo").out
    assert "update, the objective / update, plain GRPO" in table
    assert "objective 'sapo' acts only with several updates per batch" in " ".join(table.split())
    several = ["--prompts", "2", "--set", "training.updates_per_batch=2"]
    found = json.loads(saei("bench", *small, *several, "--objective", "sapo", "--json").out)
    assert (found["responses"], found["tokens"], found["updates_per_batch"]) == (4, 5, 2)
    assert found["seconds"].keys() == found["passes"].keys() == {UPDATE, PLAIN_UPDATE}
    assert list(found["ratios"]) == ["update_over_plain_update"]
    # Once with a gradient in each update, and before both for each group of the old policy, which does it for sapo.
    assert found["passes"] == {PLAIN_UPDATE: 4, UPDATE: 4}
    assert found["idle"] == []


@pytest.mark.parametrize(
    ("settings", "more"),
    [
        (["objective.weights=[steer]"], 0),  # its values are those of the sampling pass
        (["objective.weights=[vppo]"], 1),  # its two pictures in one pass
        (["objective.terms=[papo]"], 1),
        (["sampler=noisy", "objective.advantage=vogue"], 2),  # under the moved view and the clean one
    ],
)
def test_passes_are_counted(settings: list[str], more: int, saei: Saei) -> None:
    words = [word for each in settings for word in ("--set", each)]
    found = json.loads(saei("bench", *SMALL, "--objective", "grpo", *words, "--json").out)
    assert found["passes"][UPDATE] - found["passes"][PLAIN_UPDATE] == more


def test_a_ratio_is_the_median_of_the_rounds_ratios() -> None:
    assert ratio([2.0, 8.0, 9.0], [1.0, 2.0, 9.0]) == 2.0  # the ratio of the medians is 4


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_peak_growth_is_that_of_one_call() -> None:
    size = 64 * 2**20
    grown = peak_growth(lambda: torch.ones(size // 4), CPU)
    assert grown is not None
    assert size < grown < 1.25 * size
    assert peak_growth(lambda: 1 / 0, CPU) is None


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_peak_growth_forgets_what_was_used_and_freed_before() -> None:
    kept = "from saei.diagnostics.cost import retain_freed_memory, peak_growth; import torch; retain_freed_memory(); "
    before = "[torch.ones(2**20) for _ in range(100)]; "
    measure = "print(peak_growth(lambda: torch.ones(2**22), torch.device('cpu')))"
    done = subprocess.run([sys.executable, "-c", kept + before + measure], capture_output=True, text=True, check=True)
    assert 16e6 < int(done.stdout) < 40e6


def test_noise_is_pure_and_of_its_size() -> None:
    task = NoiseTask(NoiseTask.Config(side=8))
    first, again, other, held_out = task.example(0), task.example(0), task.example(1), task.example(0, "eval")
    assert first.images[0].size == (8, 8)
    assert first.images[0].tobytes() == again.images[0].tobytes()
    assert len({one.images[0].tobytes() for one in (first, other, held_out)}) == 3


def test_the_policy_gets_its_way_of_scoring_back() -> None:
    class Policy:
        shared_prefix = True

    policy = Policy()
    seen = []
    for before in (True, False):
        policy.shared_prefix = before
        with shared_prefix(policy, False):  # type: ignore[arg-type]
            seen.append(policy.shared_prefix)
        seen.append(policy.shared_prefix)
    assert seen == [False, True, False, False]
