"""Half precision at confident tokens of a trained policy: gradients against float64, where differences cancel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from groups import sources
from saei.config.sections import ModelConfig, SamplingConfig
from saei.data.bars import Bars
from saei.data.templates import ThinkBoxed
from saei.entropy.token_entropy import token_statistics
from saei.policy import Policy
from saei.types import Response, View

TARGETS = (0.5, 0.9, 0.99, 0.999, 0.9999)
ROUNDING = {torch.float32: 2e-5, torch.bfloat16: 0.01, torch.float16: 0.002}
"""Largest error of a token's gradient that its head's type explains, relative to the terms that it is the sum of."""


@dataclass(frozen=True, eq=False, slots=True)
class Trained:
    """Hidden states of the built-in policy along its own responses, float64, with what it drew from them."""

    hidden_Md: Tensor
    ids_M: Tensor
    weight_Vd: Tensor
    banned_V: Tensor


def load(**model: Any) -> Policy:
    config = ModelConfig.model_validate({"path": "builtin", "device": "cpu", **model})
    return Policy.load(config, ThinkBoxed(), sampling=SamplingConfig(max_new_tokens=32))


@pytest.fixture(scope="module")
def policy() -> Policy:
    return load()


@pytest.fixture(scope="module")
def drawn(policy: Policy) -> tuple[list[View], list[list[Response]]]:
    views = [policy.view(Bars().example(number)) for number in range(3)]
    return views, policy.sample(views, [2] * len(views), generators=sources(len(views)))


@pytest.fixture(scope="module")
def trained(policy: Policy, drawn: tuple[list[View], list[list[Response]]]) -> Trained:
    views, responses = drawn
    hidden: list[Tensor] = []
    head = policy.model.get_output_embeddings()
    handle = head.register_forward_pre_hook(lambda _, inputs: hidden.append(inputs[0].detach()))
    policy.score(views, responses)
    handle.remove()
    ids_M = torch.cat([response.ids_T for own in responses for response in own])
    assert policy.distribution.banned_V is not None
    whole = Trained(hidden[-1].double(), ids_M, head.weight.detach().double(), policy.distribution.banned_V)
    likely_M = probability(whole, torch.ones(len(ids_M)).double()) > 0.5
    assert int(likely_M.sum()) > 50
    return Trained(whole.hidden_Md[likely_M], ids_M[likely_M], whole.weight_Vd, whole.banned_V)


def probability(trained: Trained, scale_M: Tensor) -> Tensor:
    """Return the float64 probability of each drawn id where the hidden states are scaled."""
    logits_MV = (scale_M[:, None] * trained.hidden_Md) @ trained.weight_Vd.T
    p_MV = logits_MV.masked_fill(trained.banned_V, -torch.inf).softmax(-1)
    return p_MV.gather(-1, trained.ids_M[:, None])[:, 0]


def confident(trained: Trained, target: float) -> Tensor:
    """Return the hidden states, each scaled so that its drawn id has the target's probability."""
    low_M, high_M = (torch.full((len(trained.ids_M),), end, dtype=torch.float64) for end in (0.0, 16.0))
    for _ in range(40):
        middle_M = (low_M + high_M) / 2
        below_M = probability(trained, middle_M) < target
        low_M, high_M = torch.where(below_M, middle_M, low_M), torch.where(below_M, high_M, middle_M)
    return low_M[:, None] * trained.hidden_Md


def head_of(trained: Trained, dtype: torch.dtype) -> nn.Linear:
    vocabulary, width = trained.weight_Vd.shape
    head = nn.Linear(width, vocabulary, bias=False, dtype=dtype).requires_grad_(False)
    head.weight.copy_(trained.weight_Vd)
    return head


Slope = tuple[Tensor, Tensor]
"""A slope ``[M, d]``, and the sum of the sizes of the terms over the vocabulary that it is the sum of."""


def exact_slopes(logits_MV: Tensor, trained: Trained, weight_Vd: Tensor, temperature: float) -> tuple[Slope, Slope]:
    """Return the float64 slopes of log-probability and entropy at the hidden states, for logits as they were made."""
    logits_MV = logits_MV.double().masked_fill(trained.banned_V, -1e9) / temperature
    logp_MV = logits_MV.log_softmax(-1)
    p_MV = logp_MV.exp()
    entropy_M1 = -(p_MV * logp_MV).sum(-1, keepdim=True)
    # -expm1 is 1 - p without the loss of digits.
    drawn_M1 = trained.ids_M[:, None]
    logp_slope_MV = (-p_MV).scatter(-1, drawn_M1, -logp_MV.gather(-1, drawn_M1).expm1())
    entropy_slope_MV = -(p_MV * (logp_MV + entropy_M1))
    weight_Vd = weight_Vd.double() / temperature

    def summed(slope_MV: Tensor) -> Slope:
        return slope_MV @ weight_Vd, slope_MV.abs() @ weight_Vd.abs()

    return summed(logp_slope_MV), summed(entropy_slope_MV)


def errors(gradient_Md: Tensor, exact: Slope) -> Tensor:
    """Return each token's error relative to the terms of its slope, which may nearly cancel each other."""
    exact_Md, size_Md = exact
    return (gradient_Md.double() - exact_Md).norm(dim=-1) / size_Md.norm(dim=-1)


@pytest.mark.parametrize("temperature", [1.0, 0.8])
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_slopes_of_confident_tokens(
    trained: Trained, dtype: torch.dtype, target: float, temperature: float
) -> None:
    head = head_of(trained, dtype)
    leaf = (temperature * confident(trained, target)).to(dtype).requires_grad_()
    exact = exact_slopes(head(leaf.detach()), trained, head.weight, temperature)
    statistics = token_statistics(leaf, trained.ids_M, head, banned_V=trained.banned_V, temperature=temperature)
    for statistic_M, slope in zip(statistics, exact, strict=True):
        assert statistic_M is not None
        assert type(statistic_M.grad_fn).__name__ == "_FusedBackward"
        (gradient_Md,) = torch.autograd.grad(statistic_M.sum() * 64, leaf, retain_graph=True)
        # The sum is scaled as a gradient scaler does, since float16 could not hold what this test would compare.
        assert float(errors(gradient_Md.double() / 64, slope).max()) < ROUNDING[dtype]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_slopes_of_confident_tokens_under_autocast(trained: Trained, dtype: torch.dtype, target: float) -> None:
    head = head_of(trained, torch.float32)
    leaf = confident(trained, target).float().requires_grad_()
    with torch.autocast("cpu", dtype):
        logits_MV = head(leaf.detach())
        statistics = token_statistics(leaf, trained.ids_M, head, banned_V=trained.banned_V)
    assert logits_MV.dtype == dtype
    exact = exact_slopes(logits_MV, trained, head.weight.to(dtype), 1.0)
    for statistic_M, slope in zip(statistics, exact, strict=True):
        assert statistic_M is not None
        (gradient_Md,) = torch.autograd.grad(statistic_M.sum() * 64, leaf, retain_graph=True)
        assert float(errors(gradient_Md / 64, slope).max()) < ROUNDING[dtype]


def test_adapters_of_half_weights_learn_from_confident_tokens(
    policy: Policy, drawn: tuple[list[View], list[list[Response]]]
) -> None:
    """Against the float32 model: weights in bfloat16 move the gradient a little, and no more."""
    views, responses = drawn
    sure = [score.logp_NT.exp() > 0.999 for score in policy.score(views, responses, with_entropy=False)]
    assert sum(int(chosen_NT.sum()) for chosen_NT in sure) > 10
    gradients = []
    for dtype in ("float32", "bfloat16"):
        adapted = load(dtype=dtype, lora={"rank": 2})
        generator = torch.Generator().manual_seed(0)
        for name, parameter in adapted.model.named_parameters():
            if "lora_A" in name:
                parameter.data.normal_(generator=generator)
        scores = adapted.score(views, responses, wrt="parameters", with_entropy=False)
        logp = torch.stack([score.logp_NT[own_NT].sum() for score, own_NT in zip(scores, sure, strict=True)]).sum()
        trained = [parameter for parameter in adapted.model.parameters() if parameter.requires_grad]
        gradients.append(torch.cat([part.flatten() for part in torch.autograd.grad(logp, trained)]))
    assert float(torch.cosine_similarity(*gradients, dim=0)) > 0.99
    assert float(gradients[1].norm() / gradients[0].norm()) == pytest.approx(1, abs=0.05)
