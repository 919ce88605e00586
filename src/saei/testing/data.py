"""The contracts of tasks, templates and rewards."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from saei.config.strategy import Strategy, StrategyConfig
from saei.data.base import Split, Task, Template
from saei.data.markers import MARKER
from saei.rewards.base import Attempt, Reward
from saei.testing.rules import config_of, random_state_untouched, require
from saei.types import Example

HOSTILE = (
    "",
    "\\boxed{",
    "\\boxed{" * 20_000,
    "}" * 100_000,
    "<think></think>\\boxed{9**9**9**9}",
    "\x00\x1b[31m\ud7ff <script>",
    "\\boxed{" + "9" * 10_000 + "}",
)
"""Texts that a policy may write and no reward may fail on, or that an attack makes of a question."""


def check_task(subject: Strategy | StrategyConfig, *, count: int = 8) -> None:
    """Check a task: examples are a pure function of (config, split, index), with unique ids and answers.

    Where the task has an oracle, it answers the example's question and its other wordings as the example does. The
    gold answer gives one of the best solutions.

    Args:
        subject: A task or its config.
        count: Number of examples of each split to check.

    Raises:
        AssertionError: Naming the rule that is broken.
    """
    config = config_of(subject)
    task, again = config.build(), config.build()
    name = config.type
    require(isinstance(task, Task), name, "the config of a task builds a Task")
    splits: tuple[Split, ...] = ("train", "eval")
    if task.size("train") != 0:
        task.example(0)  # what the first call imports may draw random numbers
    with random_state_untouched(name):
        for split in splits:
            size = task.size(split)
            indices = range(count if size is None else min(count, size))
            examples = [task.example(index, split) for index in indices]
            others = [again.example(index, split) for index in reversed(indices)][::-1]
            require(all(map(_same, examples, others)), name, "the same split and index give the same example")
            require(len({example.id for example in examples}) == len(examples), name, "ids are unique within a split")
            filled = all(example.question and example.answer for example in examples)
            require(filled, name, "question and answer are not empty")
            for example in examples:
                _check_text(task, again, example, name)
                _check_solutions(task, again, example, name)


def _check_text(task: Task, again: Task, example: Example, name: str) -> None:
    """Require that the task knows what its questions mean, in its own words and others."""
    spans = all(0 <= start < end <= len(example.question) for start, end in example.protected)
    require(spans, name, "protected spans are not empty and lie within the question")
    wordings = task.wordings(example)
    new = len({example.question, *wordings}) == 1 + len(wordings) and all(wordings)
    require(new, name, "wordings differ from the question and from each other")
    require(wordings == again.wordings(example), name, "the same example has the same wordings")
    implemented = type(task).answer is not Task.answer
    require(task.oracle == implemented, name, "a task has an oracle exactly if it implements `answer`")
    if not task.oracle:
        return
    require(
        task.answer(example, example.question) == example.answer, name, "the oracle answers a question as its example"
    )
    same = all(task.answer(example, wording) == example.answer for wording in wordings)
    require(same, name, "wordings keep the answer")
    for text in HOSTILE:
        try:
            answers = task.answer(example, text), again.answer(example, text)
        except Exception as error:
            raise AssertionError(f"{name}: an oracle never raises, not for {text[:30]!r}: {error!r}") from error
        require(answers[0] == answers[1] != "", name, "the same question has the same answer, not an empty one")


def _check_solutions(task: Task, again: Task, example: Example, name: str) -> None:
    """Require that the gold answer is as good as any, and that guesses are functions of their source."""
    best = task.best_solutions(example)
    require(len(set(best)) == len(best), name, "the best solutions differ from each other")
    gold = task.solution(example, example.answer)
    require(gold in best, name, "the gold answer gives one of the best solutions")
    guesses = [each.guesses(example, np.random.default_rng(0)) for each in (task, again)]
    require(guesses[0] == guesses[1], name, "the same source gives the same guesses")
    named = set(task.guesses(example, np.random.default_rng(1))) == set(guesses[0])
    require(named, name, "every draw has the same guessers")


def check_template(subject: Strategy | StrategyConfig) -> None:
    """Check a template: one image entry per image of the example, where its marker is, and the question among the text.

    Raises:
        AssertionError: Naming the rule that is broken.
    """
    from PIL import Image

    config = config_of(subject)
    template = config.build()
    require(isinstance(template, Template), config.type, "the config of a template builds a Template")
    for count in (0, 1, 3):
        example = Example("e", "Which one?", "a", (Image.new("RGB", (8, 8)),) * count)
        parts = [part for message in template.messages(example) for part in _parts(message)]
        images = sum(part["type"] == "image" for part in parts)
        require(images == count, config.type, "the messages hold one image per image of the example")
        text = "".join(part.get("text", "") for part in parts)
        require("Which one?" in text, config.type, "the messages hold the question")
    example = Example("e", f"Is it {MARKER} or", "a", (Image.new("RGB", (8, 8)),) * 2)
    parts = [part for message in template.messages(example) for part in _parts(message)]
    order = "".join(part.get("text", part["type"]) for part in parts)
    require("imageIs it image or" in order, config.type, "images stand at their markers, the others in front")


def check_reward(subject: Strategy | StrategyConfig) -> None:
    """Check a reward: a pure function that is finite and raises for nothing that a policy may write.

    Raises:
        AssertionError: Naming the rule that is broken.
    """
    config = config_of(subject)
    reward = config.build()
    name = config.type
    require(isinstance(reward, Reward), name, "the config of a reward builds a Reward")
    example = Example("e", "How many?", "7")
    texts = (*HOSTILE, "<think>it is 7</think> \\boxed{7}")
    alone: list[tuple[float, bool]] = []
    with random_state_untouched(name):
        for text in texts:
            grades = []
            for truncated in (False, False, True):
                try:
                    grades.append(reward.grade(example, text, truncated=truncated))
                except Exception as error:
                    raise AssertionError(f"{name}: a reward never raises, not for {text[:30]!r}: {error!r}") from error
            require(all(math.isfinite(grade.reward) for grade in grades), name, "rewards are finite")
            same = (grades[0].reward, grades[0].correct) == (grades[1].reward, grades[1].correct)
            require(same, name, "the same response has the same grade")
            alone.append((grades[0].reward, grades[0].correct))
        together = reward.grade_all([Attempt(example, text) for text in texts])
        same = [(grade.reward, grade.correct) for grade in together] == alone
        require(same, name, "responses have the same grades together as one by one, in their order")


def _parts(message: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _same(left: Example, right: Example) -> bool:
    pictures = [[image.tobytes() for image in example.images] for example in (left, right)]
    texts = [(example.id, example.question, example.answer, example.protected) for example in (left, right)]
    return pictures[0] == pictures[1] and texts[0] == texts[1]
