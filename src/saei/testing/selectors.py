"""The contract of selectors."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from saei.config.strategy import Strategy, StrategyConfig
from saei.entropy.selectors.base import Selector, TokenStats
from saei.need import Need
from saei.testing.rules import changed, config_of, only_needs_read, random_state_untouched, require, seeded

LENGTHS = (4, 0, 5, 1, 2, 5)
GROUPS = 8


def check_selector(subject: Strategy | StrategyConfig) -> None:
    """Hold a selector to its contract.

    The groups have responses of 0, 1, 2, 4 and 5 tokens with ties among their entropies. A key of ``needs`` other than
    ``eos`` and ``template`` is filled with numbers between 0 and 1.

    Args:
        subject: The selector or its config.

    Raises:
        AssertionError: Naming the rule that is broken.
    """
    config = config_of(subject)
    selector = config.build()
    require(isinstance(selector, Selector), config.type, "the config of a selector builds a Selector")
    name = config.type
    selected = 0
    for seed in range(GROUPS):
        stats = _group(selector, seed)
        mask_NT = _check_mask(selector, stats)
        selected += int(mask_NT.sum())
        require(torch.equal(mask_NT, _select(config.build(), stats)), name, "the same arguments give the same mask")
        _check_padding(selector, stats, mask_NT)
        if not selector.pooled:
            _check_batching(selector, stats, mask_NT)
        for dtype in (torch.bfloat16, torch.float16):
            half = replace(stats, entropy_NT=stats.entropy_NT.to(dtype), logp_NT=stats.logp_NT.to(dtype))
            require(
                torch.equal(mask_NT, _select(selector, half)),
                name,
                "numbers exact in half precision give the same mask",
            )
        _check_mask(selector, stats, progress=1.0)
        for excluded in ("eos", "template"):
            other = changed(config, exclude=(excluded,)).build()
            stats = _group(other, seed)
            mask_NT = _check_mask(other, stats)
            require(
                Need(excluded) in stats.statistics and not bool((mask_NT & stats.statistics[Need(excluded)]).any()),
                name,
                f"with exclude: [{excluded}] these tokens are never selected",
            )
    require(selected > 0, name, "some tokens of some group are selected")


def _check_mask(selector: Selector, stats: TokenStats, progress: float = 0.0) -> Tensor:
    name = selector.name()
    before = _tensors(stats)
    with random_state_untouched(name):
        mask_NT = _select(selector, stats, progress)
    same = all(torch.equal(tensor, before[key]) for key, tensor in _tensors(stats).items())
    require(same, name, "the statistics are left as they were")
    right = mask_NT.dtype == torch.bool and mask_NT.shape == stats.valid_NT.shape
    require(right, name, "the mask is bool and has the shape of the statistics")
    require(not bool((mask_NT & ~stats.valid_NT).any()), name, "only valid tokens are selected")
    return mask_NT


def _check_padding(selector: Selector, stats: TokenStats, mask_NT: Tensor) -> None:
    padded_NT = _select(selector, _padded(stats))
    columns = mask_NT.shape[1]
    require(
        torch.equal(padded_NT[:, :columns], mask_NT) and not bool(padded_NT[:, columns:].any()),
        selector.name(),
        "what stands on padding, and how much of it, changes nothing",
    )


def _check_batching(selector: Selector, stats: TokenStats, mask_NT: Tensor) -> None:
    """Check that a response's tokens do not depend on the others.

    A selector that draws random numbers uses some up for each response before, so it is compared on the leading
    responses in place of single ones.
    """
    generator = seeded()
    selector.select(stats, progress=0.0, generator=generator)
    draws = not torch.equal(generator.get_state(), seeded().get_state())
    rows = [slice(0, n) for n in range(1, len(LENGTHS))] if draws else [slice(n, n + 1) for n in range(len(LENGTHS))]
    for part in rows:
        require(
            torch.equal(_select(selector, _rows(stats, part)), mask_NT[part]),
            selector.name(),
            "unless it is pooled, a response's tokens are selected whatever the other responses are",
        )


def _select(selector: Selector, stats: TokenStats, progress: float = 0.0) -> Tensor:
    with torch.no_grad(), only_needs_read(selector.name()):
        return selector.select(stats, progress=progress, generator=seeded())


def _group(selector: Selector, seed: int) -> TokenStats:
    """Return a group, its order given by the seed; entropies are multiples of 1/8, exact in half precision."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.tensor(LENGTHS)[torch.randperm(len(LENGTHS), generator=generator)]
    valid_NT = torch.arange(max(LENGTHS)) < lengths[:, None]

    def whole(high: int) -> Tensor:
        return torch.randint(high, valid_NT.shape, generator=generator) * valid_NT

    marks = {"eos": valid_NT & (torch.arange(max(LENGTHS)) == lengths[:, None] - 1), "template": whole(2).bool()}
    return TokenStats(
        entropy_NT=whole(9) / 8,
        logp_NT=-whole(33) / 8,
        ids_NT=whole(50),
        valid_NT=valid_NT,
        statistics={
            need: marks[need.statistic] if need.statistic in marks else whole(9) / 8
            for need in sorted(selector.needs, key=str)
        },
    )


def _tensors(stats: TokenStats) -> dict[str, Tensor]:
    tensors = {key: getattr(stats, key).clone() for key in ("entropy_NT", "logp_NT", "ids_NT", "valid_NT")}
    return tensors | {str(need): tensor.clone() for need, tensor in stats.statistics.items()}


def _padded(stats: TokenStats) -> TokenStats:
    """Return the statistics with three more columns and with noise on all padding."""
    valid_NT = pad(stats.valid_NT, (0, 3))
    generator = torch.Generator().manual_seed(1)

    def noisy(tensor_NT: Tensor) -> Tensor:
        if tensor_NT.dtype == torch.bool:
            return torch.where(valid_NT, pad(tensor_NT, (0, 3)), True)
        noise_NT = torch.randint(-50, 51, valid_NT.shape, generator=generator).to(tensor_NT.dtype)
        return torch.where(valid_NT, pad(tensor_NT, (0, 3)), noise_NT)

    statistics = {need: noisy(tensor) for need, tensor in stats.statistics.items()}
    return TokenStats(noisy(stats.entropy_NT), noisy(stats.logp_NT), noisy(stats.ids_NT), valid_NT, statistics)


def _rows(stats: TokenStats, rows: slice) -> TokenStats:
    return TokenStats(
        stats.entropy_NT[rows],
        stats.logp_NT[rows],
        stats.ids_NT[rows],
        stats.valid_NT[rows],
        {need: tensor[rows] for need, tensor in stats.statistics.items()},
    )
