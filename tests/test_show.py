"""What ``saei show`` says of kinds and fields, and the names that are near to a wrong one."""

from __future__ import annotations

import re

import pytest

from commands import Saei
from saei.config.run import validate
from saei.errors import ConfigError, nearest


def test_a_kind_points_to_its_list(saei: Saei) -> None:
    for name in ("selector", "sampler.intervention.selector", "intervention.selector"):
        said = saei("show", name)
        assert said.code == 0
        assert "band, bottom-k" in said.out
        assert "`saei list selector`" in said.out
        assert "pgd" not in said.out


@pytest.mark.parametrize("path", ["attack.steps", "sampler.intervention.attack.steps", "pgd.steps"])
def test_a_field_is_shown_wherever_it_is(saei: Saei, path: str) -> None:
    said = saei("show", path)
    assert said.code == 0
    assert re.search(r"^pgd  attack\n.*\nsteps +1 +Number of steps", said.out, re.MULTILINE)
    assert "fgsm" not in said.out  # which has no such field


def test_a_field_of_a_section_and_the_fields_below_one(saei: Saei) -> None:
    said = saei("show", "training.steps").out
    assert re.search(r"^training\n.*\nsteps +\d+", said, re.MULTILINE)
    assert not re.search("^prompts_per_step", said, re.MULTILINE)
    for path in ("mixed.intervention", "intervention"):
        below = saei("show", path).out
        assert re.search(r"^mixed  sampler\n.*\nintervention\.selector +middle-third", below, re.MULTILINE)
        assert not re.search("^n_clean", below, re.MULTILINE)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("attack.stpe", "Did you mean 'step'?"),
        ("training.prompts", "Did you mean 'prompts_per_step'?"),
        ("pgd.stepp", "Did you mean 'step'?"),
        ("atack.step", "Did you mean 'attack'?"),
    ],
)
def test_a_wrong_field_answers_with_the_nearest(saei: Saei, path: str, words: str) -> None:
    said = saei("show", path)
    assert said.code == 2
    assert words in said.err


def test_a_wrong_field_of_a_configuration_answers_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"attack\.stpe: There is no such field\. Did you mean 'step'\?"):
        validate({"sampler": {"intervention": {"attack": {"stpe": "2/255"}}}})


@pytest.mark.parametrize(
    ("name", "known", "meant"),
    [
        ("forks", ["all", "entropix/forks", "band"], "entropix/forks"),
        ("froks", ["all", "entropix/forks", "fork"], "entropix/forks"),  # the same letters
        ("entropix/fork", ["entropix/forks", "fork"], "entropix/forks"),
        ("fork", ["fork2", "entropix/fork"], "entropix/fork"),
        ("stpe", ["type", "step", "steps"], "step"),
        ("noice", ["noise", "noisy"], "noise"),
    ],
)
def test_the_nearest_name(name: str, known: list[str], meant: str) -> None:
    assert nearest(name, known) == f"Did you mean '{meant}'? Known: {', '.join(sorted(known))}."


def test_a_name_that_is_near_to_none() -> None:
    assert nearest("xyz", ["band", "all"]) == "Known: all, band."
    assert nearest("xyz", []) == "Known: none."
