"""A build that is broken on purpose is caught, each way by the checker that is there for it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from p2pstream.errors import Misbehaviour
from p2pstream.playback.playout import Playout
from p2pstream.stream import window
from p2pstream.swarm.partners import Candidates
from p2pstream.swarm.protocol import Swarm
from p2pstream.swarm.taker import Taker
from simulations import checkers
from simulations.fabric.carrier import Carrier
from simulations.fabric.light import Light
from tests.simulations.small import run, verdict, watched_by

Patch = pytest.MonkeyPatch
HOMES = {"name": "homes", "n": 4, "arrive": {"law": "cold"}}
POLLUTER = {"name": "bad", "n": 1, "behaviour": "polluter"}


def test_a_healthy_build_passes_all() -> None:
    outcome = run()
    assert [v for v in outcome.verdicts if not v.passed] == []
    assert outcome.figures["viewers_playing"] == 4


def test_verification_switched_off(monkeypatch: Patch) -> None:
    monkeypatch.setattr(window, "proves", lambda *_: True)
    told = watched_by(checkers.OnlyVerified(), HOMES, POLLUTER)
    assert not told.passed
    assert "other bytes" in told.detail


def test_playout_goes_back(monkeypatch: Patch) -> None:
    take = Playout.take

    def again(self: Playout, *, now: float) -> list[int]:
        taken = take(self, now=now)
        return taken * 2

    monkeypatch.setattr(Playout, "take", again)
    assert not watched_by(checkers.Monotone()).passed


def test_a_table_leaks(monkeypatch: Patch) -> None:
    monkeypatch.setattr(window.Window, "_evict", lambda _: None)
    long = {"warm_up_s": 3, "chaos_s": 12, "check_s": 2}
    told = watched_by(checkers.Bounded(), phases=long)
    assert not told.passed
    assert "window, heads" in told.detail


def test_candidates_leak(monkeypatch: Patch) -> None:
    monkeypatch.setattr(Candidates, "__len__", lambda _: 10_000)
    assert "candidates" in watched_by(checkers.Bounded()).detail


def test_bytes_vanish(monkeypatch: Patch) -> None:
    waste = Carrier._waste

    def forget(self: Carrier, wire: int) -> None:
        waste(self, wire)
        self.network.lost -= wire // 2

    monkeypatch.setattr(Carrier, "_waste", forget)
    assert not watched_by(checkers.Conserved(), HOMES | {"loss": 0.05}).passed


def test_a_piece_in_two_states(monkeypatch: Patch) -> None:
    accept = Swarm._accept_piece

    def keep(self: Swarm, partner: Any, header: Any, body: bytes, now: float) -> None:
        accept(self, partner, header, body, now)
        partner.asked[header.seq, header.rendition, header.index] = now

    monkeypatch.setattr(Swarm, "_accept_piece", keep)
    assert not watched_by(checkers.OneState()).passed


def test_a_core_that_spins(monkeypatch: Patch) -> None:
    woken: dict[Swarm, float] = {}
    wake = Swarm.wake

    def note(self: Swarm, *, now: float) -> None:
        woken[self] = now
        wake(self, now=now)

    monkeypatch.setattr(Swarm, "wake", note)
    monkeypatch.setattr(Swarm, "wake_at", lambda self: woken.get(self, 0.0))
    quick = {"warm_up_s": 1, "chaos_s": 1, "check_s": 2}
    assert not watched_by(checkers.NoSpin(), phases=quick).passed


def test_an_amplifier(monkeypatch: Patch) -> None:
    called = Carrier.called

    def amplify(self: Carrier, *arguments: Any) -> None:
        called(self, *arguments)
        self.traffic.unvalidated_out += 5000

    monkeypatch.setattr(Carrier, "called", amplify)
    assert not watched_by(checkers.NoAmplifier()).passed


def test_an_honest_node_is_convicted(monkeypatch: Patch) -> None:
    accept = Swarm._accept_piece

    def doubt(self: Swarm, partner: Any, header: Any, body: bytes, now: float) -> None:
        if header.seq % 7 == 0:
            raise Misbehaviour("a piece that is good")
        accept(self, partner, header, body, now)

    monkeypatch.setattr(Swarm, "_accept_piece", doubt)
    assert not watched_by(checkers.HonestAreInnocent()).passed


def test_the_repair_path_is_dropped(monkeypatch: Patch) -> None:
    """Nobody pulls, and parents forget pieces: viewers stall and ask nobody."""
    push = Light._perform_swarm

    def forgetful(self: Light, effect: Any) -> None:
        if getattr(getattr(effect, "message", None), "body", b"") and self.rng.random() < 0.3:
            return
        push(self, effect)

    def ask(self: Taker, wanted: Iterable[Any]) -> None:
        """Not."""

    monkeypatch.setattr(Light, "_perform_swarm", forgetful)
    monkeypatch.setattr(Taker, "_ask", ask)
    long = {"warm_up_s": 3, "chaos_s": 3, "check_s": 2}
    monkeypatch.setattr(checkers, "SETTLE_S", 3.0)
    monkeypatch.setattr(checkers, "STALLED_S_MAX", 0.5)
    assert not watched_by(checkers.EveryonePlays(), phases=long).passed


def test_nobody_is_convicted_of_pollution(monkeypatch: Patch) -> None:
    """A polluter that is convicted and stays a partner."""
    monkeypatch.setattr(Carrier, "hang_up", lambda *_, **__: None)
    monkeypatch.setattr(checkers.PollutersAreOut, "sample", _ban_all)
    assert not watched_by(checkers.PollutersAreOut(), HOMES, POLLUTER).passed


def _ban_all(self: checkers.PollutersAreOut) -> None:
    """The ban holds, but the link goes on."""
    for number, whom in self.guilty:
        peer = self.sim.peers[number]
        if not peer.carrier.bans.holds(whom, now=self.sim.world.now):
            peer.carrier.bans.add(whom, now=self.sim.world.now)


def test_look_ups_that_find_nothing(monkeypatch: Patch) -> None:
    def few(self: Light, bootstrap: Any) -> None:
        start(self, bootstrap)
        self.dht_dropped = -1

    start = Light.start
    monkeypatch.setattr(Light, "start", few)
    monkeypatch.setattr(checkers, "CLOSEST_WANTED", 1.1)
    assert not watched_by(checkers.LookupsFindClosest()).passed


def test_a_fault_that_touches_nothing_fails() -> None:
    nobody = {"name": "nobody", "n": 1, "arrive": {"law": "steady", "at_s": 100}}
    kill = {"kind": "kill", "at_s": 1, "group": "nobody"}
    outcome = run(HOMES, nobody, faults=[kill])
    assert "kill at 4 s touched no hosts" in verdict(outcome, "every fault").detail


def test_a_bound_that_is_broken() -> None:
    outcome = run(expect={"lag_s_p95": {"max": 0.01}, "by_class.homes.continuity": {"min": 0.5}})
    assert not verdict(outcome, "lag_s_p95").passed
    assert verdict(outcome, "by_class.homes.continuity").passed
    assert not outcome.passed


def test_what_never_happened() -> None:
    sometimes = checkers.Sometimes(["pull", "banned"])
    sometimes.add({"pull": 2})
    assert [v.passed for v in sometimes.verdicts()] == [True, False]
