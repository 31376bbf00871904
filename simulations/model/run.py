"""One seed of the model: chunk by chunk, pieces go down their forests and viewers play them.

A piece waits for a host's uplink, and leaves to one child after the other; it arrives a way and a
hop later. A chunk is complete with its last piece. A viewer plays it `target` after the earliest
that heads arrive at it, or when it is complete; lateness raises the target, calm lowers it, by the
rules of `playback/playout.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b
from time import process_time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from p2pstream.playback.playout import GROW_S, PATIENCE_S, SHRINK_PER_S
from p2pstream.playback.playout import Config as PlayoutConfig
from p2pstream.stream.chunk import PIECE_BYTES
from p2pstream.swarm.giver import PIECE_LIFE_S
from p2pstream.swarm.messages import SUBSTREAMS
from simulations.checkers import Verdict, bounds
from simulations.fabric.carrier import LOSS_RTTS, PACKET_OVERHEAD, PACKET_PAYLOAD
from simulations.fabric.dice import die
from simulations.faults import Report
from simulations.metrics import FROZEN_S_MIN
from simulations.model import figures
from simulations.model.calibration import Calibration, load
from simulations.model.homes import Floats, Ints, bytes_per_s, generator, populate
from simulations.model.mesh import Level, Mesh
from simulations.scenario import Kill, MassLeave, Scenario
from simulations.simulation import Outcome, Progress
from simulations.studio import KEY_FRAME
from simulations.yardstick import Yardstick

EDGE_S = (
    5.0  # The earliest head of this and the last such time counts: `EDGE_MEMORY_S` in the mean.
)
CHECK_S = 1.0  # How often the target may shrink.


class Model:
    """A scenario with its dice thrown."""

    tier = "model"

    def __init__(
        self, scenario: Scenario, seed: int, *, calibration: Calibration | None = None
    ) -> None:
        self.scenario, self.seed = scenario, seed
        self.calibration = calibration or load()
        self.rng = generator(seed, "model")
        self.homes = populate(scenario, seed)
        self.mesh = Mesh(self.homes, self.calibration, self.rng)
        self.chunk_s = scenario.stream.chunk_ms / 1000
        count = len(self.homes)
        self.enters_at = self.homes.comes_at + self.calibration.connect_s
        self.enters_at[0] = self.homes.comes_at[0]
        self.leaves_at = self.homes.leaves_at.copy()
        self.plays_from = self.homes.comes_at + self._quantiles(self.calibration.startup_s)
        self.target_s = self._quantiles(self.calibration.target_s)
        self.live_s = np.full((2, count), np.inf)  # Earliest heads: of this time, and the last.
        self.margin_s = np.full(count, np.inf)
        self.gave = np.zeros(count)  # Bytes since the warm-up.
        self.tally = figures.Tally(scenario, self.homes)
        self.reports: list[Report] = []
        self._faults = sorted(scenario.faults, key=lambda fault: fault.at_s)
        self._lossy = bool((self.homes.loss > 0).any())
        self._trace = blake2b(digest_size=16)
        self._yardstick = Yardstick()

    def run(self, progress: Progress | None = None) -> Outcome:
        """All phases."""
        began, end, now, seq = process_time(), self.scenario.duration_s, 0.0, 0
        while now + self.chunk_s <= end + 1e-9:
            now = round(now + self.chunk_s, 9)
            self._come_and_go(now)
            self.mesh.settle(now=now)
            self._chunk(seq, now)
            seq += 1
            if seq % 5:
                continue
            self._yardstick.measure()
            if progress is not None:
                progress(now, end)
        return self._outcome(process_time() - began - self._yardstick.cpu_s)

    def edge_s(self) -> float:
        """How late after the broadcaster the earliest heads come, on average."""
        there = self.homes.viewer & self.mesh.there
        return float(self.live_s.min(axis=0)[there].mean())

    def _quantiles(self, law: tuple[float, ...]) -> Floats:
        at = self.rng.random(len(self.homes)) * (len(law) - 1)
        return np.asarray(np.interp(at, np.arange(len(law)), np.array(law)))

    # Hosts.

    def _come_and_go(self, now: float) -> None:
        there = self.mesh.there
        new = np.flatnonzero(~there & (self.enters_at <= now) & (self.leaves_at > now))
        self.enters_at[new] = np.inf
        if len(new):
            self.mesh.enter(new.astype(np.int32), now=now)
        gone = np.flatnonzero(there & (self.leaves_at <= now))
        if len(gone):
            self._leave(gone.astype(np.int32), now, told=True)
        while self._faults and self.scenario.measured_from_s + self._faults[0].at_s <= now:
            self._fault(self._faults.pop(0), now)

    def _leave(self, hosts: Ints, now: float, *, told: bool) -> None:
        self.leaves_at[hosts] = now
        self.mesh.leave(hosts, now=now, told=told)

    def _fault(self, fault: Any, now: float) -> None:
        assert isinstance(fault, (Kill, MassLeave))
        number = next(
            n for n, group in enumerate(self.scenario.groups) if group.name == fault.group
        )
        group = np.flatnonzero(self.mesh.there & (self.homes.group == number))
        wanted = round(fault.share * len(group)) if fault.count is None else fault.count
        rng = die(self.seed, "fault", fault.at_s, fault.group, type(fault).__name__)
        hit = np.array(sorted(rng.sample(range(len(group)), min(wanted, len(group)))), np.int32)
        kind = "kill" if isinstance(fault, Kill) else "mass_leave"
        self.reports.append(Report(kind, now, now, touched=len(hit)))
        self._leave(group[hit].astype(np.int32), now, told=isinstance(fault, MassLeave))

    # A chunk.

    def _chunk(self, seq: int, now: float) -> None:
        """Times are seconds after the chunk's end; `inf` where it never arrives."""
        count = len(self.homes)
        head = np.full(count, np.inf)
        done = np.zeros(count)
        made, wait_s = 0, self._wait_s()
        for index, size in enumerate(self._pieces(seq)):
            substream = (seq + index) % SUBSTREAMS
            arrived = self._push(substream, size, wait_s)
            np.minimum(head, arrived, out=head)
            np.maximum(done, arrived, out=done)
            self._count(substream, size, now)
            made += size
        self.tally.made(made, now)
        self._play(head, done, now)
        self._trace.update(done.tobytes())

    def _pieces(self, seq: int) -> Iterator[int]:
        """Bytes of each piece of a chunk, as `Studio.next` makes them."""
        stream = self.scenario.stream
        rest = (stream.gop_chunks - KEY_FRAME) / max(1, stream.gop_chunks - 1)
        factor = KEY_FRAME if seq % stream.gop_chunks == 0 else rest
        left = int(stream.bitrates_kbps[0] * 125 * self.chunk_s * factor)
        while left > 0:
            yield min(left, PIECE_BYTES)
            left -= PIECE_BYTES

    def _wait_s(self) -> Floats:
        """The mean wait in each uplink's queue (M/D/1); what waits longer than its life is late by
        that. Queues themselves would need all pieces in the order in which they come.
        """
        homes, mesh = self.homes, self.mesh
        used = (homes.slots - mesh.free) / SUBSTREAMS * bytes_per_s(self.scenario)
        load = np.minimum(used / homes.up, 1 - 1e-9)
        wait_s: Floats = load / (2 * (1 - load)) * PIECE_BYTES / homes.up
        return np.minimum(wait_s, PIECE_LIFE_S)

    def _push(self, substream: int, size: int, wait_s: Floats) -> Floats:
        """When each host has the piece. wait_s: for the uplink to be free of other pieces."""
        packets = -(-size // PACKET_PAYLOAD)
        send_s = (size + packets * PACKET_OVERHEAD) / self.homes.up
        arrived = np.full(len(self.homes), np.inf)
        arrived[0] = 0.0
        for level in self.mesh.levels(substream):
            parent = level.parent
            leaves = arrived[parent] + send_s[parent]
            if level.pushed:
                leaves += level.rank * send_s[parent] + wait_s[parent]
            arrived[level.child] = leaves + level.way_s + self.calibration.hop_s
            if self._lossy:
                arrived[level.child] += self._repair_s(level, packets)
        return arrived

    def _repair_s(self, level: Level, packets: int) -> Floats:
        """A round trip and a bit more, when any packet of a piece is lost."""
        loss = self.homes.loss
        kept = ((1 - loss[level.child]) * (1 - loss[level.parent])) ** packets
        repair_s: Floats = np.where(
            self.rng.random(len(kept)) > kept, 2 * LOSS_RTTS * level.way_s, 0.0
        )
        return repair_s

    def _count(self, substream: int, size: int, now: float) -> None:
        if now < self.scenario.measured_from_s:
            return
        for level in self.mesh.levels(substream):
            np.add.at(self.gave, level.parent, size)

    def _play(self, head: Floats, done: Floats, now: float) -> None:
        """Hand the chunk over, at every viewer that plays by now and has it."""
        if now % EDGE_S < self.chunk_s - 1e-9:
            self.live_s[1], self.live_s[0] = self.live_s[0], np.inf
        np.minimum(self.live_s[0], head, out=self.live_s[0])
        watch = self.homes.viewer & self.mesh.there
        due = self.live_s.min(axis=0) + self.target_s
        plays = watch & (done < np.inf) & (now + due >= self.plays_from)
        margin_s = np.full(len(due), np.inf)
        np.subtract(due, done, out=margin_s, where=plays)
        late_s = np.maximum(0.0, -margin_s)
        lag_s = self.chunk_s + np.maximum(due, done)
        frozen_s = np.where(late_s > FROZEN_S_MIN, late_s, 0.0)
        self.tally.played(now, watch, plays, lag_s, frozen_s, late_s > 0, self.plays_from)
        self._adapt(margin_s, late_s, now)

    def _adapt(self, margin_s: Floats, late_s: Floats, now: float) -> None:
        """The playout target: up after a stall, slowly down in calm."""
        config = PlayoutConfig()
        late: NDArray[np.bool_] = late_s > 0
        grow_s = np.where(late_s < PATIENCE_S, np.maximum(GROW_S, 1.2 * late_s), GROW_S)
        grown = np.minimum(config.target_s_max, self.target_s + grow_s)
        self.target_s = np.where(late, grown, self.target_s)
        self.margin_s = np.minimum(self.margin_s, margin_s)
        if now % CHECK_S < self.chunk_s - 1e-9:
            calm = (self.margin_s > 0.6 * self.target_s) & (self.margin_s < np.inf)
            lower = np.maximum(config.target_s, self.target_s - SHRINK_PER_S)
            self.target_s = np.where(calm, lower, self.target_s)
            self.margin_s[:] = np.inf

    # The end.

    def _outcome(self, cpu_s: float) -> Outcome:
        found = self.tally.figures(self.gave, self.reports, cpu_s)
        found["peer_s_per_m_rounds"] = self._yardstick.beside(found["peer_s_per_cpu_s"])
        by_class = self.tally.by_class(self.gave)
        verdicts = bounds(self.scenario, found, by_class)
        bite = all(report.touched for report in self.reports)
        verdicts.append(Verdict("every fault touched something", "fault", bite))
        return Outcome(
            self.scenario.name, self.seed, self.tier, found, by_class, verdicts, self.reports,
            {"parent_replaced": self.mesh.replaced}, self.tally.series, self.tally.lag_sample(),
            {"at_s": 0.0, "hosts": [], "links": []}, self._trace.hexdigest(), cpu_s,
        )  # fmt: skip
