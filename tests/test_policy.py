"""The policy against the model's own forward: values and gradients, the shared way against the plain one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoTokenizer

from groups import official_inputs, sources
from saei.config.sections import EntropyConfig, SamplingConfig
from saei.data.bars import Bars
from saei.data.templates import ThinkBoxed
from saei.errors import ConfigError, DataError, ModelError
from saei.policy import Policy
from saei.policy.decoding import Draw, decode, inverse_cdf, uniforms
from saei.policy.load.weights import Parts
from saei.policy.module import Distribution, NextToken
from saei.policy.pixels.space import GRID, PixelSpace, to_image
from saei.policy.scoring import WithRespectTo
from saei.types import Example, Response, View


def draw(policy: Policy, views: list[View], counts: list[int], seed: int = 0) -> list[list[Response]]:
    return policy.sample(views, counts, sampling=policy.sampling, generators=sources(len(views), seed))


def official_logp(policy: Policy, view: View, response: Response) -> Tensor:
    """Full log-probabilities of a response's positions from the model's own forward on the official processor."""
    with torch.no_grad():
        logits = policy.model(**official_inputs(policy, view, response.ids_T)).logits
    banned_V = policy.distribution.banned_V
    assert banned_V is not None
    kept = logits[0, len(view.prompt_ids_P) - 1 : -1].masked_fill(banned_V, -torch.inf)
    return kept.log_softmax(-1)


@pytest.fixture(scope="module", params=["qwen", "llava"])
def random_parts(request: pytest.FixtureRequest, random_parts: Parts, llava_parts: Parts) -> Parts:
    return {"qwen": random_parts, "llava": llava_parts}[request.param]


@pytest.fixture
def views(random_policy: Policy, bars: Bars) -> list[View]:
    return [random_policy.view(bars.example(i)) for i in range(3)]


@pytest.fixture
def responses(random_policy: Policy, views: list[View]) -> list[list[Response]]:
    drawn = draw(random_policy, views, [4, 1, 3])
    # Ragged lengths, one of them a single token and one empty.
    drawn[0][1] = cut(drawn[0][1], 1)
    drawn[2][0] = cut(drawn[2][0], 5)
    drawn[2][2] = cut(drawn[2][2], 0)
    return drawn


def cut(response: Response, length: int) -> Response:
    return replace(
        response,
        ids_T=response.ids_T[:length],
        behaviour_logp_T=response.behaviour_logp_T[:length],
        entropy_T=response.entropy_T[:length],
    )


@pytest.mark.parametrize("shared", [True, False])
def test_scores_equal_the_models_own_forward(
    random_policy: Policy, views: list[View], responses: list[list[Response]], shared: bool
) -> None:
    random_policy.shared_prefix = shared
    scores = random_policy.score(views, responses)
    for view, own, score in zip(views, responses, scores, strict=True):
        assert score.mask_NT.sum(1).tolist() == [len(response) for response in own]
        for n, response in enumerate(own):
            if not len(response):
                continue
            logp_TV = official_logp(random_policy, view, response)
            expected = torch.distributions.Categorical(logits=logp_TV.clamp_min(-1e9).double())
            length = len(response)
            torch.testing.assert_close(
                score.logp_NT[n, :length], expected.log_prob(response.ids_T).float(), atol=2e-5, rtol=0
            )
            assert score.entropy_NT is not None
            torch.testing.assert_close(score.entropy_NT[n, :length], expected.entropy().float(), atol=2e-5, rtol=0)


def test_behaviour_log_probabilities_equal_rescoring(
    random_policy: Policy, views: list[View], responses: list[list[Response]]
) -> None:
    scores = random_policy.score(views, responses)
    for own, score in zip(responses, scores, strict=True):
        assert score.entropy_NT is not None
        for n, response in enumerate(own):
            length = len(response)
            torch.testing.assert_close(score.logp_NT[n, :length], response.behaviour_logp_T, atol=2e-5, rtol=0)
            torch.testing.assert_close(score.entropy_NT[n, :length], response.entropy_T, atol=2e-5, rtol=0)


def gradients(
    policy: Policy, views: list[View], responses: list[list[Response]], *, shared: bool
) -> tuple[list[Tensor], list[Tensor]]:
    policy.shared_prefix = shared
    point = [canvas.clone().requires_grad_() for view in views for canvas in view.canvases]
    scores = policy.score(views, responses, wrt={"pixels": point})
    J = sum((s.entropy_NT.sum() - s.logp_NT.sum() for s in scores if s.entropy_NT is not None), torch.zeros(()))
    pixel = list(torch.autograd.grad(J, point))
    parameters = [p for p in policy.module.parameters() if p.requires_grad]
    loss = sum((s.logp_NT.sum() for s in policy.score(views, responses, wrt="parameters")), torch.zeros(()))
    found = torch.autograd.grad(loss, parameters, allow_unused=True)  # LLaVA does not look at its tower's last layer
    return pixel, [gradient for gradient in found if gradient is not None]


def test_gradients_of_the_shared_way_equal_the_plain_ones(
    random_policy: Policy, views: list[View], responses: list[list[Response]]
) -> None:
    shared, plain = (gradients(random_policy, views, responses, shared=flag) for flag in (True, False))
    for ours, reference in zip(shared, plain, strict=True):
        largest = max(float(gradient.abs().max()) for gradient in reference)
        for mine, expected in zip(ours, reference, strict=True):
            scale = float(expected.abs().max())
            # Attention does not feel the bias of its keys, whose gradient is nothing but rounding.
            tolerance = 2e-5 * scale if scale > 1e-6 * largest else 1e-6 * largest
            torch.testing.assert_close(mine, expected, atol=tolerance, rtol=0)


def test_pixel_gradient_equals_finite_differences(
    random_policy: Policy, views: list[View], responses: list[list[Response]]
) -> None:
    random_policy.model.double()
    try:
        own, start = [responses[0]], views[0].canvases[0].double()
        direction = torch.randn(start.shape, generator=torch.Generator().manual_seed(0)).double()

        def J(canvas: Tensor) -> Tensor:
            entropy_NT = random_policy.score(views[:1], own, wrt={"pixels": [canvas]})[0].entropy_NT
            assert entropy_NT is not None
            return entropy_NT.sum()

        def value(canvas: Tensor) -> float:
            return float(J(canvas).detach())

        point = start.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(J(point), point)
        step = 1e-3
        difference = (value(start + step * direction) - value(start - step * direction)) / (2 * step)
        # Entropies are float32, which leaves 1e-3 of the difference.
        assert float((gradient * direction).sum()) == pytest.approx(difference, rel=5e-3)
    finally:
        random_policy.model.float()


def test_scoring_leaves_no_trace(random_policy: Policy, views: list[View], responses: list[list[Response]]) -> None:
    before = {name: p.detach().clone() for name, p in random_policy.model.named_parameters()}
    rng = torch.get_rng_state()
    gradients(random_policy, views, responses, shared=True)
    assert all(p.grad is None and p.requires_grad for p in random_policy.model.parameters())
    assert all(torch.equal(before[name], p) for name, p in random_policy.model.named_parameters())
    assert not random_policy.model.training
    assert torch.equal(rng, torch.get_rng_state())


def test_unequal_prompts_sample_as_they_would_alone(random_policy: Policy, bars: Bars) -> None:
    examples = [replace(bars.example(0), question=text) for text in ("What is red + yellow?", "What is red?")]
    views = [random_policy.view(example) for example in examples]
    assert len(views[0].prompt_ids_P) != len(views[1].prompt_ids_P)
    greedy = SamplingConfig(temperature=0, max_new_tokens=12)
    together = random_policy.sample(views, [1, 1], sampling=greedy, generators=sources(2))
    for view, own in zip(views, together, strict=True):
        alone = random_policy.sample([view], [1], sampling=greedy, generators=sources(1))
        assert own[0].ids_T.tolist() == alone[0][0].ids_T.tolist()
        token, prompt = [], view.prompt_ids_P
        for _ in range(12):  # greedy decoding by hand, one full forward a token
            fake = Response(torch.tensor([*token, 0]), "", torch.empty(0), torch.empty(0), truncated=False)
            token.append(int(official_logp(random_policy, replace(view, prompt_ids_P=prompt), fake)[-1].argmax()))
        assert own[0].ids_T.tolist() == token[: len(own[0])]


def test_sampling_is_a_function_of_the_generator(random_policy: Policy, views: list[View]) -> None:
    first, again, other = (draw(random_policy, views, [3, 0, 2], seed) for seed in (1, 1, 2))
    ids = [[r.ids_T.tolist() for own in run for r in own] for run in (first, again, other)]
    assert ids[0] == ids[1] != ids[2]
    assert [len(own) for own in first] == [3, 0, 2]


def test_banned_ids_are_never_sampled_and_ends_end(random_policy: Policy, views: list[View]) -> None:
    banned_V = random_policy.distribution.banned_V
    assert banned_V is not None
    assert bool(banned_V[random_policy.model.config.image_token_id])
    assert not bool(banned_V[random_policy.eos_ids].any())
    for own in draw(random_policy, views, [40, 0, 0]):
        for response in own:
            assert not bool(banned_V[response.ids_T].any())
            ends = torch.isin(response.ids_T, random_policy.eos_ids)
            assert not bool(ends[:-1].any())
            assert response.truncated == (not bool(ends[-1]))
            assert len(response) == 12 or not response.truncated


def test_the_largest_number_below_one_draws_an_id_under_every_total() -> None:
    """Float64 products with it round to less than the total: there is always an id left."""
    generator = torch.Generator().manual_seed(0)
    totals_L = torch.cat([torch.rand(100_000, generator=generator), torch.tensor([1.0, 0.5, 1 + 2**-23, 1 - 2**-24])])
    p_LV = torch.stack([torch.zeros_like(totals_L), totals_L, torch.zeros_like(totals_L)], dim=1)
    largest_L = torch.full(totals_L.shape, 1 - 2**-53, dtype=torch.float64)
    assert bool((inverse_cdf(p_LV, largest_L) == 1).all())
    spread_LV = torch.rand(1000, 500, generator=generator).softmax(-1)
    assert int(inverse_cdf(spread_LV, largest_L[:1000]).max()) == 499


def test_inverse_cdf_draws_the_distribution() -> None:
    probabilities = torch.tensor([0.0, 0.5, 0.0, 0.2, 0.3, 0.0])
    uniform = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    drawn = inverse_cdf(probabilities.expand(len(uniform), -1), uniform)
    counts = torch.bincount(drawn, minlength=6) / len(uniform)
    torch.testing.assert_close(counts, probabilities, atol=2e-5, rtol=0)
    edges = torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)
    assert inverse_cdf(probabilities.expand(2, -1), edges).tolist() == [1, 4]


class Rows:
    """Stands for a cache: counts the rows that are left in it."""

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def batch_select_indices(self, keep: Tensor) -> None:
        self.rows = len(keep)


def script(rows: list[list[int]], **sampling: Any) -> Draw:
    """Decode rows whose tokens are certain, over the ids 0 to 3, of which 0 ends a response."""
    likely_RTV = 50.0 * torch.nn.functional.one_hot(torch.tensor(rows), 4)
    position = 0

    def step(ids_R: Tensor, rows_R: Tensor, cache: Rows) -> NextToken:
        nonlocal position
        position += 1
        assert cache.rows == len(rows_R)
        return NextToken(likely_RTV[rows_R, position], cache)

    return decode(
        likely_RTV[:, 0],
        Rows(len(rows)),
        step,
        distribution=Distribution(1.0, None, None),
        sampling=SamplingConfig(max_new_tokens=len(rows[0]), **sampling),
        eos_ids=torch.tensor([0]),
        uniform=uniforms([torch.Generator().manual_seed(0)], [len(rows)], len(rows[0])),
    )


def test_a_response_ends_at_its_first_end() -> None:
    """A row that ended stays in the batch until a quarter has; what it draws there is not its own any more."""
    draw = script([[1, 0, 2, 0, 1], [1, 2, 3, 1, 2], [2, 2, 2, 2, 2], [3, 3, 3, 3, 0], [1, 1, 1, 1, 1]])
    assert draw.length_R.tolist() == [2, 5, 5, 5, 5]
    assert draw.truncated_R.tolist() == [False, True, True, False, True]


def test_rows_leave_once_a_quarter_has_ended() -> None:
    draw = script([[1, 0, 2, 0], [1, 2, 0, 1], [2, 2, 2, 0], [3, 3, 3, 3]])
    assert draw.length_R.tolist() == [2, 3, 4, 4]
    assert draw.truncated_R.tolist() == [False, False, False, True]
    assert draw.ids_RT[3].tolist() == [3, 3, 3, 3]


@pytest.mark.parametrize(("temperature", "nucleus"), [(0.5, 2), (1.0, 3), (4.0, 4)])
def test_top_p_cuts_what_the_temperature_made(temperature: float, nucleus: int) -> None:
    p_V = torch.tensor([0.5, 0.3, 0.15, 0.05])
    shaped_V = p_V ** (1 / temperature) / (p_V ** (1 / temperature)).sum()
    assert int((shaped_V.cumsum(0) < 0.9).sum()) + 1 == nucleus
    rows = 500
    draw = decode(
        p_V.log().expand(rows, -1),
        Rows(rows),
        lambda ids_R, rows_R, cache: pytest.fail("one token is enough"),
        distribution=Distribution(temperature, None, None),
        sampling=SamplingConfig(max_new_tokens=1, temperature=temperature, top_p=0.9),
        eos_ids=torch.tensor([], dtype=torch.long),
        uniform=lambda position: (torch.arange(rows, dtype=torch.float64) + 0.5) / rows,
    )
    assert set(draw.ids_RT.flatten().tolist()) == set(range(nucleus))
    kept_V = shaped_V[:nucleus] / shaped_V[:nucleus].sum()
    torch.testing.assert_close(draw.logp_RT[:, 0], kept_V.log()[draw.ids_RT[:, 0]])
    entropy = torch.distributions.Categorical(shaped_V).entropy()
    torch.testing.assert_close(draw.entropy_RT[:, 0], entropy.expand(rows))  # before the cut


def test_top_k_and_greedy_in_evaluation(random_policy: Policy, views: list[View]) -> None:
    top_1 = SamplingConfig(top_k=1, max_new_tokens=12)
    greedy = SamplingConfig(temperature=0, max_new_tokens=12)
    nucleus = SamplingConfig(top_p=1e-6, max_new_tokens=12)
    ids = []
    for sampling in (top_1, greedy, nucleus):
        drawn = random_policy.sample(views, [1, 1, 1], sampling=sampling, generators=sources(3, 3))
        ids.append([own[0].ids_T.tolist() for own in drawn])
    assert ids[0] == ids[1] == ids[2]


def test_canvas_is_what_the_processor_makes_of_its_png(random_policy: Policy, views: list[View]) -> None:
    canvas = views[0].canvases[0]
    noisy = (canvas + torch.randint(-2, 3, canvas.shape) * GRID).clamp(0, 1)
    official = random_policy.parts.image_processor(images=[to_image(noisy)], return_tensors="pt")
    ours = random_policy.pixels.inputs([[noisy]])
    assert ours.keys() == official.keys()
    for name, value in official.items():
        torch.testing.assert_close(ours[name], value, atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [(64, 64), (50, 90), (200, 30), (400, 500)])
def test_resized_pictures_become_stable_canvases(random_policy: Policy, size: tuple[int, int]) -> None:
    pixels = random_policy.pixels
    rng = np.random.default_rng(0)
    for _ in range(2):  # the way that was found for the first serves the second
        picture = Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8))
        canvas = pixels.canvas(picture)
        assert torch.equal(canvas, pixels.canvas(to_image(canvas)))
        official = random_policy.parts.image_processor(images=[picture], return_tensors="pt")
        ours = pixels.inputs([[canvas]])["pixel_values"]
        torch.testing.assert_close(ours, official["pixel_values"], atol=1e-5, rtol=0)


def test_transparent_pixels_are_white(random_policy: Policy) -> None:
    canvas = random_policy.pixels.canvas(Image.new("RGBA", (64, 64), (255, 0, 0, 0)))
    assert torch.equal(canvas, torch.ones_like(canvas))


def test_a_processor_that_mixes_pixels_is_refused(random_policy: Policy) -> None:
    def blurring(images: Sequence[Image.Image]) -> dict[str, Tensor]:
        output = dict(random_policy.parts.image_processor(images=list(images), return_tensors="pt"))
        values = output["pixel_values"]
        return output | {"pixel_values": (values + values.roll(1, -1)) / 2}

    with pytest.raises(ModelError, match="resize, move and normalise"):
        PixelSpace(blurring).canvas(Image.new("RGB", (64, 64)))


def test_a_prompt_longer_than_the_context_is_refused(random_policy: Policy, bars: Bars) -> None:
    example = replace(bars.example(0), question="red " * 1100)
    with pytest.raises(DataError, match="fit the model's context"):
        random_policy.view(example)


def test_text_only_examples_have_no_canvas(random_policy: Policy) -> None:
    view = random_policy.view(Example("t", "What is 1 + 2?", "3"))
    assert view.canvases == ()
    (own,) = draw(random_policy, [view], [2])
    (score,) = random_policy.score([view], [own])
    assert score.mask_NT.sum(1).tolist() == [len(r) for r in own]


def test_empty_responses_have_entropies_where_they_are_asked_for(random_policy: Policy, views: list[View]) -> None:
    nothing = Response(torch.empty(0, dtype=torch.long), "", torch.empty(0), torch.empty(0), truncated=False)
    asked, other = (
        random_policy.score(views[:1], [[nothing]], with_entropy=flag)[0].entropy_NT for flag in (True, False)
    )
    assert asked is not None
    assert (asked.shape, other) == ((1, 0), None)


def test_the_same_view_may_be_scored_at_two_points(random_policy: Policy, views: list[View]) -> None:
    (own,) = draw(random_policy, views[:1], [2])
    pictures = [views[0].canvases[0], 1 - views[0].canvases[0]]
    for shared in (True, False):
        random_policy.shared_prefix = shared
        together = random_policy.score([views[0], views[0]], [own, own], wrt={"pixels": pictures})
        for picture, score in zip(pictures, together, strict=True):
            (alone,) = random_policy.score([replace(views[0], canvases=(picture,))], [own])
            torch.testing.assert_close(score.logp_NT, alone.logp_NT, atol=2e-5, rtol=0)
    assert not torch.equal(together[0].logp_NT, together[1].logp_NT)


def test_what_a_view_does_not_have_cannot_be_moved(random_policy: Policy, views: list[View]) -> None:
    (own,) = draw(random_policy, views[:1], [2])
    with pytest.raises(ConfigError, match="what of a view can be moved") as refused:
        random_policy.score(views[:1], [own], wrt={"pixel": views[0].canvases})
    assert "pixels" in refused.value.remedy


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_every_attention_gives_the_same_scores(
    random_policy: Policy, views: list[View], responses: list[list[Response]], attention: str
) -> None:
    before = random_policy.model.config._attn_implementation
    random_policy.model.set_attn_implementation(attention)
    try:
        scores = []
        for shared in (True, False):
            random_policy.shared_prefix = shared
            scores.append(random_policy.score(views, responses))
        for ours, reference in zip(*scores, strict=True):
            torch.testing.assert_close(ours.logp_NT, reference.logp_NT, atol=2e-5, rtol=0)
    finally:
        random_policy.model.set_attn_implementation(before)


def test_no_pass_holds_the_logits_of_all_tokens(
    random_policy: Policy, views: list[View], responses: list[list[Response]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from functools import partial

    from torch.utils._python_dispatch import TorchDispatchMode

    from saei.policy import module

    class Largest(TorchDispatchMode):
        rows = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, tuple | list) else (out,):
                wide = isinstance(tensor, Tensor) and tensor.ndim and tensor.shape[-1] == vocabulary
                if wide and tensor.shape[0] != width:  # the head's own weight is as wide
                    self.rows = max(self.rows, tensor.numel() // vocabulary)
            return out

    banned_V = random_policy.distribution.banned_V
    assert banned_V is not None
    vocabulary, tokens = len(banned_V), sum(len(r) for own in responses for r in own)
    width = random_policy.model.config.get_text_config().hidden_size
    assert tokens != width
    seen = []
    for rows in (4, tokens):
        chunked = partial(module.token_statistics, chunk_elements=rows * vocabulary)
        with monkeypatch.context() as patch, Largest() as largest:
            patch.setattr(module, "token_statistics", chunked)
            gradients(random_policy, views, responses, shared=True)
        seen.append(largest.rows)
    assert seen == [4, tokens]  # one chunk at a time, forward and backward; the watch would see the whole


def test_only_an_attack_does_without_the_heads_gradient(
    random_policy: Policy, views: list[View], responses: list[list[Response]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from saei.policy import module

    seen: list[bool] = []
    statistics = module.token_statistics

    def watched(*args: Any, **kwargs: Any) -> Any:
        seen.append(kwargs["hidden_only"])
        return statistics(*args, **kwargs)

    monkeypatch.setattr(module, "token_statistics", watched)
    point = {"pixels": [view.canvases[0] for view in views]}
    every: tuple[WithRespectTo, ...] = (None, point, "parameters")
    for wrt in every:
        random_policy.score(views, responses, wrt=wrt)
    assert seen == [False, True, False]


@pytest.fixture
def selected(responses: list[list[Response]]) -> list[Tensor]:
    """Some tokens of each view, none of the second one, and marks on padding that mean nothing."""
    generator = torch.Generator().manual_seed(3)
    masks = [torch.rand(len(own), max(map(len, own)), generator=generator) < 0.4 for own in responses]
    return [masks[0], torch.zeros_like(masks[1]), masks[2]]


@pytest.mark.parametrize("shared", [True, False])
def test_selected_tokens_score_as_they_do_among_all(
    random_policy: Policy,
    views: list[View],
    responses: list[list[Response]],
    selected: list[Tensor],
    shared: bool,
) -> None:
    random_policy.shared_prefix = shared
    points = [[view.canvases[0].clone().requires_grad_() for view in views] for _ in range(2)]
    found = []
    for point, choice in zip(points, (None, selected), strict=True):
        found.append(random_policy.score(views, responses, wrt={"pixels": point}, selected=choice))
    sums = [torch.zeros(()), torch.zeros(())]
    for every, some, chosen_NT in zip(*found, selected, strict=True):
        assert torch.equal(every.mask_NT, some.mask_NT)
        keep_NT = chosen_NT & some.mask_NT
        for number, (full_NT, part_NT) in enumerate(
            ((every.logp_NT, some.logp_NT), (every.entropy_NT, some.entropy_NT))
        ):
            assert full_NT is not None
            assert part_NT is not None
            torch.testing.assert_close(part_NT, torch.where(keep_NT, full_NT, 0.0), atol=1e-6, rtol=0)
            sums[0] = sums[0] + (number + 1) * full_NT[keep_NT].sum()
            sums[1] = sums[1] + (number + 1) * part_NT.sum()
    gradients = [
        torch.autograd.grad(value, point, allow_unused=True) for value, point in zip(sums, points, strict=True)
    ]
    for whole, part in zip(*gradients, strict=True):
        torch.testing.assert_close(part, whole, atol=1e-7, rtol=1e-4)


def test_only_selected_tokens_pass_the_head(
    random_policy: Policy, views: list[View], responses: list[list[Response]], selected: list[Tensor]
) -> None:
    rows: list[int] = []
    head = random_policy.model.get_output_embeddings()
    handle = head.register_forward_hook(lambda module, args, out: rows.append(len(args[0])))
    try:
        random_policy.score(views, responses, selected=selected)
    finally:
        handle.remove()
    kept = [
        int(own_T[: len(response)].sum())
        for chosen_NT, own in zip(selected, responses, strict=True)
        for own_T, response in zip(chosen_NT, own, strict=True)
    ]
    assert rows == [sum(kept)]
    assert 0 < sum(kept) < sum(len(r) for own in responses for r in own)


def test_entropy_temperature_is_the_criterions_alone(
    random_parts: Parts, views: list[View], responses: list[list[Response]]
) -> None:
    policy = Policy(
        random_parts, ThinkBoxed(), sampling=SamplingConfig(temperature=0.8), entropy=EntropyConfig(temperature=0.5)
    )
    own = responses[0][0]
    expected = {}
    for temperature in (0.5, 0.8):
        logits_TV = official_logp(policy, views[0], own).clamp_min(-1e9) / temperature
        expected[temperature] = torch.distributions.Categorical(logits=logits_TV.double()).entropy().float()
    point = {"pixels": views[0].canvases}
    every: tuple[tuple[WithRespectTo, float], ...] = ((None, 0.5), (point, 0.5), ("parameters", 0.8))
    for wrt, temperature in every:
        (score,) = policy.score(views[:1], [[own]], wrt=wrt)
        assert score.entropy_NT is not None
        torch.testing.assert_close(score.entropy_NT[0].detach(), expected[temperature], atol=2e-5, rtol=0)


def test_a_composed_processor_saves_itself_as_others_ask_it_to(random_parts: Parts, tmp_path: Path) -> None:
    """TRL and transformers' trainer call ``save_pretrained``, which knows nothing of a missing video part."""
    processor = Policy(random_parts, ThinkBoxed()).processor
    processor.save_pretrained(str(tmp_path / "new"))
    ids = AutoTokenizer.from_pretrained(tmp_path / "new")("What is red + blue?").input_ids
    assert ids == processor.tokenizer("What is red + blue?").input_ids


def test_nothing_is_drawn_where_nothing_is_asked_for(random_policy: Policy, bars: Bars) -> None:
    view = random_policy.view(bars.example(0))
    sources = [torch.Generator(), torch.Generator()]
    assert random_policy.sample([view, view], [0, 0], generators=sources) == [[], []]
    assert random_policy.sample([], [], generators=[]) == []
    assert random_policy.score([], []) == []
