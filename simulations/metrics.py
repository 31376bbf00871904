"""The figures of a run, under the names that `p2pstream demo --json` uses, and more.

Only what happens after the warm-up counts, but for start-up times. Bytes are of the wire: IP and
UDP headers, acknowledgements, handshakes and repairs included.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field
from math import ceil, log2
from typing import TYPE_CHECKING, Any

from p2pstream.dht.protocol import LookupDone
from p2pstream.metrics import percentile, ratio
from p2pstream.stream.chunk import PIECE_BYTES, Chunk
from p2pstream.swarm.ledger import Counters
from p2pstream.swarm.messages import Role
from p2pstream.swarm.protocol import EpochSeen, Swarm
from simulations.fabric import trace as tr
from simulations.fabric.host import Peer

if TYPE_CHECKING:
    from simulations.simulation import Simulation

NAMES = (
    "viewers", "viewers_playing", "startup_s_p50", "startup_s_p95", "startup_s_p99",
    "lag_s_p50", "lag_s_p95", "lag_s_p99", "lag_s_max", "lag_bound_s",
    "lag_slots_p50", "lag_slots_p95", "lag_slots_p99", "stall_ratio", "continuity",
    "offload", "offload_limit", "offload_of_limit", "origin_copies",
    "duplicate_ratio", "control_ratio", "pieces_verified", "pieces_refused",
    "upload_fairness", "repair_s", "lookup_s_p50", "lookup_s_p95", "lookup_hops_p50",
    "signatures_checked", "peer_s", "peer_s_per_cpu_s", "peer_s_per_m_rounds",
    "cpu_s_per_viewer_s", "never_played", "viewers_mean", "viewers_stalled_at_end",
)  # fmt: skip
CLASS_NAMES = (
    "peers", "up_kbps", "given_share", "gave_copies", "lag_s_p50", "lag_s_p95", "stall_ratio",
    "continuity", "startup_s_p95",
)  # fmt: skip
COVERAGE = (
    "pull", "parent_late", "parent_replaced", "slots_all_taken", "liar_convicted", "banned",
    "jumped_ahead", "stalled_and_resumed", "new_epoch", "dial_failed", "packet_repaired",
    "path_probed", "parcel_expired", "link_timed_out", "returned", "slept", "dht_found",
    "origin_left",
)  # fmt: skip
SERIES = (
    "t_s", "viewers", "playing_share", "lag_s_p50", "lag_s_p95", "origin_kbps", "offload",
    "stalled_share",
)  # fmt: skip
REPAIRED_SHARE = 0.95  # So many viewers play: the mesh is mended.
REPAIRED_FOR_S = 2
OVERLAY_HOSTS_MAX = 160  # More cannot be drawn so that one sees anything.
FROZEN_S_MIN = 0.05  # Two frames: a shorter pause is nothing that a player shows.
LAGS_KEPT = 2000  # For the figure; the percentiles count all.


@dataclass(slots=True)
class Life:
    """One stay of one viewer."""

    peer: Peer
    swarm: Swarm
    started_at: float
    first_at: float | None = None
    last_at: float = 0.0
    lag_s: float = 0.0  # Of what was handed over last.
    stall_s: float = 0.0  # After the warm-up, as a viewer sees it: nothing new to show.
    lags: array[float] = field(default_factory=lambda: array("d"))
    base: dict[str, float] = field(default_factory=dict)  # Counters at the end of the warm-up.
    end: dict[str, float] | None = None


class Metrics:
    """Listens while a simulation runs, and adds up at its end."""

    def __init__(self, sim: Simulation) -> None:
        self.sim = sim
        self._from_s = sim.scenario.measured_from_s
        self.lives: list[Life] = []
        self.series: dict[str, list[float]] = {name: [] for name in SERIES}
        self.overlay: dict[str, Any] = {}
        self._now: dict[int, Life] = {}
        self._lookups: list[LookupDone] = []
        self._epochs: Counter[int] = Counter()
        self._given_0: dict[int, Counters] = {}
        self._origin_given_at = 0
        self._taken_at = 0
        self._peer_s = 0.0
        self._viewer_s = 0.0
        self._origin_0 = 0
        self._made_0 = 0
        self._wire_0 = (0, 0)
        self._swarms: list[tuple[Peer, Swarm]] = []
        self._bases: dict[int, tuple[int, int, int]] = {}
        self._done = False

    # Listening.

    def started(self, peer: Peer) -> None:
        if peer.swarm is None:
            return
        self._swarms.append((peer, peer.swarm))
        if self.sim.counts(peer):
            life = Life(peer, peer.swarm, self.sim.world.now)
            self.lives.append(life)
            self._now[peer.number] = life

    def leaves(self, peer: Peer) -> None:
        """Before its swarm is gone: what its player had counted."""
        life = self._now.get(peer.number)
        if life is not None and life.end is None:
            life.end = _player(life.swarm)

    def effect(self, peer: Peer, effect: Any) -> None:  # noqa: ARG002  # The same for all.
        match effect:
            case LookupDone():
                self._lookups.append(effect)
            case EpochSeen():
                self._epochs[effect.epoch.number] += 1

    def played(self, peer: Peer, chunk: Chunk) -> None:
        sim, life, now = self.sim, self._now.get(peer.number), self.sim.world.now
        sim.world.trace.add(now, tr.PLAY, peer.number, 0, chunk.seq)
        if life is None:
            return
        # By the origin's clock: a viewer's own clock may be wrong, the picture is as old as it is.
        lag_s = sim.origin.clock.wall(sim.origin.local()) - chunk.captured_ms / 1000
        if life.first_at is None:
            life.first_at = now
        if now >= self._from_s:
            if life.last_at:
                life.stall_s += self._frozen_s(life, now)
            life.lags.append(lag_s)
        life.last_at, life.lag_s = now, lag_s

    def _frozen_s(self, life: Life, now: float) -> float:
        """How long nothing new was there to be shown; the playout's own count is not needed."""
        since = max(life.last_at, self._from_s)
        frozen_s = now - since - self.sim.studio.chunk_s
        return frozen_s if frozen_s > FROZEN_S_MIN else 0.0

    def sample(self) -> None:
        """Once a second."""
        now = self.sim.world.now
        viewers = [self._now[p.number] for p in self.sim.viewers() if p.number in self._now]
        alive = sum(p.alive for p in self.sim.peers)
        self._peer_s += alive
        if now == self._from_s:
            self._end_warm_up()
        if now > self._from_s:
            self._viewer_s += len(viewers)
        grown = [life for life in viewers if now - life.started_at > 2.0]
        playing = sum(life.last_at > now - 1.0 for life in grown)
        recent = [life.lag_s for life in viewers if life.last_at > now - 1.0]
        given, taken = self._origin_given(), self._taken()
        new_given, new_taken = given - self._origin_given_at, taken - self._taken_at
        self._origin_given_at, self._taken_at = given, taken
        row = (
            now, len(viewers), playing / len(grown) if grown else 1.0, percentile(recent, 0.5),
            percentile(recent, 0.95), new_given * 8 / 1000, 1 - ratio(new_given, new_taken),
            1 - playing / len(grown) if grown else 0.0,
        )  # fmt: skip
        for name, value in zip(SERIES, row, strict=True):
            self.series[name].append(round(value, 4))
        if now >= self.sim.scenario.check_from_s - 1 and not self.overlay:
            self.overlay = self._draw_overlay()

    def _end_warm_up(self) -> None:
        for life in self.lives:
            life.base = _player(life.swarm)
        self._origin_0, self._made_0 = self._origin_given(), self.sim.studio.bytes_made
        self._wire_0 = self._wire()
        seeds = [peer.swarm for peer in self.sim.seeds if peer.swarm is not None]
        for swarm in (*(swarm for _, swarm in self._swarms), *seeds):
            c = swarm.counters
            self._bases[id(swarm)] = (c.taken_bytes, c.duplicates, c.given)

    # Adding up.

    def figures(self, cpu_s: float) -> dict[str, Any]:
        """All of `NAMES` but `signatures_checked` and `peer_s_per_m_rounds`."""
        self._close()
        sim, lives = self.sim, [life for life in self.lives if self._measured(life)]
        lags = sorted(lag for life in lives for lag in life.lags)
        starts = [x.first_at - x.started_at for x in self.lives if x.first_at is not None]
        chunk_s = sim.studio.chunk_s
        taken, doubled, _ = self._moved(sim.counts)
        given = self._origin_given() - self._origin_0
        made = max(1, sim.studio.bytes_made - self._made_0)
        limit = self._offload_limit(taken, made)
        offload = ratio(taken - given, taken)
        wire, pieces = (a - b for a, b in zip(self._wire(), self._wire_0, strict=True))
        lookups = [found.seconds for found in self._lookups]
        return {
            "viewers": len({life.peer.number for life in self.lives}),
            "viewers_playing": sum(self._plays(life) for life in self._now.values()),
            "viewers_mean": round(taken / made, 2),
            "viewers_stalled_at_end": sum(
                p.swarm.watch.playout.stalled for p in sim.viewers() if p.swarm and p.swarm.watch
            ),
            "never_played": sum(self._never(life) for life in self.lives),
            **_percentiles("startup_s", starts, (50, 95, 99)),
            **_percentiles("lag_s", lags, (50, 95, 99)),
            "lag_s_max": round(lags[-1], 3) if lags else 0.0,
            "lag_bound_s": round(self.lag_bound_s(), 3),
            **_percentiles("lag_slots", [lag / chunk_s for lag in lags], (50, 95, 99)),
            **_smooth(lives, self.sim.studio.chunk_s),
            "offload": round(offload, 4),
            "offload_limit": round(limit, 4),
            "offload_of_limit": round(ratio(offload, limit), 4),
            "origin_copies": round(given / made, 3),
            "duplicate_ratio": round(ratio(doubled, taken + doubled), 5),
            "control_ratio": round(ratio(wire - pieces, wire), 5),
            "pieces_verified": sum(s.counters.pieces_verified for _, s in self._swarms),
            "pieces_refused": sum(s.counters.pieces_refused for _, s in self._swarms),
            "upload_fairness": round(_jain(self._gave()), 4),
            "repair_s": round(self._repair_s(), 1),
            "lookup_s_p50": round(percentile(lookups, 0.5), 3),
            "lookup_s_p95": round(percentile(lookups, 0.95), 3),
            "lookup_hops_p50": percentile([found.hops for found in self._lookups], 0.5),
            "peer_s": round(self._peer_s),
            "peer_s_per_cpu_s": round(self._peer_s / max(cpu_s, 1e-9), 1),
            "cpu_s_per_viewer_s": round(cpu_s / max(1.0, self._peer_s), 6),
        }

    def by_class(self) -> dict[str, dict[str, Any]]:
        """The figures of each group."""
        self._close()
        total = max(1, sum(self._moved(lambda _: True)[2:]))
        made = max(1, self.sim.studio.bytes_made - self._made_0)
        out = {}
        for group in self.sim.scenario.groups:
            peers = [p for p in self.sim.peers if p.group == group.name]
            lives = [x for x in self.lives if x.peer.group == group.name and self._measured(x)]
            lags = [lag for life in lives for lag in life.lags]
            starts = [x.first_at - x.started_at for x in lives if x.first_at is not None]
            _, _, given = self._moved(lambda p, name=group.name: p.group == name)
            rates = [self.sim.population.up_kbps(p) for p in peers]
            out[group.name] = {
                "peers": len(peers),
                "up_kbps": round(sum(rates) / len(rates), 1),
                "given_share": round(given / total, 4),
                "gave_copies": round(given / made / len(peers), 3),
                **_percentiles("lag_s", lags, (50, 95)),
                **_smooth(lives, self.sim.studio.chunk_s),
                **_percentiles("startup_s", starts, (95,)),
            }
        return out

    def coverage(self) -> dict[str, int]:
        """How often each way of mending things was used."""
        counters = [swarm.counters for _, swarm in self._swarms]
        traffic = [peer.carrier.traffic for peer in self.sim.peers]
        players = [s.watch.playout.counters for _, s in self._swarms if s.watch]
        liars = {p.node for p in self.sim.peers if p.twist is not None}
        full = sum(0 < s.children.slots <= s.children.used for _, s in self._swarms)
        return {
            "pull": sum(c.pulls for c in counters),
            "parent_late": sum(c.pulls_late for c in counters),
            "parent_replaced": sum(c.parents_replaced for c in counters),
            "slots_all_taken": full,
            "liar_convicted": sum(n in liars for p in self.sim.peers for n, _ in p.convicted),
            "banned": sum(len(p.carrier.bans) for p in self.sim.peers),
            "jumped_ahead": sum(p.skipped for p in players),
            "stalled_and_resumed": sum(p.late for p in players),
            "new_epoch": sum(n for epoch, n in self._epochs.items() if epoch > 1),
            "dial_failed": sum(t.dials_failed for t in traffic),
            "packet_repaired": sum(t.repaired for t in traffic),
            "path_probed": sum(t.probes for t in traffic),
            "parcel_expired": sum(t.expired for t in traffic),
            "link_timed_out": sum(t.timed_out for t in traffic),
            "returned": sum(p.lives > 1 for p in self.sim.peers),
            "slept": sum(n.event == "slept" for p in self.sim.peers for n in p.notes),
            "dht_found": sum(found.found > 0 for found in self._lookups),
            "origin_left": self._origin_left(),
        }

    def lag_sample(self) -> list[float]:
        """Quantiles of all lags, for the figure."""
        lags = sorted(lag for life in self.lives for lag in life.lags)
        step = max(1, len(lags) // LAGS_KEPT)
        return [round(lag, 4) for lag in lags[::step]]

    def lag_bound_s(self) -> float:
        """No mesh can be quicker: when the last of N has a chunk.

        A chunk is as old as it is long when it is complete; then the number of those who hold a
        piece at most doubles in the time in which the fastest uplink sends the smallest piece of
        the longest kind (1 + log2 N slots, Bianchi et al.), and the first hop takes its time.
        """
        sim = self.sim
        viewers = max(1.0, self._viewer_s / max(1.0, self._duration_s()))
        fastest = max(peer.carrier.up.bps for peer in sim.peers)
        mean = min(PIECE_BYTES, 125 * max(sim.studio.bitrates_kbps) * sim.studio.chunk_s * 0.5)
        slot_s = mean * 8 / fastest
        return sim.studio.chunk_s + (1 + log2(viewers + 1)) * slot_s

    # Parts.

    def _close(self) -> None:
        if self._done:
            return
        self._done = True
        for life in self._now.values():
            if life.end is None:
                life.end = _player(life.swarm)
            if life.peer.alive and life.last_at:
                life.stall_s += self._frozen_s(life, self.sim.world.now)
        for life in self.lives:
            if life.end is None:
                life.end = _player(life.swarm)

    def _duration_s(self) -> float:
        return self.sim.scenario.duration_s - self._from_s

    def _measured(self, life: Life) -> bool:
        stopped = life.peer.stopped_at
        gone = not life.peer.alive and stopped is not None
        return not (gone and stopped is not None and stopped < self._from_s)

    def _plays(self, life: Life) -> bool:
        return life.peer.alive and life.last_at > self.sim.world.now - 2.0

    def _never(self, life: Life) -> bool:
        """It had ten seconds and saw nothing."""
        until = self.sim.world.now if life.peer.alive else life.peer.stopped_at or 0.0
        return life.first_at is None and until - life.started_at > 10.0

    def _origin_given(self) -> int:
        return sum(s.counters.given for p, s in self._swarms if p.role is Role.ORIGIN)

    def _taken(self) -> int:
        return sum(s.counters.taken_bytes for p, s in self._swarms if self.sim.counts(p))

    def _moved(self, which: Any) -> tuple[int, int, int]:
        """(taken, duplicates, given) bytes since the warm-up, of some hosts."""
        taken = doubled = given = 0
        seeds = [(p, s) for p in self.sim.seeds for s in (*p.past, *([p.swarm] if p.swarm else []))]
        for peer, swarm in [*self._swarms, *seeds]:
            if which(peer):
                base = self._bases.get(id(swarm), (0, 0, 0))
                taken += swarm.counters.taken_bytes - base[0]
                doubled += swarm.counters.duplicates - base[1]
                given += swarm.counters.given - base[2]
        return taken, doubled, given

    def _gave(self) -> list[float]:
        """Bytes that each honest viewer gave."""
        gave: Counter[int] = Counter()
        for peer, swarm in self._swarms:
            if self.sim.counts(peer):
                gave[peer.number] += swarm.counters.given
        return [float(n) for n in gave.values()]

    def _offload_limit(self, taken: int, made: int) -> float:
        """min(1 - 1/N, u/r): somebody must get the first copy, and uplinks carry no more.

        N: viewers on average, by the bytes they took. u: of all who are not the origin.
        """
        count = max(1.0, taken / made)
        window_s = self._duration_s()
        up_bits = 0.0
        for peer in self.sim.peers:
            if peer.role is not Role.ORIGIN:
                up_bits += peer.carrier.up.bps * self._there_s(peer)
        return max(0.0, min(1 - 1 / count, up_bits / (8 * taken) if taken else 1.0)) \
            if window_s > 0 else 0.0  # fmt: skip

    def _there_s(self, peer: Peer) -> float:
        since = max(peer.started_at, self._from_s)
        until = self.sim.world.now if peer.alive else peer.stopped_at or 0.0
        return max(0.0, until - since)

    def _wire(self) -> tuple[int, int]:
        traffic = [peer.carrier.traffic for peer in self.sim.peers]
        return sum(t.bytes_out + t.acks_out for t in traffic), sum(t.pieces_out for t in traffic)

    def _repair_s(self) -> float:
        """After the worst fault: until nearly all viewers play, and go on doing so."""
        worst = 0.0
        times, shares = self.series["t_s"], self.series["playing_share"]
        for fault in self.sim.faults.reports:
            first = bisect_left(times, fault.from_s + 1)
            ends = bisect_left(times, fault.to_s + 30)
            bad = [n for n in range(first, min(ends, len(shares))) if shares[n] < REPAIRED_SHARE]
            if bad:
                worst = max(worst, times[bad[-1]] + 1 - fault.from_s)
        return worst

    def _origin_left(self) -> int:
        hits = 0
        for peer, swarm in self._swarms:
            if peer.role is Role.VIEWER and swarm.counters.taken.get(Role.ORIGIN):
                hits += not swarm.parents.fed_by(self.sim.origin.node)
        return hits

    def _draw_overlay(self) -> dict[str, Any]:
        """Who feeds whom now, as far as it can be drawn."""
        drawn = [p for p in self.sim.peers if p.alive and p.swarm is not None][:OVERLAY_HOSTS_MAX]
        numbers = {p.node: p.number for p in drawn}
        links: Counter[tuple[int, int]] = Counter()
        for peer in drawn:
            assert peer.swarm is not None
            for parent in peer.swarm.parents.by_feed.values():
                if parent.peer in numbers:
                    links[numbers[parent.peer], peer.number] += 1
        return {
            "at_s": self.sim.world.now,
            "hosts": [{"id": p.number, "group": p.group, "role": int(p.role)} for p in drawn],
            "links": [(a, b, n) for (a, b), n in sorted(links.items())],
        }


def _player(swarm: Swarm) -> dict[str, float]:
    """What the playout has counted so far."""
    assert swarm.watch is not None
    c = swarm.watch.playout.counters
    return {"played": c.played, "late": c.late, "skipped": c.skipped}


def _smooth(lives: list[Life], chunk_s: float) -> dict[str, float]:
    """Stall ratio and continuity, as the demo defines them."""
    sums = {"played": 0.0, "late": 0.0, "skipped": 0.0}
    for life in lives:
        for name, value in (life.end or {}).items():
            sums[name] += value - life.base.get(name, 0.0)
    played = sums["played"]
    stalled_s = sum(life.stall_s for life in lives)
    return {
        "stall_ratio": round(ratio(stalled_s, stalled_s + played * chunk_s), 5),
        "continuity": round(ratio(played - sums["late"], played + sums["skipped"]), 5),
    }


def _percentiles(name: str, values: list[float], shares: tuple[int, ...]) -> dict[str, float]:
    ordered = sorted(values)
    return {
        f"{name}_p{share}": round(
            ordered[max(0, ceil(share / 100 * len(ordered)) - 1)] if ordered else 0.0, 3
        )
        for share in shares
    }


def _jain(values: list[float]) -> float:
    """Jain's index: 1 when all give alike, 1/n when one gives all."""
    squares = sum(value * value for value in values)
    return sum(values) ** 2 / (len(values) * squares) if squares else 0.0
