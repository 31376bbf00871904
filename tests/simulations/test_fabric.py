"""Physics against known answers: rates, round trips, NATs, losses, clocks."""

from __future__ import annotations

from itertools import product
from random import Random

import pytest

from p2pstream.core import LinkDown, LinkUp, Parcel, Send
from p2pstream.dht.messages import Ping
from p2pstream.net.tls import IDLE_S
from p2pstream.swarm import messages as m
from simulations.fabric.carrier import size_of
from simulations.fabric.clock import Clock
from simulations.fabric.dice import bell, die, throw
from simulations.fabric.links import Pipe, Rain, Storm
from simulations.fabric.nat import PORT, Kind, Nat
from simulations.fabric.world import Livelock, World
from tests.simulations.pair import Bench, Ear, piece
from tests.wire.every import CODEC, EXAMPLES

MBIT = 1e6


def bodies(ear: Ear) -> list[tuple[float, int]]:
    return [(at, len(h.body)) for at, h in ear.heard if isinstance(h, Parcel)]


def test_one_flow_fills_nine_tenths_of_ten_megabits() -> None:
    bench = Bench()
    a, b = bench.ear(up_bps=10 * MBIT), bench.ear()
    bench.link(a, b)
    began = bench.world.now
    for index in range(200):
        a.carrier.perform(Send(b.node, Parcel(piece(index % 256), bytes(16_000))))
    bench.world.run_until(began + 10.0)
    got = bodies(b)
    seconds = got[-1][0] - began
    rate = 8 * sum(size for _, size in got) / seconds
    assert len(got) == 200
    assert 0.9 * 10 * MBIT <= rate < 10 * MBIT


def test_the_slower_of_both_ends_gives_the_rate() -> None:
    bench = Bench()
    a, b = bench.ear(up_bps=50 * MBIT), bench.ear(down_bps=5 * MBIT)
    bench.link(a, b)
    began = bench.world.now
    for index in range(16):
        a.carrier.perform(Send(b.node, Parcel(piece(index), bytes(16_000))))
    bench.world.run_until(began + 5.0)
    got = bodies(b)
    rate = 8 * sum(size for _, size in got) / (got[-1][0] - began)
    assert len(got) == 16, "what the queue dropped was sent again"
    assert 0.5 * 5 * MBIT < rate < 5 * MBIT


@pytest.mark.parametrize("rtt_s", [0.01, 0.1, 0.3])
def test_a_round_trip_is_exact(rtt_s: float) -> None:
    bench = Bench(rtt_s=rtt_s)
    a, b = (
        bench.ear(up_bps=float("inf"), down_bps=float("inf")),
        bench.ear(up_bps=float("inf"), down_bps=float("inf")),
    )
    bench.link(a, b)
    began = bench.world.now
    a.carrier.perform(Send(b.node, Ping(1)))
    bench.world.run_until(began + 1)
    b.carrier.perform(Send(a.node, Ping(2)))
    there = b.heard[0][0] - began
    assert there == pytest.approx(rtt_s / 2, abs=1e-9)
    sent = bench.world.now
    bench.world.run_until(sent + 1)
    assert there + a.heard[0][0] - sent == pytest.approx(rtt_s, abs=1e-9)
    assert a.carrier.rtt_s(b.node) == pytest.approx(rtt_s)


def test_a_link_takes_two_round_trips_of_the_dialler_and_one_and_a_half_of_the_other() -> None:
    bench = Bench(rtt_s=0.1)
    a, b = bench.ear(), bench.ear()
    bench.dial(a, b)
    bench.world.run_until(1.0)
    up = [next(at for at, h in ear.heard if isinstance(h, LinkUp)) for ear in (a, b)]
    assert up == [pytest.approx(0.2, abs=1e-3), pytest.approx(0.15, abs=1e-3)]
    assert a.carrier.traffic.handshakes_out > 1200
    assert 0 < b.carrier.traffic.amplified <= 3
    assert not b.carrier.unproven, "it has proven its address"


def test_who_starts_anew_under_its_old_identity_need_not_wait_for_idle_timers() -> None:
    """As `QuicCarrier._prefers`: who dials does not have the link that we still have."""
    bench = Bench(rtt_s=0.1)
    a, b = bench.ear(), bench.ear()
    bench.link(a, b)
    a.carrier.vanish()
    bench.world.run_until(bench.world.now + 1.0)
    assert b.heard == []
    bench.dial(a, b)
    bench.world.run_until(bench.world.now + 1.0)

    assert [type(happening) for _, happening in b.heard] == [LinkDown, LinkUp]
    assert b.carrier.links[a.node].twin is a.carrier.links[b.node]
    bench.world.run_until(bench.world.now + 2 * IDLE_S)
    assert a.node in b.carrier.links, "the old link's timer does not end the new one"


def test_of_two_that_dial_each_other_one_link_stays() -> None:
    bench = Bench()
    a, b = bench.ear(), bench.ear()
    bench.dial(a, b)
    bench.dial(b, a)
    bench.world.run_until(1.0)

    assert [[type(happening) for _, happening in ear.heard] for ear in (a, b)] == [[LinkUp]] * 2
    assert b.carrier.links[a.node].twin is a.carrier.links[b.node]


OPEN = (Kind.NONE, Kind.FULL_CONE, Kind.RESTRICTED, Kind.CONE, Kind.SYMMETRIC)


@pytest.mark.parametrize(("one", "other"), list(product(OPEN, OPEN)), ids=lambda kind: kind.value)
def test_nat_pairings(one: Kind, other: Kind) -> None:
    """After a rendezvous both dial where the third saw the other (RFC 5128 3.3)."""
    bench = Bench()
    third, a, b = bench.ear(), bench.ear(kind=one), bench.ear(kind=other)
    bench.link(a, third)
    bench.link(b, third)
    bench.dial(a, b)
    bench.dial(b, a)
    bench.world.run_until(bench.world.now + 4.0)
    strict = {Kind.CONE, Kind.SYMMETRIC}
    hopeless = Kind.SYMMETRIC in {one, other} and {one, other} <= strict
    assert (b.node in a.carrier.links) is not hopeless
    assert (a.node in b.carrier.links) is not hopeless


def test_nobody_comes_in_uninvited_and_udp_may_be_blocked() -> None:
    bench = Bench()
    a, b, c = bench.ear(), bench.ear(kind=Kind.CONE), bench.ear(kind=Kind.BLOCKED)
    bench.dial(a, b)
    bench.dial(c, a)
    bench.world.run_until(5.0)
    assert [h for _, h in a.heard] == [LinkDown("dial_timeout")]
    assert [h for _, h in c.heard] == [LinkDown("dial_timeout")]


def test_a_mapping_ends() -> None:
    nat = Nat(Kind.CONE, "20.0.0.1", timeout_s=30)
    there = ("20.0.0.2", PORT)
    assert nat.out(there, now=0.0) == ("20.0.0.1", PORT)
    assert nat.admits(PORT, there, now=29.0)
    assert not nat.admits(PORT, there, now=31.0)


def test_a_queue_that_is_full_drops() -> None:
    pipe = Pipe(MBIT, queue_bytes=10_000)
    through = [pipe.admit(1000, now=0.0) for _ in range(12)]
    assert through[:10] == [pytest.approx(0.008 * n) for n in range(1, 11)]
    assert through[10:] == [None, None]
    assert pipe.dropped == 2000
    assert pipe.queued(0.04) == pytest.approx(5000)


@pytest.mark.parametrize("weather", [Rain(0.05), Storm(0.05, 4)], ids=["rain", "storm"])
def test_the_weather_loses_what_it_says(weather: Rain | Storm) -> None:
    rng = Random(5)
    lost = sum(weather.lost(14, rng) for _ in range(20_000))
    assert lost / (14 * 20_000) == pytest.approx(0.05, rel=0.08)


def test_lost_packets_cost_time_and_bytes_and_hold_back_what_follows() -> None:
    bench = Bench()
    a, b = bench.ear(loss=0.3), bench.ear()
    bench.dial(a, b)
    bench.world.run_until(5.0)
    assert b.node in a.carrier.links
    b.heard.clear()
    for number in range(50):
        a.carrier.perform(Send(b.node, Ping(number)))
    bench.world.run_until(15.0)
    heard = [h.rid for _, h in b.heard if isinstance(h, Ping)]
    assert heard == list(range(50)), "one ordered stream, nothing missing"
    assert a.carrier.traffic.resent > 0


def test_what_has_expired_is_not_sent() -> None:
    bench = Bench()
    a, b = bench.ear(up_bps=MBIT), bench.ear()
    bench.link(a, b)
    now = bench.world.now
    for index in range(20):
        a.carrier.perform(Send(b.node, Parcel(piece(index), bytes(16_000)), now + 1.0))
    assert a.carrier.backlog(b.node) > 200_000
    bench.world.run_until(now + 5.0)
    assert 6 <= len(bodies(b)) <= 9
    assert a.carrier.traffic.expired == 20 - len(bodies(b))
    assert a.carrier.backlog(b.node) == 0


def test_the_others_learn_of_a_crash_by_their_idle_timer() -> None:
    bench = Bench()
    a, b = bench.ear(), bench.ear()
    bench.link(a, b)
    died = bench.world.now
    a.alive = False
    a.carrier.vanish()
    bench.world.run_until(died + IDLE_S + 1)
    assert [(at - died, h) for at, h in b.heard] == [(IDLE_S, LinkDown("idle_timeout"))]


def test_sizes_are_those_of_the_wire() -> None:
    for message in EXAMPLES.values():
        assert size_of(message) == len(CODEC.pack(message)), type(message).__name__


def test_dice_do_not_depend_on_each_other() -> None:
    assert die(1, "a").random() == die(1, "a").random() != die(2, "a").random()
    throws = [throw(3, n) for n in range(2000)]
    assert sum(throws) / 2000 == pytest.approx(0.5, abs=0.02)
    assert bell(0.5) == pytest.approx(0.0)


def test_clocks_drift_and_are_wrong() -> None:
    clock = Clock(skew_s=2.0, drift=1e-3)
    assert clock.world(clock.local(100.0)) == pytest.approx(100.0)
    assert clock.wall(clock.local(100.0)) == pytest.approx(1_800_000_000 + 102.1)


def test_a_livelock_is_noticed() -> None:
    world = World(1)

    def again() -> None:
        world.at(world.now, again)

    again()
    with pytest.raises(Livelock):
        world.run_until(1.0)


def test_subscriptions_have_a_size() -> None:
    assert size_of(m.Subscribe(bytes(32), 0, 3, 7)) == 1 + 1 + 34 + 3
