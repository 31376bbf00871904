"""Certificates: made, and checked in the order of security/architecture.md 5.1."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from p2pstream.identity import NodeKey
from p2pstream.net.tls import CERTIFICATE_BYTES_MAX, BadCertificate, certificate, peer_key

KEY = NodeKey(b"k" * 32)

# The points of low order and their encodings that are not canonical (RFC 7748 6.1's advice made
# concrete in libsodium's ed25519_ref10.c, `ge25519_has_small_order`; the sign bit either way).
LOW_ORDER = [
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
]
BAD_KEYS = [bytes.fromhex(key) for key in LOW_ORDER]
BAD_KEYS += [key[:31] + bytes([key[31] | 0x80]) for key in BAD_KEYS]


@dataclass
class Shown:
    peer_certificates: list[x509.Certificate]


def signed(public: Any, signer: Any, *, names: int = 1) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x" * 30) for _ in range(names)])
    plain = isinstance(signer, Ed25519PrivateKey | ed448.Ed448PrivateKey)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(public)
        .serial_number(1)
        .not_valid_before(datetime(1970, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2000, 1, 1, tzinfo=UTC))
        .sign(signer, None if plain else hashes.SHA256())
    )


def test_a_certificate_carries_the_key_and_is_always_the_same() -> None:
    own = certificate(KEY)
    assert peer_key(Shown([own])) == KEY.public
    assert certificate(KEY) == own
    assert len(own.public_bytes(Encoding.DER)) < CERTIFICATE_BYTES_MAX // 2
    assert (own.not_valid_before_utc.year, own.not_valid_after_utc.year) == (1970, 9999)


def test_no_certificate_is_no_identity() -> None:
    assert reason([]) == "certificate_missing"


def test_a_chain_is_refused_even_of_good_certificates() -> None:
    assert reason([certificate(KEY), certificate(KEY)]) == "certificate_chain"


def test_a_long_certificate_is_refused_before_its_key_is_looked_at() -> None:
    key = rsa.generate_private_key(65537, 4096)
    assert reason([signed(key.public_key(), key)]) == "certificate_long"
    edkey = Ed25519PrivateKey.generate()
    assert reason([signed(edkey.public_key(), edkey, names=20)]) == "certificate_long"


@pytest.mark.parametrize(
    "key", [ec.generate_private_key(ec.SECP256R1()), ed448.Ed448PrivateKey.generate()]
)
def test_only_ed25519_is_a_key(key: Any) -> None:
    assert reason([signed(key.public_key(), key)]) == "not_ed25519"


@pytest.mark.parametrize("raw", BAD_KEYS, ids=bytes.hex)
def test_i05_a_key_that_fits_any_signature_is_refused(raw: bytes) -> None:
    public = Ed25519PublicKey.from_public_bytes(raw)
    assert reason([signed(public, Ed25519PrivateKey.generate())]) == "bad_key"


def test_a_certificate_signed_by_another_key_is_refused() -> None:
    mine, other = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    assert reason([signed(mine.public_key(), other)]) == "bad_signature"
    ca = ec.generate_private_key(ec.SECP256R1())
    assert reason([signed(mine.public_key(), ca)]) == "bad_signature"


def reason(certificates: list[x509.Certificate]) -> str:
    with pytest.raises(BadCertificate) as caught:
        peer_key(Shown(certificates))
    return caught.value.reason
