"""What the parts of a swarm share: the window, the partners, and a few facts about the stream.

`Swarm` (protocol.py) lets things in and keeps order; `Giver` sends, `Taker` asks, `Parenting`
chooses who pushes to us. Each works on one `Mesh` and leaves what is to be done in its `out`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf
from random import Random

from p2pstream.core import Effect, Roads, Send
from p2pstream.identity import NodeId, StreamId
from p2pstream.playback.playout import Config as PlayoutConfig
from p2pstream.stream.chunk import TICKS_PER_S, Init
from p2pstream.stream.head import Head
from p2pstream.stream.window import Window
from p2pstream.swarm.defaults import VIEWER_COPIES
from p2pstream.swarm.ledger import Counters
from p2pstream.swarm.messages import NO_HOPS, ORIGIN, SEED, SUBSTREAMS, VIEWER, Role
from p2pstream.swarm.partners import AHEAD_CHUNKS, PARTNERS_MAX, Partner
from p2pstream.swarm.push import Children, Feed, Parents, feeds_of
from p2pstream.swarm.watch import Watch
from p2pstream.wire.codec import Message

PULL_COPIES = 0.5  # Of the upload, for pulls: repairs must not wait for a full house. Wild guess.
NEEDY_S = 5.0  # For so long after a request for pieces, or a new partner, maps come sooner. Guess.


@dataclass(frozen=True, slots=True)
class Config:
    """copies: upload, in rates of the stream. rendition: the one the user insists on."""

    copies: float = VIEWER_COPIES
    partners_max: int = PARTNERS_MAX
    rendition: int | None = None
    playout: PlayoutConfig = field(default_factory=PlayoutConfig)


@dataclass(slots=True)
class Mesh:
    """The state of one node's part in the mesh around one stream.

    depth: by feed, how many hops from the broadcaster its newest piece was sent. fed: by feed, the
    newest seq of which we have a piece. claimed: the newest seq that any map was about. rate: bytes
    a second of the largest rendition, smoothed. met_at: when the first partner joined us.
    """

    stream: StreamId
    me: NodeId
    role: Role
    config: Config
    roads: Roads
    rng: Random
    wall: Callable[[float], float]
    children: Children
    watch: Watch | None = None
    window: Window = field(default_factory=Window)
    counters: Counters = field(default_factory=Counters)
    partners: dict[NodeId, Partner] = field(default_factory=dict)
    parents: Parents = field(default_factory=Parents)
    inits: OrderedDict[bytes, Init] = field(default_factory=OrderedDict)
    depth: dict[Feed, int] = field(default_factory=dict)
    fed: dict[Feed, int] = field(default_factory=dict)
    claimed: int = -1
    rate: float = 0.0
    met_at: float | None = None
    needy_until: float = -inf
    out: list[Effect] = field(default_factory=list)

    def send(self, peer: NodeId, message: Message) -> None:
        self.out.append(Send(peer, message))

    def note_need(self, now: float) -> None:
        """Somebody asks for pieces, or has just come: what is told must be fresh for a while."""
        self.needy_until = now + NEEDY_S

    def newest_head(self) -> Head | None:
        return self.window.head(self.window.newest)

    def renditions(self) -> tuple[int, ...]:
        """What we carry: a viewer what it watches, a seed what viewers watch, the origin all."""
        if self.watch is not None:
            return self.watch.renditions
        head = self.newest_head()
        there = {part.rendition for part in head.parts} if head else set()
        if self.role is SEED:
            there &= {r for p in self.partners.values() if p.role is VIEWER for r in p.heard}
        return tuple(sorted(there))

    def edge(self, rendition: int) -> int:
        """The newest seq that we have the head of, or of which a partner says it holds anything."""
        newest = self.window.newest
        if self.claimed <= newest:
            return newest
        for partner in self.partners.values():
            heard = partner.heard.get(rendition)
            if heard is not None and heard.edge > newest:
                newest = max(newest, self.edge_of(partner, rendition))
        return newest

    def edge_of(self, partner: Partner, rendition: int) -> int:
        """The newest seq that a partner may well hold: nobody moves the live edge by words."""
        heard, horizon = partner.heard.get(rendition), self.horizon
        if heard is None or heard.edge <= horizon:
            return heard.edge if heard else -1
        return heard.newest(horizon)

    @property
    def horizon(self) -> int:
        """No claim about later seqs is believed: word runs ahead of heads by less than this."""
        return self.window.newest + AHEAD_CHUNKS

    def hops(self, feed: Feed) -> int:
        """How far from the broadcaster we are in one feed; NO_HOPS when nobody feeds us."""
        if self.role is ORIGIN:
            return 0
        parent = self.parents.by_feed.get(feed)
        return self.depth.get(feed, NO_HOPS) if parent and parent.pieces else NO_HOPS

    def place(self, rendition: int) -> tuple[bytes, tuple[bytes, ...]]:
        """Where we are in the mesh: by substream our hops, and the start of our parent's id."""
        if self.role is ORIGIN:
            return bytes(SUBSTREAMS), (b"",) * SUBSTREAMS
        feeds, depth = feeds_of(rendition), self.depth
        parents = list(map(self.parents.by_feed.get, feeds))
        hops = [
            depth.get(feed, NO_HOPS) if parent and parent.pieces else NO_HOPS
            for feed, parent in zip(feeds, parents, strict=True)
        ]
        return bytes(hops), tuple([parent.short_id if parent else b"" for parent in parents])

    def deadline(self, seq: int) -> float:
        """When a viewer needs the chunk; `inf` for others."""
        return self.watch.playout.due(seq) if self.watch else inf

    def count_rate(self, head: Head) -> None:
        if head.parts:
            rate = head.size_max * TICKS_PER_S / head.duration
            self.rate = rate if not self.rate else 0.9 * self.rate + 0.1 * rate
