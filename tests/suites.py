"""Where the outside suites are: cases that none of us wrote, and that are never copied in here."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

SUITES = Path(
    os.environ.get("P2PSTREAM_OUTSIDE_SUITES", Path(__file__).parents[2] / "shared" / "suites")
)


def needs(name: str) -> pytest.MarkDecorator:
    """Skips a test where the folder or file `name` is not there."""
    path = SUITES / name
    return pytest.mark.skipif(not path.exists(), reason=f"no {path} (P2PSTREAM_OUTSIDE_SUITES)")


def naughty_strings() -> list[str]:
    """The big list of naughty strings; none where it is not there."""
    path = SUITES / "blns" / "blns.json"
    strings: list[str] = json.loads(path.read_text()) if path.exists() else []
    return strings
