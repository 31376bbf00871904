"""Pieces that came before their head. They wait a moment, unverified, and go nowhere from here.

QUIC keeps the order within a stream only, so a piece can overtake the piece that carries its head.
"""

from __future__ import annotations

from dataclasses import dataclass

from p2pstream.identity import NodeId
from p2pstream.swarm.messages import Piece

WAIT_S = 1.0  # An overtaken packet is late by milliseconds, a lost one by a few round trips.
PIECES_MAX = 64  # 1 MiB in all.
PIECES_MAX_PER_PEER = 16


@dataclass(frozen=True, slots=True)
class Waiting:
    """One piece, from whom it came and when."""

    peer: NodeId
    header: Piece
    body: bytes
    since: float


class Limbo:
    """A bounded waiting room."""

    def __init__(self) -> None:
        self._waiting: list[Waiting] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, peer: NodeId, header: Piece, body: bytes, *, now: float) -> bool:
        """False when there is no room: the piece will be asked for again."""
        self._waiting = [w for w in self._waiting if now - w.since < WAIT_S]
        mine = sum(waiting.peer == peer for waiting in self._waiting)
        if len(self._waiting) >= PIECES_MAX or mine >= PIECES_MAX_PER_PEER:
            return False
        self._waiting.append(Waiting(peer, header, body, now))
        return True

    def release(self, seq: int) -> list[Waiting]:
        """What waited for the head of `seq`."""
        if not self._waiting:
            return []
        out = [waiting for waiting in self._waiting if waiting.header.seq == seq]
        self._waiting = [waiting for waiting in self._waiting if waiting.header.seq != seq]
        return out

    def forget(self, peer: NodeId) -> None:
        self._waiting = [waiting for waiting in self._waiting if waiting.peer != peer]
