"""How the answers to a task are reported: what scores are grouped by, and how far the grades can be trusted."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

Meta: TypeAlias = Mapping[str, Any]


def _never(meta: Meta) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Reporting:
    """How a task's scores are reported. All functions take ``Example.meta``.

    Attributes:
        score: What the share of right answers is called.
        by: Keys of ``meta`` that there are further scores by; a value that is a list counts in each of its groups, an
            example without the key in none.
        together: Scores of groups that are right only as a whole: name, and the group's key, None for an example that
            is in none.
        cluster: Keys of ``meta`` that examples share which are about the same thing, so that they are not independent.
        agreement: How the grades compare with the data set's own evaluation.
        approximate: Whether the grade of an example only comes near to that.
        unlabelled: Splits of the data whose answers are not public.
        split_field: The field of the task's config that names the split of the data.
        max_new_tokens: Longest response where neither user nor run says otherwise.
    """

    score: str = "accuracy"
    by: tuple[str, ...] = ("kind",)
    together: Mapping[str, Callable[[Meta], Hashable | None]] = field(default_factory=dict)
    cluster: tuple[str, ...] = ()
    agreement: str = "by rules; the data has no evaluation of its own to compare with"
    approximate: Callable[[Meta], bool] = _never
    unlabelled: tuple[str, ...] = ()
    split_field: str = "splits.eval"
    max_new_tokens: int | None = None
