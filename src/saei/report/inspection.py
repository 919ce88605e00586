"""What an intervention does to one question before any training: pictures, tokens and responses, as plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from PIL.Image import Image

from saei.interventions.single import AttackResult, attack
from saei.policy import Policy
from saei.policy.ask import Pictures
from saei.policy.pixels.space import to_image
from saei.report.tokens import token_pieces
from saei.runtime.seeds import derive
from saei.types import Response


@dataclass(frozen=True, slots=True)
class Token:
    """One token of a response.

    Attributes:
        piece: Its text.
        entropy: Of the distribution that it was drawn from, in nats.
        selected: Whether the criterion looked at it.
        moved: The entropy there under the perturbed view, the tokens before it kept; None where it is not asked for.
    """

    piece: str
    entropy: float
    selected: bool = False
    moved: float | None = None

    @property
    def change(self) -> float:
        """How much its entropy changed under the perturbed view."""
        return 0.0 if self.moved is None else self.moved - self.entropy


@dataclass(frozen=True, slots=True)
class Answer:
    """One response.

    Attributes:
        text: Its text.
        tokens: Its tokens, the end of the response among them; none of an empty one.
        truncated: Whether the length limit ended it.
    """

    text: str
    tokens: tuple[Token, ...]
    truncated: bool

    @property
    def entropy(self) -> float:
        """Mean token entropy, in nats."""
        return sum(token.entropy for token in self.tokens) / max(1, len(self.tokens))

    @property
    def moved(self) -> float:
        """Mean token entropy under the perturbed view, in nats."""
        return sum(token.entropy + token.change for token in self.tokens) / max(1, len(self.tokens))


@dataclass(frozen=True, eq=False, slots=True)
class Inspection:
    """What an intervention does to one question.

    Attributes:
        question: The question.
        moved_question: What the perturbed view asks; the same unless the intervention changes words.
        settings: Model, template, seed, and the intervention's slots as one reads them, by name.
        clean: The pictures that the policy sees.
        perturbed: Those of the perturbed view.
        answers: Responses to the clean view, with both entropies and the selection.
        perturbed_answers: Responses to the perturbed view.
        criterion: J where the attack began and on the rounded pictures, in nats.
        view_kl: ``KL(perturbed‖clean)`` per token of the clean responses, in nats.
        distances: Share of values that moved and the largest change, by surface.
    """

    question: str
    moved_question: str
    settings: Mapping[str, str]
    clean: tuple[Image, ...]
    perturbed: tuple[Image, ...]
    answers: tuple[Answer, ...]
    perturbed_answers: tuple[Answer, ...]
    criterion: tuple[float, float]
    view_kl: float
    distances: Mapping[str, tuple[float, float]]

    def largest_changes(self, count: int = 8) -> list[tuple[int, Token]]:
        """Return the tokens whose entropy changed most, each with the number of its response, from 1."""
        numbered = [(n, token) for n, answer in enumerate(self.answers, 1) for token in answer.tokens]
        return sorted(numbered, key=lambda pair: -abs(pair[1].change))[:count]

    def summary(self) -> list[str]:
        """Return what the numbers are, a sentence each."""
        before, after = self.criterion
        rounded = ", on pictures rounded to 8 bits" if "pixels" in self.distances else ""
        sentences = [
            f"Criterion J {before:.4f} → {after:.4f} ({after - before:+.4f}){rounded}.",
            f"KL(perturbed‖clean) {self.view_kl:.4f} nats per token.",
        ]
        for surface, (share, largest) in self.distances.items():
            unit = "/255" if surface == "pixels" else ""
            sentences.append(f"Moved {share:.0%} of {surface}, by {largest:.3g}{unit} at most.")
        return sentences

    def plain(self) -> dict[str, Any]:
        """Return everything but the pictures as plain data."""
        names = ("question", "moved_question", "settings", "view_kl")
        data: dict[str, Any] = {name: getattr(self, name) for name in names}
        data["criterion"] = {"before": self.criterion[0], "after": self.criterion[1]}
        data["distances"] = {name: {"share": s, "largest": most} for name, (s, most) in self.distances.items()}
        for name in ("answers", "perturbed_answers"):
            data[name] = [asdict(answer) | {"entropy": answer.entropy} for answer in getattr(self, name)]
        return data


def inspect(
    policy: Policy,
    images: Pictures,
    question: str,
    *,
    responses: int,
    seed: int,
    slots: Mapping[str, Any],
    settings: Mapping[str, str],
) -> Inspection:
    """Attack one question as the sampler ``mixed`` would, and return what came of it.

    Args:
        policy: Answers and is attacked.
        images: The pictures.
        question: The question.
        responses: Drawn from each view.
        seed: Seed of all that is drawn.
        slots: Fields of ``sampler.intervention``.
        settings: What is to be said about model and intervention, by name.

    Raises:
        SaeiError: If a picture cannot be opened, the intervention needs a run, or there is nothing to move.
    """
    result = attack(policy, images, question, responses=responses, seed=seed, **slots)
    generator = torch.Generator().manual_seed(derive(seed, "perturbed"))
    (drawn,) = policy.sample([result.view], [responses], generators=[generator])
    return Inspection(
        question=result.clean.example.question,
        moved_question=result.view.example.question,
        settings=settings,
        clean=tuple(map(to_image, result.clean.canvases)),
        perturbed=result.images,
        answers=_with_both_entropies(policy, result),
        perturbed_answers=tuple(answer_of(policy.tokenizer, response) for response in drawn),
        criterion=(result.criterion_before, result.criterion_after),
        view_kl=result.view_kl,
        distances={name: (distance.share, distance.largest) for name, distance in result.distances.items()},
    )


def answer_of(tokenizer: Any, response: Response) -> Answer:
    """Return a response with the text and the entropy of each token."""
    pieces = token_pieces(tokenizer, response.ids_T.tolist())
    tokens = tuple(map(Token, pieces, response.entropy_T.tolist()))
    return Answer(response.text, tokens, response.truncated)


@torch.no_grad()
def _with_both_entropies(policy: Policy, result: AttackResult) -> tuple[Answer, ...]:
    """Return the clean responses with their entropies under both views, from one pass."""
    responses = [response for response in result.responses if len(response)]
    scores = policy.score([result.clean, result.view], [responses, responses])
    clean_NT, moved_NT = (each.entropies().float().cpu() for each in scores)
    rows = iter(zip(clean_NT.tolist(), moved_NT.tolist(), strict=True))
    answers = []
    for response, selected_T in zip(result.responses, result.selected, strict=True):
        clean, moved = next(rows) if len(response) else ([], [])
        answers.append(_answer(policy.tokenizer, response, clean, selected_T.tolist(), moved))
    return tuple(answers)


def _answer(
    tokenizer: Any, response: Response, clean: Sequence[float], selected: Sequence[bool], moved: Sequence[float]
) -> Answer:
    pieces = token_pieces(tokenizer, response.ids_T.tolist())
    # Rows are padded to the longest response.
    tokens = tuple(Token(*values) for values in zip(pieces, clean, selected, moved, strict=False))
    return Answer(response.text, tokens, response.truncated)
