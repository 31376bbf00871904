"""QUIC frames out of a fuzzer's input: mostly of the right form, about things that exist.

What ends a connection for certain is rare, so that connections live long enough to be harmed.
"""

from __future__ import annotations

from collections.abc import Callable

from p2pstream.net.frames import FIN, LENGTH, OFFSET, STREAM, varint
from tests.fuzz.bites import Bites

# What follows the type of a frame (RFC 9000 19, RFC 9221 4). n: a number, d: bytes with their
# length in front, a: the number of a packet, r: ranges of an ACK, i: a stream on which the sender
# of the frame sends, o: one on which it receives, c: a connection id, 8: so many bytes, t: a token.
FORMS = {
    0x00: "", 0x01: "", 0x02: "anr", 0x03: "anrnnn", 0x04: "inn", 0x05: "on", 0x10: "n",
    0x11: "on", 0x12: "n", 0x13: "n", 0x14: "n", 0x15: "in", 0x16: "n", 0x17: "n", 0x18: "nnct",
    0x1A: "8", 0x1B: "8",
}  # fmt: skip
DEADLY = {
    0x06: "nd", 0x07: "d", 0x19: "n", 0x1C: "nnd", 0x1D: "nd", 0x1E: "", 0x30: "", 0x31: "d",
}  # fmt: skip
STREAMS = range(STREAM, STREAM + 8)
USUAL = [*FORMS, *STREAMS, *STREAMS]


def frame(bites: Bites, streams: int) -> bytes:
    """One frame. streams: the low bits of those that the sender opens in one direction."""
    number = bites.number()
    if number == 0xFF:
        return bites.some()
    kind = USUAL[number % len(USUAL)] if number < 0xF0 else [*DEADLY][number % len(DEADLY)]
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
    if first < 0xE0:
        return varint(first)
    if first < 0xF0:
        return varint(bites.number(2) << (first & 15))
    if first < 0xFF:
        return varint((1 << 62) - 1 - (first & 15))
    return (bites.number(8) | 0xC0 << 56).to_bytes(8)


def _packet_number(bites: Bites, streams: int) -> bytes:
    first = bites.number()
    return varint(first & 31) if first < 0xF8 else _number(bites, streams)


def _their_stream(bites: Bites, streams: int) -> bytes:
    """RFC 9000 2.1: the control stream, or one of those in one direction."""
    first = bites.number()
    if first < 0xF8:
        return varint(first >> 3 << 2 | streams if first & 7 else 0)
    return _number(bites, streams)


def _our_stream(bites: Bites, streams: int) -> bytes:
    return _their_stream(bites, streams ^ 1)


def _data(bites: Bites, _streams: int) -> bytes:
    data = bites.some()
    return varint(len(data)) + data


def _ranges(bites: Bites, streams: int) -> bytes:
    """Their count, the first one, then pairs (RFC 9000 19.3)."""
    first = bites.number()
    count = first >> 5 if first < 0xF0 else 8 * (first & 15)
    numbers = [varint(bites.number() & 3) if first & 1 else _number(bites, streams)
               for _ in range(1 + 2 * count)]  # fmt: skip
    return varint(count) + b"".join(numbers)


def _connection_id(bites: Bites, _streams: int) -> bytes:
    size = bites.number() % 32
    return bytes([size]) + bites.take(size).ljust(size)


PARTS: dict[str, Callable[[Bites, int], bytes]] = {
    "n": _number,
    "d": _data,
    "a": _packet_number,
    "r": _ranges,
    "i": _their_stream,
    "o": _our_stream,
    "c": _connection_id,
    "8": lambda bites, _: bites.take(8).ljust(8),
    "t": lambda bites, _: bites.take(16).ljust(16),
}
