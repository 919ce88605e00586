"""The selector seam: which tokens of a group's responses the criterion looks at."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor

from saei.config.strategy import Strategy, StrategyConfig
from saei.need import Need


@dataclass(frozen=True, eq=False, slots=True)
class TokenStats:
    """Statistics of the tokens of one group's responses, right-padded to the longest.

    Attributes:
        entropy_NT: float32, nats.
        logp_NT: float32 log-probability of the sampled token, nats.
        ids_NT: int64 token ids.
        valid_NT: bool, False on padding, and on the first tokens of a response that were given to it, not drawn.
        statistics: One ``[N, T]`` tensor per entry of the selector's ``needs``: ``Need("eos")`` and
            ``Need("template")`` are bool masks of end-of-sequence tokens and of tokens that belong to the prompt
            template's literals.
    """

    entropy_NT: Tensor
    logp_NT: Tensor
    ids_NT: Tensor
    valid_NT: Tensor
    statistics: Mapping[Need, Tensor] = field(default_factory=dict)


class Selector(Strategy, ABC):
    """Chooses tokens of one group.

    To add one: derive, nest a ``Config``, implement ``select`` over ``self.candidates(stats)``. A selector is
    a pure function of its arguments: random choices use the generator that it is given.
    """

    kind: ClassVar[str] = "selector"

    class Config(StrategyConfig):
        r"""Fields of every selector.

        Attributes:
            exclude: Tokens never selected: end-of-sequence tokens, or the prompt template's literals
                (``<think>``, ``\boxed{``, …).
        """

        exclude: tuple[Literal["eos", "template"], ...] = ()

    config: Config

    @property
    def needs(self) -> frozenset[Need]:
        """Keys of ``TokenStats.statistics`` that ``select`` reads; they have no gradient."""
        return frozenset(Need(name) for name in self.config.exclude)

    @property
    def pooled(self) -> bool:
        """Whether the criterion is one mean over all selected tokens of the group, not a mean per response."""
        return False

    @abstractmethod
    def select(self, stats: TokenStats, *, progress: float, generator: torch.Generator) -> Tensor:
        """Return the bool mask ``[N, T]`` of the selected tokens, a subset of the candidates.

        Args:
            stats: The group's statistics; called under ``no_grad``.
            progress: Share of the training done, in [0, 1].
            generator: Source of all randomness, on the CPU.
        """

    def candidates(self, stats: TokenStats) -> Tensor:
        """Return the bool mask ``[N, T]`` of valid tokens that are not excluded."""
        mask_NT = stats.valid_NT
        for name in self.config.exclude:
            mask_NT = mask_NT & ~stats.statistics[Need(name)]
        return mask_NT
