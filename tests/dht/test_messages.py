"""What goes over the wire: bounded, and one encoding of each."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pstream.dht.contact import WireContact
from p2pstream.dht.messages import (
    ANSWER_BYTES_MAX,
    CONTACTS_MAX,
    DHT_MESSAGES,
    RECORD_BYTES_MAX,
    RECORDS_MAX,
    Announce,
    Denied,
    FindNode,
    FindProviders,
    Nodes,
    Ping,
    Pong,
    Providers,
    Reason,
    Stored,
    fit_nodes,
    fit_providers,
)
from p2pstream.errors import BadMessage
from p2pstream.wire.codec import Codec, Message

CODEC = Codec(*DHT_MESSAGES)
TOKEN = bytes(16)
ID = bytes(range(32))
V4 = [WireContact(n.to_bytes(32), bytes([8, 1, n, 1]), 60_000 + n) for n in range(40)]
V6 = [WireContact(n.to_bytes(32), bytes([*[42] * 15, n]), 60_000 + n) for n in range(40)]

EXAMPLES: list[Message] = [
    Ping(2**32 - 1),
    Pong(0),
    FindNode(1, ID),
    Nodes(1, tuple(V4[:16]), TOKEN),
    FindProviders(1, ID),
    Providers(1, (b"r" * 150,), (V6[0],), TOKEN),
    Announce(1, ID, TOKEN, b"record"),
    Stored(1),
    Denied(1, Reason.BUSY),
]


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda m: type(m).__name__)
def test_a_message_survives_its_bytes(message: Message) -> None:
    assert CODEC.unpack(CODEC.pack(message)) == message


def test_tags_are_16_to_31_and_every_message_has_an_example() -> None:
    tags = [kind.__struct_config__.tag for kind in DHT_MESSAGES]
    assert len(set(tags)) == len(tags) == len(EXAMPLES)
    assert all(isinstance(tag, int) and 16 <= tag <= 31 for tag in tags)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_raise_bad_message_only(data: bytes) -> None:
    try:
        CODEC.unpack(data)
    except BadMessage:
        return


@pytest.mark.parametrize(
    "values",
    [
        [16, -1],
        [16, 2**32],
        [16, 1, 2],
        [18, 1, bytes(31)],
        [19, 1, [[ID, bytes(5), 1]], TOKEN],
        [19, 1, [[ID, bytes(4), 65536]], TOKEN],
        [19, 1, [[ID, bytes(4), 1]] * (CONTACTS_MAX + 1), TOKEN],
        [19, 1, [], bytes(15)],
        [21, 1, [b"r"] * (RECORDS_MAX + 1), [], TOKEN],
        [21, 1, [b"r" * 601, b"s" * 600], [], TOKEN],
        [22, 1, ID, TOKEN, b"r" * (RECORD_BYTES_MAX + 1)],
        [22, 1, ID, TOKEN, b""],
        [24, 1, 256],
        [25, 1],
    ],
)
def test_what_breaks_a_bound_is_refused(values: list[object]) -> None:
    with pytest.raises(BadMessage):
        CODEC.unpack(msgpack.packb(values))


@given(
    st.lists(st.integers(1, RECORD_BYTES_MAX).map(lambda size: b"r" * size), max_size=30),
    st.lists(st.sampled_from(V4 + V6), max_size=40),
)
def test_an_answer_never_exceeds_1200_bytes(
    records: list[bytes], contacts: list[WireContact]
) -> None:
    for answer in (
        fit_providers(2**32 - 1, records, contacts, TOKEN),
        fit_nodes(2**32 - 1, contacts, TOKEN),
    ):
        data = CODEC.pack(answer)
        assert len(data) <= ANSWER_BYTES_MAX
        assert CODEC.unpack(data) == answer


def test_an_answer_has_room_for_sixteen_contacts_or_five_records_and_eight_contacts() -> None:
    assert len(fit_nodes(1, V4, TOKEN).contacts) == CONTACTS_MAX
    assert len(fit_nodes(1, V6, TOKEN).contacts) == CONTACTS_MAX
    answer = fit_providers(1, [b"r" * 153] * 20, V4, TOKEN)
    assert len(answer.records) == 5
    assert len(answer.contacts) == 8
