"""The codec: one encoding of each message, and one error for everything else.

C-01 to C-06 and C-09 of the security test catalogue, over every message that nodes exchange.
"""

from __future__ import annotations

import json
import time
import tracemalloc
from typing import Annotated, Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta

from p2pstream.errors import BadMessage
from p2pstream.wire.codec import ITEMS_MAX, MESSAGE_BYTES_MAX, U8, U16, U32, U53, Codec, Message
from tests.suites import SUITES, needs
from tests.wire.every import CLASSES, CODEC, EXAMPLES, largest, messages

SUITE = SUITES / "msgpack-test-suite" / "msgpack-test-suite.json"

STREAM = bytes(range(32))


class Sample(Message, frozen=True, tag=1):
    """A field of every sort that the protocols use."""

    small: U8
    medium: U16
    large: U32
    huge: U53
    flag: bool
    blob: Annotated[bytes, Meta(max_length=100)]
    text: Annotated[str, Meta(max_length=10)]


SAMPLES = Codec(Sample)
SAMPLE = [1, 5, 300, 70_000, 2**40, True, b"blob", "text"]

everything = st.one_of([messages(kind) for kind in CLASSES])
names = pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)


def test_no_two_messages_share_a_tag() -> None:
    tags = [kind.__struct_config__.tag for kind in CLASSES]
    assert len(set(tags)) == len(tags)


@given(everything)
def test_every_message_survives_its_bytes(message: Message) -> None:
    data = CODEC.pack(message)

    assert CODEC.unpack(data) == message
    assert CODEC.pack(CODEC.unpack(data)) == data


@names
def test_the_largest_message_of_each_kind_can_be_sent(kind: type[Message]) -> None:
    """No peer can bring us to an assertion by what it makes us say."""
    try:
        message = largest(kind)
    except ValueError:
        pytest.skip("not here: the class has a limit of its own")
    assert CODEC.unpack(CODEC.pack(message)) == message


@given(st.binary(max_size=300))
def test_arbitrary_bytes_raise_bad_message_only(data: bytes) -> None:
    try:
        message = CODEC.unpack(data)
    except BadMessage:
        return
    assert CODEC.pack(message) == data


@given(everything, st.data())
def test_damaged_messages_raise_bad_message_or_are_other_messages(
    message: Message, data: st.DataObject
) -> None:
    raw = bytearray(CODEC.pack(message))
    for at in data.draw(st.lists(st.integers(0, len(raw) - 1), min_size=1, max_size=4)):
        raw[at] = data.draw(st.integers(0, 255))
    try:
        other = CODEC.unpack(bytes(raw))
    except BadMessage:
        return
    assert CODEC.pack(other) == raw


@names
def test_c05_no_part_of_a_message_is_a_message(kind: type[Message]) -> None:
    raw = CODEC.pack(EXAMPLES[kind])

    for length in range(len(raw)):
        with pytest.raises(BadMessage):
            CODEC.unpack(raw[:length])
    with pytest.raises(BadMessage):
        CODEC.unpack(raw + b"\0")


@names
def test_c05_every_single_bit_counts(kind: type[Message]) -> None:
    raw = CODEC.pack(EXAMPLES[kind])
    for bit in range(len(raw) * 8):
        flipped = bytearray(raw)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            other = CODEC.unpack(bytes(flipped))
        except BadMessage:
            continue
        assert other != EXAMPLES[kind]
        assert CODEC.pack(other) == flipped


@pytest.mark.parametrize("depth", [5, 1000, MESSAGE_BYTES_MAX, 10**6])
@pytest.mark.parametrize("opening", [b"\x91", b"\xdc\x00\x01", b"\x81\xc0"])
def test_c01_nesting_is_refused_at_once(depth: int, opening: bytes) -> None:
    """Deeper costs no more: it is not even looked at."""
    data = opening * depth
    assert refused_s(data) < 20 * refused_s(opening * 40) + 0.001


def refused_s(data: bytes) -> float:
    """The shortest of three times, so that a busy machine matters little."""
    times = []
    for _ in range(3):
        began = time.thread_time()
        with pytest.raises(BadMessage):
            CODEC.unpack(data)
        times.append(time.thread_time() - began)
    return min(times)


@pytest.mark.parametrize(
    "claim", ["dd ffffffff", "df ffffffff", "c6 ffffffff", "db ffffffff", "c9 ffffffff 01",
              "dc ffff", "de ffff", "92 20 c6 ffffffff", "92 20 dd 7fffffff"],
)  # fmt: skip
def test_c02_a_claimed_length_allocates_nothing(claim: str) -> None:
    data = bytes.fromhex(claim)
    tracemalloc.start()
    try:
        with pytest.raises(BadMessage):
            CODEC.unpack(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 64 * 1024  # Of which the traceback that pytest keeps is the most.


@pytest.mark.parametrize(
    "values",
    [
        [1, True, 300, 70_000, 2**40, True, b"blob", "text"],
        [1, 5.0, 300, 70_000, 2**40, True, b"blob", "text"],
        [1, -1, 300, 70_000, 2**40, True, b"blob", "text"],
        [1, None, 300, 70_000, 2**40, True, b"blob", "text"],
        [1, "5", 300, 70_000, 2**40, True, b"blob", "text"],
        [1, 5, 300, 70_000, 2**40, 1, b"blob", "text"],
        [1, 5, 300, 70_000, 2**40, 0, b"blob", "text"],
        [1, 5, 300, 70_000, 2**40, True, "blob", "text"],
        [1, 5, 300, 70_000, 2**40, True, b"blob", b"text"],
        [1, 5, 300, 70_000, 2**40, True, [1, 2], "text"],
        [1, 5, 300, 70_000, float("nan"), True, b"blob", "text"],
        [1, 5, 300, 70_000, 2**40, True, b"blob", "elevenchars"],
        [1, 5, 300, 70_000, 2**40, True, b"blob"],
        [1, 5, 300, 70_000, 2**40, True, b"blob", "text", 1],
        [True, 5, 300, 70_000, 2**40, True, b"blob", "text"],
        [1.0, 5, 300, 70_000, 2**40, True, b"blob", "text"],
        [],
        [[]],
        {},
        {1: 2},
        None,
        1,
    ],
    ids=repr,
)
def test_c03_what_is_not_just_so_is_refused(values: object) -> None:
    assert SAMPLES.unpack(msgpack.packb(SAMPLE)) == Sample(*SAMPLE[1:])  # type: ignore[arg-type]

    with pytest.raises(BadMessage):
        SAMPLES.unpack(msgpack.packb(values))


@pytest.mark.parametrize(
    ("usual", "longer"),
    [
        (b"\x98\x01\x05", b"\xdc\x00\x08\x01\x05"),  # array16 of 8.
        (b"\x98\x01\x05", b"\xdd\x00\x00\x00\x08\x01\x05"),
        (b"\x98\x01\x05", b"\x98\xcc\x01\x05"),  # The tag itself.
        (b"\x98\x01\x05", b"\x98\x01\xcc\x05"),
        (b"\x98\x01\x05", b"\x98\x01\xd0\x05"),  # int8.
        (b"\x98\x01\x05", b"\x98\x01\xcf\0\0\0\0\0\0\0\x05"),
        (b"\xcd\x01\x2c", b"\xce\x00\x00\x01\x2c"),  # 300 in 32 bits.
        (b"\xcd\x01\x2c", b"\xd1\x01\x2c"),
        (b"\xc4\x04blob", b"\xc5\x00\x04blob"),
        (b"\xa4text", b"\xd9\x04text"),
        (b"\xa4text", b"\xda\x00\x04text"),
    ],
)
def test_c03_the_same_values_written_longer_are_refused(usual: bytes, longer: bytes) -> None:
    data = msgpack.packb(SAMPLE)
    assert usual in data

    with pytest.raises(BadMessage, match="non_canonical"):
        SAMPLES.unpack(data.replace(usual, longer))


@pytest.mark.parametrize(
    "value",
    [
        "c1", "d6 ff ffffffff", "d7 ff ffffffffffffffff", "c7 0c ff 000000007fffffffffffffff",
        "c7 0c ff ffffffffffffffffffffffff", "d4 05 00", "c7 00 05", "a2 c328", "a3 eda080",
        "a1 ff", "a4 f8888080",
    ],
)  # fmt: skip
def test_c04_odd_values_raise_bad_message_only(value: str) -> None:
    """Times out of range, unknown extensions, the byte that is never used, what is not UTF-8."""
    odd = bytes.fromhex(value)
    for data in (odd, b"\x91" + odd, b"\x92\x20" + odd, b"\x93\x28\xc4\x20" + STREAM + odd):
        with pytest.raises(BadMessage):
            CODEC.unpack(data)


@pytest.mark.parametrize("tag", [0, 2, 15, 31, 44, 127, 255, 2**63, 2**64 - 1, -1, -(2**63)])
def test_c06_an_unknown_message_is_refused(tag: int) -> None:
    assert tag not in {kind.__struct_config__.tag for kind in CLASSES}

    with pytest.raises(BadMessage):
        CODEC.unpack(msgpack.packb([tag, STREAM]))


EDGES = sorted(
    {0, 1, -1}
    | {2**bits + by for bits in (7, 8, 15, 16, 31, 32, 53, 63) for by in (-1, 0, 1)}
    | {2**64 - 1, -(2**31), -(2**63)}
)


@pytest.mark.parametrize("value", EDGES)
@pytest.mark.parametrize(("field", "limit"), [(1, 2**8), (2, 2**16), (3, 2**32), (4, 2**53)])
def test_c09_integers_are_in_range_or_refused(field: int, limit: int, value: int) -> None:
    values = list(SAMPLE)
    values[field] = value
    data = msgpack.packb(values)

    if 0 <= value < limit:
        assert SAMPLES.unpack(data) == Sample(*values[1:])  # type: ignore[arg-type]
    else:
        with pytest.raises(BadMessage):
            SAMPLES.unpack(data)


@names
def test_c09_no_field_of_any_message_overflows(kind: type[Message]) -> None:
    """Every edge in the place of each field in turn: in range, or refused."""
    values = msgpack.unpackb(CODEC.pack(EXAMPLES[kind]))
    for at in range(len(values)):
        for edge in EDGES:
            data = msgpack.packb([*values[:at], edge, *values[at + 1 :]])
            try:
                message = CODEC.unpack(data)
            except BadMessage:
                continue
            assert CODEC.pack(message) == data


def test_a_message_that_is_too_long_is_not_even_read() -> None:
    with pytest.raises(BadMessage, match=str(MESSAGE_BYTES_MAX)):
        CODEC.unpack(bytes(MESSAGE_BYTES_MAX + 1))


def test_an_array_of_too_many_items_is_refused() -> None:
    items = ((1, b"\x01"),) * (ITEMS_MAX + 1)
    with pytest.raises(BadMessage):
        CODEC.unpack(msgpack.packb([37, STREAM, 1, items, True]))


def test_sending_what_is_too_long_is_our_own_mistake() -> None:
    class Long(Message, frozen=True, tag=1):
        body: bytes

    with pytest.raises(AssertionError, match="too long"):
        Codec(Long).pack(Long(bytes(MESSAGE_BYTES_MAX)))


# Messages with a last field of each kind, up to that field.
OPENINGS = {
    "number": b"\x92\x10",  # Ping(rid)
    "binary": b"\x93\x2a\xc4\x20" + STREAM,  # InitFile(stream, packed)
    "string": b"\x93\x28\xc4\x20" + STREAM,  # Leave(stream, reason)
    "bool": b"\x95\x25\xc4\x20" + STREAM + b"\x00\x90",  # Want(stream, 0, (), heads)
}


def encodings() -> list[Any]:
    if not SUITE.exists():
        return []
    cases = [case for cases in json.loads(SUITE.read_text()).values() for case in cases]
    return [
        pytest.param(opening, case, id=f"{n}-{opening}")
        for n, case in enumerate(cases)
        for opening in OPENINGS
    ]


@needs("msgpack-test-suite")
@pytest.mark.parametrize(("opening", "case"), encodings())
def test_c03_of_all_encodings_of_a_value_one_is_accepted(
    opening: str, case: dict[str, Any]
) -> None:
    """The msgpack test suite lists every way to write a value; only the shortest is ours."""
    value = next(value for kind, value in case.items() if kind != "msgpack")
    accepted = []
    for text in case["msgpack"]:
        encoded = bytes.fromhex(text.replace("-", ""))
        try:
            message = CODEC.unpack(OPENINGS[opening] + encoded)
        except BadMessage:
            continue
        assert CODEC.pack(message) == OPENINGS[opening] + encoded
        accepted.append(encoded)

    ours = {
        "number": isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**32,
        "binary": "binary" in case,
        "string": isinstance(value, str) and "string" in case and len(value) <= 64,
        "bool": isinstance(value, bool),
    }
    shortest = min((bytes.fromhex(t.replace("-", "")) for t in case["msgpack"]), key=len)
    assert accepted == ([shortest] if ours[opening] else [])
