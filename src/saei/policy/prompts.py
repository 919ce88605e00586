"""Prompts: what the official processor makes of a conversation and its pictures."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from saei.errors import ModelError

_IDS = frozenset({"input_ids", "attention_mask"})
_BLANK = (64, 64)


@dataclass(frozen=True, eq=False, slots=True)
class Prompt:
    """A prompt as the model takes it.

    Attributes:
        ids_P: int64, image placeholders expanded.
        token_inputs: The model's further inputs of one value per token, ``[P + 1, ...]``; the last is for the tokens of
            a response.
        images: Its inputs that come from the pictures.
    """

    ids_P: Tensor
    token_inputs: Mapping[str, Tensor]
    images: Mapping[str, Tensor]


class Prompts:
    """Asks a model's processor.

    Args:
        model: The model, which tells by its forward's arguments which of the processor's outputs it takes.
        processor: Its processor.

    Raises:
        ModelError: If they make no prompt of a picture.

    Attributes:
        example: The model's inputs for a prompt with one picture.
    """

    def __init__(self, model: Any, processor: Any) -> None:
        self._processor = processor
        self._tokenizer = processor.tokenizer
        self._accepted = set(inspect.signature(model.base_model.forward).parameters)
        template = processor.chat_template or processor.tokenizer.chat_template
        self._template = template["default"] if isinstance(template, dict) else template
        blank = Image.new("RGB", _BLANK)
        try:
            self._of_images = set(processor.image_processor(images=[blank], return_tensors="pt"))
            self.example = self._ask(self._placeholders(1), [blank])
            self._of_tokens = {name for name in self.example if name not in self._of_images | _IDS}
            self._response = self._response_inputs(self._placeholders(1), blank)
        except Exception as error:  # each class has its own ways to miss something
            raise ModelError(
                "A model's processor and chat template have to make a prompt of a picture.",
                reason=f"{type(processor).__name__} raised {type(error).__name__}: {error}.",
                remedy="Give a checkpoint whose chat template knows images, with its whole processor_config.json.",
            ) from error

    def text(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """Return a conversation as text that ends where the response begins."""
        return str(
            self._tokenizer.apply_chat_template(
                messages, chat_template=self._template, tokenize=False, add_generation_prompt=True
            )
        )

    def unexpanded(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """Return a conversation's ids with the chat template's own placeholders, as before the processor reads it."""
        text = self.text(messages)
        return list(self._tokenizer(text, **self._options(text))["input_ids"])

    def __call__(self, messages: Sequence[Mapping[str, Any]], images: Sequence[Image.Image], *, where: str) -> Prompt:
        """Return the prompt of a conversation.

        Args:
            messages: Hugging Face chat messages.
            images: The pictures of their placeholders, in order.
            where: Names the prompt in errors.

        Raises:
            ModelError: If the chat template does not place one image per picture.
        """
        text = self.text(messages)
        try:
            found = self._ask(text, images)
        except (ValueError, IndexError, StopIteration) as error:
            raise ModelError(
                "The chat template has to place one image token per image.",
                reason=f"Its text of the {len(images)} image(s) of {where} is refused: {error}.",
                remedy="Use a checkpoint whose chat template knows images.",
            ) from error
        ids_P = found["input_ids"][0].long()
        token_inputs = {}
        for name in sorted(self._of_tokens):
            if name in found:
                own = found[name][0]
                rest = self._response.get(name, own[-1:])
            elif name in self._response:  # a text without images goes without
                own, rest = torch.zeros_like(ids_P), self._response[name]
            else:
                continue
            token_inputs[name] = torch.cat([own, rest.to(own)])
        return Prompt(ids_P, token_inputs, {name: found[name] for name in self._of_images if name in found})

    def images(self, images: Sequence[Image.Image]) -> dict[str, Tensor]:
        """Return the model's inputs that come from the pictures of one prompt."""
        found = self._ask(self._placeholders(len(images)), images)
        return {name: value for name, value in found.items() if name in self._of_images}

    def _placeholders(self, count: int) -> str:
        content = [*({"type": "image"} for _ in range(count)), {"type": "text", "text": "?"}]
        return self.text([{"role": "user", "content": content}])

    def _ask(self, text: str, images: Sequence[Image.Image], **options: Any) -> dict[str, Tensor]:
        """Return what the model takes of the processor's output."""
        options |= self._options(text)
        pictures = [list(images)] if images else None
        try:
            output = self._processor(text=[text], images=pictures, return_tensors="pt", **options)
        except ValueError:
            if images:
                raise
            output = self._tokenizer([text], return_tensors="pt", **options)  # some processors insist on a picture
        return {name: value for name, value in output.items() if name in self._accepted and isinstance(value, Tensor)}

    def _options(self, text: str) -> dict[str, bool]:
        """Return how a text is tokenized: by transformers' own rule for chat templates it has no second beginning."""
        bos = self._tokenizer.bos_token
        return {"add_special_tokens": False} if bos and text.startswith(bos) else {}

    def _response_inputs(self, text: str, blank: Image.Image) -> dict[str, Tensor]:
        """Return what the tokens of a response get, ``[1]`` by name; masks are left out, which go on as they end.

        A processor with a notion of a response, the ``suffix``, is asked; to others it is text.
        """
        if "suffix" in inspect.signature(self._processor.__call__).parameters:
            answered = self._ask(text, [blank], suffix=["?"])
            return {name: answered[name][0, -1:] for name in self._of_tokens}
        return {name: torch.zeros(1, dtype=torch.long) for name in self._of_tokens if self.example[name].ndim == 2}
