"""The pictures of a robustness evaluation: clean, noisy, and moved by attacks on this policy or on a fixed base."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import torch

from saei.attacks.noise import Noise
from saei.attacks.pgd import PGD
from saei.config.sections import SamplingConfig
from saei.entropy.selectors.all import All
from saei.interventions.context import StepContext
from saei.interventions.criteria import NLL, Entropy
from saei.interventions.intervention import Intervention
from saei.interventions.intervention_config import InterventionConfig
from saei.policy import Policy
from saei.rewards.base import Reward
from saei.runtime.seeds import GroupSources
from saei.types import Example, Response, View

STEPS = 10
"""Steps of an attack, each a quarter of its radius long: the ball's surface is reached in four."""

FORMS = ("\\boxed{{{}}}", "<answer>{}</answer>", "{}")
"""Ways to write an answer; the first that the reward grades as right represents the gold answer."""

Kind = Literal["clean", "noise", "entropy", "gold"]


@dataclass(frozen=True, slots=True)
class Condition:
    """One way to see every example.

    Attributes:
        kind: ``clean``; ``noise``, random signs; ``entropy`` raises the entropy of the policy's own greedy response;
            ``gold`` lowers the probability of a response that gives the gold answer.
        radius: Largest change of a pixel value, of the [0, 1] range.
        base: The model that was attacked once for all; empty for the evaluated policy itself (white-box).
    """

    kind: Kind
    radius: Fraction = Fraction(0)
    base: str = ""

    @property
    def name(self) -> str:
        """A name for folders and tables."""
        size = "" if self.kind == "clean" else f"-{self.radius * 255}".replace("/", "_")
        return f"{self.kind}{size}{'-base' if self.base else ''}"

    @property
    def attacks(self) -> bool:
        """Whether the condition is an attack that follows a gradient."""
        return self.kind in ("entropy", "gold")


def conditions(radii: Sequence[Fraction], base: str | None) -> Iterator[Condition]:
    """Return all conditions: for each radius noise and both attacks, on the policy and on the base if there is one."""
    yield Condition("clean")
    kinds: tuple[Kind, ...] = ("entropy", "gold")
    for radius in radii:
        yield Condition("noise", radius)
        for attacked in ("", *([base] if base else [])):
            yield from (Condition(kind, radius, attacked) for kind in kinds)


class ConditionIntervention:
    """Perturbs clean views under one condition; an example's noise depends on the seed and its number alone.

    Args:
        condition: The condition.
        attacked: The policy whose gradient the attack follows.
        reward: Decides which response gives the gold answer.
        sampling: The evaluation's sampling, of which only the length of responses is used.
        seed: Seed of the noise.
    """

    def __init__(
        self, condition: Condition, attacked: Policy, reward: Reward, sampling: SamplingConfig, seed: int
    ) -> None:
        self._condition, self._policy, self._reward, self._seed = condition, attacked, reward, seed
        self._greedy = sampling.model_copy(update={"temperature": 0.0, "top_p": 1.0, "top_k": None})
        radius = condition.radius
        attack = (
            PGD.Config(step=radius / 4, steps=STEPS, radius=radius)
            if condition.attacks
            else Noise.Config(distribution="signs", radius=radius)
        )
        criterion = NLL.Config() if condition.kind == "gold" else Entropy.Config()
        self._intervention = Intervention(InterventionConfig(selector=All.Config(), criterion=criterion, attack=attack))

    def __call__(self, views: Sequence[View]) -> list[View]:
        """Return the perturbed views; those without a picture stay as they are."""
        if self._condition.kind == "clean":
            return list(views)
        step = StepContext(self._policy, 0.0, GroupSources(self._seed, "noise"))
        outcomes = self._intervention.apply(views, [[response] for response in self._responses(views)], step)
        return [outcome.view for outcome in outcomes]

    def _responses(self, views: Sequence[View]) -> list[Response]:
        """Return for each view the response whose criterion the attack follows."""
        sources = [torch.Generator() for _ in views]  # greedy decoding draws nothing from them
        samples = self._policy.sample(views, [1] * len(views), sampling=self._greedy, generators=sources)
        greedy = [responses[0] for responses in samples]
        if self._condition.kind != "gold":
            return greedy
        return [
            response if self._right(view.example, response.text) else self._gold(view.example)
            for view, response in zip(views, greedy, strict=True)
        ]

    def _gold(self, example: Example) -> Response:
        forms = [form.format(example.answer) for form in FORMS]
        text = next((form for form in forms if self._right(example, form)), forms[0])
        ids = self._policy.tokenizer(text, add_special_tokens=False)["input_ids"]
        ids_T = torch.tensor([*ids, int(self._policy.eos_ids[0])], device=self._policy.device)
        zeros_T = torch.zeros(len(ids_T), device=self._policy.device)
        return Response(ids_T, text, zeros_T, zeros_T, truncated=False)

    def _right(self, example: Example, text: str) -> bool:
        return self._reward.grade(example, text).correct
