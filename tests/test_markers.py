"""``<image>`` in a question stands where its picture does, for every family's chat template."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from saei.config.sections import SamplingConfig
from saei.data.dataset import Dataset
from saei.data.markers import place_images
from saei.data.presets.mathvision import MathVision
from saei.data.templates import Plain, ThinkAnswer, ThinkBoxed, ThinkBoxedSystem
from saei.diagnostics.tiny import tiny_parts
from saei.diagnostics.zoo import FAMILIES
from saei.errors import DataError
from saei.policy import Policy
from saei.types import Example

SIZES = ((48, 64), (64, 48), (80, 32))
"""Height and width: three pictures that can be told apart by their shape."""

IN_ORDER = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% for part in message.content %}{% if part.type == 'image' %}PICTURE{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
IMAGES_FIRST = (
    "{% for message in messages %}{{ message['role'].upper() + ': ' }}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'image') %}{{ 'PICTURE\n' }}{% endfor %}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}{{ part['text'] + ' ' }}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
"""As LLaVA's checkpoints have it."""

TRIMMED = IN_ORDER.replace("part.text", "part.text | trim")
IMAGES_LAST = (
    "{% for message in messages %}"
    "{% for part in message.content if part.type == 'text' %}{{ part.text }}{% endfor %}"
    "{% for part in message.content if part.type == 'image' %}PICTURE{% endfor %}{% endfor %}"
)


def picture(number: int) -> Image.Image:
    values = np.random.default_rng(number).integers(64, 192, (*SIZES[number], 3), dtype=np.uint8)
    return Image.fromarray(values)


@pytest.mark.parametrize(
    ("question", "count", "text", "order"),
    [
        ("Is <image> darker than <image>?", 2, "Is <image> darker than <image>?", [0, 1]),
        ("<image>\nWhich one?", 1, "Which one?", [0]),
        ("<image><image> Which one?", 2, "Which one?", [0, 1]),
        ("<image>Is it like <image>?", 2, "Is it like <image>?", [0, 1]),
        ("Is it like <image>?", 3, "Is it like <image>?", [0, 1, 2]),
        ("Is <image2> like <image1>?", 2, "Is <image> like <image>?", [1, 0]),
        ("<image 2> or <image 1>?", 2, "or <image>?", [1, 0]),
        ("Is <image2> like <image>?", 2, "Is <image> like <image>?", [1, 0]),
        ("Is it like <image1>?", 3, "Is it like <image>?", [1, 2, 0]),
        ("Which?\n(A) <image>\n(B) <image>", 3, "Which?\n(A) <image>\n(B) <image>", [0, 1, 2]),
        ("No picture", 0, "No picture", []),
    ],
)
def test_markers_and_pictures_find_each_other(question: str, count: int, text: str, order: list[int]) -> None:
    assert place_images(question, range(count), where="") == (text, order)


@pytest.mark.parametrize(
    ("question", "count"),
    [("<image>?", 0), ("<image> or <image>?", 1), ("<image2>?", 1), ("<image1> or <image1>?", 2), ("<image0>?", 1)],
)
def test_a_marker_without_a_picture_is_refused(question: str, count: int) -> None:
    with pytest.raises(
        DataError, match=rf"Row 7 of x has . markers? and {count} images?; '<image\d?>' is left without"
    ):
        place_images(question, range(count), where="row 7 of x")
    with pytest.raises(DataError, match=r"has an image of its own"):
        ThinkBoxed().messages(Example("e", "<image> or <image>?", "a", (picture(0),)))


def test_a_row_has_its_pictures_in_the_order_of_the_prompt(tmp_path: Path) -> None:
    for number in range(3):
        picture(number).save(tmp_path / f"{number}.png")
    files = [f"{number}.png" for number in range(3)]
    rows = [
        {"images": files, "question": "Is <image3> like\n(A) <image1> or\n(B) <image2>?", "answer": "A"},
        {"images": files, "question": "Is <image> like the others?", "answer": "A"},
        {"images": files[:1], "question": "Is <image> like <image>?", "answer": "A"},
        {"images": files[:1], "question": "<image>", "answer": "A"},
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = Dataset(Dataset.Config(path=str(tmp_path), splits={"train": "train"}))
    example = data.example(0)
    assert example.question == "Is <image> like\n(A) <image> or\n(B) <image>?"
    assert [image.size[::-1] for image in example.images] == [SIZES[2], SIZES[0], SIZES[1]]
    assert [image.size[::-1] for image in data.example(1).images] == list(SIZES)
    with pytest.raises(DataError, match=r"Row 2 of .* has 2 markers and 1 images; '<image>' is left without"):
        data.example(2)
    with pytest.raises(DataError, match="'question' is empty in row 3"):
        data.example(3)


def test_options_of_a_known_data_set_show_their_picture() -> None:
    row = {"question": "Which?\n<image1>", "options": ["<image2>", "none"], "level": 1, "subject": "s", "answer": "A"}
    rows = row | {"id": "1", "image": picture(0), "decoded_image": None}
    item = MathVision().parse_row(rows, None, "row 0")  # type: ignore[arg-type]
    assert item.question == "Which?\n<image>\n(A) \n(B) none"  # of two markers one has a picture, and both are asked


@pytest.mark.parametrize("template", [Plain, ThinkBoxed, ThinkAnswer, ThinkBoxedSystem])
def test_templates_put_pictures_where_their_markers_are(template: Any) -> None:
    example = Example("e", "Is <image> like <image>?", "a", tuple(map(picture, range(3))))
    turn = template().messages(example)[-1]
    assert [part.get("text", "")[:6] for part in turn["content"]] == [
        "",
        "Is ",
        "",
        " like ",
        "",
        "?" + turn["content"][-1]["text"][1:6],
    ]
    assert [part["type"] for part in turn["content"]] == ["image", "text", "image", "text", "image", "text"]


def prompt(policy: Policy, chat_template: str, question: str, count: int, placeholder: str) -> str:
    """Return what the processor is asked, pictures written as ``PICTURE``."""
    policy = Policy(policy.parts, Plain(), sampling=policy.sampling)
    policy._prompts._template = chat_template.replace("PICTURE", placeholder)
    example = Example("e", question, "a", tuple(map(picture, range(count))))
    view = policy.view(example)
    assert len(view.canvases) == count
    text = policy._prompts.text(policy.template.messages(example))
    return text.replace(placeholder, "PICTURE")


@pytest.fixture(scope="module", params=list(FAMILIES))
def family(request: pytest.FixtureRequest) -> tuple[Policy, str]:
    if missing := FAMILIES[request.param].missing:
        pytest.skip(f"its processor needs {', '.join(missing)}")
    family = FAMILIES[request.param]
    return Policy(tiny_parts(family), Plain(), sampling=SamplingConfig(max_new_tokens=4)), family.placeholder


QUESTION = "Is it red <image> or blue <image>?"


@pytest.mark.parametrize(
    ("chat_template", "right"),
    [
        (IN_ORDER, "PICTUREIs it red PICTURE or blue PICTURE?"),
        (IMAGES_FIRST, "PICTURE\nIs it red PICTURE or blue PICTURE? "),
        (TRIMMED, "PICTUREIs it redPICTUREor bluePICTURE?"),
    ],
    ids=["in order", "images first", "trimmed"],
)
def test_every_family_sees_pictures_where_they_stand(
    family: tuple[Policy, str], chat_template: str, right: str
) -> None:
    policy, placeholder = family
    assert right in prompt(policy, chat_template, QUESTION, 3, placeholder)


def test_a_template_with_a_place_of_its_own_costs_the_rows_with_markers(family: tuple[Policy, str]) -> None:
    policy, placeholder = family
    with pytest.raises(DataError, match=r"marker inside of a question.*Move the markers"):
        prompt(policy, IMAGES_LAST, QUESTION, 2, placeholder)
    assert "Is it red?PICTURE" in prompt(policy, IMAGES_LAST, "Is it red?", 1, placeholder)
