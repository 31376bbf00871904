"""Parcels cut into packets, and put together again, without a connection."""

from __future__ import annotations

import random
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest
from aioquic.quic.packet_builder import QuicDeliveryState

from p2pstream.net.frames import ACK_RANGES_MAX, ack_frame, pull, read_ack, varint
from p2pstream.net.inbox import Inbox
from p2pstream.net.outbox import Outbox, Sent

WINDOW = 1 << 16


def inbox(told: dict[int, bytes]) -> Inbox:
    data: Any = SimpleNamespace(used=0, value=1 << 22)
    streams: Any = SimpleNamespace(used=0, value=1 << 20)

    def tell(stream_id: int, content: bytes, end: bool) -> None:
        if end:
            told[stream_id] = content

    return Inbox(data, streams, window=WINDOW, own=2, foreign={}, tell=tell)


def take(box: Inbox, payloads: list[bytes]) -> None:
    at = 0
    while at < len(payloads):
        at, read = box.take_all(payloads, at)
        if at < len(payloads):
            assert not payloads[at][read:].strip(b"\0"), "PADDING and nothing else"
            at += 1


def parcels(sizes: list[int], first: int = 0) -> dict[int, bytes]:
    rng = random.Random(1)
    return {(first + at) << 2 | 2: rng.randbytes(size) for at, size in enumerate(sizes)}


@pytest.mark.parametrize("room", [60, 1173, 1425, 15_973])
@pytest.mark.parametrize(
    "sizes", [[1], [16_614] * 5, [1424, 1425, 1426], [50, 60, 70, 64_000], [2822, 2823, 2824]]
)
@pytest.mark.parametrize("first", [0, 100, 5000])
def test_what_is_cut_is_put_together(room: int, sizes: list[int], first: int) -> None:
    box, told = Outbox(), dict[int, bytes]()
    box.credit = 1 << 20
    sent = parcels(sizes, first)
    taker = inbox(told)
    taker._streams.used = first  # Those before have ended.
    for stream_id, data in sent.items():
        box.add(stream_id, data)
    while box:
        payloads, contents, places = box.cut(44, room)
        assert len(payloads) == len(contents) == len(places)
        assert {len(payload) for payload in payloads[:-1]} <= {room}
        assert len(payloads[-1]) <= room
        take(taker, payloads)
    assert told == sent
    assert box.credit == (1 << 20) - sum(sizes) == (1 << 20) - taker._data.used
    assert not taker.open


def test_what_is_lost_is_sent_again_and_what_arrives_is_forgotten() -> None:
    rng = random.Random(5)
    box, told = Outbox(), dict[int, bytes]()
    box.credit = 1 << 24
    sent = parcels([16_614] * 40)
    taker = inbox(told)
    for stream_id, data in sent.items():
        box.add(stream_id, data)
    while box:
        payloads, contents, places = box.cut(rng.randrange(1, 45), 1425)
        packets = [
            Sent(0, 0.0, 0, content, place) for content, place in zip(contents, places, strict=True)
        ]
        came = [rng.random() > 0.1 for _ in packets]
        take(taker, [payload for payload, here in zip(payloads, came, strict=True) if here])
        for packet, here in zip(packets, came, strict=True):
            ((handler, args),) = packet.delivery_handlers
            handler(QuicDeliveryState.ACKED if here else QuicDeliveryState.LOST, *args)
    assert told == sent
    assert not box.streams


def test_credit_ends_what_is_fresh_and_not_what_is_repeated() -> None:
    box = Outbox()
    box.credit = 3000
    box.add(2, bytes(10_000))
    payloads, contents, places = box.cut(44, 1425)
    assert box.credit == 0
    assert sum(map(len, payloads)) > 3000
    assert box.cut(44, 1425) == ([], [], [])
    contents[0].lost(places[0])
    assert len(box.cut(44, 1425)[0]) == 2  # With a length it no longer fits into one.


@pytest.mark.parametrize("value", [0, 63, 64, 16_383, 16_384, (1 << 30) - 1, 1 << 30, 1 << 61])
def test_numbers(value: int) -> None:
    raw = varint(value)
    assert pull(b"\0" + raw, 1) == (value, 1 + len(raw))
    for size in range(len(raw)):
        with suppress(IndexError):
            assert pull(raw[:size], 0)[1] > size


def test_an_ack_says_what_has_come() -> None:
    received = [range(2, 5), range(9, 10), range(70, 20_000)]
    frame = ack_frame(received, 77)
    assert read_ack(frame) == (received, 77, len(frame))
    many = [range(at * 3, at * 3 + 1) for at in range(100)]
    assert read_ack(ack_frame(many, 0))[0] == many[-ACK_RANGES_MAX:]
