"""The fast path for parcels: our engine, with a shorter way for the packets that are the most.

Invariants. Packets of nothing but STREAM frames of parcels are built and read here, a train at a
time, without aioquic's stream and builder objects; small ones take the short way of `short`.
Everything else takes aioquic's code, on the same state. A stream to which something odd happens is
handed over to aioquic, for good. With a qlog nothing is fast, so that the trace is whole. What the
bytes on the wire mean, and all limits, are those of `Engine`.

`outbox` and `inbox` have the parcels, `frames` their frames, `protection` the packets; here these
meet the connection. facts/quic.md 3 has the measurements behind each short cut.
"""
# ruff: noqa: SLF001  # `names.py` checks what is used here.

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, cast

from aioquic._buffer import Buffer, BufferReadError
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnectionError, QuicReceiveContext
from aioquic.quic.packet import QuicStreamFrame, decode_packet_number
from aioquic.quic.stream import QuicStream

from p2pstream.identity import Address
from p2pstream.net import names
from p2pstream.net.engine import PARCEL_WINDOW_BYTES, Engine
from p2pstream.net.frames import LENGTH, OFFSET, STREAM, STREAMS
from p2pstream.net.inbox import Inbound, Inbox
from p2pstream.net.outbox import Outbox, Sent
from p2pstream.net.protection import (
    NUMBER_BYTES,
    NUMBERS,
    SAMPLE_AT,
    SAMPLE_BYTES,
    TAG_BYTES,
    seal,
    unmask,
    unmask_one,
    unseal,
    unseal_one,
    whole_numbers,
)
from p2pstream.net.short import PHASE_SHIFT, SHORT, SPIN, ShortEngine
from p2pstream.net.udp import TRAIN_BYTES_MAX, TRAIN_MAX, Datagram, Train, joined

_log = logging.getLogger("p2pstream.net")


class FastEngine(ShortEngine):
    """`Engine` with the fast path for parcels. Made like it, used like it."""

    def __init__(self, *, configuration: QuicConfiguration, **others: Any) -> None:
        super().__init__(configuration=configuration, **others)
        self._outbox = Outbox()
        self._inbox = Inbox(
            self._local_max_data,
            self._local_max_streams_uni,
            window=PARCEL_WINDOW_BYTES,
            own=3 if self._is_client else 2,
            foreign=self._streams,
            tell=self._tell,
        )

    # What the link may know.

    def outstanding(self, stream_id: int) -> tuple[int, int] | None:
        """As of `Engine`."""
        stream = self._outbox.streams.get(stream_id)
        if stream is None:
            return super().outstanding(stream_id)
        return stream.size - stream.sent, stream.unacked

    def owes(self, stream_id: int) -> bool:
        """As of `Engine`."""
        stream = self._outbox.streams.get(stream_id)
        if stream is None:
            return super().owes(stream_id)
        return stream.sent < stream.size or any(e[0] is stream for e in self._outbox.again)

    @property
    def unsent_bytes(self) -> int:
        """As of `Engine`."""
        size = super().unsent_bytes if len(self._streams) > 1 else 0
        for stream in self._outbox.fresh:
            size += stream.size - stream.sent
        return size

    @property
    def may_be_fed(self) -> bool:
        """As of `Engine`; a parcel in flight costs nothing, and the peer limits their number."""
        return self.can_open_parcel

    def sendable_bytes(self, now: float) -> int:
        """As of `Engine`."""
        return self._allowance(now) * self._max_datagram_size if self._quick else 0

    def knows(self, stream_id: int) -> bool:
        """As of `Engine`."""
        return (
            stream_id in self._inbox.open
            or stream_id in self._outbox.streams
            or super().knows(stream_id)
        )

    # What the link may do.

    def send_stream_data(self, stream_id: int, data: bytes, end_stream: bool = False) -> None:
        if (
            end_stream
            and self._quic_logger is None
            and stream_id == self._local_next_stream_id_uni
            and self.can_open_parcel
            and 0 < len(data) <= self._remote_max_stream_data_uni
        ):
            self._local_next_stream_id_uni = stream_id + 4
            self._outbox.add(stream_id, data)
        else:
            super().send_stream_data(stream_id, data, end_stream)

    def reset_stream(self, stream_id: int, error_code: int) -> None:
        self._hand_over(stream_id)
        super().reset_stream(stream_id, error_code)

    def stop_stream(self, stream_id: int, error_code: int) -> None:
        self._hand_over(stream_id)
        super().stop_stream(stream_id, error_code)

    # Sending.

    def datagrams_to_send(self, now: float) -> list[Datagram]:
        return [
            (data[at : at + size], address)
            for data, size, address in self.trains_to_send(now)
            for at in range(0, len(data), size)
        ]

    def trains_to_send(self, now: float) -> list[Train]:
        """As of `Engine`."""
        if not self._quick:
            return joined(super().datagrams_to_send(now))
        odd = self._needs_stock()
        out = [] if odd else self._send_small(now)
        if self._probe_pending and self._outbox.again:
            out += self._send_parcels(now)  # RFC 9002 6.2.4: a probe that carries data is better.
        if odd or self._left_over(now):
            self._acks_in_a_row = 0
            out += joined(super().datagrams_to_send(now))
            if not self._quick:
                return out
        else:
            if probes := self._probe_path(now):
                out += joined(probes)
            self._pacing_at = None
        while self._outbox and (trains := self._send_parcels(now)):
            out += trains
        return out

    def _send_parcels(self, now: float) -> list[Train]:
        """One train, if anything may leave."""
        most = self._allowance(now)
        if not most:
            return []
        header, keys = self._short_header()
        outbox = self._outbox
        outbox.credit = credit = self._remote_max_data - self._remote_max_data_used
        room = self._max_datagram_size - len(header) - NUMBER_BYTES - TAG_BYTES
        self._leave_one_out()
        first = self._packet_number
        longest = min(TRAIN_MAX, TRAIN_BYTES_MAX // self._max_datagram_size)
        most = min(most, longest, NUMBERS - first % NUMBERS)
        payloads, contents, places = outbox.cut(most, room)
        if not payloads:
            return []
        self._remote_max_data_used += credit - outbox.credit
        train = seal(payloads, first, header, keys)
        size = min(len(train), self._max_datagram_size)
        count = len(payloads)
        numbers = range(first, first + count)
        sizes = [size] * count
        sizes[-1] = len(train) - size * (count - 1)
        packets = map(Sent, numbers, [now] * count, sizes, contents, places)
        self._space.sent_packets.update(zip(numbers, packets, strict=True))
        self._note_sent(count, len(train), now)
        return [(train, size, self._network_paths[0].addr)]

    # Receiving.

    def receive_datagram(self, data: bytes, addr: Any, now: float) -> None:
        self.receive_train(data, max(1, len(data)), addr, now)

    def receive_train(self, data: bytes, size: int, address: Address, now: float) -> None:
        least = 1 + len(self.host_cid) + SAMPLE_AT + SAMPLE_BYTES
        quick = self._network_paths and address == self._network_paths[0].addr and self._quick
        whole, rest = divmod(len(data), size)
        count = (whole + (rest >= least)) if quick and size >= least else 0
        if count:
            try:
                if count == 1:
                    self._read_one(data[:size], address, now)
                else:
                    self._read(data, size, count, address, now)
            except QuicConnectionError as error:
                self.close(error.error_code, error.frame_type or 0, error.reason_phrase)
                return
        for at in range(size * count, len(data), size):
            super().receive_datagram(data[at : at + size], address, now)

    def _read_one(self, data: bytes, address: Address, now: float) -> None:
        """As `_read`, of one packet: a third of the calls."""
        keys, cid, space = self._keys.recv, self.host_cid, self._space
        at = 1 + len(cid)
        first, short = unmask_one(data, at, keys)
        plain = SHORT | keys.key_phase << PHASE_SHIFT | NUMBER_BYTES - 1
        if first & ~SPIN != plain or data[1:at] != cid:
            super().receive_datagram(data, address, now)
            return
        number = decode_packet_number(short, 8 * NUMBER_BYTES, space.expected_packet_number)
        payload = unseal_one(data, at, first, number, keys)
        if payload is None or (
            number < space.expected_packet_number and number in space.received_packets
        ):
            return
        space.expected_packet_number = max(space.expected_packet_number, number + 1)
        eliciting = self._take_one(payload, now)
        if self._quick:
            self._inbox.tell_beginnings()
            self._note_received(range(number, number + 1), number, eliciting, first, now)

    def _read(self, data: bytes, size: int, count: int, address: Address, now: float) -> None:
        """Open `count` packets and do what they say."""
        keys, cid, space = self._keys.recv, self.host_cid, self._space
        at = 1 + len(cid)
        firsts, columns = unmask(data, size, count, at, keys)
        plain = SHORT | keys.key_phase << PHASE_SHIFT | NUMBER_BYTES - 1
        numbers = whole_numbers(columns, space.expected_packet_number)
        straight = isinstance(numbers, range)
        least, largest = numbers[0], numbers[-1]
        if not straight:
            least, largest = min(numbers), max(numbers)
        above = least // NUMBERS * NUMBERS
        if (
            firsts[0] & ~SPIN != plain
            or firsts.count(firsts[0]) != count
            or data[1:at] != cid  # What has another one among the others is no packet of ours.
            or largest >= above + NUMBERS
        ):
            for start in range(0, size * count, size):
                self.receive_train(data[start : start + size], size, address, now)
            return
        opened = unseal(data, size, firsts[:1] + cid, columns, above, keys)
        in_order = straight and least >= space.expected_packet_number
        if not in_order or None in opened:
            numbers, opened = self._new_ones(numbers, opened)
            if not numbers:
                return
            largest = max(numbers)
        space.expected_packet_number = max(space.expected_packet_number, largest + 1)
        eliciting = self._take(cast("list[bytes]", opened), now)
        if self._quick:
            self._inbox.tell_beginnings()
            self._note_received(numbers, largest, eliciting, firsts[0], now)

    def _new_ones(
        self, numbers: Sequence[int], payloads: list[bytes | None]
    ) -> tuple[Sequence[int], list[bytes | None]]:
        """Those that are the peer's and have not come before (RFC 9000 12.3)."""
        received = self._space.received_packets
        new: dict[int, bytes | None] = {}
        for number, payload in zip(numbers, payloads, strict=True):
            if payload is not None and number not in new and number not in received:
                new[number] = payload
        return list(new), list(new.values())

    def _take(self, payloads: list[bytes], now: float) -> bool:
        """Do what packets say; whether they are to be acknowledged."""
        at, eliciting = 0, False
        while at < len(payloads):
            start = at
            at, read = self._inbox.take_all(payloads, at)
            eliciting |= at > start or read > 0
            if at < len(payloads):
                eliciting |= self._take_others(payloads[at], read, now)
                if not self._quick:
                    break
                at += 1
        return eliciting

    def _take_one(self, payload: bytes, now: float) -> bool:
        """As `_take`, of one packet."""
        if not payload or payload[0] & STREAMS != STREAM:
            return self._take_others(payload, 0, now)
        at, read = self._inbox.take_all([payload], 0)
        return at == 1 or self._take_others(payload, read, now) or read > 0

    # Where the slow path meets a parcel.

    def _handle_stream_frame(
        self, context: QuicReceiveContext, frame_type: int, buf: Buffer
    ) -> None:
        start = buf.tell()
        stream_id = buf.pull_uint_var()
        if self._quic_logger is not None or not self._inbox.owns(stream_id):
            buf.seek(start)
            super()._handle_stream_frame(context, frame_type, buf)
            return
        offset = buf.pull_uint_var() if frame_type & OFFSET else 0
        length = buf.pull_uint_var() if frame_type & LENGTH else buf.capacity - buf.tell()
        self._inbox.take(stream_id, offset, buf.pull_bytes(length), frame_type)
        self._inbox.tell_beginnings()

    def _handle_reset_stream_frame(
        self, context: QuicReceiveContext, frame_type: int, buf: Buffer
    ) -> None:
        self._hand_over(_peek(buf))
        super()._handle_reset_stream_frame(context, frame_type, buf)

    def _handle_stop_sending_frame(
        self, context: QuicReceiveContext, frame_type: int, buf: Buffer
    ) -> None:
        self._hand_over(_peek(buf))
        super()._handle_stop_sending_frame(context, frame_type, buf)

    def _handle_stream_data_blocked_frame(
        self, context: QuicReceiveContext, frame_type: int, buf: Buffer
    ) -> None:
        self._hand_over(_peek(buf))
        super()._handle_stream_data_blocked_frame(context, frame_type, buf)

    def _hand_over(self, stream_id: int) -> None:
        """Make a parcel one of aioquic's streams, with all that has happened to it."""
        if stream_id in self._inbox.open:
            inbound = self._inbox.drop(stream_id)
            self._tell(stream_id, b"".join(inbound.parts), False)
            stream = _stock_inbound(inbound)
        elif stream_id in self._outbox.streams:
            sent = self._outbox.drop(stream_id).sent
            stream = QuicStream(stream_id=stream_id, readable=False)
            stream.sender.highest_offset = stream.sender._buffer_stop = sent
        else:
            return
        self._streams[stream_id] = stream
        self._streams_queue.append(stream)

    def _held_bytes(self) -> int:
        return super()._held_bytes() + self._inbox.held_bytes


def _stock_inbound(inbound: Inbound) -> QuicStream:
    stream = QuicStream(
        stream_id=inbound.id, max_stream_data_local=PARCEL_WINDOW_BYTES, writable=False
    )
    receiver = stream.receiver
    receiver._buffer_start = receiver.highest_offset = inbound.next
    for offset, data in sorted(inbound.early.items()):
        receiver.handle_frame(QuicStreamFrame(data=data, offset=offset))
    receiver.highest_offset = inbound.highest
    receiver._final_size = inbound.final if inbound.final >= 0 else None
    return stream


def _peek(buf: Buffer) -> int:
    start = buf.tell()
    try:
        return buf.pull_uint_var()
    except BufferReadError:
        return -1
    finally:
        buf.seek(start)


def fastest() -> type[Engine]:
    """`FastEngine`, or `Engine` where this aioquic lacks a name that it needs."""
    if lacking := names.missing(names.FAST):
        _log.warning("this aioquic lacks %s: sending and receiving will cost more", lacking)
        return Engine
    return FastEngine


BEST_ENGINE = fastest()
