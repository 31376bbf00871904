"""The playout: one clock that says when each chunk is due, and one order in which they leave.

It is a jitter buffer. The earliest that heads have been arriving tells where live is; a chunk is
due `target_s` after that. A chunk that is not here when due is a stall: playout waits, and the
target grows so that the same lateness does not stall again; with everything early it shrinks back.
Lag is bounded: whoever is too far behind jumps to the newest key frame and never replays.

Invariant: the seqs handed over only grow, and each is complete (the `Shelf` says so).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from math import inf
from typing import Protocol

EDGE_MEMORY_S = 10.0  # How long the earliest head counts: long against jitter, short against drift.
EDGE_SAMPLES_MAX = 128  # Of them; more than 10 s of chunks of 200 ms.
TIMELINE_MAX = 256  # Seqs whose times we remember: four windows of heads.
PATIENCE_S = 1.0  # Wild guess: a stall that long is worth a visible jump.
BEGIN_MARGIN = 0.5  # Of the target: what is due so soon must be here before the first chunk leaves.
BEGIN_S = 1.0  # Waiting longer than this for that is worse than a stall. Wild guess.
GROW_S = 0.1  # At least, after a stall: half a chunk, or many small stalls follow each other.
SHRINK_PER_S = 0.04  # Playback may run 4 % fast unnoticed (measured for music: facts/media.md 4).


@dataclass(frozen=True, slots=True)
class Config:
    """target_s: how long after the earliest possible moment a chunk is handed over, at rest."""

    target_s: float = 0.6  # Measured on a busy machine: pieces come within 0.1 to 0.4 s.
    target_s_max: float = 3.0  # Beyond it we prefer to lower the rendition or to skip.
    behind_s_max: float = 4.0  # Playing further behind live than this: jump.


class Shelf(Protocol):
    """Where the chunks are."""

    def ready(self, seq: int) -> bool:
        """Whether the chunk can be played now."""

    def next_key(self, after: int) -> int | None:
        """The newest key chunk after `after` that can be played, with all that follow it."""


@dataclass(slots=True)
class Counters:
    """What a viewer would notice. played: chunks; late: of them, after a stall."""

    played: int = 0
    late: int = 0
    skipped: int = 0
    stalls: int = 0
    stall_s: float = 0.0


class Playout:
    """Decides when which chunk is handed to the player. take_at: when to call `take` next."""

    def __init__(self, shelf: Shelf, config: Config | None = None) -> None:
        self.config = config or Config()
        self.target_s = self.config.target_s
        self.counters = Counters()
        self.next_seq: int | None = None
        self.end_seq: int | None = None  # Where the stream ends: nothing is due there.
        self.last_seq = -1  # Handed over before the last pause.
        self.take_at = inf
        self._shelf = shelf
        self._line: dict[int, tuple[float, float]] = {}  # By seq: when it ends, how long it is.
        self._latest = -1  # The highest seq there.
        # When fresh heads came, and what the clock then said minus the stream's time: only those
        # that are the smallest since, so that the first is the smallest of all.
        self._edges: deque[tuple[float, float]] = deque(maxlen=EDGE_SAMPLES_MAX)
        self._live_s = 0.0  # That one.
        self._offset_s = 0.0  # The latest.
        self._started_at = -inf  # When the first chunk left, after `start`.
        self._begin_at: float | None = None  # When `start` was called, until that chunk has left.
        self._look_at = inf  # Until then: when to see again whether it may leave.
        self._moved_to = -1  # The first seq of the present time line.
        self._void = range(0)  # Between the line before and that: there are no such chunks.
        self._waiting = False  # The next chunk is due and not here.
        self._free_at = -inf  # When the last stall ended: no moment is counted twice.
        self._stalled_at: float | None = None  # When the chunk we wait for was due.
        self._margin_s = inf  # The smallest margin since `_margin_at`.
        self._margin_at = -inf

    def start(self, seq: int, *, now: float) -> None:
        """Begin with `seq`, as soon as enough is here that no stall follows at once."""
        assert seq > self.last_seq, "playout never goes back"
        self.next_seq, self._stalled_at = seq, None
        self._begin_at, self._look_at = now, self.due(seq)
        self.take_at = self._next_at()

    def pause(self, *, after: int = -1) -> None:
        """Forget where live is: the next `start`, beyond `after`, decides where to go on."""
        if self.next_seq is not None:
            self.last_seq = self.next_seq - 1
        self.last_seq = max(self.last_seq, after)
        self.next_seq = self._begin_at = None
        self.take_at = inf
        self._edges.clear()

    def saw_head(
        self, seq: int, end_s: float, duration_s: float, *, fresh: bool, now: float
    ) -> None:
        """A verified head came. end_s: where on the stream's time line its chunk ends. fresh: it
        extends the live edge, so it tells where live is.
        """
        self._line[seq] = end_s, duration_s
        before, self._latest = self._latest, max(seq, self._latest)
        while len(self._line) > TIMELINE_MAX:
            del self._line[next(iter(self._line))]
        if fresh:
            self._note_edge(seq, before, end_s, now)
        self.take_at = self._next_at()

    def _note_edge(self, seq: int, before: int, end_s: float, now: float) -> None:
        """before: the highest seq until now."""
        offset = now - end_s
        edges = self._edges
        if edges and abs(offset - self._offset_s) > self.config.behind_s_max:
            edges.clear()  # The time line itself moved: the broadcaster started anew.
            self._moved_to, self._void = seq, range(before + 1, seq)
        self._offset_s = offset
        while edges and edges[-1][1] >= offset:
            edges.pop()  # It will never be the smallest again.
        edges.append((now, offset))
        while edges[0][0] < now - EDGE_MEMORY_S:
            edges.popleft()
        self._live_s = edges[0][1]

    def arrived(self, seq: int, *, now: float) -> float:
        """The chunk of `seq` became complete. Returns how early that was, in seconds."""
        margin_s = self.due(seq) - now
        if margin_s < self._margin_s and self.next_seq is not None and seq >= self.next_seq:
            self._margin_s = margin_s
        return margin_s

    def due(self, seq: int) -> float:
        """When `seq` is to be handed over; `inf` while nothing is known of the time line."""
        if not self._edges:
            return inf
        known = self._line.get(seq)
        end_s = known[0] if known is not None else self._guess_end_s(seq)
        return end_s + self._live_s + self.target_s

    def _next_at(self) -> float:
        if self.next_seq is None:
            return inf
        if self._waiting or self.next_seq == self.end_seq:
            return inf  # Only an arrival, or the swarm's own tick, can change that.
        if self._begin_at is not None:
            return self._look_at
        return self.due(self.next_seq)

    def take(self, *, now: float) -> Iterator[int]:
        """The seqs to hand over now, oldest first.

        Handing one over may change what is ready next (another rendition), so each is looked at
        only when it is asked for.
        """
        try:
            yield from self._take(now)
        finally:
            self.take_at = self._next_at()

    def _take(self, now: float) -> Iterator[int]:
        self._adapt(now)
        self._waiting = False
        if self._begin_at is not None and not self._may_begin(self._begin_at, now):
            return
        if self.next_seq is not None and self.next_seq < self._moved_to:
            yield from self._take_before_move()
        while (
            self.next_seq is not None
            and self.next_seq != self.end_seq
            and self.next_seq >= self._moved_to
            and (due := self.due(self.next_seq)) <= now
        ):
            ready = self._shelf.ready(self.next_seq)
            if not ready:
                self._stall()
            if now - due >= (self.config.behind_s_max if ready else PATIENCE_S) and self._jump(now):
                continue
            if not ready:
                self._waiting = True
                break
            self._resume(now)
            yield self._hand_over()

    def _may_begin(self, since: float, now: float) -> bool:
        """Whether the first chunk may leave: nothing before it is a stall, so be sure of the next.

        Where the first is not to be had, a later key frame is.
        """
        assert self.next_seq is not None
        patient = now < since + BEGIN_S
        if not patient and not self._shelf.ready(self.next_seq):
            self.next_seq = self._shelf.next_key(self.next_seq) or self.next_seq
        due = self.due(self.next_seq)
        if now >= due and self._shelf.ready(self.next_seq):
            lacking_s = now + BEGIN_MARGIN * self.target_s - self._missing_at()
            if lacking_s <= 0 or not patient:
                self._begin_at, self._started_at = None, now
                self.target_s = min(self.config.target_s_max, self.target_s + max(0.0, lacking_s))
                return True
        self._look_at = due if due > now else since + BEGIN_S if patient else inf
        return False

    def _missing_at(self) -> float:
        """When the first chunk is due that is not here; `inf` when that is the end."""
        seq = self.next_seq
        while seq is not None and seq != self.end_seq and self._shelf.ready(seq):
            seq += 1
        return inf if seq is None or seq == self.end_seq else self.due(seq)

    def _hand_over(self) -> int:
        assert self.next_seq is not None
        self.counters.played += 1
        self.next_seq += 1
        return self.next_seq - 1

    def _take_before_move(self) -> Iterator[int]:
        """What is left of the time line before it moved has no due times: play it, then jump."""
        while self.next_seq is not None and self.next_seq < self._moved_to:
            if self._shelf.ready(self.next_seq):
                yield self._hand_over()
            elif not self._jump(self._stalled_at or 0.0):
                self._waiting = True
                break

    @property
    def waits(self) -> bool:
        """Whether an arrival may be what lets it go on. Otherwise only time does."""
        late = self.next_seq is not None and self.next_seq < self._moved_to
        return self._waiting or late or self._begin_at is not None

    @property
    def stalled(self) -> bool:
        return self._stalled_at is not None

    def stall_s(self, *, now: float) -> float:
        """Seconds stalled in all, with the stall that has not ended yet."""
        waiting_s = now - self._stalled_at if self._stalled_at is not None else 0.0
        return self.counters.stall_s + waiting_s

    @property
    def busy(self) -> bool:
        """Whether something is left to hand over before the end."""
        return self.next_seq is not None and self.next_seq != self.end_seq

    @property
    def margin_s(self) -> float:
        """How early the latest of the recent chunks was; negative when late."""
        return self._margin_s

    def buffer_s(self) -> float:
        """Seconds of media that are ready ahead of what has been handed over."""
        seq, total = self.next_seq, 0.0
        while seq is not None and seq in self._line and self._shelf.ready(seq):
            total += self._line[seq][1]
            seq += 1
        return total

    def _stall(self) -> None:
        assert self.next_seq is not None
        if self._stalled_at is None:
            self._stalled_at = max(self.due(self.next_seq), self._free_at, self._started_at)
            self.counters.stalls += 1

    def _resume(self, now: float) -> None:
        if self._stalled_at is None:
            return
        late_s = now - self._stalled_at
        self.counters.late += 1
        self.counters.stall_s += late_s
        # A chunk that was very late is no jitter: the source was away, and delay would not help.
        grow_s = max(GROW_S, 1.2 * late_s) if late_s < PATIENCE_S else GROW_S
        self.target_s = min(self.config.target_s_max, self.target_s + grow_s)
        self._stalled_at, self._free_at = None, now
        self._margin_s, self._margin_at = inf, now

    def _jump(self, now: float) -> bool:
        """Skip to a key chunk when waiting longer makes no sense. True when it did."""
        assert self.next_seq is not None
        key = self._shelf.next_key(self.next_seq)
        if key is None:
            return False
        void = range(max(self.next_seq, self._void.start), min(key, self._void.stop))
        self.counters.skipped += key - self.next_seq - len(void)
        if self._stalled_at is not None:
            self.counters.stall_s += now - self._stalled_at
            self._free_at = now
        self._stalled_at = None
        self.next_seq = key
        return True

    def _adapt(self, now: float) -> None:
        """Give back, slowly, delay that the last seconds did not need."""
        if now - self._margin_at < 1.0:
            return
        spare = self._margin_s > 0.6 * self.target_s and self._margin_s != inf
        if spare and self._stalled_at is None:
            self.target_s = max(self.config.target_s, self.target_s - SHRINK_PER_S)
        self._margin_s, self._margin_at = inf, now

    def _guess_end_s(self, seq: int) -> float:
        """When a seq, whose head is unknown, ends on the stream's time line; `inf`: no idea."""
        before = self._latest if seq > self._latest else max(
            (s for s in self._line if s < seq), default=-1
        )  # fmt: skip
        if before not in self._line:
            return inf
        end_s, duration_s = self._line[before]
        return end_s + duration_s * (seq - before)
