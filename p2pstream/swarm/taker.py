"""Taking: what is missing, and whom to ask for it. The policies are in `scheduler`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import inf

from p2pstream.identity import NodeId
from p2pstream.stream.head import NO_HEAD
from p2pstream.stream.window import HEADS_MAX
from p2pstream.swarm import messages as m
from p2pstream.swarm import scheduler
from p2pstream.swarm.mesh import Mesh
from p2pstream.swarm.messages import ORIGIN, bits, pack_mask, substream_of
from p2pstream.swarm.parenting import Parenting
from p2pstream.swarm.partners import LACKED_MAX, STALE_MAX, Partner, PieceKey

COALESCE_S = 0.02  # After news: often more of it follows at once. Wild guess.
PULL_CHUNKS_MAX = 32  # How far back a node that does not play fetches: half the window.
ASK_HEAD_S = 0.3  # An answer takes a round trip; the next partner may be quicker.
# For so long who could not send a piece that it holds is asked for nothing: it has no upload left.
# Asking on at once made 270 requests a second and viewer where attackers gave nothing (league).
SPENT_S = 0.3
LOST_S = 1.0  # A request without an answer for so long is forgotten, and may be made again.
FORGIVEN_EACH_S = 0.8  # What is left of unanswered requests a second later. Wild guess.


@dataclass(slots=True)
class Taker:
    """The asking half. plan_at: when to look again for what is missing."""

    mesh: Mesh
    parenting: Parenting
    plan_at: float = inf
    _known_at: dict[int, float] = field(default_factory=dict)  # When we first heard of a seq.
    _pulled: set[PieceKey] = field(default_factory=set)  # What somebody was asked for, lately.
    _rtt_s: float = 0.0  # To the nearest partner.
    _at_a_loss: bool = False  # The last plan found nobody to ask for something.
    _asked_head_at: float = -inf
    _asked_key: bool = False

    def soon(self, *, now: float) -> None:
        """Something changed: look again."""
        self.plan_at = min(self.plan_at, now)

    def note_head(self, seq: int, *, now: float) -> None:
        """A head has come: the pieces it names exist, and are to be here in time."""
        self._known_at.setdefault(seq, now)
        mesh, look_at = self.mesh, now + scheduler.UNPROVEN_S
        trusts = look_at < self.plan_at and mesh.parents.proven(mesh.renditions())
        if trusts and seq - 1 in mesh.window:
            deadline = mesh.deadline(seq)
            look_at = scheduler.trusted_until(now, deadline, self._rtt_s, proven=True)
        if look_at < self.plan_at:
            self.plan_at = look_at
        if self.mesh.watch is not None and self.mesh.watch.playout.next_seq is None:
            self.soon(now=now)

    def note_complete(self) -> None:
        """A chunk is complete. If that was all there is, nothing is due until more is heard of:
        the plan that a head asked for, in case its pieces did not come, is dropped.
        """
        mesh = self.mesh
        waiting = self._pulled or self._at_a_loss or mesh.claimed > mesh.window.newest
        if waiting or (mesh.watch is not None and mesh.watch.playout.next_seq is None):
            return
        first = self._fetch_from(mesh.window.newest)
        for rendition in mesh.renditions():
            if not mesh.window.whole(rendition, first):
                return
        self.plan_at = inf

    def note_map(self, told: m.Map, *, now: float) -> None:
        """A partner told what it holds: look soon whether we lack any of it."""
        window, known = self.mesh.window, self._known_at
        if window.newest < 0:
            self.plan_at = min(self.plan_at, now + COALESCE_S)
        if told.rendition not in self.mesh.renditions():
            return
        end = min(told.base + len(told.masks), self.mesh.horizon + 1)
        seqs = range(max(told.base, window.oldest_allowed), end)
        for seq in seqs if self._at_a_loss else sorted(set(seqs).difference(known)):
            if window.missing(seq, told.rendition):
                known.setdefault(seq, now)
                self.plan_at = min(self.plan_at, now + COALESCE_S)

    def plan(self, *, now: float) -> None:
        """Ask for what is missing and due, and blame parents that let us down."""
        mesh = self.mesh
        self.plan_at, self._at_a_loss = inf, False
        if mesh.role is ORIGIN:
            return  # It has all there is: who claims more lies.
        replaced = mesh.counters.parents_replaced
        self._give_up(now)
        self._ask_for_a_head(now)
        self._begin(now)
        wanted: list[tuple[NodeId, scheduler.Missing]] = []
        for rendition in mesh.renditions():
            for seq, index in self._missing(rendition):
                piece = self._describe(seq, rendition, index, now)
                wait_until = scheduler.wait_until(piece, self._rtt_s)
                if now >= wait_until:
                    wait_until = now + scheduler.ANSWER_S + 2 * self._rtt_s
                    self._decide(piece, wanted, now)
                self.plan_at = min(self.plan_at, wait_until)
        if wanted:
            mesh.note_need(now)
            self._ask(wanted)
        if mesh.counters.parents_replaced > replaced:  # What those were to push nobody pushes now.
            self.plan_at = min(self.plan_at, now + COALESCE_S)

    def on_lack(self, partner: Partner, lack: m.Lack, now: float) -> None:
        """Ask somebody else. Raises `BadMessage`."""
        for seq, data in lack.items:
            for index in bits(m.unpack_mask(data)):
                key = seq, lack.rendition, index
                asked = partner.asked.pop(key, None) is not None
                if asked and len(partner.lacked) < LACKED_MAX:
                    partner.lacked.add(key)
                if asked and partner.holds(lack.rendition, seq) >> index & 1:
                    partner.spent_until = now + SPENT_S
        self.soon(now=now)

    def settle(self, key: PieceKey, by: NodeId, *, now: float) -> None:
        """A piece came from `by`: the others need not send it, and who was slow is noted."""
        if key not in self._pulled:
            return
        self._pulled.discard(key)
        for partner in self.mesh.partners.values():
            asked_at = partner.asked.pop(key, None)
            if asked_at is None:
                continue
            if partner.node == by:
                partner.account.unanswered = 0.0
            elif now - asked_at > scheduler.ANSWER_S + 2 * self.mesh.roads.rtt_s(partner.node):
                partner.account.unanswered += 1

    def prune(self) -> None:
        """Once a second: forget what has left the window, and a part of what was not answered."""
        self._rtt_s = min(map(self.mesh.roads.rtt_s, self.mesh.partners), default=0.0)
        oldest = self.mesh.window.oldest_allowed
        if len(self._known_at) > STALE_MAX:
            self._known_at = {seq: at for seq, at in self._known_at.items() if seq >= oldest}
        self._pulled = {key for key in self._pulled if key[0] >= oldest}
        for partner in self.mesh.partners.values():
            partner.forget_before(oldest)
            partner.account.unanswered *= FORGIVEN_EACH_S

    def _give_up(self, now: float) -> None:
        """Forget requests that nobody answered: the piece may be asked for again."""
        if not self._pulled:
            return
        for partner in self.mesh.partners.values():
            while partner.asked:
                key, at = next(iter(partner.asked.items()))  # The oldest comes first.
                if now - at <= LOST_S:
                    break
                del partner.asked[key]
                partner.account.unanswered += 1

    def _begin(self, now: float) -> None:
        """Join near the live edge: at the newest key frame that a partner knows of."""
        watch, window = self.mesh.watch, self.mesh.window
        if watch is None or watch.playout.next_seq is not None:
            return
        if watch.rendition is None:
            return
        last, own = watch.playout.last_seq, window.newest_key()
        least = max(last, own, window.oldest_allowed)
        ahead = [p for p in self.mesh.partners.values() if least < p.key <= self.mesh.horizon]
        if ahead and (own <= last or not self._asked_key):
            # A claim: only a head proves that decoding can start there.
            self._asked_key = True
            partner = self.mesh.rng.choice(ahead)
            self._ask_head(partner.node, watch.rendition, partner.key, now)
        elif own > last:
            self._asked_key = False
            watch.playout.start(own, now=now)

    def _ask_for_a_head(self, now: float) -> None:
        """Where partners claim more than we can believe, a head is the proof.

        So it is when we joined before they had anything, and after a long outage.
        """
        mesh = self.mesh
        least = mesh.horizon if mesh.window.newest >= 0 else -1
        if mesh.claimed <= least or now - self._asked_head_at <= ASK_HEAD_S:
            return
        edges = [
            (p.node, rendition, heard.edge)
            for p in mesh.partners.values()
            for rendition, heard in p.heard.items()
            if heard.edge > least
        ]
        if edges:
            self._ask_head(*mesh.rng.choice(edges), now)

    def _ask_head(self, peer: NodeId, rendition: int, seq: int, now: float) -> None:
        if now - self._asked_head_at > ASK_HEAD_S:
            self._asked_head_at = now
            want = m.Want(self.mesh.stream, rendition, ((seq, b"\1"),), heads=True)
            self.mesh.send(peer, want)

    def _decide(
        self, piece: scheduler.Missing, wanted: list[tuple[NodeId, scheduler.Missing]], now: float
    ) -> None:
        """Nobody is trusted to bring the piece any more."""
        mesh, key = self.mesh, (piece.seq, piece.rendition, piece.index)
        for slow, _ in piece.asked:
            mesh.partners[slow].doubted_at = now
        holders = list(self._holders(*key, now=now))
        peer = scheduler.choose(piece, holders, rng=mesh.rng)
        # Where nobody says that it has the piece, not the parent is late but those before it.
        if piece.pushed and not piece.asked and any(holder.told for holder in holders):
            mesh.counters.pulls_late += 1
            feed = piece.rendition, substream_of(piece.seq, piece.index)
            self.parenting.missed(feed, now=now)
        self._at_a_loss |= peer is None
        if peer is not None:
            mesh.partners[peer].asked[key] = now
            self._pulled.add(key)
            wanted.append((peer, piece))

    def _missing(self, rendition: int) -> list[tuple[int, int]]:
        """(seq, index) of pieces that we want and lack, oldest first.

        Before the head of a chunk is here we know of none but those that partners told of, and of
        the first one, with which the head comes, if the next head names it as the one before.
        """
        mesh, window = self.mesh, self.mesh.window
        edge = mesh.edge(rendition)
        found = []
        for seq, lacking in window.gaps(rendition, range(self._fetch_from(edge), edge + 1)):
            wanted = lacking
            if wanted < 0:
                after = window.head(seq + 1)
                wanted = int(after is not None and after.previous != NO_HEAD)
                for partner in mesh.partners.values():
                    wanted |= partner.holds(rendition, seq)
            found += [(seq, index) for index in bits(wanted)]
        return found

    def _fetch_from(self, edge: int) -> int:
        watch = self.mesh.watch
        if watch is None:
            return max(self.mesh.window.oldest_allowed, edge - PULL_CHUNKS_MAX, 0)
        next_seq = watch.playout.next_seq
        if next_seq is None:
            return edge + 1
        oldest = edge - HEADS_MAX + 1
        return next_seq if next_seq > oldest else oldest

    def _describe(self, seq: int, rendition: int, index: int, now: float) -> scheduler.Missing:
        parent = self.mesh.parents.by_feed.get((rendition, substream_of(seq, index)))
        asked: tuple[tuple[NodeId, float], ...] = ()
        if (seq, rendition, index) in self._pulled:
            asked = tuple(
                (p.node, at)
                for p in self.mesh.partners.values()
                if (at := p.asked.get((seq, rendition, index))) is not None
            )
        return scheduler.Missing(
            seq,
            rendition,
            index,
            known_at=self._known_at.get(seq, now),
            deadline=self.mesh.deadline(seq),
            pushed=parent is not None and parent.first <= seq,
            proven=parent is not None and parent.pieces > 0,
            asked=asked,
        )

    def _holders(
        self, seq: int, rendition: int, index: int, *, now: float
    ) -> Iterator[scheduler.Holder]:
        newest = self.mesh.window.newest
        for p in self.mesh.partners.values():
            if now < p.spent_until or p.quiet(now) or (seq, rendition, index) in p.lacked:
                continue
            told = bool(p.holds(rendition, seq) >> index & 1)
            if told or p.may_hold(rendition, seq, newest):
                rtt_s = self.mesh.roads.rtt_s(p.node)
                yield scheduler.Holder(
                    p.node, p.role, rtt_s, len(p.asked), p.account.unanswered, told
                )

    def _ask(self, wanted: list[tuple[NodeId, scheduler.Missing]]) -> None:
        for (peer, rendition), masks in scheduler.by_peer(wanted).items():
            items = tuple((seq, pack_mask(mask)) for seq, mask in sorted(masks.items()))
            self.mesh.counters.pulls += sum(mask.bit_count() for mask in masks.values())
            for at in range(0, len(items), HEADS_MAX):
                some = items[at : at + HEADS_MAX]
                lacks_heads = any(seq not in self.mesh.window for seq, _ in some)
                self.mesh.send(peer, m.Want(self.mesh.stream, rendition, some, lacks_heads))
