"""What DHT nodes say to each other: tags 16 to 31 (docs/wire.md, part 5).

Every query carries a request id that the asker chose at random; the answer repeats it. Answers
stay within 1200 bytes, so that one fits into a datagram and nobody is buried under them.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated

from msgspec import Meta

from p2pstream.dht.contact import WireContact
from p2pstream.dht.limits import TOKEN_BYTES
from p2pstream.wire.codec import U8, U32, Digest, Message

ANSWER_BYTES_MAX = 1200  # security/architecture.md 5.4: responses.
CONTACTS_MAX = 16  # The same place: contacts in one answer.
RECORDS_MAX = 20  # The same place: providers in one answer.
RECORD_BYTES_MAX = 1000  # The same place: one record.
RECORDS_FIT = ANSWER_BYTES_MAX // 146  # No more into an answer: of no address a record has 146.

# Upper bounds of what msgpack makes of the parts of an answer, to fill it without packing twice.
ANSWER_EMPTY_BYTES = 32  # Tag, request id, two array headers, token.
CONTACT_EXTRA_BYTES = 40  # Header of the array and of both binaries, the id, the port.
RECORD_EXTRA_BYTES = 3  # Header of a binary.

Token = Annotated[bytes, Meta(min_length=TOKEN_BYTES, max_length=TOKEN_BYTES)]
RecordBytes = Annotated[bytes, Meta(min_length=1, max_length=RECORD_BYTES_MAX)]


class Reason(IntEnum):
    """Why a query was denied. Numbers not listed here may come from newer nodes."""

    BUSY = 1  # Over a rate limit: ask later, or somebody else.
    CLIENT = 2  # This node only asks (it cannot be reached, say): keep it out of your table.
    BAD_TOKEN = 3  # Not ours, not for you here, or too old.
    NOT_YOURS = 4  # The record is about another node than the one that announces it.
    EXPIRED = 5
    TOO_LONG = 6  # Expires later than is allowed.
    OLD = 7  # A newer record is stored.
    CONFLICT = 8  # Another record with the same sequence number is stored.
    FULL = 9  # Too many records from your subnet.


Contacts = Annotated[tuple[WireContact, ...], Meta(max_length=CONTACTS_MAX)]
Records = Annotated[tuple[RecordBytes, ...], Meta(max_length=RECORDS_MAX)]


class Ping(Message, frozen=True, tag=16):
    """Are you there?"""

    rid: U32


class Pong(Message, frozen=True, tag=17):
    """Answers `Ping`."""

    rid: U32


class FindNode(Message, frozen=True, tag=18):
    """Who is closest to `target`? Also asks for a token to put records under that key."""

    rid: U32
    target: Digest


class Nodes(Message, frozen=True, tag=19):
    """Answers `FindNode`: the closest contacts, and leave to store."""

    rid: U32
    contacts: Contacts
    token: Token


class FindProviders(Message, frozen=True, tag=20):
    """Who provides `key`, and who is closest to it?"""

    rid: U32
    key: Digest


class Providers(Message, frozen=True, tag=21):
    """Some of the records stored under the key, at random, and contacts as `Nodes` has them."""

    rid: U32
    records: Records
    contacts: Contacts
    token: Token

    def __post_init__(self) -> None:
        if sum(map(len, self.records)) > ANSWER_BYTES_MAX:
            raise ValueError(f"more than {ANSWER_BYTES_MAX} bytes of records")


class Announce(Message, frozen=True, tag=22):
    """Store `record`, which is about the sender."""

    rid: U32
    key: Digest
    token: Token
    record: RecordBytes


class Stored(Message, frozen=True, tag=23):
    """Answers `Announce`: the record is kept."""

    rid: U32


class Denied(Message, frozen=True, tag=24):
    """No; see `Reason`."""

    rid: U32
    reason: U8


Query = Ping | FindNode | FindProviders | Announce
Answer = Pong | Nodes | Providers | Stored | Denied

# The answers that fit each query; `Denied` fits all.
ANSWERS: dict[type[Query], type[Answer]] = {
    Ping: Pong,
    FindNode: Nodes,
    FindProviders: Providers,
    Announce: Stored,
}

DHT_MESSAGES: tuple[type[Message], ...] = (
    Ping,
    Pong,
    FindNode,
    Nodes,
    FindProviders,
    Providers,
    Announce,
    Stored,
    Denied,
)


def fit_nodes(rid: int, contacts: list[WireContact], token: bytes) -> Nodes:
    """An answer with as many of `contacts`, nearest first, as may be told."""
    # All that may be told fit, IPv6 too: 32 bytes and 16 times 56.
    return Nodes(rid, tuple(contacts[:CONTACTS_MAX]), token)


def fit_providers(
    rid: int, records: list[bytes], contacts: list[WireContact], token: bytes
) -> Providers:
    """An answer with what fits of both. Records first, but half the contacts always have room.

    Whoever asks wants records; the few nearest contacts lead it to the other holders.
    """
    near = contacts[: CONTACTS_MAX // 2]
    room = ANSWER_BYTES_MAX - ANSWER_EMPTY_BYTES
    room -= sum(CONTACT_EXTRA_BYTES + len(contact.host) for contact in near)
    chosen: list[bytes] = []
    for record in records[:RECORDS_FIT]:
        room -= len(record) + RECORD_EXTRA_BYTES
        if room < 0:
            break
        chosen.append(record)
    if not chosen:
        near = contacts[:CONTACTS_MAX]
    return Providers(rid, tuple(chosen), tuple(near), token)
