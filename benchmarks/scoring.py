"""Cost of scoring and of attacking with a shared prefix, against one row per response.

The built-in architecture with random weights looks at a 256 x 256 picture, 256 image tokens, and scores responses of
64 tokens. The plain way is the model's own forward as transformers has it, one row per response; the library's plain
way beside it shows what the shared prefix alone is worth. The naive attack differentiates the model's own forward, with
its parameters frozen. Times are process CPU time on one thread; a ratio is the median over rounds in which every way
runs once. Memory is how far a process of its own grows while it attacks or scores once.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers import Qwen2_5_VLForConditionalGeneration

from saei.builtin.architecture import build_image_processor, build_model
from saei.builtin.vocabulary import build_tokenizer
from saei.config.sections import SamplingConfig
from saei.data.templates import ThinkBoxed
from saei.diagnostics.cost import peak_growth, ratio, time_in_turns
from saei.diagnostics.synthetic import NoiseTask, draw_responses
from saei.entropy.selectors.band import MiddleThird
from saei.entropy.selectors.base import TokenStats
from saei.entropy.token_entropy import token_entropy
from saei.interventions import Intervention
from saei.interventions.context import StepContext
from saei.policy import Policy
from saei.policy.load.patches import use_patch_products
from saei.policy.load.weights import Parts
from saei.policy.pixels.space import to_image
from saei.runtime.seeds import GroupSources
from saei.types import Grade, Response, View

CPU = torch.device("cpu")
LARGEST_SIDE = 512
SHARED = "score + backward, shared prefix"
PLAIN = "score + backward, the library's plain way"
OFFICIAL = "score + backward, the model's own forward"
ATTACK = "attack"
NAIVE = "attack, the model's own forward"
SCORE = "score without gradient, the model's own forward"
RATIOS = {
    "official_over_shared": (OFFICIAL, SHARED, "at least 4"),
    "plain_over_shared": (PLAIN, SHARED, ""),
    "attack_over_score": (ATTACK, SCORE, "at most 1.0"),
    "attack_over_naive": (ATTACK, NAIVE, "at most 0.25"),
}
"""Name, numerator, denominator and goal of each ratio."""


def build(width: int, vision_layers: int, tokens: int, vocabulary: int | None) -> tuple[Policy, Any]:
    """Return a policy with random weights, and its model as transformers made it."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    config = build_model(tokenizer).config
    if vocabulary is not None:
        tokenizer.add_tokens([f"<word {number}>" for number in range(len(tokenizer), vocabulary)])
        config.text_config.vocab_size = vocabulary
    config.text_config.max_position_embeddings = 4096
    scale = width / config.text_config.hidden_size
    for tower in (config.text_config, config.vision_config):
        tower.hidden_size = width
        tower.intermediate_size = round(scale * tower.intermediate_size)
    config.text_config.rope_parameters["mrope_section"] = [1] * (width // config.text_config.num_attention_heads // 2)
    config.vision_config.out_hidden_size = width
    config.vision_config.depth = vision_layers
    config.vision_config.fullatt_block_indexes = list(range(vision_layers))
    official = Qwen2_5_VLForConditionalGeneration(config).eval()
    model = copy.deepcopy(official)
    use_patch_products(model)
    pictures = build_image_processor()
    pictures.size["longest_edge"] = LARGEST_SIDE**2
    parts = Parts(model, tokenizer, pictures)
    return Policy(parts, ThinkBoxed(), sampling=SamplingConfig(max_new_tokens=tokens)), official


def library_logp(policy: Policy, view: View, responses: Sequence[Response], *, shared: bool) -> Tensor:
    """Score by the library, with gradient, as ``[N, T]``."""
    policy.shared_prefix = shared
    return policy.score([view], [responses], wrt="parameters", with_entropy=False)[0].logp_NT


def official_inputs(policy: Policy, view: View, responses: Sequence[Response]) -> dict[str, Tensor]:
    """Return the model's inputs of one row per response, pictures from the official processor."""
    pictures = [to_image(view.canvases[0])] * len(responses)
    ids_NS = torch.stack([torch.cat([view.prompt_ids_P, response.ids_T]) for response in responses])
    return {
        "input_ids": ids_NS,
        "attention_mask": torch.ones_like(ids_NS),
        "mm_token_type_ids": (ids_NS == policy.model.config.image_token_id).int(),
        **policy.parts.image_processor(images=pictures, return_tensors="pt"),
    }


def official_logp(policy: Policy, model: Any, inputs: dict[str, Tensor]) -> Tensor:
    """Score by the model's own forward, as ``[N, T]``."""
    tokens = policy.sampling.max_new_tokens
    logits_NTV = model(**inputs, logits_to_keep=tokens + 1).logits[:, :-1]
    assert policy.distribution.banned_V is not None
    logp_NTV = logits_NTV.float().masked_fill(policy.distribution.banned_V, -torch.inf).log_softmax(-1)
    return logp_NTV.gather(-1, inputs["input_ids"][:, -tokens:, None])[..., 0]


def selected_by(responses: Sequence[Response]) -> Tensor:
    """Return the middle third of each response, ``[N, T]``."""
    ids_NT = torch.stack([response.ids_T for response in responses])
    entropy_NT = torch.stack([response.entropy_T for response in responses])
    stats = TokenStats(entropy_NT, torch.zeros_like(entropy_NT), ids_NT, torch.ones_like(ids_NT, dtype=torch.bool), {})
    return MiddleThird().select(stats, progress=0.0, generator=torch.Generator())


def naive_attack(policy: Policy, model: Any, inputs: dict[str, Tensor], selected_NT: Tensor) -> Tensor:
    """Return the gradient of the mean entropy with respect to the pixels, one row per response."""
    pixels = inputs["pixel_values"].clone().requires_grad_()
    tokens = policy.sampling.max_new_tokens
    logits_NTV = model(**{**inputs, "pixel_values": pixels}, logits_to_keep=tokens + 1).logits[:, :-1]
    assert policy.distribution.banned_V is not None
    entropy_NT = token_entropy(logits_NTV.float().masked_fill(policy.distribution.banned_V, -torch.inf))
    return torch.autograd.grad(entropy_NT[selected_NT].mean(), pixels)[0]


def no_grades(view: View, responses: Sequence[Response]) -> list[Grade]:
    raise AssertionError("the gate `always` asks for no grades")


def ways_of(options: argparse.Namespace) -> tuple[dict[str, Callable[[], object]], dict[str, Any]]:
    """Return all ways by name, and the setting."""
    policy, model = build(options.width, options.vision_layers, options.tokens, options.vocabulary)
    view = policy.view(NoiseTask(NoiseTask.Config(side=options.side)).example(0))
    responses = draw_responses(policy, options.responses, options.tokens)
    half = responses[: options.responses // 2]
    rows, half_rows = (official_inputs(policy, view, own) for own in (responses, half))
    selected_NT = selected_by(half)
    intervention = Intervention()

    def backward(logp_NT: Tensor) -> None:
        policy.model.zero_grad()
        model.zero_grad()
        logp_NT.mean().backward()

    def attack() -> None:
        policy.shared_prefix = True
        intervention.apply([view], [half], StepContext(policy, 0.0, GroupSources(0)))

    def naive() -> None:
        model.requires_grad_(False)
        naive_attack(policy, model, half_rows, selected_NT)
        model.requires_grad_(True)

    with torch.no_grad():
        ours = library_logp(policy, view, half, shared=True)
        deviation = float((ours - official_logp(policy, model, half_rows)).abs().max())
    ways: dict[str, Callable[[], object]] = {
        SHARED: lambda: backward(library_logp(policy, view, responses, shared=True)),
        PLAIN: lambda: backward(library_logp(policy, view, responses, shared=False)),
        OFFICIAL: lambda: backward(official_logp(policy, model, rows)),
        ATTACK: attack,
        NAIVE: naive,
        SCORE: torch.no_grad()(lambda: official_logp(policy, model, half_rows)),
    }
    setting = {
        "width": options.width,
        "vision_layers": options.vision_layers,
        "vocabulary": model.config.text_config.vocab_size,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "image_tokens": policy.image_tokens(view),
        "prompt_tokens": len(view.prompt_ids_P),
        "responses": len(responses),
        "attacked": len(half),
        "selected_tokens": int(selected_NT.sum()),
        "response_tokens": options.tokens,
        "rounds": options.rounds,
        "torch": torch.__version__,
        "largest_deviation": deviation,
    }
    return ways, setting


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run all ways; half of the responses are attacked."""
    ways, setting = ways_of(options)
    if options.attack_only:
        ways = {name: ways[name] for name in (ATTACK, NAIVE, SCORE)}
    memory = {name: peak_growth(ways[name], CPU) for name in (ATTACK, NAIVE, SCORE)} if options.memory else {}
    seconds = time_in_turns(ways, options.rounds, CPU)
    return {
        **setting,
        "seconds": {name: statistics.median(values) for name, values in seconds.items()},
        "ratios": {
            name: ratio(seconds[over], seconds[under])
            for name, (over, under, _) in RATIOS.items()
            if over in seconds and under in seconds
        },
        "bytes": memory,
    }


def show(result: dict[str, Any]) -> None:
    console = Console(width=100)
    console.print(
        f"{result['parameters']:,} parameters, width {result['width']}, {result['vision_layers']} vision layer(s), "
        f"vocabulary {result['vocabulary']}; {result['prompt_tokens']} prompt tokens, {result['image_tokens']} of them "
        f"the image's; {result['responses']} responses of {result['response_tokens']} tokens, {result['attacked']} of "
        f"them attacked at {result['selected_tokens']} tokens; CPU time on one thread, medians of {result['rounds']} "
        f"rounds, torch {result['torch']}."
    )
    times = Table("way", "ms", "MB", box=None)
    for name, seconds in result["seconds"].items():
        size = result["bytes"].get(name)
        times.add_row(name, f"{1000 * seconds:.0f}", "" if size is None else f"{size / 1e6:.0f}")
    ratios = Table("ratio", "measured", "goal", box=None)
    for name, value in result["ratios"].items():
        over, under, goal = RATIOS[name]
        ratios.add_row(f"{over} / {under}", f"{value:.2f}", goal)
    console.print(times, ratios, sep="\n\n")
    console.print(f"Log-probabilities of the ways differ by at most {result['largest_deviation']:.0e} nats.")


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Measure, print tables, write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=96, help="of text and vision; the built-in model's is 96")
    parser.add_argument("--vision-layers", type=int, default=1, help="the built-in model has 1")
    parser.add_argument("--vocabulary", type=int, help="the built-in model's if not given")
    parser.add_argument("--side", type=int, default=256, help="of the square picture, in pixels")
    parser.add_argument("--responses", type=int, default=12, help="half of them are attacked")
    parser.add_argument("--tokens", type=int, default=64, help="per response")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--attack-only", action="store_true", help="leave out the ways with parameter gradients")
    parser.add_argument("--memory", action="store_true", help="measure the memory of attack and scoring")
    parser.add_argument("--json", type=Path, help="file to write")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    result = measure(options)
    show(result)
    if options.json:
        options.json.write_text(json.dumps(result, indent=2))
    return result


if __name__ == "__main__":
    main()
