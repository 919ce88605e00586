"""A model in two halves: the hidden states of its rows, and the logits that it computes from them.

Only some tokens are scored, so logits are computed from chosen hidden states instead of all. What a model does to the
values of its output layer is inferred from its own logits of one token.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from saei.errors import ModelError, out_of_memory

_SCALES = ("logit_scale", "logits_scaling", "output_multiplier")
"""Fields of configurations with a factor or a divisor of the logits; some models ignore their own."""

_CAP = "final_logit_softcapping"


@dataclass(frozen=True, slots=True)
class Readout:
    """From the output layer's values to logits: ``cap · tanh(scale · value / cap)``; no cap, no tanh."""

    scale: float = 1.0
    cap: float | None = None

    def __call__(self, values: Tensor) -> Tensor:
        """Return logits."""
        if self.scale != 1.0:
            values = values * self.scale
        return values if self.cap is None else self.cap * torch.tanh(values / self.cap)


OFFSET = "offset"
"""The name of an ``Offset`` among the arguments of ``hidden_states``."""


@dataclass(frozen=True, eq=False, slots=True)
class Offset:
    """What is added to the current embeddings of K tokens, whatever these are when it is added.

    Attributes:
        row_K: int64 rows of the tokens.
        column_K: int64 columns.
        values_Kd: float32, in the units of the embedding layer's output.
    """

    row_K: Tensor
    column_K: Tensor
    values_Kd: Tensor

    def added_to(self, embeddings_BSd: Tensor) -> Tensor:
        """Return embeddings with the offset."""
        values_Kd = self.values_Kd.to(embeddings_BSd)
        return embeddings_BSd.index_put((self.row_K, self.column_K), values_Kd, accumulate=True)


def hidden_states(model: Any, *, offset: Offset | None = None, **inputs: Any) -> tuple[Tensor, Any]:
    """Return the last hidden states ``[B, S, d]`` of a model's rows and its cache.

    Args:
        model: The model.
        offset: What is added to its embeddings, before pictures take their places among them.
        inputs: Its arguments.
    """
    with _with_offset(model, offset) if offset is not None else nullcontext():
        if model.base_model is not model:
            output = model.base_model(**inputs, return_dict=True)
            return output.last_hidden_state, output.past_key_values
        with _without_output_layer(model):  # a model that is not split in two modules
            output = model(**inputs, return_dict=True)
        return output.logits, output.past_key_values


@torch.no_grad()
def find_readout(model: Any, id_: int) -> Readout:
    """Infer what a model does to the values of its output layer from its logits of one token.

    Raises:
        ModelError: If no field of its configuration explains it.
    """
    ids_11 = torch.tensor([[id_]], device=next(model.parameters()).device)
    logits_V = model(input_ids=ids_11, use_cache=False).logits.flatten().float()
    values_V = model.get_output_embeddings()(hidden_states(model, input_ids=ids_11, use_cache=False)[0])
    values_V = values_V.flatten().float()
    config = model.config.get_text_config()
    numbers = [float(value) for name in _SCALES if (value := getattr(config, name, None))]
    scales = [1.0, *numbers, *(1 / number for number in numbers)]
    eps = max(torch.finfo(dtype).eps for dtype in (model.dtype, torch.float32))  # compared in float32
    tolerance = 16 * eps * float(logits_V.abs().max())
    for scale, cap in itertools.product(scales, (None, getattr(config, _CAP, None))):
        readout = Readout(scale, cap)
        if float((readout(values_V) - logits_V).abs().max()) <= tolerance:
            return readout
    raise ModelError(
        "A model's logits have to be known functions of its hidden states.",
        reason=f"{type(model).__name__} does more to them than its output layer, and its configuration has neither "
        f"{', '.join(_SCALES)} nor {_CAP} that would explain it.",
        remedy="Use another model.",
    )


@torch.no_grad()
def pixel_dtype(model: Any, inputs: Mapping[str, Tensor]) -> torch.dtype | None:
    """Return the type that a model in half precision requires of its pixels, None where it accepts float32.

    Args:
        model: The model.
        inputs: Its processor's output for some prompt with a picture.

    Raises:
        ModelError: If it accepts none.
    """
    device = next(model.parameters()).device
    moved = {name: value.to(device) for name, value in inputs.items()}
    for dtype in dict.fromkeys((torch.float32, model.dtype)):
        try:
            model(**{name: value.to(dtype) if value.is_floating_point() else value for name, value in moved.items()})
            return None if dtype == torch.float32 else dtype
        except (RuntimeError, ValueError, TypeError) as error:
            if out_of_memory(error):
                raise
            refusal = error
    raise ModelError(
        "A model has to take what its processor makes of a picture.",
        reason=f"{type(model).__name__} refuses it: {str(refusal).strip().splitlines()[0]}.",
        remedy="Give a checkpoint whose processor belongs to its model.",
    ) from refusal


@contextmanager
def _with_offset(model: Any, offset: Offset) -> Iterator[None]:
    """Let a model's embedding layer add an offset the first time that it is called, which is for its rows."""

    def add(_layer: Any, _inputs: Any, embeddings_BSd: Tensor) -> Tensor:
        hook.remove()
        return offset.added_to(embeddings_BSd)

    hook = model.get_input_embeddings().register_forward_hook(add)
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def _without_output_layer(model: Any) -> Iterator[None]:
    """Let a model return the hidden states in place of logits."""
    layer = model.get_output_embeddings()
    layer.forward = lambda hidden: hidden
    try:
        yield
    finally:
        del layer.forward
