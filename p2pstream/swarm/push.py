"""Pushing along substreams: whom we push to, and whom we let push to us.

The structure is New CoolStreaming's (one parent for each substream, replaced when it falls behind);
the diversity of parents is SplitStream's reason; hop counts come from the pieces themselves, so a
loop is seen at once as a parent that brings nothing.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import chain, filterfalse
from random import Random

import msgspec

from p2pstream.identity import NodeId
from p2pstream.swarm.messages import ORIGIN, SEED, SHORT_ID_BYTES, SUBSTREAMS, VIEWER, Role

Feed = tuple[int, int]  # (rendition, substream): what one parent pushes to one child.
_NOBODY: Mapping[NodeId, int] = {}

FORGIVEN = 0.25  # Of a miss, for each piece in time: a parent late with one in five is replaced.
HOPS_MAX = 16  # A mesh of 10,000 peers with 4 children each is 7 deep; beyond it is a loop.
HOP_COST = 1.0  # The unit of the costs below.
RTT_COST_PER_S = 20.0  # One hop is worth about 50 ms.
SAME_PARENT_COST = 0.7  # SplitStream: the loss of one parent should cost one substream.
BEHIND_COST = 1.0  # For each chunk that the candidate is behind the newest one known.
SCARCE_COST = 4.0  # A candidate with four slots left costs a hop more: spread the load.
SEED_COST = 1.5  # design/protocol.md: seeds and the broadcaster are parents of last resort.
ORIGIN_COST = 4.0
DICE_COST = 0.5  # Newcomers who see the same map should not all choose the same parent.
DIRECT_MIN = 2  # Viewers and seeds fed by the origin for each substream: one may die. Wild guess.
PLENTY = 2  # Slots for each feed that we carry; with fewer it is better to specialise. Wild guess.
SMALL_SWARM = 10  # Z of libswift's SharingLivePiecePicker.


class Children:
    """Who subscribed to what. The number of subscriptions is bounded by `slots`.

    kept: feeds that must have room for one child each. Without it the few who are fed by the
    broadcaster give all they have to some substreams, and nobody ever gets the others from them.
    """

    def __init__(self, slots: int) -> None:
        self.slots = self.slots_max = slots
        self.kept: tuple[Feed, ...] = ()
        self._since: dict[Feed, dict[NodeId, int]] = {}
        self._room: dict[int, bytes] = {}  # What `room` says, until anything changes.

    @property
    def used(self) -> int:
        return sum(map(len, self._since.values()))

    def free(self, feed: Feed) -> int:
        """How many more children may have this feed."""
        return self.room(feed[0])[feed[1]]

    def room(self, rendition: int) -> bytes:
        """The same for each substream of a rendition; 255: that many, or more."""
        if rendition not in self._room:
            childless = {feed for feed in self.kept if not self._since.get(feed)}
            left = self.slots - self.used - len(childless)
            rooms = (left + (feed in childless) for feed in feeds_of(rendition))
            self._room[rendition] = bytes(min(255, max(0, room)) for room in rooms)
        return self._room[rendition]

    def keep(self, feeds: Sequence[Feed], firsthand: Container[Feed]) -> None:
        """Keep room for `feeds` when there is plenty, otherwise for those of them that come from
        the broadcaster itself.
        """
        plenty = self.slots >= PLENTY * len(feeds)
        kept = tuple(f for f in feeds if plenty or f in firsthand)[: max(0, self.slots)]
        if kept != self.kept:
            self.kept = kept
            self._room.clear()

    def subscribe(
        self, peer: NodeId, rendition: int, substreams: int, since: int
    ) -> tuple[int, int]:
        """Let `peer` have just these substreams, the new ones from `since` on.

        Returns two masks: those that are new, and those for which there is no room.
        """
        added = refused = 0
        for substream in range(SUBSTREAMS):
            feed = rendition, substream
            children = self._since.setdefault(feed, {})
            if not substreams >> substream & 1:
                children.pop(peer, None)
                self._room.clear()
            elif peer not in children and self.free(feed):
                children[peer] = since
                added |= 1 << substream
                self._room.clear()
            elif peer not in children:
                refused |= 1 << substream
        return added, refused

    def evict(self, peer: NodeId) -> Feed:
        """Take a feed from `peer`, which has one, and offer it to nobody until `relax`."""
        feed = self.feeds_of(peer)[-1]
        del self._since[feed][peer]
        self.slots = self.used
        self._room.clear()
        return feed

    def relax(self) -> bool:
        """Offer one feed more, if it was fewer than at first; False when it is all again."""
        self.slots = min(self.slots_max, self.slots + 1)
        self._room.clear()
        return self.slots < self.slots_max

    def peers(self) -> set[NodeId]:
        return {peer for children in self._since.values() for peer in children}

    def forget(self, peer: NodeId) -> None:
        for children in self._since.values():
            children.pop(peer, None)
        self._room.clear()

    def of(self, feed: Feed) -> Mapping[NodeId, int]:
        """Who is to be pushed what this feed brings, and from which seq on."""
        return self._since.get(feed, _NOBODY)

    def feeds_of(self, peer: NodeId) -> list[Feed]:
        return [feed for feed, children in self._since.items() if peer in children]


@cache
def feeds_of(rendition: int) -> tuple[Feed, ...]:
    """All there are of a rendition."""
    return tuple((rendition, substream) for substream in range(SUBSTREAMS))


class Offer(msgspec.Struct, frozen=True):
    """A partner as a possible parent for one feed.

    hops: how far it is from the broadcaster. behind: chunks it lags the newest known. already: how
    many feeds it gives us. slots: how many more it can give (at least one).
    """

    peer: NodeId
    role: Role
    hops: int
    rtt_s: float
    behind: int
    already: int
    slots: int


def choose_parent(offers: Sequence[Offer], *, partners: int, rng: Random) -> Offer | None:
    """The cheapest parent, or none."""
    able = [offer for offer in offers if offer.hops < HOPS_MAX]
    lucky = rng.random() < origin_probability(partners)
    return min(able, key=lambda o: _cost(o, lucky=lucky) + DICE_COST * rng.random(), default=None)


def origin_probability(partners: int) -> float:
    """How likely a newcomer may take a feed from the origin as gladly as from anybody.

    libswift's rule for small swarms: 1/x with x = max(1, min(n, Z) - max(0, n - Z)), so that few of
    ten viewers ask the origin, while in large swarms the origin is just one peer of many.
    """
    return 1 / max(1, min(partners, SMALL_SWARM) - max(0, partners - SMALL_SWARM))


def stay_at_origin(me: NodeId, direct: Iterable[NodeId], substream: int) -> list[NodeId]:
    """Those of `direct`, fed by the origin as we are, that leave it later than we do.

    Both sides of every pair must not leave at once, so an order that all compute alike decides:
    another one for each substream, so that the direct places are spread. With `DIRECT_MIN` of them
    we may leave.
    """

    def rank(node: NodeId) -> bytes:
        start = substream * 8  # The four quarters of an id give four independent orders.
        return node[start:] + node[:start]

    return [node for node in direct if rank(node) < rank(me)]


@dataclass(slots=True)
class Parent:
    """Who feeds us one feed, since when, and how often it was late in a row.

    first: the seq from which on it pushes. seq: the newest it brought. missed: pieces that had to
    be pulled, less those forgiven.
    """

    peer: NodeId
    since: float
    first: int
    seq: int
    missed: float = 0.0
    pieces: int = 0
    short_id: bytes = field(init=False)

    def __post_init__(self) -> None:
        self.short_id = bytes(self.peer[:SHORT_ID_BYTES])

    def brought(self, seq: int) -> None:
        """It pushed a piece in time. Misses are forgiven slowly: in a ring of parents that feed
        each other, each brings most pieces and misses some.
        """
        if self.missed:
            self.missed = max(0.0, self.missed - FORGIVEN)
        self.pieces += 1
        if seq > self.seq:
            self.seq = seq


@dataclass(slots=True)
class Parents:
    """Our parents by feed."""

    by_feed: dict[Feed, Parent] = field(default_factory=dict)

    def fed_by(self, peer: NodeId) -> list[Feed]:
        return [feed for feed, parent in self.by_feed.items() if parent.peer == peer]

    def mask(self, peer: NodeId, rendition: int) -> int:
        """The substreams of `rendition` that `peer` is to push to us, as a bit mask."""
        return sum(1 << s for r, s in self.fed_by(peer) if r == rendition)

    def proven(self, renditions: Sequence[int]) -> bool:
        """Whether every feed of these has a parent that has brought something."""
        for parent in self.by_feed.values():  # No `all`: cheaper, and asked at each head.
            if not parent.pieces:
                return False
        return len(self.by_feed) >= SUBSTREAMS * len(renditions)

    def open_feeds(self, renditions: Sequence[int]) -> list[Feed]:
        """What nobody pushes to us yet."""
        wanted = chain.from_iterable(map(feeds_of, renditions))
        return list(filterfalse(self.by_feed.__contains__, wanted))


def _cost(offer: Offer, *, lucky: bool) -> float:
    role = {
        ORIGIN: 0.0 if lucky else ORIGIN_COST,
        SEED: SEED_COST,
        VIEWER: 0.0,
    }[offer.role]
    return (
        HOP_COST * offer.hops
        + RTT_COST_PER_S * offer.rtt_s
        + BEHIND_COST * offer.behind
        + SAME_PARENT_COST * offer.already
        + SCARCE_COST / offer.slots
        + role
    )
