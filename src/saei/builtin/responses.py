"""Responses of a bare model, and their grades: what a base is measured by."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from saei.builtin.batches import Tools
from saei.rewards.accuracy_format import AccuracyFormat
from saei.rewards.base import Attempt
from saei.types import Example, Grade

MAX_TOKENS = 48


@torch.no_grad()
def respond(
    model: Any,
    tools: Tools,
    examples: Sequence[Example],
    *,
    begin: str = "",
    generator: torch.Generator | None = None,
) -> list[str]:
    """Return one response per example: sampled at temperature 1, or greedy without a generator.

    Args:
        model: The model.
        tools: Its tokenizer and image processor.
        examples: What is asked.
        begin: What every response is made to begin with.
        generator: Source of the draws.
    """
    texts = [""] * len(examples)
    for rows, prompt_RP in _batches(tools, examples, begin):
        ids = _continue(model, tools, [examples[i] for i in rows], prompt_RP, generator)
        for i, text in zip(rows, tools.tokenizer.batch_decode(ids, skip_special_tokens=True), strict=True):
            texts[i] = begin + text
    return texts


@torch.no_grad()
def next_token(model: Any, tools: Tools, examples: Sequence[Example], begin: str) -> Tensor:
    """Return ``[R, V]`` probabilities of the token that follows ``begin`` in a response to each example."""
    probabilities: list[Tensor] = [torch.empty(0)] * len(examples)
    for rows, prompt_RP in _batches(tools, examples, begin):
        output = model(**tools.inputs(model, [examples[i] for i in rows], prompt_RP), logits_to_keep=1)
        for i, probability_V in zip(rows, output.logits[:, -1].softmax(-1), strict=True):
            probabilities[i] = probability_V
    return torch.stack(probabilities)


def _batches(tools: Tools, examples: Sequence[Example], begin: str) -> list[tuple[list[int], Tensor]]:
    """Return the numbers of examples with prompts of one length, which need no padding, and the prompts' ids."""
    by_length: dict[int, list[int]] = defaultdict(list)
    begin_ids = tools.tokenizer(begin).input_ids
    prompts = [tools.prompt(example) + begin_ids for example in examples]
    for index, prompt in enumerate(prompts):
        by_length[len(prompt)].append(index)
    return [(rows, torch.tensor([prompts[i] for i in rows])) for rows in by_length.values()]


def _continue(
    model: Any, tools: Tools, examples: list[Example], prompt_RP: Tensor, generator: torch.Generator | None
) -> Tensor:
    end = tools.tokenizer.eos_token_id
    banned = [token for token in tools.tokenizer.all_special_ids if token != end]
    inputs = tools.inputs(model, examples, prompt_RP)
    position = inputs["position_ids"].amax(dim=(0, 2))
    output = model(**inputs, use_cache=True, logits_to_keep=1)
    ids: list[Tensor] = []
    done = torch.zeros(len(examples), dtype=torch.bool)
    for _ in range(MAX_TOKENS):
        logits_RV = output.logits[:, -1]
        logits_RV[:, banned] = -torch.inf
        if generator is None:
            token_R = logits_RV.argmax(-1)
        else:
            token_R = torch.multinomial(logits_RV.softmax(-1), 1, generator=generator)[:, 0]
        token_R = token_R.masked_fill(done, end)
        ids.append(token_R)
        done |= token_R == end
        if done.all():
            break
        position = position + 1
        output = model(
            input_ids=token_R[:, None],
            position_ids=position[None, :, None].expand(3, -1, 1),
            past_key_values=output.past_key_values,
            use_cache=True,
        )
    return torch.stack(ids, dim=1)


def grades(
    model: Any,
    tools: Tools,
    examples: Sequence[Example],
    *,
    begin: str = "",
    generator: torch.Generator | None = None,
) -> list[Grade]:
    """Return the grade of one response per example; the arguments are those of ``respond``."""
    texts = respond(model, tools, examples, begin=begin, generator=generator)
    return AccuracyFormat().grade_all(list(map(Attempt, examples, texts)))
