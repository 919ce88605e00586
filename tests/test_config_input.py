"""Hostile configurations: text that is no plain YAML, and values that mean nothing."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from saei.config.overrides import load_config, nested
from saei.config.run import dump, validate
from saei.config.yaml import read_yaml, write_yaml
from saei.errors import ConfigError, SaeiError
from saei.runtime.run_dir import RunDir

BOMB = """
a: &a [x, x, x, x, x, x, x, x, x]
b: &b [*a, *a, *a, *a, *a, *a, *a, *a, *a]
c: &c [*b, *b, *b, *b, *b, *b, *b, *b, *b]
d: &d [*c, *c, *c, *c, *c, *c, *c, *c, *c]
e: &e [*d, *d, *d, *d, *d, *d, *d, *d, *d]
f: &f [*e, *e, *e, *e, *e, *e, *e, *e, *e]
g: &g [*f, *f, *f, *f, *f, *f, *f, *f, *f]
"""

TEXTS: list[tuple[str | bytes, str]] = [
    (BOMB, "more than 10000 values"),
    ("a: &a [*a]", "stands within itself"),
    ("a: &a {b: *a}", "stands within itself"),
    ("a: " + "[" * 500 + "]" * 500, "nested more than 40 deep"),
    ("seed: " + "9" * 5000, "at most 100 digits"),
    ("training: {steps: 1, steps: 2}", "'steps' stands twice"),
    ("seed: 1\nseed: 2", "'seed' stands twice"),
    ("1: 2", "a key has to be text, got 1"),
    ("? [a]\n: 1", "a key has to be text"),
    ("null: 1", "a key has to be text"),
    ("a: !!python/object/apply:os.system [true]", "is not read"),
    ("a: !!timestamp 2001-99-99", "not a plain"),
    ("a: !!int abc", "not a plain int"),
    ("a: !!bool maybe", "not a plain bool"),
    ("a: !!set {b}", "is not read"),
    ('a: "\\U99999999"', ""),
    ('a: "\\UFFFFFFFF"', ""),
    ("%YAML " + "9" * 5000 + ".1\n---\na: 1", ""),
    ("a: 1\n--- \nb: 2", ""),
    (b"seed: 1 # \xe9", "not UTF-8 at byte 10"),
    ("seed: 1".encode("utf-16"), "not UTF-8"),
    ("# " + "x" * 300_000, "longer than 200000 characters"),
    ("{<<: 3}", "`<<` takes a mapping"),
    ("a: *nothing", "nothing"),
]


@pytest.mark.parametrize(("text", "expected"), TEXTS, ids=range(len(TEXTS)))
def test_text_that_is_no_plain_yaml_is_refused_at_once_wherever_it_stands(
    text: str | bytes, expected: str, tmp_path: Path
) -> None:
    content = text if isinstance(text, bytes) else text.encode()
    (tmp_path / "run").mkdir()
    files = (tmp_path / "mine.yaml", tmp_path / "run" / "config.yaml")
    for file in files:
        file.write_bytes(content)
    begin = time.process_time()
    with pytest.raises(SaeiError) as of_file:
        load_config(file=files[0])
    with pytest.raises(SaeiError) as of_run:
        RunDir.open(files[1].parent)
    assert time.process_time() - begin < 2
    for caught, file in ((of_file, files[0]), (of_run, files[1])):
        assert expected in str(caught.value)
        assert str(file) in str(caught.value)
        assert len(str(caught.value)) < 600 + len(str(file))
    if isinstance(text, str):
        with pytest.raises(SaeiError, match="--set seed has to be YAML") as of_option:
            load_config(assignments=[f"seed={text}"])
        assert expected in str(of_option.value)
        assert len(str(of_option.value)) < 600


def test_anchors_aliases_and_merges_are_read(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(
        "training: &short {steps: 3, prompts_per_step: 2}\n"
        "output: {name: &name mine}\n"
        "evaluation: {<<: {every: 7, examples: 9}, every: 5}\n"
        "task: {type: dataset, path: *name}\n"
    )
    config = load_config(file=file)
    assert (config.training.steps, config.output.name, config.task.path) == (3, "mine", "mine")  # type: ignore[attr-defined]
    assert (config.evaluation.every, config.evaluation.examples) == (5, 9)  # what is written here goes first


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1:30", "1:30"),
        ("2026-01-02", "2026-01-02"),
        ("2001-99-99", "2001-99-99"),
        ("no", "no"),
        ("on", "on"),
        ("010", 10),
        ("1e-6", 1e-6),
        ("-1", -1),
        (".5", 0.5),
        ("true", True),
        ("~", None),
        ("''", ""),
        ("!!str 12", "12"),
    ],
)
def test_scalars_are_what_they_look_like(text: str, value: object, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(f"a: {text}")
    read = read_yaml(file)["a"]
    assert read == value
    assert type(read) is type(value)


def test_a_precision_called_no_needs_no_quotes() -> None:
    assert load_config(assignments=["training.mixed_precision=no"]).training.mixed_precision == "no"


@pytest.mark.parametrize(
    "value",
    ["1e5", "1:30", "no", "2026-01-01", "0o17", "null", "=", "<<", "", "0x1f", "1_000", "é😀", "a: b", "-", 1e-7, 1e22],
)  # fmt: skip
def test_what_is_written_reads_back_the_same_also_by_others(value: object, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(write_yaml({"a": value, "b": [value]}), encoding="utf-8")
    assert read_yaml(file) == {"a": value, "b": [value]}
    assert yaml.safe_load(file.read_text(encoding="utf-8")) == {"a": value, "b": [value]}


def float_paths() -> list[str]:
    """Each field of a configuration that takes a number with a point, of every section and strategy."""
    from fractions import Fraction
    from typing import get_args

    from saei.config.fields import section_of
    from saei.config.registry import KINDS, entries, load
    from saei.config.run import SECTIONS

    def of(section: Any, path: str) -> list[str]:
        found = []
        for name, field in section.model_fields.items():
            inner = section_of(field.annotation)
            if inner is not None:
                found += of(inner, f"{path}.{name}") if inner.model_fields.keys() != {"type"} else []
            elif {float, Fraction} & {field.annotation, *get_args(field.annotation)}:
                found.append(f"{path}.{name}")
        return found

    places = {kind: kind for kind in KINDS} | {"term": "objective.terms", "advantage": "objective.advantage"}
    places |= {"weight": "objective.weights"}
    return [
        *(path for name, section in SECTIONS.items() for path in of(section, name)),
        *(
            f"{places[kind]}.type={entry.name} {path}"
            for kind in KINDS
            for entry in entries(kind)
            if entry.origin == "saei"
            for path in of(load(kind, entry.name).Config, places[kind])
        ),
    ]


@pytest.mark.parametrize("value", [".inf", "-.inf", ".nan", "1e999", "inf", "nan", "true"])
def test_numbers_are_finite_in_every_field(value: str) -> None:
    paths = float_paths()
    assert len(paths) > 40
    taken = []
    for path in paths:
        *types, field = path.split()
        try:
            load_config(assignments=[*types, f"{field}={value}"])
        except SaeiError:
            continue
        taken.append(path)
    assert not taken


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("optimizer.betas=[2,-1]", ["optimizer.betas.0", "optimizer.betas.1", "less than 1"]),
        ("optimizer.betas=[true,0.9]", ["optimizer.betas", "true"]),
        ("optimizer.lr=2", ["optimizer.lr"]),
        ("sampler.n_clean=1000000000", ["sampler.n_clean", "4096"]),
        ("sampler.views=7", ["sampler", "7 views share 6"]),
        ("attack.step=100", ["attack", "step of 100", "2/255"]),
        ("attack.radius=2", ["attack", "radius of 2"]),
        ("attack={step_space: normalised, step: 21}", ["attack", "step of 21"]),
        ("attack={type: noise, radius: 3/2}", ["attack", "radius of 3/2"]),
        ("attack={type: torchattacks, name: PGD, eps: 8}", ["attack", "eps of 8"]),
        ("attack.step=1e999999999", ["attack.step", "2/255"]),
        ("attack.step=" + "9" * 50, ["attack.step", "2/255"]),
        ("training.steps=true", ["training.steps", "true"]),
        ("seed=false", ["seed", "false"]),
        ("seed=-1", ["seed", "0"]),
        ("sampler={type: dynamic, of: {type: dynamic, of: mixed}}", ["sampler", "another kind"]),
        ("task={type: bars, seed: -1}", ["task.seed", "0"]),
        ("attack.step=true", ["attack.step", "true"]),
        ("training.steps=1:30", ["training.steps", "'1:30'"]),
        ("training.steps=10000000000", ["training.steps"]),
        ("model={min_pixels: 20, max_pixels: 10}", ["model", "model.min_pixels is 20"]),
        ("model.device=tpu9", ["model.device", "cuda:0"]),
        ("model.device=gpu", ["model.device", "Known: auto, cpu, cuda"]),
        ("model.path=''", ["model.path"]),
        ("sampling.temperature=1e-300", ["sampling.temperature", "overflows"]),
        ("seed=9223372036854775808", ["seed"]),
        ("task.seed=9223372036854775808", ["task.seed"]),
        ("strength.value=1e9", ["strength.value"]),
        ("task={type: dataset, path: x, max_image_pixels: -1}", ["task.max_image_pixels"]),
        ('output.name="a\\0b"', ["output.name", "NUL"]),
        ('output.name="\\ud800"', ["output.name", "UTF-8"]),
    ],
)
def test_values_that_mean_nothing_are_refused_when_they_are_read(assignment: str, expected: list[str]) -> None:
    with pytest.raises(SaeiError) as caught:
        load_config(assignments=[assignment])
    for part in expected:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    "assignment",
    [
        "attack={step_space: normalised, step: 2}",
        "attack={type: torchattacks, name: PGDL2, eps: 8}",
        "model={min_pixels: 10, max_pixels: 10}",
        "model.device=cuda:1",
        "optimizer.betas=[0, 0.95]",
        "model.gradient_checkpointing=[vision]",
        "selector.exclude=[eos]",
        "attack.random_start=yes",
    ],
)
def test_unusual_values_that_mean_something_are_taken(assignment: str) -> None:
    config = load_config(assignments=[assignment])
    assert validate(dump(config)) == config


@pytest.mark.parametrize("path", ["x" * 5000, "~nobody_of_this_name/x.csv", "😀" * 500, "a/b/" + "x" * 300])
def test_no_name_of_a_file_is_too_strange(path: str) -> None:
    config = load_config(assignments=["task=dataset", f"task.path={path}", f"model.path={path}"])
    with pytest.raises(SaeiError):
        config.task.build().size("train")


def test_what_is_quoted_is_cut() -> None:
    for assignment in (
        "seed=[" + "a, " * 3000 + "]",
        "x" * 5000,
        "x" * 5000 + "=1",
        "a." * 2000 + "a=1",
        "sampler." * 30 + "a=1",
        "attack=" + "x" * 50_000,
        "training={" + ", ".join(f"field{n}: 1" for n in range(2000)) + "}",
        "reward={type: function, path: " + "x" * 50_000 + "}",
        "plugins=[" + "x" * 50_000 + "]",
        "task={type: dataset, path: x, splits: {" + ", ".join(f"name{n}: {n}" for n in range(500)) + "}}",
    ):
        with pytest.raises(SaeiError) as caught:
            load_config(assignments=[assignment])
        assert len(str(caught.value)) < 4000


def test_data_is_no_deeper_than_a_file_can_be() -> None:
    """A caller's mapping may be, and may even hold itself."""
    within_itself: dict[str, Any] = {"path": "builtin"}
    within_itself["lora"] = within_itself
    for data in (within_itself, {"path": nested(".".join("a" * 500), 1)}):
        with pytest.raises(ConfigError, match="nested at most 40 deep"):
            validate({"model": data})
