"""Needs: the one vocabulary in which every part asks to know something about the tokens of responses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from saei.config.strategy import StrategyConfig

WhichPolicy: TypeAlias = Literal["current", "old", "reference"]
"""The policy that is trained, what it was before the step's update, or the reference."""


@dataclass(frozen=True, slots=True)
class Need:
    """One number per response token, ``[N, T]``, that a part of the run asks for.

    Whoever needs the same gets the same tensor; it is computed once. ``saei list statistic`` shows the statistics.

    Attributes:
        statistic: Name of a registered statistic: ``logp``, ``entropy``, ``top-k-entropy``, ``kl``, ``kl-symmetric``,
            ``kl-k3``, ``eos``, ``template``, or a third party's; or the config of one, which has settings.
        view: The view that the tokens are looked at under: ``own``, the one that the response was drawn from, in the
            update, which comes after advantages, the one that it is trained under; ``clean``, its group's; or the
            config of a view maker.
        policy: The policy that looks at them. A divergence is taken from the current policy under the own view to
            this policy under this view.
        grad: Whether the values belong to the graph of what is differentiated: the parameters in the update, the
            point in an attack. A divergence has its gradient on the side of the current policy and the own view;
            ``both`` gives it one on the side of the need's view, too. A gradient of the current policy under another
            view than the own exists in the update alone, and costs a pass with gradient per view.

    Example:
        ``Need("logp", policy="reference")`` is the reference's log-probability of each token under the update view,
        ``Need("kl", view="clean", grad=True)`` in a criterion how far the attacked view is from the clean one,
        ``Need("logp", view=BlackPatches.Config(), grad=True)`` in a term the log-probability of each token under a
        masked picture, differentiable by the parameters.
    """

    statistic: str | StrategyConfig
    view: Literal["own", "clean"] | StrategyConfig = "own"
    policy: WhichPolicy = "current"
    grad: bool | Literal["both"] = False

    @property
    def name(self) -> str:
        """Name of the statistic."""
        return self.statistic if isinstance(self.statistic, str) else self.statistic.type

    def __str__(self) -> str:
        view = self.view if isinstance(self.view, str) else self.view.type
        settings = "" if isinstance(self.statistic, str) else f" {self.statistic.model_dump(exclude={'type'})}"
        gradient = {False: "", True: ", with gradient", "both": ", with gradient on both sides"}[self.grad]
        return f"{self.name}{settings} ({view} view, {self.policy} policy{gradient})"
