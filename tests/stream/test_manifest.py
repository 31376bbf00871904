"""Inits on their way: one encoding, named by its hash."""

from __future__ import annotations

from dataclasses import replace

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pstream.errors import BadMessage
from p2pstream.stream.chunk import HASH_BYTES, INIT_BYTES_MAX, Init
from p2pstream.stream.manifest import init_hash, pack_init, unpack_init
from p2pstream.swarm.messages import InitFile
from tests.wire.every import CODEC

INIT = Init(1, "720p", 1280, 720, 2_500_000, "avc1.64001f,mp4a.40.2", b"ftypmoov")


def test_an_init_survives_the_way() -> None:
    assert unpack_init(pack_init(INIT)) == INIT
    assert unpack_init(pack_init(replace(INIT, data=bytes(INIT_BYTES_MAX)))).data


def test_the_largest_init_fits_into_its_message() -> None:
    packed = pack_init(replace(INIT, name="x" * 32, codecs="a" * 64, data=bytes(INIT_BYTES_MAX)))

    message = InitFile(bytes(32), packed)
    assert CODEC.unpack(CODEC.pack(message)) == message


def test_two_inits_have_two_names() -> None:
    names = {init_hash(pack_init(replace(INIT, rendition=n))) for n in range(8)}

    assert len(names) == 8
    assert {len(name) for name in names} == {HASH_BYTES}


def test_c05_every_single_bit_counts() -> None:
    raw = pack_init(INIT)
    for bit in range(len(raw) * 8):
        flipped = bytearray(raw)
        flipped[bit // 8] ^= 1 << bit % 8
        assert init_hash(bytes(flipped)) != init_hash(raw)
        try:
            other = unpack_init(bytes(flipped))
        except BadMessage:
            continue
        assert pack_init(other) == flipped


@given(st.binary(max_size=200))
def test_arbitrary_bytes_raise_bad_message_only(data: bytes) -> None:
    with pytest.raises(BadMessage):
        unpack_init(b"\x98\x00" + data[:4] + data)


VALUES = [0, 1, "720p", 1280, 720, 2_500_000, "avc1.64001f", b"data"]


@pytest.mark.parametrize(
    ("at", "value"),
    [
        (2, ""), (2, "x" * 33), (2, "a<b"), (2, 'a"b'), (2, "a\nb"), (2, "720p\n"), (2, "a\x1b[0m"),
        (3, 0), (4, 0), (3, 65536), (5, 2**32),
        (6, ""), (6, 'avc1"'), (6, "avc1\n#EXT-X-KEY"), (6, "avc1\n"), (6, "x" * 65),
        (7, bytes(INIT_BYTES_MAX + 1)), (7, "text"),
    ],
)  # fmt: skip
def test_what_would_reach_a_playlist_or_a_page_is_plain(at: int, value: object) -> None:
    assert unpack_init(msgpack.packb(VALUES)).name == "720p"

    with pytest.raises(BadMessage):
        unpack_init(msgpack.packb([*VALUES[:at], value, *VALUES[at + 1 :]]))
