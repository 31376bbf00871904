"""QUIC frames out of a fuzzer's input: mostly of the right form, about things that exist.

What ends a connection for certain is rare, so that connections live long enough to be harmed.
"""

from __future__ import annotations

from collections.abc import Callable

from p2pstream.net.frames import FIN, LENGTH, OFFSET, STREAM, varint
from tests.fuzz.bites import Bites

# What follows the type of a frame (RFC 9000 19, RFC 9221 4). n: a number, d: bytes with their
# length in front, a: packet numbers of an ACK, i: a stream on which the sender of the frame sends,
# o: one on which it receives, c: a connection id with its number and that of the first to be kept,
# 8: so many bytes, t: a token.
FORMS = {
    0x00: "", 0x01: "", 0x02: "a", 0x03: "annn", 0x04: "inn", 0x05: "on", 0x10: "n",
    0x11: "on", 0x12: "n", 0x13: "n", 0x14: "n", 0x15: "in", 0x16: "n", 0x17: "n", 0x18: "ct",
    0x1A: "8", 0x1B: "8",
}  # fmt: skip
DEADLY = {
    0x06: "nd", 0x07: "d", 0x19: "n", 0x1C: "nnd", 0x1D: "nd", 0x1E: "", 0x30: "", 0x31: "d",
}  # fmt: skip
STREAMS = range(STREAM, STREAM + 8)
OURS = 4  # Parcels that the link under test has sent from the beginning.
OPEN_STREAMS = [kind for kind in STREAMS if not kind & FIN]
USUAL = [*FORMS, *FORMS, *STREAMS, *OPEN_STREAMS * 6]


def frame(bites: Bites, streams: int) -> bytes:
    """One frame. streams: the low bits of those that the sender opens in one direction."""
    number = bites.number()
    if number == 0xFF:
        return bites.some()
    kind = USUAL[number % len(USUAL)] if number < 0xFE else bites.choose([*DEADLY])
    if kind in STREAMS:
        return _stream(bites, kind, streams)
    parts = (FORMS | DEADLY)[kind]
    return bytes([kind]) + b"".join(PARTS[part](bites, streams) for part in parts)


def _stream(bites: Bites, kind: int, streams: int) -> bytes:
    out = bytes([kind]) + _their_stream(bites, streams)
    if kind & OFFSET:
        out += _number(bites, streams)
    if kind & LENGTH or not kind & FIN:
        return bytes([kind | LENGTH]) + out[1:] + _data(bites, streams)
    return out + bites.some()


def _number(bites: Bites, _streams: int) -> bytes:
    """RFC 9000 16. Mostly small: packets and limits of a young connection are."""
    first = bites.number()
    if first < 0xF0:
        return varint(first)
    if first < 0xFC:
        return varint(bites.number(2) << (first & 15))
    if first < 0xFF:
        return varint((1 << 62) - 1 - (first & 15))
    return (bites.number(8) | 0xC0 << 56).to_bytes(8)


def _their_stream(bites: Bites, streams: int) -> bytes:
    """RFC 9000 2.1: the control stream, seldom, or one of those in one direction."""
    first = bites.number()
    if first < 0xFC:
        return varint(first >> 3 << 2 | streams if first & 31 else 0)
    return _number(bites, streams)


def _our_stream(bites: Bites, streams: int) -> bytes:
    """One of the first few, which exist."""
    first = bites.number()
    return varint(first % OURS << 2 | streams ^ 1) if first < 0xFC else _number(bites, streams)


def _data(bites: Bites, _streams: int) -> bytes:
    data = bites.some()
    return varint(len(data)) + data


def _acked(bites: Bites, streams: int) -> bytes:
    """RFC 9000 19.3: the largest number, a delay, a count of ranges, the first one, then pairs."""
    largest, first = bites.number() & 7, bites.number()
    delay = _number(bites, streams)
    if first < 0xF0:
        return varint(largest) + delay + b"\0" + varint(first % (largest + 1))
    count = first & 3 if first < 0xFC else 8 * (first & 3)
    numbers = [varint(bites.number() & 1) if first & 4 else _number(bites, streams)
               for _ in range(1 + 2 * count)]  # fmt: skip
    return varint(largest * largest) + delay + varint(count) + b"".join(numbers)


def _connection_id(bites: Bites, streams: int) -> bytes:
    first = bites.number()
    size = 8 if first < 0xF0 else first & 31
    kept = b"\0" if first & 7 else _number(bites, streams)
    number = varint(bites.number() & 7) if first & 15 else _number(bites, streams)
    return number + kept + bytes([size]) + bites.take(size).ljust(size)


PARTS: dict[str, Callable[[Bites, int], bytes]] = {
    "n": _number,
    "d": _data,
    "a": _acked,
    "i": _their_stream,
    "o": _our_stream,
    "c": _connection_id,
    "8": lambda bites, _: bites.take(8).ljust(8),
    "t": lambda bites, _: bites.take(16).ljust(16),
}
