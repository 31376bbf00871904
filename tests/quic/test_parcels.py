"""Parcels and messages on a virtual network: order, expiry, back-pressure, loss, floods."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
import trio

from p2pstream.core import Happening, LinkUp, Parcel
from p2pstream.identity import NodeId
from p2pstream.net.engine import FEED_BYTES_MAX, INCOMING_PARCELS_MAX, Engine
from p2pstream.net.fast import FastEngine
from p2pstream.net.link import (
    CONTROL_BURST,
    PARCEL_BODY_BYTES_MAX,
    QUEUE_BYTES_MAX,
)
from p2pstream.wire.codec import frame
from tests.quic.virtual import Net, Node, Say, in_virtual_time, parcel

MBIT = 1e6 / 8  # Bytes per second.

# Where what a slower sender does could matter; elsewhere it would only take longer.
from_stock_too = pytest.mark.parametrize(
    "engines",
    [(FastEngine, FastEngine), (FastEngine, Engine)],
    ids=["fast", "from stock"],
)


@from_stock_too
@pytest.mark.parametrize("size", [0, 1, 1200, 16 * 1024, PARCEL_BODY_BYTES_MAX])
@in_virtual_time
async def test_a_parcel_arrives_as_it_was(net: Net, size: int) -> None:
    a, b = await net.pair()
    sent = Parcel(Say(7, "header"), bytes(range(256)) * (size // 256) + b"x" * (size % 256))
    a.send(b, sent)
    await trio.sleep(1)
    assert b.of(Parcel) == [sent]
    assert a.carrier.backlog(b.id) == 0


@from_stock_too
@in_virtual_time
async def test_the_most_urgent_parcel_goes_first(net: Net) -> None:
    a, b = await net.pair()
    net.rate = 2 * MBIT
    now = trio.current_time()
    for number in range(40):
        a.send(b, parcel(number), now + 100 - number)
    await trio.sleep(20)
    # A few have started before the urgent ones were known, and the engine sends those in turns.
    assert b.numbers[-1] < 4
    ranks = [b.numbers.index(number) for number in range(40)]
    assert all(ranks[n] > ranks[n + 4] for n in range(30))


@in_virtual_time
async def test_a_message_overtakes_parcels(net: Net) -> None:
    a, b = await net.pair()
    net.rate = 2 * MBIT
    for number in range(100):
        a.send(b, parcel(number))
    await trio.sleep(2)
    sent_at = trio.current_time()
    arrived: list[float] = []
    b.on_heard = lambda _peer, what: (
        arrived.append(trio.current_time()) if isinstance(what, Say) else None
    )
    a.send(b, Say(1000))
    await trio.sleep(5)
    # Only what the network itself queues is before it: 128 KiB at 2 Mbit/s are 0.52 s.
    assert arrived
    assert arrived[0] - sent_at < 0.8


@from_stock_too
@in_virtual_time
async def test_what_expires_is_not_sent(net: Net) -> None:
    a, b = await net.pair()
    net.rate = 1 * MBIT
    now = trio.current_time()
    for number in range(200):  # 26 s worth of it.
        a.send(b, parcel(number), now + 2)
    a.send(b, parcel(999), now + 60)
    await trio.sleep(2.5)
    assert a.carrier.backlog(b.id) == 0
    await trio.sleep(3)
    assert b.numbers[-1] == 999
    assert len(b.numbers) < 25
    counters = a.link(b).counters
    assert counters.expired + len(b.numbers) >= 201
    assert net.packets < 1000  # Of 2800.


@from_stock_too
@in_virtual_time
async def test_a_parcel_that_has_started_is_reset_when_it_expires(net: Net) -> None:
    a, b = await net.pair()
    net.rate = 0.05 * MBIT  # 2.6 s for one parcel.
    net.queue_bytes = 4096
    a.send(b, parcel(1), trio.current_time() + 1)
    await trio.sleep(0.2)
    assert a.link(b).counters.parcels_out == 1
    await trio.sleep(20)
    assert b.numbers == []
    assert a.link(b).counters.expired == 1
    assert a.links == b.links == 1
    net.rate = 10 * MBIT
    a.send(b, parcel(2))
    await trio.sleep(2)
    assert b.numbers == [2]


@in_virtual_time
async def test_back_pressure_is_visible_and_bounded(net: Net) -> None:
    a, b = await net.pair()
    net.rate = 1 * MBIT
    for number in range(600):
        a.send(b, parcel(number))
    backlog = a.carrier.backlog(b.id)
    assert QUEUE_BYTES_MAX - 20_000 < backlog <= QUEUE_BYTES_MAX
    assert a.link(b).counters.overflowed == 600 - (QUEUE_BYTES_MAX // (16 * 1024 + 5))
    await trio.sleep(10)
    left = backlog - a.carrier.backlog(b.id)
    assert 0.6 * 10 * MBIT < left < 1.1 * 10 * MBIT + FEED_BYTES_MAX
    assert a.link(b)._unsent_bytes <= FEED_BYTES_MAX + 20_000


@in_virtual_time
async def test_a_thousand_parcels_pass_all_windows(net: Net) -> None:
    a, b = await net.pair()
    sent = 0
    while sent < 1000:
        if a.carrier.backlog(b.id) < 1 << 20:
            a.send(b, parcel(sent, 8 * 1024))
            sent += 1
        else:
            await trio.sleep(0.05)
    await trio.sleep(5)
    assert sorted(b.numbers) == list(range(1000))
    assert a.downs == b.downs == []


@from_stock_too
@in_virtual_time
async def test_ten_percent_loss_delays_but_delivers(net: Net) -> None:
    a, b = await net.pair()
    net.loss = 0.1
    for number in range(40):
        a.send(b, parcel(number, 4096))
        b.send(a, Say(number))
    await trio.sleep(60)
    assert sorted(b.numbers) == list(range(40))
    assert a.numbers == list(range(40))


@from_stock_too
@pytest.mark.parametrize("seed", range(5))
@in_virtual_time
async def test_links_come_up_under_loss_and_parcels_wait_for_them(net: Net, seed: int) -> None:
    net._rng.seed(seed)
    net.loss = 0.15
    a, b = await net.node(1), await net.node(2)

    def greet(_peer: NodeId, what: Happening) -> None:
        for number in range(5 if isinstance(what, LinkUp) else 0):
            b.send(a, parcel(number))

    b.on_heard = greet
    while not b.links:
        a.dial(b)
        await trio.sleep(3.1)
    await trio.sleep(60)
    assert {type(h) for _, h in a.heard} >= {LinkUp, Parcel}
    assert set(a.numbers) == set(range(5))


@in_virtual_time
async def test_messages_above_the_limit_wait_at_the_sender(net: Net) -> None:
    a, b = await net.pair()
    for number in range(800):
        a.send(b, Say(number))
    await trio.sleep(1)
    assert CONTROL_BURST * 0.9 < len(b.numbers) < 700
    await trio.sleep(10)
    assert b.numbers == list(range(800))
    assert b.downs == []


@from_stock_too
@in_virtual_time
async def test_a_flooder_is_cut_off(net: Net) -> None:
    a, b = await net.pair()
    engine, codec = a.link(b)._engine, a.link(b)._codec
    for number in range(2000):
        engine.send_stream_data(0, frame(codec.pack(Say(number))))
    a.send(b, Say(1))
    await trio.sleep(2)
    assert b.downs == ["flood"]
    assert a.downs == ["peer_flood"]
    assert len(b.numbers) == CONTROL_BURST


@from_stock_too
@in_virtual_time
async def test_s12_slow_parcels_are_stopped_and_their_slots_free_again(net: Net) -> None:
    a, b = await net.pair()
    engine = a.link(b)._engine
    for _ in range(INCOMING_PARCELS_MAX):
        engine.send_stream_data(engine.get_next_available_stream_id(is_unidirectional=True), b"x")
    a.send(b, Say(0))
    a.send(b, parcel(1))
    await trio.sleep(2.9)
    assert b.numbers == [0], "all slots are taken"
    await trio.sleep(1)
    assert b.link(a).counters.slow == INCOMING_PARCELS_MAX
    assert b.numbers == [0, 1]
    assert a.links == b.links == 1


@from_stock_too
@in_virtual_time
async def test_who_ignores_that_a_parcel_was_stopped_is_cut_off(net: Net) -> None:
    class Stubborn(net.engines[1]):  # type: ignore[misc, name-defined]
        def _handle_stop_sending_frame(self, _context: Any, _kind: int, buf: Any) -> None:
            buf.pull_uint_var()
            buf.pull_uint_var()

    a, b = await net.node(1, engine=Stubborn), await net.node(2)
    a.dial(b)
    await trio.sleep(1)
    engine = a.link(b)._engine
    stream_id = engine.get_next_available_stream_id(is_unidirectional=True)
    engine.send_stream_data(stream_id, b"x")
    a.send(b, Say(0))
    await trio.sleep(12)
    assert b.downs == []
    await trio.sleep(2)
    assert b.downs == ["slow_parcels"]


@from_stock_too
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00",
        b"\x00\x00rest",
        b"\x40\x00short",
        b"\x00\x03\x92\x28\x01",
        frame(b"\x93\x28\x01\xa0") + b"x" * (PARCEL_BODY_BYTES_MAX + 1),
        b"\x93" * 60_000,
    ],
    ids=["empty", "one byte", "no header", "cut", "not a message", "long body", "long"],
)
@in_virtual_time
async def test_a_bad_parcel_ends_the_link(net: Net, data: bytes) -> None:
    a, b = await net.pair()
    engine = a.link(b)._engine
    stream_id = engine.get_next_available_stream_id(is_unidirectional=True)
    engine.send_stream_data(stream_id, data, end_stream=True)
    a.send(b, Say(0))
    await trio.sleep(5)
    assert (b.downs, a.downs) == (["bad_message"], ["peer_bad_message"])


@from_stock_too
@pytest.mark.parametrize(
    "data", [frame(b"\x01"), frame(b"\x93\x01\xa0\xa0\x00"), b"\xff\xff", frame(b"")]
)
@in_virtual_time
async def test_a_bad_message_ends_the_link(net: Net, data: bytes) -> None:
    a, b = await net.pair()
    a.send(b, Say(1))
    await trio.sleep(1)
    a.link(b)._engine.send_stream_data(0, data)
    a.send(b, Say(2))
    await trio.sleep(5)
    assert (b.downs, a.downs) == (["bad_message"], ["peer_bad_message"])
    assert b.numbers == [1]


@from_stock_too
@in_virtual_time
async def test_ending_the_control_stream_ends_the_link(net: Net) -> None:
    acts: list[Callable[[Engine], None]] = [
        lambda engine: engine.send_stream_data(0, b"", end_stream=True),
        lambda engine: engine.reset_stream(0, 1),
        lambda engine: engine.stop_stream(0, 1),
    ]
    for number, act in enumerate(acts):
        a, b = await net.node(10 + 2 * number), await net.node(11 + 2 * number)
        a.dial(b)
        await trio.sleep(1)
        act(a.link(b)._engine)
        a.carrier._endpoint.touch(a.link(b))
        await trio.sleep(1)
        assert b.downs == ["bad_message"], number


@from_stock_too
@in_virtual_time
async def test_s13_a_peer_that_reads_nothing_costs_at_most_the_queue(net: Net) -> None:
    a, b = await net.pair()
    engine: Any = b.link(a)._engine
    for gives_credit in ("_write_connection_limits", "_grant"):
        setattr(engine, gives_credit, lambda *_args, **_named: None)
    for number in range(1500):
        a.send(b, parcel(number), trio.current_time() + 30)
        if number % 100 == 0:
            await trio.sleep(1)
    assert a.carrier.backlog(b.id) <= QUEUE_BYTES_MAX
    assert a.link(b).counters.overflowed > 0
    await trio.sleep(31)
    assert a.carrier.backlog(b.id) == 0


@in_virtual_time
async def test_a_carrier_that_runs_for_long_does_not_grow(net: Net) -> None:
    a, b = await net.pair()
    c = Node(3)

    async def live(rounds: int) -> int:
        for number in range(rounds):
            a.send(b, parcel(number), trio.current_time() + 1)
            b.send(a, Say(number))
            if number % 10 == 0:
                a.dial(c, ("10.0.0.99", 1))
            a.heard.clear()
            b.heard.clear()
            await trio.sleep(0.2)
        await trio.sleep(10)
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        before = await live(20)
        after = await live(30)
    finally:
        tracemalloc.stop()
    assert after - before < 50_000
    assert len(a.carrier._endpoint._timers) < 20
    assert len(a.carrier._endpoint._by_cid) < 30
