"""Examining a user's model on the user's machine: is it correct, does it fit, what does a step cost, what to change."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from saei.config.run import RunConfig
from saei.diagnostics.diagnosis import Diagnosis, Finding
from saei.diagnostics.examination import examine
from saei.diagnostics.footprint import Footprint, shape_only_footprint
from saei.diagnostics.remedies import remedies
from saei.diagnostics.sizing import available_bytes, gigabytes, memory_of, peak_bytes
from saei.diagnostics.synthetic import NoiseTask, step_config
from saei.engine import Trainer
from saei.engine.display import SilentDisplay
from saei.errors import SaeiError
from saei.policy import Policy
from saei.policy.load.device import device_of
from saei.policy.load.location import BUILTIN_FOLDERS, has_weights
from saei.policy.load.untrained import Untrained, depth, period
from saei.policy.load.weights import Parts, load_outline, load_parts
from saei.policy.statistics.needs import policies_of

OnProgress = Callable[[str], None]

ROOM = 0.8
"""Largest share of the free memory that the doctor itself uses."""

TOLERANCE = 0.05
"""A pixel gradient that deviates more than this from finite differences is reported as wrong."""


def diagnose(
    config: RunConfig,
    *,
    side: int,
    random_weights: bool = False,
    memory: int | None = None,
    on_progress: OnProgress = lambda text: None,
) -> Diagnosis:
    """Examine a model as a run would use it, on synthetic examples.

    Memory is computed for the whole model, whether it fits this machine or not. If the model with gradients and
    optimiser does not fit, gradients and prefix are examined on a copy whose language model has fewer layers.

    Args:
        config: Names the model and defines a step.
        side: Side of the square picture, in pixels.
        random_weights: Use random weights even if the model has its own.
        memory: Bytes to plan for; None takes what is free on this machine.
        on_progress: Called with a description of each stage when it starts.
    """
    diagnosis = Diagnosis(config.model.path)
    visit = _Visit(config, side, diagnosis, on_progress)
    with visit.recording_failures():
        visit.run(random_weights, memory)
    return diagnosis


_FEWER = "Fewer --prompts and --tokens take less, too, and change the training."

_LESS = "Lower --prompts, --responses, --tokens or --side, or take a smaller model of the family."


class _Visit:
    """One visit to the doctor, which fills in a diagnosis until it fails.

    Args:
        config: The run's configuration.
        side: Side of the square picture, in pixels.
        diagnosis: The diagnosis to fill in.
        on_progress: Called with a description of each stage when it starts.
    """

    def __init__(self, config: RunConfig, side: int, diagnosis: Diagnosis, on_progress: OnProgress) -> None:
        self.config = config
        self.diagnosis = diagnosis
        self._on_progress = on_progress
        self._side = side
        self._device = torch.device(device_of(config.model))

    def run(self, random_weights: bool, memory: int | None) -> None:
        diagnosis, model = self.diagnosis, self.config.model
        diagnosis.device, diagnosis.threads = str(self._device), torch.get_num_threads()
        self._on_progress("Reading the configuration")
        outline = load_outline(model)
        diagnosis.parameters = sum(parameter.numel() for parameter in outline.parameters())
        diagnosis.trained = sum(parameter.numel() for parameter in outline.parameters() if parameter.requires_grad)
        diagnosis.dtype = str(outline.dtype).removeprefix("torch.")
        diagnosis.layers = depth(outline.config)
        diagnosis.random = random_weights or not has_weights(model)
        here = available_bytes(self._device)
        diagnosis.available = memory or here
        needs = self.config.objective.build().all_needs
        reference = any("reference" in policies_of(need) for need in needs) and model.lora is None
        diagnosis.memory = memory_of(outline, reference=reference)
        whole = here is None or diagnosis.memory.total <= ROOM * here
        parts = self._load(outline.config, None if whole else here)
        diagnosis.threads = torch.get_num_threads()
        policy = None
        with self.recording_failures():
            policy = None if parts is None else self._policy(parts)
            if policy is not None:
                self._examine(policy)
        with self.recording_failures():
            self._on_progress("Counting what a step keeps")
            footprint = self._footprint(self.config, policy)
            diagnosis.memory = replace(diagnosis.memory, activations=footprint.of_step(self.config))
            if diagnosis.available is not None and diagnosis.memory.total > diagnosis.available:
                count = partial(self._footprint, examined=policy)
                diagnosis.remedies = remedies(self.config, footprint, count, reference=reference)
            if whole and parts is not None and (here is None or diagnosis.memory.total <= here):
                self._step(parts)
        self._add_findings(outline.dtype)

    @contextmanager
    def recording_failures(self) -> Iterator[None]:
        """Stop the work inside where it fails and record the reason, each broken rule once."""
        try:
            yield
            return
        except SaeiError as error:
            finding = Finding(error.rule, error.reason, error.remedy, problem=True)
        except (MemoryError, torch.OutOfMemoryError) as error:
            reason = f"{str(error).strip().partition('. ')[0] or type(error).__name__}."
            finding = Finding("Memory ran out while it was looked at.", reason, _LESS, problem=True)
        if finding.rule not in {finding.rule for finding in self.diagnosis.findings}:
            self.diagnosis.findings.append(finding)

    def _load(self, config: Any, room: int | None) -> Parts | None:
        """Return the model's parts, or those of a copy that fits into ``room`` bytes; None if no copy does."""
        diagnosis, model = self.diagnosis, self.config.model
        untrained = Untrained() if diagnosis.random else None
        if room is not None:
            diagnosis.random, diagnosis.examined = True, period(config)
            untrained = Untrained(diagnosis.examined)
            shapes = load_outline(model, untrained)
            needed = sum(parameter.numel() * max(4, parameter.element_size()) for parameter in shapes.parameters())
            if needed > ROOM * room:
                diagnosis.findings.append(
                    Finding(
                        "The model has to fit this machine to be looked at, or at least a copy with few layers.",
                        f"{diagnosis.examined} of {diagnosis.layers} layers take {gigabytes(needed)} GB; "
                        f"{gigabytes(room)} GB are free.",
                        "Look at a smaller model of its family; the memory computed here holds for this one.",
                    )
                )
                return None
        self._on_progress(
            f"Making a copy with {diagnosis.examined} of {diagnosis.layers} layers"
            if diagnosis.examined
            else "Drawing random weights"
            if diagnosis.random
            else "Loading the model"
        )
        return load_parts(model, untrained)

    def _policy(self, parts: Parts) -> Policy:
        config = self.config
        template = config.template.build()
        for note in parts.notes if config.model.path not in BUILTIN_FOLDERS else ():
            remedy = "pip install torchvision, if its other parts are wanted." if _lacks_torchvision() else ""
            self.diagnosis.findings.append(Finding(note, remedy=remedy))
        return Policy.around(parts, config.model, template, sampling=config.sampling, entropy=config.entropy)

    def _examine(self, policy: Policy) -> None:
        here = available_bytes(self._device)
        doubled = 8 * sum(parameter.numel() for parameter in policy.model.parameters())
        exact = (here is None or doubled <= ROOM * here) and self._device.type != "mps"
        precision = torch.float64 if exact else torch.float32
        self._on_progress(f"Comparing gradients in {str(precision).removeprefix('torch.')}")
        diagnosis = self.diagnosis
        diagnosis.precision = str(precision).removeprefix("torch.")
        diagnosis.examination = examine(policy, precision)
        if diagnosis.examination.gradient > TOLERANCE:
            diagnosis.findings.append(
                Finding(
                    "The gradient by the pixels has to be that of what the policy sees.",
                    f"It is off by {diagnosis.examination.gradient:.0%} from finite differences.",
                    "Attacks on it follow another picture: report the family, and train with --sampler clean.",
                    problem=True,
                )
            )

    def _footprint(self, config: RunConfig, examined: Policy | None) -> Footprint:
        diagnosis = shape_only_footprint(config, NoiseTask(NoiseTask.Config(side=self._side)).example(0), examined)
        self.diagnosis.sizes = {
            "prompts": config.training.prompts_per_step,
            "responses": config.sampler.build().group_size,
            "tokens": config.sampling.max_new_tokens,
            "side": self._side,
            "prompt_tokens": diagnosis.prompt_tokens,
            "image_tokens": diagnosis.image_tokens,
        }
        return diagnosis

    def _step(self, parts: Parts) -> None:
        """Measure training steps: the first with the optimiser's memory, the second for its time."""
        config, diagnosis = self.config, self.diagnosis
        self._on_progress("Measuring a training step")
        with tempfile.TemporaryDirectory() as folder:
            sizes = {"side": self._side, "prompts": diagnosis.sizes["prompts"], "tokens": diagnosis.sizes["tokens"]}
            trainer = Trainer(step_config(config, **sizes, folder=Path(folder)), display=SilentDisplay(), model=parts)
            trainer.policy.never_end()
            diagnosis.peak = peak_bytes(partial(_repeat, trainer.train_step), self._device)
            start = time.perf_counter()
            trainer.train_step()
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)
            diagnosis.seconds = time.perf_counter() - start

    def _add_findings(self, dtype: torch.dtype) -> None:
        diagnosis, model = self.diagnosis, self.config.model
        examination = diagnosis.examination
        if examination is not None and examination.not_shared is not None:
            remedy = "It is right and slower; fewer tokens of the prompt cost less: model.max_pixels."
            diagnosis.findings.append(
                Finding(
                    "Prompts are computed anew for each response.",
                    f"{examination.not_shared}.",
                    remedy if model.shared_prefix else "Set model.shared_prefix=true.",
                )
            )
        if dtype.itemsize < 4 and model.lora is None:
            diagnosis.findings.append(
                Finding(
                    f"Weights of {diagnosis.dtype} are trained.",
                    "At learning rates such as 1e-6 most updates are smaller than the spacing of their numbers.",
                    "Set model.dtype=float32 and training.mixed_precision=bf16, or train adapters: model.lora.rank=8.",
                )
            )
        if (
            diagnosis.memory is not None
            and diagnosis.available is not None
            and diagnosis.memory.total > diagnosis.available
        ):
            diagnosis.findings.append(
                Finding(
                    "The model in training has to fit the memory.",
                    f"It takes about {gigabytes(diagnosis.memory.total)} of {gigabytes(diagnosis.available)} GB.",
                    f"See the settings that take less. {_FEWER}" if diagnosis.remedies else _LESS,
                    problem=True,
                )
            )


def _repeat(step: Callable[[], object]) -> None:
    """Do two steps, since the first has no gradient if all rewards of a group are equal."""
    step()
    step()


def _lacks_torchvision() -> bool:
    return find_spec("torchvision") is None
