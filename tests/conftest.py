"""What all tests share: a browser and other tools, and skips that count.

With P2PSTREAM_REQUIRE=1 (.ci/run sets it) a skip is a failure: what was to be installed was not.
Two kinds of skips may stay: those whose reason starts with "not here:", and those for want of the
outside suites, which are never copied into the project.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

REQUIRED = os.environ.get("P2PSTREAM_REQUIRE", "") not in {"", "0"}


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
def hlsjs() -> Path:
    path = Path(os.environ.get("P2PSTREAM_HLSJS", ""))
    if not path.is_file():
        pytest.skip("P2PSTREAM_HLSJS does not name hls.js/dist/hls.min.js")
    return path


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, Any, Any]:
    return _counted((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, Any, Any]:
    return _counted((yield))


def _counted(report: Any) -> Any:
    if REQUIRED and report.skipped and not hasattr(report, "wasxfail"):
        where = report.longrepr
        reason = where[2] if isinstance(where, tuple) else str(where)
        reason = reason.removeprefix("Skipped: ")
        if not (reason.startswith("not here:") or "P2PSTREAM_OUTSIDE_SUITES" in reason):
            report.outcome = "failed"
            report.longrepr = f"P2PSTREAM_REQUIRE=1 and yet skipped: {reason}"
    return report
