"""The broadcaster's pen: a chain of heads, and pieces that prove themselves."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pstream.stream.chunk import PIECE_BYTES
from p2pstream.stream.head import KEY, NO_HEAD
from p2pstream.stream.window import Window
from tests.stream.made import (
    EPOCH,
    FIFTH,
    INIT,
    NOW_MS,
    OTHER,
    a_chunker,
    other_epoch,
    signed_chunks,
)


def test_heads_form_a_chain() -> None:
    heads = [signed.head for signed in signed_chunks(6)]

    assert [head.seq for head in heads] == list(range(1000, 1006))
    assert heads[0].previous == NO_HEAD
    assert all(b.previous == a.hash for a, b in pairwise(heads))
    for head in heads:
        head.verify(EPOCH, wall_ms=NOW_MS)


sizes = st.one_of(st.integers(1, 200_000), st.sampled_from([1, PIECE_BYTES, PIECE_BYTES + 1]))


@given(st.lists(sizes, min_size=1, max_size=4))
def test_whatever_is_signed_can_be_put_together_again(sizes: list[int]) -> None:
    chunks = {r: (INIT, bytes([r]) * size) for r, size in enumerate(sizes)}
    signed = a_chunker().sign(chunks, captured_ms=NOW_MS, pts=3, duration=FIFTH, flags=KEY)
    window = Window()
    window.add_head(signed.head)
    for rendition, pieces in signed.pieces.items():
        for index, piece in reversed(list(enumerate(pieces))):
            assert window.add_piece(1000, rendition, index, piece.data, piece.proof)

    for rendition, (_, data) in chunks.items():
        chunk = window.chunk(1000, rendition)
        assert chunk is not None
        assert (chunk.data, chunk.pts, chunk.captured_ms, chunk.key) == (data, 3, NOW_MS, True)


def test_the_chain_goes_on_under_a_new_epoch() -> None:
    chunker = a_chunker()
    media = {0: (INIT, b"media")}
    first = chunker.sign(media, captured_ms=NOW_MS, pts=0, duration=FIFTH, flags=KEY).head
    later = other_epoch(8)

    chunker.renew(OTHER, later)
    second = chunker.sign(media, captured_ms=NOW_MS, pts=FIFTH, duration=FIFTH, flags=0).head

    assert (second.seq, second.previous, second.epoch) == (1001, first.hash, 8)
    second.verify(later, wall_ms=NOW_MS)


@pytest.mark.parametrize("number", [6, 7])
def test_epochs_only_go_up(number: int) -> None:
    with pytest.raises(AssertionError):
        a_chunker().renew(OTHER, other_epoch(number))


def test_the_end_is_the_last_link() -> None:
    chunker = a_chunker()
    last = chunker.sign(
        {0: (INIT, b"media")}, captured_ms=NOW_MS, pts=0, duration=FIFTH, flags=KEY
    ).head

    end = chunker.end(captured_ms=NOW_MS, pts=FIFTH)

    assert end.pieces == {}
    assert end.head.end
    assert end.head.previous == last.hash
