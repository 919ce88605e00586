"""Turning one example into a view, as training does; every reason why an example cannot be used is raised here."""

from __future__ import annotations

from dataclasses import replace

from saei.data.base import Split, Task
from saei.errors import DataError, shown
from saei.policy import Policy
from saei.rewards.base import Reward
from saei.types import View


class LongPromptError(DataError):
    """A prompt longer than ``sampling.max_prompt_tokens``: the example is left out, although nothing is wrong with it.

    Attributes:
        tokens: The prompt's tokens.
    """

    tokens: int = 0


def inspect_example(task: Task, policy: Policy, index: int, split: Split, *, reward: Reward | None = None) -> View:
    """Return the clean view of an example whose gold answer the reward, if there is one, can read.

    Raises:
        LongPromptError: If its prompt is longer than ``sampling.max_prompt_tokens``.
        DataError: If it cannot be used.
    """
    example = task.example(index, split)
    example = replace(example, wordings=example.wordings or task.wordings(example))
    if reward is not None:
        reward.check(example)
    view = policy.view(example, index)
    limit = policy.sampling.max_prompt_tokens
    if limit is not None and (length := len(view.prompt_ids_P)) > limit:
        error = LongPromptError(
            f"A prompt may have {limit} tokens.",
            reason=f"Example '{shown(view.example.id)}' has {length}.",
            remedy="Raise sampling.max_prompt_tokens or lower model.max_pixels to keep it.",
        )
        error.tokens = length
        raise error
    return view
