"""One clock and one heap of happenings.

Invariants: time never goes back; what happens at one instant happens in the order in which it was
planned; nothing outside (clock, hash seed, thread) has a say.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heapify, heappop, heappush
from math import inf
from typing import Any

from simulations.fabric.trace import Trace

WALL_0 = 1_800_000_000.0  # The Unix time at which every world begins.
SLOTS_PER_S = 256  # Of 4 ms: with 30 hosts some 6 happenings each, with 1,000 two hundred.
AT_ONE_INSTANT_MAX = 200_000  # More happenings at one time than this are a livelock.


Happening = tuple[float, int, Callable[..., None], tuple[Any, ...]]  # When, its number, what.


class Livelock(AssertionError):
    """Time stands still: something wakes itself over and over."""


class World:
    """Virtual time in seconds. seed: the root of all dice.

    What is planned waits in slots of 1 / `SLOTS_PER_S`, unsorted; only the slot that time has come
    to is a heap. One heap for everything would have thousands of entries, all over the memory:
    taking the next one from it was 5 % of a run with 100 hosts (now 3 %), 7 % with 300.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.now = 0.0
        self.trace = Trace()
        self.happened = 0
        self._heap: list[Happening] = []  # Of the present slot, and before.
        self._slot = 0
        self._later: dict[int, list[Happening]] = {}  # By slot.
        self._slots: list[int] = []  # Those, as a heap.
        self._planned = 0

    def at(self, when: float, do: Callable[..., None], *args: Any) -> None:
        """Call `do(*args)` at `when`, or now if that is over."""
        self._planned = number = self._planned + 1
        slot = int(when * SLOTS_PER_S)
        if slot <= self._slot:
            heappush(self._heap, (when if when > self.now else self.now, number, do, args))
            return
        later = self._later.get(slot)
        if later is None:
            self._later[slot] = [(when, number, do, args)]
            heappush(self._slots, slot)
        else:
            later.append((when, number, do, args))

    def next_at(self) -> float:
        """When the next thing happens that is planned; `inf` when nothing is."""
        return self._heap[0][0] if self._heap or self._turn() else inf

    def run_until(self, end: float) -> None:
        """Let everything happen that is planned up to `end`."""
        heap, count = self._heap, 0
        while True:  # Python 3.11 makes a loop of this form fast in its first rounds, others later.
            if not heap and not self._turn():
                break
            when, number, do, args = heappop(heap)
            if when > self.now:
                if when > end:
                    heappush(heap, (when, number, do, args))
                    break
                self.now, count = when, 0
            else:
                count += 1
                if count > AT_ONE_INSTANT_MAX:
                    raise Livelock(f"{count} happenings at {when:.6f} s, the last one {do!r}")
            do(*args)
        self.now = max(self.now, end)

    def _turn(self) -> bool:
        """Take up the next slot, now that the heap is empty. False when nothing is planned."""
        if not self._slots:
            return False
        self._slot = heappop(self._slots)
        self._heap += self._later.pop(self._slot)
        heapify(self._heap)
        return True
