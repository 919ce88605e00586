"""Attacks on the question in interventions, groups and runs: oracles, golds, records, and what is refused."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
import torch
from scipy.spatial.distance import pdist

from commands import Said
from groups import draw, no_grades, sources
from runs import Checksum, Quiet, lines, registered, tiny, train
from saei.config.run import RunConfig, validate
from saei.config.strategy import StrategyConfig
from saei.data.bars import Bars
from saei.data.templates import ThinkBoxed
from saei.diagnostics.bench import NAIVE_ATTACK, passes
from saei.diagnostics.footprint import footprint_of
from saei.diagnostics.synthetic import draw_responses, step_config
from saei.engine.grader import StepGrader
from saei.engine.metrics import group_metrics
from saei.engine.replay_group import KeptGroup
from saei.engine.setup import build_strategies
from saei.errors import ConfigError, DataError
from saei.interventions import Intervention, InterventionConfig, Outcome
from saei.interventions.context import StepContext, Supply
from saei.interventions.editable import editable_places, has_editable_word
from saei.interventions.point import OpenViews
from saei.interventions.single import attack as single_attack
from saei.interventions.text_surfaces import Embeddings, Tokens, Wording
from saei.policy import Policy
from saei.policy.decoder import Completion, Decoder, DrawRequest
from saei.policy.load.weights import Parts
from saei.report.run_tables import read_run
from saei.rewards.base import Reward
from saei.runtime.interrupt import Interrupted
from saei.runtime.run_dir import RunDir
from saei.runtime.seeds import GroupSources
from saei.samplers.mixed import Mixed
from saei.types import Example, Grade, Response, ScoredGroup, TrainGroup, View

ATTACKS = ("gcg", "hotflip", "joint", "neftune", "paraphrase", "random-swap", "text-fgsm", "text-pgd")
TOKEN_ATTACKS = ("gcg", "hotflip", "random-swap")
WORDS = ("what", "is", "which", "bar", "higher", "highest", "or", "how", "high", "the")
"""Of the questions of ``bars``, but for the colours."""

Oracle = Callable[[Example, str], str | None]


def kept(example: Example, question: str) -> str | None:
    return example.answer


def by_example(example: Example, question: str) -> str | None:
    """The first question keeps its answer, the second gets another one, the third none; unchanged ones keep theirs."""
    answers = (example.answer, "77", None)
    return example.answer if question == example.question else answers[int(example.id.rsplit("-", 1)[1])]


@pytest.fixture
def views(random_policy: Policy, bars: Bars) -> list[View]:
    examples = [replace(bars.example(n), wordings=bars.wordings(bars.example(n))) for n in range(3)]
    return [random_policy.view(example, number) for number, example in enumerate(examples)]


@pytest.fixture
def responses(random_policy: Policy, views: list[View]) -> list[list[Response]]:
    return draw(random_policy, views, [2, 2, 2])


def step_of(policy: Policy, answer: Oracle | None = None) -> StepContext:
    return StepContext(policy, 0.0, GroupSources(3), answer=answer)


def apply(
    policy: Policy, views: Sequence[View], responses: Any, answer: Oracle | None = None, **slots: Any
) -> list[Outcome]:
    intervention = Intervention(InterventionConfig.model_validate(slots))
    return intervention.apply(views, responses, step_of(policy, answer))


def no_grade() -> Grade:
    return Grade(0.0, False)


# What moves


def test_the_units_of_embeddings_are_those_of_the_table(random_policy: Policy, views: list[View]) -> None:
    assert random_policy.distribution.banned_V is not None
    table_Vd = random_policy.model.get_input_embeddings().weight.detach()[~random_policy.distribution.banned_V]
    opening = Embeddings().open(random_policy, views, scale=1.0)
    for view, block, space in zip(views, opening.blocks, opening.spaces, strict=True):
        assert view.question is not None
        assert block.shape == (len(view.question.places_Q), table_Vd.shape[1])
        assert space.units["rms"] == pytest.approx(float(table_Vd.square().mean() ** 0.5), rel=1e-5)
        # A step of this length at each feature goes as far as half of all tokens are apart.
        median = float(torch.tensor(pdist(table_Vd.numpy())).median())
        assert float(space.units["distance"]) * table_Vd.shape[1] ** 0.5 == pytest.approx(median, rel=1e-4)
        assert float(space.units["neftune"]) == pytest.approx(block.numel() ** -0.5)


def test_hotflip_finds_the_best_of_all_swaps_of_the_vocabulary(
    random_policy: Policy, views: list[View], responses: list[list[Response]]
) -> None:
    """By brute force: every legal swap of the first question, scored one by one."""
    view, drawn = views[0], responses[0]

    def nll(other: View) -> float:
        (scores,) = random_policy.score([other], [drawn])
        return float(-(scores.logp_NT.sum(1) / scores.mask_NT.sum(1)).mean())

    opening = Tokens().open(random_policy, [view], scale=1.0)
    (ids_Q,), (space,) = opening.blocks, opening.spaces
    assert space.tokens is not None
    kind_V, values = space.tokens.kind_V, {}
    for place in torch.as_tensor(space.editable).nonzero()[:, 0].tolist():
        for token in ((kind_V == kind_V[ids_Q[place]]) & (kind_V >= 0)).nonzero()[:, 0].tolist():
            swapped_Q = ids_Q.clone()
            swapped_Q[place] = token
            swapped = random_policy.with_question_ids(view, swapped_Q)
            if swapped is not None:
                values[swapped.example.question] = nll(swapped)
    assert len(values) > 100
    slots: dict[str, Any] = {"criterion": "nll", "selector": "all", "attack": {"type": "hotflip", "width": 4096}}
    (outcome,) = apply(random_policy, [view], [drawn], **slots)
    assert outcome.view.example.question == max(values, key=lambda question: values[question])
    assert outcome.metrics["criterion"] == pytest.approx(values[view.example.question], abs=1e-5)
    assert outcome.metrics["editable"] == sum(torch.as_tensor(space.editable).tolist())
    assert outcome.metrics["largest_change"] == 1


def test_each_block_of_a_joint_attack_stays_in_its_own_ball(
    random_policy: Policy, views: list[View], responses: list[list[Response]]
) -> None:
    of = {"pixels": {"type": "pgd", "step": "1/255", "steps": 3, "radius": "2/255"}}
    of |= {"embeddings": {"type": "text-pgd", "step": "1/10", "steps": 3, "radius": "3/20"}}
    text_only = random_policy.view(Example("t", "What is red?", "3"), 3)
    (drawn,) = draw(random_policy, [text_only], [2])
    outcomes = apply(random_policy, [*views, text_only], [*responses, drawn], attack={"type": "joint", "of": of})
    for view, outcome in zip([*views, text_only], outcomes, strict=True):
        moved = outcome.view
        for before, after in zip(view.canvases, moved.canvases, strict=True):
            assert float((after - before).abs().max()) * 255 == pytest.approx(2, abs=1e-3)
        assert moved.offset_Qd is not None
        assert float(moved.offset_Qd.abs().max()) == pytest.approx(0.15 * random_policy.embeddings.rms, rel=1e-5)
        frozen = [not bool(row.any()) for row in moved.offset_Qd]
        assert any(frozen)
        assert not all(frozen)
        assert outcome.metrics["embeddings/editable"] == len(frozen) - sum(frozen)
        assert ("pixels/moved" in outcome.metrics) == bool(view.canvases)


def test_a_joint_attack_moves_tokens_where_the_picture_has_come_to(
    random_policy: Policy, views: list[View], responses: list[list[Response]]
) -> None:
    """As the two attacks one after the other, the second on views that the first has made."""
    slots: dict[str, Any] = {"criterion": "nll", "selector": "all"}
    of = {"pixels": {"type": "pgd", "step": "40/255"}, "tokens": {"type": "hotflip", "width": 3}}
    together = apply(random_policy, views, responses, attack={"type": "joint", "of": of}, **slots)
    first = [outcome.view for outcome in apply(random_policy, views, responses, attack=of["pixels"], **slots)]
    second = apply(random_policy, first, responses, attack=of["tokens"], **slots)
    alone = apply(random_policy, views, responses, attack=of["tokens"], **slots)
    for outcome, picture, expected in zip(together, first, second, strict=True):
        assert all(map(torch.equal, outcome.view.canvases, picture.canvases))
        assert outcome.view.example.question == expected.view.example.question
    questions = [[outcome.view.example.question for outcome in each] for each in (together, alone)]
    assert questions[0] != questions[1]  # the picture made a difference


def test_a_paraphrase_is_the_view_of_another_wording(
    random_policy: Policy, views: list[View], responses: list[list[Response]]
) -> None:
    outcomes = apply(random_policy, views, responses, attack="paraphrase", answer=by_example)
    for view, outcome in zip(views, outcomes, strict=True):
        assert outcome.view.example.question in view.example.wordings
        assert outcome.view.example.answer == view.example.answer
        assert outcome.view.origin == "paraphrased"
        expected = random_policy.view(replace(view.example, question=outcome.view.example.question), view.index)
        assert torch.equal(outcome.view.prompt_ids_P, expected.prompt_ids_P)
        assert torch.equal(outcome.view.positions_KP, expected.positions_KP)
        assert all(map(torch.equal, outcome.view.canvases, expected.canvases))
    (plain,) = apply(random_policy, [random_policy.view(Bars().example(0))], [responses[0]], attack="paraphrase")
    assert plain.untouched == "one-wording"


def test_every_wording_has_its_number(random_policy: Policy, views: list[View]) -> None:
    """0 is the question as it was asked, n the n-th of the others."""
    example = replace(views[0].example, wordings=("How many are 1 + 2?", "Add 1 and 2."))
    view = replace(views[0], example=example)
    moved = Wording().moved(random_policy, [view] * 3, [torch.tensor([number]) for number in range(3)])
    assert [each.example.question for each in moved] == [example.question, *example.wordings]
    assert len({tuple(each.prompt_ids_P.tolist()) for each in moved}) == 3


def test_protected_names_are_neither_changed_nor_written(
    random_policy: Policy, views: list[View], responses: list[list[Response]]
) -> None:
    colours = ["red", "green", "blue", "yellow"]
    surfaces = [{"type": "tokens", "protected": colours}]
    for seed in range(5):
        step = StepContext(random_policy, 0.0, GroupSources(seed))
        slots = InterventionConfig.model_validate({"attack": {"type": "random-swap", "swaps": 8}, "surfaces": surfaces})
        for view, outcome in zip(views, Intervention(slots).apply(views, responses, step), strict=True):
            before, after = (each.example.question for each in (view, outcome.view))
            named = [[word for word in re.findall(r"\w+", text) if word in colours] for text in (before, after)]
            assert named[0] == named[1]
            assert before != after
    nothing = [{"type": "tokens", "protected": [*colours, *WORDS]}]
    outcomes = apply(random_policy, views, responses, attack="random-swap", surfaces=nothing)
    assert {outcome.untouched for outcome in outcomes} == {"nothing-editable"}


# Answers to changed questions


class Asked(Reward):
    """Right is what is the gold; remembers what it was asked to grade."""

    class Config(StrategyConfig):
        type: Literal["asked"] = "asked"

    attempts: ClassVar[list[tuple[str, str]]] = []

    def grade(self, example: Example, text: str, *, truncated: bool = False) -> Grade:
        self.attempts.append((example.question, example.answer))
        return Grade(float(example.answer == "77"), example.answer == "77")


@pytest.mark.parametrize("attack", TOKEN_ATTACKS)
def test_a_changed_question_is_kept_answered_anew_or_drawn_clean(
    random_policy: Policy, views: list[View], responses: list[list[Response]], attack: str
) -> None:
    slots = {"criterion": "nll", "selector": "all", "attack": attack}
    outcomes = apply(random_policy, views, responses, by_example, **slots)
    assert [outcome.untouched for outcome in outcomes] == [None, None, "unanswerable"]
    assert [outcome.view.example.answer for outcome in outcomes[:2]] == [views[0].example.answer, "77"]
    assert [outcome.metrics["answer_changed"] for outcome in outcomes[:2]] == [0, 1]
    assert outcomes[2].view is views[2]
    assert outcomes[2].record is None
    without_oracle = apply(random_policy, views, responses, **slots)
    for view, outcome in zip(views, without_oracle, strict=True):
        assert outcome.view.example.question != view.example.question
        assert outcome.view.example.answer == view.example.answer


@pytest.mark.parametrize("update_on", ["sampled", "clean", "perturbed"])
def test_the_gold_is_that_of_the_update_view(random_policy: Policy, views: list[View], update_on: str) -> None:
    sampler = Mixed.Config.model_validate(
        {"n_clean": 2, "n_adversarial": 3, "update_on": update_on, "intervention": {"attack": "random-swap"}}
    ).build()
    supply = Supply(no_grades)
    groups = sampler.draw(views, step_of(random_policy, by_example), supply)
    assert [len(group.responses) for group in groups] == [5] * 3  # also where the question had no answer
    assert [len(group.views) for group in groups] == [2, 2, 1]
    Asked.attempts.clear()
    scored = StepGrader(Asked()).score(groups)
    changed = {"sampled": [False] * 2 + [True] * 3, "clean": [False] * 5, "perturbed": [True] * 5}[update_on]
    assert [grade.correct for grade in scored[1].grades] == changed
    assert not any(grade.correct for number in (0, 2) for grade in scored[number].grades)
    clean, moved = (groups[1].views[number].example.question for number in (0, 1))
    asked = {question for question, _ in Asked.attempts if question in (clean, moved)}
    assert asked == {"sampled": {clean, moved}, "clean": {clean}, "perturbed": {moved}}[update_on]
    # Grades that a gate or `dynamic` has asked for are the same.
    again = [Supply(StepGrader(Asked())).grade_group(group) for group in groups]
    assert [[grade.correct for grade in grades] for grades in again] == [
        [grade.correct for grade in group.grades] for group in scored
    ]
    metrics = group_metrics(scored, reasons=sampler.plan().untouched)
    assert metrics["untouched/unanswerable"] == pytest.approx(1 / 3)
    assert metrics["untouched/nothing-editable"] == metrics["untouched/no-question"] == 0
    assert metrics["intervention/answer_changed"] == pytest.approx(1 / 2)
    assert metrics["intervention/editable"] > 1


# Which swaps may be taken

ANSWERS = {
    "Which is red + yellow?": "3",
    "what is red + yellow?": "3",
    "which is red + yellow?": "3",
    "What Is red + yellow?": "3",
    "What Are red + yellow?": "3",
    "What are red + yellow?": "3",
    "What is red + green?": "3",
    "What is green + yellow?": "4",
    "What is blue + yellow?": "7",
    "What is yellow + yellow?": "4",
    "What is red + red?": "2",
    "What is red + blue?": "6",
}
"""By hand: all answerable questions that one swap makes of 3 = 1 + 2 where green is 2 and blue 5."""
ALLOWED = {
    "answerable": set(ANSWERS),
    "answer-kept": {question for question, answer in ANSWERS.items() if answer == "3"},
}


def restricted(questions: str, attack: Any = "hotflip", protected: tuple[str, ...] = ()) -> dict[str, Any]:
    return {"attack": attack, "surfaces": [{"type": "tokens", "questions": questions, "protected": protected}]}


@pytest.fixture(scope="module")
def sum_view(random_parts: Parts) -> View:
    heights = {"red": 1, "yellow": 2, "green": 2, "blue": 5}
    example = replace(Bars().example(0), question="What is red + yellow?", answer="3", meta={"quantities": heights})
    return Policy(random_parts, ThinkBoxed()).view(example, 0)


def questions_of_swaps(policy: Policy, view: View, oracle: Oracle | None, questions: str, *protected: str) -> set[str]:
    """All questions that a legal swap makes, by a loop over places and tokens."""
    surface = Tokens.Config.model_validate({"questions": questions, "protected": protected}).build()
    opened = OpenViews([surface], policy, [view], scale=1.0, oracle=oracle)
    (ids_Q,), (space,) = opened.start, opened.space.blocks
    assert space.tokens is not None
    kind_V, texts = space.tokens.kind_V, set()
    for place in torch.as_tensor(space.editable).nonzero()[:, 0].tolist():
        for token in ((kind_V == kind_V[ids_Q[place]]) & (kind_V >= 0)).nonzero()[:, 0].tolist():
            swapped_Q = ids_Q.index_fill(0, torch.tensor(place), token)
            if token != int(ids_Q[place]) and space.tokens.legal(swapped_Q):
                swapped = policy.with_question_ids(view, swapped_Q)
                assert swapped is not None
                assert policy.question_text(view, swapped_Q) == swapped.example.question
                texts.add(swapped.example.question)
    return texts


def test_the_oracle_restricts_swaps_to_those_that_it_allows(random_policy: Policy, sum_view: View) -> None:
    oracle = Bars().answer
    legal = {each: questions_of_swaps(random_policy, sum_view, oracle, each) for each in ("any", *ALLOWED)}
    assert legal["answerable"] == ALLOWED["answerable"]
    assert legal["answer-kept"] == ALLOWED["answer-kept"]
    by_oracle = {text: oracle(sum_view.example, text) for text in legal["any"]}
    assert {text: answer for text, answer in by_oracle.items() if answer is not None} == ANSWERS
    assert len(legal["any"]) > 10 * len(ANSWERS)


@pytest.mark.parametrize("of", [None, "joint"])
@pytest.mark.parametrize("questions", ["any", "answerable", "answer-kept"])
def test_hotflip_finds_the_best_of_the_swaps_that_are_allowed(
    random_policy: Policy, sum_view: View, questions: str, of: str | None
) -> None:
    """Each best is another one, so that no way can stand for its sibling."""
    (drawn,) = draw(random_policy, [sum_view], [3])
    step = step_of(random_policy, lambda example, question: Bars().answer(example, question) or "none")

    def nll(question: str) -> float:
        view = random_policy.view(replace(sum_view.example, question=question), 0)
        (scores,) = random_policy.score([view], [drawn])
        return float(-(scores.logp_NT.sum(1) / scores.mask_NT.sum(1)).mean())

    values = {text: nll(text) for text in questions_of_swaps(random_policy, sum_view, None, "any", "what", "is")}
    allowed = {"any": set(values), **ALLOWED}
    bests = {each: max(allowed[each] & set(values), key=lambda text: values[text]) for each in allowed}
    assert len(set(bests.values())) == 3
    attack: Any = {"type": "hotflip", "width": 4096}
    slots = restricted(questions, attack, protected=("what", "is"))
    if of == "joint":
        pixels = {"type": "pgd", "steps": 0}
        slots["attack"] = {"type": "joint", "of": {"pixels": pixels, "tokens": attack}}
        slots["surfaces"] = ["pixels", *slots["surfaces"]]
    if questions != "any":
        step = step_of(random_policy, Bars().answer)
    intervention = Intervention(InterventionConfig.model_validate({"criterion": "nll", "selector": "all", **slots}))
    (outcome,) = intervention.apply([sum_view], [drawn], step)
    assert outcome.view.example.question == bests[questions]
    assert outcome.view.example.answer == ANSWERS.get(bests[questions], "none")
    changed = {"any": 1.0, "answerable": 1.0, "answer-kept": None}[questions]
    assert outcome.metrics.get("answer_changed") == changed


@pytest.mark.parametrize("attack", ["gcg", {"type": "random-swap", "swaps": 2}])
@pytest.mark.parametrize("questions", ["answerable", "answer-kept"])
def test_a_restricted_group_is_never_left_alone_as_unanswerable(
    random_policy: Policy, bars: Bars, questions: str, attack: Any
) -> None:
    views = [random_policy.view(bars.example(number), number) for number in range(6)]
    drawn = draw(random_policy, views, [1] * len(views))
    slots = {"selector": "all", "criterion": "nll", **restricted(questions, attack)}
    outcomes = apply(random_policy, views, drawn, bars.answer, **slots)
    for view, outcome in zip(views, outcomes, strict=True):
        asked = outcome.view.example
        assert outcome.untouched is None
        assert bars.answer(view.example, asked.question) == asked.answer
        assert asked.answer == view.example.answer or questions == "answerable"
    moved = [
        outcome.view.example.question != view.example.question for view, outcome in zip(views, outcomes, strict=True)
    ]
    assert sum(moved) >= 4
    if questions == "answerable":
        assert any(
            outcome.view.example.answer != view.example.answer for view, outcome in zip(views, outcomes, strict=True)
        )


class NoOracle(Bars):
    """Bars whose changed questions nobody can answer."""

    oracle = False

    class Config(Bars.Config):
        type: Literal["no-oracle"] = "no-oracle"  # type: ignore[assignment]


def test_restricted_questions_need_an_oracle(random_policy: Policy, views: list[View], responses: Any) -> None:
    for questions in ALLOWED:
        with pytest.raises(ConfigError, match=r"task with an oracle.*intervention\.surfaces.*questions.*to any"):
            apply(random_policy, views, responses, **restricted(questions))
        sampler = {"type": "mixed", "update_on": "clean", "intervention": restricted(questions)}
        with (
            registered(NoOracle),
            pytest.raises(ConfigError, match=r"sampler\.intervention\.surfaces.*the task 'no-oracle' has no oracle"),
        ):
            build_strategies(validate({"task": "no-oracle", "sampler": sampler}))
        build_strategies(validate({"task": "bars", "sampler": sampler}))
        with pytest.raises(ConfigError, match="what it is applied to has no oracle"):
            single_attack(random_policy, views[0].example.images[0], "What is red?", **restricted(questions))
        Intervention(InterventionConfig.model_validate(restricted(questions))).check(random_policy, views)
    sampler["intervention"] = restricted("any")
    with registered(NoOracle):
        build_strategies(validate({"task": "no-oracle", "sampler": sampler}))
    apply(random_policy, views, responses, **restricted("any"))


def test_answers_that_are_kept_have_a_common_baseline() -> None:
    build_strategies(restricted_run("answer-kept"))
    for questions in ("any", "answerable"):
        with pytest.raises(ConfigError, match="answers to the same question"):
            build_strategies(restricted_run(questions))


def restricted_run(questions: str) -> RunConfig:
    sampler = {"type": "mixed", "update_on": "sampled", "intervention": restricted(questions)}
    return validate({"sampler": sampler, "objective": {"type": "grpo"}})


def test_measurements_have_an_oracle_where_one_is_needed(random_policy: Policy, bars: Bars, tmp_path: Path) -> None:
    config = restricted_run("answer-kept")
    config = config.model_copy(update={"sampling": config.sampling.model_copy(update={"max_new_tokens": 4})})
    assert footprint_of(random_policy, config, bars.example(0)).attack > 0
    intervention = Intervention(InterventionConfig.model_validate(restricted("answer-kept")))
    view, drawn = random_policy.view(bars.example(0)), draw_responses(random_policy, 2, 4)
    passes(random_policy, view, drawn, intervention)[NAIVE_ATTACK]()
    for questions in ("any", "answer-kept"):
        config = step_config(restricted_run(questions), side=8, prompts=1, tokens=4, folder=tmp_path)
        task = build_strategies(config).task
        assert task.oracle == (questions != "any")
        assert not task.oracle or task.answer(task.example(0), "Why?") == task.example(0).answer


def configured(update_on: str, *, attack: Any = "hotflip", baseline: str = "pooled", **more: Any) -> RunConfig:
    sampler = {"type": "mixed", "update_on": update_on, "intervention": {"attack": attack}, **more}
    return validate({"sampler": sampler, "objective": {"type": "grpo", "advantage": {"baseline": baseline}}})


def test_answers_to_two_questions_have_no_common_baseline() -> None:
    for config in (
        configured("sampled", baseline="per-origin"),
        configured("clean"),
        configured("perturbed"),  # all responses answer the one changed question
        configured("sampled", attack="paraphrase"),
        configured("sampled", attack="text-pgd"),
    ):
        build_strategies(config)
    joint = {"type": "joint", "of": {"pixels": "pgd", "tokens": "gcg"}}
    for config in (
        configured("sampled"),
        configured("sampled", baseline="leave-one-out"),
        configured("sampled", attack=joint),
    ):
        with pytest.raises(ConfigError, match=r"answers to the same question.*baseline to per-origin"):
            build_strategies(config)
    for config in (configured("sampled", baseline="per-origin", views=2), configured("perturbed", views=2)):
        with pytest.raises(ConfigError, match=r"it has 2 of them.*sampler\.views to 1"):
            build_strategies(config)
    build_strategies(configured("clean", views=2))


# What is refused


class Elsewhere(Decoder):
    """A decoder that reads prompts as text; it draws the end of a response."""

    class Config(StrategyConfig):
        type: Literal["elsewhere"] = "elsewhere"

    def draw(self, policy: Policy, request: DrawRequest) -> list[list[Completion]]:
        end = Completion(policy.eos_ids[:1].tolist(), torch.full((1,), torch.nan))
        return [[end] * count for count in request.counts]


def test_a_decoder_elsewhere_takes_swaps_and_refuses_offsets(random_policy: Policy, views: list[View]) -> None:
    with registered(Elsewhere):
        for attack in ("text-fgsm", {"type": "joint"}):
            config = configured("clean", attack=attack).model_copy(update={"decoder": Elsewhere.Config()})
            with pytest.raises(ConfigError, match=r"prompt as text.*'elsewhere'.*sampler\.intervention\.attack"):
                build_strategies(config)
        build_strategies(configured("clean").model_copy(update={"decoder": Elsewhere.Config()}))
    random_policy.decoder = Elsewhere()
    assert views[0].question is not None
    offset_Qd = torch.zeros(len(views[0].question.places_Q), random_policy.embeddings.size)
    with pytest.raises(ConfigError, match=r"reads a prompt as text.*'Elsewhere'"):
        random_policy.sample([replace(views[0], offset_Qd=offset_Qd)], [1], generators=sources(1))
    random_policy.sample(views[:1], [1], generators=sources(1))


@pytest.fixture(autouse=True)
def _registered() -> Any:
    with registered(Checksum):
        yield


def intervening(attack: Any, **more: Any) -> dict[str, Any]:
    intervention = {"attack": attack, "criterion": "nll", "selector": "all", **more}
    return {"type": "mixed", "n_clean": 2, "n_adversarial": 2, "update_on": "clean", "intervention": intervention}


def test_data_in_which_nothing_can_move_is_refused_without_a_model(tmp_path: Path) -> None:
    """With a folder of images and no model there is nothing that could load."""
    bars, numbers = tmp_path / "bars", tmp_path / "numbers"
    for folder, question in ((bars, "How many bars are red?"), (numbers, "3 + 4 = 7?")):
        folder.mkdir()
        Bars().example(0).images[0].save(folder / "picture.png")
        rows = [{"file_name": "picture.png", "question": question, "answer": answer} for answer in ("", *"33")]
        (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def built(folder: Path, attack: str, **training: float) -> None:
        task = {"type": "dataset", "path": str(folder)}
        build_strategies(validate({"task": task, "sampler": intervening(attack), "training": training}), ("train",))

    with pytest.raises(DataError, match=r"all had nothing \(nothing-editable\)"):
        built(numbers, "hotflip")
    built(numbers, "hotflip", max_untouched=1.0)
    built(numbers, "pgd")
    built(bars, "hotflip")


@pytest.mark.parametrize(
    "text", ["3 + 4 = 7?", "no two", "$x$ ok", "red red", "A. yes\nB. no", "isn't", "3x", "green", "\\frac{a}{b}"]
)
def test_a_question_without_an_editable_word_has_no_editable_token(random_policy: Policy, text: str) -> None:
    example = replace(Bars().example(0), question=text)
    view = random_policy.view(example)
    assert view.question is not None
    for protected in ((), ("red",)):
        if not has_editable_word(example, protected):
            assert not any(editable_places(view, protected))
    assert has_editable_word(example) == (text in ("$x$ ok", "red red", "green"))
    assert not has_editable_word(replace(example, protected=((0, len(text)),)))


def test_text_that_cannot_move_is_refused_before_training(model: Path, tmp_path: Path) -> None:
    protected = [*WORDS, "red", "green", "blue", "yellow"]
    nothing = intervening("text-fgsm", surfaces=[{"type": "embeddings", "protected": protected}])
    refused = r"nothing that the attack could move.*first 64, all had nothing \(nothing-editable\).*max_untouched to 1"
    with pytest.raises(DataError, match=refused):
        train(tiny(model, tmp_path, "nothing", sampler=nothing))
    assert not (tmp_path / "nothing").exists()
    allowed = tiny(model, tmp_path, "allowed", sampler=nothing, training__steps=1, training__max_untouched=1.0)
    assert lines(train(allowed).run.path)[-1]["train/untouched/nothing-editable"] == 1
    with pytest.raises(ConfigError, match="'pixel' units"):
        train(tiny(model, tmp_path, "units", sampler=intervening("pgd", surfaces=["embeddings"])))
    with pytest.raises(ConfigError, match="moves in tokens, not embeddings"):
        train(tiny(model, tmp_path, "space", sampler=intervening("hotflip", surfaces=["embeddings"])))


def test_an_attack_on_divergence_begins_at_random() -> None:
    """At the clean view the divergence from it has no gradient, whatever is moved."""
    joint = {"type": "joint", "of": {"embeddings": "text-pgd", "pixels": {"type": "pgd", "random_start": True}}}
    for attack in ("hotflip", "gcg", "text-pgd", joint):
        with pytest.raises(ValueError, match="begins at the clean view"):
            InterventionConfig.model_validate({"attack": attack, "criterion": "kl"})
    repeated = {"type": "joint", "of": {"pixels": {"type": "repeat", "of": {"type": "best-of", "of": "pgd"}}}}
    with pytest.raises(ValueError, match="begins at the clean view"):
        InterventionConfig.model_validate({"attack": repeated, "criterion": "kl"})
    joint["of"] = dict(reversed(joint["of"].items()))  # type: ignore[attr-defined]
    patches = {"type": "patches", "of": {"type": "pgd", "random_start": True}}
    with pytest.raises(ValueError, match="begins at the clean view"):
        InterventionConfig.model_validate({"attack": patches, "criterion": "kl"})
    for other in (
        joint,
        {**patches, "by": "random"},
        "random-swap",
        "neftune",
        {"type": "text-pgd", "random_start": True},
    ):
        InterventionConfig.model_validate({"attack": other, "criterion": "kl"})


def test_a_new_wording_comes_last() -> None:
    order = {"wording": "paraphrase", "pixels": "pgd"}
    with pytest.raises(ConfigError, match="a new wording comes last"):
        Intervention(InterventionConfig.model_validate({"attack": {"type": "joint", "of": order}}))


def test_a_gate_may_need_a_picture(random_policy: Policy) -> None:
    """It compares with a blank one, which a text without a picture has not."""
    gate = {"type": "entropy-floor", "selector": "visual", "floor": 100}
    view = random_policy.view(Example("text", "What is red + yellow?", "8"))
    responses = draw(random_policy, [view], [2])
    for slots, untouched in (({"gate": gate}, "no-image"), ({}, None)):
        config = InterventionConfig.model_validate({"attack": "text-pgd", **slots})
        (outcome,) = Intervention(config).apply([view], responses, StepContext(random_policy, 0.0, GroupSources(0)))
        assert outcome.untouched == untouched


@pytest.mark.parametrize("other", ["embeddings", "tokens"])
def test_a_question_is_reworded_or_its_tokens_are_moved(other: str) -> None:
    attacks = {"embeddings": "text-pgd", "tokens": "hotflip", "wording": "paraphrase"}
    joint = {"type": "joint", "of": {name: attacks[name] for name in (other, "wording")}}
    config = InterventionConfig.model_validate({"attack": joint})
    with pytest.raises(ConfigError, match=f"reworded, or its tokens are moved.*{other}, wording"):
        Intervention(config)
    alone = {"type": "joint", "of": {"pixels": "pgd", "wording": "paraphrase"}}
    assert len(Intervention(InterventionConfig.model_validate({"attack": alone})).surfaces) == 2


# Runs


@pytest.mark.slow
@pytest.mark.parametrize("attack", ATTACKS)
def test_five_steps_by_the_command_line(saei: Callable[..., Said], model: Path, tmp_path: Path, attack: str) -> None:
    sets = ["sampling.max_new_tokens=6", "training.prompts_per_step=2", "sampler.n_clean=2", "sampler.n_adversarial=2"]
    sets += ["evaluation.every=9", "evaluation.examples=1", "evaluation.responses=1", "evaluation.probe_examples=1"]
    sets += ["evaluation.probe_responses=2", "objective.advantage.baseline=per-origin", "model.device=cpu"]
    words = [word for each in sets for word in ("--set", each)]
    place = ("--output", tmp_path, "--name", attack)
    said = saei("train", "--model", model, "--task", "bars", "--attack", attack, "--steps", 5, *place, *words)
    assert said.code == 0, said
    metrics = [json.loads(line) for line in (tmp_path / attack / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in metrics] == list(range(6))
    steps = metrics[1:]
    assert all("train/loss" in line for line in steps)
    moved = [line for line in steps if line["train/untouched"] < 1]
    assert moved or attack in TOKEN_ATTACKS  # most swaps make no question
    name = "train/intervention/embeddings/moved" if attack == "joint" else "train/intervention/moved"
    assert all(line[name] > 0 for line in moved)
    if attack in TOKEN_ATTACKS:
        assert sum(line["train/untouched/unanswerable"] for line in steps) > 0


@pytest.mark.parametrize("questions", ["answerable", "answer-kept"])
def test_restricted_steps_by_the_command_line(
    saei: Callable[..., Said], model: Path, tmp_path: Path, questions: str
) -> None:
    sets = ["sampling.max_new_tokens=6", "training.prompts_per_step=2", "sampler.n_clean=2", "sampler.n_adversarial=2"]
    sets += ["evaluation.every=9", "evaluation.examples=1", "evaluation.responses=1", "evaluation.probe_examples=1"]
    sets += ["evaluation.probe_responses=2", "objective.advantage.baseline=per-origin", "model.device=cpu"]
    sets += [f"intervention.surfaces=[{{type: tokens, questions: {questions}}}]"]
    words = [word for each in sets for word in ("--set", each)]
    place = ("--output", tmp_path, "--name", questions)
    said = saei("train", "--model", model, "--task", "bars", "--attack", "random-swap", "--steps", 3, *place, *words)
    assert said.code == 0, said
    steps = [json.loads(line) for line in (tmp_path / questions / "metrics.jsonl").read_text().splitlines()][1:]
    assert [line["train/untouched"] for line in steps] == [0, 0, 0]
    assert all(line["train/intervention/largest_change"] == 1 for line in steps)
    changed = [line.get("train/intervention/answer_changed") for line in steps]
    assert (None in changed) == (questions == "answer-kept")
    asked = (tmp_path / questions / "config.yaml").read_text()
    assert f"questions: {questions}" in asked


@pytest.mark.parametrize("update_on", ["sampled", "clean", "perturbed"])
def test_offsets_are_in_the_update_that_they_belong_to(
    random_policy: Policy, views: list[View], update_on: str
) -> None:
    """What the update scores, with the graph to the parameters, is what was drawn where both views are the same."""
    intervention = {"attack": {"type": "text-fgsm", "step": 2}}
    fields = {"n_clean": 2, "n_adversarial": 2, "update_on": update_on, "intervention": intervention}
    groups = Mixed.Config.model_validate(fields).build().draw(views, step_of(random_policy), Supply(no_grades))
    for group in groups:
        for n, response in enumerate(group.responses):
            (scores,) = random_policy.score([group.update_view(n)], [[response]], wrt="parameters")
            gap = float((scores.logp_NT[0] - response.behaviour_logp_T).detach().abs().max())
            assert (gap > 1e-3) == (group.sampled_from[n] != group.updated_on[n]), gap
            assert scores.logp_NT.requires_grad
        # As the replay keeps it, and a checkpoint the replay.
        train = TrainGroup(ScoredGroup(group, tuple(no_grade() for _ in group.responses)), (0.0,) * 4)
        kept_group = KeptGroup.of(0, train, [response.behaviour_logp_T for response in group.responses])
        again = KeptGroup.from_plain(kept_group.plain()).restored(random_policy.device).group
        for n, response in enumerate(group.responses):
            before, after = (
                random_policy.score([each.update_view(n)], [[response]])[0].logp_NT for each in (group, again)
            )
            assert torch.equal(before, after)


@pytest.mark.slow
@pytest.mark.parametrize(
    "attack",
    [
        {"type": "random-swap", "swaps": 2},
        {"type": "gcg", "width": 2},
        {"type": "text-pgd", "random_start": True, "start": "4/25"},
        {"type": "joint", "of": {"pixels": "pgd", "tokens": {"type": "hotflip", "width": 2}}},
        "paraphrase",
    ],
    ids=lambda attack: attack if isinstance(attack, str) else attack["type"],
)
def test_a_resumed_run_goes_on_bit_for_bit(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attack: Any
) -> None:
    monkeypatch.setattr(Bars, "answer", lambda self, example, question: example.answer)
    changes: dict[str, Any] = {"sampler": intervening(attack), "training__steps": 3, "evaluation__every": 9}
    whole = train(tiny(model, tmp_path, "whole", **changes))
    assert any(line["train/untouched"] < 1 for line in lines(whole.run.path)[1:])
    interrupting = Quiet({1: lambda: os.kill(os.getpid(), signal.SIGINT)})
    with pytest.raises(Interrupted):
        train(tiny(model, tmp_path, "halves", **changes), interrupting)
    run, config = RunDir.open(tmp_path / "halves")
    resumed = train(config, resume=run)
    assert lines(tmp_path / "halves") == lines(whole.run.path)
    for ours, theirs in zip(resumed.policy.model.parameters(), whole.policy.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_recorded_steps_show_what_was_asked(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        Bars, "answer", lambda self, example, question: example.answer if question == example.question else "77"
    )
    sampler = {**intervening("random-swap"), "update_on": "perturbed"}
    run = train(tiny(model, tmp_path, sampler=sampler, training__steps=2, evaluation__every=2)).run
    groups = [group for group in run.samples()[0] if len(group.views) == 2]
    assert {group.source for group in groups} == {"training", "held-out"}
    for group in groups:
        clean, moved = group.views
        assert clean.question != moved.question
        assert moved.answer == "77"
        assert {response.update_view for response in group.responses} == {1}
        assert moved.distances["tokens"].largest == 1
    tables = read_run(run.path)
    assert set(tables.samples["answer"]) == {"77"}
    assert set(tables.views["question"]) == {group.views[1].question for group in groups}
