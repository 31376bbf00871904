"""One seed of one scenario: build the world, let it run, watch it, and say what happened."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from time import process_time
from typing import Any

from p2pstream.identity import Address, NodeId
from p2pstream.swarm.messages import Role
from p2pstream.swarm.protocol import Play, Swarm
from simulations import laws
from simulations.checkers import Checker, Verdict, all_checkers, bounds
from simulations.fabric.carrier import Network
from simulations.fabric.dice import die
from simulations.fabric.host import Peer, Watchers
from simulations.fabric.light import Light
from simulations.fabric.nat import PORT
from simulations.fabric.trace import Event
from simulations.fabric.world import World
from simulations.faults import Faults, Report
from simulations.memory import use_large_pages
from simulations.metrics import Metrics
from simulations.population import Population
from simulations.scenario import Group, Scenario
from simulations.studio import Studio
from simulations.verifying import shared_verification
from simulations.yardstick import Yardstick

TICKET_SEEDS_MAX = 7  # And the broadcaster itself: access.SEEDS_MAX is 8.
TIDY_S = 60  # Nodes that have left lie in cycles. Each 10 s it was 3 % of a short run.
CROWD = 300  # With 200 nodes large pages are neither here nor there, with 1,000 a fifth is saved.
GROWN_S = 5  # In that time a crowd may take some hundred megabytes more.
Progress = Callable[[float, float], None]  # Virtual seconds done, of how many.


@dataclass(slots=True)
class Outcome:
    """What one seed gave. figures: by name; series: once a second; verdicts: of the checkers."""

    scenario: str
    seed: int
    tier: str
    figures: dict[str, Any]
    by_class: dict[str, dict[str, Any]]
    verdicts: list[Verdict]
    faults: list[Report]
    coverage: dict[str, int]
    series: dict[str, list[float]]
    lags_s: list[float]
    overlay: dict[str, Any]
    trace_hash: str
    cpu_s: float
    recorded: list[Event] | None = None

    @property
    def passed(self) -> bool:
        return all(verdict.passed for verdict in self.verdicts)


class Simulation:
    """A scenario with its dice thrown. Of the `core` tier; `quic.py` has another."""

    tier = "core"
    kind: type[Peer] = Light

    def __init__(
        self, scenario: Scenario, seed: int, *, checkers: list[Checker] | None = None
    ) -> None:
        self.scenario, self.seed = scenario, seed
        self.world = World(seed)
        self.network = Network(self.world)
        self.studio = Studio(
            seed, bitrates_kbps=tuple(scenario.stream.bitrates_kbps),
            chunk_s=scenario.stream.chunk_ms / 1000, gop_chunks=scenario.stream.gop_chunks,
        )  # fmt: skip
        self.checkers = all_checkers() if checkers is None else checkers
        self.metrics = Metrics(self)
        watchers = Watchers(
            started=self.metrics.started, effect=self._on_effect, convicted=self._on_convicted
        )
        self.population = Population(
            self.world, self.network, self.studio.stream, watchers, self._make_swarm, self.kind,
            {group.name: group for group in scenario.groups},
        )  # fmt: skip
        self.publishing = 0
        self._populate()
        self.faults = Faults(self)
        for checker in self.checkers:
            checker.begin(self)
        # By what they watch: most checkers watch one thing.
        self._hear_effect, self._hear_played = map(self._overriding, ("effect", "played"))
        watchers.parcel = _all_of(self._overriding("parcel"))
        if any(peer.twist for peer in self.peers):  # Else what is sent is what arrives.
            watchers.arrived = _all_of(self._overriding("arrived"))
        self.world.at(1.0, self._each_second)
        self._yardstick = Yardstick()

    @property
    def peers(self) -> list[Peer]:
        return self.population.peers

    def viewers(self) -> list[Peer]:
        """The honest viewers that are there now."""
        return [peer for peer in self.peers if peer.alive and self.counts(peer)]

    def counts(self, peer: Peer) -> bool:
        """Whether it is an honest viewer: the ones for whom all this is."""
        honest = self.group(peer).behaviour in {"honest", "free_rider"}
        return peer.role is Role.VIEWER and honest

    def group(self, peer: Peer) -> Group:
        return self.population.groups[peer.group]

    def run(self, progress: Progress | None = None) -> Outcome:
        """All phases."""
        began = process_time()
        gc.freeze()  # Millions of small objects that all live: collecting them costs a third.
        gc.disable()
        try:
            with shared_verification() as verified:
                verdicts = self._pass(progress)
            cpu_s = process_time() - began - self._yardstick.cpu_s
            return self._outcome(verdicts, cpu_s, verified.asked)
        finally:
            gc.enable()
            gc.unfreeze()

    def _pass(self, progress: Progress | None) -> list[Verdict]:
        """Let everything happen, then judge."""
        at, end = 0.0, self.scenario.duration_s
        while at < end:
            at = min(end, at + 1.0)
            self.world.run_until(at)
            self._between(at)
            if progress is not None:
                progress(at, end)
        return self._judge()

    def _between(self, at: float) -> None:
        """After each virtual second."""
        self._yardstick.measure()
        if at >= self.scenario.duration_s:
            return
        if int(at) % TIDY_S == 0:
            gc.collect(1)
        if len(self.peers) >= CROWD and int(at) % GROWN_S == 0:
            use_large_pages()

    def _outcome(self, verdicts: list[Verdict], cpu_s: float, checked: int) -> Outcome:
        figures = self.metrics.figures(cpu_s)
        figures["peer_s_per_m_rounds"] = self._yardstick.beside(figures["peer_s_per_cpu_s"])
        figures["signatures_checked"] = checked
        verdicts += bounds(self.scenario, figures, self.metrics.by_class())
        return Outcome(
            self.scenario.name, self.seed, self.tier, figures, self.metrics.by_class(), verdicts,
            self.faults.reports, self.metrics.coverage(), self.metrics.series,
            self.metrics.lag_sample(), self.metrics.overlay, self.world.trace.digest(), cpu_s,
            self.world.trace.recorded,
        )  # fmt: skip

    # Hosts.

    def _populate(self) -> None:
        for group in self.scenario.groups:
            times = laws.arrivals(group.arrive, group.n, die(self.seed, group.name, "arrivals"))
            for nth, at in enumerate(times):
                peer = self.population.add(group, f"{group.name}/{nth}")
                self.world.at(at, self.start, peer)
        self.origin = next(peer for peer in self.peers if peer.role is Role.ORIGIN)
        self.seeds = [peer for peer in self.peers if peer.role is Role.SEED]
        named = [*self.seeds[:TICKET_SEEDS_MAX], self.origin]
        self._ticket = [(peer.node, (peer.carrier.nat.ip, PORT)) for peer in named]

    def start(self, peer: Peer) -> None:
        """A host comes, for the first time or again."""
        if peer.alive:
            return
        peer.start([(n, a) for n, a in self.ticket() if n != peer.node])
        if peer is self.origin:
            self._broadcast()
        stay_s = laws.stays_s(self.group(peer), self.seed, peer.name, peer.lives)
        if stay_s is not None:
            self.world.at(self.world.now + stay_s, self._session_over, peer, peer.lives)

    def _session_over(self, peer: Peer, life: int) -> None:
        if not peer.alive or peer.lives != life:
            return
        self.metrics.leaves(peer)
        peer.leave()
        again_s = laws.away_s(self.group(peer), self.seed, peer.name, life)
        if again_s is not None:
            self.world.at(self.world.now + again_s, self.start, peer)

    def ticket(self) -> list[tuple[NodeId, Address]]:
        """The seeds and the broadcaster as they were at first: tickets do not change."""
        return self._ticket

    def _make_swarm(self, peer: Peer) -> Swarm:
        origin = peer.role is Role.ORIGIN
        epoch = self.studio.begin(peer.clock.wall(peer.local())) if origin else None
        swarm = Swarm(
            self.studio.stream, peer.node, peer.role, roads=peer.carrier, rng=peer.rng,
            wall=peer.clock.wall, config=peer.config, epoch=epoch,
        )  # fmt: skip
        if origin:
            self._inits = [swarm.add_init(init) for init in self.studio.inits()]
        return swarm

    # The broadcast.

    def _broadcast(self) -> None:
        self.publishing += 1
        self.world.at(self.world.now + self.studio.chunk_s, self._publish, self.publishing)

    def _publish(self, turn: int) -> None:
        origin = self.origin
        if turn != self.publishing or origin.swarm is None:
            return
        if not origin.frozen:
            wall_s = origin.clock.wall(origin.local())
            signed = self.studio.next(self._inits, wall_s=wall_s, now=self.world.now)
            origin.swarm.publish(signed, now=origin.local())
            origin.poke()
        self.world.at(self.world.now + self.studio.chunk_s, self._publish, turn)

    # Watching.

    def _on_effect(self, peer: Peer, effect: Any) -> None:
        if type(effect) is Play:  # Nearly all of them.
            chunk = effect.chunk
            self.metrics.played(peer, chunk)
            for hear in self._hear_played:
                hear(peer, chunk)
            return
        self.metrics.effect(peer, effect)
        for hear in self._hear_effect:
            hear(peer, effect)

    def _overriding(self, name: str) -> list[Callable[..., None]]:
        """The methods of that name that do something."""
        own = [c for c in self.checkers if getattr(type(c), name) is not getattr(Checker, name)]
        return [getattr(checker, name) for checker in own]

    def _on_convicted(self, peer: Peer, whom: NodeId, why: str) -> None:
        for checker in self.checkers:
            checker.convicted(peer, whom, why)

    def _each_second(self) -> None:
        self.metrics.sample()
        for checker in self.checkers:
            checker.sample()
        self.world.at(self.world.now + 1.0, self._each_second)

    def _judge(self) -> list[Verdict]:
        return [verdict for checker in self.checkers for verdict in checker.finish()]


def _all_of(hearers: list[Callable[..., None]]) -> Callable[..., None]:
    """One function that calls all of them: for each piece, so one alone is called directly."""
    if len(hearers) == 1:
        return hearers[0]

    def tell(*args: Any) -> None:
        for hear in hearers:
            hear(*args)

    return tell
