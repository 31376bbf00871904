"""Datagrams of strangers: what is answered, what costs state (S-02, S-03, I-09, 5.5)."""

from __future__ import annotations

import random
from ipaddress import ip_address

import pytest
import trio
from aioquic._buffer import Buffer
from aioquic.quic.connection import QuicConnection
from aioquic.quic.packet import encode_quic_version_negotiation, pull_quic_header

from p2pstream.identity import Address, NodeKey
from p2pstream.net import tls
from p2pstream.net.doorman import HALF_OPEN_MAX, HANDSHAKES_BURST, IPV4_CONNECTIONS_MAX
from tests.quic.virtual import Net, Node, in_virtual_time

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
async def test_nonsense_is_not_answered_and_costs_no_state(net: Net, data: bytes) -> None:
    """S-02, S-03."""
    a = await net.node(1)
    assert await answers(net, a, data) == []
    assert a.open == 0
    assert a.carrier.counters.endpoint.strays == 1


@pytest.mark.parametrize("version", [b"\x6b\x33\x43\xcf", b"\xff\x00\x00\x1d"])
@in_virtual_time
async def test_another_version_of_quic_is_told_ours(net: Net, version: bytes) -> None:
    """I-09."""
    a = await net.node(1)
    (answer,) = await answers(net, a, padded(version))
    header = pull_quic_header(Buffer(data=answer))
    assert header.supported_versions == [1]
    assert (header.destination_cid, header.source_cid) == (b"s" * 8, b"d" * 8)
    assert len(answer) < 100
    assert a.open == 0


@in_virtual_time
async def test_two_nodes_never_loop_over_version_negotiation(net: Net) -> None:
    """S-03."""
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
async def test_a_stranger_gets_at_most_three_times_what_it_sent(net: Net) -> None:
    """S-04: it never answers, so its address may be somebody else's."""
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


@in_virtual_time
async def test_half_open_connections_are_limited(net: Net) -> None:
    a, b = await net.node(1), await net.node(2)
    for number in range(HALF_OPEN_MAX + 30):
        net.transmit((f"10.1.0.{number}", 5), a.carrier.address, initial(number + 10))
    await trio.sleep(0.5)
    assert a.open == HALF_OPEN_MAX
    assert a.carrier.counters.endpoint.refused == 30
    await trio.sleep(6)
    assert a.open == 0
    b.dial(a)
    await trio.sleep(1)
    assert a.links == 1


@in_virtual_time
async def test_one_public_address_may_knock_only_so_often(net: Net) -> None:
    a = await net.node(1)
    assert ip_address("5.6.7.8").is_global
    for number in range(HANDSHAKES_BURST + 5):
        net.transmit(("5.6.7.8", 1000 + number), a.carrier.address, initial(number + 10))
    await trio.sleep(0.5)
    assert a.open == min(HANDSHAKES_BURST, IPV4_CONNECTIONS_MAX[32])
    assert a.carrier.counters.endpoint.refused == 5


@in_virtual_time
async def test_one_public_network_has_only_so_many_connections(net: Net) -> None:
    a = await net.node(1)
    for number in range(40):
        net.transmit((f"5.6.7.{number}", 1000), a.carrier.address, initial(number + 10))
    await trio.sleep(0.5)
    assert a.open == IPV4_CONNECTIONS_MAX[24]
