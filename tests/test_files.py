"""Names of files from any text, whole files, and checksums."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from saei.errors import CheckpointError
from saei.runtime.checksums import CHECKSUMS, verify_checksums, write_checksums
from saei.runtime.files import json_lines, replacing, slug, write_whole

HOSTILE = (
    "\N{GRINNING FACE}" * 70, "a\0b", "a\nb", "../../etc/passwd", "/absolute", "", ".", "..", "NUL", "con.png",
    "x" * 5000, "A", "ä", "\ud800", "tail.", " space ", "-rf", "\u202egnp.exe", "a:b", "a\\b", "%2e%2e",
)  # fmt: skip


@pytest.mark.parametrize("text", ["bars-eval-12", "0", "step_3.5", "a-b.c"])
def test_a_safe_text_is_its_own_name(text: str) -> None:
    assert slug(text) == text


def test_any_text_becomes_a_name(tmp_path: Path) -> None:
    names = [slug(text) for text in HOSTILE]
    assert len({name.lower() for name in names}) == len(HOSTILE)
    for name in names:
        file = tmp_path / f"{name}.png"
        file.touch()
        assert file.parent == tmp_path
        assert len(name) <= 64
        assert not name.startswith((".", "-"))
    assert len(list(tmp_path.iterdir())) == len(HOSTILE)
    assert slug("Geo: 12/3").startswith("Geo-12-3-")  # readable
    # A text that is the name of another is not taken for it.
    assert slug(slug("a/b")) != slug("a/b")


def test_different_texts_have_different_names() -> None:
    rng = random.Random(0)
    signs = "aAb.-_ /\\0:\0\n\u00e4\ud800\u202e\U0001f600"
    texts = {"".join(rng.choices(signs, k=rng.randrange(30))) for _ in range(20_000)}
    names = [slug(text, 24) for text in texts]
    assert len({name.lower() for name in names}) == len(texts)
    for name in names:
        assert 0 < len(name.encode()) <= 24
        assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", name)


def test_a_file_is_whole_or_the_old_one(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    write_whole(file, "old")

    def write_half() -> None:
        with replacing(file) as temporary:
            temporary.write_text("ne")
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        write_half()
    assert file.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_broken_lines_stand_alone() -> None:
    content = b'{"step": 1}\n{"step": 2, "tr\n\xff\xfe\n[1]\n' + b"[" * 9000 + b'\n\n{"step": 3}\n{"ste'
    assert [value for _, value in json_lines(content)] == [{"step": 1}, None, None, None, None, {"step": 3}, None]


def test_every_flipped_bit_is_found(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    files = [tmp_path / "weights.bin", tmp_path / "sub" / "state.pt"]
    rng = random.Random(0)
    for file in files:
        file.write_bytes(rng.randbytes(5000))
    write_checksums(tmp_path)
    verify_checksums(tmp_path)
    (tmp_path / "README.md").write_text("A further file is no damage.")
    verify_checksums(tmp_path)
    for file in files:
        whole = file.read_bytes()
        for _ in range(100):
            bit = rng.randrange(8 * len(whole))
            damaged = bytearray(whole)
            damaged[bit // 8] ^= 1 << bit % 8
            file.write_bytes(damaged)
            with pytest.raises(CheckpointError, match=rf"{file.name} differs"):
                verify_checksums(tmp_path)
        file.write_bytes(whole)
    files[1].unlink()
    with pytest.raises(CheckpointError, match=r"sub/state\.pt differs"):
        verify_checksums(tmp_path)
    (tmp_path / CHECKSUMS).write_text("[")
    with pytest.raises(CheckpointError, match="those that were written"):
        verify_checksums(tmp_path)
    (tmp_path / CHECKSUMS).unlink()
    verify_checksums(tmp_path)
