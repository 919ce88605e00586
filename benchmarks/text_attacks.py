"""What one step of each attack on text does to a policy, beside controls and the attack on pixels at equal divergence.

The divergence between two views is the full-vocabulary KL of the moved from the clean view, teacher-forced on the clean
responses, in nats per token. The step of the attack on pixels, whole levels of 8 bits, and the radius of random offsets
are searched so that their divergence comes next to that of a text attack; swaps have random swaps and other wordings
as controls. Entropies are those of the selected tokens: teacher-forced on the clean responses that were attacked, and
on newly sampled responses, where the selector looks at these. An answer has changed where the greedy response to the
moved view gives another one than that to the clean view.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from itertools import product
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from saei.config.run import RunConfig, validate
from saei.config.sections import SamplingConfig
from saei.evaluation.answers import AnswerSet, answer
from saei.evaluation.metrics import mean
from saei.evaluation.statistics.intervals import Interval, mean_interval
from saei.intake.inspect import inspect_example
from saei.interventions import Intervention, InterventionConfig
from saei.interventions.context import StepContext
from saei.interventions.group_criterion import token_stats
from saei.need import Need
from saei.policy import Policy
from saei.runtime.seeds import GroupSources
from saei.types import Response, View

ATTACKED = 6
"""Responses per prompt that an attack sees."""

TEXT: Mapping[str, Any] = {
    "text-fgsm": "text-fgsm",
    "hotflip": "hotflip",
    "gcg": "gcg",
    "joint": {"type": "joint", "of": {"pixels": "pgd", "embeddings": "text-fgsm"}},
    "random-swap": "random-swap",
    "paraphrase": "paraphrase",
}
SWAPS = ("hotflip", "gcg", "random-swap")
QUESTIONS = ("answerable", "answer-kept")
"""Which swaps are taken, besides any: each attack on tokens has a row of either, where the task has an oracle."""

MATCHED = ("text-fgsm", "hotflip", "gcg")
"""Text attacks that have a step on the pixels of equal divergence."""

KL = Need("kl", view="clean")
MOST_LEVELS = 64
HALVINGS = 8


@dataclass(frozen=True)
class Bench:
    """The prompts, their clean responses and what draws and scores them."""

    config: RunConfig
    policy: Policy
    views: Sequence[View]
    responses: Sequence[Sequence[Response]]
    batch: int

    def moved(self, attack: Any, **slots: Any) -> list[View]:
        """Return the views that an attack makes, whatever changed questions ask unless the surfaces restrict it."""
        intervention = Intervention(InterventionConfig.model_validate({"attack": attack, **slots}))
        oracle = self.config.task.build().answer if intervention.needs_oracle else None
        step = StepContext(self.policy, progress=0.0, sources=GroupSources(self.config.seed), answer=oracle)
        moved: list[View] = []
        for start in range(0, len(self.views), self.batch):
            batch = slice(start, start + self.batch)
            moved += [one.view for one in intervention.apply(self.views[batch], self.responses[batch], step)]
        return moved

    def divergence(self, moved: Sequence[View]) -> float:
        """Return the KL of moved from clean views, the mean over all tokens of the clean responses."""
        total, tokens = 0.0, 0
        for start in range(0, len(moved), self.batch):
            batch = slice(start, start + self.batch)
            needs = self.policy.score(
                moved[batch], self.responses[batch], needs=[KL], with_entropy=False, clean=self.views[batch]
            )
            total += sum(float(scores.statistics[KL].sum()) for scores in needs)
            tokens += sum(int(scores.mask_NT.sum()) for scores in needs)
        self.policy.forget_states()
        return total / tokens

    def criterion(self, moved: Sequence[View]) -> list[float]:
        """Return for each prompt the entropy of the clean responses' selected tokens under moved views."""
        slots = Intervention()
        step = StepContext(self.policy, progress=0.0, sources=GroupSources(self.config.seed))
        values = []
        for clean, view, drawn in zip(self.views, moved, self.responses, strict=True):
            stats = token_stats(self.policy, clean, drawn, slots.selector.needs)
            selected_NT = slots.selector.select(stats, progress=0.0, generator=step.generator_of(clean))
            needs = slots.criterion.needs
            (scores,) = self.policy.score([view], [drawn], with_entropy=False, needs=needs, selected=[selected_NT])
            values.append(float(slots.criterion.value(scores, selected_NT, pooled=slots.selector.pooled)))
        return values

    def newly_sampled(self, moved: Sequence[View], fresh: int) -> list[float]:
        """Return for each prompt the entropy of the selected tokens of new responses to its moved view."""
        slots = Intervention()
        step = StepContext(self.policy, progress=0.0, sources=GroupSources(self.config.seed, "fresh"))
        values = []
        for start in range(0, len(moved), self.batch):
            views = moved[start : start + self.batch]
            for view, drawn in zip(views, step.sample(views, [fresh] * len(views)), strict=True):
                stats = token_stats(self.policy, view, drawn, slots.selector.needs)
                selected_NT = slots.selector.select(stats, progress=0.0, generator=step.generator_of(view))
                values.append(float((stats.entropy_NT * selected_NT).sum() / selected_NT.sum()))
        return values

    def greedy(self, moved: Sequence[View]) -> list[AnswerSet]:
        """Return the greedy response to each view with its grade as an answer to what the view's example asks."""
        greedy = SamplingConfig(temperature=0.0, max_new_tokens=self.config.sampling.max_new_tokens)
        reward = self.config.reward.build()
        return answer(self.policy, reward, moved, responses=1, sampling=greedy, seed=self.config.seed)


def pixel_levels(bench: Bench, target: float) -> int:
    """Return the step, in levels of 8 bits, whose divergence is nearest to a target, by bisection."""
    known: dict[int, float] = {}

    def at(levels: int) -> float:
        if levels not in known:
            known[levels] = bench.divergence(bench.moved({"type": "pgd", "step": f"{levels}/255"}))
        return known[levels]

    low, high = 1, MOST_LEVELS
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if at(middle) < target else (low, middle)
    return min((low, high), key=lambda levels: abs(at(levels) - target))


def noise_radius(bench: Bench, target: float) -> Fraction:
    """Return the radius of uniform noise, in NEFTune's unit, whose divergence is nearest to a target, by bisection."""
    low, high = Fraction(0), Fraction(1)
    while bench.divergence(bench.moved({"type": "neftune", "radius": str(high)})) < target and high < 500:
        low, high = high, 2 * high
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        below = bench.divergence(bench.moved({"type": "neftune", "radius": str(middle)})) < target
        low, high = (middle, high) if below else (low, middle)
    return (low + high) / 2


def oracle_says(config: RunConfig, clean: Sequence[View], moved: Sequence[View]) -> dict[str, float] | None:
    """Return the shares of changed questions that the task's oracle calls kept, changed and unanswerable."""
    task = config.task.build()
    pairs = [pair for pair in zip(clean, moved, strict=True) if pair[0].example.question != pair[1].example.question]
    if not pairs or not task.oracle:
        return None
    answers = [(view.example.answer, task.answer(view.example, other.example.question)) for view, other in pairs]
    return {
        "kept": mean([float(new == old) for old, new in answers]),
        "changed": mean([float(new is not None and new != old) for old, new in answers]),
        "unanswerable": mean([float(new is None) for _, new in answers]),
    }


def run(config: RunConfig, prompts: int, fresh: int, batch: int) -> dict[str, Any]:
    """Attack the first prompts of the eval split in every way."""
    policy = Policy.load(config.model, config.template.build(), sampling=config.sampling, entropy=config.entropy)
    task = config.task.build()
    views = [inspect_example(task, policy, number, "eval") for number in range(prompts)]
    step = StepContext(policy, progress=0.0, sources=GroupSources(config.seed, "clean"))
    responses: list[list[Response]] = []
    for start in range(0, prompts, batch):
        responses += step.sample(views[start : start + batch], [ATTACKED] * len(views[start : start + batch]))
    bench = Bench(config, policy, views, responses, batch)

    arms: dict[str, tuple[str, list[View]]] = {}
    for name, attack in track(TEXT.items(), "text attacks", transient=True):
        arms[name] = ("", bench.moved(attack))
    if task.oracle:
        for name, questions in track([*product(SWAPS, QUESTIONS)], "restricted swaps", transient=True):
            surfaces = [{"type": "tokens", "questions": questions}]
            arms[f"{name}, {questions}"] = ("", bench.moved(name, surfaces=surfaces))
    for name in track(MATCHED, "controls", transient=True):
        target = bench.divergence(arms[name][1])
        step_size = f"{pixel_levels(bench, target)}/255"
        arms[f"pgd on pixels, as {name}"] = (step_size, bench.moved({"type": "pgd", "step": step_size}))
    target = bench.divergence(arms["text-fgsm"][1])
    radius = noise_radius(bench, target)
    arms["neftune, as text-fgsm"] = (
        f"alpha {float(radius):.3g}",
        bench.moved({"type": "neftune", "radius": str(radius)}),
    )

    before, sampled, greedy = bench.criterion(views), bench.newly_sampled(views, fresh), bench.greedy(views)
    table = {}
    for name, (size, moved) in track(arms.items(), "measuring", transient=True):
        forced = [new - old for new, old in zip(bench.criterion(moved), before, strict=True)]
        new = [new - old for new, old in zip(bench.newly_sampled(moved, fresh), sampled, strict=True)]
        changed = [
            float(one.grades[0].answer != other.grades[0].answer)
            for one, other in zip(greedy, bench.greedy(moved), strict=True)
        ]
        table[name] = {
            "size": size,
            "kl": bench.divergence(moved),
            "rises": mean([float(change > 0) for change in forced]),
            "forced": asdict(mean_interval(forced)),
            "sampled": asdict(mean_interval(new)),
            "answers_changed": mean(changed),
            "swapped": mean(
                [float(not torch.equal(a.prompt_ids_P, b.prompt_ids_P)) for a, b in zip(views, moved, strict=True)]
            ),
            "oracle": oracle_says(config, views, moved),
        }
    return {
        "model": config.model.path,
        "task": config.task.type,
        "prompts": prompts,
        "fresh": fresh,
        "clean": {"forced": mean(before), "sampled": mean(sampled)},
        "moved": table,
    }


def show(result: dict[str, Any]) -> None:
    """Print the result as a table."""
    console = Console(width=160)
    console.print(
        f"{result['model']} on {result['task']}: {result['prompts']} prompts, {result['fresh']} new responses a view; "
        f"selected tokens have an entropy of {result['clean']['forced']:.4f} nats in clean responses, of "
        f"{result['clean']['sampled']:.4f} in new ones\n"
    )
    shown: Mapping[str, Callable[[dict[str, Any]], str]] = {
        "size": lambda row: row["size"],
        "KL, nats": lambda row: f"{row['kl']:.4f}",
        "rises in": lambda row: f"{row['rises']:.0%}",
        "teacher-forced, change": lambda row: signed(row["forced"]),
        "new responses, change": lambda row: signed(row["sampled"]),
        "answers changed": lambda row: f"{row['answers_changed']:.0%}",
        "swapped": lambda row: f"{row['swapped']:.0%}",
        "kept / changed / unanswerable": lambda row: (
            "" if row["oracle"] is None else " / ".join(f"{share:.0%}" for share in row["oracle"].values())
        ),
    }
    table = Table("view", *shown, box=None)
    for name, row in result["moved"].items():
        table.add_row(name, *(cell(row) for cell in shown.values()))
    console.print(table)


def signed(interval: dict[str, float]) -> str:
    """Return an interval as text."""
    own = Interval(**interval)
    return f"{own.mean:+.4f} ({own.low:+.4f} to {own.high:+.4f})"


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Run the benchmark, print its table, write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="builtin", help="builtin, a folder or a hub id")
    parser.add_argument("--task", default="bars")
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--fresh", type=int, default=16, help="new responses per view and prompt")
    parser.add_argument("--batch", type=int, default=16, help="prompts at once")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="file to write")
    options = parser.parse_args(arguments)
    config = validate({"model": {"path": options.model}, "task": options.task, "seed": options.seed})
    result = run(config, options.prompts, options.fresh, options.batch)
    show(result)
    if options.json:
        options.json.write_text(json.dumps(result, indent=2))
    return result


if __name__ == "__main__":
    main()
