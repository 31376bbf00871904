"""Which addresses we believe strangers about, and which of them count as one neighbourhood.

A contact or a record names addresses we will dial. Whoever writes them could aim us at machines
that trust us (loopback, the LAN, a cloud's metadata service) or at a victim's mail server, so
everything that is no plain host on the internet is ignored, except in LAN and demo mode.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

from p2pstream.identity import Address

# security/test-catalogue.md D-07: 25 and 53 are services that a stray datagram can hurt.
PORTS_NEVER = frozenset({0, 25, 53})
HOSTS_CACHED = 4096  # Parsed hosts kept, for speed: the contacts of some look-ups, below 2 MiB.
NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052: would reach any IPv4 host, private ones too.

IP = IPv4Address | IPv6Address


@lru_cache(maxsize=HOSTS_CACHED)
def may_dial(address: Address, *, allow_private: bool) -> bool:
    """Whether an address that a stranger wrote may be dialled (test-catalogue D-07)."""
    host, port = address
    facts = _facts(host)
    if facts is None or facts.never or port in PORTS_NEVER or not 0 < port < 2**16:
        return False
    return allow_private or not facts.private


def is_private(host: str) -> bool:
    """Whether `host` is of this machine or of a private network. Limits per subnet skip these.

    A whole LAN, or a demo of 20 nodes on 127.0.0.1, is one subnet without being one attacker.
    """
    facts = _facts(host)
    return facts is not None and facts.private


def plain(address: Address) -> Address:
    """`address` as a dual-stack socket would not have written it: v4-mapped becomes IPv4."""
    facts = _facts(address[0])
    if facts is not None and facts.mapped is not None:
        return facts.mapped, address[1]
    return address[0], address[1]


def pack_host(host: str) -> bytes:
    """The 4 or 16 bytes of an IP address."""
    facts = _facts(host)
    assert facts is not None, f"{host} is not an IP address"
    return facts.packed


@lru_cache(maxsize=HOSTS_CACHED)
def unpack_host(packed: bytes) -> str:
    """The text form of 4 or 16 bytes. Raises `ValueError` for any other number of them."""
    if len(packed) not in {4, 16}:
        raise ValueError(f"a host has 4 or 16 bytes, not {len(packed)}")
    return str(ip_address(packed))


# Neighbourhoods, by security/architecture.md 5.4. `None` for hosts that no limit applies to.


def subnet_small(host: str) -> bytes | None:
    """The IPv4 /24 or IPv6 /56 of `host`: what one customer can easily own."""
    return _prefix(host, 3, 7)


def subnet_large(host: str) -> bytes | None:
    """The IPv4 /24 or IPv6 /48 of `host`: what one site can easily own."""
    return _prefix(host, 3, 6)


def subnet_huge(host: str) -> bytes | None:
    """The IPv4 /16 or IPv6 /32 of `host`: what one provider easily owns."""
    return _prefix(host, 2, 4)


@dataclass(frozen=True, slots=True)
class _Facts:
    """What matters of a host. mapped: the IPv4 address in a v4-mapped IPv6 one."""

    packed: bytes
    never: bool
    private: bool
    mapped: str | None


@lru_cache(maxsize=HOSTS_CACHED)
def _prefix(host: str, bytes_v4: int, bytes_v6: int) -> bytes | None:
    facts = _facts(host)
    assert facts is not None, f"{host} is not an IP address"
    if facts.private:
        return None
    return facts.packed[: bytes_v4 if len(facts.packed) == 4 else bytes_v6]


@lru_cache(maxsize=HOSTS_CACHED)
def _facts(host: str) -> _Facts | None:
    try:
        ip = ip_address(host)
    except ValueError:
        return None
    mapped = ip.ipv4_mapped if isinstance(ip, IPv6Address) else None
    return _Facts(ip.packed, _never(ip), not ip.is_global, str(mapped) if mapped else None)


def _never(ip: IP) -> bool:
    if ip.is_multicast or ip.is_unspecified or ip.is_link_local:
        return True
    if isinstance(ip, IPv6Address):
        return ip.ipv4_mapped is not None or ip in NAT64 or bool(ip.sixtofour or ip.teredo)
    return ip.is_reserved or ip.packed[0] == 0
