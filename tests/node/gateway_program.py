"""A gateway with a live source behind it, as a process of its own: for browsers and players.

Prints its URL, then obeys lines on standard input: `silence`, `resume`, `end`. Ends with it.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
import threading
import time
from functools import partial
from typing import Any

import trio

from p2pstream.node.gateway import Gateway
from p2pstream.playback.hls import LiveWindow
from p2pstream.stream.chunk import Chunk, Init
from tests.node import gateway_source

ROLES = ["origin", "seed", "seed", *["viewer"] * 7]
NODES = [f"{0xA1B2C3D4 * (n + 3) & 0xFFFFFFFF:08x}" for n in range(len(ROLES))]
ME = 4
FEEDS = [(0, 1), (0, 2), (0, 3), (1, ME), (2, ME), (3, ME), (3, 5), (ME, 5), (ME, 6), (1, 6)]
FEEDS += [(2, 7), (5, 7), (6, 8), (5, 8), (7, 9), (ME, 9)]


class Show:
    """What the page shows: a little world whose numbers wander."""

    def __init__(self, window: LiveWindow, renditions: list[Init], title: str) -> None:
        self.title = title
        self.state = "live"
        self.detail = ""
        self.window = window
        self.renditions = renditions
        self.silent = False
        self._began = time.perf_counter()
        self._rng = random.Random(7)
        self._totals = {"peers": 0, "seeds": 0, "origin": 0, "uploaded": 0}

    def add(self, chunk: Chunk) -> None:
        if self.silent or self.window.ended:
            return
        self.window.add(chunk)
        size = len(chunk.data)
        self._totals["peers"] += size * 78 // 100
        self._totals["seeds"] += size * 14 // 100
        self._totals["origin"] += size * 8 // 100
        self._totals["uploaded"] += size * 164 // 100

    def __call__(self) -> dict[str, Any]:
        at = time.perf_counter() - self._began
        current = self.window.current
        totals = self._totals
        return {
            "version": "0.1.0",
            "state": self.state if current else "joining",
            "detail": self.detail if current else "asking 3 seeds for partners",
            "stream": {"id": "abcdefghijklmnopqrstuvwxyz234567" + "a" * 20, "title": self.title},
            "started_s": at,
            "playout": {
                "lag_s": 0.9 + 0.15 * math.sin(at / 5),
                "buffer_s": 0.5 + 0.1 * math.sin(at / 3),
                "stalls": 0,
                "stall_s": 0.0,
                "skipped": 0,
                "startup_s": 0.4,
            },
            "rendition": _shown(current) if current else None,
            "renditions": [_shown(init) for init in self.renditions],
            "me": {"id": NODES[ME], "role": "viewer"},
            "partners": [self._partner(n) for n in (1, 2, 3, 5, 6, 9)],
            "totals": {
                "from_peers": totals["peers"],
                "from_seeds": totals["seeds"],
                "from_origin": totals["origin"],
                "uploaded": totals["uploaded"],
                "duplicates": totals["peers"] // 90,
                "control": totals["peers"] // 60,
                "pieces_verified": sum(totals.values()) // 16384,
                "pieces_refused": 0,
            },
            "graph": {
                "nodes": [
                    {"id": NODES[n], "role": role, "me": n == ME} for n, role in enumerate(ROLES)
                ],
                "links": [
                    {"from": NODES[a], "to": NODES[b], "kbps": 200.0 + 90 * ((a * 7 + b) % 9)}
                    for a, b in FEEDS
                ],
            },
        }

    def _partner(self, n: int) -> dict[str, Any]:
        feeds_me, fed_by_me = (n, ME) in FEEDS, (ME, n) in FEEDS
        return {
            "id": NODES[n],
            "role": ROLES[n],
            "rtt_ms": 3.1 + 9 * n + self._rng.random(),
            "down_kbps": 330.0 + 40 * self._rng.random() if feeds_me else 0.0,
            "up_kbps": 410.0 + 60 * self._rng.random() if fed_by_me else 0.0,
            "hops": {1: 1, 2: 1, 3: 1, 5: 2, 6: 2, 9: 3}[n],
            "feeds_me": [n % 4, (n + 2) % 4] if feeds_me else [],
            "fed_by_me": [n % 4] if fed_by_me else [],
            "parents": [NODES[a] for a, b in FEEDS if b == n],
        }


def _shown(init: Init) -> dict[str, Any]:
    return {
        "id": init.rendition,
        "name": init.name,
        "width": init.width,
        "height": init.height,
        "bitrate": init.bitrate,
        "codecs": init.codecs,
    }


async def main(arguments: argparse.Namespace) -> None:
    window = LiveWindow()
    renditions: list[Init] = []
    show = Show(window, renditions, arguments.title)
    gateway = Gateway(
        window,
        show,
        title=arguments.title,
        port=arguments.port,
        allow_origins=arguments.allow_origin,
    )
    stop = threading.Event()

    def on_init(init: Init, init_hash: bytes) -> None:
        renditions.append(init)
        window.add_init(init, init_hash)

    def on_chunk(chunk: Chunk) -> None:
        show.add(chunk)
        gateway.published()

    token = trio.lowlevel.current_trio_token()
    produce = partial(
        gateway_source.live,
        lambda init, init_hash: token.run_sync_soon(on_init, init, init_hash),
        lambda chunk: token.run_sync_soon(on_chunk, chunk),
        stop,
        switch_s=arguments.switch_s,
        rungs=gateway_source.RUNGS if arguments.switch_s else gateway_source.RUNGS[:1],
    )
    async with trio.open_nursery() as nursery:
        url = await nursery.start(gateway.serve)
        nursery.start_soon(trio.to_thread.run_sync, produce)
        print(url, flush=True)
        await obey(show, gateway)
        stop.set()
        gateway.stop()


async def obey(show: Show, gateway: Gateway) -> None:
    async for line in trio.wrap_file(sys.stdin):
        command = line.strip()
        if command in {"silence", "resume"}:
            show.silent = command == "silence"
            show.state = "waiting" if show.silent else "live"
            show.detail = "The broadcaster sends nothing." if show.silent else ""
        elif command == "end":
            show.state = "ended"
            show.window.end()
            gateway.published()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--title", default="Harbour cam")
    parser.add_argument("--switch-s", type=float, default=0)
    parser.add_argument("--allow-origin", action="append", default=[])
    trio.run(main, parser.parse_args())
