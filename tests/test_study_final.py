"""The final evaluation of a study's runs: measures by hand and by brute force, disjoint problems, kills, the base."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, TypeAlias

import pytest
from scipy.stats import hypergeom

from groups import own_forward, spoken
from runs import Checksum, lines, registered, tiny, train
from saei.config.run import RunConfig
from saei.data.bars import Bars
from saei.data.base import Split
from saei.engine import checkpoint
from saei.engine.setup import load_policy
from saei.errors import ConfigError
from saei.evaluation.answers import AnswerSet, answer
from saei.evaluation.robustness.conditions import Condition, ConditionIntervention
from saei.policy import Policy
from saei.runtime.lock import FolderLock
from saei.runtime.seeds import derive
from saei.studies.final import evaluation
from saei.studies.final.evaluation import BASES, FIRST, SEED, check_problems
from saei.studies.final.measures import against_base, content_ids, distinct, measures, problem_result
from saei.studies.final.settings import FINAL, FinalSettings
from saei.studies.process import REFUSED, main
from saei.studies.runs import PlannedRun, configuration_hash, is_complete, is_trained, prepare
from saei.studies.study import read
from saei.types import Example, Grade, View
from test_study import CONTENT, opened, written

SMALL = FinalSettings(examples=3, responses=8)
ATTACKED = FinalSettings(
    examples=3,
    responses=8,
    under_attack=("noise", "nll-pgd", "from-base"),
    radius=Fraction(16, 255),
    attacked_examples=2,
    attacked_responses=4,
)


Said: TypeAlias = tuple[str, str | None, bool]
"""A response, its final answer, and whether that is right."""


class Ways(Bars):
    """Tells solutions apart by the first letter of the answer."""

    class Config(Bars.Config):
        type: Literal["ways"] = "ways"  # type: ignore[assignment]

    def solution(self, example: Example, answer: str) -> str | None:
        return answer[0]


def answers(
    policy: Policy, view: View, said: Sequence[tuple[str, str | None, bool]], rewards: float = 0.0
) -> AnswerSet:
    """Responses with final answers that are right or not; the token at place n of each has n nats."""
    responses = tuple(spoken(policy, text) for text, _, _ in said)
    grades = tuple(Grade(rewards + correct, correct, {}, final) for _, final, correct in said)
    return AnswerSet(view, responses, grades)


@pytest.fixture
def mixed(random_policy: Policy, views: list[View]) -> AnswerSet:
    """Eight responses: five right ones in two ways, two wrong ones that agree, one without an answer."""
    right = [("it is 5", "a1", True), ("it is 5", "a1", True), ("5", "a2", True), ("so 5", "b", True), ("5", "b", True)]
    wrong = [("4", "4", False), ("it is 4", "4", False), ("so it looks like", None, False)]
    return answers(random_policy, views[0], [*right, *wrong], rewards=0.1)


def test_measures_worked_by_hand(random_policy: Policy, views: list[View], mixed: AnswerSet) -> None:
    unsolved = answers(random_policy, views[1], [("4", "4", False)] * 6 + [("5", "5", False)] * 2, rewards=0.1)
    content = content_ids(random_policy.tokenizer)
    problems = [problem_result(each, Ways(), content) for each in (mixed, unsolved)]
    values = measures(problems)
    assert values["final/accuracy"] == 5 / 16
    assert set(values) == {
        f"final/{name}"
        for name in (
            *("accuracy", "pass@4", "calibration", "length", "truncated", "distinct"),
            *("entropy", "entropy/content", "reward_gap"),
        )
    }
    # Brute force over all choices of four of the eight responses.
    right = [grade.correct for grade in mixed.grades]
    choices = list(combinations(range(8), 4))
    assert values["final/pass@4"] == pytest.approx(fmean(any(right[n] for n in choice) for choice in choices) / 2)
    ways = [grade.answer[0] if grade.correct and grade.answer else None for grade in mixed.grades]
    expected = fmean(len({ways[n] for n in choice} - {None}) for choice in choices)
    assert distinct(problems[0]) == pytest.approx(expected)
    assert values["final/distinct"] == pytest.approx(expected / 2)
    # Answers: a1 2, a2 1, b 2, "4" 2, none 1; three share the first place, two of them right. And "4" 6 of 8, wrong.
    # 2/8 lies in the bin above .2 with .667 right, 6/8 in that above .7 with none.
    assert values["final/calibration"] == pytest.approx((2 / 3 - 0.25 + 0.75) / 2)
    assert values["final/reward_gap"] == pytest.approx(0.1)
    assert values["final/truncated"] == 0
    tokens = [len(response) for each in (mixed, unsolved) for response in each.responses]
    assert values["final/length"] == sum(tokens) / 16
    assert values["final/entropy"] == pytest.approx(sum(n * (n - 1) / 2 for n in tokens) / sum(tokens))
    # "4" and "5" are the only words that say something: at place 0, 1 ("so 5"), 2 ("it is 5"), in 15 responses.
    places = [2, 2, 0, 1, 0, 0, 2] + [0] * 8
    assert values["final/entropy/content"] == pytest.approx(sum(places) / len(places))


def test_a_majority_of_sixteen_is_a_hypergeometric_draw(random_policy: Policy, views: list[View]) -> None:
    said = [("5", "5", True)] * 20 + [("4", "4", False)] * 12
    values = measures([problem_result(answers(random_policy, views[0], said), Bars(), None)])
    draw = hypergeom(32, 20, 16)
    assert values["final/maj@16"] == pytest.approx(draw.sf(8) + draw.pmf(8) / 2)
    assert values["final/pass@16"] == 1  # twelve are wrong
    assert "final/pass@64" not in values
    assert "final/entropy/content" not in values


def test_a_policy_against_its_base_worked_by_hand() -> None:
    """Five problems: one gained, two lost."""
    base = {"final/accuracy": 0.5, "final/pass@4": 0.75, "problems": {"right": [0, 3, 1, 0, 8]}}
    trained = {"final/accuracy": 0.625, "final/pass@4": 0.5, "problems": {"right": [2, 0, 0, 0, 8]}}
    distincts = {"final/distinct": 0.5}
    assert against_base(trained | distincts, base | distincts) == {
        "final/gained": 0.2,
        "final/lost": 0.4,
        "final/change/accuracy": 0.125,
        "final/change/pass@4": -0.25,
        "final/change/distinct": 0.0,
        "base/accuracy": 0.5,
        "base/pass@4": 0.75,
        "base/distinct": 0.5,
    }


def test_only_tokenizers_of_whole_words_tell_what_is_content(random_policy: Policy) -> None:
    content = content_ids(random_policy.tokenizer)
    assert content is not None
    ids = random_policy.tokenizer("let me read the chart: the red = 12</think> \\boxed{yes}", add_special_tokens=False)[
        "input_ids"
    ]
    words = [random_policy.tokenizer.decode([token]).strip() for token in ids if token in content]
    assert words == ["12", "yes"]
    assert content_ids(type("Bytes", (), {"get_vocab": lambda self: {"Ġ99": 1, "9": 2, "yes": 3}})()) is None


class Finite(Bars):
    """Twelve evaluation problems, of which one cannot be used."""

    class Config(Bars.Config):
        type: Literal["finite"] = "finite"  # type: ignore[assignment]

    def size(self, split: Split = "train") -> int | None:
        return 12 if split == "eval" else None

    def example(self, index: int, split: Split = "train") -> Example:
        example = super().example(index, split)
        if split == "eval" and index == 1:
            return replace(example, question="?" * 10_000)
        return example


def test_problems_are_those_that_no_evaluation_looks_at(model: Path, tmp_path: Path) -> None:
    config = tiny(model, tmp_path, reward="accuracy-format", sampling__max_prompt_tokens=200)
    policy = load_policy(config, config.template.build())
    views = evaluation._problems(config, SMALL, Bars(), policy)
    assert [view.index for view in views] == [FIRST, FIRST + 1, FIRST + 2]
    assert views[0].example.id == Bars().example(FIRST, "eval").id
    with registered(Finite):
        config = tiny(model, tmp_path, reward="accuracy-format", task="finite", evaluation__probe_examples=4)
        config = config.model_copy(update={"sampling": config.sampling.model_copy(update={"max_prompt_tokens": 200})})
        # Evaluations use 0, 2, 3, 4, since 1 is too long.
        policy = load_policy(config, config.template.build())
        assert [view.index for view in evaluation._problems(config, SMALL, Finite(), policy)] == [5, 6, 7]
        check_problems(config, FinalSettings(examples=8))
        with pytest.raises(ConfigError, match=r"has 12, evaluations look at 4, and 9 more"):
            check_problems(config, FinalSettings(examples=9))


def run_to_its_end(config: RunConfig, final: FinalSettings | None = SMALL) -> Path:
    folder = prepare(PlannedRun("x", config, final=final))
    assert main(folder) == 0
    return folder


def final_of(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / FINAL).read_text())
    del content["final/seconds"]
    return content


@pytest.fixture(scope="module")
def finished(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run with its final evaluation, under attack too."""
    with registered(Checksum):
        yield run_to_its_end(tiny(model, tmp_path_factory.mktemp("studies") / "runs", "first"), ATTACKED)


def test_a_run_trains_as_without_a_final_evaluation(model: Path, finished: Path, tmp_path: Path) -> None:
    with registered(Checksum):
        plain = train(tiny(model, tmp_path, "plain")).run.path
    assert lines(finished) == lines(plain)
    assert not (plain / FINAL).exists()


def test_the_final_evaluation_is_what_fresh_responses_say(model: Path, finished: Path) -> None:
    result = final_of(finished)
    config = tiny(model, finished.parent, "first")
    policies = {
        "trained": load_policy(config, config.template.build(), checkpoint=checkpoint.latest(finished / "checkpoints")),
        "base": load_policy(config, config.template.build()),
    }
    sampling = config.sampling.model_copy(update={"temperature": 1.0})
    views = [policies["base"].view(Bars().example(FIRST + n, "eval"), FIRST + n) for n in range(3)]
    right = {}
    for name, policy in policies.items():
        seed = derive(SEED, "responses")
        drawn = answer(policy, Checksum(), views, responses=8, sampling=sampling, seed=seed)
        right[name] = [sum(grade.correct for grade in each.grades) for each in drawn]
    problems = result["problems"]
    assert problems["index"] == [FIRST, FIRST + 1, FIRST + 2]
    assert problems["responses"] == [8, 8, 8]
    assert (problems["right"], problems["base_right"]) == (right["trained"], right["base"])
    assert right["trained"] != right["base"]
    assert problems["distinct"] == [int(count > 0) for count in right["trained"]]
    assert result["final/accuracy"] == sum(right["trained"]) / 24
    assert result["base/accuracy"] == sum(right["base"]) / 24
    assert result["final/change/accuracy"] == pytest.approx((sum(right["trained"]) - sum(right["base"])) / 24)
    # The divergences by the model's own forward, token by token.
    for name, one, other in (("to_base", "trained", "base"), ("from_base", "base", "trained")):
        seed = derive(SEED, "divergence")
        drawn = answer(policies[one], Checksum(), views, responses=4, sampling=sampling, seed=seed)
        terms = []
        for each in drawn:
            for response in each.responses:
                p, q = (
                    own_forward(policies[which], each.view, response).detach().gather(1, response.ids_T[:, None])[:, 0]
                    for which in (one, other)
                )
                terms += ((q - p).exp() - 1 - (q - p)).tolist()
        assert result[f"final/kl/{name}"] == pytest.approx(fmean(terms), rel=1e-3)
    # The trained policy under attack, and the pictures that were attacked on the base.
    assert result["final/under/clean"] == sum(right["trained"][:2]) / 16
    condition = Condition("gold", Fraction(16, 255))
    perturb = ConditionIntervention(condition, policies["trained"], Checksum(), sampling, 0)
    seed = derive(SEED, "under nll-pgd")
    drawn = answer(policies["trained"], Checksum(), perturb(views[:2]), responses=4, sampling=sampling, seed=seed)
    attacked = [grade.correct for each in drawn for grade in each.grades]
    assert result["final/under/nll-pgd"] == sum(attacked) / 8
    assert {"final/under/noise", "final/under/base"} <= set(result)
    assert len(list((finished.parent.parent / BASES).rglob("*.png"))) == 2


def test_a_kill_before_the_end_costs_the_final_evaluation_alone(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with registered(Checksum):
        config = tiny(model, tmp_path / "runs", "x")
        folder = prepare(PlannedRun("x", config, final=SMALL))
        written_files: list[str] = []

        def killed(file: Path, result: Any) -> None:
            written_files.append(file.name)
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(evaluation, "_write", killed)
            with pytest.raises(KeyboardInterrupt):
                main(folder)
        assert written_files == [FINAL]
        assert is_trained(folder, 3)
        assert not is_complete(folder, 3)
        assert prepare(PlannedRun("x", config, final=SMALL)) == folder
        trained = {file: file.stat().st_mtime_ns for file in folder.rglob("*") if file.is_file()}
        assert main(folder) == 0
        assert is_complete(folder, 3)
        after = {file: file.stat().st_mtime_ns for file in folder.rglob("*") if file.is_file()}
        assert {file.name for file in after.keys() - trained.keys()} == {FINAL}
        assert {file for file in trained if after.get(file) != trained[file]} == set()
        first = final_of(folder)
        (folder / FINAL).unlink()
        assert main(folder) == 0
        assert final_of(folder) == first


def test_a_base_is_evaluated_once_whatever_the_arm(model: Path, finished: Path) -> None:
    of_base = list((finished.parent.parent / BASES).rglob(FINAL))
    pictures = list((finished.parent.parent / BASES).rglob("*.png"))
    before = [file.stat().st_mtime_ns for file in (*of_base, *pictures)]
    with registered(Checksum):
        other = run_to_its_end(tiny(model, finished.parent, "other", optimizer__lr=3e-3), ATTACKED)
    assert [file.stat().st_mtime_ns for file in (*of_base, *pictures)] == before
    assert len(list((finished.parent.parent / BASES).rglob(FINAL))) == 1
    ours, theirs = final_of(finished), final_of(other)
    of_the_base = [name for name in ours if name.startswith("base/")]
    assert [ours[name] for name in of_the_base] == [theirs[name] for name in of_the_base]
    assert ours["problems"]["index"] == theirs["problems"]["index"]
    assert ours["final/kl/to_base"] != theirs["final/kl/to_base"]


def test_whoever_comes_second_waits_for_the_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, seen = tmp_path / "base" / FINAL, []
    monkeypatch.setattr(evaluation, "LOOK_S", 0.01)
    first = FolderLock(file.parent)
    assert not evaluation._exists_or_locked(file, first)
    assert first.held
    first.release()
    elsewhere = {"host": "elsewhere", "process": 1, "since": "now", "token": "x"}
    (file.parent / "lock").write_text(json.dumps(elsewhere))
    second = FolderLock(file.parent)
    waiting = threading.Thread(target=lambda: seen.append(evaluation._exists_or_locked(file, second)))
    waiting.start()
    time.sleep(0.1)
    assert waiting.is_alive()
    file.write_text("{}")
    waiting.join(10)
    assert seen == [True]
    assert not second.held
    # It may also have been written after the last look, just before the lock is taken.
    late = tmp_path / "late" / FINAL
    lock = FolderLock(late.parent)
    acquire = lock.acquire
    monkeypatch.setattr(lock, "acquire", lambda: (acquire(), late.write_text("{}")))
    assert evaluation._exists_or_locked(late, lock)


def test_a_final_evaluation_is_part_of_what_a_run_is(model: Path, tmp_path: Path) -> None:
    config = tiny(model, tmp_path, reward="accuracy-format")
    hashes = {configuration_hash(config, final) for final in (None, SMALL, FinalSettings(), ATTACKED)}
    assert len(hashes) == 4
    folders = []
    for final in (None, SMALL):
        folder = prepare(PlannedRun("x", config, final=final))
        saved = folder / "checkpoints" / "step-000003" / checkpoint.STATE
        saved.parent.mkdir(parents=True)
        saved.touch()
        folders.append(folder)
    assert folders[0] != folders[1]
    assert [is_complete(folder, 3) for folder in folders] == [True, False]
    (folders[1] / FINAL).write_text("{}")
    assert is_complete(folders[1], 3)
    assert not is_complete(folders[1], 4)


def test_too_few_problems_are_told_before_the_training(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with registered(Checksum, Finite):
        folder = prepare(PlannedRun("x", tiny(model, tmp_path, task="finite"), final=FinalSettings()))
        assert main(folder) == REFUSED
    assert "no evaluation of the run looks at" in capsys.readouterr().err
    assert not (folder / "metrics.jsonl").exists()


def test_a_study_passes_it_on_to_its_runs(tmp_path: Path) -> None:
    plain, final = opened(tmp_path), opened(tmp_path, final={"examples": 8, "responses": 64})
    assert {run.planned.final for run in plain.runs()} == {None}
    assert {run.planned.final for run in final.runs()} == {FinalSettings(examples=8, responses=64)}
    assert not {run.identity for run in plain.runs()} & {run.identity for run in final.runs()}
    assert final.runs()[0].planned.responses - plain.runs()[0].planned.responses == 8 * 64
    quick = read(written(tmp_path, final={"under_attack": ["noise"], "attacked_examples": 1}), quick=True)
    assert quick.final == FinalSettings(
        examples=4, responses=32, under_attack=("noise",), attacked_examples=1, attacked_responses=2
    )
    assert quick.final.drawn == 4 * 32 + 1 * 2


def test_a_contrast_takes_no_final_measure_that_nobody_takes(tmp_path: Path) -> None:
    contrasts = [{**CONTENT["contrasts"][0], "measure": "final/pass@16"}]
    with pytest.raises(ConfigError, match="measure"):
        read(written(tmp_path, contrasts=contrasts))
