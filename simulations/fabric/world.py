"""One clock and one heap of happenings.

Invariants: time never goes back; what happens at one instant happens in the order in which it was
planned; nothing outside (clock, hash seed, thread) has a say.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from math import inf
from typing import Any

from simulations.fabric.trace import Trace

WALL_0 = 1_800_000_000.0  # The Unix time at which every world begins.
AT_ONE_INSTANT_MAX = 200_000  # More happenings at one time than this are a livelock.


class Livelock(AssertionError):
    """Time stands still: something wakes itself over and over."""


class World:
    """Virtual time in seconds. seed: the root of all dice."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.now = 0.0
        self.trace = Trace()
        self.happened = 0
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._planned = 0

    def at(self, when: float, do: Callable[..., None], *args: Any) -> None:
        """Call `do(*args)` at `when`, or now if that is over."""
        self._planned += 1
        heappush(self._heap, (max(self.now, when), self._planned, do, args))

    def next_at(self) -> float:
        """When the next thing happens that is planned; `inf` when nothing is."""
        return self._heap[0][0] if self._heap else inf

    def run_until(self, end: float) -> None:
        """Let everything happen that is planned up to `end`."""
        heap, instant, count = self._heap, -1.0, 0
        while heap and heap[0][0] <= end:
            self.now, _, do, args = heappop(heap)
            count += 1
            if self.now > instant:
                self.happened += count
                instant, count = self.now, 0
            elif count > AT_ONE_INSTANT_MAX:
                raise Livelock(f"{count} happenings at {instant:.6f} s, the last one {do!r}")
            do(*args)
        self.happened += count
        self.now = max(self.now, end)
