"""The fast path, against itself, our stock engine and aioquic as it is."""

from __future__ import annotations

import logging
from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
from aioquic._buffer import Buffer
from aioquic.quic.connection import (
    QuicConnection,
    QuicConnectionError,
    QuicConnectionState,
    QuicReceiveContext,
)
from aioquic.quic.events import PingAcknowledged, StopSendingReceived, StreamReset
from aioquic.quic.logger import QuicLogger
from aioquic.quic.packet import QuicErrorCode, QuicPreferredAddress
from aioquic.tls import CipherSuite, Epoch

from p2pstream.net import names, short
from p2pstream.net.engine import (
    CONTROL_STREAM,
    INCOMING_PARCELS_MAX,
    PARCEL_WINDOW_BYTES,
    Engine,
)
from p2pstream.net.fast import FastEngine, fastest
from p2pstream.net.inbox import EARLY_MAX, PARTS_MAX
from p2pstream.net.tls import STREAM_WINDOW_BYTES
from p2pstream.net.udp import TRAIN_BYTES_MAX, TRAIN_MAX
from tests.net.wire import CLIENT, SERVER, Kind, Wire

PAIRS: list[tuple[Kind, Kind]] = [
    (FastEngine, FastEngine),
    (FastEngine, Engine),
    (Engine, FastEngine),
    (FastEngine, QuicConnection),
    (QuicConnection, FastEngine),
]


def lose(wire: Wire) -> None:
    wire.loss = 0.02


def reorder(wire: Wire) -> None:
    wire.reorder = 0.05


def narrow(wire: Wire) -> None:
    wire.mtu = 1280


def repeat(wire: Wire) -> None:
    wire.copies = 2


def update_keys(wire: Wire) -> None:
    wire.client.request_key_update()
    wire.run(0.5)
    wire.server.request_key_update()


def one_by_one(wire: Wire) -> None:
    wire.joined = False


def parcels(count: int, size: int = 16 * 1024 + 9) -> list[bytes]:
    return [number.to_bytes(4) * (size // 4) + b"x" * (size % 4) for number in range(count)]


def carry(wire: Wire, wanted: list[bytes], end: int = 0) -> list[bytes]:
    """Send them all from one end, and let time pass until they are there; in order of streams."""
    one = wire.ends[end]
    waiting = list(wanted)
    streams: list[int] = []
    for _ in range(20_000):
        while waiting and one._local_next_stream_id_uni // 4 < one._remote_max_streams_uni:
            streams.append(wire.send(waiting.pop(0), end))
        wire.run(0.01)
        if not waiting and len(wire.done.keys() & set(streams)) == len(streams):
            break
    return [wire.done.get(stream_id, b"missing") for stream_id in streams]


@pytest.mark.parametrize("path", [lose, reorder, narrow, repeat, update_keys, one_by_one])
@pytest.mark.parametrize(("client", "server"), PAIRS)
def test_every_parcel_arrives_as_it_was(
    client: Kind, server: Kind, path: Callable[[Wire], None]
) -> None:
    wire = Wire(client, server)
    sent = parcels(INCOMING_PARCELS_MAX + 6)
    assert carry(wire, sent[:10]) == sent[:10]
    path(wire)
    assert carry(wire, sent) == sent
    assert carry(wire, sent[:15], end=1) == sent[:15]
    wire.run(3)
    for one in wire.ends:
        assert one._state is QuicConnectionState.CONNECTED
        assert one._loss.bytes_in_flight == 0
        if isinstance(one, FastEngine):
            assert not one._outbox
            assert not one._inbox.open


@pytest.mark.parametrize("size", [1, 2, 1100, 1173, 1174, 1400, 1425, 2 * 1452, 32_000])
def test_parcels_of_all_lengths(size: int) -> None:
    wire = Wire(FastEngine, FastEngine)
    sent = parcels(5, size)
    assert carry(wire, sent) == sent


def test_the_other_cipher() -> None:
    wire = Wire(FastEngine, Engine, cipher_suites=[CipherSuite.CHACHA20_POLY1305_SHA256])
    sent = parcels(20)
    assert carry(wire, sent) == sent
    assert carry(wire, sent, end=1) == sent


def test_datagrams_grow_to_what_the_path_carries() -> None:
    wide, narrow_one = Wire(FastEngine, FastEngine), Wire(Engine, FastEngine)
    narrow_one.mtu = 1280
    for wire in (wide, narrow_one):
        carry(wire, parcels(40))
        wire.run(5)
    assert wide.client._max_datagram_size == wide.server._max_datagram_size == 1452
    assert narrow_one.client._max_datagram_size == 1232


@pytest.mark.parametrize("client", [FastEngine, Engine])
def test_a_path_that_becomes_narrow_is_noticed(client: Kind) -> None:
    wire = Wire(client, FastEngine)
    wire.run(1)
    assert wire.client._max_datagram_size == 1452
    wire.mtu = 1300
    sent = parcels(100)
    assert carry(wire, sent) == sent
    assert wire.client._max_datagram_size == 1232
    assert wire.now < 30


@pytest.mark.parametrize("mover", [0, 1], ids=["server", "client"])
@pytest.mark.parametrize(("client", "server"), PAIRS[:3])
def test_s16_who_is_behind_a_nat_that_forgets_loses_nothing(
    client: Kind, server: Kind, mover: int
) -> None:
    if not mover and client is QuicConnection:
        return  # aioquic's client does not follow a server.
    wire = Wire(client, server)
    sent = parcels(10)
    watcher = wire.ends[mover]
    for port in range(1000, 1005):
        wire.sources[mover] = (wire.sources[mover][0], port)
        assert carry(wire, sent, end=mover) == sent
        assert carry(wire, sent, end=1 - mover) == sent
        assert watcher.get_peer_address() == wire.sources[mover]
        wire.run(20)
    if isinstance(watcher, Engine):
        assert watcher._max_datagram_size == 1452
        assert len(watcher._network_paths) == 1


@pytest.mark.parametrize("server", [FastEngine, Engine, QuicConnection])
def test_a_parcel_is_taken_back(server: Kind) -> None:
    wire = Wire(FastEngine, server)
    wire.loss = 0.3
    stream_id = wire.send(bytes(16_000))
    wire.run(0.011)
    wire.client.reset_stream(stream_id, 7)
    wire.run(5)
    assert [e.error_code for e in wire.events if isinstance(e, StreamReset)] == [7]
    assert not wire.client.knows(stream_id)
    assert wire.client.outstanding(stream_id) is None
    wire.loss = 0.0
    sent = parcels(2 * INCOMING_PARCELS_MAX)
    assert carry(wire, sent) == sent


@pytest.mark.parametrize(("client", "server"), [*PAIRS[:2], PAIRS[2]])
def test_a_parcel_is_stopped(client: Kind, server: Kind) -> None:
    wire = Wire(client, server)
    wire.delay_s, wire.loss = 0.05, 0.2
    wire.run(0.5)
    stream_id = wire.send(bytes(40_000))
    while not wire.server.knows(stream_id):
        wire.run(0.005)
    wire.server.stop_stream(stream_id, 9)
    wire.run(10)
    assert {e.error_code for e in wire.events if isinstance(e, StopSendingReceived)} <= {9}
    assert not wire.server.knows(stream_id)
    assert not wire.client.knows(stream_id)
    wire.loss = 0.0
    sent = parcels(INCOMING_PARCELS_MAX)
    assert carry(wire, sent) == sent


def test_a_pure_receiver_does_not_collect_acks() -> None:
    wire = Wire(FastEngine, FastEngine)
    carry(wire, parcels(300))
    space = wire.server._spaces[Epoch.ONE_RTT]
    assert len(space.sent_packets) < 100
    assert len(space.ack_queue) < 5


def test_acks_do_not_keep_a_quiet_connection_busy() -> None:
    wire = Wire(FastEngine, FastEngine)
    carry(wire, parcels(50))
    wire.run(1)
    number = wire.client._packet_number + wire.server._packet_number
    wire.run(10)
    assert wire.client._packet_number + wire.server._packet_number - number < 5


def test_with_a_qlog_everything_is_in_it() -> None:
    logger = QuicLogger()
    wire = Wire(FastEngine, FastEngine, quic_logger=logger)
    sent = parcels(10)
    streams = carry(wire, sent)
    assert streams == sent
    traced = [
        frame["stream_id"]
        for trace in logger.to_dict()["traces"]
        for event in trace["events"]
        if event["name"] == "transport:packet_received"
        for frame in event["data"]["frames"]
        if frame["frame_type"] == "stream"
    ]
    assert set(range(2, 42, 4)) <= set(traced)


def test_an_aioquic_without_a_name_means_the_stock_engine(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert fastest() is FastEngine
    monkeypatch.setattr(names, "FAST", {"crypto": ("recv", "gone")})
    with caplog.at_level(logging.WARNING):
        assert fastest() is Engine
    assert "crypto.gone" in caplog.text


def say(wire: Wire, end: int, *words: bytes) -> None:
    """On the control stream, in turns of a round trip each."""
    for word in words:
        wire.ends[end].send_stream_data(CONTROL_STREAM, word)
        wire.run(0.02)


@pytest.mark.parametrize("path", [lose, reorder, repeat, update_keys, one_by_one])
@pytest.mark.parametrize(("client", "server"), PAIRS)
def test_what_is_said_arrives_in_order(
    client: Kind, server: Kind, path: Callable[[Wire], None]
) -> None:
    wire = Wire(client, server)
    path(wire)
    words = [bytes([at]) * (5 + 700 * (at % 4)) for at in range(40)]
    say(wire, 0, *words)
    wire.run(5)
    assert bytes(wire.received.pop(CONTROL_STREAM)) == b"".join(words)
    carry(wire, parcels(3))
    say(wire, 1, *words)
    wire.run(5)
    assert bytes(wire.received[CONTROL_STREAM]) == b"".join(words)
    assert all(one._loss.bytes_in_flight == 0 for one in wire.ends)
    assert all(one.owes(CONTROL_STREAM) is False for one in wire.ends if isinstance(one, Engine))


def test_what_is_said_at_great_length_waits_for_the_windows() -> None:
    wire = Wire(FastEngine, FastEngine)
    speech = bytes(range(251)) * 8000
    say(wire, 0, speech)
    wire.run(10)
    assert bytes(wire.received[CONTROL_STREAM]) == speech


def test_an_answer_takes_the_ack_along() -> None:
    wire = Wire(FastEngine, FastEngine)
    say(wire, 0, b"hello")
    wire.run(3)
    wire.client.send_stream_data(CONTROL_STREAM, b"ask")
    (asked,) = wire.client.datagrams_to_send(wire.now)
    wire.server.receive_datagram(asked[0], CLIENT, wire.now)
    wire.server.send_stream_data(CONTROL_STREAM, b"answer")
    (answered,) = wire.server.datagrams_to_send(wire.now)
    wire.client.receive_datagram(answered[0], SERVER, wire.now)
    assert wire.server._spaces[Epoch.ONE_RTT].ack_at is None
    assert not wire.client.owes(CONTROL_STREAM)
    assert wire.client._loss.bytes_in_flight == 0


def test_a_ping_is_answered() -> None:
    wire = Wire(FastEngine, FastEngine)
    wire.client.send_ping(7)
    wire.run(0.1)
    assert [e.uid for e in wire.events if isinstance(e, PingAcknowledged)] == [7]


# Peers that do not mean well.


def context(wire: Wire) -> QuicReceiveContext:
    return QuicReceiveContext(
        epoch=Epoch.ONE_RTT,
        host_cid=wire.server.host_cid,
        network_path=wire.server._network_paths[0],
        quic_logger_frames=None,
        time=wire.now,
        version=1,
    )


def stream_frame(stream_id: int, offset: int, data: bytes, *, fin: bool = False) -> bytes:
    buf = Buffer(capacity=2000)
    for value in (0x0E | fin, stream_id, offset, len(data)):
        buf.push_uint_var(value)
    buf.push_bytes(data)
    return buf.data


def tell(wire: Wire, *frames: bytes) -> None:
    """As if the client had sent them; the short way and the long way must agree."""
    wire.server._take_one(b"".join(frames), wire.now)


def tell_slowly(wire: Wire, *frames: bytes) -> None:
    wire.server._payload_received(context(wire), b"".join(frames))


WAYS = [tell, tell_slowly]
FAULTS = {
    "beyond the window": (
        [stream_frame(2, PARCEL_WINDOW_BYTES, b"x")],
        QuicErrorCode.FLOW_CONTROL_ERROR,
    ),
    "one stream too many": (
        [stream_frame(2 + 4 * INCOMING_PARCELS_MAX, 0, b"x")],
        QuicErrorCode.STREAM_LIMIT_ERROR,
    ),
    "FIN, then more": (
        [stream_frame(2, 1, b"x", fin=True), stream_frame(2, 2, b"y")],
        QuicErrorCode.FINAL_SIZE_ERROR,
    ),
    "two ends": (
        [stream_frame(2, 9, b"x", fin=True), stream_frame(2, 5, b"x", fin=True)],
        QuicErrorCode.FINAL_SIZE_ERROR,
    ),
    "an end before what came": (
        [stream_frame(2, 9, b"x"), stream_frame(2, 1, b"x", fin=True)],
        QuicErrorCode.FINAL_SIZE_ERROR,
    ),
    "cut short": ([b"\x0a\x02\x41"], QuicErrorCode.FRAME_ENCODING_ERROR),
    "longer than it is": ([b"\x0a\x02\x05x"], QuicErrorCode.FRAME_ENCODING_ERROR),
    "words beyond the window": (
        [stream_frame(0, STREAM_WINDOW_BYTES - 4, b"words")],
        QuicErrorCode.FLOW_CONTROL_ERROR,
    ),
    "words cut short": ([b"\x0a\x00\x05x"], QuicErrorCode.FRAME_ENCODING_ERROR),
    "the end of words, then more": (
        [stream_frame(0, 0, b"a", fin=True), stream_frame(0, 1, b"b")],
        QuicErrorCode.FINAL_SIZE_ERROR,
    ),
    "crumbs": (
        [stream_frame(2, 2 * at + 1, b"x") for at in range(EARLY_MAX + 1)],
        QuicErrorCode.INTERNAL_ERROR,
    ),
}


@pytest.mark.parametrize(("fault", "way"), list(product(FAULTS, WAYS)))
def test_s06_s11_what_breaks_the_rules_has_the_right_code(
    fault: str, way: Callable[..., None]
) -> None:
    frames, code = FAULTS[fault]
    wire = Wire(Engine, FastEngine)
    for frame in frames[:-1]:
        way(wire, frame)
    with pytest.raises(QuicConnectionError) as caught:
        way(wire, frames[-1])
    assert caught.value.error_code == code


@pytest.mark.parametrize("way", WAYS)
def test_s06_sparse_parcels_stay_within_the_connection_window(way: Callable[..., None]) -> None:
    wire = Wire(Engine, FastEngine)
    for index in range(INCOMING_PARCELS_MAX):
        way(wire, stream_frame(2 + 4 * index, PARCEL_WINDOW_BYTES - 1, b"x"))
        wire.run(0.01)
    assert wire.server._local_max_data.value <= 64 * PARCEL_WINDOW_BYTES + 5
    assert not wire.server._events


@pytest.mark.parametrize("way", WAYS)
def test_s06_a_parcel_in_tiny_frames_is_not_kept_in_tiny_parts(way: Callable[..., None]) -> None:
    wire = Wire(Engine, FastEngine)
    for at in range(0, 2000, 2):
        way(wire, stream_frame(2, at, b"xy"))
        way(wire, stream_frame(2, at + 2, b""))
    assert len(wire.server._inbox.open[2].parts) <= PARTS_MAX + 1
    way(wire, stream_frame(2, 2000, b"", fin=True))
    wire.run(0.01)
    assert wire.done[2] == b"xy" * 1000


@pytest.mark.parametrize("way", WAYS)
def test_overlaps_are_cut(way: Callable[..., None]) -> None:
    wire = Wire(Engine, FastEngine)
    data = bytes(range(100))
    for start, stop in [(50, 60), (0, 10), (5, 20), (55, 100), (0, 20), (15, 52), (90, 100)]:
        way(wire, stream_frame(2, start, data[start:stop], fin=stop == 100))
    way(wire, stream_frame(2, 0, data[:10]))  # It has ended.
    wire.run(0.01)
    assert wire.done[2] == data
    assert wire.server._local_max_data.used == 100


@pytest.mark.parametrize(
    "ack",
    [
        b"\x02\x45\xff\x00\x00\x00",  # S-05: never sent.
        b"\x02\x05\x00\x00\x06",  # Below zero.
        b"\x02\x05\x00\x01\x00\x09\x00",
        b"\x02\x05\x00\x3f",
        b"\x02\x40",
    ],
)
def test_an_odd_ack_ends_the_connection(ack: bytes) -> None:
    wire = Wire(Engine, FastEngine)
    with pytest.raises(QuicConnectionError):
        wire.server._take_others(ack, 0, wire.now)


def test_junk_between_good_datagrams_is_dropped() -> None:
    wire = Wire(FastEngine, FastEngine)
    wire.run(1)
    stream_id = wire.send(bytes(16_000))
    good = [data for data, _ in wire.client.datagrams_to_send(wire.now)]
    size = len(good[0])
    junk = b"\x41" + wire.server.host_cid
    train: list[Any] = [good[0], junk.ljust(size, b"\xaa"), b"\xff" * size, *good[1:-1], b"\x40"]
    wire.server.receive_train(b"".join(train), size, CLIENT, wire.now)
    wire.server.receive_train(good[-1], len(good[-1]), CLIENT, wire.now)
    wire.server.receive_train(b"", 1, CLIENT, wire.now)
    wire.run(1)
    assert wire.done[stream_id] == bytes(16_000)
    assert short.ONE_RTT is Epoch.ONE_RTT


@pytest.mark.parametrize("kind", [Engine, FastEngine])
def test_a_preferred_address_is_not_tried(kind: Kind) -> None:
    """RFC 9000 9.6: a server could make us knock at anybody's door."""
    wire = Wire(kind, Engine)
    wire.run(1)
    elsewhere = ("10.0.0.9", 9)
    wire.client._remote_preferred_address = QuicPreferredAddress(
        ipv4_address=elsewhere, ipv6_address=None, connection_id=b"", stateless_reset_token=b""
    )
    wire.send(bytes(16_000))
    assert elsewhere not in {address for _, address in wire.client.datagrams_to_send(wire.now)}
    assert wire.client._remote_preferred_address is None


def test_the_link_may_feed_more_than_one_train_and_then_trains_are_whole() -> None:
    wire = Wire(FastEngine, FastEngine)
    for _ in range(40):  # Until the window is wide.
        for _ in range(8):
            wire.send(bytes(60_000))
        wire.run(0.1)
    later = wire.now + 1
    assert wire.client.sendable_bytes(later) > TRAIN_BYTES_MAX
    for _ in range(3):
        wire.send(bytes(60_000))
    data, size, _ = wire.client.trains_to_send(later)[0]
    assert len(data) == size * min(TRAIN_MAX, TRAIN_BYTES_MAX // size)
