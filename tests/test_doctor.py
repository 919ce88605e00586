"""``saei doctor``: what it says of models that work, of those that cannot, and of models that have no weights yet."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from saei.cli import app
from saei.config.overrides import merge, nested, parse_assignment
from saei.config.run import RunConfig, dump, validate
from saei.config.sections import SamplingConfig
from saei.data.templates import ThinkBoxed
from saei.diagnostics import doctor
from saei.diagnostics.doctor import diagnose
from saei.diagnostics.examination import examine, weights_in
from saei.diagnostics.footprint import Footprint, footprint_of, shape_only_footprint
from saei.diagnostics.remedies import remedies
from saei.diagnostics.shape_only import ShapeOnlyMode
from saei.diagnostics.sizing import memory_of, peak_bytes, saved_tensor_bytes
from saei.diagnostics.synthetic import NoiseTask
from saei.diagnostics.tiny import tiny_parts
from saei.diagnostics.zoo import FAMILIES
from saei.errors import ConfigError
from saei.policy import Policy
from saei.policy.load.location import has_weights
from saei.policy.load.untrained import cut, depth, period
from saei.policy.load.weights import load_outline, load_parts

SHORT = SamplingConfig(max_new_tokens=5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with its weights."""
    path = tmp_path_factory.mktemp("model")
    Policy(tiny_parts(FAMILIES["Qwen2.5-VL"]), ThinkBoxed(), sampling=SHORT).save(path)
    return path


@pytest.fixture
def bare(folder: Path, tmp_path: Path) -> Path:
    """The same without them: configuration and processor."""
    for file in folder.iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def config(path: Path | str, **changes: Any) -> RunConfig:
    data: dict[str, Any] = {
        "model": {"path": str(path), "device": "cpu", "threads": 1},
        "sampler": {"type": "mixed", "n_clean": 2, "n_adversarial": 2},
        "sampling": {"max_new_tokens": 5},
        "training": {"prompts_per_step": 2},
    }
    for name, value in changes.items():
        section, _, field = name.partition("__")
        data.setdefault(section, {})[field] = value
    return validate(data)


def test_a_model_that_works(folder: Path) -> None:
    found = diagnose(config(folder), side=64)
    assert found.healthy
    assert not found.random
    assert found.examined is None
    parts = load_parts(config(folder).model)
    assert found.parameters == found.trained == sum(own.numel() for own in parts.model.parameters())
    assert found.examination is not None
    assert found.examination.not_shared is None
    assert found.examination.gradient < 5e-3
    assert found.sizes["image_tokens"] == (64 // 16) ** 2  # patches of 8 pixels, merged by twos
    assert found.seconds is not None
    assert found.seconds > 0
    if found.peak is not None:
        assert found.peak > 10**8  # torch alone takes more
    json.dumps(found.as_json())


def test_a_folder_without_weights_is_looked_at_with_random_ones(bare: Path) -> None:
    assert not has_weights(config(bare).model)
    found = diagnose(config(bare), side=64)
    assert found.healthy
    assert found.random
    assert found.seconds is not None


def test_random_weights_can_be_asked_for(folder: Path) -> None:
    assert diagnose(config(folder), side=64, random_weights=True).random


def test_a_model_that_does_not_fit_is_looked_at_in_a_copy(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outline = load_outline(config(bare).model)
    needed = memory_of(outline).total
    monkeypatch.setattr(doctor, "available_bytes", lambda device: needed)
    found = diagnose(config(bare), side=64, memory=needed // 2)
    assert (found.examined, found.layers) == (1, 2)
    assert found.seconds is None
    assert found.examination is not None
    assert found.memory is not None
    assert found.memory.weights == needed // 4
    assert found.memory.activations > 0
    totals = [one.total for one in found.remedies]
    assert [one.assignments for one in found.remedies] == [
        ("training.micro_groups=1", "sampler.intervention.micro_groups=1"),
        ("model.gradient_checkpointing=[vision,language]",),
        ("model.lora.rank=8",),
        ("model.dtype=bfloat16",),
    ]
    assert totals == sorted(totals, reverse=True)
    (problem,) = [one for one in found.findings if one.problem]
    assert "has to fit the memory" in problem.rule
    assert problem.remedy.startswith("See the settings that take less.")
    assert not found.healthy


def test_where_no_setting_takes_less_another_remedy_is_named(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "remedies", lambda *arguments, **options: [])
    (problem,) = [one for one in diagnose(config(bare), side=64, memory=4_000_000).findings if one.problem]
    assert " of 0.004 GB." in problem.reason
    assert "--prompts" in problem.remedy


def test_a_setting_that_saves_nothing_is_not_named(bare: Path) -> None:
    run = config(changed(bare, dtype="bfloat16"))
    count = Footprint(10, 10)
    named = [one.assignments for one in remedies(run, count, lambda changed: count, reference=False)]
    assert named == [("training.micro_groups=1", "sampler.intervention.micro_groups=1"), ("model.lora.rank=8",)]


def test_what_is_named_can_be_set_as_it_is_printed(bare: Path) -> None:
    frozen = config(bare, model__freeze=["vision"], training__micro_groups=1)
    frozen = validate(merge(RunConfig, dump(frozen), nested("sampler.intervention.micro_groups", 1)))
    count = Footprint(5, 5)
    first, *_ = named = remedies(frozen, count, lambda changed: count, reference=False)
    assert first.assignments == ("model.freeze=[]", "model.lora.rank=8")  # groups are as few as they can be
    data = dump(frozen)
    for assignment in [own for one in named for own in one.assignments]:
        data = merge(RunConfig, data, parse_assignment(assignment))
    changed = validate(data)
    assert named[-1].total == replace(memory_of(load_outline(changed.model)), activations=5).total


def test_where_not_even_a_copy_fits_memory_is_still_computed(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "available_bytes", lambda device: 1000)
    found = diagnose(config(bare), side=64)
    assert found.examination is None
    assert found.memory is not None
    assert found.memory.activations > 0
    assert any("copy with few layers" in one.rule for one in found.findings)


def test_memory_is_that_of_torchs_own_optimizer(folder: Path) -> None:
    for changes in ({}, {"model__freeze": ["vision"]}, {"model__lora": {"rank": 2}}, {"model__dtype": "bfloat16"}):
        model = config(folder, **changes).model
        parts = load_parts(model)
        trained = [own for own in parts.model.parameters() if own.requires_grad]
        optimizer = torch.optim.AdamW(trained)
        for own in trained:
            own.grad = torch.zeros_like(own)
        optimizer.step()
        moments = sum(own[name].nbytes for own in optimizer.state.values() for name in ("exp_avg", "exp_avg_sq"))
        found = memory_of(load_outline(model), reference=True)
        assert found.optimizer == moments
        assert found.gradients == sum(own.nbytes for own in trained)
        assert found.weights == found.reference == sum(own.nbytes for own in parts.model.parameters())


def test_kept_bytes_are_counted_by_storage() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    inputs = torch.randn(5, 8)
    kept = 4 * (5 * 8 + 5 * 8)  # of the first layer its input, of the second the output of the ReLU, which keeps it too
    assert saved_tensor_bytes(lambda: model(inputs), model) == kept

    def twice() -> None:
        for _ in range(2):
            model(torch.randn(5, 8)).sum().backward()

    assert saved_tensor_bytes(twice, model) == kept + 0  # up to the first backward pass


@pytest.mark.parametrize(
    ("family", "update_on"),
    [*((name, "sampled") for name, own in FAMILIES.items() if not own.missing), ("LLaVA", "clean")],
)
def test_a_model_of_shapes_alone_keeps_what_a_real_one_keeps(family: str, update_on: str, tmp_path: Path) -> None:
    Policy(tiny_parts(FAMILIES[family]), ThinkBoxed(), sampling=SHORT).save(tmp_path)
    run = config(tmp_path, sampler__update_on=update_on)
    policy = Policy.load(run.model, ThinkBoxed(), sampling=run.sampling)
    example = NoiseTask(NoiseTask.Config(side=64)).example(0)
    found = shape_only_footprint(run, example, policy)
    assert found == footprint_of(policy, run, example)
    assert found.attack > 0
    assert found.update > 0
    assert found.sample > 0


def test_an_update_on_both_views_keeps_two_prompts(folder: Path) -> None:
    example = NoiseTask(NoiseTask.Config(side=64)).example(0)
    policy = Policy.load(config(folder).model, ThinkBoxed(), sampling=SHORT)
    clean, sampled = (
        footprint_of(policy, config(folder, sampler__update_on=name), example) for name in ("clean", "sampled")
    )
    assert sampled.attack == clean.attack
    assert sampled.update > 1.3 * clean.update


def test_each_view_of_an_update_keeps_its_prompt(folder: Path) -> None:
    example = NoiseTask(NoiseTask.Config(side=64)).example(0)
    policy = Policy.load(config(folder).model, ThinkBoxed(), sampling=SHORT)
    one, two = (footprint_of(policy, config(folder, sampler__views=views), example) for views in (1, 2))
    assert two.attack == one.attack  # one view is attacked after the other
    assert two.update > 1.2 * one.update


def test_a_sampler_inside_another_is_seen(folder: Path) -> None:
    example = NoiseTask(NoiseTask.Config(side=64)).example(0)
    plain = config(folder)
    inner = plain.sampler.model_dump(mode="json")
    wrapped = validate({**plain.model_dump(mode="json"), "sampler": {"type": "dynamic", "of": inner}})
    policy = Policy.load(plain.model, ThinkBoxed(), sampling=SHORT)
    found = footprint_of(policy, wrapped, example)
    assert found == footprint_of(policy, plain, example)
    named = [own for one in remedies(wrapped, found, lambda changed: found, reference=False) for own in one.assignments]
    assert "sampler.of.intervention.micro_groups=1" in named


def test_a_model_of_shapes_alone_takes_no_memory() -> None:
    def pass_through() -> None:
        with ShapeOnlyMode():
            layer = nn.Linear(2**14, 2**14)  # 1 GB
            layer(torch.zeros(4, 2**14))
            (2 * layer.weight).sum()

    before, after = peak_bytes(lambda: None, torch.device("cpu")), peak_bytes(pass_through, torch.device("cpu"))
    if before is None or after is None:
        pytest.skip("this system does not say how much memory was used")
    assert after - before < 2**26


def test_what_is_kept_at_a_time() -> None:
    print_ = Footprint(attack=10, update=4)
    assert print_.of_step(config("m", training__prompts_per_step=3)) == 30
    assert print_.of_step(config("m", training__prompts_per_step=3, sampler__intervention={"micro_groups": 1})) == 12
    both = {"sampler__intervention": {"micro_groups": 1}, "training__micro_groups": 2}
    assert print_.of_step(config("m", training__prompts_per_step=3, **both)) == 10
    assert print_.of_step(config("m", training__prompts_per_step=8, training__updates_per_batch=2, **both)) == 10
    assert Footprint(0, 4).of_step(config("m", training__prompts_per_step=8, training__updates_per_batch=2)) == 16
    assert Footprint(10, 4, sample=3).of_step(config("m", training__prompts_per_step=16, **both)) == 48


@pytest.mark.parametrize(("sampler", "rows"), [({"n_clean": 3, "n_adversarial": 2}, 3), ({"type": "clean", "n": 4}, 4)])
def test_the_cache_of_sampling_is_that_of_keys_and_values(folder: Path, sampler: dict[str, Any], rows: int) -> None:
    run = config(folder)
    run = validate({**run.model_dump(mode="json"), "sampler": {"type": "mixed", **sampler}})
    policy = Policy.load(run.model, ThinkBoxed(), sampling=SHORT)
    found = footprint_of(policy, run, NoiseTask(NoiseTask.Config(side=64)).example(0))
    text = policy.model.config.get_text_config()
    width = text.num_key_value_heads * text.hidden_size // text.num_attention_heads
    per_token = 2 * text.num_hidden_layers * width * 4  # keys and values of float32
    assert found.sample == rows * (found.prompt_tokens + 5) * per_token


@pytest.mark.parametrize(("family", "expected"), [("Qwen2.5-VL", 1), ("Gemma3", 2), ("Mllama", 2)])
def test_a_copy_has_each_kind_of_layer(family: str, expected: int) -> None:
    whole = tiny_parts(FAMILIES[family]).model.config
    assert period(whole) == expected
    short = cut(whole, 1)
    assert (depth(short), depth(whole)) == (1, len(tiny_parts(FAMILIES[family]).model.get_decoder().layers))
    assert not getattr(short.get_text_config(), "cross_attention_layers", None)


def test_types_come_back_one_by_one() -> None:
    model = nn.BatchNorm1d(3).bfloat16()
    model.running_mean = torch.rand(3)
    before = model.running_mean.clone()
    with weights_in(model, torch.float64):
        assert {own.dtype for own in model.parameters()} == {torch.float64}
    assert torch.equal(model.running_mean, before)
    assert {own.dtype for own in model.parameters()} == {torch.bfloat16}


class Blind(nn.Module):
    """A vision tower through which no gradient comes back."""

    def __init__(self, tower: nn.Module, times: float | None) -> None:
        super().__init__()
        self.tower = tower
        self.times = times

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.tower, name)

    def forward(self, pixels: Tensor, *arguments: Any, **options: Any) -> Any:
        return self.tower(pixels.detach() if self.times is None else pixels * self.times, *arguments, **options)


@pytest.mark.parametrize(("times", "reason"), [(None, "No gradient reached it"), (0.0, "zero everywhere")])
def test_a_model_without_gradient_to_the_pixels(
    times: float | None, reason: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def blinded(model: Any, untrained: Any = None) -> Any:
        parts = load_parts(model, untrained)
        parts.model.model.visual = Blind(parts.model.model.visual, times)
        return parts

    monkeypatch.setattr(doctor, "load_parts", blinded)
    found = diagnose(config(folder), side=64)
    (problem,) = [one for one in found.findings if one.problem]
    assert reason in problem.reason
    assert problem.remedy
    assert not found.healthy
    assert found.memory is not None
    assert found.memory.activations > 0  # sizing goes on


def test_a_wrong_gradient_is_a_problem(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(policy: Policy, precision: torch.dtype) -> Any:
        return replace(examine(policy, precision), gradient=0.5)

    monkeypatch.setattr(doctor, "examine", wrong)
    found = diagnose(config(folder), side=64)
    assert any("off by 50%" in one.reason for one in found.findings if one.problem)


def test_a_processor_that_cannot_be_inverted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    process = Qwen2VLImageProcessorPil.preprocess

    def squared(self: Any, *arguments: Any, **options: Any) -> Any:
        found = process(self, *arguments, **options)
        found["pixel_values"] = found["pixel_values"] ** 2
        return found

    monkeypatch.setattr(Qwen2VLImageProcessorPil, "preprocess", squared)
    (problem,) = [one for one in diagnose(config(folder), side=64).findings if one.problem]
    assert "resize, move and normalise" in problem.rule
    assert problem.reason.startswith("Here")


def changed(path: Path, **fields: Any) -> Path:
    file = path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))
    return path


def test_a_quantised_model(bare: Path) -> None:
    changed(bare, quantization_config={"quant_method": "gptq", "bits": 4})
    (problem,) = diagnose(config(bare), side=64).findings
    assert "quantised by gptq" in problem.reason
    assert problem.problem


def test_what_is_no_vision_language_model(bare: Path) -> None:
    (bare / "config.json").write_text(json.dumps({"model_type": "qwen2", "hidden_size": 8}))
    (problem,) = diagnose(config(bare), side=64).findings
    assert "configuration of an image-text-to-text model" in problem.rule
    assert "Qwen2Config" in problem.reason


def test_a_prompt_longer_than_the_context(bare: Path) -> None:
    text = json.loads((bare / "config.json").read_text())["text_config"] | {"max_position_embeddings": 40}
    (problem,) = [one for one in diagnose(config(changed(bare, text_config=text)), side=64).findings if one.problem]
    assert "model's context" in problem.rule


def test_running_out_of_memory_is_a_finding(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any, **options: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr(doctor, "Trainer", full)
    found = diagnose(config(folder), side=64)
    (problem,) = [one for one in found.findings if one.problem]
    assert problem.reason == "CUDA out of memory."
    assert found.memory is not None


def test_memory_that_runs_out_in_the_examination_does_not_end_the_sizing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr(doctor, "examine", full)
    found = diagnose(config(folder), side=64, memory=10**6)
    assert [one.rule for one in found.findings if one.problem] == [
        "Memory ran out while it was looked at.",
        "The model in training has to fit the memory.",
    ]
    assert found.remedies
    assert found.seconds is not None


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["doctor", *arguments])


OPTIONS = ["--side", "64", "--prompts", "1", "--responses", "3", "--tokens", "4", "--set", "model.device=cpu"]


def test_the_command_prints_what_it_found(bare: Path) -> None:
    done = run(str(bare), *OPTIONS)
    assert done.exit_code == 0, done.output
    assert "random weights" in done.stdout
    assert "1 prompts x 3 responses x 4 tokens" in done.stdout
    assert "A step takes" in done.stdout


def test_the_command_in_json(bare: Path) -> None:
    done = run(str(bare), *OPTIONS, "--json", "--memory", "0.001")
    assert done.exit_code == 2  # a run could not work so
    found = json.loads(done.stdout)
    assert not found["healthy"]
    assert found["sizes"]["responses"] == 3
    assert found["memory"]["total"] > found["available"] == 10**6
    assert found["remedies"]


def test_responses_of_a_sampler_inside_another(bare: Path) -> None:
    done = run(str(bare), *OPTIONS, "--set", "sampler={type: dynamic, of: mixed}", "--json")
    assert json.loads(done.stdout)["sizes"]["responses"] == 3


def test_the_command_fails_where_a_run_would(tmp_path: Path) -> None:
    done = run(str(tmp_path / "nothing"), *OPTIONS)
    assert done.exit_code == 2
    assert "no such folder" in done.stdout
    assert "Traceback" not in done.output


def test_the_table_of_families(monkeypatch: pytest.MonkeyPatch) -> None:
    from saei.diagnostics import tiny

    few = {name: FAMILIES[name] for name in ("LLaVA", "Qwen3.5")}
    monkeypatch.setattr(tiny, "FAMILIES", few)
    rows = run("--families", "--markdown").stdout.splitlines()
    page = (Path(__file__).parents[1] / "docs" / "families.md").read_text(encoding="utf-8").splitlines()
    assert rows[:2] == page[page.index(rows[0]) : page.index(rows[0]) + 2]
    assert [row.split("|")[1].strip() for row in rows[2:]] == list(few)
    assert json.loads(run("--families", "--json").stdout).keys() == few.keys()
    shown = run("--families").stdout.splitlines()
    assert all(len(line) <= 80 for line in shown)
    assert [line.split()[0] for line in shown[1:3]] == list(few)
    assert "its cache cannot be repeated." in " ".join(shown)
    assert "LinearAttentionLayer" not in " ".join(shown)
    assert "LinearAttentionLayer" in run("--families", "--json").stdout


def test_markdown_is_for_families() -> None:
    done = run("builtin", "--markdown")
    assert isinstance(done.exception, ConfigError)
    assert "--families" in done.exception.remedy


def test_looking_at_a_model_of_ones_own_needs_no_tiny_families() -> None:
    code = (
        "import sys, saei.diagnostics.doctor; print([name for name in sys.modules if name.endswith(('.zoo', '.tiny'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_policy_that_never_ends(folder: Path) -> None:
    policy = Policy.load(config(folder).model, ThinkBoxed(), sampling=SamplingConfig(max_new_tokens=40))
    policy.never_end()
    (drawn,) = policy.sample(
        [policy.view(NoiseTask(NoiseTask.Config(side=64)).example(0))],
        [64],
        generators=[torch.Generator().manual_seed(0)],
    )
    assert {len(response) for response in drawn} == {40}
