"""How a chunk is cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pstream.stream.chunk import PIECE_BYTES, Chunk, piece_count, piece_size, pieces_of


@pytest.mark.parametrize(
    ("size", "sizes"),
    [
        (0, []),
        (1, [1]),
        (PIECE_BYTES, [PIECE_BYTES]),
        (PIECE_BYTES + 1, [PIECE_BYTES, 1]),
        (3 * PIECE_BYTES - 1, [PIECE_BYTES, PIECE_BYTES, PIECE_BYTES - 1]),
    ],
)
def test_all_pieces_but_the_last_are_whole(size: int, sizes: list[int]) -> None:
    assert [len(piece) for piece in pieces_of(bytes(size))] == sizes


@given(st.integers(0, 300_000))
def test_what_the_head_says_of_pieces_is_how_they_are_cut(size: int) -> None:
    pieces = pieces_of(bytes(size))

    assert len(pieces) == piece_count(size)
    assert [piece_size(size, index) for index in range(len(pieces))] == [len(p) for p in pieces]


def test_a_chunk_knows_how_long_it_lasts() -> None:
    assert Chunk(1, 0, b"", 0, 18_000, 0, key=True, discontinuity=False, pieces=()).seconds == 0.2
