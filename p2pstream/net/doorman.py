"""How many strangers may knock, how often anyone may speak, and who is banned.

Everything here is bounded: what is not known is forgotten, oldest first.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from p2pstream.identity import Address, NodeId

# security/architecture.md 5.5, all of them.
CONNECTIONS_MAX = 256
INBOUND_MAX = 160
HALF_OPEN_MAX = 64
HALF_OPEN_CALM = 16  # With more, strangers prove their address first (5.3).
IPV4_CONNECTIONS_MAX = {32: 8, 24: 24, 16: 64}  # By prefix length.
IPV6_CONNECTIONS_MAX = {64: 8, 56: 8, 48: 64}
HANDSHAKES_PER_S = 0.5  # From one IPv4 address or IPv6 /64.
HANDSHAKES_BURST = 8

BAN_S = (60.0, 600.0, 86_400.0)  # 5.6: the first, the second, every later one.
BANS_MAX = 4096  # The same.
BAN_MEMORY_S = 86_400.0  # Innocent for so long after a ban: the next one is the first again.
KNOCKERS_MAX = 4096  # Addresses whose rate we remember, proven or not; wild guess, 1 MB each.


UNPROVEN = "unproven"  # Why a stranger may not come in yet: its address may be somebody else's.


class Bucket:
    """A token bucket: `burst` at once, then `per_s` a second."""

    __slots__ = ("_at", "_burst", "_per_s", "_tokens")

    def __init__(self, per_s: float, burst: float) -> None:
        self._per_s, self._burst, self._tokens, self._at = per_s, burst, float(burst), 0.0

    def take(self, *, now: float) -> bool:
        """Whether one more is within the limit; counts it if so."""
        self._fill(now)
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def ready_at(self, *, now: float) -> float:
        """When the next `take` will succeed."""
        self._fill(now)
        return now + max(0.0, 1 - self._tokens) / self._per_s

    def _fill(self, now: float) -> None:
        self._tokens = min(self._burst, self._tokens + max(0.0, now - self._at) * self._per_s)
        self._at = now


class Doorman:
    """Counts connections, and says whether one more may come in."""

    def __init__(self) -> None:
        self.connections = 0
        self.inbound = 0
        self.half_open = 0  # Inbound ones that are not up yet.
        self._by_prefix: Counter[str] = Counter()
        # Apart, so that who uses another's address does not use up its knocks.
        self._knocks: OrderedDict[str, Bucket] = OrderedDict()
        self._proven_knocks: OrderedDict[str, Bucket] = OrderedDict()

    def refuses(self, address: Address, *, proven: bool = False, now: float) -> str:
        """A word why a stranger at `address` may not come in; empty when it may. Counts a knock.

        `UNPROVEN`: it may when it has proven to be there, as long as that costs us nothing.
        """
        if self.connections >= CONNECTIONS_MAX or self.inbound >= INBOUND_MAX:
            return "full"
        if self.half_open >= HALF_OPEN_MAX:
            return "half_open"
        if not proven and self.half_open >= HALF_OPEN_CALM:
            return UNPROVEN
        prefixes = _prefixes(address[0])
        if any(self._by_prefix[prefix] >= most for prefix, most in prefixes):
            return "too_many_from_there" if proven else UNPROVEN
        knocks = self._proven_knocks if proven else self._knocks
        if prefixes and not _knock(knocks, prefixes[0][0]).take(now=now):
            return "too_often" if proven else UNPROVEN
        return ""

    def enter(self, address: Address, *, inbound: bool) -> None:
        """One more connection."""
        self.connections += 1
        if inbound:
            self.inbound += 1
            self.half_open += 1
            self._by_prefix.update(prefix for prefix, _ in _prefixes(address[0]))

    def settled(self) -> None:
        """An inbound connection came up, or ended before it did."""
        self.half_open -= 1

    def leave(self, address: Address, *, inbound: bool) -> None:
        """A connection that had entered is gone."""
        self.connections -= 1
        if inbound:
            self.inbound -= 1
            for prefix, _ in _prefixes(address[0]):
                self._by_prefix[prefix] -= 1
                if not self._by_prefix[prefix]:
                    del self._by_prefix[prefix]


@dataclass(slots=True)
class _Ban:
    until: float
    count: int


class Bans:
    """Nodes that lied. Each ban of the same node is longer than the one before."""

    def __init__(self) -> None:
        self._bans: OrderedDict[NodeId, _Ban] = OrderedDict()

    def add(self, peer: NodeId, *, now: float) -> float:
        """Ban `peer`; returns until when."""
        old = self._bans.pop(peer, None)
        count = 0 if old is None or old.until + BAN_MEMORY_S < now else old.count
        until = now + BAN_S[min(count, len(BAN_S) - 1)]
        self._bans[peer] = _Ban(until, count + 1)
        if len(self._bans) > BANS_MAX:
            self._bans.popitem(last=False)
        return until

    def holds(self, peer: NodeId, *, now: float) -> bool:
        """Whether `peer` is banned now."""
        ban = self._bans.get(peer)
        return ban is not None and now < ban.until

    def __len__(self) -> int:
        return len(self._bans)


def _knock(knocks: OrderedDict[str, Bucket], prefix: str) -> Bucket:
    bucket = knocks.pop(prefix, None) or Bucket(HANDSHAKES_PER_S, HANDSHAKES_BURST)
    knocks[prefix] = bucket
    if len(knocks) > KNOCKERS_MAX:
        knocks.popitem(last=False)
    return bucket


def _prefixes(host: str) -> list[tuple[str, int]]:
    """Networks around `host`, narrowest first, with their limits; none of a private address.

    A household or a test bench shares one address, and the rest of the world cannot use it.
    """
    ip: IPv4Address | IPv6Address = ip_address(host.partition("%")[0])
    if ip.is_private or ip.is_loopback or ip.is_link_local:
        return []
    limits = IPV4_CONNECTIONS_MAX if ip.version == 4 else IPV6_CONNECTIONS_MAX
    return [(str(ip_network(f"{ip}/{bits}", strict=False)), most) for bits, most in limits.items()]
