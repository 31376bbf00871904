"""What the worker says, and what it must not be able to say."""

from __future__ import annotations

from contextlib import suppress

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pstream.errors import BadMessage
from p2pstream.media.records import (
    RECORD_BYTES_MAX,
    AnyRecord,
    Ended,
    Failed,
    Group,
    Opened,
    Rendition,
    Unpacker,
    Warned,
    pack,
)

RENDITION = Rendition(0, "720p", 1280, 720, 2_500_000, "avc1.4d401f,mp4a.40.2", b"12345678")
GROUP = Group(18_000, 18_000, 1_700_000_000_000, True, False, ((0, b"media"), (1, b"less")))
EXAMPLES: list[AnyRecord] = [
    Opened("a film", "encode", (RENDITION,)),
    GROUP,
    Warned("behind", "slow"),
    Failed("no_video", "It has no video.", "Add some."),
    Ended(),
]


def test_records_survive_the_pipe_in_pieces_of_any_size() -> None:
    data = b"".join(map(pack, EXAMPLES))
    for size in (1, 7, len(data)):
        unpacker = Unpacker()
        parts = (data[at : at + size] for at in range(0, len(data), size))

        assert [record for part in parts for record in unpacker.feed(part)] == EXAMPLES


@pytest.mark.parametrize(
    "changes",
    [
        {"pts": -1},
        {"duration": 0},
        {"chunks": ()},
        {"chunks": ((0, b""),)},
        {"chunks": tuple((i, b"x") for i in range(9))},
        {"chunks": ((300, b"x"),)},
        {"captured_ms": 2**60},
    ],
)
def test_a_group_out_of_bounds_is_refused(changes: dict[str, object]) -> None:
    bad = msgspec.structs.replace(GROUP, **changes)

    with pytest.raises(BadMessage):
        list(Unpacker().feed(pack(bad)))


def test_a_record_too_long_is_refused_before_it_is_read() -> None:
    with pytest.raises(BadMessage, match="record of"):
        list(Unpacker().feed((RECORD_BYTES_MAX + 1).to_bytes(4)))


@given(st.binary(max_size=200))
def test_any_bytes_are_records_or_one_error(body: bytes) -> None:
    with suppress(BadMessage):
        list(Unpacker().feed(len(body).to_bytes(4) + body))


@given(st.sampled_from(EXAMPLES), st.data())
def test_a_damaged_record_is_a_record_or_one_error(record: AnyRecord, data: st.DataObject) -> None:
    raw = bytearray(pack(record))
    raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    with suppress(BadMessage):
        list(Unpacker().feed(bytes(raw)))


def test_an_array_that_claims_to_be_huge_costs_nothing() -> None:
    body = b"\x97\x02\x00\x01\x00\xc3\xc2\xdd\xff\xff\xff\xff"

    with pytest.raises(BadMessage):
        list(Unpacker().feed(len(body).to_bytes(4) + body))
