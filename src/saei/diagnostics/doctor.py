"""A look at a user's model on a user's machine: is it right, does it fit, what does a step take, what to change."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from saei.config.run import RunConfig
from saei.diagnostics.examination import Examination, examine
from saei.diagnostics.footprint import Footprint, shape_only_footprint
from saei.diagnostics.remedies import Remedy, remedies
from saei.diagnostics.sizing import Memory, available_bytes, gigabytes, memory_of, peak_bytes
from saei.diagnostics.synthetic import NoiseTask, step_config
from saei.engine import Trainer
from saei.engine.display import SilentDisplay
from saei.errors import SaeiError
from saei.policy import Policy
from saei.policy.load.location import BUILTIN_FOLDERS, has_weights
from saei.policy.load.untrained import Untrained, depth, period
from saei.policy.load.weights import Parts, device_of, load_outline, load_parts

OnProgress = Callable[[str], None]

ROOM = 0.8
"""Share of the free memory that the doctor itself takes at most."""

TOLERANCE = 0.05
"""Deviation of the pixel gradient from finite differences that is called wrong."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that the user should know.

    Attributes:
        rule: What holds, or should.
        reason: What was found.
        remedy: What to do about it.
        problem: Whether a run could not work.
    """

    rule: str
    reason: str = ""
    remedy: str = ""
    problem: bool = False


@dataclass(slots=True)
class Diagnosis:
    """What was found out; what could not be is None.

    Attributes:
        model: The model's path.
        device: Where it was looked at.
        threads: Of torch.
        parameters: Of the model.
        trained: Those that are trained.
        dtype: Of the weights.
        random: Whether the weights are random.
        layers: Layers of the language model.
        examined: Layers of the copy that was examined, None for the model itself.
        precision: Type of the weights while gradients were compared.
        examination: Pixels, their gradient, the shared prefix.
        sizes: Of a step: prompts, responses, tokens, side of the picture, prompt tokens, image tokens.
        memory: Of training, computed.
        available: Bytes that training may take.
        seconds: Of one step, wall time.
        peak: Most bytes in use during it.
        remedies: Settings that take less memory, each on top of those before.
        findings: What the user should know.
    """

    model: str
    device: str = ""
    threads: int = 0
    parameters: int | None = None
    trained: int | None = None
    dtype: str | None = None
    random: bool = False
    layers: int | None = None
    examined: int | None = None
    precision: str | None = None
    examination: Examination | None = None
    sizes: Mapping[str, int] = field(default_factory=dict)
    memory: Memory | None = None
    available: int | None = None
    seconds: float | None = None
    peak: int | None = None
    remedies: Sequence[Remedy] = ()
    findings: list[Finding] = field(default_factory=list)

    @property
    def healthy(self) -> bool:
        """Whether nothing was found that a run could not work with."""
        return not any(found.problem for found in self.findings)

    def as_json(self) -> dict[str, Any]:
        """Return plain data."""
        found = asdict(self) | {"healthy": self.healthy}
        if self.memory is not None:
            found["memory"]["total"] = self.memory.total
        return found


def diagnose(
    config: RunConfig,
    *,
    side: int,
    random_weights: bool = False,
    memory: int | None = None,
    on_progress: OnProgress = lambda text: None,
) -> Diagnosis:
    """Look at a model the way that a run would, on synthetic examples.

    Memory is computed for the whole model, wherever it fits. Where the model with gradients and optimiser does not fit
    this machine, gradients and prefix are looked at in a copy whose language model has fewer layers, all else whole.

    Args:
        config: Names the model, and sets what a step is.
        side: Of the square picture, in pixels.
        random_weights: Use random weights also where there are others.
        memory: Bytes to size for; None takes what this machine has free.
        on_progress: Called with what is being done.
    """
    found = Diagnosis(config.model.path)
    visit = _Visit(config, side, found, on_progress)
    with visit.noting():
        visit.run(random_weights, memory)
    return found


_FEWER = "Fewer --prompts and --tokens take less, too, and change the training."

_LESS = "Lower --prompts, --responses, --tokens or --side, or take a smaller model of the family."


class _Visit:
    """One visit to the doctor, which fills in a diagnosis as far as it comes.

    Args:
        config: The run's configuration.
        side: Of the picture.
        found: What is filled in.
        on_progress: Called with what is being done.
    """

    def __init__(self, config: RunConfig, side: int, found: Diagnosis, on_progress: OnProgress) -> None:
        self.config = config
        self.found = found
        self._on_progress = on_progress
        self._side = side
        self._device = torch.device(device_of(config.model))

    def run(self, random_weights: bool, memory: int | None) -> None:
        found, model = self.found, self.config.model
        found.device, found.threads = str(self._device), torch.get_num_threads()
        self._on_progress("Reading the configuration")
        outline = load_outline(model)
        found.parameters = sum(own.numel() for own in outline.parameters())
        found.trained = sum(own.numel() for own in outline.parameters() if own.requires_grad)
        found.dtype = str(outline.dtype).removeprefix("torch.")
        found.layers = depth(outline.config)
        found.random = random_weights or not has_weights(model)
        here = available_bytes(self._device)
        found.available = memory or here
        reference = "reference" in self.config.objective.build().needs and model.lora is None
        found.memory = memory_of(outline, reference=reference)
        whole = here is None or found.memory.total <= ROOM * here
        parts = self._load(outline.config, None if whole else here)
        found.threads = torch.get_num_threads()
        policy = None
        with self.noting():
            policy = None if parts is None else self._policy(parts)
            if policy is not None:
                self._examine(policy)
        with self.noting():
            self._on_progress("Counting what a step keeps")
            footprint = self._footprint(self.config, policy)
            found.memory = replace(found.memory, kept=footprint.of_step(self.config))
            if found.available is not None and found.memory.total > found.available:
                count = partial(self._footprint, examined=policy)
                found.remedies = remedies(self.config, footprint, count, reference=reference)
            if whole and parts is not None and (here is None or found.memory.total <= here):
                self._step(parts)
        self._note(outline.dtype)

    @contextmanager
    def noting(self) -> Iterator[None]:
        """End some work where it fails, and note why; what fails again by the same rule is noted once."""
        try:
            yield
            return
        except SaeiError as error:
            finding = Finding(error.rule, error.reason, error.remedy, problem=True)
        except (MemoryError, torch.OutOfMemoryError) as error:
            reason = f"{str(error).strip().partition('. ')[0] or type(error).__name__}."
            finding = Finding("Memory ran out while it was looked at.", reason, _LESS, problem=True)
        if finding.rule not in {one.rule for one in self.found.findings}:
            self.found.findings.append(finding)

    def _load(self, config: Any, room: int | None) -> Parts | None:
        """Return the model's parts, or those of a copy that fits the room; None where that would not fit either."""
        found, model = self.found, self.config.model
        untrained = Untrained() if found.random else None
        if room is not None:
            found.random, found.examined = True, period(config)
            untrained = Untrained(found.examined)
            shapes = load_outline(model, untrained)
            needed = sum(own.numel() * max(4, own.element_size()) for own in shapes.parameters())
            if needed > ROOM * room:
                found.findings.append(
                    Finding(
                        "The model has to fit this machine to be looked at, or at least a copy with few layers.",
                        f"{found.examined} of {found.layers} layers take {gigabytes(needed)} GB; {gigabytes(room)} GB "
                        "are free.",
                        "Look at a smaller model of its family; the memory computed here holds for this one.",
                    )
                )
                return None
        self._on_progress(
            f"Making a copy with {found.examined} of {found.layers} layers"
            if found.examined
            else "Drawing random weights"
            if found.random
            else "Loading the model"
        )
        return load_parts(model, untrained)

    def _policy(self, parts: Parts) -> Policy:
        config = self.config
        template = config.template.build()
        for note in parts.notes if config.model.path not in BUILTIN_FOLDERS else ():
            remedy = "pip install torchvision, if its other parts are wanted." if _lacks_torchvision() else ""
            self.found.findings.append(Finding(note, remedy=remedy))
        return Policy.around(parts, config.model, template, sampling=config.sampling, entropy=config.entropy)

    def _examine(self, policy: Policy) -> None:
        here = available_bytes(self._device)
        doubled = 8 * sum(own.numel() for own in policy.model.parameters())
        exact = (here is None or doubled <= ROOM * here) and self._device.type != "mps"
        precision = torch.float64 if exact else torch.float32
        self._on_progress(f"Comparing gradients in {str(precision).removeprefix('torch.')}")
        found = self.found
        found.precision = str(precision).removeprefix("torch.")
        found.examination = examine(policy, precision)
        if found.examination.gradient > TOLERANCE:
            found.findings.append(
                Finding(
                    "The gradient by the pixels has to be that of what the policy sees.",
                    f"It is off by {found.examination.gradient:.0%} from finite differences.",
                    "Attacks on it follow another picture: report the family, and train with --sampler clean.",
                    problem=True,
                )
            )

    def _footprint(self, config: RunConfig, examined: Policy | None) -> Footprint:
        found = shape_only_footprint(config, NoiseTask(NoiseTask.Config(side=self._side)).example(0), examined)
        self.found.sizes = {
            "prompts": config.training.prompts_per_step,
            "responses": config.sampler.build().group_size,
            "tokens": config.sampling.max_new_tokens,
            "side": self._side,
            "prompt_tokens": found.prompt_tokens,
            "image_tokens": found.image_tokens,
        }
        return found

    def _step(self, parts: Parts) -> None:
        """Measure training steps: the first with the optimiser's memory, the second for its time."""
        config, found = self.config, self.found
        self._on_progress("Measuring a training step")
        with tempfile.TemporaryDirectory() as folder:
            sizes = {"side": self._side, "prompts": found.sizes["prompts"], "tokens": found.sizes["tokens"]}
            trainer = Trainer(step_config(config, **sizes, folder=Path(folder)), display=SilentDisplay(), parts=parts)
            trainer.policy.never_end()
            found.peak = peak_bytes(partial(_repeat, trainer.train_step), self._device)
            start = time.perf_counter()
            trainer.train_step()
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)
            found.seconds = time.perf_counter() - start

    def _note(self, dtype: torch.dtype) -> None:
        found, model = self.found, self.config.model
        examination = found.examination
        if examination is not None and examination.not_shared is not None:
            remedy = "It is right and slower; fewer tokens of the prompt cost less: model.max_pixels."
            found.findings.append(
                Finding(
                    "Prompts are computed anew for each response.",
                    f"{examination.not_shared}.",
                    remedy if model.shared_prefix else "Set model.shared_prefix=true.",
                )
            )
        if dtype.itemsize < 4 and model.lora is None:
            found.findings.append(
                Finding(
                    f"Weights of {found.dtype} are trained.",
                    "At learning rates such as 1e-6 most updates are smaller than the spacing of their numbers.",
                    "Set model.dtype=float32 and training.mixed_precision=bf16, or train adapters: model.lora.rank=8.",
                )
            )
        if found.memory is not None and found.available is not None and found.memory.total > found.available:
            found.findings.append(
                Finding(
                    "The model in training has to fit the memory.",
                    f"It takes about {gigabytes(found.memory.total)} of {gigabytes(found.available)} GB.",
                    f"See the settings that take less. {_FEWER}" if found.remedies else _LESS,
                    problem=True,
                )
            )


def _repeat(step: Callable[[], object]) -> None:
    """Do two steps: where all rewards of a group are equal, the first may have no gradient."""
    step()
    step()


def _lacks_torchvision() -> bool:
    return find_spec("torchvision") is None
