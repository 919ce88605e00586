"""The loss and its gradients against TRL's own code on the same batch.

TRL scores the tokens with its own forward pass inside the trainer; our side takes log-probabilities from plain
logits. What both are given is the batch: ids, masks, advantages, old and reference log-probabilities.
"""

import copy
from dataclasses import fields, replace

import pytest
import torch

from saei.objectives.advantages.base import train_group
from saei.objectives.advantages.group_relative import GroupRelative
from saei.objectives.base import ObjectiveInput
from saei.objectives.batch import Row, UpdateBatch
from saei.objectives.cispo import CISPO
from saei.objectives.dapo import DAPO
from saei.objectives.dr_grpo import DrGRPO
from saei.objectives.grpo import GRPO
from saei.objectives.gspo import GSPO
from saei.objectives.kl import REFERENCE_LOGP
from saei.objectives.sapo import SAPO
from saei.objectives.weights.forking_tokens import ForkingTokens
from saei.types import Example, Grade, Group, ScoredGroup, View

pytest.importorskip("trl")

VOCABULARY = 24
PROMPT = 4
LENGTHS = [6, 1, 4, 6, 2, 5, 3, 6]
TRUNCATED = [True, False, False, True, False, False, False, False]
MAX_NEW_TOKENS = 9
KL_COEFFICIENT = 0.04

CLIP_LOW, CLIP_HIGH = 0.2, 0.28

# Ours, TRL's arguments for the same, and a step after which some ratios are clipped and some are not.
LOSSES = {
    "grpo": (GRPO, {"loss_type": "grpo"}, 0.03),
    "dr-grpo": (DrGRPO, {"loss_type": "dr_grpo", "scale_rewards": "none"}, 0.05),
    "dapo": (DAPO, {"loss_type": "dapo"}, 0.02),
    "gspo": (GSPO, {"loss_type": "grpo", "importance_sampling_level": "sequence"}, 0.03),
}


@pytest.fixture(scope="module")
def model():
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        initializer_range=0.3,
    )
    return LlamaForCausalLM(config)


@pytest.fixture
def make_trainer(model, tmp_path):
    from datasets import Dataset
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast
    from trl import GRPOConfig, GRPOTrainer

    words = {"<pad>": 0, "<bos>": 1, "<eos>": 2} | {f"w{i}": i for i in range(3, VOCABULARY)}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(words, unk_token="<pad>")), pad_token="<pad>", eos_token="<eos>"
    )

    def make(micro_batches, *, bias_correction=False, **arguments):
        trainer = GRPOTrainer(
            model=copy.deepcopy(model),
            reward_funcs=lambda completions, **_: [0.0] * len(completions),
            args=GRPOConfig(
                output_dir=str(tmp_path),
                use_cpu=True,
                bf16=False,
                report_to="none",
                per_device_train_batch_size=len(LENGTHS) // micro_batches,
                gradient_accumulation_steps=micro_batches,
                num_generations=len(LENGTHS),
                max_completion_length=MAX_NEW_TOKENS,
                epsilon=CLIP_LOW,
                epsilon_high=CLIP_HIGH,
                beta=0.0,
                use_bias_correction_kl=bias_correction,
                **arguments,
            ),
            train_dataset=Dataset.from_list([{"prompt": "w3 w4 w5 w6"}] * len(LENGTHS)),
            processing_class=tokenizer,
        )
        # With a beta from the start, TRL would load its reference model from a hub id; the batch brings it here.
        trainer.beta = KL_COEFFICIENT
        trainer.current_gradient_accumulation_steps = micro_batches
        return trainer

    return make


def token_logp(model, prompt_ids, response_ids, mask_RT):
    attention = torch.cat([torch.ones_like(prompt_ids), mask_RT.long()], dim=1)
    logits = model(input_ids=torch.cat([prompt_ids, response_ids], dim=1), attention_mask=attention).logits
    logp = torch.log_softmax(logits[:, PROMPT - 1 : -1].float(), dim=-1)
    return logp.gather(2, response_ids[..., None])[..., 0]


def batch(model):
    generator = torch.Generator().manual_seed(1)
    rows, longest = len(LENGTHS), max(LENGTHS)
    prompt_ids = torch.randint(3, VOCABULARY, (1, PROMPT), generator=generator).expand(rows, -1).contiguous()
    mask_RT = torch.arange(longest) < torch.tensor(LENGTHS)[:, None]
    response_ids = torch.randint(3, VOCABULARY, (rows, longest), generator=generator) * mask_RT
    with torch.no_grad():
        old = token_logp(model, prompt_ids, response_ids, mask_RT)
    return {
        "prompt_ids": prompt_ids,
        "response_ids": response_ids,
        "mask": mask_RT,
        "old": old,
        "reference": old + 0.3 * torch.randn(old.shape, generator=generator),
        "advantages": torch.randn(rows, generator=generator),
    }


def our_inputs(model, data, *, mask_truncated):
    mask_RT, rows, truncated_R = data["mask"], len(LENGTHS), torch.tensor(TRUNCATED)
    n_tokens = float((mask_RT & ~(truncated_R & mask_truncated)[:, None]).sum())
    return ObjectiveInput(
        logp_RT=token_logp(model, data["prompt_ids"], data["response_ids"], mask_RT),
        old_logp_RT=data["old"],
        behaviour_logp_RT=data["old"],
        mask_RT=mask_RT,
        selected_RT=mask_RT,
        advantage_RT=data["advantages"][:, None].expand(mask_RT.shape),
        truncated_R=truncated_R,
        off_view_R=torch.zeros(rows, dtype=torch.bool),
        beta_R=torch.zeros(rows),
        cap_R=torch.full((rows,), 2.0),
        n_responses=rows,
        n_tokens=n_tokens,
        n_selected=n_tokens,
        max_new_tokens=MAX_NEW_TOKENS,
        statistics={REFERENCE_LOGP: data["reference"]},
    )


def rows_of(inputs, rows):
    tensors = {field.name: getattr(inputs, field.name) for field in fields(inputs)}
    statistics = {need: values_RT[rows] for need, values_RT in inputs.statistics.items()}
    of_rows = {name: x[rows] for name, x in tensors.items() if isinstance(x, torch.Tensor)}
    return replace(inputs, **of_rows, statistics=statistics)


def trl_loss(trainer, data, *, mask_truncated, micro_batches):
    keep = ~(torch.tensor(TRUNCATED)[:, None] & mask_truncated)
    # As TRL does for truncated completions: scored like padding, hence not part of the loss.
    mask_RT = data["mask"] & keep
    batch = {
        "prompt_ids": data["prompt_ids"],
        "prompt_mask": torch.ones_like(data["prompt_ids"]),
        "completion_ids": data["response_ids"],
        "completion_mask": mask_RT.long(),
        "advantages": data["advantages"],
        "old_per_token_logps": data["old"],
        "ref_per_token_logps": data["reference"],
    }
    size = len(LENGTHS) // micro_batches
    return sum(
        trainer._compute_loss(
            trainer.model,
            {name: x[start : start + size] for name, x in batch.items()} | {"num_items_in_batch": mask_RT.sum()},
        )
        for start in range(0, len(LENGTHS), size)
    )


def assert_several_updates_equal(
    model, trainer, objective, *, step, mask_truncated=False, micro_batches=1, ours_in=(slice(None),)
):
    ours, theirs = copy.deepcopy(model).train(), trainer.model.train()
    data = batch(model)
    clip_shares = []
    for _ in range(4):
        inputs = our_inputs(ours, data, mask_truncated=mask_truncated)
        losses = [objective.loss(rows_of(inputs, rows)) for rows in ours_in]
        value = sum(loss.value for loss in losses)
        trl_value = trl_loss(trainer, data, mask_truncated=mask_truncated, micro_batches=micro_batches)
        torch.testing.assert_close(value, trl_value, rtol=1e-5, atol=1e-6)
        clip_shares.append(torch.cat([loss.metrics["clip_share"] for loss in losses]).nanmean().item())
        gradients = torch.autograd.grad(value, ours.parameters())
        trl_gradients = torch.autograd.grad(trl_value, theirs.parameters())
        torch.testing.assert_close(gradients, trl_gradients, rtol=1e-5, atol=2e-6)
        with torch.no_grad():
            for policy in (ours, theirs):
                for parameter, gradient in zip(policy.parameters(), gradients, strict=True):
                    parameter -= step * gradient
    assert clip_shares[0] == 0.0
    assert all(0.1 < share < 0.9 for share in clip_shares[1:]), clip_shares


def config_of(name, *, bias_correction=False, mask_truncated=False):
    objective, arguments, step = LOSSES[name]
    kl = {"type": "kl", "coefficient": KL_COEFFICIENT, "bias_correction": bias_correction}
    config = objective.Config(clip_low=CLIP_LOW, clip_high=CLIP_HIGH, terms=(kl,), mask_truncated=mask_truncated)
    return config.build(), arguments, step


@pytest.mark.parametrize("mask_truncated", [False, True])
@pytest.mark.parametrize("micro_batches", [1, 2])
@pytest.mark.parametrize("name", LOSSES)
def test_loss_and_gradients_equal_trl_over_several_off_policy_updates(
    model, make_trainer, name, micro_batches, mask_truncated
):
    """TRL's micro-batches are halves; ours are cut elsewhere and must not differ from the whole."""
    objective, arguments, step = config_of(name, mask_truncated=mask_truncated)
    assert_several_updates_equal(
        model,
        make_trainer(micro_batches, **arguments),
        objective,
        step=step,
        mask_truncated=mask_truncated,
        micro_batches=micro_batches,
        ours_in=(slice(None),) if micro_batches == 1 else (slice(0, 1), slice(1, 6), slice(6, None)),
    )


@pytest.mark.parametrize("name", ["grpo", "dr-grpo", "dapo"])
def test_a_corrected_kl_equals_trl(model, make_trainer, name):
    """Not so for `gspo`: TRL multiplies the divergence of a token by the sequence's ratio, which corrects no bias."""
    objective, arguments, step = config_of(name, bias_correction=True)
    trainer = make_trainer(1, bias_correction=True, **arguments)
    assert_several_updates_equal(model, trainer, objective, step=step)


def test_dapo_is_bnpo_on_a_single_micro_batch(model, make_trainer):
    objective, _, step = config_of("dapo")
    assert_several_updates_equal(model, make_trainer(1, loss_type="bnpo"), objective, step=step)


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_default_advantages_equal_trl(scale):
    from trl.trainer.utils import nanstd

    example = Example(id="0", question="", answer="")
    nothing = torch.zeros(1, 0, dtype=torch.long)
    view = View(example, "clean", nothing[0], nothing)
    rewards = torch.tensor(
        [[1.0, 0.1, 0.0, 0.9, 1.0, 0.1], [0.0, 0.0, 1.0, 0.0, 0.1, 0.0], [0.1] * 6], dtype=torch.float64
    )
    groups = [
        ScoredGroup(
            Group(example, (view,), (), sampled_from=(0,) * 6, updated_on=(0,) * 6),
            tuple(Grade(reward, correct=reward > 0.5) for reward in row),
        )
        for row in rewards.tolist()
    ]
    expected = rewards - rewards.mean(dim=1, keepdim=True)
    if scale != "none":
        std = nanstd(rewards, dim=1, keepdim=True) if scale == "group" else nanstd(rewards)
        expected = expected / (std + 1e-4)
    advantage = GroupRelative(GroupRelative.Config(scale=scale))
    rewards = [reward for group in groups for reward in group.rewards]
    actual = [list(train_group(group, advantage, rewards).advantages) for group in groups]
    # TRL computes its n / (n - 1) in float32.
    torch.testing.assert_close(torch.tensor(actual, dtype=torch.float64), expected, rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("micro_batches", [1, 2])
@pytest.mark.parametrize("name", ["cispo", "sapo"])
def test_cispo_and_sapo_equal_trl_over_several_off_policy_updates(model, make_trainer, name, micro_batches):
    """TRL's ``epsilon_high`` is the bound of CISPO's ratio itself, ours how far it lies above 1."""
    kl = {"type": "kl", "coefficient": KL_COEFFICIENT}
    if name == "cispo":
        objective = CISPO.Config(clip_high=0.15, terms=(kl,)).build()
    else:
        objective = SAPO.Config(tau_positive=1.5, tau_negative=2.5, terms=(kl,)).build()
    trainer = make_trainer(micro_batches, loss_type=name, sapo_temperature_pos=1.5, sapo_temperature_neg=2.5)
    trainer.epsilon_high = 1.15
    ours, theirs, data = copy.deepcopy(model).train(), trainer.model.train(), batch(model)
    for _ in range(3):
        inputs = our_inputs(ours, data, mask_truncated=False)
        value = objective.loss(inputs).value
        trl_value = trl_loss(trainer, data, mask_truncated=False, micro_batches=micro_batches)
        torch.testing.assert_close(value, trl_value, rtol=1e-5, atol=1e-6)
        gradients = torch.autograd.grad(value, ours.parameters())
        torch.testing.assert_close(gradients, torch.autograd.grad(trl_value, theirs.parameters()), rtol=1e-5, atol=2e-6)
        with torch.no_grad():
            for policy in (ours, theirs):
                for parameter, gradient in zip(policy.parameters(), gradients, strict=True):
                    parameter -= 0.03 * gradient
    ratio_RT = (inputs.logp_RT - inputs.old_logp_RT).exp()[data["mask"]]
    assert ratio_RT.max() > 1.3
    assert ratio_RT.min() < 0.8


def test_forking_tokens_equal_trls_top_entropy_quantile(model, make_trainer):
    """TRL divides by all tokens, as ``count_zeroed`` does, and keeps those from an interpolated quantile on.

    That is as many as the ``ceil(share * n)`` of the method's authors for this share of 33 tokens; for others it may be
    one more or less, and of equal entropies, such as those of all first tokens here, TRL keeps all or none. TRL ranks
    current entropies; at the first update they are those that were sampled from.
    """
    trainer = make_trainer(1, loss_type="dapo", top_entropy_quantile=0.5)
    trainer.beta = 0.0
    ours, data = copy.deepcopy(model).train(), batch(model)
    mask_RT, rows = data["mask"], len(LENGTHS)
    ids = torch.cat([data["prompt_ids"], data["response_ids"]], dim=1)
    attention = torch.cat([torch.ones_like(data["prompt_ids"]), mask_RT.long()], dim=1)
    with torch.no_grad():
        logits = ours(input_ids=ids, attention_mask=attention).logits[:, PROMPT - 1 : -1]
    nothing_RT = torch.zeros(mask_RT.shape)
    update_batch = UpdateBatch(
        rows=tuple(Row(0, n, 0) for n in range(rows)),
        ids_RT=data["response_ids"],
        mask_RT=mask_RT,
        behaviour_logp_RT=nothing_RT,
        behaviour_entropy_RT=torch.distributions.Categorical(logits=logits).entropy() * mask_RT,
        advantage_RT=nothing_RT,
        truncated_R=torch.tensor(TRUNCATED),
        drawn_RT=mask_RT,
    )
    weight = ForkingTokens.Config(share="1/2", count_zeroed=True).build()
    weight_RT = weight.weigh(update_batch, progress=0.0, generator=torch.Generator())
    assert int(weight_RT[mask_RT].sum()) == 17
    inputs = replace(our_inputs(ours, data, mask_truncated=False), weight_RT=weight_RT)
    value = DAPO.Config(clip_low=CLIP_LOW, clip_high=CLIP_HIGH).build().loss(inputs).value
    trl_value = trl_loss(trainer, data, mask_truncated=False, micro_batches=1)
    torch.testing.assert_close(value, trl_value, rtol=1e-5, atol=1e-6)
    gradients = torch.autograd.grad(value, ours.parameters())
    trl_gradients = torch.autograd.grad(trl_value, trainer.model.parameters())
    torch.testing.assert_close(gradients, trl_gradients, rtol=1e-5, atol=2e-6)
