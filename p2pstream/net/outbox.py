"""Parcels on their way out, cut into packets without aioquic's stream objects. No hands, no keys.

Every byte of a parcel is in exactly one of four states: not cut yet, in flight, to be repeated,
acknowledged. The FIN goes with the last byte.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from operator import add
from typing import Any, ClassVar

import msgspec
from aioquic.quic.packet import QuicPacketType
from aioquic.quic.packet_builder import QuicDeliveryState
from aioquic.tls import Epoch

from p2pstream.net.frames import BYTE, OFFSET, STREAM, cutter, stream_frame, stream_heads, varint
from p2pstream.net.protection import PAYLOAD_BYTES_MIN

FILL_BYTES_MIN = 32  # A shorter rest of a packet is padded: a frame costs more. Wild guess.


class Outbound:
    """A parcel on its way out."""

    __slots__ = ("data", "id", "lead", "name", "outbox", "sent", "size", "unacked")

    def __init__(self, stream_id: int, data: bytes, outbox: Outbox) -> None:
        self.id = stream_id
        self.name = varint(stream_id)
        self.lead = BYTE[STREAM | OFFSET] + self.name  # Of a frame in its middle.
        self.data = data
        self.size = self.unacked = len(data)
        self.sent = 0  # Bytes cut into frames at least once.
        self.outbox = outbox


Span = tuple[Outbound, int, int]  # A stretch of a parcel.


class Run:
    """What packets in a row have of one parcel: so many bytes each."""

    __slots__ = ("start", "step", "stream")

    def __init__(self, stream: Outbound, start: int, step: int) -> None:
        self.stream = stream
        self.start = start
        self.step = step

    def acked(self, count: int) -> None:
        """The peer has so many of these packets."""
        _acked(self.stream, self.step * count)

    def lost(self, place: int) -> None:
        """The peer may not have this one."""
        start = self.start + place * self.step
        _lost((self.stream, start, start + self.step))


class Mix:
    """What one packet has of several parcels, or the end of one."""

    __slots__ = ("spans",)

    def __init__(self, spans: list[Span]) -> None:
        self.spans = spans

    def acked(self, _count: int) -> None:
        """The peer has it."""
        for stream, start, stop in self.spans:
            _acked(stream, stop - start)

    def lost(self, _place: int) -> None:
        """The peer may not have it."""
        for span in self.spans:
            _lost(span)


class Sent(msgspec.Struct, gc=False):
    """A packet of nothing but STREAM frames of parcels; what aioquic's recovery wants to see.

    A struct of msgspec, for there is one for each packet: made without Python's help.
    """

    packet_number: int
    sent_time: float
    sent_bytes: int
    content: Run | Mix
    place: int  # In its run.

    epoch: ClassVar[Epoch] = Epoch.ONE_RTT
    in_flight: ClassVar[bool] = True
    is_ack_eliciting: ClassVar[bool] = True
    is_crypto_packet: ClassVar[bool] = False
    packet_type: ClassVar[QuicPacketType] = QuicPacketType.ONE_RTT

    @property
    def delivery_handlers(self) -> list[tuple[Any, Any]]:
        """For aioquic's own paths; `FastRecovery` takes a short cut."""
        return [(self._on_delivery, ())]

    def _on_delivery(self, fate: QuicDeliveryState) -> None:
        if fate is QuicDeliveryState.ACKED:
            self.content.acked(1)
        else:
            self.content.lost(self.place)


def _acked(stream: Outbound, size: int) -> None:
    stream.unacked -= size
    if not stream.unacked:
        stream.outbox.streams.pop(stream.id, None)


def _lost(span: Span) -> None:
    stream = span[0]
    if stream.id in stream.outbox.streams:
        stream.outbox.again.append(span)


class Outbox:
    """The parcels of one connection that the peer does not have yet."""

    def __init__(self) -> None:
        self.streams: dict[int, Outbound] = {}
        self.fresh: deque[Outbound] = deque()  # With bytes that were never sent, in order.
        self.again: deque[Span] = deque()  # Lost.
        self.credit = 0  # Bytes that the peer takes of what was never sent.

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
        self.again = deque(span for span in self.again if span[0] is not stream)
        return stream

    def cut(self, most: int, room: int) -> tuple[list[bytes], list[Run | Mix], list[int]]:
        """At most `most` payloads; what is in each, and its place in it; uses `credit` up.

        All have `room` bytes; only the last one may have fewer.
        """
        payloads: list[bytes] = []
        contents: list[Run | Mix] = []
        places: list[int] = []
        while len(payloads) < most:
            found: tuple[Sequence[bytes], Run | Mix] | None = None
            if self.fresh and not self.again:
                found = self._run(most - len(payloads), room)
            if found is None and (found := self._fill(room)) is None:
                break
            if payloads:  # PADDING, behind a frame that tells its length.
                payloads[-1] = payloads[-1].ljust(room, b"\x00")
            run, content = found
            payloads += run
            contents += [content] * len(run)
            places += range(len(run))
        return payloads, contents, places

    def _run(self, most: int, room: int) -> tuple[Sequence[bytes], Run] | None:
        """Packets full of the first parcel, each a frame without a length; not its end.

        The usual case, so all of them at once, as long as their offsets are equally long.
        """
        stream = self.fresh[0]
        start, left = stream.sent, min(stream.size - stream.sent - 1, self.credit)
        lead, count = stream.lead, 1
        if 0x40 <= start < 0x4000:
            step = room - len(lead) - 2
            heads = stream_heads(lead, start, step, min(most, left // step))
            count = len(heads)
        else:
            heads = [lead + varint(start) if start else BYTE[STREAM] + stream.name]
            step = room - len(heads[0])
        if not count or left < step:
            return None
        stream.sent = start + count * step
        self.credit -= count * step
        parts = cutter(0, step, 0, count)(stream.data, start)
        return list(map(add, heads, parts)), Run(stream, start, step)

    def _fill(self, room: int) -> tuple[Sequence[bytes], Mix] | None:
        """A packet of several parcels: the end of one and the head of the next."""
        frames: list[bytes] = []
        spans: list[Span] = []
        while (not spans or room >= FILL_BYTES_MIN) and self._owes:
            again = bool(self.again)
            stream, start, end = self.again[0] if again else self._head()
            # To the byte: packets of one length travel as one train.
            overhead = 1 + len(stream.name) + (len(varint(start)) if start else 0) + 2
            stop = min(end, start + room - overhead)
            if again:
                self._repeated(stop)
            else:
                stop = min(stop, start + self.credit)
                self.credit -= stop - start
                self._cut_off(stream, stop)
            data = stream.data[start:stop]
            frames.append(stream_frame(stream.name, start, data, end=stop == stream.size))
            spans.append((stream, start, stop))
            room -= overhead + stop - start
        if not spans:
            return None
        return [b"".join(frames).ljust(PAYLOAD_BYTES_MIN, b"\x00")], Mix(spans)

    @property
    def _owes(self) -> bool:
        return bool(self.again or (self.fresh and self.credit > 0))

    def _head(self) -> Span:
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
