"""A trainer that draws by vLLM, as the tests use it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from saei.types import Group


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

    def update(self, scale: float = 0.3) -> None:
        """Move all weights, as an optimiser step would, and count it."""
        generator = torch.Generator().manual_seed(self.trainer.state.global_step)
        with torch.no_grad():
            for parameter in self.trainer.model.parameters():
                noise = torch.randn(parameter.shape, generator=generator)
                parameter += scale * parameter.std() * noise if parameter.numel() > 1 else 0
        self.trainer.state.global_step += 1
