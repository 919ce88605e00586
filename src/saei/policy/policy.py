"""The policy: any Hugging Face vision-language model as something that looks, samples and scores."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saei.config import EntropyConfig, ModelConfig, SamplingConfig
from saei.data.base import Template
from saei.errors import DataError, ModelError
from saei.policy.adapters import SwitchedOff, save_adapter
from saei.policy.loading import Parts, load_parts
from saei.policy.module import Distribution, PolicyModule
from saei.policy.pixels import PixelSpace
from saei.policy.prefix import Grad, Prefix
from saei.types import CLEAN, Example, View


class Policy:
    """A vision-language policy.

    Args:
        parts: Model, tokenizer and image processor.
        template: How examples are asked.
        sampling: Its temperature defines the policy's distribution.
        entropy: Which distribution entropies are taken of.
        shared_prefix: Compute a view's prompt once for all of its responses.

    Attributes:
        module: What every pass enters through; a run replaces it by ``accelerator.prepare``'s result.
        distribution: The one definition of the policy.
        eos_ids: The ids that end a response.
        pixels: The pixel space of the image processor.
    """

    def __init__(
        self,
        parts: Parts,
        template: Template,
        *,
        sampling: SamplingConfig | None = None,
        entropy: EntropyConfig | None = None,
        shared_prefix: bool = True,
    ) -> None:
        sampling, entropy = sampling or SamplingConfig(), entropy or EntropyConfig()
        self.parts = parts
        self.template = template
        self.shared_prefix = shared_prefix
        self.module: Any = PolicyModule(parts.model)
        self.tokenizer = parts.tokenizer
        self.pixels = PixelSpace(parts.image_processor)
        self.sampling = sampling
        self.eos_ids = _eos_ids(parts).to(self.device)
        self._banned_V = _banned(parts, self.eos_ids).to(self.device)
        self.distribution = self.distribution_of(
            sampling, entropy_temperature=None if entropy.temperature == "sampling" else entropy.temperature
        )

    @classmethod
    def load(
        cls,
        model: ModelConfig,
        template: Template,
        *,
        sampling: SamplingConfig | None = None,
        entropy: EntropyConfig | None = None,
    ) -> Policy:
        """Load a policy from a folder or a hub.

        Raises:
            ModelError: If the model or its processors do not load.
        """
        parts = load_parts(model)
        return cls(parts, template, sampling=sampling, entropy=entropy, shared_prefix=model.shared_prefix)

    @property
    def model(self) -> Any:
        """The underlying Hugging Face model."""
        return self.parts.model

    @property
    def device(self) -> torch.device:
        """The device of the model's weights."""
        device: torch.device = next(self.parts.model.parameters()).device
        return device

    def distribution_of(self, sampling: SamplingConfig, entropy_temperature: float | None = None) -> Distribution:
        """Return the policy at a temperature; greedy decoding reports the log-probabilities of temperature 1.

        Args:
            sampling: Its temperature is used.
            entropy_temperature: Temperature of the entropies, None for the sampling temperature.
        """
        return Distribution(sampling.temperature or 1.0, entropy_temperature, self._banned_V)

    def view(self, example: Example) -> View:
        """Return the clean view of an example.

        Raises:
            DataError: If an image cannot be read or the prompt leaves no room for a response.
            ModelError: If the chat template does not place one image per image of the example.
        """
        canvases = tuple(self.pixels.canvas(image).to(self.device) for image in example.images)
        inputs = self.pixels.inputs(canvases)
        ids_P = self._prompt(example, [self._image_tokens(canvas) for canvas in canvases])
        config = self.model.config.get_text_config()
        room = getattr(config, "max_position_embeddings", None)
        if room is not None and len(ids_P) + self.sampling.max_new_tokens > room:
            raise DataError(
                "A prompt and its longest response have to fit the model's context.",
                reason=f"Example '{example.id}' has {len(ids_P)} prompt tokens, sampling.max_new_tokens is "
                f"{self.sampling.max_new_tokens}, the context {room}.",
                remedy="Lower model.max_pixels or sampling.max_new_tokens, or leave the example out.",
            )
        return View(example, CLEAN, ids_P, self._positions(ids_P, inputs), canvases)

    def open(self, views: Sequence[View], grad: Grad = "none", pixels: Sequence[Tensor] | None = None) -> Prefix:
        """Open views for sampling and scoring.

        Args:
            views: What the policy looks at.
            grad: What scores may be differentiated by: nothing, the pixels, or the parameters.
            pixels: Canvases that replace the views' own, in order, such as a point of an attack.
        """
        return Prefix(self, views, grad, pixels)

    def without_adapter(self) -> Policy:
        """Return the policy with its adapters switched off: LoRA's reference, in the memory of the same weights."""
        assert self.parts.adapter is not None
        below = copy(self)
        below.module = SwitchedOff(self.parts.adapter, self.module)
        return below

    def save(self, folder: Path) -> None:
        """Write model, tokenizer and image processor as one folder that the Auto classes of transformers load.

        Under LoRA the adapter takes the model's place, as peft writes it.
        """
        if self.parts.adapter is None:
            self.model.save_pretrained(folder)
        else:
            save_adapter(self.parts.adapter, folder)
        self.tokenizer.save_pretrained(folder)
        self.parts.image_processor.save_pretrained(folder)
        if self.parts.chat_template:
            (folder / "chat_template.jinja").write_text(self.parts.chat_template, encoding="utf-8")

    def _prompt(self, example: Example, image_tokens: Sequence[int]) -> Tensor:
        """Return the prompt's ids with each image placeholder expanded to its number of image tokens."""
        kwargs = {"chat_template": self.parts.chat_template} if self.parts.chat_template else {}
        text = self.tokenizer.apply_chat_template(
            self.template.messages(example), tokenize=False, add_generation_prompt=True, **kwargs
        )
        image_id = self.model.config.image_token_id
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        if ids.count(image_id) != len(image_tokens):
            raise ModelError(
                "The chat template has to place one image token per image.",
                reason=f"It placed {ids.count(image_id)} for the {len(image_tokens)} image(s) of '{example.id}'.",
                remedy="Use a checkpoint whose chat template knows images.",
            )
        remaining = iter(image_tokens)
        expanded = [token for id_ in ids for token in ([id_] * next(remaining) if id_ == image_id else [id_])]
        return torch.tensor(expanded, dtype=torch.long, device=self.device)

    def _image_tokens(self, canvas: Tensor) -> int:
        """Return how many tokens the language model sees of a canvas."""
        grid = self.pixels.map((canvas.shape[-2], canvas.shape[-1])).extras["image_grid_thw"]
        merge: int = self.model.config.vision_config.spatial_merge_size
        return int(grid.prod()) // merge**2

    def _positions(self, ids_P: Tensor, inputs: dict[str, Tensor]) -> Tensor:
        """Return the prompt's rotary positions ``[K, P]``; found out from the model."""
        if not hasattr(self.model.base_model, "get_rope_index"):
            return torch.arange(len(ids_P), device=ids_P.device)[None]
        positions_3BP, _ = self.model.base_model.get_rope_index(
            ids_P[None],
            mm_token_type_ids=(ids_P == self.model.config.image_token_id).int()[None],
            image_grid_thw=inputs.get("image_grid_thw"),
        )
        return torch.as_tensor(positions_3BP[:, 0])


def _eos_ids(parts: Parts) -> Tensor:
    """Return every id that the model's generation config or the tokenizer names as an end of sequence."""
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


def _banned(parts: Parts, eos_ids: Tensor) -> Tensor:
    """Return the mask of ids that must not be sampled: special tokens but the ends, and ids without a token.

    A generated image token would ask for an image that is not there.
    """
    size = parts.model.get_output_embeddings().weight.shape[0]
    banned_V = torch.zeros(size, dtype=torch.bool)
    banned_V[len(parts.tokenizer) :] = True
    special = {number for number, token in parts.tokenizer.added_tokens_decoder.items() if token.special}
    special |= {*parts.tokenizer.all_special_ids, parts.model.config.image_token_id}
    banned_V[[number for number in special if number < size]] = True
    banned_V[eos_ids.cpu()] = False
    return banned_V
