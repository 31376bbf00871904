"""Who a node is and who speaks for a stream: Ed25519 keys and the ids made from them.

The one place that makes secrets. An id is a hash of a public key, so nobody can choose the id of
another, and whoever proves to hold the key (in the TLS handshake, or by signing) is that node.
Keys are checked once, where they enter: canonical, of prime order (which excludes the low-order
points with which a signature can be made to fit anything).
"""

from __future__ import annotations

import hashlib
import secrets
from functools import lru_cache
from typing import Self

from nacl.bindings import crypto_core_ed25519_is_valid_point
from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey

from p2pstream.errors import BadMessage

Address = tuple[str, int]  # An IP address (never a host name) and a UDP port.

ID_BYTES = 32
KEY_BYTES = 32
SIGNATURE_BYTES = 64
KEYS_REMEMBERED = 1024  # Of those looked at lately, sound or not: 100 kB.


class NodeId(bytes):
    """SHA-256 over a node's public key. `a ^ b` is the Kademlia distance between two of them."""

    __slots__ = ()

    def __new__(cls, value: bytes) -> Self:
        assert len(value) == ID_BYTES, "an id is 32 bytes"
        return super().__new__(cls, value)

    def __xor__(self, other: bytes) -> int:
        return int.from_bytes(self) ^ int.from_bytes(other)

    def __repr__(self) -> str:
        return self.hex()[:8]

    __str__ = __repr__


class StreamId(NodeId):
    """SHA-256 over a stream's public root key."""

    __slots__ = ()


# The same keys come again and again, and the check costs as much as a signature.
_is_sound = lru_cache(KEYS_REMEMBERED)(crypto_core_ed25519_is_valid_point)


class PublicKey(bytes):
    """A public key that has been checked. Raises `BadMessage` for one that must not be used."""

    __slots__ = ()

    def __new__(cls, value: bytes) -> Self:
        if len(value) != KEY_BYTES or not _is_sound(value):
            raise BadMessage("bad_key: not a canonical Ed25519 key of prime order")
        return super().__new__(cls, value)

    def verify(self, signature: bytes, message: bytes) -> bool:
        """Whether `signature` over `message` was made with this key."""
        try:
            VerifyKey(bytes(self)).verify(message, signature)
        except (BadSignatureError, ValueError):
            return False
        return True


class Key:
    """A private Ed25519 key."""

    def __init__(self, seed: bytes) -> None:
        self._key = SigningKey(seed)
        self.public = PublicKey(bytes(self._key.verify_key))

    @property
    def seed(self) -> bytes:
        """The 32 secret bytes, for the key file and the TLS certificate."""
        return bytes(self._key)

    def sign(self, message: bytes) -> bytes:
        return self._key.sign(message).signature

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.public.hex()[:8]}>"  # Never the secret.


class NodeKey(Key):
    """The key of one node."""

    @property
    def node_id(self) -> NodeId:
        return node_id(self.public)


class StreamKey(Key):
    """The root key of a stream, or the signing key of one of its epochs."""

    @property
    def stream_id(self) -> StreamId:
        return stream_id(self.public)


def node_id(public: bytes) -> NodeId:
    return NodeId(hashlib.sha256(b"p2pstream node v1" + public).digest())


def stream_id(public: bytes) -> StreamId:
    return StreamId(hashlib.sha256(b"p2pstream stream v1" + public).digest())


def secret_bytes(count: int = KEY_BYTES) -> bytes:
    """Fresh secret bytes: a key's seed, a token's secret."""
    return secrets.token_bytes(count)
