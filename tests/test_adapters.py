"""LoRA: the policy against peft's own model, over the classes of models; runs that save, resume and load elsewhere."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file
from torch import Tensor

from groups import draw, own_forward
from models import tiny_folder
from runs import Checksum, Quiet, lines, registered, tiny, train
from saei.builtin import builtin_path
from saei.cli.options import policy_config
from saei.cli.quick_look import measure
from saei.config.overrides import load_config
from saei.config.run import validate
from saei.config.sections import LoraConfig, ModelConfig, SamplingConfig
from saei.data.bars import Bars
from saei.data.templates import ThinkBoxed
from saei.engine import Trainer, checkpoint
from saei.errors import ConfigError, ModelError
from saei.policy import Policy
from saei.policy.load.parts import language_model
from saei.runtime.interrupt import Interrupted
from saei.runtime.run_dir import RunDir
from saei.types import Response, View
from test_trainer import stop_at

FAMILIES = ["Qwen2.5-VL", "LLaVA"]
"""A projector inside the vision tower, and one beside it."""

WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    with registered(Checksum):
        yield


@pytest.fixture(scope="session", params=FAMILIES)
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(request.param, tmp_path_factory.mktemp(request.param))


def load(path: Path, **model: Any) -> Policy:
    config = ModelConfig.model_validate({"path": str(path), "device": "cpu", **model})
    return Policy.load(config, ThinkBoxed(), sampling=SamplingConfig(max_new_tokens=12))


@pytest.fixture(scope="session")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an adapter whose weights are all random, so that it changes the model."""
    folder = tmp_path_factory.mktemp("adapter")
    policy = load(base, lora={"rank": 4, "vision": True})
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in policy.module.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    policy.save(folder)
    return folder


@pytest.fixture
def adapted(adapter: Path) -> Policy:
    return load(adapter, lora={"rank": 4, "vision": True})


def plain(base: Path, adapter: Path) -> Any:
    """The adapted model as a user of transformers and peft alone loads it."""
    from transformers import AutoModelForImageTextToText

    loaded = AutoModelForImageTextToText.from_pretrained(base)
    return peft.PeftModel.from_pretrained(loaded, adapter, is_trainable=True).eval()


def drawn(policy: Policy) -> tuple[View, list[Response]]:
    view = policy.view(Bars().example(0))
    return view, draw(policy, [view], [3])[0]


def logp(policy: Policy, view: View, responses: list[Response]) -> list[Tensor]:
    (score,) = policy.score([view], [responses])
    return [score.logp_NT[n, : len(response)] for n, response in enumerate(responses)]


def of_model(model: Any, policy: Policy, view: View, response: Response, canvas: Tensor) -> Tensor:
    """Log-probabilities of a response's tokens by calling a model itself on the policy's inputs."""
    called = copy(policy)
    called.parts = replace(policy.parts, model=model)
    return own_forward(called, view, response, canvas).gather(-1, response.ids_T[:, None])[:, 0]


# The policy


def test_fresh_adapters_add_nothing(base: Path) -> None:
    before, fresh = load(base), load(base, lora={})
    view, responses = drawn(before)
    assert [own.ids_T.tolist() for own in drawn(fresh)[1]] == [own.ids_T.tolist() for own in responses]
    assert all(map(torch.equal, logp(before, view, responses), logp(fresh, view, responses)))


@pytest.mark.parametrize("shared", [True, False])
def test_values_and_gradients_are_those_of_pefts_model(
    base: Path, adapter: Path, adapted: Policy, shared: bool
) -> None:
    adapted.shared_prefix = shared
    view, responses = drawn(adapted)
    theirs, names = plain(base, adapter), [name for name, p in adapted.model.named_parameters() if p.requires_grad]
    assert all("lora_" in name for name in names)
    parameters = dict(theirs.base_model.model.named_parameters())
    canvas = view.canvases[0].clone().requires_grad_()
    expected = torch.cat([of_model(theirs, adapted, view, own, canvas) for own in responses])
    wanted = [canvas, *(parameters[name] for name in names)]
    reference = torch.autograd.grad(expected.sum(), wanted, allow_unused=True)  # LLaVA skips its tower's last layer

    (score,) = adapted.score([view], [responses], wrt={"pixels": [canvas]})
    (pixel,) = torch.autograd.grad(score.logp_NT.sum(), [canvas])
    (score,) = adapted.score([view], [responses], wrt="parameters")
    own = dict(adapted.model.named_parameters())
    trained = [own[name] for name in names]
    ours = [pixel, *torch.autograd.grad(score.logp_NT.sum(), trained, allow_unused=True)]
    torch.testing.assert_close(score.logp_NT[score.mask_NT].detach(), expected.detach(), atol=2e-5, rtol=0)
    assert [value is None for value in ours] == [right is None for right in reference]
    met = [(value, right) for value, right in zip(ours, reference, strict=True) if right is not None]
    assert len(met) > len(ours) / 2
    for value, right in met:
        assert float(right.abs().max()) > 0
        torch.testing.assert_close(value, right, atol=5e-5 * float(right.abs().max()), rtol=0)


def test_sampling_from_the_cache_sees_the_adapters(adapted: Policy) -> None:
    view, responses = drawn(adapted)
    for response, rescored in zip(responses, logp(adapted, view, responses), strict=True):
        torch.testing.assert_close(response.behaviour_logp_T, rescored, atol=2e-5, rtol=0)


def test_without_adapter_is_the_base_in_the_same_memory(base: Path, adapted: Policy) -> None:
    view, responses = drawn(adapted)
    before, reference = logp(adapted, view, responses), adapted.without_adapter()
    assert all(map(torch.equal, logp(reference, view, responses), logp(load(base), view, responses)))
    assert reference.model is adapted.model
    assert all(map(torch.equal, logp(adapted, view, responses), before))
    assert not any(map(torch.equal, logp(reference, view, responses), before))
    assert sum(parameter.requires_grad for parameter in adapted.module.parameters()) > 0


def test_merged_weights_are_the_adapted_model(base: Path, adapter: Path, adapted: Policy, tmp_path: Path) -> None:
    merged = load(adapter)
    view, responses = drawn(adapted)
    assert merged.parts.adapter is None
    assert all(parameter.requires_grad for parameter in merged.module.parameters())
    assert merged.model.state_dict().keys() == load(base).model.state_dict().keys()
    merged.save(tmp_path)  # a model again, not an adapter
    for other in (merged, load(tmp_path)):
        for ours, theirs in zip(logp(other, view, responses), logp(adapted, view, responses), strict=True):
            torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=0)


def test_the_base_is_named_so_that_other_folders_find_it(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(base.parent)
    for path, expected in ((Path(base.name), base), (Path("builtin"), builtin_path())):
        load(path, lora={}).save(tmp_path)
        said = json.loads((tmp_path / "adapter_config.json").read_text())["base_model_name_or_path"]
        assert Path(said).is_absolute()
        assert Path(said).samefile(expected)


def test_the_card_names_a_hub_id_and_no_path(base: Path, tmp_path: Path) -> None:
    """``adapter_config.json`` has to name a path where the base is a folder; what is published has none."""
    policy = load(base, lora={})
    policy.save(tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert str(base) not in card
    assert "base_model" not in card
    assert "More Information Needed" not in card
    wrapper = policy.parts.adapter
    wrapper.peft_config[wrapper.active_adapter].base_model_name_or_path = "someone/a-model"
    policy.save(tmp_path)
    assert ModelCard.load(tmp_path / "README.md").data.base_model == "someone/a-model"


# Where adapters are


def adapted_layers(policy: Policy) -> set[str]:
    return {name.partition(".lora_A")[0] for name, _ in policy.model.named_parameters() if ".lora_A" in name}


def linear_names(module: torch.nn.Module, prefix: str) -> set[str]:
    return {f"{prefix}.{name}" for name, own in module.named_modules() if isinstance(own, torch.nn.Linear)}


@pytest.mark.parametrize("family", ["Qwen2.5-VL", "LLaVA"])
def test_adapters_are_in_the_language_model_unless_vision_is_asked_for(family: str, tmp_path: Path) -> None:
    from transformers import AutoModelForImageTextToText

    from saei.policy.load.adapters import linear_layers

    model = AutoModelForImageTextToText.from_pretrained(tiny_folder(family, tmp_path))
    language = linear_names(language_model(model), "model.language_model")
    assert len(language) > 7
    assert set(linear_layers(model, LoraConfig())) == language
    everything = linear_names(model, "")
    assert set(linear_layers(model, LoraConfig(vision=True))) == {name[1:] for name in everything} - {"lm_head"}
    with pytest.raises(ModelError, match=r"Not found: proj_q\. Known: .*q_proj"):
        linear_layers(model, LoraConfig(target_modules=("v_proj", "proj_q")))
    attention = LoraConfig(target_modules=("self_attn.q_proj", "v_proj"))
    named = [name for name in language if name.endswith((".self_attn.q_proj", ".v_proj"))]
    wrapper = peft.get_peft_model(model, peft.LoraConfig(target_modules=linear_layers(model, attention)))
    assert sorted(wrapper.base_model.targeted_module_names) == sorted(named)


def test_a_layer_that_does_more_than_multiply_gets_no_adapter(tmp_path: Path) -> None:
    """Such as a router of experts, which returns more than one tensor."""
    from transformers import AutoModelForImageTextToText

    from saei.policy.load.adapters import linear_layers

    class Router(torch.nn.Linear):
        def forward(self, input: torch.Tensor) -> Any:
            logits = super().forward(input)
            return logits.softmax(-1), logits

    model = AutoModelForImageTextToText.from_pretrained(tiny_folder("LLaVA", tmp_path))
    before = set(linear_layers(model, LoraConfig()))
    language_model(model).layers[0].router = Router(4, 2)
    assert set(linear_layers(model, LoraConfig())) == before


def test_the_model_of_the_llava_class_is_adapted_in_place(tmp_path: Path) -> None:
    """What passes call, the model's own modules, is what peft's wrapper calls."""
    from transformers import AutoModelForImageTextToText

    from saei.policy.load.adapters import new_adapter

    model = AutoModelForImageTextToText.from_pretrained(tiny_folder("LLaVA", tmp_path)).eval()
    ids = torch.tensor([[model.config.image_token_id] * 16 + [5, 6, 7]])
    inputs = {"input_ids": ids, "pixel_values": torch.rand(1, 3, 32, 32).requires_grad_()}
    before = model(**inputs).logits
    wrapper = new_adapter(model, LoraConfig(vision=True), base=str(tmp_path), revision=None)
    wrapper.eval()
    assert torch.equal(model(**inputs).logits, before)
    for name, parameter in wrapper.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    ours = model.get_output_embeddings()(model.base_model(**inputs).last_hidden_state)
    assert torch.equal(ours, wrapper(**inputs).logits)
    assert not torch.allclose(ours, before)
    with wrapper.disable_adapter():
        assert torch.equal(model(**inputs).logits, before)
    (gradient,) = torch.autograd.grad(ours.sum(), [inputs["pixel_values"]])
    assert float(gradient.abs().max()) > 0


# What is refused


def test_lora_without_peft_names_the_extra(base: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    load(base)
    for path, model in ((base, {"lora": {}}), (adapter, {"lora": {}}), (adapter, {})):
        with pytest.raises(ModelError) as raised:
            load(path, **model)
        assert raised.value.remedy == "pip install 'saei[peft]'"


def test_settings_that_cannot_work_are_refused_when_they_are_read() -> None:
    for model, said in (
        ({"lora": {"dropout": 0.1}}, "model.lora.dropout: .*leaves eval mode"),
        ({"lora": {}, "freeze": ["vision"]}, "Leave model.freeze out"),
        ({"freeze": ["vision", "projector", "language"]}, "Something has to be trained"),
        ({"lora": {"r": 4}}, "model.lora.r: There is no such field"),
        ({"lora": {"rank": 0}}, "model.lora.rank: "),
    ):
        with pytest.raises(ConfigError, match=said):
            validate({"model": model})


def test_assignments_add_up(tmp_path: Path) -> None:
    config = load_config(assignments=["model.lora.rank=32", "model.lora.alpha=64"])
    assert config.model.lora == LoraConfig(rank=32, alpha=64)
    (tmp_path / "run.yaml").write_text("model: {lora: {rank: 2}}")
    assert load_config(file=tmp_path / "run.yaml", assignments=["model.lora=null"]).model.lora is None


def test_an_adapter_of_other_settings_or_without_all_weights_is_refused(adapter: Path, tmp_path: Path) -> None:
    for lora, said in (
        ({"rank": 5, "vision": True}, r"has rank 4\."),
        ({"rank": 4, "alpha": 3, "vision": True}, r"has alpha 16\.0\."),
        ({"rank": 4}, "has other layers"),
    ):
        with pytest.raises(ModelError, match=said):
            load(adapter, lora=lora)
    for name in ("adapter_config.json", WEIGHTS):
        (tmp_path / name).write_bytes((adapter / name).read_bytes())
    weights = load_file(adapter / WEIGHTS)
    first = sorted(weights)[0]
    save_file({name: weight for name, weight in weights.items() if name != first}, tmp_path / WEIGHTS)
    for model in ({}, {"lora": {"rank": 4, "vision": True}}):
        with pytest.raises(ModelError, match="lacks 1, such as"):
            load(tmp_path, **model)
    (tmp_path / WEIGHTS).write_bytes(b"nothing of use")
    with pytest.raises(ModelError, match=r"have to fill it\. .* raised SafetensorError"):
        load(tmp_path)
    config = json.loads((adapter / "adapter_config.json").read_text())
    for told, said in (
        ({"base_model_name_or_path": None}, "no base_model"),
        (
            {"base_model_name_or_path": str(tmp_path / "gone")},
            "needs the model that it belongs to. '.*gone'",
        ),
    ):
        (tmp_path / "adapter_config.json").write_text(json.dumps(config | told))
        with pytest.raises(ModelError, match=said):
            load(tmp_path)


def test_an_adapter_on_an_adapter_is_refused_instead_of_dropping_one(adapter: Path, tmp_path: Path) -> None:
    outer = tmp_path / "outer"
    outer.mkdir()
    (outer / WEIGHTS).write_bytes((adapter / WEIGHTS).read_bytes())
    config = json.loads((adapter / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = str(adapter)
    (outer / "adapter_config.json").write_text(json.dumps(config))
    for model in ({}, {"lora": {"rank": 4, "vision": True}}):
        with pytest.raises(ModelError, match="belongs to a model") as raised:
            load(outer, **model)
        assert str(adapter) in raised.value.reason
        assert "merge" in raised.value.remedy
    # The remedy: the inner adapter merged into a model of its own.
    merged = tmp_path / "merged"
    load(adapter).save(merged)
    config["base_model_name_or_path"] = str(merged)
    (outer / "adapter_config.json").write_text(json.dumps(config))
    load(outer)


# Runs


KL = {"type": "grpo", "terms": [{"type": "kl", "coefficient": 0.1}]}


def lora_run(base: Path, root: Path, name: str, **changes: Any) -> Any:
    changes = {"model__lora": {"rank": 2}, "objective": KL, "training__steps": 3, "optimizer__lr": 1e-2} | changes
    return tiny(base, root, name, **changes)


def test_a_run_trains_saves_resumes_and_loads_in_plain_peft(base: Path, tmp_path: Path) -> None:
    trainer = train(lora_run(base, tmp_path, "whole"))
    whole = checkpoint.latest(trainer.run.checkpoints)
    with pytest.raises(Interrupted):
        train(lora_run(base, tmp_path, "halves"), stop_at(1))
    run, config = RunDir.open(tmp_path / "halves")
    train(config, resume=run)
    assert lines(trainer.run.path) == lines(run.path)
    left, right = (load_file(folder / WEIGHTS) for folder in (whole, checkpoint.latest(run.checkpoints)))
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)

    first, second, _ = (line["train/kl/mean"] for line in lines(run.path)[1:])
    assert first == 0.0
    assert second > 1e-5
    state = checkpoint.load_state(whole)["optimizer"]["state"]
    assert len(state) == len(left)
    assert not (whole / "model.safetensors").exists()
    said = json.loads((whole / "adapter_config.json").read_text())
    assert said["base_model_name_or_path"] == str(base)
    assert config.model.path == str(base)

    policy, theirs = trainer.policy, plain(base, whole)
    view, responses = drawn(policy)
    for response, ours in zip(responses, logp(policy, view, responses), strict=True):
        with torch.no_grad():
            expected = of_model(theirs, policy, view, response, view.canvases[0])
        torch.testing.assert_close(ours, expected, atol=2e-5, rtol=0)
    from transformers import AutoImageProcessor, AutoTokenizer

    assert len(AutoTokenizer.from_pretrained(whole)) == len(policy.tokenizer)
    assert type(AutoImageProcessor.from_pretrained(whole)).__name__ == type(policy.parts.image_processor).__name__


def test_eval_measures_the_adapted_model_of_a_run(base: Path, tmp_path: Path) -> None:
    trainer = train(lora_run(base, tmp_path, "run", training__steps=1))
    config = policy_config(str(trainer.run.path), [], [], [])
    assert config.model.lora == LoraConfig(rank=2)
    assert (config.sampling.temperature, config.sampling.top_p, config.sampling.top_k) == (1.0, 1.0, None)
    _, found = measure(config, config.sampling, examples=2, responses=2, seed=0)
    merged = config.model_copy(update={"model": config.model.model_copy(update={"lora": None})})
    untrained = config.model_copy(update={"model": config.model.model_copy(update={"path": str(base)})})
    entropies = [
        measure(other, config.sampling, examples=2, responses=2, seed=0)[1]["entropy"] for other in (merged, untrained)
    ]
    assert found["entropy"] == pytest.approx(entropies[0], rel=1e-4)
    assert found["entropy"] != pytest.approx(entropies[1], rel=1e-4)


def test_fresh_adapters_are_the_seeds(base: Path, tmp_path: Path) -> None:
    first, again, other = (
        Trainer(lora_run(base, tmp_path, name, seed=seed), display=Quiet())
        for name, seed in (("first", 0), ("again", 0), ("other", 1))
    )

    def weights(trainer: Trainer) -> list[Tensor]:
        return [p for name, p in trainer.policy.model.named_parameters() if "lora_A" in name]

    assert all(map(torch.equal, weights(first), weights(again)))
    assert not any(map(torch.equal, weights(first), weights(other)))


def test_a_new_run_goes_on_with_an_adapter(base: Path, adapter: Path, tmp_path: Path) -> None:
    lora = {"rank": 4, "vision": True}
    trainer = train(lora_run(adapter, tmp_path, "on", training__steps=1, model__lora=lora))
    saved = checkpoint.latest(trainer.run.checkpoints)
    before, after = load_file(adapter / WEIGHTS), load_file(saved / WEIGHTS)
    distance = max(float((before[name] - after[name]).abs().max()) for name in before)
    assert 0 < distance < 0.1
    assert json.loads((saved / "adapter_config.json").read_text())["base_model_name_or_path"] == str(base)
