"""`p2pstream demo`: the figures of a mesh of eight on this machine."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.e2e.stage import Stage, alive, now, seconds, wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

VIEWERS = 8
DURATION_S = seconds("DEMO", 5)
LOOK_S = 0.5  # Looking costs as much as a viewer, and each process lives for seconds.
# The issue's, for 40 s. In a short run the time in which few are there weighs more: the first ones
# have nobody but the broadcaster.
OFFLOAD_MIN = 0.60 if DURATION_S >= 20 else 0.40
KEYS = {
    "viewers", "viewers_playing", "startup_s_p50", "startup_s_p95", "lag_s_p50", "lag_s_p95",
    "stall_ratio", "continuity", "offload", "offload_limit", "origin_copies", "duplicate_ratio",
    "control_ratio", "pieces_verified", "pieces_refused", "cpu_s_per_viewer_s",
}  # fmt: skip
RATIOS = {"stall_ratio", "continuity", "offload", "offload_limit", "duplicate_ratio",
          "control_ratio"}  # fmt: skip


def test_eight_viewers_carry_the_stream(empty_stage: Stage) -> None:
    demo = empty_stage.start(
        "demo", "demo", "--viewers", str(VIEWERS), "--duration", str(DURATION_S), "--json",
        binary=True,
    )  # fmt: skip
    children: set[int] = set()
    deadline = now() + 60 + 4 * DURATION_S
    while demo.process.poll() is None:
        assert now() < deadline, demo.words()
        children.update(descendants(demo.pid))
        time.sleep(LOOK_S)
    assert demo.wait() == 0, demo.words()
    assert demo.noise == []
    result = json.loads(demo.raw)  # One object and nothing else.
    print(result)

    assert set(result) == KEYS
    assert result["viewers"] == result["viewers_playing"] == VIEWERS
    assert all(0 <= result[key] <= 1 for key in RATIOS)
    assert result["offload_limit"] == 1 - 1 / VIEWERS
    assert OFFLOAD_MIN <= result["offload"] <= result["offload_limit"] + 0.01
    assert result["duplicate_ratio"] <= 0.03
    assert result["pieces_refused"] == 0
    assert result["pieces_verified"] > VIEWERS * DURATION_S * 5
    assert 1 <= result["origin_copies"] <= 4
    assert 0 < result["control_ratio"] < 0.5
    # The issue asks for 99.5 %, 0, 2 s and 1.5 s on an idle machine with a core for each four
    # viewers. A shared one shows at least that these are measured, and not far off.
    assert result["continuity"] >= 0.9
    assert result["stall_ratio"] <= 0.1
    assert 0 < result["startup_s_p50"] <= result["startup_s_p95"] < 6
    assert 0 < result["lag_s_p50"] <= result["lag_s_p95"] < 5
    assert 0 < result["cpu_s_per_viewer_s"] < 1
    assert len(children) >= VIEWERS + 3, "a process for each node, and a media worker"
    wait_until(lambda: not any(alive(pid) for pid in children), "the demo's processes", 5)
    assert not [path for path in empty_stage.folder.rglob("*") if path.is_file()]


def descendants(pid: int) -> set[int]:
    """The processes below `pid`, by what the kernel says."""

    found: set[int] = set()
    with suppress(OSError):  # It ends while we look.
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            ids = {int(child) for child in children.read_text().split()}
            found |= ids.union(*(descendants(child) for child in ids))
    return found
