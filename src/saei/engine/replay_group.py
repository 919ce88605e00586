"""A group that is kept for later steps: on the CPU, its pictures in 8 bits, and as the plain data of a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from saei.types import Example, Grade, Group, Question, Response, ScoredGroup, TrainGroup, View, ViewWeight

_OF_RESPONSE = ("ids_T", "text", "behaviour_logp_T", "entropy_T", "truncated", "parent", "forced", "temperature")


@dataclass(frozen=True, eq=False, slots=True)
class KeptGroup:
    """Responses of one group with an advantage, as they were first trained on.

    Attributes:
        step: The step that drew them.
        train: The group on the CPU, with ``old_logp``. Canvases are uint8, and gone from views that no update and no
            statistic looks at. Its example has no pictures and no ``meta``.
    """

    step: int
    train: TrainGroup

    @classmethod
    def of(cls, step: int, train: TrainGroup, old_logp: Sequence[Tensor]) -> KeptGroup:
        """Return a group to keep.

        Args:
            step: The step that drew it.
            train: The group, of which all responses are kept.
            old_logp: For each response the log-probabilities of the old policy under the update view, ``[T]``.
        """
        group, example = train.group, Example(train.group.example.id, train.group.example.question, "")
        used = {0, *group.updated_on}
        views = [
            replace(view, example=example, canvases=tuple(map(_in_8_bits, view.canvases)) if number in used else ())
            for number, view in enumerate(group.views)
        ]
        # What was dropped in its own step is none of later steps' responses.
        bare = replace(group, example=example, views=tuple(views), metrics={}, records=(), dropped=())
        bare_train = replace(train, scored=replace(train.scored, group=bare), old_logp=tuple(old_logp))
        return cls(step, _moved(bare_train, lambda tensor: tensor.detach().cpu()))

    @property
    def index(self) -> int:
        """The group's index."""
        return self.train.group.index

    def keep(self, numbers: Sequence[int]) -> KeptGroup:
        """Return the group with only these responses."""
        return KeptGroup(self.step, self.train.keep(numbers))

    def restored(self, device: torch.device) -> TrainGroup:
        """Return the group on a device, with the very canvases that it had."""

        def back(tensor: Tensor) -> Tensor:
            tensor = tensor.to(device)
            return tensor.float() / 255 if tensor.dtype == torch.uint8 else tensor

        return _moved(self.train, back)

    def plain(self) -> dict[str, Any]:
        """Return the group as tensors, numbers, strings, lists and mappings."""
        train, group = self.train, self.train.group
        return {
            "step": self.step,
            "index": self.index,
            "example": group.example.id,
            "question": group.example.question,
            "views": [
                {
                    "origin": view.origin,
                    "prompt_ids": view.prompt_ids_P,
                    "positions": view.positions_KP,
                    "canvases": list(view.canvases),
                    "token_inputs": dict(view.token_inputs),
                    "offset": view.offset_Qd,
                    "places": None if view.question is None else view.question.places_Q,
                }
                for view in group.views
            ],
            "responses": [{name: getattr(response, name) for name in _OF_RESPONSE} for response in group.responses],
            "sampled_from": list(group.sampled_from),
            "updated_on": list(group.updated_on),
            "untrained": list(group.untrained),
            "view_weights": [[weight.beta, weight.cap] for weight in group.view_weights],
            "rewards": list(train.scored.rewards),
            "correct": [grade.correct for grade in train.scored.grades],
            "advantages": list(train.advantages),
            "token_advantages": None if train.token_advantages is None else list(train.token_advantages),
            "old_logp": list(train.old_logp or ()),
        }

    @classmethod
    def from_plain(cls, data: Mapping[str, Any]) -> KeptGroup:
        """Return the group that ``plain`` described."""
        example = Example(data["example"], data["question"], "")
        views = tuple(
            View(
                example=example,
                origin=view["origin"],
                prompt_ids_P=view["prompt_ids"],
                positions_KP=view["positions"],
                canvases=tuple(view["canvases"]),
                token_inputs=view["token_inputs"],
                index=data["index"],
                question=None if view.get("places") is None else Question(view["places"], ()),
                offset_Qd=view.get("offset"),
            )
            for view in data["views"]
        )
        group = Group(
            example=example,
            views=views,
            responses=tuple(Response(**response) for response in data["responses"]),
            view_weights=tuple(ViewWeight(*weight) for weight in data["view_weights"]),
            sampled_from=tuple(data["sampled_from"]),
            updated_on=tuple(data["updated_on"]),
            untrained=tuple(data["untrained"]),
        )
        grades = tuple(map(Grade, data["rewards"], data["correct"]))
        of_tokens = data["token_advantages"]
        train = TrainGroup(
            ScoredGroup(group, grades),
            tuple(data["advantages"]),
            None if of_tokens is None else tuple(of_tokens),
            tuple(data["old_logp"]),
        )
        return cls(data["step"], train)


def _in_8_bits(canvas: Tensor) -> Tensor:
    """Return a canvas, which is on the grid of multiples of 1/255, as uint8."""
    return (canvas * 255).round().to(torch.uint8)


def _moved(train: TrainGroup, move: Callable[[Tensor], Tensor]) -> TrainGroup:
    """Return a group with each of its tensors replaced by what a function makes of it."""

    def all_of(tensors: tuple[Tensor, ...] | None) -> tuple[Tensor, ...] | None:
        return None if tensors is None else tuple(map(move, tensors))

    views = tuple(
        replace(
            view,
            prompt_ids_P=move(view.prompt_ids_P),
            positions_KP=move(view.positions_KP),
            canvases=tuple(map(move, view.canvases)),
            token_inputs={name: move(values) for name, values in view.token_inputs.items()},
            question=None if view.question is None else replace(view.question, places_Q=move(view.question.places_Q)),
            offset_Qd=None if view.offset_Qd is None else move(view.offset_Qd),
        )
        for view in train.group.views
    )
    responses = tuple(
        replace(
            response,
            ids_T=move(response.ids_T),
            behaviour_logp_T=move(response.behaviour_logp_T),
            entropy_T=move(response.entropy_T),
        )
        for response in train.group.responses
    )
    group = replace(train.group, views=views, responses=responses)
    scored = ScoredGroup(group, train.scored.grades)  # what an advantage needed of the policy has served
    return TrainGroup(scored, train.advantages, all_of(train.token_advantages), all_of(train.old_logp))
