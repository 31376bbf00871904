"""Loss recovery and pacing: aioquic's, with what our driver needs besides."""
# ruff: noqa: SLF001  # `names.py` checks what is used here.

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable
from itertools import compress, groupby, repeat, takewhile
from operator import attrgetter, not_
from typing import Any

from aioquic.quic.connection import QuicConnectionError
from aioquic.quic.packet import QuicErrorCode, QuicFrameType
from aioquic.quic.packet_builder import QuicDeliveryState, QuicSentPacket
from aioquic.quic.rangeset import RangeSet
from aioquic.quic.recovery import QuicPacketPacer, QuicPacketSpace

from p2pstream.net.congestion import LiveRecovery
from p2pstream.net.mtu import BASE_BYTES
from p2pstream.net.outbox import Sent

# facts/quic.md 3: one timer per packet costs 1.4 times the CPU; epoll rounds to it.
PACING_S = 1e-3
# What may leave at once: an eighth of the window. Half of what aioquic allows small windows.
BURST_RTT_DIVISOR = 8
# A piece at once: aioquic lets only a quarter of a small window go, and the window of who streams
# stays small. RFC 9002 7.7 would have 10 packets; 2 more spare a third of a live relay's trains.
BURST_PACKETS = 12
# Packets of nothing but an ACK are remembered until the peer has acknowledged a later packet, which
# only happens if it wants to (S-08). 500 leave a second (`fast.ACK_DELAY_S`): enough for a round
# trip of 2 s, with 0.5 MiB.
BARE_ACKS_MAX = 1024

_CONTENT, _SIZE = attrgetter("content"), attrgetter("sent_bytes")


class Recovery(LiveRecovery):
    """Tells when a datagram is lost that not every path carries. aioquic makes it (see `adopt`)."""

    on_long_loss: Callable[[], None]
    _bare_acks: deque[int]
    never_sent: int = -1  # The number of a packet that we left out; see `Engine._leave_one_out`.

    def watch_order(self, acked: RangeSet, space: QuicPacketSpace) -> None:
        if self.never_sent in acked:
            raise QuicConnectionError(
                QuicErrorCode.PROTOCOL_VIOLATION, QuicFrameType.ACK, "ACK of a packet never sent"
            )
        super().watch_order(acked, space)

    def on_packet_sent(self, *, packet: QuicSentPacket, space: QuicPacketSpace) -> None:
        super().on_packet_sent(packet=packet, space=space)
        if not packet.is_ack_eliciting:
            self.note_bare_ack(packet.packet_number, space)

    def note_bare_ack(self, number: int, space: QuicPacketSpace) -> None:
        """Forget the oldest packet of nothing but an ACK: later ones say what it said."""
        if len(self._bare_acks) == BARE_ACKS_MAX:
            space.sent_packets.pop(self._bare_acks[0], None)
        self._bare_acks.append(number)

    def _on_packets_lost(self, *, packets: Iterable[QuicSentPacket], **rest: Any) -> None:
        packets = list(packets)
        for packet in packets:
            if packet.sent_bytes > BASE_BYTES and packet.in_flight:
                self.on_long_loss()
        super()._on_packets_lost(packets=packets, **rest)


class Ranges(list[range]):
    """Acknowledged packet numbers, ascending; as much of a `RangeSet` as an ACK needs."""

    def __contains__(self, number: object) -> bool:
        return any(number in part for part in self)

    def bounds(self) -> range:
        return range(self[0].start, self[-1].stop)


class Sum:
    """Several packets, for the congestion controller."""

    __slots__ = ("sent_bytes", "sent_time")

    def __init__(self, sent_bytes: int, sent_time: float) -> None:
        self.sent_bytes = sent_bytes
        self.sent_time = sent_time


class FastRecovery(Recovery):
    """Takes acknowledged packets from the front of the queue, and tells the controller once."""

    def on_ack_received(
        self, *, ack_rangeset: Any, ack_delay: float, now: float, space: QuicPacketSpace
    ) -> None:
        if self._quic_logger is not None:
            super().on_ack_received(
                ack_rangeset=ack_rangeset, ack_delay=ack_delay, now=now, space=space
            )
            return
        if space.is_application_data:
            self.watch_order(ack_rangeset, space)
        largest = ack_rangeset[-1].stop - 1
        space.largest_acked_packet = max(space.largest_acked_packet, largest)
        packets = _take(ack_rangeset, space.sent_packets)
        if not packets:
            return
        eliciting = self._on_acked(packets, now)
        space.ack_eliciting_in_flight -= eliciting
        newest = packets[-1]
        if newest.packet_number == largest and eliciting:
            self._measure(now - newest.sent_time, min(ack_delay, self.max_ack_delay), now)
        if next(iter(space.sent_packets), largest + 1) <= space.largest_acked_packet:
            self._detect_loss(now=now, space=space)
        else:
            space.loss_time = None
        if self.peer_completed_address_validation:
            self._pto_count = 0

    def _on_acked(self, packets: list[Any], now: float) -> int:
        """Do what follows from their arrival; returns how many asked for an ACK."""
        are_ours = list(map(isinstance, packets, repeat(Sent)))
        ours = packets if all(are_ours) else list(compress(packets, are_ours))
        others = compress(packets, map(not_, are_ours)) if len(ours) < len(packets) else ()
        for content, packets_of_it in groupby(ours, _CONTENT):
            content.acked(len(list(packets_of_it)))
        size = sum(map(_SIZE, ours))
        eliciting = len(ours)
        for packet in others:
            size += packet.sent_bytes if packet.in_flight else 0
            eliciting += packet.is_ack_eliciting
            for handler, args in packet.delivery_handlers:
                handler(QuicDeliveryState.ACKED, *args)
        if size:
            total: Any = Sum(size, packets[-1].sent_time)
            self._cc.on_packet_acked(packet=total, now=now)
        return eliciting

    def _measure(self, rtt: float, ack_delay: float, now: float) -> None:
        """RFC 9002 5."""
        self._rtt_latest = max(rtt, 0.001)
        self._rtt_min = min(self._rtt_min, self._rtt_latest)
        if self._rtt_latest > self._rtt_min + ack_delay:
            self._rtt_latest -= ack_delay
        if not self._rtt_initialized:
            self._rtt_first_sample_time = now
            self._rtt_initialized = True
            self._rtt_variance = rtt / 2
            self._rtt_smoothed = rtt
        else:
            change = abs(self._rtt_min - self._rtt_latest)
            self._rtt_variance = 3 / 4 * self._rtt_variance + 1 / 4 * change
            self._rtt_smoothed = 7 / 8 * self._rtt_smoothed + 1 / 8 * self._rtt_latest
        self._cc.on_rtt_measurement(now=now, rtt=rtt)
        self._pacer.update_rate(self._cc.congestion_window, self._rtt_smoothed)


def _take(acked: Iterable[range], sent: dict[int, Any]) -> list[Any]:
    """Take the acknowledged packets out of those sent, which are in order, as ranges are."""
    out: list[Any] = []
    numbers: list[int] = []
    for part in acked:
        if not sent:
            break
        first = next(iter(sent))
        if part.stop <= first:
            continue
        if part.start <= first:
            taken = list(takewhile(part.stop.__gt__, sent))
        else:
            numbers = numbers or list(sent)
            taken = numbers[bisect_left(numbers, part.start) : bisect_left(numbers, part.stop)]
        out += map(sent.pop, taken)
    return out


class Pacer(QuicPacketPacer):
    """Lets what is due within one pacing quantum go at once, so that timers may be coarse."""

    def update_rate(self, congestion_window: int, smoothed_rtt: float) -> None:
        super().update_rate(congestion_window, smoothed_rtt)
        # Wake-ups come late, and what the bucket cannot hold is lost rate. On a busy machine they
        # come so late that the round trip is made of nothing else.
        assert self.packet_time is not None, "just set"
        self.bucket_max = max(
            self.bucket_max,
            BURST_PACKETS * self.packet_time,
            1.5 * PACING_S,
            smoothed_rtt / BURST_RTT_DIVISOR,
        )


def adopt(
    loss: Any, kind: type[Recovery], *, on_long_loss: Callable[[], None], datagram_bytes: int
) -> None:
    """Make `loss`, which a connection of aioquic has made for itself, one of `kind`."""
    loss.__class__ = kind
    loss.on_long_loss = on_long_loss
    loss._bare_acks = deque(maxlen=BARE_ACKS_MAX)
    loss._learn_order_anew()
    loss._pacer = Pacer(max_datagram_size=datagram_bytes)
