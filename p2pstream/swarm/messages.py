"""What partners say to each other about one stream (docs/wire.md, part 6).

Every message names its stream, since one connection may serve several. Bit masks of pieces are
little-endian bytes without trailing zeros (bit i: piece i), so each set has one encoding.
"""

from __future__ import annotations

from enum import IntEnum
from functools import lru_cache
from typing import Annotated

from msgspec import Meta

from p2pstream.errors import BadMessage
from p2pstream.stream.chunk import PIECES_MAX
from p2pstream.stream.epoch import CERTIFICATE_BYTES_MAX
from p2pstream.stream.head import HEAD_BYTES_MAX
from p2pstream.stream.merkle import HASH_BYTES, PROOF_HASHES_MAX
from p2pstream.wire.codec import U8, U16, U53, Digest, Message

SUBSTREAMS = 4  # K of New CoolStreaming; 4..16 are sensible, few suit chunks of few pieces.
NO_HOPS = 255  # In `Map.hops`: we have no parent for that substream.
SHORT_ID_BYTES = 4

Mask = Annotated[bytes, Meta(max_length=PIECES_MAX // 8)]
Masks = Annotated[tuple[tuple[U53, Mask], ...], Meta(max_length=64)]
Head = Annotated[bytes, Meta(max_length=HEAD_BYTES_MAX)]
Reason = Annotated[str, Meta(max_length=64)]
Rendition = Annotated[int, Meta(ge=0, le=63)]
InitHash = Annotated[bytes, Meta(min_length=16, max_length=16)]
PeerAddress = tuple[Digest, Annotated[str, Meta(max_length=45)], U16]


class Role(IntEnum):
    """What a peer says it is. A claim: it steers politeness, never trust."""

    ORIGIN = 0
    SEED = 1
    VIEWER = 2


# By names of their own, as in `dht.lookup`: a member of a class takes ten times as long to find.
ORIGIN, SEED, VIEWER = Role


class Join(Message, frozen=True, tag=32):
    """I trade in this stream; both sides say it once.

    certificate: the newest epoch certificate I know, or nothing. head: the newest head, likewise.
    """

    stream: Digest
    role: Annotated[int, Meta(ge=0, le=2)]
    certificate: Annotated[bytes, Meta(max_length=CERTIFICATE_BYTES_MAX)]
    head: Head


class Map(Message, frozen=True, tag=33):
    """All pieces I hold of one rendition: `masks[n]` is for seq `base + n`.

    key: the newest seq that I know to be a key frame. hops: for each substream how many hops I am
    from the broadcaster, NO_HOPS without a parent. parents: for each substream the start of my
    parent's id, or nothing. slots: to how many more I can push each substream.
    """

    stream: Digest
    rendition: Rendition
    base: U53
    masks: Annotated[tuple[Mask, ...], Meta(max_length=64)]
    key: U53
    hops: Annotated[bytes, Meta(min_length=SUBSTREAMS, max_length=SUBSTREAMS)]
    parents: Annotated[
        tuple[Annotated[bytes, Meta(max_length=SHORT_ID_BYTES)], ...],
        Meta(min_length=SUBSTREAMS, max_length=SUBSTREAMS),
    ]
    slots: Annotated[bytes, Meta(min_length=SUBSTREAMS, max_length=SUBSTREAMS)]


class Subscribe(Message, frozen=True, tag=35):
    """Push me these substreams (bit s: substream s) of a rendition from `since` on; none: stop."""

    stream: Digest
    rendition: Rendition
    substreams: U16
    since: U53


class Refuse(Message, frozen=True, tag=36):
    """I do not push you these substreams, or no longer."""

    stream: Digest
    rendition: Rendition
    substreams: U16


class Want(Message, frozen=True, tag=37):
    """Send me these pieces now. heads: I lack their heads too."""

    stream: Digest
    rendition: Rendition
    items: Masks
    heads: bool


class Lack(Message, frozen=True, tag=38):
    """I cannot send these pieces: ask somebody else."""

    stream: Digest
    rendition: Rendition
    items: Masks


class Peers(Message, frozen=True, tag=39):
    """Other nodes that trade in this stream."""

    stream: Digest
    peers: Annotated[tuple[PeerAddress, ...], Meta(max_length=16)]


class Leave(Message, frozen=True, tag=40):
    """I do not trade in this stream with you (any more)."""

    stream: Digest
    reason: Reason


class WantInit(Message, frozen=True, tag=41):
    """Send me the init with this hash."""

    stream: Digest
    hash: InitHash


class InitFile(Message, frozen=True, tag=42):
    """A packed init (stream/manifest.py)."""

    stream: Digest
    packed: Annotated[bytes, Meta(max_length=12 * 1024)]


class Piece(Message, frozen=True, tag=43):
    """The header of a parcel whose body is one piece.

    hops: how far from the broadcaster the sender is (0: is the broadcaster). head: the seq's head,
    or nothing when the receiver has it. proof: the Merkle proof, concatenated.
    """

    stream: Digest
    seq: U53
    rendition: Rendition
    index: U8
    hops: U8
    head: Head
    proof: Annotated[bytes, Meta(max_length=HASH_BYTES * PROOF_HASHES_MAX)]


SWARM_MESSAGES: tuple[type[Message], ...] = (
    Join, Map, Subscribe, Refuse, Want, Lack, Peers, Leave, WantInit, InitFile, Piece,
)  # fmt: skip


MASKS_CACHED = 4096  # The same few come again and again: of whole chunks, and of few pieces.
MAPS_CACHED = 256  # Likewise: most maps are of some whole chunks. Of liars' masks 2 MiB each way.


@lru_cache(MASKS_CACHED)
def pack_mask(mask: int) -> bytes:
    """Little-endian, without trailing zeros."""
    return mask.to_bytes((mask.bit_length() + 7) // 8, "little")


@lru_cache(MASKS_CACHED)
def unpack_mask(data: bytes) -> int:
    """Raises `BadMessage` for a mask with trailing zeros."""
    if data and not data[-1]:
        raise BadMessage("non_canonical: a bit mask with trailing zeros")
    return int.from_bytes(data, "little")


@lru_cache(MAPS_CACHED)
def pack_masks(masks: tuple[int, ...]) -> tuple[bytes, ...]:
    """Several, as `pack_mask` packs one."""
    return tuple(map(pack_mask, masks))


@lru_cache(MAPS_CACHED)
def unpack_masks(data: tuple[bytes, ...]) -> tuple[int, ...]:
    """Several, as `unpack_mask` unpacks one. Raises `BadMessage` as it does."""
    return tuple(map(unpack_mask, data))


def bits(mask: int) -> list[int]:
    """The numbers of the bits that are set, lowest first."""
    return [index for index in range(mask.bit_length()) if mask >> index & 1]


def substream_of(seq: int, index: int) -> int:
    """Which substream carries a piece.

    By seq and index, not by index alone as in the papers: a chunk of 200 ms often has fewer pieces
    than there are substreams, and then the same few parents would carry everything.
    """
    return (seq + index) % SUBSTREAMS
