"""Activation and cache memory of the attack, the update and the sampling of one group, and of a whole step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from saei.config.run import RunConfig
from saei.diagnostics.shape_only import ShapeOnlyMode
from saei.diagnostics.sizing import saved_tensor_bytes
from saei.diagnostics.synthetic import draw_responses
from saei.interventions import Intervention
from saei.interventions.context import StepContext, Supply, answer_kept
from saei.policy import Policy
from saei.policy.load.untrained import Untrained
from saei.policy.load.weights import load_parts
from saei.policy.module import PolicyModule
from saei.policy.rows import prompt_arguments, prompt_row, stack
from saei.runtime.seeds import GroupSources
from saei.samplers.base import SamplingPlan
from saei.types import Example, Grade, Response, View


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes that one group needs in addition to the weights.

    Attributes:
        attack: Saved for the attack's backward pass along the clean responses; 0 without an attack.
        update: Saved for the update's backward pass of all responses.
        sample: The cache of the responses that are decoded together, at their full length.
        prompt_tokens: Tokens of the prompt.
        image_tokens: Tokens of its picture.
    """

    attack: int
    update: int
    sample: int = 0
    prompt_tokens: int = 0
    image_tokens: int = 0

    def of_step(self, config: RunConfig) -> int:
        """Return the peak number of bytes in a step, given how many groups share each pass.

        All groups of a step are decoded together, however few are attacked and updated at a time.
        """
        groups = config.training.prompts_per_step
        update_batch = -(-groups // config.training.updates_per_batch)
        updated = min(config.training.micro_groups or update_batch, update_batch)
        interventions = [arm.intervention for arm in config.sampler.build().plan().intervening]
        together = [each.micro_groups or groups for each in interventions if each is not None]
        attacked = min(max(together, default=groups), groups)
        return max(self.attack * attacked, self.update * updated, self.sample * groups)


def shape_only_footprint(config: RunConfig, example: Example, examined: Policy | None) -> Footprint:
    """Count with a model whose tensors have the true shapes but take no memory.

    Args:
        config: The run's configuration.
        example: The example in the prompt.
        examined: A real policy of this model, or of one with fewer layers, whose cache and logits were examined; None
            assumes that the prefix can be shared.
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
    """Count for one example, with a step's number of responses of random tokens, all of the maximum length.

    Args:
        policy: The policy.
        config: The run's configuration.
        example: The example in the prompt.
    """
    plan = config.sampler.build().plan()
    with_entropy = any(need.statistic == "entropy" and need.grad for need in config.objective.build().needs)
    view = policy.view(example)
    responses = draw_responses(policy, plan.group_size, config.sampling.max_new_tokens)
    clean, rest = responses[: plan.arms[0].responses], responses[plan.arms[0].responses :]
    together = max(len(clean), len(rest)) if plan.intervening else len(responses)
    step, supply = StepContext(policy, 0.0, GroupSources(0, "footprint"), answer=answer_kept), Supply(_no_grades)
    attack = 0
    for arm in plan.intervening:
        apply = partial(Intervention(arm.intervention).apply, [view], [clean], step, supply)
        attack = max(attack, saved_tensor_bytes(apply, policy.model))
    parts = _by_update_view(plan, clean, rest)
    views = [view] * len(parts)
    update = saved_tensor_bytes(lambda: _update(policy, views, parts, with_entropy), policy.model)
    sample = together * cache_bytes(policy, view, config.sampling.max_new_tokens)
    return Footprint(attack, update, sample, len(view.prompt_ids_P), policy.image_tokens(view))


def _by_update_view(plan: SamplingPlan, clean: Sequence[Response], rest: Sequence[Response]) -> list[list[Response]]:
    """Return a group's responses by the view that they are trained under."""
    on_clean_view, on_others, others = list[Response](), list[list[Response]](), iter(rest)
    perturbed = False
    for arm in plan.arms[1:]:
        drawn = list(islice(others, arm.responses))
        by_view = [drawn[number :: arm.views] for number in range(min(arm.views, len(drawn)))]
        if arm.update_on == "clean":
            on_clean_view += drawn
            continue
        if arm.update_on == "perturbed" and not perturbed:
            by_view[0], perturbed = [*clean, *by_view[0]], True
        on_others += by_view
    if not perturbed:
        on_clean_view = [*clean, *on_clean_view]
    return [part for part in (on_clean_view, *on_others) if part]


@torch.no_grad()
def cache_bytes(policy: Policy, view: View, tokens: int) -> int:
    """Return the bytes of one response's cache: keys and values grow with its length, states of fixed size do not.

    Args:
        policy: The policy.
        view: The view in the prompt.
        tokens: Tokens of the response.
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
    """Return the scores that a backward pass would start from; they keep its graph alive."""
    return policy.score(views, responses, wrt="parameters", with_entropy=with_entropy)


def _no_grades(view: View, responses: Sequence[Response]) -> Sequence[Grade]:
    return [Grade(0.0, False) for _ in responses]
