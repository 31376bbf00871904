"""What happened, as one hash: two runs with equal hashes did the same things at the same times."""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import blake2b
from struct import Struct

_pack = Struct(">dHIIQ").pack

KINDS = (
    "deliver",
    "parcel",
    "play",
    "link_up",
    "link_down",
    "start",
    "stop",
    "fault",
    "lost",
    "datagram",
)
DELIVER, PARCEL, PLAY, LINK_UP, LINK_DOWN, START, STOP, FAULT, LOST, DATAGRAM = range(len(KINDS))

Event = tuple[float, int, int, int, int]  # When, kind, who, from whom, what (a size, a seq).


@dataclass(slots=True)
class Trace:
    """recorded: every event, when somebody asked for them by giving a list."""

    events: int = 0
    recorded: list[Event] | None = None
    _hash: blake2b = field(default_factory=lambda: blake2b(digest_size=16))

    def add(self, when: float, kind: int, who: int, whom: int = 0, what: int = 0) -> None:
        """who, whom: numbers of hosts."""
        self._hash.update(_pack(when, kind, who, whom, what))
        self.events += 1
        if self.recorded is not None:
            self.recorded.append((when, kind, who, whom, what))

    def digest(self) -> str:
        return self._hash.hexdigest()


def words(event: Event) -> str:
    """An event for people."""
    when, kind, who, whom, what = event
    return f"{when:12.6f} s  {KINDS[kind]:<9} host {who:<5} from {whom:<5} {what}"
