"""Several looks at an example, some of them at a transformed picture, which the prompt announces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, get_args

import torch
from pydantic import Field

from saei.config.strategy import StrategyConfig
from saei.errors import DataError
from saei.policy import Policy
from saei.samplers.base import (
    MOST_RESPONSES,
    OwnLoopOnly,
    PlannedArm,
    Sampler,
    SamplingPlan,
    StepContext,
    Supply,
    clean_arm,
)
from saei.samplers.transforms import TRANSFORMS
from saei.types import Example, Group, Response, View

ORIGIN = "augmented"

TransformName = Literal[
    "rotate-90",
    "rotate-180",
    "rotate-270",
    "flip-horizontal",
    "flip-vertical",
    "flip-both",
    "noise-10",
    "noise-25",
    "noise-50",
]


class Augment(Sampler):
    """Responses to several variants of an example, each with its picture transformed at random: after R1-ShareVL.

    A variant is the example with its pictures, by a probability, rotated, flipped or noisy, and a sentence in front of
    the question that says so. Each response is trained under the variant that it was drawn from, and all responses
    of the example make one group.

    Theirs (https://arxiv.org/abs/2505.16673 and its code): two variants with six responses each, the probability, the
    nine transforms, the noise in grey levels of the original picture, and the announcement. Also theirs are other
    wordings of the question, which their data brings along: an example whose ``meta`` has a list of them under
    ``paraphrases`` gets one at random in each variant. Ours are the sentences, the announced direction of a quarter
    turn (in their code it is the opposite of the turn), and that a variant without any change is the clean view. Not
    here is the other half of their Share-GRPO: there every response is trained under the other variants' prompts, too,
    with a second advantage from its own variant.
    """

    class Config(StrategyConfig):
        """Fields.

        Attributes:
            n: Responses to each variant.
            variants: Variants of an example.
            probability: With which a variant's pictures are transformed.
            transforms: The transforms, one of which is drawn; all pictures of an example get the same.
            announce: Whether the prompt says what was done.
            paraphrases: Key of an example's ``meta`` with a list of other wordings of its question.
        """

        type: Literal["augment"] = "augment"
        n: int = Field(default=6, ge=1, le=MOST_RESPONSES)
        variants: int = Field(default=2, ge=2, le=64)
        probability: float = Field(default=0.3, ge=0.0, le=1.0)
        transforms: tuple[TransformName, ...] = Field(default=get_args(TransformName), min_length=1)
        announce: bool = True
        paraphrases: str = "new_questions"

    config: Config

    def plan(self) -> SamplingPlan:
        """Return the variants; the first is counted as clean, though any number of them may be."""
        config = self.config
        augmented = (config.variants - 1) * config.n
        return SamplingPlan(
            arms=(clean_arm(config.n, ""), PlannedArm(ORIGIN, augmented, views=config.variants - 1)),
            own_loop_only=(OwnLoopOnly("", "it trains all responses of an example under one prompt"),),
            untouched=("by-chance", "refused"),
        )

    def draw(self, views: Sequence[View], step: StepContext, supply: Supply | None) -> list[Group]:
        """Return one group per view; the responses of variants that are as the clean view come first."""
        n = self.config.n
        variants = [self._variants(step.policy, view, step.generator_of(view)) for view in views]
        looks, counts = list[View](), list[int]()
        for view, (changed, _) in zip(views, variants, strict=True):
            looks += [view, *changed]
            counts += [n * (self.config.variants - len(changed)), *[n] * len(changed)]
        drawn = iter(step.sample(looks, counts))
        return [
            self._group(view, changed, refused, [next(drawn) for _ in range(1 + len(changed))])
            for view, (changed, refused) in zip(views, variants, strict=True)
        ]

    def _group(self, view: View, changed: Sequence[View], refused: int, drawn: Sequence[list[Response]]) -> Group:
        number_of_view = tuple(number for number, responses in enumerate(drawn) for _ in responses)
        untouched = None
        if not changed:
            untouched = "refused" if refused else "by-chance" if view.canvases else "no-image"
        return Group(
            example=view.example,
            views=(view, *changed),
            responses=tuple(response for responses in drawn for response in responses),
            sampled_from=number_of_view,
            updated_on=number_of_view,
            untouched=untouched,
            metrics={
                "augmented": len(changed) / self.config.variants,
                "refused": refused / self.config.variants,
            },
        )

    def _variants(self, policy: Policy, view: View, generator: torch.Generator) -> tuple[list[View], int]:
        """Return the variants that differ from the clean view, and how many more the policy refused."""
        changed, refused = [], 0
        for question in self._questions(view.example, generator):
            example = self._variant(view.example, question, generator)
            if example is view.example:
                continue
            try:
                look = policy.view(example, view.index)
            except DataError:  # the sentence leaves no room for a response, or the turned picture is too narrow
                refused += 1
            else:
                changed.append(replace(look, origin=ORIGIN))
        return changed, refused

    def _questions(self, example: Example, generator: torch.Generator) -> list[str]:
        """Return each variant's question: different ones as long as there are enough wordings."""
        others = example.meta.get(self.config.paraphrases, ())
        others = others if isinstance(others, list | tuple) else ()
        wordings = [example.question, *(str(other) for other in others)]
        order = torch.randperm(len(wordings), generator=generator).tolist()
        return [wordings[order[variant % len(wordings)]] for variant in range(self.config.variants)]

    def _variant(self, example: Example, question: str, generator: torch.Generator) -> Example:
        """Return a variant with a question, the example itself if nothing is changed."""
        # Both numbers are drawn in any case, so that one variant does not change what the next one gets.
        by_chance, choice = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
        images = example.images
        if images and by_chance < self.config.probability:
            transform = TRANSFORMS[self.config.transforms[int(choice * len(self.config.transforms))]]
            images = tuple(transform.apply(image, generator) for image in images)
            if self.config.announce:
                question = f"{transform.announcement} {question}"
        if images is example.images and question == example.question:
            return example
        return replace(example, images=images, question=question)
