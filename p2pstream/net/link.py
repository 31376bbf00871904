"""One connection to one peer, without hands: bytes in, happenings out.

Control messages travel framed on one bidirectional stream that the dialler opens. A parcel travels
on a unidirectional stream of its own: its header framed, then its body until the stream's end.
The first frame either way is a `Hello`.

Invariants. Nothing is reported before the peer has proven its key and sent its Hello; after that
`LinkUp` comes first and `LinkDown` last, once each. Only two parcels stay in the engine
unsent; the others wait here, most urgent first, so that what expires is never sent. What
waits, what has half arrived and how fast messages come is bounded.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import ip_address
from itertools import takewhile
from math import inf
from typing import Annotated, Protocol

from aioquic.quic import events
from aioquic.quic.packet import QuicErrorCode
from msgspec import Meta

from p2pstream.core import Happening, LinkDown, LinkUp, Parcel
from p2pstream.errors import BadMessage, PeerError
from p2pstream.identity import Address, NodeId, node_id
from p2pstream.net.doorman import Bucket
from p2pstream.net.engine import CONTROL_STREAM, INCOMING_PARCELS_MAX, Engine
from p2pstream.net.tls import ALPN, BadCertificate, peer_key
from p2pstream.net.udp import Train
from p2pstream.wire.codec import LENGTH_BYTES, MESSAGE_BYTES_MAX, U16, Codec, Message
from p2pstream.wire.frame import Unframer

HANDSHAKE_S = 5.0  # security/architecture.md 5.3: from the first datagram to the peer's Hello.
KEEPALIVE_S = 15.0  # Half the idle timeout, and less than NATs remember (30 s, RFC 9308 3.2).
# The first PING after a parcel, the next ones after twice as long each time. A NAT may have given
# us another address, which the peer learns only from us. Wild guess: a link that streams is never
# silent for more than a chunk, 0.2 s; an idle one costs five PINGs more each time. A message does
# not count: who gets no parcels has messages of its own to send, which tell as much as a PING.
RESTLESS_S = 0.5

PARCEL_BODY_BYTES_MAX = 16 * 1024 + 32  # security/architecture.md 5.5: a piece and its seal.
PARCEL_BYTES_MAX = LENGTH_BYTES + MESSAGE_BYTES_MAX + PARCEL_BODY_BYTES_MAX
PARCEL_S = 3.0  # test-catalogue S-12: from a parcel's first byte to its last.
STOPPED_S = (
    10.0  # How long a peer may ignore that we stopped a parcel; wild guess, rides out 1 PTO.
)

QUEUE_BYTES_MAX = 8 << 20  # security/architecture.md 5.5: the send queue.
# Of parcels in the engine, besides what it can send at once: two, for it may send them in turns;
# all others stay in order of urgency.
UNSENT_BYTES_MAX = 32 * 1024
STARTED_MAX = 2 * INCOMING_PARCELS_MAX  # Half of these have arrived at least: time to look.
CONTROL_FEED_BYTES_MAX = 64 * 1024  # Of control messages; more of them wait here. Wild guess.

# 5.5 says 40/s, but a partner sends up to 60/s at high bit rates (a buffer map each 20-50 ms, and
# pulls), and an outage of some seconds ends in a burst. What is above waits at the sender, which
# keeps 10 % below, so that only a flooder is ever refused.
CONTROL_PER_S = 200.0
CONTROL_BURST = 400.0
_POLITE = 0.9

_DATA = events.StreamDataReceived
WORD_MAX = 64  # Characters of a reason told to a peer: it must fit into one packet.
STREAM_EXPIRED = 1  # Why a parcel's stream was reset: it could not be sent in time.
STREAM_SLOW = 2  # Why a parcel's stream was stopped: it took longer than `PARCEL_S`.


class Close(IntEnum):
    """Application error codes of QUIC: why a link was closed, in a way that the peer can act on."""

    BYE = 0x100
    IDENTITY_MISMATCH = 0x101
    BAD_CERTIFICATE = 0x102
    BANNED = 0x103
    SELF = 0x104
    DUPLICATE = 0x105
    BAD_MESSAGE = 0x106
    FLOOD = 0x107
    SLOW = 0x108
    INTERNAL = 0x109

    @property
    def word(self) -> str:
        return self.name.lower()


class Hello(Message, tag=1, frozen=True):
    """The first message either way. seen_ip, seen_port: where the sender sees the receiver."""

    agent: Annotated[str, Meta(max_length=64)]
    seen_ip: Annotated[str, Meta(max_length=45)]
    seen_port: U16


_HELLO = Codec(Hello)


class _Flood(PeerError):
    pass


@dataclass(slots=True)
class LinkCounters:
    """What one link has carried, and what it dropped."""

    datagrams_in: int = 0
    datagrams_out: int = 0
    bytes_in: int = 0  # Of UDP payload.
    bytes_out: int = 0
    messages_in: int = 0
    messages_out: int = 0
    parcels_in: int = 0
    parcels_out: int = 0
    expired: int = 0  # Not sent before `expires_at`.
    overflowed: int = 0  # Beyond `QUEUE_BYTES_MAX`.
    slow: int = 0  # Incoming parcels stopped after `PARCEL_S`.


class Vet(Protocol):
    """Whether a link may go on, now that it is proven whose it is; a code if not."""

    def __call__(self, link: Link, peer: NodeId) -> Close | None: ...


@dataclass(slots=True)
class _Arriving:
    parts: list[bytes]
    size: int
    deadline: float


@dataclass(slots=True)
class _Waiting:
    data: bytes
    expires_at: float


class Link:
    """A connection to one peer. `peer` is known once it is proven, `up` once it said Hello."""

    def __init__(
        self,
        engine: Engine,
        codec: Codec,
        *,
        address: Address,
        dialled: bool,
        vet: Vet,
        agent: str = "",
        expected: NodeId | None = None,
        now: float,
    ) -> None:
        self.address = address
        self.dialled = dialled
        self.expected = expected
        self.born_at = now
        self.up_at = inf
        self.peer: NodeId | None = None
        self.greeted = False  # We said Hello.
        self.closed = False
        self.counters = LinkCounters()
        # Connection ids for the endpoint to learn (True) or to forget, in order.
        self.cids: deque[tuple[bytes, bool]] = deque()
        self._engine = engine
        self._codec = codec
        self._vet = vet
        self._agent = agent
        self._quiet_since = now
        self._patience_s = RESTLESS_S
        self._news: list[Happening] = []
        # Incoming.
        self._unframer = Unframer()
        self._arriving: dict[int, _Arriving] = {}  # By stream, oldest first.
        self._stopped: dict[int, float] = {}  # Stream to the time when our patience ends.
        self._early: list[Parcel] = []  # Overtook the Hello.
        self._control_in = Bucket(CONTROL_PER_S, CONTROL_BURST)
        # Outgoing.
        self._control: deque[_Waiting] = deque()
        self._parcels: list[tuple[float, int, bytes]] = []  # A heap: when it expires.
        self._order = 0  # Of the last parcel queued.
        self._queued_bytes = 0
        self._started: dict[int, float] = {}  # Stream of a parcel in the engine to its expiry.
        self._unsent_bytes = 0  # In the engine.
        self._expiry = inf  # The next one of `_started`, or earlier.
        self._late = False  # Whether one has expired that is still there.
        self._control_out = Bucket(CONTROL_PER_S * _POLITE, CONTROL_BURST * _POLITE)

    # What its carrier looks at.

    @property
    def up(self) -> bool:
        """Whether `LinkUp` was reported and the link has not ended."""
        return self.up_at < inf and not self.closed

    @property
    def silent(self) -> bool:
        """Whether nothing readable ever came: then nothing should be said either."""
        return not self.dialled and not self._engine.heard

    @property
    def backlog(self) -> int:
        """Bytes accepted that have not left."""
        return self._queued_bytes + self._unsent_bytes

    @property
    def rtt_s(self) -> float:
        """Smoothed round-trip time in seconds."""
        return self._engine.rtt_s

    # What its endpoint calls.

    def receive(self, data: bytes, address: Address, *, size: int, now: float) -> list[Happening]:
        """Datagrams came, joined, each `size` long but for the last; returns what happened."""
        self.counters.datagrams_in += -(-len(data) // size)
        self.counters.bytes_in += len(data)
        self._quiet_since = now
        self._engine.receive_train(data, size, address, now)
        return self._take_events(now)

    def wake(self, *, now: float) -> list[Happening]:
        """The time given by `wake_at` has come; returns what happened."""
        if self.closed:
            return []
        self._engine.handle_timer(now)
        news = self._take_events(now)
        if not self.closed:
            self._check_deadlines(now)
            news += self._take_news()
        return news

    def wake_at(self, *, now: float) -> float:
        """When to call `wake` next. Call it after `flush`, which may move it."""
        if self.closed:
            return inf
        timer = self._engine.get_timer()
        at = inf if timer is None else timer
        if self.up_at == inf:
            return min(at, self.born_at + HANDSHAKE_S)
        at = min(at, self._quiet_since + self._patience_s, self._expiry)
        if self._parcels:
            at = min(at, self._parcels[0][0])
        if self._control:
            at = min(at, self._control_out.ready_at(now=now))
        if self._arriving:
            at = min(at, next(iter(self._arriving.values())).deadline)
        if self._stopped:
            at = min(at, next(iter(self._stopped.values())))
        return at

    def flush(self, *, now: float) -> list[Train]:
        """The datagrams to send now, joined."""
        if self.closed and self.silent:
            return []
        self._feed(now)
        out: list[Train] = []
        while batch := self._engine.trains_to_send(now):
            out += batch
            if not self._feed(now):
                break
        self.address = self._engine.get_peer_address() or self.address
        for data, size, _ in out:
            self.counters.datagrams_out += -(-len(data) // size)
            self.counters.bytes_out += len(data)
        return out

    def send(self, message: Message | Parcel, *, expires_at: float) -> None:
        """Queue a message. It leaves with the next `flush`, or is dropped and counted."""
        assert not self.closed, "the carrier sends on links that are up"
        if parcel := isinstance(message, Parcel):
            assert len(message.body) <= PARCEL_BODY_BYTES_MAX, "a body is one piece at most"
            data = self._codec.frame(message.header, message.body)
        else:
            data = self._codec.frame(message)
        queued = self._queued_bytes + len(data)
        if queued + self._unsent_bytes > QUEUE_BYTES_MAX:
            self.counters.overflowed += 1
            return
        self._queued_bytes = queued
        if parcel:
            self._order += 1
            heapq.heappush(self._parcels, (expires_at, self._order, data))
        else:
            self._control.append(_Waiting(data, expires_at))

    def close(self, code: Close, word: str = "") -> None:
        """End the link. The peer learns of it with the next `flush`; nothing is reported."""
        if not self.closed:
            self.closed = True
            self._engine.close(error_code=code, reason_phrase=(word or code.word)[:WORD_MAX])
            self._forget()

    def dissolve(self) -> None:
        """Nothing follows, not even a `flush`: free what the engine holds."""
        self._engine.dissolve()

    # Incoming.

    def _take_events(self, now: float) -> list[Happening]:
        try:
            while not self.closed and (event := self._engine.next_event()) is not None:
                if event.__class__ is _DATA and event.stream_id != CONTROL_STREAM:
                    self._on_parcel_data(event, now)  # By far the most, so without asking further.
                else:
                    self._on_event(event, now)
        except BadCertificate as error:
            self._fail(Close.BAD_CERTIFICATE, error.reason)
        except _Flood:
            self._fail(Close.FLOOD)
        except PeerError:
            self._fail(Close.BAD_MESSAGE)
        if not self.closed and (ended := self._engine.ended):
            self.closed = True
            self._news.append(LinkDown(_word(ended)))
            self._forget()
        return self._take_news()

    def _take_news(self) -> list[Happening]:
        news, self._news = self._news, []
        return news

    def _on_event(self, event: events.QuicEvent, now: float) -> None:
        match event:
            case events.StreamDataReceived():
                self._on_control(event, now)
            case events.StreamReset() | events.StopSendingReceived():
                self._on_stream_abandoned(event.stream_id)
            case events.HandshakeCompleted():
                self._on_handshake(event)
            case events.ConnectionIdIssued():
                self.cids.append((event.connection_id, True))
            case events.ConnectionIdRetired():
                self.cids.append((event.connection_id, False))
            case _:
                pass  # The endpoint asks the engine itself for the others.

    def _on_handshake(self, event: events.HandshakeCompleted) -> None:
        if event.alpn_protocol != ALPN or event.session_resumed:
            raise BadMessage("another protocol, or a resumed session without a certificate")
        self.peer = node_id(peer_key(self._engine))
        if self.expected not in {None, self.peer}:
            self._fail(Close.IDENTITY_MISMATCH)
        elif refusal := self._vet(self, self.peer):
            self._fail(refusal)
        elif self.dialled:
            self._greet()

    def _greet(self) -> None:
        self.greeted = True
        hello = _HELLO.frame(Hello(self._agent, *self.address))
        self._engine.send_stream_data(CONTROL_STREAM, hello)

    def _on_control(self, event: events.StreamDataReceived, now: float) -> None:
        if not self.greeted:
            self._greet()  # The stream exists for us only now that the dialler has opened it.
        for body in self._unframer.feed(event.data):
            if self.up:
                if not self._control_in.take(now=now):
                    raise _Flood
                message = self._codec.unpack(body)
                self.counters.messages_in += 1
                self._news.append(message)
            else:
                self._on_hello(_HELLO.unpack(body), now)
        if event.end_stream:
            raise BadMessage("the control stream ended")

    def _on_hello(self, hello: Message, now: float) -> None:
        assert isinstance(hello, Hello)
        try:
            seen_as = str(ip_address(hello.seen_ip)), hello.seen_port
        except ValueError:
            raise BadMessage("not an IP address") from None
        self.up_at = now
        self._news.append(LinkUp(self.address, self.dialled, seen_as))
        self._news += self._early
        self._early.clear()

    def _on_parcel_data(self, event: events.StreamDataReceived, now: float) -> None:
        stream_id, data = event.stream_id, event.data
        if stream_id in self._stopped:
            if event.end_stream:
                del self._stopped[stream_id]
            return
        parcel = self._arriving.get(stream_id)
        if parcel is None:
            if event.end_stream:
                self._on_parcel(data)
                return
            parcel = self._arriving[stream_id] = _Arriving([], 0, now + PARCEL_S)
        if data:  # Else only its beginning was told; one part alone is joined without copying.
            parcel.parts.append(data)
        parcel.size += len(data)
        if parcel.size > PARCEL_BYTES_MAX:
            raise BadMessage(f"a parcel of more than {PARCEL_BYTES_MAX} bytes")
        if event.end_stream:
            del self._arriving[stream_id]
            self._on_parcel(b"".join(parcel.parts))

    def _on_parcel(self, data: bytes) -> None:
        start = LENGTH_BYTES + int.from_bytes(data[:LENGTH_BYTES])
        if not LENGTH_BYTES < start <= len(data):
            raise BadMessage("a parcel without a whole header")
        if len(data) - start > PARCEL_BODY_BYTES_MAX:
            raise BadMessage(f"a parcel's body of {len(data) - start} bytes")
        parcel = Parcel(self._codec.unpack(data[LENGTH_BYTES:start]), data[start:])
        self.counters.parcels_in += 1
        self._patience_s = RESTLESS_S
        if self.up:
            self._news.append(parcel)
        elif len(self._early) < INCOMING_PARCELS_MAX:
            self._early.append(parcel)
        else:
            raise BadMessage("parcels without a Hello")

    def _on_stream_abandoned(self, stream_id: int) -> None:
        if stream_id == CONTROL_STREAM:
            raise BadMessage("the control stream was reset")
        self._arriving.pop(stream_id, None)
        self._stopped.pop(stream_id, None)
        self._started.pop(stream_id, None)

    # Time.

    def _check_deadlines(self, now: float) -> None:
        if not self.up:
            if now >= self.born_at + HANDSHAKE_S:
                self._fail(Close.SLOW, "handshake_timeout")
            return
        if now >= self._quiet_since + self._patience_s:
            self._quiet_since = now
            self._patience_s = min(2 * self._patience_s, KEEPALIVE_S)
            self._engine.send_ping(0)
        self._stop_slow_parcels(now)

    def _stop_slow_parcels(self, now: float) -> None:
        deadlines = ((stream_id, parcel.deadline) for stream_id, parcel in self._arriving.items())
        for stream_id in _due(deadlines, now):
            del self._arriving[stream_id]
            self.counters.slow += 1
            if self._engine.knows(stream_id):
                self._engine.stop_stream(stream_id, STREAM_SLOW)
                self._stopped[stream_id] = now + STOPPED_S
        for stream_id in _due(self._stopped.items(), now):
            del self._stopped[stream_id]
            if self._engine.knows(stream_id):
                self._fail(Close.SLOW, "slow_parcels")
                return

    # Outgoing.

    def _feed(self, now: float) -> bool:
        """Give the engine what it can send soon; returns whether that was anything."""
        if self.closed or self.up_at == inf:
            return False
        if self._late or now >= self._expiry or len(self._started) > STARTED_MAX:
            self._sweep(now)
        self._unsent_bytes = self._engine.unsent_bytes
        if not self._control and not self._parcels:
            return False
        fed = self._feed_control(now)
        while self._parcels and self._parcels[0][0] <= now:
            self._expire(heapq.heappop(self._parcels)[2])
        most = UNSENT_BYTES_MAX + (self._engine.sendable_bytes(now) if self._parcels else 0)
        while self._parcels and self._unsent_bytes < most and self._engine.may_be_fed:
            expires_at, _, data = heapq.heappop(self._parcels)
            self._start(data, expires_at)
            fed = True
        return fed

    def _feed_control(self, now: float) -> bool:
        fed = False
        while self._control:
            if self._control[0].expires_at <= now:
                self._expire(self._control.popleft().data)
                continue
            left = self._engine.outstanding(CONTROL_STREAM)
            if (left and left[0] >= CONTROL_FEED_BYTES_MAX) or not self._control_out.take(now=now):
                break
            data = self._control.popleft().data
            self._queued_bytes -= len(data)
            self._engine.send_stream_data(CONTROL_STREAM, data)
            self.counters.messages_out += 1
            fed = True
        return fed

    def _start(self, data: bytes, expires_at: float) -> None:
        stream_id = self._engine.get_next_available_stream_id(is_unidirectional=True)
        self._engine.send_stream_data(stream_id, data, end_stream=True)
        self._queued_bytes -= len(data)
        self._unsent_bytes += len(data)
        self._started[stream_id] = expires_at
        self._expiry = min(self._expiry, expires_at)
        self.counters.parcels_out += 1

    def _sweep(self, now: float) -> None:
        """Forget the parcels that have arrived, and take back from the engine what has expired."""
        self._expiry, self._late = inf, False
        for stream_id, expires_at in list(self._started.items()):
            if self._engine.outstanding(stream_id) is None:
                del self._started[stream_id]
            elif expires_at > now:
                self._expiry = min(self._expiry, expires_at)
            elif self._engine.owes(stream_id):
                # Part of it has left: only now is it known that the rest comes too late.
                self._engine.reset_stream(stream_id, STREAM_EXPIRED)
                self.counters.expired += 1
                del self._started[stream_id]
            else:
                self._late = True  # All of it has left, and some of it may yet be lost.

    def _expire(self, data: bytes) -> None:
        self._queued_bytes -= len(data)
        self.counters.expired += 1

    # The end.

    def _fail(self, code: Close, word: str = "") -> None:
        if not self.closed:
            self.close(code, word)
            self._news.append(LinkDown(word or code.word))

    def _forget(self) -> None:
        self._arriving.clear()
        self._stopped.clear()
        self._early.clear()
        self._control.clear()
        self._parcels.clear()
        self._started.clear()
        self._queued_bytes = self._unsent_bytes = 0


def _due(deadlines: Iterable[tuple[int, float]], now: float) -> list[int]:
    """The streams that are due; `deadlines` is in order of time."""
    return [stream_id for stream_id, _ in takewhile(lambda entry: entry[1] <= now, deadlines)]


def _word(ended: events.ConnectionTerminated) -> str:
    """Why the engine, or the peer, ended a connection, as one stable word."""
    if ended.frame_type is None:
        codes = {int(code): code.word for code in Close}
        return "peer_" + codes.get(ended.error_code, "closed")
    if ended.reason_phrase == "Idle timeout":
        return "idle_timeout"
    if ended.error_code == QuicErrorCode.APPLICATION_ERROR:
        return "peer_closed"  # In the handshake, where RFC 9000 10.2.3 hides the code.
    if ended.error_code >= QuicErrorCode.CRYPTO_ERROR:
        return "handshake_failed"
    return "protocol_error"
