"""A viewer: a node that plays one stream, to a local page and players, and to a file."""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import trio

from p2pstream.core import Note
from p2pstream.errors import DiskFull, NoPeers, StreamNotFound
from p2pstream.identity import StreamId
from p2pstream.node.node import Node
from p2pstream.node.report import Reporter
from p2pstream.node.state import Store
from p2pstream.playback.hls import LiveWindow
from p2pstream.swarm.messages import Role
from p2pstream.swarm.protocol import Config, EpochSeen, InitReady, Play, Swarm

SEARCH_S = 20.0  # security/architecture.md 5.4: a look-up takes at most 20 s; D-10 says the same.
WAITING_S = 2.0  # Without a new head this long, the stream has gone silent.
LAGS_MAX = 3600 * 5  # An hour of chunks of 200 ms, for the percentiles of the summary.


@dataclass(slots=True)
class Viewer:
    """Plays `stream` on `node`. window: what the gateway serves. published: called on news."""

    node: Node
    stream: StreamId
    store: Store | None = None
    config: Config = field(default_factory=Config)
    window: LiveWindow = field(default_factory=LiveWindow)
    recorder: Recorder | None = None
    published: Callable[[], None] = lambda: None
    swarm: Swarm = field(init=False)
    reporter: Reporter = field(init=False)
    lags_s: deque[float] = field(default_factory=lambda: deque(maxlen=LAGS_MAX))
    played_s: float = 0.0
    ended: trio.Event = field(default_factory=trio.Event)

    def start(self, seeds: tuple[Any, ...] = ()) -> None:
        """Join the swarm. seeds: (node, address) of the ticket, dialled at once."""
        now = trio.current_time()
        self.swarm = Swarm(
            self.stream, self.node.node_id, Role.VIEWER, roads=self.node.carrier,
            rng=self.node.rng, wall=self.node.wall, config=self.config,
            epoch_mark=self.store.mark(self.stream) if self.store else 0,
        )  # fmt: skip
        self.reporter = Reporter(self.node, self.swarm, now)
        driver = self.node.add_swarm(self.swarm, self._on_effect)
        for node, address in seeds:
            self.swarm.learn(node, [address], now=now)
        driver.poke()

    async def wait_playing(self) -> None:
        """Until the first chunk is played. Raises `NoPeers` or `StreamNotFound` after 20 s."""
        with trio.move_on_after(SEARCH_S):
            while self.swarm.first_chunk_at is None:
                if self.swarm.ended:
                    raise StreamNotFound("the stream has ended")
                await trio.sleep(0.05)
        if self.swarm.first_chunk_at is not None:
            return
        if not self.node.carrier.links():
            raise NoPeers(
                f"none of the ticket's seeds answered within {SEARCH_S:.0f} s",
                hint="Is your network up, and does it let UDP out? Or ask for a newer ticket.",
            )
        raise StreamNotFound(
            "the network is there, but nobody in it has this stream now",
            hint="Is the broadcast running? Try again, or ask for a newer ticket.",
        )

    def state(self) -> dict[str, Any]:
        """What the page shows."""
        now = trio.current_time()
        state, detail = self._state(now)
        return self.reporter.state(now=now, state=state, detail=detail)

    def _state(self, now: float) -> tuple[str, str]:
        swarm = self.swarm
        if swarm.first_chunk_at is None:
            return "joining", self._joining()
        if swarm.ended:
            return "ended", "the broadcaster has ended the stream"
        newest = swarm.window.head(swarm.window.newest)
        if newest and self.node.wall(now) - newest.captured_ms / 1000 > WAITING_S + 1.0:
            return "waiting", "nothing new from the broadcaster: waiting"
        return "live", "live"

    def _joining(self) -> str:
        if not self.node.carrier.links():
            return "calling the seeds of the ticket"
        if not self.swarm.partners:
            return "looking for people who watch this stream"
        if self.swarm.window.newest < 0:
            return "waiting for the first signed head"
        return "fetching from the newest key frame on"

    def _on_effect(self, effect: object) -> None:
        match effect:
            case InitReady():
                self.window.add_init(effect.init, effect.hash)
            case Play():
                self._on_play(effect)
            case EpochSeen():
                if self.store:
                    self.store.save_mark(self.stream, effect.epoch.number)

    def _on_play(self, play: Play) -> None:
        chunk = play.chunk
        self.played_s += chunk.seconds
        self.lags_s.append(self.node.wall(trio.current_time()) - chunk.captured_ms / 1000)
        self.window.add(chunk)
        if self.recorder is not None:
            init = self.swarm.inits[chunk.init]
            self.recorder.write(init.data, chunk.data, key=chunk.key)
        self.published()

    def on_note(self, note: Note) -> None:
        """The node's notes: the end of the stream is one."""
        if note.event == "ended":
            self.window.end()
            self.published()
            self.ended.set()


class Recorder:
    """Writes what is played to a file: init, then chunks, the very bytes that were signed."""

    def __init__(self, out: BinaryIO, name: str) -> None:
        self._out, self._name = out, name
        self._init = b""
        self.bytes = 0
        self.failed: DiskFull | None = None

    def write(self, init: bytes, chunk: bytes, *, key: bool) -> None:
        """A full disk ends the recording, not the stream: `failed` says so; the file stays."""
        if self.failed is not None or not (self._init or key):
            return
        data = chunk if init == self._init else init + chunk
        try:
            self._out.write(data)
            self._out.flush()
        except OSError as error:
            why = "no room left" if error.errno == errno.ENOSPC else error.strerror
            self.failed = DiskFull(
                f"recording to {self._name} stopped: {why}",
                hint="What was recorded before is there and plays.",
            )
            return
        self._init = init
        self.bytes += len(data)


@contextmanager
def recording(path: str, stdout: BinaryIO) -> Iterator[Recorder]:
    """Record to `path`, `-` being standard output. Raises `DiskFull` when it cannot be opened."""
    if path == "-":
        yield Recorder(stdout, "standard output")
        return
    try:
        out = Path(path).open("wb")  # noqa: SIM115  # Closed below.
    except OSError as error:
        raise DiskFull(
            f"cannot write {path}: {error.strerror}", hint="Name a file in a folder you may write."
        ) from None
    try:
        yield Recorder(out, path)
    finally:
        # Each chunk is flushed, so only what a full disk has refused is left, which `failed` told.
        with suppress(OSError):
            out.close()
