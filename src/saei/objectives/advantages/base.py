"""The advantage seam: from the rewards of a group to one number per response, or per token."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, TypeAlias

from torch import Tensor

from saei.config.strategy import Strategy
from saei.errors import TrainingError
from saei.need import Need
from saei.types import ScoredGroup, TrainGroup

Advantages: TypeAlias = Sequence[float] | Sequence[Tensor]
"""One number per response, or one ``[T]`` tensor per response with a number for each of its tokens."""


class Advantage(Strategy, ABC):
    """Turns the rewards of a group into advantages, which the policy loss multiplies by.

    To add one: derive, nest a ``Config``, implement ``estimate``. It is a pure function of its arguments: finite and
    detached, 0 where all rewards are equal unless the method says otherwise. ``saei.testing.check_advantage`` checks
    this.

    Metrics count what it does, in total and by origin: ``advantage/nonzero`` is the share of responses with an
    advantage other than 0 at some token, and of one that shapes another ``advantage/shaped`` is the share of tokens at
    which the two differ.
    """

    kind: ClassVar[str] = "advantage"
    relative: ClassVar[bool] = False
    """Whether a response that is alone in its group always has advantage 0, since it is compared with the others. Of an
    advantage that shapes another, the other one's counts."""

    @property
    def needs(self) -> frozenset[Need]:
        """Keys of ``scored.statistics`` that ``estimate`` reads; they have no gradient.

        They are computed once a step, before the update, of the groups that are left to train on. The own view of a
        response is the one that it was drawn from, since that is the view that its reward tells about; the policy is
        the current one, which drew it, or the reference. Log-probabilities and entropies under the own view cost no
        pass; ``response`` has them, too.
        """
        return frozenset()

    @property
    def per_token(self) -> bool:
        """Whether the tokens of a response may have different advantages."""
        return False

    @property
    def shaped(self) -> Advantage | None:
        """The advantage that this one changes, None if it makes its own of the rewards."""
        return None

    @property
    def optional_spread(self) -> str | None:
        """The setting, a field of the config, by which it divides by a spread and could do without; None if none does.

        Where a method forbids the division, as Dr. GRPO does, such a setting has to be given by the user. An advantage
        that cannot do without, such as ``trust``, is chosen with its division.
        """
        return None

    @property
    def mixes_origins(self) -> bool:
        """Whether responses of one origin are compared with those of others, which have to have the same gold then."""
        return True

    @abstractmethod
    def estimate(self, scored: ScoredGroup, rewards: Sequence[float]) -> Advantages:
        """Return the advantages of one group's N responses.

        Args:
            scored: The group with its grades. Its responses carry the entropies (nats) and log-probabilities of the
                sampling pass, and it has the statistics that ``needs`` names.
            rewards: Rewards of all groups of the step, in all processes, in the order of the groups' indices.

        Returns:
            N numbers; or N tensors, the n-th of them ``[T]`` with one number per token of response n.
        """


def train_group(scored: ScoredGroup, advantage: Advantage, rewards: Sequence[float]) -> TrainGroup:
    """Return a group with its advantages.

    Args:
        scored: The group.
        advantage: How its rewards become advantages.
        rewards: Rewards of all groups of the step, in all processes, in the order of the groups' indices.

    Raises:
        TrainingError: If there is not one for each response, or for each token of each.
    """
    values = advantage.estimate(scored, rewards)
    n_responses = len(scored.grades)
    per_token = tuple(value.detach().float() for value in values if isinstance(value, Tensor))
    if len(values) != n_responses or len(per_token) not in (0, n_responses):
        raise _bad_advantages(advantage, f"{len(values)} for {n_responses} responses, {len(per_token)} per token")
    if not per_token:
        return TrainGroup(scored, tuple(float(value) for value in values))
    for value_T, response in zip(per_token, scored.group.responses, strict=True):
        if value_T.shape != (len(response),):
            raise _bad_advantages(advantage, f"{list(value_T.shape)} for a response of {len(response)} tokens")
    means = tuple(float(value_T.mean()) if len(value_T) else 0.0 for value_T in per_token)
    return TrainGroup(scored, means, per_token)


def _bad_advantages(advantage: Advantage, returned: str) -> TrainingError:
    return TrainingError(
        "An advantage is one number for each response of a group, or a tensor with one number for each of its tokens.",
        reason=f"'{advantage.name()}' returned {returned}.",
        remedy="Mend it; `saei.testing.check_advantage` names the rule that it breaks.",
    )
