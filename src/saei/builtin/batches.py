"""From examples and responses to padded tensors for the built-in model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from saei.builtin.architecture import IMAGE_TOKENS
from saei.builtin.vocabulary import IMAGE
from saei.data.templates import ThinkBoxed
from saei.types import Example

IGNORED = -100  # torch's label for positions without loss


@dataclass(frozen=True, eq=False, slots=True)
class Tools:
    """The tokenizer and the image processor of one model."""

    tokenizer: Any
    image_processor: Any

    def prompt(self, example: Example) -> list[int]:
        """Return the ids of an example's prompt, one image token per patch."""
        text = self.tokenizer.apply_chat_template(
            ThinkBoxed().messages(example), tokenize=False, add_generation_prompt=True
        )
        ids: list[int] = self.tokenizer(text.replace(IMAGE, IMAGE * IMAGE_TOKENS)).input_ids
        return ids

    def pixels(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        """Return ``pixel_values`` and ``image_grid_thw`` of examples with one image each."""
        images = [example.images[0] for example in examples]
        return dict(self.image_processor(images=images, return_tensors="pt"))

    def inputs(self, model: Any, examples: Sequence[Example], ids_RT: Tensor) -> dict[str, Tensor]:
        """Return the model's inputs for rows of prompt (and response) ids, padded at the right."""
        features = self.pixels(examples)
        is_image = (ids_RT == model.config.image_token_id).int()
        position_ids, _ = model.model.get_rope_index(ids_RT, is_image, features["image_grid_thw"])
        return {"input_ids": ids_RT, "position_ids": position_ids, **features}


@dataclass(frozen=True, slots=True)
class Demonstration:
    """One example with the response to learn from.

    Attributes:
        example: What is asked.
        response: What is answered.
        given: Beginning of the response that is told, not learnt: what follows is, the choice of it is not.
    """

    example: Example
    response: str
    given: str = ""


def demonstration_batch(tools: Tools, model: Any, shown: Sequence[Demonstration]) -> tuple[dict[str, Tensor], Tensor]:
    """Return the model's inputs and the labels, which cover what is learnt of the responses and their end tokens.

    Padding is at the right, where causal attention keeps it from every real token.
    """
    pad, end = tools.tokenizer.pad_token_id, tools.tokenizer.eos_token_id
    prompts = [tools.prompt(demonstration.example) for demonstration in shown]
    answers = [[*tools.tokenizer(demonstration.response).input_ids, end] for demonstration in shown]
    given_lengths = [len(tools.tokenizer(demonstration.given).input_ids) for demonstration in shown]
    length = max(len(p) + len(a) for p, a in zip(prompts, answers, strict=True))
    ids_RT = torch.full((len(shown), length), pad)
    labels_RT = torch.full((len(shown), length), IGNORED)
    for row, (prompt, answer, given_length) in enumerate(zip(prompts, answers, given_lengths, strict=True)):
        ids_RT[row, : len(prompt) + len(answer)] = torch.tensor(prompt + answer)
        labels_RT[row, len(prompt) + given_length : len(prompt) + len(answer)] = torch.tensor(answer[given_length:])
    return tools.inputs(model, [demonstration.example for demonstration in shown], ids_RT), labels_RT
