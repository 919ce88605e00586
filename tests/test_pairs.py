"""Every rival of the update under every sampler: it trains two steps and resumes exactly, or is refused for a reason.

`make pairs` runs them all; otherwise a twelfth of them runs, chosen by a seed.
"""

from __future__ import annotations

import os
import random
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

from models import tiny_folder
from runs import Checksum, lines, registered, tiny, train
from saei.config.registry import entries
from saei.errors import ConfigError
from saei.runtime.run_dir import RunDir

pytestmark = pytest.mark.slow

KINDS = {"objective": "type", "advantage": "advantage", "weight": "weights", "term": "terms"}
"""The kinds of rivals, and the field of ``objective`` that names one."""

NO_RIVALS = {
    "objective grpo", "objective dr-grpo", "objective dapo", "objective gspo", "advantage group-relative",
    "weight selected", "term kl", "term entropy-bonus",
}  # fmt: skip
"""What rivals are compared with, or are added to."""

FIELDS: dict[str, Any] = {
    "term adaptive-entropy": {"target": 20.0},  # below it, and so at work
    "term clamped-entropy": {"low": 0.0, "high": 0.01},
    "term roma": {"views": ["blur", "gaussian-noise"]},
}

RIVALS = [
    f"{kind} {entry.name}"
    for kind in KINDS
    for entry in entries(kind)
    if entry.origin == "saei" and f"{kind} {entry.name}" not in NO_RIVALS
]

HALVES = {"n_clean": 2, "n_adversarial": 2}
SAMPLERS: dict[str, Any] = {
    "clean": {"n": 4},
    "mixed": HALVES,
    "noisy": HALVES,
    "dynamic": {"of": {"type": "mixed", **HALVES}, "max_rounds": 2},
    "branch": {"n": 2},
}

NO_MOVED_VIEW = "looks at responses to noisy or otherwise moved pictures"
REFUSED = {
    (f"advantage {name}", sampler): NO_MOVED_VIEW for name in ("trust", "vogue") for sampler in ("clean", "branch")
}
"""What makes no sense together, and words of the reason."""

ALL = [*product(RIVALS, SAMPLERS)]
SOME = random.Random(13).sample(ALL, -(-len(ALL) // 12))
PAIRS = ALL if os.environ.get("SAEI_PAIRS") == "all" else SOME


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder("Qwen2.5-VL", tmp_path_factory.mktemp("model"))


@pytest.fixture(autouse=True)
def _reward() -> Any:
    with registered(Checksum):
        yield


def objective(rival: str) -> dict[str, Any]:
    kind, name = rival.split()
    part = {"type": name, **FIELDS.get(rival, {})}
    if kind == "objective":
        return part
    return {"type": "grpo", KINDS[kind]: part if kind == "advantage" else [part]}


def test_what_is_refused_is_a_pair() -> None:
    assert set(REFUSED) <= set(ALL)
    assert len({rival for rival, _ in ALL}) == 22


@pytest.mark.parametrize(("rival", "sampler"), PAIRS, ids=lambda part: part.replace(" ", "-"))
def test_a_pair_trains_and_resumes_exactly(rival: str, sampler: str, model: Path, tmp_path: Path) -> None:
    config = tiny(
        model,
        tmp_path,
        objective=objective(rival),
        sampler={"type": sampler, **SAMPLERS[sampler]},
        training={"steps": 2, "prompts_per_step": 2, "updates_per_batch": 2},
        evaluation={"every": 2, "examples": 1, "responses": 1, "probe_examples": 1, "probe_responses": 2},
        output__checkpoint_every=1,
    )
    if (rival, sampler) in REFUSED:
        with pytest.raises(ConfigError, match=REFUSED[rival, sampler]):
            train(config)
        return
    whole = train(config)
    run = RunDir(whole.run.path)
    expected = lines(run.path)
    assert [line["step"] for line in expected] == [0, 1, 2]
    (run.checkpoints / "step-000002").rename(tmp_path / "last")
    resumed = train(config, resume=run)
    assert lines(run.path) == expected
    for ours, theirs in zip(resumed.policy.model.parameters(), whole.policy.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
