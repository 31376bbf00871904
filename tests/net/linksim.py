"""Flows through the virtual link of `p2pstream.bench.path`, for tests of congestion control.

A `RecoveryFlow` is aioquic's own loss recovery, pacer and congestion control with a sender and a
receiver of counted bytes around them, ten times cheaper than a connection.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Any

from aioquic import tls
from aioquic.quic.packet import QuicPacketType
from aioquic.quic.packet_builder import QuicDeliveryState, QuicSentPacket
from aioquic.quic.rangeset import RangeSet
from aioquic.quic.recovery import QuicPacketRecovery, QuicPacketSpace

from p2pstream.bench.path import TIMER_LATE_S, Link, Source, Tally
from p2pstream.stream.chunk import PIECE_BYTES

PACKET_BYTES = 1200  # What a full packet of a `RecoveryFlow` takes on the link.
OVERHEAD_BYTES = 32  # Of these: header, frame and tag of a packet with stream data.
ACK_DELAY_S = 1e-3  # What aioquic waits before it acknowledges.
ACK_RANGES_MAX = 16  # aioquic keeps 64 until its ACKs are acknowledged, which ours never are.
INITIAL_RTT_S = 0.1  # aioquic's default.


class RecoveryFlow:
    """A flow of pieces: aioquic's recovery and congestion control, everything else counted.

    `rate` is of the source, None for bulk. `kind` is the class of the recovery.
    """

    def __init__(
        self,
        link: Link,
        algorithm: str,
        *,
        rate: float | None = None,
        extra_delay_s: float = 0.0,
        start: float = 0.0,
        bulk_bytes: float = math.inf,
        kind: type[QuicPacketRecovery] = QuicPacketRecovery,
    ) -> None:
        self.link = link
        self.world = link.world
        self.tally = Tally()
        self.source = Source(self, rate)
        self.recovery = kind(
            congestion_control_algorithm=algorithm,
            initial_rtt=INITIAL_RTT_S,
            max_datagram_size=PACKET_BYTES,
            peer_completed_address_validation=True,
            send_probe=self._probe,
        )
        self.recovery.handshake_confirmed = True
        self.space = QuicPacketSpace(is_application_data=True)
        self.recovery.spaces = [self.space]
        self.cc: Any = self.recovery._cc
        self.sent = self.spurious = 0
        self.peak_window = 0
        self._bulk_left = bulk_bytes
        self._extra_s = extra_delay_s
        self._probing = False
        self._next_number = self._next_chunk = 0
        self._waiting: deque[tuple[int, int, int]] = deque()  # Chunk, piece, size.
        self._wake_at = math.inf
        # The receiver.
        self._acks = RangeSet()
        self._acking = False
        self._chunks: set[int] = set()
        self._missing: dict[int, int] = {}  # Piece to bytes that are to come.
        self.world.at(start, self._begin)

    def add(self, piece: int) -> None:
        """A piece to send."""
        self._missing[piece] = PIECE_BYTES
        left = PIECE_BYTES
        while left:
            size = min(left, PACKET_BYTES - OVERHEAD_BYTES)
            self._waiting.append((self._next_chunk, piece, size))
            self._next_chunk += 1
            left -= size

    def flush(self) -> None:
        """Send what may be sent now."""
        now = self.world.now
        while (chunk := self._next()) is not None:
            size = chunk[2] + OVERHEAD_BYTES
            if self.cc.bytes_in_flight + size > self.cc.congestion_window and not self._probing:
                break
            if (at := self.recovery._pacer.next_send_time(now)) is not None:
                self._arm(at)
                break
            self._probing = False
            self._waiting.popleft()
            self._send(chunk, size)
        timer = self.recovery.get_loss_detection_time(amplification_limited=False)
        if timer is not None:
            self._arm(timer)
        self.peak_window = max(self.peak_window, self.cc.congestion_window)

    def _begin(self) -> None:
        self.source.start()
        self.flush()

    def _next(self) -> tuple[int, int, int] | None:
        if not self._waiting and self.source.rate is None and self._bulk_left > 0:
            self._bulk_left -= PIECE_BYTES
            self.source.make()
        return self._waiting[0] if self._waiting else None

    def _send(self, chunk: tuple[int, int, int], size: int) -> None:
        number = self._next_number
        self._next_number += 1
        packet = QuicSentPacket(
            epoch=tls.Epoch.ONE_RTT,
            in_flight=True,
            is_ack_eliciting=True,
            is_crypto_packet=False,
            packet_number=number,
            packet_type=QuicPacketType.ONE_RTT,
            sent_time=self.world.now,
            sent_bytes=size,
            delivery_handlers=[(self._settled, (chunk,))],
        )
        self.sent += 1
        self.recovery.on_packet_sent(packet=packet, space=self.space)
        self.recovery._pacer.update_after_send(self.world.now)
        self.link.send(size, self._extra_s, lambda: self._receive(number, chunk))

    def _settled(self, state: QuicDeliveryState, chunk: tuple[int, int, int]) -> None:
        if state == QuicDeliveryState.LOST:
            self.spurious += chunk[0] in self._chunks
            self._waiting.appendleft(chunk)

    def _probe(self) -> None:
        self._probing = True

    def _arm(self, at: float) -> None:
        at += TIMER_LATE_S
        if at < self._wake_at:
            self._wake_at = at
            self.world.at(at, self._wake)

    def _wake(self) -> None:
        if self.world.now < self._wake_at:
            return  # Another one has come first.
        self._wake_at = math.inf
        timer = self.recovery.get_loss_detection_time(amplification_limited=False)
        if timer is not None and timer <= self.world.now:
            self.recovery.on_loss_detection_timeout(now=self.world.now)
        self.flush()

    # The receiver.

    def _receive(self, number: int, chunk: tuple[int, int, int]) -> None:
        self._acks.add(number, number + 1)
        while len(self._acks) > ACK_RANGES_MAX:
            self._acks.shift()
        if not self._acking:
            self._acking = True
            self.world.at(self.world.now + ACK_DELAY_S, self._acknowledge)
        identity, piece, size = chunk
        if identity in self._chunks:
            return
        self._chunks.add(identity)
        self.tally.received += size
        self._missing[piece] -= size
        if not self._missing[piece]:
            del self._missing[piece]
            self.tally.done(piece, self.world.now)

    def _acknowledge(self) -> None:
        self._acking = False
        ranges = RangeSet([range(r.start, r.stop) for r in self._acks])
        self.link.send_back(self._extra_s, lambda: self._acknowledged(ranges))

    def _acknowledged(self, ranges: RangeSet) -> None:
        self.recovery.on_ack_received(
            ack_rangeset=ranges, ack_delay=ACK_DELAY_S, now=self.world.now, space=self.space
        )
        self.flush()
