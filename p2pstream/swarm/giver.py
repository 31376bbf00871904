"""Giving: pieces to children and to those who ask, and word of what we hold to everybody.

Invariant: only what is in the window is pushed, sent or announced. Pushing stops where a child's
queue grows; pulls are answered within the upload budget.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import inf

import msgspec

from p2pstream.core import Parcel, Push, Send
from p2pstream.identity import NodeId
from p2pstream.stream.window import HEADS_MAX, Window
from p2pstream.swarm import messages as m
from p2pstream.swarm.mesh import PULL_COPIES, Mesh
from p2pstream.swarm.messages import (
    NO_HOPS,
    ORIGIN,
    bits,
    pack_mask,
    pack_masks,
    substream_of,
)
from p2pstream.swarm.partners import Partner
from p2pstream.swarm.push import Feed, feeds_of
from p2pstream.swarm.scheduler import ANSWER_S

ROUND_S = 1.0  # In which every partner is told what we hold, one after another: the design's 1-2 s.
CALM_ROUND_S = 2.0  # While nobody is in need (as Trickle slows down, RFC 6206): all at once.
CHILD_ROUND_S = 1.5 * CALM_ROUND_S  # Children told since then wait for the next calm round.
TURNS_MIN = 12  # In a round: 83 ms for each partner where there are few.
PIECE_LIFE_S = 2.0  # A piece older than this is not worth sending.
BACKLOG_S = 1.0  # A child whose queue is longer than this gets no more pushed until it drains.
BACKLOG_MIN = 256 * 1024  # Bytes always allowed, whatever the rate: one BDP (facts/quic.md 8).
OVERLOAD_S = 0.3  # A child's queue that is longer in the long run is more than we can carry.
RELAX_S = 5.0  # After so long without one we may take another feed. Wild guess.
RATE_MIN = 32 * 1024  # Bytes a second that the budget counts with before the rate is known.
BUDGET_S = 2.0  # How much unused upload is saved up: newcomers ask for a second at once.
ANSWERS_MAX = 64  # Pieces sent for one Want.
PEERS_TOLD_MAX = 16  # In one message.


class _Parcels(msgspec.Struct):
    """A piece, without its head and with it: the same objects for all children, so packed once."""

    header: m.Piece
    size: int
    bare: Parcel
    with_head: Parcel | None = None

    def headed(self, window: Window) -> Parcel:
        if self.with_head is None:
            head = window.head(self.header.seq)
            assert head is not None, "its pieces are in the window"
            header = msgspec.structs.replace(self.header, head=head.raw)
            self.with_head = Parcel(header, self.bare.body)
        return self.with_head


@dataclass(slots=True)
class Giver:
    """The sending half. map_at: when to tell the next partner what we hold.

    _changes: how often anything was stored; _news: of each seq the count when it last was, but for
    those that a lower one has followed. So both grow, and the first after a count is the lowest.
    """

    mesh: Mesh
    map_at: float = inf
    _told_at: float = -inf
    _changes: int = 0
    _news: list[tuple[int, int]] = field(default_factory=list)  # (count, seq)
    _turns: dict[NodeId, None] = field(default_factory=dict)  # Who waits longest comes first.
    _budget: float = 0.0  # Bytes.
    _budget_at: float = 0.0
    _relax_at: float = inf

    def forward(
        self, feed: Feed, seq: int, index: int, hops: int, *,
        besides: NodeId | None = None, now: float,
    ) -> None:  # fmt: skip
        """Push a new piece to the children of its feed. hops: how far we are for it."""
        children, partners = self.mesh.children.of(feed), self.mesh.partners
        parcels = self._parcels(seq, feed[0], index, hops) if children else None
        if parcels is None:
            return
        new = [p for p, since in children.items() if since <= seq and p != besides]
        self._push(filter(None, map(partners.get, new)), parcels, now)

    def note_change(self, seq: int, *, now: float) -> None:
        """We hold more of `seq` than before: the partners are to hear of it."""
        self._changes += 1
        news = self._news
        while news and news[-1][1] >= seq:
            news.pop()
        news.append((self._changes, seq))
        if len(news) > HEADS_MAX:
            del news[0]
        if now < self.mesh.needy_until and self.map_at > now:
            soon = self._told_at + self._pause_s()
            if soon < self.map_at:
                self.map_at = soon if soon > now else now

    def forget(self, peer: NodeId) -> None:
        """It is no partner any more."""
        self._turns.pop(peer, None)

    def tell_next(self, *, now: float) -> None:
        """Send maps to the partner that has waited longest; while nobody is in need, to all.

        In need, all partners at once after each chunk would be three times as many messages, most
        of them about what the other holds too. One after another, some partner's map is always
        fresh. While all is calm the order does not matter, the same maps do for nearly all, and
        children are told every other time.
        """
        self.map_at = inf
        if now >= self.mesh.needy_until:
            self._tell_all(now)
            return
        partner = self._next()
        if partner is not None and self._due(partner) <= now:
            self.tell(partner, now=now)
            partner = self._next()
        if partner is not None:
            due, soon = self._due(partner), now + self._pause_s()
            self.map_at = due if due > soon else soon

    def _tell_all(self, now: float) -> None:
        made: dict[int, list[m.Map]] = {}
        children, self.map_at = self.mesh.children.peers(), now + CALM_ROUND_S
        for partner in self.mesh.partners.values():
            recent = now - partner.told_at < CHILD_ROUND_S and partner.told < self._changes
            if recent and partner.node in children:
                continue  # The pieces that we push tell it that we are here, and most of the rest.
            base = self._first_change(partner.told)
            if base not in made:
                made[base] = self._maps(base)
            self._tell(partner, made[base], now)

    def tell(self, partner: Partner, *, now: float) -> None:
        """Send maps, from the first seq on that has changed since `partner` was told last."""
        self._tell(partner, self._maps(self._first_change(partner.told)), now)

    def _tell(self, partner: Partner, maps: list[m.Map], now: float) -> None:
        partner.told, partner.told_at, self._told_at = self._changes, now, now
        self._turns.pop(partner.node, None)
        self._turns[partner.node] = None
        for told in maps:
            self.mesh.send(partner.node, told)
        again = now + (ROUND_S if now < self.mesh.needy_until else CALM_ROUND_S)
        if again < self.map_at:
            self.map_at = again

    def _maps(self, base: int) -> list[m.Map]:
        """What we hold from `base` on, of each rendition."""
        mesh, window = self.mesh, self.mesh.window
        key = max(0, window.newest_key())
        return [
            m.Map(
                mesh.stream, rendition, base, pack_masks(window.held(rendition, base)), key,
                *mesh.place(rendition), mesh.children.room(rendition),
            )
            for rendition in mesh.renditions()
        ]  # fmt: skip

    def _pause_s(self) -> float:
        """Between one partner's turn and the next's, in need."""
        return ROUND_S / max(TURNS_MIN, len(self.mesh.partners))

    def send_peers(self, peer: NodeId) -> None:
        """Tell a peer of others that it could trade with."""
        known = [p for p in self.mesh.partners.values() if p.node != peer and p.address[0]]
        if len(known) > PEERS_TOLD_MAX:
            known = self.mesh.rng.sample(known, PEERS_TOLD_MAX)
        told = tuple([(p.node, *p.address) for p in known])
        self.mesh.send(peer, m.Peers(self.mesh.stream, told))

    def on_want(self, partner: Partner, want: m.Want, now: float) -> None:
        """Send what is asked for, or say that we cannot. Raises `BadMessage`."""
        self.mesh.note_need(now)
        lacking: list[tuple[int, bytes]] = []
        left, room = ANSWERS_MAX, self._room(now)
        for seq, data in want.items:
            mask, have = m.unpack_mask(data), self.mesh.window.have(seq, want.rendition)
            lack = mask & ~have
            for index in bits(mask & have):
                parcels = self._parcels(seq, want.rendition, index, None) if left else None
                if parcels is None or room <= 0:
                    lack |= 1 << index
                    continue
                left, room = left - 1, room - parcels.size
                if want.heads:
                    partner.knows.discard(seq)
                parcel = self._given(partner, parcels)
                self.mesh.out.append(Send(partner.node, parcel, now + PIECE_LIFE_S))
            if lack:
                lacking.append((seq, pack_mask(lack)))
        if lacking:
            lacks = m.Lack(self.mesh.stream, want.rendition, tuple(lacking))
            self.mesh.send(partner.node, lacks)

    def on_subscribe(self, partner: Partner, message: m.Subscribe, now: float) -> None:
        """Push from now on, what we hold already included, or say that we do not."""
        mesh, rendition = self.mesh, message.rendition
        # Whoever feeds us a substream cannot have it from us: two would wait for each other.
        loop = mesh.parents.mask(partner.node, rendition) & message.substreams
        head = mesh.newest_head()
        if head is not None and head.part(rendition) is None:
            loop = message.substreams  # There is no such rendition.
        self._keep_room()
        added, refused = mesh.children.subscribe(
            partner.node, rendition, message.substreams & ~loop, message.since
        )
        if refused | loop:
            mesh.send(partner.node, m.Refuse(mesh.stream, rendition, refused | loop))
        for seq in mesh.window:
            for index in bits(mesh.window.have(seq, rendition)):
                if seq >= message.since and added >> substream_of(seq, index) & 1:
                    parcels = self._parcels(seq, rendition, index, None)
                    assert parcels is not None, "it is in the window"
                    self._push((partner,), parcels, now)

    def adapt(self, *, now: float) -> None:
        """Carry as many feeds as the uplink can: once a second one less, or slowly more again.

        Whoever promises more than its uplink carries makes all its children late (AIMD, as in
        Chiu and Jain 1989: but for the step down, which is a feed and not a share). The origin
        sends nobody away: there is no other source.
        """
        mesh, children = self.mesh, self.mesh.children
        self._keep_room()
        if mesh.role is ORIGIN:
            return
        peers, backlog = children.peers(), mesh.roads.backlog
        longest = max(map(backlog, peers), default=0)
        if longest > OVERLOAD_S * max(mesh.rate, RATE_MIN):
            slowest = min(peer for peer in peers if backlog(peer) == longest)
            rendition, substream = children.evict(slowest)
            mesh.send(slowest, m.Refuse(mesh.stream, rendition, 1 << substream))
            self._relax_at = now + RELAX_S
        elif now >= self._relax_at:
            self._relax_at = now + RELAX_S if children.relax() else inf

    def _keep_room(self) -> None:
        mesh = self.mesh
        feeds = [feed for rendition in mesh.renditions() for feed in feeds_of(rendition)]
        mesh.children.keep(feeds, {feed for feed in feeds if mesh.hops(feed) <= 1})

    def _push(self, partners: Iterable[Partner], parcels: _Parcels, now: float) -> None:
        """Send a piece to those who lack it and can keep up."""
        mesh, piece = self.mesh, parcels.header
        seq, rendition, index = piece.seq, piece.rendition, piece.index
        most = max(BACKLOG_MIN, mesh.rate * BACKLOG_S)
        pushes: list[Push] = []
        for partner in partners:
            heard = partner.heard.get(rendition)
            if heard is not None and heard.holds(seq) >> index & 1:
                continue
            if mesh.roads.backlog(partner.node) > most:
                mesh.counters.pushes_dropped += 1
                continue
            parcel = self._given(partner, parcels)
            if pushes and pushes[-1].parcel is parcel:
                pushes[-1].peers.append(partner.node)
            else:
                pushes.append(Push([partner.node], parcel, now + PIECE_LIFE_S))
        mesh.out += pushes

    def _given(self, partner: Partner, parcels: _Parcels) -> Parcel:
        """What to send: with the head to whoever may lack it. Counts it as sent."""
        mesh, seq, size = self.mesh, parcels.header.seq, parcels.size
        partner.account.given += size
        mesh.counters.given += size
        self._budget -= size
        if seq in partner.knows:
            return parcels.bare
        partner.knows.add(seq)
        return parcels.bare if partner.holds_any(seq) else parcels.headed(mesh.window)

    def _parcels(self, seq: int, rendition: int, index: int, hops: int | None) -> _Parcels | None:
        """A piece as it is sent; None if we do not hold it.

        hops: how far we are for this piece; None: as far as for the newest of its feed.
        """
        mesh = self.mesh
        piece = mesh.window.piece(seq, rendition, index)
        if piece is None:
            return None
        if hops is None:
            feed = rendition, substream_of(seq, index)
            hops = 0 if mesh.role is ORIGIN else mesh.depth.get(feed, NO_HOPS)
        if hops >= NO_HOPS:
            hops = NO_HOPS - 1
        header = m.Piece(mesh.stream, seq, rendition, index, hops, b"", piece.proof)
        return _Parcels(header, len(piece.data), Parcel(header, piece.data))

    def _room(self, now: float) -> float:
        """Bytes that may be sent to those who ask: what is left of the budget, and would get there
        in time.

        Who waits longer asks somebody else too: where uplinks are hardly faster than the stream,
        what then came twice kept them full, and nobody had pieces in time any more.
        """
        mesh = self.mesh
        if not mesh.config.copies:
            return 0.0
        rate = max(mesh.config.copies, 1.0 + PULL_COPIES) * max(mesh.rate, RATE_MIN)
        self._budget = min(BUDGET_S * rate, self._budget + rate * (now - self._budget_at))
        self._budget_at = now
        return min(self._budget, ANSWER_S * rate - sum(map(mesh.roads.backlog, mesh.partners)))

    def _first_change(self, since: int) -> int:
        """The lowest seq in the window that has changed since so many changes; after the newest if
        none has.
        """
        window, at = self.mesh.window, bisect_right(self._news, (since, inf))
        first = self._news[at][1] if at < len(self._news) else window.newest + 1
        return max(0, window.oldest_allowed, first)

    def _next(self) -> Partner | None:
        """Who waits longest."""
        return self.mesh.partners[next(iter(self._turns))] if self._turns else None

    def _due(self, partner: Partner) -> float:
        """When to tell it, in need: of news at once, or else that we are still here."""
        return -inf if partner.told < self._changes else partner.told_at + ROUND_S
