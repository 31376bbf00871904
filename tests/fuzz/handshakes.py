"""A peer that means to connect and says something else in TLS than it should: nothing may raise.

Both ends are real; what one of them writes into its CRYPTO streams is changed on the way into its
packets, which are then sealed as they ought to be. So each message of a handshake is met in its
place: hellos, transport parameters, certificates, signatures.
"""

from __future__ import annotations

import random

from p2pstream.net.engine import Engine
from p2pstream.net.fast import FastEngine
from p2pstream.net.link import HANDSHAKE_S
from tests.fuzz.bites import Bites
from tests.fuzz.pair import Pair

TURNS = 6


class Liar(Engine):
    """Changes what TLS wants to say, as `bites` say, flight by flight."""

    bites = Bites(b"")

    def _push_crypto_data(self) -> None:
        for buffer in self._crypto_buffers.values():
            if buffer.tell():
                said = changed(buffer.data, self.bites)
                buffer.seek(0)
                buffer.push_bytes(said[: buffer.capacity])
        super()._push_crypto_data()


def one(data: bytes) -> int:
    """The first byte says who lies."""
    bites = Bites(data)
    liar = bites.number() & 1
    Liar.bites = bites  # A caller says hello as soon as it is made.
    pair = Pair(FastEngine, Liar) if liar else Pair(Liar, FastEngine)
    pair.talk(TURNS)
    honest = pair.links[1 - liar]
    honest.wake(now=pair.now + HANDSHAKE_S)
    assert honest.up or honest.closed
    return max(1, pair.sent[liar])


def seeds() -> list[bytes]:
    """The truth, and lies in several places."""
    rng = random.Random(1)
    lies = [
        bytes([1, at, kind]) + rng.randbytes(9) for at in range(0, 256, 32) for kind in (0, 1, 2)
    ]
    return [bytes([end]) + lie for end in (0, 1) for lie in [b"", *lies]]


def changed(data: bytes, bites: Bites) -> bytes:
    """`data` with as many changes as the next byte says: other bytes, fewer or more of them."""
    for _ in range(bites.number() % 5):
        at = bites.number() * len(data) // 256 + bites.number() % 16
        kind, size = bites.number() % 3, bites.number() % 8
        new = bites.take(size) if kind else b""
        data = data[:at] + new + data[at + (size if kind < 2 else 0) :]
    return data
