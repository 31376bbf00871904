"""Dice from a seed tree: each die has a path, and its throws depend on nothing but seed and path.

So a host that is added, or a fault that is left out, shifts nobody else's dice.
"""

from __future__ import annotations

from hashlib import blake2b
from random import Random
from statistics import NormalDist

_NORMAL = NormalDist()
_UNIT = 1 / 2**64


def secret(seed: int, *path: object) -> bytes:
    """32 bytes for a key, that only this path of this seed has."""
    return blake2b(repr((seed, *path)).encode(), digest_size=32).digest()


def die(seed: int, *path: object) -> Random:
    """A source of throws of its own."""
    return Random(int.from_bytes(secret(seed, *path)))  # noqa: S311  # Dice, not secrets.


def throw(seed: int, *path: object) -> float:
    """One number, 0 <= x < 1, without the 2.5 kB of a `Random`."""
    return (int.from_bytes(secret(seed, *path)[:8]) >> 1) * 2 * _UNIT


def bell(share: float) -> float:
    """The value below which `share` of a standard normal lies."""
    return _NORMAL.inv_cdf(min(max(share, 1e-9), 1 - 1e-9))
