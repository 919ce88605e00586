"""One question about images, without a data set: what a policy answers, and how likely a text is to it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import torch
from PIL.Image import Image
from torch import Tensor

from saei.data.open_image import MAX_PIXELS, open_image
from saei.errors import DataError, shown
from saei.types import Example, Response

if TYPE_CHECKING:
    from saei.policy.policy import Policy

Picture: TypeAlias = Image | bytes | str | Path
"""A picture: a PIL image, an encoded file's bytes, or a path."""

Pictures: TypeAlias = Picture | Sequence[Picture] | None
"""The pictures of a question: one, several in their order, or none."""


@dataclass(frozen=True, eq=False, slots=True)
class TextScore:
    """How likely a text is as a response.

    Attributes:
        tokens: The text's tokens as strings, the end of the response last where it is scored.
        ids_T: int64 token ids.
        logp_T: float32 log-probability of each token given the prompt and the tokens before it, in nats.
        entropy_T: float32 entropy of the distribution that it was scored by, in nats.
    """

    tokens: tuple[str, ...]
    ids_T: Tensor
    logp_T: Tensor
    entropy_T: Tensor

    @property
    def logp(self) -> float:
        """Log-probability of the whole text, in nats."""
        return float(self.logp_T.sum())

    @property
    def entropy(self) -> float:
        """Mean token entropy, in nats."""
        return float(self.entropy_T.mean())


def example_of(images: Pictures, question: str) -> Example:
    """Return a question about pictures as an example without an answer.

    Raises:
        DataError: If a picture cannot be opened.
    """
    if images is None:
        images = ()
    elif isinstance(images, Image | bytes | str | Path):
        images = (images,)
    # Whoever calls this names the file, so it may lie anywhere.
    opened = [
        open_image(
            os.path.expanduser(image) if isinstance(image, str | Path) else image,
            (Path.cwd(), Path("/")),
            MAX_PIXELS,
            where=f"Picture {number}",
        )
        for number, image in enumerate(images, start=1)
    ]
    return Example("question", question, "", tuple(opened))


def ask(
    policy: Policy,
    images: Pictures,
    question: str,
    *,
    responses: int,
    temperature: float | None,
    max_new_tokens: int | None,
    seed: int,
) -> list[Response]:
    """Draw responses to a question; see ``Policy.ask``."""
    changes = {"temperature": temperature, "max_new_tokens": max_new_tokens}
    settings = policy.sampling.model_dump() | {name: value for name, value in changes.items() if value is not None}
    sampling = type(policy.sampling).model_validate(settings)
    generator = torch.Generator().manual_seed(seed)
    view = policy.view(example_of(images, question))
    (drawn,) = policy.sample([view], [responses], generators=[generator], sampling=sampling)
    return drawn


def score_text(policy: Policy, images: Pictures, question: str, text: str, *, end: bool) -> TextScore:
    """Score a text as the response to a question; see ``Policy.score_text``."""
    ids: list[int] = policy.tokenizer(text, add_special_tokens=False)["input_ids"]
    banned_V = policy.distribution.banned_V
    impossible = [] if banned_V is None else [number for number in ids if bool(banned_V[number])]
    if impossible:
        token = policy.tokenizer.convert_ids_to_tokens(impossible[0])
        raise DataError(
            "A text that is scored has tokens that the policy can write.",
            reason=f"'{shown(text)}' has the special token {token}.",
            remedy="Leave it out; the end of the response is added by itself.",
        )
    if end:
        ids = [*ids, int(policy.eos_ids[0])]
    if not ids:
        raise DataError("A text that is scored has a token.", reason="It is empty.", remedy="Leave end at True.")
    ids_T = torch.tensor(ids, dtype=torch.long, device=policy.device)
    zeros_T = torch.zeros(len(ids), device=policy.device)
    response = Response(ids_T, text, zeros_T, zeros_T, truncated=not end)
    (scores,) = policy.score([policy.view(example_of(images, question))], [[response]])
    tokens = tuple(policy.tokenizer.convert_ids_to_tokens(ids))
    return TextScore(tokens, ids_T, scores.logp_NT[0].detach().float(), scores.entropies()[0].detach().float())
