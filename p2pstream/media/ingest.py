"""The node's side of the media worker: starts it, listens to it, starts it again when it dies.

What comes out is one timeline, whatever becomes of the workers: a group never starts before the
one delivered before it has ended, and the first of each new worker is marked as discontinuous.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from math import inf
from pathlib import Path

import msgspec
import trio

import p2pstream
from p2pstream.errors import (
    BadConfig,
    BadMessage,
    InputNotFound,
    MediaFailed,
    NoVideo,
    UnsupportedCodec,
    UserError,
)
from p2pstream.media import ladder
from p2pstream.media.options import STDIN, Order, Source, is_url
from p2pstream.media.records import Ended, Failed, Group, Opened, Unpacker, Warned
from p2pstream.stream.chunk import TICKS_PER_S

OPENING_S_MAX = 30.0  # The worker gives an address 10 s; probing and starting take theirs.
SILENCE_S_MAX = 5.0  # security 5.9. The worker itself gives up on a silent address after 4 s.
RESTARTS_MAX = 5  # security 5.9: in a minute.
RESTARTS_WINDOW_S = 60.0
# Seconds before each attempt: a crash is mended at once, a source that is away gets time.
BACKOFF_S = (0.0, 1.0, 2.0, 4.0, 8.0)
READ_BYTES = 256 * 1024  # Four times what a pipe holds.
LINES_MAX = 20  # design: of FFmpeg's complaints, the last ones.
LINE_CHARS_MAX = 300
_FAULTS = {fault.code: fault for fault in (BadConfig, InputNotFound, NoVideo, UnsupportedCodec)}


@dataclass(frozen=True, slots=True)
class Restarted:
    """A worker died and another one takes over. attempt: how many in the last minute."""

    reason: str
    attempt: int


News = Opened | Group | Warned | Restarted | Ended


class Ingest:
    """One source's. stdin: file descriptor to read instead of our own standard input.

    paced: False plays as fast as it can, for tests.
    """

    def __init__(self, source: Source, *, stdin: int | None = None, paced: bool = True) -> None:
        """Raises `BadConfig` for renditions that make no sense."""
        ladder.parse(source.rungs)
        self._source = source
        self._stdin = stdin
        self._paced = paced
        self._deaths: deque[float] = deque()
        self._first_at: float | None = None
        self._end = 0
        self._opened = False
        self._fresh = False  # The next group is the first of a worker that took over.
        self._patience_s = OPENING_S_MAX
        self._process: trio.Process | None = None
        self.complaints: deque[str] = deque(maxlen=LINES_MAX)

    @property
    def pid(self) -> int | None:
        """The worker's process id; None while there is none."""
        return self._process.pid if self._process else None

    async def run(self, deliver: Callable[[News], None]) -> None:
        """Deliver what the source gives, until its end. `deliver` must not block.

        Raises the `UserError` that says what is wrong with the source, or `MediaFailed` when
        workers die too often.
        """
        while True:
            outcome = await self._one_worker(deliver)
            if isinstance(outcome, UserError):
                raise outcome
            if not outcome:
                return
            attempt = self._count_death(outcome)
            deliver(Restarted(outcome, attempt))
            await trio.sleep(BACKOFF_S[attempt - 1])

    async def _one_worker(self, deliver: Callable[[News], None]) -> str | UserError:
        """Run one worker to its end.

        Why it ended, empty if the source did; or what another worker cannot mend, returned as a
        nursery would wrap it.
        """
        async with trio.open_nursery() as nursery:
            process = await self._start()
            try:
                nursery.start_soon(self._hear_complaints, process)
                outcome = await self._listen(process, deliver)
            finally:
                await self._bury(process)
        return outcome

    async def _start(self) -> trio.Process:
        order = Order(
            source=self._source,
            start_pts=self._resume_at(),
            skip=self._end if self._first_at is not None else 0,
            paced=self._paced,
        )
        # -P: no module of the folder we happen to be in. A session of its own: Ctrl-C is for us.
        command = [sys.executable, "-P", "-m", "p2pstream.media.worker", order.text()]
        self._process = await trio.lowlevel.open_process(
            command,
            stdin=self._stdin if self._source.input == STDIN else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            env=_environment(),
        )
        return self._process

    def _resume_at(self) -> int:
        """Where on the timeline now is, in ticks; never before what was delivered."""
        if self._first_at is None:
            return 0
        elapsed = round((trio.current_time() - self._first_at) * TICKS_PER_S)
        return max(self._end, elapsed) if self._paced else self._end

    async def _listen(
        self, process: trio.Process, deliver: Callable[[News], None]
    ) -> str | UserError:
        """Hear one worker out. Why it ended; empty if the source did."""
        assert process.stdout is not None
        unpacker = Unpacker()
        self._fresh = self._first_at is not None
        self._patience_s = OPENING_S_MAX
        while True:
            with trio.move_on_after(self._patience_s) as patience:
                data = await process.stdout.receive_some(READ_BYTES)
            if patience.cancelled_caught:
                return f"the media worker said nothing for {self._patience_s:g} s"
            if not data:
                return await self._obituary(process)
            try:
                for record in unpacker.feed(bytes(data)):
                    if isinstance(record, Failed):
                        return self._blame(record)
                    deliver(self._noted(record))
                    if isinstance(record, Ended):
                        return ""
            except BadMessage as error:
                return f"the media worker made no sense: {error}"

    def _noted(self, record: Opened | Group | Warned | Ended) -> News:
        """`record` as we pass it on, once it has changed what we know."""
        self._opened |= isinstance(record, Opened)
        if not isinstance(record, Group):
            return record
        if record.pts < self._end:
            raise BadMessage(f"a group at {record.pts}, before {self._end}")
        if self._first_at is None:
            self._first_at = trio.current_time()
        if self._fresh:
            record = msgspec.structs.replace(record, discontinuity=True)
        self._fresh = False
        self._end = record.pts + record.duration
        # A pipe may be as slow as the person who types into it.
        self._patience_s = inf if self._source.input == STDIN else SILENCE_S_MAX
        return record

    def _blame(self, failed: Failed) -> str | UserError:
        """Why the worker gave up; an error if the source could not be opened to begin with."""
        if self._opened:
            return failed.message
        return _FAULTS.get(failed.code, MediaFailed)(failed.message, hint=failed.hint)

    def _count_death(self, reason: str) -> int:
        """How many workers have died in the last minute. Raises `MediaFailed` above the budget."""
        now = trio.current_time()
        self._deaths.append(now)
        while self._deaths[0] < now - RESTARTS_WINDOW_S:
            self._deaths.popleft()
        if len(self._deaths) > RESTARTS_MAX:
            raise MediaFailed(
                f"The source failed {len(self._deaths)} times in a minute; the last time: {reason}",
                hint="\n".join(self.complaints) or "Check the source, then start again.",
            )
        return len(self._deaths)

    async def _obituary(self, process: trio.Process) -> str:
        """The output has ended: how did the worker?"""
        with trio.move_on_after(1):  # It closed its output and does not die: we will help it.
            await process.wait()
        code = process.returncode
        if code is not None and code < 0:
            return f"the media worker was killed by {signal.Signals(-code).name}"
        return f"the media worker ended with status {code}"

    async def _hear_complaints(self, process: trio.Process) -> None:
        """Keep the last lines of standard error, however many there are."""
        assert process.stderr is not None
        rest = b""
        with suppress(trio.ClosedResourceError):
            async for data in process.stderr:
                *lines, rest = (rest + data).split(b"\n")
                self.complaints.extend(self._readable(line) for line in lines[-LINES_MAX:])
                rest = rest[-LINE_CHARS_MAX:]

    def _readable(self, line: bytes) -> str:
        text = line.decode(errors="replace")
        if is_url(self._source.input):  # It may hold a password.
            text = text.replace(self._source.input, "the source")
        return "".join(char if char.isprintable() else "?" for char in text)[:LINE_CHARS_MAX]

    async def _bury(self, process: trio.Process) -> None:
        """Kill it if it lives, and leave no zombie."""
        with trio.CancelScope(shield=True):
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
            self._process = None
            for stream in (process.stdout, process.stderr):
                if stream is not None:
                    await stream.aclose()


def _environment() -> dict[str, str]:
    """Nothing secret: only where programs and this package are."""
    keep = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    return keep | {"PYTHONPATH": str(Path(p2pstream.__file__).parent.parent)}
