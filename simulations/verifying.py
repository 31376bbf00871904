"""Signatures and pieces are checked by every node, but the same bytes only once in a process.

A thousand nodes in one process check the same head a thousand times. Whether (key, signature,
message) is true does not depend on who asks, so the first answer serves all: only true ones are
kept, and a node that asks is counted whether the answer was known or not. The same goes for the
hash of a piece, and for what proofs have shown of the tree under a root; each node still looks up
whether its piece and its proof are of what was shown.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache

from p2pstream.identity import PublicKey
from p2pstream.stream import merkle, window

REMEMBERED = 20_000
PIECES_REMEMBERED = 4096  # Their hashes: of a minute of 3 Mbit/s.
TREES_REMEMBERED = 512  # Of as many renditions of chunks: eight of each chunk in a window.


@dataclass(slots=True)
class Verified:
    """asked: how often a node checked something. made: how often that took a computation."""

    asked: int = 0
    made: int = 0
    true: dict[tuple[bytes, bytes, bytes], None] = field(default_factory=dict)


@contextmanager
def shared_verification() -> Iterator[Verified]:
    """Within it `PublicKey.verify` remembers, and so do windows what they hashed and proved."""
    verify, known = PublicKey.verify, Verified()

    def remembering(self: PublicKey, signature: bytes, message: bytes) -> bool:
        known.asked += 1
        triple = self, signature, message
        if triple in known.true:
            return True
        known.made += 1
        true = verify(self, signature, message)
        if true:
            known.true[triple] = None
            if len(known.true) > REMEMBERED:
                del known.true[next(iter(known.true))]
        return true

    PublicKey.verify = remembering  # type: ignore[method-assign]
    window.leaf_hash = lru_cache(PIECES_REMEMBERED)(merkle.leaf_hash)  # type: ignore[attr-defined]
    window.Proven = lru_cache(TREES_REMEMBERED)(merkle.Proven)  # type: ignore[assignment, attr-defined]
    try:
        yield known
    finally:
        PublicKey.verify = verify  # type: ignore[method-assign]
        window.leaf_hash = merkle.leaf_hash  # type: ignore[attr-defined]
        window.Proven = merkle.Proven  # type: ignore[attr-defined]
