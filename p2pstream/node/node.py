"""A node: one QUIC carrier, one DHT, and a swarm for each stream it trades in.

Links are everybody's: each core hears of all of them and uses those it needs. Messages go to the
core they belong to, swarm messages by the stream they name.
"""

from __future__ import annotations

import socket
from collections import Counter, deque
from collections.abc import Callable, Iterable
from ipaddress import ip_address
from random import Random
from time import time  # noqa: TID251  # Hands read the clock.

import trio

from p2pstream import __version__
from p2pstream.core import Dial, Hangup, Happening, LinkDown, LinkUp, Note, Parcel, Push, Send
from p2pstream.dht import protocol as dht
from p2pstream.dht.addresses import is_private, may_dial
from p2pstream.dht.contact import Contact
from p2pstream.dht.messages import DHT_MESSAGES
from p2pstream.dht.protocol import Dht
from p2pstream.errors import BadConfig
from p2pstream.identity import Address, NodeId, NodeKey, StreamId, secret_bytes
from p2pstream.net.carrier import QuicCarrier
from p2pstream.net.drive import Driver
from p2pstream.node.search import Search
from p2pstream.swarm import messages as m
from p2pstream.swarm.protocol import Swarm

PROVIDE_AFTER_S = 1.0  # A viewer that stays this long is worth announcing.
SEEN_AS_MAX = 32  # Peers' words about our address that we remember.
SWARMS_MAX = 32  # Streams at once: a seed's limit; 64 MiB of window each at most.

OnEffect = Callable[[object], None]


class Node:
    """One peer of the network. Add swarms, then `run`.

    allow_private: believe addresses of this machine and LAN (a LAN, a demo); decided by `lan`.
    yields: what it sends gives way to the other traffic of the household.
    unknown_stream: what to do when a peer wants to trade in a stream we do not carry. clock: the
    system's, in Unix seconds.
    """

    def __init__(
        self,
        key: NodeKey,
        *,
        host: str = "0.0.0.0",  # noqa: S104  # A peer is there for others.
        port: int = 0,
        allow_private: bool,
        advertise: Address | None = None,
        yields: bool = False,
        note: Callable[[Note], None] = lambda _: None,
        rng: Random | None = None,
        clock: Callable[[], float] = time,
    ) -> None:
        self.key = key
        self._bind = f"{host}, port {port}"
        self.node_id = key.node_id
        self.rng = rng or Random(secret_bytes())  # noqa: S311  # Dice, not secrets.
        self.carrier = QuicCarrier(
            key, (*DHT_MESSAGES, *m.SWARM_MESSAGES), self._deliver,
            host=host, port=port, agent=f"p2pstream/{__version__}", yields=yields,
        )  # fmt: skip
        self._clock = clock
        self.sync_wall()
        self.dht = Dht(
            public=key.public, sign=key.sign, rng=self.rng, wall=self.wall,
            token_secret=secret_bytes(), config=dht.Config(allow_private=allow_private),
        )  # fmt: skip
        self.unknown_stream: Callable[[NodeId, m.Join], bool] = lambda *_: False
        self._note = note
        self._allow_private = allow_private
        self._advertise = advertise
        self._seen_as: deque[Address] = deque(maxlen=SEEN_AS_MAX)
        self._links: dict[NodeId, LinkUp] = {}
        self._dht = Driver(self.dht, self._perform_dht)
        self._swarms: dict[bytes, Driver] = {}
        self._finds: dict[StreamId, trio.CancelScope] = {}
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled. Raises `PortInUse`, `BadConfig` for another address than ours."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                await nursery.start(self.carrier.run)
            except OSError as error:  # Not our address, or not our right.
                raise BadConfig(
                    f"cannot listen on {self._bind}: {error.strerror}",
                    hint="Choose an address of this machine, and a port that you may use.",
                ) from None
            nursery.start_soon(self._dht.run)
            self.dht.join(now=trio.current_time())
            self._dht.poke()
            task_status.started()

    @property
    def address(self) -> Address:
        """Where others can reach us, as well as we know."""
        if self._advertise is not None:
            return self._advertise
        host, port = self.carrier.address
        if not ip_address(host).is_unspecified:
            return host, port
        seen = [a for a in self._seen_as if self._allow_private or not is_private(a[0])]
        if seen:
            return Counter(seen).most_common(1)[0][0]
        return primary_ip(), port

    def wall(self, now: float) -> float:
        """Unix seconds at trio time `now`."""
        return now + self._wall_offset

    def sync_wall(self) -> None:
        """Follow the system's clock when it is set, or the machine was suspended."""
        self._wall_offset = self._clock() - trio.current_time()

    def bootstrap(self, seeds: Iterable[tuple[NodeId, Address]]) -> None:
        """Nodes through which to enter the network."""
        for node, address in seeds:
            self.dht.learn(Contact(node, address), now=trio.current_time())
        self._dht.poke()

    def add_swarm(self, swarm: Swarm, on_effect: OnEffect) -> Driver:
        """Trade in a stream from now on. on_effect: is given what is no business of the network."""
        assert swarm.stream not in self._swarms, "one swarm a stream"
        assert self._nursery is not None, "run the node first"

        def perform(effect: object) -> None:
            match effect:
                case Push() | Send() | Dial() | Hangup():
                    self._perform(effect)
                case Note():
                    self._note(effect)
                case _:
                    on_effect(effect)

        driver = self._swarms[swarm.stream] = Driver(swarm, perform)
        for peer, link in self._links.items():
            driver.tell(peer, link)
        scope = self._finds[swarm.stream] = trio.CancelScope()
        self._nursery.start_soon(self._keep_swarm, swarm, driver, scope)
        return driver

    def remove_swarm(self, stream: StreamId, reason: str) -> None:
        driver = self._swarms.pop(stream, None)
        if driver is not None:
            assert isinstance(driver.core, Swarm)
            driver.core.leave(reason)
            driver.poke()
            self.dht.withdraw(stream)
            self._finds.pop(stream).cancel()

    def swarm(self, stream: StreamId) -> Swarm | None:
        return next((swarm for swarm in self.swarms if swarm.stream == stream), None)

    @property
    def swarms(self) -> list[Swarm]:
        return [d.core for d in self._swarms.values() if isinstance(d.core, Swarm)]

    def contacts(self) -> list[tuple[NodeId, Address]]:
        """Peers worth remembering for the next start."""
        return [(c.node, c.address) for c in self.dht.contacts()]

    # Finding others for a swarm, and being found.

    async def _keep_swarm(self, swarm: Swarm, driver: Driver, scope: trio.CancelScope) -> None:
        with scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(driver.run)
                nursery.start_soon(self._be_found, swarm)
                search = Search()
                while True:
                    now = trio.current_time()
                    if search.due(len(swarm.partners), flows=swarm.flows(now)):
                        self.dht.find(swarm.stream, now=now)
                        self._dht.poke()
                    await trio.sleep(search.pause_s)

    async def _be_found(self, swarm: Swarm) -> None:
        """Announce that we have the stream, once we have, and again when our address changes."""
        announced: Address | None = None
        while True:
            if swarm.role is not m.Role.ORIGIN:
                await trio.sleep(PROVIDE_AFTER_S)
            self.sync_wall()
            if swarm.window.newest >= 0 and self.address != announced:
                announced = self.address
                self.dht.provide(swarm.stream, (announced,), now=trio.current_time())
                self._dht.poke()
            await trio.sleep(PROVIDE_AFTER_S / 4)

    # What happens, and what is to be done.

    def _deliver(self, peer: NodeId, happening: Happening) -> None:
        """Raises `PeerError` when the peer is at fault."""
        match happening:
            case Parcel():  # Most of what comes.
                stream = getattr(happening.header, "stream", None)
            case LinkUp():
                self._links[peer] = happening
                self._seen_as.append(happening.seen_as)
                self._tell_all(peer, happening)
                return
            case LinkDown():
                self._links.pop(peer, None)
                self._tell_all(peer, happening)
                return
            case _:
                stream = getattr(happening, "stream", None)
        if stream is None:
            self._dht.tell(peer, happening)
        elif (driver := self._swarms.get(stream) or self._asked_for(peer, happening)) is not None:
            driver.tell(peer, happening)

    def _asked_for(self, peer: NodeId, happening: Happening) -> Driver | None:
        """The swarm of a stream that we did not carry, if this is somebody who wants it of us."""
        if not isinstance(happening, m.Join):
            return None
        if self.unknown_stream(peer, happening):
            return self._swarms.get(StreamId(happening.stream))
        self.carrier.perform(Send(peer, m.Leave(happening.stream, "unknown")))
        return None

    def _tell_all(self, peer: NodeId, happening: LinkUp | LinkDown) -> None:
        self._dht.tell(peer, happening)
        for driver in list(self._swarms.values()):
            driver.tell(peer, happening)

    def _perform(self, effect: Send | Push | Dial | Hangup) -> None:
        """All that a swarm or the DHT does; the liars of tests and simulations twist it here."""
        if isinstance(effect, Dial):
            effect = Dial(effect.peer, tuple(a for a in effect.addresses if self._may_dial(a)))
        self.carrier.perform(effect)

    def _may_dial(self, address: Address) -> bool:
        return may_dial(address, allow_private=self._allow_private)

    def _perform_dht(self, effect: object) -> None:
        match effect:
            case Hangup() if not effect.guilty and self._traded_with(effect.peer):
                pass  # The DHT is done with the link, a swarm is not.
            case Send() | Dial() | Hangup():
                self._perform(effect)
            case dht.Found():
                self._on_found(effect)
            case Note():
                self._note(effect)

    def _traded_with(self, peer: NodeId) -> bool:
        return any(peer in swarm.partners for swarm in self.swarms)

    def _on_found(self, found: dht.Found) -> None:
        driver = self._swarms.get(StreamId(found.key))
        if driver is None:
            return
        assert isinstance(driver.core, Swarm)
        for record in found.records:
            driver.core.learn(record.node, record.addresses, now=trio.current_time())
        driver.poke()


def lan(addresses: Iterable[Address]) -> bool:
    """Whether these are addresses of a LAN or of this machine: then we believe others like them."""
    return any(is_private(host) for host, _ in addresses)


def primary_ip() -> str:
    """The address of the interface that leads to the internet; loopback without one.

    Connecting a UDP socket sends nothing: it only asks the kernel for the route.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # RFC 5737: an address that nobody has.
        except OSError:
            return "127.0.0.1"
        host: str = probe.getsockname()[0]
        return host
