"""Physics of whole nodes against known answers: rates, round trips, loss, NATs; real QUIC."""

from __future__ import annotations

from math import sqrt
from statistics import fmean

import pytest
import trio

from p2pstream.core import Parcel, Send
from p2pstream.net import congestion
from p2pstream.net.mtu import ETHERNET_BYTES
from simulations.fabric import trace as tr
from simulations.fabric.nat import Kind
from tests.simulations.pair import Bench, piece
from tests.simulations.wires import Wires, goodput_bps

MBIT = 1e6


@pytest.mark.parametrize("pumped", [True, False], ids=["pump", "tasks"])
def test_one_flow_fills_nine_tenths_of_ten_megabits(*, pumped: bool) -> None:
    """With our pump as with the endpoint's own tasks."""
    wires = Wires(pumped=pumped)
    a, b = wires.host(up_bps=10 * MBIT), wires.host()
    assert 0.9 * 10 * MBIT < goodput_bps(wires, a, b, for_s=3.0) < 10 * MBIT


@pytest.mark.parametrize("rtt_s", [0.01, 0.1, 0.3])
def test_a_round_trip_is_exact(rtt_s: float) -> None:
    wires = Wires(rtt_s=rtt_s)
    a, b = wires.host(), wires.host()
    events = wires.world.trace.recorded = []

    async def script() -> None:
        a.dial(b)
        await trio.sleep(3.0)
        link = a.link(b)
        assert link is not None
        assert link.rtt_s == pytest.approx(rtt_s, abs=5e-3)

    wires.run(script)
    wires.world.trace.digest()  # Until then the latest events are not recorded.
    there, back = (
        next(when for when, kind, who, *_ in events if (kind, who) == (tr.DATAGRAM, host.number))
        for host in (b, a)
    )
    assert there == pytest.approx(rtt_s / 2, abs=1e-9)
    assert back == pytest.approx(rtt_s, abs=1e-9)


def test_reno_follows_mathis_at_one_per_cent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mathis et al. 1997: MSS / RTT * sqrt(3 / 2p); QUIC's window grows by bytes, so b is 1. Our
    own controller takes loss for weather, and would not.
    """
    monkeypatch.setattr(congestion, "NAME", "reno")

    def rate(seed: int) -> float:
        wires = Wires(rtt_s=0.1, seed=seed)
        return goodput_bps(wires, wires.host(loss=0.01), wires.host(), for_s=16.0)

    assert fmean(map(rate, range(1, 6))) == pytest.approx(mathis_bps(0.1, 0.01), rel=0.2)


def test_our_own_controller_does_not_mind_one_per_cent() -> None:
    wires = Wires()
    a, b = wires.host(up_bps=10 * MBIT, loss=0.01), wires.host()
    assert goodput_bps(wires, a, b, for_s=3.0) > 1.5 * mathis_bps(wires.rtt_s, 0.01)


def mathis_bps(rtt_s: float, loss: float) -> float:
    return 8 * ETHERNET_BYTES / rtt_s * sqrt(3 / 2 / loss)


@pytest.mark.parametrize("rtt_s", [0.04, 0.15])
def test_a_piece_takes_about_as_long_over_the_light_carrier(rtt_s: float) -> None:
    """Over a link that is not young. QUIC paces what the light carrier sends at once."""
    body, times = bytes(12_500), 5
    wires, bench = Wires(rtt_s=rtt_s), Bench(rtt_s=rtt_s)
    a, b = wires.host(up_bps=10 * MBIT), wires.host()
    c, d = bench.ear(up_bps=10 * MBIT), bench.ear()

    async def script() -> None:
        a.dial(b)
        for _ in range(times):
            await trio.sleep(1.0)
            a.quic.perform(Send(b.node, Parcel(piece(), body)))
        await trio.sleep(1.0)

    wires.run(script)
    bench.link(c, d)
    for _ in range(times):
        c.carrier.perform(Send(d.node, Parcel(piece(), body)))
        bench.world.run_until(bench.world.now + 1.0)
    quic, light = (
        next(at for at, h in reversed(host.heard) if isinstance(h, Parcel)) % 1.0 for host in (b, d)
    )
    assert quic == pytest.approx(light, abs=0.2 * rtt_s)


@pytest.mark.parametrize(
    ("one", "other", "connects"),
    [
        (Kind.CONE, Kind.CONE, True),
        (Kind.CONE, Kind.SYMMETRIC, False),
        (Kind.SYMMETRIC, Kind.SYMMETRIC, False),
    ],
    ids=lambda value: getattr(value, "value", ""),
)
def test_nat_pairings(one: Kind, other: Kind, *, connects: bool) -> None:
    """After a rendezvous both dial where the third saw the other (RFC 5128 3.3)."""
    wires = Wires()
    third, a, b = wires.host(), wires.host(kind=one), wires.host(kind=other)

    async def script() -> None:
        a.dial(third)
        b.dial(third)
        await trio.sleep(1.0)
        seen_a, seen_b = third.link(a), third.link(b)
        assert seen_a is not None
        assert seen_b is not None
        a.dial(b, seen_b.address)
        b.dial(a, seen_a.address)
        await trio.sleep(4.0)
        assert (a.link(b) is not None) is connects
        assert (b.link(a) is not None) is connects

    wires.run(script)
