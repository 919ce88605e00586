"""Several processes train as one does: launched by torchrun and accelerate, on gloo."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import DistributedType
from safetensors.torch import load_file

from runs import lines, tiny
from saei.config.overrides import load_config
from saei.config.sections import ModelConfig
from saei.engine import checkpoint
from saei.errors import CheckpointError, ConfigError
from saei.policy.load.location import model_path
from saei.runtime.processes import Processes, processes_of

PAGE = Path(__file__).parents[1] / "docs" / "distributed.md"
BUILTIN = Path(model_path(ModelConfig()))
PLUGIN = '''
import os
from pathlib import Path
from typing import Literal

import torch

from saei.interventions.base import Guard
from saei.config.registry import register
from saei.rewards.base import Reward
from saei.config.strategy import StrategyConfig
from saei.types import Grade


class Descent(torch.optim.SGD):
    """In the place of AdamW, a change is the gradient itself."""

    def __init__(self, parameters, lr, betas, weight_decay):
        super().__init__(parameters, lr=lr)


torch.optim.AdamW = Descent


@register
class Checksum(Reward):
    """Grades random text by the sum of its characters."""

    class Config(StrategyConfig):
        """No fields."""

        type: Literal["mine/checksum"] = "mine/checksum"

    def grade(self, example, text, *, truncated=False):
        rest = sum(map(ord, text)) % 6
        return Grade(rest / 5, rest < 2, {}, str(rest))


@register
class Some(Guard):
    """Drops the groups of examples 1, 6 and 7, and leaves a note of which process looked at which group."""

    class Config(StrategyConfig):
        """No fields."""

        type: Literal["mine/some"] = "mine/some"

    def drop(self, scored, step, supply):
        world, rank = os.environ.get("WORLD_SIZE", "1"), os.environ.get("RANK", "0")
        dropped = []
        for one in scored:
            number = int(one.group.example.id.rsplit("-", 1)[1])
            with Path(f"looked-{world}-{rank}.txt").open("a") as file:
                file.write(f"{number} {max(map(len, one.group.responses))}\\n")
            dropped.append(one.all_dropped("numbered") if number in (1, 6, 7) else {})
        return dropped
'''
SETTINGS = {
    "reward.type": "mine/checksum",
    "model.device": "cpu",
    "optimizer.lr": 3e-2,
    "sampler.n_clean": 2,
    "sampler.n_adversarial": 2,
    "sampler.intervention.guard.type": "mine/some",
    "training.prompts_per_step": 4,
    "training.micro_groups": 1,
    "evaluation.every": 2,
    "evaluation.held_out_every": 1,  # else the last of fewer steps would draw groups at an evaluation that draws none
    "evaluation.examples": 3,
    "evaluation.responses": 2,
    "evaluation.probe_examples": 3,
    "evaluation.probe_responses": 2,
}
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
ACCELERATE = ("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1")
ACCELERATE += ("--main_process_port", "0", "--mixed_precision", "no", "--dynamo_backend", "no")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    (folder / "mine.py").write_text(PLUGIN)
    return folder


def run(home: Path, launcher: Sequence[str], *arguments: str) -> None:
    """Train, and let ``looked_at`` tell of this run alone."""
    for file in home.glob("looked-*.txt"):
        file.unlink()
    done = subprocess.run(
        [sys.executable, *launcher, "-m", "saei.cli", "train", *arguments],
        cwd=home,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def fresh(name: str, steps: int = 3, settings: Mapping[str, object] = SETTINGS) -> list[str]:
    words = [word for path, value in settings.items() for word in ("--set", f"{path}={value}")]
    return ["--model", "builtin", "--plugin", "./mine.py", "--steps", str(steps), "--name", name, *words]


def looked_at(home: Path, world: int, rank: int) -> list[list[int]]:
    """Return number and longest response of each group that a process of the last run trained on or dropped."""
    text = (home / f"looked-{world}-{rank}.txt").read_text()
    return [[int(word) for word in line.split()] for line in text.splitlines()]


def weights(home: Path, name: str) -> dict[str, torch.Tensor]:
    """Return what a run trained: the model's weights, or those of its adapters."""
    (file,) = checkpoint.latest(home / "runs" / name / "checkpoints").glob("*model.safetensors")
    return load_file(file)


def assert_same_run(home: Path, left: str, right: str) -> None:
    """Hold two runs to the same parameters within 1e-6 and the same metrics.

    Under plain gradient descent. AdamW divides by the gradient's own size, so a wrong factor would not show, while
    rounding does: in one process, another ``micro_groups`` moves single weights by 7e-5 under AdamW, here by 1e-7.
    """
    ours, theirs, start = weights(home, left), weights(home, right), load_file(BUILTIN / "model.safetensors")
    # Of adapters, which start at zero in effect, the half that starts at zero itself shows that they were trained.
    moved = [values - start[name] if name in start else values for name, values in ours.items() if "lora_A" not in name]
    assert max(float(change.abs().max()) for change in moved) > 1e-3
    assert ours.keys() == theirs.keys()
    for name, values in ours.items():
        torch.testing.assert_close(values, theirs[name], atol=1e-6, rtol=0)
    for one, two in zip(lines(home / "runs" / left), lines(home / "runs" / right), strict=True):
        assert one.keys() == two.keys()
        assert one == pytest.approx(two, rel=1e-4, abs=1e-5)


def of_each_step(home: Path, name: str, metric: str) -> list[float | None]:
    """Return a metric of a run's steps, the evaluation before them included."""
    return [line.get(metric) for line in lines(home / "runs" / name)]


@pytest.fixture(scope="module")
def alone(home: Path) -> Path:
    """A run in one process, of which nothing but the launcher differs."""
    run(home, (), *fresh("alone"))
    groups = looked_at(home, 1, 0)
    assert [number for number, _ in groups] == list(range(12))
    assert len({longest for _, longest in groups}) > 1
    assert of_each_step(home, "alone", "train/dropped") == [None, 0.25, 0.5, 0.0]
    return home


@pytest.mark.slow
@pytest.mark.timeout(2400)  # processes that load torch, and the run that they are compared with
@pytest.mark.parametrize("launcher", [TORCHRUN, ACCELERATE], ids=["torchrun", "accelerate"])
def test_two_processes_end_where_one_does(alone: Path, launcher: Sequence[str], request: pytest.FixtureRequest) -> None:
    name = request.node.callspec.id
    run(alone, launcher, *fresh(name))
    # A launcher that started a single process would make this test pass by comparing a run with itself.
    assert [number for number, _ in looked_at(alone, 2, 0)] == [0, 1, 4, 5, 8, 9]
    assert [number for number, _ in looked_at(alone, 2, 1)] == [2, 3, 6, 7, 10, 11]
    assert_same_run(alone, "alone", name)


KL = {"objective.terms": "[{type: kl, coefficient: 1.0}]"}
WITHOUT_SAMPLER = {name: value for name, value in SETTINGS.items() if not name.startswith("sampler.")}
OTHERS = {
    # What it needs of the policy is computed by each process for its own groups.
    "advantage": {
        **SETTINGS,
        "objective.advantage": "{type: vogue, of: {type: entropy-shaped, of: unlikeliness}}",
    },
    "augment": {**WITHOUT_SAMPLER, "sampler.type": "augment", "sampler.n": 2, "sampler.probability": 0.6},
    "branch": {**WITHOUT_SAMPLER, "sampler.type": "branch", "sampler.n": 2},
    "dynamic": {
        "sampler.type": "dynamic",
        "sampler.of.type": "mixed",
        **{name.replace("sampler.", "sampler.of."): value for name, value in SETTINGS.items()},
    },
    "kl": {**SETTINGS, **KL},
    "lora": {**SETTINGS, **KL, "model.lora.rank": 4, "optimizer.lr": 0.1},  # the reference: the model without adapters
    "text": {
        **SETTINGS,
        "task.type": "bars",
        "sampler.intervention.criterion": "nll",
        "sampler.intervention.attack.type": "joint",
        "sampler.intervention.attack.of": "{embeddings: {type: text-pgd, random_start: true}, tokens: random-swap}",
        "sampler.intervention.surfaces": "[embeddings, {type: tokens, questions: answerable}]",
        "objective.advantage.baseline": "per-origin",
    },
    # The same number of drops in a step, matched over the groups of both processes, by an estimate from all of them.
    "guards": {
        **SETTINGS,
        "sampler.intervention.guard.type": "random-drop",
        "sampler.intervention.guard.like.type": "accuracy-gap",
        "sampler.intervention.guard.like.limit": 0.0,
        "sampler.intervention.guard.like.min_groups": 1,
        "sampler.intervention.guard.like.half_life": 4,
        "sampler.intervention.criterion.type": "random-direction",
        "sampler.intervention.measure": "always",
    },
    # Guards drop groups, so that responses are missing that replayed ones take the places of.
    "replay": {
        **SETTINGS,
        "training.replay.fill": 1.0,
        "training.replay.capacity": 14,
        "optimizer.lr": 1.5e-2,
    },
    # One temperature for the groups of both processes.
    "tempered": {
        **WITHOUT_SAMPLER,
        "sampler": "{type: tempered, n_clean: 2, n_tempered: 2, temperature: {match: kl, target: 0.05}}",
    },
    "thermostat": {**SETTINGS, "sampler.intervention.strength.type": "thermostat", "control.every": 1},
    # Each optimiser step has one group, and one of two processes none.
    "updates": {**SETTINGS, "training.prompts_per_step": 2, "training.updates_per_batch": 2, "optimizer.lr": 1e-2},
}


@pytest.mark.slow
@pytest.mark.timeout(2400)
@pytest.mark.parametrize("name", OTHERS)
def test_two_processes_end_where_one_does_with_other_strategies(home: Path, name: str) -> None:
    run(home, (), *fresh(f"{name}-one", settings=OTHERS[name]))
    run(home, TORCHRUN, *fresh(f"{name}-two", settings=OTHERS[name]))
    assert_same_run(home, f"{name}-one", f"{name}-two")
    if name == "dynamic":  # more than 4 groups of 4, since those without variance were replaced
        assert max(sampled or 0 for sampled in of_each_step(home, "dynamic-one", "train/sampled_responses")) > 4 * 4
    elif name == "advantage":
        assert any((share or 0) > 0 for share in of_each_step(home, "advantage-two", "train/advantage/shaped"))
    elif name == "text":
        assert any(moved for moved in of_each_step(home, "text-one", "train/intervention/embeddings/moved"))
    elif name == "thermostat":
        assert len(set(of_each_step(home, f"{name}-one", "train/intervention/strength")[1:])) == 3
    elif name == "guards":
        assert any(0 < (share or 0) < 1 for share in of_each_step(home, "guards-one", "train/dropped/random"))
    elif name == "replay":
        assert max(share or 0 for share in of_each_step(home, "replay-two", "train/replay/share")) > 0.3
        run(home, TORCHRUN, *fresh("replay-halves", steps=2, settings=OTHERS[name]))
        run(home, (), "--resume", "runs/replay-halves", "--steps", "3")
        assert_same_run(home, "replay-one", "replay-halves")
    elif name == "tempered":
        assert all(of_each_step(home, "tempered-two", "train/intervention/temperature")[1:])
    elif name in ("kl", "lora"):
        assert (of_each_step(home, f"{name}-one", "train/kl/mean")[-1] or 0) > 1e-6


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_a_run_goes_on_in_another_number_of_processes(alone: Path) -> None:
    run(alone, TORCHRUN, *fresh("halves", steps=2))
    assert len(looked_at(alone, 2, 1)) == 4
    run(alone, (), "--resume", "runs/halves", "--steps", "3")
    assert [number for number, _ in looked_at(alone, 1, 0)] == [8, 9, 10, 11]
    assert_same_run(alone, "alone", "halves")


def launched(count: int, kind: DistributedType) -> SimpleNamespace:
    return SimpleNamespace(num_processes=count, process_index=0, distributed_type=kind)


@pytest.mark.parametrize(
    ("count", "kind", "device", "said"),
    [
        (2, DistributedType.FSDP, "auto", "whole model in each process"),
        (2, DistributedType.DEEPSPEED, "auto", "whole model in each process"),
        (3, DistributedType.MULTI_CPU, "auto", "one group of a step at least"),
        (2, DistributedType.MULTI_GPU, "cuda:0", "a device of its own"),
    ],
)
def test_what_cannot_be_done_is_refused(
    tmp_path: Path, count: int, kind: DistributedType, device: str, said: str
) -> None:
    config = load_config(assignments=["training.prompts_per_step=2", f"model.device={device}"])
    with pytest.raises(ConfigError, match=said):
        processes_of(launched(count, kind), config)


@pytest.mark.parametrize(("items", "count"), [(8, 2), (7, 3), (2, 5), (0, 2)])
def test_shares_are_the_whole_in_order_and_even(items: int, count: int) -> None:
    shares = [Processes(count, rank).share(range(items)) for rank in range(count)]
    assert [item for share in shares for item in share] == list(range(items))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_states_that_differ_need_the_same_number_of_processes() -> None:
    same = {"sampler": {"x": torch.ones(2)}, "others": [{"sampler": {"x": torch.ones(2)}}]}
    assert checkpoint.state_of_rank(same, ["sampler"], Processes(3, 2)) is not same
    other = {"sampler": {"x": torch.ones(2)}, "others": [{"sampler": {"x": torch.zeros(2)}}]}
    assert not checkpoint.state_of_rank(other, ["sampler"], Processes(2, 1))["sampler"]["x"].any()
    with pytest.raises(CheckpointError, match="2 wrote the checkpoint, 3 were launched"):
        checkpoint.state_of_rank(other, ["sampler"], Processes(3, 0))


def commands() -> list[list[str]]:
    blocks = re.findall(r"```bash\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    joined = "".join(blocks).replace("\\\n", " ")
    return [shlex.split(line) for line in joined.splitlines() if line.strip()]


@pytest.mark.parametrize("command", commands(), ids=lambda command: " ".join(command)[:60])
def test_recipes_are_parsed_by_the_launchers_and_by_saei(command: list[str], tmp_path: Path) -> None:
    from accelerate.commands.launch import launch_command_parser
    from torch.distributed.run import get_args_parser
    from typer.main import get_command

    from saei.cli import app

    if command[0] == "torchrun":
        parsed = get_args_parser().parse_args(command[1:])
    else:
        assert command[:2] == ["accelerate", "launch"]
        parsed = launch_command_parser().parse_args(command[2:])
        assert parsed.multi_gpu, "without --multi_gpu accelerate may start a single process and say nothing"
    assert (parsed.module, parsed.training_script) == (True, "saei.cli")
    name, *rest = parsed.training_script_args
    train = get_command(app).commands[name]  # type: ignore[attr-defined]  # a group
    context = train.make_context(name, rest)
    load_config(assignments=context.params["set_"] or [])


def test_a_tiny_run_still_takes_one_process(tmp_path: Path) -> None:
    assert processes_of(launched(1, DistributedType.NO), tiny(tmp_path, tmp_path, reward="accuracy-format")).main
