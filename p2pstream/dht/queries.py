"""Questions in flight: to whom, why, and since when; and the links they travel on.

Invariant: every query ends exactly once: answered by the node it went to, with the id it carried
and a type that fits, or given up (`overdue`, or its link ended). Everything else that looks like
an answer is unsolicited.

A query to a node without a link waits for a dial. A link that we dialled for a query and have not
used for a while is given back.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf

from p2pstream.core import Dial, Hangup, LinkUp, Send
from p2pstream.dht.addresses import plain
from p2pstream.dht.contact import Contact
from p2pstream.dht.messages import ANSWERS, Answer, Denied, Query
from p2pstream.identity import Address, NodeId

ASKING_MAX = 256  # Queries in flight: two look-ups at their limit.
LINKS_DIALLED_MAX = 64  # Of our own making; a quarter of the 256 connections of security 5.5.
LINK_IDLE_S = 30.0  # security/architecture.md 5.5: idle connections.

# When a query is late. RFC 6298: mean + 4 deviations, within bounds.
LATE_S_START = 0.5  # Before anything is measured: most of the world is nearer than that.
LATE_S_MIN = 0.05  # A node's own hiccups (garbage collection, one core) exceed a LAN's times.
LATE_S_MAX = (
    1.0  # anchors.md 6 D: at 1.5 s and 20 % stale contacts look-ups take 6 s, at 0.4 s 2 s.
)
# When it is dead. Late answers count until then.
DEAD_S = 3.0  # Wild guess: several times any honest round trip.
DIAL_DEAD_S = 5.0  # security/architecture.md 5.3: handshake deadline.


@dataclass(slots=True)
class Asking:
    """One query in flight. lookup, key: what it is for (a look-up, or announcing a record)."""

    contact: Contact
    message: Query
    lookup: int | None
    key: bytes | None
    asked_at: float
    late_at: float
    dead_at: float
    sent_at: float | None = None  # None while the dial is under way.
    dialled: bool = False
    late: bool = False
    node: NodeId = field(init=False)

    def __post_init__(self) -> None:
        self.node = self.contact.node


@dataclass(slots=True)
class Link:
    """A connection that stands."""

    address: Address
    used_at: float


class Patience:
    """How long to wait for an answer before asking somebody else too."""

    def __init__(self) -> None:
        self.seconds = LATE_S_START
        self._mean_s = 0.0
        self._deviation_s = 0.0

    def note(self, seconds: float) -> None:
        """An answer took this long (RFC 6298, section 2, with its gains)."""
        if self._mean_s:
            self._deviation_s += (abs(seconds - self._mean_s) - self._deviation_s) / 4
            self._mean_s += (seconds - self._mean_s) / 8
        else:
            self._mean_s, self._deviation_s = seconds, seconds / 2
        if self._mean_s:
            self.seconds = min(LATE_S_MAX, max(LATE_S_MIN, self._mean_s + 4 * self._deviation_s))


class Queries:
    """Asks, dials where needed, and tells answers from noise."""

    def __init__(self, rng: random.Random, emit: Callable[[object], None]) -> None:
        self._rng = rng
        self._emit = emit
        self._asking: dict[int, Asking] = {}
        self._due: float | None = None  # What `wake_at` says, until anything changes.
        self._dialling: set[NodeId] = set()
        self.links: dict[NodeId, Link] = {}  # As many as the node has; it bounds them.
        self.ours: dict[NodeId, Link] = {}  # Of these: those that we dialled, for a query.
        self._answer = Patience()  # Of those we have a link to.
        self._dial = Patience()  # With a handshake before it.

    def __len__(self) -> int:
        return len(self._asking)

    @property
    def room(self) -> int:
        """How many more queries may be asked now."""
        return ASKING_MAX - len(self._asking)

    def ask(
        self,
        contact: Contact,
        query: Callable[[int], Query],
        *,
        now: float,
        lookup: int | None = None,
        key: bytes | None = None,
    ) -> None:
        """Send `query`, given its request id, to `contact`, over a new link if need be."""
        assert self.room > 0, "look at `room` first"
        rid = self._rng.getrandbits(32)
        while rid in self._asking:
            rid = self._rng.getrandbits(32)
        asking = Asking(
            contact,
            query(rid),
            lookup,
            key,
            now,
            now + self._dial.seconds,
            now + DIAL_DEAD_S,
        )
        self._asking[rid], self._due = asking, None
        if contact.node in self.links:
            self._send(asking, now=now)
            return
        asking.dialled = True
        if contact.node not in self._dialling:
            self._dialling.add(contact.node)
            self._emit(Dial(contact.node, (contact.address,)))

    def match(self, peer: NodeId, answer: Answer) -> Asking | None:
        """The query that `answer` from `peer` is for, still in flight; None if it is noise."""
        asking = self._asking.get(answer.rid)
        if asking is None or asking.node != peer or asking.sent_at is None:
            return None
        fits = isinstance(answer, (Denied, ANSWERS[type(asking.message)]))
        return asking if fits else None

    def close(self, asking: Asking, *, now: float) -> None:
        """The query is answered."""
        self._due = None
        del self._asking[asking.message.rid]
        (self._dial if asking.dialled else self._answer).note(now - asking.asked_at)

    def overdue(self, *, now: float) -> tuple[list[Asking], list[Asking]]:
        """Queries that have become late, and those that are dead (and forgotten here)."""
        self._due = None
        late = [one for one in self._asking.values() if not one.late and now >= one.late_at]
        for asking in late:
            asking.late = True
        dead = [one for one in self._asking.values() if now >= one.dead_at]
        for asking in dead:
            del self._asking[asking.message.rid]
        for node in {asking.node for asking in dead} & self._dialling:
            self._dialling.discard(node)
        return late, dead

    def link_up(self, peer: NodeId, happening: LinkUp, *, now: float) -> None:
        """Send what waits for this link."""
        self.ours.pop(peer, None)
        link = self.links[peer] = Link(plain(happening.address), now)
        if happening.dialled and peer in self._dialling:
            self.ours[peer] = link
        self._dialling.discard(peer)
        for asking in self._asking.values():
            if asking.node == peer and asking.sent_at is None:
                self._send(asking, now=now)
        self._trim()

    def link_down(self, peer: NodeId) -> list[Asking]:
        """Give up what was asked over this link, or waits for it."""
        self.links.pop(peer, None)
        self.ours.pop(peer, None)
        self._dialling.discard(peer)
        lost = [asking for asking in self._asking.values() if asking.node == peer]
        for asking in lost:
            del self._asking[asking.message.rid]
        self._due = None
        return lost

    def hang_up_idle(self, *, now: float) -> None:
        """Give back links of our own making that nothing has used for `LINK_IDLE_S`."""
        busy = {asking.node for asking in self._asking.values()}
        for node, link in list(self.ours.items()):
            if node not in busy and now >= link.used_at + LINK_IDLE_S:
                self._hang_up(node)

    def wake_at(self) -> float:
        if self._due is None:
            due = [one.dead_at if one.late else one.late_at for one in self._asking.values()]
            self._due = min(due, default=inf)
        return self._due

    def _send(self, asking: Asking, *, now: float) -> None:
        link = self.links[asking.node]
        link.used_at = now
        asking.sent_at, self._due = now, None
        asking.late, asking.late_at = False, now + self._answer.seconds
        asking.dead_at = now + DEAD_S
        self._emit(Send(asking.node, asking.message, asking.dead_at))

    def _trim(self) -> None:
        if len(self.ours) <= LINKS_DIALLED_MAX:
            return
        busy = {asking.node for asking in self._asking.values()}
        idle = [node for node in self.ours if node not in busy]
        if idle:
            self._hang_up(min(idle, key=lambda node: self.ours[node].used_at))

    def _hang_up(self, node: NodeId) -> None:
        # The link may live on, in use by somebody else: then it is no longer ours to end.
        del self.ours[node]
        self._emit(Hangup(node, "idle"))
