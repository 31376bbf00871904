"""Nodes on real sockets, each in a process of its own, that say what their work cost.

`python -m p2pstream.bench.processes ROLE SETUP` prints one JSON object a line. A source and its
sinks share a process, `around`, with the relay that is measured between them in another: so the
source knows what has arrived, and sends as fast as the relay can. Datagrams are as long as on the
internet, whatever the loopback would carry.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from math import inf
from typing import Any

import msgspec
import trio

from p2pstream.bench.others import OTHERS
from p2pstream.bench.pieces import STREAM, epoch, first_head, per_chunk, pieces
from p2pstream.bench.telling import HOST, LINK_S, Setup, cost, line, say, since
from p2pstream.core import Dial, Happening, LinkUp, Parcel, Push, Send
from p2pstream.dht.messages import DHT_MESSAGES
from p2pstream.identity import NodeId, NodeKey, secret_bytes
from p2pstream.net.carrier import DIAL_S, QuicCarrier
from p2pstream.net.engine import Engine
from p2pstream.net.fast import BEST_ENGINE
from p2pstream.node.garbage import collect_seldom
from p2pstream.node.node import Node
from p2pstream.stream.chunk import PIECE_BYTES
from p2pstream.swarm import messages as m
from p2pstream.swarm.giver import CALM_ROUND_S
from p2pstream.swarm.messages import NO_HOPS, SUBSTREAMS, Role
from p2pstream.swarm.protocol import SEED_COPIES, Config, Swarm
from p2pstream.wire.codec import Message

# Under way from a source: enough for the window of a local link, and less than what makes a swarm
# send a child away (`giver.OVERLOAD_S`).
UNDER_WAY_BYTES = 192 * 1024
# Waiting in a carrier that sends all it can: what it sends in several ticks, or it would idle.
WAITING_BYTES = 1 << 20
STALL_S = 5.0  # What has not come by then never will (`giver.PIECE_LIFE_S`): what came counts.
TICK_S = 2e-3
ALL = (1 << SUBSTREAMS) - 1

ENGINES: dict[str, type[Engine]] = {"stock": Engine, "fast": BEST_ENGINE}


async def receive(setup: Setup) -> None:
    """A node that takes what it is sent; says what that has cost so far whenever it is asked."""
    async with trio.open_nursery() as nursery:
        sink = await _peer(nursery, setup.engine, Role.VIEWER)
        say(sink.place)
        began = cost()
        while await line():
            say(since(began, sink.got))
        nursery.cancel_scope.cancel()


async def send(setup: Setup) -> None:
    """A node that sends pieces to another. Each line lets so much go, and says what that cost."""
    async with trio.open_nursery() as nursery:
        source = await _peer(nursery, setup.engine, Role.ORIGIN)
        await source.dial(setup.peer)
        stream = _Stream(source, setup)
        say({})
        while await line():
            began = cost()
            gone = await stream.go_on(lambda: stream.sent - source.backlog, most=WAITING_BYTES)
            say(since(began, gone))
        nursery.cancel_scope.cancel()


async def around(setup: Setup) -> None:
    """A source and several sinks, on both sides of a relay. Each line lets so much more through."""
    async with trio.open_nursery() as nursery:
        source = await _peer(nursery, "fast", Role.ORIGIN)
        sinks = [await _peer(nursery, "fast", Role.VIEWER) for _ in range(setup.sinks)]
        for one in [*sinks, source]:
            await one.dial(setup.peer)
            if setup.whole:
                nursery.start_soon(one.join, setup)
        if setup.whole:
            with trio.fail_after(LINK_S):
                await source.wait(lambda: source.subscribed == ALL)
        say({})
        stream = _Stream(source, setup)
        while await line():
            say({"bytes": await stream.go_on(lambda: min(sink.got for sink in sinks))})
        nursery.cancel_scope.cancel()


async def relay(setup: Setup) -> None:
    """A node that passes on what it gets; says what it has cost so far whenever it is asked."""
    async with trio.open_nursery() as nursery:
        if setup.whole:
            say(await _whole(nursery))
        else:
            peer = await _peer(nursery, setup.engine, Role.SEED)
            peer.passes_on = True
            say(peer.place)
        began = cost()
        while await line():
            say(since(began, 0))
        nursery.cancel_scope.cancel()


async def _whole(nursery: trio.Nursery) -> dict[str, Any]:
    """All that `p2pstream seed` runs for a stream: carrier, DHT and swarm."""
    node = Node(NodeKey(secret_bytes()), host=HOST, allow_private=True)
    await nursery.start(node.run)
    swarm = Swarm(
        STREAM, node.node_id, Role.SEED, roads=node.carrier, rng=node.rng, wall=node.wall,
        config=Config(copies=SEED_COPIES),
    )  # fmt: skip
    node.add_swarm(swarm, lambda _: None)
    return _place(node.node_id, node.carrier)


class _Stream:
    """What a source sends. sent: bytes so far."""

    def __init__(self, source: _Peer, setup: Setup) -> None:
        self.sent = 0
        self._source, self._setup = source, setup
        self._piece, self._chunk_bytes = pieces(setup), per_chunk(setup) * PIECE_BYTES

    async def go_on(self, arrived: Callable[[], int], most: int = UNDER_WAY_BYTES) -> int:
        """Send what is due while no more than `most` bytes are under way; returns the bytes that
        came of it. arrived: how many have, so far.

        At the rate of a stream a chunk is due at once, as a broadcaster signs it. Of so many bytes
        all are signed first: signing is no work of the relay's, and would disturb it, for both
        processors share caches.
        """
        setup, before, came_before = self._setup, self.sent, arrived()
        first = before // PIECE_BYTES
        signed = deque(map(self._piece, range(first, first + -(-setup.bytes // PIECE_BYTES))))
        start_at = moved_at = trio.current_time()
        last = 0
        while True:
            now, sent, came = trio.current_time(), self.sent - before, arrived() - came_before
            live = (now - start_at) * setup.bits_per_s // 8 // self._chunk_bytes
            due = live * self._chunk_bytes if setup.bits_per_s else inf
            due = min(due, setup.bytes or inf)
            if came > last:
                last, moved_at = came, now
            over = now - start_at >= setup.seconds or (setup.bytes and sent >= setup.bytes)
            if (over and came >= sent) or now - moved_at > STALL_S:
                return came
            room = 0 if over else min(due - sent, most - (sent - came))
            while room > 0:
                number = self.sent // PIECE_BYTES
                self._source.give(signed.popleft() if signed else self._piece(number))
                self.sent += PIECE_BYTES
                room -= PIECE_BYTES
            await trio.sleep(TICK_S)


@dataclass(slots=True)
class _Peer:
    """A carrier and what it heard, without a swarm: it says what a partner must, and no more."""

    carrier: QuicCarrier
    role: Role
    linked: list[NodeId] = field(default_factory=list)
    got: int = 0
    subscribed: int = 0
    passes_on: bool = False
    _news: trio.Event = field(default_factory=trio.Event)

    @property
    def place(self) -> dict[str, Any]:
        return _place(self.carrier.node_id, self.carrier)

    @property
    def backlog(self) -> int:
        return sum(self.carrier.backlog(peer) for peer in self.linked)

    async def dial(self, peer: tuple[str, int]) -> None:
        with trio.fail_after(LINK_S):
            while not self.linked:  # A starved machine may need more than one try.
                self.carrier.perform(Dial(NodeId(bytes.fromhex(peer[0])), ((HOST, peer[1]),)))
                with trio.move_on_after(DIAL_S + 0.5):
                    await self.wait(lambda: bool(self.linked))
        await trio.sleep(0.1)  # For datagrams to find their length.

    async def wait(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._news = trio.Event()
            await self._news.wait()

    async def join(self, setup: Setup) -> None:
        """Trade in the stream: say so, and once a round what we hold, which is nothing."""
        if self.role is Role.ORIGIN:
            # With a head: it tells what there is to subscribe to, and the rate of the stream.
            self._say(m.Join(STREAM, int(self.role), epoch().raw, first_head(setup).raw))
            hops, slots = 0, 1
        else:
            self._say(m.Join(STREAM, int(self.role), b"", b""))
            self._say(m.Subscribe(STREAM, 0, ALL, 0))
            hops, slots = NO_HOPS, 0
        word = m.Map(STREAM, 0, 0, (), 0, bytes([hops]) * SUBSTREAMS, (b"",) * SUBSTREAMS,
                     bytes([slots]) * SUBSTREAMS)  # fmt: skip
        while True:
            self._say(word)
            await trio.sleep(CALM_ROUND_S)

    def give(self, parcel: Parcel) -> None:
        for peer in self.linked:
            self.carrier.perform(Send(peer, parcel))

    def hear(self, peer: NodeId, happening: Happening) -> None:
        match happening:
            case Parcel():
                self.got += len(happening.body)
                if self.passes_on:
                    others = [other for other in self.linked if other != peer]
                    self.carrier.perform(Push(others, happening))
            case LinkUp():
                self.linked.append(peer)
                self._news.set()
            case m.Subscribe():
                self.subscribed |= happening.substreams
                self._news.set()

    def _say(self, message: Message) -> None:
        for peer in self.linked:
            self.carrier.perform(Send(peer, message))


async def _peer(nursery: trio.Nursery, engine: str, role: Role) -> _Peer:
    def hear(node: NodeId, happening: Happening) -> None:
        peer.hear(node, happening)

    carrier = QuicCarrier(
        NodeKey(secret_bytes()), (*DHT_MESSAGES, *m.SWARM_MESSAGES), hear,
        host=HOST, engine=ENGINES[engine],
    )  # fmt: skip
    peer = _Peer(carrier, role)
    await nursery.start(carrier.run)
    return peer


def _place(node: NodeId, carrier: QuicCarrier) -> dict[str, Any]:
    return {"peer": (node.hex(), carrier.address[1])}


ROLES: dict[str, Callable[[Setup], Awaitable[None]]] = {
    "receive": receive, "send": send, "around": around, "relay": relay, **OTHERS,
}  # fmt: skip

if __name__ == "__main__":
    Engine.jumbo = False
    collect_seldom()  # As the commands do.
    name, setting = sys.argv[1:]
    trio.run(ROLES[name], msgspec.json.decode(setting, type=Setup))
