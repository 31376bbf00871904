"""`p2pstream demo`: a whole mesh on this machine, each node a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import webbrowser
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import trio
from rich.live import Live
from rich.table import Table

from p2pstream.cli.common import Talk, json_option, run, size
from p2pstream.errors import MediaFailed, UserError
from p2pstream.metrics import percentile, ratio

BITRATE = "1M"
SHOWN = 2  # Whose page opens: the third has others to take from and to give to.
START_S = 30.0  # For one process to say what we wait for: ten times what a slow machine takes.
PLAY_S = 10.0  # For one viewer to play before the next one starts.
END_S = 10.0  # After the end of the broadcast the viewers sum up and go.
COMPLAINTS_MAX = 20  # Of a process's last words on stderr.
LINE_BYTES_MAX = 4 * 1024 * 1024  # A summary with an hour of lags.


@click.command(
    epilog="""\b
Examples:
  p2pstream demo
  p2pstream demo --viewers 4 --duration 20 --json
"""
)
@click.option("--viewers", type=click.IntRange(1, 64), default=8, show_default=True)
@click.option("--duration", type=click.FloatRange(min=1), metavar="S",
              help="End after S seconds with all viewers there (default: at Ctrl-C).")  # fmt: skip
@json_option
def command(viewers: int, duration: float | None, as_json: bool) -> None:
    """See a whole mesh at work on this machine.

    One seed, one broadcaster and some viewers, each a process of its own. The page of one viewer
    opens in your browser; at the end you see what everybody measured.
    """
    stage = Stage(Talk(as_json=as_json), viewers)
    run(lambda work: stage.run(work, duration))


@dataclass(slots=True)
class Actor:
    """One process of the demo. said: the last line of each kind of event."""

    name: str
    process: trio.Process
    said: dict[str, dict[str, Any]] = field(default_factory=dict)
    complaints: deque[str] = field(default_factory=lambda: deque(maxlen=COMPLAINTS_MAX))
    gone: bool = False
    _news: trio.Event = field(default_factory=trio.Event)

    async def wait_for(self, event: str, timeout_s: float) -> dict[str, Any] | None:
        """The line of that event, or None when it does not come."""
        with trio.move_on_after(timeout_s):
            while event not in self.said and not self.gone:
                await self._news.wait()
        return self.said.get(event)

    async def need(self, event: str) -> dict[str, Any]:
        """As `wait_for`. Raises `MediaFailed` with what the process said when it does not come."""
        line = await self.wait_for(event, START_S)
        if line is not None:
            return line
        error = self.said.get("error", {}).get("error", {})
        raise MediaFailed(
            f"the demo's {self.name} did not start: {self.last_words}", hint=error.get("hint", "")
        )

    @property
    def last_words(self) -> str:
        """Why it is not what it should be, by what it said."""
        code = self.process.returncode
        ended = "it said nothing" if code is None else f"it ended with exit code {code}"
        error = self.said.get("error", {}).get("error", {})
        return error.get("message") or "\n".join(self.complaints) or ended

    def hear(self, line: bytes) -> None:
        message = json.loads(line)
        self.said["error" if "error" in message else message["event"]] = message
        self.notify()

    def notify(self) -> None:
        self._news.set()
        self._news = trio.Event()


class Stage:
    """The demo. Leaves no process behind, however it ends."""

    def __init__(self, talk: Talk, wanted: int) -> None:
        self.talk = talk
        self.wanted = wanted
        self.actors: list[Actor] = []
        self.viewers: list[Actor] = []

    async def run(self, work: trio.CancelScope, duration_s: float | None) -> None:
        """Until `duration_s` is over, or SIGINT: either way everybody sums up."""
        with tempfile.TemporaryDirectory(prefix="p2pstream-demo-") as folder:
            self._folder = Path(folder)
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                with work:
                    await self._play(duration_s)
                await self._end()
                nursery.cancel_scope.cancel()

    async def _play(self, duration_s: float | None) -> None:
        self.talk.say("starting a seed, then a broadcaster")
        seed = await self._start("seed", "seed", "--port", "0")
        address = (await seed.need("running"))["seed"]
        origin = await self._start(
            "broadcaster", "broadcast", "testsrc", "--ladder", BITRATE, "--port", "0",
            "--seed", address, "--title", "p2pstream demo",
        )  # fmt: skip
        ticket: str = (await origin.need("ticket"))["ticket"]
        await origin.need("opened")
        with self.talk.picture() as live:
            self._nursery.start_soon(self._show, live)
            for number in range(self.wanted):
                await self._let_in(number, ticket)
            await trio.sleep(duration_s if duration_s is not None else float("inf"))

    async def _let_in(self, number: int, ticket: str) -> None:
        """One viewer after the other, as guests come: the next when this one plays."""
        shown = number == min(SHOWN, self.wanted - 1)
        page = ("--player", "none") if shown else ("--no-page",)
        viewer = await self._start(f"viewer {number + 1}", "watch", ticket, *page)
        self.viewers.append(viewer)
        if shown:
            url = (await viewer.need("page"))["url"]
            if not self.talk.as_json:
                opened = await trio.to_thread.run_sync(webbrowser.open, url)
                self.talk.say(
                    f"page of viewer {number + 1}: {url}"
                    + ("" if opened else "  (open it yourself)")
                )
        await viewer.wait_for("playing", PLAY_S)

    async def _end(self) -> None:
        """The broadcaster signs the end; everybody sums up and goes."""
        if len(self.actors) > 1:
            origin = self.actors[1]
            if not origin.gone:
                origin.process.send_signal(signal.SIGINT)
            await origin.wait_for("summary", END_S)
            with trio.move_on_after(END_S):
                for viewer in self.viewers:
                    await viewer.wait_for("summary", END_S)
        if self.viewers:
            self._sum_up()

    def _sum_up(self) -> None:
        result = results(self)
        if self.talk.as_json:
            click.echo(json.dumps(result))
        else:
            self.talk.console.print(result_table(result))

    # Showing.

    async def _show(self, live: Live | None) -> None:
        while True:
            await trio.sleep(1.0)
            if live is not None:
                live.update(stage_table(self), refresh=True)

    # Processes.

    async def _start(self, name: str, *arguments: str) -> Actor:
        runtime = self._folder / "run"
        runtime.mkdir(mode=0o700, exist_ok=True)
        process = await trio.lowlevel.open_process(
            [sys.executable, "-m", "p2pstream", *arguments, "--host", "127.0.0.1", "--json"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env=os.environ | {
                "XDG_STATE_HOME": str(self._folder), "XDG_CONFIG_HOME": str(self._folder),
                "XDG_RUNTIME_DIR": str(runtime),
            },
            start_new_session=True,
        )  # fmt: skip
        actor = Actor(name, process)
        self.actors.append(actor)
        self._nursery.start_soon(self._attend, actor)
        return actor

    async def _attend(self, actor: Actor) -> None:
        process = actor.process
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_each_line, process.stderr, _complaint(actor))
                await _each_line(process.stdout, actor.hear)
                await process.wait()
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            with trio.CancelScope(shield=True):
                await process.wait()
            actor.gone = True
            actor.notify()


def results(stage: Stage) -> dict[str, Any]:
    """The figures of the whole demo, from the counters of both ends. Raises `UserError`."""
    origin = stage.actors[1].said.get("summary")
    viewers = [v.said["summary"] for v in stage.viewers if "summary" in v.said]
    if origin is None or not viewers:
        silent = stage.actors[1] if origin is None else stage.viewers[0]
        raise UserError(
            f"the demo's {silent.name} went without its figures: {silent.last_words}",
            hint="End the demo with one Ctrl-C, once viewers play; a second one ends it at once.",
        )
    seed = stage.actors[0].said.get("stats", {})
    given = origin["totals"]["uploaded"]
    taken = sum(_taken(v["totals"]) for v in viewers)
    doubled = sum(v["totals"]["duplicates"] for v in viewers)
    playouts = [v["playout"] for v in viewers]
    played = sum(p["played"] for p in playouts)
    starts = [p["startup_s"] for p in playouts if p["startup_s"] is not None]
    lags = [lag for v in viewers for lag in v["lags_s"]]
    stalled_s = sum(p["stall_s"] for p in playouts)
    sent = origin["bytes_out"] + sum(v["bytes_out"] for v in viewers) + seed.get("bytes_out", 0)
    pieces = given + sum(v["totals"]["uploaded"] for v in viewers) + seed.get("given", 0)
    return {
        "viewers": stage.wanted,
        "viewers_playing": sum(p["played"] > 0 and p["startup_s"] is not None for p in playouts),
        "startup_s_p50": round(percentile(starts, 0.5), 3),
        "startup_s_p95": round(percentile(starts, 0.95), 3),
        "lag_s_p50": round(percentile(lags, 0.5), 3),
        "lag_s_p95": round(percentile(lags, 0.95), 3),
        "stall_ratio": round(ratio(stalled_s, stalled_s + sum(v["played_s"] for v in viewers)), 5),
        "continuity": round(
            ratio(played - sum(p["late"] for p in playouts),
                  played + sum(p["skipped"] for p in playouts)), 5),
        "offload": round(ratio(taken - given, taken), 4),
        "offload_limit": round(1 - 1 / stage.wanted, 4),
        "origin_copies": round(given / max(1, origin["stream_bytes"]), 3),
        "duplicate_ratio": round(ratio(doubled, taken + doubled), 5),
        "control_ratio": round(ratio(sent - pieces, sent), 5),
        "pieces_verified": sum(v["totals"]["pieces_verified"] for v in viewers),
        "pieces_refused": sum(v["totals"]["pieces_refused"] for v in viewers),
        "cpu_s_per_viewer_s": round(sum(v["cpu_s_per_s"] for v in viewers) / len(viewers), 4),
    }  # fmt: skip


def result_table(result: dict[str, Any]) -> Table:
    """The figures for people."""
    out = Table(title="What everybody measured", show_header=False, title_justify="left")

    def percent(key: str) -> str:
        return f"{100 * result[key]:.1f} %"

    def two(key: str) -> str:
        return f"{result[key + '_p50']:.2f} s  (95 %: {result[key + '_p95']:.2f} s)"

    out.add_row("viewers playing", f"{result['viewers_playing']} of {result['viewers']}")
    out.add_row("start-up", two("startup_s"))
    out.add_row("lag behind the camera", two("lag_s"))
    out.add_row("stalled", percent("stall_ratio"))
    out.add_row("chunks on time", percent("continuity"))
    out.add_row(
        "[bold]carried by viewers[/]",
        f"[bold]{percent('offload')}[/]  (at most {percent('offload_limit')})",
    )
    out.add_row("copies the origin sent", f"{result['origin_copies']:.2f}")
    out.add_row("sent twice", percent("duplicate_ratio"))
    out.add_row("overhead", percent("control_ratio"))
    verified, refused = result["pieces_verified"], result["pieces_refused"]
    out.add_row("pieces", f"{verified} verified, {refused} refused")
    out.add_row("processor for each viewer", percent("cpu_s_per_viewer_s"))
    return out


def stage_table(stage: Stage) -> Table:
    """The live picture: one row a node."""
    out = Table(title="p2pstream demo   [dim]Ctrl-C ends it[/]", title_justify="left", box=None)
    for column in ("node", "state", "lag", "from viewers", "from seed", "from origin", "gave"):
        out.add_column(column, justify="left" if column in {"node", "state"} else "right")
    for actor in stage.actors:
        stats = actor.said.get("stats")
        if actor.gone or stats is None:
            out.add_row(actor.name, "[red]gone[/]" if actor.gone else "[dim]starting[/]")
        elif "totals" in stats:
            out.add_row(actor.name, *_figures(stats))
        else:
            given = sum(s["totals"]["uploaded"] for s in stats["streams"])
            out.add_row(actor.name, "relaying", "", "", "", "", size(given))
    return out


def _figures(stats: dict[str, Any]) -> list[str]:
    totals, playout = stats["totals"], stats["playout"]
    taken = _taken(totals)
    lag = f"{playout['lag_s']:.2f} s" if playout and playout["lag_s"] is not None else ""
    shares = [
        f"{100 * totals[key] / taken:.0f} %" if taken else ""
        for key in ("from_peers", "from_seeds", "from_origin")
    ]
    return [stats["state"], lag, *shares, size(totals["uploaded"])]


def _taken(totals: dict[str, Any]) -> int:
    taken: int = totals["from_peers"] + totals["from_seeds"] + totals["from_origin"]
    return taken


def _complaint(actor: Actor) -> Callable[[bytes], None]:
    return lambda line: actor.complaints.append(line.decode(errors="replace"))


async def _each_line(stream: trio.abc.ReceiveStream, hear: Callable[[bytes], None]) -> None:
    buffer = b""
    async for data in stream:
        *lines, buffer = (buffer + data).split(b"\n")
        for line in lines:
            hear(line)
        if len(buffer) > LINE_BYTES_MAX:
            buffer = b""
