"""A tiny network in virtual time: one heap of deliveries, latency, loss, dead nodes and liars."""

from __future__ import annotations

import hashlib
import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

from p2pstream.core import Dial, Hangup, LinkDown, LinkUp, Send
from p2pstream.dht.contact import Contact
from p2pstream.dht.messages import DHT_MESSAGES
from p2pstream.dht.protocol import Config, Dht, Found, LookupDone, Provided
from p2pstream.errors import PeerError
from p2pstream.identity import Address, NodeId, NodeKey, PublicKey, node_id
from p2pstream.wire.codec import Codec, Message

WALL_S = 1_800_000_000.0  # Unix seconds at virtual time 0.
CODEC = Codec(*DHT_MESSAGES)
HANDSHAKE_RTTS = 1.0  # QUIC with TLS 1.3: one round trip before the first message.
DIAL_FAILS_S = 5.0  # security/architecture.md 5.3: handshake deadline.


def wall(now: float) -> float:
    return WALL_S + now


def key_of(n: int) -> NodeKey:
    return NodeKey(hashlib.sha256(f"node {n}".encode()).digest())


def topic(n: int) -> bytes:
    return hashlib.sha256(f"stream {n}".encode()).digest()


def make_dht(key: NodeKey, *, seed: int = 0, config: Config | None = None) -> Dht:
    return Dht(
        public=key.public,
        sign=key.sign,
        rng=random.Random(seed),
        wall=wall,
        token_secret=hashlib.sha256(b"secret" + key.public).digest(),
        config=config,
    )


Twist = Callable[["Host", NodeId, Message], Message | None]


@dataclass(eq=False)
class Host:
    """A node of the network. twist: what a liar makes of its answers (None: says nothing)."""

    dht: Dht
    address: Address
    dead: bool = False
    twist: Twist | None = None
    links: set[NodeId] = field(default_factory=set)
    found: list[Found] = field(default_factory=list)
    done: list[LookupDone] = field(default_factory=list)
    provided: list[Provided] = field(default_factory=list)
    raised: list[PeerError] = field(default_factory=list)
    armed: float = float("inf")
    dials: list[Address] = field(default_factory=list)

    @property
    def node(self) -> NodeId:
        return self.dht.node

    @property
    def contact(self) -> Contact:
        return Contact(self.node, self.address)

    def nodes_found(self) -> set[NodeId]:
        return {record.node for found in self.found for record in found.records}


class Network:
    """Runs hosts against each other.

    latency_s: one way, median of a log-normal over the pairs. loss: share of messages that vanish.
    """

    def __init__(
        self, *, seed: int = 1, latency_s: float = 0.02, codec: bool = False, loss: float = 0.0
    ) -> None:
        self.rng = random.Random(seed)
        self.now = 0.0
        self.loss = loss
        self.hosts: dict[NodeId, Host] = {}
        self.messages = 0
        self.bytes = 0
        self._latency_s = latency_s
        self._codec = codec
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self._pairs: dict[frozenset[NodeId], float] = {}

    def add(
        self,
        n: int,
        *,
        address: Address | None = None,
        config: Config | None = None,
        twist: Twist | None = None,
    ) -> Host:
        address = address or (f"{20 + n // 200}.{n % 200}.7.1", 4000)
        host = Host(make_dht(key_of(n), seed=n, config=config), address, twist=twist)
        self.hosts[host.node] = host
        return host

    def introduce(self, host: Host, *seeds: Host) -> None:
        """`host` learns of `seeds` and joins."""
        for seed in seeds:
            host.dht.learn(seed.contact, now=self.now)
        host.dht.join(now=self.now)
        self.settle(host)

    def kill(self, host: Host) -> None:
        """The host vanishes without a word; its links end after a while."""
        host.dead = True
        for peer in list(host.links):
            other = self.hosts[peer]
            other.links.discard(host.node)
            self.later(DIAL_FAILS_S, self._deliver(other, host.node, LinkDown("timeout")))
        host.links.clear()

    def run(self, seconds: float, *, until: Callable[[], bool] = lambda: False) -> float:
        """Let time pass. Returns how much did."""
        start, end = self.now, self.now + seconds
        while self._heap and self._heap[0][0] <= end:
            self.now, _, act = heapq.heappop(self._heap)
            act()
            if until():
                return self.now - start
        self.now = end
        return seconds

    def later(self, delay: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._heap, (self.now + delay, next(self._order), act))

    def find(self, host: Host, key: bytes, *, within_s: float = 25.0) -> LookupDone:
        number = host.dht.find(key, now=self.now)
        self.settle(host)
        self.run(within_s, until=lambda: any(done.lookup == number for done in host.done))
        return next(done for done in host.done if done.lookup == number)

    def settle(self, host: Host) -> None:
        """Carry out what `host` wants, and arm its alarm."""
        for effect in host.dht.effects():
            self._act(host, effect)
        at = host.dht.wake_at()
        if at < host.armed:
            host.armed = at
            self.later(max(0.0, at - self.now), lambda: self._wake(host, at))

    def _wake(self, host: Host, at: float) -> None:
        if host.armed == at:
            host.armed = float("inf")
            if not host.dead:
                host.dht.wake(now=self.now)
                assert host.dht.wake_at() > self.now, "a wake must move every alarm on"
                self.settle(host)

    def _act(self, host: Host, effect: object) -> None:
        match effect:
            case Send():
                assert isinstance(effect.message, Message)
                self._send(host, effect.peer, effect.message)
            case Dial():
                host.dials += effect.addresses
                self._dial(host, effect.peer, effect.addresses[0])
            case Hangup():
                self._hang_up(host, effect.peer)
            case Found():
                host.found.append(effect)
            case LookupDone():
                host.done.append(effect)
            case Provided():
                host.provided.append(effect)

    def _send(self, host: Host, peer: NodeId, message: Message) -> None:
        other = self.hosts.get(peer)
        if other is None or peer not in host.links or other.dead:
            return
        if host.twist is not None:
            twisted = host.twist(host, peer, message)
            if twisted is None:
                return
            message = twisted
        if self.loss and self.rng.random() < self.loss:
            return
        self.messages += 1
        if self._codec:
            data = CODEC.pack(message)
            self.bytes += len(data)
            assert len(data) <= 1200
            message = CODEC.unpack(data)
        self.later(self._delay(host.node, peer), self._deliver(other, host.node, message))

    def _dial(self, host: Host, peer: NodeId, address: Address) -> None:
        other = self.hosts.get(peer)
        if other is None or other.dead or other.address != address:
            self.later(DIAL_FAILS_S, self._deliver(host, peer, LinkDown("no answer")))
            return
        delay = 2 * self._delay(host.node, peer) * HANDSHAKE_RTTS
        self.later(delay, lambda: self._connect(host, other))

    def _connect(self, host: Host, other: Host) -> None:
        if host.dead or other.dead or other.node in host.links:
            return
        host.links.add(other.node)
        other.links.add(host.node)
        up = LinkUp(other.address, True, host.address)
        self._deliver(host, other.node, up)()
        down = LinkUp(host.address, False, other.address)
        self._deliver(other, host.node, down)()

    def _hang_up(self, host: Host, peer: NodeId) -> None:
        other = self.hosts[peer]
        host.links.discard(peer)
        other.links.discard(host.node)
        self.later(0.0, self._deliver(host, peer, LinkDown("idle")))
        self.later(0.0, self._deliver(other, host.node, LinkDown("idle")))

    def _deliver(
        self, host: Host, peer: NodeId, happening: Message | LinkUp | LinkDown
    ) -> Callable[[], None]:
        def act() -> None:
            if host.dead:
                return
            try:
                host.dht.receive(peer, happening, now=self.now)
            except PeerError as error:
                host.raised.append(error)
                self._hang_up(host, peer)
            self.settle(host)

        return act

    def _delay(self, a: NodeId, b: NodeId) -> float:
        pair = frozenset((a, b))
        if pair not in self._pairs:
            self._pairs[pair] = self._latency_s * self.rng.lognormvariate(0, 0.6)
        return self._pairs[pair]


def nearest(hosts: list[Host], key: bytes, number: int) -> list[NodeId]:
    """The ids of the `number` live hosts closest to `key`."""
    return sorted((host.node for host in hosts if not host.dead), key=lambda n: n ^ key)[:number]


def public_of(n: int) -> tuple[NodeId, PublicKey]:
    key = key_of(n)
    return node_id(key.public), key.public
