"""The parts of a model, over its classes, and runs in which some of them are frozen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText

from models import tiny_folder
from runs import Checksum, registered, tiny, train
from saei.engine import checkpoint
from saei.errors import ModelError
from saei.policy.load.parts import anatomy, freeze, language_model, vision_tower

PLACES = {
    "Qwen2.5-VL": {
        "vision": ("model.visual.blocks.", "model.visual.patch_embed."),
        "projector": ("model.visual.merger.",),
        "language": ("model.language_model.", "lm_head."),
    },
    "LLaVA": {
        "vision": ("model.vision_tower.",),
        "projector": ("model.multi_modal_projector.",),
        "language": ("model.language_model.", "lm_head."),
    },
}
"""Where the parameters of each part are, written down by hand."""


@pytest.fixture(scope="session", params=PLACES)
def family(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="session")
def folder(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(family, tmp_path_factory.mktemp(family))


@pytest.fixture
def model(folder: Path) -> Any:
    return AutoModelForImageTextToText.from_pretrained(folder)


def test_every_parameter_is_in_one_part(family: str, model: Any) -> None:
    part = anatomy(model)
    for name, _ in model.named_parameters():
        (expected,) = [own for own, places in PLACES[family].items() if name.startswith(places)]
        assert part[name.rpartition(".")[0]] == expected
    assert vision_tower(model) in (getattr(model.model, "visual", None), getattr(model.model, "vision_tower", None))
    assert language_model(model) is model.model.language_model


@pytest.mark.parametrize("frozen", [["vision"], ["projector"], ["language"], ["vision", "language"]])
def test_frozen_parts_leave_training_and_no_others(family: str, model: Any, frozen: list[Any]) -> None:
    freeze(model, frozen)
    for name, parameter in model.named_parameters():
        places = tuple(place for part in frozen for place in PLACES[family][part])
        assert parameter.requires_grad is not name.startswith(places), name


def test_a_part_that_is_not_there_is_named(model: Any) -> None:
    with pytest.raises(ModelError, match="shows no vision tower"):
        freeze(model.model.language_model, ["vision"])
    projector = getattr(model.model, "multi_modal_projector", None) or model.model.visual.merger
    for name in [name for name, _ in projector.named_children()]:
        delattr(projector, name)
    with pytest.raises(ModelError, match="shows no projector"):
        freeze(model, ["projector"])


@pytest.mark.parametrize("frozen", [["vision"], ["vision", "projector"], ["language"]])
def test_a_run_moves_and_remembers_only_what_is_trained(frozen: list[str], tmp_path: Path) -> None:
    start = tiny_folder("Qwen2.5-VL", tmp_path / "model")
    changes: dict[str, Any] = {"model__freeze": frozen, "optimizer__weight_decay": 0.5, "training__steps": 1}
    with registered(Checksum):
        trainer = train(tiny(start, tmp_path, **changes))
    saved = checkpoint.latest(trainer.run.checkpoints)
    before, after = (
        dict(AutoModelForImageTextToText.from_pretrained(path).named_parameters()) for path in (start, saved)
    )
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    places = {part: own for part, own in PLACES["Qwen2.5-VL"].items() if part not in frozen}
    assert moved
    assert {part for part, own in places.items() if any(name.startswith(own) for name in moved)} == set(places)
    assert all(name.startswith(tuple(place for own in places.values() for place in own)) for name in moved)
    remembered = checkpoint.load_state(saved)["optimizer"]["state"]
    trained = [parameter for parameter in trainer.policy.model.parameters() if parameter.requires_grad]
    assert len(remembered) == len(trained)
    assert trainer.run.metrics()[1]["train/intervention/moved"] > 0  # frozen or not, gradients reach the pixels
