"""A host that runs one node, whatever the node is made of: what faults, checkers and figures see.

`light.py` has the cores alone over a light carrier, `whole.py` a whole node over virtual UDP.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any, Protocol

from p2pstream.core import Core, Note, Parcel, Send
from p2pstream.dht.protocol import Dht
from p2pstream.identity import Address, NodeId, NodeKey, StreamId
from p2pstream.net.doorman import Bans
from p2pstream.swarm import messages as m
from p2pstream.swarm.protocol import Config, Swarm
from simulations.fabric.clock import Clock
from simulations.fabric.links import Pipe, Weather
from simulations.fabric.nat import Nat
from simulations.fabric.world import World

if TYPE_CHECKING:
    from simulations.fabric.carrier import Network

Twist = Callable[[Send], Send | None]


@dataclass(slots=True)
class Traffic:
    """Bytes on the wire, and what became of messages."""

    bytes_out: int = 0  # Without `acks_out`.
    bytes_in: int = 0
    pieces_out: int = 0  # Bodies only.
    acks_out: int = 0  # In `quic` they cannot be told from the rest.
    handshakes_out: int = 0
    expired: int = 0
    overflowed: int = 0
    parcels_out: int = 0
    resent: int = 0  # Bytes sent again.
    dials: int = 0
    dials_failed: int = 0
    repaired: int = 0  # Packets that were lost, and sent again.
    probes: int = 0  # Into blocked paths.
    timed_out: int = 0  # Links of which nothing was heard for the idle timeout.
    amplified: float = 0.0  # The most that went to one unproven address, of what came from it.


@dataclass(slots=True)
class Access:
    """How a host is connected to the network."""

    nat: Nat
    up: Pipe
    down: Pipe
    weather: Weather
    jitter_s: float
    duplicates: float
    rng: Random


class Watched(Protocol):
    """A host's carrier, as faults, checkers and figures see it."""

    nat: Nat
    up: Pipe
    down: Pipe
    weather: Weather
    bans: Bans
    traffic: Traffic

    @property
    def backlog_max(self) -> int:
        """The bytes that wait for the peer for which most wait."""

    def backlog(self, peer: NodeId) -> int:
        """See `core.Roads`."""

    def rtt_s(self, peer: NodeId) -> float:
        """See `core.Roads`."""

    def send(self, peer: NodeId, message: Any, expires_at: float) -> None:
        """Say something, if there is a link. expires_at: `inf` for what must arrive."""

    def moved(self, *, migrates: bool) -> None:
        """The host has another address now. migrates: its links go on."""

    def idle_if_blocked(self) -> None:
        """A path has been blocked for the idle timeout: links over it are gone."""


class Waking(Protocol):
    """What drives one core. wakes: how often it was woken so far."""

    core: Core
    wakes: int


@dataclass(slots=True)
class Watchers:
    """Who wants to know what a node does; the checkers and the metrics."""

    started: Callable[[Peer], None] = lambda *_: None
    effect: Callable[[Peer, Any], None] = lambda *_: None
    parcel: Callable[[Peer, Parcel], None] = lambda *_: None
    arrived: Callable[[Peer, NodeId, Parcel], None] | None = None  # For each parcel, so no call.
    convicted: Callable[[Peer, NodeId, str], None] = lambda *_: None


@dataclass(eq=False, slots=True)
class Peer:
    """A host that runs one node. number: its place in the world; name: for its dice."""

    world: World
    number: int
    name: str
    group: str
    key: NodeKey
    role: m.Role
    stream: StreamId
    clock: Clock
    node: NodeId = field(init=False)
    delay_to: Callable[[Peer], float] = field(init=False)
    carrier: Watched = field(init=False)
    rng: Random = field(init=False)
    watchers: Watchers = field(default_factory=Watchers)
    twist: Twist | None = None
    make_swarm: Callable[[Peer], Swarm] | None = None
    config: Config = field(default_factory=Config)  # Of its swarm.
    alive: bool = False
    frozen: bool = False
    away: bool = False  # Between two networks.
    started_at: float = 0.0  # World time.
    stopped_at: float | None = None
    dht: Dht | None = None
    swarm: Swarm | None = None
    notes: list[Note] = field(default_factory=list)
    convicted: list[tuple[NodeId, str]] = field(default_factory=list)
    past: list[Swarm] = field(default_factory=list)
    dht_dropped: int = 0
    twisted: int = 0  # Words that `twist` has changed, held up or swallowed.
    lives: int = 0

    def __post_init__(self) -> None:
        self.node = self.key.node_id

    def local(self) -> float:
        """This host's time now."""
        clock = self.clock
        return clock.local(self.world.now) if clock.drift else self.world.now

    @property
    def drivers(self) -> Sequence[Waking]:
        """What wakes its cores, where that can be counted."""
        return ()

    def connect(self, network: Network, access: Access) -> None:
        """Plug it in, before its first start."""
        raise NotImplementedError

    # Life.

    def start(self, bootstrap: list[tuple[NodeId, Address]]) -> None:
        """The node starts; `watchers.started` hears when it has. bootstrap: the ticket's seeds."""
        raise NotImplementedError

    def leave(self) -> None:
        """As Ctrl-C: tell the partners, then go."""
        raise NotImplementedError

    def stop(self) -> None:
        """As kill -9."""
        raise NotImplementedError

    def freeze(self) -> None:
        """As kill -STOP."""
        raise NotImplementedError

    def thaw(self) -> None:
        """As kill -CONT."""
        raise NotImplementedError

    # From outside.

    def poke(self) -> None:
        """After any call into the swarm from outside."""
        raise NotImplementedError

    def find(self, key: bytes) -> None:
        """Look a key up in the DHT."""
        raise NotImplementedError

    def convict(self, whom: NodeId, why: str) -> None:
        """The node found another one guilty."""
        self.convicted.append((whom, why))
        self.watchers.convicted(self, whom, why)
