"""Activation and cache memory of the attack, the update and the sampling of one group, and of a whole step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from saei.config.run import RunConfig
from saei.diagnostics.shape_only import ShapeOnlyMode
from saei.diagnostics.sizing import saved_tensor_bytes
from saei.diagnostics.synthetic import draw_responses
from saei.interventions import Intervention
from saei.interventions.context import SamplingContext
from saei.policy import Policy
from saei.policy.load.untrained import Untrained
from saei.policy.load.weights import load_parts
from saei.policy.module import PolicyModule
from saei.policy.rows import prompt_arguments, prompt_row, stack
from saei.runtime.seeds import GroupSources
from saei.samplers.dynamic import drawing
from saei.samplers.mixing import Mixing
from saei.types import Example, Grade, Response, View


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes that one group needs besides the weights.

    Attributes:
        attack: Saved for the attack's backward pass along the clean responses; 0 without an attack.
        update: Saved for the update's backward pass of all responses.
        sample: The cache of the responses that are decoded together, at their full length.
        prompt_tokens: Tokens of the prompt.
        image_tokens: Those of its picture.
    """

    attack: int
    update: int
    sample: int = 0
    prompt_tokens: int = 0
    image_tokens: int = 0

    def of_step(self, config: RunConfig) -> int:
        """Return the largest number of bytes in use at a time in a step, by the groups that share each pass.

        All groups of a step are decoded together, however few are attacked and updated at a time.
        """
        groups = config.training.prompts_per_step
        update_batch = -(-groups // config.training.updates_per_batch)
        updated = min(config.training.micro_groups or update_batch, update_batch)
        attacked = groups
        _, sampler = drawing(config.sampler)
        if isinstance(sampler, Mixing.Config):
            attacked = min(sampler.intervention.micro_groups or groups, groups)
        return max(self.attack * attacked, self.update * updated, self.sample * groups)


def shape_only_footprint(config: RunConfig, example: Example, examined: Policy | None) -> Footprint:
    """Count on a model that has the true shapes and takes no memory.

    Args:
        config: The run's configuration.
        example: What the policy looks at.
        examined: A real policy of this model, or of one with fewer layers, whose cache and logits were looked at; None
            takes the shared prefix for granted.
    """
    model = config.model.model_copy(update={"device": "cpu", "shared_prefix": False})
    template = config.template.build()
    shape_only = ShapeOnlyMode()
    with shape_only:
        parts = load_parts(model, Untrained())
        policy = Policy.around(parts, model, template, sampling=config.sampling, entropy=config.entropy)
    policy.shared_prefix = config.model.shared_prefix
    if examined is not None:
        policy.shared_prefix = examined.shared_prefix
        policy.module = PolicyModule(parts.model, examined.module.readout)
    with shape_only:
        return footprint_of(policy, config, example)


def footprint_of(policy: Policy, config: RunConfig, example: Example) -> Footprint:
    """Count on one example, with as many responses of random tokens as a step draws, each as long as it may be.

    Args:
        policy: The policy.
        config: The run's configuration.
        example: What it looks at.
    """
    _, sampler = drawing(config.sampler)
    with_entropy = any(need.statistic == "entropy" and need.grad for need in config.objective.build().needs)
    view = policy.view(example)
    responses = draw_responses(policy, sampler.build().group_size, config.sampling.max_new_tokens)
    views, parts, attack, together = [view], [responses], 0, len(responses)
    if isinstance(sampler, Mixing.Config):
        clean, rest = responses[: sampler.n_clean], responses[sampler.n_clean :]
        together = max(len(clean), len(rest))
        ctx = SamplingContext(policy, _no_grades, 0.0, GroupSources(0, "footprint"))
        intervention = Intervention(sampler.intervention)
        attack = saved_tensor_bytes(lambda: intervention.apply([view], [clean], ctx), policy.model)
        intervened = [rest[number :: sampler.views] for number in range(min(sampler.views, len(rest)))]
        if sampler.update_on == "sampled":
            views, parts = [view] * (1 + len(intervened)), [clean, *intervened]
        elif sampler.update_on == "perturbed":
            views, parts = [view] * len(intervened), [[*clean, *intervened[0]], *intervened[1:]]
    update = saved_tensor_bytes(lambda: _update(policy, views, parts, with_entropy), policy.model)
    sample = together * cache_bytes(policy, view, config.sampling.max_new_tokens)
    return Footprint(attack, update, sample, len(view.prompt_ids_P), policy.image_tokens(view))


@torch.no_grad()
def cache_bytes(policy: Policy, view: View, tokens: int) -> int:
    """Return the cache of one response to a view: a value per token grows with it, a state of fixed size does not.

    Args:
        policy: The policy.
        view: What it looks at.
        tokens: Of the response.
    """
    rows = stack([prompt_row(view)])
    pixels = policy.pixels.inputs([view.canvases])
    cache = policy.module({**prompt_arguments(rows), "use_cache": True, **pixels}).cache
    prompt = len(view.prompt_ids_P)
    states = {
        id(tensor): tensor
        for layer in cache.layers
        for tensor in tree_leaves(vars(layer))
        if isinstance(tensor, Tensor)
    }
    return sum(
        tensor.nbytes * (prompt + tokens) // prompt if tensor.ndim == 4 and tensor.shape[2] == prompt else tensor.nbytes
        for tensor in states.values()
    )


def _update(
    policy: Policy, views: Sequence[View], responses: Sequence[Sequence[Response]], with_entropy: bool
) -> object:
    """Return what a backward pass would begin from; its graph keeps the rest."""
    return policy.score(views, responses, wrt="parameters", with_entropy=with_entropy)


def _no_grades(view: View, responses: Sequence[Response]) -> Sequence[Grade]:
    return [Grade(0.0, False) for _ in responses]
