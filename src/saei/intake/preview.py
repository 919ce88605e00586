"""Examples as the policy gets them: sizes of the images, the prompt with its special tokens, its length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from saei.data.base import Split, Task
from saei.errors import DataError
from saei.intake.inspect import inspect_example
from saei.intake.reports import ExampleReport
from saei.intake.scan import ScanResult, left_out, scan
from saei.policy import Policy
from saei.rewards.base import Reward
from saei.types import View


@dataclass(frozen=True, slots=True)
class Preview:
    """One example as the policy sees it.

    Attributes:
        id: The example's.
        question: The question, without the prompt template.
        answer: The gold answer.
        meta: The task's further data.
        images: Width and height of each image, before and after the processor.
        prompt: The prompt's tokens as text; a run of image tokens is written ``<|image_pad|> x 256``.
        tokens: Tokens of the prompt, those of the images included.
    """

    id: str
    question: str
    answer: str
    meta: Mapping[str, Any]
    images: tuple[tuple[tuple[int, int], tuple[int, int]], ...]
    prompt: str
    tokens: int


def preview(policy: Policy, view: View) -> Preview:
    """Return a view's example as the policy sees it."""
    example = view.example
    sizes = [
        (image.size, (int(canvas.shape[-1]), int(canvas.shape[-2])))
        for image, canvas in zip(example.images, view.canvases, strict=True)
    ]
    return Preview(
        example.id,
        example.question,
        example.answer,
        dict(example.meta),
        tuple(sizes),
        prompt_text(policy, view.prompt_ids_P.tolist()),
        len(view.prompt_ids_P),
    )


def preview_examples(
    task: Task, policy: Policy, split: Split, *, reward: Reward, indices: Sequence[int], count: int
) -> tuple[list[Preview], ScanResult]:
    """Return previews of the first usable examples and reports on all, each image decoded once.

    Args:
        task: Where examples come from.
        policy: Makes the views.
        split: Which split.
        reward: Checks that an example's gold answer can be read.
        indices: The examples that are inspected.
        count: Number of previews.
    """
    previews: list[Preview] = []
    reports: list[ExampleReport] = []
    for index in indices:
        if len(previews) == count:
            break
        try:
            view = inspect_example(task, policy, index, split, reward=reward)
        except DataError as error:
            reports.append(left_out(index, error))
        else:
            previews.append(preview(policy, view))
            reports.append(ExampleReport(index, tokens=len(view.prompt_ids_P)))
    rest = scan(task, policy, split, reward=reward, indices=indices[len(reports) :])
    return previews, ScanResult(split, [*reports, *rest])


def prompt_text(policy: Policy, ids: list[int]) -> str:
    """Return a prompt's ids as text, special tokens included and each run of image tokens as one."""
    image_id = policy.model.config.image_token_id
    parts = []
    for is_image, run in groupby(ids, key=lambda token: token == image_id):
        tokens = list(run)
        text = policy.tokenizer.decode(tokens[:1] if is_image else tokens, skip_special_tokens=False)
        parts.append(f"{text} x {len(tokens)}" if is_image and len(tokens) > 1 else text)
    return "".join(parts)
