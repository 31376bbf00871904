"""The broadcaster's pen: turns each group of chunks into a signed head and proven pieces."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from p2pstream.identity import StreamKey
from p2pstream.stream import head as heads
from p2pstream.stream.chunk import pieces_of
from p2pstream.stream.epoch import Epoch
from p2pstream.stream.head import Head, Part
from p2pstream.stream.merkle import Tree
from p2pstream.stream.window import Piece


@dataclass(frozen=True, slots=True)
class Signed:
    """A head and, by rendition, the pieces under it."""

    head: Head
    pieces: dict[int, list[Piece]]


class Chunker:
    """Signs one head after another. Never signs two heads for one seq."""

    def __init__(self, key: StreamKey, epoch: Epoch, *, first_seq: int) -> None:
        self._key = key
        self._epoch = epoch
        self._seq = first_seq
        self._previous = heads.NO_HEAD

    def renew(self, key: StreamKey, epoch: Epoch) -> None:
        """Go on under a new epoch certificate; the chain of heads continues."""
        assert epoch.number > self._epoch.number, "epochs only go up"
        self._key, self._epoch = key, epoch

    def sign(
        self,
        chunks: Mapping[int, tuple[bytes, bytes]],
        *,
        captured_ms: int,
        pts: int,
        duration: int,
        flags: int,
    ) -> Signed:
        """Sign one group. chunks: rendition -> (hash of its init, moof + mdat). Times: ticks."""
        parts, pieces = [], {}
        for rendition, (init, data) in chunks.items():
            cut = pieces_of(data)
            tree = Tree(cut)
            parts.append(Part(rendition, init, len(data), tree.root))
            pieces[rendition] = [Piece(d, tree.proof(i)) for i, d in enumerate(cut)]
        head = heads.sign(
            self._key, self._epoch, seq=self._seq, previous=self._previous,
            captured_ms=captured_ms, pts=pts, duration=duration, flags=flags, parts=parts,
        )  # fmt: skip
        self._seq, self._previous = self._seq + 1, head.hash
        return Signed(head, pieces)

    def end(self, *, captured_ms: int, pts: int) -> Signed:
        """Sign the end of the stream."""
        return self.sign({}, captured_ms=captured_ms, pts=pts, duration=0, flags=heads.END)
