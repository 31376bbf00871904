"""Who a peer is: a self-signed certificate with the node's key, made here and checked here.

The TLS handshake proves that the peer holds the private key of the certificate that it shows; this
file makes an id of that key. Names and dates in a certificate carry no meaning, so clocks do not
matter. A certificate that is absent or odd in any way is refused.
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Protocol

from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.packet import QuicProtocolVersion
from aioquic.tls import CipherSuite
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID, SignatureAlgorithmOID

from p2pstream.errors import BadMessage, PeerError
from p2pstream.identity import NodeKey, PublicKey
from p2pstream.net import congestion

ALPN = "p2pstream/2"  # Another with each encoding: nodes of two do not meet (CONTRIBUTING.md).
CERTIFICATE_BYTES_MAX = 600  # security/architecture.md 5.1; ours has about 270.
IDLE_S = 30.0  # security/architecture.md 5.5.
STREAM_WINDOW_BYTES = 1 << 20  # The same table: what one stream may have in flight to us.
CONNECTION_WINDOW_BYTES = 4 << 20  # The same table: all streams of a connection together.
DATAGRAM_BYTES = 1200  # RFC 9000 14.1: passes every path; larger ones need probing.

# Fixed, so that a node has the same certificate for ever (RFC 5280 4.1.2.5 for the last second).
_NOT_BEFORE = datetime(1970, 1, 1, tzinfo=UTC)
_NOT_AFTER = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)


class BadCertificate(PeerError):
    """The peer did not prove who it is. `reason` is one stable word."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason


class Shown(Protocol):
    """A connection that knows what certificates its peer has shown and proven."""

    @property
    def peer_certificates(self) -> Sequence[x509.Certificate]: ...


def peer_key(connection: Shown) -> PublicKey:
    """The key that the peer of a handshaken `connection` has proven. Raises `BadCertificate`.

    The checks and their order are those of security/architecture.md 5.1.
    """
    certificates = connection.peer_certificates
    if not certificates:
        # A client may answer the request with an empty list, and TLS is content with that.
        raise BadCertificate("certificate_missing", "the peer shows no certificate")
    if len(certificates) != 1:
        raise BadCertificate("certificate_chain", f"{len(certificates)} certificates, not one")
    certificate = certificates[0]
    size = len(certificate.public_bytes(Encoding.DER))
    if size > CERTIFICATE_BYTES_MAX:
        raise BadCertificate("certificate_long", f"{size} bytes, more than {CERTIFICATE_BYTES_MAX}")
    key = _public_key(certificate)
    if certificate.signature_algorithm_oid != SignatureAlgorithmOID.ED25519 or not key.verify(
        certificate.signature, certificate.tbs_certificate_bytes
    ):
        raise BadCertificate("bad_signature", "the certificate is not signed with its own key")
    return key


def configuration(key: NodeKey, *, dialling: bool, yields: bool = False) -> QuicConfiguration:
    """How to call (`dialling`) or to answer: QUIC v1 only, one ALPN, our certificate both ways.

    yields: what we send gives way to the other traffic of the household.

    No session tickets are ever given or kept, so there is no resumption and no 0-RTT: a resumed
    session would carry no certificate.
    """
    return QuicConfiguration(
        is_client=dialling,
        alpn_protocols=[ALPN],
        certificate=certificate(key),
        # AES-128 first: 0.9 us a packet against 2.1 us of ChaCha20 (facts/quic.md 3).
        cipher_suites=[CipherSuite.AES_128_GCM_SHA256, CipherSuite.CHACHA20_POLY1305_SHA256],
        congestion_control_algorithm=congestion.YIELDING if yields else congestion.NAME,
        idle_timeout=IDLE_S,
        max_data=CONNECTION_WINDOW_BYTES,
        max_datagram_size=DATAGRAM_BYTES,
        max_stream_data=STREAM_WINDOW_BYTES,
        private_key=_private_key(key),
        supported_versions=[QuicProtocolVersion.VERSION_1],
        # No authority signs for peers: `peer_key` is what checks.
        verify_mode=ssl.CERT_NONE,
    )


def certificate(key: NodeKey) -> x509.Certificate:
    """The self-signed certificate of a node; the same bytes every time."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "p2pstream")])
    private = _private_key(key)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(1)
        .not_valid_before(_NOT_BEFORE)
        .not_valid_after(_NOT_AFTER)
        .sign(private, None)
    )


def _private_key(key: NodeKey) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(key.seed)


def _public_key(certificate: x509.Certificate) -> PublicKey:
    try:
        key = certificate.public_key()
    except (UnsupportedAlgorithm, ValueError) as error:
        raise BadCertificate("not_ed25519", "a key of an unknown type") from error
    if not isinstance(key, Ed25519PublicKey):
        raise BadCertificate("not_ed25519", f"a key of type {type(key).__name__}")
    try:
        return PublicKey(key.public_bytes_raw())
    except BadMessage as error:
        raise BadCertificate("bad_key", "not canonical, or not of prime order") from error
