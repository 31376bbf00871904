"""The last seconds of a stream: verified heads and verified pieces, and nothing else.

Invariant: whatever is in here was checked against a head, and the head against the epoch. A piece
that fails raises before it is stored, so nothing unverified can be announced, passed on or played.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterator
from itertools import repeat

import msgspec

from p2pstream.errors import BadMessage, Misbehaviour
from p2pstream.stream.chunk import Chunk, piece_size
from p2pstream.stream.head import Head, Part
from p2pstream.stream.merkle import Proven, leaf_hash

HEADS_MAX = 64  # security/architecture.md 5.5: 13 s of chunks of 200 ms.
BYTES_MAX = 64 * 1024 * 1024  # The same table.


class Piece(msgspec.Struct, frozen=True):
    """A verified piece, with what the next peer needs to verify it: its Merkle proof."""

    data: bytes
    proof: bytes


class _Chunk:
    """What is here of a chunk in one rendition: pieces by index, and which are missing, as bits."""

    __slots__ = ("bytes", "lack", "part", "pieces", "proven")

    def __init__(self, part: Part) -> None:
        self.part = part
        self.pieces: dict[int, Piece] = {}
        self.bytes = 0
        self.lack = (1 << part.pieces) - 1
        self.proven = Proven(part.root, part.pieces)


class Window:
    """Heads and pieces by `seq`, the oldest leaving first."""

    def __init__(self) -> None:
        self._heads: dict[int, Head] = {}
        self._seqs: list[int] = []  # Those, in order.
        self._chunks: dict[int, dict[int, _Chunk]] = {}  # By rendition and seq.
        self._have: dict[int, dict[int, int]] = {}  # Likewise: what is here, as bits.
        self._partial: dict[int, set[int]] = {}  # By rendition: seqs of which pieces are missing.
        self.bytes = 0
        self.newest = -1  # The live edge as far as we have its head; -1 of nothing.
        self.oldest_allowed = -HEADS_MAX  # Heads before this seq would leave at once.
        self._newest_key = -1

    def __contains__(self, seq: int) -> bool:
        return seq in self._heads

    def __len__(self) -> int:
        """How many heads are here."""
        return len(self._seqs)

    def __iter__(self) -> Iterator[int]:
        """The seqs whose heads we have, in order."""
        return iter(self._seqs[:])

    def head(self, seq: int) -> Head | None:
        return self._heads.get(seq)

    def add_head(self, head: Head) -> bool:
        """Keep a verified head; False when it is too old or already here.

        Raises `Misbehaviour` for a second head at one place.
        """
        seq, known = head.seq, self._heads.get(head.seq)
        if known is not None:
            if known.hash != head.hash:
                raise Misbehaviour(f"two heads for seq {seq}: the broadcaster forked")
            return False
        if seq < self.oldest_allowed:
            return False
        self._heads[seq] = head
        insort(self._seqs, seq)
        for part in head.parts:
            self._chunks.setdefault(part.rendition, {})[seq] = _Chunk(part)
            self._partial.setdefault(part.rendition, set()).add(seq)
        if seq > self.newest:
            self.newest, self.oldest_allowed = seq, seq - HEADS_MAX + 1
        if head.key:
            self._newest_key = max(self._newest_key, seq)
        self._evict()
        return True

    def add_piece(self, seq: int, rendition: int, index: int, data: bytes, proof: bytes) -> bool:
        """Check a piece and keep it; False when it is already here.

        Raises `Misbehaviour` when it does not fit the head: the sender is guilty, since everybody
        checks before passing on. Raises `BadMessage` for a seq whose head we do not have.
        """
        chunk = self._chunk(seq, rendition)
        if chunk is None and seq not in self._heads:
            raise BadMessage(f"piece of seq {seq}, whose head is not here")
        if chunk is None or index >= chunk.part.pieces:
            raise Misbehaviour("piece of a chunk that the head does not name")
        if not chunk.lack >> index & 1:
            if chunk.pieces[index].data != data:
                raise Misbehaviour(f"piece {seq}/{rendition}/{index} differs from the proven one")
            return False
        size = len(data)
        if size != piece_size(chunk.part.size, index) or not chunk.proven.shows(
            index, leaf_hash(data), proof
        ):
            raise Misbehaviour(f"piece {seq}/{rendition}/{index} does not match its head")
        chunk.pieces[index] = Piece(data, proof)
        chunk.lack ^= 1 << index
        if not chunk.lack:
            self._partial[rendition].discard(seq)
        have = self._have.setdefault(rendition, {})
        have[seq] = have.get(seq, 0) | 1 << index
        chunk.bytes += size
        self.bytes += size
        if self.bytes > BYTES_MAX:
            self._evict()
        return True

    def piece(self, seq: int, rendition: int, index: int) -> Piece | None:
        chunk = self._chunk(seq, rendition)
        return chunk.pieces.get(index) if chunk else None

    def have(self, seq: int, rendition: int) -> int:
        """The pieces we hold of a chunk, as a bit mask (bit i: piece i)."""
        have = self._have.get(rendition)
        return have.get(seq, 0) if have else 0

    def held(self, rendition: int, base: int) -> tuple[int, ...]:
        """As `have`, for each seq from `base` to the newest."""
        seqs, have = range(base, self.newest + 1), self._have.get(rendition, {})
        return tuple(map(have.get, seqs, repeat(0)))

    def missing(self, seq: int, rendition: int) -> int:
        """The pieces we lack of a chunk whose head we have, as a bit mask; all (-1) without it."""
        chunk = self._chunk(seq, rendition)
        return chunk.lack if chunk else 0 if seq in self._heads else -1

    def gaps(self, rendition: int, seqs: range) -> list[tuple[int, int]]:
        """Those of `seqs` of which anything is missing, with what `missing` says."""
        heads, chunks = self._heads, self._chunks.get(rendition, {})
        return [
            (seq, lack)
            for seq in seqs
            if (lack := chunks[seq].lack if seq in chunks else 0 if seq in heads else -1)
        ]

    def whole(self, rendition: int, first: int) -> bool:
        """Whether there is no gap from `first` to the newest."""
        count = self.newest - first + 1
        if count > 0 and (count > len(self._seqs) or self._seqs[-count] != first):
            return False  # A head is missing.
        partial = self._partial.get(rendition)
        return not partial or max(partial) < first

    def complete(self, seq: int, rendition: int) -> Part | None:
        """What the head says of a chunk, when every piece of it is here."""
        chunks = self._chunks.get(rendition)  # Not `_chunk`: this is asked most often.
        chunk = chunks.get(seq) if chunks else None
        return chunk.part if chunk and not chunk.lack else None

    def chunk(self, seq: int, rendition: int) -> Chunk | None:
        """The whole chunk, when every piece of it is here."""
        part = self.complete(seq, rendition)
        if part is None:
            return None
        head, pieces = self._heads[seq], self._chunks[rendition][seq].pieces
        return Chunk(
            seq, rendition, part.init, head.pts, head.duration, head.captured_ms,
            head.key, head.discontinuity,
            tuple([pieces[index].data for index in range(part.pieces)]),
        )  # fmt: skip

    def newest_key(self) -> int:
        """The newest seq at which decoding can start; -1 when none is known."""
        return self._newest_key if self._newest_key in self._heads else -1

    def _chunk(self, seq: int, rendition: int) -> _Chunk | None:
        chunks = self._chunks.get(rendition)
        return chunks.get(seq) if chunks else None

    def _evict(self) -> None:
        while len(self._heads) > HEADS_MAX or self.bytes > BYTES_MAX:
            seq = self._seqs.pop(0)
            for part in self._heads.pop(seq).parts:
                self.bytes -= self._chunks[part.rendition].pop(seq).bytes
                self._partial[part.rendition].discard(seq)
                if part.rendition in self._have:
                    self._have[part.rendition].pop(seq, None)
