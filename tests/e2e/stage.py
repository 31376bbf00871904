"""A stage for the whole program: nodes as real processes on loopback, and nothing left behind.

Every process has a session of its own and XDG folders of its own; what it says (`--json`) is kept
line by line with the time at which it was said. Whoever waits here names a deadline.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from p2pstream.access import Seed, Ticket, parse_ticket
from p2pstream.identity import NodeId

ROOT = Path(__file__).parents[2]
PATIENCE_S = 40.0  # For anything that takes 2 s on an idle machine: CI machines are shared.
DIE_S = 10.0


def seconds(name: str, default: float) -> float:
    """A duration that CI keeps short and a person may lengthen: P2PSTREAM_E2E_<name>_S."""
    return float(os.environ.get(f"P2PSTREAM_E2E_{name}_S", default))


def now() -> float:
    return time.perf_counter()


def wait_until(true: Callable[[], Any], what: str, timeout_s: float = PATIENCE_S) -> Any:
    """What `true` returned, once it is something."""
    deadline = now() + timeout_s
    while not (value := true()):
        assert now() < deadline, f"{what}: not within {timeout_s:g} s"
        time.sleep(0.05)
    return value


@dataclass(frozen=True)
class Line:
    """One JSON line of a process, and when we read it."""

    at: float
    said: dict[str, Any]


@dataclass
class Actor:
    """One process. Its name is for messages."""

    name: str
    process: subprocess.Popen[bytes]
    home: Path
    lines: list[Line] = field(default_factory=list)
    noise: list[str] = field(default_factory=list)  # Lines that were not JSON, and stderr.
    raw: bytearray = field(default_factory=bytearray)
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _readers: list[threading.Thread] = field(default_factory=list)

    def attend(self, *, binary: bool) -> None:
        assert self.process.stdout
        assert self.process.stderr
        hear = self._hear_bytes if binary else self._hear_lines
        for read, pipe in ((hear, self.process.stdout), (self._hear_noise, self.process.stderr)):
            reader = threading.Thread(target=read, args=(pipe,), daemon=True)
            reader.start()
            self._readers.append(reader)

    # What it said.

    def said(self, event: str) -> list[Line]:
        return [line for line in list(self.lines) if line.said.get("event") == event]

    def last(self, event: str = "stats") -> dict[str, Any]:
        lines = self.said(event)
        return lines[-1].said if lines else {}

    def wait_for(
        self,
        event: str,
        true: Callable[[dict[str, Any]], Any] = lambda _: True,
        *,
        since: float = 0.0,
        timeout_s: float = PATIENCE_S,
    ) -> dict[str, Any]:
        """The first line of that event, said after `since`, that is `true`."""
        deadline, seen = now() + timeout_s, 0
        while True:
            for line in self.lines[seen:]:
                seen += 1
                if line.said.get("event") == event and line.at >= since and true(line.said):
                    return line.said
            with self._changed:
                if seen == len(self.lines):
                    gone = self.process.poll() is not None
                    assert not gone, f"{self.name} ended without {event!r}: {self.words()}"
                    assert now() < deadline, f"{self.name}: no such {event!r}: {self.words()}"
                    self._changed.wait(0.1)

    def next_stats(self, count: int = 1) -> dict[str, Any]:
        """Its figures, read anew."""
        for _ in range(count):
            stats = self.wait_for("stats", since=now())
        return stats

    def words(self) -> str:
        last = [json.dumps(line.said)[:3000] for line in self.lines[-2:]]
        return "\n".join([f"exit {self.process.poll()}", *self.noise[-20:], *last])

    # What we do to it.

    @property
    def pid(self) -> int:
        return self.process.pid

    def send(self, number: signal.Signals) -> None:
        """To the process alone, as `kill` would."""
        self.process.send_signal(number)

    def kill(self) -> None:
        """As `kill -9`: without a word to anybody."""
        self.send(signal.SIGKILL)
        self.process.wait(DIE_S)

    def stop(self, timeout_s: float = 20.0) -> int:
        """As Ctrl-C. Returns the exit status."""
        self.send(signal.SIGINT)
        return self.wait(timeout_s)

    def wait(self, timeout_s: float = PATIENCE_S) -> int:
        status = self.process.wait(timeout_s)
        for reader in self._readers:
            reader.join(DIE_S)
        return status

    def end(self) -> None:
        """Whatever happens, it is gone after this, with all that it started."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait(DIE_S)
        for reader in self._readers:
            reader.join(DIE_S)
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe:
                pipe.close()

    def rss_kib(self) -> int:
        """Resident memory."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0])

    def _hear_lines(self, pipe: Any) -> None:
        for raw in pipe:
            try:
                said = json.loads(raw)
            except ValueError:
                self.noise.append(raw.decode(errors="replace").rstrip())
                continue
            with self._changed:
                self.lines.append(Line(now(), said))
                self._changed.notify_all()

    def _hear_bytes(self, pipe: Any) -> None:
        while data := pipe.read1(65536):
            self.raw += data

    def _hear_noise(self, pipe: Any) -> None:
        for raw in pipe:
            self.noise.append(raw.decode(errors="replace").rstrip())


class Stage:
    """Starts actors in a folder of its own, and ends them all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.actors: list[Actor] = []
        self.workers: set[int] = set()

    def home(self, name: str) -> Path:
        """XDG folders for one identity. Two actors that share them share keys."""
        home = self.folder / name
        for part in ("state", "config", "run"):
            (home / part).mkdir(mode=0o700, parents=True, exist_ok=True)
        return home

    def start(
        self,
        name: str,
        *arguments: str,
        home: str = "",
        binary: bool = False,
        module: str = "p2pstream",
    ) -> Actor:
        """Start a command. home: whose folders; its own if not said."""
        place = self.home(home or name)
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=ROOT,
            env=environment(place),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        actor = Actor(name, process, place)
        self.actors.append(actor)
        actor.attend(binary=binary)
        return actor

    # Nodes.

    def seed(self, name: str = "seed", *arguments: str) -> Actor:
        seed = self.start(name, "seed", "--host", "127.0.0.1", "--port", "0", "--json", *arguments)
        seed.wait_for("running")
        return seed

    def broadcast(self, source: str, *arguments: str, home: str = "origin", port: int = 0) -> Actor:
        """A broadcaster that has opened its input."""
        origin = self.start(
            f"broadcast {Path(source).name}", "broadcast", source, "--host", "127.0.0.1",
            "--port", str(port), "--json", *arguments, home=home,
        )  # fmt: skip
        origin.wait_for("opened")
        self.workers.add(origin.wait_for("stats")["worker"]["pid"])
        return origin

    def watch(self, name: str, ticket: str, *arguments: str, page: bool = False) -> Actor:
        """A viewer; wait for its `playing` yourself."""
        options = ("--player", "none") if page else ("--no-page",)
        return self.start(
            name, "watch", ticket, "--host", "127.0.0.1", "--json", *options, *arguments
        )

    def signal_worker(self, pid: int, number: signal.Signals) -> None:
        """To a media worker of ours, and nobody else."""
        assert b"p2pstream.media.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
        os.kill(pid, number)

    def end(self) -> None:
        for actor in reversed(self.actors):
            actor.end()
        for pid in self.workers:
            # Workers have sessions of their own, and die with the pipe to their node.
            wait_until(partial(dead, pid), f"media worker {pid} is still there", DIE_S)


@contextmanager
def stage() -> Iterator[Stage]:
    """A stage that leaves nothing behind."""
    # Not pytest's folder: the paths of UNIX sockets are at most 107 bytes long.
    with tempfile.TemporaryDirectory(prefix="p2ps-") as folder:
        made = Stage(Path(folder))
        try:
            yield made
        finally:
            made.end()


def environment(home: Path) -> dict[str, str]:
    """Ours, with XDG folders below `home`, and no setting of the user's."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("P2PSTREAM_", "XDG_"))}
    return kept | {
        "XDG_STATE_HOME": str(home / "state"),
        "XDG_CONFIG_HOME": str(home / "config"),
        "XDG_RUNTIME_DIR": str(home / "run"),
        "PYTHONWARNINGS": "default",
        "COLUMNS": "100",
        "NO_COLOR": "1",
    }


def alive(pid: int) -> bool:
    """Whether it runs: a zombie does not."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def dead(pid: int) -> bool:
    return not alive(pid)


def ticket_of(origin: Actor) -> str:
    ticket: str = origin.wait_for("ticket")["ticket"]
    return ticket


def ticket_via(ticket: str, *ways: Seed) -> str:
    """A ticket for the same stream that names these nodes and nobody else."""
    return str(Ticket(parse_ticket(ticket).stream, ways))


def way_to(actor: Actor, port: int) -> Seed:
    """A viewer on a port we chose, as a ticket names it."""
    return Seed(NodeId(bytes.fromhex(actor.wait_for("running")["node"])), ("127.0.0.1", port))


def free_port() -> int:
    """A UDP port that nobody has now."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def taken(totals: dict[str, int]) -> int:
    return totals["from_peers"] + totals["from_seeds"] + totals["from_origin"]


def footage(name: str) -> Path | None:
    """A file of that name anywhere below P2PSTREAM_FOOTAGE."""
    folder = os.environ.get("P2PSTREAM_FOOTAGE")
    return next(iter(sorted(Path(folder).rglob(name))), None) if folder else None
