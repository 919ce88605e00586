"""GTPO and GRPO-S: rewards that grow with the entropy of right answers and fall with that of wrong ones."""

from __future__ import annotations

from abc import ABC
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from saei.config.strategy import StrategyConfig
from saei.objectives.advantages.base import Advantage
from saei.objectives.advantages.group_relative import normalised
from saei.types import ScoredGroup


class EntropyRewards(Advantage, ABC):
    """What GTPO and GRPO-S share: the settings, and what becomes of the new rewards.

    Entropies are those of the sampling pass, in nats, at ``entropy.temperature``. A group whose answers are all right,
    or all wrong, has advantage 0: DAPO's dynamic sampling, which both are built on, leaves such groups out, and
    entropies alone would be scaled up to full size.
    """

    relative: ClassVar[bool] = True

    class Config(StrategyConfig):
        """Fields of both.

        Attributes:
            outcome_weight: Of the answer: the paper's α₁ or β₁.
            entropy_weight: Of the entropies: the paper's α₂ or β₂.
            entropy_floor: A smaller entropy counts as this many nats where it is divided by.
            normalise: Over what the new rewards are normalised (minus the mean, divided by the standard deviation with
                n - 1, plus 1e-4). ``together``: those of the whole group. ``apart``: those of right and of wrong
                answers by themselves, so that no more than differences within either is left. ``none``: they are the
                advantages. The paper's formula for this was not at hand; the default is our reading.
        """

        outcome_weight: float = Field(default=1.0, ge=0.0, le=1e6)
        entropy_weight: float = Field(default=0.1, ge=0.0, le=1e6)
        entropy_floor: float = Field(default=0.002, gt=0.0, le=1.0)
        normalise: Literal["together", "apart", "none"] = "together"

    config: Config

    @property
    def optional_spread(self) -> str | None:
        """``normalise``, unless it is ``none``."""
        return None if self.config.normalise == "none" else "normalise"

    def shares(self, entropy_NT: Tensor, mask_NT: Tensor, right_N: Tensor) -> Tensor:
        """Return each entropy's share of its column's, times how many the column has: 1 on average.

        Of right answers it is the share of the entropies, of wrong ones that of their inverses.

        Args:
            entropy_NT: float64, in nats.
            mask_NT: bool, where there is one.
            right_N: bool, the right answers.
        """
        inverse_NT = 1 / entropy_NT.clamp(min=self.config.entropy_floor)
        size_NT = torch.where(right_N[:, None], entropy_NT, inverse_NT) * mask_NT
        shares_NT = torch.zeros_like(size_NT)
        for side_N in (right_N, ~right_N):
            total_T = size_NT[side_N].sum(0).clamp(min=1e-12)
            shares_NT[side_N] = size_NT[side_N] / total_T * mask_NT[side_N].sum(0)
        return shares_NT

    def new_rewards(self, scored: ScoredGroup, shares_NT: Tensor, right_N: Tensor) -> Tensor:
        """Return the new rewards ``[N, T]``: positive for right answers, negative for wrong ones."""
        config = self.config
        reward_N = torch.tensor(scored.rewards, dtype=torch.float64)
        right_NT = config.outcome_weight * reward_N[:, None] + config.entropy_weight * shares_NT
        wrong_NT = -config.outcome_weight - config.entropy_weight * shares_NT
        return torch.where(right_N[:, None], right_NT, wrong_NT)

    def advantages_of(self, rewards_NT: Tensor, mask_NT: Tensor, right_N: Tensor) -> Tensor:
        """Return the advantages ``[N, T]``, 0 where there is none."""
        if bool(right_N.all()) or not bool(right_N.any()):
            return torch.zeros_like(rewards_NT)
        if self.config.normalise == "none":
            return rewards_NT * mask_NT
        wholes = [mask_NT]
        if self.config.normalise == "apart":
            wholes = [mask_NT & right_N[:, None], mask_NT & ~right_N[:, None]]
        advantages_NT = torch.zeros_like(rewards_NT)
        for whole_NT in wholes:
            if bool(whole_NT.any()):
                advantages_NT[whole_NT] = torch.from_numpy(normalised(rewards_NT[whole_NT].numpy()))
        return advantages_NT


class GTPO(EntropyRewards):
    """An advantage for each token, from a reward that grows with its share of the entropy at its position.

    At position t, d answers that are right and h that are wrong have a token. A token of a right one with reward r
    gets ``α₁ r + α₂ d H / ΣH``, the sum over these d; one of a wrong answer ``-α₁ - α₂ h (1/H) / Σ(1/H)``, the sum over
    these h.

    Source: https://arxiv.org/abs/2508.04349, version 6, with its α₁ and α₂; versions differ. The floor under 1/H is
    ours, as are advantages of 0 where all answers are right or all are wrong.
    """

    class Config(EntropyRewards.Config):
        """No fields of its own."""

        type: Literal["gtpo"] = "gtpo"

    config: Config

    @property
    def per_token(self) -> bool:
        """True."""
        return True

    def estimate(self, scored: ScoredGroup, rewards: Sequence[float]) -> list[Tensor]:
        """Return the advantages of each response's tokens."""
        responses = scored.group.responses
        device = responses[0].entropy_T.device
        entropy_NT = pad_sequence([each.entropy_T.double().cpu() for each in responses], batch_first=True)
        lengths_N = torch.tensor([len(each) for each in responses])
        mask_NT = torch.arange(entropy_NT.shape[1]) < lengths_N[:, None]
        right_N = torch.tensor([grade.correct for grade in scored.grades])
        shares_NT = self.shares(entropy_NT, mask_NT, right_N)
        advantages_NT = self.advantages_of(self.new_rewards(scored, shares_NT, right_N), mask_NT, right_N)
        return [
            advantage_T[: len(each)].float().to(device)
            for advantage_T, each in zip(advantages_NT, responses, strict=True)
        ]


class GRPOS(EntropyRewards):
    """An advantage for each response, from a reward that grows with its share of the group's mean entropies.

    H is the mean entropy of a response's tokens. A right one of n with reward r gets ``β₁ r + β₂ n H / ΣH``, the sum
    over the right ones; a wrong one of m ``-β₁ - β₂ m (1/H) / Σ(1/H)``, the sum over the wrong ones.

    Source: https://arxiv.org/abs/2508.04349, version 6, with its β₁ and β₂; versions differ. The paper also averages
    the ratios of a response's tokens, which is the objective's matter.
    """

    class Config(EntropyRewards.Config):
        """No fields of its own."""

        type: Literal["grpo-s"] = "grpo-s"

    config: Config

    def estimate(self, scored: ScoredGroup, rewards: Sequence[float]) -> list[float]:
        """Return one advantage per response."""
        means = [float(each.entropy_T.double().mean()) if len(each) else 0.0 for each in scored.group.responses]
        entropy_N1 = torch.tensor(means, dtype=torch.float64)[:, None]
        mask_N1 = torch.ones_like(entropy_N1, dtype=torch.bool)
        right_N = torch.tensor([grade.correct for grade in scored.grades])
        rewards_N1 = self.new_rewards(scored, self.shares(entropy_N1, mask_N1, right_N), right_N)
        advantages: list[float] = self.advantages_of(rewards_N1, mask_N1, right_N)[:, 0].tolist()
        return advantages
