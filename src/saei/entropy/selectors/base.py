"""The selector seam: which tokens of a group's responses the criterion looks at."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from saei.config.registry import load
from saei.config.strategy import Strategy, StrategyConfig
from saei.errors import TrainingError
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
    a pure function of its arguments: random choices use the generator that it is given. Selectors are combined by
    ``a & b``, ``a | b`` and ``~a``, or in files by ``{type: and, of: [a, b]}``.
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

    def __and__(self, other: Selector) -> Selector:
        """Return the selector of the tokens that both choose."""
        return self._combined("and", self, other)

    def __or__(self, other: Selector) -> Selector:
        """Return the selector of the tokens that one of both chooses."""
        return self._combined("or", self, other)

    def __invert__(self) -> Selector:
        """Return the selector of the tokens that this one leaves."""
        return self._combined("not", self)

    @staticmethod
    def _combined(name: str, *selectors: Selector) -> Selector:
        combined: Selector = load("selector", name).Config.model_validate({"of": selectors}).build()
        return combined


@torch.no_grad()
def checked_selection(selector: Selector, stats: TokenStats, *, progress: float, generator: torch.Generator) -> Tensor:
    """Return what a selector chooses, if it is a mask of some of its candidates.

    Args:
        selector: The selector.
        stats: As ``Selector.select`` takes them, like the other arguments.
        progress: Likewise.
        generator: Likewise.

    Raises:
        TrainingError: If it is not, with the selector's name and what is wrong with the mask.
    """
    mask_NT = selector.select(stats, progress=progress, generator=generator)
    problem = wrong_form(mask_NT, stats)
    if not problem:
        mask_NT = mask_NT.to(stats.valid_NT.device)
        outside = int((mask_NT & ~selector.candidates(stats)).sum())
        problem = f"marked {outside} that are padding, were given to a response, or are excluded" if outside else ""
    if problem:
        raise TrainingError(
            "A selector marks some of the tokens that it may choose from, in a bool mask of their shape.",
            reason=f"The selector '{selector.name()}' {problem}.",
            remedy="Mend it; `saei.testing.check_selector` names the rule that it breaks.",
        )
    return mask_NT


def wrong_form(mask_NT: Any, stats: TokenStats) -> str:
    """Return what is wrong with the form of a mask, empty if nothing is."""
    shape = list(stats.valid_NT.shape)
    if not isinstance(mask_NT, Tensor):
        return f"returned {type(mask_NT).__name__} for tokens {shape}"
    if mask_NT.dtype != torch.bool or list(mask_NT.shape) != shape:
        return f"returned {mask_NT.dtype} {list(mask_NT.shape)} for tokens {shape}"
    return ""
