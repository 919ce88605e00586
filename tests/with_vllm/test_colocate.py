"""What vLLM draws inside TRL's trainer, against the policy's own passes and against transformers."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from colocated import FIGURES, Engine
from tiny_qwen import PADDED

from saei.config.sections import SamplingConfig
from saei.errors import ModelError, TrainingError
from saei.integrations.vllm import engine as vllm
from saei.policy.decoder import DrawRequest
from saei.policy.native import Native
from saei.types import Response, View

EXACT = 1e-4
"""Float32 on both sides: log-probabilities differ by rounding alone."""


def sample(engine: Engine, views: list[View], *, seed: int, count: int = 2, **sampling: Any) -> list[list[Response]]:
    """Draw by vLLM with weights that it has already."""
    with engine.trainer._whole_model() as policy:
        return policy.sample(
            views,
            [count] * len(views),
            generators=[torch.Generator().manual_seed(100 * seed + number) for number in range(len(views))],
            sampling=SamplingConfig(**sampling) if sampling else None,
        )


def ids(responses: list[list[Response]]) -> list[list[int]]:
    return [response.ids_T.tolist() for drawn in responses for response in drawn]


def test_vllm_reads_the_prompts_that_the_policy_reads(engine: Engine) -> None:
    groups = engine.draw()
    views = {tuple(view.prompt_ids_P.tolist()) for group in groups for view in group.views}
    assert {tuple(prompt) for prompt in engine.prompts} == views
    assert all(len(group.views) == 2 for group in groups)


def test_a_prompt_that_vllm_reads_differently_ends_the_run(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    engine.draw()
    policy = engine.trainer._trainer_policy
    monkeypatch.setattr(policy, "unexpanded_prompt", lambda view: view.prompt_ids_P.tolist(), raising=False)
    with pytest.raises(ModelError, match="read a prompt alike"):
        engine.draw()


def test_log_probabilities_are_the_policys_and_nothing_banned_is_drawn(engine: Engine) -> None:
    groups = engine.draw()
    gap_M = engine.gaps(groups)
    FIGURES["largest difference of log-probabilities"] = f"{float(gap_M.max()):.1e} nats on {len(gap_M)} tokens"
    assert float(gap_M.max()) < EXACT
    banned_V = engine.trainer._trainer_policy.distribution.banned_V
    assert int(banned_V.sum()) > PADDED
    drawn = [token for group in groups for response in group.responses for token in response.ids_T.tolist()]
    assert len(drawn) > 100
    assert not banned_V[torch.tensor(drawn)].any()


def test_without_the_bans_vllm_draws_what_is_banned(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: most of the mass that is banned lies on ids without a token."""
    view = engine.draw()[0].views[0]
    banned_V = engine.trainer._trainer_policy.distribution.banned_V
    parameters = vllm.sampling_parameters

    def without_bans(*given: Any) -> dict[str, Any]:
        return {**parameters(*given), "allowed_token_ids": None}

    monkeypatch.setattr(vllm, "sampling_parameters", without_bans)
    (responses,) = sample(engine, [view], seed=0, count=8, temperature=1.0, max_new_tokens=24)
    drawn = torch.cat([response.ids_T for response in responses])
    FIGURES["banned tokens among those drawn without bans"] = f"{int(banned_V[drawn].sum())} of {len(drawn)}"
    assert banned_V[drawn].any()


def test_a_response_ends_with_the_ids_that_end_the_policys(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """With half of all tokens as ends, most responses are short, end with one of them and have no other."""
    view = engine.draw()[0].views[0]
    policy = engine.trainer._trainer_policy
    ends = policy.eos_ids.new_tensor(range(0, len(policy.tokenizer), 2))
    monkeypatch.setattr(policy, "eos_ids", ends)
    (responses,) = sample(engine, [view], seed=0, count=8)
    assert sum(not response.truncated for response in responses) >= 6
    for response in responses:
        assert not torch.isin(response.ids_T[:-1], ends).any()


def test_greedy_tokens_are_those_of_our_decoder_and_of_transformers(engine: Engine) -> None:
    views = [group.views[0] for group in engine.draw()]
    drawn = ids(sample(engine, views, seed=0, count=1, temperature=0.0, max_new_tokens=24))
    with engine.trainer._whole_model() as policy, torch.no_grad():
        greedy = SamplingConfig(temperature=0.0, max_new_tokens=24)
        sources = [torch.Generator().manual_seed(0) for _ in views]
        request = DrawRequest(views, [1, 1], greedy, policy.distribution_of(greedy), sources)
        ours = [[list(one.ids) for one in drawn] for drawn in Native().draw(policy, request)]
        theirs = []
        for view in views:
            generated = policy.model.generate(
                input_ids=view.prompt_ids_P[None],
                attention_mask=torch.ones_like(view.prompt_ids_P)[None],
                mm_token_type_ids=(view.prompt_ids_P == policy.model.config.image_token_id).int()[None],
                **policy.pixels.inputs([view.canvases]),
                max_new_tokens=24,
                do_sample=False,
                suppress_tokens=policy.distribution.banned_V.nonzero().flatten().tolist(),
            )
            theirs.append(generated[0, len(view.prompt_ids_P) :].tolist())
    FIGURES["greedy tokens, the same three times"] = str(sum(map(len, drawn)))
    assert drawn == [row for (row,) in ours] == theirs


def test_an_update_is_seen(engine: Engine) -> None:
    before = engine.draw()
    engine.update()
    after = engine.draw()
    assert float(engine.gaps(after).max()) < EXACT
    assert float(engine.gaps(before).median()) > 0.1  # these were drawn with the weights before


def test_a_picture_that_returns_after_an_update_is_seen_by_the_new_weights(engine: Engine) -> None:
    """The same prompts and clean pictures again: only the vision tower has moved."""
    engine.draw()
    engine.update(engine.trainer.model.model.visual, scale=0.5)
    largest = float(engine.gaps(engine.draw()).max())
    FIGURES["largest difference on a picture that returns after an update"] = f"{largest:.1e} nats"
    assert largest < EXACT


def test_without_dropping_pictures_the_one_that_returns_ends_the_run(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: weights arrive, prompts are dropped by TRL, but what was computed of the picture stays."""
    engine.draw()
    engine.update(engine.trainer.model.model.visual, scale=0.5)
    monkeypatch.setattr(vllm.VLLM, "sync", lambda self, policy: None)
    with pytest.raises(TrainingError, match="max_decoder_gap"):
        engine.draw()
    (gap,) = engine.trainer._pending_metrics["saei/decoder_gap"]
    FIGURES["median difference if its embedding is kept"] = f"{gap:.2f} nats"


def test_without_an_update_of_vllm_the_run_ends(engine: Engine) -> None:
    """The control: what the gap is there to show."""
    engine.draw()
    engine.update()
    engine.trainer._last_loaded_step = engine.trainer.state.global_step  # as if vLLM had got the weights
    with pytest.raises(TrainingError, match="max_decoder_gap") as stopped:
        engine.draw()
    (shown,) = engine.trainer._pending_metrics["saei/decoder_gap"]
    FIGURES["median difference if the weights do not arrive"] = f"{shown:.2f} nats"
    assert shown > 0.1
    assert "update of the weights" in stopped.value.remedy


def test_seeds_matter_and_repeat(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    views = [group.views[0] for group in engine.draw()]
    once, again, other = (ids(sample(engine, [*views, views[0]], seed=seed)) for seed in (1, 1, 2))
    assert once == again
    assert len({tuple(drawn) for drawn in once + other}) == 12  # nor do responses or views share their randomness
    alone = ids(sample(engine, views[:1], seed=1))
    assert alone == once[:2]
    of_seed = {}
    for seed in (0, 1, 0):
        monkeypatch.setattr(engine.trainer.args, "seed", seed)
        monkeypatch.setattr(engine.trainer, "_rollouts", {})  # the first rollout of its step, each time
        drawn = [response.ids_T.tolist() for group in engine.draw() for response in group.responses[:2]]
        assert of_seed.setdefault(seed, drawn) == drawn
    assert of_seed[0] != of_seed[1]


def test_weights_are_of_the_policys_type(engine: Engine) -> None:
    assert engine.trainer.vllm_generation.llm.llm_engine.model_config.dtype == torch.float32


def test_two_steps_train_and_the_gap_is_recorded(engine: Engine, shared_run: Any) -> None:
    folder = shared_run.train()
    steps = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in steps if "reward" in line]
    assert [line["step"] for line in steps] == [1, 2]
    FIGURES["median difference in two steps of training"] = ", ".join(
        f"{line['saei/decoder_gap']:.1e}" for line in steps
    )
    assert all(line["saei/decoder_gap"] < EXACT for line in steps)
    assert all(line["saei/decoder_gap_max"] < 10 * EXACT for line in steps)
