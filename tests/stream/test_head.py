"""Heads: one layout, one signature, and a clear reason for every refusal."""

from __future__ import annotations

import struct
from dataclasses import replace
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pstream.errors import BadMessage, Misbehaviour
from p2pstream.identity import NodeKey, StreamKey
from p2pstream.stream.chunk import CHUNK_BYTES_MAX, PIECE_BYTES, TICKS_PER_S
from p2pstream.stream.epoch import EPOCH_MS_MAX, certify
from p2pstream.stream.head import (
    BURST,
    DISCONTINUITY,
    DURATION_MAX,
    END,
    FRESH_MS_AHEAD,
    FRESH_MS_BACK,
    HEAD_BYTES_MAX,
    KEY,
    Head,
    Part,
    parse,
)
from tests.stream.made import (
    EPOCH,
    FIFTH,
    INIT,
    NOW_MS,
    OTHER,
    ROOT,
    ROOT_HASH,
    SIGNER,
    a_head,
    other_epoch,
)

PARTS = (Part(0, INIT, 40_000, ROOT_HASH), Part(3, INIT[::-1], 1, ROOT_HASH[::-1]))
FIXED_BYTES = 18 + 32 + 4 + 8 + 32 + 8 + 8 + 8 + 4 + 1 + 4 + 1
PART_BYTES = 1 + 16 + 4 + 32


def by_hand(
    *, tag: bytes = b"p2pstream head v1\0", seq: int = 1000, captured: int = NOW_MS, pts: int = 5,
    not_after: int = NOW_MS + EPOCH_MS_MAX, duration: int = FIFTH, flags: int = 3, count: int = 2,
    parts: tuple[Part, ...] = PARTS, key: StreamKey = SIGNER,
) -> bytes:  # fmt: skip
    """A head packed field by field, as the specification has it."""
    body = tag + ROOT.stream_id
    body += struct.pack(">IQ", 7, seq) + b"\x99" * 32
    body += struct.pack(">QQQ", captured, not_after, pts)
    body += struct.pack(">I", duration) + bytes([flags]) + bytes(4) + bytes([count])
    for part in parts:
        body += bytes([part.rendition]) + part.init + struct.pack(">I", part.size) + part.root
    return body + key.sign(body)


def test_the_layout_is_what_the_specification_says() -> None:
    head = a_head(previous=b"\x99" * 32, pts=5, flags=KEY | DISCONTINUITY, parts=PARTS)

    assert head.raw == by_hand()
    assert len(head.raw) == FIXED_BYTES + 2 * PART_BYTES + 64 < 330
    assert head.raw[50:54] == b"\0\0\0\x07", "the epoch"
    assert head.raw[54:62] == b"\0\0\0\0\0\0\x03\xe8", "the seq"
    assert head.hash == sha256(head.raw[:-64]).digest()
    assert head == Head(
        ROOT.stream_id, 7, 1000, b"\x99" * 32, NOW_MS, NOW_MS + EPOCH_MS_MAX, 5, FIFTH, 3, 0,
        PARTS, head.raw,
    )  # fmt: skip
    assert head.key
    assert head.discontinuity
    assert not head.end
    assert head.part(3) == PARTS[1]
    assert head.part(1) is None


def test_renditions_are_put_in_order() -> None:
    assert a_head(parts=PARTS[::-1]).raw == a_head(parts=PARTS).raw


def test_a_good_head_is_believed() -> None:
    a_head().verify(EPOCH, wall_ms=NOW_MS)


def believed(head: Head) -> bool:
    try:
        head.verify(EPOCH, wall_ms=NOW_MS)
    except (BadMessage, Misbehaviour):
        return False
    return True


def test_c05_every_single_bit_counts() -> None:
    raw = a_head(parts=PARTS).raw
    for bit in range(len(raw) * 8):
        flipped = bytearray(raw)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            head = parse(bytes(flipped))
        except BadMessage:
            continue
        assert head.raw == flipped
        assert not believed(head)


def test_c05_no_part_of_a_head_is_a_head() -> None:
    raw = a_head(parts=PARTS).raw
    for length in range(len(raw)):
        with pytest.raises(BadMessage):
            parse(raw[:length])
    with pytest.raises(BadMessage):
        parse(raw + b"\0")


@given(st.binary(max_size=HEAD_BYTES_MAX + 50))
def test_arbitrary_bytes_raise_bad_message_only(data: bytes) -> None:
    for raw in (data, by_hand()[:18] + data):
        try:
            head = parse(raw)
        except BadMessage:
            continue
        assert not believed(head)


@given(st.data())
def test_damaged_heads_raise_our_errors_only(dice: st.DataObject) -> None:
    raw = bytearray(by_hand())
    for at in dice.draw(st.lists(st.integers(18, len(raw) - 1), min_size=1, max_size=8)):
        raw[at] = dice.draw(st.integers(0, 255))
    if raw != by_hand():
        try:
            head = parse(bytes(raw))
        except BadMessage:
            return
        assert not believed(head)


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        (a_head(key=OTHER), "wrong signature"),
        (a_head(key=ROOT), "wrong signature"),
        (a_head(key=StreamKey(NodeKey(b"node" * 8).seed)), "wrong signature"),
        (a_head(epoch=certify(OTHER, 7, SIGNER.public, now_ms=NOW_MS, bitrate_max=10**6,
                              title="")), "another stream"),
    ],
    ids=["another key", "root key", "node key", "another stream"],
)  # fmt: skip
def test_h02_who_passes_on_a_head_of_somebody_else_lies(head: Head, reason: str) -> None:
    with pytest.raises(Misbehaviour, match=reason):
        head.verify(EPOCH, wall_ms=NOW_MS)


@pytest.mark.parametrize("number", [6, 8])
def test_h02_a_head_of_another_epoch_is_refused_without_blame(number: int) -> None:
    """Its sender may not have heard of the new epoch, or we have not."""
    head = a_head(epoch=other_epoch(number, SIGNER))

    with pytest.raises(BadMessage, match=f"epoch {number}"):
        head.verify(EPOCH, wall_ms=NOW_MS)


def test_h02_the_key_of_the_last_epoch_signs_nothing_in_this_one() -> None:
    with pytest.raises(Misbehaviour, match="wrong signature"):
        a_head().verify(replace(EPOCH, signer=OTHER.public), wall_ms=NOW_MS)


@pytest.mark.parametrize("captured_ms", [0, 2**53 - 1])
def test_h09_no_time_overflows(captured_ms: int) -> None:
    with pytest.raises(BadMessage):
        a_head(captured_ms=captured_ms).verify(EPOCH, wall_ms=NOW_MS)


@pytest.mark.parametrize(
    ("captured_ms", "fresh"),
    [
        (NOW_MS - FRESH_MS_BACK - 1, False),
        (NOW_MS - FRESH_MS_BACK, True),
        (NOW_MS + FRESH_MS_AHEAD, True),
        (NOW_MS + FRESH_MS_AHEAD + 1, False),
        (NOW_MS - 600_000, False),
        (NOW_MS + 600_000, False),
        (NOW_MS - 86_400_000, False),
    ],
)
def test_h09_only_what_was_captured_now_is_live(captured_ms: int, fresh: bool) -> None:
    """Or our own clock is wrong: nobody is convicted for it."""
    noon = certify(ROOT, 7, SIGNER.public, now_ms=NOW_MS - EPOCH_MS_MAX // 2,
                   bitrate_max=2_000_000, title="")  # fmt: skip
    head = a_head(captured_ms=captured_ms, epoch=noon)
    if fresh:
        head.verify(noon, wall_ms=NOW_MS)
    else:
        with pytest.raises(BadMessage):
            head.verify(noon, wall_ms=NOW_MS)


def test_h09_nothing_is_believed_after_its_last_day() -> None:
    """A signing key lives a day: whoever steals it later must not go on with it."""
    late_ms = NOW_MS + EPOCH_MS_MAX + 3_600_000
    head = a_head(captured_ms=late_ms)

    with pytest.raises(BadMessage):
        head.verify(EPOCH, wall_ms=late_ms)


def many(count: int) -> tuple[Part, ...]:
    return tuple(Part(n, INIT, 1000, ROOT_HASH) for n in range(count))


def sized(size: int) -> tuple[Part, ...]:
    return (Part(0, INIT, size, ROOT_HASH),)


@pytest.mark.parametrize(
    "raw",
    [
        by_hand(count=0, parts=()),
        by_hand(count=9, parts=many(9)),
        by_hand(count=255, parts=many(255)),
        by_hand(count=255),
        by_hand(count=1),
        by_hand(parts=PARTS[::-1]),
        by_hand(parts=PARTS[:1] * 2),
        by_hand(count=1, parts=sized(0)),
        by_hand(count=1, parts=sized(CHUNK_BYTES_MAX + 1)),
        by_hand(count=1, parts=sized(4096 * PIECE_BYTES)),
        by_hand(count=1, parts=sized(2**32 - 1)),
        by_hand(duration=0),
        by_hand(duration=DURATION_MAX + 1),
        by_hand(duration=2**32 - 1),
        by_hand(flags=8),
        by_hand(flags=128),
        by_hand(flags=END),
        by_hand(flags=END, count=0, parts=()),
        by_hand(seq=2**53),
        by_hand(captured=2**53),
        by_hand(pts=2**53),
        by_hand(not_after=2**64 - 1),
        by_hand(tag=b"p2pstream head v2\0"),
    ],
)
def test_h07_a_head_out_of_bounds_is_refused_although_it_is_signed(raw: bytes) -> None:
    with pytest.raises(BadMessage):
        parse(raw)


def test_h07_more_bytes_than_announced_are_refused() -> None:
    most = int(BURST * EPOCH.bitrate_max / 8 * 0.2)
    a_head(parts=sized(most)).verify(EPOCH, wall_ms=NOW_MS)

    for parts in (sized(most + 1), (*sized(most), Part(1, INIT, 1, ROOT_HASH))):
        with pytest.raises(Misbehaviour, match="exceeds_epoch_limits"):
            a_head(parts=parts).verify(EPOCH, wall_ms=NOW_MS)


def test_a_short_chunk_may_hold_as_much_as_one_of_a_fifth_of_a_second() -> None:
    parts = sized(int(BURST * EPOCH.bitrate_max / 8 * 0.2))

    a_head(duration=TICKS_PER_S // 30, parts=parts).verify(EPOCH, wall_ms=NOW_MS)


def test_the_end_carries_no_media() -> None:
    head = a_head(flags=END, duration=0, parts=())

    head.verify(EPOCH, wall_ms=NOW_MS)
    assert head.end


def test_h11_a_forged_end_is_no_end() -> None:
    with pytest.raises(Misbehaviour):
        a_head(flags=END, duration=0, parts=(), key=OTHER).verify(EPOCH, wall_ms=NOW_MS)


def test_a_head_is_named_by_what_was_signed_not_by_the_signature() -> None:
    head = a_head()
    twin = parse(head.raw[:-64] + bytes(64))

    assert twin.hash == head.hash
