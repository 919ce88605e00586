"""Settings that take less memory, and how much is left with each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from saei.config import RunConfig, dump, validate
from saei.diagnostics.footprint import Footprint
from saei.diagnostics.sizing import memory_of
from saei.errors import SaeiError
from saei.layers import merge, nested
from saei.policy.loading import load_outline
from saei.samplers.dynamic import drawing
from saei.samplers.mixing import Mixing


@dataclass(frozen=True, slots=True)
class Remedy:
    """A setting on top of those before it.

    Attributes:
        assignment: For ``--set``.
        total: Bytes that training then takes, by the same computation.
    """

    assignment: str
    total: int


def remedies(
    config: RunConfig, footprint: Footprint, counted: Callable[[RunConfig], Footprint], *, reference: bool
) -> list[Remedy]:
    """Return what to set, the harmless first: fewer groups at a time change nothing but the memory.

    What autograd keeps is counted anew where layers are computed again, else left as it was found: narrower types and
    frozen weights lower it further.

    Args:
        config: The run's configuration.
        footprint: What autograd keeps for one group.
        counted: Counts that of another configuration.
        reference: Whether the objective keeps a second model, which adapters make needless.
    """
    found: list[Remedy] = []
    for assignment, change in _changes(config):
        try:
            changed = validate(merge(RunConfig, dump(config), change))
            outline = load_outline(changed.model)
            if changed.model.gradient_checkpointing != config.model.gradient_checkpointing:
                footprint = counted(changed)
        except SaeiError:  # such as for want of peft
            continue
        config = changed
        memory = memory_of(outline, reference=reference and config.model.lora is None)
        found.append(Remedy(assignment, replace(memory, kept=footprint.of_step(config)).total))
    return [
        one for one, before in zip(found, [None, *found], strict=False) if before is None or one.total < before.total
    ]


def _changes(config: RunConfig) -> Iterator[tuple[str, Mapping[str, Any]]]:
    one = {"training.micro_groups": 1}
    path, sampler = drawing(config.sampler)
    if isinstance(sampler, Mixing.Config):
        one[f"{path}.intervention.micro_groups"] = 1
    if config.training.prompts_per_step > 1:
        for path, value in one.items():
            yield f"{path}={value}", nested(path, value)
    parts = ["vision", "language"]
    if set(config.model.gradient_checkpointing) != set(parts):
        yield f"model.gradient_checkpointing=[{','.join(parts)}]", nested("model.gradient_checkpointing", parts)
    if config.model.lora is None:
        change = nested("model", {"lora": {"rank": 8}, "freeze": []})
        yield "model.lora.rank=8", change
    if config.model.dtype in ("auto", "float32"):
        yield "model.dtype=bfloat16", nested("model.dtype", "bfloat16")
