"""TRL's engine: the upstream seam, what it refuses, and our sampling inside TRL's steps."""

from __future__ import annotations

import ast
import inspect
import json
import os
import re
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, Literal

import pytest
import torch
from datasets import Dataset
from PIL import Image

from runs import registered
from saei.config.run import RunConfig, validate
from saei.config.strategy import StrategyConfig
from saei.data.bars import Bars
from saei.errors import ConfigError
from saei.integrations.trl.arguments import LOSSES, check_arguments, grpo_arguments
from saei.interventions.base import Guard
from saei.report.page import write_page
from saei.rewards.base import Reward
from saei.runtime.run_dir import RunDir
from saei.runtime.seeds import derive
from saei.samplers.mixed import Mixed
from saei.types import Example, Grade, Group, Response, ScoredGroup, View

trl = pytest.importorskip("trl")
from saei.integrations.trl.rows import CONVERSATIONS, PLACE, GivenMessages, example_of, numbered  # noqa: E402  # needs trl
from saei.integrations.trl.run import observed  # noqa: E402  # needs trl
from saei.integrations.trl.trainer import SaeiGRPOTrainer  # noqa: E402  # needs trl

DOCS = Path(__file__).parents[1] / "docs" / "trl.md"
SMALL: dict[str, Any] = {
    "model": {"device": "cpu", "threads": 1},
    "sampler": {"type": "mixed", "n_clean": 2, "n_adversarial": 2},
    "sampling": {"max_new_tokens": 16},
    "training": {"steps": 3, "prompts_per_step": 2},
}
PLAIN_TRL = {"disable_tqdm": True, "gradient_checkpointing": False}


def arguments_of(data: dict[str, Any], *, processes: int = 1, extra: dict[str, Any] | None = None) -> dict[str, Any]:
    return grpo_arguments(validate({**SMALL, **data}), folder=Path("out"), processes=processes, extra=extra or {})


# The upstream seam: these fail the day TRL moves it.


def test_canary_generate_returns_the_images_where_we_replace_them() -> None:
    assert list(inspect.signature(trl.GRPOTrainer._generate).parameters) == ["self", "prompts"]
    tree = ast.parse(textwrap.dedent(inspect.getsource(trl.GRPOTrainer._generate)))
    returned = [node.value for node in ast.walk(tree) if isinstance(node, ast.Return)]
    assert [[item.id for item in value.elts] for value in returned] == [  # type: ignore[attr-defined]
        [
            "prompt_ids",
            "completion_ids",
            "tool_mask",
            "completions",
            "logprobs",
            "extra_fields",
            "images",
            "tool_images",
        ]
    ]


def test_canary_generate_asks_the_rollout_function_for_what_we_return() -> None:
    source = inspect.getsource(trl.GRPOTrainer._generate)
    assert "self.rollout_func(prompts, self)" in source
    assert 'required_keys = {"prompt_ids", "completion_ids", "logprobs"}' in source


def test_canary_the_call_to_a_server() -> None:
    from trl.generation.vllm_generation import VLLMGeneration

    parameters = list(inspect.signature(VLLMGeneration.generate).parameters)
    assert parameters == ["self", "prompts", "images", "num_generations", "profiler"]
    source = inspect.getsource(VLLMGeneration.generate)
    assert "return prompt_ids, completion_ids, logprobs, logprob_token_ids\n" in source
    assert '"generation_kwargs": self.generation_kwargs' in source


def test_canary_prompts_are_generated_for_in_the_order_of_the_rows() -> None:
    source = inspect.getsource(trl.GRPOTrainer._generate_and_score_completions)
    assert 'prompts = [x["prompt"] for x in inputs]' in source
    assert "self._generate(prompts)" in source


@pytest.mark.parametrize("kind", ["map", "stream", "several"])
def test_rows_are_numbered(kind: str) -> None:
    rows: Any = Dataset.from_dict({"prompt": ["a", "b", "c"]}).select([2, 0])
    with_numbers = numbered({"map": rows, "stream": rows.to_iterable_dataset(), "several": {"one": rows}}[kind])
    found = with_numbers["one"] if kind == "several" else with_numbers
    assert [(row["prompt"], row[PLACE]) for row in found] == [("c", 0), ("a", 1)]


def test_numbering_a_shuffled_data_set_writes_no_rows(tmp_path: Path) -> None:
    Dataset.from_dict({"prompt": list("abcde")}).save_to_disk(tmp_path / "rows")
    rows = Dataset.load_from_disk(tmp_path / "rows").shuffle(seed=1)
    prompts = rows["prompt"]
    before = sorted(tmp_path.rglob("*"))
    with_numbers = numbered(rows)
    assert [(row["prompt"], row[PLACE]) for row in with_numbers] == [(own, n) for n, own in enumerate(prompts)]
    assert sorted(tmp_path.rglob("*")) == before
    assert prompts != list("abcde")


@pytest.mark.parametrize("stream", [False, True])
def test_rows_that_are_numbered_keep_their_numbers(stream: bool) -> None:
    rows: Any = Dataset.from_dict({"prompt": ["a", "b"], PLACE: [7, 3]})
    assert [row[PLACE] for row in numbered(rows.to_iterable_dataset() if stream else rows)] == [7, 3]


def test_canary_an_unknown_sampling_log_probability_is_not_corrected() -> None:
    source = inspect.getsource(trl.GRPOTrainer._generate_and_score_completions)
    assert 'float("nan") if x is None else x' in source
    assert "torch.nan_to_num(per_token_logps_diff, nan=0.0)" in source


def test_canary_vllm_is_given_what_trl_has_no_argument_for() -> None:
    """The day TRL passes a type, ours would come twice."""
    from trl.generation import vllm_generation

    source = inspect.getsource(vllm_generation.VLLMGeneration._init_vllm)
    assert "self.llm = LLM(" in source
    assert "dtype" not in source
    assert 'logprobs_mode="processed_logprobs"' in source
    assert "vllm_dtype" not in trl.GRPOConfig.__dataclass_fields__


def test_canary_weights_are_sent_before_the_rollout_and_pictures_stay() -> None:
    """The day TRL drops more than prompts, ``sync`` of our decoders has less to do."""
    from trl.generation import vllm_generation

    source = inspect.getsource(trl.GRPOTrainer._generate)
    assert source.index("self.vllm_generation.sync_weights()") < source.index("self.rollout_func(prompts, self)")
    source = inspect.getsource(vllm_generation.VLLMGeneration.sync_weights)
    assert "self.llm.reset_prefix_cache()" in source
    assert "encoder_cache" not in source


def test_canary_how_trl_lets_vllm_sleep() -> None:
    from trl.generation import vllm_generation

    source = inspect.getsource(vllm_generation.VLLMGeneration.generate)
    assert 'if self.mode == "colocate" and self.enable_sleep_mode and self._llm_weights_sleeping:' in source
    assert 'self.llm.wake_up(tags=["kv_cache"])' in source
    assert "self.llm.sleep(level=2)\n                self._llm_weights_sleeping = True" in source


# The configuration.


def test_arguments_are_those_of_trl() -> None:
    found = arguments_of(
        {"training": {"steps": 5, "prompts_per_step": 8, "micro_groups": 2, "ppo_epochs": 2}}, processes=2
    )
    config = trl.GRPOConfig(**found | {"output_dir": "unused", "use_cpu": True, "report_to": "none"})
    assert config.max_steps == 10
    assert config.num_iterations == 2
    # 4 groups a process, 2 at once: 8 rows a pass, 2 passes an optimiser step.
    assert (config.per_device_train_batch_size, config.gradient_accumulation_steps) == (8, 2)
    assert config.steps_per_generation == 2


def test_losses_are_those_that_the_parity_tests_hold_equal() -> None:
    from test_trl_parity import LOSSES as HELD

    for name, (objective, held, _) in HELD.items():
        found = arguments_of({"objective": name})
        assert {key: found[key] for key in held} == held
        assert LOSSES[name].items() <= found.items()
        assert (found["epsilon"], found["epsilon_high"]) == (
            objective.Config().clip_low,
            objective.Config().clip_high,
        )


@pytest.mark.parametrize(
    ("data", "named"),
    [
        ({"sampler": {"type": "dynamic"}}, "sampler 'dynamic'"),
        ({"sampler": {"type": "mixed", "update_on": "clean", "beta": 1.0}}, "sampler.beta"),
        ({"sampler": {"type": "mixed", "intervention": {"gate": "zero-variance"}}}, "intervention.gate"),
        (
            {"sampler": {"type": "arms", "arms": {"strong": {"update_on": "clean", "beta": 1.0}}}},
            "sampler.arms.strong.beta 1.0",
        ),
        ({"objective": {"type": "grpo", "terms": ["entropy-bonus"]}}, "objective.terms"),
        ({"objective": {"type": "grpo", "token_selector": "middle-third"}}, "objective.token_selector"),
        ({"objective": {"type": "grpo", "advantage": {"baseline": "per-origin"}}}, "advantage.baseline"),
        ({"objective": {"type": "grpo", "advantage": {"scale": "per-origin"}}}, "advantage.scale"),
        ({"objective": {"type": "grpo", "advantage": "quantile"}}, "advantage 'quantile' (TRL's are group-relative"),
        ({"sampler": {"type": "mixed", "update_on": "clean"}, "objective": {"terms": ["kl"]}}, "view weight"),
        ({"training": {"updates_per_batch": 2}}, "training.updates_per_batch"),
        ({"training": {"prompts_per_step": 8, "micro_groups": 3}}, "training.micro_groups"),
        ({"evaluation": {"every": 3}}, "evaluation"),
    ],
)
def test_what_trl_cannot_follow_is_refused_by_name(data: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match="cannot follow") as refused:
        arguments_of(data)
    assert named in refused.value.reason


def moving_text(update_on: str, attack: str = "text-fgsm") -> dict[str, Any]:
    return {**SMALL["sampler"], "update_on": update_on, "intervention": {"attack": attack}}


def test_offsets_are_refused_where_trl_would_have_to_add_them() -> None:
    assert arguments_of({"sampler": moving_text("clean")})
    assert arguments_of({"sampler": moving_text("sampled", "hotflip")}, extra={"use_vllm": True})
    with pytest.raises(ConfigError, match=r"TRL's update reads prompts as tokens.*update_on to clean"):
        arguments_of({"sampler": moving_text("sampled")})
    with pytest.raises(ConfigError, match=r"an offset on the embeddings.*TRL's vLLM.*intervention\.attack=hotflip"):
        arguments_of({"sampler": moving_text("clean")}, extra={"use_vllm": True})
    trainer: Any = SimpleNamespace(
        args=SimpleNamespace(per_device_train_batch_size=4, steps_per_generation=1, use_vllm=False),
        _sampler=validate({"sampler": moving_text("perturbed")}).sampler.build(),
    )
    with pytest.raises(ConfigError, match="update_on 'perturbed'"):
        SaeiGRPOTrainer._check(trainer)


@pytest.mark.parametrize("questions", ["answerable", "answer-kept"])
def test_restricted_questions_need_rows_with_an_oracle(questions: str) -> None:
    surfaces = [{"type": "tokens", "questions": questions}]
    sampler = {**SMALL["sampler"], "update_on": "clean", "intervention": {"attack": "hotflip", "surfaces": surfaces}}
    trainer: Any = SimpleNamespace(
        args=SimpleNamespace(per_device_train_batch_size=4, steps_per_generation=1, use_vllm=False),
        num_generations=4,
        is_fsdp_enabled=False,
        _sampler=validate({"sampler": sampler}).sampler.build(),
        _format=CONVERSATIONS,
    )
    with pytest.raises(ConfigError, match=r"task with an oracle.*what tells examples from rows has no oracle"):
        SaeiGRPOTrainer._check(trainer)
    trainer._format = replace(CONVERSATIONS, answer=Bars().answer)
    SaeiGRPOTrainer._check(trainer)


def test_a_conversation_of_one_text_is_a_question_that_can_be_swapped() -> None:
    picture = Image.new("RGB", (8, 8))
    asked = [{"type": "image", "image": picture}, {"type": "text", "text": "How high?"}]
    prompt = [{"role": "system", "content": "Think."}, {"role": "user", "content": asked}]
    example = example_of(3, prompt)
    assert (example.question, example.images) == ("How high?", (picture,))
    template = GivenMessages()
    before, after = (template.messages(each) for each in (example, replace(example, question="How tall?")))
    assert before[0] == after[0] == {"role": "system", "content": [{"type": "text", "text": "Think."}]}
    assert [message[1]["content"] for message in (before, after)] == [
        [{"type": "image"}, {"type": "text", "text": text}] for text in ("How high?", "How tall?")
    ]
    assert example_of(0, [{"role": "user", "content": [*asked, asked[1]]}]).question == ""


def test_a_sampler_that_chooses_is_refused_where_no_configuration_is_read() -> None:
    gated = {"type": "dynamic", "of": {"type": "mixed", "intervention": {"gate": "zero-variance"}}}
    sampler = validate({"sampler": gated}).sampler.build()
    trainer: Any = SimpleNamespace(
        args=SimpleNamespace(per_device_train_batch_size=12, steps_per_generation=1), _sampler=sampler
    )
    with pytest.raises(ConfigError, match="dynamic, zero-variance would choose"):
        SaeiGRPOTrainer._check(trainer)


class Harmless(Guard):
    """Says that it needs no supply, and drops all the same."""

    needs_supply = False

    class Config(StrategyConfig):
        type: Literal["harmless"] = "harmless"

    def drop(self, scored: Sequence[ScoredGroup], step: Any, supply: Any) -> list[dict[int, str]]:
        return [{0: "first"} for _ in scored]


class Dropping(Mixed):
    """Drops by itself."""

    class Config(Mixed.Config):
        type: Literal["dropping"] = "dropping"  # type: ignore[assignment]

    def guard(self, scored: Sequence[ScoredGroup], step: Any, supply: Any) -> list[Any]:
        return [{0: "first"} for _ in scored]


@pytest.mark.parametrize(
    ("sampler", "reason"),
    [
        ({"type": "augment"}, r"sampler of 'augment': it trains all responses of an example under one prompt"),
        ({"type": "branch"}, r"sampler\.train_prefix of 'branch'"),
        ({"type": "branch", "train_prefix": True}, "continues responses, and vLLM draws whole ones"),
        ({"type": "tempered", "temperature": {"target": 0.01}}, r"sampler\.temperature\.match of 'tempered'"),
        ({"type": "tempered", "temperature": 2.0}, None),
    ],
)
def test_what_a_sampler_needs_of_its_own_loop_is_refused_with_the_reason(
    sampler: dict[str, Any], reason: str | None
) -> None:
    built = validate({"sampler": sampler}).sampler.build()
    args = SimpleNamespace(per_device_train_batch_size=12, steps_per_generation=1, use_vllm=True)
    trainer: Any = SimpleNamespace(args=args, _sampler=built, num_generations=12, is_fsdp_enabled=False)
    if reason is None:
        SaeiGRPOTrainer._check(trainer)
    else:
        with pytest.raises(ConfigError) as refused:
            SaeiGRPOTrainer._check(trainer)
        assert re.search(reason, refused.value.reason)


@pytest.mark.parametrize(
    ("sampler", "name"),
    [
        ({"type": "mixed", "intervention": {"guard": "harmless"}}, "harmless"),
        ({"type": "arms", "arms": {"one": {}, "two": {"intervention": {"guard": "harmless"}}}}, "harmless"),
        ({"type": "dropping"}, "dropping"),
    ],
)
def test_what_drops_responses_is_refused_also_where_it_needs_no_supply(sampler: dict[str, Any], name: str) -> None:
    with registered(Harmless, Dropping):
        built = validate({"sampler": sampler}).sampler.build()
    assert not built.plan().needs_supply
    rows = built.group_size
    trainer: Any = SimpleNamespace(
        args=SimpleNamespace(per_device_train_batch_size=rows, steps_per_generation=1), _sampler=built
    )
    with pytest.raises(ConfigError, match=f"parts, {name} would choose"):
        SaeiGRPOTrainer._check(trainer)


@pytest.mark.parametrize("sampler", ["clean", "mixed", "noisy"])
def test_what_drops_nothing_is_taken(sampler: str) -> None:
    built = validate({"sampler": {"type": sampler}}).sampler.build()
    trainer: Any = SimpleNamespace(
        args=SimpleNamespace(per_device_train_batch_size=built.group_size, steps_per_generation=1, use_vllm=False),
        num_generations=built.group_size,
        is_fsdp_enabled=False,
        _sampler=built,
    )
    SaeiGRPOTrainer._check(trainer)


def test_groups_draw_by_their_rows_whichever_process_has_them() -> None:
    """A source depends on the run's seed, the step, which of its rollouts it is, and the row: on no process."""
    trainer: Any = SimpleNamespace(
        state=SimpleNamespace(global_step=0, max_steps=10),
        model=SimpleNamespace(training=True),
        args=SimpleNamespace(seed=3),
        _rollouts={},
        _format=CONVERSATIONS,
    )
    ids = torch.zeros(1, dtype=torch.long)
    view = View(Example("e", "q", "a"), "clean", ids, ids[None], index=5)

    def seed() -> int:
        step = SaeiGRPOTrainer._context(trainer, None)  # type: ignore[arg-type]  # no policy is asked
        return step.generator_of(view).initial_seed()

    assert [seed(), seed()] == [derive(3, "sample", 0, 0, 5), derive(3, "sample", 0, 1, 5)]
    trainer.state.global_step = 1
    assert seed() == derive(3, "sample", 1, 0, 5)
    trainer.model.training = False
    assert seed() == derive(3, "evaluate", 1, 0, 5)


def test_training_draws_the_same_whether_it_was_evaluated_before_or_not() -> None:
    """As a run that is resumed at a step at which it had been evaluated."""
    trainer: Any = SimpleNamespace(
        state=SimpleNamespace(global_step=4, max_steps=10),
        model=SimpleNamespace(training=False),
        args=SimpleNamespace(seed=3),
        _rollouts={},
        _format=CONVERSATIONS,
    )
    ids = torch.zeros(1, dtype=torch.long)
    view = View(Example("e", "q", "a"), "clean", ids, ids[None], index=5)

    def seed(*, training: bool) -> int:
        trainer.model.training = training
        return SaeiGRPOTrainer._context(trainer, None).generator_of(view).initial_seed()  # type: ignore[arg-type]

    assert [seed(training=False), seed(training=False)] == [derive(3, "evaluate", 4, n, 5) for n in (0, 1)]
    assert seed(training=True) == derive(3, "sample", 4, 0, 5)
    assert seed(training=False) == derive(3, "evaluate", 4, 2, 5)
    assert seed(training=True) == derive(3, "sample", 4, 1, 5)


def test_groups_that_do_not_fit_the_processes_are_refused() -> None:
    with pytest.raises(ConfigError, match="prompts_per_step 2 with 4 processes"):
        arguments_of({}, processes=4)


def test_an_extra_argument_does_not_overrule_the_configuration() -> None:
    assert arguments_of({}, extra={"use_vllm": True})["use_vllm"] is True
    with pytest.raises(ConfigError, match="temperature"):
        arguments_of({}, extra={"temperature": 0.5})


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"top_p": 0.9}, "top_p"),
        ({"top_k": 5}, "top_k"),
        ({"min_p": 0.1}, "min_p"),
        ({"repetition_penalty": 1.1}, "repetition_penalty"),
        ({"generation_kwargs": {"frequency_penalty": 1.0}}, "generation_kwargs"),
        ({"vllm_structured_outputs_regex": "[0-9]"}, "vllm_structured_outputs_regex"),
        ({"use_vllm": True, "vllm_tensor_parallel_size": 2}, "vllm_tensor_parallel_size"),
    ],
)
def test_another_distribution_than_the_policys_is_refused(
    changes: dict[str, Any], named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("saei.integrations.trl.arguments.check_installed", lambda: None)
    plain = trl.GRPOConfig(output_dir="unused", use_cpu=True, bf16=False, report_to="none")
    check_arguments(plain)
    for name, value in changes.items():
        setattr(plain, name, value)
    with pytest.raises(ConfigError) as refused:
        check_arguments(plain)
    assert named in refused.value.reason


def test_vllm_gets_arguments_only_while_the_trainer_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    from trl.generation import vllm_generation

    from saei.integrations.trl.trainer import _engine_arguments

    monkeypatch.setattr(vllm_generation, "LLM", dict, raising=False)
    with _engine_arguments(dtype="float32"):
        assert vllm_generation.LLM(model="m") == {"model": "m", "dtype": "float32"}
    assert vllm_generation.LLM is dict


def test_without_vllm_its_absence_is_said_before_the_model_is_loaded(
    make_run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from saei.integrations.trl.run import TRLRun

    monkeypatch.setattr("saei.integrations.vllm.engine.find_spec", lambda name: None)
    monkeypatch.setattr("saei.engine.setup.load_parts", lambda config: pytest.fail("loaded a model"))
    with pytest.raises(ConfigError, match="use_vllm needs vLLM"):
        TRLRun(RunConfig.model_validate(SMALL), {"use_vllm": True})


# Groups.


def response(logp: list[float]) -> Response:
    values_T = torch.tensor(logp)
    return Response(torch.zeros(len(logp), dtype=torch.long), "", values_T, values_T, truncated=False)


def test_the_gap_between_views_is_no_mismatch_of_samplers() -> None:
    from saei.integrations.trl.trainer import sampling_logps

    example = Example("0", "", "")
    clean, moved = (View(example, origin, torch.zeros(0), torch.zeros(1, 0)) for origin in ("clean", "adversarial"))
    drawn = (response([-1.0, -2.0]), response([-3.0]))
    on_clean = Group(example, (clean, moved), drawn, sampled_from=(0, 1), updated_on=(0, 0))
    as_drawn = Group(example, (clean, moved), drawn, sampled_from=(0, 1), updated_on=(0, 1))
    assert sampling_logps(on_clean) == [[-1.0, -2.0], [None]]
    assert sampling_logps(as_drawn) == [[-1.0, -2.0], [-3.0]]


def test_a_process_that_gets_part_of_a_group_says_so() -> None:
    from saei.integrations.trl.rows import one_per_group

    assert one_per_group(["a", "a", "b", "b"], 2) == ["a", "b"]
    for parts in (["a", "b", "b", "b"], ["a", "a", "b"]):
        with pytest.raises(ConfigError, match="whole groups"):
            one_per_group(parts, 2)


# Steps.


@pytest.fixture
def make_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    from saei.integrations.trl.run import TRLRun

    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")

    def make(**changes: Any) -> Any:
        output = {"root": str(tmp_path), "name": "run"}
        return TRLRun(RunConfig.model_validate({**SMALL, "output": output, **changes}), PLAIN_TRL)

    return make


def drawn_by(trainer: Any) -> list[Group]:
    """Return the list into which the trainer's groups go."""
    groups: list[Group] = []
    draw = trainer._sampler.draw

    def kept(views: Any, ctx: Any, supply: Any) -> list[Group]:
        assert ctx.policy.distribution.banned_V is not None
        ctx.policy.distribution.banned_V[:] = False  # TRL's log-probabilities are over all ids
        groups.extend(draw(views, ctx, supply))
        return groups

    trainer._sampler.draw = kept
    return groups


def score(trainer: Any, batch: dict[str, Any], **images: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Return log-probabilities and entropies as TRL's update computes them."""
    ids, mask = (torch.cat([batch[f"prompt_{name}"], batch[f"completion_{name}"]], dim=1) for name in ("ids", "mask"))
    seen = {name: batch[name] for name in ("pixel_values", "image_grid_thw", "num_images", "mm_token_type_ids")}
    with torch.no_grad():
        logps, entropies, _ = trainer._get_per_token_logps_and_entropies(
            trainer.model, ids, mask, batch["completion_ids"].size(1), compute_entropy=True, **seen | images
        )
    return logps, entropies


def generated(trainer: Any) -> dict[str, Any]:
    rows = [trainer.train_dataset[index] for index in (1, 0) for _ in range(4)]
    trainer.model.train()
    return trainer._generate_and_score_completions(rows)


def test_what_trl_logs_has_the_names_of_the_own_engine() -> None:
    logs = {"loss": 0.5, "reward": 1, "learning_rate": 1e-6, "completions/mean_length": 7.0, "saei/accuracy": 0.25}
    logs |= {"saei/j_gain": 0.1, "eval_reward": 9.0, "epoch": 1.0, "step_time": 3.0, "entropy": None}
    assert observed(logs) == {
        "train/loss": 0.5,
        "train/reward": 1.0,
        "train/lr": 1e-6,
        "train/length": 7.0,
        "train/accuracy": 0.25,
        "train/intervention/j_gain": 0.1,
    }


def test_a_run_that_sifts_lists_what_it_leaves_out(
    make_run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("saei.engine.setup.CACHE", tmp_path / "sifted")
    data = tmp_path / "data"
    data.mkdir()
    rows = ["image,question,answer"]
    for number in range(12):
        Image.new("RGB", (64, 64), (10 * number, 0, 0)).save(data / f"{number}.png")
        rows.append(f"{number}.png,How many?,3")
    (data / "7.png").write_bytes(b"no picture")
    (data / "train.csv").write_text("\n".join(rows))
    (data / "test.csv").write_text("\n".join(rows[:4]))
    task = {"type": "dataset", "path": str(data)}
    run = make_run(task=task, training={**SMALL["training"], "sift": True})
    (line,) = [json.loads(line) for line in (run.run.path / "dropped.jsonl").read_text().splitlines()]
    assert (line["split"], line["index"]) == ("train", 7)
    assert any(note.startswith("1 of 12 train examples are left out") for note in run._notes)
    assert not any("train example 7" in note for note in run._notes)  # it is in the list


def test_trls_data_loader_hands_on_the_numbers(make_run: Any) -> None:
    trainer = make_run().trainer
    rows = next(iter(trainer.get_train_dataloader()))
    assert [row[PLACE] for row in rows[::4]] != [0, 1]  # TRL shuffles
    for number, row in enumerate(rows):
        assert row[PLACE] == rows[number - number % 4][PLACE]  # a whole group
        assert row["prompt"] == trainer.train_dataset.rows[row[PLACE]]["prompt"]


class Remembering(Reward):
    """Keeps what it is asked to grade."""

    class Config(StrategyConfig):
        type: Literal["remembering"] = "remembering"

    attempts: ClassVar[list[tuple[str, str]]] = []

    def grade(self, example: Example, text: str, *, truncated: bool = False) -> Grade:
        self.attempts.append((example.question, example.answer))
        return Grade(float(len(text)), False)


@pytest.mark.parametrize("update_on", ["perturbed", "clean"])
def test_swapped_questions_are_trained_and_graded_as_the_update_view_has_them(
    make_run: Any, monkeypatch: pytest.MonkeyPatch, update_on: str
) -> None:
    monkeypatch.setattr(
        Bars, "answer", lambda self, example, question: example.answer if question == example.question else "77"
    )
    monkeypatch.setattr(Remembering, "attempts", [])
    with registered(Remembering):
        trainer = make_run(sampler=moving_text(update_on, "random-swap"), reward="remembering").trainer
        groups = drawn_by(trainer)
        batch = generated(trainer)
    views = [group.views[number] for group in groups for number in group.updated_on]
    assert {len(group.views) for group in groups} == {2}
    for view, ids, mask in zip(views, batch["prompt_ids"], batch["prompt_mask"], strict=True):
        assert ids[mask.bool()].tolist() == view.prompt_ids_P.tolist()
    questions = [(view.example.question, view.example.answer) for view in views]
    assert Remembering.attempts == questions
    golds = {answer for _, answer in questions}
    assert golds == {"77"} if update_on == "perturbed" else "77" not in golds
    assert all(group.views[1].example.question != group.example.question for group in groups)


def test_responses_to_an_offset_are_trained_under_the_clean_view(make_run: Any) -> None:
    trainer = make_run(sampler=moving_text("clean")).trainer
    groups = drawn_by(trainer)
    batch = generated(trainer)
    logps, _ = score(trainer, batch)
    row = 0
    for group in groups:
        assert [view.offset_Qd is None for view in group.views] == [True, False]
        for response, drawn in zip(group.responses, group.sampled_from, strict=True):
            deviation = float((logps[row, : len(response)] - response.behaviour_logp_T).abs().max())
            assert (deviation > 1e-3) == (drawn == 1)
            row += 1


@pytest.mark.slow
def test_model_settings_and_fresh_adapters_are_those_of_the_configuration(make_run: Any, tmp_path: Path) -> None:
    model = {**SMALL["model"], "lora": {"rank": 2}, "shared_prefix": False, "min_pixels": 256, "max_pixels": 1024}
    drawn = []
    for name in ("one", "two"):
        torch.manual_seed(len(drawn))  # what the process drew before
        trainer = make_run(model=model, output={"root": str(tmp_path), "name": name}).trainer
        drawn.append({key: value for key, value in trainer.model.named_parameters() if "lora_A" in key})
    for key, value in drawn[0].items():
        assert torch.equal(value, drawn[1][key])
    assert drawn[0]
    policy = trainer._policy()
    assert policy.shared_prefix is False
    assert policy.processor.image_processor.size.longest_edge == 1024


@pytest.mark.slow
@pytest.mark.parametrize("update_on", ["sampled", "clean"])
def test_trl_scores_each_response_under_its_update_view(make_run: Any, update_on: str) -> None:
    trainer = make_run(sampler={**SMALL["sampler"], "update_on": update_on}).trainer
    groups = drawn_by(trainer)
    batch = generated(trainer)
    assert [view.index for group in groups for view in group.views] == [1, 1, 0, 0]  # the rows' numbers
    logps, _ = score(trainer, batch)
    assert [len(group.views) for group in groups] == [2, 2]
    row = 0
    for group in groups:
        for n, response in enumerate(group.responses):
            own = logps[row, : len(response)]
            assert batch["completion_ids"][row, : len(response)].tolist() == response.ids_T.tolist()
            deviation = float((own - response.behaviour_logp_T).abs().max())
            if group.sampled_from[n] == group.updated_on[n]:
                assert deviation < 1e-4, (row, deviation)
            else:
                assert deviation > 1e-3, (row, deviation)  # the gap between the views
            row += 1


@pytest.mark.slow
def test_the_criterion_rises_through_trl(make_run: Any) -> None:
    """Entropies by TRL's own update pass, tokens chosen and averaged by a loop."""
    trainer = make_run().trainer
    groups = drawn_by(trainer)
    batch = generated(trainer)
    images = batch["pixel_values"]
    patches = len(images) // 8
    _, under_clean = score(trainer, batch)
    moved = images.clone()
    for start in (0, 4):  # the clean rows of each group look at its adversarial picture
        for row in (start, start + 1):
            source = (start + 2) * patches
            moved[row * patches : (row + 1) * patches] = images[source : source + patches]
    _, under_adversarial = score(trainer, batch, pixel_values=moved)
    for start, group in zip((0, 4), groups, strict=True):
        means: dict[str, list[float]] = {"clean": [], "adversarial": []}
        for n in (0, 1):
            entropies = group.responses[n].entropy_T.tolist()
            order = sorted(range(len(entropies)), key=lambda t: (entropies[t], t))
            third = len(order) // 3
            chosen = order[third : len(order) - third]
            for name, found in (("clean", under_clean), ("adversarial", under_adversarial)):
                means[name].append(sum(float(found[start + n, t]) for t in chosen) / len(chosen))
        assert sum(means["adversarial"]) > 1.02 * sum(means["clean"]), means


@pytest.mark.slow
def test_three_steps_train_and_leave_a_record(make_run: Any) -> None:
    run = make_run(optimizer={"lr": 1e-3})
    before = {name: value.clone() for name, value in run.trainer.model.named_parameters()}
    folder = run.train()
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "reward" in line] == [1, 2, 3]
    assert [line["saei/largest_change"] for line in lines if "reward" in line] == pytest.approx([2, 2, 2], abs=1e-3)
    learnt = any(line["frac_reward_zero_std"] < 1 for line in lines if "reward" in line)
    changed = any(not torch.equal(before[name], value) for name, value in run.trainer.model.named_parameters())
    assert changed == learnt
    assert (folder / "checkpoints" / "checkpoint-3" / "model.safetensors").is_file()

    # The first step and the last one, each with both groups, whose rewards are those that TRL averaged.
    groups, problems = RunDir(folder).samples()
    assert not problems
    assert [(group.step, group.number) for group in groups] == [(1, 0), (1, 1), (3, 0), (3, 1)]
    logged = {line["step"]: line["reward"] for line in lines if "reward" in line}
    for step in (1, 3):
        responses = [response for group in groups if group.step == step for response in group.responses]
        assert sum(each.reward for each in responses) / len(responses) == pytest.approx(logged[step])
    for group in groups:
        assert [view.origin for view in group.views] == ["clean", "adversarial"]
        assert [tokens.response for tokens in group.views[1].tokens] == [0, 1]
        assert group.views[1].gradients
    page = write_page([folder]).read_text()
    assert "Training group 2 of step 3" in page
    assert "Reward in training" in page
    assert "What the attack raised" in page


@pytest.mark.slow
def test_two_processes_train_whole_groups_each(tmp_path: Path) -> None:
    command = f"""
        {sys.executable} -m torch.distributed.run --standalone --nproc_per_node 2 -m saei.cli train --engine trl
        --steps 1 --name two --output {tmp_path} --set model.device=cpu --set training.prompts_per_step=2
        --set sampler.n_clean=1 --set sampler.n_adversarial=1 --set sampling.max_new_tokens=4
        --trl disable_tqdm=true --trl ddp_backend=gloo
    """
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        shlex.split(command), capture_output=True, text=True, check=False, env=environment, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    line = json.loads((tmp_path / "two" / "metrics.jsonl").read_text().splitlines()[0])
    assert line["saei/untouched"] == 0


# The documentation.


def launches() -> list[list[str]]:
    blocks = DOCS.read_text().split("```bash\n")[1:]
    commands = [block.split("```")[0].replace("\\\n", " ") for block in blocks]
    lines = [line for command in commands for line in command.splitlines()]
    return [shlex.split(line, comments=True) for line in lines if "--engine trl" in line]


@pytest.mark.parametrize("words", launches(), ids=lambda words: str(len(words)))
def test_launch_recipes_parse(words: list[str]) -> None:
    """By accelerate's parser, then by ours, down to the arguments of TRL."""
    import typer
    import yaml
    from accelerate.commands.launch import launch_command_parser

    from saei.cli import app
    from saei.config.overrides import load_config, nested

    processes = 1
    if words[0] == "accelerate":
        launched = launch_command_parser().parse_args(words[2:])
        assert launched.module
        assert launched.training_script == "saei.cli"
        processes, words = launched.num_processes, ["saei", *launched.training_script_args]
    assert words[:2] == ["saei", "train"]
    command = typer.main.get_command(app).commands["train"]  # type: ignore[attr-defined]
    options = command.make_context("train", words[2:]).params
    assert options["engine"] == "trl"
    flags = [nested("model.path", options["model"])] if options["model"] else []
    extra = {name: yaml.safe_load(value) for name, _, value in (one.partition("=") for one in options["trl"] or ())}
    config = load_config(flags=flags, assignments=options["set_"] or [], plugins=[])
    found = grpo_arguments(config, folder=Path("out"), processes=processes, extra=extra)
    assert found.keys() <= trl.GRPOConfig.__dataclass_fields__.keys()
    assert processes == 1 or options["name"]


def test_there_are_recipes_for_one_node_and_for_several() -> None:
    machines = {words[words.index("--num_machines") + 1] for words in launches() if "--num_machines" in words}
    assert "1" in machines
    assert machines - {"1"}
    assert Mixed().group_size == 12  # the number that the page names
