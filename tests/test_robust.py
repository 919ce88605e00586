"""Evaluations on noisy and attacked pictures, against the model's own forward."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch

from groups import own_forward, sources
from models import tiny_folder
from runs import Checksum, registered, tiny
from saei.config.sections import SamplingConfig
from saei.data.bars import Bars
from saei.errors import ConfigError, SaeiError
from saei.evaluation.benchmark import EvaluationRequest
from saei.evaluation.robustness.conditions import Condition, ConditionIntervention, conditions
from saei.evaluation.robustness.fixed_set import FixedSet
from saei.evaluation.robustness.run import RobustnessSettings, run_robust
from saei.evaluation.store import EvaluationDir
from saei.policy import Policy
from saei.rewards.accuracy_format import AccuracyFormat
from saei.rewards.tagged import R1V
from saei.types import CLEAN, Response, View

GREEDY = SamplingConfig(temperature=0.0, max_new_tokens=6)
RADIUS = Fraction(8, 255)


@pytest.fixture
def views(random_policy: Policy, bars: Bars) -> list[View]:
    return [random_policy.view(bars.example(index, "eval"), index) for index in range(3)]


def intervention(policy: Policy, kind: Any, radius: Fraction = RADIUS) -> ConditionIntervention:
    return ConditionIntervention(Condition(kind, radius), policy, AccuracyFormat(), GREEDY, seed=0)


def distance(view: View, moved: View) -> float:
    return max(float((a - b).abs().max()) for a, b in zip(view.canvases, moved.canvases, strict=True))


def test_noise_has_the_radius_and_is_an_examples_own(random_policy: Policy, views: list[View]) -> None:
    together = intervention(random_policy, "noise")(views)
    alone = intervention(random_policy, "noise")(views[1:2])
    assert torch.equal(together[1].canvases[0], alone[0].canvases[0])
    for view, moved in zip(views, together, strict=True):
        assert distance(view, moved) == pytest.approx(float(RADIUS), abs=1e-6)
    first, second = (after.canvases[0] - view.canvases[0] for view, after in zip(views[:2], together[:2], strict=True))
    changed = (first != 0) & (second != 0)  # elsewhere the range of pixels ends
    assert 0.4 < float((first.sign() == second.sign())[changed].float().mean()) < 0.6


def gold(policy: Policy, view: View) -> Response:
    ids = policy.tokenizer(f"\\boxed{{{view.example.answer}}}", add_special_tokens=False)["input_ids"]
    zeros = torch.zeros(len(ids) + 1)
    return Response(torch.tensor([*ids, policy.tokenizer.eos_token_id]), "", zeros, zeros, truncated=False)


def logp(policy: Policy, view: View, response: Response) -> float:
    logp_TV = own_forward(policy, view, response).detach()
    return float(logp_TV.gather(1, response.ids_T[:, None]).mean())


def entropy(policy: Policy, view: View, response: Response) -> float:
    return float(torch.distributions.Categorical(logits=own_forward(policy, view, response).detach()).entropy().mean())


def test_attacks_do_what_they_are_called(random_policy: Policy, views: list[View]) -> None:
    own = [one[0] for one in _greedy(random_policy, views)]
    by_gold, by_entropy = intervention(random_policy, "gold")(views), intervention(random_policy, "entropy")(views)
    for view, first, second, response in zip(views, by_gold, by_entropy, own, strict=True):
        assert 0 < distance(view, first) <= float(RADIUS) + 1e-6
        right = gold(random_policy, view)
        assert logp(random_policy, first, right) < logp(random_policy, view, right) - 0.01
        assert logp(random_policy, first, right) < logp(random_policy, second, right)
        assert entropy(random_policy, second, response) > entropy(random_policy, view, response) + 0.001
        assert entropy(random_policy, second, response) > entropy(random_policy, first, response)


def _greedy(policy: Policy, views: list[View]) -> list[list[Response]]:
    return policy.sample(views, [1] * len(views), sampling=GREEDY, generators=sources(len(views)))


def test_a_larger_radius_harms_more(random_policy: Policy, views: list[View]) -> None:
    right = [gold(random_policy, view) for view in views]
    lost = []
    for radius in (Fraction(2, 255), Fraction(16, 255)):
        moved = intervention(random_policy, "gold", radius)(views)
        lost.append(sum(logp(random_policy, view, one) for view, one in zip(moved, right, strict=True)))
    assert lost[1] < lost[0]


def test_gold_response_is_the_rewards_own_form(random_policy: Policy, views: list[View]) -> None:
    answer = views[0].example.answer
    for reward, form in ((AccuracyFormat(), f"\\boxed{{{answer}}}"), (R1V(), f"<answer>{answer}</answer>")):
        found = ConditionIntervention(Condition("gold", RADIUS), random_policy, reward, GREEDY, seed=0)._gold(
            views[0].example
        )
        assert found.text == form
        assert random_policy.tokenizer.decode(found.ids_T, skip_special_tokens=True) == form


def test_a_fixed_set_is_made_once_and_seen_by_all(random_policy: Policy, views: list[View], tmp_path: Path) -> None:
    calls: list[int] = []

    def move(seen: Sequence[View]) -> list[View]:
        calls.append(len(seen))
        return intervention(random_policy, "gold")(seen)

    first = FixedSet(tmp_path, random_policy, random_policy, move)(views[:2])
    (wanted,) = intervention(random_policy, "gold")(views[:2])[1:]
    assert torch.equal(first[1].canvases[0], wanted.canvases[0])
    assert first[1].origin != CLEAN
    again = FixedSet(tmp_path, random_policy, random_policy, move)
    assert torch.equal(again(views[:2])[0].canvases[0], first[0].canvases[0])
    assert calls == [2]
    again(views)
    assert calls == [2, 1]
    assert len(list(tmp_path.glob("*.png"))) == 3


@pytest.fixture
def setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.chdir(tmp_path)
    with registered(Checksum):
        yield tiny(tiny_folder("Qwen2.5-VL", tmp_path / "model"), tmp_path / "runs")


def test_every_condition_is_an_evaluation_of_its_own(setting: Any, tmp_path: Path) -> None:
    notes: list[str] = []
    asked = EvaluationRequest(examples=4, output=tmp_path / "out", batch=2)
    robustness = RobustnessSettings((Fraction(2, 255), Fraction(1, 51)), base=str(tmp_path / "model"))

    def run() -> dict[str, Any]:
        return run_robust(setting, GREEDY, asked, robustness, on_progress=lambda *_: None, note=notes.append)

    found = run()
    names = [one["name"] for one in found["conditions"]]
    assert names == [condition.name for condition in conditions(robustness.radii, robustness.base)][1:]
    assert names[:5] == ["noise-2", "entropy-2", "gold-2", "entropy-2-base", "gold-2-base"]
    folders = {name: EvaluationDir(tmp_path / "out" / name) for name in ("clean", *names)}
    answers = {name: [one.text for one in folder.records()] for name, folder in folders.items()}
    assert all(len(own) == 4 for own in answers.values())
    assert answers["gold-2"] == answers["gold-2-base"]  # the base is the policy itself
    assert answers["gold-5"] != answers["clean"]
    for one in found["conditions"]:
        own = folders[one["name"]].result()["scores"][0]["value"]
        assert one["accuracy"] == own
        assert one["difference"]["mean"] == pytest.approx(own - found["clean"])
    written = json.loads((tmp_path / "out" / "robust.json").read_text())
    assert "not how robust it is" in written["notes"][0]
    before = (tmp_path / "out" / "gold-2" / "answers.jsonl").stat().st_mtime_ns
    assert run()["conditions"] == found["conditions"]
    assert (tmp_path / "out" / "gold-2" / "answers.jsonl").stat().st_mtime_ns == before


def test_pictures_are_shared_by_those_who_would_make_the_same(setting: Any, tmp_path: Path) -> None:
    def sets(output: str, *, responses: int = 1, **changes: Any) -> set[str]:
        config = tiny(tmp_path / "model", tmp_path / "runs", **changes)
        sampling = config.sampling.model_copy(update={"temperature": float(responses > 1)})
        asked = EvaluationRequest(examples=1, responses=responses, output=tmp_path / output)
        robustness = RobustnessSettings((RADIUS,), base=str(tmp_path / "model"))
        run_robust(config, sampling, asked, robustness, on_progress=lambda *_: None, note=lambda _: None)
        recorded = EvaluationDir(tmp_path / output / "gold-8-base").settings()["condition"]["base"]
        assert recorded["dtype"] == config.model.dtype
        return {folder.name for folder in (tmp_path / "runs" / "attacked").iterdir()}

    first = sets("a")
    assert len(first) == 2
    assert sets("b", responses=2) == first  # attacks draw greedily however the evaluation does
    assert len(sets("c", sampling__max_new_tokens=3)) == 4
    assert len(sets("d", entropy={"temperature": 2.0})) == 6
    assert len(sets("e", model__dtype="float32")) == 8


def test_a_wrong_base_is_refused_before_anything_is_answered(setting: Any, tmp_path: Path) -> None:
    asked, robustness = (
        EvaluationRequest(examples=1, output=tmp_path / "out"),
        RobustnessSettings(base=str(tmp_path / "none")),
    )
    with pytest.raises(SaeiError, match="none"):
        run_robust(setting, GREEDY, asked, robustness, on_progress=lambda *_: None, note=print)
    assert not (tmp_path / "out").exists()


def test_no_radius_is_refused() -> None:
    for radii in ((), (Fraction(0),)):
        with pytest.raises(ConfigError, match="Radii are above 0"):
            RobustnessSettings(radii)
