"""The hardened connection, two of them in memory."""

from __future__ import annotations

import pytest
from aioquic import tls as quic_tls
from aioquic._buffer import Buffer
from aioquic.quic.connection import QuicConnectionError, QuicNetworkPath, QuicReceiveContext
from aioquic.quic.events import HandshakeCompleted, StreamDataReceived
from aioquic.quic.packet import QuicErrorCode
from cryptography.hazmat.primitives.serialization import Encoding

from p2pstream.identity import NodeKey
from p2pstream.net import names
from p2pstream.net.engine import INCOMING_PARCELS_MAX, PARCEL_WINDOW_BYTES, Engine, _Tls
from p2pstream.net.fast import FastEngine
from p2pstream.net.tls import (
    CONNECTION_WINDOW_BYTES,
    STREAM_WINDOW_BYTES,
    certificate,
    configuration,
    peer_key,
)

CLIENT_KEY, SERVER_KEY = NodeKey(b"c" * 32), NodeKey(b"s" * 32)
SERVER, CLIENT = ("10.0.0.1", 1), ("10.0.0.2", 2)


class Pair:
    """A handshaken client and server; `run` lets time and datagrams pass."""

    def __init__(self, engine: type[Engine] = Engine) -> None:
        self.now = 0.0
        self.client = engine(configuration=configuration(CLIENT_KEY, dialling=True))
        self.client.connect(SERVER, now=0.0)
        self.server = engine(
            configuration=configuration(SERVER_KEY, dialling=False),
            original_destination_connection_id=self.client.original_destination_connection_id,
        )
        self.read: dict[int, int] = {}
        self.handshakes = 0
        self.run(0.1)

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            self.now += 0.002
            for one, other, address in (
                (self.client, self.server, CLIENT),
                (self.server, self.client, SERVER),
            ):
                timer = one.get_timer()
                if timer is not None and timer <= self.now and not one.ended:
                    one.handle_timer(self.now)
                for data, _ in one.datagrams_to_send(self.now):
                    other.receive_datagram(data, address, self.now)
            for end_point in (self.client, self.server):
                while (event := end_point.next_event()) is not None:
                    self.handshakes += isinstance(event, HandshakeCompleted)
                    if isinstance(event, StreamDataReceived):
                        self.read[event.stream_id] = self.read.get(event.stream_id, 0) + len(
                            event.data
                        )

    def context(self) -> QuicReceiveContext:
        return QuicReceiveContext(
            epoch=quic_tls.Epoch.ONE_RTT,
            host_cid=self.server.host_cid,
            network_path=self.server._network_paths[0],
            quic_logger_frames=None,
            time=self.now,
            version=1,
        )


ENGINES = pytest.mark.parametrize("engine", [Engine, FastEngine])


def test_both_ends_prove_their_keys() -> None:
    pair = Pair()
    assert pair.handshakes == 2
    assert peer_key(pair.client) == SERVER_KEY.public
    assert peer_key(pair.server) == CLIENT_KEY.public
    assert pair.client.tls.key_schedule is not None
    assert pair.client.tls.key_schedule.cipher_suite == quic_tls.CipherSuite.AES_128_GCM_SHA256


@pytest.mark.parametrize("first", [1, 4, 500])
def test_s07_a_long_tls_message_is_refused_at_its_length(first: int) -> None:
    pair = Pair()
    server = Engine(
        configuration=configuration(SERVER_KEY, dialling=False),
        original_destination_connection_id=b"d" * 8,
    )
    server._version = 1
    server._network_paths = [QuicNetworkPath(CLIENT)]
    server._initialize(b"d" * 8)
    message = b"\x01" + (0xFFFFF0).to_bytes(3) + bytes(1000)
    context = QuicReceiveContext(
        epoch=quic_tls.Epoch.INITIAL,
        host_cid=server.host_cid,
        network_path=server._network_paths[0],
        quic_logger_frames=None,
        time=0.0,
        version=1,
    )
    if first >= 4:
        with pytest.raises(QuicConnectionError):
            server._handle_crypto_frame(context, 6, _crypto(0, message[:first]))
        return
    server._handle_crypto_frame(context, 6, _crypto(0, message[:first]))
    with pytest.raises(QuicConnectionError) as caught:
        server._handle_crypto_frame(context, 6, _crypto(first, message[first:]))
    alert = int(quic_tls.AlertDescription.decode_error)
    assert caught.value.error_code == QuicErrorCode.CRYPTO_ERROR + alert
    del pair


@ENGINES
def test_s05_an_ack_of_what_was_never_sent_is_a_violation(engine: type[Engine]) -> None:
    pair = Pair(engine)
    buf = Buffer(capacity=64)
    for value in (1 << 40, 0, 0, 0):
        buf.push_uint_var(value)
    with pytest.raises(QuicConnectionError) as caught:
        pair.server._handle_ack_frame(pair.context(), 2, Buffer(data=buf.data))
    assert caught.value.error_code == QuicErrorCode.PROTOCOL_VIOLATION


@ENGINES
def test_an_honest_transfer_passes_the_windows(engine: type[Engine]) -> None:
    pair = Pair(engine)
    size = CONNECTION_WINDOW_BYTES * 3 // 2
    pair.client.send_stream_data(0, bytes(size), end_stream=True)
    pair.run(4)
    assert pair.read[0] == size


@ENGINES
def test_s06_sparse_data_does_not_inflate_the_windows(engine: type[Engine]) -> None:
    pair = Pair(engine)
    pair.client.send_stream_data(0, b"hello")
    pair.run(0.1)
    stream = pair.server._streams[0]
    for _ in range(8):
        limit = min(stream.max_stream_data_local, pair.server._local_max_data.value)
        pair.server._handle_stream_frame(pair.context(), 0x0E, _stream(0, limit - 1, b"x"))
        pair.run(0.1)
    assert stream.max_stream_data_local <= STREAM_WINDOW_BYTES + 5
    assert len(stream.receiver._buffer) <= STREAM_WINDOW_BYTES
    assert pair.server._local_max_data.value <= 2 * CONNECTION_WINDOW_BYTES


@ENGINES
def test_parcels_that_are_abandoned_give_their_credit_back(engine: type[Engine]) -> None:
    pair = Pair(engine)
    client, server = pair.client, pair.server
    for _ in range(3 * INCOMING_PARCELS_MAX):
        stream_id = client.get_next_available_stream_id(is_unidirectional=True)
        client.send_stream_data(stream_id, bytes(30_000))
        pair.run(0.06)
        client.reset_stream(stream_id, 1)
    pair.run(1)
    assert not client.ended
    assert not server.ended
    assert len(server._streams) < 5
    stream_id = client.get_next_available_stream_id(is_unidirectional=True)
    client.send_stream_data(stream_id, bytes(30_000), end_stream=True)
    pair.run(1)
    assert pair.read[stream_id] == 30_000


@ENGINES
def test_one_parcel_may_not_be_longer_than_its_window(engine: type[Engine]) -> None:
    pair = Pair(engine)
    pair.client.send_stream_data(2, bytes(2 * PARCEL_WINDOW_BYTES), end_stream=True)
    pair.run(2)
    assert pair.server._local_max_data.used == PARCEL_WINDOW_BYTES
    assert not pair.server.ended


@ENGINES
def test_a_server_opens_no_stream_of_two_directions(engine: type[Engine]) -> None:
    pair = Pair(engine)
    pair.server.send_stream_data(1, b"x")
    pair.run(1)
    assert 1 not in pair.read


def test_another_aioquic_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert names.missing(names.ENGINE) == names.missing(names.FAST) == []
    monkeypatch.setattr(names, "_samples", lambda: {"limit": object()})
    assert names.missing({"limit": ("sent",)}) == ["limit.sent"]


def _crypto(offset: int, data: bytes) -> Buffer:
    return _frame([offset, len(data)], data)


def _stream(stream_id: int, offset: int, data: bytes) -> Buffer:
    return _frame([stream_id, offset, len(data)], data)


def _frame(numbers: list[int], data: bytes) -> Buffer:
    buf = Buffer(capacity=2000)
    for number in numbers:
        buf.push_uint_var(number)
    buf.push_bytes(data)
    return Buffer(data=buf.data)


def test_a_certificate_of_no_known_version_is_an_alert() -> None:
    """cryptography raises something of its own, and aioquic lets it through."""
    good = certificate(CLIENT_KEY).public_bytes(Encoding.DER)
    version = b"\xa0\x03\x02\x01"  # RFC 5280 4.1: [0] { INTEGER ... }.
    odd = good.replace(version + b"\x02", version + b"\x6a")
    assert odd != good
    with pytest.raises(quic_tls.AlertBadCertificate):
        _Tls(is_client=False)._set_peer_certificate(quic_tls.Certificate(b"", [(odd, b"")]))
