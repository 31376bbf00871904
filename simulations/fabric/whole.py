"""A node of the `quic` tier: all of p2pstream but media, disks and players, over virtual UDP.

Real `Node`, `Viewer` and `Seed`, real aioquic and TLS. What differs: the broadcaster's chunks come
from the studio instead of a media worker, and whoever watches hears of what passes through.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import trio

from p2pstream.core import Dial, Hangup, Happening, LinkDown, Parcel, Push, Send
from p2pstream.dht.messages import DHT_MESSAGES
from p2pstream.dht.protocol import LookupDone
from p2pstream.errors import Misbehaviour, PeerError
from p2pstream.identity import Address, NodeId, StreamId
from p2pstream.net.drive import Driver
from p2pstream.node.node import Node, OnEffect
from p2pstream.node.seed import Seed
from p2pstream.node.viewer import Viewer
from p2pstream.swarm.messages import Role
from p2pstream.swarm.protocol import Swarm
from simulations.fabric import trace as tr
from simulations.fabric.carrier import Network
from simulations.fabric.dice import die
from simulations.fabric.host import Access, Peer
from simulations.fabric.pump import adopt, adopt_driver
from simulations.fabric.virtual import Wire

LEAVE_S = 0.05  # Between the words of leave and the end of the links, so that they are heard.
GOODBYE_S = 1e-3  # It is said in the same instant.
_DHT = frozenset(DHT_MESSAGES)


@dataclass(eq=False, slots=True)
class Whole(Peer):
    """A host with a whole node. nursery: in which nodes live."""

    carrier: Wire = field(init=False)
    nursery: trio.Nursery = field(init=False)
    _node: WatchedNode | None = None
    _swarm: Driver | None = None
    _scope: trio.CancelScope | None = None

    def connect(self, network: Network, access: Access) -> None:
        self.carrier = Wire(self, network, access)

    # Life.

    def start(self, bootstrap: list[tuple[NodeId, Address]]) -> None:
        self.alive, self.started_at = True, self.world.now
        self.lives += 1
        self.world.trace.add(self.world.now, tr.START, self.number)
        self.rng = die(self.world.seed, self.name, "life", self.lives)
        self.nursery.start_soon(self._live, self.lives, bootstrap)

    async def _live(self, life: int, bootstrap: list[tuple[NodeId, Address]]) -> None:
        if not self.alive or life != self.lives:
            return
        with trio.CancelScope() as self._scope:
            async with trio.open_nursery() as nursery:
                node = self._node = self.carrier.node = WatchedNode(self)
                self.dht = node.dht
                await nursery.start(node.run)
                node.bootstrap(bootstrap)
                self._take_up(node, bootstrap, nursery)
                self.watchers.started(self)

    def _take_up(
        self, node: Node, bootstrap: list[tuple[NodeId, Address]], nursery: trio.Nursery
    ) -> None:
        """What the command line does for each role."""
        match self.role:
            case Role.SEED:
                nursery.start_soon(Seed(node, copies=self.config.copies).run)
            case Role.VIEWER:
                Viewer(node, self.stream, config=self.config).start(tuple(bootstrap))
            case Role.ORIGIN:
                assert self.make_swarm is not None
                node.add_swarm(self.make_swarm(self), lambda _: None)

    def leave(self) -> None:
        if self._node is not None and self.swarm is not None:
            self._node.remove_swarm(self.stream, "going")
        self.nursery.start_soon(self._go, self.lives)

    async def _go(self, life: int) -> None:
        await trio.sleep(LEAVE_S)
        if self.alive and life == self.lives and self._node is not None:
            self._node.carrier.close()
            await trio.sleep(GOODBYE_S)
            self.stop()

    def stop(self) -> None:
        self.world.trace.add(self.world.now, tr.STOP, self.number)
        self.alive = False
        self.stopped_at = self.world.now
        self.carrier.unplug()
        self.forget_swarm()
        self._node = None
        if self._scope is not None:
            self._scope.cancel()

    # From outside.

    def poke(self) -> None:
        if self._swarm is not None:
            self._swarm.poke()

    def find(self, key: bytes) -> None:
        if self._node is not None:
            self._node.find(key)

    # What its node tells.

    def has_swarm(self, swarm: Swarm, driver: Driver) -> None:
        self.swarm, self._swarm = swarm, driver

    def forget_swarm(self) -> None:
        if self.swarm is not None:
            self.past.append(self.swarm)
        self.swarm = self._swarm = None


class WatchedNode(Node):
    """A node whose deeds are told to those who watch its host, and twisted if that is dishonest."""

    def __init__(self, peer: Whole) -> None:
        nat = peer.carrier.nat
        super().__init__(
            peer.key, host=nat.ip, port=nat.port, allow_private=False, note=peer.notes.append,
            rng=peer.rng, clock=lambda: peer.clock.wall(peer.world.now),
        )  # fmt: skip
        self._peer = peer
        peer.carrier.take = adopt(self.carrier, peer.world)
        adopt_driver(self._dht, peer.world)

    @property
    def address(self) -> Address:
        """As behind a socket that is bound to all addresses: where others see us."""
        if self._seen_as:
            return Counter(self._seen_as).most_common(1)[0][0]
        return self._peer.carrier.nat.ip, self._peer.carrier.nat.port

    def find(self, key: bytes) -> None:
        """Look up a key that no swarm of ours needs."""
        self.dht.find(key, now=trio.current_time())
        self._dht.poke()

    def add_swarm(self, swarm: Swarm, on_effect: OnEffect) -> Driver:
        peer = self._peer

        def both(effect: object) -> None:
            on_effect(effect)
            peer.watchers.effect(peer, effect)

        driver = super().add_swarm(swarm, both)
        adopt_driver(driver, peer.world)
        peer.has_swarm(swarm, driver)
        return driver

    def remove_swarm(self, stream: StreamId, reason: str) -> None:
        super().remove_swarm(stream, reason)
        self._peer.forget_swarm()

    def _deliver(self, peer: NodeId, happening: Happening) -> None:
        match happening:
            case Parcel():
                # Counted where it arrives, for what has expired was never sent: the same sum.
                self._peer.carrier.traffic.pieces_out += len(happening.body)
                if self._peer.watchers.arrived is not None:
                    self._peer.watchers.arrived(self._peer, peer, happening)
            case LinkDown("idle_timeout") if peer in self._links:
                self._peer.carrier.traffic.timed_out += 1
        try:
            super()._deliver(peer, happening)
        except PeerError as error:
            if isinstance(error, Misbehaviour):
                self._ban(peer)
            self._peer.convict(peer, str(error))
            raise

    def _ban(self, peer: NodeId) -> None:
        self._peer.carrier.bans.add(peer, now=trio.current_time())

    def _perform(self, effect: Send | Push | Dial | Hangup) -> None:
        peer = self._peer
        match effect:
            case Push():
                for send in effect.sends():
                    self._send(send)
                return
            case Send():
                self._send(effect)
                return
            case Hangup(guilty=True):
                self._ban(effect.peer)
                peer.convict(effect.peer, effect.reason)
        super()._perform(effect)

    def _send(self, effect: Send) -> None:
        peer, network = self._peer, self._peer.carrier.network
        network.messages += 1
        if network.dht_out and type(effect.message) in _DHT:
            peer.dht_dropped += 1
            return
        if type(effect.message) is Parcel:
            peer.watchers.parcel(peer, effect.message)
        sent = effect if peer.twist is None else peer.twist(effect)
        peer.twisted += sent is not effect
        if sent is not None:
            super()._perform(sent)

    def _perform_dht(self, effect: object) -> None:
        if isinstance(effect, LookupDone):
            self._peer.watchers.effect(self._peer, effect)
        super()._perform_dht(effect)
