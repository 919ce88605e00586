"""Patch products against torch's own convolution."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from saei.config.sections import ModelConfig
from saei.policy.load.patches import PatchConv3d, use_patch_products
from saei.policy.load.weights import Parts, load_parts


@pytest.mark.parametrize("bias", [True, False])
def test_values_and_gradients_equal_the_convolution(bias: bool) -> None:
    torch.manual_seed(0)
    ours = nn.Sequential(nn.Conv3d(3, 8, (2, 4, 4), stride=(2, 4, 4), bias=bias)).double()
    reference = copy.deepcopy(ours)
    use_patch_products(ours)
    assert type(ours[0]) is PatchConv3d
    found = []
    for model in (ours, reference):
        patches = torch.randn(5, 3, 2, 4, 4, generator=torch.Generator().manual_seed(1)).double().requires_grad_()
        output = model(patches)
        weight = torch.arange(output.numel()).view(output.shape)
        found.append([output, *torch.autograd.grad((output * weight).sum(), [patches, *model.parameters()])])
    for mine, expected in zip(*found, strict=True):
        torch.testing.assert_close(mine, expected, atol=1e-9, rtol=1e-12)


def test_larger_inputs_are_convolved() -> None:
    ours = nn.Sequential(nn.Conv3d(3, 8, (2, 4, 4), stride=(2, 4, 4)))
    frames = torch.randn(1, 3, 4, 8, 8)
    expected = ours(frames)
    use_patch_products(ours)
    assert torch.equal(ours(frames), expected)


@pytest.mark.parametrize("options", [{"padding": (0, 1, 1)}, {"padding": "same"}, {"groups": 3}])
def test_other_convolutions_are_left_alone(options: dict[str, object]) -> None:
    ours = nn.Sequential(nn.Conv3d(3, 9, (1, 3, 3), **options))
    use_patch_products(ours)
    assert type(ours[0]) is nn.Conv3d


def test_a_loaded_model_has_them_and_saves_as_before(random_parts: Parts, tmp_path: Path) -> None:
    for part in (random_parts.model, random_parts.tokenizer, random_parts.image_processor):
        part.save_pretrained(tmp_path)
    loaded = load_parts(ModelConfig(path=str(tmp_path))).model
    assert any(type(module) is PatchConv3d for module in loaded.modules())
    original = random_parts.model.state_dict()
    assert original.keys() == loaded.state_dict().keys()
    assert all(torch.equal(value, original[name]) for name, value in loaded.state_dict().items())
