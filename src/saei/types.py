"""The data that flows through a step: example → group → scored group → train group.

Shape legend, used as suffixes everywhere: G groups, N responses in a group, R responses of a batch
(rows), T response tokens, P prompt tokens, Q tokens of the question's text, d features, V
vocabulary, C colour channels, H and W pixels.
Entropy and log-probabilities are in nats; pixels, steps and radii in units of the [0, 1] range.

Everything here is frozen and holds ids and numbers, never a graph: tensors are detached. The file is long for its
examples of real values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from saei.need import Need

CLEAN = "clean"
ADVERSARIAL = "adversarial"

NO_IMAGE = "no-image"
"""Why something is left alone that has no picture."""

UNTOUCHED = (NO_IMAGE, "empty")
"""Reasons for which an intervention may leave a group alone, counted at every step, also where they never occur."""


@dataclass(frozen=True, eq=False, slots=True)
class Example:
    """One problem: images, a question and its verifiable answer.

    Attributes:
        id: Unique within the task, stable between runs.
        question: Plain text, without prompt template. ``<image>`` stands where an image is shown that is not in front
            of it: ``"Which of them is darker, <image> or <image>?"``.
        answer: The gold answer as text.
        images: In the order in which the prompt shows them; empty for a text-only example.
        meta: What the task knows besides, such as ``{"kind": "add"}``.
        protected: Parts of the question that no attack on its text may change, besides those that none changes by
            default; half-open spans of characters, so that ``((8, 11),)`` protects the word
            ``red`` below.
        wordings: Other questions with the same meaning and answer; empty where the task is asked for them.

    Example:
        Of the task ``bars``::

            Example(
                id="bars-2-train-0",
                question="What is red + yellow?",
                answer="8",
                images=(<a picture of 64 x 64>,),
                meta={
                    "kind": "add",
                    "names": ("red", "yellow"),
                    "values": (5, 3),
                    "quantities": {"green": 3, "blue": 4, "yellow": 3, "red": 5},
                },
            )
    """

    id: str
    question: str
    answer: str
    images: tuple[Image, ...] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)
    protected: tuple[tuple[int, int], ...] = ()
    wordings: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False, slots=True)
class Question:
    """Where the text of an example's question stands in its prompt. Q tokens, each wholly of that text.

    Attributes:
        places_Q: int64 places in the prompt, ascending.
        spans: For each token its characters in ``Example.question``, from the first to before the last; a tokenizer
            may leave the space before a word out.

    Example:
        ``Question(places_Q=tensor([24, 25, 26, 27, 28]), spans=((0, 4), (5, 7), (8, 11), (12, 13), (14, 20)))`` of
        ``"What is red + yellow"``.
    """

    places_Q: Tensor
    spans: tuple[tuple[int, int], ...]


@dataclass(frozen=True, eq=False, slots=True, weakref_slot=True)
class View:
    """What the policy sees of an example.

    Attributes:
        example: The example looked at.
        origin: An open string: ``clean``, ``adversarial``, ``noisy``, …
        prompt_ids_P: int64, image placeholders already expanded to one id per image token.
        positions_KP: int64 rotary positions of the prompt, K = 3 for multimodal rotary embeddings, else 1.
        canvases: One float32 ``[C, H, W]`` in [0, 1] per image, on the grid of multiples of 1/255:
            ``processor(PNG(canvas))`` is exactly what the policy sees.
        token_inputs: The model's further inputs of one value per token, such as token types, ``[P + 1, ...]`` by
            name; the last value is for the tokens of a response.
        index: Its place: of a training example the position in the order of the whole run, of another its number in
            its split. All views of a group have the same. What belongs to one group is found by it, and drawn from
            sources that are seeded by it, since a task may return the same ``Example`` object again.
        question: Where the text of the question stands in the prompt; None where that cannot be told.
        offset_Qd: float32 offset that is added to the current embeddings of the question's tokens, None for none.

    Example:
        The clean view of that example for the built-in model, with 43 prompt tokens and one canvas::

            View(
                example=Example(id="bars-2-train-0", ...),
                origin="clean",
                prompt_ids_P=tensor([680, 1, 211, 682, 684, 684, ...]),  # [43]
                positions_KP=tensor(...),  # [3, 43]
                canvases=(tensor(...),),  # [3, 64, 64], such as 0.2 for the 8-bit value 51
                index=0,
            )
    """

    example: Example
    origin: str
    prompt_ids_P: Tensor
    positions_KP: Tensor
    canvases: tuple[Tensor, ...] = ()
    token_inputs: Mapping[str, Tensor] = field(default_factory=dict)
    index: int = 0
    question: Question | None = None
    offset_Qd: Tensor | None = None


@dataclass(frozen=True, eq=False, slots=True, weakref_slot=True)
class Response:
    r"""One sampled answer.

    Attributes:
        ids_T: int64 token ids, the end-of-sequence token included when one was sampled.
        text: The decoded ids without special tokens.
        behaviour_logp_T: float32 log-probability of each token under the distribution it was drawn from.
        entropy_T: float32 entropy of that distribution at each position, in nats.
        truncated: True if the length limit ended it before an end-of-sequence token.
        parent: The number in its group of the response that its first tokens are from; None if it was drawn whole,
            or the group has that response no more.
        forced: How many of its first tokens were given and not drawn. Each token keeps the log-probability and entropy
            of the distribution that it was drawn from, so those of the forced ones are the parent's.
        temperature: The temperature that it was drawn at; None for the policy's own.

    Example:
        A confident guess, right in form and wrong::

            Response(
                ids_T=tensor([209, 71, 283, 286, 221, ...]),  # [19]
                text="<think>let me read the bars, at a glance it looks like 0</think> \boxed{0}",
                behaviour_logp_T=tensor([-0.0009, -0.6221, -0.0017, -0.4503, ...]),
                entropy_T=tensor([0.0119, 1.1528, 0.0220, 1.0377, ...]),
                truncated=False,
            )
    """

    ids_T: Tensor
    text: str
    behaviour_logp_T: Tensor
    entropy_T: Tensor
    truncated: bool
    parent: int | None = None
    forced: int = 0
    temperature: float | None = None

    def __len__(self) -> int:
        return int(self.ids_T.shape[0])

    def prefix(self, length: int, number: int | None = None) -> ResponsePrefix:
        """Return its first tokens, for other responses to begin with.

        Args:
            length: How many of them, at most its own length.
            number: Its number in its group, which becomes those responses' ``parent``.
        """
        return ResponsePrefix(
            self.ids_T[:length], self.behaviour_logp_T[:length], self.entropy_T[:length], parent=number
        )


@dataclass(frozen=True, eq=False, slots=True)
class ResponsePrefix:
    """The tokens that a response begins with, K of them, and what is known from when they were drawn.

    Attributes:
        ids_T: int64 token ids; an end-of-sequence token may only be the last, and then nothing is drawn.
        behaviour_logp_T: float32 log-probability of each under the distribution it was drawn from.
        entropy_T: float32 entropy of that distribution at each, in nats.
        parent: The number in its group of the response that they are from, None if from none.
    """

    ids_T: Tensor
    behaviour_logp_T: Tensor
    entropy_T: Tensor
    parent: int | None = None

    def __len__(self) -> int:
        return int(self.ids_T.shape[0])


@dataclass(frozen=True, eq=False, slots=True)
class ViewWeight:
    """The detached token weight ``min(cap, exp(beta * (old_logp - behaviour_logp)))`` of the update.

    It is the only place where the gap between the view a response was drawn from and the view it is
    trained under enters the loss. ``beta = 0`` ignores the gap, ``beta = 1`` corrects it fully.

    Example:
        With ``ViewWeight(beta=1.0, cap=2.0)`` a token of probability .3 under the view it was drawn from, and .15 under
        the one that it is trained under, weighs .5; the other way round it would weigh 2.
    """

    beta: float = 0.0
    cap: float = 2.0


@dataclass(frozen=True, slots=True)
class Distance:
    """How far a surface of a view was moved.

    Attributes:
        share: Share of its values that moved.
        largest: Largest change of a value, in the surface's own unit: of pixels 1/255 of the range.
    """

    share: float
    largest: float


@dataclass(frozen=True, eq=False, slots=True)
class AttackTrace:
    """What is kept of an attack only where a step is recorded for people to look at.

    Attributes:
        responses: The (not empty) clean responses that the criterion looked at.
        selected_NT: bool, their tokens that it looked at, on the CPU.
        gradient_signs: By surface the shares of values at which the first gradient was negative, zero and positive;
            empty where the attack followed none.
        gradients: int8 ``[C, H, W]`` for each picture, on the CPU: those signs themselves, -1, 0 and 1; empty where no
            picture was moved by a gradient.
        entropy_NT: float32, the entropies of the responses under the view that was made, on the CPU; None where the
            step did not measure what the attack changed.
    """

    responses: tuple[Response, ...]
    selected_NT: Tensor
    gradient_signs: Mapping[str, tuple[float, float, float]]
    gradients: tuple[Tensor, ...] = ()
    entropy_NT: Tensor | None = None


@dataclass(frozen=True, eq=False, slots=True)
class ViewRecord:
    """How a view was made by an intervention.

    Attributes:
        seed: Of the group's source of randomness.
        strength: Factor on the attack's steps and radii.
        distances: How far each surface was moved, by its name.
        trace: More, where the step is recorded.

    Example:
        ``ViewRecord(seed=8264003511, strength=1.0, distances={"pixels": Distance(share=0.97, largest=2.0)})``
    """

    seed: int
    strength: float
    distances: Mapping[str, Distance]
    trace: AttackTrace | None = None


@dataclass(frozen=True, eq=False, slots=True)
class Group:
    """One example, the views of it that the policy looked at, and the responses drawn from each.

    Attributes:
        example: The example.
        views: All views; the first is the clean one.
        responses: N responses, in the order clean first.
        sampled_from: For each response the index of the view it was drawn from.
        updated_on: For each response the index of the view it is trained under.
        view_weights: For each response how the gap between those two views weighs the loss; empty where it does not.
        untrained: For each response how many of its first tokens the loss leaves out, as if they belonged to the
            prompt; empty where it leaves out none.
        untouched: Why all interventions left this group alone, None where one did not: one of ``UNTOUCHED``, or what
            a gate says, such as ``varies``.
        metrics: Numbers that the sampler and the intervention report about this group.
        records: For each view but the first how it was made; empty where no intervention made them.
        dropped: Responses that were drawn with these and are not trained on. Their shares stay in what the loss divides
            by, so that each of the others weighs what it would have weighed.

    Example:
        Of the sampler ``mixed`` with three responses from each view, trained under the view they were drawn from::

            Group(
                example=Example(id="bars-2-train-0", ...),
                views=(View(origin="clean", ...), View(origin="adversarial", ...)),
                responses=(Response(...), ...),  # 6
                sampled_from=(0, 0, 0, 1, 1, 1),
                updated_on=(0, 0, 0, 1, 1, 1),  # all 0 with update_on: clean
                metrics={"selected": 48.0, "criterion": 0.147, "moved": 1.0, "largest_change": 2.0},
                records=(ViewRecord(...),),
            )
    """

    example: Example
    views: tuple[View, ...]
    responses: tuple[Response, ...]
    sampled_from: tuple[int, ...]
    updated_on: tuple[int, ...]
    view_weights: tuple[ViewWeight, ...] = ()
    untrained: tuple[int, ...] = ()
    untouched: str | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    records: tuple[ViewRecord, ...] = ()
    dropped: tuple[Response, ...] = ()

    @property
    def index(self) -> int:
        """The place of its views."""
        return self.views[0].index

    def update_view(self, n: int) -> View:
        """Return the view that response ``n`` is trained under, whose question it has to answer."""
        return self.views[self.updated_on[n]]

    def origin(self, n: int) -> str:
        """Return the origin of the view that response ``n`` was drawn from."""
        return self.views[self.sampled_from[n]].origin

    def view_weight(self, n: int) -> ViewWeight:
        """Return how the gap between its views weighs response ``n``."""
        return self.view_weights[n] if self.view_weights else ViewWeight()


@dataclass(frozen=True, eq=False, slots=True)
class Grade:
    """The reward of one response and its parts.

    Attributes:
        reward: The scalar that is optimised.
        correct: Whether the final answer is right; collapse and zero variance are counted on this.
        parts: Named unweighted components, such as ``{"accuracy": 1.0, "format": 0.0}``.
        answer: The final answer read from the response, None if none could be read.
        reason: Why it is right or wrong, in a few printable words.

    Example:
        A wrong answer in the right form, with weights .9 and .1::

            Grade(
                reward=0.1,
                correct=False,
                parts={"accuracy": 0.0, "format": 1.0},
                answer="0",
                reason="another number: 0",
            )
    """

    reward: float
    correct: bool
    parts: Mapping[str, float] = field(default_factory=dict)
    answer: str | None = None
    reason: str = ""


@dataclass(frozen=True, eq=False, slots=True)
class ScoredGroup:
    """A group with one grade per response.

    Attributes:
        group: The group.
        grades: N grades, in the order of its responses.
        statistics: What the advantage needs of the policy, ``[N, T]`` by need, 0 on padding. The own view of a response
            is the one that it was drawn from, and the policy the one that drew it.

    Example:
        With rewards ``(1.0, 0.1, 0.1, 0.1)``, ``scored.without({2: "too-long"}).rewards`` is ``(1.0, 0.1, 0.1)``.
    """

    group: Group
    grades: tuple[Grade, ...]
    statistics: Mapping[Need, Tensor] = field(default_factory=dict)

    def keep(self, numbers: Sequence[int]) -> ScoredGroup:
        """Return the group with only these responses, whose parents have their new numbers, None if they are gone."""
        group = self.group
        new_numbers = {n: new for new, n in enumerate(numbers)}

        def renumbered(response: Response) -> Response:
            parent = None if response.parent is None else new_numbers.get(response.parent)
            # The same object where nothing changes: what is known of its tokens is kept by object.
            return response if parent == response.parent else replace(response, parent=parent)

        return ScoredGroup(
            replace(
                group,
                responses=tuple(renumbered(group.responses[n]) for n in numbers),
                sampled_from=tuple(group.sampled_from[n] for n in numbers),
                updated_on=tuple(group.updated_on[n] for n in numbers),
                view_weights=tuple(group.view_weight(n) for n in numbers),
                untrained=tuple(group.untrained[n] for n in numbers) if group.untrained else (),
            ),
            tuple(self.grades[n] for n in numbers),
            {need: values_NT[list(numbers)] for need, values_NT in self.statistics.items()},
        )

    @property
    def rewards(self) -> tuple[float, ...]:
        """The N rewards."""
        return tuple(grade.reward for grade in self.grades)

    def without(self, drops: Drops) -> ScoredGroup:
        """Return the group without what is dropped, which its group has as ``dropped``; nothing may be left."""
        if not drops:
            return self
        kept = self.keep([n for n in range(len(self.grades)) if n not in drops])
        dropped = (*self.group.dropped, *(self.group.responses[n] for n in sorted(drops)))
        return replace(kept, group=replace(kept.group, dropped=dropped))

    def all_dropped(self, reason: str) -> Drops:
        """Return the drops of the whole group."""
        return dict.fromkeys(range(len(self.grades)), reason)


Drops: TypeAlias = Mapping[int, str]
"""The responses of a scored group that are not trained on, by number, and in a word why: ``{3: "too-long"}``."""


@dataclass(frozen=True, eq=False, slots=True)
class TrainGroup:
    """A scored group with its advantages, ready for the update.

    Attributes:
        scored: The group and its grades.
        advantages: One per response; where each token has its own, their mean.
        token_advantages: float32 ``[T]`` per response, one advantage per token; None where a response's tokens share
            the response's.
        old_logp: float32 ``[T]`` per response: the old policy's log-probabilities under the update view when the
            response was first trained on; None where that is now, and the old policy is the one before this step.

    Example:
        Of rewards ``(1.0, 0.1, 0.1, 0.1)`` the ``group-relative`` advantages are ``(1.5, -0.5, -0.5, -0.5)``, but
        for the 1e-4 that is added to the standard deviation of .45.
    """

    scored: ScoredGroup
    advantages: tuple[float, ...]
    token_advantages: tuple[Tensor, ...] | None = None
    old_logp: tuple[Tensor, ...] | None = None

    @property
    def group(self) -> Group:
        """The underlying group."""
        return self.scored.group

    def at_tokens(self, n: int) -> Tensor:
        """Return the advantage at each token of response ``n``, float32 ``[T]``."""
        if self.token_advantages is not None:
            return self.token_advantages[n]
        response = self.group.responses[n]
        return response.behaviour_logp_T.float().new_full((len(response),), self.advantages[n])

    def keep(self, numbers: Sequence[int]) -> TrainGroup:
        """Return the group with only these responses; see ``ScoredGroup.keep``."""

        def kept(values: tuple[Tensor, ...] | None) -> tuple[Tensor, ...] | None:
            return None if values is None else tuple(values[n] for n in numbers)

        return TrainGroup(
            self.scored.keep(numbers),
            tuple(self.advantages[n] for n in numbers),
            kept(self.token_advantages),
            kept(self.old_logp),
        )
