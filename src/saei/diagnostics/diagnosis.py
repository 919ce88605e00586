"""The result of examining a model: measurements and findings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from saei.diagnostics.examination import Examination
from saei.diagnostics.remedies import Remedy
from saei.diagnostics.sizing import Memory


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that the user should know.

    Attributes:
        rule: What holds, or should hold.
        reason: What was observed instead, or in detail.
        remedy: What to do about it.
        problem: Whether it would make a run fail.
    """

    rule: str
    reason: str = ""
    remedy: str = ""
    problem: bool = False


@dataclass(slots=True)
class Diagnosis:
    """Everything that was measured; None for what could not be.

    Attributes:
        model: The model's path.
        device: The device that it was examined on.
        threads: CPU threads of torch.
        parameters: Number of parameters.
        trained: Number of trained parameters.
        dtype: Type of the weights.
        random: Whether the weights are random.
        layers: Layers of the language model.
        examined: Layers of the copy that was examined; None for the model itself.
        precision: Type of the weights while gradients were compared.
        examination: Pixels, their gradient and the shared prefix.
        sizes: Sizes of a step: prompts, responses, tokens, side of the picture, prompt tokens, image tokens.
        memory: Computed memory of training.
        available: Bytes that training may use.
        seconds: Wall time of one step.
        peak: Largest number of bytes in use during a step.
        remedies: Settings that need less memory, each on top of those before it.
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
        """Whether nothing was found that would make a run fail."""
        return not any(finding.problem for finding in self.findings)

    def as_json(self) -> dict[str, Any]:
        """Return plain data."""
        data = asdict(self) | {"healthy": self.healthy}
        if self.memory is not None:
            data["memory"]["total"] = self.memory.total
        return data
