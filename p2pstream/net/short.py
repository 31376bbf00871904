"""The short way for small packets: ACK, PING, and what goes on on the control stream.

They are most of what a node sends and receives when it does not carry a stream, so they are built
and read here, without aioquic's packet builder and frame handlers, on the same state. Whatever is
odd takes aioquic's code: handshake, other frames, other paths, good-byes. With a qlog nothing is
short, so that the trace is whole. `fast` adds parcels.
"""
# ruff: noqa: SLF001  # `names.py` checks what is used here.

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any

from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnectionState, QuicReceiveContext
from aioquic.quic.events import StreamDataReceived
from aioquic.quic.packet import QuicFrameType, QuicPacketType
from aioquic.quic.recovery import MAX_ACK_RANGES
from aioquic.quic.stream import QuicStream
from aioquic.tls import Epoch

from p2pstream.net.engine import CONTROL_STREAM, Engine, is_credit_due
from p2pstream.net.frames import (
    BYTE,
    LENGTH,
    OFFSET,
    STREAM,
    ack_frame,
    pull,
    read_ack,
    stream_frame,
    varint,
)
from p2pstream.net.protection import NUMBER_BYTES, PAYLOAD_BYTES_MIN, TAG_BYTES, seal_one
from p2pstream.net.recovery import PACING_S, FastRecovery, Ranges, Sum
from p2pstream.net.udp import Train

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


class ShortEngine(Engine):
    """`Engine` with the short way for small packets. Made like it, used like it."""

    recovery = FastRecovery

    def __init__(self, *, configuration: QuicConfiguration, **others: Any) -> None:
        super().__init__(configuration=configuration, **others)
        # Of 1-RTT packets; looking them up would cost a hash in Python.
        self._keys: Any = None
        self._space: Any = None
        self._crypto: Any = None
        self._acks_in_a_row = 0
        self._ack_delay = ACK_DELAY_S
        self._ack_due = ACK_PACKETS  # The packet number that is acknowledged at once.

    def _initialize(self, peer_cid: bytes) -> None:
        super()._initialize(peer_cid)
        self._keys, self._space = self._cryptos[ONE_RTT], self._spaces[ONE_RTT]
        self._crypto = self._crypto_streams[ONE_RTT].sender

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

    def _needs_stock(self) -> bool:
        """Whether there is something to send that only aioquic can: then it sends all there is."""
        return bool(
            any(map(_is_odd, self._streams_queue))
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

    def _left_over(self, now: float) -> bool:
        """Whether there is something small that `_send_small` could not send."""
        ack_at, stream = self._space.ack_at, self._streams.get(CONTROL_STREAM)
        return bool(
            self._probe_pending
            or self._owes_credit
            or self._ping_pending
            or (ack_at is not None and ack_at <= now)
            or (stream is not None and not stream.sender.buffer_is_empty)
        )

    @property
    def _owes_credit(self) -> bool:
        """Whether the peer is to be told that it may send more."""
        streams, data = self._local_max_streams_uni, self._local_max_data
        return bool(
            data.value != data.sent
            or streams.sent - streams.used < streams.value - streams.sent
            or self._credit_is_due
        )

    def _send_small(self, now: float) -> list[Train]:
        """A packet of an ACK, a PING, credit and words for the control stream, if any is due."""
        space, stream = self._space, self._streams.get(CONTROL_STREAM)
        talks = stream is not None and not (stream.sender.buffer_is_empty or stream.is_blocked)
        asked = talks or self._ping_pending or self._owes_credit
        says = bool(asked and self._allowance(now))
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
        """Add a PING that was asked for, credit, and what `stream` has to send; whether that is
        any.
        """
        before = len(handlers)
        if self._ping_pending:
            frames.append(_PING)
            handlers.append((self._on_ping_delivery, (tuple(self._ping_pending),)))
            self._ping_pending.clear()
        if self._owes_credit:
            self._grant(frames, handlers)
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

    def _grant(self, frames: list[bytes], handlers: list[Handler]) -> None:
        """Tell the peer how much it may send, and how many parcels (RFC 9000 19.9, 19.11)."""
        self._raise_credit()
        for limit in (self._local_max_data, self._local_max_streams_uni):
            if limit.value != limit.sent:
                limit.sent = limit.value
                frames.append(BYTE[limit.frame_type] + varint(limit.value))
                handlers.append((self._on_connection_limit_delivery, (limit,)))

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

    def _short_header(self) -> tuple[bytes, Any]:
        """What our packets begin with, and their keys, updated if that was asked for."""
        pair = self._keys
        if pair._update_key_requested:
            pair._update_key("local_update")  # As aioquic's `encrypt_packet` does.
        first = SHORT | self._spin_bit << 5 | pair.send.key_phase << PHASE_SHIFT | NUMBER_BYTES - 1
        return BYTE[first] + self._peer_cid.cid, pair.send

    def _allowance(self, now: float) -> int:
        """How many packets of parcels may leave now: congestion window and pacing."""
        control, pacer = self._loss._cc, self._loss._pacer
        most: int = (control.congestion_window - control.bytes_in_flight) // self._max_datagram_size
        if self._probe_pending:
            return max(1, most)  # RFC 9002 7.5: probes may exceed the window.
        if control.bytes_in_flight <= 0:
            most = max(1, most)  # However long datagrams have become.
        if most > 0 and pacer.packet_time is not None:
            pacer.update_bucket(now)
            if pacer.bucket_time <= 0:
                self._pacing_at = now + max(pacer.packet_time, PACING_S)
                return 0
            most = min(most, int(pacer.bucket_time / pacer.packet_time) + 1)
        return max(0, most)

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

    # Receiving.

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

    def _tell(self, stream_id: int, data: bytes, end: bool) -> None:
        self._events.append(StreamDataReceived(data=data, end_stream=end, stream_id=stream_id))


def _is_odd(stream: QuicStream) -> bool:
    """Whether more is to be sent about it than words on the control stream."""
    sender, receiver = stream.sender, stream.receiver
    return (
        (stream.stream_id != CONTROL_STREAM and not sender.buffer_is_empty)
        or sender.reset_pending
        or receiver.stop_pending
        or (sender.is_finished and receiver.is_finished)
        or stream.max_stream_data_local != stream.max_stream_data_local_sent
        or is_credit_due(stream)
    )
