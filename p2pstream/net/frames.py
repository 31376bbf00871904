"""The few frames of QUIC that the fast path reads and writes itself (RFC 9000 16, 19)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from struct import Struct

from aioquic.quic.packet import QuicFrameType

# RFC 9000 19.8: 0b00001, then: an offset, a length, the end.
STREAM, OFFSET, LENGTH, FIN = 0x08, 0x04, 0x02, 0x01
STREAMS = ~(OFFSET | LENGTH | FIN)  # What all types of STREAM frames have in common.
ACK_RANGES_MAX = 32  # Of one ACK; 8 bytes each at most.

BYTE = [bytes((value,)) for value in range(256)]
# The two bytes of each number that has at most two (RFC 9000 16), by the number.
_TWO_BYTES = [(0x4000 | value).to_bytes(2) for value in range(0x4000)]


def varint(value: int) -> bytes:
    """A number, in as few bytes as it takes."""
    if value < 0x40:
        return BYTE[value]
    if value < 0x4000:
        return _TWO_BYTES[value]
    if value < 0x4000_0000:
        return (value | 0x8000_0000).to_bytes(4)
    return (value | 0xC000_0000_0000_0000).to_bytes(8)


def pull(data: bytes, at: int) -> tuple[int, int]:
    """The number at `at`, and where it ends: beyond the data, or `IndexError`, if it is cut."""
    first = data[at]
    if first < 0x40:
        return first, at + 1
    if first < 0x80:
        return (first & 0x3F) << 8 | data[at + 1], at + 2
    width = 4 if first < 0xC0 else 8
    value = int.from_bytes(data[at : at + width])
    return value & (1 << 8 * width - 2) - 1, at + width


def stream_heads(lead: bytes, start: int, step: int, count: int) -> list[bytes]:
    """What STREAM frames in a row begin with, `count` at most: offsets of two bytes, from 0x40."""
    return [lead + offset for offset in _TWO_BYTES[start : start + step * count : step]]


def stream_frame(stream: bytes, start: int, data: bytes, *, end: bool) -> bytes:
    """With a length, so that more may follow. stream: its id, as `varint` writes it."""
    kind = BYTE[STREAM | (OFFSET if start else 0) | LENGTH | end]
    offset = varint(start) if start else b""
    return b"".join((kind, stream, offset, _TWO_BYTES[len(data)], data))


def ack_frame(received: Sequence[range], delay: int) -> bytes:
    """Of the newest ranges; `received` ascends. delay: as its exponent has it."""
    newest, *others = received[: -ACK_RANGES_MAX - 1 : -1]
    parts = [
        BYTE[QuicFrameType.ACK],
        varint(newest.stop - 1),
        varint(delay),
        varint(len(others)),
        varint(len(newest) - 1),
    ]
    start = newest.start
    for part in others:
        parts += [varint(start - part.stop - 1), varint(len(part) - 1)]
        start = part.start
    return b"".join(parts)


def read_ack(data: bytes) -> tuple[list[range], int, int]:
    """What the ACK at the start acknowledges, ascending; its delay; where it ends.

    The first range may begin below 0, and the end may be beyond the data. Raises `IndexError`.
    """
    largest, at = pull(data, 1)
    delay, at = pull(data, at)
    count, at = pull(data, at)
    length, at = pull(data, at)
    start = largest - length
    ranges = [range(start, largest + 1)]
    for _ in range(count):
        gap, at = pull(data, at)
        length, at = pull(data, at)
        stop = start - gap - 1
        start = stop - length - 1
        ranges.append(range(start, stop))
    ranges.reverse()
    return ranges, delay, at


@lru_cache(maxsize=512)  # Of the sizes that strangers choose, the last ones.
def cutter(skip: int, take: int, rest: int, count: int) -> Callable[..., tuple[bytes, ...]]:
    """A function that takes `take` bytes out of each of so many stretches, in one call."""
    one = f"{skip}x{take}s"
    return Struct(f"{one}{rest}x" * (count - 1) + one if count else "").unpack_from
