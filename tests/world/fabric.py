"""A small world in virtual time for cores: nodes, links with delay, rate and loss, and one heap.

Only what the tests of cores need; nothing of QUIC. Dice come from one seed for each node, so a run
repeats exactly.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import chain, count
from math import inf
from random import Random
from typing import Any

from p2pstream.core import Core, Dial, Hangup, LinkDown, LinkUp, Parcel, Push, Send
from p2pstream.errors import Misbehaviour, PeerError
from p2pstream.identity import Address, NodeId, NodeKey
from p2pstream.wire.codec import Codec, Message

WALL_0 = 1_800_000_000.0  # The Unix time at which every world begins.


def wall(now: float) -> float:
    return WALL_0 + now


def key_of(number: int) -> NodeKey:
    return NodeKey(number.to_bytes(32))


@dataclass
class Host:
    """One node: its core, its uplink, and what went wrong."""

    world: World
    node: NodeId
    address: Address
    core: Core
    up_bps: float = inf
    links: set[NodeId] = field(default_factory=set)
    banned: set[NodeId] = field(default_factory=set)
    convicted: list[tuple[NodeId, str]] = field(default_factory=list)
    effects: list[Any] = field(default_factory=list)
    on_effect: Callable[[Any], None] = lambda _: None
    alive: bool = True
    frozen: bool = False
    inbox: list[tuple[NodeId, Any]] = field(default_factory=list)
    busy_until: float = 0.0
    queue: deque[tuple[float, NodeId, int]] = field(default_factory=deque)  # Gone when, to whom.
    bytes_out: int = 0
    bytes_in: int = 0
    alarm: float = inf
    wakes: int = 0

    def backlog(self, peer: NodeId) -> int:
        while self.queue and self.queue[0][0] <= self.world.now:
            self.queue.popleft()
        return sum(size for _, to, size in self.queue if to == peer)

    def rtt_s(self, peer: NodeId) -> float:
        return 2 * self.world.delay_s(self.node, peer)

    def tell(self, peer: NodeId, happening: Any) -> None:
        if self.frozen:
            self.inbox.append((peer, happening))
            return
        try:
            self.core.receive(peer, happening, now=self.world.now)
        except PeerError as error:
            self.convicted.append((peer, str(error)))
            self.hangup(peer, str(error), guilty=isinstance(error, Misbehaviour))
        self.act()

    def act(self) -> None:
        effects = (e.sends() if isinstance(e, Push) else [e] for e in self.core.effects())
        for effect in chain.from_iterable(effects):
            self.effects.append(effect)
            match effect:
                case Send():
                    self.world.carry(self, effect)
                case Dial():
                    self.world.dial(self, effect)
                case Hangup():
                    if effect.guilty:
                        self.convicted.append((effect.peer, effect.reason))
                    self.hangup(effect.peer, effect.reason, guilty=effect.guilty)
                case _:
                    self.on_effect(effect)
        self.world.set_alarm(self)

    def hangup(self, peer: NodeId, reason: str, *, guilty: bool) -> None:
        if guilty:
            self.banned.add(peer)
        if peer in self.links:
            self.world.unlink(self.node, peer, reason)


class World:
    """Virtual time. `run(seconds)` lets things happen."""

    def __init__(self, codec: Codec, *, seed: int = 1, delay_s: float = 0.01) -> None:
        self.now = 0.0
        self.codec = codec
        self.rng = Random(seed)
        self.hosts: dict[NodeId, Host] = {}
        self.loss = 0.0
        self.swallows: Callable[[NodeId, Any], bool] = lambda *_: False  # What, on its way to whom.
        self._delay_s = delay_s
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._count = count()

    def add(self, node: NodeId, make: Callable[[Host], Core], *, up_bps: float = inf) -> Host:
        """make: builds the core; the host it is given is its `Roads`."""
        number = len(self.hosts)
        address = (f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 4000)
        host = Host(self, node, address, core=None, up_bps=up_bps)  # type: ignore[arg-type]
        host.core = make(host)
        self.hosts[node] = host
        self.at(self.now, host.act)
        return host

    def delay_s(self, a: NodeId, b: NodeId) -> float:
        return self._delay_s * (0.5 + ((a[0] ^ b[0]) % 16) / 16)

    def at(self, when: float, do: Callable[[], None]) -> None:
        heapq.heappush(self._heap, (max(when, self.now), next(self._count), do))

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self._heap and self._heap[0][0] <= end:
            self.now, _, do = heapq.heappop(self._heap)
            do()
        self.now = end

    def set_alarm(self, host: Host) -> None:
        when = host.core.wake_at()
        if when < inf and (when < host.alarm or host.alarm <= self.now):
            host.alarm = max(when, self.now + 1e-6)
            self.at(host.alarm, lambda at=host.alarm: self._ring(host, at))  # type: ignore[misc]

    def _ring(self, host: Host, at: float) -> None:
        if not host.alive or host.frozen or at != host.alarm:
            return
        host.alarm = inf
        host.wakes += 1
        host.core.wake(now=self.now)
        host.act()

    def carry(self, host: Host, send: Send) -> None:
        there = self.hosts.get(send.peer)
        if send.peer not in host.links or there is None:
            return
        message, size = self._encode(send.message)
        start = max(self.now, host.busy_until)
        if start > send.expires_at:
            return
        host.busy_until = start + (size * 8 / host.up_bps)
        host.queue.append((host.busy_until, send.peer, size))
        host.bytes_out += size
        if self.rng.random() < self.loss and isinstance(message, Parcel):
            return
        if self.swallows(there.node, message):
            return
        arrives = host.busy_until + self.delay_s(host.node, there.node)
        self.at(arrives, lambda: self._arrive(host, there, message, size))

    def _arrive(self, host: Host, there: Host, message: Any, size: int) -> None:
        if there.alive and host.node in there.links:
            there.bytes_in += size
            there.tell(host.node, message)

    def _encode(self, message: Message | Parcel) -> tuple[Message | Parcel, int]:
        """Through the codec and back, so that every message is one the wire can carry."""
        if isinstance(message, Parcel):
            raw = self.codec.pack(message.header)
            return Parcel(self.codec.unpack(raw), message.body), len(raw) + len(message.body) + 60
        raw = self.codec.pack(message)
        return self.codec.unpack(raw), len(raw) + 40

    def dial(self, host: Host, dial: Dial) -> None:
        there = self.hosts.get(dial.peer)
        rtt_s = 2 * self.delay_s(host.node, dial.peer)
        hostile = there is not None and (
            host.node in there.banned or there.node in host.banned  # Doormen of both sides.
        )
        if there is None or not there.alive or there.frozen or hostile:
            self.at(self.now + 3.0, lambda: host.tell(dial.peer, LinkDown("no answer")))
            return
        self.at(self.now + 1.5 * rtt_s, lambda: self.link(host, there))

    def link(self, host: Host, there: Host) -> None:
        if not (host.alive and there.alive) or there.node in host.links:
            return
        host.links.add(there.node)
        there.links.add(host.node)
        host.tell(there.node, LinkUp(there.address, dialled=True, seen_as=host.address))
        there.tell(host.node, LinkUp(host.address, dialled=False, seen_as=there.address))

    def unlink(self, a: NodeId, b: NodeId, reason: str) -> None:
        for here, there in ((self.hosts[a], b), (self.hosts[b], a)):
            if there in here.links:
                here.links.discard(there)
                if here.alive:
                    here.tell(there, LinkDown(reason))

    def kill(self, node: NodeId, *, noticed_after_s: float = 30.0) -> None:
        """As kill -9: nobody is told; the others' idle timers find out."""
        host = self.hosts[node]
        host.alive = False
        peers = sorted(host.links)
        self.at(
            self.now + noticed_after_s,
            lambda: self._unlink_all(node, peers),
        )

    def _unlink_all(self, node: NodeId, peers: list[NodeId]) -> None:
        for peer in peers:
            self.unlink(node, peer, "idle")

    def freeze(self, node: NodeId) -> None:
        """As kill -STOP."""
        self.hosts[node].frozen = True

    def thaw(self, node: NodeId) -> None:
        """As kill -CONT: the alarm first, then what piled up in the socket."""
        host = self.hosts[node]
        host.frozen = False
        host.core.wake(now=self.now)
        inbox, host.inbox = host.inbox, []
        host.act()
        for peer, happening in inbox:
            if peer in host.links or isinstance(happening, (LinkUp, LinkDown)):
                host.tell(peer, happening)
        host.act()


def effects_of(host: Host, kind: type) -> Iterable[Any]:
    return [effect for effect in host.effects if isinstance(effect, kind)]
