"""What autograd keeps for the attack and the update of one group, and for a step of several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from saei.config import RunConfig
from saei.diagnostics.hollow import Hollow
from saei.diagnostics.sizing import kept_bytes
from saei.diagnostics.synthetic import draw_responses
from saei.interventions import Intervention
from saei.interventions.context import SamplingContext
from saei.policy import Policy
from saei.policy.loading import load_parts
from saei.policy.module import PolicyModule
from saei.policy.untrained import Untrained
from saei.samplers.mixing import Mixing
from saei.types import Example, Grade, Response, View


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes that autograd keeps for one group, and what was counted.

    Attributes:
        attack: Along the clean responses, 0 without an attack.
        update: For all responses.
        prompt_tokens: Of the prompt.
        image_tokens: Those of its picture.
    """

    attack: int
    update: int
    prompt_tokens: int = 0
    image_tokens: int = 0

    def of_step(self, config: RunConfig) -> int:
        """Return what is kept at most at a time in a step, by the groups that are attacked and updated together."""
        groups = config.training.prompts_per_step
        minibatch = config.training.minibatch_groups or groups
        updated = min(config.training.micro_groups or minibatch, minibatch)
        attacked = groups
        if isinstance(config.sampler, Mixing.Config):
            attacked = min(config.sampler.intervention.micro_groups or groups, groups)
        return max(self.attack * attacked, self.update * updated)


def hollow_footprint(config: RunConfig, example: Example, examined: Policy | None) -> Footprint:
    """Count on a model that is as large as its configuration says and takes no memory.

    Args:
        config: The run's configuration.
        example: What the policy looks at.
        examined: A real policy of this model, or of one with fewer layers, whose cache and logits were looked at; None
            takes the shared prefix for granted.
    """
    model = config.model.model_copy(update={"device": "cpu", "shared_prefix": False})
    template = config.template.build()
    hollow = Hollow()
    with hollow:
        parts = load_parts(model, Untrained())
        policy = Policy.around(parts, model, template, sampling=config.sampling, entropy=config.entropy)
    policy.shared_prefix = config.model.shared_prefix
    if examined is not None:
        policy.shared_prefix = examined.shared_prefix
        policy.module = PolicyModule(parts.model, examined.module.readout)
    with hollow:
        return footprint_of(policy, config, example)


def footprint_of(policy: Policy, config: RunConfig, example: Example) -> Footprint:
    """Count on one example, with as many responses of random tokens as a step draws, each as long as it may be.

    Args:
        policy: The policy.
        config: The run's configuration.
        example: What it looks at.
    """
    sampler = config.sampler
    with_entropy = "entropy" in config.objective.build().needs
    view = policy.view(example)
    responses = draw_responses(policy, sampler.build().group_size, config.sampling.max_new_tokens)
    views, parts, attack = [view], [responses], 0
    if isinstance(sampler, Mixing.Config):
        clean, rest = responses[: sampler.n_clean], responses[sampler.n_clean :]
        ctx = SamplingContext(policy, _no_grades, 0.0, torch.Generator().manual_seed(0))
        intervention = Intervention(sampler.intervention)
        attack = kept_bytes(lambda: intervention.apply([view], [clean], ctx), policy.model)
        if sampler.update_on == "sampled":
            views, parts = [view, view], [clean, rest]
    update = kept_bytes(lambda: _update(policy, views, parts, with_entropy), policy.model)
    image = int((view.prompt_ids_P == policy.model.config.image_token_id).sum())
    return Footprint(attack, update, len(view.prompt_ids_P), image)


def _update(
    policy: Policy, views: Sequence[View], responses: Sequence[Sequence[Response]], with_entropy: bool
) -> object:
    """Return what a backward pass would begin from; its graph keeps the rest."""
    with policy.open(views, grad="parameters") as prefix:
        return prefix.score(responses, with_entropy=with_entropy)


def _no_grades(view: View, responses: Sequence[Response]) -> Sequence[Grade]:
    return [Grade(0.0, False) for _ in responses]
