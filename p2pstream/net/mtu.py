"""How long the datagrams on one path may be (RFC 8899, RFC 9000 14.3). A policy without hands.

Starts at what every path carries, tries what more there may be, longest first, and notices when a
path that used to carry long datagrams swallows them. A probe is a packet that carries nothing, so
losing it costs nobody anything.
"""

from __future__ import annotations

from ipaddress import ip_address
from math import inf

from p2pstream.identity import Address

BASE_BYTES = 1200  # RFC 9000 14.1.
ETHERNET_BYTES = 1452  # 1500 less an IPv6 and a UDP header.
# What else is common: PPPoE with a tunnel in it, and the least that IPv6 allows (RFC 8200 5).
INTERNET_SIZES = (ETHERNET_BYTES, 1392, 1232)
# facts/quic.md 3.10: twice as cheap; 10.4: stock aioquic breaks above 16,400.
JUMBO_BYTES = 16_000

PROBES_MAX = 3  # RFC 8899 5.1.2: MAX_PROBES.
RAISE_S = 600.0  # RFC 8899 5.1.1: PMTU_RAISE_TIMER.
# Losing long datagrams is normal: look whether the path still carries them this often at most.
DOUBTS = 3  # quinn's black hole detector.
TIMEOUTS_MAX = 3  # As RFC 9002 7.6.1 has for persistent congestion.
DOUBT_S = 2.0  # Wild guess: a probe in two seconds is 0.1 % of a 6 Mbit/s stream.


def sizes_to(address: Address) -> tuple[int, ...]:
    """What to try on the way to `address`, longest first."""
    try:
        near = ip_address(address[0].partition("%")[0]).is_loopback
    except ValueError:
        near = False
    return (JUMBO_BYTES, *INTERNET_SIZES) if near else INTERNET_SIZES


class PathSize:
    """The state of one path. `size` is what its datagrams may have now."""

    def __init__(self, sizes: tuple[int, ...]) -> None:
        self.size = BASE_BYTES
        self._sizes = sizes
        self._untried = list(sizes)
        self._raise_at = inf
        self._doubted = False  # Whether `size` itself is being probed.
        self._doubts = 0
        self._doubt_at = -inf
        self._flying = False
        self._tries = 0

    def probe(self, *, now: float) -> int:
        """The length of a probe to send now; 0 for none. Its fate must be told."""
        if self._flying:
            return 0
        if self._doubted:
            return self.size
        if now >= self._raise_at:
            self._raise_at = inf
            self._untried = [size for size in self._sizes if size > self.size]
        return self._untried[0] if self._untried else 0

    def sent(self) -> None:
        """The probe has left."""
        self._flying = True

    def arrived(self, size: int, *, now: float) -> None:
        """A probe of `size` was acknowledged."""
        self._flying, self._doubted, self._tries, self._doubts = False, False, 0, 0
        if size >= self.size:
            self.size = size
            self._untried.clear()
            self._raise_at = now + RAISE_S

    def vanished(self, size: int, *, now: float) -> None:
        """A probe of `size` was lost."""
        self._flying = False
        self._tries += 1
        if self._tries < PROBES_MAX:
            return
        self._tries = 0
        if self._doubted:
            self._doubted, self.size = False, BASE_BYTES
        self._untried = [other for other in self._sizes if self.size < other < size]
        if not self._untried:
            self._raise_at = now + RAISE_S

    def silence(self, timeouts: int) -> None:
        """So many probe timeouts in a row (RFC 9002 6.2): perhaps it is the length."""
        if timeouts >= TIMEOUTS_MAX and self.size > BASE_BYTES:
            self.size = BASE_BYTES
            self._flying, self._doubted, self._tries = False, False, 0
            self._untried = list(self._sizes)

    def doubt(self, *, now: float) -> None:
        """A datagram longer than `BASE_BYTES` was lost."""
        self._doubts += 1
        if self._doubts >= DOUBTS and now >= self._doubt_at and self.size > BASE_BYTES:
            self._doubt_at = now + DOUBT_S
            self._doubts = 0
            self._doubted = True
