"""A home's uplink in virtual time, and flows of pieces through it.

No sockets, no threads, no clock: a heap of events, and dice with a seed. An `EngineFlow` is two
real connections with their handshake. The link is a drop-tail queue one way; the way back only
takes time. Rates are in bytes per second unless a name says otherwise, times in seconds, sizes in
bytes of UDP payload.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any, Protocol

from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import ConnectionTerminated, HandshakeCompleted, StreamDataReceived

from p2pstream.identity import NodeKey
from p2pstream.net import congestion
from p2pstream.net.fast import FastEngine
from p2pstream.net.tls import CONNECTION_WINDOW_BYTES, configuration
from p2pstream.stream.chunk import PIECE_BYTES

MBIT = 125_000  # Bytes per second.
TIMER_LATE_S = 1e-6  # No timer is on time; aioquic's rounding relies on it.
# What an `EngineFlow` keeps in its engine; the rest waits, oldest first. More than the link and its
# queue hold; stock aioquic pays for each open stream in every packet (facts/quic.md 2a).
FEED_BYTES = 512 * 1024
SHARED_RATE = 10 * MBIT  # Of the bottleneck, so that a measurement takes seconds.
START_S = 1.0  # Handshake, and finding out what the path carries: not what a stream sees later.
WARM_UP_S = 5.0  # Until two flows have found their shares.

Make = Callable[..., QuicConnection]


def live(
    ours: bool, *, bits_per_s: float, seconds: float, seed: int,
    loss: float = 0.0, reorder: float = 0.0,
) -> Journey:  # fmt: skip
    """Send pieces over a home's uplink: our engine, or aioquic as it is with reno.

    reorder: the share of datagrams that come 2 to 10 ms late. A `bits_per_s` above the link's rate
    measures goodput. Delays count from when a piece was due.
    """
    link = Link(World(seed=seed), loss=loss, reorder=reorder)
    flow = _flow(link, ours, rate=bits_per_s / 8)
    link.world.run(START_S)
    flow.tally.delays.clear()
    before = flow.tally.received
    link.world.run(seconds)
    under_way = [link.world.now - at for at in flow.tally.born.values()]
    return Journey(flow.tally.delays + under_way, (flow.tally.received - before) / seconds)


def shares(*, seconds: float, seed: int) -> tuple[float, float]:
    """What our engine and aioquic with reno get of half a link that they share, both in bulk."""
    link = Link(World(seed=seed), rate=SHARED_RATE, queue_bytes=0.1 * SHARED_RATE)
    flows = [_flow(link, True, rate=None)]
    link.world.run(link.world.rng.random() / 2)  # Who comes first must not decide.
    flows.append(_flow(link, False, rate=None))
    link.world.run(WARM_UP_S)
    before = [flow.tally.received for flow in flows]
    link.world.run(seconds)
    one, other = (
        (flow.tally.received - old) / seconds / (link.rate / 2)
        for flow, old in zip(flows, before, strict=True)
    )
    return one, other


@dataclass(slots=True)
class Journey:
    """How pieces fared: the delay of each, and bytes per second that arrived.

    What has not come yet is at least as late as it is now.
    """

    delays_s: list[float]
    bytes_per_s: float


def _flow(link: Link, ours: bool, *, rate: float | None) -> EngineFlow:
    if ours:
        return EngineFlow(link, congestion.NAME, rate=rate)
    return EngineFlow(link, "reno", rate=rate, engine=QuicConnection)


class World:
    """Virtual time: what is to happen, in order."""

    def __init__(self, *, seed: int = 1) -> None:
        self.now = 0.0
        self.rng = random.Random(seed)  # noqa: S311  # The weather.
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


class Flow(Protocol):
    """What a `Source` fills."""

    world: World
    tally: Tally

    def add(self, piece: int) -> None: ...
    def flush(self) -> None: ...


class Source:
    """Pieces at a rate, or without end."""

    def __init__(self, flow: Flow, rate: float | None) -> None:
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
        engine: Callable[..., QuicConnection] = FastEngine,
    ) -> None:
        self.link = link
        self.world = link.world
        self.tally = Tally()
        self.source = Source(self, rate)
        self.ended: list[ConnectionTerminated] = []
        self._waiting: deque[int] = deque()  # Pieces.
        self._fed = 0  # Bytes in the engine and not yet received.
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
        return self.ends[0]._loss._cc  # noqa: SLF001  # For tests.

    def add(self, piece: int) -> None:
        """A piece to send."""
        self._waiting.append(piece)

    def flush(self) -> None:
        """Send what may be sent now, at both ends."""
        while self._up and self._fed < FEED_BYTES:
            if not self._waiting and self.source.rate is None:
                self.source.make()
            if not self._waiting:
                break
            self._feed(self._waiting.popleft())
        for end in (0, 1):
            self._flush(end)

    def _feed(self, piece: int) -> None:
        stream = self.ends[0].get_next_available_stream_id(is_unidirectional=True)
        self._pieces[stream] = piece
        self.ends[0].send_stream_data(stream, bytes(PIECE_BYTES), end_stream=True)
        self._fed += PIECE_BYTES

    def _flush(self, end: int) -> None:
        if self.ends[end].get_peer_address() is None:
            return  # Nothing has come yet.
        for data, _ in self.ends[end].datagrams_to_send(self.world.now):
            if end == 0:
                self.link.send(len(data), 0.0, partial(self._receive, 1, data))
            else:
                self.link.send_back(0.0, partial(self._receive, 0, data))
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
