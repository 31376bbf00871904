"""Parcels on their way in, put together without aioquic's stream objects. No hands, no keys.

What has come in order is kept in parts, what came early besides, both within the windows that the
peer was given; what goes beyond raises `QuicConnectionError` with the code of RFC 9000.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from aioquic.quic.connection import QuicConnectionError
from aioquic.quic.packet import QuicErrorCode

from p2pstream.net.frames import BYTE, FIN, LENGTH, OFFSET, STREAM, pull, stream_heads, varint

PARTS_MAX = 64  # Joined above: a part costs 40 bytes besides its content.
EARLY_MAX = 256  # Parts of one parcel that came too early. Honest peers cut one into 50 at most.

FOLLOW_MAX = 12  # Of these at once: 16 KiB, the body of most parcels.
LENGTH_MARK = 0x4000  # Of a number of two bytes (RFC 9000 16).

Tell = Callable[[int, bytes, bool], None]

# What frames of a parcel begin with, as `outbox.py` makes them: before their stream's id.
_BEGIN = BYTE[STREAM | LENGTH]
_MIDDLE = BYTE[STREAM | OFFSET]
_END = BYTE[STREAM | OFFSET | LENGTH | FIN]


class Inbound(msgspec.Struct, eq=False):
    """A parcel on its way in. Made without Python's help, since there are so many.

    lead: what a frame begins with that continues it. due: the offset that continues it plainly;
    -1 while anything beyond it is known, as the end.
    """

    id: int
    lead: bytes
    parts: list[bytes] = []  # Each has its own, as msgspec does it.
    next: int = 0  # Bytes in `parts`.
    due: int = 0
    top: int = 0  # The highest offset seen (RFC 9000 4.1), if above `next`.
    final: int = -1  # The parcel's size, if known.
    early: dict[int, bytes] = {}
    told: bool = False  # Whether the link knows of it.

    @property
    def highest(self) -> int:
        """What counts against the windows."""
        return max(self.next, self.top)

    def take(self, offset: int, data: bytes, kind: int) -> None:
        """A frame, perhaps out of order, repeated or empty. Raises `QuicConnectionError`."""
        stop = offset + len(data)
        if offset == self.due and data:  # The usual case.
            self.parts.append(data)
            self.next = stop
            self.due = -1 if kind & FIN else stop
            if kind & FIN:
                self.final = stop
            return
        size = stop if kind & FIN else self.final
        if size >= 0 and (max(stop, self.highest) > size or self.final not in {-1, size}):
            # RFC 9000 4.5.
            raise QuicConnectionError(QuicErrorCode.FINAL_SIZE_ERROR, kind, "another final size")
        self.final = size
        self.top = max(self.top, stop)
        if stop > self.next and len(data) > len(self.early.get(offset, b"")):
            self.early[offset] = data
            self._advance()
        if len(self.early) > EARLY_MAX:
            raise QuicConnectionError(QuicErrorCode.INTERNAL_ERROR, kind, "a parcel in crumbs")
        self.due = -1 if self.early or size >= 0 or self.top > self.next else self.next

    def _append(self, data: bytes) -> None:
        self.parts.append(data)
        self.next += len(data)

    def _advance(self) -> None:
        while self.early:
            offset = min(self.early)
            if offset > self.next:
                return
            data = self.early.pop(offset)
            if offset + len(data) > self.next:
                self._append(data[self.next - offset :])


class Inbox:
    """The parcels of one connection that have begun to come.

    data, streams: the limits that the peer was told, as aioquic keeps them; shared with it.
    own: the low bits of the ids of the peer's parcels (RFC 9000 2.1). foreign: streams that
    aioquic looks after. tell: called with the bytes of a parcel, and whether they are its end.
    """

    def __init__(
        self, data: Any, streams: Any, *, window: int, own: int, foreign: Any, tell: Tell
    ) -> None:
        self.open: dict[int, Inbound] = {}
        self._data = data
        self._streams = streams
        self._window = window
        self._own = own
        self._foreign = foreign
        self._tell = tell
        self._untold: list[Inbound] = []  # Began since the last `tell_beginnings`.
        self._newest: Inbound | None = None  # The one that the next frame is likely to continue.

    @property
    def held_bytes(self) -> int:
        """What has come and was not told."""
        return sum(stream.highest for stream in self.open.values())

    def owns(self, stream_id: int) -> bool:
        """Whether it is the peer's, of one direction, and not aioquic's."""
        return stream_id & 3 == self._own and stream_id not in self._foreign

    def take_all(self, payloads: Sequence[bytes], at: int) -> tuple[int, int]:
        """Take the payloads from `at` on, up to the first that has more than frames of parcels.

        All are equally long, but the last one may be shorter. Returns which one has more, and where
        in it the other frames begin.
        """
        count = len(payloads)
        equal = count - (len(payloads[-1]) != len(payloads[0]))
        while at < count:
            if self._newest is not None and at < equal:
                at += self._follow(payloads[at : min(equal, at + FOLLOW_MAX)])
                if at == count:
                    break
            payload = payloads[at]
            read = self._hand_on(payload)
            if read < len(payload) or not payload:
                read = self._read(payload, read)
                if read < len(payload) or not payload:
                    return at, read
            at += 1
        return at, 0

    def _follow(self, payloads: Sequence[bytes]) -> int:
        """Take those of the payloads that only continue the newest parcel; returns how many.

        Most do, and what such a frame begins with is known before: it need not be read.
        """
        stream, limit = self._newest, self._data
        if stream is None or not 0x40 <= (due := stream.due) < 0x4000:
            return 0
        lead = stream.lead
        skip = len(lead) + 2  # As long are offsets from 0x40 on (RFC 9000 16).
        step = len(payloads[0]) - skip
        if step <= 0 or len(stream.parts) > PARTS_MAX:
            return 0
        # Where a payload does not begin so, `removeprefix` leaves all of it.
        parts = list(
            map(bytes.removeprefix, payloads, stream_heads(lead, due, step, len(payloads)))
        )
        count = [*map(len, parts), step + skip].index(step + skip)
        size = step * count
        due += size
        used = limit.used + size
        if due > self._window or used > limit.value:
            return 0  # `take` will find the one that goes beyond.
        stream.parts += parts[:count]
        stream.next = stream.due = due
        limit.used = used
        return count

    def _hand_on(self, data: bytes) -> int:
        """Take the end of the newest parcel and the beginning of the next one; where that stops.

        A packet has both, as a rule, and what they begin with is known before, as in `_follow`.
        """
        stream, limit = self._newest, self._data
        if stream is None or stream.due <= 0:
            return 0
        lead = _END + stream.lead[1:] + varint(stream.due)
        if not data.startswith(lead):
            return 0
        at = len(lead) + 2
        size = int.from_bytes(data[at - 2 : at]) - LENGTH_MARK
        stop, due, used = at + size, stream.due + size, limit.used + size
        if size <= 0 or stop > len(data) or due > self._window or used > limit.value:
            return 0
        stream.parts.append(data[at:stop])
        stream.next = stream.final = due
        limit.used = used
        self._finish(stream)
        return self._begin_next(data, stop, stream.id + 4)

    def _begin_next(self, data: bytes, start: int, number: int) -> int:
        """Take the beginning of the parcel `number`, if that is what is there; where it stops."""
        streams, limit = self._streams, self._data
        name = varint(number)
        at = start + 1 + len(name) + 2
        size = int.from_bytes(data[at - 2 : at]) - LENGTH_MARK
        if (
            not 0 < size == len(data) - at
            or not data.startswith(_BEGIN + name, start)
            or not streams.used == number >> 2 < streams.value
            or size > self._window
            or limit.used + size > limit.value
        ):
            return start
        parts = [data[at:]]
        stream = Inbound(number, _MIDDLE + name, parts, size, size)
        self.open[number] = self._newest = stream
        self._untold.append(stream)
        streams.used += 1
        limit.used += size
        return len(data)

    def _finish(self, stream: Inbound) -> None:
        """All of it has come."""
        self._newest = None
        del self.open[stream.id]
        self._streams.value += 1  # RFC 9000 4.6.
        self._tell(stream.id, b"".join(stream.parts), True)

    def _read(self, data: bytes, at: int) -> int:
        """Take the STREAM frames of parcels (RFC 9000 19.8) from `at` on; where others begin."""
        end = len(data)
        while at < end and STREAM <= (kind := data[at]) <= STREAM | OFFSET | LENGTH | FIN:
            begin = at
            offset, stop = 0, end
            try:
                stream_id, at = pull(data, at + 1)
                if kind & OFFSET:
                    offset, at = pull(data, at)
                if kind & LENGTH:
                    stop, at = pull(data, at)
                    stop += at
            except IndexError:
                stop = -1
            if not at <= stop <= end:
                raise QuicConnectionError(QuicErrorCode.FRAME_ENCODING_ERROR, kind, "cut short")
            if stream_id not in self.open and not self.owns(stream_id):
                return begin
            self.take(stream_id, offset, data[at:stop], kind)
            at = stop
        return at

    def take(self, stream_id: int, offset: int, data: bytes, kind: int) -> None:
        """A frame of a parcel (RFC 9000 4.1); of one that has ended, nothing happens."""
        stream = self.open.get(stream_id) or self._begin(stream_id, kind)
        if stream is None:
            return
        stop, limit = offset + len(data), self._data
        if stop > self._window:
            raise QuicConnectionError(QuicErrorCode.FLOW_CONTROL_ERROR, kind, "over stream limit")
        new = max(0, stop - stream.highest)
        if limit.used + new > limit.value:
            raise QuicConnectionError(QuicErrorCode.FLOW_CONTROL_ERROR, kind, "over data limit")
        stream.take(offset, data, kind)
        limit.used += new
        self._newest = stream
        if stream.next == stream.final:
            self._finish(stream)
        elif len(stream.parts) > PARTS_MAX:
            stream.parts = [b"".join(stream.parts)]

    def tell_beginnings(self) -> None:
        """Let the link watch the parcels that have begun, so that slow ones do not stay."""
        if not self._untold:
            return
        untold = [stream for stream in self._untold if stream.id in self.open]
        for stream in untold:
            if stream.highest:
                stream.told = True
                self._tell(stream.id, b"", False)
        # The others were opened only because a later one was.
        self._untold = [stream for stream in untold if not stream.told]

    def drop(self, stream_id: int) -> Inbound:
        """Forget a parcel; aioquic looks after it from now on."""
        if self._newest is not None and self._newest.id == stream_id:
            self._newest = None
        return self.open.pop(stream_id)

    def _begin(self, stream_id: int, kind: int) -> Inbound | None:
        """A new parcel begins, and all below it (RFC 9000 2.1); None if this one has ended."""
        limit = self._streams
        count = (stream_id >> 2) + 1
        if count > limit.value:
            error = QuicErrorCode.STREAM_LIMIT_ERROR
            raise QuicConnectionError(error, kind, "Too many streams open")
        for index in range(limit.used, count):
            number = index << 2 | self._own
            stream = self.open[number] = Inbound(number, _MIDDLE + varint(number))
            self._untold.append(stream)
        limit.used = max(limit.used, count)
        return self.open.get(stream_id)
