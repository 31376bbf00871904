"""What the terminal shows of words that strangers chose (C-08)."""

from __future__ import annotations

import io
import json
import os
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table

from p2pstream.cli import broadcasting, seeding, watching
from p2pstream.cli.common import Talk
from p2pstream.core import Note
from p2pstream.stream.epoch import clean_title

SUITES = Path(
    os.environ.get("P2PSTREAM_OUTSIDE_SUITES", Path(__file__).parents[3] / "shared" / "suites")
)
NAUGHTY = [
    "[/]",
    "[/x]",
    "[bold]x",
    "[link=http://x]y[/link]",
    "[",
    "\\",
    "[[",
    "x[/]\\",
    "[red",
    "",
]


def shown(table: Table) -> str:
    out = Console(file=io.StringIO(), force_terminal=True, width=400, color_system=None)
    out.print(table)
    return str(out.file.getvalue())  # type: ignore[attr-defined]


def state(title: str) -> dict[str, Any]:
    """As much of a node's state as the pictures need."""
    totals = dict.fromkeys(
        ("uploaded", "from_peers", "from_seeds", "from_origin", "pieces_verified",
         "pieces_refused", "bytes_in", "bytes_out"), 0,
    )  # fmt: skip
    stream = {"title": title, "id": "0" * 64}
    return {
        "stream": stream, "totals": totals, "partners": [], "state": "playing", "detail": "[/]",
        "copies": 0.0, "rendition": None, "address": "ID@192.0.2.1:7441", "links": 0, "records": 0,
        "playout": {"lag_s": None, "buffer_s": 0.0, "stalls": 0},
        "streams": [{"stream": stream, "totals": totals, "partners": []}],
    }  # fmt: skip


def check(title: str) -> None:
    for command in (broadcasting, seeding, watching):
        text = shown(command.table(state(title)))
        assert title.strip() in text, command
        assert "\x1b" not in text


@pytest.mark.parametrize("title", NAUGHTY)
def test_c08_a_title_cannot_speak_to_the_terminal(title: str) -> None:
    """Above all it cannot end the node: a stray closing tag is an error of rich's."""
    check(title)


def test_c08_no_naughty_string_is_more_than_text() -> None:
    suite = SUITES / "blns" / "blns.json"
    if not suite.exists():
        pytest.skip(f"no naughty strings in {SUITES} (P2PSTREAM_OUTSIDE_SUITES)")
    commands = cycle((broadcasting, seeding, watching))  # They escape titles in one way.
    for text, command in zip(json.loads(suite.read_text()), commands, strict=False):
        title = clean_title(text)
        assert clean_title(title) == title
        assert "\x1b" not in shown(command.table(state(title)))


def test_c08_a_note_cannot_speak_to_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    talk = Talk(as_json=False)
    for text in NAUGHTY:
        talk.note(Note("failed", {"why": text}))
    assert "why=[/x]" in capsys.readouterr().err
