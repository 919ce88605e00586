"""The objective seam: from log-probabilities and advantages to a loss. Objectives never see a model.

The file is long because an objective and its terms are given the same input and return the same kind of loss: whoever
writes one of them reads all four classes, most of which is what they promise.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor

from saei.config.registry import AdvantageField, OptionalSelectorField, TermField, WeightField
from saei.config.strategy import Strategy, StrategyConfig
from saei.need import Need
from saei.objectives.advantages.base import Advantage
from saei.objectives.aggregation import per_response, response_mean
from saei.objectives.batch import UpdateBatch
from saei.objectives.weights.base import Weight
from saei.objectives.weights.selected import Selected
from saei.views import needs_picture

Aggregate: TypeAlias = Callable[[Tensor], Tensor]
"""From one value per response token, ``[R, T]``, to one number, weighing tokens as the objective does."""


@dataclass(frozen=True, eq=False, slots=True)
class ObjectiveInput:
    """One micro-batch of R responses, right-padded to T; whole groups, flattened only here.

    Attributes:
        logp_RT: Current log-probabilities under the update view, with graph.
        old_logp_RT: The old policy's under the update view, detached.
        behaviour_logp_RT: Those of the distribution that each token was drawn from, detached.
        mask_RT: bool, True on response tokens, but for those at the beginning that the group leaves untrained.
        selected_RT: bool, the tokens that the policy loss uses, a subset of the mask: those that no weight without
            ``count_zeroed`` gives 0.
        advantage_RT: The advantage of each token; those of a response are equal unless the advantage is per token.
        truncated_R: bool, responses that the length limit ended.
        off_view_R: bool, responses trained under another view than the one they were drawn from. Forced tokens
            count as drawn from the view of the tokens that follow, since their own view is not known.
        beta_R: Exponent of the view weight per response.
        cap_R: Cap of the view weight per response.
        n_responses: Responses of the whole update batch, over all micro-batches and processes, with those that were
            drawn and then dropped from its groups.
        n_tokens: Tokens of these responses, as in the mask; truncated responses that are masked do not count.
        n_selected: Those of them that the policy loss uses.
        max_new_tokens: Longest response that sampling allows.
        weight_RT: Product of the objective's weights, detached, which an aggregation multiplies the values of the
            policy loss by; None without weights.
        correct_R: bool, responses that were graded right; None where no grades are known.
        clean_R: bool, responses that were drawn from the clean view; None where all were.
        pictured_R: bool, responses trained under a view with a picture; None where all are.
        prepared: What ``Objective.prepare`` returned, for these responses; for a term what its own ``prepare`` did.
        statistics: One ``[R, T]`` tensor per entry of the objective's ``needs``, 0 on padding, such as
            ``Need("entropy", grad=True)``, the current policy's entropies with graph, or
            ``Need("logp", policy="reference")``.
    """

    logp_RT: Tensor
    old_logp_RT: Tensor
    behaviour_logp_RT: Tensor
    mask_RT: Tensor
    selected_RT: Tensor
    advantage_RT: Tensor
    truncated_R: Tensor
    off_view_R: Tensor
    beta_R: Tensor
    cap_R: Tensor
    n_responses: float
    n_tokens: float
    n_selected: float
    max_new_tokens: int
    weight_RT: Tensor | None = None
    correct_R: Tensor | None = None
    clean_R: Tensor | None = None
    pictured_R: Tensor | None = None
    prepared: Mapping[str, Tensor] = field(default_factory=dict)
    statistics: Mapping[Need, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, eq=False, slots=True)
class Loss:
    """A differentiable scalar, already divided by the global count, and what to log about it.

    Micro-batch values add up to the update batch's.

    Attributes:
        value: The scalar, a share of a mean over the whole update batch.
        metrics: One detached value per response, ``[R]``, so that they can be grouped by origin: the mean over
            its tokens, the maximum where the name ends in ``_max``, or a number of tokens where it ends in ``_tokens``.
            NaN where no token of it was used. Logged are the mean over responses, the maximum, and the sum.
    """

    value: Tensor
    metrics: Mapping[str, Tensor] = field(default_factory=dict)


class Term(Strategy, ABC):
    """Something added to the policy loss, such as a KL penalty. To add one, implement ``loss``.

    One whose coefficient follows the training overrides ``begin_step``, one that has to see the whole update batch
    ``prepare``. Where needs ask about changed pictures, responses trained under a view without one are left out: they
    are not in the masks of its inputs and batches.
    """

    kind: ClassVar[str] = "term"
    off_policy_only: ClassVar[bool] = False
    """Whether it has no effect where the current policy is the old one: it needs several updates per batch."""
    number: int = 1
    """Which it is of the objective's terms of its name."""

    @property
    def label(self) -> str:
        """The name that its metrics are logged under, that of a second term of a kind with its number."""
        return self.name() if self.number == 1 else f"{self.name()}-{self.number}"

    @property
    def needs(self) -> frozenset[Need]:
        """Keys of ``ObjectiveInput.statistics`` that the term reads."""
        return frozenset()

    @property
    def batch_needs(self) -> frozenset[Need]:
        """Keys of ``UpdateBatch.statistics`` that ``prepare`` reads; they have no gradient."""
        return frozenset()

    def begin_step(self, batch: UpdateBatch, *, progress: float) -> None:
        """Look at what a training step drew before its first optimiser step; where state belongs that acts in it.

        Called once per training step, whatever the number of optimiser steps, micro-batches and processes; not in a
        step that trains on nothing newly drawn. Every process sees the same batch.

        Args:
            batch: The newly drawn responses that the step trains on, in all processes; without statistics.
            progress: Share of the training done, in [0, 1].
        """

    def prepare(self, batch: UpdateBatch, *, progress: float, generator: torch.Generator) -> Mapping[str, Tensor]:
        """Look at the whole update batch of an optimiser step before its loss is taken; see ``Objective.prepare``.

        Args:
            batch: All responses of the optimiser step, in all processes.
            progress: Share of the training done, in [0, 1].
            generator: Source of all randomness, on the CPU, seeded by step and optimiser step.

        Returns:
            What ``loss`` finds in ``inputs.prepared``, by name, of the shapes that an objective's may have.
        """
        return {}

    @property
    def begins(self) -> bool:
        """Whether ``begin_step`` is overridden."""
        return type(self).begin_step is not Term.begin_step

    @property
    def prepares(self) -> bool:
        """Whether ``prepare`` is overridden."""
        return type(self).prepare is not Term.prepare

    @property
    def needs_picture(self) -> bool:
        """Whether it asks about changed pictures, and leaves out responses trained under a view without one."""
        return needs_picture(self.needs | self.batch_needs)

    @abstractmethod
    def loss(self, inputs: ObjectiveInput, aggregate: Aggregate) -> Loss:
        """Return the term's contribution, coefficient included; lower is better.

        Args:
            inputs: The micro-batch.
            aggregate: Averages over all response tokens as the policy loss does over those that it uses.
        """


class Objective(Strategy, ABC):
    """A policy loss with its terms.

    To add one: derive, nest a ``Config``, implement ``policy_loss``; one that averages tokens in another way than GRPO
    overrides ``aggregate``, one that has to see the whole update batch ``prepare``.
    """

    kind: ClassVar[str] = "objective"
    takes_token_advantages: ClassVar[bool] = True
    """Whether each token of a response may have an advantage of its own."""
    off_policy_only: ClassVar[bool] = False
    """Whether what sets it apart has no effect where the current policy is the old one, as it is in the only update of
    a batch. A run that makes no other says so when it starts; see ``saei.engine.combinations.idle_parts``."""

    class Config(StrategyConfig):
        """Fields of every objective.

        Attributes:
            advantage: How rewards become the advantages of the policy loss.
            weights: How much each token counts in the policy loss; the factors of several are multiplied.
            terms: Added to the policy loss.
            token_selector: Restricts the policy loss to these tokens, as the weight ``selected`` does; None uses all.
            mask_truncated: Leave responses that the length limit ended out of the policy loss and the terms.
        """

        advantage: AdvantageField = "group-relative"  # type: ignore[assignment]  # names are resolved by the validator
        weights: tuple[WeightField, ...] = ()
        terms: tuple[TermField, ...] = ()
        token_selector: OptionalSelectorField = None
        mask_truncated: bool = False

    config: Config

    def __init__(self, config: StrategyConfig | None = None) -> None:
        super().__init__(config)
        self.terms: tuple[Term, ...] = tuple(term.build() for term in self.config.terms)
        counts: Counter[str] = Counter()
        for term in self.terms:
            counts[term.name()] += 1
            term.number = counts[term.name()]
        self.advantage: Advantage = self.config.advantage.build()
        self.weights: dict[str, Weight] = {}
        """All weights by the names that their random choices are seeded by; the token selector is one of them."""
        self.token_selector: Any = None
        if self.config.token_selector is not None:
            selected = Selected(Selected.Config(selector=self.config.token_selector))
            self.weights["token-selector"] = selected
            self.token_selector = selected.selector
        self.weights |= {f"weight {number}": weight.build() for number, weight in enumerate(self.config.weights)}

    def parts(self) -> Mapping[str, Strategy]:
        """Return the advantage, the terms, the weights and the token selector."""
        parts: dict[str, Strategy] = {f"term {number}": term for number, term in enumerate(self.terms)}
        parts |= {name: weight for name, weight in self.weights.items() if name != "token-selector"}
        parts |= {"token_selector": self.token_selector} if self.token_selector else {}
        return parts | {"advantage": self.advantage}

    @property
    def needs(self) -> frozenset[Need]:
        """Union of what the policy loss and the terms need."""
        return frozenset().union(*(term.needs for term in self.terms))

    @property
    def batch_needs(self) -> frozenset[Need]:
        """Keys of ``UpdateBatch.statistics`` that ``prepare`` reads; they have no gradient."""
        return frozenset()

    @property
    def all_needs(self) -> frozenset[Need]:
        """What the objective, its terms, weights and advantage need, for its loss or before it."""
        needs = self.needs | self.batch_needs | self.advantage.needs
        of_terms = (term.batch_needs for term in self.terms)
        return needs.union(*of_terms, *(weight.needs for weight in self.weights.values()))

    def prepare(self, batch: UpdateBatch, *, progress: float, generator: torch.Generator) -> Mapping[str, Tensor]:
        """Look at the whole update batch before its loss is taken; called once per optimiser step, under ``no_grad``.

        This is where a threshold over all tokens, or a statistic of the batch, is computed. Where no objective
        overrides it, nothing is exchanged between processes.

        Args:
            batch: All responses of the optimiser step, in all processes.
            progress: Share of the training done, in [0, 1].
            generator: Source of all randomness, on the CPU, seeded by step and optimiser step.

        Returns:
            What ``loss`` finds in ``inputs.prepared``, by name: scalars, which it gets as they are, and tensors
            ``[R]`` or ``[R, T]``, of which it gets the rows of its responses, cut or padded by 0 to its T.
        """
        return {}

    @property
    def prepares(self) -> bool:
        """Whether ``prepare`` is overridden."""
        return type(self).prepare is not Objective.prepare

    @abstractmethod
    def policy_loss(self, inputs: ObjectiveInput) -> Loss:
        """Return the policy loss of the selected tokens, without terms."""

    def aggregate(self, values_RT: Tensor, inputs: ObjectiveInput) -> Tensor:
        """Return this micro-batch's share of the update batch's loss, from the values of its selected tokens.

        Terms are aggregated in the same way, so that a coefficient is relative to the policy loss of a token.
        """
        return response_mean(values_RT, inputs)

    def loss(self, inputs: ObjectiveInput) -> Loss:
        """Return policy loss plus terms; metrics of a term are prefixed by its label."""
        if self.config.mask_truncated:
            keep_RT = inputs.mask_RT & ~inputs.truncated_R[:, None]
            inputs = replace(inputs, mask_RT=keep_RT, selected_RT=inputs.selected_RT & keep_RT)
        total = self.policy_loss(inputs)
        value, metrics = total.value, dict(total.metrics)
        if inputs.weight_RT is not None:
            metrics["token_weight"] = per_response(inputs.weight_RT, inputs.mask_RT)
        # A term acts on every response token, whichever of them the policy loss uses.
        everywhere = replace(inputs, selected_RT=inputs.mask_RT, n_selected=inputs.n_tokens, weight_RT=None)
        for number, term in enumerate(self.terms):
            of_term = replace(everywhere, prepared=prepared_by_term(number, inputs.prepared))
            if term.needs_picture and inputs.pictured_R is not None:
                pictured_RT = of_term.mask_RT & inputs.pictured_R[:, None]
                of_term = replace(of_term, mask_RT=pictured_RT, selected_RT=pictured_RT)
            extra = term.loss(of_term, partial(self.aggregate, inputs=of_term))
            value = value + extra.value
            metrics |= {f"{term.label}/{name}": value_R for name, value_R in extra.metrics.items()}
        return Loss(value, metrics)


def term_prefix(number: int) -> str:
    """Return what begins the names of the values that a term prepares, among those of its objective."""
    return f"term {number}/"


def prepared_by_term(number: int, prepared: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what one term of an objective prepared, by the names that it gave."""
    prefix = term_prefix(number)
    return {name.removeprefix(prefix): value for name, value in prepared.items() if name.startswith(prefix)}
