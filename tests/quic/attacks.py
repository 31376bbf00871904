"""What a hostile peer or stranger can do to a node, by the ids of security/test-catalogue.md.

Each attack is a function that never returns. Attackers dial again whenever they are cut off.

Rates: each attack fills the limit that it is about within seconds, and then goes on. More would
cost processor time, of the attacker's most of all, and show nothing else: what grows with each
datagram is 100 B of it to be seen, for ten minutes bring 60,000 and more.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from itertools import count
from typing import Any

import trio
from aioquic._buffer import Buffer
from aioquic.quic.connection import QuicConnection
from aioquic.quic.packet import QuicPacketType
from aioquic.quic.packet_builder import QuicPacketBuilder
from aioquic.tls import Epoch

from p2pstream.core import Happening, Parcel
from p2pstream.identity import NodeId, NodeKey
from p2pstream.net import tls
from p2pstream.net.engine import INCOMING_PARCELS_MAX, PARCEL_WINDOW_BYTES, Engine
from tests.quic.virtual import Net, Node

TICK_S = 0.02  # 30,000 times in ten minutes.
Attack = Callable[[Net, Node], Awaitable[None]]
ATTACKER_IP = "5.6.7.8"  # Not private: the limits by address hold.


class Raw(Engine):
    """Says in its packets whatever it is told to. quiet: it acknowledges nothing."""

    quiet = False

    def say(self, payload: bytes, now: float) -> bytes:
        """A datagram with one packet of these frames, the first of a type below 64."""
        builder = QuicPacketBuilder(
            host_cid=self.host_cid,
            is_client=self._is_client,
            max_datagram_size=1400,
            packet_number=self._packet_number,
            peer_cid=self._peer_cid.cid,
            version=1,
        )
        builder.start_packet(QuicPacketType.ONE_RTT, self._cryptos[Epoch.ONE_RTT])
        builder.start_frame(payload[0]).push_bytes(payload[1:])
        packet: Any = builder._packet
        packet.in_flight = packet.is_ack_eliciting = False
        path, cid = self._network_paths[0], self._peer_cid.cid
        ((data, _),) = self._flush_builder(builder, path, cid, now)
        return data

    def _write_ack_frame(self, builder: Any, space: Any, now: float) -> None:
        if self.quiet:
            space.ack_at = None
        else:
            super()._write_ack_frame(builder, space, now)


class Quiet(Raw):
    quiet = True


class Optimist(Raw):
    """Acknowledges what has not come, and guesses a little ahead."""

    def _write_ack_frame(self, builder: Any, space: Any, now: float) -> None:
        if space.is_application_data:
            space.ack_queue.add(0, space.largest_received_packet + 2)
        super()._write_ack_frame(builder, space, now)


class Miser(Raw):
    """Gives no credit."""

    def _write_connection_limits(self, *_args: Any, **_named: Any) -> None:
        pass

    def _write_stream_limits(self, *_args: Any, **_named: Any) -> None:
        pass


def numbers(*values: int, data: bytes = b"") -> bytes:
    """A frame."""
    buf = Buffer(capacity=64)
    for value in values:
        buf.push_uint_var(value)
    return buf.data + data


def by_packets(engine: type[Raw], make: Callable[[Any, int], list[bytes]]) -> Attack:
    """An attack by a linked peer: `make` gives the payloads of each tick since the link came up."""

    async def attack(net: Net, victim: Node) -> None:
        node = await net.node(77, ip=ATTACKER_IP, engine=engine)
        born = -1
        for tick in count():
            node.heard.clear()
            link = node.carrier._links.get(victim.id)
            if link is not None and node.id not in victim.carrier._links:
                node.hang_up(victim)  # With S-10's many ids it does not hear that it was cut off.
            elif link is None or link.closed:
                born = -1
                node.dial(victim)
            else:
                born = tick if born < 0 else born
                now = trio.current_time()
                for payload in make(link._engine, tick - born):
                    data = link._engine.say(payload, now)  # type: ignore[attr-defined]
                    net.transmit(node.carrier.address, victim.carrier.address, data)
                node.carrier._endpoint.touch(link)
            await trio.sleep(TICK_S)

    return attack


def by_datagrams(make: Callable[[int], list[tuple[tuple[str, int], bytes]]]) -> Attack:
    """An attack by strangers: `make` gives what arrives in each tick, and from where."""

    async def attack(net: Net, victim: Node) -> None:
        for tick in count():
            for source, data in make(tick):
                net.transmit(source, victim.carrier.address, data)
            await trio.sleep(TICK_S)

    return attack


def as_child(engine: type[Raw]) -> Attack:
    """An attack by a peer that is sent the stream, as honest children are."""
    idle = by_packets(engine, lambda _engine, _tick: [])

    async def attack(net: Net, victim: Node) -> None:
        forward = victim.on_heard
        attacker = Node(77)

        def also(peer: NodeId, what: Happening) -> None:
            forward(peer, what)
            if isinstance(what, Parcel):
                victim.send(attacker, what, trio.current_time() + 2)

        victim.on_heard = also
        await idle(net, victim)

    return attack


def initials(amount: int, engine: type[QuicConnection] = QuicConnection) -> list[bytes]:
    """First datagrams of so many clients."""
    out = []
    for number in range(amount):
        config = tls.configuration(NodeKey((number + 1).to_bytes(32)), dialling=True)
        connection = engine(configuration=config)
        connection.connect(("10.0.0.1", 1), now=0.0)
        out.append(connection.datagrams_to_send(0.0)[0][0])
    return out


class LongTalker(QuicConnection):
    """Its ClientHello claims to be of 16 MiB."""

    def _push_crypto_data(self) -> None:
        self._crypto_streams[Epoch.INITIAL].sender.write(b"\x01\xff\xff\xf0" + bytes(900))


def _flood() -> Attack:
    """200 a second, of 120,000 addresses in ten minutes; 3 fill the half-open connections."""
    datagrams = initials(60)
    return by_datagrams(
        lambda tick: [
            ((f"9.{n % 100}.{tick // 250 % 250}.{tick % 250}", 9), datagrams[(tick * 4 + n) % 60])
            for n in range(4)
        ]
    )


def _long_tls() -> Attack:
    """100 a second."""
    datagrams = initials(30, LongTalker)
    junk = b"\xe0\x00\x00\x00\x01" + bytes(250)
    return by_datagrams(
        lambda tick: [
            ((f"8.{tick // 250 % 250}.{tick % 250}.1", 8), datagrams[tick % 30]),
            ((f"8.{tick // 250 % 250}.{tick % 250}.2", 8), datagrams[tick * 7 % 30][:1200] + junk),
        ]
    )


def _trickle() -> Attack:
    """As many as may be half open, each with a packet in 4 s."""
    datagrams = initials(64)
    every = int(4 / TICK_S)
    return by_datagrams(
        lambda tick: [
            ((f"7.{n}.1.1", 7), datagrams[n]) for n in range(64) if tick % every == n % every
        ]
    )


def _sparse(_engine: Any, tick: int) -> list[bytes]:
    """One byte far away, on each of all streams, ever nearer."""
    if tick > 200:
        return []
    return [
        numbers(0x0E, 2 + 4 * n, PARCEL_WINDOW_BYTES - 1 - 2 * tick, 1, data=b"x")
        for n in range(tick % 8, INCOMING_PARCELS_MAX, 8)
    ]


def _challenges(_engine: Any, tick: int) -> list[bytes]:
    """15,000 a second; the catalogue has 10^5 in all."""
    one = b"".join(b"\x1a" + (tick * 100 + n).to_bytes(8) for n in range(100))
    return [one] * 3


def _every_other(engine: Any, _tick: int) -> list[bytes]:
    """150 a second: the catalogue's 10^4 ranges in a minute."""
    out = []
    for _ in range(3):
        engine._packet_number += 2
        out.append(b"\x01" + bytes(20))
    return out


def _new_ids(_engine: Any, tick: int) -> list[bytes]:
    """250 a second; 8 may be active."""
    return [
        numbers(0x18, n, n - 1, 8, data=n.to_bytes(8) + bytes(16))
        for n in range(10 + 5 * tick, 15 + 5 * tick)
    ]


def _stream_abuse(_engine: Any, tick: int) -> list[bytes]:
    """All streams that there may be, each in a second or so."""
    stream = 2 + 4 * (tick % INCOMING_PARCELS_MAX)
    return [
        numbers(0x0A, stream, 3, data=b"abc"),
        numbers(0x05, 3, 1) * 2,
        numbers(0x04, stream, 7, 100),
        numbers(0x0E, stream, 3, 4, data=b"more"),
        numbers(0x0B, stream, 3, data=b"end") if tick % 40 == 39 else b"\x01" + bytes(20),
    ]


def _slow_streams(_engine: Any, tick: int) -> list[bytes]:
    """A byte on each stream every 10 s, as in the catalogue."""
    if tick % int(10 / TICK_S):
        return []
    round_ = tick // int(10 / TICK_S)
    return [numbers(0x0E, 2 + 4 * n, round_, 1, data=b"x") for n in range(INCOMING_PARCELS_MAX)]


ATTACKS: dict[str, Callable[[], Attack]] = {
    "s01": _flood,
    "s05": lambda: as_child(Optimist),
    "s06": lambda: by_packets(Raw, _sparse),
    "s07": _long_tls,
    "s08": lambda: by_packets(Quiet, _challenges),
    "s09": lambda: by_packets(Raw, _every_other),
    "s10": lambda: by_packets(Raw, _new_ids),
    "s11": lambda: by_packets(Raw, _stream_abuse),
    "s12": lambda: by_packets(Raw, _slow_streams),
    "s13": lambda: as_child(Miser),
    "s14": _trickle,
}
