"""What comes to the gateway's port: answered with a status that somebody chose, or not at all.

We write playlists and read none, so the requests for them are what is fuzzed: through h11, the
guard, the routes and the window, on a connection in memory and in virtual time.
"""

from __future__ import annotations

import random
import re

import trio
from trio.testing import (
    MemoryReceiveStream,
    MemorySendStream,
    MockClock,
    memory_stream_pair,
    wait_all_tasks_blocked,
)

from p2pstream.node import gateway_http
from p2pstream.node.gateway import Gateway
from p2pstream.playback.hls import LiveWindow
from p2pstream.stream.chunk import TICKS_PER_S, Chunk, Init
from tests.fuzz.bites import Bites

STATUSES = {b"%d" % n for n in (200, 400, 403, 404, 405, 413, 414, 421, 431, 501, 503)}  # No 500.
PORT = 8080
HOST = b"127.0.0.1:%d" % PORT
NEXT = b"\xfe"  # Between two clients.
CLIENTS_MAX = 8
HASH = b"\xaa" * 16
PATHS = [
    "/", "/web/player.js", "/live/index.m3u8", "/live/stream.m3u8", "/live/stream.mp4",
    "/live/stream.m3u8?_HLS_msn=1&_HLS_part=1", "/live/0.m4s", "/live/0.1.m4s", "/live/1.2.m4s",
    f"/live/{HASH.hex()}.mp4", "/api/state", "/api/events", "/nothing",
]  # fmt: skip
HEADERS = [
    "Origin: http://@", "Origin: http://evil.example", "Content-Length: 0", "Connection: close",
    "Transfer-Encoding: chunked", "Upgrade: h2c", "Expect: 100-continue", "Range: bytes=0-1",
    "Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate",
]  # fmt: skip

Stream = trio.StapledStream[MemorySendStream, MemoryReceiveStream]


def one(data: bytes) -> int:
    """What some clients say, one after the other. `@` stands for our Host."""
    talks = [Bites(talk.replace(b"@", HOST)) for talk in data.split(NEXT)[:CLIENTS_MAX]]
    answers = trio.run(_converse_all, talks, clock=MockClock(autojump_threshold=0))
    statuses = re.findall(rb"HTTP/1\.1 ([0-9]*)", answers)
    assert set(statuses) <= STATUSES, answers[:200]
    return max(len(talks), len(statuses))


def seeds() -> list[bytes]:
    """What our page and players ask, and other methods, versions and headers."""
    heads = [f"GET {path} HTTP/1.1\r\nHost: @\r\n" for path in PATHS]
    heads += [f"{verb} / HTTP/1.0\r\nHost: @\r\n" for verb in ("HEAD", "POST", "OPTIONS")]
    heads += [f"GET / HTTP/1.1\r\nHost: @\r\n{header}\r\n" for header in HEADERS]
    rng = random.Random(1)
    talks = [b"\xf0" + (head + "\r\n").encode() * (1 + n % 5) for n, head in enumerate(heads)]
    return [*talks, *(NEXT.join(rng.sample(talks, CLIENTS_MAX)) for _ in talks)]


def _application() -> gateway_http.App:
    window = LiveWindow()
    window.add_init(Init(0, "360p", 640, 360, 1, "avc1.4d401e", b"<init>"), HASH)
    ticks = TICKS_PER_S // 5
    for seq in range(12):
        window.add(
            Chunk(
                seq, 0, HASH, seq * ticks, ticks, 0, seq % 10 == 0, discontinuity=False,
                data=b"<%d>" % seq,
            )
        )  # fmt: skip
    gateway = Gateway(window, lambda: {"state": "live"}, port=PORT)
    return gateway._guarded(gateway._app())


APPLICATION = _application()


async def _converse_all(talks: list[Bites]) -> bytes:
    return b"".join([await _converse(talk) for talk in talks])


async def _converse(talk: Bites) -> bytes:
    """The first byte says how it is said, and whether its sender waits for an answer."""
    ours, theirs = memory_stream_pair()
    heard = bytearray()
    manner = talk.number()
    async with trio.open_nursery() as nursery:
        # A stream in memory has all that is used of a socket.
        nursery.start_soon(gateway_http._House(APPLICATION).welcome, ours)  # type: ignore[arg-type]
        nursery.start_soon(_hear, theirs, heard)
        while talk:
            try:
                await theirs.send_all(talk.take(1 + 16 * (manner >> 1)))
            except trio.BrokenResourceError:
                break
            await wait_all_tasks_blocked()
        if manner & 1:
            await theirs.aclose()
        else:
            await theirs.send_eof()
    return bytes(heard)


async def _hear(stream: Stream, heard: bytearray) -> None:
    try:
        async for data in stream:
            heard.extend(data)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        return
