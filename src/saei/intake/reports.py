"""What is known of an example after it was checked; reading that needs neither torch nor a policy."""

from __future__ import annotations

from dataclasses import dataclass

DROPPED = "dropped.jsonl"
"""File of an evaluation with the reports of the examples that it left out."""


@dataclass(frozen=True, slots=True)
class ExampleReport:
    """The result of checking one example.

    Attributes:
        index: Its number in the split.
        tokens: Tokens of its prompt, image tokens included; None if the example is broken.
        rule: The rule that it breaks; empty if it can be used.
        report: That rule with reason and remedy.
        too_long: Whether its only fault is its length.

    Example:
        ``ExampleReport(9, rule="Every image has to open.", report="Every image has to open. An image in row 11 …")``
    """

    index: int
    tokens: int | None = None
    rule: str = ""
    report: str = ""
    too_long: bool = False
