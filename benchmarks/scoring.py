"""Cost of scoring and of attacking with a shared prefix, against one row per response.

The built-in architecture with random weights looks at a 256 x 256 picture, 256 image tokens, and scores responses of
64 tokens. The plain way is the model's own forward as transformers has it, one row per response; the library's plain
way beside it shows what the shared prefix alone is worth. Times are process CPU time on one thread; a ratio is the
median over rounds in which every way runs once.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers import Qwen2_5_VLForConditionalGeneration

from saei.builtin.architecture import build_image_processor, build_model
from saei.builtin.vocabulary import build_tokenizer
from saei.config import SamplingConfig
from saei.data.templates import ThinkBoxed
from saei.diagnostics.bench import ATTACK, PLAIN, SHARED, logp, passes
from saei.diagnostics.cost import race, ratio
from saei.diagnostics.synthetic import Noise, draw_responses
from saei.interventions import Intervention
from saei.policy import Policy
from saei.policy.loading import Parts
from saei.policy.patches import use_patch_products
from saei.policy.pixels import to_image
from saei.types import Response, View

OFFICIAL = "score all + backward, the model's own forward"
SCORE = "score half of the responses, the model's own forward"
RATIOS = {
    "official_over_shared": (OFFICIAL, SHARED, "at least 4"),
    "plain_over_shared": (PLAIN, SHARED, ""),
    "attack_over_score": (ATTACK, SCORE, "at most 1.3"),
}
"""Name, numerator, denominator and goal of each ratio."""


def build(width: int, vision_layers: int, tokens: int) -> tuple[Policy, Any]:
    """Return a policy with random weights, and its model as transformers made it."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    config = build_model(tokenizer).config
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
    parts = Parts(model, tokenizer, build_image_processor())
    return Policy(parts, ThinkBoxed(), sampling=SamplingConfig(max_new_tokens=tokens)), official


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


def measure(width: int, vision_layers: int, side: int, count: int, tokens: int, rounds: int) -> dict[str, Any]:
    """Run all ways; half of the responses are attacked."""
    policy, model = build(width, vision_layers, tokens)
    view = policy.view(Noise(Noise.Config(side=side)).example(0))
    responses = draw_responses(policy, count, tokens)
    half = responses[: count // 2]
    rows, half_rows = (official_inputs(policy, view, own) for own in (responses, half))
    ours = passes(policy, view, responses, Intervention())

    def official() -> None:
        model.zero_grad()
        official_logp(policy, model, rows).mean().backward()

    with torch.no_grad():
        shared = logp(policy, view, responses)
        deviation = float((shared - official_logp(policy, model, rows)).abs().max())
    seconds = race(
        {
            SHARED: ours[SHARED],
            PLAIN: ours[PLAIN],
            OFFICIAL: official,
            ATTACK: ours[ATTACK],
            SCORE: torch.no_grad()(lambda: official_logp(policy, model, half_rows)),
        },
        rounds,
        policy.device,
    )
    return {
        "width": width,
        "vision_layers": vision_layers,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "image_tokens": int((view.prompt_ids_P == model.config.image_token_id).sum()),
        "prompt_tokens": len(view.prompt_ids_P),
        "responses": count,
        "attacked": len(half),
        "response_tokens": tokens,
        "rounds": rounds,
        "torch": torch.__version__,
        "seconds": {name: statistics.median(values) for name, values in seconds.items()},
        "ratios": {name: ratio(seconds[over], seconds[under]) for name, (over, under, _) in RATIOS.items()},
        "largest_deviation": deviation,
    }


def show(result: dict[str, Any]) -> None:
    console = Console(width=100)
    console.print(
        f"{result['parameters']:,} parameters, width {result['width']}, {result['vision_layers']} vision layer(s); "
        f"{result['prompt_tokens']} prompt tokens, {result['image_tokens']} of them the image's; {result['responses']} "
        f"responses of {result['response_tokens']} tokens, {result['attacked']} of them attacked; CPU time on one "
        f"thread, medians of {result['rounds']} rounds, torch {result['torch']}."
    )
    times = Table("way", "ms", box=None)
    for name, seconds in result["seconds"].items():
        times.add_row(name, f"{1000 * seconds:.0f}")
    ratios = Table("ratio", "measured", "goal", box=None)
    for name, (over, under, goal) in RATIOS.items():
        ratios.add_row(f"{over} / {under}", f"{result['ratios'][name]:.2f}", goal)
    console.print(times, ratios, sep="\n\n")
    console.print(f"Log-probabilities of the ways differ by at most {result['largest_deviation']:.0e} nats.")


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Measure, print tables, write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=96, help="of text and vision; the built-in model's is 96")
    parser.add_argument("--vision-layers", type=int, default=1, help="the built-in model has 1")
    parser.add_argument("--side", type=int, default=256, help="of the square picture, in pixels")
    parser.add_argument("--responses", type=int, default=12, help="half of them are attacked")
    parser.add_argument("--tokens", type=int, default=64, help="per response")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path, help="file to write")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    result = measure(
        options.width, options.vision_layers, options.side, options.responses, options.tokens, options.rounds
    )
    show(result)
    if options.json:
        options.json.write_text(json.dumps(result, indent=2))
    return result


if __name__ == "__main__":
    main()
