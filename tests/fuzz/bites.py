"""A fuzzer's input as decisions, taken from its front."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Bites:
    """Bytes, numbers and choices, until `data` is eaten up; after that, zeros."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __len__(self) -> int:
        """What is left, in bytes."""
        return max(0, len(self._data) - self._at)

    def take(self, count: int) -> bytes:
        """At most so many bytes."""
        self._at += count
        return self._data[self._at - count : self._at]

    def number(self, count: int = 1) -> int:
        """Of so many bytes."""
        return int.from_bytes(self.take(count))

    def choose(self, options: Sequence[T]) -> T:
        """One of them; at most 256."""
        return options[self.number() % len(options)]

    def some(self) -> bytes:
        """Bytes, as many as those before them say."""
        first = self.number() & 0x7F
        return self.take(first if first < 0x70 else self.number(2) % 2048)

    def rest(self) -> bytes:
        """All that is left."""
        return self.take(len(self._data))
