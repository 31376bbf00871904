"""Datagrams of strangers: what is answered, what costs state (S-02, S-03, I-09, 5.5)."""

from __future__ import annotations

import gc
import random
import weakref
from ipaddress import ip_address
from itertools import count
from typing import Any

import pytest
import trio
from aioquic._buffer import Buffer
from aioquic.quic.connection import QuicConnection
from aioquic.quic.packet import encode_quic_version_negotiation, pull_quic_header
from aioquic.tls import Epoch

from p2pstream.identity import Address, NodeKey
from p2pstream.net import doorman, tls
from p2pstream.net.doorman import (
    HALF_OPEN_CALM,
    HALF_OPEN_MAX,
    HANDSHAKES_BURST,
    IPV4_CONNECTIONS_MAX,
)
from p2pstream.net.fast import FastEngine
from tests.quic.virtual import Net, Node, in_virtual_time, parcel

STRANGER = ("10.0.0.66", 666)
V1 = b"\x00\x00\x00\x01"


def initial(seed: int = 1) -> bytes:
    """The first datagram of an honest client."""
    connection = QuicConnection(
        configuration=tls.configuration(NodeKey(seed.to_bytes(32)), dialling=True)
    )
    connection.connect(("10.0.0.1", 1), now=0.0)
    return connection.datagrams_to_send(0.0)[0][0]


def padded(version: bytes, size: int = 1200) -> bytes:
    return (b"\xc0" + version + b"\x08" + b"d" * 8 + b"\x08" + b"s" * 8).ljust(size, b"\x00")


async def answers(net: Net, node: Node, data: bytes, source: Address = STRANGER) -> list[bytes]:
    net.sent = []
    net.transmit(source, node.carrier.address, data)
    await trio.sleep(0.2)
    return [sent for _, target, sent in net.sent if target == source]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc0",
        b"\x40" * 7,
        b"\xc0" + b"\x5a" * 6,
        initial()[:1199],
        padded(V1, 1199),
        padded(b"\x00\x00\x00\x00"),
        padded(b"\x5a\x5a\x5a\x5a"),
        padded(b"\x6b\x33\x43\xcf", 1199),
        b"\x40" + b"x" * 1199,
        b"\xff" * 1200,
        b"\xe0" + padded(V1)[1:],
        b"\xf0" + padded(V1)[1:],
        encode_quic_version_negotiation(
            source_cid=b"s" * 8, destination_cid=b"d" * 8, supported_versions=[1, 2]
        ).ljust(1200, b"\x00"),
    ],
)
@in_virtual_time
async def test_s02_s03_nonsense_is_not_answered_and_costs_no_state(net: Net, data: bytes) -> None:
    a = await net.node(1)
    assert await answers(net, a, data) == []
    assert a.open == 0
    assert a.carrier.counters.endpoint.strays == 1


@pytest.mark.parametrize("version", [b"\x6b\x33\x43\xcf", b"\xff\x00\x00\x1d"])
@in_virtual_time
async def test_i09_another_version_of_quic_is_told_ours(net: Net, version: bytes) -> None:
    a = await net.node(1)
    (answer,) = await answers(net, a, padded(version))
    header = pull_quic_header(Buffer(data=answer))
    assert header.supported_versions == [1]
    assert (header.destination_cid, header.source_cid) == (b"s" * 8, b"d" * 8)
    assert len(answer) < 100
    assert a.open == 0


@in_virtual_time
async def test_s03_two_nodes_never_loop_over_version_negotiation(net: Net) -> None:
    a, b = await net.node(1), await net.node(2)
    packets = net.packets
    spoof = encode_quic_version_negotiation(
        source_cid=b"s" * 8, destination_cid=b"d" * 8, supported_versions=[0x6B3343CF]
    ).ljust(1200, b"\x00")
    net.transmit(b.carrier.address, a.carrier.address, spoof)
    net.transmit(a.carrier.address, b.carrier.address, padded(b"\x6b\x33\x43\xcf"))
    await trio.sleep(5)
    assert net.packets - packets <= 3


@in_virtual_time
async def test_s04_a_stranger_gets_at_most_three_times_what_it_sent(net: Net) -> None:
    """It never answers, so its address may be somebody else's."""
    a = await net.node(1)
    data = initial()
    net.sent = []
    net.transmit(STRANGER, a.carrier.address, data)
    await trio.sleep(20)
    out = sum(len(sent) for _, target, sent in net.sent if target == STRANGER)
    assert 1200 < out <= 3 * len(data)
    assert a.open == 0
    assert a.heard == []


@in_virtual_time
async def test_random_datagrams_harm_nobody(net: Net) -> None:
    a, b = await net.pair()
    rng = random.Random(5)
    good = initial()
    for _ in range(300):
        data = bytearray(good)
        for _ in range(rng.randrange(1, 4)):
            data[rng.randrange(60)] = rng.randrange(256)
        net.transmit(STRANGER, a.carrier.address, bytes(data))
        net.transmit(b.carrier.address, a.carrier.address, rng.randbytes(rng.randrange(1500)))
        await trio.sleep(0.01)
    await trio.sleep(10)
    assert a.open == a.links == b.links == 1


def retries(net: Net, node: Node) -> list[bytes]:
    """The Retry packets that `node` has sent since `net.sent` began."""
    assert net.sent is not None
    source = node.carrier.address
    return [data for sender, _, data in net.sent if sender == source and data[0] >> 4 == 0xF]


@in_virtual_time
async def test_s01_half_open_connections_are_limited(net: Net) -> None:
    a, b = await net.node(1), await net.node(2)
    net.sent = []
    for number in range(HALF_OPEN_MAX + 30):
        net.transmit((f"10.1.0.{number}", 5), a.carrier.address, initial(number + 10))
    await trio.sleep(0.5)
    assert a.open == HALF_OPEN_CALM
    asked = HALF_OPEN_MAX + 30 - HALF_OPEN_CALM
    assert a.carrier.counters.endpoint.retries == len(retries(net, a)) == asked
    assert all(len(data) < 1200 / 10 for data in retries(net, a))
    await trio.sleep(6)
    assert a.open == 0
    b.dial(a)
    await trio.sleep(1)
    assert a.links == 1


@in_virtual_time
async def test_s01_an_honest_node_gets_in_through_a_flood(net: Net) -> None:
    """It answers the Retry, which nobody can who only pretends to be somewhere."""
    a, b = await net.node(1), await net.node(2)

    async def flood() -> None:
        for number in count(10):
            net.transmit((f"10.1.{number % 250}.1", 5), a.carrier.address, initial(number % 100))
            await trio.sleep(0.01)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(flood)
        await trio.sleep(1)
        assert a.open == HALF_OPEN_CALM
        net.sent = []
        b.dial(a)
        await trio.sleep(0.2)
        assert a.links == b.links == 1
        assert any(
            target == b.carrier.address for _, target, data in net.sent if data[0] >> 4 == 0xF
        )
        nursery.cancel_scope.cancel()
    b.send(a, parcel(1))
    await trio.sleep(1)
    assert a.numbers == [1]


@in_virtual_time
async def test_s01_proven_strangers_are_limited_too(net: Net) -> None:
    """Nodes that are where they say they are, and then say no more."""

    class Mute(FastEngine):
        def send_stream_data(self, stream_id: int, data: bytes, end_stream: bool = False) -> None:
            pass

    a = await net.node(1)
    for number in range(HALF_OPEN_MAX + 10):
        node = await net.node(1000 + number, ip=f"10.2.0.{number}", engine=Mute)
        node.dial(a)
    await trio.sleep(2)
    assert a.open == HALF_OPEN_MAX
    assert a.carrier.counters.endpoint.refused >= 10
    await trio.sleep(6)
    assert a.open == 0


@in_virtual_time
async def test_s01_s06_what_is_over_is_freed_without_a_search_for_garbage(net: Net) -> None:
    """Which comes seldom in a node, and later the more a stranger has left to be found.

    What was sent and not acknowledged refers to what is to be done about it (S-06).
    """
    a, b = await net.pair()
    net.transmit(STRANGER, a.carrier.address, initial(10))
    await trio.sleep(0.5)
    engines = [link._engine for link in a.carrier._endpoint._links]
    parts: list[weakref.ref[Any]] = [weakref.ref(engine._loss) for engine in engines]
    parts += [weakref.ref(space) for engine in engines for space in engine._spaces.values()]
    assert len(parts) == 2 + 2 * 3
    assert any(engine._spaces[Epoch.ONE_RTT].sent_packets for engine in engines)
    del engines
    gc.collect()
    gc.disable()
    try:
        b.hang_up(a)
        await trio.sleep(30)
        assert a.open == 0
        assert {part() for part in parts} == {None}
    finally:
        gc.enable()


@in_virtual_time
async def test_s01_a_token_brought_from_elsewhere_is_not_answered(net: Net) -> None:
    a = await net.node(1)
    a.carrier._endpoint._doorman.half_open = HALF_OPEN_CALM
    client = QuicConnection(
        configuration=tls.configuration(NodeKey((9).to_bytes(32)), dialling=True)
    )
    client.connect(a.carrier.address, now=0.0)
    (retry,) = await answers(net, a, client.datagrams_to_send(0.0)[0][0])
    client.receive_datagram(retry, a.carrier.address, 0.2)
    again = client.datagrams_to_send(0.2)[0][0]
    assert await answers(net, a, again, source=("10.0.0.67", 666)) == []
    assert a.open == 0
    assert await answers(net, a, again) != []
    assert a.open == 1


@in_virtual_time
async def test_one_public_address_may_knock_only_so_often(net: Net) -> None:
    a = await net.node(1)
    assert ip_address("5.6.7.8").is_global
    for number in range(HANDSHAKES_BURST + 5):
        net.transmit(("5.6.7.8", 1000 + number), a.carrier.address, initial(number + 10))
    await trio.sleep(0.5)
    assert a.open == min(HANDSHAKES_BURST, IPV4_CONNECTIONS_MAX[32])
    assert a.carrier.counters.endpoint.retries == 5


@in_virtual_time
async def test_one_public_network_has_only_so_many_connections(
    net: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doorman, "HALF_OPEN_CALM", HALF_OPEN_MAX)
    a = await net.node(1)
    for number in range(40):
        net.transmit((f"5.6.7.{number}", 1000), a.carrier.address, initial(number + 10))
    await trio.sleep(0.5)
    assert a.open == IPV4_CONNECTIONS_MAX[24]
    assert a.carrier.counters.endpoint.retries == 40 - IPV4_CONNECTIONS_MAX[24]


@in_virtual_time
async def test_s03_a_version_negotiation_of_a_stranger_stops_no_dial(net: Net) -> None:
    """Neither one that guesses, nor one that reads along and names the version that was asked."""
    a, b = await net.node(1), await net.node(2)
    net.sent = []
    a.dial(b)
    await trio.sleep(0.001)
    (_, _, asked), *_ = net.sent
    header = pull_quic_header(Buffer(data=asked))
    for source, target, versions in (
        (header.destination_cid, b"guessed!", [0x6B3343CF]),
        (b"guessed!", header.source_cid, [0x6B3343CF]),
        (header.destination_cid, header.source_cid, [1, 0x6B3343CF]),
    ):
        spoof = encode_quic_version_negotiation(
            source_cid=source, destination_cid=target, supported_versions=versions
        )
        net.transmit(b.carrier.address, a.carrier.address, spoof)
    await trio.sleep(1)
    assert a.links == b.links == 1


@in_virtual_time
async def test_i09_a_server_that_speaks_only_other_versions_is_given_up_at_once(net: Net) -> None:
    a, b = await net.node(1), Node(2)
    net.sent = []
    a.dial(b, STRANGER)
    await trio.sleep(0.001)
    (source, _, asked), *_ = net.sent
    header = pull_quic_header(Buffer(data=asked))
    answer = encode_quic_version_negotiation(
        source_cid=header.destination_cid,
        destination_cid=header.source_cid,
        supported_versions=[0x6B3343CF],
    )
    net.transmit(STRANGER, source, answer)
    await trio.sleep(0.5)
    assert a.downs == ["protocol_error"]
    assert a.open == 0
