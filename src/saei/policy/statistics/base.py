"""The statistic seam: numbers per response token that other parts request by a ``Need``.

N responses of a view, T tokens of the longest, m tokens of a chunk, V vocabulary.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Protocol, runtime_checkable

from torch import Tensor

from saei.config.strategy import Strategy
from saei.entropy.token_states import TokenStates, per_token
from saei.need import Need
from saei.policy.module import Distribution
from saei.types import Response, View

if TYPE_CHECKING:
    from saei.policy.policy import Policy


class Statistic(Strategy, ABC):
    """A number per token. To add one, derive from one of the four classes below, by what it is computed from."""

    kind: ClassVar[str] = "statistic"


class TokenStatistic(Statistic):
    """Computed from the tokens alone; costs no pass and has no gradient. To add one, implement ``of_tokens``."""

    @abstractmethod
    def of_tokens(self, policy: Policy, responses: Sequence[Response]) -> list[Tensor]:
        """Return ``[T]`` for each response.

        Args:
            policy: For its tokenizer, its template and the ids that end a response.
            responses: The responses to one view.
        """


class DistributionStatistic(Statistic):
    """Computed from the distribution at each token. To add one, implement ``of_distribution``.

    It is computed in chunks in the scoring pass, so that a tensor of tokens × vocabulary never exists at once.
    """

    @abstractmethod
    def of_distribution(self, logp_mV: Tensor, ids_m: Tensor) -> Tensor:
        """Return ``[m]``, differentiable in the log-probabilities.

        Args:
            logp_mV: float32 log-probabilities in nats, -1e9 for banned ids.
            ids_m: int64, the tokens.
        """

    def compute(self, states: TokenStates, ids_M: Tensor, distribution: Distribution) -> Tensor:
        """Return ``[M]`` of all tokens; overridden where there is a faster way."""
        return per_token(
            self.of_distribution,
            states,
            ids_M=ids_M,
            temperature=distribution.temperature,
            banned_V=distribution.banned_V,
        )


class DivergenceStatistic(Statistic):
    """Computed from two distributions at each token: p, of the current policy under the response's own view, and q.

    q is of the need's policy under the need's view, and constant unless the need's ``grad`` is ``both``. To add one,
    implement ``of_two``; it is computed in chunks, too.
    """

    @abstractmethod
    def of_two(self, logp_mV: Tensor, logq_mV: Tensor, ids_m: Tensor) -> Tensor:
        """Return ``[m]``, differentiable in the log-probabilities, of both sides where a need asks for that.

        Args:
            logp_mV: float32 log-probabilities of p in nats, -1e9 for banned ids.
            logq_mV: Those of q.
            ids_m: int64, the tokens.
        """

    def compute(self, p: TokenStates, q: TokenStates, ids_M: Tensor, distribution: Distribution) -> Tensor:
        """Return ``[M]`` of all tokens; overridden where there is a faster way."""
        return per_token(
            self.of_two, p, q, ids_M=ids_M, temperature=distribution.temperature, banned_V=distribution.banned_V
        )


class DerivedStatistic(Statistic):
    """Computed from other statistics of the same token. To add one, implement ``parts_of`` and ``combine``."""

    @abstractmethod
    def parts_of(self, need: Need) -> tuple[Need, ...]:
        """Return the needs that the values for a need are computed from."""

    @abstractmethod
    def combine(self, *values_T: Tensor) -> Tensor:
        """Return the values, of any shape, from those of ``parts_of``, in order."""


@runtime_checkable
class ViewMaker(Protocol):
    """What the config of a need's ``view`` builds: a change of a view that needs no gradient."""

    def make_view(self, policy: Policy, view: View) -> View:
        """Return the changed view; it is called once for a view, even when the weights change later."""
