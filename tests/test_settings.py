"""Settings that would have no effect are refused, with the reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from commands import Saei
from saei.config.run import RunConfig, validate
from saei.config.sections import ModelConfig
from saei.data.bars import Bars
from saei.errors import ConfigError, ModelError
from saei.intake.scan import check_end
from saei.integrations.trl.arguments import grpo_arguments
from saei.policy.load.weights import load_parts


@pytest.mark.parametrize(
    ("settings", "path", "said"),
    [
        ({"sampler": {"beta": 1.0}}, "sampler", "sampler.update_on"),
        ({"sampler": {"update_on": "clean", "weight_cap": 3.0}}, "sampler", "weight_cap"),
        ({"sampler": {"n_adversarial": 2, "views": 3}}, "sampler", "views"),
        ({"sampler": {"type": "noisy", "update_on": "sampled", "beta": 1.0}}, "sampler", "update_on"),
        ({"training": {"prompts_per_step": 4, "updates_per_batch": 5}}, "training", "updates_per_batch"),
    ],
)
def test_combinations_in_which_a_setting_does_nothing(settings: dict[str, Any], path: str, said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        validate(settings)
    assert str(raised.value).startswith(f"{path}:")
    assert said in str(raised.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"sampler": {"update_on": "clean", "beta": 1.0, "weight_cap": 3.0}},
        {"sampler": {"n_adversarial": 3, "views": 3}},
        {"training": {"prompts_per_step": 4, "updates_per_batch": 4}},
    ],
)
def test_combinations_in_which_it_does_something(settings: dict[str, Any]) -> None:
    assert isinstance(validate(settings), RunConfig)


def test_a_revision_belongs_to_a_hub(tmp_path: Path) -> None:
    for path in ("builtin", str(tmp_path)):
        with pytest.raises(ModelError, match="revision") as raised:
            load_parts(ModelConfig(path=path, revision="abc"))
        assert "model.revision" in raised.value.remedy


def test_examples_without_end_are_not_all_looked_at() -> None:
    with pytest.raises(ConfigError, match=r"training\.sift"):
        check_end(Bars())


def test_trl_follows_no_limit_on_groups_without_images() -> None:
    config = validate({"sampler": "clean", "training": {"max_untouched": 0.1}})
    with pytest.raises(ConfigError, match=r"training\.max_untouched"):
        grpo_arguments(config, folder=Path(), processes=1, extra={})


@pytest.mark.parametrize("option", [("--top-p", "0.9"), ("--top-k", "5")])
@pytest.mark.parametrize("how", [("--temperature", "0", "--responses", "1"), ("--benchmark", "bars")])
def test_a_nucleus_of_greedy_answers_is_refused(saei: Saei, option: tuple[str, str], how: tuple[str, ...]) -> None:
    code, _, said = saei("eval", *option, *how)
    assert code == 2
    assert "greedy" in said
    assert option[0] in said
