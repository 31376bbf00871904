"""The window: nothing in it that was not proven, and never more of it than its bounds."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pstream.errors import BadMessage, Misbehaviour
from p2pstream.stream import window as windows
from p2pstream.stream.chunker import Signed
from p2pstream.stream.head import KEY
from p2pstream.stream.window import HEADS_MAX, Window
from tests.stream.made import FIFTH, INIT, NOW_MS, a_chunker, a_head, signed_chunks

CHUNKS = signed_chunks(4)
FIRST = CHUNKS[0]


@pytest.fixture
def window() -> Window:
    made = Window()
    made.add_head(FIRST.head)
    return made


def fill(window: Window, signed: Signed, rendition: int = 0) -> None:
    for index, piece in enumerate(signed.pieces[rendition]):
        window.add_piece(signed.head.seq, rendition, index, piece.data, piece.proof)


def test_a_chunk_is_here_when_all_its_pieces_are(window: Window) -> None:
    pieces = FIRST.pieces[0]
    for index in (2, 0):
        assert window.add_piece(1000, 0, index, pieces[index].data, pieces[index].proof)
    assert window.have(1000, 0) == 0b101
    assert window.missing(1000, 0) == 0b010
    assert not window.complete(1000, 0)
    assert window.chunk(1000, 0) is None

    window.add_piece(1000, 0, 1, pieces[1].data, pieces[1].proof)

    chunk = window.chunk(1000, 0)
    assert chunk is not None
    assert chunk.data == b"".join(piece.data for piece in pieces)
    assert window.complete(1000, 0)
    assert window.bytes == len(chunk.data)


@given(st.sets(st.integers(0, 3)), st.sets(st.tuples(st.integers(0, 3), st.integers(0, 2))))
def test_the_window_knows_whether_it_has_gaps(
    heads: set[int], pieces: set[tuple[int, int]]
) -> None:
    window = Window()
    for at in heads:
        window.add_head(CHUNKS[at].head)
        for index, piece in enumerate(CHUNKS[at].pieces[0]):
            if (at, index) in pieces:
                window.add_piece(1000 + at, 0, index, piece.data, piece.proof)
    for first in range(1000, 1004):
        gaps = window.gaps(0, range(first, window.newest + 1))
        assert window.whole(0, first) is not bool(gaps)


def test_of_what_is_not_here_nothing_is_said(window: Window) -> None:
    assert window.have(999, 0) == 0
    assert window.missing(999, 0) == -1, "all of it, however much that is"
    assert window.missing(1000, 7) == 0
    assert not window.complete(1000, 7)
    assert window.piece(1000, 0, 0) is None
    assert window.chunk(999, 0) is None
    assert window.head(999) is None
    assert Window().newest == Window().newest_key() == -1


def test_a_piece_is_kept_once(window: Window) -> None:
    fill(window, FIRST)
    before = window.bytes
    piece = FIRST.pieces[0][0]

    assert not window.add_piece(1000, 0, 0, piece.data, piece.proof)
    assert window.bytes == before


def liars() -> Iterator[tuple[str, int, int, bytes, bytes]]:
    """Pieces of the second chunk that are not what they say."""
    a, b = FIRST.pieces[0][:2]
    other = FIRST.pieces[1][0]
    later = CHUNKS[1].pieces[0][0]
    flipped = bytes([a.data[0] ^ 1]) + a.data[1:]
    yield "flipped bit", 0, 0, flipped, a.proof
    yield "last bit flipped", 0, 0, a.data[:-1] + bytes([a.data[-1] ^ 128]), a.proof
    yield "too short", 0, 0, a.data[:-1], a.proof
    yield "too long", 0, 0, a.data + b"\0", a.proof
    yield "empty", 0, 0, b"", a.proof
    yield "another index", 0, 1, a.data, a.proof
    yield "proof of another", 0, 0, a.data, b.proof
    yield "no proof", 0, 0, a.data, b""
    yield "proof too long", 0, 0, a.data, a.proof + bytes(32)
    yield "another rendition", 0, 0, other.data, other.proof
    yield "another chunk", 0, 0, later.data, later.proof
    yield "no such rendition", 5, 0, a.data, a.proof
    yield "no such piece", 0, 3, a.data, a.proof
    yield "far beyond", 0, 255, a.data, a.proof


@pytest.mark.parametrize("lie", list(liars()), ids=lambda lie: lie[0])
def test_h01_a_wrong_piece_convicts_and_leaves_no_trace(
    window: Window, lie: tuple[str, int, int, bytes, bytes]
) -> None:
    _, rendition, index, data, proof = lie

    with pytest.raises(Misbehaviour):
        window.add_piece(1000, rendition, index, data, proof)

    assert window.have(1000, rendition) == 0
    assert window.bytes == 0


def test_h01_the_last_short_piece_must_have_its_length(window: Window) -> None:
    last = FIRST.pieces[0][2]

    with pytest.raises(Misbehaviour):
        window.add_piece(1000, 0, 2, last.data + bytes(16), last.proof)
    assert window.add_piece(1000, 0, 2, last.data, last.proof)


def test_a_piece_without_a_head_proves_nothing_about_its_sender(window: Window) -> None:
    piece = CHUNKS[1].pieces[0][0]

    with pytest.raises(BadMessage):
        window.add_piece(1001, 0, 0, piece.data, piece.proof)


def test_h05_two_heads_for_one_seq_are_a_fork(window: Window) -> None:
    twin = a_head(captured_ms=NOW_MS + 1)

    with pytest.raises(Misbehaviour, match="forked"):
        window.add_head(twin)
    assert window.head(1000) == FIRST.head
    assert not window.add_head(FIRST.head)


def test_h06_heads_in_any_order_and_with_gaps() -> None:
    window = Window()
    for seq in (1003, 1001, 1000, 1000, 1043):
        window.add_head(a_head(seq))

    assert list(window) == [1000, 1001, 1003, 1043]
    assert 1002 not in window
    assert window.newest == 1043


@given(st.lists(st.tuples(st.integers(0, 300), st.booleans()), max_size=150))
def test_h06_no_history_of_heads_overfills_the_window(history: list[tuple[int, bool]]) -> None:
    window, newest = Window(), -1
    for seq, key in history:
        head, known = HEADS[seq, key], window.head(seq)
        added = window.add_head(head) if known in {None, head} else False
        newest = max(newest, seq)

        assert len(window) <= HEADS_MAX
        assert added == (seq in window) or seq in window
        assert window.newest == newest
        assert list(window) == sorted(window)


HEADS = {(seq, key): a_head(seq, flags=KEY * key) for seq in range(301) for key in (False, True)}


def test_what_is_too_old_does_not_come_back() -> None:
    window = Window()
    window.add_head(a_head(5000))
    assert window.oldest_allowed == 5000 - HEADS_MAX + 1

    assert window.add_head(a_head(window.oldest_allowed))
    assert not window.add_head(a_head(window.oldest_allowed - 1))


def test_a_huge_seq_empties_the_window_and_costs_no_more() -> None:
    """Only the broadcaster can say it."""
    window = Window()
    for signed in CHUNKS:
        window.add_head(signed.head)
        fill(window, signed)

    assert window.add_head(a_head(2**53 - 1))
    assert len(window) == HEADS_MAX or window.newest == 2**53 - 1
    assert window.bytes <= sum(len(p.data) for s in CHUNKS for p in s.pieces[0])


def test_the_window_holds_no_more_bytes_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "BYTES_MAX", 100_000)  # A constant, not a collaborator.
    window = Window()
    for signed in signed_chunks(12):
        window.add_head(signed.head)
        fill(window, signed)
        fill(window, signed, 1)
        assert window.bytes <= 100_000

    assert window.newest == 1011
    assert window.bytes == sum(
        len(piece.data)
        for seq in window for r in (0, 1) for i in range(3)
        if (piece := window.piece(seq, r, i))
    )  # fmt: skip


def test_decoding_starts_at_the_newest_key_frame() -> None:
    window = Window()
    for signed in signed_chunks(8):
        window.add_head(signed.head)

    assert window.newest_key() == 1005


@given(st.integers(0, 2**32))
def test_pieces_in_any_order_make_the_same_chunk(seed: int) -> None:
    window, rng = Window(), Random(seed)
    pieces = [
        (signed.head.seq, r, i, piece)
        for signed in CHUNKS for r, cut in signed.pieces.items() for i, piece in enumerate(cut)
    ]  # fmt: skip
    rng.shuffle(pieces)
    for signed in CHUNKS:
        window.add_head(signed.head)
    for seq, r, i, piece in pieces:
        window.add_piece(seq, r, i, piece.data, piece.proof)

    for signed in CHUNKS:
        for r, cut in signed.pieces.items():
            chunk = window.chunk(signed.head.seq, r)
            assert chunk is not None
            assert chunk.data == b"".join(piece.data for piece in cut)
            assert (chunk.init, chunk.duration) == (INIT, FIFTH)


def test_the_end_has_nothing_to_wait_for() -> None:
    window = Window()
    end = a_chunker().end(captured_ms=NOW_MS, pts=0)

    assert window.add_head(end.head)
    assert window.missing(1000, 0) == 0
    assert window.chunk(1000, 0) is None
