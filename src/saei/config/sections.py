"""The sections of a run's configuration that are no strategies: model, sampling, optimiser, training, output.

The file is long for its docstrings, which explain every field and are the page of the configuration.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, field_validator, model_validator

from saei.config.strategy import Section
from saei.errors import nearest, shown

MAX_AREA = 2**30
"""Pixels of a picture, beyond what any vision tower sees."""

MOST_STEPS = 10_000_000
MOST_TOKENS = 2**20
COLDEST = 0.001
DEVICES = ("auto", "cpu", "cuda", "hpu", "mlu", "mps", "musa", "npu", "xpu")

BUILTIN = "builtin"
BUILTIN_LOCK_IN = "builtin:lock-in"
BUILTIN_MAZE = "builtin:maze"

LONGEST_NAME = 200
"""Bytes of a run's name in UTF-8; file systems take 255, and some files are named after it."""


class LoraConfig(Section):
    """Low-rank adapters on frozen weights (arXiv 2106.09685), through peft.

    Attributes:
        rank: Rank of an adapter; peft's ``r``.
        alpha: The output of an adapter is scaled by ``alpha / rank``; peft's ``lora_alpha``.
        dropout: peft's ``lora_dropout``; has to be 0. The policy stays in eval mode, so that it samples from the
            distribution that is trained.
        target_modules: Linear layers of the language model that get an adapter, by the end of their names, such as
            ``q_proj``; None for all of them except the output layer.
        vision: Also adapt the vision tower and the projector.
    """

    rank: int = Field(default=8, ge=1, le=16_384)
    alpha: float = Field(default=16.0, gt=0.0, le=1e6)
    dropout: NonNegativeFloat = 0.0
    target_modules: tuple[str, ...] | None = None
    vision: bool = False

    @field_validator("dropout")
    @classmethod
    def _no_dropout(cls, dropout: float) -> float:
        if dropout > 0:
            raise ValueError(
                "The distribution that is sampled has to be the one that is trained, so the policy never leaves eval "
                "mode, where dropout does nothing. Leave model.lora.dropout at 0; a smaller model.lora.rank or "
                "optimizer.weight_decay keeps an adapter small"
            )
        return dropout


class ModelConfig(Section):
    """Which policy is trained.

    Attributes:
        path: ``builtin``, ``builtin:lock-in`` and ``builtin:maze`` (the bases of the tasks of these names), or the
            local folder or hub id of a Hugging Face image-text-to-text model or of a peft adapter to one. With ``lora``
            set, training continues on the adapter; otherwise it is merged into the weights.
        revision: Hub revision; pinned revisions are recorded with the run.
        dtype: Type of the weights; ``auto`` takes the checkpoint's.
        device: ``auto`` takes an accelerator if there is one.
        attention: Attention implementation of transformers.
        freeze: Parts that are not trained: the ``vision`` tower, the ``projector`` from its features to the language
            model, the ``language`` model with its embeddings and output layer.
        lora: Train low-rank adapters instead of the weights; None trains the weights.
        gradient_checkpointing: Parts whose layers store only inputs, keys and values, and are recomputed in the
            backward passes of attack and update: less memory, more time.
        shared_prefix: Compute a view's prompt once for all of its responses; False is the plain way, one row per
            response.
        threads: CPU threads of torch; None takes one for small models, which more threads would slow down, and
            torch's default for others.
        min_pixels: Smallest image area after resizing; None for the checkpoint's. If the processor has no such limit,
            pictures are scaled before the processor sees them; a processor that undoes this is refused.
        max_pixels: Largest image area after resizing, likewise. If the processor makes several pictures of one, the
            attack moves the original, which is scaled down to 4194304 pixels if this is None.
    """

    path: str = Field(default=BUILTIN, min_length=1)
    revision: str | None = Field(default=None, min_length=1)
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: str = "auto"
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    freeze: tuple[Literal["vision", "projector", "language"], ...] = ()
    lora: LoraConfig | None = None
    gradient_checkpointing: tuple[Literal["vision", "language"], ...] = ()
    shared_prefix: bool = True
    threads: int | None = Field(default=None, ge=1, le=4096)
    min_pixels: int | None = Field(default=None, ge=1, le=MAX_AREA)
    max_pixels: int | None = Field(default=None, ge=1, le=MAX_AREA)

    @field_validator("device")
    @classmethod
    def _is_a_device(cls, device: str) -> str:
        kind, colon, number = device.partition(":")
        if kind not in DEVICES or (colon and (kind == "auto" or not re.fullmatch(r"\d{1,3}", number))):
            raise ValueError(
                "A device is a kind, with a number where there are several, such as cuda:0. "
                f"{nearest(kind, DEVICES)} Got {shown(repr(device))}"
            )
        return device

    @model_validator(mode="after")
    def _something_to_train(self) -> Self:
        if self.freeze and self.lora is not None:
            raise ValueError(
                "model.lora freezes all weights and trains only adapters. Leave model.freeze out; model.lora.vision "
                "and model.lora.target_modules choose where adapters go."
            )
        if self.min_pixels is not None and self.max_pixels is not None and self.min_pixels > self.max_pixels:
            raise ValueError(
                f"The smallest area of a picture is at most the largest, and model.min_pixels is {self.min_pixels}, "
                f"model.max_pixels {self.max_pixels}. Lower the one or raise the other."
            )
        if set(self.freeze) == {"vision", "projector", "language"}:
            raise ValueError("Something has to be trained. Leave a part out of model.freeze, or set model.lora.")
        return self


class SamplingConfig(Section):
    """How responses are drawn.

    Attributes:
        temperature: τ of the sampling distribution; 0 is greedy and only for evaluation.
        max_new_tokens: Longest response, the end-of-sequence token included.
        max_prompt_tokens: Examples with a longer prompt, image tokens included, are left out; None allows what fits
            the model's context.
        top_p: Nucleus sampling; for evaluation only, since the update assumes the policy's full distribution.
        top_k: For evaluation only, likewise.
    """

    temperature: float = Field(default=1.0, ge=0.0, le=100.0)
    max_new_tokens: int = Field(default=48, ge=1, le=MOST_TOKENS)
    max_prompt_tokens: int | None = Field(default=None, ge=1, le=MOST_TOKENS)
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    top_k: int | None = Field(default=None, ge=1, le=MOST_TOKENS)

    @field_validator("temperature")
    @classmethod
    def _greedy_or_warm(cls, temperature: float) -> float:
        if 0 < temperature < COLDEST:
            raise ValueError(
                f"Logits are divided by the temperature, which overflows below {COLDEST}. 0 is greedy, in evaluations"
            )
        return temperature


class EntropyConfig(Section):
    """Which distribution the criterion's entropy is taken of.

    Attributes:
        temperature: ``sampling`` for the distribution that responses are drawn from; a number divides the logits
            instead.
    """

    temperature: Literal["sampling"] | Annotated[float, Field(ge=COLDEST, le=100.0)] = "sampling"


Decay = Annotated[float, Field(ge=0.0, lt=1.0)]


class OptimizerConfig(Section):
    """AdamW and its schedule.

    Attributes:
        lr: Learning rate, after warm-up.
        weight_decay: Decoupled weight decay.
        betas: Decay of the first and of the second moment.
        max_grad_norm: Gradients with a larger norm are scaled down to this one.
        schedule: How the learning rate falls after warm-up, over the planned optimiser steps; dropped groups do not
            slow it down.
        warmup_steps: Planned optimiser steps over which the learning rate rises from 0.
    """

    lr: float = Field(default=3e-4, gt=0.0, le=1.0)
    weight_decay: float = Field(default=0.0, ge=0.0, le=100.0)
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    max_grad_norm: PositiveFloat = 1.0
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup_steps: int = Field(default=0, ge=0, le=MOST_STEPS)


class ReplayConfig(Section):
    """Responses of earlier steps that are trained on again: Selective Sample Replay (arXiv 2504.08837).

    Where all rewards of a group are equal, its responses have no advantage and teach nothing. A step with few others is
    filled up with kept responses. In a policy that gets better, such steps become frequent.

    Attributes:
        fill: Responses of earlier steps are added until this share of the responses that a step plans has an advantage
            that is not 0. VL-Rethinker has half.
        alpha: A kept response is drawn with a probability in proportion to its absolute advantage to this power, and
            at most once in a step.
        capacity: Most responses that are kept, over all processes; the oldest make room. They take main memory, and
            space in checkpoints: their tokens, and the pictures of their group in 8 bits.
    """

    fill: float = Field(default=0.5, gt=0.0, le=1.0)
    alpha: float = Field(default=1.0, ge=0.0, le=100.0)
    capacity: int = Field(default=256, ge=1, le=10_000_000)


class TrainingConfig(Section):
    """Length of the training, and how a step is divided.

    Attributes:
        steps: Training steps; each draws ``prompts_per_step`` groups.
        prompts_per_step: Groups per step, over all processes.
        ppo_epochs: Passes over a step's groups.
        updates_per_batch: Optimiser steps per epoch. The groups are split into that many nearly equal parts, in a new
            order in each epoch. If dropped groups leave fewer groups than parts, the last parts are empty and are
            skipped, and the schedule goes on as planned.
        micro_groups: Groups per forward and backward pass of a process; None for all groups of the update batch.
        mixed_precision: Accelerate's autocast.
        max_bad_share: The run stops above this share of unusable examples. A small data set may have as many as a
            data set of 64 examples, up to half of its own.
        max_untouched: A run that intervenes stops above this share of groups with nothing to move, or with nothing
            that stands in for what the attack did, counted from the 64th group on.
        max_empty_steps: The run stops after so many steps in a row in which every group was dropped.
        max_decoder_gap: If another program draws the responses (such as vLLM): the run stops above this median
            difference, in nats, between its log-probabilities and the policy's own. Half precision alone gave up to
            0.003, wrong prompts or weights 0.3 and more; the default lies between.
        replay: Train on responses of earlier steps, too; None for those of the step alone.
        sift: Check every example before training, in parallel, and cache the result for the next run; unusable
            examples are listed in ``dropped.jsonl``. Otherwise they are reported and skipped during training.
    """

    steps: int = Field(default=80, ge=1, le=MOST_STEPS)
    prompts_per_step: int = Field(default=8, ge=1, le=65_536)
    ppo_epochs: int = Field(default=1, ge=1, le=1000)
    updates_per_batch: int = Field(default=1, ge=1, le=65_536)
    micro_groups: int | None = Field(default=None, ge=1, le=65_536)
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    max_bad_share: float = Field(default=0.1, ge=0.0, le=1.0)
    max_untouched: float = Field(default=0.5, ge=0.0, le=1.0)
    max_empty_steps: int = Field(default=10, ge=1, le=1_000_000)
    max_decoder_gap: PositiveFloat = 0.05
    replay: ReplayConfig | None = None
    sift: bool = False

    @model_validator(mode="after")
    def _a_group_for_each_update(self) -> Self:
        if self.updates_per_batch > self.prompts_per_step:
            raise ValueError(
                f"Each optimiser step needs a group: updates_per_batch is {self.updates_per_batch}, "
                f"prompts_per_step {self.prompts_per_step}. Lower the one or raise the other."
            )
        return self


class EvaluationConfig(Section):
    """What is measured while training, on examples of the ``eval`` split, always on the clean view.

    Attributes:
        every: Steps between evaluations; the first comes before training, the last after it.
        examples: Examples of the accuracy evaluation.
        responses: Responses per example of the accuracy evaluation, at the training temperature.
        probe_examples: Examples of the collapse probe, the same for every method and run.
        probe_responses: Fresh responses per probe example, at temperature 1 over the full vocabulary.
        adversarial_images: Training groups that are kept for people to look at, with their pictures, per evaluation;
            with 0 one is kept without.
        held_out_groups: Examples of the ``eval`` split, always the same, of which groups are drawn as in training, to
            be looked at and not trained on.
        held_out_every: Evaluations from one such draw to the next; the first and the last have one, too.
        rescues: When training groups whose clean responses are all wrong get further clean ones, as many as they have
            from other views: what share of them these solve is what the rescues of an attack are compared with. They
            are not trained on. At ``evaluated-steps`` alone, ``always`` or ``never``.
    """

    every: int = Field(default=10, ge=1, le=MOST_STEPS)
    examples: int = Field(default=64, ge=1, le=1_000_000)
    responses: int = Field(default=4, ge=1, le=4096)
    probe_examples: int = Field(default=16, ge=1, le=1_000_000)
    probe_responses: int = Field(default=12, ge=1, le=4096)
    adversarial_images: int = Field(default=2, ge=0, le=10_000)
    held_out_groups: int = Field(default=2, ge=0, le=10_000)
    held_out_every: int = Field(default=2, ge=1, le=MOST_STEPS)
    rescues: Literal["always", "evaluated-steps", "never"] = "never"


class OutputConfig(Section):
    """Where a run writes.

    Attributes:
        root: Folder of all runs.
        name: Folder of this run below ``root``, a name without slashes; None makes one from task, sampler and time.
        checkpoint_every: Steps between checkpoints; the last step always gets one.
        keep_checkpoints: How many of the newest checkpoints are kept.
        keep_best: A metric of the evaluations, such as ``eval/accuracy``: the checkpoint of its highest value is kept
            as well, and ``best.json`` names it. Each evaluation that is the best so far then gets a checkpoint.
        trackers: Accelerate's trackers, such as ``tensorboard`` or ``wandb``.
        project: The project of trackers that have projects; None takes ``WANDB_PROJECT`` of the environment, else
            ``saei``.
    """

    root: Path = Path("runs")
    name: str | None = None
    checkpoint_every: int = Field(default=20, ge=1, le=MOST_STEPS)
    keep_checkpoints: int = Field(default=2, ge=1, le=MOST_STEPS)
    keep_best: str | None = Field(default=None, pattern=r"^(eval|probe)/\S+$")
    trackers: tuple[str, ...] = ()
    project: str | None = None

    @field_validator("name")
    @classmethod
    def _one_folder(cls, name: str | None) -> str | None:
        if name is None:
            return name
        bad = name in ("", ".", "..") or any(sign in '/\\:*?"<>|' or not sign.isprintable() for sign in name)
        if bad or len(name.encode("utf-8", "surrogatepass")) > LONGEST_NAME:
            raise ValueError(
                f"A run's name is that of one folder below output.root: no slashes or other signs that file systems "
                f"refuse, at most {LONGEST_NAME} bytes. Got '{shown(name)}'. Folders above it go into output.root."
            )
        return name
