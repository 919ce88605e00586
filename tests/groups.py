"""Groups for tests: views, hand-made and drawn responses, and the policy's own forward as reference."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from saei.policy import Policy
from saei.types import Grade, Response, View


def draw(policy: Policy, views: list[View], counts: list[int], seed: int = 0) -> list[list[Response]]:
    with policy.open(views) as prefix:
        return prefix.sample(counts, generator=torch.Generator().manual_seed(seed))


def spoken(policy: Policy, text: str, *, end: bool = True) -> Response:
    """A response of a given text; its entropies are 0, 1, 2, … nats."""
    ids = policy.tokenizer(text, add_special_tokens=False)["input_ids"] + [policy.tokenizer.eos_token_id] * end
    ramp = torch.arange(len(ids), dtype=torch.float32)
    return Response(torch.tensor(ids, dtype=torch.long), text, -ramp, ramp, truncated=not end)


def no_grades(view: View, responses: object) -> list[Grade]:
    raise AssertionError("nobody asked for grades")


def own_forward(policy: Policy, view: View, response: Response, canvas: Tensor | None = None) -> Tensor:
    """Log-probabilities ``[T, V]`` of one response's positions by the model's own forward, one row, no packing."""
    canvas = view.canvases[0] if canvas is None else canvas
    pixels = policy.pixels.map((canvas.shape[-2], canvas.shape[-1]))
    ids = torch.cat([view.prompt_ids_P, response.ids_T])[None]
    logits = policy.model(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        mm_token_type_ids=(ids == policy.model.config.image_token_id).int(),
        pixel_values=pixels(canvas),
        **pixels.extras,
    ).logits
    banned_V = policy.distribution.banned_V
    assert banned_V is not None
    kept = logits[0, len(view.prompt_ids_P) - 1 : -1] / policy.sampling.temperature
    return kept.masked_fill(banned_V, -1e9).log_softmax(-1)


def token_logp(policy: Policy, view: View, response: Response) -> Tensor:
    """Log-probability of each token of a response, ``[T]``."""
    return own_forward(policy, view, response).gather(-1, response.ids_T[:, None])[:, 0]


def cut(response: Response, length: int, *, truncated: bool = True) -> Response:
    """The first tokens of a response."""
    return replace(
        response,
        ids_T=response.ids_T[:length],
        behaviour_logp_T=response.behaviour_logp_T[:length],
        entropy_T=response.entropy_T[:length],
        truncated=truncated,
    )
