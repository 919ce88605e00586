"""A vLLM engine in this process as a decoder; the only file that imports vllm.

vLLM expands a picture's placeholder itself, also one that is expanded already: it gets prompts as the chat template
writes them. It bans nothing by itself and keeps what it computed of pictures when the weights change.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from saei.config.sections import SamplingConfig
from saei.errors import ConfigError
from saei.policy import Policy
from saei.policy.decoder import Completion, Decoder, DrawRequest, check_prompt
from saei.policy.module import Distribution
from saei.policy.pixels.space import to_image
from saei.types import View


class VLLM(Decoder):
    """Draws in an engine whose weights someone else keeps in step with the policy's.

    Args:
        llm: A ``vllm.LLM`` with ``logprobs_mode="processed_logprobs"``.
    """

    def __init__(self, llm: Any) -> None:
        self._llm = llm

    def draw(self, policy: Policy, request: DrawRequest) -> list[list[Completion]]:
        """Draw responses by one request per view, which reads its prompt once and has a seed of its own."""
        from vllm import SamplingParams

        views, counts, seeds = request.views, request.counts, request.seeds()
        parameters = sampling_parameters(request.distribution, policy.eos_ids, request.sampling)
        numbers = [number for number, responses in enumerate(counts) if responses]
        outputs = self._llm.generate(
            [prompt_of(policy.unexpanded_prompt(views[number]), views[number]) for number in numbers],
            sampling_params=[SamplingParams(**parameters, n=counts[number], seed=seeds[number]) for number in numbers],
            use_tqdm=False,
        )
        completions: list[list[Completion]] = [[] for _ in views]
        for number, output in zip(numbers, outputs, strict=True):
            check_prompt(views[number], output.prompt_token_ids)
            completions[number] = [_completion(sequence) for sequence in output.outputs]
        return completions

    def sync(self, policy: Policy) -> None:
        """Drop cached prompts, processed pictures and image embeddings; each has a cache of its own."""
        self._llm.reset_prefix_cache()
        self._llm.reset_mm_cache()
        self._llm.llm_engine.reset_encoder_cache()


def sampling_parameters(distribution: Distribution, eos_ids: Tensor, sampling: SamplingConfig) -> dict[str, Any]:
    """Return the arguments of vLLM's ``SamplingParams`` that make it draw from the policy's distribution.

    Args:
        distribution: The policy's, whose bans are vLLM's too.
        eos_ids: The ids that end a response.
        sampling: Temperature, length, and what evaluation cuts off.
    """
    parameters = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k or 0,
        "max_tokens": sampling.max_new_tokens,
        "stop_token_ids": eos_ids.tolist(),
        "logprobs": 0,  # the sampled token's alone
        "detokenize": False,
    }
    if distribution.banned_V is not None:
        parameters["allowed_token_ids"] = (~distribution.banned_V).nonzero().flatten().tolist()
    return parameters


def prompt_of(prompt_ids: Sequence[int], view: View) -> dict[str, Any]:
    """Return a prompt as vLLM takes it.

    Args:
        prompt_ids: With the chat template's own placeholders.
        view: Whose pictures belong to them.
    """
    prompt: dict[str, Any] = {"prompt_token_ids": list(prompt_ids)}
    if view.canvases:
        prompt["multi_modal_data"] = {"image": [to_image(canvas) for canvas in view.canvases]}
    return prompt


def dtype_name(dtype: torch.dtype) -> str:
    """Return a type of weights as vLLM's argument ``dtype`` names it; without one it takes bfloat16 for float32."""
    return str(dtype).removeprefix("torch.")


def check_installed() -> None:
    """Find out whether there is a vLLM.

    Raises:
        ConfigError: If it is not installed.
    """
    if find_spec("vllm") is None:
        raise ConfigError(
            "use_vllm needs vLLM.", reason="It is not installed.", remedy="pip install 'trl[vllm]', or leave it out."
        )


def _completion(sequence: Any) -> Completion:
    logps = [chances[number].logprob for number, chances in zip(sequence.token_ids, sequence.logprobs, strict=True)]
    return Completion(list(sequence.token_ids), torch.tensor(logps, dtype=torch.float32))
