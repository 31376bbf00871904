"""What was given, taken and broken, counted at this node. Bytes are of pieces and control."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from p2pstream.swarm.messages import Role


@dataclass(slots=True)
class Counters:
    """For the whole swarm. Bytes of pieces are counted without their headers.

    taken: verified and new, by the role of the sender. given: sent, whether useful or not.
    duplicates: verified bytes that we had already.
    """

    taken: Counter[Role] = field(default_factory=Counter)
    given: int = 0
    duplicates: int = 0
    pieces_verified: int = 0
    pieces_refused: int = 0
    heads_verified: int = 0
    pulls: int = 0
    pulls_late: int = 0
    parents_replaced: int = 0
    pushes_dropped: int = 0
    hops_max: int = 0

    @property
    def taken_bytes(self) -> int:
        return sum(self.taken.values())


@dataclass(slots=True)
class Account:
    """With one partner: bytes of pieces since the link came up, and how often it let us down.

    unanswered: requests that somebody else had to answer, or nobody did, fading. barren: times
    that it was to feed us and had never brought anything.
    """

    taken: int = 0
    given: int = 0
    duplicates: int = 0
    unanswered: float = 0.0
    barren: int = 0

    @property
    def tried(self) -> bool:
        """Whether it has ever sent us a piece."""
        return self.taken + self.duplicates > 0
