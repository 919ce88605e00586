"""A trainer that draws by vLLM, as the tests use it, and the figures that they find."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from saei.types import Group

FIGURES: dict[str, str] = {}
"""What `docs/vllm.md` tells, printed after the tests."""


@dataclass
class Engine:
    """A trainer that draws by vLLM, with what the tests ask of it."""

    trainer: Any
    groups: list[Group]
    prompts: list[list[int]]

    def draw(self) -> list[Group]:
        """Draw the groups of two prompts the way a training step does."""
        self.groups.clear()
        self.prompts.clear()
        trainer = self.trainer
        trainer._pending_metrics.clear()
        trainer.model.train()
        trainer._generate_and_score_completions([trainer.train_dataset[row] for row in (0, 1) for _ in range(4)])
        return list(self.groups)

    def gaps(self, groups: list[Group]) -> torch.Tensor:
        """Return |what vLLM says - the policy's own score| of all tokens, each under the view it was drawn from."""
        found = []
        with self.trainer._whole_model() as policy, torch.no_grad():
            for group in groups:
                for response, number in zip(group.responses, group.sampled_from, strict=True):
                    (scores,) = policy.score([group.views[number]], [[response]])
                    found.append((response.behaviour_logp_T - scores.logp_NT[0]).abs())
        return torch.cat(found)

    def update(self, part: torch.nn.Module | None = None, scale: float = 0.3) -> None:
        """Move the weights, all or those of a part, as an optimiser step would, and count it."""
        generator = torch.Generator().manual_seed(self.trainer.state.global_step)
        with torch.no_grad():
            for parameter in (part or self.trainer.model).parameters():
                parameter += scale * parameter.std() * torch.randn(parameter.shape, generator=generator)
        self.trainer.state.global_step += 1
