"""The seams of an intervention's slots: surface, criterion, strength, gate and guard."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from saei.attacks.base import BlockSpace
from saei.config.strategy import Strategy
from saei.interventions.context import Oracle, StepContext, Supply
from saei.need import Need
from saei.policy import Policy, Scores
from saei.types import Distance, Drops, Example, Response, ScoredGroup, View


@dataclass(frozen=True, eq=False, slots=True)
class Opening:
    """Where an attack on a surface of some views begins.

    Attributes:
        blocks: What it moves, in the order of the views.
        spaces: For each block where it may go.
        examples: For each block the number of the view that it belongs to.
    """

    blocks: tuple[Tensor, ...]
    spaces: tuple[BlockSpace, ...]
    examples: tuple[int, ...]


class Surface(Strategy, ABC):
    """Something of a view that an attack can move, such as its pixels. To add one, implement the five methods.

    The blocks of a surface stand in the order of the views, those of a view in an order of the surface's own. A view
    that lacks the surface has none; ``at`` and ``moved`` are given the views that have it. A surface has no state.
    """

    kind: ClassVar[str] = "surface"
    space: ClassVar[str]
    """Name of the space that its blocks are in, which an attack has to be made for: ``pixels``."""
    reasons: ClassVar[tuple[str, ...]] = ()
    """What ``lacks`` may say, so that metrics count it at every step, 0 included."""
    replaces_question: ClassVar[bool] = False
    """Whether a moved view has another question altogether, of other tokens."""
    needs_question: ClassVar[bool] = False
    """Whether its blocks belong to the question's tokens, which therefore nothing else may replace."""
    # Set on the class, or on the instance where its config decides.
    rewords: bool = False
    """Whether a moved view may ask something else, so that its right answer has to be found anew."""
    needs_oracle: bool = False
    """Whether the task's oracle decides where its blocks may go; then it implements ``restricted``."""
    offsets: ClassVar[bool] = False
    """Whether a moved view has an offset on embeddings, which are no tokens that every decoder could read."""

    @abstractmethod
    def lacks(self, view: View) -> str | None:
        """Return None if a view has the surface, else the reason in one word, such as ``no-image``."""

    def example_lacks(self, example: Example) -> str | None:
        """Return why no view of an example can have the surface, as far as that is known without a policy."""
        return None

    @abstractmethod
    def open(self, policy: Policy, views: Sequence[View], *, scale: float) -> Opening:
        """Return the views' blocks as they are.

        Args:
            policy: Sees the views.
            views: Clean views.
            scale: Factor on every step and radius, the intervention's strength.
        """

    def restricted(self, policy: Policy, views: Sequence[View], opening: Opening, oracle: Oracle) -> Opening:
        """Return an opening of views whose blocks may go only where the oracle allows; the same by default."""
        return opening

    @abstractmethod
    def at(self, views: Sequence[View], blocks: Sequence[Tensor]) -> tuple[list[View], dict[str, Sequence[Tensor]]]:
        """Return what the policy scores where the blocks are: the views, and what scores are differentiated by.

        What has a gradient goes into the second, ``wrt`` of ``Policy.score``, and what has none, such as token ids,
        into the views.
        """

    @abstractmethod
    def moved(self, policy: Policy, views: Sequence[View], blocks: Sequence[Tensor]) -> list[View]:
        """Return the views with these blocks in place of their own.

        A view of another question has an example with it.
        """

    @abstractmethod
    def distance(self, start: Sequence[Tensor], moved: Sequence[Tensor], spaces: Sequence[BlockSpace]) -> Distance:
        """Return how far the blocks of one view have moved, each in its space."""


class Criterion(Strategy, ABC):
    """What an attack raises, as a value per token. To add one, implement ``per_token``."""

    kind: ClassVar[str] = "criterion"
    least_at_clean: ClassVar[bool] = False
    """Whether it is smallest where the moved view is the clean one, and so has no gradient there."""

    @property
    def needs(self) -> frozenset[Need]:
        """Keys of ``Scores.statistics`` that ``per_token`` reads; log-probabilities are there in any case."""
        return frozenset()

    @abstractmethod
    def per_token(self, scores: Scores) -> Tensor:
        """Return ``[N, T]`` differentiable values, in nats.

        Args:
            scores: Scores of the clean responses under the moved view, with what the criterion needs in
                ``scores.statistics``; in needs, the own view of a response is the moved one. Tokens that are not
                selected have 0.
        """

    def draw_weights(self, mask_NT: Tensor, generator: torch.Generator) -> Tensor | None:
        """Return factors ``[N, T]`` of the tokens' values, which stay the same during an attack; None for none.

        Called once for each group before it is attacked. A criterion that draws here still has no state.

        Args:
            mask_NT: bool, True on the tokens of the group's responses.
            generator: The group's source of randomness, on the CPU.
        """
        return None

    def value(self, scores: Scores, selected_NT: Tensor, *, pooled: bool, weight_NT: Tensor | None = None) -> Tensor:
        """Return J of one group.

        J is the mean over responses of the mean over their selected tokens; with ``pooled``, for selections of
        scope ``group``, the mean over all selected tokens, since a response may have none. J of nothing is 0.

        Args:
            scores: As ``per_token`` takes them.
            selected_NT: bool, the tokens that it is taken over.
            pooled: See above.
            weight_NT: What ``draw_weights`` returned.
        """
        count_NT = selected_NT.to(scores.logp_NT.dtype)
        values_NT = self.per_token(scores) * count_NT
        if weight_NT is not None:
            values_NT = values_NT * weight_NT
        if pooled:
            return values_NT.sum() / count_NT.sum().clamp_min(1)
        count_N = count_NT.sum(1)
        return (values_NT.sum(1) / count_N.clamp_min(1)).sum() / (count_N > 0).sum().clamp_min(1)


class Strength(Strategy, ABC):
    """Scales every step and radius of the attack over training. To add one, implement ``at``."""

    kind: ClassVar[str] = "strength"

    @abstractmethod
    def at(self, progress: float) -> float:
        """Return the factor, 0 or more, at a share of the training in [0, 1]."""

    def metrics(self) -> Mapping[str, float]:
        """Return what is logged of an attacked group besides the factor itself: its name and value."""
        return {}


class Gate(Strategy, ABC):
    """Decides which groups are attacked. To add one, implement ``leave_alone``."""

    kind: ClassVar[str] = "gate"
    needs_supply: ClassVar[bool] = True
    """Whether it uses ``Supply``; a gate that does not also works in engines that have none."""
    reasons: ClassVar[tuple[str, ...]] = ()
    """Its possible reasons; metrics count each of them at every step, 0 included."""

    @property
    def needs(self) -> frozenset[Need]:
        """What ``leave_alone`` requests from ``step.statistics``."""
        return frozenset()

    @abstractmethod
    def leave_alone(
        self,
        views: Sequence[View],
        responses: Sequence[Sequence[Response]],
        step: StepContext,
        supply: Supply | None,
    ) -> Sequence[str | None]:
        """Return for each group None, or in one word why it is left alone; metrics count groups by these reasons.

        Called once in every process for all groups that are drawn together and have something to move, of which a
        process may have none.

        Args:
            views: The groups' clean views.
            responses: For each the responses drawn from it.
            step: The policy and the circumstances.
            supply: ``supply.grade(view, responses)`` grades a group; None where there is none, if ``needs_supply`` is
                False.
        """


class Guard(Strategy, ABC):
    """Looks at the scored groups before advantages are taken. To add one, implement ``drop``."""

    kind: ClassVar[str] = "guard"
    needs_supply: ClassVar[bool] = True
    """Whether an engine has to call it after grading: False for ``none`` alone, which drops nothing.

    TRL trains on all that it grades and calls no guard, so it refuses every guard but ``none``, whatever stands here.
    """
    reasons: ClassVar[tuple[str, ...]] = ()
    """Its possible reasons; metrics count each of them at every step, 0 included."""

    @property
    def needs(self) -> frozenset[Need]:
        """What ``drop`` requests from ``step.statistics``."""
        return frozenset()

    @abstractmethod
    def drop(self, scored: Sequence[ScoredGroup], step: StepContext, supply: Supply) -> Sequence[Drops]:
        """Return for each group the responses that are not trained on, by number, and in one word why.

        Called once in every process for all scored groups of the step, of which a process may have none. A group all
        of whose responses are dropped is dropped itself. Metrics count responses by these reasons.
        """
