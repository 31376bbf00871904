"""Merkle trees over the pieces of a chunk, as in RFC 6962 section 2.1 (SHA-256).

One root in a signed head proves every piece alone, so that a relay can check and pass on a piece
before it has the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

HASH_BYTES = 32
PROOF_HASHES_MAX = 8  # log2 of the most pieces a chunk may have (256).


def leaf_hash(data: bytes) -> bytes:
    """RFC 6962 section 2.1: of one piece, not to be taken for a node above."""
    hashed = sha256(b"\0")
    hashed.update(data)  # Joining them first would copy a piece.
    return hashed.digest()


class Tree:
    """The tree over `leaves`, level by level from the leaves up."""

    def __init__(self, leaves: Sequence[bytes]) -> None:
        level = [leaf_hash(leaf) for leaf in leaves]
        self._levels = [level]
        while len(level) > 1:
            pairs = [_node(*level[at : at + 2]) for at in range(0, len(level) - 1, 2)]
            # A node without a sibling moves up unchanged: the same tree as RFC 6962's recursion.
            level = pairs + level[len(level) & ~1 :]
            self._levels.append(level)

    @property
    def root(self) -> bytes:
        """32 bytes; of no leaves, the hash of nothing."""
        return self._levels[-1][0] if self._levels[0] else sha256().digest()

    def proof(self, index: int) -> bytes:
        """The siblings on the way from leaf `index` to the root (RFC 6962 section 2.1.1), one
        after another.
        """
        path = []
        for level in self._levels[:-1]:
            if (index ^ 1) < len(level):
                path.append(level[index ^ 1])
            index >>= 1
        return b"".join(path)


def proves(root: bytes, index: int, size: int, leaf: bytes, proof: bytes) -> bool:
    """Whether `proof` shows that leaf hash `leaf` is number `index` of `size` under `root`.

    RFC 9162 section 2.1.3.2.
    """
    if not 0 <= index < size or len(root) != HASH_BYTES or len(proof) % HASH_BYTES:
        return False
    at, last, node = index, size - 1, leaf
    for start in range(0, len(proof), HASH_BYTES):
        if last == 0:
            return False
        sibling = proof[start : start + HASH_BYTES]
        if at & 1 or at == last:
            node = sha256(b"\1" + sibling + node).digest()
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            node = sha256(b"\1" + node + sibling).digest()
        at, last = at >> 1, last >> 1
    return last == 0 and node == root


def _node(left: bytes, right: bytes) -> bytes:
    return sha256(b"\1" + left + right).digest()
