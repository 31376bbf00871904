"""The routing table: whom we know, arranged by distance from ourselves.

One bucket per power of two of XOR distance, so we know many neighbours and a few strangers. Every
contact in it has proven who and where it is, as a link began or by answering a query of ours. A
full bucket keeps the contacts it has: a node that has been up for an hour is likely to stay up, and
nobody can flush the table by minting fresh identities. Nor can anybody fill it from one subnet
(security/architecture.md 5.4).

Pure state. No clock, no dice, no sockets; `dht.lookup` decides what to do with it.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterator
from math import inf

import msgspec

from p2pstream.dht.addresses import subnet_large, subnet_small
from p2pstream.dht.contact import Contact, WireContact
from p2pstream.identity import Address, NodeId

BUCKET_SIZE = 16  # k; security/architecture.md 5.4. The Kademlia paper (2.2) has 20.
RICH = BUCKET_SIZE // 2  # A bucket with so many has enough to find the way. Wild guess.
SPARES_MAX = 10  # security/architecture.md 5.4: replacement cache.
SUBNET_BUCKET_MAX = 2  # The same: contacts of one IPv4 /24 or IPv6 /56 in one bucket.
SUBNET_TABLE_MAX = 10  # The same: contacts of one IPv4 /24 or IPv6 /48 in the table.
PROBE_GAP_S = 10.0  # The same: liveness probes, here of one bucket.
FRESH_S = 60.0  # Wild guess: whoever answered within a minute need not prove itself again.


class Entry(msgspec.Struct, frozen=True):
    """A contact that answered us, and when last. number: its id, for distances. told: how we tell
    others of it. doubtful: silent since.
    """

    contact: Contact
    number: int
    told: WireContact
    heard_at: float
    doubtful: bool = False


class Bucket:
    """Up to `BUCKET_SIZE` contacts and a few spares, least recently heard first.

    A node is live, spare or unknown; never two of these.
    """

    def __init__(self) -> None:
        self.live: OrderedDict[NodeId, Entry] = OrderedDict()
        self.spares: OrderedDict[NodeId, Entry] = OrderedDict()
        self.probed_at = -inf
        self._able: list[Entry] | None = None  # What `able` says, until anything changes.

    @property
    def able(self) -> list[Entry]:
        """Who is live and not in doubt."""
        if self._able is None:
            self._able = self._live(doubtful=False)
        return self._able

    @property
    def doubtful(self) -> list[Entry]:
        """Who is live, and in doubt."""
        return self._live(doubtful=True)

    def _live(self, *, doubtful: bool) -> list[Entry]:
        return [entry for entry in self.live.values() if entry.doubtful is doubtful]

    def __iter__(self) -> Iterator[Entry]:
        yield from self.live.values()
        yield from self.spares.values()

    def heard(self, entry: Entry) -> list[Entry]:
        """Note an answer. Returns who was pushed out, if anybody."""
        self._able = None
        node = entry.contact.node
        if node not in self.live and len(self.live) >= BUCKET_SIZE:
            doubtful = next((old for old in self.live.values() if old.doubtful), None)
            if doubtful is None:
                return self._spare(entry)
            del self.live[doubtful.contact.node]
            self.spares.pop(node, None)
            _put_last(self.live, entry)
            return [doubtful]
        self.spares.pop(node, None)
        _put_last(self.live, entry)
        return []

    def stalest(self, *, now: float) -> Contact | None:
        """Who must prove itself because somebody waits for a place; nobody too often."""
        if not self.spares or now < self.probed_at + PROBE_GAP_S:
            return None
        first = next(iter(self.live.values()))
        if now < first.heard_at + FRESH_S:
            return None
        self.probed_at = now
        return first.contact

    def silent(self, node: NodeId) -> list[Entry]:
        """Note a missed answer: the freshest spare takes the place. Returns who left.

        With no spare the contact stays, in doubt: it is not told to others, and used only when
        there is nobody else. The link that is down may be our own (section 4.1 of the paper).
        """
        self._able = None
        spare = self.spares.pop(node, None)
        if spare is not None:
            return [spare]
        if node not in self.live:
            return []
        if not self.spares:
            self.live[node] = msgspec.structs.replace(self.live[node], doubtful=True)
            return []
        gone = self.live.pop(node)
        _, freshest = self.spares.popitem()
        _put_last(self.live, freshest)
        return [gone]

    def remove(self, node: NodeId) -> list[Entry]:
        """Forget `node`. Returns it, if it was here."""
        self._able = None
        found = [self.live.pop(node, None), self.spares.pop(node, None)]
        return [entry for entry in found if entry is not None]

    def _spare(self, entry: Entry) -> list[Entry]:
        _put_last(self.spares, entry)
        if len(self.spares) <= SPARES_MAX:
            return []
        return [self.spares.popitem(last=False)[1]]


class RoutingTable:
    """Every contact we know."""

    def __init__(self, local: NodeId) -> None:
        self._local = local
        self._number = int.from_bytes(local)
        self._buckets: dict[int, Bucket] = {}
        # Over live contacts and spares alike, so that a spare can always take a free place.
        self._by_subnet: Counter[bytes] = Counter()
        self._by_address: dict[Address, NodeId] = {}

    def __iter__(self) -> Iterator[Entry]:
        """Live contacts, doubtful ones too."""
        for bucket in self._buckets.values():
            yield from bucket.live.values()

    def __len__(self) -> int:
        return sum(len(bucket.live) for bucket in self._buckets.values())

    def __contains__(self, node: NodeId) -> bool:
        return self.entry(node) is not None

    def entry(self, node: NodeId) -> Entry | None:
        """What we know of `node`, if it is live and not doubtful."""
        bucket = self._buckets.get(self.index(node))
        entry = bucket.live.get(node) if bucket else None
        return None if entry is None or entry.doubtful else entry

    def index(self, node: bytes) -> int:
        """The number of the bucket `node` belongs in: 1 (our twin) to 256 (half the world)."""
        return (self._number ^ int.from_bytes(node)).bit_length()

    def sizes(self) -> dict[int, int]:
        """Live contacts by bucket, of the buckets that ever had one."""
        return {index: len(bucket.live) for index, bucket in self._buckets.items()}

    def heard(self, contact: Contact, *, now: float) -> Contact | None:
        """Note that `contact` answered us.

        Returns the contact that must prove itself now, because somebody waits for its place.
        """
        node = contact.node
        assert node != self._local, "we never meet ourselves"
        bucket = self._buckets.get(self.index(node))
        known = bucket.live.get(node) if bucket else None
        if bucket is not None and known is not None and known.contact == contact:
            entry = Entry(contact, known.number, known.told, now)
        else:
            self._move_out(contact)
            if not self.wants(contact):
                return None
            entry = Entry(contact, int.from_bytes(node), WireContact.of(contact), now)
            bucket = self._bucket(self.index(node))
            self._uncount(bucket.remove(node))
            self._count(entry)
        self._uncount(bucket.heard(entry))
        return bucket.stalest(now=now)

    def silent(self, contact: Contact) -> None:
        """Note that `contact` did not answer. Ignored when we know it at another address.

        Otherwise anybody could have our contacts thrown out by telling wrong addresses of them.
        """
        bucket = self._buckets.get(self.index(contact.node))
        if bucket and self._by_address.get(contact.address) == contact.node:
            self._uncount(bucket.silent(contact.node))

    def remove(self, node: NodeId) -> None:
        """Forget `node`: it is no server, or it lied."""
        bucket = self._buckets.get(self.index(node))
        if bucket:
            self._uncount(bucket.remove(node))

    def wants(self, contact: Contact) -> bool:
        """Whether diversity lets `contact` in (as a spare at least), should it answer."""
        host = contact.address[0]
        bucket = self._buckets.get(self.index(contact.node))
        if bucket and (contact.node in bucket.live or contact.node in bucket.spares):
            return True
        small, large = subnet_small(host), subnet_large(host)
        if small is None or large is None or large not in self._by_subnet:
            return True
        near = [entry for entry in bucket or () if subnet_small(entry.contact.address[0]) == small]
        return len(near) < SUBNET_BUCKET_MAX and self._by_subnet[large] < SUBNET_TABLE_MAX

    def lacks(self, contact: Contact) -> bool:
        """Whether `contact` is to be let in though nobody looked for it: its bucket is poor.

        The other places are for whoever answers in a look-up, and for those whom we know already.
        """
        bucket = self._buckets.get(self.index(contact.node))
        poor = bucket is None or len(bucket.able) < RICH
        known = bucket is not None and contact.node in bucket.live
        return (poor or known) and self.wants(contact)

    @property
    def lonely(self) -> bool:
        """Whether there is nobody in it who is not in doubt."""
        return not any(bucket.able for bucket in self._buckets.values())

    def closest(
        self, target: bytes, count: int = BUCKET_SIZE, *, doubtful: bool = False
    ) -> list[Contact]:
        """Up to `count` live contacts (or the doubtful ones instead), nearest to `target` first."""
        return [entry.contact for entry in self._nearest(target, count, doubtful=doubtful)]

    def told(self, target: bytes, count: int, *, besides: NodeId) -> list[WireContact]:
        """As `closest`, but for one who need not be told of, and as they travel."""
        return [entry.told for entry in self._nearest(target, count, besides=besides)]

    def _nearest(
        self, target: bytes, count: int, *,
        besides: NodeId | None = None, doubtful: bool = False,
    ) -> list[Entry]:  # fmt: skip
        goal = int.from_bytes(target)
        away = self._number ^ goal
        some: list[Entry] = []
        # No two buckets overlap in their distances to a target, so few need to be looked into.
        for _, index in sorted([((away >> (i - 1) ^ 1) << (i - 1), i) for i in self._buckets]):
            bucket = self._buckets[index]
            some += bucket.doubtful if doubtful else bucket.able
            if len(some) > count:
                break
        # No two nodes are equally far, and numbers alone are sorted in half the time of pairs.
        near = {entry.number ^ goal: entry for entry in some}
        if besides is not None:
            near.pop(int.from_bytes(besides) ^ goal, None)
        return list(map(near.__getitem__, sorted(near)[:count]))

    def stalest(self) -> Entry | None:
        """The contact not heard of for longest, doubtful ones aside."""
        able = [entry for entry in self if not entry.doubtful]
        return min(able, key=lambda entry: entry.heard_at, default=None)

    def _bucket(self, index: int) -> Bucket:
        if index not in self._buckets:
            self._buckets[index] = Bucket()
        return self._buckets[index]

    def _move_out(self, contact: Contact) -> None:
        # Two nodes cannot share a socket: whoever answers at an address has replaced the node
        # that was there. And a node that answers elsewhere has moved, perhaps to a full subnet.
        other = self._by_address.get(contact.address)
        if other is not None and other != contact.node:
            self.remove(other)
        bucket = self._buckets.get(self.index(contact.node))
        known = (
            bucket and (bucket.live.get(contact.node) or bucket.spares.get(contact.node))
        ) or None
        if known and known.contact.address != contact.address:
            self.remove(contact.node)

    def _count(self, entry: Entry) -> None:
        self._by_address[entry.contact.address] = entry.contact.node
        subnet = subnet_large(entry.contact.address[0])
        if subnet is not None:
            self._by_subnet[subnet] += 1

    def _uncount(self, entries: list[Entry]) -> None:
        for entry in entries:
            del self._by_address[entry.contact.address]
            subnet = subnet_large(entry.contact.address[0])
            if subnet is not None:
                self._by_subnet[subnet] -= 1
                if not self._by_subnet[subnet]:
                    del self._by_subnet[subnet]


def _put_last(contacts: OrderedDict[NodeId, Entry], entry: Entry) -> None:
    contacts[entry.contact.node] = entry
    contacts.move_to_end(entry.contact.node)
