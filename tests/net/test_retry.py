"""Tokens of Retry packets: good where and when they were given, and nowhere else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pstream.net.retry import CID_BYTES_MAX, TOKEN_S, Tokens

HERE, SOURCE, ORIGINAL = ("5.6.7.8", 9), b"s" * 8, b"o" * 12
TOKENS = Tokens(b"k" * 32)
TOKEN = TOKENS.make(HERE, original=ORIGINAL, source=SOURCE, now=100.0)


def test_s01_a_token_is_good_where_it_was_given() -> None:
    for now in (100.0, 100.0 + TOKEN_S):
        assert TOKENS.original(TOKEN, HERE, source=SOURCE, now=now) == ORIGINAL
    assert len(TOKEN) < 64


@pytest.mark.parametrize(
    ("address", "source", "now"),
    [
        (("5.6.7.8", 10), SOURCE, 100.0),
        (("5.6.7.9", 9), SOURCE, 100.0),
        (("5.6.7.8", 9), b"t" * 8, 100.0),
        (("5.6.7.8", 9), SOURCE, 100.1 + TOKEN_S),
    ],
    ids=["another port", "another address", "another connection", "too late"],
)
def test_s01_a_token_is_good_nowhere_else(
    address: tuple[str, int], source: bytes, now: float
) -> None:
    assert TOKENS.original(TOKEN, address, source=source, now=now) == b""


def test_s01_a_token_of_another_node_is_worthless() -> None:
    assert Tokens(b"l" * 32).original(TOKEN, HERE, source=SOURCE, now=100.0) == b""


@pytest.mark.parametrize("at", range(len(TOKEN)))
def test_s01_no_bit_of_a_token_can_be_changed(at: int) -> None:
    for bit in range(8):
        bent = bytearray(TOKEN)
        bent[at] ^= 1 << bit
        assert TOKENS.original(bytes(bent), HERE, source=SOURCE, now=100.0) == b""
    assert TOKENS.original(TOKEN[:at], HERE, source=SOURCE, now=100.0) == b""


@given(st.binary(max_size=100))
def test_s01_junk_is_no_token(token: bytes) -> None:
    assert TOKENS.original(token, HERE, source=SOURCE, now=100.0) == b""


def test_s01_every_length_of_id_comes_back() -> None:
    for length in range(1, CID_BYTES_MAX + 1):
        token = TOKENS.make(HERE, original=b"x" * length, source=SOURCE, now=5.0)
        assert TOKENS.original(token, HERE, source=SOURCE, now=5.0) == b"x" * length
