"""Whom we trade with, what they say they hold, and whom else we could ask.

A partner's words are hints: they steer what we ask for and from whom, and cost us at most a
request that is not answered. Everything remembered of a partner is bounded by the window of heads.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import inf
from random import Random

from p2pstream.errors import BadMessage
from p2pstream.identity import Address, NodeId
from p2pstream.stream.window import HEADS_MAX
from p2pstream.swarm.ledger import Account
from p2pstream.swarm.messages import (
    NO_HOPS,
    SUBSTREAMS,
    Map,
    Role,
    unpack_masks,
)

PARTNERS_MAX = 16  # design/protocol.md: 8-16.
PARTNERS_WANTED = 8  # The lower end: below it we look for more.
RENDITIONS_HEARD_MAX = 8  # As many as a stream may have.
AHEAD_CHUNKS = 8  # Word of a chunk runs ahead of its head by a few; 1.6 s is a wild guess.
LACKED_MAX = 256  # As many as a chunk may have pieces: beyond it some are asked for in vain.
# Facts about seqs are looked through for old ones when there are this many: not each second.
STALE_MAX = 2 * HEADS_MAX
CANDIDATES_MAX = 256  # Wild guess; PPTV keeps 1000, at 100 bytes each either is small.
SEQ_MAX = 2**53  # As on the wire: any language holds it exactly.
QUIET_S = 3.0  # Where all is calm a map comes once in 2 s.
DOUBT_S = 1.0  # For who should have sent something by then: one map of a mesh in need.
RETRY_S = 2.0  # First pause after a failed dial; doubles each time.
RETRY_S_MAX = 60.0

PieceKey = tuple[int, int, int]  # (seq, rendition, index)


@dataclass(slots=True)
class Heard:
    """What a partner said of one rendition: masks of pieces by seq, and its place in the mesh.

    masks: of the seqs from `first` on, without a gap. edge: the newest seq of which the partner
    held anything; -1 of nothing. behind: how many chunks that was behind the newest that we knew.
    """

    first: int = 0
    masks: list[int] = field(default_factory=list)
    edge: int = -1
    behind: int = 0
    hops: bytes = bytes([NO_HOPS]) * SUBSTREAMS
    parents: tuple[bytes, ...] = (b"",) * SUBSTREAMS
    slots: list[int] = field(default_factory=lambda: [0] * SUBSTREAMS)

    def learn(self, base: int, masks: tuple[int, ...]) -> None:
        """From `base` on it holds just this."""
        at = base - self.first
        if not 0 <= at <= 2 * HEADS_MAX:  # Nothing from before will be left.
            self.first, self.masks, at = base, [], 0
        self.masks += [0] * (at - len(self.masks))
        self.masks[at:] = masks
        if len(self.masks) > HEADS_MAX:
            self.first += len(self.masks) - HEADS_MAX
            del self.masks[:-HEADS_MAX]
        self.edge = self.newest(SEQ_MAX)

    def holds(self, seq: int) -> int:
        """The pieces it said it holds of a chunk, as a bit mask."""
        at = seq - self.first
        return self.masks[at] if 0 <= at < len(self.masks) else 0

    def newest(self, horizon: int) -> int:
        """The newest seq up to `horizon` of which it holds anything; -1 of nothing."""
        at = min(horizon + 1 - self.first, len(self.masks))
        while at > 0:
            at -= 1
            if self.masks[at]:
                return self.first + at
        return -1


@dataclass(slots=True)
class Partner:
    """One peer that trades with us in this stream.

    certified: it knew of an epoch when it joined. told: how much of what changed here it has been
    told of, and when (see `Giver`). asked: pieces we requested and do not have yet, and when.
    lacked: those that it said lately it cannot send. knows: seqs whose heads it certainly has.
    cool: feeds it may not be chosen for, until when; shunned_until: for none at all. doubted_at:
    when it last let us wait. spent_until: when it may have upload left for pulls again.
    """

    node: NodeId
    address: Address
    role: Role
    joined_at: float
    heard_at: float
    dialled: bool
    certified: bool = False
    heard: dict[int, Heard] = field(default_factory=dict)
    key: int = 0
    told: int = 0
    told_at: float = -inf
    knows: set[int] = field(default_factory=set)
    asked: dict[PieceKey, float] = field(default_factory=dict)
    lacked: set[PieceKey] = field(default_factory=set)
    cool: dict[tuple[int, int], float] = field(default_factory=dict)
    shunned_until: float = -inf
    doubted_at: float = -inf
    spent_until: float = -inf
    account: Account = field(default_factory=Account)

    def quiet(self, now: float) -> bool:
        """Whether it may be dead. A map and a half are missing, or it had been silent for a while
        when it let us wait, and still is.
        """
        return now - self.heard_at > QUIET_S or self.doubted_at - self.heard_at > DOUBT_S

    def holds(self, rendition: int, seq: int) -> int:
        """The pieces it says it holds, as a bit mask."""
        heard = self.heard.get(rendition)
        return heard.holds(seq) if heard else 0

    def edge(self, rendition: int) -> int:
        heard = self.heard.get(rendition)
        return heard.edge if heard else -1

    def may_hold(self, rendition: int, seq: int, newest: int) -> bool:
        """Whether it should hold a chunk that it has not told us of yet, as it was no farther
        behind when it last told. newest: that we know now.
        """
        heard = self.heard.get(rendition)
        if heard is None or heard.edge < 0:
            return False
        return heard.first + len(heard.masks) <= seq < newest - heard.behind

    def learn_map(self, message: Map, newest: int) -> None:
        """A map replaces what we heard from its base on. newest: the seq that we know.

        Raises `BadMessage`.
        """
        masks = unpack_masks(message.masks)
        if message.base + len(masks) > SEQ_MAX:
            raise BadMessage("a map beyond the last seq there can be")
        heard = self._heard(message.rendition)
        if heard is None:
            return
        heard.learn(message.base, masks)
        heard.behind = _behind(heard.edge, newest)
        heard.hops, heard.parents, heard.slots = message.hops, message.parents, [*message.slots]
        self.key = message.key

    def holds_any(self, seq: int) -> bool:
        """Whether it says that it holds anything of a chunk, in whatever rendition."""
        for heard in self.heard.values():  # noqa: SIM110  # Cheaper.
            if heard.holds(seq):
                return True
        return False

    def forget_before(self, seq: int) -> None:
        """Drop what concerns seqs that have left the window, and what may have changed by now."""
        self.lacked.clear()
        if len(self.knows) > STALE_MAX:
            self.knows = {s for s in self.knows if s >= seq}
        if self.asked:
            self.asked = {key: at for key, at in self.asked.items() if key[0] >= seq}

    def _heard(self, rendition: int) -> Heard | None:
        heard = self.heard.get(rendition)
        if heard is None and len(self.heard) < RENDITIONS_HEARD_MAX:
            heard = self.heard[rendition] = Heard()
        return heard


def _behind(edge: int, newest: int) -> int:
    """By how many chunks; who claims what cannot be there yet is as far behind as can be."""
    if newest < 0:
        return 0  # We cannot tell.
    if edge >= newest:
        return 0 if edge <= newest + AHEAD_CHUNKS else HEADS_MAX
    return newest - edge


@dataclass(slots=True)
class Candidate:
    """A node that may trade in this stream."""

    node: NodeId
    addresses: tuple[Address, ...]
    failures: int = 0
    retry_at: float = -inf
    proven: bool = False  # It traded with us once: hearsay does not push it out.


class Candidates:
    """Nodes we heard of, newest last; the oldest leaves when there are too many."""

    def __init__(self) -> None:
        self._known: OrderedDict[NodeId, Candidate] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def learn(self, node: bytes, addresses: Sequence[Address]) -> None:
        """addresses: where it is said to be, the likeliest first."""
        known = self._known.get(node)  # type: ignore[call-overload]  # Equal bytes will do.
        if known is not None:
            if known.addresses[: len(addresses)] != tuple(addresses):
                known.addresses = tuple(dict.fromkeys((*addresses, *known.addresses)))[:4]
            return
        if len(self._known) >= CANDIDATES_MAX:
            stale = next((c for c in self._known.values() if not c.proven), None)
            if stale is None:
                return
            del self._known[stale.node]
        node = NodeId(node)
        self._known[node] = Candidate(node, tuple(addresses)[:4])

    def failed(self, node: NodeId, *, now: float) -> None:
        """The dial failed, or the peer had no room: ask again later."""
        candidate = self._known.get(node)
        if candidate is not None:
            pause = min(RETRY_S_MAX, RETRY_S * 2**candidate.failures)
            candidate.failures = min(candidate.failures + 1, 10)
            candidate.retry_at = now + pause

    def worked(self, node: NodeId) -> None:
        candidate = self._known.get(node)
        if candidate is not None:
            candidate.failures, candidate.retry_at, candidate.proven = 0, -inf, True

    def forget(self, node: NodeId) -> None:
        self._known.pop(node, None)

    def hurry(self) -> None:
        """We were away: every pause is over."""
        for candidate in self._known.values():
            candidate.retry_at = -inf

    def pick(
        self, count: int, *, besides: Iterable[NodeId], now: float, rng: Random
    ) -> list[Candidate]:
        """Up to `count` random candidates that may be dialled now."""
        taken = set(besides)
        free = [
            c for c in self._known.values()
            if c.node not in taken and c.retry_at <= now and c.addresses
        ]  # fmt: skip
        return rng.sample(free, min(count, len(free)))
