"""`saei export`: plain transformers loads what was trained, and the card says what the run says."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForImageTextToText, AutoTokenizer, GenerationConfig

from commands import Saei
from runs import Checksum, lines, registered, tiny, train
from saei.config.flat import flat
from saei.config.overrides import load_config
from saei.config.run import dump
from saei.data.bars import Bars
from saei.data.templates import ThinkBoxed
from saei.policy import Policy
from saei.policy.load.weights import Parts
from saei.report.model_card import command
from saei.runtime.run_dir import RunDir


@pytest.fixture(scope="module", autouse=True)
def _registered() -> Iterator[None]:
    with registered(Checksum):
        yield


@pytest.fixture(scope="module")
def base(random_parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    Policy(random_parts, ThinkBoxed()).save(folder)
    return folder


@pytest.fixture(scope="module")
def adapted(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = tiny(
        base, tmp_path_factory.mktemp("runs"), "lora", model__lora={"rank": 4}, optimizer__lr=0.05, training__steps=2
    )
    return train(config).run.path


@torch.no_grad()
def logits(model: Any, policy: Policy) -> torch.Tensor:
    """Return the model's logits of a prompt with a picture, by its own forward pass."""
    example = Bars().example(0)
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": example.question}]}]
    text = policy.processor.apply_chat_template(messages, add_generation_prompt=True)
    inputs = policy.processor(text=[text], images=list(example.images), return_tensors="pt")
    return model.eval()(**inputs).logits


def test_a_merged_adapter_is_what_peft_makes_of_it(base: Path, adapted: Path, tmp_path: Path, saei: Saei) -> None:
    folder = tmp_path / "exported"
    said = saei("export", adapted, "--merge", "-o", folder)
    assert said.code == 0, said.err
    exported = AutoModelForImageTextToText.from_pretrained(folder)
    checkpoint = adapted / "checkpoints" / "step-000002"
    plain = AutoModelForImageTextToText.from_pretrained(base)
    policy = Policy.load(str(base))
    before = logits(plain, policy)
    theirs = logits(PeftModel.from_pretrained(plain, checkpoint), policy)
    ours = logits(exported, policy)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert (ours - before).abs().max() > 0.01
    assert AutoTokenizer.from_pretrained(folder).get_vocab() == policy.tokenizer.get_vocab()
    assert GenerationConfig.from_pretrained(folder).eos_token_id is not None
    assert not (folder / "adapter_config.json").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"exported"}


def test_no_file_names_a_path_of_this_machine(adapted: Path, base: Path, tmp_path: Path, saei: Saei) -> None:
    saei("export", adapted, "--merge", "-o", tmp_path / "exported")
    for file in (tmp_path / "exported").iterdir():
        content = file.read_bytes()
        for place in (base, adapted, tmp_path, Path.home(), Path.cwd()):
            assert str(place).encode() not in content, file
    card = (tmp_path / "exported" / "README.md").read_text()
    assert "Base: a local model" in card
    assert "model.path=MODEL" in card


def test_the_card_has_the_figures_of_the_run(adapted: Path, tmp_path: Path, saei: Saei) -> None:
    saei("export", adapted, "--merge", "-o", tmp_path / "exported")
    card = (tmp_path / "exported" / "README.md").read_text()
    first, last = (line for line in lines(adapted) if "eval/accuracy" in line)
    assert f"| sampled accuracy | {first['eval/accuracy']:.3f} ± {first['eval/accuracy_se']:.3f} |" in card
    assert f"| {last['probe/entropy']:.3f} | mean token entropy in nats, 3 responses to 2 examples |" in card
    assert "| | before training | after step 2 |" in card
    assert "rank 4 was trained and merged" in card
    assert f"torch {torch.__version__}" in card


def test_whole_weights_are_exported_as_they_are(base: Path, tmp_path: Path, saei: Saei) -> None:
    run = train(tiny(base, tmp_path, training__steps=2, output__checkpoint_every=1)).run.path
    first = run / "checkpoints" / "step-000001"
    saei("export", first, "-o", tmp_path / "exported")
    policy = Policy.load(str(base))
    exported, saved = (AutoModelForImageTextToText.from_pretrained(p) for p in (tmp_path / "exported", first))
    assert torch.equal(logits(exported, policy), logits(saved, policy))
    assert "trainer.pt" not in {file.name for file in (tmp_path / "exported").iterdir()}
    assert "2 steps of" not in (tmp_path / "exported" / "README.md").read_text()


def test_what_cannot_be_exported_is_refused(adapted: Path, base: Path, tmp_path: Path, saei: Saei) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    for arguments, words in (
        ((adapted, "-o", tmp_path / "x"), "Add --merge"),
        ((adapted, "--merge", "-o", tmp_path / "full"), "is there already"),
        ((base, "-o", tmp_path / "x"), "is neither"),
        ((tmp_path / "none", "-o", tmp_path / "x"), "is neither"),
    ):
        said = saei("export", *arguments)
        assert (said.code, words in said.err) == (2, True), said
    assert {path.name for path in tmp_path.iterdir()} == {"full"}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"sampler": "clean", "seed": 3},
        {"sampler__intervention": {"attack": {"type": "fgsm", "step": "4/255"}, "selector": "all"}},
        {"model__lora": {"rank": 2}, "model__freeze": []},
        {"objective": {"type": "dapo"}, "training__mixed_precision": "bf16", "template": "think-answer"},
    ],
)
def test_the_command_repeats_the_configuration(tmp_path: Path, changes: dict[str, Any]) -> None:
    config = tiny(Path("builtin"), tmp_path, **changes)
    words = shlex.split(command(json.loads(json.dumps(dump(config)))).replace("\\\n", " "))
    assert words[:2] == ["saei", "train"]
    assert set(words[2::2]) == {"--set"}
    repeated = flat(dump(load_config(assignments=words[3::2])))
    expected = flat(dump(config))
    assert {k: v for k, v in repeated.items() if not k.startswith("output.")} == {
        k: v for k, v in expected.items() if not k.startswith("output.")
    }


def test_damaged_checkpoints_are_not_exported(adapted: Path, tmp_path: Path, saei: Saei) -> None:
    run = RunDir(adapted)
    copy = tmp_path / "run"
    shutil.copytree(run.path, copy)
    weights = copy / "checkpoints" / "step-000002" / "adapter_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    said = saei("export", copy, "--merge", "-o", tmp_path / "exported")
    assert (said.code, "adapter_model.safetensors" in said.err) == (2, True)
    assert not (tmp_path / "exported").exists()
