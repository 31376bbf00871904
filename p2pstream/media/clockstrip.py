"""A wall clock burnt into the test picture, to measure delay from glass to glass.

The top twelfth of the picture is 34 blocks: a bright marker, 32 bits of Unix milliseconds with the
least significant first (bright is 1), and a dark one. Block i starts at i/34 of the width. Colour
is neutral below them. Read back without one error of 542 at 320x180 and 250 kbit/s
(facts/media.md, part 7).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

BITS = 32
BLOCKS = BITS + 2
HEIGHT_SHARE = 12
_DARK, _BRIGHT, _NEUTRAL = 16, 235, 128  # The limits of video range, ITU-R BT.601.


class Plane(Protocol):
    """Where one component of a yuv420p picture lies. line_size: bytes from row to row."""

    @property
    def width(self) -> int: ...
    @property
    def height(self) -> int: ...
    @property
    def line_size(self) -> int: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...


def draw(planes: Sequence[Plane], ms: int) -> None:
    """Write `ms` (modulo 2^32) into a yuv420p picture, in place."""
    luma, *chroma = planes
    _fill(luma, _row(luma.width, ms))
    for plane in chroma:
        _fill(plane, bytes([_NEUTRAL]) * plane.width)


def read(row: bytes) -> int | None:
    """The milliseconds in one row of luma from the strip's middle; None if there is no strip."""
    middles = [(2 * at + 1) * len(row) // (2 * BLOCKS) for at in range(BLOCKS)]
    bright = [row[middle] > (_DARK + _BRIGHT) // 2 for middle in middles]
    if not bright[0] or bright[-1]:
        return None
    return sum(1 << bit for bit, on in enumerate(bright[1:-1]) if on)


def strip_row(height: int) -> int:
    """The row to read of a picture of this height."""
    return height // HEIGHT_SHARE // 2


def _row(width: int, ms: int) -> bytes:
    row = bytearray([_DARK]) * width
    bits = [True, *(bool(ms >> bit & 1) for bit in range(BITS))]
    for at, on in enumerate(bits):
        # Shares of the width, not whole pixels: the picture may be scaled before it is read.
        start, end = at * width // BLOCKS, (at + 1) * width // BLOCKS
        row[start:end] = bytes([_BRIGHT if on else _DARK]) * (end - start)
    return bytes(row)


def _fill(plane: Plane, row: bytes) -> None:
    pixels = memoryview(plane)
    for y in range(plane.height // HEIGHT_SHARE):
        start = y * plane.line_size
        pixels[start : start + len(row)] = row
