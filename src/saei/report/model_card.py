"""The model card of an exported policy: what it is, how it was trained, what it reached, and how to do it again."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from saei.config.flat import flat
from saei.config.run import RunConfig, dump
from saei.config.yaml import write_yaml
from saei.errors import printable
from saei.report.compare import entropy_steered
from saei.report.run_settings import short

PLACES = {"model.path": "MODEL", "task.path": "DATA"}
"""What stands for a path of this machine in the command."""

FIGURES = (
    ("eval/accuracy", "sampled accuracy", "share of right answers, {responses} responses each to {examples} examples"),
    ("eval/length", "length", "tokens per response there"),
    ("probe/entropy", "probe entropy", "mean token entropy in nats, {probe_responses} responses to {probe} examples"),
    ("probe/zero_variance", "all right or all wrong", "share of these examples, which teach a group nothing"),
)
"""Metric, name and meaning; all on the clean view of held-out examples."""


def model_card(
    config: Mapping[str, Any],
    record: Mapping[str, Any],
    metrics: list[dict[str, Any]],
    *,
    step: int,
    merged: bool,
) -> str:
    """Return a model card; nothing in it names a path of this machine.

    Args:
        config: The run's configuration as plain data.
        record: What its ``config.yaml`` holds besides.
        metrics: Its lines of metrics.
        step: Steps done in the checkpoint that is exported.
        merged: Whether an adapter was merged into the weights.
    """
    settings = flat(config)
    base = _public("model.path", settings.get("model.path"))
    head: dict[str, Any] = {"base_model": base} if base and base.count("/") == 1 else {}
    tags = ["saei", "reinforcement-learning"]
    head |= {"library_name": "transformers", "pipeline_tag": "image-text-to-text", "tags": tags}
    parts = [
        f"---\n{write_yaml(head)}---",
        "# A policy trained by reinforcement learning with saei",
        _method(settings, base, step, merged=merged),
        "## Data\n\n" + _data(settings),
        "## Figures\n\n" + _figures(settings, metrics, step),
        "## Use\n\n" + _use(settings),
        "## Made with\n\n" + _versions(record),
        "The command, up to paths and the names of files:\n\n```bash\n" + command(config) + "\n```",
    ]
    return "\n\n".join(parts) + "\n"


def command(config: Mapping[str, Any]) -> str:
    """Return the command that repeats a run: what it sets apart from the defaults."""
    defaults, settings = flat(dump(RunConfig())), flat(config)
    words = ["saei train"]
    for path, value in settings.items():
        if path.startswith("output.") or path == "plugins" or (path in defaults and defaults[path] == value):
            continue
        text = _public(path, value)
        text = PLACES.get(path, "FILE") if text is None else text
        words.append(f"--set {shlex.quote(f'{short(path)}={_yaml(text)}')}")
    words += ["--plugin FILE" for _ in config.get("plugins") or ()]
    return " \\\n  ".join(map(printable, words))


def _yaml(value: Any) -> str:
    """Return a value as YAML reads it: what Python writes as ``True`` is ``true`` there."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _public(path: str, value: Any) -> Any:
    """Return a setting, None for a path on this machine."""
    if not isinstance(value, str):
        return value
    local = re.match(r"[/~\\]|\.{1,2}[/\\]|[A-Za-z]:[/\\]", value) is not None
    if path in PLACES:  # a hub id is a name, or an owner and a name; a folder may look like that
        local = local or value.count("/") > 1 or Path(value).exists()
    return None if local else value


def _method(settings: Mapping[str, Any], base: str | None, step: int, *, merged: bool) -> str:
    sampler = settings.get("sampler.type")
    lines = [
        f"Base: {base or 'a local model'}. {step} steps of {settings.get('training.prompts_per_step')} questions, the "
        f"sampler `{sampler}`, the objective `{settings.get('objective.type')}`, learning rate "
        f"{settings.get('optimizer.lr')}, seed {settings.get('seed')}.",
    ]
    attack, selector = (settings.get(f"sampler.intervention.{slot}.type") for slot in ("attack", "selector"))
    if attack:
        lines.append(
            "Part of each group's responses is drawn from a perturbed picture (Selective-adversarial Entropy "
            f"Intervention, arXiv 2512.10414): the attack `{attack}` raises the criterion "
            f"`{settings.get('sampler.intervention.criterion.type')}` over the tokens that the selector `{selector}` "
            "chooses."
        )
    if merged:
        lines.append(f"A low-rank adapter of rank {settings.get('model.lora.rank')} was trained and merged.")
    return "\n\n".join(lines)


def _data(settings: Mapping[str, Any]) -> str:
    path = _public("task.path", settings.get("task.path")) if "task.path" in settings else ""
    source = "" if path in ("", "null") else f", from {path or 'local files'}"
    return f"The task `{settings.get('task.type')}`{source}; answers graded by `{settings.get('reward.type')}`."


def _figures(settings: Mapping[str, Any], metrics: list[dict[str, Any]], step: int) -> str:
    evaluated = [line for line in metrics if "eval/accuracy" in line and line.get("step", 0) <= step]
    if not evaluated:
        return "The run was not evaluated."
    first, last = evaluated[0], evaluated[-1]
    counts = {
        "responses": settings.get("evaluation.responses"),
        "examples": settings.get("evaluation.examples"),
        "probe_responses": settings.get("evaluation.probe_responses"),
        "probe": settings.get("evaluation.probe_examples"),
    }
    begin, end = ("before training" if not line["step"] else f"after step {line['step']}" for line in (first, last))
    rows = [f"| | {begin} | {end} | what it is |", "|---|---|---|---|"]
    for metric, name, meaning in FIGURES:
        rows.append(f"| {name} | {_text(first, metric)} | {_text(last, metric)} | {meaning.format(**counts)} |")
    sentences = ["All on the clean view of held-out examples, chosen before training."]
    if settings.get("output.keep_best") not in (None, "null"):
        sentences.append("The run kept its best checkpoint: the evaluation that chose it is no unbiased estimate.")
    if entropy_steered(metrics):
        sentences.append("The run's entropy was steered: it is no evidence against collapse.")
    return "\n".join(rows) + "\n\n" + " ".join(sentences)


def _text(line: Mapping[str, Any], metric: str) -> str:
    value, error = line.get(metric), line.get(f"{metric}_se")
    if not isinstance(value, int | float):
        return "none"
    return f"{value:.3f}" + (f" ± {error:.3f}" if isinstance(error, int | float) else "")


def _use(settings: Mapping[str, Any]) -> str:
    instruction = settings.get("template.instruction")
    known = isinstance(instruction, str) and instruction != "null"
    asked = f"It was trained with the instruction: {instruction}\n\n" if known else ""
    return (
        asked + "```python\nfrom transformers import AutoModelForImageTextToText, AutoProcessor\n\n"
        'model = AutoModelForImageTextToText.from_pretrained("THIS_FOLDER")\n'
        'processor = AutoProcessor.from_pretrained("THIS_FOLDER")\n```\n\n'
        "± is a standard error over examples; no figure here says how the policy does on other data."
    )


def _versions(record: Mapping[str, Any]) -> str:
    versions = record.get("versions")
    pairs = versions.items() if isinstance(versions, Mapping) else ()
    return ", ".join(printable(f"{name} {version}", 80) for name, version in pairs) or "Versions were not recorded."
