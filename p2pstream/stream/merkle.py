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


class Proven:
    """What proofs have shown so far of the tree under `root` over `size` leaves.

    A node on a way that led to the root is right, and so is its sibling, with all that is above
    them: the next proof need only lead to one of these. Of the leaves in order each takes one hash
    instead of log2(size).
    """

    __slots__ = ("_known", "_last")

    def __init__(self, root: bytes, size: int) -> None:
        self._last = size - 1
        # By level, from the leaves up, and place: the node, and the rest of the proof from it on.
        self._known = {(self._last.bit_length(), 0): (root, b"")}

    def shows(self, index: int, leaf: bytes, proof: bytes) -> bool:
        """Whether `proof` shows that leaf hash `leaf` is number `index`; so says RFC 9162, section
        2.1.3.2. If it does not, nothing is learned.
        """
        if not 0 <= index <= self._last or len(leaf) != HASH_BYTES:
            return False
        known, level, at, last, start, node = self._known, 0, index, self._last, 0, leaf
        walked = []
        while (there := known.get((level, at))) is None:
            if at & 1 or at < last:  # Without a sibling it moves up unchanged.
                sibling = proof[start : start + HASH_BYTES]
                start += HASH_BYTES
                walked.append((level, at, node, sibling, start))
                node = sha256(b"\1" + (sibling + node if at & 1 else node + sibling)).digest()
            level, at, last = level + 1, at >> 1, last >> 1
        if there != (node, proof[start:]):
            return False
        for level, at, node, sibling, start in walked:
            known[level, at] = node, proof[start - HASH_BYTES :]
            known[level, at ^ 1] = sibling, node + proof[start:]
        return True


def _node(left: bytes, right: bytes) -> bytes:
    return sha256(b"\1" + left + right).digest()
