"""A virtual UDP network under real trio and real aioquic: an address is a host, time is free.

Only trio's public seam is used: `trio.socket.set_custom_socket_factory`, with the autojump clock.
"""

from __future__ import annotations

import errno
import functools
import heapq
import inspect
import math
import random
from collections import deque
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Any

import trio
import trio.testing

from p2pstream.core import Dial, Hangup, Happening, LinkDown, LinkUp, Parcel, Send
from p2pstream.identity import Address, NodeId, NodeKey
from p2pstream.net.carrier import QuicCarrier
from p2pstream.net.engine import Engine
from p2pstream.net.fast import FastEngine
from p2pstream.net.link import Link
from p2pstream.wire.codec import Message

Engines = tuple[type[Engine], type[Engine]]
LIVELOCK_PACKETS = 100_000  # At one instant: no test of ours comes near.
BUSY_MAX = 1000  # Uplinks remembered, idle ones included: an attacker has any number of addresses.


def in_virtual_time(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Makes a pytest test of `async def test(net, ...)`. It never waits for real.

    The test's nodes have the engines of the fixture `engines`, in turns.
    """

    def run(engines: Engines, **fixtures: Any) -> None:
        trio.run(world, engines, fixtures, clock=trio.testing.MockClock(autojump_threshold=0))

    async def world(engines: Engines, fixtures: dict[str, Any]) -> None:
        async with trio.open_nursery() as nursery:
            net = Net(nursery)
            net.engines = engines
            trio.socket.set_custom_socket_factory(net)
            nursery.start_soon(net.carry)
            await test(net, **fixtures)
            nursery.cancel_scope.cancel()

    shape = inspect.signature(test)
    functools.update_wrapper(run, test)
    del run.__dict__["__wrapped__"]  # pytest would look through it, and see a coroutine.
    engine = inspect.Parameter("engines", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = [engine, *list(shape.parameters.values())[1:]]
    run.__dict__["__signature__"] = shape.replace(parameters=parameters)
    return run


class Say(Message, tag=40, frozen=True):
    """A small message, or a parcel's header."""

    number: int
    text: str = ""


class Net(trio.abc.SocketFactory):
    """One-way delay in seconds, loss 0..1, rate in bytes per second and its queue in bytes.

    Late by up to `jitter_s` at random, datagrams overtake each other. Longer ones than `mtu`, with
    headers of IPv4 and UDP, are lost.
    """

    def __init__(self, nursery: trio.Nursery, *, seed: int = 1) -> None:
        self.delay_s = 0.02
        self.jitter_s = 0.0
        self.loss = 0.0
        self.mtu = 1500
        self.rate = math.inf
        self.queue_bytes = 128 * 1024
        self.cut: Callable[[str, str], bool] = lambda _source, _target: False
        self.refusal: OSError | None = None  # What every `sendto` raises.
        self.sent: list[tuple[Address, Address, bytes]] | None = None  # When a test listens.
        self.kind: type[VirtualSocket] = VirtualSocket
        self.engines: Engines = (FastEngine, FastEngine)  # Of nodes of even and odd numbers.
        self.packets = 0
        self._nursery = nursery
        self._rng = random.Random(seed)
        self._sockets: dict[Address, VirtualSocket] = {}
        self._busy_until: dict[str, float] = {}
        self._outside: dict[Address, Address] = {}  # Where a NAT makes a socket appear.
        self._inside: dict[Address, Address] = {}  # The other way.
        self._heap: list[tuple[float, int, Address, bytes, Address]] = []
        self._order = count()
        self._nap: trio.CancelScope | None = None

    def socket(self, family: int = 0, type: int = 0, proto: int = 0) -> VirtualSocket:  # noqa: A002, ARG002  # trio's names.
        return self.kind(self)

    async def node(
        self,
        number: int,
        *,
        ip: str = "",
        engine: type[Engine] | None = None,
        yields: bool = False,
    ) -> Node:
        """A node that is running, at 10.0.0.`number` or `ip`."""
        node = Node(number, ip=ip, engine=engine or self.engines[number % 2], yields=yields)
        await self._nursery.start(node.carrier.run)
        return node

    async def pair(self) -> tuple[Node, Node]:
        """Nodes 1 and 2, linked; the first one dialled."""
        a, b = await self.node(1), await self.node(2)
        a.dial(b)
        await trio.sleep(1)
        assert a.links == b.links == 1
        return a, b

    def move(self, node: Node, address: Address) -> None:
        """From now on a NAT makes `node` appear at `address`, and nowhere else."""
        inside = node.carrier.address
        self._inside.pop(self._outside.get(inside, inside), None)
        self._outside[inside] = address
        self._inside[address] = inside

    async def carry(self) -> None:
        """Deliver packets when they are due, for ever."""
        while True:
            due = self._heap[0][0] if self._heap else math.inf
            with trio.CancelScope(deadline=due) as self._nap:
                await trio.sleep_forever()
            self._nap = None
            self._deliver(trio.current_time())

    def transmit(self, source: Address, target: Address, data: bytes) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.packets += 1
        source = self._outside.get(source, source)
        if self.sent is not None:
            self.sent.append((source, target, data))
        if len(data) > self.mtu - 28:
            return
        now = trio.current_time()
        start = max(now, self._busy_until.get(source[0], 0.0))
        if (start - now) * self.rate > self.queue_bytes if self.rate < math.inf else False:
            return
        self._busy_until[source[0]] = start = start + len(data) / self.rate
        if len(self._busy_until) > BUSY_MAX:
            self._busy_until = {host: at for host, at in self._busy_until.items() if at > now}
        if self.cut(source[0], target[0]) or self._rng.random() < self.loss:
            return
        at = start + self.delay_s + self.jitter_s * self._rng.random()
        heapq.heappush(self._heap, (at, next(self._order), source, data, target))
        if self._nap is not None and at < self._nap.deadline:
            self._nap.deadline = at

    def bind(self, socket: VirtualSocket, address: Address) -> Address:
        host, port = address
        if not port:
            port = next(p for p in range(50_000, 60_000) if (host, p) not in self._sockets)
        if (host, port) in self._sockets:
            raise OSError(errno.EADDRINUSE, "Address already in use")
        self._sockets[host, port] = socket
        return host, port

    def close(self, address: Address) -> None:
        self._sockets.pop(address, None)

    def _deliver(self, now: float) -> None:
        for _ in range(LIVELOCK_PACKETS):
            if not self._heap or self._heap[0][0] > now:
                return
            _, _, source, data, target = heapq.heappop(self._heap)
            if target in self._outside:
                continue
            inside = self._inside.get(target, target)
            if (socket := self._sockets.get(inside)) is not None:
                socket.push(data, source)
        raise AssertionError("livelock: time does not pass")


class VirtualSocket(trio.socket.SocketType):
    """What a UDP node needs of a socket."""

    def __init__(self, net: Net) -> None:
        self._net = net
        self._address: Address = ("", 0)
        self._arrived: deque[tuple[bytes, Address]] = deque()
        self._readable = trio.Event()

    def fileno(self) -> int:
        return -1

    def setsockopt(self, *_: Any) -> None:
        pass

    async def bind(self, address: Any) -> None:
        await trio.lowlevel.checkpoint()
        self._address = self._net.bind(self, address)

    def getsockname(self) -> Address:
        return self._address

    async def recvfrom(self, *_: Any) -> Any:
        await trio.lowlevel.checkpoint()
        while not self._arrived:
            self._readable = trio.Event()
            await self._readable.wait()
        return self._arrived.popleft()

    def recv_nowait(self) -> tuple[bytes, Address] | None:
        return self._arrived.popleft() if self._arrived else None

    def sendto_nowait(self, data: bytes, address: Address) -> None:
        self._net.transmit(self._address, address, data)

    def push(self, data: bytes, source: Address) -> None:
        self._arrived.append((data, source))
        self._readable.set()

    def close(self) -> None:
        self._net.close(self._address)


class PlainSocket(VirtualSocket):
    """One that offers what trio's own sockets offer, and no more."""

    recv_nowait = None  # type: ignore[assignment]
    sendto_nowait = None  # type: ignore[assignment]

    async def sendto(self, *args: Any) -> int:
        await trio.lowlevel.checkpoint()
        self._net.transmit(self._address, args[-1], args[0])
        return len(args[0])


class Node:
    """A carrier and all that it was told."""

    def __init__(
        self,
        number: int,
        *,
        ip: str = "",
        engine: type[Engine] = FastEngine,
        yields: bool = False,
    ) -> None:
        self.key = NodeKey(number.to_bytes(32))
        self.id = self.key.node_id
        self.heard: list[tuple[NodeId, Happening]] = []
        self.on_heard: Callable[[NodeId, Happening], None] = lambda _peer, _happening: None
        self.carrier = QuicCarrier(
            self.key,
            [Say],
            self._deliver,
            host=ip or f"10.0.0.{number}",
            engine=engine,
            yields=yields,
        )

    def dial(self, other: Node, *addresses: Address, expected: NodeId | None = None) -> None:
        self.carrier.perform(Dial(expected or other.id, addresses or (other.carrier.address,)))

    def send(self, other: Node, message: Message | Parcel, expires_at: float = math.inf) -> None:
        self.carrier.perform(Send(other.id, message, expires_at))

    def hang_up(self, other: Node, reason: str = "done", *, guilty: bool = False) -> None:
        self.carrier.perform(Hangup(other.id, reason, guilty))

    def link(self, other: Node) -> Link:
        return self.carrier._links[other.id]

    @property
    def links(self) -> int:
        return len(self.carrier.links())

    @property
    def open(self) -> int:
        """Connections of any state, half-open ones included."""
        return len(self.carrier._endpoint._links)

    def of(self, kind: type[Any]) -> list[Any]:
        """Everything of one kind that was heard, in order."""
        return [happening for _, happening in self.heard if isinstance(happening, kind)]

    @property
    def ups(self) -> int:
        return len(self.of(LinkUp))

    @property
    def downs(self) -> list[str]:
        return [down.reason for down in self.of(LinkDown)]

    @property
    def numbers(self) -> list[int]:
        """Of all messages and parcels heard."""
        return [
            happening.number if isinstance(happening, Say) else happening.header.number
            for happening in self.of((Say, Parcel))  # type: ignore[arg-type]
        ]

    def _deliver(self, peer: NodeId, happening: Happening) -> None:
        self.heard.append((peer, happening))
        self.on_heard(peer, happening)


def parcel(number: int, size: int = 16 * 1024) -> Parcel:
    return Parcel(Say(number), number.to_bytes(4) * (size // 4))
