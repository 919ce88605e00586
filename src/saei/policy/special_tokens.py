"""Special tokens: what a tokenizer or a processor reads as structure.

Data must not contain them: an image token in a question stands for a picture that is not there, an end of turn lets the
question write the policy's response. Of them the policy itself draws only those that end a response.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from saei.errors import ConfigError, DataError, ModelError, shown
from saei.policy.load.weights import Parts
from saei.types import Example

Message: TypeAlias = Mapping[str, Any]

_CONVERSATION = tuple(
    {"role": role, "content": [{"type": "text", "text": "?"}]} for role in ("user", "assistant", "user")
)


class SpecialTokens:
    """The special tokens of a model's tokenizer, processor and chat template.

    These are the tokens that the tokenizer marks as special except the unknown word, whatever the processor reads as a
    picture, and the added tokens that the chat template itself writes between turns, marked or not. Other added tokens,
    such as runs of spaces, HTML tags or ``<loc0012>``, are words.

    Args:
        tokenizer: The tokenizer.
        processor: The processor.
        render: Returns the text of a conversation.
    """

    def __init__(self, tokenizer: Any, processor: Any, render: Callable[[Sequence[Message]], str]) -> None:
        self._tokenizer = tokenizer
        added = tokenizer.added_tokens_decoder
        ids = {number for number, token in added.items() if token.special} | set(tokenizer.all_special_ids)
        ids |= set(getattr(processor, "image_token_ids", ()))
        try:
            ids |= set(self._ids(render(_CONVERSATION))) & set(added)
        except Exception:  # a chat template may refuse a conversation of several turns in its own way
            ids |= set(self._ids(render(_CONVERSATION[:1]))) & set(added)
        self._special = ids - {None, tokenizer.unk_token_id}
        # Processors search the text for these before it is tokenized.
        marks = {value for name, value in vars(processor).items() if name.endswith("_token") and isinstance(value, str)}
        self._marks = sorted(marks - {"", str(tokenizer.unk_token)})

    def first(self, text: str) -> str | None:
        """Return the first special token that a text contains, None if there is none."""
        for number in self._ids(text):
            if number in self._special:
                return str(self._tokenizer.convert_ids_to_tokens(number))
        return next((mark for mark in self._marks if mark in text), None)

    def check(self, example: Example, messages: Sequence[Message]) -> None:
        """Check the messages that a template makes of an example.

        Raises:
            DataError: If the example's own text contains a special token.
            ConfigError: If the template writes one.
        """
        for text in (text for message in messages for text in texts(message)):
            token = self.first(text)
            if token is None:
                continue
            if token in text.replace(example.question, "") and token not in example.question:
                raise ConfigError(
                    "A prompt template writes text; special tokens are the chat template's.",
                    reason=f"The template writes '{shown(token)}', which this model reads as structure.",
                    remedy="Reword it: template.instruction, or the template's own class.",
                )
            raise DataError(
                "A question may not contain a special token of the model.",
                reason=f"The question of example '{shown(example.id)}' contains '{shown(token)}', which would be read "
                "as structure and not as text.",
                remedy="Reword the question, or leave the example out.",
            )

    def _ids(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])


def texts(message: Message) -> list[str]:
    """Return the texts of a message."""
    content = message["content"]
    return [content] if isinstance(content, str) else [part["text"] for part in content if part.get("text")]


def end_ids(parts: Parts) -> Tensor:
    """Return every id that the model's generation config or the tokenizer names as an end of sequence.

    Raises:
        ModelError: If there is none.
    """
    ids = getattr(parts.model.generation_config, "eos_token_id", None)
    ids = [ids] if isinstance(ids, int) else list(ids or [])
    if parts.tokenizer.eos_token_id is not None:
        ids.append(parts.tokenizer.eos_token_id)
    if not ids:
        raise ModelError(
            "A policy needs an end-of-sequence token.",
            reason="Neither the generation config nor the tokenizer names one.",
            remedy="Set eos_token_id in generation_config.json.",
        )
    return torch.tensor(sorted(set(ids)))


def banned_ids(parts: Parts, processor: Any, eos_ids: Tensor) -> Tensor:
    """Return ``[V]`` bool, True on ids that are never sampled: special tokens except the ends, and ids without a token.

    A sampled image token would stand for an image that is not there.
    """
    size = parts.model.get_output_embeddings().weight.shape[0]
    banned_V = torch.zeros(size, dtype=torch.bool)
    banned_V[len(parts.tokenizer) :] = True
    special = {number for number, token in parts.tokenizer.added_tokens_decoder.items() if token.special}
    special |= {*parts.tokenizer.all_special_ids, parts.model.config.image_token_id, *processor.image_token_ids}
    special.discard(None)
    banned_V[[number for number in special if number < size]] = True
    banned_V[eos_ids.cpu()] = False
    return banned_V
