"""Two or more QUIC carriers over virtual UDP, without nodes: the physics of whole nodes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from math import inf
from typing import Any

import trio

from p2pstream.core import Dial, Parcel, Send
from p2pstream.dht.messages import DHT_MESSAGES
from p2pstream.identity import Address, NodeKey
from p2pstream.net.carrier import LinkInfo, QuicCarrier
from p2pstream.swarm.messages import SWARM_MESSAGES, Role
from simulations.fabric.carrier import Network
from simulations.fabric.clock import Clock
from simulations.fabric.dice import die, secret
from simulations.fabric.host import Access
from simulations.fabric.links import Pipe, Rain
from simulations.fabric.nat import Kind, Nat
from simulations.fabric.pins import pinned
from simulations.fabric.pump import adopt
from simulations.fabric.virtual import Sockets, VirtualClock
from simulations.fabric.whole import Whole
from simulations.fabric.world import World
from tests.simulations.pair import STREAM, piece

QUEUE_BYTES = 64_000  # 50 ms at 10 Mbit/s: no window needs more.
WAITING_BYTES = 100_000  # More than leaves before we look again.


class Wired(Whole):
    """A host with a carrier and no node: it notes what arrives and when."""

    quic: QuicCarrier
    heard: list[tuple[float, Any]]

    async def plug(self, nursery: trio.Nursery, *, pumped: bool) -> None:
        nat = self.carrier.nat
        self.quic = QuicCarrier(
            self.key, (*DHT_MESSAGES, *SWARM_MESSAGES), self._note, host=nat.ip, port=nat.port
        )
        if pumped:
            self.carrier.take = adopt(self.quic, self.world)
        await nursery.start(self.quic.run)

    def _note(self, _: Any, happening: Any) -> None:
        self.heard.append((self.world.now, happening))

    def dial(self, other: Wired, at: Address | None = None) -> None:
        nat = other.carrier.nat
        self.quic.perform(Dial(other.node, (at or (nat.ip, nat.port),)))

    def link(self, other: Wired) -> LinkInfo | None:
        """As its carrier sees it."""
        return next((link for link in self.quic.links() if link.peer == other.node), None)


class Wires:
    """A network with such hosts at equal distances. `run` gives it time. pumped: see `pump.py`."""

    def __init__(self, *, rtt_s: float = 0.04, seed: int = 1, pumped: bool = True) -> None:
        self.pumped = pumped
        self.world = World(seed)
        self.network = Network(self.world)
        self.rtt_s = rtt_s
        self.hosts: list[Wired] = []

    def host(self, *, up_bps: float = inf, kind: Kind = Kind.NONE, loss: float = 0.0) -> Wired:
        number, seed = len(self.hosts), self.world.seed
        key = NodeKey(secret(seed, "wired", number))
        host = Wired(self.world, number, f"w/{number}", "w", key, Role.VIEWER, STREAM, Clock())
        host.heard, host.alive = [], True
        host.delay_to = lambda _: self.rtt_s / 2
        nat = Nat(kind, f"20.0.0.{number + 1}")
        pipes = Pipe(up_bps, QUEUE_BYTES), Pipe()
        host.connect(self.network, Access(nat, *pipes, Rain(loss), 0.0, 0.0, die(seed, number)))
        self.network.by_ip[nat.ip] = host
        self.hosts.append(host)
        return host

    def run(self, script: Callable[[], Awaitable[None]]) -> None:
        """All hosts are there while `script` runs."""
        clock = VirtualClock(self.world)

        async def main() -> None:
            trio.socket.set_custom_socket_factory(Sockets(self.network))
            async with trio.open_nursery() as nursery:
                for host in self.hosts:
                    await host.plug(nursery, pumped=self.pumped)
                await script()
                clock.stop()
                nursery.cancel_scope.cancel()

        with pinned(self.world.seed):
            trio.run(main, clock=clock)


def goodput_bps(wires: Wires, a: Wired, b: Wired, *, for_s: float) -> float:
    """`a` sends pieces to `b` as fast as it can: what arrives, but for the first quarter."""
    span: list[float] = []

    async def script() -> None:
        a.dial(b)
        await trio.sleep(1.0)
        began = trio.current_time()
        span.extend((began + for_s / 4, began + for_s))
        while trio.current_time() < began + for_s:
            while a.quic.backlog(b.node) < WAITING_BYTES:
                a.quic.perform(Send(b.node, Parcel(piece(), bytes(16_000))))
            await trio.sleep(0.02)

    wires.run(script)
    since, end = span
    bodies = (h.body for at, h in b.heard if isinstance(h, Parcel) and since < at <= end)
    return 8 * sum(map(len, bodies)) / (end - since)
