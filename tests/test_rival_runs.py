"""Runs with rival terms: they train, resume exactly, and are refused where there is nothing to look at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import avg_pool2d

from models import tiny_folder
from runs import Checksum, lines, registered, tiny, train
from saei.config.run import dump, validate
from saei.engine.update import check_update
from saei.errors import ConfigError
from saei.objectives.papo import PAPO
from saei.objectives.weights.vppo import VPPO
from saei.policy import Policy
from saei.runtime.run_dir import RunDir
from saei.types import Example
from saei.views import Blur, Compression, GaussianNoise, LowResolution

TERMS: list[Any] = [
    {"type": "adaptive-entropy", "target": [[0, 20], [1, 0.01]], "delta": 0.001},
    {"type": "clamped-entropy", "low": 0.0, "high": 0.01},
    "nucleus-entropy",
    {"type": "papo", "estimate": "full"},
    {"type": "papo", "recompute": True},
    {"type": "roma", "views": ["blur", "gaussian-noise"]},
    "sampled-entropy",
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder("Qwen2.5-VL", tmp_path_factory.mktemp("model"))


@pytest.fixture(autouse=True)
def _reward() -> Any:
    with registered(Checksum):
        yield


def test_a_run_with_all_of_them_resumes_exactly(model: Path, tmp_path: Path) -> None:
    objective = {"type": "grpo", "terms": TERMS, "weights": ["vppo"]}
    changes = {
        "objective": objective,
        "training": {"steps": 4, "prompts_per_step": 2, "updates_per_batch": 2},
        "output__checkpoint_every": 2,
    }
    config = tiny(model, tmp_path, "whole", **changes)
    assert validate(dump(config)) == config
    whole = train(config)
    expected = lines(whole.run.path)
    assert [line.get("train/entropy_steered") for line in expected] == [None, 1.0, 1.0, 1.0, 1.0]
    coefficients = [line["train/adaptive-entropy/coefficient"] for line in expected if line["step"]]
    assert coefficients[0] == pytest.approx(0.001)
    assert coefficients[1] == pytest.approx(0.002)
    for name in ("clamped-entropy", "nucleus-entropy", "papo", "roma"):
        assert 0 < expected[1][f"train/{name}/touched"] <= 1, name
        assert f"train/{name}/mean" in expected[1]
    clamped = [line["train/clamped-entropy/coefficient"] for line in expected if line["step"]]
    assert clamped[0] == pytest.approx(2e-4)
    assert clamped == sorted(clamped, reverse=True)
    assert clamped[1] < clamped[0]
    assert len({line["train/nucleus-entropy/anchor"] for line in expected if line["step"]}) == 1

    half = tiny(model, tmp_path, "half", **changes)
    (RunDir(train(half).run.path).checkpoints / "step-000004").rename(tmp_path / "gone")
    resumed = train(half, resume=RunDir(tmp_path / "half"))
    assert lines(resumed.run.path) == expected
    for ours, theirs in zip(resumed.policy.model.parameters(), whole.policy.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_weight_has_no_gradient_under_another_view() -> None:
    class Wrong(VPPO):
        @property
        def needs(self) -> Any:
            return PAPO(PAPO.Config(recompute=True)).needs

    objective = tiny(Path(), Path(), objective={"type": "grpo"}).objective.build()
    objective.weights["weight 0"] = Wrong()
    with pytest.raises(ConfigError, match="The weight 'vppo' needs what nothing fills"):
        check_update(objective)


# --- degraded pictures ----------------------------------------------------------------------------------------------


def seen(change: Any, canvas: torch.Tensor) -> torch.Tensor:
    changed: torch.Tensor = change.change(canvas, torch.Generator().manual_seed(0))
    assert changed.shape == canvas.shape
    assert torch.equal((changed * 255).round() / 255, changed)  # on the grid of 8 bits
    assert 0 <= float(changed.min()) <= float(changed.max()) <= 1
    return changed


def test_degradations_do_what_their_names_say(random_policy: Policy) -> None:
    generator = torch.Generator().manual_seed(3)
    canvas = (torch.rand(3, 40, 28, generator=generator) * 255).round() / 255
    even = torch.full_like(canvas, 102 / 255)

    blurred = seen(Blur(Blur.Config(sigma=1.0)), canvas)
    point = torch.zeros(3, 15, 15)
    point[:, 7, 5] = 1.0
    spread = seen(Blur(Blur.Config(sigma=1.0)), point)
    falls = torch.exp(-(torch.arange(-3, 4.0) ** 2) / 2)
    falls /= falls.sum()
    torch.testing.assert_close(spread[0, 7, 2:9], falls * falls[3], atol=1 / 255, rtol=0)
    torch.testing.assert_close(spread[0, 4:11, 5], falls * falls[3], atol=1 / 255, rtol=0)
    assert float(blurred.std()) < 0.4 * float(canvas.std())

    small = seen(LowResolution(LowResolution.Config(factor=4)), canvas)
    fine = canvas - torch.nn.functional.interpolate(avg_pool2d(canvas[None], 4), scale_factor=4)[0]
    assert float((small * fine).mean()) < 0.1 * float((canvas * fine).mean())
    noisy = seen(GaussianNoise(), torch.full((3, 200, 200), 0.5))
    assert float(noisy.std()) == pytest.approx(0.1, rel=0.02)
    smooth = seen(Blur(Blur.Config(sigma=4.0)), canvas)
    good, bad = (seen(Compression(Compression.Config(quality=q)), smooth) for q in (95, 5))
    assert float((good - smooth).abs().mean()) < 0.25 * float((bad - smooth).abs().mean())
    for change in (Blur(), LowResolution()):
        torch.testing.assert_close(seen(change, even), even, atol=2 / 255, rtol=0)
    tiny_canvas = torch.rand(3, 2, 1, generator=generator)
    for change in (Blur(), LowResolution(), Compression()):
        seen(change, tiny_canvas)
    text = random_policy.view(Example("t", "What is 1 + 2?", "3"), 5)
    assert Blur().make_view(random_policy, text) is text
