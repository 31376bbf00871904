"""The fast path for parcels: our engine, with a shorter way for the packets that are the most.

Invariants. Packets of nothing but STREAM frames of parcels, and ACKs, are built and read here, in
batches, without aioquic's stream and builder objects; everything else (handshake, control stream,
odd frames, other paths, good-byes) takes aioquic's code, on the same state. A stream to which
something odd happens is handed over to aioquic, for good. With a qlog nothing is fast, so that the
trace is whole. What the bytes on the wire mean, and all limits, are those of `Engine`.

facts/quic.md 3 has the measurements behind each short cut.
"""
# ruff: noqa: SLF001  # `names.py` checks what is used here.

from __future__ import annotations

import logging
from collections.abc import Iterable
from struct import Struct, iter_unpack
from typing import Any

from aioquic._buffer import Buffer, BufferReadError
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import (
    QuicConnectionError,
    QuicConnectionState,
    QuicReceiveContext,
)
from aioquic.quic.events import StreamDataReceived
from aioquic.quic.packet import (
    QuicErrorCode,
    QuicFrameType,
    QuicPacketType,
    QuicStreamFrame,
    decode_packet_number,
)
from aioquic.quic.recovery import MAX_ACK_RANGES
from aioquic.quic.stream import QuicStream
from aioquic.tls import Epoch
from cryptography.exceptions import InvalidTag

from p2pstream.identity import Address
from p2pstream.net import names
from p2pstream.net.engine import PARCEL_WINDOW_BYTES, Engine, is_credit_due
from p2pstream.net.recovery import PACING_S, FastRecovery, Ranges, Sum
from p2pstream.net.streams import (
    BYTE,
    FIN,
    LENGTH,
    MASK,
    OFFSET,
    PARTS_MAX,
    STREAM,
    WIDTH,
    Inbound,
    Outbox,
    Sent,
    varint,
)
from p2pstream.net.udp import TRAIN_BYTES_MAX, TRAIN_MAX

ONE_RTT = Epoch.ONE_RTT
NUMBER_BYTES = 2  # Of a packet number, as aioquic sends it: up to 32,768 in flight.
TAG_BYTES = 16  # RFC 9001 5.3.
SAMPLE_BYTES = 16  # RFC 9001 5.4.2: from four bytes after the start of the packet number.
SHORT = 0x40  # RFC 9000 17.3: the fixed bit; then spin, two reserved, key phase, length of number.
SPIN, PHASE_SHIFT = 0x20, 2
UNMASKED = 0x1F  # RFC 9001 5.4.1: the bits of the first byte that are masked.
# RFC 9000 13.2.4: ask now and then for an ACK of our ACKs, or their ranges grow for ever.
ACKS_IN_A_ROW = 32
ACK_RANGES_MAX = 32  # Of one ACK; 8 bytes each at most.

_NUMBER = Struct(">H")
_log = logging.getLogger("p2pstream.net")


class _Acked:
    """A packet of an ACK and nothing else: neither counted nor acknowledged by itself."""

    __slots__ = ("delivery_handlers", "packet_number", "sent_bytes", "sent_time")

    epoch = ONE_RTT
    in_flight = is_ack_eliciting = is_crypto_packet = False
    packet_type = QuicPacketType.ONE_RTT

    def __init__(self, number: int, size: int, now: float, handler: Any, args: Any) -> None:
        self.packet_number = number
        self.sent_bytes = size
        self.sent_time = now
        self.delivery_handlers = [(handler, args)]


class FastEngine(Engine):
    """`Engine` with the short way. Made like it, used like it."""

    recovery = FastRecovery

    def __init__(self, *, configuration: QuicConfiguration, **others: Any) -> None:
        super().__init__(configuration=configuration, **others)
        self._keys: Any = None  # Of 1-RTT packets; looking them up would cost a hash in Python.
        self._space: Any = None
        self._outbox = Outbox()
        self._inbound: dict[int, Inbound] = {}
        self._untold: list[Inbound] = []  # Began in this train.
        self._peer_parcel = 3 if self._is_client else 2  # RFC 9000 2.1: the low bits of their ids.
        self._acks_in_a_row = 0

    def _initialize(self, peer_cid: bytes) -> None:
        super()._initialize(peer_cid)
        self._keys, self._space = self._cryptos[ONE_RTT], self._spaces[ONE_RTT]

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
            stream_id in self._inbound
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

    # Time.

    def get_timer(self) -> float | None:
        if not self._quick or not self._loss.peer_completed_address_validation:
            return super().get_timer()
        space, loss = self._space, self._loss
        assert self._close_at is not None, "confirmed"
        at = self._close_at
        self._loss_at = space.loss_time
        if self._loss_at is None and space.ack_eliciting_in_flight:
            timeout = loss.get_probe_timeout() * (1 << loss._pto_count)
            self._loss_at = loss._time_of_last_sent_ack_eliciting_packet + timeout
        for other in (space.ack_at, self._loss_at, self._pacing_at):
            if other is not None and other < at:
                at = other
        return at

    @property
    def _quick(self) -> bool:
        """Whether there is anything to do here at all."""
        return (
            self._handshake_confirmed
            and self._state is QuicConnectionState.CONNECTED
            and not self._close_pending
            and self._quic_logger is None
            and self._network_paths[0].is_validated
        )

    # Sending.

    def datagrams_to_send(self, now: float) -> list[tuple[bytes, Any]]:
        if not self._quick:
            return super().datagrams_to_send(now)
        address = self._network_paths[0].addr
        fast = self._send_ack(now)
        if self._probe_pending and self._outbox.again:
            fast += self._send_parcels(now)  # RFC 9002 6.2.4: a probe that carries data is better.
        if self._needs_stock(now):
            self._acks_in_a_row = 0
            out = [(data, address) for data in fast]
            out += super().datagrams_to_send(now)
            fast = []
            if not self._quick:
                return out
        else:
            out = self._probe_path(now)
            self._pacing_at = None
        while self._outbox and (batch := self._send_parcels(now)):
            fast += batch
        return out + [(data, address) for data in fast]

    def _needs_stock(self, now: float) -> bool:
        """Whether aioquic has something to send."""
        ack_at = self._space.ack_at
        streams, data = self._local_max_streams_uni, self._local_max_data
        return bool(
            self._ping_pending
            or self._probe_pending
            or (ack_at is not None and ack_at <= now)
            or data.value != data.sent
            or self._credit_is_due
            or streams.sent - streams.used < streams.value - streams.sent
            or self._has_busy_stream
            or self._handshake_done_pending
            or self._retire_connection_ids
            or self._streams_blocked_pending
            or self._datagrams_pending
            or self._remote_preferred_address is not None
            or len(self._network_paths) > 1
            or self._network_paths[0].remote_challenges
            or not self._crypto_streams[ONE_RTT].sender.buffer_is_empty
            or not all(cid.was_sent for cid in self._host_cids)
        )

    @property
    def _has_busy_stream(self) -> bool:
        return any(_is_busy(stream) for stream in self._streams_queue)

    def _send_parcels(self, now: float) -> list[bytes]:
        most = self._allowance(now)
        if not most:
            return []
        room = self._max_datagram_size - 1 - len(self._peer_cid.cid) - NUMBER_BYTES - TAG_BYTES
        credit = self._remote_max_data - self._remote_max_data_used
        packets, left = self._outbox.cut(most, room, credit)
        if not packets:
            return []
        self._remote_max_data_used += credit - left
        pacer = self._loss._pacer
        if pacer.packet_time is not None:
            pacer.bucket_time -= len(packets) * pacer.packet_time
        self._probe_pending = False
        self._acks_in_a_row = 0
        return self._seal(packets, now)

    def _allowance(self, now: float) -> int:
        """How many packets of parcels may leave now: congestion window, pacing, one train."""
        control, pacer = self._loss._cc, self._loss._pacer
        most = (control.congestion_window - control.bytes_in_flight) // self._max_datagram_size
        train = min(TRAIN_MAX, TRAIN_BYTES_MAX // self._max_datagram_size)
        if self._probe_pending:
            return max(1, min(most, train))  # RFC 9002 7.5: probes may exceed the window.
        if control.bytes_in_flight <= 0:
            most = max(1, most)  # However long datagrams have become.
        if most > 0 and pacer.packet_time is not None:
            pacer.update_bucket(now)
            if pacer.bucket_time <= 0:
                self._pacing_at = now + max(pacer.packet_time, PACING_S)
                return 0
            most = min(most, int(pacer.bucket_time / pacer.packet_time) + 1)
        return max(0, min(most, train))

    def _seal(self, packets: list[tuple[bytes, Sent]], now: float) -> list[bytes]:
        """Protect a batch (RFC 9001 5.3, 5.4) and enter it everywhere."""
        self._leave_one_out()
        first, cid, context = self._short_header()
        header = BYTE[first] + cid
        encrypt, secret = context.aead._aead.encrypt, context.aead._iv
        space = self._space
        sent_packets, number = space.sent_packets, self._packet_number
        overhead, total = len(header) + NUMBER_BYTES, 0
        bodies = []
        for payload, sent in packets:
            tail = _NUMBER.pack(number & 0xFFFF)
            body = encrypt((secret ^ number).to_bytes(12), payload, header + tail)
            bodies.append(body)
            sent.packet_number, sent.sent_time = number, now
            sent.sent_bytes = size = overhead + len(body)
            total += size
            sent_packets[number] = sent
            number += 1
        masks = _masks(context.hp, [body[2 : 2 + SAMPLE_BYTES] for body in bodies])
        out = [
            BYTE[first ^ (mask & UNMASKED)] + cid + _NUMBER.pack((at & 0xFFFF) ^ rest) + body
            for at, ((mask, rest), body) in enumerate(
                zip(masks, bodies, strict=True), self._packet_number
            )
        ]
        self._packet_number = number
        space.ack_eliciting_in_flight += len(packets)
        self._loss._time_of_last_sent_ack_eliciting_packet = now
        packet: Any = Sum(total, now)
        self._loss._cc.on_packet_sent(packet=packet)
        self._network_paths[0].bytes_sent += total
        if not self._ack_eliciting_sent_since_receipt:  # RFC 9000 10.1.
            self._ack_eliciting_sent_since_receipt = True
            self._close_at = now + self._idle_timeout()
        return out

    def _short_header(self) -> tuple[int, bytes, Any]:
        """The first byte, the connection id and the keys, updated if that was asked for."""
        pair = self._keys
        if pair._update_key_requested:
            pair._update_key("local_update")  # As aioquic's `encrypt_packet` does.
        first = SHORT | self._spin_bit << 5 | pair.send.key_phase << PHASE_SHIFT | NUMBER_BYTES - 1
        return first, self._peer_cid.cid, pair.send

    def _send_ack(self, now: float) -> list[bytes]:
        """A packet that acknowledges, if it is time. Now and then aioquic's, which adds a PING."""
        space = self._space
        if space.ack_at is None or space.ack_at > now or not len(space.ack_queue):
            return []
        if self._acks_in_a_row >= ACKS_IN_A_ROW:
            self._probe_pending = True
            return []
        self._acks_in_a_row += 1
        space.ack_at = None
        first, cid, context = self._short_header()
        number = self._packet_number
        self._packet_number += 1
        payload = self._ack_frame(space, now)
        tail = _NUMBER.pack(number & 0xFFFF)
        body = context.aead.encrypt(payload, BYTE[first] + cid + tail, number)
        ((mask, rest),) = _masks(context.hp, [body[2 : 2 + SAMPLE_BYTES]])
        packet = BYTE[first ^ (mask & UNMASKED)] + cid
        packet += _NUMBER.pack((number & 0xFFFF) ^ rest) + body
        record: Any = _Acked(
            number, len(packet), now, self._on_ack_delivery, (space, space.largest_received_packet)
        )
        space.sent_packets[number] = record
        self._network_paths[0].bytes_sent += len(packet)
        return [packet]

    def _ack_frame(self, space: Any, now: float) -> bytes:
        """RFC 9000 19.3: the newest ranges."""
        delay = int((now - space.largest_received_time) * 1e6) >> self._local_ack_delay_exponent
        newest, *others = list(space.ack_queue)[: -ACK_RANGES_MAX - 1 : -1]
        parts = [
            BYTE[QuicFrameType.ACK],
            varint(newest.stop - 1),
            varint(max(0, delay)),
            varint(len(others)),
            varint(len(newest) - 1),
        ]
        start = newest.start
        for part in others:
            parts += [varint(start - part.stop - 1), varint(len(part) - 1)]
            start = part.start
        return b"".join(parts)

    # Receiving.

    def receive_datagram(self, data: bytes, addr: Any, now: float) -> None:
        self.receive_train(data, max(1, len(data)), addr, now)

    def receive_train(self, data: bytes, size: int, address: Address, now: float) -> None:
        stock = super().receive_datagram
        least = 1 + len(self.host_cid) + 4 + SAMPLE_BYTES
        count, rest = divmod(len(data), size)
        count += rest >= least
        quick = self._network_paths and address == self._network_paths[0].addr and self._quick
        if not quick or size < least:
            for at in range(0, len(data), size):
                stock(data[at : at + size], address, now)
            return
        try:
            self._read(data, size, count, address, now)
        except QuicConnectionError as error:
            self.close(error.error_code, error.frame_type or 0, error.reason_phrase)
            return
        if 0 < rest < least:
            stock(data[-rest:], address, now)

    def _read(  # noqa: C901  # Calls would cost a third.
        self, data: bytes, size: int, count: int, address: Address, now: float
    ) -> None:
        """Open `count` packets (RFC 9001 5.4.1, 5.3) and do what they say."""
        cid = self.host_cid
        head = 1 + len(cid)
        seen = self._space.received_packets
        numbers: list[int] = []
        eliciting = False
        phase, first, start, decrypt, secret, expected = self._opening()
        starts = range(0, count * size, size)
        sample = head + 4
        samples = [data[at + sample : at + sample + SAMPLE_BYTES] for at in starts]
        for at, (mask, rest) in zip(starts, _masks(self._keys.recv.hp, samples), strict=True):
            if (bits := data[at] ^ (mask & UNMASKED)) != first:
                first, start = bits, BYTE[bits] + cid  # The spin bit has turned, or it is odd.
            if first & ~SPIN != phase or not data.startswith(cid, at + 1):
                # Another key phase, form or length of number: not ours.
                self._note_received(numbers, eliciting, first, now)
                super().receive_datagram(data[at : at + size], address, now)
                if not self._quick:
                    return
                numbers, eliciting = [], False
                phase, first, start, decrypt, secret, expected = self._opening()
                continue
            body = at + head + NUMBER_BYTES
            short = (data[body - 2] << 8 | data[body - 1]) ^ rest
            number = expected & ~0xFFFF | short
            if number != expected:
                if not -0x8000 <= number - expected < 0x8000:
                    number = decode_packet_number(short, 16, expected)
                if number < expected and (number in seen or number in numbers):
                    continue  # RFC 9000 12.3.
            try:
                payload = decrypt(
                    (secret ^ number).to_bytes(12),
                    data[body : at + size],
                    start + _NUMBER.pack(short),
                )
            except InvalidTag:
                continue
            if number >= expected:
                expected = number + 1
            numbers.append(number)
            read = self._take_parcels(payload)
            if read:
                eliciting = True
            if read < len(payload) or not payload:
                self._space.expected_packet_number = expected
                eliciting |= self._take_others(payload, read, now)
                if not self._quick:
                    return
        self._note_received(numbers, eliciting, first, now)

    def _opening(self) -> tuple[int, int, bytes, Any, int, int]:
        """What it takes to open a packet of the present key phase, and the next number."""
        context = self._keys.recv
        phase = SHORT | context.key_phase << PHASE_SHIFT | NUMBER_BYTES - 1
        assert context.aead is not None, "confirmed"
        start = BYTE[phase] + self.host_cid
        aead, expected = context.aead, self._space.expected_packet_number
        return phase, phase, start, aead._aead.decrypt, aead._iv, expected

    def _take_others(self, data: bytes, at: int, now: float) -> bool:
        """Handle the frames from `at` on; whether the packet is to be acknowledged for them."""
        if not at and data and data[0] == QuicFrameType.ACK:
            at = self._take_ack(data, now)
            if at == len(data):
                return False
        context = QuicReceiveContext(
            epoch=ONE_RTT,
            host_cid=self.host_cid,
            network_path=self._network_paths[0],
            quic_logger_frames=None,
            time=now,
            version=None,
        )
        return self._payload_received(context, data[at:] if at else data)[0]

    def _take_parcels(self, data: bytes) -> int:  # noqa: C901, PLR0912  # Calls cost a third.
        """Handle STREAM frames of parcels (RFC 9000 19.8); returns where something else begins."""
        at = 0
        end = len(data)
        inbound, limit = self._inbound, self._local_max_data
        while at < end and STREAM <= (kind := data[at]) <= STREAM | OFFSET | LENGTH | FIN:
            begin = at
            try:
                # RFC 9000 16: one or two bytes here, as they mostly are, else `_pull`.
                if (stream_id := data[at + 1]) < 0x40:
                    at += 2
                elif stream_id < 0x80:
                    stream_id = (stream_id & 0x3F) << 8 | data[at + 2]
                    at += 3
                else:
                    (stream_id,), at = _pull(data, at + 1, 1)
                offset, stop = 0, end
                if kind & OFFSET:
                    if 0x40 <= (offset := data[at]) < 0x80:
                        offset = (offset & 0x3F) << 8 | data[at + 1]
                        at += 2
                    else:
                        (offset,), at = _pull(data, at, 1)
                if kind & LENGTH:
                    if 0x40 <= (length := data[at]) < 0x80:
                        stop = at + 2 + ((length & 0x3F) << 8 | data[at + 1])
                        at += 2
                    else:
                        (length,), at = _pull(data, at, 1)
                        stop = at + length
            except IndexError:
                stop = -1
            if not at <= stop <= end:
                raise QuicConnectionError(QuicErrorCode.FRAME_ENCODING_ERROR, kind, "cut short")
            stream = inbound.get(stream_id)
            if stream is None:
                if not self._is_parcel(stream_id):
                    return begin
                stream = self._open(stream_id, kind)
            if stream is not None:
                until = offset + stop - at
                used = limit.used + stop - at
                if (
                    stream.due == offset
                    and not kind & FIN
                    and until <= PARCEL_WINDOW_BYTES
                    and used <= limit.value
                ):
                    limit.used = used
                    stream.next = stream.due = until
                    stream.parts.append(data[at:stop])
                    if len(stream.parts) > PARTS_MAX:
                        stream.parts = [b"".join(stream.parts)]
                else:
                    self._take(stream, offset, data[at:stop], kind)
            at = stop
        return at

    def _is_parcel(self, stream_id: int) -> bool:
        """Whether it is the peer's, of one direction, and not handed over to aioquic."""
        return stream_id & 3 == self._peer_parcel and stream_id not in self._streams

    def _open(self, stream_id: int, kind: int) -> Inbound | None:
        """A new parcel begins, and all below it (RFC 9000 2.1); None if this one has ended."""
        limit = self._local_max_streams_uni
        count = (stream_id >> 2) + 1
        if count > limit.value:
            error = QuicErrorCode.STREAM_LIMIT_ERROR
            raise QuicConnectionError(error, kind, "Too many streams open")
        for index in range(limit.used, count):
            number = index << 2 | self._peer_parcel
            stream = self._inbound[number] = Inbound(number)
            self._untold.append(stream)
        limit.used = max(limit.used, count)
        return self._inbound.get(stream_id)

    def _take(self, stream: Inbound, offset: int, data: bytes, kind: int) -> None:
        """A frame that is the last one, or not in order (RFC 9000 4.1)."""
        stop = offset + len(data)
        if stop > PARCEL_WINDOW_BYTES:
            raise QuicConnectionError(QuicErrorCode.FLOW_CONTROL_ERROR, kind, "over stream limit")
        limit = self._local_max_data
        new = max(0, stop - stream.highest)
        if limit.used + new > limit.value:
            raise QuicConnectionError(QuicErrorCode.FLOW_CONTROL_ERROR, kind, "over data limit")
        stream.take(offset, data, kind)
        limit.used += new
        if stream.complete:
            del self._inbound[stream.id]
            self._local_max_streams_uni.value += 1  # RFC 9000 4.6.
            self._tell(stream.id, b"".join(stream.parts), end=True)
        elif len(stream.parts) > PARTS_MAX:
            stream.parts = [b"".join(stream.parts)]

    def _tell(self, stream_id: int, data: bytes, *, end: bool) -> None:
        self._events.append(StreamDataReceived(data=data, end_stream=end, stream_id=stream_id))

    def _tell_beginnings(self) -> None:
        """Let the link watch the parcels that have begun, so that slow ones do not stay."""
        if not self._untold:
            return
        untold = [stream for stream in self._untold if stream.id in self._inbound]
        for stream in untold:
            if stream.highest:
                stream.told = True
                self._tell(stream.id, b"", end=False)
        # The others were opened only because a later one was.
        self._untold = [stream for stream in untold if not stream.told]

    def _take_ack(self, data: bytes, now: float) -> int:
        """Handle an ACK frame (RFC 9000 19.3); returns where it ends, 0 if it is odd."""
        try:
            (largest, delay, count, length), at = _pull(data, 1, 4)
            steps, at = _pull(data, at, 2 * count) if count else ((), at)
        except IndexError:
            return 0
        start = largest - length
        ranges = [range(start, largest + 1)]
        for gap, length in zip(steps[::2], steps[1::2], strict=True):
            stop = start - gap - 1
            start = stop - length - 1
            ranges.append(range(start, stop))
        if start < 0 or largest >= self._packet_number or at > len(data):
            return 0  # `_handle_ack_frame` will find what is wrong with it.
        ranges.reverse()
        self._loss.on_ack_received(
            ack_rangeset=Ranges(ranges),  # type: ignore[arg-type]  # `FastRecovery` takes it.
            ack_delay=(delay << self._remote_ack_delay_exponent) / 1e6,
            now=now,
            space=self._space,
        )
        return at

    def _note_received(self, numbers: list[int], eliciting: bool, first: int, now: float) -> None:
        """What aioquic does after each packet, once for many."""
        self._tell_beginnings()
        if not numbers:
            return
        space = self._space
        largest = max(numbers)
        if largest > space.largest_received_packet:
            space.largest_received_packet, space.largest_received_time = largest, now
            spin = bool(first & SPIN)
            self._spin_bit = not spin if self._is_client else spin  # RFC 9000 17.4.
            self._spin_highest_pn = largest
        space.expected_packet_number = max(space.expected_packet_number, largest + 1)
        space.received_packets._received.update(numbers)
        if numbers[-1] - numbers[0] + 1 == len(numbers) == largest - numbers[0] + 1:
            space.ack_queue.add(numbers[0], largest + 1)
        else:
            for number in numbers:
                space.ack_queue.add(number)
        while len(space.ack_queue) > MAX_ACK_RANGES:
            space.ack_queue.shift()
        space.received_packets.add(largest)  # Slides its window.
        self._close_at = now + self._idle_timeout()
        self._ack_eliciting_sent_since_receipt = False
        if eliciting and space.ack_at is None:
            space.ack_at = now + self._ack_delay

    # Where the slow path meets a parcel.

    def _handle_stream_frame(
        self, context: QuicReceiveContext, frame_type: int, buf: Buffer
    ) -> None:
        start = buf.tell()
        stream_id = buf.pull_uint_var()
        if self._quic_logger is not None or not self._is_parcel(stream_id):
            buf.seek(start)
            super()._handle_stream_frame(context, frame_type, buf)
            return
        offset = buf.pull_uint_var() if frame_type & OFFSET else 0
        length = buf.pull_uint_var() if frame_type & LENGTH else buf.capacity - buf.tell()
        data = buf.pull_bytes(length)
        stream = self._inbound.get(stream_id) or self._open(stream_id, frame_type)
        if stream is not None:
            self._take(stream, offset, data, frame_type)
            self._tell_beginnings()

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
        if stream_id in self._inbound:
            stream = _stock_inbound(self._inbound.pop(stream_id), self)
        elif stream_id in self._outbox.streams:
            sent = self._outbox.drop(stream_id).sent
            stream = QuicStream(stream_id=stream_id, readable=False)
            stream.sender.highest_offset = stream.sender._buffer_stop = sent
        else:
            return
        self._streams[stream_id] = stream
        self._streams_queue.append(stream)

    def _held_bytes(self) -> int:
        return super()._held_bytes() + sum(stream.highest for stream in self._inbound.values())


def _stock_inbound(inbound: Inbound, engine: FastEngine) -> QuicStream:
    engine._tell(inbound.id, b"".join(inbound.parts), end=False)
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


def _is_busy(stream: QuicStream) -> bool:
    return (
        not stream.sender.buffer_is_empty
        or stream.sender.reset_pending
        or stream.receiver.stop_pending
        or stream.is_finished
        or stream.max_stream_data_local != stream.max_stream_data_local_sent
        or is_credit_due(stream)
    )


def _masks(hp: Any, samples: list[bytes]) -> Iterable[tuple[int, int]]:
    """RFC 9001 5.4.3, 5.4.4: for each sample the mask of the first byte and of the number."""
    if hp._is_chacha20:
        masks = b"".join([hp._mask(sample)[:5].ljust(SAMPLE_BYTES) for sample in samples])
    else:
        masks = hp._encryptor.update(b"".join(samples))
    return iter_unpack(">BH13x", masks)


def _pull(data: bytes, at: int, count: int) -> tuple[list[int], int]:
    """So many numbers (RFC 9000 16), and where they end. Raises `IndexError`."""
    out = []
    for _ in range(count):
        width = WIDTH[data[at]]
        out.append(int.from_bytes(data[at : at + width]) & MASK[width])
        at += width
    return out, at


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
