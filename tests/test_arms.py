"""The sampler `arms`: any number of interventions in one group, and `mixed` as its case of one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from groups import draw_groups, no_grades
from runs import Checksum, lines, registered, tiny, train
from saei.config.overrides import load_config
from saei.config.run import dump, validate
from saei.config.strategy import StrategyConfig
from saei.engine.display import title
from saei.errors import ConfigError
from saei.interventions.base import Gate, Guard
from saei.policy import Policy
from saei.runtime.run_dir import RunDir
from saei.runtime.seeds import GroupSources
from saei.samplers.arms import Arms
from saei.samplers.base import StepContext, Supply
from saei.samplers.clean import Clean
from saei.samplers.mixed import Mixed
from saei.testing import check_sampler
from saei.types import CLEAN, Example, Grade, ScoredGroup, View

TWO: dict[str, Any] = {
    "strong": {"n": 3, "update_on": "clean", "beta": 0.5, "weight_cap": 3.0},
    "noisy": {"n": 5, "views": 2, "intervention": {"attack": "noise"}},
}


class Never(Gate):
    """Leaves every group alone."""

    needs_supply = False

    class Config(StrategyConfig):
        type: Literal["never"] = "never"

    def leave_alone(self, views: Sequence[View], responses: Any, step: Any, supply: Any) -> list[str | None]:
        return ["never"] * len(views)


class Odd(Guard):
    """Drops every other response of a group, also those that are not its arm's."""

    class Config(StrategyConfig):
        type: Literal["odd"] = "odd"
        reason: str = "odd"

    def drop(self, scored: Sequence[ScoredGroup], step: Any, supply: Any) -> list[dict[int, str]]:
        reason: str = self.config.reason
        return [dict.fromkeys(range(1, len(one.grades), 2), reason) for one in scored]


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    with registered(Checksum, Never, Odd):
        yield


def arms(arms: dict[str, Any] | None = None, n_clean: int = 2) -> Arms:
    return Arms(Arms.Config.model_validate({"n_clean": n_clean, "arms": arms or TWO}))


def test_a_group_by_hand(random_policy: Policy, views: list[View], monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[list[int]] = []
    sample = random_policy.sample

    def watched(views: Any, counts: Any, **rest: Any) -> Any:
        calls.append(list(counts))
        return sample(views, counts, **rest)

    monkeypatch.setattr(random_policy, "sample", watched)
    groups = draw_groups(arms(), random_policy, views)
    assert calls == [[2, 2], [3, 3, 2, 3, 3, 2]]  # all clean responses, then all those of all arms
    for view, group in zip(views, groups, strict=True):
        assert group.views[0] is view
        assert [own.origin for own in group.views] == [CLEAN, "strong", "noisy", "noisy"]
        assert group.sampled_from == (0, 0, 1, 1, 1, 2, 2, 2, 3, 3)
        assert group.updated_on == (0, 0, 0, 0, 0, 2, 2, 2, 3, 3)
        assert [(group.view_weight(n).beta, group.view_weight(n).cap) for n in (2, 5)] == [(0.5, 3.0), (0.0, 2.0)]
        assert group.untouched is None
        assert (group.metrics["strong/untouched"], group.metrics["noisy/untouched"]) == (0, 0)
        assert round(group.metrics["strong/largest_change"]) == round(group.metrics["noisy/largest_change"]) == 2
        assert not torch.equal(group.views[2].canvases[0], group.views[3].canvases[0])


def test_one_arm_is_mixed(random_policy: Policy, views: list[View]) -> None:
    settings = {"views": 2, "update_on": "perturbed", "beta": 1.0, "intervention": {"attack": "noise"}}
    ours = draw_groups(arms({"noisy": {"n": 3, **settings}}), random_policy, views)
    mixed = Mixed(Mixed.Config.model_validate({"n_clean": 2, "n_adversarial": 3, **settings}))
    for group, other in zip(ours, draw_groups(mixed, random_policy, views), strict=True):
        for name in ("sampled_from", "updated_on"):
            assert getattr(group, name) == getattr(other, name)
        assert [r.ids_T.tolist() for r in group.responses] == [r.ids_T.tolist() for r in other.responses]
        assert [view.origin for view in group.views] == [view.origin for view in other.views]  # noise's own is noisy
        assert all(torch.equal(a.canvases[0], b.canvases[0]) for a, b in zip(group.views, other.views, strict=True))
        assert {f"noisy/{name}": value for name, value in other.metrics.items()} == {
            name: value for name, value in group.metrics.items() if name != "noisy/untouched"
        }


def test_an_arm_left_alone_draws_from_the_clean_view(random_policy: Policy, views: list[View]) -> None:
    idle = {"n": 2, "intervention": {"gate": "never"}}
    (group, _) = draw_groups(arms({"idle": idle, "strong": {"n": 3, "update_on": "perturbed"}}), random_policy, views)
    assert [view.origin for view in group.views] == [CLEAN, "strong"]
    assert group.sampled_from == (0, 0, 0, 0, 1, 1, 1)
    assert group.updated_on == (1,) * 7  # under the only view that there is of the arm that takes the clean ones along
    clean = draw_groups(Clean.Config(n=2).build(), random_policy, views[:1])[0].responses
    assert [r.ids_T.tolist() for r in group.responses[:2]] == [r.ids_T.tolist() for r in clean]  # the others follow
    assert group.untouched is None
    assert (group.metrics["idle/untouched"], group.metrics["strong/untouched"]) == (1, 0)
    (alone, _) = draw_groups(arms({"idle": idle, "other": idle}), random_policy, views)
    assert (alone.untouched, len(alone.views), len(alone.responses)) == ("never", 1, 6)


def test_a_guard_drops_responses_of_its_own_arm(random_policy: Policy, views: list[View]) -> None:
    guarded = {**TWO["noisy"], "intervention": {"attack": "noise", "guard": "odd"}}
    sampler = arms({"strong": TWO["strong"], "noisy": guarded})
    groups = draw_groups(sampler, random_policy, views)
    scored = [ScoredGroup(group, (Grade(0.0, False),) * 10) for group in groups]
    step, supply = StepContext(random_policy, 0.0, GroupSources(0)), Supply(no_grades)
    assert sampler.guard(scored, step, supply) == [{5: "odd", 7: "odd", 9: "odd"}] * 2
    mixed = Mixed.Config.model_validate({"n_clean": 2, "n_adversarial": 2, "intervention": {"guard": "odd"}}).build()
    (group,) = draw_groups(mixed, random_policy, views[:1])  # the whole group is its only arm's
    one = ScoredGroup(group, (Grade(0.0, False),) * 4)
    assert mixed.guard([one], step, supply) == [{1: "odd", 3: "odd"}]
    assert one.without({1: "odd", 3: "odd"}).group.sampled_from == (0, 1)


@pytest.mark.parametrize(
    "fields",
    [
        TWO,
        {"only": {"n": 2, "update_on": "perturbed", "views": 2, "intervention": {"attack": "noise"}}},
        {"a": {"n": 2, "intervention": {"gate": "zero-variance"}}, "b": {"n": 1, "update_on": "perturbed"}},
        {"a": {"n": 2, "intervention": {"guard": "odd"}}, "b": {"n": 2, "intervention": {"gate": "never"}}},
    ],
)
def test_contract(fields: dict[str, Any], random_policy: Policy, views: list[View]) -> None:
    text_only = random_policy.view(Example("t", "What is 1 + 2?", "3"))
    check_sampler(arms(fields), random_policy, [*views, text_only])


# What it says of itself, and how it is set


def test_the_plan() -> None:
    sampler = validate({"sampler": {"type": "dynamic", "of": {"type": "arms", "n_clean": 2, "arms": TWO}}}).sampler
    plan = sampler.build().plan()
    assert plan.group_size == 10
    assert [(arm.origin, arm.responses, arm.views, arm.update_on) for arm in plan.arms] == [
        ("clean", 2, 1, "sampled"),
        ("strong", 3, 1, "clean"),
        ("noisy", 5, 2, "sampled"),
    ]
    assert plan.arms[1].setting("intervention") == "sampler.of.arms.strong.intervention"
    assert plan.settings_for(20) == ["sampler.of.n_clean=4", "sampler.of.arms.strong.n=6", "sampler.of.arms.noisy.n=10"]
    assert (plan.needs_supply, plan.rounds) == ((("", "dynamic"),), 10)
    gated = {"noisy": {"intervention": {"gate": "zero-variance", "guard": "odd"}}}
    assert arms(gated).plan().needs_supply == (
        ("arms.noisy.intervention.gate", "zero-variance"),
        ("arms.noisy.intervention.guard", "odd"),
    )
    assert "(middle-third + pgd, middle-third + noise)" in title(validate({"sampler": dump_of(TWO)}))


def dump_of(fields: dict[str, Any]) -> dict[str, Any]:
    return {"type": "arms", "n_clean": 2, "arms": fields}


def test_settings_reach_each_arm(tmp_path: Path) -> None:
    file = tmp_path / "arms.yaml"
    file.write_text("sampler: {type: arms, arms: {strong: {n: 3}, noisy: {n: 2, intervention: {attack: noise}}}}\n")
    changes = ["sampler.arms.strong.intervention.attack.step=4/255", "sampler.arms.noisy.n=4", "sampler.n_clean=2"]
    config = load_config(file=file, assignments=changes)
    strong, noisy = config.sampler.arms["strong"], config.sampler.arms["noisy"]  # type: ignore[attr-defined]
    assert (strong.n, strong.intervention.attack.type, str(strong.intervention.attack.step)) == (3, "pgd", "4/255")
    assert (noisy.n, noisy.intervention.attack.type) == (4, "noise")
    assert validate(dump(config)) == config
    with pytest.raises(ConfigError, match=r"'arms' has strong, noisy.*--set sampler\.arms\.strong\.intervention"):
        load_config(file=file, flags=[{"sampler": {"intervention": {"attack": {"type": "fgsm"}}}}])


def test_short_names_reach_the_only_arm(tmp_path: Path) -> None:
    file = tmp_path / "arms.yaml"
    file.write_text("sampler: {type: arms, arms: {only: {n: 3}}}\n")
    config = load_config(file=file, assignments=["attack=fgsm", "attack.step=4/255", "selector=top-k"])
    slots = config.sampler.arms["only"].intervention  # type: ignore[attr-defined]
    assert (slots.attack.type, str(slots.attack.step), slots.selector.type) == ("fgsm", "4/255", "top-k")
    assert config.sampler.arms["only"].n == 3  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({}, "arms"),
        ({"A b": {}}, "small letters"),
        *(({name: {}}, f"none of clean, .*Got '{name}'") for name in ("clean", "parts", "view_kl")),
        *(
            ({name: {}}, f"none of clean, .*Got '{name}'")
            for name in ("intervention", "untouched", "dropped", "replayed")
        ),
        ({"a": {"update_on": "perturbed"}, "b": {"update_on": "perturbed"}}, "set in a, b"),
        ({"a": {"views": 7}}, r"sampler\.arms\.a: .*7 views share 6"),
        ({"a": {"beta": 1.0}}, r"sampler\.arms\.a: beta"),
        ({"a": {"weight_cap": 3.0}}, r"sampler\.arms\.a: weight_cap"),
        ({"a": {"view": 2}}, r"sampler\.arms\.a\.view: There is no such field\. Did you mean 'views'"),
        ({"a": {"intervention": {"attack": {"steps": -1}}}}, r"sampler\.arms\.a\.intervention\.attack.*steps"),
    ],
)
def test_mistakes_are_found_when_it_is_read(fields: dict[str, Any], error: str) -> None:
    with pytest.raises(ConfigError, match=error):
        validate({"sampler": dump_of(fields)})


def test_a_run_trains_and_goes_on(model: Path, tmp_path: Path) -> None:
    sampler = dump_of({"strong": {"n": 1}, "noisy": {"n": 1, "intervention": {"attack": "noise", "guard": "odd"}}})
    whole = train(tiny(model, tmp_path, "whole", sampler=sampler, output__checkpoint_every=1)).run.path
    train(tiny(model, tmp_path, "parts", sampler=sampler, training__steps=1))
    opened, config = RunDir.open(tmp_path / "parts")
    train(config.model_copy(update={"training": config.training.model_copy(update={"steps": 3})}), resume=opened)
    assert lines(whole)[2:] == lines(tmp_path / "parts")[2:]
    line = lines(whole)[-1]
    assert line["train/dropped"] == line["train/dropped/odd"] == 0.25  # the only response of the second arm
    assert {"train/clean/reward", "train/strong/reward", "train/noisy/reward"} <= line.keys()
    assert line["train/intervention/strong/untouched"] == 0
