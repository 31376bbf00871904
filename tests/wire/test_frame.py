"""Frames: however the bytes arrive, the same messages come out (C-07)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pstream.errors import BadMessage
from p2pstream.net.link import Hello
from p2pstream.swarm import messages as m
from p2pstream.wire.codec import LENGTH_BYTES, MESSAGE_BYTES_MAX, frame
from p2pstream.wire.frame import Unframer
from tests.wire.every import CODEC

STREAM = bytes(range(32))
SAID = [
    Hello("p2pstream/0.1.0", "192.0.2.1", 4433),
    m.Join(STREAM, m.Role.VIEWER, b"", b""),
    m.Want(STREAM, 0, ((1, b"\x07"),), heads=False),
    m.Leave(STREAM, "bye"),
]
BODIES = [CODEC.pack(message) for message in SAID]
WIRE = b"".join(map(frame, BODIES))

bodies = st.lists(st.binary(max_size=50), max_size=20)


@pytest.mark.parametrize("cut", range(len(WIRE) + 1))
def test_c07_cut_anywhere_the_messages_are_the_same(cut: int) -> None:
    unframer = Unframer()

    heard = [*unframer.feed(WIRE[:cut]), *unframer.feed(WIRE[cut:])]

    assert [CODEC.unpack(body) for body in heard] == SAID
    assert unframer.rest == b""


def test_c07_byte_by_byte_the_messages_are_the_same() -> None:
    unframer = Unframer()

    assert [body for byte in WIRE for body in unframer.feed(bytes([byte]))] == BODIES


def test_c07_a_thousand_messages_at_once() -> None:
    unframer = Unframer()

    assert list(unframer.feed(frame(BODIES[2]) * 1000)) == [BODIES[2]] * 1000
    assert unframer.rest == b""


@given(bodies, st.data())
def test_c07_any_bodies_cut_in_any_way(said: list[bytes], data: st.DataObject) -> None:
    wire = b"".join(map(frame, said))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=10)))
    unframer, heard = Unframer(), []
    for start, end in zip([0, *cuts], [*cuts, len(wire)], strict=True):
        heard += list(unframer.feed(wire[start:end]))

    assert heard == said
    assert unframer.rest == b""


def test_the_rest_is_what_has_arrived_of_the_next_frame() -> None:
    unframer = Unframer()

    assert list(unframer.feed(frame(b"one") + b"\x00\x05tw")) == [b"one"]
    assert unframer.rest == b"\x00\x05tw"
    assert list(unframer.feed(b"o!!")) == [b"two!!"]


def test_a_frame_that_claims_too_much_is_refused_before_it_comes() -> None:
    unframer = Unframer()
    claim = (MESSAGE_BYTES_MAX + 1).to_bytes(LENGTH_BYTES)

    with pytest.raises(BadMessage, match=str(MESSAGE_BYTES_MAX)):
        list(unframer.feed(claim))


def test_messages_before_a_bad_frame_are_still_heard() -> None:
    feed = Unframer().feed(frame(b"good") + b"\xff\xff")
    assert next(feed) == b"good"
    with pytest.raises(BadMessage):
        next(feed)


def test_the_longest_frame_passes_and_an_empty_one_is_no_message() -> None:
    body = bytes(MESSAGE_BYTES_MAX)

    assert list(Unframer().feed(frame(body) + frame(b""))) == [body, b""]
    with pytest.raises(BadMessage):
        CODEC.unpack(b"")
