"""Prefix once, responses many: what can be done with the views of one ``Policy.open``."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import pad

from saei.config import SamplingConfig
from saei.policy.decoding import Draw, decode, uniforms
from saei.policy.module import Continuation, NextToken, Targets
from saei.policy.rows import lay_out
from saei.types import Response, View

if TYPE_CHECKING:
    from saei.policy.policy import Policy

Grad: TypeAlias = Literal["none", "pixels", "parameters"]


@dataclass(frozen=True, eq=False, slots=True)
class Scores:
    """Teacher-forced statistics of one view's N responses, right-padded to the longest of them.

    Attributes:
        logp_NT: float32 log-probability of each token, 0 on padding.
        entropy_NT: float32 entropy in nats, 0 on padding; None if it was not asked for.
        mask_NT: bool, True on response tokens.
    """

    logp_NT: Tensor
    entropy_NT: Tensor | None
    mask_NT: Tensor


class Prefix:
    """The open views of a policy; a context manager that holds the gradient mode while it is open.

    Each scoring and sampling computes the prompts once for all of its responses and frees their cache at its end.

    Args:
        policy: The policy.
        views: What it looks at.
        grad: What scoring may be differentiated by.
        pixels: Canvases that replace the views' own, in order, possibly requiring a gradient.
    """

    def __init__(
        self, policy: Policy, views: Sequence[View], grad: Grad = "none", pixels: Sequence[Tensor] | None = None
    ) -> None:
        self._policy = policy
        self._views = tuple(views)
        self._grad = grad
        own = [canvas for view in views for canvas in view.canvases]
        self._canvases = _split(own if pixels is None else list(pixels), [len(view.canvases) for view in views])
        self._stack = ExitStack()

    def __enter__(self) -> Prefix:
        self._stack.enter_context(torch.set_grad_enabled(self._grad != "none"))
        if self._grad == "pixels":
            self._stack.enter_context(_no_sync(self._policy.module))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def score(self, responses: Sequence[Sequence[Response]], *, with_entropy: bool = True) -> list[Scores]:
        """Score responses under their views.

        Args:
            responses: For each view its responses; all of them may be empty for a view.
            with_entropy: Whether entropies are wanted.
        """
        policy = self._policy
        ids = [[response.ids_T for response in own] for own in responses]
        if not any(len(ids_T) for own in ids for ids_T in own):
            return [_padded(own, None, None) for own in ids]
        layout = lay_out(self._views, ids, shared=policy.shared_prefix)
        rows, answers = layout.rows, layout.answers
        inputs = {
            "input_ids": rows.ids_BS,
            "attention_mask": rows.valid_BS,
            "position_ids": _position_argument(rows.positions_KBS),
            "use_cache": answers is not None,
            **policy.pixels.inputs([canvas for number in layout.views for canvas in self._canvases[number]]),
        }
        continuation = None
        if answers is not None:
            seen_RS = torch.cat([rows.valid_BS[layout.parent_R], answers.valid_BS], dim=1)
            continuation = Continuation(
                layout.parent_R,
                {
                    "input_ids": answers.ids_BS,
                    "attention_mask": seen_RS,
                    "position_ids": _position_argument(answers.positions_KBS),
                },
            )
        # `entropy.temperature` is the criterion's; an update trains the entropy of the policy as it samples.
        update = self._grad == "parameters"
        distribution = policy.distribution_of(policy.sampling) if update else policy.distribution
        targets = Targets(layout.source_M, layout.target_M, distribution, with_entropy)
        logp_M, entropy_M = policy.module(inputs, targets, continuation)
        counts = [sum(map(len, own)) for own in ids]
        logps = logp_M.split(counts)
        entropies = entropy_M.split(counts) if entropy_M is not None else [None] * len(counts)
        return [_padded(own, logp, entropy) for own, logp, entropy in zip(ids, logps, entropies, strict=True)]

    @torch.no_grad()
    def sample(
        self,
        counts: Sequence[int],
        *,
        generator: torch.Generator | Sequence[torch.Generator],
        sampling: SamplingConfig | None = None,
    ) -> list[list[Response]]:
        """Draw responses: each view's prompt is computed once, and the responses of all views are decoded together.

        Args:
            counts: How many responses each view gets.
            generator: Source of all randomness, on the CPU; several, one per view, make the responses to a view
                independent of the views that it is opened with.
            sampling: How evaluation draws, with entropies before top-p and top-k; None draws from the policy as it
                is trained, with the entropies that its criterion uses.
        """
        wanted = [number for number, count in enumerate(counts) if count > 0]
        if not wanted:
            return [[] for _ in counts]
        if not isinstance(generator, torch.Generator):
            generator = [generator[number] for number in wanted]
        draw = self._draw(wanted, [counts[number] for number in wanted], sampling, generator)
        policy = self._policy
        ids = [row[:length].cpu() for row, length in zip(draw.ids_RT, draw.length_R.tolist(), strict=True)]
        texts = policy.tokenizer.batch_decode(ids, skip_special_tokens=True)
        drawn = iter(
            Response(
                ids_T=ids_T.to(policy.device),
                text=text,
                behaviour_logp_T=draw.logp_RT[number, : len(ids_T)].clone(),
                entropy_T=draw.entropy_RT[number, : len(ids_T)].clone(),
                truncated=bool(draw.truncated_R[number]),
            )
            for number, (ids_T, text) in enumerate(zip(ids, texts, strict=True))
        )
        return [[next(drawn) for _ in range(count)] for count in counts]

    def _draw(
        self,
        wanted: list[int],
        counts: list[int],
        sampling: SamplingConfig | None,
        generator: torch.Generator | Sequence[torch.Generator],
    ) -> Draw:
        policy = self._policy
        views = [self._views[number] for number in wanted]
        width = max(view.prompt_ids_P.shape[0] for view in views)
        # Prompts are padded on the left, so that every row's last column predicts its first response token.
        gaps = [width - view.prompt_ids_P.shape[0] for view in views]
        mask_BS = torch.stack([torch.arange(width, device=policy.device) >= gap for gap in gaps])
        positions_KBS = torch.stack(
            [pad(view.positions_KP, (gap, 0)) for view, gap in zip(views, gaps, strict=True)], dim=1
        )
        inputs = {
            "input_ids": torch.stack(
                [pad(view.prompt_ids_P, (gap, 0), value=0) for view, gap in zip(views, gaps, strict=True)]
            ),
            "attention_mask": mask_BS,
            "position_ids": _position_argument(positions_KBS),
            "use_cache": True,
            **policy.pixels.inputs([canvas for number in wanted for canvas in self._canvases[number]]),
        }
        first: NextToken = policy.module(inputs)
        expand_R = torch.repeat_interleave(
            torch.arange(len(views), device=policy.device), torch.tensor(counts, device=policy.device)
        )
        first.cache.batch_select_indices(expand_R)
        mask_RS = mask_BS[expand_R]
        next_KR = positions_KBS.amax(dim=(0, 2))[expand_R].expand(positions_KBS.shape[0], -1) + 1

        def step(ids_L: Tensor, rows_L: Tensor, cache: Any) -> NextToken:
            fed = cache.get_seq_length() - width
            seen_LS = pad(mask_RS[rows_L], (0, fed + 1), value=True)
            result: NextToken = policy.module(
                {
                    "input_ids": ids_L[:, None],
                    "attention_mask": seen_LS,
                    "position_ids": _position_argument((next_KR[:, rows_L] + fed)[..., None]),
                    "past_key_values": cache,
                    "use_cache": True,
                }
            )
            return result

        return decode(
            first.logits_BV[expand_R],
            first.cache,
            step,
            distribution=policy.distribution if sampling is None else policy.distribution_of(sampling),
            sampling=sampling or policy.sampling,
            eos_ids=policy.eos_ids,
            uniform=uniforms(generator, counts, (sampling or policy.sampling).max_new_tokens),
        )


def _position_argument(positions_KBS: Tensor) -> Tensor:
    """Return positions in the shape that models take: ``[B, S]`` for one axis, ``[3, B, S]`` for three."""
    return positions_KBS[0] if positions_KBS.shape[0] == 1 else positions_KBS


def _padded(ids: Sequence[Tensor], logp_M: Tensor | None, entropy_M: Tensor | None) -> Scores:
    lengths = [len(ids_T) for ids_T in ids]
    width = max(lengths, default=0)

    def spread(values_M: Tensor) -> Tensor:
        return torch.stack([pad(part, (0, width - len(part))) for part in values_M.split(lengths)])

    device = ids[0].device if ids else None
    mask_NT = torch.arange(width, device=device)[None] < torch.tensor(lengths, device=device)[:, None]
    if logp_M is None or not ids:
        zeros = torch.zeros(len(ids), width, device=device)
        return Scores(zeros, zeros, mask_NT)
    return Scores(spread(logp_M), None if entropy_M is None else spread(entropy_M), mask_NT)


def _split(canvases: list[Tensor], counts: Sequence[int]) -> list[list[Tensor]]:
    rest = iter(canvases)
    return [[next(rest) for _ in range(count)] for count in counts]


def _no_sync(module: Any) -> AbstractContextManager[Any]:
    """Keep a distributed wrapper from expecting a backward pass through the parameters."""
    return module.no_sync() if hasattr(module, "no_sync") else nullcontext()
