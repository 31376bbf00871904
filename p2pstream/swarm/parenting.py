"""Parents: who pushes to us, and when to look for somebody else. The policies are in `push`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

from p2pstream.identity import NodeId
from p2pstream.swarm import messages as m
from p2pstream.swarm import push
from p2pstream.swarm.mesh import Mesh
from p2pstream.swarm.messages import ORIGIN, SEED, SUBSTREAMS, VIEWER, Role
from p2pstream.swarm.partners import Partner
from p2pstream.swarm.push import Feed, Offer, Parent

COOL_S = 5.0  # A parent that failed is not chosen for that feed again so soon (20 s in the paper).
BARREN_MAX = 6  # A parent that never brings anything is shunned twice as long each time: 160 s.
MISSED_MAX = 2  # Late pieces, each mended by pull, before a parent is replaced.
STARVED_CHUNKS = 2 * SUBSTREAMS  # A parent that brought nothing while the edge moved this far.
YOUNG_S = 1.0  # A parent this new has had no time to bring anything.
GATHER_S = 0.15  # After the first partner: time for others to join, or the first gets all feeds.
IMPROVE_S = 3.0  # How often one feed is moved from the origin or a seed to a peer.
LEFT_S = 10 * COOL_S  # Having left the origin we stay away from it, or we would swing.


@dataclass(slots=True)
class Parenting:
    """Keeps a parent for each feed that we want. tell: sends a partner a map. seek_at: when to look
    for them next. lacking: whether what a partner tells may help: a feed had no parent last time.
    """

    mesh: Mesh
    tell: Callable[..., None]
    seek_at: float = inf
    lacking: bool = True
    _improve_at: float = 0.0

    def seek(self, *, now: float) -> None:
        """Find a parent for every feed that has none."""
        mesh = self.mesh
        self.seek_at = inf
        if mesh.role is ORIGIN or mesh.met_at is None:
            return
        if now < mesh.met_at + GATHER_S:
            self.seek_at = mesh.met_at + GATHER_S
            return
        since: dict[tuple[NodeId, int], int] = {}
        renditions = mesh.renditions()
        # A seed carries what its partners do: each may tell of another rendition.
        self.lacking = not renditions or mesh.role is SEED
        for feed in mesh.parents.open_feeds(renditions):
            offers = self._offers(feed, now)
            chosen = push.choose_parent(offers, partners=len(mesh.partners), rng=mesh.rng)
            if chosen is None:
                self.lacking = True
                continue
            first = self._adopt(feed, mesh.partners[chosen.peer], now)
            key = chosen.peer, feed[0]
            since[key] = min(first, since.get(key, first))
        for (peer, rendition), first in since.items():
            self._subscribe(peer, rendition, now, since=first)

    def missed(self, feed: Feed, *, now: float) -> None:
        """A piece of this feed had to be asked for: its parent is late."""
        parent = self.mesh.parents.by_feed.get(feed)
        if parent is None:
            return
        parent.missed += 1
        if parent.missed >= MISSED_MAX:
            self._fail(feed, now)
            self.seek(now=now)

    def on_refuse(self, partner: Partner, message: m.Refuse, *, now: float) -> None:
        """It does not push to us: somebody else must."""
        heard = partner.heard.get(message.rendition)
        for substream in range(SUBSTREAMS):
            feed = message.rendition, substream
            parent = self.mesh.parents.by_feed.get(feed)
            if not message.substreams >> substream & 1:
                continue
            if heard is not None:
                heard.slots[substream] = 0
            if parent is not None and parent.peer == partner.node:
                self._drop(feed, now, cool_s=COOL_S, tell=False)
        self.seek(now=now)

    def upkeep(self, *, now: float) -> None:
        """Once a second: drop parents that we do not need or that fail, and find better ones."""
        self._drop_unwanted(now)
        self._drop_starved(now)
        self._improve(now)
        self.seek(now=now)

    def _offers(self, feed: Feed, now: float) -> list[Offer]:
        mesh, (rendition, substream) = self.mesh, feed
        offers = []
        for partner in mesh.partners.values():
            heard = partner.heard.get(rendition)
            if heard is None or not heard.slots[substream] or partner.cool.get(feed, -inf) > now:
                continue
            if partner.shunned_until > now or partner.quiet(now):
                continue
            if heard.parents[substream] == mesh.me[: m.SHORT_ID_BYTES]:
                continue  # It is our child there.
            offers.append(
                Offer(
                    partner.node,
                    partner.role,
                    hops=heard.hops[substream],
                    rtt_s=mesh.roads.rtt_s(partner.node),
                    behind=heard.behind,
                    already=len(mesh.parents.fed_by(partner.node)),
                    slots=heard.slots[substream],
                )
            )
        return offers

    def _adopt(self, feed: Feed, partner: Partner, now: float) -> int:
        """Returns the seq from which on the partner is to push: what comes before it is pulled."""
        mesh = self.mesh
        fed = mesh.fed.get(feed, -1)
        # Of the newest chunk that it told of it may have had a part only.
        first = fed + 1 if fed >= 0 else max(0, mesh.edge_of(partner, feed[0]))
        if mesh.watch is not None and mesh.watch.playout.next_seq is not None:
            first = max(first, mesh.watch.playout.next_seq)
        mesh.parents.by_feed[feed] = Parent(partner.node, now, first=first, seq=first - 1)
        partner.heard[feed[0]].slots[feed[1]] -= 1
        return first

    def _subscribe(self, peer: NodeId, rendition: int, now: float, *, since: int = 0) -> None:
        """Tell `peer` which substreams it is to push. since: where those begin that are new."""
        mask = self.mesh.parents.mask(peer, rendition)
        if mask:
            self.tell(self.mesh.partners[peer], now=now)  # It need not push what we hold.
        self.mesh.send(peer, m.Subscribe(self.mesh.stream, rendition, mask, since))

    def _fail(self, feed: Feed, now: float) -> None:
        """A parent let us down. Those of last resort are welcome again; who only promises waits."""
        parent = self.mesh.parents.by_feed[feed]
        partner = self.mesh.partners[parent.peer]
        partner.doubted_at = now
        self._drop(feed, now, cool_s=COOL_S)
        for other in self.mesh.partners.values():
            if other.role is not VIEWER and other is not partner:
                other.cool.pop(feed, None)
        if not partner.account.taken and partner.shunned_until <= now:
            partner.account.barren = min(BARREN_MAX, partner.account.barren + 1)
            partner.shunned_until = now + COOL_S * 2 ** (partner.account.barren - 1)

    def _drop(self, feed: Feed, now: float, *, cool_s: float, tell: bool = True) -> None:
        parent = self.mesh.parents.by_feed.pop(feed)
        self.mesh.partners[parent.peer].cool[feed] = now + cool_s
        self.mesh.counters.parents_replaced += 1
        if tell:
            self._subscribe(parent.peer, feed[0], now)

    def _drop_unwanted(self, now: float) -> None:
        """After a switch of renditions."""
        wanted = self.mesh.renditions()
        for feed in [feed for feed in self.mesh.parents.by_feed if feed[0] not in wanted]:
            self._drop(feed, now, cool_s=0.0)

    def _drop_starved(self, now: float) -> None:
        """Replace parents that brought nothing while the edge moved on."""
        edges = {rendition: self.mesh.edge(rendition) for rendition in self.mesh.renditions()}
        for feed, parent in list(self.mesh.parents.by_feed.items()):
            behind = edges[feed[0]] - parent.seq
            if behind > STARVED_CHUNKS and now - parent.since > YOUNG_S:
                self._fail(feed, now)

    def _improve(self, now: float) -> None:
        """Take one feed from the origin or a seed to a peer: they are parents of last resort."""
        mesh = self.mesh
        if now < self._improve_at or mesh.role is ORIGIN:
            return
        self._improve_at = now + IMPROVE_S * (0.5 + mesh.rng.random())
        for feed, parent in mesh.parents.by_feed.items():
            role = mesh.partners[parent.peer].role
            better = self._better(feed, role, now) if role is not VIEWER else []
            if better and (role is not ORIGIN or self._leaves_origin(feed, better)):
                self._drop(feed, now, cool_s=LEFT_S)
                return

    def _better(self, feed: Feed, role: Role, now: float) -> list[Partner]:
        """Peers that can feed us as well: no farther from the broadcaster than we are, since our
        own descendants are farther.
        """
        mine = self.mesh.hops(feed)
        offers = (o for o in self._offers(feed, now) if o.role > role and o.hops <= mine)
        return [self.mesh.partners[offer.peer] for offer in offers]

    def _leaves_origin(self, feed: Feed, better: list[Partner]) -> bool:
        """Whether enough others stay with it who can be believed.

        Whoever leaves the origin loses its place there: not for the word of strangers, so one of
        those is tried.
        """
        (rendition, substream), partners = feed, self.mesh.partners
        direct = (
            partner.node
            for partner in partners.values()
            if (heard := partner.heard.get(rendition)) and heard.hops[substream] == 1
        )
        staying = [partners[n] for n in push.stay_at_origin(self.mesh.me, direct, substream)]
        if len(staying) < push.DIRECT_MIN:
            return False
        known = sum(p.account.tried for p in staying)
        if known >= push.DIRECT_MIN and any(p.account.tried for p in better):
            return True
        strangers = [p for p in (*staying, *better) if not p.account.tried]
        self._try(self.mesh.rng.choice(strangers), rendition)
        return False

    def _try(self, partner: Partner, rendition: int) -> None:
        """Ask for a piece that it says it holds, needed or not: the last and shortest."""
        edge = self.mesh.edge_of(partner, rendition)
        mask = partner.holds(rendition, edge)
        if mask and edge in self.mesh.window:
            last = m.pack_mask(1 << mask.bit_length() - 1)
            want = m.Want(self.mesh.stream, rendition, ((edge, last),), heads=False)
            self.mesh.send(partner.node, want)
