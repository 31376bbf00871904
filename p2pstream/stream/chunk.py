"""A chunk: one rendition's media for one `seq`, about 200 ms. The unit of playing.

Cut into pieces of 16 KiB, the unit of transfer and of verification. All media times are in ticks
of 1/90000 s (MPEG's clock), so that frames of every common rate last a whole number of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

TICKS_PER_S = 90_000  # ISO/IEC 13818-1: the clock of MPEG-2 systems.
PIECE_BYTES = 16 * 1024  # design/protocol.md: small enough for latency, large for the fast path.
PIECES_MAX = 256  # Of one chunk: 4 MiB, 160 Mbit/s at 200 ms. Bounds a bit map to 32 bytes.
CHUNK_BYTES_MAX = PIECE_BYTES * PIECES_MAX
RENDITIONS_MAX = 8  # security/architecture.md 5.5.
INIT_BYTES_MAX = 8 * 1024  # Measured: 1.3 KB with H.264 and AAC; room for longer parameter sets.
HASH_BYTES = 16  # Of an init: only its author could profit from a collision.


@dataclass(frozen=True, slots=True)
class Init:
    """How to decode one rendition: what an HLS EXT-X-MAP points to, and what people see of it.

    data: ISO BMFF ftyp + moov. codecs: RFC 6381. bitrate: bits per second, audio included.
    """

    rendition: int
    name: str
    width: int
    height: int
    bitrate: int
    codecs: str
    data: bytes


class Chunk(msgspec.Struct, frozen=True):
    """Verified media, ready to be played.

    init: hash of the `Init` it is decoded with. pts, duration: ticks. captured_ms: wall clock of
    the first frame's capture at the broadcaster, Unix milliseconds. pieces: its `data`, which is
    moof + mdat with one video track (1) and at most one audio track (2). Pieces, because these are
    in the window anyway: nothing is copied until somebody reads.
    """

    seq: int
    rendition: int
    init: bytes
    pts: int
    duration: int
    captured_ms: int
    key: bool
    discontinuity: bool
    pieces: tuple[bytes, ...]

    @property
    def data(self) -> bytes:
        """All of it."""
        return b"".join(self.pieces)

    @property
    def size(self) -> int:
        """Of `data`, in bytes."""
        return sum(map(len, self.pieces))

    @property
    def seconds(self) -> float:
        return self.duration / TICKS_PER_S


def pieces_of(data: bytes) -> list[bytes]:
    """`data` in pieces of `PIECE_BYTES`, the last one shorter; none of nothing."""
    return [data[at : at + PIECE_BYTES] for at in range(0, len(data), PIECE_BYTES)]


def piece_count(size: int) -> int:
    """How many pieces a chunk of `size` bytes has."""
    return -(-size // PIECE_BYTES)


def piece_size(size: int, index: int) -> int:
    """How many bytes piece `index` of a chunk of `size` bytes has."""
    left = size - index * PIECE_BYTES
    return left if left < PIECE_BYTES else PIECE_BYTES
