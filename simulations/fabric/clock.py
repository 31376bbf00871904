"""The clock of one host: it may be wrong (skew), run fast or slow (drift), and be set (jump)."""

from __future__ import annotations

from dataclasses import dataclass

from simulations.fabric.world import WALL_0


@dataclass(slots=True)
class Clock:
    """skew_s: how far the wall clock is ahead. drift: seconds gained for each second (1e-6: ppm).

    A core's `now` is local time: never set, but subject to drift, as a machine's monotonic clock.
    """

    skew_s: float = 0.0
    drift: float = 0.0

    def local(self, now: float) -> float:
        """Local time at world time `now`."""
        return now * (1 + self.drift) if self.drift else now

    def world(self, local: float) -> float:
        """World time at local time."""
        return local / (1 + self.drift) if self.drift else local

    def wall(self, local: float) -> float:
        """Unix seconds that this host believes in at local time."""
        return WALL_0 + local + self.skew_s
