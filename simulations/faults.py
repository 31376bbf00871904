"""What goes wrong on purpose. Each fault counts what it touched: none, and the run has failed.

(Partition tests of others were false-green since their faults did nothing: freenet-core#4727.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from p2pstream.identity import NodeKey
from p2pstream.net.tls import IDLE_S
from simulations.fabric import trace as tr
from simulations.fabric.carrier import Cut
from simulations.fabric.dice import die, secret
from simulations.fabric.host import Peer
from simulations.fabric.links import Rain, Storm
from simulations.scenario import (
    Bandwidth,
    ClockJump,
    DhtOutage,
    Fault,
    Hang,
    Kill,
    LatencyStep,
    LossBurst,
    MassLeave,
    Move,
    OriginCrash,
    Partition,
    SeedCrash,
)

if TYPE_CHECKING:
    from simulations.simulation import Simulation


@dataclass(slots=True)
class Report:
    """One fault as it happened. touched: hosts or messages, as `unit` says."""

    kind: str
    from_s: float
    to_s: float
    unit: str = "hosts"
    touched: int = 0


class Faults:
    """Plans the faults of a run and carries them out."""

    def __init__(self, sim: Simulation) -> None:
        self.sim, self.world = sim, sim.world
        self.reports: list[Report] = []
        begin: dict[type[Any], Callable[[Any, Report], None]] = {
            Kill: self._kill, Hang: self._hang, MassLeave: self._mass_leave, Move: self._move,
            Bandwidth: self._bandwidth, LossBurst: self._loss, ClockJump: self._clock,
            LatencyStep: self._latency, Partition: self._partition,
            OriginCrash: self._origin_crash, SeedCrash: self._seed_crash,
            DhtOutage: self._dht_outage,
        }  # fmt: skip
        for fault in sim.scenario.faults:
            start = sim.scenario.measured_from_s + fault.at_s
            kind = str(type(fault).__struct_config__.tag)
            report = Report(kind, start, start + _lasts_s(fault))
            self.reports.append(report)
            self.world.at(start, self._begin, begin[type(fault)], fault, report)

    def _begin(self, do: Callable[[Any, Report], None], fault: Fault, report: Report) -> None:
        do(fault, report)
        self.world.trace.add(self.world.now, tr.FAULT, 0, 0, report.touched)

    def _hit(self, fault: Any) -> list[Peer]:
        """Whom it hits: drawn among those of its group that are there."""
        group = [p for p in self.sim.peers if p.group == fault.group and p.alive]
        wanted = round(fault.share * len(group)) if fault.count is None else fault.count
        rng = die(self.world.seed, "fault", fault.at_s, fault.group, type(fault).__name__)
        hit = rng.sample(group, min(len(group), wanted))
        return sorted(hit, key=lambda peer: peer.number)

    def _later(self, after_s: float, do: Callable[..., None], *args: Any) -> None:
        self.world.at(self.world.now + after_s, do, *args)

    # Hosts.

    def _kill(self, fault: Kill, report: Report) -> None:
        for peer in self._hit(fault):
            peer.stop()
            report.touched += 1
            if fault.restart_after_s is not None:
                self._later(fault.restart_after_s, self._restart, peer, fault.keep_identity)

    def _restart(self, peer: Peer, keep_identity: bool = True) -> None:
        if peer.alive:
            return
        if not keep_identity:
            peer.key = NodeKey(secret(self.world.seed, peer.name, "key", peer.lives))
            peer.node_id = peer.key.node_id
        self.sim.start(peer)

    def _hang(self, fault: Hang, report: Report) -> None:
        for peer in self._hit(fault):
            peer.freeze()
            report.touched += 1
            self._later(fault.for_s, peer.thaw)

    def _mass_leave(self, fault: MassLeave, report: Report) -> None:
        for peer in self._hit(fault):
            peer.leave()
            report.touched += 1

    def _move(self, fault: Move, report: Report) -> None:
        for peer in self._hit(fault):
            peer.away = True
            report.touched += 1
            self._later(fault.gap_s, self._arrive_elsewhere, peer, fault.migrates)

    def _arrive_elsewhere(self, peer: Peer, migrates: bool) -> None:
        peer.away = False
        self.sim.population.move(peer)
        peer.carrier.moved(migrates=migrates)

    def _origin_crash(self, fault: OriginCrash, report: Report) -> None:
        self.sim.origin.stop()
        report.touched = 1
        self._later(fault.down_s, self._restart, self.sim.origin)

    def _seed_crash(self, fault: SeedCrash, report: Report) -> None:
        for peer in self.sim.seeds:
            if peer.alive:
                peer.stop()
                report.touched += 1
                if fault.down_s is not None:
                    self._later(fault.down_s, self._restart, peer)

    def _clock(self, fault: ClockJump, report: Report) -> None:
        for peer in self._hit(fault):
            peer.clock.skew_s += fault.by_s
            report.touched += 1

    # Networks.

    def _bandwidth(self, fault: Bandwidth, report: Report) -> None:
        for peer in self._hit(fault):
            self._scale(peer, fault.factor)
            report.touched += 1
            self._later(fault.for_s, self._scale, peer, 1 / fault.factor)

    def _scale(self, peer: Peer, factor: float) -> None:
        for pipe in (peer.carrier.up, peer.carrier.down):
            pipe.change(pipe.bps * factor, now=self.world.now)

    def _loss(self, fault: LossBurst, report: Report) -> None:
        report.unit = "bytes sent again"
        for peer in self._hit(fault):
            old, before = peer.carrier.weather, peer.carrier.traffic.resent
            storm = fault.burst > 1
            peer.carrier.weather = Storm(fault.loss, fault.burst) if storm else Rain(fault.loss)
            self._later(fault.for_s, self._clear_up, peer, old, before, report)

    def _clear_up(self, peer: Peer, old: Any, before: int, report: Report) -> None:
        peer.carrier.weather = old
        report.touched += peer.carrier.traffic.resent - before

    def _latency(self, fault: LatencyStep, report: Report) -> None:
        network, before = self.sim.network, self.sim.network.messages
        network.extra_delay_s += fault.add_ms / 1000
        report.unit = "messages"

        def end() -> None:
            network.extra_delay_s -= fault.add_ms / 1000
            report.touched = network.messages - before

        self._later(fault.for_s, end)

    def _partition(self, fault: Partition, report: Report) -> None:
        report.unit = "packets"
        these = frozenset(peer.number for peer in self._hit(fault))
        # Those who are still to come are on the other side.
        others = frozenset(range(len(self.sim.peers) + 10_000)) - these
        cut = Cut(these, others, fault.one_way)
        self.sim.network.cuts.append(cut)
        if fault.for_s > IDLE_S:
            self._later(IDLE_S, self._time_out, these)

        def heal() -> None:
            report.touched = cut.stopped
            self.sim.network.cuts.remove(cut)

        self._later(fault.for_s, heal)

    def _time_out(self, these: frozenset[int]) -> None:
        for number in sorted(these):
            self.sim.peers[number].carrier.idle_if_blocked()

    def _dht_outage(self, fault: DhtOutage, report: Report) -> None:
        network, peers = self.sim.network, self.sim.peers
        before = sum(peer.dht_dropped for peer in peers)
        network.dht_out = True
        report.unit = "messages"

        def end() -> None:
            network.dht_out = False
            report.touched = sum(peer.dht_dropped for peer in peers) - before

        self._later(fault.for_s, end)


def _lasts_s(fault: Fault) -> float:
    for name in ("for_s", "down_s", "gap_s", "restart_after_s"):
        value = getattr(fault, name, None)
        if value is not None:
            return float(value)
    return 0.0
