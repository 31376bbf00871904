"""Tickets: one line of text with everything a stranger needs to find a stream.

`p2pstream://` and base32 (RFC 4648, lower case, no padding) of
`version u8 | stream id 32 | count u8 | count x seed | check 4`, a seed being
`node id 32 | 4 or 6 u8 | IP address | port u16`, the check the first bytes of a SHA-256 over all
before it: a typo cannot lead anywhere.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
from dataclasses import dataclass
from hashlib import sha256

from p2pstream.errors import BadTicket
from p2pstream.identity import ID_BYTES, Address, NodeId, StreamId

SCHEME = "p2pstream://"  # With `//`: streamlink turns `p2pstream:x` into https.
VERSION = 1
SEEDS_MAX = 8  # 39 bytes each: a ticket stays below 600 characters, which a chat line carries.
CHECK_BYTES = 4

_HINT = "A ticket starts with p2pstream:// and is one unbroken line: copy it again."


@dataclass(frozen=True, slots=True)
class Seed:
    """A node that knows the way: its id, so that nobody can pose as it, and where it listens."""

    node: NodeId
    address: Address


@dataclass(frozen=True, slots=True)
class Ticket:
    """A stream's id and the nodes through which it can be found."""

    stream: StreamId
    seeds: tuple[Seed, ...]

    def __str__(self) -> str:
        body = bytes([VERSION]) + self.stream + bytes([len(self.seeds)])
        body += b"".join(_pack_seed(seed) for seed in self.seeds)
        return SCHEME + base32(body + _check(body))


def parse_ticket(text: str) -> Ticket:
    """The ticket in `text`. Raises `BadTicket`."""
    text = text.strip()
    if not text.lower().startswith(SCHEME):
        raise BadTicket(f"this is not a ticket: {text[:40]!r}", hint=_HINT)
    try:
        raw = unbase32(text[len(SCHEME) :].rstrip("/"))
    except ValueError:
        raise BadTicket("the ticket has characters that no ticket has", hint=_HINT) from None
    body, check = raw[:-CHECK_BYTES], raw[-CHECK_BYTES:]
    if _check(body) != check:
        raise BadTicket("the ticket has a typo or is cut short: its check digits are wrong",
                        hint=_HINT)  # fmt: skip
    if body[:1] != bytes([VERSION]):
        raise BadTicket("the ticket is of a newer kind", hint="Install a newer p2pstream.")
    try:
        return _unpack(body)
    except (ValueError, IndexError):
        raise BadTicket("the ticket is damaged inside", hint=_HINT) from None


def base32(data: bytes) -> str:
    return base64.b32encode(data).decode().rstrip("=").lower()


def unbase32(text: str) -> bytes:
    """Raises `ValueError` for anything but the one encoding of some bytes."""
    try:
        data = base64.b32decode(text.upper() + "=" * (-len(text) % 8))
    except binascii.Error as error:
        raise ValueError(str(error)) from None
    if base32(data) != text.lower():
        raise ValueError("not canonical base32")
    return data


def _pack_seed(seed: Seed) -> bytes:
    ip = ipaddress.ip_address(seed.address[0])
    return seed.node + bytes([ip.version]) + ip.packed + seed.address[1].to_bytes(2)


def _unpack(body: bytes) -> Ticket:
    at = 1 + ID_BYTES
    if len(body) <= at:
        raise ValueError("length")
    stream, count = StreamId(body[1:at]), body[at]
    at += 1
    seeds = []
    for _ in range(count):
        if len(body) <= at + ID_BYTES:
            raise ValueError("length")
        node, version = NodeId(body[at : at + ID_BYTES]), body[at + ID_BYTES]
        at += ID_BYTES + 1
        size = {4: 4, 6: 16}.get(version, 0)
        ip, port = body[at : at + size], body[at + size : at + size + 2]
        seeds.append(Seed(node, (str(ipaddress.ip_address(ip)), int.from_bytes(port))))
        at += size + 2
    if at != len(body) or count > SEEDS_MAX:
        raise ValueError("length")
    return Ticket(stream, tuple(seeds))


def _check(body: bytes) -> bytes:
    return sha256(b"p2pstream ticket v1" + body).digest()[:CHECK_BYTES]
