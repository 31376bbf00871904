"""The last seconds of a stream as HLS sees them: playlist text, segments, parts and inits.

Chunks come in playing order and become parts; a run of them that starts with a key chunk is a
segment. Invariants, whatever comes in: the window is bounded in segments, parts and bytes; the
media sequence number of a segment never changes and the numbers only rise; no text that a
broadcaster chose reaches a playlist, except codecs of the characters that RFC 6381 allows.

Section numbers are those of RFC 8216bis (draft-pantos-hls-rfc8216bis), HLS with low latency.
"""

from __future__ import annotations

import math
import re
from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from p2pstream.stream.chunk import Chunk, Init

SEGMENTS_MAX = 8  # 16 s of 2 s segments; section 6.2.2 asks for three target durations.
SEGMENTS_WITH_PARTS = 3  # Section 6.2.2: parts older than three target durations may go.
PARTS_MAX = 64  # Of one segment: 2 s in chunks of 100 ms, three times over.
WINDOW_BYTES_MAX = 64 * 1024 * 1024  # security/architecture.md 5.5: media buffered by a viewer.
SEGMENT_BYTES_MAX = WINDOW_BYTES_MAX // 4  # 64 Mbit/s for 2 s. A few segments always fit.
INITS_MAX = 16  # Every rendition (8) of this epoch of the stream and of the last.
BEHIND_PARTS_MAX = 15  # Wild guess: 3 s of 200 ms chunks. Further behind is no longer live.

TARGET_S = 2  # facts/media.md 8: a key frame every 2 s.
PART_TARGET_S = 0.224  # facts/media.md 4: 1.12 chunks of 200 ms.
HOLD_BACK_PARTS = 3  # Section 4.4.3.8: PART-HOLD-BACK SHOULD be at least three part targets.
RELOAD_AHEAD_MAX = 2  # Section 6.2.5.2: a msn further ahead of the last one is an error.
DATE_OFF_MS_MAX = 5000  # Wild guess: what a date may be off. A broadcaster's stall is 1 s or more.

_NO_CODECS = re.compile(r"[^A-Za-z0-9.,-]")  # RFC 6381, and nothing that could end a quoted-string.
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS_MAX = 253_402_300_799_999  # The last millisecond of the year 9999: ISO 8601 has four digits.


@dataclass(frozen=True, slots=True)
class Part:
    """A chunk in its place: part `index` of segment `msn`, and the `nth` part of all."""

    chunk: Chunk
    msn: int
    index: int
    nth: int


@dataclass(slots=True)
class Segment:
    """A run of parts with one init. It is complete when nothing can be added any more.

    date_ms: when its first picture was captured, Unix milliseconds; see `LiveWindow._date_ms`.
    """

    msn: int
    discontinuity: bool
    date_ms: float
    parts: list[Part] = field(default_factory=list)
    complete: bool = False

    @property
    def init(self) -> bytes:
        return self.parts[0].chunk.init

    @property
    def seconds(self) -> float:
        return sum(part.chunk.seconds for part in self.parts)

    @property
    def size(self) -> int:
        return sum(part.chunk.size for part in self.parts)


class LiveWindow:
    """What a player may ask for now.

    target_s: whole seconds, the key frame interval of the stream (EXT-X-TARGETDURATION).
    part_target_s: seconds, a little more than the longest chunk. Both rise when the stream breaks
    them, which section 6.2.1 forbids, since the other way out is to list a lie.
    """

    def __init__(self, *, target_s: int = TARGET_S, part_target_s: float = PART_TARGET_S) -> None:
        self.ended = False
        self.target_s = target_s
        self._part_target_s = part_target_s
        self._inits: OrderedDict[bytes, Init] = OrderedDict()
        self._segments: deque[Segment] = deque()
        self._next_msn = 0
        self._next_nth = 0
        self._newest_key = 0
        self._segment_s = float(target_s)  # How long segments are, by the distance of key chunks.
        self._since_key_s = 0.0
        self._discontinuities_gone = 0
        self._dates_from = 0  # The first segment whose date is told.

    def add_init(self, init: Init, init_hash: bytes) -> None:
        """Make an init known, before the first chunk that is decoded with it."""
        self._inits[init_hash] = init
        self._inits.move_to_end(init_hash)
        in_use = {segment.init for segment in self._segments} | {init_hash}
        while len(self._inits) > INITS_MAX and (idle := self._inits.keys() - in_use):
            del self._inits[next(known for known in self._inits if known in idle)]

    def add(self, chunk: Chunk) -> None:
        """Append the next chunk to play. Its init is known by now."""
        assert chunk.init in self._inits, "the init comes before its chunks"
        assert not self.ended, "nothing comes after the end"
        if self._starts_segment(chunk):
            self._start_segment(chunk)
        segment = self._segments[-1]
        segment.parts.append(Part(chunk, segment.msn, len(segment.parts), self._next_nth))
        self._count_key(chunk)
        self._next_nth += 1
        self._part_target_s = max(self._part_target_s, chunk.seconds)
        self.target_s = max(self.target_s, _rounded(segment.seconds))
        segment.complete = self._full(segment)
        self._forget()

    def end(self) -> None:
        """The stream is over: no chunk comes any more."""
        self.ended = True
        if self._segments:
            self._segments[-1].complete = True

    # What players ask for by HTTP.

    def playlist(self) -> str:
        """The media playlist (section 4.4); empty while there is nothing to play."""
        if not self._segments:
            return ""
        return "\n".join([*self._head(), *self._body(), *self._tail()]) + "\n"

    def multivariant(self) -> str:
        """The multivariant playlist with one variant (section 4.4.6): the rendition played now.

        The node itself switches renditions, for it knows the swarm. Empty before the first chunk.
        """
        init = self.current
        if init is None:
            return ""
        codecs = _NO_CODECS.sub("", init.codecs)
        return (
            "#EXTM3U\n#EXT-X-VERSION:9\n"
            f'#EXT-X-STREAM-INF:BANDWIDTH={max(1, init.bitrate)},CODECS="{codecs}",'
            f"RESOLUTION={init.width}x{init.height}\n"
            "stream.m3u8\n"
        )

    def has(self, msn: int, part: int | None) -> bool:
        """Whether the playlist shows that part, or all of that segment (section 6.2.5.2).

        A part beyond the last of a complete segment means the first of the next segment.
        """
        if self.ended:
            return True
        if not self._segments:
            return False
        newest = self._segments[-1]
        if msn != newest.msn:
            return msn < newest.msn
        return newest.complete if part is None else part < len(newest.parts)

    @property
    def has_segment(self) -> bool:
        """Whether a player that knows no parts finds something: a complete segment, or the end."""
        return self.ended or any(segment.complete for segment in self._segments)

    def expects(self, msn: int) -> bool:
        """Whether it makes sense to wait for segment `msn`."""
        return msn < self._next_msn + RELOAD_AHEAD_MAX

    def hint(self) -> tuple[int, int] | None:
        """Segment and part that will come next (section 4.4.5.3); None after the end."""
        if self.ended:
            return None
        if not self._segments or self._segments[-1].complete:
            return self._next_msn, 0
        return self._segments[-1].msn, len(self._segments[-1].parts)

    def init(self, init_hash: bytes) -> bytes | None:
        """The bytes of an init (section 4.4.4.5); None when it is not known."""
        init = self._inits.get(init_hash)
        return init.data if init else None

    def segment(self, msn: int) -> bytes | None:
        """The bytes of a complete segment; None when it is not here."""
        segment = self._find(msn)
        if segment is None or not segment.complete:
            return None
        return b"".join(part.chunk.data for part in segment.parts)

    def part(self, msn: int, index: int) -> bytes | None:
        """The bytes of a part; None when it is not here."""
        segment = self._find(msn)
        if segment is None or not 0 <= index < len(segment.parts):
            return None
        return segment.parts[index].chunk.data

    # What a reader of the endless file asks for. It keeps a number, and no queue of its own.

    @property
    def current(self) -> Init | None:
        """The init of the newest chunk; None before the first."""
        return self._inits[self._segments[-1].init] if self._segments else None

    def read(self, nth: int | None) -> Part | None:
        """The part that a reader takes next who wants the `nth`; None: wait.

        A new reader (None) and one more than `BEHIND_PARTS_MAX` behind go on at the newest key
        chunk: nothing is replayed, and memory does not grow with somebody's lag.
        """
        if not self._segments or nth == self._next_nth:
            return None
        oldest = self._segments[0].parts[0].nth
        if nth is None or nth < oldest or self._next_nth - nth > BEHIND_PARTS_MAX:
            nth = max(nth or 0, oldest, self._newest_key)
        return next(
            segment.parts[nth - segment.parts[0].nth]
            for segment in reversed(self._segments)
            if segment.parts[0].nth <= nth
        )

    # Where segments begin and end.

    def _starts_segment(self, chunk: Chunk) -> bool:
        if not self._segments or self._segments[-1].complete:
            return True
        segment = self._segments[-1]
        if chunk.discontinuity or chunk.init != segment.init:
            return True
        # With a key frame in every chunk, a segment each would make the window too short.
        return chunk.key and segment.seconds >= self.target_s / 2

    def _start_segment(self, chunk: Chunk) -> None:
        date_ms = self._date_ms(chunk)
        if self._segments:
            self._segments[-1].complete = True
        self._segments.append(Segment(self._next_msn, chunk.discontinuity, date_ms))
        self._next_msn += 1

    def _date_ms(self, chunk: Chunk) -> float:
        """The date of the segment that begins with `chunk`.

        Dates follow the durations, not the broadcaster's clock: hls.js places by the dates what
        it has not played, and if they say other than the durations it skips a part of every
        segment. So where that would be too far from the truth, earlier dates are told no more.
        """
        if not self._segments or chunk.discontinuity:
            return chunk.captured_ms
        last = self._segments[-1]
        date_ms = last.date_ms + last.seconds * 1000
        if abs(chunk.captured_ms - date_ms) <= DATE_OFF_MS_MAX:
            return date_ms
        self._dates_from = self._next_msn
        return chunk.captured_ms

    def _count_key(self, chunk: Chunk) -> None:
        if chunk.key:
            self._newest_key = self._next_nth
            if self._since_key_s and not chunk.discontinuity:
                # As many GOPs as half a target takes: see `_starts_segment`.
                gops = math.ceil(self.target_s / 2 / self._since_key_s - 1e-6)
                self._segment_s = min(gops * self._since_key_s, self.target_s)
            self._since_key_s = 0.0
        self._since_key_s += chunk.seconds

    def _full(self, segment: Segment) -> bool:
        """Full when the next key chunk is due: then the hint names the next segment."""
        if len(segment.parts) >= PARTS_MAX or segment.size >= SEGMENT_BYTES_MAX:
            return True
        return segment.seconds + segment.parts[-1].chunk.seconds / 2 > self._segment_s

    def _forget(self) -> None:
        size = sum(segment.size for segment in self._segments)
        while len(self._segments) > SEGMENTS_MAX or (
            size > WINDOW_BYTES_MAX and len(self._segments) > 1
        ):
            gone = self._segments.popleft()
            size -= gone.size
            self._discontinuities_gone += gone.discontinuity

    def _find(self, msn: int) -> Segment | None:
        index = msn - self._segments[0].msn if self._segments else -1
        return self._segments[index] if 0 <= index < len(self._segments) else None

    # The text.

    def _head(self) -> Iterator[str]:
        part_target_s = _up(self._part_target_s)
        yield "#EXTM3U"
        yield "#EXT-X-VERSION:9"
        yield f"#EXT-X-TARGETDURATION:{self.target_s}"
        yield f"#EXT-X-PART-INF:PART-TARGET={part_target_s:.3f}"
        yield (
            "#EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES,"
            f"PART-HOLD-BACK={HOLD_BACK_PARTS * part_target_s:.3f}"
        )
        yield f"#EXT-X-MEDIA-SEQUENCE:{self._segments[0].msn}"
        if self._discontinuities_gone:
            yield f"#EXT-X-DISCONTINUITY-SEQUENCE:{self._discontinuities_gone}"

    def _body(self) -> Iterator[str]:
        init = b""
        with_parts = self._segments[-1].msn - SEGMENTS_WITH_PARTS
        for segment in self._segments:
            if segment.discontinuity:
                yield "#EXT-X-DISCONTINUITY"
            # A change of init alone is no discontinuity: the clocks go on, and players that
            # are told otherwise reset, or never start (facts/media.md 4).
            if segment.discontinuity or segment.init != init:
                yield f'#EXT-X-MAP:URI="{segment.init.hex()}.mp4"'
                init = segment.init
            if segment.msn >= self._dates_from:
                yield f"#EXT-X-PROGRAM-DATE-TIME:{_date(segment.date_ms)}"
            if segment.msn > with_parts:
                yield from (_part_line(part) for part in segment.parts)
            if segment.complete:
                yield f"#EXTINF:{segment.seconds:.5f},"
                yield f"{segment.msn}.m4s"

    def _tail(self) -> Iterator[str]:
        hint = self.hint()
        if hint is None:
            yield "#EXT-X-ENDLIST"
        else:
            yield f'#EXT-X-PRELOAD-HINT:TYPE=PART,URI="{hint[0]}.{hint[1]}.m4s"'


def _part_line(part: Part) -> str:
    independent = ",INDEPENDENT=YES" if part.chunk.key else ""
    uri = f"{part.msn}.{part.index}.m4s"
    return f'#EXT-X-PART:DURATION={part.chunk.seconds:.5f},URI="{uri}"{independent}'


def _date(unix_ms: float) -> str:
    date = _EPOCH + timedelta(milliseconds=min(max(round(unix_ms), 0), _MS_MAX))
    return date.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _rounded(seconds: float) -> int:
    """Section 4.4.3.1: EXTINF, rounded to the nearest integer, is at most the target duration."""
    return int(seconds + 0.5)


def _up(seconds: float) -> float:
    """Rounded up to the millisecond: no part may be longer than what three decimals say."""
    return -(-round(seconds * 1e6) // 1000) / 1000
