"""What a person pastes: tickets, with check digits that fit or not, and seeds. `BadTicket`."""

from __future__ import annotations

from contextlib import suppress

from p2pstream import access
from p2pstream.access import SCHEME, Ticket, base32, parse_ticket
from p2pstream.cli.common import parse_seed
from p2pstream.errors import BadTicket
from p2pstream.identity import NodeId, StreamId
from tests.fuzz.bites import Bites

SEED = access.Seed(NodeId(bytes(32)), ("192.0.2.7", 4433))
SEED6 = access.Seed(NodeId(bytes(32)), ("2001:db8::1", 4433))
TICKET = Ticket(StreamId(bytes(range(32))), (SEED, SEED6))


def one(data: bytes) -> int:
    """The first byte says as what the others are read."""
    bites = Bites(data)
    with suppress(BadTicket):
        bites.choose([_text, _sealed, _seed])(bites)
    return 1


def seeds() -> list[bytes]:
    """One of each."""
    text = str(TICKET)
    body = access.unbase32(text.removeprefix(SCHEME))[: -access.CHECK_BYTES]
    where = f"{base32(SEED.node)}@192.0.2.7:4433", f"{base32(SEED.node)}@[2001:db8::1]:4433"
    return [b"\0" + text.encode(), b"\1" + body, *(b"\2" + line.encode() for line in where)]


def _text(bites: Bites) -> None:
    text = bites.rest().decode(errors="surrogateescape")
    again = str(parse_ticket(text))
    assert parse_ticket(again) == parse_ticket(text)
    assert again == text.strip().lower().rstrip("/")


def _sealed(bites: Bites) -> None:
    body = bites.rest()
    text = SCHEME + base32(body + access._check(body))
    assert str(parse_ticket(text)) == text


def _seed(bites: Bites) -> None:
    seed = parse_seed(bites.rest().decode(errors="surrogateescape"))
    assert str(Ticket(TICKET.stream, (seed,)))
