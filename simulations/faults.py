"""What goes wrong on purpose. Each fault counts what it touched: none, and the run has failed.

(Partition tests of others were false-green since their faults did nothing: freenet-core#4727.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from p2pstream.identity import NodeKey
from p2pstream.net.tls import IDLE_S
from simulations import laws
from simulations.fabric import trace as tr
from simulations.fabric.carrier import Cut
from simulations.fabric.dice import secret, throw
from simulations.fabric.host import Peer
from simulations.fabric.links import Rain, Storm
from simulations.scenario import (
    Bandwidth,
    BandwidthTrace,
    ClockJump,
    DhtOutage,
    Fault,
    Hang,
    Kill,
    LatencyStep,
    LinkFlap,
    LossBurst,
    MassLeave,
    Move,
    OriginCrash,
    Partition,
    SeedCrash,
    Trace,
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
            Bandwidth: self._bandwidth, BandwidthTrace: self._bandwidth_trace,
            LinkFlap: self._flap, LossBurst: self._loss, ClockJump: self._clock,
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
        """Whom it hits: drawn among those of its group that are there.

        Each host has a throw of its own, so that one host more or less changes little.
        """
        group = [p for p in self.sim.peers if p.group == fault.group and p.alive]
        wanted = round(fault.share * len(group)) if fault.count is None else fault.count
        group.sort(key=lambda peer: self._throw(fault, peer, "hit"))
        return sorted(group[:wanted], key=lambda peer: peer.number)

    def _throw(self, fault: Any, peer: Peer, purpose: str) -> float:
        kind = type(fault).__name__
        return throw(self.world.seed, "fault", fault.at_s, kind, peer.name.rstrip("'"), purpose)

    def _everybody(self) -> frozenset[int]:
        """By number, and those who are still to come."""
        return frozenset(range(len(self.sim.peers) + 10_000))

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
            peer.node = peer.key.node_id
        self.sim.start(peer)

    def _take_over(self, peer: Peer) -> None:
        """Another machine, which has the stream's key and nothing else of the one that died."""
        self.sim.population.move(peer)
        self._restart(peer, keep_identity=False)

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
        back = self._take_over if fault.take_over else self._restart
        self._later(fault.down_s, back, self.sim.origin)

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
        rates = self.sim.population.rates
        for peer in self._hit(fault):
            rates.scale(peer, fault.factor)
            report.touched += 1
            self._later(fault.for_s, rates.scale, peer, 1 / fault.factor)

    def _bandwidth_trace(self, fault: BandwidthTrace, report: Report) -> None:
        law = Trace(file=fault.file, like=fault.like, scale=fault.scale)
        for peer in self._hit(fault):
            trace = laws.trace_of(law, self._throw(fault, peer, "trace"))
            since = self._throw(fault, peer, "since")
            self.sim.population.rates.follow(peer, fault.way, trace, since, fault.for_s)
            report.touched += 1

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
        report.unit = "messages held up" if fault.jammed else "packets"
        these = frozenset(peer.number for peer in self._hit(fault))
        until = self.world.now + fault.for_s
        cut = Cut(these, self._everybody() - these, fault.one_way, until)
        network = self.sim.network
        found = network.jams if fault.jammed else network.cuts
        found.append(cut)
        if fault.for_s > IDLE_S:
            self._later(IDLE_S, self._time_out, these)

        def heal() -> None:
            report.touched = cut.stopped
            found.remove(cut)

        self._later(fault.for_s, heal)

    def _flap(self, fault: LinkFlap, report: Report) -> None:
        report.unit = "packets"
        until = self.world.now + fault.for_s
        for peer in self._hit(fault):
            first_s = self._throw(fault, peer, "first") * fault.every_s
            self._later(first_s, self._line_down, peer, fault, report, until)

    def _line_down(self, peer: Peer, fault: LinkFlap, report: Report, until: float) -> None:
        down_s = min(fault.down_s, until - self.world.now)
        if down_s <= 0:
            return
        cut = Cut(frozenset([peer.number]), self._everybody())
        self.sim.network.cuts.append(cut)

        if down_s > IDLE_S:
            self._later(IDLE_S, self._time_out, cut.these)

        def line_up() -> None:
            report.touched += cut.stopped
            self.sim.network.cuts.remove(cut)

        self._later(down_s, line_up)
        self._later(fault.every_s, self._line_down, peer, fault, report, until)

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
