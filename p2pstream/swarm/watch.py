"""Watching: which rendition, from which seq on, and when each chunk leaves for the player.

The viewer's half of a swarm. It reads the window, owns the playout clock, and says which
renditions the mesh must bring. A switch needs no trust and no gap: both renditions are fetched
until a key frame of the new one is complete, and from that seq on the new one is played.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from p2pstream.playback import abr
from p2pstream.playback.playout import Config as PlayoutConfig
from p2pstream.playback.playout import Playout
from p2pstream.stream.chunk import Chunk
from p2pstream.stream.head import Head
from p2pstream.stream.window import Window

MARGINS_MAX = 10  # Chunks that a bit-rate verdict looks back on: 2 s.
SWITCH_S_MAX = 5.0  # A switch that finds no key frame by then is given up: two GOPs and a margin.


@dataclass(slots=True)
class Watch:
    """The state of one viewer. pinned: the rendition that the user insists on."""

    window: Window
    has_init: Callable[[bytes], bool]
    config: PlayoutConfig
    pinned: int | None = None
    rendition: int | None = None
    target: int | None = None  # The rendition we are switching to.
    renditions: tuple[int, ...] = ()  # What the mesh must bring now: those two.
    playout: Playout = field(init=False)
    switches: int = 0
    _changed_at: float = 0.0
    _quiet_s: float = abr.QUIET_S
    _margins: deque[float] = field(default_factory=lambda: deque(maxlen=MARGINS_MAX))
    _stalls_seen: int = 0

    def __post_init__(self) -> None:
        self.playout = Playout(self, self.config)

    def choose(self, head: Head, *, now: float) -> None:
        """Pick the first rendition: the pinned one, or else the best."""
        rungs = ladder(head)
        self._turn(self.pinned if self.pinned in rungs else rungs[-1], None)
        self._changed_at = now

    def saw_head(self, head: Head, *, fresh: bool, now: float) -> None:
        if head.parts:
            self.playout.saw_head(head.seq, head.end_s, head.duration_s, fresh=fresh, now=now)

    def arrived(self, seq: int, rendition: int, *, now: float) -> None:
        """A chunk became complete."""
        if rendition == self.rendition:
            margin_s = self.playout.arrived(seq, now=now)
            self._margins.append(margin_s / self.playout.target_s)

    def take(self, *, now: float) -> list[Chunk]:
        """The chunks to hand to the player now."""
        chunks = []
        for seq in self.playout.take(now=now):
            self._switch_at(seq, now)
            chunk = self.rendition is not None and self.window.chunk(seq, self.rendition)
            assert chunk, "playout takes only what is ready"
            chunks.append(chunk)
        return chunks

    def decide(self, head: Head, *, holders: Callable[[int], int], now: float) -> None:
        """Look once a second whether another rendition suits better.

        holders: how many partners could feed us a rendition.
        """
        if self.target is not None and now - self._changed_at > SWITCH_S_MAX:
            self._turn(self.rendition, None)
        if self.target is not None or self.pinned is not None or len(head.parts) < 2:
            return
        rungs = ladder(head)
        if self.rendition not in rungs:
            return
        rung = rungs.index(self.rendition)
        stalls = self.playout.counters.stalls
        verdict = abr.evaluate(
            abr.View(
                rung, len(rungs), tuple(self._margins), stalls > self._stalls_seen,
                now - self._changed_at, self._quiet_s,
                holders(rungs[min(rung + 1, len(rungs) - 1)]),
            )
        )  # fmt: skip
        self._stalls_seen, self._quiet_s = stalls, verdict.quiet_s
        if verdict.rung != rung:
            self._turn(self.rendition, rungs[verdict.rung])
            self._changed_at = now

    # What playout asks of its shelf.

    def ready(self, seq: int) -> bool:
        return self._ready_in(seq, self.rendition) or self._can_switch(seq)

    def next_key(self, after: int) -> int | None:
        keys = [
            seq for seq in self.window
            if seq > after and (head := self.window.head(seq)) and head.key and self.ready(seq)
        ]  # fmt: skip
        return max(keys, default=None)

    def _ready_in(self, seq: int, rendition: int | None) -> bool:
        part = self.window.complete(seq, rendition) if rendition is not None else None
        return part is not None and self.has_init(part.init)

    def _can_switch(self, seq: int) -> bool:
        if self.target is None:
            return False
        head = self.window.head(seq)
        return head is not None and head.key and self._ready_in(seq, self.target)

    def _turn(self, rendition: int | None, target: int | None) -> None:
        self.rendition, self.target = rendition, target
        self.renditions = tuple(r for r in (rendition, target) if r is not None)

    def _switch_at(self, seq: int, now: float) -> None:
        if self._can_switch(seq):
            self._turn(self.target, None)
            self._changed_at = now
            self._margins.clear()
            self.switches += 1


def ladder(head: Head) -> list[int]:
    """The renditions of a head from the smallest to the largest."""
    return [part.rendition for part in sorted(head.parts, key=lambda part: part.size)]
