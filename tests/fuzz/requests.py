"""What comes to the gateway's port: answered with a status that somebody chose, or not at all.

We write playlists and read none, so the requests for them are what is fuzzed. One input in 16 goes
all the way, through h11, the guard, the routes and the window, on a connection in memory and in
virtual time: 1 ms a request. The others go to the guard and no further, for a tenth of that.
"""

from __future__ import annotations

import random
import re
from zlib import crc32

import h11
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
CLIENT = "127.0.0.1", 50_000
NEXT = b"\xfe"  # Between two clients.
WHOLE = 16  # One input in so many goes all the way.
CLIENTS_MAX = 8
PARTS_MAX = 8  # In which a client says what it has to say: each costs as much as a request.
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
    if crc32(data) % WHOLE:  # Not a byte of the input: the fuzzer prefers what reaches more code.
        return max(1, sum(map(_knock, talks)))
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


class Seat:
    """As a socket, as far as anybody asks."""

    def getpeername(self) -> tuple[str, int]:
        return CLIENT


def _gateway() -> Gateway:
    window = LiveWindow()
    window.add_init(Init(0, "360p", 640, 360, 1, "avc1.4d401e", b"<init>"), HASH)
    ticks = TICKS_PER_S // 5
    for seq in range(12):
        window.add(
            Chunk(
                seq, 0, HASH, seq * ticks, ticks, 0, seq % 10 == 0, discontinuity=False,
                pieces=(b"<%d>" % seq,),
            )
        )  # fmt: skip
    return Gateway(window, lambda: {"state": "live"}, port=PORT)


GATEWAY = _gateway()
APPLICATION = GATEWAY._guard.before(GATEWAY._app(), PORT)


def _knock(talk: Bites) -> int:
    """What one client says, up to the guard; returns how many requests that were."""
    http = h11.Connection(h11.SERVER, max_incomplete_event_size=gateway_http.HEADER_BYTES_MAX)
    part, count, status = _part(talk), 0, 0
    while talk and not status:
        http.receive_data(talk.take(part))
        try:
            while isinstance(request := http.next_event(), h11.Request):
                count += 1
                status = _answer(http, request)
        except h11.RemoteProtocolError as error:
            count, status = count + 1, error.error_status_hint
    assert not status or b"%d" % status in STATUSES
    return count


def _answer(http: h11.Connection, request: h11.Request) -> int:
    """The status of a request that is the last one of its client; 0 for others."""
    if status := gateway_http._fault(request):
        return status
    refusal = GATEWAY._guard.refusal(gateway_http._scope(request, CLIENT), PORT)
    status = refusal.status_code if refusal else 200
    assert b"%d" % status in STATUSES
    http.send(h11.Response(status_code=status, headers=[("content-length", "0")]))
    http.send(h11.EndOfMessage())
    if http.their_state is h11.SEND_BODY:
        http.next_event()
    if http.their_state is h11.DONE and http.our_state is h11.DONE:
        http.start_next_cycle()
    return 0


async def _converse_all(talks: list[Bites]) -> bytes:
    return b"".join([await _converse(talk) for talk in talks])


async def _converse(talk: Bites) -> bytes:
    ours, theirs = memory_stream_pair()
    vars(ours)["socket"] = Seat()  # Now a stream in memory has all that is used of a socket.
    heard = bytearray()
    part = _part(talk)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(gateway_http._House(APPLICATION).welcome, ours)  # type: ignore[arg-type]
        nursery.start_soon(_hear, theirs, heard)
        while talk:
            try:
                await theirs.send_all(talk.take(part))
            except trio.BrokenResourceError:
                break
            await wait_all_tasks_blocked()
        if part & 1:
            await theirs.aclose()
        else:
            await theirs.send_eof()
    return bytes(heard)


def _part(talk: Bites) -> int:
    """The first byte says in how long parts it is said; odd: its sender waits for no answer."""
    return max(1, 7 * talk.number(), -(-len(talk) // PARTS_MAX))


async def _hear(stream: Stream, heard: bytearray) -> None:
    try:
        async for data in stream:
            heard.extend(data)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        return
