"""Large pages: asked for, never needed."""

from __future__ import annotations

from hashlib import sha256

from simulations.memory import HUGE_BYTES, use_large_pages


def test_what_is_in_memory_stays_as_it_is() -> None:
    kept = [bytes([n]) * HUGE_BYTES for n in range(8)]
    before = [sha256(block).digest() for block in kept]
    use_large_pages()
    assert [sha256(block).digest() for block in kept] == before
