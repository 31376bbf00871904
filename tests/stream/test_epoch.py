"""Epoch certificates: who may sign a stream's heads, and until when."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pstream.errors import BadMessage
from p2pstream.stream.epoch import (
    CERTIFICATE_BYTES_MAX,
    CLOCK_SKEW_MS,
    EPOCH_MS_MAX,
    TITLE_BYTES_MAX,
    Epoch,
    certify,
    clean_title,
    parse,
)
from tests.stream.made import EPOCH, NOW_MS, OTHER, ROOT, SIGNER
from tests.suites import naughty_strings, needs


def signed(
    *, number: int = 7, start: int = NOW_MS, end: int = NOW_MS + EPOCH_MS_MAX, title: bytes = b"x",
    size: int | None = None, tag: bytes = b"p2pstream epoch v1\0", key: bytes = SIGNER.public,
) -> bytes:  # fmt: skip
    """A certificate packed by hand, as the specification has it, and signed by the root."""
    body = tag + ROOT.public + struct.pack(">I", number) + key
    body += struct.pack(">QQQB", start, end, 2_000_000, len(title) if size is None else size)
    body += title
    return body + ROOT.sign(body)


def test_the_layout_is_what_the_specification_says() -> None:
    raw = signed(title=b"a stream")

    assert raw == EPOCH.raw
    assert len(raw) == 19 + 32 + 4 + 32 + 8 + 8 + 8 + 1 + 8 + 64
    assert parse(raw) == EPOCH == Epoch(
        ROOT.stream_id, 7, SIGNER.public, NOW_MS, NOW_MS + EPOCH_MS_MAX, 2_000_000, "a stream", raw
    )  # fmt: skip


def test_the_stream_follows_from_the_key_inside() -> None:
    other = certify(OTHER, 7, SIGNER.public, now_ms=NOW_MS, bitrate_max=1, title="")

    assert other.stream == OTHER.stream_id != EPOCH.stream


def test_c05_every_single_bit_counts() -> None:
    for bit in range(len(EPOCH.raw) * 8):
        flipped = bytearray(EPOCH.raw)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(BadMessage):
            parse(bytes(flipped))


def test_c05_no_part_of_a_certificate_is_one() -> None:
    for length in range(len(EPOCH.raw)):
        with pytest.raises(BadMessage):
            parse(EPOCH.raw[:length])
    with pytest.raises(BadMessage):
        parse(EPOCH.raw + b"\0")


@given(st.binary(max_size=CERTIFICATE_BYTES_MAX + 10))
def test_arbitrary_bytes_raise_bad_message_only(data: bytes) -> None:
    for raw in (data, EPOCH.raw[:19] + data):
        with pytest.raises(BadMessage):
            parse(raw)


@pytest.mark.parametrize(
    "raw",
    [
        signed(end=NOW_MS + EPOCH_MS_MAX + 1),  # More than a day.
        signed(end=NOW_MS),  # No time at all.
        signed(start=2**64 - 1, end=0),
        signed(tag=b"p2pstream epoch v2\0"),
        signed(size=2),
        signed(title=b"\xff"),
        signed(title=b"\xed\xa0\x80"),  # Half a surrogate pair.
        signed(title=b"x" * (TITLE_BYTES_MAX + 1)),
        signed(title=b"two\nlines"),
        signed(title=b"\x1b[31mred"),
        signed(title=b" x"),
        signed(title="e\u0301".encode()),  # Not NFC.
        signed(title="a\u202eb".encode()),  # Turns the text around.
        signed(key=bytes(32)),
        signed(key=b"\xff" * 32),
    ],
)
def test_a_crafted_certificate_is_refused_although_the_root_signed_it(raw: bytes) -> None:
    with pytest.raises(BadMessage):
        parse(raw)


def test_only_the_root_may_sign() -> None:
    body = EPOCH.raw[:-64]
    for key in (SIGNER, OTHER):
        with pytest.raises(BadMessage, match="wrong signature"):
            parse(body + key.sign(body))


def test_a_certificate_is_valid_for_its_day_give_or_take_a_wrong_clock() -> None:
    assert not EPOCH.covers(NOW_MS - CLOCK_SKEW_MS - 1)
    assert EPOCH.covers(NOW_MS - CLOCK_SKEW_MS)
    assert EPOCH.covers(NOW_MS + EPOCH_MS_MAX + CLOCK_SKEW_MS)
    assert not EPOCH.covers(NOW_MS + EPOCH_MS_MAX + CLOCK_SKEW_MS + 1)


@given(st.text())
def test_any_title_becomes_one_that_may_travel(title: str) -> None:
    epoch = certify(ROOT, 1, SIGNER.public, now_ms=NOW_MS, bitrate_max=1, title=title)

    assert epoch.title == clean_title(title) == clean_title(epoch.title)
    assert parse(epoch.raw) == epoch
    assert len(epoch.raw) <= CERTIFICATE_BYTES_MAX
    assert epoch.title.isprintable()


@needs("blns")
def test_naughty_strings_become_titles() -> None:
    for text in naughty_strings():
        epoch = certify(ROOT, 1, SIGNER.public, now_ms=NOW_MS, bitrate_max=1, title=text)
        assert parse(epoch.raw) == epoch
        assert epoch.title.isprintable()
