"""Tiny policies of every family, and the table of what the library makes of them.

A tiny policy has random weights, some ten thousand parameters, and the real processor of its family.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from tokenizers import AddedToken
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedTokenizerFast
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING
from transformers.utils import is_torchvision_available

from saei.builtin.vocabulary import END, PAD, build_tokenizer
from saei.config.sections import SamplingConfig
from saei.data.templates import ThinkBoxed
from saei.diagnostics.examination import TOKENS, Examination, examine
from saei.diagnostics.zoo import FAMILIES, Family
from saei.policy import Policy
from saei.policy.load.processors import compose
from saei.policy.load.untrained import SPREAD, scatter
from saei.policy.load.weights import Parts

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% for part in message.content %}{% if part.type == 'image' %}PLACEHOLDER{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

HEADINGS = ["family", "pixel inputs of one picture", "canvas", "its way", "gradient off by", "shared prefix", "off by"]


def tiny_parts(family: Family, seed: int = 0, spread: float = SPREAD) -> Parts:
    """Return the parts of a tiny policy of a family.

    Its words are those of the built-in model, its special tokens the family's own.

    Args:
        family: The family.
        seed: Seed of the weights.
        spread: Their standard deviation times the root of their inputs.
    """
    tokenizer = _tokenizer(family)
    config = AutoConfig.for_model(**family.config(tokenizer.convert_tokens_to_ids))
    backend = "torchvision" if is_torchvision_available() else "pil"
    image_processor = IMAGE_PROCESSOR_MAPPING[type(config)][backend](**family.image_processor)
    processor = compose(config, tokenizer, image_processor, settings=family.processor)
    config.text_config.vocab_size = len(tokenizer)  # some processors add tokens
    for name in ("bos", "eos", "pad"):
        setattr(config.text_config, f"{name}_token_id", getattr(tokenizer, f"{name}_token_id"))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForImageTextToText.from_config(config).eval()
        scatter(model, spread)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    return Parts(model, tokenizer, image_processor, tokenizer.chat_template, processor=processor)


def examine_families() -> Iterator[tuple[str, Examination | None]]:
    """Examine a tiny policy of each family; None where its processor needs a package that is missing."""
    for name, family in FAMILIES.items():
        if family.missing:
            yield name, None
        else:
            policy = Policy(tiny_parts(family), ThinkBoxed(), sampling=SamplingConfig(max_new_tokens=TOKENS))
            yield name, examine(policy)


def family_row(name: str, examination: Examination | None) -> list[str]:
    """Return the cells of a family's row."""
    return [
        name,
        *([f"needs {', '.join(FAMILIES[name].missing)}", *[""] * 5] if examination is None else examination.cells),
    ]


def family_table() -> str:
    """Return the table of families in Markdown."""
    rows = [
        HEADINGS,
        ["---"] * len(HEADINGS),
        *(family_row(name, examination) for name, examination in examine_families()),
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows).replace("| --- ", "|---").replace("--- |", "---|")


def _tokenizer(family: Family) -> PreTrainedTokenizerFast:
    backend = build_tokenizer().backend_tokenizer
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in family.tokens.values()])
    named = dict(family.tokens)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        bos_token=named.pop("bos_token", None),
        eos_token=END,
        unk_token="<unk>",
        extra_special_tokens=named,
        chat_template=TEMPLATE.replace("PLACEHOLDER", family.placeholder),
        clean_up_tokenization_spaces=False,
    )
