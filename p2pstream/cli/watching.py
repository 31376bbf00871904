"""What `p2pstream watch` does: joins, plays, and tells people and programs how it goes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import webbrowser
from contextlib import AsyncExitStack, ExitStack
from typing import Any

import trio
from rich.markup import escape
from rich.table import Table

from p2pstream.access import Ticket
from p2pstream.cli.common import STATS_S, Talk, counted, cpu_s, size
from p2pstream.core import Note
from p2pstream.errors import MissingHelper
from p2pstream.identity import Address, NodeKey, secret_bytes
from p2pstream.metrics import percentile, ratio
from p2pstream.node.control import showing
from p2pstream.node.node import Node, lan
from p2pstream.node.state import Paths, Store
from p2pstream.node.viewer import Viewer, recording
from p2pstream.swarm.protocol import Config

LEAVE_S = 0.1  # For our word that we go.
LINGER_S = 1.0  # After the end, so that players get the last chunk and partners the news.


async def watch(
    ticket: Ticket,
    talk: Talk,
    work: trio.CancelScope,
    *,
    player: str,
    output: str | None,
    http_port: int | None,
    copies: float,
    bind: Address,
    advertise: Address | None,
    yields: bool,
) -> None:
    """Until the stream ends. http_port: None for no page."""
    paths = Paths.default()
    store = Store(paths.state)
    seeds = [(seed.node, seed.address) for seed in ticket.seeds]
    # A viewer is a stranger each time: nobody can follow it from stream to stream.
    key = NodeKey(secret_bytes())
    viewer: Viewer

    def note(news: Note) -> None:
        talk.note(news)
        viewer.on_note(news)

    node = Node(
        key, host=bind[0], port=bind[1], allow_private=lan(a for _, a in seeds),
        advertise=advertise, yields=yields, note=note,
    )  # fmt: skip
    async with AsyncExitStack() as stack:
        files = stack.enter_context(ExitStack())
        recorder = files.enter_context(recording(output, sys.stdout.buffer)) if output else None
        nursery = await stack.enter_async_context(trio.open_nursery())
        await nursery.start(node.run)
        talk.event("running", node=node.node_id.hex(), pid=os.getpid())
        viewer = Viewer(node, ticket.stream, store, Config(copies=copies), recorder=recorder)
        node.bootstrap([*seeds, *store.peers()])
        viewer.start(tuple(seeds))
        session = Session(viewer, talk)
        await stack.enter_async_context(showing(paths.runtime, "watch", viewer.state))
        if http_port is not None:
            await session.open_page(nursery, http_port)
        nursery.start_soon(session.show)
        helper = None
        with work:
            await viewer.wait_playing()
            session.playing()
            helper = start_player(player, session.url, talk)
            await viewer.ended.wait()
            await trio.sleep(LINGER_S)
        session.finish()
        node.remove_swarm(ticket.stream, "going")
        store.save_peers(node.contacts())
        if helper is not None:
            helper.terminate()
        if session.gateway is not None:
            session.gateway.stop()
        await trio.sleep(LEAVE_S)
        nursery.cancel_scope.cancel()


class Session:
    """One watching, told to people and programs."""

    def __init__(self, viewer: Viewer, talk: Talk) -> None:
        self.viewer, self.talk = viewer, talk
        self.gateway: Any = None
        self.url = ""
        self._cpu_s = cpu_s()
        self._since = trio.current_time()

    async def open_page(self, nursery: trio.Nursery, port: int) -> None:
        """Serve the page, at once: it shows how joining goes."""
        from p2pstream.node.gateway import Gateway  # noqa: PLC0415  # Half a second of imports.

        self.gateway = Gateway(self.viewer.window, self.viewer.state, port=port)
        self.viewer.published = self.gateway.published
        self.url = await nursery.start(self.gateway.serve)
        self.talk.event("page", url=self.url)
        self.talk.say(f"page      [link={self.url}]{self.url}[/]")
        self.talk.say(f"playlist  {self.url}live/index.m3u8")

    def playing(self) -> None:
        state = self.viewer.state()
        self._cpu_s, self._since = cpu_s(), trio.current_time()
        self.talk.event("playing", startup_s=state["playout"]["startup_s"])

    async def show(self) -> None:
        """Refresh the figures once a second."""
        with self.talk.picture() as live:
            while True:
                await trio.sleep(STATS_S)
                self._check_recorder()
                state = self.viewer.state()
                if self.talk.as_json:
                    self.talk.event("stats", **state, lags_s=self._lags())
                elif live is not None:
                    live.update(table(state), refresh=True)

    def finish(self) -> None:
        """The summary that a demo, or a person, adds up."""
        state = self.viewer.state()
        self.talk.event("summary", **summary(self.viewer, state, self._used()))
        if not self.talk.as_json:
            totals = state["totals"]
            self.talk.say(
                f"watched {self.viewer.played_s:.0f} s, took {size(_taken(totals))}, "
                f"gave back {size(totals['uploaded'])}, stalled {state['playout']['stall_s']:.1f} s"
            )

    def _used(self) -> float:
        passed_s = trio.current_time() - self._since
        return (cpu_s() - self._cpu_s) / passed_s if passed_s > 0 else 0.0

    def _lags(self) -> dict[str, float]:
        recent = list(self.viewer.lags_s)[-50:]
        return {"p50": round(percentile(recent, 0.5), 3), "p95": round(percentile(recent, 0.95), 3)}

    def _check_recorder(self) -> None:
        recorder = self.viewer.recorder
        if recorder is not None and recorder.failed is not None:
            failed, recorder.failed = recorder.failed, None
            self.viewer.recorder = None
            self.talk.event("recording_stopped", message=str(failed), hint=failed.hint)
            self.talk.say(f"[yellow]{escape(str(failed))}[/]. {escape(failed.hint)}")


def summary(viewer: Viewer, state: dict[str, Any], cpu: float) -> dict[str, Any]:
    """Everything a demo needs of one viewer. cpu: seconds of processor a second."""
    endpoint = viewer.node.carrier.counters.endpoint
    return {
        "playout": state["playout"],
        "totals": state["totals"],
        "played_s": round(viewer.played_s, 3),
        "lags_s": [round(lag, 3) for lag in viewer.lags_s],
        "cpu_s_per_s": round(cpu, 4),
        "bytes_out": endpoint.bytes_out,
        "bytes_in": endpoint.bytes_in,
    }


def table(state: dict[str, Any]) -> Table:
    """The live picture on a terminal."""
    playout, totals = state["playout"], state["totals"]
    out = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    title = state["stream"]["title"] or state["stream"]["id"][:12]
    rendition = state["rendition"]["name"] if state["rendition"] else "-"
    lag = f"{playout['lag_s']:.2f} s" if playout["lag_s"] is not None else "-"
    news = dict.fromkeys((state["state"], state["detail"]))  # While it is live they are one word.
    out.add_row(f"[bold]{escape(title)}[/]", escape(": ".join(news)))
    out.add_row("lag", f"{lag}   buffer {playout['buffer_s']:.2f} s   {rendition}   "
                f"stalls {playout['stalls']}")  # fmt: skip
    taken = _taken(totals)
    shares = (
        f"{name} {100 * ratio(totals[key], taken):.0f} %"
        for name, key in (("viewers", "from_peers"), ("seeds", "from_seeds"),
                          ("origin", "from_origin"))
    )  # fmt: skip
    out.add_row("taken", f"{size(taken)}: " + "  ".join(shares))
    out.add_row("given", f"{size(totals['uploaded'])} to {counted(_children(state), 'node')}")
    verified, refused = totals["pieces_verified"], totals["pieces_refused"]
    out.add_row("pieces", f"{verified} verified, {refused} refused")
    for partner in state["partners"]:
        feeds = "".join("●" if s in partner["feeds_me"] else "·" for s in range(4))
        rtt = f"{partner['rtt_ms']:.0f} ms" if partner["rtt_ms"] is not None else "-"
        out.add_row(
            f"[dim]{partner['id']}[/]",
            f"{partner['role']:7} {feeds}  ↓ {partner['down_kbps']:6.0f}  "
            f"↑ {partner['up_kbps']:6.0f} kbit/s  {rtt}",
        )
    return out


def start_player(player: str, url: str, talk: Talk) -> subprocess.Popen[bytes] | None:
    """Open what the user wants to watch with. Raises `MissingHelper`."""
    if player == "none" or not url:
        return None
    if player == "browser":
        if not talk.as_json and not webbrowser.open(url):
            talk.say("No browser could be opened here: open the page yourself.")
        return None
    path = shutil.which(player)
    if path is None:
        raise MissingHelper(
            f"{player} is not installed", hint=f"Install {player}, or use --player browser."
        )
    options = {"mpv": ["--profile=low-latency", "--really-quiet"], "vlc": ["--quiet"]}[player]
    return subprocess.Popen(  # noqa: S603  # A fixed program and our own URL.
        [path, *options, f"{url}live/stream.mp4"],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def _taken(totals: dict[str, Any]) -> int:
    taken: int = totals["from_peers"] + totals["from_seeds"] + totals["from_origin"]
    return taken


def _children(state: dict[str, Any]) -> int:
    return sum(bool(partner["fed_by_me"]) for partner in state["partners"])
