"""Nodes that run for long, under attack or in bad weather. `soak.py` makes that very long.

Delays are in virtual time, so they say what an attack does to the protocol, not to the processor;
memory is that of the whole process, attackers and network included.
"""

from __future__ import annotations

import gc
import os
import random
from functools import partial
from math import isnan, nan
from pathlib import Path

import pytest
import trio

from p2pstream.core import Happening, Parcel
from p2pstream.identity import NodeId
from p2pstream.net.fast import FastEngine
from p2pstream.node.garbage import collect_seldom
from tests.quic.attacks import ATTACKS
from tests.quic.test_moving import elsewhere
from tests.quic.virtual import Net, Node, in_virtual_time, parcel

LONG = os.environ.get("P2PSTREAM_LONG", "") not in {"", "0"}
MBIT = 1e6 / 8
MIB = 1 << 20
GROWTH_BYTES_MAX = 16 * MIB  # In ten minutes of attack; 0.3 MiB (s14) to 7 (s10), measured.
ATTACK_S = 600.0 if LONG else 0.4
RELAY_S = 3600.0 if LONG else 4.0
CHILDREN = 8 if LONG else 4
# Between two pieces of a relay: a slower stream makes a long run cheaper, and no shorter.
PIECE_S = 0.2 if LONG else 0.05
RELAY_PIECE_S = 0.4 if LONG else 0.1
MOVE_S = 2.0 if LONG else 0.5  # In turns: each of ten nodes every 20 s, or of six every 3.
KEYS_S = 30.0 if LONG else 1.0
REST_S = 0.3  # For the last pieces.
REST_AFTER_MOVES_S = 5.0
PATIENCE_S = 4 * 3600  # Of pytest, when long.
TELL_S = 60.0  # Between two words of how it goes.

pytestmark = [pytest.mark.timeout(PATIENCE_S)] if LONG else []
if LONG:
    collect_seldom()  # As a node does.


def resident_bytes() -> int:
    """Memory that this process has now. What nobody uses any more counts when it is long-lived."""
    if not LONG:
        gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Relay:
    """A source, a node that passes on what it is sent, and children; every piece is checked."""

    def __init__(self, source: Node, node: Node, children: list[Node], size: int) -> None:
        self.source, self.node, self.children = source, node, children
        self.size = size
        self.pieces = 0  # Sent so far.
        self.sent_at: dict[int, float] = {}  # Of pieces on their way.
        self.waiting: dict[int, set[NodeId]] = {}  # Children that have not got them.
        self.delays: list[float] = []
        node.on_heard = self._pass_on
        for child in children:
            child.on_heard = partial(self._arrived, child)

    async def link(self) -> None:
        self.source.dial(self.node)
        for number, child in enumerate(self.children):
            one, other = (child, self.node) if number % 2 else (self.node, child)
            one.dial(other)
        await trio.sleep(2)

    async def run(self, seconds: float, every_s: float) -> None:
        """Pieces for so long."""
        for number in range(self.pieces, self.pieces + int(seconds / every_s)):
            self.pieces += 1
            self.sent_at[number] = trio.current_time()
            self.waiting[number] = {child.id for child in self.children}
            self.source.send(self.node, parcel(number, self.size))
            await trio.sleep(every_s)

    async def endure(self, name: str, seconds: float, every_s: float) -> int:
        """As `run`, with a word each minute; returns by how many bytes this process has grown."""
        before, done = resident_bytes(), 0.0
        while done < seconds:
            part = min(TELL_S, seconds - done)
            await self.run(part, every_s)
            done += part
            growth = resident_bytes() - before
            print(f"{name}: {done:.0f} s, {growth / MIB:.1f} MiB more", flush=True)
        return growth

    @property
    def downs(self) -> list[str]:
        return [down for one in (self.source, *self.children) for down in one.downs]

    def p99_s(self) -> float:
        return sorted(self.delays)[int(0.99 * len(self.delays))]

    def _pass_on(self, _peer: NodeId, what: Happening) -> None:
        self.node.heard.clear()
        if isinstance(what, Parcel):
            for child in self.children:
                self.node.send(child, what)

    def _arrived(self, child: Node, _peer: NodeId, what: Happening) -> None:
        if not isinstance(what, Parcel):
            return
        number = what.header.number  # type: ignore[attr-defined]
        assert what == parcel(number, self.size)
        self.waiting[number].remove(child.id)
        child.heard = [entry for entry in child.heard if not isinstance(entry[1], Parcel)]
        if not self.waiting[number]:
            del self.waiting[number]
            self.delays.append(trio.current_time() - self.sent_at.pop(number))


def row(name: str, seconds: float, growth: int, relay: Relay, calm_p99_s: float = nan) -> str:
    """What came of it, under `soak.TITLES`."""
    p99, pieces = relay.p99_s() * 1e3, len(relay.delays)
    calm = "" if isnan(calm_p99_s) else f"{calm_p99_s * 1e3:.0f} ms"
    return f"| {name:4}|{seconds:6.0f} s|{growth / MIB:7.1f} MiB|{p99:6.0f} ms|{calm:>9}|{pieces:7}"


async def small_relay(net: Net) -> Relay:
    net.rate = 10 * MBIT  # Of each node's uplink.
    nodes = [await net.node(2 + number) for number in range(4)]
    relay = Relay(nodes[0], nodes[1], nodes[2:], 8192)
    await relay.link()
    return relay


@pytest.fixture(scope="module")
def calm_p99_s() -> float:
    """Of pieces, when nobody attacks."""
    out = []

    @in_virtual_time
    async def calm(net: Net) -> None:
        relay = await small_relay(net)
        await relay.run(2, 0.05)
        await trio.sleep(REST_S)
        out.append(relay.p99_s())

    calm(engines=(FastEngine, FastEngine))
    return out[0]


@pytest.mark.parametrize("attack", ATTACKS)
@in_virtual_time
async def test_s01_s05_to_s14_a_node_under_attack_serves_others_and_does_not_grow(
    net: Net, attack: str, calm_p99_s: float
) -> None:
    """NB and NC of the catalogue: bounded, and nobody else is hurt."""
    relay = await small_relay(net)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ATTACKS[attack](), net, relay.node)
        await relay.run(6 * PIECE_S, PIECE_S)
        growth = await relay.endure(attack, ATTACK_S, PIECE_S)
        await trio.sleep(REST_S)
        nursery.cancel_scope.cancel()
    print(row(attack, ATTACK_S, growth, relay, calm_p99_s))
    assert not relay.waiting
    assert relay.downs == []
    assert growth < GROWTH_BYTES_MAX
    assert relay.p99_s() <= 2 * calm_p99_s
    endpoint = relay.node.carrier._endpoint
    assert endpoint.counters.crashes == 0
    assert len(endpoint._timers) < 50 + 10 * len(endpoint._links)


@in_virtual_time
async def test_s16_a_relay_in_bad_weather_loses_nothing_and_does_not_grow(net: Net) -> None:
    """Loss, reordering, a narrow path, new keys, and NATs that forget one node after another."""
    net.loss, net.jitter_s, net.mtu = 0.01, 0.01, 1280
    net.rate = 50 * MBIT
    nodes = [await net.node(2 + number) for number in range(2 + CHILDREN)]
    relay = Relay(nodes[0], nodes[1], nodes[2:], 4096)
    await relay.link()
    rng = random.Random(7)
    moves = 0

    async def move() -> None:
        nonlocal moves
        while True:
            await trio.sleep(MOVE_S)
            moves += 1
            mover = nodes[moves * 3 % len(nodes)]
            net.move(mover, elsewhere(mover, moves))

    async def update_keys() -> None:
        while True:
            await trio.sleep(KEYS_S)
            link = rng.choice(list(relay.node.carrier._links.values()))
            link._engine.request_key_update()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(move)
        nursery.start_soon(update_keys)
        await relay.run(RELAY_S / 4, RELAY_PIECE_S)
        tasks = trio.lowlevel.current_statistics().tasks_living
        growth = await relay.endure("s16", 3 * RELAY_S / 4, RELAY_PIECE_S)
        assert trio.lowlevel.current_statistics().tasks_living == tasks
        nursery.cancel_scope.cancel()
    await trio.sleep(REST_AFTER_MOVES_S)
    print(row("s16", RELAY_S, growth, relay), f"{moves} moves")
    assert moves >= 3
    assert not relay.waiting
    assert relay.downs == relay.node.downs == []
    assert growth < 8 * MIB
    endpoint = relay.node.carrier._endpoint
    assert endpoint.counters.crashes == 0
    assert len(endpoint._links) == 1 + CHILDREN
    assert len(endpoint._timers) < 100
    assert len(endpoint._by_cid) < (1 + CHILDREN) * 20
    for link in relay.node.carrier._links.values():
        assert len(link._engine._network_paths) == 1
