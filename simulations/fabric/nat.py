"""NATs: which outer address a datagram leaves with (mapping), and which may come in (filtering).

RFC 4787's words: endpoint-independent mapping ("cone") or address-and-port-dependent
("symmetric"); filtering by nothing, by address, or by address and port.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from p2pstream.identity import Address

PORT = 4000  # What every node binds.
TIMEOUT_S = 60.0  # RFC 4787 REQ-5 wants 120; many homes have 30 to 60 (RFC 9308 3.2).
MAPPINGS_MAX = 1024


class Kind(Enum):
    """The NATs of a scenario. `cone` is what Linux's masquerade does: filtering by port."""

    NONE = "none"
    FULL_CONE = "full_cone"
    RESTRICTED = "restricted"
    CONE = "cone"
    SYMMETRIC = "symmetric"
    CGNAT = "cgnat"  # A provider's, as `cone`; its address is that of many, each with own ports.
    BLOCKED = "blocked"  # A firewall that lets no UDP through.


@dataclass(slots=True)
class Nat:
    """One host's way to the internet. ip, port: its outer address."""

    kind: Kind
    ip: str
    timeout_s: float = TIMEOUT_S
    port: int = PORT
    _sent: dict[Address, float] = field(default_factory=dict)  # To whom, when last.
    _ports: dict[Address, int] = field(default_factory=dict)  # Of a symmetric one, by destination.
    _next: int = PORT + 1

    def out(self, to: Address, *, now: float) -> Address | None:
        """A datagram leaves: from which outer address; None when it may not."""
        if self.kind is Kind.BLOCKED:
            return None
        if self.kind is Kind.NONE:
            return self.ip, self.port
        self._sent[to] = now
        if len(self._sent) > MAPPINGS_MAX:
            del self._sent[next(iter(self._sent))]
        if self.kind is not Kind.SYMMETRIC:
            return self.ip, self.port
        if to not in self._ports:
            self._ports[to] = self._next
            self._next += 1
        return self.ip, self._ports[to]

    def admits(self, port: int, source: Address, *, now: float) -> bool:
        """Whether a datagram from `source` to our outer `port` comes in."""
        match self.kind:
            case Kind.NONE:
                return port == self.port
            case Kind.BLOCKED:
                return False
            case Kind.FULL_CONE:
                return port == self.port and any(self._fresh(at, now) for at in self._sent.values())
            case Kind.RESTRICTED:
                return port == self.port and any(
                    to[0] == source[0] and self._fresh(at, now) for to, at in self._sent.items()
                )
            case Kind.CONE | Kind.CGNAT:
                return port == self.port and self._open_to(source, now)
            case Kind.SYMMETRIC:
                return self._ports.get(source) == port and self._open_to(source, now)

    def moved(self, ip: str) -> None:
        """Another network: nothing is mapped there."""
        self.ip = ip
        self._sent.clear()
        self._ports.clear()

    def _open_to(self, source: Address, now: float) -> bool:
        at = self._sent.get(source)
        return at is not None and self._fresh(at, now)

    def _fresh(self, at: float, now: float) -> bool:
        return now - at <= self.timeout_s
