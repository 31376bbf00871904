"""The world below whole nodes: trio's virtual time, and UDP that never leaves the process.

The seams are trio's public ones, `trio.abc.Clock` and `set_custom_socket_factory`. Only whether a
task can run must be asked of its loop; `pins.py` looks whether that can be asked. A datagram goes
through its sender's NAT, uplink and weather, travels, and comes through the receiver's NAT and
downlink; what a queue has no room for is lost, and QUIC finds out by itself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Any

import trio
from trio._core import _run

from p2pstream.core import Send
from p2pstream.identity import Address, NodeId
from p2pstream.net.doorman import Bans
from p2pstream.node.node import Node
from simulations.fabric import trace as tr
from simulations.fabric.carrier import Network
from simulations.fabric.host import Access, Peer, Traffic
from simulations.fabric.world import World

if TYPE_CHECKING:
    from simulations.fabric.whole import Whole

HEADER_BYTES = 28  # IPv4 and UDP.
DATAGRAM_BYTES_MAX = 1500 - HEADER_BYTES  # What Ethernet carries; no path here carries more.


class VirtualClock(trio.abc.Clock):
    """The world's time as trio's: when no task can run, the next thing happens. (trio's own
    `MockClock` jumps for deadlines of tasks only, and a task that carries datagrams costs as much
    again as their cryptography.)

    Invariant: the world moves only here, and only when everybody waits, so tasks at one instant see
    all that has happened up to it.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.stopped = False

    def start_clock(self) -> None:
        """Nothing to do: it stands still until everybody waits."""

    def current_time(self) -> float:
        return self.world.now

    def stop(self) -> None:
        """The run is over: nothing of the world happens any more, and tasks may end."""
        self.stopped = True

    def deadline_to_sleep_time(self, deadline: float) -> float:
        """Asked when no task can run. Instead of sleeping we go on until one can."""
        world, runner = self.world, _run.GLOBAL_RUN_CONTEXT.runner
        while not runner.runq:
            planned = inf if self.stopped else world.next_at()
            if planned == inf == deadline:
                return 0.0 if self.stopped else inf
            if planned <= deadline:
                world.run_until(planned)
            else:
                world.now = max(world.now, deadline)
            if deadline <= world.now:
                break
            deadline = runner.deadlines.next_deadline()
        return 0.0


class Sockets(trio.abc.SocketFactory):
    """Makes the sockets of a run."""

    def __init__(self, network: Network) -> None:
        self.network = network

    def socket(self, family: int = 0, type: int = 0, proto: int = 0) -> Socket:  # noqa: A002, ARG002  # trio's names.
        return Socket(self.network)


class Socket(trio.socket.SocketType):
    """What a UDP node needs of a socket. Bound to a host's outer address, it is that host's."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._wire: Wire | None = None
        self._address: Address = ("", 0)
        self._arrived: deque[tuple[bytes, Address]] = deque()
        self._readable = trio.Event()

    def fileno(self) -> int:
        return -1

    def setsockopt(self, *_: Any) -> None:
        pass

    async def bind(self, address: Any) -> None:
        await trio.lowlevel.checkpoint()
        self._address = address
        self._wire = self._network.at(address).carrier
        assert self._wire is not None
        self._wire.socket = self

    def getsockname(self) -> Address:
        return self._address

    async def recvfrom(self, *_: Any) -> Any:
        while not self._arrived:
            self._readable = trio.Event()
            await self._readable.wait()
        return self._arrived.popleft()

    def recv_nowait(self) -> tuple[bytes, Address] | None:
        return self._arrived.popleft() if self._arrived else None

    def sendto_nowait(self, data: bytes, address: Address) -> None:
        if self._wire is not None and self._wire.socket is self:
            self._wire.transmit(data, address)

    def push(self, data: bytes, source: Address) -> None:
        self._arrived.append((data, source))
        self._readable.set()

    def close(self) -> None:
        if self._wire is not None and self._wire.socket is self:
            self._wire.socket = None


class Wire:
    """One host's way to the network, and what its node's carrier counts."""

    def __init__(self, peer: Whole, network: Network, access: Access) -> None:
        self.peer, self.network, self.world = peer, network, network.world
        self.nat, self.up, self.down = access.nat, access.up, access.down
        self.weather, self.rng = access.weather, access.rng
        self.jitter_s, self.duplicates = access.jitter_s, access.duplicates
        self.bans = Bans()  # As the node's own, which nobody can look into after the run.
        self.traffic = Traffic()
        self.socket: Socket | None = None
        self.node: Node | None = None
        self.take: Callable[[bytes, Address], None] | None = (
            None  # Its endpoint's, past the socket.
        )
        self._ways_s: dict[int, float] = {}  # To a host, without what changes.
        self._last: dict[int, float] = {}  # When the newest datagram to it arrives.

    # What the core and the checkers ask.

    def backlog(self, peer: NodeId) -> int:
        return self.node.carrier.backlog(peer) if self.node else 0

    def rtt_s(self, peer: NodeId) -> float:
        return self.node.carrier.rtt_s(peer) if self.node else inf

    @property
    def backlog_max(self) -> int:
        links = self.node.carrier.links() if self.node else []
        return max((link.backlog for link in links), default=0)

    # What faults and liars do.

    def send(self, peer: NodeId, message: Any, expires_at: float) -> None:
        if self.node is not None:
            self.node.carrier.perform(Send(peer, message, expires_at))

    def moved(self, *, migrates: bool) -> None:
        """QUIC migrates by itself, unless the way to those it knew is cut."""
        for link in self.node.carrier.links() if self.node and not migrates else ():
            there = self.network.at(link.address)
            if there is not None:
                self.network.cut(self.peer, there)

    def idle_if_blocked(self) -> None:
        """QUIC's own idle timer does it."""

    def unplug(self) -> None:
        """Nothing comes or goes any more; what the node has counted is kept."""
        self.socket = None
        if self.node is None:
            return
        carrier, traffic = self.node.carrier, self.traffic
        counted = [carrier.counters.links, *(link.counters for link in carrier.links())]
        traffic.expired += sum(one.expired for one in counted)
        traffic.overflowed += sum(one.overflowed for one in counted)
        traffic.parcels_out += sum(one.parcels_out for one in counted)
        traffic.dials += carrier.counters.dials
        traffic.dials_failed += carrier.counters.dials_failed
        self.node = None

    # Datagrams.

    def transmit(self, data: bytes, address: Address) -> None:
        """One leaves the host."""
        network, now, size = self.network, self.world.now, len(data) + HEADER_BYTES
        self.traffic.bytes_out += size
        source = self.nat.out(address, now=now)
        there = network.at(address)
        if source is None or there is None or len(data) > DATAGRAM_BYTES_MAX:
            network.lost += size
            return
        leaves = self.up.admit(size, now)
        blocked = network.blocked(self.peer, there)
        theirs: Wire = there.carrier
        if (
            leaves is None
            or blocked
            or (self.weather.loss and self.weather.lost(1, self.rng))
            or (theirs.weather.loss and theirs.weather.lost(1, self.rng))
        ):
            network.lost += size
            self.traffic.resent += size  # Or whatever QUIC makes of it.
            self.traffic.probes += blocked
            self.traffic.repaired += not blocked
            return
        arrives = leaves + self._way_s(there)
        arrives = self._last[there.number] = max(arrives, self._last.get(there.number, 0.0))
        network.flying += size
        self.world.at(arrives, theirs.arrive, self.peer, data, source, address)
        if self.duplicates and self.rng.random() < self.duplicates:
            self.world.at(arrives, theirs.received, self.peer, data, source, 0)

    def _way_s(self, there: Peer) -> float:
        way_s = self._ways_s.get(there.number)
        if way_s is None:
            way_s = self._ways_s[there.number] = self.peer.delay_to(there)
        way_s += self.network.extra_delay_s
        if self.network.jams:
            way_s += self.network.jammed_s(self.peer, there)
        jitter_s: float = self.jitter_s + there.carrier.jitter_s  # type: ignore[attr-defined]
        return way_s + jitter_s * self.rng.expovariate(1.0) if jitter_s else way_s

    def arrive(self, sender: Peer, data: bytes, source: Address, address: Address) -> None:
        """One is at our NAT."""
        now, size = self.world.now, len(data) + HEADER_BYTES
        welcome = self.nat.ip == address[0] and self.nat.admits(address[1], source, now=now)
        through = self.down.admit(size, now) if welcome else None
        if through is None:
            self.network.flying -= size
            self.network.lost += size
        elif through > now + 1e-3:
            self.world.at(through, self.received, sender, data, source, size)
        else:
            self.received(sender, data, source, size)

    def received(self, sender: Peer, data: bytes, source: Address, size: int) -> None:
        """size: on the wire; 0 of a copy that the network has made."""
        self.network.flying -= size
        if self.socket is None or self.peer.away:
            self.network.lost += size
            return
        self.traffic.bytes_in += size
        self.world.trace.add(
            self.world.now, tr.DATAGRAM, self.peer.number, sender.number, len(data)
        )
        (self.take or self.socket.push)(data, source)
