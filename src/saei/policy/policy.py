"""The policy: any Hugging Face vision-language model as something that looks, samples and scores.

One class, the interface of the package: most of the file is what its methods promise, and their work is done in the
files beside it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Hashable, Sequence
from copy import copy, deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any, Self
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from saei.config.registry import load
from saei.config.sections import EntropyConfig, ModelConfig, SamplingConfig
from saei.config.strategy import StrategyConfig
from saei.data.base import Template
from saei.errors import DataError, shown
from saei.need import Need
from saei.policy.ask import Pictures, TextScore, ask, score_text
from saei.policy.backbone import find_readout, pixel_dtype
from saei.policy.decoder import Decoder
from saei.policy.embeddings import Embeddings
from saei.policy.load.adapters import SwitchedOff, save_adapter
from saei.policy.load.processors import compose, has_limits, save_processor
from saei.policy.load.weights import Parts, load_parts
from saei.policy.module import Distribution, PolicyModule
from saei.policy.native import Native
from saei.policy.pixels.space import PixelSpace, to_image
from saei.policy.prompts import Prompt, Prompts
from saei.policy.question_place import find_question, question_text, with_question_ids
from saei.policy.sampling import Prefixes, sample
from saei.policy.scoring import Scores, WithRespectTo
from saei.policy.sharing import why_not_shared
from saei.policy.special_tokens import banned_ids, end_ids
from saei.policy.statistics.compute import compute_statistics, look_ahead, score_needs
from saei.policy.statistics.known import Subject, forget_current, forget_old, forget_states
from saei.types import CLEAN, Example, Response, View


class Policy:
    """A vision-language policy.

    Args:
        parts: Model, tokenizer and image processor.
        template: Turns examples into messages.
        sampling: Its temperature defines the policy's distribution.
        entropy: Which distribution entropies are taken of.
        shared_prefix: Compute a view's prompt once for all of its responses, if the model's cache allows it.
        max_pixels: Largest area of a picture after resizing, None for the processor's own.
        min_pixels: Smallest area, likewise.

    Attributes:
        module: What every pass enters through; a run replaces it by ``accelerator.prepare``'s result.
        distribution: The one definition of the policy.
        embeddings: What its tokens' embeddings are like, for attacks on text.
        eos_ids: The ids that end a response.
        pixels: The pixel space of the processor.
        reference: The reference policy of needs; None if there is none.
        known: Statistics of responses that need not be computed again; see ``saei.policy.statistics.known``.
        made_views: For each view the views that view makers made of it, by their configs; each is made once.
        updates: How often the weights have changed.
        decoder: Who draws the responses.
        on_decoded: Called with what an external decoder drew from the policy's own distribution, for each view its
            responses, and with their scores; None to call nothing.
        shared_prefix: Whether a view's prompt is computed once for all of its responses.
        not_shared: Why it is not, else None.
    """

    def __init__(
        self,
        parts: Parts,
        template: Template,
        *,
        sampling: SamplingConfig | None = None,
        entropy: EntropyConfig | None = None,
        shared_prefix: bool = True,
        max_pixels: int | None = None,
        min_pixels: int | None = None,
    ) -> None:
        sampling, entropy = sampling or SamplingConfig(), entropy or EntropyConfig()
        self.parts = parts
        self.template = template
        self._bare = PolicyModule(parts.model, find_readout(parts.model, int(end_ids(parts)[0])))
        self.module: Any = self._bare
        self.tokenizer = parts.tokenizer
        self.processor = parts.processor or compose(
            parts.model.config, parts.tokenizer, parts.image_processor, parts.chat_template
        )
        self._prompts = Prompts(parts.model, self.processor)
        if has_limits(parts.image_processor):  # then it was loaded with these
            min_pixels = max_pixels = None
        dtype = pixel_dtype(parts.model, self._prompts.example)
        self.pixels = PixelSpace(self._prompts.images, max_pixels, dtype, min_pixels)
        self.sampling = sampling
        self.reference: Policy | None = None
        self.updates = 0
        self._old_head: Callable[[Tensor], Tensor] | None = None
        self._old_head_updates = -1
        self.known: WeakKeyDictionary[Response, dict[Hashable, Tensor]] = WeakKeyDictionary()
        self.made_views: WeakKeyDictionary[View, dict[StrategyConfig, View]] = WeakKeyDictionary()
        self.decoder: Decoder = Native()
        self.on_decoded: Callable[[Sequence[Sequence[Response]], Sequence[Scores]], None] | None = None
        self._decoder_is_stale = True  # an external one may hold other weights than those loaded here
        self.eos_ids = end_ids(parts).to(self.device)
        self._banned_V = banned_ids(parts, self.processor, self.eos_ids).to(self.device)
        self.distribution = self.distribution_of(
            sampling, entropy_temperature=None if entropy.temperature == "sampling" else entropy.temperature
        )
        self.embeddings = Embeddings(self)
        self.shared_prefix = shared_prefix
        self.not_shared = why_not_shared(self) if shared_prefix else "model.shared_prefix is false"
        self.shared_prefix = self.not_shared is None
        if shared_prefix and self.not_shared:
            note = f"Prompts are computed anew for each response, the slower way: {self.not_shared}."
            self.parts = replace(parts, notes=(*parts.notes, note))

    @classmethod
    def load(
        cls,
        model: ModelConfig | str,
        template: Template | str = "think-boxed",
        *,
        sampling: SamplingConfig | None = None,
        entropy: EntropyConfig | None = None,
    ) -> Self:
        """Load a policy from a folder or a hub.

        Args:
            model: Its settings; a text is ``model.path`` with all other settings at their defaults.
            template: Turns examples into messages, or the name of one that does.
            sampling: Its temperature defines the policy's distribution.
            entropy: Which distribution entropies are taken of.

        Raises:
            ModelError: If the model or its processors do not load.
            ConfigError: If there is no such template.
        """
        config = ModelConfig(path=model) if isinstance(model, str) else model
        if isinstance(template, str):
            template = load("template", template).Config.model_validate({}).build()
        assert isinstance(template, Template)
        return cls.around(load_parts(config), config, template, sampling=sampling, entropy=entropy)

    @classmethod
    def around(
        cls,
        parts: Parts,
        model: ModelConfig,
        template: Template,
        *,
        sampling: SamplingConfig | None = None,
        entropy: EntropyConfig | None = None,
    ) -> Self:
        """Return the policy of parts that were loaded by this configuration."""
        return cls(
            parts,
            template,
            sampling=sampling,
            entropy=entropy,
            shared_prefix=model.shared_prefix,
            max_pixels=model.max_pixels,
            min_pixels=model.min_pixels,
        )

    @property
    def model(self) -> Any:
        """The underlying Hugging Face model."""
        return self.parts.model

    @property
    def windowed(self) -> bool:
        """Whether some layers attend to a window of columns, in which padding between tokens would take a place."""
        config = self.model.config.get_text_config()
        kinds = getattr(config, "layer_types", None) or ()
        return bool(getattr(config, "sliding_window", None)) or any("sliding" in k or "chunked" in k for k in kinds)

    @property
    def device(self) -> torch.device:
        """The device of the model's weights."""
        device: torch.device = next(self.parts.model.parameters()).device
        return device

    def distribution_of(self, sampling: SamplingConfig, entropy_temperature: float | None = None) -> Distribution:
        """Return the policy at a temperature; greedy decoding reports the log-probabilities of temperature 1.

        Args:
            sampling: Its temperature is used.
            entropy_temperature: Temperature of the entropies, None for the sampling temperature.
        """
        return Distribution(sampling.temperature or 1.0, entropy_temperature, self._banned_V)

    def view(self, example: Example, index: int = 0) -> View:
        """Return the clean view of an example.

        Args:
            example: The example.
            index: The view's place; views of different groups of a step need different ones.

        Raises:
            DataError: If an image cannot be read, the text contains a special token, the processor refuses it, or the
                prompt leaves no room for a response.
            ConfigError: If the prompt template writes a special token.
            ModelError: If the chat template leaves a turn of the prompt template out.
        """
        canvases = self.pixels.canvases(example.images)
        pictures = [to_image(canvas) for canvas in canvases]
        prompt = self._prompts(self.template.messages(example), pictures, example=example)
        ids_P = prompt.ids_P.to(self.device)
        config = self.model.config.get_text_config()
        room = getattr(config, "max_position_embeddings", None)
        if room is not None and len(ids_P) + self.sampling.max_new_tokens > room:
            raise DataError(
                "A prompt and its longest response have to fit the model's context.",
                reason=f"Example '{shown(example.id)}' has {len(ids_P)} prompt tokens, sampling.max_new_tokens is "
                f"{self.sampling.max_new_tokens}, the context {room}.",
                remedy="Lower model.max_pixels or sampling.max_new_tokens, or leave the example out.",
            )
        return View(
            example,
            CLEAN,
            ids_P,
            self._positions(prompt).to(self.device),
            tuple(canvas.to(self.device) for canvas in canvases),
            {name: values.to(self.device) for name, values in prompt.token_inputs.items()},
            index,
            find_question(self._prompts, self.template, example, ids_P),
        )

    def with_question_ids(self, view: View, ids_Q: Tensor) -> View | None:
        """Return the view of a question with other tokens at its places; the view itself where none is another.

        Args:
            view: Its question's place is known.
            ids_Q: int64 ids, one for each of the question's tokens.

        Returns:
            None if no question has these tokens: what is decoded has to be encoded as the same ones, with as many
            image markers and no special token.
        """
        return with_question_ids(self._prompts, self.template, view, ids_Q)

    def question_text(self, view: View, ids_Q: Tensor) -> str | None:
        """Return what other tokens spell in the place of a view's question, None if that is no text there.

        The text need not be encoded as these tokens, which ``with_question_ids`` makes sure of in ten times the time.

        Args:
            view: Its question's place is known.
            ids_Q: int64 ids, one for each of the question's tokens.
        """
        return question_text(self._prompts, view, ids_Q)

    def unexpanded_prompt(self, view: View) -> list[int]:
        """Return a view's prompt with one placeholder per picture, for decoders that expand placeholders themselves."""
        return self._prompts.unexpanded(self.template.messages(view.example))

    def image_tokens(self, view: View) -> int:
        """Return how many tokens of a view's prompt stand for its images."""
        return int((view.prompt_ids_P == self.model.config.image_token_id).sum())

    def never_end(self) -> None:
        """Ban the ends of a response from now on, so that each becomes as long as it may be."""
        self._banned_V[self.eos_ids] = True

    def sample(
        self,
        views: Sequence[View],
        counts: Sequence[int],
        *,
        generators: Sequence[torch.Generator],
        sampling: SamplingConfig | None = None,
        prefixes: Prefixes | None = None,
        temperature: float | None = None,
    ) -> list[list[Response]]:
        """Draw responses: each view's prompt is computed once, and the responses of all views are decoded together.

        Args:
            views: What the policy sees.
            counts: How many responses each view gets.
            generators: For each view the source of all randomness of its responses, on the CPU. What is drawn does not
                depend on the views that it is drawn with; views may share a source, which then serves them in order.
            sampling: How evaluation draws, with entropies before top-p and top-k; None draws from the policy as it
                is trained, with the entropies that its criterion uses.
            prefixes: For each view and each of its responses the tokens that it begins with, None for a response
                without. They count towards the longest response.
            temperature: Another temperature to draw at than the policy's own, for training. Log-probabilities and
                entropies are then those of that distribution, and ``Response.temperature`` says so.

        Raises:
            ConfigError: If a prefix is no response's beginning, or the decoder continues none.
        """
        return sample(
            self, views, counts, generators=generators, sampling=sampling, prefixes=prefixes, temperature=temperature
        )

    def ask(
        self,
        images: Pictures,
        question: str,
        *,
        responses: int = 1,
        temperature: float | None = None,
        max_new_tokens: int | None = None,
        seed: int = 0,
    ) -> list[Response]:
        """Return the policy's responses to a question about pictures.

        Args:
            images: A picture (PIL, bytes or a path), several, or None. ``<image>`` in the question marks the place of
                one that does not stand in front of it.
            question: The question, which the policy's template turns into a prompt.
            responses: How many.
            temperature: None for the policy's own, 0 for greedy decoding.
            max_new_tokens: Longest response, None for the policy's own limit.
            seed: Seed of the draws.

        Raises:
            DataError: If a picture cannot be opened, or the prompt does not fit the model.
        """
        return ask(
            self,
            images,
            question,
            responses=responses,
            temperature=temperature,
            max_new_tokens=max_new_tokens,
            seed=seed,
        )

    def score_text(self, images: Pictures, question: str, text: str, *, end: bool = True) -> TextScore:
        r"""Return how likely a text is as the response to a question about pictures, token by token.

        The distribution is the policy's own: its temperature counts, and special tokens have no probability.

        Args:
            images: As in ``ask``.
            question: As in ``ask``.
            text: The response, such as ``"<think>so it is 8</think> \boxed{8}"``.
            end: Whether the response ends with the text; then the end-of-sequence token is scored, too.

        Raises:
            DataError: If a picture cannot be opened, or the text has a special token or no token.
        """
        return score_text(self, images, question, text, end=end)

    def score(
        self,
        views: Sequence[View],
        responses: Sequence[Sequence[Response]],
        *,
        wrt: WithRespectTo = None,
        with_entropy: bool = True,
        selected: Sequence[Tensor] | None = None,
        needs: Collection[Need] = (),
        clean: Sequence[View] | None = None,
        at_clean: bool = False,
    ) -> list[Scores]:
        """Score responses under views; each view's prompt is computed once for all of them.

        Args:
            views: What the policy sees; a view may be given twice.
            responses: For each view its responses; all of them may be empty for a view.
            wrt: What scores may be differentiated by: ``"parameters"``, or a point in place of what the views show,
                its blocks by the name of their surface and in the order of the views, such as
                ``{"pixels": canvases}``. None for nothing.
            with_entropy: Whether entropies are wanted: those of the criterion, or by the parameters those of the
                policy as it samples.
            selected: For each view ``[N, T]`` bool, the tokens to score; the others cost no head. None for all.
            needs: Further statistics, for ``Scores.statistics``; those with gradient are computed in the same pass.
            clean: The clean view of each view's group, for needs that name it; None if the views are clean.
            at_clean: Whether what is scored is what the clean views show, and their hidden states are to be kept: a
                divergence from them is asked for next, and then costs no pass of theirs.

        Raises:
            ConfigError: If a view has no such surface.
        """
        subject = Subject(self, views, responses, clean, update=wrt == "parameters")
        return score_needs(needs, subject, wrt=wrt, with_entropy=with_entropy, selected=selected, at_clean=at_clean)

    def statistics(
        self,
        needs: Collection[Need],
        views: Sequence[View],
        responses: Sequence[Sequence[Response]],
        *,
        clean: Sequence[View] | None = None,
        drawn: bool = False,
        update: bool = False,
    ) -> list[dict[Need, Tensor]]:
        """Return statistics of responses without gradient: for each view ``[N, T]`` by need.

        Each statistic is computed once for a response, until the weights change.

        Args:
            needs: The statistics.
            views: The responses' own views.
            responses: For each view its responses.
            clean: The clean view of each view's group, for needs that name it; None if the views are clean.
            drawn: Whether the responses were drawn under these views by the current weights; then the values of the
                sampling pass are used.
            update: Whether entropies are those that the update trains, not those of the criterion.

        Raises:
            TrainingError: If the weights have changed, and ``look_ahead`` did not compute values of the old policy.
        """
        return compute_statistics(needs, Subject(self, views, responses, clean, drawn, update))

    def look_ahead(
        self,
        needs: Collection[Need],
        views: Sequence[View],
        responses: Sequence[Sequence[Response]],
        *,
        clean: Sequence[View] | None = None,
    ) -> None:
        """Compute before an update what the needs ask of the old policy, so that it is known during the update.

        Args:
            needs: The needs of the update.
            views: The views that the responses are trained under.
            responses: For each view its responses.
            clean: The clean view of each view's group, for needs that name it.
        """
        look_ahead(needs, Subject(self, views, responses, clean, update=True))

    def weights_changed(self) -> None:
        """Forget what belongs to earlier weights, and have the decoder do so; to be called after each update."""
        self._decoder_is_stale = True
        self.updates += 1
        forget_current(self.known)

    def forget_states(self) -> None:
        """Forget the hidden states that divergences were taken from; to be called when they are no longer needed."""
        forget_states(self.known)

    def forget_old(self) -> None:
        """Forget the old policy, its head among it; to be called when an update is over."""
        self._old_head, self._old_head_updates = None, -1
        forget_old(self.known)

    def sync_decoder(self) -> None:
        """Tell the decoder that the weights changed, if they did since it last drew."""
        if self._decoder_is_stale:
            self.decoder.sync(self)
            self._decoder_is_stale = False

    @property
    def head(self) -> Callable[[Tensor], Tensor]:
        """From hidden states to logits, as this policy's passes go."""
        head = self._bare.head()
        return self.module.around(head) if isinstance(self.module, SwitchedOff) else head

    def keep_head(self) -> None:
        """Keep the head as it is, for hidden states of now that are looked at after an update."""
        if self._old_head_updates != self.updates:
            layer: Any = self._bare.model.get_output_embeddings()
            trained = any(parameter.requires_grad for parameter in layer.parameters())
            self._old_head = self._bare.head(deepcopy(layer).requires_grad_(False)) if trained else self.head
            self._old_head_updates = self.updates

    @property
    def old_head(self) -> Callable[[Tensor], Tensor]:
        """The head that was kept last."""
        assert self._old_head is not None, "no head was kept"
        return self._old_head

    def with_module(self, module: Any) -> Policy:
        """Return the policy with its passes entering through another module; nothing is known of its responses."""
        other = copy(self)
        other.module = module
        other.reference, other.known, other.made_views = None, WeakKeyDictionary(), WeakKeyDictionary()
        return other

    def without_adapter(self) -> Policy:
        """Return the policy with its adapters switched off: LoRA's reference, in the memory of the same weights."""
        assert self.parts.adapter is not None
        return self.with_module(SwitchedOff(self.parts.adapter, self.module))

    def save(self, folder: Path) -> None:
        """Write model and processor as one folder that the Auto classes of transformers load.

        Under LoRA the adapter takes the model's place, as peft writes it.
        """
        if self.parts.adapter is None:
            self.model.save_pretrained(folder)
        else:
            save_adapter(self.parts.adapter, folder)
        save_processor(self.processor, folder)

    def _positions(self, prompt: Prompt) -> Tensor:
        """Return the prompt's rotary positions ``[K, P]``: the model's own where it computes some, else 0 to P - 1."""
        rope_index = getattr(self.model.base_model, "get_rope_index", None)
        if rope_index is None:
            return torch.arange(len(prompt.ids_P))[None]
        token_inputs = {name: values[None, :-1] for name, values in prompt.token_inputs.items()}
        inputs = {"input_ids": prompt.ids_P[None], **token_inputs, **prompt.images}
        takes = inspect.signature(rope_index).parameters
        positions_KBP, _ = rope_index(
            **{name: value.to(self.device) for name, value in inputs.items() if name in takes}
        )
        return torch.as_tensor(positions_KBP[:, 0])
