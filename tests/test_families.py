"""Every family keeps the same contract: our pixels and prompts, the shared prefix, the attack, a run from a folder."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy, deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from groups import official_inputs, sources
from runs import Checksum, lines, registered, tiny, train
from saei.config.sections import ModelConfig, SamplingConfig
from saei.data.templates import ThinkBoxed
from saei.diagnostics.examination import examine, slope
from saei.diagnostics.tiny import tiny_parts
from saei.diagnostics.zoo import FAMILIES
from saei.errors import DataError, ModelError
from saei.interventions import Intervention, InterventionConfig
from saei.interventions.context import StepContext
from saei.interventions.text_surfaces import Tokens
from saei.policy import Policy
from saei.policy.load.checkpointing import checkpoint_layers
from saei.policy.load.parts import Part
from saei.policy.pixels.canvases import MAX_SIDE
from saei.policy.pixels.space import to_image
from saei.runtime.seeds import GroupSources
from saei.types import Example, Response, View

PAGE = Path(__file__).parents[1] / "docs" / "families.md"
PLAIN = {"Qwen3.5", "LFM2-VL"}
"""Families whose linear-attention states cannot be handed to several responses."""

TOKENS = 6
SAMPLING = SamplingConfig(max_new_tokens=TOKENS)
GREEDY = SamplingConfig(max_new_tokens=TOKENS, temperature=0)
COUNTS = (3, 1, 2, 2)


def picture(height: int, width: int) -> Image.Image:
    values = np.random.default_rng(height).integers(64, 192, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


EXAMPLES = (
    Example("one", "What is red?", "1", (picture(40, 56),)),
    Example("longer", "What is red + blue, and how many more than green?", "2", (picture(70, 33),)),
    Example("text", "What is 1 + 2?", "3"),
    Example("several", "Which picture is larger?", "4", (picture(48, 48), picture(30, 50))),
)
"""Unequal prompts, one without and one with several images."""


@pytest.fixture(scope="module", params=list(FAMILIES))
def policy(request: pytest.FixtureRequest) -> Policy:
    if missing := FAMILIES[request.param].missing:
        pytest.skip(f"its processor needs {', '.join(missing)}: test_torchvision.py runs this file with it")
    return Policy(tiny_parts(FAMILIES[request.param]), ThinkBoxed(), sampling=SAMPLING)


@pytest.fixture(scope="module")
def views(policy: Policy) -> list[View]:
    return [policy.view(example) for example in EXAMPLES]


@pytest.fixture(scope="module")
def responses(policy: Policy, views: list[View]) -> list[list[Response]]:
    return policy.sample(views, COUNTS, generators=[torch.Generator().manual_seed(0)] * len(views))


@pytest.fixture(params=[True, False], ids=["shared", "plain"])
def shared(request: pytest.FixtureRequest, policy: Policy) -> Any:
    before = policy.shared_prefix
    if request.param and not before:
        pytest.skip("this family has the plain way only")
    policy.shared_prefix = request.param
    yield request.param
    policy.shared_prefix = before


def test_prefixes_are_shared_where_caches_allow(request: pytest.FixtureRequest, policy: Policy) -> None:
    name = request.node.callspec.params["policy"]
    assert policy.shared_prefix == (name not in PLAIN)
    assert (policy.not_shared or "").startswith("its cache cannot be handed on") == (name in PLAIN)
    assert any("slower way" in note for note in policy.parts.notes) == (name in PLAIN)


def test_the_documented_table_is_true(request: pytest.FixtureRequest, policy: Policy) -> None:
    name = request.node.callspec.params["policy"]
    found = examine(policy)
    (row,) = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith(f"| {name} |")]
    _, _, layout, canvas, way, _, shared, _, _ = (cell.strip() for cell in row.split("|"))
    inputs = [set(text.split(" + ")[1:]) for text in (layout, found.layout)]  # sizes are a backend's own
    assert inputs[0] == inputs[1]
    assert [canvas, way, shared] == [found.cells[1], found.cells[2], found.cells[4]]
    assert found.gradient < 5e-3
    assert (found.deviation or 0.0) < 1e-5


def own_logits(policy: Policy, view: View, ids_T: Tensor) -> Tensor:
    """Logits of a response's positions by the model's own forward on what its processor gives, ``[T, V]``."""
    inputs = official_inputs(policy, view, ids_T)
    if policy.model.dtype == torch.float64:
        inputs = {name: value.double() if value.is_floating_point() else value for name, value in inputs.items()}
    logits: Tensor = policy.model(**inputs).logits
    assert policy.distribution.banned_V is not None
    kept = logits[0, len(view.prompt_ids_P) - 1 : -1].masked_fill(policy.distribution.banned_V, -1e9)
    return kept.double()


def test_prompts_and_pixels_are_the_processors(policy: Policy, views: list[View]) -> None:
    for view, example in zip(views, EXAMPLES, strict=True):
        official = official_inputs(policy, view, view.prompt_ids_P[:0])
        assert view.prompt_ids_P.tolist() == official["input_ids"][0].tolist()
        assert len(view.canvases) == len(example.images)
        ours = policy.pixels.inputs([view.canvases])
        for name, value in ours.items():
            torch.testing.assert_close(value, official[name], atol=1e-6, rtol=0)
        for name, own in view.token_inputs.items():
            if name in official:
                assert torch.equal(own[:-1], official[name][0])


def test_canvases_are_stable_and_show_what_the_pictures_show(policy: Policy, views: list[View]) -> None:
    for view, example in zip(views, EXAMPLES, strict=True):
        pictures = [to_image(canvas) for canvas in view.canvases]
        again = policy.pixels.canvases(pictures)
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(view.canvases, again, strict=True))
        if pictures:
            ours, theirs = (policy._prompts.images(images) for images in (pictures, example.images))
            assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_scores_are_the_models_own(
    policy: Policy, views: list[View], responses: list[list[Response]], shared: bool
) -> None:
    scores = policy.score(views, responses)
    for view, own, score in zip(views, responses, scores, strict=True):
        for n, response in enumerate(own):
            with torch.no_grad():
                expected = torch.distributions.Categorical(logits=own_logits(policy, view, response.ids_T))
            length = len(response)
            logp_T = expected.log_prob(response.ids_T).float()
            torch.testing.assert_close(score.logp_NT[n, :length], logp_T, atol=5e-5, rtol=0)
            torch.testing.assert_close(response.behaviour_logp_T, logp_T, atol=5e-5, rtol=0)
            assert score.entropy_NT is not None
            torch.testing.assert_close(score.entropy_NT[n, :length], expected.entropy().float(), atol=5e-5, rtol=0)


def test_greedy_tokens_are_the_models_own(policy: Policy, views: list[View], shared: bool) -> None:
    """Step by step by the model's own forward, without a cache."""
    drawn = policy.sample(views, [1] * len(views), sampling=GREEDY, generators=sources(len(views)))
    for view, (response,) in zip(views, drawn, strict=True):
        ids_T = view.prompt_ids_P[:0]
        while len(ids_T) < TOKENS and not (len(ids_T) and ids_T[-1] in policy.eos_ids):
            with torch.no_grad():  # the added token stands for the one to come, which nothing before it sees
                logits_TV = own_logits(policy, view, torch.cat([ids_T, policy.eos_ids[:1]]))
            ids_T = torch.cat([ids_T, logits_TV[-1:].argmax(-1)])
        assert response.ids_T.tolist() == ids_T.tolist()


def gradients(policy: Policy, views: list[View], responses: list[list[Response]]) -> list[Tensor | None]:
    """By the pixels, of entropies and log-probabilities; then by the parameters, of log-probabilities."""
    point = [canvas.clone().requires_grad_() for view in views for canvas in view.canvases]
    scores = policy.score(views, responses, wrt={"pixels": point})
    J = torch.stack([s.entropy_NT.sum() - s.logp_NT.sum() for s in scores if s.entropy_NT is not None]).sum()
    by_pixels = torch.autograd.grad(J, point)
    parameters = [parameter for parameter in policy.module.parameters() if parameter.requires_grad]
    loss = torch.stack([s.logp_NT.sum() for s in policy.score(views, responses, wrt="parameters")]).sum()
    return [*by_pixels, *torch.autograd.grad(loss, parameters, allow_unused=True)]


def in_float64(policy: Policy) -> Policy:
    """Return a policy of the same weights in float64, which finds out anew what its model takes."""
    parts = replace(policy.parts, model=deepcopy(policy.model).double())
    return Policy(parts, ThinkBoxed(), sampling=SAMPLING)


def test_gradients_of_the_shared_way_are_the_plain_ones(
    policy: Policy, views: list[View], responses: list[list[Response]]
) -> None:
    if not policy.shared_prefix:
        pytest.skip("this family has the plain way only")
    double = in_float64(policy)  # the gradient of a gate, one number, is a sum whose terms nearly cancel
    by_way = {}
    for shared in (True, False):
        double.shared_prefix = shared
        by_way[shared] = gradients(double, views, responses)
    largest = max(float(gradient.abs().max()) for gradient in by_way[False] if gradient is not None)
    for number, (ours, reference) in enumerate(zip(by_way[True], by_way[False], strict=True)):
        assert (ours is None) == (reference is None)
        if ours is not None and reference is not None:
            scale = float(reference.abs().max())
            assert scale > 0 or number >= sum(len(view.canvases) for view in views)
            # Attention does not feel the bias of its keys, whose gradient is nothing but rounding.
            torch.testing.assert_close(ours, reference, atol=2e-6 * max(scale, 1e-5 * largest), rtol=0)


def test_gradients_are_the_same_where_layers_are_computed_again(
    request: pytest.FixtureRequest,
    policy: Policy,
    views: list[View],
    responses: list[list[Response]],
    shared: bool,
) -> None:
    expected, most = measured(lambda: gradients(policy, views, responses))
    checkpointed = copy(policy)
    checkpointed.module = deepcopy(policy.module)
    parts: tuple[Part, ...] = ("vision", "language")
    if request.node.callspec.params["policy"] == "Mllama":  # whose vision layers transformers does not checkpoint
        with pytest.raises(ModelError, match="None were found in the vision part"):
            checkpoint_layers(checkpointed.module.model, parts)
        parts = ("language",)
    checkpoint_layers(checkpointed.module.model, parts)
    found, kept = measured(lambda: gradients(checkpointed, views, responses))
    for ours, reference in zip(found, expected, strict=True):
        assert (ours is None) == (reference is None)
        if ours is not None:
            torch.testing.assert_close(ours, reference)
    assert kept < (0.7 if "vision" in parts else 0.9) * most


def measured(compute: Callable[[], list[Tensor | None]]) -> tuple[list[Tensor | None], int]:
    """Return a result, and the bytes that graphs kept for their backward passes, weights and inputs apart."""
    held: dict[int, torch.UntypedStorage] = {}  # alive, so that no two have one address

    def keep(tensor: Tensor) -> Tensor:
        if not tensor.is_leaf:
            held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        return compute(), sum(storage.nbytes() for storage in held.values())


@pytest.mark.parametrize("number", [0, 3], ids=["one image", "several"])
def test_pixel_gradient_is_that_of_the_models_own_forward(
    policy: Policy, views: list[View], responses: list[list[Response]], number: int
) -> None:
    """Along the gradient on a random half of the pixels; the model's own forward moves with the pixels in float64."""
    view, (response, *_) = views[number], responses[number]
    policy.model.double()
    try:
        point = [canvas.double().requires_grad_() for canvas in view.canvases]
        J = policy.score([view], [[response]], wrt={"pixels": point}, with_entropy=False)[0].logp_NT.sum()
        gradient = torch.autograd.grad(J, point)
        rng = np.random.default_rng(0)
        along = [g.sign().where(g != 0, 1.0) * torch.from_numpy(rng.random(g.shape) < 0.5) for g in gradient]

        def value(step: float) -> float:
            moved = [c.double() + step * d for c, d in zip(view.canvases, along, strict=True)]
            inputs = official_inputs(policy, view, response.ids_T) | policy.pixels.inputs([moved])
            with torch.no_grad():
                logits_TV = policy.model(**inputs).logits[0, len(view.prompt_ids_P) - 1 : -1]
            assert policy.distribution.banned_V is not None
            logp_TV = logits_TV.masked_fill(policy.distribution.banned_V, -1e9).log_softmax(-1)
            return float(logp_TV.gather(-1, response.ids_T[:, None]).sum())

        ours = sum(float((g * d).sum()) for g, d in zip(gradient, along, strict=True))
        assert ours > 1
        assert ours == pytest.approx(slope(value), rel=5e-3)
    finally:
        policy.model.float()


def test_the_attack_reaches_the_pixels(
    policy: Policy, views: list[View], responses: list[list[Response]], shared: bool
) -> None:
    intervention = Intervention(InterventionConfig.model_validate({"attack": {"type": "pgd", "step": "2/255"}}))
    step = StepContext(policy, 0.0, GroupSources(0))
    outcomes = intervention.apply(views, responses, step)
    assert [outcome.untouched for outcome in outcomes] == [None, None, "no-image", None]
    for view, outcome in zip(views, outcomes, strict=True):
        for clean, moved in zip(view.canvases, outcome.view.canvases, strict=True):
            change = ((moved - clean) * 255).round()
            assert set(change.unique().tolist()) <= {-2.0, -1.0, 0.0, 1.0, 2.0}
            assert float((change != 0).float().mean()) > 0.2


# The question's text


def offset_hook(policy: Policy, view: View, offset_Qd: Tensor) -> Any:
    """Let the model's embedding layer add an offset to the question's tokens of a row that begins with the prompt."""
    places_Q = view.question.places_Q if view.question else view.prompt_ids_P[:0]

    def add(_layer: Any, _inputs: Any, embeddings_1Sd: Tensor) -> Tensor:
        change_Sd = torch.zeros_like(embeddings_1Sd[0])
        change_Sd[places_Q] = offset_Qd.to(change_Sd)
        return embeddings_1Sd + change_Sd

    return policy.model.get_input_embeddings().register_forward_hook(add)


def test_the_tokens_of_a_question_spell_it(policy: Policy, views: list[View]) -> None:
    for view, example in zip(views, EXAMPLES, strict=True):
        assert view.question is not None
        ids_Q = view.prompt_ids_P[view.question.places_Q]
        assert policy.tokenizer.decode(ids_Q).strip() == example.question
        for token, (start, end) in zip(ids_Q.tolist(), view.question.spans, strict=True):
            assert policy.tokenizer.decode([token]).strip() == example.question[start:end].strip()


def test_swapped_tokens_are_the_view_of_the_changed_question(policy: Policy, views: list[View]) -> None:
    """Bit for bit, whatever stands around the question and however placeholders are expanded."""
    surface = Tokens()
    compared = 0
    for view in views:
        opening = surface.open(policy, [view], scale=1.0)
        assert opening.spaces[0].tokens is not None
        assert view.question is not None
        kind_V = opening.spaces[0].tokens.kind_V
        for place in torch.as_tensor(opening.spaces[0].editable).nonzero()[:, 0].tolist():
            ids_Q = opening.blocks[0].clone()
            alike_V = kind_V == kind_V[ids_Q[place]]
            ids_Q[place] = alike_V.nonzero()[:, 0].tolist()[7 + place]
            swapped = policy.with_question_ids(view, ids_Q)
            assert swapped is not None
            assert swapped.example.question != view.example.question
            clean = policy.view(swapped.example)
            assert clean.question is not None
            assert swapped.question is not None
            assert torch.equal(swapped.prompt_ids_P, clean.prompt_ids_P)
            assert torch.equal(swapped.positions_KP, clean.positions_KP)
            assert torch.equal(swapped.question.places_Q, clean.question.places_Q)
            assert swapped.question.spans == clean.question.spans
            assert swapped.token_inputs.keys() == clean.token_inputs.keys()
            assert all(torch.equal(own, clean.token_inputs[name]) for name, own in swapped.token_inputs.items())
            assert all(map(torch.equal, swapped.canvases, clean.canvases))
            compared += 1
    assert compared >= 12


@pytest.mark.parametrize("number", [0, 2, 3], ids=["one image", "none", "several"])
def test_embedding_gradient_is_that_of_the_models_own_forward(
    policy: Policy, views: list[View], responses: list[list[Response]], number: int, shared: bool
) -> None:
    """Along the gradient on a random half of the features; the model's own forward moves with them in float64.

    Steps are in units of the embeddings' root mean square.
    """
    view, (response, *_) = views[number], responses[number]
    assert view.question is not None
    policy = in_float64(policy)
    policy.shared_prefix = shared
    shape = (len(view.question.places_Q), policy.embeddings.size)
    point = torch.zeros(shape, dtype=torch.float64, requires_grad=True)
    at = replace(view, offset_Qd=point.detach())
    J = policy.score([at], [[response]], wrt={"embeddings": [point]}, with_entropy=False)[0].logp_NT.sum()
    (gradient,) = torch.autograd.grad(J, [point])
    half = torch.from_numpy(np.random.default_rng(0).random(shape) < 0.5)
    along = gradient.sign().where(gradient != 0, 1.0) * half * policy.embeddings.rms

    def value(step: float) -> float:
        hook = offset_hook(policy, view, step * along)
        try:
            with torch.no_grad():
                logits_TV = own_logits(policy, view, response.ids_T)
        finally:
            hook.remove()
        return float(logits_TV.log_softmax(-1).gather(-1, response.ids_T[:, None]).sum())

    ours = float((gradient * along).sum())
    assert abs(ours) > 1e-2
    assert ours == pytest.approx(slope(value, steps=(1e-2, 3e-3, 1e-3, 3e-4, 1e-4)), rel=5e-3)


def test_views_with_an_offset_are_drawn_and_scored_alike(policy: Policy, views: list[View], shared: bool) -> None:
    """Beside a view without one, and as the model's own forward has it."""
    generator = torch.Generator().manual_seed(5)
    moved = list(views)
    for number in (1, 3):
        question = views[number].question
        assert question is not None
        offset_Qd = torch.randn(len(question.places_Q), policy.embeddings.size, generator=generator)
        moved[number] = replace(views[number], offset_Qd=2 * policy.embeddings.rms * offset_Qd)
    drawn = policy.sample(moved, COUNTS, generators=sources(len(moved)))
    for number, (view, own, score) in enumerate(zip(moved, drawn, policy.score(moved, drawn), strict=True)):
        (clean,) = policy.score([views[number]], [own])
        for n, response in enumerate(own):
            logp_T = score.logp_NT[n, : len(response)]
            torch.testing.assert_close(response.behaviour_logp_T, logp_T, atol=5e-5, rtol=0)
            apart = float((clean.logp_NT[n, : len(response)] - logp_T).abs().max())
            assert (apart > 1e-3) == (view.offset_Qd is not None)
            if view.offset_Qd is None:
                continue
            hook = offset_hook(policy, view, view.offset_Qd)
            with torch.no_grad():
                expected_T = torch.distributions.Categorical(logits=own_logits(policy, view, response.ids_T))
            hook.remove()
            torch.testing.assert_close(logp_T, expected_T.log_prob(response.ids_T).float(), atol=5e-5, rtol=0)


@pytest.mark.parametrize("attack", ["text-fgsm", "hotflip"])
def test_the_attack_reaches_the_question(
    policy: Policy, views: list[View], responses: list[list[Response]], attack: str
) -> None:
    step = StepContext(policy, 0.0, GroupSources(0))
    slots = {"attack": attack, "criterion": "nll", "selector": "all"}
    outcomes = Intervention(InterventionConfig.model_validate(slots)).apply(views, responses, step)
    assert [outcome.untouched for outcome in outcomes] == [None] * len(views)
    for view, drawn, outcome in zip(views, responses, outcomes, strict=True):
        before, after = (policy.score([each], [drawn])[0] for each in (view, outcome.view))
        nll = [-(scores.logp_NT.sum(1) / scores.mask_NT.sum(1)).mean() for scores in (before, after)]
        assert nll[1] > nll[0]
        assert (outcome.view.offset_Qd is None) == (attack == "hotflip")
        assert (outcome.view.example is view.example) == (attack == "text-fgsm")


# Odd pictures, and folders


@pytest.mark.parametrize("size", [(1, 1), (2, 300), (20_000, 10)], ids=str)
def test_odd_shapes_are_seen_or_refused(request: pytest.FixtureRequest, policy: Policy, size: tuple[int, int]) -> None:
    if request.node.callspec.params["policy"] == "Mistral3" and size == (1, 1):
        pytest.xfail("transformers' projector takes the features of a picture of one token for a vector")
    refusal, view = None, None
    try:
        view = policy.view(Example("odd", "What?", "1", (picture(*size),)))
    except DataError as error:
        refusal = error
    if view is None:
        assert refusal is not None
        assert refusal.reason
        assert refusal.remedy
        assert size != (1, 1)
        return
    (own,) = policy.sample([view], [1], generators=sources(1))
    assert bool(own[0].behaviour_logp_T.isfinite().all())
    assert max(view.canvases[0].shape) <= MAX_SIDE


def test_a_saved_folder_trains(policy: Policy, tmp_path: Path) -> None:
    policy.save(tmp_path / "model")
    loaded = Policy.load(ModelConfig(path=str(tmp_path / "model"), device="cpu"), ThinkBoxed(), sampling=SAMPLING)
    ours, theirs = (one.view(EXAMPLES[0]) for one in (policy, loaded))
    if type(loaded.tokenizer) is type(policy.tokenizer):  # transformers insists on its own class for some types
        assert ours.prompt_ids_P.tolist() == theirs.prompt_ids_P.tolist()
    assert all(torch.equal(a, b) for a, b in zip(ours.canvases, theirs.canvases, strict=True))
    changes: dict[str, Any] = {"sampling__max_new_tokens": 4, "evaluation__every": 9}
    with registered(Checksum):
        for name, steps, lora in (("full", 2, None), ("lora", 1, {"rank": 2})):
            config = tiny(tmp_path / "model", tmp_path, name, training__steps=steps, model__lora=lora, **changes)
            run = train(config)
            assert len([line for line in lines(run.run.path) if "train/loss" in line]) == steps
            trained = [name for name, own in run.policy.model.named_parameters() if own.requires_grad]
            assert all("lora" in name for name in trained) == (lora is not None)
