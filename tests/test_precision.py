"""Weights in bfloat16 and autocast to it: runs on the CPU, and what stays float32."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from groups import draw
from models import tiny_folder
from runs import Checksum, lines, registered, tiny, train
from saei.config.sections import ModelConfig
from saei.data.bars import Bars
from saei.data.templates import ThinkBoxed
from saei.engine import checkpoint
from saei.policy import Policy
from saei.runtime.interrupt import Interrupted
from saei.runtime.run_dir import RunDir
from test_trainer import stop_at

KL = {"type": "grpo", "terms": [{"type": "kl", "coefficient": 0.1}, "entropy-bonus"]}
PRECISIONS: dict[str, dict[str, Any]] = {
    "weights": {"model__dtype": "bfloat16"},
    "autocast": {"training__mixed_precision": "bf16"},
    "adapters on such weights": {"model__dtype": "bfloat16", "model__lora": {"rank": 2}},
    "adapters under autocast": {"training__mixed_precision": "bf16", "model__lora": {"rank": 2}},
}


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    with registered(Checksum):
        yield


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder("Qwen2.5-VL", tmp_path_factory.mktemp("base"))


@pytest.mark.parametrize("changes", PRECISIONS.values(), ids=PRECISIONS)
def test_a_run_trains_and_resumes(base: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    changes = {"objective": KL, "optimizer__lr": 1e-2, "training__steps": 3, **changes}
    whole = train(tiny(base, tmp_path, "whole", **changes)).run
    with pytest.raises(Interrupted):
        train(tiny(base, tmp_path, "halves", **changes), stop_at(1))
    run, config = RunDir.open(tmp_path / "halves")
    train(config, resume=run)
    assert lines(whole.path) == lines(run.path)
    assert all(value is not None for line in lines(run.path) for value in line.values())
    files = [next(checkpoint.latest(one.checkpoints).glob("*model.safetensors")) for one in (whole, run)]
    assert files[0].read_bytes() == files[1].read_bytes()
    # The reference is of the policy's own precision: what the run begins with diverges from it by nothing.
    divergence = [line["train/kl/mean"] for line in lines(run.path)[1:]]
    assert divergence[0] == 0.0
    assert divergence[-1] > 1e-5


def half(base: Path, **model: Any) -> Policy:
    config = ModelConfig.model_validate({"path": str(base), "device": "cpu", "dtype": "bfloat16", **model})
    return Policy.load(config, ThinkBoxed())


def test_entropy_and_pixels_are_float32_whatever_the_weights(base: Path) -> None:
    policy = half(base)
    view = policy.view(Bars().example(0))
    (responses,) = draw(policy, [view], [3])
    canvas = view.canvases[0].clone().requires_grad_()
    logits: list[torch.Tensor] = []
    handle = policy.model.get_output_embeddings().register_forward_hook(lambda *call: logits.append(call[-1]))
    given: list[torch.Tensor] = []

    def keep(module: Any, arguments: Any, named: dict[str, Any]) -> None:
        if "pixel_values" in named:
            given.append(named["pixel_values"])

    other = policy.model.base_model.register_forward_pre_hook(keep, with_kwargs=True)
    (score,) = policy.score([view], [responses], wrt={"pixels": [canvas]})
    handle.remove()
    other.remove()
    assert score.entropy_NT is not None
    (gradient,) = torch.autograd.grad(score.entropy_NT.sum(), [canvas])
    for tensor in (canvas, *given, gradient, score.logp_NT, score.entropy_NT, responses[0].entropy_T):
        assert tensor.dtype == torch.float32
    # Not in type alone: it is the float64 entropy of the model's own logits, which a sum in bfloat16 is not.
    assert len(given) == 1
    (logits_MV,) = logits
    assert logits_MV.dtype == torch.bfloat16
    assert policy.distribution.banned_V is not None
    kept_MV = logits_MV.detach().masked_fill(policy.distribution.banned_V, -1e9)
    exact_M, coarse_M = (torch.distributions.Categorical(logits=own).entropy() for own in (kept_MV.double(), kept_MV))
    torch.testing.assert_close(score.entropy_NT[score.mask_NT], exact_M.float(), atol=1e-5, rtol=0)
    assert float((coarse_M - exact_M).abs().max()) > 1e-2


def test_adapters_of_half_weights_are_float32(base: Path) -> None:
    types = {parameter.requires_grad: parameter.dtype for parameter in half(base, lora={}).model.parameters()}
    assert types == {True: torch.float32, False: torch.bfloat16}
