"""Packets of a peer that has proven who it is, and whose keys we have: nothing may raise.

A link stands, with our fastest engine on one end. What the peer sends is the fuzzer's: frames,
sealed as they ought to be, joined to trains or alone, and bytes that are no packet at all. The
link under test meanwhile sends, wakes and is let to close.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from aioquic.quic.crypto import CryptoPair
from aioquic.tls import Epoch

from p2pstream.core import Happening, Parcel
from p2pstream.net.fast import FastEngine
from p2pstream.net.frames import varint
from p2pstream.net.link import Hello, Link
from tests.fuzz.bites import Bites
from tests.fuzz.frames import OURS, frame
from tests.fuzz.pair import ANSWERER, CALLER, Pair
from tests.fuzz.twins import Twins
from tests.wire.every import CODEC, EXAMPLES

STEPS_MAX = 256
PACKET_BYTES_MAX = 1400
HEADER = next(message for kind, message in EXAMPLES.items() if kind is not Hello)


def one(data: bytes) -> int:
    """The first byte says which end is under test, the others what happens to it."""
    bites = Bites(data)
    stage = Stage(bites.number() & 1)
    steps = 0
    while bites and steps < STEPS_MAX and not stage.link.closed:
        steps += 1
        bites.choose(STEPS)(stage, bites)
        stage.answer()
    return max(1, stage.datagrams)


def seeds() -> list[bytes]:
    """Each verb on each end, alone and among others."""
    rng = random.Random(1)
    alone = [bytes([verb]) + rng.randbytes(30) for verb in range(len(STEPS)) for _ in range(4)]
    mixed = [b"".join(rng.sample(alone, 40)) for _ in alone]
    return [bytes([end]) + one for end in (0, 1) for one in alone + mixed]


class Stage:
    """A link that is up, and the engine of its peer."""

    def __init__(self, end: int) -> None:
        pair = PAIRS[end]
        self.peer = pair.engines[1 - end]
        self.link: Link
        self.keys: CryptoPair
        self.link, self.keys = TWINS[end].one()
        self.engine: Any = self.link._engine
        self.now = pair.now
        self.datagrams = 0
        self.source = (ANSWERER, CALLER)[end]
        self._number = self.peer._packet_number
        self._streams = 2 | 1 - end  # RFC 9000 2.1: the low bits of those that the peer opens.

    def frame(self, bites: Bites) -> bytes:
        """One of the peer's."""
        return frame(bites, self._streams)

    def deliver(self, packets: list[bytes]) -> list[Happening]:
        """As one train, whose packets are as long as the first one; the last may be shorter."""
        self.datagrams += len(packets)
        size = max(1, len(packets[0]))
        return self.link.receive(b"".join(packets), self.source, size=size, now=self.now)

    def seal(self, payload: bytes) -> bytes:
        """A packet of the peer's next number (RFC 9000 17.3)."""
        number, self._number = self._number, self._number + 1
        first = 0x41 | self.keys.key_phase << 2
        header = bytes([first]) + self.peer._peer_cid.cid + (number & 0xFFFF).to_bytes(2)
        payload = payload[:PACKET_BYTES_MAX].ljust(4, b"\0")
        return self.keys.encrypt_packet(header, payload, number)

    def answer(self) -> None:
        """What the link has to say goes nowhere."""
        self.link.flush(now=self.now)


def _pair() -> Pair:
    pair = Pair(FastEngine, FastEngine)
    pair.talk(6)
    assert all(link.up for link in pair.links)
    for link in pair.links:
        for _ in range(OURS):
            link.send(Parcel(HEADER, bytes(2000)), expires_at=1e9)
        link.flush(now=pair.now)  # On its way.
    return pair


def _twins(pair: Pair, end: int) -> Twins:
    """Copies of that end's link and its peer's keys: a handshake would cost five times as much.

    Shared is what cannot be copied and does not change any more.
    """
    engine, peer = pair.engines[end], pair.engines[1 - end]
    keys = peer._cryptos[Epoch.ONE_RTT]
    contexts = [
        context
        for each in (keys, *engine._cryptos.values(), *engine._cryptos_initial.values())
        for context in (each.send, each.recv)
    ]
    ciphers = [part for context in contexts for part in (context.aead, context.hp) if part]
    shared = [peer, engine._configuration, pair.links[end]._codec, *ciphers]
    return Twins((pair.links[end], keys), shared)


PAIRS = _pair(), _pair()
TWINS = [_twins(pair, end) for end, pair in enumerate(PAIRS)]


def _frames(stage: Stage, bites: Bites) -> None:
    payload = b"".join(stage.frame(bites) for _ in range(1 + bites.number() % 4))
    stage.deliver([stage.seal(payload)])


def _train(stage: Stage, bites: Bites) -> None:
    """Packets of one length, as the kernel joins them."""
    payloads = [stage.frame(bites) for _ in range(1 + bites.number() % 8)]
    size = min(PACKET_BYTES_MAX, max(map(len, payloads)))
    stage.deliver([stage.seal(payload.ljust(size, b"\0")) for payload in payloads])


def _payload(stage: Stage, bites: Bites) -> None:
    stage.deliver([stage.seal(bites.some())])


def _bytes(stage: Stage, bites: Bites) -> None:
    """No packet, or one that nobody has sealed."""
    start = bites.choose([b"", b"\x40" + stage.engine.host_cid, b"\xc0\0\0\0\1"])
    stage.deliver([start + bites.some()])


def _stream(stage: Stage, bites: Bites) -> None:
    """In the right place of a stream, some of which makes sense: messages, parcels."""
    stream, offset = bites.number() & 31, bites.number() * bites.number()
    stream = stream << 2 | stage._streams if stream else 0
    data = bites.some() if bites.number() & 1 else CODEC.frame(HEADER) + bites.some()
    kind = 0x0E | bites.number() & 1
    payload = bytes([kind]) + varint(stream) + varint(offset) + varint(len(data)) + data
    stage.deliver([stage.seal(payload)])


def _time(stage: Stage, bites: Bites) -> None:
    stage.now += bites.number() ** 2 / 5000
    stage.link.wake(now=stage.now)


def _send(stage: Stage, bites: Bites) -> None:
    """Something to acknowledge, to lose or to stop."""
    body = bytes(bites.number() * 64)
    if stage.link.up:
        stage.link.send(Parcel(HEADER, body), expires_at=stage.now + bites.number() / 10)
        stage.link.send(HEADER, expires_at=stage.now + 1)


def _keys(stage: Stage, bites: Bites) -> None:
    """A key update of the peer's (RFC 9001 6), or one of ours."""
    (stage.keys if bites.number() & 1 else stage.engine._cryptos[Epoch.ONE_RTT]).update_key()
    stage.deliver([stage.seal(b"\1")])


STEPS: list[Callable[[Stage, Bites], None]] = [
    *[_frames, _frames, _frames, _train, _train, _stream, _stream, _stream, _bytes, _send] * 3,
    _send, _time, _time, _time, _time, _keys, _keys, _payload,
]  # fmt: skip
