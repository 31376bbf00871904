"""What QUIC and TLS compute with, through the calls that our connections make (Wycheproof).

Ed25519 as epochs, heads and records use it is in tests/test_identity.py. Nothing of ours uses
XChaCha20 or longer keys of AES, so these are not tested.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
from aioquic import tls
from aioquic._crypto import AEAD, CryptoError
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from tests.suites import SUITES, needs

pytestmark = needs("wycheproof")

Case = dict[str, Any]


def cases(name: str) -> list[tuple[Case, Case]]:
    """Every group with every test in it."""
    text = (SUITES / "wycheproof" / f"{name}_test.json").read_text()
    return [(group, test) for group in json.loads(text)["testGroups"] for test in group["tests"]]


def raw(text: str) -> bytes:
    return bytes.fromhex(text)


def test_x25519_as_in_our_handshakes() -> None:
    """A secret of zeros, which any key of low order leads to, is an error and no secret."""
    refused = Counter[str]()
    for _, case in cases("x25519"):
        try:
            theirs = tls.decode_public_key((tls.Group.X25519, raw(case["public"])))
            assert isinstance(theirs, X25519PublicKey)
            secret = X25519PrivateKey.from_private_bytes(raw(case["private"])).exchange(theirs)
        except ValueError:
            assert case["result"] != "valid", case["comment"]
            assert not any(raw(case["shared"])), case["comment"]
            refused[case["result"]] += 1
        else:
            assert secret == raw(case["shared"]), case["comment"]
            assert case["result"] != "invalid", case["comment"]
    assert refused["acceptable"] >= 10


@pytest.mark.parametrize(
    ("name", "cipher", "key_bits"),
    [("chacha20_poly1305", b"chacha20-poly1305", 256), ("aes_gcm", b"aes-128-gcm", 128)],
)
def test_packets_are_opened_as_they_were_sealed_or_not_at_all(
    name: str, cipher: bytes, key_bits: int
) -> None:
    tried = 0
    for group, case in cases(name):
        if group["keySize"] != key_bits:
            continue
        tried += 1
        sealed = raw(case["ct"] + case["tag"])
        try:
            aead = AEAD(cipher, raw(case["key"]), raw(case["iv"]))
            opened = aead.decrypt(sealed, raw(case["aad"]), 0)
        except CryptoError:
            assert case["result"] == "invalid" or group["ivSize"] != 96, case["comment"]
            continue
        assert case["result"] == "valid", case["comment"]
        assert opened == raw(case["msg"]), case["comment"]
        assert aead.encrypt(opened, raw(case["aad"]), 0) == sealed, case["comment"]
    assert tried > 100


def test_keys_are_derived_as_rfc_5869_says() -> None:
    for _, case in cases("hkdf_sha256"):
        secret = tls.hkdf_extract(hashes.SHA256(), raw(case["salt"]), raw(case["ikm"]))
        try:
            expand = HKDFExpand(hashes.SHA256(), length=case["size"], info=raw(case["info"]))
        except ValueError:
            assert case["result"] == "invalid", case["comment"]
            continue
        assert expand.derive(secret) == raw(case["okm"]), case["comment"]


def test_ed25519_as_tls_checks_it() -> None:
    for group, case in cases("ed25519"):
        key = Ed25519PublicKey.from_public_bytes(raw(group["publicKey"]["pk"]))
        try:
            key.verify(raw(case["sig"]), raw(case["msg"]))
        except InvalidSignature:
            assert case["result"] == "invalid", case["comment"]
        else:
            assert case["result"] == "valid", case["comment"]
