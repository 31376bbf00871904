"""Keys and ids: what is accepted as a key, and what a signature proves."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.bindings import crypto_core_ed25519_add

from p2pstream.errors import BadMessage
from p2pstream.identity import (
    KEY_BYTES,
    Key,
    NodeId,
    NodeKey,
    PublicKey,
    StreamId,
    StreamKey,
    node_id,
    secret_bytes,
    stream_id,
)
from p2pstream.stream import epoch as epochs
from tests.suites import SUITES, needs

WYCHEPROOF = SUITES / "wycheproof" / "ed25519_test.json"

P = 2**255 - 19
SIGN = 1 << 255

# The points of order 8 have these two y (RFC 7748's curve has the same torsion).
Y8 = (
    0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826,
    0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7,
)


def encode(number: int) -> bytes:
    return number.to_bytes(32, "little")


# I-05: the 8 points of small order, and 6 more encodings of them that are not canonical.
LOW_ORDER = [
    encode(1),  # Order 1.
    encode(P - 1),  # Order 2.
    *(encode(y) for y in (0, SIGN)),  # Order 4.
    *(encode(y | sign) for y in Y8 for sign in (0, SIGN)),  # Order 8.
    *(encode(y) for y in (1 | SIGN, (P - 1) | SIGN)),  # x = 0 has no sign.
    *(encode(y | sign) for y in (P, P + 1) for sign in (0, SIGN)),  # y beyond the field.
]
KEY = StreamKey(bytes(range(32)))


def test_there_are_fourteen_low_order_encodings() -> None:
    assert len(set(LOW_ORDER)) == 14


@pytest.mark.parametrize("key", LOW_ORDER, ids=bytes.hex)
def test_i05_no_low_order_key_gets_in(key: bytes) -> None:
    with pytest.raises(BadMessage, match="bad_key"):
        PublicKey(key)


@pytest.mark.parametrize("key", LOW_ORDER, ids=bytes.hex)
def test_i05_no_epoch_names_a_low_order_key(key: bytes) -> None:
    good = epochs.certify(KEY, 1, KEY.public, now_ms=10**12, bitrate_max=1, title="").raw
    at = good.index(KEY.public)
    again = good.index(KEY.public, at + 1)
    signed = good[:again] + key + good[again + 32 : -64]

    with pytest.raises(BadMessage, match="bad_key"):  # As the signer, under a good signature.
        epochs.parse(signed + KEY.sign(signed))
    with pytest.raises(BadMessage, match="bad_key"):  # As the root: R = key, S = 0 would do.
        epochs.parse(good[:at] + key + good[at + 32 : -64] + key + bytes(32))


@pytest.mark.parametrize("torsion", LOW_ORDER[1:8], ids=bytes.hex)
def test_i05_a_good_key_with_a_low_order_part_is_no_key(torsion: bytes) -> None:
    with pytest.raises(BadMessage, match="bad_key"):
        PublicKey(crypto_core_ed25519_add(KEY.public, torsion))


@pytest.mark.parametrize("y", range(P, 2**255))
def test_i05_no_key_beyond_the_field(y: int) -> None:
    for sign in (0, SIGN):
        with pytest.raises(BadMessage, match="bad_key"):
            PublicKey(encode(y | sign))


@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_a_key_has_32_bytes(length: int) -> None:
    with pytest.raises(BadMessage, match="bad_key"):
        PublicKey(bytes(KEY.public * 2)[:length])


@given(st.binary(max_size=40))
def test_arbitrary_bytes_are_a_key_or_a_bad_message(data: bytes) -> None:
    try:
        key = PublicKey(data)
    except BadMessage:
        return
    assert len(key) == KEY_BYTES


def test_ids_are_hashes_with_a_purpose() -> None:
    public = bytes(KEY.public)

    assert NodeKey(KEY.seed).node_id == hashlib.sha256(b"p2pstream node v1" + public).digest()
    assert KEY.stream_id == hashlib.sha256(b"p2pstream stream v1" + public).digest()
    assert node_id(public) != stream_id(public)
    assert isinstance(KEY.stream_id, StreamId)


def test_the_distance_of_two_ids_is_their_xor() -> None:
    a, b = NodeId(bytes(31) + b"\x05"), NodeId(b"\x80" + bytes(31))

    assert a ^ a == 0
    assert a ^ b == b ^ a == (1 << 255) + 5


def test_an_id_of_another_length_is_our_own_mistake() -> None:
    with pytest.raises(AssertionError):
        NodeId(bytes(31))


def test_a_key_never_shows_its_secret() -> None:
    key = NodeKey(secret_bytes())

    assert key.seed.hex()[:8] not in repr(key)
    assert repr(key) == str(key) == f"<NodeKey {key.public.hex()[:8]}>"
    assert str(key.node_id) == key.node_id.hex()[:8]


def test_secrets_are_fresh() -> None:
    assert len({secret_bytes() for _ in range(100)}) == 100
    assert len(secret_bytes(16)) == 16


@given(st.binary(max_size=100), st.integers(0, 64 * 8 - 1))
def test_a_signature_with_any_bit_flipped_proves_nothing(message: bytes, bit: int) -> None:
    signature = bytearray(KEY.sign(message))
    assert KEY.public.verify(bytes(signature), message)

    signature[bit // 8] ^= 1 << bit % 8

    assert not KEY.public.verify(bytes(signature), message)


@pytest.mark.parametrize("length", [0, 1, 63, 65, 128])
def test_a_signature_of_another_length_proves_nothing(length: int) -> None:
    assert not KEY.public.verify((KEY.sign(b"") * 2)[:length], b"")


def test_every_key_signs_for_itself_only() -> None:
    assert not Key(secret_bytes()).public.verify(KEY.sign(b"word"), b"word")


def vectors() -> list[Any]:
    if not WYCHEPROOF.exists():
        return []
    groups = json.loads(WYCHEPROOF.read_text())["testGroups"]
    return [
        pytest.param(group["publicKey"]["pk"], test, id=str(test["tcId"]))
        for group in groups
        for test in group["tests"]
    ]


@needs("wycheproof")
@pytest.mark.parametrize(("public", "test"), vectors())
def test_wycheproof(public: str, test: dict[str, Any]) -> None:
    """Cases that nobody here wrote. In a key that we refuse nothing is ever verified."""
    try:
        key = PublicKey(bytes.fromhex(public))
    except BadMessage:
        assert test["result"] == "invalid"
        return
    valid = key.verify(bytes.fromhex(test["sig"]), bytes.fromhex(test["msg"]))
    assert valid == (test["result"] == "valid"), test["comment"]
