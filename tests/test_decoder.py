"""Responses of a decoder elsewhere: what it is asked, and what its log-probabilities and prompts are held against."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest
import torch
from PIL import Image

from saei.config import registry
from saei.config.run import RunConfig
from saei.config.sections import SamplingConfig, TrainingConfig
from saei.config.strategy import StrategyConfig
from saei.engine import Trainer
from saei.errors import ConfigError, ModelError, TrainingError
from saei.integrations.trl.decoders import Colocated, Served, computing_dtype
from saei.integrations.vllm.engine import VLLM, check_installed, dtype_name, sampling_parameters
from saei.policy import Policy, Scores
from saei.policy.decoder import Completion, Decoder, DrawRequest, check_gap, check_prompt, decoder_gap
from saei.policy.module import Distribution
from saei.policy.native import Native
from saei.testing import check_decoder, registered
from saei.types import Example, Response, View

IMAGE_TOKENS = 16
EMPTY = Scores(torch.zeros(0, 0), None, torch.zeros(0, 0, dtype=torch.bool))


@pytest.fixture
def views(random_policy: Policy) -> list[View]:
    pictures = [Image.new("RGB", (64, 64), (shade, 0, 0)) for shade in (0, 200)]
    return [random_policy.view(Example(str(n), "How many?", "3", (own,))) for n, own in enumerate(pictures)]


def response(logps: Sequence[float | None]) -> Response:
    logp_T = torch.tensor([torch.nan if logp is None else logp for logp in logps])
    return Response(torch.zeros(len(logps), dtype=torch.long), "", logp_T, torch.zeros_like(logp_T), truncated=False)


def scores(logps: Sequence[Sequence[float]]) -> Scores:
    return Scores(torch.tensor(logps), None, torch.ones(len(logps), len(logps[0]), dtype=torch.bool))


def sources(count: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(number) for number in range(count)]


def request(policy: Policy, views: list[View], counts: list[int]) -> DrawRequest:
    return DrawRequest(views, counts, policy.sampling, policy.distribution, sources(len(views)))


def values(completion: Completion) -> tuple[list[int], list[float]]:
    return list(completion.ids), completion.logp_T.tolist()


# The distribution.


def test_vllm_draws_from_the_distribution_that_is_trained(random_policy: Policy) -> None:
    sampling = SamplingConfig(temperature=0.7, max_new_tokens=9)
    distribution = random_policy.distribution_of(sampling)
    parameters = sampling_parameters(distribution, random_policy.eos_ids, sampling)
    assert (parameters["temperature"], parameters["max_tokens"]) == (0.7, 9)
    assert (parameters["top_p"], parameters["top_k"]) == (1.0, 0)
    assert parameters["stop_token_ids"] == random_policy.eos_ids.tolist()
    assert distribution.banned_V is not None
    allowed = set(parameters["allowed_token_ids"])
    assert allowed == {number for number, banned in enumerate(distribution.banned_V.tolist()) if not banned}
    assert random_policy.model.config.image_token_id not in allowed
    assert set(random_policy.eos_ids.tolist()) <= allowed


def test_evaluation_cuts_off_what_it_says(random_policy: Policy) -> None:
    sampling = SamplingConfig(temperature=0.0, max_new_tokens=9, top_p=0.9, top_k=5)
    parameters = sampling_parameters(Distribution(1.0, None, None), random_policy.eos_ids, sampling)
    assert (parameters["temperature"], parameters["top_p"], parameters["top_k"]) == (0.0, 0.9, 5)
    assert "allowed_token_ids" not in parameters  # an empty list would allow nothing


@pytest.mark.parametrize(
    ("precision", "expected"),
    [({}, "float32"), ({"bf16": True}, "bfloat16"), ({"fp16": True}, "float16")],
)
def test_vllm_computes_in_the_trainers_type(random_policy: Policy, precision: dict[str, bool], expected: str) -> None:
    args = SimpleNamespace(**{"bf16": False, "fp16": False, **precision})
    assert dtype_name(computing_dtype(args, random_policy.parts)) == expected


# Requests.


class FakeLLM:
    """Answers every request with its prompt expanded and one token a response."""

    def __init__(self, policy: Policy) -> None:
        self.calls: list[Any] = []
        self._image = policy.model.config.image_token_id
        self._answer = int(policy.eos_ids[0])
        self.llm_engine = SimpleNamespace(reset_encoder_cache=lambda: self.calls.append("encoder"))

    def reset_prefix_cache(self) -> None:
        self.calls.append("prefix")

    def reset_mm_cache(self) -> None:
        self.calls.append("mm")

    def wake_up(self, tags: list[str]) -> None:
        self.calls.append(("wake", *tags))

    def sleep(self, level: int) -> None:
        self.calls.append(("sleep", level))

    def generate(self, prompts: Any, sampling_params: Any, use_tqdm: bool) -> Any:
        self.calls.append((prompts, sampling_params))
        chance = {self._answer: SimpleNamespace(logprob=-0.5)}
        return [
            SimpleNamespace(
                prompt_token_ids=self._expanded(prompt["prompt_token_ids"]),
                outputs=[SimpleNamespace(token_ids=(self._answer,), logprobs=[chance])] * parameters.n,
            )
            for prompt, parameters in zip(prompts, sampling_params, strict=True)
        ]

    def _expanded(self, ids: Sequence[int]) -> list[int]:
        return [one for number in ids for one in [number] * (IMAGE_TOKENS if number == self._image else 1)]


@pytest.fixture
def llm(random_policy: Policy, monkeypatch: pytest.MonkeyPatch) -> FakeLLM:
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(SamplingParams=SimpleNamespace))  # type: ignore[arg-type]
    return FakeLLM(random_policy)


def test_each_view_is_a_request_with_its_own_seed(random_policy: Policy, views: list[View], llm: FakeLLM) -> None:
    order = request(random_policy, [*views, views[0]], [2, 0, 1])
    seeds = replace(order, generators=sources(3)).seeds()
    drawn = VLLM(llm).draw(random_policy, order)
    assert [len(own) for own in drawn] == [2, 0, 1]
    assert values(drawn[0][0]) == ([int(random_policy.eos_ids[0])], [-0.5])
    ((prompts, parameters),) = llm.calls
    assert [(one.n, one.seed) for one in parameters] == [(2, seeds[0]), (1, seeds[2])]
    image = random_policy.model.config.image_token_id
    for prompt in prompts:
        assert prompt["prompt_token_ids"].count(image) == 1
        (picture,) = prompt["multi_modal_data"]["image"]
        assert picture.size == (64, 64)
    assert views[0].prompt_ids_P.tolist().count(image) == IMAGE_TOKENS


def test_a_text_has_no_pictures(random_policy: Policy, llm: FakeLLM) -> None:
    view = random_policy.view(Example("0", "How many?", "3"))
    VLLM(llm).draw(random_policy, request(random_policy, [view], [1]))
    ((prompts, _),) = llm.calls
    assert prompts == [{"prompt_token_ids": view.prompt_ids_P.tolist()}]


def test_a_prompt_that_is_read_differently_is_refused(
    random_policy: Policy, views: list[View], llm: FakeLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Placeholders that are expanded already are expanded again."""
    monkeypatch.setattr(random_policy, "unexpanded_prompt", lambda view: view.prompt_ids_P.tolist())
    with pytest.raises(ModelError, match="read a prompt alike") as refused:
        VLLM(llm).draw(random_policy, request(random_policy, views, [1, 1]))
    length = len(views[0].prompt_ids_P)
    longer = length + IMAGE_TOKENS * (IMAGE_TOKENS - 1)
    assert f"'0' the decoder made {longer} tokens, the policy {length}" in refused.value.reason


def test_the_first_token_that_differs_is_named(views: list[View]) -> None:
    ids = views[0].prompt_ids_P.tolist()
    check_prompt(views[0], ids)
    with pytest.raises(ModelError, match=r"differ from token 3 on"):
        check_prompt(views[0], [*ids[:3], ids[3] + 1, *ids[4:]])
    with pytest.raises(ModelError, match=rf"differ from token {len(ids) - 1} on"):
        check_prompt(views[0], ids[:-1])


def test_a_missing_vllm_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saei.integrations.vllm.engine.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="use_vllm needs vLLM"):
        check_installed()


# What TRL holds.


def generation(llm: FakeLLM, **fields: Any) -> Any:
    calls = llm.calls
    fields = {"enable_sleep_mode": False, "_llm_weights_sleeping": False, **fields}
    return SimpleNamespace(llm=llm, sync_weights=lambda: calls.append("weights"), **fields)


def test_all_caches_are_dropped_after_an_update(random_policy: Policy, llm: FakeLLM) -> None:
    Colocated(generation(llm)).sync(random_policy)
    assert sorted(llm.calls) == ["encoder", "mm", "prefix"]


def test_vllm_sleeps_while_it_does_not_draw(random_policy: Policy, views: list[View], llm: FakeLLM) -> None:
    held = generation(llm, enable_sleep_mode=True, _llm_weights_sleeping=True)
    Colocated(held).draw(random_policy, request(random_policy, views[:1], [1]))
    weights, wake, _, sleep = llm.calls
    assert (weights, wake, sleep) == ("weights", ("wake", "kv_cache"), ("sleep", 2))
    assert held._llm_weights_sleeping


def test_a_server_gets_expanded_prompts_and_the_policys_bans(random_policy: Policy, views: list[View]) -> None:
    asked: dict[str, Any] = {}

    def generate(**arguments: Any) -> Any:
        asked.update(arguments)
        rows = len(arguments["prompts"])
        return arguments["prompts"], [[5, 6]] * rows, [[[-1.0], [-2.0]]] * rows, None

    held = SimpleNamespace(generate=generate, generation_kwargs={})
    drawn = Served(held).draw(random_policy, request(random_policy, views, [2, 1]))
    assert [[values(one) for one in own] for own in drawn] == [[([5, 6], [-1.0, -2.0])] * 2, [([5, 6], [-1.0, -2.0])]]
    assert asked["prompts"] == [views[number].prompt_ids_P.tolist() for number in (0, 0, 1)]
    assert asked["num_generations"] == 1
    expected = sampling_parameters(random_policy.distribution, random_policy.eos_ids, random_policy.sampling)
    assert held.generation_kwargs == {name: expected[name] for name in ("allowed_token_ids", "stop_token_ids")}


def test_a_server_refuses_another_temperature(random_policy: Policy, views: list[View]) -> None:
    asked = request(random_policy, views[:1], [1])
    hot = replace(asked, distribution=replace(asked.distribution, temperature=1.5))
    with pytest.raises(ConfigError, match=r"draws at 1\.5"):
        Served(SimpleNamespace()).draw(random_policy, hot)


# The gap.


def test_the_gap_is_the_median_over_all_tokens_that_have_a_log_probability() -> None:
    responses = [[response([-1.0, None, -3.0]), response([-1.0])], [response([-0.25])]]
    scored = [scores([[-1.1, -9.0, -3.3], [-1.02, 0.0, 0.0]]), scores([[-1.25]])]
    gap = decoder_gap(responses, scored)
    assert gap is not None
    assert gap.median == pytest.approx(0.1, abs=1e-6)  # of 0.02, 0.1, 0.3 and 1: the lower middle
    assert gap.largest == pytest.approx(1.0)
    assert gap.tokens == 4
    assert decoder_gap([[response([None])], []], [scores([[-1.0]]), EMPTY]) is None


def test_above_the_limit_the_run_stops_and_causes_are_named() -> None:
    gap = decoder_gap([[response([-1.0])]], [scores([[-1.25]])])
    assert gap is not None
    check_gap(gap, 0.25)
    with pytest.raises(TrainingError, match=r"training\.max_decoder_gap is 0\.2") as stopped:
        check_gap(gap, 0.2)
    for cause in ("weights", "pictures", "processor", "type", "processed_logprobs"):
        assert cause in stopped.value.remedy


def test_the_default_limit_lies_between_half_precision_and_the_faults_that_were_seen() -> None:
    assert 0.003 * 10 < TrainingConfig().max_decoder_gap < 0.31 / 5


# The prefix.


class Ours(Decoder):
    """The policy's own decoder, held to be elsewhere; ``shift`` is added to its log-probabilities."""

    def __init__(self, shift: float = 0.0) -> None:
        self.shift = shift
        self.seeds: list[list[int]] = []
        self.synced = 0

    def draw(self, policy: Policy, request: DrawRequest) -> list[list[Completion]]:
        seeds = request.seeds()
        self.seeds.append(seeds)
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        drawn = Native().draw(policy, replace(request, generators=generators))
        return [[Completion(one.ids, one.logp_T + self.shift) for one in own] for own in drawn]

    def sync(self, policy: Policy) -> None:
        self.synced += 1


def test_responses_of_a_decoder_are_those_of_the_policy(random_policy: Policy, views: list[View]) -> None:
    gaps: list[Any] = []
    decoder = Ours(0.5)
    random_policy.decoder = decoder
    random_policy.on_decoded = lambda *drawn: gaps.append(decoder_gap(*drawn))
    decoded = random_policy.sample(views, [2, 1], generators=sources(2))
    (gap,) = gaps
    assert gap.median == pytest.approx(0.5, abs=1e-4)
    random_policy.decoder = Native()
    seeded = [torch.Generator().manual_seed(seed) for seed in decoder.seeds[0]]
    expected = random_policy.sample(views, [2, 1], generators=seeded)
    assert [len(drawn) for drawn in decoded] == [2, 1]
    for ours, theirs in zip([*decoded[0], *decoded[1]], [*expected[0], *expected[1]], strict=True):
        assert ours.ids_T.tolist() == theirs.ids_T.tolist()
        assert (ours.text, ours.truncated) == (theirs.text, theirs.truncated)
        assert torch.equal(ours.behaviour_logp_T, theirs.behaviour_logp_T + 0.5)
        assert torch.allclose(ours.entropy_T, theirs.entropy_T, atol=1e-4)
    assert len(gaps) == 1  # what our own decoder draws is compared with nothing


def test_log_probabilities_that_a_decoder_lacks_are_the_policys(random_policy: Policy, views: list[View]) -> None:
    gaps: list[Any] = []
    random_policy.decoder = decoder = Ours(float("nan"))
    random_policy.on_decoded = lambda *drawn: gaps.append(decoder_gap(*drawn))
    (drawn, _) = random_policy.sample(views, [2, 0], generators=sources(2))
    assert gaps == [None]
    (scored,) = random_policy.score(views[:1], [drawn])
    for n, one in enumerate(drawn):
        assert torch.equal(one.behaviour_logp_T, scored.logp_NT[n, : len(one)])
    evaluation = random_policy.sampling.model_copy(update={"temperature": 2.0})
    (hot, _) = random_policy.sample(views, [1, 0], generators=sources(2), sampling=evaluation)
    assert gaps == [None]  # in evaluation nothing is compared
    seeded = [torch.Generator().manual_seed(seed) for seed in decoder.seeds[-1]]
    random_policy.decoder = Native()
    (expected, _) = random_policy.sample(views, [1, 0], generators=seeded, sampling=evaluation)
    assert hot[0].ids_T.tolist() == expected[0].ids_T.tolist()
    torch.testing.assert_close(hot[0].behaviour_logp_T, expected[0].behaviour_logp_T, atol=1e-4, rtol=0)
    torch.testing.assert_close(hot[0].entropy_T, expected[0].entropy_T, atol=1e-4, rtol=0)


def test_a_decoder_forgets_before_the_first_draw_after_an_update(random_policy: Policy, views: list[View]) -> None:
    decoder = random_policy.decoder = Ours()
    synced = []
    for changed in (False, True, False, True):
        if changed:
            random_policy.weights_changed()
            random_policy.weights_changed()
        for _ in range(2):
            random_policy.sample(views, [1, 1], generators=sources(2))
        synced.append(decoder.synced)
    assert synced == [1, 2, 2, 3]  # its weights may not be those that the policy was loaded with


def test_seeds_follow_the_generators(random_policy: Policy, views: list[View]) -> None:
    decoder = random_policy.decoder = Ours()
    for seeds in ((1, 2), (1, 2), (3, 1)):
        random_policy.sample(views, [1, 1], generators=[torch.Generator().manual_seed(seed) for seed in seeds])
    first, again, other = decoder.seeds
    assert first == again
    assert len({*first, *other}) == 3
    assert other[1] == first[0]  # a view's own source gives its seed, whatever it is drawn with


def test_a_decoder_that_continues_nothing_refuses_prefixes(random_policy: Policy, views: list[View]) -> None:
    (drawn, _) = random_policy.sample(views, [1, 0], generators=sources(2))
    random_policy.decoder = Ours()
    with pytest.raises(ConfigError, match="continued by a decoder that can") as refused:
        random_policy.sample(views, [1, 0], generators=sources(2), prefixes=[[drawn[0].prefix(1)], []])
    assert "Ours" in refused.value.reason


class Short(Ours):
    """Breaks one rule after another."""

    def __init__(self, fault: str) -> None:
        super().__init__(0.1 if fault == "logp" else 0.0)
        self.fault = fault

    def draw(self, policy: Policy, request: DrawRequest) -> list[list[Completion]]:
        if self.fault == "seed":
            request = replace(request, generators=sources(len(request.views)))
        drawn = super().draw(policy, request)
        whole = drawn[0][0]
        if self.fault == "count":
            drawn[0].pop()
        if self.fault == "cut":
            drawn[0][0] = Completion(list(whole.ids)[:-1], whole.logp_T[:-1])
        if self.fault == "behind":
            drawn[0][0] = Completion([int(policy.eos_ids[0]), *whole.ids][: len(whole.ids)], whole.logp_T)
        if self.fault == "banned":
            drawn[0][0] = Completion([policy.model.config.image_token_id, *whole.ids[1:]], whole.logp_T)
        if self.fault == "logps":
            drawn[0][0] = Completion(whole.ids, whole.logp_T[1:])
        return drawn


@pytest.fixture
def three(random_policy: Policy, views: list[View]) -> list[View]:
    return [*views, random_policy.view(Example("t", "What is 1 + 2?", "3"))]


@pytest.mark.parametrize("config", registered("decoder"), ids=lambda config: config.type)
def test_every_decoder_keeps_the_contract(config: Any, random_policy: Policy, three: list[View]) -> None:
    check_decoder(config, random_policy, three)


@pytest.mark.parametrize(
    ("fault", "rule"),
    [
        ("count", "as many as are asked"),
        ("cut", "only an end or the limit ends"),
        ("behind", "nothing follows"),
        ("banned", "banned ids"),
        ("logps", "one log-probability"),
        ("logp", "are the policy's own, or NaN"),
        ("seed", "other sources of randomness"),
    ],
)
def test_a_broken_decoder_is_caught(fault: str, rule: str, random_policy: Policy, three: list[View]) -> None:
    class Faulty(Decoder):
        class Config(StrategyConfig):
            type: Literal["test/faulty"] = "test/faulty"

        def draw(self, policy: Policy, request: DrawRequest) -> list[list[Completion]]:
            return Short(fault).draw(policy, request)

    with pytest.raises(AssertionError, match=rule):
        check_decoder(Faulty.Config(), random_policy, three)


def test_a_run_draws_by_the_decoder_that_it_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told of every update, and what it says is compared."""
    synced: list[int] = []

    class Elsewhere(Decoder):
        class Config(StrategyConfig):
            type: Literal["test/elsewhere"] = "test/elsewhere"
            shift: float = 0.0

        def draw(self, policy: Policy, request: DrawRequest) -> list[list[Completion]]:
            drawn = Native().draw(policy, request)
            return [[Completion(one.ids, one.logp_T + self.config.shift) for one in own] for own in drawn]

        def sync(self, policy: Policy) -> None:
            synced.append(1)

    monkeypatch.setattr(registry, "_registered", {**registry._registered, ("decoder", "test/elsewhere"): Elsewhere})
    settings: dict[str, Any] = {
        "model": {"device": "cpu"},
        "sampler": {"type": "clean", "n": 2},
        "sampling": {"max_new_tokens": 6},
        "training": {"steps": 3, "prompts_per_step": 2},
        "evaluation": {"every": 9, "examples": 1, "responses": 1, "probe_examples": 1, "probe_responses": 2},
        "output": {"root": str(tmp_path)},
    }
    trainer = Trainer(RunConfig.model_validate(settings | {"decoder": "test/elsewhere"}))
    found = [trainer.train_step() for _ in range(2)]
    assert all(0 <= one["train/decoder_gap"] < one["train/decoder_gap_max"] < 1e-4 for one in found)
    assert synced == [1, 1]  # before the first draw of each step
    shifted = settings | {"decoder": {"type": "test/elsewhere", "shift": 0.1}, "output": {"root": str(tmp_path / "b")}}
    with pytest.raises(TrainingError, match="max_decoder_gap"):
        Trainer(RunConfig.model_validate(shifted)).train_step()
    plain = Trainer(RunConfig.model_validate(settings | {"output": {"root": str(tmp_path / "c")}}))
    assert "train/decoder_gap" not in plain.train_step()
