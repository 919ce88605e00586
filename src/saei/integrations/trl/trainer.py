"""SaEI's sampling inside TRL's ``GRPOTrainer``: for vLLM, ZeRO and what else TRL and accelerate bring along.

TRL keeps its loop, loss and optimiser. Ours are the responses and the pictures: ``rollout_func`` draws groups with a
sampler of ours, and ``_generate`` passes on the pictures of the update views.
``_generate_and_score_completions`` is overridden only to learn which rows of the data set the prompts are.
Old, current and reference log-probabilities are all taken under those pictures.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

from trl import GRPOConfig, GRPOTrainer
from trl.generation import vllm_generation
from trl.models import unwrap_model_for_generation

from saei.config.sections import EntropyConfig, ModelConfig, SamplingConfig, TrainingConfig
from saei.errors import ConfigError, DataError
from saei.integrations.trl.arguments import check_arguments, check_offsets
from saei.integrations.trl.decoders import Colocated, Served, computing_dtype
from saei.integrations.trl.rows import CONVERSATIONS, PLACE, RowFormat, numbered, one_per_group
from saei.integrations.trl.samples import GroupRecorder
from saei.integrations.vllm.engine import dtype_name
from saei.interventions.context import StepContext
from saei.interventions.guards import NoGuard
from saei.interventions.outcome import no_oracle
from saei.policy import Policy, Scores
from saei.policy.decoder import Decoder, check_gap, decoder_gap
from saei.policy.load.weights import Parts
from saei.policy.pixels.space import to_image
from saei.runtime.seeds import GroupSources
from saei.samplers.arm_sampler import ArmSampler
from saei.samplers.base import Sampler
from saei.samplers.clean import Clean
from saei.types import Group, Response, View

__all__ = ["GRPOConfig", "SaeiGRPOTrainer", "sampling_logps"]


class SaeiGRPOTrainer(GRPOTrainer):  # type: ignore[misc]  # trl has no types
    """TRL's trainer with a sampler of ours.

    Groups are rank-local: each process draws, attacks and returns whole groups. Without vLLM our policy wrapper
    draws, which computes a prompt once for all of its responses. With vLLM the engine that TRL holds draws, and the
    wrapper scores its responses: for the entropies that the attack needs, and because the difference between the two
    log-probabilities shows whether vLLM has the weights, the prompts and the pictures of the policy.

    vLLM's importance correction compares the trainer's log-probabilities with vLLM's. For a response that is trained
    under another picture than it was drawn from (``update_on: clean``) the difference is the gap between the views, not
    a mismatch of samplers: its log-probabilities are handed on as unknown, for which TRL's correction is 1.

    Args:
        sampler: Draws groups of ``num_generations`` responses.
        parts: The model, as given to TRL, with its tokenizer and image processor.
        model_config: What the parts were loaded by; None for the defaults of shared prefix and largest canvas.
        entropy: Which distribution the criterion's entropy is taken of.
        rows: How the rows of the data set are examples.
        max_decoder_gap: Largest median difference between vLLM's log-probabilities and the policy's, in nats.
        recorder: Keeps groups for people to look at; None keeps none.
        **kwargs: TRL's arguments, among them ``processing_class``, the model's whole processor.

    Raises:
        ConfigError: If TRL's arguments cannot be used with whole groups and one definition of the policy.
    """

    def __init__(
        self,
        *,
        sampler: Sampler,
        parts: Parts,
        model_config: ModelConfig | None = None,
        entropy: EntropyConfig | None = None,
        rows: RowFormat = CONVERSATIONS,
        max_decoder_gap: float = TrainingConfig().max_decoder_gap,
        recorder: GroupRecorder | None = None,
        **kwargs: Any,
    ) -> None:
        self._sampler = sampler
        self._parts = parts
        self._model_config = model_config or ModelConfig()
        self._entropy = entropy
        self._max_decoder_gap = max_decoder_gap
        self._recorder = recorder
        self._trainer_policy: Policy | None = None
        self._update_pictures: list[list[Any] | None] | None = None
        self._format = rows
        self._rows: list[dict[str, Any]] = []
        self._rollouts: dict[str, tuple[int, int]] = {}  # by purpose the optimiser step, and which of its rollouts
        args = kwargs.get("args") or GRPOConfig()
        check_arguments(args)
        colocated = args.use_vllm and args.vllm_mode == "colocate"
        dtype = dtype_name(computing_dtype(args, parts))
        with _engine_arguments(dtype=dtype) if colocated else nullcontext():
            super().__init__(rollout_func=self._rollout, **kwargs)
        # Not before: TRL takes data sets of the library `datasets` alone.
        for name in ("train_dataset", "eval_dataset"):
            setattr(self, name, numbered(getattr(self, name)))
        self._check()
        self._decoder: Decoder | None = None
        if args.use_vllm:
            self._decoder = (Colocated if colocated else Served)(self.vllm_generation)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """Do as TRL does, and remember which rows of the data set the inputs are."""
        first = self.accelerator.process_index * len(inputs)
        self._rows = [{PLACE: first + number, **row} for number, row in enumerate(inputs)]
        rows = [{name: value for name, value in row.items() if name != PLACE} for row in inputs]
        return super()._generate_and_score_completions(rows)  # type: ignore[no-any-return]  # trl has no types

    def _generate(self, prompts: list[Any]) -> tuple[Any, ...]:
        """Return what TRL returns, with the pictures of the update views."""
        *drawn, _, tool_images = super()._generate(prompts)
        return (*drawn, self._update_pictures, tool_images)

    def _check(self) -> None:
        args, plan = self.args, self._sampler.plan()
        size = plan.group_size
        rows = args.per_device_train_batch_size * args.steps_per_generation
        choosing = dict.fromkeys([*(name for _, name in plan.needs_supply), *_guards(self._sampler)])
        if choosing:
            raise ConfigError(
                "TRL grades responses after all of them are drawn, and trains on all of them.",
                reason=f"Of the sampler's parts, {', '.join(choosing)} would choose.",
                remedy="Use the gate `always`, the guard `none`, and the samplers `clean`, `mixed`, `noisy` or `arms`.",
            )
        for part in plan.own_loop_only:
            raise ConfigError(
                "TRL draws, grades and trains in its own way.",
                reason=f"It cannot follow {'.'.join(filter(None, ('sampler', part.path)))} of "
                f"'{self._sampler.name()}': {part.reason}.",
                remedy="Train in saei's own loop, or use the samplers `clean`, `mixed`, `noisy` or `arms`.",
            )
        if plan.prefixes and args.use_vllm:
            raise ConfigError(
                "Given tokens are continued by a decoder that can do so.",
                reason=f"The sampler '{self._sampler.name()}' continues responses, and vLLM draws whole ones.",
                remedy="Train without vLLM, or in saei's own loop.",
            )
        check_offsets(plan, use_vllm=args.use_vllm)
        for arm in plan.intervening:
            if arm.needs_oracle and self._format.answer is None:
                raise no_oracle(arm.setting("intervention.surfaces"), "what tells examples from rows")
        whole = "Every process draws and attacks whole groups."
        if self.num_generations != size:
            raise ConfigError(
                "num_generations has to be the sampler's group size.",
                reason=f"It is {self.num_generations}, the sampler draws {size}.",
                remedy=f"Set num_generations={size}.",
            )
        if rows % size:
            raise ConfigError(
                whole,
                reason=f"per_device_train_batch_size x steps_per_generation is {rows}, a group has {size} responses.",
                remedy=f"Make it a multiple of {size}.",
            )
        if self.is_fsdp_enabled:
            raise ConfigError(
                "The attack needs the weights as a whole.",
                reason="FSDP shards them, and the pass to the pixels does not go through its wrapper.",
                remedy="Use DDP or DeepSpeed ZeRO.",
            )

    def _rollout(self, prompts: Sequence[Any], trainer: Any) -> dict[str, Any]:
        """Draw the groups of this process; called by TRL inside ``_generate``."""
        training = self.model.training
        sampler = self._sampler if training else Clean(Clean.Config(n=self.num_generations_eval))
        group_prompts = one_per_group(prompts, sampler.group_size)
        with self._whole_model() as policy:
            policy.weights_changed()  # TRL sends them to vLLM right before the rollout
            rows = self._rows[:: sampler.group_size]
            examples = [
                self._format.example(row[PLACE], prompt, row) for prompt, row in zip(group_prompts, rows, strict=True)
            ]
            views = [policy.view(example, row[PLACE]) for example, row in zip(examples, rows, strict=True)]
            for view, prompt in zip(views, group_prompts, strict=True):
                self._check_prompt(view, prompt)
            step = self.state.global_step + 1
            recorder = self._recorder if training and self._recorder and self._recorder.is_due(step) else None
            groups = sampler.draw(views, self._context(policy, traced=recorder is not None), None)
        if recorder is not None:
            recorder.drawn(step, groups)
        if training:
            self._log_groups(groups)
        update_views = [group.views[number] for group in groups for number in group.updated_on]
        pictures = [[to_image(canvas) for canvas in view.canvases] or None for view in update_views]
        self._update_pictures = pictures if any(pictures) else None
        columns = [self._format.columns(view.example) for view in update_views]  # TRL passes them to the rewards
        return {
            **{name: [of_row[name] for of_row in columns] for name in columns[0]},
            "prompt_ids": [view.prompt_ids_P.tolist() for view in update_views],
            "completion_ids": [response.ids_T.tolist() for group in groups for response in group.responses],
            "logprobs": [logps for group in groups for logps in sampling_logps(group)] if self.use_vllm else None,
        }

    @contextmanager
    def _whole_model(self) -> Iterator[Policy]:
        """Yield our policy around the trainer's model: weights gathered, dropout and checkpointing off."""
        training = self.model.training
        with unwrap_model_for_generation(self.model_wrapped, self.accelerator):
            if self._trainer_policy is None:  # not before the model is on its device
                with self.accelerator.autocast():  # as the prepared model computes, which it is compared with
                    self._trainer_policy = self._policy()
            self.model.eval()
            try:
                yield self._trainer_policy
            finally:
                self.model.train(training)

    def _policy(self) -> Policy:
        sampling = SamplingConfig(temperature=self.args.temperature, max_new_tokens=self.args.max_completion_length)
        template = self._format.template
        policy = Policy.around(self._parts, self._model_config, template, sampling=sampling, entropy=self._entropy)
        if self._decoder is not None:
            policy.decoder, policy.on_decoded = self._decoder, self._compare
        # The model's passes alone: pixels, their gradient among them, are float32 in every precision.
        policy.module.forward = self.accelerator.autocast()(policy.module.forward)
        return policy

    def _context(self, policy: Policy, *, traced: bool = False) -> StepContext:
        """Return the circumstances of a rollout; groups draw by their rows, whichever process they are given to."""
        step = self.state.global_step
        purpose = "sample" if self.model.training else "evaluate"
        last_step, number = self._rollouts.get(purpose, (-1, 0))
        # Counted by purpose: a resumed run does not evaluate again, and draws as if it had.
        self._rollouts[purpose] = (step, number + 1 if step == last_step else 0)
        sources = GroupSources(self.args.seed, purpose, *self._rollouts[purpose])
        progress = step / max(1, self.state.max_steps)
        return StepContext(policy, progress, sources, traced=traced, answer=self._format.answer)

    def _check_prompt(self, view: View, prompt: Any) -> None:
        """Check that TRL's processor makes our ids: its token types and pictures are used with them."""
        theirs = self.processing_class.apply_chat_template(
            conversation=[prompt], add_generation_prompt=True, tokenize=True, return_dict=True
        )["input_ids"][0]
        if list(theirs) != view.prompt_ids_P.tolist():
            raise DataError(
                "The processor and saei have to read a prompt alike.",
                reason=f"The processor makes {len(theirs)} tokens of it, saei {len(view.prompt_ids_P)}.",
                remedy="Give the processor that belongs to the model; prompts are messages with their images.",
            )

    def _compare(self, responses: Sequence[Sequence[Response]], scores: Sequence[Scores]) -> None:
        """Log how far the decoder's log-probabilities are from the policy's, and stop where that is too far."""
        gap = decoder_gap(responses, scores)
        if gap is None:
            return
        self._log_metric("saei/decoder_gap", gap.median)
        self._log_metric("saei/decoder_gap_max", gap.largest)
        check_gap(gap, self._max_decoder_gap)

    def _log_groups(self, groups: Sequence[Group]) -> None:
        for group in groups:
            self._log_metric("saei/untouched", float(group.untouched is not None))
            for name, value in group.metrics.items():
                self._log_metric(f"saei/{name}", value)


def _guards(sampler: Sampler) -> list[str]:
    """Return the names of what may drop responses after grading, whether it needs ``Supply`` or not."""
    guard = type(sampler).guard
    if guard is Sampler.guard:
        return []
    if guard is not ArmSampler.guard or not isinstance(sampler, ArmSampler):
        return [sampler.name()]
    return [arm.intervention.guard.name() for arm in sampler.arms if type(arm.intervention.guard) is not NoGuard]


def sampling_logps(group: Group) -> list[list[float | None]]:
    """Return the log-probabilities for vLLM's importance correction; None for responses trained under another view."""
    return [
        response.behaviour_logp_T.tolist() if drawn == trained else [None] * len(response)
        for response, drawn, trained in zip(group.responses, group.sampled_from, group.updated_on, strict=True)
    ]


@contextmanager
def _engine_arguments(**arguments: Any) -> Iterator[None]:
    """Give vLLM's constructor arguments that TRL has no argument for."""
    constructor = vllm_generation.LLM
    vllm_generation.LLM = partial(constructor, **arguments)
    try:
        yield
    finally:
        vllm_generation.LLM = constructor
