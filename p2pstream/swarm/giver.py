"""Giving: pieces to children and to those who ask, and word of what we hold to everybody.

Invariant: only what is in the window is pushed, sent or announced. Pushing stops where a child's
queue grows; pulls are answered within the upload budget.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf

from p2pstream.core import Parcel, Send
from p2pstream.identity import NodeId
from p2pstream.stream.window import HEADS_MAX
from p2pstream.stream.window import Piece as Stored
from p2pstream.swarm import messages as m
from p2pstream.swarm.mesh import PULL_COPIES, Mesh
from p2pstream.swarm.messages import NO_HOPS, SUBSTREAMS, Role, bits, pack_mask, substream_of
from p2pstream.swarm.partners import Partner

HAVE_S = 0.08  # The design says 20-50 ms; measured: 20 % fewer messages, and as few stalls.
MAP_CHUNKS = 16  # How far back later maps go, three times between maps: what is older was told.
PIECE_LIFE_S = 2.0  # A piece older than this is not worth sending.
BACKLOG_S = 1.0  # A child whose queue is longer than this gets no more pushed until it drains.
BACKLOG_MIN = 256 * 1024  # Bytes always allowed, whatever the rate: one BDP (facts/quic.md 8).
OVERLOAD_S = 0.3  # A child's queue that is longer in the long run is more than we can carry.
RELAX_S = 5.0  # After so long without one we may take another feed. Wild guess.
RATE_MIN = 32 * 1024  # Bytes a second that the budget counts with before the rate is known.
BUDGET_S = 2.0  # How much unused upload is saved up: newcomers ask for a second at once.
ANSWERS_MAX = 64  # Pieces sent for one Want.
HEADERS_MAX = 8  # Of pieces sent just now; a few rounds of children.
PEERS_TOLD_MAX = 16  # In one message.


@dataclass(slots=True)
class Giver:
    """The sending half. have_at: when to send word of new pieces."""

    mesh: Mesh
    have_at: float = inf
    _haves: set[tuple[int, int]] = field(default_factory=set)  # (rendition, seq) to announce.
    _budget: float = 0.0  # Bytes.
    _budget_at: float = 0.0
    _relax_at: float = inf
    _headers: dict[tuple[int, int, int, int, bool], m.Piece] = field(default_factory=dict)

    def forward(
        self, seq: int, rendition: int, index: int, hops: int, *,
        besides: NodeId | None = None, now: float,
    ) -> None:  # fmt: skip
        """Push a new piece to the children of its feed. hops: how far we are for it."""
        for peer in self.mesh.children.of(seq, rendition, index):
            partner = self.mesh.partners.get(peer)
            if partner is not None and peer != besides:
                self._push(partner, seq, rendition, index, hops, now)

    def announce(self, seq: int, rendition: int, *, now: float) -> None:
        """Tell the others soon."""
        self._haves.add((rendition, seq))
        self.have_at = min(self.have_at, now + HAVE_S)

    def send_haves(self) -> None:
        """Tell each partner about new pieces that it does not hold itself."""
        haves: dict[int, dict[int, int]] = {}
        for rendition, seq in sorted(self._haves):
            haves.setdefault(rendition, {})[seq] = self.mesh.window.have(seq, rendition)
        self._haves.clear()
        self.have_at = inf
        for partner in self.mesh.partners.values():
            for rendition, masks in haves.items():
                if partner.cares_for(rendition):
                    self._send_have(partner, rendition, masks)

    def send_maps(self, *peers: NodeId, chunks: int = HEADS_MAX) -> None:
        """Tell partners what we hold of the newest chunks, and our place in the mesh."""
        mesh = self.mesh
        newest = mesh.window.newest
        base = max(0, mesh.window.oldest_allowed, newest - chunks + 1)
        for rendition in mesh.renditions():
            masks = [pack_mask(mesh.window.have(s, rendition)) for s in range(base, newest + 1)]
            parents = [mesh.parents.by_feed.get((rendition, s)) for s in range(SUBSTREAMS)]
            message = m.Map(
                mesh.stream,
                rendition,
                base,
                tuple(masks),
                key=max(0, mesh.window.newest_key()),
                hops=bytes(min(mesh.hops((rendition, s)), NO_HOPS) for s in range(SUBSTREAMS)),
                parents=tuple(bytes(p.peer[: m.SHORT_ID_BYTES]) if p else b"" for p in parents),
                slots=mesh.children.free,
            )
            for peer in peers:
                mesh.send(peer, message)

    def send_peers(self, peer: NodeId) -> None:
        """Tell a peer of others that it could trade with."""
        known = [p for p in self.mesh.partners.values() if p.node != peer and p.address[0]]
        some = self.mesh.rng.sample(known, min(len(known), PEERS_TOLD_MAX))
        told = tuple((p.node, p.address[0], p.address[1]) for p in some)
        self.mesh.send(peer, m.Peers(self.mesh.stream, told))

    def on_want(self, partner: Partner, want: m.Want, *, now: float) -> None:
        """Send what is asked for, or say that we cannot. Raises `BadMessage`."""
        lacking: list[tuple[int, bytes]] = []
        left = ANSWERS_MAX
        for seq, data in want.items:
            mask, have = m.unpack_mask(data), self.mesh.window.have(seq, want.rendition)
            lack = mask & ~have
            for index in bits(mask & have):
                piece = self.mesh.window.piece(seq, want.rendition, index)
                if piece is None or left == 0 or not self._may_answer(partner.node, now):
                    lack |= 1 << index
                    continue
                left -= 1
                if want.heads:
                    partner.knows.discard(seq)
                self._send_piece(partner, seq, want.rendition, index, piece, None, now)
            if lack:
                lacking.append((seq, pack_mask(lack)))
        if lacking:
            lacks = m.Lack(self.mesh.stream, want.rendition, tuple(lacking))
            self.mesh.send(partner.node, lacks)

    def on_subscribe(self, partner: Partner, message: m.Subscribe, *, now: float) -> None:
        """Push from now on, what we hold already included, or say that we do not."""
        mesh, rendition = self.mesh, message.rendition
        # Whoever feeds us a substream cannot have it from us: two would wait for each other.
        loop = mesh.parents.mask(partner.node, rendition) & message.substreams
        head = mesh.newest_head()
        if head is not None and head.part(rendition) is None:
            loop = message.substreams  # There is no such rendition.
        added, refused = mesh.children.subscribe(
            partner.node, rendition, message.substreams & ~loop, message.since
        )
        if refused | loop:
            mesh.send(partner.node, m.Refuse(mesh.stream, rendition, refused | loop))
        for seq in mesh.window:
            for index in bits(mesh.window.have(seq, rendition)):
                if seq >= message.since and added >> substream_of(seq, index) & 1:
                    self._push(partner, seq, rendition, index, None, now)

    def adapt(self, *, now: float) -> None:
        """Carry as many feeds as the uplink can: once a second one less, or slowly more again.

        Whoever promises more than its uplink carries makes all its children late (AIMD, as in
        Chiu and Jain 1989: but for the step down, which is a feed and not a share). The origin
        sends nobody away: there is no other source.
        """
        mesh, children = self.mesh, self.mesh.children
        if mesh.role is Role.ORIGIN:
            return
        queues = {peer: mesh.roads.backlog(peer) for peer in children.peers()}
        slowest = max(queues, key=lambda peer: queues[peer], default=None)
        if slowest is not None and queues[slowest] > OVERLOAD_S * max(mesh.rate, RATE_MIN):
            rendition, substream = children.evict(slowest)
            mesh.send(slowest, m.Refuse(mesh.stream, rendition, 1 << substream))
            self._relax_at = now + RELAX_S
        elif now >= self._relax_at:
            self._relax_at = now + RELAX_S if children.relax() else inf

    def _push(
        self, partner: Partner, seq: int, rendition: int, index: int, hops: int | None, now: float
    ) -> None:
        if partner.holds(rendition, seq) >> index & 1:
            return
        backlog = self.mesh.roads.backlog(partner.node)
        if backlog > max(BACKLOG_MIN, self.mesh.rate * BACKLOG_S):
            self.mesh.counters.pushes_dropped += 1
            return
        piece = self.mesh.window.piece(seq, rendition, index)
        assert piece is not None, "only what is in the window is pushed"
        self._send_piece(partner, seq, rendition, index, piece, hops, now)

    def _send_piece(
        self, partner: Partner, seq: int, rendition: int, index: int,
        piece: Stored, hops: int | None, now: float,
    ) -> None:  # fmt: skip
        """hops: how far we are for this piece; None: as far as for the newest of its feed."""
        mesh = self.mesh
        head = mesh.window.head(seq)
        assert head is not None, "a piece in the window has its head there"
        raw = b"" if partner.knows_head(seq) else head.raw
        partner.knows.add(seq)
        if hops is None:
            feed = rendition, substream_of(seq, index)
            hops = 0 if mesh.role is Role.ORIGIN else mesh.depth.get(feed, NO_HOPS)
        header = self._header(seq, rendition, index, min(hops, NO_HOPS - 1), raw, piece.proof)
        mesh.out.append(Send(partner.node, Parcel(header, piece.data), now + PIECE_LIFE_S))
        partner.account.given += len(piece.data)
        mesh.counters.given += len(piece.data)
        self._budget -= len(piece.data)

    def _header(
        self, seq: int, rendition: int, index: int, hops: int, raw: bytes, proof: tuple[bytes, ...]
    ) -> m.Piece:
        """The same object for one child after another, so that it is packed once."""
        key = seq, rendition, index, hops, bool(raw)
        if key not in self._headers:
            if len(self._headers) >= HEADERS_MAX:
                self._headers.clear()
            self._headers[key] = m.Piece(
                self.mesh.stream, seq, rendition, index, hops, raw, b"".join(proof)
            )
        return self._headers[key]

    def _may_answer(self, peer: NodeId, now: float) -> bool:
        """Whether the upload budget has room for a pull."""
        mesh = self.mesh
        if not mesh.config.copies:
            return False
        rate = max(mesh.config.copies, 1.0 + PULL_COPIES) * max(mesh.rate, RATE_MIN)
        self._budget = min(BUDGET_S * rate, self._budget + rate * (now - self._budget_at))
        self._budget_at = now
        return self._budget > 0 and mesh.roads.backlog(peer) < BACKLOG_MIN + mesh.rate

    def _send_have(self, partner: Partner, rendition: int, masks: dict[int, int]) -> None:
        items = tuple(
            (seq, pack_mask(mask))
            for seq, mask in masks.items()
            if mask & ~partner.holds(rendition, seq)
        )[-HEADS_MAX:]
        if items and partner.role is not Role.ORIGIN:  # The origin has everything.
            self.mesh.send(partner.node, m.Have(self.mesh.stream, rendition, items))
