"""One whole training step in TRL against one in saei: sampling, rewards, backward pass and optimiser included.

The model is a Qwen2.5-VL with random weights in float32 whose patches and windows are those of the real one, at a
tiny size. A step is 2 prompts x 12 responses. TRL's is plain GRPO with generation by transformers; saei's is plain GRPO
(`clean`) and SaEI (`mixed`: 6 clean responses, one PGD step, 6 adversarial ones). vLLM is another comparison.

Responses end alike: each of the 12 of a group has a length of its own, evenly from `--shortest` to `--tokens`. The
end-of-sequence token is forbidden before that place and forced there, in TRL by a logits processor, in saei around
the decoding step. `mixed` draws every other of those lengths from the clean and from the adversarial view.

Both sides run in one process and in turns, on the same data, with the same reward, glibc's allocator told to keep
its memory (else TRL's larger tensors pay for page faults), without gradient checkpointing. Times are process CPU time
on one thread. Memory is the growth of the resident set's peak over one step, each in a forked process of its own.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers import LogitsProcessor, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, TrainerCallback
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from saei.builtin.vocabulary import build_tokenizer
from saei.config.run import RunConfig
from saei.config.sections import ModelConfig, OptimizerConfig
from saei.diagnostics.bench import step_config, step_workloads
from saei.diagnostics.cost import peak_growth, ratio, retain_freed_memory, seconds_of
from saei.engine import Trainer
from saei.policy import native
from saei.policy.module import NextToken
from saei.samplers.clean import Clean
from saei.samplers.mixed import Mixed

PROMPTS, RESPONSES = 2, 12
LR = 1e-6
CPU = torch.device("cpu")
PIXELS_PER_TOKEN = 28  # patches of 14 pixels, merged 2 x 2
TRL, PLAIN, SAEI = "TRL, plain GRPO", "saei, plain GRPO", "saei, SaEI 6 + 6"
GOALS = {64: {SAEI: 0.5}, 256: {PLAIN: 0.17, SAEI: 0.3}, 576: {SAEI: 0.25}}
"""Largest share of TRL's step, by image tokens."""


class Ends:
    """Where responses end; ``drawn`` keeps the lengths that each side's responses came to.

    Args:
        lengths: Of a group's responses.
        eos: The token that ends them.
        banned_V: Tokens that are not sampled; saei bans them itself.
    """

    def __init__(self, lengths: list[int], eos: int, banned_V: Tensor) -> None:
        self.lengths, self.eos, self.banned_V = torch.tensor(lengths), eos, banned_V
        self.drawn: dict[str, list[int]] = {"TRL": [], "saei": []}

    def force(self, logits_RV: Tensor, lengths_R: Tensor, position: int) -> Tensor:
        """Return logits whose rows end at their length and nowhere else."""
        logits_RV = logits_RV.clone()
        logits_RV[:, self.eos] = -torch.inf
        ending_R = lengths_R == position + 1
        logits_RV[ending_R] = -torch.inf
        logits_RV[ending_R, self.eos] = 0.0
        return logits_RV

    def around(self, decode: Callable[..., Any]) -> Callable[..., Any]:
        """Return saei's decoding with these ends."""
        halves = iter(())

        def ended(
            first_EV: Tensor, cache: Any, step: Callable[..., NextToken], *, entry_R: Tensor | None, **rest: Any
        ) -> Any:
            nonlocal halves
            first_RV = first_EV
            if entry_R is not None:  # rows that end at different places share no entry
                first_RV = first_EV[entry_R]
                cache.batch_select_indices(entry_R)
            own = self.lengths
            if len(first_RV) < PROMPTS * RESPONSES:  # `mixed` draws twice
                own = next(halves, None)
                if own is None:
                    halves = iter((self.lengths[0::2],))
                    own = self.lengths[1::2]
            lengths_R, position = own.repeat(PROMPTS), 0

            def ended_step(ids_L: Tensor, rows_L: Tensor, cache: Any) -> NextToken:
                nonlocal position
                position += 1
                token = step(ids_L, rows_L, cache)
                return NextToken(self.force(token.logits_BV, lengths_R[rows_L], position), token.cache)

            draw = decode(self.force(first_RV, lengths_R, 0), cache, ended_step, **rest)
            self.drawn["saei"] += draw.length_R.tolist()
            return draw

        return ended

    def inside(self, generate: Callable[..., Any]) -> Callable[..., Any]:
        """Return transformers' ``generate`` with these ends."""
        lengths_R = self.lengths.repeat(PROMPTS)

        def ended(**inputs: Any) -> Any:
            prompt = inputs["input_ids"].shape[1]

            class Processor(LogitsProcessor):
                def __call__(_, input_ids: Tensor, scores: Tensor) -> Tensor:  # noqa: N805  # self is the schedule
                    free = scores.masked_fill(self.banned_V, -torch.inf)
                    return self.force(free, lengths_R, input_ids.shape[1] - prompt)

            ids = generate(**inputs, logits_processor=[Processor()])
            self.drawn["TRL"] += (1 + (ids[:, prompt:] != self.eos).cumprod(1).sum(1)).tolist()
            return ids

        return ended


def save_model(folder: Path, width: int = 256) -> None:
    """Save a Qwen2.5-VL with 4 + 4 layers and a vocabulary of 8192, random weights in float32; heads are 64 wide."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": 8192,
            "hidden_size": width,
            "intermediate_size": 4 * width,
            "num_hidden_layers": 4,
            "num_attention_heads": width // 64,
            "num_key_value_heads": width // 128,
            "max_position_embeddings": 4096,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [8, 12, 12]},
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            "tie_word_embeddings": True,
        },
        vision_config={
            "depth": 4,
            "hidden_size": width,
            "intermediate_size": 684 * width // 256,
            "num_heads": width // 64,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": 112,
            "out_hidden_size": width,
            "fullatt_block_indexes": [3],
        },
        **{
            f"{name}_token_id": tokenizer.convert_tokens_to_ids(f"<|{token}|>")
            for name, token in (
                ("image", "image_pad"),
                ("video", "video_pad"),
                ("vision_start", "vision_start"),
                ("vision_end", "vision_end"),
            )
        },
        tie_word_embeddings=True,
    )
    model = Qwen2_5_VLForConditionalGeneration(config)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    pictures = Qwen2VLImageProcessorPil(size={"shortest_edge": 56**2, "longest_edge": 1024**2})
    for part in (model, tokenizer, pictures):
        part.save_pretrained(folder)


def trl_trainer(model: Path, ours: Trainer, ends: Ends, tokens: int, rounds: int, folder: Path) -> Any:
    """Return TRL's trainer on a model of its own with the same weights, the same examples and the same reward."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    theirs = Qwen2_5_VLForConditionalGeneration.from_pretrained(model)
    theirs.generate = ends.inside(theirs.generate)
    examples = [ours.task.example(index) for index in range(PROMPTS * rounds)]
    template = ours.policy.template

    def reward(completions: list[Any], **_: Any) -> list[float]:
        return [ours.reward.grade(examples[0], completion[0]["content"]).reward for completion in completions]

    return GRPOTrainer(
        model=theirs,
        reward_funcs=reward,
        args=GRPOConfig(
            output_dir=str(folder),
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            per_device_train_batch_size=PROMPTS * RESPONSES,
            num_generations=RESPONSES,
            max_completion_length=tokens,
            loss_type="grpo",
            beta=0.0,
            learning_rate=LR,
            max_steps=rounds,
            shuffle_dataset=False,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list(
            [{"prompt": _plain(template.messages(one)), "images": list(one.images)} for one in examples]
        ),
        processing_class=ours.policy.processor,
    )


def _plain(messages: list[Any]) -> list[dict[str, str]]:
    """Return messages of text alone; TRL puts the pictures before it."""
    return [
        {"role": one["role"], "content": "".join(part.get("text", "") for part in one["content"])} for one in messages
    ]


class Turns(TrainerCallback):
    """Times TRL's steps, and after each runs ours.

    Args:
        ours: Our ways by name; empty to stop after TRL's first step.
    """

    def __init__(self, ours: dict[str, Callable[[], object]]) -> None:
        self.ours = ours
        self.seconds: dict[str, list[float]] = {name: [] for name in (TRL, *ours)}

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start the clock."""
        self.start = time.process_time()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stop it and take our turns."""
        self.seconds[TRL].append(time.process_time() - self.start)
        for name, way in self.ours.items():
            self.seconds[name].append(seconds_of(way, CPU))
        control.should_training_stop = not self.ours


def measure(
    image_tokens: int, tokens: int, shortest: int, rounds: int, folder: Path, *, memory: bool, width: int = 256
) -> dict[str, Any]:
    """Run every way in turns at one size."""
    side = PIXELS_PER_TOKEN * round(image_tokens**0.5)
    model = folder / "model"
    if not model.exists():
        save_model(model, width)
    config = RunConfig(model=ModelConfig(path=str(model), device="cpu", threads=1), optimizer=OptimizerConfig(lr=LR))
    ours = Trainer(step_config(config, side=side, prompts=PROMPTS, tokens=tokens, folder=folder))
    banned_V = ours.policy.distribution.banned_V
    assert banned_V is not None
    lengths = [round(shortest + (tokens - shortest) * place / (RESPONSES - 1)) for place in range(RESPONSES)]
    ends = Ends(lengths, int(ours.policy.eos_ids[0]), banned_V)
    ways = step_workloads(ours, {PLAIN: Clean(Clean.Config(n=RESPONSES)), SAEI: Mixed()})
    theirs = trl_trainer(model, ours, ends, tokens, rounds + 1, folder / "trl")
    decode = native.decode
    native.decode = ends.around(decode)
    try:

        def alone() -> None:
            theirs.add_callback(Turns({}))
            theirs.train()

        peaks = {name: peak_growth(way, CPU) if memory else None for name, way in {TRL: alone, **ways}.items()}
        turns = Turns(ways)
        theirs.add_callback(turns)
        theirs.train()
    finally:
        native.decode = decode
    seconds = {name: values[1:] for name, values in turns.seconds.items()}  # the first warms up
    return {
        "width": width,
        "image_tokens": image_tokens,
        "prompt_tokens": len(ours.policy.view(ours.task.example(0)).prompt_ids_P),
        "lengths": lengths,
        "parameters": sum(parameter.numel() for parameter in ours.policy.model.parameters()),
        "rounds": rounds,
        "seconds": {name: statistics.median(values) for name, values in seconds.items()},
        "ratios": {name: ratio(seconds[name], seconds[TRL]) for name in ways},
        "mean_lengths": {side: statistics.mean(drawn) for side, drawn in ends.drawn.items()},
        "peak_bytes": peaks,
    }


def show(results: list[dict[str, Any]]) -> None:
    console = Console(width=110)
    lengths = results[0]["lengths"]
    console.print(
        f"{results[0]['parameters']:,} parameters; {PROMPTS} prompts x {RESPONSES} responses of {lengths[0]} to "
        f"{lengths[-1]} tokens; CPU time on one thread, medians of {results[0]['rounds']} rounds; "
        f"torch {torch.__version__}, trl {version('trl')}, transformers {version('transformers')}."
    )
    table = Table("image tokens", "step", "s", "of TRL's", "goal", "peak MB", box=None)
    for result in results:
        for name, seconds in result["seconds"].items():
            share = result["ratios"].get(name)
            goal = GOALS.get(result["image_tokens"], {}).get(name)
            peak = result["peak_bytes"][name]
            table.add_row(
                str(result["image_tokens"]),
                name,
                f"{seconds:.2f}",
                "" if share is None else f"{share:.3f}",
                "" if goal is None else f"at most {goal}",
                "" if peak is None else f"{peak / 1e6:.0f}",
            )
    console.print(table)


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Measure, print a table, write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image-tokens", type=int, nargs="+", default=[64, 256, 576], help="square numbers")
    parser.add_argument("--tokens", type=int, default=64, help="of the longest response")
    parser.add_argument("--shortest", type=int, default=16, help="tokens of the shortest response")
    parser.add_argument("--width", type=int, default=256, help="of text and vision, a multiple of 128")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory", action=argparse.BooleanOptionalAction, default=True, help="costs a step of each")
    parser.add_argument("--json", type=Path, help="file to write")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    kept = retain_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        results = [
            measure(
                size,
                options.tokens,
                options.shortest,
                options.rounds,
                Path(folder),
                memory=options.memory,
                width=options.width,
            )
            for size in options.image_tokens
        ]
    show(results)
    found = {"allocator_keeps_memory": kept, "torch": torch.__version__, "trl": version("trl"), "sizes": results}
    if options.json:
        options.json.write_text(json.dumps(found, indent=2))
    return found


if __name__ == "__main__":
    main()
