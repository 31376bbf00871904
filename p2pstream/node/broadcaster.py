"""A broadcaster: signs what its media worker gives, and feeds a few copies to the mesh."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import trio

from p2pstream.core import Note
from p2pstream.identity import StreamKey, secret_bytes
from p2pstream.media.ingest import Ingest, Restarted
from p2pstream.media.records import Ended, Group, Opened, Warned
from p2pstream.net.drive import Driver
from p2pstream.node.node import Node
from p2pstream.node.report import Reporter
from p2pstream.node.state import Store
from p2pstream.stream.chunk import RENDITIONS_MAX
from p2pstream.stream.chunker import Chunker
from p2pstream.stream.epoch import EPOCH_MS_MAX, Epoch, certify
from p2pstream.stream.head import DISCONTINUITY, KEY
from p2pstream.swarm.messages import Role
from p2pstream.swarm.protocol import ORIGIN_COPIES, Config, Swarm

BITRATE_MAX = 80_000_000  # Announced in the epoch: eight renditions of 10 Mbit/s.
RENEW_S = EPOCH_MS_MAX / 1000 / 2  # A new epoch when half of the old one is over.
SEQ_MS = 100  # First seqs are Unix time in these units: a restarted stream never reuses a seq.


@dataclass(slots=True)
class Broadcaster:
    """Broadcasts `ingest` under `root` on `node`."""

    node: Node
    root: StreamKey
    store: Store
    ingest: Ingest
    title: str
    copies: float = ORIGIN_COPIES
    note: Callable[[Note], None] = lambda _: None
    swarm: Swarm = field(init=False)
    reporter: Reporter = field(init=False)
    opened: Opened | None = None
    restarts: int = 0
    stream_bytes: int = 0
    groups: int = 0
    _driver: Driver = field(init=False)
    _chunker: Chunker = field(init=False)
    _inits: dict[int, bytes] = field(default_factory=dict)
    _end_pts: int = 0
    _end_ms: int = 0

    def start(self) -> None:
        """Sign a new epoch and be there for partners."""
        epoch, signer = self._new_epoch()
        now = trio.current_time()
        self._chunker = Chunker(signer, epoch, first_seq=self._now_ms() // SEQ_MS)
        self.swarm = Swarm(
            self.root.stream_id, self.node.node_id, Role.ORIGIN, roads=self.node.carrier,
            rng=self.node.rng, wall=self.node.wall, config=Config(copies=self.copies), epoch=epoch,
        )  # fmt: skip
        self.reporter = Reporter(self.node, self.swarm, now)
        self._driver = self.node.add_swarm(self.swarm, lambda _: None)

    async def run(self) -> None:
        """Until the source ends. Raises the `UserError`s of `Ingest`."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._renew_epochs)
            await self.ingest.run(self._on_news)
            nursery.cancel_scope.cancel()

    def end(self) -> None:
        """Sign the end of the stream."""
        if self.groups and not self.swarm.ended:
            signed = self._chunker.end(captured_ms=self._end_ms, pts=self._end_pts)
            self.swarm.publish(signed, now=trio.current_time())
            self._driver.poke()

    def state(self) -> dict[str, Any]:
        """What `status` and `--json` show."""
        now = trio.current_time()
        live = "live" if self.groups else "opening"
        state = self.reporter.state(now=now, state=live, detail=self._detail())
        state["copies"] = round(self.swarm.counters.given / max(1, self.stream_bytes), 3)
        state["worker"] = {"pid": self.ingest.pid, "restarts": self.restarts}
        state["stream_bytes"] = self.stream_bytes
        return state

    def _detail(self) -> str:
        if self.opened is None:
            return "opening the input"
        names = ", ".join(init.name for init in self.opened.inits)
        return f"{self.opened.source}: {self.opened.plan}, {names}"

    def _on_news(self, news: Opened | Group | Warned | Restarted | Ended) -> None:
        match news:
            case Opened():
                self._on_opened(news)
            case Group():
                self._on_group(news)
            case Warned():
                self.note(Note("warning", {"code": news.code, "message": news.message}))
            case Restarted():
                self.restarts += 1
                self.note(
                    Note("worker_restarted", {"reason": news.reason, "attempt": news.attempt})
                )

    def _on_opened(self, opened: Opened) -> None:
        self.opened = opened
        self._inits = {i.rendition: self.swarm.add_init(i) for i in opened.inits[:RENDITIONS_MAX]}
        names = ",".join(init.name for init in opened.inits)
        self.note(
            Note("opened", {"source": opened.source, "plan": opened.plan, "renditions": names})
        )

    def _on_group(self, group: Group) -> None:
        chunks = {r: (self._inits[r], data) for r, data in group.chunks if r in self._inits}
        flags = (KEY if group.key else 0) | (DISCONTINUITY if group.discontinuity else 0)
        signed = self._chunker.sign(
            chunks, captured_ms=group.captured_ms, pts=group.pts, duration=group.duration,
            flags=flags,
        )  # fmt: skip
        self._end_pts = group.pts + group.duration
        self._end_ms = group.captured_ms
        self.groups += 1
        self.stream_bytes += max(len(data) for _, data in group.chunks)
        self.swarm.publish(signed, now=trio.current_time())
        self._driver.poke()

    async def _renew_epochs(self) -> None:
        while True:
            await trio.sleep(RENEW_S)
            epoch, signer = self._new_epoch()
            self._chunker.renew(signer, epoch)
            self.swarm.renew(epoch, now=trio.current_time())
            self._driver.poke()

    def _new_epoch(self) -> tuple[Epoch, StreamKey]:
        """A fresh signing key that never touches the disk, certified for a day."""
        signer = StreamKey(secret_bytes())
        number = self.store.next_epoch(self.root.stream_id, now_s=self._now_ms() / 1000)
        epoch = certify(
            self.root, number, signer.public, now_ms=self._now_ms(), bitrate_max=BITRATE_MAX,
            title=self.title,
        )  # fmt: skip
        return epoch, signer

    def _now_ms(self) -> int:
        return int(self.node.wall(trio.current_time()) * 1000)
