"""What a node wants of the DHT, and what comes of it: look-ups with a purpose, keys it provides."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto
from math import inf

from p2pstream.dht.contact import Contact
from p2pstream.dht.lookup import ALPHA, Lookup
from p2pstream.dht.messages import RECORDS_MAX
from p2pstream.dht.records import Record
from p2pstream.dht.table import BUCKET_SIZE
from p2pstream.identity import Address, NodeId

RETRY_S_MIN, RETRY_S_MAX = 1.0, 30.0  # Wild guess: between rounds of announcing, doubling.


class Goal(Enum):
    """What a look-up is for."""

    FIND = auto()
    PROVIDE = auto()
    JOIN = auto()
    REFRESH = auto()


@dataclass(frozen=True, slots=True)
class Config:
    """What may be tuned. Times in seconds."""

    k: int = BUCKET_SIZE  # security/architecture.md 5.4.
    alpha: int = ALPHA  # The same.
    replicas: int = 20  # The same: "aiming at 20 nodes".
    replicas_min: int = 3  # Below this a provider tries again soon. Wild guess.
    records_wanted: int = RECORDS_MAX  # One answer's worth: enough to choose 8 to 16 partners from.
    record_life_s: float = 240.0  # Below the 300 allowed, so that clocks may differ by a minute.
    republish_s: float = 120.0  # Half a record's life: one round may fail.
    refresh_s: float = 600.0  # Of a bucket; the paper (2.3) has an hour, for longer-lived nodes.
    allow_private: bool = False  # LAN and demo mode: believe addresses of this machine and LAN.
    serving: bool = True  # Answer others. Not for nodes that nobody can dial.

    def width(self, goal: Goal) -> int:
        """How many of the nearest nodes must answer before a look-up is over."""
        match goal:
            case Goal.FIND:
                return self.k
            case Goal.PROVIDE:
                return self.replicas
            case Goal.JOIN | Goal.REFRESH:
                return self.k // 2  # As many as make a bucket rich (`Dht._plan_refresh`).


@dataclass(slots=True)
class Counters:
    """What happened so far."""

    lookups: int = 0
    asked: int = 0
    answered: int = 0
    late: int = 0
    dead: int = 0
    served: int = 0
    denied: int = 0  # Queries we denied.
    refused: int = 0  # Queries of ours that were denied.
    unsolicited: int = 0  # Answers nobody asked for.
    bad_addresses: int = 0
    records_stored: int = 0


# Effects, besides those of core.py.


@dataclass(frozen=True, slots=True)
class Found:
    """Providers of `key`, new or with newer addresses than before. Only addresses to dial."""

    lookup: int
    key: bytes
    records: tuple[Record, ...]


@dataclass(frozen=True, slots=True)
class LookupDone:
    """A `find` is over. found: providers in all. hops: to the first of them, or of the way."""

    lookup: int
    key: bytes
    found: int
    queries: int
    hops: int
    seconds: float
    closest: tuple[Contact, ...]  # The nearest nodes that answered.


@dataclass(frozen=True, slots=True)
class Provided:
    """A round of announcing is over: this many nodes hold our record."""

    key: bytes
    holders: int


@dataclass(slots=True)
class Task:
    """A look-up with its purpose, and what it has brought so far."""

    number: int
    goal: Goal
    lookup: Lookup
    records: dict[NodeId, Record] = field(default_factory=dict)
    seen: set[bytes] = field(default_factory=set)  # Verified bytes; at most `QUERIES_MAX` answers'.
    hops: int | None = None


@dataclass(slots=True)
class Provision:
    """A key we provide: the record, who holds it, and when to do more about it."""

    key: bytes
    addresses: tuple[Address, ...]
    record: Record | None = None
    renew_at: float = -inf
    next_at: float = inf  # Inf while a round is under way, or while we know nobody.
    retry_s: float = RETRY_S_MIN
    round_at: float = -inf  # When the last round ended.
    waiting: int = 0  # Announcements in flight.
    looking: bool = False
    holders: set[NodeId] = field(default_factory=set)

    @property
    def idle(self) -> bool:
        return not self.looking and not self.waiting
