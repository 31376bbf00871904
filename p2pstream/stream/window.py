"""The last seconds of a stream: verified heads and verified pieces, and nothing else.

Invariant: whatever is in here was checked against a head, and the head against the epoch. A piece
that fails raises before it is stored, so nothing unverified can be announced, passed on or played.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import repeat

import msgspec

from p2pstream.errors import BadMessage, Misbehaviour
from p2pstream.stream.chunk import Chunk, piece_size
from p2pstream.stream.head import Head, Part
from p2pstream.stream.merkle import leaf_hash, proves

HEADS_MAX = 64  # security/architecture.md 5.5: 13 s of chunks of 200 ms.
BYTES_MAX = 64 * 1024 * 1024  # The same table.


class Piece(msgspec.Struct, frozen=True):
    """A verified piece, with what the next peer needs to verify it: its Merkle proof."""

    data: bytes
    proof: bytes


class _Slot:
    """A head and, by rendition: its pieces by index, and a bit mask of those that are not here."""

    __slots__ = ("bytes", "head", "lack", "pieces")

    def __init__(self, head: Head) -> None:
        self.head = head
        self.bytes = 0
        self.pieces: dict[int, dict[int, Piece]] = {}
        self.lack = dict(head.all_pieces)


class Window:
    """Heads and pieces by `seq`, the oldest leaving first."""

    def __init__(self) -> None:
        self._slots: dict[int, _Slot] = {}
        self._have: dict[int, dict[int, int]] = {}  # By rendition and seq: what is here, as bits.
        self.bytes = 0
        self.newest = -1  # The live edge as far as we have its head; -1 of nothing.
        self._newest_key = -1

    def __contains__(self, seq: int) -> bool:
        return seq in self._slots

    def __iter__(self) -> Iterator[int]:
        """The seqs whose heads we have, in order."""
        return iter(sorted(self._slots))

    @property
    def oldest_allowed(self) -> int:
        """Heads before this seq would leave at once."""
        return self.newest - HEADS_MAX + 1

    def head(self, seq: int) -> Head | None:
        slot = self._slots.get(seq)
        return slot.head if slot else None

    def add_head(self, head: Head) -> bool:
        """Keep a verified head; False when it is too old or already here.

        Raises `Misbehaviour` for a second head at one place.
        """
        known = self._slots.get(head.seq)
        if known is not None:
            if known.head.hash != head.hash:
                raise Misbehaviour(f"two heads for seq {head.seq}: the broadcaster forked")
            return False
        if head.seq < self.oldest_allowed:
            return False
        self._slots[head.seq] = _Slot(head)
        self.newest = max(self.newest, head.seq)
        if head.key:
            self._newest_key = max(self._newest_key, head.seq)
        self._evict()
        return True

    def add_piece(self, seq: int, rendition: int, index: int, data: bytes, proof: bytes) -> bool:
        """Check a piece and keep it; False when it is already here.

        Raises `Misbehaviour` when it does not fit the head: the sender is guilty, since everybody
        checks before passing on. Raises `BadMessage` for a seq whose head we do not have.
        """
        slot = self._slots.get(seq)
        if slot is None:
            raise BadMessage(f"piece of seq {seq}, whose head is not here")
        part = slot.head.part(rendition)
        if part is None or index >= part.pieces:
            raise Misbehaviour("piece of a chunk that the head does not name")
        pieces = slot.pieces.get(rendition)
        if pieces is None:
            pieces = slot.pieces[rendition] = {}
        if index in pieces:
            if pieces[index].data != data:
                raise Misbehaviour(f"piece {seq}/{rendition}/{index} differs from the proven one")
            return False
        if len(data) != piece_size(part.size, index) or not proves(
            part.root, index, part.pieces, leaf_hash(data), proof
        ):
            raise Misbehaviour(f"piece {seq}/{rendition}/{index} does not match its head")
        pieces[index] = Piece(data, proof)
        have = self._have.setdefault(rendition, {})
        have[seq] = have.get(seq, 0) | 1 << index
        slot.lack[rendition] &= ~(1 << index)
        slot.bytes += len(data)
        self.bytes += len(data)
        if self.bytes > BYTES_MAX:
            self._evict()
        return True

    def piece(self, seq: int, rendition: int, index: int) -> Piece | None:
        slot = self._slots.get(seq)
        return slot.pieces.get(rendition, {}).get(index) if slot else None

    def have(self, seq: int, rendition: int) -> int:
        """The pieces we hold of a chunk, as a bit mask (bit i: piece i)."""
        have = self._have.get(rendition)
        return have.get(seq, 0) if have else 0

    def held(self, rendition: int, base: int) -> list[int]:
        """As `have`, for each seq from `base` to the newest."""
        seqs, have = range(base, self.newest + 1), self._have.get(rendition, {})
        return list(map(have.get, seqs, repeat(0)))

    def missing(self, seq: int, rendition: int) -> int:
        """The pieces we lack of a chunk whose head we have, as a bit mask; all (-1) without it."""
        slot = self._slots.get(seq)
        return slot.lack.get(rendition, 0) if slot else -1

    def gaps(self, rendition: int, seqs: range) -> list[tuple[int, int]]:
        """Those of `seqs` of which anything is missing, with what `missing` says."""
        slots = self._slots
        return [
            (seq, lack)
            for seq in seqs
            if (lack := slots[seq].lack.get(rendition, 0) if seq in slots else -1)
        ]

    def complete(self, seq: int, rendition: int) -> Part | None:
        """What the head says of a chunk, when every piece of it is here."""
        slot = self._slots.get(seq)
        if slot is None or slot.lack.get(rendition) != 0:
            return None
        return slot.head.part(rendition)

    def chunk(self, seq: int, rendition: int) -> Chunk | None:
        """The whole chunk, when every piece of it is here."""
        part = self.complete(seq, rendition)
        if part is None:
            return None
        slot = self._slots[seq]
        head, pieces = slot.head, slot.pieces[rendition]
        return Chunk(
            seq, rendition, part.init, head.pts, head.duration, head.captured_ms,
            head.key, head.discontinuity,
            tuple([pieces[index].data for index in range(part.pieces)]),
        )  # fmt: skip

    def newest_key(self) -> int:
        """The newest seq at which decoding can start; -1 when none is known."""
        return self._newest_key if self._newest_key in self._slots else -1

    def _evict(self) -> None:
        while len(self._slots) > HEADS_MAX or self.bytes > BYTES_MAX:
            seq = min(self._slots)
            self.bytes -= self._slots.pop(seq).bytes
            for have in self._have.values():
                have.pop(seq, None)
