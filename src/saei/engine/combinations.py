"""Parts of a run that make no sense together, refused before any weights are loaded, and parts that cannot act."""

from __future__ import annotations

from typing import TYPE_CHECKING

from saei.config.run import RunConfig
from saei.config.sections import TrainingConfig
from saei.config.strategy import Strategy
from saei.engine.advantage_combinations import chain_of, check_advantage
from saei.errors import ConfigError
from saei.interventions.outcome import no_oracle
from saei.objectives.advantages.group_relative import GroupRelative
from saei.objectives.base import Objective, Term
from saei.objectives.clipped import ClippedSurrogate
from saei.objectives.gspo import GSPO
from saei.objectives.kl import KL
from saei.objectives.kl_cov import KLCov
from saei.objectives.papo import PAPO
from saei.objectives.roma import ROMA
from saei.objectives.weights.base import Weight
from saei.objectives.weights.clip_cov import ClipCov
from saei.objectives.weights.vppo import VPPO
from saei.policy.decoder import Decoder, no_offsets
from saei.rewards.overlong import SoftOverlong
from saei.samplers.base import Sampler

if TYPE_CHECKING:
    from saei.engine.setup import Strategies


def idle_parts(config: RunConfig) -> list[str]:
    """Return the parts of a run's objective that cannot act in it, such as ``objective 'sapo'``.

    They act where the current policy is not the old one, and a run with one optimiser step per batch trains the old
    policy alone. Replayed responses, whose old policy is an older one, make them act.
    """
    if _leaves_the_old_policy(config.training):
        return []
    objective: Objective = config.objective.build()
    parts: list[Objective | Weight | Term] = [objective, *objective.weights.values(), *objective.terms]
    return [f"{part.kind} '{part.name()}'" for part in parts if part.off_policy_only]


def _leaves_the_old_policy(training: TrainingConfig) -> bool:
    return training.ppo_epochs * training.updates_per_batch > 1 or training.replay is not None


def check_combinations(config: RunConfig, strategies: Strategies) -> None:
    """Refuse a run whose parts do not go together.

    Raises:
        ConfigError: Naming the parts and what would go.
    """
    _check_oracle(strategies)
    _check_golds(strategies)
    check_advantage(strategies.objective, strategies.sampler.plan())
    _check_others(strategies.sampler, config.training.prompts_per_step)
    _check_covariance(config.training, strategies)
    if _leaves_the_old_policy(config.training):
        _check_clip_range(strategies.objective)
    if config.training.replay is not None:
        _check_estimates(strategies.objective)
    _check_decoder(config, strategies)
    _check_lengths(strategies.reward, config.sampling.max_new_tokens)


def _check_oracle(strategies: Strategies) -> None:
    """Refuse attacks that ask a task without an oracle.

    Raises:
        ConfigError: If an arm has one.
    """
    for arm in strategies.sampler.plan().intervening:
        if arm.needs_oracle and not strategies.task.oracle:
            raise no_oracle(arm.setting("intervention.surfaces"), f"the task '{strategies.task.name()}'")


def _check_golds(strategies: Strategies) -> None:
    """Refuse to compare answers to different questions.

    Raises:
        ConfigError: If responses are trained under a question with an answer of its own, and compared with others.
    """
    arms = strategies.sampler.plan().intervening
    rewording = [arm for arm in arms if arm.rewords and arm.update_on != "clean"]
    if not rewording or not strategies.task.oracle:
        return
    arm = rewording[0]
    # All responses are trained under the only moved view.
    single_question = len(arms) == 1 and arm.update_on == "perturbed" and arm.views == 1
    several_views = next((arm for arm in rewording if arm.views > 1), None)
    if several_views is not None:
        arm, comparing = several_views, f"it has {several_views.views} of them"
        remedy = f"{arm.setting('views')} to 1"
    elif strategies.objective.advantage.mixes_origins and not single_question:
        comparing, remedy = "the advantage has a baseline of all origins", f"{_baseline_of(strategies)} to per-origin"
    else:
        return
    raise ConfigError(
        "Rewards are compared with those of answers to the same question.",
        reason=f"The views of '{arm.origin}' may ask something else, with another right answer; "
        f"{arm.setting('update_on')} is {arm.update_on}, and {comparing}.",
        remedy=f"Set {remedy}, or {arm.setting('update_on')} to clean.",
    )


def _baseline_of(strategies: Strategies) -> str:
    """Return the path of the baseline that compares responses of different origins."""
    chain = chain_of(strategies.objective.advantage)
    path, advantage = list(chain.items())[-1]
    return f"{path}.baseline" if isinstance(advantage, GroupRelative) else f"{path} to group-relative and its baseline"


def _check_decoder(config: RunConfig, strategies: Strategies) -> None:
    """Refuse views that the decoder cannot draw from.

    Raises:
        ConfigError: If they have offsets on embeddings, and it takes tokens.
    """
    arms = [arm for arm in strategies.sampler.plan().arms if arm.offsets]
    decoder: Decoder = config.decoder.build()
    if arms and not decoder.takes_offsets:
        raise no_offsets(config.decoder.type, arms[0].setting("intervention.attack"))


def _check_others(sampler: Sampler, prompts_per_step: int) -> None:
    """Refuse a control that takes another group's change where a step has one group.

    Raises:
        ConfigError: If there is one.
    """
    if prompts_per_step == 1 and any(arm.needs_others for arm in sampler.plan().arms):
        raise ConfigError(
            "A control that takes the change of another group needs two groups in a step.",
            reason="training.prompts_per_step is 1.",
            remedy="Raise it, or use another control.",
        )


def _check_covariance(training: TrainingConfig, strategies: Strategies) -> None:
    """Refuse to choose tokens by covariance from a single response, whose tokens share their advantage.

    Raises:
        ConfigError: If update batches are that small.
    """
    objective, size = strategies.objective, strategies.sampler.group_size
    parts = [part for part in (objective, *objective.weights.values()) if isinstance(part, KLCov | ClipCov)]
    # Of update batches that differ in size the smallest; there is none without a group.
    smallest = max(1, training.prompts_per_step // training.updates_per_batch) * size
    if parts and smallest == 1:
        raise ConfigError(
            "The covariance of advantages and log-probabilities is one over several responses.",
            reason=f"'{parts[0].name()}' chooses tokens by it, and the smallest update batch is one response: "
            f"training.prompts_per_step is {training.prompts_per_step}, training.updates_per_batch "
            f"{training.updates_per_batch}, and a group has {size}.",
            remedy="Draw more responses in a group, raise training.prompts_per_step, or lower "
            "training.updates_per_batch.",
        )


def _check_clip_range(objective: Objective) -> None:
    """Refuse a Clip-Cov that takes other tokens for clipped than the objective clips.

    Raises:
        ConfigError: Naming the settings.
    """
    rule = "Clip-Cov leaves out tokens that PPO's clip has not cut already, so it has to know the clip."
    for weight in objective.weights.values():
        if not isinstance(weight, ClipCov) or not weight.config.exclude_clipped:
            continue
        if not isinstance(objective, ClippedSurrogate) or isinstance(objective, GSPO):
            raise ConfigError(
                rule,
                reason=f"The objective '{objective.name()}' clips no single tokens.",
                remedy="Set exclude_clipped of the weight clip-cov to false, or use grpo, dr-grpo or dapo.",
            )
        given, wanted = weight.config, objective.config
        if (given.clip_low, given.clip_high) != (wanted.clip_low, wanted.clip_high):
            raise ConfigError(
                rule,
                reason=f"The weight clip-cov has clip_low {given.clip_low:g} and clip_high {given.clip_high:g}, the "
                f"objective '{objective.name()}' {wanted.clip_low:g} and {wanted.clip_high:g}.",
                remedy=f"Give the weight clip_low: {wanted.clip_low:g}, clip_high: {wanted.clip_high:g}.",
            )


def _check_estimates(objective: Objective) -> None:
    """Refuse an estimate over replayed tokens that holds only for tokens of the policy that is trained.

    Raises:
        ConfigError: If a term or a weight takes one.
    """
    parts: list[Term | Weight] = [*objective.terms, *objective.weights.values()]
    for part in parts:
        # VPPO would compare a replayed token's stored log-probability, an older policy's, with the present one's.
        if not isinstance(part, KL | PAPO | ROMA | VPPO) or getattr(part.config, "estimate", "k3") != "k3":
            continue
        leave = f"Set the term {part.name()}'s estimate to full, or leave" if isinstance(part, KL | PAPO) else "Leave"
        raise ConfigError(
            "The k3 estimate of a divergence takes tokens that were drawn from the policy itself.",
            reason=f"The {part.kind} '{part.name()}' takes one, and training.replay trains on tokens that an older "
            "policy drew.",
            remedy=f"{leave} one of the two out.",
        )


def _check_lengths(reward: Strategy, max_new_tokens: int) -> None:
    """Refuse a penalty on lengths that no response reaches.

    Raises:
        ConfigError: If the reward, or a part of it, is one.
    """
    if isinstance(reward, SoftOverlong):
        free = reward.config.longest - reward.config.buffer
        if free >= max_new_tokens:
            raise ConfigError(
                "A penalty on length begins below the longest response.",
                reason=f"The reward '{reward.name()}' begins above {free} tokens, longest less buffer; "
                f"sampling.max_new_tokens is {max_new_tokens}.",
                remedy="Set longest to sampling.max_new_tokens.",
            )
    for part in reward.parts().values():
        _check_lengths(part, max_new_tokens)
