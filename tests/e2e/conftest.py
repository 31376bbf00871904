"""What the tests of the whole program share: a browser, footage, tools, stages."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.stage import Stage, footage, stage

CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-background-timer-throttling",
    "--disable-renderer-backgrounding",
]


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if not path:
        pytest.skip("no chromium in PATH")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as tools:
        started = tools.chromium.launch(executable_path=path, args=CHROMIUM_FLAGS)
        yield started
        started.close()


@pytest.fixture(scope="session")
def tool() -> Callable[[str], str]:
    """The path of a program that may not be installed."""

    def find(name: str) -> str:
        path = shutil.which(name)
        if not path:
            pytest.skip(f"{name} is not installed")
        return path

    return find


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


@pytest.fixture(scope="session")
def hlsjs() -> Path:
    path = Path(os.environ.get("P2PSTREAM_HLSJS", ""))
    if not path.is_file():
        pytest.skip("P2PSTREAM_HLSJS does not name hls.js/dist/hls.min.js")
    return path


@pytest.fixture
def empty_stage() -> Iterator[Stage]:
    with stage() as made:
        yield made


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where screenshots go."""
    return tmp_path_factory.mktemp("screenshots")
