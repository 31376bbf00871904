"""Swarm: the mesh around one stream, as one node sees it.

Invariants: only verified pieces are in the window, and only what is in the window is announced,
pushed, sent or played; a partner is either here with all that concerns it or gone without a trace;
everything kept is bounded by the window of heads or by a named limit.

The journey of a piece: `_on_parcel` -> `_accept_head` -> `_accept_piece` (verified, stored) ->
`Giver.forward` (to children, at once) and `Giver.tell_next` (to the others, soon) -> `Watch` (when
its chunk is complete) -> `Play`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from random import Random

import msgspec

from p2pstream.core import (
    Dial,
    Effect,
    Hangup,
    Happening,
    LinkDown,
    LinkUp,
    Note,
    Parcel,
    Roads,
)
from p2pstream.errors import BadMessage, Misbehaviour
from p2pstream.identity import Address, NodeId, StreamId
from p2pstream.stream import epoch as epochs
from p2pstream.stream import head as heads
from p2pstream.stream.chunk import Chunk, Init
from p2pstream.stream.chunker import Signed
from p2pstream.stream.epoch import Epoch
from p2pstream.stream.head import Head
from p2pstream.stream.manifest import init_hash, pack_init, unpack_init
from p2pstream.stream.merkle import HASH_BYTES
from p2pstream.swarm import messages as m
from p2pstream.swarm.defaults import ORIGIN_COPIES, SEED_COPIES
from p2pstream.swarm.giver import Giver
from p2pstream.swarm.limbo import Limbo
from p2pstream.swarm.mesh import PULL_COPIES, Config, Mesh
from p2pstream.swarm.messages import NO_HOPS, SUBSTREAMS, VIEWER, Role, substream_of
from p2pstream.swarm.parenting import Parenting
from p2pstream.swarm.partners import PARTNERS_WANTED, Candidates, Partner
from p2pstream.swarm.push import Children, Feed
from p2pstream.swarm.taker import Taker
from p2pstream.swarm.watch import Watch

__all__ = ["ORIGIN_COPIES", "SEED_COPIES", "Config", "EpochSeen", "InitReady", "Play", "Swarm"]

UPKEEP_S = 1.0  # Maps, parents, partners: design/protocol.md says every 1-2 s.
GOSSIP_S = 10.0  # Partner exchange (PPTV: at most every 10 s).
SILENT_S = 6.0  # Three maps missed: the partner is gone.
STILL_S = 3.0  # Chunks last 2 s at most: without a new one for so long the stream does not come.
SLEPT_S = 3.0  # Three upkeeps missed: the machine slept, and our partners have given us up.
SLEPT = "slept"
INITS_MAX = 32  # Four changes of all renditions.
EPOCH_GRACE_S = 10.0  # How long partners may go on with the epoch before: news takes seconds.
MAP_SLACK_S = 0.04  # How long a map waits for company: half of the pause between two in need.
SETTLED_S = 1.0  # A partner this new may yet become a parent. With 5 s latecomers waited for 4 s.
JOINING_S = 1.0  # Wild guess: who has not answered a Join by then hardly will, so others are asked.
LINKS_MAX = 64  # Links to peers that are no partners (yet) that we remember.


# Effects besides those of core.py.


class Play(msgspec.Struct, frozen=True):
    """Hand this chunk to the player now; each once, in order."""

    chunk: Chunk


@dataclass(frozen=True, slots=True)
class InitReady:
    """How to decode chunks whose `init` is `hash`. Comes before the first of them is played."""

    hash: bytes
    init: Init


@dataclass(frozen=True, slots=True)
class EpochSeen:
    """Remember that nothing below this epoch may ever be believed again."""

    epoch: Epoch


class Swarm:
    """One node's part in the mesh around one stream."""

    # Of more than 30 Python makes a dictionary, 1.6 kB each: a simulation has thousands.
    __slots__ = (
        "_dialling", "_edge_at", "_epoch_at", "_forked_at", "_from_anybody", "_from_partner",
        "_giver", "_gossip_at", "_joined", "_limbo", "_links", "_mark", "_noticed_at", "_parenting",
        "_taker", "_told_end", "_upkeep_at", "candidates", "children", "counters", "ended", "epoch",
        "first_chunk_at", "forked", "inits", "me", "mesh", "parents", "partners", "role", "stream",
        "watch", "window",
    )  # fmt: skip

    def __init__(
        self,
        stream: StreamId,
        me: NodeId,
        role: Role,
        *,
        roads: Roads,
        rng: Random,
        wall: Callable[[float], float],
        config: Config | None = None,
        epoch: Epoch | None = None,
        epoch_mark: int = 0,
    ) -> None:
        """wall: Unix seconds at a time of the core's clock. epoch_mark: the highest ever seen."""
        config = config or Config()
        pushed = max(1.0, config.copies - PULL_COPIES) if config.copies else 0.0
        children = Children(round(pushed * SUBSTREAMS))
        self.mesh = mesh = Mesh(stream, me, role, config, roads, rng, wall, children)
        if role is VIEWER:
            mesh.watch = Watch(
                mesh.window, mesh.inits.__contains__, config.playout, config.rendition
            )
        # The parts of the mesh that the node reads too.
        self.stream, self.me, self.role = stream, me, role
        self.window, self.partners, self.inits = mesh.window, mesh.partners, mesh.inits
        self.children, self.parents, self.counters = mesh.children, mesh.parents, mesh.counters
        self.watch = mesh.watch
        self.candidates = Candidates()
        self.epoch = epoch
        self.ended = False
        self.forked = False
        self.first_chunk_at: float | None = None
        self._giver = Giver(mesh)
        self._parenting = Parenting(mesh, self._giver.tell)
        self._taker = Taker(mesh, self._parenting)
        self._limbo = Limbo()
        self._forked_at: set[int] = set()  # Whoever sends pieces there may believe the other head.
        self._mark = epoch_mark
        self._epoch_at = inf  # When we learned of the epoch.
        self._told_end = False
        self._links: dict[NodeId, Address] = {}
        self._dialling: set[NodeId] = set()
        self._joined: dict[NodeId, float] = {}  # To whom we said Join, and when last.
        self._upkeep_at = 0.0
        self._gossip_at = 0.0
        self._noticed_at = -inf  # The last time anything happened here.
        self._edge_at = -inf  # The last time that the live edge moved.
        self._from_partner, self._from_anybody = self._listeners()

    def _listeners(self) -> tuple[dict[type, Callable[..., None]], dict[type, Callable[..., None]]]:
        """Who hears what partners may say, and what anybody may."""
        return {
            Parcel: self._on_parcel,
            m.Map: self._on_map,
            m.Want: self._giver.on_want,
            m.Lack: self._taker.on_lack,
            m.Subscribe: self._giver.on_subscribe,
            m.Refuse: self._on_refuse,
            m.WantInit: self._on_want_init,
            m.InitFile: self._on_init,
        }, {
            LinkUp: self._on_link_up,
            LinkDown: self._on_link_down,
            m.Join: self._on_join,
            m.Peers: self._on_peers,
            m.Leave: self._on_leave,
        }

    # The four verbs.

    def receive(self, peer: NodeId, message: Happening, *, now: float) -> None:
        """See `Core`. Raises `PeerError`."""
        if now - self._noticed_at > SLEPT_S:
            self._notice_gap(now)  # What piled up meanwhile is old: it must not be played.
        self._noticed_at = now
        partner, kind = self.partners.get(peer), type(message)
        if partner is not None and kind in self._from_partner:
            partner.heard_at = now
            self._from_partner[kind](partner, message, now)
        elif kind in self._from_anybody:
            self._from_anybody[kind](peer, message, now)
        elif kind not in self._from_partner:
            raise BadMessage(f"{kind.__name__} does not belong to a swarm")
        # Else it left, or has not joined: what is still on the way does not matter.
        if now >= self._giver.map_at:
            self._giver.tell_next(now=now)

    def wake(self, *, now: float) -> None:
        """See `Core`."""
        if now - self._noticed_at > SLEPT_S:
            self._notice_gap(now)
        self._noticed_at = now
        if now >= self._upkeep_at:
            self._upkeep(now)
        if now >= self._giver.map_at:
            self._giver.tell_next(now=now)
        if now >= self._parenting.seek_at:
            self._parenting.seek(now=now)
        if now >= self._taker.plan_at:
            self._taker.plan(now=now)
        if self.watch and now >= self.watch.playout.take_at:
            self._play(now)

    def wake_at(self) -> float:
        """See `Core`."""
        # A map can wait a little for something else to happen: most of them cost no alarm.
        at = self._giver.map_at + MAP_SLACK_S
        # Asked after all that happens, so without a call: `min` would cost more than all else here.
        if self._upkeep_at < at:
            at = self._upkeep_at
        if self._taker.plan_at < at:
            at = self._taker.plan_at
        if self._parenting.seek_at < at:
            at = self._parenting.seek_at
        if self.watch is not None and self.watch.playout.take_at < at:
            at = self.watch.playout.take_at
        return at

    def effects(self) -> list[Effect]:
        """See `Core`; besides its effects `Play`, `InitReady` and `EpochSeen`."""
        out, self.mesh.out = self.mesh.out, []
        return out

    def flows(self, now: float) -> bool:
        """Whether the stream comes, or has ended."""
        return now - self._edge_at < STILL_S or self.ended

    # What the node tells us besides messages.

    def learn(self, node: NodeId, addresses: Sequence[Address], *, now: float) -> None:
        """A node that may trade in this stream: from the ticket, the DHT, or a partner."""
        if node != self.me:
            self.candidates.learn(node, addresses)
            self._seek_partners(now)

    def add_init(self, init: Init) -> bytes:
        """The broadcaster's: make an init known; returns its hash, for the heads."""
        digest = init_hash(pack_init(init))
        self._keep_init(digest, init)
        return digest

    def publish(self, signed: Signed, *, now: float) -> None:
        """The broadcaster's: put the next head and its pieces into the mesh."""
        head = signed.head
        self.window.add_head(head)
        self._edge_at = now
        self.mesh.count_rate(head)
        for rendition, pieces in signed.pieces.items():
            for index, piece in enumerate(pieces):
                self.window.add_piece(head.seq, rendition, index, piece.data, piece.proof)
                feed = rendition, substream_of(head.seq, index)
                self._giver.forward(feed, head.seq, index, 0, now=now)
        self._giver.note_change(head.seq, now=now)
        if head.end:
            self._end(head, now)

    def renew(self, epoch: Epoch, *, now: float) -> None:
        """The broadcaster's: go on under a new epoch certificate, and tell everybody."""
        self.epoch = epoch
        for peer in self.partners:
            self._join(peer, now)

    def leave(self, reason: str) -> None:
        """Tell the partners that we go."""
        for peer in list(self.partners):
            self.mesh.send(peer, m.Leave(self.stream, reason))

    # Links.

    def _on_link_up(self, peer: NodeId, link: LinkUp, now: float) -> None:
        if len(self._links) < LINKS_MAX or peer in self._dialling:
            self._links[peer] = link.address
        if peer in self._dialling:
            self._dialling.discard(peer)
            self.candidates.worked(peer)
            self._join(peer, now)
        self._seek_partners(now)

    def _on_link_down(self, peer: NodeId, link: LinkDown, now: float) -> None:
        if link.reason == SLEPT:
            return  # Our own doing, and we are dialling again already.
        self._links.pop(peer, None)
        self._dialling.discard(peer)
        self.candidates.failed(peer, now=now)
        self._forget(peer, now)

    def _forget(self, peer: NodeId, now: float) -> None:
        """A partner is gone: so is all that concerns it, and its work goes to others."""
        self._joined.pop(peer, None)
        self._limbo.forget(peer)
        self.children.forget(peer)
        self._giver.forget(peer)
        if self.partners.pop(peer, None) is None:
            return
        for feed in self.parents.fed_by(peer):
            del self.parents.by_feed[feed]
        self._parenting.seek(now=now)
        self._taker.soon(now=now)

    def _notice_gap(self, now: float) -> None:
        if self._noticed_at == -inf:
            self._epoch_at = now  # Nothing has happened before.
        else:
            self._slept(now)

    def _slept(self, now: float) -> None:
        """Our machine was stopped: what the partners think of us is over. Start afresh, at live."""
        self.mesh.out.append(Note(SLEPT, {}))
        if self.watch:
            self.watch.playout.pause(after=self.window.newest)
        for peer in list(self.partners):
            self._forget(peer, now)
            self.mesh.out.append(Hangup(peer, SLEPT))
        self._links.clear()
        self._dialling.clear()
        self.candidates.hurry()
        self._upkeep_at = now

    # Partners.

    def _on_join(self, peer: NodeId, join: m.Join, now: float) -> None:
        if join.stream != self.stream:
            raise BadMessage("join of another stream")
        if join.certificate:
            self._learn_epoch(join.certificate, now)
        if peer not in self.partners and not self._admit(peer, join, now):
            self._giver.send_peers(peer)
            self.mesh.send(peer, m.Leave(self.stream, "full"))
            return
        known = peer in self._joined
        self.partners[peer].certified |= bool(join.certificate)
        if not known or (self.epoch is not None and not self.partners[peer].certified):
            self._join(peer, now)
        if not known:
            self._giver.send_peers(peer)
        self._giver.tell(self.partners[peer], now=now)
        if join.head and self.epoch and heads.parse(join.head).epoch == self.epoch.number:
            self._accept_head(self.partners[peer], join.head, now)

    def _admit(self, peer: NodeId, join: m.Join, now: float) -> bool:
        if len(self.partners) >= self.mesh.config.partners_max and not self._make_room(now):
            return False
        if self.mesh.met_at is None:
            self.mesh.met_at = now
        self.mesh.note_need(now)
        address = self._links.get(peer, ("", 0))
        dialled = peer in self._joined
        self.partners[peer] = Partner(peer, address, Role(join.role), now, now, dialled)
        if address[0]:
            self.candidates.learn(peer, [address])
        self.candidates.worked(peer)
        return True

    def _make_room(self, now: float) -> bool:
        """Let a partner go that neither feeds us nor is fed, so that newcomers find room.

        Without it the first 17 nodes, who are all partners of each other, refuse everybody else.
        """
        idle = [
            p.node for p in self.partners.values()
            if p.role is VIEWER and now - p.joined_at > SETTLED_S
            and not self.parents.fed_by(p.node) and not self.children.feeds_of(p.node)
        ]  # fmt: skip
        if not idle:
            return False
        gone = self.mesh.rng.choice(idle)
        self.mesh.send(gone, m.Leave(self.stream, "full"))
        self._forget(gone, now)
        return True

    def _on_peers(self, peer: NodeId, message: m.Peers, now: float) -> None:
        """From partners, and from full nodes that hand us on to others."""
        if peer in self.partners or peer in self._joined:
            for node, ip, port in message.peers:
                if node != self.me:
                    self.candidates.learn(node, [(ip, port)])
            self._seek_partners(now)

    def _on_leave(self, peer: NodeId, _message: m.Leave, now: float) -> None:
        if peer in self.partners or peer in self._joined:
            self._forget(peer, now)
            self.candidates.failed(peer, now=now)
            self._seek_partners(now)

    def _on_map(self, partner: Partner, told: m.Map, now: float) -> None:
        partner.learn_map(told, self.window.newest)
        last = told.base + len(told.masks) - 1
        if last > self.mesh.claimed:
            self.mesh.claimed = last
        if self._parenting.lacking:
            self._parenting.seek(now=now)
        self._taker.note_map(told, now=now)

    def _on_refuse(self, partner: Partner, message: m.Refuse, now: float) -> None:
        self._parenting.on_refuse(partner, message, now=now)
        self._taker.soon(now=now)

    def _on_want_init(self, partner: Partner, message: m.WantInit, _now: float) -> None:
        if message.hash in self.inits:
            packed = pack_init(self.inits[message.hash])
            self.mesh.send(partner.node, m.InitFile(self.stream, packed))

    # Trust: what comes in becomes ours only here.

    def _learn_epoch(self, raw: bytes, now: float) -> None:
        if self.epoch is not None and raw == self.epoch.raw:
            return
        epoch = epochs.parse(raw)
        if epoch.stream != self.stream:
            raise Misbehaviour("epoch certificate of another stream")
        if not epoch.covers(self._wall_ms(now)):
            raise BadMessage("epoch certificate that is not valid now: stale stream")
        if self.epoch is not None and epoch.number < self.epoch.number:
            return  # The sender slept through a change of epochs: it learns of ours.
        if epoch.number < self._mark:
            raise BadMessage("epoch certificate from before one that we have seen")
        if self.epoch is None or epoch.number > self.epoch.number:
            first = self.epoch is None
            self.epoch, self._mark, self._epoch_at = epoch, epoch.number, now
            self.ended = self._told_end = False
            self.mesh.out.append(EpochSeen(epoch))
            for partner in self.partners.values():
                if not (first and partner.certified):
                    self._join(partner.node, now)

    def _on_parcel(self, partner: Partner, parcel: Parcel, now: float) -> None:
        header, body = parcel.header, parcel.body
        if not isinstance(header, m.Piece):
            raise BadMessage(f"a parcel with {type(header).__name__}")
        known = self.window.head(header.seq)
        if header.head and known is not None and known.raw == header.head:
            partner.knows.add(header.seq)
        elif header.head:
            if not self._accept_head(partner, header.head, now):
                return  # The broadcaster forked: the piece may well fit the other head.
            known = self.window.head(header.seq)
        if header.seq in self._forked_at:
            return
        if known is not None:
            self._accept_piece(partner, header, body, now)
        elif header.seq >= self.window.oldest_allowed:
            self._limbo.add(partner.node, header, body, now=now)

    def _accept_head(self, partner: Partner, raw: bytes, now: float) -> bool:
        """Check a head and keep it; False when it belongs to another branch of a fork.

        Raises `PeerError`.
        """
        head = heads.parse(raw)
        known = self.window.head(head.seq)
        if known is head or (known is not None and known.raw == raw):
            partner.knows.add(head.seq)
            return True
        if self.epoch is None or head.epoch > self.epoch.number:
            return True  # Its certificate is on the way, on another QUIC stream.
        if head.epoch < self.epoch.number and now - self._epoch_at < EPOCH_GRACE_S:
            return True  # The sender has not heard of our epoch yet.
        head.verify(self.epoch, wall_ms=self._wall_ms(now))
        if self._forks(head, known):
            self._fork(head)
            return False
        partner.knows.add(head.seq)
        newest = self.window.newest
        if self.window.add_head(head):
            self._on_head(head, partner, fresh=head.seq > newest, now=now)
        return True

    def _on_head(self, head: Head, partner: Partner, *, fresh: bool, now: float) -> None:
        """A head is ours now. fresh: the live edge moved."""
        self.counters.heads_verified += 1
        self.mesh.count_rate(head)
        if fresh:
            self._edge_at = now
        if head.end:
            self._end(head, now)
        if self.watch:
            if self.watch.rendition is None and head.parts:
                self.watch.choose(head, now=now)
            self.watch.saw_head(head, fresh=fresh, now=now)
        for part in head.parts:
            if part.init not in self.inits:
                self.mesh.send(partner.node, m.WantInit(self.stream, part.init))
        for waiting in self._limbo.release(head.seq):
            sender = self.partners.get(waiting.peer)
            if sender is not None:
                self._try_waiting(sender, waiting.header, waiting.body, now)
        self._taker.note_head(head.seq, now=now)

    def _try_waiting(self, sender: Partner, header: m.Piece, body: bytes, now: float) -> None:
        """A piece from limbo may be a lie: blame its sender, not whoever brought the head."""
        try:
            self._accept_piece(sender, header, body, now)
        except Misbehaviour as error:
            self.mesh.out.append(Hangup(sender.node, str(error), guilty=True))

    def _accept_piece(self, partner: Partner, header: m.Piece, body: bytes, now: float) -> None:
        """Check a piece, keep it, and pass it on. Raises `Misbehaviour`."""
        seq, rendition, index = header.seq, header.rendition, header.index
        feed = rendition, substream_of(seq, index)
        if len(header.proof) % HASH_BYTES:
            raise BadMessage("a Merkle proof of broken hashes")
        try:
            new = self.window.add_piece(seq, rendition, index, body, header.proof)
        except Misbehaviour:
            self.counters.pieces_refused += 1
            raise
        self._taker.settle((seq, rendition, index), partner.node, now=now)
        self._count_piece(partner, header, feed, len(body), new=new)
        if not new:
            return
        self._giver.forward(feed, seq, index, header.hops + 1, besides=partner.node, now=now)
        self._giver.note_change(seq, now=now)
        if self.watch and self.window.complete(seq, rendition):
            self.watch.arrived(seq, rendition, now=now)
            self._taker.note_complete()
            if self.watch.playout.waits:
                self._play(now)

    def _count_piece(
        self, partner: Partner, header: m.Piece, feed: Feed, size: int, *, new: bool
    ) -> None:
        mesh, counters, account = self.mesh, self.counters, partner.account
        if not new:
            account.duplicates += size
            counters.duplicates += size
            return
        parent = self.parents.by_feed.get(feed)
        if parent is not None and parent.peer == partner.node:
            parent.brought(header.seq)
            account.barren = 0
        hops = header.hops + 1
        counters.pieces_verified += 1
        counters.taken[partner.role] += size
        if hops > counters.hops_max:
            counters.hops_max = hops
        account.taken += size
        mesh.depth[feed] = hops if hops < NO_HOPS else NO_HOPS
        if header.seq > mesh.fed.get(feed, -1):
            mesh.fed[feed] = header.seq

    def _on_init(self, _partner: Partner, message: m.InitFile, now: float) -> None:
        digest = init_hash(message.packed)
        wanted = any(
            part.init == digest
            for seq in self.window
            if (head := self.window.head(seq))
            for part in head.parts
        )
        if wanted and digest not in self.inits:
            self._keep_init(digest, unpack_init(message.packed))
            self._play(now)

    def _keep_init(self, digest: bytes, init: Init) -> None:
        self.inits[digest] = init
        if len(self.inits) > INITS_MAX:
            self.inits.popitem(last=False)
        self.mesh.out.append(InitReady(digest, init))

    def _forks(self, head: Head, known: Head | None) -> bool:
        """known: the head at its place."""
        before = self.window.head(head.seq - 1)
        return (known is not None and known.hash != head.hash) or (
            before is not None and before.epoch == head.epoch and before.hash != head.previous
        )

    def _fork(self, head: Head) -> None:
        """Two valid heads at one place: the broadcaster's key is used twice, or it cheats."""
        self._forked_at = {s for s in self._forked_at if s in self.window} | {head.seq}
        if not self.forked:
            self.forked = True
            self.mesh.out.append(Note("forked", {"seq": head.seq, "epoch": head.epoch}))

    def _end(self, head: Head, now: float) -> None:
        """The signed end: pass it on, since no piece will carry it."""
        self.ended = True
        if self.watch:
            self.watch.playout.end_seq = head.seq
        for peer in self.partners:
            self._join(peer, now)
        self._play(now)

    # Once a second.

    def _upkeep(self, now: float) -> None:
        self._upkeep_at = now + UPKEEP_S
        self._drop_silent(now)
        self._seek_partners(now)
        for peer in self.children.peers():
            if self.partners[peer].quiet(now):
                self.children.forget(peer)  # If it is there after all, it asks for another parent.
        self._giver.adapt(now=now)
        self._choose_rendition(now)
        self._parenting.upkeep(now=now)
        self._gossip(now)
        self._taker.prune()
        self._taker.soon(now=now)
        self._play(now)

    def _drop_silent(self, now: float) -> None:
        for partner in list(self.partners.values()):
            if now - partner.heard_at > SILENT_S:
                self._forget(partner.node, now)
                self.mesh.out.append(Hangup(partner.node, "silent"))

    def _seek_partners(self, now: float) -> None:
        """Join those we are linked with, dial others, until there are enough."""
        lacking = PARTNERS_WANTED - len(self.partners) - len(self._dialling)
        if lacking > 0:
            lacking -= self._joining(now)
        if lacking <= 0:
            return
        besides = {self.me, *self.partners, *self._dialling, *self._joined}
        rng = self.mesh.rng
        for candidate in self.candidates.pick(lacking, besides=besides, now=now, rng=rng):
            if candidate.node in self._links:
                self._join(candidate.node, now)
            else:
                self._dialling.add(candidate.node)
                self.mesh.out.append(Dial(candidate.node, candidate.addresses))

    def _joining(self, now: float) -> int:
        """How many were asked to join a moment ago, and may yet do so."""
        waiting, since = 0, now - JOINING_S
        for peer, at in self._joined.items():
            if at > since and peer not in self.partners:
                waiting += 1
        return waiting

    def _gossip(self, now: float) -> None:
        if now >= self._gossip_at and self.partners:
            self._gossip_at = now + GOSSIP_S
            self._giver.send_peers(self.mesh.rng.choice(sorted(self.partners)))

    def _choose_rendition(self, now: float) -> None:
        head = self.mesh.newest_head()
        if self.watch is None or head is None or not head.parts:
            return

        def holders(rendition: int) -> int:
            heard = (p.heard.get(rendition) for p in self.partners.values())
            return sum(h is not None and h.edge > 0 and any(h.slots) for h in heard)

        self.watch.decide(head, holders=holders, now=now)

    # Small things.

    def _play(self, now: float) -> None:
        """Hand over what is due, and tell the end once it is reached."""
        for chunk in self.watch.take(now=now) if self.watch else ():
            if self.first_chunk_at is None:
                self.first_chunk_at = now
            self.mesh.out.append(Play(chunk))
        if self.ended and not self._told_end and not (self.watch and self.watch.playout.busy):
            self._told_end = True
            self.mesh.out.append(Note("ended", {"seq": self.window.newest}))

    def _join(self, peer: NodeId, now: float) -> None:
        self._joined[peer] = now
        newest = self.mesh.newest_head()
        valid = self.epoch is not None and self.epoch.covers(self._wall_ms(now))
        certificate = self.epoch.raw if self.epoch and valid else b""
        raw = newest.raw if newest else b""
        self.mesh.send(peer, m.Join(self.stream, int(self.role), certificate, raw))

    def _wall_ms(self, now: float) -> int:
        return int(self.mesh.wall(now) * 1000)
