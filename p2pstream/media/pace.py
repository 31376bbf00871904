"""Real time: when a frame is due, and on which tick of a constant frame rate it falls."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import inf

from p2pstream.stream.chunk import TICKS_PER_S

STALL_S = 1.0  # design: later than this is a stall, and the clock starts anew.
JUMP_TICKS = TICKS_PER_S  # The same for the source's own clock, forwards and backwards.
CAUGHT_UP_S = 0.1  # Half a chunk: a backlog has been worked off.


class Pacer:
    """Lets a frame go when it is due, never before.

    Time is that of a monotonic clock; the first frame sets the zero. A frame that is late by more
    than `STALL_S` sets it anew: after a stall the stream goes on, it does not rush.
    """

    def __init__(self, now: Callable[[], float], sleep: Callable[[float], object]) -> None:
        self._now = now
        self._sleep = sleep
        self._zero: float | None = None
        self._slack_s = STALL_S
        self.stalls = 0

    def begin(self, ticks: int, *, at: float) -> None:
        """A live source was at `ticks` at the time `at`. What piled up since may go at once."""
        self._zero = at - ticks / TICKS_PER_S
        self._slack_s = inf

    def wait(self, ticks: int) -> float:
        """Return when a frame at `ticks` is due; by how many seconds it is late."""
        now = self._now()
        if self._zero is None:
            self._zero = now - ticks / TICKS_PER_S
        late_s = now - self._zero - ticks / TICKS_PER_S
        if late_s > self._slack_s:
            self._zero += late_s
            self.stalls += 1
            return 0.0
        if late_s < 0:
            self._sleep(-late_s)
        if late_s < CAUGHT_UP_S:
            self._slack_s = STALL_S
        return max(0.0, late_s)


class Unpaced(Pacer):
    """Everything is due at once: for tests."""

    def __init__(self) -> None:
        super().__init__(now=lambda: 0.0, sleep=lambda _: None)

    def wait(self, ticks: int) -> float:  # noqa: ARG002  # As its parent's.
        """Return at once."""
        return 0.0


class ConstantRate:
    """Turns frames at any times into one frame per slot of a constant rate.

    FFmpeg's fps filter does the same but holds every frame until the next has come. Times are
    ticks of 1/90000 s.
    """

    def __init__(self, start: int, duration: int) -> None:
        self._start = start
        self._duration = duration
        self._next = 0

    def slots(self, at: int) -> Iterator[int]:
        """The slots to fill now that a frame came with `at`, its own the last.

        None: another frame has its place. Several: there is a hole before it.
        """
        slot = round((at - self._start) / self._duration)
        while self._next <= slot:
            yield self._start + self._next * self._duration
            self._next += 1


class Timeline:
    """Maps a source's times on to the stream's, which has no holes and never goes back.

    All in ticks. hole_max: a longer time without a picture is a jump of the source's clock. Such
    a jump, or a loop, only changes the shift between the two; pictures rule, sound follows.
    """

    def __init__(self, start: int, *, hole_max: int = JUMP_TICKS) -> None:
        self.end = start
        self._hole_max = hole_max
        self._shift: int | None = None

    @property
    def known(self) -> bool:
        """Whether a picture has come, so that sound can be placed."""
        return self._shift is not None

    def picture(self, at: int, duration: int) -> int:
        """Where a picture belongs that the source puts at `at`. Pictures come in order."""
        if self._shift is None:
            self._shift = self.end - at
        ahead = at + self._shift - self.end
        if not -JUMP_TICKS <= ahead <= self._hole_max:
            self._shift -= ahead
        at += self._shift
        self.end = max(self.end, at + duration)
        return at

    def sound(self, at: int) -> int:
        """Where sound belongs that the source puts at `at`."""
        assert self._shift is not None, "sound waits for the first picture"
        return at + self._shift

    def seam(self) -> None:
        """What comes next follows what came last: the file starts again."""
        self._shift = None


class SoundClock:
    """Places sound so that there is no gap a listener or a player would notice.

    In samples. Never further than `tolerance` from where it belongs.
    """

    def __init__(self, start: int, tolerance: int) -> None:
        self.next = start
        self._tolerance = tolerance

    def gap(self, at: int) -> int:
        """Samples missing before sound that belongs at `at`; less than 0: it overlaps by those."""
        off = at - self.next
        return off if abs(off) > self._tolerance else 0

    def advance(self, samples: int) -> int:
        """Where the next `samples` go."""
        at = self.next
        self.next += samples
        return at
