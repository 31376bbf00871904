"""What must hold in every run, whatever the scenario: always, eventually, sometimes.

Each checker is small, sees everything, and knows nothing of the others. A verdict that fails names
the moment and the host, so that a replay can stop there.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from p2pstream.core import Parcel
from p2pstream.dht.protocol import LookupDone
from p2pstream.identity import NodeId
from p2pstream.net.doorman import BAN_S
from p2pstream.net.link import QUEUE_BYTES_MAX
from p2pstream.stream.chunk import Chunk
from p2pstream.stream.window import BYTES_MAX, HEADS_MAX
from p2pstream.swarm.messages import Piece, Role
from p2pstream.swarm.partners import CANDIDATES_MAX, LACKED_MAX
from p2pstream.swarm.protocol import INITS_MAX, LINKS_MAX
from p2pstream.swarm.scheduler import ASKED_MAX
from simulations.fabric.carrier import AMPLIFICATION_MAX
from simulations.fabric.dice import secret
from simulations.fabric.host import Peer, Waking
from simulations.scenario import Scenario

if TYPE_CHECKING:
    from simulations.simulation import Simulation

COMPLAINTS_MAX = 5  # Of one checker: the first ones tell most.
WAKES_PER_S_MAX = 500.0  # A core has work some hundred times a second at most; 1000 is spinning.
SETTLE_S = 15.0  # Whoever came this long before the end must play at the end.
STALLED_S_MAX = 3.0
STALLS_MAX = 2  # So often a viewer may stall that has not asked anybody: there was nobody yet.
OUT_S = (2.0, BAN_S[0])  # After a wrong piece its sender is out, from then till then: limbo, bans.
CLOSEST_WANTED = 0.5  # Of the three closest nodes: look-ups of a few seconds ago, churn since.
PROBES = 6
LOOKUP_S = 6.0  # One dead contact (`queries.DIAL_DEAD_S`), and who is asked instead.
OWN_BUDGET_S = 2.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a checker found. kind: always, eventually, sometimes, expect or fault."""

    name: str
    kind: str
    passed: bool
    detail: str = ""


class Checker:
    """Watches a run. Subclasses override what they need."""

    name = "?"
    kind = "always"

    def begin(self, sim: Simulation) -> None:
        """Before anything happens."""
        self.sim = sim
        self.complaints: list[str] = []

    def effect(self, peer: Peer, effect: Any) -> None:
        """A core wanted something besides the network, and to hand over a chunk."""

    def played(self, peer: Peer, chunk: Chunk) -> None:
        """A viewer's core hands a chunk to the player."""

    def parcel(self, peer: Peer, parcel: Parcel) -> None:
        """A core sends a piece."""

    def arrived(self, peer: Peer, sender: NodeId, parcel: Parcel) -> None:
        """A piece has come, and has not been looked at."""

    def convicted(self, peer: Peer, whom: NodeId, why: str) -> None:
        """`peer` found `whom` guilty."""

    def sample(self) -> None:
        """Once a second."""

    def finish(self) -> list[Verdict]:
        """At the end."""
        return [Verdict(self.name, self.kind, not self.complaints, "; ".join(self.complaints))]

    def complain(self, peer: Peer | None, what: str) -> None:
        if len(self.complaints) < COMPLAINTS_MAX:
            who = f" host {peer.number} ({peer.name})" if peer else ""
            self.complaints.append(f"{self.sim.world.now:.3f} s{who}: {what}")


class OnlyVerified(Checker):
    """Nothing but the broadcaster's own bytes is stored, played or sent by honest nodes."""

    name = "only verified bytes are stored, sent and played"

    def played(self, peer: Peer, chunk: Chunk) -> None:
        if chunk.pieces != self.sim.studio.sent.get((chunk.seq, chunk.rendition)):
            self.complain(peer, f"played other bytes for seq {chunk.seq}")

    def parcel(self, peer: Peer, parcel: Parcel) -> None:
        # What its core sends; a polluter's bytes are changed after this.
        header: Any = parcel.header
        pieces = self.sim.studio.sent.get((header.seq, header.rendition))
        if pieces is None or header.index >= len(pieces):
            self.complain(peer, f"sent a piece of seq {header.seq} that nobody made")
            return
        made = pieces[header.index]
        if parcel.body is not made and parcel.body != made:
            self.complain(peer, f"sent other bytes for seq {header.seq}")


class Monotone(Checker):
    """Each viewer is given chunks in order, none twice."""

    name = "playout is monotone"

    def begin(self, sim: Simulation) -> None:
        super().begin(sim)
        self.last: dict[tuple[int, int], int] = {}

    def played(self, peer: Peer, chunk: Chunk) -> None:
        key = peer.number, peer.lives
        if chunk.seq <= self.last.get(key, -1):
            self.complain(peer, f"seq {chunk.seq} after {self.last[key]}")
        self.last[key] = chunk.seq


class Bounded(Checker):
    """Every store, queue and table is below its limit."""

    name = "everything that grows has kept its limit"

    def sample(self) -> None:
        for peer in self.sim.peers:
            if peer.alive:
                for what, size, limit in _sizes(peer):
                    if size > limit:
                        self.complain(peer, f"{what}: {size} of at most {limit}")


_ASKED, _LACKED = attrgetter("asked"), attrgetter("lacked")


def _sizes(peer: Peer) -> list[tuple[str, int, int]]:
    """(what, how large, how large it may be)."""
    sizes = [("send queue, bytes", peer.carrier.backlog_max, QUEUE_BYTES_MAX)]
    swarm = peer.swarm
    if swarm is not None:
        heads = len(swarm.window)
        partners = swarm.partners.values()
        heard = [heard.masks for partner in partners for heard in partner.heard.values()]
        held = max(map(len, heard), default=0)
        asked = max(map(len, map(_ASKED, partners)), default=0)
        lacked = max(map(len, map(_LACKED, partners)), default=0)
        sizes += [
            ("window, bytes", swarm.window.bytes, BYTES_MAX),
            ("window, heads", heads, HEADS_MAX),
            ("partners", len(swarm.partners), swarm.mesh.config.partners_max),
            ("candidates", len(swarm.candidates), CANDIDATES_MAX),
            ("inits", len(swarm.inits), INITS_MAX),
            ("children", swarm.children.used, max(0, swarm.children.slots)),
            ("a partner's map", held, HEADS_MAX),
            ("requests to a partner", asked, 2 * ASKED_MAX),
            ("what a partner lacks", lacked, LACKED_MAX),
            ("links known", len(getattr(swarm, "_links", ())), LINKS_MAX + 64),
        ]
    return sizes


class Conserved(Checker):
    """Bytes sent = received + lost + on their way (+ too late for a link that has ended)."""

    name = "no byte appears or vanishes"

    def sample(self) -> None:
        network = self.sim.network
        traffic = [peer.carrier.traffic for peer in self.sim.peers]
        out = sum(t.bytes_out for t in traffic)
        there = sum(t.bytes_in for t in traffic) + network.lost + network.flying + network.fading
        if out != there:
            self.complain(None, f"{out} bytes sent, {there} accounted for")


class OneState(Checker):
    """A piece is held, asked for, or missing: never held and still asked for."""

    name = "a piece is in one state at a node"

    def sample(self) -> None:
        for peer in self.sim.peers:
            if peer.swarm is None:
                continue
            window = peer.swarm.window
            for partner in peer.swarm.partners.values():
                for seq, rendition, index in partner.asked:
                    if window.have(seq, rendition) >> index & 1:
                        self.complain(peer, f"piece {seq}/{rendition}/{index} is here and asked")


class NoSpin(Checker):
    """`wake_at` is never a time that `wake` has already dealt with, over and over."""

    name = "no core spins"

    def begin(self, sim: Simulation) -> None:
        super().begin(sim)
        self.before: dict[int, tuple[Waking, int]] = {}

    def sample(self) -> None:
        for peer in self.sim.peers:
            if not peer.alive:
                continue
            for nth, driver in enumerate(peer.drivers):
                key = 2 * peer.number + nth
                old, wakes = self.before.get(key, (driver, 0))
                if old is driver and driver.wakes - wakes > WAKES_PER_S_MAX:
                    core = type(driver.core).__name__
                    self.complain(peer, f"{core} woke {driver.wakes - wakes} times in a second")
                self.before[key] = (driver, driver.wakes)


class NoAmplifier(Checker):
    """To an address that has proven nothing goes at most three times what came from it."""

    name = "no amplification"

    def sample(self) -> None:
        for peer in self.sim.peers:
            times = peer.carrier.traffic.amplified
            if times > AMPLIFICATION_MAX:
                self.complain(peer, f"{times:.1f} times what came went to an unproven address")


class HonestAreInnocent(Checker):
    """No honest node is found guilty of a lie."""

    name = "no honest node is convicted"

    def convicted(self, peer: Peer, whom: NodeId, why: str) -> None:
        accused = next((p for p in self.sim.peers if p.node == whom), None)
        if accused is not None and self.sim.group(accused).behaviour in {"honest", "free_rider"}:
            # Whose clock is wrong may take what is fresh for stale.
            skewed = any(p.clock.skew_s for p in (peer, accused))
            if not skewed and self.sim.group(peer).behaviour == "honest":
                self.complain(peer, f"convicted host {accused.number}: {why}")


class EveryonePlays(Checker):
    """After the healing every honest viewer that has been there for a while plays."""

    name = "every honest viewer plays in the end"
    kind = "eventually"

    def finish(self) -> list[Verdict]:
        now = self.sim.world.now
        for peer in self.sim.viewers():
            life = self.sim.metrics._now.get(peer.number)  # noqa: SLF001  # Its other half.
            if life is None or now - life.started_at < SETTLE_S or not self._can(peer):
                continue
            if life.last_at < now - STALLED_S_MAX:
                seen = "never" if life.first_at is None else f"last at {life.last_at:.1f} s"
                self.complain(peer, f"does not play ({seen})")
        return super().finish()

    def _can(self, peer: Peer) -> bool:
        """Enough downlink for the smallest rendition, and UDP at all."""
        needed = 1200 * min(self.sim.studio.bitrates_kbps)
        return peer.carrier.down.bps > needed and peer.carrier.nat.kind.value != "blocked"


class LookupsFindClosest(Checker):
    """Look-ups at the end find the nodes that are closest to a key."""

    name = "look-ups find the closest nodes"
    kind = "eventually"

    def begin(self, sim: Simulation) -> None:
        super().begin(sim)
        self.keys: dict[bytes, LookupDone | None] = {}
        self.sim.world.at(sim.scenario.duration_s - LOOKUP_S + 1e-3, self._ask)

    def _ask(self) -> None:
        able = [p for p in self._reachable() if self.sim.world.now - p.started_at > SETTLE_S]
        for nth, peer in enumerate(able[:: max(1, len(able) // PROBES)][:PROBES]):
            key = secret(self.sim.seed, "probe", nth)
            self.keys[key] = None
            peer.find(key)

    def _reachable(self) -> list[Peer]:
        kind = {"none", "full_cone"}
        return [
            p for p in self.sim.peers
            if p.alive and not p.frozen and p.carrier.nat.kind.value in kind
            and self.sim.group(p).behaviour == "honest"
        ]  # fmt: skip

    def effect(self, peer: Peer, effect: Any) -> None:  # noqa: ARG002  # The same for all.
        if isinstance(effect, LookupDone) and effect.key in self.keys:
            self.keys[effect.key] = effect

    def finish(self) -> list[Verdict]:
        nodes = {p.node for p in self._reachable()}
        found = wanted = 0
        for key, done in self.keys.items():
            best = sorted(nodes, key=lambda node, key=key: node ^ key)[:3]  # type: ignore[misc]
            near = {contact.node for contact in done.closest} if done else set()
            wanted += len(best)
            found += sum(node in near for node in best)
        if not wanted:
            return [Verdict(self.name, self.kind, True, "nobody was there long enough to ask")]
        share = found / wanted
        return [Verdict(self.name, self.kind, share >= CLOSEST_WANTED, f"{100 * share:.0f} %")]


class PollutersAreOut(Checker):
    """Whoever has sent a wrong piece to a viewer that lacked it is not its partner any more.

    We know what the broadcaster made, so that it does not matter what the viewer made of it.
    """

    name = "polluters are out"
    kind = "eventually"

    def begin(self, sim: Simulation) -> None:
        super().begin(sim)
        self.first: dict[tuple[int, int, NodeId], float] = {}  # (host, life, sender) -> when

    def arrived(self, peer: Peer, sender: NodeId, parcel: Parcel) -> None:
        """Remember who sent what nobody made, and look whether it may do so again."""
        header: Any = parcel.header
        swarm = peer.swarm
        if swarm is None or type(header) is not Piece:
            return
        made = self.sim.studio.sent.get((header.seq, header.rendition), ())
        if header.index < len(made) and parcel.body == made[header.index]:
            return
        missing = not swarm.window.have(header.seq, header.rendition) >> header.index & 1
        if missing and sender in swarm.partners and header.seq in swarm.window:
            key = peer.number, peer.lives, sender
            self._look(peer, sender, self.first.setdefault(key, self.sim.world.now))

    def finish(self) -> list[Verdict]:
        for (number, life, sender), since in self.first.items():
            peer = self.sim.peers[number]
            if peer.lives == life and peer.swarm and sender in peer.swarm.partners:
                self._look(peer, sender, since)
        told = super().finish()
        if told[0].passed:
            told = [Verdict(self.name, self.kind, True, f"{len(self.first)} wrong senders")]
        return told

    def _look(self, peer: Peer, sender: NodeId, since: float) -> None:
        """Now that it is a partner still, or again."""
        if OUT_S[0] < self.sim.world.now - since < OUT_S[1] and self._watches(peer):
            self.complain(peer, f"trades with {sender!r}, whose wrong piece came at {since:.1f} s")

    def _watches(self, peer: Peer) -> bool:
        return self.sim.group(peer).behaviour in {"honest", "free_rider"} and not peer.frozen


class FaultsBite(Checker):
    """A fault that touched nothing tested nothing; nor did liars who never said a word."""

    name = "every fault touched something"
    kind = "fault"

    def finish(self) -> list[Verdict]:
        for fault in self.sim.faults.reports:
            if not fault.touched:
                self.complain(None, f"{fault.kind} at {fault.from_s:g} s touched no {fault.unit}")
        for group in self.sim.scenario.groups:
            crooks = [p for p in self.sim.peers if p.group == group.name and p.twist and p.lives]
            if crooks and not any(peer.twisted for peer in crooks):
                self.complain(None, f"{group.name} ({group.behaviour}) twisted no word")
        return super().finish()


class LateIsPulled(Checker):
    """Repair paths exist: where a parent was late, somebody else was asked."""

    name = "late parents are repaired by pull"
    kind = "eventually"

    def finish(self) -> list[Verdict]:
        for peer in self.sim.viewers():
            swarm = peer.swarm
            if swarm is None or swarm.watch is None:
                continue
            stalls = swarm.watch.playout.counters.stalls
            if stalls > STALLS_MAX and not swarm.counters.pulls:
                self.complain(peer, f"{stalls} stalls, and it never asked anybody")
        return super().finish()


def all_checkers() -> list[Checker]:
    """One of each, for one run."""
    return [
        OnlyVerified(), Monotone(), Bounded(), Conserved(), OneState(), NoSpin(), NoAmplifier(),
        HonestAreInnocent(), EveryonePlays(), LookupsFindClosest(), PollutersAreOut(),
        LateIsPulled(), FaultsBite(),
    ]  # fmt: skip


def bounds(
    scenario: Scenario, figures: dict[str, Any], by_class: dict[str, dict[str, Any]]
) -> list[Verdict]:
    """[expect], judged; and two bounds of nature that no figure may break."""
    verdicts = []
    for name, bound in scenario.expect.items():
        value = _look_up(name, figures, by_class)
        if value is None:
            continue  # This tier knows nothing of it.
        low = bound.min is None or value >= bound.min
        high = bound.max is None or value <= bound.max
        limits = " and ".join(
            f"{word} {limit:g}"
            for word, limit in (("at least", bound.min), ("at most", bound.max))
            if limit is not None
        )
        verdicts.append(Verdict(name, "expect", low and high, f"{value:g}, {limits}"))
    above = figures["offload"] <= figures["offload_limit"] + 0.0005
    told = f"{figures['offload']:.4f}, limit {figures['offload_limit']:.4f}"
    verdicts.append(Verdict("offload is not above its limit", "always", above, told))
    quick = not figures["lag_s_max"] or figures["lag_s_max"] >= figures["lag_bound_s"]
    told = f"{figures['lag_s_max']:.3f} s, bound {figures['lag_bound_s']:.3f} s"
    verdicts.append(Verdict("no lag is below its bound", "always", quick, told))
    return verdicts


def _look_up(
    name: str, figures: dict[str, Any], by_class: dict[str, dict[str, Any]]
) -> float | None:
    if name.startswith("by_class."):
        _, group, figure = name.split(".")
        return _number(by_class[group][figure])
    return _number(figures[name])


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


@dataclass(slots=True)
class Sometimes:
    """Over the seeds: each way of mending that a scenario names was really used."""

    wanted: list[str]
    seen: Counter[str] = field(default_factory=Counter)

    def add(self, coverage: dict[str, int]) -> None:
        self.seen.update(coverage)

    def verdicts(self) -> list[Verdict]:
        return [
            Verdict(name, "sometimes", self.seen[name] > 0, f"{self.seen[name]} times")
            for name in self.wanted
        ]


__all__ = ["Checker", "Role", "Sometimes", "Verdict", "all_checkers", "bounds"]
