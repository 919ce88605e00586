"""Shared by ``saei ask`` and ``saei inspect``: the policy that is asked, and the options that both take."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from saei.cli.options import policy_config

if TYPE_CHECKING:
    from saei.cli.reads import Reads
    from saei.config.run import RunConfig
    from saei.policy import Policy

NO_PICTURE = "none"

Image: TypeAlias = Annotated[
    str, typer.Argument(metavar="IMAGE", help="A picture's file, or none for a question without one.")
]
Question: TypeAlias = Annotated[str, typer.Argument(metavar="QUESTION", help="The question, as one argument.")]
Further: TypeAlias = Annotated[
    list[Path] | None, typer.Option("--image", metavar="FILE", help="A further picture, in order; repeatable.")
]
Responses: TypeAlias = Annotated[int, typer.Option("--responses", "-k", min=1, max=256, metavar="N", help="How many.")]
Seed: TypeAlias = Annotated[int, typer.Option(min=0, metavar="N", help="Seed of the draws.")]
Template: TypeAlias = Annotated[
    str | None, typer.Option(metavar="NAME", help="Prompt template; by default the run's, else think-boxed.")
]


def configuration(
    model: str,
    flags: list[dict[str, Any]],
    assignments: list[str],
    plugins: list[str],
    *,
    template: str | None,
    trust: bool,
    reads: Reads,
    leave_out: tuple[str, ...],
) -> RunConfig:
    """Return the configuration of a policy that is asked a question: of a run, without its data and its update."""
    from saei.config.overrides import nested

    unused = ("task", "reward", "decoder", "objective", "optimizer", "training", "evaluation", "control", "output")
    flags = [*flags, *([nested("template.type", template)] if template else [])]
    return policy_config(model, flags, assignments, plugins, reads=reads, leave_out=(*unused, *leave_out), trust=trust)


def load(config: RunConfig) -> Policy:
    """Load the policy of a configuration.

    Raises:
        SaeiError: If it does not load.
    """
    from saei.policy import Policy

    return Policy.load(config.model, config.template.build(), sampling=config.sampling, entropy=config.entropy)


def pictures(image: str, further: list[Path] | None) -> list[str | Path] | None:
    """Return the pictures of a question, None for none."""
    first: list[str | Path] = [] if image == NO_PICTURE else [image]
    return [*first, *(further or [])] or None
