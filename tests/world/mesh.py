"""A stream and its swarm in a `World`: one origin, seeds and viewers, all with the real core."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from itertools import pairwise
from random import Random
from typing import Any

from p2pstream.identity import NodeId, StreamKey
from p2pstream.playback.playout import Playout
from p2pstream.stream.chunk import TICKS_PER_S, Init
from p2pstream.stream.chunker import Chunker, Signed
from p2pstream.stream.epoch import Epoch, certify
from p2pstream.stream.head import KEY
from p2pstream.stream.window import BYTES_MAX, HEADS_MAX
from p2pstream.swarm.messages import SUBSTREAMS, SWARM_MESSAGES, Role
from p2pstream.swarm.partners import CANDIDATES_MAX, PARTNERS_MAX, RENDITIONS_HEARD_MAX
from p2pstream.swarm.protocol import ORIGIN_COPIES, SEED_COPIES, Config, Play, Swarm
from p2pstream.wire.codec import Codec
from tests.world.fabric import Host, World, key_of, wall

CHUNK_S = 0.2
GOP_CHUNKS = 5


class Studio:
    """Makes the signed chunks of a broadcast: random bytes of the right size at the right time."""

    def __init__(
        self, *, bitrates: tuple[int, ...] = (1_000_000,), seed: int = 7,
        epoch: int = 1, first_seq: int = 1000, now: float = 0.0,
    ) -> None:  # fmt: skip
        self.root = StreamKey((1 << 200).to_bytes(32))
        self.signer = StreamKey((2 << 200).to_bytes(32))
        self.bitrates = bitrates
        self.rng = Random(seed)
        self.epoch: Epoch = certify(
            self.root, epoch, self.signer.public, now_ms=int(wall(now) * 1000) - 1000,
            bitrate_max=sum(bitrates), title="a test",
        )  # fmt: skip
        self.chunker = Chunker(self.signer, self.epoch, first_seq=first_seq)
        self.made = 0
        self.sent: dict[tuple[int, int], bytes] = {}
        self.signed: dict[int, Signed] = {}

    def inits(self) -> list[Init]:
        return [
            Init(n, f"{n}p", 640, 360, rate, "avc1.4d401e,mp4a.40.2", b"init %d" % n)
            for n, rate in enumerate(self.bitrates)
        ]

    def next(self, hashes: list[bytes], *, now: float) -> Signed:
        """The chunk group captured during the last 200 ms."""
        key = self.made % GOP_CHUNKS == 0
        chunks = {}
        for n, rate in enumerate(self.bitrates):
            size = int(rate * CHUNK_S / 8 * (1.6 if key else 0.85))
            chunks[n] = (hashes[n], self.rng.randbytes(size))
        ticks = int(CHUNK_S * TICKS_PER_S)
        signed = self.chunker.sign(
            chunks, captured_ms=int((wall(now) - CHUNK_S) * 1000), pts=self.made * ticks,
            duration=ticks, flags=KEY if key else 0,
        )  # fmt: skip
        for n, (_, data) in chunks.items():
            self.sent[signed.head.seq, n] = data
        self.signed[signed.head.seq] = signed
        self.made += 1
        return signed


class Mesh:
    """The world with its broadcast running."""

    def __init__(self, *, seed: int = 1, delay_s: float = 0.01, **studio: object) -> None:
        self.world = World(Codec(*SWARM_MESSAGES), seed=seed, delay_s=delay_s)
        self.studio = Studio(**studio)  # type: ignore[arg-type]
        self.stream = self.studio.root.stream_id
        self.seed = seed
        self.played: dict[NodeId, list[tuple[float, Play]]] = {}
        self.origin = self.add(0, Role.ORIGIN, copies=ORIGIN_COPIES)
        self.hashes = [self.swarm(self.origin).add_init(init) for init in self.studio.inits()]
        self.live = True
        self.over = False
        # A hook for those who know of a chunk before the mesh does, and how much before.
        self.before_publish: Callable[[Signed], None] = lambda _: None
        self.publish_after_s = 0.0
        self.world.at(CHUNK_S, self._publish)

    def swarm(self, host: Host) -> Swarm:
        assert isinstance(host.core, Swarm)
        return host.core

    def add(
        self, number: int, role: Role = Role.VIEWER, *, copies: float | None = None,
        up_bps: float = float("inf"), knows: tuple[Host, ...] = (), config: Config | None = None,
    ) -> Host:  # fmt: skip
        node = key_of(number + 1).node_id
        if copies is None:
            copies = SEED_COPIES if role is Role.SEED else 4.0

        def make(host: Host) -> Swarm:
            return Swarm(
                self.stream, node, role, roads=host, rng=Random(self.seed * 1000 + number),
                wall=wall, config=config or Config(copies=copies),
                epoch=self.studio.epoch if role is Role.ORIGIN else None,
            )  # fmt: skip

        host = self.world.add(node, make, up_bps=up_bps)
        plays: list[tuple[float, Play]] = []
        self.played[node] = plays

        def note(effect: object) -> None:
            if isinstance(effect, Play):
                plays.append((self.world.now, effect))

        host.on_effect = note
        for other in knows:
            self.swarm(host).learn(other.node, [other.address], now=self.world.now)
        host.act()
        return host

    def watch(self, number: int, **options: object) -> Host:
        return self.add(number, Role.VIEWER, **options)  # type: ignore[arg-type]

    def lag_s(self, host: Host, *, since: float = 0.0) -> list[float]:
        """Hand-over minus capture of every chunk played since then."""
        return [
            wall(at) - play.chunk.captured_ms / 1000
            for at, play in self.played[host.node]
            if at >= since
        ]

    def viewers(self) -> list[Host]:
        """The living ones, in the order of their joining."""
        return [
            host for host in self.world.hosts.values()
            if host.alive and isinstance(host.core, Swarm) and host.core.role is Role.VIEWER
        ]  # fmt: skip

    def seqs(self, host: Host, *, since: float = 0.0) -> list[int]:
        """What was played since then."""
        return [play.chunk.seq for at, play in self.played[host.node] if at >= since]

    def gap_s(self, host: Host, *, since: float = 0.0) -> float:
        """The longest time from one hand-over to the next, from `since` until now."""
        times = [since, *(at for at, _ in self.played[host.node] if at >= since), self.world.now]
        return max(b - a for a, b in pairwise(times))

    def stalls(self, host: Host) -> int:
        return self.playout(host).counters.stalls

    def playout(self, host: Host) -> Playout:
        watch = self.swarm(host).watch
        assert watch is not None
        return watch.playout

    def offload(self, viewers: Iterable[Host]) -> float:
        """1 - what the origin sent / what the viewers took in."""
        taken = sum(self.swarm(host).counters.taken_bytes for host in viewers)
        return 1 - self.swarm(self.origin).counters.given / taken

    def duplicates(self, viewers: Iterable[Host]) -> float:
        """The share of what the viewers took in that they had already."""
        counters = [self.swarm(host).counters for host in viewers]
        return sum(c.duplicates for c in counters) / sum(c.taken_bytes for c in counters)

    def control(self) -> float:
        """The share of all bytes sent that are not bytes of pieces."""
        hosts = [h for h in self.world.hosts.values() if isinstance(h.core, Swarm)]
        given = sum(self.swarm(host).counters.given for host in hosts)
        return 1 - given / sum(host.bytes_out for host in hosts)

    def restart(self, *, epoch: int, after_s: float) -> Host:
        """The broadcaster dies now, and broadcasts again after a while under another epoch."""
        self.world.kill(self.origin.node, noticed_after_s=after_s)
        self.world.run(after_s)
        now, old = self.world.now, self.studio
        self.studio = Studio(
            bitrates=old.bitrates, seed=8, epoch=epoch, first_seq=max(old.signed) + 100, now=now
        )
        self.studio.sent.update(old.sent)
        self.origin = self.add(900 + epoch, Role.ORIGIN, copies=ORIGIN_COPIES)
        self.hashes = [self.swarm(self.origin).add_init(init) for init in self.studio.inits()]
        return self.origin

    def end(self) -> None:
        """The broadcaster signs the end of its stream."""
        self.live = False
        signed = self.studio.chunker.end(
            captured_ms=int(wall(self.world.now) * 1000), pts=self.studio.made
        )
        self.swarm(self.origin).publish(signed, now=self.world.now)
        self.origin.act()

    def check(self) -> None:
        """What holds in every world, whatever happens in it.

        Every chunk played is what the broadcaster signed, in order and once; no honest node is
        ever convicted by another; nothing grows beyond its bounds.
        """
        honest = {h.node for h in self.world.hosts.values() if isinstance(h.core, Swarm)}
        for node, plays in self.played.items():
            chunks = [play.chunk for _, play in plays]
            assert all(a.seq < b.seq for a, b in pairwise(chunks)), "played backwards"
            for chunk in chunks:
                assert chunk.data == self.studio.sent[chunk.seq, chunk.rendition], "wrong bytes"
            host = self.world.hosts[node]
            assert not [c for c in host.convicted if c[0] in honest], host.convicted
            bounded(self.swarm(host))
            assert host.wakes <= 500 + 100 * self.world.now, f"woken {host.wakes} times: it spins"

    def _publish(self) -> None:
        if self.live and self.origin.alive:
            signed = self.studio.next(self.hashes, now=self.world.now)
            self.before_publish(signed)
            self.world.at(self.world.now + self.publish_after_s, lambda: self._put(signed))
        if not self.over:
            self.world.at(self.world.now + CHUNK_S, self._publish)

    def _put(self, signed: Signed) -> None:
        self.swarm(self.origin).publish(signed, now=self.world.now)
        self.origin.act()


THINGS_MAX = 20_000  # Entries in all tables of a swarm together. A busy viewer has about 2000.


def bounded(swarm: Swarm) -> None:
    """Every table within its named limit, and all together within a generous sum."""
    assert len(swarm.partners) <= PARTNERS_MAX
    assert len(swarm.candidates) <= CANDIDATES_MAX
    assert len(swarm.window) <= HEADS_MAX
    assert swarm.window.bytes <= BYTES_MAX
    assert swarm.children.used <= max(swarm.children.slots, 0)
    assert len(swarm.inits) <= 32
    for partner in swarm.partners.values():
        assert len(partner.heard) <= RENDITIONS_HEARD_MAX
        assert all(len(heard.masks) <= HEADS_MAX for heard in partner.heard.values())
        assert len(partner.knows) <= 4 * HEADS_MAX, "heads it is said to know"
        assert len(partner.cool) <= 64 * SUBSTREAMS
    assert entries(swarm) <= THINGS_MAX, f"{entries(swarm)} entries in tables"


def entries(thing: Any) -> int:
    """How many entries the containers inside `thing` have, all together."""
    seen: set[int] = set()
    todo, total = [thing], 0
    while todo:
        one = todo.pop()
        if id(one) in seen or isinstance(one, (bytes, str, int, float, Host, World)):
            continue
        seen.add(id(one))
        if isinstance(one, dict):
            total += len(one)
            todo += [*one.keys(), *one.values()]
        elif isinstance(one, (list, tuple, set, frozenset, deque)):
            total += len(one)
            todo += one
        elif type(one).__module__.startswith("p2pstream."):
            todo += vars(one).values() if hasattr(one, "__dict__") else ()
            slots = [n for kind in type(one).__mro__ for n in getattr(kind, "__slots__", ())]
            todo += [getattr(one, name) for name in slots if hasattr(one, name)]
    return total
