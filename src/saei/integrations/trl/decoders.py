"""The two ways in which TRL holds a vLLM, as decoders: in this process, and as a server.

TRL's object of either is handed in, so that nothing here imports trl.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from saei.errors import ConfigError
from saei.integrations.vllm.engine import VLLM, sampling_parameters
from saei.policy import Policy
from saei.policy.decoder import Completion, Decoder, DrawRequest, check_prompt
from saei.policy.load.weights import Parts
from saei.policy.pixels.space import to_image


class Colocated(Decoder):
    """TRL's vLLM in this process; with ``vllm_enable_sleep_mode`` it is awake only while it draws.

    Args:
        generation: TRL's ``VLLMGeneration``.
    """

    def __init__(self, generation: Any) -> None:
        self._generation = generation
        self._vllm = VLLM(generation.llm)

    def draw(self, policy: Policy, request: DrawRequest) -> list[list[Completion]]:
        """Draw with TRL's engine, but by requests of our own: TRL's share one seed and expand pictures twice."""
        with _awake(self._generation):
            return self._vllm.draw(policy, request)

    def sync(self, policy: Policy) -> None:
        """Drop what is cached: TRL drops prompts alone, not what was computed of pictures."""
        self._vllm.sync(policy)


class Served(Decoder):
    """TRL's vLLM server. It places pictures in prompts that are expanded, and takes one seed for all: none is given.

    Args:
        generation: TRL's ``VLLMGeneration``.
    """

    def __init__(self, generation: Any) -> None:
        self._generation = generation

    def draw(self, policy: Policy, request: DrawRequest) -> list[list[Completion]]:
        """Draw by TRL's own call, in which all processes take part.

        Raises:
            ConfigError: If the responses are to be drawn at another temperature than the policy's.
        """
        generation, counts = self._generation, request.counts
        if request.distribution.temperature != policy.distribution.temperature:
            raise ConfigError(
                "A vLLM server draws at the policy's temperature, which TRL gives it.",
                reason=f"The sampler draws at {request.distribution.temperature:g}.",
                remedy="Draw with a vLLM in the same processes (vllm_mode=colocate), or without one.",
            )
        parameters = sampling_parameters(request.distribution, policy.eos_ids, request.sampling)
        generation.generation_kwargs = {name: parameters[name] for name in ("allowed_token_ids", "stop_token_ids")}
        rows = [view for view, count in zip(request.views, counts, strict=True) for _ in range(count)]
        pictures = [[to_image(canvas) for canvas in view.canvases] or None for view in rows]
        prompt_ids, ids, logps, _ = generation.generate(
            prompts=[view.prompt_ids_P.tolist() for view in rows],
            images=pictures if any(pictures) else None,
            num_generations=counts[0] if len(set(counts)) == 1 else 1,  # the server reads such a prompt once
        )
        for view, decoder_ids in zip(rows, prompt_ids, strict=True):
            check_prompt(view, decoder_ids)
        drawn = iter(
            Completion(row_ids, _log_probabilities(chances[0] for chances in row_logps))
            for row_ids, row_logps in zip(ids, logps, strict=True)
        )
        return [[next(drawn) for _ in range(count)] for count in counts]

    def sync(self, policy: Policy) -> None:
        """Leave the server's caches to TRL, which drops prompts; there is no call for pictures."""


def _log_probabilities(logps: Iterable[float | None]) -> Tensor:
    """Return float32 ``[T]``, NaN where the server gives none."""
    return torch.tensor([torch.nan if logp is None else logp for logp in logps], dtype=torch.float32)


@contextmanager
def _awake(generation: Any) -> Iterator[None]:
    """Wake TRL's vLLM up and let it sleep again, as TRL's own call does: weights are gone while it sleeps."""
    if not generation.enable_sleep_mode:
        yield
        return
    if generation._llm_weights_sleeping:
        generation.sync_weights()
    generation.llm.wake_up(tags=["kv_cache"])
    yield
    generation.llm.sleep(level=2)
    generation._llm_weights_sleeping = True


def computing_dtype(args: Any, parts: Parts) -> torch.dtype:
    """Return the type that the trainer computes in: autocast's, or that of the weights.

    Args:
        args: TRL's ``GRPOConfig``.
        parts: The model and its processor.
    """
    if args.bf16 or args.fp16:
        return torch.bfloat16 if args.bf16 else torch.float16
    dtype: torch.dtype = parts.model.dtype
    return dtype
