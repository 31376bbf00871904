"""Pulling: which missing pieces to ask for now, and whom.

Push brings nearly everything; pull fills the start (the pieces since the last key frame) and mends
what a parent failed to bring. A piece that a parent is expected to push is asked for only when its
deadline is near: asking sooner would bring most of them twice. An answer that is late in turn is
hedged: asked of a second partner (Dean and Barroso, "The Tail at Scale"), rarely enough to stay
below 2 % of bytes twice.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import inf
from random import Random

import msgspec

from p2pstream.identity import NodeId
from p2pstream.swarm.messages import ORIGIN, SEED, VIEWER, Role

PATIENCE_S = 1.0  # How long a parent may be late where no deadline presses (seeds): wild guess.
UNPROVEN_S = 0.15  # The same for a parent that has brought nothing yet: measured jitter.
URGENT_S = 0.22  # Before the deadline patience ends: time for a request, an answer and a hedge.
ANSWER_S = 0.25  # How long an answer may take, besides two round trips, before it is hedged.
IN_FLIGHT_MAX = 3  # Copies asked for at once (PPTV's redundant requests, facts/anchors.md M4).
ASKED_MAX = 64  # Requests in flight with one partner: security/architecture.md 5.5.
ORIGIN_PENALTY_S = 1.0  # As if the origin were a second away: everybody else first.
SEED_PENALTY_S = 0.05
QUEUE_COST_S = 0.02  # For each piece already asked of a partner.
GUESS_COST_S = 0.05  # For a holder that has not said so: a round trip to hear that it does not.
_PENALTY_S = {ORIGIN: ORIGIN_PENALTY_S, SEED: SEED_PENALTY_S, VIEWER: 0.0}
UNANSWERED_COST_S = 0.3  # For each request left unanswered: after four the origin is asked first.


class Missing(msgspec.Struct, frozen=True):
    """A piece that somebody holds and we do not.

    known_at: when we first heard of it. deadline: when its chunk is due. pushed: a parent is to
    bring it; proven: and that parent has brought others. asked: when, and of whom, we asked.
    """

    seq: int
    rendition: int
    index: int
    known_at: float
    deadline: float
    pushed: bool
    proven: bool
    asked: tuple[tuple[NodeId, float], ...]


class Holder(msgspec.Struct, frozen=True):
    """A partner that may hold the piece.

    queue: pieces we already asked of it. unanswered: as in `Account`. told: it says so; otherwise
    we only think so, since it keeps up with the stream.
    """

    peer: NodeId
    role: Role
    rtt_s: float
    queue: int
    unanswered: float = 0.0
    told: bool = True


def wait_until(piece: Missing, rtt_s: float) -> float:
    """Until when a parent, or whoever was asked, is trusted to bring it. rtt_s: to the nearest."""
    if len(piece.asked) >= IN_FLIGHT_MAX:
        return inf
    if piece.asked:
        return max(at for _, at in piece.asked) + ANSWER_S * len(piece.asked) + 2 * rtt_s
    if not piece.pushed:
        return -inf
    return trusted_until(piece.known_at, piece.deadline, rtt_s, proven=piece.proven)


def trusted_until(known_at: float, deadline: float, rtt_s: float, *, proven: bool) -> float:
    """Until when a parent may take to push a piece. The arguments are those of `Missing`."""
    patience_s = PATIENCE_S if proven else UNPROVEN_S + 2 * rtt_s
    return min(known_at + patience_s, deadline - URGENT_S - 2 * rtt_s)


def choose(piece: Missing, holders: Iterable[Holder], *, rng: Random) -> NodeId | None:
    """Whom to ask for `piece` now, if anybody."""
    asked = {peer for peer, _ in piece.asked}
    able = [h for h in holders if h.peer not in asked and h.queue < ASKED_MAX]
    best = min(able, key=lambda h: _cost(h) + 0.01 * rng.random(), default=None)
    return best.peer if best else None


def by_peer(wanted: Iterable[tuple[NodeId, Missing]]) -> dict[tuple[NodeId, int], dict[int, int]]:
    """Group what to ask: (peer, rendition) -> seq -> mask of pieces."""
    grouped: dict[tuple[NodeId, int], dict[int, int]] = {}
    for peer, piece in wanted:
        masks = grouped.setdefault((peer, piece.rendition), {})
        masks[piece.seq] = masks.get(piece.seq, 0) | 1 << piece.index
    return grouped


def _cost(holder: Holder) -> float:
    trust_s = UNANSWERED_COST_S * holder.unanswered + GUESS_COST_S * (not holder.told)
    return holder.rtt_s + QUEUE_COST_S * holder.queue + trust_s + _PENALTY_S[holder.role]
