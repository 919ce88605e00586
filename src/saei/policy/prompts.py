"""Prompts: what the official processor makes of a conversation and its pictures."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from saei.errors import DataError, ModelError, shown
from saei.policy.special_tokens import Message, SpecialTokens, texts
from saei.types import Example

_IDS = frozenset({"input_ids", "attention_mask"})
_BLANK = (64, 64)
_IMAGE = {"type": "image"}
_BEFORE, _BEHIND = "saei-before", "saei-behind"
"""Texts that show where a chat template writes images."""

_PROBE = "saei's \\probe"
"""A text that shows whether a template writes it as text: in a printed list its quote or backslash is escaped."""


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
    """Makes prompts with a model's processor.

    Args:
        model: The model; the arguments of its forward decide which of the processor's outputs are used.
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
        self._written: set[tuple[tuple[str, int], ...]] = set()
        blank = Image.new("RGB", _BLANK)
        try:
            self._of_images = set(processor.image_processor(images=[blank], return_tensors="pt"))
            self.example = self._inputs(self._placeholders(1), [blank])
            self._of_tokens = {name for name in self.example if name not in self._of_images | _IDS}
            self._response = self._response_inputs(self._placeholders(1), blank)
            self._special_tokens = SpecialTokens(self._tokenizer, processor, self.text)
        except Exception as error:  # each class fails in its own way
            raise ModelError(
                "A model's processor and chat template have to make a prompt of a picture.",
                reason=f"{type(processor).__name__} raised {type(error).__name__}: {error}.",
                remedy="Give a checkpoint whose chat template knows images, with its whole processor_config.json.",
            ) from error

    def text(self, messages: Sequence[Message]) -> str:
        """Return a conversation as text that ends where the response begins, with images where the messages have them.

        Raises:
            DataError: If an image follows text, and the chat template can only put it elsewhere.
        """
        return self._rendered([self._in_order(message) for message in messages])

    def _rendered(self, messages: Sequence[Message]) -> str:
        return str(
            self._tokenizer.apply_chat_template(
                messages, chat_template=self._template, tokenize=False, add_generation_prompt=True
            )
        )

    def unexpanded(self, messages: Sequence[Message]) -> list[int]:
        """Return a conversation's ids with the chat template's own placeholders, as before the processor reads it."""
        text = self.text(messages)
        return list(self._tokenizer(text, **self._options(text))["input_ids"])

    def encode(self, text: str) -> tuple[list[int], list[tuple[int, int]]] | None:
        """Return a rendered conversation's ids as before the processor reads it, and each one's characters in the text.

        None if the tokenizer cannot tell the latter, which the fast ones can.
        """
        if not self._tokenizer.is_fast:
            return None
        encoded = self._tokenizer(text, return_offsets_mapping=True, **self._options(text))
        return list(encoded["input_ids"]), [(int(start), int(end)) for start, end in encoded["offset_mapping"]]

    def has_special_token(self, text: str) -> bool:
        """Return whether a part of a text would be read as structure."""
        return self._special_tokens.first(text) is not None

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids as it is, special tokens and spaces included."""
        return str(self._tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def _in_order(self, message: Message) -> Message:
        """Return a message whose images stay in place even if the chat template writes all images first.

        For such a template images after text become part of the text, as the template itself writes an image.
        """
        content = message["content"]
        kinds = [] if isinstance(content, str) else [part["type"] for part in content]
        first = kinds.index("text") if "text" in kinds else len(kinds)
        if "image" not in kinds[first:] or self._keeps_order:
            return message
        text = "".join(self._image_text if part["type"] == "image" else part["text"] for part in content[first:])
        return {**message, "content": [*content[:first], {"type": "text", "text": text}]}

    @cached_property
    def _keeps_order(self) -> bool:
        """Whether the chat template writes the parts of a message in their order."""
        before, behind = _text(_BEFORE), _text(_BEHIND)
        written = self._rendered([_user(before, _IMAGE, behind)])
        together = self._rendered([_user(before, behind)])
        return len(_between(written)) > len(_between(together))

    @cached_property
    def _image_text(self) -> str:
        """What the chat template writes for an image.

        Raises:
            DataError: If the template writes images in a place of its own.
        """
        start, _, _ = self._rendered([_user(_text(_BEFORE))]).partition(_BEFORE)
        written, _, _ = self._rendered([_user(_IMAGE, _text(_BEFORE))]).partition(_BEFORE)
        image = written.removeprefix(start).strip()
        if not image or not written.startswith(start):
            raise DataError(
                "An image marker inside of a question needs a chat template that can place the image.",
                reason="This one writes images in a place of its own.",
                remedy="Move the markers to the beginning of the questions, or use another checkpoint.",
            )
        return image

    def __call__(self, messages: Sequence[Message], images: Sequence[Image.Image], *, example: Example) -> Prompt:
        """Return the prompt of a conversation.

        Args:
            messages: Hugging Face chat messages.
            images: The pictures of their placeholders, in order.
            example: What the messages were made of.

        Raises:
            DataError: If the example's text contains a special token, or the processor refuses text and pictures.
            ConfigError: If the prompt template writes a special token.
            ModelError: If the chat template leaves a turn out.
        """
        self._special_tokens.check(example, messages)
        self._check_turns(messages)
        text = self.text(messages)
        try:
            inputs = self._inputs(text, images)
        except (ValueError, IndexError, StopIteration) as error:
            # The policy was built with a prompt of one picture, so the fault is in this example.
            raise DataError(
                "A model's processor has to take an example's text and pictures.",
                reason=f"That of example '{shown(example.id)}', with {len(images)} image(s), is refused: {error}.",
                remedy="Mend the example or leave it out; some models take one image per prompt.",
            ) from error
        ids_P = inputs["input_ids"][0].long()
        token_inputs = {}
        for name in sorted(self._of_tokens):
            if name in inputs:
                of_prompt = inputs[name][0]
                of_response = self._response.get(name, of_prompt[-1:])
            elif name in self._response:  # some processors leave it out for a text without images
                of_prompt, of_response = torch.zeros_like(ids_P), self._response[name]
            else:
                continue
            token_inputs[name] = torch.cat([of_prompt, of_response.to(of_prompt)])
        return Prompt(ids_P, token_inputs, {name: inputs[name] for name in self._of_images if name in inputs})

    def _check_turns(self, messages: Sequence[Message]) -> None:
        """Check once per kind of conversation that the chat template writes the text of every turn.

        Raises:
            ModelError: If it refuses a turn or leaves one out.
        """
        kind = tuple((str(message["role"]), len(texts(message))) for message in messages)
        if kind in self._written:
            return
        probes = [{**message, "content": _with_probe(message, f"{_PROBE} {n}.")} for n, message in enumerate(messages)]
        try:
            text = self.text(probes)
        except DataError:  # a picture that the template cannot place
            raise
        except Exception as error:  # a template raises what it likes, most often jinja2's TemplateError
            refused = next((m for m in messages if m["role"] == "system"), messages[-1])
            raise _turn_left_out(refused, f"refuses it: {error}") from error
        for n, message in enumerate(messages):
            if texts(message) and f"{_PROBE} {n}." not in text:
                raise _turn_left_out(message, "leaves its text out")
        self._written.add(kind)

    def images(self, images: Sequence[Image.Image]) -> dict[str, Tensor]:
        """Return the model's inputs that come from the pictures of one prompt."""
        inputs = self._inputs(self._placeholders(len(images)), images)
        return {name: value for name, value in inputs.items() if name in self._of_images}

    def _placeholders(self, count: int) -> str:
        return self._rendered([_user(*[_IMAGE] * count, _text("?"))])

    def _inputs(self, text: str, images: Sequence[Image.Image], **options: Any) -> dict[str, Tensor]:
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
        """Return the tokenizer's options for a text; as in transformers, a text with a BOS token gets no second one."""
        bos = self._tokenizer.bos_token
        return {"add_special_tokens": False} if bos and text.startswith(bos) else {}

    def _response_inputs(self, text: str, blank: Image.Image) -> dict[str, Tensor]:
        """Return the token inputs of a response's tokens, ``[1]`` by name; masks are left out: their last row is used.

        A processor that knows responses has the argument ``suffix``; for others a response is text, of type 0.
        """
        if "suffix" in inspect.signature(self._processor.__call__).parameters:
            inputs = self._inputs(text, [blank], suffix=["?"])
            return {name: inputs[name][0, -1:] for name in self._of_tokens}
        return {name: torch.zeros(1, dtype=torch.long) for name in self._of_tokens if self.example[name].ndim == 2}


def _text(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def _user(*parts: Mapping[str, str]) -> dict[str, Any]:
    return {"role": "user", "content": list(parts)}


def _between(written: str) -> str:
    return written.partition(_BEFORE)[2].partition(_BEHIND)[0]


def _with_probe(message: Message, text: str) -> Any:
    """Return a message's content with each of its texts replaced."""
    content = message["content"]
    if isinstance(content, str):
        return text
    return [{**part, "text": text} if part.get("text") else part for part in content]


def _turn_left_out(message: Message, how: str) -> ModelError:
    role = message["role"]
    remedy = "Use a template without a system turn, --set template=think-boxed," if role == "system" else "Use another"
    return ModelError(
        f"A chat template has to write the {role} turn that the prompt template asks for.",
        reason=f"The checkpoint's chat template {how}.",
        remedy=f"{remedy} {'or a' if role == 'system' else 'template, or a'} checkpoint whose chat template has one.",
    )
