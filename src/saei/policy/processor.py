"""Tokenizer and image processor as one processor, where transformers' own does not load."""

from __future__ import annotations

from typing import Any

from transformers import ProcessorMixin

from saei.errors import ModelError
from saei.policy.loading import Parts


class ImageTextProcessor(ProcessorMixin):  # type: ignore[misc]  # transformers has no types
    """Does for text and images what a model's own processor does, without its video processor.

    Args:
        image_processor: One that returns ``image_grid_thw``, such as Qwen2-VL's.
        tokenizer: Its ``image_token`` stands once per image in a prompt.
        chat_template: None for the tokenizer's own.
    """

    return_mm_token_type_ids = True

    def __init__(self, image_processor: Any, tokenizer: Any, chat_template: str | None = None) -> None:
        self.image_token = tokenizer.image_token
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        super().__init__(image_processor, tokenizer, chat_template=chat_template or tokenizer.chat_template)

    def replace_image_token(self, image_inputs: dict[str, Any], image_idx: int, **kwargs: Any) -> str:
        """Return one image token for each that the language model sees of an image."""
        patches = int(image_inputs["image_grid_thw"][image_idx].prod())
        return str(self.image_token) * (patches // self.image_processor.merge_size**2)


def processor_of(parts: Parts, path: str) -> Any:
    """Return the processor of a model's folder or hub id, or one of its parts where it does not load.

    Raises:
        ModelError: If it does not load, and its parts are not of the kind that can be put together here.
    """
    from transformers import AutoProcessor

    try:
        return AutoProcessor.from_pretrained(path)
    except Exception as error:
        if hasattr(parts.tokenizer, "image_token") and hasattr(parts.image_processor, "merge_size"):
            return ImageTextProcessor(parts.image_processor, parts.tokenizer, parts.chat_template)
        raise ModelError(
            "This way of training needs the model's processor as a whole.",
            reason=f"AutoProcessor raised {type(error).__name__} for '{path}': {error}",
            remedy="Install what it asks for (often torchvision: pip install 'saei[vlm]').",
        ) from error
