"""One bottleneck in virtual time, and flows through it: for tests of congestion control and bench.

No sockets, no threads, no clock: a heap of events, and dice with a seed. A `RecoveryFlow` is
aioquic's own loss recovery, pacer and congestion control with a sender and a receiver of counted
bytes around them, ten times cheaper than a connection. An `EngineFlow` is two real connections with
their handshake. The link is a drop-tail queue one way; the way back only takes time.

Rates are in bytes per second, times in seconds, sizes in bytes of UDP payload.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from aioquic import tls
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import ConnectionTerminated, HandshakeCompleted, StreamDataReceived
from aioquic.quic.packet import QuicPacketType
from aioquic.quic.packet_builder import QuicDeliveryState, QuicSentPacket
from aioquic.quic.rangeset import RangeSet
from aioquic.quic.recovery import QuicPacketRecovery, QuicPacketSpace

from p2pstream.identity import NodeKey
from p2pstream.net.engine import Engine
from p2pstream.net.tls import CONNECTION_WINDOW_BYTES, configuration

MBIT = 125_000  # Bytes per second.
PACKET_BYTES = 1200  # What a full packet of a `RecoveryFlow` takes on the link.
OVERHEAD_BYTES = 32  # Of these: header, frame and tag of a packet with stream data.
PIECE_BYTES = 16 * 1024
ACK_DELAY_S = 1e-3  # What aioquic waits before it acknowledges.
ACK_RANGES_MAX = 16  # aioquic keeps 64 until its ACKs are acknowledged, which ours never are.
INITIAL_RTT_S = 0.1  # aioquic's default.
TIMER_LATE_S = 1e-6  # No timer is on time; aioquic's rounding relies on it.
FEED_BYTES = 512 * 1024  # What an `EngineFlow` in bulk keeps in its engine, acknowledged or not.


class World:
    """Virtual time: what is to happen, in order."""

    def __init__(self, *, seed: int = 1) -> None:
        self.now = 0.0
        self.rng = random.Random(seed)
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()

    def at(self, time: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._heap, (max(time, self.now), next(self._order), act))

    def run(self, seconds: float) -> None:
        """Let `seconds` pass."""
        end = self.now + seconds
        while self._heap and self._heap[0][0] <= end:
            self.now, _, act = heapq.heappop(self._heap)
            act()
        self.now = end


@dataclass
class Link:
    """A bottleneck with a drop-tail queue, and dice.

    Loss comes behind the queue, as on a radio link: what is lost has used the link. `delay_s` is
    one way, for both ways; flows may add their own.
    """

    world: World
    rate: float = 20 * MBIT
    delay_s: float = 0.025
    queue_bytes: float = 0.1 * 20 * MBIT
    loss: float = 0.0
    loss_back: float = 0.0
    reorder: float = 0.0  # This share of packets is late by up to `reorder_s`.
    reorder_s: tuple[float, float] = (0.002, 0.010)
    dropped: int = 0
    lost: int = 0
    carried: int = 0
    _free_at: float = 0.0

    @property
    def queue_s(self) -> float:
        """How long a packet would wait now."""
        return max(0.0, self._free_at - self.world.now)

    def send(self, size: int, delay_s: float, deliver: Callable[[], None]) -> None:
        """Through the bottleneck."""
        if self.queue_s * self.rate + size > self.queue_bytes:
            self.dropped += 1
            return
        self._free_at = max(self._free_at, self.world.now) + size / self.rate
        if self.world.rng.random() < self.loss:
            self.lost += 1
            return
        self.carried += size
        late = self.world.rng.uniform(*self.reorder_s) if self._unlucky(self.reorder) else 0.0
        self.world.at(self._free_at + self.delay_s + delay_s + late, deliver)

    def send_back(self, delay_s: float, deliver: Callable[[], None]) -> None:
        """The other way, where there is room."""
        if not self._unlucky(self.loss_back):
            self.world.at(self.world.now + self.delay_s + delay_s, deliver)

    def _unlucky(self, share: float) -> bool:
        return share > 0 and self.world.rng.random() < share


@dataclass
class Tally:
    """What a flow has carried."""

    received: int = 0  # Bytes of data, each counted once.
    delays: list[float] = field(default_factory=list)  # Of pieces, from birth to last byte.
    born: dict[int, float] = field(default_factory=dict)  # Of pieces under way.

    def done(self, piece: int, now: float) -> None:
        self.delays.append(now - self.born.pop(piece))

    def delay_s(self, share: float) -> float:
        """The quantile `share` of piece delays; pieces that never came count as infinitely late."""
        delays = sorted(self.delays) + [math.inf] * len(self.born)
        return delays[min(int(share * len(delays)), len(delays) - 1)]


class _Source:
    """Pieces at a rate, or without end."""

    def __init__(self, flow: RecoveryFlow | EngineFlow, rate: float | None) -> None:
        self._flow = flow
        self._count = count()
        self.rate = rate

    def start(self) -> None:
        if self.rate is not None:
            self._tick()

    def _tick(self) -> None:
        assert self.rate is not None
        if self.rate > 0:
            self.make()
            self._flow.flush()
        self._flow.world.at(self._flow.world.now + PIECE_BYTES / max(self.rate, 1e4), self._tick)

    def make(self) -> None:
        piece = next(self._count)
        self._flow.tally.born[piece] = self._flow.world.now
        self._flow.add(piece)


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
        self.source = _Source(self, rate)
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


class EngineFlow:
    """A flow of pieces between two real connections, each piece on a stream of its own.

    The first connection dials and sends. `rate` is of the source, None for bulk.
    """

    def __init__(
        self,
        link: Link,
        algorithm: str,
        *,
        rate: float | None = None,
        engine: Callable[..., QuicConnection] = Engine,
    ) -> None:
        self.link = link
        self.world = link.world
        self.tally = Tally()
        self.source = _Source(self, rate)
        self.ended: list[ConnectionTerminated] = []
        self._fed = 0  # Bulk bytes sent and not yet received.
        self._up = False
        self._pieces: dict[int, int] = {}  # By stream.
        sender = engine(configuration=_configuration(1, algorithm))
        sender.connect(("receiver", 1), now=self.world.now)
        receiver = engine(
            configuration=_configuration(0, algorithm),
            original_destination_connection_id=sender.original_destination_connection_id,
        )
        self.ends = [sender, receiver]
        self._timers = [math.inf, math.inf]
        self.flush()

    @property
    def cc(self) -> Any:
        return self.ends[0]._loss._cc

    def add(self, piece: int) -> None:
        """A piece to send."""
        stream = self.ends[0].get_next_available_stream_id(is_unidirectional=True)
        self._pieces[stream] = piece
        self.ends[0].send_stream_data(stream, bytes(PIECE_BYTES), end_stream=True)
        self._fed += PIECE_BYTES

    def flush(self) -> None:
        """Send what may be sent now, at both ends."""
        while self._up and self.source.rate is None and self._fed < FEED_BYTES:
            self.source.make()
        for end in (0, 1):
            self._flush(end)

    def _flush(self, end: int) -> None:
        for data, _ in self.ends[end].datagrams_to_send(self.world.now):
            if end == 0:
                self.link.send(len(data), 0.0, lambda data=data: self._receive(1, data))  # type: ignore[misc]
            else:
                self.link.send_back(0.0, lambda data=data: self._receive(0, data))  # type: ignore[misc]
        timer = self.ends[end].get_timer()
        if timer is not None and timer + TIMER_LATE_S < self._timers[end]:
            self._timers[end] = timer + TIMER_LATE_S
            self.world.at(self._timers[end], lambda: self._wake(end))

    def _wake(self, end: int) -> None:
        if self.world.now < self._timers[end]:
            return
        self._timers[end] = math.inf
        timer = self.ends[end].get_timer()
        if timer is not None and timer <= self.world.now:
            self.ends[end].handle_timer(self.world.now)
        self._flush(end)

    def _receive(self, end: int, data: bytes) -> None:
        source = ("receiver" if end == 0 else "sender", 1)
        self.ends[end].receive_datagram(data, source, self.world.now)
        while (event := self.ends[end].next_event()) is not None:
            self._take(end, event)
        self.flush()

    def _take(self, end: int, event: object) -> None:
        if isinstance(event, ConnectionTerminated):
            self.ended.append(event)
        elif end == 0 and isinstance(event, HandshakeCompleted):
            self._up = True
            self.source.start()
        elif end == 1 and isinstance(event, StreamDataReceived):
            self.tally.received += len(event.data)
            self._fed -= len(event.data)
            if event.end_stream:
                self.tally.done(self._pieces.pop(event.stream_id), self.world.now)


def _configuration(number: int, algorithm: str) -> QuicConfiguration:
    settings = configuration(NodeKey(bytes([number] * 32)), dialling=bool(number))
    settings.congestion_control_algorithm = algorithm
    assert FEED_BYTES < CONNECTION_WINDOW_BYTES
    return settings
