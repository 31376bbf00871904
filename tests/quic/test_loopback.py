"""Real sockets on loopback: what the virtual network cannot show."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable

import pytest
import trio

from p2pstream.core import LinkUp, Parcel
from p2pstream.errors import PortInUse
from p2pstream.net.udp import open_udp
from tests.quic.virtual import Node, Say, parcel

PATIENCE_S = 20  # For a machine that is very busy; the tests need milliseconds.


async def until(condition: Callable[[], object]) -> None:
    with trio.fail_after(PATIENCE_S):
        while not condition():  # noqa: ASYNC110  # Conditions here are of many kinds.
            await trio.sleep(0.005)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_two_carriers_on_real_sockets(nursery: trio.Nursery, host: str) -> None:
    a, b = Node(1, ip=host), Node(2, ip=host)
    await nursery.start(a.carrier.run)
    await nursery.start(b.carrier.run)
    a.dial(b)
    await until(lambda: a.links and b.links)
    assert a.of(LinkUp)[0].seen_as == a.carrier.address
    for number in range(100):
        a.send(b, parcel(number))
        b.send(a, Say(number))
    await until(lambda: len(b.of(Parcel)) == 100 and len(a.numbers) == 100)
    assert sorted(b.numbers) == list(range(100))
    a.carrier.close()
    await until(lambda: b.downs)
    assert b.downs == ["peer_bye"]


async def test_a_vanished_port_is_only_lost_packets(nursery: trio.Nursery) -> None:
    a, b = Node(1, ip="127.0.0.1"), Node(2, ip="127.0.0.1")
    await nursery.start(a.carrier.run)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    a.dial(b, ("127.0.0.1", port))
    await until(lambda: a.downs)
    assert a.downs == ["dial_timeout"]


async def test_a_busy_port_has_a_name_and_a_hint() -> None:
    first = await open_udp("127.0.0.1", 0)
    with pytest.raises(PortInUse, match=str(first.address[1])) as caught:
        await open_udp("127.0.0.1", first.address[1])
    assert caught.value.hint
    first.close()
    again = await open_udp("127.0.0.1", first_port := first_free())
    assert again.address[1] == first_port
    again.close()


async def test_a_datagram_too_long_is_counted() -> None:
    udp = await open_udp("127.0.0.1", 0)
    udp.send([(b"x" * 65_536, 65_536, udp.address)])
    udp.send([(b"x", 1, ("240.0.0.1", 9))])
    udp.send([(b"y", 1, udp.address)])
    assert list(await udp.receive(10)) == [(b"y", 1, udp.address)]
    assert udp.unsent >= 1
    udp.close()


async def test_a_host_that_is_not_ours_is_an_error() -> None:
    with pytest.raises(OSError, match="assign") as caught:
        await open_udp("192.0.2.1", 0)
    assert caught.value.errno == errno.EADDRNOTAVAIL


def first_free() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
