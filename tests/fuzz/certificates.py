"""What proves who somebody is, signed well or not.

Epoch certificates and provider records: `BadMessage`. The certificates of nodes, as they come out
of a TLS message: an alert, or `BadCertificate`.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field

from aioquic import tls as quic_tls
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from p2pstream.dht.records import SIGNATURE_LABEL, make_record, parse_record
from p2pstream.errors import BadMessage
from p2pstream.identity import SIGNATURE_BYTES, NodeKey, node_id
from p2pstream.net.engine import _Tls
from p2pstream.net.tls import BadCertificate, certificate, peer_key
from p2pstream.stream import epoch as epochs
from tests.fuzz.bites import Bites
from tests.stream.made import EPOCH, ROOT

KEY = NodeKey(b"k" * 32)
CERTIFICATE = certificate(KEY)
ED25519 = bytes.fromhex("300506032b6570")  # RFC 8410 3, as an AlgorithmIdentifier.
SIGNATURE = b"\x03\x41\x00"  # A BIT STRING of 64 bytes.
RECORD = make_record(
    bytes(32),
    (("192.0.2.1", 1), ("2001:db8::1", 2)),
    expires=1,
    seq=1,
    public=KEY.public,
    sign=KEY.sign,
)


@dataclass
class Shown:
    """As an engine."""

    peer_certificates: list[x509.Certificate] = field(default_factory=list)


def one(data: bytes) -> int:
    """The first byte says as what the others are read."""
    bites = Bites(data)
    with suppress(BadMessage, BadCertificate, quic_tls.Alert):
        bites.choose([_epoch, _signed_epoch, _record, _signed_record, _node, _signed_node])(bites)
    return 1


def seeds() -> list[bytes]:
    """One of each."""
    epoch, record = EPOCH.raw, RECORD.data
    return [
        b"\0" + epoch,
        b"\1" + epoch[:-SIGNATURE_BYTES],
        b"\2" + record,
        b"\3" + record[:-SIGNATURE_BYTES],
        b"\4" + CERTIFICATE.public_bytes(Encoding.DER),
        b"\5" + CERTIFICATE.tbs_certificate_bytes,
    ]


def _epoch(bites: Bites) -> None:
    raw = bites.rest()
    epoch = epochs.parse(raw)
    assert epoch.raw == raw
    assert epochs.clean_title(epoch.title) == epoch.title


def _signed_epoch(bites: Bites) -> None:
    body = bites.rest()
    _epoch(Bites(body + ROOT.sign(body)))


def _record(bites: Bites) -> None:
    data = bites.rest()
    record = parse_record(data)
    assert record.data == data
    assert record.node == node_id(record.public)


def _signed_record(bites: Bites) -> None:
    body = bites.rest()
    _record(Bites(body + KEY.sign(SIGNATURE_LABEL + body)))


def _node(bites: Bites) -> None:
    context = _Tls(is_client=False)
    context._set_peer_certificate(quic_tls.Certificate(certificates=[(bites.rest(), b"")]))
    assert context._peer_certificate is not None
    peer_key(Shown([context._peer_certificate]))


def _signed_node(bites: Bites) -> None:
    """Of a certificate, what its own key signs (RFC 5280 4.1)."""
    signed = bites.rest()
    inside = signed + ED25519 + SIGNATURE + KEY.sign(signed)
    _node(Bites(b"\x30\x82" + len(inside).to_bytes(2) + inside))
