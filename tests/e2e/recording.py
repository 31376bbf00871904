"""What is in a recording, and whether the broadcaster signed it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from itertools import pairwise

from p2pstream.stream.chunk import pieces_of
from p2pstream.stream.merkle import Tree
from tests.e2e.stage import Actor, wait_until


@dataclass(frozen=True)
class Found:
    """seqs: of its chunks, in the order of the file."""

    seqs: list[int]
    inits: int

    @property
    def gaps(self) -> int:
        """Chunks that are missing between its first and its last."""
        return sum(b - a - 1 for a, b in pairwise(self.seqs))


def boxes(data: bytes) -> Iterator[tuple[str, bytes]]:
    """The boxes of an ISO file one after the other. Fails on one that is not whole."""
    at = 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 4])
        kind = data[at + 4 : at + 8].decode("ascii")
        assert size >= 8, f"a {kind} box of {size} bytes"
        assert at + size <= len(data), f"half a {kind} box at the end"
        yield kind, data[at : at + size]
        at += size


def parts(data: bytes) -> Iterator[tuple[str, bytes]]:
    """A recording as the inits (ftyp + moov) and chunks (moof + mdat) that it is made of."""
    found = list(boxes(data))
    kinds = [kind for kind, _ in found]
    assert not len(found) % 2
    for (first, a), (second, b) in zip(found[::2], found[1::2], strict=True):
        assert (first, second) in {("ftyp", "moov"), ("moof", "mdat")}, kinds
        yield "init" if first == "ftyp" else "chunk", a + b


def check(data: bytes, witness: Actor) -> Found:
    """Fails on the first byte that the broadcaster did not sign, and on a chunk out of order."""
    chunks = [part for kind, part in parts(data) if kind == "chunk"]
    inits = [part for kind, part in parts(data) if kind == "init"]
    assert next(parts(data))[0] == "init"
    # The witness looks up four times a second: what was recorded last may be news to it.
    wait_until(lambda: _root(chunks[-1]) in _signed(witness), "the last chunk is not signed")
    signed = _signed(witness)
    seqs = []
    for number, chunk in enumerate(chunks):
        assert _root(chunk) in signed, f"chunk {number} of {len(chunks)} was not signed"
        seq, size = signed[_root(chunk)]
        assert len(chunk) == size
        seqs.append(seq)
    assert seqs == sorted(set(seqs)), "something was recorded twice, or too late"
    known = {line.said["sha256"] for line in witness.said("init")}
    assert {sha256(init).hexdigest() for init in inits} <= known
    return Found(seqs, len(inits))


def _root(chunk: bytes) -> str:
    return Tree(pieces_of(chunk)).root.hex()


def _signed(witness: Actor) -> dict[str, tuple[int, int]]:
    """Merkle root -> (seq, size) of every chunk that a verified head names."""
    return {
        root: (line.said["seq"], size)
        for line in witness.said("head")
        for _, size, root in line.said["parts"]
    }
