"""Text from outside reaches the terminal readable, and as text alone."""

from __future__ import annotations

import ast
import io
import json
import re
from pathlib import Path

import pytest
from PIL import Image
from rich.table import Table

from commands import Saei
from saei import console
from saei.config.run import validate
from saei.console import say, screen
from saei.engine.display import LiveDisplay, PlainDisplay
from saei.errors import ConfigError, DataError, printable, shown

HOSTILE = "a\x1b]0;title\x07\x1b[31mred\x1b[0m\r\x08 \u202egnp.exe\u202c \u2066x\u2069\x9b31m\x00\u2028b"
SOURCES = Path(console.__file__).parent


def hidden(text: str) -> str:
    """The characters of a text that act on a terminal instead of being shown."""
    return "".join(
        re.findall(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u061c\u2028-\u202e\u2066-\u2069\ud800-\udfff]", text)
    )


def test_what_acts_on_a_terminal_is_spelled() -> None:
    assert printable("\x1b[31m") == "\\u001b[31m"
    assert printable("a\tb\r\nc\nd") == "a    b\nc\nd"
    assert printable("\ud83d \udcff") == "\\ud83d \\udcff"  # as in names of files that are no UTF-8
    assert not hidden(printable(HOSTILE))
    assert printable(HOSTILE).startswith("a\\u001b]0;title\\u0007\\u001b[31mred")


@pytest.mark.parametrize(
    "text", ["Zürich 東京 ☃", "می‌خواهم", "👩‍👩‍👧", "a\u00a0b", "x\n  y", "\\boxed{3}", "[red]", "\U000e0067"]
)
def test_other_text_stays_as_it_is(text: str) -> None:
    assert printable(text) == (text if text != "\U000e0067" else "\\U000e0067")


def test_long_text_is_cut_and_says_so() -> None:
    assert printable("x" * 100, most=40) == "xxxxxxxxxxxxx … (cut, of 100 characters)"
    assert len(printable("\x00" * 10**6, most=1000)) == 1000
    assert printable(printable("\x00" * 999, most=1000), most=1000) == printable("\x00" * 999, most=1000)
    assert shown("a\nb\x1b[0m" + "c" * 100, 20) == "a b\\u001b[0mccccccc…"


def test_an_error_is_readable_whoever_shows_it() -> None:
    error = DataError(f"Rule {HOSTILE}.", reason=f"Reason {HOSTILE}.", remedy=f"Remedy {'y' * 10**5}.")
    for part in (error.rule, error.reason, error.remedy, str(error)):
        assert not hidden(part)
    assert len(str(error)) < 50_000
    again = error.__reduce__()
    assert str(again[0](*again[1])) == str(error)  # type: ignore[operator,index]


def test_keys_and_values_of_a_configuration_are_readable() -> None:
    with pytest.raises(ConfigError) as raised:
        validate({HOSTILE: 1, "seed": HOSTILE, "model": {HOSTILE: {}}, "task": HOSTILE})
    assert not hidden(str(raised.value))


def test_say_and_screen_show_text_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    say(HOSTILE)
    say(HOSTILE, error=True)
    page = io.StringIO()
    own = screen(file=page, width=400, force_terminal=False)
    table = Table("[red]head[/red]", HOSTILE)
    table.add_row("[/] :smile: [link=x]y", HOSTILE)
    own.print(table)
    own.print("[bold]b[/bold]", HOSTILE)
    captured = capsys.readouterr()
    assert not hidden(captured.out + captured.err + page.getvalue())
    for text in ("[red]head[/red]", "[/] :smile: [link=x]y", "[bold]b[/bold]"):
        assert text in page.getvalue()


def test_displays_show_notes_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    for display in (PlainDisplay(), LiveDisplay()):
        display.note(f"[red]x[/] [/] {HOSTILE}")
    said = capsys.readouterr().err
    assert said.count("[red]x[/] [/]") == 2
    assert not hidden(said)


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """Rows whose every text is hostile, and whose pictures are there or not."""
    folder = tmp_path / "alb\x1b[31mum"
    folder.mkdir()
    Image.new("RGB", (64, 64), "red").save(folder / "a\x1b[2J.png")
    hostile = HOSTILE.replace("\0", "")  # a row with NUL is left out
    rows = [
        {
            "image": "a\x1b[2J.png" if n % 4 else f"gone {hostile}.png",
            "question": f"How many {hostile}?",
            "answer": "red\x1b\u202e cat" if n % 3 else "",
            "key": f"{n}{hostile}",
            f"meta {hostile}": f"[red]{hostile}",
        }
        for n in range(12)
    ]
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


COLUMNS = ("--set", "task.columns.id=key")


@pytest.mark.parametrize(
    "arguments", [("data", "preview", "--rows", "2"), ("data", "check", "--list"), ("data", "preview", "--json")]
)
def test_hostile_data_is_shown_as_text(
    saei: Saei, album: Path, arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from saei.intake import scan as scan_module

    monkeypatch.setattr(scan_module, "CACHE", tmp_path / "cache")
    code, printed, said = saei(*arguments, "--data", album, *COLUMNS, "--set", "task.held_out=0.25")
    assert code == (2 if "check" in arguments else 0), said  # of the few held-out rows none has a picture
    assert not hidden(printed), repr(printed)
    assert not hidden(said), repr(said)
    assert "gnp.exe" in printed


def test_hostile_paths_and_names_in_errors(saei: Saei, tmp_path: Path) -> None:
    for arguments in (
        ("eval", "--model", f"{tmp_path}/\x1b[31m"),
        ("train", "--data", f"{tmp_path}/\x1b[31m\u202e"),
        ("train", "--set", "att\x1b[31mack=1"),
        ("eval", "--compare", f"{tmp_path}/\x1b[31m", "b"),
        ("show", "\x1b[31m"),
    ):
        code, printed, said = saei(*arguments)
        assert code == 2
        assert not hidden(printed + said)
        assert "\\u001b[31m" in said


PRINTS = {"console.py", "engine/display.py", "runtime/progress.py"}
"""Files that print by themselves: the place itself, a stream of its own, and fixed words."""


def test_nothing_prints_past_the_one_place() -> None:
    """JSON is ASCII; everything else that is printed goes through ``say`` or ``screen``."""
    for file in sorted(SOURCES.rglob("*.py")):
        if file.relative_to(SOURCES).as_posix() in PRINTS:
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
                assert ast.unparse(node).startswith("print(json.dumps("), f"{file}: {ast.unparse(node)}"
            if isinstance(node, ast.ImportFrom) and node.module == "rich.console":
                assert {name.name for name in node.names} <= {"Group"} or "TYPE_CHECKING" in file.read_text(), file
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Console":
                raise AssertionError(f"{file}: {ast.unparse(node)}")


def test_a_table_of_scores_shows_labels_of_the_data_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    from saei.cli.compare import show_contrasts
    from saei.cli.result import show_robust

    show_contrasts("runs/[red]x\x1b[31m", [], {"runs/[/]y": {1: 0.5}, "runs/[red]x\x1b[31m": {1: 0.5}})
    difference = {"mean": 0.0, "low": 0.0, "high": 0.0}
    condition = {"name": "[/]\x1b[31m", "accuracy": 0.5, "difference": difference}
    found = {
        "approximate": False,
        "clean": 0.5,
        "conditions": [condition],
        "attack": "[/]\x1b[31m",
        "agreement": "",
        "notes": ["[/]"],
        "folder": Path("\x1b[31m"),
    }
    show_robust(found)
    printed = capsys.readouterr().out
    assert not hidden(printed)
    assert "[red]x" in printed
    assert printed.count("[/]") >= 3
