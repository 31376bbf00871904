"""What the measuring processes send: the pieces of a stream, signed and with their proofs."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache
from time import time  # noqa: TID251  # Hands read the clock.

from p2pstream.bench.telling import Setup
from p2pstream.core import Parcel
from p2pstream.identity import StreamKey
from p2pstream.stream import head as heads
from p2pstream.stream.chunk import HASH_BYTES as INIT_HASH_BYTES
from p2pstream.stream.chunk import PIECE_BYTES, TICKS_PER_S
from p2pstream.stream.chunker import Chunker, Signed
from p2pstream.stream.epoch import Epoch, certify
from p2pstream.stream.head import Head
from p2pstream.swarm import messages as m

CHUNK_S = 0.2  # Of media, as the broadcaster cuts it.
BITS_PER_S = 6e6  # Of media, where it is sent as fast as it goes.
ROOT, SIGNER = StreamKey(b"root" * 8), StreamKey(b"sign" * 8)
STREAM = ROOT.stream_id


def pieces(setup: Setup) -> Callable[[int], Parcel]:
    """Pieces by number, chunk by chunk; the first of a chunk brings the head.

    Each chunk is signed as it is asked for, unless nobody is going to look at it.
    """
    count = per_chunk(setup)
    chunker = Chunker(SIGNER, epoch(), first_seq=2)  # The head of 0 is known: no fork.
    data = random.Random(1).randbytes(count * PIECE_BYTES)  # noqa: S311  # Not a secret.
    parcels: list[Parcel] = []

    def piece(number: int) -> Parcel:
        index = number % count
        if not index and (setup.whole or not parcels):
            signed = _signed(chunker, data)
            raw = signed.head.raw
            parcels[:] = [
                Parcel(
                    m.Piece(STREAM, signed.head.seq, 0, at, 0, raw if not at else b"",
                            one.proof),
                    one.data,
                )
                for at, one in enumerate(signed.pieces[0])
            ]  # fmt: skip
        return parcels[index]

    return piece


def per_chunk(setup: Setup) -> int:
    """How many pieces a chunk has."""
    return max(1, round((setup.bits_per_s or BITS_PER_S) / 8 * CHUNK_S / PIECE_BYTES))


def first_head(setup: Setup) -> Head:
    """The head of chunk 0, as long as the others: it tells the rate of the stream."""
    data = bytes(per_chunk(setup) * PIECE_BYTES)
    return _signed(Chunker(SIGNER, epoch(), first_seq=0), data).head


@cache
def epoch() -> Epoch:
    """The one of the stream."""
    now_ms = int(time() * 1000)
    return certify(ROOT, 1, SIGNER.public, now_ms=now_ms, bitrate_max=2**32 - 1, title="bench")


def _signed(chunker: Chunker, data: bytes) -> Signed:
    return chunker.sign(
        {0: (bytes(INIT_HASH_BYTES), data)},
        captured_ms=int(time() * 1000), pts=0, duration=TICKS_PER_S // 5, flags=heads.KEY,
    )  # fmt: skip
