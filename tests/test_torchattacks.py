"""torchattacks on a criterion: the same images as torchattacks on a classifier, bit for bit, and what is refused."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
import torch
import torchattacks
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from groups import draw
from saei.attacks.base import BlockSpace, Point, Space
from saei.attacks.pgd import PGD
from saei.attacks.torchattacks import ALLOWED, REFUSED, Torchattacks
from saei.config.run import validate
from saei.data.bars import Bars
from saei.errors import ConfigError, ModelError
from saei.interventions import Intervention, InterventionConfig
from saei.interventions.context import StepContext
from saei.policy import Policy
from saei.runtime.seeds import GroupSources
from saei.testing import check_attack
from saei.types import View

LABELS = torch.tensor([0, 2, 1])
GRID = 1 / 255
ALONE = Space((BlockSpace(),), (0,))


@pytest.fixture
def classifier() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.GELU(), nn.Flatten(), nn.Linear(8 * 4 * 5, 3)).eval()


@pytest.fixture
def images() -> Tensor:
    """Pictures so far from black and white that torchattacks, too, asks about pictures only."""
    torch.manual_seed(1)
    return 0.3 + 0.4 * torch.rand(3, 3, 6, 7)


def loss(classifier: nn.Module, labels: Tensor) -> Callable[[Point], Tensor]:
    return lambda point: cross_entropy(classifier(torch.stack(point)), labels, reduction="none")


def move(config: Any, criterion: Any, start: Point, space: Space = ALONE, seed: int = 5) -> Point:
    generators = [torch.Generator().manual_seed(seed)] * len(start)
    moved: Point = config.build().attack(criterion, start, space=space, progress=0.0, generators=generators)
    return moved


@pytest.mark.parametrize("direction", ["raise", "lower"])
@pytest.mark.parametrize("name", ALLOWED)
def test_a_criterion_is_attacked_as_torchattacks_attacks_a_classifier(
    classifier: nn.Module, images: Tensor, name: str, direction: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    for image, label in zip(images, LABELS, strict=True):
        attack = getattr(torchattacks, name)(classifier)
        if direction == "lower":
            attack.set_mode_targeted_by_label(quiet=True)
        torch.manual_seed(5)  # torchattacks draws from the global generator
        theirs = attack(image[None], label[None])[0]
        (ours,) = move(Torchattacks.Config(name=name, direction=direction), loss(classifier, label[None]), (image,))
        assert torch.equal(ours, theirs)
        assert not torch.equal(ours, image)
    assert not capsys.readouterr().out  # torchattacks announces changes of its mode


def test_given_fields_reach_torchattacks(
    classifier: nn.Module, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[dict[str, Any]] = []

    class Spy(torchattacks.VMIFGSM):  # type: ignore[misc]
        def __init__(self, model: nn.Module, **fields: Any) -> None:
            super().__init__(model, **fields)
            given.append(fields)

    monkeypatch.setattr(torchattacks, "VMIFGSM", Spy)
    fields: dict[str, Any] = {"eps": "6/255", "alpha": "1/255", "steps": 3, "decay": "1/2", "N": 2, "beta": 1.25}
    config = Torchattacks.Config(name="VMIFGSM", **fields)
    move(config, loss(classifier, LABELS[:1]), (images[0],))
    assert given == [{"eps": 6 / 255, "alpha": 1 / 255, "steps": 3, "decay": 0.5, "N": 2, "beta": 1.25}]
    assert config.model_dump(mode="json")["eps"] == "2/85"


def test_the_tables_are_torchattacks_own() -> None:
    assert ALLOWED.keys() | REFUSED.keys() == set(torchattacks.__all__)
    assert not ALLOWED.keys() & REFUSED.keys()
    for name, fields in ALLOWED.items():
        parameters = inspect.signature(getattr(torchattacks, name)).parameters
        assert {field: parameters[field].default for field in fields} == pytest.approx(
            {field: float(value) for field, value in fields.items()}
        )
        left_out = parameters.keys() - fields.keys() - {"model"}
        assert left_out <= {"loss", "eot_iter", "eps_for_division"}


@pytest.mark.parametrize("random_start", [False, True])
@pytest.mark.parametrize("grid", [None, GRID])
def test_its_pgd_is_ours(grid: float | None, random_start: bool) -> None:
    """Three blocks of two examples, one of them with an edge of black and white and one with a mask."""
    generator = torch.Generator().manual_seed(0)
    start = tuple((torch.rand(3, 4, n, generator=generator) * 1.4 - 0.2).clamp(0, 1) for n in (5, 6, 5))
    start = tuple((block * 255).round() / 255 for block in start)
    block = BlockSpace(grid=grid)
    masked = replace(block, editable=torch.arange(5) % 2 == 0)
    space = Space((block, block, masked), (0, 0, 1))
    slopes = [torch.randn(block.shape, generator=generator) for block in start]

    def criterion(point: Point) -> Tensor:
        a, b, c = ((slope * x + x**3).sum() for slope, x in zip(slopes, point, strict=True))
        return torch.stack([a * b - 3, c - 1e4])  # of both signs, the first example's blocks entangled

    fields: dict[str, Any] = {"random_start": random_start, "steps": 4}
    theirs = move(Torchattacks.Config(name="PGD", eps="6/255", alpha="5/510", **fields), criterion, start, space)
    ours = move(PGD.Config(radius="6/255", step="5/510", **fields), criterion, start, space)
    assert all(map(torch.equal, ours, theirs))
    assert all(not torch.equal(a, b) for a, b in zip(ours, start, strict=True))


@pytest.mark.parametrize("name", ["MIFGSM", "PGDL2", "FGSM"])
def test_neither_size_nor_sign_of_the_criterion_matters(classifier: nn.Module, images: Tensor, name: str) -> None:
    config = Torchattacks.Config(name=name)
    plain = loss(classifier, LABELS[:1])
    (expected,) = move(config, plain, (images[0],))
    for add in (-5.0, 200.0):
        (moved,) = move(config, lambda point, add=add: plain(point) + add, (images[0],))
        assert torch.equal(moved, expected)


@pytest.mark.parametrize("name", ALLOWED)
def test_an_example_without_a_gradient_stays(name: str, images: Tensor) -> None:
    config = Torchattacks.Config(name=name)
    space = Space((BlockSpace(),) * 2, (0, 1))

    def criterion(point: Point) -> Tensor:
        assert all(bool(block.isfinite().all()) for block in point)
        return torch.stack([0 * point[0].sum(), point[1].sum()])

    flat, steep = move(config, criterion, tuple(images[:2]), space)
    if name in ("FFGSM", "PGD", "PGDL2", "RFGSM"):  # a random start needs no gradient
        assert bool(flat.isfinite().all())
    else:
        assert torch.equal(flat, images[0])
    assert (steep - images[1]).sum() > 0
    nan = move(config, lambda point: (point[0].sum() * torch.nan)[None], (images[0],))[0]
    assert bool(nan.isfinite().all())
    with pytest.raises(ModelError, match="depends differentiably"):
        move(config, lambda point: torch.zeros(1), (images[0],))


def test_what_is_not_editable_takes_no_share_of_the_step() -> None:
    space = Space((BlockSpace(editable=torch.tensor([True, False])),), (0,))
    config = Torchattacks.Config(name="PGDL2", steps=1, alpha="1/10", random_start=False)
    criterion = lambda point: (point[0] * torch.tensor([1.0, 1000.0])).sum()[None]  # noqa: E731
    (moved,) = move(config, criterion, (torch.full((1, 1, 2), 0.5),), space)
    torch.testing.assert_close(moved, torch.tensor([[[0.6, 0.5]]]))


def test_strength_scales_eps_and_alpha(classifier: nn.Module, images: Tensor) -> None:
    half = Space((BlockSpace(scale=0.5),), (0,))
    criterion = loss(classifier, LABELS[:1])
    (scaled,) = move(Torchattacks.Config(name="MIFGSM", eps="8/255", alpha="3/255"), criterion, (images[0],), half)
    (given,) = move(Torchattacks.Config(name="MIFGSM", eps="4/255", alpha="3/510"), criterion, (images[0],))
    assert torch.equal(scaled, given)


def test_the_generator_moves_on(classifier: nn.Module, images: Tensor) -> None:
    attack = Torchattacks(Torchattacks.Config(name="PGD", steps=1))
    generator = torch.Generator().manual_seed(0)
    first, second = (
        attack.attack(loss(classifier, LABELS[:1]), (images[0],), space=ALONE, progress=0.0, generators=[generator])[0]
        for _ in range(2)
    )
    assert not torch.equal(first, second)


@pytest.mark.parametrize("name", ALLOWED)
def test_contract(name: str) -> None:
    check_attack(Torchattacks.Config(name=name))
    check_attack(Torchattacks.Config(name=name, eps="5/510", direction="lower"))


def test_groups_are_attacked_one_at_a_time(random_policy: Policy, bars: Bars, monkeypatch: pytest.MonkeyPatch) -> None:
    views = [random_policy.view(bars.example(i)) for i in range(2)]
    responses = draw(random_policy, views, [2, 2])
    scored: list[int] = []
    real = random_policy.score

    def spy(views: list[View], *args: Any, **kwargs: Any) -> Any:
        scored.append(len(views))
        return real(views, *args, **kwargs)

    monkeypatch.setattr(random_policy, "score", spy)
    config = InterventionConfig(attack=Torchattacks.Config(name="MIFGSM", steps=2))
    step = StepContext(random_policy, 0.0, GroupSources(0))
    outcomes = Intervention(config).apply(views, responses, step)
    assert scored == [1] * 4  # two steps of each of two groups
    stronger = InterventionConfig(attack=Torchattacks.Config(name="FGSM", steps=None, eps=Fraction(2, 255)))
    for outcome, view in zip(outcomes, views, strict=True):
        assert outcome.view.origin == "adversarial"
        assert outcome.metrics["largest_change"] == pytest.approx(4)
        moved = outcome.view.canvases[0]
        assert torch.equal(moved, (moved * 255).round() / 255)
        assert not torch.equal(moved, view.canvases[0])
    fast = Intervention(stronger).apply(views, responses, step)
    ours = Intervention(InterventionConfig(attack=PGD.Config())).apply(views, responses, step)
    assert all(torch.equal(a.view.canvases[0], b.view.canvases[0]) for a, b in zip(fast, ours, strict=True))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (
            {"name": "CW"},
            "torchattacks' CW cannot serve: it works on the decision of a classifier.*Those that can: BIM",
        ),
        ({"name": "TPGD"}, "a loss of its own"),
        ({"name": "Square"}, "decides nothing"),
        ({"name": "DIFGSM"}, "square"),
        ({"name": "mifgsm"}, "'mifgsm' is not an attack of torchattacks. Did you mean 'MIFGSM'"),
        ({"name": "FGSM", "decay": 1, "steps": 3}, "FGSM has eps, and no decay, steps"),
        ({"name": "PGD", "eps": -1}, "greater than or equal to 0"),
        ({}, "required"),
    ],
)
def test_what_cannot_serve_is_refused_when_the_configuration_is_read(fields: dict[str, Any], said: str) -> None:
    attack = {"type": "torchattacks", **fields}
    with pytest.raises(ConfigError, match=said):
        validate({"sampler": {"intervention": {"attack": attack}}})


def test_without_the_package_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchattacks", None)
    config = Torchattacks.Config(name="MIFGSM")  # reading it needs no package
    with pytest.raises(ConfigError, match=r"pip install 'saei\[torchattacks\]'"):
        config.build()
