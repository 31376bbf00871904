"""The fast path for parcels: our engine, with a shorter way for the packets that are the most.

Invariants. Packets of nothing but STREAM frames of parcels are built and read here, a train at a
time, without aioquic's stream and builder objects; so are small ones: ACK, PING, what goes on on
the control stream. Everything else (handshake, odd frames, other paths, good-byes) takes aioquic's
code, on the same state. A stream to which something odd happens is handed over to aioquic, for
good. With a qlog nothing is fast, so that the trace is whole. What the bytes on the wire mean, and
all limits, are those of `Engine`.

`outbox` and `inbox` have the parcels, `frames` their frames, `protection` the packets; here these
meet the connection. facts/quic.md 3 has the measurements behind each short cut.
"""
# ruff: noqa: SLF001  # `names.py` checks what is used here.

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, cast

from aioquic._buffer import Buffer, BufferReadError
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import (
    QuicConnectionError,
    QuicConnectionState,
    QuicReceiveContext,
)
from aioquic.quic.events import StreamDataReceived
from aioquic.quic.packet import (
    QuicFrameType,
    QuicPacketType,
    QuicStreamFrame,
    decode_packet_number,
)
from aioquic.quic.recovery import MAX_ACK_RANGES
from aioquic.quic.stream import QuicStream
from aioquic.tls import Epoch

from p2pstream.identity import Address
from p2pstream.net import names
from p2pstream.net.engine import CONTROL_STREAM, PARCEL_WINDOW_BYTES, Engine, is_credit_due
from p2pstream.net.frames import (
    BYTE,
    LENGTH,
    OFFSET,
    STREAM,
    STREAMS,
    ack_frame,
    pull,
    read_ack,
    stream_frame,
    varint,
)
from p2pstream.net.inbox import Inbound, Inbox
from p2pstream.net.outbox import Outbox, Sent
from p2pstream.net.protection import (
    NUMBER_BYTES,
    NUMBERS,
    PAYLOAD_BYTES_MIN,
    SAMPLE_AT,
    SAMPLE_BYTES,
    TAG_BYTES,
    seal,
    seal_one,
    unmask,
    unmask_one,
    unseal,
    unseal_one,
    whole_numbers,
)
from p2pstream.net.recovery import PACING_S, FastRecovery, Ranges, Sum
from p2pstream.net.udp import TRAIN_BYTES_MAX, TRAIN_MAX, Datagram, Train, joined

ONE_RTT = Epoch.ONE_RTT
SHORT = 0x40  # RFC 9000 17.3: the fixed bit; then spin, two reserved, key phase, length of number.
SPIN, PHASE_SHIFT = 0x20, 2
# An ACK costs both ends as much as dozens of packets. After 2 ms instead of 1, both ends need
# 6 % less CPU on a slow machine, after 4 ms no less (measured; RFC 9000 13.2.1 allows 25). With a
# quarter of a round trip, as of picoquic, a link that loses 2 % carried a third less.
ACK_DELAY_S = 2e-3
# After so many packets at once (RFC 9000 13.2.2): in a bulk each burst is acknowledged as it is
# read, without an alarm.
ACK_PACKETS = 64
# RFC 9000 13.2.4: ask now and then for an ACK of our ACKs, or their ranges grow for ever.
ACKS_IN_A_ROW = 32

_WAS_SENT = attrgetter("was_sent")
_PING = BYTE[QuicFrameType.PING]
_CONTROL = varint(CONTROL_STREAM)
_WORDS = {BYTE[STREAM | LENGTH], BYTE[STREAM | LENGTH | OFFSET]}  # Frames of a stream that goes on.

Handler = tuple[Callable[..., None], tuple[Any, ...]]  # What to do about a packet's fate.

_log = logging.getLogger("p2pstream.net")


class _Acked:
    """A small packet of an ACK and nothing else: neither counted nor acknowledged by itself."""

    __slots__ = ("delivery_handlers", "packet_number", "sent_bytes", "sent_time")

    epoch = ONE_RTT
    in_flight = is_ack_eliciting = is_crypto_packet = False
    packet_type = QuicPacketType.ONE_RTT

    def __init__(self, number: int, size: int, now: float, handlers: list[Handler]) -> None:
        self.packet_number = number
        self.sent_bytes = size
        self.sent_time = now
        self.delivery_handlers = handlers


class _Said(_Acked):
    """A small packet of more than an ACK."""

    __slots__ = ()

    in_flight = is_ack_eliciting = True


class FastEngine(Engine):
    """`Engine` with the short way. Made like it, used like it."""

    recovery = FastRecovery

    def __init__(self, *, configuration: QuicConfiguration, **others: Any) -> None:
        super().__init__(configuration=configuration, **others)
        # Of 1-RTT packets; looking them up would cost a hash in Python.
        self._keys: Any = None
        self._space: Any = None
        self._crypto: Any = None
        self._outbox = Outbox()
        self._inbox = Inbox(
            self._local_max_data,
            self._local_max_streams_uni,
            window=PARCEL_WINDOW_BYTES,
            own=3 if self._is_client else 2,
            foreign=self._streams,
            tell=self._tell,
        )
        self._acks_in_a_row = 0
        self._ack_delay = ACK_DELAY_S
        self._ack_due = ACK_PACKETS  # The packet number that is acknowledged at once.

    def _initialize(self, peer_cid: bytes) -> None:
        super()._initialize(peer_cid)
        self._keys, self._space = self._cryptos[ONE_RTT], self._spaces[ONE_RTT]
        self._crypto = self._crypto_streams[ONE_RTT].sender

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

    # Time.

    def get_timer(self) -> float | None:
        space, loss = self._space, self._loss
        if not self._quick or not loss.peer_completed_address_validation:
            return super().get_timer()
        at, loss_at = self._close_at, space.loss_time
        assert at is not None, "confirmed"
        if loss_at is None and space.ack_eliciting_in_flight:
            timeout = loss.get_probe_timeout() * (1 << loss._pto_count)
            loss_at = loss._time_of_last_sent_ack_eliciting_packet + timeout
        self._loss_at = loss_at
        if loss_at is not None and loss_at < at:
            at = loss_at
        if space.ack_at is not None and space.ack_at < at:
            at = space.ack_at
        if self._pacing_at is not None and self._pacing_at < at:
            at = self._pacing_at
        return at

    def handle_timer(self, now: float) -> None:
        due = self._close_at is None or self._close_at <= now
        if due or not self._quick or (self._loss_at is not None and self._loss_at <= now):
            super().handle_timer(now)
        # Else it is an ACK's or the pacer's time, which `trains_to_send` finds.

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
        out = self._send_small(now)
        if self._probe_pending and self._outbox.again:
            out += self._send_parcels(now)  # RFC 9002 6.2.4: a probe that carries data is better.
        if self._needs_stock(now):
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
            or any(map(_is_busy, self._streams_queue))
            or self._handshake_done_pending
            or self._retire_connection_ids
            or self._streams_blocked_pending
            or self._datagrams_pending
            or self._remote_preferred_address is not None
            or len(self._network_paths) > 1
            or self._network_paths[0].remote_challenges
            or not self._crypto.buffer_is_empty
            or not all(map(_WAS_SENT, self._host_cids))
        )

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
        most = min(most, NUMBERS - first % NUMBERS)
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

    def _note_sent(self, count: int, total: int, now: float) -> None:
        """What aioquic does after each packet, once for a train of `total` bytes."""
        space, loss = self._space, self._loss
        self._packet_number += count
        space.ack_eliciting_in_flight += count
        loss._time_of_last_sent_ack_eliciting_packet = now
        packet: Any = Sum(total, now)
        loss._cc.on_packet_sent(packet=packet)
        if loss._pacer.packet_time is not None:
            loss._pacer.bucket_time -= count * loss._pacer.packet_time
        self._network_paths[0].bytes_sent += total
        self._probe_pending = False
        self._acks_in_a_row = 0
        if not self._ack_eliciting_sent_since_receipt:  # RFC 9000 10.1.
            self._ack_eliciting_sent_since_receipt = True
            self._close_at = now + self._idle_timeout()

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

    def _short_header(self) -> tuple[bytes, Any]:
        """What our packets begin with, and their keys, updated if that was asked for."""
        pair = self._keys
        if pair._update_key_requested:
            pair._update_key("local_update")  # As aioquic's `encrypt_packet` does.
        first = SHORT | self._spin_bit << 5 | pair.send.key_phase << PHASE_SHIFT | NUMBER_BYTES - 1
        return BYTE[first] + self._peer_cid.cid, pair.send

    def _send_small(self, now: float) -> list[Train]:
        """A packet of an ACK, a PING and words for the control stream, if one of these is due."""
        space, stream = self._space, self._streams.get(CONTROL_STREAM)
        talks = stream is not None and not (stream.sender.buffer_is_empty or stream.is_blocked)
        says = bool((talks or self._ping_pending) and self._allowance(now))
        if not says and (space.ack_at is None or space.ack_at > now):
            return []
        frames: list[bytes] = []
        handlers: list[Handler] = []
        # RFC 9000 13.2.1: what is said takes an ACK along that would leave soon.
        if space.ack_at is not None and len(space.ack_queue):
            if not says and self._acks_in_a_row >= ACKS_IN_A_ROW:
                self._probe_pending = True  # aioquic's, which adds a PING.
                return []
            frames.append(self._ack(now, handlers))
        bare = not says or not self._say(frames, handlers, stream if talks else None)
        if not frames:
            return []
        return self._send_frames(frames, handlers, now, bare=bare)

    def _ack(self, now: float, handlers: list[Handler]) -> bytes:
        """An ACK frame of all that has come."""
        space = self._space
        space.ack_at = None
        self._ack_due = space.largest_received_packet + ACK_PACKETS
        handlers.append((self._on_ack_delivery, (space, space.largest_received_packet)))
        delay = int(max(0.0, now - space.largest_received_time) * 1e6)
        return ack_frame(list(space.ack_queue), delay >> self._local_ack_delay_exponent)

    def _say(self, frames: list[bytes], handlers: list[Handler], stream: QuicStream | None) -> bool:
        """Add a PING that was asked for, and what `stream` has to send; whether that is any."""
        before = len(handlers)
        if self._ping_pending:
            frames.append(_PING)
            handlers.append((self._on_ping_delivery, (tuple(self._ping_pending),)))
            self._ping_pending.clear()
        if stream is not None:
            sender = stream.sender
            used = sender.highest_offset
            limit = min(
                used + self._remote_max_data - self._remote_max_data_used,
                stream.max_stream_data_remote,
            )
            overhead = 1 + len(self._peer_cid.cid) + NUMBER_BYTES + TAG_BYTES
            overhead += sum(map(len, frames)) + 3 + len(_CONTROL) + len(varint(sender.next_offset))
            frame = sender.get_frame(self._max_datagram_size - overhead, limit)
            if frame is not None:
                self._remote_max_data_used += sender.highest_offset - used
                sender.buffer_is_empty = not len(sender._pending) and not sender._pending_eof
                start, data = frame.offset, frame.data
                frames.append(stream_frame(_CONTROL, start, data, end=frame.fin))
                span = start, start + len(data), frame.fin
                handlers.append((sender.on_data_delivery, span))
        return len(handlers) > before

    def _send_frames(
        self, frames: list[bytes], handlers: list[Handler], now: float, *, bare: bool
    ) -> list[Train]:
        """One small packet. bare: of an ACK alone."""
        if not bare:
            self._leave_one_out()
        number = self._packet_number
        payload = b"".join(frames).ljust(PAYLOAD_BYTES_MIN, b"\x00")
        packet = seal_one(payload, number, *self._short_header())
        size = len(packet)
        record: Any = (_Acked if bare else _Said)(number, size, now, handlers)
        self._space.sent_packets[number] = record
        if bare:
            self._acks_in_a_row += 1
            self._packet_number = number + 1
            self._recovery.note_bare_ack(number, self._space)
            self._network_paths[0].bytes_sent += size
        else:
            self._note_sent(1, size, now)
        return [(packet, size, self._network_paths[0].addr)]

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

    def _take_others(self, data: bytes, at: int, now: float) -> bool:
        """Handle the frames from `at` on; whether the packet is to be acknowledged for them."""
        if data and not data[at:].strip(b"\x00"):
            return False  # PADDING.
        if not at and data and data[0] == QuicFrameType.ACK:
            at = self._take_ack(data, now)
        said = at
        at = self._take_words(data, at)
        if at == len(data) > 0 or (at > said and not data[at:].strip(b"\x00")):
            return at > said
        context = QuicReceiveContext(
            epoch=ONE_RTT,
            host_cid=self.host_cid,
            network_path=self._network_paths[0],
            quic_logger_frames=None,
            time=now,
            version=None,
        )
        return self._payload_received(context, data[at:] if at else data)[0] or at > said

    def _take_words(self, data: bytes, at: int) -> int:
        """Take a PING, and what just goes on on the control stream; returns where that ends."""
        if data[at : at + 1] == _PING:
            at += 1
        stream, limit = self._streams.get(CONTROL_STREAM), self._local_max_data
        if stream is None or data[at : at + 1] not in _WORDS:
            return at
        receiver = stream.receiver
        try:
            number, start = pull(data, at + 1)
            offset, start = pull(data, start) if data[at] & OFFSET else (0, start)
            size, start = pull(data, start)
        except IndexError:
            return at  # `_handle_stream_frame` will find what is wrong with it.
        stop, end = start + size, offset + size
        if (
            number != CONTROL_STREAM
            or not size
            or stop > len(data)
            or offset != receiver._buffer_start
            or receiver.highest_offset > offset  # There is more, beyond a gap.
            or receiver.is_finished
            or receiver._final_size is not None
            or end > stream.max_stream_data_local
            or limit.used + size > limit.value
        ):
            return at
        receiver._buffer_start = receiver.highest_offset = end
        limit.used += size
        self._tell(CONTROL_STREAM, data[start:stop], False)
        return stop

    def _take_ack(self, data: bytes, now: float) -> int:
        """Handle an ACK frame (RFC 9000 19.3); returns where it ends, 0 if it is odd."""
        try:
            ranges, delay, at = read_ack(data)
        except IndexError:
            return 0
        if ranges[0].start < 0 or ranges[-1].stop > self._packet_number or at > len(data):
            return 0  # `_handle_ack_frame` will find what is wrong with it.
        self._loss.on_ack_received(
            ack_rangeset=Ranges(ranges),  # type: ignore[arg-type]  # `FastRecovery` takes it.
            ack_delay=(delay << self._remote_ack_delay_exponent) / 1e6,
            now=now,
            space=self._space,
        )
        return at

    def _note_received(
        self, numbers: Sequence[int], largest: int, eliciting: bool, first: int, now: float
    ) -> None:
        """What aioquic does after each packet, once for many."""
        self._inbox.tell_beginnings()
        space = self._space
        if largest > space.largest_received_packet:
            space.largest_received_packet, space.largest_received_time = largest, now
            spin = bool(first & SPIN)
            self._spin_bit = not spin if self._is_client else spin  # RFC 9000 17.4.
            self._spin_highest_pn = largest
        window = space.received_packets
        if len(numbers) > 1:
            window._received.update(numbers)
        if len(window._received) > 2 * window._size:  # As `add` would, but without Python's help.
            window._received.intersection_update(range(largest - window._size + 1, largest + 1))
        window.add(largest)  # Slides it.
        if isinstance(numbers, range):
            space.ack_queue.add(numbers.start, numbers.stop)
        else:
            for number in numbers:
                space.ack_queue.add(number)
        while len(space.ack_queue) > MAX_ACK_RANGES:
            space.ack_queue.shift()
        self._close_at = now + self._idle_timeout()
        self._ack_eliciting_sent_since_receipt = False
        if eliciting and largest >= self._ack_due:
            space.ack_at = now
        elif eliciting and space.ack_at is None:
            space.ack_at = now + self._ack_delay

    # Where the slow path meets a parcel.

    def _tell(self, stream_id: int, data: bytes, end: bool) -> None:
        self._events.append(StreamDataReceived(data=data, end_stream=end, stream_id=stream_id))

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


def _is_busy(stream: QuicStream) -> bool:
    sender, receiver = stream.sender, stream.receiver
    return (
        not sender.buffer_is_empty
        or sender.reset_pending
        or receiver.stop_pending
        or (sender.is_finished and receiver.is_finished)
        or stream.max_stream_data_local != stream.max_stream_data_local_sent
        or is_credit_due(stream)
    )


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
