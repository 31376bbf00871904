"""The gateway over real loopback sockets: what players get, and what everybody else gets.

G-01 ... are the cases of security/test-catalogue.md.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx2
import pytest
import trio

from p2pstream.errors import BadConfig, PortInUse
from p2pstream.node import gateway_guard, gateway_http
from p2pstream.node.gateway import (
    FEEDS_MAX,
    PAGE,
    TITLE_CHARS_MAX,
    Gateway,
    clean_title,
)
from p2pstream.node.gateway_guard import GUESSERS_MAX, GUESSES_BURST, GUESSES_PER_S, Guesses
from p2pstream.node.gateway_http import CONNECTIONS_MAX
from p2pstream.playback.hls import BEHIND_PARTS_MAX, LiveWindow
from p2pstream.stream.chunk import TICKS_PER_S, Chunk, Init
from tests.suites import SUITES, naughty_strings, needs

HASHES = [bytes([n]) * 16 for n in range(2)]
TOKEN = "a-token-of-22-characters"


class World:
    """A gateway, the window behind it, and a way to go on."""

    def __init__(self, **settings: Any) -> None:
        self.window = LiveWindow()
        for n, init_hash in enumerate(HASHES):
            init = Init(n, "360p", 640, 360, 1, "avc1.4d401e", b"<init %d>" % n)
            self.window.add_init(init, init_hash)
        self.state: dict[str, Any] = {"state": "live"}
        self.gateway = Gateway(self.window, lambda: self.state, **settings)
        self.seq = 0

    def play(self, chunks: int, *, init: int = 0, size: int = 0) -> None:
        for _ in range(chunks):
            key = self.seq % 10 == 0
            data = b"<%d>" % self.seq + bytes(size)
            ticks = TICKS_PER_S // 5
            pts = self.seq * ticks
            self.window.add(
                Chunk(
                    self.seq,
                    init,
                    HASHES[init],
                    pts,
                    ticks,
                    0,
                    key,
                    discontinuity=False,
                    pieces=(data,),
                )
            )
            self.seq += 1
        self.gateway.published()

    async def raw(self, request: bytes) -> bytes:
        """All that the gateway answers to these bytes."""
        stream = await trio.open_tcp_stream("127.0.0.1", self.gateway.port)
        async with stream:
            with trio.fail_after(20):
                try:
                    await stream.send_all(request)
                    return b"".join([data async for data in stream])
                except trio.BrokenResourceError:
                    return b""

    @asynccontextmanager
    async def listening(self, path: str) -> AsyncIterator[trio.SocketStream]:
        """The body of an endless answer; HTTP/1.0, so that it comes as it is."""
        request = self.request(path).replace(b"HTTP/1.1", b"HTTP/1.0")
        stream = await trio.open_tcp_stream("127.0.0.1", self.gateway.port)
        async with stream:
            await stream.send_all(request)
            await taken(stream, b"\r\n\r\n", at_once=1)
            yield stream

    def request(self, path: str = "/api/state", *headers: str, method: str = "GET") -> bytes:
        """A request as bytes, with the right Host, for this once only."""
        lines = [f"{method} {path} HTTP/1.1", f"Host: 127.0.0.1:{self.gateway.port}"]
        return "\r\n".join([*lines, "Connection: close", *headers, "", ""]).encode()


@asynccontextmanager
async def serving(**settings: Any) -> AsyncIterator[tuple[World, httpx2.AsyncClient]]:
    world = World(**settings)
    async with trio.open_nursery() as nursery:
        url = await nursery.start(world.gateway.serve)
        async with httpx2.AsyncClient(base_url=url, timeout=20) as client:
            yield world, client
        world.gateway.stop()


# Players.


async def test_a_player_finds_its_way_from_the_playlist_to_the_bytes() -> None:
    async with serving() as (world, client):
        world.play(12)

        variants = (await client.get("live/index.m3u8")).text
        playlist = await client.get("live/" + variants.splitlines()[-1])
        init = re.findall(r'MAP:URI="(.*)"', playlist.text)[0]

        assert playlist.headers["content-type"] == "application/vnd.apple.mpegurl"
        assert (await client.get("live/" + init)).content == b"<init 0>"
        assert (await client.get("live/0.m4s")).content == b"".join(b"<%d>" % n for n in range(10))
        assert (await client.get("live/1.1.m4s")).content == b"<11>"
        assert (await client.head("live/0.m4s")).headers["content-length"] == "30"
        for missing in ["1.m4s", "9.m4s", "1.7.m4s", "00.mp4", "000.mp4", "x.m4s", "-1.m4s", ""]:
            assert (await client.get("live/" + missing)).status_code == 404, missing


async def test_a_reload_is_held_until_the_part_is_there() -> None:
    async with serving() as (world, client), trio.open_nursery() as nursery:
        world.play(3)
        answers: list[str] = []

        async def reload() -> None:
            answer = await client.get("live/stream.m3u8?_HLS_msn=0&_HLS_part=3")
            answers.append(answer.text)

        nursery.start_soon(reload)
        await trio.sleep(0.2)
        assert not answers
        world.play(1)
        await until(lambda: bool(answers))

        assert '"0.3.m4s"' in answers[0]


async def test_a_playlist_for_somebody_new_is_held_until_a_segment_is_complete() -> None:
    async with serving() as (world, client), trio.open_nursery() as nursery:
        world.play(3)
        answers: list[str] = []

        async def load() -> None:
            answers.append((await client.get("live/stream.m3u8")).text)

        nursery.start_soon(load)
        await trio.sleep(0.2)
        assert not answers
        world.play(7)
        await until(lambda: bool(answers))

        assert answers[0].count(".m4s\n") == 1


async def test_a_hinted_part_is_held_and_one_that_never_comes_is_not_found() -> None:
    async with serving() as (world, client), trio.open_nursery() as nursery:
        world.play(3)
        answers: list[tuple[int, bytes]] = []

        async def ask() -> None:
            answer = await client.get("live/" + "{}.{}.m4s".format(*world.window.hint() or ()))
            answers.append((answer.status_code, answer.content))

        nursery.start_soon(ask)
        await trio.sleep(0.2)
        world.play(1)
        await until(lambda: len(answers) == 1)
        nursery.start_soon(ask)
        await trio.sleep(0.2)
        world.play(1, init=1)
        await until(lambda: len(answers) == 2)

        assert answers == [(200, b"<3>"), (404, b"")]


@pytest.mark.parametrize("query", ["_HLS_part=1", "_HLS_msn=x", "_HLS_msn=-1", "_HLS_msn=9"])
async def test_a_senseless_reload_is_refused_at_once(query: str) -> None:
    async with serving() as (world, client):
        world.play(12)

        assert (await client.get("live/stream.m3u8?" + query)).status_code == 400


async def test_the_endless_file_starts_at_the_key_chunk_and_repeats_a_new_init() -> None:
    async with serving() as (world, _):
        world.play(12)
        async with world.listening("/live/stream.mp4") as feed:
            assert await taken(feed, b"<11>") == b"<init 0><10><11>"
            world.play(1, init=1)
            assert await taken(feed, b"<12>") == b"<init 1><12>"
            world.window.end()
            world.gateway.published()
            assert await feed.receive_some() == b""


async def test_a_reader_that_stalls_goes_on_at_the_live_edge() -> None:
    async with serving() as (world, _):
        world.play(1)
        stream = await trio.open_tcp_stream("127.0.0.1", world.gateway.port)
        async with stream:
            await stream.send_all(world.request("/live/stream.mp4"))
            await trio.sleep(0.1)
            for _ in range(100):
                world.play(1, size=200_000)
                await trio.sleep(0.01)
            seen, newest = b"", b"<%d>" % (world.seq - 1)
            with trio.fail_after(10):
                while newest not in seen:
                    seen += await stream.receive_some(1 << 20)

        got = [int(n) for n in re.findall(rb"<(\d+)>", seen)]
        jumps = [(a, b) for a, b in pairwise(got) if b != a + 1]
        assert jumps, "some of 20 MB was skipped"
        assert all(b % 10 == 0 or b - a > BEHIND_PARTS_MAX for a, b in jumps), "to a key chunk"
        assert got == sorted(got)


async def test_the_state_comes_once_and_as_events() -> None:
    async with serving() as (world, client):
        assert (await client.get("api/state")).json() == {"state": "live"}
        async with world.listening("/api/events") as feed:
            assert json.loads((await taken(feed, b"\n\n"))[6:]) == {"state": "live"}
            world.state = {"state": "ended"}
            assert json.loads((await taken(feed, b"\n\n"))[6:]) == {"state": "ended"}


async def test_events_stop_when_the_client_leaves() -> None:
    async with serving() as (world, _):
        async with world.listening("/api/events") as feed:
            await taken(feed, b"\n\n")
            assert world.gateway._feeds == 1

        await until(lambda: world.gateway._feeds == 0)


async def test_the_page_and_its_files_are_there_and_guarded() -> None:
    async with serving(title="Harbour") as (_, client):
        page = await client.get("")
        for path in re.findall(r'(?:href|src)="(web/.*?)"', page.text):
            assert (await client.get(path)).status_code == 200
        for name, mime in PAGE.items():
            answer = await client.get(f"web/{name}")
            assert answer.headers["content-type"] == mime
            assert answer.headers["x-content-type-options"] == "nosniff"

        assert "<title>Harbour" in page.text
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert "unsafe" not in page.headers["content-security-policy"]
        assert page.headers["cross-origin-resource-policy"] == "same-origin"
        assert page.headers["referrer-policy"] == "no-referrer"
        assert page.headers["cache-control"] == "no-store"
        assert (await client.get("favicon.ico")).status_code == 200
        assert not re.search(r"<script(?![^>]*src)|\son\w+=|style=", page.text), "nothing inline"
        assert not re.search(r'(?:href|src)="(?!web/)', page.text), "nothing from elsewhere"


# Everybody else.


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "",
        "127.0.0.1.nip.io:PORT",
        "localhost.evil:PORT",
        "localhost",
        "localhost:1",
        "127.0.0.1:PORT@evil.example",
        "evil.example:PORT",
        "10.0.0.1:PORT",
        "short.localhost:PORT",
    ],
)
async def test_a_foreign_host_is_refused_before_any_handler_g_01(host: str) -> None:
    async with serving() as (world, _):
        name = host.replace("PORT", str(world.gateway.port))
        answer = await world.raw(
            f"GET /api/state HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n".encode()
        )

        assert status(answer) in {400, 421}
        assert b"live" not in answer


async def test_hosts_that_are_ours_are_served_g_01() -> None:
    async with serving() as (world, _):
        port = world.gateway.port
        for name in ["localhost", "127.0.0.1", "[::1]", "a2" * 26 + ".localhost"]:
            head = f"GET /api/state HTTP/1.1\r\nHost: {name}:{port}\r\nConnection: close\r\n\r\n"
            assert status(await world.raw(head.encode())) == 200, name


async def test_two_hosts_or_none_are_refused_g_01() -> None:
    async with serving() as (world, _):
        port = world.gateway.port
        two = f"GET / HTTP/1.1\r\nHost: localhost:{port}\r\nHost: localhost:{port}\r\n\r\n"

        assert status(await world.raw(two.encode())) == 400
        assert status(await world.raw(b"GET / HTTP/1.1\r\n\r\n")) == 400
        assert status(await world.raw(b"GET / HTTP/1.0\r\n\r\n")) == 421


async def test_pages_of_other_origins_get_nothing_g_02() -> None:
    async with serving(allow_origins=["http://friend.example"]) as (world, client):
        world.play(12)
        for origin in ["http://evil.example", "null", "http://localhost:1", "https://127.0.0.1"]:
            foreign = {"origin": origin}
            for method in ["GET", "POST", "OPTIONS"]:
                answer = await client.request(method, "api/state", headers=foreign)
                assert answer.status_code == 403
                assert not answer.content
                assert "access-control-allow-origin" not in answer.headers
        for site in ["cross-site", "same-site"]:
            embeds = {
                "sec-fetch-site": site,
                "sec-fetch-mode": "no-cors",
                "sec-fetch-dest": "video",
            }
            assert (await client.get("live/stream.mp4", headers=embeds)).status_code == 403
        follows = {
            "sec-fetch-site": "cross-site",
            "sec-fetch-mode": "navigate",
            "sec-fetch-dest": "document",
        }
        assert (await client.get("", headers=follows)).status_code == 200
        assert (await client.get("api/state", headers=follows)).status_code == 403
        upgrade = world.request("/api/events", "Upgrade: websocket", "Sec-WebSocket-Version: 13")
        assert status(await world.raw(upgrade)) == 400


async def test_an_allowed_origin_may_read_and_ask_beforehand_g_02() -> None:
    async with serving(allow_origins=["http://friend.example"]) as (world, client):
        world.play(12)
        friend = {"origin": "http://friend.example", "sec-fetch-site": "cross-site"}
        own = {"origin": world.gateway.url.rstrip("/")}

        answer = await client.get("live/0.m4s", headers=friend)
        asked = await client.options("live/0.m4s", headers=friend)

        assert answer.headers["access-control-allow-origin"] == "http://friend.example"
        assert asked.status_code == 204
        assert asked.headers["access-control-allow-private-network"] == "true"
        assert (await client.post("live/0.m4s", headers=friend)).status_code == 405
        ours = await client.get("live/0.m4s", headers=own)
        assert ours.status_code == 200
        assert "access-control-allow-origin" not in ours.headers


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
async def test_there_is_nothing_but_reading(method: str) -> None:
    async with serving() as (_, client):
        assert (await client.request(method, "api/state")).status_code == 405


@pytest.mark.parametrize(
    "path",
    [
        "/live/../../etc/passwd",
        "/web/../gateway.py",
        "/web/%2e%2e%2fgateway.py",
        "/web/%252e%252e%252fgateway.py",
        "/web/..\\gateway.py",
        "/web/..%5cgateway.py",
        "/web/style.css%00.js",
        "/web/%c0%ae%c0%ae%c0%afgateway.py",
        "/live/%ff.m4s",
        "/live/\u0661.m4s",
        "//etc/passwd",
        "/web/",
        "/web",
        "/live/" + "9" * 8192,
        "/live/%0d%0aSet-Cookie:x=1.m4s",
    ],
)
async def test_no_path_leaves_the_table_and_no_file_is_opened_g_04(path: str) -> None:
    async with serving() as (world, _):
        world.play(12)
        with opened_files() as opened:
            answer = await world.raw(world.request(path))

        assert status(answer) in {400, 404, 414}
        assert answer.endswith((b"\r\n\r\n", b"Not Found"))
        assert not opened


def test_other_addresses_need_to_be_meant_and_guarded_g_05() -> None:
    for binds in (["0.0.0.0"], ["::"], ["192.168.1.2"]):
        with pytest.raises(BadConfig) as refusal:
            World(binds=binds)
        assert "--expose" in refusal.value.hint
        with pytest.raises(BadConfig):
            World(binds=binds, expose=True, token="short")
    with pytest.raises(BadConfig):
        World(binds=["example.org"], expose=True, token=TOKEN)
    with pytest.raises(BadConfig):
        World(token="has/slash")


async def test_an_exposed_gateway_answers_only_below_its_token_g_05() -> None:
    async with serving(binds=["127.0.0.2"], expose=True, token=TOKEN) as (world, client):
        world.play(12)

        assert world.gateway.url.endswith(f"/{TOKEN}/")
        assert (await client.get("live/stream.m3u8")).status_code == 200
        outside = f"http://127.0.0.2:{world.gateway.port}"
        assert (await client.get(f"{outside}/{TOKEN}/live/0.m4s")).status_code == 200
        assert (await client.get(f"{outside}/live/0.m4s")).status_code == 401
        assert (await client.get(f"{outside}/{TOKEN[:-1]}/live/0.m4s")).status_code == 401
        named = {"host": f"evil.example:{world.gateway.port}"}
        assert (await client.get("live/0.m4s", headers=named)).status_code == 421


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize("path", ["", f"{TOKEN}/", "wrong/", f"{TOKEN}x/", f"{TOKEN.upper()}/"])
async def test_nothing_can_be_changed_with_any_token_g_03(method: str, path: str) -> None:
    """There is no control to ask for: not with a token in the path, nor with one in a header."""
    bearer = {"authorization": f"Bearer {TOKEN}"}
    async with serving(binds=["127.0.0.2"], expose=True, token=TOKEN) as (world, client):
        before = dict(world.state)
        url = f"http://127.0.0.1:{world.gateway.port}/{path}api/state"
        for headers in ({}, bearer):
            for body, status in ((b"", 405), (b"{}", 413)):  # What has a body is not even read.
                answer = await client.request(method, url, headers=headers, content=body)
                assert (answer.status_code, answer.content) == (status, b"")
        assert world.state == before


async def test_who_guesses_tokens_gets_one_and_the_same_answer_g_03(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing in it tells how near a guess was, and the owner is served all along."""
    monkeypatch.setattr(gateway_guard, "GUESSES_BURST", 1000)
    guesses = [TOKEN[:size] for size in range(len(TOKEN))]
    guesses += [TOKEN[:size] + "x" * (len(TOKEN) - size) for size in range(len(TOKEN))]
    guesses += [TOKEN + "x", TOKEN.upper()]
    guesses += [f"{number:022}" for number in range(100)]
    async with serving(binds=["127.0.0.2"], expose=True, token=TOKEN) as (world, client):
        url = f"http://127.0.0.1:{world.gateway.port}"
        answers = set()
        for guess in guesses:
            answer = await client.get(f"{url}/{guess}/api/state")
            told = {k: v for k, v in answer.headers.items() if k != "date"}
            answers.add((answer.status_code, answer.content, tuple(sorted(told.items()))))
        assert [(status, body) for status, body, _ in answers] == [(401, b"")]
        assert (await client.get(f"{url}/{TOKEN}/api/state")).status_code == 200


async def test_who_guesses_tokens_may_try_only_so_often_g_03(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After that not even the right one is looked at. Owners are elsewhere, and served."""
    monkeypatch.setattr(gateway_guard, "GUESSES_PER_S", 0.0001)
    async with serving(binds=["127.0.0.2"], expose=True, token=TOKEN) as (world, owner):
        url = f"http://127.0.0.1:{world.gateway.port}"
        elsewhere = httpx2.AsyncHTTPTransport(local_address="127.0.0.3")
        async with httpx2.AsyncClient(transport=elsewhere) as guesser:
            guesses = [f"{number:022}" for number in range(2 * GUESSES_BURST)] + [TOKEN]
            answers = [await guesser.get(f"{url}/{guess}/api/state") for guess in guesses]
        assert [answer.status_code for answer in answers[:GUESSES_BURST]] == [401] * GUESSES_BURST
        assert {answer.status_code for answer in answers[GUESSES_BURST:]} == {429}
        assert (await owner.get("api/state")).status_code == 200


def test_guessers_are_told_apart_and_forgotten_g_03() -> None:
    guesses = Guesses()
    for number in range(GUESSERS_MAX + 5):
        for _ in range(GUESSES_BURST):
            guesses.note((f"10.0.{number // 256}.{number % 256}", 1), now=0)
    assert len(guesses._buckets) == GUESSERS_MAX
    assert guesses.may_try(("10.0.0.4", 1), now=0)
    assert not guesses.may_try(("10.0.0.5", 2), now=0)
    assert guesses.may_try(("10.0.0.5", 2), now=1 / GUESSES_PER_S)
    for host in range(GUESSES_BURST):
        guesses.note((f"2001:db8::{host}", 1), now=0)
    assert not guesses.may_try(("2001:db8::ffff", 1), now=0)
    assert guesses.may_try(("2001:db8:0:1::1", 1), now=0)


async def test_a_port_that_is_taken_is_said_so() -> None:
    async with serving() as (world, _):
        second = World(port=world.gateway.port)
        with pytest.raises(PortInUse):
            await second.gateway.serve()


MALFORMED = {
    "both lengths": "GET / HTTP/1.1\r\nHost: HOST\r\nContent-Length: 3\r\n"
    "Transfer-Encoding: chunked\r\n\r\n",
    "chunked": "GET / HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": "GET / HTTP/1.1\r\nHost: HOST\r\nContent-Length: 0\r\nContent-Length: 5\r\n\r\n",
    "a body": "GET / HTTP/1.1\r\nHost: HOST\r\nContent-Length: 99999999\r\n\r\n",
    "connect": "CONNECT evil.example:443 HTTP/1.1\r\nHost: HOST\r\n\r\n",
    "absolute form": "GET http://HOST/api/state HTTP/1.1\r\nHost: HOST\r\n\r\n",
    "h2c": "GET / HTTP/1.1\r\nHost: HOST\r\nConnection: Upgrade, HTTP2-Settings\r\n"
    "Upgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n",
    "http/2": "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "obs-fold": "GET / HTTP/1.1\r\nHost: HOST\r\nX: a\r\n b\r\nUpgrade: h2c\r\n\r\n",
    "10^4 headers": "GET / HTTP/1.1\r\nHost: HOST\r\n" + "X: y\r\n" * 10_000 + "\r\n",
    "a long header": "GET / HTTP/1.1\r\nHost: HOST\r\nX: " + "y" * 30_000 + "\r\n\r\n",
    "expect": "GET / HTTP/1.1\r\nHost: HOST\r\nExpect: 100-continue\r\n\r\n",
    "noise": "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
}


@pytest.mark.parametrize("request_text", MALFORMED.values(), ids=MALFORMED)
async def test_what_is_malformed_is_refused_and_the_line_closed_g_06(request_text: str) -> None:
    async with serving() as (world, client):
        host = f"127.0.0.1:{world.gateway.port}"
        answer = await world.raw(request_text.replace("HOST", host).encode("latin-1"))

        assert 400 <= status(answer) < 500
        assert answer.count(b"HTTP/1.1") == 1
        assert (await client.get("api/state")).status_code == 200


@needs("llhttp")
async def test_the_llhttp_suite_gets_no_answer_that_it_should_not_g_06() -> None:
    async with serving() as (world, client):
        for name, request, must_fail in llhttp_cases():
            answer = await brief(world, request)
            # Their Host is never ours, so whatever is let through ends at 421.
            assert b"HTTP/1.1 2" not in answer, name
            assert not (must_fail and b"HTTP/1.1 500" in answer), name
        assert (await client.get("api/state")).status_code == 200


@needs("blns")
async def test_naughty_strings_in_every_place_are_no_trouble_g_06() -> None:
    """As path, as query and as headers, each on one line."""
    async with serving() as (world, client):
        world.play(12)
        for text in naughty_strings():
            bare = " ".join(text.split()).encode()
            where, host = bare.replace(b" ", b"+"), b"127.0.0.1:%d" % world.gateway.port
            request = b"GET /%s?x=%s HTTP/1.1\r\nHost: %s\r\nRange: %s\r\nX: %s\r\n\r\n"
            answer = await brief(world, request % (where, where, host, bare, bare))
            assert status(answer) in {200, 400, 404, 414}, text
        assert (await client.get("api/state")).status_code == 200


@needs("blns")
def test_naughty_titles_stay_within_their_line_g_07() -> None:
    for text in naughty_strings():
        title = clean_title(text)
        assert len(title) <= TITLE_CHARS_MAX
        assert title.isprintable()


async def brief(world: World, request: bytes) -> bytes:
    """The answer to bytes that may be a request or only its beginning."""
    stream = await trio.open_tcp_stream("127.0.0.1", world.gateway.port)
    async with stream:
        try:
            await stream.send_all(request)
            await stream.send_eof()
            with trio.fail_after(5):
                return b"".join([data async for data in stream])
        except trio.BrokenResourceError:
            return b""


def llhttp_cases() -> Iterator[tuple[str, bytes, bool]]:
    """(name, bytes, whether llhttp reports an error) of every request of the suite."""
    for path in sorted(SUITES.glob("llhttp/test/request/*.md")):
        blocks = re.findall(r"```http\n(.*?)```\s*```log\n(.*?)```", path.read_text(), re.DOTALL)
        for number, (text, log) in enumerate(blocks):
            raw = text.replace("\\\n", "").replace("\n", "\r\n").replace("\\r", "\r")
            raw = raw.replace("\\n", "\n").replace("\\t", "\t").replace("\\f", "\f")
            yield f"{path.stem} {number}", raw.encode("latin-1", "replace"), "error code" in log


@pytest.mark.parametrize(
    "title",
    ['"><script>alert(1)</script>', "a\n#EXT-X-KEY:URI=http://x", "x" * 1_000_000, "\0\x1b[31m"],
)
async def test_a_title_is_one_short_line_of_text_g_07(title: str) -> None:
    async with serving(title=title) as (world, client):
        world.play(12)

        page = (await client.get("")).text
        playlists = (await client.get("live/index.m3u8")).text
        playlists += (await client.get("live/stream.m3u8")).text

        assert "<script>alert" not in page
        assert len(page) < 20_000
        assert "EXT-X-KEY" not in playlists
        assert len(clean_title(title)) <= TITLE_CHARS_MAX
        assert clean_title(title).isprintable()


async def test_slow_readers_do_not_slow_a_player_g_08() -> None:
    async with serving() as (world, client):
        world.play(10, size=400_000)
        readers = []
        for _ in range(64):
            reader = await trio.open_tcp_stream("127.0.0.1", world.gateway.port)
            readers.append(reader)
            await reader.send_all(world.request("/live/0.m4s"))
        await trio.sleep(0.3)
        waits = []
        for _ in range(50):
            world.play(1)
            began = trio.current_time()
            assert (await client.get("live/stream.m3u8")).status_code == 200
            waits.append(trio.current_time() - began)
        for reader in readers:
            await trio.aclose_forcefully(reader)

    assert sorted(waits)[-2] < 0.5, "about 5 ms on an idle machine"


async def test_endless_answers_leave_room_for_others_g_08() -> None:
    async with serving() as (world, client), trio.open_nursery() as nursery:
        for _ in range(FEEDS_MAX):
            reader = await trio.open_tcp_stream("127.0.0.1", world.gateway.port)
            nursery.start_soon(hold, reader)
            await reader.send_all(world.request("/api/events"))
        await until(lambda: world.gateway._feeds == FEEDS_MAX)

        assert (await client.get("api/events")).status_code == 503
        assert (await client.get("api/state")).status_code == 200
        nursery.cancel_scope.cancel()


async def hold(stream: trio.SocketStream) -> None:
    async with stream:
        await trio.sleep_forever()


async def test_a_reader_that_takes_nothing_is_dropped_in_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gateway_http, "SEND_S_MAX", 0.3)
    async with serving() as (world, _):
        world.play(10, size=2_000_000)
        reader = await trio.open_tcp_stream("127.0.0.1", world.gateway.port)
        await reader.send_all(world.request("/live/0.m4s"))
        await trio.sleep(1)

        got = 0
        with trio.fail_after(5), suppress(trio.BrokenResourceError):
            while data := await reader.receive_some(1 << 20):
                got += len(data)
        await reader.aclose()

    assert got < 20_000_000, "the rest was not kept for it"


async def test_a_client_that_never_finishes_asking_is_dropped_in_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gateway_http, "HEADER_S_MAX", 0.5)
    async with serving() as (world, _):
        stream = await trio.open_tcp_stream("127.0.0.1", world.gateway.port)
        async with stream:
            with trio.fail_after(5):
                for byte in b"GET / HTTP/1.1\r\nX: " + b"y" * 100:
                    await stream.send_all(bytes([byte]))
                    with trio.move_on_after(0.05):
                        if not await stream.receive_some():
                            return
    pytest.fail("it could dribble for ever")


async def test_rude_clients_leave_nothing_behind_g_10(capfd: pytest.CaptureFixture[str]) -> None:
    async with serving() as (world, client):
        world.play(10, size=300_000)
        await client.get("api/state")
        before = open_sockets()
        for n in range(40):
            reset = await trio.open_tcp_stream("127.0.0.1", world.gateway.port)
            linger_0 = b"\1\0\0\0\0\0\0\0"  # A close becomes a reset.
            reset.socket.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, linger_0)
            await reset.send_all(world.request(["/live/0.m4s", "/live/stream.mp4"][n % 2]))
            await reset.receive_some(1000)
            reset.socket.close()
        half = await brief(world, world.request("/live/0.0.m4s"))
        for _ in range(1000):
            silent = await trio.open_tcp_stream("127.0.0.1", world.gateway.port)
            silent.socket.close()
        await until(lambda: open_sockets() <= before)

        assert half.startswith(b"HTTP/1.1 200"), "who closes only its half gets an answer"
        assert (await client.get("api/state")).status_code == 200
    assert capfd.readouterr().err == ""


async def test_connections_are_bounded_and_the_idle_make_room_g_10() -> None:
    async with serving() as (world, client):
        before = open_sockets()
        silent = [
            await trio.open_tcp_stream("127.0.0.1", world.gateway.port)
            for _ in range(3 * CONNECTIONS_MAX)
        ]
        assert (await client.get("api/state")).status_code == 200

        ours = before + len(silent) + 1  # The client's.
        with trio.fail_after(gateway_http.HEADER_S_MAX / 2):
            await until(lambda: open_sockets() - ours <= CONNECTIONS_MAX)
        for stream in silent:
            await trio.aclose_forcefully(stream)


async def test_requests_one_behind_the_other_are_answered_in_order() -> None:
    async with serving() as (world, _):
        world.play(12)
        keep = world.request("/live/0.0.m4s").replace(b"Connection: close\r\n", b"")

        answer = await world.raw(keep + keep + world.request("/live/0.1.m4s"))

        assert re.findall(rb"<\d+>", answer) == [b"<0>", b"<0>", b"<1>"]


async def test_stopping_does_not_wait_for_anybody() -> None:
    async with serving() as (world, _):
        world.play(10, size=2_000_000)
        readers = []
        for path in ["/live/0.m4s", "/live/stream.mp4", "/api/events", "/live/1.0.m4s"]:
            readers.append(await trio.open_tcp_stream("127.0.0.1", world.gateway.port))
            await readers[-1].send_all(world.request(path))
        await trio.sleep(0.2)
        began = trio.current_time()
    for reader in readers:
        await trio.aclose_forcefully(reader)

    assert trio.current_time() - began < 2


async def until(true: Callable[[], bool]) -> None:
    with trio.fail_after(10):
        while not true():  # noqa: ASYNC110 - there is no event for what a socket does.
            await trio.sleep(0.01)


async def taken(stream: trio.SocketStream, end: bytes, *, at_once: int = 4096) -> bytes:
    """What comes, up to `end`."""
    got = b""
    with trio.fail_after(10):
        while not got.endswith(end):
            got += await stream.receive_some(at_once)
    return got


def status(answer: bytes) -> int:
    match = re.match(rb"HTTP/1\.1 (\d{3}) ", answer)
    return int(match[1]) if match else 0


def open_sockets() -> int:
    """Of this process, gateway and clients."""
    found = 0
    for fd in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            found += str(fd.readlink()).startswith("socket:")
    return found


_opened: list[str] | None = None


@contextmanager
def opened_files() -> Iterator[list[str]]:
    """The files that anybody opens meanwhile, by an audit hook."""
    global _opened  # noqa: PLW0603 - audit hooks cannot be taken away, only ignored.
    if _opened is None:
        sys.addaudithook(_note)
    noted: list[str] = []
    _opened = noted
    yield noted
    _opened = []


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and _opened is not None:
        _opened.append(str(arguments[0]))
