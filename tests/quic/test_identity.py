"""Who is who, against peers that pretend (security/test-catalogue.md I-01 to I-09)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
import trio
from aioquic import tls as quic_tls
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import NameOID

from p2pstream.core import Happening, LinkDown, LinkUp
from p2pstream.identity import NodeId, NodeKey
from p2pstream.net import tls
from p2pstream.net.engine import Engine, _Tls
from tests.quic.virtual import Net, Node, in_virtual_time, parcel

VICTIM = NodeKey(b"v" * 32)


def pretending(change: Callable[[QuicConfiguration], QuicConfiguration]) -> type[Engine]:
    """Connections of a node that uses another configuration than it should."""

    class Pretender(Engine):
        def __init__(self, *, configuration: QuicConfiguration, **named: Any) -> None:
            super().__init__(configuration=change(configuration), **named)

        def _initialize(self, peer_cid: bytes) -> None:
            super()._initialize(peer_cid)
            self.tls.__class__ = _Liar

    return Pretender


class _Liar(_Tls):
    """Shows whatever certificate it has, whether the server wants its kind or not."""

    def _client_handle_certificate_request(self, input_buf: Any) -> None:
        super()._client_handle_certificate_request(input_buf)
        assert self._certificate_request is not None
        self._certificate_request.signature_algorithms = [
            quic_tls.SignatureAlgorithm.ED25519,
            quic_tls.SignatureAlgorithm.ECDSA_SECP256R1_SHA256,
            quic_tls.SignatureAlgorithm.ED448,
        ]


def self_signed(key: Any, *, names: int = 1, years: tuple[int, int] = (1970, 9999)) -> Any:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"n{i}") for i in range(names)])
    algorithm = hashes.SHA256() if isinstance(key, ec.EllipticCurvePrivateKey) else None
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(datetime(years[0], 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(years[1], 1, 1, tzinfo=UTC))
        .sign(key, algorithm)
    )


def _no_certificate(c: QuicConfiguration) -> QuicConfiguration:
    return replace(c, certificate=None, private_key=None) if c.is_client else c


def _stolen_certificate(c: QuicConfiguration) -> QuicConfiguration:
    return replace(c, certificate=tls.certificate(VICTIM))


def _p256(c: QuicConfiguration) -> QuicConfiguration:
    key = ec.generate_private_key(ec.SECP256R1())
    return replace(c, certificate=self_signed(key), private_key=key)


def _ed448(c: QuicConfiguration) -> QuicConfiguration:
    key = ed448.Ed448PrivateKey.generate()
    return replace(c, certificate=self_signed(key), private_key=key)


def _chain(c: QuicConfiguration) -> QuicConfiguration:
    return replace(c, certificate_chain=[c.certificate])


def _long(c: QuicConfiguration) -> QuicConfiguration:
    return replace(c, certificate=self_signed(c.private_key, names=30))


def _not_self_signed(c: QuicConfiguration) -> QuicConfiguration:
    name = x509.Name([])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(c.private_key.public_key())
        .serial_number(7)
        .not_valid_before(datetime(1970, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(9999, 1, 1, tzinfo=UTC))
        .sign(Ed25519PrivateKey.generate(), None)
    )
    return replace(c, certificate=certificate)


def _other_alpn(c: QuicConfiguration) -> QuicConfiguration:
    return replace(c, alpn_protocols=["h3"])


def _no_alpn(c: QuicConfiguration) -> QuicConfiguration:
    return replace(c, alpn_protocols=None)


ATTACKS = [
    _no_certificate,
    _stolen_certificate,
    _p256,
    _ed448,
    _chain,
    _long,
    _not_self_signed,
    _other_alpn,
    _no_alpn,
]


@in_virtual_time
async def test_i01_a_server_with_another_key_is_not_talked_to(net: Net) -> None:
    a, b, wanted = await net.node(1), await net.node(2), Node(3)
    a.dial(wanted, b.carrier.address)
    await trio.sleep(5)
    assert a.heard == [(wanted.id, LinkDown("identity_mismatch"))]
    assert b.heard == []
    assert not a.carrier.is_banned(b.id), "b is not to blame"
    a.dial(b)
    await trio.sleep(1)
    assert a.links == b.links == 1


@pytest.mark.parametrize("attack", ATTACKS)
@in_virtual_time
async def test_i02_i03_i04_i09_a_client_that_pretends_is_not_let_in(net: Net, attack: Any) -> None:
    server, good = await net.node(1), await net.node(2)
    bad = await net.node(3, engine=pretending(attack))
    start = trio.current_time()
    bad.dial(server)
    await trio.sleep(0.3)  # A few round trips.
    assert server.heard == []
    assert bad.of(LinkDown) or trio.current_time() - start < 3
    await trio.sleep(10)
    assert server.heard == []
    assert len(bad.downs) == 1
    assert server.open == bad.open == 0
    good.dial(server)
    await trio.sleep(1)
    assert server.links == 1


@pytest.mark.parametrize("attack", [a for a in ATTACKS if a is not _no_certificate])
@in_virtual_time
async def test_i03_i04_i09_a_server_that_pretends_is_not_talked_to(net: Net, attack: Any) -> None:
    """From the other side."""
    client, bad = await net.node(1), await net.node(3, engine=pretending(attack))
    client.dial(bad)
    await trio.sleep(10)
    assert client.heard == [(bad.id, LinkDown(client.downs[0]))]
    assert client.downs[0] in {
        "handshake_failed",
        "bad_signature",
        "bad_message",
        "dial_timeout",
        "protocol_error",
    }
    assert bad.heard == []
    assert client.open == bad.open == 0


@pytest.mark.parametrize("years", [(1990, 1991), (2500, 2501)], ids=["expired", "not yet valid"])
@in_virtual_time
async def test_i06_dates_and_names_mean_nothing(net: Net, years: tuple[int, int]) -> None:
    odd = pretending(
        lambda c: replace(c, certificate=self_signed(c.private_key, years=years, names=2))
    )
    a, b = await net.node(1, engine=odd), await net.node(2, engine=odd)
    a.dial(b)
    await trio.sleep(1)
    assert a.links == b.links == 1


@in_virtual_time
async def test_i07_a_node_does_not_link_to_itself(net: Net) -> None:
    a, wanted = await net.node(1), Node(2)
    a.dial(a)
    await trio.sleep(1)
    assert a.heard == [(a.id, LinkDown("self"))]
    a.heard.clear()
    a.dial(wanted, a.carrier.address)
    await trio.sleep(10)
    assert a.heard == [(wanted.id, LinkDown("identity_mismatch"))]
    assert a.open == 0


@in_virtual_time
async def test_i07_two_nodes_with_one_key_do_not_link(net: Net) -> None:
    a, twin = await net.node(1), await net.node(1, ip="10.0.0.9")
    wanted = Node(2)
    a.dial(wanted, twin.carrier.address)
    await trio.sleep(10)
    assert a.downs == ["identity_mismatch"]
    assert twin.heard == []
    assert twin.open == 0


@in_virtual_time
async def test_nothing_is_accepted_before_the_hello(net: Net) -> None:
    class Silent(Engine):
        def send_stream_data(self, stream_id: int, data: bytes, end_stream: bool = False) -> None:
            if stream_id or self.tls.state is quic_tls.State.SERVER_POST_HANDSHAKE:
                super().send_stream_data(stream_id, data, end_stream)
                return
            message = b"\x00\x04" + b"\x93\x28\x01\xa0"
            super().send_stream_data(0, message)

    a, b = await net.node(1, engine=Silent), await net.node(2)
    a.dial(b)
    await trio.sleep(6)
    assert b.heard == []
    assert a.downs == ["peer_bad_message"]


@in_virtual_time
async def test_s14_a_peer_that_never_says_hello_is_dropped(net: Net) -> None:
    """Five seconds, absolute."""

    class Mute(Engine):
        def send_stream_data(self, stream_id: int, data: bytes, end_stream: bool = False) -> None:
            if not self.configuration.is_client:
                super().send_stream_data(stream_id, data, end_stream)
            else:
                self.send_ping(1)

    a, b = await net.node(1, engine=Mute), await net.node(2)
    a.carrier._bind = a.carrier.address
    link = a.carrier._endpoint.dial(b.carrier.address, b.id)
    assert link is not None
    for _ in range(20):
        await trio.sleep(0.5)
        if not link.closed:
            link._engine.send_ping(1)
            a.carrier._endpoint.touch(link)
    assert a.open == b.open == 0
    assert b.heard == []
    assert b.carrier.counters.endpoint.handshakes == 0


@in_virtual_time
async def test_parcels_that_overtake_the_hello_are_kept(net: Net) -> None:
    a, b = await net.node(1), await net.node(2)

    def answer(_peer: NodeId, _what: Happening) -> None:
        for number in range(3):
            b.send(a, parcel(number, 100))

    b.on_heard = answer
    net.jitter_s = 0.05
    a.dial(b)
    await trio.sleep(3)
    assert sorted(a.numbers) == [0, 1, 2]
    assert isinstance(a.heard[0][1], LinkUp)


def _ticket() -> quic_tls.SessionTicket:
    """What a server of another kind gave, for resumption with 0-RTT."""
    tickets: list[quic_tls.SessionTicket] = []
    calling = tls.configuration(NodeKey((3).to_bytes(32)), dialling=True)
    client = QuicConnection(configuration=calling, session_ticket_handler=tickets.append)
    client.connect(("10.0.0.1", 1), now=0.0)
    server = QuicConnection(
        configuration=tls.configuration(NodeKey((1).to_bytes(32)), dialling=False),
        original_destination_connection_id=client.original_destination_connection_id,
        session_ticket_fetcher=lambda _label: None,
        session_ticket_handler=lambda _ticket: None,
    )
    for step in range(10):
        for one, other in ((client, server), (server, client)):
            for data, _ in one.datagrams_to_send(step / 10):
                other.receive_datagram(data, ("10.0.0.1", 1), step / 10)
    assert tickets
    return tickets[0]


@in_virtual_time
async def test_i08_a_ticket_of_elsewhere_resumes_nothing(net: Net) -> None:
    """The handshake is a whole one, with certificates; what came with it early is not heard."""
    ticket = replace(_ticket(), not_valid_after=datetime(2999, 1, 1, tzinfo=UTC))
    assert ticket.max_early_data_size
    offers: list[Engine] = []

    class Hasty(Engine):
        def __init__(self, *, configuration: QuicConfiguration, **named: Any) -> None:
            if configuration.is_client:
                configuration = replace(configuration, session_ticket=ticket)
            super().__init__(configuration=configuration, **named)

        def connect(self, addr: Any, now: float) -> None:
            super().connect(addr, now)
            offers.append(self)
            self.send_stream_data(2, b"\x00\x04\x93\x28\x01\xa0")

    server, hasty = await net.node(1), await net.node(3, engine=Hasty)
    hasty.dial(server)
    await trio.sleep(0.055)
    assert offers[0].tls._session_resumed is False
    assert [h for _, h in server.heard if not isinstance(h, LinkUp)] == []
    await trio.sleep(1)
    assert [peer for peer, _ in server.heard if peer != hasty.id] == []
    assert all(link.peer == hasty.id for link in server.carrier._endpoint._links)
    for link in server.carrier._endpoint._links:
        assert len(link._engine.peer_certificates) == 1
        assert not link._engine.tls._session_resumed


@in_virtual_time
async def test_c08_what_a_peer_says_as_it_leaves_is_not_repeated(net: Net) -> None:
    """Its reason may be any text; we tell our own word for its code."""
    for number, text in enumerate(["\x1b[2J", "<script>", "a\nb", "\u202e", "x" * 500]):
        a, b = await net.node(10 + 2 * number), await net.node(11 + 2 * number)
        a.dial(b)
        await trio.sleep(1)
        a.link(b)._engine.close(error_code=0x1FF, reason_phrase=text)
        a.carrier._endpoint.touch(a.link(b))
        await trio.sleep(1)
        assert b.downs == ["peer_closed"]
