"""Samples: what is kept of whole groups for people to look at, and how it is read again."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from groups import draw
from models import tiny_folder
from runs import Checksum, lines, registered, tiny, train
from saei.data.bars import Bars
from saei.engine.samples import token_pieces, training_samples
from saei.objectives.advantages.base import train_group
from saei.objectives.grpo import GRPO
from saei.policy import Policy
from saei.policy.load.weights import Parts
from saei.policy.statistics.needs import Need
from saei.report.run_tables import read_run
from saei.runtime.run_dir import RunDir
from saei.runtime.sample_files import read_samples_of, sample_file, write_samples
from saei.runtime.samples import GroupSample, ResponseSample, ViewSample
from saei.types import Distance, Grade, Group, Response, ScoredGroup


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder("Qwen2.5-VL", tmp_path_factory.mktemp("model") / "model")


@pytest.fixture(scope="module")
def run(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with registered(Checksum):
        return train(tiny(model, tmp_path_factory.mktemp("run"))).run.path


def groups_of(run: Path, source: str) -> list[GroupSample]:
    groups, problems = RunDir(run).samples()
    assert not problems
    return [group for group in groups if group.source == source]


def test_the_held_out_examples_are_the_same_from_the_start_on(run: Path) -> None:
    groups = groups_of(run, "held-out")
    assert [(group.step, group.number) for group in groups] == [(0, 0), (0, 1), (3, 0), (3, 1)]
    assert [group.example for group in groups] == ["bars-2-eval-0", "bars-2-eval-1"] * 2
    assert {len(group.responses) for group in groups} == {4}
    assert all(response.advantage is None for group in groups for response in group.responses)
    before, _, after, _ = groups
    assert before.views[0].pictures == after.views[0].pictures
    assert before.views[1].seed == after.views[1].seed


def test_a_run_keeps_which_held_out_examples_are_right(run: Path, tmp_path: Path) -> None:
    evaluated = {line["step"]: line["eval/accuracy"] for line in lines(run) if "eval/accuracy" in line}
    kept = [json.loads(line) for line in (run / "held_out.jsonl").read_text().splitlines()]
    assert [line["step"] for line in kept] == list(evaluated)
    for line in kept:
        responses = "".join(line["correct"])
        assert len({len(correct) for correct in line["correct"]}) == 1
        assert line["numbers"] == list(range(len(line["correct"])))
        assert responses.count("1") / len(responses) == pytest.approx(evaluated[line["step"]])
    shutil.copytree(run, tmp_path / "run")
    RunDir(tmp_path / "run").rewind(0)
    assert [json.loads(line) for line in (tmp_path / "run" / "held_out.jsonl").read_text().splitlines()] == kept[:1]


def test_what_is_drawn_to_be_looked_at_is_counted_apart_and_changes_nothing(
    model: Path, run: Path, tmp_path: Path
) -> None:
    with registered(Checksum):
        without = train(tiny(model, tmp_path, evaluation__held_out_groups=0)).run.path
    ours, theirs = lines(run), lines(without)
    assert [line.pop("samples/responses", None) for line in ours] == [8.0, None, 0.0, 8.0]
    assert [line.pop("samples/responses", None) for line in theirs] == [0.0, None, 0.0, 0.0]
    assert ours == theirs  # the budget among them
    assert groups_of(without, "training") == groups_of(run, "training")


@pytest.mark.parametrize(
    "sampler",
    [
        {"type": "clean", "n": 2},
        {"type": "noisy", "n_clean": 2, "n_adversarial": 2},
        {"type": "dynamic", "of": {"type": "mixed", "n_clean": 2, "n_adversarial": 2}},
        {"type": "arms", "n_clean": 2, "arms": {"low": {"n": 1}, "high": {"n": 1}}},
        {"type": "branch", "n": 4},
        {"type": "tempered", "n_clean": 2, "n_tempered": 2, "temperature": 2.0},
        {"type": "augment"},
    ],
    ids=lambda sampler: str(sampler["type"]),
)
def test_every_sampler_leaves_samples(model: Path, tmp_path: Path, sampler: dict[str, Any]) -> None:
    with registered(Checksum):
        path = train(tiny(model, tmp_path, sampler=sampler, training__steps=1)).run.path
    assert [group.step for group in groups_of(path, "held-out")] == [0, 0, 1, 1]
    for group in (*groups_of(path, "held-out"), *groups_of(path, "training")):
        assert group.responses
        for response in group.responses:
            assert len(response.ids) == len(response.pieces) == len(response.entropies) == len(response.logps)
        for view in group.views:
            assert view.pictures
            for tokens in view.tokens:
                assert len(tokens.selected) == len(tokens.entropies) == len(group.responses[tokens.response].ids)
                assert group.responses[tokens.response].view == 0


def test_the_selected_tokens_are_the_middle_third(run: Path) -> None:
    """By the definition: of L tokens in order of entropy, ties by position, those of ranks floor(L/3) to ceil(2L/3)."""
    looked_at = 0
    for group in (*groups_of(run, "training"), *groups_of(run, "held-out")):
        for tokens in group.views[1].tokens:
            entropies = group.responses[tokens.response].entropies
            length = len(entropies)
            ranked = sorted(range(length), key=lambda place: (entropies[place], place))
            chosen = set(ranked[length // 3 : -(-2 * length // 3)])
            assert {place for place, flag in enumerate(tokens.selected) if flag} == chosen
            looked_at += 1
    assert looked_at == 2 * 4 + 2 * 4


def test_entropies_under_the_final_view_are_those_of_a_pass_with_its_picture(model: Path, run: Path) -> None:
    """Scored anew by the untrained policy from the kept PNG, which need not be what the run held in memory."""
    policy = Policy.load(str(model), "think-boxed")
    group = groups_of(run, "held-out")[0]
    example = Bars(Bars.Config()).example(0, "eval")
    assert example.id == group.example
    clean = policy.view(example)
    (picture,) = (Image.open(io.BytesIO(png)) for png in group.views[1].pictures)
    canvas = torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255
    moved = replace(clean, canvases=(canvas,))
    rows = [group.responses[tokens.response] for tokens in group.views[1].tokens]
    zero = torch.zeros(0)
    responses = [Response(torch.tensor(row.ids), row.text, zero, zero, truncated=row.truncated) for row in rows]
    (known,) = policy.statistics([Need("entropy")], [moved], [responses])
    for tokens, entropy_T in zip(group.views[1].tokens, known[Need("entropy")], strict=True):
        ours = torch.tensor(tokens.entropies)
        assert torch.allclose(ours, entropy_T[: len(ours)].cpu(), atol=2e-4)
    largest = (canvas - clean.canvases[0]).abs().max() * 255
    assert group.views[1].distances["pixels"].largest == pytest.approx(float(largest), abs=1e-3)


def test_the_kept_gradient_has_the_signs_that_were_counted(run: Path) -> None:
    for group in (*groups_of(run, "training"), *groups_of(run, "held-out")):
        view = group.views[1]
        levels = np.array(Image.open(io.BytesIO(view.gradients[0])))
        assert levels.shape == np.array(Image.open(io.BytesIO(view.pictures[0]))).shape
        shares = [float((levels == level).mean()) for level in (0, 128, 255)]
        assert shares == pytest.approx(view.gradient_signs["pixels"], abs=1e-6)


def test_advantages_stand_beside_the_responses_that_were_trained_on(random_policy: Policy) -> None:
    view = random_policy.view(Bars(Bars.Config()).example(0, "eval"))
    (drawn,) = draw(random_policy, [view], [4])
    group = ScoredGroup(
        Group(view.example, (view,), tuple(drawn), (0,) * 4, (0,) * 4),
        tuple(Grade(reward, correct=reward > 0.5) for reward in (1.0, 0.0, 0.0, 1.0)),
    )
    drops = [{1: "too-long"}, dict.fromkeys(range(4), "no-variance"), {}]
    scored = [group] * 3
    remaining = [each for each in map(ScoredGroup.without, scored, drops) if each.grades]
    advantage = GRPO(GRPO.Config()).advantage
    trained = [train_group(each, advantage, [1.0, 0.0]) for each in remaining]
    samples = training_samples(7, scored, drops, trained, tokenizer=random_policy.tokenizer, pictures=2)
    assert [sample.step for sample in samples] == [7, 7]
    first, second = samples
    expected = iter(trained[0].advantages)
    assert [r.advantage for r in first.responses] == [next(expected), None, next(expected), next(expected)]
    assert [r.dropped for r in first.responses] == [None, "too-long", None, None]
    assert [r.advantage for r in second.responses] == [None] * 4
    assert {r.dropped for r in second.responses} == {"no-variance"}


def test_token_pieces_join_to_the_text(random_parts: Parts) -> None:
    tokenizer = random_parts.tokenizer
    for text in ("<think>let me see</think>", "drei Äpfel 🍎🍎 und 日本語", "  two  spaces\n\n", "e\u0301"):
        ids = tokenizer(text, add_special_tokens=False).input_ids
        pieces = token_pieces(tokenizer, ids)
        assert len(pieces) == len(ids)
        assert "".join(pieces) == tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    assert token_pieces(tokenizer, []) == []


HOSTILE = "<script>alert(1)</script>\x1b[31m\0\u202e" + "x" * 100_000 + "\ud800"


def test_any_text_is_written_and_read(tmp_path: Path) -> None:
    view = ViewSample("clean", HOSTILE, HOSTILE, (b"png",), 2**63 - 1, 1.0, {"pixels": Distance(0.5, 2.0)})
    response = ResponseSample(0, 0, HOSTILE, pieces=(HOSTILE,), parts={HOSTILE: 0.5}, extracted=HOSTILE)
    group = GroupSample(3, "held-out", 0, HOSTILE, None, (view,), (response,))
    assert write_samples(tmp_path, 3, [group]) == sample_file(tmp_path, 3).stat().st_size
    (read,) = read_samples_of(sample_file(tmp_path, 3))
    assert read.views[0].seed == 2**63 - 1
    assert read.views[0].distances == {"pixels": Distance(0.5, 2.0)}
    assert read.responses[0].text == HOSTILE.replace("\ud800", "?")
    assert list(read.responses[0].parts.values()) == [0.5]


def test_a_damaged_file_is_told_and_passed_over(run: Path, tmp_path: Path) -> None:
    (tmp_path / "samples").mkdir()
    for step in (0, 2, 3):
        sample_file(tmp_path, step).write_bytes(sample_file(run, step).read_bytes())
    whole = sample_file(run, 2).read_bytes()
    for damaged in (b"", whole[:100], whole[:-20], b"x" * 1000, whole[:200] + bytes(200) + whole[400:]):
        sample_file(tmp_path, 2).write_bytes(damaged)
        groups, problems = RunDir(tmp_path).samples()
        (problem,) = problems
        assert problem.startswith("samples/step-000002.parquet: ")
        assert {group.step for group in groups} == {0, 3}


def test_a_run_by_an_earlier_version_is_read_alike(run: Path, tmp_path: Path) -> None:
    """Its lines as that version wrote them: two groups of a step, of which the second's view was moved."""
    common = {"step": 4, "question": "How many?", "answer": "3", "entropy": 0.5}
    samples = [
        {**common, "example": "a", "origin": "clean", "reward": 1.0, "text": "one"},
        {**common, "example": "b", "origin": "clean", "reward": 0.0, "text": "two"},
        {**common, "example": "b", "origin": "adversarial", "reward": 1.0, "text": "three", "question": "How few?"},
    ]
    distances = {"pixels": {"share": 0.9, "largest": 2.0}}
    views = [
        {"step": 4, "example": "b", "view": 1, "origin": "adversarial", "seed": 5, "strength": 1.0}
        | {"distances": distances, "gradient_signs": {"pixels": [0.5, 0.0, 0.5]}}
    ]
    for name, written in (("samples", samples), ("views", views)):
        text = "".join(json.dumps(line) + "\n" for line in written) + '{"step": 4, "exam'
        (tmp_path / f"{name}.jsonl").write_text(text)
    (tmp_path / "images").mkdir()
    Image.new("RGB", (4, 4), "red").save(tmp_path / "images" / "step-000004-1-b-1-adversarial-0.png")
    first, second = RunDir(tmp_path).samples()[0]
    assert [response.text for response in first.responses] == ["one"]
    assert [(response.view, response.text, response.entropy) for response in second.responses] == [
        (0, "two", 0.5),
        (1, "three", 0.5),
    ]
    moved = second.views[1]
    assert (moved.question, moved.seed, moved.distances["pixels"].share) == ("How few?", 5, 0.9)
    assert np.array(Image.open(io.BytesIO(moved.pictures[0]))).max() == 255
    (tmp_path / "config.yaml").write_text((run / "config.yaml").read_text())
    tables = read_run(tmp_path)
    assert list(tables.samples["origin"]) == ["clean", "clean", "adversarial"]
    assert list(tables.views["seed"]) == [5]
