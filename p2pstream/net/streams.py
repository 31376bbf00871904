"""Parcels as STREAM frames, both ways, without aioquic's stream objects. No hands, no keys.

Outgoing: every byte of a parcel is in exactly one of four states: not cut yet, in flight, to be
repeated, acknowledged. The FIN goes with the last byte. Incoming: what has come in order is kept
in parts, what came early besides, both within the window that the peer was given.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from aioquic.quic.connection import QuicConnectionError
from aioquic.quic.packet import QuicErrorCode, QuicPacketType
from aioquic.quic.packet_builder import QuicDeliveryState
from aioquic.tls import Epoch

PAYLOAD_BYTES_MIN = 4  # RFC 9001 5.4.2: with a packet number of two bytes, two would do.
FILL_BYTES_MIN = 200  # A shorter rest of a packet stays empty; wild guess.
PARTS_MAX = 64  # Joined above: a part costs 40 bytes besides its content.
EARLY_MAX = 256  # Parts of one parcel that came too early. Honest peers cut one into 50 at most.

# RFC 9000 19.8: 0b00001, then: an offset, a length, the end.
STREAM, OFFSET, LENGTH, FIN = 0x08, 0x04, 0x02, 0x01

BYTE = [bytes((value,)) for value in range(256)]
# RFC 9000 16: by the first byte of a number, its length; by its length, what of it counts.
WIDTH = bytes(1 << (first >> 6) for first in range(256))
MASK = {1: 0x3F, 2: 0x3FFF, 4: 0x3FFF_FFFF, 8: 0x3FFF_FFFF_FFFF_FFFF}


def varint(value: int) -> bytes:
    """RFC 9000 16."""
    if value < 0x40:
        return BYTE[value]
    if value < 0x4000:
        return (value | 0x4000).to_bytes(2)
    if value < 0x4000_0000:
        return (value | 0x8000_0000).to_bytes(4)
    return (value | 0xC000_0000_0000_0000).to_bytes(8)


class Outbound:
    """A parcel on its way out."""

    __slots__ = ("data", "id", "name", "outbox", "sent", "size", "unacked")

    def __init__(self, stream_id: int, data: bytes, outbox: Outbox) -> None:
        self.id = stream_id
        self.name = varint(stream_id)
        self.data = data
        self.size = self.unacked = len(data)
        self.sent = 0  # Bytes cut into frames at least once.
        self.outbox = outbox


class Sent:
    """A packet of nothing but STREAM frames of parcels; what aioquic's recovery wants to see."""

    __slots__ = ("more", "packet_number", "sent_bytes", "sent_time", "start", "stop", "stream")

    epoch = Epoch.ONE_RTT
    in_flight = True
    is_ack_eliciting = True
    is_crypto_packet = False
    packet_type = QuicPacketType.ONE_RTT
    packet_number: int
    sent_bytes: int
    sent_time: float

    def __init__(
        self, stream: Outbound, start: int, stop: int, more: list[tuple[Outbound, int, int]] | None
    ) -> None:
        self.stream = stream
        self.start = start
        self.stop = stop
        self.more = more  # The frames after the first one.

    @property
    def delivery_handlers(self) -> list[tuple[Any, Any]]:
        """For aioquic's own paths; `FastRecovery` takes a short cut."""
        return [(self._on_delivery, ())]

    def acked(self) -> None:
        """The peer has it."""
        self._on_delivery(QuicDeliveryState.ACKED)

    def _on_delivery(self, fate: QuicDeliveryState) -> None:
        for stream, start, stop in [(self.stream, self.start, self.stop), *(self.more or ())]:
            if fate is QuicDeliveryState.ACKED:
                stream.unacked -= stop - start
                if not stream.unacked:
                    stream.outbox.streams.pop(stream.id, None)
            elif stream.id in stream.outbox.streams:
                stream.outbox.again.append((stream, start, stop))


class Outbox:
    """The parcels of one connection that the peer does not have yet."""

    def __init__(self) -> None:
        self.streams: dict[int, Outbound] = {}
        self.fresh: deque[Outbound] = deque()  # With bytes that were never sent, in order.
        self.again: deque[tuple[Outbound, int, int]] = deque()  # Lost ranges.

    def __bool__(self) -> bool:
        return bool(self.fresh or self.again)

    def add(self, stream_id: int, data: bytes) -> None:
        """One more parcel, all of it."""
        stream = self.streams[stream_id] = Outbound(stream_id, data, self)
        self.fresh.append(stream)

    def drop(self, stream_id: int) -> Outbound:
        """Forget a parcel. What of it is in flight does not matter any more."""
        stream = self.streams.pop(stream_id)
        self.fresh = deque(other for other in self.fresh if other is not stream)
        self.again = deque(entry for entry in self.again if entry[0] is not stream)
        return stream

    def cut(self, most: int, room: int, credit: int) -> tuple[list[tuple[bytes, Sent]], int]:
        """Payloads for at most `most` packets of `room` bytes, and what is left of `credit`."""
        packets: list[tuple[bytes, Sent]] = []
        fresh = self.fresh
        while len(packets) < most:
            if not self.again and fresh:
                # The usual case: a packet full of one parcel, in a frame without a length.
                stream = fresh[0]
                start = stream.sent
                offset = varint(start) if start else b""
                take = room - 1 - len(stream.name) - len(offset)
                if take < stream.size - start and take <= credit:
                    stop = stream.sent = start + take
                    credit -= take
                    kind = b"\x0c" if start else b"\x08"
                    payload = kind + stream.name + offset + stream.data[start:stop]
                    packets.append((payload, Sent(stream, start, stop, None)))
                    continue
            frames, spans, credit = self._fill(room, credit)
            if not spans:
                break
            (stream, start, stop), *more = spans
            payload = b"".join(frames).rjust(PAYLOAD_BYTES_MIN, b"\x00")  # PADDING goes first.
            packets.append((payload, Sent(stream, start, stop, more or None)))
        return packets, credit

    def _fill(
        self, room: int, credit: int
    ) -> tuple[list[bytes], list[tuple[Outbound, int, int]], int]:
        """Frames of several parcels for one packet: the end of one and the head of the next."""
        frames: list[bytes] = []
        spans: list[tuple[Outbound, int, int]] = []
        while room >= FILL_BYTES_MIN and (self.again or (self.fresh and credit > 0)):
            again = bool(self.again)
            stream, start, end = self.again[0] if again else self._head()
            # To the byte: packets of one length travel as one train.
            overhead = 1 + len(stream.name) + (len(varint(start)) if start else 0) + 2
            stop = min(end, start + room - overhead)
            if again:
                self._repeated(stop)
            else:
                stop = min(stop, start + credit)
                credit -= stop - start
                self._cut_off(stream, stop)
            frames.append(_frame(stream, start, stop))
            spans.append((stream, start, stop))
            room -= overhead + stop - start
        return frames, spans, credit

    def _head(self) -> tuple[Outbound, int, int]:
        stream = self.fresh[0]
        return stream, stream.sent, stream.size

    def _cut_off(self, stream: Outbound, stop: int) -> None:
        stream.sent = stop
        if stop == stream.size:
            self.fresh.popleft()

    def _repeated(self, until: int) -> None:
        stream, _, stop = self.again.popleft()
        if until < stop:
            self.again.appendleft((stream, until, stop))


class Inbound:
    """A parcel on its way in.

    due: the offset that continues it plainly; -1 once anything came out of order, or the end.
    """

    __slots__ = ("due", "early", "final", "id", "next", "parts", "told", "top")

    def __init__(self, stream_id: int) -> None:
        self.id = stream_id
        self.parts: list[bytes] = []
        self.next = self.due = 0  # Bytes in `parts`.
        self.top = 0  # The highest offset seen (RFC 9000 4.1), if above `next`.
        self.final = -1  # The parcel's size, if known.
        self.early: dict[int, bytes] = {}
        self.told = False  # Whether the link knows of it.

    @property
    def highest(self) -> int:
        """What counts against the windows."""
        return max(self.next, self.top)

    @property
    def complete(self) -> bool:
        return self.next == self.final

    def take(self, offset: int, data: bytes, kind: int) -> None:
        """A frame that is out of order, repeated or empty. Raises `QuicConnectionError`."""
        stop = offset + len(data)
        size = stop if kind & FIN else self.final
        if size >= 0 and (max(stop, self.highest) > size or self.final not in {-1, size}):
            # RFC 9000 4.5.
            raise QuicConnectionError(QuicErrorCode.FINAL_SIZE_ERROR, kind, "another final size")
        self.final = size
        self.top = max(self.top, stop)
        if stop == size and offset == self.next and not self.early:
            self._append(data)  # The usual end.
            return
        if stop > self.next and len(data) > len(self.early.get(offset, b"")):
            self.early[offset] = data
            self._advance()
        if len(self.early) > EARLY_MAX:
            raise QuicConnectionError(QuicErrorCode.INTERNAL_ERROR, kind, "a parcel in crumbs")
        self.due = -1 if self.early or size >= 0 else self.next

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


def _frame(stream: Outbound, start: int, stop: int) -> bytes:
    kind = STREAM | LENGTH
    if start:
        kind |= OFFSET
    if stop == stream.size:
        kind |= FIN
    offset = varint(start) if start else b""
    length = (stop - start | 0x4000).to_bytes(2)
    return b"".join((BYTE[kind], stream.name, offset, length, stream.data[start:stop]))
