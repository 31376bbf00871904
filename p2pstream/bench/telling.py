"""How a measuring process and its parent talk: a set-up, and JSON lines about the cost."""

from __future__ import annotations

import json
import resource
import sys
from math import inf
from typing import Any

import msgspec
import trio

HOST = "127.0.0.1"
LINK_S = 30.0  # Until the others have started, all links stand, and all have subscribed.


class Setup(msgspec.Struct):
    """What one process is to do: pass on so many `bytes`, or for `seconds`.

    peer: id in hex and port of the node to send to, or of the relay. bits_per_s: 0 is as fast as
    it goes. whole: the relay is a node with a swarm, and proves and keeps what it passes on.
    """

    engine: str = "fast"
    peer: tuple[str, int] = ("", 0)
    sinks: int = 1
    bytes: int = 0
    seconds: float = inf
    bits_per_s: float = 0.0
    whole: bool = False


async def line() -> str:
    """What the parent says next; nothing at the end."""
    return await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True)


def say(what: dict[str, Any]) -> None:
    """Tell the parent."""
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def cost() -> tuple[float, float]:
    """Seconds of processor time of this process, and of the clock."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime, trio.current_time()


def since(began: tuple[float, float], size: int) -> dict[str, float]:
    """What `size` bytes have cost since then."""
    cpu_s, wall_s = cost()
    return {"bytes": size, "cpu_s": cpu_s - began[0], "wall_s": wall_s - began[1]}
