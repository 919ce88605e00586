"""The built-in models' tokenizer: a word is a token, and anything else is spelled in bytes."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
VISION_START, VISION_END = "<|vision_start|>", "<|vision_end|>"
IMAGE, VIDEO = "<|image_pad|>", "<|video_pad|>"
SPECIAL = (PAD, START, END, VISION_START, VISION_END, IMAGE, VIDEO)

KNOWN = """
user assistant Think think inside then answer Answer in the The a an
What Which How Is Are Where what which how is are where or and of many there high higher highest tall
large larger largest small smaller smallest bar bars chart digit digits image picture shape shapes
red green blue yellow left right top bottom middle first second between
circle square triangle above below yes no not
I let me so see read look at glance it looks like guess maybe about step by
plus minus times sum difference more less than same equal
"""
WORDS = KNOWN.split()
"""Known with and without a space before them."""

SIGNS = ("+", "-", "*", ">", "<", "=", ",", ".", ":", "?", "\\boxed{", "}", "<think>", "</think>", "\n")
LARGEST_NUMBER = 99

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}"
    "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

# One piece per word, number, sign or tag, each with the space before it.
_PIECES = r" ?\\boxed\{| ?</?think>| ?[A-Za-z]+| ?[0-9]+|\n| ?[^\sA-Za-z0-9]|\s"


def build_tokenizer(words: Sequence[str] = ()) -> PreTrainedTokenizerFast:
    """Return the tokenizer: text to ids and back is exact for every text, known words are one token each.

    Args:
        words: Known besides ``WORDS``, to one recipe alone: further ones there would change the ids of all others.
    """
    plain = [*WORDS, *words, *(str(number) for number in range(LARGEST_NUMBER + 1)), *SIGNS]
    pieces = list(dict.fromkeys([*plain, *(f" {piece}" for piece in plain if piece != "\n"), " "]))
    spelled = [f"<0x{byte:02X}>" for byte in range(256)]
    vocabulary = [("<unk>", -30.0), *((piece, -1.0) for piece in pieces), *((byte, -20.0) for byte in spelled)]
    model = models.Unigram(vocabulary, unk_id=0, byte_fallback=True)
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(_PIECES), "isolated")
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        unk_token="<unk>",
        extra_special_tokens={
            "image_token": IMAGE,
            "video_token": VIDEO,
            "vision_bos_token": VISION_START,
            "vision_eos_token": VISION_END,
            "turn_token": START,
        },
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )
