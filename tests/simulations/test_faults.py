"""Each fault, behaviour, arrival and NAT does what its name says, and tells what it touched."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest

from p2pstream.core import LinkDown, Parcel, Send
from p2pstream.dht.messages import Ping, Providers
from simulations import laws
from simulations.behaviours import twist_of
from simulations.checkers import FaultsBite
from simulations.fabric.carrier import Cut
from simulations.fabric.nat import Kind, Nat
from simulations.scenario import Flash, Group, Steady, Zap
from simulations.simulation import Simulation
from tests.simulations.pair import Bench, Ear, piece
from tests.simulations.small import run, scenario, verdict

COLD = {"law": "cold"}
HOMES = {"name": "homes", "n": 5, "arrive": COLD}


def pings(ear: Ear) -> list[tuple[float, int]]:
    return [(round(at, 3), h.rid) for at, h in ear.heard if isinstance(h, Ping)]


def pair() -> tuple[Bench, Ear, Ear]:
    bench = Bench()
    a, b = bench.ear(up_bps=float("inf")), bench.ear(up_bps=float("inf"))
    bench.link(a, b)
    return bench, a, b


def say(a: Ear, b: Ear, rid: int) -> None:
    a.carrier.perform(Send(b.node, Ping(rid)))


def test_one_way_they_still_hear() -> None:
    bench, a, b = pair()
    cut = Cut(frozenset([a.number]), frozenset([b.number]), one_way=True)
    bench.network.cuts.append(cut)
    say(a, b, 1)
    say(b, a, 2)
    bench.world.run_until(2.0)
    assert (pings(a), pings(b)) == ([(1.02, 2)], [])
    assert cut.stopped


def test_a_jam_holds_everything_and_loses_nothing() -> None:
    bench, a, b = pair()
    jam = Cut(frozenset([a.number]), frozenset([b.number]), until=5.0)
    bench.network.jams.append(jam)
    say(a, b, 1)
    bench.world.at(3.0, say, b, a, 2)
    bench.world.at(5.0, bench.network.jams.remove, jam)
    bench.world.at(5.1, say, a, b, 3)
    bench.world.run_until(7.0)
    assert pings(b) == [(5.02, 1), (5.12, 3)]
    assert pings(a) == [(5.02, 2)]
    assert bench.network.lost == 0
    assert jam.stopped == 2


def test_no_handshake_through_a_jam() -> None:
    bench = Bench()
    a, b = bench.ear(), bench.ear()
    bench.network.jams.append(Cut(frozenset([0]), frozenset([1]), until=9.0))
    bench.dial(a, b)
    bench.world.run_until(6.0)
    assert [h for _, h in a.heard] == [LinkDown("dial_timeout")]


def test_many_behind_one_address() -> None:
    """Others tell them apart by their ports; among themselves they do not connect."""
    bench = Bench()
    ears = bench.ear(), bench.ear(kind=Kind.CGNAT), bench.ear(kind=Kind.CGNAT)
    third, a, b = ears
    for nth, ear in enumerate((a, b)):
        ear.carrier.nat = Nat(Kind.CGNAT, "21.0.0.1", port=2048 + 1984 * nth)
        bench.network.behind["21.0.0.1", ear.carrier.nat.port] = ear
        bench.link(ear, third)
    assert [third.carrier.links[ear.node].address for ear in (a, b)] == [
        ("21.0.0.1", 2048),
        ("21.0.0.1", 4032),
    ]
    say(third, b, 7)
    bench.world.run_until(bench.world.now + 1)
    assert ([r for _, r in pings(a)], [r for _, r in pings(b)]) == ([], [7])


def test_hosts_of_a_provider_share_addresses() -> None:
    sim = Simulation(scenario(HOMES | {"n": 40, "nat": "cgnat"}), 1, checkers=[])
    nats = [peer.carrier.nat for peer in sim.peers[2:]]
    assert len({nat.ip for nat in nats}) == 2
    assert len({(nat.ip, nat.port) for nat in nats}) == 40
    assert max(nat.port for nat in nats) < 65536
    moved = sim.peers[2]
    sim.population.move(moved)
    assert sim.network.at((moved.carrier.nat.ip, moved.carrier.nat.port)) is moved


@pytest.fixture
def trace(tmp_path: Path) -> str:
    path = tmp_path / "slow.json"
    path.write_text(json.dumps([[400, 1.0], [0, 0.5]]))
    return str(path)


def test_every_fault_touches_something(trace: str) -> None:
    """All but those that kill, in one run."""
    homes: dict[str, Any] = {"group": "homes", "share": 0.5}
    faults = [
        {"kind": "dht_outage", "for_s": 3},
        {"kind": "hang", "for_s": 0.5, **homes},
        {"kind": "move", **homes},
        {"kind": "bandwidth", "factor": 0.5, "for_s": 1, **homes},
        {"kind": "bandwidth_trace", "file": trace, "for_s": 2, **homes},
        {"kind": "loss_burst", "loss": 0.3, "for_s": 1, **homes},
        {"kind": "clock_jump", "by_s": -2, **homes},
        {"kind": "latency_step", "add_ms": 50, "for_s": 1},
        {"kind": "partition", "for_s": 1, **homes},
        {"kind": "partition", "for_s": 1, "one_way": True, **homes},
        {"kind": "partition", "for_s": 1, "jammed": True, **homes},
        {"kind": "link_flap", "for_s": 2, "every_s": 1, "down_s": 0.3, **homes},
        {"kind": "mass_leave", "group": "guests"},
        {"kind": "seed_crash", "down_s": 1},
    ]  # fmt: skip
    faults = [{**fault, "at_s": nth * 0.3} for nth, fault in enumerate(faults)]
    guests = {"name": "guests", "n": 2, "arrive": COLD}
    phases = {"warm_up_s": 0.5, "chaos_s": 6, "check_s": 2}  # Look-ups are made in the beginning.
    outcome = run(HOMES, guests, faults=faults, phases=phases)
    assert [(f.kind, f.touched) for f in outcome.faults if f.touched == 0] == []
    assert verdict(outcome, "every fault").passed
    assert verdict(outcome, "no byte appears").passed, verdict(outcome, "no byte appears").detail


def test_another_machine_takes_over() -> None:
    crash = {"kind": "origin_crash", "at_s": 1, "down_s": 1, "take_over": True}
    phases = {"warm_up_s": 3, "chaos_s": 3, "heal_s": 4, "check_s": 2}
    sim = Simulation(scenario(HOMES, faults=[crash], phases=phases), 1)
    before, ticket = sim.origin.node, sim.ticket()
    outcome = sim.run()
    assert sim.origin.node != before
    assert sim.ticket() == ticket, "a ticket that is out does not change"
    assert outcome.figures["viewers_playing"] == 5
    assert outcome.coverage["new_epoch"] >= 5


def test_zappers_come_look_in_and_some_stay() -> None:
    group = Group(name="z", arrive=Zap(over_s=5, at_s=1, look_s=4, away_s=8, stays=0.25))
    stays = [laws.stays_s(group, 1, f"z/{n}", 1) for n in range(2000)]
    looks = [stay for stay in stays if stay is not None]
    assert 0.22 < 1 - len(looks) / 2000 < 0.28
    assert sum(looks) / len(looks) == pytest.approx(4, rel=0.1)
    away = [laws.away_s(group, 1, f"z/{n}", 1) or 0.0 for n in range(2000)]
    assert sum(away) / 2000 == pytest.approx(8, rel=0.1)
    zap = {"law": "zap", "over_s": 2, "look_s": 1, "away_s": 1, "stays": 0}
    outcome = run(HOMES | {"n": 3, "arrive": zap})
    assert outcome.coverage["returned"] > 0


def crooks(behaviour: str, n: int = 3, **keys: Any) -> dict[str, Any]:
    return {"name": behaviour, "n": n, "behaviour": behaviour, "arrive": COLD, **keys}


def test_a_slow_loris_sends_every_piece_too_late() -> None:
    bench, a, b = pair()
    a.twist = twist_of("slow_loris", a, list)
    a._say(Send(b.node, Parcel(piece(), b"body"), bench.world.now + 0.5))
    a._say(Send(b.node, Ping(1)))
    bench.world.run_until(6.0)
    assert [(round(at, 1), type(h)) for at, h in b.heard] == [(1.0, Ping), (4.0, Parcel)]
    assert a.twisted == 1


def test_those_in_league_name_only_each_other() -> None:
    sim = Simulation(scenario(HOMES, crooks("sybil", 2), crooks("eclipse", 2)), 1)
    outcome = sim.run()
    assert outcome.figures["viewers_playing"] == 5
    sybils, eclipse = (
        [peer for peer in sim.peers if peer.group == group] for group in ("sybil", "eclipse")
    )
    assert all(peer.twisted for peer in (*sybils, *eclipse))
    assert len({peer.carrier.nat.ip.rpartition(".")[0] for peer in sybils}) == 1
    shared = [256 - (peer.node ^ sim.studio.stream).bit_length() for peer in eclipse]
    assert min(shared) >= 5, "of 256 keys the nearest"
    twist = twist_of("eclipse", eclipse[0], lambda: eclipse)
    assert twist is not None
    told = twist(Send(sybils[0].node, Providers(1, (b"x",), (), bytes(8))))
    assert told is not None
    assert isinstance(told.message, Providers)
    assert told.message.records == ()
    named = [contact.contact().node for contact in told.message.contacts]
    assert named == [peer.node for peer in eclipse]


def test_liars_who_never_say_a_word_fail_the_run() -> None:
    sim = Simulation(scenario(HOMES, crooks("liar")), 1, checkers=[FaultsBite()])
    sim.world.run_until(0.001)
    (told,) = sim.checkers[0].finish()
    assert not told.passed
    assert "liar (liar) twisted no word" in told.detail


def test_one_host_less_leaves_the_choice_of_the_others() -> None:
    """Of whom a fault hits."""

    def hit(n: int) -> set[str]:
        fault = {"kind": "hang", "at_s": 1, "group": "homes", "share": 0.5, "for_s": 1}
        sim = Simulation(scenario(HOMES | {"n": n}, faults=[fault]), 1, checkers=[])
        for peer in sim.peers:
            peer.alive = True
        return {peer.name for peer in sim.faults._hit(sim.scenario.faults[0])}

    few, many = hit(10), hit(11)
    assert len(few - many) <= 1


def test_a_flash_is_a_flash() -> None:
    """Of zappers the first arrivals are those of a crowd."""
    crowd, zappers = Flash(over_s=3, at_s=2), Zap(over_s=3, at_s=2)
    assert laws.arrivals(crowd, 9, Random(4)) == laws.arrivals(zappers, 9, Random(4))


def test_a_steady_stream_of_guests_is_as_steady_at_its_end() -> None:
    """Each comes in an interval of its own; it is not the spread that grows with their number."""
    times = laws.arrivals(Steady(at_s=2, apart_s=0.1), 1000, Random(4))
    assert times == sorted(times)
    assert times[0] == 2
    assert all(abs(at - 2 - nth * 0.1) <= 0.05 + 1e-9 for nth, at in enumerate(times))
