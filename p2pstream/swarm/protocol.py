"""Swarm: the mesh around one stream, as one node sees it.

Invariants: only verified pieces are in the window, and only what is in the window is announced,
pushed, sent or played; a partner is either here with all that concerns it or gone without a trace;
everything kept is bounded by the window of heads or by a named limit.

The journey of a piece: `_on_piece` -> `_accept_head` -> `_accept_piece` (verified, stored) ->
`_forward` (to children, at once) and `_haves` (to the others, soon) -> `Watch` (when complete).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from math import inf
from random import Random

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
    Send,
)
from p2pstream.errors import BadMessage, Misbehaviour
from p2pstream.identity import Address, NodeId, StreamId
from p2pstream.playback.playout import Config as PlayoutConfig
from p2pstream.stream import epoch as epochs
from p2pstream.stream import head as heads
from p2pstream.stream.chunk import TICKS_PER_S, Chunk, Init
from p2pstream.stream.chunker import Signed
from p2pstream.stream.epoch import Epoch
from p2pstream.stream.head import Head
from p2pstream.stream.manifest import init_hash, pack_init, unpack_init
from p2pstream.stream.merkle import HASH_BYTES
from p2pstream.stream.window import HEADS_MAX, Window
from p2pstream.stream.window import Piece as Stored
from p2pstream.swarm import messages as m
from p2pstream.swarm import push, scheduler
from p2pstream.swarm.ledger import Counters
from p2pstream.swarm.limbo import Limbo
from p2pstream.swarm.messages import NO_HOPS, SUBSTREAMS, Role, bits, pack_mask, substream_of
from p2pstream.swarm.partners import PARTNERS_MAX, PARTNERS_WANTED, Candidates, Partner
from p2pstream.swarm.push import Children, Feed, Offer, Parent, Parents
from p2pstream.swarm.watch import Watch
from p2pstream.wire.codec import Message

TICK_S = 0.05  # While pieces are missing: a third of a parent's patience.
HAVE_S = 0.04  # design/protocol.md: deltas coalesced 20-50 ms.
UPKEEP_S = 1.0  # Full maps, parents, partners: design/protocol.md says every 1-2 s.
GOSSIP_S = 10.0  # Partner exchange (PPTV: at most every 10 s).
SILENT_S = 6.0  # Six maps missed: the partner is gone.
SLEPT = "slept"
SLEPT_S = 3.0  # `wake` this late: the machine slept, and our partners have given us up.
COOL_S = 5.0  # A parent that failed is not chosen for that feed again so soon (20 s in the paper).
MISSED_MAX = 2  # Late pieces in a row, each repaired by pull, before a parent is replaced.
STARVED_CHUNKS = 2 * SUBSTREAMS  # A parent that brought nothing while the edge moved this far.
PIECE_LIFE_S = 2.0  # A piece older than this is not worth sending.
BACKLOG_S = 1.0  # A child whose queue is longer than this gets no more pushed until it drains.
BACKLOG_MIN = 256 * 1024  # Bytes always allowed, whatever the rate: one BDP (facts/quic.md 8).
INITS_MAX = 32  # Four changes of all renditions.
PULL_CHUNKS_MAX = 32  # How far back a node that does not play fetches: half the window.
ANSWERS_MAX = 64  # Pieces sent for one Want.
EPOCH_GRACE_S = 10.0  # How long partners may go on with the epoch before: news takes seconds.
ASK_HEAD_S = 0.3  # An answer takes a round trip; the next partner may be quicker.
IMPROVE_S = 3.0  # How often one feed is moved from the origin to a peer.
NOT_LINKED_MAX = 64  # Links to peers that are no partners (yet) that we remember.


@dataclass(frozen=True, slots=True)
class Config:
    """copies: upload, in rates of the stream. rendition: the one the user insists on."""

    copies: float = 4.0  # Wild guess for homes: 4 Mbit/s up at 1 Mbit/s.
    partners_max: int = PARTNERS_MAX
    rendition: int | None = None
    playout: PlayoutConfig = field(default_factory=PlayoutConfig)


ORIGIN_COPIES = 3.0  # The default: what a broadcaster pays for, whatever the audience.
SEED_COPIES = 16.0  # Wild guess: a server with 100 Mbit/s carries 16 copies of 6 Mbit/s.


# Effects besides those of core.py.


@dataclass(frozen=True, slots=True)
class Play:
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
        self.stream, self.me, self.role = stream, me, role
        self.config = config or Config()
        self.epoch = epoch
        self.window = Window()
        self.counters = Counters()
        self.partners: dict[NodeId, Partner] = {}
        self.candidates = Candidates()
        self.children = Children(round(self.config.copies * SUBSTREAMS))
        self.parents = Parents()
        self.inits: OrderedDict[bytes, Init] = OrderedDict()
        self.watch = (
            Watch(self.window, self.inits.__contains__, self.config.playout, self.config.rendition)
            if role is Role.VIEWER
            else None
        )
        self.ended = False
        self.forked = False
        self._told_end = False
        self.first_chunk_at: float | None = None
        self._roads, self._rng, self._wall = roads, rng, wall
        self._mark = epoch_mark
        self._epoch_at = -inf
        self._limbo = Limbo()
        self._links: dict[NodeId, Address] = {}
        self._dialling: set[NodeId] = set()
        self._joined: set[NodeId] = set()  # To whom we said Join.
        self._known_at: dict[tuple[int, int], float] = {}
        self._depth: dict[Feed, int] = {}  # Hops from the broadcaster, by the newest piece.
        self._fed: dict[Feed, int] = {}  # The newest seq of which we have a piece.
        self._haves: set[tuple[int, int]] = set()  # (rendition, seq) to announce.
        self._have_at = inf
        self._plan_at = inf
        self._upkeep_at = 0.0
        self._gossip_at = 0.0
        self._improve_at = 0.0
        self._asked_head_at = -inf
        self._woken_at: float | None = None
        self._tokens = 0.0
        self._tokens_at = 0.0
        self._rate = 0.0  # Bytes a second of the largest rendition, smoothed.
        self._out: list[Effect] = []

    # The four verbs.

    def receive(self, peer: NodeId, message: Happening, *, now: float) -> None:
        match message:
            case LinkUp():
                self._on_link_up(peer, message, now)
            case LinkDown():
                self._on_link_down(peer, message, now)
            case m.Join():
                self._on_join(peer, message, now)
            case _:
                self._from_partner(peer, message, now)
        self._take(now)

    def wake(self, *, now: float) -> None:
        if self._woken_at is not None and now - self._woken_at > SLEPT_S:
            self._slept(now)
        self._woken_at = now
        if now >= self._have_at:
            self._send_haves()
        if now >= self._upkeep_at:
            self._upkeep(now)
        if now >= self._plan_at:
            self._plan(now)
        self._take(now)

    def wake_at(self) -> float:
        play_at = self.watch.playout.wake_at() if self.watch else inf
        return min(self._have_at, self._plan_at, self._upkeep_at, play_at)

    def effects(self) -> list[Effect]:
        out, self._out = self._out, []
        return out

    # What the node tells us besides messages.

    def learn(self, node: NodeId, addresses: Iterable[Address], *, now: float) -> None:
        """A node that may trade in this stream: from the ticket, the DHT, or a partner."""
        if node == self.me:
            return
        self.candidates.learn(node, addresses)
        self._seek_partners(now)

    def add_init(self, init: Init) -> bytes:
        """The broadcaster's: make an init known; returns its hash, for the heads."""
        packed = pack_init(init)
        digest = init_hash(packed)
        self._keep_init(digest, init)
        return digest

    def publish(self, signed: Signed, *, now: float) -> None:
        """The broadcaster's: put the next head and its pieces into the mesh."""
        head = signed.head
        self.window.add_head(head)
        self._count_rate(head)
        for rendition, pieces in signed.pieces.items():
            for index, piece in enumerate(pieces):
                self.window.add_piece(head.seq, rendition, index, piece.data, piece.proof)
                self._forward(head.seq, rendition, index, 0, now)
            self._announce(head.seq, rendition, now)
        if head.end:
            self._end(head)

    def renew(self, epoch: Epoch) -> None:
        """The broadcaster's: go on under a new epoch certificate, and tell everybody."""
        self.epoch = epoch
        for peer in self.partners:
            self._join(peer)

    def leave(self, reason: str) -> None:
        """Tell the partners that we go."""
        for peer in list(self.partners):
            self._send(peer, m.Leave(self.stream, reason))

    # Links.

    def _on_link_up(self, peer: NodeId, link: LinkUp, now: float) -> None:
        if len(self._links) < NOT_LINKED_MAX or peer in self._dialling:
            self._links[peer] = link.address
        if peer in self._dialling:
            self._dialling.discard(peer)
            self.candidates.worked(peer)
            self._join(peer)
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
        self._joined.discard(peer)
        self._limbo.forget(peer)
        self.children.forget(peer)
        if self.partners.pop(peer, None) is None:
            return
        for feed in self.parents.fed_by(peer):
            del self.parents.by_feed[feed]
        self._seek_parents(now)
        self._plan_soon(now)

    def _slept(self, now: float) -> None:
        """Our machine was stopped: what the partners think of us is over. Start afresh, at live."""
        self._out.append(Note(SLEPT, {}))
        if self.watch:
            self.watch.playout.pause()
        for peer in list(self.partners):
            self._forget(peer, now)
            self._out.append(Hangup(peer, SLEPT))
        self._links.clear()
        self._dialling.clear()
        self.candidates.hurry()
        self._upkeep_at = now

    # Messages.

    def _on_join(self, peer: NodeId, join: m.Join, now: float) -> None:
        if join.stream != self.stream:
            raise BadMessage("join of another stream")
        if join.certificate:
            self._learn_epoch(join.certificate, now)
        if peer not in self.partners:
            if len(self.partners) >= self.config.partners_max:
                self._send(peer, self._peers_for(peer))
                self._send(peer, m.Leave(self.stream, "full"))
                return
            dialled = peer in self._joined
            address = self._links.get(peer, ("", 0))
            self.partners[peer] = Partner(peer, address, Role(join.role), now, now, dialled)
            self.candidates.worked(peer)
            if address[0]:
                self.candidates.learn(peer, [address])
        if peer not in self._joined:
            self._join(peer)
        self._send_maps(peer)
        self._send(peer, self._peers_for(peer))
        if join.head and self.epoch is not None:
            head = heads.parse(join.head)
            if head.epoch == self.epoch.number:
                self._accept_head(self.partners[peer], join.head, now)

    def _from_partner(self, peer: NodeId, message: Happening, now: float) -> None:
        partner = self.partners.get(peer)
        if partner is None:
            return  # It left, or has not joined: what is still on the way does not matter.
        partner.heard_at = now
        match message:
            case Parcel(m.Piece() as header, body):
                self._on_piece(partner, header, body, now)
            case m.Map():
                partner.learn_map(message)
                self._note_known(partner, message.rendition, now)
                self._seek_parents(now)
            case m.Have():
                partner.learn_have(message)
                self._note_known(partner, message.rendition, now)
            case m.Want():
                self._on_want(partner, message, now)
            case m.Lack():
                self._on_lack(partner, message, now)
            case m.Subscribe():
                self._on_subscribe(partner, message, now)
            case m.Refuse():
                self._on_refuse(partner, message, now)
            case m.Peers():
                for node, ip, port in message.peers:
                    if node != self.me:
                        self.candidates.learn(NodeId(node), [(ip, port)])
                self._seek_partners(now)
            case m.WantInit():
                if message.hash in self.inits:
                    packed = pack_init(self.inits[message.hash])
                    self._send(peer, m.InitFile(self.stream, packed))
            case m.InitFile():
                self._on_init(message)
            case m.Leave():
                self._forget(peer, now)
                self.candidates.failed(peer, now=now)
            case _:
                raise BadMessage(f"{type(message).__name__} does not belong to a swarm")

    def _learn_epoch(self, raw: bytes, now: float) -> None:
        if self.epoch is not None and raw == self.epoch.raw:
            return
        epoch = epochs.parse(raw)
        if epoch.stream != self.stream:
            raise Misbehaviour("epoch certificate of another stream")
        if not epoch.covers(self._wall_ms(now)) or epoch.number < self._mark:
            raise BadMessage("epoch certificate that is not valid now: stale stream")
        if self.epoch is None or epoch.number > self.epoch.number:
            news = self.epoch is not None
            self.epoch, self._mark, self._epoch_at = epoch, epoch.number, now
            self.ended = self._told_end = False
            self._out.append(EpochSeen(epoch))
            for peer in self.partners if news else ():
                self._join(peer)

    def _on_piece(self, partner: Partner, header: m.Piece, body: bytes, now: float) -> None:
        if header.head:
            self._accept_head(partner, header.head, now)
        if header.seq in self.window:
            self._accept_piece(partner, header, body, now)
        elif header.seq >= self.window.oldest_allowed:
            self._limbo.add(partner.node, header, body, now=now)

    def _accept_head(self, partner: Partner, raw: bytes, now: float) -> None:
        """Check a head and keep it. Raises `PeerError`."""
        head = heads.parse(raw)
        partner.knows.add(head.seq)
        known = self.window.head(head.seq)
        if known is not None and known.raw == raw:
            return
        if self.epoch is None or head.epoch > self.epoch.number:
            return  # Its certificate is on the way, on another QUIC stream.
        if head.epoch < self.epoch.number and now - self._epoch_at < EPOCH_GRACE_S:
            return  # The sender has not heard of our epoch yet.
        head.verify(self.epoch, wall_ms=self._wall_ms(now))
        if self._forks(head):
            self._fork(head)
            return
        newest = self.window.newest
        if not self.window.add_head(head):
            return
        self.counters.heads_verified += 1
        self._count_rate(head)
        if head.end:
            self._end(head)
        if self.watch:
            if self.watch.rendition is None and head.parts:
                self.watch.choose(head, now=now)
            self.watch.saw_head(head, fresh=head.seq > newest, now=now)
        self._want_inits(head, partner)
        for waiting in self._limbo.release(head.seq):
            sender = self.partners.get(waiting.peer)
            if sender is not None:
                self._try_waiting(sender, waiting.header, waiting.body, now)
        self._plan_soon(now)

    def _try_waiting(self, sender: Partner, header: m.Piece, body: bytes, now: float) -> None:
        """A piece from limbo may be a lie: blame its sender, not whoever brought the head."""
        try:
            self._accept_piece(sender, header, body, now)
        except Misbehaviour as error:
            self._out.append(Hangup(sender.node, str(error), guilty=True))

    def _accept_piece(self, partner: Partner, header: m.Piece, body: bytes, now: float) -> None:
        seq, rendition, index = header.seq, header.rendition, header.index
        proof = _cut(header.proof)
        try:
            new = self.window.add_piece(seq, rendition, index, body, proof)
        except Misbehaviour:
            self.counters.pieces_refused += 1
            raise
        feed = (rendition, substream_of(seq, index))
        parent = self.parents.by_feed.get(feed)
        if parent is not None and parent.peer == partner.node:
            parent.missed, parent.hops, parent.pieces = 0, header.hops + 1, parent.pieces + 1
            parent.seq = max(parent.seq, seq)
        for other in self.partners.values():
            other.asked.pop((seq, rendition, index), None)
        if not new:
            partner.account.duplicates += len(body)
            self.counters.duplicates += len(body)
            return
        self.counters.pieces_verified += 1
        self.counters.taken[partner.role] += len(body)
        self.counters.hops_max = max(self.counters.hops_max, header.hops + 1)
        partner.account.taken += len(body)
        self._depth[feed] = header.hops + 1
        self._fed[feed] = max(seq, self._fed.get(feed, -1))
        self._forward(seq, rendition, index, header.hops + 1, now, besides=partner.node)
        self._announce(seq, rendition, now)
        if self.watch and self.window.complete(seq, rendition):
            self.watch.arrived(seq, rendition, now=now)

    def _on_want(self, partner: Partner, want: m.Want, now: float) -> None:
        lacking: list[tuple[int, bytes]] = []
        left = ANSWERS_MAX
        for seq, data in want.items:
            lack = 0
            for index in bits(m.unpack_mask(data)):
                piece = self.window.piece(seq, want.rendition, index)
                if piece is None or left == 0 or not self._may_answer(partner.node, now):
                    lack |= 1 << index
                    continue
                left -= 1
                if want.heads:
                    partner.knows.discard(seq)
                hops = self._hops((want.rendition, substream_of(seq, index)))
                self._send_piece(partner, seq, want.rendition, index, piece, hops, now)
            if lack:
                lacking.append((seq, pack_mask(lack)))
        if lacking:
            self._send(partner.node, m.Lack(self.stream, want.rendition, tuple(lacking)))

    def _on_lack(self, partner: Partner, lack: m.Lack, now: float) -> None:
        partner.account.lacks += 1
        heard = partner.heard.get(lack.rendition)
        for seq, data in lack.items:
            mask = m.unpack_mask(data)
            for index in bits(mask):
                partner.asked.pop((seq, lack.rendition, index), None)
            if heard is not None and seq in heard.masks:
                heard.masks[seq] &= ~mask  # Until it says again that it has them.
        self._plan_soon(now)

    def _on_subscribe(self, partner: Partner, message: m.Subscribe, now: float) -> None:
        rendition = message.rendition
        # Whoever feeds us a substream cannot have it from us: two would wait for each other.
        loop = self.parents.mask(partner.node, rendition) & message.substreams
        added, refused = self.children.subscribe(
            partner.node, rendition, message.substreams & ~loop, message.since
        )
        if refused | loop:
            self._send(partner.node, m.Refuse(self.stream, rendition, refused | loop))
        for seq in self.window:
            for index in bits(self.window.have(seq, rendition)):
                if seq >= message.since and added >> substream_of(seq, index) & 1:
                    self._push(partner, seq, rendition, index, None, now)

    def _on_refuse(self, partner: Partner, message: m.Refuse, now: float) -> None:
        partner.slots = 0
        for substream in range(SUBSTREAMS):
            feed = (message.rendition, substream)
            parent = self.parents.by_feed.get(feed)
            if message.substreams >> substream & 1 and parent and parent.peer == partner.node:
                self._drop_parent(feed, partner, now, tell=False)
        self._seek_parents(now)
        self._plan_soon(now)

    def _on_init(self, message: m.InitFile) -> None:
        digest = init_hash(message.packed)
        wanted = any(
            part.init == digest
            for seq in self.window
            if (head := self.window.head(seq))
            for part in head.parts
        )
        if wanted and digest not in self.inits:
            self._keep_init(digest, unpack_init(message.packed))

    # Giving.

    def _forward(
        self, seq: int, rendition: int, index: int, hops: int, now: float, *,
        besides: NodeId | None = None,
    ) -> None:  # fmt: skip
        for peer in self.children.of(seq, rendition, index):
            partner = self.partners.get(peer)
            if partner is not None and peer != besides:
                self._push(partner, seq, rendition, index, hops, now)

    def _push(
        self, partner: Partner, seq: int, rendition: int, index: int, hops: int | None, now: float
    ) -> None:
        if partner.holds(rendition, seq) >> index & 1:
            return
        if self._roads.backlog(partner.node) > max(BACKLOG_MIN, self._rate * BACKLOG_S):
            self.counters.pushes_dropped += 1
            return
        piece = self.window.piece(seq, rendition, index)
        assert piece is not None, "only what is in the window is pushed"
        if hops is None:
            hops = self._hops((rendition, substream_of(seq, index)))
        self._send_piece(partner, seq, rendition, index, piece, hops, now)

    def _send_piece(
        self, partner: Partner, seq: int, rendition: int, index: int,
        piece: Stored, hops: int, now: float,
    ) -> None:  # fmt: skip
        head = self.window.head(seq)
        assert head is not None, "a piece in the window has its head there"
        raw = b"" if partner.knows_head(seq) else head.raw
        partner.knows.add(seq)
        header = m.Piece(
            self.stream, seq, rendition, index, min(hops, NO_HOPS - 1), raw, b"".join(piece.proof)
        )
        self._out.append(Send(partner.node, Parcel(header, piece.data), now + PIECE_LIFE_S))
        partner.account.given += len(piece.data)
        self.counters.given += len(piece.data)
        self._tokens -= len(piece.data)

    def _may_answer(self, peer: NodeId, now: float) -> bool:
        """Whether the upload budget has room for a pull."""
        budget = self.config.copies * max(self._rate, 32 * 1024)
        self._tokens = min(2 * budget, self._tokens + budget * (now - self._tokens_at))
        self._tokens_at = now
        return self._tokens > 0 and self._roads.backlog(peer) < BACKLOG_MIN + self._rate

    def _announce(self, seq: int, rendition: int, now: float) -> None:
        self._haves.add((rendition, seq))
        self._have_at = min(self._have_at, now + HAVE_S)

    def _send_haves(self) -> None:
        """Tell each partner that wants them about new pieces it does not hold itself."""
        haves: dict[int, dict[int, int]] = {}
        for rendition, seq in sorted(self._haves):
            haves.setdefault(rendition, {})[seq] = self.window.have(seq, rendition)
        self._haves.clear()
        self._have_at = inf
        for partner in self.partners.values():
            for rendition, masks in haves.items():
                if partner.role is Role.ORIGIN or (
                    partner.heard and rendition not in partner.heard
                ):
                    continue
                items = tuple(
                    (seq, pack_mask(mask))
                    for seq, mask in masks.items()
                    if mask & ~partner.holds(rendition, seq)
                )[-HEADS_MAX:]
                if items:
                    self._send(partner.node, m.Have(self.stream, rendition, items))

    def _send_maps(self, peer: NodeId) -> None:
        newest = self.window.newest
        base = max(0, self.window.oldest_allowed)
        for rendition in self._renditions():
            masks = [pack_mask(self.window.have(s, rendition)) for s in range(base, newest + 1)]
            hops = bytes(self._hops((rendition, s)) for s in range(SUBSTREAMS))
            parents = tuple(
                bytes(parent.peer[: m.SHORT_ID_BYTES]) if parent else b""
                for s in range(SUBSTREAMS)
                for parent in [self.parents.by_feed.get((rendition, s))]
            )
            key = max(0, self.window.newest_key())
            self._send(
                peer,
                m.Map(
                    self.stream, rendition, base, tuple(masks), key, hops, parents,
                    self.children.free,
                ),
            )  # fmt: skip

    # Taking.

    def _note_known(self, partner: Partner, rendition: int, now: float) -> None:
        """Note when we first heard of each chunk that a partner holds."""
        heard = partner.heard.get(rendition)
        oldest = self.window.oldest_allowed
        for seq in heard.masks if heard else ():
            if seq >= oldest:
                self._known_at.setdefault((seq, rendition), now)
        self._plan_soon(now)

    def _plan(self, now: float) -> None:
        """Ask for what is missing and due, and replace parents that let us down."""
        self._plan_at = inf
        self._begin(now)
        wanted: list[tuple[NodeId, scheduler.Missing]] = []
        missing = 0
        for rendition in self._renditions():
            for seq, index in self._missing(rendition):
                missing += 1
                piece = self._describe(seq, rendition, index, now)
                verdict = scheduler.decide(
                    piece, self._holders(seq, rendition, index), now=now, rng=self._rng
                )
                if verdict.late:
                    self._missed((rendition, substream_of(seq, index)), now)
                if verdict.peer is not None:
                    self.partners[verdict.peer].asked[seq, rendition, index] = now
                    wanted.append((verdict.peer, piece))
        self._ask(wanted)
        if missing:
            self._plan_at = now + TICK_S

    def _begin(self, now: float) -> None:
        """Join near the live edge: at the newest key frame that a partner knows of."""
        if self.watch is None or self.watch.playout.next_seq is not None:
            return
        if self.watch.rendition is None:
            self._ask_for_a_head(now)
            return
        keys = [p.key for p in self.partners.values() if p.key <= p.edge(self.watch.rendition)]
        if keys and max(keys) > max(self.window.oldest_allowed, self.watch.playout.last_seq):
            self.watch.playout.start(max(keys), now=now)

    def _ask_for_a_head(self, now: float) -> None:
        """We joined before our partners had anything: the first head tells the renditions."""
        edges = [(h.edge, r, p.node) for p in self.partners.values() for r, h in p.heard.items()]
        edge, rendition, peer = max(edges, default=(-1, 0, self.me))
        if edge >= 0 and now - self._asked_head_at > ASK_HEAD_S:
            self._asked_head_at = now
            self._send(peer, m.Want(self.stream, rendition, ((edge, b"\1"),), heads=True))

    def _missing(self, rendition: int) -> list[tuple[int, int]]:
        """(seq, index) of pieces that a partner holds and we want, oldest first."""
        edge = max((p.edge(rendition) for p in self.partners.values()), default=-1)
        start = self._fetch_from(edge)
        found = []
        for seq in range(start, edge + 1):
            held = 0
            for partner in self.partners.values():
                held |= partner.holds(rendition, seq)
            lacking = self.window.missing(seq, rendition) if seq in self.window else held
            found += [(seq, index) for index in bits(held & lacking)]
        return found

    def _fetch_from(self, edge: int) -> int:
        if self.watch is None:
            return max(self.window.oldest_allowed, edge - PULL_CHUNKS_MAX, 0)
        next_seq = self.watch.playout.next_seq
        if next_seq is None:
            return edge + 1
        return max(next_seq, edge - HEADS_MAX + 1)

    def _describe(self, seq: int, rendition: int, index: int, now: float) -> scheduler.Missing:
        parent = self.parents.by_feed.get((rendition, substream_of(seq, index)))
        asked = tuple(
            (p.node, at)
            for p in self.partners.values()
            if (at := p.asked.get((seq, rendition, index))) is not None
        )
        deadline = self.watch.playout.due(seq) if self.watch else inf
        pushed = parent is not None and parent.first <= seq
        known_at = self._known_at.get((seq, rendition), now)
        return scheduler.Missing(seq, rendition, index, known_at, deadline, pushed, asked)

    def _holders(self, seq: int, rendition: int, index: int) -> list[scheduler.Holder]:
        return [
            scheduler.Holder(p.node, p.role, self._roads.rtt_s(p.node), len(p.asked))
            for p in self.partners.values()
            if p.holds(rendition, seq) >> index & 1
        ]

    def _ask(self, wanted: list[tuple[NodeId, scheduler.Missing]]) -> None:
        for (peer, rendition), masks in scheduler.by_peer(wanted).items():
            items = tuple((seq, pack_mask(mask)) for seq, mask in sorted(masks.items()))
            self.counters.pulls += sum(mask.bit_count() for mask in masks.values())
            for at in range(0, len(items), HEADS_MAX):
                some = items[at : at + HEADS_MAX]
                lacks_heads = any(seq not in self.window for seq, _ in some)
                self._send(peer, m.Want(self.stream, rendition, some, lacks_heads))

    def _missed(self, feed: Feed, now: float) -> None:
        self.counters.pulls_late += 1
        parent = self.parents.by_feed.get(feed)
        if parent is None:
            return
        parent.missed += 1
        if parent.missed >= MISSED_MAX:
            self._drop_parent(feed, self.partners[parent.peer], now)
            self._seek_parents(now)

    # Parents.

    def _seek_parents(self, now: float) -> None:
        """Find a parent for every feed that has none."""
        if self.role is Role.ORIGIN:
            return
        since: dict[tuple[NodeId, int], int] = {}
        for feed in self.parents.open_feeds(self._renditions()):
            offers = self._offers(feed, now)
            chosen = push.choose_parent(offers, partners=len(self.partners), rng=self._rng)
            if chosen is not None:
                first = self._adopt(feed, self.partners[chosen.peer], now)
                key = chosen.peer, feed[0]
                since[key] = min(first, since.get(key, first))
        for (peer, rendition), first in since.items():
            self._subscribe(peer, rendition, since=first)

    def _offers(self, feed: Feed, now: float) -> list[Offer]:
        rendition, substream = feed
        edge = max((p.edge(rendition) for p in self.partners.values()), default=-1)
        offers = []
        for partner in self.partners.values():
            heard = partner.heard.get(rendition)
            if heard is None or partner.slots <= 0 or partner.cool.get(feed, -inf) > now:
                continue
            if heard.parents[substream] == self.me[: m.SHORT_ID_BYTES]:
                continue  # It is our child there.
            offers.append(
                Offer(
                    partner.node, partner.role, heard.hops[substream],
                    self._roads.rtt_s(partner.node), edge - heard.edge,
                    len(self.parents.fed_by(partner.node)), partner.slots,
                )
            )  # fmt: skip
        return offers

    def _adopt(self, feed: Feed, partner: Partner, now: float) -> int:
        """Returns the seq from which on the partner is to push: what comes before it is pulled."""
        edge = max(partner.edge(feed[0]), self._fed.get(feed, -1))
        self.parents.by_feed[feed] = Parent(partner.node, now, first=edge + 1, seq=edge)
        partner.slots -= 1
        return edge + 1

    def _subscribe(self, peer: NodeId, rendition: int, *, since: int = 0) -> None:
        """Tell `peer` which substreams it is to push. since: where those begin that are new."""
        mask = self.parents.mask(peer, rendition)
        self._send(peer, m.Subscribe(self.stream, rendition, mask, since))

    def _drop_parent(
        self, feed: Feed, partner: Partner, now: float, *, tell: bool = True, cool_s: float = COOL_S
    ) -> None:
        del self.parents.by_feed[feed]
        partner.cool[feed] = now + cool_s
        self.counters.parents_replaced += 1
        if tell:
            self._subscribe(partner.node, feed[0])

    # Once a second.

    def _upkeep(self, now: float) -> None:
        self._upkeep_at = now + UPKEEP_S
        self._drop_silent(now)
        self._seek_partners(now)
        self._drop_unwanted_feeds(now)
        self._drop_starved(now)
        self._improve(now)
        self._seek_parents(now)
        for peer in self.partners:
            self._send_maps(peer)
        self._gossip(now)
        self._choose_rendition(now)
        self._prune()
        self._plan(now)

    def _drop_silent(self, now: float) -> None:
        for partner in list(self.partners.values()):
            if now - partner.heard_at > SILENT_S:
                self._forget(partner.node, now)
                self._out.append(Hangup(partner.node, "silent"))

    def _seek_partners(self, now: float) -> None:
        """Join those we are linked with, dial others, until there are enough."""
        lacking = PARTNERS_WANTED - len(self.partners) - len(self._dialling)
        besides = {self.me, *self.partners, *self._dialling, *self._joined}
        for candidate in self.candidates.pick(lacking, besides=besides, now=now, rng=self._rng) \
                if lacking > 0 else ():  # fmt: skip
            if candidate.node in self._links:
                self._join(candidate.node)
            else:
                self._dialling.add(candidate.node)
                self._out.append(Dial(candidate.node, candidate.addresses))

    def _drop_unwanted_feeds(self, now: float) -> None:
        """After a switch of renditions."""
        wanted = self._renditions()
        for feed in [f for f in self.parents.by_feed if f[0] not in wanted]:
            self._drop_parent(feed, self.partners[self.parents.by_feed[feed].peer], now, cool_s=0)

    def _drop_starved(self, now: float) -> None:
        """Replace parents that brought nothing while the edge moved on."""
        for feed, parent in list(self.parents.by_feed.items()):
            edge = max((p.edge(feed[0]) for p in self.partners.values()), default=-1)
            if edge - parent.seq > STARVED_CHUNKS and now - parent.since > UPKEEP_S:
                self._drop_parent(feed, self.partners[parent.peer], now)

    def _improve(self, now: float) -> None:
        """Take one feed from the origin to a peer when enough others are fed by it directly."""
        if now < self._improve_at or self.role is Role.ORIGIN:
            return
        self._improve_at = now + IMPROVE_S * (0.5 + self._rng.random())
        for feed, parent in list(self.parents.by_feed.items()):
            partner = self.partners[parent.peer]
            if partner.role is not Role.ORIGIN:
                continue
            direct = [
                p.node for p in self.partners.values()
                if (h := p.heard.get(feed[0])) and h.hops[feed[1]] == 1
            ]  # fmt: skip
            others = [o for o in self._offers(feed, now) if o.role is not Role.ORIGIN]
            if others and push.may_leave_origin(self.me, direct, feed[1]):
                self._drop_parent(feed, partner, now, cool_s=10 * COOL_S)
                return

    def _gossip(self, now: float) -> None:
        if now >= self._gossip_at and self.partners:
            self._gossip_at = now + GOSSIP_S
            peer = self._rng.choice(sorted(self.partners))
            self._send(peer, self._peers_for(peer))

    def _choose_rendition(self, now: float) -> None:
        head = self.window.head(self.window.newest)
        if self.watch is None or head is None or not head.parts:
            return

        def holders(rendition: int) -> int:
            return sum(p.edge(rendition) > 0 and p.slots > 0 for p in self.partners.values())

        self.watch.decide(head, holders=holders, now=now)

    def _prune(self) -> None:
        oldest = self.window.oldest_allowed
        self._known_at = {key: at for key, at in self._known_at.items() if key[0] >= oldest}
        for partner in self.partners.values():
            partner.forget_before(oldest)

    # Small things.

    def _take(self, now: float) -> None:
        """Hand over what is due, and tell the end once it is reached."""
        for chunk in self.watch.take(now=now) if self.watch else ():
            if self.first_chunk_at is None:
                self.first_chunk_at = now
            self._out.append(Play(chunk))
        if self.ended and not self._told_end and not (self.watch and self.watch.playout.busy):
            self._told_end = True
            self._out.append(Note("ended", {"seq": self.window.newest}))

    def _plan_soon(self, now: float) -> None:
        self._plan_at = min(self._plan_at, now)

    def _renditions(self) -> tuple[int, ...]:
        """What we carry: a viewer what it watches, the others all there is."""
        if self.watch is not None:
            return self.watch.renditions
        head = self.window.head(self.window.newest)
        if self.role is Role.SEED:
            heard = {r for p in self.partners.values() if p.role is Role.VIEWER for r in p.heard}
            return tuple(sorted(heard & {part.rendition for part in head.parts} if head else ()))
        return tuple(part.rendition for part in head.parts) if head else ()

    def _hops(self, feed: Feed) -> int:
        if self.role is Role.ORIGIN:
            return 0
        parent = self.parents.by_feed.get(feed)
        return min(self._depth.get(feed, NO_HOPS), NO_HOPS) if parent and parent.pieces else NO_HOPS

    def _join(self, peer: NodeId) -> None:
        self._joined.add(peer)
        newest = self.window.head(self.window.newest)
        certificate = self.epoch.raw if self.epoch else b""
        raw = newest.raw if newest else b""
        self._send(peer, m.Join(self.stream, int(self.role), certificate, raw))

    def _peers_for(self, peer: NodeId) -> m.Peers:
        known = [p for p in self.partners.values() if p.node != peer and p.address[0]]
        some = self._rng.sample(known, min(len(known), 16))
        return m.Peers(self.stream, tuple((p.node, p.address[0], p.address[1]) for p in some))

    def _want_inits(self, head: Head, partner: Partner) -> None:
        for part in head.parts:
            if part.init not in self.inits:
                self._send(partner.node, m.WantInit(self.stream, part.init))

    def _keep_init(self, digest: bytes, init: Init) -> None:
        self.inits[digest] = init
        if len(self.inits) > INITS_MAX:
            self.inits.popitem(last=False)
        self._out.append(InitReady(digest, init))

    def _forks(self, head: Head) -> bool:
        before = self.window.head(head.seq - 1)
        return self.window.forks(head) is not None or (
            before is not None and before.epoch == head.epoch and before.hash != head.previous
        )

    def _fork(self, head: Head) -> None:
        """Two valid heads at one place: the broadcaster's key is used twice, or it cheats."""
        if not self.forked:
            self.forked = True
            self._out.append(Note("forked", {"seq": head.seq, "epoch": head.epoch}))

    def _end(self, head: Head) -> None:
        """The signed end: pass it on, since no piece will carry it."""
        self.ended = True
        if self.watch:
            self.watch.playout.end_seq = head.seq
        for peer in self.partners:
            self._join(peer)

    def _count_rate(self, head: Head) -> None:
        if head.parts:
            rate = max(part.size for part in head.parts) * TICKS_PER_S / head.duration
            self._rate = rate if not self._rate else 0.9 * self._rate + 0.1 * rate

    def _wall_ms(self, now: float) -> int:
        return int(self._wall(now) * 1000)

    def _send(self, peer: NodeId, message: Message) -> None:
        self._out.append(Send(peer, message))


def _cut(proof: bytes) -> tuple[bytes, ...]:
    if len(proof) % HASH_BYTES:
        raise BadMessage("a Merkle proof of broken hashes")
    return tuple(proof[at : at + HASH_BYTES] for at in range(0, len(proof), HASH_BYTES))
