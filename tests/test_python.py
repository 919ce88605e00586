"""What a program does with a policy and a run: ask, score a text, attack, read."""

from __future__ import annotations

import builtins
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas
import pytest
import torch
from torch.distributions import Categorical

import saei
from models import tiny_folder
from runs import Checksum, Quiet, lines, registered, tiny, train
from saei.attacks.pgd import PGD
from saei.config.sections import SamplingConfig
from saei.data.bars import Bars
from saei.data.templates import Plain, ThinkBoxed
from saei.errors import CheckpointError, ConfigError, DataError
from saei.interventions import Intervention, InterventionConfig
from saei.interventions.context import StepContext
from saei.policy import Policy
from saei.policy.load.weights import Parts
from saei.runtime.run_dir import RunDir
from saei.runtime.seeds import GroupSources
from saei.types import Example

EXAMPLE = Bars().example(3)
IMAGE, QUESTION = EXAMPLE.images[0], EXAMPLE.question


def test_names_load_on_first_use() -> None:
    assert sorted(saei._HOMES) == sorted(saei.__all__)
    assert all(getattr(saei, name) is not None for name in saei.__all__)
    assert set(saei.__all__) <= set(dir(saei))
    script = "import sys, saei; saei.RunConfig; print(sorted({'torch', 'transformers', 'pandas'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    with pytest.raises(AttributeError, match="no attribute 'atack'"):
        saei.atack  # noqa: B018


def test_ask_is_a_draw_from_the_clean_view(random_policy: Policy, tmp_path: Path) -> None:
    asked = random_policy.ask(IMAGE, QUESTION, responses=3, seed=5)
    view = random_policy.view(EXAMPLE)
    (drawn,) = random_policy.sample([view], [3], generators=[torch.Generator().manual_seed(5)])
    assert [response.text for response in asked] == [response.text for response in drawn]
    assert len({response.text for response in asked}) == 3
    IMAGE.save(tmp_path / "chart.png")
    for picture in (
        tmp_path / "chart.png",
        str(tmp_path / "chart.png"),
        (tmp_path / "chart.png").read_bytes(),
        [IMAGE],
    ):
        assert [r.text for r in random_policy.ask(picture, QUESTION, responses=3, seed=5)] == [r.text for r in asked]
    assert random_policy.ask(IMAGE, QUESTION, seed=6)[0].text != asked[0].text


def test_ask_draws_as_it_is_told(random_policy: Policy) -> None:
    greedy = random_policy.ask(IMAGE, QUESTION, responses=2, temperature=0, seed=1)
    assert greedy[0].text == greedy[1].text == random_policy.ask(IMAGE, QUESTION, temperature=0, seed=2)[0].text
    assert all(len(response) <= 3 for response in random_policy.ask(IMAGE, QUESTION, responses=4, max_new_tokens=3))
    assert max(len(response) for response in random_policy.ask(IMAGE, QUESTION, responses=4)) == 12
    two = random_policy.ask([IMAGE, IMAGE], "Is <image> like <image>?")
    alone = random_policy.ask(None, "How are you?")
    assert len(two) == len(alone) == 1
    with pytest.raises(DataError, match="Picture 1 did not"):
        random_policy.ask(b"no picture", QUESTION)
    with pytest.raises(DataError, match="Picture 2"):
        random_policy.ask([IMAGE, "nowhere.png"], QUESTION)
    with pytest.raises(ValueError, match="overflows below"):
        random_policy.ask(IMAGE, QUESTION, temperature=1e-9)


def test_a_text_is_scored_by_the_models_own_logits(random_parts: Parts) -> None:
    """Against torch's Categorical over transformers' logits: at the temperature, special tokens left out."""
    policy = Policy(random_parts, ThinkBoxed(), sampling=SamplingConfig(temperature=0.7))
    text = r"<think>red is 5</think> \boxed{5}"
    score = policy.score_text(IMAGE, QUESTION, text)
    processor = policy.processor
    messages = ThinkBoxed().messages(Example("e", QUESTION, "", (IMAGE,)))
    prompt = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    prompt_ids = processor(text=[prompt], images=[IMAGE], return_tensors="pt")
    ids_T = policy.tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"][0]
    ids_T = torch.cat([ids_T, policy.eos_ids[:1]])
    whole = torch.cat([prompt_ids.pop("input_ids")[0], ids_T])[None]
    prompt_ids.pop("attention_mask")
    if "mm_token_type_ids" in prompt_ids:
        types = prompt_ids["mm_token_type_ids"]
        prompt_ids["mm_token_type_ids"] = torch.cat([types, types.new_zeros(1, len(ids_T))], 1)
    with torch.no_grad():
        logits_TV = random_parts.model(input_ids=whole, **prompt_ids).logits[0, -len(ids_T) - 1 : -1] / 0.7
    assert policy.distribution.banned_V is not None
    logits_TV[:, policy.distribution.banned_V] = -math.inf
    expected = Categorical(logits=logits_TV)
    torch.testing.assert_close(score.logp_T, expected.log_prob(ids_T), atol=1e-4, rtol=1e-4)
    entropy_T = -(expected.probs * expected.logits.clamp_min(-1e9)).sum(-1)
    torch.testing.assert_close(score.entropy_T, entropy_T, atol=1e-4, rtol=1e-4)
    assert score.logp == pytest.approx(float(expected.log_prob(ids_T).sum()), rel=1e-4)
    assert score.entropy == pytest.approx(float(entropy_T.mean()), rel=1e-4)
    assert (score.tokens[-1], len(score.tokens)) == ("<|im_end|>", len(ids_T))
    open_end = policy.score_text(IMAGE, QUESTION, text, end=False)
    torch.testing.assert_close(open_end.logp_T, score.logp_T[:-1])
    assert open_end.tokens == score.tokens[:-1]


def test_a_response_scores_what_it_was_drawn_with() -> None:
    policy = Policy.load("builtin")
    for response in policy.ask(IMAGE, QUESTION, responses=4, seed=3):
        score = policy.score_text(IMAGE, QUESTION, response.text)
        assert torch.equal(score.ids_T, response.ids_T)
        torch.testing.assert_close(score.logp_T, response.behaviour_logp_T, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(score.entropy_T, response.entropy_T, atol=1e-4, rtol=1e-4)


def test_texts_that_cannot_be_scored(random_policy: Policy) -> None:
    with pytest.raises(DataError, match=r"special token <\|im_start\|>"):
        random_policy.score_text(IMAGE, QUESTION, "7<|im_start|>")
    with pytest.raises(DataError, match="It is empty"):
        random_policy.score_text(IMAGE, QUESTION, "", end=False)
    assert len(random_policy.score_text(IMAGE, QUESTION, "").tokens) == 1


def test_a_policy_is_loaded_by_names() -> None:
    policy = Policy.load("builtin", "plain")
    assert isinstance(policy.template, Plain)
    assert isinstance(Policy.load("builtin").template, ThinkBoxed)
    with pytest.raises(ConfigError, match="'think-boxd' is not a registered template"):
        Policy.load("builtin", "think-boxd")


def test_an_attack_is_the_samplers(random_policy: Policy) -> None:
    """The same view as an intervention makes, and J after it by a scoring of our own."""
    result = saei.attack(
        random_policy, IMAGE, QUESTION, responses=4, seed=2, attack={"type": "pgd", "step": "8/255"}, selector="all"
    )
    slots = InterventionConfig(selector="all", attack=PGD.Config(step="8/255"))  # type: ignore[arg-type]
    view = random_policy.view(EXAMPLE)
    step = StepContext(random_policy, 0.0, GroupSources(2, "attack"))
    (drawn,) = step.sample([view], [4])
    (outcome,) = Intervention(slots).apply([view], [drawn], step)
    assert torch.equal(result.view.canvases[0], outcome.view.canvases[0])
    assert [response.text for response in result.responses] == [response.text for response in drawn]
    after, before = (
        sum(float(row[: len(response)].mean()) for row, response in zip(scores.entropies(), drawn, strict=True)) / 4
        for scores in random_policy.score([outcome.view, view], [drawn, drawn])
    )
    assert result.criterion_before == pytest.approx(before, rel=1e-4)
    assert result.criterion_after == pytest.approx(after, rel=1e-4)
    assert after > before
    assert result.distances["pixels"].largest == pytest.approx(8, abs=1e-3)
    (picture,) = result.images
    assert torch.equal(random_policy.view(Example("e", QUESTION, "", (picture,))).canvases[0], result.view.canvases[0])


@pytest.mark.parametrize(
    "slots",
    [
        {"criterion": "random-direction"},
        {"attack": "noise", "measure": "never"},
        {"attack": {"type": "best-of", "of": "noise"}, "selector": "random", "reselect": True},
    ],
)
def test_an_attack_is_measured_whatever_it_is(random_policy: Policy, slots: Any) -> None:
    result = saei.attack(random_policy, IMAGE, QUESTION, responses=4, **slots)
    view = random_policy.view(EXAMPLE)
    step = StepContext(random_policy, 0.0, GroupSources(0, "attack"))
    (drawn,) = step.sample([view], [4])
    intervention = Intervention(InterventionConfig.model_validate({**slots, "measure": "always"}))
    (outcome,) = intervention.apply([view], [drawn], step)
    assert result.criterion_before == outcome.metrics["criterion"]
    assert result.criterion_after == outcome.metrics["criterion_after"] != result.criterion_before


@pytest.mark.parametrize(
    ("slots", "error", "said"),
    [
        ({"attak": "pgd"}, ConfigError, "attak: There is no such field. Did you mean 'attack'"),
        ({"attack": "pgdd"}, ConfigError, "Did you mean 'pgd'"),
        ({"gate": "zero-variance"}, ConfigError, "no graded groups"),
    ],
)
def test_slots_that_there_are_not(random_policy: Policy, slots: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        saei.attack(random_policy, IMAGE, QUESTION, **slots)


def test_an_attack_needs_a_picture(random_policy: Policy) -> None:
    with pytest.raises(DataError, match="left alone: no-image"):
        saei.attack(random_policy, None, QUESTION)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    model = tiny_folder("Qwen2.5-VL", folder / "model")
    with registered(Checksum):
        return train(tiny(model, folder), Quiet()).run.path


def test_a_run_is_read_as_it_was_written(run: Path) -> None:
    tables = saei.read_run(run)
    assert list(tables.metrics.index) == [0, 1, 2, 3]
    for line in lines(run):
        row = tables.metrics.loc[line.pop("step")]
        assert {name: row[name] for name in line} == line
        assert all(
            math.isnan(value) for name, value in row.items() if name not in line and not name.startswith("time/")
        )
    assert {str(dtype) for dtype in tables.metrics.dtypes} == {"float64"}
    groups, _ = RunDir(run).samples()
    responses = [(group, response) for group in groups for response in group.responses]
    assert list(tables.samples["text"]) == [response.text for _, response in responses]
    assert list(tables.samples["origin"]) == [group.views[response.view].origin for group, response in responses]
    assert list(tables.samples["entropies"]) == [response.entropies for _, response in responses]
    assert list(tables.views["origin"]) == ["adversarial"] * len(groups)
    assert list(tables.views["seed"]) == [group.views[1].seed for group in groups]
    assert tables.config["training"]["steps"] == 3
    assert [path.name for path in tables.checkpoints] == ["step-000003"]
    assert tables.best is None
    assert isinstance(saei.read_run(str(run)).metrics, pandas.DataFrame)


def test_a_run_that_has_just_begun_is_read(run: Path, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text((run / "config.yaml").read_text())
    (tmp_path / "best.json").write_text('{"checkpoint": "checkpoints/step-000009"}')
    tables = saei.read_run(tmp_path)
    assert (len(tables.metrics), tables.metrics.index.name) == (0, "step")
    assert (len(tables.samples), len(tables.views), tables.checkpoints, tables.best) == (0, 0, (), None)
    (tmp_path / "metrics.jsonl").write_text('{"step": 0, "probe/entropy": null}\n{"step": 1, "probe/ent')
    begun = saei.read_run(tmp_path).metrics
    assert (begun["probe/entropy"].dtype, math.isnan(begun["probe/entropy"][0])) == (float, True)


def test_what_is_no_run_is_refused(tmp_path: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckpointError, match="read_run takes the folder of a run"):
        saei.read_run(tmp_path)
    imported = builtins.__import__

    def without_pandas(name: str, *rest: Any, **options: Any) -> Any:
        if name == "pandas":
            raise ImportError("No module named 'pandas'")
        return imported(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", without_pandas)
    with pytest.raises(ConfigError, match="pip install pandas"):
        saei.read_run(run)
