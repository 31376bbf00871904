"""Tickets: a stranger types one in, so nothing but the very same ticket may come out."""

from __future__ import annotations

import ipaddress
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pstream import access
from p2pstream.access import SCHEME, SEEDS_MAX, Seed, Ticket, base32, parse_ticket, unbase32
from p2pstream.errors import BadTicket
from p2pstream.identity import NodeId, StreamId
from tests.suites import naughty_strings, needs

STREAM = StreamId(bytes(range(32)))
SEED = Seed(NodeId(bytes(range(32, 64))), ("192.0.2.7", 4433))
TICKET = Ticket(STREAM, (SEED,))

ids = st.binary(min_size=32, max_size=32)
hosts = st.ip_addresses().map(str)
seeds = st.builds(Seed, ids.map(NodeId), st.tuples(hosts, st.integers(0, 65535)))
tickets = st.builds(Ticket, ids.map(StreamId), st.lists(seeds, max_size=SEEDS_MAX).map(tuple))


@given(tickets)
def test_a_ticket_survives_being_written_down(ticket: Ticket) -> None:
    text = str(ticket)

    assert parse_ticket(text) == ticket
    assert parse_ticket(f"  {text}\n") == ticket
    assert parse_ticket(text.upper()) == ticket
    assert parse_ticket(text + "/") == ticket, "browsers add one"


def test_the_longest_ticket_fits_a_chat_line() -> None:
    seed = Seed(SEED.node, ("2001:db8:1:2:3:4:5:6", 65535))

    assert len(str(Ticket(STREAM, (seed,) * SEEDS_MAX))) < 800
    assert len(str(TICKET)) < 150


def test_the_layout_is_what_the_specification_says() -> None:
    body = b"\x01" + STREAM + b"\x01" + SEED.node + b"\x04" + bytes([192, 0, 2, 7]) + b"\x11\x51"

    assert unbase32(str(TICKET).removeprefix(SCHEME))[:-4] == body


def test_no_single_typo_leads_anywhere() -> None:
    text = str(TICKET)
    for at in range(len(SCHEME), len(text)):
        for other in string.ascii_lowercase + string.digits + "/ -":
            if other != text[at] and not (at == len(text) - 1 and other in "/ "):
                with pytest.raises(BadTicket):
                    parse_ticket(text[:at] + other + text[at + 1 :])


def test_no_piece_of_a_ticket_is_a_ticket() -> None:
    text = str(TICKET)
    for length in range(len(text)):
        with pytest.raises(BadTicket):
            parse_ticket(text[:length])
    for extra in ("a", "aaaaaaaa", text):
        with pytest.raises(BadTicket):
            parse_ticket(text + extra)


@pytest.mark.parametrize(
    "text", ["", "hello", "https://example.org", "p2pstream:", SCHEME, "é" * 99]
)
def test_what_is_no_ticket_says_so_in_one_line(text: str) -> None:
    with pytest.raises(BadTicket) as caught:
        parse_ticket(text)

    assert "\n" not in str(caught.value)
    assert caught.value.hint
    assert caught.value.exit_code == 8


@given(st.text())
def test_any_text_is_a_ticket_or_a_bad_ticket(text: str) -> None:
    for candidate in (text, SCHEME + text):
        with pytest.raises(BadTicket):
            parse_ticket(candidate)


@needs("blns")
def test_naughty_strings_are_no_tickets() -> None:
    for text in naughty_strings():
        for candidate in (text, SCHEME + text, str(TICKET) + text.strip().removesuffix("/")):
            if candidate != str(TICKET):
                with pytest.raises(BadTicket):
                    parse_ticket(candidate)


def sealed(body: bytes) -> str:
    """Any body with the right check digits: what somebody makes who wants to harm us."""
    return SCHEME + base32(body + access._check(body))


@pytest.mark.parametrize(
    "tail",
    [
        b"",  # No count.
        b"\x01",  # A seed that is not there.
        b"\x00\x00",  # A byte too many.
        b"\x01" + SEED.node + b"\x05" + bytes(6),  # IP version 5.
        b"\x01" + SEED.node + b"\x04" + bytes(5),  # Half a port.
        b"\x01" + SEED.node + b"\x06" + bytes(6),  # An IPv6 address of 4 bytes.
        bytes([SEEDS_MAX + 1]) + (SEED.node + b"\x04" + bytes(6)) * (SEEDS_MAX + 1),
    ],
    ids=["no count", "no seed", "rest", "ip5", "half a port", "short ip6", "too many"],
)
def test_a_crafted_ticket_is_refused(tail: bytes) -> None:
    with pytest.raises(BadTicket):
        parse_ticket(sealed(b"\x01" + STREAM + tail))


def test_a_crafted_ticket_without_a_whole_stream_id_is_refused() -> None:
    for length in range(33):
        with pytest.raises(BadTicket):
            parse_ticket(sealed((b"\x01" + STREAM)[:length]))


@given(st.binary(max_size=120))
def test_any_crafted_ticket_is_refused_or_parsed(tail: bytes) -> None:
    try:
        ticket = parse_ticket(sealed(b"\x01" + STREAM + tail))
    except BadTicket:
        return
    assert str(ticket) == sealed(b"\x01" + STREAM + tail)
    assert all(ipaddress.ip_address(seed.address[0]) for seed in ticket.seeds)


def test_a_newer_ticket_asks_for_a_newer_program() -> None:
    with pytest.raises(BadTicket, match="newer") as caught:
        parse_ticket(sealed(b"\x02" + STREAM + b"\x00"))

    assert "newer" in caught.value.hint


@given(st.binary(max_size=100))
def test_base32_has_one_encoding_of_everything(data: bytes) -> None:
    assert unbase32(base32(data)) == data


@pytest.mark.parametrize("text", ["a", "aaa", "ab", "a=", "aaaaaaa=", "a a", "1aaaaaaa", "ä" * 8])
def test_base32_refuses_what_it_would_not_write(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        unbase32(text)
