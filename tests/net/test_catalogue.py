"""Attacks on one connection that need its keys: security/test-catalogue.md, S-08 to S-11."""

from __future__ import annotations

from typing import Any

import pytest
from aioquic._buffer import Buffer
from aioquic.quic.connection import (
    MAX_REMOTE_CHALLENGES,
    QuicConnectionError,
    QuicConnectionState,
)
from aioquic.quic.packet import QuicErrorCode
from aioquic.quic.recovery import MAX_ACK_RANGES
from aioquic.tls import Epoch

from p2pstream.net import engine as engines
from p2pstream.net import recovery
from p2pstream.net.engine import Engine
from p2pstream.net.fast import FastEngine
from tests.net.test_fast import carry, context, parcels, stream_frame
from tests.net.wire import CLIENT, Kind, Wire

ENGINES = pytest.mark.parametrize("engine", [FastEngine, Engine])


def say(wire: Wire, *values: int, data: bytes = b"") -> None:
    """One frame of the client's, as the server reads it."""
    buf = Buffer(capacity=2000)
    for value in values:
        buf.push_uint_var(value)
    buf.push_bytes(data)
    wire.server._payload_received(context(wire), buf.data)


def name(wire: Wire, count: int, *, retire: bool) -> None:
    """So many NEW_CONNECTION_ID frames, each of which may retire all before it."""
    for number in range(100, 100 + count):
        say(wire, 0x18, number, number * retire, 8, data=number.to_bytes(8) + bytes(16))


def refused(wire: Wire, *values: int, data: bytes = b"") -> int:
    with pytest.raises(QuicConnectionError) as caught:
        say(wire, *values, data=data)
    return caught.value.error_code


@ENGINES
def test_s05_who_acknowledges_what_it_has_not_received_is_found_out(
    engine: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "LEFT_OUT_MIN", 64)
    monkeypatch.setattr(engines, "LEFT_OUT_SPAN", 128)

    class Optimist(Engine):
        def _write_ack_frame(self, builder: Any, space: Any, now: float) -> None:
            space.ack_queue.add(0, space.largest_received_packet + 1)
            super()._write_ack_frame(builder, space, now)

    wire = Wire(Optimist, engine)
    wire.loss = 0.1
    for _ in range(4 * 128 // 12):
        wire.send(bytes(16_000), 1)
        wire.run(0.02)
    assert wire.server.ended.error_code == QuicErrorCode.PROTOCOL_VIOLATION


@ENGINES
def test_s05_numbers_left_out_harm_no_honest_peer(engine: Kind) -> None:
    wire = Wire(FastEngine, engine)
    wire.loss = wire.reorder = 0.02
    for _ in range(2 * engines.LEFT_OUT_SPAN // 12 // 20):
        sent = parcels(20)
        assert carry(wire, sent, end=1) == sent
    assert wire.server._recovery.never_sent > 0
    assert len(wire.client._spaces[Epoch.ONE_RTT].ack_queue) <= MAX_ACK_RANGES


@ENGINES
def test_s08_path_challenges_queue_only_so_far(engine: Kind) -> None:
    wire = Wire(Engine, engine)
    for number in range(10_000):
        say(wire, 0x1A, data=number.to_bytes(8))
    assert len(wire.server._network_paths[0].remote_challenges) <= MAX_REMOTE_CHALLENGES
    sent = parcels(5)
    assert carry(wire, sent) == sent


@ENGINES
def test_s08_a_peer_that_acknowledges_nothing_is_answered_and_not_remembered(
    engine: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery, "BARE_ACKS_MAX", 50)
    wire = Wire(Engine, engine)
    wire.run(1)
    for _ in range(500):
        wire.now += 0.01
        wire.client.send_ping(0)
        wire.client._loss._cc.bytes_in_flight = 0
        for data, _ in wire.client.datagrams_to_send(wire.now):
            wire.server.receive_datagram(data, CLIENT, wire.now)
        assert wire.server.datagrams_to_send(wire.now + 0.005)
    assert len(wire.server._spaces[Epoch.ONE_RTT].sent_packets) < 100


@ENGINES
def test_s09_every_other_packet_leaves_bounded_ranges(engine: Kind) -> None:
    wire = Wire(FastEngine, engine)
    wire.run(1)
    space = wire.server._spaces[Epoch.ONE_RTT]
    for _ in range(1000):
        wire.now += 0.002
        wire.client.send_ping(0)
        ((data, _),) = wire.client.datagrams_to_send(wire.now)
        wire.client._packet_number += 1
        wire.client._loss._cc.bytes_in_flight = 0
        wire.server.receive_datagram(data, CLIENT, wire.now)
    assert len(space.ack_queue) <= MAX_ACK_RANGES
    (ack, _), *_ = wire.server.datagrams_to_send(wire.now + 0.01)
    assert len(ack) <= 1452
    assert wire.server._state is QuicConnectionState.CONNECTED


@ENGINES
def test_s10_connection_ids_are_limited(engine: Kind) -> None:
    wire = Wire(Engine, engine)
    known = wire.server._local_active_connection_id_limit
    with pytest.raises(QuicConnectionError) as caught:
        name(wire, known, retire=False)
    assert caught.value.error_code == QuicErrorCode.CONNECTION_ID_LIMIT_ERROR
    assert len(wire.server._peer_cid_available) <= known


@ENGINES
def test_s10_retired_connection_ids_queue_only_so_far(engine: Kind) -> None:
    wire = Wire(Engine, engine)
    with pytest.raises(QuicConnectionError):
        name(wire, 1000, retire=True)
    assert len(wire.server._retire_connection_ids) <= 110


@ENGINES
def test_s11_stopping_a_parcel_twice_is_harmless(engine: Kind) -> None:
    wire = Wire(Engine, engine)
    stream_id = wire.send(bytes(30_000), 1)
    wire.run(0.005)
    for _ in range(3):
        say(wire, 0x05, stream_id, 1)
    wire.run(2)
    say(wire, 0x05, stream_id, 1)
    assert not wire.server.knows(stream_id)
    sent = parcels(5)
    assert carry(wire, sent, end=1) == sent
    assert carry(wire, sent) == sent


@ENGINES
def test_s11_data_after_a_reset_is_ignored_and_another_end_is_not(engine: Kind) -> None:
    wire = Wire(Engine, engine)
    wire.server._payload_received(context(wire), stream_frame(2, 0, b"abc"))
    say(wire, 0x04, 2, 7, 100)
    wire.server._payload_received(context(wire), stream_frame(2, 3, b"more"))
    assert refused(wire, 0x04, 2, 7, 50) == QuicErrorCode.FINAL_SIZE_ERROR
    wire.server._payload_received(context(wire), stream_frame(6, 0, b"abc"))
    assert refused(wire, 0x04, 6, 7, 2) == QuicErrorCode.FINAL_SIZE_ERROR
    sent = parcels(3)
    wire.client._local_next_stream_id_uni = 10
    assert carry(wire, sent) == sent


@ENGINES
def test_s11_a_frame_about_a_stream_of_the_wrong_side_ends_the_connection(engine: Kind) -> None:
    wire = Wire(Engine, engine)
    assert refused(wire, 0x04, 3, 7, 0) == QuicErrorCode.STREAM_STATE_ERROR
    assert refused(wire, 0x05, 2, 7) == QuicErrorCode.STREAM_STATE_ERROR
    assert refused(wire, 0x0A, 3, 1, data=b"x") == QuicErrorCode.STREAM_STATE_ERROR
