"""Groups for tests: views, hand-made and drawn responses, and the policy's own forward as reference."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from saei.policy import Policy
from saei.policy.pixels.space import to_image
from saei.runtime.seeds import GroupSources
from saei.samplers.base import Sampler, StepContext, Supply
from saei.types import Grade, Group, Response, View


def sources(count: int, seed: int = 0) -> list[torch.Generator]:
    """Sources of randomness, one per view."""
    return [torch.Generator().manual_seed(100 * seed + number) for number in range(count)]


def draw(policy: Policy, views: list[View], counts: list[int], seed: int = 0) -> list[list[Response]]:
    return policy.sample(views, counts, generators=sources(len(views), seed))


def spoken(policy: Policy, text: str, *, end: bool = True) -> Response:
    """A response of a given text; its entropies are 0, 1, 2, … nats."""
    ids = policy.tokenizer(text, add_special_tokens=False)["input_ids"] + [policy.tokenizer.eos_token_id] * end
    ramp = torch.arange(len(ids), dtype=torch.float32)
    return Response(torch.tensor(ids, dtype=torch.long), text, -ramp, ramp, truncated=not end)


def no_grades(view: View, responses: object) -> list[Grade]:
    raise AssertionError("nobody asked for grades")


def draw_groups(sampler: Sampler, policy: Policy, views: Sequence[View]) -> list[Group]:
    """A sampler's groups in the first step, whose responses nobody grades."""
    return sampler.draw(views, StepContext(policy, 0.0, GroupSources(0)), Supply(no_grades))


def official_inputs(policy: Policy, view: View, ids_T: Tensor) -> dict[str, Tensor]:
    """What the model's processor makes of a view's prompt and pictures, gone on with a response's tokens."""
    text = policy.tokenizer.apply_chat_template(
        policy.template.messages(view.example), tokenize=False, add_generation_prompt=True
    )
    pictures = [to_image(canvas) for canvas in view.canvases]
    prefix_lm = "suffix" in inspect.signature(policy.processor.__call__).parameters
    if prefix_lm and not pictures:  # PaliGemma's processor refuses a text without a picture
        inputs = dict(policy.tokenizer([text], return_tensors="pt"))
        inputs["token_type_ids"] = torch.zeros_like(inputs["input_ids"])
    else:
        inputs = dict(policy.processor(text=[text], images=[pictures] if pictures else None, return_tensors="pt"))
    inputs.pop("labels", None)
    rest = {
        "input_ids": ids_T,
        "attention_mask": torch.ones_like(ids_T),
        "mm_token_type_ids": torch.zeros_like(ids_T),
        "token_type_ids": torch.full_like(ids_T, int(prefix_lm)),
    }
    if "cross_attention_mask" in inputs:
        rest["cross_attention_mask"] = inputs["cross_attention_mask"][0, -1:].expand(len(ids_T), -1, -1)
    joined = {name: torch.cat([own, rest[name][None]], 1) if name in rest else own for name, own in inputs.items()}
    dtype = policy.model.dtype  # Llama 4's processor gives bfloat16 whatever the model takes
    return {name: own.to(dtype) if own.is_floating_point() else own for name, own in joined.items()}


def own_forward(policy: Policy, view: View, response: Response, canvas: Tensor | None = None) -> Tensor:
    """Log-probabilities ``[T, V]`` of one response's positions by the model's own forward, one row, no packing."""
    canvases = view.canvases if canvas is None else (canvas,)
    inputs = official_inputs(policy, view, response.ids_T) | policy.pixels.inputs([canvases])
    logits = policy.model(**inputs).logits
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
