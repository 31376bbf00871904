"""A stream and its swarm in a `World`: one origin, seeds and viewers, all with the real core."""

from __future__ import annotations

from random import Random

from p2pstream.identity import NodeId, StreamKey
from p2pstream.stream.chunk import TICKS_PER_S, Init
from p2pstream.stream.chunker import Chunker, Signed
from p2pstream.stream.epoch import Epoch, certify
from p2pstream.stream.head import KEY
from p2pstream.swarm.messages import SWARM_MESSAGES, Role
from p2pstream.swarm.protocol import ORIGIN_COPIES, SEED_COPIES, Config, Play, Swarm
from p2pstream.wire.codec import Codec
from tests.world.fabric import Host, World, key_of, wall

CHUNK_S = 0.2
GOP_CHUNKS = 5


class Studio:
    """Makes the signed chunks of a broadcast: random bytes of the right size at the right time."""

    def __init__(self, *, bitrates: tuple[int, ...] = (1_000_000,), seed: int = 7) -> None:
        self.root = StreamKey((1 << 200).to_bytes(32))
        self.signer = StreamKey((2 << 200).to_bytes(32))
        self.bitrates = bitrates
        self.rng = Random(seed)
        self.epoch: Epoch = certify(
            self.root, 1, self.signer.public, now_ms=int(wall(0) * 1000) - 1000,
            bitrate_max=sum(bitrates), title="a test",
        )  # fmt: skip
        self.chunker = Chunker(self.signer, self.epoch, first_seq=1000)
        self.made = 0
        self.sent: dict[tuple[int, int], bytes] = {}

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

    def _publish(self) -> None:
        if self.live and self.origin.alive:
            signed = self.studio.next(self.hashes, now=self.world.now)
            self.swarm(self.origin).publish(signed, now=self.world.now)
            self.origin.act()
        self.world.at(self.world.now + CHUNK_S, self._publish)
