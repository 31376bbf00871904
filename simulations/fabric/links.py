"""What bytes go through: a pipe with a rate and a queue, and weather that loses packets."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from random import Random
from typing import Protocol

QUEUE_BYTES = 256 * 1024  # A home router's buffer: 0.2 s at 10 Mbit/s. Wild guess.


@dataclass(slots=True)
class Pipe:
    """First in, first out, at `bps` bits a second; what does not fit into the queue is dropped.

    byte_s: how long a byte takes. queue_s: how long a full queue does.
    """

    bps: float = inf
    queue_bytes: int = QUEUE_BYTES
    free_at: float = 0.0
    dropped: int = 0  # Bytes.
    byte_s: float = field(init=False)
    queue_s: float = field(init=False)

    def __post_init__(self) -> None:
        self._turn(self.bps)

    def queued(self, now: float) -> float:
        """Bytes that wait, or are just going through."""
        return (self.free_at - now) / self.byte_s if self.byte_s and self.free_at > now else 0.0

    def admit(self, size: int, now: float) -> float | None:
        """When the last of `size` bytes is through; None when the queue is full."""
        free_at = self.free_at
        if free_at <= now:
            self.free_at = through = now + size * self.byte_s
            return through
        through = free_at + size * self.byte_s
        if through - now > self.queue_s:
            self.dropped += size
            return None
        self.free_at = through
        return through

    def push(self, size: int, now: float) -> float:
        """As `admit`, for a sender that paces itself: nothing is dropped."""
        begins = self.free_at if self.free_at > now else now
        self.free_at = through = begins + size * self.byte_s
        return through

    def change(self, bps: float, *, now: float) -> None:
        """Another rate, for what waits too."""
        if self.free_at > now:
            self.free_at = now + self.queued(now) * 8 / bps
        self._turn(bps)

    def _turn(self, bps: float) -> None:
        self.bps, self.byte_s = bps, 8 / bps
        self.queue_s = (self.queue_bytes + 0.5) * self.byte_s  # Half a byte more: these are floats.


class Weather(Protocol):
    """Which packets get lost. loss: the share of all, in the long run."""

    loss: float

    def lost(self, packets: int, rng: Random) -> int:
        """How many of so many in a row."""


@dataclass(slots=True)
class Rain:
    """Each packet is lost with probability `loss`, whatever befell the others."""

    loss: float

    def lost(self, packets: int, rng: Random) -> int:
        if self.loss <= 0 or rng.random() < (1 - self.loss) ** packets:
            return 0
        # At least one: draw again until that is so, which keeps the distribution.
        while not (count := sum(rng.random() < self.loss for _ in range(packets))):
            pass
        return count


@dataclass(slots=True)
class Storm:
    """Gilbert-Elliott: spells of `burst` lost packets on average, `loss` of all in the long run."""

    loss: float
    burst: float
    bad: bool = False

    def lost(self, packets: int, rng: Random) -> int:
        leave = 1 / self.burst
        enter = leave * self.loss / (1 - self.loss)
        count = 0
        for _ in range(packets):
            self.bad = rng.random() >= leave if self.bad else rng.random() < enter
            count += self.bad
        return count
