"""A node of the `core` tier: real `Dht` and `Swarm`, wired together as `node/node.py` wires them.

What differs: alarms are planned on the world's heap instead of slept for, and nothing of trio,
QUIC, disks or players is here. The constants come from the node.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf
from typing import Any

from p2pstream.core import Core, Dial, Hangup, LinkDown, LinkUp, Note, Parcel, Push, Send
from p2pstream.dht import protocol as dht
from p2pstream.dht.addresses import is_private, may_dial
from p2pstream.dht.contact import Contact
from p2pstream.dht.protocol import Dht
from p2pstream.errors import Misbehaviour, PeerError
from p2pstream.identity import Address, NodeId
from p2pstream.net.drive import NAP_S
from p2pstream.node.node import PROVIDE_AFTER_S, SEEN_AS_MAX
from p2pstream.node.search import Search
from p2pstream.swarm import messages as m
from simulations.fabric import trace as tr
from simulations.fabric.carrier import Carrier, Network
from simulations.fabric.dice import die, secret
from simulations.fabric.host import Access, Peer


@dataclass(slots=True)
class Driver:
    """Hands for one core: performs its effects and plans its alarm (as `net.drive.Driver`).

    due: local time at which the core wants to be woken: nothing changes it but calls into the core.
    planned: local time of the alarm that counts; alarm: the same in world time.
    """

    peer: Light
    core: Core
    perform: Callable[[Any], None]
    due: float = inf
    planned: float = inf
    alarm: float = inf
    woken_at: float = -inf
    wakes: int = 0
    performing: bool = False

    def tell(self, sender: NodeId, happening: Any, now: float) -> None:
        """Something happened. Raises `PeerError`. now: local time."""
        try:
            self.core.receive(sender, happening, now=now)
        finally:
            self.poke()

    def poke(self) -> None:
        """After any call into the core."""
        if self.performing:
            return  # An effect has led back into the core: what it wants now comes after that.
        core, perform = self.core, self.perform
        self.performing = True
        while effects := core.effects():
            for effect in effects:
                perform(effect)
        self.performing = False
        self.due = due = core.wake_at()
        if due < self.planned:
            self._plan()

    def _plan(self) -> None:
        due, soonest = self.due, self.woken_at + NAP_S
        if due < soonest:
            due = soonest
        if due < self.planned:
            self.planned = due
            peer = self.peer
            world, alarm = peer.world, peer.clock.world(due)
            if alarm < world.now:
                alarm = world.now
            self.alarm = alarm
            world.at(alarm, self.ring, alarm)

    def ring(self, alarm: float) -> None:
        """The alarm. One that was replaced by an earlier one rings in vain."""
        peer = self.peer
        if alarm != self.alarm or not peer.alive:
            return
        self.planned = self.alarm = inf
        if peer.frozen:
            return
        now = peer.local()
        if self.due > now + 1e-9:  # It has been put off.
            self._plan()
            return
        self.woken_at = now
        self.wakes += 1
        self.core.wake(now=now)
        self.poke()


@dataclass(eq=False, slots=True)
class Light(Peer):
    """The two cores of a node, over a light carrier."""

    carrier: Carrier = field(init=False)
    _dht: Driver = field(init=False)
    _swarm: Driver | None = None
    _seen_as: deque[Address] = field(default_factory=lambda: deque(maxlen=SEEN_AS_MAX))
    _address: Address | None = None  # What `_seen_as` says, until anything new is said.
    _up: dict[NodeId, LinkUp] = field(default_factory=dict)

    @property
    def address(self) -> Address:
        """Where others can reach us, as well as we know: what most peers say they see."""
        if not self._seen_as:
            return self.carrier.nat.ip, self.carrier.nat.port
        if self._address is None:
            self._address = Counter(self._seen_as).most_common(1)[0][0]
        return self._address

    @property
    def drivers(self) -> list[Driver]:
        return [self._dht, self._swarm] if self._swarm else [self._dht]

    def connect(self, network: Network, access: Access) -> None:
        self.carrier = Carrier(self, network, access)

    # Life.

    def start(self, bootstrap: list[tuple[NodeId, Address]]) -> None:
        self.alive, self.frozen, self.started_at = True, False, self.world.now
        self.lives += 1
        self.world.trace.add(self.world.now, tr.START, self.number)
        path = self.name, "life", self.lives
        self.rng = die(self.world.seed, *path)
        self.dht = Dht(
            public=self.key.public, sign=self.key.sign, rng=self.rng, wall=self.clock.wall,
            token_secret=secret(self.world.seed, *path, "tokens"),
            config=dht.Config(allow_private=False),
        )  # fmt: skip
        self._dht = Driver(self, self.dht, self._perform_dht)
        for node, address in bootstrap:
            self.dht.learn(Contact(node, address), now=self.local())
        self.dht.join(now=self.local())
        self._dht.poke()
        if self.role is not m.Role.SEED:
            self.join_swarm()
            assert self.swarm is not None
            assert self._swarm is not None
            for node, address in bootstrap if self.role is m.Role.VIEWER else ():
                self.swarm.learn(node, [address], now=self.local())
            self._swarm.poke()
        self.watchers.started(self)

    def join_swarm(self) -> None:
        """Trade in the stream from now on, as `Node.add_swarm`."""
        assert self.make_swarm is not None
        self.swarm = swarm = self.make_swarm(self)
        driver = self._swarm = Driver(self, swarm, self._perform_swarm)
        for peer, link in list(self._up.items()):
            driver.tell(peer, link, self.local())
        life = self.lives
        self.world.at(self.world.now, self._find, life, Search())
        first_s = 0.0 if self.role is m.Role.ORIGIN else PROVIDE_AFTER_S
        self.world.at(self.world.now + first_s, self._be_found, life, None)

    def leave(self) -> None:
        if self.swarm is not None and self._swarm is not None:
            self.swarm.leave("going")
            self._swarm.poke()
        for peer in list(self.carrier.links):
            self.carrier.hang_up(peer, "bye", guilty=False)
        self.stop()

    def stop(self) -> None:
        self.world.trace.add(self.world.now, tr.STOP, self.number)
        self.alive = False
        self.stopped_at = self.world.now
        self.carrier.vanish()
        self._up.clear()
        self._seen_as.clear()
        if self.swarm is not None:
            self.past.append(self.swarm)
        self.swarm = self._swarm = None

    def freeze(self) -> None:
        self.frozen = True

    def thaw(self) -> None:
        """As kill -CONT: the alarms first, then what the socket kept."""
        if not self.alive or not self.frozen:
            return
        self.frozen = False
        for driver in self.drivers:
            driver.woken_at = self.local()
            driver.core.wake(now=self.local())
            driver.planned = driver.alarm = inf
            driver.poke()
        self.carrier.read_inbox()

    # What happens.

    def hear(self, sender: NodeId, message: Any) -> None:
        """As `Node._deliver`, with what the carrier does about guilty peers."""
        header = message
        if type(message) is Parcel:
            header, arrived = message.header, self.watchers.arrived
            if arrived is not None:
                arrived(self, sender, message)
        stream = getattr(header, "stream", None)
        if self._swarm is None and type(message) is m.Join:
            self._on_first_join(sender, message.stream)
        if stream is None:
            driver = self._dht
        elif self._swarm is not None and stream == self.stream:
            driver = self._swarm
        else:
            return
        try:
            driver.tell(sender, message, self.local())
        except PeerError as error:
            guilty = isinstance(error, Misbehaviour)
            self.convict(sender, str(error))
            self.carrier.hang_up(sender, "misbehaviour" if guilty else "bad_message", guilty=guilty)

    def _on_first_join(self, sender: NodeId, stream: bytes) -> None:
        if self.role is m.Role.SEED and stream == self.stream:
            self.join_swarm()  # A seed carries what somebody asks it for.
        else:
            self.carrier.perform(Send(sender, m.Leave(stream, "unknown")))

    def on_link(self, sender: NodeId, happening: LinkUp | LinkDown) -> None:
        """A link stands, or is gone."""
        if not self.alive:
            return
        if type(happening) is LinkUp:
            self._up[sender] = happening
            self._seen_as.append(happening.seen_as)
            self._address = None
        else:
            self._up.pop(sender, None)
        self._dht.tell(sender, happening, self.local())
        if self._swarm is not None:
            self._swarm.tell(sender, happening, self.local())

    # What is to be done.

    def poke(self) -> None:
        if self._swarm is not None:
            self._swarm.poke()

    def find(self, key: bytes) -> None:
        assert self.dht is not None
        self.dht.find(key, now=self.local())
        self._dht.poke()

    def _perform_swarm(self, effect: Any) -> None:
        kind = type(effect)
        if kind is Push:
            self._push(effect)
        elif kind is Send:
            if type(effect.message) is Parcel:
                self.watchers.parcel(self, effect.message)
            if self.twist is None:
                self.carrier.send(effect.peer, effect.message, effect.expires_at)
            else:
                self._say(effect)
        elif kind is Dial or kind is Hangup:
            self._perform(effect)
        elif kind is Note:
            self.notes.append(effect)
        else:
            watch = self.watchers.effect
            watch(self, effect)

    def _push(self, effect: Push) -> None:
        watch = self.watchers.parcel
        watch(self, effect.parcel)
        if self.twist is None:
            self.carrier.push(effect.peers, effect.parcel, effect.expires_at)
            return
        for send in effect.sends():
            self._say(send)

    def _say(self, effect: Send) -> None:
        if self.twist is not None:
            said = self.twist(effect)
            self.twisted += said is not effect
            if said is None:
                return
            effect = said
        self.carrier.send(effect.peer, effect.message, effect.expires_at)

    def _perform(self, effect: Send | Dial | Hangup) -> None:
        if isinstance(effect, Dial):
            addresses = tuple(a for a in effect.addresses if may_dial(a, allow_private=False))
            effect = Dial(effect.peer, addresses)
        elif isinstance(effect, Hangup) and effect.guilty:
            self.convict(effect.peer, effect.reason)
        self.carrier.perform(effect)

    def _perform_dht(self, effect: Any) -> None:
        match effect:
            case Send():
                self._say(effect)
            case Hangup() if not effect.guilty and self._traded_with(effect.peer):
                pass  # The DHT is done with the link, a swarm is not.
            case Dial() | Hangup():
                self._perform(effect)
            case dht.Found():
                if self.swarm is not None and self._swarm is not None and effect.key == self.stream:
                    for record in effect.records:
                        self.swarm.learn(record.node, record.addresses, now=self.local())
                    self._swarm.poke()
            case _:
                self.watchers.effect(self, effect)

    def _traded_with(self, peer: NodeId) -> bool:
        return self.swarm is not None and peer in self.swarm.partners

    # Finding others, and being found (`Node._keep_swarm`, `Node._be_found`).

    def _find(self, life: int, search: Search) -> None:
        if not self.alive or life != self.lives or self.swarm is None or self.dht is None:
            return
        swarm, now = self.swarm, self.local()
        if not self.frozen and search.due(len(swarm.partners), flows=swarm.flows(now)):
            self.dht.find(self.stream, now=now)
            self._dht.poke()
        self.world.at(self.world.now + search.pause_s, self._find, life, search)

    def _be_found(self, life: int, announced: Address | None) -> None:
        if not self.alive or life != self.lives or self.swarm is None or self.dht is None:
            return
        address = self.address
        if not self.frozen and self.swarm.window.newest >= 0 and address != announced:
            announced = address
            if not is_private(address[0]):
                self.dht.provide(self.stream, (address,), now=self.local())
                self._dht.poke()
        wait_s = PROVIDE_AFTER_S if announced else PROVIDE_AFTER_S / 4
        self.world.at(self.world.now + wait_s, self._be_found, life, announced)
