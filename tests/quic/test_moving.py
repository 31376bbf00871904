"""Nodes whose address changes while they talk: a NAT forgets, a telephone finds another network."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import trio
from aioquic.tls import Epoch

from p2pstream.identity import Address
from p2pstream.net.engine import Engine
from p2pstream.net.fast import FastEngine
from p2pstream.net.link import KEEPALIVE_S, RESTLESS_S
from tests.quic.virtual import Net, Node, Say, in_virtual_time, parcel

PIECE_S = 0.05
CASES = [  # Engines of both; who moves; who has dialled.
    ((FastEngine, FastEngine), "child", "child"),
    ((FastEngine, FastEngine), "child", "parent"),
    ((FastEngine, FastEngine), "parent", "child"),
    ((FastEngine, FastEngine), "parent", "parent"),
    ((Engine, Engine), "child", "parent"),
    ((Engine, Engine), "parent", "child"),
]


class Stream:
    """Pieces from one node to another, and how long each took."""

    def __init__(self, source: Node, sink: Node) -> None:
        self.source, self.sink = source, sink
        self.sent_at: list[float] = []
        self.took: dict[int, float] = {}
        sink.on_heard = lambda _peer, what: self._note(what)

    async def run(self, pieces: int) -> None:
        for number in range(pieces):
            self.sent_at.append(trio.current_time())
            self.source.send(self.sink, parcel(number, 8192))
            await trio.sleep(PIECE_S)
        await trio.sleep(2)

    def _note(self, what: object) -> None:
        number = getattr(getattr(what, "header", None), "number", None)
        if number is not None:
            assert what == parcel(number, 8192)
            assert number not in self.took
            self.took[number] = trio.current_time() - self.sent_at[number]


def elsewhere(node: Node, times: int) -> Address:
    """Another port each time, and another host every second time."""
    host, port = node.carrier.address
    first, *_, last = host.split(".")
    return f"{first}.{times // 2 % 256}.9.{last}", port + times


@pytest.mark.parametrize(("engines", "mover", "caller"), CASES)
@in_virtual_time
async def test_s16_a_stream_goes_on_wherever_its_ends_move(
    net: Net, mover: str, caller: str
) -> None:
    net.loss, net.jitter_s = 0.01, 0.005
    parent, child = await net.node(1), await net.node(2)
    (parent if caller == "parent" else child).dial(child if caller == "parent" else parent)
    await trio.sleep(2)
    stream = Stream(parent, child)
    moved = parent if mover == "parent" else child

    async def move() -> None:
        for times in range(1, 4):
            await trio.sleep(1.7)
            net.move(moved, elsewhere(moved, times))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(move)
        await stream.run(140)
    assert sorted(stream.took) == list(range(140))
    assert max(stream.took.values()) < RESTLESS_S + 0.9, "with a buffer of 4 s nobody notices"
    assert parent.downs == child.downs == []
    stays = child if moved is parent else parent
    assert stays.link(moved).address == elsewhere(moved, 3)
    engine = stays.link(moved)._engine
    assert len(engine._network_paths) == 1
    assert engine._max_datagram_size == 1452


@in_virtual_time
async def test_s16_an_idle_link_survives_that_both_ends_move(net: Net) -> None:
    a, b = await net.pair()
    for times in range(1, 4):
        await trio.sleep(40)
        net.move(a, elsewhere(a, times))
        await trio.sleep(40)
        net.move(b, elsewhere(b, times))
    await trio.sleep(2 * KEEPALIVE_S)
    a.send(b, Say(1))
    b.send(a, Say(2))
    await trio.sleep(1)
    assert (a.numbers, b.numbers, a.downs, b.downs) == ([2], [1], [], [])


@in_virtual_time
async def test_s16_a_path_change_forgets_what_was_learnt_of_the_old_path(net: Net) -> None:
    a, b = await net.pair()
    stream = Stream(a, b)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.run, 100)
        await trio.sleep(3)
        net.delay_s = 0.2
        before: Any = a.link(b)._engine._loss._cc
        assert before.min_rtt_s < 0.05
        net.move(b, elsewhere(b, 1))
    assert before.min_rtt_s > 0.39
    assert before.queue_s < 0.05, "a longer way is no queue"


@pytest.mark.parametrize("mover", ["child", "parent"])
@in_virtual_time
async def test_s16_who_moves_while_keys_are_new_is_still_understood(net: Net, mover: str) -> None:
    """It has not heard of the new keys, and says with the old ones where it is."""
    parent, child = await net.pair()
    stream = Stream(parent, child)
    stays, moves = (parent, child) if mover == "child" else (child, parent)

    async def move() -> None:
        for times in range(1, 4):
            await trio.sleep(1.7)
            stays.link(moves)._engine.request_key_update()
            net.move(moves, elsewhere(moves, times))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(move)
        await stream.run(120)
    assert sorted(stream.took) == list(range(120))
    assert stays.link(moves).address == elsewhere(moves, 3)
    keys: list[Any] = [end._engine._cryptos[Epoch.ONE_RTT]
                       for end in (stays.link(moves), moves.link(stays))]  # fmt: skip
    assert [pair.send.key_phase for pair in keys] == [1, 1], "updated three times"
    assert [pair.recv.key_phase for pair in keys] == [1, 1]


@in_virtual_time
async def test_a_quiet_link_asks_ever_more_rarely(net: Net) -> None:
    a, b = await net.pair()
    a.send(b, Say(1))
    await trio.sleep(60)
    net.sent = []
    await trio.sleep(60)
    by = Counter(source[0] for source, _, _ in net.sent)
    assert sum(by.values()) <= 2 * 60 / KEEPALIVE_S * 2


@pytest.mark.parametrize("caller", ["the liar", "the victim"])
@in_virtual_time
async def test_s04_a_peer_that_pretends_to_move_cannot_aim_our_stream(
    net: Net, caller: str
) -> None:
    """S-04: who is really at that address gets at most three times what came from there."""
    node, liar = await net.node(2), await net.node(4)
    (liar if caller == "the liar" else node).dial(node if caller == "the liar" else liar)
    await trio.sleep(1)
    third: list[Address] = [(f"10.9.9.{number}", 9) for number in range(10)]
    stream = Stream(node, liar)
    net.sent = []

    async def pretend() -> None:
        """One packet in a hundred ms is sent as if from elsewhere."""
        engine = liar.link(node)._engine
        for address in third * 2:
            engine.send_ping(0)
            for data, _ in engine.datagrams_to_send(trio.current_time()):
                net.transmit(address, node.carrier.address, data)
            await trio.sleep(0.1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(pretend)
        await stream.run(60)
    into: Counter[Address] = Counter()
    for source, target, data in net.sent:
        into[target] += len(data) * (target in third)
        into[source] -= 3 * len(data) * (source in third)
    assert any(target in third for _, target, _ in net.sent)
    assert all(into[address] <= 0 for address in third)
    assert sorted(stream.took) == list(range(60)), "and it harms only itself"
    space = node.link(liar)._engine._spaces[Epoch.ONE_RTT]
    assert len(space.sent_packets) < 50
