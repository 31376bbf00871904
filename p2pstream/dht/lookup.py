"""One iterative look-up: whom to ask next, and when it is over.

Invariant: of the `k` nearest candidates that are worth asking, at most `alpha` are being asked at
a time, and the look-up is over when all of them have answered. Waves are asynchronous: a
candidate that is slow gives its turn to the next one at once, though its answer still counts
should it come. That, with time-outs scaled to the round-trip time, is what took look-ups of the
Mainline DHT from a minute to below a second (Jimenez et al., P2P'11).

Pure state, one path. Disjoint paths (S/Kademlia) would be `d` of these sharing `candidates`.
"""

from __future__ import annotations

from bisect import insort
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum, auto
from itertools import islice
from math import inf

from p2pstream.dht.contact import Contact, WireContact
from p2pstream.dht.table import BUCKET_SIZE
from p2pstream.identity import NodeId

ALPHA = 3  # The Kademlia paper (2.3): queries in flight.
# While nobody has answered: cold contacts are often dead, and one live one is all it takes.
ALPHA_START = 8  # Wild guess.
QUERIES_MAX = 128  # security/architecture.md 5.4: of one look-up.
LOOKUP_S_MAX = 20.0  # The same.
CANDIDATES_MAX = 512  # Wild guess: more than honest answers name; lies push out only the farthest.
# A node whose contacts turn out silent this often, and three times as often as not, is a liar or
# badly out of touch: nobody else is asked on its word alone. Wild guess.
MISLED_MAX = 4
MISLED_RATIO = 3


class State(Enum):
    """What became of one contact in a look-up."""

    KNOWN = auto()
    ASKED = auto()
    SLOW = auto()  # Asked, and late.
    ANSWERED = auto()
    FAILED = auto()


# By names of their own: Python 3.11 looks up a member of a class as long as it runs ten steps.
KNOWN, ASKED, SLOW, ANSWERED, FAILED = State
WORTHY = KNOWN, ASKED, ANSWERED  # A change from one to another leaves the window as it is.


@dataclass(slots=True, eq=False)
class Candidate:
    """A contact on the way. hops: how many answers led to it. sources: who told us of it."""

    contact: Contact
    distance: int
    hops: int
    sources: set[NodeId] = field(default_factory=set)
    state: State = KNOWN
    token: bytes = b""  # From its answer.


class Lookup:
    """The way towards `target`. patient: late candidates keep it from ending."""

    def __init__(
        self,
        target: NodeId,
        *,
        now: float,
        k: int = BUCKET_SIZE,
        alpha: int = ALPHA,
        alpha_start: int = ALPHA_START,
        patient: bool = True,
        deadline: float = inf,
    ) -> None:
        self.target = target
        self._goal = int.from_bytes(target)
        self.started_at = now
        self.deadline = min(deadline, now + LOOKUP_S_MAX)
        self.queries = 0
        self.answers = 0
        self._k = k
        self._alpha, self._alpha_start = alpha, max(alpha, alpha_start)
        self.patient = patient
        self._candidates: dict[bytes, Candidate] = {}  # By node.
        self._order: list[tuple[int, Candidate]] = []  # No two nodes are equally far.
        self._near: list[Candidate] | None = None  # The window, until anything changes.
        self._busy = 0  # How many are being asked.
        self._misled: Counter[NodeId] = Counter()
        self._kept: Counter[NodeId] = Counter()

    def resume(self, *, now: float, k: int, deadline: float = inf) -> None:
        """Go on towards the same target, for `k` this time: who has answered need not do so again.

        Who was being asked may be asked anew, as nobody listens for those answers any more.
        """
        self.deadline = min(deadline, now + LOOKUP_S_MAX)
        self._k, self.patient, self.queries, self._near = k, False, 0, None
        for candidate in self._candidates.values():
            if candidate.state is ASKED:
                self._turn(candidate, KNOWN)

    def __len__(self) -> int:
        return len(self._order)

    def candidate(self, node: NodeId) -> Candidate | None:
        return self._candidates.get(node)

    def vouch(self, contacts: Iterable[WireContact], *, source: NodeId) -> list[WireContact]:
        """Note that `source` told us of these too. Returns whom nobody has told of: `add` them."""
        unheard = []
        for contact in contacts:
            candidate = self._candidates.get(contact.node)
            if candidate is None:
                unheard.append(contact)
            elif candidate.hops:
                candidate.sources.add(source)
        self._doubt()
        return unheard

    def add(self, contacts: Iterable[Contact], *, source: NodeId | None = None) -> None:
        """Take note of contacts, told by `source` or (none) our own."""
        for contact in contacts:
            candidate = self._candidates.get(contact.node) or self._new(contact, source)
            if source is not None and candidate.hops:
                candidate.sources.add(source)
        self._doubt()
        while len(self._order) > CANDIDATES_MAX:
            _, candidate = self._order.pop()
            del self._candidates[candidate.contact.node]
            self._turn(candidate, FAILED)

    def next(self) -> list[Contact]:
        """Whom to ask now. They count as asked from here on."""
        width = self._alpha if self.answers else self._alpha_start
        able = min(width - self._busy, QUERIES_MAX - self.queries)
        if able <= 0:
            return []
        chosen = [one for one in self._window() if one.state is KNOWN][:able]
        for candidate in chosen:
            self._turn(candidate, ASKED)
        self.queries += len(chosen)
        return [candidate.contact for candidate in chosen]

    def answered(self, node: NodeId, token: bytes) -> None:
        candidate = self._candidates.get(node)
        if candidate is None or candidate.state is ANSWERED:
            return
        if candidate.state is SLOW:
            self._misled.subtract(candidate.sources)
        self._kept.update(candidate.sources)
        self._doubt()
        self._turn(candidate, ANSWERED)
        candidate.token = token
        self.answers += 1

    def slow(self, node: NodeId) -> None:
        """`node` is late: do not wait for it."""
        candidate = self._candidates.get(node)
        if candidate is not None and candidate.state is ASKED:
            self._turn(candidate, SLOW)
            self._misled.update(candidate.sources)

    def failed(self, node: NodeId) -> None:
        """`node` will not answer any more."""
        self.slow(node)
        candidate = self._candidates.get(node)
        if candidate is not None:
            self._turn(candidate, FAILED)

    def over(self, *, now: float) -> bool:
        """Whether there is nothing left to ask or to wait for."""
        if now >= self.deadline:
            return True
        if not self._candidates:
            return False  # Whom to ask may turn up yet.
        window, able = self._window(), self.queries < QUERIES_MAX
        for candidate in window:
            if candidate.state is ASKED or (able and candidate.state is KNOWN):
                return False
        return not (self.patient and self._late(window))

    def closest(self) -> list[Candidate]:
        """The nearest candidates that answered, nearest first, up to `k`."""
        return [one for _, one in self._order if one.state is ANSWERED][: self._k]

    def _new(self, contact: Contact, source: NodeId | None) -> Candidate:
        teller = self._candidates.get(source) if source is not None else None
        hops = 0 if source is None else 1 + (teller.hops if teller else 0)
        candidate = Candidate(contact, self._goal ^ int.from_bytes(contact.node), hops)
        self._candidates[contact.node] = candidate
        self._near = None
        insort(self._order, (candidate.distance, candidate))
        return candidate

    def _turn(self, candidate: Candidate, state: State) -> None:
        self._busy += (state is ASKED) - (candidate.state is ASKED)
        if candidate.state not in WORTHY or state not in WORTHY:
            self._near = None
        candidate.state = state

    def _doubt(self) -> None:
        """What we know of who told whom has changed: where anybody lied, so may the window."""
        if self._misled:
            self._near = None

    def _window(self) -> list[Candidate]:
        """The `k` nearest that have answered, are being asked, or are worth asking."""
        if self._near is None:
            worthy = (
                one for _, one in self._order
                if one.state in WORTHY and (one.state is not KNOWN or self._credible(one))
            )  # fmt: skip
            self._near = list(islice(worthy, self._k))
        return self._near

    def _late(self, window: list[Candidate]) -> bool:
        reach = window[-1].distance if len(window) == self._k else inf
        late = (one for one in self._candidates.values() if one.state is SLOW)
        return any(candidate.distance < reach for candidate in late)

    def _credible(self, candidate: Candidate) -> bool:
        if not self._misled or not candidate.sources:
            return True
        return any(map(self._trusted, candidate.sources))

    def _trusted(self, source: NodeId) -> bool:
        misled = self._misled.get(source, 0)
        return misled < MISLED_MAX or misled <= MISLED_RATIO * self._kept[source]
