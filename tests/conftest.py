"""What all tests share: looking for tools, and skips that count.

With P2PSTREAM_REQUIRE=1 (.ci/run sets it) a skip is a failure: what was to be installed was not.
Two kinds of skips may stay: those whose reason starts with "not here:", and those for want of the
outside suites, which are never copied into the project.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Generator
from typing import Any

import pytest

REQUIRED = os.environ.get("P2PSTREAM_REQUIRE", "") not in {"", "0"}


@pytest.fixture(scope="session")
def need() -> Callable[[str], str]:
    """The path of a program; skips the test where it is not installed."""

    def find(program: str) -> str:
        path = shutil.which(program)
        if path is None:
            pytest.skip(f"{program} is not installed")
        return path

    return find


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
