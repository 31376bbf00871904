"""Datagrams of nobody in particular, from the door on: nothing may raise, and little may stay.

Initial packets are sealed as they ought to be, for everybody can do that (RFC 9001 5.2); what is
in them is the fuzzer's, and so are all others.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache

from aioquic.quic.crypto import CryptoPair
from aioquic.tls import Epoch

from p2pstream.identity import Address, NodeKey
from p2pstream.net import tls
from p2pstream.net.doorman import HALF_OPEN_MAX, Doorman
from p2pstream.net.endpoint import (
    INITIAL_BYTES_MIN,
    OTHER_VERSIONS,
    Endpoint,
    EndpointCounters,
)
from p2pstream.net.fast import FastEngine
from p2pstream.net.frames import varint
from p2pstream.net.link import Link
from tests.fuzz.bites import Bites
from tests.fuzz.frames import frame
from tests.fuzz.handshakes import changed
from tests.wire.every import CODEC

KEY = NodeKey(b"s" * 32)
ADDRESSES = [("10.0.0.1", 1), ("5.6.7.8", 9), ("5.6.7.9", 9), ("2001:db8::1", 9), ("fe80::1%lo", 9)]
VERSIONS = [1, *sorted(OTHER_VERSIONS), 0, 0x5A5A5A5A]
STEPS_MAX = 64
V1 = b"\0\0\0\1"


def _client_hello() -> tuple[bytes, bytes]:
    """What an honest client begins with, and its connection id, which is in there."""
    engine = FastEngine(configuration=tls.configuration(NodeKey(b"c" * 32), dialling=True))
    engine.connect(("10.0.0.2", 2), now=0.0)
    return bytes(engine._crypto_streams[Epoch.INITIAL].sender._buffer), engine.host_cid


HELLO, SOURCE_CID = _client_hello()


class Nowhere:
    """A socket that takes everything."""

    unsent = 0

    def send(self, datagrams: list[tuple[bytes, Address]]) -> None:
        """So many of them."""


class Strict(Endpoint):
    """Does not survive what goes wrong."""

    def _crash(self, link: Link) -> None:
        del link
        raise  # noqa: PLE0704  # It is called where an exception is handled.


# One for all inputs, for its certificates cost as much as a short one.
ENDPOINT = Strict(
    KEY, CODEC, vet=lambda _link, _peer: None, report=lambda _link, _happening: None,
    settle=lambda _now: float("inf"), agent="fuzz", engine=FastEngine,
)  # fmt: skip


class Stage:
    """An endpoint without a socket, and nobody there."""

    def __init__(self) -> None:
        self.now = 1.0
        self.endpoint = ENDPOINT
        ENDPOINT.counters = EndpointCounters()
        ENDPOINT._doorman = Doorman()
        ENDPOINT._timers.clear()
        assert not ENDPOINT._links
        assert not ENDPOINT._by_cid

    def deliver(self, data: bytes, source: Address, size: int = 0) -> None:
        """One datagram, or a train of them, `size` bytes each."""
        self.endpoint._on_train(data, size or max(1, len(data)), source, self.now)
        self.turn()

    def turn(self) -> None:
        """As after each wake-up."""
        nowhere = Nowhere()
        self.endpoint._turn(nowhere, self.now)  # type: ignore[arg-type]  # All that is used of it.
        assert len(self.endpoint._links) <= HALF_OPEN_MAX


def one(data: bytes) -> int:
    """What some strangers send, one after the other."""
    bites, stage = Bites(data), Stage()
    steps = 0
    while bites and steps < STEPS_MAX:
        steps += 1
        bites.choose(STEPS)(stage, bites)
    stage.now += 100
    stage.turn()
    assert not stage.endpoint._links, "nobody came in, so nobody is there"
    return max(1, stage.endpoint.counters.datagrams_in)


def seeds() -> list[bytes]:
    """Each step, alone and among others."""
    rng = random.Random(1)
    alone = [bytes([verb]) + rng.randbytes(30) for verb in range(len(STEPS)) for _ in range(8)]
    honest = bytes([0, 0, 0, 0, 0, 0])
    return [honest, *alone, *(b"".join(rng.sample(alone, 20)) for _ in alone)]


def _initial(stage: Stage, bites: Bites) -> None:
    """RFC 9000 17.2.2, with a ClientHello that is changed or not, and other frames or none."""
    source, target = bites.choose(ADDRESSES), bites.number().to_bytes(8)
    token, number = bites.some() if bites.number() & 1 else b"", bites.number() & 15
    hello = changed(HELLO, bites)
    payload = b"\x06\0" + varint(len(hello)) + hello
    payload += b"".join(frame(bites, 2) for _ in range(bites.number() & 3))
    payload = payload[: INITIAL_BYTES_MIN + 100].ljust(INITIAL_BYTES_MIN - 60, b"\0")
    header = b"\xc1" + V1 + b"\x08" + target + bytes([len(SOURCE_CID)]) + SOURCE_CID
    header += varint(len(token)) + token + varint(len(payload) + 18) + number.to_bytes(2)
    packet = _keys(target).encrypt_packet(header, payload, number)
    stage.deliver((packet + bites.some()).ljust(INITIAL_BYTES_MIN, b"\0"), source)


@cache
def _keys(target: bytes) -> CryptoPair:
    """RFC 9001 5.2."""
    keys = CryptoPair()
    keys.setup_initial(cid=target, is_client=True, version=1)
    return keys


def _long(stage: Stage, bites: Bites) -> None:
    """A long header (RFC 9000 17.2) of any type and version."""
    source, first = bites.choose(ADDRESSES), 0x80 | bites.number()
    version, target = bites.choose(VERSIONS), bites.number()
    data = bytes([first]) + version.to_bytes(4)
    data += b"\x08" + target.to_bytes(8) if target & 1 else bytes([target]) + bites.take(target)
    data += bytes([bites.number() % 24]) + bites.some()
    stage.deliver(data.ljust(INITIAL_BYTES_MIN, b"\0"), source)


def _bytes(stage: Stage, bites: Bites) -> None:
    stage.deliver(bites.some(), bites.choose(ADDRESSES))


def _short(stage: Stage, bites: Bites) -> None:
    """Something to a connection that is there, perhaps from elsewhere; perhaps a train."""
    known = sorted(stage.endpoint._by_cid) or [bytes(8)]
    start = bytes([bites.number()]) + bites.choose(known)
    size = 20 + bites.number()
    data = (start + bites.take(size)).ljust(size, b"\0") * (1 + bites.number() % 4)
    stage.deliver(data, bites.choose(ADDRESSES), size)


def _time(stage: Stage, bites: Bites) -> None:
    stage.now += bites.number() ** 2 / 5000
    stage.turn()


# An Initial packet that opens a connection costs ten times what all others do.
STEPS: list[Callable[[Stage, Bites], None]] = [
    _initial, _initial, _long, _long, _bytes, _short, _short, _short, _time,
]  # fmt: skip
