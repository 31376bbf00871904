"""What the tests of the whole program share: footage and stages."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.stage import Stage, footage, stage


@pytest.fixture(scope="session")
def film(tool: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Real footage by name; `short-gop.mp4` is world.mp4 with a key frame each second."""
    folder = tmp_path_factory.mktemp("films")

    def find(name: str) -> Path:
        source = "world.mp4" if name == "short-gop.mp4" else name
        found = footage(source)
        if found is None:
            pytest.skip(f"P2PSTREAM_FOOTAGE names no folder with {source} in it")
        if name == source:
            return found
        short = folder / name
        if not short.exists():
            subprocess.run(
                [
                    tool("ffmpeg"), "-v", "error", "-i", str(found), "-t", "15", "-c:v", "libx264",
                    "-preset", "superfast", "-g", "30", "-bf", "2", "-c:a", "copy", str(short),
                ],
                check=True, timeout=60,
            )  # fmt: skip
        return short

    return find


@pytest.fixture
def empty_stage() -> Iterator[Stage]:
    with stage() as made:
        yield made


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where screenshots go."""
    return tmp_path_factory.mktemp("screenshots")
