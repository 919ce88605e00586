"""What selectors by rank share."""

from __future__ import annotations

from saei.entropy.selectors.base import Selector
from saei.entropy.selectors.ranking import Scope


class Ranked(Selector):
    """Chooses tokens by their rank, within each response or over the group."""

    class Config(Selector.Config):
        """Fields of every selector by rank.

        Attributes:
            scope: Rank within each response or over the group; in scope ``group`` a response may keep no token.
        """

        scope: Scope = "response"

    config: Config

    @property
    def pooled(self) -> bool:
        """Whether the ranking goes over the group."""
        return self.config.scope == "group"
