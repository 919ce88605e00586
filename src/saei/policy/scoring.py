"""Scoring: teacher-forced statistics of responses, differentiable in the parameters or in what a view shows.

A view's prompt is computed once for all of its responses, and its cache is freed at the end of the call.

N responses of a view, T tokens of the longest, M scored tokens of all responses.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from saei.entropy.token_states import TokenStates
from saei.errors import ConfigError, nearest
from saei.need import Need
from saei.policy.module import Continuation, Distribution, Measure, Targets, TokenScores
from saei.policy.passes import passes
from saei.policy.rows import answer_arguments, lay_out, prompt_arguments
from saei.types import Response, View

if TYPE_CHECKING:
    from saei.policy.policy import Policy

SURFACES = ("pixels", "embeddings")
"""What of a view scores can be differentiated by.

``pixels``: one float32 ``[C, H, W]`` canvas per image. ``embeddings``: one float32 ``[Q, d]`` per view with an
``offset_Qd``, in its place.
"""

WithRespectTo: TypeAlias = Literal["parameters"] | Mapping[str, Sequence[Tensor]] | None
"""What scores are differentiated by: nothing, the parameters, or the blocks of a point by the name of their surface."""


@dataclass(frozen=True, eq=False, slots=True)
class Scores:
    """Teacher-forced statistics of one view's N responses, right-padded to the longest of them.

    Attributes:
        logp_NT: float32 log-probability of each token, 0 on padding and on tokens that were not selected.
        entropy_NT: float32 entropy in nats, 0 likewise; None if it was not requested.
        mask_NT: bool, True on response tokens.
        statistics: Further statistics by need, ``[N, T]`` each, 0 likewise.
    """

    logp_NT: Tensor
    entropy_NT: Tensor | None
    mask_NT: Tensor
    statistics: Mapping[Need, Tensor] = field(default_factory=dict)

    def entropies(self) -> Tensor:
        """Return ``entropy_NT``, which must have been requested."""
        assert self.entropy_NT is not None
        return self.entropy_NT


@dataclass(frozen=True, eq=False, slots=True)
class Extra:
    """A further function of the distribution at each token, computed in the scoring pass itself.

    Attributes:
        function: ``function(states, ids_M, distribution, constant_M)`` returns one number, or one row, per token.
        constants: For each view and response ``[T, ...]``, the function's last argument; None if it takes none.
    """

    function: Callable[[TokenStates, Tensor, Distribution, Tensor | None], Tensor]
    constants: Sequence[Sequence[Tensor]] | None = None


STATES = "saei/states"
"""Name of the extra that every token has, also one that is not selected: the hidden state that predicts it."""


def score_with(
    policy: Policy,
    views: Sequence[View],
    responses: Sequence[Sequence[Response]],
    extras: Mapping[Hashable, Extra],
    *,
    wrt: WithRespectTo = None,
    with_entropy: bool = True,
    selected: Sequence[Tensor] | None = None,
    distribution: Distribution | None = None,
    with_states: bool = False,
) -> list[tuple[Scores, dict[Hashable, list[Tensor]]]]:
    """Score responses; return for each view its scores, and by extra the values ``[T, ...]`` of each response.

    Args:
        policy: The policy that scores.
        views: What it sees.
        responses: For each view its responses.
        extras: Further functions of the distributions, by name.
        wrt: See ``Policy.score``.
        with_entropy: Likewise.
        selected: Likewise.
        distribution: The distribution of all values; None for the update's where scores are differentiated by the
            parameters, else the criterion's.
        with_states: Whether ``STATES`` is among the extras.
    """
    on_point = isinstance(wrt, Mapping)
    if isinstance(wrt, Mapping):
        views = moved(views, wrt)
    ids = [[response.ids_T for response in drawn] for drawn in responses]
    # `entropy.temperature` is the criterion's; an update trains the entropy of the policy as it samples.
    if distribution is None:
        distribution = policy.distribution_of(policy.sampling) if wrt == "parameters" else policy.distribution
    scored: dict[int, tuple[Scores, dict[Hashable, list[Tensor]]]] = {}
    # A distributed wrapper prepares its reduction in the forward pass; a gradient with respect to a point needs none.
    with torch.set_grad_enabled(wrt is not None), _no_sync(policy.module) if on_point else nullcontext():
        for numbers in passes(views):
            of_pass = _score_pass(
                policy,
                [views[number] for number in numbers],
                [ids[number] for number in numbers],
                None if selected is None else [selected[number] for number in numbers],
                distribution=distribution,
                with_entropy=with_entropy,
                hidden_only=on_point,
                extras={name: _of_views(extra, numbers) for name, extra in extras.items()},
                with_states=with_states,
            )
            scored |= zip(numbers, of_pass, strict=True)
    return [scored[number] for number in range(len(views))]


def _of_views(extra: Extra, numbers: Sequence[int]) -> Extra:
    """Return an extra with the constants of some views."""
    constants = extra.constants
    return extra if constants is None else replace(extra, constants=[constants[number] for number in numbers])


def moved(views: Sequence[View], point: Mapping[str, Sequence[Tensor]]) -> list[View]:
    """Return views at a point: the blocks of each surface, in the order of the views, in place of the views' own.

    Raises:
        ConfigError: If a view has no such surface.
    """
    for surface in point:
        if surface not in SURFACES:
            raise ConfigError(
                "A policy is differentiated by what of a view can be moved.",
                reason=f"It has no surface '{surface}'.",
                remedy=nearest(surface, SURFACES),
            )
    if "pixels" in point:
        canvases = iter(point["pixels"])
        views = [replace(view, canvases=tuple(next(canvases) for _ in view.canvases)) for view in views]
    if "embeddings" in point:
        offsets = iter(point["embeddings"])
        views = [view if view.offset_Qd is None else replace(view, offset_Qd=next(offsets)) for view in views]
    return list(views)


def _score_pass(
    policy: Policy,
    views: Sequence[View],
    ids: Sequence[Sequence[Tensor]],
    selected: Sequence[Tensor] | None,
    *,
    distribution: Distribution,
    with_entropy: bool,
    hidden_only: bool,
    extras: Mapping[Hashable, Extra],
    with_states: bool,
) -> list[tuple[Scores, dict[Hashable, list[Tensor]]]]:
    """Score the responses of one pass."""
    if not any(len(ids_T) for view_ids in ids for ids_T in view_ids):
        nothing = torch.zeros(0, device=policy.device)
        return [
            (
                _scores(view_ids, nothing, nothing if with_entropy else None),
                {name: [nothing] * len(view_ids) for name in (*extras, *([STATES] if with_states else []))},
            )
            for view_ids in ids
        ]

    # Lay out rows: of whole prompts and responses, or of prompts alone whose cache the responses share.
    layout = lay_out(views, ids, shared=policy.shared_prefix, left=policy.windowed)
    rows, answers = layout.rows, layout.answers
    inputs = {
        **prompt_arguments(rows),
        "use_cache": answers is not None,
        **policy.pixels.inputs([views[number].canvases for number in layout.views]),
    }
    continuation = None
    if answers is not None:
        seen_RS = torch.cat([rows.valid_BS[layout.parent_R], answers.valid_BS], dim=1)
        continuation = Continuation(layout.parent_R, answer_arguments(answers, seen_RS))

    # Only tokens that count reach the output layer, whose logits are the largest tensor of the pass.
    source_M, target_M, keep_M = layout.source_M, layout.target_M, _flat(selected, ids)
    if keep_M is not None:
        source_M, target_M = source_M[keep_M], target_M[keep_M]
    measures = {name: _measure(extra, keep_M) for name, extra in extras.items()}
    states_M = layout.source_M if with_states else None
    targets = Targets(source_M, target_M, distribution, with_entropy, hidden_only, measures, states_M)
    scored: TokenScores = policy.module(inputs, targets, continuation)
    logp_M, entropy_M, measured = scored.logp_M, scored.entropy_M, dict(scored.measured)

    # Back to one tensor per response, zeros where nothing was scored.
    if keep_M is not None:
        logp_M = _at(keep_M, logp_M)
        entropy_M = None if entropy_M is None else _at(keep_M, entropy_M)
        measured = {name: _at(keep_M, values) for name, values in measured.items()}
    if scored.states_Md is not None:
        measured[STATES] = scored.states_Md
    counts = [sum(map(len, view_ids)) for view_ids in ids]
    logps = logp_M.split(counts)
    entropies = entropy_M.split(counts) if entropy_M is not None else [None] * len(counts)
    by_view = {name: values.split(counts) for name, values in measured.items()}
    return [
        (
            _scores(view_ids, logps[number], entropies[number]),
            {name: list(values[number].split([len(ids_T) for ids_T in view_ids])) for name, values in by_view.items()},
        )
        for number, view_ids in enumerate(ids)
    ]


def _measure(extra: Extra, keep_M: Tensor | None) -> Measure:
    """Return an extra as the module computes it, on the tokens that are kept."""
    constants_M = None
    if extra.constants is not None:
        constants_M = torch.cat([tensor for of_view in extra.constants for tensor in of_view])
        constants_M = constants_M if keep_M is None else constants_M[keep_M]
    return lambda states, ids_M, distribution: extra.function(states, ids_M, distribution, constants_M)


def _flat(selected: Sequence[Tensor] | None, ids: Sequence[Sequence[Tensor]]) -> Tensor | None:
    """Return which of all response tokens, in the order of a layout, are selected; None if there is no choice."""
    if selected is None:
        return None
    return torch.cat(
        [
            selected_T[: len(ids_T)]
            for selected_NT, view_ids in zip(selected, ids, strict=True)
            for selected_T, ids_T in zip(selected_NT, view_ids, strict=True)
        ]
    )


def _at(keep_M: Tensor, values_m: Tensor) -> Tensor:
    """Return the values, or rows of values, at the places that are kept, 0 elsewhere."""
    shape = (len(keep_M), *values_m.shape[1:])
    where_M = keep_M.reshape(-1, *(1 for _ in values_m.shape[1:])).expand(shape)
    return values_m.new_zeros(shape).masked_scatter(where_M, values_m)


def _scores(ids: Sequence[Tensor], logp_M: Tensor, entropy_M: Tensor | None) -> Scores:
    """Return the scores of a view from the values of all tokens of its responses, in order."""
    lengths = [len(ids_T) for ids_T in ids]
    logp_NT = padded(logp_M.split(lengths))
    places_T = torch.arange(logp_NT.shape[1], device=logp_NT.device)
    mask_NT = places_T < torch.tensor(lengths, device=logp_NT.device)[:, None]
    return Scores(logp_NT, None if entropy_M is None else padded(entropy_M.split(lengths)), mask_NT)


def padded(values: Sequence[Tensor]) -> Tensor:
    """Pad the values ``[T]`` of each response with zeros on the right, to ``[N, T]``; N may be 0."""
    return pad_sequence(list(values), batch_first=True) if values else torch.zeros(0, 0)


def _no_sync(module: Any) -> AbstractContextManager[Any]:
    """Keep a distributed wrapper from expecting a backward pass through the parameters."""
    return module.no_sync() if hasattr(module, "no_sync") else nullcontext()
