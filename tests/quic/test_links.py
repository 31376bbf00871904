"""Links on a virtual network: up once, down once, one for each node."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import trio

from p2pstream.core import Hangup, LinkDown, LinkUp
from p2pstream.errors import BadMessage, Misbehaviour, PortInUse
from p2pstream.identity import Address, NodeId
from p2pstream.net.fast import FastEngine
from tests.quic.virtual import Net, Node, PlainSocket, Say, in_virtual_time, parcel

NOWHERE = ("10.0.0.99", 50_000)


@in_virtual_time
async def test_both_ends_know_who_the_other_is(net: Net) -> None:
    a, b = await net.pair()
    here, there = a.carrier.address, b.carrier.address
    assert a.heard == [(b.id, LinkUp(there, dialled=True, seen_as=here))]
    assert b.heard == [(a.id, LinkUp(here, dialled=False, seen_as=there))]
    assert a.carrier.counters.endpoint.handshakes == 1
    assert 0.04 <= a.carrier.rtt_s(b.id) < 0.06


@in_virtual_time
async def test_messages_go_both_ways_in_order(net: Net) -> None:
    a, b = await net.pair()
    for number in range(50):
        a.send(b, Say(number))
        b.send(a, Say(number + 100))
    await trio.sleep(1)
    assert b.numbers == list(range(50))
    assert a.numbers == list(range(100, 150))


@in_virtual_time
async def test_a_node_that_yields_does_so_on_links_of_both_kinds(net: Net) -> None:
    polite, a, b = await net.node(1, yields=True), await net.node(2), await net.node(3)
    polite.dial(a)
    b.dial(polite)
    await trio.sleep(1)
    for other in (a, b):
        ours: Any = polite.link(other)._engine._loss._cc
        theirs: Any = other.link(polite)._engine._loss._cc
        assert ours.yields
        assert not theirs.yields


@in_virtual_time
async def test_a_dial_to_a_linked_node_does_nothing(net: Net) -> None:
    a, b = await net.pair()
    a.dial(b)
    b.dial(a)
    await trio.sleep(5)
    assert (a.ups, b.ups, a.downs, b.downs, a.open, b.open) == (1, 1, [], [], 1, 1)


@in_virtual_time
async def test_a_dial_in_progress_is_not_repeated(net: Net) -> None:
    a, b = await net.node(1), await net.node(2)
    net.delay_s = 0.2
    for _ in range(5):
        a.dial(b)
        await trio.sleep(0.05)
    assert b.open <= 1
    await trio.sleep(3)
    assert (a.ups, b.ups, a.downs) == (1, 1, [])


@in_virtual_time
async def test_a_dial_to_nobody_fails_once_and_in_time(net: Net) -> None:
    a, b = await net.node(1), Node(2)
    start = trio.current_time()
    when: list[float] = []
    a.on_heard = lambda _peer, _happening: when.append(trio.current_time() - start)
    a.dial(b, NOWHERE)
    await trio.sleep(30)
    assert a.heard == [(b.id, LinkDown("dial_timeout"))]
    assert when == [pytest.approx(3.0, abs=0.01)]
    assert a.open == 0


@in_virtual_time
async def test_a_dial_without_an_address_we_can_reach_fails(net: Net) -> None:
    a, b = await net.node(1), Node(2)
    a.dial(b, ("::1", 5), ("example.org", 5), ("10.0.0.2", 0))
    await trio.sleep(0.1)
    assert a.downs == ["no_address"]


@in_virtual_time
async def test_the_address_that_answers_wins(net: Net) -> None:
    a, b = await net.node(1), await net.node(2)
    a.dial(b, NOWHERE, ("10.0.0.98", 1), b.carrier.address, ("10.0.0.97", 1))
    await trio.sleep(1)
    assert (a.ups, b.ups, a.downs) == (1, 1, [])
    await trio.sleep(10)
    assert a.open == b.open == 1


@pytest.mark.parametrize("delay_s", [0.001, 0.05, 0.3])
@pytest.mark.parametrize("loss", [0.0, 0.1])
@in_virtual_time
async def test_dialling_each_other_at_once_leaves_exactly_one_link(
    net: Net, delay_s: float, loss: float
) -> None:
    net.delay_s, net.loss = delay_s, loss
    a, b = await net.node(1), await net.node(2)
    a.dial(b)
    b.dial(a)
    await trio.sleep(20)
    assert a.open == b.open == a.links == b.links == 1
    assert a.link(b).dialled != b.link(a).dialled
    for node in (a, b):
        _ups_and_downs_alternate(node)
    a.send(b, Say(1))
    b.send(a, Say(2))
    await trio.sleep(5)
    assert (a.numbers, b.numbers) == ([2], [1])


@in_virtual_time
async def test_staggered_mutual_dials_leave_exactly_one_link(
    net: Net,
) -> None:
    for step in range(12):
        a, b = await net.node(10 + 2 * step), await net.node(11 + 2 * step)
        net.delay_s = 0.05
        a.dial(b)
        await trio.sleep(0.013 * step)
        b.dial(a)
        await trio.sleep(10)
        assert a.open == b.open == a.links == b.links == 1, step
        _ups_and_downs_alternate(a)
        _ups_and_downs_alternate(b)


@in_virtual_time
async def test_a_node_that_lost_its_memory_replaces_its_old_link(net: Net) -> None:
    a, b = await net.node(1), await net.node(2)
    b.dial(a)
    await trio.sleep(20)
    reborn = await net.node(2, ip="10.0.0.3")
    reborn.dial(a)
    await trio.sleep(1)
    assert [type(h) for _, h in a.heard] == [LinkUp, LinkDown, LinkUp]
    assert a.downs == ["replaced"]
    assert b.downs == ["peer_duplicate"]
    assert reborn.links == 1


@in_virtual_time
async def test_hanging_up_is_learnt_at_once(net: Net) -> None:
    a, b = await net.pair()
    b.send(a, Say(1))
    a.hang_up(b, "enough")
    await trio.sleep(0.1)
    assert (a.downs, b.downs) == (["enough"], ["peer_bye"])
    assert a.open == b.open == 0
    assert a.numbers == []
    a.hang_up(b)
    await trio.sleep(60)
    assert (a.downs, b.downs) == (["enough"], ["peer_bye"])


@in_virtual_time
async def test_hanging_up_ends_a_dial(net: Net) -> None:
    a, b = await net.node(1), await net.node(2)
    net.delay_s = 0.5
    a.dial(b)
    await trio.sleep(0.1)
    a.hang_up(b)
    await trio.sleep(10)
    assert a.downs == ["hangup"]
    assert (a.open, b.open, b.heard) == (0, 0, [])


@in_virtual_time
async def test_closing_a_carrier_tells_all_peers(net: Net) -> None:
    a, b = await net.pair()
    a.carrier.close()
    await trio.sleep(0.1)
    assert (a.downs, b.downs) == (["shutdown"], ["peer_bye"])


@in_virtual_time
async def test_a_peer_that_vanishes_is_noticed(net: Net) -> None:
    a, b = await net.pair()
    await trio.sleep(300)
    assert a.links == b.links == 1, "a quiet link lives"
    net.cut = lambda *_: True
    start = trio.current_time()
    await trio.sleep(60)
    assert (a.downs, b.downs) == (["idle_timeout"], ["idle_timeout"])
    assert a.open == b.open == 0
    assert trio.current_time() - start < 61


@in_virtual_time
async def test_a_lie_bans_longer_every_time(net: Net) -> None:
    a, b = await net.pair()
    spans = []
    for expected in (60, 600, 86_400):
        a.hang_up(b, "lied", guilty=True)
        assert a.carrier.is_banned(b.id)
        start = trio.current_time()
        await trio.sleep(expected - 1)
        assert a.carrier.is_banned(b.id)
        await trio.sleep(2)
        assert not a.carrier.is_banned(b.id)
        spans.append(trio.current_time() - start)
    assert spans == [pytest.approx(s + 1) for s in (60, 600, 86_400)]


@in_virtual_time
async def test_the_banned_are_neither_dialled_nor_let_in(net: Net) -> None:
    a, b = await net.pair()
    a.hang_up(b, "lied", guilty=True)
    await trio.sleep(1)
    assert b.downs == ["peer_banned"]
    b.dial(a)
    await trio.sleep(5)
    a.dial(b)
    await trio.sleep(5)
    assert b.downs == ["peer_banned", "peer_banned"]
    assert a.downs == ["lied", "banned"]
    await trio.sleep(60)
    b.dial(a)
    await trio.sleep(1)
    assert a.links == b.links == 1


@pytest.mark.parametrize(
    ("error", "banned", "word"),
    [(BadMessage("no"), False, "bad_message"), (Misbehaviour("lie"), True, "misbehaviour")],
)
@in_virtual_time
async def test_a_fault_found_by_the_core_ends_the_link(
    net: Net, error: Exception, banned: bool, word: str
) -> None:
    a, b = await net.pair()

    def refuse(_peer: NodeId, happening: object) -> None:
        if isinstance(happening, Say):
            raise error

    b.on_heard = refuse
    a.send(b, Say(1))
    a.send(b, Say(2))
    await trio.sleep(1)
    assert b.numbers == [1], "nothing after the fault"
    assert b.downs == [word]
    assert b.carrier.is_banned(a.id) == banned
    assert len(a.downs) == 1


@in_virtual_time
async def test_a_bug_in_the_core_ends_that_link_only(
    net: Net, caplog: pytest.LogCaptureFixture
) -> None:
    a, b = await net.pair()
    c = await net.node(3)
    c.dial(b)
    await trio.sleep(1)

    def stumble(peer: NodeId, happening: object) -> None:
        if peer == a.id and isinstance(happening, Say):
            raise ZeroDivisionError

    b.on_heard = stumble
    a.send(b, Say(1))
    c.send(b, Say(2))
    await trio.sleep(1)
    assert (b.downs, a.downs, c.downs) == (["internal_error"], ["peer_internal"], [])
    c.send(b, Say(3))
    await trio.sleep(1)
    assert sorted(b.numbers) == [1, 2, 3]
    assert [r.levelno for r in caplog.records if r.name == "p2pstream.net"] == [logging.ERROR]


@in_virtual_time
async def test_s15_an_exception_in_one_connection_ends_it_alone(
    net: Net, caplog: pytest.LogCaptureFixture
) -> None:

    class Fragile(FastEngine):
        def receive_train(self, data: bytes, size: int, address: Address, now: float) -> None:
            if address == ("10.0.0.1", 50_000) and now > 5:
                raise ZeroDivisionError
            super().receive_train(data, size, address, now)

    b = await net.node(2, engine=Fragile)
    a, c = await net.node(1), await net.node(3)
    a.dial(b)
    c.dial(b)
    await trio.sleep(10)
    a.send(b, Say(1))
    c.send(b, Say(2))
    await trio.sleep(10)
    assert b.downs == ["internal_error"]
    assert a.downs == ["peer_internal"]
    assert b.numbers == [2]
    assert c.links == b.links == 1
    assert [r.levelno for r in caplog.records if r.name == "p2pstream.net"] == [logging.ERROR]


@in_virtual_time
async def test_s17_a_sendto_that_fails_is_only_a_lost_packet(net: Net) -> None:
    a, b = await net.pair()
    net.refusal = OSError(105, "No buffer space available")
    a.send(b, parcel(1))
    await trio.sleep(2)
    assert b.numbers == []
    net.refusal = None
    await trio.sleep(10)
    assert b.numbers == [1]
    assert a.carrier.counters.endpoint.unsent > 0
    assert a.downs == []


@in_virtual_time
async def test_a_socket_with_only_the_methods_of_trio_will_do(net: Net) -> None:
    net.kind = PlainSocket
    a, b = await net.pair()
    for number in range(20):
        a.send(b, parcel(number))
    await trio.sleep(2)
    assert sorted(b.numbers) == list(range(20))
    net.refusal = OSError(101, "Network is unreachable")
    a.send(b, Say(1))
    await trio.sleep(1)
    net.refusal = None
    a.carrier.close()
    await trio.sleep(1)
    assert b.downs == ["peer_bye"]


@in_virtual_time
async def test_a_send_without_a_link_is_counted(net: Net) -> None:
    a, b = await net.pair()
    a.hang_up(b)
    a.send(b, Say(1))
    assert a.carrier.counters.unlinked == 1
    assert a.carrier.backlog(b.id) == 0


@in_virtual_time
async def test_a_port_in_use_is_a_clear_error(net: Net) -> None:
    a, b = await net.node(1), Node(1)
    b.carrier._bind = a.carrier.address
    with pytest.raises(BaseExceptionGroup) as caught:
        async with trio.open_nursery() as inner:
            await inner.start(b.carrier.run)
    assert caught.group_contains(PortInUse)


@in_virtual_time
async def test_what_is_performed_from_within_deliver_happens(net: Net) -> None:
    a, b = await net.pair()

    def answer(_peer: NodeId, happening: object) -> None:
        if isinstance(happening, Say) and happening.number < 10:
            b.send(a, Say(happening.number + 1))
        elif isinstance(happening, Say):
            b.carrier.perform(Hangup(a.id, "done"))

    b.on_heard = answer
    a.on_heard = lambda _peer, happening: (
        a.send(b, Say(happening.number + 1)) if isinstance(happening, Say) else None
    )
    a.send(b, Say(0))
    await trio.sleep(2)
    assert b.numbers == [0, 2, 4, 6, 8, 10]
    assert (a.downs, b.downs) == (["peer_bye"], ["done"])


def _ups_and_downs_alternate(node: Node) -> None:
    kinds = [type(h) for _, h in node.heard if isinstance(h, LinkUp | LinkDown)]
    assert kinds == [LinkUp if i % 2 == 0 else LinkDown for i in range(len(kinds))], kinds
    assert kinds[-1] is LinkUp
