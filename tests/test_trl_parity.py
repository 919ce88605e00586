"""The loss and its gradients against TRL's own code on the same batch.

TRL scores the tokens with its own forward pass inside the trainer; our side takes log-probabilities from plain
logits. What both are given is the batch: ids, masks, advantages, old and reference log-probabilities.
"""

import copy

import pytest
import torch

from saei.objectives.advantages import AdvantageConfig, advantages
from saei.objectives.base import ObjectiveInput
from saei.objectives.grpo import GRPO
from saei.types import Example, Grade, Group, ScoredGroup, View

pytest.importorskip("trl")

VOCABULARY = 24
PROMPT = 4
LENGTHS = [6, 1, 4, 6, 2, 5, 3, 6]
TRUNCATED = [True, False, False, True, False, False, False, False]
KL_COEFFICIENT = 0.04
STEP = 0.03


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
def trl_trainer(model, tmp_path):
    from datasets import Dataset
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast
    from trl import GRPOConfig, GRPOTrainer

    words = {"<pad>": 0, "<bos>": 1, "<eos>": 2} | {f"w{i}": i for i in range(3, VOCABULARY)}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(words, unk_token="<pad>")), pad_token="<pad>", eos_token="<eos>"
    )
    trainer = GRPOTrainer(
        model=copy.deepcopy(model),
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=GRPOConfig(
            output_dir=str(tmp_path),
            use_cpu=True,
            bf16=False,
            report_to="none",
            per_device_train_batch_size=len(LENGTHS),
            num_generations=len(LENGTHS),
            max_completion_length=max(LENGTHS),
            loss_type="grpo",
            epsilon=0.2,
            epsilon_high=0.28,
            beta=0.0,
        ),
        train_dataset=Dataset.from_list([{"prompt": "w3 w4 w5 w6"}] * len(LENGTHS)),
        processing_class=tokenizer,
    )
    # With a beta from the start, TRL would load its reference model from a hub id; the batch brings it here.
    trainer.beta = KL_COEFFICIENT
    trainer.current_gradient_accumulation_steps = 1
    return trainer


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


def our_loss(objective, model, data):
    mask_RT, rows = data["mask"], len(LENGTHS)
    return objective.loss(
        ObjectiveInput(
            logp_RT=token_logp(model, data["prompt_ids"], data["response_ids"], mask_RT),
            old_logp_RT=data["old"],
            behaviour_logp_RT=data["old"],
            mask_RT=mask_RT,
            selected_RT=mask_RT,
            advantage_R=data["advantages"],
            truncated_R=torch.tensor(TRUNCATED),
            off_view_R=torch.zeros(rows, dtype=torch.bool),
            beta_R=torch.zeros(rows),
            cap_R=torch.full((rows,), 2.0),
            n_responses=rows,
            n_tokens=float(mask_RT.sum()),
            reference_logp_RT=data["reference"],
        )
    )


def trl_loss(trainer, data, *, mask_truncated):
    keep = ~(torch.tensor(TRUNCATED)[:, None] & mask_truncated)
    return trainer._compute_loss(
        trainer.model,
        {
            "prompt_ids": data["prompt_ids"],
            "prompt_mask": torch.ones_like(data["prompt_ids"]),
            "completion_ids": data["response_ids"],
            # As TRL does for truncated completions: scored like padding, hence not part of the loss.
            "completion_mask": (data["mask"] & keep).long(),
            "advantages": data["advantages"],
            "old_per_token_logps": data["old"],
            "ref_per_token_logps": data["reference"],
        },
    )


@pytest.mark.parametrize("bias_correction", [False, True])
@pytest.mark.parametrize("mask_truncated", [False, True])
def test_loss_and_gradients_equal_trl_over_several_off_policy_updates(
    model, trl_trainer, mask_truncated, bias_correction
):
    trl_trainer.args.use_bias_correction_kl = bias_correction
    ours, theirs = copy.deepcopy(model).train(), trl_trainer.model.train()
    data = batch(model)
    kl = {"type": "kl", "coefficient": KL_COEFFICIENT, "bias_correction": bias_correction}
    objective = GRPO.Config(clip_low=0.2, clip_high=0.28, terms=(kl,), mask_truncated=mask_truncated).build()
    clip_shares = []
    for _ in range(4):
        loss = our_loss(objective, ours, data)
        trl_value = trl_loss(trl_trainer, data, mask_truncated=mask_truncated)
        torch.testing.assert_close(loss.value, trl_value, rtol=1e-5, atol=1e-6)
        clip_shares.append(loss.metrics["clip_share"].nanmean().item())
        gradients = torch.autograd.grad(loss.value, ours.parameters())
        trl_gradients = torch.autograd.grad(trl_value, theirs.parameters())
        torch.testing.assert_close(gradients, trl_gradients, rtol=1e-5, atol=2e-6)
        with torch.no_grad():
            for policy in (ours, theirs):
                for parameter, gradient in zip(policy.parameters(), gradients, strict=True):
                    parameter -= STEP * gradient
    assert clip_shares[0] == 0.0
    assert all(0.1 < share < 0.9 for share in clip_shares[1:])


@pytest.mark.parametrize("scale", ["group", "batch"])
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
    std = nanstd(rewards, dim=1, keepdim=True) if scale == "group" else nanstd(rewards)
    expected = (rewards - rewards.mean(dim=1, keepdim=True)) / (std + 1e-4)
    actual = [list(group.advantages) for group in advantages(groups, AdvantageConfig(scale=scale))]
    # TRL computes its n / (n - 1) in float32.
    torch.testing.assert_close(torch.tensor(actual, dtype=torch.float64), expected, rtol=1e-7, atol=1e-12)
