"""What `p2pstream bench` measures: nodes of a mesh as processes, and a bad link in virtual time.

`python -m p2pstream.net.bench ROLE SETUP` is one process on real sockets: it prints where its nodes
are, does its work, and prints what that cost. Datagrams are as long as on the internet, whatever
the loopback would carry. `live_link` needs no sockets: two engines, a link between them, no clock.
"""

from __future__ import annotations

import heapq
import json
import random
import resource
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from math import inf
from typing import Any

import msgspec
import trio
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import StreamDataReceived

from p2pstream.core import Dial, Happening, LinkUp, Parcel, Send
from p2pstream.identity import NodeId, NodeKey, StreamKey, secret_bytes
from p2pstream.net import tls
from p2pstream.net.carrier import QuicCarrier
from p2pstream.net.engine import Engine
from p2pstream.net.fast import FastEngine
from p2pstream.stream import head as heads
from p2pstream.stream.chunk import HASH_BYTES as INIT_HASH_BYTES
from p2pstream.stream.chunk import PIECE_BYTES, TICKS_PER_S
from p2pstream.stream.chunker import Chunker
from p2pstream.stream.epoch import certify
from p2pstream.stream.merkle import HASH_BYTES
from p2pstream.stream.window import Window
from p2pstream.swarm.messages import Piece

HOST = "127.0.0.1"
BACKLOG_BYTES = 512 * 1024  # What a sender keeps waiting; enough for the window of a local link.
LINK_S = 10.0  # Until all links stand.
CHUNK_S = 0.2  # Of media, as the broadcaster cuts it.

# Virtual time needs no clock of the wall, and certificates any that is the same everywhere.
NOW_MS = 1_800_000_000_000
ROOT, SIGNER = StreamKey(b"root" * 8), StreamKey(b"sign" * 8)
EPOCH = certify(ROOT, 1, SIGNER.public, now_ms=NOW_MS, bitrate_max=2**32, title="bench")

# The link of facts/quic.md 3: a home's uplink.
LINK_BYTES_PER_S = 20e6 / 8
LINK_DELAY_S = 0.025
LINK_QUEUE_S = 0.1
TICK_S = 1e-3


class Setup(msgspec.Struct):
    """What one process is to do. bytes: until so many have come; otherwise for `seconds`."""

    engine: str = "fast"
    peers: list[tuple[str, int]] = []  # Whom to send to: id in hex, port.
    nodes: int = 1
    bytes: int = 0
    seconds: float = 0.0
    bits_per_s: float = 0.0  # 0: as fast as it goes.
    whole: bool = False  # Verify and store every piece before it is passed on.


class Plain(Engine):
    """aioquic's way, with our driver."""

    jumbo = False


class Fast(FastEngine):
    """The fast path."""

    jumbo = False


ENGINES: dict[str, type[Engine]] = {"stock": Plain, "fast": Fast}


@dataclass(slots=True)
class Node:
    """A carrier, and what was heard."""

    carrier: QuicCarrier
    linked: set[NodeId] = field(default_factory=set)
    on_parcel: Callable[[Parcel], None] = lambda _parcel: None


async def start(nursery: trio.Nursery, setup: Setup) -> Node:
    """One more node."""

    def deliver(peer: NodeId, happening: Happening) -> None:
        if isinstance(happening, Parcel):
            node.on_parcel(happening)
        elif isinstance(happening, LinkUp):
            node.linked.add(peer)

    carrier = QuicCarrier(
        NodeKey(secret_bytes()), [Piece], deliver, host=HOST, engine=ENGINES[setup.engine]
    )
    node = Node(carrier)
    await nursery.start(carrier.run)
    return node


async def receive(setup: Setup) -> None:
    """Several nodes that take what they are sent."""
    got, began = 0, _cost()
    done = trio.Event()

    def take(parcel: Parcel) -> None:
        nonlocal got, began
        if not got:
            began = _cost()
        got += len(parcel.body)
        if setup.bytes and got >= setup.bytes:
            done.set()

    async with trio.open_nursery() as nursery:
        nodes = [await start(nursery, setup) for _ in range(setup.nodes)]
        for node in nodes:
            node.on_parcel = take
        _say({"nodes": [(n.carrier.node_id.hex(), n.carrier.address[1]) for n in nodes]})
        if setup.bytes:
            await done.wait()
            _say(_since(began, got))
        await trio.to_thread.run_sync(sys.stdin.read, abandon_on_cancel=True)
        nursery.cancel_scope.cancel()


async def send(setup: Setup) -> None:
    """A broadcaster: signed pieces to all peers."""
    async with trio.open_nursery() as nursery:
        node = await start(nursery, setup)
        peers = await _link(node, setup)
        pieces = _pieces(setup)
        began = _cost()
        sent, start_at = 0, trio.current_time()
        while not _over(setup, sent, start_at):
            due = (trio.current_time() - start_at) * setup.bits_per_s / 8 or inf
            while sent < due and all(node.carrier.backlog(peer) < BACKLOG_BYTES for peer in peers):
                parcel = pieces(sent // PIECE_BYTES)
                for peer in peers:
                    node.carrier.perform(Send(peer, parcel))
                sent += len(parcel.body)
                if _over(setup, sent, start_at):
                    break
            await trio.sleep(TICK_S if due is inf else PIECE_BYTES * 8 / setup.bits_per_s)
        while any(node.carrier.backlog(peer) for peer in peers):  # noqa: ASYNC110  # Once, at the end.
            await trio.sleep(TICK_S)
        _say(_since(began, sent * len(peers)))
        await trio.to_thread.run_sync(sys.stdin.read, abandon_on_cancel=True)
        nursery.cancel_scope.cancel()


async def relay(setup: Setup) -> None:
    """A viewer that passes on what it gets, verified and stored first if `whole`."""
    got = 0
    began = _cost()
    window = Window()

    async with trio.open_nursery() as nursery:
        node = await start(nursery, setup)
        peers = await _link(node, setup)

        def forward(parcel: Parcel) -> None:
            nonlocal got, began
            if not got:
                began = _cost()
            got += len(parcel.body)
            if setup.whole:
                _keep(window, parcel)
            for peer in peers:
                node.carrier.perform(Send(peer, parcel))

        node.on_parcel = forward
        _say({"nodes": [(node.carrier.node_id.hex(), node.carrier.address[1])]})
        await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True)
        _say(_since(began, got))
        await trio.to_thread.run_sync(sys.stdin.read, abandon_on_cancel=True)
        nursery.cancel_scope.cancel()


def _keep(window: Window, parcel: Parcel) -> None:
    """What `swarm.Taker` does with a piece: prove its head, prove it, keep it."""
    header = parcel.header
    assert isinstance(header, Piece)
    if header.seq not in window:
        head = heads.parse(header.head)
        head.verify(EPOCH, wall_ms=NOW_MS)
        window.add_head(head)
    steps = range(0, len(header.proof), HASH_BYTES)
    proof = tuple(header.proof[at : at + HASH_BYTES] for at in steps)
    window.add_piece(header.seq, header.rendition, header.index, parcel.body, proof)


def _pieces(setup: Setup) -> Callable[[int], Parcel]:
    """Pieces by number, signed chunk by chunk as they are asked for."""
    per_chunk = max(1, round((setup.bits_per_s or 6e6) / 8 * CHUNK_S / PIECE_BYTES))
    chunker = Chunker(SIGNER, EPOCH, first_seq=0)
    data = random.Random(1).randbytes(per_chunk * PIECE_BYTES)  # noqa: S311  # Not a secret.
    parcels: list[Parcel] = []

    def piece(number: int) -> Parcel:
        index = number % per_chunk
        if not index:
            signed = chunker.sign(
                {0: (bytes(INIT_HASH_BYTES), data)}, captured_ms=NOW_MS, pts=0,
                duration=TICKS_PER_S // 5, flags=heads.KEY,
            )  # fmt: skip
            parcels[:] = [
                Parcel(
                    Piece(ROOT.stream_id, signed.head.seq, 0, at, 0, signed.head.raw,
                          b"".join(one.proof)),
                    one.data,
                )
                for at, one in enumerate(signed.pieces[0])
            ]  # fmt: skip
        return parcels[index]

    return piece


async def _link(node: Node, setup: Setup) -> list[NodeId]:
    peers = [NodeId(bytes.fromhex(name)) for name, _ in setup.peers]
    for peer, (_, port) in zip(peers, setup.peers, strict=True):
        node.carrier.perform(Dial(peer, ((HOST, port),)))
    with trio.fail_after(LINK_S):
        while not node.linked >= set(peers):  # noqa: ASYNC110  # Once, before the measurement.
            await trio.sleep(0.01)
    await trio.sleep(0.2)  # For datagrams to find their length.
    return peers


def _over(setup: Setup, sent: int, start_at: float) -> bool:
    if setup.bytes:
        return sent >= setup.bytes
    return trio.current_time() - start_at >= setup.seconds


def _cost() -> tuple[float, float]:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime, trio.current_time()


def _since(began: tuple[float, float], size: int) -> dict[str, float]:
    cpu_s, wall_s = _cost()
    return {"bytes": size, "cpu_s": cpu_s - began[0], "wall_s": wall_s - began[1]}


def _say(line: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


# The link in virtual time.


@dataclass(slots=True)
class Journey:
    """How pieces fared: the delay of each, and bytes per second that arrived."""

    delays_s: list[float]
    bytes_per_s: float


def live_link(
    engine: str,
    *,
    loss: float = 0.0,
    reorder: float = 0.0,
    bits_per_s: float = 6e6,
    seconds: float = 10.0,
    seed: int = 1,
) -> Journey:
    """Send pieces over a home's uplink. engine: `fast`, or `aioquic` as it is, with reno.

    reorder: the share of datagrams that come 2 to 10 ms late. A `bits_per_s` above the link's rate
    measures goodput. Delays count from when a piece was due.
    """
    return _Link(engine, loss, reorder, seed).run(bits_per_s / 8, seconds)


class _Link:
    def __init__(self, engine: str, loss: float, reorder: float, seed: int) -> None:
        self._loss, self._reorder = loss, reorder
        self._rng = random.Random(seed)  # noqa: S311  # The weather.
        self._order = count()
        self._flying: list[tuple[float, int, int, bytes]] = []
        self._free_at = [0.0, 0.0]
        self._now = 0.0
        self._parts: dict[int, int] = {}
        self._due: dict[int, float] = {}  # By stream.
        self._journey = Journey([], 0.0)
        self._got = 0
        kind = Fast if engine == "fast" else QuicConnection
        calling = tls.configuration(NodeKey(b"c" * 32), dialling=True)
        answering = tls.configuration(NodeKey(b"s" * 32), dialling=False)
        if kind is QuicConnection:
            for config in (calling, answering):
                config.congestion_control_algorithm = "reno"
        client: Any = kind(configuration=calling)
        client.connect((HOST, 1), now=0.0)
        self._ends: tuple[Any, Any] = (client, kind(
            configuration=answering,
            original_destination_connection_id=client.original_destination_connection_id,
        ))  # fmt: skip

    def run(self, bytes_per_s: float, seconds: float) -> Journey:
        self._pass(1.0, lambda: None)
        began, sent = self._now, 0
        client = self._ends[0]

        def feed() -> None:
            nonlocal sent
            due = (self._now - began) * bytes_per_s
            while sent + PIECE_BYTES <= due and self._may_send(client):
                stream_id = client.get_next_available_stream_id(is_unidirectional=True)
                client.send_stream_data(stream_id, bytes(PIECE_BYTES), end_stream=True)
                sent += PIECE_BYTES
                self._due[stream_id] = began + sent / bytes_per_s

        self._got = 0
        self._pass(seconds, feed)
        # What never came is at least so late.
        late = [self._now - at for at in self._due.values()]
        unsent = (seconds * bytes_per_s - sent) / bytes_per_s
        late += [unsent] * int((seconds * bytes_per_s - sent) // PIECE_BYTES)
        self._journey.delays_s += late
        self._journey.bytes_per_s = self._got / seconds
        return self._journey

    def _may_send(self, client: Any) -> bool:
        if isinstance(client, Engine):
            return client.may_be_fed and client.unsent_bytes < 2 * PIECE_BYTES
        return len(client._streams) < 16  # noqa: SLF001  # More would only wait, and cost it dear.

    def _pass(self, seconds: float, feed: Callable[[], None]) -> None:
        end = self._now + seconds
        while self._now < end:
            feed()
            for number, one in enumerate(self._ends):
                self._serve(number, one)
            self._now += TICK_S
            while self._flying and self._flying[0][0] <= self._now:
                _, _, number, data = heapq.heappop(self._flying)
                self._ends[number].receive_datagram(data, (HOST, 1 + number), self._now)

    def _serve(self, number: int, one: Any) -> None:
        if one.get_peer_address() is None:
            return
        timer = one.get_timer()
        if timer is not None and timer <= self._now:
            one.handle_timer(self._now)
        for data, _ in one.datagrams_to_send(self._now):
            start = max(self._now, self._free_at[number])
            if start - self._now > LINK_QUEUE_S:
                continue
            self._free_at[number] = start + len(data) / LINK_BYTES_PER_S
            if self._rng.random() < self._loss:
                continue
            late = self._rng.uniform(0.002, 0.01) if self._rng.random() < self._reorder else 0.0
            at = self._free_at[number] + LINK_DELAY_S + late
            heapq.heappush(self._flying, (at, next(self._order), 1 - number, data))
        while (event := one.next_event()) is not None:
            if isinstance(event, StreamDataReceived):
                self._got += len(event.data)
                if event.end_stream and event.stream_id in self._due:
                    self._journey.delays_s.append(self._now - self._due.pop(event.stream_id))


if __name__ == "__main__":
    roles = {"receive": receive, "send": send, "relay": relay}
    trio.run(roles[sys.argv[1]], msgspec.json.decode(sys.argv[2], type=Setup))
