"""A build that is broken on purpose is caught, each way by the checker that is there for it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

import pytest

from p2pstream.core import Push
from p2pstream.dht.lookup import Lookup
from p2pstream.dht.table import RoutingTable
from p2pstream.errors import Misbehaviour
from p2pstream.identity import NodeId
from p2pstream.net.doorman import Bans
from p2pstream.playback.playout import Playout
from p2pstream.stream import window
from p2pstream.stream.merkle import Proven
from p2pstream.swarm import partners
from p2pstream.swarm.partners import Candidate, Candidates
from p2pstream.swarm.protocol import Swarm
from p2pstream.swarm.taker import Taker
from simulations import checkers
from simulations.checkers import Checker, Verdict
from simulations.fabric import carrier
from simulations.fabric.carrier import Carrier
from simulations.fabric.dice import secret
from simulations.fabric.light import Light
from simulations.simulation import Simulation
from tests.simulations.small import run, scenario, verdict, watched_by

Patch = pytest.MonkeyPatch
HOMES = {"name": "homes", "n": 4, "arrive": {"law": "cold"}}
POLLUTER = {"name": "bad", "n": 2, "behaviour": "polluter", "up_kbps": 600}
# Homes that give nothing, so that polluters are asked too; who can say little themselves.
POLLUTED = (HOMES | {"copies": 0}, POLLUTER)
POLLUTED_PHASES = {"warm_up_s": 3, "chaos_s": 7, "check_s": 2}  # Convicts need time to be back.


def test_a_healthy_build_passes_all() -> None:
    outcome = run()
    assert [v for v in outcome.verdicts if not v.passed] == []
    assert outcome.figures["viewers_playing"] == 4


def test_verification_switched_off(monkeypatch: Patch) -> None:
    monkeypatch.setattr(Proven, "shows", lambda *_: True)
    told = watched_by(checkers.OnlyVerified(), *POLLUTED, phases=POLLUTED_PHASES)
    assert not told.passed
    assert "other bytes" in told.detail


def test_playout_goes_back(monkeypatch: Patch) -> None:
    take = Playout.take

    def again(self: Playout, *, now: float) -> Iterator[int]:
        for seq in take(self, now=now):
            yield seq
            yield seq

    monkeypatch.setattr(Playout, "take", again)
    assert not watched_by(checkers.Monotone()).passed


def test_a_table_leaks(monkeypatch: Patch) -> None:
    monkeypatch.setattr(window.Window, "_evict", lambda _: None)
    long = {"warm_up_s": 3, "chaos_s": 12, "check_s": 2}
    told = watched_by(checkers.Bounded(), phases=long)
    assert not told.passed
    assert "window, heads" in told.detail


def test_candidates_leak(monkeypatch: Patch) -> None:
    """Nobody is known again, and nobody is ever forgotten. (The limit is soon reached here.)"""

    def learn(self: Candidates, node: NodeId, addresses: Any) -> None:
        self._known[NodeId(secret(len(self), node))] = Candidate(node, tuple(addresses))

    for module in (partners, checkers):
        monkeypatch.setattr(module, "CANDIDATES_MAX", 9)
    assert watched_by(checkers.Bounded()).passed
    monkeypatch.setattr(Candidates, "learn", learn)
    assert "candidates: " in watched_by(checkers.Bounded()).detail


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
    """A first answer as long as five first flights. A crowd that proves itself excuses nothing."""
    monkeypatch.setattr(carrier, "SERVER_FLIGHT_BYTES", 5 * carrier.FLIGHT_BYTES)
    told = watched_by(checkers.NoAmplifier())
    assert not told.passed
    assert "5.0 times" in told.detail


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
        if isinstance(effect, Push) and self.rng.random() < 0.3:
            return
        push(self, effect)

    def ask(self: Taker, wanted: Iterable[Any]) -> None:
        """Not."""

    monkeypatch.setattr(Light, "_perform_swarm", forgetful)
    monkeypatch.setattr(Taker, "_ask", ask)
    monkeypatch.setattr(checkers, "SETTLE_S", 3.0)
    monkeypatch.setattr(checkers, "STALLED_S_MAX", 0.5)
    monkeypatch.setattr(checkers, "STALLS_MAX", 0)
    watching: list[Checker] = [checkers.EveryonePlays(), checkers.LateIsPulled()]
    short = {"warm_up_s": 3, "chaos_s": 3, "check_s": 2}
    outcome = Simulation(scenario(phases=short), 1, checkers=watching).run()
    assert not verdict(outcome, "every honest viewer plays").passed
    assert not verdict(outcome, "late parents are repaired").passed


def pollution() -> Verdict:
    return watched_by(checkers.PollutersAreOut(), *POLLUTED, phases=POLLUTED_PHASES)


def test_polluters_that_are_convicted_are_out() -> None:
    told = pollution()
    assert told.passed
    assert not told.detail.startswith("0 "), "otherwise the tests below test nothing"


def test_nobody_is_convicted_of_pollution(monkeypatch: Patch) -> None:
    """A wrong piece is thrown away, and its sender stays."""
    accept = Swarm._accept_piece

    def meek(self: Swarm, partner: Any, header: Any, body: bytes, now: float) -> None:
        with suppress(Misbehaviour):
            accept(self, partner, header, body, now)

    monkeypatch.setattr(Swarm, "_accept_piece", meek)
    told = pollution()
    assert not told.passed
    assert "whose wrong piece came at" in told.detail


def test_convicts_are_let_in_again(monkeypatch: Patch) -> None:
    """The link ends, but no ban holds: polluters are back at once."""
    monkeypatch.setattr(Bans, "holds", lambda *_, **__: False)
    assert not pollution().passed


def test_look_ups_that_stop_at_the_first_answer(monkeypatch: Patch) -> None:
    monkeypatch.setattr(checkers, "SETTLE_S", 3.0)
    told = watched_by(checkers.LookupsFindClosest())
    assert told.passed
    assert told.detail.endswith(" %"), "somebody was asked"
    over = Lookup.over

    def hasty(self: Lookup, *, now: float) -> bool:
        return self.answers > 0 or over(self, now=now)

    monkeypatch.setattr(Lookup, "over", hasty)
    assert not watched_by(checkers.LookupsFindClosest()).passed


def test_nodes_that_answer_look_ups_with_nobody(monkeypatch: Patch) -> None:
    monkeypatch.setattr(checkers, "SETTLE_S", 3.0)
    monkeypatch.setattr(RoutingTable, "closest", lambda *_, **__: [])
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
