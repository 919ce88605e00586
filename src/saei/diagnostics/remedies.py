"""Settings that need less memory, and how much training needs with each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from saei.config.overrides import merge, parse_assignment
from saei.config.run import RunConfig, dump, validate
from saei.diagnostics.footprint import Footprint
from saei.diagnostics.sizing import memory_of
from saei.errors import SaeiError
from saei.policy.load.weights import load_outline


@dataclass(frozen=True, slots=True)
class Remedy:
    """Settings that add to those of the remedies before.

    Attributes:
        assignments: The arguments of ``--set``.
        total: Bytes that training takes with them, by the same computation.
    """

    assignments: tuple[str, ...]
    total: int


def remedies(
    config: RunConfig, footprint: Footprint, counted: Callable[[RunConfig], Footprint], *, reference: bool
) -> list[Remedy]:
    """Return settings that need less memory, harmless ones first: fewer groups at a time change nothing but memory.

    Activations are counted again only for gradient checkpointing, so narrower types and frozen weights save more than
    is reported. Settings that save nothing are left out.

    Args:
        config: The run's configuration.
        footprint: Memory of one group.
        counted: Counts the footprint of another configuration.
        reference: Whether the objective keeps a second model as reference, which is not needed with adapters.
    """

    def total(config: RunConfig, footprint: Footprint) -> int:
        memory = memory_of(load_outline(config.model), reference=reference and config.model.lora is None)
        return replace(memory, activations=footprint.of_step(config)).total

    cheaper: list[Remedy] = []
    least = total(config, footprint)
    for assignments in _changes(config):
        try:
            data = dump(config)
            for assignment in assignments:
                data = merge(RunConfig, data, parse_assignment(assignment))
            changed = validate(data)
            again = changed.model.gradient_checkpointing != config.model.gradient_checkpointing
            new_footprint = counted(changed) if again else footprint
            needed = total(changed, new_footprint)
        except SaeiError:  # such as a missing peft
            continue
        if needed < least:
            config, footprint, least = changed, new_footprint, needed
            cheaper.append(Remedy(assignments, needed))
    return cheaper


def _changes(config: RunConfig) -> Iterator[tuple[str, ...]]:
    """Yield settings that may help; those that only help together, since the larger pass counts, come together."""
    groups = config.training.prompts_per_step
    fewer = []
    if groups > 1 and config.training.micro_groups != 1:
        fewer.append("training.micro_groups=1")
    fewer += [
        f"{arm.setting('intervention')}.micro_groups=1"
        for arm in config.sampler.build().plan().intervening
        if groups > 1 and arm.intervention is not None and arm.intervention.micro_groups != 1
    ]
    if fewer:
        yield tuple(fewer)
    if set(config.model.gradient_checkpointing) != {"vision", "language"}:
        yield ("model.gradient_checkpointing=[vision,language]",)
    if config.model.lora is None:
        yield (*(("model.freeze=[]",) if config.model.freeze else ()), "model.lora.rank=8")
    if config.model.dtype in ("auto", "float32"):
        yield ("model.dtype=bfloat16",)
