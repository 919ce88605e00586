"""The sampler `augment`: announced transforms of the picture, and other wordings of the question."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from PIL import Image

from groups import draw_groups, token_logp
from runs import Checksum, Quiet, lines, registered, tiny, train
from saei.config.overrides import load_config
from saei.config.run import dump
from saei.data.bars import Bars
from saei.errors import ConfigError, DataError
from saei.integrations.trl.arguments import grpo_arguments
from saei.policy import Policy
from saei.runtime.run_dir import RunDir
from saei.runtime.seeds import GroupSources
from saei.samplers.augment import Augment, TransformName
from saei.samplers.base import StepContext
from saei.samplers.transforms import TRANSFORMS
from saei.testing import check_sampler
from saei.types import CLEAN, Example, Group, View


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    with registered(Checksum):
        yield


def augment(**fields: Any) -> Augment:
    return Augment(Augment.Config.model_validate(fields))


CORNERS = np.array([[1, 2, 3], [4, 5, 6]], dtype=np.uint8) * 40
"""Two rows of three pixels, by their grey levels."""

BY_HAND = {
    "rotate-90": [[4, 1], [5, 2], [6, 3]],  # the first row becomes the right column
    "rotate-180": [[6, 5, 4], [3, 2, 1]],
    "rotate-270": [[3, 6], [2, 5], [1, 4]],
    "flip-horizontal": [[3, 2, 1], [6, 5, 4]],
    "flip-vertical": [[4, 5, 6], [1, 2, 3]],
    "flip-both": [[6, 5, 4], [3, 2, 1]],
}


@pytest.mark.parametrize("name", BY_HAND)
def test_pixels_by_hand(name: str) -> None:
    picture = Image.fromarray(CORNERS)  # grey, as files may be
    turned = np.asarray(TRANSFORMS[name].apply(picture, torch.Generator()))
    assert turned.shape[2] == 3
    assert (turned[..., 0] // 40).tolist() == (turned[..., 2] // 40).tolist() == BY_HAND[name]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("rotate-90", "90 degrees clockwise"),
        ("rotate-180", "180 degrees"),
        ("rotate-270", "90 degrees counterclockwise"),
        ("flip-horizontal", "from left to right."),
        ("flip-vertical", "from top to bottom."),
        ("flip-both", "from left to right and from top to bottom."),
        ("noise-10", "Noise"),
    ],
)
def test_the_sentence_says_what_was_done(name: str, words: str) -> None:
    assert words in TRANSFORMS[name].announcement


@pytest.mark.parametrize("deviation", [10, 25, 50])
def test_noise_has_its_deviation_in_grey_levels(deviation: int) -> None:
    grey = Image.new("RGB", (200, 100), (128, 128, 128))
    noisy = TRANSFORMS[f"noise-{deviation}"].apply(grey, torch.Generator().manual_seed(1))
    levels = np.asarray(noisy).astype(float)
    assert levels.shape == (100, 200, 3)
    clipped = np.clip(np.random.default_rng(0).normal(128, deviation, 10**6), 0, 255).astype(np.uint8)
    assert levels.std() == pytest.approx(clipped.std(), rel=0.02)
    assert levels.mean() == pytest.approx(clipped.mean(), abs=0.6)  # cut off to 8 bits, which takes half a level
    assert levels[..., 0].tolist() != levels[..., 1].tolist()


def test_all_transforms_can_be_named() -> None:
    assert get_args(TransformName) == tuple(TRANSFORMS)
    with pytest.raises(ConfigError, match="rotate-90"):
        load_config(assignments=["sampler=augment", "sampler.transforms=[rotate-45]"])


def test_a_group_by_hand(random_policy: Policy, views: list[View]) -> None:
    sampler = augment(n=2, variants=3, probability=1.0, transforms=["rotate-90"])
    for view, group in zip(views, draw_groups(sampler, random_policy, views), strict=True):
        assert [each.origin for each in group.views] == [CLEAN, *["augmented"] * 3]
        assert group.views[0] is view
        assert group.sampled_from == group.updated_on == (1, 1, 2, 2, 3, 3)
        for other in group.views[1:]:
            assert torch.equal(other.canvases[0], view.canvases[0].rot90(-1, dims=(1, 2)))
            question = f"{TRANSFORMS['rotate-90'].announcement} {view.example.question}"
            assert other.example.question == question
            assert (other.example.id, other.example.answer) == (view.example.id, view.example.answer)
            assert len(other.prompt_ids_P) > len(view.prompt_ids_P)
        for n, response in enumerate(group.responses):
            own_T = token_logp(random_policy, group.views[group.sampled_from[n]], response)
            torch.testing.assert_close(response.behaviour_logp_T, own_T, atol=1e-3, rtol=1e-3)
        assert (group.metrics["augmented"], group.untouched) == (1.0, None)
    quiet = draw_groups(
        augment(n=1, probability=1.0, transforms=["flip-both"], announce=False), random_policy, views[:1]
    )
    assert torch.equal(quiet[0].views[1].prompt_ids_P, views[0].prompt_ids_P)
    assert torch.equal(quiet[0].views[1].canvases[0], views[0].canvases[0].flip(1, 2))


def test_variants_are_transformed_by_the_probability(random_policy: Policy, bars: Bars) -> None:
    """Drawn without a policy that answers: of 2000 variants .3 are changed, each in one of two ways."""
    sampler, source = augment(transforms=["flip-vertical", "noise-50"]), torch.Generator().manual_seed(0)
    example = bars.example(0)
    told = Counter()
    for _ in range(2000):
        variant = sampler._variant(example, example.question, source)
        told[variant.question.partition(".")[0] if variant is not example else ""] += 1
    assert told[""] == pytest.approx(1400, abs=3 * (2000 * 0.3 * 0.7) ** 0.5)
    assert sorted(told.values())[:2] == [pytest.approx(300, abs=3 * (2000 * 0.15 * 0.85) ** 0.5)] * 2


def test_what_nothing_happens_to_is_counted_by_reason(random_policy: Policy, views: list[View]) -> None:
    text = random_policy.view(Example("t", "What is 1 + 2?", "3"), 7)
    groups = draw_groups(augment(n=2, probability=0.0), random_policy, [views[0]])
    groups += draw_groups(augment(n=2, probability=1.0), random_policy, [text])
    assert [group.untouched for group in groups] == ["by-chance", "no-image"]
    for group in groups:
        assert (len(group.views), group.sampled_from) == (1, (0, 0, 0, 0))


def test_a_variant_that_the_policy_refuses_is_the_clean_view(
    random_policy: Policy, views: list[View], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(example: Example, index: int = 0) -> View:
        raise DataError("A prompt has to fit.")

    monkeypatch.setattr(random_policy, "view", refuse)
    (group,) = draw_groups(augment(n=2, probability=1.0), random_policy, views[:1])
    assert (group.untouched, group.metrics["refused"], group.sampled_from) == ("refused", 1.0, (0, 0, 0, 0))


def test_other_wordings_are_drawn_without_repetition(random_policy: Policy, views: list[View]) -> None:
    others = ["Add red and yellow.", "How much are red and yellow?"]
    example = replace(views[0].example, meta={"new_questions": others})
    view = random_policy.view(example, 5)
    seen = Counter()
    for seed in range(12):
        step = StepContext(random_policy, 0.0, GroupSources(seed))
        (group,) = augment(n=1, variants=2, probability=0.0).draw([view], step, None)
        questions = [group.views[number].example.question for number in group.sampled_from]
        assert len(set(questions)) == 2
        seen.update(questions)
    assert seen.keys() == {example.question, *others}
    assert (
        augment(paraphrases="kind")._questions(views[0].example, torch.Generator()) == [views[0].example.question] * 2
    )


@pytest.mark.parametrize(
    "fields",
    [{"probability": 1.0}, {"probability": 0.5, "variants": 3, "announce": False}, {"transforms": ["noise-25"]}],
    ids=["always", "three", "noise"],
)
def test_variants_keep_the_contract(fields: dict[str, Any], random_policy: Policy, views: list[View]) -> None:
    text = random_policy.view(Example("t", "What is 1 + 2?", "3"))
    check_sampler(augment(n=2, **fields), random_policy, [*views, text])


@pytest.mark.parametrize(
    ("lie", "rule"),
    [
        (lambda view: replace(view, example=replace(view.example, answer="0")), "keeps its id and its answer"),
        (lambda view: replace(view, example=replace(view.example, question="Why?")), "the policy's own"),
        (lambda view: replace(view, canvases=tuple(canvas.flip(1) for canvas in view.canvases)), "the policy's own"),
        (lambda view: replace(view, index=view.index + 1), "have its index"),
    ],
    ids=["answer", "question", "picture", "index"],
)
def test_the_contract_catches_a_changed_example(
    lie: Any, rule: str, random_policy: Policy, views: list[View], monkeypatch: pytest.MonkeyPatch
) -> None:
    draw_groups = Augment.draw

    def lying(self: Augment, *arguments: Any) -> list[Group]:
        groups = draw_groups(self, *arguments)
        return [replace(group, views=(group.views[0], *map(lie, group.views[1:]))) for group in groups]

    monkeypatch.setattr(Augment, "draw", lying)
    with pytest.raises(AssertionError, match=rule):
        check_sampler(augment(n=1, probability=1.0), random_policy, views)


def test_trl_refuses_it(model: Path, tmp_path: Path) -> None:
    config = tiny(model, tmp_path, evaluation={}, sampler={"type": "augment", "n": 2})
    with pytest.raises(ConfigError, match=r"sampler 'augment' \(it trains all responses of an example"):
        grpo_arguments(config, folder=tmp_path, processes=1, extra={})


def test_a_run_stops_and_goes_on(model: Path, tmp_path: Path) -> None:
    sampler = {"type": "augment", "n": 2, "probability": 0.6}
    whole = train(tiny(model, tmp_path, "whole", sampler=sampler, training__steps=5)).run.path
    logged = lines(whole)[1:]
    assert 0 < sum(line["train/intervention/augmented"] for line in logged) < 5
    assert any("train/augmented/accuracy" in line for line in logged)
    assert any("train/view_kl/augmented" in line for line in logged)
    train(tiny(model, tmp_path, "halves", sampler=sampler, training__steps=3))
    run, config = RunDir.open(tmp_path / "halves")
    longer = config.model_copy(update={"training": config.training.model_copy(update={"steps": 5})})
    train(longer, Quiet(), resume=run)
    assert lines(run.path)[-1] == logged[-1]


def test_the_command_line_reaches_it() -> None:
    config = load_config(assignments=["sampler=augment", "sampler.n=3", "sampler.transforms=[rotate-90, noise-10]"])
    assert config.sampler.build().group_size == 6
    assert dump(config)["sampler"]["transforms"] == ["rotate-90", "noise-10"]
