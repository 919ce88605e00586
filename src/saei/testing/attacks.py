"""The contract of attacks."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from saei.attacks.base import Attack, BlockSpace, Point, Space, TokenSpace
from saei.config.strategy import Strategy, StrategyConfig
from saei.testing.rules import changed, config_of, random_state_untouched, require

EXAMPLES = (0, 1, 1, 2)
SHAPES: Mapping[str, Sequence[tuple[int, ...]]] = {
    "pixels": ((3, 4, 5), (3, 5, 4), (3, 2, 6), (3, 4, 5)),
    "embeddings": ((4, 6), (3, 6), (1, 6), (4, 6)),
    "tokens": ((4,), (3,), (1,), (4,)),
    "wording": ((1,), (1,), (1,), (1,)),
}
VOCABULARY, FEATURES = 12, 6
"""Of the space ``tokens``."""

SEEDS = (2, 3, 4)
"""Seeds of the examples' generators."""

GRID = 1 / 255
TOLERANCE = 1e-6
"""Distance in the [0, 1] range by which float32 may leave a ball: a four-thousandth of a grid step."""


def check_attack(subject: Strategy | StrategyConfig) -> None:
    """Hold an attack to its contract, in each of the spaces that it declares.

    Args:
        subject: The attack or its config.

    Raises:
        AssertionError: Naming the rule that is broken.
    """
    config = config_of(subject)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        attack = config.build()
        require(isinstance(attack, Attack), config.type, "the config of an attack builds an Attack")
        known = bool(attack.spaces) and attack.spaces <= SHAPES.keys()
        require(known, config.type, "its spaces are some of pixels, embeddings, tokens and wording")
        require(bool(attack.moves), config.type, "it moves some surface unless others are named")
        for name in sorted(attack.spaces):
            start, space = _world(name)
            for variant in _variants(space):
                _check_result(attack, start, variant)
            _check_identities(config, start, space)
            _check_traces(config, start, space)
            _check_independence(config, start, space)
            if "direction" in type(config).model_fields:
                _check_directions(config, start, space)


class _Toy(nn.Module):
    """A criterion with parameters and modes, almost linear per example, whose slope is known and nowhere 0.

    Of ids it takes their embeddings.
    """

    def __init__(self, space: Space, gain_B: Sequence[float] = (1, 1, 1), numbers: Sequence[int] = range(4)) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        shapes = SHAPES[space.blocks[0].name]
        self.of_ids = space.blocks[0].tokens is not None
        if self.of_ids:
            shapes = [(*shape, FEATURES) for shape in shapes]
        slopes = [torch.randn(shape, generator=generator) for shape in shapes]
        self.slopes = nn.ParameterList([slopes[number] + slopes[number].sign() for number in numbers])
        self.slopes[-1].requires_grad_(False)
        self.resting = nn.Dropout().eval()
        for slope in self.slopes:
            slope.grad = torch.ones_like(slope)
        self.examples = space.examples
        self.gain_B = gain_B

    def forward(self, point: Point, offsets: Mapping[int, Tensor] | None = None) -> Tensor:
        """Return ``J_B``."""
        if self.of_ids:
            point = tuple(_table()[ids_Q] for ids_Q in point)
            point = tuple(block + (offsets or {}).get(number, 0) for number, block in enumerate(point))
        values = [(slope * x + 0.1 * x**2).sum() for slope, x in zip(self.slopes, point, strict=False)]
        return torch.stack(
            [
                self.gain_B[e]
                * torch.stack([v for v, example in zip(values, self.examples, strict=True) if example == e]).sum()
                for e in sorted(set(self.examples))
            ]
        )

    def state(self) -> list[tuple[Tensor, Tensor | None, bool]]:
        """Return copies of what an attack must leave alone."""
        return [
            (p.detach().clone(), None if p.grad is None else p.grad.clone(), p.requires_grad) for p in self.parameters()
        ]


def _table() -> Tensor:
    """Return the embeddings of the space ``tokens``, ``[V, d]``."""
    return torch.randn(VOCABULARY, FEATURES, generator=torch.Generator().manual_seed(4))


def _is_text(ids_Q: Tensor) -> bool:
    """Return whether these tokens are a text: of those that stand side by side no two are the same."""
    return bool((ids_Q[1:] != ids_Q[:-1]).all())


def _world(name: str) -> tuple[Point, Space]:
    """Return four blocks of three examples; pixels are on the grid, some at its ends."""
    generator = torch.Generator().manual_seed(0)
    shapes = SHAPES[name]
    start: Point
    if name == "pixels":
        start = tuple((torch.randint(-40, 296, shape, generator=generator).clamp(0, 255) / 255) for shape in shapes)
        block = BlockSpace(units={"pixel": 1.0, "normalised": torch.tensor([0.5, 0.25, 0.3])[:, None, None]}, grid=GRID)
    elif name == "embeddings":
        start = tuple(torch.randn(shape, generator=generator) for shape in shapes)
        units: dict[str, float | Tensor] = {
            "pixel": 1.0,
            "normalised": 0.5,
            "rms": 1.0,
            "distance": 0.8,
            "neftune": 0.1,
        }
        block = BlockSpace(name=name, low=-torch.inf, high=torch.inf, units=units)
    elif name == "tokens":
        start = tuple(torch.randperm(VOCABULARY, generator=generator)[: shape[0]] for shape in shapes)
        kind_V = torch.tensor([0, 0, 0, 0, 0, 1, 1, 1, 1, 1, -1, -1])
        tokens = TokenSpace(FEATURES, lambda vectors_Qd: vectors_Qd @ _table().T, kind_V, _is_text)
        block = BlockSpace(name=name, low=0, high=VOCABULARY - 1, units={}, tokens=tokens)
    else:
        start = tuple(torch.zeros(shape, dtype=torch.long) for shape in shapes)
        block = BlockSpace(name=name, low=0, high=3, units={})
    return start, Space((block,) * len(start), EXAMPLES)


def _other(block: Tensor, space: BlockSpace) -> Tensor:
    """Return another legal block."""
    return block.flip(0) if space.name in ("tokens", "wording") else 0.5 + 0.3 * block


def _with(space: Space, **fields: object) -> Space:
    return replace(space, blocks=tuple(replace(block, **fields) for block in space.blocks))  # type: ignore[arg-type]


def _variants(space: Space) -> list[Space]:
    editable = torch.tensor([True, False, True, True, False, False])
    shapes = SHAPES[space.blocks[0].name]
    masked = [replace(block, editable=editable[: shape[-1]]) for block, shape in zip(space.blocks, shapes, strict=True)]
    free = _with(space, grid=None)
    return [space, free, _with(space, scale=0.3), _with(free, scale=1.7), replace(space, blocks=tuple(masked))]


def _run(
    attack: Attack, start: Point, space: Space, criterion: _Toy | None = None, seeds: Sequence[int] = SEEDS
) -> Point:
    given = tuple(block.clone() for block in start)
    sources = [torch.Generator().manual_seed(seed) for seed in seeds]
    moved = attack.attack(criterion or _Toy(space), given, space=space, progress=0.5, generators=sources)
    untouched = all(map(torch.equal, given, start)) and not any(block.requires_grad for block in given)
    require(untouched, attack.name(), "the start is not written to")
    return moved


def _check_result(attack: Attack, start: Point, space: Space) -> None:
    name = attack.name()
    moved = _run(attack, start, space)
    same = len(moved) == len(start) and all(
        x.shape == s.shape and x.dtype == s.dtype for x, s in zip(moved, start, strict=True)
    )
    require(same, name, "the result has the start's blocks, shapes and dtypes")
    require(not any(x.requires_grad for x in moved), name, "the result is detached")
    require(all(bool(x.isfinite().all()) for x in moved), name, "the result is finite")
    for x, origin, block in zip(moved, start, space.blocks, strict=True):
        bounded = bool(((x >= block.low) & (x <= block.high)).all())
        require(bounded, name, "the result is inside the bounds")
        if block.grid is not None:
            off = (x / block.grid - (x / block.grid).round()).abs().max()
            require(float(off) <= 1e-3, name, "the result is on the grid")
        if block.editable is not None:
            frozen = torch.where(block.editable, origin, x)
            require(torch.equal(frozen, origin), name, "what is not editable keeps its bits")
        if block.tokens is not None:
            kind_V = block.tokens.kind_V
            fits = (x == origin) | ((kind_V[x] == kind_V[origin]) & (kind_V[x] >= 0))
            require(bool(fits.all()), name, "tokens are swapped for others of their kind")
            require(block.tokens.legal(x), name, "the result is a text that has these tokens")
        _check_ball(attack, x - origin, block)


def _check_ball(attack: Attack, change: Tensor, block: BlockSpace) -> None:
    name = attack.name()
    radius = attack.radius(block)
    require(attack.ball in ("linf", "l2", "none"), name, "its ball is linf, l2 or none")
    require((radius is None) == (attack.ball == "none"), name, "it has a radius exactly if it declares a ball")
    if radius is None:
        return
    if attack.ball == "linf":
        inside = bool((change.abs() <= radius + TOLERANCE).all())
    else:
        inside = float((change / radius).norm()) <= 1 + 1e-4
    require(inside, name, f"the result is inside the declared {attack.ball} ball")


def _check_identities(config: StrategyConfig, start: Point, space: Space) -> None:
    still = _run(config.build(), start, _with(space, scale=0.0))
    require(all(map(torch.equal, still, start)), config.type, "at strength 0 nothing moves")
    for name in ("steps", "swaps"):
        if name in type(config).model_fields:
            still = _run(changed(config, **{name: 0}).build(), start, space)
            require(all(map(torch.equal, still, start)), config.type, f"{name}: 0 is the identity")


def _check_traces(config: StrategyConfig, start: Point, space: Space) -> None:
    name = config.type
    criterion = _Toy(space)
    before = criterion.state()
    with random_state_untouched(name):
        moved = _run(config.build(), start, space, criterion)
    require(torch.is_grad_enabled(), name, "gradients are as enabled afterwards as they were")
    for (value, grad, needs), (old_value, old_grad, needed) in zip(criterion.state(), before, strict=True):
        require(torch.equal(value, old_value), name, "parameters behind the criterion keep their values")
        same_grad = grad is not None and old_grad is not None and torch.equal(grad, old_grad)
        require(same_grad, name, "parameters behind the criterion keep their .grad")
        require(needs == needed, name, "parameters behind the criterion keep their requires_grad")
    modes = criterion.training and criterion.slopes.training and not criterion.resting.training
    require(modes, name, "modules behind the criterion keep their train or eval mode")
    again = _run(config.build(), start, space)
    require(all(map(torch.equal, moved, again)), name, "the same arguments give the same result")


def _check_independence(config: StrategyConfig, start: Point, space: Space) -> None:
    """Check that an example ends at the same point among changed others, and alone with its own generator."""
    rule = "an example's result does not depend on the other examples"
    space = _with(space, grid=None)
    moved = _run(config.build(), start, space)
    for example in sorted(set(EXAMPLES)):
        blocks_of = zip(start, space.blocks, EXAMPLES, strict=True)
        others = tuple(block if e == example else _other(block, block_space) for block, block_space, e in blocks_of)
        criterion = _Toy(space, [1.0 if e == example else 50.0 for e in range(3)])
        among_others = _run(config.build(), others, space, criterion)
        same = [torch.equal(a, b) for a, b, e in zip(moved, among_others, EXAMPLES, strict=True) if e == example]
        require(all(same), config.type, rule)
    for example in sorted(set(EXAMPLES)):
        numbers = [number for number, e in enumerate(EXAMPLES) if e == example]
        blocks = tuple(space.blocks[number] for number in numbers)
        alone = Space(blocks, (0,) * len(numbers))
        criterion = _Toy(alone, numbers=numbers)
        result = _run(config.build(), tuple(start[n] for n in numbers), alone, criterion, SEEDS[example : example + 1])
        same = [torch.equal(block, moved[number]) for block, number in zip(result, numbers, strict=True)]
        require(all(same), config.type, rule)


def _check_directions(config: StrategyConfig, start: Point, space: Space) -> None:
    if getattr(config, "steps", 1) == 0:
        return
    space = _with(space, grid=None)
    criterion = _Toy(space)
    raised, lowered = (
        criterion(_run(changed(config, direction=direction).build(), start, space)) for direction in ("raise", "lower")
    )
    require(bool((raised > lowered).all()), config.type, "direction: raise ends above direction: lower")
